"""A classifier with more classes than the data: head_full.csv beside head.csv, and the scores that
take its other rows as evidence."""

import numpy as np
import pytest
from helpers import logits_of, read_csv, score, shell, toy_run
from scipy import special

import ood_methods
from artifacts import records, store
from head import Head
from scores import registry

NAMES = ["ant", "cat", "bee", "dog", "bird", "cow", "frog"]
OTHERS = [0, 2, 5]


def add_whole_head(folder, change=0.0):
    """head_full.csv of seven classes, of which four are the data's -> W and b of the others."""
    head, rng = store.read_head(folder / "head.csv"), np.random.default_rng(7)
    W = rng.normal(size=(len(NAMES), head.W.shape[1])).astype(np.float32)
    b = rng.normal(size=len(NAMES)).astype(np.float32)
    rows = [NAMES.index(name) for name in head.class_names]
    W[rows], b[rows] = head.W + np.float32(change), head.b
    sidecar = records.read_sidecar(folder / "head.csv")
    facts = {"checkpoint_sha256": sidecar["checkpoint_sha256"]}
    store.write_head(folder / "head_full.csv", W, b, NAMES, facts)
    return W[OTHERS], b[OTHERS]


@pytest.fixture
def larger(folder):
    """A run with blank figures and a larger head, and the head's other rows."""
    return folder, add_whole_head(folder)


# ---- head.py -------------------------------------------------------------------------------------


def test_the_other_rows_of_a_head_are_those_that_the_data_has_not():
    whole = Head(np.arange(8.0).reshape(4, 2), np.arange(4.0), ["a", "b", "c", "d"])
    own = Head(whole.W[[2, 0]], whole.b[[2, 0]], ["c", "a"])
    W, b = own.others(whole)
    assert W.tolist() == [[2, 3], [6, 7]]
    assert b.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Head(np.zeros((1, 2)), np.zeros(1), ["z"]), "no row for the class z"),
        (Head(np.ones((1, 2)), np.zeros(1), ["a"]), "its weights for the same classes are others"),
        (Head(np.zeros((1, 2)), np.ones(1), ["a"]), "its weights for the same classes are others"),
        (Head(np.zeros((2, 2)), np.zeros(2), ["b", "a"]), "the same 2 classes and no more"),
    ],
)
def test_heads_that_do_not_belong_together_are_told_apart(own, said):
    with pytest.raises(ValueError, match=said):
        own.others(Head(np.zeros((2, 2)), np.zeros(2), ["a", "b"]))


# ---- ood_methods.py ------------------------------------------------------------------------------


def test_the_margin_is_in_the_table_where_there_is_a_larger_head(larger):
    folder, (W, b) = larger
    table, _ = score(folder)
    assert list(dict.fromkeys(table["method"])) == registry.defaults(rest=True)
    for name in ("ID_toy", "OOD_near"):
        features = store.read_features(folder / f"{name}_test.csv").features
        every = np.hstack([logits_of(folder, f"{name}_test")[1], features @ W.T + b])
        share = special.softmax(every.astype(np.float64), axis=1)[:, :4].sum(axis=1)
        found = read_csv(folder / f"scores_{name}.csv")["EnergyMargin"]
        np.testing.assert_allclose(special.expit(found), share, rtol=1e-4, atol=1e-6)
    read = ood_methods.current.Record.read(folder / "ood_methods.json")
    assert read.inputs["head_full.csv"] == records.sha256(folder / "head_full.csv")


def test_the_energy_over_the_whole_head_is_computed_by_name(larger):
    folder, (W, b) = larger
    table, _ = score(folder, "--methods", "energy-fullhead", "Energy")
    assert set(table["method"]) == {"Energy-FullHead", "Energy"}
    features = store.read_features(folder / "OOD_near_test.csv").features
    every = np.hstack([logits_of(folder, "OOD_near_test")[1], features @ W.T + b])
    found = read_csv(folder / "scores_OOD_near.csv")["Energy-FullHead"]
    np.testing.assert_allclose(found, special.logsumexp(every, axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    "words", [("--methods", "EnergyMargin"), ("--combine", "MSP,EnergyMargin")]
)
def test_without_a_larger_head_the_margin_is_refused(folder, words):
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert ended.code == 2
    assert "has no head_full.csv, without which there is no EnergyMargin" in ended.err


def test_an_ensemble_refuses_it(folder, tmp_path):
    other = toy_run(tmp_path / "net_s1", seed=1)
    words = ("--checkpoint", folder, other, "--ensemble", "--methods", "EnergyMargin")
    ended = shell(ood_methods.main, *words)
    assert ended.code == 2
    assert "EnergyMargin is of a single network" in ended.err


def test_a_head_of_another_classifier_is_refused(folder):
    add_whole_head(folder, change=0.5)
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 2
    assert "head_full.csv does not belong to" in ended.err
    assert "its weights for the same classes are others" in ended.err


def test_an_edited_larger_head_is_refused(larger):
    folder, _ = larger
    path = folder / "head_full.csv"
    path.write_text(path.read_text().replace("cow,", "calf,"))
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 2
    assert "head_full.csv" in ended.err and "--allow-stale" in ended.err


def test_a_larger_head_of_another_checkpoint_is_left_out(folder):
    add_whole_head(folder)
    sidecar = records.read_sidecar(folder / "head_full.csv")
    head = store.read_head(folder / "head_full.csv")
    foreign = {"checkpoint_sha256": "b" * 64, "rows": sidecar["rows"]}
    store.write_head(folder / "head_full.csv", head.W, head.b, head.class_names, foreign)
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP")
    assert ended.code == 0
    assert "head_full.csv was made from another checkpoint and is left out" in ended.err
    assert set(read_csv(folder / "scores_ID_toy.csv")) & set(registry.METHODS) == {"MSP"}
    score(folder)
    args = ood_methods.parse_args(["--checkpoint", str(folder)])
    with pytest.warns(UserWarning, match="was made from another checkpoint"):
        assert ood_methods.why_incomplete(folder, args) == ""


def test_only_rows_that_need_it_go_where_the_larger_head_changes(larger):
    folder, _ = larger
    score(folder, "--methods", "MSP", "EnergyMargin")
    assert set(score(folder, "--methods", "Energy")[0]["method"]) == {
        "MSP",
        "Energy",
        "EnergyMargin",
    }
    (folder / "head_full.csv").unlink()
    records.sidecar_path(folder / "head_full.csv").unlink()
    table, printed = score(folder, "--methods", "Entropy")
    assert set(table["method"]) == {"MSP", "Energy", "Entropy"}
    assert "head_full changed, came or went since; the earlier rows of EnergyMargin go" in printed


def test_a_table_made_before_the_larger_head_is_not_complete(folder):
    score(folder)
    args = ood_methods.parse_args(["--checkpoint", str(folder)])
    assert ood_methods.why_incomplete(folder, args) == ""
    add_whole_head(folder)
    assert ood_methods.why_incomplete(folder, args) == "its table was made without EnergyMargin"
    score(folder)
    assert ood_methods.why_incomplete(folder, args) == ""
