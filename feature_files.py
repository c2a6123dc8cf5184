"""The files that belong to one checkpoint, in results/<stem>/: found, and checked against each
other before any is read.

What the scorers cannot do without is named where it is missing, with the command that makes it;
what they can do without (ID validation images, perturbed images for ODIN) is left out with a
warning where it came from another checkpoint."""

import os
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import utils
from artifacts import current, records, shards, store
from images import file_facts, lists, openood

# Arguments of run_networks.py without which the same features do not come again: those of a network
# from elsewhere.
REPEATED = (
    "model",
    "feature_output",
    "logits_output",
    "classes",
    "image_size",
    "crop_share",
    "interpolation",
    "mean",
    "std",
    "format",
    "shard_rows",
    "match_format",
    "skip_broken",
    "amp",
    "csid",
    "calibration",
)
ELSEWHERE = (  # what no checkpoint and no sidecar stand behind
    "the program that wrote these features"
)
# a path that ends otherwise is a folder of features
CHECKPOINTS = (
    ".onnx",
    ".pth",
    ".pt",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".npz",
)

WHOLE_HEAD = "head_full"  # all rows of a classifier that has more classes than the data
PERTURBED = "perturbed"  # the folder of perturbed images, one folder per way in it


# What may be lacking: the flags of run_networks.py and of import_features.py that make it.
MORE = {
    "ood": ("--ood svhn", "--ood NAME=FILE"),
    "head": ("", "--head FILE"),
    "val": ("", "--val FILE"),
    "labels": ("", "--labels FILE"),
    "test_labels": ("", "--test-labels FILE"),
}


def perturbed_folder(kind: str, temperature: float, epsilon: float) -> str:
    """The folder, below the checkpoint's, of images that were perturbed so."""
    return f"{PERTURBED}/{kind}_T{temperature:g}_E{epsilon:g}"


@dataclass(frozen=True)
class FeatureFiles:
    """The feature files of one checkpoint."""

    folder: Path
    dataset: str
    head: Path | None  # None if there are only features
    whole_head: Path | None  # all rows of a classifier with more classes than the data
    train: Path
    val: Path | None  # None if the run kept no validation images
    test: Path
    ood: dict[str, Path]  # {name: file}
    odin_test: Path | None  # ID test images, perturbed for ODIN
    odin_ood: dict[str, Path]  # {name: file} of those that are there; empty without odin_test
    command: str  # the command that extracts, or imports, all of it anew
    imported: bool = False  # by import_features.py: there is no network
    # {name: file} of ID images under a covariate shift
    csid: dict[str, Path] = field(default_factory=dict)
    odin_val: Path | None = None  # ID validation images, perturbed for ODIN
    # changed for AdaSCALE: ID test and validation images, {name: file} of OOD sets
    adascale_test: Path | None = None
    adascale_val: Path | None = None
    adascale_ood: dict[str, Path] = field(default_factory=dict)

    @property
    def has_adascale(self) -> bool:
        """True where AdaSCALE can be scored: it needs validation images, plain and changed."""
        return bool(self.val and self.adascale_test and self.adascale_val)

    @property
    def files(self) -> list[Path]:
        inside = (
            self.head,
            self.whole_head,
            self.train,
            self.val,
            self.test,
            self.odin_test,
            self.odin_val,
        )
        outside = (*self.csid.values(), *self.ood.values(), *self.odin_ood.values())
        changed = (self.adascale_test, self.adascale_val, *self.adascale_ood.values())
        return [path for path in (*inside, *outside, *changed) if path]

    def command_with(self, flags: str) -> str:
        """The command that extracts, with more flags; none is known for features of other
        programs. What is asked for so needs the network: an import has it not."""
        if self.command == ELSEWHERE:
            return self.command
        if self.imported:
            return f"{store.EXTRACT} {flags}"
        return f"{self.command} {flags}"

    def command_for(self, what: str) -> str:
        """The command that makes one more thing of MORE, with the flags of its script."""
        if self.command == ELSEWHERE:
            return self.command
        extracting, importing = MORE[what]
        flags = importing if self.imported else extracting
        return f"{self.command} {flags}".strip()

    @property
    def optional(self) -> list[Path]:
        """Every path that would be read if it were there: a record of a stage names those that were
        absent."""
        stems = ["head", WHOLE_HEAD, f"ID_{self.dataset}_val"]
        for kind in ("ODIN", "ADASCALE"):
            stems += [f"{kind}_ID_{self.dataset}_{split}" for split in ("test", "val")]
            stems += [f"{kind}_OOD_{name}_test" for name in self.ood]
        return [self.folder / f"{stem}{suffix}" for stem in stems for suffix in store.SUFFIXES]


def open_run(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike = "results",
    dataset: utils.SetName | None = None,
    ood: Iterable[utils.SetName] | None = None,
    stale: records.Stale | None = None,
    needs_head: bool = True,
    csid: Iterable[utils.SetName] | None = (),
) -> FeatureFiles:
    """Find head, ID and OOD features of a checkpoint (or of its folder) and refuse what does not
    belong together.

    Without `dataset` the folder must hold one; without `ood` every OOD_*_test file in it is taken,
    and with a `csid` of None every CSID_*_test file of the same checkpoint.
    Raises ValueError that names what is missing, or made by another checkpoint or head, and the
    command that makes it; `stale` may let the latter pass. With needs_head=False a folder of
    features alone will do: `head` is then None."""
    folder, name = locate(checkpoint, output_dir, dataset)
    sets = asked_sets(folder, name, ood)
    refuse_repeated(sets)
    found = find_files(folder, name, sets)
    command = remedy(checkpoint, name, found.extracted(sets), found.made, output_dir)
    refuse_missing(found, needs_head, command)
    shifted = shifted_files(folder, csid, command)
    run = belonging(found, name, sets, command, shifted)
    check_widths(run)
    check_origin(run, Path(checkpoint), stale or records.Stale())
    return run


@dataclass(frozen=True)
class Found:
    """The files that a run cannot do without, as far as they are in its folder."""

    folder: Path
    stems: dict[str, str]  # {role: file name without its ending}
    files: dict[str, Path | None]  # {role: file, or None where there is none}

    @property
    def made(self) -> Path | None:
        """A file whose sidecar says how the features were made."""
        return self.files["head"] or self.files["train"]

    def needed(self, role: str) -> Path:
        """The file of a role that was not missing."""
        path = self.files[role]
        assert path is not None
        return path

    def extracted(self, sets: Sequence[utils.SetName]) -> list[str]:
        """Each OOD set as run_networks.py was asked for it."""
        return [as_extracted(self.files[ood_role(asked)], asked) for asked in sets]


def ood_role(asked: utils.SetName) -> str:
    return f"OOD {asked.name}"


def find_files(folder: Path, name: str, sets: Sequence[utils.SetName]) -> Found:
    """Look for the head, the ID features and the OOD features in a folder."""
    stems = {"head": "head", "train": f"ID_{name}_train", "test": f"ID_{name}_test"}
    for asked in sets:
        stems[ood_role(asked)] = f"OOD_{asked.name}_test"
    files = {role: store.feature_file(folder, stem) for role, stem in stems.items()}
    return Found(folder, stems, files)


def refuse_missing(found: Found, needs_head: bool, command: str) -> None:
    """ValueError that names the files that are missing, and the command that makes them."""
    needed = [role for role in found.files if needs_head or role != "head"]
    missing = [f"{found.stems[role]}.csv" for role in needed if found.files[role] is None]
    if missing:
        raise ValueError(f"{found.folder} lacks {', '.join(missing)}; make it with: {command}")


def shifted_files(
    folder: Path, asked: Iterable[utils.SetName] | None, command: str
) -> dict[str, Path]:
    """{name: file} of the csID sets that are asked for, or of all in the folder; ValueError, with
    the command that makes it, for one that is not there."""
    there = names_between(folder, "CSID_", "_test")
    wanted = there if asked is None else [given.name for given in asked]
    found = {}
    for name in wanted:
        path = store.feature_file(folder, f"CSID_{name}_test")
        if path is None:
            raise ValueError(
                f"{folder} lacks CSID_{name}_test.csv; it has {', '.join(there) or 'no such set'};"
                f" make it with: {command} --csid {name}"
            )
        found[name] = path
    return found


def belonging(
    found: Found,
    name: str,
    sets: Sequence[utils.SetName],
    command: str,
    shifted: dict[str, Path],
) -> FeatureFiles:
    """The files that were found, with the optional ones of the same checkpoint."""
    folder, train = found.folder, found.needed("train")
    origin = records.origin(found.files["head"] or train)
    val = own(store.feature_file(folder, f"ID_{name}_val"), origin)
    odin_test = own(store.feature_file(folder, f"ODIN_ID_{name}_test"), origin)
    changed = own(store.feature_file(folder, f"ADASCALE_ID_{name}_test"), origin)
    head = found.files["head"]
    return FeatureFiles(
        folder=folder,
        dataset=name,
        head=head,
        whole_head=whole_head_in(folder, head),
        train=train,
        val=val,
        test=found.needed("test"),
        ood={asked.name: found.needed(ood_role(asked)) for asked in sets},
        odin_test=odin_test,
        odin_ood=perturbed("ODIN", folder, sets, origin) if odin_test else {},
        command=command,
        imported=is_imported(train),
        csid={csid: path for csid, path in shifted.items() if own(path, origin)},
        odin_val=own(store.feature_file(folder, f"ODIN_ID_{name}_val"), origin),
        adascale_test=changed,
        adascale_val=own(store.feature_file(folder, f"ADASCALE_ID_{name}_val"), origin),
        adascale_ood=perturbed("ADASCALE", folder, sets, origin) if changed else {},
    )


def whole_head_in(folder: Path, head: Path | None) -> Path | None:
    """The file of all rows of the classifier that `head` holds some of; None where there is none
    of its network."""
    if head is None:
        return None
    return own(store.feature_file(folder, WHOLE_HEAD), records.origin(head))


def is_imported(path: Path) -> bool:
    """True for a file that import_features.py wrote."""
    return records.read_sidecar(path).get("made_by") == records.IMPORTER


def perturbed(
    kind: str, folder: Path, sets: Sequence[utils.SetName], origin: Mapping[str, Any]
) -> dict[str, Path]:
    """{name: file} of the OOD sets whose images, changed for ODIN or ADASCALE, are there."""
    found = {}
    for asked in sets:
        path = own(store.feature_file(folder, f"{kind}_OOD_{asked.name}_test"), origin)
        if path:
            found[asked.name] = path
    return found


def locate(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike = "results",
    dataset: utils.SetName | None = None,
) -> tuple[Path, str]:
    """The folder of a checkpoint's features, and the name of the ID data set in it.

    ValueError if no `dataset` is given and the folder holds none, or several."""
    folder = utils.results_folder(checkpoint, output_dir)
    if dataset:
        return folder, dataset.name
    return folder, only_dataset(folder, checkpoint, output_dir)


def asked_sets(
    folder: str | os.PathLike, dataset: str, ood: Iterable[utils.SetName] | None
) -> list[utils.SetName]:
    """The OOD sets that are asked for: all in the folder without `ood`; openood stands for those of
    its members that are in the folder, and ValueError where none is."""
    there = sets_in(folder)
    if ood is None:
        return there
    sets: list[utils.SetName] = []
    for asked in ood:
        if asked.name != openood.GROUP or asked.folder:
            sets.append(asked)
            continue
        grouped = openood.groups(dataset, [other.name for other in there])
        members = [name for _, names in grouped for name in names]
        sets += [utils.SetName.parse(name) for name in members]
    return sets


def file_notes(run: FeatureFiles) -> list[str]:
    """A line for each OOD set whose image files differ from those of the ID test set."""
    others = {name: records.read_sidecar(path) for name, path in run.ood.items()}
    return file_facts.notes_of(records.read_sidecar(run.test), others)


def sets_in(folder: str | os.PathLike) -> list[utils.SetName]:
    """All OOD sets in a folder, by name; ValueError that names a file whose name is no set's."""
    return [set_of_file(folder, name) for name in names_between(folder, "OOD_", "_test")]


def set_of_file(folder: str | os.PathLike, name: str) -> utils.SetName:
    """The set whose features a file OOD_<name>_test holds."""
    try:
        found = utils.SetName.parse(name)
        if found.folder is None:
            return found
    except ValueError:
        pass
    file = store.feature_file(Path(folder), f"OOD_{name}_test")
    raise ValueError(
        f"{file} is named after no data set: {name!r} is not letters, digits, - and _ alone; rename"
        " the file and its sidecar, or move them away"
    )


def names_between(folder: str | os.PathLike, before: str, after: str) -> list[str]:
    """Sorted names that stand between these texts in the names of a folder's feature files."""
    names = set()
    for suffix in store.SUFFIXES:
        for file in records.listing(folder, f"{before}*{after}{suffix}"):
            names.add(Path(file).stem.removeprefix(before).removesuffix(after))
    return sorted(names)


def only_dataset(
    folder: Path, checkpoint: str | os.PathLike, output_dir: str | os.PathLike = "results"
) -> str:
    """The name of the ID data set in a folder; ValueError if there is none, or several."""
    found = names_between(folder, "ID_", "_train")
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds features of {len(found)} ID data sets ({', '.join(found)}); expected"
            " one: name it with --dataset"
        )
    if not found:
        made = store.feature_file(folder, "head")
        raise ValueError(
            f"{folder} holds features of 0 ID data sets (none); expected one: name it with"
            f" --dataset, or make it with: {remedy(checkpoint, made=made, output_dir=output_dir)}"
        )
    return found[0]


def refuse_repeated(sets: Sequence[utils.SetName]) -> None:
    """ValueError for a set that is named twice."""
    names = [asked.name for asked in sets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--ood names {name} more than once; give each set once")


def as_extracted(path: Path | None, asked: utils.SetName) -> str:
    """NAME or NAME=FOLDER, as run_networks.py was asked for the set; ValueError where the folder is
    another one."""
    arguments = (records.read_sidecar(path).get("arguments") or {}) if path else {}
    recorded = [utils.SetName.parse(text) for text in arguments.get("ood") or []]
    if path and (place := records.read_sidecar(path).get("place")):
        recorded.append(utils.SetName.parse(place))  # where a group or a known name led to
    extracted = next((other for other in recorded if other.name == asked.name), asked)
    if not asked.folder or not extracted.folder:
        return extracted.text
    if lists.resolved(asked.folder) != lists.resolved(extracted.folder):
        elsewhere = shlex.quote(f"{asked.name}2={asked.folder}")
        raise ValueError(
            f"{path} holds the images of {extracted.folder}, not of {asked.folder}; extract these"
            f" under a name of their own, such as --ood {elsewhere}"
        )
    return extracted.text


def own(path: Path | None, origin: Mapping[str, Any]) -> Path | None:
    """An optional file; None if there is none or, with a warning, if another checkpoint made it."""
    made_by = records.origin(path) if path else {}
    known = any(made_by.values()) and any(origin.values())
    if known and not records.same_network(made_by, origin):
        warnings.warn(
            f"{path} was made from another checkpoint and is left out; delete it, or extract it"
            " anew",
            stacklevel=2,
        )
        return None
    return path


def remedy(
    checkpoint: str | os.PathLike,
    dataset: str | None = None,
    ood: Sequence[str] = (),
    made: Path | None = None,
    output_dir: str | os.PathLike = "results",
) -> str:
    """The command that extracts these features; `made`, one of the files, says by which arguments
    they were made."""
    sidecar = records.read_sidecar(made) if made else {}
    if made and is_imported(made):
        return imported_again(sidecar.get("arguments") or {}, made.parent, ood)
    file = checkpoint_file(checkpoint, made)
    if made and not sidecar and not Path(file).is_file():
        return ELSEWHERE
    arguments = sidecar.get("arguments") or {}
    repeated = {flag: arguments.get(flag) for flag in REPEATED}
    repeated["max_pixels"] = sidecar.get("max_pixels")  # which changes no feature, but what is read
    if repeated["format"] == "csv":
        del repeated["format"]
    if str(output_dir) != "results":
        repeated["output_dir"] = str(output_dir)
    words = ["python", "run_networks.py", "--checkpoint", file]
    repeated["dataset"] = arguments.get("dataset") or dataset
    repeated["ood"] = list(ood)
    for flag, value in repeated.items():
        if value in (None, []) or value is False:
            continue
        values = value if isinstance(value, list) else [value]
        if value is True:  # a flag without a value
            values = []
        words += [f"--{flag.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def imported_again(arguments: Mapping[str, Any], folder: Path, ood: Sequence[str]) -> str:
    """The command that imports these features anew, and replaces what is there."""
    given = {name: value for name, value in arguments.items() if name != "replace"}
    given["ood"] = list(ood) or given.get("ood")
    if given.get("format") == "csv":
        del given["format"]
    if str(folder.parent) != "results":
        given["output_dir"] = str(folder.parent)
    words = ["python", records.IMPORTER]
    for flag, value in given.items():
        if value not in (None, [], False):
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag.replace('_', '-')}", *map(str, values)]
    return shlex.join([*words, "--replace"])


def checkpoint_file(given: str | os.PathLike, made: Path | None = None) -> str:
    """The checkpoint that a person named, or whose folder of features they named.

    For a folder it is where the sidecar of `made` says that it was, or else beside the folder."""
    name = str(given).rstrip("/")
    if Path(name).is_file() or Path(name).suffix in CHECKPOINTS:
        return name
    beside_folder = f"{name}.pth"
    if not made:
        return beside_folder
    recorded = records.read_sidecar(made).get("checkpoint_at")
    if not isinstance(recorded, str):
        return beside_folder
    found = Path(os.path.normpath(made.parent / recorded))
    return str(found) if found.is_file() else beside_folder


# ---- what belongs together -----------------------------------------------------------------------


def check_widths(run: FeatureFiles) -> None:
    """ValueError if head and features are not equally wide."""
    first = run.head or run.train
    for path in run.files:
        if shards.is_folder(path):
            shards.check_folder(path, run.command)
    width = width_of_head(first) if run.head else store.width_of(first)
    for path in run.files:
        heads = (run.head, run.whole_head)
        found = width_of_head(path) if path in heads else store.width_of(path)
        if found != width:
            raise ValueError(
                f"{path} is {found} features wide where {first} has {width}: they come from"
                f" different networks; make them anew with: {run.command}"
            )


def width_of_head(path: Path) -> int:
    """How many weights per class a head has: its columns w0, w1 ..."""
    weights = [name for name in store.columns_of(path) if re.fullmatch(r"w\d+", name)]
    return len(weights)


def check_origin(run: FeatureFiles, checkpoint: Path, stale: records.Stale) -> None:
    """Refuse files whose sidecar names another head or, if the checkpoint file is there, another
    network than the checkpoint's."""
    sidecars = {path: records.read_sidecar(path) for path in run.files}
    named = {path: sidecar for path, sidecar in sidecars.items() if sidecar}
    warn_of_unnamed(run, [path for path in sidecars if path not in named])
    expected = (
        records.network_of(checkpoint)
        if checkpoint.is_file()
        else records.origin(run.head or run.train)
    )
    if any(expected.values()):
        foreign = [
            path for path, sidecar in named.items() if not records.same_network(sidecar, expected)
        ]
        refuse_foreign(run, foreign, expected, stale)
    if run.head:
        other = [
            path
            for path, sidecar in named.items()
            if path not in (run.head, run.whole_head) and not made_with(run.head, sidecar)
        ]
        refuse_other_head(run, other, stale)


def warn_of_unnamed(run: FeatureFiles, unnamed: Sequence[Path]) -> None:
    """Warn, in one line, of all files that have no sidecar."""
    if not unnamed:
        return
    names = ", ".join(path.name for path in unnamed)
    if len(unnamed) == 1:
        warnings.warn(
            f"{names} has no sidecar in {run.folder}: nothing says which checkpoint made it, so it"
            " is taken on trust",
            stacklevel=2,
        )
        return
    warnings.warn(
        f"{names} have no sidecars in {run.folder}: nothing says which checkpoint made them, so"
        " they are taken on trust",
        stacklevel=2,
    )


def refuse_foreign(
    run: FeatureFiles,
    foreign: Sequence[Path],
    expected: Mapping[str, Any],
    stale: records.Stale,
) -> None:
    """Refuse files that were made from another checkpoint."""
    if not foreign:
        return
    found = records.read_sidecar(foreign[0])
    which = f"({records.short_hash(found)}, expected {records.short_hash(expected)})"
    other = "with other training features" if run.imported else "from another checkpoint"
    reason = f"{foreign[0]} was made {other} {which}{and_others(foreign)}"
    stale.found(reason, run.command)


def refuse_other_head(run: FeatureFiles, other: Sequence[Path], stale: records.Stale) -> None:
    """Refuse files that were made with another head."""
    if not other:
        return
    reason = f"{other[0]} was made with another head than {run.head}{and_others(other)}"
    stale.found(reason, run.command)


def and_others(paths: Sequence[Path]) -> str:
    """The end of a sentence about the first path, which names the rest."""
    rest = [path.name for path in paths[1:]]
    if not rest:
        return ""
    verb = "was" if len(rest) == 1 else "were"
    return f", and so {verb} {', '.join(rest)}"


def made_with(head: Path, sidecar: Mapping[str, Any]) -> bool:
    """True if a file's sidecar names this head, or a head of other bytes with the same content."""
    then = sidecar.get("head_sha256")
    if then is None:
        return False
    written = records.read_sidecar(head)
    content = written.get("content_sha256") if written.get("sha256") == then else None
    return current.SeenFile(then, content).unchanged(head)
