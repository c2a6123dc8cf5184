"""training/mixing.py: mixed images and targets are torchvision's by the same draws, and the draws
are of the distributions that the papers name."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms import v2

from training import mixing, parts, recipes
from training.mixing import Box, Mixing

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5


def batch(count=16, size=32):
    """Images of noise and their labels."""
    noise = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=noise)
    return images, torch.randint(CLASSES, (count,), generator=noise)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kept_by_target(images, labels, mix, seeds):
    """The share of each batch's own labels, one number a seed."""
    own = torch.arange(len(labels))
    other = labels != labels.roll(1)
    shares = []
    for seed in seeds:
        _, targets = mix(images, labels, generator(seed))
        shares.append(targets[own, labels][other][0].item())
    return np.array(shares)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_mixup_is_torchvisions_by_the_same_lambda(kept, monkeypatch):
    images, labels = batch()
    before = images.clone()
    mix = Mixing(CLASSES, mixup=0.2)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Draws(kept))
    found = mix(images, labels, generator())
    theirs = v2.MixUp(num_classes=CLASSES)
    theirs.make_params = lambda _: {"lam": kept}
    for one, other in zip(found, theirs(images, labels), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(images, before)


class Draws:
    """In place of numpy's generator: a lambda, and the middle of a box."""

    def __init__(self, kept, middle=(0, 0)):
        self.kept = kept
        self.middle = middle

    def random(self):
        return 0.0

    def beta(self, one, other):
        return self.kept

    def integers(self, below, /, **_):
        return np.array(self.middle)


@pytest.mark.parametrize("size", [8, 32, 33])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.4), (0.99, 0.2)])
def test_cutmix_is_torchvisions_by_the_same_lambda_and_middle(size, kept, place, monkeypatch):
    images, labels = batch(size=size)
    before = images.clone()
    y, x = (int(share * size) for share in place)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Draws(kept, (y, x)))
    found = Mixing(CLASSES, cutmix=1.0)(images, labels, generator())

    theirs = v2.CutMix(num_classes=CLASSES)
    theirs._dist.sample = lambda shape: torch.tensor([kept], dtype=torch.float64)
    drawn = iter([torch.tensor([x]), torch.tensor([y])])  # the column first
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(drawn))
    expected = theirs(images, labels)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert torch.equal(images, before)


def test_the_targets_of_cutmix_are_shares_of_the_pixels():
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    labels = torch.arange(6)
    mix = Mixing(6, cutmix=1.0)
    for seed in range(50):
        found, targets = mix(images, labels, generator(seed))
        for image, target in zip(found, targets, strict=True):
            shares = torch.bincount(image[0].flatten().long(), minlength=6) / 256
            torch.testing.assert_close(target, shares)


def test_a_box_is_cut_off_at_the_edges():
    draw = Draws(0.75, (1, 30))  # a side of 16 pixels of 32
    assert mixing.draw_box(32, 0.75, draw) == Box(0, 9, 22, 32)
    assert mixing.draw_box(32, 0.75, draw).area == 90
    assert mixing.draw_box(32, 0.0, Draws(0.0, (16, 16))) == Box(0, 32, 0, 32)
    assert mixing.draw_box(32, 1.0, draw).area == 0


# ---- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_lambda_is_of_the_beta_distribution(alpha):
    images, labels = batch(count=4, size=2)
    found = kept_by_target(images, labels, Mixing(CLASSES, mixup=alpha), range(2000))
    result = scipy.stats.kstest(found, scipy.stats.beta(alpha, alpha).cdf)
    assert result.pvalue > 0.01


def test_boxes_lie_anywhere_alike():
    draw = np.random.default_rng(0)
    boxes = np.array([mixing.draw_box(16, 0.75, draw) for _ in range(4000)])
    covered = np.zeros((16, 16))
    for top, bottom, left, right in boxes:
        covered[top:bottom, left:right] += 1
    # The middle is uniform: a pixel is in the box where the middle is within 4 of it.
    reach = np.array([min(y + 4, 15) - max(y - 3, 0) + 1 for y in range(16)])
    expected = 4000 * np.outer(reach, reach) / 256
    assert (np.abs(covered - expected) < 5 * np.sqrt(expected)).all()


def test_with_both_each_is_drawn_half_of_the_time_and_a_share_of_batches_is_left_alone():
    images, labels = batch(count=6, size=8)
    plain = torch.nn.functional.one_hot(labels, CLASSES).float()
    mix = Mixing(CLASSES, mixup=1.0, cutmix=1.0, share=0.6)
    counts = {"alone": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        found, targets = mix(images, labels, generator(seed))
        kept = (found == images).all(1).float().mean()
        if kept == 1 and torch.equal(targets, plain):
            counts["alone"] += 1
        else:
            counts["mixup" if kept == 0 else "cutmix"] += 1
    # A box that lambda makes smaller than two pixels changes nothing: lambda above 15/16.
    small = 2000 * 0.3 / 16
    assert abs(counts["alone"] - 800 - small) < 80
    assert abs(counts["mixup"] - 600) < 80
    assert abs(counts["cutmix"] - 600 + small) < 80


def test_a_batch_is_drawn_by_the_seed_of_its_generator_alone():
    images, labels = batch()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    mix = Mixing(CLASSES, mixup=1.0, cutmix=1.0)
    first, again, other = (mix(images, labels, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    used = generator(3)
    torch.rand(10, generator=used)
    before = used.get_state()
    assert torch.equal(mix(images, labels, used)[0], first[0])
    assert torch.equal(used.get_state(), before)
    assert torch.equal(torch.get_rng_state(), state)
    largest = torch.Generator().manual_seed(2**64 - 1)
    assert mix(images, labels, largest)[0].isfinite().all()


# ---- what a recipe makes of it -------------------------------------------------------------------


def test_a_recipe_without_mixing_leaves_images_and_labels_as_they_are():
    images, labels = batch()
    mix = parts.make_mixing(recipes.RECIPES["best"], CLASSES)
    found = mix(images, labels, generator())
    assert found[0] is images and found[1] is labels


def test_a_recipes_fields_reach_the_mixing():
    fields = {"mixup": 0.2, "cutmix": 0.7, "mix_prob": 0.5}
    recipe = dataclasses.replace(recipes.RECIPES["best"], **fields)
    assert parts.make_mixing(recipe, CLASSES) == Mixing(CLASSES, 0.2, 0.7, 0.5)


def test_the_heavier_label_is_that_of_the_larger_share():
    targets = torch.tensor([[0.3, 0.7, 0.0], [0.9, 0.0, 0.1], [0.0, 0.0, 1.0]])
    assert mixing.heavier(targets).tolist() == [1, 0, 2]
    labels = torch.tensor([2, 0])
    assert mixing.heavier(labels) is labels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_mixes_as_a_cpu_does():
    images, labels = batch()
    for seed in range(8):
        mix = Mixing(CLASSES, mixup=1.0, cutmix=1.0)
        on_gpu = torch.Generator("cuda").manual_seed(seed)
        found = mix(images.cuda(), labels.cuda(), on_gpu)
        for ours, theirs in zip(found, mix(images, labels, generator(seed)), strict=True):
            torch.testing.assert_close(ours.cpu(), theirs)
