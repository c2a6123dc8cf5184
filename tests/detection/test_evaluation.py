"""Methods fitted once and sets scored once; what is undefined, and the invariants of scores."""

import json
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers import (
    CLASSES,
    logits_of,
    printed_rows,
    read_csv,
    score,
    shell,
    toy_run,
    write_blank,
)
from scipy.special import logsumexp, softmax

import ood_methods
import utils
from artifacts import records, store
from detection import drawing
from scores import registry

CORE = ("MSP", "MaxLogit", "Energy")


@pytest.mark.parametrize("stem", ["ID_toy", "OOD_far_noise", "OOD_near"])
def test_logit_scores_equal_their_formulas(done, stem):
    scored, (_, logits) = (
        read_csv(done[0] / f"scores_{stem}.csv"),
        logits_of(done[0], f"{stem}_test"),
    )
    # Logits are float32 products in the pipeline, float64 here.
    np.testing.assert_allclose(scored["MSP"], softmax(logits, axis=1).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scored["MaxLogit"], logits.max(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scored["Energy"], logsumexp(logits, axis=1), rtol=1e-5, atol=1e-5)


def test_necos_variants_are_rows_that_are_named_to_be_scored(folder):
    alone, _ = score(folder, "--methods", "NECO", "--no-neco-scaler")
    assert not set(score(folder)[0]["method"]) & {"NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"}
    table, printed = score(
        folder,
        "--methods",
        "neco",
        "neco-noscaler",
        "NECO-MaxLogit",
        "NECO-ETF",
        "--ood",
        "near",
        "--replace",
    )
    assert (
        list(table["method"])
        == list(printed_rows(printed))
        == ["NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"]
    )
    parameters = [json.loads(text) for text in table["parameters"]]
    assert [(found["scaler"], found["max_logit"]) for found in parameters] == [
        (True, False),
        (False, False),
        (True, True),
        (True, False),
    ]
    assert parameters[3]["dim"] == CLASSES - 1
    assert table["auroc"][1] == alone.set_index("ood").loc["near", "auroc"]


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_read_fitted_or_computed_again_for_another_set(tmp_path, monkeypatch):
    """Whatever the number of OOD sets: each file read once, each method fitted once, one training
    set, each set scored once."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b", "c", "d"))
    calls = []

    def counted(label, function):
        return lambda *given, **named: calls.append(label(*given)) or function(*given, **named)

    methods = {
        name: replace(row, fit=counted(lambda *_, name=name: f"fit {name}", row.fit))
        for name, row in registry.METHODS.items()
    }
    monkeypatch.setattr(registry, "METHODS", methods)
    monkeypatch.setattr(
        registry, "score_all", counted(lambda rows, *_: f"score {len(rows)}", registry.score_all)
    )
    monkeypatch.setattr(registry, "Training", counted(lambda *_: "training set", registry.Training))
    monkeypatch.setattr(
        store,
        "read_features",
        counted(lambda path, *_: f"read {path.name}", store.read_features),
    )
    with mock.patch.object(drawing, "draw", lambda *given, **named: []):
        assert shell(ood_methods.main, "--checkpoint", folder).code == 0
    sets = ["ID_toy_train", "ID_toy_val", "ID_toy_test", *(f"OOD_{name}_test" for name in "abcd")]
    expected = [
        *(f"fit {name}" for name in registry.DEFAULT),
        "training set",
        *(f"read {name}.csv" for name in sets),
        *(f"score {n}" for n in (60, 80, 100, 120, 100, 40)),
    ]
    assert sorted(calls) == sorted(expected)


def test_a_guard_warns_once_by_name_however_many_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b", "c"))
    for path in folder.glob(
        "*_t*.csv"
    ):  # a unit that never fires, a class that is never seen, negative features
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        features = found.features - np.float32(0.1)
        features[:, 3] = 0
        kept = found.labels != 2 if "train" in path.name else slice(None)
        store.write_features(path, features[kept], found.labels[kept], sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", folder)
    said = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
    assert ended.code == 0 and len(said) == len(set(said))
    for words in (
        "Mahalanobis: the covariance has rank 11, 1 of 12 features are constant",
        "Mahalanobis: 1 of 4 classes have no",
        "NECO: 1 features are constant",
        "SHE: 1 classes",
        "ASH-S: some features are negative",
        "SCALE: some features",
        "ReAct: some features",
    ):
        assert sum(line.startswith(f"warning: {words}") for line in said) == 1, words


def test_the_order_of_images_moves_no_metric(folder):
    before, _ = score(folder, "--methods", *CORE, "Mahalanobis")
    for stem in ("ID_toy_test", "OOD_near_test"):
        found, sidecar = (
            store.read_features(folder / f"{stem}.csv"),
            records.read_sidecar(folder / f"{stem}.csv"),
        )
        order = np.random.default_rng(1).permutation(len(found.labels))
        store.write_features(
            folder / f"{stem}.csv", found.features[order], found.labels[order], sidecar=sidecar
        )
    after, _ = score(folder, "--methods", *CORE, "Mahalanobis")
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-6)


def test_the_scores_of_one_set_do_not_depend_on_the_others(folder):
    score(folder, "--methods", *CORE, "ViM", "NECO")
    together = (folder / "scores_OOD_near.csv").read_bytes()
    score(folder, "--methods", *CORE, "ViM", "NECO", "--ood", "near")
    assert (folder / "scores_OOD_near.csv").read_bytes() == together


def test_an_undefined_id_score_leaves_no_threshold_and_no_verdict(folder):
    """One dead ID image: KNN has no direction for it; no image is then called accepted or rejected
    by KNN."""
    found, sidecar = (
        store.read_features(folder / "ID_toy_test.csv"),
        records.read_sidecar(folder / "ID_toy_test.csv"),
    )
    found.features[3] = 0
    store.write_features(folder / "ID_toy_test.csv", found.features, found.labels, sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "KNN", "ASH-S")
    assert ended.code == 0
    assert ended.out.count("undefined for") == 2
    for method, why in (("KNN", "have no direction"), ("ASH-S", "sum to 0")):
        line = next(
            line
            for line in ended.out.splitlines()
            if line.startswith(f"{method} (far_noise, near): ")
        )
        assert (
            "undefined for 1 of 100 ID test images, first in data row 4: " in line and why in line
        )
    for stem in ("ID_toy", "OOD_near"):
        scored = read_csv(folder / f"accepted_{stem}.csv")
        assert scored["KNN_accepted"].isna().all() and scored["MSP_accepted"].dtype == bool
    assert records.read_sidecar(folder / "scores_ID_toy.csv")["thresholds"]["KNN"] is None


def test_an_undefined_score_is_an_empty_cell_and_no_mean_hides_it(folder, monkeypatch):
    """A method that is NaN on one image: its metrics there are undefined, on the other set they are
    not."""
    real = registry.score_all

    def with_nan(features, states, W, b):
        values = real(features, states, W, b)
        if len(features) == 80:  # the set `near`
            values["MSP"][3] = np.nan
        return values

    monkeypatch.setattr(registry, "score_all", with_nan)
    table, printed = score(folder, "--methods", "MSP", "Energy")
    near = table.set_index(["ood", "method"]).loc[("near", "MSP")]
    assert math.isnan(near["auroc"]) and math.isnan(near["fpr95"]) and near["n_ood"] == 80
    scored = (folder / "scores_OOD_near.csv").read_text().splitlines()
    assert (
        scored[4].split(",")[3] == ""
        and scored[4].split(",")[5] in ("", "false")
        and "nan" not in "".join(scored).lower()
    )
    row = next(line for line in printed.splitlines() if line.startswith("MSP"))
    assert len(row.split()) == 3, (
        "AUROC and FPR of far_noise only: a mean over one set of two would flatter"
    )
    score(folder, "--methods", "MSP", "Energy", "--groups", "both=far_noise,near")
    groups = read_csv(folder / "ood_groups.csv").set_index("method")
    assert np.isnan(groups.loc["MSP", "auroc"]) and np.isfinite(groups.loc["Energy", "auroc"]), (
        "nor does one of a group"
    )


def test_a_temperature_at_its_bound_stands_in_the_table_and_is_marked(folder):
    """A validation set whose every image is right has no best temperature."""
    for split in ("val", "train"):
        path = folder / f"ID_toy_{split}.csv"
        labels = logits_of(folder, path.stem)[1].argmax(1)
        store.write_features(
            path, store.read_features(path).features, labels, None, records.read_sidecar(path)
        )
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "TempScaling")
    table = read_csv(folder / "ood_metrics.csv").set_index(["ood", "method"])
    rows = table.xs("TempScaling", level="method")
    assert rows["auroc"].notna().all() and set(
        map(str, table.xs("MSP", level="method")["note"])
    ) == {"nan"}
    assert {text: json.loads(text) for text in rows["parameters"]}.popitem()[1] == {
        "temperature": 0.05,
        "at_bound": True,
    }
    line = (
        "TempScaling (far_noise, near): the loss of 40 ID validation images falls all the way to T"
        " = 0.05"
    )
    assert ended.out.count(line) == 1 and "TempScaling" not in ended.err
    assert (folder / "ood_metrics.md").read_text().count(line) == 1 and rows["note"].str.startswith(
        "the loss of 40"
    ).all()


def test_constant_features_have_no_infinite_scores(folder):
    for path in [*folder.glob("ID_*.csv"), *folder.glob("OOD_near*.csv")]:
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        store.write_features(
            path, found.features * 0 + np.float32(0.3), found.labels, None, sidecar
        )
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 0, ended.err
    table = read_csv(folder / "ood_metrics.csv")
    assert (
        not np.isinf(table.select_dtypes(float)).any(axis=None)
        and (table["auroc"].notna() | table["note"].notna()).all()
    )
    notes = table.set_index(["ood", "method"])["note"]
    assert (
        "its features are the training mean" in notes["near", "NCI"]
        and "same features" in notes["near", "ViM"]
    )
    assert "inf" not in (folder / "scores_OOD_near.csv").read_text()


def test_one_feature_is_scored_by_what_can(tmp_path):
    folder = toy_run(tmp_path / "net_s0")
    sidecar = {"checkpoint_sha256": "a" * 64}
    head = store.read_head(folder / "head.csv")
    W, b, names = head.W, head.b, head.class_names
    store.write_head(folder / "head.csv", W[:, :1], b, names, sidecar)
    for path in [*folder.glob("ID_*.csv"), *folder.glob("OOD_*.csv")]:
        found = store.read_features(path)
        store.write_features(
            path,
            found.features[:, :1] + 1,
            found.labels,
            found.paths,
            {**sidecar, "head_sha256": records.sha256(folder / "head.csv")},
        )
    table = score(folder)[0].set_index(["ood", "method"])
    assert np.isfinite(table["auroc"]["near", "Mahalanobis"]) and np.isnan(
        table["auroc"]["near", "ViM"]
    )
    assert "at least 2 features" in table["note"]["near", "NECO"]
    assert not (folder / "figures" / "principal_components.png").exists()
    ended = shell(ood_methods.main, "--checkpoint", folder, "--vim-dim", "1")
    assert ended.code == 2 and "--vim-dim is 1; expected no such flag for 1 features" in ended.err
