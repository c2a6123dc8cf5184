"""Tables of OOD metrics: ood_metrics.csv, over groups and checkpoints, as printed, in Markdown and
in LaTeX.

The tidy table has one row per OOD set and method, as ood_metrics.csv has (README.md says its
columns). `tabulate` makes it: a new column is a line in its `row`, or, where it is one more metric
of two arrays of scores, a line in metrics.COLUMNS and metrics.evaluate.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

import utils
from detection import group_means, metrics
from detection.scored import Scored

Groups = Sequence[tuple[str, list[str]]]  # (group, its OOD sets)
Escape = Callable[[str], str]  # text as a table's language writes it
SIGNIFICANT = 0.05  # p below which a paired test sets the best method apart
BOLD = (
    "Bold: the best AUROC where paired DeLong tests set it apart from every other (p <"
    f" {SIGNIFICANT})."
)
# OOD sets and means side by side in LaTeX: at its size they fit a page's width, and two panels of
# 26 methods its height
BESIDE = 4


class Place(Protocol):
    """What a table is of: feature_files.FeatureFiles, or members.Ensemble."""

    @property
    def folder(self) -> Path: ...

    @property
    def dataset(self) -> str: ...


def tabulate(
    run: Place,
    scored: Scored,
    right: np.ndarray | None,
    tpr: float,
    more_tpr: Sequence[float] = (),
) -> pd.DataFrame:
    """The tidy table: one row per OOD set and method.

    `best` marks the method that a paired test sets apart from every other of that OOD set. right
    (N,): whether each ID test image is classified right; None without a head.
    """
    rows = []
    for part in scored.ood:
        measured = {
            method: metrics.evaluate(
                scored.id.scores[method], values, tpr, more_tpr, scored.order(part, method)
            )
            for method, values in part.scores.items()
        }
        leader = significant_leader(measured, scored.id.scores, part.scores)
        for method, values in measured.items():
            row = {
                "checkpoint": run.folder.name,
                "dataset": run.dataset,
                "ood": part.name,
                "method": method,
                "parameters": parameters_cell(scored.parameters[method]),
                **values,
                **accuracies(right, scored.id.scores[method], tpr),
                "best": method == leader,
                "note": part.notes.get(method, ""),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def parameters_cell(parameters: dict) -> str:
    """Parameters as JSON; an empty cell where a method has none."""
    return json.dumps(utils.plain(parameters)) if parameters else ""


def accuracies(right: np.ndarray | None, id_scores: np.ndarray, tpr: float) -> dict[str, float]:
    """The share of ID test images classified right: of all, and of those that the threshold
    keeps."""
    if right is None:
        return {"accuracy": np.nan, "accuracy_at_tpr": np.nan}
    return {
        "accuracy": right.mean(),
        "accuracy_at_tpr": metrics.accuracy_at_coverage(right, id_scores, tpr),
    }


def significant_leader(
    measured: dict[str, dict[str, float]],
    id_scores: dict[str, np.ndarray],
    ood_scores: dict[str, np.ndarray],
) -> str | None:
    """The method of the highest AUROC where a paired DeLong test sets it apart from every other;
    else None."""
    areas = {
        name: values["auroc"] for name, values in measured.items() if not np.isnan(values["auroc"])
    }
    if len(areas) < 2:
        return None
    leader, *others = sorted(areas, key=lambda name: areas[name], reverse=True)
    for name in others:  # the nearest first, which most often decides
        test = metrics.paired_delong(
            id_scores[leader], ood_scores[leader], id_scores[name], ood_scores[name]
        )
        if not test.p_value < SIGNIFICANT:
            return None
    return leader


def best_on_average(table: pd.DataFrame) -> str | None:
    """The method of the highest mean AUROC among those that were computed on every set; None where
    no mean is defined."""
    everywhere = table.groupby("method")["ood"].transform("size") == table["ood"].nunique()
    mean = table[everywhere].groupby("method")["auroc"].mean()
    return str(mean.idxmax()) if mean.notna().any() else None


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table without the rates of sets of one image, which have no interval: they say
    nothing of other images."""
    known = table["auroc_low"].notna()
    return table.assign(auroc=table["auroc"].where(known), fpr95=table["fpr95"].where(known))


def single(table: pd.DataFrame) -> list[str]:
    """[name] of the sets of one image, whose rates have no interval: they are left out of every
    mean."""
    of_one_image = table["n_ood"] == 1
    return list(dict.fromkeys(table.loc[of_one_image, "ood"]))


def averaged(members: list[str], table: pd.DataFrame) -> list[str]:
    """The sets of a group that its mean is taken over."""
    left_out = single(table)
    return [name for name in members if name not in left_out]


def by_method(table: pd.DataFrame, groups: Groups = ()) -> pd.DataFrame:
    """The tidy table -> methods by OOD sets in percent, as printed: AUROC and FPR of each set, then
    means over the groups.

    A method that was not computed on a set, or is undefined there, has an empty cell, and no mean
    of which that set is part. Sets of a single image are part of no mean."""
    table = printable(table)
    frame = pd.DataFrame({"Method": list(dict.fromkeys(table["method"]))})
    sets = list(dict.fromkeys(table["ood"]))
    for name in sets:
        part = table[table["ood"] == name].set_index("method").reindex(frame["Method"])
        frame[f"{name} AUROC"] = 100 * part["auroc"].to_numpy()
        frame[f"{name} FPR"] = 100 * part["fpr95"].to_numpy()
    for name, members in groups or [("mean", sets)]:
        members = averaged([member for member in members if member in sets], table)
        for measure in ("AUROC", "FPR"):
            columns = [f"{member} {measure}" for member in members]
            frame[f"{name} {measure}"] = frame[columns].mean(axis=1, skipna=False)
    return frame.round(2)


def over_groups(table: pd.DataFrame, groups: Groups, scored: Scored | None = None) -> pd.DataFrame:
    """The tidy table -> one row per group and method: metrics averaged over the group's OOD sets,
    each set counting alike; with the scores also group_means.COLUMNS.

    A set on which a method is undefined, or was not computed, leaves that method no mean. A set of
    a single image is no part of a group's mean, unless the group has no others: then the mean stays
    empty."""
    measures = ["auroc", "fpr95", "fpr95_ood_positive", "aupr_in", "aupr_out", "detection_error"]
    table = printable(table)
    parts = []
    for name, members in groups:
        members = averaged(members, table) or members
        part = table[table["ood"].isin(members)].groupby("method", sort=False)[measures]
        complete = part.size() == len(members)
        part = part.agg(lambda values: values.mean(skipna=False)).where(complete)
        if scored is not None:
            part = part.join(group_means.columns(scored, members).where(part["auroc"].notna()))
        part = part.reset_index()
        part.insert(0, "group", name)
        part.insert(1, "sets", " ".join(members))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def in_common(measured: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Tables of several checkpoints -> the same, with the sets and methods that all of them
    have."""
    measured = [printable(table) for table in measured]
    keys = [list(zip(table["ood"], table["method"], strict=True)) for table in measured]
    shared = set.intersection(*map(set, keys))
    common = []
    for table, own in zip(measured, keys, strict=True):
        kept = [key in shared for key in own]
        common.append(table[kept])
    return common


def over_checkpoints(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Tables of several checkpoints -> mean and standard deviation (n - 1) of AUROC and FPR over
    them, for each `by`.

    A group's spread is that of its mean, not the mean of its sets' spreads: the sets share each
    checkpoint's luck."""

    def mean(values: pd.Series) -> float:
        return values.mean(skipna=False)  # undefined for one checkpoint leaves no mean

    def std(values: pd.Series) -> float:
        return values.std(skipna=False)

    grouped = table.groupby(by, sort=False)
    return grouped.agg(
        checkpoints=("auroc", "size"),
        auroc_mean=("auroc", mean),
        auroc_std=("auroc", std),
        fpr95_mean=("fpr95", mean),
        fpr95_std=("fpr95", std),
    ).reset_index()


def heading(table: pd.DataFrame, tpr: float, escape: Escape = str) -> str:
    """What a table shows, with names as `escape` writes them in the table's language."""
    row = table.iloc[0]
    percent = escape("%")
    right = ""
    if not np.isnan(row["accuracy"]):
        right = f", {100 * row['accuracy']:.2f}{percent} classified right"
    counts = table.groupby("ood", sort=False)["n_ood"].first()
    inside = f"{escape(row['dataset'])} ({row['n_id']:,} test images{right})"
    outside = ", ".join(f"{escape(name)} ({count:,})" for name, count in counts.items())
    rates = f"AUROC, and FPR at {100 * tpr:g}{percent} TPR with ID as positive, in {percent}"
    return (
        f"{escape(row['checkpoint'])}: {inside} against {outside}; {rates}"
        + left_out(table, escape)
        + tuned(table, escape)
    )


def left_out(table: pd.DataFrame, escape: Escape) -> str:
    """Which sets are part of no mean, in words."""
    names = [escape(name) for name in single(table)]
    if not names or len(names) == table["ood"].nunique():
        return ""
    return f"; means over all sets but {listed(names)}"


def notes(table: pd.DataFrame) -> list[str]:
    """Why cells are empty, or what to know of them: one line per text, with the methods and sets
    that it is of."""
    said: dict[str, list[tuple[str, str]]] = {}
    for row in table[table["note"] != ""].to_dict("records"):
        said.setdefault(row["note"], []).append((row["method"], row["ood"]))
    lines = []
    for text, cells in said.items():
        methods = together(method for method, _ in cells)
        sets = together(name for _, name in cells)
        lines.append(f"{methods} ({sets}): {text}")
    lines += [
        f"{name}: rates over one image have no interval and are left out; its scores are in"
        f" scores_OOD_{name}.csv, and whether each accepts it in accepted_OOD_{name}.csv"
        for name in single(table)
    ]
    if table["n_id"].iloc[0] == 1:
        lines.append("rates over one ID test image have no interval and are left out")
    return lines


def listed(names: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def together(names: Iterable[str]) -> str:
    """Each name once."""
    return ", ".join(dict.fromkeys(names))


def tuned(table: pd.DataFrame, escape: Escape) -> str:
    """Which methods' hyper-parameters were chosen on a validation OOD set, in words."""
    chosen: dict[str, list[str]] = {}
    for name, text in zip(table["method"], table["parameters"], strict=True):
        validation = json.loads(text).get("val_ood") if text else None
        if validation and name not in chosen.setdefault(validation, []):
            chosen[validation].append(name)
    return "".join(
        f"; hyper-parameters of {', '.join(map(escape, names))} chosen on {escape(validation)}"
        for validation, names in chosen.items()
    )


def cells(
    summary: pd.DataFrame, table: pd.DataFrame, bold: Escape, escape: Escape
) -> list[list[str]]:
    """The printed table as text, with the AUROCs in bold that a paired test calls the best of their
    set."""
    leaders = table[table["best"]]
    best = set(zip(leaders["method"], leaders["ood"] + " AUROC", strict=True))

    def cell(method: str, column: str, value: float) -> str:
        if np.isnan(value):
            return ""
        text = f"{value:.2f}"
        return bold(text) if (method, column) in best else text

    lines = []
    for row in summary.to_dict("records"):
        method = row.pop("Method")
        values = [cell(method, column, value) for column, value in row.items()]
        lines.append([escape(method), *values])
    return lines


def markdown(summary: pd.DataFrame, table: pd.DataFrame, tpr: float) -> str:
    """The printed table in Markdown, under a line that says what it shows."""
    rows = [
        [md(name) for name in summary.columns],
        ["---", *["---:"] * (summary.shape[1] - 1)],
        *cells(summary, table, "**{}**".format, md),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    beneath = [f"- {md(text)}" for text in notes(table)]
    below = ["", *beneath] if beneath else []
    return "\n".join([f"{heading(table, tpr, md)}. {BOLD}", "", *lines, *below, ""])


def md(text: str) -> str:
    """Escape what Markdown or HTML would take for markup; an underscore within a word is none, and
    stays readable."""
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$!])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return re.sub(
        r"^([#+=-])|^(\d+)([.)])",
        lambda start: "\\" + start[1] if start[1] else f"{start[2]}\\{start[3]}",
        text,
    )


def latex(summary: pd.DataFrame, table: pd.DataFrame, tpr: float, caption: str, label: str) -> str:
    r"""A booktabs table: AUROC and FPR under each OOD set's name, BESIDE sets side by side, as many
    panels as that takes.

    `caption` is the person's own LaTeX; without one, the table says what it shows.
    """
    names = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in summary.columns[1:]))
    rows = cells(summary, table, r"\textbf{{{}}}".format, tex)
    caption = caption or f"{heading(table, tpr, tex)}. {tex(BOLD)}"
    lines = [
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
    ]
    for start in range(0, len(names), BESIDE):
        beside = names[start : start + BESIDE]
        if start:
            lines.append(r"\\[1ex]")
        above = ["", *(rf"\multicolumn{{2}}{{c}}{{{tex(name)}}}" for name in beside)]
        titles = ["Method", *[r"AUROC $\uparrow$ & FPR $\downarrow$"] * len(beside)]
        lines += [
            rf"\begin{{tabular}}{{l{'rr' * len(beside)}}}",
            r"\toprule",
            " & ".join(above) + r" \\",
            " & ".join(titles) + r" \\",
            r"\midrule",
        ]
        columns = slice(2 * start, 2 * (start + BESIDE))
        lines += [" & ".join([name, *values[columns]]) + r" \\" for name, *values in rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, r"\end{table}", ""])


def tex(text: str) -> str:
    """Escape what LaTeX would take for a command, for the option of a line end ([ and *), or for a
    long dash."""
    special = {
        "\\": r"\textbackslash{}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "<": "$<$",
        ">": "$>$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
    }
    text = " ".join(str(text).split())
    return "".join(special.get(letter, letter) for letter in text).replace("--", "-{}-")
