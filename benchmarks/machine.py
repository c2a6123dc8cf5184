"""What every benchmark keeps of the machine that it ran on; imports no torch, since not every
benchmark needs it."""

import os
import platform
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def facts(**more):
    """Processor, cores, load and threads, and whatever else the benchmark knows, for a sidecar."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_allowed": affinity,
        "load": os.getloadavg(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        **more,
    }


def processor():
    """The processor's name, as Linux tells it, or the platform's word."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")),
        platform.processor(),
    )
