"""figures/series.py: numbers are read back from the drawn artists."""

import numpy as np
import pandas as pd
import pytest
from figure_cases import SETS, png, words
from matplotlib.colors import to_hex

import figures

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


def test_names_at_the_ends_of_lines_stay_apart_and_inside_the_panel():
    table = tidy([1, 2], sets=[f"s{index}" for index in range(9)])
    figure = figures.nc5_curves(table.assign(value=0.9))
    places = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert len(places) == 10 and places[-1] <= 1 + 1e-9 and min(np.diff(places)) > 0.07
