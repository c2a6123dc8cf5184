"""conformal.csv: thresholds with a guarantee and selection at a false discovery rate, and what each
does to the test images."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from detection import conformal
from detection.conformal import Threshold
from detection.scored import Scored, ScoredSet
from detection.tables import Place

LEVELS = (0.01, 0.05, 0.1)  # of false rejections
DOUBT = 0.05  # chance that a training-conditional threshold rejects more
DISCOVERY_LEVELS = (0.05, 0.1)


def tabulate(run: Place, scored: Scored) -> pd.DataFrame | None:
    """The tidy table; None without held-out ID images."""
    held_out = scored.held_out
    if held_out is None or not held_out.scores:
        return None
    rows = []
    for method, values in held_out.scores.items():
        for row in [*thresholds(method, values, scored), *selections(method, values, scored)]:
            rows.append({"checkpoint": run.folder.name, "dataset": run.dataset, **row})
    return pd.DataFrame(rows)


def thresholds(method: str, held_out: np.ndarray, scored: Scored) -> Iterator[dict[str, object]]:
    """One row per guarantee, level and OOD set."""
    for level in LEVELS:
        kinds = {
            "marginal": conformal.marginal_threshold(held_out, level),
            "training-conditional": conformal.conditional_threshold(held_out, level, DOUBT),
        }
        for kind, threshold in kinds.items():
            for part in parts_with(method, scored):
                yield {
                    "method": method,
                    "guarantee": kind,
                    "level": level,
                    "held_out_images": len(held_out),
                    "images_needed": threshold.images_needed,
                    "threshold": threshold.value if np.isfinite(threshold.value) else np.nan,
                    "ood": part.name,
                    "rejected_id": rejected(scored.id.scores[method], threshold),
                    "rejected_ood": rejected(part.scores[method], threshold),
                    "false_discoveries": np.nan,
                    "note": note(len(held_out), threshold.images_needed),
                }


def parts_with(method: str, scored: Scored) -> list[ScoredSet]:
    return [part for part in scored.ood if method in part.scores]


def rejected(scores: np.ndarray, threshold: Threshold) -> float:
    """The share below a threshold; NaN where a score, or the threshold, is undefined."""
    if np.isnan(scores).any() or np.isnan(threshold.value):
        return float("nan")
    return float(np.mean(scores < threshold.value))


def note(images: int, needed: int) -> str:
    """Why nothing is rejected, where too few images are held out."""
    if images >= needed:
        return ""
    return f"{images:,} held-out ID images reject nothing at this level: it takes {needed:,}"


def selections(method: str, held_out: np.ndarray, scored: Scored) -> Iterator[dict[str, object]]:
    """One row per level and OOD set, tested together with the ID test images."""
    of_id = conformal.p_values(scored.id.scores[method], held_out)
    for part in parts_with(method, scored):
        p = np.concatenate([of_id, conformal.p_values(part.scores[method], held_out)])
        for level in DISCOVERY_LEVELS:
            needed = conformal.selection_images(level, len(p), len(part))
            yield {
                "method": method,
                "guarantee": "false discovery rate",
                "level": level,
                "held_out_images": len(held_out),
                "images_needed": needed,
                "threshold": np.nan,
                "ood": part.name,
                **selected(p, len(of_id), level),
                "note": note(len(held_out), needed),
            }


def selected(p: np.ndarray, n: int, level: float) -> dict[str, float]:
    """Of p-values of n ID images and then of OOD images: which share of each is selected, and the
    share of ID images among the selected, 0 where none is."""
    if np.isnan(p).any():
        return dict.fromkeys(("rejected_id", "rejected_ood", "false_discoveries"), np.nan)
    chosen = conformal.select(p, level)
    false = int(chosen[:n].sum())
    return {
        "rejected_id": float(chosen[:n].mean()),
        "rejected_ood": float(chosen[n:].mean()),
        "false_discoveries": false / max(1, int(chosen.sum())),
    }


def said(scored: Scored, dataset: str) -> str:
    """What to know of the p-values, in a line; "" where there is nothing."""
    if scored.held_out is None:
        return (
            f"no p-values and no thresholds with a guarantee: there is no ID_{dataset}_val.csv with"
            " a head, whose images no fit has seen"
        )
    images = len(scored.held_out)
    short = [level for level in LEVELS if conformal.conditional_images(level, DOUBT) > images]
    if not short:
        return ""
    level = max(short)
    return (
        f"conformal.csv: of {images:,} held-out ID images, a level of {level:g} or less takes more:"
        f" {conformal.marginal_images(level):,} for a marginal threshold, "
        f"{conformal.conditional_images(level, DOUBT):,} for a training-conditional one"
    )
