"""ood_metrics.csv, .md and .tex, what is printed, groups and several checkpoints, each number
against an independent computation.
"""

import re
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers import (
    WIDTH,
    printed_rows,
    read_csv,
    score,
    shell,
    toy_run,
    write_blank,
    write_ood,
)
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import neural_collapse
import ood_methods
import report
import utils
from artifacts import records, store
from detection import group_means, metrics, tables
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
    "fpr95_low",
    "fpr95_high",
    "fpr95_ood_positive",
    "fpr95_ood_positive_low",
    "fpr95_ood_positive_high",
    "aupr_in",
    "aupr_in_low",
    "aupr_in_high",
    "aupr_out",
    "aupr_out_low",
    "aupr_out_high",
    "id_share",
    "detection_error",
    "autc",
    "partial_auroc",
    "n_id",
    "n_ood",
    "ties",
    "accuracy",
    "accuracy_at_tpr",
    "best",
    "note",
]


CORE = ("MSP", "MaxLogit", "Energy")


def test_the_table_has_a_row_a_set_and_method_and_these_columns(done):
    table = read_csv(done[0] / "ood_metrics.csv")
    assert list(table.columns) == METRICS
    assert list(zip(table["ood"], table["method"], strict=True)) == [
        (name, method) for name in ("far_noise", "near") for method in registry.DEFAULT
    ]
    assert set(table["checkpoint"]) == {"net_s0"} and set(table["dataset"]) == {"toy"}
    assert set(table["n_id"]) == {100} and list(table.groupby("ood")["n_ood"].first()) == [60, 80]


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
    passes = read_csv(done[0] / "accepted_ID_toy.csv")
    right = inside["prediction"] == inside["label"]
    for row in read_csv(done[0] / "ood_metrics.csv").itertuples():
        assert row.accuracy == pytest.approx(right.mean(), abs=1e-12) and 0.25 < row.accuracy <= 1
        assert row.accuracy_at_tpr == pytest.approx(
            right[passes[f"{row.method}_accepted"]].mean(), abs=1e-12
        )


def test_no_latex_is_written_unasked(folder):
    score(folder, "--methods", "MSP")
    assert not (folder / "ood_metrics.tex").exists() and (folder / "ood_metrics.md").exists()


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
        *group_means.COLUMNS,
    ]
    assert list(groups["group"]) == ["far", "far", "both", "both"] and set(groups["sets"]) == {
        "far_noise",
        "far_noise near",
    }
    for row in groups.itertuples():
        part = table[(table["method"] == row.method) & table["ood"].isin(row.sets.split())]
        for name in groups.columns[3:9]:
            assert getattr(row, name) == pytest.approx(part[name].mean(), abs=1e-12)
    assert "far AUROC" in printed and "both FPR" in printed and "mean AUROC" not in printed
    both = groups[(groups["group"] == "both") & (groups["method"] == "MSP")].iloc[0]
    assert printed_rows(printed)["MSP"][-2:] == [
        round(100 * both["auroc"], 2),
        round(100 * both["fpr95"], 2),
    ]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
