"""Input perturbation (ODIN, Liang et al. 2018; Vyas et al. 2018): move an image a little towards
what the network believes.

ID images gain more confidence from the step than OOD images do, which widens the gap between their
scores."""

import torch
from torch.nn import functional as F


def perturb(network, images, epsilon, temperature, std):
    """Images (N, 3, S, S), normalised by `std` -> x - epsilon * sign(-grad_x log S(x; T)) (Liang et
    al. 2018, eq. 2).

    S(x; T) is the largest softmax probability at temperature T. `epsilon` is in units of pixels in
    [0, 1], so it is divided by each channel's `std` (3,); the authors' code divides by rounded
    CIFAR values for every data set. The network must be in eval mode; its parameters gain no
    gradient."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        logits = network(images) / temperature
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    step = epsilon / torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images - step * gradient.sign()).detach()
