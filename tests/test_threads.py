"""The watch over a crowded machine: what it counts, when it gives way and takes back, and that no
number of a training depends on it."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import threads

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how busy a core is")


class FakeTeam:
    def __init__(self):
        self.dismissed = False

    def dismiss(self):
        self.dismissed = True


def look(clock=0.0, own=0.0, used=(0.0, 0.0, 0.0, 0.0), idle=(0.0, 0.0, 0.0, 0.0)):
    return threads.Look(clock, own, dict(enumerate(used)), dict(enumerate(idle)))


def test_what_others_take_is_what_is_used_less_what_this_process_used():
    before = look(clock=10.0, own=3.0, used=(5.0, 5.0, 5.0, 5.0))
    now = look(clock=12.0, own=5.5, used=(7.0, 6.5, 5.25, 9.0))
    assert threads.taken(before, now, [0, 1]) == (2.0 + 1.5 - 2.5) / 2
    assert threads.taken(before, now, [2]) == 0, "a core of ours alone is not less than none"


def test_idle_cores_are_counted_by_the_clock():
    before, now = look(), look(clock=4.0, idle=(4.0, 1.0, 0.0, 3.0))
    assert threads.idle(before, now, [0, 1]) == 1.25


@ON_LINUX
def test_a_look_reads_each_core_and_none_of_their_sum(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  999 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 200 300 4000 500 60 7 900 0 0\n"  # the eighth: stolen by the host
        "cpu12 1 0 0 2 0 0 0 0 0 0\nintr 5 4 3\nctxt 7\n"
    )
    monkeypatch.setattr(threads, "STAT", stat)
    found = threads.Look.now()
    assert found.used == pytest.approx({0: 6.67, 12: 0.01})
    assert found.idle == pytest.approx({0: 45.0, 12: 0.02})


@pytest.fixture
def watch(monkeypatch):
    """A watch of four cores whose team and cores are only noted down, in `kept`."""
    monkeypatch.setattr(threads, "Team", FakeTeam)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    found = threads.Watch()
    found.kept = []
    monkeypatch.setattr(threads, "keep_to", lambda cores: found.kept.append(list(cores)))
    return found


@pytest.mark.parametrize(
    ("others", "left"), [(0.5, 0), (0.6, 1), (1.4, 1), (2.2, 2), (3.1, 3), (4.0, 3)]
)
def test_others_are_left_as_many_cores_as_they_take(watch, others, left):
    used = (others, 1.0, 0.0, 0.0)
    watch.decide(look(), look(clock=1.0, own=1.0, used=used))
    assert len(watch.left) == left and (watch.team is not None) == (left > 0)
    if left:
        assert sorted([*watch.left, *watch.kept[-1]]) == [0, 1, 2, 3]


def test_cores_that_fall_idle_are_taken_back(watch):
    watch.give_way(2)
    team, left = watch.team, watch.left
    half = [1.0 if core == left[0] else 0.0 for core in range(4)]
    watch.decide(look(), look(clock=1.0, used=(9.0, 9.0, 9.0, 9.0), idle=half))
    assert watch.left == left and not team.dismissed
    ours = [1.0 if core not in left else 0.0 for core in range(4)]
    watch.decide(look(), look(clock=1.0, idle=ours))
    assert watch.left == left, "idle cores that this process has are none that others left"
    most = [0.6 if core in left else 0.0 for core in range(4)]
    watch.decide(look(), look(clock=1.0, idle=most))
    assert watch.left == [] and watch.team is None and team.dismissed
    assert watch.kept[-1] == [0, 1, 2, 3]


def test_the_block_ends_with_all_cores_and_no_team(watch, monkeypatch):
    monkeypatch.setattr(threads, "is_worth_it", lambda device: True)
    monkeypatch.setattr(threads, "INTERVAL", 0.001)
    looks = (look(clock=number, used=(number, number, 0, 0)) for number in itertools.count())
    monkeypatch.setattr(threads.Look, "now", lambda: next(looks))
    monkeypatch.setattr(threads, "Watch", lambda: watch)
    with pytest.raises(KeyboardInterrupt), threads.considerate(CPU):
        while not watch.kept:
            time.sleep(0.001)
        team = watch.team
        raise KeyboardInterrupt
    assert watch.kept[-1] == [0, 1, 2, 3] and team.dismissed and not watch.thread.is_alive()


@ON_LINUX
def test_all_threads_are_kept_to_the_cores():
    cores = os.sched_getaffinity(0)
    is_over = threading.Event()
    other = threading.Thread(target=is_over.wait)
    other.start()
    try:
        threads.keep_to([min(cores)])
        found = [os.sched_getaffinity(thread.native_id) for thread in threading.enumerate()]
    finally:
        threads.keep_to(cores)
        is_over.set()
        other.join()
    assert len(found) >= 2 and all(mask == {min(cores)} for mask in found)
    assert os.sched_getaffinity(0) == cores


@ON_LINUX
@pytest.mark.parametrize(
    ("count", "cores", "chosen", "expected"),
    [
        (4, 4, None, True),
        (8, 4, None, True),
        (1, 1, None, False),
        (1, 4, None, False),  # OMP_NUM_THREADS=1, or one of several processes
        (2, 4, None, False),  # cores are left over
        (2, 1, None, False),
        (4, 4, "GOMP_SPINCOUNT", False),
        (4, 4, "OMP_WAIT_POLICY", False),
        (4, 4, "KMP_BLOCKTIME", False),
    ],
)
def test_where_a_watch_could_help(monkeypatch, count, cores, chosen, expected):
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "7")
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert threads.is_worth_it(CPU) is expected
    assert not threads.is_worth_it(torch.device("cuda"))


# Prints hashes of the weights after steps without, with and again without a team, and how many
# threads the process has each time.
STEPS = """
import hashlib, json, os, torch, threads
from networks import registry
assert torch.get_num_threads() == 2

def steps():
    torch.manual_seed(0)
    network = registry.build("resnet_cifar", 10).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.randn(24, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()

def row():
    return steps(), len(os.listdir("/proc/self/task"))

watch = threads.Watch()
first = row()
watch.give_way(1)
second = row()
watch.take_back()
print(json.dumps([first, second, row()]))
"""


@ON_LINUX
@pytest.mark.slow
def test_giving_way_is_two_threads_more_and_changes_no_bit_of_a_training():
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (alone, few), (beside, more), (again, rest) = json.loads(done.stdout)
    assert alone == beside == again
    assert more == few + 2 and rest == few
