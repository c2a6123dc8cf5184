"""noise_ood_datasets_generator.py: the images' distribution, that they are read back as they were
drawn, and bad input."""

import numpy as np
import pytest
from helpers import shell
from PIL import Image
from scipy.stats import norm

import data
import noise_ood_datasets_generator as generator
from artifacts import records
from images import noise, sets

NAMES = ("uniform_noise", "gaussian_noise")


def write(folder, *words):
    generator.main(["--output-dir", str(folder), "--image-size", "8", *words])


def pixels_of(folder):
    """-> uint8 (N, S, S, 3), in the order of the names."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def test_uniform_noise_takes_every_value_as_often():
    values = noise.uniform(np.random.default_rng(0), (256_000,))
    counts = np.bincount(values, minlength=256)
    assert counts.min() > 800 and counts.max() < 1200
    assert values.mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("deviation", [0.25, 1.0])
def test_gaussian_noise_is_cut_at_both_ends_around_one_half(deviation):
    values = noise.gaussian(np.random.default_rng(0), (200_000,), deviation) / 255
    assert values.mean() == pytest.approx(0.5, abs=0.005)
    for end in (0, 1):
        # what rounds to the end joins what is cut there
        share = norm.cdf((0.5 / 255 - 0.5) / deviation)
        assert (values == end).mean() == pytest.approx(share, abs=0.005)
    middle = norm.cdf(0.75, 0.5, deviation) - norm.cdf(0.25, 0.5, deviation)
    assert ((values > 0.25) & (values < 0.75)).mean() == pytest.approx(middle, abs=0.01)


def test_the_folders_hold_the_noise_to_the_last_bit(tmp_path):
    write(tmp_path, "--count", "12", "--seed", "3")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*NAMES, *(f"{name}.json" for name in NAMES)]
    )
    found = pixels_of(tmp_path / "uniform_noise")
    expected = [noise.uniform(np.random.default_rng((3, 0, i)), (8, 8, 3)) for i in range(12)]
    assert np.array_equal(found, np.stack(expected))
    found = pixels_of(tmp_path / "gaussian_noise")
    expected = [noise.gaussian(np.random.default_rng((3, 1, i)), (8, 8, 3), 1.0) for i in range(12)]
    assert np.array_equal(found, np.stack(expected))
    facts = records.read_sidecar(tmp_path / "uniform_noise")
    assert facts["arguments"]["count"] == 12 and facts["arguments"]["seed"] == 3


def test_more_images_begin_with_the_same_ones(tmp_path):
    write(tmp_path / "few", "--count", "3")
    write(tmp_path / "many", "--count", "11")
    write(tmp_path / "other", "--count", "3", "--seed", "1")
    for name in NAMES:
        few, many = pixels_of(tmp_path / "few" / name), pixels_of(tmp_path / "many" / name)
        assert np.array_equal(few, many[:3])
        assert not np.array_equal(few, pixels_of(tmp_path / "other" / name))


def test_a_folder_is_an_ood_set(tmp_path):
    write(tmp_path, "--count", "5")
    preprocessing = data.Preprocessing(8, (0.5,) * 3, (0.5,) * 3)
    images = sets.image_folder(tmp_path / "gaussian_noise", preprocessing)
    (batch,) = images.batches(5)
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), pixels_of(tmp_path / "gaussian_noise"))


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "gaussian_noise").mkdir()
    with pytest.raises(ValueError, match=r"gaussian_noise is there already; .* rm -r "):
        write(tmp_path, "--count", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["gaussian_noise"]


def test_an_interruption_leaves_no_folder(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(noise, "uniform", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "--count", "2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "expected a whole number of at least 1, found 0"),
        (["--std", "0"], "expected a number above 0, found 0"),
        (["--seed", "-1"], "--seed is -1; expected 0 or more"),
    ],
)
def test_bad_input_is_one_message(tmp_path, words, said):
    ended = shell(generator.main, "--output-dir", str(tmp_path), *words)
    assert ended.code == 2 and said in ended.err
