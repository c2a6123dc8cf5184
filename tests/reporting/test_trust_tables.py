"""What the page says of id_metrics.csv, ood_by_id_class.csv, ood_by_ood_class.csv and
conformal.csv, cell by cell."""

import numpy as np
import pandas as pd
import pytest

from reporting import trust_tables

NOTHING = np.nan
SUMMARY = {"mean_over_sets": [{"method": "KNN"}, {"method": "MSP"}]}


def id_metrics(*rows):
    """Rows of (ood, method, measure, at, value, low, high, temperature)."""
    columns = ["ood", "method", "measure", "at", "value", "low", "high", "temperature"]
    return pd.DataFrame(rows, columns=columns)


def softmax(measure, value, temperature, low=NOTHING, high=NOTHING):
    return ("", "", measure, NOTHING, value, low, high, temperature)


def kept(method, measure, value, at=NOTHING):
    return ("", method, measure, at, value, NOTHING, NOTHING, NOTHING)


def oscr(method, ood, value):
    return (ood, method, "oscr", NOTHING, value, NOTHING, NOTHING, NOTHING)


# ---- calibration, selective classification, OSCR -------------------------------------------------


def test_shares_are_in_percent_with_intervals_and_other_measures_are_as_they_stand():
    table = id_metrics(
        softmax("accuracy", 0.7125, NOTHING, 0.70, 0.725),
        softmax("ece", 0.0512, 1.0, 0.045, 0.06),
        softmax("ece", 0.0123, 1.5),
        softmax("nll", 1.23456, 1.0),
        softmax("nll", 1.1, 1.5, 1.05, 1.15),
    )
    (shown,) = trust_tables.calibration(table)
    assert shown.columns == ["measure", "temperature 1", "temperature 1.5"]
    assert shown.rows == [
        ["accuracy", "71.2 (70.0–72.5)", "71.2 (70.0–72.5)"],  # one for both temperatures
        ["ECE, 15 bins of equal width", "5.1 (4.5–6.0)", "1.2"],
        ["negative log-likelihood, nats", "1.235", "1.1 (1.05–1.15)"],
    ]


def test_a_measure_that_is_missing_at_one_temperature_has_an_empty_cell():
    table = id_metrics(softmax("ece", 0.1, 1.0), softmax("nll", 1.0, 1.0), softmax("nll", 0.9, 2.0))
    (shown,) = trust_tables.calibration(table)
    assert shown.rows[0] == ["ECE, 15 bins of equal width", "10.0", "–"]


def test_scores_stand_by_their_area_under_risk_and_coverage_the_least_first():
    table = id_metrics(
        kept("MSP", "aurc", 0.10),
        kept("MSP", "risk", 0.15, at=0.8),
        kept("MSP", "risk", 0.25, at=0.95),
        kept("KNN", "aurc", 0.08),
        kept("KNN", "failure_auroc", 0.875),
        kept("Energy", "e_aurc", 0.02),
    )
    (shown,) = trust_tables.selective(table)
    assert shown.columns[1:4] == ["AURC", "excess AURC", "errors at 80% kept"]
    assert shown.rows == [
        ["KNN", "8.0", "–", "–", "–", "–", "87.5"],
        ["MSP", "10.0", "–", "15.0", "–", "25.0", "–"],
        ["Energy", "–", "2.0", "–", "–", "–", "–"],  # without an AURC it stands last
    ]


def test_oscr_has_no_mean_where_a_set_is_missing_and_the_highest_mean_is_first():
    table = id_metrics(
        oscr("MSP", "svhn", 0.6),
        oscr("MSP", "tin", 0.5),
        oscr("KNN", "svhn", 0.9),
        oscr("Energy", "svhn", 0.7),
        oscr("Energy", "tin", 0.6),
    )
    (shown,) = trust_tables.open_set(table)
    assert shown.columns == ["method", "mean", "svhn", "tin"]
    assert shown.rows == [
        ["Energy", "65.0", "70.0", "60.0"],
        ["MSP", "55.0", "60.0", "50.0"],
        ["KNN", "–", "90.0", "–"],
    ]


@pytest.mark.parametrize("part", [trust_tables.calibration, trust_tables.selective])
def test_without_rows_of_its_own_a_part_has_no_table(part):
    assert part(id_metrics(oscr("MSP", "svhn", 0.6))) == []
    assert trust_tables.open_set(id_metrics(softmax("ece", 0.1, 1.0))) == []


# ---- by class ------------------------------------------------------------------------------------


def by_id(with_verdicts=True):
    """Of 8 images of svhn, 6 are taken for cats and 2 for dogs; of 4 ID images 1 and 3."""
    rows = [
        ("pets", "pets", "cat", 1, 0.25, 1),
        ("pets", "pets", "dog", 3, 0.75, 3),
        ("pets", "svhn", "cat", 6, 0.75, 2),
        ("pets", "svhn", "dog", 2, 0.25, 0),
    ]
    columns = ["dataset", "images_of", "predicted_class", "images", "share", "KNN_accepted"]
    table = pd.DataFrame(rows, columns=columns)
    return table if with_verdicts else table.drop(columns="KNN_accepted")


def test_what_is_taken_for_a_class_and_accepted_is_in_percent_of_the_set():
    shown = trust_tables.swallowing(by_id(), "KNN")
    assert shown.columns == ["class", "pets", "svhn"]
    assert shown.rows == [
        ["cat", "25.0 (25.0)", "75.0 (25.0)"],  # 2 of the 8 images of svhn
        ["dog", "75.0 (75.0)", "25.0 (0.0)"],
    ]
    assert "that KNN accepts" in shown.caption


def test_without_verdicts_of_the_best_method_there_are_no_brackets():
    shown = trust_tables.swallowing(by_id(with_verdicts=False), "KNN")
    assert shown.rows == [["cat", "25.0", "75.0"], ["dog", "75.0", "25.0"]]
    assert "accepts" not in shown.caption


def test_classes_stand_by_how_many_ood_images_they_take_in_and_the_rest_is_counted():
    count = trust_tables.ROWS + 2
    rows = [("many", "svhn", f"class {place}", place, place / 100) for place in range(count)]
    columns = ["dataset", "images_of", "predicted_class", "images", "share"]
    shown = trust_tables.swallowing(pd.DataFrame(rows, columns=columns), "KNN")
    assert [row[0] for row in shown.rows[:2]] == [f"class {count - 1}", f"class {count - 2}"]
    assert len(shown.rows) == trust_tables.ROWS and "; 2 more in ood_by_id" in shown.caption


def by_ood(*rows):
    columns = ["ood", "method", "ood_class", "images", "auroc", "auroc_low", "auroc_high", "fpr95"]
    return pd.DataFrame(rows, columns=columns)


def test_the_hardest_classes_of_the_best_method_come_first():
    table = by_ood(
        ("tin", "KNN", "easy", 1200, 0.95, 0.94, 0.96, 0.2),
        ("tin", "MSP", "another method", 10, 0.1, 0.05, 0.2, 0.9),
        ("svhn", "KNN", 7, 1, 0.5, NOTHING, NOTHING, 1.0),
    )
    (shown,) = trust_tables.hardest_classes(table, "KNN")
    assert shown.rows == [
        ["7", "svhn", "1", "50.0", "one image", "100.0"],
        ["easy", "tin", "1,200", "95.0", "94.0–96.0", "20.0"],
    ]
    assert trust_tables.hardest_classes(table, "ViM") == []


# ---- thresholds with a guarantee -----------------------------------------------------------------


def promised(*rows):
    columns = [
        "method",
        "guarantee",
        "level",
        "ood",
        "rejected_id",
        "rejected_ood",
        "note",
        "images_needed",
        "held_out_images",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_a_guarantee_says_what_it_rejects_or_how_many_images_it_takes():
    few = "too few held-out images"
    table = promised(
        ("KNN", "on average", 0.05, "svhn", 0.04, 0.5, NOTHING, 19, 500),
        ("KNN", "on average", 0.05, "tin", 0.06, 0.25, NOTHING, 19, 500),
        ("KNN", "for 99% of draws", 0.001, "svhn", NOTHING, NOTHING, few, 4603, 500),
        ("MSP", "on average", 0.05, "svhn", 0.9, 0.9, NOTHING, 19, 500),
    )
    (shown,) = trust_tables.conformal(table, "KNN")
    assert shown.columns == ["guarantee and level", "ID rejected", "svhn", "tin"]
    assert shown.rows == [
        ["on average, 5.0%", "4.0–6.0", "50.0", "25.0"],
        ["for 99% of draws, 0.1%", "takes 4,603 held-out images, has 500", "–", "–"],
    ]


def test_without_rows_of_the_best_method_the_first_one_of_the_file_is_shown_and_named():
    table = promised(("MSP", "on average", 0.05, "svhn", 0.05, 0.5, NOTHING, 19, 500))
    (shown,) = trust_tables.conformal(table, "KNN")
    assert shown.caption.startswith("Thresholds of MSP")
    assert shown.rows == [["on average, 5.0%", "5.0", "50.0"]]


# ---- together ------------------------------------------------------------------------------------


def test_files_that_are_missing_leave_empty_parts():
    assert trust_tables.trust_tables({}, SUMMARY) == trust_tables.TrustTables()


def test_the_best_method_is_the_first_of_the_means_and_msp_without_any():
    more = {
        "ood_by_id_class.csv": by_id(),
        "ood_by_ood_class.csv": by_ood(("tin", "KNN", "fox", 9, 0.9, 0.8, 0.95, 0.3)),
    }
    swallowed, hard = trust_tables.trust_tables(more, SUMMARY).by_class
    assert "KNN accepts" in swallowed.caption and hard.rows[0][0] == "fox"
    (swallowed,) = trust_tables.trust_tables(more, {"mean_over_sets": []}).by_class
    assert "accepts" not in swallowed.caption, "MSP has no verdicts in these files"
