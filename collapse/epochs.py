"""Several checkpoints of one network: their order by epoch, their tables as one, and what goes with
OOD detection over them."""

import shlex

import numpy as np
import pandas as pd

from artifacts import records, store

SCORED = ["ood", "method", "parameters", "auroc"]  # what is read of ood_metrics.csv


def order(runs, stale):
    """Runs of one network -> {folder: what its head's sidecar says}, by epoch; ValueError where
    they are no series.

    stale: {folder: records.Stale}. Bare features say it in their own sidecar.
    """
    facts = {}
    for run in runs:
        facts[run.folder] = records.read_sidecar(run.head or run.train) | {
            "data set": run.dataset,
            "classes, features": shape(run, stale[run.folder]),
        }
    first, seen = facts[runs[0].folder], {}
    for run in runs:
        own = facts[run.folder]
        epoch = own.get("epoch")
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
        seen[epoch] = run.folder
        for key in ("model", "data set", "classes, features"):
            if own.get(key) != first.get(key):
                raise ValueError(
                    f"{runs[0].folder} and {run.folder} differ in {key}: {first.get(key)} and"
                    f" {own.get(key)}; expected checkpoints of one training run"
                )
    return {seen[epoch]: facts[seen[epoch]] for epoch in sorted(seen)}


def shape(run, stale):
    """(C, D) of a run's head; (None, D) of bare features, which do not know how many classes there
    are."""
    if run.head is None:
        return None, store.width_of(run.train)
    return store.read_head(run.head, stale, run.command).W.shape


def over_epochs(epochs, tables):
    """Each checkpoint's table with its epoch and training accuracy, one under the other."""
    parts = []
    for folder, facts in epochs.items():
        when = {"epoch": facts["epoch"], "train_acc": facts.get("train_acc")}
        parts.append(tables[folder].assign(checkpoint=folder.name, **when))
    return pd.concat(parts, ignore_index=True)


def read_scored(folder, facts, stale):
    """ood_metrics.csv of a checkpoint, None without one; ValueError where it is another network's,
    or was edited."""
    path = folder / "ood_metrics.csv"
    if not path.exists():
        return None
    remedy = shlex.join(["python", "ood_methods.py", "--checkpoint", str(folder)])
    made_from = records.origin(path)
    known = any(made_from.values()) and any(facts.get(name) for name in records.NETWORK)
    if known and not records.same_network(made_from, facts):
        stale.found(
            f"{path} was made from another checkpoint than the features in {folder}", remedy
        )
    table = store.read_table(path, SCORED, stale, remedy)
    auroc = pd.to_numeric(table["auroc"], errors="coerce")
    if (auroc.isna() & table["auroc"].notna()).any():
        raise ValueError(
            f"{path} has a text in column auroc, expected numbers; make it anew with: {remedy}"
        )
    return table.assign(auroc=auroc)


def join(epochs, table, scored):
    """nc_ood.csv: each metric of nc_epochs.csv beside each method's AUROC on each set of the same
    checkpoint."""
    parts = [found[SCORED].assign(epoch=epochs[path]["epoch"]) for path, found in scored.items()]
    auroc = pd.concat(parts)
    joined = auroc.merge(table[["checkpoint", "epoch", "metric", "split", "value"]], on="epoch")
    # NC5 of another set
    other = joined["split"].str.startswith("ood:") & (joined["split"] != "ood:" + joined["ood"])
    return joined.loc[
        ~other,
        ["checkpoint", "epoch", "ood", "method", "parameters", "metric", "split", "value", "auroc"],
    ]


def correlate(joined):
    """nc_ood.csv -> Pearson's and Spearman's correlation over checkpoints; empty where one side is
    constant or n < 3."""
    keys = ["metric", "split", "ood", "method"]
    every = joined.groupby(keys, sort=False).size().index
    known = joined.dropna(subset=["value", "auroc"]).set_index(keys)[["value", "auroc"]]
    groups = known.groupby(keys, sort=False)
    varied = (groups.nunique() > 1).all(axis=1) & (groups.size() >= 3)
    ranks = groups.rank()  # ties share their mean rank
    columns = {
        "pearson": product_moment(known, keys).where(varied),
        "spearman": product_moment(ranks, keys).where(varied),
        "n": groups.size(),
    }
    table = pd.DataFrame(columns).reindex(every)
    return table.fillna({"n": 0}).astype({"n": int}).reset_index()


def answer(found, key=("nc1", "train")):
    """nc_ood_correlation.csv -> does more collapse mean better detection? one row per method, a
    column a set: Spearman with NC1.

    NC1 falls as a network collapses, so that -1 says: always better with more collapse. Sorted by
    the mean over sets."""
    rows = found[(found["metric"] == key[0]) & (found["split"] == key[1])]
    wide = rows.pivot(index="method", columns="ood", values="spearman")[
        list(dict.fromkeys(rows["ood"]))
    ].astype(float)
    ordered = wide.loc[wide.mean(axis=1).sort_values(kind="stable").index]
    return ordered.round(2).rename_axis(columns=None).reset_index()


def product_moment(pairs, keys):
    """Correlation of the two columns within each group of an index with these names."""
    centred = pairs - pairs.groupby(keys, sort=False).transform("mean")
    x, y = centred["value"], centred["auroc"]
    sums = pd.DataFrame({"xy": x * y, "xx": x**2, "yy": y**2}).groupby(keys, sort=False).sum()
    return sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])
