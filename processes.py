"""Several processes as one: torch.distributed's set-up, shards and gathers. Does nothing in a
process that is alone.

    with processes.join(device) as world:          # python x.py | torchrun --nproc-per-node 2
        x.py | srun --ntasks 2 python x.py
        rows = world.gather(work(images[world.shard(len(images))]))
        if world.first:
            write(rows)

Which process this is stands in the environment, as torchrun or a Slurm step of several tasks sets
it; a script in a batch job or on its own finds neither, and is alone. Tensors are reduced where
they lie: on a CPU by gloo, on a GPU by NCCL."""

import contextlib
import os
import re
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

CONNECT = timedelta(minutes=10)  # nodes of one job may start some minutes apart
# The first rank may load, measure or write for long while the others wait.
PATIENCE = timedelta(hours=1)
CHUNK = 1 << 26  # bytes of one message when rows are gathered
PORTS = range(20000, 32000)  # free of services, and below those that Linux hands out by itself

joined = False  # True from join() on where several processes work together: cli.run exits at once


class Elsewhere(SystemExit):
    """Exit silently: another rank reports the error and sets the exit code."""


@dataclass(frozen=True)
class World:
    """This process among the `size` that work together: its number from 0 on, and its own
    device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self):
        """True if this is the rank that writes and prints."""
        return self.rank == 0

    def shard(self, count):
        """This rank's slice of `count` things: in the order of ranks, lengths differ by at most
        one."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def all_reduce(self, tensor):
        """The sum of each rank's tensor, in place, on all ranks."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor):
        """The first rank's tensor, in place, on all ranks."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def broadcast_object(self, content):
        """What the first rank gives, on all ranks; anything that can be pickled."""
        box = [content]
        if self.size > 1:
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any_rank(self, flag):
        """True, on all ranks, if the flag is set on any."""
        found = torch.tensor(int(bool(flag)))
        if self.size > 1:
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def barrier(self):
        """Barrier."""
        self.any_rank(False)

    def gather_objects(self, content):
        """[what each rank gives] in the order of ranks on the first rank, None on the others;
        anything that can be pickled."""
        if self.size == 1:
            return [content]
        found = [None] * self.size if self.first else None
        distributed.gather_object(content, found, dst=0)
        return found

    def gather(self, rows):
        """Rows (n, ...) of each rank, a CPU tensor or None for no rows -> all of them (N, ...) in
        the order of ranks.

        On the first rank, which must have rows where any has; None on the others.
        """
        if self.size == 1:
            return rows
        lengths = self.gather_objects(0 if rows is None else len(rows))
        if not self.first:
            for part in parts(rows):
                distributed.send(part, dst=0)
            return None
        if rows is None:
            assert not any(lengths), (
                "shards are in order: where any rank has rows, the first one does"
            )
            return None
        whole = rows.new_empty((sum(lengths), *rows.shape[1:]))
        for rank, part in enumerate(whole.split(lengths)):
            if rank == 0:
                part.copy_(rows)
            for piece in parts(part) if rank else ():
                distributed.recv(piece, src=rank)
        return whole

    @contextlib.contextmanager
    def together(self, first_ahead=False):
        """A block that all ranks leave well, or that no rank does: where one raises, the others
        raise Elsewhere.

        first_ahead: the others enter once the first rank is through, as where it downloads what
        they then find. No rank may wait for another within the block."""
        if first_ahead and not self.first and self.any_rank(False):
            raise Elsewhere
        error = None
        try:
            yield
        except Exception as found:
            error = found
        if first_ahead and self.first and self.any_rank(error is not None):
            raise error
        failed = self.any_rank(error is not None)
        if error is not None:
            raise error
        if failed:
            raise Elsewhere


def parts(rows):
    """Rows (n, ...) or None -> views of them, none of which is larger than a message should be."""
    if rows is None or not len(rows):
        return ()
    return rows.contiguous().split(max(1, CHUNK // max(1, rows[0].numel() * rows.element_size())))


# ---- coming and going ----------------------------------------------------------------------------


@contextlib.contextmanager
def join(device):
    """Within the block the processes that were launched together are one World; alone, a World of
    one.

    "cuda" without an index becomes this rank's own GPU. Ranks but the first print nothing and warn
    of nothing. Where one rank or several leave by an exception, one of them raises it and the
    others exit silently. Raises ValueError where the environment contradicts itself, no rank
    answers at the first one's address, or ranks would share a GPU."""
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
            # the first rank may hold the store: nobody leaves before the last one is done
            world.barrier()
    except (Exception, KeyboardInterrupt) as error:
        if not says_it(store):
            raise Elsewhere from None
        if is_lost_contact(error):
            raise ValueError(
                f"rank {place.rank} of {place.size} lost another one, which was killed or has no"
                f" memory left ({str(error).splitlines()[0]}); run the same again: what was saved"
                " is kept"
            ) from None
        raise
    finally:
        # After an exception NCCL may wait for a rank that no longer answers; the end of the process
        # closes it then.
        if distributed.is_initialized() and (device.type != "cuda" or sys.exc_info()[0] is None):
            distributed.destroy_process_group()


@contextlib.contextmanager
def quiet(silent):
    """A block without standard output or warnings where `silent`; errors still reach standard
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


def says_it(store):
    """True if this rank is the first to fail, and so the one that says why."""
    try:
        return store.add("failed ranks", 1) == 1
    except (
        RuntimeError
    ):  # the rank that holds the store has left, which it does only after an error of its own
        return False


def is_lost_contact(error):
    """True if an exception says that another rank is gone, as where the system killed it."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and re.search(r"gloo|Connection (closed|reset)", str(error)) is not None
    )


def connect(place):
    """The key-value store that the ranks meet at; the first rank, or torchrun, holds it."""
    url = f"tcp://{place.address}:{place.port}?rank={place.rank}&world_size={place.size}"
    try:
        return next(distributed.rendezvous(url, timeout=CONNECT))[0]
    except RuntimeError as error:
        raise ValueError(
            f"rank {place.rank} of {place.size} cannot meet the others at"
            f" {place.address}:{place.port} ({str(error).splitlines()[0]}); set MASTER_ADDR to the"
            " first node and MASTER_PORT to a free port there"
        ) from None


def own_device(device, place):
    """This rank's device, chosen as the current one; ValueError where two ranks of a machine would
    share a GPU."""
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


def share_cores(place):
    """Divide the cores among this machine's ranks where nobody has: K ranks with all cores' threads
    each hold each other up.

    torchrun sets OMP_NUM_THREADS=1 itself; a Slurm task that is bound to its own cores sees no
    others."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if "OMP_NUM_THREADS" not in os.environ and place.local_size > 1 and cores == os.cpu_count():
        torch.set_num_threads(max(1, cores // place.local_size))


# ---- which process this is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where this process stands among those launched with it, and where they meet."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    own_gpu: bool = False  # whether Slurm shows every task its own GPU alone


def find_place(environment):
    """The environment of torchrun, or of a Slurm step with several tasks -> Place; None for a
    process that is alone."""
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        return torchrun_place(environment)
    # In a batch script or an interactive allocation SLURM_NTASKS and SLURM_PROCID stand too: only
    # srun counts a step's tasks.
    if "SLURM_PROCID" in environment and number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return slurm_place(environment)
    return None


def torchrun_place(environment):
    missing = [name for name in ("RANK", "WORLD_SIZE") if not environment.get(name)]
    size = number(environment, "WORLD_SIZE", 1)
    if size > 1:
        missing += [
            name
            for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
            if not environment.get(name)
        ]
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
    if size == 1 and number(environment, "RANK") == 0:
        return None
    rank, local_rank, local_size, port = (
        number(environment, name, default)
        for name, default in (
            ("RANK", None),
            ("LOCAL_RANK", None),
            ("LOCAL_WORLD_SIZE", 1),
            ("MASTER_PORT", None),
        )
    )
    return checked(Place(rank, size, local_rank, local_size, environment["MASTER_ADDR"], port))


def slurm_place(environment):
    size = number(environment, "SLURM_STEP_NUM_TASKS")
    # "4(x2),3"
    local_sizes = re.findall(
        r"(\d+)(?:\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    )
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    address = environment.get("MASTER_ADDR") or (first_host(nodes) if nodes else "localhost")
    job, step = number(environment, "SLURM_JOB_ID", 0), number(environment, "SLURM_STEP_ID", 0)
    # steps of one job may run side by side
    port = number(environment, "MASTER_PORT", PORTS[(job * 7 + step) % len(PORTS)])
    own_gpu = any(
        environment.get(name)
        for name in ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND")
    )
    return checked(
        Place(
            number(environment, "SLURM_PROCID"),
            size,
            number(environment, "SLURM_LOCALID"),
            max(map(int, local_sizes)),
            address,
            port,
            own_gpu,
        )
    )


def first_host(nodes):
    """The first host of a Slurm node list: "node[01-03,07],login1" -> "node01",
    "rack[1-2]-gpu[03-04]" -> "rack1-gpu03"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes).group()
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def number(environment, name, default=None):
    """A whole number of the environment; ValueError where it is none, or missing without a
    default."""
    text = environment.get(name) or ""
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise ValueError(
            f"the environment has {name}={text}; expected a whole number, as torchrun and srun"
            " set it"
        )
    return int(text)


def checked(place):
    if not (
        place.rank < place.size
        and place.local_rank <= place.rank
        and place.local_size <= place.size
    ):
        raise ValueError(
            f"the environment contradicts itself: rank {place.rank} of {place.size},"
            f" {place.local_rank} of {place.local_size} on this machine; start with torchrun or"
            " srun, which set these themselves"
        )
    return place
