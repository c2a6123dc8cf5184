"""augment.py: every augmentation against a slow one or torchvision's, one image at a time."""
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import v2

import augment
import data
import networks

pytestmark = pytest.mark.usefixtures("one_thread")


def plainly(size):
    """Preprocessing whose normalisation only divides by 255."""
    return data.Preprocessing(size, (0.0,) * 3, (1.0,) * 3)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


EVERY = ["crop", "flip", "rotation", "colour_jitter", "erasing"]


def bytes_of(count=64, size=32, seed=0):
    return torch.from_numpy(noise(count, 3, size, size, seed=seed))


@pytest.mark.parametrize("names", [[name] for name in EVERY] + [EVERY, []], ids="+".join)
def test_augmentation_keeps_shape_gives_float32_and_leaves_its_input_alone(names):
    images, preprocessing = bytes_of(), data.Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    before = images.clone()
    found = augment.apply(images, names, generator(), preprocessing)
    assert found.shape == images.shape and found.dtype == torch.float32 and found.isfinite().all()
    assert torch.equal(images, before)
    assert torch.equal(found, preprocessing.normalise(images)) == (not names)


@pytest.mark.parametrize("names", [[name] for name in EVERY] + [EVERY], ids="+".join)
def test_augmentation_is_drawn_by_its_generator_alone(names):
    images, preprocessing = bytes_of(), plainly(32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (augment.apply(images, names, generator(seed), preprocessing) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", EVERY)
def test_every_image_gets_a_draw_of_its_own(name):
    images = bytes_of(1).expand(64, -1, -1, -1)
    found = augment.apply(images, [name], generator(), plainly(32))
    different = len({image.numpy().tobytes() for image in found})
    assert different == 2 if name == "flip" else different > 8


@pytest.mark.parametrize("size", [8, 16, 32])
def test_crops_are_shifts_by_up_to_an_eighth_with_zeros_around(size):
    images, padding, seen = bytes_of(400, size), size // 8, Counter()
    found = augment.crop(images, generator())
    for image, result in zip(images.numpy(), found.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        shifts = [(down, right) for down in range(2 * padding + 1) for right in range(2 * padding + 1)
                  if np.array_equal(padded[:, down:down + size, right:right + size], result)]
        assert len(shifts) == 1
        seen[shifts[0]] += 1
    sides = (2 * padding + 1) ** 2
    assert len(seen) == sides and max(seen.values()) < 3 * 400 / sides


def test_flips_are_exact_and_half_of_the_images():
    images = bytes_of(2000, 8)
    found = augment.flip(images, generator())
    kept, mirrored = ((found == wanted).flatten(1).all(1) for wanted in (images, images.flip(3)))
    assert (kept ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_rotation_by_zero_degrees_is_the_identity():
    images = bytes_of(16)
    assert torch.allclose(augment.rotation(images, generator(), degrees=0), images.float(), atol=1e-3)


def test_rotation_is_torchvisions_by_the_drawn_angle():
    images = bytes_of(12)
    angles = (torch.rand(12, generator=generator(5)) * 2 - 1) * 15
    found = augment.rotation(images, generator(5))
    assert angles.min() < -5 and angles.max() > 5
    bilinear = torchvision.transforms.InterpolationMode.BILINEAR
    for image, result, angle in zip(images.float(), found, angles.tolist(), strict=True):
        both = [v2.functional.rotate(image, sign * angle, bilinear) for sign in (1, -1)]
        assert min((result - other).abs().max().item() for other in both) < 0.1


def test_colour_jitter_is_brightness_contrast_and_saturation_in_that_order():
    images = bytes_of(20)
    factors = 1 + (torch.rand(3, 20, 1, 1, 1, generator=generator(2)) * 2 - 1).view(3, 20) * 0.2
    found = augment.colour_jitter(images, generator(2))
    assert factors.min() < 0.9 and factors.max() > 1.1
    for image, result, (brightness, contrast, saturation) in zip(images.float() / 255, found, factors.T.tolist(), strict=True):
        image = v2.functional.adjust_brightness(image, brightness)
        image = v2.functional.adjust_contrast(image, contrast)
        image = v2.functional.adjust_saturation(image, saturation)
        assert (result - image * 255).abs().max() < 0.1
    assert found.min() >= 0 and found.max() <= 255


def boxes(images):
    """Images that are 1 everywhere but where they were erased -> (N, 4) top, left, height, width; zeros where nothing was."""
    found = []
    for image in (images == 0).all(1).numpy():
        rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
        found.append((rows[0], columns[0], len(rows), len(columns)) if len(rows) else (0, 0, 0, 0))
        assert image.sum() == len(rows) * len(columns)
    return np.array(found)


def test_erasing_makes_boxes_of_the_drawn_share_as_torchvision_does():
    count, size = 4000, 32
    ours = boxes(augment.erasing(torch.ones(count, 3, size, size), generator()))
    torch.manual_seed(0)
    reference = torchvision.transforms.RandomErasing(p=0.25, scale=(0.02, 0.33), ratio=(0.3, 3.3))
    theirs = boxes(torch.stack([reference(torch.ones(3, size, size)) for _ in range(count)]))
    ours, theirs = (found[found[:, 2] > 0] for found in (ours, theirs))
    assert abs(len(ours) / count - 0.25) < 0.025 and abs(len(theirs) / count - 0.25) < 0.025
    for quantity in (lambda box: box[:, 2] * box[:, 3] / size ** 2, lambda box: np.log(box[:, 2] / box[:, 3]),
                     lambda box: box[:, 0] + box[:, 2] / 2, lambda box: box[:, 1] + box[:, 3] / 2):
        one, two = quantity(ours), quantity(theirs)
        error = np.sqrt(one.var() / len(one) + two.var() / len(two))
        assert abs(one.mean() - two.mean()) < 4 * error and 0.85 < one.std() / two.std() < 1.18
    share = ours[:, 2] * ours[:, 3] / size ** 2
    assert share.min() > 0.01 and share.max() < 0.36


def test_erasing_reaches_every_edge_and_always_or_never_where_told_so():
    erased = boxes(augment.erasing(torch.ones(2000, 3, 32, 32), generator(), probability=1.0))
    assert (erased[:, 2] > 0).all()
    assert erased[:, 0].min() == 0 and erased[:, 1].min() == 0
    assert (erased[:, 0] + erased[:, 2]).max() == 32 and (erased[:, 1] + erased[:, 3]).max() == 32
    images = torch.rand(16, 3, 32, 32)
    assert torch.equal(augment.erasing(images, generator(), probability=0.0), images)


def test_what_is_erased_becomes_the_mean_colour():
    preprocessing = data.Preprocessing(32, (0.5, 0.25, 0.75), (0.2, 0.3, 0.4))
    images = torch.full((64, 3, 32, 32), 10, dtype=torch.uint8)
    found = augment.apply(images, ["erasing"], generator(), preprocessing)
    plain = preprocessing.normalise(images)
    changed = (found != plain).any(1)
    assert changed.any()
    for channel, mean in enumerate(preprocessing.mean):
        raw = found[:, channel][changed] * preprocessing.std[channel] + preprocessing.mean[channel]
        assert torch.allclose(raw, torch.tensor(mean))
        assert torch.equal(found[:, channel][~changed], plain[:, channel][~changed])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("names", [[name] for name in EVERY] + [EVERY], ids="+".join)
def test_augmentation_stays_on_the_gpu(names):
    images, preprocessing = bytes_of().cuda(), data.Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    first, again = (augment.apply(images, names, torch.Generator("cuda").manual_seed(3), preprocessing) for _ in range(2))
    assert first.device.type == "cuda" and first.shape == images.shape and torch.equal(first, again)


def test_augmented_images_are_what_a_network_takes():
    images = augment.apply(bytes_of(4, 16), EVERY, generator(), plainly(16))
    assert networks.build("resnet_cifar", 3)(images).shape == (4, 3)
