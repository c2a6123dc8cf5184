"""extraction/head_rows.py: which rows of a large head the data's classes are, and what an
extraction makes of them."""

import shlex
import shutil

import numpy as np
import pytest
import timm
import torch
from helpers import class_folders, read_csv, saved, shell

import feature_files
import run_networks
from artifacts import records
from extraction import head_rows
from extraction.head_rows import Named, Rows
from images import reading
from networks import classifiers, wordnet

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN = Named(["cat", "dog", "eel", "fox"], "the names in a list")
# Rows 217, 0 and 999 of ImageNet's 1,000, as folders sort them.
IDS = ["n01440764", "n02102040", "n15075141"]
ROWS = [0, 217, 999]


# ---- choosing ------------------------------------------------------------------------------------


def test_rows_are_chosen_by_name_in_label_order():
    found = head_rows.choose(KNOWN, ["fox", "cat"])
    assert found == Rows(["fox", "cat"], [3, 0], KNOWN.names, KNOWN.by)
    W, b = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    own_W, own_b = found.of(W, b)
    np.testing.assert_array_equal(own_W, [[6, 7], [0, 1]])
    np.testing.assert_array_equal(own_b, [3, 0])


def test_all_rows_in_their_order_are_no_choice():
    found = head_rows.choose(KNOWN, KNOWN.names)
    assert found.rows is None and found.whole is None and found.said() == ""
    W, b = np.ones((4, 2)), np.zeros(4)
    assert found.of(W, b)[0] is W and found.of(W, b)[1] is b


def test_all_rows_in_another_order_are_sorted_by_name():
    assert head_rows.choose(KNOWN, ["dog", "cat", "fox", "eel"]).rows == [1, 0, 3, 2]


def test_classes_that_no_row_has_are_named():
    with pytest.raises(
        ValueError, match=r"3 classes, 2 are not among the 4 .*: ant, bee; it knows"
    ):
        head_rows.choose(KNOWN, ["ant", "bee", "cat"])


def test_imagenets_heads_are_known_by_their_size():
    known = head_rows.by_size(1000, IDS)
    assert head_rows.choose(known, IDS).rows == ROWS
    assert head_rows.by_size(1000, ["tench", *IDS]) is None
    assert head_rows.by_size(999, IDS) is None


def test_what_is_said_has_the_words_of_the_ids():
    said = head_rows.choose(head_rows.by_size(1000, IDS), IDS).said(2)
    assert said == (
        "3 of the classifier's 1,000, by the WordNet ids of the folders: n01440764 (tench),"
        " n02102040 (English springer) and 1 more"
    )


# ---- a list --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("n01440764 tench, Tinca tinca", "n01440764"),
        ("n01440764", "n01440764"),
        ("great white shark", "great white shark"),
        ("dog, a pet", "dog"),
        ("dog\ta pet", "dog"),
        ("  cat  ", "cat"),
    ],
)
def test_a_line_names_one_class(line, name):
    assert head_rows.name_in(line) == name


def test_a_list_names_every_row(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffcat\ndog, a pet\n\neel\nfox\n", encoding="utf-8")
    found = head_rows.read_list(str(tmp_path / "list.txt"), 4)
    assert found == Named(["cat", "dog", "eel", "fox"], "the names in list.txt")


def test_a_class_of_the_data_may_have_a_comma_in_its_name(tmp_path):
    (tmp_path / "list.txt").write_text("cat, black\ndog, a pet\ncat, white\n")
    of_data = ["cat, black", "cat, white"]
    found = head_rows.read_list(str(tmp_path / "list.txt"), 3, of_data)
    assert found.names == ["cat, black", "dog", "cat, white"]
    assert head_rows.choose(found, of_data).rows == [0, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ndog\n", "has 2 lines, and the classifier has 3 rows"),
        (b"cat\ndog\ncat\n", "names cat more than once"),
        (b"\xff\xfe\xfa\n", "cannot be read as text"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        head_rows.read_list(str(tmp_path / "list.txt"), 3)


# ---- an extraction -------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """A network of ImageNet's 1,000 classes, and folders of three of them."""
    torch.manual_seed(4)
    network = timm.create_model("test_resnet").eval()
    path = saved(tmp_path, network.state_dict(), "large.pth")
    class_folders(tmp_path / "three", IDS, 3, (40, 36))
    class_folders(tmp_path / "other", ["x"], 3, (40, 36))
    return network, path


def words(tmp_path, path, *more):
    return [
        *("--checkpoint", str(path), "--model", "timm/test_resnet", "--image-size", "32"),
        *("--dataset", f"three={tmp_path / 'three'}", "--ood", f"other={tmp_path / 'other'}"),
        *("--output-dir", str(tmp_path / "results"), "--device", "cpu", *more),
    ]


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
def test_three_classes_of_a_thousand_are_extracted(large, tmp_path, capsys):
    network, path = large
    run_networks.main(words(tmp_path, path))
    said = capsys.readouterr().out
    assert "classes: 3 of the classifier's 1,000, by the WordNet ids of the folders" in said
    folder = tmp_path / "results" / "large"
    head, whole = read_csv(folder / "head.csv"), read_csv(folder / "head_full.csv")
    assert list(head["class"]) == IDS and list(whole["class"]) == wordnet.ids(1000)
    W, b = classifiers.head(network.fc)
    np.testing.assert_array_equal(head.filter(regex="^w").to_numpy(np.float32), W[ROWS])
    np.testing.assert_array_equal(head["bias"].to_numpy(np.float32), b[ROWS])
    np.testing.assert_array_equal(whole.filter(regex="^w").to_numpy(np.float32), W)
    test = read_csv(folder / "ID_three_test.csv")
    assert list(test["label"]) == [0] * 3 + [1] * 3 + [2] * 3
    logits = test.filter(like="ct").to_numpy() @ W.T + b
    labels = test["label"].to_numpy()
    sidecar = records.read_sidecar(folder / "ID_three_test.csv")
    assert sidecar["accuracy"] == np.mean(logits[:, ROWS].argmax(1) == labels)
    assert sidecar["accuracy_full"] == np.mean(logits.argmax(1) == np.array(ROWS)[labels])
    sidecar = records.read_sidecar(folder / "head.csv")
    assert sidecar["head_rows"] == ROWS
    assert sidecar["class_words"][0] == "n01440764 (tench)"


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
def test_what_is_there_is_kept_without_the_images(large, tmp_path, capsys):
    _, path = large
    run_networks.main(words(tmp_path, path))
    folder = tmp_path / "results" / "large"
    before = {file.name: file.read_bytes() for file in folder.glob("*.csv")}
    (tmp_path / "three").rename(tmp_path / "gone")
    capsys.readouterr()
    run_networks.main(words(tmp_path, path))
    assert capsys.readouterr().out.count("kept as it is") == 3
    assert {file.name: file.read_bytes() for file in folder.glob("*.csv")} == before


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
def test_a_list_chooses_the_same_rows_by_other_names(large, tmp_path):
    _, path = large
    names = [f"class {row}" for row in range(1000)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    for split in ("train", "test"):
        for row, name in zip(ROWS, IDS, strict=True):
            (tmp_path / "three" / split / name).rename(tmp_path / "three" / split / f"class {row}")
    run_networks.main(words(tmp_path, path, "--classes", str(tmp_path / "list.txt")))
    folder = tmp_path / "results" / "large"
    chosen = sorted(f"class {row}" for row in ROWS)  # as folders sort them
    assert list(read_csv(folder / "head.csv")["class"]) == chosen
    assert list(read_csv(folder / "head_full.csv")["class"]) == names
    rows = [names.index(name) for name in chosen]
    assert records.read_sidecar(folder / "head.csv")["head_rows"] == rows
    command = shlex.split(feature_files.open_run(folder).command)
    assert command[command.index("--classes") + 1] == str(tmp_path / "list.txt")


@pytest.fixture
def undecoded(monkeypatch):
    """No image may be decoded."""

    def fail(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(reading, "read", fail)
    monkeypatch.setattr(reading, "complaint", fail)


def test_other_classes_are_refused_before_an_image_is_decoded(large, tmp_path, undecoded):
    _, path = large
    for split in ("train", "test"):
        (tmp_path / "three" / split / IDS[1]).rename(tmp_path / "three" / split / "spaniel")
    with pytest.raises(ValueError, match=r"tells 1,000 classes apart and three has 3: .*--classes"):
        run_networks.main(words(tmp_path, path))


def test_an_id_that_the_head_has_not_is_refused_before_an_image_is_decoded(
    large, tmp_path, undecoded
):
    _, path = large
    for split in ("train", "test"):
        (tmp_path / "three" / split / IDS[1]).rename(tmp_path / "three" / split / "n00005787")
    with pytest.raises(ValueError, match="does not know three: of the data's 3 classes, 1 are not"):
        run_networks.main(words(tmp_path, path))


def test_a_list_of_another_length_is_refused_before_an_image_is_decoded(large, tmp_path, undecoded):
    _, path = large
    (tmp_path / "list.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="has 2 lines, and the classifier has 1,000 rows"):
        run_networks.main(words(tmp_path, path, "--classes", str(tmp_path / "list.txt")))


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
def test_a_second_data_set_of_other_classes_gets_a_folder_of_its_own(large, tmp_path):
    _, path = large
    run_networks.main(words(tmp_path, path))
    before = (tmp_path / "results/large/head.csv").read_bytes()
    two = tmp_path / "two"
    for split in ("train", "test"):
        for name in IDS[:2]:
            shutil.copytree(tmp_path / "three" / split / name, two / split / name)
    flags = [*words(tmp_path, path)]
    flags[flags.index("--dataset") + 1] = f"two={two}"
    ended = shell(run_networks.main, *flags)
    assert ended.code == 2
    assert "large holds the features of the ID data set three, whose classes" in ended.err
    assert (tmp_path / "results/large/head.csv").read_bytes() == before
    command = ended.err.strip().rpartition("with: python run_networks.py ")[2]
    assert shell(run_networks.main, *shlex.split(command)).code == 0
    folder = tmp_path / "results/two/large"
    assert list(read_csv(folder / "head.csv")["class"]) == IDS[:2]
    assert len(read_csv(folder / "head_full.csv")) == 1000


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
def test_two_data_sets_of_the_same_classes_may_share_a_folder(large, tmp_path):
    _, path = large
    run_networks.main(words(tmp_path, path))
    flags = [*words(tmp_path, path)]
    flags[flags.index("--dataset") + 1] = f"again={tmp_path / 'three'}"
    with pytest.warns(UserWarning, match="later scripts need --dataset again or --dataset three"):
        run_networks.main(flags)
    assert (tmp_path / "results/large/ID_three_test.csv").exists()
    assert (tmp_path / "results/large/ID_again_test.csv").exists()
