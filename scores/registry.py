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
family: `logits`, `shaping`, `geometry` and `neighbours`.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from arrays import scorable_features, scorable_head
from scores import geometry, neighbours
from scores.blocks import blocks, side_by_side
from scores.common import Fitted, Noted, compute_logits, max_softmax
from scores.rows import ALL, Method
from scores.training_set import Training

__all__ = [
    "CORE",
    "DEFAULT",
    "METHODS",
    "Fitted",
    "Method",
    "Noted",
    "Training",
    "compute_logits",
    "fit_all",
    "max_softmax",
    "needs_head",
    "parse_setting",
    "score_all",
]

NEIGHBOUR_BLOCK = 2**15  # rows that search together: the more of a predicted class, the better
KINDS = ("linear", "neighbour", "row")


# ---- the methods by name -------------------------------------------------------------------------


def sound(compute: Callable) -> Callable:
    """compute(..., state) -> (N,), with NaN for what is not a finite number, and for all where the
    fit left it undefined."""

    def computed(*given):
        if "undefined" in vars(given[-1] or Fitted()):
            return np.full(len(given[0]), np.nan)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = compute(*given)
        return np.where(np.isfinite(values), values, np.nan)

    return computed


def registered(method: Method) -> Method:
    """The row with a `score` of its own for every kind, and NaN for what is not a number."""
    if method.finish is None:
        assert method.score is not None, f"{method.name} has neither score nor finish"
        return replace(method, score=sound(method.score))
    alone = geometry.linear if method.kind == "linear" else neighbours.neighbour
    return replace(method, score=sound(alone(method.finish)), finish=sound(method.finish))


METHODS = {method.name: registered(method) for method in ALL}
DEFAULT = tuple(method.name for method in ALL if not method.variant)
CORE = ("MSP", "MaxLogit", "Energy", "Mahalanobis", "ViM", "NECO")


def needs_head(name: str, parameters: dict | None = None) -> bool:
    """True if a method needs the last layer: by its row, or by a parameter that multiplies by the
    largest logit."""
    return "head" in METHODS[name].needs or bool((parameters or {}).get("max_logit"))


def plain_name(text: str) -> str:
    """KL-Matching, KLMatching and kl_matching are one method."""
    return text.lower().replace("-", "").replace("_", "")


def parse_setting(text: str) -> tuple[str, str, bool | int | float]:
    """ "KNN.k=200" -> ("KNN", "k", 200); ValueError with what was expected."""
    place, equals, value = text.partition("=")
    given, dot, parameter = place.strip().partition(".")
    if not (equals and dot and value.strip()):
        raise ValueError(f"{text!r}: expected METHOD.PARAMETER=VALUE, such as KNN.k=200")
    known = {plain_name(name): name for name in METHODS}
    name = known.get(plain_name(given))
    if name is None:
        near = difflib.get_close_matches(plain_name(given), known, n=3)
        guesses = [known[match] for match in near] or list(METHODS)
        raise ValueError(f"{text!r}: unknown method {given!r}; did you mean {', '.join(guesses)}?")
    described = METHODS[name].described
    parameter = parameter.strip().replace("-", "_")
    if parameter not in described:
        listed = ", ".join(described) or "none"
        raise ValueError(f"{text!r}: {name} has no parameter {parameter!r}; it has {listed}")
    try:
        return name, parameter, described[parameter].parse(value.strip())
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


# ---- fit once, score many ------------------------------------------------------------------------


def fit_all(train: Training, names, overrides: dict[str, dict] | None = None) -> dict[str, Fitted]:
    """Fit the named methods -> {name: Fitted}, with `overrides[name]` in place of the authors'
    defaults.

    Raises ValueError for an unknown method or parameter, or one that needs the head which `train`
    lacks, before anything is fitted."""
    overrides = overrides or {}
    for name in (*names, *overrides):
        if name not in METHODS:
            raise ValueError(f"unknown method {name}; expected one of {', '.join(METHODS)}")
        known = METHODS[name].parameters
        strange = [parameter for parameter in overrides.get(name, {}) if parameter not in known]
        if strange:
            raise ValueError(
                f"{name} has no parameter {strange[0]}; it has {', '.join(known) or 'none'}"
            )
        if train.W is None and needs_head(name, overrides.get(name)):
            raise ValueError(f"{name} needs the last layer, W and b, which this training set lacks")
    return {name: METHODS[name].fit(train, **overrides.get(name, {})) for name in names}


def score_all(features, states: dict[str, Fitted], W=None, b=None) -> dict[str, np.ndarray]:
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
    defined = [name for name, state in states.items() if "undefined" not in vars(state)]
    linear, searching, plain = (
        [name for name in defined if METHODS[name].kind == kind] for kind in KINDS
    )
    centre, stacked, offset, edges = _stack([states[name] for name in linear], W, b)
    values = {name: np.full(len(features), np.nan) for name in states}

    def score(rows):
        block = features[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            logits, *projections = np.split((block - centre) @ stacked + offset, edges, axis=1)
        for name, projected in zip(linear, projections, strict=True):
            values[name][rows] = METHODS[name].finish(projected, block, logits, states[name])
        for name in plain:
            values[name][rows] = METHODS[name].score(block, logits, states[name])

    if linear or plain:
        list(side_by_side(score, blocks(len(features))))
    finishes = {name: (METHODS[name].finish, states[name]) for name in searching}
    for rows in blocks(len(features), NEIGHBOUR_BLOCK) if searching else ():
        # Again: cheap beside the search. Without a head all rows begin their search in the same
        # class, which only costs time.
        logits = (
            compute_logits(features[rows], W, b)
            if len(W)
            else np.zeros((rows.stop - rows.start, 1), np.float32)
        )
        for name, found in neighbours.score_neighbours(features[rows], logits, finishes).items():
            values[name][rows] = found
    return values


def _stack(states: list[Fitted], W, b) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A centre (D,), matrix (D, k) and offset (k,) for the head and all linear states, and where
    each part ends."""
    centre = states[0].centre if states else np.zeros(W.shape[1])
    matrices = [W.T, *(state.matrix for state in states)]
    offsets = [
        b + W @ centre,
        *(state.offset + (centre - state.centre) @ state.matrix for state in states),
    ]
    edges = np.cumsum([matrix.shape[1] for matrix in matrices])[:-1]
    return (
        centre.astype(np.float32),
        np.hstack(matrices),
        np.concatenate(offsets).astype(np.float32),
        edges,
    )
