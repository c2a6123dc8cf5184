"""Images in memory and images in files: how each file is read, and what cannot be read.

images/folders.py says which files count.

A file becomes 8-bit RGB, upright as its EXIF orientation says, alpha dropped, 16-bit grey scaled by
its own white. What cannot be read so is named, all such files of a set at once; a kind of file that
is left out is counted and said."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from images.folders import content_of, counted, file_hashes, listing

# the modes that Pillow makes RGB of rightly
PLAIN = {
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
}
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF, TIFF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "DIB", "PPM", "TGA")
# Of one image: 0.3 GB as RGB, in each thread. Phones make 50 million; a file of 20 kB can hold
# billions.
MAX_PIXELS = 100_000_000
# files of a set that are read to their end before the long work; of more than these, the headers
# alone
THOROUGH = 20_000
SHOWN = 10  # unreadable files that an error names

max_pixels = MAX_PIXELS  # what holds in this process: limit_pixels changes it
Image.MAX_IMAGE_PIXELS = None  # check_size replaces Pillow's own bound, which warns first


# ---- one file ------------------------------------------------------------------------------------


@cache
def formats():
    """Those of FORMATS that this Pillow was built with.

    Pillow goes by content and not by name: left to itself, it would hand a .png that holds
    PostScript to Ghostscript, which runs it as a program."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_image(file, side=0):
    """An image file, by its path or opened -> Pillow's image, not yet decoded.

    ValueError where it is too large.
    """
    image = Image.open(file, formats=formats())
    try:
        check_size(*image.size, side)
    except ValueError:
        image.close()
        raise
    return image


def limit_pixels(count):
    """Accept images of at most `count` pixels, everywhere in this process: its memory is bounded
    so."""
    global max_pixels
    max_pixels = count


def check_size(width, height, side=0):
    """ValueError for more pixels than --max-pixels, in the file or once resized.

    Resizing makes the shorter side `side` pixels long.
    That matters for strips: 1 x 1,000,000 pixels, resized to 32, would be a thousand million.
    """
    pixels = width * height
    resized = side * side * max(width, height) // max(min(width, height), 1)
    if max(pixels, resized) > max_pixels:
        what = f"{width:,} x {height:,} pixels"
        what += "" if pixels > max_pixels else f", {resized:,} once the shorter side is {side}"
        raise ValueError(
            f"{what}, more than --max-pixels {max_pixels} lets in; if you trust the file "
            f"and have the memory, give --max-pixels {max(pixels, resized)}"
        )


def read(file, side=0):
    """An image file, by its path or opened -> PIL image, RGB, upright; ValueError and Pillow's own
    errors where that is impossible.

    A phone stores what its sensor saw and writes into EXIF how to turn it: without that, upright
    photographs would lie on their side. Of 16-bit grey, white is 65535 (of 12 bits 4095): Pillow
    would cut off at 255. Alpha is dropped and not blended with a background, as torchvision's own
    loader does."""
    with open_image(file, side) as image:
        deep = check_mode(image)
        image.load()
        method = TURNS.get(orientation(image))
        if deep:
            image = eight_bits(image)
        elif (
            image.mode == "P" and "transparency" in image.info
        ):  # the same colours, without Pillow's warning
            image = image.convert("RGBA")
        image = image.convert("RGB")
        return image if method is None else image.transpose(method)


def orientation(image):
    """The EXIF orientation of a loaded image, 1 to 8, or None; looking costs 2 us where there is no
    EXIF.

    Not by ImageOps.exif_transpose, which copies every image and writes the EXIF anew: that fails on
    some photographs that are whole. EXIF that is broken says nothing, and the pixels are still
    good. Of TIFF, Pillow has turned the pixels already."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken block ends in whatever its bytes lead to
        return None


def check_mode(image):
    """True if an opened image is 16-bit grey; ValueError for a mode whose white nobody knows."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    if image.mode not in PLAIN:
        what = {"I": "signed or 32-bit integers", "F": "floating-point numbers"}.get(
            image.mode, f"colours of mode {image.mode}"
        )
        raise ValueError(
            f"{what}, mode {image.mode}, whose black and white are not defined; save it in 8 or 16"
            " bits, grey or RGB"
        )
    return False


def eight_bits(image):
    """16-bit grey -> 8-bit grey, v * 255 / white rounded: v / 257 where white is 65535."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(BITS, (16,))[0] - 1
    values = (np.asarray(image).astype(np.uint32) * 255 + white // 2) // white
    if tags.get(PHOTOMETRIC) == 0:  # white is zero; Pillow turns that round for 8 bits only
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))


def complaint(path, thorough, side=0):
    """Why a file cannot be read as an image and resized to `side`, or None; thorough: to its last
    byte, else by its header.

    Not by decoding it in full, which is most of what extraction costs: a JPEG is unpacked at an
    eighth of its size, a PNG's checksums are compared (0.9 and 0.2 ms against 2.4 and 4.3 ms to
    decode and resize 500 x 375 pixels, a header 0.04 ms)."""
    try:
        with open_image(path, side) as image:
            check_mode(image)
            if thorough and image.format == "PNG":
                image.verify()
            elif thorough:
                image.draft(None, (1, 1))
                image.load()
    # Retry with the full reader: its verdict decides, and its message is the one shown. A PNG whose
    # last checksum is wrong decodes all the same.
    except Exception:
        try:
            read(path, side)
        except Exception as error:
            return reason(error)
    return None


def reason(error):
    """One short line of any error: a broken file ends Pillow in many kinds, RuntimeError and
    struct.error among them."""
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow knows"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def refuse(failures):
    """[(path, why)] -> ValueError that names the first of them and counts the others; nothing where
    there are none."""
    if len(failures) == 1:
        path, why = failures[0]
        raise ValueError(f"{path} cannot be read as an image ({why}); mend or remove it")
    if failures:
        shown = ", ".join(f"{path} ({why})" for path, why in failures[:SHOWN])
        more = f", and {len(failures) - SHOWN:,} more" if len(failures) > SHOWN else ""
        raise ValueError(
            f"{len(failures):,} files cannot be read as images: {shown}{more}; mend or remove them"
        )


# ---- sets ----------------------------------------------------------------------------------------


@dataclass
class Images:
    """uint8 images (N, 3, S, S) in memory, labels (N,) int64 (-1: none), and what the classes are
    called."""

    pixels: torch.Tensor
    labels: torch.Tensor
    class_names: list
    source: str
    paths: list | None = None
    left_out: str = ""
    hashed: str = ""  # of files that were decoded: their content

    def __len__(self):
        return len(self.labels)

    def content(self):
        """The hash of the files that these images, or the set that they were taken from, came from.

        Of a named set its name, which is enough: torchvision compares the MD5 of what it reads, and
        the embedded sets are computed. (MNIST has no published MD5 once it is unpacked.)
        """
        return self.hashed or self.source

    def batches(self, batch_size):
        """Yield uint8 (n, 3, S, S) in order."""
        yield from self.pixels.split(batch_size)

    def take(self, indices):
        """The images at these indices (M,), in that order."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def to(self, device):
        """The same images on a device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def in_memory(self):
        return self

    def unreadable(self, progress=None):
        return []


@dataclass
class ImageFiles:
    """Images that lie in files: decoded in threads, batch by batch, so that memory stays small."""

    paths: list
    labels: torch.Tensor
    class_names: list
    source: str
    preprocessing: object
    root: Path
    left_out: str = ""  # what else lies there, such as "3 other files left out (.heic, no ending)"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    # {path: SHA-256}; takes of this set share it
    hashes: dict = field(default_factory=dict, repr=False)

    def __len__(self):
        return len(self.labels)

    def take(self, indices):
        """The images at these indices (M,), in that order."""
        return replace(
            self, paths=[self.paths[index] for index in indices], labels=self.labels[indices]
        )

    def content(self):
        """The text "sha256 <hex>", of these images' names and bytes.

        What was decoded was hashed then; other files are read now.
        """
        unread = [path for path in self.paths if path not in self.hashes]
        self.hashes.update(file_hashes(self.root, unread, self.threads))
        return content_of(self.paths, self.hashes)

    def decode(self, path):
        """uint8 (S, S, 3), or a text: why not.

        The file is read once, so that the hash is of the very bytes that are decoded. Over 5,000
        PNGs of 32 x 32 pixels this took 0.57 s where decoding by path took 0.61 (one core, AMD
        EPYC); hashing 27 kB takes 16 us, decoding that JPEG 500."""
        try:
            # pathlib and a buffer would cost 10 us; decoding a small PNG takes 55.
            with open(f"{self.root}/{path}", "rb", buffering=0) as file:
                content = file.read()
            image = read(io.BytesIO(content), self.preprocessing.resized)
        except Exception as error:
            return reason(error)
        self.hashes[path] = sha256(content).hexdigest()
        return np.asarray(self.preprocessing.resize(image))

    def batches(self, batch_size):
        """Yield uint8 (n, 3, S, S) in order; ValueError names all files, from the first on, that
        cannot be read."""
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(self.paths), batch_size):
                # One tensor a batch: one an image costs more than its decoding. And no batch ahead
                # of the reader: on a CPU the decoding threads and the network's hold each other up
                # (10,000 images: 28 s on two cores, 6.5 s from memory).
                paths = self.paths[start : start + batch_size]
                pixels = list(pool.map(self.decode, paths))
                failed = [
                    (self.root / path, why)
                    for path, why in zip(paths, pixels, strict=True)
                    if isinstance(why, str)
                ]
                if failed:
                    refuse(
                        failed + replace(self, paths=self.paths[start + batch_size :]).unreadable()
                    )
                yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def in_memory(self):
        return Images(
            torch.cat(list(self.batches(256))),
            self.labels,
            self.class_names,
            self.source,
            left_out=self.left_out,
            hashed=self.content(),
        )

    def unreadable(self, progress=lambda found, **_: found):
        """[(path, why)] of the files that cannot be read as images, found at a fraction of what
        decoding them costs."""
        thorough = len(self.paths) <= THOROUGH

        def look(paths):
            found = (
                (path, complaint(path, thorough, self.preprocessing.resized)) for path in paths
            )
            return [(path, why) for path, why in found if why]

        # 64 at once: a thread's errand costs as much as a look at a header.
        paths = [self.root / path for path in self.paths]
        parts = [paths[start : start + 64] for start in range(0, len(paths), 64)]
        with ThreadPoolExecutor(self.threads) as pool:
            found = progress(
                pool.map(look, parts),
                total=len(parts),
                desc=f"reading {self.root}",
                unit="64 files",
            )
            return [failure for part in found for failure in part]


# ---- folders -------------------------------------------------------------------------------------


def image_folder(place, preprocessing, classes=None):
    """Any folder of images, at any depth, or a single file -> ImageFiles in sorted order.

    The first level of subfolders gives the labels; images that lie at the top have label -1.
    `classes` fixes the names (a test split must know those of its training split)."""
    found = listing(place)
    first = [path.split("/")[0] if "/" in path else None for path in found.paths]
    names = classes or sorted({*first} - {None})
    unknown = {*first} - {*names, None}
    if unknown:
        raise ValueError(
            f"{found.root} has the class folder {sorted(unknown)[0]!r}, which the training "
            "images do not have"
        )
    number = {name: index for index, name in enumerate(names)}
    labels = torch.tensor([number.get(name, -1) for name in first])
    return ImageFiles(
        found.paths,
        labels,
        list(names),
        found.source,
        preprocessing,
        found.root,
        counted(found.others, " left out"),
    )
