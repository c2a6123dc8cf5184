"""id_metrics.csv: its rows, and that each is what the score files and the features say."""

import numpy as np
import pytest
from helpers import logits_of, read_csv, score
from scipy.optimize import minimize_scalar

from detection import id_tables, measures, metrics
from scores import common

COLUMNS = [
    "checkpoint",
    "dataset",
    "ood",
    "method",
    "measure",
    "at",
    "value",
    "low",
    "high",
    "temperature",
    "note",
]
OF_CLASSIFIER = ["confidence", "ece", "ece_equal_mass", "classwise_ece", "brier", "nll"]
OF_METHOD = ["aurc", "e_aurc", *["risk"] * 3, "failure_auroc"]
OF_SET = ["scod_aurc", "scod_auroc", "scod_fpr", "oscr", *["ccr"] * 2]


@pytest.fixture
def table(folder):
    score(folder, "--methods", "MSP", "KNN")
    return read_csv(folder / "id_metrics.csv")


def rows(table, method="", ood=""):
    own = table[(table["method"].fillna("") == method) & (table["ood"].fillna("") == ood)]
    return own.reset_index(drop=True)


def test_there_is_a_row_for_each_measure_method_and_set(table):
    assert list(table.columns) == COLUMNS
    assert list(rows(table)["measure"]) == ["accuracy", *OF_CLASSIFIER, *OF_CLASSIFIER]
    for method in ("MSP", "KNN"):
        assert list(rows(table, method)["measure"]) == OF_METHOD
        for name in ("far_noise", "near"):
            assert list(rows(table, method, name)["measure"]) == OF_SET
    known = table.dropna(subset=["low"])
    assert (known["low"] <= known["value"]).all() and (known["value"] <= known["high"]).all()


def test_calibration_is_that_of_the_logits_before_and_after_the_temperature(folder, table):
    _, logits = logits_of(folder, "ID_toy_test")
    labels = read_csv(folder / "ID_toy_test.csv")["label"].to_numpy()
    _, val = logits_of(folder, "ID_toy_val")
    of_val = read_csv(folder / "ID_toy_val.csv")["label"].to_numpy()

    def loss(inverse):
        return measures.nll(val * inverse, of_val).mean()

    best = 1 / minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    found = rows(table)[1:]
    assert set(found["temperature"].round(2)) == {1.0, round(best, 2)}
    for temperature, part in found.groupby("temperature"):
        p = common.softmax(logits / temperature)
        value = part.set_index("measure")["value"]
        right = p.argmax(axis=1) == labels
        assert value["ece"] == pytest.approx(measures.ece(p.max(axis=1), right))
        assert value["classwise_ece"] == pytest.approx(measures.classwise_ece(p, labels))
        one_hot = np.eye(4)[labels]
        assert value["brier"] == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean())
        chosen = p[np.arange(len(labels)), labels]
        assert value["nll"] == pytest.approx(-np.log(chosen).mean())
    after = found[found["temperature"] != 1].set_index("measure")["value"]
    assert (
        after["nll"] <= found[found["temperature"] == 1].set_index("measure")["value"]["nll"] + 0.1
    )


def test_measures_of_a_method_are_those_of_its_score_file(folder, table):
    inside = read_csv(folder / "scores_ID_toy.csv")
    outside = read_csv(folder / "scores_OOD_near.csv")["KNN"].to_numpy()
    right = (inside["prediction"] == inside["label"]).to_numpy()
    values = inside["KNN"].to_numpy()
    own = rows(table, "KNN").set_index("measure")["value"]
    assert own["aurc"] == pytest.approx(measures.aurc(measures.risk_coverage(right, values)))
    if not right.all():
        assert own["failure_auroc"] == metrics.auroc(values[right], values[~right])
    of_set = rows(table, "KNN", "near").set_index("measure")["value"]
    pairs = np.subtract.outer(values, outside)
    won = (pairs > 0) + 0.5 * (pairs == 0)
    assert of_set["oscr"] == pytest.approx((won * right[:, None]).mean())
    failures = np.concatenate([values[~right], outside])
    assert of_set["scod_auroc"] == pytest.approx(metrics.auroc(values[right], failures))
    both = np.concatenate([right, np.zeros(len(outside), dtype=bool)])
    curve = measures.risk_coverage(both, np.concatenate([values, outside]))
    assert of_set["scod_aurc"] == pytest.approx(measures.aurc(curve))
    # everything kept, the risk is the share of wrong and OOD images
    assert curve.risk[-1] == pytest.approx(1 - right.sum() / len(both))


def test_without_validation_images_there_is_no_temperature_and_a_note(folder):
    for path in folder.glob("ID_toy_val.*"):
        path.unlink()
    score(folder, "--methods", "MSP")
    found = rows(read_csv(folder / "id_metrics.csv"))
    assert list(found["measure"]) == ["accuracy", *OF_CLASSIFIER]
    assert "no ID validation images" in found["note"].iloc[1]


def test_without_a_head_there_is_no_such_table(folder):
    score(folder, "--methods", "KNN")
    assert (folder / "id_metrics.csv").exists()
    for path in folder.glob("head.*"):
        path.unlink()
    score(folder, "--methods", "KNN", "--allow-stale", "--replace")
    assert not (folder / "id_metrics.csv").exists()


def test_an_undefined_score_has_a_note_and_no_value():
    inside = np.array([1.0, np.nan, 2.0])
    images = id_tables.ScoredSet("ID", None, {"A": inside})
    part = id_tables.ScoredSet("x", None, {"A": np.zeros(2)})
    scored = id_tables.Scored(images, [part], {})
    right = np.array([True, False, True])
    of_id = id_tables.selective(scored, right, id_tables.risk_curves(scored, right))
    for row in (*of_id, *id_tables.with_ood(scored, right, 0.95)):
        assert np.isnan(row.value) and "undefined" in row.note


def test_all_images_right_leave_no_failure_to_find():
    row = id_tables.failure_auroc("A", np.arange(3.0), np.ones(3, dtype=bool))
    assert np.isnan(row.value) and "3 of 3" in row.note


def test_several_shares_make_columns(folder):
    table, _ = score(folder, "--methods", "MSP", "--tpr", "0.8", "0.95", "0.99")
    assert {"fpr80", "fpr80_ood_positive", "fpr99", "fpr99_ood_positive"} <= set(table.columns)
    inside = read_csv(folder / "scores_ID_toy.csv")["MSP"]
    for row in table.itertuples():
        outside = read_csv(folder / f"scores_OOD_{row.ood}.csv")["MSP"]
        assert row.fpr95 == metrics.fpr_at_tpr(inside, outside, 0.95)
        assert row.fpr80 == metrics.fpr_at_tpr(inside, outside, 0.8)
        assert row.fpr99_ood_positive == metrics.fpr_at_tpr_ood_positive(inside, outside, 0.99)
