"""What the report says of images and features: how many, what their files are like, what is few."""

from types import SimpleNamespace

import pytest

from reporting import image_sets
from reporting.words import EMPTY


def found(records=(), **facts):
    return SimpleNamespace(records=dict(records), facts=facts)


SETS = {
    "OOD_photos_test": {"rows": 40, "width": 512},
    "ID_cifar_test": {"rows": 10_000, "width": 512},
    "ID_cifar_train": {"rows": 400, "width": 512},
    "ID_cifar_val": {"rows": 50, "width": 512},
    "ood_metrics": {"rows": 3},
    "OOD_half_test": {"command": "no rows"},
}


def test_the_counts_are_those_of_the_id_sets():
    known = image_sets.counts(found(SETS, class_names=["a", "b"]))
    assert known == {"features": 512, "train": 400, "val": 50, "test": 10_000, "classes": 2}
    assert image_sets.counts(found()) == {}


def test_few_images_and_few_features_are_said():
    fewer, narrow = image_sets.cautions(found(SETS, class_names=list(map(str, range(1000)))))
    assert fewer.startswith("Fewer training images (400) than features (512)")
    assert narrow.startswith("Fewer features (512) than classes less one (999)")
    enough = {"ID_cifar_train": {"rows": 512, "width": 512}}
    assert image_sets.cautions(found(enough, class_names=list(map(str, range(513))))) == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("n01440764 (tench, Tinca tinca)", "tench, Tinca tinca"),
        ("apple (fruit)", "apple (fruit)"),
        ("n0144076x (tench)", "n0144076x (tench)"),
        ("007", "007"),
    ],
)
def test_a_wordnet_id_gives_way_to_its_words(name, words):
    assert image_sets.in_words(name) == words


def test_the_first_eight_classes_are_named():
    words = image_sets.class_words({"class_names": [str(number) for number in range(11)]})
    assert words == "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"
    assert image_sets.class_words({}) == ""


def test_preprocessing_in_words():
    said = {
        "size": 224,
        "crop_share": 0.875,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.1, 0.2, 0.3],
        "match": {"format": "JPEG"},
    }
    assert image_sets.preprocessing_words(found(preprocessing=said)) == (
        "224 px in the centre of 256, bicubic, mean 0.5, std 0.1 0.2 0.3, each image re-encoded"
        " alike first"
    )
    assert image_sets.preprocessing_words(found(preprocessing={"size": 32, "crop_share": 1})) == (
        "32 px"
    )
    assert image_sets.preprocessing_words(found(preprocessing={"size": None})) == ""
    assert image_sets.preprocessing_words(found()) == ""


def test_a_row_for_each_set_and_what_its_files_are_like():
    looks = {
        "formats": {"JPEG": 30, "PNG": 10},
        "width": 500.0,
        "height": 375.5,
        "one_size": 0.25,
        "jpeg_quality": 95.0,
    }
    sets = {**SETS, "OOD_photos_test": {"rows": 40, "width": 512, "files": looks}}
    table = image_sets.image_table(found(sets))
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert list(rows) == [
        ("cifar", "ID, test"),
        ("cifar", "ID, train"),
        ("cifar", "ID, val"),
        ("photos", "OOD"),
    ]
    assert rows["cifar", "ID, test"] == ["10,000", "read whole", EMPTY, EMPTY, EMPTY]
    assert rows["photos", "OOD"] == [
        "40",
        "JPEG 75%, PNG 25%",
        "500 × 375.5 px",
        "25%",
        "quality 95",
    ]
    assert image_sets.image_table(found({"ood_metrics": {"rows": 3}})) is None
