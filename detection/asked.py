"""What the flags of ood_methods.py ask for: methods, their parameters, combinations and groups."""

from collections.abc import Sequence
from typing import Any, Protocol

import pandas as pd

import utils
from detection import adascale, combining, members, odin, own, tables
from images import openood
from scores import registry

# Flags that are short for --set: {flag: (parameter, the methods that have it)}.
PARAMETERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "temperature": ("temperature", ("Energy",)),
    "ridge": ("ridge", ("Mahalanobis",)),
    "vim_dim": ("dim", ("ViM", "Residual")),
    "neco_dim": ("dim", ("NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ViT", "NECO-DeiT")),
    "no_neco_scaler": ("scaler", ("NECO", "NECO-MaxLogit", "NECO-ETF")),
    "neco_max_logit": ("max_logit", ("NECO", "NECO-NoScaler", "NECO-ETF")),
}

Given = dict[str, dict[str, Any]]  # {method: {parameter: value}}


class Arguments(Protocol):
    """What the flags of ood_methods.py say."""

    checkpoint: list[str]
    dataset: utils.SetName | None
    ood: list[utils.SetName] | None
    csid: list[utils.SetName] | None
    pdf: bool
    svg: bool
    output_dir: str
    allow_stale: bool
    # an ensemble
    ensemble: bool
    perturbed: list[float] | None  # temperature, epsilon
    # methods and their parameters
    methods: list[str] | None
    combine: list[str] | None
    set: list[str] | None
    with_bank: bool | None
    bank_size: int | None
    features_in: str
    temperature: float | None
    ridge: float | None
    vim_dim: int | None
    neco_dim: int | None
    no_neco_scaler: bool | None
    neco_max_logit: bool | None
    neco_curve: bool | None
    # evaluation
    val_ood: str | None
    groups: list[tuple[str, list[str]]]
    tpr: float  # of the thresholds
    more_tpr: list[float]  # of more columns
    replace: bool
    # tables
    latex: bool
    caption: str
    label: str


def shares_of(given: Sequence[float]) -> tuple[float, list[float]]:
    """What --tpr names -> the share of the thresholds, which stands under fpr95, and the others.

    ValueError for a share that is named twice."""
    if len(set(given)) < len(given):
        shares = " ".join(f"{share:g}" for share in given)
        raise ValueError(f"--tpr {shares}: a share stands there twice; name each once")
    main_share = 0.95 if 0.95 in given else given[0]
    return main_share, [share for share in given if share != main_share]


def check_ensemble_flags(args: Arguments) -> None:
    """ValueError for flags that say nothing of an ensemble, or of an ensemble alone."""
    if args.perturbed and not args.ensemble:
        raise ValueError("--perturbed is of a leave-out ensemble; add --ensemble, or leave it out")
    if not args.ensemble:
        return
    if args.perturbed and args.perturbed[0] == 0:
        raise ValueError("--perturbed: the temperature is 0; expected a number above it")
    if args.perturbed and args.val_ood:
        raise ValueError(
            "--perturbed names the temperature and epsilon that --val-ood would choose; give one of"
            " the two"
        )
    if args.csid:
        raise ValueError(
            "--csid is of a single network, and members of an ensemble have no such sets; leave it"
            " out with --ensemble"
        )
    if args.combine:
        raise ValueError(
            "--combine is of a single network; with --ensemble every method is averaged over the"
            " members by rank"
        )
    if args.neco_curve:
        raise ValueError("--neco-curve is of a single network; leave it out with --ensemble")
    alone = [name for name in (odin.ODIN, *adascale.NAMES) if name in named(args)]
    if alone:
        raise ValueError(
            f"--methods {alone[0]} is of a single network; leave it out with --ensemble"
        )
    for name in named(args):
        if name in registry.METHODS and registry.needs_rest(name):
            raise ValueError(
                f"--methods {name} is of a single network; leave it out with --ensemble"
            )


def check_neco_curve(args: Arguments) -> None:
    """ValueError for --neco-curve where no method of NECO's family is computed."""
    family = PARAMETERS["neco_dim"][1]
    if args.neco_curve and args.methods and set(family).isdisjoint(named(args)):
        raise ValueError(f"--neco-curve is of {', '.join(family)}, which --methods leaves out")


def pair_of(args: Arguments) -> members.Pair | None:
    """What --perturbed asks for."""
    if not args.perturbed:
        return None
    temperature, epsilon = args.perturbed
    return members.Pair(epsilon, temperature)


def named(args: Arguments) -> list[str]:
    """The methods that --methods names, as tables call them; empty without the flag.

    ValueError for two scores of one's own of one name."""
    names = [own.parts(text)[1] if own.is_own(text) else text for text in args.methods or []]
    for text, name in zip(args.methods or [], names, strict=True):
        if own.is_own(text) and names.count(name) > 1:
            raise ValueError(
                f"--methods {text}: {name} is named twice; give each a name of its own"
            )
    return names


def combinations(args: Arguments) -> list[combining.Combination]:
    """What --combine asks for, each once."""
    return [combining.parse(text) for text in dict.fromkeys(args.combine or [])]


def groups_of(args: Arguments, dataset: str, tested: Sequence[str]) -> tables.Groups:
    """What --groups asks for, with OpenOOD's groups of the data set in the place of their name."""
    found: list[tuple[str, list[str]]] = []
    for name, grouped in args.groups:
        if name == openood.GROUP and not grouped:
            found += openood.groups(dataset, tested)
        else:
            found.append((name, grouped))
    return found


def groups_in(args: Arguments, table: pd.DataFrame) -> tables.Groups:
    """What --groups asks for of a tidy table."""
    return groups_of(args, table["dataset"].iloc[0], list(dict.fromkeys(table["ood"])))


def lacking_in_groups(args: Arguments, table: pd.DataFrame) -> str:
    """Which members of OpenOOD's groups a tidy table lacks, in words; "" where these are not asked
    for or whole."""
    if (openood.GROUP, []) not in args.groups:
        return ""
    return openood.missing_members(table["dataset"].iloc[0], list(table["ood"]))


def parameters(args: Arguments) -> Given:
    """The parameters that the flags give, by method: {"ViM": {"dim": 300}}.

    ValueError for a parameter that is given twice with different values, and for one of a method
    that is not asked for.
    """
    computed = [*(named(args) or registry.DEFAULT)]
    computed += combining.members_of(combinations(args))
    given = short_parameters(args)
    for name, parameter, value in map(registry.parse_setting, args.set or []):
        if name not in computed:
            raise ValueError(
                f"--set {name}.{parameter}={value}: {name} is not among the methods to compute;"
                f" add it with --methods {name}"
            )
        before = given.setdefault(name, {}).setdefault(parameter, value)
        if before != value:
            raise ValueError(f"{name}.{parameter} is given twice, as {before} and as {value}")
    return {name: values for name, values in given.items() if name in computed}


def short_parameters(args: Arguments) -> Given:
    """The parameters that the flags in PARAMETERS give, for each method that has them.

    ValueError for a flag if --methods names none of its methods.
    """
    given: Given = {}
    for flag, (parameter, names) in PARAMETERS.items():
        value = getattr(args, flag)
        if value is None:
            continue
        members = combining.members_of(combinations(args))
        if args.methods and set(names).isdisjoint([*named(args), *members]):
            raise ValueError(
                f"--{flag.replace('_', '-')} is of {', '.join(names)}, which --methods leaves out"
            )
        for name in names:
            given.setdefault(name, {})[parameter] = value
    return given
