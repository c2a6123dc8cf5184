"""The scores of every image, read back from files as ood_methods.py writes them."""

import json

import numpy as np
import pandas as pd
import pytest

from artifacts import records, store
from reporting import scored

REMEDY = "python ood_methods.py --checkpoint net"


def metrics(*rows, dataset="pets"):
    """ood_metrics.csv of (set, method, parameters)."""
    table = pd.DataFrame(rows, columns=["ood", "method", "parameters"])
    return table.assign(dataset=dataset)


TABLE = metrics(("svhn", "MSP", ""), ("svhn", "KNN", '{"k": 5}'), ("gone", "MSP", ""))


def write(folder, name, frame, **facts):
    store.write_table(folder / name, frame, {"thresholds": {}, **facts})


@pytest.fixture
def folder(tmp_path):
    """Scores of three ID images and two OOD images; `gone` has none."""
    inside = {
        "label": [0, 1, 1],
        "predicted_class": ["cat", "007", "cat"],
        "MSP": [0.5, np.nan, 0.9],
        "KNN": [-1.0, -2.0, -3.0],
    }
    outside = {"path": ["a/1.png", "b/2.png"], "label": [-1, -1], "MSP": [0.25, 0.75]}
    thresholds = {"MSP": 0.5, "Energy": 3.0}
    write(tmp_path, "scores_ID_pets.csv", pd.DataFrame(inside), thresholds=thresholds)
    write(tmp_path, "scores_OOD_svhn.csv", pd.DataFrame(outside))
    said = json.dumps({"place": "svhn=images"})
    (tmp_path / "OOD_svhn_test.json").write_text(said)
    return tmp_path


def find(folder, table=TABLE, allow=False):
    return scored.find(folder, table, records.Stale(allow), REMEDY)


def test_scores_labels_classes_and_paths_are_those_of_the_files(folder):
    run = find(folder)
    np.testing.assert_array_equal(run.id.scores["MSP"], [0.5, np.nan, 0.9])
    np.testing.assert_array_equal(run.id.scores["KNN"], [-1, -2, -3])
    assert run.id.labels.tolist() == [0, 1, 1] and run.id.labels.dtype == np.int64
    assert run.id.taken_for == ["cat", "007", "cat"], "a name is text"
    assert run.id.paths is None and len(run.id) == 3
    (svhn,) = run.ood
    assert svhn.name == "svhn" and svhn.paths == ["a/1.png", "b/2.png"]
    assert svhn.taken_for is None and list(svhn.scores) == ["MSP"], "KNN was not kept for it"
    assert svhn.images == {"place": "svhn=images"} and run.id.images == {}


def test_thresholds_are_of_methods_of_the_table_alone(folder):
    assert find(folder).thresholds == {"MSP": 0.5}


def test_a_method_with_several_parameters_is_left_out(folder):
    several = ('{"k": 5}', '{"k": 50}')
    table = metrics(("svhn", "MSP", ""), *(("svhn", "KNN", words) for words in several))
    assert list(find(folder, table).id.scores) == ["MSP"]
    assert list(scored.columns(table).values()) == ["MSP"]


@pytest.mark.parametrize("table", [None, TABLE.drop(columns="dataset"), TABLE.assign(dataset="x")])
def test_without_a_table_or_scores_of_id_images_there_is_nothing(folder, table):
    assert find(folder, table) is None


def test_edited_scores_are_refused_with_the_command_and_taken_where_that_is_asked(folder):
    path = folder / "scores_OOD_svhn.csv"
    path.write_text(path.read_text().replace("0.25", "0.35"))
    with pytest.raises(ValueError, match=r"scores_OOD_svhn\.csv") as refused:
        find(folder)
    assert REMEDY in str(refused.value)
    np.testing.assert_array_equal(find(folder, allow=True).ood[0].scores["MSP"], [0.35, 0.75])
