"""Data sets that torchvision reads and downloads: what is there, what is broken, and what lies in
another place.

    found = fetched(Published("svhn", ...), build)

Files that are there but are not the published ones are never replaced: they may be a person's own.
A download that was interrupted leaves nothing behind that looks like the set.
"""

import contextlib
import hashlib
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes that are held at once while a file is hashed
SHOWN = 3  # files that a message names

allowed = True  # what holds in this process: without_downloads changes it


@contextlib.contextmanager
def without_downloads() -> Iterator[None]:
    """Within it a set that is not at hand is refused, and nothing is downloaded."""
    global allowed
    before, allowed = allowed, False
    try:
        yield
    finally:
        allowed = before


@dataclass(frozen=True)
class Published:
    """A set as its publisher names its files, by their paths below --data-dir; the MD5 is None
    where none is published.
    """

    name: str
    title: str
    data_dir: Path
    files: dict[str, str | None]  # {path: MD5} of the files that are read
    archives: dict[str, str | None]  # {path: MD5} of those that they are unpacked from
    wanted: str  # what to fetch by hand, and from where
    place: Path  # the folder where it belongs

    @property
    def everything(self) -> dict[str, str | None]:
        return {**self.files, **self.archives}

    def is_there(self, path: str) -> bool:
        file = self.data_dir / path
        return file.is_file()

    def wrong(self) -> list[str]:
        """Paths of files that are there but are not the published ones."""
        found = []
        for path, md5 in self.everything.items():
            if self.is_there(path) and not is_whole(self.data_dir / path, md5):
                found.append(path)
        return found

    def missing(self) -> list[str]:
        return [path for path in self.files if not self.is_there(path)]

    def any_at(self, data_dir: Path) -> bool:
        """True if any of the files lies in this folder as it should in --data-dir."""
        return any((data_dir / path).is_file() for path in self.everything)

    @property
    def command(self) -> str:
        return fetch_command([self.name], self.data_dir)

    @property
    def by_hand(self) -> str:
        return f"fetch {self.wanted} and put it into {self.place}"


def fetch_command(names: Iterable[str], data_dir: str | os.PathLike) -> str:
    """The command that sees that these OOD sets are at hand, and downloads what can be."""
    return (
        f"python run_networks.py --fetch --dataset digits --ood {' '.join(names)} "
        f"--data-dir {shlex.quote(str(data_dir))}"
    )


def fetched(published: Published, build: Callable[..., Any]) -> Any:
    """The torchvision data set that build(download=...) opens, downloaded if it is not there.

    ValueError if its files are broken, lie elsewhere, or cannot be downloaded.
    """
    try:
        return build(download=False)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # torchvision, pickle and NumPy fail on a broken file in many ways
        refuse_broken(published)
        if not published.missing():
            why = str(error) or type(error).__name__
            raise broken(published, list(published.files), why) from None
    refuse_elsewhere(published)
    if not allowed:
        raise ValueError(f"{published.title} is not under --data-dir {published.data_dir}")
    return downloaded(published, build)


def downloaded(published: Published, build: Callable[..., Any]) -> Any:
    """Download the set, or unpack its archive; what an interruption leaves behind is removed."""
    before = [path for path in published.everything if (published.data_dir / path).exists()]
    try:
        return build(download=True)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # urllib, http, ssl, tarfile, zlib ... each has its own
        remove_halves(published, before)
        raise ValueError(failure(published, error)) from None
    except BaseException:  # Ctrl-C
        remove_halves(published, before)
        raise


def remove_halves(published: Published, before: Sequence[str]) -> None:
    """Remove the files that are not the published ones and were not there before."""
    new = set(published.wrong()) - set(before)
    for path in new:
        with contextlib.suppress(OSError):
            (published.data_dir / path).unlink()


def failure(published: Published, error: Exception) -> str:
    """What to say when neither the files are at hand nor a download succeeds."""
    missing = published.missing()
    if 0 < len(missing) < len(published.files):
        return (
            f"{published.title} is in {published.data_dir} only in part: {some(missing)} missing; "
            f"get the rest, on a machine with internet access, with: {published.command}, "
            f"or {published.by_hand}"
        )
    return (
        f"{published.title} is not under --data-dir {published.data_dir} and could not be "
        f"downloaded ({error}). On a machine with internet access {published.by_hand}"
    )


# ---- there, but not right ------------------------------------------------------------------------


def refuse_broken(published: Published) -> None:
    """ValueError if files are there but are not the published ones."""
    if wrong := published.wrong():
        raise broken(published, wrong, "not the published content")


def broken(published: Published, paths: Sequence[str], why: str) -> ValueError:
    """The error for a set whose files are there but cannot be used."""
    files = [published.data_dir / path for path in paths]
    with_sizes = [f"{file} ({file.stat().st_size:,} bytes)" for file in files[:SHOWN]]
    sizes = ", ".join(with_sizes)
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    removal = " ".join(shlex.quote(str(file)) for file in files)
    return ValueError(
        f"{published.title} is broken: {sizes}{more}: {why}. Remove with: rm {removal}; "
        f"then get it anew with: {published.command}, or {published.by_hand}"
    )


def is_whole(path: Path, md5: str | None) -> bool:
    """True if a file is the published one.

    Without a published MD5: true if it is as long as its own header says.
    """
    if md5 is None:
        return path.suffix == ".txt" or is_whole_idx(path)
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == md5


def is_whole_idx(path: Path) -> bool:
    """True if a file of MNIST's format, uint8, is as long as its header says.

    The file holds 0, 0, the type, the number of dimensions, each dimension's size in 4 bytes, and
    the values.
    """
    with open(path, "rb") as file:
        start = file.read(4)
        dimensions = start[3] if len(start) == 4 else 0
        sizes = [int.from_bytes(file.read(4), "big") for _ in range(dimensions)]
    if not sizes:
        return False
    header = 4 + 4 * len(sizes)
    values = math.prod(sizes)
    return path.stat().st_size == header + values


# ---- somewhere else ------------------------------------------------------------------------------


def refuse_elsewhere(published: Published) -> None:
    """ValueError if --data-dir is a level or two off, or if the files lie loose where torchvision
    does not look.
    """
    if published.any_at(published.data_dir):
        return
    here = Path(os.path.abspath(published.data_dir))
    below = folders_in(here)
    for other in (here.parent, here.parent.parent, *below):
        if published.any_at(other):
            path = next(path for path in published.everything if (other / path).is_file())
            raise ValueError(
                f"{published.title} was looked for in {here} and found in {other} ({path}); "
                f"give --data-dir {shlex.quote(str(other))}"
            )
    for folder in (here, *below):
        refuse_loose(published, folder)


def refuse_loose(published: Published, folder: Path) -> None:
    """ValueError if published files lie in this folder by their bare names."""
    loose = []
    for path, md5 in published.everything.items():
        beside = folder / Path(path).name
        if beside.is_file() and is_whole(beside, md5):
            loose.append(path)
    if not loose:
        return
    place = Path(loose[0]).parent
    target = Path(os.path.abspath(published.data_dir)) / place
    names = [Path(path).name for path in loose if Path(path).parent == place]
    files = " ".join(shlex.quote(str(folder / name)) for name in names)
    quoted_target = shlex.quote(str(target))
    raise ValueError(
        f"{published.title} was looked for in {target} and found in {folder}; move it with: "
        f"mkdir -p {quoted_target} && mv {files} {quoted_target}"
    )


def folders_in(folder: str | os.PathLike) -> list[Path]:
    """The folders directly inside a folder, sorted; none if it cannot be listed."""
    try:
        return sorted(path for path in Path(folder).iterdir() if path.is_dir())
    except OSError:
        return []


def some(paths: Sequence[str]) -> str:
    """The first paths and a verb: "a is", "a, b are", "a, b, c and 2 more are"."""
    shown = ", ".join(paths[:SHOWN])
    if len(paths) > SHOWN:
        return f"{shown} and {len(paths) - SHOWN} more are"
    if len(paths) > 1:
        return f"{shown} are"
    return f"{shown} is"
