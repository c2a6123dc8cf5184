"""One image file -> 8-bit RGB, and what cannot be read.

    image = reading.read("photograph.png")     # PIL image, RGB, upright

The image is upright as its EXIF orientation says, its alpha is dropped, and 16-bit grey is scaled
by its own white. images/folders.py says which files count; images/sets.py reads whole sets.
"""

from collections.abc import Sequence
from functools import cache
from os import PathLike
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

File = str | PathLike[str] | BinaryIO  # a path, or an opened file
Failure = tuple[str | PathLike[str], str]  # a file that cannot be read, and why

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
UPRIGHT = 1  # an orientation of EXIF
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
SKIP = "or go on without: --skip-broken"
SHOWN = 10  # unreadable files that an error names

max_pixels = MAX_PIXELS  # what holds in this process: limit_pixels changes it
Image.MAX_IMAGE_PIXELS = None  # check_size replaces Pillow's own bound, which warns first


@cache
def formats() -> list[str]:
    """Those of FORMATS that this Pillow was built with.

    Pillow goes by content and not by name: left to itself, it would hand a .png that holds
    PostScript to Ghostscript, which runs it as a program."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def open_image(file: File, side: int = 0) -> Image.Image:
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


def limit_pixels(count: int) -> None:
    """Accept images of at most `count` pixels, everywhere in this process, to bound its memory."""
    global max_pixels
    max_pixels = count


def check_size(width: int, height: int, side: int = 0) -> None:
    """ValueError for more pixels than --max-pixels, in the file or once resized.

    Resizing makes the shorter side `side` pixels long.
    That matters for strips: 1 x 1,000,000 pixels, resized to 32, would be a thousand million.
    """
    pixels = width * height
    resized = side * side * max(width, height) // max(min(width, height), 1)
    if max(pixels, resized) > max_pixels:
        what = f"{width:,} x {height:,} pixels"
        if pixels <= max_pixels:
            what += f", {resized:,} once the shorter side is {side}"
        raise ValueError(
            f"{what}, more than --max-pixels {max_pixels} lets in; if you trust the file "
            f"and have the memory, give --max-pixels {max(pixels, resized)}"
        )


def read(file: File, side: int = 0) -> Image.Image:
    """An image file, by its path or opened -> PIL image, RGB, upright; ValueError and Pillow's own
    errors where that is impossible.

    A phone stores what its sensor saw and writes into EXIF how to turn it: without that, upright
    photographs would lie on their side. Of 16-bit grey, white is 65535 (of 12 bits 4095): Pillow
    would cut off at 255. Alpha is dropped and not blended with a background, as torchvision's own
    loader does."""
    with open_image(file, side) as image:
        deep = check_mode(image)
        image.load()
        turn = TURNS.get(orientation(image) or UPRIGHT)
        if deep:
            image = eight_bits(image)
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colours, without Pillow's warning
        image = image.convert("RGB")
        return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation of a loaded image, 1 to 8, or None; looking takes 2 us where there is no
    EXIF.

    Not by ImageOps.exif_transpose, which copies every image and writes the EXIF anew: that fails on
    some photographs that are whole. EXIF that is broken says nothing, and the pixels are still
    good. Of TIFF, Pillow has turned the pixels already."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken block ends in whatever its bytes lead to
        return None


def check_mode(image: Image.Image) -> bool:
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


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit grey, v * 255 / white rounded: v / 257 where white is 65535."""
    tags = getattr(image, "tag_v2", {})  # of TIFF
    bits = tags.get(BITS, (16,))[0]
    white = 2**bits - 1
    values = np.asarray(image).astype(np.uint32)
    values = (values * 255 + white // 2) // white
    if tags.get(PHOTOMETRIC) == 0:  # white is zero; Pillow turns that round for 8 bits only
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))


def complaint(path: File, thorough: bool, side: int = 0) -> str | None:
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


def reason(error: BaseException) -> str:
    """One short line of any error: on broken files Pillow raises many kinds, RuntimeError and
    struct.error among them."""
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow knows"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def refuse(failures: Sequence[Failure]) -> None:
    """ValueError that names the first unreadable files and counts the others; nothing without
    any."""
    if len(failures) == 1:
        path, why = failures[0]
        raise ValueError(f"{path} cannot be read as an image ({why}); mend or remove it, {SKIP}")
    if failures:
        shown = ", ".join(f"{path} ({why})" for path, why in failures[:SHOWN])
        more = f", and {len(failures) - SHOWN:,} more" if len(failures) > SHOWN else ""
        raise ValueError(
            f"{len(failures):,} files cannot be read as images: {shown}{more}; mend or remove"
            f" them, {SKIP}"
        )
