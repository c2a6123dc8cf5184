"""data.py: what each set holds, how images become tensors, and how they are split.

The downloaded sets are read by torchvision's own classes from tiny files in their real formats;
nothing is downloaded here."""

import gzip
import hashlib
import http.client
import pickle
import shlex
import shutil
import subprocess
import tarfile
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from helpers import named
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_digits, load_sample_images
from torchvision.transforms import v2

import data
import noise_ood_datasets_generator
import run_networks
from images import reading

pytestmark = pytest.mark.usefixtures("one_thread")


def cut_moment(edge):
    """The integral of x^2 phi(x) from 0 to `edge`, by parts."""
    return norm.cdf(edge) - 0.5 - edge * norm.pdf(edge)


def plainly(size):
    """Preprocessing whose normalisation only divides by 255."""
    return data.Preprocessing(size, (0.0,) * 3, (1.0,) * 3)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- digits --------------------------------------------------------------------------------------


def digit(image):
    """8x8 values of 0 to 16 -> the bytes that the set should hold."""
    return np.round(image * 255 / 16).astype(np.uint8).tobytes()


def test_digits_are_split_into_1198_and_599_images_and_none_is_in_both():
    train, test = (data.digits(split, plainly(8), None) for split in ("train", "test"))
    assert (len(train), len(test)) == (1198, 599)
    found = Counter(image[0].numpy().tobytes() for part in (train, test) for image in part.pixels)
    assert found == Counter(digit(image) for image in load_digits().images)


def test_digits_keep_their_labels_and_their_order():
    whole = load_digits()
    number = {digit(image): index for index, image in enumerate(whole.images)}
    for split in ("train", "test"):
        images = data.digits(split, plainly(8), None)
        rows = [number[image[0].numpy().tobytes()] for image in images.pixels]
        assert rows == sorted(rows) and images.labels.tolist() == whole.target[rows].tolist()
        assert (images.pixels[:, 0] == images.pixels[:, 1]).all() and (
            images.pixels[:, 0] == images.pixels[:, 2]
        ).all()


def test_a_third_of_every_digit_is_in_the_test_set():
    counts = [
        torch.bincount(data.digits(split, plainly(8), None).labels, minlength=10)
        for split in ("train", "test")
    ]
    share = counts[1] / (counts[0] + counts[1])
    assert (share - 1 / 3).abs().max() < 0.01


def test_the_default_run_trains_on_866_digits_of_eight_classes():
    dataset = data.ID["digits"]
    train = data.load_id(dataset, "train", plainly(16), None, dataset.held_out)
    rows, val_rows = data.split_validation(len(train), dataset.val_size)
    assert (len(rows), len(val_rows), len(train.class_names)) == (866, 96, 8)
    assert len(data.load_id(dataset, "test", plainly(16), None, dataset.held_out)) == 481


def test_the_registered_mean_and_std_of_digits_are_those_of_its_training_images():
    dataset = data.ID["digits"]
    for held_out in ((), dataset.held_out):
        images = data.load_id(dataset, "train", plainly(dataset.size), None, held_out)
        mean, std = data.channel_statistics(images)
        assert mean == pytest.approx(dataset.mean, abs=0.01) and std == pytest.approx(
            dataset.std, abs=0.01
        )


# ---- held-out classes and validation images ------------------------------------------------------


def test_held_out_classes_leave_and_the_labels_of_the_rest_run_on_without_gaps():
    dataset = data.ID["digits"]
    whole = data.load_id(dataset, "train", plainly(8), None)
    kept = data.load_id(dataset, "train", plainly(8), None, ("0", "4", "9"))
    assert kept.class_names == ["1", "2", "3", "5", "6", "7", "8"]
    rows = [index for index, label in enumerate(whole.labels.tolist()) if label not in (0, 4, 9)]
    assert torch.equal(kept.pixels, whole.pixels[rows])
    assert [kept.class_names[label] for label in kept.labels] == [
        str(label) for label in whole.labels[rows].tolist()
    ]


def test_held_out_images_are_the_test_images_of_those_classes():
    dataset = data.ID["digits"]
    whole = data.load_id(dataset, "test", plainly(8), None)
    found = data.load_ood(named("held_out"), dataset, plainly(8), None, ("8", "9"))
    assert torch.equal(found.pixels, whole.pixels[whole.labels >= 8])
    assert found.labels.tolist() == [-1] * len(found.pixels) and found.class_names == ["8", "9"]


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (("8", "x"), "held-out class 'x' is not among the classes: 0, 1"),
        (tuple("123456789"), "leaves 1 classes to train on; at least 2"),
    ],
)
def test_impossible_held_out_classes_are_refused(held_out, message):
    with pytest.raises(ValueError, match=message):
        data.load_id(data.ID["digits"], "train", plainly(8), None, held_out)


@pytest.mark.parametrize(
    ("count", "val_size"), [(50_000, 5000), (962, 96), (7, 1), (7, 6), (10, 0)]
)
def test_the_validation_split_is_that_of_random_split_under_seed_42(count, val_size):
    lengths = [count - val_size, val_size]
    expected = torch.utils.data.random_split(
        range(count), lengths, generator=torch.Generator().manual_seed(42)
    )
    for found, subset in zip(data.split_validation(count, val_size), expected, strict=True):
        assert found.tolist() == list(subset.indices)


@pytest.mark.parametrize("val_size", [7, 8, -1])
def test_a_validation_split_that_leaves_nothing_is_refused(val_size):
    with pytest.raises(ValueError, match="--val-size"):
        data.split_validation(7, val_size)


# ---- embedded OOD sets ---------------------------------------------------------------------------


def test_photos_are_all_patches_of_64_pixels_at_every_32nd():
    expected, labels = [], []
    for index, image in enumerate(load_sample_images().images):
        for top in range(0, image.shape[0] - 63, 32):
            for left in range(0, image.shape[1] - 63, 32):
                expected.append(image[top : top + 64, left : left + 64])
                labels.append(index)
    found = data.photos("test", plainly(64), None)
    assert np.array_equal(found.pixels.permute(0, 2, 3, 1), np.stack(expected))
    assert found.labels.tolist() == labels and found.class_names == ["china", "flower"]


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("uniform", 127.5, 73.9), ("gaussian", 127.5, 61.0)]
)
def test_noise_has_its_distribution_and_is_the_same_in_every_run(name, mean, std):
    first, again = (data.OOD[name]("test", plainly(16), None) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    assert first.pixels.shape == (1000, 3, 16, 16) and first.pixels.dtype == torch.uint8
    assert (first.labels == -1).all() and first.class_names == []
    pixels = first.pixels.double()
    assert pixels.mean().item() == pytest.approx(
        mean, abs=0.7
    ) and pixels.std().item() == pytest.approx(std, abs=0.7)
    assert not torch.equal(first.pixels[0, 0], first.pixels[0, 1])


@pytest.mark.parametrize(
    ("kind", "std"),
    [
        ("uniform", np.sqrt((256**2 - 1) / 12)),  # of 256 values that are equally likely
        # of N(0, 1) cut to [-1/2, 1/2]: twice a quarter of each tail, and the middle
        ("gaussian", 255 * np.sqrt(0.5 * norm.sf(0.5) + 2 * cut_moment(0.5))),
    ],
)
def test_ten_thousand_images_of_noise_are_those_of_the_generator(tmp_path, kind, std):
    images = data.OOD[f"{kind}10k"]("test", plainly(4), None)
    assert images.pixels.shape == (10_000, 3, 4, 4) and images.pixels.dtype == torch.uint8
    assert (images.labels == -1).all() and images.content() == f"{kind}10k"
    words = ["--output-dir", str(tmp_path), "--image-size", "4", "--count", "20"]
    noise_ood_datasets_generator.main(words)
    written = data.image_folder(tmp_path / f"{kind}_noise", plainly(4)).in_memory()
    assert torch.equal(images.pixels[:20], written.pixels)
    pixels = images.pixels.double()
    assert pixels.mean().item() == pytest.approx(127.5, abs=0.7)
    assert pixels.std().item() == pytest.approx(std, abs=0.7)


@pytest.mark.parametrize("name", ["uniform", "gaussian", "uniform10k"])
def test_noise_is_never_resized(monkeypatch, name):
    monkeypatch.setattr(data.noise, "COUNT", 20)
    through_more = data.Preprocessing(8, (0.0,) * 3, (1.0,) * 3, crop_share=0.8)
    found = data.OOD[name]("test", through_more, None)
    assert torch.equal(found.pixels, data.OOD[name]("test", plainly(8), None).pixels)


@pytest.mark.parametrize("name", ["digits", "photos", "uniform", "gaussian"])
def test_every_set_comes_in_the_size_that_is_asked_for(name):
    load = data.ID[name].load if name in data.ID else data.OOD[name]
    images = load("test", plainly(24), None)
    assert images.pixels.shape == (len(images), 3, 24, 24) and images.pixels.dtype == torch.uint8
    assert torch.equal(torch.cat(list(images.batches(101))), images.pixels)


# ---- downloaded sets, read from tiny files in their real formats ---------------------------------


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_cifar(root, monkeypatch, name):
    """Files of CIFAR's format with 20 training and 5 test images -> {split: (pixels (N, 3, 32, 32),
    labels)}."""
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    folder, key = root / kind.base_folder, "labels" if name == "cifar10" else "fine_labels"
    names = [f"class {index}" for index in range(10)]
    folder.mkdir(parents=True)
    made = {}
    for split, count in (("train", 20), ("test", 5)):
        pixels, labels = noise(count, 3, 32, 32, seed=count), [index % 10 for index in range(count)]
        (folder / split).write_bytes(pickle.dumps({"data": pixels.reshape(count, -1), key: labels}))
        monkeypatch.setattr(kind, f"{split}_list", [[split, md5(folder / split)]])
        made[split] = pixels, labels
    (folder / "names").write_bytes(pickle.dumps({"names": names}))
    monkeypatch.setattr(
        kind, "meta", {"filename": "names", "key": "names", "md5": md5(folder / "names")}
    )
    return made


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_files(tmp_path, monkeypatch, name):
    made = make_cifar(tmp_path, monkeypatch, name)
    for split in ("train", "test"):
        images = data.load_id(data.ID[name], split, plainly(32), tmp_path)
        assert (
            np.array_equal(images.pixels, made[split][0])
            and images.labels.tolist() == made[split][1]
        )
        assert (
            images.class_names == [f"class {index}" for index in range(10)]
            and images.source == name
        )
    ood = data.load_ood(named(name), data.ID["digits"], plainly(32), tmp_path)
    assert np.array_equal(ood.pixels, made["test"][0])


def test_svhn_is_read_from_its_files_with_the_zero_as_zero(tmp_path, monkeypatch):
    pixels, labels = noise(6, 32, 32, 3), np.array([1, 2, 10, 9, 10, 5])
    (tmp_path / "svhn").mkdir()
    file = tmp_path / "svhn" / "test_32x32.mat"
    scipy.io.savemat(file, {"X": pixels.transpose(1, 2, 3, 0), "y": labels[:, None]})
    monkeypatch.setitem(
        torchvision.datasets.SVHN.split_list, "test", ("http://x", file.name, md5(file))
    )
    images = data.load_ood(named("svhn"), data.ID["digits"], plainly(32), tmp_path)
    assert (
        np.array_equal(images.pixels.permute(0, 2, 3, 1), pixels)
        and images.labels.tolist() == [-1] * 6
    )
    assert images.class_names == list("0123456789")
    assert data.svhn("test", plainly(32), tmp_path).labels.tolist() == [1, 2, 0, 9, 0, 5]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_from_its_files_in_three_equal_channels(tmp_path, packed):
    pixels, labels, raw = (
        noise(4, 28, 28),
        np.array([3, 1, 4, 1], np.uint8),
        tmp_path / "MNIST" / "raw",
    )
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name, magic, array in (("images-idx3", 2051, pixels), ("labels-idx1", 2049, labels)):
            content = (
                b"".join(number.to_bytes(4, "big") for number in (magic, *array.shape))
                + array.tobytes()
            )
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            if packed:
                (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    images = data.load_ood(named("mnist"), data.ID["digits"], plainly(28), tmp_path)
    assert images.pixels.shape == (4, 3, 28, 28) and images.labels.tolist() == [-1] * 4
    assert data.mnist("test", plainly(28), tmp_path).labels.tolist() == labels.tolist()
    assert all(np.array_equal(images.pixels[:, channel], pixels) for channel in range(3))


def test_textures_are_all_images_of_dtd_with_their_paths(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / "dtd" / "dtd" / "labels").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dtd" / "dtd" / "labels" / f"{split}1.txt").write_text(
            f"dotted/dotted_{split}.jpg\n"
        )
        folder = tmp_path / "dtd" / "dtd" / "images" / "dotted"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(40, 50, 3)).save(folder / f"dotted_{split}.jpg")
    for name in ("textures", "dtd", "Texture"):
        images = data.load_ood(named(name), data.ID["digits"], plainly(32), tmp_path)
        assert images.paths == [
            "dotted/dotted_test.jpg",
            "dotted/dotted_train.jpg",
            "dotted/dotted_val.jpg",
        ]
        assert images.labels.tolist() == [-1, -1, -1] and images.class_names == ["dotted"]


def unplug(monkeypatch, error=URLError, *arguments):
    """Make every attempt to reach a server end in this error."""

    def fail(*_, **__):
        raise error(*arguments)

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "."),
        ("cifar100", "cifar-100-python.tar.gz", "."),
        ("svhn", "test_32x32.mat", "svhn"),
        ("mnist", "t10k-images-idx3-ubyte.gz", "MNIST/raw"),
        ("textures", "dtd-r1.0.1.tar.gz", "dtd"),
    ],
)
def test_a_failed_download_says_which_file_to_put_where(tmp_path, monkeypatch, name, file, folder):
    unplug(monkeypatch, URLError, "no route to host")
    with pytest.raises(ValueError) as caught:
        data.load_ood(named(name), data.ID["digits"], plainly(32), tmp_path)
    text = str(caught.value)
    assert text.startswith(name) and file in text and "http" in text and "no route to host" in text
    assert text.endswith(f"put it into {tmp_path / folder}") and "could not be downloaded" in text


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TimeoutError, ["timed out"]),
        (ConnectionResetError, ["reset"]),
        (http.client.IncompleteRead, [b""]),
        (http.client.RemoteDisconnected, ["closed"]),
    ],
)
def test_a_broken_connection_is_a_failed_download_too(tmp_path, monkeypatch, error, arguments):
    unplug(monkeypatch, error, *arguments)
    with pytest.raises(ValueError, match=r"test_32x32\.mat"):
        data.load_ood(named("svhn"), data.ID["digits"], plainly(32), tmp_path)


# ---- downloaded sets that are broken, or somewhere else ------------------------------------------


def make_svhn(root, monkeypatch):
    (root / "svhn").mkdir(parents=True)
    file = root / "svhn" / "test_32x32.mat"
    scipy.io.savemat(file, {"X": noise(32, 32, 3, 6), "y": np.arange(6)[:, None]})
    monkeypatch.setitem(
        torchvision.datasets.SVHN.split_list, "test", ("http://x", file.name, md5(file))
    )
    return file


def make_mnist(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name, magic, array in (
            ("images-idx3", 2051, noise(4, 28, 28)),
            ("labels-idx1", 2049, np.arange(4, dtype=np.uint8)),
        ):
            content = (
                b"".join(number.to_bytes(4, "big") for number in (magic, *array.shape))
                + array.tobytes()
            )
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
    return raw / "t10k-images-idx3-ubyte"


def make_dtd(root):
    for split in ("train", "val", "test"):
        labels = root / "dtd" / "dtd" / "labels" / f"{split}1.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(f"dotted/dotted_{split}.jpg\n")
        save(root / "dtd" / "dtd" / "images" / "dotted" / f"dotted_{split}.jpg", noise(40, 50, 3))
    return root / "dtd" / "dtd" / "images" / "dotted" / "dotted_val.jpg"


def make(name, root, monkeypatch):
    """A tiny set as its publisher lays it out -> one of its files."""
    if name in ("cifar10", "cifar100"):
        make_cifar(root, monkeypatch, name)
        return root / getattr(torchvision.datasets, name.upper()).base_folder / "test"
    return {
        "svhn": make_svhn,
        "textures": lambda root, _: make_dtd(root),
        "mnist": lambda root, _: make_mnist(root),
    }[name](root, monkeypatch)


DOWNLOADED = ["cifar10", "cifar100", "svhn", "mnist", "textures"]
IN_MEMORY = ["cifar10", "cifar100", "svhn", "mnist"]


def no_network(monkeypatch):
    """Fail where a server would be asked at all."""

    def fail(*_, **__):
        raise AssertionError("a server was asked")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


def refusal(name, root):
    with pytest.raises(ValueError) as caught:
        data.load_ood(named(name), data.ID["digits"], plainly(32), root)
    assert "could not be downloaded" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", [0, 100, -1])
@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_set_that_is_cut_short_is_broken_and_is_left_as_it_is(
    tmp_path, monkeypatch, name, length
):
    file = make(name, tmp_path, monkeypatch)
    content = file.read_bytes()[:length]
    file.write_bytes(content)
    no_network(monkeypatch)
    message = refusal(name, tmp_path)
    assert message.startswith(f"{name} is broken: {file} ({len(content):,} bytes)")
    assert (
        f"rm {file}; then get it anew with: python run_networks.py --fetch --dataset digits --ood"
        f" {name} " in message
    )
    assert f" --data-dir {tmp_path}, or fetch " in message
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", DOWNLOADED)
def test_the_command_that_a_broken_set_names_is_one_that_run_networks_takes(
    tmp_path, monkeypatch, name
):
    file = make(name, tmp_path / "two words", monkeypatch)
    file.unlink() if name == "textures" else file.write_bytes(b"half")
    no_network(monkeypatch)
    words = shlex.split(
        refusal(name, tmp_path / "two words")
        .partition("anew with: python ")[2]
        .partition(", or fetch")[0]
    )
    args = run_networks.parse_args(words[1:])
    assert args.fetch and args.ood == [named(name)] and args.data_dir == str(tmp_path / "two words")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_a_set_of_which_a_file_is_missing_says_which(tmp_path, monkeypatch, name):
    file = make(name, tmp_path, monkeypatch)
    file.unlink()
    unplug(monkeypatch, URLError, "no route to host")
    message = refusal(name, tmp_path)
    assert message.startswith(
        f"{name} is in {tmp_path} only in part: {file.relative_to(tmp_path)} is missing; get the"
        " rest"
    )


def test_textures_of_which_images_are_missing_are_cut_short(tmp_path, monkeypatch):
    file = make("textures", tmp_path, monkeypatch)
    file.unlink()
    no_network(monkeypatch)
    assert refusal("textures", tmp_path).startswith(
        f"textures (DTD) is cut short: 1 of its 3 images are missing, first {file}. Remove it with:"
        f" rm -r {tmp_path}/dtd/dtd; "
    )
    (tmp_path / "dtd" / "dtd" / "labels" / "val1.txt").unlink()
    assert "1 of its 3 lists are missing" in refusal("textures", tmp_path)


@pytest.mark.parametrize("where", ["below", "above"])
@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_data_dir_one_level_off_says_where_the_set_was_found(tmp_path, monkeypatch, name, where):
    root = tmp_path / "my sets"
    make(name, root, monkeypatch)
    no_network(monkeypatch)
    given = tmp_path if where == "below" else root / "other"
    given.mkdir(exist_ok=True)
    message = refusal(name, given)
    assert f"was looked for in {given} and found in {root} (" in message
    assert message.endswith(f"give --data-dir '{root}'")
    assert data.load_ood(named(name), data.ID["digits"], plainly(32), root).labels.tolist()


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "svhn"),
        ("mnist", "MNIST"),
        ("mnist", "MNIST/raw"),
        ("textures", "dtd"),
        ("textures", "dtd/dtd"),
    ],
)
def test_a_data_dir_that_is_the_sets_own_folder_says_which_to_give(
    tmp_path, monkeypatch, name, inside
):
    make(name, tmp_path, monkeypatch)
    no_network(monkeypatch)
    assert refusal(name, tmp_path / inside).endswith(f"give --data-dir {tmp_path}")


def test_files_that_lie_loose_are_named_with_the_command_that_moves_them(tmp_path, monkeypatch):
    file = make_svhn(tmp_path / "elsewhere", monkeypatch)
    root = tmp_path / "sets"
    root.mkdir()
    file.rename(root / file.name)
    no_network(monkeypatch)
    command = refusal("svhn", root).partition("move it with: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert len(data.load_ood(named("svhn"), data.ID["digits"], plainly(32), root)) == 6


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_data_dir_that_is_called_tilde_is_not_the_home_folder(tmp_path, monkeypatch, name):
    make(name, tmp_path / "~", monkeypatch)
    no_network(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    assert len(data.load_ood(named(name), data.ID["digits"], plainly(32), "./~")) > 0


@pytest.mark.parametrize("error", [URLError("reset"), KeyboardInterrupt()])
def test_a_download_that_ends_early_leaves_nothing_half_written(tmp_path, monkeypatch, error):
    def half(url, root, **_):
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / "test_32x32.mat").write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(torchvision.datasets.svhn, "download_url", half)
    with pytest.raises((ValueError, KeyboardInterrupt)) as caught:
        data.load_ood(named("svhn"), data.ID["digits"], plainly(32), tmp_path)
    assert not (tmp_path / "svhn" / "test_32x32.mat").exists()
    assert isinstance(error, KeyboardInterrupt) or "could not be downloaded" in str(caught.value)


def test_an_archive_at_hand_is_unpacked_without_a_server(tmp_path, monkeypatch):
    made = make_cifar(tmp_path / "made", monkeypatch, "cifar10")
    kind = torchvision.datasets.CIFAR10
    (tmp_path / "sets").mkdir()
    with tarfile.open(tmp_path / "sets" / kind.filename, "w:gz") as archive:
        archive.add(tmp_path / "made" / kind.base_folder, kind.base_folder)
    shutil.rmtree(tmp_path / "made")
    monkeypatch.setattr(kind, "tgz_md5", md5(tmp_path / "sets" / kind.filename))
    no_network(monkeypatch)
    images = data.load_ood(named("cifar10"), data.ID["digits"], plainly(32), tmp_path / "sets")
    assert np.array_equal(images.pixels, made["test"][0])
    (tmp_path / "sets" / kind.filename).write_bytes(b"half an archive")
    shutil.rmtree(tmp_path / "sets" / kind.base_folder)
    assert refusal("cifar10", tmp_path / "sets").startswith(
        f"cifar10 is broken: {tmp_path}/sets/cifar-10-python.tar.gz (15 bytes)"
    )


# ---- labels and sources of OOD sets --------------------------------------------------------------


@pytest.mark.parametrize("name", DOWNLOADED)
def test_every_row_of_a_named_ood_set_has_label_minus_one(tmp_path, monkeypatch, name):
    make(name, tmp_path, monkeypatch)
    images = data.load_ood(named(name), data.ID["digits"], plainly(32), tmp_path)
    assert images.labels.tolist() == [-1] * len(images) and images.labels.dtype == torch.int64
    assert data.source_of(named(name), tmp_path) == images.source and images.class_names


@pytest.mark.parametrize("name", ["photos", "uniform", "gaussian", "held_out"])
def test_every_row_of_an_embedded_ood_set_has_label_minus_one(name):
    images = data.load_ood(named(name), data.ID["digits"], plainly(16), None, ("8", "9"))
    assert (images.labels == -1).all() and len(images.labels) == len(images.pixels) > 100
    assert images.class_names == {"photos": ["china", "flower"], "held_out": ["8", "9"]}.get(
        name, []
    )
    assert images.content() == images.source == ("digits" if name == "held_out" else name)


def test_a_row_of_an_ood_folder_has_label_minus_one_and_its_class_is_the_first_folder(folder):
    images = data.load_ood(named(f"mine={folder}"), data.ID["digits"], plainly(20), None)
    assert images.labels.tolist() == [-1] * 6 and images.class_names == ["ant", "zebra"]
    assert [path.partition("/")[0] for path in images.paths] == [
        "ant",
        "ant",
        "ant",
        "top.png",
        "zebra",
        "zebra",
    ]
    assert torch.equal(
        images.in_memory().pixels, data.image_folder(folder, plainly(20)).in_memory().pixels
    )


def test_the_source_of_a_set_is_known_without_its_pixels(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "read", None)
    assert (
        data.source_of(named(f"mine={folder}"), None)
        == data.image_folder(folder, plainly(20)).source
    )
    assert (
        data.source_of(named(f"mine={tmp_path / 'absent'}"), None) is None
        and data.source_of(named("dtd"), tmp_path) is None
    )
    assert data.source_of(named("SVHN"), tmp_path) == "svhn"


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "held_out", "message"),
    [
        (["svnh"], (), "unknown OOD set 'svnh'; expected one of svhn, textures"),
        (["cifar10"], (), "cifar10 is the in-distribution set"),
        (["CIFAR-10"], (), "cifar10 is the in-distribution set"),
        (["held_out"], (), "--held-out"),
        (["dtd", "textures"], (), "textures is named twice"),
        (["mine=absent/folder"], (), "absent/folder is not a folder"),
        (["mine="], (), "'mine=' is neither a name nor NAME=FOLDER"),
        (["a/b=tests"], (), "neither a name nor NAME=FOLDER"),
    ],
)
def test_impossible_ood_sets_are_refused(tmp_path, texts, held_out, message):
    with pytest.raises(ValueError, match=message):
        data.check_ood(list(map(named, texts)), "cifar10", tmp_path, held_out)


def test_ood_names_are_resolved_in_their_order(tmp_path):
    sets = [named(text) for text in (f"mine={tmp_path}", "DTD", "svhn", "held-out")]
    data.check_ood(sets, "digits", tmp_path, ("8",))
    assert [asked.name for asked in sets] == ["mine", "textures", "svhn", "held_out"]


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match=(
            "unknown data set 'cifar1000'; expected one of digits, cifar10, cifar100, imagenette,"
            " imagenet200, imagenet, or NAME=FOLDER"
        ),
    ):
        data.id_set(named("cifar1000"), None)


# ---- folders of images ---------------------------------------------------------------------------


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Nested, written out of order, with files that are no images; PNG, so that pixels come back as
    they were."""
    root = tmp_path / "photographs"
    for seed, name in enumerate(
        ["zebra/2.png", "ant/b/deep.png", "ant/1.PNG", "zebra/10.png", "top.png", "ant/b/a.png"]
    ):
        save(root / name, noise(20, 20, 3, seed=seed))
    (root / "zebra" / "notes.txt").write_text("no image")
    (root / "ant" / ".hidden.png").write_bytes(b"no image either")
    (root / "empty").mkdir()
    return root


def test_a_folder_is_read_at_any_depth_in_sorted_order_with_the_first_level_as_labels(folder):
    images = data.image_folder(folder, plainly(20))
    assert images.paths == [
        "ant/1.PNG",
        "ant/b/a.png",
        "ant/b/deep.png",
        "top.png",
        "zebra/10.png",
        "zebra/2.png",
    ]
    assert images.class_names == ["ant", "zebra"] and images.labels.tolist() == [0, 0, 0, -1, 1, 1]
    expected = [noise(20, 20, 3, seed=seed) for seed in (2, 5, 1, 4, 3, 0)]
    for batch_size in (1, 4, 100):
        pixels = torch.cat(list(images.batches(batch_size)))
        assert np.array_equal(pixels.permute(0, 2, 3, 1), np.stack(expected))
    assert (
        torch.equal(images.in_memory().pixels, pixels)
        and images.in_memory().labels.tolist() == images.labels.tolist()
    )


def test_images_of_a_folder_can_be_taken_by_index(folder):
    images = data.image_folder(folder, plainly(20))
    taken = images.take(torch.tensor([4, 1]))
    assert (
        taken.paths == ["zebra/10.png", "ant/b/a.png"]
        and taken.labels.tolist() == [1, 0]
        and len(taken) == 2
    )
    assert torch.equal(taken.in_memory().pixels, images.in_memory().pixels[[4, 1]])


def test_a_test_folder_keeps_the_classes_of_the_training_folder(folder):
    images = data.image_folder(folder, plainly(20), ["yak", "zebra", "ant"])
    assert images.class_names == ["yak", "zebra", "ant"] and images.labels.tolist() == [
        2,
        2,
        2,
        -1,
        1,
        1,
    ]
    with pytest.raises(
        ValueError, match="has the class folder 'zebra', which the training images do not have"
    ):
        data.image_folder(folder, plainly(20), ["ant", "bee"])


def test_folders_that_are_hidden_are_passed_over_like_hidden_files(folder):
    save(folder / ".ipynb_checkpoints" / "1-checkpoint.png", noise(8, 8, 3))
    images = data.image_folder(folder, plainly(20))
    assert images.class_names == ["ant", "zebra"] and len(images) == 6


def test_a_folder_whose_name_ends_like_an_image_is_a_class(tmp_path):
    save(tmp_path / "scans.tif" / "1.png", noise(8, 8, 3))
    images = data.image_folder(tmp_path, plainly(8))
    assert images.paths == ["scans.tif/1.png"] and images.class_names == ["scans.tif"]


def test_every_kind_of_image_becomes_three_channels(tmp_path):
    colour, grey = noise(12, 12, 3), noise(12, 12)
    alpha = np.dstack([colour, noise(12, 12, seed=1)])
    few = Image.fromarray(colour).quantize(16)
    save(tmp_path / "a_rgb.png", colour)
    save(tmp_path / "b_grey.png", grey)
    save(tmp_path / "c_rgba.png", alpha)
    save(tmp_path / "d_palette.png", few)
    save(tmp_path / "e_grey_alpha.png", Image.fromarray(grey).convert("LA"))
    save(tmp_path / "f_bits.png", Image.fromarray(grey).convert("1"))
    save(tmp_path / "g_cmyk.tif", Image.fromarray(colour).convert("CMYK"))
    pixels = data.image_folder(tmp_path, plainly(12)).in_memory().pixels.permute(0, 2, 3, 1).numpy()
    three = np.dstack([grey] * 3)
    bits = np.asarray(Image.fromarray(grey).convert("1").convert("RGB"))
    for found, expected in zip(
        pixels,
        [colour, three, colour, np.asarray(few.convert("RGB")), three, bits, colour],
        strict=True,
    ):
        assert np.array_equal(found, expected)


def test_sixteen_bit_grey_is_scaled_and_not_cut_off(tmp_path):
    values = np.linspace(0, 65535, 144).astype(np.uint16).reshape(12, 12)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = data.image_folder(tmp_path, plainly(12)).in_memory().pixels[0, 0].numpy()
    assert np.abs(pixels.astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize(
    "content", [b"", b"this is text", None], ids=["empty", "text", "truncated"]
)
def test_an_unreadable_image_is_named(folder, content):
    if content is None:
        content = (folder / "zebra" / "2.png").read_bytes()[:400]
    (folder / "zebra" / "2.png").write_bytes(content)
    images = data.image_folder(folder, plainly(20))
    with pytest.raises(ValueError, match=r"zebra/2\.png cannot be read as an image"):
        list(images.batches(3))


def test_an_image_of_absurd_size_is_named(folder, monkeypatch):
    save(folder / "ant" / "1.PNG", noise(30, 30, 3))
    monkeypatch.setattr(reading, "max_pixels", 899)
    with pytest.raises(
        ValueError,
        match=r"ant/1\.PNG cannot be read as an image \(30 x 30 pixels, more than --max-pixels 899",
    ):
        list(data.image_folder(folder, plainly(20)).batches(3))


@pytest.mark.parametrize("files", [[], ["notes.txt", "movie.mp4"]])
def test_a_folder_without_images_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=r"holds no images; expected files ending in .*\.png"):
        data.image_folder(tmp_path, plainly(8))


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="absent is not a folder; expected a folder of images, or one image"
    ):
        data.image_folder(tmp_path / "absent", plainly(8))


def test_the_source_of_a_folder_changes_with_its_files(folder):
    before = data.image_folder(folder, plainly(20)).source
    assert data.image_folder(folder, plainly(20)).source == before
    save(folder / "top.png", noise(21, 20, 3))
    changed = data.image_folder(folder, plainly(20)).source
    (folder / "top.png").rename(folder / "summit.png")
    assert len({before, changed, data.image_folder(folder, plainly(20)).source}) == 3


def class_folder(root, classes=("ant", "bee"), train=6, test=2, size=10):
    """root/{train,test}/<class>/<i>.png -> the training pixels (N, S, S, 3) in order."""
    made = []
    for split, count in (("train", train), ("test", test)):
        for number, name in enumerate(classes):
            for index in range(count):
                pixels = noise(size, size, 3, seed=100 * number + index) // (number + 1)
                save(root / split / name / f"{index}.png", pixels)
                made += [pixels] if split == "train" else []
    return np.stack(made)


def test_a_folder_of_class_folders_is_an_id_set_with_its_own_statistics(tmp_path):
    pixels = class_folder(tmp_path) / 255
    dataset = data.id_set(named(f"insects={tmp_path}"), None, 10)
    assert dataset.size == 10 and dataset.val_size == 1
    assert dataset.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=5.1e-5)
    assert dataset.std == pytest.approx(pixels.std((0, 1, 2)), abs=5.1e-5)
    train, test = (data.load_id(dataset, split, plainly(10), None) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["ant", "bee"]
    assert train.labels.tolist() == [0] * 6 + [1] * 6 and test.labels.tolist() == [0, 0, 1, 1]


def test_a_folder_of_one_class_is_no_id_set(tmp_path):
    class_folder(tmp_path, ("ant",))
    with pytest.raises(
        ValueError,
        match="train must hold one folder of images per class, at least two; found 1 class folders",
    ):
        data.id_set(named(f"insects={tmp_path}"), None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_beside_the_class_folders_are_refused_before_any_is_decoded(
    tmp_path, monkeypatch, split
):
    class_folder(tmp_path)
    save(tmp_path / split / "left over.png", noise(8, 8, 3))
    save(tmp_path / split / "other.png", noise(8, 8, 3))
    monkeypatch.setattr(reading, "read", None)
    with pytest.raises(
        ValueError, match=rf"{split} holds left over\.png and 1 more beside its class folders"
    ) as caught:
        data.id_set(named(f"insects={tmp_path}"), None)
    monkeypatch.undo()
    subprocess.run(["sh", "-c", str(caught.value).partition(" with: ")[2]], check=True)
    assert (
        len(data.id_set(named(f"insects={tmp_path}"), None).load(split, plainly(10), None))
        == {"train": 12, "test": 4}[split]
    )


def test_class_names_that_look_like_formulas_and_numbers_stay_text(tmp_path):
    names = ["007", "1e5", "=1+1", "@SUM(A1)"]
    class_folder(tmp_path, names)
    dataset = data.id_set(named(f"odd={tmp_path}"), None, 10)
    for split, count in (("train", 6), ("test", 2)):
        images = data.load_id(dataset, split, plainly(10), None)
        assert images.class_names == names and images.labels.tolist() == [
            label for label in range(4) for _ in range(count)
        ]


def test_an_id_folder_without_its_training_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train is not a folder"):
        data.id_set(named(f"insects={tmp_path}"), None)


def test_a_channel_that_never_changes_stays_finite(tmp_path):
    for name in ("ant", "bee"):
        pixels = noise(6, 6, 3, seed=len(name))
        pixels[..., 2] = 0  # as in two-channel microscopy
        for split in ("train", "test"):
            save(tmp_path / split / name / "1.png", pixels)
    dataset = data.id_set(named(f"cells={tmp_path}"), None, 6)
    preprocessing = data.Preprocessing(6, dataset.mean, dataset.std)
    images = data.load_id(dataset, "train", preprocessing, None).in_memory()
    assert preprocessing.normalise(images.pixels).isfinite().all()


# ---- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (9, 13), (32, 50), (32, 32), (224, 150)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_preprocessing_equals_torchvisions_resize_crop_and_normalise(shape, interpolation):
    pixels = noise(*shape, 3)
    preprocessing = data.Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    expected = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(32, mode),
            torchvision.transforms.CenterCrop(32),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )(Image.fromarray(pixels))
    resized = v2.functional.pil_to_tensor(preprocessing.resize(Image.fromarray(pixels)))
    found = preprocessing.normalise(resized[None])
    assert found.dtype == torch.float32 and torch.allclose(found[0], expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (32, 50), (32, 32), (28, 28), (100, 150)])
def test_a_crop_share_resizes_to_more_and_crops_the_centre(shape):
    pixels = noise(*shape, 3)
    preprocessing = data.Preprocessing(28, (0.5,) * 3, (0.25,) * 3, "bicubic", 0.875)
    mode = torchvision.transforms.InterpolationMode.BICUBIC
    expected = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(32, mode), torchvision.transforms.CenterCrop(28)]
    )
    assert (
        preprocessing.resized == 32
        and data.Preprocessing(224, (), (), crop_share=0.875).resized == 256
    )
    image = Image.fromarray(pixels)
    assert np.array_equal(preprocessing.resize(image), expected(image))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    whole = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(28)])(tensor)
    assert torch.equal(preprocessing.resize(tensor), whole)


def test_normalising_is_a_subtraction_and_a_division_and_leaves_its_input_alone():
    preprocessing = data.Preprocessing(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    mean, std = (
        torch.tensor(values).view(3, 1, 1) * 255
        for values in (preprocessing.mean, preprocessing.std)
    )
    for images in (
        torch.from_numpy(noise(5, 3, 16, 16)),
        torch.from_numpy(noise(5, 3, 16, 16)).float(),
    ):
        before, found = images.clone(), preprocessing.normalise(images)
        assert torch.equal(found, torch.stack([(image.float() - mean) / std for image in images]))
        assert torch.equal(images, before) and found.is_contiguous(
            memory_format=torch.channels_last
        )


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (64, 64), (48, 32)])
def test_arrays_and_files_of_the_same_image_come_out_alike(shape):
    pixels, preprocessing = noise(5, *shape, 3), plainly(32)
    images = data.from_arrays(pixels, np.arange(5), [], "x", preprocessing)
    one = [
        v2.functional.pil_to_tensor(preprocessing.resize(Image.fromarray(image)))
        for image in pixels
    ]
    assert images.pixels.shape == (5, 3, 32, 32)
    assert (images.pixels.int() - torch.stack(one).int()).abs().max() <= 1  # two roundings to bytes


def test_the_preprocessing_of_a_checkpoint_comes_back_whole():
    preprocessing = data.Preprocessing(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.875)
    assert data.Preprocessing(**preprocessing.as_dict()) == preprocessing


def test_channel_statistics_equal_those_of_float64():
    pixels = noise(300, 3, 8, 8) // torch.tensor([1, 2, 5]).view(3, 1, 1).numpy()
    mean, std = data.channel_statistics(
        data.Images(torch.from_numpy(pixels), torch.zeros(300), [], "x")
    )
    exact = pixels.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert mean == pytest.approx(exact.mean(1), abs=5.1e-5) and std == pytest.approx(
        exact.std(1), abs=5.1e-5
    )


def imagenets_form(folder, splits):
    """<split>/<class>/1.png for two classes in each split."""
    for split in splits:
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / split / name / "1.png")
    return named(f"mine={folder}")


@pytest.mark.parametrize(
    ("splits", "serves"), [(("train", "val"), "val"), (("train", "val", "test"), "test")]
)
def test_val_is_the_test_set_where_there_is_no_other(tmp_path, splits, serves):
    mine = imagenets_form(tmp_path / "my photos", splits)
    dataset = data.id_set(mine, tmp_path)
    images = data.load_id(dataset, "test", data.Preprocessing(8, (0.0,) * 3, (1.0,) * 3), tmp_path)
    assert images.root == tmp_path / "my photos" / serves
    assert len(images) == 2 and images.class_names == ["cat", "dog"]
    assert mine.split("test").folder == str(images.root)
    assert data.source_of(mine.split("test"), tmp_path) == images.source


def test_a_folder_without_either_is_refused_with_both_forms(tmp_path):
    mine = imagenets_form(tmp_path / "my photos", ("train",))
    with pytest.raises(ValueError, match=r"test is not a folder; .*as ImageNet has it, .*/val\)"):
        data.id_set(mine, tmp_path)
