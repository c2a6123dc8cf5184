"""collapse/metrics.py against hand-computed cases, the formulas of Papyan et al. (2020) restated
slowly, and known hazards."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
from scipy.optimize import nnls

import moments as moments_module
from collapse import bootstrap, etf, metrics, probe, table
from moments import Accumulator


def simplex(classes, width, seed=0):
    """(C, D) unit vectors of a simplex ETF in a random orientation."""
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]
    vertices = (
        (np.eye(classes) - 1 / classes) @ np.eye(classes, width) if width >= classes else None
    )
    if vertices is None:  # width C - 1: coordinates in the hyperplane that holds the simplex
        vertices = np.linalg.svd(np.eye(classes) - 1 / classes)[0][:, :width]
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True) @ rotation


def draw(classes=6, width=12, images=300, offset=0.0, noise=0.3, seed=0, dtype=np.float64):
    """Features (N, D) of well separated classes, labels (N,) with each class present, W and b."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((classes, width)) + offset
    labels = np.concatenate(
        [np.arange(classes), generator.integers(classes, size=images - classes)]
    )
    features = centres[labels] + noise * generator.standard_normal((images, width))
    return (
        features.astype(dtype),
        labels,
        generator.standard_normal((classes, width)),
        generator.standard_normal(classes),
    )


def moments_of(features, labels, classes, exact=True):
    return Accumulator(classes, features.shape[1], exact=exact).update(features, labels).finish()


def values_of(rows):
    return {(row.metric, row.split): row.value for row in rows}


def two_pass(features, labels, classes):
    """Counts, means, mu_G, Sigma_W, Sigma_B, class variances: a float64 loop over classes, then
    over their images."""
    features = features.astype(np.float64)
    counts = np.array([(labels == c).sum() for c in range(classes)])
    means = np.array([features[labels == c].mean(axis=0) for c in range(classes)])
    centre = means.mean(axis=0)
    within = np.zeros((features.shape[1],) * 2)
    variance = np.zeros(classes)
    for c in range(classes):
        for row in features[labels == c] - means[c]:
            within += np.outer(row, row) / len(features)
            variance[c] += row @ row / counts[c]
    between = sum(np.outer(mean - centre, mean - centre) for mean in means) / classes
    return counts, means, centre, within, between, variance


def papyan(features, labels, W, b):
    """The measures of Papyan et al. (2020), and CDNV, as their papers write them, pair by pair and
    image by image."""
    classes = len(W)
    _, means, centre, within, between, variance = two_pass(features, labels, classes)
    eigenvalues, vectors = np.linalg.eigh(between)
    kept = np.argsort(eigenvalues)[::-1][: min(classes - 1, features.shape[1])]
    inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T
    M = means - centre
    norms = [np.sqrt(m @ m) for m in M]
    cosines = [
        M[i] @ M[j] / norms[i] / norms[j] for i in range(classes) for j in range(classes) if i != j
    ]
    pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j]
    cdnv = [
        (variance[i] + variance[j]) / (2 * np.sum((means[i] - means[j]) ** 2)) for i, j in pairs
    ]
    nearest = [min(range(classes), key=lambda c: np.sum((h - means[c]) ** 2)) for h in features]
    predicted = [max(range(classes), key=lambda c: W[c] @ h + b[c]) for h in features]
    return {
        "nc1": np.trace(within @ inverse) / classes,
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "nc1_cdnv": np.mean(cdnv),
        "nc2_means_norm_cv": np.std(norms) / np.mean(norms),
        "nc2_means_cosine_mean": np.mean(cosines),
        "nc2_means_cosine_std": np.std(cosines),
        "nc2_means_angle_deviation_mean": np.mean(np.abs(np.array(cosines) + 1 / (classes - 1))),
        "nc2_means_angle_deviation_max": np.max(np.abs(np.array(cosines) + 1 / (classes - 1))),
        "nc3_self_duality": np.sum((W / np.sqrt(np.sum(W * W)) - M / np.sqrt(np.sum(M * M))) ** 2),
        "nc3_cosine_mean": np.mean(
            [W[c] @ M[c] / np.sqrt(W[c] @ W[c]) / norms[c] for c in range(classes)]
        ),
        "nc4_mismatch": np.mean(np.array(nearest) != np.array(predicted)),
    }


# ---- agreement -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_exact_agrees_with_a_two_pass_computation(offset):
    features, labels, _, _ = draw(offset=offset)
    counts, means, centre, within, between, variance = two_pass(features, labels, 6)
    found = moments_of(features, labels, 6)
    assert np.array_equal(found.counts, counts)
    np.testing.assert_allclose(found.means, means, rtol=1e-12)
    np.testing.assert_allclose(found.global_mean, centre, rtol=1e-12)
    np.testing.assert_allclose(found.within, within, rtol=1e-10, atol=1e-10 * np.trace(within))
    np.testing.assert_allclose(
        found.centred.T @ found.centred / 6, between, rtol=1e-10, atol=1e-10 * np.trace(between)
    )
    np.testing.assert_allclose(found.within_class_variance, variance, rtol=1e-10)


@pytest.mark.parametrize("exact, tolerance", [(True, 1e-10), (False, 1e-6)])
@pytest.mark.parametrize("classes, width", [(2, 5), (6, 12), (5, 4)])
def test_metrics_agree_with_the_papers_formulas(classes, width, exact, tolerance):
    features, labels, W, b = draw(classes, width)
    moments = moments_of(features, labels, classes, exact)
    result = metrics.nc4(features, labels, W, b, moments.means, exact=exact)
    found = {
        row.metric: row.value
        for row in table.nc1_to_nc3(moments, W, b) + table.nc4(result.agreement, "train")
    }
    for name, value in papyan(features, labels, W, b).items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_hand_computed_case():
    # Class 0: (1, 1), (1, -1); class 1: (-1, 2), (-1, -2). mu = (+-1, 0), Sigma_B = diag(1, 0),
    # Sigma_W = diag(0, 2.5).
    features = np.array([[1.0, 1], [1, -1], [-1, 2], [-1, -2]])
    moments = moments_of(features, np.array([0, 0, 1, 1]), 2)
    found = metrics.nc1(moments)
    assert np.array_equal(moments.within, [[0, 0], [0, 2.5]])
    assert np.array_equal(moments.within_class_variance, [1, 4])
    assert found["nc1_rank"] == 1 and found["nc1_condition"] == 1
    # the scatter is orthogonal to the only direction between classes
    assert found["nc1"] == pytest.approx(0, abs=1e-15)
    assert found["nc1_trace_ratio"] == pytest.approx(2.5)
    assert found["nc1_cdnv"] == pytest.approx((1 + 4) / (2 * 4))
    turned = moments_of(
        features[:, ::-1] * [1, 3.0] + [[0, 1.0], [0, -1], [0, 1], [0, -1]],
        np.array([0, 0, 1, 1]),
        2,
    )
    # means (0, +-3); along the second axis each class deviates by +-1: Sigma_W = 1 there, NC1 =
    # 1/9/2
    assert metrics.nc1(turned)["nc1"] == pytest.approx(1 / 18)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_input_types(dtype):
    features = np.round(8 * draw()[0]).astype(dtype)
    labels = draw()[1]
    want = metrics.nc1(moments_of(features.astype(np.float64), labels, 6))
    assert metrics.nc1(moments_of(features, labels, 6))["nc1"] == pytest.approx(
        want["nc1"], rel=1e-12
    )
    assert metrics.nc1(moments_of(features, labels.astype(np.uint8), 6, exact=False))[
        "nc1"
    ] == pytest.approx(want["nc1"], rel=1e-6)


# ---- invariants ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes, width", [(4, 4), (10, 16), (10, 9), (2, 1)])
def test_exact_simplex_is_fully_collapsed(classes, width):
    vertices = simplex(classes, width)
    labels = np.repeat(np.arange(classes), 5)
    moments = moments_of(3 * vertices[labels] + 7, labels, classes)
    W, b = 0.5 * vertices, -0.5 * vertices @ np.full(width, 7.0)  # the bias undoes the offset
    found = values_of(table.nc1_to_nc3(moments, W, b))
    assert found["nc1", "train"] == pytest.approx(0, abs=1e-14)
    assert found["nc1_rank", "train"] == classes - 1
    assert found["nc1_condition", "train"] == pytest.approx(1)
    zero = [
        key
        for key in found
        if key[0].startswith(("nc1_t", "nc1_cdnv", "nc2", "nc3_s"))
        and not key[0].endswith(("cosine_mean", "cosine_max", "one_vs_rest"))
    ]
    assert len(zero) == 15
    for key in zero:
        assert found[key] == pytest.approx(0, abs=1e-12), key
    for kind, split in (("means", "train"), ("weights", "head")):
        assert found[f"nc2_{kind}_cosine_max", split] == pytest.approx(-1 / (classes - 1))
        assert found[f"nc2_{kind}_one_vs_rest", split] == pytest.approx(classes / (classes - 1))
    assert found["nc3_cosine_min", "train"] == pytest.approx(1)
    assert (
        metrics.nc4(3 * vertices[labels] + 7, labels, W, b, moments.means).agreement.mismatch == 0
    )


def test_metrics_ignore_rotation_scale_and_shift_of_the_features():
    features, labels, W, b = draw()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    before = values_of(table.nc1_to_nc3(moments_of(features, labels, 6), W, b))
    after = values_of(
        table.nc1_to_nc3(moments_of(5 * features @ rotation + 9, labels, 6), W @ rotation, b)
    )
    assert before.keys() == after.keys() and len(before) > 20
    for key in before:
        assert after[key] == pytest.approx(before[key], rel=1e-9), key


def test_renaming_classes_renames_the_table_and_changes_no_metric():
    features, labels, W, b = draw()
    order = np.array([3, 0, 5, 1, 4, 2])  # class c becomes order[c]
    back = np.argsort(order)
    one, other = moments_of(features, labels, 6), moments_of(features, order[labels], 6)
    before, after = table.nc1_to_nc3(one, W, b), table.nc1_to_nc3(other, W[back], b[back])
    assert values_of(after) == pytest.approx(values_of(before), rel=1e-10)
    left, right = table.per_class(one, W), table.per_class(other, W[back])
    assert right["mean_norm"] == pytest.approx([left["mean_norm"][c] for c in back])
    assert right["nearest_class"] == [order[left["nearest_class"][c]] for c in back]


# ---- one pass, any chunking, order and number of workers -----------------------------------------


def chunked(features, labels, size, order=None, exact=True):
    features, labels = (features, labels) if order is None else (features[order], labels[order])
    accumulator = Accumulator(6, features.shape[1], exact=exact)
    for start in range(0, len(features), size):
        accumulator.update(features[start : start + size], labels[start : start + size])
    return accumulator


@pytest.mark.parametrize("exact, tolerance", [(True, 1e-12), (False, 2e-6)])
@pytest.mark.parametrize("arrange", ["drawn", "shuffled", "by class"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_chunking_and_order_change_nothing(size, arrange, exact, tolerance):
    features, labels, W, b = draw(offset=50)
    order = {
        "drawn": np.arange(300),
        "shuffled": np.random.default_rng(2).permutation(300),
        "by class": np.argsort(labels),
    }
    whole = moments_of(features, labels, 6)
    parts = chunked(features, labels, size, order[arrange], exact).finish()
    assert np.array_equal(parts.counts, whole.counts)
    scale = np.trace(whole.within)
    np.testing.assert_allclose(parts.within / scale, whole.within / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(parts.means, whole.means, rtol=1e-12)
    want, found = (values_of(table.nc1_to_nc3(moments, W, b)) for moments in (whole, parts))
    assert found == pytest.approx(want, rel=tolerance)


def test_blocks_inside_one_update_change_nothing(monkeypatch):
    features, labels, _, _ = draw()
    whole = moments_of(features, labels, 6)
    for module in (metrics, moments_module):
        monkeypatch.setattr(module, "BLOCK", 17)
    parts = moments_of(features, labels, 6)
    np.testing.assert_allclose(parts.within, whole.within, rtol=1e-12, atol=1e-14)
    one, other = (metrics.nc4(features, labels, *draw()[2:], whole.means) for _ in range(2))
    monkeypatch.undo()
    assert np.array_equal(one.nearest, other.nearest)
    assert np.array_equal(
        one.nearest, metrics.nc4(features, labels, *draw()[2:], whole.means).nearest
    )


def test_workers_merge_in_any_order():
    features, labels, _, _ = draw()
    whole = moments_of(features, labels, 6)
    bounds = [(0, 90), (90, 91), (91, 91), (91, 300)]  # unequal, one image, none
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        merged = Accumulator(6, 12, exact=True)
        for start, stop in (bounds[i] for i in order):
            merged.merge(
                Accumulator(6, 12, exact=True).update(features[start:stop], labels[start:stop])
            )
        found = merged.finish()
        np.testing.assert_allclose(found.within, whole.within, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(
            found.within_class_variance, whole.within_class_variance, rtol=1e-12
        )


def test_finish_is_a_snapshot():
    features, labels, _, _ = draw()
    accumulator = Accumulator(6, 12, exact=True).update(features, labels)
    before = accumulator.finish()
    kept = before.means.copy(), before.within.copy(), before.counts.copy()
    accumulator.update(features + 1, labels)
    assert all(
        np.array_equal(*pair)
        for pair in zip(kept, (before.means, before.within, before.counts), strict=True)
    )
    assert accumulator.finish().counts.sum() == 600


def test_update_leaves_its_input_alone():
    features, labels, W, b = draw()
    copy = features.copy()
    moments = moments_of(features, labels, 6)
    metrics.nc4(features, labels, W, b, moments.means)
    metrics.nc5(moments, features)
    assert np.array_equal(features, copy)


# ---- numerical hazards ---------------------------------------------------------------------------


def test_offset_in_float32_gives_the_true_nc1_and_not_a_million():
    # Features as a ReLU network gives them, all positive with a large common part. A global mean
    # that is the float32 mean of the images, beside class means of another rounding, leaves Sigma_B
    # a spurious direction, and its inverse a spurious NC1.
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 20)
    centres = generator.standard_normal((100, 128))
    features = (10 + centres[labels] + 0.35 * generator.standard_normal((2000, 128))).astype(
        np.float32
    )

    class_means = np.stack([features[labels == c].mean(axis=0) for c in range(100)])
    centred = (class_means - features.mean(axis=0)).astype(np.float64)
    residuals = (features - class_means[labels]).astype(np.float64)
    naive = (
        np.trace(residuals.T @ residuals / 2000 @ np.linalg.pinv(centred.T @ centred / 100)) / 100
    )

    _, _, _, within, between, _ = two_pass(features, labels, 100)
    eigenvalues, vectors = np.linalg.eigh(between)
    truth = (
        np.einsum("dr,de,er,r->", vectors[:, -99:], within, vectors[:, -99:], 1 / eigenvalues[-99:])
        / 100
    )
    assert truth == pytest.approx(0.40724784, rel=1e-6)
    assert naive > 1e5 * truth  # the hazard is there: 1,111,535
    for exact, tolerance in ((True, 1e-10), (False, 1e-6)):
        found = metrics.nc1(moments_of(features, labels, 100, exact))
        assert found["nc1"] == pytest.approx(truth, rel=tolerance)
        assert found["nc1_rank"] == 99


@pytest.mark.parametrize("noise", [1e-3, 1e-6])
def test_strong_collapse_costs_no_digits(noise):
    # Scatter 1e-6 and 1e-12 of the means': a Gram matrix less its means would be rounding alone in
    # float32.
    features, labels, _, _ = draw(noise=noise)
    _, _, _, within, between, _ = two_pass(features, labels, 6)
    want = np.trace(within) / np.trace(between)
    assert metrics.nc1(moments_of(features, labels, 6))["nc1_trace_ratio"] == pytest.approx(
        want, rel=1e-8
    )
    fast = moments_of(features, labels, 6, exact=False)
    assert metrics.nc1(fast)["nc1_trace_ratio"] == pytest.approx(want, rel=1e-5)
    assert np.trace(fast.within) == pytest.approx(np.trace(within), rel=1e-6)


def test_rounded_centres_are_corrected():
    # float32 at an offset of 1e6 holds steps of 1/16: class means rounded to them are off by up to
    # 1/32.
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 200)
    features = (1e6 + np.round(4 * generator.standard_normal((800, 8))) / 8).astype(np.float32)
    variance = two_pass(features, labels, 4)[-1]
    found = moments_of(features, labels, 4, exact=False)
    np.testing.assert_allclose(found.within_class_variance, variance, rtol=2e-6)
    assert np.trace(found.within) == pytest.approx(variance.mean(), rel=2e-6)


def test_float32_overflow_is_an_error_and_exact_is_not():
    features = np.array([[1e25, 0], [-1e25, 0], [1, 1], [2, 2]], np.float32)
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"exact=True"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        moments_of(features, labels, 2, exact=False)
    assert np.isfinite(moments_of(features, labels, 2).within).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_two_identical_class_means(offset):
    features, labels, W, b = draw(offset=offset)
    twin = features[labels == 0]
    features = np.concatenate([features[labels != 1], twin[::-1]])
    labels = np.concatenate([labels[labels != 1], np.ones(len(twin), int)])
    moments = moments_of(features, labels, 6)
    rows = {row.metric: row for row in table.nc1_to_nc3(moments, W, b)}
    assert rows["nc1_rank"].value == 4 and rows["nc1"].note == "rank 4 of 5"
    assert 0 < rows["nc1"].value < 10
    assert rows["nc1_cdnv"].value is None and rows["nc1_cdnv"].note.startswith("undefined")
    assert rows["nc2_means_cosine_max"].value == pytest.approx(1)
    assert table.per_class(moments, W)["nearest_class"][:2] == [1, 0]


def test_all_class_means_at_one_point_leave_everything_undefined():
    features = np.tile(np.random.default_rng(0).standard_normal((10, 4)) + 100, (3, 1))
    moments = moments_of(features, np.repeat(np.arange(3), 10), 3)
    rows = table.nc1_to_nc3(moments, np.eye(3, 4), np.zeros(3))
    undefined = [row for row in rows if row.split == "train" and row.metric != "nc1_rank"]
    assert len(undefined) == 16
    for row in undefined:
        assert row.value is None and row.note.startswith("undefined"), row
    assert metrics.nc1(moments)["nc1_rank"] == 0
    found = metrics.nc5(moments, features + 1)
    assert found.centred is None and found.shift is None and found.uncentred > 0.99


def test_one_image_a_class_has_no_scatter_rather_than_none():
    moments = moments_of(np.eye(3), np.arange(3), 3)
    found = metrics.nc1(moments)
    assert found["nc1"] is found["nc1_trace_ratio"] is found["nc1_cdnv"] is None
    assert found["nc1_rank"] == 2
    assert etf.nc2(moments.centred)["gram_distance"] == pytest.approx(0, abs=1e-12)


# ---- more classes than a simplex admits ----------------------------------------------------------


def test_no_simplex_in_few_dimensions():
    features, labels, W, b = draw(classes=6, width=3)
    moments = moments_of(features, labels, 6)
    with pytest.warns(
        UserWarning, match="no simplex ETF of 6 classes exists in 3 dimensions"
    ) as caught:
        rows = {row.metric: row for row in table.nc1_to_nc3(moments, W, b)}
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        "NC2 of the means",
        "NC2 of the weights",
    ]
    assert rows["nc1"].note == "rank 3 of 3" and rows["nc1"].value > 0
    for name in ("angle_deviation_mean", "angle_deviation_max", "gram_distance"):
        for kind in ("means", "weights"):
            assert rows[f"nc2_{kind}_{name}"].value is None
            assert (
                rows[f"nc2_{kind}_{name}"].note
                == "no simplex ETF of 6 classes exists in 3 dimensions"
            )
    assert (
        rows["nc2_means_tight_frame_distance"].value > 0 and rows["nc2_means_cosine_std"].value > 0
    )


def test_width_of_exactly_c_minus_one_admits_the_simplex():
    features, labels, W, b = draw(classes=4, width=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = values_of(table.nc1_to_nc3(moments_of(features, labels, 4), W, b))
    assert found["nc2_means_gram_distance", "train"] > 0


def test_generalised_nc2_of_known_codes():
    # the octahedron, 6 points in 3 dimensions: best angle, tight frame
    cross = np.concatenate([np.eye(3), -np.eye(3)])
    found = etf.nc2(cross)
    assert found["cosine_max"] == pytest.approx(0, abs=1e-15)  # Rankin's bound for C > D + 1
    assert found["tight_frame_distance"] == pytest.approx(0, abs=1e-15)
    # squashed: eigenvalues 2, 2, 1/2 where the tight frame has three equal
    flat = cross * [
        1,
        1,
        0.5,
    ]
    want = np.linalg.norm(np.array([2, 2, 0.5]) / np.sqrt(8.25) - 1 / np.sqrt(3))
    assert etf.nc2(flat)["tight_frame_distance"] == pytest.approx(want)


def hull_distance(vectors):
    """The same as one_vs_rest, a quadratic programme a class by non-negative least squares: with a
    row of ones under the differences, the solution points to the nearest point of the hull (Lawson
    and Hanson 1974, least-distance programming)."""
    found = []
    for own in range(len(vectors)):
        others = np.delete(vectors, own, axis=0) - vectors[own]
        weights, _ = nnls(
            np.vstack([others.T, np.ones(len(others))]), np.append(np.zeros(vectors.shape[1]), 1.0)
        )
        found.append(np.linalg.norm(others.T @ weights / weights.sum()))
    return min(found)


@pytest.mark.parametrize("classes, width", [(2, 3), (6, 2), (6, 3), (10, 16), (40, 8), (60, 100)])
def test_one_vs_rest_is_the_distance_to_the_hull_of_the_others(classes, width):
    vectors = np.random.default_rng(classes).standard_normal((classes, width)) + 0.3
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert etf.nc2(vectors)["one_vs_rest"] == pytest.approx(hull_distance(unit), rel=1e-9)
    order = np.random.default_rng(0).permutation(classes)
    assert etf.nc2(5 * vectors[order])["one_vs_rest"] == pytest.approx(
        hull_distance(unit), rel=1e-9
    )


def test_one_vs_rest_of_known_codes():
    cross = np.concatenate([np.eye(4), -np.eye(4)])
    for classes in (
        6,
        7,
        8,
    ):  # D + 2 to 2 D classes: at most 1, where every other vector is orthogonal or opposite
        assert etf.nc2(cross[:classes])["one_vs_rest"] == pytest.approx(1, rel=1e-12)
    angle = 2 * np.pi / 7  # the heptagon: from a corner to the line through its neighbours
    heptagon = np.column_stack([np.cos(angle * np.arange(7)), np.sin(angle * np.arange(7))])
    assert etf.nc2(heptagon)["one_vs_rest"] == pytest.approx(1 - np.cos(angle), rel=1e-12)
    assert etf.nc2(np.array([[3.0, 0], [0, 1], [5, 0]]))["one_vs_rest"] == pytest.approx(
        0, abs=1e-6
    ), "two directions are one"
    # C = D + 2: no code of 6 reaches beyond 1
    random = np.random.default_rng(1).standard_normal((40, 6, 4))
    assert max(etf.nc2(vectors)["one_vs_rest"] for vectors in random) <= 1


def test_tight_frame_distance_is_the_gram_distance_where_a_simplex_exists():
    found = etf.nc2(moments_of(*draw()[:2], 6).centred)
    assert found["tight_frame_distance"] == pytest.approx(found["gram_distance"], rel=1e-12)


def test_mean_cosine_is_forced_by_centring_and_so_proves_nothing():
    norms = np.ones(6)
    centred = moments_of(*draw()[:2], 6).centred
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    found = etf.nc2(unit - unit.mean(axis=0))
    assert found["cosine_mean"] == pytest.approx(-1 / (len(norms) - 1), abs=0.02)
    assert found["gram_distance"] > 0.2  # and yet far from a simplex


# ---- absent classes ------------------------------------------------------------------------------


def test_absent_class_is_left_out_and_said():
    features, labels, W, b = draw()
    keep = labels != 2
    with pytest.warns(UserWarning, match=r"1 of 6 classes have no images \(2\)") as caught:
        moments = moments_of(features[keep], labels[keep], 6)
    assert len(caught) == 1
    smaller = labels[keep] - (labels[keep] > 2)
    rest = np.array([0, 1, 3, 4, 5])
    without = moments_of(features[keep], smaller, 5)
    assert np.isnan(moments.means[2]).all() and np.isnan(moments.within_class_variance[2])
    np.testing.assert_allclose(moments.global_mean, without.global_mean, rtol=1e-13)
    rows = table.nc1_to_nc3(moments, W, b)
    want = values_of(table.nc1_to_nc3(without, W[rest], b[rest]))
    for row in rows:
        if row.split == "train":
            assert row.value == pytest.approx(want[row.metric, "train"], rel=1e-10), row
            assert row.note.endswith("means of 5 of 6 classes")
    columns = table.per_class(moments, W, list("abcdef"))
    assert columns["images"][2] == 0
    for name in (
        "within_class_variance",
        "mean_norm",
        "cosine_weight_mean",
        "nearest_class_cosine",
        "nearest_class",
    ):
        assert columns[name][2] is None and None not in columns[name][:2] + columns[name][3:], name
    assert columns["weight_norm"][2] == pytest.approx(np.linalg.norm(W[2]))
    found = metrics.nc4(features, labels, W, b, moments.means)
    assert 2 not in found.nearest and 2 in found.predicted and found.images[2] > 0
    assert (
        np.isnan(metrics.nc5(moments, features).cosines[2])
        and metrics.nc5(moments, features).uncentred > 0
    )


def test_fewer_than_two_classes():
    with pytest.raises(ValueError, match="at least two"):
        moments_of(np.ones((3, 2)), np.array([1, 1, 1]), 4)
    with pytest.raises(ValueError, match="at least two"):
        Accumulator(4, 2).finish()


# ---- NC4 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nc4_agrees_with_a_loop(dtype, offset):
    features, labels, W, b = draw(noise=1.5, offset=offset, dtype=dtype)
    b = b - W @ np.full(12, offset)
    moments = moments_of(features, labels, 6)
    found = metrics.nc4(features, labels, W, b, moments.means)
    rows = features.astype(np.float64)
    nearest = np.array([np.argmin(np.linalg.norm(moments.means - h, axis=1)) for h in rows])
    predicted = np.array([np.argmax(W @ h + b) for h in rows])
    assert np.array_equal(found.nearest, nearest) and np.array_equal(found.predicted, predicted)
    assert 0 < found.agreement.mismatch == np.mean(nearest != predicted) < 1
    assert found.agreement.nearest_mean_accuracy == np.mean(nearest == labels)
    assert found.agreement.head_accuracy == np.mean(predicted == labels)
    assert found.mismatches.sum() == (nearest != predicted).sum() and found.images.sum() == 300
    columns = table.per_class(moments, W, train=found)
    for c in range(6):
        assert columns["train_mismatch"][c] == pytest.approx(
            np.mean((nearest != predicted)[labels == c])
        )
    assert columns["test_mismatch"] == [None] * 6


def test_a_strongly_biased_head_is_seen_by_nc4_and_by_the_bias_spread_alone():
    vertices = simplex(5, 8)
    labels = np.repeat(np.arange(5), 4)
    moments = moments_of(vertices[labels], labels, 5)
    fair, biased = np.zeros(5), np.array([100.0, 0, 0, 0, 0])
    assert (
        metrics.nc4(vertices[labels], labels, vertices, fair, moments.means).agreement.mismatch == 0
    )
    found = metrics.nc4(vertices[labels], labels, vertices, biased, moments.means)
    assert (
        found.agreement.mismatch == 0.8
        and found.agreement.head_accuracy == 0.2
        and found.agreement.nearest_mean_accuracy == 1
    )
    assert list(found.mismatches) == [0, 4, 4, 4, 4]
    one, other = (values_of(table.nc1_to_nc3(moments, vertices, b)) for b in (fair, biased))
    assert {key for key in one if one[key] != other[key]} == {("head_bias_std", "head")}
    assert other["head_bias_std", "head"] == pytest.approx(40)


def test_nc4_chunks_add_up():
    features, labels, W, b = draw(noise=1.5)
    means = moments_of(features, labels, 6).means
    whole = metrics.nc4(features, labels, W, b, means)
    parts = [
        metrics.nc4(features[i : i + 77], labels[i : i + 77], W, b, means)
        for i in range(0, 300, 77)
    ]
    assert np.array_equal(sum(part.mismatches for part in parts), whole.mismatches)
    assert np.array_equal(sum(part.images for part in parts), whole.images)


def test_nc4_of_no_images_is_undefined():
    features, labels, W, b = draw()
    found = metrics.nc4(features[:0], labels[:0], W, b, moments_of(features, labels, 6).means)
    rows = table.nc4(found.agreement, "test")
    assert [row.value for row in rows] == [None] * 3
    assert rows[1].note == "undefined: no images"


# ---- NC5 -----------------------------------------------------------------------------------------


def test_nc5_by_hand():
    # Class means (2, 0, 1) and (0, 2, 1), mu_G = (1, 1, 1).
    features = np.array([[2.0, 0, 1], [2, 0, 1], [0, 2, 1], [0, 2, 1]])
    moments = moments_of(features, np.array([0, 0, 1, 1]), 2)
    # mean (0, 2, 0): cosines 0 and 2/sqrt(5)
    found = metrics.nc5(moments, np.array([[0.0, 1, 0], [0, 3, 0]]))
    assert found.cosines == pytest.approx([0, 2 / np.sqrt(5)])
    assert found.uncentred == pytest.approx(1 / np.sqrt(5))
    # Centred: (1, -1, 0), (-1, 1, 0) and (-1, 1, -1): cosines -+2/sqrt(6); lengths sqrt(3) over
    # sqrt(2).
    assert found.cosines_centred == pytest.approx([-2 / np.sqrt(6), 2 / np.sqrt(6)])
    assert found.centred == pytest.approx(2 / np.sqrt(6))
    assert found.shift == pytest.approx(np.sqrt(1.5))
    # a mean serves for its features
    assert metrics.nc5(moments, np.array([0.0, 2, 0])).uncentred == found.uncentred
    # opposite is no more orthogonal
    assert metrics.nc5(moments, np.array([0.0, -2, 0])).uncentred == found.uncentred
    orthogonal = metrics.nc5(moments, np.array([1.0, 1, -2]))
    assert orthogonal.uncentred == pytest.approx(0, abs=1e-15)


def test_nc5_of_the_training_set_itself_is_undefined_once_centred():
    features, labels = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), np.array([0, 0, 1, 1])
    rows = table.nc5(metrics.nc5(moments_of(features, labels, 2), features), "train")
    values = {row.metric: row.value for row in rows}
    assert (
        values["nc5"] == pytest.approx(np.sqrt(0.5))
        and values["nc5_centred"] is None
        and values["nc5_shift"] == 0
    )
    assert all(row.note.startswith("null") for row in rows)


@pytest.mark.parametrize(
    "other", [np.zeros((4, 3)), np.zeros((0, 12)), np.full((4, 12), np.nan), np.full(12, np.inf)]
)
def test_nc5_refuses_other_widths_none_and_nan(other):
    moments = moments_of(*draw()[:2], 6)
    with pytest.raises(ValueError, match="NC5 needs finite features of width 12"):
        metrics.nc5(moments, other)


# ---- tables and intervals ------------------------------------------------------------------------


def test_rows_have_the_columns_of_the_contract_and_say_their_convention():
    features, labels, W, b = draw()
    moments = moments_of(features, labels, 6)
    rows = table.nc1_to_nc3(moments, W, b)
    rows += table.nc4(metrics.nc4(features, labels, W, b, moments.means).agreement, "train")
    rows += table.nc5(metrics.nc5(moments, features + 1), "ood:shifted")
    assert {tuple(asdict(row)) for row in rows} == {
        ("metric", "value", "split", "centring", "source", "note")
    }
    assert len({(row.metric, row.split) for row in rows}) == len(rows) == 33
    assert all(row.source and row.centring in ("mu_G", "none") for row in rows)
    assert all(type(row.value) in (float, int) for row in rows)
    assert {row.split for row in rows} == {"train", "head", "ood:shifted"}
    assert {row.centring for row in rows if row.metric.startswith("nc2_weights")} == {"none"}


def test_per_class_columns():
    features, labels, W, b = draw(classes=3, width=5)
    moments = moments_of(features, labels, 3)
    result = metrics.nc4(features, labels, W, b, moments.means)
    columns = table.per_class(moments, W, ["cat", "dog", "owl"], result, result)
    assert list(columns) == [
        "class",
        "class_name",
        "images",
        "within_class_variance",
        "mean_norm",
        "weight_norm",
        "cosine_weight_mean",
        "nearest_class_cosine",
        "nearest_class",
        "train_mismatch",
        "test_mismatch",
    ]
    assert columns["class"] == [0, 1, 2] and columns["class_name"] == ["cat", "dog", "owl"]
    assert columns["images"] == [int((labels == c).sum()) for c in range(3)]
    M = moments.means - moments.means.mean(axis=0)
    M /= np.linalg.norm(M, axis=1, keepdims=True)
    for c in range(3):
        others = [d for d in range(3) if d != c]
        best = max(others, key=lambda d: M[c] @ M[d])
        assert columns["nearest_class"][c] == best and type(columns["nearest_class"][c]) is int
        assert columns["nearest_class_cosine"][c] == pytest.approx(M[c] @ M[best])
        assert columns["cosine_weight_mean"][c] == pytest.approx(W[c] @ M[c] / np.linalg.norm(W[c]))
    assert all(len(column) == 3 for column in columns.values())


def test_bootstrap_intervals():
    features, labels, W, b = draw(noise=0.5)
    one, again = (bootstrap.nc1_to_nc3(features, labels, W, resamples=40, seed=3) for _ in range(2))
    assert one == again
    measured = {
        row.metric: row.value for row in table.nc1_to_nc3(moments_of(features, labels, 6), W, b)
    }
    assert set(one) < set(measured) and {
        "nc1",
        "nc2_means_gram_distance",
        "nc3_self_duality",
    } < set(one)
    for name in ("nc1", "nc1_trace_ratio", "nc1_cdnv", "nc2_means_norm_cv", "nc3_cosine_mean"):
        low, high = one[name]
        assert low < high and abs(measured[name] - (low + high) / 2) < 2 * (high - low), name
    wider = bootstrap.nc1_to_nc3(features[:60], labels[:60], W, resamples=40)["nc1_trace_ratio"]
    assert wider[1] - wider[0] > one["nc1_trace_ratio"][1] - one["nc1_trace_ratio"][0]
    still = bootstrap.nc1_to_nc3(
        simplex(4, 6)[np.repeat(np.arange(4), 3)], np.repeat(np.arange(4), 3), simplex(4, 6)
    )
    assert still["nc1"] == pytest.approx((0, 0), abs=1e-14)


def test_the_intervals_of_nc4_are_those_of_resampled_images_and_cost_no_pass():
    features, labels, W, b = draw(noise=1.5)
    result = metrics.nc4(features, labels, W, b, moments_of(features, labels, 6).means)
    slowly = []
    for drawn in bootstrap.draws(labels, 400, seed=5):
        assert np.array_equal(np.bincount(labels[drawn]), np.bincount(labels)), (
            "as many of each class"
        )
        nearest, predicted = result.nearest[drawn], result.predicted[drawn]
        slowly.append(
            [
                np.mean(nearest != predicted),
                np.mean(nearest == labels[drawn]),
                np.mean(predicted == labels[drawn]),
            ]
        )
    expected = np.quantile(slowly, [0.025, 0.975], axis=0).T
    found = bootstrap.nc4(result, 4000)
    assert list(found) == ["nc4_mismatch", "nc4_nearest_mean_accuracy", "nc4_head_accuracy"]
    for name, interval in zip(found, expected, strict=True):
        assert (
            found[name] == pytest.approx(tuple(interval), abs=0.02)
            and found[name][0] < getattr(result.agreement, name[4:]) < found[name][1]
        )
    vertices = simplex(5, 8)
    perfect = metrics.nc4(vertices, np.arange(5), vertices, np.zeros(5), vertices)
    assert bootstrap.nc4(perfect)["nc4_mismatch"] == (0, 0)


def test_the_intervals_of_nc5_hold_what_repeated_sets_give():
    features, labels, _, _ = draw()
    moments, generator = moments_of(features, labels, 6), np.random.default_rng(1)
    centre = generator.standard_normal(12)
    sets = [centre + 2 * generator.standard_normal((150, 12)) for _ in range(300)]
    sampled = np.quantile([metrics.nc5(moments, other).uncentred for other in sets], [0.025, 0.975])
    low, high = bootstrap.nc5(moments, sets[0], resamples=400)["nc5"]
    assert (
        0.7 < (high - low) / np.ptp(sampled) < 1.4
        and low < metrics.nc5(moments, sets[0]).uncentred < high
    )
    within = bootstrap.nc5(moments, features, labels, 100)["nc5"]
    assert within[1] - within[0] < np.subtract(
        *bootstrap.nc5(moments, features, None, 100)["nc5"][::-1]
    )


def test_zero_weights_have_no_direction():
    features, labels, W, b = draw()
    W[1] = 0
    moments = moments_of(features, labels, 6)
    found = values_of(table.nc1_to_nc3(moments, W, b))
    assert (
        found["nc3_cosine_mean", "train"] is None
        and found["nc2_weights_cosine_std", "head"] is None
    )
    assert found["nc3_self_duality", "train"] > 0
    assert table.per_class(moments, W)["cosine_weight_mean"][1] is None
    assert values_of(table.nc1_to_nc3(moments, 0 * W, b))["nc3_self_duality", "train"] is None


# ---- a person's mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused_with_their_row_and_add_nothing(value):
    features, labels, W, b = draw()
    means = moments_of(features, labels, 6).means
    features[211, 4] = value
    accumulator = Accumulator(6, 12)
    with pytest.raises(ValueError, match="row 211 hold NaN or infinity"):
        accumulator.update(features, labels)
    assert accumulator.counts.sum() == 0 and not accumulator.scatter.any()
    with pytest.raises(ValueError, match="row 211 hold NaN or infinity"):
        metrics.nc4(features, labels, W, b, means)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h, y: (h[:, :5], y), r"shape \(300, 5\).*expected numbers of shape \(n, 12\)"),
        (lambda h, y: (h[0], y), "expected numbers of shape"),
        (lambda h, y: (h.astype(str), y), "expected numbers"),
        (lambda h, y: (h, y[:-1]), r"labels have shape \(299,\).*expected 300 integers"),
        (lambda h, y: (h, y.astype(float)), "expected 300 integers"),
        (lambda h, y: (h, y[:, None]), "expected 300 integers"),
        (
            lambda h, y: (h, np.where(np.arange(300) == 9, 6, y)),
            "label 6 of row 9 is outside 0 to 5",
        ),
        (lambda h, y: (h, y - 1), "label -1 of row 0 is outside 0 to 5"),
    ],
)
def test_wrong_features_and_labels(change, message):
    features, labels = change(*draw()[:2])
    with pytest.raises(ValueError, match=message):
        Accumulator(6, 12).update(features, labels)


def test_wrong_head_and_wrong_partner():
    features, labels, W, b = draw()
    moments = moments_of(features, labels, 6)
    for weights, bias in ((W[:5], b), (W[:, :4], b), (W, b[:3]), (W.T, b)):
        with pytest.raises(ValueError, match=r"take head\.csv and features from one checkpoint"):
            table.nc1_to_nc3(moments, weights, bias)
        with pytest.raises(ValueError, match=r"take head\.csv and features from one checkpoint"):
            metrics.nc4(features, labels, weights, bias, moments.means)
    with pytest.raises(ValueError, match="head holds NaN"):
        table.nc1_to_nc3(moments, W * np.nan, b)
    with pytest.raises(ValueError, match="cannot merge 5 classes x 12 features into 6 x 12"):
        Accumulator(6, 12).merge(Accumulator(5, 12))


# ---- beyond the metrics --------------------------------------------------------------------------


def clouds(classes=5, width=8, seed=0):
    """Unbalanced classes in float32, with a dead feature and a large offset."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 20 + 7 * np.arange(classes))
    features = (
        generator.normal(size=(classes, width))[labels] * 2
        + generator.normal(size=(len(labels), width))
        + 30
    )
    features[:, 3] = 1.5
    return features.astype(np.float32), labels


def gathered(features, labels, classes):
    return Accumulator(classes, features.shape[1], exact=True).update(features, labels).finish()


def test_the_total_covariance_is_that_of_all_images():
    features, labels = clouds()
    mean, covariance = probe.total(gathered(features, labels, 5))
    np.testing.assert_allclose(mean, features.astype(float).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        covariance, np.cov(features.astype(float), rowvar=False, bias=True), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("width", [3, 8])
def test_the_probe_is_least_squares_with_a_bias_and_dead_features_get_no_weight(width):
    features, labels = clouds(width=max(width, 4))
    features = features[:, :width]
    W, b = probe.least_squares_head(gathered(features, labels, 5))
    # else lstsq would count the bias in its least norm
    centred = features - features.astype(float).mean(axis=0)
    targets = np.eye(5)[labels]
    expected = np.linalg.lstsq(centred, targets - targets.mean(axis=0), rcond=None)[0].T
    np.testing.assert_allclose(W, expected, rtol=1e-8, atol=1e-12)
    predicted = features @ W.T + b
    np.testing.assert_allclose(predicted.mean(axis=0), targets.mean(axis=0), rtol=1e-9)
    residual = targets - predicted
    np.testing.assert_allclose(residual.T @ centred, 0, atol=1e-8)  # the normal equations
    assert width < 4 or np.abs(W[:, 3]).max() < 1e-15


def test_the_probe_never_predicts_a_class_without_images():
    features, labels = clouds()
    kept = labels != 2
    with pytest.warns(UserWarning, match="no images"):
        W, b = probe.least_squares_head(gathered(features[kept], labels[kept], 5))
    assert not W[2].any() and b[2] == 0 and np.isfinite(W).all()
    assert (features[kept] @ W.T + b).argmax(axis=1).max() == 4


def test_distances_to_the_nearest_mean_equal_a_loop_and_pass_absent_classes_over():
    features, labels = clouds()
    means = gathered(features, labels, 5).means
    means[1] = np.nan
    slowly = [
        min(np.linalg.norm(h - mean) for mean in means if np.isfinite(mean).all())
        for h in features.astype(float)
    ]
    np.testing.assert_allclose(metrics.centre_distances(features, means), slowly, rtol=1e-10)
    near = means[[0, 2]] + np.array([[1e-6], [0]])
    np.testing.assert_allclose(
        metrics.centre_distances(near, means), [1e-6 * np.sqrt(8), 0], atol=1e-6
    )
    assert metrics.centre_distances(np.empty((0, 8)), means).shape == (0,)


def test_an_exact_bootstrap_hardly_differs():
    features, labels = clouds()
    W = np.random.default_rng(0).normal(size=(5, 8))
    fast, exact = (
        bootstrap.nc1_to_nc3(features, labels, W, 5, exact=exact) for exact in (False, True)
    )
    assert fast["nc1"] == pytest.approx(exact["nc1"], rel=1e-4) and fast["nc1"] != exact["nc1"]
