"""One table over checkpoints, as model libraries publish theirs, and OpenOOD's published figures
for the same ID sets beside it.

Ours are read off ood_metrics.csv, ood_groups.csv and fsood_metrics.csv of each folder; published
ones off docs/published/*.csv, in percent, with their source. No number of one is in the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from artifacts import csv_files, records
from images import openood

PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "published"
# Published names of methods that are called otherwise here. OpenOOD's ASH is ASH-B.
OURS = {
    "EBO": "Energy",
    "MLS": "MaxLogit",
    "MDS": "Mahalanobis",
    "RMDS": "RelativeMahalanobis",
    "MDS++": "Mahalanobis++",
    "RMDS++": "RelativeMahalanobis++",
    "TempScale": "TempScaling",
    "KLM": "KLMatching",
    "VIM": "ViM",
    "ASH": "ASH-B",
}
NEEDED = ["dataset", "ood", "method", "auroc", "fpr95", "accuracy", "n_id"]
GROUPS = ("near", "far")
PROTOCOL = (
    "Published figures are OpenOOD's, of its own networks, image lists and seeds; methods with"
    " parameters searched them on validation images and on an OOD set. Ours are of the networks"
    " named here, of the sets named here, and of the authors' defaults unless the column"
    " named parameters says otherwise. Compare the order of methods rather than digits"
    " (docs/published/README.md)."
)


@dataclass(frozen=True)
class Board:
    """Our rows, one per checkpoint and method; the published ones of the same ID sets; and what to
    know of them."""

    ours: pd.DataFrame
    published: pd.DataFrame
    notes: list[str]


# ---- ours ----------------------------------------------------------------------------------------


def make(folders: Sequence[Path]) -> Board:
    """The board of these folders; those without scores are left out, and named.

    ValueError where none has any."""
    parts, notes = [], []
    for folder in folders:
        if not (folder / "ood_metrics.csv").is_file():
            notes.append(f"{folder} has no ood_metrics.csv, and is left out")
            continue
        part, said = of_folder(folder)
        parts.append(part)
        notes += said
    if not parts:
        raise ValueError(
            f"none of {', '.join(map(str, folders))} has ood_metrics.csv; expected folders that"
            " ood_methods.py wrote into: python ood_methods.py --checkpoint FOLDER"
        )
    ours = pd.concat(parts, ignore_index=True)
    return Board(ours, published_for(list(dict.fromkeys(ours["dataset"]))), notes)


def of_folder(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """One checkpoint's rows, and what is missing of them."""
    table = read(folder / "ood_metrics.csv")
    dataset = str(table["dataset"].iloc[0])
    sets = list(dict.fromkeys(table["ood"]))
    grouped = groups_of(dataset, sets)
    head = records.read_sidecar(folder / "head.csv")
    names = list(dict.fromkeys(table["method"]))
    frame = pd.DataFrame({"checkpoint": folder.name, "method": names})
    frame.insert(1, "model", str(head.get("model") or ""))
    frame.insert(2, "dataset", dataset)
    frame.insert(3, "accuracy", table["accuracy"].iloc[0])
    frame["n_id"] = table["n_id"].iloc[0]
    frame["mean_auroc"] = means(table, sets, "auroc", names)
    frame["sets"] = " ".join(sets)
    intervals = read_groups(folder)
    for name in GROUPS:
        members = grouped.get(name, [])
        frame[f"{name}_auroc"] = means(table, members, "auroc", names)
        low, high = interval_of(intervals, members, names)
        frame[f"{name}_auroc_low"], frame[f"{name}_auroc_high"] = low, high
        frame[f"{name}_fpr95"] = means(table, members, "fpr95", names)
        frame[f"{name}_sets"] = " ".join(members)
    frame = with_full_spectrum(frame, folder, grouped, names)
    frame["parameters"] = [first_parameters(table, name) for name in names]
    return frame, said_of(folder, dataset, sets, grouped, intervals)


def read(path: Path) -> pd.DataFrame:
    """A tidy table, its missing values as NaN; ValueError for one without the columns."""
    table = csv_files.read_table(path)
    lacking = [name for name in NEEDED if name not in table]
    if lacking or not len(table):
        raise ValueError(
            f"{path} lacks {', '.join(lacking) or 'rows'}; make it anew with: python"
            f" ood_methods.py --checkpoint {path.parent} --replace"
        )
    numbers = ["auroc", "fpr95", "accuracy", "n_id"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def groups_of(dataset: str, sets: Sequence[str]) -> dict[str, list[str]]:
    """{"near": its sets, "far": its sets} as OpenOOD has them, of those that were tested; empty
    where it has none."""
    if openood.benchmark_of(dataset) is None:
        return {}
    try:
        found = openood.groups(dataset, sets)
    except ValueError:  # none of its sets was tested
        return {}
    return {name.split()[0]: members for name, members in found}


def means(
    table: pd.DataFrame, members: Sequence[str], measure: str, names: Sequence[str]
) -> list[float]:
    """The mean of a measure over these sets, by method; NaN where one has none, or for no sets."""
    found = []
    for name in names:
        rows = table[(table["method"] == name) & table["ood"].isin(members)]
        complete = len(rows) == len(members) > 0
        found.append(rows[measure].mean(skipna=False) if complete else float("nan"))
    return found


def read_groups(folder: Path) -> pd.DataFrame | None:
    """ood_groups.csv, where the intervals of means stand; None without it."""
    path = folder / "ood_groups.csv"
    if not path.is_file():
        return None
    table = csv_files.read_table(path)
    return table if {"sets", "method", "auroc_low", "auroc_high"} <= set(table) else None


def interval_of(
    groups: pd.DataFrame | None, members: Sequence[str], names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """The interval of the mean over just these sets, by method; NaN where nobody computed it."""
    unknown = [float("nan")] * len(names)
    if groups is None or not members:
        return unknown, unknown
    same = [set(str(text).split()) == set(members) for text in groups["sets"]]
    rows = groups[same].drop_duplicates("method").set_index("method")
    ends = [pd.to_numeric(rows[end]).reindex(names) for end in ("auroc_low", "auroc_high")]
    return ends[0].tolist(), ends[1].tolist()


def with_full_spectrum(
    frame: pd.DataFrame, folder: Path, grouped: dict[str, list[str]], names: Sequence[str]
) -> pd.DataFrame:
    """The rows with full-spectrum means beside them, where there is such a table."""
    path = folder / "fsood_metrics.csv"
    if not path.is_file():
        return frame
    table = read(path)
    for name in GROUPS:
        frame[f"{name}_fsood_auroc"] = means(table, grouped.get(name, []), "auroc", names)
    frame["fsood_accuracy"] = table["accuracy"].iloc[0]
    frame["csid"] = str(table["csid"].iloc[0])
    return frame


def first_parameters(table: pd.DataFrame, name: str) -> str:
    """The parameters of a method as JSON, or ""."""
    if "parameters" not in table:
        return ""
    cell = table.loc[table["method"] == name, "parameters"].iloc[0]
    return cell if isinstance(cell, str) else ""


def said_of(
    folder: Path,
    dataset: str,
    sets: Sequence[str],
    grouped: dict[str, list[str]],
    intervals: pd.DataFrame | None,
) -> list[str]:
    """What a checkpoint's rows lack, in words."""
    if openood.benchmark_of(dataset) is None:
        return [f"{folder.name}: OpenOOD has no near and far sets for {dataset}; mean_auroc alone"]
    notes = [f"{folder.name}: {said}" for said in incomplete(dataset, grouped)]
    if grouped and intervals is None:
        notes.append(
            f"{folder.name}: no intervals of near and far; add them with: python ood_methods.py"
            f" --checkpoint {folder} --groups {openood.GROUP}"
        )
    return notes


def incomplete(dataset: str, grouped: dict[str, list[str]]) -> list[str]:
    """Which of OpenOOD's groups were not tested whole, in words."""
    benchmark = openood.benchmark_of(dataset)
    if benchmark is None:
        return []
    said = []
    for name in GROUPS:
        whole = getattr(openood.BENCHMARKS[benchmark], name)
        present = grouped.get(name, [])
        if len(present) < len(whole):
            said.append(
                f"{len(present)} of {len(whole)} {name} sets were tested"
                f" ({', '.join(present) or 'none'} of {', '.join(whole)}), so that the mean is not"
                " OpenOOD's"
            )
    return said


# ---- published -----------------------------------------------------------------------------------


def published_for(datasets: Sequence[str]) -> pd.DataFrame:
    """The published rows of these ID sets, without those that trained on outliers: our checkpoints
    did not. `ours` names the method as it is called here."""
    wanted = {openood.benchmark_of(name) for name in datasets}
    parts = [read_published(path) for path in published_files()]
    table = pd.concat(parts, ignore_index=True)
    table = table[table["dataset"].isin(wanted) & (table["outlier_data"] == "no")]
    names = [OURS.get(name, name) for name in table["method"]]
    table.insert(4, "ours", names)
    return table.reset_index(drop=True)


def of_plain_networks(published: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks trained by cross-entropy alone, without full spectrum."""
    return published[(published["task"] == "ood") & (published["training"] == "CrossEntropy")]


def published_files() -> list[Path]:
    return [PUBLISHED / name for name in records.listing(PUBLISHED, "*.csv")]


def read_published(path: Path) -> pd.DataFrame:
    table = csv_files.read_table(path)
    numbers = ["near_auroc", "near_std", "far_auroc", "far_std", "accuracy", "accuracy_std"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def beside(board: Board) -> pd.DataFrame:
    """Methods of plain networks in percent: our mean over checkpoints of an ID set, and the
    published figure of each architecture beside it."""
    measures = [f"{name}_auroc" for name in GROUPS]
    ours = board.ours.groupby(["dataset", "method"], sort=False)[measures].mean() * 100
    ours = ours.add_prefix("ours_").reset_index()
    plain = of_plain_networks(board.published)
    benchmark = {name: openood.benchmark_of(name) for name in ours["dataset"]}
    ours["benchmark"] = ours["dataset"].map(benchmark)
    theirs = plain[["dataset", "ours", "architecture", *measures]].rename(
        columns={"dataset": "benchmark", "ours": "method"}
    )
    theirs = theirs.drop_duplicates(["benchmark", "method", "architecture"])
    theirs = theirs.rename(columns={name: f"published_{name}" for name in measures})
    joined = ours.merge(theirs, on=["benchmark", "method"], how="left").drop(columns="benchmark")
    return joined.sort_values(
        ["dataset", "ours_near_auroc"], ascending=[True, False], kind="stable"
    )


def shown(board: Board) -> pd.DataFrame:
    """The rows of `beside` that have a number, rounded."""
    table = beside(board).round(2)
    numbers = [name for name in table if str(name).endswith("_auroc")]
    return table.dropna(subset=numbers, how="all").reset_index(drop=True)


def markdown(board: Board) -> str:
    """Both side by side, under a line that says whose numbers they are."""
    lines = ["# Leaderboard", "", "AUROC in percent, near and far. " + PROTOCOL, ""]
    lines += rows_of(shown(board))
    if board.notes:
        lines += ["", *(f"- {note}" for note in board.notes)]
    return "\n".join([*lines, ""])


def rows_of(table: pd.DataFrame) -> list[str]:
    """A table in Markdown, an empty cell where a value is missing."""
    columns = list(table.columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in table.to_dict("records"):
        cells = ["" if pd.isna(row[name]) else str(row[name]) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
