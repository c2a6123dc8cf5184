"""Extraction of images in files against the loop that a textbook would write, with as many workers.

    # 200 photographs at 224 pixels through ResNet-18 of torchvision, untrained, on one thread
    OMP_NUM_THREADS=1 python benchmarks/extraction.py path/to/photographs
    python benchmarks/extraction.py path/to/photographs --model efficientnet_b0 --batches 4 32 100

The textbook's loop is torchvision's ImageFolder (Resize, CenterCrop, ToTensor, Normalize), a
DataLoader with --workers, and the network without gradients, with a hook before its classifier. The
folder has class folders. Both sides make the same features of the same images, which is checked.
"decoded" only reads, decodes and resizes the files: no extraction on a CPU is faster than that.

Each run is a process of its own, since what is done about memory stays done. Prints and writes
results/benchmarks/extraction.csv: medians of --repeats, by the clock or, with --clock processor, by
the seconds of processor of a run and its workers; peak memory; and the ratio to the textbook's best
batch last."""

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import data
import machine_memory
import utils
from artifacts import records, store
from extraction import batching, extractor, plan
from images.sets import image_folder
from processes import World

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
DECODED, OURS = "decoded", "extractor"
DIFFERENT = 1e-3  # of the largest feature; two ways to resize and to normalise differ by 1e-6


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", type=cli.path, help="folder of class folders of images")
    parser.add_argument("--model", type=str, default="resnet18", help="network of torchvision")
    parser.add_argument("--image-size", type=cli.positive, default=224, help="side in pixels")
    parser.add_argument("--images", type=cli.positive, default=200, help="images of a run")
    parser.add_argument("--workers", type=cli.positive, default=1, help="of both sides")
    parser.add_argument(
        "--batches",
        type=cli.positive,
        nargs="+",
        default=[4, 10, 32],
        help="batches of the textbook's loop",
    )
    parser.add_argument("--repeats", type=cli.positive, default=3, help="runs of each kind")
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="what counts"
    )
    cli.add_flags(parser, "output-dir")
    return parser.parse_args(argv)


def preprocessing(args):
    return data.Preprocessing(args.image_size, MEAN, STD)


def chosen(args):
    """The images of a run, drawn from the whole folder."""
    images = image_folder(args.folder, preprocessing(args))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.take(order[: args.images].sort().values)


def network(args):
    """The network, untrained, the same each time."""
    torch.manual_seed(0)
    return torchvision.models.get_model(args.model).eval()


def classifier(model):
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]


# ---- the ways ------------------------------------------------------------------------------------


def decoded(args):
    """-> a pass that only reads, decodes and resizes the images."""
    images = chosen(args)
    images.threads = args.workers

    def run():
        for _ in images.batches(64):
            pass

    return run


def textbook(args, batch_size):
    """-> a pass that makes features (N, D), as a loop over a DataLoader does."""
    model, caught = network(args), []
    classifier(model).register_forward_pre_hook(
        lambda module, inputs: caught.append(inputs[0].flatten(1))
    )
    steps = [
        transforms.Resize(args.image_size),
        transforms.CenterCrop(args.image_size),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    whole = torchvision.datasets.ImageFolder(args.folder, transforms.Compose(steps))
    numbers = {str(Path(path)): row for row, (path, _) in enumerate(whole.samples)}
    images = chosen(args)
    rows = [numbers[str(images.root / path)] for path in images.paths]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(whole, rows), batch_size, num_workers=args.workers
    )

    def run():
        with torch.no_grad():
            for batch, _ in loader:
                model(batch)
        return torch.cat(caught).numpy()

    return run


def ours(args):
    """-> a pass that makes features (N, D), as run_networks.py does."""
    machine_memory.keep_freed()
    model, images = network(args), chosen(args)
    size, origin = batching.choose(None, args.image_size, CPU.type, machine_memory.total())
    made = extractor.Extractor(
        model.to(memory_format=torch.channels_last),
        classifier(model),
        preprocessing(args),
        World(0, 1, CPU),
        size,
        batch_size_from=origin,
        workers=args.workers,
    )
    place = utils.SetName.parse(f"images={args.folder}")
    job = plan.Job("OOD_images_test", "images", lambda: images, place)
    return lambda: made.run(job).features


# ---- measuring -----------------------------------------------------------------------------------


def processor_seconds():
    """Of this process and the workers that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(found.ru_utime + found.ru_stime for found in map(resource.getrusage, kinds))


def timed(answer, way, args, *more):
    """Send (seconds, peak MB, features) of one pass."""
    run = way(args, *more)
    clock = processor_seconds if args.clock == "processor" else time.perf_counter
    start = clock()
    features = run()
    seconds = clock() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    answer.send((seconds, peak, features))


def apart(way, args, *more):
    """What `timed` finds, in a process of its own."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    answer, end = context.Pipe(duplex=False)
    process = context.Process(target=timed, args=(end, way, args, *more))
    process.start()
    end.close()
    try:
        found = answer.recv()
    except EOFError:
        raise ValueError(f"{way.__name__} failed, as its process has said") from None
    process.join()
    return found


def measure(args):
    """{way: [(seconds, peak MB) of each repeat]}, the ways in turn; ValueError where two ways make
    different features."""
    ways = {DECODED: (decoded,), OURS: (ours,)}
    ways |= {f"textbook, batches of {size}": (textbook, size) for size in args.batches}
    runs = {name: [] for name in ways}
    first = None
    for _ in console.progress(range(args.repeats)):
        for name, (way, *more) in ways.items():
            seconds, peak, features = apart(way, args, *more)
            runs[name].append((seconds, peak))
            first = features if first is None else first
            check_same(first, features, name)
    return runs


def check_same(expected, found, name):
    """ValueError unless two ways made the same features; None stands for no features."""
    if found is None:
        return
    largest = np.abs(expected).max()
    error = np.abs(expected - found).max() / largest
    if not error <= DIFFERENT:
        raise ValueError(f"{name} makes other features: they differ by {error:.2g} of the largest")


def summary(runs, count):
    """The runs of `measure` -> one row per way, medians over the repeats, the ratio last."""
    rows = []
    for name, found in runs.items():
        seconds, peak = np.median(np.array(found), axis=0)
        rows.append({"way": name, "images_per_second": count / seconds, "peak_mb": peak})
    table = pd.DataFrame(rows)
    is_textbook = table["way"].str.startswith("textbook")
    best = table.loc[is_textbook, "images_per_second"].max()
    table["ratio"] = (table["images_per_second"] / best).round(2)
    return table.round({"images_per_second": 1, "peak_mb": 0})


def main(argv=None):
    args = parse_args(argv)
    path = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "extraction.csv"
    sidecar = {**records.provenance(cli.material(args)), "machine": machine.facts()}
    table = summary(measure(args), args.images)
    store.write_table(path, table, sidecar)
    console.print_table(
        table,
        f"{args.images} images of {args.image_size} x {args.image_size} pixels, {args.model}, "
        f"{args.workers} workers; {machine.processor()}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.1f}, {args.clock}, medians of {args.repeats}",
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    cli.run(main)
