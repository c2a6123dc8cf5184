"""images/reading.py: how each file becomes RGB, what cannot be read, and what is too large."""

import importlib
import struct
import subprocess
import warnings

import numpy as np
import pytest
import torch
from helpers import named
from image_cases import noise, pixels_of, plainly, write
from PIL import Image, ImageOps

import cli
import data
import main
from images import folders, reading

pytestmark = pytest.mark.usefixtures("one_thread")


def oriented(number):
    exif = Image.Exif()
    exif[reading.ORIENTATION] = number
    return exif


# ---- upright -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("number", range(10))
def test_an_image_is_turned_as_its_exif_says(tmp_path, ending, number):
    path = write(tmp_path / f"a.{ending}", noise(9, 14, 3), exif=oriented(number))
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(reading.read(path)), np.asarray(expected))
    assert expected.size == ((9, 14) if number in (5, 6, 7, 8) else (14, 9))


def test_a_phones_photograph_stands_upright_in_folders_of_every_use(tmp_path):
    upright = noise(12, 12, 3)
    for name in ("ant", "bee"):
        # 6: turn it clockwise to see it
        write(tmp_path / "train" / name / "1.png", np.rot90(upright), exif=oriented(6))
        write(tmp_path / "test" / name / "1.png", upright)
    dataset = data.id_set(named(f"insects={tmp_path}"), None, 12)
    train, test = (
        data.load_id(dataset, split, plainly(12), None).in_memory().pixels
        for split in ("train", "test")
    )
    assert torch.equal(train, test)
    assert np.array_equal(pixels_of(tmp_path, 12)[-1], upright)


def test_an_orientation_in_xmp_alone_counts_too(tmp_path):
    said = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
    path = write(tmp_path / "a.webp", xmp=said, lossless=True)
    assert np.array_equal(np.asarray(reading.read(path)), np.rot90(noise(12, 12, 3), 2))


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize(
    "block", [b"no TIFF at all", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09\x01"]
)
def test_a_broken_exif_block_turns_nothing_and_stops_nothing(tmp_path, ending, block):
    path = write(tmp_path / f"a.{ending}", exif=b"Exif\0\0" + block)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(np.asarray(reading.read(path)), expected)


def test_an_exif_block_that_cannot_be_written_again_is_followed_all_the_same(tmp_path):
    exif = oriented(3).tobytes()
    # a width of the type double, of four bytes
    entry = struct.pack(">HHI4s", 0x0100, 12, 1, b"\0\0\0\0")
    broken = exif[:6] + exif[6:14] + struct.pack(">H", 2) + entry + exif[16:]
    path = write(tmp_path / "a.png", exif=broken)
    with Image.open(path) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(reading.read(path)), np.rot90(noise(12, 12, 3), 2))


# ---- grey levels, alpha --------------------------------------------------------------------------


def tiff(path, values, bits=16, photometric=1, sample_format=1):
    """An uncompressed grey TIFF with these tags, little-endian, a strip."""
    rows = values.shape[0]
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        packed = bytes(
            np.stack(
                [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1
            )
            .astype(np.uint8)
            .ravel()
        )
    else:
        packed = values.tobytes()
    tags = {
        256: values.shape[1],
        257: rows,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: rows,
        279: len(packed),
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8 + len(packed))
        + packed
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize(
    "kind",
    ["a.png", "little.tif", "big.tif", "a.pgm", "white is zero.tif", "twelve.tif", "twelve.pgm"],
)
def test_deep_grey_is_scaled_by_its_own_white(tmp_path, kind):
    white = 4095 if kind.startswith("twelve") else 65535
    values, path = np.linspace(0, white, 144).astype(np.uint16).reshape(12, 12), tmp_path / kind
    expected = np.round(values / white * 255)
    if kind.endswith("pgm"):
        path.write_bytes(b"P5 12 12 %d\n" % white + values.astype(">u2").tobytes())
    elif kind.startswith(("white", "twelve")):
        tiff(path, values, 12 if white == 4095 else 16, photometric=0 if "zero" in kind else 1)
        expected = 255 - expected if "zero" in kind else expected
    else:
        Image.fromarray(values.astype(">u2") if kind == "big.tif" else values).save(path)
    found = pixels_of(tmp_path, 12)[0]
    assert np.abs(found[..., 0] - expected).max() == 0
    assert (found == found[..., :1]).all()
    assert {0, 255} <= set(found.ravel().tolist())


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path):
    values = np.linspace(0, 65535, 12 * 12 * 3).astype(">u2").reshape(12, 12, 3)
    (tmp_path / "deep.ppm").write_bytes(b"P6 12 12 65535\n" + values.tobytes())
    assert np.abs(pixels_of(tmp_path, 12)[0] - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (np.zeros((8, 8), np.float32), "F"),
        (np.zeros((8, 8), np.int32), "I"),
        (Image.new("LAB", (8, 8)), "LAB"),
        ("signed", "I"),
    ],
)
def test_levels_without_a_defined_white_are_refused_by_name_and_mode(tmp_path, values, mode):
    path = tmp_path / "a.tif"
    if isinstance(values, str):
        tiff(path, np.zeros((8, 8), np.int16), sample_format=2)
    else:
        (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path)
    images = data.image_folder(tmp_path, plainly(8))
    for refused in (images.in_memory, lambda: reading.refuse(images.unreadable())):
        with pytest.raises(
            ValueError,
            match=(
                rf"a\.tif cannot be read as an image \(.*mode {mode}, whose .* save it in 8 or 16"
            ),
        ):
            refused()


def test_alpha_is_dropped_and_not_blended(tmp_path):
    colour = noise(12, 12, 3)
    few = Image.fromarray(colour).quantize(16)
    for alpha in (0, 90, 255):
        write(tmp_path / f"{alpha}.png", np.dstack([colour, np.full((12, 12), alpha, np.uint8)]))
    few.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of a palette with alpha
        found = pixels_of(tmp_path, 12)
    assert all(np.array_equal(image, colour) for image in found[:3])
    assert np.array_equal(found[3], np.asarray(few.convert("RGB")))


# ---- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"format": "PNG"},
        {"format": "JPEG"},
        {"format": "JPEG", "progressive": True},
        {"format": "TIFF"},
        {"format": "WEBP"},
        {"format": "GIF"},
        {"format": "BMP"},
    ],
)
def test_the_look_and_the_reading_agree_on_files_cut_short(tmp_path, options):
    path = write(tmp_path / "a.img", noise(40, 50, 3), **options)
    whole = path.read_bytes()
    assert reading.complaint(path, thorough=True) is None
    for length in np.random.default_rng(0).integers(0, len(whole), 60):
        path.write_bytes(whole[:length])
        try:
            why = reading.read(path) and None
        except Exception as error:
            why = reading.reason(error)
        assert reading.complaint(path, thorough=True) == why


def test_a_picture_with_a_wrong_checksum_that_decodes_is_no_failure(tmp_path):
    path = write(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the checksum of the last chunk, which holds nothing
    path.write_bytes(content)
    assert reading.complaint(path, thorough=True) is None
    assert np.array_equal(np.asarray(reading.read(path)), noise(12, 12, 3))


# ---- images that are too large -------------------------------------------------------------------


@pytest.fixture
def few_pixels(monkeypatch):
    monkeypatch.setattr(reading, "max_pixels", 10_000)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "gif", "bmp", "ppm"])
def test_an_image_of_more_pixels_than_allowed_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, few_pixels, ending
):
    path = write(tmp_path / f"a.{ending}", np.zeros((101, 100, 3), np.uint8))
    write(tmp_path / f"b.{ending}", np.zeros((100, 100, 3), np.uint8))
    monkeypatch.setattr(reading, "check_mode", None)  # which is next, and before the pixels
    said = (
        f"{path} cannot be read as an image (100 x 101 pixels, more than --max-pixels 10000 lets"
        " in; "
    )
    images = data.image_folder(path, plainly(8))
    for refused in (images.in_memory, lambda: reading.refuse(images.unreadable())):
        with pytest.raises(ValueError) as caught:
            refused()
        assert str(caught.value).startswith(
            said
        ) and "--max-pixels 10100; mend or remove it" in str(caught.value).replace(")", "")
    monkeypatch.undo()
    assert pixels_of(tmp_path / f"b.{ending}", 8).shape == (1, 8, 8, 3)


def test_the_bound_is_what_its_flag_says(tmp_path, few_pixels):
    path = write(tmp_path / "a.png", np.zeros((101, 100, 3), np.uint8))
    reading.limit_pixels(10_100)
    assert pixels_of(path, 8).shape == (1, 8, 8, 3)
    reading.limit_pixels(10_099)
    with pytest.raises(ValueError, match="--max-pixels 10099"):
        pixels_of(path, 8)


def test_an_image_of_169_megapixels_in_a_small_file_is_refused_by_default(tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 30_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of Pillow's own bound
        (failure,) = data.image_folder(tmp_path, plainly(8)).unreadable()
    assert failure[0] == tmp_path / "bomb.png"
    assert failure[1].startswith("13,000 x 13,000 pixels, more than --max-pixels 100000000 lets in")


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_strip_that_resizing_would_make_enormous_is_refused(tmp_path, few_pixels, size):
    path = tmp_path / "strip.png"
    Image.new("RGB", size).save(path)
    (failure,) = data.image_folder(path, plainly(8)).unreadable()
    assert "320,000 once the shorter side is 8, more than --max-pixels 10000" in failure[1]
    with pytest.raises(ValueError, match="320,000 once the shorter side is 8"):
        pixels_of(path, 8)
    assert pixels_of(path, 1).shape == (1, 1, 1, 3)


@pytest.mark.parametrize("script", ["train", "run_networks"])
def test_the_scripts_take_the_bound_and_it_changes_no_result(script):
    module = importlib.import_module(script)
    words = {"train": [], "run_networks": ["--checkpoint", "a.pth"]}[script]
    args = module.parse_args([*words, "--max-pixels", "123"])
    assert (
        args.max_pixels == 123
        and module.parse_args(words).max_pixels == reading.MAX_PIXELS == 100_000_000
    )
    assert "max_pixels" not in cli.material(args)


def test_main_hands_the_bound_to_whatever_opens_images(capsys):
    main.main(["--plan", "--max-pixels", "123"])
    lines = capsys.readouterr().out.splitlines()
    taking = [line.split()[1] for line in lines if "--max-pixels 123" in line]
    assert taking == ["run_networks.py", "train.py", "run_networks.py"] and "--fetch" in lines[0]


def test_a_file_that_holds_a_program_is_not_handed_to_one(tmp_path, monkeypatch):
    """PostScript under an image's name: Pillow, left to itself, runs Ghostscript on it."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    Image.init()
    assert Image.open(tmp_path / "a.png").format == "EPS"
    monkeypatch.setattr(subprocess, "check_call", None)
    with pytest.raises(
        ValueError, match=r"a\.png cannot be read as an image \(no image that Pillow knows\)"
    ):
        pixels_of(tmp_path, 8)


def test_the_formats_are_those_of_the_endings():
    known = Image.registered_extensions()
    # MPO: JPEG's
    assert {known[ending] for ending in folders.ENDINGS & set(known)} - {"MPO"} == set(
        reading.formats()
    )
