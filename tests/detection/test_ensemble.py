"""detection/ensemble.py: the ensemble's score and class against SciPy, member by member, and what
makes no ensemble."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from detection import ensemble

# Four classes in two folds of two: each member knows the classes that the other leaves out.
CLASSES = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]


def drawn(images=20, widths=(3, 3, 3, 3), seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 4, (images, width)).astype(np.float32) for width in widths]


@pytest.mark.parametrize("temperature", [1.0, 10.0, 0.5])
def test_the_score_is_the_sum_of_largest_probability_less_entropy(temperature):
    logits = drawn()
    expected = np.zeros(20)
    for member in logits:
        for image, row in enumerate(member.astype(np.float64)):
            p = softmax(row / temperature)
            expected[image] += p.max() - entropy(p)
    assert np.allclose(ensemble.score(logits, temperature), expected, rtol=1e-12)


def test_members_may_have_different_numbers_of_classes():
    logits = drawn(widths=(7, 6, 7))
    parts = [ensemble.member_score(member) for member in logits]
    assert np.allclose(ensemble.score(logits), sum(parts))


def test_a_certain_member_adds_one_and_an_undecided_one_the_least():
    certain, undecided = np.array([[2000.0, 0.0, 0.0]]), np.zeros((1, 3))
    assert ensemble.score([certain, certain]) == pytest.approx(2.0)
    assert ensemble.score([undecided]) == pytest.approx(1 / 3 - np.log(3))


def test_a_high_temperature_keeps_the_order_of_images():
    """At T = 1000 the scores of float32 logits would tie; in float64 they do not."""
    logits = [np.linspace(0, 1, 500, dtype=np.float32)[:, None] * np.float32([1, 0, 0])]
    values = ensemble.score(logits, 1000.0)
    assert (np.diff(values) > 0).all()


def test_the_class_is_the_largest_sum_of_softmaxes():
    logits = drawn()
    sums = np.zeros((20, 4))
    for member, numbers in zip(logits, CLASSES, strict=True):
        for image, row in enumerate(member.astype(np.float64)):
            for place, share in zip(numbers, softmax(row), strict=True):
                sums[image, place] += share
    assert np.allclose(ensemble.class_sums(logits, CLASSES), sums)
    assert np.allclose(ensemble.class_sums(logits, CLASSES).sum(1), 4)


def test_a_class_wins_though_one_member_cannot_name_it():
    """Three members see class 3; the one that has left it out is sure of class 0."""
    sure = np.float32([[0.0, 0.0, 6.0]])
    logits = [np.float32([[9.0, 0.0, 0.0]]), sure, sure, sure]
    assert ensemble.class_sums(logits, CLASSES).argmax(1).tolist() == [3]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (CLASSES[:3], r"class 0 is left out by 0 of 3 members; expected one"),
        ([*CLASSES[:3], CLASSES[0]], r"class 0 is left out by 0 of 4 members"),
        ([[0, 1], *CLASSES[1:]], r"have \[3, 3, 3, 3\] outputs, and know \[2, 3, 3, 3\] classes"),
    ],
)
def test_what_makes_no_ensemble_is_refused(classes, said):
    with pytest.raises(ValueError, match=said):
        ensemble.class_sums(drawn()[: len(classes)], classes)


def test_members_of_other_images_and_impossible_temperatures_are_refused():
    with pytest.raises(ValueError, match="logits of 5 and 20 images"):
        ensemble.score([drawn()[0], drawn(5)[0]])
    with pytest.raises(ValueError, match="no members"):
        ensemble.score([])
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a number above 0"):
            ensemble.score(drawn(), wrong)


def test_one_undefined_image_takes_no_rank_from_the_others():
    """The second of four reference scores is undefined: the others are ranked among three."""
    reference = np.array([1.0, np.nan, 2.0, 3.0])
    found = ensemble.ranks(np.array([0.0, 2.0, np.nan, 9.0]), reference)
    np.testing.assert_array_equal(found, [0, 0.5, np.nan, 1])
    nothing = ensemble.ranks(np.array([1.0, 2.0]), np.array([np.nan, np.nan]))
    np.testing.assert_array_equal(nothing, [np.nan, np.nan])
