"""Small pictures of single images, from the folder that they were extracted from or from
--data-dir; nothing is downloaded.

What needs torch (sets that are read whole, such as CIFAR) is imported where it is used, so that a
report without pictures starts without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import utils
from images import downloads, folders, lists, reading, thumbnails
from reporting.scored import ScoredSet

SIDE = 96  # pixels of the longer side, at most
HELD_OUT = "held_out"

Reader = Callable[[int], Image.Image]  # row -> image, RGB


class Gone(ValueError):
    """Images that cannot be shown, and why."""


@dataclass(frozen=True)
class Album:
    """The images of one set by row; what cannot be opened says why."""

    part: ScoredSet
    data_dir: Path
    held_out: Sequence[str]  # classes that the network was not trained on
    dataset: str  # the place of the ID set's test images

    @cached_property
    def reader(self) -> Reader:
        """What reads one image; Gone where the set is not at hand."""
        said = self.part.images.get("place")
        if not said:
            raise Gone("no record says where its images lie")
        place = utils.SetName.parse(str(said))
        if self.part.paths is not None:
            return partial(read_file, self.root(place), self.part.paths)
        if place.folder is not None:
            raise Gone("its table of scores does not name the files")
        return self.whole(place)

    def root(self, place: utils.SetName) -> Path:
        """The folder below which the paths of a set in files lie."""
        recorded = place.folder or named_folder(place, self.data_dir)
        if recorded is None:
            raise Gone(f"nothing says where the files of {self.part.name} lie")
        found = lists.parts(recorded)
        folder = Path(found[1] if found else recorded)
        for candidate in (folder, self.data_dir / folder, self.data_dir / folder.name):
            if candidate.exists():
                return candidate if candidate.is_dir() else candidate.parent
        raise Gone(f"{folder} is not there any more")

    def whole(self, place: utils.SetName) -> Reader:
        """A reader of a set that is held in memory."""
        import data

        keep = data.Preprocessing(size_of(self.part.images), (0.0,) * 3, (1.0,) * 3)
        load = partial(load_whole, place, self.part, keep, self.data_dir)
        try:
            with downloads.without_downloads():
                images = load(self.held_out, utils.SetName.parse(self.dataset))
        except (ValueError, OSError) as error:
            raise Gone(first_sentence(error)) from None
        if len(images) != len(self.part):
            raise Gone(f"it has {len(images):,} images now, and had {len(self.part):,}")
        return partial(pixels_of, images)

    def thumbnail(self, row: int) -> str:
        """One image as the text of an img's src; Gone where it cannot be read."""
        image = self.reader(row)
        return thumbnails.source(image, SIDE)


def named_folder(place: utils.SetName, data_dir: Path) -> str | Path | None:
    """Where a set of the registry lies in files, None where it does not."""
    import data

    return data.folder_of(place, data_dir)


def load_whole(
    place: utils.SetName,
    part: ScoredSet,
    preprocessing: Any,
    data_dir: Path,
    held_out: Sequence[str],
    dataset: utils.SetName,
) -> Any:
    """The test images of a set of the registry, as run_networks.py took them."""
    import data

    id_set = data.ID.get(dataset.name)
    if part.name == HELD_OUT:  # whose record names the ID set
        place = utils.SetName.parse(HELD_OUT)
    if place == dataset and id_set:
        return data.load_id(id_set, "test", preprocessing, data_dir, held_out)
    return data.load_ood(place, id_set, preprocessing, data_dir, held_out)


def size_of(sidecar: dict[str, Any]) -> int:
    """Pixels of the side of the network's input, in which these sets are kept."""
    size = (sidecar.get("preprocessing") or {}).get("size")
    return size if isinstance(size, int) else thumbnails.LOSSLESS


def read_file(root: Path, paths: Sequence[str], row: int) -> Image.Image:
    """The image of a row, from its file; Gone where that is not there or leaves the folder."""
    path = lists.below(paths[row], str(root.absolute()))
    if path is None:
        raise Gone(f"{paths[row]} lies outside its folder")
    try:
        return reading.read(root / path)
    except Exception as error:  # on broken files Pillow raises many kinds
        raise Gone(f"{folders.quoted(root / path)}: {reading.reason(error)}") from None


def pixels_of(images: Any, row: int) -> Image.Image:
    """The image of a row of a set in memory."""
    pixels, _ = images.batch(range(row, row + 1))
    return Image.fromarray(np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy()))


def first_sentence(error: Exception) -> str:
    """The first part of a message, without what it advises."""
    text = str(error) or type(error).__name__
    return text.partition("; ")[0].partition(". ")[0]
