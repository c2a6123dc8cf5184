"""Everything measured of one checkpoint on one page: summary.json for programs, report.html for people.

    python report.py --checkpoint results/resnet18_best_s0.pth
    python report.py --checkpoint results/resnet18_best_s0          # the folder may be named in its place

Reads what stands in results/<stem>/ (ood_metrics.csv, nc_metrics.csv, nc_per_class.csv, figures/*.png), the
checkpoint's sidecar results/<stem>.json and its curves; needs neither features, nor images, nor torch. What is missing
is named, with the command that makes it. report.html links to nothing: it can be mailed, printed and opened offline.
"""
import base64
import html
import io
import math
import re
from string import Template

import pandas as pd

import cli
import figures
import utils

OOD_COLUMNS = ["ood", "method", "auroc", "auroc_low", "auroc_high", "fpr95"]
NC_COLUMNS = ["metric", "value", "split", "centring"]
PER_CLASS_COLUMNS = ["class_name", "within_class_variance", "cosine_weight_mean"]
RUN_KEYS = ("model", "model_args", "dataset", "mode", "epoch", "epochs", "held_out", "val_size", "preprocessing",
            "seconds", "command", "git_commit", "git_dirty", "created")
EMPTY = "–"


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "output-dir", checkpoint={"required": True})
    return parser


def parse_args(argv=None):
    return make_parser().parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder = utils.writable_folder(utils.results_folder(args.checkpoint, args.output_dir))
    found = gather(args.checkpoint, folder)
    inputs = utils.fingerprints(found["files"], folder)
    summary = summarise(found, utils.provenance(cli.material(args), inputs=inputs))
    page = render(summary, found)
    utils.write_json(folder / "summary.json", summary)
    utils.write_text(folder / "report.html", page)
    utils.write_record(folder / "report.json", cli.material(args), found["files"],
                       [folder / "summary.json", folder / "report.html"])
    print("\n".join(summary["reading"]))
    for missing in summary["missing"]:
        print(f"missing: {missing['what']}; make it with: {missing['command']}")
    print(f"report: {folder / 'report.html'}")


# ---- what is there ---------------------------------------------------------------------------------------------------

def gather(checkpoint, folder):
    """Read every table and list every figure of the run; ValueError where there is nothing, or another checkpoint's."""
    path = folder.parent / f"{folder.name}.pth"
    scoring, collapse = (f"python {step}.py --checkpoint {checkpoint}" for step in ("ood_methods", "neural_collapse"))
    tables = {"ood": (folder / "ood_metrics.csv", OOD_COLUMNS, scoring),
              "nc": (folder / "nc_metrics.csv", NC_COLUMNS, collapse),
              "per_class": (folder / "nc_per_class.csv", PER_CLASS_COLUMNS, collapse)}
    if not tables["ood"][0].exists() and not tables["nc"][0].exists():
        raise ValueError(f"nothing to report in {folder}: expected ood_metrics.csv or nc_metrics.csv; make them with: "
                         f"{scoring} and {collapse}")
    sidecar = utils.read_sidecar(path)
    identity = utils.sha256(path) if path.is_file() else sidecar.get("checkpoint_sha256", sidecar.get("sha256"))
    found = {name: read_checked(*table, identity) for name, table in tables.items()}
    curves, records = curves_file(folder, sidecar), read_records(folder)
    images = figure_files(folder, records)
    missing = [{"what": file.name, "command": command}
               for name, (file, _, command) in tables.items() if found[name] is None]
    absent = [] if sidecar else [f"{folder.name}.json (model and accuracies)"]
    absent += [] if curves else ["the training curves"]
    if absent:
        missing.append({"what": listed(absent), "command": "python train.py, with this run's arguments"})
    if not images:
        missing.append({"what": "figures/*.png", "command": f"{scoring} and {collapse}"})
    files = [utils.sidecar_path(path), curves, *(file for file, *_ in tables.values()), *images]
    return {**found, "stem": folder.name, "tpr": records.get("ood_metrics", {}).get("tpr", 0.95), "sidecar": sidecar,
            "sha256": identity, "images": images, "missing": missing, "records": records,
            "curves": utils.read_table(curves) if curves else None,
            "files": [file for file in files if file and file.exists()]}


def read_checked(path, columns, command, checkpoint_sha256):
    """A table, or None where there is none; ValueError where it lacks columns or rows, or is another checkpoint's."""
    if not path.exists():
        return None
    made_from = utils.read_sidecar(path).get("checkpoint_sha256")
    if made_from and checkpoint_sha256 and made_from != checkpoint_sha256:
        raise ValueError(f"{path} was made from another checkpoint ({made_from[:12]}, expected "
                         f"{checkpoint_sha256[:12]}); extract with run_networks.py, then make it anew with: {command}")
    try:
        table = utils.read_table(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); make it anew with: {command}") from None
    lacking = [name for name in columns if name not in table.columns]
    if lacking or table.empty:
        raise ValueError(f"{path} lacks {', '.join(lacking) or 'rows'}; make it anew with: {command}")
    return table


def curves_file(folder, sidecar):
    """The curves of the run, which its best and final checkpoints share, or None."""
    names = [sidecar["curves"]] if sidecar.get("curves") else []
    names.append(re.sub("_(best|final)(?=_|$)", "_curves", folder.name, count=1) + ".csv")
    names.append(re.sub("_(best|final)(?=_|$)", "", folder.name, count=1) + "_curves.csv")
    return next((path for name in names if (path := folder.parent / name).is_file()), None)


def read_records(folder):
    """Sidecars and stage records of the folder, by stem: what made each file, from what."""
    paths = (path for path in sorted(folder.glob("*.json")) if path.stem not in ("summary", "report"))
    return {path.stem: record for path in paths if "command" in (record := utils.read_json(path))}


def figure_files(folder, records):
    """The PNGs of figures/; where stages recorded their outputs only those, not what an older run left behind."""
    images = sorted((folder / "figures").glob("*.png"))
    recorded = {name for record in records.values() for name in record.get("outputs", ())}
    return [path for path in images if not recorded or f"figures/{path.name}" in recorded]


# ---- summary ---------------------------------------------------------------------------------------------------------

def summarise(found, provenance):
    """The whole run as one JSON object: numbers in [0, 1], null where a value is missing."""
    sidecar, ood = found["sidecar"], found["ood"]
    run = {"stem": found["stem"], "sha256": found["sha256"], **{key: sidecar.get(key) for key in RUN_KEYS}}
    if run["dataset"] is None and ood is not None and "dataset" in ood:
        run["dataset"] = str(ood["dataset"].iloc[0])
    best = {} if ood is None else {str(name): best_of(rows) for name, rows in ood.groupby("ood", sort=False)}
    summary = utils.plain({
        "checkpoint": run, "accuracy": {split: sidecar.get(f"{split}_acc") for split in ("train", "val", "test")},
        "training": summarise_curves(found["curves"]), "tpr": found["tpr"], "best": best,
        "mean_over_sets": [] if ood is None else mean_over_sets(ood), "ood_metrics": rows_of(ood),
        "neural_collapse": rows_of(found["nc"]), "missing": found["missing"], "provenance": provenance})
    return {**summary, "reading": reading(summary)}


def summarise_curves(curves):
    if curves is None or curves.empty:
        return None
    fitted = curves.loc[curves["train_acc"] == 1, "epoch"]
    best = curves["val_acc"].idxmax() if curves["val_acc"].notna().any() else None
    return {"epochs": len(curves), "seconds": curves["seconds"].sum() if "seconds" in curves else None,
            "best_val_epoch": None if best is None else curves["epoch"][best],
            "best_val_acc": None if best is None else curves["val_acc"][best],
            "first_epoch_all_training_images_right": fitted.iloc[0] if len(fitted) else None}


def best_of(rows):
    """The row of one OOD set with the highest AUROC, its ties, and whose interval overlaps its own; None if all NaN."""
    if rows["auroc"].isna().all():
        return None
    best = rows.loc[rows["auroc"].idxmax()]
    others = rows.drop(index=best.name)
    kept = {key: best.get(key) for key in ("parameters", "auroc", "auroc_low", "auroc_high", "fpr95")}
    return {"method": best["method"], **kept, "tied_with": list(others.loc[others["auroc"] == best["auroc"], "method"]),
            "intervals_overlap_with": list(others.loc[others["auroc_high"] >= best["auroc_low"], "method"])}


def mean_over_sets(ood):
    """Mean AUROC and FPR@95 of each method that is defined on every set, highest AUROC first."""
    table = ood.assign(method=figures.method_labels(ood)).dropna(subset=["auroc", "fpr95"])
    groups = table.groupby("method", sort=False)
    means = groups[["auroc", "fpr95"]].mean()[groups["ood"].nunique() == ood["ood"].nunique()]
    return means.sort_values("auroc", ascending=False, kind="stable").reset_index().to_dict("records")


def rows_of(table):
    return [] if table is None else table.to_dict("records")


# ---- the reading: plain language from the numbers --------------------------------------------------------------------

def reading(summary):
    """A few sentences that say what was found: numbers of this run, and nothing that they do not show."""
    return [sentence for part in (read_training, read_ood, read_collapse) for sentence in part(summary)]


def read_training(summary):
    run, accuracy = summary["checkpoint"], summary["accuracy"]
    if accuracy["test"] is None:
        return [f"The accuracies of {run['stem']} are not on record."]
    text = f"{run['model']}, trained on {run['dataset']}"
    text += "" if run["epoch"] is None else f" for {run['epoch']} epochs"
    text += f", classifies {percent(accuracy['test'], 2)} of the test images right"
    text += "" if accuracy["train"] is None else f", and {percent(accuracy['train'], 2)} of the training images"
    since = (summary["training"] or {}).get("first_epoch_all_training_images_right")
    said = [f"{text}."]
    if finite(since):
        epochs = summary["training"]["epochs"]
        said.append(f"Of the run's {epochs} epochs, {since} was the first with every training image right.")
    return said


def read_ood(summary):
    best = {name: row for name, row in summary["best"].items() if row}
    if not best:
        return ["No OOD score is defined." if summary["best"] else "OOD scores have not been measured."]
    ranked = sorted(best, key=lambda name: best[name]["auroc"])
    who = {name: f"{listed([row['method']], len(row['tied_with']))}, AUROC {percent(row['auroc'])}"
           for name, row in best.items()}
    hard, easy = ranked[0], ranked[-1]
    said = [f"The best score on {hard} is {who[hard]}." if len(best) == 1 else
            f"Of {len(best)} OOD sets, {easy} ({who[easy]}) is the easiest to tell from the test images and {hard} "
            f"({who[hard]}) the hardest{winners(best)}."]
    rates = {name: row["fpr95"] for name, row in best.items() if finite(row["fpr95"])}
    if rates:
        most, least = max(rates, key=rates.get), min(rates, key=rates.get)
        other = f"; on {least}, {best[least]['method']} accepts {percent(rates[least])}" if most != least else ""
        said.append(f"With the threshold that keeps {summary['tpr']:.0%} of the ID test images, {best[most]['method']} "
                    f"still accepts {percent(rates[most])} of {most}{other}.")
    unsettled = [name for name in ranked if best[name]["intervals_overlap_with"]]
    if unsettled:
        where = "every set" if len(unsettled) == len(best) > 1 else listed(unsettled)
        said.append(f"The best method's 95% interval overlaps another's on {where}: the order there is not settled.")
    return said + read_baseline(summary)


def winners(best):
    """How often each method alone is best, in words; nothing where every set is a tie."""
    wins = pd.Series([row["method"] for row in best.values() if not row["tied_with"]], dtype=object).value_counts()
    if len(wins) == 1 and wins.iloc[0] == len(best):
        return f"; {wins.index[0]} is best on all {len(best)}"
    most = [f"{method} alone is best on {count}" for method, count in wins.items() if count > 1]
    return f"; {listed(most[:4])}" if most else ""


def read_baseline(summary):
    """How far the best method is from MSP, and what is worse than chance."""
    means, said = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}, []
    if len(summary["best"]) > 1 and "MSP" in means and (top := next(iter(means))) != "MSP":
        said.append(f"Averaged over the sets, {top} has the highest AUROC, {percent(means[top])}, "
                    f"{100 * (means[top] - means['MSP']):.1f} points above MSP, the baseline.")
    below = [f"{row['method']} on {row['ood']}" for row in summary["ood_metrics"]
             if finite(row["auroc_high"]) and row["auroc_high"] < 0.5]
    if below:
        named = listed(below[:4], len(below) - 4)
        said.append(f"Worse than chance, so trusting OOD images more than ID ones: {named}.")
    return said


def read_collapse(summary):
    rows = summary["neural_collapse"]
    values = {(row["metric"], row["split"]): row["value"] for row in rows if finite(row["value"])}
    if not values:
        return ["Neural collapse has not been measured."]
    forms = {"nc1": "NC1 is {:.3g} (0 under full collapse)",
             "nc2_means_norm_cv": "the norms of the class means vary by {:.1%} of their mean",
             "nc3_cosine_mean": "weight rows and class means have a mean cosine of {:.3f}"}
    found = [form.format(values[metric, "train"]) for metric, form in forms.items() if (metric, "train") in values]
    nc4 = [f"{percent(values['nc4_mismatch', split], 2)} of the {name} images"
           for split, name in (("train", "training"), ("test", "test")) if ("nc4_mismatch", split) in values]
    found += [f"nearest class mean and classifier disagree on {listed(nc4)}"] if nc4 else []
    said = [f"Neural collapse: {'; '.join(found)}."] if found else []
    sets = {split[4:]: value for (metric, split), value in values.items()
            if metric == "nc5_centred" and split.startswith("ood:")}
    if sets:
        ends = dict.fromkeys((max(sets, key=sets.get), min(sets, key=sets.get)))
        null = values.get(("nc5_centred", "test"))
        said.append("The OOD mean most aligned with the class means (NC5, centred) is that of "
                    + ", the least that of ".join(f"{name} ({sets[name]:.3f})" for name in ends)
                    + ("." if null is None else f"; the ID test images, the null, have {null:.3f}."))
    return said


# ---- the page --------------------------------------------------------------------------------------------------------

def render(summary, found):
    """The whole of report.html; every name from a file is escaped where it enters."""
    run = summary["checkpoint"]
    drawn = [(path.stem, path.read_bytes()) for path in found["images"] if path.stem != "training_curves"]
    if found["curves"] is not None and len(found["curves"]):
        drawn.append(("training_curves", drawing(figures.training_curves(found["curves"]))))
    shown = {place: figure_list(place, drawn, summary) for place in ("run", "ood", "nc", "other")}
    parts = [("run", "The run", facts(summary) + shown["run"]),
             ("ood", "Out-of-distribution detection", ood_section(found["ood"], summary) + shown["ood"]),
             ("nc", "Neural collapse", nc_section(found) + shown["nc"]),
             ("other", "Further figures", shown["other"]),
             ("how", "How to read this", HOW_TO_READ.substitute(tpr=f"{100 * summary['tpr']:.0f}")),
             ("provenance", "Provenance", provenance_section(summary, found))]
    parts = [part for part in parts if part[2]]
    missing = "".join(f"<li>{escape(row['what'])}: make it with <code>{escape(row['command'])}</code></li>"
                      for row in summary["missing"])
    return PAGE.substitute(
        title=escape(f"{run['model']} on {run['dataset']}" if run["model"] else run["stem"]), stem=escape(run["stem"]),
        reading=escape(" ".join(summary["reading"])), tiles=tiles(summary),
        missing=missing and f"<aside><strong>Not in this report yet</strong><ul>{missing}</ul></aside>",
        contents="".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in parts),
        body="".join(f'<section id="{name}"><h2>{heading}</h2>{content}</section>' for name, heading, content in parts),
        created=escape(summary["provenance"]["created"]))


def tiles(summary):
    """The few numbers that a reader looks for first; those that are missing are left out."""
    values = {(row["metric"], row["split"]): row["value"] for row in summary["neural_collapse"]}
    shown = [("test accuracy", percent(summary["accuracy"]["test"], 2), "")]
    if summary["mean_over_sets"]:
        top, kept = summary["mean_over_sets"][0], f"{100 * summary['tpr']:.0f}"
        shown += [("mean AUROC", percent(top["auroc"]), f"{top['method']}, best over all sets"),
                  (f"mean FPR@{kept}", percent(top["fpr95"]), f"{top['method']}, keeping {kept}% of ID")]
    shown += [("NC1", number(values.get(("nc1", "train"))), "0 under full collapse"),
              ("NC4 mismatch, test", percent(values.get(("nc4_mismatch", "test"))), "0% under full collapse")]
    return "".join(f"<div><dt>{label}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
                   for label, value, note in shown if value != EMPTY)


def facts(summary):
    run, accuracy, training = summary["checkpoint"], summary["accuracy"], summary["training"] or {}
    rows = {"Model": run["model"], "ID data set": run["dataset"], "Recipe": run["mode"],
            "Classes held out": ", ".join(map(str, run["held_out"] or [])),
            "Epoch of this checkpoint": run["epoch"], "Epochs trained": training.get("epochs") or run["epochs"],
            "Accuracy, training images": percent(accuracy["train"], 2),
            "Accuracy, validation images": percent(accuracy["val"], 2),
            "Accuracy, test images": percent(accuracy["test"], 2),
            "Best validation epoch": training.get("best_val_epoch"),
            "First epoch with every training image right": training.get("first_epoch_all_training_images_right"),
            "Training time": duration(training.get("seconds") or run["seconds"])}
    cells = (f"<div><dt>{name}</dt><dd>{escape(show(value))}</dd></div>"
             for name, value in rows.items() if value not in (None, "", EMPTY))
    return f'<dl class="facts">{"".join(cells)}</dl>'


def ood_section(ood, summary):
    """Methods by OOD sets: AUROC with its interval, FPR@95 beneath, the best of each set marked; then every column."""
    if ood is None:
        return ""
    ood = ood.assign(method=figures.method_labels(ood))
    groups = dict(list(ood.groupby("ood", sort=False)))
    cells = {(row["method"], row["ood"]): row for row in ood.to_dict("records")}
    best = {name: rows["auroc"].max() for name, rows in groups.items()}
    low = {name: rows.loc[rows["auroc"] == best[name], "auroc_low"].min() for name, rows in groups.items()}
    means = {row["method"]: row for row in summary["mean_over_sets"]}
    lines = []
    for method in dict.fromkeys(ood["method"]):
        mean = means.get(method, {"auroc": None, "fpr95": None})
        lines.append((escape(method), [*(ood_cell(cells.get((method, name)), best[name], low[name]) for name in groups),
                                       f"<td>{rate(mean['auroc'])}<small>FPR {rate(mean['fpr95'])}</small></td>"]))
    head = ["Method", *(escape(name) + sizes(rows) for name, rows in groups.items()), "Mean"]
    matrix = table(head, lines, "AUROC and FPR by method and OOD set", "matrix")
    columns = ["method", *(name for name in ood.columns if name not in ("method", "checkpoint", "dataset"))]
    every = frame_table(ood[columns], "Every metric, as in ood_metrics.csv")
    legend = OOD_LEGEND.substitute(tpr=f"{100 * summary['tpr']:.0f}")
    return (f"{legend}{matrix}<details><summary>Every metric: both FPR, AUPR, detection error, counts</summary>"
            f"{every}</details>")


def sizes(rows):
    """Numbers of images under the name of an OOD set, where the table has them."""
    if not {"n_id", "n_ood"} <= set(rows.columns) or rows[["n_id", "n_ood"]].isna().all(axis=None):
        return ""
    return f"<small>{rows['n_ood'].max():,.0f} against {rows['n_id'].max():,.0f} ID</small>"


def ood_cell(row, best, low):
    """One method on one set; `best` is the set's highest AUROC and `low` the lower end of its interval."""
    if row is None or not finite(row["auroc"]):
        return f'<td title="undefined">{EMPTY}</td>'
    kind = "best" if row["auroc"] == best else "near" if row["auroc_high"] >= low else ""
    value = f"<b>★ {rate(row['auroc'])}</b>" if kind == "best" else rate(row["auroc"])
    interval = f"{100 * row['auroc_low']:.1f}–{100 * row['auroc_high']:.1f}" if finite(row["auroc_low"]) else ""
    return f'<td class="{kind}">{value} <i>{interval}</i><small>FPR {rate(row["fpr95"])}</small></td>'


def nc_section(found):
    """Each metric on each set of images, with what full collapse would give and what it means; then class by class."""
    if found["nc"] is None:
        return ""
    nc, classes, lines = found["nc"], None if found["per_class"] is None else len(found["per_class"]), []
    for metric, rows in nc.groupby("metric", sort=False):
        rows = rows.to_dict("records")
        target, meaning = meaning_of(metric, classes)
        values = "".join(f"<div>{number(row['value'])} <small>{notes(row, 'split', 'note')}</small></div>"
                         for row in rows)
        lines.append((escape(metric).replace("_", "_<wbr>"), [
            f"<td>{values}</td><td>{escape(target)}</td><td>{notes(rows[0], 'centring')}</td>",
            f"<td>{escape(meaning)}<small>{notes(rows[0], 'source')}</small></td>"]))
    head = ("Metric", "Value, images", "Fully collapsed", "Centring", "Meaning and source")
    main_table = table(head, lines, "Neural collapse metrics", "nc")
    if found["per_class"] is None:
        return main_table
    every = frame_table(found["per_class"], "Class by class, as in nc_per_class.csv")
    return f"{main_table}<details><summary>Class by class</summary>{every}</details>"


def notes(row, *columns):
    """The cells of these columns that hold text, joined."""
    return escape(", ".join(cell for column in columns if isinstance(cell := row.get(column), str)))


def meaning_of(metric, classes):
    """(value under full collapse, meaning in one line) of a metric; empty for one that is not known."""
    target, meaning = MEANINGS.get(re.sub("^nc2_(means|weights)_", "nc2_", metric), ("", ""))
    if target == "-1/(C-1)" and classes and classes > 1:
        target = f"{target} = {-1 / (classes - 1):.4g}"
    return target, f"classifier's weight rows: {meaning}" if metric.startswith("nc2_weights_") else meaning


def figure_list(place, drawn, summary):
    """The figures of one section with captions; of many alike, such as histograms, one in sight, the others folded."""
    best = summary["mean_over_sets"][0]["method"].lower() if summary["mean_over_sets"] else ""
    groups = {}
    for stem, image in drawn:
        order, (_, where, caption) = next(row for row in enumerate(CAPTIONS) if re.search(row[1][0], stem))
        if where == place:
            groups.setdefault((order, caption), []).append((stem, image))
    parts = []
    for (_, caption), members in sorted(groups.items()):
        members.sort(key=lambda member: not member[0].lower().endswith(f"_{best}"))  # stable: the best method's first
        pictures = [picture(stem, image, caption) for stem, image in members]
        shown = pictures if len(pictures) < 3 else pictures[:1]
        parts += shown
        if len(shown) < len(pictures):
            folded = "".join(pictures[1:])
            parts.append(f"<details><summary>{len(pictures) - 1} more of these</summary>{folded}</details>")
    return "".join(parts)


def picture(stem, image, caption):
    name = stem.replace("_", " ")
    return (f'<figure><div class="scroll" tabindex="0" role="group" aria-label="{escape(name)}"><img '
            f'alt="{escape(f"Chart, {name}. {caption}".strip())}" '
            f'src="data:image/png;base64,{base64.b64encode(image).decode("ascii")}"></div>'
            f"<figcaption>{escape(caption or name)}</figcaption></figure>")


def drawing(figure):
    """A matplotlib Figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def provenance_section(summary, found):
    made = summary["provenance"]
    trained = {found["stem"]: found["sidecar"]} if found["sidecar"] else {}
    makers = {**trained, **found["records"], "this report": made}
    rows = [[name, record.get("rows"), record.get("command"), commit(record), duration(record.get("seconds"))]
            for name, record in makers.items()]
    what = pd.DataFrame(rows, columns=["made", "rows", "command", "commit", "time"], dtype=object)
    hashes = pd.DataFrame({"file": made["inputs"].keys(), "SHA-256": made["inputs"].values()})
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (f"<p>Checkpoint SHA-256: <code>{escape(found['sha256'] or 'not on record')}</code><br>Versions: "
            f"{escape(versions)}</p>{frame_table(what, 'What made each file')}<details><summary>File hashes</summary>"
            f"{frame_table(hashes, 'Files that this report was made from')}</details>")


# ---- small things ----------------------------------------------------------------------------------------------------

def escape(text):
    return html.escape(str(text), quote=True)


def finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(share, digits=1):
    return f"{figures.percent(share, digits)}%" if finite(share) else EMPTY


def rate(share):
    """In percent without the sign, for a table's cell."""
    return escape(figures.percent(share)) if finite(share) else EMPTY


def number(value):
    return f"{value:.4g}" if finite(value) else EMPTY


def show(value):
    return EMPTY if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds):
    if not finite(seconds):
        return None
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def commit(record):
    changed = ", with changes" if record.get("git_dirty") else ""
    return f"{record['git_commit'][:10]}{changed}" if record.get("git_commit") else None


def listed(words, further=0):
    """["a", "b"], 3 further -> "a, b and 3 more"."""
    words = list(words) + ([f"{further} more"] if further > 0 else [])
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def table(head, lines, label, kind="", caption=""):
    """Column names, and rows as (name, cells), all finished HTML -> a table that scrolls where it is too wide."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>' for name, cells in lines)
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">'
            f"{caption}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>")


def frame_table(frame, caption):
    """Any DataFrame as an HTML table, its first column naming the rows."""
    lines = [(escape(first), [f"<td>{escape(show(cell))}</td>" for cell in rest])
             for first, *rest in utils.plain(frame.astype(object).values.tolist())]
    return table(map(escape, frame.columns), lines, caption, caption=f"<caption>{escape(caption)}</caption>")


# ---- words -----------------------------------------------------------------------------------------------------------

OOD_LEGEND = Template("""<p class="note">AUROC in percent with its 95% DeLong interval; beneath it FPR@$tpr in percent,
at the threshold that keeps $tpr% of ID. <b class="best">★</b> marks the highest AUROC of a set, shade the intervals
that overlap its own.</p>""")
MEANINGS = {  # metric: (under full collapse, what it says)
    "nc1": ("0", "spread within classes against that between them, Tr(Σ_W Σ_B⁺)/C"),
    "nc1_rank": ("min(C-1, D)", "directions of Σ_B that NC1 used; fewer than C-1 leaves some out"),
    "nc1_condition": ("1", "largest over smallest of those directions' variances"),
    "nc1_trace_ratio": ("0", "total variance within classes over that between them"),
    "nc1_cdnv": ("0", "variance of a pair of classes over their squared distance, mean of all pairs"),
    "nc2_norm_cv": ("0", "how unequal the norms are: standard deviation over mean"),
    "nc2_cosine_mean": ("-1/(C-1)", "mean cosine of all pairs; centring alone forces it on class means: no evidence"),
    "nc2_cosine_std": ("0", "how unequal the angles are"),
    "nc2_cosine_max": ("-1/(C-1)", "cosine of the closest pair of classes"),
    "nc2_one_vs_rest": ("C/(C-1); 1 where D+1 < C ≤ 2D", "distance of a class from the hull of all others, of the closest one; "
                        "defined also where D is too small for a simplex"),
    "nc2_angle_deviation_mean": ("0", "mean distance of a pair's cosine from -1/(C-1)"),
    "nc2_angle_deviation_max": ("0", "that of the worst pair"),
    "nc2_gram_distance": ("0", "distance of the Gram matrix from the simplex ETF's: norms and angles at once"),
    "nc2_tight_frame_distance": ("0", "distance from the nearest tight frame; also where D is too small for a simplex"),
    "nc3_self_duality": ("0", "squared distance of the weight matrix from the class means, both scaled to norm 1"),
    "nc3_cosine_mean": ("1", "do weight rows point where their class means do"),
    "nc3_cosine_min": ("1", "the same for the worst class"),
    "head_bias_std": ("0", "how unequal the classifier's biases are"),
    "nc4_mismatch": ("0", "share of images where the nearest class mean is not the class that the classifier picks"),
    "nc4_nearest_mean_accuracy": ("1 on training images", "accuracy of choosing the nearest class mean"),
    "nc4_head_accuracy": ("1 on training images", "accuracy of the classifier on the same images"),
    "nc5": ("0", "mean |cosine| of class means and this set's mean, as published; high for any common offset"),
    "nc5_centred": ("compare with test", "the same after centring both; the ID test images give the null"),
    "nc5_shift": ("", "distance of this set's mean from the global mean, in class-mean norms; near 0 angles are noise"),
}
CAPTIONS = [  # file name, section, caption, in the order of the page; the first that matches
    ("^training_curves", "run", "Accuracy and loss by epoch on training and validation images. The dot marks the best "
     "validation accuracy, a dashed line the first epoch with every training image right."),
    ("^auroc", "ood", "AUROC of each method on each OOD set, methods sorted by their mean, the best of each set dark; "
     "bars start at 50%, which is chance."),
    ("^(score|hist)", "ood", "Densities of the score of ID (blue) and OOD images. The less they overlap, the better "
     "the score tells them apart."),
    ("^(principal_components$|pca)", "ood", "Features on the two directions in which ID features vary most. Two of many "
     "directions: sets that overlap here may be apart in others."),
    ("^principal", "ood", "The same with a third direction, each pair of the three in a panel of its own: a set that hides behind "
     "ID in one view may stand apart in another."),
    ("^nc_epochs", "nc", "Each metric over training. Dashed: the first checkpoint with every clean training image right."),
    ("^nc5_epochs", "nc", "NC5 of each OOD set over training; dashed blue: the ID test images, the null."),
    ("^nc_layers$", "nc", "Each metric against depth, with a least-squares probe in place of the head."),
    ("^nc5_layers", "nc", "NC5 of each OOD set against depth."),
    ("^nc_layers_epochs", "nc", "Layer by epoch: where and when collapse happens."),
    ("^nc_ood", "nc", "Spearman correlation over checkpoints of each metric with each method's AUROC; red: less of the metric, "
     "better detection."),
    ("^nc4_agree", "nc", "NC4 by class: share of test images on which nearest class mean and classifier agree."),
    ("^nc4_mis", "nc", "Which class each of the two says where they differ, in test images."),
    ("^nc_angles", "nc", "Angles of pairs of class means and of weight rows, and of each weight row and its class mean."),
    ("^nc_gram", "nc", "Cosines of class means and of weight rows, and the eigenvalues of both Gram matrices."),
    ("^nc_pca", "nc", "Variance by principal component; collapsed features end at C - 1."),
    ("^nc_neco", "nc", "NECO's share against the largest logit, image by image."),
    ("^nc_centre", "nc", "Distance of ID and OOD images to the nearest class mean."),
    ("^nc_tsne", "nc", "t-SNE of a sample; distances between groups mean nothing."),
    ("^(nc1|within)", "nc", "NC1 by class: mean squared distance of a class's training features from their mean."),
    ("^(nc2|cosine)", "nc", "NC2: cosines between all pairs of classes. Under collapse all stand at the dashed line."),
    ("^(nc3|weight)", "nc", "NC3 by class: cosine between the classifier's weight row and the centred class mean."),
    ("^class_mean_dist", "nc", "Distance between each pair of class means. Under collapse all are equal; dark cells "
     "are classes that lie close together."),
    ("^nc5", "nc", "NC5: mean |cosine| between the class means and each OOD set's mean, beside the ID test images as "
     "the null (dashed)."),
    ("^nc", "nc", ""),
    ("", "other", ""),
]
HOW_TO_READ = Template("""<dl>
<dt>Scores</dt><dd>Every score is higher for images that look more in-distribution (ID). ID is the positive
class.</dd>
<dt>AUROC</dt><dd>The chance that a random ID image scores higher than a random OOD image, ties counted half. 50% is
guessing. The interval is DeLong's, at 95%; it covers the choice of images, not that of seeds. Overlapping intervals
do not settle an order; a paired test may.</dd>
<dt>FPR@$tpr, headline</dt><dd>The threshold keeps $tpr% of ID images; this is the share of OOD images that pass it all
the same (as in the ViM and NECO papers). Lower is better.</dd>
<dt>FPR@$tpr, OOD-positive</dt><dd>OpenOOD's: the threshold catches $tpr% of OOD images; this is the share of ID images
rejected with them. The two differ.</dd>
<dt>AUPR-In, AUPR-Out</dt><dd>Average precision with ID, or OOD, as the class sought. Both depend on the share of ID
images (<code>id_share</code>).</dd>
<dt>Detection error</dt><dd>Least mean of the two error rates over all thresholds.</dd>
<dt>Neural collapse</dt><dd>Late in training, features of a class gather at its mean (NC1), the means spread to equal
norms and angles (NC2), the classifier's weights align with them (NC3), and it decides by the nearest mean (NC4). NC5
asks whether OOD features are orthogonal to them.</dd>
</dl>""")
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
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --quiet: #a0a9b4; --line: #363d46; --page: #15181c; --panel: #1e2227; --accent: #7cc0f0;
    --near: #1b2f3f; --best: #1f4763; }
  figure img { filter: brightness(.9); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
header p { color: var(--quiet); margin: .3rem 0 0; overflow-wrap: anywhere; }
nav { margin: 1.2rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a, summary { color: var(--accent); }
.reading { font-size: 1.08rem; max-width: 46rem; overflow-wrap: break-word; }
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
.matrix td, .matrix thead th { white-space: nowrap; }
td.best, b.best { background: var(--best); }
td.near { background: var(--near); }
td i { font-style: normal; color: var(--quiet); font-size: .85em; }
small { display: block; color: var(--quiet); font-weight: 400; font-size: .85em; }
.nc td:last-child { min-width: 15rem; }
.nc div small { display: inline; }
figure { margin: 1.8rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; padding: .4rem; }
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
}
</style>
</head>
<body>
<header><h1>$title</h1><p>OOD detection and neural collapse of the checkpoint <code>$stem</code></p></header>
<main>
<p class="reading">$reading</p>
<dl class="tiles">$tiles</dl>
$missing
<nav aria-label="Sections">$contents</nav>
$body
</main>
<footer>Made by report.py, $created. This file links to nothing and holds all its figures.</footer>
</body>
</html>
""")


if __name__ == "__main__":
    cli.run(main)
