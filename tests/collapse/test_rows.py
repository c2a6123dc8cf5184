"""Every collapse metric that is written has a row, and every row is of a metric that is written."""

import numpy as np
import pytest

from collapse import metrics, rows, table
from moments import Accumulator


@pytest.fixture(scope="module")
def written():
    """What nc_metrics.csv holds of a small case in which every metric is defined."""
    generator = np.random.default_rng(0)
    W = generator.normal(size=(3, 4))
    b = np.zeros(3)
    features = generator.normal(size=(30, 4))
    labels = np.arange(30) % 3
    moments = Accumulator(3, 4).update(features, labels).finish()
    decided = metrics.nc4(features, labels, W, b, moments.means).agreement
    aligned = metrics.nc5(moments, features)
    return table.whole(
        table.nc1_to_nc3(moments, W, b),
        {"train": decided, "test": decided},
        {"test": aligned, "ood:far": aligned},
    )


def test_the_rows_are_the_metrics_that_are_written(written):
    assert {line.metric for line in written} == set(rows.ROWS)
    assert len(rows.ROWS) == len(rows.ALL), "a key stands in one row alone"


def test_centring_and_source_in_the_table_are_those_of_the_row(written):
    for line in written:
        known = rows.ROWS[line.metric]
        assert (line.centring, line.source) == (known.centring, known.source)


def test_a_row_says_what_its_metric_means():
    assert all(row.meaning and row.source for row in rows.ALL)
    assert {row.centring for row in rows.ALL} == {"mu_G", "none"}


def test_what_is_printed_and_drawn_is_written(written):
    splits = {(line.metric, line.split) for line in written}
    assert set(rows.printed()) <= splits and set(rows.PRINTED) <= splits
    assert set(rows.curves()) == set(rows.printed()) and set(rows.layers()) <= splits
    assert set(rows.beside_methods()) - splits == {("nc5", "ood"), ("nc5_centred", "ood")}


def test_labels_begin_with_their_metric():
    for (key, _), label in {**rows.beside_methods(), **rows.layers(), **rows.printed()}.items():
        assert label.startswith(key[:3].upper() + "  "), label


def test_weights_are_not_centred_and_say_whose_they_are():
    for row in rows.ALL:
        if row.key.startswith("nc2_weights_"):
            twin = rows.ROWS[row.key.replace("weights", "means")]
            assert (row.centring, twin.centring) == ("none", "mu_G")
            assert row.meaning == f"classifier's weight rows: {twin.meaning}"
            assert (row.target, row.source) == (twin.target, twin.source)


@pytest.mark.parametrize(
    ("key", "classes", "target"),
    [
        ("nc2_means_cosine_mean", 100, "-1/(C-1) = -0.0101"),
        ("nc2_means_cosine_mean", None, "-1/(C-1)"),
        ("nc2_means_cosine_mean", 1, "-1/(C-1)"),
        ("nc3_cosine_mean", 100, "1"),
    ],
)
def test_a_target_is_worked_out_where_the_number_of_classes_is_known(key, classes, target):
    assert rows.ROWS[key].target_for(classes) == target
