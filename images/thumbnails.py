"""Small pictures within a page: an image as the text of an img's src.

source(image, side=96)       # "data:image/webp;base64,..."
"""

import base64
import io

from PIL import Image

LOSSLESS = 32  # pixels of the longer side of an image that is kept as it is
QUALITY = 80  # of WebP
START = "data:image/webp;base64,"


def source(image: Image.Image, side: int) -> str:
    """An RGB image, made smaller where its longer side has more than so many pixels."""
    return START + base64.b64encode(encoded(image, side)).decode("ascii")


def encoded(image: Image.Image, side: int) -> bytes:
    """The same as the bytes of a WebP."""
    lossless = max(image.size) <= LOSSLESS
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", lossless=lossless, quality=100 if lossless else QUALITY)
    return buffer.getvalue()
