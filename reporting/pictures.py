"""Figures of the page: where each one stands, its caption, and its PNG as text.

A PNG carries its own caption (figures.style), so that the page says what its figure function says.
"""

import base64
import io
import re
from dataclasses import dataclass

from matplotlib.figure import Figure

import figures
import utils
from figures.style import read_caption, share_of_page
from reporting.found import Found, Summary
from reporting.words import listed

PLACES = [  # file names, section and subject, in the order of the page; the first that matches
    ("^training_curves", "run", "Training"),
    ("^auroc", "ood", "AUROC of all methods"),
    ("^(score|hist)", "ood", "Histograms of scores"),
    ("^(trust|swallowed)", "ood", "Trust in predictions, and which class takes in what"),
    ("^(principal_components$|pca)", "ood", "Where the images lie"),
    ("^(principal|neco_dim)", "ood", "Where the images lie"),
    ("^(nc1|within)", "nc", "NC1: spread within classes"),
    ("^(nc2|cosine)", "nc", "NC2: class means"),
    ("^nc_angles", "nc", "NC2: class means"),
    ("^nc_gram", "nc", "NC2: class means"),
    ("^class_mean_dist", "nc", "NC2: class means"),
    ("^(nc3|weight)", "nc", "NC3: weights and class means"),
    ("^nc4_agree", "nc", "NC4: nearest class mean"),
    ("^nc4_mis", "nc", "NC4: nearest class mean"),
    ("^nc5$", "nc", "NC5: OOD images"),
    ("^nc_centre", "nc", "NC5: OOD images"),
    ("^nc_neco", "nc", "NC5: OOD images"),
    ("^nc_pca", "nc", "Spectrum and maps of the features"),
    ("^nc_tsne", "nc", "Spectrum and maps of the features"),
    ("^nc_layers$", "nc", "Through layers and epochs"),
    ("^nc5_layers", "nc", "Through layers and epochs"),
    ("^nc_epochs", "nc", "Through layers and epochs"),
    ("^nc5_epochs", "nc", "Through layers and epochs"),
    ("^nc_layers_epochs", "nc", "Through layers and epochs"),
    ("^nc_ood", "nc", "Collapse beside OOD detection"),
    ("^nc", "nc", "Other figures of collapse"),
    ("", "other", "Figures that no script of ours draws"),
]
ALIKE = 3  # so many figures of one kind or more, and all but the first are folded


@dataclass(frozen=True)
class Picture:
    """One figure: its name in words, its caption ("" for a PNG without), its PNG in base64, and the
    share of the page's width that it takes."""

    stem: str
    caption: str
    data: str
    share: float

    @classmethod
    def of(cls, stem: str, image: bytes) -> "Picture":
        """The picture of a PNG."""
        data = base64.b64encode(image).decode("ascii")
        return cls(stem, read_caption(image), data, share_of_page(image))

    @property
    def name(self) -> str:
        return self.stem.replace("_", " ")

    @property
    def alternative(self) -> str:
        """What stands in for the image where it is not seen."""
        return f"Chart, {self.name}. {self.caption}".strip()


@dataclass(frozen=True)
class PictureGroup:
    """Figures of one kind: those in sight, and those that are folded, with their names in words."""

    shown: list[Picture]
    folded: list[Picture]
    names: str


@dataclass(frozen=True)
class Subject:
    """Figures of one subject, which fold away together."""

    heading: str
    groups: list[PictureGroup]

    @property
    def count(self) -> int:
        return sum(len(group.shown) + len(group.folded) for group in self.groups)


def pictures(summary: Summary, found: Found) -> dict[str, list[Subject]]:
    """{section: its figures by subject, in the order of the page}"""
    means = summary["mean_over_sets"]
    best = means[0]["method"] if means else ""
    kinds: dict[tuple[int, str], list[Picture]] = {}
    for stem, image in drawn(found):
        picture = Picture.of(stem, image)
        kinds.setdefault((place_of(stem), picture.caption), []).append(picture)
    subjects: dict[str, dict[str, list[PictureGroup]]] = {name: {} for _, name, _ in PLACES}
    for (place, _), alike in sorted(kinds.items()):
        _, section, heading = PLACES[place]
        subjects[section].setdefault(heading, []).append(group(alike, best))
    return {
        section: [Subject(heading, groups) for heading, groups in found_here.items()]
        for section, found_here in subjects.items()
    }


def drawn(found: Found) -> list[tuple[str, bytes]]:
    """(stem, PNG) of each figure; the training curves are drawn here, from their table."""
    files = [path for path in found.images if path.stem != "training_curves"]
    images = [(path.stem, path.read_bytes()) for path in files]
    if found.curves is not None and len(found.curves):
        images.append(("training_curves", drawing(figures.training_curves(found.curves))))
    return images


def place_of(stem: str) -> int:
    """The row of PLACES that a file's stem belongs to."""
    matching = (row for row, (form, _, _) in enumerate(PLACES) if re.search(form, stem))
    return next(matching)  # the last row matches every stem


def group(alike: list[Picture], best: str) -> PictureGroup:
    """Figures of one kind, that of the best method first; of many, only the first in sight."""

    def is_of_another_method(picture: Picture) -> bool:
        return not picture.stem.lower().endswith(f"_{best.lower()}")

    ordered = sorted(alike, key=is_of_another_method)
    if len(ordered) < ALIKE:
        return PictureGroup(ordered, [], "")
    first, *others = ordered
    names = listed(picture.stem.partition("_")[2] for picture in others)
    return PictureGroup([first], others, names)


def drawing(figure: Figure) -> bytes:
    """A matplotlib Figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=utils.png_metadata(figure))
    return buffer.getvalue()
