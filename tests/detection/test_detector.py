"""detection/detector.py: what a detector keeps, to the bit, and what its file refuses."""

import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from score_cases import random_case
from sklearn.ensemble import IsolationForest

from detection import conformal, packing
from detection.detector import Detector, verdict
from scores import registry
from scores.common import Fitted

NAMES = list(registry.METHODS)
CASE = random_case(n=500, width=24, classes=5)


def fitted(**more):
    """A detector of all methods, its banks among them, unless told otherwise."""
    given = {"methods": NAMES, "with_bank": True, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = CASE.features[400:], CASE.labels[400:]
        return Detector.fit(
            CASE.features[:400],
            CASE.labels[:400],
            CASE.W,
            CASE.b,
            validation=held,
            rest=CASE.rest,
            **given,
        )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(detector, its file, what the file gives)."""
    path = tmp_path_factory.mktemp("kept") / "detector.safetensors"
    detector = fitted(class_names=list("abcde"), facts={"checkpoint": "net.pth", "size": 32})
    detector.save(path)
    return detector, path, Detector.load(path)


@pytest.fixture(scope="module")
def afresh():
    """(states, scores of the test images) as ood_methods.py fits and scores all methods."""
    train = registry.Training(
        CASE.features[:400],
        CASE.labels[:400],
        CASE.W,
        CASE.b,
        (CASE.features[400:], CASE.labels[400:]),
        CASE.rest,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = registry.fit_all(train, NAMES)
        return states, registry.score_all(CASE.test, states, CASE.W, CASE.b)


@pytest.fixture(scope="module")
def from_file(kept):
    """The scores of the test images by the detector that was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kept[2].score(CASE.test)


# ---- the same, to the bit ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_detector_scores_every_method_to_the_bit(kept, afresh, from_file, name):
    """Beside all others, as ood_methods.py scores them."""
    loaded, (states, together) = kept[2], afresh
    assert from_file[name].tobytes() == together[name].tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = loaded.score(CASE.test, [name])
    assert list(alone) == [name]
    # the same bits too, where a product's columns do not depend on their number
    np.testing.assert_allclose(alone[name], together[name], rtol=1e-7, atol=1e-7)
    assert loaded.states[name].parameters == states[name].parameters
    assert loaded.states[name].note == states[name].note


@pytest.mark.parametrize("name", NAMES)
def test_a_state_keeps_its_fields_types_and_order_in_memory(kept, name):
    made, _, loaded = kept
    one, other = vars(made.states[name]), vars(loaded.states[name])
    assert list(one) == list(other)
    for key, value in one.items():
        assert type(other[key]) is type(value), key
        if isinstance(value, np.ndarray):
            assert other[key].dtype == value.dtype and other[key].shape == value.shape
            both = value.flags.c_contiguous or value.flags.f_contiguous
            if both:
                assert other[key].flags.f_contiguous == value.flags.f_contiguous, key


def test_the_bank_is_one_object_as_it_was(kept):
    _, _, loaded = kept
    banks = {id(loaded.states[name].bank) for name in ("KNN", "NNGuide", "Relation")}
    assert len(banks) == 1


def test_what_several_states_hold_is_stored_once(kept):
    _, path, _ = kept
    with safe_open(path, "np") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    heads = [values for values in tensors if values.tobytes() == CASE.W.tobytes()]
    assert len(heads) == 1


def test_whoever_may_read_other_files_may_read_this_one(kept):
    other = kept[1].parent / "other"
    other.touch()
    assert kept[1].stat().st_mode == other.stat().st_mode


def test_all_else_comes_back(kept):
    made, _, loaded = kept
    for name in ("width", "calibrated_on", "method", "reason", "left_out", "facts"):
        assert getattr(loaded, name) == getattr(made, name)
    assert loaded.head.class_names == list("abcde")
    assert loaded.facts == {"checkpoint": "net.pth", "size": 32}
    for name, values in made.calibration.items():
        assert values.tobytes() == loaded.calibration[name].tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1,
        float("inf"),
        "text",
        np.float32(0.1),
        np.float64(np.pi),
        np.int16(-7),
        np.bool_(True),
        [1, 2.5, None],
        (2.5, "a"),
        {"a": {"b": [None]}},
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6, dtype=np.int16)[::2],
        np.float32([]),
        np.array(3.5),
    ],
)
def test_a_value_is_packed_by_its_type(value):
    arrays = {}
    packed = packing.Packer(arrays).pack(value, "place")
    found = packing.Unpacker(arrays).unpack(json.loads(json.dumps(packed)))
    assert type(found) is type(value)
    np.testing.assert_array_equal(found, value)
    assert getattr(found, "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("value", [print, object(), {1, 2}, np.array([None]), np.array(["a"])])
def test_a_value_without_a_rule_is_refused(value):
    with pytest.raises(ValueError, match="states/Toy/field"):
        packing.Packer({}).pack(Fitted(parameters={}, field=value), "states/Toy")


# ---- thresholds and verdicts ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.9, 0.95, 0.99, 0.5])
def test_a_threshold_is_the_conformal_one(kept, keep):
    """At 1% of 100 images the lowest is the threshold, and below 1/101 none is rejected."""
    made, _, loaded = kept
    held = registry.score_all(CASE.features[400:], made.states, CASE.W, CASE.b)
    for name in ("MSP", "ViM", "NECO", "KNN"):
        place = {0.9: 10, 0.95: 5, 0.99: 1, 0.5: 50}[keep]
        assert loaded.threshold(keep, name) == np.sort(held[name])[place - 1]
        assert loaded.threshold(0.995, name) == -np.inf


def test_a_file_shows_its_thresholds(kept):
    _, path, loaded = kept
    content, _ = packing.read(path, "")
    shown = packing.Unpacker({}).unpack(content["thresholds"])
    assert list(shown) == ["0.9", "0.95", "0.99"]
    assert shown["0.95"]["MSP"] == loaded.threshold(0.95, "MSP")


def test_percentiles_p_values_and_classes_by_hand():
    detector = Detector(
        states={"MSP": Fitted(parameters={})},
        width=2,
        calibration={"MSP": np.array([0.1, 0.2, 0.2, 0.4])},
        calibrated_on="validation",
        method="MSP",
    )
    found = detector.judge(np.array([0.0, 0.2, 0.5, np.nan]), np.zeros((4, 2)), keep=0.75)
    assert found.verdict == ["rejected", "accepted", "accepted", "undefined"]
    np.testing.assert_array_equal(found.percentile, [0, 75, 100, np.nan])
    np.testing.assert_array_equal(found.p_value, [0.2, 0.8, 1, np.nan])
    assert found.classes is None


def test_verdicts_are_those_of_the_methods_own_functions(kept):
    made, _, loaded = kept
    found = loaded.verdicts(CASE.test, keep=0.9, method="vim")
    scores = loaded.score(CASE.test)["ViM"]
    held = registry.score_all(CASE.features[400:], made.states, CASE.W, CASE.b)["ViM"]
    threshold = conformal.marginal_threshold(held, 0.1).value
    np.testing.assert_allclose(found.score, scores, rtol=1e-5)
    assert found.verdict == [verdict(score, threshold) for score in found.score]
    assert found.verdict == ["accepted" if p > 0.1 else "rejected" for p in found.p_value]
    np.testing.assert_array_equal(found.p_value, conformal.p_values(found.score, held))
    predicted = (CASE.test @ CASE.W.T + CASE.b).argmax(axis=1)
    assert found.classes == ["abcde"[number] for number in predicted]


def test_the_signs_are_those_of_scikit_learn(kept):
    """score_samples, decision_function and predict, as an outlier detector there has them."""
    _, _, loaded = kept
    other = IsolationForest(random_state=0).fit(CASE.features)
    for detector in (loaded, other):
        difference = detector.score_samples(CASE.test) - detector.decision_function(CASE.test)
        assert np.ptp(difference) < 1e-6
        signs = np.where(detector.decision_function(CASE.test) >= 0, 1, -1)
        np.testing.assert_array_equal(detector.predict(CASE.test), signs)
    assert set(loaded.predict(CASE.test)) == {1, -1}


def test_without_validation_images_test_images_calibrate():
    held = CASE.features[400:]
    detector = Detector.fit(CASE.features, CASE.labels, CASE.W, CASE.b, test=held, methods=["MSP"])
    assert detector.calibrated_on == "test"
    scores = detector.score(held)["MSP"]
    np.testing.assert_array_equal(detector.calibration["MSP"], np.sort(scores))


def test_without_either_there_are_scores_and_no_verdicts():
    detector = Detector.fit(CASE.features, CASE.labels, CASE.W, CASE.b, methods=["MSP"])
    assert detector.score_samples(CASE.test).shape == (len(CASE.test),)
    with pytest.raises(ValueError, match="no ID images were given that no fit has seen"):
        detector.predict(CASE.test)


def test_without_a_head_no_class_is_predicted(tmp_path):
    held = CASE.features[400:], CASE.labels[400:]
    Detector.fit(CASE.features, CASE.labels, validation=held).save(tmp_path / "d.safetensors")
    detector = Detector.load(tmp_path / "d.safetensors")
    assert "MSP" not in detector.states and detector.method == "Cosine"
    assert detector.verdicts(CASE.test).classes is None
    with pytest.raises(ValueError, match="24"):
        detector.score(CASE.test[:, :5])


# ---- which methods -------------------------------------------------------------------------------


def test_banks_are_kept_where_they_are_asked_for_alone():
    assert not {"KNN", "NNGuide", "Relation"} & set(fitted(methods=None, with_bank=False).states)
    assert {"KNN", "NNGuide", "Relation"} <= set(fitted(methods=None).states)
    with pytest.raises(ValueError, match=r"KNN cannot be kept .* --with-bank"):
        fitted(methods=["KNN"], with_bank=False)


@pytest.mark.parametrize(
    ("name", "why"), [("my_score.py:Toy", "is code"), ("ODIN", "perturbed images")]
)
def test_what_no_file_can_hold_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        fitted(methods=["MSP", name])


def test_an_undefined_method_is_kept_and_not_recommended():
    """The mean energy of the training images is below 0, and CADRef divides by it."""
    held = CASE.features[:50], CASE.labels[:50]
    W, b = np.zeros_like(CASE.W), np.full_like(CASE.b, -100)
    with pytest.warns(UserWarning, match="CADRef"):
        detector = Detector.fit(
            CASE.features, CASE.labels, W, b, validation=held, methods=["CADRef", "MSP", "Energy"]
        )
    assert detector.method == "Energy" and "CADRef" in detector.reason
    with pytest.raises(ValueError, match="undefined for some ID validation image"):
        detector.threshold(method="CADRef")


def test_another_method_is_named_with_those_that_are_there(kept):
    _, _, loaded = kept
    with pytest.raises(ValueError, match="no method 'MSB': it has MSP, "):
        loaded.score_samples(CASE.test, "MSB")


def test_a_detector_without_methods_is_written_and_says_so(tmp_path):
    Detector.of({}, 4, None, {}, "test", False, {}, ["a.py:Toy"]).save(tmp_path / "d.safetensors")
    found = Detector.load(tmp_path / "d.safetensors")
    assert found.left_out == {
        "a.py:Toy": "a score of a person's own is code, and a file of a detector holds none"
    }
    with pytest.raises(ValueError, match="recommends no method: it holds no method"):
        found.predict(np.zeros((2, 4)))


# ---- files that are refused ----------------------------------------------------------------------


def changed(path, tmp_path, **metadata):
    """The file with other metadata."""
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = {**json.loads(file.metadata()["ood-detector"]), **metadata}
    save_file(arrays, tmp_path / "changed.safetensors", {"ood-detector": json.dumps(found)})
    return tmp_path / "changed.safetensors"


def test_a_file_that_is_not_there_comes_with_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"no detector .*python ood_methods.py"):
        Detector.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(kept, tmp_path, share):
    content = kept[1].read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cut short, or is no detector"):
        Detector.load(path)


@pytest.mark.parametrize("place", [0.3, 0.9, 0.999])
def test_one_other_bit_is_refused(kept, tmp_path, place):
    content = bytearray(kept[1].read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "bit.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"hash|cut short|changed after"):
        Detector.load(tmp_path / "bit.safetensors")


def test_edited_text_is_refused(kept, tmp_path):
    content, _ = packing.read(kept[1], "")
    content["method"] = "MSP"
    with pytest.raises(ValueError, match="hash"):
        Detector.load(changed(kept[1], tmp_path, content=json.dumps(content)))


def test_a_newer_format_is_refused(kept, tmp_path):
    path = changed(kept[1], tmp_path, format_version=2)
    with pytest.raises(ValueError, match="format version 2, and this code reads up to 1"):
        Detector.load(path)


def test_weights_of_a_network_are_no_detector(tmp_path):
    save_file({"weight": np.zeros((2, 3))}, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="no detector"):
        Detector.load(tmp_path / "net.safetensors")


class Bomb:
    """Runs where it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_a_file_with_code_runs_none(kept, tmp_path, capsys):
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="no detector"):
        Detector.load(tmp_path / "bomb.safetensors")
    made = replace(kept[0], facts={"note": pickle.dumps(Bomb()).hex()})
    made.save(tmp_path / "text.safetensors")
    assert isinstance(Detector.load(tmp_path / "text.safetensors").facts["note"], str)
    assert "unpickled" not in capsys.readouterr().out


def test_an_object_of_another_kind_is_not_made(kept, tmp_path):
    """A file names kinds of its own table alone, and no class to import."""
    content, arrays = packing.read(kept[1], "")
    content["facts"] = {"object": "os.system", "place": "facts", "fields": {}}
    packing.write(tmp_path / "odd.safetensors", content, arrays)
    with pytest.raises(ValueError, match="no detector that this version reads"):
        Detector.load(tmp_path / "odd.safetensors")
