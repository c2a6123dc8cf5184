"""Time collapse/ against the matrix product that it needs and against the plain ways of doing the
same, in one run.

    # 50,000 x 512, 100 classes, in memory
    python benchmarks/collapse.py
    # 1,281,167 x 768, 1,000 classes, streamed from Parquet (4 GB of disk)
    python benchmarks/collapse.py --rows 1281167

Prints and writes results/benchmarks/collapse.csv: each way's median seconds over the repeats, the
largest relative error of Sigma_W, the class means and NC1 against a two-pass float64 computation,
peak memory, and, last, the ratio to the product X'X. All ways take turns within each repeat, so
that a busy machine slows them alike. Streamed ways run in processes of their own, and their seconds
include reading; "reading alone" is the floor. The machine stands in the sidecar."""

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import utils
from artifacts import records, store
from collapse import etf, metrics
from moments import Accumulator

PART = 16384  # rows a Parquet file of the streamed case


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "output-dir", "seed")
    parser.add_argument(
        "--repeats", type=cli.positive, default=5, help="timed repeats after one warm-up"
    )
    parser.add_argument(
        "--rows", type=int, default=0, help="rows of the streamed case; 0 leaves it out"
    )
    parser.add_argument(
        "--width", type=cli.positive, default=768, help="features of the streamed case"
    )
    parser.add_argument(
        "--classes", type=cli.positive, default=1000, help="classes of the streamed case"
    )
    parser.add_argument(
        "--worker",
        nargs=2,
        metavar=("WAY", "FOLDER"),
        help="internal: run one streamed way, print JSON",
    )
    return parser.parse_args(argv)


def make(rows, width, classes, generator):
    """Features (N, D) float32 like a ReLU network's, non-negative, and labels (N,)."""
    # the same in every part
    centres = np.random.default_rng(0).standard_normal((classes, width), dtype=np.float32)
    labels = generator.integers(classes, size=rows)
    return (
        np.maximum(centres[labels] + generator.standard_normal((rows, width), dtype=np.float32), 0),
        labels,
    )


# ---- in memory: features, labels, head -> (NC1, Sigma_W, class means) ----------------------------


def ours(features, labels, W, b, exact=False):
    moments = Accumulator(*W.shape, exact=exact).update(features, labels).finish()
    values = metrics.nc1(moments) | etf.nc2(moments.centred) | metrics.nc3(moments, W)
    return values["nc1"], moments.within, moments.means


def two_pass(features, labels, W, b):
    """Means by one product with the one-hot labels, then Sigma_W of the residuals, all of it in
    float64 at once."""
    features, classes = features.astype(np.float64), len(W)
    one_hot = (labels == np.arange(classes)[:, None]).astype(np.float64)
    means = one_hot @ features / one_hot.sum(axis=1, keepdims=True)
    residuals = features - means[labels]
    return closed_forms(residuals.T @ residuals / len(features), means, W)


def per_class_loop(features, labels, W, b):
    """What one writes first: a loop over the classes, covariances summed."""
    means, within = np.zeros(W.shape), np.zeros((W.shape[1],) * 2)
    for c in range(len(W)):
        own = features[labels == c].astype(np.float64)
        means[c] = own.mean(axis=0)
        within += (own - means[c]).T @ (own - means[c]) / len(features)
    return closed_forms(within, means, W)


def closed_forms(within, means, W):
    """NC1 by eigh of Sigma_B, with the NC2 and NC3 that the other ways compute too."""
    centred = means - means.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(means))
    rank = min(len(means) - 1, means.shape[1])
    kept = vectors[:, -rank:]
    nc1 = np.trace((kept / values[-rank:]) @ kept.T @ within) / len(means)
    etf.nc2(centred)
    np.sum((W / np.linalg.norm(W) - centred / np.linalg.norm(centred)) ** 2)
    return nc1, within, means


WAYS = {
    "product X'X, float32": lambda features, labels, W, b: features.T @ features,
    "NC1-NC3, ours": ours,
    "NC1-NC3, ours exact": lambda *data: ours(*data, exact=True),
    "NC1-NC3, two-pass NumPy float64": two_pass,
    "NC1-NC3, per-class loop float64": per_class_loop,
}


def compare(ways, data, repeats):
    """Each way's median seconds, its result and its peak of extra memory in MiB (NumPy's own, in a
    run apart)."""
    seconds, results, memory = {way: [] for way in ways}, {}, {}
    for way, function in ways.items():  # the warm-up
        tracemalloc.start()
        results[way] = function(*data)
        memory[way] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    for _ in range(repeats):
        for way, function in ways.items():
            start = time.perf_counter()
            function(*data)
            seconds[way].append(time.perf_counter() - start)
    return {way: float(np.median(times)) for way, times in seconds.items()}, results, memory


def in_memory(repeats, seed, rows=50_000, width=512, classes=100):
    """The rows of the table for NC1 to NC3, and for NC4 beside the product of as many columns."""
    generator = np.random.default_rng(seed)
    features, labels = make(rows, width, classes, generator)
    W, b = generator.standard_normal((classes, width)), generator.standard_normal(classes)
    seconds, results, memory = compare(WAYS, (features, labels, W, b), repeats)
    truth = results["NC1-NC3, two-pass NumPy float64"]
    table = [
        row(
            "in memory",
            way,
            features.shape,
            classes,
            seconds[way],
            memory[way],
            error(results[way], truth),
            seconds["product X'X, float32"],
        )
        for way in WAYS
    ]
    columns = np.concatenate([truth[2], W]).astype(np.float32).T
    nc4 = {
        "product X[M, W]', float32": lambda: features @ columns,
        "NC4, ours": lambda: metrics.nc4(features, labels, W, b, truth[2]),
        "NC4, ours exact": lambda: metrics.nc4(features, labels, W, b, truth[2], exact=True),
    }
    seconds, _, memory = compare(nc4, (), repeats)
    return table + [
        row(
            "in memory",
            way,
            features.shape,
            classes,
            seconds[way],
            memory[way],
            None,
            seconds["product X[M, W]', float32"],
        )
        for way in nc4
    ]


def error(result, truth):
    """Largest relative error of NC1, Sigma_W (to its largest entry) and the means (likewise); None
    of a bare product."""
    if not isinstance(result, tuple):
        return None
    return max(
        float(np.abs(np.subtract(a, b)).max() / np.abs(b).max())
        for a, b in zip(result, truth, strict=True)
    )


def row(case, way, shape, classes, seconds, memory, error, product):
    return {
        "case": case,
        "way": way,
        "rows": shape[0],
        "width": shape[1],
        "classes": classes,
        "seconds": seconds,
        "peak_mib": memory,
        "relative_error": error,
        "ratio": seconds / product,
    }


# ---- streamed: one process per way, over a folder of Parquet files -------------------------------


def parts(folder):
    for path in sorted(Path(folder).glob("*.parquet")):
        found = store.read_features(path)
        yield found.features, found.labels


def streamed_ways(width, classes):
    """Name -> a function of the folder, which returns NC1 or nothing."""
    W, b = np.random.default_rng(1).standard_normal((classes, width)), np.zeros(classes)

    def read(folder):
        for _ in parts(folder):
            pass

    def product(folder):
        total = np.zeros((width, width))
        for features, _ in parts(folder):
            total += features.T @ features

    def accumulate(folder, exact=False):
        accumulator = Accumulator(classes, width, exact)
        for features, labels in parts(folder):
            accumulator.update(features, labels)
        return accumulator.finish()

    def with_nc4(folder):
        moments = accumulate(folder)
        for features, labels in parts(folder):
            metrics.nc4(features, labels, W, b, moments.means)
        return metrics.nc1(moments)["nc1"]

    def two_passes(folder):
        sums, counts, within = (
            np.zeros((classes, width)),
            np.zeros(classes),
            np.zeros((width, width)),
        )
        for features, labels in parts(folder):
            np.add.at(sums, labels, features)
            counts += np.bincount(labels, minlength=classes)
        means = sums / counts[:, None]
        for features, labels in parts(folder):
            residuals = features - means[labels]
            within += residuals.T @ residuals
        return closed_forms(within / counts.sum(), means, W)[0]

    return {
        "reading alone": read,
        "reading, product X'X, float32": product,
        "NC1-NC3, ours": lambda folder: metrics.nc1(accumulate(folder))["nc1"],
        "NC1-NC3, ours exact": lambda folder: metrics.nc1(accumulate(folder, exact=True))["nc1"],
        "NC1-NC4, ours": with_nc4,
        "NC1, two-pass NumPy float64": two_passes,
    }


def work(way, folder, width, classes):
    """In a process of its own: run one way and print its seconds, its peak resident memory and its
    NC1."""
    start = time.perf_counter()
    value = streamed_ways(width, classes)[way](folder)
    print(
        json.dumps(
            {"seconds": time.perf_counter() - start, "peak_mib": peak_resident_mib(), "nc1": value}
        )
    )


def peak_resident_mib():
    """This process's own peak; getrusage would report the parent's where that was larger. None but
    on Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def streamed(rows, width, classes, seed):
    """Write the features as Parquet files, then run each way once: minutes of streaming need no
    repeats."""
    ways = list(streamed_ways(1, 2))
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(seed)
        for start in console.progress(range(0, rows, PART)):
            features, labels = make(min(PART, rows - start), width, classes, generator)
            frame = pl.DataFrame(features, schema=[f"ct{i}" for i in range(width)]).with_columns(
                label=labels
            )
            frame.write_parquet(
                Path(folder) / f"part_{start:09d}.parquet", compression="uncompressed"
            )
        found = {}
        for way in console.progress(ways):
            command = [
                sys.executable,
                __file__,
                "--width",
                str(width),
                "--classes",
                str(classes),
                "--worker",
                way,
                folder,
            ]
            found[way] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
            )
    truth, product = (
        found["NC1, two-pass NumPy float64"]["nc1"],
        found["reading, product X'X, float32"]["seconds"],
    )
    return [
        row(
            "streamed",
            way,
            (rows, width),
            classes,
            one["seconds"],
            one["peak_mib"],
            None if one["nc1"] is None else abs(one["nc1"] / truth - 1),
            product,
        )
        for way, one in found.items()
    ]


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        return work(*args.worker, args.width, args.classes)
    folder = utils.writable_folder(Path(args.output_dir) / "benchmarks")
    rows = in_memory(args.repeats, args.seed)
    if args.rows:
        rows += streamed(args.rows, args.width, args.classes, args.seed)
    table = pd.DataFrame(rows)
    found = machine.facts(repeats=args.repeats)
    store.write_table(
        folder / "collapse.csv", table, {**records.provenance(cli.material(args)), "machine": found}
    )
    shown = table.assign(
        seconds=table["seconds"].map("{:.3f}".format),
        peak_mib=table["peak_mib"].map("{:.0f}".format),
        relative_error=table["relative_error"].map("{:.1e}".format).replace("nan", ""),
        ratio=table["ratio"].map("{:.2f}".format),
    )
    console.print_table(
        shown,
        f"neural collapse, {found['processor']}, {found['cores']} cores, load"
        f" {found['load'][0]:.1f}",
    )
    print(f"\nwritten: {folder / 'collapse.csv'}")


if __name__ == "__main__":
    cli.run(main)
