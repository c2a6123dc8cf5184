"""Scores by Gaussians that are fitted to the classes: Mahalanobis distances, of features and of
their directions.

`scores.rows` describes them, with a link to each paper. They are linear methods, as
`scores.geometry` explains; those with ++ go by features of length 1. The letters of the formulas
are those of docs/methods.md. An equation number is given where the paper's text could be checked.
"""

from typing import Any

import numpy as np

from scores import limits
from scores.common import ZERO, Fitted, few_images, row_norm, undefined, unit_rows, warn
from scores.spectra import CUTOFF, Spectrum, inverse_root, shrunk, spectrum
from scores.statistics import Statistics
from scores.training_set import Training

NO_SPREAD = "no training image differs from the mean of its class"
ONE_CLASS = "all training images are of one class, whose Gaussian is that of all images"


def _report(method: str, rows: Statistics, rank: int) -> None:
    """Warn of classes without images, and of features that do not vary."""
    absent = rows.classes - len(rows.present)
    if absent:
        warn(
            method,
            f"{absent} of {rows.classes} classes have no training image, and no image can be"
            " nearest to them",
        )
    dead = f"{rows.dead_units} of {rows.width} features are constant in training"
    if rank < rows.width:
        warn(
            method,
            f"the covariance has rank {rank}, {dead}; the pseudo-inverse leaves out what does not"
            " vary",
        )
    elif rows.dead_units:
        warn(method, f"{dead}, and with a ridge they rule the distance")


def _gaussian(
    rows: Statistics, within: np.ndarray, matrix: np.ndarray, parameters: dict[str, Any]
) -> Fitted:
    """The state of a Gaussian distance: `within` (D, r) whitens the class means, `matrix` (D, k)
    the features.

    With fewer rows than features it says so, unless the covariance was shrunk."""
    means = rows.class_means[rows.present] - rows.mean
    is_bare = not (parameters.get("ridge") or "shrinkage" in parameters)
    return Fitted(
        note=few_images(len(rows), rows.width) if is_bare else "",
        parameters=parameters,
        centre=rows.mean,
        matrix=matrix.astype(np.float32),
        offset=np.zeros(matrix.shape[1]),
        means=(means @ within).astype(np.float32),
    )


def _mahalanobis(method: str, rows: Statistics, ridge: float) -> Fitted:
    """The state of a distance to the nearest class mean."""
    limits.check(method, "ridge", ridge)
    parameters = {"ridge": float(ridge)}
    if not len(rows):
        return undefined(method, ZERO, parameters)
    if rows.constant:
        return undefined(method, f"all training images have the same {rows.called}", parameters)
    whitener = inverse_root(rows.spectrum_within, ridge) if ridge else rows.whitener
    rank = whitener.shape[1]
    if not rank:
        return undefined(method, NO_SPREAD, parameters)
    _report(method, rows, rank)
    return _gaussian(rows, whitener, whitener, parameters)


def mahalanobis_fit(train: Training, ridge: float = 0.0) -> Fitted:
    """- min_c (h - mu_c)' Sigma_W^+ (h - mu_c), the class-centred tied covariance (Lee et al.,
    NeurIPS 2018, eq. 2); `ridge`, a share of the mean variance, is added where asked for.

    No ridge by default, unlike pytorch-ood (1e-6): under one, a feature that is constant in
    training gets the largest weight of all, and an OOD image that stirs it yields a meaningless
    AUROC of 1."""
    return _mahalanobis("Mahalanobis", train, ridge)


def mahalanobis_shrunk_fit(train: Training) -> Fitted:
    """- min_c (h - mu_c)' S^-1 (h - mu_c), S = (1 - s) Sigma_W + s (tr Sigma_W / D) I, s the share
    of Ledoit and Wolf (2004) for the features about their class means: scikit-learn's LedoitWolf
    of these, with assume_centered.

    S has full rank for any number of images, and takes the mean variance for its guess where these
    say nothing. A feature that is constant in training counts with that guess."""
    reason = _nothing_to_fit(train)
    if reason:
        return undefined("Mahalanobis-LW", reason, {"shrinkage": None})
    whitener = inverse_root(shrunk(train.spectrum_within, train.shrinkage_within))
    parameters = {"shrinkage": train.shrinkage_within}
    return _gaussian(train, whitener, whitener, parameters)


def _nothing_to_fit(rows: Statistics) -> str:
    """Why no covariance can be shrunk, in words; "" where it can."""
    if rows.constant:
        return f"all training images have the same {rows.called}"
    if not rows.whitener.shape[1]:
        return NO_SPREAD
    return ""


def mahalanobis_unit_fit(train: Training, ridge: float = 0.0) -> Fitted:
    """The same of h / |h|, in training as in testing (Mueller and Hein, ICML 2025)."""
    return _mahalanobis("Mahalanobis++", train.unit, ridge)


def _nearest_square(whitened: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(N, r), (C, r) -> (N,) squared distance to the nearest mean.

    The expanded square only picks the class; the distance is then taken directly, for under
    collapse the squared norms are a million times the distance and the expansion would cancel it
    away."""
    closeness = whitened @ means.T
    closeness -= 0.5 * np.einsum("cr,cr->c", means, means)
    nearest = means[closeness.argmax(axis=1)]
    return row_norm(whitened - nearest) ** 2


def mahalanobis_finish(
    whitened: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Negative squared distance to the nearest class mean; pytorch-ood halves it."""
    return -_nearest_square(whitened, state.means)


def _relative_mahalanobis(method: str, rows: Statistics) -> Fitted:
    """The state of a distance to the mean of all less that to the nearest class mean."""
    if not len(rows):
        return undefined(method, ZERO, {})
    if rows.constant:
        return undefined(method, f"all training images have the same {rows.called}", {})
    if len(rows.present) == 1:
        return undefined(method, ONE_CLASS, {})
    rank = rows.whitener.shape[1]
    if not rank:
        return undefined(method, NO_SPREAD, {})
    _report(method, rows, rank)
    within = rows.whitener
    between = _between(rows)
    if not _spans(rows.spectrum_within, between):
        whole = inverse_root(rows.spectrum)
        return _gaussian(rows, within, np.hstack([within, whole]), {})
    return _relative(rows, within, between, {})


def _relative(
    rows: Statistics, within: np.ndarray, between: np.ndarray, parameters: dict[str, Any]
) -> Fitted:
    """The state of both distances by one product: `within` (D, r) whitens, `between` (P, D) are the
    class means about their mean, which lie where it does.

    Turned so that Sigma is diagonal where Sigma_W is the identity."""
    _, values, turned = np.linalg.svd(between @ within, full_matrices=True)
    within = within @ turned.T
    state = _gaussian(rows, within, within, parameters)
    state.precisions = np.ones(within.shape[1], np.float32)
    state.precisions[: len(values)] /= 1 + values**2
    return state


def _spans(spectrum: Spectrum, between: np.ndarray) -> bool:
    """True if the class means (P, D), about their mean, lie where images vary within classes."""
    values, vectors = spectrum
    without_spread = vectors[:, values <= CUTOFF * values[-1]]
    left = (between @ without_spread) ** 2
    return bool(left.sum() <= CUTOFF * values[-1])


def relative_mahalanobis_fit(train: Training) -> Fitted:
    """(h - mu)' Sigma^+ (h - mu) - min_c (h - mu_c)' Sigma_W^+ (h - mu_c) (Ren et al., 2021,
    eq. 3).

    As Mahalanobis, and one Gaussian for all training features; both by pseudo-inverse, both divided
    by N, where pytorch-ood divides neither, which only scales the score."""
    return _relative_mahalanobis("RelativeMahalanobis", train)


def relative_mahalanobis_shrunk_fit(train: Training) -> Fitted:
    """As `relative_mahalanobis_fit`, Sigma_W shrunk as in `mahalanobis_shrunk_fit`, and Sigma that
    and the spread of the class means.

    Each shrunk by a share of its own, Sigma could be the smaller one where training images say
    nothing, and the difference of the distances turn round: AUROC fell to 18 and 5% on near and far
    photographs, with 1,000 images of 1,280 features."""
    parameters: dict[str, Any] = {"shrinkage": None}
    reason = _nothing_to_fit(train)
    if not reason and len(train.present) == 1:
        reason = ONE_CLASS
    if reason:
        return undefined("RelativeMahalanobis-LW", reason, parameters)
    within = inverse_root(shrunk(train.spectrum_within, train.shrinkage_within))
    parameters = {"shrinkage": train.shrinkage_within}
    return _relative(train, within, _between(train), parameters)


def _between(rows: Statistics) -> np.ndarray:
    """(P, D) the class means about the mean of all, so that their scatter is Sigma - Sigma_W."""
    weights = np.sqrt(rows.counts[rows.present] / len(rows))
    return weights[:, None] * (rows.class_means[rows.present] - rows.mean)


def relative_mahalanobis_unit_fit(train: Training) -> Fitted:
    """The same of h / |h|, in training as in testing (Mueller and Hein, ICML 2025)."""
    return _relative_mahalanobis("RelativeMahalanobis++", train.unit)


# ---- a Gaussian for each class -------------------------------------------------------------------

MOST_NUMBERS = 2**29  # of all classes' covariances: 2 GiB in float32


def gmm_fit(train: Training, ridge: float = 0.1) -> Fitted:
    """max_c log N(h; mu_c, Sigma_c + ridge v I), Sigma_c the covariance of class c and v the mean
    variance within classes (Mueller and Hein, ICML 2025, their baseline).

    The authors add the least power of ten that lets a Cholesky decomposition pass, which is a
    matter of rounding where a class has fewer images than there are features. 0.1 is ours:
    docs/methods.md says why."""
    return _class_gaussians("GMM", train, ridge, unit=False)


def gmm_unit_fit(train: Training, ridge: float = 0.1) -> Fitted:
    """The same of h / |h|, in training as in testing (Mueller and Hein, ICML 2025)."""
    return _class_gaussians("GMM++", train, ridge, unit=True)


def _class_gaussians(method: str, train: Training, ridge: float, unit: bool) -> Fitted:
    """The state of a log density: for each class its mean, the root of its precision and the
    logarithm that goes before the exponent."""
    limits.check(method, "ridge", ridge)
    parameters = {"ridge": float(ridge)}
    rows: Statistics = train.unit if unit else train
    if not len(rows):
        return undefined(method, ZERO, parameters)
    if len(rows.present) * train.width**2 > MOST_NUMBERS:
        text = f"the covariances of {len(rows.present)} classes of {train.width} features are 2 GiB"
        return undefined(method, f"{text} or more", parameters)
    variance = float(np.trace(rows.covariance_within)) / train.width
    if not variance > 0 or rows.constant:
        return undefined(method, NO_SPREAD, parameters)
    state = Fitted(parameters=parameters, unit=unit, means=[], roots=[], constants=[])
    for class_ in rows.present:
        values, vectors = _spectrum_of(train, class_, unit)
        values = values.clip(0) + ridge * variance
        if not values[0] > CUTOFF * values[-1]:
            text = f"the covariance of class {class_} has no inverse; give a larger ridge"
            return undefined(method, text, parameters)
        state.means.append(rows.class_means[class_].astype(np.float32))
        state.roots.append((vectors / np.sqrt(values)).astype(np.float32))
        volume = np.log(2 * np.pi * values).sum()
        state.constants.append(-volume / 2)
    return state


def _spectrum_of(train: Training, class_: int, unit: bool) -> Spectrum:
    """Of the covariance of one class's features, or of their directions, divided by their
    number."""
    features = train.features[train.labels == class_]
    if unit:
        features = unit_rows(features)
        features = features[~np.isnan(features[:, 0])]
    rows = features.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    return spectrum(centred.T @ centred / len(rows))


def gmm_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The largest log density of a class."""
    rows = unit_rows(features) if state.unit else features
    best = np.full(len(rows), -np.inf)
    for mean, root, constant in zip(state.means, state.roots, state.constants, strict=True):
        square = row_norm((rows - mean) @ root) ** 2
        best = np.fmax(best, constant - square / 2)
    return best


# ---- whitened, and split -------------------------------------------------------------------------


def wdiscood_fit(train: Training, weight: float = 5.0, dim: int | None = None) -> Fitted:
    """- (min_c |G'(x - x_c)| + weight |x - x_mu - G G'(x - x_mu)|), x the whitened h, x_c and x_mu
    the whitened mu_c and mu, G the `dim` directions in which the class means differ most: all C - 1
    unless given (Chen et al., ICCV 2023).

    Weight 5 as the authors for ResNet-50 on ImageNet, with all its directions; for ViT they have 1
    and 512, of unit features."""
    limits.check("WDiscOOD", "weight", weight)
    if dim is not None:
        limits.check("WDiscOOD", "dim", dim)
    parameters: dict[str, Any] = {"weight": float(weight), "dim": dim}
    if train.constant:
        return undefined(
            "WDiscOOD", f"all training images have the same {train.called}", parameters
        )
    if len(train.present) == 1:
        text = "all training images are of one class, and no direction tells classes apart"
        return undefined("WDiscOOD", text, parameters)
    rank = train.whitener.shape[1]
    if not rank:
        return undefined("WDiscOOD", NO_SPREAD, parameters)
    _report("WDiscOOD", train, rank)
    between = train.class_means[train.present] - train.mean
    _, _, turned = np.linalg.svd(between @ train.whitener, full_matrices=True)
    most = min(len(between) - 1, rank)
    parameters["dim"] = min(dim or most, most)
    axes = train.whitener @ turned.T
    state = _gaussian(train, axes, axes, parameters)
    state.means = state.means[:, : parameters["dim"]]
    return state


def wdiscood_finish(
    whitened: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """The distance to the nearest class where classes differ, and to the mean of all elsewhere."""
    dim = state.parameters["dim"]
    to_class = np.sqrt(_nearest_square(whitened[:, :dim], state.means))
    return -to_class - state.parameters["weight"] * row_norm(whitened[:, dim:])


def relative_mahalanobis_finish(
    whitened: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Squared distance to the mean of all minus that to the nearest class mean."""
    rank = state.means.shape[1]
    if whitened.shape[1] > rank:
        to_mean = row_norm(whitened[:, rank:]) ** 2
    else:
        to_mean = row_norm(whitened * np.sqrt(state.precisions)) ** 2
    return to_mean - _nearest_square(whitened[:, :rank], state.means)
