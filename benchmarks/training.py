"""Time training's data path, its compute path, and both together against the loop that a textbook
would write, in one run.

    # a quarter of an hour on two cores
    python benchmarks/training.py
    # less of everything: under a minute
    python benchmarks/training.py --quick --models resnet_cifar
    python benchmarks/training.py --device cuda --batch-size 512 --workers 8 --models resnet18

Prints and writes results/benchmarks/training.csv: each way's median seconds over the repeats, its
images per second, and, last, the ratio of those to the first way of its part. The parts are

    data      a torchvision DataLoader over PIL images (crop, flip, to tensor, normalise) against
              augment.apply on uint8 images in memory: the same crop and flip, then each
              augmentation alone
    compute   the same batch over and over: float32 as networks come, then fused SGD,
              channels_last, bfloat16 and torch.compile added one after the other
    both      DataLoader, float32, plain SGD against images in memory, channels_last, bfloat16,
              fused SGD; then compiled too

All ways of a part take turns within each repeat, so that a busy machine slows them alike. Loader
workers are started in the warm-up and stay; what they prepare in a turn is what that turn uses, so
that nothing is made ahead while another way is timed. Every turn ends with the device synchronised.
`utilisation` is the share of this device's measured bfloat16 matrix product rate, also where a way
computes in float32. The images are CIFAR-100's where --data-dir has them, else random ones of its
shape; the printed title and the sidecar say which, and on what machine."""

import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import data
import utils
from artifacts import records, store
from networks import registry
from training import augment

CLASSES, SIZE = 100, 32
SMALL = {"images": 1000, "steps": 1, "repeats": 1, "batch_size": 32, "no_compile": True}
FORMS = {
    "images": "{:,.0f}",
    "seconds": "{:.3f}",
    "images_per_second": "{:,.0f}",
    "tflops": "{:.3g}",
    "utilisation": "{:.1%}",
    "ratio": "{:.2f}",
}


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "data-dir",
        "output-dir",
        "seed",
        "device",
        "batch-size",
        batch_size={"type": cli.positive, "default": 128},
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(registry.MODELS),
        default=["resnet18", "resnet_cifar"],
        metavar="MODEL",
        help="networks of the compute path",
    )
    parser.add_argument(
        "--images",
        type=cli.positive,
        default=10_000,
        help="images of a turn of the data path, at most all",
    )
    parser.add_argument(
        "--steps",
        type=cli.positive,
        help="training steps of a turn; default: 3 on a CPU, 100 elsewhere",
    )
    parser.add_argument(
        "--repeats", type=cli.positive, default=3, help="timed repeats after one warm-up"
    )
    parser.add_argument(
        "--workers", type=cli.positive, default=2, help="processes of the DataLoader"
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="leave out torch.compile, which takes a minute and a C++ compiler",
    )
    parser.add_argument(
        "--compile-mode",
        choices=("default", "reduce-overhead", "max-autotune"),
        default="default",
        help="torch.compile's mode",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"a short look: other defaults, {SMALL}"
    )
    args = parser.parse_args(argv)
    if args.quick:
        parser.set_defaults(**SMALL)
        args = parser.parse_args(argv)
    return args


def main(argv=None):
    args = parse_args(argv)
    path = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "training.csv"
    device = cli.device(args.device)
    # more workers than cores: as asked for, and in the title
    warnings.filterwarnings("ignore", "This DataLoader will create")
    args.steps = args.steps or (3 if device.type == "cpu" else 100)
    images, source = load(args.data_dir, args.images)
    rate = matrix_rate(device, args.repeats)
    rows, found = (
        [],
        machine.facts(
            torch_threads=torch.get_num_threads(),
            device=device_name(device),
            images=source,
            matrix_tflops=rate / 1e12,
            loader_workers=args.workers,
        ),
    )
    sidecar = {**records.provenance(cli.material(args)), "machine": found}
    parts = [data_part(images, device, args)]
    for model in args.models:
        parts += [compute_part(model, images, device, args), both_part(model, images, device, args)]
    for part in parts:
        rows += measure(part, device, args.repeats, rate)
        # part by part: what was measured survives an interruption
        store.write_table(path, pd.DataFrame(rows), sidecar)
    table = pd.DataFrame(rows)
    for name, form in FORMS.items():
        table[name] = [form.format(value) if pd.notna(value) else "" for value in table[name]]
    cli.print_table(
        table,
        f"training on {source}, batches of {args.batch_size}; {found['device']},"
        f" {found['cores_allowed']} of {found['cores']} cores, {found['torch_threads']} threads,"
        f" load {found['load'][0]:.1f}; bfloat16 matrix product {rate / 1e12:.3g} TFLOP/s",
    )
    print(f"\nwritten: {path}")


# ---- images --------------------------------------------------------------------------------------


def load(data_dir, count):
    """The first `count` training images of CIFAR-100, or as many random ones, as Images; and which
    of the two."""
    try:
        found = torchvision.datasets.CIFAR100(data_dir, train=True)
        pixels, labels, source = found.data[:count], found.targets[:count], "CIFAR-100"
    except RuntimeError:  # not there, and a benchmark downloads nothing
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        labels, source = generator.integers(0, CLASSES, count), "random images"
    return (
        data.from_arrays(pixels, labels, map(str, range(CLASSES)), source, preprocessing()),
        source,
    )


def preprocessing():
    row = data.ID["cifar100"]
    return data.Preprocessing(SIZE, row.mean, row.std)


class Pictures(Dataset):
    """uint8 images that become a PIL image one by one and go through `transform`, as those of
    torchvision.datasets do."""

    def __init__(self, images, transform):
        self.array, self.labels = (
            images.pixels.permute(0, 2, 3, 1).contiguous().numpy(),
            images.labels.tolist(),
        )
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.array[index])), self.labels[index]


def textbook(images, batch_size, workers, device):
    """A function that gives one shuffled pass over the images, each time it is called, by a
    DataLoader."""
    prepare = preprocessing()
    transform = transforms.Compose(
        [
            transforms.RandomCrop(SIZE, padding=SIZE // 8),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(prepare.mean, prepare.std),
        ]
    )
    loader = DataLoader(
        Pictures(images, transform),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def batches():
        for pixels, labels in loader:
            yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return batches


def in_memory(images, batch_size, names, device, seed):
    """The same by augment.apply with these augmentations, the images where the network is."""
    pixels, labels, prepare = images.pixels.to(device), images.labels.to(device), preprocessing()
    generator = torch.Generator(device).manual_seed(seed)

    def batches():
        for rows in torch.randperm(len(labels), generator=generator, device=device).split(
            batch_size
        ):
            yield augment.apply(pixels[rows], names, generator, prepare), labels[rows]

    return batches


# ---- steps ---------------------------------------------------------------------------------------


def make_step(model, device, fused=False, channels_last=False, amp=False, compiled=None):
    """A function of (images, labels) that takes one step of SGD; `compiled` is torch.compile's
    mode."""
    torch.manual_seed(0)
    network = registry.build(model, CLASSES).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    # fused=None leaves the choice to torch, as a textbook does: a loop over parameters on a CPU,
    # foreach on a GPU.
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused or None
    )
    forward = torch.compile(network, mode=compiled) if compiled else network

    def step(images, labels):
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            logits = forward(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def training_flops(model):
    """Floating-point operations of one image's forward and backward pass: matrix products and
    convolutions, 2 a multiply-add."""
    network, images = (
        registry.build(model, CLASSES).to("meta"),
        torch.empty(2, 3, SIZE, SIZE, device="meta"),
    )
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return counter.get_total_flops() / len(images)


def matrix_rate(device, repeats):
    """FLOP/s of a square bfloat16 matrix product on this device, the median over the repeats after
    a warm-up."""
    size, products = (1024, 4) if device.type == "cpu" else (8192, 20)
    one, two = torch.randn(2, size, size, device=device).to(torch.bfloat16)
    seconds = take_turns(
        {"product": lambda: [one @ two for _ in range(products)]}, device, max(repeats, 5)
    )["product"]
    return 2 * size**3 * products / seconds


# ---- parts: {"part", "model", "flops" an image, "images" a turn, "ways": {name: a function that ta


def exhaust(batches):
    for _ in batches():
        pass


def data_part(images, device, args):
    ways = {
        f"DataLoader, {args.workers} workers: crop, flip": textbook(
            images, args.batch_size, args.workers, device
        )
    }
    alone = [(name,) for name in (*augment.OF_PIXELS, *augment.OF_INPUTS)]
    for names in (("crop", "flip"), (), *alone):
        ways[f"in memory: {', '.join(names) or 'normalised only'}"] = in_memory(
            images, args.batch_size, names, device, args.seed
        )
    return {
        "part": "data",
        "images": len(images),
        "ways": {way: partial(exhaust, batches) for way, batches in ways.items()},
    }


def compute_part(model, images, device, args):
    batch = images.take(torch.arange(args.batch_size) % len(images))
    inputs, labels = preprocessing().normalise(batch.pixels.to(device)), batch.labels.to(device)
    settings, ways = {}, {}
    for name, more in {
        "float32": {},
        "+ fused SGD": {"fused": True},
        "+ channels_last": {"channels_last": True},
        "+ bfloat16": {"amp": True},
        "+ compile": {"compiled": args.compile_mode},
    }.items():
        settings = settings | more
        if name == "+ compile" and args.no_compile:
            continue
        layout = torch.channels_last if "channels_last" in settings else torch.contiguous_format
        step = make_step(model, device, **settings)
        ways[name] = partial(
            repeat, step, inputs.contiguous(memory_format=layout), labels, args.steps
        )
    return {
        "part": "compute",
        "model": model,
        "flops": training_flops(model),
        "images": args.steps * args.batch_size,
        "ways": ways,
    }


def repeat(step, inputs, labels, steps):
    for _ in range(steps):
        step(inputs, labels)


def both_part(model, images, device, args):
    images = images.take(torch.arange(args.steps * args.batch_size) % len(images))
    fast = {"fused": True, "channels_last": True, "amp": True}
    loader, memory = (
        textbook(images, args.batch_size, args.workers, device),
        in_memory(images, args.batch_size, ("crop", "flip"), device, args.seed),
    )
    ways = {
        f"DataLoader, {args.workers} workers, float32": partial(
            train, make_step(model, device), loader
        ),
        "in memory, channels_last, bfloat16, fused SGD": partial(
            train, make_step(model, device, **fast), memory
        ),
    }
    if not args.no_compile:
        ways["the same, compiled"] = partial(
            train, make_step(model, device, **fast, compiled=args.compile_mode), memory
        )
    return {
        "part": "both",
        "model": model,
        "flops": training_flops(model),
        "images": len(images),
        "ways": ways,
    }


def train(step, batches):
    for images, labels in batches():
        step(images, labels)


# ---- timing --------------------------------------------------------------------------------------


def take_turns(ways, device, repeats):
    """Median seconds of each way; the first turn of each is the warm-up."""
    seconds = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, function in ways.items():
            synchronise(device)
            start = time.perf_counter()
            function()
            synchronise(device)
            if turn:
                seconds[way].append(time.perf_counter() - start)
    return {way: float(np.median(times)) for way, times in seconds.items()}


def synchronise(device):
    """Wait for what the device still has to do: a GPU's work is only queued when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(part, device, repeats, rate):
    """The rows of the table for one part."""
    try:
        found = take_turns(part["ways"], device, repeats)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ValueError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}); leave it out with "
            "--no-compile"
        ) from None
    first, rows = next(iter(found.values())), []
    for way, seconds in found.items():
        flops = part["flops"] * part["images"] / seconds if "flops" in part else None
        rows.append(
            {
                "part": part["part"],
                "model": part.get("model", ""),
                "way": way,
                "images": part["images"],
                "seconds": seconds,
                "images_per_second": part["images"] / seconds,
                "tflops": flops and flops / 1e12,
                "utilisation": flops and flops / rate,
                "ratio": first / seconds,
            }
        )
    return rows


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()


if __name__ == "__main__":
    cli.run(main)
