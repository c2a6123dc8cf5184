"""detection/keeping.py: the detector that ood_methods.py writes, beside its tables."""

import json

import ensemble_cases
import numpy as np
import pytest
from helpers import score, shell, toy_run, write_blank

import ood_methods
import utils
from artifacts import current, store
from detection import joining
from detection.detector import Detector
from scores import registry

OWN = """
class Toy:
    def fit(self, train):
        self.mean = train.mean

    def score(self, features, logits):
        return -((features - self.mean) ** 2).sum(axis=1)
"""


def detector_of(folder):
    return Detector.load(folder / "detector.safetensors")


def test_the_record_names_it_and_an_edit_is_seen(folder):
    score(folder, "--methods", "MSP")
    record = current.Record.read(folder / joining.RECORD)
    assert "detector.safetensors" in record.outputs and record.changed_file() == ""
    with open(folder / "detector.safetensors", "ab") as file:
        file.write(b"x")
    assert record.changed_file().startswith("detector.safetensors ")


def test_the_same_run_writes_the_same_bytes(folder):
    score(folder, "--methods", "MSP", "ViM", "--replace")
    before = (folder / "detector.safetensors").read_bytes()
    score(folder, "--methods", "MSP", "ViM", "--replace")
    assert (folder / "detector.safetensors").read_bytes() == before


def test_methods_of_an_earlier_run_stay(folder):
    score(folder, "--methods", "ViM", "Cosine", "--vim-dim", "3")
    before = detector_of(folder)
    score(folder, "--methods", "MSP")
    after = detector_of(folder)
    assert set(after.states) == {"MSP", "ViM", "Cosine"} and after.method == "Cosine"
    assert after.states["ViM"].parameters == {"dim": 3}
    features = store.read_features(folder / "OOD_near_test.csv").features
    for name in ("ViM", "Cosine"):
        one, other = before.score_samples(features, name), after.score_samples(features, name)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(before.calibration[name], after.calibration[name])


def test_without_the_earlier_detector_its_methods_are_left_out_and_said(folder):
    score(folder, "--methods", "ViM")
    (folder / "detector.safetensors").write_bytes(b"edited")
    _, printed = score(folder, "--methods", "MSP")
    assert set(detector_of(folder).states) == {"MSP"}
    assert "left out: ViM: an earlier run computed it" in printed


@pytest.mark.parametrize("words", [[], ["--with-bank"]])
def test_banks_are_there_where_they_were_asked_for(folder, words):
    _, printed = score(folder, "--methods", "MSP", "KNN", *words)
    kept = detector_of(folder)
    assert ("KNN" in kept.states) == bool(words)
    assert ("left out: KNN: it needs all training features" in printed) == (not words)
    if words:
        features = store.read_features(folder / "OOD_near_test.csv").features
        scored = store.read_typed(folder / "scores_OOD_near.csv")["KNN"].to_numpy()
        np.testing.assert_array_equal(kept.score(features)["KNN"], scored)


def test_what_no_file_holds_is_left_out_and_said(folder, tmp_path, monkeypatch):
    for rows in (registry.METHODS, registry.ROWS):
        monkeypatch.setitem(rows, "Toy", None)
        monkeypatch.delitem(rows, "Toy")
    (tmp_path / "my_score.py").write_text(OWN)
    own = f"{tmp_path}/my_score.py:Toy"
    _, printed = score(folder, "--methods", "MSP", "Energy", own, "--combine", "MSP,Energy")
    kept = detector_of(folder)
    assert set(kept.states) == {"MSP", "Energy"}
    assert "left out: Toy: a score of a person's own is code" in printed
    assert "left out: mean(MSP,Energy): " in printed
    assert "recommended: Energy, by the least regret" in printed


def test_it_says_of_which_network_and_by_which_command_it_is(folder):
    score(folder, "--methods", "MSP")
    facts = detector_of(folder).facts
    assert facts["checkpoint_sha256"] == "a" * 64 and facts["dataset"] == "toy"
    assert "--methods MSP" in facts["command"] and facts["versions"]["numpy"] == np.__version__
    assert json.dumps(facts)


def test_without_validation_images_test_images_calibrate_and_say_no_p_value(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0")
    for path in folder.glob("ID_toy_val.*"):
        path.unlink()
    score(folder, "--methods", "MSP")
    kept = detector_of(folder)
    assert kept.calibrated_on == "test" and len(kept.calibration["MSP"]) == 100
    scored = store.read_typed(folder / "scores_ID_toy.csv")
    assert scored["p_value"].null_count() == 100
    assert (scored["verdict"] == "accepted").sum() == 96  # p of the fifth lowest is 6/101


def test_an_ensemble_has_none_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folders = ensemble_cases.deep(tmp_path, count=2)
    ended = shell(
        ood_methods.main,
        "--ensemble",
        "--checkpoint",
        *folders,
        "--output-dir",
        tmp_path,
        "--methods",
        "MSP",
    )
    assert ended.code == 0, ended.err
    assert "no detector.safetensors: detectors are of single networks" in ended.out
    assert not list(tmp_path.glob("*ensemble*/detector.safetensors"))
