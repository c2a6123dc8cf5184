"""One more method or set joins the table of the same features and head: nothing that was computed
is lost, or goes stale."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import read_csv, score, shell, toy_run, write_blank

import ood_methods
import utils
from artifacts import current, records, store
from detection import joining, outputs
from detection.scored import ScoredSet
from scores import registry

pytestmark = pytest.mark.slow  # each test scores a run at least twice


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three OOD sets, and blank figures."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    return toy_run(tmp_path / "net_s0", ood=("a", "b", "c"))


def cells(table):
    return set(zip(table["ood"], table["method"], strict=True))


def rows(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.set_index(["ood", "method"]).sort_index()


def edit(path, change=lambda features: features * np.float32(1.01)):
    """Features made anew by the same network, and different."""
    found, sidecar = store.read_features(path), records.read_sidecar(path)
    store.write_features(path, change(found.features), found.labels, found.paths, sidecar)


def test_one_more_method_leaves_the_table_and_its_figures_as_they_were(folder):
    before = score(folder)[0]
    figures = {path.name for path in (folder / "figures").iterdir()}
    inside = read_csv(folder / "scores_ID_toy.csv")
    after, printed = score(folder, "--methods", "NECO-ETF")
    assert set(after["method"]) == {*registry.DEFAULT, "NECO-ETF"} and len(after) == len(before) + 3
    kept = after[after["method"] != "NECO-ETF"].drop(columns="best").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before.drop(columns="best"), check_exact=True)
    pd.testing.assert_frame_equal(
        read_csv(folder / "scores_ID_toy.csv")[inside.columns], inside, check_exact=True
    )
    assert (
        figures <= {path.name for path in (folder / "figures").iterdir()}
        and "removed" not in printed
    )
    assert f"{len(registry.DEFAULT)} methods of the earlier table stay" in printed


def test_the_joined_table_is_that_of_all_methods_at_once(folder, tmp_path):
    other = toy_run(tmp_path / "other" / "net_s0", ood=("a", "b", "c"))
    score(folder, "--methods", "MSP", "--ood", "b")
    score(folder, "--methods", "Mahalanobis", "--ood", "a", "c")
    joined = score(folder, "--methods", "MSP")[0]
    together = score(other, "--methods", "MSP", "Mahalanobis")[0]
    one, two = rows(joined), rows(together)
    # a score alone and beside others is rounded otherwise, which AUTC alone sees
    np.testing.assert_allclose(one.pop("autc"), two.pop("autc"), rtol=1e-5)
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_another_set_has_the_asked_methods_alone_and_no_mean_hides_that(folder):
    first = score(folder, "--methods", "MSP", "KNN", "--ood", "a", "b")[0]
    table, printed = score(
        folder, "--methods", "MSP", "--ood", "c", "--groups", "ab=a,b", "all=a,b,c", "--latex"
    )
    assert cells(table) == {("a", "MSP"), ("b", "MSP"), ("c", "MSP"), ("a", "KNN"), ("b", "KNN")}
    knn = rows(table, method="KNN")["auroc"]
    assert list(knn) == list(rows(first, method="KNN")["auroc"])
    groups = read_csv(folder / "ood_groups.csv").set_index(["group", "method"])["auroc"]
    assert groups["ab", "KNN"] == pytest.approx(knn.mean(), abs=1e-12) and np.isnan(
        groups["all", "KNN"]
    )
    assert np.isfinite(groups["all", "MSP"])
    shown = next(line.split() for line in printed.splitlines() if line.startswith("KNN"))
    assert len(shown) == 1 + 2 * 3, "a, b and their mean; neither c nor a mean with it"
    assert (folder / "figures" / "scores_KNN.png").exists() and "removed" not in printed
    assert "KNN" not in read_csv(folder / "scores_OOD_c.csv") and "KNN" in read_csv(
        folder / "scores_OOD_a.csv"
    )
    assert (
        "| KNN |" in (folder / "ood_metrics.md").read_text()
        and "KNN" in (folder / "ood_metrics.tex").read_text()
    )


def test_the_figures_of_a_ragged_table_are_drawn(tmp_path):
    folder = toy_run(tmp_path / "net_s0", ood=("a", "b"))
    score(folder, "--methods", "MSP", "KNN", "--ood", "a")
    score(folder, "--methods", "Energy", "--ood", "b")
    for name in ("auroc_bars", "scores_MSP", "scores_Energy", "principal_components"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000


def test_replace_starts_over(folder):
    score(folder, "--methods", "MSP", "KNN")
    table, printed = score(folder, "--methods", "ViM", "--ood", "a", "--replace")
    assert cells(table) == {("a", "ViM")} and "stay" not in printed


def test_another_share_is_applied_to_all_rows(folder):
    score(folder, "--methods", "KNN")
    table, _ = score(folder, "--methods", "MSP", "--tpr", "0.8")
    inside, outside = (read_csv(folder / f"accepted_{stem}.csv") for stem in ("ID_toy", "OOD_a"))
    assert inside["KNN_accepted"].sum() == 80
    assert rows(table)["fpr95"]["a", "KNN"] == outside["KNN_accepted"].mean()


def test_parameters_stay_those_of_the_scores(folder):
    score(folder, "--methods", "ViM", "Energy", "--vim-dim", "3", "--temperature", "10")
    table, _ = score(folder, "--methods", "Energy", "MSP")
    found = {
        row.method: json.loads(row.parameters)
        for row in table.dropna(subset="parameters").itertuples()
    }
    assert found == {"ViM": {"dim": 3}, "Energy": {"temperature": 1.0}}


def test_one_best_method_is_chosen_among_old_and_new(folder):
    score(folder, "--methods", "MSP")
    table, _ = score(folder, "--methods", "Mahalanobis", "ViM")
    alone = score(folder, "--methods", "MSP", "Mahalanobis", "ViM", "--replace")[0]
    assert list(rows(table)["best"]) == list(rows(alone)["best"]) and table["best"].any()


# ---- what changed does not stay ------------------------------------------------------------------


def test_a_set_whose_features_changed_goes_and_says_so(folder):
    score(folder, "--methods", "MSP", "KNN")
    edit(folder / "OOD_b_test.csv")
    table, printed = score(folder, "--methods", "MSP")
    assert cells(table) == {("a", "MSP"), ("b", "MSP"), ("c", "MSP"), ("a", "KNN"), ("c", "KNN")}
    assert printed.count("OOD_b_test changed, or is gone; the earlier rows of b go") == 1


def test_a_set_that_is_gone_goes(folder):
    score(folder, "--methods", "MSP", "KNN")
    for suffix in (".csv", ".json"):
        (folder / f"OOD_b_test{suffix}").unlink()
    table, printed = score(folder, "--methods", "MSP")
    assert set(table["ood"]) == {"a", "c"} and "the earlier rows of b go" in printed
    assert "go" not in score(folder, "--methods", "MSP", "--ood", "a")[1].split(), (
        "nor is it missed again"
    )


@pytest.mark.parametrize("name", ["ID_toy_train", "ID_toy_val", "ID_toy_test"])
def test_other_id_features_start_the_table_over(folder, name):
    score(folder, "--methods", "MSP", "KNN")
    edit(folder / f"{name}.csv")
    table, printed = score(folder, "--methods", "MSP")
    assert (
        set(table["method"]) == {"MSP"}
        and f"the earlier table starts over: {name} changed" in printed
    )


@pytest.mark.parametrize("name", ["scores_OOD_a.csv", "ood_metrics.csv"])
def test_an_edited_table_is_not_joined_and_not_replaced_unasked(folder, name):
    score(folder, "--methods", "MSP", "KNN")
    path = folder / name
    path.write_text(path.read_text().replace("0.9", "0.8"))
    edited = path.read_bytes()
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP")
    assert ended.code == 2 and path.read_bytes() == edited
    assert (
        f"{name} was changed after it was written, and KNN would go with it" in ended.err
        and "--replace" in ended.err
    )
    table, printed = score(folder, "--methods", "KNN", "MSP")
    assert (
        set(table["method"]) == {"MSP", "KNN"}
        and printed.count(f"{name} was changed after it was written") == 1
    )
    path.write_text(path.read_text().replace("0.9", "0.8"))
    assert set(score(folder, "--methods", "MSP", "--replace")[0]["method"]) == {"MSP"}


def test_a_table_that_a_spreadsheet_saved_is_the_same_table(folder):
    before = score(folder, "--methods", "MSP", "KNN")[0]
    for name in ("scores_OOD_a.csv", "ood_metrics.csv"):
        path = folder / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    after = score(folder, "--methods", "MSP")[0]
    pd.testing.assert_frame_equal(rows(before), rows(after), check_exact=True)


def test_nothing_is_said_of_rows_that_are_computed_anew(folder):
    score(folder, "--methods", "MSP")
    edit(folder / "OOD_b_test.csv")
    assert "go" not in score(folder, "--methods", "MSP")[1].split()


def test_perturbed_images_that_changed_take_their_rows_along(folder):
    for stem in ("ID_toy_test", "OOD_a_test", "OOD_b_test"):
        found, sidecar = (
            store.read_features(folder / f"{stem}.csv"),
            records.read_sidecar(folder / f"{stem}.csv"),
        )
        store.write_features(
            folder / f"ODIN_{stem}.csv",
            found.features * 1.1,
            found.labels,
            None,
            {**sidecar, "odin_epsilon": 0.002, "temperature": 1000.0},
        )
    first = score(folder, "--methods", "ODIN", "MSP")[0]
    assert rows(first)["note"]["c", "ODIN"].startswith("no perturbed images of c; make them with: ")
    edit(folder / "ODIN_OOD_b_test.csv")
    table, printed = score(folder, "--methods", "MSP")
    assert cells(table) == {*((name, "MSP") for name in "abc"), ("a", "ODIN"), ("c", "ODIN")}
    assert "perturbed images of b changed" in printed
    assert rows(table)["note"]["c", "ODIN"] == rows(first)["note"]["c", "ODIN"]


# ---- a set that chose hyper-parameters -----------------------------------------------------------


def test_a_set_that_chose_parameters_is_not_tested_by_what_it_tuned(folder):
    score(folder, "--methods", "MSP", "Energy", "KNN")
    table, _ = score(folder, "--methods", "MSP", "Energy", "--val-ood", "b")
    assert (
        ("b", "Energy") not in cells(table)
        and ("b", "MSP") in cells(table)
        and ("b", "KNN") in cells(table)
    )
    tuned = rows(table, method="Energy")["parameters"].map(json.loads)
    assert {values["val_ood"] for values in tuned} == {"b"} and len(tuned) == 2
    later, printed = score(folder, "--methods", "ViM")
    assert ("b", "Energy") not in cells(
        later
    ) and "hyper-parameters of Energy chosen on b" in printed
    assert list(rows(later, method="Energy")["parameters"].map(json.loads)) == list(tuned)


def test_what_a_set_chose_goes_with_the_set(folder):
    score(folder, "--methods", "MSP", "Energy", "--val-ood", "b")
    score(folder, "--methods", "KNN", "--ood", "a")
    edit(folder / "OOD_b_test.csv")
    table, printed = score(folder, "--methods", "KNN", "--ood", "a")
    assert (
        set(table["method"]) == {"MSP", "KNN"}
        and "OOD_b_test, which chose the parameters of Energy, changed" in printed
    )


# ---- several checkpoints, and records from elsewhere ---------------------------------------------


def test_each_checkpoint_joins_its_own_and_what_they_share_is_compared(tmp_path, folder):
    results = tmp_path / "results"
    folders = [toy_run(results / f"net_s{seed}", ood=("a", "b"), seed=seed) for seed in range(2)]
    score(folders[0], "--methods", "KNN")
    score(folders[1], "--methods", "KNN", "ViM", "--ood", "a")
    ended = shell(
        ood_methods.main, "--checkpoint", *folders, "--output-dir", results, "--methods", "MSP"
    )
    assert ended.code == 0, ended.err
    assert ("b", "KNN") in cells(read_csv(folders[0] / "ood_metrics.csv"))
    assert ("a", "ViM") in cells(read_csv(folders[1] / "ood_metrics.csv"))
    spread = read_csv(results / "ood_checkpoints.csv")
    assert cells(spread) == {("a", "MSP"), ("b", "MSP"), ("a", "KNN")} and set(
        spread["checkpoints"]
    ) == {2}


@pytest.mark.parametrize("name", ["figures/../../../victim", "/victim", "../victim.png"])
def test_a_record_that_names_a_file_outside_deletes_nothing(folder, tmp_path, name):
    score(folder, "--methods", "MSP")
    victim = tmp_path / "victim"
    for path in (victim, folder.parent / "victim.png"):
        path.write_text("mine")
    record = utils.read_json(folder / "ood_methods.json")
    outside = str(victim) if name == "/victim" else name
    utils.write_json(
        folder / "ood_methods.json", {**record, "outputs": {**record["outputs"], outside: "0" * 64}}
    )
    for words in (["--methods", "MSP"], ["--methods", "MSP", "--replace"]):
        ended = shell(ood_methods.main, "--checkpoint", folder, *words)
        assert (
            ended.code == 2
            and "lies outside that folder" in ended.err
            and "Traceback" not in ended.err
        )
    assert victim.read_text() == (folder.parent / "victim.png").read_text() == "mine"


@pytest.mark.parametrize("name", ["figures/../head.csv", "figures/notes.txt", "OOD_a_test.csv"])
def test_a_record_deletes_only_figures_and_tables_of_scores(folder, name):
    score(folder, "--methods", "MSP")
    (folder / "figures" / "notes.txt").write_text("mine")
    record = utils.read_json(folder / "ood_methods.json")
    utils.write_json(
        folder / "ood_methods.json", {**record, "outputs": {**record["outputs"], name: "0" * 64}}
    )
    score(folder, "--methods", "MSP", "--replace")
    assert (folder / name).exists()


def test_a_table_with_a_path_for_a_name_is_refused(folder):
    score(folder, "--methods", "MSP")
    path, record = folder / "ood_metrics.csv", folder / "ood_methods.json"
    path.write_text(path.read_text().replace(",a,MSP", ",../../a,MSP"))
    records.sidecar_path(path).unlink()
    content = utils.read_json(record)
    content["outputs"]["ood_metrics.csv"] = records.sha256(path)
    utils.write_json(record, content)
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "KNN")
    assert ended.code == 2 and "../../a" in ended.err and "Traceback" not in ended.err


def test_scores_are_read_back_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=2000) * 10.0 ** np.random.default_rng(1).integers(
        -300, 300, 2000
    )
    values[7] = np.nan
    images = store.Features(None, np.zeros(2000, np.int64), None, None)
    table = outputs.score_table(ScoredSet("ID", images, {"MSP": values}), {"MSP": 0.0}, None)
    store.write_table(tmp_path / "scores_ID_toy.csv", table)
    found = joining.read_scores(tmp_path / "scores_ID_toy.csv", ["MSP"], 2000)["MSP"]
    np.testing.assert_array_equal(
        found.view(np.int64)[~np.isnan(values)], values.view(np.int64)[~np.isnan(values)]
    )
    assert np.isnan(found[7])


# ---- when the stage is current -------------------------------------------------------------------


def test_what_comes_later_makes_the_stage_run_again(folder):
    score(folder, "--methods", "MSP")
    arguments = utils.read_json(folder / "ood_methods.json")["arguments"]
    assert current.is_current(folder / "ood_methods.json", arguments)
    for stem in ("ODIN_ID_toy_test", "OOD_later_test", "ODIN_OOD_a_test"):
        store.write_features(folder / f"{stem}.parquet", np.ones((3, 12)), np.zeros(3))
        assert not current.is_current(folder / "ood_methods.json", arguments), stem
        for suffix in (".parquet", ".json"):
            (folder / f"{stem}{suffix}").unlink()
        assert current.is_current(folder / "ood_methods.json", arguments), stem


def test_a_table_without_methods_that_came_since_is_made_again_unless_it_named_its_own(folder):
    score(folder)
    by_default = ood_methods.parse_args(["--checkpoint", str(folder)])
    assert ood_methods.why_incomplete(folder, by_default) == ""
    some = ["--methods", "MSP", "KNN", "--replace"]
    score(folder, *some)
    said = ood_methods.why_incomplete(folder, by_default)
    assert said.startswith("its table was made without MaxLogit, Energy")
    assert "KNN" not in said
    named = ood_methods.parse_args(["--checkpoint", str(folder), *some])
    assert ood_methods.why_incomplete(folder, named) == ""
