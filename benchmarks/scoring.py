"""Time every OOD score against pytorch-ood, KNN against scikit-learn, and the core six against bare
matrix products, in one run.

    # 50,000 x 512, 100 classes, 10,000 + 26,000 test images
    python benchmarks/scoring.py
    # a minute
    python benchmarks/scoring.py --train-rows 5000 --test-rows 3600
    python benchmarks/scoring.py --methods Mahalanobis KNN --repeats 7

Prints and writes results/benchmarks/scoring.csv, one row per comparison: median seconds over the
repeats to fit and to score, by the clock and of the processor, the peak of extra resident memory
(measured in the warm-up), how far apart the two AUROCs are, and, last, the ratio: how many times
our seconds the other takes to score (above 1, ours is faster); beside bare matrix products, fitting
counts too. Both sides take turns within each repeat, on the same threads, so that a busy machine
slows them alike; the ratio of processor seconds, which leave out the time that others had the
processor, stands before that of the clock. pytorch-ood scores in batches of 1,000 rows, as a loader
would hand them on: some of its methods need C times the memory of a batch. The machine stands in
the sidecar."""

import ctypes
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import utils
from artifacts import records, store
from detection import metrics
from scores import blocks as scores_blocks
from scores import registry

BATCH = 1000  # rows that pytorch-ood scores at a time
BLOCK = 4096  # rows of a bare product
ID_SHARE = 10 / 36  # of the test rows
COLUMNS = {  # of the CSV: (as printed, format)
    "what": ("", "{}"),
    "fit_seconds": ("fit s", "{:.3f}"),
    "score_seconds": ("score s", "{:.3f}"),
    "fit_processor_seconds": ("fit CPU s", "{:.3f}"),
    "score_processor_seconds": ("score CPU s", "{:.3f}"),
    "peak_mib": ("MiB", "{:.0f}"),
    "other": ("other", "{}"),
    "other_fit_seconds": ("its fit s", "{:.3f}"),
    "other_score_seconds": ("its score s", "{:.3f}"),
    "other_peak_mib": ("its MiB", "{:.0f}"),
    "difference": ("difference", "{:.0e}"),
    "processor_ratio": ("CPU ratio", "{:.1f}"),
    "ratio": ("ratio", "{:.1f}"),
}


def make_parser(text):
    """The flags of a benchmark on drawn features: how many, how wide, how often."""
    parser = cli.Parser(text)
    cli.add_flags(parser, "output-dir", "seed")
    parser.add_argument("--train-rows", type=cli.positive, default=50_000, help="training images")
    parser.add_argument(
        "--test-rows",
        type=cli.positive,
        default=36_000,
        help="test images, 10 of 36 in-distribution",
    )
    parser.add_argument("--width", type=cli.positive, default=512, help="features D")
    parser.add_argument("--classes", type=cli.positive, default=100, help="classes C")
    parser.add_argument(
        "--repeats", type=cli.positive, default=3, help="timed repeats after one warm-up"
    )
    return parser


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(registry.METHODS),
        metavar="METHOD",
        help="default: all but the variants",
    )
    return parser.parse_args(argv)


class Data:
    """Features like a ReLU network's, non-negative, in float32; a head of the class means; OOD
    images of means partly their own.

    One label in twenty is drawn by lot: where the head fits all labels, temperature scaling is
    undefined."""

    def __init__(self, args):
        generator = np.random.default_rng(args.seed)
        centres = generator.standard_normal((args.classes, args.width), dtype=np.float32)
        self.labels = generator.integers(args.classes, size=args.train_rows)
        self.W = (centres - centres.mean(axis=0)) / np.float32(np.sqrt(args.width))
        self.b = generator.normal(0, 0.1, args.classes).astype(np.float32)
        n_id = round(ID_SHARE * args.test_rows)
        self.features = self.draw(centres[self.labels], generator)
        wrong = generator.random(args.train_rows) < 0.05
        self.labels[wrong] = generator.integers(args.classes, size=wrong.sum())
        self.id = self.draw(centres[generator.integers(args.classes, size=n_id)], generator)
        strange = generator.standard_normal((args.test_rows - n_id, args.width), dtype=np.float32)
        self.ood = self.draw(
            0.4 * strange + 0.8 * centres[generator.integers(args.classes, size=len(strange))],
            generator,
        )

    @staticmethod
    def draw(centres, generator):
        return np.maximum(centres + generator.standard_normal(centres.shape, dtype=np.float32), 0)


# ---- the two sides: (fit, score), where fit() -> state and score(state) -> ID and OOD scores, high


def ours(data, names):
    """Fit from the bare arrays, so that every shared statistic is paid for, and score both test
    sets."""

    def fit():
        return registry.fit_all(
            registry.Training(data.features, data.labels, data.W, data.b), names
        )

    def score(states):
        found = [registry.score_all(rows, states, data.W, data.b) for rows in (data.id, data.ood)]
        return [values[names[-1]] for values in found]

    return fit, score


def theirs(data):
    """{name: (fit, score)} of pytorch-ood, with the parameters that ours takes by default."""
    import torch

    head = torch.nn.Linear(*data.W.shape[::-1])
    head.load_state_dict({"weight": torch.from_numpy(data.W), "bias": torch.from_numpy(data.b)})
    head.requires_grad_(False)
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    return (
        their_logit_ways(data, head, features, labels)
        | their_shaped_ways(data, head, features, labels)
        | their_feature_ways(data, head, features, labels)
    )


def batched(data, fit, predict):
    """A detector's fit, and predict(detector, rows) over batches of both test sets, in our sign."""
    import torch

    def score(detector):
        with torch.no_grad():
            found = [
                [predict(detector, batch) for batch in torch.from_numpy(rows).split(BATCH)]
                for rows in (data.id, data.ood)
            ]
        return [-torch.cat(batches).double().numpy() for batches in found]

    return fit, score


def their_logit_ways(data, head, features, labels):
    from pytorch_ood import detector as module

    def way(make, fit=lambda detector: detector):
        return batched(
            data, lambda: fit(make()), lambda detector, rows: detector.predict_logits(head(rows))
        )

    return {
        "MSP": way(lambda: module.MaxSoftmax(None)),
        "MaxLogit": way(lambda: module.MaxLogit(None)),
        "Energy": way(lambda: module.EnergyBased(None)),
        "Entropy": way(lambda: module.Entropy(None)),
        "GEN": way(lambda: module.GEN(None, M=100)),
        "TempScaling": way(
            lambda: module.TemperatureScaling(None),
            lambda detector: detector.fit_logits(head(features), labels),
        ),
        "KLMatching": way(
            lambda: module.KLMatching(None), lambda detector: detector.fit_logits(head(features))
        ),
        "GradNorm": batched(
            data,
            lambda: module.GradNorm(head, param_filter=lambda name: name == "weight"),
            lambda detector, rows: detector.predict(rows),
        ),
    }


def their_shaped_ways(data, head, features, labels):
    from pytorch_ood import detector as module

    def maps(rows):
        return rows[:, :, None, None]

    def flat_head(rows):
        return head(rows.flatten(1))

    def way(make, fit=lambda detector: detector):
        return batched(
            data,
            lambda: fit(make()),
            lambda detector, rows: detector.predict_feature_maps(maps(rows)),
        )

    return {
        "ReAct": way(
            lambda: module.ReAct(None, flat_head),
            lambda detector: detector.fit_feature_maps(maps(features), labels),
        ),
        "ASH-P": way(lambda: module.ASH(None, flat_head, "ash-p", 0.65)),
        "ASH-B": way(lambda: module.ASH(None, flat_head, "ash-b", 0.65)),
        "ASH-S": way(lambda: module.ASH(None, flat_head, "ash-s", 0.9)),
        "SCALE": way(lambda: module.SCALE(None, flat_head, 0.85)),
    }


def their_feature_ways(data, head, features, labels):
    from pytorch_ood import detector as module

    def way(make, *more):
        return batched(
            data,
            lambda: make().fit_features(features, *more),
            lambda detector, rows: detector.predict_features(rows),
        )

    W, b = head.weight, head.bias
    dim = (
        registry.METHODS["ViM"]
        .fit(registry.Training(data.features[:2], data.labels[:2], data.W, data.b))
        .parameters["dim"]
    )
    return {
        "DICE": way(lambda: module.DICE(None, W, b, p=0.9), labels),
        "Mahalanobis": way(lambda: module.Mahalanobis(None), labels),
        "RelativeMahalanobis": way(lambda: module.RMD(None), labels),
        "ViM": way(lambda: module.ViM(None, dim, W, b), labels),
        "NCI": way(lambda: module.NCI(None, head, alpha=1e-4)),
        "fDBD": way(lambda: module.fDBD(None, head)),
        "SHE": way(lambda: module.SHE(None, head), labels),
        "KNN": way(lambda: module.KNN(None, k=50), labels),
        "NNGuide": way(lambda: module.NNGuide(None, head, k=10), labels),
    }


def scikit_learn_knn(data, k=50):
    """The exact search, on rows of length 1; its blocks are its own and it takes the whole test set
    at once."""
    from sklearn.neighbors import NearestNeighbors

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return (
        lambda: NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit(data.features)),
        lambda index: [-index.kneighbors(unit(rows))[0][:, -1] for rows in (data.id, data.ood)],
    )


def bare_products(data):
    """The float32 matrix products that the core six cannot do without, into arrays made before: the
    machine's own rate.

    To fit: the Gram matrix of the training features, their logits and their part outside ViM's
    principal space. To score: the logits, the whitened features, ViM's residual and NECO's
    components, and the distances to the class means."""
    classes, width = data.W.shape
    states = registry.fit_all(
        registry.Training(data.features, data.labels, data.W, data.b),
        ["Mahalanobis", "ViM", "NECO"],
    )
    once = np.ones((width, classes + states["ViM"].matrix.shape[1]), np.float32)
    stacked = np.ones(
        (
            width,
            once.shape[1] + sum(states[name].matrix.shape[1] for name in ("Mahalanobis", "NECO")),
        ),
        np.float32,
    )
    means = np.ones((states["Mahalanobis"].matrix.shape[1], classes), np.float32)
    gram, buffer = (
        np.empty((width, width), np.float32),
        np.empty((BLOCK, stacked.shape[1] + classes), np.float32),
    )

    def product(rows, matrix):
        np.matmul(
            rows, matrix, out=buffer.ravel()[: len(rows) * matrix.shape[1]].reshape(len(rows), -1)
        )

    def fit():
        for rows in blocks(data.features):
            np.matmul(rows.T, rows, out=gram)
            product(rows, once)

    def score(_):
        for rows in (*blocks(data.id), *blocks(data.ood)):
            product(rows, stacked)
            product(rows[:, : len(means)], means)

    return fit, score


def blocks(rows):
    return [rows[part] for part in scores_blocks.blocks(len(rows), BLOCK)]


def scikit_learn_metrics(id_scores, ood_scores):
    """AUROC, both FPR@95 and both AUPR; it has neither DeLong's interval nor the detection
    error."""
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    values, is_id = (
        np.concatenate([id_scores, ood_scores]),
        np.arange(len(id_scores) + len(ood_scores)) < len(id_scores),
    )
    found = {
        "auroc": roc_auc_score(is_id, values),
        "aupr_in": average_precision_score(is_id, values),
        "aupr_out": average_precision_score(~is_id, -values),
    }
    for name, positive, sign in (("fpr95", is_id, 1), ("fpr95_ood_positive", ~is_id, -1)):
        false, true, _ = roc_curve(positive, sign * values, drop_intermediate=False)
        found[name] = false[np.searchsorted(true, 0.95 - 1e-12)]
    return found


# ---- measuring -----------------------------------------------------------------------------------


def run(fit, score):
    """-> seconds to fit and to score, by the clock and then of the processor, and what score
    returned."""
    start = clocks()
    state = fit()
    fitted = clocks()
    found = score(state)
    return (*np.ravel([fitted - start, clocks() - fitted], order="F"), found)


def clocks():
    return np.array([time.perf_counter(), time.process_time()])


def extra_memory(function):
    """-> the result, and the peak of resident memory above that of the start, in MiB; None where
    the system does not tell.

    Linux counts it for NumPy and torch alike, which tracemalloc does not.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
        before = status("VmRSS")
    except (OSError, AttributeError):
        return function(), None
    result = function()
    return result, max(0.0, status("VmHWM") - before)


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def compare(what, other, one, two, repeats):
    """A row of the table: our way against another's, (fit, score) each; `two` is None where nobody
    else has it."""
    ways = [way for way in (one, two) if way]
    warm = [extra_memory(lambda way=way: run(*way)) for way in ways]
    timed = [[run(*way)[:4] for way in ways] for _ in range(repeats)]
    seconds = np.median(timed, axis=0)
    row = {
        "what": what,
        "fit_seconds": seconds[0, 0],
        "score_seconds": seconds[0, 1],
        "fit_processor_seconds": seconds[0, 2],
        "score_processor_seconds": seconds[0, 3],
        "peak_mib": warm[0][1],
        "other": other,
    }
    if two is None:
        return row
    found, expected = warm[0][0][-1], warm[1][0][-1]
    first = 0 if expected is None else 1  # a bare product has no scores, and stands for fitting too
    ratio, processor_ratio = (
        seconds[1, part].sum() / seconds[0, part].sum()
        for part in (slice(first, 2), slice(first + 2, 4))
    )
    return row | {
        "other_fit_seconds": seconds[1, 0],
        "other_score_seconds": seconds[1, 1],
        "other_peak_mib": warm[1][1],
        "difference": difference(found, expected),
        "processor_ratio": processor_ratio,
        "ratio": ratio,
    }


def difference(found, expected):
    """Of two pairs of ID and OOD scores, between their AUROCs; of two dicts of metrics, the
    largest; of none, None."""
    if expected is None:
        return None
    if isinstance(expected, dict):
        return max(abs(found[name] - expected[name]) for name in expected)
    return abs(metrics.auroc(*found) - metrics.auroc(*expected))


def compare_metrics(data, repeats):
    generator = np.random.default_rng(1)
    pair = generator.normal(1, 1, len(data.id)), generator.normal(0, 1, len(data.ood))
    return compare(
        "metrics.evaluate",
        "scikit-learn",
        (lambda: pair, lambda pair: metrics.evaluate(*pair)),
        (lambda: pair, lambda pair: scikit_learn_metrics(*pair)),
        max(repeats, 5),
    )


def measure(args):
    """Row by row: the metrics, each score alone, then the core six and all of them together."""
    data, names = Data(args), args.methods or list(registry.DEFAULT)
    others = theirs(data)
    yield compare_metrics(data, args.repeats)
    for name in console.progress(names):
        yield compare(
            name,
            "pytorch-ood" if name in others else "",
            ours(data, [name]),
            others.get(name),
            args.repeats,
        )
        if name == "KNN":
            yield compare(
                name, "scikit-learn", ours(data, [name]), scikit_learn_knn(data), args.repeats
            )
    if set(registry.CORE) <= set(names):
        yield compare(
            "the core six",
            "bare products",
            ours(data, list(registry.CORE)),
            bare_products(data),
            args.repeats,
        )
    if len(names) > 1:
        yield compare(f"all {len(names)} together", "", ours(data, names), None, args.repeats)


# ---- the table -----------------------------------------------------------------------------------


def main(argv=None):
    import torch

    args = parse_args(argv)
    path = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "scoring.csv"
    sidecar = {
        **records.provenance(cli.material(args)),
        "machine": machine.facts(torch_threads=torch.get_num_threads()),
    }
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the drawn data, such as a saturated MSP
        for row in measure(args):
            rows.append(row)
            table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
            # row by row: minutes of work survive an interruption
            store.write_table(path, table, sidecar)
    shown = table.rename(columns={name: title for name, (title, _) in COLUMNS.items()})
    for name, (title, form) in COLUMNS.items():
        shown[title] = [form.format(value) if pd.notna(value) else "" for value in table[name]]
    console.print_table(
        shown,
        f"{args.train_rows:,} x {args.width} training features, {args.classes} classes,"
        f" {args.test_rows:,} test images; {machine.processor()}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.1f}",
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    cli.run(main)
