"""machine_memory.py: what is free, of the machine and of the control groups that a job runs in."""

import pytest

import machine_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 kB, 6 kB of which are free, with no control group."""
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:   6 kB\n")
    (tmp_path / "cgroup").write_text("")
    monkeypatch.setattr(machine_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine_memory, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine_memory, "CGROUPS", tmp_path / "groups")
    return tmp_path


def group(folder, limit, used, inactive, names=("memory.max", "memory.current"), prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{prefix}inactive_file {inactive}\n")


def test_without_a_control_group_the_machine_counts(machine):
    assert machine_memory.free() == 6 * 1024


def test_the_tightest_group_counts_and_cached_files_do_not(machine):
    (machine / "cgroup").write_text("0::/job_7/step_0\n")
    groups = machine / "groups"
    group(groups, "max", 100, 0)
    group(groups / "job_7", 5000, 3500, 500)
    group(groups / "job_7" / "step_0", "max", 3000, 0)
    assert list(machine_memory.limits()) == [(5000, 3000)]
    assert machine_memory.free() == 2000
    assert machine_memory.total() == 5000


def test_version_1_of_control_groups(machine):
    (machine / "cgroup").write_text("3:cpu:/a\n4:memory,hugetlb:/a\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(machine / "groups" / "memory" / "a", 4000, 3000, 1000, names, "total_")
    assert machine_memory.free() == 2000


def test_a_group_that_is_full_leaves_nothing(machine):
    (machine / "cgroup").write_text("0::/\n")
    group(machine / "groups", 1000, 1500, 0)
    assert machine_memory.free() == 0


def test_where_the_system_does_not_tell_nothing_is_known(machine):
    (machine / "meminfo").unlink()
    (machine / "cgroup").unlink()
    assert machine_memory.free() is None
    assert machine_memory.total() > 0
