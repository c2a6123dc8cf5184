"""Image files as they come, a batch at a time, for a network that lies open: what detect.py's two
kinds of network share. Nothing here imports torch."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from images import preprocessing as preparing
from images.preprocessing import Preprocessing, decoded


@dataclass(frozen=True, eq=False)
class Found:
    """What became of the images of a batch.

    paths     [n] of those that were read, in their order
    features  (n, D) float32
    broken    {path: why it cannot be read}
    """

    paths: list[str]
    features: np.ndarray
    broken: dict[str, str]

    @classmethod
    def none(cls, broken: dict[str, str]) -> "Found":
        """Of a batch of which nothing could be read."""
        return cls([], np.empty((0, 0), np.float32), broken)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a batch, before the network.

    paths   [n] of those that were read, in their order
    pixels  (n, S, S, 3) uint8; None where there are none
    broken  {path: why it cannot be read}
    """

    paths: list[str]
    pixels: np.ndarray | None
    broken: dict[str, str]


class Reader:
    """Threads that decode, and how a picture is brought to the network's size."""

    def __init__(self, preprocessing: Preprocessing, threads: int | None = None) -> None:
        self.preprocessing = preprocessing
        self.pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)

    def read(self, paths: Sequence[str]) -> Pictures:
        """The pictures of these files; what cannot be read is among `broken`."""
        found = self.pool.map(lambda path: decoded(path, self.preprocessing)[0], paths)
        read, arrays, broken = [], [], {}
        for path, pixels in zip(paths, found, strict=True):
            if isinstance(pixels, str):
                broken[path] = pixels
            else:
                read.append(path)
                arrays.append(pixels)
        return Pictures(read, np.stack(arrays) if arrays else None, broken)


def preprocessing_of(facts: Mapping[str, Any]) -> Preprocessing:
    """How images were prepared for the features that a detector was fitted to; `facts` as
    detection.keeping writes them."""
    values = facts.get("preprocessing")
    if not values:
        raise ValueError(
            "the detector does not say how images are prepared for its network: it was fitted to"
            " features without a sidecar; give features instead of images"
        )
    return preparing.recorded(values)


def of_another_network(path: str, facts: Mapping[str, Any]) -> str:
    """Why a file's network cannot judge for a detector, in words."""
    return (
        f"{path} holds another network than the detector was fitted to, which is"
        f" {facts.get('checkpoint') or 'unnamed'} with SHA-256 {facts.get('checkpoint_sha256')};"
        " name its weights with --checkpoint, or fit a detector to this network with:"
        f" python run_networks.py --checkpoint {path}, then ood_methods.py"
    )
