"""run_networks.py: features are what enters the classifier, the files hold them exactly, and
nothing is made or kept wrongly."""

import hashlib
import os
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from helpers import another_checkpoint, by_two, extract, modified, named
from PIL import Image

import cli
import data
import feature_files
import processes
import run_networks
import train
from artifacts import records, store
from extraction import extractor
from images import folders, reading
from networks import checkpoints, loading, registry

pytestmark = [
    pytest.mark.slow,  # most tests extract a small network
    pytest.mark.usefixtures("one_thread"),
]
STEMS = [
    "ID_digits_train",
    "ID_digits_val",
    "ID_digits_test",
    *(f"OOD_{name}_test" for name in ("held_out", "photos", "uniform", "gaussian")),
]


def features_of(folder, name):
    return store.read_features(store.feature_file(folder, name))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def image_set(checkpoint, name):
    """The images of one of digits_run's files, loaded by hand."""
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    if name.startswith("OOD"):
        return data.load_ood(
            named(name[4:-5]), data.ID["digits"], preprocessing, None, checkpoint["held_out"]
        )
    split = name.rsplit("_", 1)[1]
    images = data.load_id(
        data.ID["digits"],
        "test" if split == "test" else "train",
        preprocessing,
        None,
        checkpoint["held_out"],
    )
    if split == "test":
        return images
    rows = data.split_validation(len(images), checkpoint["val_size"])[("train", "val").index(split)]
    return images.take(sorted(rows.tolist()))


def folder_of_images(folder, count=5, seed=0):
    """`count` photographs of different sizes, in two subfolders and at the top."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / ("", "cats", "dogs")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)).save(path)
    return folder


def foreign(tmp_path, network, name="foreign.pth", **facts):
    """A bare state dict, or with facts a checkpoint that passes for one of train.py's."""
    path = tmp_path / name
    whole = {"model_state_dict": network.state_dict(), "recipe": {}, "versions": {}, **facts}
    torch.save(whole if facts else network.state_dict(), path)
    return path


def extract_foreign(tmp_path, path, *words):
    return run_networks.main(
        [
            "--checkpoint",
            str(path),
            "--device",
            "cpu",
            "--output-dir",
            str(tmp_path / "results"),
            *map(str, words),
        ]
    )


# ---- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEMS)
def test_features_equal_a_direct_forward_pass_without_the_classifier(digits_run, name):
    network, _, checkpoint = loading.load(digits_run.checkpoint)
    images, found = image_set(checkpoint, name), features_of(digits_run.folder, name)
    network.fc = torch.nn.Identity()
    mean, std = (
        torch.tensor(checkpoint["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std")
    )
    with torch.inference_mode():
        expected = network((images.pixels / 255 - mean) / std).numpy()
    assert found.features.shape == expected.shape and found.features.dtype == np.float32
    assert np.abs(found.features - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert expected.std() > 0.01
    assert found.labels.tolist() == images.labels.tolist() and found.paths is None


def test_logits_are_features_times_the_head(digits_run):
    network, _, checkpoint = loading.load(digits_run.checkpoint)
    head = store.read_head(digits_run.folder / "head.csv")
    W, b, names = head.W, head.b, head.class_names
    assert np.array_equal(W, network.fc.weight.detach()) and np.array_equal(
        b, network.fc.bias.detach()
    )
    assert names == checkpoint["class_names"] == list("01234567")
    images = image_set(checkpoint, "ID_digits_test")
    with torch.inference_mode():
        logits = network(
            data.Preprocessing(**checkpoint["preprocessing"]).normalise(images.pixels)
        ).numpy()
    found = features_of(digits_run.folder, "ID_digits_test").features @ W.T + b
    assert np.abs(found - logits).max() < 1e-4
    assert (found.argmax(1) == images.labels.numpy()).mean() == pytest.approx(
        checkpoint["test_acc"], abs=1e-6
    )


def test_the_csv_holds_the_extracted_float32_exactly(own_digits_run, monkeypatch):
    written, real = {}, store.write_features

    def write(path, features, *arguments):
        written[path] = features.copy()
        real(path, features, *arguments)

    monkeypatch.setattr(store, "write_features", write)
    extract(own_digits_run, "--ood", "photos", "--force")
    assert len(written) == 4
    for path, features in written.items():
        assert features.dtype == np.float32 and np.array_equal(
            store.read_features(path).features, features
        )
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join([*(f"ct{index}" for index in range(64)), "label"]) and len(
        lines
    ) == 1 + len(features)
    by_hand = np.array(
        [[np.float32(cell) for cell in line.split(",")[:-1]] for line in lines[1:20]]
    )
    assert np.array_equal(by_hand, features[:19])


def test_training_rows_are_those_that_were_trained_on_in_the_order_of_the_data_set(digits_run):
    checkpoint = checkpoints.read(digits_run.checkpoint)
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    whole = data.load_id(data.ID["digits"], "train", preprocessing, None, ("8", "9"))
    held = set(data.split_validation(len(whole), 96)[1].tolist())
    rows = [index for index in range(len(whole)) if index not in held]
    found = features_of(digits_run.folder, "ID_digits_train")
    assert len(held) == 96 and found.labels.tolist() == whole.labels[rows].tolist()
    head = store.read_head(digits_run.folder / "head.csv")
    W, b = head.W, head.b
    right = (found.features @ W.T + b).argmax(1) == found.labels
    assert right.mean() == pytest.approx(checkpoint["train_acc"], abs=1e-6)


@pytest.mark.parametrize("batch_size", [17, 481])
def test_the_batch_size_does_not_matter(own_digits_run, digits_run, batch_size):
    extract(own_digits_run, "--ood", "held_out", "--force", "--batch-size", batch_size)
    for name in ("ID_digits_test", "OOD_held_out_test"):
        one, other = (
            features_of(run.folder, name).features for run in (own_digits_run, digits_run)
        )
        assert np.abs(one - other).max() < 1e-5


def test_dropout_does_not_touch_the_features(tmp_path, digits_run):
    state = checkpoints.read(digits_run.checkpoint)
    path = tmp_path / "dropped.pth"
    torch.save({**state, "model_args": {"dropout": 0.5}}, path)
    extract_foreign(tmp_path, path, "--ood", "held_out")
    found = features_of(tmp_path / "results" / "dropped", "ID_digits_test").features
    assert np.array_equal(found, features_of(digits_run.folder, "ID_digits_test").features)


def test_bfloat16_is_close_and_said_in_the_sidecar(own_digits_run, digits_run):
    extract(own_digits_run, "--amp", "--ood", "held_out")
    one, other = (
        features_of(run.folder, "ID_digits_test").features for run in (own_digits_run, digits_run)
    )
    difference = np.abs(one - other).max()
    assert 0 < difference < 0.1 * np.abs(other).max()
    assert (
        records.read_sidecar(own_digits_run.folder / "ID_digits_test.csv")["precision"]
        == "bfloat16"
    )
    assert records.read_sidecar(digits_run.folder / "ID_digits_test.csv")["precision"] == "float32"


# ---- the files -----------------------------------------------------------------------------------


def test_the_folder_holds_these_files(digits_run):
    expected = [f"{stem}{ending}" for stem in ("head", *STEMS) for ending in (".csv", ".json")] + [
        "run_networks.json"
    ]
    assert sorted(path.name for path in digits_run.folder.iterdir()) == sorted(expected)


def test_sidecars_say_how_each_file_was_made(digits_run):
    digest = hashlib.sha256(digits_run.checkpoint.read_bytes()).hexdigest()
    head = hashlib.sha256((digits_run.folder / "head.csv").read_bytes()).hexdigest()
    for name, dataset, split, rows in (
        ("ID_digits_train", "digits", "train", 866),
        ("ID_digits_val", "digits", "val", 96),
        ("ID_digits_test", "digits", "test", 481),
        ("OOD_held_out_test", "held_out", "test", 118),
        ("OOD_photos_test", "photos", "test", 456),
    ):
        sidecar = records.read_sidecar(digits_run.folder / f"{name}.csv")
        assert set(sidecar) >= {
            "command",
            "arguments",
            "versions",
            "git_commit",
            "git_dirty",
            "seconds",
            "created",
        }
        assert (sidecar["checkpoint"], sidecar["checkpoint_sha256"]) == (
            digits_run.checkpoint.name,
            digest,
        )
        assert sidecar["head_sha256"] == head and sidecar["class_names"] == list("01234567")
        assert (sidecar["dataset"], sidecar["split"], sidecar["rows"], sidecar["width"]) == (
            dataset,
            split,
            rows,
            64,
        )
        assert sidecar["preprocessing"] == {
            "size": 16,
            "mean": list(data.ID["digits"].mean),
            "std": list(data.ID["digits"].std),
            "interpolation": "bilinear",
            "crop_share": 1.0,
        }
    head_sidecar = records.read_sidecar(digits_run.folder / "head.csv")
    assert head_sidecar["checkpoint_sha256"] == digest and (
        head_sidecar["rows"],
        head_sidecar["width"],
    ) == (8, 64)


def test_the_files_belong_together(digits_run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = feature_files.open_run(digits_run.checkpoint, digits_run.output_dir)
    assert run.dataset == "digits" and sorted(run.ood) == [
        "gaussian",
        "held_out",
        "photos",
        "uniform",
    ]


def test_a_second_call_keeps_every_file_and_force_remakes_them(own_digits_run, capsys):
    before, bytes_before = modified(own_digits_run.folder), contents(own_digits_run.folder)
    extract(own_digits_run)
    assert modified(own_digits_run.folder) == before and capsys.readouterr().out.count(
        "kept as it is"
    ) == len(STEMS)
    extract(own_digits_run, "--ood", "held_out", "--force")
    after = modified(own_digits_run.folder)
    remade = {
        "head.csv",
        "ID_digits_train.csv",
        "ID_digits_val.csv",
        "ID_digits_test.csv",
        "OOD_held_out_test.csv",
    }
    assert {name for name in after if after[name] != before[name]} == remade
    assert all(contents(own_digits_run.folder)[name] == bytes_before[name] for name in remade)


def test_what_is_missing_is_made_and_the_rest_is_kept(own_digits_run):
    before = modified(own_digits_run.folder)
    (own_digits_run.folder / "OOD_photos_test.csv").unlink()
    (own_digits_run.folder / "OOD_uniform_test.json").unlink()
    extract(own_digits_run)
    after = modified(own_digits_run.folder)
    assert {name for name in before if after[name] != before[name]} == {
        "OOD_photos_test.csv",
        "OOD_uniform_test.csv",
    }


@pytest.mark.parametrize("name", ["head.csv", "ID_digits_train.csv", "OOD_uniform_test.csv"])
def test_a_file_that_was_edited_is_made_again(own_digits_run, name):
    path = own_digits_run.folder / name
    before = path.read_bytes()
    lines = before.decode().splitlines()
    # two rows change places
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    assert path.read_bytes() != before and path.stat().st_size == len(before)
    extract(own_digits_run)
    assert path.read_bytes() == before


def test_another_checkpoint_under_the_same_name_remakes_everything(own_digits_run):
    before = modified(own_digits_run.folder)
    another_checkpoint(own_digits_run).replace(own_digits_run.checkpoint)
    extract(own_digits_run)
    after = modified(own_digits_run.folder)
    assert all(after[name] != before[name] for name in before)
    feature_files.open_run(own_digits_run.checkpoint, own_digits_run.output_dir)


def test_parquet_holds_the_same_as_csv_and_takes_its_place(own_digits_run, tmp_path):
    words = ["--ood", f"mine={folder_of_images(tmp_path / 'photographs')}", "held_out"]
    extract(own_digits_run, *words)
    stems = (
        "ID_digits_train",
        "ID_digits_val",
        "ID_digits_test",
        "OOD_held_out_test",
        "OOD_mine_test",
    )
    before = {
        stem: (
            features_of(own_digits_run.folder, stem),
            store.columns_of(own_digits_run.folder / f"{stem}.csv"),
        )
        for stem in stems
    }
    extract(own_digits_run, *words, "--format", "parquet")
    for stem, (one, columns) in before.items():
        path = store.feature_file(own_digits_run.folder, stem)
        other = store.read_features(path)
        assert path.suffix == ".parquet" and store.columns_of(path) == columns
        assert np.array_equal(one.features, other.features) and np.array_equal(
            one.labels, other.labels
        )
        assert one.paths == other.paths
    kept = modified(own_digits_run.folder)
    extract(own_digits_run, *words, "--format", "parquet")
    assert modified(own_digits_run.folder) == kept


# ---- ODIN's perturbed images ---------------------------------------------------------------------


def test_odin_moves_each_pixel_by_epsilon_down_the_loss_of_the_predicted_class(own_digits_run):
    epsilon, temperature = 0.02, 100.0
    extract(
        own_digits_run, "--ood", "photos", "--odin-epsilon", epsilon, "--temperature", temperature
    )
    network, _, checkpoint = loading.load(own_digits_run.checkpoint)
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    for name in ("ID_digits_test", "OOD_photos_test"):
        images = preprocessing.normalise(
            image_set(checkpoint, name).take(torch.arange(20)).pixels
        ).contiguous()
        images.requires_grad_()
        (network(images) / temperature).softmax(1).max(1).values.log().sum().backward()
        moved = images.detach() - epsilon / std * (-images.grad).sign()
        body = loading.load(own_digits_run.checkpoint)[0]
        body.fc = torch.nn.Identity()
        with torch.no_grad():
            expected = body(moved).numpy()
        found = features_of(own_digits_run.folder, f"ODIN_{name}").features
        # A gradient of zero to the last bit may take either sign: a few pixels of 768.
        assert (
            np.abs(found[:20] - expected).max()
            < 0.02
            < np.abs(features_of(own_digits_run.folder, name).features[:20] - expected).max()
        )
        sidecar = records.read_sidecar(own_digits_run.folder / f"ODIN_{name}.csv")
        assert (sidecar["odin_epsilon"], sidecar["temperature"]) == (epsilon, temperature)
        assert sidecar["dataset"] == name.split("_")[1]


def test_odin_with_an_epsilon_of_zero_changes_nothing(own_digits_run):
    before = contents(own_digits_run.folder)
    extract(own_digits_run, "--ood", "photos", "--odin-epsilon", "0")
    for name in ("ID_digits_test", "OOD_photos_test"):
        one, other = (
            features_of(own_digits_run.folder, stem).features for stem in (name, f"ODIN_{name}")
        )
        assert np.abs(one - other).max() < 1e-5
    assert all(
        contents(own_digits_run.folder)[f"{stem}.csv"] == before[f"{stem}.csv"] for stem in STEMS
    )


def test_another_epsilon_is_extracted_anew_and_the_clean_features_are_kept(own_digits_run):
    extract(own_digits_run, "--ood", "photos", "--odin-epsilon", "0.001")
    before = modified(own_digits_run.folder)
    extract(own_digits_run, "--ood", "photos", "--odin-epsilon", "0.002")
    after = modified(own_digits_run.folder)
    assert {name for name in after if after[name] != before[name]} == {
        "ODIN_ID_digits_test.csv",
        "ODIN_ID_digits_val.csv",
        "ODIN_OOD_photos_test.csv",
    }


# ---- every stage, several checkpoints ------------------------------------------------------------


def test_layers_are_the_outputs_of_the_stages_averaged_over_positions(own_digits_run):
    before = modified(own_digits_run.folder)
    extract(own_digits_run, "--ood", "photos", "--layers")
    network, _, checkpoint = loading.load(own_digits_run.checkpoint)
    preprocessing, caught = data.Preprocessing(**checkpoint["preprocessing"]), {}
    for name in ("stack1", "stack2", "stack3"):
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: caught.update({name: output})
        )
    for stem in ("ID_digits_test", "OOD_photos_test"):
        images = image_set(checkpoint, stem)
        with torch.inference_mode():
            network(preprocessing.normalise(images.pixels))
        for name, width in (("stack1", 16), ("stack2", 32), ("stack3", 64)):
            found = store.read_features(own_digits_run.folder / "layers" / f"{stem}_{name}.csv")
            assert (
                found.features.shape == (len(images), width)
                and found.labels.tolist() == images.labels.tolist()
            )
            assert np.abs(found.features - caught[name].mean((2, 3)).numpy()).max() < 1e-5
    penultimate = features_of(own_digits_run.folder, "ID_digits_test").features
    last = store.read_features(
        own_digits_run.folder / "layers" / "ID_digits_test_stack3.csv"
    ).features
    # average pooling makes the one of the other here
    assert np.abs(penultimate - last).max() < 1e-5
    assert modified(own_digits_run.folder)["head.csv"] == before["head.csv"]


def test_several_checkpoints_are_extracted_each_into_its_own_folder(own_digits_run, digits_run):
    other = another_checkpoint(own_digits_run)
    run_networks.main(
        [
            "--checkpoint",
            str(own_digits_run.checkpoint),
            str(other),
            "--device",
            "cpu",
            "--ood",
            "held_out",
            "--output-dir",
            str(own_digits_run.output_dir),
            "--force",
        ]
    )
    one, two = (
        features_of(own_digits_run.output_dir / path.stem, "ID_digits_test").features
        for path in (own_digits_run.checkpoint, other)
    )
    assert np.array_equal(one, features_of(digits_run.folder, "ID_digits_test").features)
    assert one.shape == two.shape and not np.array_equal(one, two)


# ---- several processes ---------------------------------------------------------------------------


def tables(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.csv")
    }


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(own_digits_run, tmp_path):
    # Batches of 200: five, one (which leaves a rank idle), three of ID images; 118 held-out ones
    # are less than a batch.
    words = [
        "--ood",
        "held_out",
        "photos",
        "--odin-epsilon",
        "0.01",
        "--layers",
        "--batch-size",
        "200",
        "--force",
    ]
    extract(own_digits_run, *words)
    alone, before = tables(own_digits_run.folder), modified(own_digits_run.folder)
    ((codes, said),) = by_two(tmp_path, own_digits_run, words)
    assert codes == [0, 0], said
    assert {"ODIN_ID_digits_test.csv", "layers/ID_digits_train_stack1.csv", "head.csv"} < set(alone)
    assert tables(own_digits_run.folder) == alone
    remade = modified(own_digits_run.folder)
    assert all(
        remade[name] != before[name]
        for name in remade
        if not name.startswith(("OOD_uniform", "OOD_gaussian"))
    )
    printed = "".join(out for out, _ in said)
    assert printed.count("ID_digits_train.csv: 866 images") == printed.count("-> ") == 1
    assert records.read_sidecar(own_digits_run.folder / "ID_digits_train.csv")["rows"] == 866


@pytest.mark.slow
def test_two_processes_read_folders_keep_what_is_there_and_fetch_once(own_digits_run, tmp_path):
    photographs = folder_of_images(tmp_path / "photographs", count=90)
    # 481 test images: the last batch holds one
    words = [
        "--ood",
        f"mine={photographs}",
        "--batch-size",
        "40",
    ]
    extract(own_digits_run, *words, "--force")
    alone, path = tables(own_digits_run.folder), own_digits_run.folder / "OOD_mine_test.csv"
    content = records.read_sidecar(path)["source_content"]
    remade, kept, fetched = by_two(
        tmp_path,
        own_digits_run,
        [*words, "--force"],
        words,
        ["--fetch", "--dataset", "digits", "--ood", "photos"],
    )
    for codes, said in (remade, kept, fetched):
        assert codes == [0, 0] and said[1] == ("", "") and said[0][1] == ""
    assert tables(own_digits_run.folder) == alone
    assert len(features_of(own_digits_run.folder, "OOD_mine_test").paths) == 90
    assert (
        records.read_sidecar(path)["source_content"] == content == folders.content_hash(photographs)
    )
    assert remade[1][0][0].count("kept as it is") == 0 and kept[1][0][0].count("kept as it is") == 4
    assert fetched[1][0][0].count("photos: 456 images at hand") == 1


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_with_one_message_and_the_old_file_stays(
    own_digits_run, tmp_path
):
    photographs = folder_of_images(tmp_path / "photographs", count=60)
    words = ["--ood", f"mine={photographs}", "--batch-size", "40"]
    extract(own_digits_run, *words)
    before = tables(own_digits_run.folder)
    last = sorted(photographs.rglob("*.png"))[-1]  # of the second rank
    last.write_bytes(b"no image")
    for codes, said in (found := by_two(tmp_path, own_digits_run, words, ["--checkpoint", last])):
        assert sorted(codes) == [0, 2] and "".join(err for _, err in said).count("error: ") == 1
    assert f"{last} cannot be read as an image" in found[0][1][0][1] + found[0][1][1][1]
    assert f"{last} is not a checkpoint" in found[1][1][0][1] + found[1][1][1][1], (
        "which both ranks find"
    )
    assert tables(own_digits_run.folder) == before


@pytest.mark.parametrize(
    ("count", "size", "batch_size"),
    [(10, 1, 3), (10, 2, 3), (10, 4, 3), (3, 4, 500), (0, 2, 5), (1000, 3, 1)],
)
def test_shares_are_whole_batches_and_together_all_images(count, size, batch_size):
    shares = [
        extractor.Extractor(None, None, None, processes.World(rank, size, "cpu"), batch_size).shard(
            count
        )
        for rank in range(size)
    ]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    assert all(
        share.start % batch_size == 0 or share.start == share.stop == count for share in shares
    )


# ---- folders of images ---------------------------------------------------------------------------


def test_a_folder_of_images_is_extracted_with_its_paths(own_digits_run, tmp_path):
    photographs = folder_of_images(tmp_path / "photographs")
    extract(own_digits_run, "--ood", f"mine={photographs}")
    path = own_digits_run.folder / "OOD_mine_test.csv"
    assert path.read_text().splitlines()[0].endswith(",ct63,label,path")
    found, (network, _, checkpoint) = (
        store.read_features(path),
        loading.load(own_digits_run.checkpoint),
    )
    assert found.paths == ["0.png", "3.png", "cats/1.png", "cats/4.png", "dogs/2.png"]
    assert found.labels.tolist() == [-1] * 5
    assert records.read_sidecar(path)["ood_class_names"] == ["cats", "dogs"]
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    network.fc = torch.nn.Identity()
    for name, row in zip(found.paths, found.features, strict=True):
        pixels = np.asarray(preprocessing.resize(Image.open(photographs / name)))
        with torch.inference_mode():
            expected = network(
                preprocessing.normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
            )[0].numpy()
        assert np.abs(row - expected).max() < 1e-5


def test_a_changed_folder_is_extracted_anew_and_an_unchanged_one_is_not(own_digits_run, tmp_path):
    photographs = folder_of_images(tmp_path / "photographs")
    path = own_digits_run.folder / "OOD_mine_test.csv"
    extract(own_digits_run, "--ood", f"mine={photographs}")
    first = path.stat().st_mtime_ns, features_of(own_digits_run.folder, "OOD_mine_test").features
    extract(own_digits_run, "--ood", f"mine={photographs}")
    assert path.stat().st_mtime_ns == first[0]
    Image.fromarray(np.zeros((22, 30, 3), np.uint8)).save(photographs / "dogs" / "2.png")
    os.utime(photographs / "dogs" / "2.png", ns=(1, 1))
    extract(own_digits_run, "--ood", f"mine={photographs}")
    second = features_of(own_digits_run.folder, "OOD_mine_test").features
    assert np.array_equal(second[:4], first[1][:4]) and not np.array_equal(second[4], first[1][4])
    extract(own_digits_run, "--ood", f"mine={folder_of_images(tmp_path / 'others', 3, seed=1)}")
    assert len(features_of(own_digits_run.folder, "OOD_mine_test").features) == 3


def test_an_unreadable_image_is_named_and_the_old_file_stays(own_digits_run, tmp_path):
    photographs = folder_of_images(tmp_path / "photographs")
    extract(own_digits_run, "--ood", f"mine={photographs}")
    before = contents(own_digits_run.folder)
    (photographs / "cats" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cats/1\.png cannot be read as an image"):
        extract(own_digits_run, "--ood", f"mine={photographs}")
    assert contents(own_digits_run.folder) == before


def break_images(folder, *names):
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:100])


def test_unreadable_images_of_all_sets_are_named_before_anything_is_extracted(
    own_digits_run, tmp_path
):
    first, second = (folder_of_images(tmp_path / name) for name in ("first", "second"))
    break_images(first, "0.png", "dogs/2.png")
    (second / "cats" / "4.png").write_bytes(b"no image")
    before = contents(own_digits_run.folder)
    with pytest.raises(
        ValueError,
        match=r"^3 files cannot be read as images: .*first/0\.png .*/2\.png .*second/cats/4\.png",
    ):
        extract(own_digits_run, "--ood", "uniform", f"one={first}", f"two={second}", "--force")
    assert contents(own_digits_run.folder) == before


def test_a_set_is_looked_through_once_until_its_files_change(own_digits_run, tmp_path, monkeypatch):
    photographs, looked, real = (
        folder_of_images(tmp_path / "photographs"),
        [],
        reading.complaint,
    )
    monkeypatch.setattr(
        reading, "complaint", lambda path, *more: looked.append(path) or real(path, *more)
    )
    best = str(own_digits_run.output_dir / "resnet_cifar_best_digits_s0.pth")
    words = [
        "--ood",
        f"mine={photographs}",
        "--odin-epsilon",
        "0.01",
        "--checkpoint",
        str(own_digits_run.checkpoint),
        best,
    ]
    extract(own_digits_run, *words)
    assert len(looked) == 5  # for two checkpoints, and for ODIN too
    extract(own_digits_run, *words, "--force")
    assert len(looked) == 5
    os.utime(photographs / "0.png", ns=(1, 1))
    extract(own_digits_run, *words)
    assert len(looked) == 5, "other times, the same content"
    Image.new("RGB", (20, 30)).save(photographs / "0.png")
    extract(own_digits_run, *words)
    assert len(looked) == 10


def test_a_folder_that_the_checkpoint_knows_is_not_measured_again(tmp_path, monkeypatch):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            folder_of_images(tmp_path / "insects" / split / name, 2)
    preprocessing = data.Preprocessing(8, (0.5,) * 3, (0.5,) * 3).as_dict()
    path = foreign(
        tmp_path,
        registry.build("resnet_cifar", 2),
        model="resnet_cifar",
        dataset=f"insects={tmp_path / 'insects'}",
        class_names=["ant", "bee"],
        preprocessing=preprocessing,
    )
    monkeypatch.setattr(data, "channel_statistics", None)  # it decodes every training image
    extract_foreign(tmp_path, path, "--ood", "uniform")
    run_networks.main(["--fetch", "--dataset", f"insects={tmp_path / 'insects'}"])
    assert len(features_of(tmp_path / "results" / "foreign", "ID_insects_train").labels) == 4


def test_what_a_folder_holds_beside_images_is_said_once(own_digits_run, tmp_path, capsys):
    photographs = folder_of_images(tmp_path / "photographs")
    for name in ("a.heic", "cats/b.txt", "c", ".hidden", "Thumbs.db"):
        (photographs / name).write_text("x")
    best = str(own_digits_run.output_dir / "resnet_cifar_best_digits_s0.pth")
    extract(
        own_digits_run,
        "--ood",
        f"mine={photographs}",
        "--odin-epsilon",
        "0.01",
        "--checkpoint",
        own_digits_run.checkpoint,
        best,
    )
    said = "mine: 5 images; 3 other files left out (.heic, .txt, no ending)"
    assert [line.strip() for line in capsys.readouterr().out.splitlines()].count(said) == 1
    run_networks.main(["--fetch", "--dataset", "digits", "--ood", f"mine={photographs}"])
    assert (
        "5 images at hand; 3 other files left out (.heic, .txt, no ending)"
        in capsys.readouterr().out
    )


def test_a_class_folder_says_what_it_leaves_out_of_each_split(tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            folder_of_images(tmp_path / "insects" / split / name, 3)
        (tmp_path / "insects" / split / "ant" / "list.csv").write_text("x")
    preprocessing = data.Preprocessing(8, (0.5,) * 3, (0.5,) * 3).as_dict()
    path = foreign(
        tmp_path,
        registry.build("resnet_cifar", 2),
        model="resnet_cifar",
        dataset=f"insects={tmp_path / 'insects'}",
        class_names=["ant", "bee"],
        preprocessing=preprocessing,
        val_size=1,
    )
    extract_foreign(tmp_path, path, "--ood", "uniform")
    assert [
        line.strip() for line in capsys.readouterr().out.splitlines() if "left out" in line
    ] == [
        "insects (train): 5 images; 1 other file left out (.csv)",
        "insects (test): 6 images; 1 other file left out (.csv)",
    ]


def test_features_of_files_that_were_read_by_older_rules_are_made_anew(
    own_digits_run, tmp_path, monkeypatch
):
    words = ["--ood", f"mine={folder_of_images(tmp_path / 'photographs')}"]
    monkeypatch.setattr(folders, "RULES", "1: as the pixels lie")
    extract(own_digits_run, *words)
    before = modified(own_digits_run.folder)
    monkeypatch.undo()
    extract(own_digits_run, *words)
    after = modified(own_digits_run.folder)
    assert {name for name in before if after[name] != before[name]} == {"OOD_mine_test.csv"}


def test_a_file_name_with_commas_quotes_and_letters_of_all_kinds_comes_back(
    own_digits_run, tmp_path
):
    names = ['a, "b".png', "ünï 中文.png"]
    for name in names:
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    extract(own_digits_run, "--ood", f"mine={tmp_path}")
    assert {
        name
        for name in features_of(own_digits_run.folder, "OOD_mine_test").paths
        if "/" not in name
    } == set(names)


def test_a_data_set_of_your_own_folders_goes_through_training_and_extraction(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "insects"
    for split, count in (("train", 10), ("test", 3)):
        for number, name in enumerate(("ant", "bee")):
            for index in range(count):
                path = root / split / name / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(
                    (rng.integers(0, 128, (9, 8, 3)) + 100 * number).astype(np.uint8)
                ).save(path)
    results = tmp_path / "results"
    train.main(
        [
            "--dataset",
            f"insects={root}",
            "--image-size",
            "8",
            "--model",
            "resnet_cifar",
            "--epochs",
            "1",
            "--device",
            "cpu",
            "--batch-size",
            "6",
            "--output-dir",
            str(results),
        ]
    )
    checkpoint = results / "resnet_cifar_final_insects_s0.pth"
    run_networks.main(
        ["--checkpoint", str(checkpoint), "--device", "cpu", "--output-dir", str(results)]
    )
    folder = results / checkpoint.stem
    # none is known to suit a data set of one's own, and none was asked for
    assert not list(folder.glob("OOD_*"))
    rows, found = (
        data.split_validation(20, 2)[0].sort().values.tolist(),
        features_of(folder, "ID_insects_train"),
    )
    every = [f"{name}/{index:02}.png" for name in ("ant", "bee") for index in range(10)]
    assert found.paths == [every[row] for row in rows] and found.labels.tolist() == [
        row // 10 for row in rows
    ]
    assert features_of(folder, "ID_insects_test").labels.tolist() == [0] * 3 + [1] * 3
    assert store.read_head(folder / "head.csv").class_names == ["ant", "bee"]


def test_a_data_set_whose_classes_have_other_names_than_the_checkpoints_is_refused(tmp_path):
    for name in ("dog", "cow"):
        for split in ("train", "test"):
            (tmp_path / "beasts" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(tmp_path / "beasts" / split / name / "1.png")
    preprocessing = data.Preprocessing(8, (0.5,) * 3, (0.5,) * 3).as_dict()
    path = foreign(
        tmp_path,
        registry.build("resnet_cifar", 2),
        model="resnet_cifar",
        dataset=f"beasts={tmp_path / 'beasts'}",
        class_names=["ant", "bee"],
        preprocessing=preprocessing,
    )
    with pytest.raises(ValueError, match=r"ant|bee"):
        extract_foreign(tmp_path, path, "--ood", "uniform")


# ---- checkpoints from elsewhere ------------------------------------------------------------------


def test_a_bare_state_dict_takes_network_and_data_set_from_the_command_line(tmp_path):
    torch.manual_seed(0)
    path = foreign(tmp_path, registry.build("resnet_cifar", 10))
    extract_foreign(
        tmp_path, path, "--model", "resnet_cifar", "--dataset", "digits", "--ood", "uniform"
    )
    folder = tmp_path / "results" / "foreign"
    # nothing is held out, nothing known of a validation set
    assert len(features_of(folder, "ID_digits_train").labels) == 1198
    assert store.read_head(folder / "head.csv").class_names == [str(digit) for digit in range(10)]
    assert records.read_sidecar(folder / "ID_digits_test.csv")["preprocessing"]["mean"] == list(
        data.ID["digits"].mean
    )


@pytest.mark.parametrize(
    ("classes", "words", "message"),
    [
        (
            10,
            ["--model", "resnet_cifar"],
            "does not say which data it was trained on; name it with --dataset",
        ),
        (10, ["--dataset", "digits"], "does not say which network it holds; name it with --model"),
        (
            7,
            ["--model", "resnet_cifar", "--dataset", "digits", "--ood", "uniform"],
            "tells 7 classes apart and digits has 10",
        ),
        (10, ["--model", "resnet18", "--dataset", "digits"], "does not fit resnet18"),
    ],
)
def test_a_bare_state_dict_that_is_not_described_well_is_refused(tmp_path, classes, words, message):
    path = foreign(tmp_path, registry.build("resnet_cifar", classes))
    with pytest.raises(ValueError, match=message):
        extract_foreign(tmp_path, path, *words)
    assert not list(tmp_path.rglob("*.csv"))


def test_classes_that_a_foreign_network_never_saw_are_named_with_held_out(digits_run, tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(torch.load(digits_run.checkpoint, weights_only=True)["model_state_dict"], path)
    words = ["--model", "resnet_cifar", "--dataset", "digits"]
    with pytest.raises(ValueError, match=r"digits has 10: .* name those with --held-out CLASS"):
        extract_foreign(tmp_path, path, *words)
    extract_foreign(tmp_path, path, *words, "--ood", "held_out", "--held-out", "8", "9")
    folder = tmp_path / "results" / "bare"
    for stem in ("ID_digits_test", "OOD_held_out_test"):
        found, expected = features_of(folder, stem), features_of(digits_run.folder, stem)
        assert np.array_equal(found.labels, expected.labels)
        assert np.abs(found.features - expected.features).max() < 1e-4
    assert records.read_sidecar(folder / "head.csv")["class_names"] == list("01234567")
    extract_foreign(tmp_path, path, *words, "--ood", "uniform", "--held-out", "0", "1")
    assert records.read_sidecar(folder / "head.csv")["class_names"] == list("23456789")


def test_held_out_does_not_overrule_the_checkpoint(digits_run, tmp_path):
    with pytest.raises(ValueError, match="was trained without the classes 8, 9, not without 0"):
        extract_foreign(tmp_path, digits_run.checkpoint, "--held-out", "0")


def test_where_nothing_is_held_out_the_default_sets_are_the_others(tmp_path):
    path = foreign(tmp_path, registry.build("resnet_cifar", 10))
    extract_foreign(tmp_path, path, "--model", "resnet_cifar", "--dataset", "digits")
    found = {file.name for file in (tmp_path / "results" / "foreign").glob("OOD_*.csv")}
    assert found == {"OOD_photos_test.csv", "OOD_uniform_test.csv", "OOD_gaussian_test.csv"}


NETWORKS = """
from torch import nn
import torch


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 6), nn.ReLU())
        self.head = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.body(x))


class Scaled(Net):
    def forward(self, x):
        return 3 * super().forward(x)


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Projected(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.projection = nn.Linear(6, num_classes)


class Pair(Net):
    def forward(self, x):
        h = self.body(x)
        return self.head(h), h


class Spatial(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body, self.head = nn.Conv2d(3, 6, 16), nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.body(x).flatten(2).transpose(1, 2))[:, 0]


class Biasless(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.head = nn.Linear(6, num_classes, bias=False)


class Spare(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body, self.spare, self.head = self.body, nn.Conv2d(3, 6, 3), nn.Linear(6, num_classes)
"""


def own(tmp_path, name, classes=10, change=None):
    """A checkpoint of the network `name` of NETWORKS."""
    file = tmp_path / "my_networks.py"
    file.write_text(NETWORKS)
    torch.manual_seed(0)
    network = registry.build(f"{file}:{name}", classes)
    if change:
        change(network)
    digits = data.ID["digits"]
    return foreign(
        tmp_path,
        network,
        f"{name}.pth",
        model=f"{file}:{name}",
        dataset="digits",
        class_names=[str(digit) for digit in range(classes)],
        preprocessing=data.Preprocessing(16, digits.mean, digits.std).as_dict(),
    )


def extract_own(tmp_path, path, *words):
    """The same with the person's word that the network's file may be run."""
    extract_foreign(
        tmp_path,
        path,
        "--model",
        f"{tmp_path / 'my_networks.py'}:{path.stem}",
        "--ood",
        "uniform",
        *words,
    )


def test_a_network_of_your_own_is_extracted(tmp_path):
    path = own(tmp_path, "Net")
    extract_own(tmp_path, path)
    found = features_of(tmp_path / "results" / "Net", "ID_digits_test").features
    network, _, _ = loading.load(path, f"{tmp_path / 'my_networks.py'}:Net")
    images = data.load_id(
        data.ID["digits"],
        "test",
        data.Preprocessing(16, data.ID["digits"].mean, data.ID["digits"].std),
        None,
    )
    normalised = data.Preprocessing(16, data.ID["digits"].mean, data.ID["digits"].std).normalise(
        images.pixels
    )
    with torch.inference_mode():
        assert np.abs(found - network.body(normalised).numpy()).max() < 1e-5


def test_a_classifier_without_bias_has_zeros_in_its_place(tmp_path):
    extract_own(tmp_path, own(tmp_path, "Biasless"))
    head = tmp_path / "results" / "Biasless" / "head.csv"
    assert not store.read_head(head).b.any() and records.read_sidecar(head)["has_bias"] is False


@pytest.mark.parametrize("name", ["Scaled", "Softmax", "Projected", "Pair", "Spatial"])
def test_a_network_whose_last_linear_layer_is_not_its_output_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"linear layer|classifier|logits"):
        extract_own(tmp_path, own(tmp_path, name))
    assert not list(tmp_path.rglob("ID_*.csv"))


@pytest.mark.parametrize("way", ["store", "stream"])
def test_a_stage_that_is_never_run_is_named(tmp_path, way):
    path = own(tmp_path, "Spare")
    with pytest.raises(ValueError, match="the stage spare of the network gives no output"):
        extract_own(tmp_path, path, "--layers", way)
    extract_own(tmp_path, path)


def test_a_network_that_diverged_is_called_so(tmp_path):
    path = own(
        tmp_path, "Net", change=lambda network: network.body[1].weight.data.fill_(float("nan"))
    )
    with pytest.raises(ValueError, match=r"NaN or infini.*diverged"):
        extract_own(tmp_path, path)
    assert not list(tmp_path.rglob("ID_*.csv"))


# ---- what is refused before the long work --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--dataset", "cifar10"],
            r"was trained on digits, not on cifar10; .* give it as --ood cifar10",
        ),
        (["--model", "resnet18"], "holds a resnet_cifar, not a resnet18"),
        (["--ood", "digits"], "unknown OOD set 'digits'|in-distribution set"),
        (["--ood", "svnh"], "unknown OOD set 'svnh'; expected one of svhn"),
        (["--ood", "mine=absent"], "absent is not a folder"),
        (["--ood", "photos", "photos"], "photos is named twice"),
        (["--ood", "mine=/tmp", "Mine=/"], "the OOD set mine is named twice"),
        (
            ["--ood", "uniform", "mine=absent", "other=/tmp"],
            r"absent is not a folder; expected the folder of images.* of .* mine",
        ),
        (["--device", "cuda:99"], "--device cuda:99 is not available here"),
        (["--checkpoint", "absent.pth"], r"there is no checkpoint absent\.pth"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_one_line_and_change_nothing(
    own_digits_run, monkeypatch, capsys, words, message
):
    before = contents(own_digits_run.folder)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # cli.run replaces it
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: extract(own_digits_run, *words))
    errors = capsys.readouterr().err
    assert caught.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(errors)
    assert contents(own_digits_run.folder) == before


def test_the_same_data_set_may_be_named_again(own_digits_run):
    before = modified(own_digits_run.folder)
    extract(own_digits_run, "--dataset", "digits", "--model", "resnet_cifar")
    assert modified(own_digits_run.folder) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--fetch"],
        ["--checkpoint", "x.pth", "--batch-size", "0"],
        ["--checkpoint", "x.pth", "--format", "xlsx"],
        ["--checkpoint", "x.pth", "--odin-epsilon", "-1"],
        ["--checkpoint", "x.pth", "--odin-epsilon", "0.1", "--temperature", "0"],
    ],
)
def test_arguments_that_cannot_be_read_are_usage_errors(words):
    with pytest.raises(SystemExit) as caught:
        run_networks.parse_args(words)
    assert caught.value.code == 2


def test_an_empty_folder_and_a_folder_that_cannot_be_written_are_refused(own_digits_run, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="holds no images"):
        extract(own_digits_run, "--ood", f"mine={tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="cannot write into"):
        extract(own_digits_run, "--output-dir", tmp_path / "file")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_interrupted_write_leaves_the_old_file_and_the_next_call_makes_the_new_one(
    own_digits_run, monkeypatch, ending
):
    before = features_of(own_digits_run.folder, "OOD_photos_test").features

    def die(frame, file, *_, **__):
        file.write(b"ct0,ct1\n0.5,")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pl.DataFrame, f"write_{ending}", die)
        extract(
            own_digits_run,
            "--ood",
            "photos",
            "--format",
            ending,
            *(["--force"] if ending == "csv" else []),
        )
    assert not [path for path in own_digits_run.folder.iterdir() if path.name.startswith(".")]
    for stem in STEMS:
        path = store.feature_file(own_digits_run.folder, stem)
        assert path and len(store.read_features(path).labels), stem
    extract(own_digits_run, "--ood", "photos", "--format", ending)
    assert np.array_equal(features_of(own_digits_run.folder, "OOD_photos_test").features, before)


def test_fetch_says_what_is_at_hand_and_writes_nothing(tmp_path, capsys):
    assert (
        run_networks.main(
            [
                "--fetch",
                "--dataset",
                "digits",
                "--ood",
                "photos",
                "held_out",
                "--data-dir",
                str(tmp_path),
                "--output-dir",
                str(tmp_path),
            ]
        )
        is None
    )
    out = capsys.readouterr().out
    assert "digits (train): 1,198 images at hand" in out and "photos: 456 images at hand" in out
    assert list(tmp_path.iterdir()) == []
