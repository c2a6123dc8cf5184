"""images/file_facts.py: what headers say, what differs, and images made alike."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_cases import noise, plainly, write
from PIL import Image

import data
from images import file_facts, reading
from images.file_facts import FileFacts, Matched

FACTS = FileFacts(300, 300, {"JPEG": 300}, 224, 224, 1.0, 1.0, 75, "4:2:0")
PHOTOS = FileFacts(200, 200, {"JPEG": 200}, 500, 375, 1.3333, 0.2, 96, "4:4:4")


def smooth(width, height):
    """A photograph-like RGB image: two gradients and a wave."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    wave = (np.sin(20 * x) + 1) / 2
    return Image.fromarray((255 * np.stack([x, y, wave], axis=2)).astype(np.uint8))


# ---- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_quality_of_every_jpeg_of_libjpeg_is_read_from_its_table(tmp_path, subsampling):
    for quality in range(1, 101):
        smooth(24, 16).save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
        found = file_facts.header(str(tmp_path / "a.jpg"))
        assert found == file_facts.Header("JPEG", 24, 16, quality, subsampling)


def test_a_table_of_another_encoder_is_given_the_nearest_quality():
    table = file_facts.tables()[59].copy()
    table[:5] += 1
    assert file_facts.jpeg_quality(tuple(table)) == 60


def test_the_tables_are_scaled_as_libjpeg_does():
    for quality in (1, 25, 49, 50, 75, 100):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        for place, value in enumerate(file_facts.LUMINANCE):
            expected = min(max((int(value) * scale + 50) // 100, 1), 255)
            assert file_facts.tables()[quality - 1, place] == expected


def test_counts_and_medians_are_those_of_the_files(tmp_path):
    write(tmp_path / "a.png", noise(30, 10, 3))
    write(tmp_path / "b.jpg", noise(20, 40, 3), quality=80)
    write(tmp_path / "c.jpg", noise(20, 40, 3), quality=90)
    (tmp_path / "d.jpg").write_text("broken")
    found = file_facts.measure(tmp_path, ["a.png", "b.jpg", "c.jpg", "d.jpg", "gone.png"])
    assert found == FileFacts(
        5, 3, {"JPEG": 2, "PNG": 1}, 40, 20, 2.0, round(2 / 3, 4), 80, "4:2:0"
    )
    assert file_facts.recorded({"files": found.as_dict()}) == found
    assert file_facts.measure(tmp_path, ["d.jpg"]) is None


def test_a_photograph_on_its_side_counts_upright(tmp_path):
    exif = Image.Exif()
    exif[reading.ORIENTATION] = 6
    smooth(40, 20).save(tmp_path / "a.jpg", exif=exif)
    found = file_facts.header(str(tmp_path / "a.jpg"))
    assert (found.width, found.height) == reading.read(tmp_path / "a.jpg").size == (20, 40)


def test_of_many_files_an_even_part_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(file_facts, "LOOKED_AT", 4)
    for number in range(10):
        write(tmp_path / f"{number}.png", noise(8, 8 + number, 3))
    found = file_facts.measure(tmp_path, [f"{number}.png" for number in range(10)])
    assert (found.files, found.looked_at) == (10, 4)
    assert (found.width, found.height) == (11, 8)  # of widths 8, 11, 14, 17


# ---- what differs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"jpeg_quality": 80, "width": 240, "formats": {"JPEG": 280, "PNG": 20}}, True),
        ({"jpeg_quality": 81}, False),
        ({"formats": {"JPEG": 260, "PNG": 40}}, False),
        ({"formats": {"PNG": 300}, "jpeg_quality": None}, False),
        ({"width": 300, "height": 300}, False),
        ({"width": 160, "height": 160}, False),
        ({"aspect": 1.2}, False),
        ({"one_size": 0.5}, False),
    ],
)
def test_what_counts_as_alike(change, same):
    other = replace(FACTS, **change)
    assert file_facts.alike(FACTS, other) is file_facts.alike(other, FACTS) is same
    assert bool(file_facts.notes(FACTS, {"x": other})) is not same


def test_a_difference_is_said_with_both_sides():
    png = FileFacts(9, 9, {"PNG": 9}, 32, 32, 1.0, 1.0, None, None)
    (line, other) = file_facts.notes(FACTS, {"textures": png, "same": FACTS, "photos": PHOTOS})
    assert line.startswith("textures: PNG 32x32, ID: JPEG 75 224x224: scores may see the file")
    assert "--match-format" in line
    assert other.startswith("photos: JPEG 96 of many sizes, about 500x375, ID:")
    mixed = replace(FACTS, formats={"JPEG": 200, "PNG": 100})
    assert mixed.words == "67% JPEG 75 224x224"


def test_nothing_is_said_of_pixels_without_files_nor_of_images_made_alike():
    own, other = {"files": FACTS.as_dict()}, {"x": {"files": PHOTOS.as_dict()}}
    assert len(file_facts.notes_of(own, other)) == 1
    assert file_facts.notes_of({}, other) == []
    assert file_facts.notes_of(own, {"x": {}}) == []
    assert file_facts.notes_of({**own, "preprocessing": {"match": {"width": 3}}}, other) == []


# ---- made alike ----------------------------------------------------------------------------------


def test_an_image_of_the_size_is_encoded_once_and_no_pixel_moved():
    image, file = smooth(40, 30), io.BytesIO()
    match = Matched(40, 30, "JPEG", 75, "4:2:0")
    image.save(file, "JPEG", quality=75, subsampling="4:2:0")
    assert np.array_equal(match.apply(image), Image.open(file).convert("RGB"))
    assert np.array_equal(Matched(40, 30, "PNG").apply(image), image)


def test_the_centre_is_cut_to_the_aspect_and_not_distorted():
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 75:125] = 255  # a white square in the middle
    found = np.asarray(Matched(30, 30, "PNG").apply(Image.fromarray(wide)))
    assert found.shape == (30, 30, 3)
    assert (found[:, 1:-1] == 255).all()  # bicubic reaches over the square's edge


def test_the_median_size_quality_and_subsampling_are_given():
    assert Matched.of(PHOTOS) == Matched(500, 375, "JPEG", 96, "4:4:4")
    png = FileFacts(9, 9, {"PNG": 6, "JPEG": 3}, 32, 30, 1.0, 1.0, 90, "4:2:0")
    assert Matched.of(png) == Matched(32, 30, "PNG")


def test_preprocessing_matches_first_files_and_arrays_alike(tmp_path):
    match = Matched(20, 16, "JPEG", 60, "4:2:0")
    plain = plainly(12)
    ours = replace(plain, match=match)
    image = smooth(50, 34)
    image.save(tmp_path / "a.png")
    expected = np.asarray(plain.resize(match.apply(image)))
    (found,) = data.image_folder(tmp_path, ours).batches(1)
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), expected)
    arrays = data.from_arrays(np.array(image)[None], [0], ["a"], "x", ours)
    by_tensor = plain.resize(torch.from_numpy(np.array(match.apply(image))).permute(2, 0, 1)[None])
    assert torch.equal(arrays.pixels, by_tensor)


def test_records_name_what_images_were_matched_to_and_nothing_where_they_were_not():
    match = Matched(20, 16, "JPEG", 60, "4:2:0")
    assert "match" not in plainly(12).as_dict()
    said = replace(plainly(12), match=match).as_dict()["match"]
    assert Matched(**said) == match
