"""The report on an ensemble's folder, against the tables that ood_methods.py --ensemble wrote."""

import json

import ensemble_cases
import pandas as pd
import pytest
from helpers import blank_figures, read_csv

import ood_methods
import report
import utils
from reporting import ensembles

METHODS = ["MSP", "Energy", "Mahalanobis"]
PAIR = "entropy_T100_E0.002"
ACCURACIES = [0.5, 0.75, 0.625, 0.25]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The scored folders of a leave-out ensemble and of a deep one; change nothing."""
    root = tmp_path_factory.mktemp("ensembles")
    with pytest.MonkeyPatch.context() as patch:
        blank_figures(patch)
        members = ensemble_cases.leave_out(root, [PAIR])
        score(members, "--perturbed", "100", "0.002")
        score(ensemble_cases.deep(root))
    for number, folder in enumerate(members):
        trained = {
            "recipe": {},
            "model": "net",
            "dataset": "toy",
            "mode": "leave-out",
            "epochs": 6,
            "epoch": 6,
            "seconds": 10.5,
            "test_acc": ACCURACIES[number],
            "command": f"python train.py --fold {number + 1}",
        }
        utils.write_json(root / f"{folder.name}.json", trained)
    return {
        "leave-out": root / "net_ensemble_toy_s0",
        "deep": root / "net_ensemble_toy_s0-s1-s2",
    }


def score(members, *words):
    names = [str(folder) for folder in members]
    ood_methods.main(["--ensemble", "--checkpoint", *names, "--methods", *METHODS, *words])


@pytest.fixture(params=["leave-out", "deep"])
def made(request, folders):
    """(kind, folder, summary, page) of a report."""
    folder = folders[request.param]
    report.main(["--checkpoint", str(folder), "--output-dir", str(folder.parent)])
    summary = utils.read_json(folder / "summary.json")
    return request.param, folder, summary, (folder / "report.html").read_text(encoding="utf-8")


def test_the_members_are_named_with_their_hashes_and_what_they_leave_out(made):
    kind, folder, summary, page = made
    said = summary["ensemble"]
    hashes = utils.read_json(folder / "ood_metrics.json")["members"]
    assert said["kind"] == kind
    names = {one["checkpoint"]: one["sha256"] for one in said["members"]}
    assert names == {name: network["checkpoint_sha256"] for name, network in hashes.items()}
    expected = [*ensemble_cases.FOLDS.values()] if kind == "leave-out" else [[]] * 3
    assert [one["left_out"] for one in said["members"]] == expected
    for name, hashed in names.items():
        assert name in page and hashed[:12] in page and hashed in page


def test_alone_is_the_mean_over_sets_of_each_member(made):
    """Restated by a loop over ood_members.csv."""
    _, folder, summary, _ = made
    table = read_csv(folder / "ood_members.csv")
    together = read_csv(folder / "ood_metrics.csv")
    said = {row["method"]: row for row in summary["ensemble"]["alone"]}
    assert set(said) == set(METHODS)
    for method, row in said.items():
        means = []
        for name in table["checkpoint"].unique():
            own = table[(table["checkpoint"] == name) & (table["method"] == method)]
            assert len(own) == 2
            means.append(sum(own["auroc"]) / 2)
        assert row["mean"] == pytest.approx(sum(means) / len(means))
        assert row["lowest"] == pytest.approx(min(means))
        assert row["highest"] == pytest.approx(max(means))
        ranked = together[together["method"] == f"ranks({method})"]
        assert row["together"] == pytest.approx(ranked["auroc"].mean())
    means = [row["mean"] for row in summary["ensemble"]["alone"]]
    assert means == sorted(means, reverse=True)


def test_collapse_and_training_of_one_network_are_not_missing(made):
    kind, _, summary, page = made
    assert summary["missing"] == []
    assert "neural_collapse.py" not in page
    assert "each member has its own" in " ".join(summary["reading"])
    assert f"{kind} ensemble of" in page


def test_what_the_members_share_is_the_ensembles_and_the_rest_is_not(folders):
    folder = folders["leave-out"]
    report.main(["--checkpoint", str(folder), "--output-dir", str(folder.parent)])
    summary = utils.read_json(folder / "summary.json")
    run = summary["checkpoint"]
    assert (run["model"], run["mode"], run["epochs"]) == ("net", "leave-out", 6)
    assert run["seconds"] == 4 * 10.5
    assert run["command"] is None and run["sha256"] is None
    accuracy = read_csv(folder / "ood_metrics.csv")["accuracy"].iloc[0]
    assert summary["accuracy"]["test"] == pytest.approx(accuracy)
    assert [one["test_acc"] for one in summary["ensemble"]["members"]] == ACCURACIES
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "temperature 100, epsilon 0.002, entropy" in page


def test_the_reading_compares_the_ensembles_own_score_with_msp_of_one_member(made):
    kind, _, summary, _ = made
    own = "LeaveOut" if kind == "leave-out" else "EnsembleMSP"
    mean = next(row for row in summary["mean_over_sets"] if row["method"] == own)["auroc"]
    msp = next(row for row in summary["ensemble"]["alone"] if row["method"] == "MSP")
    said = next(line for line in summary["reading"] if "single member" in line)
    assert f"{own} has AUROC {100 * mean:.1f}%" in said
    assert f"MSP has {100 * msp['lowest']:.1f}–{100 * msp['highest']:.1f}%" in said


def test_a_missing_table_is_named_with_the_command_of_all_members(folders, tmp_path, capsys):
    folder = folders["leave-out"]
    table = folder / "ood_members.csv"
    kept = table.read_bytes()
    table.unlink()
    try:
        report.main(["--checkpoint", str(folder), "--output-dir", str(folder.parent)])
    finally:
        table.write_bytes(kept)
    said = capsys.readouterr().out
    members = [f"net_final_toy_s0_fold{fold}of4" for fold in range(1, 5)]
    assert "missing: ood_members.csv" in said
    assert "--ensemble" in said and "--perturbed 100.0 0.002" in said
    assert all(name in said for name in members)


def test_missing_figures_are_made_by_scoring_alone(folders, tmp_path, capsys):
    folder = folders["deep"]
    kept = (folder / "figures").rename(tmp_path / "figures")
    try:
        report.main(["--checkpoint", str(folder), "--output-dir", str(folder.parent)])
    finally:
        kept.rename(folder / "figures")
    said = capsys.readouterr().out
    assert "missing: figures/*.png" in said and "ood_methods.py --checkpoint" in said
    assert "neural_collapse" not in said


def test_a_method_that_one_member_lacks_is_not_compared(folders):
    found = ensembles.find(folders["deep"], None)
    table = pd.DataFrame(
        {
            "checkpoint": ["a", "b", "c", "a", "b", "c"],
            "ood": ["x"] * 6,
            "method": ["MSP"] * 3 + ["SHE"] * 3,
            "auroc": [0.5, 0.6, 0.7, 0.9, None, 0.9],
        }
    )
    summary = {"mean_over_sets": [], "averaged_sets": ["x"]}
    rows = ensembles.alone(type(found)(found.kind, found.members, table), summary)
    assert [row["method"] for row in rows] == ["MSP"]
    assert rows[0]["together"] is None


@pytest.mark.parametrize("text", ["not JSON", "[1]", '{"members": 4}', '{"temperature": "hot"}'])
def test_parameters_that_are_not_ours_are_shown_as_they_stand(text):
    rows = [{"method": "LeaveOut", "parameters": text}]
    assert ensembles.perturbation(rows) == {"Perturbation (LeaveOut)": text}


def test_parameters_in_words():
    parameters = {"temperature": 1000.0, "odin_epsilon": 0.0, "val_ood": "uniform"}
    assert ensembles.in_words(json.dumps(parameters)) == "temperature 1000, chosen on uniform"


def test_members_that_lie_outside_the_folder_are_refused(folders):
    folder = folders["deep"]
    sidecar = folder / "ood_metrics.json"
    kept = sidecar.read_text()
    content = json.loads(kept)
    content["members"] = {"../../victim": {}, "other": {}}
    sidecar.write_text(json.dumps(content))
    try:
        with pytest.raises(ValueError, match="lies outside that folder"):
            report.main(["--checkpoint", str(folder), "--output-dir", str(folder.parent)])
    finally:
        sidecar.write_text(kept)
