"""report.py of several checkpoints: what they share, which is best, and what is not comparable."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import read_csv, shell

import report
from reporting import comparing

# run -> set -> method -> AUROC
ONE = {
    "near": {"MSP": 0.70, "ViM": 0.80, "KNN": 0.75},
    "far": {"MSP": 0.80, "ViM": 0.9, "KNN": 0.85},
}
TWO = {
    "near": {"MSP": 0.72, "ViM": 0.76, "KNN": 0.77},
    "far": {"MSP": 0.82, "ViM": 0.8, "KNN": 0.83},
}


def write_run(
    root,
    name,
    aurocs,
    seed=0,
    accuracy=0.7,
    dataset="cifar100",
    images=None,
    half=0.01,
    collapse=None,
    **arguments,
):
    """A folder with scores and, beside it, what train.py says of the network."""
    folder = root / name
    folder.mkdir(parents=True)
    rows = [
        {
            "checkpoint": name,
            "dataset": dataset,
            "ood": ood,
            "method": method,
            "parameters": "",
            "auroc": value,
            "auroc_low": value - half,
            "auroc_high": value + half,
            "fpr95": 1 - value,
            "accuracy": accuracy,
            "n_id": 1000,
            "n_ood": (images or {}).get(ood, 500),
        }
        for ood, values in aurocs.items()
        for method, value in values.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "ood_metrics.csv", index=False)
    measures = [("accuracy", accuracy, accuracy - half, accuracy + half), ("ece", 0.05, "", "")]
    names = ["ood", "method", "measure", "at", "value", "low", "high", "temperature"]
    kept = [("", "", measure, "", value, low, high, "") for measure, value, low, high in measures]
    pd.DataFrame(kept, columns=names).to_csv(folder / "id_metrics.csv", index=False)
    if collapse is not None:
        columns = ["metric", "value", "split", "centring"]
        table = [("nc1", collapse, "train", "mu_G")]
        pd.DataFrame(table, columns=columns).to_csv(folder / "nc_metrics.csv", index=False)
    sidecar = {
        "model": "resnet18",
        "dataset": dataset,
        "mode": "sgd",
        "epoch": 3,
        "test_acc": accuracy,
        "recipe": {},
        "arguments": {"seed": seed, "suffix": name, "lr": None, **arguments},
    }
    (root / f"{name}.json").write_text(json.dumps(sidecar))
    (folder / "head.json").write_text(
        json.dumps({"checkpoint": f"{name}.pth", "model": "resnet18"})
    )
    return folder


def compared(root, *folders):
    """(what report.py did, compare.csv, compare.html)."""
    ended = shell(report.main, "--checkpoint", *folders, "--output-dir", root)
    if ended.code:
        return ended, None, ""
    page = (root / "compare.html").read_text().replace("<wbr>", "")
    return ended, read_csv(root / "compare.csv"), page


def comparison_of(root, *folders):
    """The comparison of reporting, without the page."""
    args = report.parse_args(["--checkpoint", *map(str, folders), "--output-dir", str(root)])
    stale = report.records.Stale(False)
    named = zip(args.checkpoint, folders, comparing.names_of(folders), strict=True)
    return comparing.compare([report.run_of(*one, args.output_dir, stale) for one in named])


# ---- what is shared ------------------------------------------------------------------------------


def test_means_ranks_and_the_tidy_table(tmp_path):
    one, two = write_run(tmp_path, "a", ONE), write_run(tmp_path, "b", TWO, model="other")
    found = comparison_of(tmp_path, one, two)
    assert found.sets == ["near", "far"]
    assert found.methods == ["ViM", "KNN", "MSP"]  # mean ranks 1.5, 1.5 and 3
    np.testing.assert_allclose(found.means.loc["ViM"], [0.85, 0.78])
    assert found.ranks["a"].to_dict() == {"ViM": 1, "KNN": 2, "MSP": 3}
    assert found.ranks["b"].to_dict() == {"KNN": 1, "ViM": 2, "MSP": 3}
    assert found.rank_correlations.loc["a", "b"] == pytest.approx(0.5)
    assert found.concordance == pytest.approx(0.75)
    _, table, _ = compared(tmp_path, one, two)
    mean = table[
        (table["run"] == "b")
        & (table["subject"] == "mean of the shared sets")
        & (table["method"] == "KNN")
        & (table["measure"] == "auroc")
    ]
    assert float(mean["value"].iloc[0]) == pytest.approx(0.8)
    alone = table[(table["subject"] == "ID test images") & (table["run"] == "a")]
    assert dict(zip(alone["measure"], alone["value"].astype(float), strict=True))["ece"] == 0.05


def test_the_best_run_of_a_set_is_settled_where_intervals_do_not_meet(tmp_path):
    one, two = write_run(tmp_path, "a", ONE), write_run(tmp_path, "b", TWO)
    near, far = comparison_of(tmp_path, one, two).verdicts()
    assert (near.run, near.method, near.runner_up) == ("a", "ViM", "b")
    assert near.behind == pytest.approx(0.03) and near.settled
    assert (far.run, far.settled) == ("a", True)
    wide = write_run(tmp_path, "c", TWO, half=0.05)
    near, far = comparison_of(tmp_path, one, wide).verdicts()
    assert not near.settled  # 0.79 and 0.82 meet
    assert far.settled  # 0.89 and 0.88 do not


def test_groups_that_all_runs_have_are_compared(tmp_path):
    folders = [write_run(tmp_path, "a", ONE), write_run(tmp_path, "b", TWO)]
    for folder in folders:
        rows = [("all", "near far", "ViM", 0.9, 0.1), ("hard", "near", "ViM", 0.8, 0.2)]
        table = pd.DataFrame(rows, columns=["group", "sets", "method", "auroc", "fpr95"])
        table.to_csv(folder / "ood_groups.csv", index=False)
        record = {"command": "x", "outputs": {"ood_groups.csv": "0" * 64}}
        (folder / "ood_methods.json").write_text(json.dumps(record))
    found = comparison_of(tmp_path, *folders)
    assert found.groups == {"all": ["near", "far"], "hard": ["near"]}
    assert found.mean_of("auroc", "hard").loc["ViM"].tolist() == [0.8, 0.76]
    _, table, page = compared(tmp_path, *folders)
    hard = table[(table["subject"] == "mean of hard") & (table["method"] == "KNN")]
    assert hard["value"].astype(float).tolist() == pytest.approx([0.75, 0.77, 0.25, 0.23])
    assert "Mean over hard" not in page  # it is a set, which stands there by itself


def test_what_is_not_in_every_run_is_left_out_and_named(tmp_path):
    more = {**TWO, "own": {"MSP": 0.5}}
    more["near"] = {**more["near"], "GEN": 0.5}
    one = write_run(tmp_path, "a", ONE)
    two = write_run(tmp_path, "b", more, images={"far": 400})
    found = comparison_of(tmp_path, one, two)
    assert found.sets == ["near"] and found.methods == ["ViM", "KNN", "MSP"]
    ended, _, page = compared(tmp_path, one, two)
    assert "OOD sets of some runs alone, and left out: own" in ended.out
    assert "scored different images, and they are left out. far: 500 in a and 400 in b" in ended.out
    assert "Scored in some runs alone, and left out: GEN" in page


def test_networks_of_other_id_sets_are_not_better_than_one_another(tmp_path):
    one = write_run(tmp_path, "a", ONE)
    two = write_run(tmp_path, "b", TWO, dataset="cifar10")
    ended, _, page = compared(tmp_path, one, two)
    assert "The ID sets differ" in ended.out and "a: cifar100" in ended.out
    assert "classifies most" not in page and 'class="best"' not in page
    assert "highest mean AUROC" not in page
    assert "No run is called better than another" in ended.out
    assert "Kendall" in page  # the order of methods can be compared all the same


def test_seeds_of_one_recipe_are_put_together(tmp_path):
    folders = [
        write_run(tmp_path, "net_s0", ONE, seed=0, accuracy=0.7),
        write_run(tmp_path, "net_s1", TWO, seed=1, accuracy=0.8),
        write_run(tmp_path, "other_s0", TWO, seed=0, lr=0.5),
    ]
    found = comparison_of(tmp_path, *folders)
    (seeds,) = found.seeds
    assert (seeds.name, seeds.runs) == ("net_s", ["net_s0", "net_s1"])
    mean, deviation = comparing.over_seeds(dict(found.means.loc["ViM"]), seeds)
    assert mean == pytest.approx(0.815) and deviation == pytest.approx(0.07 / np.sqrt(2))
    assert found.differing["lr"] == [None, None, 0.5]
    assert found.differing["seed"] == [0, 1, 0]
    _, _, page = compared(tmp_path, *folders)
    assert "net_s*, 2 seeds" in page and "81.5 ± 4.9" in page and "75.0 ± 7.1" in page


def test_runs_without_scores_are_compared_in_what_they_have(tmp_path):
    one, two = (
        write_run(tmp_path, "a", ONE, collapse=0.2),
        write_run(tmp_path, "b", TWO, collapse=0.3),
    )
    (two / "ood_metrics.csv").unlink()
    ended, _, page = compared(tmp_path, one, two)
    assert ended.code == 0, ended.err
    assert "No OOD set has been scored in every run" in page
    assert "ood_methods.py" in page  # the command that makes what b lacks
    assert "figures/*.png" not in page, "which this page does not show"
    assert "0.2" in page and "NC1" in page


def test_collapse_and_trainings_are_drawn(tmp_path):
    folders = []
    for place, (name, aurocs) in enumerate({"a": ONE, "b": TWO}.items()):
        folders.append(write_run(tmp_path, name, aurocs, collapse=0.1 + place))
        sidecar = json.loads((tmp_path / f"{name}.json").read_text())
        sidecar["curves"] = f"{name}_curves.csv"
        (tmp_path / f"{name}.json").write_text(json.dumps(sidecar))
        curves = pd.DataFrame(
            {
                "epoch": [1, 2, 3],
                "train_loss": [2.0, 1.0, 0.5],
                "train_acc": [0.2, 0.5, 0.7],
                "val_loss": [2.0, 1.1, 0.9],
                "val_acc": [0.2, 0.4, np.nan] if place else [np.nan] * 3,
            }
        )
        curves.to_csv(tmp_path / f"{name}_curves.csv", index=False)
    _, _, page = compared(tmp_path, *folders)
    assert page.count("<img") == 2
    assert "Collapse, and OOD detection" in page and "<h2>Training</h2>" in page


# ---- mistakes ------------------------------------------------------------------------------------


def test_a_run_is_not_compared_with_itself(tmp_path):
    one = write_run(tmp_path, "a", ONE)
    ended, _, _ = compared(tmp_path, one, one)
    assert ended.code == 2 and "a is named twice" in ended.err


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    write_run(tmp_path / "first", "net_s0", ONE)
    write_run(tmp_path / "second", "net_s0", TWO)
    folders = [tmp_path / place / "net_s0" for place in ("first", "second")]
    assert comparing.names_of(folders) == ["first/net_s0", "second/net_s0"]
    assert comparing.names_of([folders[0], tmp_path / "x"]) == ["net_s0", "x"]
    ended, table, page = compared(tmp_path, *folders)
    assert ended.code == 0, ended.err
    assert set(table["run"]) == {"first/net_s0", "second/net_s0"}
    assert "second/net_s0" in page and "second/net_s0" in ended.out
    again = tmp_path / "first" / ".." / "first" / "net_s0"
    ended, _, _ = compared(tmp_path, folders[0], again)
    assert ended.code == 2 and "net_s0 is named twice" in ended.err


def test_a_run_that_was_not_measured_says_what_makes_it(tmp_path):
    one = write_run(tmp_path, "a", ONE)
    (tmp_path / "b").mkdir()
    ended, _, _ = compared(tmp_path, one, tmp_path / "b")
    assert ended.code == 2 and "nothing to report" in ended.err and "ood_methods.py" in ended.err


def test_names_are_text(tmp_path):
    """Not markup, not numbers, and no formula in a spreadsheet."""
    one = {"<script>": {"MSP": 0.7}, "007": {"MSP": 0.8}}
    folders = [write_run(tmp_path, "a", one), write_run(tmp_path, "b", one)]
    _, table, page = compared(tmp_path, *folders)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "007" in set(table["subject"])


def test_what_is_settled_is_said_run_by_run(tmp_path):
    folders = [
        write_run(tmp_path, "a", {"one": {"MSP": 0.9}, "two": {"MSP": 0.5}, "six": {"MSP": 0.7}}),
        write_run(tmp_path, "b", {"one": {"MSP": 0.7}, "two": {"MSP": 0.8}, "six": {"MSP": 0.7}}),
    ]
    ended, _, page = compared(tmp_path, *folders)
    assert "Settled by intervals: a on one; b on two." in ended.out
    assert "not settled: intervals meet" in page
