"""figures/scores.py: numbers are read back from the drawn artists."""

import numpy as np
import pandas as pd
import pytest
from figure_cases import SETS, metrics, png, words

import figures


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
    (inside, _), _ = densities(figure.axes[0])
    assert (inside > 0).sum() > 15, "ID still spans many bins"
    assert low > -1e5 and high < 10


@pytest.mark.parametrize("images, bins", [(1, 12), (44, 13), (456, 42), (1600, 80), (10000, 80)])
def test_a_few_images_have_few_bins_and_each_its_own_tick(images, bins):
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=2000), generator.normal(size=images)
    axes = figures.score_histograms(inside, {"x": outside}, "MSP").axes[0]
    for _, edges in densities(axes):
        assert len(edges) == bins + 1
    ticks = [line for line in axes.lines if line.get_marker() == "|"]
    if images > 100:
        assert not ticks
    else:
        np.testing.assert_array_equal(ticks[0].get_xdata(), outside)


@pytest.mark.parametrize(
    "inside, outside",
    [([1.0, 1.0], {"x": [1.0]}), ([np.nan, np.inf, 2.0], {"x": [np.nan]}), ([0.0], {})],
)
def test_histograms_of_constant_missing_and_no_scores(inside, outside):
    figure = figures.score_histograms(inside, outside, "MSP", 0.5)
    if outside.get("x") and np.isnan(outside["x"][0]):
        assert "no finite OOD score" in words(figure)
    png(figure)


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
        darkest = max(bars, key=lambda bar: bar.get_facecolor()[3])
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


def test_the_curve_over_components_shows_every_set_and_the_number_of_the_table():
    areas = {"near": [0.5, 0.75, 0.7], "far": [0.9, 0.95, 1.0]}
    figure = figures.neco_dimensions([1, 10, 99], areas, 10, "NECO-ViT")
    *lines, chosen = figure.axes[0].lines
    for line, values in zip(lines, areas.values(), strict=True):
        assert list(line.get_xdata()) == [1, 10, 99]
        assert list(line.get_ydata()) == values
    assert chosen.get_xdata()[0] == 10
    said = words(figure)
    assert "NECO-ViT over its number of components, seen with OOD data" in said
    assert "near" in said and "far" in said
    assert "chooses nothing" in figure.caption
    png(figure)
