"""How often the 95% intervals of ood_metrics.csv hold the truth, by simulation.

    python benchmarks/coverage.py
    # one kind of score, fewer repeats
    python benchmarks/coverage.py --scores normal --repeats 200

ID and OOD scores are drawn from two distributions whose AUROC, FPR@95 and AUPR are known; each
repeat makes the intervals of detection/metrics.py from them. `normal`: two normal distributions of
one width. `wide`: the OOD scores have twice the deviation of the ID scores, so that a few of them
decide. `exponential`: two exponential ones, both skewed. Prints and writes
results/benchmarks/coverage.csv, one row per kind, AUROC and numbers of images: the share of repeats
whose interval holds the truth, of each interval; of the AUROC also that of the symmetric normal
interval and of DeLong's variance on the logit scale alone, and the median width of ours."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts
from scipy.special import expit, logit, ndtri
from scipy.stats import expon, norm

import cli
import console
import utils
from artifacts import records, store
from detection import metrics

SIZES = ((481, 118), (60, 40), (10_000, 100), (1_000, 1_000), (100, 100))
AREAS = (0.7, 0.9, 0.97, 0.99)
SMALL_TOO = (0.997,)  # at the smallest size, where most repeats separate perfectly
GRID = 100_000  # quantiles that stand for a distribution where the truth is an integral
RATES = ("fpr95", "fpr95_ood_positive", "aupr_in", "aupr_out")


def pair(kind, area):
    """(ID, OOD) distributions of scores with this AUROC."""
    if kind == "normal":
        return norm(ndtri(area) * 2**0.5, 1), norm(0, 1)
    if kind == "wide":
        return norm(ndtri(area) * 5**0.5, 1), norm(0, 2)
    return expon(scale=area / (1 - area)), expon(scale=1)


def truth(inside, outside, area, n, m):
    """{rate: its value for the two distributions}; an AUPR at the base rate of n against m."""
    shares = (np.arange(GRID) + 0.5) / GRID
    at_id, at_ood = inside.ppf(shares), outside.ppf(shares)
    id_above, ood_above = n * (1 - shares), m * outside.sf(at_id)
    ood_below, id_below = m * shares, n * inside.cdf(at_ood)
    return {
        "auroc": area,
        "fpr95": float(outside.sf(inside.ppf(0.05))),
        "fpr95_ood_positive": float(inside.cdf(outside.ppf(0.95))),
        "aupr_in": float(np.mean(id_above / (id_above + ood_above))),
        "aupr_out": float(np.mean(ood_below / (ood_below + id_below))),
    }


def symmetric(area, error):
    """The interval that ood_metrics.csv had before, clipped to [0, 1]."""
    return np.clip([area - 1.96 * error, area + 1.96 * error], 0, 1)


def plain_logit(area, error):
    """DeLong's variance on the logit scale; [1, 1] at perfect separation."""
    if area in (0, 1):
        return area, area
    reach = 1.96 * error / (area * (1 - area))
    return expit(logit(area) - reach), expit(logit(area) + reach)


def holds(interval, value):
    low, high = interval
    return low <= value <= high


def repeat(inside, outside, true, n, m, rng):
    """One draw of scores -> {interval: whether it holds the truth}, and the AUROC's width."""
    id_scores = inside.rvs(n, random_state=rng)
    ood_scores = outside.rvs(m, random_state=rng)
    found = metrics.evaluate(id_scores, ood_scores)
    error = metrics.delong(id_scores, ood_scores).standard_error
    row = {
        "symmetric": holds(symmetric(found["auroc"], error), true["auroc"]),
        "logit": holds(plain_logit(found["auroc"], error), true["auroc"]),
    }
    for name in ("auroc", *RATES):
        row[name] = holds((found[f"{name}_low"], found[f"{name}_high"]), true[name])
    row["perfect"] = found["auroc"] == 1
    row["width"] = found["auroc_high"] - found["auroc_low"]
    return row


def measure(kind, area, n, m, repeats, seed):
    """One row of the table."""
    rng = np.random.default_rng([seed, n, m, round(1000 * area)])
    inside, outside = pair(kind, area)
    true = truth(inside, outside, area, n, m)
    found = pd.DataFrame([repeat(inside, outside, true, n, m, rng) for _ in range(repeats)])
    row = {"scores": kind, "n_id": n, "n_ood": m, "true_auroc": area, "repeats": repeats}
    return row | found.drop(columns="width").mean().to_dict() | {"width": found["width"].median()}


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "output-dir", "seed", seed={"help": "seed of the draws"})
    parser.add_argument("--repeats", type=cli.positive, default=2000, help="draws of each cell")
    parser.add_argument(
        "--scores",
        nargs="+",
        default=["normal", "wide", "exponential"],
        choices=["normal", "wide", "exponential"],
        help="kinds of scores",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    rows = []
    for kind in args.scores:
        for n, m in SIZES:
            for area in AREAS + (SMALL_TOO if min(n, m) == 40 else ()):
                rows.append(measure(kind, area, n, m, args.repeats, args.seed))
    table = pd.DataFrame(rows)
    file = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "coverage.csv"
    store.write_table(file, table, records.provenance(vars(args)) | facts())
    console.print_table(table.round(3), f"coverage of the 95% intervals -> {file}")


if __name__ == "__main__":
    cli.run(main)
