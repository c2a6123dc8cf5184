"""What is noted of a method's row: scores that are the same for all images, and few images."""

import numpy as np
import pytest
from helpers import read_csv, score
from score_cases import CASES

from artifacts import records, store
from detection import evaluation
from detection.scored import Scored, ScoredSet
from scores import registry


def scored_of(inside, outside, notes=None):
    """One method, A, on the ID test images and on one set."""
    there = ScoredSet("ID", None, {"A": np.array(inside, float)})
    parts = [ScoredSet("far", None, {"A": np.array(outside, float)}, dict(notes or {}))]
    return Scored(there, parts, {"A": {}})


@pytest.mark.parametrize(
    ("inside", "outside", "said"),
    [
        ([2.5, 2.5, 2.5], [2.5, 2.5], "the score is 2.5 for all 3 ID test images and for all 2 of"),
        ([2.5, 2.5, 2.5], [2.5, 1], "for all 3 ID test images: no threshold can keep a part of"),
        ([2.5, 2.5, 2.5], [1, 1], "for all 3 ID test images: no threshold can keep a part of"),
    ],
)
def test_a_constant_score_is_noted_with_its_value(inside, outside, said):
    scored = scored_of(inside, outside)
    evaluation.note_constant(scored, {"A": "", "B": "another's"})
    assert said in scored.ood[0].notes["A"]


@pytest.mark.parametrize("inside", [[1, 2], [1], [np.nan, np.nan], [1, np.nan]])
def test_a_score_that_varies_one_image_and_an_undefined_one_are_not_called_constant(inside):
    scored = scored_of(inside, [1, 1])
    evaluation.note_constant(scored, {})
    assert scored.ood[0].notes == {}


def test_the_reason_stands_behind_it_and_an_earlier_note_before_it():
    scored = scored_of([1, 1], [1, 1], {"A": "few images"})
    evaluation.note_constant(scored, {"A": "a threshold"})
    note = scored.ood[0].notes["A"]
    assert note.startswith("few images; the score is 1 for all 2 ID")
    assert note.endswith("tells nothing apart: a threshold")


def test_a_fits_note_does_not_hide_an_undefined_image():
    scored = scored_of([1, 2], [np.nan, 1], {"A": "few images"})
    evaluation.note_undefined(scored)
    note = scored.ood[0].notes["A"]
    assert note.startswith("few images; undefined for 1 of 2 far test images")
    scored = scored_of([1, 2], [np.nan, np.nan], {"A": "never defined"})
    evaluation.note_undefined(scored)
    assert scored.ood[0].notes == {"A": "never defined"}


def test_react_knows_when_its_threshold_clips_everything():
    case = CASES["random"]
    sparse = np.where(case.features > np.percentile(case.features, 95), case.features, 0)
    train = registry.Training(sparse, case.labels, case.W, case.b)
    state = registry.METHODS["ReAct"].fit(train)
    assert state.alike.startswith("its threshold, 0, the percentile 90 of all")
    assert len(set(registry.METHODS["ReAct"].score(sparse, sparse @ case.W.T, state))) == 1
    assert registry.METHODS["ReAct"].fit(train, percentile=99.9).alike == ""
    assert registry.METHODS["ReAct"].fit(case.train).alike == ""


def test_a_constant_score_is_said_below_the_table(folder):
    for path in sorted(folder.glob("*_toy_*.csv")) + sorted(folder.glob("OOD_*.csv")):
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        sparse = np.where(found.features > 4, found.features, 0)
        store.write_features(path, sparse, found.labels, found.paths, sidecar)
    table, printed = score(folder, "--methods", "MSP", "ReAct")
    notes = table[table["method"] == "ReAct"]["note"]
    assert len(notes) == 2 and notes.str.contains("its threshold, 0, the percentile 90").all()
    assert "ReAct (far_noise): the score is" in printed
    assert not table[table["method"] == "MSP"]["note"].notna().any()
    assert read_csv(folder / "scores_ID_toy.csv")["ReAct"].nunique() == 1


def test_few_images_are_said_once_for_all_methods(folder):
    path = folder / "ID_toy_train.csv"
    found, sidecar = store.read_features(path), records.read_sidecar(path)
    few = slice(0, found.features.shape[1] - 1)
    store.write_features(path, found.features[few], found.labels[few], None, sidecar)
    table, printed = score(folder, "--methods", "MSP", "Mahalanobis", "ViM", "Mahalanobis-LW")
    noted = table[table["note"].notna()]
    assert set(noted["method"]) == {"Mahalanobis", "ViM"}
    lines = [line for line in printed.splitlines() if "are fewer than the" in line]
    assert len(lines) == 1 and lines[0].startswith("Mahalanobis, ViM (far_noise, near): ")
