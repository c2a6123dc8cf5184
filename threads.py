"""Threads that share an operation, on a machine that is shared too.

    with threads.considerate(device):
        ...  # training, or extraction, on a CPU

torch divides each operation among as many threads as there are cores (OpenMP), and those that are
done wait for the last. GNU's library, which torch brings on Linux, lets them spin 300,000 times
before they sleep: some milliseconds, while an operation of a small network takes a tenth of one. On
a quiet machine that is right: asleep, they would be woken too late for the next operation. Where
another process has one of the cores, the thread that all wait for takes turns with it, and those
that spin keep it from theirs.

So a watch looks every second at how much of the cores other processes take. Where that is more than
half a core, it leaves them as many cores as they take, and keeps all threads of this process to the
rest, where they take turns; and it adds a thread with a team of its own, which does nothing. By the
library's manual (GOMP_SPINCOUNT), threads spin 100 times alone where there are more of them than
cores. Both end when the cores that were left fall idle.

How threads wait, and where, changes no sum. Their number does: it decides how sums are divided, and
with that the last bits of a training. So it stays as it is, and a run records it.

What was tried instead, on two cores (resnet_cifar, batches of 124 digits, medians of ms a step): a
fixed GOMP_SPINCOUNT. Quiet, 300,000 took 132, 10,000 took 130, 1,000 took 167 and sleeping at once
189; beside a busy process they took 389, 326, 274 and 224. One thread took 186 and 201."""

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

INTERVAL = 1.0  # seconds between two looks
CROWDED = 0.5  # cores that other processes take
QUIET = 0.5  # share of the cores left to them that is idle
# Each says how threads wait, so that nothing is left to decide.
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")
TICKS = 100  # of STAT in a second, on every Linux that torch runs on
ENOUGH = 1 << 20  # elements that torch divides among all of its threads


# ---- how much others take ------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Seconds until one moment: by the clock, of this process, and of each core in use and idle."""

    clock: float
    own: float
    used: dict[int, float]
    idle: dict[int, float]

    @classmethod
    def now(cls) -> "Look":
        """What Linux has counted until now."""
        used, idle = {}, {}
        for line in STAT.read_text().splitlines():
            name, *words = line.split()
            if not name.removeprefix("cpu").isdecimal():
                continue
            # user, nice, system, idle, waiting for a disk, interrupts, soft interrupts
            ticks = [int(word) for word in words[:7]]
            core = int(name.removeprefix("cpu"))
            idle[core] = (ticks[3] + ticks[4]) / TICKS
            used[core] = sum(ticks) / TICKS - idle[core]
        return cls(time.monotonic(), time.process_time(), used, idle)


def taken(before: Look, now: Look, cores: Iterable[int]) -> float:
    """How many of these cores other processes took between two looks."""
    used = sum(now.used[core] - before.used[core] for core in cores)
    others = used - (now.own - before.own)
    return max(0.0, others) / (now.clock - before.clock)


def idle(before: Look, now: Look, cores: Iterable[int]) -> float:
    """How many of these cores were idle between two looks."""
    seconds = sum(now.idle[core] - before.idle[core] for core in cores)
    return seconds / (now.clock - before.clock)


# ---- what is done about it -----------------------------------------------------------------------


class Team:
    """A thread whose OpenMP team is asleep until `dismiss`."""

    def __init__(self) -> None:
        self.is_there, self.is_over = threading.Event(), threading.Event()
        self.leader = threading.Thread(target=self.lead, daemon=True)
        self.leader.start()
        self.is_there.wait()

    def lead(self) -> None:
        """Bring the team to life by one operation, and keep it until it is dismissed."""
        torch.zeros(ENOUGH).add_(1)
        self.is_there.set()
        self.is_over.wait()

    def dismiss(self) -> None:
        """End the thread, and with it the team."""
        self.is_over.set()
        self.leader.join()


def keep_to(cores: Iterable[int]) -> None:
    """Let all threads of this process run on these cores only."""
    for name in os.listdir(TASKS):
        with contextlib.suppress(ProcessLookupError):  # the thread has ended
            os.sched_setaffinity(int(name), cores)


class Watch:
    """Gives way as long as the machine is crowded."""

    def __init__(self) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self.left: list[int] = []  # cores that are left to others
        self.team: Team | None = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        # Not the generator that a training seeds. Two processes that gave way to each other on the
        # same core draw again.
        self.draw = random.SystemRandom()

    def watch(self) -> None:
        """Look at every INTERVAL until the block ends."""
        before = Look.now()
        while not self.is_over.wait(INTERVAL):
            now = Look.now()
            self.decide(before, now)
            before = now
        if self.left:
            self.take_back()

    def decide(self, before: Look, now: Look) -> None:
        """Give way, or take the cores back, by what happened between two looks."""
        if self.left:
            if idle(before, now, self.left) > QUIET * len(self.left):
                self.take_back()
            return
        others = taken(before, now, self.cores)
        if others > CROWDED:
            self.give_way(round(others))

    def give_way(self, count: int) -> None:
        """Leave so many cores to others, one at least, and keep one at least."""
        count = min(max(1, count), len(self.cores) - 1)
        self.left = self.draw.sample(self.cores, count)
        self.team = Team()
        keep_to([core for core in self.cores if core not in self.left])

    def take_back(self) -> None:
        """Use all cores again."""
        assert self.team, "it comes with the cores that were left"
        keep_to(self.cores)
        self.team.dismiss()
        self.left, self.team = [], None

    def end(self) -> None:
        """Stop looking, with all cores."""
        self.is_over.set()
        self.thread.join()


@contextlib.contextmanager
def considerate(device: torch.device) -> Iterator[None]:
    """A block in which this process gives way on a crowded machine.

    Nothing is done where it could not help: where a GPU computes, where the system does not tell
    how busy its cores are, or there is one thread, or fewer than cores, or a person has chosen how
    they wait."""
    if not is_worth_it(device):
        yield
        return
    watch = Watch()
    watch.thread.start()
    try:
        yield
    finally:
        watch.end()


def is_worth_it(device: torch.device) -> bool:
    """True where a watch could help."""
    if device.type != "cpu" or sys.platform != "linux" or not STAT.exists():
        return False
    if any(name in os.environ for name in CHOICES):
        return False
    count = torch.get_num_threads()
    return count > 1 and count >= len(os.sched_getaffinity(0)) > 1
