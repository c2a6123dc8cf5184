"""figures/collapse.py: numbers are read back from the drawn artists."""

import numpy as np
import pandas as pd
import pytest
from figure_cases import SETS, per_class, png, words
from matplotlib.colors import to_hex
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist

import figures


@pytest.mark.parametrize(
    "draw, column",
    [
        (figures.within_class_variance, "within_class_variance"),
        (figures.weight_mean_alignment, "cosine_weight_mean"),
    ],
)
@pytest.mark.parametrize("classes", [2, 8, 100])
def test_class_bars_hold_the_values_sorted_without_the_missing(draw, column, classes):
    table = per_class(classes)
    if classes > 2:
        table.loc[3, column] = np.nan
    figure = draw(table)
    bars = figure.axes[0].patches
    values = [bar.get_width() if classes <= figures.LONG else bar.get_height() for bar in bars]
    np.testing.assert_allclose(values, np.sort(table[column].dropna()))
    assert ("undefined for 1 of" in words(figure)) == (classes > 2)
    highest = table["class_name"][table[column].idxmax()]
    assert highest in words(figure) and not (figure.axes[0].texts and classes > figures.LONG), (
        "no words among the bars"
    )
    png(figure)


def test_class_bars_of_nothing():
    table = per_class(3).assign(within_class_variance=np.nan)
    assert "undefined for every class" in words(figures.within_class_variance(table))


def test_alignment_has_its_target_at_one():
    assert [
        line.get_xdata()[0] for line in figures.weight_mean_alignment(per_class(5)).axes[0].lines
    ] == [1]
    assert [
        line.get_ydata()[0] for line in figures.weight_mean_alignment(per_class(50)).axes[0].lines
    ] == [1]


@pytest.mark.parametrize("classes", [2, 8, 100])
def test_cosines_of_every_pair_and_the_simplex_line(classes):
    means = np.random.default_rng(0).normal(size=(classes, 128)) + 7
    figure = figures.cosine_histogram(means, means - 7)
    for axes in figure.axes:
        assert sum(patch.get_height() for patch in axes.patches) == classes * (classes - 1) / 2
        assert axes.lines[0].get_xdata()[0] == pytest.approx(-1 / (classes - 1))
    assert "no simplex" not in words(figure)
    png(figure)


def test_a_simplex_stands_at_its_line_and_a_common_offset_changes_nothing():
    simplex = np.eye(5) - 1 / 5
    figure = figures.cosine_histogram(3 * simplex + 100)
    assert "mean -0.250, standard deviation 0.000" in words(figure)
    bars = [patch for patch in figure.axes[0].patches if patch.get_height()]
    assert sum(bar.get_height() for bar in bars) == 10
    assert all(abs(bar.get_x() + bar.get_width() / 2 + 0.25) < 0.01 for bar in bars)


def test_cosines_say_where_no_simplex_exists_and_leave_absent_classes_out():
    means = np.random.default_rng(0).normal(size=(10, 4))
    means[2] = np.nan
    figure = figures.cosine_histogram(means)
    assert "no simplex ETF of 10 classes exists in 4 dimensions" in words(figure)
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == 9 * 8 / 2
    png(figure)


@pytest.mark.parametrize("classes", [2, 8, 100])
def test_heat_map_holds_the_distances(classes):
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.arange(classes) % 2)
    means = generator.normal(size=(classes, 16)) + 50 * groups[:, None]
    names = [f"{group} {index}" for index, group in enumerate(groups)]
    figure = figures.class_mean_distances(means, names)
    shown = np.asarray(figure.axes[0].images[0].get_array().filled(np.nan))
    order = [int(label.get_text().split()[1]) for label in figure.axes[0].get_yticklabels()]
    assert sorted(order) == list(range(classes))
    expected = np.linalg.norm(means[order][:, None] - means[order][None], axis=2)
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(shown, expected)
    if classes > figures.LONG:
        assert np.count_nonzero(np.diff(groups[order])) == 1, "two far groups stand as two blocks"
    png(figure)


def test_heat_map_without_absent_classes_and_without_names_where_none_could_be_read():
    means = np.random.default_rng(0).normal(size=(150, 8))
    means[7] = np.nan
    figure = figures.class_mean_distances(means, [str(index) for index in range(150)])
    assert figure.axes[0].images[0].get_array().shape == (149, 149)
    assert "1 classes without a mean" in words(figure) and not figure.axes[0].get_yticklabels()


def test_nc5_bars_and_the_null():
    table = pd.DataFrame(
        {
            "name": ["ID test (null)", *SETS],
            "uncentred": np.linspace(0.9, 0.1, 9),
            "centred": [0.125, *np.linspace(0.1, 0.4, 7), np.nan],
        }
    )
    figure = figures.nc5_bars(table)
    for axes, column in zip(figure.axes, ("uncentred", "centred"), strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], table[column])
        assert [line.get_xdata()[0] for line in axes.lines] == [table[column][0]]
        assert to_hex(axes.patches[0].get_facecolor()) == figures.ID_COLOUR.lower()
        assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches[1:]] == list(
            figures.OOD_COLOURS
        )
    assert words(figure).count("undefined") == 1
    png(figure)


def test_agreement_is_one_less_the_mismatch_of_the_test_images():
    table = per_class(6).assign(test_mismatch=[0.0, 0.1, 0.25, 0.5, np.nan, 1.0])
    figure = figures.nearest_mean_agreement(table)
    np.testing.assert_allclose(
        [bar.get_width() for bar in figure.axes[0].patches], [0, 0.5, 0.75, 0.9, 1]
    )
    assert "undefined for 1 of 6 classes" in words(figure)
    png(figure)


def test_the_mismatch_map_counts_images_of_the_classes_involved():
    nearest, predicted = np.array([0, 0, 0, 1, 1, 4, 4, 2]), np.array([0, 3, 3, 1, 0, 4, 4, 2])
    figure = figures.mismatch_map(nearest, predicted, list("abcde"))
    shown = np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "d"]
    expected = np.full((3, 3), np.nan)
    expected[0, 2], expected[1, 0] = 2, 1  # nearest mean a, classifier d: twice
    np.testing.assert_array_equal(shown, expected)
    assert "3 of 8 images" in words(figure) and "classifier" in figure.axes[0].get_xlabel()
    png(figure)


def test_counts_and_measures_keep_their_own_digits():
    figure = figures.mismatch_map([0, 0, 1], [1, 1, 0], ["a", "b"])
    assert {text.get_text() for text in figure.axes[0].texts} == {"2", "1"}
    png(figure)
    assert all(float(tick) == int(float(tick)) for tick in figure.axes[1].get_yticks()), (
        "no half images beside the bar"
    )
    distances = figures.class_mean_distances(np.array([[0.0, 0], [6.3, 0], [0, 2]]), list("abc"))
    assert {text.get_text() for text in distances.axes[0].texts} == {"6.30", "2.00", "6.61"}


def test_the_mismatch_map_of_agreement_and_of_very_many_classes():
    nothing = figures.mismatch_map([0, 1], [0, 1], ["a", "b"])
    assert "none of 2 images" in words(nothing) and nothing.get_figheight() < 1
    generator = np.random.default_rng(0)
    nearest, predicted = generator.integers(0, 100, (2, 3000))
    nearest[:500], predicted[:500] = 77, 3
    figure = figures.mismatch_map(nearest, predicted, [str(index) for index in range(100)])
    assert (
        figure.axes[0].images[0].get_array().shape == (40, 40)
        and np.nanmax(figure.axes[0].images[0].get_array()) >= 500
    )
    assert "the 40 classes with most, of 100" in words(figure)
    png(figure)


def test_angles_of_a_simplex_stand_at_their_lines():
    simplex = np.eye(5) - 1 / 5
    figure = figures.angle_histogram(3 * simplex + 100, 2 * simplex)
    target = np.degrees(np.arccos(-1 / 4))
    for axes, count, angle in zip(figure.axes, (10, 10, 5), (target, target, 0), strict=True):
        bars = [bar for bar in axes.patches if bar.get_height()]
        assert sum(bar.get_height() for bar in bars) == count
        assert all(
            bar.get_x() - 0.01 <= angle <= bar.get_x() + bar.get_width() + 0.01 for bar in bars
        )
        assert axes.lines[0].get_xdata()[0] == pytest.approx(angle)
    png(figure)


def order_by_clustering(points):
    """Average linkage on Euclidean distances, by SciPy's own pdist."""
    pairs = pdist(points)
    return leaves_list(linkage(pairs, "average", optimal_ordering=True))


@pytest.mark.parametrize("classes, width", [(4, 16), (30, 8)])
def test_gram_matrices_hold_the_cosines_and_the_shares_of_the_eigenvalues(classes, width):
    generator = np.random.default_rng(0)
    means, weights = generator.normal(size=(2, classes, width))
    weights[1] = 0
    figure = figures.gram_matrices(means, weights, [f"c{index}" for index in range(classes)])
    centred = means - means.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    order = order_by_clustering(means) if classes > 20 else np.arange(classes)
    shown, of_weights = (
        np.ma.filled(axes.images[0].get_array(), np.nan) for axes in figure.axes[:2]
    )
    expected = (unit @ unit.T)[np.ix_(order, order)]
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(shown, expected, atol=1e-12)
    assert np.isnan(of_weights[list(order).index(1)]).all(), "a zero row has no angle"
    said = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert said == [f"c{index}" for index in order]
    low, high = figure.axes[0].images[0].get_clim()
    assert high == -low == pytest.approx(np.nanmax(np.abs([shown, of_weights])))
    spectrum = next(axes for axes in figure.axes if axes.lines)
    eigenvalues = np.sort(np.linalg.eigvalsh(centred @ centred.T))[::-1][: min(classes, width)]
    np.testing.assert_allclose(
        spectrum.lines[0].get_ydata(), eigenvalues / eigenvalues.sum(), atol=1e-12
    )
    assert spectrum.lines[2].get_ydata()[0] == pytest.approx(1 / min(classes - 1, width))
    png(figure)


def test_the_spectrum_is_in_shares_with_d_and_the_classes_marked():
    figure = figures.pca_spectrum([6.0, 3.0, 1.0, 0.0], 2, 4)
    each, running = figure.axes
    np.testing.assert_allclose(
        each.lines[0].get_ydata(),
        [0.6, 0.3, 0.1],
        err_msg="zero has no place on a logarithmic axis",
    )
    np.testing.assert_allclose(running.lines[0].get_ydata(), [0.6, 0.9, 1, 1])
    assert tuple(running.lines[1].get_xydata()[0]) == (2, pytest.approx(0.9))
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines[-2:]] == [2, 3]
    assert "d = 2" in words(figure) and "C - 1 = 3" in words(figure)
    png(figure)


@pytest.mark.parametrize("classes, named", [(10, True), (64, True), (65, True), (66, False)])
def test_the_end_of_a_collapsed_spectrum_is_drawn_where_there_are_so_many_components(
    classes, named
):
    figure = figures.pca_spectrum(np.linspace(1, 0.1, 64), 20, classes)
    lines = [line.get_xdata()[0] for line in figure.axes[1].lines[2:]]
    assert lines == ([20, classes - 1] if named else [20])
    styles = {line.get_linestyle() for line in figure.axes[1].lines[2:]}
    assert len({str(line._dash_pattern) for line in figure.axes[1].lines[2:]}) == len(lines), styles
    said = words(figure)
    assert "d = 20" in said
    assert ("more than all 64 components" in said) != named
    png(figure)
