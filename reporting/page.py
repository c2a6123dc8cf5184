"""The report as one HTML file that holds its style and its figures and links to nothing."""

import base64
import html
import io
import re
from string import Template

import pandas as pd

import figures
import utils
from collapse.rows import ROWS
from figures.style import metadata, read_caption
from reporting.words import (
    EMPTY,
    HOW_TO_READ,
    OOD_LEGEND,
    PLACES,
    commit,
    duration,
    finite,
    interval,
    kept,
    listed,
    number,
    percent,
    show,
)


def render(summary, found):
    """The whole of report.html; every name from a file is escaped where it enters."""
    run = summary["checkpoint"]
    drawn = [
        (path.stem, path.read_bytes()) for path in found["images"] if path.stem != "training_curves"
    ]
    if found["curves"] is not None and len(found["curves"]):
        drawn.append(("training_curves", drawing(figures.training_curves(found["curves"]))))
    shown = {place: figure_list(place, drawn, summary) for place in ("run", "ood", "nc", "other")}
    parts = [
        ("run", "The run", facts(summary) + shown["run"]),
        ("ood", "Out-of-distribution detection", ood_section(found["ood"], summary) + shown["ood"]),
        ("nc", "Neural collapse", nc_section(found) + shown["nc"]),
        ("other", "Further figures", shown["other"]),
        ("how", "How to read this", HOW_TO_READ.substitute(tpr=kept(summary["tpr"]))),
        ("provenance", "Provenance", provenance_section(summary, found)),
    ]
    parts = [part for part in parts if part[2]]
    missing = [
        escape(row["what"])
        + (f": make it with <code>{escape(row['command'])}</code>" if row["command"] else "")
        for row in summary["missing"]
    ]
    return PAGE.substitute(
        title=escape(" on ".join(filter(None, [run["model"] or run["stem"], run["dataset"]]))),
        stem=escape(run["stem"]),
        reading="".join(f"<li>{escape(sentence)}</li>" for sentence in summary["reading"]),
        tiles=tiles(summary),
        stale=aside(
            "Made from files that are not what they were, as --allow-stale asked",
            map(escape, summary["stale"]),
        ),
        missing=aside("Not in this report yet", missing),
        contents="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in parts),
        body="".join(
            f'<section id="{name}"><h2>{heading}</h2>{content}</section>'
            for name, heading, content in parts
        ),
        created=escape(summary["provenance"]["created"][:16].replace("T", " ")),
    )


def aside(heading, lines):
    """A box with a heading and a list of lines, all finished HTML; nothing without lines."""
    items = "".join(f"<li>{line}</li>" for line in lines)
    return items and f"<aside><strong>{heading}</strong><ul>{items}</ul></aside>"


def tiles(summary):
    """The few numbers that a reader looks for first; those that are missing are left out."""
    values = {(row["metric"], row["split"]): row["value"] for row in summary["neural_collapse"]}
    shown = [("test accuracy", percent(summary["accuracy"]["test"], 2), "")]
    if summary["mean_over_sets"]:
        top, share = summary["mean_over_sets"][0], kept(summary["tpr"])
        sets = summary["averaged_sets"]
        single = len(sets) == 1
        over = (
            f"interval {interval(summary['best'][sets[0]])}"
            if single
            else f"best over {len(sets)} sets"
        )
        mean = "" if single else "mean "
        shown += [
            (f"{mean}AUROC", percent(top["auroc"]), f"{top['method']}, {over}"),
            (
                f"{mean}FPR@{share}",
                percent(top["fpr95"]),
                f"{top['method']}, keeping {share}% of ID",
            ),
        ]
    shown += [
        ("NC1", number(values.get(("nc1", "train")), 3), "0 under full collapse"),
        (
            "NC4 mismatch, test",
            percent(values.get(("nc4_mismatch", "test")), 2),
            "0% under full collapse",
        ),
    ]
    return "".join(
        f"<div><dt>{label}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for label, value, note in shown
        if value != EMPTY
    )


def facts(summary):
    run, accuracy, training = summary["checkpoint"], summary["accuracy"], summary["training"] or {}
    held = run["held_out"] or []
    rows = {
        "Model": run["model"],
        "ID data set": run["dataset"],
        "Recipe": run["mode"],
        "Classes held out": listed(map(str, held[:8]), len(held) - 8),
        "Epoch of this checkpoint": run["epoch"],
        "Epochs trained": training.get("epochs") or run["epochs"],
        **{
            f"{name} accuracy": percent(accuracy[split], 2)
            for name, split in (("Training", "train"), ("Validation", "val"), ("Test", "test"))
        },
        "Best validation epoch": training.get("best_val_epoch"),
        "First epoch with every training image right": training.get(
            "first_epoch_all_training_images_right"
        ),
        "Training time": duration(training.get("seconds") or run["seconds"]),
    }
    cells = (
        f"<div><dt>{name}</dt><dd>{escape(show(value))}</dd></div>"
        for name, value in rows.items()
        if value not in (None, "", EMPTY)
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def ood_section(ood, summary):
    """Methods by OOD sets, best mean first: AUROC with its interval, FPR@95 beneath, the best of
    each set marked."""
    if ood is None:
        return ""
    ood = ood.assign(method=figures.method_labels(ood))
    groups = dict(list(ood.groupby("ood", sort=False)))
    cells = {(row["method"], row["ood"]): row for row in ood.to_dict("records")}
    means, members = averages(summary)
    marks = {}
    lines = []
    for method in dict.fromkeys([*means["Mean"], *ood["method"]]):
        own = [mean_cell(rows.get(method)) for rows in means.values()]
        own += [
            ood_cell(cells.get((method, name)), summary["best"][name], marks) for name in groups
        ]
        lines.append((escape(method), own))
    head = [
        "Method",
        *map(escape, means),
        *(escape(name) + size(rows) for name, rows in groups.items()),
    ]
    matrix = table(head, lines, "AUROC and FPR by method and OOD set", "matrix") + footnotes(marks)
    columns = [
        "method",
        *(name for name in ood.columns if name not in ("method", "checkpoint", "dataset")),
    ]
    alone = ood["auroc_low"].isna() | ood["auroc_high"].isna()  # no interval, no AUROC
    every = frame_table(
        ood[columns].assign(auroc=ood["auroc"].mask(alone)), "Every metric of ood_metrics.csv"
    )
    legend = OOD_LEGEND.substitute(
        tpr=kept(summary["tpr"]), groups=escape("".join(members)), against=against(ood)
    )
    return (
        f"{legend}{matrix}<details><summary>Every metric: both FPR, AUPR, detection error,"
        f" counts</summary>{every}</details>"
    )


def footnotes(marks):
    """{note: number} -> the notes beneath a table."""
    return "".join(
        f'<p class="note"><sup>{number}</sup> {escape(note)}</p>' for note, number in marks.items()
    )


def averages(summary):
    """({"Mean" or group: {method: row}}, [in words, which sets each group has])"""
    groups = {}
    for row in summary["groups"]:
        groups.setdefault((row["group"], row["sets"]), {})[row["method"]] = row
    means = {"Mean": {row["method"]: row for row in summary["mean_over_sets"]}}
    members = [f"; {name}: {listed(sets.split())}" for name, sets in groups]
    left_out = [name for name in summary["best"] if name not in summary["averaged_sets"]]
    if left_out:
        members.insert(0, f" but {listed(left_out)}")
    return means | {name: rows for (name, _), rows in groups.items()}, members


def against(ood):
    """In words, how many ID images every OOD set stands against, where the table has it."""
    known = "n_id" in ood and ood["n_id"].notna().any()
    return (
        f"Each OOD set against the same {ood['n_id'].max():,.0f} ID test images. " if known else ""
    )


def size(rows):
    """The number of images under the name of an OOD set, where the table has it."""
    known = "n_ood" in rows and rows["n_ood"].notna().any()
    if not known:
        return ""
    count = int(rows["n_ood"].max())
    return f"<small>{count:,} image{'s' * (count != 1)}</small>"


def mean_cell(row):
    """A method's mean over several sets; no mean where one of them is undefined."""
    return (
        f"<td>{rate(row['auroc'])}<small>FPR {rate(row['fpr95'])}</small></td>"
        if row
        else f"<td>{EMPTY}</td>"
    )


def ood_cell(row, best, marks):
    """One method on one set; `best` is the set's row in summary.json, `marks` numbers the notes
    beneath the table."""
    if row is None:
        return "<td>not scored</td>"
    why = why_undefined(row)
    if why:
        mark = marks.setdefault(why, len(marks) + 1)
        return f'<td title="{escape(why)}">{EMPTY}<sup>{mark}</sup></td>'
    kind = kind_of(row, best)
    value = f"<b>★ {rate(row['auroc'])}</b>" if kind == "best" else rate(row["auroc"])
    noted = row.get("note")
    mark = (
        f"<sup>{marks.setdefault(noted, len(marks) + 1)}</sup>"
        if isinstance(noted, str) and noted
        else ""
    )
    return (
        f'<td class="{kind}">{value}{mark} <i>{escape(interval(row))}</i><small>FPR'
        f" {rate(row['fpr95'])}</small></td>"
    )


def why_undefined(row):
    """Why a cell of the matrix stays empty, in words; "" where its AUROC and interval are there."""
    noted = row.get("note")
    if not finite(row["auroc"]):
        return (
            noted
            if isinstance(noted, str) and noted
            else "undefined for some of these images, or for all"
        )
    if not (finite(row["auroc_low"]) and finite(row["auroc_high"])):
        return (
            "one image only: its AUROC has no interval and is not shown"
            if row.get("n_ood") == 1
            else "no interval"
        )
    return ""


def kind_of(row, best):
    """ "best" for the highest AUROC of its set, "near" where its interval overlaps that one's, else
    ""."""
    if row["auroc"] == best["auroc"]:
        return "best"
    return "near" if row["method"] in best["intervals_overlap_with"] else ""


def nc_section(found):
    """Each metric on each set of images, with what full collapse would give and what it means; then
    class by class."""
    if found["nc"] is None:
        return ""
    nc, classes, lines = (
        found["nc"],
        None if found["per_class"] is None else len(found["per_class"]),
        [],
    )
    repeated = (
        [note for note, times in nc["note"].value_counts().items() if times > 2]
        if "note" in nc
        else []
    )
    marks = dict(zip(repeated, "†‡§", strict=False))  # said once beneath the table
    for metric, rows in nc.replace({"note": marks}).groupby("metric", sort=False):
        rows = rows.to_dict("records")
        known = ROWS.get(metric)
        target = known.target_for(classes) if known else ""
        meaning = known.meaning if known else ""
        values = "".join(
            f"<div>{number(row['value'])} <small>{notes(row, 'split', 'note')}</small></div>"
            for row in rows
        )
        lines.append(
            (
                escape(metric).replace("_", "_<wbr>"),
                [
                    (
                        f"<td>{values}</td><td>{escape(target)}</td><td>{notes(rows[0], 'centring')}</td>"
                    ),
                    f"<td>{escape(meaning)}<small>{notes(rows[0], 'source')}</small></td>",
                ],
            )
        )
    head = ("Metric", "Value, images", "Fully collapsed", "Centring", "Meaning and source")
    main_table = table(head, lines, "Neural collapse metrics", "nc")
    main_table += "".join(
        f'<p class="note">{mark} {escape(note)}</p>' for note, mark in marks.items()
    )
    if found["per_class"] is None:
        return main_table
    every = frame_table(found["per_class"], "Class by class, as in nc_per_class.csv")
    return f"{main_table}<details><summary>Class by class</summary>{every}</details>"


def notes(row, *columns):
    """The cells of these columns that hold text, joined."""
    cells = [row.get(column) for column in columns]
    return escape(", ".join(cell for cell in cells if isinstance(cell, str) and cell))


def figure_list(place, drawn, summary):
    """The figures of one section with captions; of many alike, such as histograms, one in sight,
    the others folded."""
    best = summary["mean_over_sets"][0]["method"].lower() if summary["mean_over_sets"] else ""
    groups = {}
    for stem, image in drawn:
        order, (_, where) = next(row for row in enumerate(PLACES) if re.search(row[1][0], stem))
        if where == place:
            groups.setdefault((order, read_caption(image)), []).append((stem, image))
    parts = []
    for (_, caption), members in sorted(groups.items()):
        # stable: the best method's first
        members.sort(key=lambda member: not member[0].lower().endswith(f"_{best}"))
        pictures = [picture(stem, image, caption) for stem, image in members]
        shown = pictures if len(pictures) < 3 else pictures[:1]
        parts += shown
        if len(shown) < len(pictures):
            folded = "".join(pictures[1:])
            names = escape(listed(stem.partition("_")[2] for stem, _ in members[1:]))
            parts.append(
                f"<details><summary>{len(pictures) - 1} more of these:"
                f" {names}</summary>{folded}</details>"
            )
    return "".join(parts)


def picture(stem, image, caption):
    name = stem.replace("_", " ")
    return (
        f'<figure><div class="scroll" tabindex="0" role="group" aria-label="{escape(name)}"><img '
        f'alt="{escape(f"Chart, {name}. {caption}".strip())}" '
        f'src="data:image/png;base64,{base64.b64encode(image).decode("ascii")}"></div>'
        f"<figcaption>{escape(caption or name)}</figcaption></figure>"
    )


def drawing(figure):
    """A matplotlib Figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=metadata(figure))
    return buffer.getvalue()


def provenance_section(summary, found):
    made = summary["provenance"]
    trained = {found["stem"]: found["sidecar"]} if found["sidecar"] else {}
    makers = {**trained, **found["records"], "this report": made}
    stages = {}  # a command, at a commit, made several files
    for name, record in makers.items():
        rows = f" ({record['rows']:,} rows)" if finite(record.get("rows")) else ""
        names, times = stages.setdefault((record.get("command"), commit(record)), ([], []))
        names.append(name + rows)
        times += seconds_of(record)
    rows = [
        [command, revision, duration(sum(times)) if times else None, ", ".join(names)]
        for (command, revision), (names, times) in stages.items()
    ]
    what = pd.DataFrame(rows, columns=["command", "commit", "time", "made"], dtype=object)
    hashes = pd.DataFrame({"file": made["inputs"].keys(), "SHA-256": made["inputs"].values()})
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (
        "<p>Checkpoint SHA-256:"
        f" <code>{escape(found['sha256'] or 'not on record')}</code><br>Versions:"
        f" {escape(versions)}</p>{frame_table(what, 'What made each file', 'made')}<details><summary>File"
        f" hashes</summary>{frame_table(hashes, 'Files that this report was made from')}</details>"
    )


def seconds_of(record):
    """[seconds] that a record tells: one number, or one for each part of the work."""
    seconds = record.get("seconds")
    parts = seconds.values() if isinstance(seconds, dict) else [seconds]
    return [part for part in parts if finite(part)]


# ---- HTML ----------------------------------------------------------------------------------------


def escape(text):
    return html.escape(str(text), quote=True)


def rate(share):
    """In percent without the sign, for a table's cell."""
    return escape(figures.percent(share)) if finite(share) else EMPTY


def table(head, lines, label, kind="", caption=""):
    """Column names, and rows as (name, cells), all finished HTML -> a table that scrolls where it
    is too wide."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>' for name, cells in lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table'
        f' class="{kind}">'
        f"{caption}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def frame_table(frame, caption, kind=""):
    """Any DataFrame as an HTML table, its first column naming the rows."""
    lines = [
        (escape(first), [f"<td>{escape(show(cell))}</td>" for cell in rest])
        for first, *rest in utils.plain(frame.astype(object).values.tolist())
    ]
    return table(
        map(escape, frame.columns), lines, caption, kind, f"<caption>{escape(caption)}</caption>"
    )


PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title: OOD detection and neural collapse</title>
<style>
:root { --ink: #1d2127; --quiet: #5b6470; --line: #dfe3e8; --page: #fff; --panel: #f5f7f9; --accent: #0060a0;
  --near: #e6f1f9; --best: #cbe4f5; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --quiet: #a0a9b4; --line: #363d46; --page: #15181c; --panel: #1e2227; --accent: #7cc0f0;
    --near: #1b2f3f; --best: #1f4763; }
  figure img { filter: brightness(.9); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 73rem; padding: 2rem 1.25rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
header p { color: var(--quiet); margin: .3rem 0 0; overflow-wrap: anywhere; }
nav { margin: 1.2rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a, summary { color: var(--accent); }
.reading { max-width: 46rem; overflow-wrap: break-word; padding-left: 1.2rem; }
.reading li { margin: .35rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem; margin: 1.5rem 0; }
.tiles div { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; }
.tiles dt, .tiles dd + dd { font-size: .82rem; color: var(--quiet); }
.tiles dd { margin: 0; font-size: 1.5rem; line-height: 1.3; font-weight: 600; }
.tiles dd + dd { font-weight: 400; line-height: 1.4; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .9rem 1.5rem; margin: 0; }
.facts dt { font-size: .82rem; font-weight: 400; color: var(--quiet); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
aside { border-left: .3rem solid #d98200; background: var(--panel); padding: .7rem 1rem; margin: 1.5rem 0; }
aside ul { margin: .3rem 0 0; padding-left: 1.2rem; }
code { font-size: .88em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption, .note { text-align: left; color: var(--quiet); padding-bottom: .5rem; font-size: .88rem; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; background: var(--page); }
thead th { vertical-align: bottom; }
tbody th { position: sticky; left: 0; }
.matrix { width: 100%; }
.matrix td, .matrix th { white-space: nowrap; padding: .35rem .45rem; }
.made tbody th { position: static; font: .92em monospace; min-width: 15rem; overflow-wrap: anywhere; }
.made td:last-child { min-width: 15rem; }
td.best, b.best { background: var(--best); }
td.near { background: var(--near); }
td i { font-style: normal; color: var(--quiet); font-size: .85em; }
small { display: block; color: var(--quiet); font-weight: 400; font-size: .85em; }
.nc td:last-child { min-width: 15rem; }
.nc div small { display: inline; }
figure { margin: 1.8rem 0; }
figure img { display: block; width: 62rem; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; padding: .4rem; }
figcaption { color: var(--quiet); font-size: .9rem; max-width: 46rem; margin-top: .4rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; padding: .3rem 0; }
dt { font-weight: 600; }
dl dd { margin: 0 0 .7rem; max-width: 46rem; }
footer { margin-top: 3rem; color: var(--quiet); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; }
  figure img { max-width: none; width: 40rem; }
  th, td { padding: .35rem .4rem; }
  tbody th { font-size: .92em; }
}
@media print {
  body { max-width: none; padding: 0; font-size: .85rem; }
  nav { display: none; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: .7rem; }
  figure img { width: auto; max-height: 22cm; }
}
</style>
</head>
<body>
<header><h1>$title</h1><p>OOD detection and neural collapse of the checkpoint <code>$stem</code></p></header>
<main>
<dl class="tiles">$tiles</dl>
<ul class="reading">$reading</ul>
$stale
$missing
<nav aria-label="Sections">$contents</nav>
$body
</main>
<footer>Made by report.py, $created UTC. This file links to nothing and holds all its figures.</footer>
</body>
</html>
""")
