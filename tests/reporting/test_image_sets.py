"""What the page says of the images and features behind the numbers."""

from types import SimpleNamespace

import pytest

from reporting import image_sets

NOTHING = "–"


def found(records=(), **facts):
    return SimpleNamespace(records=dict(records), facts=facts)


def features(rows, width=64, **more):
    return {"rows": rows, "width": width, **more}


RECORDS = {
    "OOD_svhn_test": features(26_032),
    "head": {"classes": 10},
    "ID_pets_train": features(1_200),
    "ID_pets_test": features(300),
    "ID_pets_val": {"command": "nothing that counts rows"},
}


def test_sidecars_are_those_of_features_with_id_sets_first():
    assert list(image_sets.sidecars(found(RECORDS))) == [
        "ID_pets_test",
        "ID_pets_train",
        "OOD_svhn_test",
    ]


def test_images_features_and_classes_are_counted_where_they_are_known():
    assert image_sets.counts(found(RECORDS, class_names=["cat", "dog"])) == {
        "train": 1_200,
        "test": 300,
        "features": 64,
        "classes": 2,
    }
    assert image_sets.counts(found()) == {}


@pytest.mark.parametrize(
    ("images", "width", "classes", "said"),
    [
        (64, 64, 65, []),
        (63, 64, 65, ["Fewer training images (63) than features (64)"]),
        (64, 64, 66, ["Fewer features (64) than classes less one (65)"]),
        (5, 2_048, 10_000, ["Fewer training images (5)", "Fewer features (2,048)"]),
    ],
)
def test_what_few_images_or_features_make_doubtful_is_said(images, width, classes, said):
    records = {"ID_pets_train": features(images, width)}
    names = [str(place) for place in range(classes)]
    cautions = image_sets.cautions(found(records, class_names=names))
    assert len(cautions) == len(said)
    assert all(line.startswith(start) for line, start in zip(cautions, said, strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n01440764 (tench)", "tench"),
        ("n01440764", "n01440764"),
        ("nut (dried)", "nut (dried)"),
        ("n0144076x (tench)", "n0144076x (tench)"),
        ("cat", "cat"),
    ],
)
def test_only_a_wordnet_id_gives_way_to_its_words(name, words):
    assert image_sets.in_words(name) == words


def test_eight_classes_are_named_and_the_rest_counted():
    names = [f"c{place}" for place in range(10)]
    said = image_sets.class_words({"class_names": names})
    assert said == "c0, c1, c2, c3, c4, c5, c6, c7 and 2 more"
    words = {"class_names": ["n01440764"], "class_words": ["n01440764 (tench)"]}
    assert image_sets.class_words(words) == "tench"
    assert image_sets.class_words({}) == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"size": 32}, "32 px"),
        ({"size": 224, "crop_share": 0.875}, "224 px in the centre of 256"),
        (
            {"size": 32, "crop_share": 1, "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3]},
            "32 px, mean 0.5, std 0.1 0.2 0.3",
        ),
        (
            {"size": 224, "interpolation": "bicubic", "match": "jpeg"},
            "224 px, bicubic, each image re-encoded alike first",
        ),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_preprocessing_in_words(said, words):
    assert image_sets.preprocessing_words(found(preprocessing=said)) == words


def test_a_row_says_what_a_set_s_files_are_like():
    photos = {
        "formats": {"JPEG": 3, "PNG": 1},
        "width": 640,
        "height": 480.5,
        "one_size": 0.25,
        "jpeg_quality": 92,
    }
    records = {
        "ID_my_pets_train": features(1_200),
        "OOD_photos_test": features(4, files=photos),
        "OOD_strange_test": features(2, files={"formats": {"GIF": 2}}),
    }
    table = image_sets.image_table(found(records))
    assert table.rows == [
        ["my_pets", "ID, train", "1,200", "read whole", NOTHING, NOTHING, NOTHING],
        ["photos", "OOD", "4", "JPEG 75%, PNG 25%", "640 × 480.5 px", "25%", "quality 92"],
        ["strange", "OOD", "2", "GIF", NOTHING, NOTHING, NOTHING],
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_without_sidecars_there_is_no_table():
    assert image_sets.image_table(found({"head": {"classes": 10}})) is None
