"""The page of several runs, results/compare.html: what reporting.comparing found, as text.

compare.html.j2 lays it out, with the macros of parts.html.j2 and the style of report.css."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

import figures
from reporting import comparing
from reporting.comparing import Comparison, Run, SetVerdict
from reporting.methods import line_of
from reporting.page import environment
from reporting.pictures import Picture, drawing
from reporting.tables import PlainTable
from reporting.words import EMPTY, finite, interval_of, listed, number, percent, points, rate, show

NOT_SHOWN = ("figures/*.png", "nc_per_class.csv")  # parts of a run that this page has no use for
FEW_METHODS = 12  # that stand in sight; the others are folded away
HEADINGS = {
    "runs": "The runs",
    "ood": "Which run tells OOD images apart?",
    "seeds": "Over seeds",
    "ranks": "Do the methods keep their order?",
    "id": "Accuracy and calibration",
    "collapse": "Collapse, and OOD detection",
    "training": "Training",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller line beneath it, and its class in report.css."""

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    """Rows by runs; `best` marks the largest number of a row, where one is better than another."""

    caption: str
    corner: str  # what the rows are
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    folded: list[tuple[str, list[Cell]]] = field(default_factory=list)


@dataclass(frozen=True)
class RunLine:
    """One run as it is listed first."""

    number: int
    name: str
    model: str
    dataset: str
    accuracy: str
    best: str  # the method with the highest mean AUROC over the shared sets
    missing: list[dict[str, Any]]


@dataclass(frozen=True)
class ComparePage:
    """All that compare.html.j2 shows."""

    title: str
    sentences: list[str]
    notes: list[str]
    lines: list[RunLine]
    differing: PlainTable | None
    verdicts: PlainTable | None
    is_paired: bool  # whether paired tests decided every verdict
    means: list[Grid]  # over all shared sets, and over each group of them
    of_sets: list[Grid]
    seeds: Grid | None
    ranks: PlainTable | None
    correlations: PlainTable | None
    rank_words: str
    id: Grid | None
    collapse: Grid | None
    pictures: dict[str, Picture]
    sections: list[tuple[str, str]]  # name and heading of those that hold anything
    created: str


def render(comparison: Comparison, created: str) -> str:
    """The whole of compare.html; `created` is its time in words."""
    page = page_of(comparison, created)
    return environment().get_template("compare.html.j2").render(page=page)


def page_of(comparison: Comparison, created: str) -> ComparePage:
    """What the page says."""
    pictures = pictures_of(comparison)
    parts: dict[str, Any] = {
        "differing": differing_table(comparison),
        "verdicts": verdict_table(comparison),
        "means": means_grids(comparison),
        "of_sets": [set_grid(comparison, ood) for ood in comparison.sets],
        "seeds": seeds_grid(comparison),
        "ranks": rank_table(comparison),
        "correlations": correlation_table(comparison),
        "id": id_grid(comparison),
        "collapse": collapse_grid(comparison),
    }
    filled = {
        "runs": True,
        "ood": True,
        "seeds": parts["seeds"],
        "ranks": parts["ranks"],
        "id": parts["id"],
        "collapse": parts["collapse"],
        "training": "training" in pictures,
    }
    return ComparePage(
        title=title_of(comparison),
        sentences=sentences(comparison),
        notes=comparison.notes,
        lines=[run_line(comparison, place) for place in range(len(comparison.runs))],
        is_paired=all(each.is_paired for each in comparison.verdicts()),
        rank_words=rank_words(comparison),
        pictures=pictures,
        sections=[(name, heading) for name, heading in HEADINGS.items() if filled[name]],
        created=created,
        **parts,
    )


def title_of(comparison: Comparison) -> str:
    """ "4 runs on cifar100, compared"."""
    datasets = {run.dataset for run in comparison.runs}
    where = f" on {datasets.pop()}" if len(datasets) == 1 and None not in datasets else ""
    return f"{len(comparison.runs)} runs{where}, compared"


# ---- the answer ----------------------------------------------------------------------------------


def sentences(comparison: Comparison) -> list[str]:
    """The answer first: accuracy, OOD detection, and whether either is settled."""
    if not comparison.alike:
        return ["No run is called better than another: they were not tested on the same ID images."]
    said = [*accuracy_words(comparison.runs), *detection_words(comparison)]
    return said or ["These runs share nothing that has been measured in each of them."]


def accuracy_words(runs: Sequence[Run]) -> list[str]:
    """Which run classifies most test images right, and whether that is more than chance."""
    found = comparing.accuracy_verdict(runs)
    if found is None:
        return []
    value, low, high = next(run.accuracy for run in runs if run.name == found.run) or (None,) * 3
    text = (
        f"{found.run} classifies most test images right, {percent(value, 2)} (interval"
        f" {interval_of(low, high, rate)})"
    )
    return [f"{text}; {ahead_words(found)}."]


def ahead_words(found: comparing.AccuracyVerdict) -> str:
    """Whether the most accurate run is settled, and by what."""
    if finite(found.p_value):
        p_value = p_words(found.p_value)
        if not found.near:
            return f"settled by McNemar's test on the same images, {p_value}"
        return f"not settled against {listed(found.near)} by McNemar's test on the same images"
    if not found.near:
        return "no other run's interval meets it"
    meets = "the interval of {} meets it" if len(found.near) == 1 else "the intervals of {} meet it"
    return f"not settled, for {meets.format(listed(found.near))}"


def p_words(p_value: float) -> str:
    """ "p = 0.03"; "p < 0.001" below that."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def detection_words(comparison: Comparison) -> list[str]:
    """Which run is best by mean, and on how many sets that is settled."""
    verdicts = comparison.verdicts()
    if not verdicts:
        return []
    said = []
    tops = best_means(comparison)
    if len(comparison.sets) > 1 and tops:
        (name, (method, value)), *others = sorted(tops.items(), key=lambda item: -item[1][1])
        text = (
            f"{name} has the highest mean AUROC over the {len(comparison.sets)} shared OOD sets,"
            f" {percent(value)} by {method}"
        )
        if others:
            second, (other, lower) = others[0]
            text += f"; next is {second}, {points(value - lower)} behind by {other}"
        said.append(f"{text}.")
    return [*said, *settled_words(verdicts)]


def settled_words(verdicts: Sequence[SetVerdict]) -> list[str]:
    """On which sets the best run is ahead by more than chance: a sentence for each such run."""
    settled = [each for each in verdicts if each.settled]
    if not settled:
        return ["On no set is a run ahead of every other by more than chance."]
    ways = {each.is_paired: "paired tests" if each.is_paired else "intervals" for each in settled}
    runs = dict.fromkeys(each.run for each in settled)
    each_run = "; ".join(
        f"{name} on {listed(each.ood for each in settled if each.run == name)}" for name in runs
    )
    return [f"Settled by {listed(ways.values())}: {each_run}."]


def best_means(comparison: Comparison) -> dict[str, tuple[str, float]]:
    """{run: its method of the highest mean AUROC, and that}."""
    found = {}
    for name in comparison.names:
        values = comparison.means[name].dropna()
        if len(values):
            found[name] = str(values.idxmax()), float(values.max())
    return found


def verdict_table(comparison: Comparison) -> PlainTable | None:
    """The best run of each shared set."""
    verdicts = comparison.verdicts()
    if not verdicts:
        return None
    columns = ["OOD set", "best run", "by", "AUROC, %", "next run", "settled?"]
    return PlainTable("", columns, [verdict_row(each) for each in verdicts], "verdicts cards")


def verdict_row(each: SetVerdict) -> list[str]:
    next_run = f"{each.runner_up}, {points(each.behind)} behind" if each.runner_up else EMPTY
    span = interval_of(*each.interval, rate)
    return [
        each.ood,
        each.run,
        each.method,
        f"{rate(each.auroc)} ({span})",
        next_run,
        settled_by(each),
    ]


def settled_by(each: SetVerdict) -> str:
    """Whether a run is ahead on a set, and by what."""
    if each.is_paired:
        return f"{'yes' if each.settled else 'not settled'}: paired test, {p_words(each.p_value)}"
    if not each.runner_up:
        return EMPTY
    return "yes: the intervals do not meet" if each.settled else "not settled: intervals meet"


# ---- the runs ------------------------------------------------------------------------------------


def run_line(comparison: Comparison, place: int) -> RunLine:
    """A run as it is listed; `place` counts from 0."""
    run = comparison.runs[place]
    best = best_means(comparison).get(run.name)
    return RunLine(
        number=place + 1,
        name=run.name,
        model=str(run.summary["checkpoint"]["model"] or EMPTY),
        dataset=run.dataset or EMPTY,
        accuracy=percent(run.summary["accuracy"]["test"], 2),
        best=f"{best[0]}, {percent(best[1])}" if best else EMPTY,
        missing=[part for part in run.summary["missing"] if part["what"] not in NOT_SHOWN],
    )


def differing_table(comparison: Comparison) -> PlainTable | None:
    """The arguments of the trainings that differ; None where none do, or none are known."""
    rows = [
        [name.replace("_", "-"), *map(argument, values)]
        for name, values in comparison.differing.items()
    ]
    if not rows:
        return None
    return PlainTable("", ["argument", *numbered(comparison.names)], rows, "runs cards")


def argument(value: Any) -> str:
    """An argument as a person gives it; EMPTY where it was not given."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return show(value)


def numbered(names: Iterable[str]) -> list[str]:
    """["1 net_s0", "2 net_s1"]: what figures call the runs, and their names."""
    return [f"{place} {name}" for place, name in enumerate(names, 1)]


# ---- methods by runs -----------------------------------------------------------------------------


def means_grids(comparison: Comparison) -> list[Grid]:
    """The mean AUROC of each method, and its FPR beneath: over all shared sets, and by group."""
    if not comparison.methods:
        return []
    order = "Best mean rank first."
    every = means_grid(comparison, "", f"Mean over {listed(comparison.sets)}", order)
    return [
        every,
        *(
            means_grid(comparison, group, f"Mean over {group}, {listed(sets)}")
            for group, sets in comparison.groups.items()
            if 1 < len(sets) < len(comparison.sets)  # others stand there already
        ),
    ]


def means_grid(comparison: Comparison, group: str, what: str, order: str = "") -> Grid:
    """Methods by runs: the mean AUROC over a group of sets, all of them without its name."""
    fpr = comparison.mean_of("fpr95", group)

    def note(method: str, run: str) -> str:
        return f"FPR {rate(fpr.loc[method, run])}"

    caption = f"{what}: AUROC, and FPR beneath, in percent. {order}".strip()
    return grid(comparison, comparison.mean_of("auroc", group), caption, note)


def set_grid(comparison: Comparison, ood: str) -> Grid:
    """AUROC on one set, and its interval beneath."""
    spans: dict[tuple[str, str], str] = {}
    for run in comparison.runs:
        rows = run.scores[run.scores["ood"] == ood]
        for row in rows.to_dict("records"):
            ends = row["auroc_low"], row["auroc_high"]
            if finite(ends[0]):
                spans[str(row["method"]), run.name] = interval_of(*ends, rate)

    def note(method: str, run: str) -> str:
        return spans.get((method, run), "")

    caption = f"{ood}: AUROC, and its 95% interval beneath, in percent."
    return grid(comparison, comparison.on(ood), caption, note)


def grid(
    comparison: Comparison,
    values: pd.DataFrame,
    caption: str,
    note: Callable[[str, str], str],
) -> Grid:
    """Methods by runs, the best run of each method marked where runs can be better."""
    rows = []
    for method, each in values.iterrows():
        best = each.max() if comparison.alike else np.nan
        cells = [
            Cell(rate(value), note(str(method), str(run)), "best" if value == best else "")
            if finite(value)
            else Cell(EMPTY, "undefined")
            for run, value in each.items()
        ]
        rows.append((str(method), cells))
    columns = numbered(comparison.names)
    return Grid(caption, "method", columns, rows[:FEW_METHODS], rows[FEW_METHODS:])


# ---- seeds and ranks -----------------------------------------------------------------------------


def seeds_grid(comparison: Comparison) -> Grid | None:
    """Mean and deviation over the seeds of each recipe; None where no runs differ by seed alone."""
    if not comparison.seeds:
        return None
    columns = [f"{seeds.name}*, {len(seeds.runs)} seeds" for seeds in comparison.seeds]
    rows = [("test accuracy", over(comparison, id_row(comparison, "accuracy")))]
    rows += [
        (method, over(comparison, comparison.means.loc[method])) for method in means_of(comparison)
    ]
    caption = (
        "Mean and sample standard deviation over runs that differ by their seed alone, in percent:"
        " test accuracy, and the mean AUROC over the shared sets."
    )
    few = FEW_METHODS + 1
    return Grid(caption, "", columns, rows[:few], rows[few:])


def means_of(comparison: Comparison) -> list[str]:
    """The methods whose mean is defined in every run."""
    return [str(name) for name in comparison.means.dropna().index]


def id_row(comparison: Comparison, measure: str) -> dict[str, float]:
    return {run.name: comparing.id_values(run)[measure] for run in comparison.runs}


def over(comparison: Comparison, values: Mapping[Any, float] | pd.Series) -> list[Cell]:
    """ "93.1 ± 0.4" for each recipe."""
    cells = []
    for seeds in comparison.seeds:
        mean, deviation = comparing.over_seeds(dict(values), seeds)
        cells.append(Cell(f"{rate(mean)} ± {100 * deviation:.1f}" if finite(mean) else EMPTY))
    return cells


def rank_table(comparison: Comparison) -> PlainTable | None:
    """Each method's mean rank over the runs, its best and its worst; None with a single method."""
    ranks = comparison.ranks
    if len(ranks) < 2:
        return None
    rows = [
        [
            str(method),
            line_of(str(method)).family.name,
            f"{each.mean():.1f}",
            f"{each.min():g}",
            f"{each.max():g}",
        ]
        for method, each in ranks.iterrows()
    ]
    caption = f"Ranks of {len(ranks)} methods by mean AUROC over the shared sets, 1 the best."
    return PlainTable(caption, ["method", "family", "mean rank", "best", "worst"], rows, "numbers")


def correlation_table(comparison: Comparison) -> PlainTable | None:
    """Spearman's correlation between the orders of methods in two runs."""
    if len(comparison.ranks) < 3:
        return None
    rows = [
        [label, *(f"{value:.2f}" for value in row)]
        for label, row in zip(
            numbered(comparison.names), comparison.rank_correlations.to_numpy(), strict=True
        )
    ]
    places = [str(place) for place in range(1, len(comparison.runs) + 1)]
    return PlainTable(
        "Spearman's correlation of the order of methods", ["", *places], rows, "runs numbers"
    )


def rank_words(comparison: Comparison) -> str:
    """Whether the order of methods is the same from run to run, in a sentence."""
    if len(comparison.ranks) < 3 or not finite(comparison.concordance):
        return ""
    agreement = comparison.concordance
    best = [str(comparison.ranks[name].idxmin()) for name in comparison.names]
    first = listed(dict.fromkeys(best))
    again = "the same method is" if len(set(best)) == 1 else f"{len(set(best))} methods are"
    return (
        f"Kendall's W over the runs is {agreement:.2f} (1: all agree, 0: no two do); {again} first"
        f" in one run or another: {first}."
    )


# ---- ID images and collapse ----------------------------------------------------------------------


def id_grid(comparison: Comparison) -> Grid | None:
    """Accuracy with its interval, and calibration."""
    values = {run.name: comparing.id_values(run) for run in comparison.runs}
    rows = [("test accuracy, %", [accuracy_cell(run) for run in comparison.runs])]
    for measure, label in comparing.ID_MEASURES.items():
        each = [values[name][measure] for name in comparison.names]
        if np.isfinite(each).any():
            rows.append((label, [measured(value) for value in each]))
    if all(cell.text == EMPTY for _, cells in rows for cell in cells):
        return None
    caption = "On ID test images, by the softmax as it is. Calibration: less is better."
    return Grid(caption, "", numbered(comparison.names), rows)


def measured(value: float) -> Cell:
    """A number, or that there is none."""
    return Cell(number(value)) if finite(value) else Cell(EMPTY, "not measured")


def accuracy_cell(run: Run) -> Cell:
    """The accuracy, with its interval beneath where that is known."""
    value = run.summary["accuracy"]["test"]
    if run.accuracy is None:
        return Cell(EMPTY, "not measured") if value is None else Cell(f"{100 * value:.2f}")
    value, low, high = run.accuracy
    return Cell(f"{100 * value:.2f}", interval_of(low, high, rate))


def collapse_grid(comparison: Comparison) -> Grid | None:
    """NC1 to NC4 of each run."""
    table = comparing.collapse_table(comparison.runs)
    if table.empty:
        return None
    rows = [
        (str(label), [measured(value) for value in values]) for label, values in table.iterrows()
    ]
    return Grid(
        "On clean images of the training set, but for NC4 on test images.",
        "measure",
        numbered(comparison.names),
        rows,
    )


# ---- figures -------------------------------------------------------------------------------------


def pictures_of(comparison: Comparison) -> dict[str, Picture]:
    """{section: its figure} of those that can be drawn."""
    drawn = {}
    numbers = {name: place for place, name in enumerate(comparison.names, 1)}
    histories = {
        run.name: run.found.curves
        for run in comparison.runs
        if run.found.curves is not None and len(run.found.curves)
    }
    if histories:
        figure = figures.curves_together(histories, numbers)
        drawn["training"] = picture("trainings", figure)
    collapse = comparing.collapse_table(comparison.runs)
    if len(collapse) and comparison.methods:
        method = comparison.methods[0]
        auroc = comparison.means.loc[method]
        both = collapse.loc[:, auroc.notna()].dropna(axis=1, how="all")
        if both.shape[1] > 1:
            figure = figures.collapse_against_auroc(collapse, auroc, method)
            drawn["collapse"] = picture("collapse_and_auroc", figure)
    return drawn


def picture(stem: str, figure: Any) -> Picture:
    """A figure as the page holds it."""
    return Picture.of(stem, drawing(figure))
