"""What is to be done for one checkpoint: its files, the methods to compute, the earlier scores that
stay, and every mistake that can be found before anything large is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import feature_files
import utils
from artifacts import records, store
from detection import adascale, asked, combining, joining, members, odin, own
from images.members import fold_pattern
from scores import registry


@dataclass(frozen=True)
class Task:
    """One checkpoint's files, the methods to compute, and the earlier scores that stay beside
    them."""

    run: feature_files.FeatureFiles
    names: list[str]  # methods to compute
    asked_sets: list[str]
    # OOD sets in the table: those asked for, except --val-ood, and those of the earlier table
    tested: list[str]
    earlier: joining.Earlier  # without the methods to compute
    own_files: list[Path]  # of scores of one's own
    lines: list[str]  # to print before the work starts
    stale: records.Stale

    @property
    def inputs(self) -> list[Path]:
        """All files that are read, and those that would be read if they existed."""
        folder = self.run.folder
        stems = [f"OOD_{name}_test" for name in self.earlier.tuned_on()]
        chose = [folder / f"{stem}{suffix}" for stem in stems for suffix in store.SUFFIXES]
        return list(dict.fromkeys([*self.run.files, *self.run.optional, *chose, *self.own_files]))


def prepare(checkpoint: str, args: asked.Arguments) -> Task:
    """Find one checkpoint's files, and the methods and OOD sets that make its table."""
    stale = records.Stale(args.allow_stale)
    folder, dataset = feature_files.locate(checkpoint, args.output_dir, args.dataset)
    earlier = joining.Earlier()
    if not args.replace:
        earlier = joining.find(folder, dataset)
    sets = feature_files.asked_sets(folder, dataset, args.ood)
    asked_sets = [given.name for given in sets]
    more = [utils.SetName.parse(name) for name in earlier.sets if name not in asked_sets]
    run = feature_files.open_run(
        checkpoint,
        args.output_dir,
        args.dataset,
        [*sets, *more],
        stale,
        needs_head=False,
        csid=args.csid,
    )
    check_no_member(run)
    names, lines = methods_of(run, args)
    anew = [*names, *(each.name for each in asked.combinations(args))]
    check_edited(earlier, anew, folder)
    tested = [name for name in run.ood if name != args.val_ood or name in earlier.sets]
    kept = earlier.without(anew)
    if kept.parameters:
        lines = [*lines, kept.summary]
    own_files = [own.parts(text)[0] for text in args.methods or [] if own.is_own(text)]
    return Task(run, names, asked_sets, tested, kept, own_files, [*kept.lost, *lines], stale)


def check_no_member(run: feature_files.FeatureFiles) -> None:
    """ValueError for one member of a leave-out ensemble: alone it does not know all classes, and
    those that it leaves out were its outliers in training."""
    member = records.read_sidecar(run.head or run.train).get("leave_out")
    if not member:
        return
    root = run.folder.parent
    others = [root / name for name in records.listing(root, fold_pattern(run.folder.name))]
    command = utils.command("ood_methods", [path for path in others if path.is_dir()])
    raise ValueError(
        f"{run.folder} is of fold {member['fold']} of {member['folds']} of a leave-out ensemble,"
        f" which does not know {members.listed(member['left_out'])}; score all its members"
        f" together with: {command} --ensemble"
    )


def check_edited(earlier: joining.Earlier, names: Sequence[str], folder: Path) -> None:
    """ValueError if an edited table cannot be joined, and holds methods that would be lost because
    this run does not compute them."""
    gone = [name for name in earlier.edited if name not in names]
    if not gone:
        return
    some = ", ".join(gone[:5])
    if len(gone) > 5:
        some += " ..."
    all_anew = ""
    if set(gone) <= {*registry.DEFAULT, odin.ODIN, *adascale.NAMES}:
        all_anew = "compute all anew by leaving --methods out, or "
    reason = next(iter(earlier.lost))
    raise ValueError(
        f"{folder}: {reason}, and {some} would go with it; {all_anew}start over with --replace"
    )


def methods_of(
    run: feature_files.FeatureFiles, args: asked.Arguments
) -> tuple[list[str], list[str]]:
    """The methods to compute, and lines that name those which are left out without a head, or
    without labels of the training images.

    ValueError if a method that needs what is not there was named.
    """
    names = asked.named(args) or registry.defaults(rest=run.whole_head is not None)
    if run.odin_test and not args.methods:
        names.append(odin.ODIN)
    if run.has_adascale and not args.methods:
        names += adascale.NAMES
    names, lines = without_head(run, args, names)
    names, more = without_labels(run, args, names)
    return names, [*lines, *more]


def without_labels(
    run: feature_files.FeatureFiles, args: asked.Arguments, names: list[str]
) -> tuple[list[str], list[str]]:
    """Those of the methods that run without training labels, where an import has none."""
    if records.read_sidecar(run.train).get("labelled") is not False:
        return names, []
    combined = combining.members_of(asked.combinations(args))
    lacking = [name for name in [*names, *combined] if registry.needs_labels(name)]
    if lacking and (args.methods or not set(combined).isdisjoint(lacking)):
        raise ValueError(
            f"{run.train} has no labels, without which there is no {', '.join(lacking)}; give them"
            f" with: {run.command_for('labels')}"
        )
    if not lacking:
        return names, []
    line = (
        f"no labels in {run.train}: left out are {', '.join(lacking)}; give them with:"
        f" {run.command_for('labels')}"
    )
    return [name for name in names if name not in lacking], [line]


def without_head(
    run: feature_files.FeatureFiles, args: asked.Arguments, names: list[str]
) -> tuple[list[str], list[str]]:
    """Those of the methods that run without a head, where there is none."""
    combined = combining.members_of(asked.combinations(args))
    if run.head:
        check_whole_head(run, [*names, *combined])
        return names, []
    given = asked.parameters(args)
    lacking = [name for name in [*names, *combined] if registry.needs_head(name, given.get(name))]
    if not lacking:
        return names, []
    times_max_logit = any(values.get("max_logit") for values in given.values())
    if args.methods or times_max_logit or not set(combined).isdisjoint(lacking):
        raise ValueError(
            f"{run.folder} has no head.csv, without which there is no {', '.join(lacking)};"
            f" expected columns class, w0 .. w{{D-1}}, bias, as written by:"
            f" {run.command_for('head')}"
        )
    line = f"no head.csv in {run.folder}: left out are the accuracy, {', '.join(lacking)}"
    if run.imported or records.read_sidecar(run.train).get("head_sha256"):
        # what made these features makes the head too
        line += f"; make it with: {run.command_for('head')}"
    return [name for name in names if name not in lacking], [line]


def check_whole_head(run: feature_files.FeatureFiles, names: Sequence[str]) -> None:
    """ValueError for a method that needs the other rows of a larger head, where there are none."""
    needing = [name for name in names if registry.needs_rest(name)]
    if not needing or run.whole_head:
        return
    raise ValueError(
        f"{run.folder} has no {feature_files.WHOLE_HEAD}.csv, without which there is no"
        f" {', '.join(needing)}: run_networks.py writes it where a classifier has more classes than"
        " the data (docs/pretrained.md); leave it out"
    )


def check_together(tasks: Sequence[Task]) -> None:
    """ValueError unless each checkpoint is named once and all have the same OOD sets, so that they
    can be averaged."""
    first = tasks[0]
    seen: set[Path] = set()
    for task in tasks:
        folder = task.run.folder
        if folder.resolve() in seen:
            raise ValueError(
                f"--checkpoint names {folder} more than once, which would count as another seed;"
                " give each once"
            )
        if set(task.asked_sets) != set(first.asked_sets):
            raise ValueError(
                f"{first.run.folder} has the OOD sets {', '.join(first.asked_sets)}, {folder} has"
                f" {', '.join(task.asked_sets)}; name those to average over with --ood"
            )
        seen.add(folder.resolve())


def check(run: feature_files.FeatureFiles, args: asked.Arguments) -> None:
    """ValueError for mistakes that can be found before anything large is read."""
    if not run.ood:
        raise ValueError(
            f"{run.folder} holds no OOD features; make some with: {run.command_for('ood')}"
        )
    check_val_ood(run, args)
    check_groups(run, args)
    check_dimensions(run, args)
    named = [name for name in adascale.NAMES if name in (args.methods or [])]
    if named and not run.has_adascale:
        raise ValueError(
            f"{run.folder} lacks features of changed images for {', '.join(named)}, of ID"
            f" validation images among them; make them with: {run.command_with('--adascale')}"
        )
    if odin.ODIN in (args.methods or []) and not run.odin_test:
        raise ValueError(
            f"{run.folder} lacks features of perturbed images for ODIN; make them with: "
            f"{run.command_with('--odin-epsilon 0.0014')}"
        )


def check_dimensions(run: feature_files.FeatureFiles, args: asked.Arguments) -> None:
    """ValueError for a number of components that is not below the number of features."""
    width = store.width_of(run.train)
    for flag in ("vim_dim", "neco_dim"):
        value = getattr(args, flag)
        if value is not None and value >= width:
            expected = f"1 to {width - 1}" if width > 1 else "no such flag"
            raise ValueError(
                f"--{flag.replace('_', '-')} is {value}; expected {expected} for {width} features"
            )
    for name, parameter, value in map(registry.parse_setting, args.set or []):
        if parameter == "dim" and value >= width:
            raise ValueError(
                f"--set {name}.dim={value}: expected at most {width - 1} for {width} features"
            )


def check_val_ood(run: feature_files.FeatureFiles, args: asked.Arguments) -> None:
    """ValueError if --val-ood cannot choose hyper-parameters: it needs another set to test on, ID
    validation images and a head."""
    if not args.val_ood:
        return
    if args.val_ood not in run.ood:
        raise ValueError(
            f"{args.val_ood} is not among the OOD sets {', '.join(run.ood)}; extract it, or name it"
            " in --ood"
        )
    if len(run.ood) == 1:
        raise ValueError(
            f"{args.val_ood} is the only OOD set, and what chooses hyper-parameters cannot test"
            " them; add another"
        )
    if run.val is None and run.imported:
        raise ValueError(
            f"{run.folder} has no ID_{run.dataset}_val.csv: --val-ood compares with ID validation"
            f" images; give them with: {run.command_for('val')}"
        )
    if run.val is None:
        raise ValueError(
            f"{run.folder} has no ID_{run.dataset}_val.csv of this checkpoint: --val-ood compares"
            f" with ID validation images, which {run.command} writes of a network trained with"
            " --val-size above 0"
        )
    if run.head is None:
        raise ValueError(
            f"{run.folder} has no head.csv, which the ID validation images of --val-ood are scored"
            f" with; expected columns class, w0 .. w{{D-1}}, bias, as written by:"
            f" {run.command_for('head')}"
        )


def check_groups(run: feature_files.FeatureFiles, args: asked.Arguments) -> None:
    """ValueError unless every group has a name of its own and holds tested sets, each once.

    Otherwise a set would count twice in a mean, or a group's column would hide another one.
    """
    tested = [name for name in run.ood if name != args.val_ood]
    groups = asked.groups_of(args, run.dataset, tested)
    names = [name for name, _ in groups]
    for name, grouped in groups:
        given = f"--groups {name}={','.join(grouped)}"
        if names.count(name) > 1 or name in run.ood:
            raise ValueError(
                f"{given}: {name} is the name of another group or of an OOD set; give each group a"
                " name of its own"
            )
        for member in grouped:
            if member not in tested:
                raise ValueError(
                    f"{given}: {member} is not among the tested OOD sets, {', '.join(tested)};"
                    " extract it, or name it in --ood"
                )
            if grouped.count(member) > 1:
                raise ValueError(f"{given}: {member} stands there more than once")
