"""From feature CSVs to score CSVs, the tidy table and what is printed; every number against an
independent computation."""

import json
import math
import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers import CLASSES, WIDTH, read_csv, score, shell, toy_run, write_blank
from scipy.special import logsumexp, softmax
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import neural_collapse
import ood_methods
import report
import utils
from artifacts import records, store
from detection import drawing, metrics, tables
from scores import registry

METRICS = [
    "checkpoint",
    "dataset",
    "ood",
    "method",
    "parameters",
    "auroc",
    "auroc_low",
    "auroc_high",
    "fpr95",
    "fpr95_ood_positive",
    "aupr_in",
    "aupr_out",
    "id_share",
    "detection_error",
    "n_id",
    "n_ood",
    "ties",
    "accuracy",
    "accuracy_at_tpr",
    "best",
    "note",
]
CORE = ("MSP", "MaxLogit", "Energy")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder, what was printed) of a run with every method and a LaTeX table; read it, change
    nothing."""
    folder = toy_run(tmp_path_factory.mktemp("scored") / "net_s0")
    ended = shell(
        ood_methods.main,
        "--checkpoint",
        folder,
        "--latex",
        "--caption",
        r"$50\%$ of it",
        "--label",
        "tab:x",
    )
    assert ended.code == 0, ended.err
    return folder, ended.out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run to score, with blank figures; those of `done` are drawn."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    return toy_run(tmp_path / "net_s0")


def logits_of(folder, stem):
    """Features and logits in float64, from the CSVs alone and by pandas alone."""
    head = read_csv(folder / "head.csv")
    features = (
        read_csv(folder / f"{stem}.csv").filter(regex=r"^ct\d+$").to_numpy(np.float32).astype(float)
    )
    return (
        features,
        features @ head.filter(regex=r"^w\d+$").to_numpy(np.float32).T.astype(float)
        + head["bias"].to_numpy(),
    )


def printed_rows(text):
    """Method: numbers, from a printed table."""
    lines = [line.split() for line in text.splitlines()]
    return {
        words[0]: [float(word) for word in words[1:]]
        for words in lines
        if words and words[0] in registry.METHODS
    }


# ---- the files -----------------------------------------------------------------------------------


def test_the_table_has_a_row_a_set_and_method_and_these_columns(done):
    table = read_csv(done[0] / "ood_metrics.csv")
    assert list(table.columns) == METRICS
    assert list(zip(table["ood"], table["method"], strict=True)) == [
        (name, method) for name in ("far_noise", "near") for method in registry.DEFAULT
    ]
    assert set(table["checkpoint"]) == {"net_s0"} and set(table["dataset"]) == {"toy"}
    assert set(table["n_id"]) == {100} and list(table.groupby("ood")["n_ood"].first()) == [60, 80]


@pytest.mark.parametrize(
    ("stem", "first", "rows"),
    [("ID_toy", [], 100), ("OOD_far_noise", ["path"], 60), ("OOD_near", [], 80)],
)
def test_score_files_have_a_row_an_image_and_a_column_a_method(done, stem, first, rows):
    table = read_csv(done[0] / f"scores_{stem}.csv")
    assert list(table.columns) == [
        *first,
        "label",
        "prediction",
        "predicted_class",
        *registry.DEFAULT,
        *(f"{name}_accepted" for name in registry.DEFAULT),
    ]
    assert len(table) == rows == records.read_sidecar(done[0] / f"scores_{stem}.csv")["rows"]


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


@pytest.mark.parametrize("stem", ["ID_toy", "OOD_far_noise", "OOD_near"])
def test_logit_scores_equal_their_formulas(done, stem):
    scored, (_, logits) = (
        read_csv(done[0] / f"scores_{stem}.csv"),
        logits_of(done[0], f"{stem}_test"),
    )
    # Logits are float32 products in the pipeline, float64 here.
    np.testing.assert_allclose(scored["MSP"], softmax(logits, axis=1).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scored["MaxLogit"], logits.max(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scored["Energy"], logsumexp(logits, axis=1), rtol=1e-5, atol=1e-5)


def test_every_metric_equals_scikit_learns_of_the_score_files(done):
    table = read_csv(done[0] / "ood_metrics.csv").set_index(["ood", "method"])
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    for (name, method), row in table.iterrows():
        outside = read_csv(done[0] / f"scores_OOD_{name}.csv")
        values = np.concatenate([inside[method], outside[method]])
        is_id = np.repeat([1, 0], [len(inside), len(outside)])
        assert row["auroc"] == pytest.approx(roc_auc_score(is_id, values), abs=1e-12)
        assert row["aupr_in"] == pytest.approx(average_precision_score(is_id, values), abs=1e-12)
        assert row["aupr_out"] == pytest.approx(
            average_precision_score(1 - is_id, -values), abs=1e-12
        )
        false, true, _ = roc_curve(is_id, values, drop_intermediate=False)
        assert row["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)
        assert row["detection_error"] == pytest.approx(((1 - true + false) / 2).min(), abs=1e-12)
        false, true, _ = roc_curve(1 - is_id, -values, drop_intermediate=False)
        assert row["fpr95_ood_positive"] == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)
        assert (
            row["ties"] == (inside[method].to_numpy()[:, None] == outside[method].to_numpy()).sum()
        )
        assert row["id_share"] == len(inside) / len(values)
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]


def test_thresholds_keep_95_percent_of_id_and_say_which_images_pass(done):
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    table = read_csv(done[0] / "ood_metrics.csv").set_index(["ood", "method"])
    thresholds = records.read_sidecar(done[0] / "scores_ID_toy.csv")["thresholds"]
    assert list(thresholds) == list(registry.DEFAULT)
    for method, threshold in thresholds.items():
        assert threshold == np.sort(inside[method])[5]  # 95 of 100 at or above it
        assert (
            inside[f"{method}_accepted"].sum() >= 95
            and (inside[f"{method}_accepted"] == (inside[method] >= threshold)).all()
        )
        for name in ("far_noise", "near"):
            outside = read_csv(done[0] / f"scores_OOD_{name}.csv")
            assert (outside[f"{method}_accepted"] == (outside[method] >= threshold)).all()
            assert outside[f"{method}_accepted"].mean() == pytest.approx(
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
        "OOD_*_test.*": sorted(path.name for path in done[0].glob("OOD_*_test.*"))
    }
    written = {
        str(path.relative_to(done[0]))
        for path in done[0].rglob("*")
        if path.suffix in (".csv", ".png", ".md", ".tex")
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


def test_figures_are_pngs(done):
    for path in (done[0] / "figures").iterdir():
        assert (
            path.suffix == ".png"
            and path.read_bytes().startswith(b"\x89PNG\r\n")
            and path.stat().st_size > 5000
        )


def test_the_components_drawn_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    features = (
        generator.normal(size=(500, WIDTH)) @ generator.normal(size=(WIDTH, WIDTH)) + 3
    ).astype(np.float32)
    fitted = registry.Training(
        features, np.arange(500) % CLASSES, np.ones((CLASSES, WIDTH)), np.zeros(CLASSES)
    )
    centre, axes, explained = drawing.leading_components(fitted)
    pca = PCA(3).fit(features.astype(float))
    np.testing.assert_allclose(centre, pca.mean_, atol=1e-5)
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(axes.T * pca.components_, axis=1)), 1, atol=1e-5)


# ---- what is printed is what was written ---------------------------------------------------------


def test_the_printed_table_is_the_written_one_in_percent(done):
    table = read_csv(done[0] / "ood_metrics.csv").set_index(["method", "ood"])
    shown = printed_rows(done[1])
    assert list(shown) == list(registry.DEFAULT)
    for method, numbers in shown.items():
        rates = (
            100
            * table.loc[[(method, "far_noise"), (method, "near")], ["auroc", "fpr95"]].to_numpy()
        )
        np.testing.assert_allclose(
            numbers, [*rates.ravel(), *rates.mean(axis=0)], atol=0.005 + 1e-9
        )
    assert (
        "far_noise AUROC" in done[1]
        and "near FPR" in done[1]
        and "toy (100 test images, " in done[1]
    )
    assert "far_noise (60), near (80)" in done[1] and str(done[0]) in done[1]


def test_the_markdown_table_holds_the_printed_numbers(done):
    text = (done[0] / "ood_metrics.md").read_text()
    rows = {
        cells[1]: [float(cell.strip("*")) for cell in cells[2:-1]]
        for line in text.splitlines()
        if (cells := [cell.strip() for cell in line.split("|")])[1:2]
        and cells[1] in registry.DEFAULT
    }
    assert rows == printed_rows(done[1])
    assert text.count("**") == 2 * read_csv(done[0] / "ood_metrics.csv")["best"].sum()


def test_the_latex_table_is_escaped_and_sets_what_is_best_in_bold(done):
    text = (done[0] / "ood_metrics.tex").read_text()
    assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
    assert (
        r"\caption{$50\%$ of it}" in text
        and r"\label{tab:x}" in text
        and r"far\_noise" in text
        and "far_noise" not in text
    )
    body = [
        re.sub(r"\\textbf\{(.*?)\}", r"*\1", line).removesuffix(r" \\").split(" & ")
        for line in text.splitlines()
        if line.partition(" ")[0] in registry.DEFAULT
    ]
    assert {row[0]: [float(cell.strip("*")) for cell in row[1:]] for row in body} == printed_rows(
        done[1]
    )
    best = read_csv(done[0] / "ood_metrics.csv").set_index(["method", "ood"])["best"]
    for method, *cells in body:
        bold = [best[method, "far_noise"], False, best[method, "near"], False, False, False]
        assert [cell.startswith("*") for cell in cells] == bold


def test_many_sets_stand_in_panels_that_fit_a_page_and_the_caption_says_what_they_are(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b", "c", "d", "e_1"))
    printed = score(folder, "--methods", "MSP", "Energy", "--latex", "--tpr", "0.9")[1]
    text = (folder / "ood_metrics.tex").read_text()
    assert (
        r"AUROC, and FPR at 90\% TPR" in text and r"net\_s0: toy" in text and "p $<$ 0.05" in text
    )
    assert [line.count("multicolumn") for line in text.splitlines() if "multicolumn" in line] == [
        4,
        2,
    ]
    cells = [
        [
            float(cell)
            for cell in (
                re.sub(r"\\textbf\{(.*?)\}", r"\1", line).removesuffix(r" \\").split(" & ")[1:]
            )
        ]
        for line in text.splitlines()
        if line.startswith("MSP ")
    ]
    assert cells[0] + cells[1] == printed_rows(printed)["MSP"]


def test_the_best_is_what_a_paired_test_sets_apart_from_every_other(folder):
    """A score of its own set apart by a shift, and one that only noise sets apart from its like."""
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(1, 1, 400), generator.normal(0, 1, 400)
    sets = {
        "clear": {"good": (inside + 2, outside), "bad": (inside, outside)},
        "close": {
            "good": (inside + generator.normal(0, 0.01, 400), outside),
            "bad": (inside, outside),
        },
    }
    for name, pairs in sets.items():
        measured = {method: metrics.evaluate(*pair) for method, pair in pairs.items()}
        p = metrics.paired_delong(*pairs["good"], *pairs["bad"]).p_value
        assert (p < 0.05) == (name == "clear")
        id_scores, ood_scores = (
            {method: pair[side] for method, pair in pairs.items()} for side in (0, 1)
        )
        leader = tables.significant_leader(measured, id_scores, ood_scores)
        assert leader == ("good" if name == "clear" else None)


def test_accuracy_is_that_of_the_id_images_and_of_those_that_are_kept(done):
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    right = inside["prediction"] == inside["label"]
    for row in read_csv(done[0] / "ood_metrics.csv").itertuples():
        assert row.accuracy == pytest.approx(right.mean(), abs=1e-12) and 0.25 < row.accuracy <= 1
        assert row.accuracy_at_tpr == pytest.approx(
            right[inside[f"{row.method}_accepted"]].mean(), abs=1e-12
        )


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


def test_no_latex_is_written_unasked(folder):
    score(folder, "--methods", "MSP")
    assert not (folder / "ood_metrics.tex").exists() and (folder / "ood_metrics.md").exists()


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KL-Matching", "klmatching", "KL_matching"])
def test_hyphens_and_underscores_in_a_methods_name_are_read_over(folder, name):
    assert set(score(folder, "--methods", name, "ash_s")[0]["method"]) == {"KLMatching", "ASH-S"}


def test_methods_come_in_the_asked_order_whatever_their_case(folder):
    table, printed = score(folder, "--methods", "vim", "msp")
    assert list(table["method"]) == ["ViM", "MSP"] * 2 and list(printed_rows(printed)) == [
        "ViM",
        "MSP",
    ]
    assert list(read_csv(folder / "scores_OOD_near.csv").columns) == [
        "label",
        "prediction",
        "predicted_class",
        "ViM",
        "MSP",
        "ViM_accepted",
        "MSP_accepted",
    ]


def test_only_the_asked_sets_are_scored_in_their_order(folder):
    table, _ = score(folder, "--methods", "MSP", "--ood", "near", "far_noise=anywhere")
    assert list(table["ood"]) == ["near", "far_noise"]
    table, _ = score(folder, "--methods", "MSP", "--ood", "near", "--replace")
    assert list(table["ood"]) == ["near"]


def test_the_temperature_is_energys_and_stands_in_the_table(folder):
    table, _ = score(folder, "--methods", "Energy", "MSP", "--temperature", "10")
    assert {
        method: json.loads(text)
        for method, text in zip(table["method"], table["parameters"].fillna("{}"), strict=True)
    } == {"Energy": {"temperature": 10.0}, "MSP": {}}
    logits = logits_of(folder, "OOD_near_test")[1]
    np.testing.assert_allclose(
        read_csv(folder / "scores_OOD_near.csv")["Energy"],
        10 * logsumexp(logits / 10, axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("words", "method", "expected"),
    [
        (["--vim-dim", "3"], "ViM", {"dim": 3}),
        (["--neco_dim", "2"], "NECO", {"dim": 2}),
        (["--ridge", "0.5"], "Mahalanobis", {"ridge": 0.5}),
        (["--no-neco-scaler"], "NECO", {"scaler": False}),
        (["--neco-max-logit"], "NECO", {"max_logit": True}),
        ([], "ViM", {"dim": WIDTH // 2}),
    ],
)
def test_each_parameter_reaches_its_method_and_stands_in_the_table(folder, words, method, expected):
    before = score(folder, "--methods", method)[0]
    table, _ = score(folder, "--methods", method, *words)
    for text in table["parameters"]:
        assert expected.items() <= json.loads(text).items()
    assert (not words) == (
        list(before["auroc"]) == list(table["auroc"])
        and list(before["ties"]) == list(table["ties"])
        and list(before["aupr_out"]) == list(table["aupr_out"])
    )


def test_another_share_moves_the_thresholds_and_the_false_positives(folder):
    table, printed = score(folder, "--methods", "MSP", "--tpr", "0.8")
    inside, outside = (read_csv(folder / f"scores_{stem}.csv") for stem in ("ID_toy", "OOD_near"))
    threshold = np.sort(inside["MSP"])[20]
    assert inside["MSP_accepted"].sum() == 80 and "80% TPR" in printed
    assert table.set_index("ood").loc["near", "fpr95"] == pytest.approx(
        (outside["MSP"] >= threshold).mean()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "Nonsense"], "unknown method 'Nonsense'; expected one of MSP"),
        (["--temperature", "0"], "above 0"),
        (["--temperature", "nan"], "above 0"),
        (["--temperature", "hot"], "invalid"),
        (["--temperature", "inf"], "above 0"),
        (["--ood", "near", "near"], "--ood names near more than once"),
        (["--val-ood", "=x"], "neither a name nor NAME=FOLDER"),
        (["--tpr", "0"], "above 0 and at most 1"),
        (["--tpr", "95"], "above 0 and at most 1"),
        (["--vim-dim", "0"], "at least 1"),
        (["--ridge", "much"], "invalid"),
        (
            ["--methods", "MSP", "--vim-dim", "3"],
            "--vim-dim is of ViM, Residual, which --methods leaves out",
        ),
        (
            ["--methods", "MSP", "--no-neco-scaler"],
            "--no-neco-scaler is of NECO, NECO-MaxLogit, NECO-ETF, which",
        ),
        (
            ["--vim-dim", str(WIDTH)],
            f"--vim-dim is {WIDTH}; expected 1 to {WIDTH - 1} for {WIDTH} features",
        ),
        (["--ridge", "-1"], "ridge"),
        (["--neco-dim", "1000"], "--neco-dim is 1000; expected 1 to 11"),
        (["--ood", "svhn"], "lacks OOD_svhn_test.csv"),
        (["--dataset", "other"], "lacks ID_other_train.csv"),
    ],
)
def test_a_wrong_argument_ends_with_one_message_and_nothing_written(folder, words, said):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2 and said in ended.err and "Traceback" not in ended.err and ended.out == ""
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_ood_features_the_command_that_makes_them_is_told(tmp_path):
    ended = shell(ood_methods.main, "--checkpoint", toy_run(tmp_path / "net_s0", ood=()))
    assert (
        ended.code == 2
        and "holds no OOD features" in ended.err
        and "python run_networks.py --checkpoint" in ended.err
    )


# ---- groups, several checkpoints, a validation OOD set, ODIN -------------------------------------


def test_groups_average_their_sets_each_counting_alike(folder):
    table, printed = score(
        folder, "--methods", "MSP", "ViM", "--groups", "far=far_noise", "both=far_noise,near"
    )
    groups = read_csv(folder / "ood_groups.csv")
    assert list(groups.columns) == [
        "group",
        "sets",
        "method",
        "auroc",
        "fpr95",
        "fpr95_ood_positive",
        "aupr_in",
        "aupr_out",
        "detection_error",
    ]
    assert list(groups["group"]) == ["far", "far", "both", "both"] and set(groups["sets"]) == {
        "far_noise",
        "far_noise near",
    }
    for row in groups.itertuples():
        part = table[(table["method"] == row.method) & table["ood"].isin(row.sets.split())]
        for name in groups.columns[3:]:
            assert getattr(row, name) == pytest.approx(part[name].mean(), abs=1e-12)
    assert "far AUROC" in printed and "both FPR" in printed and "mean AUROC" not in printed
    both = groups[(groups["group"] == "both") & (groups["method"] == "MSP")].iloc[0]
    assert printed_rows(printed)["MSP"][-2:] == [
        round(100 * both["auroc"], 2),
        round(100 * both["fpr95"], 2),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--groups", "near"], "GROUP=NAME,NAME"),
        (
            ["--groups", "near=svhn"],
            "--groups near=svhn: near is the name of another group or of an OOD set",
        ),
        (["--groups", "all=svhn"], "svhn is not among the tested OOD sets, far_noise, near;"),
        (["--groups", "a=near", "a=far_noise"], "a is the name of another group"),
        (["--groups", "a=near, near"], "near stands there more than once"),
        (["--groups", "a=near,/"], "'/' is neither a name nor NAME=FOLDER"),
        (
            ["--groups", "a=near,far_noise", "--val-ood", "near"],
            "near is not among the tested OOD sets, far_noise;",
        ),
        (["--val-ood", "svhn"], "svhn is not among the OOD sets far_noise, near;"),
        (["--ood", "near", "--val-ood", "near"], "near is the only OOD set"),
        (["--methods", "ODIN"], "--odin-epsilon"),
    ],
)
def test_a_group_or_validation_set_that_was_not_extracted_is_refused(folder, words, said):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2 and said in ended.err and "Traceback" not in ended.err and ended.out == ""
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_several_checkpoints_give_their_mean_and_standard_deviation(tmp_path, folder):
    results = tmp_path / "results"
    folders = [toy_run(results / f"net_s{seed}", seed=seed) for seed in range(3)]
    ended = shell(
        ood_methods.main,
        "--checkpoint",
        *folders,
        "--output-dir",
        results,
        "--methods",
        "MSP",
        "KNN",
    )
    assert ended.code == 0, ended.err
    table = pd.concat([read_csv(each / "ood_metrics.csv") for each in folders])
    assert list(table["checkpoint"].unique()) == ["net_s0", "net_s1", "net_s2"]
    spread = read_csv(results / "ood_checkpoints.csv")
    assert list(spread.columns) == [
        "dataset",
        "ood",
        "method",
        "checkpoints",
        "auroc_mean",
        "auroc_std",
        "fpr95_mean",
        "fpr95_std",
    ]
    assert len(spread) == 4 and set(spread["checkpoints"]) == {3}
    for row in spread.itertuples():
        part = table[(table["ood"] == row.ood) & (table["method"] == row.method)]
        assert row.auroc_mean == pytest.approx(np.mean(part["auroc"]), abs=1e-12)
        assert (
            row.auroc_std == pytest.approx(np.std(part["auroc"], ddof=1), abs=1e-12)
            and row.auroc_std > 0
        )
        assert row.fpr95_std == pytest.approx(np.std(part["fpr95"], ddof=1), abs=1e-12)


def test_groups_have_a_mean_and_spread_over_checkpoints_too(tmp_path, folder):
    results = tmp_path / "results"
    folders = [toy_run(results / f"net_s{seed}", seed=seed) for seed in range(3)]
    words = [
        "--output-dir",
        results,
        "--methods",
        "MSP",
        "KNN",
        "--groups",
        "far=far_noise",
        "all=far_noise,near",
    ]
    ended = shell(ood_methods.main, "--checkpoint", *folders, *words)
    assert ended.code == 0, ended.err
    spread = read_csv(results / "ood_group_checkpoints.csv")
    assert list(spread.columns[:4]) == ["group", "sets", "method", "checkpoints"] and set(
        spread["checkpoints"]
    ) == {3}
    assert list(zip(spread["group"], spread["method"], strict=True)) == [
        (g, m) for g in ("far", "all") for m in ("MSP", "KNN")
    ]
    tables = [read_csv(each / "ood_groups.csv").set_index(["group", "method"]) for each in folders]
    for row in spread.itertuples():
        areas = [table.loc[(row.group, row.method), "auroc"] for table in tables]
        assert row.auroc_mean == pytest.approx(np.mean(areas), abs=1e-12)
        assert (
            row.auroc_std == pytest.approx(np.std(areas, ddof=1), abs=1e-12) and row.auroc_std > 0
        )
    sidecar = records.read_sidecar(results / "ood_group_checkpoints.csv")
    assert "ood_group_checkpoints.csv" in ended.out and sidecar["checkpoints"] == [
        "net_s0",
        "net_s1",
        "net_s2",
    ]


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


def test_checkpoints_that_cannot_be_averaged_are_refused(tmp_path, folder):
    results = tmp_path / "results"
    one, other = toy_run(results / "net_s0"), toy_run(results / "net_s1", ood=("near",), seed=1)
    for given, said in [
        ((one, f"{one}/"), "more than once"),
        ((one, other), "name those to average over with --ood"),
    ]:
        ended = shell(ood_methods.main, "--checkpoint", *given, "--output-dir", results)
        assert ended.code == 2 and said in ended.err and not (one / "ood_metrics.csv").exists()
    words = ["--output-dir", results, "--ood", "near", "--methods", "MSP"]
    assert shell(ood_methods.main, "--checkpoint", one, other, *words).code == 0


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


@pytest.fixture
def with_odin(folder):
    """A run whose test sets were extracted a second time, perturbed."""
    for stem in ("ID_toy_test", "OOD_far_noise_test", "OOD_near_test"):
        found, sidecar = (
            store.read_features(folder / f"{stem}.csv"),
            records.read_sidecar(folder / f"{stem}.csv"),
        )
        store.write_features(
            folder / f"ODIN_{stem}.csv",
            found.features * 1.1,
            found.labels,
            found.paths,
            {**sidecar, "odin_epsilon": 0.002, "temperature": 1000.0},
        )
    return folder


def test_odin_scores_its_own_features_at_their_temperature(with_odin):
    table, _ = score(with_odin, "--methods", "ODIN", "MSP")
    assert list(table["method"][:2]) == ["MSP", "ODIN"] or list(table["method"][:2]) == [
        "ODIN",
        "MSP",
    ]
    odin = table[table["method"] == "ODIN"]
    assert {json.dumps(json.loads(text)) for text in odin["parameters"]} == {
        '{"odin_epsilon": 0.002, "temperature": 1000.0}'
    }
    for stem in ("ID_toy", "OOD_near"):
        logits = logits_of(with_odin, f"ODIN_{stem}_test")[1]
        written = read_csv(with_odin / f"scores_{stem}.csv")["ODIN"]
        np.testing.assert_allclose(written, softmax(logits / 1000, axis=1).max(axis=1), rtol=1e-6)
    assert "ODIN_ID_toy_test.csv" in utils.read_json(with_odin / "ood_methods.json")["inputs"]


def test_odin_is_among_all_methods_where_its_features_are(with_odin):
    assert "ODIN" in set(score(with_odin)[0]["method"])
    (with_odin / "ODIN_ID_toy_test.csv").unlink()
    assert "ODIN" not in set(score(with_odin)[0]["method"])


def test_a_set_without_perturbed_images_is_empty_for_odin_and_says_so(with_odin):
    before = score(with_odin, "--methods", "MSP", "ODIN")[0].set_index(["ood", "method"])
    (with_odin / "ODIN_OOD_near_test.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN")
    table = read_csv(with_odin / "ood_metrics.csv").set_index(["ood", "method"])
    note = table.loc[("near", "ODIN"), "note"]
    assert (
        ended.code == 0
        and note.startswith("no perturbed images of near; make them with: ")
        and "--odin-epsilon 0.002" in note
    )
    assert ended.out.count(f"ODIN (near): {note}") == 1 and "goes" not in ended.out
    assert (
        np.isnan(table.loc[("near", "ODIN"), "auroc"])
        and read_csv(with_odin / "scores_OOD_near.csv")["ODIN"].isna().all()
    )
    assert table.loc[("far_noise", "ODIN"), "auroc"] == before.loc[("far_noise", "ODIN"), "auroc"]
    ended = shell(
        ood_methods.main,
        "--checkpoint",
        with_odin,
        "--methods",
        "Energy",
        "ODIN",
        "--val-ood",
        "near",
        "--replace",
    )
    assert ended.code == 0 and "no perturbed images" not in ended.out, (
        "what only chooses hyper-parameters needs none"
    )


@pytest.mark.parametrize("change", ["sidecar", "rows"])
def test_perturbed_images_that_cannot_be_compared_are_refused_by_name(with_odin, change):
    path = with_odin / "ODIN_OOD_near_test.csv"
    if change == "sidecar":
        records.sidecar_path(path).unlink()
    else:
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        store.write_features(path, found.features[:9], found.labels[:9], sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", with_odin)
    assert (
        ended.code == 2 and "ODIN_OOD_near_test.csv" in ended.err and "Traceback" not in ended.err
    )
    assert {
        "sidecar": "does not say with which",
        "rows": "holds 9 images where the plain ones are 80",
    }[change] in ended.err


def test_sets_perturbed_differently_are_refused(with_odin):
    path = with_odin / "ODIN_OOD_near_test.json"
    utils.write_json(path, {**utils.read_json(path), "odin_epsilon": 0.004})
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "ODIN")
    assert (
        ended.code == 2 and "ODIN_OOD_near_test.csv was perturbed with another epsilon" in ended.err
    )
    assert "--odin-epsilon 0.002" in ended.err


# ---- variants, one fit for all sets, warnings ----------------------------------------------------


def test_necos_variants_are_rows_that_are_named_to_be_scored(folder):
    alone, _ = score(folder, "--methods", "NECO", "--no-neco-scaler")
    assert not set(score(folder)[0]["method"]) & {"NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"}
    table, printed = score(
        folder,
        "--methods",
        "neco",
        "neco-noscaler",
        "NECO-MaxLogit",
        "NECO-ETF",
        "--ood",
        "near",
        "--replace",
    )
    assert (
        list(table["method"])
        == list(printed_rows(printed))
        == ["NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"]
    )
    parameters = [json.loads(text) for text in table["parameters"]]
    assert [(found["scaler"], found["max_logit"]) for found in parameters] == [
        (True, False),
        (False, False),
        (True, True),
        (True, False),
    ]
    assert parameters[3]["dim"] == CLASSES - 1
    assert table["auroc"][1] == alone.set_index("ood").loc["near", "auroc"]


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_read_fitted_or_computed_again_for_another_set(tmp_path, monkeypatch):
    """Whatever the number of OOD sets: each file read once, each method fitted once, one training
    set, each set scored once."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b", "c", "d"))
    calls = []

    def counted(label, function):
        return lambda *given, **named: calls.append(label(*given)) or function(*given, **named)

    methods = {
        name: replace(row, fit=counted(lambda *_, name=name: f"fit {name}", row.fit))
        for name, row in registry.METHODS.items()
    }
    monkeypatch.setattr(registry, "METHODS", methods)
    monkeypatch.setattr(
        registry, "score_all", counted(lambda rows, *_: f"score {len(rows)}", registry.score_all)
    )
    monkeypatch.setattr(registry, "Training", counted(lambda *_: "training set", registry.Training))
    monkeypatch.setattr(
        store,
        "read_features",
        counted(lambda path, *_: f"read {path.name}", store.read_features),
    )
    with mock.patch.object(drawing, "draw", lambda *given: []):
        assert shell(ood_methods.main, "--checkpoint", folder).code == 0
    sets = ["ID_toy_train", "ID_toy_val", "ID_toy_test", *(f"OOD_{name}_test" for name in "abcd")]
    expected = [
        *(f"fit {name}" for name in registry.DEFAULT),
        "training set",
        *(f"read {name}.csv" for name in sets),
        *(f"score {n}" for n in (60, 80, 100, 120, 100)),
    ]
    assert sorted(calls) == sorted(expected)


def test_a_guard_warns_once_by_name_however_many_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b", "c"))
    for path in folder.glob(
        "*_t*.csv"
    ):  # a unit that never fires, a class that is never seen, negative features
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        features = found.features - np.float32(0.1)
        features[:, 3] = 0
        kept = found.labels != 2 if "train" in path.name else slice(None)
        store.write_features(path, features[kept], found.labels[kept], sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", folder)
    said = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
    assert ended.code == 0 and len(said) == len(set(said))
    for words in (
        "Mahalanobis: the covariance has rank 11, 1 of 12 features are constant",
        "Mahalanobis: 1 of 4 classes have no",
        "NECO: 1 features are constant",
        "SHE: 1 classes",
        "ASH-S: some features are negative",
        "SCALE: some features",
        "ReAct: some features",
    ):
        assert sum(line.startswith(f"warning: {words}") for line in said) == 1, words


def test_a_persons_photographs_get_a_row_each_ready_to_sort(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder = toy_run(tmp_path / "net_s0", ood=("mine", "near"))
    score(folder, "--ood", "mine=some/photographs", "--tpr", "0.9", "--methods", "Energy", "ViM")
    table = pd.read_csv(folder / "scores_OOD_mine.csv")
    assert list(table.columns) == [
        "path",
        "label",
        "prediction",
        "predicted_class",
        "Energy",
        "ViM",
        "Energy_accepted",
        "ViM_accepted",
    ]
    assert list(table["path"]) == [f"mine/{n:03}.png" for n in range(60)]
    assert set(table["predicted_class"]) <= {"cat", "dog", "bird", "frog"}
    inside = pd.read_csv(folder / "scores_ID_toy.csv")
    for name in ("Energy", "ViM"):
        assert table[f"{name}_accepted"].dtype == bool and inside[f"{name}_accepted"].sum() == 90
        assert (table[f"{name}_accepted"] == (table[name] >= np.sort(inside[name])[10])).all()


# ---- invariants ----------------------------------------------------------------------------------


def test_a_second_run_writes_the_same_bytes(tmp_path):
    folder = toy_run(tmp_path / "net_s0")
    score(folder, "--methods", *CORE, "ViM", "KNN")
    files = [path for path in folder.rglob("*") if path.suffix in (".csv", ".md", ".png")]
    before = {path: path.read_bytes() for path in files}
    score(folder, "--methods", *CORE, "ViM", "KNN")
    assert len(files) > 8 and {path: path.read_bytes() for path in files} == before


def test_parquet_features_give_the_table_of_csv_features(tmp_path, folder):
    tables = [
        score(
            toy_run(tmp_path / f"{suffix[1:]}" / "net_s0", suffix=suffix),
            "--methods",
            *CORE,
            "Mahalanobis",
        )[0]
        for suffix in store.SUFFIXES
    ]
    pd.testing.assert_frame_equal(*tables)


def test_the_order_of_images_moves_no_metric(folder):
    before, _ = score(folder, "--methods", *CORE, "Mahalanobis")
    for stem in ("ID_toy_test", "OOD_near_test"):
        found, sidecar = (
            store.read_features(folder / f"{stem}.csv"),
            records.read_sidecar(folder / f"{stem}.csv"),
        )
        order = np.random.default_rng(1).permutation(len(found.labels))
        store.write_features(
            folder / f"{stem}.csv", found.features[order], found.labels[order], sidecar=sidecar
        )
    after, _ = score(folder, "--methods", *CORE, "Mahalanobis")
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-6)


def test_the_scores_of_one_set_do_not_depend_on_the_others(folder):
    score(folder, "--methods", *CORE, "ViM", "NECO")
    together = (folder / "scores_OOD_near.csv").read_bytes()
    score(folder, "--methods", *CORE, "ViM", "NECO", "--ood", "near")
    assert (folder / "scores_OOD_near.csv").read_bytes() == together


# ---- small and awkward sets ----------------------------------------------------------------------


def write_ood(folder, name, features):
    sidecar = records.read_sidecar(folder / "OOD_near_test.csv")
    store.write_features(
        folder / f"OOD_{name}_test.csv", features, np.full(len(features), -1), sidecar=sidecar
    )


def test_an_undefined_id_score_leaves_no_threshold_and_no_verdict(folder):
    """One dead ID image: KNN has no direction for it; no image is then called accepted or rejected
    by KNN."""
    found, sidecar = (
        store.read_features(folder / "ID_toy_test.csv"),
        records.read_sidecar(folder / "ID_toy_test.csv"),
    )
    found.features[3] = 0
    store.write_features(folder / "ID_toy_test.csv", found.features, found.labels, sidecar=sidecar)
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "KNN", "ASH-S")
    assert ended.code == 0
    assert ended.out.count("undefined for") == 2
    for method, why in (("KNN", "have no direction"), ("ASH-S", "sum to 0")):
        line = next(
            line
            for line in ended.out.splitlines()
            if line.startswith(f"{method} (far_noise, near): ")
        )
        assert (
            "undefined for 1 of 100 ID test images, first in data row 4: " in line and why in line
        )
    for stem in ("ID_toy", "OOD_near"):
        scored = read_csv(folder / f"scores_{stem}.csv")
        assert scored["KNN_accepted"].isna().all() and scored["MSP_accepted"].dtype == bool
    assert records.read_sidecar(folder / "scores_ID_toy.csv")["thresholds"]["KNN"] is None


def test_a_single_image_is_scored_and_its_interval_is_empty(folder):
    write_ood(folder, "one", np.full((1, WIDTH), 0.5))
    table, _ = score(folder, "--methods", *CORE, "KNN")
    rows = table[table["ood"] == "one"]
    assert (
        set(rows["n_ood"]) == {1} and rows["auroc"].notna().all() and rows["auroc_low"].isna().all()
    )
    assert ",nan" not in (folder / "ood_metrics.csv").read_text().lower()


def test_identical_images_are_all_tied_with_each_other(folder):
    write_ood(folder, "same", np.zeros((5, WIDTH)))
    score(folder, "--methods", *CORE)
    assert all(read_csv(folder / "scores_OOD_same.csv")[name].nunique() == 1 for name in CORE)


def test_an_undefined_score_is_an_empty_cell_and_no_mean_hides_it(folder, monkeypatch):
    """A method that is NaN on one image: its metrics there are undefined, on the other set they are
    not."""
    real = registry.score_all

    def with_nan(features, states, W, b):
        values = real(features, states, W, b)
        if len(features) == 80:  # the set `near`
            values["MSP"][3] = np.nan
        return values

    monkeypatch.setattr(registry, "score_all", with_nan)
    table, printed = score(folder, "--methods", "MSP", "Energy")
    near = table.set_index(["ood", "method"]).loc[("near", "MSP")]
    assert math.isnan(near["auroc"]) and math.isnan(near["fpr95"]) and near["n_ood"] == 80
    scored = (folder / "scores_OOD_near.csv").read_text().splitlines()
    assert (
        scored[4].split(",")[3] == ""
        and scored[4].split(",")[5] in ("", "false")
        and "nan" not in "".join(scored).lower()
    )
    row = next(line for line in printed.splitlines() if line.startswith("MSP"))
    assert len(row.split()) == 3, (
        "AUROC and FPR of far_noise only: a mean over one set of two would flatter"
    )
    score(folder, "--methods", "MSP", "Energy", "--groups", "both=far_noise,near")
    groups = read_csv(folder / "ood_groups.csv").set_index("method")
    assert np.isnan(groups.loc["MSP", "auroc"]) and np.isfinite(groups.loc["Energy", "auroc"]), (
        "nor does one of a group"
    )


def test_the_thresholds_are_those_of_the_metrics_library(done):
    inside = read_csv(done[0] / "scores_ID_toy.csv")
    assert records.read_sidecar(done[0] / "scores_ID_toy.csv")["thresholds"][
        "ViM"
    ] == metrics.threshold_at_tpr(inside["ViM"], 0.95)


# ---- features without a head ---------------------------------------------------------------------

HEADLESS = ["Mahalanobis", "RelativeMahalanobis", "NECO", "KNN"]


@pytest.mark.parametrize("sidecars", [True, False])
def test_bare_features_are_scored_by_what_needs_no_head(folder, tmp_path, sidecars):
    whole = score(toy_run(tmp_path / "other" / "net_s0"), "--methods", *HEADLESS)[0].set_index(
        ["ood", "method"]
    )
    (folder / "head.csv").unlink()
    for path in [] if sidecars else folder.glob("*.json"):
        path.unlink()
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 0, ended.err
    assert ended.err.count("warning: ") == (0 if sidecars else 1)
    assert (
        ended.out.count("no head.csv in") == 1
        and "left out are the accuracy, MSP, MaxLogit" in ended.out
    )
    assert ("make it with: python run_networks.py" in ended.out) == sidecars, (
        "where it is known that it had one"
    )
    table = read_csv(folder / "ood_metrics.csv").set_index(["ood", "method"])
    assert list(table.loc["near"].index) == HEADLESS
    for name in ("auroc", "fpr95", "aupr_out"):
        np.testing.assert_allclose(table[name], whole[name], atol=1e-3)
    assert (
        table["accuracy"].isna().all()
        and table["accuracy_at_tpr"].isna().all()
        and "classified right" not in ended.out
    )
    assert list(read_csv(folder / "scores_OOD_near.csv").columns) == [
        "label",
        *HEADLESS,
        *(f"{m}_accepted" for m in HEADLESS),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "MSP", "KNN"], "no head.csv, without which there is no MSP"),
        (["--methods", "NECO", "--neco-max-logit"], "no head.csv, without which there is no NECO"),
        (["--neco-max-logit"], "no head.csv, without which there is no MSP"),
        (["--val-ood", "near"], "has no head.csv"),
    ],
)
def test_what_needs_a_head_is_refused_where_it_was_named(folder, words, said):
    (folder / "head.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2
        and said in ended.err
        and "python run_networks.py" in ended.err
        and ended.out == ""
    )


def test_a_head_that_comes_brings_its_methods(folder):
    head, sidecar = (folder / "head.csv").read_bytes(), (folder / "head.json").read_bytes()
    (folder / "head.csv").unlink()
    score(folder)
    (folder / "head.csv").write_bytes(head)
    (folder / "head.json").write_bytes(sidecar)
    record = folder / "ood_methods.json"
    assert not records.is_current(record, utils.read_json(record)["arguments"])
    assert set(score(folder)[0]["method"]) == set(registry.DEFAULT)


# ---- files that were edited ----------------------------------------------------------------------


def edited(folder, name, kind):
    """Another digit, or label, in the last row of a feature CSV or the head."""
    path = folder / f"{name}.csv"
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    place = 1 if kind == "digit" else lines[0].split(",").index("label")
    cells[place] = "0.125" if kind == "digit" else "2" if cells[place] != "2" else "1"
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("head", "digit"),
        *(
            (f"ID_toy_{split}", kind)
            for split in ("train", "val", "test")
            for kind in ("digit", "label")
        ),
        ("OOD_near_test", "digit"),
        ("OOD_near_test", "label"),
        ("ODIN_ID_toy_test", "digit"),
        ("ODIN_OOD_near_test", "digit"),
    ],
)
def test_an_edited_digit_or_label_is_refused_unless_it_is_allowed(with_odin, name, kind):
    edited(with_odin, name, kind)
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN")
    assert (
        ended.code == 2
        and f"{name}.csv" in ended.err
        and "--allow-stale" in ended.err
        and "Traceback" not in ended.err
    )
    assert not (with_odin / "ood_metrics.csv").exists()
    ended = shell(
        ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN", "--allow-stale"
    )
    assert ended.code == 0, ended.err
    for stem in ("ood_methods.json", "ood_metrics.json", "scores_OOD_near.json"):
        assert any(
            f"{name}.csv" in reason for reason in utils.read_json(with_odin / stem)["allowed_stale"]
        ), stem


@pytest.mark.parametrize(
    "change", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: b"\xef\xbb\xbf" + data]
)
def test_other_bytes_that_say_the_same_are_the_same_features(folder, change):
    before = score(folder, "--methods", "MSP", "KNN")[0]
    for name in ("ID_toy_train", "OOD_near_test"):
        path = folder / f"{name}.csv"
        path.write_bytes(change(path.read_bytes()))
    pd.testing.assert_frame_equal(score(folder, "--methods", "MSP", "KNN", "--replace")[0], before)


# ---- why a cell is empty -------------------------------------------------------------------------


def test_a_temperature_at_its_bound_stands_in_the_table_and_is_marked(folder):
    """A validation set whose every image is right has no best temperature."""
    for split in ("val", "train"):
        path = folder / f"ID_toy_{split}.csv"
        labels = logits_of(folder, path.stem)[1].argmax(1)
        store.write_features(
            path, store.read_features(path).features, labels, None, records.read_sidecar(path)
        )
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "TempScaling")
    table = read_csv(folder / "ood_metrics.csv").set_index(["ood", "method"])
    rows = table.xs("TempScaling", level="method")
    assert rows["auroc"].notna().all() and set(
        map(str, table.xs("MSP", level="method")["note"])
    ) == {"nan"}
    assert {text: json.loads(text) for text in rows["parameters"]}.popitem()[1] == {
        "temperature": 0.05,
        "at_bound": True,
    }
    line = (
        "TempScaling (far_noise, near): the loss of 40 ID validation images falls all the way to T"
        " = 0.05"
    )
    assert ended.out.count(line) == 1 and "TempScaling" not in ended.err
    assert (folder / "ood_metrics.md").read_text().count(line) == 1 and rows["note"].str.startswith(
        "the loss of 40"
    ).all()


def test_constant_features_have_no_infinite_scores(folder):
    for path in [*folder.glob("ID_*.csv"), *folder.glob("OOD_near*.csv")]:
        found, sidecar = store.read_features(path), records.read_sidecar(path)
        store.write_features(
            path, found.features * 0 + np.float32(0.3), found.labels, None, sidecar
        )
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 0, ended.err
    table = read_csv(folder / "ood_metrics.csv")
    assert (
        not np.isinf(table.select_dtypes(float)).any(axis=None)
        and (table["auroc"].notna() | table["note"].notna()).all()
    )
    notes = table.set_index(["ood", "method"])["note"]
    assert (
        "its features are the training mean" in notes["near", "NCI"]
        and "same features" in notes["near", "ViM"]
    )
    assert "inf" not in (folder / "scores_OOD_near.csv").read_text()


def test_one_feature_is_scored_by_what_can(tmp_path):
    folder = toy_run(tmp_path / "net_s0")
    sidecar = {"checkpoint_sha256": "a" * 64}
    head = store.read_head(folder / "head.csv")
    W, b, names = head.W, head.b, head.class_names
    store.write_head(folder / "head.csv", W[:, :1], b, names, sidecar)
    for path in [*folder.glob("ID_*.csv"), *folder.glob("OOD_*.csv")]:
        found = store.read_features(path)
        store.write_features(
            path,
            found.features[:, :1] + 1,
            found.labels,
            found.paths,
            {**sidecar, "head_sha256": records.sha256(folder / "head.csv")},
        )
    table = score(folder)[0].set_index(["ood", "method"])
    assert np.isfinite(table["auroc"]["near", "Mahalanobis"]) and np.isnan(
        table["auroc"]["near", "ViM"]
    )
    assert "at least 2 features" in table["note"]["near", "NECO"]
    assert not (folder / "figures" / "principal_components.png").exists()
    ended = shell(ood_methods.main, "--checkpoint", folder, "--vim-dim", "1")
    assert ended.code == 2 and "--vim-dim is 1; expected no such flag for 1 features" in ended.err


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        ("ID_toy_train", 1e38, "features reach"),
        ("OOD_near_test", 1e37, "features reach"),
        ("ID_toy_train", 1e-40, "no training feature is above"),
    ],
)
def test_features_beyond_float32_are_refused_by_name(folder, name, factor, said):
    path = folder / f"{name}.csv"
    found = store.read_features(path)
    scaled = np.minimum(found.features, 3) * np.float64(factor)
    store.write_features(path, scaled, found.labels, None, records.read_sidecar(path))
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 2 and f"{name}.csv: {said}" in ended.err and "Traceback" not in ended.err
    assert not (folder / "ood_metrics.csv").exists()


def test_one_photograph_has_no_printed_rates_and_is_part_of_no_mean(folder):
    """The one set beside it then is the whole mean: in the printed table, in Markdown, in LaTeX and
    in the group's table."""
    write_ood(folder, "one", np.full((1, WIDTH), 0.5))
    table, printed = score(
        folder, "--methods", "MSP", "Energy", "--groups", "all=one,near", "alone=one", "--latex"
    )
    cells = table.set_index(["ood", "method"])
    assert cells["auroc"].notna().all()
    near = cells.loc["near"]
    row = next(line for line in printed.splitlines() if line.startswith("MSP"))
    assert len(row.split()) == 1 + 3 * 2, "far_noise, near, and the mean without one"
    assert [float(cell) for cell in row.split()[-2:]] == [
        round(100 * near.loc["MSP", name], 2) for name in ("auroc", "fpr95")
    ]
    assert printed.count("one: rates over one image have no interval") == 1
    said = "; means over all sets but one"
    assert (
        said in printed
        and said in (folder / "ood_metrics.md").read_text()
        and said in (folder / "ood_metrics.tex").read_text()
    )
    groups = read_csv(folder / "ood_groups.csv").set_index(["group", "method"])
    assert set(groups.loc["all", "sets"]) == {"near"} and set(groups.loc["alone", "sets"]) == {
        "one"
    }
    assert groups.loc["all", "auroc"].tolist() == pytest.approx(near["auroc"].tolist(), abs=1e-12)
    assert groups.loc["alone", "auroc"].isna().all()


def test_the_accuracy_is_printed(done):
    accuracy = read_csv(done[0] / "ood_metrics.csv")["accuracy"][0]
    assert f"toy (100 test images, {100 * accuracy:.2f}% classified right)" in done[1]
    assert "classified right" in (done[0] / "ood_metrics.md").read_text()


def test_names_that_look_like_numbers_are_text_in_every_table_report_and_mean(tmp_path):
    """OOD sets and classes that are called 2023, 007, null, NA and 1e5, through the scorers and the
    report."""
    names = ["2023", "007", "null", "NA", "1e5"]
    folder, generator = tmp_path / "results" / "1e5", np.random.default_rng(0)
    folder.mkdir(parents=True)
    W = generator.normal(size=(5, 8))
    store.write_head(folder / "head.csv", W, np.zeros(5), names, {"checkpoint_sha256": "a" * 64})
    facts = {"checkpoint_sha256": "a" * 64, "head_sha256": records.sha256(folder / "head.csv")}
    for stem in ("ID_2024_train", "ID_2024_test", *(f"OOD_{name.lower()}_test" for name in names)):
        labels = np.arange(40) % 5 if stem.startswith("ID") else np.full(40, -1)
        store.write_features(
            folder / f"{stem}.csv",
            W[labels] + generator.normal(size=(40, 8)),
            labels,
            sidecar=facts,
        )
    sets = sorted(name.lower() for name in names)
    with mock.patch.object(utils, "write_figure", write_blank):
        ended = [
            shell(script.main, "--checkpoint", folder, *words)
            for script, words in (
                (
                    ood_methods,
                    ("--methods", "MSP", "Energy", "--groups", "2025=2023,007", "7=na,1e5"),
                ),
                (neural_collapse, ()),
                (report, ()),
            )
        ]
    assert [end.code for end in ended] == [0, 0, 0], ended
    table = store.read_table(folder / "ood_metrics.csv")
    assert list(dict.fromkeys(table["ood"])) == sets
    assert set(table["checkpoint"]) == {"1e5"} and set(table["dataset"]) == {"2024"}
    groups = store.read_table(folder / "ood_groups.csv")
    assert dict(zip(groups["group"], groups["sets"], strict=True)) == {
        "2025": "2023 007",
        "7": "na 1e5",
    }
    mean = table[table["ood"].isin(["2023", "007"])].groupby("method")["auroc"].mean()
    assert groups[groups["group"] == "2025"].set_index("method")[
        "auroc"
    ].to_dict() == pytest.approx(mean.to_dict())
    assert store.read_table(folder / "nc_per_class.csv")["class_name"].tolist() == names
    assert {f"ood:{name}" for name in sets} <= set(
        store.read_table(folder / "nc_metrics.csv")["split"]
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        all(name in page for name in (*sets, *names))
        and "2023.0" not in page
        and "100000" not in page
    )


# ---- --set ---------------------------------------------------------------------------------------


def test_a_setting_reaches_the_table_and_its_scores(folder):
    table, _ = score(
        folder, "--methods", "KNN", "Energy", "--set", "KNN.k=3", "energy.temperature=2"
    )
    recorded = table.drop_duplicates("method").set_index("method")["parameters"].map(json.loads)
    assert recorded["KNN"] == {"k": 3} and recorded["Energy"] == {"temperature": 2.0}
    _, logits = logits_of(folder, "OOD_near_test")
    expected = 2 * logsumexp(logits / 2, axis=1)
    found = read_csv(folder / "scores_OOD_near.csv")["Energy"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_short_flag_and_a_setting_are_one_thing(folder):
    short, _ = score(folder, "--methods", "ViM", "--vim-dim", "3")
    once = (folder / "scores_OOD_near.csv").read_bytes()
    long, _ = score(folder, "--methods", "ViM", "--set", "ViM.dim=3", "--replace")
    assert (folder / "scores_OOD_near.csv").read_bytes() == once
    pd.testing.assert_frame_equal(short, long)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "KNN.n=3"], "KNN has no parameter 'n'; it has k"),
        (["--set", "Mahalanobs.ridge=1"], "did you mean Mahalanobis"),
        (["--set", "KNN.k=3", "--methods", "MSP"], "add it with --methods KNN"),
        (["--set", "Energy.temperature=2", "--temperature", "3"], "Energy.temperature is given"),
        (["--set", f"ViM.dim={WIDTH}"], f"--set ViM.dim={WIDTH}: expected less than the {WIDTH}"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_computed(folder, words, said):
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert ended.code == 2 and said in ended.err
    assert not (folder / "ood_metrics.csv").exists()
