"""Time commands on a quiet machine and beside a process that keeps a core busy.

    # training, extraction and scoring of handwritten digits
    python benchmarks/beside.py
    python benchmarks/beside.py --repeats 1 "python main.py --output-dir {folder}/{run}"
    python benchmarks/beside.py --ways "" OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

A command is one text; {folder} is a temporary folder that all commands share, {run} is another
number at every run. Each command runs once to warm up, in order, so that a later one finds what an
earlier one wrote. Then every repeat runs each command by every way, quiet and beside. A way is a
list of variables for the environment: "" is how the scripts wait by themselves,
GOMP_SPINCOUNT=300000 how GNU's OpenMP library does without a watch (threads.py).

The neighbour is a Python process with an endless loop; --neighbours starts several. Prints and
writes results/benchmarks/beside.csv: medians of the seconds quiet and beside, and of the
processor's seconds in both; `others` is the share of a core that further processes took in the
quiet runs (Linux only): where it is not near 0, the machine was not quiet. The ratio of beside to
quiet stands last."""

import contextlib
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

import cli
import console
import utils
from artifacts import records, store

ROOT = Path(__file__).resolve().parents[1]
STEM = "resnet_cifar_final_digits_s0"
COMMANDS = (
    "python train.py --dataset digits --model resnet_cifar --mode collapse --epochs 10 --force"
    " --output-dir {folder}",
    f"python run_networks.py --checkpoint {{folder}}/{STEM}.pth --force --output-dir {{folder}}",
    f"python ood_methods.py --checkpoint {{folder}}/{STEM}.pth --replace --output-dir {{folder}}",
)
WAYS = ("", "GOMP_SPINCOUNT=300000", "OMP_NUM_THREADS=1")
NEIGHBOUR = "while True: pass"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # of /proc/stat, a second
IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help="commands to time")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=list(WAYS),
        metavar="VARIABLES",
        help="environments to compare, such as 'OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive'",
    )
    parser.add_argument("--repeats", type=cli.positive, default=3, help="runs of each kind")
    parser.add_argument("--neighbours", type=cli.positive, default=1, help="busy processes")
    cli.add_flags(parser, "output-dir")
    return parser.parse_args(argv)


def variables(way):
    """ "A=1 B=2" -> {"A": "1", "B": "2"}; ValueError where a word is no NAME=VALUE."""
    words = shlex.split(way)
    for word in words:
        if "=" not in word:
            raise ValueError(f"--ways {way!r}: expected NAME=VALUE, found {word!r}")
    return dict(word.split("=", 1) for word in words)


@contextlib.contextmanager
def neighbours(count):
    """A block beside so many busy processes."""
    started = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def busy_seconds():
    """Seconds of processor that all processes of this machine have had; None where Linux does not
    tell."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    numbers = [int(word) for word in path.read_text().split("\n")[0].split()[1:9]]
    return sum(number for column, number in enumerate(numbers) if column not in IDLE) / TICKS


def run(command, environment):
    """One run -> its seconds by the clock, those of the processor, and the share of a core that
    other processes took; ValueError where it fails."""
    before, busy = resource.getrusage(resource.RUSAGE_CHILDREN), busy_seconds()
    start = time.perf_counter()
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"{command} ended with code {done.returncode}: {last}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    others = None
    if busy is not None:
        others = max(0.0, busy_seconds() - busy - processor) / seconds
    return {"seconds": seconds, "processor": processor, "others": others}


def measure(commands, ways, repeats, count, folder):
    """One row per run: command, way, whether beside neighbours, and what `run` measured."""
    number, rows = 0, []
    plan = [(command, way, beside) for command in commands for way in ways for beside in (0, 1)]
    for command in commands:
        run(command.format(folder=folder, run="warm"), {})
    for _ in console.progress(range(repeats)):
        for command, way, beside in plan:
            number += 1
            with neighbours(count * beside):
                found = run(command.format(folder=folder, run=number), variables(way))
            rows.append({"command": command, "way": way, "beside": beside, **found})
    return pd.DataFrame(rows)


def summary(runs):
    """The runs -> one row per command and way, medians over the repeats, the ratio last."""
    rows = []
    for (command, way), group in runs.groupby(["command", "way"], sort=False):
        kinds = [group[group["beside"] == beside] for beside in (0, 1)]
        quiet, beside = (kind[["seconds", "processor", "others"]].median() for kind in kinds)
        rows.append(
            {
                "command": command,
                "way": way or "as it is",
                "quiet_seconds": round(quiet["seconds"], 2),
                "beside_seconds": round(beside["seconds"], 2),
                "quiet_processor": round(quiet["processor"], 2),
                "beside_processor": round(beside["processor"], 2),
                "others": round(quiet["others"], 2),
                "ratio": round(beside["seconds"] / quiet["seconds"], 2),
            }
        )
    return pd.DataFrame(rows)


def main(argv=None):
    args = parse_args(argv)
    for way in args.ways:
        variables(way)
    path = utils.writable_folder(Path(args.output_dir) / "benchmarks") / "beside.csv"
    sidecar = {**records.provenance(cli.material(args)), "machine": machine.facts()}
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(args.commands, args.ways, args.repeats, args.neighbours, folder)
    table = summary(runs)
    store.write_table(path, table, sidecar)
    shown = table.assign(command=table["command"].str.slice(0, 40))
    console.print_table(
        shown,
        f"beside {args.neighbours} busy process(es); {machine.processor()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f}, medians of {args.repeats}",
    )
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    cli.run(main)
