"""Figures show the numbers that they were given: bars, lines and cells are read back from the drawn
artists."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import figures
from figures import style

ROOT = Path(__file__).resolve().parents[2]
SETS = [
    "held_out",
    "photos",
    "uniform",
    "gaussian",
    "svhn10k",
    "textures10",
    "a $2 and $3 folder",
    "<b>mine</b>",
]


def png(figure):
    """Render; a figure that cannot be laid out or drawn fails here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return buffer.getvalue()


def words(figure):
    return " | ".join(
        text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
    )


def history(epochs, validation=True, fitted=None):
    epoch = np.arange(1, epochs + 1)
    train = np.linspace(0.1, 0.99, epochs)
    if fitted:
        train[epoch >= fitted] = 1.0
    val = 0.8 - (epoch - 0.7 * epochs) ** 2 / epochs**2 if validation else np.full(epochs, np.nan)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 5.0 / epoch**2,
            "train_acc": train,
            "val_acc": val,
            "val_loss": 2.0 / epoch if validation else np.nan,
            "lr": 0.1,
            "seconds": 1.0,
        }
    )


def metrics(methods, sets, seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        {
            "ood": name,
            "method": f"method{index}",
            "parameters": np.nan,
            "auroc": value,
            "auroc_low": value - 0.01,
            "auroc_high": value + 0.005,
        }
        for name in sets
        for index, value in enumerate(generator.uniform(0.3, 0.99, methods))
    ]
    return pd.DataFrame(rows)


def per_class(classes, seed=0):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "class_name": [f"class {index}" for index in range(classes)],
            "within_class_variance": generator.gamma(3, size=classes),
            "cosine_weight_mean": generator.uniform(-0.2, 1, classes),
        }
    )


# ---- training curves -----------------------------------------------------------------------------


def test_curves_mark_the_best_and_the_first_fitted_epoch():
    table = history(20, fitted=15)
    figure = figures.training_curves(table)
    accuracy, loss = figure.axes
    dot = next(
        line for line in accuracy.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1
    )
    best = table["val_acc"].idxmax()
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (
        table["epoch"][best],
        table["val_acc"][best],
    )
    for axes in (accuracy, loss):
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [15]
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), table["train_acc"])
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), table["val_loss"])
    assert f"{100 * table['val_acc'][best]:.2f}% at epoch {table['epoch'][best]}" in words(figure)
    assert loss.get_yscale() == "log"
    png(figure)


def test_curves_claim_nothing_that_did_not_happen():
    figure = figures.training_curves(history(5, validation=False))
    assert "best validation" not in words(figure) and "every training image" not in words(figure)
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    png(figure)


def test_curves_of_one_epoch_and_of_none_values():
    table = history(1)
    table["val_acc"] = [None]  # as train.py's history has it without validation images
    table["val_loss"] = [None]
    png(figures.training_curves(table))


# ---- scores --------------------------------------------------------------------------------------


def densities(axes):
    """The two outlines drawn in a panel as (counts, edges): ID first."""
    return [
        patch.get_data()[:2]
        for patch in axes.patches
        if hasattr(patch, "get_data") and not patch.get_fill()
    ]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_histograms_are_densities_with_threshold_and_auroc(count):
    generator = np.random.default_rng(0)
    inside = generator.normal(5, 1, 2000)
    outside = {name: generator.normal(2, 1, 1000) for name in SETS[:count]}
    figure = figures.score_histograms(
        inside, outside, "Energy", 3.25, dict.fromkeys(outside, 0.875)
    )
    assert len(figure.axes) == count
    for axes, (name, values) in zip(figure.axes, outside.items(), strict=True):
        assert [line.get_xdata()[0] for line in axes.lines] == [3.25]
        for (counts, edges), data in zip(densities(axes), (inside, values), strict=True):
            shown = np.mean((data >= edges[0]) & (data <= edges[-1]))
            assert (counts * np.diff(edges)).sum() == pytest.approx(shown)
            assert shown > 0.97
        assert "87.5%" in axes.get_title(loc="left")
        assert axes.get_title(loc="left").startswith(name.replace("$", r"\$"))
    png(figure)


def test_one_far_set_does_not_flatten_the_others_and_is_said_to_be_beyond():
    generator = np.random.default_rng(0)
    outside = {"near": generator.normal(-3, 1, 500), "far": generator.normal(-1e5, 1, 500)}
    figure = figures.score_histograms(generator.normal(0, 1, 500), outside, "Mahalanobis")
    low, high = figure.axes[0].get_xlim()
    assert -12 < low < -4 and 2 < high < 6
    assert figure.axes[1].get_title(loc="right") == "100% of OOD further left"
    assert figure.axes[0].get_title(loc="right") == ""
    assert "AUROC" not in words(figure) and "threshold" not in words(figure)


def test_a_heavy_tail_is_cut_at_percentiles_and_counted():
    generator = np.random.default_rng(0)
    outside = np.concatenate([generator.normal(-1, 1, 900), np.linspace(-1e6, -1e5, 100)])
    figure = figures.score_histograms(generator.normal(1, 1, 1000), {"x": outside}, "ViM")
    assert figure.axes[0].get_title(loc="right").startswith("10% of OOD further left")
    low, high = figure.axes[0].get_xlim()
    (inside, edges), _ = densities(figure.axes[0])
    assert (inside > 0).sum() > 20, "ID still spans many bins"
    assert low > -1e5 and high < 10 and len(edges) == 81


@pytest.mark.parametrize(
    "inside, outside",
    [([1.0, 1.0], {"x": [1.0]}), ([np.nan, np.inf, 2.0], {"x": [np.nan]}), ([0.0], {})],
)
def test_histograms_of_constant_missing_and_no_scores(inside, outside):
    figure = figures.score_histograms(inside, outside, "MSP", 0.5)
    if outside.get("x") and np.isnan(outside["x"][0]):
        assert "no finite OOD score" in words(figure)
    png(figure)


# ---- AUROC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods, sets", [(1, 1), (6, 3), (25, 8)])
def test_bars_end_at_the_auroc_and_whiskers_at_the_interval(methods, sets):
    table = metrics(methods, SETS[:sets])
    figure = figures.auroc_bars(table)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == sets
    order = table.groupby("method")["auroc"].mean().sort_values().index
    for axes, name in zip(panels, SETS[:sets], strict=True):
        rows = table[table["ood"] == name].set_index("method").loc[order]
        bars = axes.patches
        np.testing.assert_allclose([0.5 + bar.get_width() for bar in bars], rows["auroc"])
        assert {bar.get_x() for bar in bars} == {0.5}
        segments = np.array([segment[:, 0] for segment in axes.collections[0].get_segments()])
        np.testing.assert_allclose(segments, rows[["auroc_low", "auroc_high"]])
        low, high = axes.get_xlim()
        assert low < rows["auroc_low"].min() and high > 1
        darkest = max(bars, key=lambda bar: bar.get_alpha())
        assert rows.index[round(darkest.get_y() + 0.34)] == rows["auroc"].idxmax()
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(order)
    png(figure)


def test_undefined_and_missing_cells_have_words_and_no_bar():
    table = metrics(3, SETS[:2])
    table.loc[table["method"] == "method1", ["auroc", "auroc_low", "auroc_high"]] = np.nan
    table = table.drop(index=table.index[-1])  # method2 on the second set was not scored
    figure = figures.auroc_bars(table)
    bars = [len(axes.patches) for axes in figure.axes]
    assert bars == [2, 1]
    assert words(figure).count("undefined") == 2 and words(figure).count("not scored") == 1
    png(figure)


def test_the_auroc_of_a_single_image_has_no_interval_and_is_not_drawn():
    table = metrics(2, SETS[:2])
    table.loc[table["ood"] == SETS[0], ["auroc_low", "auroc_high"]] = np.nan
    table.loc[table["ood"] == SETS[0], "auroc"] = 0.1234
    figure = figures.auroc_bars(table)
    assert [len(axes.patches) for axes in figure.axes] == [0, 2] and words(figure).count(
        "no interval"
    ) == 2
    assert "12.3" not in words(figure)
    drawn = figures.score_histograms(
        np.arange(9.0), {"one": [3.0], "two": [1.0, 2.0]}, "MSP", None, {"one": 0.4, "two": 0.9}
    )
    assert "AUROC 90.0%" in words(drawn) and "40.0" not in words(drawn)
    png(figure)


def test_rows_of_one_method_are_told_apart_by_parameters():
    table = pd.concat([metrics(2, SETS[:1]), metrics(1, SETS[:1], seed=1)], ignore_index=True)
    table["parameters"] = ['{"dim":10}', None, '{"dim":20}']
    assert list(figures.method_labels(table)) == [
        'method0 {"dim":10}',
        "method1",
        'method0 {"dim":20}',
    ]
    png(figures.auroc_bars(table))


# ---- collapse ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "count, shape", [(0, (1, 1)), (1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (8, (2, 4)), (9, (3, 3))]
)
def test_no_row_of_panels_is_left_with_one_where_two_rows_could_share(count, shape):
    assert style.grid_shape(count) == shape


# ---- components ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_components_draw_every_set_over_the_same_id_points(count):
    generator = np.random.default_rng(0)
    inside, labels = generator.normal(size=(300, 2)), generator.integers(0, 4, 300)
    outside = {name: generator.normal(1, 1, (100, 2)) for name in SETS[:count]}
    figure = figures.principal_components(inside, outside, (0.5, 0.25), labels)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == max(count, 1)
    for axes, points in zip(panels, outside.values(), strict=False):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), inside)
        np.testing.assert_allclose(axes.collections[1].get_offsets(), points)
    assert {text.get_text() for text in panels[0].texts} >= set("0123")
    assert "50.0%" in words(figure) and "25.0%" in words(figure)
    png(figure)


def test_components_thin_out_skip_the_missing_and_count_what_lies_beyond():
    generator = np.random.default_rng(0)
    inside = generator.normal(size=(50_000, 2))
    inside[0] = np.nan
    figure = figures.principal_components(
        inside,
        {"near": inside[:100] + 1, "far": inside[:100] + 1e4},
        id_labels=np.arange(50_000) % 100,
    )
    assert len(figure.axes[0].collections[0].get_offsets()) == 2000
    assert [text.get_text() for text in figure.axes[1].texts] == ["100% beyond"], (
        "and no labels of 100 classes"
    )
    assert np.abs(figure.axes[1].get_xlim()).max() < 20
    png(figure)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_three_components_are_drawn_as_every_pair_of_them(count):
    generator = np.random.default_rng(0)
    inside, labels = generator.normal(size=(300, 3)) * [3, 2, 1], generator.integers(0, 4, 300)
    outside = {name: generator.normal(1, 1, (100, 3)) for name in SETS[:count]}
    outside |= {"far": inside[:50] + np.array([0, 0, 1e4])} if count else {}
    figure = figures.three_components(inside, outside, (0.5, 0.25, 0.125), labels)
    rows = np.reshape(figure.axes, (-1, 3))
    assert len(rows) == max(len(outside), 1)
    sides = set()
    for panels, points in zip(rows, outside.values(), strict=False):
        for axes, pair in zip(panels, ([0, 1], [0, 2], [1, 2]), strict=True):
            np.testing.assert_allclose(axes.collections[0].get_offsets(), inside[:, pair])
            np.testing.assert_allclose(axes.collections[1].get_offsets(), points[:, pair])
            assert axes.get_ylabel().startswith(f"component {pair[1] + 1} (")
            assert {text.get_text() for text in axes.texts} >= set("0123")
            sides |= {
                round(float(np.ptp(limits)), 9) for limits in (axes.get_xlim(), axes.get_ylim())
            }
    assert len(sides) <= 1, "one unit is as long in every panel"
    assert [axes.get_xlabel() for axes in rows[-1]] == [
        "component 1 (50.0%)",
        "component 1 (50.0%)",
        "component 2 (25.0%)",
    ]
    if count:  # the last set lies far along the third component alone
        assert ["100% beyond" in {text.get_text() for text in axes.texts} for axes in rows[-1]] == [
            False,
            True,
            True,
        ]
    png(figure)


# ---- decisions, angles, spectra ------------------------------------------------------------------


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
    assert "no mismatch" in words(figures.mismatch_map([0, 1], [0, 1], ["a", "b"]))
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


@pytest.mark.parametrize("classes, width", [(4, 16), (30, 8)])
def test_gram_matrices_hold_the_cosines_and_the_shares_of_the_eigenvalues(classes, width):
    generator = np.random.default_rng(0)
    means, weights = generator.normal(size=(2, classes, width))
    weights[1] = 0
    figure = figures.gram_matrices(means, weights, [f"c{index}" for index in range(classes)])
    centred = means - means.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), unit @ unit.T, atol=1e-12)
    assert np.isnan(np.ma.filled(figure.axes[1].images[0].get_array(), np.nan)[1]).all(), (
        "a zero row has no angle"
    )
    eigenvalues = np.sort(np.linalg.eigvalsh(centred @ centred.T))[::-1][: min(classes, width)]
    np.testing.assert_allclose(
        figure.axes[2].lines[0].get_ydata(), eigenvalues / eigenvalues.sum(), atol=1e-12
    )
    assert figure.axes[2].lines[2].get_ydata()[0] == pytest.approx(1 / min(classes - 1, width))
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


# ---- ID beside OOD, image by image ---------------------------------------------------------------


def test_centre_distances_are_densities_of_each_set():
    generator = np.random.default_rng(0)
    inside, outside = (
        generator.gamma(4, size=1000),
        {name: generator.gamma(9, size=500) for name in SETS[:3]},
    )
    figure = figures.centre_distances(inside, outside)
    for axes, values in zip(figure.axes, outside.values(), strict=True):
        for (counts, edges), data in zip(densities(axes), (inside, values), strict=True):
            assert (counts * np.diff(edges)).sum() == pytest.approx(
                np.mean((data >= edges[0]) & (data <= edges[-1]))
            )
        assert not axes.lines, "a distance has no threshold"
    png(figure)
    alone = figures.centre_distances(inside, {})
    assert densities(alone.axes[0])[0][0].sum() > 0, "without OOD sets ID is drawn all the same"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_shares_stand_against_logits_without_those_that_have_none(count):
    generator = np.random.default_rng(0)

    def pair(size):
        return generator.uniform(0.5, 1, size), generator.normal(8, 2, size)

    inside, outside = pair(300), {name: pair(50) for name in SETS[:count]}
    inside[0][7] = np.nan
    figure = figures.neco_shares(inside, outside)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == max(count, 1)
    np.testing.assert_allclose(
        panels[0].collections[0].get_offsets(), np.delete(np.column_stack(inside), 7, axis=0)
    )
    for axes, points in zip(panels, outside.values(), strict=False):
        np.testing.assert_allclose(axes.collections[1].get_offsets(), np.column_stack(points))
    png(figure)


def test_an_embedding_has_points_and_no_scale():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=(40, 2)), {"svhn": generator.normal(size=(30, 2))}
    figure = figures.embedding(inside, outside, ["cat"] * 20 + ["dog"] * 20)
    np.testing.assert_allclose(figure.axes[0].collections[1].get_offsets(), outside["svhn"])
    assert {"cat", "dog"} <= {text.get_text() for text in figure.axes[0].texts} and not len(
        figure.axes[0].get_xticks()
    )
    assert "t-SNE" in words(figure)
    png(figure)


# ---- over checkpoints and layers -----------------------------------------------------------------

GRAM = ("nc2_means_gram_distance", "train")
LABELS = {
    ("nc1", "train"): "NC1",
    ("nc4_mismatch", "test"): "NC4",
    GRAM: "NC2",
    ("nc5", "test"): "NC5",
}


def tidy(steps, along="epoch", fitted=None, sets=("svhn", "$2")):
    """A value a metric and step that tells which it is; rows in no order; NC2 undefined."""
    rows = []
    for number, step in enumerate(steps):
        values = {
            ("nc1", "train"): 10.0**-number,
            ("nc4_mismatch", "test"): 0.1 * number,
            GRAM: np.nan,
            ("nc4_head_accuracy", "train"): 1.0 if fitted is not None and step >= fitted else 0.9,
        }
        values |= {
            (metric, split): 0.01 * number + 0.1 * place + 0.5 * (metric == "nc5")
            for metric in ("nc5", "nc5_centred")
            for place, split in enumerate(["test", *(f"ood:{name}" for name in sets)])
        }
        rows += [
            {along: step, "metric": metric, "split": split, "value": value}
            for (metric, split), value in values.items()
        ]
    table = pd.DataFrame(rows)
    return (
        table.assign(layer="stage" + table[along].astype(str)) if along == "depth" else table
    ).sample(frac=1, random_state=0)


def test_collapse_curves_go_by_epoch_and_mark_the_first_fitted():
    figure = figures.collapse_curves(tidy([2, 5, 9, 30], fitted=9), LABELS)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 4
    np.testing.assert_array_equal(
        panels[0].lines[0].get_xydata(), [[2, 1], [5, 0.1], [9, 0.01], [30, 0.001]]
    )
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [0, 0.1, 0.2, 0.3])
    assert [axes.get_yscale() for axes in panels] == ["log", "linear", "linear", "linear"]
    assert all(axes.lines[1].get_xdata()[0] == 9 for axes in panels)
    assert "first checkpoint with every training image right: epoch 9" in words(figure)
    assert words(figure).count("undefined") == 1
    png(figure)


def test_a_logarithmic_axis_of_few_decades_names_more_than_one_number():
    table = tidy([1, 2, 3])
    table.loc[table["metric"] == "nc1", "value"] = [7.0, 3.0, 0.3]
    figure = figures.collapse_curves(table, LABELS)
    png(figure)
    axis, (low, high) = figure.axes[0].yaxis, figure.axes[0].get_ylim()
    named = [
        label.get_text()
        for minor in (False, True)
        for label, at in zip(
            axis.get_ticklabels(minor=minor), axis.get_ticklocs(minor=minor), strict=True
        )
        if low <= at <= high
    ]
    assert figure.axes[0].get_yscale() == "log" and {"0.5", "1", "2", "5"} <= set(named)


def test_an_undefined_metric_has_no_scale():
    table = tidy([1, 2, 3])
    table.loc[table["metric"] == "nc1", "value"] = np.nan
    figure = figures.collapse_curves(table, LABELS)
    assert len(figure.axes[0].get_yticks()) == 0 and "undefined" in words(figure)


def test_collapse_curves_claim_no_fit_that_did_not_happen_and_name_layers():
    assert "first checkpoint" not in words(figures.collapse_curves(tidy([1, 2]), LABELS))
    figure = figures.collapse_curves(tidy([0, 1, 2, 3, 4], "depth", fitted=0), LABELS, "depth")
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == [
        f"stage{depth}" for depth in range(5)
    ]
    assert "first checkpoint" not in words(figure) and all(
        len(axes.lines) == 1 for axes in figure.axes[:4]
    )
    png(figure)


@pytest.mark.parametrize("along", ["epoch", "depth"])
def test_nc5_of_every_set_beside_the_null(along):
    figure = figures.nc5_curves(
        tidy([1, 2, 6], along, fitted=6 if along == "epoch" else None), along
    )
    for axes, base in zip(figure.axes, (0.5, 0), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
        for place, line in enumerate(lines):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 6])
            np.testing.assert_allclose(
                line.get_ydata(), base + 0.1 * place + np.array([0, 0.01, 0.02]), atol=1e-12
            )
        assert [to_hex(line.get_color()).upper() for line in lines] == [
            figures.ID_COLOUR,
            *figures.OOD_COLOURS[:2],
        ]
        assert {text.get_text() for text in axes.texts} == {"ID test", "svhn", r"\$2"}
        assert len(axes.lines) == 3 + (along == "epoch")
    png(figure)


def test_names_at_the_ends_of_lines_stay_apart_and_inside_the_panel():
    table = tidy([1, 2], sets=[f"s{index}" for index in range(9)])
    figure = figures.nc5_curves(table.assign(value=0.9))
    places = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert len(places) == 10 and places[-1] <= 1 + 1e-9 and min(np.diff(places)) > 0.07


def test_layer_epoch_maps_hold_a_row_a_layer_and_a_column_an_epoch():
    table = tidy([0, 1, 2], "depth")
    table = pd.concat(
        [table.assign(epoch=epoch, value=table["value"] * epoch) for epoch in (50, 7)]
    )
    figure = figures.layer_epoch_maps(table, {key: LABELS[key] for key in list(LABELS)[:2]})
    first = figure.axes[0]
    np.testing.assert_allclose(first.images[0].get_array(), np.outer([1, 0.1, 0.01], [7, 50]))
    assert [label.get_text() for label in first.get_yticklabels()] == ["stage0", "stage1", "stage2"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["7", "50"] and first.images[
        0
    ].origin == "lower"
    png(figure)


def test_correlation_maps_hold_spearman_by_set_and_each_sets_own_nc5():
    labels = {("nc1", "train"): "NC1", ("nc5", "ood"): "NC5 of this set"}
    rows = [
        {
            "metric": metric,
            "split": split,
            "ood": name,
            "method": method,
            "pearson": 0,
            "n": 5,
            "spearman": 0.1 * number + 0.01 * (metric == "nc5") - 0.5 * (method == "ViM"),
        }
        for number, name in enumerate(SETS[:2])
        for method in ("MSP", "ViM")
        for metric, split in (("nc1", "train"), ("nc5", f"ood:{name}"), ("nc5", "test"))
    ]
    table = pd.DataFrame(rows)
    table.loc[0, "spearman"] = np.nan
    figure = figures.correlation_maps(table, labels)
    for number, axes in enumerate(figure.axes[:2]):
        expected = 0.1 * number + np.array([[0, -0.5], [0.01, -0.49]])
        expected[0, 0] = expected[0, 0] if number else np.nan
        np.testing.assert_allclose(
            np.ma.filled(axes.images[0].get_array().astype(float), np.nan), expected, atol=1e-12
        )
        assert axes.images[0].get_clim() == (-1, 1)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == [
        "MSP",
        "ViM",
    ] and "5 checkpoints" in words(figure)
    png(figure)


# ---- the module ----------------------------------------------------------------------------------


def test_colours_are_distinct_and_go_by_position():
    assert len({figures.ID_COLOUR, *figures.OOD_COLOURS}) == 9
    assert figures.ood_colour(0) == figures.ood_colour(8) != figures.ood_colour(1)


def test_figures_drawn_in_threads_are_those_drawn_alone():
    tables = [metrics(4, SETS[:2], seed) for seed in range(4)]
    alone = [png(figures.auroc_bars(table)) for table in tables]
    drawn = {}

    def draw(index):
        drawn[index] = png(figures.auroc_bars(tables[index]))

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[index] for index in range(4)] == alone


def test_neither_pyplot_nor_any_module_of_ours_is_imported():
    code = (
        "import sys, figures; ours = {'utils', 'cli', 'scores', 'metrics', 'collapse', 'data',"
        " 'networks', 'torch'}; print(sorted((ours | {'matplotlib.pyplot'}) & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
