"""Several runs side by side: what they share, and what can be said of it.

    comparison = compare([Run(summary, found, name), ...])
    comparison.means                 # methods by runs: mean AUROC over the sets that all share

Runs are compared on the OOD sets that each of them has scored with as many images, and by the
methods that each has scored. Nothing here is drawn or laid out: reporting/compare_page.py does
that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import figures
from collapse.rows import printed
from reporting import pairing
from reporting.found import Found, Summary
from reporting.words import finite, listed

# Arguments that two seeds of one training may differ in.
OF_A_SEED = {"seed", "suffix"}
# What belongs to a training though no flag says it.
TRAINED_BY = ("model", "dataset", "mode", "epochs", "steps")
NAMED = 8  # methods that a note names
COLLAPSE = (  # metric and split of the rows that are set side by side
    ("nc1", "train"),
    ("nc1_trace_ratio", "train"),
    ("nc1_cdnv", "train"),
    ("nc2_means_norm_cv", "train"),
    ("nc2_means_gram_distance", "train"),
    ("nc3_cosine_mean", "train"),
    ("nc4_mismatch", "train"),
    ("nc4_mismatch", "test"),
)
ID_MEASURES = {  # of id_metrics.csv, of the softmax as it is, without temperature
    "ece": "ECE, equal width",
    "ece_equal_mass": "ECE, equal mass",
    "brier": "Brier score",
    "nll": "NLL, nats",
}


@dataclass(frozen=True, eq=False)
class Run:
    """One run: what report.py found of it, the summary of that, and what it is called."""

    summary: Summary
    found: Found
    name: str

    @property
    def dataset(self) -> str | None:
        return self.summary["checkpoint"]["dataset"]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """ood_metrics.csv with the methods as figures name them; no rows where it is missing."""
        table = self.found.ood
        if table is None:
            return pd.DataFrame(columns=["ood", "method", "auroc", "fpr95", "n_ood", "n_id"])
        return table.assign(method=figures.method_labels(table))

    @cached_property
    def images(self) -> dict[str, int | None]:
        """{OOD set: its images}; None where the table does not say."""
        if "n_ood" not in self.scores:
            return dict.fromkeys(map(str, self.scores["ood"]))
        counts = self.scores.drop_duplicates("ood").set_index("ood")["n_ood"]
        return {str(name): int(count) for name, count in counts.items()}

    @property
    def id_images(self) -> int | None:
        """ID test images; None where the table does not say."""
        if "n_id" not in self.scores:
            return None
        known = self.scores["n_id"].dropna()
        return int(known.iloc[0]) if len(known) else None

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The flags that the network was trained with, as far as they are known; a switch that was
        not given is not there."""
        facts = self.found.facts
        known = {name: facts.get(name) for name in TRAINED_BY}
        given = self.found.sidecar.get("arguments") or {}
        told = {
            name: value for name, value in given.items() if value is not None and value is not False
        }
        return {**known, **told}

    @cached_property
    def accuracy(self) -> tuple[float, float, float] | None:
        """Test accuracy and the ends of its interval; None where either is missing."""
        rows = self.id_rows("accuracy")
        if rows.empty or not rows[["value", "low", "high"]].notna().all(axis=None):
            return None
        first = rows.iloc[0]
        return float(first["value"]), float(first["low"]), float(first["high"])

    def id_rows(self, measure: str) -> pd.DataFrame:
        """A measure of ID images alone in id_metrics.csv, that of the plain softmax first."""
        table = self.found.more.get("id_metrics.csv")
        if table is None:
            return pd.DataFrame(columns=["value", "low", "high"])
        alone = table["ood"].isna() | (table["ood"] == "")
        return table[alone & (table["measure"] == measure)]

    def collapse(self, metric: str, split: str) -> float:
        """A value of nc_metrics.csv; NaN where it is missing."""
        for row in self.summary["neural_collapse"]:
            if (row["metric"], row["split"]) == (metric, split) and finite(row["value"]):
                return float(row["value"])
        return np.nan


@dataclass(frozen=True)
class SetVerdict:
    """Which run tells one OOD set apart best, each by its best method."""

    ood: str
    run: str
    method: str
    auroc: float
    interval: tuple[float, float]
    runner_up: str  # a run; "" where no other has a score
    behind: float
    settled: bool  # ahead of every other run by more than chance
    p_value: float  # the largest of paired tests against the others; NaN: intervals decided

    @property
    def is_paired(self) -> bool:
        return bool(np.isfinite(self.p_value))


@dataclass(frozen=True)
class Seeds:
    """Runs that differ by their seed alone."""

    name: str
    runs: list[str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several runs share.

    sets     OOD sets that every run has scored, with the same number of images
    methods  that every run has scored on each of them, the best mean rank first
    notes    what is not shared, in sentences
    """

    runs: list[Run]
    sets: list[str]
    methods: list[str]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def alike(self) -> bool:
        """True where all runs know the same ID set and were tested on as many of its images: only
        then is one better than another."""
        return len({(run.dataset, run.id_images, held_out(run)) for run in self.runs}) == 1

    def on(self, ood: str) -> pd.DataFrame:
        """Methods by runs: AUROC on one set."""
        columns = {run.name: by_method(run, ood, "auroc") for run in self.runs}
        return pd.DataFrame(columns).reindex(self.methods)

    @cached_property
    def means(self) -> pd.DataFrame:
        """Methods by runs: the mean AUROC over the shared sets, NaN if undefined on one."""
        return self.mean_of("auroc")

    def mean_of(self, measure: str, group: str = "") -> pd.DataFrame:
        """Methods by runs: the mean of a measure over the shared sets, or over those of a group."""
        sets = self.groups[group] if group else self.sets
        return mean_over(self.runs, sets, self.methods, measure)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """{group: its sets}, such as near and far, of the groups that every run has with the same
        sets, all of them shared."""
        first, *others = [groups_of(run) for run in self.runs]
        return {
            name: members
            for name, members in first.items()
            if all(other.get(name) == members for other in others)
            and set(members) <= set(self.sets)
        }

    @property
    def group_names(self) -> dict[str, str]:
        """{group: what its mean is called}."""
        return {name: f"mean of {name}" for name in self.groups}

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """Methods by runs: the rank by mean AUROC, 1 the best; ties share the mean of theirs."""
        return self.means.dropna().rank(ascending=False)

    @cached_property
    def rank_correlations(self) -> pd.DataFrame:
        """Runs by runs: Spearman's correlation of the order of methods; NaN with fewer than 3."""
        if len(self.ranks) < 3:
            return pd.DataFrame(np.nan, self.names, self.names)
        return self.ranks.corr()

    @cached_property
    def concordance(self) -> float:
        """Kendall's W of the runs' orders, in [0, 1]: 1 where all agree; with ties, as by the mean
        of Spearman's correlations over pairs of runs (Kendall and Gibbons 1990)."""
        count = len(self.runs)
        pairs = self.rank_correlations.to_numpy()[np.triu_indices(count, 1)]
        return (1 + (count - 1) * pairs.mean()) / count

    @cached_property
    def seeds(self) -> list[Seeds]:
        """Runs that differ by their seed alone, two or more together."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.arguments.get("seed") is not None:
                groups.setdefault(recipe(run), []).append(run)
        return [
            Seeds(common_start([run.name for run in runs]), [run.name for run in runs])
            for runs in groups.values()
            if len(runs) > 1
        ]

    @cached_property
    def differing(self) -> dict[str, list[Any]]:
        """{argument: its value in each run} of those that differ."""
        names = dict.fromkeys(name for run in self.runs for name in run.arguments)
        values = {name: [run.arguments.get(name) for run in self.runs] for name in names}
        return {name: each for name, each in values.items() if len(set(map(repr, each))) > 1}

    def verdicts(self) -> list[SetVerdict]:
        """Which run is best on each shared set; none where the runs are not alike."""
        if not self.alike:
            return []
        found = (verdict(self.runs, ood) for ood in self.sets)
        return [each for each in found if each is not None]

    def tables(self) -> dict[str, pd.DataFrame]:
        """{name: table} for a workbook: means over the shared sets, each set, collapse, arguments,
        and every value."""
        arguments = pd.DataFrame.from_dict(self.differing, orient="index", columns=self.names)
        found = {
            "mean_auroc": self.means,
            "mean_fpr95": self.mean_of("fpr95"),
            **{f"{group}_auroc": self.mean_of("auroc", group) for group in self.groups},
            **{f"auroc_{ood}": self.on(ood) for ood in self.sets},
            "ranks": self.ranks,
            "collapse": collapse_table(self.runs),
            "arguments": arguments.map(lambda value: value if value is None else str(value)),
        }
        named = {name: table.rename_axis("").reset_index() for name, table in found.items()}
        return {**named, "every_value": self.tidy()}

    def tidy(self) -> pd.DataFrame:
        """Everything that was compared, a value a row: run, subject, method, measure, value."""
        rows = []
        for run in self.runs:
            scored = run.scores[run.scores["ood"].isin(self.sets)]
            for row in scored.to_dict("records"):
                for measure in ("auroc", "auroc_low", "auroc_high", "fpr95"):
                    rows.append((run.name, str(row["ood"]), row["method"], measure, row[measure]))
            rows += [
                (run.name, "ID test images", "", measure, value)
                for measure, value in id_values(run).items()
            ]
            rows += [
                (run.name, f"collapse, {split}", "", metric, run.collapse(metric, split))
                for metric, split in COLLAPSE
            ]
        for group, subject in {"": "mean of the shared sets", **self.group_names}.items():
            for measure in ("auroc", "fpr95"):
                means = self.mean_of(measure, group)
                rows += [
                    (name, subject, method, measure, means.loc[method, name])
                    for name in self.names
                    for method in self.methods
                ]
        return pd.DataFrame(rows, columns=["run", "subject", "method", "measure", "value"])


# ---- what is shared ------------------------------------------------------------------------------


def names_of(folders: Sequence[Path]) -> list[str]:
    """What the runs in these folders are called: by as few folders' names as tell them apart.

    ValueError for a folder that is named twice."""
    whole = [folder.resolve() for folder in folders]
    for folder in whole:
        if whole.count(folder) > 1:
            raise ValueError(f"{folder.name} is named twice; a run is compared with others")
    deepest = max(len(folder.parts) for folder in whole)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in whole]
        if len(set(names)) == len(names):
            return names
    return list(map(str, whole))


def compare(runs: Sequence[Run]) -> Comparison:
    """What these runs, each of another name, share."""
    runs = list(runs)
    notes = [*notes_of_id(runs)]
    scored = [run for run in runs if not run.scores.empty]
    sets, said = shared_sets(scored) if len(scored) == len(runs) else ([], [])
    methods, left_out = shared_methods(runs, sets)
    if left_out:
        named = listed(left_out[:NAMED], len(left_out) - NAMED)
        notes.append(f"Scored in some runs alone, and left out: {named}.")
    return Comparison(runs, sets, by_rank(runs, sets, methods), [*notes, *said])


def notes_of_id(runs: Sequence[Run]) -> list[str]:
    """What differs between the ID images of the runs."""
    notes = []
    known = {run.name: run.dataset or "an unnamed data set" for run in runs}
    if len(set(known.values())) > 1:
        each = listed(f"{name}: {dataset}" for name, dataset in known.items())
        notes.append(f"The ID sets differ, so that no run is better than another ({each}).")
    classes = {held_out(run) for run in runs}
    if len(classes) > 1 and len(set(known.values())) == 1:
        notes.append("The runs know different classes of the ID set, so that none is better.")
    counts = {run.id_images for run in runs}
    if len(counts) > 1 and len(set(known.values())) == 1:
        notes.append(
            f"The ID test images differ in number ({listed(map(str, counts))}), so that no run is"
            " better than another."
        )
    return notes


def held_out(run: Run) -> tuple[str, ...]:
    """The ID classes that a run left out."""
    return tuple(map(str, run.summary["checkpoint"]["held_out"] or ()))


def shared_sets(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """OOD sets that each run scored with as many images, in the first one's order; and what is
    not shared, in sentences."""
    everywhere = dict.fromkeys(name for run in runs for name in run.images)
    lacking = [name for name in everywhere if any(name not in run.images for run in runs)]
    differing = [
        name
        for name in everywhere
        if name not in lacking and len({run.images[name] for run in runs}) > 1
    ]
    notes = []
    if lacking:
        notes.append(f"OOD sets of some runs alone, and left out: {listed(lacking)}.")
    if differing:
        each = "; ".join(f"{name}: {counts_of(runs, name)}" for name in differing)
        notes.append(
            f"Of these sets the runs scored different images, and they are left out. {each}."
        )
    return [name for name in everywhere if name not in [*lacking, *differing]], notes


def counts_of(runs: Sequence[Run], ood: str) -> str:
    """ "500 in one and 400 in other": how many images of a set each run scored."""
    counts = {run.name: run.images[ood] for run in runs}
    return listed(
        f"{'an unknown number' if count is None else f'{count:,}'} in {name}"
        for name, count in counts.items()
    )


def shared_methods(runs: Sequence[Run], sets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Methods that each run scored on every shared set, and the others."""
    if not sets:
        return [], []
    of_runs = []
    for run in runs:
        scored = run.scores[run.scores["ood"].isin(sets)]
        counts = scored.groupby("method", sort=False)["ood"].nunique()
        of_runs.append([str(name) for name, count in counts.items() if count == len(sets)])
    everywhere = dict.fromkeys(name for names in of_runs for name in names)
    shared = [name for name in everywhere if all(name in names for names in of_runs)]
    return shared, [name for name in everywhere if name not in shared]


def groups_of(run: Run) -> dict[str, list[str]]:
    """{group: its sets} of ood_groups.csv; empty without it."""
    table = run.found.groups
    if table is None:
        return {}
    rows = table.drop_duplicates("group")
    return {
        str(name): str(sets).split() for name, sets in zip(rows["group"], rows["sets"], strict=True)
    }


def by_method(run: Run, ood: str, measure: str) -> pd.Series:
    """{method: a measure on one set}."""
    rows = run.scores[run.scores["ood"] == ood]
    return rows.drop_duplicates("method").set_index("method")[measure]


def mean_over(
    runs: Sequence[Run], sets: Sequence[str], methods: Sequence[str], measure: str
) -> pd.DataFrame:
    """Methods by runs: the mean of a measure over sets; NaN where it is undefined on one."""
    columns = {}
    for run in runs:
        each = [by_method(run, ood, measure).reindex(methods) for ood in sets]
        columns[run.name] = sum(each) / len(each) if each else pd.Series(np.nan, methods)
    return pd.DataFrame(columns, index=list(methods)).astype(float)


def by_rank(runs: Sequence[Run], sets: Sequence[str], methods: Sequence[str]) -> list[str]:
    """The methods by their mean rank over runs, the best first; undefined ones last."""
    means = mean_over(runs, sets, methods, "auroc")
    ranks = means.rank(ascending=False).mean(axis=1, skipna=False)
    return [str(name) for name in ranks.sort_values(kind="stable", na_position="last").index]


# ---- which run is best ---------------------------------------------------------------------------


def verdict(runs: Sequence[Run], ood: str) -> SetVerdict | None:
    """The run whose best method has the highest AUROC on a set; None where none is defined."""
    best = {run.name: run.summary["best"].get(ood) for run in runs}
    by_name = {run.name: run for run in runs}
    defined = {name: row for name, row in best.items() if row}
    if not defined:
        return None
    first, *others = sorted(defined, key=lambda name: -defined[name]["auroc"])
    row = defined[first]
    ends = row["auroc_low"], row["auroc_high"]
    if not others:
        return SetVerdict(ood, first, row["method"], row["auroc"], ends, "", np.nan, False, np.nan)
    tests = [
        pairing.of_auroc(
            by_name[first].found.scored,
            row["method"],
            by_name[name].found.scored,
            defined[name]["method"],
            ood,
        )
        for name in others
    ]
    settled, p_value = settlement(tests, all(defined[o]["auroc_high"] < ends[0] for o in others))
    behind = row["auroc"] - defined[others[0]]["auroc"]
    return SetVerdict(
        ood, first, row["method"], row["auroc"], ends, others[0], behind, settled, p_value
    )


def settlement(
    tests: Sequence[pairing.PairedTest | None], intervals_apart: bool
) -> tuple[bool, float]:
    """Whether a run is ahead of all others, and the largest p-value: by paired tests where each
    could be made, else by intervals, and then NaN."""
    made = [test for test in tests if test is not None and np.isfinite(test.p_value)]
    if len(made) < len(tests):
        return intervals_apart, np.nan
    return all(test.settles for test in made), max(test.p_value for test in made)


@dataclass(frozen=True)
class AccuracyVerdict:
    """The run that classifies most ID test images right."""

    run: str
    near: list[str]  # runs that it is not ahead of by more than chance, the nearest first
    p_value: float  # the largest of paired tests against the others; NaN: intervals decided


def accuracy_verdict(runs: Sequence[Run]) -> AccuracyVerdict | None:
    """The most accurate run, and whether that is settled; None with fewer than two intervals."""
    known = {run.name: run for run in runs if run.accuracy}
    if len(known) < 2:
        return None
    spans = {name: run.accuracy or (np.nan,) * 3 for name, run in known.items()}
    best, *others = sorted(known, key=lambda name: -spans[name][0])
    tests = {
        name: pairing.of_accuracy(known[best].found.scored, known[name].found.scored)
        for name in others
    }
    made = {name: test for name, test in tests.items() if test is not None}
    if len(made) < len(others):
        near = [name for name in others if spans[name][2] >= spans[best][1]]
        return AccuracyVerdict(best, near, np.nan)
    near = [name for name, test in made.items() if not test.settles]
    return AccuracyVerdict(best, near, max(test.p_value for test in made.values()))


def id_values(run: Run) -> dict[str, float]:
    """{measure: value} of the ID test images: accuracy and calibration; NaN where missing."""
    accuracy = run.summary["accuracy"]["test"]
    found = {"accuracy": np.nan if accuracy is None else float(accuracy)}
    for measure in ID_MEASURES:
        rows = run.id_rows(measure)
        found[measure] = float(rows["value"].iloc[0]) if len(rows) else np.nan
    return found


# ---- seeds ---------------------------------------------------------------------------------------


def recipe(run: Run) -> str:
    """What two seeds of one training have in common, as text."""
    kept = {name: value for name, value in run.arguments.items() if name not in OF_A_SEED}
    return repr(sorted(kept.items(), key=lambda item: item[0]))


def common_start(names: Sequence[str]) -> str:
    """ "resnet18_best_s" of "resnet18_best_s0" and "resnet18_best_s1"."""
    first, last = min(names), max(names)
    length = next(
        (at for at, letter in enumerate(first) if last[at : at + 1] != letter), len(first)
    )
    return first[:length] or first


def over_seeds(values: Mapping[str, float], seeds: Seeds) -> tuple[float, float]:
    """Mean and sample standard deviation over the runs of one recipe."""
    each = np.array([values[name] for name in seeds.runs])
    return float(each.mean()), float(each.std(ddof=1))


def collapse_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Metrics by runs, with the labels of nc_metrics; rows that no run has are left out."""
    labels = printed()
    rows = {
        labels.get((metric, split), metric): [run.collapse(metric, split) for run in runs]
        for metric, split in COLLAPSE
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[run.name for run in runs])
    return table.dropna(how="all")
