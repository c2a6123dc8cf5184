"""What the command line of run_networks.py asks for, as the steps of an extraction take it.

options = Options.of(args, material=..., command=..., progress=...)
options.command(checkpoint=["a.pth"], force=True)    # a whole command line, for a message
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import data
from extraction import expected_inputs
from utils import SetName


@dataclass(frozen=True, eq=False)
class Options:
    """The flags of run_networks.py that say what is made of a checkpoint, under their own names;
    None stands for a flag that was not given."""

    # which network, which images
    model: str | None
    dataset: SetName | None
    ood: list[SetName] | None
    csid: list[SetName] | None
    calibration: SetName | None
    held_out: list[str] | None
    skip_broken: bool | None
    match_format: bool | None
    classes: str | None  # a file with the names of the classifier's rows
    feature_output: str | None  # of an ONNX file
    logits_output: str | None
    data_dir: str
    output_dir: str
    # how an image is prepared
    image_size: int | None
    crop_share: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    interpolation: str | None
    # what is made of it
    batch_size: int | None  # None: by the rule of extraction/batching.py
    workers: int | None  # that decode images in files
    format: str  # csv or parquet, npy or safetensors
    shard_rows: int | None  # of a shard; None: one file a set
    amp: bool
    adascale: bool | None
    odin_epsilon: list[float] | None
    temperature: list[float] | None
    perturbation: str | None  # of perturbation.KINDS
    val_ood: SetName | None
    layers: str | None  # None, store or stream
    stages: list[str] | None  # paths of the modules that --layers is of
    # what is kept
    force: bool
    verify: bool
    allow_stale: bool
    # what the script lends to its steps
    material: dict[str, Any]  # the arguments that change what a run makes, for sidecars
    command: Callable[..., str]  # the command line, with the flags that are given changed
    progress: Callable[..., Any]  # shows how far a pass is; console.progress
    memory: int | None  # bytes of the first process's device

    @classmethod
    def of(cls, args: Any, **lent: Any) -> "Options":
        """The parsed arguments, and what the script lends: `material`, `command`, `progress`,
        `memory`."""
        named = [row.name for row in fields(cls) if row.name not in lent]
        return cls(**{name: getattr(args, name) for name in named}, **lent)

    @property
    def stored(self) -> str:
        """The ending of the feature files; arrays are written beside Parquet files."""
        return self.format if self.format in ("csv", "parquet") else "parquet"

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The values of a preprocessing that the command line gives."""
        return preprocessing_flags(self)

    @property
    def knows_inputs(self) -> bool:
        """True where the command line gives all that has no default."""
        return {"size", "mean", "std"} <= set(self.preprocessing)

    @property
    def example_inputs(self) -> dict[str, Any]:
        """Flags that a message suggests for what the command line does not give."""
        example = expected_inputs.EXAMPLE
        return {name: value for name, value in example.items() if getattr(self, name) is None}


def preprocessing_flags(args: Any) -> dict[str, Any]:
    """The values of a preprocessing that these arguments, or Options, give."""
    given = {
        "size": args.image_size,
        "mean": args.mean,
        "std": args.std,
        "interpolation": args.interpolation,
        "crop_share": args.crop_share,
    }
    return {name: value for name, value in given.items() if value is not None}


def default_ood(dataset: SetName) -> list[SetName]:
    """The OOD sets that an ID set is tested against when nobody says; none of a folder."""
    data.check_id(dataset)
    if dataset.folder is not None:
        return []
    return [SetName(name, name) for name in data.ID[dataset.name].ood]
