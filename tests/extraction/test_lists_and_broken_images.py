"""Lists of images and --skip-broken through train.py and run_networks.py: which rows there are,
what is said, and what notices that images came back."""

import numpy as np
import pytest
import torch
from helpers import class_folders, extract, modified, read_csv, shell
from image_cases import plainly, write

import data
import main
import run_networks
import train
import utils
from artifacts import current, records
from extraction import plan
from images import places

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]
BROKEN = ("zz1.png", "zz0.png")


@pytest.fixture
def root(tmp_path):
    """Six images in two folders, and a list of them in another order."""
    for number in range(6):
        name = ("cat", "dog")[number % 2]
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        write(tmp_path / "root" / name / f"{number}.png", pixels)
    return tmp_path / "root"


def make_list(path, root, order, label=-1):
    names = [f"{('cat', 'dog')[number % 2]}/{number}.png" for number in order]
    path.write_text("".join(f"{name} {label}\n" for name in names))
    return f"{path}@{root}"


def break_file(path):
    path.write_text("no image")
    return path


def features(run, stem):
    return read_csv(run.folder / f"{stem}.csv")


# ---- sets ----------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_left_out_with_its_reason_and_the_rest_keeps_its_order(root):
    break_file(root / "dog/3.png")
    whole = (root / "cat/4.png").read_bytes()
    (root / "cat/4.png").write_bytes(whole[: len(whole) // 2])
    images = places.image_set(root, plainly(9), skip_broken=True)
    assert images.paths == ["cat/0.png", "cat/2.png", "dog/1.png", "dog/5.png"]
    assert list(images.skipped) == ["cat/4.png", "dog/3.png"]
    assert images.skipped["dog/3.png"] == "no image that Pillow knows"
    assert "2 broken images left out: cat/4.png (" in images.left_out
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert len(next(iter(images.batches(9)))) == 4


def test_broken_files_are_counted_and_the_first_ten_named(root):
    for number in range(23):
        break_file(root / "dog" / f"x{number:02d}.png")
    images = places.image_set(root, plainly(9), skip_broken=True)
    assert images.left_out.startswith("23 broken images left out: dog/x00.png (")
    assert images.left_out.count("dog/x") == 10
    assert images.left_out.endswith("and 13 more")


def test_a_set_without_a_readable_image_stops(root):
    for path in root.rglob("*.png"):
        break_file(path)
    with pytest.raises(ValueError, match=r"no image of .* can be read: cat/0\.png \("):
        places.image_set(root, plainly(9), skip_broken=True)


def test_images_that_a_list_names_and_that_are_missing_stop_or_are_left_out(root, tmp_path):
    place = make_list(tmp_path / "ood.txt", root, range(20))
    with pytest.raises(ValueError, match=r"14 of the 20 images of .* are missing below") as caught:
        places.image_set(place, plainly(9))
    message = str(caught.value)
    assert "cat/6.png" in message and "dog/15.png, and 4 more" in message
    assert "cat/16.png" not in message and "--skip-broken" in message
    images = places.image_set(place, plainly(9), skip_broken=True)
    assert images.paths == [f"{('cat', 'dog')[number % 2]}/{number}.png" for number in range(6)]
    assert len(images.skipped) == 14


def test_left_out_rows_keep_their_labels(tmp_path, root):
    lines = [f"cat/{n}.png 3" for n in (0, 2, 8)] + [f"dog/{n}.png 1" for n in (1, 9, 3)]
    (tmp_path / "id.txt").write_text("\n".join(lines))
    images = places.labelled_list(f"{tmp_path}/id.txt@{root}", plainly(9), None, skip_broken=True)
    assert images.paths == ["cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png"]
    assert images.labels.tolist() == [1, 1, 0, 0]
    assert images.class_names == ["dog", "cat"]


def test_statistics_of_an_id_folder_are_those_of_the_readable_images(tmp_path):
    class_folders(tmp_path / "set", ("a", "b"), 4, (12, 12))
    asked = utils.SetName.parse(f"x={tmp_path}/set")
    expected = data.id_set(asked, "", 12)
    break_file(tmp_path / "set/train/a/zz.png")
    with pytest.raises(ValueError, match=r"zz\.png cannot be read"):
        data.id_set(asked, "", 12)
    found = data.id_set(asked, "", 12, skip_broken=True)
    assert (found.mean, found.std) == (expected.mean, expected.std)


# ---- extraction ----------------------------------------------------------------------------------


def test_a_list_gives_the_rows_of_its_folder_in_its_own_order(own_digits_run, root, tmp_path):
    place = make_list(tmp_path / "ood.txt", root, (5, 0, 3))
    extract(own_digits_run, "--ood", f"folder={root}", f"list={place}")
    whole = features(own_digits_run, "OOD_folder_test").set_index("path")
    part = features(own_digits_run, "OOD_list_test")
    assert part["path"].tolist() == ["dog/5.png", "cat/0.png", "dog/3.png"]
    assert (part["label"] == -1).all()
    assert part.drop(columns="path").equals(whole.loc[part["path"]].reset_index(drop=True))


def test_the_features_of_a_list_are_kept_until_its_lines_change(own_digits_run, root, tmp_path):
    place = make_list(tmp_path / "ood.txt", root, (5, 0, 3))
    extract(own_digits_run, "--ood", f"list={place}")
    file = own_digits_run.folder / "OOD_list_test.csv"
    before = modified(own_digits_run.folder)[file.name]
    extract(own_digits_run, "--ood", f"list={place}")
    assert modified(own_digits_run.folder)[file.name] == before
    make_list(tmp_path / "ood.txt", root, (0, 5, 3))
    extract(own_digits_run, "--ood", f"list={place}")
    assert features(own_digits_run, "OOD_list_test")["path"][0] == "cat/0.png"
    (tmp_path / "ood.txt").unlink()  # gone: what was made of it stays
    extract(own_digits_run, "--ood", f"list={place}")
    assert len(features(own_digits_run, "OOD_list_test")) == 3


def test_broken_images_stop_the_run_unless_they_are_skipped(own_digits_run, root):
    for name in BROKEN:
        break_file(root / name)
    words = ["--checkpoint", own_digits_run.checkpoint, "--output-dir", own_digits_run.output_dir]
    words += ["--device", "cpu", "--ood", f"mine={root}"]
    ended = shell(run_networks.main, *words)
    assert ended.code == 2 and "2 files cannot be read as images" in ended.err
    assert "--skip-broken" in ended.err
    assert not (own_digits_run.folder / "OOD_mine_test.csv").exists()
    ended = shell(run_networks.main, *words, "--skip-broken")
    assert ended.code == 0 and "mine: 6 images; 2 broken images left out: zz0.png (" in ended.out
    sidecar = records.read_sidecar(own_digits_run.folder / "OOD_mine_test.csv")
    assert sidecar["skipped"] == dict.fromkeys(sorted(BROKEN), "no image that Pillow knows")
    assert len(features(own_digits_run, "OOD_mine_test")) == 6
    ended = shell(run_networks.main, *words)
    assert ended.code == 0 and "made without 2 broken images (--skip-broken)" in ended.out


@pytest.mark.parametrize("kind", ["broken", "missing"])
def test_an_image_that_comes_back_makes_the_features_anew(own_digits_run, root, tmp_path, kind):
    place = make_list(tmp_path / "ood.txt", root, range(6))
    path = root / "dog/3.png"
    whole = path.read_bytes()
    break_file(path)
    if kind == "missing":
        path.unlink()
    words = ["--ood", f"list={place}", "--skip-broken"]
    extract(own_digits_run, *words)
    assert len(features(own_digits_run, "OOD_list_test")) == 5
    record = current.Record.read(own_digits_run.folder / "run_networks.json")
    assert not record.changed_images(verify=True)
    path.write_bytes(whole)
    assert record.changed_images() == f"the images in {place} changed"
    extract(own_digits_run, *words)
    assert len(features(own_digits_run, "OOD_list_test")) == 6
    assert "skipped" not in records.read_sidecar(own_digits_run.folder / "OOD_list_test.csv")


def test_a_touched_set_with_broken_images_is_kept_by_content(own_digits_run, root):
    break_file(root / BROKEN[0])
    words = ["--ood", f"mine={root}", "--skip-broken"]
    extract(own_digits_run, *words)
    before = modified(own_digits_run.folder)["OOD_mine_test.csv"]
    (root / "dog/1.png").touch()
    extract(own_digits_run, *words)
    assert modified(own_digits_run.folder)["OOD_mine_test.csv"] == before


@pytest.mark.parametrize("kind", ["broken", "missing", "broken folder"])
def test_a_touched_image_is_kept_without_the_flag_too(own_digits_run, root, tmp_path, kind):
    place = str(root) if kind == "broken folder" else make_list(tmp_path / "x.txt", root, range(6))
    path = root / "dog/3.png"
    break_file(path)
    if kind == "missing":
        path.unlink()
    extract(own_digits_run, "--ood", f"some={place}", "--skip-broken")
    before = modified(own_digits_run.folder)["OOD_some_test.csv"]
    (root / "dog/1.png").touch()
    words = ["--checkpoint", str(own_digits_run.checkpoint), "--device", "cpu"]
    words += ["--output-dir", str(own_digits_run.output_dir), "--ood", f"some={place}"]
    ended = shell(run_networks.main, *words)
    assert ended.code == 0, ended.err
    assert "made without 1 broken image (--skip-broken)" in ended.out
    assert modified(own_digits_run.folder)["OOD_some_test.csv"] == before
    write(root / "dog/1.png", np.zeros((9, 9, 3), np.uint8))
    ended = shell(run_networks.main, *words)
    assert ended.code == 2 and "3.png" in ended.err and "--skip-broken" in ended.err


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_and_extraction_leave_out_the_same_images(tmp_path, capsys):
    class_folders(tmp_path / "set", ("a", "b"), 30, (12, 12))
    for split, count in (("train", 32), ("test", 31)):
        names = [f"{split}/{c}/{n}.png {i}" for i, c in enumerate("ab") for n in range(count)]
        (tmp_path / f"{split}.txt").write_text("\n".join(names))
    break_file(tmp_path / "set/train/a/7.png")
    dataset = f"x={tmp_path}/{{split}}.txt@{tmp_path}/set"
    words = ["--dataset", dataset, "--device", "cpu", "--output-dir", str(tmp_path / "results")]
    small = ["--model", "resnet_cifar", "--epochs", "1", "--image-size", "8", "--batch-size", "20"]
    ended = shell(train.main, *words, *small)
    assert ended.code == 2 and "4 of the 64 images" in ended.err
    assert train.main([*words, *small, "--skip-broken"]) is None
    assert "x (train): 59 images; 5 broken images left out: train/a/7.png (" in (
        capsys.readouterr().out
    )
    checkpoint = tmp_path / "results/resnet_cifar_final_x_s0.pth"
    content = torch.load(checkpoint, weights_only=True)
    run_networks.main(["--checkpoint", str(checkpoint), *words[2:], "--skip-broken"])
    folder = tmp_path / "results" / checkpoint.stem
    parts = [read_csv(folder / f"ID_x_{split}.csv")["path"] for split in ("train", "val")]
    assert [len(part) for part in parts] == [54, 5] and content["images"] == 54
    assert not set(parts[0]) & set(parts[1])
    assert not {"train/a/7.png"} & {*parts[0], *parts[1]}
    assert len(read_csv(folder / "ID_x_test.csv")) == 60


def test_main_looks_for_the_data_with_the_same_flag(tmp_path):
    class_folders(tmp_path / "set", ("a", "b"), 2, (8, 8))
    chain = main.prepare(
        ["--dataset", f"x={tmp_path}/set", "--ood", "uniform", "--skip-broken", "--plan"]
    )
    assert "--skip-broken" in main.fetch_words(chain)
    assert "--skip-broken" in chain.words["train"] and "--skip-broken" in chain.words["extract"]


@pytest.mark.parametrize(
    ("count", "said"), [(0, ""), (1, "1 broken image ("), (2, "2 broken images (")]
)
def test_kept_features_say_how_many_images_they_lack(count, said):
    skipped = {f"{number}.png": "cut short" for number in range(count)}
    assert said in plan.without({"skipped": skipped}) and bool(said) == bool(skipped)
