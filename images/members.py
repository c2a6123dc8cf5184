"""A member of a leave-out ensemble: which of the classes it knows, and which images are of them.

    member = Member(1, 2, ["ant", "bee", "cat", "dog"], ["bee", "dog"])
    known, outliers = member.known_of(images), member.outliers_of(images)

Training (training/leave_out.py, which deals the classes) and extraction take a member's images
here, so that they are the same ones. Scoring reads members from sidecars, without torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # the scorers read members too, without torch
    from images.sets import ImageFiles, Images

OUTLIER = -1  # the label of images of left-out classes
Set = TypeVar("Set", "Images", "ImageFiles", "Images | ImageFiles")


@dataclass(frozen=True)
class Member:
    """One classifier of an ensemble, as its checkpoint and every sidecar of it describe it."""

    fold: int  # from 1
    folds: int
    classes: list[str]  # of the ensemble, in the data set's order
    left_out: list[str]  # of this member, in that order too

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Member | None":
        """The member that a checkpoint's content describes; None for another network."""
        entry = content.get("leave_out")
        return cls(**entry) if entry else None

    @property
    def known(self) -> list[str]:
        """The classes that the member tells apart, in the order of its outputs."""
        return [name for name in self.classes if name not in self.left_out]

    @property
    def numbers(self) -> list[int]:
        """The numbers that those classes have among the ensemble's, in the same order."""
        return [self.classes.index(name) for name in self.known]

    def known_of(self, images: Set) -> Set:
        """Of images of all classes those that the member knows, labelled as its outputs are."""
        labelled = self.labelled(images)
        return labelled.take((labelled.labels != OUTLIER).nonzero()[:, 0])

    def outliers_of(self, images: Set) -> Set:
        """Of images of all classes those of the classes that the member leaves out."""
        labelled = self.labelled(images)
        return labelled.take((labelled.labels == OUTLIER).nonzero()[:, 0])

    def labelled(self, images: Set) -> Set:
        """Images of all classes under the member's own labels."""
        outputs = images.labels.new_full((len(self.classes),), OUTLIER)
        for output, number in enumerate(self.numbers):
            outputs[number] = output
        return replace(images, labels=outputs[images.labels], class_names=self.known)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fold_pattern(name: str) -> str:
    """A member's name -> the pattern of all members' names: net_fold1of5 -> net_fold*of5."""
    return re.sub(r"fold\d+of", "fold*of", name)
