"""Post-hoc OOD scores from penultimate features and the last layer: how in-distribution does each
image look?

    # The ID training set; each statistic is computed once.
    train = Training(features, labels, W, b)
    # fitted.parameters holds what was resolved.
    fitted = METHODS["ViM"].fit(train, dim=32)
    values = METHODS["ViM"].score(test, compute_logits(test, W, b), fitted)
    # Several methods share the large products: {"MSP": (N,), "ViM": (N,)}.
    states = fit_all(train, ["MSP", "ViM"], {"ViM": {"dim": 32}})
    values = score_all(test, states, W, b)

Every score is (N,) float64, higher = more in-distribution, and NaN only where it is undefined. N
images, D features, C classes: features (N, D), logits (N, C), labels (N,), W (C, D), b (C,). NumPy
and SciPy only. `scores.rows` describes each method; the methods themselves are in the file of their
family: `logits`, `extremes`, `shaping`, `gaussians`, `geometry`, `class_means`, `neighbours`,
`subspaces` and `sampled`. `ROWS` also has ODIN and AdaSCALE, whose scores come from files of
changed images and not from here.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrays import scorable_features, scorable_head
from scores.blocks import blocks, side_by_side
from scores.common import Fitted, Noted, compute_logits, max_softmax, unit_rows
from scores.neighbours import score_neighbours
from scores.rows import (
    ADASCALE,
    ALL,
    ODIN,
    Description,
    LinearMethod,
    Method,
    NeighbourMethod,
    PlainMethod,
)
from scores.training_set import BANK_SIZE, Training

__all__ = [
    "ADASCALE",
    "BANK_SIZE",
    "CORE",
    "DEFAULT",
    "METHODS",
    "ODIN",
    "OF_IMAGES",
    "ROWS",
    "Fitted",
    "Method",
    "NeighbourMethod",
    "Noted",
    "Training",
    "compute_logits",
    "defaults",
    "fit_all",
    "max_softmax",
    "needs_head",
    "needs_labels",
    "needs_rest",
    "parse_setting",
    "score_all",
]

NEIGHBOUR_BLOCK = 2**15  # rows that search together: the more of a predicted class, the better


# ---- the methods by name -------------------------------------------------------------------------

METHODS: dict[str, Method] = {method.name: method for method in ALL}
# with those that score features of changed images, and are not fitted
OF_IMAGES = (ODIN, *ADASCALE)
ROWS: dict[str, Description] = {**METHODS, **{row.name: row for row in OF_IMAGES}}
# of a head that has the data's classes alone
DEFAULT = tuple(method.name for method in ALL if not method.variant and "rest" not in method.needs)
CORE = ("MSP", "MaxLogit", "Energy", "Mahalanobis", "ViM", "NECO")


def defaults(rest: bool) -> list[str]:
    """The methods that are computed where none are named; with `rest`, those too that need the
    other rows of a larger head."""
    return [
        method.name
        for method in ALL
        if not method.variant and (rest or not needs_rest(method.name))
    ]


def needs_rest(name: str) -> bool:
    """True if a method needs the other rows of a head that has more classes than the data."""
    return "rest" in ROWS[name].needs


def needs_head(name: str, parameters: dict[str, Any] | None = None) -> bool:
    """True if a method needs the last layer: by its row, or by a parameter that multiplies by the
    largest logit."""
    if parameters and parameters.get("max_logit"):
        return True
    return "head" in ROWS[name].needs


def needs_labels(name: str) -> bool:
    """True if a method is fitted to the classes of the training images."""
    return "labels" in ROWS[name].needs


def plain_name(text: str) -> str:
    """KL-Matching, KLMatching and kl_matching are one method."""
    return text.lower().replace("-", "").replace("_", "")


def parse_setting(text: str) -> tuple[str, str, bool | int | float]:
    """ "KNN.k=200" -> ("KNN", "k", 200); ValueError with what was expected."""
    place, equals, value = text.partition("=")
    given, dot, parameter = place.strip().partition(".")
    if not (equals and dot and value.strip()):
        raise ValueError(f"{text!r}: expected METHOD.PARAMETER=VALUE, such as KNN.k=200")
    name = _method_named(given, text)
    described = METHODS[name].described
    parameter = parameter.strip().replace("-", "_")
    if parameter not in described:
        listed = ", ".join(described) or "none"
        raise ValueError(f"{text!r}: {name} has no parameter {parameter!r}; it has {listed}")
    try:
        return name, parameter, described[parameter].parse(value.strip())
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _method_named(given: str, text: str) -> str:
    """The published spelling of a method; ValueError with the whole setting and what is near."""
    known = {plain_name(name): name for name in METHODS}
    name = known.get(plain_name(given))
    if name is None:
        near = difflib.get_close_matches(plain_name(given), known, n=3)
        guesses = [known[match] for match in near] or list(METHODS)
        raise ValueError(f"{text!r}: unknown method {given!r}; did you mean {', '.join(guesses)}?")
    return name


# ---- fit once, score many ------------------------------------------------------------------------


def fit_all(
    train: Training,
    names: Iterable[str],
    overrides: dict[str, dict[str, Any]] | None = None,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> dict[str, Fitted]:
    """Fit the named methods -> {name: Fitted}, with `overrides[name]` in place of the authors'
    defaults. `progress` shows how far it is.

    Raises ValueError for an unknown method or parameter, or one that needs the head which `train`
    lacks, before anything is fitted."""
    names, overrides = list(names), overrides or {}
    for name in (*names, *overrides):
        _check_fit(train, name, overrides.get(name, {}))
    return {name: METHODS[name].fit(train, **overrides.get(name, {})) for name in progress(names)}


def _check_fit(train: Training, name: str, parameters: dict[str, Any]) -> None:
    """ValueError for a method that cannot be fitted to this training set with these parameters."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name}; expected one of {', '.join(METHODS)}")
    known = METHODS[name].parameters
    strange = [parameter for parameter in parameters if parameter not in known]
    if strange:
        listed = ", ".join(known) or "none"
        raise ValueError(f"{name} has no parameter {strange[0]}; it has {listed}")
    if train.W is None and needs_head(name, parameters):
        raise ValueError(f"{name} needs the last layer, W and b, which this training set lacks")
    if not train.labelled and needs_labels(name):
        raise ValueError(f"{name} needs the training images' labels, which this training set lacks")
    if train.rest is None and needs_rest(name):
        raise ValueError(
            f"{name} needs the other rows of a larger head, `rest`, which are not there"
        )


def score_all(
    features: np.ndarray,
    states: dict[str, Fitted],
    W: np.ndarray | None = None,
    b: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Score features (N, D) by every fitted method -> {name: (N,)}; raises ValueError for another
    width, NaN, or infinity.

    A block of rows at a time, so that little memory is needed beside the scores: one centred
    product with the stacked [W', whitener, residual space, components, ...] serves the logits and
    all linear methods, another the neighbours. Without a head there are no logits, nor the methods
    that need them."""
    features = scorable_features(features, None if W is None else np.shape(W)[-1])
    if W is None:
        W, b = np.zeros((0, features.shape[1]), np.float32), np.zeros(0, np.float32)
    W, b = scorable_head(W, b)
    values = {name: np.full(len(features), np.nan) for name in states}
    defined = {name: state for name, state in states.items() if not state.undefined}
    _score_by_block(features, defined, W, b, values)
    _score_by_search(features, defined, W, b, values)
    return values


def _score_by_block(
    features: np.ndarray,
    states: dict[str, Fitted],
    W: np.ndarray,
    b: np.ndarray,
    values: dict[str, np.ndarray],
) -> None:
    """Write the scores of linear and plain methods into `values`."""
    linear: dict[str, LinearMethod] = {}
    unit: dict[str, LinearMethod] = {}
    plain: dict[str, PlainMethod] = {}
    for name in states:
        method = METHODS[name]
        if isinstance(method, LinearMethod):
            (unit if method.unit else linear)[name] = method
        elif isinstance(method, PlainMethod):
            plain[name] = method
    if not (linear or unit or plain):
        return
    stack = _stack([states[name] for name in linear], W, b)
    unit_stack = _stack([states[name] for name in unit], W[:0], b[:0])

    def score(rows: slice) -> None:
        block = features[rows]
        logits, *projections = stack.split_product(block)
        if unit:
            _, *more = unit_stack.split_product(unit_rows(block))
            projections += more
        for (name, method), projected in zip((linear | unit).items(), projections, strict=True):
            found = method.score_projected(projected, block, logits, states[name])
            values[name][rows] = found
        for name, other in plain.items():
            values[name][rows] = other.score(block, logits, states[name])

    list(side_by_side(score, blocks(len(features))))


def _score_by_search(
    features: np.ndarray,
    states: dict[str, Fitted],
    W: np.ndarray,
    b: np.ndarray,
    values: dict[str, np.ndarray],
) -> None:
    """Write the scores of neighbour methods into `values`."""
    searchers = {}
    for name, state in states.items():
        method = METHODS[name]
        if isinstance(method, NeighbourMethod):
            searchers[name] = method.searcher(state)
    if not searchers:
        return
    for rows in blocks(len(features), NEIGHBOUR_BLOCK):
        block = features[rows]
        # Without a head all rows begin their search in the same class, which only costs time.
        logits = np.zeros((len(block), 1), np.float32)
        if len(W):
            logits = compute_logits(block, W, b)  # again: cheap beside the search
        scored = score_neighbours(block, logits, list(searchers.values()))
        for name, found in zip(searchers, scored, strict=True):
            values[name][rows] = found


@dataclass(frozen=True, eq=False)
class Stack:
    """The products of the head and all linear methods as one: (features - centre) @ matrix +
    offset, with centre (D,), matrix (D, k), offset (k,), and the columns where each part ends."""

    centre: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray
    edges: np.ndarray

    def split_product(self, features: np.ndarray) -> list[np.ndarray]:
        """(n, D) -> the logits (n, C), then the part (n, k_i) of each method."""
        with np.errstate(over="ignore", invalid="ignore"):
            product = (features - self.centre) @ self.matrix + self.offset
        return np.split(product, self.edges, axis=1)


def _stack(states: list[Fitted], W: np.ndarray, b: np.ndarray) -> Stack:
    """The head and the states of linear methods, brought to one centre."""
    centre = states[0].centre if states else np.zeros(W.shape[1])
    matrices, offsets = [W.T], [b + W @ centre]
    for state in states:
        moved = (centre - state.centre) @ state.matrix
        matrices.append(state.matrix)
        offsets.append(state.offset + moved)
    widths = [matrix.shape[1] for matrix in matrices]
    return Stack(
        centre=centre.astype(np.float32),
        matrix=np.hstack(matrices),
        offset=np.concatenate(offsets).astype(np.float32),
        edges=np.cumsum(widths)[:-1],
    )
