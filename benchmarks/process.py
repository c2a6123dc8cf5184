"""Time the whole process of ood_methods.py, from the shell's command to its end, and say where the
time goes.

    # 50,000 x 512, 100 classes, 10,000 + 26,000 test images
    python benchmarks/process.py
    # seconds
    python benchmarks/process.py --train-rows 5000 --test-rows 3600

Features like those of benchmarks/scoring.py, but averaged over four positions as pooling does, so
that few are exactly 0 and the CSVs are as long as real ones, are written into a temporary folder.
Prints and writes results/benchmarks/process.csv, one row per set of methods: median seconds of the
process over the repeats, the processor's seconds, and of the stages that ood_methods.json records;
`start` is what they leave: Python, the imports, and the hashes of what was read. The share of the
reading stands last."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine
import scoring

import cli
import console
import utils
from artifacts import records, store
from scores import registry

STAGES = ("reading", "scoring", "detector", "tables", "figures")
BANK = [
    name
    for name, method in registry.METHODS.items()
    if isinstance(method, registry.NeighbourMethod)
]
METHODS = {
    "core": list(registry.CORE),
    "searchless": [name for name in registry.DEFAULT if name not in BANK],
    "all": list(registry.DEFAULT),
}
POSITIONS = 4
SETS = {"svhn": 10, "textures": 6, "cifar10": 10}  # shares of the OOD images


class Pooled(scoring.Data):
    """Features that are means over POSITIONS of ReLU activations."""

    @staticmethod
    def draw(centres, generator):
        return np.mean([scoring.Data.draw(centres, generator) for _ in range(POSITIONS)], axis=0)


def parse_args(argv=None):
    parser = scoring.make_parser(__doc__)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        help="rows: the core six, all that search no neighbours, all; default: these three",
    )
    return parser.parse_args(argv)


def write_run(folder, args):
    """What run_networks.py leaves of a network: head and features, with sidecars that belong
    together."""
    data = Pooled(args)
    store.write_head(
        folder / "head.csv",
        data.W,
        data.b,
        [f"class {index}" for index in range(args.classes)],
        {"checkpoint_sha256": "drawn"},
    )
    sidecar = {"checkpoint_sha256": "drawn", "head_sha256": records.sha256(folder / "head.csv")}
    labels = np.random.default_rng(args.seed).integers(args.classes, size=len(data.id))
    store.write_features(folder / "ID_drawn_train.csv", data.features, data.labels, sidecar=sidecar)
    store.write_features(folder / "ID_drawn_test.csv", data.id, labels, sidecar=sidecar)
    edges = np.cumsum(list(SETS.values()))[:-1] * len(data.ood) // sum(SETS.values())
    for name, rows in zip(SETS, np.split(data.ood, edges), strict=True):
        store.write_features(
            folder / f"OOD_{name}_test.csv", rows, np.full(len(rows), -1), sidecar=sidecar
        )


def run(folder, methods):
    """-> seconds by the clock, of the processor, of each stage, and of what is left, of one
    process."""
    script = Path(__file__).resolve().parents[1] / "ood_methods.py"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, script, "--checkpoint", folder, "--methods", *methods],
        check=True,
        capture_output=True,
    )
    whole, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    stages = utils.read_json(folder / "ood_methods.json")["seconds"]
    return {
        "seconds": whole,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "start": whole - sum(stages.values()),
        **{name: stages[name] for name in STAGES},
    }


def main(argv=None):
    args = parse_args(argv)
    path = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "process.csv"
    rows, sidecar = [], {**records.provenance(cli.material(args)), "machine": machine.facts()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = utils.writable_folder(Path(temporary) / "drawn")
        write_run(folder, args)
        size = sum(file.stat().st_size for file in folder.glob("*_t*.csv")) / 2**20
        for what in console.progress(args.methods or METHODS):
            timed = pd.DataFrame(
                [run(folder, METHODS[what]) for _ in range(args.repeats + 1)][1:]
            ).median()
            rows.append(
                {
                    "methods": what,
                    **timed.round(3),
                    "reading_share": round(timed["reading"] / timed["seconds"], 3),
                }
            )
            table = pd.DataFrame(rows)
            # row by row, as the last takes longest
            store.write_table(path, table, {**sidecar, "mebibytes": round(size)})
    console.print_table(
        table,
        f"ood_methods.py on {size:,.0f} MiB of CSV, {args.train_rows:,} x {args.width} training"
        f" features and {args.test_rows:,} test images; {machine.processor()}, {os.cpu_count()}"
        f" cores, load {os.getloadavg()[0]:.1f}",
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    cli.run(main)
