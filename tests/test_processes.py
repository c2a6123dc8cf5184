"""processes.py: two real processes by torchrun and by srun's environment, and nothing at all in a
single one."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers import clean, fork, launch

import processes as processes_module

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import json, sys, warnings
import torch
import cli, processes

def listed(rows):
    return rows is not None and rows.tolist()

def main():
    with processes.join("cpu") as world:
        print(f"rank {world.rank} speaks")
        warnings.warn(f"rank {world.rank} warns")
        rows = torch.arange(7 * 3, dtype=torch.float32).view(7, 3)
        order = []
        with world.together(first_ahead=True):
            order.append(world.rank)
        found = {
            "place": [world.rank, world.size, str(world.device), world.first,
                      torch.get_num_threads()],
            "shard": [world.shard(7).start, world.shard(7).stop],
            "sum": world.all_reduce(torch.tensor([1.0, world.rank])).tolist(),
            "any": [world.any_rank(world.rank == 1), world.any_rank(False), world.any_rank(True)],
            "share": world.broadcast_object({"of": world.rank}),
            "collect": world.gather_objects(("rank", world.rank)),
            "gather": listed(world.gather(rows[world.shard(7)])),
            "gather_one": listed(world.gather(rows[:1] if world.first else None)),
            "gather_none": world.gather(None)}
        processes.CHUNK = 12  # one row a message
        found["gather_pieces"] = listed(world.gather(rows[world.shard(7)]))
        world.barrier()
        open(f"{sys.argv[1]}/{world.rank}.json", "w").write(json.dumps(found))
    assert not torch.distributed.is_initialized()

cli.run(main)
"""
FAILURE = """
import sys
import cli, processes

def main():
    with processes.join("cpu") as world:
        where, who = sys.argv[1], world.rank in map(int, sys.argv[2])
        if where == "together":
            with world.together():
                if who:
                    raise ValueError("no such thing")
            print("went on")
        elif where == "ahead":
            with world.together(first_ahead=True):
                if who:
                    raise ValueError("no such thing")
            print("went on")
        elif where == "alone" and who:
            raise ValueError("no such thing")
        world.barrier()

cli.run(main)
"""


def write(path, text):
    path.write_text(text)
    return path


def check(folder, threads=1):
    """What the two ranks of PROBE found."""
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    rows = torch.arange(21.0).view(7, 3).tolist()
    assert first["place"] == [0, 2, "cpu", True, threads] and second["place"] == [
        1,
        2,
        "cpu",
        False,
        threads,
    ]
    assert (first["shard"], second["shard"]) == ([0, 4], [4, 7])
    for found in (first, second):
        assert (
            found["sum"] == [2.0, 1.0]
            and found["any"] == [True, False, True]
            and found["share"] == {"of": 0}
        )
    assert first["collect"] == [["rank", 0], ["rank", 1]] and second["collect"] is None
    assert first["gather"] == first["gather_pieces"] == rows and first["gather_one"] == rows[:1]
    assert first["gather_none"] is None and not any(
        second[name] for name in second if name.startswith("gather")
    )


# ---- two processes -------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_by_torchrun(tmp_path):
    done = launch(write(tmp_path / "probe.py", PROBE), tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path)
    assert done.stdout == "rank 0 speaks\n"
    assert "rank 0 warns" in done.stderr and "rank 1 warns" not in done.stderr


@pytest.mark.slow
def test_two_processes_by_the_environment_of_srun(tmp_path):
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "3",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    ranks = [step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)]
    assert fork([(tmp_path, write(tmp_path / "probe.py", PROBE), [tmp_path], *ranks)]) == [[0, 0]]
    check(tmp_path)
    assert [(tmp_path / f"{rank}.out").read_text() for rank in (0, 1)] == ["rank 0 speaks\n", ""]


@pytest.mark.slow
def test_ranks_fail_together_with_one_message(tmp_path):
    script, runs = write(tmp_path / "failure.py", FAILURE), []
    for number, words in enumerate(
        [("together", "1"), ("ahead", "0"), ("alone", "1"), ("alone", "01")]
    ):
        address = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(20000 + os.getpid() % 2000 * 6 + number),
        }
        runs.append(
            (
                tmp_path / "-".join(words),
                script,
                words,
                *(address | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)),
            )
        )
    codes = fork(runs)
    for (folder, *_), found in zip(runs, codes, strict=True):
        lines = [line for rank in (0, 1) for line in (folder / f"{rank}.err").open()]
        # on a busy machine gloo adds that the other rank is gone before they were connected
        said = "".join(line for line in lines if "ProcessGroupGloo" not in line)
        assert said == "error: no such thing\n" and sorted(found) == [0, 2], folder.name
        assert not any((folder / f"{rank}.out").read_text() for rank in (0, 1))
    assert len(codes) == 4


@pytest.mark.slow
def test_torchrun_fails_where_one_rank_does(tmp_path):
    done = launch(write(tmp_path / "failure.py", FAILURE), "alone", "1")
    assert done.returncode != 0 and done.stderr.count("error: no such thing") == 1


# ---- one process ---------------------------------------------------------------------------------


def test_a_process_that_is_alone_does_nothing(monkeypatch, capsys):
    for name in [name for name in os.environ if name not in clean()]:
        monkeypatch.delenv(name)
    rows, threads = torch.ones(3, 2), torch.get_num_threads()
    with processes_module.join(torch.device("cpu")) as world:
        assert not torch.distributed.is_initialized() and torch.get_num_threads() == threads
        assert world == processes_module.World(0, 1, torch.device("cpu")) and world.first
        assert (
            world.shard(5) == slice(0, 5)
            and world.all_reduce(rows) is rows
            and world.gather(rows) is rows
        )
        assert rows.tolist() == [[1, 1]] * 3 and world.gather(None) is None
        assert (
            world.any_rank(True) is True and world.any_rank(0) is False and world.barrier() is None
        )
        assert world.broadcast_object(rows) is rows and world.gather_objects("a") == ["a"]
        with world.together(first_ahead=True):
            print("printed")
        with pytest.raises(KeyError, match="as it is"), world.together():
            raise KeyError("as it is")
    assert capsys.readouterr().out == "printed\n"


def test_an_error_of_a_process_that_is_alone_comes_through(monkeypatch):
    for name in [name for name in os.environ if name not in clean()]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="as it is"), processes_module.join("cpu"):
        raise ValueError("as it is")


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 8, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_are_those_of_tensor_split(count, size):
    expected = [part.tolist() for part in torch.arange(count).tensor_split(size)]
    found = [
        list(range(count))[processes_module.World(rank, size, torch.device("cpu")).shard(count)]
        for rank in range(size)
    ]
    assert found == expected


# ---- the environment -----------------------------------------------------------------------------

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[08-09]",
}
BATCH = {
    "SLURM_JOB_ID": "1234",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "4",
    "SLURM_JOB_NODELIST": "node[08-09]",
}


def test_the_environment_of_torchrun():
    assert processes_module.find_place(TORCHRUN) == processes_module.Place(
        5, 8, 1, 4, "node7", 29400
    )


def test_the_environment_of_srun():
    place = processes_module.find_place(SRUN)
    assert place == processes_module.Place(3, 4, 1, 2, "node08", 20000 + (1234 * 7 + 2) % 12000)
    own = SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "5000", "SLURM_GPUS_PER_TASK": "1"}
    assert processes_module.find_place(own) == processes_module.Place(
        3, 4, 1, 2, "head", 5000, own_gpu=True
    )


def test_torchrun_within_a_slurm_step_goes_by_torchrun():
    assert processes_module.find_place(SRUN | TORCHRUN) == processes_module.find_place(TORCHRUN)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH,
        BATCH | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"},
        {"MASTER_ADDR": "node7", "MASTER_PORT": "29400"},
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
    ],
)
def test_a_process_that_was_not_launched_with_others_is_alone(environment):
    assert processes_module.find_place(environment) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("a1,b2", "a1"),
        ("node[01-03]", "node01"),
        ("node[07,09-12],login1", "node07"),
        ("node[3,5]", "node3"),
        ("rack[1-2]-gpu[03-04],x", "rack1-gpu03"),
        ("n-1.cluster,n-2.cluster", "n-1.cluster"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, host):
    assert processes_module.first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 but no RANK and no LOCAL_RANK and no MASTER_ADDR"),
        ({"RANK": "0"}, "RANK=0 but no WORLD_SIZE"),
        (
            {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"},
            "no LOCAL_RANK; start with: torchrun",
        ),
        (TORCHRUN | {"RANK": "8"}, "rank 8 of 8"),
        (TORCHRUN | {"RANK": "1", "WORLD_SIZE": "1"}, "rank 1 of 1"),
        (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE=many; expected a whole number"),
        (SRUN | {"SLURM_PROCID": "4"}, "rank 4 of 4"),
        (
            {name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"},
            "SLURM_LOCALID=; expected a whole number",
        ),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        processes_module.find_place(environment)


@pytest.mark.parametrize(
    ("device", "own_gpu", "gpus", "expected"),
    [
        ("cuda", False, 4, "cuda:3"),
        ("cuda", True, 1, "cuda:0"),
        ("cuda", True, 4, "cuda:3"),
        ("cpu", False, 0, "cpu"),
        ("cuda", False, 2, "4 processes on this machine and 2 GPUs"),
        ("cuda", False, 1, "and 1 GPU;"),
        ("cuda:1", False, 4, "one GPU; give --device cuda"),
        ("mps", False, 0, "cannot work together on --device mps"),
    ],
)
def test_each_rank_has_a_device_of_its_own(monkeypatch, device, own_gpu, gpus, expected):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = processes_module.Place(7, 8, 3, 4, "localhost", 29400, own_gpu)
    if " " in expected:
        with pytest.raises(ValueError, match=expected):
            processes_module.own_device(torch.device(device), place)
    else:
        assert str(processes_module.own_device(torch.device(device), place)) == expected
        assert [f"cuda:{index}" for index in chosen] == ([expected] if device == "cuda" else [])


@pytest.mark.parametrize(
    ("given", "bound", "local_size", "expected"),
    [
        (None, False, 2, 4),
        (None, False, 3, 2),
        (None, False, 100, 1),
        (None, False, 1, None),
        (None, True, 2, None),
        ("8", False, 2, None),
    ],
)
def test_ranks_of_one_machine_share_its_cores(monkeypatch, given, bound, local_size, expected):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(4 if bound else 8)), raising=False
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    processes_module.share_cores(
        processes_module.Place(0, local_size, 0, local_size, "localhost", 29400)
    )
    assert chosen == ([] if expected is None else [expected])
