"""training/leave_out.py: the folds that are published, how other numbers are dealt, the loss
against a slow one and by its gradient, and the draw of outliers."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from images.sets import Images
from training import leave_out, recipes

FIRST = ["airplane", "automobile", "bird", "cat", "deer", "dog"]
CIFAR10 = [*FIRST, "frog", "horse", "ship", "truck"]


def numbered(count):
    return [f"class {number}" for number in range(count)]


# ---- folds ---------------------------------------------------------------------------------------


def test_cifar10_has_the_published_pairs():
    found = leave_out.members(CIFAR10, 5)
    assert [member.left_out for member in found] == [
        ["ship", "truck"],
        ["frog", "horse"],
        ["deer", "dog"],
        ["bird", "cat"],
        ["airplane", "automobile"],
    ]
    assert found[1].known == [*FIRST, "ship", "truck"]
    assert [(member.fold, member.folds) for member in found] == [(k, 5) for k in range(1, 6)]


def test_other_classes_in_five_folds_follow_the_permutation_of_seed_3():
    """NumPy's legacy generator promises the same stream for ever: these ten are its permutation."""
    found = leave_out.members(numbered(10), 5)
    order = [5, 4, 1, 2, 9, 6, 7, 0, 3, 8]
    pairs = [sorted(order[start : start + 2]) for start in range(0, 10, 2)]
    assert [member.left_out for member in found] == [
        [f"class {number}" for number in pair] for pair in pairs
    ]


def test_as_many_folds_as_classes_leave_out_one_at_a_time():
    found = leave_out.members(CIFAR10, 10)
    assert [member.left_out for member in found] == [[name] for name in CIFAR10]


@pytest.mark.parametrize(("classes", "folds"), [(10, 2), (10, 3), (100, 5), (100, 7), (6, 4)])
def test_every_class_is_left_out_once_and_folds_differ_by_one_class_at_most(classes, folds):
    names = numbered(classes)
    found = leave_out.members(names, folds)
    assert Counter(name for member in found for name in member.left_out) == Counter(names)
    sizes = [len(member.left_out) for member in found]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) - min(sizes) <= 1
    for member in found:
        assert member.classes == names
        assert sorted([*member.known, *member.left_out]) == sorted(names)
        assert member.known == sorted(member.known, key=names.index)


def test_how_the_classes_are_dealt_in_words():
    assert leave_out.dealt(leave_out.members(CIFAR10, 5)) == "10 classes in 5 folds of 2"
    words = leave_out.dealt(leave_out.members(numbered(10), 3))
    assert words == "10 classes in 3 folds of 4 (the first 1) or 3"


@pytest.mark.parametrize(
    ("classes", "folds", "message"),
    [
        (10, 1, "--folds is 1; expected 2 to 10"),
        (10, 0, "--folds is 0; expected 2 to 10"),
        (10, 11, "--folds is 11; expected 2 to 10"),
        (2, 2, "--folds 2 leaves 1 of 2 classes to a member"),
        (3, 2, "--folds 2 leaves 1 of 3 classes to a member"),
    ],
)
def test_folds_that_cannot_be_dealt_are_refused(classes, folds, message):
    with pytest.raises(ValueError, match=message):
        leave_out.members(numbered(classes), folds)


def test_a_fold_is_a_number_or_all():
    assert leave_out.choose("3", 5) == [3]
    assert leave_out.choose("all", 3) == [1, 2, 3]
    for wrong in ("0", "6", "-1", "two", "1.0", ""):
        with pytest.raises(ValueError, match=f"--fold is {wrong}; expected 1 to 5, or all"):
            leave_out.choose(wrong, 5)


# ---- the loss ------------------------------------------------------------------------------------


def drawn(seed=0, images=12, outliers=9, classes=8, sharpness=3.0):
    """Logits and labels of images and outliers in a random order."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images + outliers, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images + outliers,), generator=generator)
    labels[torch.randperm(len(labels), generator=generator)[:outliers]] = -1
    return sharpness * logits, labels


def slow_loss(logits, labels, margin, beta, smoothing=0.0):
    """The formula image by image."""
    cross_entropies, own, other = [], [], []
    for row, label in zip(logits.numpy(), labels.tolist(), strict=True):
        if label < 0:
            other.append(entropy(softmax(row)))
            continue
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        cross_entropies.append(-(target * log_softmax(row)).sum())
        own.append(entropy(softmax(row)))
    gap = np.mean(other) - np.mean(own)
    return np.mean(cross_entropies) + beta * max(margin - gap, 0)


def entropies(logits, labels):
    images, outliers = leave_out.mean_entropies(logits, labels)
    return images.item(), outliers.item()


def test_the_entropy_is_that_of_scipy():
    logits, _ = drawn()
    expected = entropy(softmax(logits.numpy(), axis=1), axis=1)
    assert np.allclose(leave_out.entropy(logits).numpy(), expected)


@pytest.mark.parametrize(
    ("margin", "beta", "smoothing"),
    [(0.4, 0.2, 0.0), (1.5, 1.0, 0.0), (0.0, 0.2, 0.0), (0.4, 0.0, 0.0), (0.4, 0.2, 0.1)],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_is_the_formula_image_by_image(margin, beta, smoothing, seed):
    logits, labels = drawn(seed)
    found = leave_out.margin_entropy_loss(logits, labels, margin, beta, smoothing)
    assert found.item() == pytest.approx(slow_loss(logits, labels, margin, beta, smoothing))


def test_the_defaults_are_the_authors():
    logits, labels = drawn()
    found = leave_out.margin_entropy_loss(logits, labels)
    assert found.item() == pytest.approx(slow_loss(logits, labels, 0.4, 0.2))
    recipe = recipes.RECIPES["leave-out"]
    assert (recipe.margin, recipe.beta, recipe.folds) == (0.4, 0.2, 5)


def test_the_gradient_is_that_of_small_differences():
    logits, labels = drawn(images=4, outliers=3, classes=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: leave_out.margin_entropy_loss(values, labels, 1.0, 0.7), (logits,)
    )


def test_outliers_that_are_far_enough_have_no_gradient():
    """Sharp images and flat outliers: the gap is almost log 8, above a margin of 1."""
    logits, labels = drawn(sharpness=50.0)
    logits[labels < 0] *= 0.001
    logits.requires_grad_()
    leave_out.margin_entropy_loss(logits, labels, margin=1.0).backward()
    assert not logits.grad[labels < 0].any()
    plain = logits.detach()[labels >= 0].requires_grad_()
    torch.nn.functional.cross_entropy(plain, labels[labels >= 0]).backward()
    assert torch.allclose(logits.grad[labels >= 0], plain.grad)


def test_a_step_flattens_outliers_and_sharpens_images():
    logits, labels = drawn()
    logits.requires_grad_()
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1)
    loss = leave_out.margin_entropy_loss(logits, labels, margin=1.5, beta=1.0)
    (slope,) = torch.autograd.grad(loss - cross_entropy, logits)
    images, outliers = entropies(logits, labels)
    images_then, outliers_then = entropies(logits - 1e-3 * slope, labels)
    assert images_then < images and outliers_then > outliers


def test_a_certain_softmax_has_no_entropy_and_a_finite_gradient():
    logits = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    value = leave_out.entropy(logits)
    value.sum().backward()
    assert value.item() == 0 and logits.grad.isfinite().all()


def test_a_margin_that_no_softmax_reaches_is_refused():
    leave_out.check_margin(0.4, 2)
    with pytest.raises(ValueError, match=r"--margin is 0\.7 nats.* over 2 classes is 0\.693"):
        leave_out.check_margin(0.7, 2)


# ---- images and outliers -------------------------------------------------------------------------


def numbered_images(labels):
    """Images of one pixel, whose value is their row."""
    rows = torch.arange(len(labels), dtype=torch.uint8)
    pixels = rows.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    return Images(pixels, torch.tensor(labels), ["a", "b", "c", "d"], "source")


def rows_of(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_a_member_relabels_what_it_knows_and_sets_the_rest_apart():
    member = leave_out.Member(2, 2, ["a", "b", "c", "d"], ["b"])
    images = numbered_images([3, 1, 0, 2, 1, 3])
    known, outliers = member.known_of(images), member.outliers_of(images)
    assert known.class_names == ["a", "c", "d"]
    assert (rows_of(known), known.labels.tolist()) == ([0, 2, 3, 5], [2, 0, 1, 2])
    assert (rows_of(outliers), outliers.labels.tolist()) == ([1, 4], [-1, -1])
    joined = leave_out.joined(known, outliers)
    assert rows_of(joined) == [0, 2, 3, 5, 1, 4]
    assert leave_out.count_known(joined) == 4
    assert rows_of(leave_out.known(joined)) == [0, 2, 3, 5]
    assert leave_out.known(known) is known


@pytest.mark.parametrize("sizes", [[4, 4, 3], [10] * 7, [1], [7, 8]])
def test_every_batch_has_an_outlier_beside_each_image(sizes):
    batches = torch.arange(sum(sizes)).split(sizes)
    given = (batches, 100, 10)
    found = leave_out.beside_outliers(*given, torch.Generator().manual_seed(1))
    outliers = []
    for batch, beside in zip(batches, found, strict=True):
        assert torch.equal(beside[0::2], batch)
        assert ((beside[1::2] >= 100) & (beside[1::2] < 110)).all()
        outliers += beside[1::2].tolist()
    needed = sum(sizes)
    assert set(Counter(outliers).values()) <= {needed // 10, math.ceil(needed / 10)}
    again = leave_out.beside_outliers(*given, torch.Generator().manual_seed(1))
    other = leave_out.beside_outliers(*given, torch.Generator().manual_seed(2))
    assert torch.equal(torch.cat(found), torch.cat(again))
    assert needed == 1 or not torch.equal(torch.cat(found), torch.cat(other))


def test_members_and_ensembles_have_seeds_of_their_own():
    seeds = {leave_out.member_seed(seed, fold) for seed in range(20) for fold in range(1, 101)}
    assert len(seeds) == 2000 and not seeds & set(range(1000))
