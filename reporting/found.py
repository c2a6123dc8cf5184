"""Everything that report.py found of one run, as the summary and the page take it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reporting.scored import ScoredRun

Summary = Mapping[str, Any]  # summary.json's object


@dataclass(frozen=True)
class Missing:
    """A part that the report lacks, and the command that makes it, where there is one."""

    what: str
    command: str | None


@dataclass(frozen=True)
class Member:
    """One network of an ensemble."""

    name: str  # its checkpoint's stem
    sha256: str | None  # of its checkpoint
    left_out: list[str]  # classes of the ensemble that it does not know
    facts: dict[str, Any]  # of its head's sidecar, and of its checkpoint's, which goes first


@dataclass(frozen=True)
class Ensemble:
    """The networks whose scores were put together, and how each does alone."""

    kind: str  # leave-out or deep
    members: list[Member]
    table: pd.DataFrame | None  # ood_members.csv


@dataclass(frozen=True)
class Found:
    """The tables, records and figures of one run; a table is None where its file is missing."""

    stem: str
    ensemble: Ensemble | None  # None for a single network
    sha256: str | None  # of the checkpoint; None for an ensemble
    tpr: float  # share of ID images that the threshold keeps, in [0, 1]
    sidecar: dict[str, Any]  # what train.py wrote beside the checkpoint; empty for other networks
    facts: dict[str, Any]  # of the head's sidecar, and of the checkpoint's, which goes first
    records: dict[str, dict[str, Any]]  # {stem: what made the file or ran the stage}
    ood: pd.DataFrame | None  # ood_metrics.csv
    groups: pd.DataFrame | None  # ood_groups.csv
    nc: pd.DataFrame | None  # nc_metrics.csv
    per_class: pd.DataFrame | None  # nc_per_class.csv
    curves: pd.DataFrame | None  # the training curves
    more: dict[str, pd.DataFrame]  # {file name: table} of further tables that are there
    scored: ScoredRun | None  # the scores of each image
    images: list[Path]  # PNGs
    files: list[Path]  # all that was looked for: when one comes, the report is no longer current
    missing: list[Missing]
    stale: list[str]  # what was taken though it had been changed
