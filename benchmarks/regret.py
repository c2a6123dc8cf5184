"""Which score to recommend: how far below the best method of the same network and OOD set each
stays.

    python benchmarks/regret.py results/measured/*/ood_metrics.csv
    python benchmarks/regret.py results/net_s0/ood_metrics.csv --synthetic results/net_s0

The regret of a method on an OOD set is the best method's AUROC less its own, in points; methods
that need all training features (KNN, NNGuide, Relation) may be the best and are no candidates. Of a
network the mean over its sets counts, so that each network counts once. A table of another form,
ood_metrics.md, is read too. Prints a row per rule, and writes results/benchmarks/regret.csv:

always X     X everywhere; `networks` says of how many networks the tables have it
best others  for each network, the method with the least mean regret over the others, among those
             that all tables have: what such a choice costs on a network that it did not see
synthetic    with --synthetic, for those networks: the method that tells ID images best from
             outliers that are made of their features, each feature permuted among the images, or
             two images of different classes averaged
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import feature_files
import utils
from artifacts import records, store
from detection import inputs, metrics
from scores import registry

NO_CANDIDATES = ("KNN", "NNGuide", "Relation", "ODIN")
GROUPS = ("near", "far")  # means that a table in Markdown has beside its sets


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("tables", nargs="+", type=cli.path, help="ood_metrics.csv or .md")
    parser.add_argument(
        "--synthetic",
        nargs="+",
        type=cli.path,
        default=[],
        metavar="FOLDER",
        help="folders of features, of tables that are given",
    )
    cli.add_flags(parser, "output-dir")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    networks = {Path(path).parent.name: areas_of(path) for path in args.tables}
    regrets = {name: areas.max() - areas for name, areas in networks.items()}
    rows = [*always(regrets), best_of_others(regrets)]
    for kind in KINDS:
        if args.synthetic:
            rows.append(by_outliers(regrets, args.synthetic, kind))
    table = pd.DataFrame(rows)
    console.print_table(table.round(1), "regret in points of AUROC, a mean per network")
    folder = utils.writable_folder(Path(args.output_dir) / "benchmarks")
    store.write_table(
        folder / "regret.csv", table, records.provenance(cli.material(args), **machine.facts())
    )


def areas_of(path):
    """A table -> AUROC in points, one row per method and one column per OOD set."""
    if path.endswith(".md"):
        return areas_of_markdown(path)
    table = store.read_table(path, ["method", "ood", "auroc"])
    table = table[table["method"].isin(registry.ROWS)]
    return 100 * table.pivot(index="method", columns="ood", values="auroc")


def areas_of_markdown(path):
    """The same of ood_metrics.md, whose cells are percent."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    cells = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    head, _, *rows = cells
    table = pd.DataFrame(rows, columns=head).set_index("Method").filter(like=" AUROC")
    table.columns = [name.removesuffix(" AUROC") for name in table.columns]
    sets = [name for name in table.columns if name not in GROUPS]
    return table[sets].apply(pd.to_numeric)


def always(regrets):
    """A row per method, by its mean regret over the networks that have it."""
    names = list(dict.fromkeys(name for table in regrets.values() for name in table.index))
    rows = []
    for name in names:
        own = [table.loc[name] for table in regrets.values() if name in table.index]
        if name not in NO_CANDIDATES:
            rows.append(row_of(f"always {name}", own))
    return sorted(rows, key=lambda row: row["regret"])


def row_of(rule, parts):
    """A rule's regrets of each network -> its row."""
    means = [part.mean() for part in parts]
    return {
        "rule": rule,
        "networks": len(parts),
        "regret": float(np.mean(means)),
        "worst_network": float(np.max(means)),
        "worst_set": float(max(part.max() for part in parts)),
    }


def best_of_others(regrets):
    """The regret on each network of what was best on the others."""
    shared = set.intersection(*(set(table.index) for table in regrets.values()))
    candidates = sorted(shared - set(NO_CANDIDATES))
    parts = []
    for name, table in regrets.items():
        others = [
            other.loc[candidates].mean(axis=1) for key, other in regrets.items() if key != name
        ]
        chosen = pd.concat(others, axis=1).mean(axis=1).idxmin() if others else candidates[0]
        parts.append(table.loc[chosen])
    return row_of("best others", parts)


# ---- outliers made of ID features ----------------------------------------------------------------


def permuted(features, labels, generator):
    """Each feature permuted among the images."""
    return np.stack([generator.permutation(column) for column in features.T], axis=1)


def averaged(features, labels, generator):
    """The mean of each image and one of another class."""
    partners = generator.permutation(len(features))
    different = labels != labels[partners]
    return (features[different] + features[partners[different]]) / 2


KINDS = {"permuted": permuted, "averaged": averaged}


def by_outliers(regrets, folders, kind):
    """The regret, over the networks of these folders, of the method that is best at outliers of a
    kind."""
    parts = []
    for folder in map(Path, folders):
        chosen = chosen_by_outliers(folder, KINDS[kind])
        print(f"{folder.name}: {chosen} tells {kind} features best")
        parts.append(regrets[folder.name].loc[chosen])
    return row_of(f"synthetic, {kind}", parts)


def chosen_by_outliers(folder, make):
    """The method with the largest AUROC of ID images that no fit has seen against what is made of
    them."""
    stale = records.Stale(True)
    run = feature_files.open_run(str(folder), str(folder.parent), None, None, stale)
    found = inputs.read(run, stale)
    fitted = inputs.fit(found)
    held = found.val or found.test
    names = [name for name in registry.DEFAULT if name not in NO_CANDIDATES]
    states = registry.fit_all(fitted, names)
    outliers = make(held.features, held.labels, np.random.default_rng(0))
    inside, outside = (
        registry.score_all(features, states, fitted.W, fitted.b)
        for features in (held.features, outliers)
    )
    areas = {name: metrics.auroc(inside[name], outside[name]) for name in names}
    return max(areas, key=lambda name: np.nan_to_num(areas[name]))


if __name__ == "__main__":
    cli.run(main)
