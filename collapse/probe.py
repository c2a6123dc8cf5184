"""The least-squares probe: a stand-in for the head that a layer lacks, from its moments alone."""

from dataclasses import dataclass

import numpy as np

from moments import EPSILON, Moments


@dataclass(frozen=True, eq=False)
class Probe:
    """The stand-in for a layer's head, and the class means that NC4 compares it with."""

    W: np.ndarray  # (C, D)
    b: np.ndarray  # (C,)
    means: np.ndarray  # (C, D)


def total(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of all images: Sigma_W, and between the class means, weighed
    by their images."""
    present = moments.present
    weight = moments.counts[present] / moments.counts.sum()
    means = moments.means[present]
    mean = weight @ means
    deviations = (means - mean) * np.sqrt(weight)[:, None]
    return mean, moments.within + deviations.T @ deviations


def least_squares_head(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) and b (C,) that come nearest, in squared error over the images, to one-hot targets:
    W = (n_c/N) (mu_c - mu) Sigma^+, b = n_c/N - W mu, with mu and Sigma of all images.

    The normal equations need nothing but the moments; those of exact=True, since a covariance from
    float32 products has noise where the features hardly vary. No ridge: directions without variance
    get no weight (the least norm). Classes without images get zeros."""
    classes, width = moments.means.shape
    present = moments.present
    mean, covariance = total(moments)
    inverse = np.linalg.pinv(covariance, rcond=width * EPSILON, hermitian=True)
    weight = moments.counts[present] / moments.counts.sum()
    deviations = moments.means[present] - mean
    W = np.zeros((classes, width))
    b = np.zeros(classes)
    W[present] = weight[:, None] * deviations @ inverse
    b[present] = weight - W[present] @ mean
    return W, b
