"""ImageNet's classes: their WordNet ids in the order of a classifier's rows, and their words.

    wordnet.ids(1000)[:2]           # ["n01440764", "n01443537"]
    wordnet.words("n01440764")      # "tench, Tinca tinca"

The lists are timm's (timm.data.ImageNetInfo), which knows ImageNet-1k and the larger heads that
networks are published with. The class folders of ImageNet and of its subsets are named so."""

import re
from functools import cache
from typing import Any

from networks import library_names

IMAGENET_1K = 1000  # classes
PATTERN = re.compile(r"n\d{8}")  # a noun of WordNet 3.0 by its place in the file


def is_id(name: str) -> bool:
    """True for a WordNet id, such as n01440764."""
    return PATTERN.fullmatch(name) is not None


@cache
def ids(classes: int) -> list[str] | None:
    """The WordNet ids of a head of so many ImageNet classes, in the order of its rows; None where
    no such head is known."""
    found = info(classes)
    return None if found is None else list(found.label_names())


@cache
def words(name: str) -> str:
    """The words of a class of ImageNet's, its synonyms; "" for an id that none of them has."""
    try:
        return info(IMAGENET_1K).label_name_to_description(name)
    except KeyError:
        return ""


@cache
def info(classes: int) -> Any:
    """timm's facts about a head of so many classes, or None."""
    library_names.import_timm()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    return ImageNetInfo(subset) if subset else None
