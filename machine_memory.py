"""Memory of this machine: how much there is, how much is free, and what becomes of what is freed.

machine_memory.free()          # bytes that this process may still take; None where unknown
machine_memory.keep_freed()    # glibc: what is freed is kept for the next step
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")

# Options of glibc's malloc, as its malloc.h numbers them.
M_TRIM_THRESHOLD = -1  # bytes at the heap's end above which they go back to the system
M_MMAP_THRESHOLD = -3  # bytes from which a block is mapped by itself
M_MMAP_MAX = -4  # blocks that may be mapped by themselves

KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}


# ---- how much there is ---------------------------------------------------------------------------


def free() -> int | None:
    """Bytes that this process may still take: of the machine, and of the batch job or container
    that it runs in. None where the system does not tell."""
    available = from_meminfo("MemAvailable")
    found = [] if available is None else [available]
    found += [limit - used for limit, used in limits()]
    return max(0, min(found)) if found else None


def total() -> int | None:
    """Bytes of this machine, or of the batch job or container; None where unknown."""
    found = [limit for limit, _ in limits()]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no such name on this system
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


def from_meminfo(name: str) -> int | None:
    """An entry of Linux's /proc/meminfo in bytes; None without one."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def limits() -> Iterator[tuple[int, int]]:
    """Yield (bytes that are allowed, bytes in use) of each control group with a limit that this
    process is in; a file's content that is cached but not in use is not counted."""
    try:
        lines = CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from limits_above(CGROUPS, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from limits_above(CGROUPS / "memory", path, *names)


def limits_above(
    base: Path, path: str, limit: str, usage: str, prefix: str
) -> Iterator[tuple[int, int]]:
    """Yield what the files `limit` and `usage` hold, in a group and in those above it."""
    group = base / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(base):
            return
        try:
            most = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            statistics = (folder / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if not most.isdecimal():  # "max"
            continue
        entries = dict(line.split(" ", 1) for line in statistics.splitlines())
        yield int(most), used - int(entries.get(f"{prefix}inactive_file", 0))


# ---- what becomes of what is freed ---------------------------------------------------------------


def keep_freed() -> bool:
    """Have the C library keep the memory that is freed -> True where it does, which is with glibc.

    Otherwise each large tensor's memory goes back to the system, which fills it with zeros page by
    page when the next step asks for it. No result changes (docs/training.md and docs/extraction.md
    have the times)."""
    return set_malloc(KEPT)


def set_malloc(options: Mapping[int, int]) -> bool:
    """Give glibc's malloc these options -> True where it took them; another C library has none."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) for option, value in options.items())
