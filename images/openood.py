"""OOD sets that lie below --data-dir, and OpenOOD's near and far groups of them (Zhang et al. 2023,
"OpenOOD v1.5: enhanced benchmark for out-of-distribution detection").

    found = find("ninco", "imagenet", "datasets")       # a place, or None
    BENCHMARKS["cifar10"].near                          # ("cifar100", "tin")

A set is found by OpenOOD's list of it for the ID set (benchmark_imglist/), or by a folder that its
own archive unpacks to. Nothing is downloaded here. The scorers read the groups, so that nothing
here imports torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images import lists
from images.folders import quoted
from utils import SetName

GROUP = "openood"  # as --ood and --groups name it
SOURCE = "https://github.com/Jingkang50/OpenOOD"
LISTS = "benchmark_imglist"
ROOTS = ("images_largescale", "images_classic")  # below which the paths of the lists lie


@dataclass(frozen=True)
class Benchmark:
    """The OOD sets of an ID set."""

    near: tuple[str, ...]
    far: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.near, *self.far)


@dataclass(frozen=True)
class Known:
    """A set that a person puts below --data-dir."""

    folders: tuple[str, ...]  # where it is looked for, the first is where to put it
    source: str  # where it is to be had


SMALL_FAR = ("mnist", "svhn", "textures", "places365")
LARGE = Benchmark(("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o"))
BENCHMARKS = {
    "cifar10": Benchmark(("cifar100", "tin"), SMALL_FAR),
    "cifar100": Benchmark(("cifar10", "tin"), SMALL_FAR),
    "imagenet200": LARGE,
    "imagenet": LARGE,
}
# Other names of the ID sets.
ALSO = {
    "imagenet1k": "imagenet",
    "imagenet-1k": "imagenet",
    "imagenet_1k": "imagenet",
    "imagenet-200": "imagenet200",
    "imagenet_200": "imagenet200",
}
MOS = "https://github.com/deeplearning-wisc/large_scale_ood"  # Huang and Li 2021
SETS = {
    "imagenette": Known(
        ("imagenette2/val", "imagenette2-320/val", "imagenette2-160/val"),
        "https://github.com/fastai/imagenette",
    ),
    "openimage_o": Known(
        ("openimage_o", "images_largescale/openimage_o"), "https://github.com/haoqiwang/vim"
    ),
    "inaturalist": Known(("iNaturalist", "inaturalist", "images_largescale/inaturalist"), MOS),
    "imagenet_o": Known(
        ("imagenet-o", "imagenet_o"), "https://github.com/hendrycks/natural-adv-examples"
    ),
    "ssb_hard": Known(("ssb_hard", "images_largescale/ssb_hard"), SOURCE),
    "ninco": Known(
        ("ninco", "NINCO/NINCO_OOD_classes", "images_largescale/ninco"),
        "https://github.com/j-cb/NINCO",
    ),
    "places": Known(("Places", "places", "images_largescale/places"), MOS),
    "sun": Known(("SUN", "sun", "images_largescale/sun"), MOS),
    "places365": Known(("places365",), SOURCE),
    "tin": Known(("tin",), SOURCE),
}
# A set of the registry that stands for a member of which OpenOOD's list is not there; and where the
# registry has its files below --data-dir.
STAND_INS = {("imagenet", "textures"): "textures43", ("imagenet200", "textures"): "textures43"}
AT_HAND = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "mnist": "MNIST/raw",
    "svhn": "svhn/test_32x32.mat",
    "textures": "dtd/dtd/images",
    "textures43": "dtd/dtd/images",
}


# ID sets that a person puts below --data-dir, as NAME=PLACE has them.
ID_PLACES = {
    "imagenette": tuple(f"imagenette2{size}/{{split:val}}" for size in ("", "-320", "-160")),
    "imagenet200": (f"{LISTS}/imagenet200/{{split}}_imagenet200.txt@{ROOTS[0]}",),
    "imagenet": (f"{LISTS}/imagenet/{{split}}_imagenet.txt@{ROOTS[0]}", "ILSVRC/{split:val}"),
}
ID_SOURCES = {
    "imagenette": SETS["imagenette"].source,
    "imagenet200": f"{SOURCE} (its lists)",
    "imagenet": f"https://www.image-net.org (and its lists from {SOURCE})",
}


def benchmark_of(name: str) -> str | None:
    """The name of OpenOOD's benchmark of an ID set; None where it has none."""
    name = ALSO.get(name, name)
    return name if name in BENCHMARKS else None


def stand_in_of(name: str, benchmark: str | None) -> str:
    """The registry's set that stands for a member of a benchmark; most stand for themselves."""
    return STAND_INS.get((benchmark or "", name), name)


def id_place(asked: SetName, data_dir: str | os.PathLike) -> SetName:
    """An ID set that lies below --data-dir, with its place; any other as it is.

    ValueError that says where to get it and where to put it."""
    name = ALSO.get(asked.name, asked.name)
    if asked.folder is not None or name not in ID_PLACES:
        return asked
    looked = []
    for below in ID_PLACES[name]:
        parts = [str(Path(data_dir) / part) for part in below.split("@")]
        found = SetName(f"{asked.name}={'@'.join(parts)}", asked.name, "@".join(parts))
        if lists.exists(str(found.split("train").folder)):
            return found
        looked.append(str(found.folder))
    raise ValueError(
        f"{asked} is not in {' or '.join(looked)}; get it from {ID_SOURCES[name]}, or name the"
        f" place of its images: --dataset {asked.name}=FOLDER or {asked.name}={{split}}.txt@ROOT"
    )


# ---- one set -------------------------------------------------------------------------------------


def find(name: str, id_name: str, data_dir: str | os.PathLike) -> str | None:
    """Where a set lies: OpenOOD's list of it for this ID set, else a folder; None where neither is
    there with images below it."""
    for file in list_files(name, id_name, data_dir):
        for root in ROOTS:
            place = f"{file}@{Path(data_dir) / root}"
            if has_first_image(place):
                return place
    for folder in folders_of(name, data_dir):
        if folder.is_dir():
            return str(folder)
    return None


def has_first_image(place: str) -> bool:
    """True if the first image of a list is there: it tells which of the roots is meant."""
    if not lists.exists(place):
        return False
    found = lists.read(place)
    return bool(found.paths) and os.path.isfile(found.root / found.paths[0])


def list_files(name: str, id_name: str, data_dir: str | os.PathLike) -> list[Path]:
    """OpenOOD's lists of a set for this ID set, as they are or were called."""
    benchmark = benchmark_of(id_name)
    if benchmark is None:
        return []
    folder = Path(data_dir) / LISTS / benchmark
    names = ("textures", "texture") if name == "textures" else (name,)
    return [folder / f"test_{each}.txt" for each in names]


def folders_of(name: str, data_dir: str | os.PathLike) -> list[Path]:
    """The folders in which a set is looked for."""
    known = SETS.get(name)
    return [Path(data_dir) / folder for folder in known.folders] if known else []


def places_of(name: str, id_name: str, data_dir: str | os.PathLike) -> list[Path]:
    """The lists and the folders in which a set is looked for, in that order."""
    return [*list_files(name, id_name, data_dir), *folders_of(name, data_dir)]


def remedy(names: Sequence[str], id_name: str, data_dir: str | os.PathLike) -> str:
    """Where to get these sets, and where to put each."""
    said = []
    for name in names:
        looked = places_of(name, id_name, data_dir)
        where = [f"get it from {SETS[name].source}"] if name in SETS else []
        places = " or ".join(quoted(path) for path in looked)
        if name in SETS:
            where.append(f"put its images into {quoted(folders_of(name, data_dir)[0])}")
        said.append(f"{name} is not in {places}: {', '.join(where)}")
    own = " ".join(f"{name}=FOLDER" for name in names)
    return f"{'; '.join(said)}. Images that lie elsewhere: --ood {own}"


# ---- a group -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Members:
    """What of OpenOOD's groups is there, what is not, and what to say of it."""

    sets: list[SetName]
    said: list[str]
    absent: list[Path]  # where missing members were looked for


def benchmark_for(id_name: str, flag: str) -> str:
    """The benchmark of an ID set; ValueError where OpenOOD has none."""
    benchmark = benchmark_of(id_name)
    if benchmark is None:
        raise ValueError(
            f"{flag} {GROUP}: OpenOOD has near and far sets for {', '.join(BENCHMARKS)}, and the ID"
            f" set here is {id_name}; name the sets themselves"
        )
    return benchmark


def members(id_name: str, data_dir: str | os.PathLike, made: dict[str, SetName]) -> Members:
    """OpenOOD's near and far sets of an ID set, as far as they are below --data-dir, or were `made`
    into features before, {name: the set}.

    ValueError if OpenOOD has no such groups, or if no member is there."""
    benchmark = benchmark_for(id_name, "--ood")
    sets: list[SetName] = []
    said: list[str] = []
    missing: list[str] = []
    for name in BENCHMARKS[benchmark].members:
        stand_in = stand_in_of(name, benchmark)
        at_hand = stand_in in AT_HAND and (Path(data_dir) / AT_HAND[stand_in]).exists()
        place = find(name, id_name, data_dir)
        if place is not None:
            sets.append(SetName(f"{name}={place}", name, place))
        elif at_hand:
            sets.append(SetName(stand_in, stand_in))
            what = "the whole test set" if stand_in == name else stand_in
            said.append(f"{name}: {what} of the registry, without OpenOOD's list of it")
        elif name in made or stand_in in made:
            sets.append(made.get(name) or made[stand_in])
        else:
            missing.append(name)
    if missing:
        said += missing_words(missing, benchmark, data_dir)
    if not sets:
        raise ValueError(f"none of OpenOOD's sets for {benchmark} is there. {' '.join(said)}")
    looked = [path for name in missing for path in looked_in(name, id_name, data_dir)]
    return Members(sets, said, looked)


def missing_words(missing: list[str], benchmark: str, data_dir: str | os.PathLike) -> list[str]:
    """Which members are missing, and what brings them."""
    lines = [
        f"missing of OpenOOD's sets: {', '.join(missing)}. All of them: unpack what {SOURCE} links"
        f" (scripts/download) into {quoted(data_dir)}, as {LISTS}/, {ROOTS[0]}/ and {ROOTS[1]}/"
    ]
    own = [name for name in missing if name in SETS]
    if own:
        lines.append(f"one by one: {remedy(own, benchmark, data_dir)}")
    registry = [stand_in_of(name, benchmark) for name in missing if name not in SETS]
    if registry:
        lines.append(
            "the registry's own: python run_networks.py --fetch --dataset digits --ood"
            f" {' '.join(registry)} --data-dir {quoted(data_dir)}"
        )
    return lines


def looked_in(name: str, id_name: str, data_dir: str | os.PathLike) -> list[Path]:
    """All places in which a member was looked for."""
    places = places_of(name, id_name, data_dir)
    benchmark = benchmark_of(id_name)
    stand_in = stand_in_of(name, benchmark)
    if stand_in in AT_HAND:
        places.append(Path(data_dir) / AT_HAND[stand_in])
    return places


# ---- averages ------------------------------------------------------------------------------------


def groups(id_name: str, sets: Sequence[str]) -> list[tuple[str, list[str]]]:
    """[(group, its sets)] of the near and far groups among `sets`; the name of a group that is not
    whole says so: "far (3 of 4)". A group without any set is left out.

    ValueError if OpenOOD has no groups for the ID set, or if there is no set of either."""
    benchmark = benchmark_for(id_name, "--groups")
    found = []
    for group in ("near", "far"):
        wanted = getattr(BENCHMARKS[benchmark], group)
        present = []
        for name in wanted:
            both = (name, stand_in_of(name, benchmark))
            present += [each for each in both if each in sets][:1]
        if len(present) < len(wanted):
            group = f"{group} ({len(present)} of {len(wanted)})"
        if present:
            found.append((group, present))
    if not found:
        raise ValueError(
            f"--groups {GROUP}: none of OpenOOD's sets for {benchmark} is among the tested ones,"
            f" {', '.join(sets)}; expected {', '.join(BENCHMARKS[benchmark].members)}"
        )
    return found


def missing_members(id_name: str, sets: Sequence[str]) -> str:
    """Which of OpenOOD's sets for an ID set are not among `sets`, in words; "" where all are."""
    benchmark = benchmark_for(id_name, "--groups")
    missing = []
    for name in BENCHMARKS[benchmark].members:
        stand_in = stand_in_of(name, benchmark)
        if name not in sets and stand_in not in sets:
            missing.append(name)
    if not missing:
        return ""
    return (
        f"--groups {GROUP}: {', '.join(missing)} of OpenOOD's sets for {benchmark} are not among"
        " the tested ones, and in no mean; extract them with: run_networks.py --ood openood"
    )
