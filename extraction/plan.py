"""The feature files of one checkpoint: what each is made of, and which are current.

A file is kept where its sidecar names the same network, preprocessing and images, and the file is
what the sidecar describes. Images are the same by name (a set of the registry), by names, sizes and
times of their files, or else by content. So a set whose features are kept is not loaded at all, and
need not be there any more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import data
import utils
from artifacts import current, records
from collapse import layers
from extraction.perturbation import ADASCALE, ADASCALE_STEP, Step
from images import corruptions, lists
from images import folders as images_folders
from images.members import Member
from images.places import broken_images
from images.sets import ImageFiles, Images

ALL = "all/"  # below a member's folder: the images of all classes of its ensemble
Open = Callable[[], Images | ImageFiles]


@dataclass(frozen=True, eq=False)
class Given:
    """What features depend on beside the weights: the checkpoint's word, or the command line's."""

    id_set: utils.SetName
    held_out: list[str]  # classes that the network does not know
    ood: list[utils.SetName]
    val_size: int
    preprocessing: data.Preprocessing
    data_dir: str
    member: Member | None = None  # of a leave-out ensemble
    skip_broken: bool = False
    placed: data.Placed | None = None  # where the OOD sets were found
    csid: list[utils.SetName] = field(default_factory=list)  # ID images under a covariate shift
    # held-out ID images of a network that has no validation images of its own
    calibration: utils.SetName | None = None

    @property
    def dataset(self):
        return self.id_set.name

    @property
    def held_out_by_all(self) -> list[str]:
        """Classes that no member of the ensemble knows; of a single network those that it does not
        know."""
        if self.member is None:
            return self.held_out
        return [name for name in self.held_out if name not in self.member.left_out]

    @property
    def facts_of_all(self) -> dict[str, Any]:
        """What the sidecars of an ensemble's images say, where a member's own say otherwise."""
        if self.member is None:
            return {}
        return {"class_names": self.member.classes, "held_out": self.held_out_by_all}


# ---- what is to be made --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One feature file: its images, and how each is moved first, if it is."""

    stem: str  # below the checkpoint's folder
    dataset: str
    open: Open  # the same ones each time
    place: utils.SetName  # by which data.source_of knows the images
    step: Step | None = None
    own_facts: dict = field(default_factory=dict)  # in place of what all sidecars say
    # the same without those that cannot be read, as --skip-broken has them; None with the flag
    open_readable: Open | None = None

    @property
    def images(self):
        return self.open()

    def images_of(self, sidecar: dict) -> Any:
        """The images as the features of this sidecar were made of them: without those that cannot
        be read, where such were left out."""
        if sidecar.get("skipped") and self.open_readable:
            return self.open_readable()
        return self.images

    @property
    def name(self) -> str:
        """The file's name, whatever its folder: that of its images."""
        return PurePosixPath(self.stem).name

    @property
    def split(self):
        return self.stem.rsplit("_", 1)[1]

    @property
    def in_distribution(self):
        return self.name.startswith("ID_")

    @property
    def is_csid(self):
        """True for images of the network's classes under a covariate shift."""
        return self.name.startswith("CSID_")

    @property
    def is_plain(self):
        """True for what the network itself knows, or does not know, in images as they are."""
        return self.step is None and "/" not in self.stem and not self.is_csid

    @property
    def folder(self):
        """The folder or file of the images, None for a set of the registry."""
        return self.place.folder

    @property
    def facts(self):
        """What its sidecar says of it, and must say for the file to be kept."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "odin_epsilon": None,
            "temperature": None,
            **(self.step.facts if self.step else {}),
            **self.own_facts,
        }


def plan(
    given: Given,
    steps: Sequence[Step] = (),
    val_ood: utils.SetName | None = None,
    adascale: bool = False,
) -> list[Job]:
    """The jobs in the order of their making; nothing is opened yet.

    By each of `steps` the test images are moved; where `val_ood` is given, which chooses among
    them, only the validation images and that set. With `adascale` all but training images are
    changed as that score needs them.
    """
    data.check_id(given.id_set)
    jobs = all_jobs(given, steps, val_ood, adascale)
    if given.skip_broken:
        return jobs
    readable = all_jobs(replace(given, skip_broken=True), steps, val_ood, adascale)
    pairs = zip(jobs, readable, strict=True)
    return [replace(job, open_readable=other.open) for job, other in pairs]


def all_jobs(
    given: Given, steps: Sequence[Step], val_ood: utils.SetName | None, adascale: bool
) -> list[Job]:
    """The jobs, of which none is opened yet."""
    dataset, whole = openers(given)
    jobs = own_jobs(given, dataset, whole)
    if given.member:
        jobs += jobs_of_all(given, dataset, whole)
    changed = adascale_jobs(jobs) if adascale else []
    return [*jobs, *perturbed_jobs(given, jobs, steps, val_ood), *changed]


def adascale_jobs(jobs: list[Job]) -> list[Job]:
    """The jobs of images that AdaSCALE changes; it needs those of validation too."""
    return [
        replace(
            job,
            stem=f"ADASCALE_{job.stem}",
            step=ADASCALE_STEP,
            own_facts={"perturbation": ADASCALE},
        )
        for job in jobs
        if job.is_plain and job.split != "train"
    ]


def own_jobs(given: Given, dataset: Callable, whole: dict[str, Open]) -> list[Job]:
    """Images of the classes that the network knows, then those of other sets and classes."""
    jobs = []
    for split, images in whole.items():
        if given.member:
            images = cache(partial(known, given.member, images))
        jobs.append(id_job(given, split, images))
    jobs += [csid_job(given, asked, dataset, whole["test"]) for asked in given.csid]
    jobs += [ood_job(given, asked, dataset, given.held_out) for asked in given.ood]
    return jobs


def jobs_of_all(given: Given, dataset: Callable, whole: dict[str, Open]) -> list[Job]:
    """A member's validation and test images of all classes of its ensemble, and those of classes
    that no member knows, where they are an OOD set."""
    splits = [split for split in whole if split != "train"]
    jobs = [id_job(given, split, whole[split]) for split in splits]
    if given.held_out_by_all:
        asked = [other for other in given.ood if other.is_held_out]
        jobs += [ood_job(given, other, dataset, given.held_out_by_all) for other in asked]
    return [replace(job, stem=f"{ALL}{job.stem}", own_facts=given.facts_of_all) for job in jobs]


def perturbed_jobs(
    given: Given, jobs: list[Job], steps: Sequence[Step], val_ood: utils.SetName | None
) -> list[Job]:
    """The jobs of moved images; of an ensemble those that its members have in common."""
    sets = [job for job in shared(given, jobs) if not job.is_csid]
    if is_odin(given, steps, val_ood):  # of validation images too, for p-values
        sets = [job for job in sets if job.split != "train"]
        return [replace(job, stem=f"ODIN_{job.stem}", step=steps[0]) for job in sets]
    if val_ood is None:
        sets = [job for job in sets if job.split == "test"]
    else:
        sets = [job for job in sets if job.split == "val" or is_ood(job, val_ood)]
    if is_odin(given, steps, val_ood):
        return [replace(job, stem=f"ODIN_{job.stem}", step=steps[0]) for job in sets]
    return [moved(given, job, step) for job, step in in_order_of_gradients(sets, steps)]


def in_order_of_gradients(sets: Sequence[Job], steps: Sequence[Step]) -> Iterator[tuple[Job, Step]]:
    """Each set with each step that moves it: the steps down one gradient follow each other, so that
    it is computed once (perturbation.Directions)."""
    moving = [step for step in steps if step.epsilon]
    for _, alike in groupby(moving, lambda step: (step.kind, step.temperature)):
        together = list(alike)
        for job in sets:
            for step in together:
                yield job, step


def shared(given: Given, jobs: list[Job]) -> list[Job]:
    """The jobs whose images all members of an ensemble get; of a single network all of them."""
    if given.member is None:
        return jobs
    of_all = [job for job in jobs if job.stem.startswith(ALL)]
    sets = [asked for asked in given.ood if not asked.is_held_out]
    return of_all + [job for job in jobs if any(is_ood(job, asked) for asked in sets)]


def is_odin(given: Given, steps: Sequence[Step], val_ood: utils.SetName | None) -> bool:
    """True where a network that is no member gets ODIN_*.csv beside its other files."""
    if given.member or val_ood or not steps:
        return False
    return steps[0].kind == "argmax"


def is_ood(job: Job, asked: utils.SetName) -> bool:
    return not job.in_distribution and job.dataset == asked.name


def moved(given: Given, job: Job, step: Step) -> Job:
    """The job of the same images after a step."""
    facts = {**given.facts_of_all, "perturbation": step.kind}
    return replace(job, stem=f"{step.folder}{job.name}", step=step, own_facts=facts)


def id_job(given: Given, split: str, images: Open) -> Job:
    """The job of ID images: "train", "val" or "test"."""
    place = given.id_set.split("test" if split == "test" else "train")
    if split == "val" and given.calibration:
        place = given.calibration
    return Job(f"ID_{given.dataset}_{split}", given.dataset, images, place)


def csid_job(given: Given, asked: utils.SetName, dataset: Callable, test: Open) -> Job:
    """The job of ID images under a covariate shift: ID test images with a corruption, or those of
    a place of their own."""
    corruption = corruptions.parse(asked.name) if asked.folder is None else None
    images, place = cache(partial(open_labelled, asked, given, test)), asked
    if corruption is not None:
        images = cache(partial(open_corrupted, corruption, given, dataset))
        place = given.id_set.split("test")
    facts = {"corruption": corruption.as_dict() if corruption else None}
    return Job(f"CSID_{asked.name}_test", asked.name, images, place, own_facts=facts)


def open_corrupted(
    corruption: corruptions.Corruption, given: Given, dataset: Callable[[], data.Dataset]
) -> Images | ImageFiles:
    return data.load_corrupted(
        dataset(), corruption, given.preprocessing, given.data_dir, given.held_out
    )


def open_labelled(asked: utils.SetName, given: Given, test: Open) -> Images | ImageFiles:
    """Images of the classes of the ID test images."""
    names = test().class_names
    return data.load_labelled(asked, names, given.preprocessing, given.skip_broken)


def ood_job(given: Given, asked: utils.SetName, dataset: Callable, held_out: list[str]) -> Job:
    """The job of an OOD set; `held_out` names the classes of the set held_out."""
    place = given.id_set.split("test") if asked.is_held_out else asked
    images = cache(partial(open_ood, asked, given, dataset, held_out))
    return Job(f"OOD_{asked.name}_test", asked.name, images, place)


def openers(given: Given) -> tuple[Callable, dict[str, Open]]:
    """-> functions that open the ID set, and {split: its images of all classes that the network, or
    its ensemble, knows}, each once.

    Training and validation images are told apart among those of all classes, as in training."""
    preprocessing = given.preprocessing

    @cache
    def dataset():
        statistics = preprocessing.mean, preprocessing.std
        size, skip_broken = preprocessing.size, given.skip_broken
        return data.id_set(given.id_set, given.data_dir, size, statistics, skip_broken)

    @cache
    def split(name):
        held_out = given.held_out_by_all
        return data.load_id(dataset(), name, preprocessing, given.data_dir, held_out)

    @cache
    def part(number):
        images = split("train")
        return images.take(data.split_validation(len(images), given.val_size)[number].sort().values)

    whole: dict[str, Open] = {"val": partial(part, 1)} if given.val_size else {}
    if given.calibration:
        whole["val"] = cache(
            partial(open_labelled, given.calibration, given, partial(split, "test"))
        )
    whole |= {"train": partial(part, 0), "test": partial(split, "test")}
    return dataset, whole


def known(member: Member, images: Callable[[], Any]) -> Images | ImageFiles:
    """The images of the classes that a member knows."""
    return member.known_of(images())


def open_ood(
    asked: utils.SetName,
    given: Given,
    dataset: Callable[[], data.Dataset],
    held_out: list[str],
) -> Images | ImageFiles:
    needed = dataset() if asked.is_held_out else None
    return data.load_ood(
        asked, needed, given.preprocessing, given.data_dir, held_out, given.skip_broken
    )


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


@dataclass(frozen=True)
class JobFiles:
    """The files of one job: what enters the classifier, and {stage: file} in order of depth."""

    features: Path
    stages: dict[str, Path]

    @property
    def all(self) -> list[Path]:
        return [self.features, *self.stages.values()]

    @property
    def by_stage(self) -> list[tuple[str | None, Path]]:
        """Each file with its stage, None for the features."""
        return [(None, self.features), *self.stages.items()]


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
    shard_rows: int | None = None  # of a shard; None: one file a set
    sources: dict = field(default_factory=dict)  # {place: data.source_of}, each listed once

    def outputs(self, job: Job) -> JobFiles:
        """Where the files of a job lie, or will."""
        features = self.folder / f"{job.stem}.{self.format}"
        streams = self.way == "stream"
        if self.way is None or not job.is_plain or (streams and job.split == "val"):
            return JobFiles(features, {})
        folder = self.folder / layers.FOLDERS[self.way]
        ending = "csv" if streams else self.format
        return JobFiles(
            features, {stage: folder / f"{job.stem}_{stage}.{ending}" for stage in self.stages}
        )

    def facts(self, job: Job, stage: str | None, training: list | None) -> dict:
        """What the sidecar of an output must say for the file to be kept, but for its images.

        `stage` is None for the features. `training` says which training images there are: NC4's
        counts of other images depend on them too.
        """
        facts = {**self.origin, **job.facts}
        if stage and self.way == "stream" and job.split != "train":
            facts["moments_of"] = training
        return utils.plain(facts)

    def judge(self, job: Job, training: list | None = None) -> Verdict:
        """Decide whether the files of a job can be kept."""
        files = self.outputs(job)
        sidecars = {file: records.read_sidecar(file) for file in files.all}
        for stage, file in files.by_stage:
            facts = self.facts(job, stage, training)
            if not records.is_there(file) or not describes(sidecars[file], facts):
                return Verdict(False)
            if sidecars[file].get("shard_rows") != self.shard_rows:
                return Verdict(False)
        sidecar = sidecars[files.features]
        remark = self.same_images(job, sidecar)
        if remark is None:
            return Verdict(False)
        edited = [file for file in files.all if is_edited(file, sidecars[file])]
        if edited and not self.stale.allowed:
            said = f"{edited[0]} was edited since it was written: it is extracted anew"
            return Verdict(False, said=f"{said} (--allow-stale keeps such a file)")
        for file in edited:
            self.stale.found(f"{file} was edited since it was written", None)
        return Verdict(True, sidecar.get("rows"), f"kept as it is{remark}{without(sidecar)}")

    def same_images(self, job: Job, sidecar: dict) -> str | None:
        """What to say of the images where they are the same, mostly ""; None where they are not."""
        source = self.source_of(job)
        if source is None and not self.verify:
            gone = f"; its images, {job.folder or job.dataset}, are no longer there"
            return gone if same_place(job.place, sidecar.get("place")) else None
        seen = current.SeenImages(sidecar.get("source"), sidecar.get("source_content") or None)
        if not seen.same(source, lambda: content_of(job, sidecar), self.verify):
            return None
        by_content = source != seen.listing or self.verify
        return "; its images have the same content" if by_content and job.folder else ""

    def source_of(self, job: Job) -> str | None:
        """Which images a job has, by names, sizes and times; None where they are gone."""
        if job.place not in self.sources:
            self.sources[job.place] = data.source_of(job.place, self.data_dir)
        return self.sources[job.place]

    def training(self, job: Job, verdict: Verdict) -> list:
        """Which training images there are: what they are by content, and how many."""
        if verdict.kept:
            sidecar = records.read_sidecar(self.outputs(job).features)
            return [sidecar["source_content"], verdict.rows]
        return [job.images.content(), len(job.images)]

    def folders(self, jobs: list[Job], extracted: list[Job], before: dict) -> dict[str, dict]:
        """{folder: its two hashes} of the images in files, for the record that main.py goes by.

        `before` is what the last record says: it holds for what was not `extracted` since.
        """
        fresh = {job.folder for job in extracted}
        found: dict[str, dict] = {}
        for job in jobs:
            if job.folder is None:
                continue
            listed = self.source_of(job)
            then = before.get(job.folder)
            is_old = job.folder not in fresh and not self.verify
            if then is not None and is_old and listed in (None, then.get("listing")):
                found[job.folder] = then
            elif listed is not None:
                sidecar = records.read_sidecar(self.outputs(job).features)
                content = whole_content(job, job.images_of(sidecar).hashes)
                found[job.folder] = {"listing": listed, "content": content}
        return found

    def renew(self, job: Job, head_sha256: str | None) -> None:
        """Let the sidecars of kept files say where their images, and what their head, now are.

        Without that, files of the same content with other times would be read again each time.
        """
        now: dict[str, str | None] = {"place": str(job.place), "head_sha256": head_sha256}
        if self.source_of(job) is not None:
            now["source"] = self.source_of(job)
        for file in self.outputs(job).all:
            sidecar = records.read_sidecar(file)
            moved = not same_place(job.place, sidecar.get("place"))
            if not moved:
                now["place"] = sidecar["place"]
            if any(sidecar.get(name) != value for name, value in now.items()):
                arguments = relocated(sidecar, job) if moved else sidecar.get("arguments")
                path = records.sidecar_path(file)
                utils.write_json(path, {**sidecar, **now, "arguments": arguments})


def content_of(job: Job, sidecar: dict) -> str:
    """What the images are by content that the features of this sidecar would be made of now; ""
    where others can be read, or cannot, than then."""
    images = job.images_of(sidecar)
    if set(getattr(images, "skipped", ())) != set(sidecar.get("skipped") or ()):
        return ""
    return images.content()


def whole_content(job: Job, hashes: dict[str, str]) -> str:
    """What all files in a job's folder are by content, those included that are another job's;
    hashes: {path: SHA-256} of those that were read."""
    listing = images_folders.listing(job.folder)
    return images_folders.whole_content(listing, hashes)


def without(sidecar: dict) -> str:
    """What to say of kept features of a set whose broken images were left out."""
    skipped = sidecar.get("skipped")
    return f"; made without {broken_images(len(skipped))} (--skip-broken)" if skipped else ""


def describes(sidecar: dict, facts: dict) -> bool:
    """True where a sidecar names the same network, and otherwise says just this."""
    said = {name: value for name, value in facts.items() if name not in NAMES}
    same = all(name in sidecar and sidecar[name] == value for name, value in said.items())
    return same and records.same_network(sidecar, facts)


def is_edited(file: Path, sidecar: dict) -> bool:
    return not current.SeenFile.of_sidecar(sidecar).unchanged(file)


def same_place(place: utils.SetName, recorded: str | None) -> bool:
    """True where a sidecar names the same set of the registry, or the same folder."""
    if place.text == recorded or not recorded:
        return place.text == recorded
    then = utils.SetName.parse(recorded).folder
    if not place.folder or not then:
        return False
    return lists.resolved(place.folder) == lists.resolved(then)


def relocated(sidecar: dict, job: Job) -> dict:
    """A sidecar's arguments with the set's folder as it now is: other scripts name it."""
    arguments = sidecar.get("arguments") or {}
    words = [
        str(job.place) if utils.SetName.parse(word).name == job.dataset else word
        for word in arguments.get("ood") or []
    ]
    return {**arguments, "ood": words} if words and not job.in_distribution else arguments


def was_made(folder: Path, asked: utils.SetName) -> bool:
    """True where an OOD set's features were made of images in this place, which may be gone."""
    sidecar = records.read_sidecar(folder / f"OOD_{asked.name}_test.csv")
    return same_place(asked, sidecar.get("place"))


def places_made(folder: Path) -> dict[str, utils.SetName]:
    """{name: the set as it lay} of the OOD sets whose features are in a checkpoint's folder."""
    found = {}
    for name in records.listing(folder, "OOD_*_test.json"):
        place = records.read_sidecar(folder / name).get("place")
        if place:
            asked = utils.SetName.parse(place)
            found[asked.name] = asked
    return found
