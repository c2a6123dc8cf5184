"""NC2: how near class means or weights are to a simplex ETF, or to the best that few dimensions
admit."""

import numpy as np

# undefined where no simplex ETF exists
SIMPLEX = (
    "angle_deviation_mean",
    "angle_deviation_max",
    "gram_distance",
)
GENERALISED = ("cosine_max", "one_vs_rest", "tight_frame_distance")  # defined in any dimension
NC2 = ("norm_cv", "cosine_mean", "cosine_std", *SIMPLEX, *GENERALISED)  # the order of the rows
# between the bounds at which one_vs_rest stops; the value itself is then right to about the gap's
# square
GAP = 1e-7
STEPS = 20_000


def nc2(vectors: np.ndarray) -> dict:
    """How near vectors (C, D), centred class means or weights, are to a simplex ETF, or to the best
    that D admits.

    Where D < C - 1 no simplex ETF exists: the distances to it (SIMPLEX) are None, and GENERALISED
    stand in. A zero vector has no direction: all but norm_cv are None."""
    classes = len(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    values = dict.fromkeys(NC2)
    if norms.max() > 0:
        values["norm_cv"] = float(norms.std() / norms.mean())
    if norms.min() <= 0:
        return values
    unit = vectors / norms[:, None]
    cosines = (unit @ unit.T)[np.triu_indices(classes, 1)]
    values |= {
        "cosine_mean": cosines.mean(),
        "cosine_std": cosines.std(),
        "cosine_max": cosines.max(),
    }
    rank = rank_bound(vectors)
    spectrum = np.linalg.svd(vectors, compute_uv=False) ** 2  # the Gram matrix's eigenvalues
    target = (np.arange(len(spectrum)) < rank) / np.sqrt(rank)
    values["tight_frame_distance"] = np.linalg.norm(spectrum / np.linalg.norm(spectrum) - target)
    values["one_vs_rest"] = one_vs_rest(unit)
    if rank == classes - 1:
        deviation = np.abs(cosines + 1 / (classes - 1))
        gram = vectors @ vectors.T
        etf = (np.eye(classes) - 1 / classes) / np.sqrt(classes - 1)
        distance = np.linalg.norm(gram / np.linalg.norm(gram) - etf)
        values |= dict(zip(SIMPLEX, (deviation.mean(), deviation.max(), distance), strict=True))
    return {name: plain(value) for name, value in values.items()}


def one_vs_rest(unit: np.ndarray) -> float:
    """Unit vectors (C, D) -> the least distance of one of them to the convex hull of the others
    (Jiang et al. 2024).

    A quadratic programme a class, all at once: accelerated projected gradient steps (Beck and
    Teboulle 2009) with restarts (O'Donoghue and Candes 2015) on the weights of the others, in the
    Gram matrix alone. The residual of any weights bounds the distance from above and, as the normal
    of a separating plane, from below; a class whose lower bound reaches the least upper bound
    cannot be the nearest and is dropped. 100 classes take 0.03 s, 1,000 about 1 s."""
    gram = unit @ unit.T
    step, alive, least = 1 / np.linalg.eigvalsh(gram)[-1], np.arange(len(unit)), np.inf
    weights = (1 - np.eye(len(unit))) / (len(unit) - 1)
    ahead, momentum = weights, np.ones(len(unit))
    for count in range(STEPS):
        own = np.arange(len(alive)), alive
        moved = ahead - step * (ahead @ gram - gram[alive])
        moved[own] = -np.inf  # no vector helps to reach itself
        moved = onto_simplex(moved)
        against = ((ahead - moved) * (moved - weights)).sum(axis=1) > 0
        onward = np.where(against, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        factor = np.where(onward == 1, 0, (momentum - 1) / onward)  # 1: a restart
        ahead, weights, momentum = moved + factor[:, None] * (moved - weights), moved, onward
        if count % 10:
            continue
        # of the residual r = weights V - v_k with every v_j
        products = weights @ gram - gram[alive]
        distance = np.sqrt(np.maximum((weights * products).sum(axis=1) - products[own], 0))
        least = min(least, distance.min())
        margin = products - products[own][:, None]
        margin[own] = np.inf
        kept = margin.min(axis=1) < (least - GAP) * distance
        if not kept.any():
            break
        alive, weights, ahead, momentum = alive[kept], weights[kept], ahead[kept], momentum[kept]
    return float(least)


def onto_simplex(rows: np.ndarray) -> np.ndarray:
    """The nearest points of rows (n, C) that are non-negative and sum to one (Duchi et al. 2008);
    -inf becomes 0."""
    ordered = -np.sort(-rows, axis=1)
    with np.errstate(invalid="ignore"):
        surplus = np.cumsum(ordered, axis=1) - 1
        count = (ordered * np.arange(1, rows.shape[1] + 1) > surplus).sum(axis=1)
    return np.maximum(rows - (surplus[np.arange(len(rows)), count - 1] / count)[:, None], 0)


def rank_bound(vectors: np.ndarray) -> int:
    """Largest rank of C centred vectors (C, D)."""
    return min(len(vectors) - 1, vectors.shape[1])


def plain(value):
    """A NumPy scalar as Python's own; NaN as None, the empty cell."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value != value else value
