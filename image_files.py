"""Images in memory and images in files: which files of a folder count as images, how each is read, and what cannot be.

A file becomes 8-bit RGB, upright as its EXIF orientation says, alpha dropped, 16-bit grey scaled by its own white. What cannot be
read so is named, all such files of a set at once; a kind of file that is left out is counted and said.
"""
import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

# A fixed list: what a set holds must not depend on the codecs of a machine. What Pillow alone cannot read, or is no photograph
# (.heic, .pdf, .svg), is left out, and that is said.
ENDINGS = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".tif", ".tiff", ".webp", ".avif", ".gif",
           ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
SILENT = {"thumbs.db", "ehthumbs.db", "desktop.ini"}  # what a system puts beside photographs, like hidden files
PLAIN = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}  # the modes that Pillow makes RGB of rightly
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF, TIFF and TIFF
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}
THOROUGH = 20_000  # files of a set that are read to their end before the long work; of more than these, the headers alone
SHOWN = 10  # unreadable files that an error names
RULES = "2: upright by EXIF"  # part of a folder's source: features of files that were read by other rules are made anew


# ---- one file --------------------------------------------------------------------------------------------------------

def read(path):
    """An image file -> PIL image, RGB, upright; ValueError and Pillow's own errors where that is impossible.

    A phone stores what its sensor saw and writes into EXIF how to turn it: without that, upright photographs would lie on their
    side. Of 16-bit grey, white is 65535 (of 12 bits 4095): Pillow would cut off at 255. Alpha is dropped and not blended with a
    background, as torchvision's own loader does.
    """
    with Image.open(path) as image:
        deep = check_mode(image)
        image.load()
        method = TURNS.get(orientation(image))
        if deep:
            image = eight_bits(image)
        elif image.mode == "P" and "transparency" in image.info:  # the same colours, without Pillow's warning
            image = image.convert("RGBA")
        image = image.convert("RGB")
        return image if method is None else image.transpose(method)


def orientation(image):
    """The EXIF orientation of a loaded image, 1 to 8, or None; looking costs 2 us where there is no EXIF.

    Not by ImageOps.exif_transpose, which copies every image and writes the EXIF anew: that fails on some photographs that are
    whole. EXIF that is broken says nothing, and the pixels are still good. Of TIFF, Pillow has turned the pixels already.
    """
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken block ends in whatever its bytes lead to
        return None


def check_mode(image):
    """Whether an opened image is 16-bit grey; ValueError for a mode whose white nobody knows."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    if image.mode not in PLAIN:
        what = {"I": "signed or 32-bit integers", "F": "floating-point numbers"}.get(image.mode, f"colours of mode {image.mode}")
        raise ValueError(f"{what}, mode {image.mode}, whose black and white are not defined; save it in 8 or 16 bits, grey or RGB")
    return False


def eight_bits(image):
    """16-bit grey -> 8-bit grey, v * 255 / white rounded: v / 257 where white is 65535."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(BITS, (16,))[0] - 1
    values = (np.asarray(image).astype(np.uint32) * 255 + white // 2) // white
    if tags.get(PHOTOMETRIC) == 0:  # white is zero; Pillow turns that round for 8 bits only
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))


def complaint(path, thorough):
    """Why a file cannot be read as an image, or None; thorough: to its last byte, else by its header.

    Not by decoding it in full, which is most of what extraction costs: a JPEG is unpacked at an eighth of its size, a PNG's
    checksums are compared (0.9 and 0.2 ms against 2.4 and 4.3 ms to decode and resize 500 x 375 pixels, a header 0.04 ms).
    """
    try:
        with Image.open(path) as image:
            check_mode(image)
            if thorough and image.format == "PNG":
                image.verify()
            elif thorough:
                image.draft(None, (1, 1))
                image.load()
    except Exception:  # a second opinion, and the words of the real thing: a PNG whose last checksum is wrong decodes all the same
        try:
            read(path)
        except Exception as error:
            return reason(error)
    return None


def reason(error):
    """One short line of any error: a broken file ends Pillow in many kinds, RuntimeError and struct.error among them."""
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow knows"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def refuse(failures):
    """[(path, why)] -> ValueError that names the first of them and counts the others; nothing where there are none."""
    if len(failures) == 1:
        path, why = failures[0]
        raise ValueError(f"{path} cannot be read as an image ({why}); mend or remove it")
    if failures:
        shown = ", ".join(f"{path} ({why})" for path, why in failures[:SHOWN])
        more = f", and {len(failures) - SHOWN:,} more" if len(failures) > SHOWN else ""
        raise ValueError(f"{len(failures):,} files cannot be read as images: {shown}{more}; mend or remove them")


# ---- sets ------------------------------------------------------------------------------------------------------------

@dataclass
class Images:
    """uint8 images (N, 3, S, S) in memory, labels (N,) int64 (-1: none), and what the classes are called."""

    pixels: torch.Tensor
    labels: torch.Tensor
    class_names: list
    source: str
    paths: list = None
    left_out: str = ""

    def __len__(self):
        return len(self.labels)

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

    def __len__(self):
        return len(self.labels)

    def take(self, indices):
        """The images at these indices (M,), in that order."""
        return replace(self, paths=[self.paths[index] for index in indices], labels=self.labels[indices])

    def decode(self, path):
        """uint8 (S, S, 3), or a text: why not."""
        try:
            image = read(self.root / path)
        except Exception as error:
            return reason(error)
        return np.asarray(self.preprocessing.resize(image))

    def batches(self, batch_size):
        """Yield uint8 (n, 3, S, S) in order; ValueError names all files, from the first on, that cannot be read."""
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(self.paths), batch_size):
                # One tensor a batch: one an image costs more than its decoding. And no batch ahead of the reader: on a CPU the
                # decoding threads and the network's hold each other up (10,000 images: 28 s on two cores, 6.5 s from memory).
                paths = self.paths[start:start + batch_size]
                pixels = list(pool.map(self.decode, paths))
                failed = [(self.root / path, why) for path, why in zip(paths, pixels, strict=True) if isinstance(why, str)]
                if failed:
                    refuse(failed + replace(self, paths=self.paths[start + batch_size:]).unreadable())
                yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def in_memory(self):
        return Images(torch.cat(list(self.batches(256))), self.labels, self.class_names, self.source, left_out=self.left_out)

    def unreadable(self, progress=lambda found, **_: found):
        """[(path, why)] of the files that cannot be read as images, found at a fraction of what decoding them costs."""
        thorough = len(self.paths) <= THOROUGH

        def look(paths):
            return [(path, why) for path in paths if (why := complaint(path, thorough))]
        # 64 at once: a thread's errand costs as much as a look at a header.
        paths = [self.root / path for path in self.paths]
        parts = [paths[start:start + 64] for start in range(0, len(paths), 64)]
        with ThreadPoolExecutor(self.threads) as pool:
            found = progress(pool.map(look, parts), total=len(parts), desc=f"reading {self.root}", unit="64 files")
            return [failure for part in found for failure in part]


# ---- folders ---------------------------------------------------------------------------------------------------------

def image_folder(folder, preprocessing, classes=None):
    """Any folder of images, at any depth -> ImageFiles in sorted order.

    The first level of subfolders gives the labels; images that lie at the top have label -1. `classes` fixes the names
    (a test split must know those of its training split).
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; expected a folder of images ({', '.join(sorted(ENDINGS))})")
    stamps, others = listing(root)
    paths = sorted(stamps, key=lambda path: path.split("/"))
    if not paths:
        raise ValueError(f"{root} holds no images; expected files ending in {', '.join(sorted(ENDINGS))}, found "
                         f"{counted(others) or 'none'}{advice(others, root)}")
    check_names(root, paths)
    first = [path.split("/")[0] if "/" in path else None for path in paths]
    names = classes or sorted({*first} - {None})
    unknown = {*first} - {*names, None}
    if unknown:
        raise ValueError(f"{root} has the class folder {sorted(unknown)[0]!r}, which the training images do not have")
    number = {name: index for index, name in enumerate(names)}
    source = sha256("\n".join([RULES, *(f"{path} {stamps[path]}" for path in paths)]).encode()).hexdigest()
    return ImageFiles(paths, torch.tensor([number.get(name, -1) for name in first]), list(names), f"files {source}", preprocessing,
                      root, counted(others, " left out"))


def listing(root):
    """({path of an image below root: size and time}, Counter of the kinds of other files); what is hidden counts as absent."""
    stamps, others = {}, Counter()
    for path in walk(root):
        ending = os.path.splitext(path)[1].lower()
        try:
            status = os.stat(root / path)
        except OSError:
            others["broken link"] += 1
            continue
        if ending in ENDINGS and stat.S_ISREG(status.st_mode):
            stamps[path] = f"{status.st_size} {status.st_mtime_ns}"
        else:
            others[escaped(ending) or "no ending"] += 1
    return stamps, others


def walk(folder, inside="", above=frozenset()):
    """Yield the paths, below the folder, of all files at any depth; a linked folder counts, unless it leads back up."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed ({reason(error)}); let yourself read it: chmod u+rx {folder}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in SILENT:
            continue
        if entry.is_dir():
            yield from walk(entry.path, f"{inside}{entry.name}/", above | {real})
        else:
            yield f"{inside}{entry.name}"


def check_names(root, paths):
    """ValueError where a name is not UTF-8: neither CSV nor JSON could hold it, and that would show after the long work."""
    odd = [path for path in (str(root), *paths) if escaped(path) != path]
    if odd:
        more = f" and {len(odd) - 1:,} more" if len(odd) > 1 else ""
        raise ValueError(f"the file name {escaped(odd[0])}{more} in {escaped(str(root))} is not UTF-8; rename it, such as with: "
                         f"convmv -r -f latin1 -t utf8 --notest {escaped(str(root))}")


def escaped(name):
    """A file name whose bytes that are no UTF-8 are written as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def counted(others, fate=""):
    """A Counter of kinds -> "3 other files<fate> (.heic, .txt, no ending)", or nothing."""
    kinds = ", ".join(sorted(others, key=lambda kind: (not kind.startswith("."), kind)))
    return f"{others.total():,} other file{'s' * (others.total() > 1)}{fate} ({kinds})" if others else ""


def advice(others, root):
    """What to do about photographs of kinds that Pillow does not read."""
    if {".heic", ".heif"} & set(others):
        return f"; convert them, such as with: magick mogrify -format jpg {root}/*.heic"
    return ""
