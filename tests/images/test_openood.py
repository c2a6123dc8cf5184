"""images/openood.py and data.placed: where known sets are found, OpenOOD's groups, and what is said
of members that are missing."""

import re

import pytest
from helpers import named
from image_cases import plainly, write

import data
import feature_files
import ood_methods
from detection import asked
from images import lists, openood

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["mnist", "svhn", "textures", "places365"]
LARGE = ["inaturalist", "textures", "openimage_o"]


@pytest.fixture
def data_dir(tmp_path):
    """Two of OpenOOD's lists for CIFAR-10 and their images, one of each."""
    for name, root in (("tin", "images_classic"), ("texture", "images_classic")):
        path = write(tmp_path / root / name / "a/1.png")
        add_list(tmp_path, "cifar10", name, path.relative_to(tmp_path / root))
    return tmp_path


def add_list(data_dir, benchmark, name, *paths):
    file = data_dir / "benchmark_imglist" / benchmark / f"test_{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{path} -1\n" for path in paths))


# ---- places --------------------------------------------------------------------------------------


def test_a_list_of_the_id_set_comes_first_and_its_root_is_where_its_images_are(data_dir):
    write(data_dir / "tin/other.png")
    expected = f"{data_dir}/benchmark_imglist/cifar10/test_tin.txt@{data_dir}/images_classic"
    assert openood.find("tin", "cifar10", data_dir) == expected
    assert openood.find("tin", "cifar100", data_dir) == f"{data_dir}/tin"
    write(data_dir / "images_largescale/ninco/x/1.png")
    add_list(data_dir, "imagenet", "ninco", "ninco/x/1.png")
    for name in ("imagenet", "imagenet1k", "imagenet-1k"):
        assert openood.find("ninco", name, data_dir).endswith(f"@{data_dir}/images_largescale")


def test_a_list_without_its_images_is_no_place(data_dir):
    add_list(data_dir, "cifar10", "places365", "places365/1.png")
    assert openood.find("places365", "cifar10", data_dir) is None
    add_list(data_dir, "cifar10", "mnist")
    with pytest.raises(ValueError, match="names no images"):
        openood.find("mnist", "cifar10", data_dir)


@pytest.mark.parametrize("name", openood.SETS)
def test_a_known_set_is_found_in_each_of_its_folders(tmp_path, name):
    for folder in reversed(openood.SETS[name].folders):
        write(tmp_path / folder / "1.png")
        assert openood.find(name, "birds", tmp_path) == str(tmp_path / folder)
    placed = data.placed([named(name)], "birds", tmp_path)
    first = str(tmp_path / openood.SETS[name].folders[0])
    assert placed.sets == [named(f"{name}={first}")]
    assert placed.said == [f"{name}: {first}"]
    assert len(data.load_ood(placed.sets[0], None, plainly(8), tmp_path)) == 1


def test_a_known_set_that_is_nowhere_is_answered_with_where_to_get_and_put_it(tmp_path):
    with pytest.raises(ValueError, match="ssb_hard") as caught:
        data.placed([named("ssb-hard"), named("svhn"), named("SUN")], "birds", tmp_path)
    message = str(caught.value)
    for name in ("ssb_hard", "sun"):
        known = openood.SETS[name]
        assert known.source in message
        assert f"put its images into {tmp_path / known.folders[0]}" in message
    assert "--ood ssb_hard=FOLDER sun=FOLDER" in message


def test_other_names_and_folders_of_ones_own_stay_as_they_are(tmp_path):
    sets = [named("svhn"), named("sun=mine"), named("openood=mine"), named("held_out")]
    assert data.placed(sets, "cifar10", tmp_path) == data.Placed(sets, [], [])


def test_features_at_hand_need_no_images(tmp_path):
    made = {"sun": named("sun=elsewhere/SUN")}
    assert data.placed([named("sun")], "birds", tmp_path, made).sets == [made["sun"]]


@pytest.mark.parametrize("below", ["imagenette2", "imagenette2-160"])
def test_imagenette_is_an_id_set_where_its_archive_lies(tmp_path, below):
    for split, count in (("train", 3), ("val", 2)):
        for label in "ab":
            for number in range(count):
                write(tmp_path / below / split / label / f"{number}.png")
    asked = openood.id_place(named("imagenette"), tmp_path)
    assert asked.folder == f"{tmp_path}/{below}/{{split:val}}"
    row = data.id_set(asked, tmp_path, 8)
    assert len(row.load("train", plainly(8), "")) == 6
    assert len(row.load("test", plainly(8), "")) == 4
    with pytest.raises(ValueError, match="fastai/imagenette"):
        openood.id_place(named("imagenette"), tmp_path / "none")


def test_imagenet_is_found_by_openoods_lists(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"images_largescale/{split}/n1/1.png")
        folder = tmp_path / "benchmark_imglist/imagenet"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_imagenet.txt").write_text(f"{split}/n1/1.png 0\n")
    asked = openood.id_place(named("imagenet"), tmp_path)
    assert all(lists.exists(asked.split(split).folder) for split in ("train", "test"))
    assert openood.id_place(named("imagenet=mine"), tmp_path) == named("imagenet=mine")


def test_the_classes_of_textures_that_imagenet_has_are_left_out(tmp_path, monkeypatch):
    for name in (*data.IN_IMAGENET, "woven", "zigzagged"):
        write(tmp_path / "dtd/dtd/images" / name / "1.png")
    monkeypatch.setattr(data, "check_listed", lambda published: None)
    whole = data.load_ood(named("textures"), None, plainly(8), tmp_path)
    part = data.load_ood(named("textures43"), None, plainly(8), tmp_path)
    assert part.class_names == ["woven", "zigzagged"]
    assert part.paths == ["woven/1.png", "zigzagged/1.png"]
    assert whole.source == part.source == data.source_of(named("textures43"), tmp_path)
    assert whole.content() != part.content()


# ---- the group -----------------------------------------------------------------------------------


def test_the_groups_are_those_of_openood():
    groups = {name: (list(one.near), list(one.far)) for name, one in openood.BENCHMARKS.items()}
    assert groups == {
        "cifar10": (["cifar100", "tin"], SMALL),
        "cifar100": (["cifar10", "tin"], SMALL),
        "imagenet200": (["ssb_hard", "ninco"], LARGE),
        "imagenet": (["ssb_hard", "ninco"], LARGE),
    }


def test_openood_names_its_members_as_far_as_they_are_there(data_dir):
    (data_dir / "cifar-100-python").mkdir()
    placed = data.placed([named("openood"), named("uniform")], "cifar10", data_dir)
    assert [asked.name for asked in placed.sets] == ["cifar100", "tin", "textures", "uniform"]
    assert [bool(asked.folder) for asked in placed.sets] == [False, True, True, False]
    said = " ".join(placed.said)
    assert "cifar100: the whole test set of the registry, without OpenOOD's list of it" in said
    assert "missing of OpenOOD's sets: mnist, svhn, places365." in said
    assert re.search(r"--fetch --dataset digits --ood mnist svhn --data-dir", said)
    assert f"put its images into {data_dir}/places365" in said
    assert data_dir / "svhn/test_32x32.mat" in placed.absent
    assert not any(path.exists() for path in placed.absent)


def test_dtd_without_what_imagenet_has_stands_for_textures(tmp_path):
    (tmp_path / "dtd/dtd/images").mkdir(parents=True)
    assert [s.name for s in data.placed([named("openood")], "imagenet", tmp_path).sets] == [
        "textures43"
    ]
    assert [s.name for s in data.placed([named("openood")], "cifar10", tmp_path).sets] == [
        "textures"
    ]


def test_a_member_whose_features_are_there_needs_no_images(data_dir):
    made = {"svhn": named("svhn"), "uniform": named("uniform")}
    placed = data.placed([named("openood")], "cifar10", data_dir, made)
    assert [asked.name for asked in placed.sets] == ["tin", "svhn", "textures"]


@pytest.mark.parametrize(
    ("id_name", "said"),
    [("birds", "for cifar10, cifar100, imagenet200, imagenet, .* is birds"), ("imagenet", "none")],
)
def test_a_group_without_members_is_refused(tmp_path, id_name, said):
    with pytest.raises(ValueError, match=said):
        data.placed([named("openood")], id_name, tmp_path)


# ---- averages ------------------------------------------------------------------------------------


def test_averages_say_how_many_of_their_members_they_are_of():
    there = ["uniform", "svhn", "tin", "cifar100", "places365"]
    assert openood.groups("cifar10", there) == [
        ("near", ["cifar100", "tin"]),
        ("far (2 of 4)", ["svhn", "places365"]),
    ]
    missing = openood.missing_members("cifar10", there)
    assert missing.startswith("--groups openood: mnist, textures of OpenOOD's sets for cifar10")
    assert openood.missing_members("cifar10", ["cifar100", "tin", *SMALL]) == ""
    assert openood.groups("imagenet", ["textures43"]) == [("far (1 of 3)", ["textures43"])]
    with pytest.raises(ValueError, match="none of OpenOOD's sets for cifar100 is among"):
        openood.groups("cifar100", ["uniform"])
    with pytest.raises(ValueError, match="name the sets themselves"):
        openood.groups("birds", there)


def test_the_flag_is_read_beside_groups_of_ones_own():
    assert ood_methods.group_of_sets("openood") == ("openood", [])
    assert ood_methods.group_of_sets("openood=svhn") == ("openood", ["svhn"])
    args = ood_methods.parse_args(["--checkpoint", "x", "--groups", "openood", "mine=svhn,uniform"])
    assert asked.groups_of(args, "cifar10", ["svhn", "tin", "uniform"]) == [
        ("near (1 of 2)", ["tin"]),
        ("far (1 of 4)", ["svhn"]),
        ("mine", ["svhn", "uniform"]),
    ]


def test_scorers_take_the_members_that_were_extracted(tmp_path):
    for name in ("svhn", "uniform", "tin"):
        (tmp_path / f"OOD_{name}_test.csv").touch()
    asked = [named("openood"), named("uniform")]
    found = feature_files.asked_sets(tmp_path, "cifar10", asked)
    assert [one.name for one in found] == ["tin", "svhn", "uniform"]
