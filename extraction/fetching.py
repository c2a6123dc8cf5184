"""--fetch: see that all data is at hand, for a compute node without a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import data
from extraction.wording import counted
from images import reading

# Nothing is normalised here.
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def fetch(args: Any, progress: Callable[..., Any]) -> None:
    """Load each set, downloading what is not there, and read its files through; ValueError that
    names all files which cannot be read.

    `args` are those of run_networks.py, of which `dataset`, `ood`, `data_dir` and `skip_broken` say
    what is looked at."""
    dataset, ood, data_dir, skip = args.dataset, args.ood, args.data_dir, bool(args.skip_broken)
    placed = data.placed(ood, dataset.name, data_dir)
    for line in placed.said:
        print(line)
    ood = placed.sets
    data.check_ood(ood, dataset.name, data_dir, held_out=("any",))
    row = data.id_set(dataset, data_dir, statistics=UNCHANGED, skip_broken=skip)
    preprocessing = data.Preprocessing(row.size, row.mean, row.std)
    wanted: dict[str, Callable[..., Any]] = {}
    for split in ("train", "test"):
        wanted[f"{dataset.name} ({split})"] = partial(data.load_id, row, split)
    for asked in ood:
        if asked.name != "held_out":
            wanted[asked.text] = partial(data.load_ood, asked, row, skip_broken=skip)
    failures = []
    for title, load in wanted.items():
        images = load(preprocessing, data_dir)
        if not skip:
            failures += images.unreadable(progress)
        print(f"{title}: {counted(images, ' at hand')}")
    reading.refuse(failures)
