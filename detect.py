"""Say of new images whether they look in-distribution, by a fitted detector and without training
data.

    python detect.py --detector results/resnet18_best_cifar100_s0 photo.jpg more/ *.png
    python detect.py --detector results/resnet18_best_cifar100_s0/detector.safetensors \\
        photographs --copy-rejected rejected --gallery page.html
    find photographs -name "*.jpg" | python detect.py --detector results/resnet18_best_cifar100_s0 -
    python detect.py --detector results/resnet18_best_cifar100_s0 --format jsonl --method ViM more/
    python detect.py --detector results/resnet18_best_cifar100_s0 --watch inbox
    # network and detector in one ONNX file, compared on the images that are named
    python detect.py --detector results/resnet18_best_cifar100_s0 --export-onnx resnet18.onnx more/
    # features instead of images: neither the network nor torch is needed
    python detect.py --detector results/resnet18_best_cifar100_s0 features.npz OOD_mine_test.csv

Prints one line an image: the verdict, the predicted class, the percentile of its score among ID
images, a p-value, and the file. The detector is what ood_methods.py writes into results/<stem>/
(the folder may be named in its place). For images the network's weights are needed: the detector
names them, and they are looked for in its folder and in the one above, or where --checkpoint says;
a file of another network is refused. Images go through the preprocessing and the pass of
run_networks.py, in batches, so that a stream of any length takes little memory. A network that
run_networks.py exported as ONNX serves too, as --checkpoint, and starts without torch.

The threshold is the conformal one: an ID image is kept with the chance --keep, and an image is
rejected where its p-value is at most 1 less that. The method is the one that the detector
recommends, unless --method names another (docs/detector.md).

Exit code: 0 all images accepted, 3 some rejected, 2 a mistake, or a file that could not be read;
the others are scored all the same."""

import itertools
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

import cli
import console
import utils
from detection import answers, gallery, sources
from detection.detector import KEEP, Detector
from networks import onnx_graphs

FILE = "detector.safetensors"
COMPARED_ON = 64  # images, of an exported file


class Arguments(Protocol):
    """What the flags say."""

    places: list[str]
    detector: str
    method: str | None
    keep: float
    format: str
    copy_rejected: str | None
    gallery: str | None
    watch: str | None
    poll: float
    checkpoint: str | None
    model: str | None
    device: str
    batch_size: int | None
    workers: int | None
    max_pixels: int | None
    export_onnx: str | None


class Batch(NamedTuple):
    """Features of some images, and those that could not be read."""

    paths: list[str]
    features: np.ndarray  # (n, D)
    broken: dict[str, str]  # {path: why}


# ---- arguments -----------------------------------------------------------------------------------


def make_parser() -> cli.Parser:
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "places",
        nargs="*",
        type=place,
        metavar="IMAGE",
        help=(
            "images, folders of images at any depth, - for lines of standard input, or files of"
            " features (.csv, .parquet, .npz)"
        ),
    )
    parser.add_argument(
        "--detector",
        type=cli.path,
        required=True,
        help="detector.safetensors of ood_methods.py, or the folder that it lies in",
    )
    parser.add_argument("--method", type=str, help="default: the one that the detector recommends")
    parser.add_argument(
        "--keep", type=cli.share, default=KEEP, metavar="SHARE", help="of ID images"
    )
    add_answer_flags(parser.add_argument_group("answers"))
    add_network_flags(parser.add_argument_group("the network, for images"))
    return parser


def add_answer_flags(group: Any) -> None:
    """The flags that say what becomes of the verdicts."""
    add = group.add_argument
    add("--format", choices=answers.FORMATS, default="table", help="of what is printed")
    add(
        "--copy-rejected",
        type=cli.path,
        metavar="FOLDER",
        help="copy rejected images there; nothing is overwritten",
    )
    add(
        "--gallery",
        type=cli.path,
        metavar="PAGE.html",
        help="write a page of thumbnails, lowest scores first",
    )
    add(
        "--watch",
        type=cli.path,
        metavar="FOLDER",
        help="score the images of this folder and those that come to it, until Ctrl-C",
    )
    add(
        "--poll",
        type=cli.above_zero,
        default=1.0,
        metavar="SECONDS",
        help="between two looks at the folder of --watch",
    )


def add_network_flags(group: Any) -> None:
    """The flags that say which network runs, and where."""
    weights_help = "the network's weights; default: the file that the detector names, beside it"
    cli.add_flags(group, "checkpoint", checkpoint={"help": weights_help})
    cli.add_flags(group, "model", model={"help": "network, where it is code: FILE.py:FUNCTION"})
    cli.add_flags(group, "device")
    batch_help = "images that go through the network at once; default: as run_networks.py has it"
    cli.add_flags(group, "batch-size", batch_size={"type": cli.positive, "help": batch_help})
    cli.add_flags(group, "workers", workers={"type": cli.positive, "help": "threads that decode"})
    cli.add_flags(group, "max-pixels", max_pixels={"type": cli.positive})
    group.add_argument(
        "--export-onnx",
        type=cli.path,
        metavar="FILE.onnx",
        help=(
            "write the network and the detector's method as one ONNX file, instead of verdicts; the"
            f" first {COMPARED_ON} images that are named, or noise, are what it is compared on"
        ),
    )


def place(text: str) -> str:
    """argparse type: a path, or - for standard input."""
    return text if text == sources.STANDARD_INPUT else cli.path(text)


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """The arguments; an error for none that names images, and for what contradicts itself."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.places and not args.watch and not args.export_onnx:
        parser.error("name images, folders, or - for lines of standard input; or --watch FOLDER")
    if args.places and args.watch:
        parser.error("--watch scores one folder until it is stopped; leave the other images out")
    features = list(filter(sources.is_features, args.places))
    of_images = ("copy_rejected", "gallery", "export_onnx")
    given = [name for name in of_images if getattr(args, name)]
    if features and given:
        flag = "--" + given[0].replace("_", "-")
        parser.error(f"{flag} is of images, and {features[0]} holds features; leave it out")
    scored = [args.watch] if args.watch else args.places
    if args.copy_rejected and any(lies_in(args.copy_rejected, folder) for folder in scored):
        parser.error(
            f"--copy-rejected {args.copy_rejected} lies in a folder that is scored, and the copies"
            " would be scored too; name a folder elsewhere"
        )
    return args


def lies_in(path: str, folder: str) -> bool:
    """True for a folder itself, and for a path below it."""
    return folder != sources.STANDARD_INPUT and Path(path).resolve().is_relative_to(
        Path(folder).resolve()
    )


# ---- the run -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Load the detector, score batch by batch, and print -> the exit code."""
    args = parse_args(argv)
    if args.watch:  # a service is ended so, and then writes what Ctrl-C would
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    path = detector_path(args.detector)
    detector = Detector.load(path, utils.command("ood_methods", [path.parent]))
    method = detector.named(args.method)
    detector.threshold(args.keep, method)  # a method without one is a mistake now
    say_method(detector, method, args)
    if args.export_onnx:
        export(args, detector, path, method)
        return answers.ALL_ACCEPTED
    taken = answers_for(args, detector, method)
    try:
        for batch in batches(args, detector, path):
            take(batch, detector, args.keep, method, taken)
    except KeyboardInterrupt:
        if not args.watch:  # Ctrl-C is how a watch ends
            raise
    if taken.gallery:
        taken.gallery.write(args.gallery)
    console.say(taken.summary())
    return taken.code


def take(
    batch: Batch, detector: Detector, keep: float, method: str, taken: answers.Answers
) -> None:
    """Judge a batch, and hand on what comes of it."""
    for name, why in batch.broken.items():
        taken.add_broken(name, why)
    if batch.paths:
        taken.add(batch.paths, detector.verdicts(batch.features, keep, method))


def detector_path(text: str) -> Path:
    """The file of a detector, by its own path or its folder's."""
    path = Path(text)
    return path / FILE if path.is_dir() else path


def say_method(detector: Detector, method: str, args: Arguments) -> None:
    """Say by which score, and by which ID images, on standard error."""
    why = ""
    if args.method is None:
        why = f", recommended by {detector.reason}"
    count = len(detector.calibration[method])
    console.say(
        f"{method}{why}; its threshold keeps {args.keep:.4g} of ID images, by {count:,} ID"
        f" {detector.calibrated_on} images"
    )
    if not np.isfinite(detector.threshold(args.keep, method)):
        console.say(f"no image is rejected: {count:,} ID images are too few for it")


def answers_for(args: Arguments, detector: Detector, method: str) -> answers.Answers:
    """What takes the verdicts."""
    width = 0
    if detector.head is not None:
        width = min(answers.LONGEST, max(map(len, detector.head.class_names)))
    printer = answers.Printer(args.format, method, width, sys.stdout)
    copies = Path(args.copy_rejected) if args.copy_rejected else None
    page = None
    if args.gallery:
        utils.writable_folder(Path(args.gallery).parent)
        page = gallery.Gallery(f"{detector.facts.get('checkpoint') or 'Detector'}, by {method}")
    return answers.Answers(printer, copies, page)


# ---- what is scored ------------------------------------------------------------------------------


def batches(args: Arguments, detector: Detector, path: Path) -> Iterator[Batch]:
    """Everything that is to be scored, in its order; files of features whole, images in batches."""
    if args.watch:
        yield from watched(args, detector, path)
        return
    network = None
    for is_features, group in itertools.groupby(args.places, sources.is_features):
        if is_features:
            for name in group:
                yield rows_of(name, detector)
            continue
        network = network or Network(args, detector, path)
        yield from network.batches(sources.images(group, sys.stdin))


def rows_of(name: str, detector: Detector) -> Batch:
    """A file of features, or a folder of shards, as one batch; one that is not there is broken, as
    an image would be."""
    if not Path(name).exists():
        return Batch([], np.empty((0, 0)), {name: "there is no such file"})
    found = sources.rows(name, detector.width, detector.facts)
    return Batch(found.names, found.features, {})


def watched(args: Arguments, detector: Detector, path: Path) -> Iterator[Batch]:
    """The images of a folder, and those that come to it."""
    assert args.watch is not None
    if not Path(args.watch).is_dir():
        raise ValueError(f"--watch {args.watch}: there is no such folder")
    network = Network(args, detector, path)
    console.say(f"watching {args.watch}; Ctrl-C ends it")
    for found in sources.arrivals(args.watch, args.poll):
        yield from network.batches(iter(found))


class Network:
    """The detector's network, opened before the first image."""

    def __init__(self, args: Arguments, detector: Detector, path: Path):
        weights = weights_of(args, detector, path)
        from images import reading  # Pillow, and below torch: features do without

        if args.max_pixels:
            reading.limit_pixels(args.max_pixels)
        self.network = opened(weights, args, detector)

    def batches(self, images: Iterator[sources.Found]) -> Iterator[Batch]:
        """Images through the network, batch by batch."""
        for part in sources.parts(images, self.network.batch_size):
            broken = {found.path: found.fault for found in part if found.fault}
            made = self.network.features([found.path for found in part if not found.fault])
            yield Batch(made.paths, made.features, {**broken, **made.broken})


def opened(weights: str, args: Arguments, detector: Detector) -> Any:
    """The network of a file: by onnxruntime, without torch, or by torch, which takes seconds to
    import."""
    if onnx_graphs.is_onnx(weights):
        if args.model:
            raise ValueError(f"--model names a torch network, and {weights} is one of ONNX itself")
        from extraction import onnx_streaming

        return onnx_streaming.opened(
            weights, detector.facts, detector.head, args.batch_size, args.workers
        )
    from extraction import streaming

    device = str(cli.device(args.device))
    return streaming.opened(
        weights, detector.facts, args.model, device, args.batch_size, args.workers
    )


# ---- network and detector in one file ------------------------------------------------------------


def export(args: Arguments, detector: Detector, path: Path, method: str) -> None:
    """Write the ONNX file and its sidecar; ValueError, and no file, where its scores differ from
    the detector's."""
    from artifacts import records
    from detection import onnx_detector
    from extraction import onnx_streaming

    assert args.export_onnx is not None
    target = Path(args.export_onnx)
    onnx_detector.check_target(target, method)
    weights = weights_of(args, detector, path)
    with tempfile.TemporaryDirectory() as folder:
        if not onnx_graphs.is_onnx(weights):
            weights = as_onnx(weights, Path(folder) / "network.onnx", args, detector)
        network = onnx_streaming.opened(weights, detector.facts, detector.head)
        images, origin = compared_on(args, network)
        exported = onnx_detector.Exported(network.session, detector, method, args.keep)
        found = exported.write(target, images)
    facts = records.provenance(cli.material(args), detector=str(path), compared_on=origin)
    facts |= {"sha256": records.sha256(target), **exported.facts(), **vars(found)}
    utils.write_json(records.sidecar_path(target), facts)
    print(f"{target}: {found.words} ({origin})")


def as_onnx(weights: str, target: Path, args: Arguments, detector: Detector) -> str:
    """A checkpoint's network as an ONNX file."""
    from extraction import streaming

    streaming.export(weights, detector.facts, args.model, target)
    return str(target)


def compared_on(args: Arguments, network: Any) -> tuple[np.ndarray, str]:
    """Images (n, 3, S, S), prepared, and what they are: the first that are named and can be read,
    or noise."""
    found = list(itertools.islice(sources.images(args.places, sys.stdin), COMPARED_ON))
    pixels = network.reader.read([image.path for image in found if not image.fault]).pixels
    origin = "the images that were named"
    if pixels is None:
        side = network.reader.preprocessing.size
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (COMPARED_ON, side, side, 3), dtype=np.uint8)
        origin = "noise; name images to compare on them"
    return network.reader.preprocessing.normalised(pixels), origin


# ---- the network ---------------------------------------------------------------------------------


def weights_of(args: Arguments, detector: Detector, path: Path) -> str:
    """The network's weights: --checkpoint, or the file that the detector names, in its folder or in
    the one above. ValueError where there is none."""
    known = (detector.facts.get(key) for key in ("checkpoint_sha256", "weights_sha256"))
    if not any(known):
        raise ValueError(
            f"{path} was fitted to features whose network is not known, so that no image can be"
            " scored by it; give features of the same network (.csv, .parquet, .npz) instead"
        )
    if args.checkpoint:
        return args.checkpoint
    name = detector.facts.get("checkpoint")
    if not name:
        raise ValueError(
            f"{path} does not name its network's weights: name them with --checkpoint, or give"
            " features (.csv, .parquet, .npz) instead of images"
        )
    folder = path.resolve().parent
    for candidate in (folder / Path(name).name, folder.parent / Path(name).name):
        if candidate.is_file():
            return str(candidate)
    raise ValueError(
        f"{name}, the weights that {path} names, is neither in {folder} nor in {folder.parent}:"
        " name the file with --checkpoint, or give features (.csv, .parquet, .npz) instead of"
        " images"
    )


if __name__ == "__main__":
    cli.run(main, answers=True)
