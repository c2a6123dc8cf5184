"""The classes that the panel of one score shows."""

import numpy as np
import pandas as pd

from reporting import class_panel
from reporting.scored import ScoredRun, ScoredSet

THRESHOLDS = {"A": 0.5, "B": float("nan")}


def one_set(taken_for, scores, name="svhn"):
    table = {"A": np.array(scores, float), "B": np.zeros(len(scores))}
    return ScoredSet(name, table, taken_for, np.full(len(scores), -1), None, {})


def test_the_classes_that_most_images_are_taken_for():
    part = one_set(["cat", "dog", "cat", "007", "cat"], [1, 0, 0.5, np.nan, 0.4])
    found = class_panel.taken_in(part, ["A", "B"], THRESHOLDS, {"dog": "hound"})
    assert found == {
        "classes": ["cat", "007", "hound"],
        "images": [3, 1, 1],
        "further": 0,
        "accepted": {"A": [2, 0, 0]},  # at the threshold is accepted, undefined is not
    }


def test_further_classes_are_counted():
    part = one_set([f"{number:02}" for number in range(11)], [1] * 11)
    found = class_panel.taken_in(part, ["A"], THRESHOLDS, {})
    assert len(found["classes"]) == 8 and found["further"] == 3


def test_the_hardest_classes_of_each_method_and_set():
    table = pd.DataFrame(
        [
            ("svhn", "A", "one", 1000, 0.9, 0.88, 0.92, 0.4),
            ("svhn", "A", "two", 1, 0.2, np.nan, np.nan, 1.0),
            ("svhn", "gone", "two", 1, 0.2, np.nan, np.nan, 1.0),
        ],
        columns=[
            *("ood", "method", "ood_class", "images"),
            *("auroc", "auroc_low", "auroc_high", "fpr95"),
        ],
    )
    assert class_panel.hardest(table, ["A", "B"]) == {
        "A": {
            "svhn": [
                ["two", "1", "20.0", "one image", "100.0"],
                ["one", "1,000", "90.0", "88.0–92.0", "40.0"],
            ]
        }
    }


def test_sets_that_nobody_classified_are_left_out():
    parts = [one_set(None, [1]), one_set(["cat"], [1], "mnist")]
    run = ScoredRun(one_set(["cat"], [1], "cifar"), parts, THRESHOLDS)
    found = class_panel.class_panel(run, ["A"], None, {})
    assert list(found["taken"]) == ["mnist"] and found["hardest"] == {}
