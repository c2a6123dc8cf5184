"""Several networks scored as one: the numbers against slow restatements from the CSVs, what is
written, how temperature and epsilon are chosen, and members that do not belong together."""

import json
import shlex

import numpy as np
import pytest
from ensemble_cases import CLASSES, FOLDS, deep, leave_out, member
from helpers import logits_of, read_csv, shell, write_blank
from scipy.special import softmax
from scipy.stats import entropy, rankdata
from sklearn.metrics import roc_auc_score

import ood_methods
import utils
from artifacts import records
from detection import drawing, grid, members, metrics
from detection.members import Pair

PAIR = "entropy_T10_E0.002"
METHODS = ("--methods", "MSP", "KNN")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """No figures, which take most of the time: the one test of them draws by itself."""
    monkeypatch.setattr(drawing, "draw", lambda *_, **__: [])
    monkeypatch.setattr(drawing, "draw_grid", lambda *_: [])


def run(folders, *words, methods=METHODS):
    """Score an ensemble -> how it ended, and the folder of its tables."""
    root = folders[0].parent
    words = ("--ensemble", "--output-dir", root, *methods, *words)
    ended = shell(ood_methods.main, "--checkpoint", *folders, *words)
    names = [folder.name for folder in folders]
    return ended, root / members.ensemble_name(names)


def scored(folders, *words, methods=METHODS):
    """-> (metrics by (set, row), folder)."""
    ended, folder = run(folders, *words, methods=methods)
    assert ended.code == 0, ended.err
    table = read_csv(folder / "ood_metrics.csv")
    return {(row["ood"], row["method"]): row for row in table.to_dict("records")}, folder


def probabilities(folder, stem):
    return softmax(logits_of(folder, stem)[1], axis=1)


# ---- a deep ensemble -----------------------------------------------------------------------------


def test_a_deep_ensembles_scores_are_of_the_mean_softmax(tmp_path):
    folders = deep(tmp_path)
    _, folder = scored(folders)
    for stem, name in (("ID_toy_test", "ID_toy"), ("OOD_near_test", "OOD_near")):
        each = [probabilities(run, stem) for run in folders]
        mean = np.mean(each, axis=0)
        information = entropy(mean, axis=1) - np.mean([entropy(p, axis=1) for p in each], axis=0)
        table = read_csv(folder / f"scores_{name}.csv")
        np.testing.assert_allclose(table["EnsembleMSP"], mean.max(1), rtol=1e-5)
        np.testing.assert_allclose(table["EnsembleEntropy"], -entropy(mean, axis=1), rtol=1e-4)
        np.testing.assert_allclose(table["MutualInformation"], -information, rtol=1e-3, atol=1e-7)
        assert (table["prediction"] == mean.argmax(1)).all()
        assert (table["predicted_class"] == np.array(CLASSES)[mean.argmax(1)]).all()


def test_its_accuracy_is_that_of_the_mean_softmax(tmp_path):
    folders = deep(tmp_path)
    rows, folder = scored(folders)
    mean = np.mean([probabilities(run, "ID_toy_test") for run in folders], axis=0)
    labels = read_csv(folders[0] / "ID_toy_test.csv")["label"]
    assert rows["near", "EnsembleMSP"]["accuracy"] == pytest.approx(
        (mean.argmax(1) == labels).mean()
    )
    assert "LeaveOut" not in read_csv(folder / "scores_ID_toy.csv")


def test_methods_are_averaged_by_their_ranks_among_id_test_images(tmp_path):
    folders = deep(tmp_path)
    rows, folder = scored(folders)
    inside, outside = [], []
    for each in folders:
        own = probabilities(each, "ID_toy_test").max(1)
        other = probabilities(each, "OOD_near_test").max(1)
        inside.append((rankdata(own) - 0.5) / len(own))
        outside.append([np.mean(own < value) + np.mean(own == value) / 2 for value in other])
    expected = np.mean(outside, axis=0)
    table = read_csv(folder / "scores_OOD_near.csv")
    np.testing.assert_allclose(table["ranks(MSP)"], expected, atol=1e-6)
    labels = [1] * len(inside[0]) + [0] * len(expected)
    area = roc_auc_score(labels, [*np.mean(inside, axis=0), *expected])
    assert rows["near", "ranks(MSP)"]["auroc"] == pytest.approx(area)


def test_every_member_stands_in_a_table_of_its_own_as_it_would_alone(tmp_path):
    folders = deep(tmp_path)
    _, folder = scored(folders)
    table = read_csv(folder / "ood_members.csv")
    assert list(dict.fromkeys(table["checkpoint"])) == [each.name for each in folders]
    ended = shell(ood_methods.main, "--checkpoint", folders[1], *METHODS)
    assert ended.code == 0, ended.err
    alone = read_csv(folders[1] / "ood_metrics.csv")
    own = table[table["checkpoint"] == folders[1].name]
    for column in ("ood", "method", "auroc", "fpr95", "accuracy", "n_id"):
        assert own[column].tolist() == alone[column].tolist()


def test_methods_parameters_are_each_members_where_val_ood_chooses_them(tmp_path):
    rows, _ = scored(deep(tmp_path), "--val-ood", "far")
    assert {name for name, _ in rows} == {"near"}
    parameters = json.loads(rows["near", "ranks(KNN)"]["parameters"])
    own = parameters.get("by_member", [parameters])
    assert all(values["val_ood"] == "far" for values in own)


# ---- a leave-out ensemble ------------------------------------------------------------------------


def slow_score(folders, stem, temperature):
    """Vyas et al. 2018, algorithm 2, member by member."""
    total = 0.0
    for folder in folders:
        head = read_csv(folder / "head.csv")
        table = read_csv(folder / f"{stem}.csv")
        features = table.filter(regex=r"^ct\d+$").to_numpy()
        weights = head.filter(regex=r"^w\d+$").to_numpy()
        p = softmax((features @ weights.T + head["bias"].to_numpy()) / temperature, axis=1)
        total = total + p.max(1) - entropy(p, axis=1)
    return total


def test_a_leave_out_ensemble_is_scored_on_perturbed_images_where_they_are_there(tmp_path):
    folders = leave_out(tmp_path, [PAIR])
    rows, folder = scored(folders)
    table = read_csv(folder / "scores_OOD_near.csv")
    expected = slow_score(folders, f"perturbed/{PAIR}/OOD_near_test", 10)
    np.testing.assert_allclose(table["LeaveOut"], expected, rtol=1e-5)
    inside = slow_score(folders, f"perturbed/{PAIR}/ID_toy_test", 10)
    assert rows["near", "LeaveOut"]["auroc"] == pytest.approx(metrics.auroc(inside, expected))
    assert json.loads(rows["near", "LeaveOut"]["parameters"]) == {
        "members": 4,
        "temperature": 10.0,
        "odin_epsilon": 0.002,
        "perturbation": "entropy",
    }


def test_without_perturbed_images_the_plain_ones_serve_at_any_temperature(tmp_path):
    folders = leave_out(tmp_path)
    for words, temperature in (((), 1), (("--perturbed", "1000", "0"), 1000)):
        _, folder = scored(folders, *words)
        table = read_csv(folder / "scores_ID_toy.csv")
        expected = slow_score(folders, "all/ID_toy_test", temperature)
        np.testing.assert_allclose(table["LeaveOut"], expected, rtol=1e-5)


def test_its_class_is_the_largest_sum_of_softmaxes_over_plain_images_of_all_classes(tmp_path):
    folders = leave_out(tmp_path, [PAIR])
    rows, folder = scored(folders)
    table = read_csv(folder / "scores_ID_toy.csv")
    sums = np.zeros((len(table), len(CLASSES)))
    for each, left_out in zip(folders, FOLDS.values(), strict=True):
        known = [place for place, name in enumerate(CLASSES) if name not in left_out]
        sums[:, known] += all_probs(each)
    assert (table["prediction"] == sums.argmax(1)).all()
    right = (sums.argmax(1) == table["label"]).mean()
    assert rows["near", "LeaveOut"]["accuracy"] == pytest.approx(right)
    assert set(table["label"]) == {0, 1, 2, 3}


def all_probs(folder):
    head = read_csv(folder / "head.csv")
    features = read_csv(folder / "all" / "ID_toy_test.csv").filter(regex=r"^ct\d+$").to_numpy()
    weights = head.filter(regex=r"^w\d+$").to_numpy()
    return softmax(features @ weights.T + head["bias"].to_numpy(), axis=1)


def test_members_come_in_the_order_of_their_folds_however_they_are_named(tmp_path):
    folders = leave_out(tmp_path)
    _, folder = scored(folders)
    first = (folder / "scores_OOD_near.csv").read_bytes()
    scored(folders[::-1])
    assert (folder / "scores_OOD_near.csv").read_bytes() == first


# ---- temperature and epsilon ---------------------------------------------------------------------

GRID = ["entropy_T1_E0.001", "entropy_T10_E0.002", "entropy_T10_E0.004"]


def test_the_pair_is_the_best_on_the_validation_set_which_is_not_tested(tmp_path):
    folders = leave_out(tmp_path, GRID)
    rows, folder = scored(folders, "--val-ood", "far")
    table = read_csv(folder / "ensemble_grid.csv")
    pairs = list(zip(table["odin_epsilon"], table["temperature"], strict=True))
    assert pairs == [(0, 1), (0, 10), (0.001, 1), (0.002, 10), (0.004, 10)]
    for row in table.to_dict("records"):
        stem = ("ID_toy_val", "OOD_far_test")
        if row["odin_epsilon"]:
            place = f"perturbed/entropy_T{row['temperature']:g}_E{row['odin_epsilon']:g}/"
            stem = tuple(place + name for name in stem)
        else:
            stem = ("all/ID_toy_val", "OOD_far_test")
        inside, outside = (slow_score(folders, name, row["temperature"]) for name in stem)
        assert row["auroc"] == pytest.approx(metrics.auroc(inside, outside), abs=1e-6)
    best = table.loc[table["auroc"].idxmax()]
    parameters = json.loads(rows["near", "LeaveOut"]["parameters"])
    assert parameters["temperature"] == best["temperature"]
    assert parameters["odin_epsilon"] == best["odin_epsilon"]
    assert parameters["val_ood"] == "far"
    assert {name for name, _ in rows} == {"near"}


def test_a_chosen_pair_that_is_not_extracted_for_the_test_sets_is_asked_for(tmp_path):
    folders = leave_out(tmp_path, GRID)
    for each in folders:
        for pair in GRID:
            (each / "perturbed" / pair / "ID_toy_test.csv").unlink()
    chosen = grid.Choice(Pair(0.002, 10.0), "far")
    ensemble = members.find(list(map(str, folders)), tmp_path, None, None, records.Stale())
    with pytest.raises(ValueError, match=r"--odin-epsilon 0\.002 --temperature 10") as error:
        grid.require(ensemble, chosen, ["near"])
    assert all(f"{each.name}.pth" in str(error.value) for each in folders)


def test_several_pairs_of_test_images_are_not_chosen_between_in_silence(tmp_path):
    ended, _ = run(leave_out(tmp_path, GRID))
    assert ended.code != 0
    assert "perturbed in several ways" in ended.err and "--perturbed" in ended.err


def without(folder, name):
    (folder / "perturbed" / GRID[1] / name).unlink()


def test_perturbed_images_that_one_member_lacks_are_named_and_not_passed_over(tmp_path):
    folders = leave_out(tmp_path, GRID[1:2])
    without(folders[2], "OOD_near_test.csv")
    error = refused(folders)
    assert f"fold3of4/perturbed/{GRID[1]}/OOD_near_test.csv is missing" in error
    assert "--odin-epsilon 0.002 --temperature 10" in error
    rows, _ = scored(folders, "--perturbed", "1", "0")
    assert ("near", "LeaveOut") in rows


def test_a_pair_of_the_grid_that_one_member_lacks_is_named(tmp_path):
    folders = leave_out(tmp_path, GRID)
    without(folders[1], "ID_toy_val.csv")
    error = refused(folders, "--val-ood", "far")
    assert f"fold2of4/perturbed/{GRID[1]}/ID_toy_val.csv is missing" in error
    flags = "--odin-epsilon 0 0.001 0.002 0.004 --temperature 1 10 --val-ood far"
    assert flags in error


def test_the_heading_names_every_method_that_was_tuned(tmp_path):
    _, folder = scored(leave_out(tmp_path), "--val-ood", "far")
    first = (folder / "ood_metrics.md").read_text().splitlines()[0]
    assert "hyper-parameters of LeaveOut, ranks(KNN) chosen on far" in first


def test_images_perturbed_by_the_other_gradient_are_found_by_their_numbers(tmp_path):
    folders = leave_out(tmp_path, ["argmax_T10_E0.002"])
    rows, _ = scored(folders, "--perturbed", "10", "0.002")
    assert json.loads(rows["near", "LeaveOut"]["parameters"])["perturbation"] == "argmax"


def test_the_command_in_a_message_is_one_for_paths_with_spaces(tmp_path):
    root = tmp_path / "two words"
    folders = leave_out(root)
    for folder in folders:  # as run_networks.py says where it made them
        (root / f"{folder.name}.pth").write_bytes(b"")
    error = run(folders, "--perturbed", "10", "0.002")[0].err
    words = shlex.split(error.split("make them with: ")[1])
    paths = [str(root / f"{folder.name}.pth") for folder in folders]
    start = words.index("--checkpoint") + 1
    assert words[start : start + 4] == paths


def test_tables_of_other_networks_are_not_replaced_unasked(tmp_path):
    scored(leave_out(tmp_path))
    others = [
        member(tmp_path / f"net_best_toy_s0_fold{number}of4", number, left_out, model_seed=1)
        for number, left_out in FOLDS.items()
    ]
    ended, folder = run(others)
    assert ended.code != 0 and "holds the tables of another ensemble" in ended.err
    _, same = scored(others, "--replace")
    assert same == folder


def test_figures_are_of_the_ensembles_rows_and_of_the_grid(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(utils, "write_figure", write_blank)
    _, folder = scored(leave_out(tmp_path, GRID[:1]), "--val-ood", "far")
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    rows = ("LeaveOut", "EnsembleMSP", "EnsembleEntropy")
    assert {"auroc_bars", "ensemble_grid", "ensemble_grid_scores"} <= drawn
    assert {f"scores_{row}" for row in rows} <= drawn
    assert drawn.isdisjoint({"principal_components", "scores_MutualInformation"})
    record = json.loads((folder / "ood_methods.json").read_text())
    assert {"ensemble_grid.csv", "figures/ensemble_grid.png"} <= set(record["outputs"])
    inside = "../net_final_toy_s0_fold2of4"
    perturbed = f"{inside}/perturbed/{GRID[0]}/OOD_far_test.csv"
    assert {f"{inside}/all/ID_toy_test.csv", perturbed} <= set(record["inputs"])


# ---- what does not belong together ---------------------------------------------------------------


def refused(folders, *words):
    ended, folder = run(folders, *words)
    assert ended.code != 0 and not folder.exists()
    return ended.err


def test_a_missing_fold_is_named(tmp_path):
    folders = leave_out(tmp_path)
    assert "there is no network of 3" in refused([*folders[:2], folders[3]])


def test_a_doubled_fold_is_named(tmp_path):
    folders = leave_out(tmp_path)
    twin = member(tmp_path / "net_final_toy_s1_fold1of4", 1, FOLDS[1], model_seed=1)
    assert "are both of fold 1" in refused([*folders, twin])


def test_the_same_network_twice_is_named(tmp_path):
    folders = deep(tmp_path)
    assert "are the same network" in refused([folders[0], folders[1], folders[0]])


def test_one_network_is_no_ensemble(tmp_path):
    assert "two or more checkpoints" in refused(deep(tmp_path)[:1])


def test_a_member_beside_an_ordinary_network_is_refused(tmp_path):
    error = refused([leave_out(tmp_path)[0], deep(tmp_path)[2]])
    assert "no leave-out ensemble" in error


def test_members_of_other_splits_are_refused(tmp_path):
    folders = leave_out(tmp_path, folds={1: ["cat"], 2: ["dog"], 3: ["bird"], 4: ["bird"]})
    assert "of different splits of the classes" in refused(folders)


def test_members_of_another_network_are_refused(tmp_path):
    other = member(tmp_path / "wide_best_toy_s9", 9)
    assert "is a wide, and net_best_toy_s0 net" in refused([*deep(tmp_path), other])


def test_members_of_other_classes_are_refused_by_the_first_that_differs(tmp_path):
    names = ["cat", "dog", "bird", "toad"]
    other = member(tmp_path / "net_best_toy_s9", 9, names=names)
    error = refused([*deep(tmp_path), other])
    assert "of the classes toad at place 3, and net_best_toy_s0 frog at place 3" in error


def test_other_images_are_refused(tmp_path):
    folders = [*deep(tmp_path), member(tmp_path / "net_best_toy_s9", 9, test=76)]
    ended, _ = run(folders)
    assert "hold other images" in ended.err


def test_a_member_alone_is_refused_with_the_way_out(tmp_path):
    folder = leave_out(tmp_path)[0]
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code != 0 and "--ensemble" in ended.err and "fold 1 of 4" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--combine", "MSP,KNN"], "--combine is of a single network"),
        (["--methods", "ODIN"], "ODIN is of a single network"),
        (["--perturbed", "0", "0"], "the temperature is 0"),
        (["--perturbed", "10", "0", "--val-ood", "far"], "give one of the two"),
        (["--perturbed", "10", "0.001"], "is of a leave-out ensemble"),
    ],
)
def test_flags_that_say_nothing_are_refused(tmp_path, words, said):
    ended, _ = run(deep(tmp_path), *words, methods=())
    assert ended.code != 0 and said in ended.err


def test_names_of_ensembles():
    name = members.ensemble_name
    assert name(["a_best_c_s0", "a_best_c_s1"]) == "a_ensemble_c_s0-s1"
    assert name(["a_b_final_c_s0_fold1of2", "a_b_final_c_s0_fold2of2"]) == "a_b_ensemble_c_s0"
    assert name(["mine", "yours"]) == "mine-yours_ensemble"
    assert name(["mine", "of_yours"]) == "ensemble_mine_of_yours"


# ---- p-values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [deep, leave_out])
def test_validation_images_go_the_same_way_and_give_p_values(tmp_path, make):
    folders = make(tmp_path)
    _, folder = scored(folders)
    held_out = read_csv(folder / "scores_val_toy.csv")
    assert len(held_out) == 40
    if make is deep:
        mean = np.mean([probabilities(run, "ID_toy_val") for run in folders], axis=0)
        np.testing.assert_allclose(held_out["EnsembleMSP"], mean.max(1), rtol=1e-5)
    own = [name for name in held_out if name != "label"]
    table = read_csv(folder / "scores_OOD_near.csv")
    assert {"EnsembleMSP", "ranks(KNN)"} <= set(own)
    for method in own:
        p = [(1 + np.sum(held_out[method] <= value)) / 41 for value in table[method]]
        np.testing.assert_allclose(table[f"{method}_p"], p, rtol=1e-6)
    assert set(read_csv(folder / "conformal.csv")["method"]) == set(own)
    members_table = read_csv(folder / "ood_members.csv")
    assert set(members_table["ood"]) == {"far", "near"}


def test_without_validation_images_of_every_member_there_are_no_p_values(tmp_path):
    folders = deep(tmp_path)
    (folders[1] / "ID_toy_val.csv").unlink()
    _, folder = scored(folders)
    assert not (folder / "conformal.csv").exists()
    assert not [name for name in read_csv(folder / "scores_ID_toy.csv") if name.endswith("_p")]
