"""Corruptions: what each does to an image, by hand where it can be computed by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

import data
from images import corruptions
from images.corruptions import KINDS, Corruption


def picture(side=32, seed=0):
    """uint8 (side, side, 3) with edges and smooth parts."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("side", [16, 32, 96])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_stays_one_and_the_same_image_gets_the_same_draw(kind, side):
    for severity in corruptions.SEVERITIES:
        found = Corruption(kind, severity).apply(picture(side))
        assert found.dtype == np.uint8 and found.shape == (side, side, 3)
        np.testing.assert_array_equal(found, Corruption(kind, severity).apply(picture(side)))
    assert np.any(found != picture(side))


DRAWN = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow"}
DRAWN |= {"fog", "elastic_transform"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_draws_anew_where_something_is_drawn(kind):
    one, other = (Corruption(kind, 4, seed).apply(picture()) for seed in (0, 1))
    assert np.any(one != other) == (kind in DRAWN)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"elastic_transform", "glass_blur"}))
def test_a_severer_one_changes_more(kind):
    """But for these two, whose published values do not rise from step to step."""
    plain = picture().astype(float)
    changes = [
        np.abs(Corruption(kind, severity).apply(picture()) - plain).mean() for severity in (1, 5)
    ]
    assert 0 < changes[0] < changes[1]


def changed(kind, severity, side=32):
    return Corruption(kind, severity).apply(picture(side)), picture(side) / 255


def test_what_can_be_computed_by_hand():
    found, plain = changed("contrast", 2)
    means = plain.mean(axis=(0, 1))
    np.testing.assert_array_equal(found, np.round(255 * ((plain - means) / 2 + means)))
    found, plain = changed("contrast", 2, side=96)  # of ImageNet-C
    means = plain.mean(axis=(0, 1))
    np.testing.assert_array_equal(found, np.round(255 * (0.3 * (plain - means) + means)))
    found, plain = changed("brightness", 5)
    largest = plain.max(axis=2, keepdims=True)
    expected = plain * np.minimum(largest + 0.3, 1) / largest
    np.testing.assert_allclose(found, 255 * expected, atol=0.51)
    found, plain = changed("impulse_noise", 5)
    hit = found != np.round(255 * plain)
    assert set(np.unique(found[hit])) == {0, 255} and 0.05 < hit.mean() < 0.09


def test_noise_has_the_published_spread():
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = Corruption("gaussian_noise", 3).apply(grey) / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.08, rel=0.03)
    shots = Corruption("shot_noise", 5).apply(grey) / 255
    assert shots.std() == pytest.approx(np.sqrt(128 / 255 / 50), rel=0.05)


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "zoom_blur", "glass_blur"])
def test_a_blur_leaves_an_even_image_as_it_is(kind):
    even = np.full((32, 32, 3), 77, np.uint8)
    np.testing.assert_array_equal(Corruption(kind, 5).apply(even), even)


def test_corrupted_takes_any_kind_and_severity_image_by_image():
    mixed = corruptions.parse("corrupted")
    draws = [mixed.apply(picture(seed=seed)) for seed in range(12)]
    changes = [np.abs(draws[seed] - picture(seed=seed).astype(float)).mean() for seed in range(12)]
    assert len({round(change, 3) for change in changes}) == 12
    assert corruptions.parse("corrupted3") == Corruption("corrupted", 3)


@pytest.mark.parametrize("name", ["fog", "fog6", "fog0", "frost3", "mine", "gaussian-noise3", ""])
def test_what_is_no_corruption(name):
    assert corruptions.parse(name) is None


def test_names_have_a_severity():
    assert corruptions.parse("gaussian_noise5") == Corruption("gaussian_noise", 5)
    assert corruptions.parse("fog1").as_dict() == {"kind": "fog", "severity": 1, "seed": 0}


def test_images_in_memory_and_in_files_come_out_the_same():
    """In whatever batch: of a tensor of images, and of one PIL image."""
    corruption = Corruption("gaussian_noise", 3)
    preprocessing = data.Preprocessing(32, (0.5,) * 3, (0.2,) * 3, corruption=corruption)
    images = np.stack([picture(seed=seed) for seed in range(3)])
    together = preprocessing.resize(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert together.shape == (3, 3, 32, 32)
    for image, found in zip(images, together.permute(0, 2, 3, 1).numpy(), strict=True):
        np.testing.assert_array_equal(preprocessing.resize(Image.fromarray(image)), found)
        np.testing.assert_array_equal(corruption.apply(image), found)
    assert preprocessing.as_dict()["corruption"] == corruption.as_dict()
