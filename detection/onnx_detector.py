"""Network and detector in one ONNX file: images in, logits, score and verdict out.

    exported = Exported(session, detector, "Cosine", keep=0.95)
    difference = exported.write(Path("whole.onnx"), images)

The file needs onnxruntime alone, and none of this code. Its input is the network's own: images that
are prepared as its metadata say."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import utils
from detection import onnx_forms
from detection.detector import Detector
from networks import onnx_graphs, onnx_sessions
from networks.onnx_building import Builder
from scores import registry

FEATURES, LOGITS, SCORE, ACCEPTED = "features", "logits", "score", "accepted"
TOLERANCE = 1e-5  # largest difference of scores, as a share of the largest or of 1


def check_target(target: Path, method: str) -> None:
    """ValueError for what can be known before the network is opened."""
    onnx_sessions.runtime()
    onnx_graphs.library()
    onnx_forms.check(method)
    if not onnx_graphs.is_onnx(target):
        raise ValueError(f"--export-onnx {target}: expected a name that ends in .onnx")
    if target.exists():
        raise ValueError(f"{target} is there already; remove it, or choose another name")
    if not target.parent.is_dir():
        raise ValueError(f"--export-onnx {target}: there is no folder {target.parent}")


@dataclass(frozen=True)
class Difference:
    """How far the scores of a file are from the detector's own, on the same images.

    score_differs  the largest difference, as a share of the largest score, or of 1 where all are
                   below
    verdicts_differ  how many images the two judge otherwise
    """

    images: int
    score_differs: float
    verdicts_differ: int

    @property
    def words(self) -> str:
        return (
            f"on {self.images} images its score differs by at most {self.score_differs:.1e} of the"
            f" largest, and {self.verdicts_differ or 'none'} of the verdicts"
        )


@dataclass(frozen=True, eq=False)
class Exported:
    """A network's graph and one method of a detector, as one file."""

    session: onnx_sessions.Session
    detector: Detector
    method: str
    keep: float

    @cached_property
    def threshold(self) -> float:
        return self.detector.threshold(self.keep, self.method)

    def model(self) -> Any:
        """The graph with the outputs `features` (n, D), `logits` (n, C) of the detector's classes,
        `score` (n,) float64 and `accepted` (n,): whether it reaches the threshold.

        ValueError for a method that has no form in ONNX, or no value."""
        state, head = self.detector.states[self.method], self.detector.head
        if state.undefined:
            raise ValueError(f"{self.method} has no value for any image: {state.note}")
        builder = Builder(self.session.graph.model)
        features = builder.value(self.session.chosen.features, np.float32)
        values = onnx_forms.Values(builder, features, head, self.detector.width)
        score = onnx_forms.score(self.method, values, state)
        builder.output(features, FEATURES, ["n", self.detector.width])
        if head is not None:
            builder.output(values.logits, LOGITS, ["n", values.classes])
        builder.output(score, SCORE, ["n"])
        # a score that is NaN reaches nothing
        reaches = (score > self.threshold).either(score.equals(self.threshold))
        builder.output(reaches, ACCEPTED, ["n"])
        model = builder.finished()
        texts = {
            name: fact if isinstance(fact, str) else json.dumps(fact)
            for name, fact in self.facts().items()
        }
        builder.onnx.helper.set_model_props(model, texts)
        return model

    def facts(self) -> dict[str, Any]:
        """What a person has to know to use the file; it stands as texts beside the graph."""
        head, known = self.detector.head, self.detector.facts
        count = len(self.detector.calibration[self.method])
        return {
            "preprocessing": known.get("preprocessing"),
            "class_names": [] if head is None else head.class_names,
            "method": self.method,
            "formula": registry.ROWS[self.method].formula,
            "keep": self.keep,
            "threshold": float(self.threshold),
            "calibrated_on": f"{count} ID {self.detector.calibrated_on} images",
            "checkpoint": known.get("checkpoint"),
            "checkpoint_sha256": known.get("checkpoint_sha256"),
        }

    def write(self, target: Path, images: np.ndarray) -> Difference:
        """Write the file, and compare it on images (n, 3, S, S), prepared. ValueError, and no file,
        where the scores differ by more than TOLERANCE."""
        model = self.model()
        found = self.compare(model, images)
        if not found.score_differs <= TOLERANCE:
            raise ValueError(f"{target} was not written: {found.words}, above {TOLERANCE:g}")
        with utils.replacing(target) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return found

    def compare(self, model: Any, images: np.ndarray) -> Difference:
        """The model against the detector on the features of its network's own graph."""
        whole = onnx_sessions.runtime().InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        parts = [
            whole.run([SCORE, ACCEPTED], {self.session.input.name: part})
            for part in self.session.parts_of(self.session.fed(images))
        ]
        theirs, accepted = (
            np.concatenate(each)[: len(images)] for each in zip(*parts, strict=True)
        )
        ours = self.detector.score_samples(self.session.features(images), self.method)
        judged = ours >= self.threshold
        alike = np.isnan(ours) & np.isnan(theirs)
        gaps = np.where(alike, 0, np.abs(ours - theirs))
        largest = np.nanmax(np.abs(ours), initial=1.0)
        share = float(gaps.max() / largest)  # NaN where one of the two alone is undefined
        return Difference(len(images), share, int(np.count_nonzero(judged != accepted)))
