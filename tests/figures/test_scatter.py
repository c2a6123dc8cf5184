"""figures/scatter.py: numbers are read back from the drawn artists."""

import numpy as np
import pytest
from figure_cases import SETS, png, words

import figures


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
