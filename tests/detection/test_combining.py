"""Combinations: the mean of standardised scores, and what cannot be combined."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import read_csv, score, shell, toy_run
from score_cases import CASES

import ood_methods
from artifacts import store
from detection import combining, evaluation
from scores import registry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def images(features, label):
    return store.Features(features, np.full(len(features), label), None, Path("toy.csv"))


def scored_with(case, names, combinations, validation=None):
    fitted = registry.Training(case.features, case.labels, case.W, case.b, validation)
    test = images(case.test[:80], 0)
    ood = {"other": images(case.test[80:], -1)}
    combined = [combining.parse(text) for text in combinations]
    return fitted, evaluation.score(fitted, names, {}, test, ood, combinations=combined)


@pytest.mark.parametrize("split", ["validation", "training"])
def test_the_mean_of_scores_standardised_on_id_images(split):
    case = CASES["random"]
    held = (case.features[:50], case.labels[:50]) if split == "validation" else None
    fitted, scored = scored_with(case, ["MSP", "KNN"], ["MSP,knn"], held)
    reference = case.features[:50] if held else case.features
    states = registry.fit_all(fitted, ["MSP", "KNN"])
    found = registry.score_all(reference, states, case.W, case.b)
    for part in (scored.id, *scored.ood):
        expected = np.zeros(len(part))
        for name in ("MSP", "KNN"):
            mean, std = found[name].mean(), found[name].std()
            expected += (part.scores[name] - mean) / std / 2
        np.testing.assert_allclose(part.scores["mean(MSP,KNN)"], expected, rtol=1e-9)
    said = scored.parameters["mean(MSP,KNN)"]
    assert said == {"members": {"MSP": {}, "KNN": {"k": 50}}, "standardised_on": split}


def test_what_is_computed_for_a_combination_alone_has_no_row():
    _, scored = scored_with(CASES["random"], ["MSP"], ["Energy,Mahalanobis++"])
    rows = ["MSP", "mean(Energy,Mahalanobis++)"]
    assert list(scored.id.scores) == list(scored.ood[0].scores) == list(scored.parameters) == rows


def test_a_member_that_does_not_vary_leaves_a_reason():
    case = CASES["random"]
    one = (case.features[:1], case.labels[:1])
    _, scored = scored_with(case, ["MSP"], ["MSP,Energy"], one)
    (part,) = scored.ood
    assert np.isnan(part.scores["mean(MSP,Energy)"]).all()
    assert part.notes["mean(MSP,Energy)"].startswith("MSP is undefined for some ID validation")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MSP,msp", "'MSP,msp': MSP is combined with itself; name each method once"),
        ("MSP", "'MSP': MSP stands alone; expected two methods, as MSP,KNN"),
        ("MSP,KNNN", "'KNNN' cannot be combined; expected two or more of MSP, MaxLogit"),
        ("MSP,ODIN", "'ODIN' cannot be combined"),
        ("MSP,", "'' cannot be combined"),
    ],
)
def test_what_cannot_be_combined_is_said(text, said):
    with pytest.raises(ValueError) as raised:
        combining.parse(text)
    assert said in str(raised.value)


def test_a_row_like_any_other_that_stays_when_more_join(tmp_path):
    folder = toy_run(tmp_path / "net_s0")
    table, _ = score(folder, "--methods", "MSP", "--combine", "MSP,KNN", "--tpr", "0.9")
    assert set(table["method"]) == {"MSP", "mean(MSP,KNN)"}
    row = table[table["method"] == "mean(MSP,KNN)"].iloc[0]
    assert 0.5 < row["auroc"] <= 1
    assert json.loads(row["parameters"])["standardised_on"] == "validation"
    assert "mean(MSP,KNN)_accepted" in read_csv(folder / "accepted_OOD_near.csv")
    after, _ = score(folder, "--methods", "Energy")
    assert set(after["method"]) == {"MSP", "Energy", "mean(MSP,KNN)"}
    ended = shell(ood_methods.main, "--checkpoint", folder, "--combine", "MSP,MSP")
    assert ended.code == 2
    assert "MSP is combined with itself" in ended.err
