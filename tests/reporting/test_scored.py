"""The scores of every image as the report reads them from a folder."""

import numpy as np
import pandas as pd
import pytest
from helpers import change_json, score, toy_run

from artifacts import records, store
from reporting import scored


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with two methods' scores, and its table."""
    folder = toy_run(tmp_path_factory.mktemp("scored") / "net")
    score(folder, "--methods", "MSP", "Energy")
    return folder


def read(folder, **change):
    table = pd.read_csv(folder / "ood_metrics.csv", keep_default_na=False).assign(**change)
    return scored.find(folder, table, records.Stale(False), "make it")


def test_each_image_has_its_scores_class_label_and_path(run):
    found = read(run)
    table = pd.read_csv(run / "scores_OOD_far_noise.csv")
    (far,) = [part for part in found.ood if part.name == "far_noise"]
    assert list(far.scores) == ["MSP", "Energy"] and len(far) == 60
    np.testing.assert_array_equal(far.scores["Energy"], table["Energy"])
    assert far.taken_for == table["predicted_class"].tolist()
    assert far.paths == [f"far_noise/{number:03}.png" for number in range(60)]
    assert far.features == run / "OOD_far_noise_test"
    assert found.id.labels.tolist() == store.read_features(run / "ID_toy_test.csv").labels.tolist()
    assert found.id.paths is None, "the ID images of the toy have none"
    said = records.read_sidecar(run / "scores_ID_toy.csv")["thresholds"]
    assert found.thresholds == {"MSP": said["MSP"], "Energy": said["Energy"]}


def test_a_method_with_several_parameters_has_no_column_of_its_own():
    table = pd.DataFrame(
        {
            "ood": ["a"] * 3,
            "method": ["KNN", "KNN", "MSP"],
            "parameters": ['{"k": 1}', '{"k": 2}', ""],
        }
    )
    assert list(scored.columns(table).values()) == ["MSP"]


def test_a_set_without_scores_is_left_out_and_without_id_scores_all(run, tmp_path):
    assert scored.find(run, None, records.Stale(False), "make it") is None
    table = pd.read_csv(run / "ood_metrics.csv", keep_default_na=False)
    more = pd.concat([table, table[table["ood"] == "near"].assign(ood="gone")])
    found = scored.find(run, more, records.Stale(False), "make it")
    assert [part.name for part in found.ood] == ["far_noise", "near"]
    assert read(run, dataset="other") is None


def test_empty_cells_are_undefined_scores_and_empty_texts():
    import polars as pl

    column = scored.numbers(pl.Series([1, None, 3]))
    assert column.dtype == np.float64 and np.isnan(column[1]) and column[2] == 3
    table = pl.DataFrame({"path": ["007", None]})
    assert scored.texts(table, "path") == ["007", ""] and scored.texts(table, "x") is None


def test_scores_that_were_edited_are_refused_with_the_command(tmp_path):
    folder = toy_run(tmp_path / "net")
    score(folder, "--methods", "MSP")
    change_json(folder / "scores_ID_toy.json", lambda said: said.update(sha256="0" * 64))
    change_json(folder / "scores_ID_toy.json", lambda said: said.update(content_sha256="0" * 64))
    with pytest.raises(ValueError, match=r"scores_ID_toy\.csv.*make it"):
        read(folder)
