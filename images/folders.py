"""Folders of images: which files count as images, in which order, and two hashes that tell whether
they have changed.

    listing("photographs").source    "files <hex>", from names, sizes and times: opens no file
    content_hash("photographs")      "sha256 <hex>", from names and bytes: reads every file

A single file is a folder of one. LIST.txt@ROOT stands for the images of a list (images/lists.py),
in the list's order: their labels are then part of both hashes. Nothing here decodes an image or
imports torch: the scorers ask, too, whether the images behind a feature file are still the same.
images/reading.py decodes them.
"""

import errno
import os
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from images import lists

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
# Files that operating systems leave in photo folders; like hidden files, they are not counted.
SILENT = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
# How files are read: part of both hashes, so that features made by other rules are made anew.
RULES = "2: upright by EXIF"
TOGETHER = 64  # files that a thread takes at once: handing over one costs as much as a small file
MISSING = "missing"  # stands in both hashes for a file that a list names and that is not there
BLOCK = 1 << 20  # bytes of a file that are held at once while it is hashed


# ---- what a folder holds -------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The images of a folder, at any depth, or of a list, in the set's order."""

    root: Path
    stamps: dict[str, str]  # {path below root: "size time"}; of a list "label size time"
    others: Counter[str]  # {kind of other file: how many}
    said: dict[str, str] = field(default_factory=dict)  # of a list: {path: its label, - for none}
    missing: tuple[str, ...] = ()  # of a list: paths that lead to no file

    @property
    def paths(self) -> list[str]:
        return list(self.stamps)

    @property
    def source(self) -> str:
        """The text "files <hex>", which changes with every name, size and modification time."""
        stamped = [f"{path} {stamp}" for path, stamp in self.stamps.items()]
        text = "\n".join([RULES, *stamped])
        digest = sha256(text.encode())
        return f"files {digest.hexdigest()}"


def listing(place: str | os.PathLike) -> Listing:
    """The images of a folder, of a single file, or of a list.

    ValueError if there are none, or if a name is not UTF-8; of a list also for lines that cannot be
    used. Images that a list names and that are not there are among its `missing`.
    """
    if lists.parts(place):
        return listed(place)
    place = Path(place)
    check_names(place, [])
    if place.is_file():
        return single(place)
    if not place.is_dir():
        raise ValueError(
            f"{place} {absence(place)}; expected a folder of images, or one image ({endings()}), or"
            " a list LIST.txt@ROOT"
        )
    stamps, others = list_files(place)
    if not stamps:
        raise ValueError(
            f"{place} holds no images; expected files ending in {endings()}, found "
            f"{counted(others) or 'none'}{advice(others, place)}"
        )
    check_names(place, list(stamps))
    in_order = sorted(stamps, key=lambda path: path.split("/"))
    return Listing(place, {path: stamps[path] for path in in_order}, others)


def listed(place: str | os.PathLike) -> Listing:
    """The images of a list LIST.txt@ROOT."""
    found = lists.read(place)
    lists.refuse(found)
    check_names(found.root, found.paths)
    said, missing = found.said, []
    stamps: dict[str, str] = {}
    for path, label in said.items():
        try:
            status = os.stat(f"{found.root}/{path}")
            there = stat.S_ISREG(status.st_mode)
        except OSError:
            there = False
        if not there:
            missing.append(path)
        stamps[path] = f"{label} {stamp(status) if there else MISSING}"
    return Listing(found.root, stamps, Counter(), said, tuple(missing))


def single(path: Path) -> Listing:
    """One image file as a Listing of one."""
    ending = os.path.splitext(path.name)[1].lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"{path} is not an image that can be read; expected a file ending in {endings()}"
            f"{advice([ending], path)}{list_advice(path)}"
        )
    return Listing(path.parent, {path.name: stamp(os.stat(path))}, Counter())


def list_files(root: Path) -> tuple[dict[str, str], Counter[str]]:
    """({path of an image below root: its stamp}, how many other files there are of each kind).

    Hidden files count as absent.
    """
    stamps: dict[str, str] = {}
    others: Counter[str] = Counter()
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


def stamp(status: os.stat_result) -> str:
    """A file's size in bytes and its modification time in nanoseconds."""
    return f"{status.st_size} {status.st_mtime_ns}"


def walk(
    folder: str | os.PathLike, inside: str = "", above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the paths, below the folder, of all files at any depth.

    Linked folders are followed, unless they lead back up. `inside` is put before each path, and
    `above` holds the real paths of the folders that this one lies in. ValueError if a folder cannot
    be listed.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries: list[os.DirEntry[str]] = list(os.scandir(os.fspath(folder)))
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


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True if a directory entry is a folder, or a link to one.

    A link that leads to itself is neither.
    """
    try:
        return entry.is_dir()
    except OSError:
        return False


# ---- whether it is still the same ----------------------------------------------------------------


def fingerprint(place: str | os.PathLike, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """A folder, file or list as a record keeps it: {"listing": its `source`, "content": its hash}.

    known  {path: SHA-256} of files that were read already; others are read now
    """
    found = listing(place)
    return {"listing": found.source, "content": whole_content(found, known or {})}


def whole_content(found: Listing, known: Mapping[str, str]) -> str:
    """The content of all images of a listing; files whose hash is not `known` are read."""
    hashes = {path: known[path] for path in found.paths if path in known}
    hashes |= dict.fromkeys(found.missing, MISSING)
    hashes |= file_hashes(found.root, [path for path in found.paths if path not in hashes])
    return content_of(found.paths, hashes, found.said)


def listing_hash(place: str | os.PathLike) -> str | None:
    """The `source` of a folder, file or list, by names, sizes and times.

    None if it is gone or holds no images. ValueError for a list that is there and has lines that
    cannot be used.
    """
    if lists.parts(place):
        if not lists.exists(place):
            return None
        found = listing(place)
        return None if len(found.missing) == len(found.stamps) else found.source
    try:
        return listing(place).source
    except (ValueError, OSError):
        return None


def content_hash(place: str | os.PathLike, paths: Collection[str] | None = None) -> str:
    """The content, "sha256 <hex>", of all images of a folder or file, or of these `paths` below it.

    A feature file's column `path` gives the paths of a part, such as the training images without
    those of validation. OSError if a file is gone.
    """
    if paths is None:
        return fingerprint(place)["content"]
    said: Mapping[str, str] = {}
    root = Path(place)
    if lists.parts(place):
        found = lists.read(place)
        root, said = found.root, found.said
    elif root.is_file():
        root = root.parent
    hashes = file_hashes(root, paths)
    return content_of(paths, hashes, said)


def content_of(
    paths: Iterable[str], hashes: Mapping[str, str], said: Mapping[str, str] | None = None
) -> str:
    """Paths in order and {path: SHA-256} -> "sha256 <hex>"; of a list also {path: its label}."""
    digest = sha256(RULES.encode())
    for path in paths:
        # No file name holds the zero byte that begins each part.
        digest.update(f"\0{path}\0{hashes[path]}".encode())
        if said:
            digest.update(f"\0{said.get(path)}".encode())
    return f"sha256 {digest.hexdigest()}"


def file_hashes(
    root: str | os.PathLike, paths: Iterable[str], threads: int | None = None
) -> dict[str, str]:
    """{path below root: SHA-256 of the file's bytes}, read in threads."""
    root, paths = Path(root), list(paths)
    parts = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]

    def hash_part(part: list[str]) -> dict[str, str]:
        return {path: file_hash(root / path) for path in part}

    hashes: dict[str, str] = {}
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for part in pool.map(hash_part, parts):
            hashes |= part
    return hashes


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    It is never remembered by size and time: both can stay the same while the bytes change.
    """
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- words ---------------------------------------------------------------------------------------


def endings() -> str:
    """The endings of image files, as messages list them."""
    return ", ".join(sorted(ENDINGS))


def absence(place: str | os.PathLike) -> str:
    """Why a path leads to no folder, as the end of a sentence."""
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "leads through links that go round in a circle"
    return "is not a folder"


def check_names(root: Path, paths: Sequence[str]) -> None:
    """ValueError if a name is not UTF-8.

    Neither CSV nor JSON could hold it, and that would show only after the long work.
    """
    odd = [path for path in (str(root), *paths) if escaped(path) != path]
    if not odd:
        return
    more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
    raise ValueError(
        f"the file name {escaped(odd[0])}{more} in {escaped(str(root))} is not UTF-8; "
        f"rename it, such as with: convmv -r -f latin1 -t utf8 --notest {quoted(root)}"
    )


def escaped(name: str) -> str:
    """A file name in which bytes that are not UTF-8 are written like \\xe9."""
    raw = name.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def quoted(path: str | os.PathLike) -> str:
    """A path as a shell reads it back.

    Bytes that are not UTF-8 are written in the form $'caf\\xe9' of bash and zsh.
    """
    name = str(path)
    if escaped(name) == name:
        return shlex.quote(name)
    plain = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{escaped(plain)}'"


def first_folder(path: str) -> str:
    """ "birds/owl/1.png" -> "birds"; "" for a file in no folder."""
    folder, slash, _ = path.partition("/")
    return folder if slash else ""


def counted(others: Counter[str], fate: str = "") -> str:
    """How many files there are of other kinds: "3 other files<fate> (.heic, .txt, no ending)".

    The text is empty if there are none.
    """
    if not others:
        return ""
    endings_first = sorted(others, key=lambda kind: (not kind.startswith("."), kind))
    kinds = ", ".join(endings_first)
    plural = "s" if others.total() > 1 else ""
    return f"{others.total():,} other file{plural}{fate} ({kinds})"


def list_advice(path: Path) -> str:
    """How to name a text file that is meant as a list of images."""
    if path.suffix.lower() != ".txt":
        return ""
    return f"; if it is a list of images, name the folder of its paths too: NAME={path}@ROOT"


def advice(kinds: Iterable[str], place: str | os.PathLike) -> str:
    """How to convert photographs of kinds that Pillow does not read."""
    if not {".heic", ".heif"} & set(kinds):
        return ""
    files = f"find {quoted(place)} -iname '*.hei[cf]'"
    return f"; convert them, such as with: {files} -exec magick mogrify -format jpg {{}} +"
