"""Scores from shaped activations: the energy with features pruned, clipped or scaled.

Each is a pair `fit(train, **parameters) -> Fitted` and `score(features (N, D), logits (N, C),
fitted) -> (N,)` float64, higher = more in-distribution; `scores.rows` has them as rows, with a link
to each paper. In the formulas, lse is the logsumexp over classes, and h' is h with all but its k
largest activations set to 0, k = D - round(D percentile / 100). An equation number is given where
the paper's text could be checked.
"""

import numpy as np

from scores import limits
from scores.common import Fitted, compute_logits, logsumexp, spaced_rows, undefined, warn
from scores.training_set import Training


def _keep_head(method: str, train: Training, percentile: float) -> Fitted:
    """A state with the last layer and the percentile; warns of features that no ReLU made."""
    limits.check(method, "percentile", percentile)
    if train.smallest < 0:
        warn(
            method,
            f"some features are negative, down to {train.smallest:.3g}; it is made for those after"
            " a ReLU",
        )
    W, b = train.last_layer
    return Fitted(parameters={"percentile": float(percentile)}, W=W, b=b)


def _energy(features: np.ndarray, state: Fitted) -> np.ndarray:
    """(N, D) -> (N,): lse(W h + b)."""
    return logsumexp(compute_logits(features, state.W, state.b))


# ---- clipped -------------------------------------------------------------------------------------


def react_fit(train: Training, percentile: float = 90.0) -> Fitted:
    """lse(W min(h, t) + b), t the percentile of all ID activations (Sun et al., NeurIPS 2021,
    eq. 3).

    The authors take the 90th, of training data; OpenOOD takes t from validation data."""
    state = _keep_head("ReAct", train, percentile)
    activations = train.features[spaced_rows(train)]
    state.threshold = np.float32(np.percentile(activations, percentile))
    if state.threshold <= train.smallest:
        state.alike = (
            f"its threshold, {state.threshold:.4g}, the percentile {percentile:g} of all training"
            " activations, is not above the smallest one, so that all are clipped to it; a larger"
            " percentile helps"
        )
    return state


def react_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of the clipped features."""
    return _energy(np.minimum(features, state.threshold), state)


def vra_fit(train: Training, low: float = 60.0, high: float = 95.0) -> Fitted:
    """lse(W h' + b), h'_d = 0 below a_d, min(h_d, t_d) above, a and t the percentiles `low` and
    `high` of feature d in training (Xu et al., NeurIPS 2023).

    60 and 95 as the authors for CIFAR-100; 60 and 90 for CIFAR-10."""
    limits.check("VRA", "low", low)
    limits.check("VRA", "high", high)
    W, b = train.last_layer
    # by feature, so each feature in one piece of memory
    activations = np.ascontiguousarray(train.features[spaced_rows(train)].T)
    least, most = np.percentile(activations, [low, high], axis=1).astype(np.float32)
    return Fitted(
        parameters={"low": float(low), "high": float(high)}, W=W, b=b, least=least, most=most
    )


def vra_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of the features without what is small, and clipped."""
    shaped = np.minimum(features, state.most)
    shaped[features < state.least] = 0
    return _energy(shaped, state)


BINS = 100  # of the values of activations, as OptFS's authors have them


def optfs_fit(train: Training) -> Fitted:
    """sum_d w_yd theta(h_d) h_d; theta is constant in each of 100 equal bins of activations, and
    proportional to the mean over training images of sum_d w_yd h_d there (Zhao et al., ICLR 2024).

    The bins lie between the 0.1% and 99.9% quantiles of all activations; beyond, theta is 0."""
    activations = train.features[spaced_rows(train)]
    least, most = np.quantile(activations, [0.001, 0.999]).astype(np.float32)
    if not most > least:
        return undefined("OptFS", "all training activations but a few are the same", {})
    W, _ = train.last_layer
    state = Fitted(parameters={}, W=W, least=least, width=(most - least) / np.float32(BINS))

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        weights = W[train.logits(features).argmax(axis=1)] * features
        return np.bincount(_bins(features, state).ravel(), weights.ravel(), BINS + 2)

    sums = train.sum_of(part)
    # the first and the last are of what lies outside
    sums[[0, -1]] = 0
    length = np.linalg.norm(sums)
    if not length > 0:
        return undefined("OptFS", "no activation adds to the logit of a predicted class", {})
    state.theta = (sums / length).astype(np.float32)
    return state


def _bins(features: np.ndarray, state: Fitted) -> np.ndarray:
    """(N, D) -> (N, D) int: 1 to BINS, 0 below, BINS + 1 above."""
    places = np.floor((features - state.least) / state.width)
    return (np.clip(places, -1, BINS) + 1).astype(np.int16)


def optfs_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The logit of the predicted class, by its weights alone, of the shaped features."""
    shaped = state.theta[_bins(features, state)] * features
    weights = state.W[logits.argmax(axis=1)]
    return np.einsum("nd,nd->n", weights, shaped).astype(np.float64)


# ---- pruned and scaled ---------------------------------------------------------------------------


def ash_p_fit(train: Training, percentile: float = 65.0) -> Fitted:
    """lse(W h' + b) (Djurisic et al., ICLR 2023).

    65 is the default of the authors' function; OpenOOD tunes it from 65 to 95."""
    return _keep_head("ASH-P", train, percentile)


def ash_b_fit(train: Training, percentile: float = 65.0) -> Fitted:
    """lse(W h' + b), each kept activation replaced by (sum h) / k (Djurisic et al., ICLR 2023).

    65 is the default of the authors' function; OpenOOD has 90."""
    return _keep_head("ASH-B", train, percentile)


def ash_s_fit(train: Training, percentile: float = 90.0) -> Fitted:
    """lse(W h' exp(sum h / sum h') + b) (Djurisic et al., ICLR 2023).

    90 is what the authors' configurations set for CIFAR-100 and ImageNet; the default of their
    function is 65."""
    return _keep_head("ASH-S", train, percentile)


def scale_fit(train: Training, percentile: float = 85.0) -> Fitted:
    """lse(W h exp(sum h / sum h') + b) (Xu et al., ICLR 2024, eq. 5).

    85 as the authors and OpenOOD have it for ImageNet; pytorch-ood has 65."""
    return _keep_head("SCALE", train, percentile)


def kept_of(width: int, state: Fitted) -> int:
    """k, how many of an image's D activations survive; rounded as the authors do."""
    removed = int(np.round(width * state.parameters["percentile"] / 100))
    return max(1, width - removed)


def _largest_columns(features: np.ndarray, state: Fitted) -> np.ndarray:
    """(N, k): where each image's k largest activations stand; exactly k as the authors, so of ties
    some are left out.

    In half precision ties are common: keeping them all changed the scores of 4 to 6% of the images
    of a bfloat16 extraction."""
    kept = kept_of(features.shape[1], state)
    return np.argpartition(features, -kept, axis=1)[:, -kept:]


def _prune(features: np.ndarray, state: Fitted) -> np.ndarray:
    """(N, D) -> (N, D): h', all but each image's k largest activations set to 0."""
    columns = _largest_columns(features, state)
    largest = np.take_along_axis(features, columns, axis=1)
    pruned = np.zeros_like(features)
    np.put_along_axis(pruned, columns, largest, axis=1)
    return pruned


def sharpening(features: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(N, 1): exp(sum of all activations / sum of the kept ones); NaN where nothing is kept but
    zeros."""
    sum_of_all = features.sum(axis=1, dtype=np.float64)
    sum_of_kept = kept.sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factors = np.exp(sum_of_all / sum_of_kept)
    return factors[:, None]


def ash_p_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of the pruned features."""
    return _energy(_prune(features, state), state)


def ash_b_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of features whose kept entries all equal (sum of all) / (number kept)."""
    columns = _largest_columns(features, state)
    level = features.sum(axis=1, keepdims=True) / columns.shape[1]
    binary = np.zeros_like(features)
    np.put_along_axis(binary, columns, level, axis=1)
    return _energy(binary, state)


def ash_s_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of the pruned features times exp(sum of all / sum of kept)."""
    pruned = _prune(features, state)
    scaled = (pruned @ state.W.T) * sharpening(features, pruned)
    return logsumexp(scaled + state.b)


def scale_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of all features times the factor of ASH-S; the scaled logits follow from the plain
    ones."""
    kept = kept_of(features.shape[1], state)
    largest = np.partition(features, -kept, axis=1)[:, -kept:]
    scaled = (logits - state.b) * sharpening(features, largest)
    return logsumexp(scaled + state.b)


def lts_fit(train: Training, percentile: float = 95.0) -> Fitted:
    """lse(l (sum h / sum h')^2) (Djurisic et al., 2024); negative activations count as 0.

    95 as the authors' configurations for CIFAR-100 and ImageNet; the default of their function is
    65."""
    limits.check("LTS", "percentile", percentile)
    return Fitted(parameters={"percentile": float(percentile)})


def lts_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy of logits that are scaled, their biases too, unlike SCALE's."""
    kept = kept_of(features.shape[1], state)
    activations = np.maximum(features, 0)
    largest = np.partition(activations, -kept, axis=1)[:, -kept:]
    sum_of_all = activations.sum(axis=1, dtype=np.float64)
    factors = sum_of_all / largest.sum(axis=1, dtype=np.float64)
    return logsumexp(logits * factors[:, None] ** 2)


# ---- sparse weights ------------------------------------------------------------------------------


def dice_fit(train: Training, percentile: float = 90.0) -> Fitted:
    """lse(W' h + b), W' with only those weights whose contribution w_cd mu_d is above the
    percentile of all (Sun and Li, ECCV 2022, eq. 3-4).

    90, as the authors and OpenOOD, drops the 90% of weights that contribute least."""
    limits.check("DICE", "percentile", percentile)
    W, b = train.last_layer
    contributions = W * train.mean
    least = np.percentile(contributions, float(percentile))
    sparse = np.where(contributions > least, W, np.float32(0))
    return Fitted(
        parameters={"percentile": float(percentile)},
        centre=train.mean,
        matrix=sparse.T,
        offset=b + sparse @ train.mean,
    )


def dice_finish(
    sparse_logits: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """Energy of the logits of the sparsified head."""
    return logsumexp(sparse_logits)
