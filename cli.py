"""The command line that all scripts share: flags, device, seed, progress, printed tables and clean
errors.

FLAGS holds the flags that have one meaning in every script. A script names the ones that it takes
and adds its own. Only the functions that need torch import it, so that the scorers start in about a
second.
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
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import console
from images import lists
from utils import VECTOR_FORMATS, SetName

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
ExitCode = int | str | None  # as sys.exit takes it


def path(text: str) -> str:
    """argparse type: a path, taken literally except for a leading ~.

    ArgumentTypeError for a name that no file can have, and for symbolic links that form a circle.
    """
    if not text:
        raise ArgumentTypeError("expected a path, found an empty text")
    if "\0" in text:
        raise ArgumentTypeError(f"{text!r} holds the character NUL, which no path can")
    expanded = os.path.expanduser(text)
    if expanded.startswith("-"):  # main.py passes it on, and a script would take it for a flag
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


def data_set(text: str) -> SetName:
    """argparse type: NAME, NAME=FOLDER or NAME=LIST.txt@ROOT -> SetName; each path is a `path`."""
    name, _, folder = text.partition("=")
    try:
        if divided := lists.parts(folder):
            file, root = divided
            # What an empty root lacks is said where the list is read.
            return SetName.parse(f"{name}={path(file)}@{path(root) if root else root}")
        return SetName.parse(f"{name}={path(folder)}" if folder else text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value


def not_negative(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
    return value


def finite(text: str) -> float:
    """argparse type: a number, neither NaN nor infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"expected a number, found {text}")
    return value


def above_zero(text: str) -> float:
    """argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def share(text: str) -> float:
    """argparse type: a number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"expected a number above 0 and at most 1, found {text}")
    return value


class Channels(argparse.Action):
    """argparse action: one number for all three channels, or one for each."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[float] | None,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(values, list), "a flag with this action has nargs"
        if len(values) not in (1, 3):
            parser.error(
                f"{option_string}: expected one number, or three for red, green and blue; found"
                f" {len(values)}"
            )
        setattr(namespace, self.dest, tuple(values) * (3 // len(values)))


def part_of_a_name(text: str) -> str:
    """argparse type: a text that can be part of a file name, and cannot lead to another folder."""
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


# Options of argparse's add_argument by flag.
FLAGS: dict[str, dict[str, Any]] = {
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
            "of images, or one image, or NAME=LIST.txt@ROOT for a list of images below ROOT"
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
        type=path, default="datasets", help="folder of the data sets, and of downloads"
    ),
    "output-dir": dict(type=path, default="results", help="folder for everything that is written"),
    "image-size": dict(
        type=positive,
        metavar="S",
        help="side of each image in pixels; default: as the network was trained",
    ),
    "crop-share": dict(
        type=share,
        metavar="X",
        help=(
            "share of the shorter side that the centre crop keeps: an image size of 224 with 0.875"
            " first resizes to 256; default: as the network was trained, or 1"
        ),
    ),
    "interpolation": dict(
        type=str,
        help="interpolation when resizing; default: as the network was trained, or bilinear",
    ),
    "mean": dict(
        action=Channels,
        type=finite,
        nargs="+",
        metavar="M",
        help=(
            "mean to subtract from pixels in [0, 1]: one number, or one per channel; --mean 0"
            " --std 1 leaves pixels as they are; default: as the network was trained"
        ),
    ),
    "std": dict(
        action=Channels,
        type=above_zero,
        nargs="+",
        metavar="D",
        help="standard deviation to divide by after --mean: one number, or one per channel",
    ),
    "workers": dict(type=not_negative, metavar="N", help="processes that decode images"),
    "max-pixels": dict(
        type=int, metavar="N", help="refuse image files with more pixels before they are decoded"
    ),
    "skip-broken": dict(
        action="store_const",
        const=True,  # None without it: records of runs before this flag stay current
        help=(
            "leave out image files of folders and lists that are missing or cannot be read, say how"
            " many and which, and go on; without it such a file stops the run before any work"
        ),
    ),
    "pdf": dict(action="store_true", help="write each figure as PDF too, its text as text"),
    "svg": dict(action="store_true", help="write each figure as SVG too, its text as text"),
    "allow-stale": dict(
        action="store_true",
        help=(
            "accept files that were changed after they were written; everything made from them "
            "records it"
        ),
    ),
}
# Flags that do not affect results, so changing them does not invalidate a finished stage. A
# checkpoint is compared by its content, as every input is, and not by its path.
IMMATERIAL = {
    "checkpoint",
    "export_onnx",
    "device",
    "data_dir",
    "output_dir",
    "debug",
    "quiet",
    "force",
    "resume",
    "tensorboard",
    "workers",
    "cache",
    "max_pixels",
    "verify",
    "allow_stale",
    "pdf",
    "svg",
    "features_in",
}

INTERRUPTED = 130  # 128 + SIGINT
OUT_OF_MEMORY = (
    r"DefaultCPUAllocator|not enough memory|out of memory|bad_alloc|Cannot allocate memory"
)


def truth(text: str) -> bool:
    """argparse type: True or False, in any case of letters."""
    value = {"true": True, "false": False}.get(text.lower())
    if value is None:
        raise ArgumentTypeError(f"expected True, False, or nothing, found {text!r}")
    return value


class YesNo(argparse.BooleanOptionalAction):
    """--flag, --no-flag, or neither: None. True or False behind it means what it says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.nargs, self.const = "?", True
        self.type, self.metavar = truth, "True|False"

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        is_yes = not str(option_string).startswith("--no-")
        setattr(namespace, self.dest, is_yes == values)


class Switch(argparse.Action):
    """A flag that is on where it is given. True or False behind it means what it says."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options |= {"nargs": "?", "const": True, "type": truth, "metavar": "True|False"}
        super().__init__(*args, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, True if values else self.default)


class Parser(argparse.ArgumentParser):
    """argparse that shows defaults in the help, allows no abbreviations, and accepts --batch_size
    for --batch-size.

    `options` are those of argparse.ArgumentParser.
    """

    def __init__(self, description: str | None, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        quiet_help = "print no more than the last line, or answers, and warnings and errors"
        self.add_argument("--quiet", action="store_true", help=quiet_help)

    def parse_known_args(  # type: ignore[override]  # one signature for argparse's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if args is None:
            args = sys.argv[1:]
        words = [kebab_case(word) for word in args]
        for word in words:
            self.check_text(word)
        return super().parse_known_args(words, namespace)

    def check_text(self, word: str) -> None:
        """Refuse a word that is not UTF-8, because neither JSON nor CSV could hold it."""
        shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if shown != word:
            self.error(
                f"{shown} is not UTF-8; rename the file or folder, such as with: "
                f"convmv -f latin1 -t utf8 --notest $'{shown.rpartition('=')[2]}'"
            )

    def knows(self, flag: str) -> bool:
        """True if the parser accepts `flag`."""
        return flag in self._option_string_actions


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description, and shows each default except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def kebab_case(word: str) -> str:
    """Turn "--batch_size=8" into "--batch-size=8"; words that are not flags stay as they are."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def add_flags(parser: Parser, *names: str, **changes: dict[str, Any]) -> None:
    """Add shared flags by name.

    `changes`, such as mode={"default": "best"}, override options of a flag.
    """
    for name in names:
        own = changes.get(name.replace("-", "_"), {})
        parser.add_argument(f"--{name}", **{**FLAGS[name], **own})


def vector_formats(args: Any) -> list[str]:
    """The formats of figures that were asked for beside PNG."""
    return [form for form in VECTOR_FORMATS if getattr(args, form)]


def material(args: object) -> dict[str, Any]:
    """Namespace -> the dict of those arguments that change what a run makes, data sets as text."""
    return {name: as_text(value) for name, value in vars(args).items() if name not in IMMATERIAL}


def as_text(value: Any) -> Any:
    """A data set, or a list of them, as it was typed; any other value as it is."""
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return str(value) if isinstance(value, SetName) else value


def run(main: Callable[[], ExitCode], answers: bool = False) -> NoReturn:
    """Run a script's main and exit with its code; `answers` where what it prints are its results.

    A user's mistake, a full disk or too little memory becomes one line on stderr and exit code 2;
    --debug shows the traceback. Ctrl-C exits with 130, as shells expect. A bug keeps its traceback.
    """
    warnings.showwarning = print_warning
    gc.freeze()  # imported objects live to the end; freezing them saves 10% of the time of figures
    code: ExitCode
    is_quiet = "--quiet" in sys.argv
    say_less = console.quietly(answers) if is_quiet else contextlib.nullcontext()
    try:
        with say_less:
            code = main()
        sys.stdout.flush()  # a full disk behind `> log.txt` fails here, where it is handled
    except KeyboardInterrupt as stop:
        advice = str(stop) or "run the same command again to go on"
        print(f"interrupted: what was finished is kept; {advice}", file=sys.stderr)
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
        drop_output()  # otherwise the interpreter flushes again at its end and prints a traceback
    leave(code)


def print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """warnings.showwarning without the place in the code."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def leave(code: ExitCode) -> NoReturn:
    """Exit. If several processes worked together, skip the interpreter's own clean-up.

    gloo's threads outlive DistributedDataParallel. If one of them still releases a tensor while the
    interpreter ends, the process aborts with "terminate called without an active exception"
    (pytorch #179291). That was seen once, on a crowded machine.
    """
    if getattr(sys.modules.get("processes"), "joined", False):
        assert not isinstance(code, str), "no script exits with a text"
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def drop_output() -> None:
    """Discard further output, because its reader has gone or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """The text with control characters, which file names can hold, escaped as Python writes them.

    Line ends and tabs stay.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in text
    )


def explain(error: Exception) -> str | None:
    """The message to show for an error that is not a bug; None for a bug."""
    text = str(error)
    if is_out_of_memory(error):
        return out_of_memory(text)
    if isinstance(error, (ValueError, OSError)):
        return text
    if "DataLoader worker" in text:
        return lost_worker(text)
    if re.search(r"\(os error \d+\)", text):  # the system's error in an exception of polars
        return text
    return None


def lost_worker(text: str) -> str:
    """The message to show where a process that decodes images is gone."""
    return (
        f"a worker that decodes images was lost ({text.splitlines()[0]}): it was killed, or there"
        " is too little memory, or too little shared memory (/dev/shm), as containers have; give"
        " fewer --workers, or --workers 0, which needs none"
    )


def out_of_memory(text: str) -> str:
    """The message to show for an error of this text that came from too little memory."""
    what = "the system gave no more"
    if asked := re.search(r"to allocate ([\d.]+ \w+)", text):
        what = f"{asked[1]} could not be allocated at once"
    return (
        f"out of memory: {what}; close other programs, or use a machine with more memory; "
        "where the script has --batch-size, a smaller one needs less"
    )


def is_out_of_memory(error: Exception) -> bool:
    """True for MemoryError, its subclasses in NumPy and pyarrow, and torch's RuntimeErrors."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return re.search(OUT_OF_MEMORY, str(error)) is not None


def device(name: str) -> "torch.device":
    """The torch.device of "auto", "cpu", "cuda:1" ...

    ValueError if this machine has no such device.
    """
    import torch

    if name == "auto":
        name = best_device()
    try:
        chosen = torch.device(name)
        # With "cuda", each of several processes takes its own GPU later, so none is touched now.
        if name != "cuda" or not torch.cuda.is_available():
            torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} is not available here ({str(error).splitlines()[0]}); "
            "expected auto, cpu, cuda, cuda:N or mps"
        ) from None
    if chosen.type == "cuda":
        # float32 stays float32 in every script: TF32 would change features by 1e-3. bfloat16 is not
        # affected.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


def best_device() -> str:
    """The GPU if there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, and torch on every device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (some libraries draw from the global state)
    torch.manual_seed(seed)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Store the seconds that the block took as seconds[name]; a terminal shows what it is at."""
    start = time.perf_counter()
    with console.working(name):
        yield
    seconds[name] = round(time.perf_counter() - start, 3)
