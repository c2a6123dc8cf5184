"""The images and the features behind the numbers: how many of which kind, and what that means for
the scores and the collapse metrics."""

from collections.abc import Iterator, Mapping
from typing import Any

from reporting.found import Found
from reporting.tables import PlainTable
from reporting.words import EMPTY, finite, listed, number, percent

NAMED = 8  # classes that are named


def sidecars(found: Found) -> dict[str, Mapping[str, Any]]:
    """{file stem: its sidecar} of the features, ID sets first."""
    names = [name for name in found.records if name.startswith(("ID_", "OOD_"))]
    return {name: found.records[name] for name in sorted(names) if "rows" in found.records[name]}


def counts(found: Found) -> dict[str, int]:
    """{what: number} of training and test images, features and classes, where they are known."""
    known = {}
    for name, record in sidecars(found).items():
        if name.startswith("ID_") and isinstance(record.get("width"), int):
            known["features"] = record["width"]
            known[name.rpartition("_")[2]] = record["rows"]
    classes = found.facts.get("class_names")
    if isinstance(classes, list):
        known["classes"] = len(classes)
    return known


def cautions(found: Found) -> list[str]:
    """What few images or few features make doubtful."""
    known = counts(found)
    train, features, classes = (known.get(name) for name in ("train", "features", "classes"))
    said = []
    if train and features and train < features:
        said.append(
            f"Fewer training images ({train:,}) than features ({features:,}): the covariance within"
            " classes has no inverse, so that Mahalanobis, ViM and NC1 go by a pseudo-inverse and"
            " depend on its cut-off."
        )
    if features and classes and features < classes - 1:
        said.append(
            f"Fewer features ({features:,}) than classes less one ({classes - 1:,}): no simplex ETF"
            " exists, so that NC2 cannot reach full collapse."
        )
    return said


def class_words(facts: Mapping[str, Any]) -> str:
    """The first classes in words: those behind a WordNet id, where the head has them."""
    names = facts.get("class_words") or facts.get("class_names") or []
    return listed([in_words(str(name)) for name in names[:NAMED]], len(names) - NAMED)


def in_words(name: str) -> str:
    """ "n01440764 (tench)" as "tench"; any other name as it stands."""
    start, bracket, words = name.partition(" (")
    is_wordnet = len(start) == 9 and start[0] == "n" and start[1:].isdigit()
    return words.removesuffix(")") if bracket and is_wordnet else name


def preprocessing_words(found: Found) -> str:
    """Size, crop, interpolation, mean and std of the network's input; "" where nothing says so."""
    said = found.facts.get("preprocessing")
    if not isinstance(said, dict) or not finite(said.get("size")):
        return ""
    return ", ".join(preprocessing_parts(said))


def preprocessing_parts(said: Mapping[str, Any]) -> Iterator[str]:
    size, crop = said["size"], said.get("crop_share")
    cropped = finite(crop) and crop not in (0, 1)
    centre = f" in the centre of {round(size / crop)}" if cropped else ""
    yield f"{size} px{centre}"
    if said.get("interpolation"):
        yield str(said["interpolation"])
    for name in ("mean", "std"):
        if isinstance(said.get(name), list):
            channels = dict.fromkeys(number(value) for value in said[name])
            yield f"{name} {' '.join(channels)}"
    if said.get("match"):
        yield "each image re-encoded alike first"


def image_table(found: Found) -> PlainTable | None:
    """Each set's images and files; None where no sidecar says anything."""
    rows = [row_of(name, record) for name, record in sidecars(found).items()]
    if not rows:
        return None
    columns = ["set", "role", "images", "files", "size of a file's image", "of one size", "JPEG"]
    caption = (
        "The images. Where files of ID and OOD images differ in size, format or quality, scores see"
        " that too; sets that are read whole, or computed, have no files"
    )
    return PlainTable(caption, columns, rows, "numbers sets")


def row_of(name: str, record: Mapping[str, Any]) -> list[str]:
    kind, _, rest = name.partition("_")
    own, _, split = rest.rpartition("_")
    role = "OOD" if kind == "OOD" else f"ID, {split}"
    looks = record.get("files")
    count = f"{record['rows']:,}"
    if not isinstance(looks, dict):
        return [own, role, count, "read whole", EMPTY, EMPTY, EMPTY]
    return [own, role, count, *file_cells(looks)]


def file_cells(looks: Mapping[str, Any]) -> list[str]:
    """Formats, median size, share of one size, and quality of a set's files."""
    formats = looks["formats"] if isinstance(looks.get("formats"), dict) else {}
    total = sum(formats.values()) or 1
    kinds = [
        kind if count == total else f"{kind} {percent(count / total, 0)}"
        for kind, count in formats.items()
    ]
    width, height, same = (looks.get(key) for key in ("width", "height", "one_size"))
    size = f"{width:g} × {height:g} px" if width and height else EMPTY
    quality = looks.get("jpeg_quality")
    return [
        ", ".join(kinds) or EMPTY,
        size,
        EMPTY if same is None else percent(same, 0),
        EMPTY if quality is None else f"quality {quality:g}",
    ]
