"""The threshold that keeps a share of ID images. Apart from the metrics, whose imports a detector
would wait for."""

import numpy as np
from numpy.typing import ArrayLike

from arrays import checked_scores


def threshold_at_tpr(id_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Highest threshold for which `score >= threshold` keeps at least the share `tpr` of ID; ties
    may keep more.

    NaN where an ID score is NaN: no threshold is then honest.
    """
    scores = checked_scores(id_scores, "ID")
    if np.isnan(scores).any():
        return float("nan")
    rank = scores.size - needed(tpr, scores.size)
    return float(np.partition(scores, rank)[rank])


def needed(tpr: float, n: int) -> int:
    """Least number of images that is at least the share `tpr` of n; 1e-9 absorbs 0.55 * 100 =
    55.00000000000001."""
    least = np.ceil(share_of(tpr) * n - 1e-9)
    return max(1, int(least))


def share_of(tpr: float) -> float:
    if not 0 < tpr <= 1:
        raise ValueError(
            f"the share to keep is {tpr}; expected a fraction above 0 and at most 1, such as 0.95"
        )
    return float(tpr)
