"""A score of one's own: tried on a small set, then a row like any other; each mistake has one clear
message."""

import json

import numpy as np
import pytest
from helpers import read_csv, score, shell, toy_run

import ood_methods
from detection import own
from scores import registry

TOY = """
class Toy:
    def fit(self, train):
        self.mean = train.mean

    def score(self, features, logits):
        return SIGN((features - self.mean) ** 2).sum(axis=1)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes my_score.py, and forgets its methods in the end."""
    for rows in (registry.METHODS, registry.ROWS):
        for name in ("Toy", "Other"):
            monkeypatch.setitem(rows, name, None)
            rows.pop(name)

    def write(text):
        path = tmp_path / "my_score.py"
        path.write_text(text)
        return path

    return write


def test_a_score_of_ones_own_is_a_row_like_any_other(file, tmp_path):
    path = file(TOY.replace("SIGN", "-"))
    folder = toy_run(tmp_path / "net_s0")
    table, _ = score(folder, "--methods", "MSP", f"{path}:Toy")
    assert list(table["method"]) == ["MSP", "Toy"] * 2
    said = json.loads(table["parameters"].iloc[1])
    assert said["file"] == f"{path}:Toy" and len(said["sha256"]) == 64
    train = read_csv(folder / "ID_toy_train.csv").filter(like="ct").to_numpy()
    test = read_csv(folder / "OOD_near_test.csv").filter(like="ct").to_numpy()
    expected = -((test - train.mean(axis=0)) ** 2).sum(axis=1)
    found = read_csv(folder / "scores_OOD_near.csv")["Toy"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    record = json.loads((folder / "ood_methods.json").read_text())
    assert any(name.endswith("my_score.py") for name in record["inputs"])


def test_the_wrong_direction_is_said(file, tmp_path):
    path = file(TOY.partition("return")[0] + "return -logits.max(axis=1)")
    table, printed = score(toy_run(tmp_path / "net_s0"), "--methods", f"{path}:Toy")
    assert (table["auroc"] < 0.5).all()
    assert "its AUROC is below 0.5 on every set" in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Toy: pass", "Toy has no fit and no score; expected fit(train) and score("),
        ("class Toy:\n    def fit(self, train): pass", "Toy has no score; expected"),
        ("class Other: pass", "defines no class Toy"),
        ("import nothing_like_it", "fails: ModuleNotFoundError"),
        (TOY.replace("SIGN(", "np.nan * ("), "NameError: name 'np' is not defined"),
        (TOY.replace("SIGN(", "float('nan') * ("), "score is NaN or infinite for 60 of 60"),
        (TOY.replace("SIGN(", "-(").replace("axis=1", "axis=0"), "score gave shape (8,) for 60"),
        (
            TOY.replace("SIGN((features - self.mean)", "-((features - features.mean())"),
            "score changes with the images beside an image",
        ),
    ],
)
def test_each_mistake_has_one_message(file, text, said):
    path = file(text)
    with pytest.raises(ValueError) as raised:
        own.register(f"{path}:Toy")
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("KNN", "KNN is the name of a method that is there"), ("a b", "expected FILE.py:NAME")],
)
def test_names_that_are_refused(file, name, said):
    path = file(TOY.replace("SIGN", "-"))
    with pytest.raises(ValueError, match=said):
        own.register(f"{path}:{name}")


def test_a_file_that_is_not_there_and_a_name_twice(file, tmp_path):
    ended = shell(ood_methods.main, "--checkpoint", tmp_path, "--methods", "gone.py:Toy")
    assert ended.code == 2
    assert "there is no file gone.py" in ended.err
    path = file(TOY.replace("SIGN", "-"))
    same = tmp_path / "other_score.py"
    same.write_text(path.read_text())
    ended = shell(
        ood_methods.main, "--checkpoint", tmp_path, "--methods", f"{path}:Toy", f"{same}:Toy"
    )
    assert "Toy is named twice" in ended.err
