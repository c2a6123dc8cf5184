"""The further tables of the page, by hand: calibration, selective classification, OSCR, classes,
thresholds with a guarantee."""

import numpy as np
import pandas as pd

from reporting import trust_tables
from reporting.words import EMPTY

NAMES = ["ood", "method", "measure", "at", "value", "low", "high", "temperature"]
NONE = np.nan
SUMMARY = {"mean_over_sets": [{"method": "ViM"}]}


def measures(*rows):
    return pd.DataFrame(rows, columns=NAMES)


def test_each_measure_at_each_temperature_in_its_unit():
    table = measures(
        ("", "", "accuracy", NONE, 0.7, 0.69, 0.71, NONE),
        ("", "", "ece", NONE, 0.1234, NONE, NONE, 1.0),
        ("", "", "ece", NONE, 0.02, NONE, NONE, 1.5),
        ("", "", "nll", NONE, 1.25, 1.2, 1.3, 1.0),
        ("", "MSP", "aurc", NONE, 0.1, NONE, NONE, NONE),
    )
    (found,) = trust_tables.calibration(table)
    assert found.columns == ["measure", "temperature 1", "temperature 1.5"]
    assert found.rows == [
        ["accuracy", "70.0 (69.0–71.0)", "70.0 (69.0–71.0)"],  # which no temperature changes
        ["ECE, 15 bins of equal width", "12.3", "2.0"],
        ["negative log-likelihood, nats", "1.25 (1.2–1.3)", EMPTY],
    ]
    assert trust_tables.calibration(table[table["method"] == "MSP"]) == []


def test_selective_classification_has_the_lowest_aurc_first():
    rows = [("", "MSP", "aurc", NONE, 0.2), ("", "KNN", "aurc", NONE, 0.1)]
    rows += [("", "late", "aurc", NONE, NONE), ("", "MSP", "risk", 0.9, 0.05)]
    rows += [("", "MSP", "risk", 0.5, 0.99), ("", "MSP", "failure_auroc", NONE, 0.8)]
    table = measures(*((*row, NONE, NONE, NONE) for row in rows))
    (found,) = trust_tables.selective(table)
    assert [row[0] for row in found.rows] == ["KNN", "MSP", "late"]
    assert found.rows[1][1:] == ["20.0", EMPTY, EMPTY, "5.0", EMPTY, "80.0"]


def test_oscr_by_its_mean_and_no_mean_where_a_set_is_missing():
    rows = [("a", "MSP", 0.5), ("b", "MSP", 0.7), ("a", "KNN", 0.8), ("b", "KNN", 0.6)]
    rows += [("a", "half", 0.99)]
    table = measures(
        *((ood, method, "oscr", NONE, value, NONE, NONE, NONE) for ood, method, value in rows)
    )
    (found,) = trust_tables.open_set(table)
    assert found.columns == ["method", "mean", "a", "b"]
    assert found.rows == [
        ["KNN", "70.0", "80.0", "60.0"],
        ["MSP", "60.0", "50.0", "70.0"],
        ["half", EMPTY, "99.0", EMPTY],
    ]


def by_id_class(names):
    """svhn: 6 images of the first class, 2 of the second; ID test images of both and of others."""
    rows = [("cifar", "svhn", names[0], 6, 0.75, 3.0), ("cifar", "svhn", names[1], 2, 0.25, 0.0)]
    rows += [("cifar", "cifar", name, 1, 1 / len(names), 1.0) for name in names]
    columns = ["dataset", "images_of", "predicted_class", "images", "share", "ViM_accepted"]
    return pd.DataFrame(rows, columns=columns)


def test_the_classes_that_take_in_most():
    table = by_id_class([f"c{number:02}" for number in range(3)])
    found = trust_tables.swallowing(table, "ViM")
    assert found.columns == ["class", "svhn", "cifar"]
    # 3 of svhn's 8 images pass as c00; the classes that take in none of them are not among the most
    assert found.rows == [
        ["c00", "75.0 (37.5)", "33.3 (33.3)"],
        ["c01", "25.0 (0.0)", "33.3 (33.3)"],
    ]
    assert found.caption.endswith("of those that ViM accepts; 1 more in ood_by_id_class.csv")
    plain = trust_tables.swallowing(table, "MSP")  # of which no verdicts stand there
    assert plain.rows[0] == ["c00", "75.0", "33.3"] and "accepts" not in plain.caption


def test_the_hardest_classes_of_the_best_method_alone():
    rows = [
        ("svhn", "ViM", "007", 1200, 0.6, 0.5, 0.7, 0.9),
        ("tin", "ViM", "<b>", 1, 0.5, *[NONE] * 3),
    ]
    rows += [("svhn", "MSP", "zero", 5, 0.1, 0.0, 0.2, 1.0)]
    named = ["ood", "method", "ood_class", "images", "auroc", "auroc_low", "auroc_high", "fpr95"]
    table = pd.DataFrame(rows, columns=named)
    (found,) = trust_tables.hardest_classes(table, "ViM")
    assert found.rows == [
        ["<b>", "tin", "1", "50.0", "one image", EMPTY],
        ["007", "svhn", "1,200", "60.0", "50.0–70.0", "90.0"],
    ]
    assert trust_tables.hardest_classes(table, "KNN") == []


def test_thresholds_with_a_guarantee():
    columns = ["method", "guarantee", "level", "ood", "rejected_id", "rejected_ood", "note"]
    columns += ["images_needed", "held_out_images"]
    rows = [
        ("ViM", "marginal", 0.05, "a", 0.04, 0.9, "", 19, 100),
        ("ViM", "marginal", 0.05, "b", 0.06, 0.5, "", 19, 100),
        ("ViM", "marginal", 0.001, "a", NONE, NONE, "too few", 1999, 100),
    ]
    table = pd.DataFrame(rows, columns=columns)
    (found,) = trust_tables.conformal(table, "ViM")
    assert found.rows == [
        ["marginal, 5.0%", "4.0–6.0", "90.0", "50.0"],
        ["marginal, 0.1%", "takes 1,999 held-out images, has 100", EMPTY, EMPTY],
    ]
    (other,) = trust_tables.conformal(table, "MSP")
    assert "Thresholds of ViM" in other.caption, "the first method where the best has none"


def test_nothing_without_files_and_msp_where_no_mean_is_defined():
    assert trust_tables.trust_tables({}, SUMMARY) == trust_tables.TrustTables()
    more = {"ood_by_id_class.csv": by_id_class(["a", "b"])}
    assert "ViM accepts" in trust_tables.trust_tables(more, SUMMARY).by_class[0].caption
    unknown = trust_tables.trust_tables(more, {"mean_over_sets": []}).by_class[0]
    assert "accepts" not in unknown.caption
