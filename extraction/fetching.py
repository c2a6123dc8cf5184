"""--fetch: see that all data is at hand, for a compute node without a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import data
import utils
from extraction.wording import counted
from images import reading

# Nothing is normalised here.
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def fetch(dataset: str, ood: list[str], data_dir: str, progress: Callable[..., Any]) -> None:
    """Load each set, downloading what is not there, and read its files through; ValueError that
    names all files which cannot be read."""
    data.check_ood(ood, data.check_id(dataset)[0], held_out=("any",))
    name, row = data.id_set(dataset, data_dir, statistics=UNCHANGED)
    preprocessing = data.Preprocessing(row.size, row.mean, row.std)
    wanted: dict[str, Callable[..., Any]] = {}
    for split in ("train", "test"):
        wanted[f"{name} ({split})"] = partial(data.load_id, row, split)
    for text in ood:
        if utils.split_name(text)[0] != "held_out":
            wanted[text] = partial(data.load_ood, text, row)
    failures = []
    for title, load in wanted.items():
        images = load(preprocessing, data_dir)
        failures += images.unreadable(progress)
        print(f"{title}: {counted(images, ' at hand')}")
    reading.refuse(failures)
