"""Is it current? The one place that decides whether outputs are what their inputs would make now.

    record    <script>.json in results/<stem>/: a finished stage's arguments, and every file that
        it looked for, found and wrote

Three things are compared: arguments, files (`SeenFile`) and images (`SeenImages`). Each comparison
answers in words, "" for no change, so that whoever redoes work can say why. A file counts as the
same when its bytes are, or when other bytes say the same: a table that is written again with other
line endings makes nothing stale. An input that was absent is known as absent."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from artifacts import records
from images import folders as image_folders
from utils import plain, write_json

# A record without these was not written by a finished stage of ours.
NEEDED = {"arguments", "inputs", "outputs"}


# ---- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenFile:
    """A file as a sidecar or record saw it; `sha256` is None where there was no file."""

    sha256: str | None
    content_sha256: str | None = None

    @classmethod
    def of_sidecar(cls, sidecar: Mapping) -> "SeenFile":
        """The file beside a sidecar, as it was written."""
        return cls(sidecar.get("sha256"), sidecar.get("content_sha256"))

    def change(self, path: str | os.PathLike, content: Callable[[], str] | None = None) -> str:
        """What became of the file at `path`: "" where it still says the same.

        `content` hashes what the file says, for callers that hold it in memory: it is then tried
        first, since it is quicker to hash than the longer bytes of a CSV."""
        path = Path(path)
        if self.sha256 is None:
            return "came since" if path.exists() else ""
        if not records.is_there(path):
            return "is gone"
        if content is not None and content() == self.content_sha256:
            return ""
        if records.sha256(path) == self.sha256:
            return ""
        if content is None and self.says_the_same(path):
            return ""
        return "changed"

    def unchanged(self, path: str | os.PathLike) -> bool:
        return not self.change(path)

    def says_the_same(self, path: Path) -> bool:
        """True if the content is known, and the file now has the same."""
        known = self.content_sha256 is not None
        return known and records.content_sha256(path) == self.content_sha256


def check_file(
    path: str | os.PathLike,
    content: Callable[[], str],
    rows: int,
    stale: records.Stale | None = None,
    remedy: str | None = None,
) -> bool:
    """Compare a file that was read with its sidecar; `content()` is a hash of what it says.

    True if they agree. What has no sidecar, or one of an older version that holds no hash, is taken
    on trust (feature_files.py says so), as is what `stale` allows: False. ValueError for a file
    without rows, and for one that differs where nothing allows it."""
    return check_against(path, records.read_sidecar(path), content, rows, stale, remedy)


def check_against(
    path: str | os.PathLike,
    sidecar: Mapping,
    content: Callable[[], str],
    rows: int,
    stale: records.Stale | None = None,
    remedy: str | None = None,
) -> bool:
    """`check_file` against what a sidecar says: the file's own, or of a shard that of its set."""
    if rows == 0:
        raise ValueError(f"{path} holds no rows, expected some; make it anew with: {remedy}")
    written = sidecar.get("rows", rows)
    seen = SeenFile.of_sidecar(sidecar)
    if seen.sha256 is None and rows == written:
        return False
    if seen.sha256 is not None and not seen.change(path, content):
        return True
    what = "was changed after it was written: its content is not that of its sidecar"
    if rows != written:
        what = f"holds {rows} rows, expected {written}, as its sidecar says"
    (stale or records.Stale()).found(f"{path} {what}", remedy)
    return False


# ---- images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenImages:
    """A set of images as a sidecar or record saw it.

    `listing` is a hash of names, sizes and times, which opens no file; `content` is one of names
    and bytes."""

    listing: str | None
    content: str | None

    def same(self, listing: str | None, content: Callable[[], str], verify: bool = False) -> bool:
        """True if the images with this listing are still those.

        Their content is read where the listing is another one, or None, or with `verify`."""
        if listing is not None and listing == self.listing and not verify:
            return True
        return self.content is not None and content() == self.content

    def same_folder(self, folder: str | os.PathLike, verify: bool = False) -> bool:
        """True if a folder, or a single file, still holds these images."""
        listing = image_folders.listing_hash(folder)
        if listing is None:
            return False
        return self.same(listing, lambda: image_folders.content_hash(folder), verify)


# ---- arguments -----------------------------------------------------------------------------------


def changed_arguments(then: Mapping, now: Mapping) -> list[str]:
    """Names of the arguments that differ between two runs, in the order of their names.

    An argument that is None counts like one that does not exist: a flag that came with a later
    version changes nothing of what an earlier one made without it. False and empty lists are
    values: `--no-nesterov` and `--augment` with nothing behind it override a recipe."""
    now = plain(now)
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def differing_flag(then: Mapping, now: Mapping) -> str:
    """The first argument that differs, as a sentence; "" where none does."""
    changed = changed_arguments(then, now)
    if not changed:
        return ""
    name, now = changed[0], plain(now)
    flag = f"--{name.replace('_', '-')}"
    return f"{flag} is {shown(now.get(name))}, and was {shown(then.get(name))}"


def shown(value: object) -> str:
    """An argument's value as it is typed in a shell."""
    if value is None:
        return "not given"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "empty"
    return str(value)


# ---- records of stages ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What a finished stage said of itself; `content` is {} where no record is."""

    path: Path
    content: Mapping

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Record":
        """The record at `path`. Its outputs lie in its own folder: ValueError for one that names
        others, or that holds a value of another kind than expected."""
        path = Path(path)
        content = records.read_checked(path)
        for name in content.get("outputs", {}):
            records.inside(path.parent, name)
        return cls(path, content)

    @property
    def arguments(self) -> dict:
        return self.content.get("arguments") or {}

    @property
    def inputs(self) -> dict[str, str | None]:
        """{path as seen from the record's folder: SHA-256, None where there was no such file}."""
        return self.content.get("inputs") or {}

    @property
    def outputs(self) -> dict[str, str | None]:
        return self.content.get("outputs") or {}

    @property
    def contents(self) -> dict[str, str]:
        """{path: hash of what the file says} of those files that have more than their bytes."""
        return self.content.get("contents") or {}

    @property
    def folders(self) -> dict[str, dict]:
        """{folder of images: {"listing": hash, "content": hash}}."""
        return self.content.get("folders") or {}

    @property
    def is_complete(self) -> bool:
        return set(self.content) >= NEEDED

    def input(self, name: str) -> SeenFile:
        """An input as the stage saw it; one that it did not look for counts as absent."""
        return SeenFile(self.inputs.get(name), self.contents.get(name))

    def output(self, name: str) -> SeenFile:
        return SeenFile(self.outputs.get(name), self.contents.get(name))

    def has_read(self, path: str | os.PathLike) -> bool:
        """True if a file of these bytes, or of this content, was among the inputs.

        Two folders can hold different checkpoints of one name."""
        if not Path(path).is_file():
            return False
        content = records.content_sha256(path)
        if content is not None and content in self.contents.values():
            return True
        return records.sha256(path) in self.inputs.values()

    def why_outdated(self, arguments: Mapping, verify: bool = False) -> str:
        """Why the stage has to run again, in words; "" where its outputs are current.

        `arguments` are those of the run that is asked for now. Images count as unchanged where
        their names, sizes and times are; where these changed, or with `verify`, by their bytes."""
        if not self.is_complete:
            return "it has not run yet"
        return (
            differing_flag(self.arguments, arguments)
            or self.changed_file()
            or self.changed_listing()
            or self.changed_images(verify)
        )

    def changed_file(self) -> str:
        """The first input or output that is no longer what it was, as a sentence."""
        for files in (self.inputs, self.outputs):
            for name, digest in files.items():
                seen = SeenFile(digest, self.contents.get(name))
                if change := seen.change(self.path.parent / name):
                    return f"{name} {change}"
        return ""

    def changed_listing(self) -> str:
        """The first pattern of names that finds other files than it did, as a sentence."""
        for pattern, names in self.content.get("listings", {}).items():
            found = records.listing(self.path.parent, pattern)
            if found != names:
                others = sorted({*found} ^ {*names})
                return f"{', '.join(others)} came or went"
        return ""

    def changed_images(self, verify: bool = False) -> str:
        """The first folder of images that holds others than it did, as a sentence."""
        for folder, then in self.folders.items():
            seen = SeenImages(then.get("listing"), then.get("content"))
            if not seen.same_folder(folder, verify):
                return f"the images in {folder} changed"
        return ""


def is_current(path: str | os.PathLike, arguments: Mapping, verify: bool = False) -> bool:
    """True if a record stands at `path` with these arguments, and all that it looked for, read and
    wrote is unchanged."""
    return not Record.read(path).why_outdated(arguments, verify)


def write_record(
    path: str | os.PathLike,
    arguments: Mapping,
    inputs: Iterable[str | os.PathLike],
    outputs: Iterable[str | os.PathLike],
    listings: Iterable[str] = (),
    folders: Mapping | None = None,
    stale: records.Stale | None = None,
    **more: object,
) -> None:
    """The record of a finished stage: its arguments and what it looked for, read and wrote.

    `inputs` that are absent are recorded as absent; `listings`, patterns of names in the record's
    folder, are recorded with the files that they find: a stage is no longer current when another
    file comes that it would have read. `folders` of images are {folder: {"listing": by names, sizes
    and times, "content": by the files' bytes}}, as images.folders hashes them."""
    files = all_files(path, inputs, outputs, listings, folders)
    write_json(path, records.provenance(arguments, stale, **files, **more))


def all_files(
    path: str | os.PathLike,
    inputs: Iterable[str | os.PathLike],
    outputs: Iterable[str | os.PathLike],
    listings: Iterable[str] = (),
    folders: Mapping | None = None,
) -> dict[str, dict]:
    """What `Record.why_outdated` compares, as it stands in a record at `path`."""
    root, inputs, outputs = Path(path).parent, list(inputs), list(outputs)
    present = [file for file in (*inputs, *outputs) if records.is_there(file)]
    contents = {os.path.relpath(file, root): records.content_sha256(file) for file in present}
    return {
        "inputs": fingerprints(inputs, root),
        "outputs": fingerprints(outputs, root),
        "contents": {name: value for name, value in contents.items() if value},
        "listings": {pattern: records.listing(root, pattern) for pattern in listings},
        "folders": {str(folder): hashes for folder, hashes in (folders or {}).items()},
    }


def fingerprints(
    paths: Iterable[str | os.PathLike], root: str | os.PathLike
) -> dict[str, str | None]:
    """{path as seen from the folder `root`: SHA-256, None where there is no such file}; files side
    by side."""
    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(digest_of, paths)
        return {
            os.path.relpath(path, root): digest for path, digest in zip(paths, digests, strict=True)
        }


def digest_of(path: str | os.PathLike) -> str | None:
    return records.sha256(path) if records.is_there(path) else None
