"""Hyper-parameters chosen on a validation OOD set."""

import json

import numpy as np
import pytest
from helpers import (
    WIDTH,
    logits_of,
    read_csv,
    score,
    shell,
    toy_run,
    write_ood,
)
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

import ood_methods
from scores import registry


def test_a_validation_set_chooses_and_is_not_tested_on(folder):
    table, _ = score(folder, "--methods", "MSP", "Energy", "ViM", "--val-ood", "near")
    assert set(table["ood"]) == {"far_noise"} and not (folder / "scores_OOD_near.csv").exists()
    chosen = {
        row.method: json.loads(row.parameters) if isinstance(row.parameters, str) else {}
        for row in table.itertuples()
    }
    assert (
        chosen["Energy"]["val_ood"] == "near"
        and "val_ood" not in chosen["MSP"]
        and "val_ood" not in chosen["ViM"]
    )
    inside, outside = logits_of(folder, "ID_toy_val")[1], logits_of(folder, "OOD_near_test")[1]

    def area(temperature):
        values = temperature * logsumexp(np.concatenate([inside, outside]) / temperature, axis=1)
        return roc_auc_score(np.repeat([1, 0], [len(inside), len(outside)]), values)

    grid = registry.METHODS["Energy"].grid.values
    assert area(chosen["Energy"]["temperature"]) == pytest.approx(max(map(area, grid)), abs=1e-4)
    assert len({round(area(value), 3) for value in grid}) > 1, "the choice matters here"


def test_what_a_validation_set_chose_is_said_wherever_the_numbers_stand(folder):
    printed = score(folder, "--methods", "MSP", "Energy", "GEN", "--val-ood", "near", "--latex")[1]
    said = "hyper-parameters of Energy, GEN chosen on near"
    for text in (
        printed,
        (folder / "ood_metrics.md").read_text(),
        (folder / "ood_metrics.tex").read_text(),
    ):
        assert said in text
    assert "chosen on" not in score(folder, "--methods", "MSP", "Energy", "--replace")[1]


def test_a_validation_set_that_leaves_a_score_undefined_chooses_nothing(folder):
    write_ood(
        folder,
        "dead",
        np.vstack([np.zeros(WIDTH), np.random.default_rng(0).uniform(size=(30, WIDTH))]),
    )
    words = ["--methods", "KNN", "Energy", "--val-ood", "dead"]
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    parameters = (
        read_csv(folder / "ood_metrics.csv").groupby("method")["parameters"].first().map(json.loads)
    )
    assert (
        ended.err.count(
            "KNN: undefined for some image that --val-ood compares, so its k is not chosen"
        )
        == 1
    )
    assert parameters["KNN"] == {"k": 50} and parameters["Energy"]["val_ood"] == "dead"


def test_a_given_value_is_not_chosen_again(folder):
    table, _ = score(folder, "--methods", "Energy", "--val-ood", "near", "--temperature", "3")
    assert json.loads(table["parameters"][0]) == {"temperature": 3.0}


@pytest.mark.parametrize("name", ["dtd", "Textures", "texture"])
def test_a_validation_set_goes_by_any_of_its_names(tmp_path, folder, name):
    folder = toy_run(tmp_path / "other" / "net_s0", ood=("near", "textures"))
    assert set(score(folder, "--methods", "Energy", "--val-ood", name)[0]["ood"]) == {"near"}


def test_a_validation_set_needs_validation_images(folder):
    (folder / "ID_toy_val.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", folder, "--val-ood", "near")
    assert ended.code == 2 and "has no ID_toy_val.csv" in ended.err and "--val-size" in ended.err
