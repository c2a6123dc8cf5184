"""The features of one job as shards: made one by one, each kept where it is intact, and joined by
one sidecar when all are there.

Every shard is made of the batches that a single process would make of the whole set, so that its
rows are the same bits whichever process makes it, and whenever. A batch across the border of two
shards goes through the network for each of them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import blocks, records, shards, store
from artifacts.shards import Shard
from extraction import plan, writing
from extraction.extractor import Rows
from extraction.plan import Job
from extraction.work import Work, is_test

Entries = dict[tuple[str | None, int], Shard]  # by stage, None for the features, and number


@dataclass(frozen=True, eq=False)
class Sharded:
    """What became of a job: how many shards were made, of how many, and the time that it took."""

    made: int
    count: int
    seconds: float

    @property
    def said(self) -> str:
        """What is printed of it."""
        kept = self.count - self.made
        shown = "1 shard" if self.count == 1 else f"{self.count} shards"
        of_them = f", {kept} of them kept" if kept else ""
        return f"{self.seconds:.1f} s; {shown}{of_them}"


def extract(work: Work, job: Job) -> Sharded:
    """Make the shards of a job that are not there yet, each rank its own, and the sidecar of the
    set on the first rank."""
    start = time.perf_counter()
    world, spans = work.world, spans_of(work, job)
    kept: Entries | None = None
    with world.together():
        if world.first:
            kept = prepare(work, job, spans)
    kept = world.broadcast_object(kept) or {}
    stages = [stage for stage, _ in work.outputs(job).by_stage]
    waiting = [
        number
        for number in range(len(spans))
        if not all((stage, number) in kept for stage in stages)
    ]
    alone = len(waiting) // world.size * world.size  # a rank each; the rest they share
    made: Entries = {}
    with world.together():
        for number in waiting[:alone][world.shard(alone)]:
            made |= make(work, job, number, spans[number], together=False)
    for number in waiting[alone:]:
        made |= make(work, job, number, spans[number], together=True)
    seconds = time.perf_counter() - start
    parts = world.gather_objects(made)
    hashes = world.gather_objects(getattr(job.images, "hashes", {}))
    with world.together():
        if parts is not None:
            for part in filter(None, hashes or []):  # of the files that other ranks decoded
                job.images.hashes.update(part)
            entries = dict(kept)
            for part in parts:
                entries |= part
            finish(work, job, entries, len(spans), seconds)
    return Sharded(len(waiting), len(spans), seconds)


def spans_of(work: Work, job: Job) -> list[slice]:
    """Which rows each shard of a job holds."""
    assert work.shelf.shard_rows is not None
    return shards.spans(len(job.images), work.shelf.shard_rows)


def complaint(shard_rows: int | None, layers: str | None) -> str | None:
    """What is wrong with --shard-rows, or None."""
    if shard_rows is None:
        return None
    if layers == "stream":
        return (
            "--layers stream sums over whole sets, and a set in shards may be made in several runs;"
            " leave out --shard-rows, or store the layers: --layers store"
        )
    return shards.complaint(shard_rows)


# ---- what is there already -----------------------------------------------------------------------


def prepare(work: Work, job: Job, spans: Sequence[slice]) -> Entries:
    """Make the folders of a job ready -> the shards that are kept.

    A sidecar that vouches for nothing any more goes, and so does a file in the folder's place."""
    kept: Entries = {}
    for stage, folder in work.outputs(job).by_stage:
        if folder.is_file():
            shards.remove(folder)
            records.sidecar_path(folder).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        whole = records.read_sidecar(folder)
        if not vouches(work, job, stage, whole):
            records.sidecar_path(folder).unlink(missing_ok=True)
            whole = {}
        known = {shard.file: shard for shard in shards.listed(whole)}
        for number, span in enumerate(spans):
            part = shards.shard_path(folder, number)
            own = records.read_sidecar(part)
            shard = known.get(part.name)
            if vouches(work, job, stage, own):
                shard = shards.of_sidecar(part)
            is_same = shard is not None and shard.rows == span.stop - span.start
            if shard is not None and is_same and shards.is_intact(folder, shard):
                kept[stage, number] = shard
    return kept


def vouches(work: Work, job: Job, stage: str | None, sidecar: dict[str, Any]) -> bool:
    """True where a sidecar, of a shard or of its set, says just what would be made now."""
    if work.options.force or not sidecar:
        return False
    facts = {**work.shelf.facts(job, stage, None), **shard_facts(work, job)}
    return facts["source"] is not None and plan.describes(sidecar, facts)


def shard_facts(work: Work, job: Job) -> dict[str, Any]:
    """What shards of one set have in common beside what all sidecars say."""
    return {
        "source": job.images.source,
        "batch_size": work.extractor.batch_size,
        "shard_rows": work.shelf.shard_rows,
    }


# ---- made ----------------------------------------------------------------------------------------


def make(work: Work, job: Job, number: int, span: slice, together: bool) -> Entries:
    """Make one shard -> its entries by stage, on the rank that wrote it.

    `together`: all ranks share its batches, and the first one writes it."""
    world, stages = work.world, list(work.outputs(job).stages)
    if not together:
        rows, covered = work.extractor.run_span(job, span, stages, alone=True)
        return write(work, job, number, span, rows, covered)
    with world.together():
        rows, covered = work.extractor.run_span(job, span, stages, alone=False)
    gathered = work.extractor.gather(rows)
    entries: Entries = {}
    with world.together():
        if gathered is not None:
            entries = write(work, job, number, span, gathered, covered)
    return entries


def write(work: Work, job: Job, number: int, span: slice, rows: Rows, covered: slice) -> Entries:
    """Write one shard of the features and of each stage; `rows` are those that `covered` numbers,
    whole batches."""
    images, cut = job.images, slice(span.start - covered.start, span.stop - covered.start)
    labels = images.labels[span].numpy()
    paths = None if images.paths is None else images.paths[span]
    entries: Entries = {}
    for stage, folder in work.outputs(job).by_stage:
        values = rows.features if stage is None else rows.stages[stage]
        assert values is not None, "a shard has rows"
        part = shards.shard_path(folder, number)
        sidecar = {
            **writing.sidecar_start(work),
            **work.shelf.facts(job, stage, None),
            **shard_facts(work, job),
        }
        store.write_features(part, values[cut], labels, paths, sidecar)
        shard = shards.of_sidecar(part)
        assert shard is not None
        entries[stage, number] = shard
    return entries


def finish(work: Work, job: Job, entries: Entries, count: int, seconds: float) -> None:
    """Write the sidecars of a job's sets, all of whose shards are there."""
    files = work.outputs(job)
    common = writing.facts_of_images(work, job)
    if (is_test(job) or job.is_csid) and work.has_head:
        common |= accuracy(work, files.features, job)
    for depth, (stage, folder) in enumerate(files.by_stage, start=-1):
        own = [entries[stage, number] for number in range(count)]
        remove_more(folder, count)
        sidecar = {
            **writing.sidecar_start(work),
            **work.shelf.facts(job, stage, None),
            **common,
            **shard_facts(work, job),
            "width": store.width_of(shards.shard_path(folder, 0)),
            "seconds": round(seconds, 3),
        }
        if stage is not None:
            sidecar |= {"layer": stage, "depth": depth}
            writing.remove_other_way(work.shelf.folder, folder)
        shards.finish(folder, sidecar, own)
        for suffix in store.SUFFIXES:
            if suffix != folder.suffix:
                shards.remove(folder.with_suffix(suffix))


def remove_more(folder: Path, count: int) -> None:
    """Remove the shards of an earlier, larger set."""
    number = count
    while (part := shards.shard_path(folder, number)).is_file():
        records.sidecar_path(part).unlink(missing_ok=True)
        part.unlink()
        number += 1


def accuracy(work: Work, folder: Path, job: Job) -> dict[str, float]:
    """`writing.accuracy` of features in shards, which are read block by block."""
    right: dict[str, int] = {}
    labels = job.images.labels.numpy()
    for part in shards.parts_of(folder):
        for block in blocks.blocks(part):
            shares = writing.accuracy(work, block.features, block.labels)
            for name, share in shares.items():
                right[name] = right.get(name, 0) + round(share * len(block.labels))
    found = {name: count / len(labels) for name, count in right.items()}
    found["largest_class"] = float(np.bincount(labels).max() / len(labels))
    return found
