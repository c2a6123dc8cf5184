"""figures/grid.py: numbers are read back from the drawn artists."""

import numpy as np
import pandas as pd
from figure_cases import png, words

import figures

TABLE = pd.DataFrame(
    {
        "temperature": [1.0, 1.0, 100.0],
        "odin_epsilon": [0.0, 0.002, 0.002],
        "auroc": [0.9064, 0.9118, 0.9504],
    }
)


def test_each_pair_is_a_cell_in_percent_and_one_that_was_not_extracted_is_empty():
    figure = figures.grid_map(TABLE, "uniform", (100.0, 0.002))
    (image,) = figure.axes[0].images
    values = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(values, [[90.64, 91.18], [np.nan, 95.04]])
    assert {"90.64", "91.18", "95.04"} <= {text.get_text() for text in figure.axes[0].texts}
    assert "chosen on uniform" in words(figure)
    png(figure)


def test_the_chosen_pair_is_framed():
    (line,) = figures.grid_map(TABLE, "uniform", (100.0, 0.002)).axes[0].lines
    assert (line.get_xdata().min(), line.get_xdata().max()) == (0.5, 1.5)
    assert (line.get_ydata().min(), line.get_ydata().max()) == (0.5, 1.5)


def test_densities_stand_by_temperature_and_epsilon():
    generator = np.random.default_rng(0)
    scores = {
        place: (generator.normal(size=50), generator.normal(size=50) - 1)
        for place in [(1.0, 0.0), (1.0, 0.002), (100.0, 0.002)]
    }
    figure = figures.grid_scores(scores, "uniform", (1.0, 0.002))
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["T 1, epsilon 0", "T 1, epsilon 0.002", "", "T 100, epsilon 0.002"]
    assert figure.axes[2].texts[0].get_text() == "not extracted"
    bold = [axes.title.get_text() or axes._left_title.get_fontweight() for axes in figure.axes]
    assert bold.index("bold") == 1
    png(figure)
