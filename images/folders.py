"""Folders of images: which files count as images, in which order, and two hashes that tell whether
they have changed.

    listing("photographs").source    "files <hex>", from names, sizes and times: opens no file
    content_hash("photographs")      "sha256 <hex>", from names and bytes: reads every file

A single file is a folder of one. Nothing here decodes an image or imports torch: the scorers ask,
too, whether the images behind a feature file are still the same. images/reading.py decodes them.
"""

import errno
import os
import shlex
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

# A fixed list: what a set holds must not depend on the codecs of a machine. What Pillow alone
# cannot read, or is no photograph (.heic, .pdf, .svg), is left out, and that is said.
ENDINGS = {
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".jp2",
    ".j2k",
    ".tif",
    ".tiff",
    ".webp",
    ".avif",
    ".gif",
    ".bmp",
    ".dib",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".tga",
}
# What a system puts beside photographs, like hidden files.
SILENT = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
# How files are read: part of both hashes, so that features made by other rules are made anew.
RULES = "2: upright by EXIF"
TOGETHER = 64  # files that a thread takes at once: handing over one costs as much as a small file
BLOCK = 1 << 20  # bytes of a file that are held at once while it is hashed


# ---- what a folder holds -------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The images of a folder, at any depth, in the set's order."""

    root: Path
    stamps: dict  # {path below root: "size time"}
    others: Counter  # {kind of other file: how many}

    @property
    def paths(self):
        return list(self.stamps)

    @property
    def source(self):
        """The text "files <hex>", which changes with every name, size and modification time."""
        lines = [RULES, *(f"{path} {stamp}" for path, stamp in self.stamps.items())]
        return f"files {sha256(chr(10).join(lines).encode()).hexdigest()}"


def listing(place):
    """The images of a folder, or of a single file -> Listing; ValueError where there are none, or a
    name is not UTF-8.
    """
    place = Path(place)
    check_names(place, [])
    if place.is_file():
        return single(place)
    if not place.is_dir():
        raise ValueError(
            f"{place} {absence(place)}; expected a folder of images, or one image ({endings()})"
        )
    stamps, others = list_files(place)
    if not stamps:
        raise ValueError(
            f"{place} holds no images; expected files ending in {endings()}, found "
            f"{counted(others) or 'none'}{advice(others, place)}"
        )
    check_names(place, stamps)
    return Listing(place, dict(sorted(stamps.items(), key=lambda item: item[0].split("/"))), others)


def single(path):
    """One image file -> a Listing of one."""
    ending = os.path.splitext(path.name)[1].lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"{path} is not an image that can be read; expected a file ending in {endings()}"
            f"{advice([ending], path)}"
        )
    return Listing(path.parent, {path.name: stamp(os.stat(path))}, Counter())


def list_files(root):
    """({path of an image below root: its stamp}, Counter of the kinds of other files); hidden files
    count as absent.
    """
    stamps, others = {}, Counter()
    for path in walk(root):
        ending = os.path.splitext(path)[1].lower()
        try:
            status = os.stat(root / path)
        except OSError:
            others["broken link"] += 1
            continue
        if ending in ENDINGS and stat.S_ISREG(status.st_mode):
            stamps[path] = stamp(status)
        else:
            others[escaped(ending) or "no ending"] += 1
    return stamps, others


def stamp(status):
    return f"{status.st_size} {status.st_mtime_ns}"


def walk(folder, inside="", above=frozenset()):
    """Yield the paths, below the folder, of all files at any depth; a linked folder counts, unless
    it leads back up.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be listed ({error.strerror}); let yourself read it: "
            f"chmod u+rx {quoted(folder)}"
        ) from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in SILENT:
            continue
        if is_folder(entry):
            yield from walk(entry.path, f"{inside}{entry.name}/", above | {real})
        else:
            yield f"{inside}{entry.name}"


def is_folder(entry):
    """True if a directory entry is a folder, or a link to one; a link that leads to itself is
    neither.
    """
    try:
        return entry.is_dir()
    except OSError:
        return False


# ---- whether it is still the same ----------------------------------------------------------------


def fingerprint(place):
    """A folder or file as a record keeps it: {"listing": `source`, "content": by bytes}."""
    found = listing(place)
    content = content_of(found.paths, file_hashes(found.root, found.paths))
    return {"listing": found.source, "content": content}


def listing_hash(place):
    """The `source` of a folder or file, by names, sizes and times; None where it is gone or holds
    no images.
    """
    try:
        return listing(place).source
    except (ValueError, OSError):
        return None


def content_hash(place, paths=None):
    """The content, "sha256 <hex>", of all images of a folder or file, or of these `paths` below it.

    A feature file's column `path` gives the paths of a part, such as the training images without
    those of validation. OSError where a file is gone.
    """
    if paths is None:
        found = listing(place)
        place, paths = found.root, found.paths
    elif Path(place).is_file():
        place = Path(place).parent
    return content_of(paths, file_hashes(place, paths))


def content_of(paths, hashes):
    """Paths in order and {path: SHA-256} -> "sha256 <hex>"; no file name holds the zero byte that
    ends each part.
    """
    digest = sha256(RULES.encode())
    for path in paths:
        digest.update(f"\0{path}\0{hashes[path]}".encode())
    return f"sha256 {digest.hexdigest()}"


def file_hashes(root, paths, threads=None):
    """{path below root: SHA-256 of the file's bytes}, read in threads."""
    paths = list(paths)
    parts = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]

    def hash_part(part):
        return {path: file_hash(Path(root) / path) for path in part}

    hashes = {}
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for part in pool.map(hash_part, parts):
            hashes |= part
    return hashes


def file_hash(path):
    """SHA-256 of a file's bytes, in hexadecimal. Never remembered by size and time: both can stay
    while the bytes change.
    """
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- words ---------------------------------------------------------------------------------------


def endings():
    return ", ".join(sorted(ENDINGS))


def absence(place):
    """Why a path leads to no folder, as the end of a sentence."""
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "leads through links that go round in a circle"
    return "is not a folder"


def check_names(root, paths):
    """ValueError where a name is not UTF-8: neither CSV nor JSON could hold it, and that would show
    after the long work.
    """
    odd = [path for path in (str(root), *paths) if escaped(path) != path]
    if odd:
        more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
        raise ValueError(
            f"the file name {escaped(odd[0])}{more} in {escaped(str(root))} is not UTF-8; "
            f"rename it, such as with: convmv -r -f latin1 -t utf8 --notest {quoted(root)}"
        )


def escaped(name):
    """A file name whose bytes that are no UTF-8 are written as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def quoted(path):
    """A path as a shell takes it back; bytes that are no UTF-8 in the form $'caf\\xe9' of bash and
    zsh.
    """
    name = str(path)
    if escaped(name) == name:
        return shlex.quote(name)
    plain = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{escaped(plain)}'"


def counted(others, fate=""):
    """A Counter of kinds -> "3 other files<fate> (.heic, .txt, no ending)", or nothing."""
    kinds = ", ".join(sorted(others, key=lambda kind: (not kind.startswith("."), kind)))
    return (
        f"{others.total():,} other file{'s' * (others.total() > 1)}{fate} ({kinds})"
        if others
        else ""
    )


def advice(kinds, place):
    """How to convert photographs of kinds that Pillow does not read."""
    if not {".heic", ".heif"} & set(kinds):
        return ""
    files = f"find {quoted(place)} -iname '*.hei[cf]'"
    return f"; convert them, such as with: {files} -exec magick mogrify -format jpg {{}} +"
