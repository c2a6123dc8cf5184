"""The detector that ood_methods.py writes: results/<stem>/detector.safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifacts import current, records
from detection.detector import Detector
from detection.joining import RECORD, Earlier
from detection.scored import Scored
from feature_files import FeatureFiles
from head import Head
from scores import registry
from scores.common import Fitted

FILE = "detector.safetensors"
# What a detector repeats of the sidecars of the features and of the head.
FEATURE_FACTS = (
    "checkpoint",
    "checkpoint_sha256",
    "weights_sha256",
    "model_file_sha256",
    "dataset",
    "preprocessing",
    "precision",
    "leave_out",
)
# Of how it was made; not the time, so that the same run writes the same bytes.
RUN_FACTS = ("command", "versions", "git_commit", "git_dirty")


def without_banks(states: Mapping[str, Fitted]) -> dict[str, Fitted]:
    """The states that hold no training features, which memory need not keep."""
    return {name: state for name, state in states.items() if not registry.METHODS[name].bank}


def earlier_states(folder: Path, earlier: Earlier) -> dict[str, Fitted]:
    """The states of earlier methods that stay in the table, from the detector of the earlier run;
    none where that is not as it was written."""
    path = folder / FILE
    seen = current.Record.read(folder / RECORD).output(FILE)
    if not earlier.parameters or not path.is_file() or seen.change(path):
        return {}
    states = Detector.load(path).states
    return {name: states[name] for name in earlier.parameters if name in states}


def detector_of(
    run: FeatureFiles, scored: Scored, head: Head | None, with_bank: bool, made: Mapping[str, Any]
) -> Detector:
    """The detector of all methods of a table, calibrated on ID validation images, or on ID test
    images where there are none; `made` is the provenance of the run."""
    on, scores = "test", scored.id.scores
    if scored.held_out is not None and scored.held_out.scores:
        on, scores = "validation", scored.held_out.scores
    width = scored.id.images.features.shape[1]
    facts = facts_of(run, made)
    return Detector.of(
        scored.states, width, head, scores, on, with_bank, facts, others=list(scored.parameters)
    )


def facts_of(run: FeatureFiles, made: Mapping[str, Any]) -> dict[str, Any]:
    """Which network the features are of, how its images are prepared, and what fitted them."""
    sidecar = records.read_sidecar(run.train)
    facts = {name: sidecar.get(name) for name in FEATURE_FACTS}
    facts["dataset"] = facts["dataset"] or run.dataset
    facts["model"] = records.read_sidecar(run.head).get("model") if run.head else None
    return facts | {name: made.get(name) for name in RUN_FACTS}


def said(detector: Detector, path: Path) -> str:
    """What was written, what was left out, and which method is recommended, in a few lines."""
    size = path.stat().st_size / 2**20
    lines = [f"detector of {len(detector.states)} methods: {path} ({size:.1f} MiB)"]
    for why in dict.fromkeys(detector.left_out.values()):
        names = [name for name, reason in detector.left_out.items() if reason == why]
        lines.append(f"  left out: {', '.join(names)}: {why}")
    if detector.method:
        lines.append(f"  recommended: {detector.method}, by {detector.reason}")
    return "\n".join(lines)
