"""ODIN: scores of perturbed images, and the refusal of those that cannot be compared."""

import json

import numpy as np
import pytest
from helpers import (
    logits_of,
    read_csv,
    score,
    shell,
)
from scipy.special import softmax

import ood_methods
import utils
from artifacts import records, store


def test_odin_scores_its_own_features_at_their_temperature(with_odin):
    table, _ = score(with_odin, "--methods", "ODIN", "MSP")
    assert list(table["method"][:2]) == ["MSP", "ODIN"] or list(table["method"][:2]) == [
        "ODIN",
        "MSP",
    ]
    odin = table[table["method"] == "ODIN"]
    assert {json.dumps(json.loads(text)) for text in odin["parameters"]} == {
        '{"odin_epsilon": 0.002, "temperature": 1000.0}'
    }
    for stem in ("ID_toy", "OOD_near"):
        logits = logits_of(with_odin, f"ODIN_{stem}_test")[1]
        written = read_csv(with_odin / f"scores_{stem}.csv")["ODIN"]
        np.testing.assert_allclose(written, softmax(logits / 1000, axis=1).max(axis=1), rtol=1e-6)
    assert "ODIN_ID_toy_test.csv" in utils.read_json(with_odin / "ood_methods.json")["inputs"]


def test_odin_is_among_all_methods_where_its_features_are(with_odin):
    assert "ODIN" in set(score(with_odin)[0]["method"])
    (with_odin / "ODIN_ID_toy_test.csv").unlink()
    assert "ODIN" not in set(score(with_odin)[0]["method"])


def test_a_set_without_perturbed_images_is_empty_for_odin_and_says_so(with_odin):
    before = score(with_odin, "--methods", "MSP", "ODIN")[0].set_index(["ood", "method"])
    (with_odin / "ODIN_OOD_near_test.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN")
    table = read_csv(with_odin / "ood_metrics.csv").set_index(["ood", "method"])
    note = table.loc[("near", "ODIN"), "note"]
    assert (
        ended.code == 0
        and note.startswith("no perturbed images of near; make them with: ")
        and "--odin-epsilon 0.002" in note
    )
    assert ended.out.count(f"ODIN (near): {note}") == 1 and "goes" not in ended.out
    assert (
        np.isnan(table.loc[("near", "ODIN"), "auroc"])
        and read_csv(with_odin / "scores_OOD_near.csv")["ODIN"].isna().all()
    )
    assert table.loc[("far_noise", "ODIN"), "auroc"] == before.loc[("far_noise", "ODIN"), "auroc"]
    ended = shell(
        ood_methods.main,
        "--checkpoint",
        with_odin,
        "--methods",
        "Energy",
        "ODIN",
        "--val-ood",
        "near",
        "--replace",
    )
    assert ended.code == 0 and "no perturbed images" not in ended.out, (
        "what only chooses hyper-parameters needs none"
    )


@pytest.mark.parametrize("change", ["sidecar", "rows"])
def test_perturbed_images_that_cannot_be_compared_are_refused_by_name(with_odin, change):
    path = with_odin / "ODIN_OOD_near_test.csv"
    if change == "sidecar":
        records.sidecar_path(path).unlink()
    else:
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        store.write_features(path, found.features[:9], found.labels[:9], sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", with_odin)
    assert (
        ended.code == 2 and "ODIN_OOD_near_test.csv" in ended.err and "Traceback" not in ended.err
    )
    assert {
        "sidecar": "does not say with which",
        "rows": "holds 9 images where the plain ones are 80",
    }[change] in ended.err


def test_sets_perturbed_differently_are_refused(with_odin):
    path = with_odin / "ODIN_OOD_near_test.json"
    utils.write_json(path, {**utils.read_json(path), "odin_epsilon": 0.004})
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "ODIN")
    assert (
        ended.code == 2 and "ODIN_OOD_near_test.csv was perturbed with another epsilon" in ended.err
    )
    assert "--odin-epsilon 0.002" in ended.err


def test_perturbed_validation_images_give_odin_p_values(with_odin):
    """Without them it has none."""
    score(with_odin, "--methods", "ODIN", "MSP")
    table = read_csv(with_odin / "scores_OOD_near.csv")
    assert "MSP_p" in table and "ODIN_p" not in table
    found = store.read_features(with_odin / "ID_toy_val.csv")
    sidecar = records.read_sidecar(with_odin / "ID_toy_val.csv")
    step = {"odin_epsilon": 0.002, "temperature": 1000.0}
    path = with_odin / "ODIN_ID_toy_val.csv"
    store.write_features(path, found.features * 1.1, found.labels, None, {**sidecar, **step})
    score(with_odin, "--methods", "ODIN", "MSP")
    logits = logits_of(with_odin, "ODIN_ID_toy_val")[1]
    held_out = softmax(logits / 1000, axis=1).max(axis=1)
    table = read_csv(with_odin / "scores_OOD_near.csv")
    p = [(1 + np.sum(held_out <= value + 1e-12)) / (len(held_out) + 1) for value in table["ODIN"]]
    np.testing.assert_allclose(table["ODIN_p"], p, rtol=1e-6)
    assert "ODIN" in set(read_csv(with_odin / "conformal.csv")["method"])
