"""networks/wordnet.py: ImageNet's classes by WordNet id, in order."""

import pytest
import torchvision

from networks import wordnet


def test_the_thousand_classes_are_in_the_order_of_torchvisions():
    ids = wordnet.ids(1000)
    assert ids == sorted(ids) and len(set(ids)) == 1000
    categories = torchvision.models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    first = [wordnet.words(name).split(", ")[0] for name in ids]
    differing = [row for row in range(1000) if first[row] != categories[row]]
    # Two words differ in spelling, or name one of the synonyms.
    assert len(differing) < 20


@pytest.mark.parametrize(("classes", "known"), [(1000, True), (21843, True), (10, False)])
def test_heads_are_known_by_their_size(classes, known):
    ids = wordnet.ids(classes)
    assert (ids is not None and len(ids) == classes) == known


def test_every_class_has_words():
    assert all(wordnet.words(name) for name in wordnet.ids(1000))
    assert wordnet.words("n01440764") == "tench, Tinca tinca"
    assert wordnet.words("n00000000") == ""


@pytest.mark.parametrize(
    ("name", "expected"), [("n01440764", True), ("n0144076", False), ("tench", False)]
)
def test_an_id_has_eight_digits(name, expected):
    assert wordnet.is_id(name) == expected
