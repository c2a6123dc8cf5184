"""Time training's data path, its compute path, and both together against the loop that a textbook
would write, in one run.

    # half an hour on two cores
    python benchmarks/training.py
    # less of everything: under a minute
    python benchmarks/training.py --quick --models resnet_cifar
    # where the time of a step goes, operator by operator
    python benchmarks/training.py --parts compute --profile
    # on a machine that others use too
    OMP_NUM_THREADS=1 python benchmarks/training.py --parts compute --clock processor
    python benchmarks/training.py --device cuda --batch-size 512 --workers 8 --models resnet18

Prints and writes results/benchmarks/training.csv: each way's median seconds over the repeats, its
images per second, and, last, the ratio of those to the first way of its part. The parts are

    data      a torchvision DataLoader over PIL images (crop, flip, to tensor, normalise) against
              augment.apply on uint8 images in memory: the same crop and flip, then each
              augmentation alone
    compute   the same batch over and over: float32 as networks come; each change alone; and
              together, as train.py trains. bfloat16 where the device multiplies it natively
    both      DataLoader, float32, plain SGD against images in memory, trained as train.py does

All ways of a part take turns within each repeat, so that a busy machine slows them alike, and so
does the square matrix product whose rate `share` is a share of: in bfloat16 for the ways that
compute in it, else in float32. `flops` are counted by torch, 2 a multiply-add, whatever way an
algorithm finds to need fewer: Winograd's may pass 100%. Loader workers are started in the warm-up
and stay; what they prepare in a turn is what that turn uses, so that nothing is made ahead while
another way is timed. Every turn ends with the device synchronised. The images are CIFAR-100's where
--data-dir has them, else random ones of its shape; the printed title and the sidecar say which, and
on what machine.

--profile writes results/benchmarks/training_profile.csv besides: the shares of a step, with its
augmentation, that its kinds of operators take. oneDNN's graph fusion is not among the ways: torch
has it for inference alone."""

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
import console
import data
import machine_memory
import utils
from artifacts import records, store
from networks import registry
from training import augment, winograd
from training.parts import has_bfloat16

CLASSES, SIZE = 100, 32
PARTS = ["data", "compute", "both"]
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
SMALL = {"images": 1000, "steps": 1, "repeats": 1, "batch_size": 32, "no_compile": True}
FORMS = {
    "images": "{:,.0f}",
    "seconds": "{:.3f}",
    "images_per_second": "{:,.0f}",
    "tflops": "{:.3g}",
    "share": "{:.1%}",
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
        default=["resnet18", "fastnet"],
        metavar="MODEL",
        help="networks of the compute path; default: %(default)s",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all of them"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also write where the time of a training step goes",
    )
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="processor: count the seconds that this process had, of all its threads, on a machine"
        " that others use; give OMP_NUM_THREADS=1 with it",
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
        help="leave out torch.compile, which takes minutes and a C++ compiler",
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
    clock = CLOCKS[args.clock]
    found = machine.facts(
        torch_threads=torch.get_num_threads(),
        device=device_name(device),
        images=source,
        loader_workers=args.workers,
        clock=args.clock,
    )
    sidecar = {**records.provenance(cli.material(args)), "machine": found}
    rows: list[Row] = []
    for part in make_parts(images, device, args):
        rows += measure(part, device, args.repeats, clock)
        # part by part: what was measured survives an interruption
        store.write_table(path, pd.DataFrame(rows), sidecar)
    title = (
        f"training on {source}, batches of {args.batch_size}; {found['device']},"
        f" {found['cores_allowed']} of {found['cores']} cores, {found['torch_threads']} threads,"
        f" load {found['load'][0]:.1f}, {args.clock} clock"
    )
    console.print_table(printable(pd.DataFrame(rows)), title)
    print(f"\nwritten: {path}")
    if args.profile:
        shares = pd.concat([profiled(model, images, device, args) for model in args.models])
        path = path.with_name("training_profile.csv")
        store.write_table(path, shares, sidecar)
        console.print_table(printable(shares), "where the time of a step goes")
        print(f"\nwritten: {path}")


def make_parts(images, device, args) -> Iterator["Part"]:
    """The parts that were asked for, each made when its turn has come."""
    if "data" in args.parts:
        yield data_part(images, device, args)
    for model in args.models:
        if "compute" in args.parts:
            yield compute_part(model, images, device, args)
        if "both" in args.parts:
            yield both_part(model, images, device, args)


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its numbers as text."""
    table = table.copy()
    for name in set(FORMS) & set(table):
        form = FORMS[name]
        table[name] = [form.format(value) if pd.notna(value) else "" for value in table[name]]
    return table


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


@dataclass(frozen=True)
class Settings:
    """How a step computes; as they stand, as a textbook's does."""

    optimizer: str = "loop"  # over the parameters; or "foreach", or "fused"
    channels_last: bool = False
    amp: bool = False
    compiled: str | None = None  # torch.compile's mode
    winograd: bool = False
    kept: bool = False  # the memory that is freed


# What glibc's malloc comes to by itself once it has freed large tensors.
GIVEN_BACK = {
    machine_memory.M_MMAP_MAX: 65536,
    machine_memory.M_MMAP_THRESHOLD: 2**25,
    machine_memory.M_TRIM_THRESHOLD: 2**26,
}


def settings_of_train(device: torch.device) -> Settings:
    """As train.py trains on this device without flags."""
    amp = has_bfloat16(device)
    return Settings("fused", channels_last=True, amp=amp, kept=device.type == "cpu")


def settings_of_compute(device: torch.device, compiles: bool) -> dict[str, Settings]:
    """The ways of the compute path: the textbook's first, each change alone, then train.py's."""
    plain = Settings()
    ours = settings_of_train(device)
    found = {
        "float32": plain,
        "foreach SGD": replace(plain, optimizer="foreach"),
        "fused SGD": replace(plain, optimizer="fused"),
        "channels_last": replace(plain, channels_last=True),
    }
    if device.type == "cpu":
        found["winograd"] = replace(plain, winograd=True)
    if has_bfloat16(device):
        found["bfloat16"] = replace(plain, amp=True)
        found["bfloat16, channels_last"] = replace(plain, amp=True, channels_last=True)
    if compiles:
        found["compiled"] = replace(plain, compiled="default")
        found["compiled, max-autotune"] = replace(plain, compiled="max-autotune")
    if device.type == "cpu":
        found["memory kept"] = replace(plain, kept=True)
    found["train.py"] = ours
    if device.type == "cpu":
        found["train.py --no-amp --winograd"] = replace(ours, amp=False, winograd=True)
    if compiles:
        found["train.py --compile"] = replace(ours, compiled="default")
    return found


Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_step(model: str, device: torch.device, settings: Settings) -> Step:
    """A function of (images, labels) that takes one step of SGD -> its loss."""
    torch.manual_seed(0)
    network = registry.build(model, CLASSES).to(device)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if settings.winograd:
        winograd.replace(network)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        fused=settings.optimizer == "fused",
        foreach=settings.optimizer == "foreach",
    )
    forward = network
    if settings.compiled:
        forward = torch.compile(network, mode=settings.compiled, dynamic=False)

    def step(images, labels):
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
            logits = forward(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def training_flops(model: str) -> float:
    """Floating-point operations of one image's forward and backward pass: matrix products and
    convolutions, 2 a multiply-add."""
    network = registry.build(model, CLASSES).to("meta")
    images = torch.empty(2, 3, SIZE, SIZE, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return counter.get_total_flops() / len(images)


# ---- parts ---------------------------------------------------------------------------------------

FLOAT32, BFLOAT16 = "matrix product, float32", "matrix product, bfloat16"


@dataclass
class Way:
    """One way of doing the part's work: a function that does it all, and how."""

    run: Callable[[], object]
    settings: Settings = Settings()


@dataclass
class Part:
    """Ways that take turns, each with the same images; `products` holds the matrix products that
    take turns with them, and `flops` are those of an image."""

    name: str
    images: int
    ways: dict[str, Way]
    model: str = ""
    flops: float | None = None
    products: Mapping[str, Way] | None = None


def exhaust(batches):
    for _ in batches():
        pass


def data_part(images, device, args) -> Part:
    loader = textbook(images, args.batch_size, args.workers, device)
    ways = {f"DataLoader, {args.workers} workers: crop, flip": Way(partial(exhaust, loader))}
    alone = [(name,) for name in (*augment.OF_PIXELS, *augment.OF_INPUTS)]
    for names in (("crop", "flip"), (), *alone):
        batches = in_memory(images, args.batch_size, names, device, args.seed)
        name = ", ".join(names) or "normalised only"
        ways[f"in memory: {name}"] = Way(partial(exhaust, batches))
    return Part("data", len(images), ways)


def compute_part(model, images, device, args) -> Part:
    batch = images.take(torch.arange(args.batch_size) % len(images))
    inputs, labels = preprocessing().normalise(batch.pixels.to(device)), batch.labels.to(device)
    ways = {}
    for name, settings in settings_of_compute(device, not args.no_compile).items():
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        step = make_step(model, device, settings)
        mine = inputs.contiguous(memory_format=layout)
        ways[name] = Way(partial(repeat, step, mine, labels, args.steps), settings)
    count = args.steps * args.batch_size
    flops = training_flops(model)
    return Part("compute", count, ways, model, flops, matrix_products(device))


def repeat(step, inputs, labels, steps):
    for _ in range(steps):
        step(inputs, labels)


def both_part(model, images, device, args) -> Part:
    images = images.take(torch.arange(args.steps * args.batch_size) % len(images))
    loader = textbook(images, args.batch_size, args.workers, device)
    memory_batches = in_memory(images, args.batch_size, ("crop", "flip"), device, args.seed)
    ours = settings_of_train(device)
    chosen = {"in memory, train.py": ours}
    if device.type == "cpu":
        fewer = replace(ours, amp=False, winograd=True)
        chosen["in memory, train.py --no-amp --winograd"] = fewer
    if not args.no_compile:
        chosen["in memory, train.py --compile"] = replace(ours, compiled="default")
    textbook_step = make_step(model, device, Settings())
    name = f"DataLoader, {args.workers} workers, float32"
    ways = {name: Way(partial(train, textbook_step, loader))}
    for name, settings in chosen.items():
        step = make_step(model, device, settings)
        ways[name] = Way(partial(train, step, memory_batches), settings)
    flops = training_flops(model)
    return Part("both", len(images), ways, model, flops, matrix_products(device))


def train(step, batches):
    for images, labels in batches():
        step(images, labels)


def matrix_products(device: torch.device) -> dict[str, Way]:
    """Square matrix products in float32 and, where the device has it natively, bfloat16."""
    size, count = matrix_work(device)
    one, two = torch.randn(2, size, size, device=device)
    found = {FLOAT32: Way(partial(multiply, one, two, count), Settings(kept=True))}
    if has_bfloat16(device):
        halves = one.bfloat16(), two.bfloat16()
        found[BFLOAT16] = Way(partial(multiply, *halves, count), Settings(kept=True))
    return found


def matrix_work(device: torch.device) -> tuple[int, int]:
    """The side of the matrices, and the number of products in a turn."""
    return (1024, 20) if device.type == "cpu" else (8192, 20)


def multiply(one, two, count):
    for _ in range(count):
        one @ two


# ---- timing --------------------------------------------------------------------------------------

Row = dict[str, object]


def take_turns(
    ways: Mapping[str, Way],
    device: torch.device,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each way; the first turn of each is the warm-up.

    A way that keeps its memory after one that does not runs once more, since it finds none."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    kept = False
    for turn in range(repeats + 1):
        for name, way in ways.items():
            machine_memory.set_malloc(machine_memory.KEPT if way.settings.kept else GIVEN_BACK)
            if way.settings.kept and not kept:
                way.run()
            kept = way.settings.kept
            synchronise(device)
            start = clock()
            way.run()
            synchronise(device)
            if turn:
                seconds[name].append(clock() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def synchronise(device: torch.device) -> None:
    """Wait for what the device still has to do: a GPU's work is only queued when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(
    part: Part, device: torch.device, repeats: int, clock: Callable[[], float]
) -> list[Row]:
    """The rows of the table for one part."""
    products = part.products or {}
    try:
        seconds = take_turns({**part.ways, **products}, device, repeats, clock)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ValueError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}); leave it out with "
            "--no-compile"
        ) from None
    size, count = matrix_work(device)
    rates = {name: 2 * size**3 * count / seconds[name] for name in products}
    first = next(iter(part.ways))
    rows: list[Row] = []
    for name, way in part.ways.items():
        row: Row = {
            "part": part.name,
            "model": part.model,
            "way": name,
            "images": part.images,
            "seconds": seconds[name],
            "images_per_second": part.images / seconds[name],
            "tflops": None,
            "share": None,
            "ratio": seconds[first] / seconds[name],
        }
        if part.flops is not None:
            flops = part.flops * part.images / seconds[name]
            row["tflops"] = flops / 1e12
            row["share"] = flops / rates[BFLOAT16 if way.settings.amp else FLOAT32]
        rows.append(row)
    for name, rate in rates.items():
        about = {"part": part.name, "model": part.model, "way": name}
        rows.append({**about, "seconds": seconds[name], "tflops": rate / 1e12, "share": 1.0})
    return rows


# ---- where the time goes -------------------------------------------------------------------------

# Kinds of operators by their names in torch's profiler; the first that fits counts, and what an
# operator calls counts as its own.
KINDS = {
    "augmentation": r"^augmentation$",
    "optimiser": r"^Optimizer\.",
    "convolution, backward": r"ConvolutionBackward|convolution_backward",
    "convolution, forward": r"^aten::conv2d$|^Convolution$",
    "batch norm": r"batch_norm|BatchNorm",
    "activation": r"aten::(relu|gelu)|(Relu|Gelu)Backward",
    "pooling": r"pool|Pool|aten::(mean|amax)|(Mean|Amax)Backward",
}
OTHER = "other"


def profiled(model: str, images, device: torch.device, args) -> pd.DataFrame:
    """The shares of one training step with its augmentation that the kinds of operators take: as
    train.py trains and, on a CPU, with --winograd; two steps go before."""
    ours = settings_of_train(device)
    ways = {"train.py": ours}
    if device.type == "cpu":
        ways["train.py --no-amp --winograd"] = replace(ours, amp=False, winograd=True)
    batch = images.take(torch.arange(args.batch_size) % len(images))
    batches = in_memory(batch, args.batch_size, ("crop", "flip"), device, args.seed)
    tables = []
    for name, settings in ways.items():
        machine_memory.set_malloc(machine_memory.KEPT if settings.kept else GIVEN_BACK)
        step = make_step(model, device, settings)
        for _ in range(2):
            train(step, batches)
        seconds = seconds_by_kind(step, batches, device)
        table = pd.DataFrame({"kind": list(seconds), "seconds": list(seconds.values())})
        table["share"] = table["seconds"] / table["seconds"].sum()
        table.insert(0, "model", model)
        table.insert(1, "way", name)
        tables.append(table)
    return pd.concat(tables)


def seconds_by_kind(step: Step, batches, device: torch.device) -> dict[str, float]:
    """Seconds that each kind of operator takes in the steps of one pass over the batches."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        prepared = iter(batches())
        while True:
            with torch.profiler.record_function("augmentation"):
                found = next(prepared, None)
            if found is None:
                break
            step(*found)
        synchronise(device)
    seconds = dict.fromkeys([*KINDS, OTHER], 0.0)
    on_gpu = device.type == "cuda"
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a GPU's kernels, whose time their operators have too
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[kind_of(event)] += own / 1e6
    return seconds


def kind_of(event) -> str:
    """The kind of an event of the profiler: that of the outermost event around it that has one."""
    found = OTHER
    while event is not None:
        for kind, pattern in KINDS.items():
            if re.search(pattern, event.name):
                found = kind
                break
        event = event.cpu_parent
    return found


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()


if __name__ == "__main__":
    cli.run(main)
