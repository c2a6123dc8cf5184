"""The files that belong to one checkpoint, in results/<stem>/: found, and checked against each
other before any is read.

What the scorers cannot do without is named where it is missing, with the command that makes it;
what they can do without (ID validation images, perturbed images for ODIN) is left out with a
warning where it came from another checkpoint."""

import os
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import utils
from artifacts import current, records, store

# Arguments of run_networks.py without which the same features do not come again: those of a network
# from elsewhere.
REPEATED = ("model", "image_size", "crop_share", "interpolation", "mean", "std", "format")
ELSEWHERE = (  # what no checkpoint and no sidecar stand behind
    "the program that wrote these features"
)
# a path that ends otherwise is a folder of features
CHECKPOINTS = (
    ".pth",
    ".pt",
    ".ckpt",
    ".bin",
    ".safetensors",
)


@dataclass(frozen=True)
class FeatureFiles:
    """The feature files of one checkpoint."""

    folder: Path
    dataset: str
    head: Path  # None where there are only features
    train: Path
    val: Path  # None where the run kept no validation images
    test: Path
    ood: dict  # name: path
    odin_test: Path | None  # ID test images, perturbed for ODIN
    odin_ood: dict  # name: path of those that are there, none without odin_test
    command: str  # that extracts all of it anew

    @property
    def files(self):
        inside = (self.head, self.train, self.val, self.test, self.odin_test)
        outside = (*self.ood.values(), *self.odin_ood.values())
        return [path for path in (*inside, *outside) if path]

    def command_with(self, flags):
        """The command that extracts, with more flags; other programs' features have none that we
        know."""
        return self.command if self.command == ELSEWHERE else f"{self.command} {flags}"

    @property
    def optional(self):
        """Every path that would be read if it were there: a record of a stage names those that were
        absent."""
        stems = ["head", f"ID_{self.dataset}_val", f"ODIN_ID_{self.dataset}_test"]
        stems += [f"ODIN_OOD_{name}_test" for name in self.ood]
        return [self.folder / f"{stem}{suffix}" for stem in stems for suffix in store.SUFFIXES]


def open_run(checkpoint, output_dir="results", dataset=None, ood=None, stale=None, needs_head=True):
    """Find head, ID and OOD features of a checkpoint (or of its folder) and refuse what does not
    belong together.

    Without `dataset` the folder must hold one; without `ood` every OOD_*_test file in it is taken.
    Raises ValueError that names what is missing, or made by another checkpoint or head, and the
    command that makes it; `stale` may let the latter pass. With needs_head=False a folder of
    features alone will do: `head` is then None."""
    folder, name = locate(checkpoint, output_dir, dataset)
    sets = sets_in(folder) if ood is None else list(ood)
    refuse_repeated(sets)
    wanted = {
        "head": "head",
        "train": f"ID_{name}_train",
        "test": f"ID_{name}_test",
        **{f"OOD {asked.name}": f"OOD_{asked.name}_test" for asked in sets},
    }
    files = {role: store.feature_file(folder, stem) for role, stem in wanted.items()}
    words = [as_extracted(files[f"OOD {asked.name}"], asked) for asked in sets]
    command = remedy(checkpoint, name, words, files["head"] or files["train"], output_dir)
    needed = [role for role in files if needs_head or role != "head"]
    missing = [f"{wanted[role]}.csv" for role in needed if files[role] is None]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; make it with: {command}")
    origin = records.origin(files["head"] or files["train"])
    val = own(store.feature_file(folder, f"ID_{name}_val"), origin)
    odin_test = own(store.feature_file(folder, f"ODIN_ID_{name}_test"), origin)
    odin_ood = {}
    for asked in sets if odin_test else ():
        path = own(store.feature_file(folder, f"ODIN_OOD_{asked.name}_test"), origin)
        if path:
            odin_ood[asked.name] = path
    run = FeatureFiles(
        folder,
        name,
        files["head"],
        files["train"],
        val,
        files["test"],
        {asked.name: files[f"OOD {asked.name}"] for asked in sets},
        odin_test,
        odin_ood,
        command,
    )
    check_widths(run)
    check_origin(run, Path(checkpoint), stale or records.Stale())
    return run


def locate(checkpoint, output_dir="results", dataset=None):
    """The folder of a checkpoint's features, and the ID data set in it; ValueError where there is
    none, or several."""
    folder = utils.results_folder(checkpoint, output_dir)
    return folder, (dataset.name if dataset else only_dataset(folder, checkpoint, output_dir))


def sets_in(folder) -> list[utils.SetName]:
    """All OOD sets in a folder, by name."""
    found = [
        name for suffix in store.SUFFIXES for name in records.listing(folder, f"OOD_*_test{suffix}")
    ]
    names = {Path(name).stem.removeprefix("OOD_").removesuffix("_test") for name in found}
    return [utils.SetName.parse(name) for name in sorted(names)]


def only_dataset(folder, checkpoint, output_dir="results"):
    found = [
        name for suffix in store.SUFFIXES for name in records.listing(folder, f"ID_*_train{suffix}")
    ]
    found = sorted({Path(name).stem.removeprefix("ID_").removesuffix("_train") for name in found})
    if len(found) != 1:
        raise ValueError(
            f"{folder} holds features of {len(found)} ID data sets ({', '.join(found) or 'none'});"
            " expected one: name it with --dataset, or make it with:"
            f" {remedy(checkpoint, output_dir=output_dir)}"
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
    recorded = map(utils.SetName.parse, arguments.get("ood") or [])
    extracted = next((other for other in recorded if other.name == asked.name), asked)
    if not asked.folder or not extracted.folder:
        return extracted.text
    if Path(asked.folder).resolve() != Path(extracted.folder).resolve():
        elsewhere = shlex.quote(f"{asked.name}2={asked.folder}")
        raise ValueError(
            f"{path} holds the images of {extracted.folder}, not of {asked.folder}; extract these"
            f" under a name of their own, such as --ood {elsewhere}"
        )
    return extracted.text


def own(path, origin):
    """A file that can be done without, None where there is none or, with a warning, where another
    checkpoint made it."""
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


def remedy(checkpoint, dataset=None, ood=(), made=None, output_dir="results"):
    """The command that extracts these features; `made`, one of the files, says by which arguments
    they were made."""
    sidecar = records.read_sidecar(made) if made else {}
    file = checkpoint_file(checkpoint, made)
    if made and not sidecar and not Path(file).is_file():
        return ELSEWHERE
    arguments = sidecar.get("arguments") or {}
    repeated = {flag: arguments.get(flag) for flag in REPEATED}
    if repeated["format"] == "csv":
        del repeated["format"]
    if str(output_dir) != "results":
        repeated["output_dir"] = str(output_dir)
    words = ["python", "run_networks.py", "--checkpoint", file]
    for flag, value in {
        **repeated,
        "dataset": arguments.get("dataset") or dataset,
        "ood": list(ood),
    }.items():
        if value not in (None, []):
            words += [
                f"--{flag.replace('_', '-')}",
                *map(str, value if isinstance(value, list) else [value]),
            ]
    return shlex.join(words)


def checkpoint_file(given, made=None):
    """The checkpoint that a person named, or whose folder: where its head says that it lay, or else
    beside the folder."""
    name = str(given).rstrip("/")
    if Path(name).is_file() or Path(name).suffix in CHECKPOINTS:
        return name
    at = records.read_sidecar(made).get("checkpoint_at") if made else None
    found = Path(os.path.normpath(Path(made).parent / at)) if isinstance(at, str) else None
    return str(found) if found and found.is_file() else f"{name}.pth"


# ---- what belongs together -----------------------------------------------------------------------


def check_widths(run):
    """Head and features are equally wide; nothing makes up for it where they are not."""
    first = run.head or run.train
    width = width_of_head(first) if run.head else store.width_of(first)
    for path in run.files:
        found = width if path == run.head else store.width_of(path)
        if found != width:
            raise ValueError(
                f"{path} is {found} features wide where {first} has {width}: they come from"
                f" different networks; make them anew with: {run.command}"
            )


def width_of_head(path):
    return sum(re.fullmatch(r"w\d+", name) is not None for name in store.columns_of(path))


def check_origin(run, checkpoint, stale):
    """Each sidecar names this head and, where the checkpoint file is at hand, this checkpoint's
    network."""
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
            if path != run.head and not made_with(run.head, sidecar)
        ]
        refuse_other_head(run, other, stale)


def warn_of_unnamed(run, unnamed):
    """One line for all files that have no sidecar."""
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


def refuse_foreign(run, foreign, expected, stale):
    if not foreign:
        return
    digest = expected.get("checkpoint_sha256") or expected.get("weights_sha256")
    found = records.read_sidecar(foreign[0]).get("checkpoint_sha256")
    which = f"({str(found)[:12]}, expected {str(digest)[:12]})"
    reason = f"{foreign[0]} was made from another checkpoint {which}{and_others(foreign)}"
    stale.found(reason, run.command)


def refuse_other_head(run, other, stale):
    if other:
        stale.found(
            f"{other[0]} was made with another head than {run.head}{and_others(other)}", run.command
        )


def and_others(paths):
    names = ", ".join(path.name for path in paths[1:])
    return f", and so was {names}" if len(paths) == 2 else f", and so were {names}" if names else ""


def made_with(head, sidecar):
    """True if a file's sidecar names this head, or one of other bytes that says the same."""
    then = sidecar.get("head_sha256")
    if then is None:
        return False
    written = records.read_sidecar(head)
    content = written.get("content_sha256") if written.get("sha256") == then else None
    return current.SeenFile(then, content).unchanged(head)
