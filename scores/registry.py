"""Post-hoc OOD scores from penultimate features and the last layer: how in-distribution does each
image look?

    train = Training(features, labels, W, b)           # the ID training set; each statistic is
        computed once
    state = METHODS["ViM"].fit(train, dim=32)          # state.parameters holds what was resolved
    values = METHODS["ViM"].score(test, compute_logits(test, W, b), state)
    states = fit_all(train, ["MSP", "ViM"], {"ViM": {"dim": 32}})
    values = score_all(test, states, W, b)             # {"MSP": (N,), "ViM": (N,)}, the large
        products shared

Every score is (N,) float64, higher = more in-distribution, and NaN only where it is undefined. N
images, D features, C classes: features (N, D), logits (N, C), labels (N,), W (C, D), b (C,). NumPy
and SciPy only. The registry is at the end; the methods themselves are in `scores.activation`,
`scores.geometry` and `scores.neighbours`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from scores import activation
from scores import geometry as feature
from scores import neighbours as near
from scores.activation import LARGEST, SMALLEST, Noted, State, compute_logits, max_softmax
from scores.blocks import blocks, side_by_side

__all__ = [
    "CORE",
    "DEFAULT",
    "METHODS",
    "Method",
    "Noted",
    "State",
    "Training",
    "check_rows",
    "compute_logits",
    "fit_all",
    "max_softmax",
    "needs_head",
    "score_all",
]

NEIGHBOUR_BLOCK = 2**15  # rows that search together: the more of a predicted class, the better
KINDS = ("linear", "neighbour", "row")
CONSTANT = 1e-9  # of the mean: float64 sums of equal numbers differ by less


class Training:
    """The ID training set: features (N, D), labels (N,), and the last layer's W (C, D), b (C,),
    where there is one.

    Without a head, the classes are those that the labels name; the scores that need a head cannot
    be fitted.

    `validation`, ID images that trained nothing, as (features (n, D), labels (n,)), serves the
    scores that calibrate. Statistics are computed on first use, once, with float64 sums. Raises
    ValueError for shapes that do not fit, values that are not finite, and labels outside the
    classes."""

    def __init__(self, features, labels, W=None, b=None, validation=None):
        self.W = self.b = self.validation = None
        if W is not None:
            self.W, self.b = _head(W, b)
        self.features = _rows(features, None if W is None else self.W.shape[1])
        self.zero = _check_size(self.features)
        if W is None:
            self.labels, self.classes = _distinct(labels, len(self.features))
        else:
            self.labels, self.classes = (
                _labels(labels, len(self.features), len(self.W)),
                len(self.W),
            )
        if validation is not None:
            held = _rows(validation[0], self.width)
            self.validation = held, _labels(validation[1], len(held), self.classes)
        self.counts = np.bincount(self.labels, minlength=self.classes)
        self.present = np.flatnonzero(
            self.counts
        )  # classes with a training row; class means and counts use only these

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """D."""
        return self.features.shape[1]

    def passes(self, function):
        """function(features (n, D), labels (n,)) of each block of rows, in order; the blocks are
        worked on side by side."""
        return side_by_side(
            lambda rows: function(self.features[rows], self.labels[rows]), blocks(len(self))
        )

    @cached_property
    def class_means(self) -> np.ndarray:
        """(C, D) float64; a row of NaN for a class without training rows."""
        sums = sum(
            self.passes(
                lambda features, labels: activation.class_sums(features, labels, self.classes)
            )
        )
        means = np.full_like(sums, np.nan)
        means[self.present] = sums[self.present] / self.counts[self.present, None]
        return means

    @cached_property
    def mean(self) -> np.ndarray:
        """(D,) float64, over images."""
        return self.counts[self.present] @ self.class_means[self.present] / len(self)

    @cached_property
    def covariance_within(self) -> np.ndarray:
        """(D, D) float64, tied over classes, each about its own mean, divided by N.

        Rows are centred before the float32 product, so that neither a common offset nor the spread
        of the classes drowns it."""
        means = self.class_means.astype(np.float32)

        def scatter(features, labels):
            centred = features - means[labels]
            return (centred.T @ centred).astype(np.float64)

        return sum(self.passes(scatter)) / len(self)

    @cached_property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, about the mean, divided by N: within plus between, which adds without
        cancellation."""
        between = self.class_means[self.present] - self.mean
        return self.covariance_within + (between.T * self.counts[self.present]) @ between / len(
            self
        )

    @cached_property
    def spectrum_within(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (D,), least first, and eigenvectors (D, D) of the within-class covariance."""
        return np.linalg.eigh(self.covariance_within)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the covariance."""
        return np.linalg.eigh(self.covariance)

    @cached_property
    def scale(self) -> np.ndarray:
        """(D,) float64, the standard deviations, with 1 for a feature that is constant in
        training."""
        return np.where(self.varies, self.std, 1.0)

    @cached_property
    def spectrum_standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the covariance of the features over `scale`."""
        return np.linalg.eigh(self.covariance / np.outer(self.scale, self.scale))

    @cached_property
    def whitener(self) -> np.ndarray:
        """(D, r) float64, the root of the pseudo-inverse of the within-class covariance."""
        return feature.inverse_root(self.spectrum_within)

    @cached_property
    def vim_origin(self) -> np.ndarray:
        """(D,) float64, the point where all logits are 0."""
        return feature.vim_origin(self.W, self.b)

    @cached_property
    def vim_axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about ViM's origin, least first."""
        away = self.mean - self.vim_origin
        return np.linalg.eigh(self.covariance + np.outer(away, away))[1]

    @cached_property
    def std(self) -> np.ndarray:
        """(D,) float64."""
        return np.sqrt(np.diag(self.covariance).clip(0))

    @cached_property
    def varies(self) -> np.ndarray:
        """(D,) bool: whether a feature's deviation is more than float32's rounding of the largest
        one. One image of 4,000 with 1e-6 in a unit that is else dead made NECO divide by it, and an
        AUROC of 83% was 22%."""
        return self.std > feature.CUTOFF * self.std.max()

    @cached_property
    def constant(self) -> bool:
        """Whether all rows are the same, up to the rounding of float64 sums."""
        return bool(self.std.max() <= CONSTANT * np.abs(self.mean).max())

    @cached_property
    def dead_units(self) -> int:
        """Number of features that are constant in training."""
        return int(np.count_nonzero(~self.varies))

    @cached_property
    def smallest(self) -> float:
        """The least activation."""
        return float(self.features.min())

    @cached_property
    def axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment, greatest first."""
        return np.linalg.eigh(self.covariance + np.outer(self.mean, self.mean))[1][:, ::-1]

    @cached_property
    def bank(self) -> near.Bank:
        """The training features as the neighbour methods share them."""
        return near.Bank(self.features, self.labels, self.classes, self.axes)


def _head(W, b) -> tuple[np.ndarray, np.ndarray]:
    W, b = _float32(W), _float32(b)
    if W.ndim != 2 or b.shape != W.shape[:1]:
        raise ValueError(
            f"the head has weights {W.shape} and a bias {b.shape}; expected shapes (C, D) and (C,)"
        )
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError("the head holds NaN or infinity; extract it again from a sound checkpoint")
    if max(np.abs(W).max(initial=0), np.abs(b).max(initial=0)) > LARGEST:
        raise ValueError(
            f"the head's weights reach {np.abs(W).max():.3g} and its biases {np.abs(b).max():.3g};"
            f" expected at most {LARGEST:g}, for beyond it products overflow float32"
        )
    return W, b


def _float32(numbers) -> np.ndarray:
    """Contiguous float32; what it cannot hold becomes infinity, which the checks that follow
    refuse."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers, dtype=np.float32)


def _rows(features, width: int | None) -> np.ndarray:
    features = _float32(features)
    if features.ndim != 2 or not features.size or width not in (None, features.shape[1]):
        expected = (
            "(N, D), N and D at least 1"
            if width is None
            else f"(N, {width}), the head's width, N at least 1"
        )
        raise ValueError(f"features have shape {features.shape}; expected {expected}")
    for rows in blocks(len(features)):
        least, most = features[rows].min(), features[rows].max()
        if not max(-least, most) <= LARGEST:  # NaN compares with nothing
            _refuse(features[rows], rows.start)
    return features


def check_rows(features):
    """ValueError for features (N, D) that no method can score: NaN, infinity, or beyond what
    float32 can square."""
    _rows(features, None)


def _refuse(block, start: int):
    """Raise a ValueError that names the first row which cannot be scored."""
    sizes = np.abs(block).max(axis=1)
    row = int(np.argmax(~(sizes <= LARGEST)))
    if np.isfinite(sizes[row]):
        raise ValueError(
            f"features reach {sizes[row]:.3g}, first in row {start + row}; expected at most"
            f" {LARGEST:g}, for beyond it sums of squares overflow float32: divide all features by"
            " one number, and extract them anew"
        )
    raise ValueError(
        f"features hold NaN or infinity, first in row {start + row}; extract them again, in float32"
    )


def _check_size(features) -> bool:
    """Whether all features are 0; ValueError where they are not, but are too small for float32 to
    tell apart."""
    largest = max(-float(features.min()), float(features.max()))
    if 0 < largest < SMALLEST:
        raise ValueError(
            f"no training feature is above {largest:.3g}; expected some of at least {SMALLEST:g},"
            " for below it squares vanish in float32: multiply all features by one number, and"
            " extract them anew"
        )
    return largest == 0


def _distinct(labels, n: int) -> tuple[np.ndarray, int]:
    """Labels (n,) -> the place of each among those that occur, and how many occur."""
    labels = _labels(labels, n, None)
    names, places = np.unique(labels, return_inverse=True)
    return places, len(names)


def _labels(labels, n: int, classes: int | None) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; expected {n} whole numbers, one an"
            " image"
        )
    wrong = np.flatnonzero(labels < 0 if classes is None else (labels < 0) | (labels >= classes))
    if wrong.size:
        row = wrong[0]
        known = "below 0" if classes is None else f"outside the head's classes, 0 to {classes - 1}"
        raise ValueError(f"label {labels[row]} in row {row} is {known}")
    return labels.astype(np.int64)


@dataclass(frozen=True)
class Method:
    """One registry row: `fit(train, **parameters) -> State`, `score(features, logits, state) ->
    (N,)`.

    `score_all` calls `finish` instead where a large product can be shared: after a linear
    projection (`kind` "linear") or after the search among the training features ("neighbour")."""

    name: str
    source: str
    fit: Callable
    score: Callable
    kind: str = "row"
    finish: Callable | None = None
    variant: bool = False  # of another row: computed where it is asked for by name
    needs: tuple = ("head",)  # of head, labels: what the fit or the score cannot do without
    missing: str = "its score is not a finite number"  # why a single image may have no score

    @property
    def parameters(self) -> dict:
        """The defaults of `fit`; None means that a rule decides on the ID data."""
        arguments = inspect.signature(self.fit).parameters.values()
        return {
            argument.name: argument.default
            for argument in arguments
            if argument.default is not argument.empty
        }


def _linear(name, source, fit, finish, **more) -> Method:
    return Method(name, source, fit, feature.linear(finish), "linear", finish, **more)


def _neighbour(name, source, fit, finish, **more) -> Method:
    return Method(name, source, fit, near.neighbour(finish), "neighbour", finish, **more)


HEAD, LABELS, FEATURES = ("head",), ("labels",), ()
AT_MEAN = "its features are the training mean"
NO_DIRECTION = "its features are all 0, and have no direction"
NOTHING_KEPT = "the activations that are kept sum to 0"
NO_PATTERN = "no training image of the class that it is predicted as is classified right"
_NECO = "Ben Ammar et al., ICLR 2024"
_ROWS = (
    Method("MSP", "Hendrycks and Gimpel, ICLR 2017", activation.no_fit, activation.msp_score),
    Method(
        "MaxLogit", "Hendrycks et al., ICML 2022", activation.no_fit, activation.max_logit_score
    ),
    Method("Energy", "Liu et al., NeurIPS 2020", activation.energy_fit, activation.energy_score),
    Method("Entropy", "Chan et al., ICCV 2021", activation.no_fit, activation.entropy_score),
    Method("GEN", "Liu et al., CVPR 2023", activation.gen_fit, activation.gen_score),
    Method(
        "TempScaling",
        "Guo et al., ICML 2017",
        activation.temperature_fit,
        activation.temperature_score,
        needs=HEAD + LABELS,
    ),
    Method(
        "KLMatching",
        "Hendrycks et al., ICML 2022",
        activation.kl_matching_fit,
        activation.kl_matching_score,
    ),
    Method("GradNorm", "Huang et al., NeurIPS 2021", activation.no_fit, activation.gradnorm_score),
    Method("ReAct", "Sun et al., NeurIPS 2021", activation.react_fit, activation.react_score),
    Method("ASH-P", "Djurisic et al., ICLR 2023", activation.ash_p_fit, activation.ash_p_score),
    Method("ASH-B", "Djurisic et al., ICLR 2023", activation.ash_b_fit, activation.ash_b_score),
    Method(
        "ASH-S",
        "Djurisic et al., ICLR 2023",
        activation.ash_s_fit,
        activation.ash_s_score,
        missing=NOTHING_KEPT,
    ),
    Method(
        "SCALE",
        "Xu et al., ICLR 2024",
        activation.scale_fit,
        activation.scale_score,
        missing=NOTHING_KEPT,
    ),
    _linear("DICE", "Sun and Li, ECCV 2022", activation.dice_fit, activation.dice_finish),
    _linear(
        "Mahalanobis",
        "Lee et al., NeurIPS 2018",
        feature.mahalanobis_fit,
        feature.mahalanobis_finish,
        needs=LABELS,
    ),
    _linear(
        "RelativeMahalanobis",
        "Ren et al., 2021",
        feature.relative_mahalanobis_fit,
        feature.relative_mahalanobis_finish,
        needs=LABELS,
    ),
    _linear("ViM", "Wang et al., CVPR 2022", feature.vim_fit, feature.vim_finish),
    _linear("Residual", "Wang et al., CVPR 2022", feature.residual_fit, feature.residual_finish),
    _linear("NECO", _NECO, feature.neco_fit, feature.neco_finish, needs=FEATURES, missing=AT_MEAN),
    Method("NCI", "Liu and Qin, CVPR 2025", feature.nci_fit, feature.nci_score, missing=AT_MEAN),
    Method("fDBD", "Liu and Qin, ICML 2024", feature.fdbd_fit, feature.fdbd_score, missing=AT_MEAN),
    Method(
        "SHE",
        "Zhang et al., ICLR 2023",
        feature.she_fit,
        feature.she_score,
        needs=HEAD + LABELS,
        missing=NO_PATTERN,
    ),
    _neighbour(
        "KNN",
        "Sun et al., ICML 2022",
        near.knn_fit,
        near.knn_finish,
        needs=FEATURES,
        missing=NO_DIRECTION,
    ),
    _neighbour(
        "NNGuide",
        "Park et al., ICCV 2023",
        near.nnguide_fit,
        near.nnguide_finish,
        missing=NO_DIRECTION,
    ),
    _neighbour(
        "Relation",
        "Kim et al., NeurIPS 2023",
        near.relation_fit,
        near.relation_finish,
        missing=NO_DIRECTION,
    ),
)
_VARIANTS = (
    _linear(
        "NECO-NoScaler",
        _NECO,
        partial(feature.neco_fit, scaler=False),
        feature.neco_finish,
        needs=FEATURES,
        missing=NO_DIRECTION,
    ),
    _linear(
        "NECO-MaxLogit",
        _NECO,
        partial(feature.neco_fit, max_logit=True),
        feature.neco_finish,
        missing=AT_MEAN,
    ),
    _linear(
        "NECO-ETF", _NECO, feature.neco_etf_fit, feature.neco_finish, needs=LABELS, missing=AT_MEAN
    ),
)


def _sound(compute: Callable) -> Callable:
    """compute(..., state) -> (N,), with NaN for what is not a finite number, and for all where the
    fit left it undefined."""

    def computed(*given):
        if "undefined" in vars(given[-1] or State()):
            return np.full(len(given[0]), np.nan)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = compute(*given)
        return np.where(np.isfinite(values), values, np.nan)

    return computed


def _registered(method: Method) -> Method:
    return replace(
        method, score=_sound(method.score), finish=method.finish and _sound(method.finish)
    )


_ALL = (*_ROWS, *(replace(method, variant=True) for method in _VARIANTS))
METHODS = {method.name: _registered(method) for method in _ALL}
DEFAULT = tuple(name for name, method in METHODS.items() if not method.variant)
CORE = ("MSP", "MaxLogit", "Energy", "Mahalanobis", "ViM", "NECO")


def needs_head(name: str, parameters: dict | None = None) -> bool:
    """Whether a method needs the last layer: by its row, or by a parameter that multiplies by the
    largest logit."""
    return "head" in METHODS[name].needs or bool((parameters or {}).get("max_logit"))


def fit_all(train: Training, names, overrides: dict[str, dict] | None = None) -> dict[str, State]:
    """Fit the named methods -> {name: State}, with `overrides[name]` in place of the authors'
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


def score_all(features, states: dict[str, State], W=None, b=None) -> dict[str, np.ndarray]:
    """Score features (N, D) by every fitted method -> {name: (N,)}; raises ValueError for another
    width, NaN, or infinity.

    A block of rows at a time, so that little memory is needed beside the scores: one centred
    product with the stacked [W', whitener, residual space, components, ...] serves the logits and
    all linear methods, another the neighbours. Without a head there are no logits, nor the methods
    that need them."""
    features = _rows(features, None if W is None else np.shape(W)[-1])
    W, b = (
        (np.zeros((0, features.shape[1]), np.float32), np.zeros(0, np.float32))
        if W is None
        else _head(W, b)
    )
    defined = [name for name, state in states.items() if "undefined" not in vars(state)]
    linear, neighbours, plain = (
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
    finishes = {name: (METHODS[name].finish, states[name]) for name in neighbours}
    for rows in blocks(len(features), NEIGHBOUR_BLOCK) if neighbours else ():
        # Again: cheap beside the search. Without a head all rows begin their search in the same
        # class, which only costs time.
        logits = (
            compute_logits(features[rows], W, b)
            if len(W)
            else np.zeros((rows.stop - rows.start, 1), np.float32)
        )
        for name, found in near.score_neighbours(features[rows], logits, finishes).items():
            values[name][rows] = found
    return values


def _stack(states: list[State], W, b) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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
