"""Names, folders, and files that are written whole or not at all: what every other module may use."""
import contextlib
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np

ALIASES = {"dtd": "textures", "texture": "textures", "heldout": "held_out", "held-out": "held_out",
           "cifar-10": "cifar10", "cifar-100": "cifar100"}


# ---- names -------------------------------------------------------------------------------------------------------------

def split_name(text):
    """"SVHN" -> ("svhn", None); "mine=photos/2024" -> ("mine", "photos/2024"); aliases (dtd, texture) are resolved."""
    name, equals, folder = text.partition("=")
    name = ALIASES.get(name.lower(), name.lower())
    if not name or (equals and not folder) or not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"data set {text!r} is neither a name nor NAME=FOLDER with letters, digits, - and _ in NAME")
    return name, folder or None


def results_folder(checkpoint, output_dir="results"):
    """Where a checkpoint's features and tables stand: results/<stem>. Accepts the .pth file or that folder itself."""
    path = Path(checkpoint)
    folder = path if path.is_dir() else Path(output_dir) / path.stem
    if not folder.is_dir():
        raise ValueError(f"no features of {checkpoint}: expected the folder {folder}; make it with: "
                         f"python run_networks.py --checkpoint {checkpoint}")
    return folder


# ---- whole or not at all -----------------------------------------------------------------------------------------------

@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` and move it there when the block ends well: never half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(path):
    """Make the folder where it is missing and try a write; OSError or ValueError now rather than after hours."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {path} ({error.strerror}); choose another folder with --output-dir") from None
    return path


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def plain(content):
    """What `content` becomes when it is written as JSON and read back: tuples are lists, NaN and infinity are None."""
    if isinstance(content, dict):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    content = content.item() if isinstance(content, np.generic) else content
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)


def read_json(path):
    """The dict that a JSON file of ours holds, {} where there is no file; ValueError where it holds anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and make the file beside it anew") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object with names; delete it and make the file "
                         "beside it anew")
    return content


def write_figure(path, figure):
    """A matplotlib figure as a PNG of 150 dots an inch."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
