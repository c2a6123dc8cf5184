"""Pseudo-inverses of matrices that collapse leaves without full rank: cut off relative to the
largest eigenvalue or singular value."""

import numpy as np

# of the largest eigenvalue or singular value; less is rounding of float32, not variance
CUTOFF = 1e-6
# eigenvalues (D,), least first, and eigenvectors (D, D), one per column
Spectrum = tuple[np.ndarray, np.ndarray]


def spectrum(matrix: np.ndarray) -> Spectrum:
    """The spectrum of a symmetric matrix (D, D)."""
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors


def shrunk(spectrum: Spectrum, share: float) -> Spectrum:
    """The spectrum of (1 - share) covariance + share (mean variance) I."""
    values, vectors = spectrum
    values = values.clip(0)
    return (1 - share) * values + share * values.mean(), vectors


def ledoit_wolf(values: np.ndarray, fourth: float, n: int) -> float:
    """The share of the mean variance that comes nearest, in expectation, to the true covariance of
    n centred rows (Ledoit and Wolf, Journal of Multivariate Analysis 2004, lemma 3.2 ff.).

    values: the eigenvalues (D,) of their covariance, divided by n. fourth: the sum of the fourth
    powers of the rows' lengths. 0 where all eigenvalues are equal."""
    squares = float((values**2).sum())
    spread = squares - values.sum() ** 2 / len(values)  # |S - mean variance I|^2, Frobenius
    noise = (fourth / n - squares) / n  # |S - true covariance|^2, as the rows tell it
    if spread <= 0 or noise <= 0:
        return 0.0
    return min(noise, spread) / spread


def inverse_root(spectrum: Spectrum, ridge: float = 0.0) -> np.ndarray:
    """The spectrum of a covariance -> (D, r): A such that A A' is the pseudo-inverse of
    covariance + ridge * (mean variance) * I."""
    values, vectors = spectrum
    values = values + ridge * values.clip(0).mean()
    # a ridge is there so that nothing is left out
    smallest = 0 if ridge else CUTOFF * values[-1]
    kept = values > smallest
    return vectors[:, kept] / np.sqrt(values[kept])


def dimension_with(share: float, values: np.ndarray) -> int:
    """Eigenvalues (D,), largest first -> the least number of them that hold this share of their
    sum, at most D - 1."""
    shares = np.cumsum(values)
    needed = int(np.searchsorted(shares, share * values.sum())) + 1
    most = max(1, len(values) - 1)
    return min(needed, most)


def vim_origin(W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C, D), (C,) -> (D,) float64: u = -pinv(W) b, the point where all logits are 0.

    Wang et al., CVPR 2022, eq. 4. The cut-off is 1e-6: collapse makes the rows of W sum to zero,
    and the default one inverts that rounding (then |u| = 240,304 where 0.248 is right)."""
    inverse = np.linalg.pinv(W.astype(np.float64), rcond=CUTOFF)
    return -inverse @ b.astype(np.float64)
