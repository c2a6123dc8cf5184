"""The long work: a job's images through the network, once or twice."""

import time
from dataclasses import dataclass

import numpy as np

from collapse import layers
from extraction.extractor import Rows
from extraction.plan import Job
from extraction.work import Work, is_test


@dataclass(frozen=True, eq=False)
class Made:
    """What was made of one job's images. The rows are on the first rank, and None elsewhere."""

    rows: Rows | None
    summaries: dict[str, layers.Summary]  # by stage; empty where the stages' rows are stored
    start: float  # time.perf_counter() when the work began

    @property
    def features(self) -> np.ndarray:
        """(N, D) float32: what enters the classifier, on the first rank."""
        assert self.rows is not None and self.rows.features is not None
        return self.rows.features

    @property
    def seconds(self) -> float:
        """Time since the work began."""
        return time.perf_counter() - self.start


def make(work: Work, job: Job) -> Made:
    """Pass a job's images through the network; the probes of the training images stay in `work`,
    where the test images need them."""
    start = time.perf_counter()
    stages = list(work.outputs(job).stages)
    if stages and work.options.layers == "stream":
        rows, summaries = summarised(work, job)
    else:
        summaries = {}
        with work.world.together():
            rows = work.extractor.run(job, stages)
    return Made(work.extractor.gather(rows), summaries, start)


def summarised(work: Work, job: Job) -> tuple[Rows, dict[str, layers.Summary]]:
    """-> (rows of features, {stage: summary}), with no rows of a stage kept."""
    if is_test(job) and not work.probes:
        # The training images' files were kept as they are.
        work.probes |= stored_probes(work)
    rows, summaries = work.extractor.tally(job, len(work.class_names), work.probes)
    if job is work.training:
        for name, summary in summaries.items():
            assert summary.moments is not None, "training images are tallied with their classes"
            work.probes[name] = layers.probe(summary.moments)
    return rows, summaries


def stored_probes(work: Work) -> dict[str, layers.Probe]:
    """{stage: layers.probe} of the training images' files, the same on each rank."""
    found = {}
    with work.world.together():
        if work.world.first:
            for name, file in work.outputs(work.training).stages.items():
                moments = layers.read_summary(file).moments
                assert moments is not None, "a file of training images holds moments"
                found[name] = layers.probe(moments)
    return work.world.broadcast_object(found)
