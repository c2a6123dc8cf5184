"""Scores from the likeness of an image to the means of classes: CARef, CADRef, Cosine, CTM, ORA,
CORE.

`scores.rows` describes them, with a link to each paper; Cosine is a linear method, as
`scores.geometry` explains, the others are pairs of `fit` and `score`. The letters of the formulas
are those of docs/methods.md. An equation number is given where the paper's text could be checked.
"""

import numpy as np

from scores.common import (
    ZERO,
    Fitted,
    logsumexp,
    row_max,
    row_norm,
    undefined,
    unit_rows,
)
from scores.spectra import CUTOFF
from scores.statistics import CONSTANT
from scores.training_set import Training

ONE_CLASS = "all classes have the same weights, so that no boundary lies between any two"


# ---- against the mean of the predicted class -----------------------------------------------------


def caref_fit(train: Training) -> Fitted:
    """- |h - m_y|_1 / |h|_1, m_c the mean of the training images that are predicted as c (Ling et
    al., CVPR 2025)."""
    return Fitted(parameters={}, means=train.by_prediction.means.astype(np.float32))


def caref_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The L1 distance to the mean of the predicted class, over the L1 norm, negative."""
    errors = features - state.means[logits.argmax(axis=1)]
    return -_length(errors) / _length(features)


def cadref_fit(train: Training) -> Fitted:
    """- (e+ / lse(l) + e- / mean of lse(l) over training images), e+ and e- the parts of CARef's
    error along the signs of w_y and against them (Ling et al., CVPR 2025).

    The logit score is the energy, the default of the authors' code, which also has MSP, MaxLogit
    and GEN."""
    W, _ = train.last_layer
    if not train.by_prediction.mean_energy > 0:
        return undefined(
            "CADRef",
            "the mean energy of the training images is not above 0, and the error is divided by it",
            {},
        )
    return Fitted(
        parameters={},
        means=train.by_prediction.means.astype(np.float32),
        signs=np.sign(W),
        mean_energy=train.by_prediction.mean_energy,
    )


def cadref_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """NaN where the energy is not above 0: the authors' code divides by it all the same, and calls
    an image of little evidence ID."""
    predicted = logits.argmax(axis=1)
    errors = features - state.means[predicted]
    errors *= state.signs[predicted]
    along = np.maximum(errors, 0).sum(axis=1, dtype=np.float64)
    against = -np.minimum(errors, 0).sum(axis=1, dtype=np.float64)
    energy = logsumexp(logits)
    energy[energy <= 0] = np.nan
    weighted = along / energy + against / state.mean_energy
    return -weighted / _length(features)


def _length(rows: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,) float64, the L1 norm."""
    return np.abs(rows).sum(axis=1, dtype=np.float64)


# ---- cosines -------------------------------------------------------------------------------------


def cosine_fit(train: Training) -> Fitted:
    """The largest cosine of h with a class mean, the baseline of ORA's authors (Demirel et al.,
    NeurIPS 2025)."""
    directions = unit_rows(train.class_means[train.present])
    directions = directions[~np.isnan(directions[:, 0])]
    if not len(directions):
        return undefined("Cosine", ZERO, {})
    # about the mean direction, so that the float32 product of rows that are alike loses no digit
    centre = train.unit.mean
    return Fitted(
        parameters={},
        centre=centre,
        matrix=directions.T.astype(np.float32),
        offset=directions @ centre,
    )


def cosine_finish(
    cosines: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """The largest of an image's cosines (N, C)."""
    return row_max(cosines)


def ctm_fit(train: Training) -> Fitted:
    """The cosine of h with mu_y, y the predicted class (Ngoc-Hieu et al., 2023)."""
    return Fitted(parameters={}, directions=unit_rows(train.class_means).astype(np.float32))


def ctm_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Cosine with the mean of the predicted class."""
    directions = state.directions[logits.argmax(axis=1)]
    products = np.einsum("nd,nd->n", unit_rows(features), directions)
    return products.astype(np.float64)


# ---- angles to the decision boundaries -----------------------------------------------------------


def ora_fit(train: Training) -> Fitted:
    """The largest angle, seen from mu_G, between h and its projections onto the boundaries of the
    predicted class, mu_G the mean of the class means (Demirel et al., NeurIPS 2025).

    Rows of W that coincide have no boundary."""
    from scipy.spatial.distance import cdist  # slow to import, and for this method and fDBD alone

    W, b = (part.astype(np.float64) for part in train.last_layer)
    gaps = cdist(W, W)
    gaps[gaps == 0] = np.inf
    if np.isinf(gaps).all():
        return undefined("ORA", ONE_CLASS, {})
    centre = train.class_means[train.present].mean(axis=0)
    return Fitted(
        parameters={}, centre=centre.astype(np.float32), at_centre=W @ centre + b, gaps=gaps
    )


def ora_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """In radians; the authors divide by pi.

    With a = h - mu_G and n_c the unit normal of the boundary to c, at distance d_c, the projection
    is a - d_c n_c, and the tangent of the angle d_c |a - (a . n_c) n_c| / (|a|^2 - d_c a . n_c).
    All of it follows from the logits, and a small angle loses no digit, as by an arc cosine it
    would."""
    predicted = logits.argmax(axis=1)
    gaps = state.gaps[predicted]
    margins = row_max(logits)[:, None] - logits
    margins_at_centre = state.at_centre[predicted][:, None] - state.at_centre
    distances = margins / gaps
    along_normals = (margins - margins_at_centre) / gaps
    squares = row_norm(features - state.centre)[:, None] ** 2
    across = np.sqrt((squares - along_normals**2).clip(0))
    ahead = squares - distances * along_normals
    with np.errstate(divide="ignore", invalid="ignore"):
        cotangents = ahead / (distances * across)
    # at d = 0, and where a lies on the normal, the tangent is 0
    cotangents[distances * across == 0] = np.inf
    angles = np.arctan2(1, cotangents.min(axis=1))
    return np.where(squares[:, 0] > 0, angles, np.nan)


# ---- confidence and residual ---------------------------------------------------------------------


def core_fit(train: Training, span: bool = False) -> Fitted:
    """(E - mean E) / std E + (s - mean s) / std s, E = lse(l), s the cosine of h's part orthogonal
    to w_y with that part of mu_y; mean and std over training images (Yang et al., 2026).

    With `span`, orthogonal to all rows of W: undefined where they span all D features, as where D
    is below C. docs/methods.md says why that is not the default."""
    parameters = {"span": bool(span)}
    W = train.last_layer[0].astype(np.float64)
    means = np.nan_to_num(train.class_means)
    if span:
        basis = _row_space(W)
        if basis.shape[1] == train.width:
            text = f"the weights span all {train.width} features, and nothing is orthogonal to them"
            return undefined("CORE", text, parameters)
        state = Fitted(parameters=parameters, basis=basis.astype(np.float32))
        parts = means - (means @ basis) @ basis.T
    else:
        directions = np.nan_to_num(unit_rows(W))
        state = Fitted(parameters=parameters, directions=directions.astype(np.float32))
        along = np.einsum("cd,cd->c", means, directions)
        parts = means - along[:, None] * directions
    state.patterns = _unit_residuals(parts, means).astype(np.float32)

    def signals(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return _core_signals(features, train.logits(features), state)

    both = np.hstack(list(train.passes(signals)))
    known = both[:, np.isfinite(both).all(axis=0)]
    if not known.size or (np.ptp(known, axis=1) <= CONSTANT * np.abs(known).max(axis=1)).any():
        text = "the energy, or the cosine of the residual, does not vary over the training images"
        return undefined("CORE", text, parameters)
    state.centres = known.mean(axis=1, keepdims=True)
    state.scales = known.std(axis=1, keepdims=True)
    return state


def _row_space(W: np.ndarray) -> np.ndarray:
    """(C, D) -> (D, r), an orthonormal basis of the space that the rows span."""
    _, values, vectors = np.linalg.svd(W, full_matrices=False)
    return vectors[values > CUTOFF * values.max()].T


def _core_signals(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """-> (2, n): the energy, and the cosine of the residual with its class's."""
    predicted = logits.argmax(axis=1)
    if state.parameters["span"]:
        residual = features - (features @ state.basis) @ state.basis.T
    else:
        directions = state.directions[predicted]
        along = np.einsum("nd,nd->n", features, directions)
        residual = features - along[:, None] * directions
    directions = _unit_residuals(residual, features)
    cosines = np.einsum("nd,nd->n", directions, state.patterns[predicted])
    return np.stack([logsumexp(logits), cosines.astype(np.float64)])


def _unit_residuals(residuals: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Parts (n, D) of `rows` at length 1; NaN where no more than rounding is left of a row."""
    directions = unit_rows(residuals)
    directions[row_norm(residuals) <= CUTOFF * row_norm(rows)] = np.nan
    return directions


def core_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The sum of the standardised energy and the standardised cosine."""
    both = _core_signals(features, logits, state)
    standard = (both - state.centres) / state.scales
    return standard.sum(axis=0)
