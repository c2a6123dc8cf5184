"""Train one network by several recipes, and see what each does to accuracy and to OOD detection.

    python benchmarks/recipes.py --data-dir D --model resnet_cifar --epochs 30 --ood svhn
    # the same table, on a GPU
    python benchmarks/recipes.py --data-dir D --model resnet18 --epochs 200 --seeds 0 1 2
    python benchmarks/recipes.py --data-dir D --candidates baseline ema "mine=--lr 0.2 --ema 0.99"
    # what each part of the fast recipe adds -> results/benchmarks/recipes_fast.csv
    python benchmarks/recipes.py --data-dir D --model fastnet --mode fast --epochs 8 --seeds 0 1

Runs the chain's own scripts: train.py, run_networks.py and ood_methods.py, a candidate and seed
after the other. What is finished is kept and what was interrupted is resumed, so that the same
command goes on where it was. Prints and writes results/benchmarks/recipes.csv, one row per
candidate: accuracy on validation and test images of the best epoch, the mean AUROC over the OOD
sets of each method, and, last, the test accuracy less the baseline's; means over the seeds. A
candidate changes one thing of the baseline, the recipe of `--mode`. Choose by validation accuracy:
the test columns are there to be reported.

All candidates see equally many images. "no small images" computes more for them, which
train_seconds shows: at equal compute give it fewer --epochs, as a candidate of your own."""

import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import cli
import console
import utils
from artifacts import records, store

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {  # what is added to `train.py --mode best`
    "baseline": "",
    "plain momentum": "--no-nesterov",
    "warm-up": "--warmup 2",
    "label smoothing": "--label-smoothing 0.1",
    "ema": "--ema 0.999",
    "trivial": "--augment crop flip trivial",
    "cutout": "--augment crop flip cutout",
    "batch 512": "--batch-size 512 --lr 0.4 --warmup 2",
    "weight decay 2e-4": "--weight-decay 2e-4",
}
FAST = {  # what is added to `train.py --mode fast`: a part less, or one more
    "baseline": "",
    "no Muon": "--optimizer sgd",
    "no alternating flip": "--augment crop flip",
    "no faster biases": "--norm-lr 1",
    "no small images": "--start-size 1",
    "no cycle": "--warmup-share 0",
    "batch 1024": "--batch-size 1024 --lr 1.2",
    "ema": "--ema 0.99",
    "label smoothing": "--label-smoothing 0.1",
}
CANDIDATES = {"best": PLAIN, "fast": FAST}  # of a mode
METHODS = ("MSP", "MaxLogit", "Energy", "Mahalanobis", "ViM", "NECO", "KNN")


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "dataset",
        "model",
        "ood",
        "device",
        "epochs",
        "data-dir",
        "output-dir",
        dataset={"default": "cifar100"},
        model={"default": "resnet_cifar"},
        epochs={"type": cli.positive, "default": 30},
        ood={"default": ["svhn", "textures", "cifar10"]},
    )
    parser.add_argument(
        "--mode", default="best", choices=list(CANDIDATES), help="the baseline (default: best)"
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="NAME|NAME=FLAGS",
        help="names of the mode's table, or flags of train.py; default: the whole table. "
        + "; ".join(f"{mode}: {', '.join(table)}" for mode, table in CANDIDATES.items()),
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="each candidate is trained once with each"
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), metavar="METHOD", help="scores of the table"
    )
    args = parser.parse_args(argv)
    table = CANDIDATES[args.mode]
    args.candidates = dict(candidate(text, table) for text in args.candidates or table)
    return args


def candidate(text, table):
    """ "ema" or "mine=--lr 0.2" -> (name, flags of train.py)."""
    name, equals, flags = text.partition("=")
    if not equals and name not in table:
        raise ValueError(
            f"unknown candidate {name!r}; expected one of {', '.join(table)}, or NAME=FLAGS"
        )
    return name, flags if equals else table[name]


def main(argv=None):
    args = parse_args(argv)
    folder = utils.writable_folder(Path(args.output_dir) / "benchmarks")
    file = folder / ("recipes.csv" if args.mode == "best" else f"recipes_{args.mode}.csv")
    rows = []
    for name, flags in args.candidates.items():
        found = [measure(name, flags, seed, args, folder / "recipes") for seed in args.seeds]
        rows.append(
            {
                "candidate": name,
                "flags": flags,
                "seeds": len(found),
                **pd.DataFrame(found).mean().to_dict(),
            }
        )
        table = pd.DataFrame(rows)
        table["test_gain"] = table["test_acc"] - table["test_acc"][0]
        store.write_table(file, table, records.provenance(vars(args)))
        print(table.iloc[-1].to_string(), flush=True)
    console.print_table(
        table.round(4),
        f"{args.model} on {args.dataset}, {args.mode}, {args.epochs} epochs -> {file}",
    )


def measure(name, flags, seed, args, folder):
    """Train, extract and score one candidate with one seed -> accuracies, seconds and mean AUROC by
    method."""
    mode = "" if args.mode == "best" else f"{args.mode}_"
    suffix = f"{mode}{name.replace(' ', '_')}_{args.epochs}_s{seed}"
    common = ["--output-dir", str(folder), "--device", args.device]
    script(
        "train.py",
        "--dataset",
        str(args.dataset),
        "--model",
        args.model,
        "--mode",
        args.mode,
        "--epochs",
        str(args.epochs),
        "--seed",
        str(seed),
        "--suffix",
        suffix,
        "--data-dir",
        args.data_dir,
        "--resume",
        *common,
        *shlex.split(flags),
    )
    checkpoint = folder / f"{args.model}_best_{suffix}.pth"
    script(
        "run_networks.py",
        "--checkpoint",
        str(checkpoint),
        "--ood",
        *map(str, args.ood),
        "--data-dir",
        args.data_dir,
        *common,
    )
    script(
        "ood_methods.py",
        "--checkpoint",
        str(checkpoint),
        "--methods",
        *args.methods,
        "--output-dir",
        str(folder),
    )
    summary = records.read_sidecar(checkpoint)
    metrics = store.read_table(folder / checkpoint.stem / "ood_metrics.csv")
    return {
        "val_acc": summary["val_acc"],
        "test_acc": summary["test_acc"],
        "train_seconds": summary["seconds"],
        **{
            method: metrics.loc[metrics["method"] == method, "auroc"].mean()
            for method in args.methods
        },
    }


def script(*words):
    """Run one of the chain's scripts; its own message where it fails, and nothing of it where it
    does not."""
    done = subprocess.run(
        [sys.executable, str(ROOT / words[0]), *words[1:]], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise ValueError(
            f"{shlex.join(words)} ended with code {done.returncode}; the same command goes on from"
            " here"
        )


if __name__ == "__main__":
    cli.run(main)
