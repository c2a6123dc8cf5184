"""Names of parameters: a file's, matched with the network's own.

    state, left_out = parameters.aligned(found, wanted, path)
    wrong = parameters.misfit(wanted, state)       # empty where the file fits the network

Files put a prefix before every name (`module.`, `backbone.`), keep a moving average beside the
weights, or lack the counters of batch norm."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from networks.messages import SAVE, shown, some

COUNTER = "num_batches_tracked"  # of batch norm since torch 0.4; says nothing about features

Parameters = Mapping[str, torch.Tensor]


def aligned(
    found: Parameters, wanted: Parameters, path: str | Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's parameters under the network's own names -> (state dict, names that were left out).

    One prefix before all of them is taken off. What lies beside them is left out where it is a
    second copy (a moving average) or stands under another prefix. Batch norm's counter, which files
    before torch 0.4 lack, is filled in."""
    needed = [name for name in wanted if not name.endswith(COUNTER)]
    covering = covering_prefixes(found, needed)
    prefix = best_prefix(covering, path)
    state = {}
    left_out = []
    for name, value in found.items():
        if name.startswith(prefix):
            state[name.removeprefix(prefix)] = value
        else:
            left_out.append(name)
    copies = copies_within(covering, prefix)
    for name in [*state]:
        if name not in wanted and (is_average(name) or name.startswith(copies)):
            del state[name]
            left_out.append(prefix + name)
    for name, value in wanted.items():
        if name.endswith(COUNTER) and name not in state:
            state[name] = value
    return state, left_out


def copies_within(covering: Iterable[str], prefix: str) -> tuple[str, ...]:
    """The prefixes of other copies of the network that stand below `prefix`, without it."""
    others = [other for other in covering if other != prefix and other.startswith(prefix)]
    return tuple(other.removeprefix(prefix) for other in others)


def covering_prefixes(found: Parameters, needed: list[str]) -> list[str]:
    """The prefixes under which most needed parameters are found, each equally many; [""] where
    that is less than half."""
    if not needed:
        return [""]
    counts = {"": sum(name in found for name in needed)}
    for anchor in {needed[0], needed[-1]}:
        for name in found:
            prefix = name.removesuffix(anchor)
            if name.endswith(f".{anchor}") and prefix not in counts:
                counts[prefix] = sum(prefix + other in found for other in needed)
    most = max(counts.values())
    if 2 * most < len(needed):
        return [""]
    return [prefix for prefix, count in counts.items() if count == most]


def best_prefix(covering: list[str], path: str | Path) -> str:
    """The prefix of the network itself where its copies stand beside it; ValueError where that
    cannot be told."""
    if "" in covering:
        return ""
    plain = [prefix for prefix in covering if not is_average(prefix)] or covering
    if len(plain) > 1:
        raise ValueError(
            f"{path} holds the network several times, under {', '.join(map(shown, plain))}; save "
            f"the one that is meant, in the program that made it, with: {SAVE}"
        )
    return plain[0]


def is_average(name: str) -> bool:
    """True for the names that moving averages of weights go by, and what stands beside them."""
    first = name.partition(".")[0].lower()
    return bool(re.search(r"(^|_)(ema|averag|teacher|num_updates)", first))


@dataclass(frozen=True)
class Misfit:
    """How a state dict differs from the network's: names of parameters, each list sorted or in the
    network's order."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    other_shapes: list[str] = field(default_factory=list)  # "fc.weight (4, 8) for (3, 8)"

    def __len__(self) -> int:
        """The number of parameters that differ; 0 where the state dict fits."""
        return len(self.missing) + len(self.unexpected) + len(self.other_shapes)

    def __str__(self) -> str:
        """ "missing: a, b; other shapes: c (4, 8) for (3, 8)"."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "other shapes": self.other_shapes,
        }
        return "; ".join(f"{kind}: {some(names)}" for kind, names in kinds.items() if names)


def misfit(wanted: Parameters, found: Parameters) -> Misfit:
    """What is wrong with a state dict beside the network's."""
    shapes = []
    for name in wanted:
        if name in found and wanted[name].shape != found[name].shape:
            shapes.append(f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}")
    return Misfit(
        missing=sorted(set(wanted) - set(found)),
        unexpected=sorted(set(found) - set(wanted)),
        other_shapes=shapes,
    )
