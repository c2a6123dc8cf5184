"""The score files, their sidecars, the record, and what goes with an earlier table."""

import numpy as np
import pandas as pd
import pytest
from helpers import (
    logits_of,
    read_csv,
    score,
    score_columns,
    toy_run,
    write_blank,
)

import utils
from artifacts import records
from detection import metrics
from detection.detector import Detector
from scores import registry


@pytest.mark.parametrize(
    ("stem", "first", "rows"),
    [("ID_toy", [], 100), ("OOD_far_noise", ["path"], 60), ("OOD_near", [], 80)],
)
def test_score_files_have_a_row_an_image_and_a_column_a_method(done, stem, first, rows):
    table = read_csv(done[0] / f"scores_{stem}.csv")
    assert list(table.columns) == score_columns(registry.DEFAULT, first)
    accepted = read_csv(done[0] / f"accepted_{stem}.csv")
    passes = [f"{name}_accepted" for name in registry.DEFAULT]
    assert list(accepted.columns) == [*first, "label", *passes]
    assert len(table) == len(accepted) == rows
    for kind in ("scores", "accepted"):
        assert records.read_sidecar(done[0] / f"{kind}_{stem}.csv")["rows"] == rows


@pytest.mark.parametrize("stem", ["ID_toy", "OOD_far_noise", "OOD_near"])
def test_the_verdicts_are_those_of_the_detector_beside_them(done, stem):
    """To the bit, on the same features."""
    detector = Detector.load(done[0] / "detector.safetensors")
    features = read_csv(done[0] / f"{stem}_test.csv").filter(regex="^ct").to_numpy(np.float32)
    scored = read_csv(done[0] / f"scores_{stem}.csv")
    scores = detector.score(features)
    for name, values in scores.items():
        np.testing.assert_array_equal(scored[name], values, err_msg=name)
    assert set(registry.DEFAULT) - set(scores) == {"KNN", "NNGuide", "Relation"}
    found = detector.judge(scores[detector.method], features)
    assert list(scored["verdict"]) == found.verdict
    assert list(scored["predicted_class"]) == found.classes
    np.testing.assert_allclose(scored["percentile"], found.percentile, rtol=1e-6)
    np.testing.assert_allclose(scored["p_value"], found.p_value, rtol=1e-6)


def test_the_verdicts_threshold_is_of_the_validation_images(done):
    detector = Detector.load(done[0] / "detector.safetensors")
    held_out = read_csv(done[0] / "scores_val_toy.csv")[detector.method]
    least = np.sort(held_out)[int(0.05 * (len(held_out) + 1)) - 1]
    for stem in ("ID_toy", "OOD_near"):
        scored = read_csv(done[0] / f"scores_{stem}.csv")
        kept = scored[detector.method] >= least
        assert list(scored["verdict"] == "accepted") == list(kept)


def test_score_files_keep_order_labels_paths_and_classes(done):
    for stem in ("ID_toy", "OOD_far_noise", "OOD_near"):
        scored = read_csv(done[0] / f"scores_{stem}.csv")
        features = read_csv(done[0] / f"{stem}_test.csv")
        assert list(scored["label"]) == list(features["label"])
        if "path" in features:
            assert list(scored["path"]) == list(features["path"])
        prediction = logits_of(done[0], f"{stem}_test")[1].argmax(1)
        assert list(scored["prediction"]) == list(prediction)
        assert list(scored["predicted_class"]) == [
            ["cat", "dog", "bird", "frog"][c] for c in prediction
        ]


def test_thresholds_keep_95_percent_of_id_and_say_which_images_pass(done):
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    passed = read_csv(done[0] / "accepted_ID_toy.csv")
    table = read_csv(done[0] / "ood_metrics.csv").set_index(["ood", "method"])
    thresholds = records.read_sidecar(done[0] / "scores_ID_toy.csv")["thresholds"]
    assert list(thresholds) == list(registry.DEFAULT)
    for method, threshold in thresholds.items():
        assert threshold == np.sort(inside[method])[5]  # 95 of 100 at or above it
        assert (
            passed[f"{method}_accepted"].sum() >= 95
            and (passed[f"{method}_accepted"] == (inside[method] >= threshold)).all()
        )
        for name in ("far_noise", "near"):
            outside = read_csv(done[0] / f"scores_OOD_{name}.csv")
            accepted = read_csv(done[0] / f"accepted_OOD_{name}.csv")
            assert (accepted[f"{method}_accepted"] == (outside[method] >= threshold)).all()
            assert accepted[f"{method}_accepted"].mean() == pytest.approx(
                table.loc[(name, method), "fpr95"], abs=1e-12
            )


def test_the_sidecars_say_what_made_the_files(done):
    for name in ("ood_metrics", "scores_ID_toy", "scores_OOD_near"):
        sidecar = records.read_sidecar(done[0] / f"{name}.csv")
        assert sidecar["checkpoint_sha256"] == "a" * 64 and sidecar["tpr"] == 0.95
        assert {"command", "arguments", "versions", "git_commit", "created", "rows"} <= set(sidecar)


def test_the_record_names_all_that_was_read_and_written(done):
    record = utils.read_json(done[0] / "ood_methods.json")
    read = {name for name, digest in record["inputs"].items() if digest}
    assert read == {
        "head.csv",
        "ID_toy_train.csv",
        "ID_toy_val.csv",
        "ID_toy_test.csv",
        "OOD_far_noise_test.csv",
        "OOD_near_test.csv",
    }
    assert {"ODIN_ID_toy_test.csv", "ID_toy_val.parquet"} <= set(record["inputs"]) - read, (
        "what was absent, as absent"
    )
    assert record["listings"] == {
        "OOD_*_test.*": sorted(path.name for path in done[0].glob("OOD_*_test.*")),
        "CSID_*_test.*": [],
    }
    written = {
        str(path.relative_to(done[0]))
        for path in done[0].rglob("*")
        if path.suffix in (".csv", ".png", ".md", ".tex", ".safetensors")
    }
    assert set(record["outputs"]) == written - set(record["inputs"])
    drawn = {
        f"figures/{name}.png"
        for name in (
            "auroc_bars",
            "principal_components",
            "principal_components_three",
            "scores_MSP",
        )
    }
    assert {
        "ood_metrics.csv",
        "ood_metrics.md",
        "ood_metrics.tex",
        "scores_ID_toy.csv",
        *drawn,
    } <= set(record["outputs"])


def test_what_was_made_of_an_earlier_table_goes_and_score_files_stay(folder):
    score(folder, "--methods", "MSP", "ViM", "--groups", "all=near,far_noise", "--latex")
    mine = folder / "figures" / "mine.png"
    mine.write_bytes(b"a person's own")
    before = (folder / "scores_OOD_far_noise.csv").read_bytes()
    printed = score(folder, "--methods", "MSP", "--ood", "near", "--replace")[1]
    for name in ("ood_groups.csv", "ood_groups.json", "ood_metrics.tex", "figures/scores_ViM.png"):
        assert not (folder / name).exists(), name
    assert "ood_groups.csv" in printed and "figures/scores_ViM.png" in printed and mine.exists()
    assert (folder / "scores_OOD_far_noise.csv").read_bytes() == before
    assert "removed" not in score(folder, "--methods", "MSP", "--ood", "near")[1]


def test_a_persons_photographs_get_a_row_each_ready_to_sort(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("mine", "near"))
    score(folder, "--ood", "mine=some/photographs", "--tpr", "0.9", "--methods", "Energy", "ViM")
    table = pd.read_csv(folder / "scores_OOD_mine.csv")
    assert list(table.columns) == [
        "path",
        "verdict",
        "predicted_class",
        "percentile",
        "p_value",
        "Energy",
        "label",
        "prediction",
        "ViM",
        "Energy_p",
        "ViM_p",
    ]
    assert list(table["path"]) == [f"mine/{n:03}.png" for n in range(60)]
    assert set(table["predicted_class"]) <= {"cat", "dog", "bird", "frog"}
    inside = pd.read_csv(folder / "scores_ID_toy.csv")
    accepted = pd.read_csv(folder / "accepted_OOD_mine.csv")
    of_id = pd.read_csv(folder / "accepted_ID_toy.csv")
    assert list(accepted.columns) == ["path", "label", "Energy_accepted", "ViM_accepted"]
    for name in ("Energy", "ViM"):
        assert accepted[f"{name}_accepted"].dtype == bool and of_id[f"{name}_accepted"].sum() == 90
        assert (accepted[f"{name}_accepted"] == (table[name] >= np.sort(inside[name])[10])).all()


def test_the_thresholds_are_those_of_the_metrics_library(done):
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    assert records.read_sidecar(done[0] / "scores_ID_toy.csv")["thresholds"][
        "ViM"
    ] == metrics.threshold_at_tpr(inside["ViM"], 0.95)
