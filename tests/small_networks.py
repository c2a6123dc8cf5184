"""Small networks and checkpoint files that test files share."""

import torch

import networks


def tiny(classes=4, seed=0):
    torch.manual_seed(seed)
    return networks.build("resnet_cifar", classes)


def same(state, other):
    return state.keys() == other.keys() and all(
        torch.equal(state[key], other[key]) for key in state
    )


def ours(network, **facts):
    """What train.py writes, as far as it counts: all that makes a file recognisably ours."""
    classes = len(network.fc.weight)
    return {
        "model_state_dict": network.state_dict(),
        "model": "resnet_cifar",
        "model_args": {"dropout": 0.0},
        "dataset": "digits",
        "class_names": [str(index) for index in range(classes)],
        "held_out": [],
        "val_size": 96,
        "recipe": {},
        "versions": {},
        "preprocessing": {
            "size": 16,
            "mean": (0.3,) * 3,
            "std": (0.3,) * 3,
            "interpolation": "bilinear",
        },
        **facts,
    }


def saved(tmp_path, content, name="network.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name
