"""Checks of arrays: what they hand back, and what they say of the first row that is wrong."""

import numpy as np
import pytest

import arrays


def features(n=5, width=3, dtype=np.float64):
    return np.arange(1, n * width + 1, dtype=dtype).reshape(n, width)


# ---- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes", "row"),
    [
        ([0, 1, 2], 3, None),
        ([0, 3, 5], 3, 1),
        ([2, 0, -1], 3, 2),
        ([0, 99], None, None),
        ([0, -1, -1], None, 1),
        ([], 3, None),
    ],
)
def test_the_first_row_outside_the_classes_is_found(labels, classes, row):
    assert arrays.first_outside(np.array(labels, dtype=int), classes) == row


def test_labels_come_back_as_int64():
    found = arrays.checked_labels(np.array([2, 0, 1], dtype=np.uint8), 3, 3)
    assert found.dtype == np.int64 and found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0, 1], 3, "labels are int64 of shape (2,); expected 3 whole numbers, one per image"),
        ([[0, 1, 2]], 3, "of shape (1, 3); expected 3 whole numbers"),
        ([0.0, 1.0, 2.0], 3, "labels are float64 of shape (3,)"),
        ([0, 1, 3], 3, "label 3 in row 2 is outside the head's classes, 0 to 2"),
        ([0, -1, -2], None, "label -1 in row 1 is below 0"),
    ],
)
def test_wrong_labels_are_refused(labels, classes, said):
    with pytest.raises(ValueError) as raised:
        arrays.checked_labels(np.array(labels), 3, classes)
    assert said in str(raised.value)


def test_labels_have_places_among_those_that_occur():
    places, classes = arrays.places_of_labels([7, 2, 7, 40], 4)
    assert places.tolist() == [1, 0, 1, 2] and classes == 3


# ---- for scores: float32 -------------------------------------------------------------------------


def test_features_for_scores_come_back_in_contiguous_float32():
    found = arrays.scorable_features(features()[:, ::-1], 3)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert found.tolist() == features()[:, ::-1].tolist()


def test_contiguous_float32_features_are_not_copied():
    given = features(dtype=np.float32)
    assert np.shares_memory(arrays.scorable_features(given), given)


@pytest.mark.parametrize(
    ("shape", "width", "said"),
    [
        ((4, 3), 2, "features have shape (4, 3); expected (N, 2), the head's width, N at least 1"),
        ((4,), None, "features have shape (4,); expected (N, D), N and D at least 1"),
        ((0, 3), 3, "features have shape (0, 3)"),
        ((4, 0), None, "features have shape (4, 0)"),
    ],
)
def test_features_of_another_shape_are_refused(shape, width, said):
    with pytest.raises(ValueError) as raised:
        arrays.scorable_features(np.ones(shape), width)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN or infinity, first in row {row};"),
        (np.inf, "NaN or infinity, first in row {row};"),
        (-np.inf, "NaN or infinity, first in row {row};"),
        (1e300, "NaN or infinity, first in row {row};"),  # float32 has no such number
        (2e15, "features reach 2e+15, first in row {row};"),
        (-2e15, "features reach 2e+15, first in row {row};"),
    ],
)
@pytest.mark.parametrize("row", [0, arrays.BLOCK - 1, arrays.BLOCK, arrays.BLOCK + 1])
def test_the_first_row_that_cannot_be_scored_is_named_in_any_block(row, value, said):
    found = np.ones((arrays.BLOCK + 2, 2))
    found[row, 1] = value
    found[-1, 0] = value
    with pytest.raises(ValueError) as raised:
        arrays.scorable_features(found)
    assert said.format(row=row) in str(raised.value)


def test_the_largest_and_smallest_that_are_taken():
    arrays.scorable_features(np.full((1, 1), 1e15, np.float32))
    assert not arrays.all_zero(np.array([[0, 1e-14]], np.float32))
    assert not arrays.all_zero(np.array([[0, -1e-14]], np.float32))
    assert arrays.all_zero(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="no training feature is above 1e-16; expected some of"):
        arrays.all_zero(np.array([[0, -1e-16]]))


def test_a_head_for_scores_is_float32():
    W, b = arrays.scorable_head(np.eye(2), [0, 1])
    assert W.dtype == b.dtype == np.float32
    assert W.tolist() == [[1, 0], [0, 1]] and b.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("W", "b", "said"),
    [
        (np.eye(2), np.zeros(3), "weights (2, 2) and a bias (3,); expected shapes (C, D) and (C,)"),
        (np.ones(2), np.zeros(2), "weights (2,) and a bias (2,)"),
        (np.eye(2) * np.nan, np.zeros(2), "the head holds NaN or infinity"),
        (np.eye(2), np.array([0, np.inf]), "the head holds NaN or infinity"),
        (np.eye(2) * 1e16, np.zeros(2), "weights reach 1e+16 and its biases 0;"),
        (np.eye(2), np.array([0, -1e16]), "weights reach 1 and its biases 1e+16;"),
    ],
)
def test_a_head_that_cannot_score_is_refused(W, b, said):
    with pytest.raises(ValueError) as raised:
        arrays.scorable_head(W, b)
    assert said in str(raised.value)


def test_scores_are_float64_and_may_be_undefined():
    found = arrays.checked_scores([1, np.nan], "ID")
    assert found.dtype == np.float64 and found[0] == 1 and np.isnan(found[1])
    for scores, shape in (([], "(0,)"), ([[1.0]], "(1, 1)"), (1.0, "()")):
        with pytest.raises(ValueError) as raised:
            arrays.checked_scores(scores, "OOD")
        assert f"OOD scores have shape {shape}; expected one number" in str(raised.value)


# ---- for collapse: float64 -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_features_for_collapse_stay_as_they_are(dtype):
    given = features(dtype=dtype)
    found, labels = arrays.measurable(given, np.array([0, 1, 2, 0, 1], np.int8), 3, 3)
    assert found is given
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 0, 1]


def test_collapse_takes_numbers_that_float32_cannot_square_and_no_images():
    arrays.measurable(np.full((1, 2), 1e300), np.array([0]), 1, 2)
    found, labels = arrays.measurable(np.zeros((0, 2)), np.zeros(0, int), 1, 2)
    assert found.shape == (0, 2) and labels.shape == (0,)


@pytest.mark.parametrize(
    ("given", "labels", "said"),
    [
        (
            np.ones((2, 4)),
            [0, 1],
            "shape (2, 4) and type float64, expected numbers of shape (n, 3)",
        ),
        (np.ones((2, 3), complex), [0, 1], "type complex128, expected numbers"),
        (np.ones((2, 3)), [0, 1, 2], "labels have shape (3,) and type int64, expected 2 integers"),
        (np.ones((2, 3)), [0.0, 1.0], "type float64, expected 2 integers"),
        (np.ones((2, 3)), [0, 2], "label 2 of row 1 is outside 0 to 1"),
        (np.ones((2, 3)), [-1, 0], "label -1 of row 0 is outside 0 to 1"),
    ],
)
def test_what_collapse_cannot_measure_is_refused(given, labels, said):
    with pytest.raises(ValueError) as raised:
        arrays.measurable(given, np.array(labels), 2, 3)
    assert said in str(raised.value)


@pytest.mark.parametrize("row", [0, arrays.BLOCK - 1, arrays.BLOCK])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_row_that_is_not_finite_is_named_in_any_block(row, value):
    given = np.ones((arrays.BLOCK + 1, 2))
    given[row, 1] = given[-1, 0] = value
    with pytest.raises(ValueError, match=f"the features of row {row} hold NaN or infinity"):
        arrays.measurable(given, np.zeros(len(given), int), 1, 2)


def test_a_head_for_collapse_is_float64_and_fits_the_features():
    W, b = arrays.measurable_head(np.eye(2, dtype=np.float32), [0, 1], 2, 2)
    assert W.dtype == b.dtype == np.float64
    with pytest.raises(ValueError, match=r"weights \(2, 2\) and bias \(2,\), the features need"):
        arrays.measurable_head(np.eye(2), np.zeros(2), 2, 3)
    with pytest.raises(ValueError, match="the head holds NaN or infinity"):
        arrays.measurable_head(np.eye(2), [0, np.nan], 2, 2)
