"""Uniform and Gaussian noise as folders of PNG files: OOD sets of any size and number.

    python noise_ood_datasets_generator.py
    python noise_ood_datasets_generator.py --count 500 --image-size 64 --output-dir noise
    python run_networks.py --checkpoint some.pth --ood uniform_noise=datasets/uniform_noise

Writes --output-dir/uniform_noise and gaussian_noise, each with --count images of independent noise,
and a .json beside each that records how it was made. By default they are the images of --ood
uniform10k and gaussian10k, for a network whose input has this --image-size, bit for bit. Gaussian
noise has the mean 0.5 and the standard deviation 1 before it is cut to [0, 1], as ODIN's has (Liang
et al. 2018); that of --ood gaussian has 0.25. Image i depends on the seed and i alone. A PNG loses
nothing: through JPEG noise becomes smoother, and another set."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import cli
import console
import utils
from artifacts import records
from images import noise
from images.folders import quoted


def make_parser() -> cli.Parser:
    """The parser; its defaults make what ODIN's authors made."""
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "seed",
        "image-size",
        "output-dir",
        seed={"help": "seed of the noise"},
        image_size={"default": 32, "help": "side of each image in pixels"},
        output_dir={"default": "datasets"},
    )
    parser.add_argument(
        "--count", type=cli.positive, default=noise.COUNT, help="images of each set"
    )
    parser.add_argument(
        "--std",
        type=cli.above_zero,
        default=noise.DEVIATION,
        help="standard deviation of Gaussian noise before it is cut to [0, 1]",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> Any:
    return make_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write both sets."""
    args = parse_args(argv)
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; expected 0 or more")
    parent = utils.writable_folder(args.output_dir)
    sets = {parent / f"{name}_noise": kind for name, kind in noise.kinds(args.std).items()}
    for folder in sets:
        refuse_existing(folder)
    for folder, kind in sets.items():
        write_set(folder, kind, args)
        print(f"{folder}: {args.count:,} images; use it with: --ood {folder.name}={quoted(folder)}")


def refuse_existing(folder: Path) -> None:
    """ValueError where a folder is there already: what it holds may be somebody's."""
    if folder.exists():
        raise ValueError(
            f"{folder} is there already; give another --output-dir, or remove it with:"
            f" rm -r {quoted(folder)}"
        )


def write_set(folder: Path, kind: noise.Kind, args: Any) -> None:
    """Write a set whole or not at all, and its sidecar."""
    digits = len(str(args.count - 1))
    unfinished = utils.temporary_beside(folder)
    unfinished.mkdir()
    try:
        for index in console.progress(range(args.count), desc=folder.name, unit="image"):
            pixels = kind.image(index, args.image_size, args.seed)
            Image.fromarray(pixels).save(unfinished / f"{index:0{digits}}.png")
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    facts = records.provenance(cli.material(args))
    utils.write_json(records.sidecar_path(folder), {**facts, "images": args.count})


if __name__ == "__main__":
    cli.run(main)
