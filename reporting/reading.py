"""The reading: what summary.json says, in a few sentences of plain language."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from reporting import ensembles
from reporting.found import Summary
from reporting.words import finite, interval, kept, listed, percent


def reading(summary: Summary) -> list[str]:
    """Sentences that say what was found: numbers of this run, and nothing that they do not show."""
    return [*read_training(summary), *read_ood(summary), *read_collapse(summary)]


# ---- training ------------------------------------------------------------------------------------


def read_training(summary: Summary) -> list[str]:
    """What was trained, how accurate it is, and when every training image was right."""
    run, accuracy = summary["checkpoint"], summary["accuracy"]
    if accuracy["test"] is None:
        return [f"The test accuracy of {run['stem']} is not known: no table has measured it."]
    text = f"{trained(summary)} classifies {percent(accuracy['test'], 2)} of the test images right"
    if accuracy["train"] is not None:
        text += f", and {percent(accuracy['train'], 2)} of the training images"
    said = [f"{text}."]
    training = summary["training"] or {}
    since = training.get("first_epoch_all_training_images_right")
    if finite(since):
        unit = "Epoch" if run["step"] is None else "Evaluation"
        said.append(
            f"{unit} {since} of {training['epochs']} was the first with every training image right."
        )
    return said


def trained(summary: Summary) -> str:
    """The subject of the first sentence: "resnet18, trained on cifar100 for 200 epochs,"."""
    run = summary["checkpoint"]
    text = ensembles.title(summary)
    if run["dataset"] is not None:
        text += f", trained on {run['dataset']}"
    if run["step"] is not None:
        text += f" for {run['step']} steps"
    elif run["epoch"] is not None:
        text += f" for {run['epoch']} epochs"
    return f"{text}," if "," in text else text


# ---- OOD detection -------------------------------------------------------------------------------


def read_ood(summary: Summary) -> list[str]:
    """The easiest and the hardest set, what passes the threshold, and what is not settled."""
    best = {name: row for name, row in summary["best"].items() if row}
    if not best:
        nothing = "No OOD score is defined."
        unmeasured = "OOD scores have not been measured."
        return [nothing if summary["best"] else unmeasured, *read_left_out(summary)]
    return [
        read_hardest(best),
        *read_accepted(best, kept(summary["tpr"])),
        *read_unsettled(best),
        *read_left_out(summary),
        *read_baseline(summary),
        *ensembles.reading(summary),
        *read_below_chance(summary),
    ]


def by_auroc(best: Mapping[str, dict]) -> list[str]:
    """The OOD sets, the hardest first."""
    return sorted(best, key=lambda name: best[name]["auroc"])


def read_hardest(best: Mapping[str, dict]) -> str:
    """The best score on the easiest and on the hardest set; {set: its best row} of one or more."""
    hard, *_ = by_auroc(best)
    *_, easy = by_auroc(best)
    if len(best) == 1:
        return f"The best score on {hard} is {who(best[hard])}."
    return (
        f"Of {len(best)} OOD sets, {easy} ({who(best[easy])}) is the easiest to tell from the"
        f" test images and {hard} ({who(best[hard])}) the hardest{winners(best)}."
    )


def who(row: Mapping[str, Any]) -> str:
    """The best method of a set, those tied with it counted, and its AUROC."""
    methods = listed([row["method"]], len(row["tied_with"]))
    return f"{methods}, AUROC {percent(row['auroc'])}, interval {interval(row)}"


def winners(best: Mapping[str, dict]) -> str:
    """How often each method alone is best, in words; nothing where every set is a tie."""
    wins = Counter(row["method"] for row in best.values() if not row["tied_with"])
    most = wins.most_common(4)
    if most and most[0][1] == len(best):
        return f"; {most[0][0]} is best on all {len(best)}"
    several = [f"{method} alone is best on {count}" for method, count in most if count > 1]
    return f"; {listed(several)}" if several else ""


def read_accepted(best: Mapping[str, dict], share: str) -> list[str]:
    """On which set most OOD images, and on which fewest, pass the threshold of the best method."""
    rates = {name: row["fpr95"] for name, row in best.items() if finite(row["fpr95"])}
    if not rates:
        return []
    most, least = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    text = (
        f"With the threshold that keeps {share}% of the ID test images,"
        f" {best[most]['method']} still accepts {percent(rates[most])} of {most}"
    )
    if most != least:
        text += f"; on {least}, {best[least]['method']} accepts {percent(rates[least])}"
    return [f"{text}."]


def read_unsettled(best: Mapping[str, dict]) -> list[str]:
    """On which sets no method is set apart from every other."""
    unsettled = [name for name in by_auroc(best) if not best[name]["set_apart"]]
    if not unsettled:
        return []
    everywhere = len(unsettled) == len(best) > 1
    where = "every set" if everywhere else listed(unsettled)
    return [
        f"On {where} the best method is not significantly ahead of every other: the order is"
        " not settled."
    ]


def read_left_out(summary: Summary) -> list[str]:
    """Which sets have one image, and so no AUROC with an interval."""
    images = {row["ood"]: row.get("n_ood") for row in summary["ood_metrics"]}
    undefined = [name for name, row in summary["best"].items() if row is None]
    single = [name for name in undefined if images.get(name) == 1]
    if not single:
        return []
    have = "have" if len(single) > 1 else "has"
    return [f"{listed(single)} {have} one image: an AUROC of it has no interval and is not shown."]


def read_baseline(summary: Summary) -> list[str]:
    """How far the best method is from MSP, on average over several sets."""
    means = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}
    if len(summary["best"]) < 2 or "MSP" not in means:
        return []
    top = next(iter(means))
    if top == "MSP":
        return []
    ahead = 100 * (means[top] - means["MSP"])
    return [
        f"Averaged over the sets, {top} has the highest AUROC, {percent(means[top])}, "
        f"{ahead:.1f} points above MSP, the baseline."
    ]


def read_below_chance(summary: Summary) -> list[str]:
    """Which methods are worse than chance, their whole interval below 50%."""
    below = [
        f"{row['method']} on {row['ood']}"
        for row in summary["ood_metrics"]
        if finite(row["auroc_high"]) and row["auroc_high"] < 0.5
    ]
    if not below:
        return []
    named = listed(below[:4], len(below) - 4)
    return [f"Worse than chance, so trusting OOD images more than ID ones: {named}."]


# ---- neural collapse -----------------------------------------------------------------------------

FORMS = {  # of metrics on the training images
    "nc1": "NC1 is {:.3g} (0 under full collapse)",
    "nc2_means_norm_cv": "the norms of the class means vary by {:.1%} of their mean",
    "nc3_cosine_mean": "weight rows and class means have a mean cosine of {:.3f}",
}
Values = Mapping[tuple[str, str], float]  # by metric and split


def read_collapse(summary: Summary) -> list[str]:
    """NC1 to NC4 in one sentence, NC5 in another."""
    rows = summary["neural_collapse"]
    values = {(row["metric"], row["split"]): row["value"] for row in rows if finite(row["value"])}
    if not values and summary["ensemble"]:
        return ["Neural collapse is of a single network: each member has its own."]
    if not values:
        return ["Neural collapse has not been measured."]
    return [*read_metrics(values), *read_nc5(values)]


def read_metrics(values: Values) -> list[str]:
    """NC1 to NC4, those of them that are defined."""
    found = []
    for metric, form in FORMS.items():
        if (metric, "train") in values:
            found.append(form.format(values[metric, "train"]))
    differ = []
    for split, images in (("train", "training"), ("test", "test")):
        if ("nc4_mismatch", split) in values:
            differ.append(f"{percent(values['nc4_mismatch', split], 2)} of the {images} images")
    if differ:
        found.append(f"nearest class mean and classifier disagree on {listed(differ)}")
    return [f"Neural collapse: {'; '.join(found)}."] if found else []


def read_nc5(values: Values) -> list[str]:
    """The OOD sets whose mean is most and least aligned with the class means, beside the null."""
    sets = {}
    for (metric, split), value in values.items():
        if metric == "nc5_centred" and split.startswith("ood:"):
            sets[split.removeprefix("ood:")] = value
    if not sets:
        return []
    most, least = max(sets, key=sets.__getitem__), min(sets, key=sets.__getitem__)
    text = (
        "The OOD mean most aligned with the class means (NC5, centred) is that of"
        f" {most} ({sets[most]:.3f})"
    )
    if most != least:
        text += f", the least that of {least} ({sets[least]:.3f})"
    null = values.get(("nc5_centred", "test"))
    if null is not None:
        text += f"; the ID test images, the null, have {null:.3f}"
    return [f"{text}."]
