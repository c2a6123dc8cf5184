"""From feature CSVs to nc_metrics.csv, nc_per_class.csv and what is printed; every number against a
slow, obvious loop."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import read_csv, shell, write_blank
from scipy import stats

import cli
import neural_collapse
import utils
from artifacts import current, records, store
from collapse import bootstrap, drawing
from collapse import epochs as series_library  # `series` is the fixture of three epochs here
from collapse import rows as collapse_rows
from moments import Accumulator

pytestmark = pytest.mark.slow  # each test measures and writes the tables of a run
METRICS = ["checkpoint", "metric", "value", "split", "centring", "source", "note"]
PER_CLASS = [
    "class",
    "class_name",
    "images",
    "within_class_variance",
    "mean_norm",
    "weight_norm",
    "cosine_weight_mean",
    "nearest_class_cosine",
    "nearest_class",
    "train_mismatch",
    "test_mismatch",
]
NAMES = ["cat", "dog", "bird", "frog"]


def write_run(folder, W, b, sets):
    """A folder such as run_networks.py leaves; sets = {stem: (features, labels)}."""
    folder.mkdir(parents=True)
    store.write_head(folder / "head.csv", W, b, NAMES[: len(W)], {"checkpoint_sha256": "a" * 64})
    sidecar = {"checkpoint_sha256": "a" * 64, "head_sha256": records.sha256(folder / "head.csv")}
    for stem, (features, labels) in sets.items():
        store.write_features(folder / f"{stem}.csv", features, labels, sidecar=sidecar)
    return folder


def random_run(folder, width=6, ood=("svhn", "uniform"), classes=4):
    """Unbalanced classes around random centres, a head that is not dual to them."""
    generator = np.random.default_rng(0)
    centres, W, b = (
        generator.normal(size=shape) for shape in ((classes, width), (classes, width), classes)
    )

    def around(labels, spread):
        return centres[labels] * 2 + generator.normal(size=(len(labels), width)) * spread, labels

    labels = np.repeat(np.arange(classes), [40, 25, 30, 10][:classes])
    return write_run(
        folder,
        W + centres,
        b,
        {
            "ID_toy_train": around(labels, 0.8),
            "ID_toy_test": around(np.arange(50) % classes, 1.0),
            **{
                f"OOD_{name}_test": (generator.normal(size=(30, width)) + number, np.full(30, -1))
                for number, name in enumerate(ood)
            },
        },
    )


def simplex_run(folder):
    """Full collapse: every feature is its class mean, the means and the head's rows are one simplex
    ETF off the origin."""
    etf = np.eye(4) - 0.25
    labels = np.repeat(np.arange(4), 5)
    return write_run(
        folder,
        etf * 3,
        np.zeros(4),
        {
            "ID_toy_train": (etf[labels] * 2 + 0.5, labels),
            "ID_toy_test": (etf[labels] * 2 + 0.5, labels),
            "OOD_svhn_test": (np.full((6, 4), 0.5), np.full(6, -1)),
        },
    )


def run(folder, *words):
    ended = shell(neural_collapse.main, "--checkpoint", folder, *words)
    assert ended.code == 0, ended.err
    return read_csv(folder / "nc_metrics.csv"), read_csv(folder / "nc_per_class.csv"), ended


def values_of(table):
    return {(row.metric, row.split): row.value for row in table.itertuples()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = random_run(tmp_path_factory.mktemp("collapsed") / "net_s0")
    return folder, *run(folder, "--exact")


@pytest.fixture
def undrawn(monkeypatch):
    """With blank figures; those of `done` are drawn."""
    monkeypatch.setattr(utils, "write_figure", write_blank)


def arrays(folder, stem):
    table = read_csv(folder / f"{stem}.csv")
    return (
        table.filter(regex=r"^ct\d+$").to_numpy(np.float32).astype(float),
        table["label"].to_numpy(),
    )


def head(folder):
    table = read_csv(folder / "head.csv")
    return table.filter(regex=r"^w\d+$").to_numpy(np.float32).astype(float), table["bias"].to_numpy(
        np.float32
    ).astype(float)


def class_means(folder):
    features, labels = arrays(folder, "ID_toy_train")
    return np.array(
        [
            np.mean([h for h, label in zip(features, labels, strict=True) if label == c], axis=0)
            for c in range(4)
        ]
    )


def cosine(a, b):
    return a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)


def test_the_figure_of_neco_shows_the_score_of_the_table(tmp_path, monkeypatch, undrawn):
    """One unit is zero but for one training image: a scale of its own would put every OOD image at
    a share of 1."""
    import figures
    import ood_methods

    generator = np.random.default_rng(3)
    labels = np.arange(400) % 4
    centres = generator.normal(size=(4, 12)) * 3

    def around(labels):
        features = (
            (centres[labels] + generator.normal(size=(len(labels), 12))).clip(0).astype(np.float32)
        )
        features[:, 5] = 0
        return features

    train, outside = (
        around(labels),
        around(labels)[:100] * 0.5 + generator.random((100, 12), dtype=np.float32),
    )
    train[7, 5] = 1e-6
    folder = write_run(
        tmp_path / "net_s0",
        generator.normal(size=(4, 12)),
        np.zeros(4),
        {
            "ID_toy_train": (train, labels),
            "ID_toy_test": (around(labels)[:80], labels[:80]),
            "OOD_svhn_test": (outside, np.full(100, -1)),
        },
    )
    drawn = {}
    monkeypatch.setattr(
        figures,
        "neco_shares",
        lambda inside, others: drawn.update({"ID_toy": inside, "OOD_svhn": others["svhn"]}),
    )
    run(folder)
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "NECO")
    assert ended.code == 0, ended.err
    for stem, (shares, _) in drawn.items():
        np.testing.assert_allclose(
            shares, read_csv(folder / f"scores_{stem}.csv")["NECO"], rtol=1e-6
        )
    assert drawn["OOD_svhn"][0].max() < 1


# ---- the files -----------------------------------------------------------------------------------


def test_the_tables_have_these_columns_and_rows(done):
    folder, table, per_class, _ = done
    assert list(table.columns) == METRICS and list(per_class.columns) == PER_CLASS
    assert (
        set(table["checkpoint"]) == {"net_s0"} and not table.duplicated(["metric", "split"]).any()
    )
    assert set(table["split"]) == {"train", "test", "head", "ood:svhn", "ood:uniform"}
    assert set(table["centring"]) <= {"mu_G", "none"} and table["source"].notna().all()
    for split in ("train", "test"):
        assert {
            f"nc4_{name}" for name in ("mismatch", "nearest_mean_accuracy", "head_accuracy")
        } <= set(table.loc[table["split"] == split, "metric"])
    for split in ("test", "ood:svhn", "ood:uniform"):
        assert {"nc5", "nc5_centred"} <= set(table.loc[table["split"] == split, "metric"])
    assert list(per_class["class"]) == [0, 1, 2, 3] and list(per_class["class_name"]) == NAMES
    assert list(per_class["images"]) == [40, 25, 30, 10]
    assert len(table) == records.read_sidecar(folder / "nc_metrics.csv")["rows"]


def test_the_record_names_all_that_was_read_and_written(done):
    folder = done[0]
    record = utils.read_json(folder / "neural_collapse.json")
    assert set(record["inputs"]) == {
        "head.csv",
        "ID_toy_train.csv",
        "ID_toy_test.csv",
        "OOD_svhn_test.csv",
        "OOD_uniform_test.csv",
    }
    written = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".csv", ".png")
    }
    assert set(record["outputs"]) == written - set(record["inputs"])
    drawn = (
        "within_class_variance",
        "cosine_histogram",
        "weight_mean_alignment",
        "class_mean_distances",
        "nc5",
    )
    assert {
        "nc_metrics.csv",
        "nc_per_class.csv",
        *(f"figures/{name}.png" for name in drawn),
    } <= set(record["outputs"])
    assert records.read_sidecar(folder / "nc_metrics.csv")["checkpoint_sha256"] == "a" * 64


# ---- the numbers, slowly -------------------------------------------------------------------------


def test_nc1_equals_a_loop_over_images(done):
    folder, table, *_ = done
    (features, labels), means = arrays(folder, "ID_toy_train"), class_means(done[0])
    # of the class means, not of the images: the classes are unbalanced
    centre = np.mean(means, axis=0)
    within, between = np.zeros((6, 6)), np.zeros((6, 6))
    for h, label in zip(features, labels, strict=True):
        within += np.outer(h - means[label], h - means[label]) / len(labels)
    for mean in means:
        between += np.outer(mean - centre, mean - centre) / 4
    vectors, singular, _ = np.linalg.svd(between)
    # rank C - 1 = 3
    inverse = sum(np.outer(vectors[:, k], vectors[:, k]) / singular[k] for k in range(3))
    found = values_of(table)
    assert found["nc1", "train"] == pytest.approx(np.trace(within @ inverse) / 4, rel=1e-9)
    assert found["nc1_rank", "train"] == 3
    assert found["nc1_trace_ratio", "train"] == pytest.approx(
        np.trace(within) / np.trace(between), rel=1e-9
    )
    spread = [
        np.mean([(h - means[c]) @ (h - means[c]) for h in features[labels == c]]) for c in range(4)
    ]
    pairs = [
        (spread[a] + spread[b]) / 2 / ((means[a] - means[b]) @ (means[a] - means[b]))
        for a in range(4)
        for b in range(a)
    ]
    assert found["nc1_cdnv", "train"] == pytest.approx(np.mean(pairs), rel=1e-9)


@pytest.mark.parametrize(("name", "split"), [("means", "train"), ("weights", "head")])
def test_nc2_equals_a_loop_over_pairs(done, name, split):
    folder, table, *_ = done
    vectors = class_means(folder) if name == "means" else head(folder)[0]
    vectors = vectors - vectors.mean(axis=0) if name == "means" else vectors
    found = {metric: value for (metric, where), value in values_of(table).items() if where == split}
    norms = [np.sqrt(v @ v) for v in vectors]
    cosines = [cosine(vectors[a], vectors[b]) for a in range(4) for b in range(a)]
    assert found[f"nc2_{name}_norm_cv"] == pytest.approx(np.std(norms) / np.mean(norms), rel=1e-9)
    if name == "means":
        assert found["nc2_means_cosine_std"] == pytest.approx(np.std(cosines), rel=1e-9)
        assert found["nc2_means_angle_deviation_mean"] == pytest.approx(
            np.mean([abs(c + 1 / 3) for c in cosines]), rel=1e-9
        )
        assert found["nc2_means_angle_deviation_max"] == pytest.approx(
            max(abs(c + 1 / 3) for c in cosines), rel=1e-9
        )
        gram, ideal = vectors @ vectors.T, (np.eye(4) - 0.25) / np.sqrt(3)
        assert found["nc2_means_gram_distance"] == pytest.approx(
            np.linalg.norm(gram / np.linalg.norm(gram) - ideal), rel=1e-9
        )


def test_nc3_equals_a_loop_over_classes(done):
    folder, table, per_class, _ = done
    means, (W, _) = class_means(folder), head(folder)
    centred = means - means.mean(axis=0)
    found = values_of(table)
    distance = np.sum((W / np.sqrt(np.sum(W**2)) - centred / np.sqrt(np.sum(centred**2))) ** 2)
    assert found["nc3_self_duality", "train"] == pytest.approx(distance, rel=1e-9)
    cosines = [cosine(W[c], centred[c]) for c in range(4)]
    assert found["nc3_cosine_mean", "train"] == pytest.approx(np.mean(cosines), rel=1e-9)
    np.testing.assert_allclose(per_class["cosine_weight_mean"], cosines, rtol=1e-9)


@pytest.mark.parametrize("split", ["train", "test"])
def test_nc4_equals_a_loop_over_images(done, split):
    folder, table, per_class, _ = done
    (features, labels), means, (W, b) = (
        arrays(folder, f"ID_toy_{split}"),
        class_means(folder),
        head(folder),
    )
    nearest = np.array(
        [min(range(4), key=lambda c, h=h: (h - means[c]) @ (h - means[c])) for h in features]
    )
    predicted = np.array([max(range(4), key=lambda c, h=h: W[c] @ h + b[c]) for h in features])
    found = values_of(table)
    assert 0 < found["nc4_mismatch", split] < 1
    assert found["nc4_mismatch", split] == pytest.approx(np.mean(nearest != predicted), abs=1e-12)
    assert found["nc4_nearest_mean_accuracy", split] == pytest.approx(
        np.mean(nearest == labels), abs=1e-12
    )
    assert found["nc4_head_accuracy", split] == pytest.approx(
        np.mean(predicted == labels), abs=1e-12
    )
    by_class = [np.mean(nearest[labels == c] != predicted[labels == c]) for c in range(4)]
    np.testing.assert_allclose(per_class[f"{split}_mismatch"], by_class, atol=1e-12)


@pytest.mark.parametrize(
    ("stem", "split"),
    [("ID_toy_test", "test"), ("OOD_svhn_test", "ood:svhn"), ("OOD_uniform_test", "ood:uniform")],
)
def test_nc5_equals_a_loop_over_classes(done, stem, split):
    means, other = class_means(done[0]), arrays(done[0], stem)[0].mean(axis=0)
    centre = means.mean(axis=0)
    found = values_of(done[1])
    assert found["nc5", split] == pytest.approx(
        np.mean([abs(cosine(mean, other)) for mean in means]), rel=1e-9
    )
    centred = np.mean([abs(cosine(mean - centre, other - centre)) for mean in means])
    assert found["nc5_centred", split] == pytest.approx(centred, rel=1e-9)


def test_the_classes_are_described_each(done):
    folder, _, per_class, _ = done
    (features, labels), means, (W, _) = (
        arrays(folder, "ID_toy_train"),
        class_means(folder),
        head(folder),
    )
    centred = means - means.mean(axis=0)
    np.testing.assert_allclose(per_class["mean_norm"], np.linalg.norm(centred, axis=1), rtol=1e-9)
    np.testing.assert_allclose(per_class["weight_norm"], np.linalg.norm(W, axis=1), rtol=1e-6)
    spread = [np.mean(np.sum((features[labels == c] - means[c]) ** 2, axis=1)) for c in range(4)]
    np.testing.assert_allclose(per_class["within_class_variance"], spread, rtol=1e-9)
    for c in range(4):
        others = {other: cosine(centred[c], centred[other]) for other in range(4) if other != c}
        assert per_class["nearest_class"][c] == max(others, key=others.get)
        assert per_class["nearest_class_cosine"][c] == pytest.approx(max(others.values()), rel=1e-9)


def test_nc5_is_described_by_class_and_set(done):
    folder, table, *_ = done
    found, values = read_csv(folder / "nc5_per_class.csv"), values_of(table)
    assert (
        list(found.columns) == ["class", "class_name", "split", "cosine", "cosine_centred"]
        and len(found) == 4 * 3
    )
    means, other = class_means(folder), arrays(folder, "OOD_svhn_test")[0].mean(axis=0)
    own = found[found["split"] == "ood:svhn"]
    assert list(own["class_name"]) == NAMES
    np.testing.assert_allclose(own["cosine"], [cosine(mean, other) for mean in means], rtol=1e-9)
    for split, rows in found.groupby("split"):
        assert rows["cosine"].abs().mean() == pytest.approx(values["nc5", split], rel=1e-12)
        assert rows["cosine_centred"].abs().mean() == pytest.approx(
            values["nc5_centred", split], rel=1e-12
        )


@pytest.mark.usefixtures("undrawn")
def test_full_collapse_measures_as_such(tmp_path):
    table, per_class, _ = run(simplex_run(tmp_path / "net_s0"))
    found = values_of(table)
    for metric in (
        "nc1",
        "nc1_trace_ratio",
        "nc1_cdnv",
        "nc2_means_norm_cv",
        "nc2_means_cosine_std",
        "nc2_means_angle_deviation_mean",
        "nc2_means_gram_distance",
        "nc3_self_duality",
        "nc4_mismatch",
    ):
        assert found[metric, "train"] == pytest.approx(0, abs=1e-6), metric
    assert found["nc4_mismatch", "test"] == 0 and found[
        "nc3_cosine_mean", "train"
    ] == pytest.approx(1, abs=1e-6)
    assert (per_class["within_class_variance"] < 1e-9).all()


# ---- what is printed -----------------------------------------------------------------------------


def test_what_is_printed_is_what_was_written(done):
    folder, table, _, ended = done
    found = values_of(table)
    for key, label in collapse_rows.printed().items():
        line = next(line for line in ended.out.splitlines() if line.startswith(label + " "))
        assert line.removeprefix(label).split() == [
            f"{found[key]:.4g}",
            collapse_rows.ROWS[key[0]].target,
        ]
    assert re.search(r"^metric +value +if collapsed", ended.out, re.MULTILINE), (
        "a target, and no verdict"
    )
    for name, split in (
        ("ID test (null)", "test"),
        ("svhn", "ood:svhn"),
        ("uniform", "ood:uniform"),
    ):
        line = next(line for line in ended.out.splitlines() if line.startswith(name + " "))
        shown = [float(word) for word in line.removeprefix(name).split()]
        assert shown == [round(found["nc5", split], 4), round(found["nc5_centred", split], 4)]
    assert (
        "toy, 105 training images, 4 classes, 6 features" in ended.out and str(folder) in ended.out
    )


@pytest.mark.usefixtures("undrawn")
def test_only_the_asked_sets_are_measured_in_their_order(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    table, _, ended = run(folder, "--ood", "uniform")
    assert {split for split in table["split"] if split.startswith("ood:")} == {
        "ood:uniform"
    } and "svhn" not in ended.out


def test_without_ood_sets_nc1_to_nc4_are_measured_and_drawn(tmp_path):
    table, _, ended = run(random_run(tmp_path / "net_s0", ood=()))
    assert not any(split.startswith("ood:") for split in table["split"]) and (
        "nc5",
        "test",
    ) in values_of(table)
    assert (tmp_path / "net_s0" / "figures" / "nc5.png").stat().st_size > 5000 and ended.err == ""


@pytest.mark.usefixtures("undrawn")
def test_exact_arithmetic_is_asked_for_and_hardly_differs(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    fast, exact = (values_of(run(folder, *words)[0]) for words in ([], ["--exact"]))
    assert {
        key: pytest.approx(value, rel=1e-5, nan_ok=True) for key, value in exact.items()
    } == fast
    assert utils.read_json(folder / "neural_collapse.json")["arguments"]["exact"] is True


@pytest.mark.usefixtures("undrawn")
def test_fewer_dimensions_than_a_simplex_needs_are_said_and_left_empty(tmp_path):
    table, _, ended = run(random_run(tmp_path / "net_s0", width=2))
    row = table[table["metric"] == "nc2_means_gram_distance"].iloc[0]
    assert np.isnan(row["value"]) and re.search("simplex", row["note"])
    line = next(
        line
        for line in ended.out.splitlines()
        if line.startswith("NC2  Gram matrix to simplex ETF")
    )
    assert line.removeprefix("NC2  Gram matrix to simplex ETF").split() == ["0"], (
        "an undefined value is empty"
    )


@pytest.mark.usefixtures("undrawn")
def test_a_class_without_test_images_has_an_empty_cell(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    found, sidecar = (
        store.read_features(folder / "ID_toy_test.csv"),
        records.read_sidecar(folder / "ID_toy_test.csv"),
    )
    kept = found.labels != 2
    store.write_features(
        folder / "ID_toy_test.csv", found.features[kept], found.labels[kept], sidecar=sidecar
    )
    _, per_class, _ = run(folder)
    assert list(per_class["test_mismatch"].isna()) == [False, False, True, False]
    assert (folder / "nc_per_class.csv").read_text().splitlines()[3].endswith(",")


@pytest.mark.usefixtures("undrawn")
def test_a_class_without_training_images_is_said_and_its_cells_are_empty(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    found, sidecar = (
        store.read_features(folder / "ID_toy_train.csv"),
        records.read_sidecar(folder / "ID_toy_train.csv"),
    )
    kept = found.labels != 1
    store.write_features(
        folder / "ID_toy_train.csv", found.features[kept], found.labels[kept], sidecar=sidecar
    )
    table, per_class, ended = run(folder)
    assert "warning: neural collapse: 1 of 4 classes have no images (1)" in ended.err
    assert (
        per_class["images"][1] == 0
        and np.isnan(per_class["mean_norm"][1])
        and np.isfinite(values_of(table)["nc1", "train"])
    )


# ---- bare features -------------------------------------------------------------------------------

OF_HEAD = ("nc2_weights_", "nc3_", "head_bias_std", "nc4_mismatch", "nc4_head_accuracy")


@pytest.fixture(scope="module")
def bare(done, tmp_path_factory):
    """The run of `done` without its head.csv, measured; drawn."""
    folder = tmp_path_factory.mktemp("bare") / "net_s0"
    folder.mkdir()
    for path in done[0].iterdir():
        if path.name.startswith(("ID_", "OOD_")):
            shutil.copy2(path, folder)
    return folder, *run(folder, "--exact")


def test_without_a_head_all_that_needs_none_is_measured(done, bare):
    whole, table = done[1].fillna({"note": ""}), bare[1].fillna({"note": ""})
    assert list(table["metric"]) == list(whole["metric"]) and list(table["split"]) == list(
        whole["split"]
    )
    of_head = whole["metric"].str.startswith(OF_HEAD)
    assert 15 < of_head.sum() < len(whole) / 2
    pd.testing.assert_frame_equal(table[~of_head], whole[~of_head])
    assert table.loc[of_head, "value"].isna().all()
    assert set(table.loc[of_head, "note"]) == {"needs the classifier, head.csv"}
    columns = ["split", "centring", "source"]
    pd.testing.assert_frame_equal(table.loc[of_head, columns], whole.loc[of_head, columns])


def test_without_a_head_the_classes_are_numbered_and_their_cells_of_the_head_are_empty(done, bare):
    whole, per_class = done[2], bare[2]
    assert list(per_class.columns) == PER_CLASS and list(
        per_class["class_name"].astype(str)
    ) == list("0123")
    empty = ["weight_norm", "cosine_weight_mean", "train_mismatch", "test_mismatch"]
    assert per_class[empty].isna().all(axis=None)
    rest = [name for name in PER_CLASS if name not in (*empty, "class_name")]
    pd.testing.assert_frame_equal(per_class[rest], whole[rest])


def test_without_a_head_one_line_says_so_and_only_figures_of_features_are_drawn(bare):
    folder, _, _, ended = bare
    assert ended.err == "" and ended.out.count("no head.csv") == 1
    record = utils.read_json(folder / "neural_collapse.json")
    assert record["inputs"]["head.csv"] is None and set(record["outputs"]) == {
        "nc_metrics.csv",
        "nc_per_class.csv",
        "nc5_per_class.csv",
        *(
            f"figures/{name}.png"
            for name in (
                "within_class_variance",
                "cosine_histogram",
                "class_mean_distances",
                "nc5",
                "nc_pca_spectrum",
                "nc_centre_distances",
            )
        ),
    }


@pytest.mark.usefixtures("undrawn")
def test_bare_features_have_intervals_layers_and_the_names_of_their_sidecar(bare, tmp_path):
    folder = tmp_path / "net_s0"
    shutil.copytree(bare[0], folder)
    sidecar = utils.read_json(folder / "ID_toy_train.json")
    utils.write_json(folder / "ID_toy_train.json", sidecar | {"class_names": NAMES})
    table, per_class, _ = run(add_layers(folder), "--bootstrap", "5")
    assert list(per_class["class_name"]) == NAMES
    by = table.set_index(["metric", "split"])
    assert by.loc[("nc1", "train"), "low"] < by.loc[("nc1", "train"), "high"]
    assert np.isnan(by.loc[("nc3_cosine_mean", "train"), "low"])
    assert by.loc[("nc4_nearest_mean_accuracy", "test"), "high"] <= 1 and np.isnan(
        by.loc[("nc4_mismatch", "test"), "low"]
    )
    layers = values_of(read_csv(folder / "nc_layers.csv"))
    assert 0 < layers["nc4_head_accuracy", "test"] <= 1, "a layer's probe needs no head"


def test_a_head_that_comes_and_layers_that_come_are_measured_anew(bare, tmp_path):
    folder = tmp_path / "net_s0"
    shutil.copytree(bare[0], folder)
    arguments = cli.material(neural_collapse.parse_args(["--checkpoint", str(folder), "--exact"]))
    assert current.is_current(folder / "neural_collapse.json", arguments)
    (folder / "head.csv").write_text("class")
    assert not current.is_current(folder / "neural_collapse.json", arguments)
    (folder / "head.csv").unlink()
    (folder / "OOD_new_test.csv").write_text("ct0")
    assert not current.is_current(folder / "neural_collapse.json", arguments)
    (folder / "OOD_new_test.csv").unlink()
    assert current.is_current(folder / "neural_collapse.json", arguments)
    add_layers(folder)
    assert not current.is_current(folder / "neural_collapse.json", arguments)


# ---- files that were changed ---------------------------------------------------------------------


def change_a_digit(path):
    """Make the first digit 1 of the last row's first number a 7, or the other way round."""
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[0] = cells[0].translate(str.maketrans("0123456789", "1234567890"))
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name",
    [
        "ID_toy_train.csv",
        "ID_toy_test.csv",
        "OOD_svhn_test.csv",
        "head.csv",
        "layers/ID_toy_train_deep.csv",
        "layers/OOD_svhn_test_wide.csv",
    ],
)
def test_edited_features_are_refused_or_taken_as_asked_and_the_tables_say_so(tmp_path, name):
    folder = add_layers(random_run(tmp_path / "net_s0"))
    if name == "head.csv":
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("cat", "cow"))
    else:
        change_a_digit(folder / name)
    ended = shell(neural_collapse.main, "--checkpoint", folder)
    assert (
        ended.code == 2
        and str(folder / name) in ended.err
        and "make" in ended.err
        and "run_networks.py" in ended.err
    )
    assert "--allow-stale" in ended.err and not (folder / "nc_metrics.csv").exists()
    ended = shell(neural_collapse.main, "--checkpoint", folder, "--allow-stale")
    assert ended.code == 0 and "as --allow-stale asks" in ended.err, ended.err
    for record in ("nc_metrics.json", "nc_per_class.json", "neural_collapse.json"):
        reasons = utils.read_json(folder / record)["allowed_stale"]
        assert any(str(folder / name) in reason for reason in reasons)


# ---- intervals -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_bootstrap_adds_intervals_of_what_is_resampled_and_nothing_else(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    plain, (table, *_) = run(folder)[0], run(folder, "--bootstrap", "15")
    assert list(table.columns) == [*METRICS, "low", "high"] and list(plain.columns) == METRICS
    assert plain["value"].equals(table["value"])
    by = table.set_index(["metric", "split"])
    (features, labels), (W, _) = arrays(folder, "ID_toy_train"), head(folder)
    expected = bootstrap.nc1_to_nc3(features.astype(np.float32), labels, W.astype(np.float32), 15)
    for metric in ("nc1", "nc1_cdnv", "nc2_means_cosine_std", "nc3_self_duality"):
        assert tuple(by.loc[(metric, "train"), ["low", "high"]]) == pytest.approx(
            expected[metric], rel=1e-9
        )
    test, test_labels = arrays(folder, "ID_toy_test")
    moments = Accumulator(4, 6).update(features.astype(np.float32), labels).finish()
    expected = {
        "ood:svhn": bootstrap.nc5(moments, arrays(folder, "OOD_svhn_test")[0], None, 15)["nc5"],
        "test": bootstrap.nc5(moments, test, test_labels, 15)["nc5"],
    }
    for split, interval in expected.items():
        assert tuple(by.loc[("nc5", split), ["low", "high"]]) == pytest.approx(interval, rel=1e-6)
    for split in ("train", "test"):
        low, high = by.loc[("nc4_mismatch", split), ["low", "high"]]
        assert 0 <= low < high <= 1
    without = ["nc2_weights_norm_cv", "head_bias_std"]
    assert (
        by.loc[by.index.get_level_values("metric").isin(without), ["low", "high"]]
        .isna()
        .all(axis=None)
    )


# ---- through the layers --------------------------------------------------------------------------


def add_layers(folder, ood=("svhn", "uniform"), suffix="csv"):
    """Two stages whose names sort against their depth: "wide" first, of 4 features; "deep" second,
    of all."""
    (folder / "layers").mkdir()
    sidecar = records.read_sidecar(folder / "ID_toy_train.csv")
    for stem in ("ID_toy_train", "ID_toy_test", *(f"OOD_{name}_test" for name in ood)):
        found = store.read_features(folder / f"{stem}.csv")
        for depth, (name, width) in enumerate((("wide", 4), ("deep", found.features.shape[1]))):
            store.write_features(
                folder / "layers" / f"{stem}_{name}.{suffix}",
                found.features[:, :width],
                found.labels,
                sidecar={**sidecar, "layer": name, "depth": depth},
            )
    return folder


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    folder = add_layers(random_run(tmp_path_factory.mktemp("layered") / "net_s0"))
    return folder, *run(folder, "--exact")


@pytest.mark.slow
def test_a_layer_that_is_the_last_has_the_metrics_of_the_last(layered):
    folder, table, _, ended = layered
    layers = read_csv(folder / "nc_layers.csv")
    assert list(layers.columns) == [
        "layer",
        "depth",
        "metric",
        "value",
        "split",
        "centring",
        "source",
        "note",
    ]
    assert list(layers.drop_duplicates("depth")["layer"]) == ["wide", "deep"] and ended.out.index(
        "wide"
    ) < ended.out.index("deep")
    assert not layers.duplicated(["depth", "metric", "split"]).any()
    deep, whole = values_of(layers[layers["layer"] == "deep"]), values_of(table)
    same = [
        key
        for key in whole
        if key[0].startswith(("nc1", "nc2_means", "nc5")) or key[0] == "nc4_nearest_mean_accuracy"
    ]
    assert len(same) > 20
    assert {key: deep[key] for key in same} == pytest.approx(
        {key: whole[key] for key in same}, rel=1e-12, nan_ok=True
    )


def test_a_least_squares_probe_stands_in_for_the_head_of_a_layer(layered):
    folder = layered[0]
    layers = read_csv(folder / "nc_layers.csv")
    (train, labels), (test, test_labels) = (
        arrays(folder, "ID_toy_train"),
        arrays(folder, "ID_toy_test"),
    )
    for layer, width in (("wide", 4), ("deep", 6)):
        probe = np.linalg.lstsq(
            np.column_stack([train[:, :width], np.ones(len(train))]), np.eye(4)[labels], rcond=None
        )[0]
        right = (np.column_stack([test[:, :width], np.ones(len(test))]) @ probe).argmax(
            axis=1
        ) == test_labels
        norms, found = (
            np.linalg.norm(probe[:-1], axis=0),
            values_of(layers[layers["layer"] == layer]),
        )
        assert found["nc4_head_accuracy", "test"] == pytest.approx(right.mean(), abs=1e-12)
        assert found["nc2_weights_norm_cv", "head"] == pytest.approx(
            norms.std() / norms.mean(), rel=1e-9
        )
        assert found["head_bias_std", "head"] == pytest.approx(probe[-1].std(), rel=1e-9)
    noted = layers[layers["note"].fillna("").str.contains("least-squares probe")]
    assert (
        set(noted["metric"].str[:3]) == {"nc2", "nc3", "nc4", "hea"}
        and not noted["metric"].str.contains("means|nearest").any()
    )


def test_layers_are_in_the_record_and_drawn(layered):
    record = utils.read_json(layered[0] / "neural_collapse.json")
    assert {
        f"layers/{stem}_{name}.csv"
        for name in ("wide", "deep")
        for stem in ("ID_toy_train", "ID_toy_test", "OOD_svhn_test", "OOD_uniform_test")
    } < set(record["inputs"])
    assert {"nc_layers.csv", "figures/nc_layers.png", "figures/nc5_layers.png"} < set(
        record["outputs"]
    )


@pytest.mark.usefixtures("undrawn")
def test_layers_may_be_parquet_and_lack_an_ood_set_which_is_said(tmp_path):
    folder = add_layers(random_run(tmp_path / "net_s0"), ood=["svhn"], suffix="parquet")
    *_, ended = run(folder)
    layers = read_csv(folder / "nc_layers.csv")
    assert set(layers["split"]) == {"train", "test", "head", "ood:svhn"} and list(
        layers["layer"].unique()
    ) == ["wide", "deep"]
    assert "lacks OOD_uniform_test_deep.csv" in ended.err and "--layers" in ended.err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: (folder / "layers" / "ID_toy_test_deep.csv").unlink(),
            "lacks ID_toy_test_deep.csv",
        ),
        (
            lambda folder: utils.write_json(
                folder / "layers" / "ID_toy_test_deep.json",
                {"checkpoint_sha256": "b" * 64, "depth": 1},
            ),
            "was made from another checkpoint",
        ),
        (
            lambda folder: (folder / "layers" / "ID_toy_train_wide.json").unlink(),
            "does not say its depth",
        ),
    ],
)
def test_layers_that_do_not_belong_are_refused_before_anything_is_written(tmp_path, spoil, said):
    folder = add_layers(random_run(tmp_path / "net_s0"))
    spoil(folder)
    ended = shell(neural_collapse.main, "--checkpoint", folder)
    assert (
        ended.code == 2
        and said in ended.err
        and "run_networks.py" in ended.err
        and "--layers" in ended.err
    )
    assert not (folder / "nc_metrics.csv").exists()


# ---- through training ----------------------------------------------------------------------------

# epoch: folder, so that names sort otherwise than epochs
SERIES = {
    3: "net_z",
    10: "net_a",
    200: "net_m",
}


def epoch_run(folder, epoch, classes=4, **facts):
    """A run that collapses as 1/epoch; facts: what its head's sidecar says otherwise, None for
    nothing."""
    generator = np.random.default_rng(epoch)
    centres, labels = 2 * np.eye(classes, 6), np.arange(60) % classes
    folder.mkdir(parents=True)
    own = {
        "checkpoint_sha256": f"{epoch:064d}",
        "model": "net",
        "epoch": epoch,
        "train_acc": 1 - 1 / epoch,
    } | facts
    store.write_head(
        folder / "head.csv",
        centres - centres.mean(axis=0),
        np.zeros(classes),
        NAMES[:classes],
        {key: value for key, value in own.items() if value is not None},
    )
    sidecar = {
        "checkpoint_sha256": own["checkpoint_sha256"],
        "head_sha256": records.sha256(folder / "head.csv"),
    }
    for stem in ("ID_toy_train", "ID_toy_test"):
        features = centres[labels] + 1 + generator.normal(size=(60, 6)) * 3 / epoch
        store.write_features(folder / f"{stem}.csv", features, labels, sidecar=sidecar)
    for number, name in enumerate(("svhn", "uniform")):
        features = generator.normal(size=(20, 6)) + number
        store.write_features(
            folder / f"OOD_{name}_test.csv", features, np.full(20, -1), sidecar=sidecar
        )
    return folder


def add_scores(folder, epoch):
    """ood_metrics.csv of two methods: A grows with the epoch, B is the same in every one."""
    rows = [
        {
            "ood": name,
            "method": method,
            "parameters": None,
            "auroc": 0.9 - 0.3 / epoch if method == "A" else 0.7,
        }
        for name in ("svhn", "uniform")
        for method in "AB"
    ]
    store.write_table(
        folder / "ood_metrics.csv", pd.DataFrame(rows), {"checkpoint_sha256": f"{epoch:064d}"}
    )


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three epochs, scored, with layers, measured at once with the folders given in the order of
    their names."""
    root = tmp_path_factory.mktemp("series")
    for epoch, name in SERIES.items():
        add_scores(add_layers(epoch_run(root / name, epoch)), epoch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "draw", lambda *_: {})
        ended = shell(neural_collapse.main, "--checkpoint", *sorted(root.glob("net_*")))
    assert ended.code == 0, ended.err
    return root, ended


def test_epochs_come_from_the_metadata_and_the_table_holds_every_folders_own(series):
    root, ended = series
    table = read_csv(root / "net_m" / "nc_epochs.csv")
    assert list(table.columns) == [
        "checkpoint",
        "epoch",
        "train_acc",
        "metric",
        "value",
        "split",
        "centring",
        "source",
    ]
    assert list(table["epoch"].unique()) == [
        3,
        10,
        200,
    ], "in the order of the epochs, not of the names"
    assert (
        not (root / "net_a" / "nc_epochs.csv").exists()
        and not (root / "net_z" / "nc_epochs.csv").exists()
    )
    for epoch, name in SERIES.items():
        rows, own = (
            table[table["epoch"] == epoch].reset_index(drop=True),
            read_csv(root / name / "nc_metrics.csv"),
        )
        assert set(rows["checkpoint"]) == {name} and np.allclose(rows["train_acc"], 1 - 1 / epoch)
        assert rows[METRICS[1:-1]].equals(own[METRICS[1:-1]])
    nc1 = [values_of(rows)["nc1", "train"] for _, rows in table.groupby("epoch")]
    assert nc1[0] > 5 * nc1[1] > 500 * nc1[2] > 0, "the spread falls as 1/epoch"
    assert [
        line.split()[0] for line in ended.out.partition("through training")[2].splitlines()[2:5]
    ] == ["3", "10", "200"]


def test_each_folder_is_left_as_if_measured_alone(series):
    for name in SERIES.values():
        alone = neural_collapse.parse_args(["--checkpoint", str(series[0] / name)])
        assert current.is_current(series[0] / name / "neural_collapse.json", cli.material(alone))
        record = utils.read_json(series[0] / name / "neural_collapse.json")
        assert set(record["outputs"]) == {
            "nc_metrics.csv",
            "nc_per_class.csv",
            "nc5_per_class.csv",
            "nc_layers.csv",
        }


def test_the_series_names_its_inputs_and_its_figures(series):
    folder = series[0] / "net_m"
    record = records.read_sidecar(folder / "nc_epochs.csv")
    assert set(record["inputs"]) == {
        "../net_z/nc_metrics.csv",
        "../net_a/nc_metrics.csv",
        "nc_metrics.csv",
    }
    assert set(record["outputs"]) == {
        f"figures/{name}.png" for name in ("nc_epochs", "nc5_epochs", "nc_layers_epochs")
    }
    assert all(
        records.sha256(folder / name) == digest
        for name, digest in {**record["inputs"], **record["outputs"]}.items()
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"epoch": None}, "does not say after which epoch"),
        ({"epoch": 3}, "are both of epoch 3"),
        ({"model": "other"}, "differ in model"),
        ({"classes": 3}, "differ in classes"),
    ],
)
def test_checkpoints_that_are_no_series_are_refused_before_anything_is_written(
    tmp_path, facts, said
):
    epoch_run(tmp_path / "net_a", 3)
    (
        epoch_run(tmp_path / "net_b", **{"epoch": 7} | facts)
        if facts != {"epoch": None}
        else epoch_without(tmp_path / "net_b")
    )
    ended = shell(neural_collapse.main, "--checkpoint", tmp_path / "net_a", tmp_path / "net_b")
    assert ended.code == 2 and said in ended.err and str(tmp_path / "net_b") in ended.err
    assert not list(tmp_path.rglob("nc_*"))


def epoch_without(folder):
    """A run extracted before heads said their epoch."""
    epoch_run(folder, 7)
    sidecar = records.read_sidecar(folder / "head.csv")
    utils.write_json(
        folder / "head.json", {key: value for key, value in sidecar.items() if key != "epoch"}
    )


# ---- beside OOD detection ------------------------------------------------------------------------


def test_every_metric_stands_beside_every_auroc_of_its_checkpoint(series):
    folder = series[0] / "net_m"
    joined, table = read_csv(folder / "nc_ood.csv"), read_csv(folder / "nc_epochs.csv")
    assert list(joined.columns) == [
        "checkpoint",
        "epoch",
        "ood",
        "method",
        "parameters",
        "metric",
        "split",
        "value",
        "auroc",
    ]
    of_sets = table["split"].str.startswith("ood:").sum()
    assert len(joined) == 4 * (len(table) - of_sets) + 2 * of_sets, (
        "NC5 of a set stands beside that set's AUROC alone"
    )
    assert not joined.duplicated(["epoch", "ood", "method", "metric", "split"]).any()
    row = joined.query(
        "epoch == 10 and ood == 'uniform' and method == 'A' and metric == 'nc5' and split =="
        " 'ood:uniform'"
    ).iloc[0]
    assert row["checkpoint"] == "net_a" and row["auroc"] == pytest.approx(0.87)
    assert row["value"] == values_of(table[table["epoch"] == 10])["nc5", "ood:uniform"]


def test_the_correlations_are_those_of_scipy_and_empty_where_nothing_varies(series):
    folder = series[0] / "net_m"
    found, joined = read_csv(folder / "nc_ood_correlation.csv"), read_csv(folder / "nc_ood.csv")
    keys = ["metric", "split", "ood", "method"]
    assert (
        list(found.columns) == [*keys, "pearson", "spearman", "n"]
        and len(found) == joined.drop_duplicates(keys).shape[0]
    )
    assert (folder / "figures" / "nc_ood_correlation.png").stat().st_size > 5000
    pairs, compared = (
        {key: rows.dropna(subset=["value", "auroc"]) for key, rows in joined.groupby(keys)},
        0,
    )
    for row in found.itertuples():
        x, y = (
            pairs[row.metric, row.split, row.ood, row.method][name].to_numpy()
            for name in ("value", "auroc")
        )
        assert row.n == len(x)
        if row.method == "B" or len(x) < 3 or len(set(x)) == 1:
            assert np.isnan(row.pearson) and np.isnan(row.spearman)
        else:
            compared += 1
            assert row.spearman == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
            if (
                np.ptp(x) > 1e-9 * np.abs(x).max()
            ):  # else the values differ by rounding alone, and so do two ways to correlate
                assert row.pearson == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-6)
    assert compared > 40


def test_the_printed_answer_is_the_correlation_with_nc1_by_method_and_set(series):
    root, ended = series
    found = read_csv(root / "net_m" / "nc_ood_correlation.csv")
    shown = ended.out.partition("does more collapse mean better detection?")[2].splitlines()
    assert "over 3 checkpoints" in shown[0] and shown[1].split() == ["method", "svhn", "uniform"]
    expected = found[
        (found["metric"] == "nc1") & (found["ood"] == "svhn") & (found["method"] == "A")
    ]["spearman"].iloc[0]
    assert expected == -1 and shown[2].split() == ["A", "-1.0", "-1.0"], "A grows as NC1 falls"
    assert shown[3].split() == ["B"], "which never changes, has no correlation"


def test_ranks_with_ties_share_their_mean():
    generator = np.random.default_rng(0)
    values, auroc = generator.integers(0, 4, 12).astype(float), generator.integers(0, 5, 12) / 10
    joined = pd.DataFrame(
        {
            "metric": "m",
            "split": "train",
            "ood": "x",
            "method": "A",
            "value": values,
            "auroc": auroc,
        }
    )
    found = series_library.correlate(
        pd.concat([joined, joined.assign(method="B", auroc=np.nan)])
    ).set_index("method")
    assert (
        found.loc["A", "spearman"] == pytest.approx(stats.spearmanr(values, auroc)[0], abs=1e-12)
        and found.loc["A", "n"] == 12
    )
    assert found.loc["B", "n"] == 0 and np.isnan(found.loc["B", "pearson"])


@pytest.mark.usefixtures("undrawn")
def test_two_checkpoints_have_no_correlation_and_an_older_one_is_taken_away(tmp_path):
    for epoch in (3, 10):
        add_scores(epoch_run(tmp_path / SERIES[epoch], epoch), epoch)
    for stale in ("nc_ood_correlation.csv", "nc_ood_correlation.json"):
        (tmp_path / "net_a" / stale).write_text("{}")
    ended = shell(neural_collapse.main, "--checkpoint", tmp_path / "net_a", tmp_path / "net_z")
    assert ended.code == 0 and "no correlation over 2 checkpoints: it takes at least 3" in ended.out
    assert (tmp_path / "net_a" / "nc_ood.csv").exists() and not list(
        tmp_path.rglob("nc_ood_correlation*")
    )


@pytest.mark.usefixtures("undrawn")
def test_an_edited_table_of_scores_is_refused_before_anything_is_written(tmp_path):
    folders = [epoch_run(tmp_path / SERIES[epoch], epoch) for epoch in (3, 10)]
    for folder, epoch in zip(folders, (3, 10), strict=True):
        add_scores(folder, epoch)
    table = folders[1] / "ood_metrics.csv"
    table.write_text(table.read_text().replace("0.7", "0.8"))
    ended = shell(neural_collapse.main, "--checkpoint", *folders)
    assert ended.code == 2 and f"{table} was changed after it was written" in ended.err
    assert f"make it anew with: python ood_methods.py --checkpoint {folders[1]}" in ended.err
    assert not list(tmp_path.rglob("nc_*"))
    ended = shell(neural_collapse.main, "--checkpoint", *folders, "--allow-stale")
    assert ended.code == 0 and set(read_csv(folders[1] / "nc_ood.csv")["auroc"].round(2)) == {
        0.8,
        0.7,
        0.87,
    }
    assert (
        "ood_metrics.csv was changed"
        in records.read_sidecar(folders[1] / "nc_ood.csv")["allowed_stale"][0]
    )


@pytest.mark.usefixtures("undrawn")
def test_scores_may_lack_a_method_on_a_set(tmp_path):
    folders = []
    for epoch, name in SERIES.items():
        folders.append(epoch_run(tmp_path / name, epoch))
        add_scores(folders[-1], epoch)
        table = read_csv(folders[-1] / "ood_metrics.csv")
        kept = table[~((table["ood"] == "svhn") & (table["method"] == "A"))]
        store.write_table(
            folders[-1] / "ood_metrics.csv", kept, {"checkpoint_sha256": f"{epoch:064d}"}
        )
    ended = shell(neural_collapse.main, "--checkpoint", *folders)
    assert ended.code == 0, ended.err
    found = read_csv(tmp_path / SERIES[200] / "nc_ood_correlation.csv")
    assert set(zip(found["ood"], found["method"], strict=True)) == {
        ("svhn", "B"),
        ("uniform", "A"),
        ("uniform", "B"),
    }


@pytest.mark.usefixtures("undrawn")
def test_what_has_not_been_scored_is_said_and_another_checkpoints_scores_are_refused(tmp_path):
    folders = [epoch_run(tmp_path / SERIES[epoch], epoch) for epoch in (3, 10)]
    add_scores(folders[0], 3)
    ended = shell(neural_collapse.main, "--checkpoint", *folders)
    assert ended.code == 0 and not list(tmp_path.rglob("nc_ood*"))
    assert (
        "1 of 2 folders lack ood_metrics.csv; make it with: python ood_methods.py --checkpoint"
        f" {folders[1]}" in ended.out
    )
    add_scores(folders[1], 3)
    ended = shell(neural_collapse.main, "--checkpoint", *folders)
    assert (
        ended.code == 2
        and "was made from another checkpoint" in ended.err
        and "ood_methods.py" in ended.err
    )


# ---- t-SNE ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_embedding_keeps_a_far_group_apart_and_samples_evenly():
    generator = np.random.default_rng(0)
    near, far = generator.normal(size=(1200, 5)), generator.normal(size=(40, 5)) + 100
    points = drawing.embed([near, far])
    assert [len(group) for group in points] == [drawing.SAMPLE, 40]
    between = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    assert between.min() > np.ptp(points[1], axis=0).max() / 2
    assert list(drawing.sample(np.arange(10), 4)) == [0, 3, 6, 9]


def test_a_tsne_is_drawn_when_asked_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(utils, "write_figures", lambda _, named, __: drawn.append(named) or [])
    folder = random_run(tmp_path / "net_s0", ood=["svhn"])
    run(folder)
    run(folder, "--tsne")
    assert set(drawn[1]) - set(drawn[0]) == {"nc_tsne"}
    assert utils.read_json(folder / "neural_collapse.json")["arguments"]["tsne"] is True


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ood", "mnist"], "lacks OOD_mnist_test.csv"),
        (["--dataset", "other"], "lacks ID_other_train.csv"),
        (["--ood", "a/b"], "neither a name nor NAME=FOLDER"),
        (["--temperature", "2"], "unrecognized"),
    ],
)
def test_a_wrong_argument_ends_with_one_message_and_nothing_written(tmp_path, words, said):
    folder = random_run(tmp_path / "net_s0")
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    ended = shell(neural_collapse.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2 and said in ended.err and "Traceback" not in ended.err and ended.out == ""
    )
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_training_features_of_one_class_are_refused_before_anything_is_written(tmp_path):
    folder = random_run(tmp_path / "net_s0")
    found, sidecar = (
        store.read_features(folder / "ID_toy_train.csv"),
        records.read_sidecar(folder / "ID_toy_train.csv"),
    )
    store.write_features(
        folder / "ID_toy_train.csv", found.features, np.zeros(len(found.labels)), sidecar=sidecar
    )
    ended = shell(neural_collapse.main, "--checkpoint", folder)
    assert ended.code == 2 and "collapse needs at least two" in ended.err
    assert (
        not (folder / "nc_metrics.csv").exists() and not (folder / "neural_collapse.json").exists()
    )


def test_the_arguments_of_the_run_stand_beside_the_tables(done):
    arguments = json.loads((done[0] / "nc_metrics.json").read_text())["arguments"]
    assert arguments["exact"] is True and arguments["ood"] is None and "output_dir" not in arguments
