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

PLACES = [  # file names and their section, in the order of the page; the first that matches
    ("^training_curves", "run"),
    ("^auroc", "ood"),
    ("^(score|hist)", "ood"),
    ("^(trust|swallowed)", "ood"),
    ("^(principal_components$|pca)", "ood"),
    ("^principal", "ood"),
    ("^neco_dimensions", "ood"),
    ("^(nc1|within)", "nc"),
    ("^(nc2|cosine)", "nc"),
    ("^nc_angles", "nc"),
    ("^nc_gram", "nc"),
    ("^class_mean_dist", "nc"),
    ("^(nc3|weight)", "nc"),
    ("^nc4_agree", "nc"),
    ("^nc4_mis", "nc"),
    ("^nc5$", "nc"),
    ("^nc_centre", "nc"),
    ("^nc_neco", "nc"),
    ("^nc_pca", "nc"),
    ("^nc_tsne", "nc"),
    ("^nc_layers$", "nc"),
    ("^nc5_layers", "nc"),
    ("^nc_epochs", "nc"),
    ("^nc5_epochs", "nc"),
    ("^nc_layers_epochs", "nc"),
    ("^nc_ood", "nc"),
    ("^nc", "nc"),
    ("", "other"),
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


def pictures(summary: Summary, found: Found) -> dict[str, list[PictureGroup]]:
    """{section: its figures in the order of the page}"""
    means = summary["mean_over_sets"]
    best = means[0]["method"] if means else ""
    kinds: dict[tuple[int, str], list[Picture]] = {}
    for stem, image in drawn(found):
        caption = read_caption(image)
        data = base64.b64encode(image).decode("ascii")
        picture = Picture(stem, caption, data, share_of_page(image))
        kinds.setdefault((place_of(stem), caption), []).append(picture)
    sections: dict[str, list[PictureGroup]] = {name: [] for _, name in PLACES}
    for (place, _), alike in sorted(kinds.items()):
        _, section = PLACES[place]
        sections[section].append(group(alike, best))
    return sections


def drawn(found: Found) -> list[tuple[str, bytes]]:
    """(stem, PNG) of each figure; the training curves are drawn here, from their table."""
    files = [path for path in found.images if path.stem != "training_curves"]
    images = [(path.stem, path.read_bytes()) for path in files]
    if found.curves is not None and len(found.curves):
        images.append(("training_curves", drawing(figures.training_curves(found.curves))))
    return images


def place_of(stem: str) -> int:
    """The row of PLACES that a file's stem belongs to."""
    return next(place for place, (form, _) in enumerate(PLACES) if re.search(form, stem))


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
