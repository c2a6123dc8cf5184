"""Scores from where features lie: distances, subspaces, class structure.

`scores.rows` describes them. Those of kind "linear" share one large product in
`scores.registry.score_all`: `projected = (features - fitted.centre) @ fitted.matrix +
fitted.offset`, which `finish(projected, features, logits, fitted)` receives.
"""

import numpy as np

from scores.blocks import summed
from scores.common import (
    Fitted,
    class_sums,
    compute_logits,
    logsumexp,
    row_max,
    row_norm,
    undefined,
    warn,
)

CONSTANT = "all training images have the same features"
NO_SPREAD = "no training image differs from the mean of its class"
ONE_FEATURE = "it needs at least 2 features to tell directions apart, and there is 1"
# of the largest eigenvalue or singular value; less is rounding of float32, not variance
CUTOFF = 1e-6


def project(features, state) -> np.ndarray:
    """(N, D) -> (N, k): the product that a linear method needs."""
    return (features - state.centre.astype(np.float32)) @ state.matrix + state.offset.astype(
        np.float32
    )


def linear(finish):
    """The stand-alone score of a linear method."""
    return lambda features, logits, state: finish(project(features, state), features, logits, state)


# ---- Gaussian distances ----


def inverse_root(spectrum, ridge: float = 0.0) -> np.ndarray:
    """Eigenvalues and eigenvectors of a covariance (D, D) -> (D, r): A such that A A' is the
    pseudo-inverse of covariance + ridge * (mean variance) * I."""
    values, vectors = spectrum
    values = values + ridge * values.clip(0).mean()
    # a ridge is there so that nothing is left out
    kept = values > (0 if ridge else CUTOFF * values[-1])
    return vectors[:, kept] / np.sqrt(values[kept])


def _report(method: str, train, rank: int):
    absent = train.classes - len(train.present)
    if absent:
        warn(
            method,
            f"{absent} of {train.classes} classes have no training image, and no image can be"
            " nearest to them",
        )
    dead = f"{train.dead_units} of {train.width} features are constant in training"
    if rank < train.width:
        warn(
            method,
            f"the covariance has rank {rank}, {dead}; the pseudo-inverse leaves out what does not"
            " vary",
        )
    elif train.dead_units:
        warn(method, f"{dead}, and with a ridge they rule the distance")


def mahalanobis_fit(train, ridge: float = 0.0) -> Fitted:
    """Class-centred tied covariance, pseudo-inverse; `ridge`, a share of the mean variance, is
    added where asked for.

    No ridge by default, unlike pytorch-ood (1e-6): under one, a feature that is constant in
    training gets the largest weight of all, and an OOD image that stirs it yields an AUROC of 1 out
    of nothing."""
    if not ridge >= 0:
        raise ValueError(
            f"Mahalanobis: the ridge is {ridge}; expected 0 or a share of the mean variance, such"
            " as 1e-4"
        )
    if train.constant:
        return undefined("Mahalanobis", CONSTANT, {"ridge": float(ridge)})
    matrix = inverse_root(train.spectrum_within, ridge) if ridge else train.whitener
    if not matrix.shape[1]:
        return undefined("Mahalanobis", NO_SPREAD, {"ridge": float(ridge)})
    _report("Mahalanobis", train, matrix.shape[1])
    return Fitted(
        parameters={"ridge": float(ridge)},
        centre=train.mean,
        matrix=matrix.astype(np.float32),
        offset=np.zeros(matrix.shape[1]),
        means=((train.class_means[train.present] - train.mean) @ matrix).astype(np.float32),
    )


def _nearest_square(whitened, means) -> np.ndarray:
    """(N, r), (C, r) -> (N,) squared distance to the nearest mean.

    The expanded square only picks the class; the distance is then taken directly, for under
    collapse the squared norms are a million times the distance and the expansion would cancel it
    away."""
    closeness = whitened @ means.T
    closeness -= 0.5 * np.einsum("cr,cr->c", means, means)
    return row_norm(whitened - means[closeness.argmax(axis=1)]) ** 2


def mahalanobis_finish(whitened, features, logits, state) -> np.ndarray:
    """Negative squared distance to the nearest class mean (eq. 2); pytorch-ood halves it."""
    return -_nearest_square(whitened, state.means)


def relative_mahalanobis_fit(train) -> Fitted:
    """As Mahalanobis, and one Gaussian for all training features; both by pseudo-inverse, both
    divided by N."""
    if train.constant:
        return undefined("RelativeMahalanobis", CONSTANT, {})
    if len(train.present) == 1:
        return undefined(
            "RelativeMahalanobis",
            "all training images are of one class, whose Gaussian is that of all images",
            {},
        )
    within, whole = train.whitener, inverse_root(train.spectrum)
    if not within.shape[1]:
        return undefined("RelativeMahalanobis", NO_SPREAD, {})
    _report("RelativeMahalanobis", train, within.shape[1])
    matrix = np.hstack([within, whole])
    return Fitted(
        parameters={},
        centre=train.mean,
        matrix=matrix.astype(np.float32),
        offset=np.zeros(matrix.shape[1]),
        means=((train.class_means[train.present] - train.mean) @ within).astype(np.float32),
    )


def relative_mahalanobis_finish(whitened, features, logits, state) -> np.ndarray:
    """Squared distance to the mean of all minus that to the nearest class mean (eq. 3).

    pytorch-ood divides neither covariance by N, which only scales the score.
    """
    rank = state.means.shape[1]
    return row_norm(whitened[:, rank:]) ** 2 - _nearest_square(whitened[:, :rank], state.means)


# ---- subspaces ----


def _dimension(method: str, dim: int, width: int) -> int:
    if not 1 <= dim < width:
        raise ValueError(
            f"{method}: the principal dimension is {dim}; expected 1 to {width - 1} for {width}"
            " features"
        )
    return int(dim)


def vim_origin(W, b) -> np.ndarray:
    """(D,) float64, u = -pinv(W) b, the point where all logits are 0.

    The cut-off is 1e-6: collapse makes the rows of W sum to zero, and the default one inverts that
    rounding (then |u| = 240,304 where 0.248 is right)."""
    return -np.linalg.pinv(W.astype(np.float64), rcond=CUTOFF) @ b.astype(np.float64)


def _residual_space(train, method: str, dim: int | None) -> Fitted:
    """Directions of least second moment about u, not mean-centred: all but the first `dim`.

    `dim`: 1000 for D >= 2048, 512 for D >= 768, else D/2, as ViM's authors have it.
    """
    if dim is None:
        dim = (
            1000 if train.width >= 2048 else 512 if train.width >= 768 else max(1, train.width // 2)
        )
    if train.width == 1:
        return undefined(method, ONE_FEATURE, {"dim": None})
    dim = _dimension(method, dim, train.width)
    if train.constant:
        return undefined(method, CONSTANT, {"dim": dim})
    if not train.b.any():
        warn(method, "the head has no bias, so the residual is measured from the zero vector")
    matrix = train.vim_axes[:, : train.width - dim]
    offset = (train.mean - train.vim_origin) @ matrix
    state = Fitted(
        parameters={"dim": dim}, centre=train.mean, matrix=matrix.astype(np.float32), offset=offset
    )
    residual = sum(
        train.passes(lambda features, labels: row_norm(project(features, state)).sum())
    ) / len(train)
    if not residual > CUTOFF * np.sqrt(
        np.trace(train.covariance)
    ):  # what rounding leaves had an AUROC of 90%
        return undefined(
            method,
            f"the training features leave no residual beyond {dim} dimensions; give a smaller dim",
            {"dim": dim},
        )
    state.mean_residual = residual
    return state


def vim_fit(train, dim: int | None = None) -> Fitted:
    """The residual space, and alpha = mean largest logit / mean residual norm over the training
    images (eq. 5)."""
    state = _residual_space(train, "ViM", dim)
    if "undefined" in vars(state):
        return state
    largest = sum(
        train.passes(
            lambda features, labels: row_max(compute_logits(features, train.W, train.b)).sum()
        )
    )
    state.alpha = largest / len(train) / state.mean_residual
    return state


def vim_finish(residual, features, logits, state) -> np.ndarray:
    """logsumexp(logits) - alpha * residual norm (eq. 6 without the softmax, the same order)."""
    return logsumexp(logits) - state.alpha * row_norm(residual)


def residual_fit(train, dim: int | None = None) -> Fitted:
    """ViM's residual space; OpenOOD fixes dim at 512."""
    return _residual_space(train, "Residual", dim)


def residual_finish(residual, features, logits, state) -> np.ndarray:
    """Negative norm of the residual."""
    return -row_norm(residual)


def neco_fit(train, dim: int | None = None, scaler: bool = True, max_logit: bool = False) -> Fitted:
    """PCA of the standardised features; `dim` by ID alone: the least with 90% of the variance (the
    authors tune it).

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
    scale = train.scale if scaler else np.ones(train.width)
    values, vectors = train.spectrum_standardised if scaler else train.spectrum
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    if dim is None:
        needed = int(np.searchsorted(np.cumsum(values), 0.9 * values.sum())) + 1
        dim = min(needed, max(1, train.width - 1))
    dim = _dimension("NECO", dim, train.width)
    return Fitted(
        parameters={"dim": dim, **switches},
        centre=train.mean,
        matrix=(vectors[:, :dim] / scale[:, None]).astype(np.float32),
        offset=np.zeros(dim),
        shift=(train.mean if scaler else np.zeros(train.width)).astype(np.float32),
        scale=scale.astype(np.float32),
    )


def neco_etf_fit(train, scaler: bool = True, max_logit: bool = False) -> Fitted:
    """C - 1 components, as many as the class means of a collapsed network span: a `dim` that no
    data choose."""
    return neco_fit(
        train, min(max(1, train.classes - 1), max(1, train.width - 1)), scaler, max_logit
    )


def neco_finish(components, features, logits, state) -> np.ndarray:
    """Norm of the leading components over the norm of the whole (eq. 7); NaN where the whole is
    zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = row_norm(components) / row_norm((features - state.shift) / state.scale)
    return share * row_max(logits) if state.parameters["max_logit"] else share


# ---- class structure ----


def nci_fit(train, alpha: float = 1e-4) -> Fitted:
    """alpha = 1e-4 as in OpenOOD, by the same author; the paper tunes it on validation OOD,
    pytorch-ood has 0."""
    return Fitted(
        parameters={"alpha": float(alpha)},
        mean=train.mean.astype(np.float32),
        base=train.b + train.W @ train.mean,
    )


def nci_score(features, logits, state) -> np.ndarray:
    """w . (h - mean) / |h - mean| of the predicted class, plus alpha |h|_1; w . (h - mean) follows
    from the logits."""
    predicted = logits.argmax(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        proximity = (row_max(logits) - state.base[predicted]) / row_norm(features - state.mean)
    return proximity + state.parameters["alpha"] * np.abs(features).sum(axis=1, dtype=np.float64)


def fdbd_fit(train) -> Fitted:
    """Distances between the rows of W; rows that coincide have no boundary and count as infinitely
    far."""
    from scipy.spatial.distance import cdist  # slow to import, and for this method alone

    gaps = cdist(train.W.astype(np.float64), train.W.astype(np.float64))
    gaps[gaps == 0] = np.inf
    if np.isinf(gaps).all():
        return undefined(
            "fDBD",
            "all classes have the same weights, so that no boundary lies between any two",
            {},
        )
    return Fitted(parameters={}, mean=train.mean.astype(np.float32), gaps=gaps)


def fdbd_score(features, logits, state) -> np.ndarray:
    """Mean distance to the C - 1 decision boundaries over |h - mean| (eq. 5); OpenOOD sums, and may
    divide by |h|."""
    distances = (row_max(logits)[:, None] - logits) / state.gaps[logits.argmax(axis=1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return distances.sum(axis=1) / (logits.shape[1] - 1) / row_norm(features - state.mean)


def she_fit(train) -> Fitted:
    """A pattern a class: the mean feature of its rightly classified training images."""
    classes = len(train.W)

    def part(features, labels):
        right = compute_logits(features, train.W, train.b).argmax(axis=1) == labels
        sums = class_sums(features, labels, classes, right.astype(np.float64))
        return sums, np.bincount(labels[right], minlength=classes)

    sums, counts = summed(train.passes(part))
    if not counts.all():
        missing = np.count_nonzero(counts == 0)
        warn(
            "SHE",
            f"{missing} classes have no rightly classified training image; NaN where one is"
            " predicted",
        )
    with np.errstate(invalid="ignore"):
        return Fitted(parameters={}, patterns=(sums / counts[:, None]).astype(np.float32))


def she_score(features, logits, state) -> np.ndarray:
    """Inner product with the pattern of the predicted class, the form that the authors settle on
    (eq. 7)."""
    return np.einsum("nd,nd->n", features, state.patterns[logits.argmax(axis=1)]).astype(np.float64)
