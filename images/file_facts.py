"""What image files are like, apart from what they show: format, size, aspect, JPEG quality.

    facts = measure(root, paths)                     # of headers alone
    notes(id_facts, {"textures": ood_facts})         # where scores may see the file
    Matched.of(facts).apply(image)                   # --match-format

Scores see files too: KNN's FPR rose from 12 to 31% when OOD photographs were stored as the ID
images are. The scorers read the facts from sidecars, so that nothing here imports torch.
"""

import io
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from images import reading

LOOKED_AT = 5_000  # files of a set whose headers are read, evenly spaced: 5,000 take half a second
SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # as Pillow numbers them
SIDEWAYS = 5  # EXIF orientations from here on swap width and height
# Up to here two sets count as alike: share of files in other formats, JPEG quality, ratio of sides,
# ratio of aspects; and from here on, as a share, files count as being of one size.
FORMATS, QUALITIES, SIDES, ASPECTS, ONE_SIZE = 0.1, 5, 1.25, 1.1, 0.9
# The luminance table of the JPEG standard (ITU-T T.81, table K.1), by which encoders scale theirs.
ROWS = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
LUMINANCE = np.array([int(value) for value in ROWS.split()])


@dataclass(frozen=True)
class FileFacts:
    """The files of a set: counts and medians over those that were looked at."""

    files: int
    looked_at: int
    formats: dict[str, int]  # {format: how many}, the most frequent first
    width: int  # upright, in pixels
    height: int
    aspect: float  # width / height
    one_size: float  # the share of files that have the most frequent size
    jpeg_quality: int | None  # 1 to 100; None without JPEG files
    subsampling: str | None  # of most JPEG files

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def format(self) -> str:
        """The most frequent format."""
        return next(iter(self.formats))

    @property
    def words(self) -> str:
        """ "JPEG 75 500x375", "PNG 32x32", "90% JPEG 75, about 500x375"."""
        share = self.formats[self.format] / self.looked_at
        text = self.format if share > 1 - FORMATS else f"{share:.0%} {self.format}"
        if self.format == "JPEG" and self.jpeg_quality is not None:
            text += f" {self.jpeg_quality}"
        about = " " if self.one_size >= ONE_SIZE else " of many sizes, about "
        return f"{text}{about}{self.width}x{self.height}"


# ---- headers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What the header of one file says."""

    format: str
    width: int
    height: int
    quality: int | None
    subsampling: str | None


def measure(root: str | Path, paths: Sequence[str], threads: int = 1) -> FileFacts | None:
    """The facts of the files at these paths below root; None where none has a readable header.

    Of more than LOOKED_AT files an evenly spaced part is read, the same each time.
    """
    step = max(1, math.ceil(len(paths) / LOOKED_AT))
    chosen = paths[::step]
    with ThreadPoolExecutor(threads) as pool:
        headers = [one for one in pool.map(lambda path: header(f"{root}/{path}"), chosen) if one]
    if not headers:
        return None
    formats = Counter(one.format for one in headers)
    sizes = Counter((one.width, one.height) for one in headers)
    qualities = [one.quality for one in headers if one.quality is not None]
    sampled = Counter(one.subsampling for one in headers if one.subsampling)
    return FileFacts(
        len(paths),
        len(headers),
        dict(formats.most_common()),
        statistics.median_low(one.width for one in headers),
        statistics.median_low(one.height for one in headers),
        round(statistics.median_low(one.width / one.height for one in headers), 4),
        round(sizes.most_common(1)[0][1] / len(headers), 4),
        statistics.median_low(qualities) if qualities else None,
        sampled.most_common(1)[0][0] if sampled else None,
    )


def header(path: str) -> Header | None:
    """What the header of a file says; None where it cannot be read."""
    try:
        with reading.open_image(path) as image:
            width, height = image.size
            if (reading.orientation(image) or 1) >= SIDEWAYS:
                width, height = height, width
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if kind != "JPEG":
                return Header(kind, width, height, None, None)
            table = image.quantization[0]  # type: ignore[attr-defined]  # of JPEG files
            sampling = SUBSAMPLING.get(JpegImagePlugin.get_sampling(image))
            return Header(kind, width, height, jpeg_quality(tuple(table)), sampling)
    except Exception:  # what is broken is named elsewhere
        return None


@cache
def jpeg_quality(table: tuple[int, ...]) -> int:
    """A luminance table (64,) -> the quality, 1 to 100, whose table in libjpeg is nearest to it.

    Exact for files of libjpeg and its kin; other encoders have tables of their own, for which it is
    the quality of about as many bits. Where several are equally near, the highest.
    """
    distance = np.abs(tables() - np.array(table)).sum(1)
    return 100 - int(distance[::-1].argmin())


@cache
def tables() -> np.ndarray:
    """The luminance tables (100, 64) of libjpeg for the qualities 1 to 100."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((LUMINANCE * scale + 50) // 100).clip(1, 255)


# ---- what differs --------------------------------------------------------------------------------


def alike(one: FileFacts, other: FileFacts) -> bool:
    """True where two sets of files differ by nothing that this module knows."""
    names = {*one.formats, *other.formats}
    apart = sum(
        abs(one.formats.get(name, 0) / one.looked_at - other.formats.get(name, 0) / other.looked_at)
        for name in names
    )
    sides = math.sqrt(one.width * one.height / (other.width * other.height))
    aspects = one.aspect / other.aspect
    one_sized = [facts.one_size >= ONE_SIZE for facts in (one, other)]
    qualities = [facts.jpeg_quality for facts in (one, other) if facts.jpeg_quality is not None]
    return (
        apart / 2 <= FORMATS
        and 1 / SIDES <= sides <= SIDES
        and 1 / ASPECTS <= aspects <= ASPECTS
        and one_sized[0] == one_sized[1]
        and max(qualities, default=0) - min(qualities, default=0) <= QUALITIES
    )


def notes(own: FileFacts | None, others: Mapping[str, FileFacts | None]) -> list[str]:
    """A line for each OOD set whose files differ from the ID test set's; none where the ID set lies
    in no files."""
    lines = []
    for name, facts in others.items():
        if own is not None and facts is not None and not alike(own, facts):
            lines.append(
                f"{name}: {facts.words}, ID: {own.words}: scores may see the file, not the content;"
                " run_networks.py --match-format evens it out"
            )
    return lines


def notes_of(own: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`notes` from the sidecars of features; none where the files were evened out."""
    if (own.get("preprocessing") or {}).get("match"):
        return []
    return notes(recorded(own), {name: recorded(sidecar) for name, sidecar in others.items()})


def recorded(sidecar: Mapping[str, Any]) -> FileFacts | None:
    """The facts that a sidecar has; None where it has none."""
    found = sidecar.get("files")
    return FileFacts(**found) if found else None


# ---- evening it out ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matched:
    """The size and encoding of the ID images, which every image is given in memory."""

    width: int
    height: int
    format: str
    quality: int | None = None  # of JPEG
    subsampling: str | None = None

    @classmethod
    def of(cls, facts: FileFacts) -> "Matched":
        """The median size, and the median quality where most files are JPEG."""
        if facts.format != "JPEG":
            return cls(facts.width, facts.height, facts.format)
        sampling = facts.subsampling or SUBSAMPLING[2]
        return cls(facts.width, facts.height, "JPEG", facts.jpeg_quality, sampling)

    @property
    def words(self) -> str:
        """ "224x224, JPEG 75 4:2:0"."""
        if self.format == "JPEG":
            return f"{self.width}x{self.height}, JPEG {self.quality} {self.subsampling}"
        return (
            f"{self.width}x{self.height}; {self.format} is not encoded anew, so that what JPEG left"
            " in other sets stays"
        )

    def apply(self, image: Image.Image) -> Image.Image:
        """An RGB image -> the same in this size and encoding.

        Its centre is cut to the aspect, not distorted, and resized (bicubic, antialiased) where the
        size differs; as JPEG it is then encoded and decoded."""
        size = (self.width, self.height)
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        if self.format != "JPEG":
            return image
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        with Image.open(file, formats=("JPEG",)) as again:
            return again.convert("RGB")

    def apply_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """uint8 images, each (H, W, 3) -> (N, height, width, 3)."""
        return np.stack([np.asarray(self.apply(Image.fromarray(image))) for image in images])
