"""images/preprocessing.py: torchvision's numbers without its import."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from images import preprocessing
from images.file_facts import Matched
from images.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("share", [1, 0.875, 0.9])
@pytest.mark.parametrize(
    "size", [(24, 24), (50, 37), (37, 50), (21, 200), (27, 27), (28, 31), (24, 25), (1, 9)]
)
def test_a_picture_is_resized_and_cropped_as_torchvision_does_it(size, share, interpolation):
    own = Preprocessing(24, MEAN, STD, interpolation, share)
    image = picture(*size)
    mode = transforms.InterpolationMode(interpolation)
    expected = transforms.resize(image, [own.resized], interpolation=mode, antialias=True)
    expected = transforms.center_crop(expected, [24])
    assert np.array_equal(np.asarray(own.resize(image)), np.asarray(expected))


def test_arrays_and_tensors_become_the_same_numbers():
    own = Preprocessing(8, MEAN, STD)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    tensors = own.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    found = own.normalised(pixels)
    assert found.dtype == np.float32 and np.array_equal(found, tensors.numpy())
    expected = (pixels[0, 0, 0] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found[0, :, 0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("match", [None, Matched(20, 16, "JPEG", 75, "4:2:0")])
def test_a_record_gives_it_back(match):
    own = Preprocessing(24, MEAN, STD, "bicubic", 0.875, match)
    assert preprocessing.recorded(json.loads(json.dumps(own.as_dict()))) == own


def test_a_file_becomes_bytes_and_a_broken_one_a_reason(tmp_path):
    own = Preprocessing(8, MEAN, STD)
    picture(10, 9).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    pixels, digest = preprocessing.decoded(str(tmp_path / "whole.png"), own)
    assert pixels.shape == (8, 8, 3) and len(digest) == 64
    why, nothing = preprocessing.decoded(str(tmp_path / "broken.png"), own)
    assert isinstance(why, str) and why and nothing is None


def test_a_picture_needs_no_torch():
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from images.preprocessing import Preprocessing\n"
        "import numpy as np\n"
        "own = Preprocessing(8, (0.5,) * 3, (0.2,) * 3)\n"
        "image = np.asarray(own.resize(Image.new('RGB', (20, 10))))\n"
        "own.normalised(image[None])\n"
        "sys.exit(', '.join({'torch', 'torchvision', 'scipy'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
