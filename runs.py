"""The files that belong to one checkpoint, in results/<stem>/: found, and checked against each other before any is read.

What the scorers cannot do without is named where it is missing, with the command that makes it; what they can do without (ID
validation images, perturbed images for ODIN) is left out with a warning where it came from another checkpoint.
"""
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import artifacts
import records
import utils


@dataclass(frozen=True)
class Run:
    """The feature files of one checkpoint."""

    folder: Path
    dataset: str
    head: Path
    train: Path
    val: Path  # None where the run kept no validation images
    test: Path
    ood: dict  # name: path
    odin: dict  # test sets of perturbed images, "": ID, name: OOD; those that are there, none without ID's
    command: str  # that extracts all of it anew

    @property
    def files(self):
        return [path for path in (self.head, self.train, self.val, self.test, *self.ood.values(), *self.odin.values()) if path]


def open_run(checkpoint, output_dir="results", dataset=None, ood=None):
    """Find head, ID and OOD features of a checkpoint (or of its folder) and refuse what does not belong together.

    Without `dataset` the folder must hold one; without `ood` every OOD_*_test file in it is taken. Raises ValueError that
    names what is missing, or made by another checkpoint or head, and the command that makes it.
    """
    folder = utils.results_folder(checkpoint, output_dir)
    dataset = utils.split_name(dataset)[0] if dataset else only_dataset(folder, checkpoint)
    if ood is None:
        ood = sorted({path.stem[4:-5] for suffix in artifacts.SUFFIXES for path in folder.glob(f"OOD_*_test{suffix}")})
    images = distinct(ood)
    wanted = {"head": "head", "train": f"ID_{dataset}_train", "test": f"ID_{dataset}_test",
              **{f"OOD {name}": f"OOD_{name}_test" for name in images}}
    files = {role: artifacts.feature_file(folder, stem) for role, stem in wanted.items()}
    command = remedy(checkpoint, dataset, [as_extracted(files[f"OOD {name}"], name, path) for name, path in images.items()])
    missing = [f"{wanted[role]}.csv" for role, path in files.items() if path is None]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; make it with: {command}")
    origin = records.read_sidecar(files["head"]).get("checkpoint_sha256")
    val = own(artifacts.feature_file(folder, f"ID_{dataset}_val"), origin)
    odin = {"": f"ODIN_ID_{dataset}_test", **{name: f"ODIN_OOD_{name}_test" for name in images}}
    odin = {name: path for name, stem in odin.items() if (path := own(artifacts.feature_file(folder, stem), origin))}
    run = Run(folder, dataset, files["head"], files["train"], val, files["test"],
              {name: files[f"OOD {name}"] for name in images}, odin if "" in odin else {}, command)
    check_origin(run, Path(checkpoint))
    return run


def only_dataset(folder, checkpoint):
    found = sorted({path.stem[3:-6] for suffix in artifacts.SUFFIXES for path in folder.glob(f"ID_*_train{suffix}")})
    if len(found) != 1:
        raise ValueError(f"{folder} holds features of {len(found)} ID data sets ({', '.join(found) or 'none'}); expected one: "
                         f"name it with --dataset, or make it with: {remedy(checkpoint)}")
    return found[0]


def distinct(ood):
    """[NAME or NAME=FOLDER] -> {name: folder or None}; ValueError for a set that is named twice."""
    named = [utils.split_name(text) for text in ood]
    for name, _ in named:
        if [other for other, _ in named].count(name) > 1:
            raise ValueError(f"--ood names {name} more than once; give each set once")
    return dict(named)


def as_extracted(path, name, images):
    """NAME or NAME=FOLDER, as run_networks.py was asked for the set; ValueError where `images`, a folder, is another one."""
    words = (records.read_sidecar(path).get("arguments") or {}).get("ood") or [] if path else []
    given = f"{name}={images}" if images else name
    extracted = next((word for word in words if utils.split_name(word)[0] == name), given)
    recorded = utils.split_name(extracted)[1]
    if images and recorded and Path(images).resolve() != Path(recorded).resolve():
        raise ValueError(f"{path} holds the images of {recorded}, not of {images}; extract these under a name of their own, such "
                         f"as --ood {name}2={images}")
    return extracted


def own(path, origin):
    """A file that can be done without, None where there is none or, with a warning, where another checkpoint made it."""
    made_by = records.read_sidecar(path).get("checkpoint_sha256") if path else None
    if path and made_by and origin and made_by != origin:
        warnings.warn(f"{path} was made from another checkpoint and is left out; delete it, or extract it anew", stacklevel=2)
        return None
    return path


def remedy(checkpoint, dataset=None, ood=()):
    """The command that extracts these features."""
    name = str(checkpoint).rstrip("/")
    name += "" if name.endswith(".pth") else ".pth"
    return shlex.join(["python", "run_networks.py", "--checkpoint", name, *(["--dataset", dataset] if dataset else []),
                       *(["--ood", *ood] if ood else [])])


def check_origin(run, checkpoint):
    """Widths agree; each sidecar names this head and, where the checkpoint file is at hand, this checkpoint."""
    width = len(artifacts.columns_of(run.head)) - 2
    head, expected = records.sha256(run.head), records.sha256(checkpoint) if checkpoint.is_file() else None
    expected = expected or records.read_sidecar(run.head).get("checkpoint_sha256")
    for path in run.files:
        if path != run.head and artifacts.width_of(path) != width:
            raise ValueError(f"{path} is {artifacts.width_of(path)} features wide where {run.head} has {width}: they come from "
                             f"different networks; make them anew with: {run.command}")
        sidecar = records.read_sidecar(path)
        if not sidecar:
            warnings.warn(f"{path} has no sidecar: nothing says which checkpoint made it, so it is taken on trust", stacklevel=2)
        elif expected and sidecar.get("checkpoint_sha256") != expected:
            raise ValueError(f"{path} was made from another checkpoint ({str(sidecar.get('checkpoint_sha256'))[:12]}, expected "
                             f"{expected[:12]}); make it anew with: {run.command}")
        elif path != run.head and sidecar.get("head_sha256") != head:
            raise ValueError(f"{path} was made with another head than {run.head}; make both anew with: {run.command}")
