"""Take features that another program saved as a run of this one: results/<name>/, which
ood_methods.py, neural_collapse.py and report.py read like one of their own.

    python import_features.py --train train.npz --test test.npz --ood svhn=svhn.npz \\
        --head head.npz --name mine --dataset cifar10
    # one array of several in a file, and labels in a file of their own
    python import_features.py --train all.npz:train_feat --labels all.npz:train_y \\
        --test all.npz:test_feat --test-labels all.npz:test_y --ood svhn=all.npz:svhn_feat \\
        --logits all.npz:train_logits --name mine --dataset cifar10
    # tables, without a classifier
    python import_features.py --train train.csv --test test.parquet --ood other=other.csv \\
        --name mine --dataset species
    # then
    python ood_methods.py --checkpoint results/mine

Reads .npz, .npy, .pt, .safetensors, Parquet and CSV, and never runs code of a file: no pickle, .pt
with weights_only=True. Writes ID_<dataset>_train.csv, ID_<dataset>_test.csv, ID_<dataset>_val.csv
where there is one, OOD_<name>_test.csv, and head.csv, each with a .json that says which array of
which file it is of. Of several arrays in a file, FILE:KEY names one. Labels may be whole numbers,
also as floats, one-hot rows or names. --logits, of the training images, recover the head by least
squares. What is there already and would come out the same is kept, and nothing else is replaced but
with --replace. docs/import.md explains all of it."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cli
import feature_files
import utils
from dumps import importing, storing


class Arguments(Protocol):
    """What the flags of `make_parser` say."""

    train: str
    labels: str | None
    val: str | None
    val_labels: str | None
    test: str
    test_labels: str | None
    ood: list[utils.SetName]
    head: str | None
    logits: str | None
    class_names: str | None
    name: str
    dataset: utils.SetName
    format: str
    output_dir: str
    replace: bool


def make_parser() -> cli.Parser:
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    add_features(parser.add_argument_group("features and labels"))
    add_classifier(parser.add_argument_group("the classifier"))
    add_outputs(parser)
    return parser


def add_features(group) -> None:
    """The flags that name features and labels, FILE or FILE:KEY."""
    add = functools.partial(group.add_argument, type=cli.path, metavar="FILE[:KEY]")
    add("--train", required=True, help="features (N, D) of the ID training images")
    beside = "default: the labels in the file of the features"
    add("--labels", help=f"labels of the training images; {beside}")
    add("--val", help="features of ID images that trained nothing, for what calibrates or tunes")
    add("--val-labels", help=f"labels of the validation images; {beside}")
    add("--test", required=True, help="features of the ID test images")
    add("--test-labels", help=f"labels of the test images; {beside}")
    group.add_argument(
        "--ood",
        type=cli.data_set,
        nargs="+",
        required=True,
        metavar="NAME=FILE[:KEY]",
        help="features of out-of-distribution images, each set under a name",
    )


def add_classifier(group) -> None:
    """The flags that say what the last layer is, and what the classes are called."""
    add = functools.partial(group.add_argument, type=cli.path)
    add(
        "--head",
        metavar="FILE[:KEY]",
        help="weight (C, D) and bias (C,) of the last layer, or a head.csv; default: no head",
    )
    add(
        "--logits",
        metavar="FILE[:KEY]",
        help="logits (N, C) of the training images, from which the head is recovered",
    )
    add(
        "--class-names",
        metavar="FILE",
        help="names of the classes, one a line, in the order of the labels; default: their numbers",
    )


def add_outputs(parser: cli.Parser) -> None:
    """The flags that say what is written where."""
    add = parser.add_argument
    name_help = "what the run is called: its folder is <output-dir>/<name>"
    add("--name", type=cli.part_of_a_name, required=True, help=name_help)
    cli.add_flags(parser, "dataset", dataset={"required": True})
    add("--format", choices=("csv", "parquet"), default="csv", help="of the feature files")
    cli.add_flags(parser, "output-dir")
    replace_help = "replace files of an earlier import that were made from others"
    add("--replace", action="store_true", help=replace_help)


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """The arguments; a usage error for those that contradict each other."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.head and args.logits:
        parser.error("--head is the last layer, and --logits would recover it; give one of them")
    if args.name.startswith((".", "-")):
        parser.error(f"--name {args.name}: expected a name that begins with a letter or number")
    if args.dataset.folder:
        parser.error(f"--dataset {args.dataset}: expected a name alone; features are in --train")
    bare = [str(asked) for asked in args.ood if not asked.folder]
    if bare:
        parser.error(f"--ood {bare[0]}: expected NAME=FILE, such as {bare[0]}={bare[0]}.npz")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check everything, then write what is not there, and say what came from where."""
    args = parse_args(argv)
    feature_files.refuse_repeated(args.ood)
    refuse_checkpoint(args)
    asked = importing.Asked.of(args)
    folder = Path(args.output_dir) / args.name
    run = storing.gather(folder, asked)
    for line in run.said:
        print(line)
    shelf = storing.Shelf(folder, args.format, args.replace, cli.material(args))
    shelf.refuse_others(run)
    utils.writable_folder(folder)
    for line in shelf.write(run):
        print(f"  {line}")
    for line in closing(run, folder):
        print(line)


def refuse_checkpoint(args: Arguments) -> None:
    """ValueError where the run would have the folder of a checkpoint's own features."""
    for ending in feature_files.CHECKPOINTS:
        path = Path(args.output_dir) / f"{args.name}{ending}"
        if path.is_file():
            raise ValueError(
                f"{path} is a checkpoint, and {path.with_suffix('')} the folder of its features;"
                " choose another --name"
            )


def closing(run: importing.Run, folder: Path) -> list[str]:
    """What can be done with it now, and what cannot."""
    lines = [run.accuracy.words] if run.accuracy else []
    if run.head is None:
        lines.append(
            "no head: scores that need logits are left out; give the last layer with --head FILE,"
            " or the training logits with --logits FILE"
        )
    if run.train.labels is None:
        lines.append(
            "no training labels: scores of classes and neural collapse are left out; give them with"
            " --labels FILE"
        )
    lines.append(f"score them with: {utils.command('ood_methods', [folder])}")
    return lines


if __name__ == "__main__":
    cli.run(main)
