"""Data sets that torchvision reads and downloads: what is at hand, what is broken, and what lies in
another place.

    found = fetched(Published("svhn", ...), build)

Files that are there and are not the published ones are never replaced: they may be a person's own.
A download that was interrupted leaves nothing behind that looks like the set.
"""

import contextlib
import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20  # bytes that are held at once while a file is hashed
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Published:
    """A set as its publisher names its files, by their paths below --data-dir; the MD5 is None
    where none is published.
    """

    name: str
    title: str
    data_dir: Path
    files: dict  # {path: MD5} that are read
    archives: dict  # {path: MD5} that they are unpacked from
    wanted: str  # what to fetch by hand, and from where
    place: Path  # and the folder where it belongs

    @property
    def everything(self):
        return {**self.files, **self.archives}

    def wrong(self):
        """Paths of files that are there and are not the published ones."""
        present = {
            path: md5 for path, md5 in self.everything.items() if (self.data_dir / path).is_file()
        }
        return [path for path, md5 in present.items() if not is_whole(self.data_dir / path, md5)]

    def missing(self):
        return [path for path in self.files if not (self.data_dir / path).is_file()]

    def any_at(self, data_dir):
        return any((data_dir / path).is_file() for path in self.everything)

    @property
    def command(self):
        return (
            f"python run_networks.py --fetch --dataset digits --ood {self.name} "
            f"--data-dir {shlex.quote(str(self.data_dir))}"
        )

    @property
    def by_hand(self):
        return f"fetch {self.wanted} and put it into {self.place}"


def fetched(published, build):
    """The torchvision data set that build(download=...) opens, downloaded where it is not at hand.

    ValueError where its files are broken, lie elsewhere, or cannot be downloaded.
    """
    try:
        return build(download=False)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a broken file ends torchvision, pickle and NumPy in many kinds
        refuse_broken(published)
        if not published.missing():
            raise broken(
                published, list(published.files), str(error) or type(error).__name__
            ) from None
    refuse_elsewhere(published)
    return downloaded(published, build)


def downloaded(published, build):
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


def remove_halves(published, before):
    for path in set(published.wrong()) - set(before):
        with contextlib.suppress(OSError):
            (published.data_dir / path).unlink()


def failure(published, error):
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


def refuse_broken(published):
    if wrong := published.wrong():
        raise broken(published, wrong, "not the published content")


def broken(published, paths, why):
    """The ValueError of a set whose files are there and cannot be used."""
    files = [published.data_dir / path for path in paths]
    sizes = ", ".join(f"{file} ({file.stat().st_size:,} bytes)" for file in files[:SHOWN])
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    removal = " ".join(shlex.quote(str(file)) for file in files)
    return ValueError(
        f"{published.title} is broken: {sizes}{more}: {why}. Remove with: rm {removal}; "
        f"then get it anew with: {published.command}, or {published.by_hand}"
    )


def is_whole(path, md5):
    """True if a file is the published one; without a published MD5, whether it is as long as its
    own header says.
    """
    if md5 is None:
        return path.suffix == ".txt" or is_whole_idx(path)
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == md5


def is_whole_idx(path):
    """True if a file of MNIST's format, uint8, has the length of its header: 0, 0, type,
    dimensions, each size, values.
    """
    with open(path, "rb") as file:
        start = file.read(4)
        sizes = [
            int.from_bytes(file.read(4), "big") for _ in range(start[3] if len(start) == 4 else 0)
        ]
    expected = 4 + 4 * len(sizes)
    values = 1
    for size in sizes:
        values *= size
    return bool(sizes) and path.stat().st_size == expected + values


# ---- somewhere else ------------------------------------------------------------------------------


def refuse_elsewhere(published):
    """ValueError where --data-dir is a level or two off, or the files lie loose where torchvision
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


def refuse_loose(published, folder):
    """ValueError where published files lie in this folder by their bare names."""
    loose = []
    for path, md5 in published.everything.items():
        beside = folder / Path(path).name
        if beside.is_file() and is_whole(beside, md5):
            loose.append(path)
    if not loose:
        return
    target = (Path(os.path.abspath(published.data_dir)) / loose[0]).parent
    together = [path for path in loose if Path(path).parent == Path(loose[0]).parent]
    files = " ".join(shlex.quote(str(folder / Path(path).name)) for path in together)
    raise ValueError(
        f"{published.title} was looked for in {target} and found in {folder}; move it with: "
        f"mkdir -p {shlex.quote(str(target))} && mv {files} {shlex.quote(str(target))}"
    )


def folders_in(folder):
    """The folders directly inside a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(path for path in Path(folder).iterdir() if path.is_dir())
    except OSError:
        return []


def some(paths):
    shown = ", ".join(paths[:SHOWN])
    if len(paths) > SHOWN:
        return f"{shown} and {len(paths) - SHOWN} more are"
    return f"{shown} are" if len(paths) > 1 else f"{shown} is"
