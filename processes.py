"""Several processes as one: set-up, shards and gathers of torch.distributed. Does nothing in a
single process.

    # python x.py, or torchrun --nproc-per-node 2 x.py, or srun --ntasks 2 python x.py
    with processes.join(device) as world:
        rows = world.gather(work(images[world.shard(len(images))]))
        if world.first:
            write(rows)

The rank and size come from the environment variables that torchrun sets, or a Slurm step of several
tasks. A script that runs on its own or directly in a batch job finds neither, and is a single
process. Tensors are reduced on the device that they are on: by gloo on a CPU, by NCCL on a GPU.
"""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

CONNECT = timedelta(minutes=10)  # nodes of one job may start some minutes apart
# The first rank may load, measure or write for a long time while the others wait.
PATIENCE = timedelta(hours=1)
ANSWER = 5.0  # seconds in which ranks that live say so when contact is lost
CHUNK = 1 << 26  # largest message in bytes when rows are gathered
PORTS = range(20000, 32000)  # no common services, and below the ports that Linux assigns by itself

# True once join() has connected several processes; cli.run then exits at once.
joined = False


class Elsewhere(SystemExit):
    """Exit silently: another rank reports the error and sets the exit code."""


@dataclass(frozen=True)
class World:
    """This process among the `size` that work together: its rank, counted from 0, and its
    device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True if this is the rank that writes and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This rank's slice of `count` items.

        Slices are in the order of ranks, and their lengths differ by at most one.
        """
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor on every rank by the sum over all ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor on every rank by that of the first rank, in place."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def broadcast_object(self, content: T | None) -> T:
        """Return the first rank's `content` on every rank; what others pass is ignored. It must be
        picklable."""
        box: list = [content]
        if self.size > 1:
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any_rank(self, flag: bool) -> bool:
        """True on every rank if the flag is set on any of them."""
        found = torch.tensor(int(bool(flag)))
        if self.size > 1:
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def barrier(self) -> None:
        """Barrier."""
        self.any_rank(False)

    def gather_objects(self, content: T) -> list[T] | None:
        """A list of every rank's `content` on the first rank, None on the others.

        `content` must be picklable.
        """
        if self.size == 1:
            return [content]
        found: list | None = [None] * self.size if self.first else None
        distributed.gather_object(content, found, dst=0)
        return found

    def gather(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """All ranks' rows (N, ...) in the order of ranks on the first rank, None on the others.

        `rows` (n, ...) is a CPU tensor, or None for no rows. If any rank has rows, the first one
        must have some.
        """
        if self.size == 1:
            return rows
        lengths = self.gather_objects(0 if rows is None else len(rows))
        if lengths is None:
            send(rows)
            return None
        if rows is None:
            assert not any(lengths), (
                "shards are in order: where any rank has rows, the first one does"
            )
            return None
        whole = rows.new_empty((sum(lengths), *rows.shape[1:]))
        own, *others = whole.split(lengths)
        own.copy_(rows)
        for rank, part in enumerate(others, start=1):
            receive(part, rank)
        return whole

    @contextlib.contextmanager
    def together(self, first_ahead: bool = False) -> Iterator[None]:
        """A block that either every rank finishes or none: if one raises, the others raise
        Elsewhere.

        With first_ahead, the other ranks enter once the first one is through, for instance because
        it downloads what they then find. No rank may wait for another within the block.
        """
        if first_ahead and not self.first and self.any_rank(False):
            raise Elsewhere
        error = None
        try:
            yield
        except Exception as found:
            error = found
        if first_ahead and self.first:
            self.any_rank(error is not None)  # lets the other ranks in, or makes them leave
            if error is not None:
                raise error
        failed = self.any_rank(error is not None)
        if error is not None:
            raise error
        if failed:
            raise Elsewhere


def send(rows: torch.Tensor | None) -> None:
    """Send rows to the first rank."""
    for piece in messages(rows):
        distributed.send(piece, dst=0)


def receive(rows: torch.Tensor, rank: int) -> None:
    """Fill `rows` with those that a rank sends."""
    for piece in messages(rows):
        distributed.recv(piece, src=rank)


def messages(rows: torch.Tensor | None) -> Sequence[torch.Tensor]:
    """Views of the rows (n, ...), each at most CHUNK bytes large; none for no rows."""
    if rows is None or not len(rows):
        return ()
    bytes_per_row = rows[0].numel() * rows.element_size()
    rows_per_message = max(1, CHUNK // max(1, bytes_per_row))
    return rows.contiguous().split(rows_per_message)


# ---- joining and leaving -------------------------------------------------------------------------


@contextlib.contextmanager
def join(device: torch.device | str, advice: str = "run the same again") -> Iterator[World]:
    """Yield the World of all processes that were launched together; of one in a single process.

    "cuda" without an index becomes this rank's own GPU. Ranks other than the first print no output
    and no warnings. If ranks leave by an exception, one of them raises it and the others exit
    silently. ValueError if the environment contradicts itself, no rank answers at the first one's
    address, or ranks would share a GPU; if a rank is lost, with `advice` on how to go on.
    """
    device, place = torch.device(device), find_place(os.environ)
    if place is None:
        yield World(0, 1, device)
        return
    global joined
    joined = True
    store = connect(place)
    try:
        device = own_device(device, place)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=PATIENCE,
        )
        world = World(place.rank, place.size, device)
        with quiet(not world.first):
            yield world
            # the first rank may hold the store, so no rank leaves before the last one is done
            world.barrier()
    except (Exception, KeyboardInterrupt) as error:
        if not reports_error(store, place):
            raise Elsewhere from None
        if is_lost_contact(error):
            lost = named(missing_ranks(store, place))
            raise ValueError(
                f"{lost} of {place.size} was killed, most likely because memory ran out"
                " (the log of the job, or of the kernel, then says oom-kill): give each rank more,"
                " such as with --mem-per-cpu, or start fewer of them, or take a smaller"
                f" --batch-size; {advice}: what was saved is kept"
            ) from None
        raise
    finally:
        # After an exception NCCL may wait for a rank that no longer answers, so it stays open until
        # the process ends.
        if distributed.is_initialized() and (device.type != "cuda" or sys.exc_info()[0] is None):
            distributed.destroy_process_group()


@contextlib.contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """A block without standard output and warnings if `silent`. Errors still reach standard
    error."""
    if not silent:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def reports_error(store: "distributed.Store", place: "Place") -> bool:
    """True if this rank is the first to fail, and so the one that reports the error.

    Where the first rank holds the store and was killed, nobody can be asked: rank 1 reports it."""
    try:
        store.set(failed_key(place.rank), "")
        return store.add("failed ranks", 1) == 1
    except RuntimeError:
        return place.rank == 1


def failed_key(rank: int) -> str:
    """Where a rank that failed by an exception, and so was not killed, leaves its word."""
    return f"rank {rank} failed"


def missing_ranks(store: "distributed.Store", place: "Place") -> list[int]:
    """The ranks that say nothing within ANSWER: those that were killed.

    The others fail too when contact is lost, and say so in the store."""
    others = [rank for rank in range(place.size) if rank != place.rank]
    end = time.monotonic() + ANSWER
    try:
        while others and time.monotonic() < end:
            others = [rank for rank in others if not store.check([failed_key(rank)])]
            time.sleep(0.1)
    except RuntimeError:  # the first rank held the store
        return [0]
    return others


def named(ranks: Sequence[int]) -> str:
    """ "rank 1", or "one of the ranks 0, 2" where several say nothing."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = ", ".join(map(str, ranks)) if ranks else "the others"
    return f"one of the ranks {shown}"


def is_lost_contact(error: BaseException) -> bool:
    """True if an exception means that another rank is gone, for instance because it was killed."""
    if isinstance(error, distributed.DistError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return re.search(r"gloo|Connection (closed|reset)", str(error)) is not None


def connect(place: "Place") -> "distributed.Store":
    """The key-value store through which the ranks meet; the first rank, or torchrun, holds it."""
    url = f"tcp://{place.address}:{place.port}?rank={place.rank}&world_size={place.size}"
    try:
        return next(distributed.rendezvous(url, timeout=CONNECT))[0]
    except RuntimeError as error:
        raise ValueError(
            f"rank {place.rank} of {place.size} cannot meet the others at"
            f" {place.address}:{place.port} ({str(error).splitlines()[0]}); set MASTER_ADDR to the"
            " first node and MASTER_PORT to a free port there"
        ) from None


def own_device(device: torch.device, place: "Place") -> torch.device:
    """This rank's device, which becomes the current one.

    ValueError if two ranks of a machine would share a GPU.
    """
    if device.type == "cpu":
        share_cores(place)
        return device
    if device.type != "cuda":
        raise ValueError(
            f"{place.size} processes cannot work together on --device {device}; expected cpu or"
            " cuda"
        )
    if device.index is not None:
        raise ValueError(
            f"--device {device} puts all {place.local_size} processes of a machine on one GPU; give"
            " --device cuda, which takes one each"
        )
    count = torch.cuda.device_count()
    index = 0 if count == 1 and place.own_gpu else place.local_rank
    if index >= count:
        raise ValueError(
            f"{place.local_size} processes on this machine and {count} GPU{'s' * (count != 1)};"
            f" start one a GPU: --nproc-per-node {count}, or --ntasks-per-node {count} with"
            " --gpus-per-task 1"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def share_cores(place: "Place") -> None:
    """Divide the cores among this machine's ranks, unless somebody has done so already.

    K ranks with one thread per core each would slow each other down. torchrun itself sets
    OMP_NUM_THREADS=1, and a Slurm task that is bound to its own cores sees no others.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    is_divided = "OMP_NUM_THREADS" in os.environ or cores != os.cpu_count()
    if not is_divided and place.local_size > 1:
        torch.set_num_threads(max(1, cores // place.local_size))


def count_here() -> int:
    """How many processes of this run there are on this machine."""
    place = find_place(os.environ)
    return place.local_size if place else 1


# ---- which process this is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The rank of this process among those launched with it, and the address where they meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    own_gpu: bool = False  # True if Slurm shows each task only its own GPU


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The Place that torchrun or a Slurm step of several tasks set in the environment.

    None for a single process.
    """
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        return torchrun_place(environment)
    # SLURM_NTASKS and SLURM_PROCID are also set in a batch script or an interactive allocation.
    # Only srun sets the number of tasks of a step.
    if "SLURM_PROCID" in environment and number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return slurm_place(environment)
    return None


def torchrun_place(environment: Mapping[str, str]) -> Place | None:
    """The Place that torchrun set, or None if it started a single process."""
    size = number(environment, "WORLD_SIZE", 1)
    needed = ["RANK", "WORLD_SIZE"]
    if size > 1:
        needed += ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        found = ", ".join(
            f"{name}={environment[name]}"
            for name in ("RANK", "WORLD_SIZE")
            if environment.get(name)
        )
        raise ValueError(
            f"the environment has {found} but no {' and no '.join(missing)}; start with: torchrun"
            " --nproc-per-node K SCRIPT, or unset them for a single process"
        )
    rank = number(environment, "RANK")
    if size == 1 and rank == 0:
        return None
    place = Place(
        rank=rank,
        size=size,
        local_rank=number(environment, "LOCAL_RANK"),
        local_size=number(environment, "LOCAL_WORLD_SIZE", 1),
        port=number(environment, "MASTER_PORT"),
        address=environment["MASTER_ADDR"],
    )
    check_place(place)
    return place


def slurm_place(environment: Mapping[str, str]) -> Place:
    """The Place of a task of a Slurm step."""
    size = number(environment, "SLURM_STEP_NUM_TASKS")
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")  # such as "4(x2),3"
    local_sizes = re.findall(r"(\d+)(?:\(x\d+\))?", tasks_per_node)
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    first = first_host(nodes) if nodes else "localhost"
    job = number(environment, "SLURM_JOB_ID", 0)
    step = number(environment, "SLURM_STEP_ID", 0)
    # Steps of one job may run side by side, so each gets a port of its own.
    port = PORTS[(job * 7 + step) % len(PORTS)]
    gpu_options = ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND")
    place = Place(
        rank=number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=number(environment, "SLURM_LOCALID"),
        local_size=max(map(int, local_sizes)),
        address=environment.get("MASTER_ADDR") or first,
        port=number(environment, "MASTER_PORT", port),
        own_gpu=any(environment.get(name) for name in gpu_options),
    )
    check_place(place)
    return place


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: "node[01-03,07],login1" -> "node01",
    "rack[1-2]-gpu[03-04]" -> "rack1-gpu03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first, f"no host in {nodes!r}"
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A whole number from the environment.

    ValueError if it is not a whole number, or is missing and has no default.
    """
    text = environment.get(name) or ""
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise ValueError(
            f"the environment has {name}={text}; expected a whole number, as torchrun and srun"
            " set it"
        )
    return int(text)


def check_place(place: Place) -> None:
    """ValueError if the numbers of a Place contradict each other."""
    is_possible = (
        place.rank < place.size
        and place.local_rank <= place.rank
        and place.local_size <= place.size
    )
    if not is_possible:
        raise ValueError(
            f"the environment contradicts itself: rank {place.rank} of {place.size},"
            f" {place.local_rank} of {place.local_size} on this machine; start with torchrun or"
            " srun, which set these themselves"
        )
