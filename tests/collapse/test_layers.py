"""collapse/layers.py: moments gathered in passing measure what saved features measure, and their
files come back to the last bit."""

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import by_two, extract, modified, read_csv, shell, write_blank

import neural_collapse
import utils
from artifacts import records
from collapse import layers, metrics, table

pytestmark = pytest.mark.usefixtures("one_thread")
KEYS = ["layer", "depth", "metric", "split"]


def draw(images=200, classes=5, width=7, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = (
        generator.normal(size=(classes, width))[labels]
        + 0.5 * generator.normal(size=(images, width))
        + 3
    )
    return features.astype(np.float32), labels


def summary_of(features, labels, classes=5):
    moments = layers.Tally(classes).update(features, labels).moments
    return layers.Summary.of(
        layers.Tally(probe=layers.probe(moments)).update(features, labels), moments
    )


def nc_layers(run):
    ended = shell(neural_collapse.main, "--checkpoint", run.folder)
    assert ended.code == 0, ended.err
    return read_csv(run.folder / "nc_layers.csv").set_index(KEYS)


def close(one, other):
    """Two nc_layers.csv agree but for rounding: NC1's condition number and what is zero but for
    rounding included."""
    assert one.index.equals(other.index) and one["note"].fillna("").equals(other["note"].fillna(""))
    np.testing.assert_allclose(
        one["value"].astype(float), other["value"].astype(float), rtol=1e-9, atol=1e-12
    )


# ---- tallies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 13, 200])
def test_a_tally_by_blocks_and_workers_is_that_of_all_images(size):
    features, labels = draw()
    whole = summary_of(features, labels)
    # the last of which sees no image
    workers = [layers.Tally(5, layers.probe(whole.moments)) for _ in range(3)]
    for number, block in enumerate(range(0, 200, size)):
        workers[number % 2].update(features[block : block + size], labels[block : block + size])
    merged = workers[2].merge(workers[1]).merge(workers[0])
    found = layers.Summary.of(merged, merged.moments)
    assert found.images == 200 and found.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(found.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(found.moments.within, whole.moments.within, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.moments.means, whole.moments.means, rtol=1e-13)


def test_a_summary_counts_what_nc4_counts():
    features, labels = draw()
    found = summary_of(features, labels)
    probe = layers.probe(found.moments)
    expected = metrics.nc4(features, labels, probe.W, probe.b, probe.means, exact=True)
    assert 0 < found.agreement.mismatch < 1
    assert found.agreement == expected.agreement
    assert table.nc4(found.agreement, "test") == table.nc4(expected.agreement, "test")


@pytest.mark.parametrize("kind", ["train", "test", "ood", "absent"])
def test_a_file_of_moments_comes_back_to_the_last_bit(tmp_path, kind):
    features, labels = draw()
    whole = summary_of(features, labels, 6 if kind == "absent" else 5)  # class 5 has no images
    summary = layers.Summary(
        whole.images,
        whole.mean,
        None if kind == "ood" else whole.counts,
        whole.moments if kind in ("train", "absent") else None,
    )
    layers.write_summary(tmp_path / "x.csv", summary, {"depth": 1})
    found = layers.read_summary(tmp_path / "x.csv")
    assert (
        found.images == 200
        and np.array_equal(found.mean, whole.mean)
        and records.read_sidecar(tmp_path / "x.csv")["depth"] == 1
    )
    assert found.counts is None if kind == "ood" else found.counts.tolist() == whole.counts.tolist()
    assert (found.moments is None) == (kind in ("test", "ood"))
    for name in (
        ("counts", "means", "global_mean", "within", "within_class_variance")
        if found.moments
        else ()
    ):
        assert np.array_equal(
            getattr(found.moments, name), getattr(whole.moments, name), equal_nan=True
        ), name


def test_another_table_is_not_taken_for_moments(tmp_path):
    pd.DataFrame({"ct0": [1.0], "label": [0]}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="is not a file of moments; make it anew with"):
        layers.read_summary(tmp_path / "x.csv")


# ---- the chain -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_streamed_layers_measure_what_stored_ones_do_and_either_takes_the_others_place(
    own_digits_run, monkeypatch
):
    monkeypatch.setattr(utils, "write_figure", write_blank)
    folder, words = own_digits_run.folder, ["--ood", "held_out", "photos"]
    extract(own_digits_run, *words, "--layers")
    for name in ("uniform", "gaussian"):
        (folder / f"OOD_{name}_test.csv").unlink()
    stored, features = nc_layers(own_digits_run), modified(folder)
    assert len(stored.index.unique("layer")) == 3 and set(stored.index.unique("split")) > {
        "train",
        "test",
        "ood:photos",
    }
    extract(own_digits_run, *words, "--layers", "stream")
    assert sorted(path.name for path in (folder / "moments").glob("*.csv")) == sorted(
        f"{stem}_stack{number}.csv"
        for stem in ("ID_digits_train", "ID_digits_test", "OOD_held_out_test", "OOD_photos_test")
        for number in (1, 2, 3)
    )
    assert {
        path.name for path in (folder / "layers").iterdir() if "_val_" not in path.name
    } == set(), "older files would mislead"
    close(nc_layers(own_digits_run), stored)
    record = utils.read_json(folder / "run_networks.json")
    assert (
        "moments/ID_digits_train_stack1.csv" in record["outputs"]
        and record["arguments"]["layers"] == "stream"
    )
    assert set(features) == set(modified(folder))
    extract(own_digits_run, *words, "--layers", "store")
    assert not list((folder / "moments").iterdir())
    assert nc_layers(own_digits_run).equals(stored)


def test_streamed_layers_are_kept_and_what_is_missing_is_made_from_the_kept_moments(
    own_digits_run, capsys
):
    folder, words = own_digits_run.folder / "moments", ["--ood", "held_out", "--layers", "stream"]
    extract(own_digits_run, *words)
    before, contents = (
        modified(folder),
        {path.name: path.read_bytes() for path in folder.glob("*.csv")},
    )
    capsys.readouterr()
    extract(own_digits_run, *words)
    assert modified(folder) == before and capsys.readouterr().out.count("kept as it is") == 4
    (
        folder / "ID_digits_test_stack2.csv"
    ).unlink()  # NC4 of it needs the probe, which needs the training images' moments
    extract(own_digits_run, *words)
    after = modified(folder)
    assert {name for name in after if after[name] != before.get(name)} == {
        f"ID_digits_test_stack{n}.csv" for n in (1, 2, 3)
    }
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == contents


@pytest.mark.slow
def test_two_processes_stream_what_one_does(own_digits_run, tmp_path):
    words = ["--ood", "held_out", "photos", "--layers", "stream", "--batch-size", "200", "--force"]
    extract(own_digits_run, *words)
    alone = {
        path.name: layers.read_summary(path)
        for path in (own_digits_run.folder / "moments").glob("*.csv")
    }
    features = (own_digits_run.folder / "ID_digits_train.csv").read_bytes()
    ((codes, said),) = by_two(tmp_path, own_digits_run, words)
    assert codes == [0, 0], said
    assert (own_digits_run.folder / "ID_digits_train.csv").read_bytes() == features and len(
        alone
    ) == 12
    for name, one in alone.items():
        other = layers.read_summary(own_digits_run.folder / "moments" / name)
        assert other.images == one.images and (
            one.counts is None or other.counts.tolist() == one.counts.tolist()
        )
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-13, atol=1e-15)
        if one.moments:
            scale = np.trace(one.moments.within)
            np.testing.assert_allclose(
                other.moments.within / scale, one.moments.within / scale, rtol=0, atol=1e-13
            )


def test_moments_of_another_checkpoint_are_refused(own_digits_run):
    extract(own_digits_run, "--ood", "held_out", "--layers", "stream")
    path = own_digits_run.folder / "moments" / "ID_digits_test_stack1.json"
    other = {"checkpoint_sha256": "b" * 64, "weights_sha256": "b" * 64}
    utils.write_json(path, utils.read_json(path) | other)
    ended = shell(neural_collapse.main, "--checkpoint", own_digits_run.folder)
    assert (
        ended.code == 2
        and "was made from another checkpoint" in ended.err
        and "--layers stream --force" in ended.err
    )


def test_a_class_without_images_is_no_warning_of_a_layer():
    features, labels = draw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moments = layers.Tally(6).update(features, labels).moments
    assert moments.counts.tolist() == [40] * 5 + [0]
