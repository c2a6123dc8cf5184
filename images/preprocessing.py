"""How an image of any size becomes a network's input.

    preprocessing = Preprocessing(224, (0.5,) * 3, (0.25,) * 3, "bicubic", crop_share=0.875)
    preprocessing.resize(picture)            # a PIL image -> the same of 224 x 224 pixels
    preprocessing.normalise(images)          # a tensor of bytes -> what the network takes
    preprocessing.normalised(arrays)         # the same of NumPy's arrays, bit for bit
    decoded("photograph.jpg", preprocessing)  # the file's pixels and SHA-256, or why not

torch and torchvision take seconds to import, and one photograph through an ONNX network needs
neither: they are imported where the first tensor comes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from images import reading
from images.file_facts import Matched

if TYPE_CHECKING:
    import torch

    from images.corruptions import Corruption

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
WHITE = 255


@dataclass(frozen=True)
class Preprocessing:
    """How an image of any size becomes a network's input; kept in the checkpoint and applied to
    every ID and OOD image.

    The shorter side is resized to `size` pixels (antialiased), the centre is cropped, and channels
    in [0, 1] are normalised by `mean` and `std`: those of the ID set, or mean 0 and std 1 for a
    network of raw inputs. With a `crop_share` of 0.875 the shorter side becomes size / 0.875 first:
    256 for 224, as networks for ImageNet have it."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_share: float = 1.0
    match: Matched | None = None  # each image is given this size and encoding first
    corruption: "Corruption | None" = None  # what befalls each image once it has its size

    @property
    def resized(self) -> int:
        """Pixels of the shorter side before the centre is cropped."""
        return round(self.size / self.crop_share)

    @property
    def words(self) -> str:
        """ "224 px in the centre of 256, bilinear, mean 0.5, std 0.25"."""
        size = f"{self.size} px"
        if self.crop_share != 1:
            size += f" in the centre of {self.resized}"
        mean, std = channels(self.mean), channels(self.std)
        return f"{size}, {self.interpolation}, mean {mean}, std {std}"

    # -- a picture of the network's size

    def resize(self, image: Any) -> Any:
        """PIL image or uint8 tensor (..., H, W) -> the same with H = W = size."""
        image = self.resized_alone(image)
        return image if self.corruption is None else corrupted(image, self.corruption)

    def resized_alone(self, image: Any) -> Any:
        """The same without the corruption."""
        if self.match is not None:
            image = matched(image, self.match)
        if isinstance(image, Image.Image):
            return self.picture(image)
        return self.tensor(image)

    def picture(self, image: Image.Image) -> Image.Image:
        """torchvision's resize and center_crop of a PIL image, without its import."""
        width, height = image.size
        shorter = min(width, height)
        if shorter != self.resized:
            width, height = (int(self.resized * side / shorter) for side in image.size)
            image = image.resize((width, height), RESAMPLING[self.interpolation])
        left = round((width - self.size) / 2)
        top = round((height - self.size) / 2)
        if (width, height) == (self.size, self.size):
            return image
        return image.crop((left, top, left + self.size, top + self.size))

    def tensor(self, images: "torch.Tensor") -> "torch.Tensor":
        """The same of a uint8 tensor (..., H, W)."""
        from torchvision.transforms.v2 import functional as transforms

        if min(transforms.get_size(images)) != self.resized:
            mode = transforms.InterpolationMode(self.interpolation)
            images = transforms.resize(images, [self.resized], interpolation=mode, antialias=True)
        if transforms.get_size(images) == [self.size, self.size]:
            return images
        return transforms.center_crop(images, [self.size])

    # -- a network's input

    def normalise(self, images: "torch.Tensor") -> "torch.Tensor":
        """uint8 (N, 3, S, S) -> float32 (N, 3, S, S), channels last in memory."""
        import torch

        mean = per_channel(tuple(self.mean), images.device)
        std = per_channel(tuple(self.std), images.device)
        scaled = (images.to(torch.float32) - mean).div_(std)
        # The channels' move comes last: a subtraction over three interleaved channels is four times
        # as slow on a CPU.
        return scaled.contiguous(memory_format=torch.channels_last)

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, S, S, 3) -> float32 (N, 3, S, S), the numbers of `normalise`."""
        mean = np.array(self.mean, np.float32) * WHITE
        std = np.array(self.std, np.float32) * WHITE
        scaled = (images.astype(np.float32) - mean) / std
        return scaled.transpose(0, 3, 1, 2)

    # -- as files keep it

    def as_dict(self) -> dict[str, Any]:
        """The values as records keep them; `match` and `corruption` only where there is one."""
        optional = ("match", "corruption")
        without = [name for name in optional if getattr(self, name) is None]
        return {name: value for name, value in asdict(self).items() if name not in without}


def recorded(values: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of `as_dict`'s values, as JSON gives them back: a clean pass, without a
    corruption."""
    known = {name: value for name, value in values.items() if name != "corruption"}
    if known.get("match"):
        known["match"] = Matched(**known["match"])
    for name in ("mean", "std"):
        known[name] = tuple(known[name])
    return Preprocessing(**known)


def decoded(path: str, preprocessing: Preprocessing) -> tuple[np.ndarray | str, str | None]:
    """An image file as uint8 (S, S, 3), and the file's SHA-256; where it cannot be read, why, and
    None.

    The file is read once, so that the hash is of the very bytes that are decoded. Over 5,000 PNGs
    of 32 x 32 pixels this took 0.57 s where decoding by path took 0.61 (one core, AMD EPYC);
    hashing 27 kB takes 16 us, decoding that JPEG 500."""
    try:
        # pathlib and a buffer would cost 10 us; decoding a small PNG takes 55.
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        image = reading.read(io.BytesIO(content), preprocessing.resized)
    except Exception as error:
        return reading.reason(error), None
    pixels = np.asarray(preprocessing.resize(image))
    return pixels, sha256(content).hexdigest()


def channels(values: Sequence[float]) -> str:
    """The values of the three channels; a single number if they agree."""
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    return " ".join(f"{value:g}" for value in values)


def matched(image: Any, match: Matched) -> Any:
    """PIL image or uint8 tensor (N, 3, H, W) -> the same in another size and encoding."""
    if isinstance(image, Image.Image):
        return match.apply(image)
    import torch

    arrays = image.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.from_numpy(match.apply_all(arrays)).permute(0, 3, 1, 2)


def corrupted(image: Any, corruption: "Corruption") -> Any:
    """PIL image or uint8 tensor (N, 3, S, S) -> a uint8 array, or tensor, of the same size."""
    if isinstance(image, Image.Image):
        return corruption.apply(np.asarray(image))
    import torch

    arrays = image.permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([corruption.apply(array) for array in arrays])
    return torch.from_numpy(changed).permute(0, 3, 1, 2)


@cache
def per_channel(values: tuple[float, ...], device: "torch.device") -> "torch.Tensor":
    """Three channels in [0, 1] -> (1, 3, 1, 1) in [0, 255] on the device.

    The result is kept, since each copy to a GPU makes it wait."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, 3, 1, 1) * WHITE
