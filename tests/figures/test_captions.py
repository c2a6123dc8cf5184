"""Every figure holds its own caption, and carries it in its PNG."""

import inspect

import numpy as np
import pandas as pd
import pytest

import figures
import utils
from figures import style

DRAWN = {
    name: function
    for name, function in inspect.getmembers(figures, inspect.isfunction)
    if name not in ("method_labels", "ood_colour", "percent")
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_a_caption_that_is_a_sentence(name):
    for caption in DRAWN[name].captions:
        assert len(caption) > 30 and caption[0].isupper() and caption.endswith(".")


def test_a_png_carries_the_caption_of_its_function(tmp_path):
    per_class = pd.DataFrame({"class_name": ["a", "b"], "within_class_variance": [1.0, 2.0]})
    figure = figures.within_class_variance(per_class)
    assert (figure.caption,) == figures.within_class_variance.captions
    utils.write_figure(tmp_path / "x.png", figure)
    assert style.read_caption((tmp_path / "x.png").read_bytes()) == figure.caption


def test_a_png_carries_its_title(tmp_path):
    per_class = pd.DataFrame({"class_name": ["a", "b"], "within_class_variance": [1.0, 2.0]})
    figure = figures.within_class_variance(per_class)
    utils.write_figure(tmp_path / "x.png", figure)
    with style.Image.open(tmp_path / "x.png") as image:
        assert image.info["Title"] == "NC1: variance within each class"


def test_a_curve_says_along_what_it_runs():
    table = pd.DataFrame(
        {
            "metric": ["nc1"] * 2,
            "split": ["train"] * 2,
            "value": [2.0, 1.0],
            "epoch": [1, 2],
            "step": [90, 180],
            "depth": [1, 2],
            "layer": ["one", "two"],
        }
    )
    labels = {("nc1", "train"): "NC1"}
    over_epochs, over_steps, over_depth = figures.collapse_curves.captions
    assert figures.collapse_curves(table, labels, "step").caption == over_steps
    assert figures.collapse_curves(table, labels).caption == over_epochs
    assert figures.collapse_curves(table, labels, "depth").caption == over_depth
    assert figures.collapse_curves(table, labels, along="depth").caption == over_depth


@pytest.mark.parametrize("content", [b"", b"a figure", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_has_no_caption(content):
    assert style.read_caption(content) == ""


def test_a_figure_without_caption_is_written_all_the_same(tmp_path):
    figure, _ = style.canvas(1, 1, 1.0, "a title")
    utils.write_figure(tmp_path / "x.png", figure)
    assert style.read_caption((tmp_path / "x.png").read_bytes()) == ""
    assert np.asarray(style.Image.open(tmp_path / "x.png")).ndim == 3
