"""Everything that report.py found of one run, as the summary and the page take it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

Summary = Mapping[str, Any]  # summary.json's object


@dataclass(frozen=True)
class Missing:
    """A part that the report lacks, and the command that makes it, where there is one."""

    what: str
    command: str | None


@dataclass(frozen=True)
class Found:
    """The tables, records and figures of one run; a table is None where its file is missing."""

    stem: str
    sha256: str | None  # of the checkpoint
    tpr: float  # share of ID images that the threshold keeps, in [0, 1]
    sidecar: dict[str, Any]  # what train.py wrote beside the checkpoint; empty for other networks
    facts: dict[str, Any]  # of the head's sidecar, and of the checkpoint's, which goes first
    records: dict[str, dict[str, Any]]  # {stem: what made the file or ran the stage}
    ood: pd.DataFrame | None  # ood_metrics.csv
    groups: pd.DataFrame | None  # ood_groups.csv
    nc: pd.DataFrame | None  # nc_metrics.csv
    per_class: pd.DataFrame | None  # nc_per_class.csv
    curves: pd.DataFrame | None  # the training curves
    images: list[Path]  # PNGs
    files: list[Path]  # all that was looked for: when one comes, the report is no longer current
    missing: list[Missing]
    stale: list[str]  # what was taken though it had been changed
