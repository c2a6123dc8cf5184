"""Scores from where features lie: subspaces and class structure.

`scores.rows` describes them, with a link to each paper. A linear method has no product of its own:
`scores.registry.score_all` makes one large product for all of them, and each `finish(projected,
features, logits, fitted)` receives its part, `projected = (features - fitted.centre) @
fitted.matrix + fitted.offset`. The letters of the formulas are those of docs/methods.md. An
equation number is given where the paper's text could be checked.
"""

from collections.abc import Sequence

import numpy as np

from scores import limits
from scores.blocks import summed
from scores.common import (
    ZERO,
    Fitted,
    class_sums,
    few_images,
    log_softmax,
    logsumexp,
    noted,
    project,
    row_max,
    row_norm,
    undefined,
    warn,
)
from scores.spectra import CUTOFF, dimension_with, spectrum
from scores.training_set import Training

CONSTANT = "all training images have the same features"
ONE_FEATURE = "it needs at least 2 features to tell directions apart, and there is 1"


# ---- subspaces -----------------------------------------------------------------------------------


def _dimension(method: str, dim: int, width: int) -> int:
    """ValueError for a number of directions that features of this width do not have."""
    if not 1 <= dim < width:
        raise ValueError(
            f"{method}: the principal dimension is {dim}; expected 1 to {width - 1} for {width}"
            " features"
        )
    return int(dim)


def _vim_dimension(width: int) -> int:
    """1000 for D >= 2048, 512 for D >= 768, as ViM's authors have it; else D/2."""
    if width >= 2048:
        return 1000
    if width >= 768:
        return 512
    return max(1, width // 2)


def _residual_space(train: Training, method: str, dim: int | None) -> Fitted:
    """R, the directions of least second moment about u, not mean-centred: all but the first `dim`.

    u is the point where all logits are 0; without a head, the training mean.

    The state has `mean_residual`, the mean of |R'(h - u)| over the training images.
    """
    if train.width == 1:
        return undefined(method, ONE_FEATURE, {"dim": None})
    if dim is None:
        dim = _vim_dimension(train.width)
    dim = _dimension(method, dim, train.width)
    if train.constant:
        return undefined(method, CONSTANT, {"dim": dim})
    if train.b is not None and not train.b.any():
        warn(method, "the head has no bias, so the residual is measured from the zero vector")
    matrix = train.vim_axes[:, : train.width - dim]
    state = Fitted(
        parameters={"dim": dim},
        centre=train.mean,
        matrix=matrix.astype(np.float32),
        offset=(train.mean - train.vim_origin) @ matrix,
    )
    if train.b is None:
        noted(method, "there is no head, so the residual is measured from the training mean", state)

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return row_norm(project(features, state)).sum()

    state.mean_residual = train.sum_of(part) / len(train)
    # what rounding leaves had an AUROC of 90%
    spread = np.sqrt(np.trace(train.covariance))
    if not state.mean_residual > CUTOFF * spread:
        return undefined(
            method,
            f"the training features leave no residual beyond {dim} dimensions; give a smaller dim",
            {"dim": dim},
        )
    state.note = few_images(len(train), train.width)
    return state


def vim_fit(train: Training, dim: int | None = None) -> Fitted:
    """lse(l) - alpha |R'(h - u)|, alpha = mean largest logit / mean residual norm over the training
    images (Wang et al., CVPR 2022, eq. 5-6 without the softmax, the same order)."""
    state = _residual_space(train, "ViM", dim)
    if state.undefined:
        return state

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return row_max(train.logits(features)).sum()

    mean_largest_logit = train.sum_of(part) / len(train)
    state.alpha = mean_largest_logit / state.mean_residual
    return state


def vim_finish(
    residual: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """lse(l) - alpha * residual norm."""
    return logsumexp(logits) - state.alpha * row_norm(residual)


def residual_fit(train: Training, dim: int | None = None) -> Fitted:
    """- |R'(h - u)|, R and u those of ViM (Wang et al., CVPR 2022); OpenOOD fixes dim at 512."""
    return _residual_space(train, "Residual", dim)


def residual_finish(
    residual: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Negative norm of the residual."""
    return -row_norm(residual)


def neco_fit(
    train: Training, dim: int | None = None, scaler: bool = True, max_logit: bool = False
) -> Fitted:
    """|P'z| / |z|, z = (h - mu) / std, P the first `dim` principal components of z (Ben Ammar et
    al., ICLR 2024, eq. 7); `dim` by ID alone: the least with 90% of the variance (the authors tune
    it).

    `max_logit` multiplies by the largest logit, as the authors do for transformers, not for
    ResNets. `scaler=False`, their choice for ViT, takes the norm of uncentred features, while PCA
    still centres the components, as their code."""
    switches = {"scaler": bool(scaler), "max_logit": bool(max_logit)}
    if train.width == 1:
        return undefined("NECO", ONE_FEATURE, {"dim": None, **switches})
    if train.constant:
        return undefined("NECO", CONSTANT, {"dim": dim, **switches})
    if train.dead_units:
        warn(
            "NECO",
            f"{train.dead_units} features are constant in training; they count, unscaled, in the"
            " norm alone",
        )
    if scaler:
        values, vectors = train.spectrum_standardised
        scale, shift = train.scale, train.mean
    else:
        values, vectors = train.spectrum
        scale, shift = np.ones(train.width), np.zeros(train.width)
    if dim is None:
        dim = dimension_with(0.9, values[::-1].clip(0))
    dim = _dimension("NECO", dim, train.width)
    components = vectors[:, ::-1][:, :dim]
    return Fitted(
        parameters={"dim": dim, **switches},
        centre=train.mean,
        matrix=(components / scale[:, None]).astype(np.float32),
        offset=np.zeros(dim),
        shift=shift.astype(np.float32),
        scale=scale.astype(np.float32),
    )


def neco_etf_fit(train: Training, scaler: bool = True, max_logit: bool = False) -> Fitted:
    """|P'z| / |z| as `neco_fit`, with C - 1 components (at most D - 1), as many as the class means
    of a collapsed network span: a `dim` that no data choose (Ben Ammar et al., ICLR 2024; the `dim`
    is ours)."""
    dim = max(1, min(train.classes - 1, train.width - 1))
    return neco_fit(train, dim, scaler, max_logit)


def neco_raw_norm_fit(train: Training, dim: int | None = None, max_logit: bool = True) -> Fitted:
    """|P'z| / |h| times max l, z = (h - mu) / std: components of standardised features over the
    norm of raw ones, as the authors' code has it for DeiT and Swin; `dim` as in `neco_fit`.

    It is no share: z and h have different units, so that it may exceed 1."""
    state = neco_fit(train, dim, scaler=True, max_logit=max_logit)
    del state.parameters["scaler"]
    if not state.undefined:
        state.shift = np.zeros_like(state.shift)
        state.scale = np.ones_like(state.scale)
    return state


def neco_over_dimensions(
    features: np.ndarray, logits: np.ndarray, state: Fitted, dims: Sequence[int]
) -> np.ndarray:
    """(N, D) -> (N, K): the score that a state of D - 1 components would have with the first d of
    them, for each of K numbers d."""
    squares = project(features, state).astype(np.float64) ** 2
    lengths = np.sqrt(np.cumsum(squares, axis=1)[:, np.asarray(dims) - 1])
    whole = row_norm((features - state.shift) / state.scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = lengths / whole[:, None]
    return shares * row_max(logits)[:, None] if state.parameters["max_logit"] else shares


def neco_finish(
    components: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Norm of the leading components over the norm of the whole; NaN where the whole is zero."""
    whole = row_norm((features - state.shift) / state.scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = row_norm(components) / whole
    if state.parameters["max_logit"]:
        return share * row_max(logits)
    return share


def cop_fit(train: Training, share: float = 0.85) -> Fitted:
    """- |R'(u - mu_u)|, u = h / |h|, mu_u its mean and R all principal directions of u in training
    but the least number that hold `share` of the variance (Fang et al., NeurIPS 2024).

    0.85 as the authors for CIFAR-10 and ResNet-18; they have 0.99 for ImageNet and ResNet-50."""
    limits.check("CoP", "share", share)
    parameters = {"share": float(share)}
    if train.zero:
        return undefined("CoP", ZERO, parameters)
    if train.width == 1:
        return undefined("CoP", ONE_FEATURE, parameters)
    if train.unit.constant:
        return undefined("CoP", "all training images have the same direction", parameters)
    values, vectors = train.unit.spectrum
    rest = vectors[:, : train.width - dimension_with(share, values[::-1].clip(0))]
    return Fitted(
        parameters=parameters,
        centre=train.unit.mean,
        matrix=rest.astype(np.float32),
        offset=np.zeros(rest.shape[1]),
    )


# ---- leverage ------------------------------------------------------------------------------------


def pnml_fit(train: Training) -> Fitted:
    """- log sum_c p_c / (p_c + (1 - p_c) p_c^g), p = softmax(W u + b) of u = h / |h|, and g the
    larger of |x_0|^2 and x' G^+ x / (1 + x' G^+ x), x = (1, u), G the sum of x x' over training
    images and x_0 the part of x outside its span (Bibas et al., NeurIPS 2021).

    The authors divide by log C. G^+ is cut at 1e-6 of the largest eigenvalue."""
    if train.zero:
        return undefined("pNML", ZERO, {})
    mean = train.unit.mean
    moments = np.empty((train.width + 1, train.width + 1))
    moments[0, 0] = 1
    moments[0, 1:] = moments[1:, 0] = mean
    moments[1:, 1:] = train.unit.second_moment(np.zeros(train.width))
    values, vectors = spectrum(len(train.unit) * moments)
    inside = values > CUTOFF * values[-1]
    root = vectors[:, inside] / np.sqrt(values[inside])
    matrix = np.hstack([root, vectors[:, ~inside]])
    _, b = train.last_layer
    return Fitted(
        parameters={},
        centre=mean,
        matrix=matrix[1:].astype(np.float32),
        offset=matrix[0] + mean @ matrix[1:],
        rank=root.shape[1],
        b=b,
    )


def pnml_finish(
    projected: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Negative regret: the log of what the probabilities sum to where each class in turn is taken
    for the true one, and learned from the image."""
    within = row_norm(projected[:, : state.rank]) ** 2
    outside = row_norm(projected[:, state.rank :]) ** 2
    exponents = np.maximum(outside, within / (1 + within))
    unit_logits = (logits - state.b) / row_norm(features)[:, None] + state.b
    logarithms = log_softmax(unit_logits)
    others = -np.expm1(logarithms)  # 1 - p
    learned = 1 / (1 + others * np.exp((exponents[:, None] - 1) * logarithms))
    return -np.log(learned.sum(axis=1))


# ---- class structure -----------------------------------------------------------------------------


def nci_fit(train: Training, alpha: float = 1e-4) -> Fitted:
    """w_y . (h - mu) / |h - mu| + alpha |h|_1, y the predicted class (Liu and Qin, CVPR 2025).

    alpha = 1e-4 as in OpenOOD, by the same author; the paper tunes it on validation OOD images, and
    pytorch-ood has 0."""
    limits.check("NCI", "alpha", alpha)
    W, b = train.last_layer
    return Fitted(
        parameters={"alpha": float(alpha)},
        mean=train.mean.astype(np.float32),
        base=b + W @ train.mean,
    )


def nci_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """As `nci_fit` has it; w_y . (h - mu) follows from the logits."""
    predicted = logits.argmax(axis=1)
    inner_product = row_max(logits) - state.base[predicted]
    with np.errstate(invalid="ignore", divide="ignore"):
        proximity = inner_product / row_norm(features - state.mean)
    lengths = np.abs(features).sum(axis=1, dtype=np.float64)
    return proximity + state.parameters["alpha"] * lengths


def fdbd_fit(train: Training) -> Fitted:
    """The mean over c other than y of (l_y - l_c) / |w_y - w_c|, over |h - mu| (Liu and Qin, ICML
    2024, eq. 5).

    Rows of W that coincide have no boundary and count as infinitely far apart. OpenOOD sums over
    classes, and may divide by |h|."""
    from scipy.spatial.distance import cdist  # slow to import, and for this method alone

    W = train.last_layer[0].astype(np.float64)
    gaps = cdist(W, W)
    gaps[gaps == 0] = np.inf
    if np.isinf(gaps).all():
        return undefined(
            "fDBD",
            "all classes have the same weights, so that no boundary lies between any two",
            {},
        )
    return Fitted(parameters={}, mean=train.mean.astype(np.float32), gaps=gaps)


def fdbd_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Mean distance to the C - 1 decision boundaries over |h - mu|."""
    others = logits.shape[1] - 1
    margins = row_max(logits)[:, None] - logits
    distances = margins / state.gaps[logits.argmax(axis=1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return distances.sum(axis=1) / others / row_norm(features - state.mean)


def she_fit(train: Training) -> Fitted:
    """h . S_y, S_c the mean feature of the training images of class c that are classified right
    (Zhang et al., ICLR 2023, eq. 7, the form that the authors settle on)."""

    def part(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = train.logits(features).argmax(axis=1) == labels
        sums = class_sums(features, labels, train.classes, right.astype(np.float64))
        return sums, np.bincount(labels[right], minlength=train.classes)

    sums, counts = summed(train.passes(part))
    missing = np.count_nonzero(counts == 0)
    if missing:
        warn(
            "SHE",
            f"{missing} classes have no rightly classified training image; NaN where one is"
            " predicted",
        )
    with np.errstate(invalid="ignore"):
        patterns = sums / counts[:, None]
    return Fitted(parameters={}, patterns=patterns.astype(np.float32))


def she_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Inner product with the pattern of the predicted class."""
    patterns = state.patterns[logits.argmax(axis=1)]
    return np.einsum("nd,nd->n", features, patterns).astype(np.float64)
