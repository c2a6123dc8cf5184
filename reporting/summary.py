"""All that was measured of a checkpoint as one JSON object, and what it says in plain language."""

import pandas as pd

import figures
import utils
from reporting.words import finite, interval, kept, listed, percent

RUN_KEYS = (
    "model",
    "model_args",
    "dataset",
    "mode",
    "epoch",
    "epochs",
    "held_out",
    "val_size",
    "preprocessing",
    "seconds",
    "command",
    "git_commit",
    "git_dirty",
    "created",
)


def summarise(found, provenance):
    """The whole run as one JSON object: numbers in [0, 1], null where a value is missing."""
    facts, ood = found["facts"], found["ood"]
    run = {
        "stem": found["stem"],
        "sha256": found["sha256"],
        **{key: facts.get(key) for key in RUN_KEYS},
    }
    if run["dataset"] is None and ood is not None and "dataset" in ood:
        run["dataset"] = str(ood["dataset"].iloc[0])
    labelled = None if ood is None else ood.assign(method=figures.method_labels(ood))
    best = (
        {}
        if ood is None
        else {str(name): best_of(rows) for name, rows in labelled.groupby("ood", sort=False)}
    )
    summary = utils.plain(
        {
            "checkpoint": run,
            "accuracy": accuracies(facts, ood, found["nc"]),
            "training": summarise_curves(found["curves"]),
            "tpr": found["tpr"],
            "best": best,
            "mean_over_sets": [] if ood is None else mean_over_sets(labelled),
            "averaged_sets": [] if ood is None else averaged_sets(ood),
            "groups": rows_of(found["groups"]),
            "ood_metrics": rows_of(ood),
            "neural_collapse": rows_of(found["nc"]),
            "missing": found["missing"],
            "stale": found["stale"],
            "provenance": provenance,
        }
    )
    return {**summary, "reading": reading(summary)}


def accuracies(facts, ood, nc):
    """{split: share of images classified right}: as the checkpoint states it, else as the tables
    measured it, else None."""
    stated = {split: facts.get(f"{split}_acc") for split in ("train", "val", "test")}
    measured = {}
    if nc is not None:
        rows = nc[nc["metric"] == "nc4_head_accuracy"]
        measured = dict(zip(rows["split"], rows["value"], strict=True))
    if ood is not None and "accuracy" in ood and ood["accuracy"].notna().any():
        measured["test"] = ood["accuracy"].dropna().iloc[0]
    return {
        split: measured.get(split) if share is None else share for split, share in stated.items()
    }


def summarise_curves(curves):
    if curves is None or curves.empty:
        return None
    fitted = curves.loc[curves["train_acc"] == 1, "epoch"]
    best = curves["val_acc"].idxmax() if curves["val_acc"].notna().any() else None
    return {
        "epochs": len(curves),
        "seconds": curves["seconds"].sum() if "seconds" in curves else None,
        "best_val_epoch": None if best is None else curves["epoch"][best],
        "best_val_acc": None if best is None else curves["val_acc"][best],
        "first_epoch_all_training_images_right": fitted.iloc[0] if len(fitted) else None,
    }


def best_of(rows):
    """The row of one OOD set with the highest AUROC, its ties, and whose interval overlaps its own;
    None without any.

    An AUROC counts only with its interval: that of a single image says nothing, however high it is.
    set_apart: whether paired tests set it apart from every other (column `best`); where none were
    made, whether no interval overlaps its own. The tests see that all methods score the same
    images, the intervals do not."""
    rows = rows[has_interval(rows)]
    if rows.empty:
        return None
    best = rows.loc[rows["auroc"].idxmax()]
    others = rows.drop(index=best.name)
    kept = {
        key: best.get(key) for key in ("parameters", "auroc", "auroc_low", "auroc_high", "fpr95")
    }
    overlapping = list(others.loc[others["auroc_high"] >= best["auroc_low"], "method"])
    return {
        "method": best["method"],
        **kept,
        "tied_with": list(others.loc[others["auroc"] == best["auroc"], "method"]),
        "intervals_overlap_with": overlapping,
        "set_apart": bool(best.get("best", not overlapping)),
    }


def has_interval(rows):
    """(N,) bool: rows whose AUROC and its interval are defined."""
    return rows[["auroc", "auroc_low", "auroc_high"]].notna().all(axis=1)


def averaged_sets(ood):
    """[name] of the sets that means are taken over: all, but for those of a single image, whose
    AUROC has no interval.

    A method that is undefined on the one image says nothing of the others.
    """
    alone = ood["auroc"].notna() & ~has_interval(ood)
    if "n_ood" in ood:
        alone |= ood["n_ood"] == 1
    left_out = set(ood.loc[alone, "ood"])
    return [name for name in dict.fromkeys(ood["ood"]) if name not in left_out]


def mean_over_sets(ood):
    """Mean AUROC and FPR@95 of each method that is defined on every averaged set, highest AUROC
    first."""
    sets = averaged_sets(ood)
    defined = ood[ood["ood"].isin(sets)].dropna(subset=["auroc", "fpr95"])
    groups = defined.groupby("method", sort=False)
    means = groups[["auroc", "fpr95"]].mean()[groups["ood"].nunique() == len(sets)]
    return (
        means.sort_values("auroc", ascending=False, kind="stable").reset_index().to_dict("records")
    )


def rows_of(table):
    return [] if table is None else table.to_dict("records")


# ---- the reading: plain language from the numbers ------------------------------------------------


def reading(summary):
    """A few sentences that say what was found: numbers of this run, and nothing that they do not
    show."""
    return [
        sentence for part in (read_training, read_ood, read_collapse) for sentence in part(summary)
    ]


def read_training(summary):
    run, accuracy = summary["checkpoint"], summary["accuracy"]
    if accuracy["test"] is None:
        return [f"The test accuracy of {run['stem']} is not known: no table has measured it."]
    text = run["model"] or run["stem"]
    text += "" if run["dataset"] is None else f", trained on {run['dataset']}"
    text += "" if run["epoch"] is None else f" for {run['epoch']} epochs"
    text += "," if text.count(",") else ""
    text += f" classifies {percent(accuracy['test'], 2)} of the test images right"
    text += (
        ""
        if accuracy["train"] is None
        else f", and {percent(accuracy['train'], 2)} of the training images"
    )
    since = (summary["training"] or {}).get("first_epoch_all_training_images_right")
    said = [f"{text}."]
    if finite(since):
        epochs = summary["training"]["epochs"]
        said.append(f"Epoch {since} of {epochs} was the first with every training image right.")
    return said


def read_ood(summary):
    best = {name: row for name, row in summary["best"].items() if row}
    if not best:
        return [
            "No OOD score is defined." if summary["best"] else "OOD scores have not been measured.",
            *read_left_out(summary),
        ]
    ranked = sorted(best, key=lambda name: best[name]["auroc"])
    who = {
        name: (
            f"{listed([row['method']], len(row['tied_with']))}, AUROC {percent(row['auroc'])},"
            f" interval {interval(row)}"
        )
        for name, row in best.items()
    }
    hard, easy = ranked[0], ranked[-1]
    said = [
        (
            f"The best score on {hard} is {who[hard]}."
            if len(best) == 1
            else (
                f"Of {len(best)} OOD sets, {easy} ({who[easy]}) is the easiest to tell from the"
                f" test images and {hard} ({who[hard]}) the hardest{winners(best)}."
            )
        )
    ]
    rates = {name: row["fpr95"] for name, row in best.items() if finite(row["fpr95"])}
    if rates:
        most, least = max(rates, key=rates.get), min(rates, key=rates.get)
        other = (
            f"; on {least}, {best[least]['method']} accepts {percent(rates[least])}"
            if most != least
            else ""
        )
        said.append(
            f"With the threshold that keeps {kept(summary['tpr'])}% of the ID test images,"
            f" {best[most]['method']} still accepts {percent(rates[most])} of {most}{other}."
        )
    unsettled = [name for name in ranked if not best[name]["set_apart"]]
    if unsettled:
        where = "every set" if len(unsettled) == len(best) > 1 else listed(unsettled)
        said.append(
            f"On {where} the best method is not significantly ahead of every other: the order is"
            " not settled."
        )
    return said + read_left_out(summary) + read_baseline(summary)


def read_left_out(summary):
    """Which sets have no AUROC with an interval, and what they have instead."""
    images = {row["ood"]: row.get("n_ood") for row in summary["ood_metrics"]}
    single = [
        name for name, row in summary["best"].items() if row is None and images.get(name) == 1
    ]
    if not single:
        return []
    return [
        f"{listed(single)} {'have' if len(single) > 1 else 'has'} one image: an AUROC of it has no"
        " interval and is not shown."
    ]


def winners(best):
    """How often each method alone is best, in words; nothing where every set is a tie."""
    wins = pd.Series(
        [row["method"] for row in best.values() if not row["tied_with"]], dtype=object
    ).value_counts()
    if len(wins) == 1 and wins.iloc[0] == len(best):
        return f"; {wins.index[0]} is best on all {len(best)}"
    most = [f"{method} alone is best on {count}" for method, count in wins.items() if count > 1]
    return f"; {listed(most[:4])}" if most else ""


def read_baseline(summary):
    """How far the best method is from MSP, and what is worse than chance."""
    means, said = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}, []
    if len(summary["best"]) > 1 and "MSP" in means and (top := next(iter(means))) != "MSP":
        said.append(
            f"Averaged over the sets, {top} has the highest AUROC, {percent(means[top])}, "
            f"{100 * (means[top] - means['MSP']):.1f} points above MSP, the baseline."
        )
    below = [
        f"{row['method']} on {row['ood']}"
        for row in summary["ood_metrics"]
        if finite(row["auroc_high"]) and row["auroc_high"] < 0.5
    ]
    if below:
        named = listed(below[:4], len(below) - 4)
        said.append(f"Worse than chance, so trusting OOD images more than ID ones: {named}.")
    return said


def read_collapse(summary):
    rows = summary["neural_collapse"]
    values = {(row["metric"], row["split"]): row["value"] for row in rows if finite(row["value"])}
    if not values:
        return ["Neural collapse has not been measured."]
    forms = {
        "nc1": "NC1 is {:.3g} (0 under full collapse)",
        "nc2_means_norm_cv": "the norms of the class means vary by {:.1%} of their mean",
        "nc3_cosine_mean": "weight rows and class means have a mean cosine of {:.3f}",
    }
    found = [
        form.format(values[metric, "train"])
        for metric, form in forms.items()
        if (metric, "train") in values
    ]
    nc4 = [
        f"{percent(values['nc4_mismatch', split], 2)} of the {name} images"
        for split, name in (("train", "training"), ("test", "test"))
        if ("nc4_mismatch", split) in values
    ]
    found += [f"nearest class mean and classifier disagree on {listed(nc4)}"] if nc4 else []
    said = [f"Neural collapse: {'; '.join(found)}."] if found else []
    sets = {
        split[4:]: value
        for (metric, split), value in values.items()
        if metric == "nc5_centred" and split.startswith("ood:")
    }
    if sets:
        ends = dict.fromkeys((max(sets, key=sets.get), min(sets, key=sets.get)))
        null = values.get(("nc5_centred", "test"))
        said.append(
            "The OOD mean most aligned with the class means (NC5, centred) is that of "
            + ", the least that of ".join(f"{name} ({sets[name]:.3f})" for name in ends)
            + ("." if null is None else f"; the ID test images, the null, have {null:.3f}.")
        )
    return said
