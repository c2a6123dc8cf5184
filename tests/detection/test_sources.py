"""detection/sources.py, answers.py and gallery.py: what is asked for, and what is said."""

import io
import itertools

import numpy as np
import pytest

from detection import answers, gallery, sources
from detection.answers import Answer, Printer
from detection.detector import Verdicts


def test_parts_take_no_more_than_they_need():
    numbers = iter(range(10**9))
    found = sources.parts(numbers, 4)
    assert next(found) == [0, 1, 2, 3]
    assert next(numbers) == 4
    assert list(sources.parts(range(5), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("name", ["features", "anything"])
def test_features_of_an_npz_and_the_names_of_its_rows(tmp_path, name):
    values = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "a.npz", **{name: values}, labels=np.zeros(3, int))
    found = sources.rows(str(tmp_path / "a.npz"), 2, {})
    np.testing.assert_array_equal(found.features, values)
    assert found.names == [f"{tmp_path}/a.npz:{row}" for row in (1, 2, 3)]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, "expected features"),
        ({"features": np.zeros((2, 3))}, r"shape \(2, 3\), and the detector knows \(N, 2\)"),
        ({"features": np.zeros((2, 2)), "paths": np.array(["a"])}, "2 rows of features and 1"),
        ({"features": np.array([[None, 1]])}, "no .npz that can be read"),
        ({"features": np.array([["a", "b"]])}, "expected features"),
    ],
)
def test_an_npz_of_another_form_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        sources.rows(str(tmp_path / "a.npz"), 2, {})


@pytest.mark.parametrize("share", [0, 0.4, 0.9])
def test_an_npz_that_is_cut_short_is_refused(tmp_path, share):
    np.savez(tmp_path / "a.npz", features=np.zeros((50, 2)))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz"):
        sources.rows(str(tmp_path / "a.npz"), 2, {})


def answer(path="a.png", verdict="accepted", score=1.0, **more):
    return Answer(
        path, verdict, *{"c": "cat", "percentile": 5.0, "p": 0.05, **more}.values(), score
    )


def printed(format, *given):
    stream = io.StringIO()
    printer = Printer(format, "MSP", 5, stream)
    printer.write(given)
    return stream.getvalue()


def test_a_name_breaks_no_line_and_runs_in_no_spreadsheet():
    odd = answer(path="a\nb\x1b.png")
    assert printed("table", odd) == "accepted   cat      5.0%  p 0.0500  a\\nb\\x1b.png\n"
    assert printed("csv", answer(path="=1+1")).splitlines()[1].startswith("'=1+1,accepted,cat,5.0")


def test_an_undefined_score_is_empty():
    found = Verdicts("MSP", np.array([np.nan]), ["undefined"], *2 * [np.array([np.nan])], None)
    (one,) = answers.answers_of(["a.png"], found)
    assert one == Answer("a.png", "undefined", None, None, None, None)
    assert '"score": null' in printed("jsonl", one)
    assert printed("csv", one).splitlines()[1] == "a.png,undefined,,,,"


@pytest.mark.parametrize(
    ("verdicts", "broken", "code"),
    [
        (["accepted"], 0, 0),
        (["accepted", "rejected"], 0, 3),
        (["undefined"], 0, 3),
        (["accepted"], 1, 2),
        ([], 0, 2),
    ],
)
def test_exit_codes(verdicts, broken, code):
    taken = answers.Answers(Printer("table", "MSP", 0, io.StringIO()))
    values = np.zeros(len(verdicts))
    taken.add(verdicts, Verdicts("MSP", values, verdicts, values, values, None))
    taken.broken = broken
    assert taken.code == code


def test_a_copy_takes_the_next_free_name(tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for number, text in enumerate(("one", "two", "one")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_text(text)
        answers.copy_into(copies, str(tmp_path / str(number) / "a.png"))
    assert {path.name: path.read_text() for path in copies.iterdir()} == {
        "a.png": "one",
        "a-2.png": "two",
    }


def test_a_gallery_keeps_the_lowest_scores_however_many_come(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 3)
    page = gallery.Gallery("net <b>")
    scores = [5, 1, 4, 1, 3, None, 9]
    for number, score in enumerate(scores):
        page.add(answer(path=f"{number}.png", verdict="rejected", score=score))
    assert [one.path for one in page.rejected.answers()] == ["5.png", "1.png", "3.png"]
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Rejected: 7, the 3 with the lowest scores" in text and "<b>" not in text


def test_arrivals_are_taken_when_they_no_longer_change(tmp_path):
    (tmp_path / "a.png").write_text("1")
    found = sources.arrivals(str(tmp_path), 0)
    seen = [[one.path for one in next(found)] for _ in range(3)]
    a = str(tmp_path / "a.png")
    assert seen == [[], [a], []]
    (tmp_path / "a.png").write_text("longer")
    assert list(itertools.chain(*([one.path for one in next(found)] for _ in range(3)))) == [a]
