"""The feature files of one checkpoint: what each is made of, and which are current.

A file is kept where its sidecar names the same network, preprocessing and images, and the file is
what the sidecar describes. Images are the same by name (a set of the registry), by names, sizes and
times of their files, or else by content. So a set whose features are kept is not loaded at all, and
need not be there any more.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import data
import utils
from artifacts import records
from collapse import layers
from images import folders as images_folders


@dataclass(frozen=True, eq=False)
class Given:
    """What features depend on beside the weights: the checkpoint's word, or the command line's."""

    text: str  # the ID set: NAME or NAME=FOLDER
    held_out: list
    ood: list  # [NAME or NAME=FOLDER]
    val_size: int
    preprocessing: data.Preprocessing
    data_dir: str

    @property
    def dataset(self):
        return utils.split_name(self.text)[0]


# ---- what is to be made --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One feature file: its images, and for ODIN how far each is moved first."""

    stem: str
    dataset: str
    open: Callable  # () -> Images or ImageFiles, the same ones each time
    place: str | None = (
        None  # NAME, NAME=FOLDER or NAME=FILE, by which data.source_of knows the images
    )
    odin: dict = field(default_factory=dict)

    @property
    def images(self):
        return self.open()

    @property
    def split(self):
        return self.stem.rsplit("_", 1)[1]

    @property
    def in_distribution(self):
        return self.stem.startswith("ID_")

    @property
    def folder(self):
        """The folder or file of the images, None for a set of the registry."""
        return utils.split_name(self.place)[1]

    @property
    def facts(self):
        """What its sidecar says of it, and must say for the file to be kept."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "odin_epsilon": None,
            "temperature": None,
            **self.odin,
        }


def plan(given, odin=None):
    """Given -> [Job] in the order of their making; nothing is opened yet.

    `odin`: facts of a second pass over the test sets.
    """
    name, folder = data.check_id(given.text)
    dataset, split, part = openers(given)
    places = {part: f"{name}={folder}/{part}" if folder else name for part in ("train", "test")}
    jobs = (
        [Job(f"ID_{name}_val", name, partial(part, 1), places["train"])] if given.val_size else []
    )
    jobs += [
        Job(f"ID_{name}_train", name, partial(part, 0), places["train"]),
        Job(f"ID_{name}_test", name, partial(split, "test"), places["test"]),
    ]
    for text in given.ood:
        ood = utils.split_name(text)[0]
        place = places["test"] if utils.split_name(text) == ("held_out", None) else text
        jobs.append(
            Job(f"OOD_{ood}_test", ood, cache(partial(open_ood, text, given, dataset)), place)
        )
    if odin:
        tests = [job for job in jobs if job.split == "test"]
        jobs += [Job(f"ODIN_{job.stem}", job.dataset, job.open, job.place, odin) for job in tests]
    return jobs


def openers(given):
    """-> functions that open the ID set, a split, and a part of its training images, each once."""
    preprocessing = given.preprocessing

    @cache
    def dataset():
        statistics = preprocessing.mean, preprocessing.std
        return data.id_set(given.text, given.data_dir, preprocessing.size, statistics)[1]

    @cache
    def split(name):
        return data.load_id(dataset(), name, preprocessing, given.data_dir, given.held_out)

    @cache
    def part(number):
        images = split("train")
        return images.take(data.split_validation(len(images), given.val_size)[number].sort().values)

    return dataset, split, part


def open_ood(text, given, dataset):
    needed = dataset() if utils.split_name(text) == ("held_out", None) else None
    return data.load_ood(text, needed, given.preprocessing, given.data_dir, given.held_out)


# ---- what is there already -----------------------------------------------------------------------

# how a network is called: records.same_network compares it
NAMES = (
    "checkpoint",
    *records.NETWORK,
)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job's files: kept or not, how many images, and what to say of it."""

    kept: bool
    rows: int | None = None
    said: str = ""


@dataclass(frozen=True, eq=False)
class Shelf:
    """The folder of a checkpoint's features, and by which facts a file in it is current."""

    folder: Path
    origin: dict  # what every sidecar says of the network and of how it sees images
    data_dir: str
    format: str  # csv or parquet
    way: str | None  # of --layers: None, store or stream
    stages: tuple
    stale: records.Stale
    verify: bool = False  # compare images by content, whatever their sizes and times
    sources: dict = field(default_factory=dict)  # {place: data.source_of}, each listed once

    def outputs(self, job):
        """{"": feature file, stage: its file}."""
        stages = self.stages
        if job.odin or (self.way == "stream" and job.split == "val"):
            stages = ()
        ending = "csv" if self.way == "stream" else self.format
        folder = self.folder / layers.FOLDERS.get(self.way, "")
        files = {"": self.folder / f"{job.stem}.{self.format}"}
        for name in stages:
            files[name] = folder / f"{job.stem}_{name}.{ending}"
        return files

    def facts(self, job, name, training):
        """What the sidecar of an output must say for the file to be kept, but for its images.

        `training` says which training images there are: NC4's counts of other images depend on them
        too.
        """
        facts = {**self.origin, **job.facts}
        if name and self.way == "stream" and job.split != "train":
            facts["moments_of"] = training
        return utils.plain(facts)

    def judge(self, job, training=None):
        """Decide whether the files of a job can be kept."""
        files = self.outputs(job)
        sidecars = {name: records.read_sidecar(file) for name, file in files.items()}
        if not all(file.is_file() for file in files.values()):
            return Verdict(False)
        if not all(describes(sidecars[name], self.facts(job, name, training)) for name in files):
            return Verdict(False)
        remark = self.same_images(job, sidecars[""])
        if remark is None:
            return Verdict(False)
        edited = [file for name, file in files.items() if is_edited(file, sidecars[name])]
        if edited and not self.stale.allowed:
            return Verdict(
                False,
                said=(
                    f"{edited[0]} was edited since it was written: it is extracted anew "
                    "(--allow-stale keeps such a file)"
                ),
            )
        for file in edited:
            self.stale.found(f"{file} was edited since it was written", None)
        return Verdict(True, sidecars[""].get("rows"), f"kept as it is{remark}")

    def same_images(self, job, sidecar):
        """What is to be said of the same images, mostly ""; None where they are others."""
        source = self.source_of(job)
        if source is None and not self.verify:
            gone = f"; its images, {job.folder or job.dataset}, are no longer there"
            return gone if same_place(job.place, sidecar.get("place")) else None
        if source == sidecar.get("source") and not self.verify:
            return ""
        if not sidecar.get("source_content") or job.images.content() != sidecar["source_content"]:
            return None
        return "; its images have the same content" if job.folder else ""

    def source_of(self, job):
        if job.place not in self.sources:
            self.sources[job.place] = data.source_of(job.place, self.data_dir)
        return self.sources[job.place]

    def training(self, job, verdict):
        """Which training images there are: what they are by content, and how many."""
        if verdict.kept:
            return [records.read_sidecar(self.outputs(job)[""])["source_content"], verdict.rows]
        return [job.images.content(), len(job.images)]

    def folders(self, jobs, extracted, before):
        """{folder: its two hashes} of the images in files, for the record that main.py goes by.

        `before` is what the last record says: it holds for what was not `extracted` since.
        """
        fresh = {job.folder for job in extracted}
        found = {}
        for job in jobs:
            listed = self.source_of(job) if job.folder else None
            then = before.get(job.folder)
            same = then and (listed is None or listed == then.get("listing"))
            if same and job.folder not in fresh and not self.verify:
                found[job.folder] = then
            elif listed is not None:
                found[job.folder] = {"listing": listed, "content": whole_content(job)}
        return found

    def renew(self, job, head_sha256):
        """Let the sidecars of kept files say where their images, and what their head, now are.

        Without that, files of the same content with other times would be read again each time.
        """
        now = {"place": job.place, "head_sha256": head_sha256}
        if self.source_of(job) is not None:
            now["source"] = self.source_of(job)
        for file in self.outputs(job).values():
            sidecar = records.read_sidecar(file)
            moved = not same_place(job.place, sidecar.get("place"))
            if not moved:
                now["place"] = sidecar["place"]
            if any(sidecar.get(name) != value for name, value in now.items()):
                arguments = relocated(sidecar, job) if moved else sidecar.get("arguments")
                path = records.sidecar_path(file)
                utils.write_json(path, {**sidecar, **now, "arguments": arguments})


def whole_content(job):
    """What all files in a job's folder are by content, those included that are another job's."""
    known, listing = job.images.hashes, images_folders.listing(job.folder)
    missing = [path for path in listing.paths if path not in known]
    hashes = {**known, **images_folders.file_hashes(listing.root, missing)}
    return images_folders.content_of(listing.paths, hashes)


def describes(sidecar, facts):
    """True where a sidecar names the same network, and otherwise says just this."""
    said = {name: value for name, value in facts.items() if name not in NAMES}
    same = all(name in sidecar and sidecar[name] == value for name, value in said.items())
    return same and records.same_network(sidecar, facts)


def is_edited(file, sidecar):
    return not records.unchanged(file, sidecar.get("sha256"), sidecar.get("content_sha256"))


def same_place(one, other):
    """True for one and the same set of the registry, or folder."""
    if one == other or not other:
        return one == other
    folders = [utils.split_name(place)[1] for place in (one, other)]
    return all(folders) and Path(folders[0]).resolve() == Path(folders[1]).resolve()


def relocated(sidecar, job):
    """A sidecar's arguments with the set's folder as it now is: other scripts name it."""
    arguments = sidecar.get("arguments") or {}
    words = [
        job.place if utils.split_name(word)[0] == job.dataset else word
        for word in arguments.get("ood") or []
    ]
    return {**arguments, "ood": words} if words and not job.in_distribution else arguments


def was_made(folder, text):
    """True where an OOD set's features were made of images in this place, which may be gone."""
    stem = f"OOD_{utils.split_name(text)[0]}_test"
    return same_place(text, records.read_sidecar(folder / f"{stem}.csv").get("place"))
