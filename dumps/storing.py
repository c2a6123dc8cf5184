"""The files of an import: written where they are not there yet, kept where they would come out the
same, and never replaced unasked."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import utils
from artifacts import current, growing, records, store
from dumps import importing
from dumps.importing import Asked, Images, Run, whence

SCRIPT = records.IMPORTER


@dataclass(frozen=True, eq=False)
class Shelf:
    """The folder of an import."""

    folder: Path
    format: str  # csv or parquet
    replace: bool
    arguments: dict[str, Any]  # of the command, for sidecars

    @property
    def head(self) -> Path:
        return self.folder / "head.csv"

    def file_of(self, images: Images) -> Path:
        """Where a set's features lie, or will."""
        return self.folder / f"{images.stem}.{self.format}"

    # ---- what is there already -------------------------------------------------------------------

    def refuse_others(self, run: Run) -> None:
        """ValueError where a file is there that was made from others, unless --replace was
        given."""
        if self.replace:
            return
        wrong = [reason for images in run.sets if (reason := self.why_not(images, run))]
        if run.head is not None and (reason := self.why_not_head(run)):
            wrong.append(reason)
        elif run.head is None and self.head.exists():
            wrong.append(f"{self.head} is of other features")
        if wrong:
            more = f" ({len(wrong):,} files in all)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{wrong[0]}{more}; replace what is there with --replace, or choose another --name"
            )

    def why_not(self, images: Images, run: Run) -> str:
        """Why the file of a set cannot be kept, in words; "" where it can, or is not there."""
        there = store.feature_file(self.folder, images.stem)
        if there is None:
            return ""
        then = records.read_sidecar(there)
        if then.get("made_by") != SCRIPT:
            return f"{there} was not made by {SCRIPT}"
        if not same_sources(then.get("sources"), images.sources):
            return f"{there} was made from other arrays"
        if then.get("imported_sha256") != run.identity:
            return f"{there} is of another import, with other training features or labels"
        if not current.SeenFile.of_sidecar(then).unchanged(there):
            return f"{there} was edited since it was written"
        return ""

    def why_not_head(self, run: Run) -> str:
        """The same of head.csv."""
        if not self.head.exists():
            return ""
        then = records.read_sidecar(self.head)
        if then.get("made_by") != SCRIPT:
            return f"{self.head} was not made by {SCRIPT}"
        if then.get("imported_sha256") != run.identity:
            return f"{self.head} is of another import, with other training features or labels"
        if run.head_facts and not same_sources(then.get("sources"), run.head_facts):
            return f"{self.head} was made from other arrays"
        if then.get("class_names") != run.classes.names:
            return f"{self.head} names its classes otherwise"
        if not current.SeenFile.of_sidecar(then).unchanged(self.head):
            return f"{self.head} was edited since it was written"
        return ""

    def keeps(self, images: Images, run: Run) -> bool:
        """True where a set's file is there, in this format, and would come out the same."""
        return self.file_of(images).exists() and not self.why_not(images, run)

    # ---- written ---------------------------------------------------------------------------------

    def write(self, run: Run) -> list[str]:
        """Write what is not kept -> a line for each file; the head first, which all others name."""
        facts = {
            **records.provenance(self.arguments),
            "made_by": SCRIPT,
            "imported_sha256": run.identity,
        }
        if run.classes.names:
            facts["class_names"] = run.classes.names
        lines = self.write_head(run, facts)
        if run.head is not None:
            facts["head_sha256"] = records.sha256(self.head)
        for images in run.sets:
            lines.append(self.write_set(images, run, facts))
        self.renew(run, {name: facts.get(name) for name in ("head_sha256", "class_names")})
        return lines

    def write_head(self, run: Run, facts: dict[str, Any]) -> list[str]:
        """head.csv; that of an earlier import goes where there is none now."""
        if run.head is None:
            if self.head.exists():
                self.head.unlink()
                records.sidecar_path(self.head).unlink(missing_ok=True)
                return ["head.csv: removed, as of other features"]
            return []
        if self.head.exists() and not self.why_not_head(run):
            return [f"head.csv: {len(run.head.W):,} classes, kept as it is"]
        sources = run.head_facts or records.read_sidecar(self.head).get("sources") or {}
        sidecar = {**facts, "sources": sources}
        store.write_head(self.head, run.head.W, run.head.b, run.classes.names, sidecar)
        return [f"head.csv: {len(run.head.W):,} classes, from {from_words(sources)}"]

    def write_set(self, images: Images, run: Run, facts: dict[str, Any]) -> str:
        """One feature file -> what to say of it."""
        path = self.file_of(images)
        if self.keeps(images, run):
            return f"{path.name}: {images.count:,} images, kept as it is"
        start = time.perf_counter()
        sidecar = {**facts, "dataset": images.dataset, "split": images.split}
        sidecar |= {"sources": images.sources, "place": images.place}
        if images.place is None:
            sidecar["labelled"] = images.labels is not None
        if run.accuracy and images.split == "test" and images.place is None:
            sidecar["accuracy"] = run.accuracy.share
            sidecar["largest_class"] = run.accuracy.largest_class
        growing.write_features(path, images.blocks(), images.count, images.width, sidecar)
        seconds = time.perf_counter() - start
        return (
            f"{path.name}: {images.count:,} images, from {from_words(images.sources)},"
            f" {seconds:.1f} s"
        )

    def renew(self, run: Run, now: dict[str, Any]) -> None:
        """Let the sidecars of all files of this import name the head and classes that are there
        now."""
        for name in records.listing(self.folder, "*_*.json"):
            path = self.folder / name
            sidecar = records.read_checked(path)
            if sidecar.get("imported_sha256") != run.identity or "split" not in sidecar:
                continue
            if any(sidecar.get(name) != value for name, value in now.items()):
                known = {name: value for name, value in now.items() if value is not None}
                kept = {name: value for name, value in sidecar.items() if name not in now}
                utils.write_json(path, {**kept, **known})


def gather(folder: Path, asked: Asked) -> Run:
    """All that was asked for, with the head of an earlier import of the same training features
    where the command names none."""
    path = folder / "head.csv"
    then = records.read_sidecar(path)
    if asked.head or asked.logits or not path.exists() or then.get("made_by") != SCRIPT:
        return importing.gather(asked)
    head = store.read_head(path, None, f"python {SCRIPT} ... --replace")
    run = importing.gather(asked, head)
    is_same = then.get("imported_sha256") == run.identity
    return run if is_same else importing.gather(asked)


def same_sources(then: Any, now: dict[str, Any]) -> bool:
    """True where a sidecar names arrays of the same bytes and keys; their files may have moved."""
    if not isinstance(then, dict) or set(then) != set(now):
        return False
    return all(same_array(then[name], now[name]) for name in now)


def same_array(then: Any, now: Any) -> bool:
    """True for two descriptions of one array, or for two equal numbers."""
    if isinstance(now, dict) and isinstance(then, dict):
        return whence(then) == whence(now)
    return utils.plain(then) == utils.plain(now)


def from_words(facts: dict[str, Any]) -> str:
    """ "train.npz:feat_list (50000, 512) float32, labels train.npz:label_list (50000,) int64"."""
    parts: list[str] = []
    for name, array in facts.items():
        if not isinstance(array, dict):
            continue
        key = f":{array['key']}" if array["key"] else ""
        what = "" if not parts else f"{name} "
        shape = ", ".join(map(str, array["shape"]))
        parts.append(f"{what}{os.path.basename(array['file'])}{key} ({shape}) {array['dtype']}")
    return ", ".join(parts)
