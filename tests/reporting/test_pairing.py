"""Two runs on the same images: when that is known, and what the paired tests then say."""

import dataclasses

import numpy as np
import pytest

from detection import metrics
from reporting import comparing, pairing
from reporting.scored import ScoredRun, ScoredSet

NAMES = ["cat", "dog"]


def images(scores, labels=None, taken_for=None, paths=None, content="svhn", size=32, name="svhn"):
    """A set whose sidecar says what its images are."""
    labels = np.full(len(scores), -1) if labels is None else np.array(labels)
    said = {"source_content": content, "preprocessing": {"size": size}, "class_names": NAMES}
    return ScoredSet(name, {"MSP": np.array(scores, float)}, taken_for, labels, paths, said)


def run(inside, outside, taken_for=None, labels=None):
    labels = [0] * len(inside) if labels is None else labels
    return ScoredRun(images(inside, labels, taken_for, content="digits"), [images(outside)], {})


def test_images_are_the_same_where_their_content_and_labels_are():
    one = images([1, 2, 3])
    assert pairing.same_images(one, images([5, 5, 5]))
    assert not pairing.same_images(one, images([1, 2, 3], content="mnist"))
    assert not pairing.same_images(one, images([1, 2, 3], content=None))
    assert not pairing.same_images(images([1], content=""), images([1], content=""))
    assert not pairing.same_images(one, images([1, 2, 3], labels=[0, 1, 0]))
    assert not pairing.same_images(one, images([1, 2]))
    assert not pairing.same_images(one, images([1, 2, 3], size=64)), "noise is of the input's size"
    files = images([1, 2], paths=["a", "b"])
    assert pairing.same_images(files, images([1, 2], paths=["a", "b"], size=64))
    assert not pairing.same_images(files, images([1, 2], paths=["b", "a"]))


def test_the_paired_test_of_two_runs_is_delongs():
    generator = np.random.default_rng(0)
    hard_inside, hard_outside = generator.normal(size=200), generator.normal(size=300) - 1
    one = run(hard_inside + 0.3, hard_outside)
    two = run(hard_inside, hard_outside + generator.normal(size=300) * 0.1)
    found = pairing.of_auroc(one, "MSP", two, "MSP", "svhn")
    expected = metrics.paired_delong(
        hard_inside + 0.3, hard_outside, two.id.scores["MSP"], two.ood[0].scores["MSP"]
    )
    assert (found.difference, found.p_value) == (expected.difference, expected.p_value)
    assert found.settles
    ends = metrics.delong(one.id.scores["MSP"], hard_outside)
    other = metrics.delong(two.id.scores["MSP"], two.ood[0].scores["MSP"])
    assert other.high > ends.low, "two intervals that meet would not have settled it"
    assert pairing.of_auroc(one, "MSP", None, "MSP", "svhn") is None
    assert pairing.of_auroc(one, "MSP", two, "ViM", "svhn") is None
    assert pairing.of_auroc(one, "MSP", two, "MSP", "mnist") is None


def test_mcnemars_exact_test_by_hand():
    labels = [0] * 8
    one = run([0] * 8, [0], ["cat"] * 6 + ["dog"] * 2, labels)
    two = run([0] * 8, [0], ["cat"] + ["dog"] * 5 + ["dog", "dog"], labels)
    found = pairing.of_accuracy(one, two)
    assert found.difference == 5 / 8  # five images that the first alone has right, and none other
    assert found.p_value == pytest.approx(2 / 2**5)
    assert not found.settles  # 0.0625
    same = pairing.of_accuracy(one, one)
    assert (same.difference, same.p_value, same.settles) == (0, 1, False)
    unknown = ScoredRun(dataclasses.replace(one.id, taken_for=None), one.ood, {})
    assert pairing.of_accuracy(one, unknown) is None


def test_tests_decide_only_where_each_could_be_made():
    ahead, level = pairing.PairedTest(0.1, 0.01), pairing.PairedTest(0.01, 0.4)
    assert comparing.settlement([ahead], intervals_apart=False) == (True, 0.01)
    assert comparing.settlement([ahead, level], intervals_apart=True) == (False, 0.4)
    settled, p_value = comparing.settlement([ahead, None], intervals_apart=True)
    assert settled and np.isnan(p_value)
