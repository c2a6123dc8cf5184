"""What lies at a place, a folder, a file or a list, as a set of images; and what is left out of it.

images = image_set("photographs", preprocessing)                  # labels by folder
images = image_set("lists/ood.txt@photographs", preprocessing)    # of a list
images = labelled_list("lists/train.txt@photographs", preprocessing, None)
images = without_broken(images)                                   # --skip-broken
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from images import lists
from images.folders import first_folder, listing
from images.reading import SHOWN, Failure
from images.sets import ImageFiles, Preprocessing, image_folder

# {set and size: (path, why) of its broken files}; a set is looked through once in a process
looked: dict[tuple[str, str, int, int], list[tuple[str, str]]] = {}


def image_set(
    place: str | Path, preprocessing: Preprocessing, skip_broken: bool = False
) -> ImageFiles:
    """The images of a folder, a file or a list, as an OOD set: nobody needs their labels.

    ValueError for a list with lines that cannot be used, or with images that are not there; with
    `skip_broken` the latter, and images that cannot be read, are left out.
    """
    if lists.parts(place):
        found = lists.read(place)
        first = list(map(first_folder, found.paths))
        names = sorted(set(first) - {""})
        labels = torch.full((len(found.paths),), -1)
        images = listed_images(place, preprocessing, labels, names, skip_broken)
    else:
        images = image_folder(place, preprocessing)
    return without_broken(images) if skip_broken else images


def labelled_list(
    place: str,
    preprocessing: Preprocessing,
    names: dict[int, str] | None,
    skip_broken: bool = False,
) -> ImageFiles:
    """The images of an ID list. `names` {label: name} are the classes of the training list; None
    for the training list itself, which has them.

    Classes are numbered without gaps in the order of their labels. ValueError as for `image_set`,
    and for lines without a class.
    """
    found = lists.read(place)
    faults = lists.unlabelled(found)
    if names is not None:
        faults += lists.outside(found, names)
    lists.refuse(found, faults)
    if names is None:
        names = lists.classes(found)
    index = {label: number for number, label in enumerate(names)}
    labels = torch.tensor([index[label] for label in found.labels if label is not None])
    images = listed_images(place, preprocessing, labels, list(names.values()), skip_broken)
    return without_broken(images) if skip_broken else images


def listed_images(
    place: str | Path,
    preprocessing: Preprocessing,
    labels: torch.Tensor,
    names: Sequence[str],
    skip_broken: bool,
) -> ImageFiles:
    """The images that a list names, in its order, with these labels (N,); those that are missing
    are among them where `skip_broken` lets `without_broken` leave them out."""
    found = lists.read(place)
    seen = listing(place)
    if not skip_broken:
        lists.refuse_missing(found, seen.missing)
    plural = "s" if found.repeated > 1 else ""
    return ImageFiles(
        seen.paths,
        labels,
        list(names),
        seen.source,
        preprocessing,
        seen.root,
        f"{found.repeated:,} repeated line{plural} left out" if found.repeated else "",
        said=seen.said,
    )


# ---- what is broken ------------------------------------------------------------------------------


def without_broken(images: ImageFiles) -> ImageFiles:
    """The images without those that cannot be read, which stand in `skipped` with the reason.

    Every file is read to its end, whatever the number: a JPEG at an eighth of its size. ValueError
    where nothing remains.
    """
    key = (str(images.root), images.source, len(images), images.preprocessing.resized)
    if key not in looked:
        looked[key] = [relative(images, one) for one in images.unreadable(to_the_end=True)]
    return left_out(images, dict(looked[key]))


def relative(images: ImageFiles, failure: Failure) -> tuple[str, str]:
    """(path below the set's root, why) of a file that cannot be read."""
    path, why = failure
    return str(Path(str(path)).relative_to(images.root)), why


def left_out(images: ImageFiles, broken: dict[str, str]) -> ImageFiles:
    """The images without those of {path: why}; ValueError where nothing remains."""
    if not broken:
        return images
    kept = [row for row, path in enumerate(images.paths) if path not in broken]
    skipped = {**images.skipped, **broken}
    if not kept:
        raise ValueError(
            f"no image of {images.root} can be read: {named(skipped)}; nothing is left"
        )
    beside = [images.left_out, skipped_in_words(broken)]
    said = "; ".join(filter(None, beside))
    return replace(images.take(kept), skipped=skipped, left_out=said)


def named(skipped: dict[str, str]) -> str:
    """The first broken images with their reasons, and how many more there are."""
    shown = ", ".join(f"{path} ({why})" for path, why in list(skipped.items())[:SHOWN])
    more = f", and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
    return f"{shown}{more}"


def skipped_in_words(skipped: dict[str, str]) -> str:
    """ "2 broken images left out: a.png (...), b.png (...)"."""
    count = broken_images(len(skipped))
    return f"{count} left out: {named(skipped)}"


def broken_images(count: int) -> str:
    """ "1 broken image", "2 broken images"."""
    return f"{count:,} broken image{'s' * (count != 1)}"
