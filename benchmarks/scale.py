"""Time and memory of reading features and of neural collapse, by the number of images, in one run.

    # 50,000 and 200,000 x 512, CSV and Parquet
    python benchmarks/scale.py
    # larger, in shards, Parquet alone
    python benchmarks/scale.py --rows 320000 1281167 --width 768 --formats parquet

Prints and writes results/benchmarks/scale.csv: seconds, processor seconds and peak resident memory
of each way, each in a process of its own, and memory over the bytes of the features. "data frame,
then array" is how features were read before: the whole file as a data frame, and a copy of it.
docs/scale.md has the formulas that follow. The machine stands in the sidecar."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import utils
from artifacts import blocks, records, shards, store
from collapse import metrics
from moments import Accumulator

SHARD_ROWS = 65_536


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "output-dir", "seed")
    parser.add_argument(
        "--rows", type=cli.positive, nargs="+", default=[50_000, 200_000], help="images of a set"
    )
    parser.add_argument("--width", type=cli.positive, default=512, help="features of an image")
    parser.add_argument("--classes", type=cli.positive, default=100, help="classes")
    parser.add_argument(
        "--formats", nargs="+", choices=("csv", "parquet"), default=["csv", "parquet"]
    )
    parser.add_argument(
        "--worker", nargs=2, metavar=("WAY", "PATH"), help="internal: run one way, print JSON"
    )
    return parser.parse_args(argv)


# ---- the data ------------------------------------------------------------------------------------


def make(folder, rows, width, classes, seed):
    """A set of shards, of features like a ReLU network's; one shard is in memory."""
    centres = np.random.default_rng(0).standard_normal((classes, width), dtype=np.float32)
    generator = np.random.default_rng(seed)
    folder.mkdir()
    entries = []
    for number, span in enumerate(shards.spans(rows, SHARD_ROWS)):
        count = span.stop - span.start
        labels = generator.integers(classes, size=count)
        noise = generator.standard_normal((count, width), dtype=np.float32)
        part = shards.shard_path(folder, number)
        store.write_features(part, np.maximum(centres[labels] + noise, 0), labels)
        entries.append(shards.of_sidecar(part))
    shards.finish(folder, {"width": width}, entries)


# ---- the ways ------------------------------------------------------------------------------------


def data_frame(path, classes):
    """How features were read before, without its checks."""
    read = pl.read_csv if path.suffix == ".csv" else pl.read_parquet
    frame = pl.concat([read(part) for part in shards.parts_of(path)]).rechunk()
    names = [name for name in frame.columns if name != "label"]
    kept = frame.select(pl.col(names).cast(pl.Float32))
    return kept.to_numpy(order="c").shape


def whole(path, classes):
    return store.read_features(path).features.shape


def by_blocks(path, classes):
    return sum(len(block.labels) for block in blocks.blocks(path))


def collapse(path, classes):
    """NC1 to NC4, in two passes."""
    stored = blocks.Stored(path, classes=classes)
    accumulator = Accumulator(classes, stored.width)
    for block in stored.blocks():
        accumulator.update(block.features, block.labels)
    moments = accumulator.finish()
    W, b = moments.means - moments.global_mean, np.zeros(classes)
    wrong = 0
    for block in stored.blocks():
        found = metrics.nc4(block.features, block.labels, W, b, moments.means)
        wrong += int(found.mismatches.sum())
    return metrics.nc1(moments)["nc1"], wrong


WAYS = {
    "data frame, then array": data_frame,
    "read_features": whole,
    "blocks": by_blocks,
    "NC1 to NC4 by blocks": collapse,
}


def work(way, path, classes):
    """In a process of its own: run one way and print what it took."""
    before = resident_mib()
    start, spent = time.perf_counter(), time.process_time()
    WAYS[way](Path(path), classes)
    found = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - spent,
        "start_mib": before,
        "peak_mib": resident_mib(),
    }
    print(json.dumps(found))


def resident_mib():
    """This process's peak; None but on Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def measure(path, rows, width, classes):
    """The rows of the table for one set."""
    size = sum(part.stat().st_size for part in shards.parts_of(path)) / 2**20
    features = 4 * rows * width / 2**20
    table = []
    for way in WAYS:
        words = [sys.executable, __file__, "--classes", str(classes), "--worker", way, str(path)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        row = {"way": way, "format": path.suffix[1:], "rows": rows, "width": width}
        row |= {"disk_mib": size, "features_mib": features, **found}
        if found["peak_mib"] is not None:
            row["over_features"] = (found["peak_mib"] - found["start_mib"]) / features
        table.append(row)
    return table


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        return work(*args.worker, args.classes)
    folder = utils.writable_folder(Path(args.output_dir) / "benchmarks")
    rows = []
    for count in args.rows:
        for form in args.formats:
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / f"ID_any_train.{form}"
                make(path, count, args.width, args.classes, args.seed)
                rows += measure(path, count, args.width, args.classes)
    table = pd.DataFrame(rows)
    found = machine.facts()
    facts = {**records.provenance(cli.material(args)), "machine": found}
    store.write_table(folder / "scale.csv", table, facts)
    console.print_table(
        table.round(2),
        f"reading and collapse, {found['processor']}, {found['cores']} cores, load"
        f" {found['load'][0]:.1f}",
    )
    print(f"\nwritten: {folder / 'scale.csv'}")


if __name__ == "__main__":
    cli.run(main)
