"""The members of an ensemble: which files each has, whether they belong together, and what they
read.

An ensemble is of one of two kinds. The members of a **leave-out** ensemble (training/leave_out.py)
know all classes but their own fold's, and have the images of all classes in
results/<stem>/all/ID_<dataset>_test.csv, with the ensemble's numbers as labels. The members of a
**deep** ensemble (Lakshminarayanan et al. 2017) are ordinary classifiers of the same classes, such
as the seeds of one recipe.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import feature_files
import utils
from artifacts import records, store
from detection.inputs import Inputs
from feature_files import FeatureFiles
from head import Head
from images import members as image_members

ALL = "all"  # the folder of images of all classes
KINDS = re.compile(
    r"best|final|last|epoch\d+|step\d+"
)  # how a checkpoint's name says which epoch it is
FOLD = re.compile(r"fold\d+of\d+")


@dataclass(frozen=True, order=True)
class Pair:
    """How the images of an ensemble are perturbed: the step `epsilon`, in units of pixels in [0,
    1], and the temperature of the softmax. Ordered by epsilon, then by temperature."""

    epsilon: float
    temperature: float
    kind: str = "entropy"

    FOLDER = re.compile(r"([a-z]+)_T([^_]+)_E([^_]+)")

    @property
    def folder(self) -> str:
        """Where images that were perturbed so lie, below the member's folder."""
        return feature_files.perturbed_folder(self.kind, self.temperature, self.epsilon)

    @classmethod
    def of_folder(cls, name: str) -> "Pair | None":
        """The pair whose perturbed images a folder of this name holds; None for another folder."""
        match = cls.FOLDER.fullmatch(name)
        if not match:
            return None
        try:
            return cls(float(match[3]), float(match[2]), match[1])
        except ValueError:
            return None

    @property
    def values(self) -> tuple[float, float]:
        return self.temperature, self.epsilon

    @property
    def words(self) -> str:
        return f"temperature {self.temperature:g} and epsilon {self.epsilon:g}"

    @property
    def flags(self) -> str:
        """The flags of run_networks.py that perturb images so."""
        kind = "" if self.kind == "entropy" else f" --perturbation {self.kind}"
        return f"--odin-epsilon {self.epsilon:g} --temperature {self.temperature:g}{kind}"


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble and its files; `known` holds the numbers that its outputs have
    among the classes of the ensemble."""

    run: FeatureFiles
    known: list[int]
    leave_out: image_members.Member | None
    test: Path  # ID test images of all classes
    val: Path | None  # ID validation images of all classes

    @property
    def name(self) -> str:
        return self.run.folder.name

    def id_file(self, split: str, pair: Pair | None = None) -> Path | None:
        """The ID images of all classes, perturbed as `pair` says; None where they are not there."""
        if pair and pair.epsilon:
            return self.perturbed(pair, f"ID_{self.run.dataset}_{split}")
        return self.test if split == "test" else self.val

    def ood_file(self, name: str, pair: Pair | None = None) -> Path | None:
        """The images of an OOD set, perturbed as `pair` says; None where they are not there."""
        if pair and pair.epsilon:
            return self.perturbed(pair, f"OOD_{name}_test")
        return self.run.ood.get(name)

    def perturbed(self, pair: Pair, stem: str) -> Path | None:
        """A file of perturbed images; None where there is none of this network."""
        found = store.feature_file(self.run.folder / pair.folder, stem)
        return feature_files.own(found, records.origin(self.run.head or self.run.train))

    def pairs(self) -> list[Pair]:
        """All pairs that some images of this member were perturbed by."""
        names = records.listing(self.run.folder / feature_files.PERTURBED, "*_T*_E*")
        return [pair for pair in map(Pair.of_folder, names) if pair]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The members of one ensemble, in the order of their folds or of the command line."""

    members: list[Member]
    class_names: list[str]
    folder: Path  # of what is written

    @property
    def dataset(self) -> str:
        return self.members[0].run.dataset

    @property
    def is_leave_out(self) -> bool:
        return self.members[0].leave_out is not None

    @property
    def known(self) -> list[list[int]]:
        return [member.known for member in self.members]

    @property
    def sets(self) -> list[str]:
        return list(self.members[0].run.ood)

    @property
    def kind(self) -> str:
        return "leave-out" if self.is_leave_out else "deep"

    @property
    def files(self) -> list[Path]:
        """The files of all members that are there without a perturbation."""
        found = []
        for member in self.members:
            found += [*member.run.files, member.test]
            found += [member.val] if member.val else []
        return list(dict.fromkeys(found))

    def command(self, flags: str = "") -> str:
        """The command that extracts all members, with more flags; none is known for features of
        other programs."""
        first = self.members[0].run
        if first.command == feature_files.ELSEWHERE:
            return first.command
        paths = [
            feature_files.checkpoint_file(member.run.folder, member.test) for member in self.members
        ]
        words = shlex.split(first.command)
        place = words.index("--checkpoint") + 1
        words[place : place + 1] = paths
        return f"{shlex.join(words)} {flags}".strip()


# ---- finding -------------------------------------------------------------------------------------


def find(
    checkpoints: Sequence[str],
    output_dir: str,
    dataset: utils.SetName | None,
    ood: Iterable[utils.SetName] | None,
    stale: records.Stale,
) -> Ensemble:
    """The ensemble of these checkpoints (or folders of features), each checked by itself and beside
    the others.

    ValueError for a single network, for one that is named twice, for missing files, and for
    networks of different kinds, data sets, models, splits or OOD sets."""
    check_number(checkpoints)
    members = [find_member(path, output_dir, dataset, ood, stale) for path in checkpoints]
    check_alike(members)
    folds = {member.run.folder: member.leave_out for member in members if member.leave_out}
    if folds:
        check_folds(folds)
        members.sort(key=lambda member: folds[member.run.folder].fold)
    check_sets(members)
    check_images(members)
    stems = [member.name for member in members]
    beside = members[0].run.folder.parent
    return Ensemble(members, names_of_all(members[0]), beside / ensemble_name(stems))


def find_member(
    checkpoint: str,
    output_dir: str,
    dataset: utils.SetName | None,
    ood: Iterable[utils.SetName] | None,
    stale: records.Stale,
) -> Member:
    """One member and its files; ValueError where any is missing."""
    folder, name = feature_files.locate(checkpoint, output_dir, dataset)
    sets = feature_files.asked_sets(folder, name, ood)
    run = feature_files.open_run(checkpoint, output_dir, dataset, sets, stale)
    assert run.head is not None, "open_run asks for it"
    said = records.read_sidecar(run.head).get("leave_out")
    if said is None:
        classes = len(names_of_head(run))
        return Member(run, list(range(classes)), None, run.test, run.val)
    fold = image_members.Member(**said)
    replace_held_out(run)
    return Member(run, fold.numbers, fold, *files_of_all(run))


def replace_held_out(run: FeatureFiles) -> None:
    """Let the OOD set held_out be of the classes that no member knows: the member's own set holds
    classes of the ensemble too."""
    if run.ood.pop("held_out", None) is None:
        return
    unknown_to_all = store.feature_file(run.folder / ALL, "OOD_held_out_test")
    if unknown_to_all:
        run.ood["held_out"] = unknown_to_all


def files_of_all(run: FeatureFiles) -> tuple[Path, Path | None]:
    """The test and validation images of all classes of a leave-out member."""
    test, val = (
        store.feature_file(run.folder / ALL, f"ID_{run.dataset}_{split}")
        for split in ("test", "val")
    )
    if test is None:
        raise ValueError(
            f"{run.folder / ALL} lacks ID_{run.dataset}_test.csv, the test images of all classes;"
            f" make it with: {run.command}"
        )
    return test, val


def names_of_head(run: FeatureFiles) -> list[str]:
    """The class names in the sidecar of a head, or its rows' numbers."""
    assert run.head is not None
    return store.read_head(run.head, None, run.command).class_names


def names_of_all(member: Member) -> list[str]:
    """The names of the classes of the ensemble."""
    if member.leave_out:
        return list(member.leave_out.classes)
    return names_of_head(member.run)


def ensemble_name(stems: Sequence[str]) -> str:
    """The name of an ensemble's folder: what its members' names share, with what differs side by
    side: resnet18_best_cifar100_s0 and ..._s1 -> resnet18_ensemble_cifar100_s0-s1."""
    words = [[word for word in stem.split("_") if not FOLD.fullmatch(word)] for stem in stems]
    if len({len(parts) for parts in words}) > 1:
        return "_".join(["ensemble", *dict.fromkeys(stems)])
    shared = ["-".join(dict.fromkeys(column)) for column in zip(*words, strict=True)]
    places = [place for place, word in enumerate(shared) if KINDS.fullmatch(word)]
    if not places:
        return "_".join([*shared, "ensemble"])
    shared[places[0]] = "ensemble"
    return "_".join(shared)


# ---- what belongs together -----------------------------------------------------------------------


def check_number(checkpoints: Sequence[str]) -> None:
    if len(checkpoints) < 2:
        raise ValueError(
            f"--ensemble needs two or more checkpoints, found only {checkpoints[0]}; name all"
            " members after --checkpoint"
        )


def check_alike(members: Sequence[Member]) -> None:
    """ValueError for members of different kinds, data sets, models or classes, and for one that is
    named twice."""
    first = members[0]
    seen: dict[Any, Member] = {}
    for member in members:
        origin = tuple(records.origin(member.test).values())
        twin = seen.setdefault(origin if any(origin) else member.run.folder.resolve(), member)
        if twin is not member:
            raise ValueError(
                f"{twin.name} and {member.name} are the same network; an ensemble has each once"
            )
        for what, of_first, found in differences(first, member):
            raise ValueError(
                f"{member.name} {what} {found}, and {first.name} {of_first}; an ensemble's members"
                " are alike: name those that belong together after --checkpoint"
            )


def differences(first: Member, other: Member) -> Iterable[tuple[str, str, str]]:
    """(what is said of a network, of the first one, of the other one) where they do not belong
    together."""
    facts = [
        ("is a member of", kind_in_words(first), kind_in_words(other)),
        ("was trained on", first.run.dataset, other.run.dataset),
        ("is a", model_of(first), model_of(other)),
    ]
    found = [fact for fact in facts if fact[1] != fact[2]]
    names, others = names_of_all(first), names_of_all(other)
    if names != others:
        found.append(("is of the classes", *first_difference(names, others)))
    return found


def first_difference(names: Sequence[str], others: Sequence[str]) -> tuple[str, str]:
    """How two lists of classes differ, in words for each: their lengths, or the first class that is
    another one."""
    if len(names) != len(others):
        return listed(names), listed(others)
    pairs = zip(names, others, strict=True)
    place = next(place for place, (one, other) in enumerate(pairs) if one != other)
    return f"{names[place]} at place {place}", f"{others[place]} at place {place}"


def kind_in_words(member: Member) -> str:
    if member.leave_out is None:
        return "no leave-out ensemble"
    return f"a leave-out ensemble of {member.leave_out.folds} folds"


def model_of(member: Member) -> str:
    """The network's name, as its folder begins."""
    return re.split(f"_(?:{KINDS.pattern})_", member.name)[0]


def listed(names: Sequence[str]) -> str:
    more = f" ... ({len(names)} classes)" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def check_folds(members: Mapping[Path, image_members.Member]) -> None:
    """ValueError unless each fold of a leave-out ensemble is there once; members: {folder: what its
    network leaves out}."""
    first = next(iter(members.values()))
    by_fold: dict[int, Path] = {}
    for folder, member in members.items():
        twin = by_fold.setdefault(member.fold, folder)
        if twin != folder:
            raise ValueError(
                f"{twin} and {folder} are both of fold {member.fold}; an ensemble of"
                f" {first.folds} folds has one network of each"
            )
    missing = [str(fold) for fold in range(1, first.folds + 1) if fold not in by_fold]
    if missing:
        raise ValueError(
            f"of the {first.folds} folds, there is no network of {', '.join(missing)}: a leave-out"
            " ensemble is scored by all of them, since each class is left out by one; train them"
            " with: python train.py ... --mode leave-out --fold all, extract them with"
            " run_networks.py, and name all after --checkpoint"
        )
    left_out = [name for member in members.values() for name in member.left_out]
    if sorted(left_out) != sorted(first.classes):
        parts = [f"{path} leaves out {listed(fold.left_out)}" for path, fold in members.items()]
        raise ValueError(f"the members are of different splits of the classes: {'; '.join(parts)}")


def check_sets(members: Sequence[Member]) -> None:
    """ValueError unless all members have the same OOD sets."""
    first = members[0]
    for member in members[1:]:
        if set(member.run.ood) != set(first.run.ood):
            raise ValueError(
                f"{first.name} has the OOD sets {', '.join(first.run.ood)}, {member.name} has"
                f" {', '.join(member.run.ood) or 'none'}; extract the same ones, or name those to"
                " score with --ood"
            )


def check_images(members: Sequence[Member]) -> None:
    """ValueError where the sidecars say that two members saw other images."""
    first = members[0]
    for member in members[1:]:
        check_same_images(first.test, member.test)
        if first.val and member.val:
            check_same_images(first.val, member.val)
        for name, path in first.run.ood.items():
            check_same_images(path, member.run.ood[name])


def check_same_images(one: Path, other: Path) -> None:
    contents = [records.read_sidecar(path).get("source_content") for path in (one, other)]
    if all(contents) and contents[0] != contents[1]:
        raise ValueError(f"{one} and {other} are of other images; extract both anew")


# ---- reading -------------------------------------------------------------------------------------


def read_head(member: Member, stale: records.Stale) -> Head:
    """The last layer of a member."""
    assert member.run.head is not None, "open_run asks for it"
    return store.read_head(member.run.head, stale, member.run.command)


def read(member: Member, sets: Sequence[str], stale: records.Stale) -> Inputs:
    """The plain features of one member: its own training and validation images, and the test images
    of all classes."""
    run = member.run

    def features(path: Path) -> store.Features:
        return store.read_features(path, stale, run.command)

    return Inputs(
        train=features(run.train),
        val=features(run.val) if run.val else None,
        test=features(member.test),
        ood={name: features(run.ood[name]) for name in sets},
        head=read_head(member, stale),
    )


def check_rows(first: store.Features, other: store.Features) -> None:
    """ValueError unless two members' files hold the same images in the same order, as far as labels
    and paths tell."""
    same = np.array_equal(first.labels, other.labels) and first.paths == other.paths
    if not same:
        raise ValueError(
            f"{first.file} and {other.file} hold other images, or the same in another order;"
            " extract both anew"
        )
