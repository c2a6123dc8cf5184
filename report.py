"""Everything measured of one checkpoint on one page: summary.json for programs, report.html for people.

    python report.py --checkpoint results/resnet18_best_s0.pth
    python report.py --checkpoint results/resnet18_best_s0          # the folder may be named in its place

Reads what stands in results/<stem>/ (ood_metrics.csv, nc_metrics.csv, nc_per_class.csv, figures/*.png), the
checkpoint's sidecar results/<stem>.json and its curves; needs neither features, nor images, nor torch. What is missing
is named, with the command that makes it. report.html links to nothing: it can be mailed, printed and opened offline.
"""
import re

import artifacts
import cli
import records
import report_page
import report_summary
import utils
from report_words import listed

OOD_COLUMNS = ["ood", "method", "auroc", "auroc_low", "auroc_high", "fpr95"]
NC_COLUMNS = ["metric", "value", "split", "centring"]
GROUP_COLUMNS = ["group", "sets", "method", "auroc", "fpr95"]
PER_CLASS_COLUMNS = ["class_name", "within_class_variance", "cosine_weight_mean"]


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
    inputs = records.fingerprints(found["files"], folder)
    summary = report_summary.summarise(found, records.provenance(cli.material(args), inputs=inputs))
    page = report_page.render(summary, found)
    utils.write_json(folder / "summary.json", summary)
    utils.write_text(folder / "report.html", page)
    records.write_record(folder / "report.json", cli.material(args), found["files"],
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
    sidecar = records.read_sidecar(path)
    identity = records.sha256(path) if path.is_file() else sidecar.get("checkpoint_sha256", sidecar.get("sha256"))
    curves, made_by = curves_file(folder, sidecar), read_records(folder)
    missing = [{"what": file.name, "command": command} for file, _, command in tables.values() if not file.exists()]
    if "ood_groups.csv" in made_by.get("ood_methods", {}).get("outputs", ()):  # else none, or what an older run left behind
        tables["groups"] = (folder / "ood_groups.csv", GROUP_COLUMNS, scoring)
    found = {"groups": None, **{name: read_checked(*table, identity) for name, table in tables.items()}}
    images = figure_files(folder, made_by)
    absent = [] if sidecar else [f"{folder.name}.json (model and accuracies)"]
    absent += [] if curves else ["the training curves"]
    if absent:
        missing.append({"what": listed(absent), "command": "python train.py, with this run's arguments"})
    if not images:
        missing.append({"what": "figures/*.png", "command": f"{scoring} and {collapse}"})
    files = [records.sidecar_path(path), curves, *(file for file, *_ in tables.values()), *images]
    return {**found, "stem": folder.name, "tpr": made_by.get("ood_metrics", {}).get("tpr", 0.95), "sidecar": sidecar,
            "sha256": identity, "images": images, "missing": missing, "records": made_by,
            "curves": artifacts.read_table(curves) if curves else None,
            "files": [file for file in files if file and file.exists()]}


def read_checked(path, columns, command, checkpoint_sha256):
    """A table, or None where there is none; ValueError where it lacks columns or rows, or is another checkpoint's."""
    if not path.exists():
        return None
    made_from = records.read_sidecar(path).get("checkpoint_sha256")
    if made_from and checkpoint_sha256 and made_from != checkpoint_sha256:
        raise ValueError(f"{path} was made from another checkpoint ({made_from[:12]}, expected "
                         f"{checkpoint_sha256[:12]}); extract with run_networks.py, then make it anew with: {command}")
    return artifacts.read_table(path, columns, remedy=command)


def curves_file(folder, sidecar):
    """The curves of the run, which all its checkpoints share, or None."""
    names = [sidecar["curves"]] if sidecar.get("curves") else []
    kind = r"_(best|final|epoch\d+)(?=_|$)"
    names += [re.sub(kind, "_curves", folder.name, count=1) + ".csv", re.sub(kind, "", folder.name, count=1) + "_curves.csv"]
    return next((path for name in names if (path := folder.parent / name).is_file()), None)


def read_records(folder):
    """Sidecars and stage records of the folder, by stem: what made each file, from what."""
    paths = (path for path in sorted(folder.glob("*.json")) if path.stem not in ("summary", "report"))
    return {path.stem: record for path in paths if "command" in (record := utils.read_json(path))}


def figure_files(folder, made_by):
    """The PNGs of figures/; where stages recorded their outputs only those, not what an older run left behind."""
    images = sorted((folder / "figures").glob("*.png"))
    recorded = {name for record in made_by.values() for name in record.get("outputs", ())}
    return [path for path in images if not recorded or f"figures/{path.name}" in recorded]


if __name__ == "__main__":
    cli.run(main)
