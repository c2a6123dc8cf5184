"""What the scripts share at the shell: flags, the device and the seed, progress, printed tables,
and clean errors.

One vocabulary of flags stands in FLAGS; a script names those that it takes and adds its own beside
them. Nothing here imports torch before a function needs it: the scorers start in about a second.
"""

import argparse
import contextlib
import errno
import gc
import math
import os
import random
import re
import shlex
import sys
import time
import warnings
from argparse import ArgumentTypeError

from tqdm import tqdm

from utils import SetName


def path(text):
    """argparse type: a path, taken literally but for a leading ~.

    ArgumentTypeError for what no file can be called, and for links that go round in a circle.
    """
    if not text:
        raise ArgumentTypeError("expected a path, found an empty text")
    if "\0" in text:
        raise ArgumentTypeError(f"{text!r} holds the character NUL, which no path can")
    expanded = os.path.expanduser(text)
    if expanded.startswith("-"):  # it would be taken for a flag where it is handed on
        expanded = os.path.abspath(expanded)
    try:
        os.stat(expanded)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ArgumentTypeError(
                f"{expanded} leads through links that go round in a circle; see where they lead "
                f"with: ls -ld {shlex.quote(expanded)}"
            ) from None
    return expanded


def data_set(text):
    """argparse type: NAME, or NAME=FOLDER whose folder is a `path` -> SetName."""
    name, _, folder = text.partition("=")
    try:
        return SetName.parse(f"{name}={path(folder)}" if folder else text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def positive(text):
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value


def finite(text):
    """argparse type: a number."""
    value = float(text)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"expected a number, found {text}")
    return value


def above_zero(text):
    """argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def share(text):
    """argparse type: a number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"expected a number above 0 and at most 1, found {text}")
    return value


class Channels(argparse.Action):
    """One number for all three channels, or one for each."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) not in (1, 3):
            parser.error(
                f"{option_string}: expected one number, or three for red, green and blue; found"
                f" {len(values)}"
            )
        setattr(namespace, self.dest, tuple(values) * (3 // len(values)))


def part_of_a_name(text):
    """argparse type: what becomes a part of file names, and so never leads to another folder."""
    if not text.strip():
        raise ArgumentTypeError(
            "expected a part of a file name, found an empty text; leave the "
            "flag out for the default"
        )
    odd = [letter for letter in text if letter in "/\\" or not letter.isprintable()]
    if odd:
        raise ArgumentTypeError(
            f"{text!r} becomes a part of file names and cannot hold "
            f"{odd[0]!r}; --output-dir chooses the folder"
        )
    return text


FLAGS = {
    "checkpoint": dict(
        type=path,
        help="checkpoint that train.py wrote, such as results/resnet18_best_cifar100_s0.pth",
    ),
    "dataset": dict(type=data_set, help="in-distribution data set"),
    "ood": dict(
        type=data_set,
        nargs="+",
        metavar="NAME|NAME=FOLDER",
        help=(
            "out-of-distribution sets: names from the registry, or NAME=FOLDER for any folder "
            "of images, or one image"
        ),
    ),
    "model": dict(type=path, help="network"),
    "mode": dict(type=str, help="training recipe"),
    "suffix": dict(type=part_of_a_name, help="names the run's files; default: <dataset>_s<seed>"),
    "seed": dict(type=int, default=0, help="seed of weights, batches and augmentation"),
    "device": dict(
        type=str,
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps; auto takes the GPU where there is one",
    ),
    "batch-size": dict(type=int, help="images per step"),
    "epochs": dict(type=int, help="passes over the training set"),
    "data-dir": dict(
        type=path, default="datasets", help="where data sets are kept, and downloaded to"
    ),
    "output-dir": dict(type=path, default="results", help="where everything is written"),
    "image-size": dict(
        type=positive,
        metavar="S",
        help="pixels of the side of each image; default: as the network was trained",
    ),
    "crop-share": dict(
        type=share,
        metavar="X",
        help=(
            "share of the shorter side that the centre crop keeps: 224 with 0.875 resizes to 256"
            " first; default: as the network was trained, or 1"
        ),
    ),
    "interpolation": dict(
        type=str, help="of resizing; default: as the network was trained, or bilinear"
    ),
    "mean": dict(
        action=Channels,
        type=finite,
        nargs="+",
        metavar="M",
        help=(
            "subtracted from pixels in [0, 1]: one number, or one per channel; --mean 0 --std 1"
            " leaves pixels as they are; default: as the network was trained"
        ),
    ),
    "std": dict(
        action=Channels,
        type=above_zero,
        nargs="+",
        metavar="D",
        help="divided by after --mean: one number, or one per channel",
    ),
    "max-pixels": dict(
        type=int, metavar="N", help="refuse image files of more pixels, before they are decoded"
    ),
    "allow-stale": dict(
        action="store_true",
        help=(
            "take files that were changed since they were written as they are; what is made "
            "of them records it"
        ),
    ),
}
# Flags that do not affect results, so changing them does not invalidate a finished stage. A
# checkpoint counts by its content, as every input does.
IMMATERIAL = {
    "checkpoint",
    "device",
    "data_dir",
    "output_dir",
    "debug",
    "force",
    "resume",
    "tensorboard",
    "workers",
    "max_pixels",
    "verify",
    "allow_stale",
}

INTERRUPTED = 130  # 128 + SIGINT
OUT_OF_MEMORY = (
    r"DefaultCPUAllocator|not enough memory|out of memory|bad_alloc|Cannot allocate memory"
)

YesNo = argparse.BooleanOptionalAction  # --flag, --no-flag, or neither: None


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, no abbreviations, and --batch_size taken for
    --batch-size."""

    def __init__(self, description, **options):
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known_args(self, args=None, namespace=None):
        words = [kebab_case(word) for word in (sys.argv[1:] if args is None else args)]
        for word in words:
            self.check_text(word)
        return super().parse_known_args(words, namespace)

    def check_text(self, word):
        """Refuse a word that is not UTF-8: a path or a name that neither JSON nor CSV could
        hold."""
        shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if shown != word:
            self.error(
                f"{shown} is not UTF-8; rename the file or folder, such as with: "
                f"convmv -f latin1 -t utf8 --notest $'{shown.rpartition('=')[2]}'"
            )

    def knows(self, flag):
        """True if the parser accepts `flag`."""
        return flag in self._option_string_actions


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the docstring's lines and adds each default that is not None."""

    def _get_help_string(self, action):
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


def kebab_case(word):
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def add_flags(parser, *names, **changes):
    """Add shared flags by name; `changes` = {"mode": {"default": "best", "choices": [...]}}
    overrides a flag's options."""
    for name in names:
        parser.add_argument(
            f"--{name}", **{**FLAGS[name], **changes.get(name.replace("-", "_"), {})}
        )


def material(args):
    """Namespace -> the dict of those arguments that change what a run makes, data sets as text."""
    return {name: as_text(value) for name, value in vars(args).items() if name not in IMMATERIAL}


def as_text(value):
    """A data set, or a list of them, as it was typed; any other value as it is."""
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return str(value) if isinstance(value, SetName) else value


def run(main):
    """Run a script's main and exit with its code.

    A person's mistake, a full disk or too little memory becomes one line on stderr and exit code
    2; --debug shows the traceback. Ctrl-C exits with 130, as the shell expects. A bug keeps its
    traceback.
    """
    warnings.showwarning = lambda message, *_: print(
        f"warning: {printable(str(message))}", file=sys.stderr
    )
    gc.freeze()  # imported objects live to the end; frozen, they save a tenth of the figures' time
    try:
        code = main()
        sys.stdout.flush()  # a full disk behind `> log.txt` shows here, not after the last handler
    except KeyboardInterrupt:
        print(
            "interrupted: what was finished is kept; run the same command again to go on",
            file=sys.stderr,
        )
        code = INTERRUPTED
    except SystemExit as stop:
        code = stop.code
    except BrokenPipeError:
        drop_output()
        code = 1
    except Exception as error:
        message = explain(error)
        if message is None or "--debug" in sys.argv:
            raise
        print(f"error: {printable(message)}", file=sys.stderr)
        code = 2
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()  # or the interpreter would try again at its end, and print a traceback
    leave(code)


def leave(code):
    """Exit; at once where several processes worked together.

    gloo's threads outlive DistributedDataParallel. Where one of them still lets go of a tensor
    while the interpreter ends, the process aborts with "terminate called without an active
    exception" (pytorch #179291), seen once on a crowded machine.
    """
    if getattr(sys.modules.get("processes"), "joined", False):
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def drop_output():
    """Let what is still to be printed go nowhere: its reader has gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text):
    """Control characters, as a file name may hold them, as Python writes them; lines stay."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in text
    )


def explain(error):
    """The line that a person sees of an error that is no bug; None for a bug."""
    text = str(error)
    if is_out_of_memory(error):
        return out_of_memory(text)
    if isinstance(error, (ValueError, OSError)):
        return text
    if re.search(r"\(os error \d+\)", text):  # polars' own kinds of exception around the system's
        return text
    return None


def out_of_memory(text):
    asked = re.search(r"to allocate ([\d.]+ \w+)", text)
    what = f"{asked[1]} could not be had at once" if asked else "the system gave no more"
    return (
        f"out of memory: {what}; close other programs, or use a machine with more memory; "
        "where the script has --batch-size, a smaller one needs less"
    )


def is_out_of_memory(error):
    """True for MemoryError and its kinds in NumPy and pyarrow, and for torch's RuntimeErrors."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)) is not None


def device(name):
    """ "auto", "cpu", "cuda:1" ... -> torch.device; ValueError where this machine has no such
    device."""
    import torch

    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        chosen = torch.device(name)
        if (
            name != "cuda" or not torch.cuda.is_available()
        ):  # each of several processes takes a GPU of its own, later
            torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} is not to be had here ({str(error).splitlines()[0]}); "
            "expected auto, cpu, cuda, cuda:N or mps"
        ) from None
    if chosen.type == "cuda":
        # float32 is float32 in every script: TF32 would move features by 1e-3; bfloat16 does not
        # mind
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


def seed_everything(seed):
    """Seed Python, NumPy and torch on every device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that draw from the global state)
    torch.manual_seed(seed)


def progress(iterable=None, **options):
    """A progress bar with its remaining time on a terminal; silent where stderr is a file, so that
    logs stay legible."""
    return tqdm(iterable, **{"disable": None, "dynamic_ncols": True, "leave": False, **options})


@contextlib.contextmanager
def timed(seconds, name):
    """Write how long the block took into the dict `seconds`."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)


def print_table(frame, title=None):
    """Print a pandas table: text to the left, numbers to the right, missing values empty."""
    if title:
        print(f"\n{title}")
    aligned = frame.copy()
    for name in frame.columns:
        if frame[name].map(lambda value: isinstance(value, str)).all():
            width = max(len(name), frame[name].str.len().max())
            aligned[name] = frame[name].str.ljust(width)
            aligned = aligned.rename(columns={name: name.ljust(width)})
    print(aligned.to_string(index=False, na_rep=""))
