"""Full spectrum: ID test images and those under a covariate shift against each OOD set."""

import shutil

import numpy as np
import pytest
from helpers import read_csv, shell
from sklearn.metrics import roc_auc_score

import ood_methods
from artifacts import records, store

METHODS = ("MSP", "Energy", "KNN")


@pytest.fixture
def with_csid(folder):
    """A run with two csID sets: half the ID test images, farther from the centres and nearer."""
    found = store.read_features(folder / "ID_toy_test.csv")
    sidecar = records.read_sidecar(folder / "ID_toy_test.csv")
    for name, factor in (("dim", 0.8), ("fog3", 1.3)):
        store.write_features(
            folder / f"CSID_{name}_test.csv",
            found.features[::2] * np.float32(factor),
            found.labels[::2],
            None,
            {**sidecar, "dataset": name},
        )
    return folder


def run(folder, *words):
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", *METHODS, *words)
    assert ended.code == 0, ended.err
    return ended.out


def test_csid_images_count_as_id_in_a_second_table(with_csid):
    printed = run(with_csid, "--groups", "both=near,far_noise")
    table = read_csv(with_csid / "fsood_metrics.csv")
    scores = {
        name: read_csv(with_csid / f"scores_{name}.csv")
        for name in ("ID_toy", "CSID_dim", "CSID_fog3", "OOD_near", "OOD_far_noise")
    }
    assert set(table["csid"]) == {"dim fog3"}
    inside = [scores[name] for name in ("ID_toy", "CSID_dim", "CSID_fog3")]
    right = np.concatenate([part["prediction"] == part["label"] for part in inside])
    for row in table.to_dict("records"):
        values = np.concatenate([part[row["method"]] for part in inside])
        outside = scores[f"OOD_{row['ood']}"][row["method"]]
        is_id = np.arange(len(values) + len(outside)) < len(values)
        area = roc_auc_score(is_id, np.concatenate([values, outside]))
        assert row["auroc"] == pytest.approx(area, abs=1e-12)
        assert row["n_id"] == len(values)
        assert row["accuracy"] == pytest.approx(right.mean())
    assert "full spectrum: toy and dim, fog3 together" in printed
    plain = read_csv(with_csid / "ood_metrics.csv")
    assert set(plain["n_id"]) == {len(scores["ID_toy"])}
    means = read_csv(with_csid / "fsood_groups.csv").set_index("method")["auroc"]
    for method in METHODS:
        mean = table.loc[table["method"] == method, "auroc"].mean()
        assert means[method] == pytest.approx(mean)


def test_each_csid_set_has_its_accuracy_and_how_far_a_score_sees_the_shift(with_csid):
    run(with_csid)
    table = read_csv(with_csid / "csid_metrics.csv")
    assert len(table) == 2 * len(METHODS)
    inside = read_csv(with_csid / "scores_ID_toy.csv")
    for row in table.to_dict("records"):
        part = read_csv(with_csid / f"scores_CSID_{row['csid']}.csv")
        assert row["accuracy"] == pytest.approx((part["prediction"] == part["label"]).mean())
        assert row["accuracy_low"] < row["accuracy"] <= row["accuracy_high"]
        is_id = np.arange(len(inside) + len(part)) < len(inside)
        values = np.concatenate([inside[row["method"]], part[row["method"]]])
        assert row["auroc"] == pytest.approx(roc_auc_score(is_id, values), abs=1e-12)
        scores = np.sort(inside[row["method"]])
        threshold = scores[len(scores) - int(np.ceil(0.95 * len(scores)))]
        assert row["accepted"] == pytest.approx(np.mean(part[row["method"]] >= threshold))


def test_named_sets_alone_count_and_others_go(with_csid):
    run(with_csid)
    run(with_csid, "--csid", "dim")
    assert set(read_csv(with_csid / "fsood_metrics.csv")["csid"]) == {"dim"}
    for name in ("dim", "fog3"):
        (with_csid / f"CSID_{name}_test.csv").unlink()
    run(with_csid)
    assert not (with_csid / "fsood_metrics.csv").exists()
    assert not (with_csid / "csid_metrics.csv").exists()


def test_earlier_scores_of_the_same_csid_images_stay(with_csid):
    run(with_csid)
    before = read_csv(with_csid / "fsood_metrics.csv").set_index(["ood", "method"])["auroc"]
    ended = shell(ood_methods.main, "--checkpoint", with_csid, "--methods", "MaxLogit")
    assert ended.code == 0, ended.err
    after = read_csv(with_csid / "fsood_metrics.csv").set_index(["ood", "method"])["auroc"]
    assert set(after.index.get_level_values("method")) == {*METHODS, "MaxLogit"}
    for cell, value in before.items():
        assert after[cell] == value


def test_mistakes_are_said(with_csid, tmp_path):
    ended = shell(ood_methods.main, "--checkpoint", with_csid, "--csid", "nowhere")
    assert ended.code and "lacks CSID_nowhere_test.csv; it has dim, fog3" in ended.err
    found = store.read_features(with_csid / "CSID_dim_test.csv")
    labels = found.labels.copy()
    labels[3] = 99
    sidecar = records.read_sidecar(with_csid / "CSID_dim_test.csv")
    path = with_csid / "CSID_dim_test.csv"
    store.write_features(path, found.features, labels, None, sidecar)
    ended = shell(ood_methods.main, "--checkpoint", with_csid, "--methods", "MSP")
    assert ended.code and "CSID_dim_test.csv" in ended.err and "99" in ended.err
    shutil.rmtree(with_csid)
