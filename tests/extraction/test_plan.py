"""Which feature files are current; what is kept needs no images; nothing is lost unasked."""

import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import data
import run_networks
import utils
from artifacts import current, records, store
from extraction import places
from networks import checkpoints, loading, registry

pytestmark = [
    pytest.mark.slow,  # most tests extract a small network
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]


def start(run, *words):
    run_networks.main(
        [
            "--checkpoint",
            str(run.checkpoint),
            "--device",
            "cpu",
            "--output-dir",
            str(run.output_dir),
            *map(str, words),
        ]
    )


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.csv")}


def photographs(folder, count=4, seed=0):
    generator = np.random.default_rng(seed)
    for number in range(count):
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


# ---- the network ---------------------------------------------------------------------------------


def test_a_training_that_ends_in_the_same_weights_keeps_every_file(own_digits_run, capsys):
    before, old = times(own_digits_run.folder), records.sha256(own_digits_run.checkpoint)
    content = torch.load(own_digits_run.checkpoint, weights_only=True)
    torch.save({**content, "created": "later"}, own_digits_run.checkpoint)
    assert records.sha256(own_digits_run.checkpoint) != old
    start(own_digits_run)
    assert (
        times(own_digits_run.folder) == before
        and capsys.readouterr().out.count("kept as it is") == 7
    )
    weights = loading.load(own_digits_run.checkpoint)[2]["weights_sha256"]
    for name in ("head", "ID_digits_train", "OOD_uniform_test"):
        sidecar = records.read_sidecar(own_digits_run.folder / f"{name}.csv")
        assert (sidecar["checkpoint_sha256"], sidecar["weights_sha256"]) == (old, weights)
    record = utils.read_json(own_digits_run.folder / "run_networks.json")
    assert record["inputs"] == {
        f"../{own_digits_run.checkpoint.name}": records.sha256(own_digits_run.checkpoint)
    }


def test_other_weights_make_every_file_anew(own_digits_run):
    before = times(own_digits_run.folder)
    content = torch.load(own_digits_run.checkpoint, weights_only=True)
    content["model_state_dict"]["fc.bias"][0] += 1
    torch.save(content, own_digits_run.checkpoint)
    start(own_digits_run)
    after = times(own_digits_run.folder)
    assert all(after[name] != before[name] for name in before)


def test_one_file_read_as_two_networks_is_two_networks():
    file = {"checkpoint_sha256": "a", "weights_sha256": "b"}
    assert records.same_network(file, {**file, "checkpoint_sha256": "c"})
    assert not records.same_network(file, {**file, "weights_sha256": "c"})
    assert records.same_network({"checkpoint_sha256": "a"}, file) and not records.same_network(
        {}, file
    )


def test_a_changed_network_file_makes_every_file_anew(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))\n"
    )
    torch.manual_seed(0)
    torch.save(
        registry.build(f"{tmp_path / 'net.py'}:build", 10).state_dict(), tmp_path / "old.pth"
    )
    words = [
        "--checkpoint",
        str(tmp_path / "old.pth"),
        "--model",
        f"{tmp_path / 'net.py'}:build",
        "--dataset",
        "digits",
        "--ood",
        "uniform",
        "--device",
        "cpu",
        "--output-dir",
        str(tmp_path / "results"),
    ]
    folder = tmp_path / "results" / "old"
    run_networks.main(words)
    first = times(folder)
    run_networks.main(words)
    assert times(folder) == first
    assert "../../net.py" in utils.read_json(folder / "run_networks.json")["inputs"]
    with open(tmp_path / "net.py", "a") as file:
        file.write("SPARE = 1\n")
    run_networks.main(words)
    second = times(folder)
    assert all(second[name] != first[name] for name in first)


# ---- edited files --------------------------------------------------------------------------------


def edit(path):
    """One digit of one feature, or of the head, becomes another."""
    text = path.read_text()
    place = re.search(r"\.\d", text).end() - 1
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


@pytest.mark.parametrize("name", ["head", "ID_digits_train", "OOD_photos_test"])
def test_an_edited_file_is_made_anew_and_that_is_said(own_digits_run, name, capsys):
    path = own_digits_run.folder / f"{name}.csv"
    before = path.read_bytes()
    edit(path)
    start(own_digits_run)
    assert path.read_bytes() == before
    assert f"{path} was edited since it was written" in (out := capsys.readouterr().out)
    assert out.count("kept as it is") == (7 if name == "head" else 6)


@pytest.mark.parametrize("name", ["head", "OOD_photos_test"])
def test_allow_stale_keeps_an_edited_file_and_notes_it(own_digits_run, name):
    path = own_digits_run.folder / f"{name}.csv"
    edit(path)
    edited = path.read_bytes()
    with pytest.warns(
        UserWarning,
        match="was edited since it was written; taken all the same, as --allow-stale asks",
    ):
        start(own_digits_run, "--allow-stale")
    assert path.read_bytes() == edited
    record = utils.read_json(own_digits_run.folder / "run_networks.json")
    assert record["allowed_stale"] == [f"{path} was edited since it was written"]
    assert record["outputs"][path.name] == records.sha256(path)
    start(own_digits_run)
    assert path.read_bytes() != edited
    assert "allowed_stale" not in utils.read_json(own_digits_run.folder / "run_networks.json")


@pytest.mark.parametrize("name", ["head", "ID_digits_test"])
def test_a_file_that_was_rewritten_with_the_same_content_is_kept(own_digits_run, name, capsys):
    path = own_digits_run.folder / f"{name}.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    start(own_digits_run)
    assert (
        path.read_bytes().count(b"\r\n") > 1 and capsys.readouterr().out.count("kept as it is") == 7
    )
    assert {
        records.read_sidecar(file)["head_sha256"]
        for file in own_digits_run.folder.glob("*ID_*.csv")
    } == {records.sha256(own_digits_run.folder / "head.csv")}


# ---- images in files -----------------------------------------------------------------------------


def test_other_times_and_another_place_of_the_same_images_keep_the_file(
    own_digits_run, tmp_path, capsys
):
    first, path = photographs(tmp_path / "first"), own_digits_run.folder / "OOD_mine_test.csv"
    start(own_digits_run, "--ood", f"mine={first}")
    before, then = times(own_digits_run.folder), records.read_sidecar(path)
    assert then["source_content"].startswith("sha256 ") and then["source"].startswith("files ")
    os.utime(first / "cats" / "0.png", ns=(1, 1))
    start(own_digits_run, "--ood", f"mine={first}")
    now = records.read_sidecar(path)
    assert times(own_digits_run.folder) == before and now["source"] != then["source"]
    assert now == {**then, "source": now["source"]}
    shutil.copytree(first, tmp_path / "second", copy_function=shutil.copyfile)
    shutil.rmtree(first)
    start(own_digits_run, "--ood", f"mine={tmp_path / 'second'}")
    assert times(own_digits_run.folder) == before
    assert records.read_sidecar(path)["arguments"]["ood"] == [f"mine={tmp_path / 'second'}"], (
        "where other scripts look"
    )
    assert "its images have the same content" in capsys.readouterr().out


def test_an_image_of_the_same_size_and_time_is_found_by_verify(own_digits_run, tmp_path):
    folder, path = tmp_path / "photographs", own_digits_run.folder / "OOD_mine_test.csv"
    for number in range(3):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number}.bmp")
    start(own_digits_run, "--ood", f"mine={folder}")
    before, status = path.read_bytes(), (folder / "1.bmp").stat()
    Image.new("RGB", (20, 20), (255, 255, 0)).save(folder / "1.bmp")
    os.utime(folder / "1.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "1.bmp").stat().st_size == status.st_size
    start(own_digits_run, "--ood", f"mine={folder}")
    assert path.read_bytes() == before
    start(own_digits_run, "--ood", f"mine={folder}", "--verify")
    first, second = (text.splitlines() for text in (before.decode(), path.read_text()))
    assert [one == two for one, two in zip(first, second, strict=True)] == [True, True, False, True]
    kept = times(own_digits_run.folder)
    start(own_digits_run, "--ood", f"mine={folder}", "--verify")
    assert times(own_digits_run.folder) == kept


def test_what_is_kept_is_not_loaded(own_digits_run, tmp_path, monkeypatch):
    before = times(own_digits_run.folder)
    monkeypatch.setattr(data, "load_id", None)
    monkeypatch.setattr(data, "id_set", None)
    for name in list(data.OOD):
        monkeypatch.setitem(data.OOD, name, None)
    start(own_digits_run)
    start(own_digits_run, "--ood", "uniform", f"mine={photographs(tmp_path / 'photographs')}")
    after = times(own_digits_run.folder)
    assert {name for name in after if after[name] != before.get(name)} == {"OOD_mine_test.csv"}


@pytest.fixture
def insects(tmp_path):
    """Features of a network from elsewhere on images of one's own, and of an OOD set."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            photographs(tmp_path / "insects" / split / name, 3)
    torch.manual_seed(0)
    torch.save(registry.build("resnet_cifar", 2).state_dict(), tmp_path / "old.pth")
    extract(tmp_path, f"mine={photographs(tmp_path / 'photographs')}")
    return tmp_path


def extract(folder, *ood):
    run_networks.main(
        [
            "--checkpoint",
            str(folder / "old.pth"),
            "--model",
            "resnet_cifar",
            "--dataset",
            f"insects={folder / 'insects'}",
            "--image-size",
            "16",
            "--mean",
            "0",
            "--std",
            "1",
            "--device",
            "cpu",
            "--output-dir",
            str(folder / "results"),
            "--ood",
            *ood,
        ]
    )
    return folder / "results" / "old"


def test_one_more_photograph_needs_no_training_images(insects, capsys):
    folder, photograph = insects / "results" / "old", insects / "photographs" / "cats" / "0.png"
    before = times(folder)
    shutil.copyfile(photograph, insects / "one.png")
    for gone in ("insects", "photographs"):
        shutil.rmtree(insects / gone)
    capsys.readouterr()
    extract(insects, f"mine={insects / 'photographs'}", f"one={insects / 'one.png'}")
    after = times(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"OOD_one_test.csv"}
    one, all_of_them = (
        store.read_features(folder / f"OOD_{name}_test.csv") for name in ("one", "mine")
    )
    assert one.paths == ["one.png"] and one.labels.tolist() == [-1]
    assert np.abs(one.features[0] - all_of_them.features[0]).max() < 1e-5
    out = capsys.readouterr().out
    assert (
        f"OOD_mine_test.csv: 4 images, kept as it is; its images, {insects / 'photographs'}, are "
        "no longer there" in out
    )
    assert out.count("are no longer there") == 3, "ID train and test, and mine"
    with pytest.raises(ValueError, match="elsewhere is not a folder"):
        extract(insects, f"mine={insects / 'elsewhere'}")


def test_images_that_are_needed_and_gone_are_named(insects):
    shutil.rmtree(insects / "insects")
    (insects / "results" / "old" / "ID_insects_test.csv").unlink()
    with pytest.raises(ValueError, match="insects/train is not a folder"):
        extract(insects, f"mine={insects / 'photographs'}")


def test_the_record_says_when_a_folder_has_changed(insects):
    record = insects / "results" / "old" / "run_networks.json"
    arguments = utils.read_json(record)["arguments"]
    images = insects / "insects"
    assert set(utils.read_json(record)["folders"]) == {
        str(images / "train"),
        str(images / "test"),
        str(insects / "photographs"),
    }
    assert current.is_current(record, arguments) and current.is_current(
        record, arguments, verify=True
    )
    os.utime(images / "train" / "ant" / "cats" / "0.png", ns=(1, 1))
    assert current.is_current(record, arguments), "other times, the same content"
    Image.new("RGB", (8, 8)).save(insects / "photographs" / "more.png")
    assert not current.is_current(record, arguments)
    extract(insects, f"mine={insects / 'photographs'}")
    assert current.is_current(record, arguments, verify=True)
    shutil.rmtree(images)
    extract(insects, f"mine={insects / 'photographs'}")
    assert str(images / "train") in utils.read_json(record)["folders"]


def test_an_image_more_in_a_class_folder_makes_its_features_anew(insects):
    folder = insects / "results" / "old"
    before = times(folder)
    Image.new("RGB", (8, 8)).save(insects / "insects" / "test" / "bee" / "more.png")
    extract(insects, f"mine={insects / 'photographs'}")
    after = times(folder)
    assert {name for name in after if after[name] != before[name]} == {"ID_insects_test.csv"}
    assert records.read_sidecar(folder / "ID_insects_test.csv")["rows"] == 7


def test_a_class_of_a_network_from_elsewhere_may_be_renamed(insects):
    folder = insects / "results" / "old"
    for split in ("train", "test"):
        (insects / "insects" / split / "bee").rename(insects / "insects" / split / "wasp")
    extract(insects, f"mine={insects / 'photographs'}")
    assert store.read_head(folder / "head.csv").class_names == ["ant", "wasp"]
    assert records.read_sidecar(folder / "OOD_mine_test.csv")["class_names"] == ["ant", "wasp"]


def test_training_images_that_are_more_than_the_network_learned_are_noted(own_digits_run):
    content = checkpoints.read(own_digits_run.checkpoint)
    torch.save({**content, "images": content["images"] - 5}, own_digits_run.checkpoint)
    with pytest.warns(
        UserWarning, match=r"was trained on 861 images, and digits now has 866 to train on"
    ):
        start(own_digits_run, "--ood", "held_out", "--force")


# ---- two networks, one folder --------------------------------------------------------------------


def commands(message):
    found = re.search(r"with: (python run_networks\.py .*)$", message).group(1)
    return [shlex.split(part)[2:] for part in re.split(r" && |, or in their place with: ", found)]


@pytest.fixture
def seeds(tmp_path):
    """s0/best.ckpt and s1/best.ckpt."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        (tmp_path / f"s{seed}").mkdir()
        torch.save(
            registry.build("resnet_cifar", 10).state_dict(), tmp_path / f"s{seed}" / "best.ckpt"
        )
    return tmp_path


def words_of(folder, *numbers):
    return [
        "--checkpoint",
        *(str(folder / f"s{number}" / "best.ckpt") for number in numbers),
        "--model",
        "resnet_cifar",
        "--dataset",
        "digits",
        "--ood",
        "uniform",
        "--device",
        "cpu",
        "--output-dir",
        str(folder / "results"),
    ]


def weight(folder):
    return json.loads((folder / "head.json").read_text())["weights_sha256"]


def test_two_checkpoints_of_one_name_are_refused_and_kept_apart_as_the_message_says(seeds):
    with pytest.raises(
        ValueError,
        match=r"s0/best\.ckpt and .*s1/best\.ckpt would all be written into .*results/best",
    ) as caught:
        run_networks.main(words_of(seeds, 0, 1))
    assert not list(seeds.rglob("*.csv"))
    for words in commands(str(caught.value)):
        run_networks.main(words)
    folders = [seeds / "results" / f"s{seed}" / "best" for seed in (0, 1)]
    assert weight(folders[0]) != weight(folders[1]) and all(
        (folder / "OOD_uniform_test.csv").is_file() for folder in folders
    )


def test_the_features_of_another_file_are_not_replaced_unasked(seeds):
    run_networks.main(words_of(seeds, 0))
    first = {path: path.read_bytes() for path in (seeds / "results").rglob("*.*")}
    with pytest.raises(
        ValueError, match=r"results/best holds the features of another network, .*s0/best\.ckpt"
    ) as caught:
        run_networks.main(words_of(seeds, 1))
    elsewhere, in_place = commands(str(caught.value))
    run_networks.main(elsewhere)
    assert {path: path.read_bytes() for path in first} == first
    assert weight(seeds / "results" / "s1" / "best") != weight(seeds / "results" / "best")
    run_networks.main(in_place)
    assert weight(seeds / "results" / "s1" / "best") == weight(seeds / "results" / "best")


def test_the_same_file_trained_anew_is_extracted_into_its_folder(seeds):
    run_networks.main(words_of(seeds, 0))
    before = weight(seeds / "results" / "best")
    (seeds / "s1" / "best.ckpt").replace(seeds / "s0" / "best.ckpt")
    run_networks.main(words_of(seeds, 0, 0))
    assert weight(seeds / "results" / "best") != before


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["s0/best.ckpt", "s1/best.ckpt"], ["s0", "s1"]),
        (["a/s0/best.ckpt", "b/s0/best.ckpt"], ["a_s0", "b_s0"]),
        (["s0/best.ckpt", "s0/best.pth"], ["best.ckpt", "best.pth"]),
    ],
)
def test_folders_are_named_after_what_tells_the_checkpoints_apart(paths, names, tmp_path):
    paths = [str(tmp_path / path) for path in paths]
    assert [folder.name for folder in places.apart(paths, "results").values()] == names
