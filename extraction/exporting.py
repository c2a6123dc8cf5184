"""A checkpoint's network as an ONNX file, compared with the network on its own test images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils
from artifacts import records
from extraction.work import Work
from images.sets import Set
from networks import classifiers, onnx_export, onnx_graphs, onnx_networks, onnx_sessions

IMAGES = 64  # test images that the two are compared on
TOLERANCE = 1e-5  # largest difference, as a share of the largest value or of 1


def check(paths: list[str], target: str, force: bool) -> None:
    """ValueError for what can be known before anything is opened."""
    onnx_sessions.runtime()
    onnx_graphs.library()
    if len(paths) != 1 or onnx_graphs.is_onnx(paths[0]):
        raise ValueError(
            f"--export-onnx {target} is of one checkpoint with a torch network, found"
            f" {', '.join(paths)}"
        )
    if not onnx_graphs.is_onnx(target):
        raise ValueError(f"--export-onnx {target}: expected a name that ends in .onnx")
    if Path(target).exists() and not force:
        raise ValueError(f"{target} is there already; replace it with --force")
    if not Path(target).parent.is_dir():
        raise ValueError(f"--export-onnx {target}: there is no folder {Path(target).parent}")


@dataclass(frozen=True)
class Difference:
    """How far an ONNX file is from its network: the largest difference of features and of logits,
    each as a share of the largest value, or of 1 where all are below."""

    images: int
    features: float
    logits: float

    @property
    def words(self) -> str:
        return (
            f"on {self.images} test images its features differ by at most {self.features:.1e} of"
            f" the largest, and its logits by {self.logits:.1e}"
        )


def export(work: Work, target: str) -> Difference:
    """Write the network and its sidecar; ValueError, and no file, where the two differ by more than
    TOLERANCE."""
    path, choice = Path(target), work.choice
    facts = {
        onnx_networks.PREPROCESSING: json.dumps(choice.preprocessing.as_dict()),
        "class_names": json.dumps(work.class_names),
        "checkpoint": Path(work.path).name,
        "checkpoint_sha256": work.shelf.origin["checkpoint_sha256"],
    }
    size = choice.preprocessing.size
    beside = utils.temporary_beside(path)
    try:
        onnx_export.export(work.trained.network, work.trained.classifier, size, beside, facts)
        found = compare(work, beside)
        largest = max(found.features, found.logits)
        if not largest <= TOLERANCE:
            raise ValueError(
                f"{target} was not written: {found.words}, above {TOLERANCE:g}; the network may"
                " compute otherwise in training mode, or by a random number"
            )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sidecar = {
        **records.provenance(work.options.material),
        "exported_from": work.shelf.origin,
        "model": work.trained.model,
        "dataset": work.given.dataset,
        "sha256": records.sha256(path),
        "compared_on": found.images,
        "features_differ": found.features,
        "logits_differ": found.logits,
    }
    utils.write_json(records.sidecar_path(path), sidecar)
    return found


@torch.no_grad()
def compare(work: Work, path: Path) -> Difference:
    """Both on the first ID test images, prepared as in an extraction."""
    exported, _ = onnx_networks.load(str(path), onnx_export.FEATURES, onnx_export.LOGITS)
    job = next(job for job in work.jobs if job.in_distribution and job.split == "test")
    images: Set = job.images
    features, logits, count = 0.0, 0.0, min(IMAGES, len(images))
    for pixels in images.take(torch.arange(count)).batches(work.extractor.batch_size):
        prepared = work.extractor.prepared(job, pixels)
        ours = reference(work, prepared)
        theirs = exported.both(prepared)
        features = max(features, share(ours[0], theirs[0]))
        logits = max(logits, share(ours[1], theirs[1]))
    return Difference(count, features, logits)


def reference(work: Work, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) and logits (n, C) of the torch network."""
    caught: list[torch.Tensor] = []
    classifier = work.trained.classifier
    with classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])):
        logits = work.extractor.logits(images)
    return classifiers.vectors(caught[-1]).cpu().numpy(), logits.cpu().numpy()


def share(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the largest value or of 1."""
    difference = np.abs(ours - theirs).max()
    largest = np.abs(ours).max()
    return float(difference / max(1.0, largest))
