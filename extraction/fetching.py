"""--fetch: see that all data is at hand, for a compute node without a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import data
from extraction.wording import counted
from images import reading
from utils import SetName

# Nothing is normalised here.
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def fetch(
    dataset: SetName, ood: list[SetName], data_dir: str, progress: Callable[..., Any]
) -> None:
    """Load each set, downloading what is not there, and read its files through; ValueError that
    names all files which cannot be read."""
    data.check_ood(ood, dataset.name, data_dir, held_out=("any",))
    row = data.id_set(dataset, data_dir, statistics=UNCHANGED)
    preprocessing = data.Preprocessing(row.size, row.mean, row.std)
    wanted: dict[str, Callable[..., Any]] = {}
    for split in ("train", "test"):
        wanted[f"{dataset.name} ({split})"] = partial(data.load_id, row, split)
    for asked in ood:
        if asked.name != "held_out":
            wanted[asked.text] = partial(data.load_ood, asked, row)
    failures = []
    for title, load in wanted.items():
        images = load(preprocessing, data_dir)
        failures += images.unreadable(progress)
        print(f"{title}: {counted(images, ' at hand')}")
    reading.refuse(failures)
