"""augment.py: every augmentation against a slow one or torchvision's, one image at a time."""

import inspect
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import v2

import data
from networks import registry
from training import augment

pytestmark = pytest.mark.usefixtures("one_thread")


def plainly(size):
    """Preprocessing whose normalisation only divides by 255."""
    return data.Preprocessing(size, (0.0,) * 3, (1.0,) * 3)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


EVERY = [
    "crop",
    "flip",
    "trivial",
    "rand",
    "auto",
    "rotation_nearest",
    "rotation",
    "colour_jitter",
    "hue",
    "erasing",
    "cutout",
]


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
    first, again, other = (
        augment.apply(images, names, generator(seed), preprocessing) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", EVERY)
def test_every_image_gets_a_draw_of_its_own(name):
    images = bytes_of(1).expand(64, -1, -1, -1)
    found = augment.apply(images, [name], generator(), plainly(32))
    different = len({image.numpy().tobytes() for image in found})
    assert different == 2 if name == "flip" else different > 8


def moment(rows, epoch=0, seed=0):
    return augment.Moment(torch.as_tensor(rows), epoch, 0.0, seed)


def mirrored(images, rows, **when):
    """(B,) True where the alternating flip mirrored an image, and False where it left it alone."""
    found = augment.alternating_flip(images, moment(rows, **when))
    flags = []
    for before, after in zip(images, found, strict=True):
        is_same = torch.equal(before, after)
        assert is_same or torch.equal(before.flip(-1), after)
        flags.append(not is_same)
    return np.array(flags)


@pytest.mark.parametrize("seed", [0, 7, 20261126123456])
def test_every_image_is_mirrored_in_every_other_epoch_and_half_of_them_in_each(seed):
    images, rows = bytes_of(1000, 4), np.arange(1000)
    first = mirrored(images, rows, seed=seed)
    assert 0.45 < first.mean() < 0.55
    # no pattern along the rows: neighbours agree as often as not
    assert 0.45 < (first[1:] == first[:-1]).mean() < 0.55
    assert (mirrored(images, rows, epoch=1, seed=seed) == ~first).all()
    assert (mirrored(images, rows, epoch=2, seed=seed) == first).all()
    # an image's side goes by its number, whatever batch it is in
    order = np.random.default_rng(0).permutation(1000)
    assert (mirrored(images[order], order, seed=seed) == first[order]).all()


def test_another_seed_mirrors_others():
    images, rows = bytes_of(1000, 4), np.arange(1000)
    agree = mirrored(images, rows, seed=1) == mirrored(images, rows, seed=2)
    assert 0.45 < agree.mean() < 0.55


def test_the_alternating_flip_stands_where_it_is_named_among_the_others():
    images, when = bytes_of(64), moment(np.arange(64))
    found = augment.apply(images, ["alternating_flip", "crop"], generator(), plainly(32), when)
    expected = augment.crop(augment.alternating_flip(images, when), generator())
    assert torch.equal(found, plainly(32).normalise(expected))


def test_smaller_images_are_those_of_torchvision():
    images = torch.randn(3, 3, 32, 32, generator=generator())
    found = augment.resized(images, 20)
    expected = v2.functional.resize(images, [20, 20], antialias=True)
    assert torch.allclose(found, expected, atol=1e-6)
    assert augment.resized(images, 32) is images


@pytest.mark.parametrize("size", [8, 16, 32])
def test_crops_are_shifts_by_up_to_an_eighth_with_zeros_around(size):
    images, padding, seen = bytes_of(400, size), size // 8, Counter()
    found = augment.crop(images, generator())
    for image, result in zip(images.numpy(), found.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        shifts = [
            (down, right)
            for down in range(2 * padding + 1)
            for right in range(2 * padding + 1)
            if np.array_equal(padded[:, down : down + size, right : right + size], result)
        ]
        assert len(shifts) == 1
        seen[shifts[0]] += 1
    sides = (2 * padding + 1) ** 2
    assert len(seen) == sides and max(seen.values()) < 3 * 400 / sides


@pytest.mark.parametrize("size", [8, 16, 32, 33])
def test_crops_are_the_windows_that_were_drawn(size):
    images, padding = bytes_of(50, size), size // 8
    down, right = (
        torch.randint(0, 2 * padding + 1, (2, 50, 1, 1), generator=generator(5))
        .view(2, 50)
        .tolist()
    )
    padded = torch.nn.functional.pad(images, [padding] * 4)
    expected = [
        image[:, y : y + size, x : x + size]
        for image, y, x in zip(padded, down, right, strict=True)
    ]
    for given in (images, images.float(), images.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(augment.crop(given, generator(5)), torch.stack(expected).to(given.dtype))


def test_flips_are_exact_and_half_of_the_images():
    images = bytes_of(2000, 8)
    found = augment.flip(images, generator())
    kept, mirrored = ((found == wanted).flatten(1).all(1) for wanted in (images, images.flip(3)))
    assert (kept ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_rotation_by_zero_degrees_is_the_identity():
    images = bytes_of(16)
    assert torch.allclose(
        augment.rotation(images, generator(), degrees=0), images.float(), atol=1e-3
    )


def test_rotation_is_torchvisions_by_the_drawn_angle():
    images = bytes_of(12)
    angles = (torch.rand(12, generator=generator(5)) * 2 - 1) * 15
    found = augment.rotation(images, generator(5))
    assert angles.min() < -5 and angles.max() > 5
    bilinear = torchvision.transforms.InterpolationMode.BILINEAR
    for image, result, angle in zip(images.float(), found, angles.tolist(), strict=True):
        both = [v2.functional.rotate(image, sign * angle, bilinear) for sign in (1, -1)]
        assert min((result - other).abs().max().item() for other in both) < 0.1


def test_rotation_nearest_is_torchvisions_default_by_the_drawn_angle():
    images = many_kinds(32)
    angles = (torch.rand(len(images), generator=generator(5)) * 2 - 1) * 15
    found = augment.rotation_nearest(images, generator(5))
    expected = [
        v2.functional.rotate(image, angle)
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    assert torch.equal(found, torch.stack(expected)) and found.dtype == torch.uint8
    assert angles.min() < -10 and angles.max() > 10
    floats = augment.rotation_nearest(images.float() + 0.25, generator(5))
    moved = torch.stack(expected) + 0.25
    assert torch.equal(floats[floats > 0], moved[floats > 0])


def test_colour_jitter_is_brightness_contrast_and_saturation_in_that_order():
    images = bytes_of(20)
    factors = 1 + (torch.rand(3, 20, 1, 1, 1, generator=generator(2)) * 2 - 1).view(3, 20) * 0.2
    found = augment.colour_jitter(images, generator(2))
    assert factors.min() < 0.9 and factors.max() > 1.1
    for image, result, (brightness, contrast, saturation) in zip(
        images.float() / 255, found, factors.T.tolist(), strict=True
    ):
        image = v2.functional.adjust_brightness(image, brightness)
        image = v2.functional.adjust_contrast(image, contrast)
        image = v2.functional.adjust_saturation(image, saturation)
        assert (result - image * 255).abs().max() < 0.1
    assert found.min() >= 0 and found.max() <= 255


def test_hue_is_torchvisions_by_the_drawn_turn():
    images = many_kinds(16)
    images[0, :, :, :8], images[1, 0], images[2, 1], images[3, 2] = 0, 255, 255, 255
    images[4, :2], images[5, 1:], images[6, ::2] = 200, 200, 200  # two channels alike
    turns = (torch.rand(len(images), generator=generator(2)) * 2 - 1) * 0.1
    found = augment.hue(images, generator(2))
    assert turns.min() < -0.09 and turns.max() > 0.09
    for image, result, turn in zip(images, found, turns.tolist(), strict=True):
        expected = v2.functional.adjust_hue(image.float() / 255, turn)
        assert (result - expected * 255).abs().max() < 0.01
        # torchvision rounds bytes down, after a sum that may be a hair below a whole number
        whole = v2.functional.adjust_hue(image, turn)
        assert (result - whole).abs().max() < 1.01
    whole_circle = augment.hue(images, generator(2), turn=0.0)
    assert (whole_circle - images).abs().max() < 1e-3


def test_hue_leaves_grey_alone_and_every_pixels_largest_and_smallest_channel():
    images = bytes_of(20)
    images[:10] = images[:10, :1]
    found = augment.hue(images, generator(2), turn=0.5)
    assert torch.equal(found[:10], images[:10].float())
    for extreme in (torch.amax, torch.amin):
        difference = extreme(found, 1) - extreme(images, 1)
        assert difference.abs().max() < 1e-3
    assert (found[10:] - images[10:]).abs().mean() > 20


def boxes(images):
    """Images that are 1 everywhere but where they were erased -> (N, 4) top, left, height, width;
    zeros where nothing was."""
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
    for quantity in (
        lambda box: box[:, 2] * box[:, 3] / size**2,
        lambda box: np.log(box[:, 2] / box[:, 3]),
        lambda box: box[:, 0] + box[:, 2] / 2,
        lambda box: box[:, 1] + box[:, 3] / 2,
    ):
        one, two = quantity(ours), quantity(theirs)
        error = np.sqrt(one.var() / len(one) + two.var() / len(two))
        assert abs(one.mean() - two.mean()) < 4 * error and 0.85 < one.std() / two.std() < 1.18
    share = ours[:, 2] * ours[:, 3] / size**2
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


@pytest.mark.parametrize(("size", "side"), [(32, 8), (16, 4), (8, 2)])
def test_cutout_is_a_square_around_the_drawn_pixel_cut_off_at_the_edges(size, side):
    images = torch.rand(300, 3, size, size) + 1
    found = augment.cutout(images, generator(4))
    centres = torch.randint(size, (2, 300, 1), generator=generator(4)).view(2, 300).T.tolist()
    for image, result, (y, x) in zip(images, found, centres, strict=True):
        expected = image.clone()
        expected[
            :, max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2
        ] = 0
        assert torch.equal(result, expected)
    assert {y for y, _ in centres} == {x for _, x in centres} == set(range(size))


# ---- TrivialAugment, RandAugment and AutoAugment, one operation at a time against torchvision's --

LEFT = dict(angle=0.0, scale=1.0, center=[0, 0], translate=[0, 0])
MIDDLE = dict(angle=0.0, scale=1.0, shear=[0.0, 0.0])
THEIRS = {  # as TrivialAugmentWide, RandAugment and AutoAugment call them
    "Identity": lambda images, m: images,
    "ShearX": lambda images, m: v2.functional.affine(
        images, shear=[np.rad2deg(np.arctan(m)), 0.0], **LEFT
    ),
    "ShearY": lambda images, m: v2.functional.affine(
        images, shear=[0.0, np.rad2deg(np.arctan(m))], **LEFT
    ),
    "TranslateX": lambda images, m: v2.functional.affine(images, translate=[int(m), 0], **MIDDLE),
    "TranslateY": lambda images, m: v2.functional.affine(images, translate=[0, int(m)], **MIDDLE),
    "Rotate": lambda images, m: v2.functional.rotate(images, m),
    "Brightness": lambda images, m: v2.functional.adjust_brightness(images, 1 + m),
    "Color": lambda images, m: v2.functional.adjust_saturation(images, 1 + m),
    "Contrast": lambda images, m: v2.functional.adjust_contrast(images, 1 + m),
    "Sharpness": lambda images, m: v2.functional.adjust_sharpness(images, 1 + m),
    "Posterize": lambda images, m: v2.functional.posterize(images, int(m)),
    "Solarize": lambda images, m: v2.functional.solarize(images, 255 * m),
    "AutoContrast": lambda images, m: v2.functional.autocontrast(images),
    "Equalize": lambda images, m: v2.functional.equalize(images),
    "Invert": lambda images, m: v2.functional.invert(images),
}
# sums of two products, which one side fuses: one grey level where they cut off
ROUNDED = {
    "Color",
    "Contrast",
    "Sharpness",
}
CPU = torch.device("cpu")
SPACES = {
    "trivial": (v2.TrivialAugmentWide()._AUGMENTATION_SPACE, 31),
    "rand": (v2.RandAugment()._AUGMENTATION_SPACE, 31),
    "auto": (v2.AutoAugment()._AUGMENTATION_SPACE, 10),
}


def space(name, size):
    """(operations, levels), as `trivial`, `rand` or `auto` draws from it."""
    if name == "trivial":
        return augment.wide_magnitudes(size, CPU)
    return augment.policy_magnitudes(SPACES[name][1], size, CPU)


def many_kinds(size):
    """Noise, dim noise, flat ones, grey ones, and photographs: what equalize, contrast and
    sharpness treat apart."""
    photographs = data.photos("test", plainly(size), None).pixels[::40]
    images = torch.cat(
        [
            bytes_of(8, size),
            bytes_of(8, size, seed=1) // 4 + 60,
            bytes_of(4, size, seed=2),
            photographs,
        ]
    )
    images[16], images[17], images[18] = 7, 255, images[18, :1]
    return images


def close(found, expected, name):
    """Equal; of the three that are rounded, within one grey level and that in one pixel of 25 at
    most."""
    difference = (found.int() - expected.int()).abs()
    return found.dtype == torch.uint8 and (
        difference.max() == 0
        if name not in ROUNDED
        else difference.max() <= 1 and difference.float().mean() < 0.04
    )


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_every_operation_equals_torchvisions_at_every_magnitude(name, size):
    images, number = many_kinds(size), augment.OPERATIONS.index(name)
    before, signs = images.clone(), (1, -1) if name in augment.SIGNED else (1,)
    wanted = sorted(
        {
            sign * value
            for which in SPACES
            for value in space(which, size)[number].tolist()
            for sign in signs
        }
    )
    for magnitude in wanted:
        found = augment.operate(
            images, torch.full((len(images),), number), torch.full((len(images),), magnitude)
        )
        assert close(found, THEIRS[name](images, magnitude), name), magnitude
    assert torch.equal(images, before)


@pytest.mark.parametrize("which", SPACES)
@pytest.mark.parametrize("size", [32, 64])
def test_magnitudes_are_those_of_torchvision(which, size):
    theirs, levels = SPACES[which]
    without = "Identity" if which == "auto" else "Invert"
    assert set(theirs) == set(augment.OPERATIONS) - {without}
    for name, (values, signed) in theirs.items():
        expected, found = (
            values(levels, size, size),
            space(which, size)[augment.OPERATIONS.index(name)],
        )
        if expected is not None:
            # they cut it off later
            whole = expected.trunc() if name.startswith("Translate") else expected
            assert torch.equal(found, whole.float()), name
        assert signed == (name in augment.SIGNED)


def test_a_small_image_is_shifted_by_its_own_side_at_most():
    for size, furthest in ((8, 8), (16, 16), (32, 32), (64, 32)):
        assert (
            augment.wide_magnitudes(size, CPU)[augment.OPERATIONS.index("TranslateX")].max()
            == furthest
        )


def test_the_policy_is_torchvisions_for_cifar10():
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    theirs = [
        tuple((name, probability, level or 0) for name, probability, level in pair)
        for pair in theirs
    ]
    assert theirs == list(augment.AUTO)
    operation, probability, magnitude = augment.auto_policy(32, CPU)
    # int(150 / 331 * 32)
    assert augment.OPERATIONS[operation[3, 1]] == "TranslateY" and magnitude[3, 1] == 14
    assert probability[1].tolist() == pytest.approx([0.7, 0.3]) and magnitude[
        1, 0
    ] == pytest.approx(30 * 2 / 9)


def drawn(monkeypatch, function, images, seed=0):
    """What `function` asks for: [(operation (B,), magnitude (B,)), ...]."""
    asked, real = [], augment.operate
    with monkeypatch.context() as patch:
        patch.setattr(
            augment, "operate", lambda images, *which: asked.append(which) or real(images, *which)
        )
        function(images, generator(seed))
    return asked


def test_trivial_draws_operations_magnitudes_and_signs_uniformly(monkeypatch):
    count = 14 * 2000
    ((operation, magnitude),) = drawn(
        monkeypatch, augment.trivial, torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    )
    counts = torch.bincount(operation, minlength=15)
    assert counts[14] == 0 and ((counts[:14] - 2000).abs() < 5 * 2000**0.5).all()
    for name in ("ShearX", "Rotate", "Sharpness"):
        values = magnitude[operation == augment.OPERATIONS.index(name)]
        levels = torch.unique(values, return_counts=True)
        # 31 with a sign, zero has none
        assert len(levels[0]) == 61 and torch.equal(levels[0], -levels[0].flip(0))
        expected = torch.where(levels[0] == 0, 2, 1) * len(values) / 62
        assert ((levels[1] - expected).abs() < 5 * expected.sqrt()).all()
    for name in ("Posterize", "Solarize"):
        assert (magnitude[operation == augment.OPERATIONS.index(name)] >= 0).all()
    # The place in the batch has no say: both halves draw alike.
    halves = [
        torch.bincount(half, minlength=14)
        for half in (operation[: count // 2], operation[count // 2 :])
    ]
    assert ((halves[0] - halves[1]).abs() < 5 * 2000**0.5).all()


def test_rand_draws_operations_and_signs_uniformly_and_all_of_one_strength(monkeypatch):
    count, names = 14 * 2000, augment.OPERATIONS
    images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    asked = drawn(monkeypatch, augment.rand, images)
    assert len(asked) == 2
    table = space("rand", 2)[:, 9]
    for operation, magnitude in asked:
        counts = torch.bincount(operation, minlength=15)
        assert counts[14] == 0 and ((counts[:14] - 2000).abs() < 5 * 2000**0.5).all()
        for number in range(14):
            values = magnitude[operation == number]
            assert (values.abs() == table[number]).all(), names[number]
            if names[number] in augment.SIGNED and table[number]:
                assert 0.44 < (values > 0).float().mean() < 0.56, names[number]
            else:
                assert (values >= 0).all(), names[number]
    # The two operations are drawn by themselves.
    both = torch.bincount(asked[0][0] * 14 + asked[1][0], minlength=196)
    assert ((both - count / 196).abs() < 5 * (count / 196) ** 0.5).all()


def test_the_defaults_of_rand_are_torchvisions_and_its_arguments_are_heeded(monkeypatch):
    theirs = v2.RandAugment()
    defaults = inspect.signature(augment.rand).parameters
    assert defaults["ops"].default == theirs.num_ops
    assert defaults["magnitude"].default == theirs.magnitude
    assert theirs.num_magnitude_bins == augment.RAND_LEVELS
    asked = drawn(monkeypatch, partial(augment.rand, ops=3, magnitude=30), bytes_of(400, 8))
    assert len(asked) == 3
    operation, magnitude = asked[2]
    turned = magnitude[operation == augment.OPERATIONS.index("Rotate")]
    assert set(turned.tolist()) == {-30.0, 30.0}
    settings = {"rand": {"ops": 3, "magnitude": 30}}
    found = augment.apply(bytes_of(), ["rand"], generator(1), plainly(32), settings=settings)
    expected = augment.rand(bytes_of(), generator(1), ops=3, magnitude=30)
    assert torch.equal(found, expected / 255)


def test_auto_draws_each_step_with_the_probabilities_of_its_policy(monkeypatch):
    count = 50_000
    asked = drawn(monkeypatch, augment.auto, torch.zeros(count, 3, 2, 2, dtype=torch.uint8))
    for step, (operation, magnitude) in enumerate(asked):
        expected = torch.zeros(15)
        for pair in augment.AUTO:
            name, probability, _ = pair[step]
            expected[augment.OPERATIONS.index(name)] += probability * count / 25
        expected[0] = count - expected.sum()
        assert (torch.bincount(operation, minlength=15) - expected).abs().div(
            expected.sqrt() + 1
        ).max() < 5
        factors = magnitude[operation == augment.OPERATIONS.index("Color")]
        assert 0.45 < (factors > 0).float().mean() / (factors != 0).float().mean() < 0.55
    # Both steps are of one sub-policy: after Rotate comes TranslateX or nothing.
    after = asked[1][0][asked[0][0] == augment.OPERATIONS.index("Rotate")]
    assert {augment.OPERATIONS[number] for number in after.tolist()} == {"Identity", "TranslateX"}


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("name", ["trivial", "rand", "auto"])
def test_images_become_what_torchvision_makes_of_each_alone_by_the_same_draws(
    monkeypatch, name, size
):
    images, function = many_kinds(size).repeat(4, 1, 1, 1), getattr(augment, name)
    expected = images
    for operation, magnitude in drawn(monkeypatch, function, images, seed=9):
        assert len(set(operation.tolist())) > 5
        pairs = zip(
            expected,
            [augment.OPERATIONS[number] for number in operation],
            magnitude.tolist(),
            strict=True,
        )
        expected = torch.stack([THEIRS[which](image, value) for image, which, value in pairs])
    found = function(images, generator(9))
    assert found.shape == images.shape and found.dtype == torch.uint8
    # A grey level of difference in the first step can be more after equalize, but only there.
    assert ((found.int() - expected.int()).abs() > 1).float().mean() < 0.002


def test_an_image_is_treated_alike_wherever_it_stands_and_whoever_stands_beside_it():
    images = many_kinds(16)
    number = torch.arange(len(images)) % 15
    magnitude = space("trivial", 16)[number, torch.arange(len(images)) % 31]
    found, order = (
        augment.operate(images, number, magnitude),
        torch.randperm(len(images), generator=generator()),
    )
    assert torch.equal(
        augment.operate(images[order], number[order], magnitude[order]), found[order]
    )
    alone = [
        augment.operate(images[i : i + 1], number[i : i + 1], magnitude[i : i + 1])
        for i in range(len(images))
    ]
    assert torch.equal(torch.cat(alone), found)
    # the GPU's way
    assert torch.equal(augment.operate(images, number, magnitude, by_rows=False), found)


@pytest.mark.parametrize("name", ["trivial", "rand", "auto"])
def test_digits_stay_bytes_of_three_equal_channels(name):
    for size in (8, 16):
        images = data.load_id(data.ID["digits"], "train", plainly(size), None).pixels[:300]
        found = getattr(augment, name)(images, generator())
        assert found.shape == images.shape and found.dtype == torch.uint8
        assert ((found[:, 0].int() - found[:, 1].int()).abs() <= 1).all()
        assert (found != images).flatten(1).any(1).float().mean() > 0.2


@pytest.mark.parametrize("name", ["trivial", "rand", "auto"])
def test_what_takes_bytes_refuses_anything_else(name):
    with pytest.raises(AssertionError, match="trivial, rand, auto stand before"):
        augment.apply(bytes_of(4), ["rotation", name], generator(), plainly(32))


def test_erasing_and_cutout_come_last_wherever_they_are_named():
    images, preprocessing = bytes_of(64), data.Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    found = augment.apply(images, ["cutout", "flip"], generator(3), preprocessing)
    drawing = generator(3)
    expected = augment.cutout(preprocessing.normalise(augment.flip(images, drawing)), drawing)
    assert torch.equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("names", [[name] for name in EVERY] + [EVERY], ids="+".join)
def test_augmentation_stays_on_the_gpu(names):
    images, preprocessing = bytes_of().cuda(), data.Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    first, again = (
        augment.apply(images, names, torch.Generator("cuda").manual_seed(3), preprocessing)
        for _ in range(2)
    )
    assert first.device.type == "cuda" and first.shape == images.shape and torch.equal(first, again)


def test_augmented_images_are_what_a_network_takes():
    images = augment.apply(bytes_of(4, 16), EVERY, generator(), plainly(16))
    assert registry.build("resnet_cifar", 3)(images).shape == (4, 3)
