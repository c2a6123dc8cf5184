"""Several checkpoints of one network: their order by epoch, their tables as one, and what goes with
OOD detection over them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from artifacts import records, store
from feature_files import FeatureFiles

SCORED = ["ood", "method", "parameters", "auroc"]  # what is read of ood_metrics.csv
SHARED = ("model", "data set", "classes, features")  # facts that are the same in all epochs
KEYS = ["metric", "split", "ood", "method"]  # of a correlation
LEAST = 3  # checkpoints from which a correlation is computed


@dataclass(frozen=True)
class Epoch:
    """One checkpoint of a series: its folder, and what its head's sidecar says; bare features say
    it in their own."""

    folder: Path
    facts: dict

    @property
    def number(self) -> int:
        """The epoch after which the checkpoint was saved; of a run by steps, its evaluation."""
        return self.facts["epoch"]


# ---- their order ---------------------------------------------------------------------------------


def order(runs: Sequence[FeatureFiles], stale: dict[Path, records.Stale]) -> list[Epoch]:
    """Runs of one network -> their epochs in order; ValueError where they are no series.

    stale: what to do about changed files, by the run's folder."""
    epochs = []
    for run in runs:
        epochs.append(Epoch(run.folder, facts_of(run, stale[run.folder])))
    seen: dict[int, Path] = {}
    for run, epoch in zip(runs, epochs, strict=True):
        check_epoch(run, epoch.facts.get("epoch"), seen)
        seen[epoch.number] = epoch.folder
        check_shared(epochs[0], epoch)
    return sorted(epochs, key=lambda epoch: epoch.number)


def facts_of(run: FeatureFiles, stale: records.Stale) -> dict:
    """What the sidecar of a run's head says, with SHARED."""
    sidecar = records.read_sidecar(run.head or run.train)
    return {
        **sidecar,
        "data set": run.dataset,
        "classes, features": shape(run, stale),
    }


def check_epoch(run: FeatureFiles, epoch: int | None, seen: dict[int, Path]) -> None:
    """ValueError where a run's epoch is unknown, or that of another run."""
    if epoch is None:
        raise ValueError(
            f"{records.sidecar_path(run.head or run.train)} does not say after which epoch the"
            f" checkpoint was saved; extract it again: {run.command_with('--force')}"
        )
    if epoch in seen:
        raise ValueError(
            f"{seen[epoch]} and {run.folder} are both of epoch {epoch}; give one checkpoint an"
            " epoch"
        )


def check_shared(first: Epoch, other: Epoch) -> None:
    """ValueError where two checkpoints are not of one training run."""
    for key in SHARED:
        expected = first.facts.get(key)
        found = other.facts.get(key)
        if found != expected:
            raise ValueError(
                f"{first.folder} and {other.folder} differ in {key}: {expected} and {found};"
                " expected checkpoints of one training run"
            )


def shape(run: FeatureFiles, stale: records.Stale) -> tuple[int | None, int]:
    """(C, D) of a run's head; (None, D) of bare features, which do not know how many classes there
    are."""
    if run.head is None:
        return None, store.width_of(run.train)
    return store.read_head(run.head, stale, run.command).W.shape


# ---- their tables --------------------------------------------------------------------------------


def along(epochs: Sequence[Epoch]) -> str:
    """What the checkpoints of a series run along: "step" where each says its own, else "epoch"."""
    return "step" if all(epoch.facts.get("step") is not None for epoch in epochs) else "epoch"


def places(epochs: Sequence[Epoch]) -> list[str]:
    """The columns that say where in the run a checkpoint stands."""
    return list(dict.fromkeys(["epoch", along(epochs)]))


def over_epochs(epochs: Sequence[Epoch], tables: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """Each checkpoint's table, by its folder, with its epoch and training accuracy, one under the
    other; of a run by steps, with its step too."""
    by_steps = along(epochs) == "step"
    parts = []
    for epoch in epochs:
        step = {"step": epoch.facts["step"]} if by_steps else {}
        part = tables[epoch.folder].assign(
            checkpoint=epoch.folder.name,
            epoch=epoch.number,
            **step,
            train_acc=epoch.facts.get("train_acc"),
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def read_scored(epoch: Epoch, stale: records.Stale) -> pd.DataFrame | None:
    """ood_metrics.csv of a checkpoint, None without one; ValueError where it is another network's,
    or was edited."""
    folder = epoch.folder
    path = folder / "ood_metrics.csv"
    if not path.exists():
        return None
    remedy = shlex.join(["python", "ood_methods.py", "--checkpoint", str(folder)])
    made_from = records.origin(path)
    is_named = any(made_from.values())
    is_known = any(epoch.facts.get(name) for name in records.NETWORK)
    if is_named and is_known and not records.same_network(made_from, epoch.facts):
        reason = f"{path} was made from another checkpoint than the features in {folder}"
        stale.found(reason, remedy)
    table = store.read_table(path, SCORED, stale, remedy)
    auroc = pd.to_numeric(table["auroc"], errors="coerce")
    is_text = auroc.isna() & table["auroc"].notna()
    if is_text.any():
        raise ValueError(
            f"{path} has a text in column auroc, expected numbers; make it anew with: {remedy}"
        )
    return table.assign(auroc=auroc)


def join(
    epochs: Sequence[Epoch], table: pd.DataFrame, scored: dict[Path, pd.DataFrame]
) -> pd.DataFrame:
    """nc_ood.csv: each metric of nc_epochs.csv beside each method's AUROC on each set of the same
    checkpoint."""
    parts = []
    for epoch in epochs:
        part = scored[epoch.folder][SCORED]
        parts.append(part.assign(epoch=epoch.number))
    auroc = pd.concat(parts)
    where = places(epochs)
    metrics = table[["checkpoint", *where, "metric", "split", "value"]]
    joined = auroc.merge(metrics, on="epoch")
    is_of_a_set = joined["split"].str.startswith("ood:")
    is_another_set = joined["split"] != "ood:" + joined["ood"]
    kept = joined[~(is_of_a_set & is_another_set)]
    return kept[["checkpoint", *where, *SCORED[:-1], "metric", "split", "value", "auroc"]]


def correlate(joined: pd.DataFrame) -> pd.DataFrame:
    """nc_ood.csv -> Pearson's and Spearman's correlation over checkpoints; empty where one side is
    constant or n < 3."""
    every = joined.groupby(KEYS, sort=False).size().index
    known = joined.dropna(subset=["value", "auroc"])
    pairs = known.set_index(KEYS)[["value", "auroc"]]
    groups = pairs.groupby(KEYS, sort=False)
    n = groups.size()
    both_vary = (groups.nunique() > 1).all(axis=1)
    is_defined = both_vary & (n >= LEAST)
    ranks = groups.rank()  # ties share their mean rank
    columns = {
        "pearson": product_moment(pairs).where(is_defined),
        "spearman": product_moment(ranks).where(is_defined),
        "n": n,
    }
    table = pd.DataFrame(columns).reindex(every)
    return table.fillna({"n": 0}).astype({"n": int}).reset_index()


def product_moment(pairs: pd.DataFrame) -> pd.Series:
    """Pearson's correlation of columns `value` and `auroc` within each group of an index of
    KEYS."""
    centred = pairs - pairs.groupby(KEYS, sort=False).transform("mean")
    x = centred["value"]
    y = centred["auroc"]
    products = pd.DataFrame({"xy": x * y, "xx": x**2, "yy": y**2})
    sums = products.groupby(KEYS, sort=False).sum()
    return sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])


def answer(correlations: pd.DataFrame, metric: str = "nc1", split: str = "train") -> pd.DataFrame:
    """nc_ood_correlation.csv -> does more collapse mean better detection? One row per method, one
    column per set: Spearman with one metric, NC1.

    NC1 falls as a network collapses, so that -1 says: always better with more collapse. Sorted by
    the mean over sets."""
    is_asked = (correlations["metric"] == metric) & (correlations["split"] == split)
    rows = correlations[is_asked]
    sets = list(rows["ood"].unique())  # in their order
    wide = rows.pivot(index="method", columns="ood", values="spearman")
    wide = wide[sets].astype(float)
    methods = wide.mean(axis=1).sort_values(kind="stable").index
    ordered = wide.loc[methods].round(2)
    return ordered.rename_axis(columns=None).reset_index()
