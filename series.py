"""Several checkpoints of one network: their order by epoch, their tables as one, and what goes with OOD detection over them."""
import numpy as np
import pandas as pd

import artifacts
import records


def order(runs):
    """Runs of one network -> {folder: what its head's sidecar says}, by epoch; ValueError where they are no series."""
    facts = {run.folder: {**records.read_sidecar(run.head), "data set": run.dataset,
                          "classes, features": artifacts.read_head(run.head)[0].shape} for run in runs}
    first, seen = facts[runs[0].folder], {}
    for run in runs:
        own = facts[run.folder]
        epoch = own.get("epoch")
        if isinstance(epoch, bool) or not isinstance(epoch, int):
            raise ValueError(f"{records.sidecar_path(run.head)} does not say after which epoch the checkpoint was saved; extract "
                             f"it again: {run.command} --force")
        if epoch in seen:
            raise ValueError(f"{seen[epoch]} and {run.folder} are both of epoch {epoch}; give one checkpoint an epoch")
        seen[epoch] = run.folder
        for key in ("model", "data set", "classes, features"):
            if own.get(key) != first.get(key):
                raise ValueError(f"{runs[0].folder} and {run.folder} differ in {key}: {first.get(key)} and {own.get(key)}; "
                                 "expected checkpoints of one training run")
    return {seen[epoch]: facts[seen[epoch]] for epoch in sorted(seen)}


def over_epochs(epochs, tables):
    """Each checkpoint's table with its epoch and training accuracy, one under the other."""
    return pd.concat([tables[folder].assign(checkpoint=folder.name, epoch=facts["epoch"], train_acc=facts.get("train_acc"))
                      for folder, facts in epochs.items()], ignore_index=True)


def read_scored(folder, facts):
    """ood_metrics.csv of a checkpoint, None where there is none; ValueError where it is another checkpoint's."""
    path = folder / "ood_metrics.csv"
    if not path.exists():
        return None
    if records.read_sidecar(path).get("checkpoint_sha256") != facts.get("checkpoint_sha256"):
        raise ValueError(f"{path} was made from another checkpoint than {folder / 'head.csv'}; make it anew with: "
                         f"python ood_methods.py --checkpoint {folder}")
    return artifacts.read_table(path)


def join(epochs, table, scored):
    """nc_ood.csv: each metric of nc_epochs.csv beside each method's AUROC on each set of the same checkpoint."""
    auroc = pd.concat([found[["ood", "method", "parameters", "auroc"]].assign(epoch=epochs[path]["epoch"])
                       for path, found in scored.items()])
    joined = auroc.merge(table[["checkpoint", "epoch", "metric", "split", "value"]], on="epoch")
    other = joined["split"].str.startswith("ood:") & (joined["split"] != "ood:" + joined["ood"])  # NC5 of another set
    return joined.loc[~other, ["checkpoint", "epoch", "ood", "method", "parameters", "metric", "split", "value", "auroc"]]


def correlate(joined):
    """nc_ood.csv -> Pearson's and Spearman's correlation over checkpoints; empty where one side is constant or n < 3."""
    keys = ["metric", "split", "ood", "method"]
    every = joined.groupby(keys, sort=False).size().index
    known = joined.dropna(subset=["value", "auroc"]).set_index(keys)[["value", "auroc"]]
    groups = known.groupby(keys, sort=False)
    varied = (groups.nunique() > 1).all(axis=1) & (groups.size() >= 3)
    return pd.DataFrame({"pearson": product_moment(known, keys).where(varied),
                         "spearman": product_moment(groups.rank(), keys).where(varied),  # ties share their mean rank
                         "n": groups.size()}).reindex(every).fillna({"n": 0}).astype({"n": int}).reset_index()


def answer(found, key=("nc1", "train")):
    """nc_ood_correlation.csv -> does more collapse mean better detection? A row a method, a column a set: Spearman with NC1.

    NC1 falls as a network collapses, so that -1 says: always better with more collapse. Sorted by the mean over sets.
    """
    rows = found[(found["metric"] == key[0]) & (found["split"] == key[1])]
    wide = rows.pivot(index="method", columns="ood", values="spearman")[list(dict.fromkeys(rows["ood"]))].astype(float)
    ordered = wide.loc[wide.mean(axis=1).sort_values(kind="stable").index]
    return ordered.round(2).rename_axis(columns=None).reset_index()


def product_moment(pairs, keys):
    """Correlation of the two columns within each group of an index with these names."""
    centred = pairs - pairs.groupby(keys, sort=False).transform("mean")
    x, y = centred["value"], centred["auroc"]
    sums = pd.DataFrame({"xy": x * y, "xx": x**2, "yy": y**2}).groupby(keys, sort=False).sum()
    return sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])
