"""One checkpoint of an extraction: its network, what is to be made of it, and what is kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from collapse import layers
from extraction import plan
from extraction.expected_inputs import Choice
from extraction.extractor import Extractor
from extraction.head_rows import Rows
from extraction.options import Options
from networks.classifiers import NoClassifier
from processes import World


@dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint that was read: its file, its network, and what the file says."""

    path: str
    network: torch.nn.Module
    classifier: torch.nn.Module
    content: dict[str, Any]  # as networks.loading.load has it

    @property
    def model(self) -> str:
        """NAME of the registry, or FILE.py:FUNCTION."""
        return self.content["model"]

    @property
    def classes(self) -> int | None:
        """The number of classes that the network tells apart; None of features alone."""
        return self.content["classes"]


@dataclass(eq=False)
class Work:
    """One checkpoint: what is to be made of it, and how each file comes out."""

    trained: Trained
    options: Options
    extractor: Extractor
    choice: Choice
    given: plan.Given
    jobs: list[plan.Job]
    shelf: plan.Shelf
    verdicts: dict[str, plan.Verdict] = field(default_factory=dict)  # by a job's stem
    files: list[Path] = field(default_factory=list)  # written or kept so far; the head first
    rows: Rows | None = None  # the data's classes in the classifier, once opening.classes_of knows
    probes: dict[str, layers.Probe] = field(default_factory=dict)  # by stage, of training images

    @property
    def path(self) -> str:
        """The checkpoint's file."""
        return self.trained.path

    @property
    def checkpoint(self) -> dict[str, Any]:
        """What the checkpoint's file says."""
        return self.trained.content

    @property
    def world(self) -> World:
        """The processes that share the images."""
        return self.extractor.world

    @property
    def training(self) -> plan.Job:
        """The job of the training images."""
        return next(job for job in self.jobs if job.in_distribution and job.split == "train")

    def classes_of(self, job: plan.Job) -> list[str]:
        """The classes that a job's labels number: the network's, or those of its ensemble."""
        return job.own_facts.get("class_names", self.class_names)

    @property
    def waiting(self) -> list[plan.Job]:
        """The jobs that are not kept."""
        return [job for job in self.jobs if not self.verdicts[job.stem].kept]

    @property
    def head(self) -> Path:
        """The file of the classifier's last layer."""
        return self.shelf.folder / "head.csv"

    @property
    def class_names(self) -> list[str]:
        """The classes that features are of, once opening.classes_of has found them."""
        return self.shelf.origin["class_names"]

    @property
    def whole_head(self) -> Path:
        """The file of all rows of the classifier, where head.csv holds some of them."""
        return self.shelf.folder / "head_full.csv"

    @property
    def has_head(self) -> bool:
        """False of a network of features alone."""
        return not isinstance(self.trained.classifier, NoClassifier)

    @property
    def chosen(self) -> Rows:
        """The data's classes as rows of the classifier."""
        assert self.rows is not None, "opening.classes_of has not been asked"
        return self.rows

    def outputs(self, job: plan.Job) -> plan.JobFiles:
        """Where the files of a job lie, or will."""
        return self.shelf.outputs(job)


def is_test(job: plan.Job) -> bool:
    """True for the ID test images that the network knows, as they are."""
    return job.is_plain and job.in_distribution and job.split == "test"


def judge(work: Work) -> dict[str, plan.Verdict]:
    """{stem: Verdict} of every job, training images first: NC4's counts depend on them."""
    if work.options.force:
        return {job.stem: plan.Verdict(False) for job in work.jobs}
    first = work.training
    verdicts = {first.stem: work.shelf.judge(first)}
    training = None
    if work.options.layers == "stream":
        training = work.shelf.training(first, verdicts[first.stem])
    for job in work.jobs:
        if job is not first:
            verdicts[job.stem] = work.shelf.judge(job, training)
    return {job.stem: verdicts[job.stem] for job in work.jobs}
