"""report.py --leaderboard: our means and intervals, and published figures that no number of ours
gets into."""

import pandas as pd
import pytest
from helpers import read_csv, shell

import report
from reporting import leaderboard

NEAR, FAR = ("cifar10", "tin"), ("mnist", "svhn", "textures", "places365")


def write_run(folder, aurocs, accuracy=0.7, groups=False):
    """A folder of a CIFAR-100 checkpoint with {(method, set): AUROC}."""
    folder.mkdir(parents=True)
    rows = [
        {
            "checkpoint": folder.name,
            "dataset": "cifar100",
            "ood": name,
            "method": method,
            "parameters": '{"k": 50}' if method == "KNN" else "",
            "auroc": value,
            "fpr95": 1 - value,
            "accuracy": accuracy,
            "n_id": 10_000,
        }
        for (method, name), value in aurocs.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "ood_metrics.csv", index=False)
    if groups:
        means = [("near", " ".join(NEAR), "KNN", 0.79, 0.83)]
        columns = ["group", "sets", "method", "auroc_low", "auroc_high"]
        pd.DataFrame(means, columns=columns).to_csv(folder / "ood_groups.csv", index=False)
    return folder


def aurocs(start, methods=("KNN", "MLS-like"), sets=(*NEAR, *FAR)):
    return {
        (method, name): start + 0.01 * place
        for method in methods
        for place, name in enumerate(sets)
    }


def board(tmp_path, *folders):
    ended = shell(report.main, "--leaderboard", *folders, "--output-dir", tmp_path / "out")
    assert ended.code == 0, ended.err
    return ended.out, read_csv(tmp_path / "out" / "leaderboard.csv")


def test_near_and_far_are_means_over_openood_s_sets(tmp_path):
    one = write_run(tmp_path / "one", aurocs(0.8), groups=True)
    two = write_run(tmp_path / "two", aurocs(0.6, sets=(*NEAR, "svhn")), accuracy=0.5)
    printed, table = board(tmp_path, one, two, tmp_path / "nothing")
    rows = table.set_index(["checkpoint", "method"])
    assert rows.loc[("one", "KNN"), "near_auroc"] == pytest.approx((0.8 + 0.81) / 2)
    assert rows.loc[("one", "KNN"), "far_auroc"] == pytest.approx((0.82 + 0.83 + 0.84 + 0.85) / 4)
    assert rows.loc[("one", "KNN"), "near_fpr95"] == pytest.approx(1 - 0.805)
    assert rows.loc[("one", "KNN"), "mean_auroc"] == pytest.approx(0.825)
    assert rows.loc[("one", "KNN"), "near_auroc_low"] == 0.79
    assert pd.isna(rows.loc[("one", "KNN"), "far_auroc_low"])
    assert pd.isna(rows.loc[("one", "MLS-like"), "near_auroc_low"])
    assert rows.loc[("two", "KNN"), "far_auroc"] == pytest.approx(0.62)
    assert rows.loc[("two", "KNN"), "far_sets"] == "svhn"
    assert set(table["accuracy"]) == {0.7, 0.5}
    assert "two: 1 of 4 far sets were tested (svhn of mnist, svhn, textures, places365)" in printed
    assert f"ood_methods.py --checkpoint {two} --groups openood" in printed


def test_a_method_that_was_not_computed_on_a_set_has_no_mean(tmp_path):
    values = aurocs(0.8)
    del values["KNN", "tin"]
    _, table = board(tmp_path, write_run(tmp_path / "one", values))
    rows = table.set_index("method")
    assert pd.isna(rows.loc["KNN", "near_auroc"]) and pd.notna(rows.loc["KNN", "far_auroc"])


def test_a_data_set_without_near_and_far_sets_has_its_mean_alone(tmp_path):
    folder = write_run(tmp_path / "one", aurocs(0.8, sets=("photos", "gaussian")))
    table = read_csv(folder / "ood_metrics.csv").assign(dataset="digits")
    table.to_csv(folder / "ood_metrics.csv", index=False)
    printed, ours = board(tmp_path, folder)
    assert "OpenOOD has no near and far sets for digits" in printed
    assert ours["mean_auroc"].tolist() == pytest.approx([0.805, 0.805])


def test_published_figures_stand_beside_and_in_files_of_their_own(tmp_path):
    one = write_run(tmp_path / "one", aurocs(0.8, methods=("MaxLogit", "Cosine")))
    two = write_run(tmp_path / "two", aurocs(0.7, methods=("MaxLogit", "Cosine")))
    _, ours = board(tmp_path, one, two)
    published = read_csv(tmp_path / "out" / "leaderboard_published.csv")
    assert set(published["dataset"]) == {"cifar100"} and set(published["outlier_data"]) == {"no"}
    plain = published[published["training"] == "CrossEntropy"].set_index("ours")
    assert plain.loc["MaxLogit", "method"] == "MLS"
    assert (plain.loc["MaxLogit", "near_auroc"], plain.loc["MaxLogit", "far_auroc"]) == (
        81.05,
        79.67,
    )
    beside = leaderboard.beside(leaderboard.make([one, two])).set_index("method")
    assert beside.loc["MaxLogit", "ours_near_auroc"] == pytest.approx(100 * (0.805 + 0.705) / 2)
    assert beside.loc["MaxLogit", "published_near_auroc"] == 81.05
    assert pd.isna(beside.loc["Cosine", "published_near_auroc"])
    assert not [name for name in ours.columns if "published" in name]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| cifar100 | MaxLogit | 75.5 |" in text and "Published figures are OpenOOD's" in text


def test_every_published_row_is_a_number_with_its_source():
    for path in leaderboard.published_files():
        table = leaderboard.read_published(path)
        assert table[["near_auroc", "far_auroc"]].notna().all().all(), path
        assert table["near_auroc"].between(20, 100).all() and table["source"].notna().all()
        assert set(table["task"]) <= {"ood", "fsood"}
        assert set(table["outlier_data"]) <= {"yes", "no"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --checkpoint for a report, or --leaderboard"),
        (["--checkpoint", "a", "--leaderboard", "b"], "give --checkpoint for a report"),
        (["--leaderboard", "nowhere"], "ood_metrics.csv; expected folders"),
    ],
)
def test_mistakes_are_said(words, said):
    ended = shell(report.main, *words)
    assert ended.code and said in ended.err
