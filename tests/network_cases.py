"""What the tests of several networks share: state dicts of given shapes, and networks whose batch
norm is no longer fresh."""

import torch


def norm_shapes(prefix, channels):
    """{name: shape} of a batch norm's entries in a state dict."""
    parts = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{prefix}.{part}": (channels,) for part in parts}
    return shapes | {f"{prefix}.num_batches_tracked": ()}


def blank_state(shapes, seed=0):
    """{name: shape} -> a state dict of such tensors with random values."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            state[name] = torch.rand(shape, generator=generator)
    return state


def settle(network, seed=0):
    """Give batch norm statistics and weights that are not those of a fresh network, and set eval
    mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return network.eval()
