"""Where the files of each checkpoint go: into a folder named after it, and no two into one."""

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artifacts import records, store
from extraction.options import Options

MATCHED = "_matched"  # behind the stem, with --match-format


def folder_name(path: str, options: Options) -> str:
    """The name of a checkpoint's folder; features of matched images have one of their own."""
    return f"{Path(path).stem}{MATCHED if options.match_format else ''}"


def distinct(given: Iterable[str], options: Options) -> list[str]:
    """The checkpoints, each once; ValueError where two have one name, such as s0/b.pth s1/b.pth."""
    paths = list({Path(path).resolve(): path for path in given}.values())
    stems = [Path(path).stem for path in paths]
    clash = next((stem for stem in stems if stems.count(stem) > 1), None)
    if clash is None:
        return paths
    same = [path for path in paths if Path(path).stem == clash]
    others = [path for path in paths if path not in same]
    commands = []
    for path, folder in apart(same, options.output_dir).items():
        commands.append(options.command(checkpoint=[path], output_dir=folder))
    if others:
        commands.append(options.command(checkpoint=others))
    raise ValueError(
        f"{' and '.join(same)} would all be written into {Path(options.output_dir) / clash}; give "
        f"each a folder of its own with: {' && '.join(commands)}"
    )


def check_dataset(
    folder: Path, path: str, dataset: str, names: list[str], options: Options
) -> None:
    """ValueError where the folder holds the features of another ID set with other classes: head.csv
    holds the rows of one set's classes, and those features would lose theirs.

    names: the classes of the data, as rows of the head. With the same classes both sets may lie in
    one folder, and a warning says what that means."""
    head = records.read_sidecar(folder / "head.csv")
    other = head.get("dataset")
    if options.force or other in (None, dataset):
        return
    if store.feature_file(folder, f"ID_{other}_train") is None:
        return
    place = Path(options.output_dir) / dataset
    elsewhere = options.command(checkpoint=[path], output_dir=place)
    if head.get("class_names") != names:
        raise ValueError(
            f"{folder} holds the features of the ID data set {other}, whose classes head.csv is of;"
            f" put those of {dataset} into a folder of their own with: {elsewhere}"
        )
    warnings.warn(
        f"{folder} holds features of the ID data set {other} too: later scripts need --dataset"
        f" {dataset} or --dataset {other}, and the tables of one replace those of the other; a"
        f" folder of its own comes with: {elsewhere}",
        stacklevel=2,
    )


def apart(paths: list[str], output_dir: str | Path) -> dict[str, Path]:
    """{path: an output folder of its own}, named after the folders that tell the paths apart."""
    above = [Path(path).resolve().parent.parts[1:] for path in paths]
    depth = 1
    while len({parts[-depth:] for parts in above}) < len(set(above)):
        depth += 1
    names = ["_".join(parts[-depth:]) or "root" for parts in above]
    if len(set(names)) < len(names):  # best.pth and best.ckpt in one folder
        names = [Path(path).name for path in paths]
    return {path: Path(output_dir) / name for path, name in zip(paths, names, strict=True)}


def check_folder(folder: Path, path: str, origin: Mapping[str, Any], options: Options) -> None:
    """ValueError where the folder holds another network's features: they are not replaced unasked.

    `origin` says which network the checkpoint holds, as sidecars do."""
    head = records.read_sidecar(folder / "head.csv")
    if options.force or not head or records.same_network(head, origin):
        return
    other = head.get("checkpoint_at")
    if other is None or (folder / other).resolve() == Path(path).resolve():
        return  # the same file, trained anew
    place = apart([path], options.output_dir)[path]
    elsewhere = options.command(checkpoint=[path], output_dir=place)
    in_place = options.command(checkpoint=[path], force=True)
    raise ValueError(
        f"{folder} holds the features of another network, {os.path.normpath(folder / other)}; "
        f"put those of {path} elsewhere with: {elsewhere}, or in their place with: {in_place}"
    )
