"""Class by class: counts and metrics are those of the score files, and of a loop over classes."""

import numpy as np
import pytest
from helpers import read_csv, score

from artifacts import records, store
from detection import by_class, metrics
from detection.scored import ScoredSet


def part_of(paths):
    rows = len(paths)
    images = store.Features(np.zeros((rows, 1)), np.zeros(rows), paths, "x")
    return ScoredSet("x", images, {})


def test_images_are_counted_by_predicted_class_and_by_what_accepts_them(folder):
    score(folder, "--methods", "MSP", "KNN", "--tpr", "0.9")
    table = read_csv(folder / "ood_by_id_class.csv")
    assert list(dict.fromkeys(table["images_of"])) == ["far_noise", "near", "toy"]
    files = {"far_noise": "OOD_far_noise", "near": "OOD_near", "toy": "ID_toy"}
    for name, stem in files.items():
        scores = read_csv(folder / f"scores_{stem}.csv")
        passes = read_csv(folder / f"accepted_{stem}.csv").filter(like="_accepted")
        scores = scores.join(passes)
        part = table[table["images_of"] == name].set_index("predicted_class")
        assert part["images"].sum() == len(scores)
        assert part["share"].sum() == pytest.approx(1)
        assert list(part["images"]) == sorted(part["images"], reverse=True)
        for predicted, own in scores.groupby("predicted_class"):
            assert part.loc[predicted, "images"] == len(own)
            for method in ("MSP", "KNN"):
                assert part.loc[predicted, f"{method}_accepted"] == own[f"{method}_accepted"].sum()
    assert (folder / "figures/swallowed.png").exists()


def test_without_a_head_no_class_is_counted(folder):
    for path in folder.glob("head.*"):
        path.unlink()
    score(folder, "--methods", "KNN", "--allow-stale")
    assert not (folder / "ood_by_id_class.csv").exists()


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_a_class_is_measured_as_a_set_of_its_own(decimals):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 90).round(decimals), rng.normal(0, 1, 70).round(decimals)
    class_of = rng.integers(0, 3, 70)
    rows = list(by_class.of_method(inside, outside, class_of, ["a", "b", "c"], 0.9))
    for number, row in enumerate(rows):
        own = outside[class_of == number]
        expected = metrics.evaluate(inside, own, 0.9)
        assert row["images"] == len(own)
        for name in metrics.BY_CLASS:
            assert row[name] == pytest.approx(expected[name], rel=1e-9), name


def test_undefined_scores_leave_a_class_without_a_number():
    inside, outside = np.arange(5.0), np.array([0.0, np.nan, 1.0])
    first, second = by_class.of_method(inside, outside, np.array([0, 0, 1]), ["a", "b"], 0.95)
    assert np.isnan(first["auroc"]) and second["auroc"] == 0.7
    assert np.isnan(second["auroc_low"])  # of one image


def test_classes_are_the_first_folders_of_paths():
    names, numbers = by_class.classes_of(part_of(["owl/a/1.png", "emu/2.png", "owl/3.png"]))
    assert names == ["emu", "owl"] and list(numbers) == [1, 0, 1]
    assert by_class.classes_of(part_of(["owl/1.png", "owl/2.png"])) is None
    assert by_class.classes_of(part_of(["1.png", "2.png"])) is None
    assert by_class.classes_of(part_of([])) is None


def test_the_table_of_ood_classes_is_written_where_there_are_folders(folder):
    score(folder, "--methods", "MSP", "KNN")
    assert not (folder / "ood_by_ood_class.csv").exists()
    near = store.read_features(folder / "OOD_near_test.csv")
    paths = [f"{'owl' if row % 3 else 'emu'}/{row}.png" for row in range(len(near.labels))]
    sidecar = records.read_sidecar(folder / "OOD_near_test.csv")
    path = folder / "OOD_birds_test.csv"
    store.write_features(path, near.features, near.labels, paths, sidecar)
    score(folder, "--methods", "MSP", "KNN")
    table = read_csv(folder / "ood_by_ood_class.csv")
    assert list(table["ood_class"]) == ["emu", "emu", "owl", "owl"]
    assert set(table["ood"]) == {"birds"} and list(table["method"]) == ["MSP", "KNN"] * 2
    scores = read_csv(folder / "scores_OOD_birds.csv")["MSP"].to_numpy()
    is_emu = np.arange(len(scores)) % 3 == 0
    expected = metrics.auroc(read_csv(folder / "scores_ID_toy.csv")["MSP"], scores[is_emu])
    assert table["auroc"][0] == pytest.approx(expected)
