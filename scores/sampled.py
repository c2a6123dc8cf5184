"""Scores that draw at random, always from the same seed: CoRP and WeiPer+KLD.

`scores.rows` describes them, with a link to each paper. They are variants, computed where they are
named, for they take many times as long as others. The letters of the formulas are those of
docs/methods.md.
"""

from collections.abc import Iterator

import numpy as np

from scores import limits
from scores.common import ZERO, Fitted, row_norm, undefined, unit_rows
from scores.spectra import dimension_with, spectrum
from scores.training_set import Training

SEED = 0


# ---- kernel PCA ----------------------------------------------------------------------------------


def corp_fit(
    train: Training, share: float = 0.8, kernel_gamma: float = 2.0, random_features: int = 2048
) -> Fitted:
    """- |R'(f(u) - mu_f)|, f(u) = sqrt(2 / M) cos(A u + t), u = h / |h|: CoP of M random Fourier
    features of the kernel exp(-kernel_gamma |u - v|^2) (Fang et al., NeurIPS 2024; Rahimi and
    Recht 2007).

    The authors' values for CIFAR-10 and ResNet-18; 0.5, 3 and 4096 for ImageNet and ResNet-50."""
    limits.check("CoRP", "share", share)
    limits.check("CoRP", "kernel_gamma", kernel_gamma)
    limits.check("CoRP", "random_features", random_features)
    parameters = {
        "share": float(share),
        "kernel_gamma": float(kernel_gamma),
        "random_features": int(random_features),
    }
    if train.zero:
        return undefined("CoRP", ZERO, parameters)
    if train.unit.constant:
        return undefined("CoRP", "all training images have the same direction", parameters)
    generator = np.random.default_rng(SEED)
    directions = generator.normal(0, np.sqrt(2 * kernel_gamma), (train.width, random_features))
    phases = generator.uniform(0, 2 * np.pi, random_features)
    state = Fitted(
        parameters=parameters,
        directions=directions.astype(np.float32),
        phases=phases.astype(np.float32),
    )

    def total(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return _fourier(units, state).sum(axis=0, dtype=np.float64)

    state.mean = (train.unit.sum_of(total) / len(train.unit)).astype(np.float32)

    def scatter(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
        centred = _fourier(units, state) - state.mean
        return (centred.T @ centred).astype(np.float64)

    values, vectors = spectrum(train.unit.sum_of(scatter) / len(train.unit))
    kept = dimension_with(share, values[::-1].clip(0))
    state.rest = vectors[:, : random_features - kept].astype(np.float32)
    return state


def _fourier(units: np.ndarray, state: Fitted) -> np.ndarray:
    """(n, D) of length 1 -> (n, M) float32, whose inner products are near the kernel's values."""
    angles = units @ state.directions + state.phases
    return np.cos(angles) * np.float32(np.sqrt(2 / len(state.phases)))


def corp_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Negative length of what the principal directions of the random features leave."""
    centred = _fourier(unit_rows(features), state) - state.mean
    return -row_norm(centred @ state.rest)


# ---- perturbed weights ---------------------------------------------------------------------------

AT_ONCE = 4096  # perturbed logits of an image
FLOOR, PERTURBED_FLOOR = 0.01, 0.025  # added to every bin, as the authors have them


def weiper_fit(
    train: Training,
    distance: float = 2.4,
    repeats: int = 100,
    bins: int = 100,
    smooth: int = 4,
    smooth_perturbed: int = 40,
    perturbed_weight: float = 0.1,
    msp_weight: float = 1.0,
) -> Fitted:
    """- K(h) - perturbed_weight K(l~) + msp_weight m(l~), l~ the logits by `repeats` copies of W,
    each row w_c moved by `distance` |w_c| in a random direction, m the mean over copies of their
    largest softmax, K(v) the symmetric KL divergence of the histogram of an image's values v and
    that of all training images (Granz et al., NeurIPS 2024, eq. 7).

    The authors' values for CIFAR-100 and ResNet-18, found on validation OOD images."""
    given = {
        "distance": float(distance),
        "repeats": int(repeats),
        "bins": int(bins),
        "smooth": int(smooth),
        "smooth_perturbed": int(smooth_perturbed),
        "perturbed_weight": float(perturbed_weight),
        "msp_weight": float(msp_weight),
    }
    limits.check("WeiPer+KLD", "distance", distance)
    limits.check("WeiPer+KLD", "repeats", repeats)
    limits.check("WeiPer+KLD", "bins", bins)
    limits.check("WeiPer+KLD", "smooth", smooth)
    limits.check("WeiPer+KLD", "smooth_perturbed", smooth_perturbed)
    limits.check("WeiPer+KLD", "perturbed_weight", perturbed_weight)
    limits.check("WeiPer+KLD", "msp_weight", msp_weight)
    W, b = train.last_layer
    state = Fitted(parameters=given, b=b, copies=_perturbed(W, distance, repeats))
    state.edges = _edges(train, state)
    if (state.edges[:, 1] <= state.edges[:, 0]).any():
        return undefined("WeiPer+KLD", "all training features, or logits, are the same", given)

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        plain = _histograms(features, state.edges[0], bins).sum(axis=0)
        perturbed, _ = _perturbed_histograms(features, state)
        return np.stack([plain, perturbed.sum(axis=0)])

    state.typical = train.sum_of(part)
    return state


def _perturbed(W: np.ndarray, distance: float, repeats: int) -> np.ndarray:
    """(C, D) -> (repeats, C, D) float32."""
    generator = np.random.default_rng(SEED)
    copies = np.empty((repeats, *W.shape), np.float32)
    lengths = row_norm(W)[:, None]
    for copy in copies:
        directions = generator.standard_normal(W.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        copy[:] = W + distance * lengths * directions
    return copies


def _perturbed_logits(features: np.ndarray, state: Fitted) -> Iterator[np.ndarray]:
    """(n, D) -> (n, r, C), for a few copies r at a time."""
    classes = len(state.b)
    step = max(1, AT_ONCE // classes)
    for start in range(0, len(state.copies), step):
        copies = state.copies[start : start + step]
        logits = features @ copies.reshape(-1, features.shape[1]).T
        yield logits.reshape(len(features), -1, classes) + state.b


def _edges(train: Training, state: Fitted) -> np.ndarray:
    """-> (2, 2): the least and the largest of the features, and of the perturbed logits."""

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        lows, highs = [features.min()], [features.max()]
        for logits in _perturbed_logits(features, state):
            lows.append(logits.min())
            highs.append(logits.max())
        return np.array([[lows[0], highs[0]], [min(lows[1:]), max(highs[1:])]])

    found = np.stack(list(train.passes(part)))
    return np.stack([found[:, :, 0].min(axis=0), found[:, :, 1].max(axis=0)], axis=1)


def _histograms(values: np.ndarray, edges: np.ndarray, bins: int) -> np.ndarray:
    """(n, k) -> (n, bins) float64: how many of each row's values lie in each of equally wide bins
    between the edges; the last bin holds its upper edge."""
    low, high = edges
    places = np.floor((values - low) * np.float32(bins / (high - low))).astype(np.int32)
    places[values == high] = bins - 1
    inside = (places >= 0) & (places < bins)
    rows = np.arange(len(values), dtype=np.int32)[:, None] * bins
    counts = np.bincount((rows + places)[inside], minlength=len(values) * bins)
    return counts.reshape(len(values), bins).astype(np.float64)


def _perturbed_histograms(features: np.ndarray, state: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """-> the histograms (n, bins) of the perturbed logits, and the mean (n,) over copies of their
    largest softmax."""
    bins = state.parameters["bins"]
    counts = np.zeros((len(features), bins))
    confidence = np.zeros(len(features))
    for logits in _perturbed_logits(features, state):
        counts += _histograms(logits.reshape(len(features), -1), state.edges[1], bins)
        logits -= logits.max(axis=2, keepdims=True)
        largest = 1 / np.exp(logits, out=logits).sum(axis=2)
        confidence += largest.sum(axis=1, dtype=np.float64)
    return counts, confidence / len(state.copies)


def _smoothed(counts: np.ndarray, size: int) -> np.ndarray:
    """(n, bins) -> (n, bins): means over `size` neighbouring bins, one more to the right where it
    is even; the outermost bins stand for what lies beyond them."""
    left = (size - 1) // 2
    padded = np.pad(counts, ((0, 0), (left + 1, size - 1 - left)), mode="edge")
    padded[:, 0] = 0
    sums = np.cumsum(padded, axis=1)
    return (sums[:, size:] - sums[:, :-size]) / size


def _divergence(counts: np.ndarray, typical: np.ndarray, size: int, floor: float) -> np.ndarray:
    """Histograms (n, bins) and that of all training images (bins,) -> KL(p, q) + KL(q, p) (n,), q
    the smoothed shares of an image, p those of training; `floor` is added to each share."""
    with np.errstate(invalid="ignore"):
        q = _smoothed(counts / counts.sum(axis=1, keepdims=True), size) + floor
    p = typical / typical.sum() + floor
    q /= q.sum(axis=1, keepdims=True)
    p /= p.sum()
    return ((p - q) * (np.log(p) - np.log(q))).sum(axis=1)


def weiper_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """How ordinary the histograms are, and the confidence by perturbed weights."""
    given = state.parameters
    plain = _histograms(features, state.edges[0], given["bins"])
    perturbed, confidence = _perturbed_histograms(features, state)
    of_features = _divergence(plain, state.typical[0], given["smooth"], FLOOR)
    of_logits = _divergence(perturbed, state.typical[1], given["smooth_perturbed"], PERTURBED_FLOOR)
    return given["msp_weight"] * confidence - of_features - given["perturbed_weight"] * of_logits
