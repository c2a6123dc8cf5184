"""The OOD sets that ODIN's authors published: Tiny-ImageNet and LSUN, cropped and resized, and iSUN
(Liang, Li and Srikant 2018, "Enhancing the reliability of out-of-distribution image detection in
neural networks").

    images = load("isun", preprocessing, "datasets")      # of datasets/iSUN/, an archive unpacked

A set is the folder that its archive unpacks to: images, or one folder of images. Nothing is
downloaded here; `refuse_absent` says where a person gets the archives.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from images.downloads import fetch_command
from images.folders import absence, quoted
from images.sets import ImageFiles, Preprocessing, image_folder

# whose README links the archives, and whose code reads 10,000 images of each set, 8,925 of iSUN
SOURCE = "https://github.com/facebookresearch/odin"
SHOWN = 3  # folders that a message names


@dataclass(frozen=True)
class Archive:
    """What an archive of that page holds."""

    folder: str  # that it unpacks to
    images: int = 10_000

    @property
    def file(self) -> str:
        return f"{self.folder}.tar.gz"


SETS = {
    "tin_crop": Archive("Imagenet"),
    "tin_resize": Archive("Imagenet_resize"),
    "lsun_crop": Archive("LSUN"),
    "lsun_resize": Archive("LSUN_resize"),
    "isun": Archive("iSUN", images=8_925),
}


def folder_of(name: str, data_dir: str | os.PathLike) -> Path:
    """Where the images of a set lie, at any depth."""
    return Path(data_dir) / SETS[name].folder


def named_by_folder(name: str) -> str | None:
    """The set whose archive has this name in any case, or None.

    They are no aliases: a folder of a person's own may well be called imagenet=FOLDER or
    lsun=FOLDER, and later commands name it without its folder."""
    return next((known for known, one in SETS.items() if one.folder.lower() == name), None)


def refuse_absent(names: Iterable[str], data_dir: str | os.PathLike) -> None:
    """ValueError that names all sets without a folder, where each was looked for, and what brings
    them there."""
    folders = {name: folder_of(name, data_dir) for name in names}
    absent = [name for name, folder in folders.items() if not folder.is_dir()]
    if not absent:
        return
    looked = [f"for {name} in {folders[name]}, which {absence(folders[name])}" for name in absent]
    archives = [SETS[name].file for name in absent]
    place = quoted(data_dir)
    unpack = [f"mkdir -p {place}", *(f"tar -xzf {file} -C {place}" for file in archives)]
    own = " ".join(f"{name}=FOLDER" for name in absent)
    raise ValueError(
        f"looked {'; '.join(looked)}. Fetch {', '.join(archives)}, which {SOURCE} links, and unpack"
        f" with: {' && '.join(unpack)}; then this finds all: {fetch_command(absent, data_dir)}."
        f" Images that lie elsewhere: --ood {own}"
    )


def load(name: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> ImageFiles:
    """The images of a set; their classes are unknown.

    ValueError where the folder is absent or holds something else; a warning where the images are
    not as many as were published."""
    refuse_absent([name], data_dir)
    images = image_folder(folder_of(name, data_dir), preprocessing)
    refuse_other(name, images)
    published = SETS[name].images
    if len(images) != published:
        warnings.warn(
            f"{name} has {len(images):,} images in {images.root}, and ODIN's authors published"
            f" {published:,}: figures of the two are not to be compared",
            stacklevel=2,
        )
    return replace(images, class_names=[])


def refuse_other(name: str, images: ImageFiles) -> None:
    """ValueError where images lie in several folders: ImageNet itself may be called Imagenet."""
    folders = sorted({str(Path(path).parent) for path in images.paths})
    if len(folders) == 1:
        return
    shown = ", ".join(folders[:SHOWN])
    raise ValueError(
        f"{images.root} holds images in {len(folders):,} folders, first {shown}; expected {name} as"
        f" its archive {SETS[name].file} has it, all images in one folder. If these are meant,"
        f" name the folder: --ood {name}={quoted(images.root)}"
    )
