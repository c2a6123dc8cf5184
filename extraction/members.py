"""Several checkpoints in one call: members of one leave-out ensemble, or no members at all."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from extraction.options import Options
from images.members import Member
from networks import checkpoints, onnx_graphs
from utils import SetName

Content = Mapping[str, Any]

# Entries that the checkpoints of an ensemble's members have in common, and what they are called.
COMMON = {
    "model": "models",
    "dataset": "data sets",
    "held_out": "held-out classes",
    "val_size": "numbers of validation images",
    "preprocessing": "preprocessings",
}


def check_together(paths: Sequence[str], options: Options) -> str:
    """What to say of the folds that are not among these checkpoints, "" where nothing is to be
    said.

    ValueError for members beside other networks, for members that cannot be of one ensemble, and
    for two checkpoints of one member."""
    if len(paths) == 1:
        return ""
    contents = {path: facts_of(path) for path in paths}
    members = {path: member for path in paths if (member := Member.of(contents[path]))}
    if not members:
        return ""
    check_unmixed(paths, members, options)
    first, *others = members
    for path in others:
        check_pair((first, members[first]), (path, members[path]))
        check_common((first, contents[first]), (path, contents[path]))
    check_folds(members, options)
    return missing(list(members.values()))


def facts_of(path: str) -> Content:
    """What a checkpoint says beside its weights, of which only one network's are in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is read again, and warns then
        content = {} if onnx_graphs.is_onnx(path) else checkpoints.read(path)
    return {name: content.get(name) for name in (*COMMON, "leave_out")}


def check_unmixed(paths: Sequence[str], members: Mapping[str, Member], options: Options) -> None:
    """ValueError for members of an ensemble beside networks that are none."""
    others = [path for path in paths if path not in members]
    if not others:
        return
    first, member = next(iter(members.items()))
    commands = [options.command(checkpoint=[*group]) for group in (members, others)]
    raise ValueError(
        f"{first} is member {member.fold} of {member.folds} of a leave-out ensemble, and"
        f" {others[0]} is no member; extract them apart: {' && '.join(commands)}"
    )


def check_pair(one: tuple[str, Member], other: tuple[str, Member]) -> None:
    """ValueError for members whose classes are dealt in different ways."""
    (path, member), (path2, member2) = one, other
    if same_split(member, member2):
        return
    raise ValueError(
        f"{path} ({in_words(member)}) and {path2} ({in_words(member2)}) are members of different"
        " splits; give members of one ensemble"
    )


def same_split(member: Member, other: Member) -> bool:
    """True if two members can be of one split: no class is of two folds."""
    if (member.classes, member.folds) != (other.classes, other.folds):
        return False
    if member.fold == other.fold:
        return member.left_out == other.left_out
    return set(member.left_out).isdisjoint(other.left_out)


def in_words(member: Member) -> str:
    return f"fold {member.fold} of {member.folds}, {len(member.classes)} classes"


def check_common(one: tuple[str, Content], other: tuple[str, Content]) -> None:
    """ValueError for members of different models, data sets or preprocessings."""
    (path, facts), (path2, facts2) = one, other
    for name, words in COMMON.items():
        value, value2 = comparable(name, facts), comparable(name, facts2)
        if value != value2:
            raise ValueError(
                f"{path} and {path2} are members with different {words}, {value} and {value2};"
                " give members of one ensemble"
            )


def comparable(name: str, facts: Content) -> Any:
    """An entry as members have it in common: a data set by its name, wherever its folder lies."""
    value = facts[name]
    return SetName.parse(value).name if name == "dataset" and value else value


def check_folds(members: Mapping[str, Member], options: Options) -> None:
    """ValueError for two checkpoints of one member, such as its best and its last epoch."""
    by_fold: dict[int, str] = {}
    doubled = []
    for path, member in members.items():
        if by_fold.setdefault(member.fold, path) != path:
            doubled.append(path)
    if not doubled:
        return
    second = doubled[0]
    fold = members[second].fold
    once = options.command(checkpoint=list(by_fold.values()))
    raise ValueError(
        f"fold {fold} is there twice: {by_fold[fold]} and {second}; give one checkpoint of each"
        f" member, such as: {once}"
    )


def missing(members: Sequence[Member]) -> str:
    """Which folds are still missing, as one line; "" where none is."""
    folds = members[0].folds
    there = {member.fold for member in members}
    lacks = [str(fold) for fold in range(1, folds + 1) if fold not in there]
    if not lacks:
        return ""
    return (
        f"{len(there)} of the {folds} members of a leave-out ensemble; not in this call: fold"
        f" {', '.join(lacks)}"
    )
