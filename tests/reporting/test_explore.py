"""Curves and histograms of the page against slow restatements and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import auc, roc_curve

from reporting import explore
from reporting.methods import line_of


def drawn(seed, ties=False, inside=2000, outside=3000):
    """ID and OOD scores, with many equal ones where asked."""
    rng = np.random.default_rng(seed)
    pair = rng.normal(1, 1, inside), rng.normal(0, 1, outside)
    return tuple(np.round(part, 1) for part in pair) if ties else pair


@pytest.mark.parametrize("ties", [False, True])
def test_the_whole_curve_is_that_of_scikit_learn(ties):
    inside, outside = drawn(0, ties)
    curve = explore.roc(inside, outside)
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    false, true, _ = roc_curve(labels, np.append(inside, outside), drop_intermediate=False)
    np.testing.assert_allclose(curve.ood / len(outside), false)
    np.testing.assert_allclose(curve.id / len(inside), true)


@pytest.mark.parametrize("ties", [False, True])
def test_a_reduced_curve_keeps_thresholds_of_the_data_by_its_rule(ties):
    """Restated by loops over the grid values in whole numbers."""
    curve = explore.roc(*drawn(1, ties))
    small = explore.reduced(curve)
    whole = list(zip(curve.ood.tolist(), curve.id.tolist(), strict=True))
    kept = list(zip(small.ood.tolist(), small.id.tolist(), strict=True))
    assert len(kept) <= 322 and set(kept) <= set(whole)
    assert kept[0] == (0, 0) and kept[-1] == (3000, 2000)
    for share in range(101):
        assert max(one for one in whole if 100 * one[0] <= share * 3000) in kept
        assert min(one for one in whole if 100 * one[1] >= share * 2000) in kept
    area = auc(small.ood / 3000, small.id / 2000)
    assert area == pytest.approx(auc(curve.ood / 3000, curve.id / 2000), abs=5e-4)


def test_perfect_and_equal_scores():
    perfect = explore.roc(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert list(zip(perfect.ood, perfect.id, strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 2),
        (2, 2),
    ]
    equal = explore.roc(np.ones(3), np.ones(5))
    assert equal.ood.tolist() == [0, 5] and equal.id.tolist() == [0, 3]


def test_a_histogram_counts_every_image_once():
    inside, outside = drawn(2)
    found = explore.histogram(inside, np.append(outside, [-1e9, 1e9]))
    for place, part, total in ((0, "id", 2000), (1, "ood", 3002)):
        assert sum(found[part]) + found["below"][place] + found["above"][place] == total
    assert found["below"][1] >= 1 and found["above"][1] >= 1


@pytest.mark.parametrize(
    "label, family, does",
    [
        ("MSP", "logits", "confidence of the predicted class"),
        ("DICE", "shaped activations", "energy through the weights"),
        ("KNN k=5", "neighbours", "k-th nearest"),
        ("ODIN", "perturbed images", "high temperature"),
        ("NECO-NoScaler", "where features lie", "without standardising"),
        ("mean(MSP,KNN)", "several together", "MSP,KNN"),
        ("ranks(ViM)", "ensembles", "mean rank of ViM"),
        ("<script>", "your own", "not among the published"),
    ],
)
def test_a_method_says_what_it_does_by_its_own_row(label, family, does):
    line = line_of(label)
    assert line.family.name == family and does in line.does
