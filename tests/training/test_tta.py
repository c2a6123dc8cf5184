"""training/tta.py: views of images, and the number that they make."""

import torch

from training import tta


def first_pixel(images):
    """A "network" whose only logit is the red value of the upper left pixel."""
    return images[:, :1, 0, 0]


def numbered(side=4):
    """One image whose pixels tell their place: 10 row + column."""
    place = torch.arange(side, dtype=torch.float32)
    return (10 * place[:, None] + place).expand(1, 3, side, side)


def test_flip_averages_the_image_and_its_mirror_image():
    # upper left pixels: 0 of the image, 3 of its mirror image
    assert tta.VIEWS["flip"](first_pixel, numbered()).tolist() == [[1.5]]


def test_shifts_by_a_pixel_count_as_half():
    # Reflected, the pixel that comes in at the upper left is that at (1, 1), 11, and at the upper
    # right that at (1, 2), 12, for the image moved down and right: its upper row is 11 10 11 12.
    # Moved up and left the upper row is 11 12 13 12.
    moved = ((11 + 12) / 2 + (11 + 12) / 2) / 2
    found = tta.VIEWS["flip+shift"](first_pixel, numbered())
    assert found.tolist() == [[(1.5 + moved) / 2]]


def test_views_of_a_network_that_sees_no_place_are_its_own_logits():
    images = numbered()
    for views in tta.VIEWS.values():
        assert torch.equal(views(lambda x: x.sum((2, 3)) * 0 + 7, images), torch.full((1, 3), 7.0))
