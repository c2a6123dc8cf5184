"""Checkpoint files: read without running code in every form that people have, checked, written.

    content = checkpoints.read("elsewhere.pth")  # a dict with `model_state_dict`, or ValueError
    digest = checkpoints.weights_sha256("resnet18", {"dropout": 0.0}, network.state_dict())

A file is read with weights_only=True, and the few types that people store beside their weights
(argparse.Namespace, paths, NumPy scalars ...) are replaced by harmless values of this module: their
own classes are neither imported nor called.

A file counts as one of this project's where it has every entry of SIGNATURE. Only then are its
entries `model`, `dataset`, `preprocessing`, `class_names`, `held_out` and `val_size` believed, and
one of a wrong shape is an error. Other projects use the same words for other things: in their files
those entries are left out, and a warning says so."""

import contextlib
import hashlib
import json
import math
import pickle
import re
import reprlib
import shutil
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch

import utils

# Where the weights lie in a dict, the first that is there: ours, then those of other projects.
STATE_KEYS = ("model_state_dict", "state_dict", "net", "model_state", "model", "network", "weights")
SIGNATURE = (
    "model_state_dict",
    "model",
    "dataset",
    "class_names",
    "preprocessing",
    "recipe",
    "versions",
)
OWN_KEYS = (
    "model",
    "model_args",
    "dataset",
    "preprocessing",
    "val_size",
    "held_out",
    "class_names",
)
ACCURACIES = ("train_acc", "val_acc", "test_acc")
# DistributedDataParallel and torch.compile put these before every name
WRAPPERS = (
    "module.",
    "_orig_mod.",
)
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
LARGEST_SIDE = 4096
SAVE = 'torch.save(model.state_dict(), "weights.pth")'


# ---- reading -------------------------------------------------------------------------------------


def read(path):
    """Any checkpoint or bare state dict -> dict with `model_state_dict` {name: tensor}.

    Accuracies in percent become fractions. Of a file that is not ours only plain values are kept
    beside the weights. Raises ValueError for a file that is missing, cannot be read safely, holds
    no weights, or says what cannot be."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}; train one with: python train.py")
    content = unpickled(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a state dict, or one under "
            f"{', '.join(STATE_KEYS)}"
        )
    key, state = find_state(content, path)
    check_tensors(state, path)
    if is_ours(content):
        check_own(content, path)
        known = {name: value for name, value in content.items() if name != key}
    else:
        known = plain_entries(
            {
                name: value
                for name, value in content.items()
                if key is not None or name not in state
            },
            path,
        )
    for name in ACCURACIES:
        if name in known:
            known[name] = fraction(known[name])
    return {**known, "model_state_dict": unwrapped(state)}


def is_ours(content):
    """True if train.py wrote the file: other projects have some of these entries, but never all
    of them."""
    return all(key in content for key in SIGNATURE)


def find_state(content, path):
    """The weights among a file's entries -> (their key, or None for a bare state dict, {name:
    tensor})."""
    states = {key: value for key, value in content.items() if is_state(value)}
    key = next((key for key in STATE_KEYS if key in states), None)
    if key is None and len(states) > 1:
        first = shown(next(iter(states)))
        raise ValueError(
            f"{path} holds several networks: {', '.join(map(shown, states))}; save the one that is "
            "meant, such as: "
            f'torch.save(torch.load("{path}")["{first}"], "weights.pth")'
        )
    if key is None and states:
        key = next(iter(states))
    if key is None:
        return None, bare_state(content, path)
    others = [shown(other) for other in states if other != key]
    if others and not is_ours(content):
        warnings.warn(
            f"{path}: the weights are those of {shown(key)}; {', '.join(others)} beside it is left "
            "out",
            stacklevel=3,
        )
    return key, states[key]


def is_state(value):
    """True for a dict of named tensors, at least one."""
    if not isinstance(value, dict) or not value:
        return False
    if not all(isinstance(name, str) for name in value):
        return False
    return all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def bare_state(content, path):
    """The tensors of a state dict that may have a few plain entries among them."""
    state = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not any(value.ndim for value in state.values()):
        raise ValueError(
            f"{path} holds no parameters; expected a state dict, or one under "
            f"{', '.join(STATE_KEYS)}"
        )
    return state


def unwrapped(state):
    """{name: tensor} without the prefixes of wrappers; unchanged where two names would become
    one."""
    plain = {plain_name(name): value.detach() for name, value in state.items()}
    return plain if len(plain) == len(state) else dict(state)


def plain_name(name):
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def plain_entries(content, path):
    """What is kept of a foreign file beside its weights: texts and numbers under names that mean
    nothing here."""
    ignored = [name for name in OWN_KEYS if name in content and not is_state(content[name])]
    if ignored:
        warnings.warn(
            f"{path} was not written by train.py: its own {', '.join(ignored)} is ignored; "
            "--model and --dataset say what it is",
            stacklevel=3,
        )
    plain = {
        name: single(value)
        for name, value in content.items()
        if isinstance(name, str) and name not in OWN_KEYS
    }
    kept = {
        name: value
        for name, value in plain.items()
        if isinstance(value, (str, int, float, type(None)))
    }
    # A recipe and an epoch of another project; as they are written on, they must be of our kind.
    kept.pop("mode", None)
    if not is_count(kept.get("epoch")):
        kept.pop("epoch", None)
    return kept


def single(value):
    """A tensor with one real number -> that number; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    simple = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if value.ndim or not simple or value.is_complex():
        return value
    return value.item()


def fraction(value):
    """An accuracy, in percent or as a share -> a share in [0, 1]; None where it is no number of
    either kind."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        return None
    return value / 100 if value > 1 else value


# ---- safety --------------------------------------------------------------------------------------


def unpickled(path):
    """What torch.save wrote, without running code; ValueError in one line that says why not, and
    what can be read."""
    with open(path, "rb"):
        pass  # where it may not be read, the system's own words say so
    check_archive(path)
    try:
        with only_inert(), warnings.catch_warnings():
            # torch's remarks on the pickle; what matters ends in an error
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise ValueError(f"{path} does not fit into this machine's memory") from None
    except (
        Exception
    ) as error:  # a file that is no checkpoint makes torch.load raise whatever it stumbles on
        raise ValueError(refusal(path, str(error))) from None


@contextlib.contextmanager
def only_inert():
    """Within the block a file may name INERT beside torch's tensors, and nothing else.

    Importing parts of torch allows dozens of classes meanwhile, such as DeviceMesh, which starts
    process groups."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(INERT):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def check_archive(path):
    """ValueError for TorchScript, and for an archive that unpacks to more than its own size."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is not a checkpoint: it is empty")
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, or no checkpoint at all
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely: the archive is damaged"
        ) from None
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise ValueError(
            f"{path} is a TorchScript archive, which holds code, and code is not run; save its "
            "weights alone with: "
            f'torch.save(torch.jit.load("{path}").state_dict(), "weights.pth")'
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely: it holds compressed records, "
            "which torch.save never "
            f"writes; save the weights again with: {SAVE}"
        )


def refusal(path, text):
    """torch's many lines -> one of ours, without its advice to trust the file."""
    found = re.search(
        r"GLOBAL (\S+)|unrecognized function (.+)|allowlisted via .* but got (.+)", text
    )
    if found:
        name = shown(next(filter(None, found.groups())))
        return (
            f"{path} is not a checkpoint that can be read safely: it holds {name}, which is code, "
            "and code from a file is not "
            f"run; where the network was trained, save its weights alone with: {SAVE}"
        )
    if "allocate memory" in text:
        return f"{path} does not fit into this machine's memory"
    return (
        f"{path} is not a checkpoint that can be read safely: it is damaged or cut short, or was "
        "not written by torch.save in "
        f"its default form; save the weights with: {SAVE}"
    )


def shown(text, limit=200):
    """A text from a file, as it may be printed: no control characters, no more than a line."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return text if len(text) <= limit else f"{text[:limit]}..."


def brief(value):
    """A value from a file in a few words. Its repr alone may fill the memory: a list of a few
    bytes, ten times in a list, ten times in a list ..."""
    short = reprlib.Repr()
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a huge number"


class Record:
    """Stands for an object that only holds attributes, such as argparse.Namespace. Nothing reads
    them."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


class Dtype:
    """Stands for numpy.dtype: the code of its type, such as "f8", and its byte order."""

    def __init__(self, code, *_):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        self.order = state[1] if state[1] in ("<", ">", "=") else "="


def scalar(dtype, raw=b""):
    """Stands for NumPy's function of that name: a number or text -> Python's own; another kind,
    such as a complex number or a date, -> None."""
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a NumPy scalar without a type or a value")
    if not re.fullmatch(r"[biufSU]\d{1,4}", str(dtype.code)):
        return None
    return np.frombuffer(raw, np.dtype(dtype.order + dtype.code), count=1)[0].item()


def path_text(*parts):
    """Stands for the classes of pathlib."""
    return str(PurePosixPath(*map(str, parts)))


def plain_dict(*_):
    """Stands for collections.defaultdict; the function that makes its missing values is left
    out."""
    return {}


def plain_list(items=(), *_):
    """Stands for collections.deque, and for a frozenset."""
    return list(items) if isinstance(items, (list, tuple)) else []


# (what stands in, the name in the file). The stand-ins above are all that a file can call beside
# torch's own rebuilding of tensors: none looks at a file, imports, or makes more than it was given.
INERT = [
    *(
        (Record, name)
        for name in (
            "argparse.Namespace",
            "types.SimpleNamespace",
            "numpy.ndarray",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "datetime.datetime",
            "datetime.date",
            "datetime.timedelta",
            *(
                f"builtins.{kind}"
                for kind in ("int", "float", "str", "bool", "list", "dict", "tuple")
            ),
        )
    ),
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (Dtype, "numpy.dtype"),
    *(
        (path_text, f"{module}.{kind}")
        for module in ("pathlib", "pathlib._local")
        for kind in (
            "Path",
            "PosixPath",
            "WindowsPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
        )
    ),
    (plain_dict, "collections.defaultdict"),
    (plain_list, "collections.deque"),
    (plain_list, "builtins.frozenset"),
]


# ---- what a file may say -------------------------------------------------------------------------


def check_tensors(state, path):
    """ValueError for a parameter that is not an ordinary tensor of real numbers, or claims more
    than the file holds."""
    for name, value in state.items():
        if (
            type(value) not in (torch.Tensor, torch.nn.Parameter)
            or value.layout is not torch.strided
            or value.is_quantized
        ):
            kind = "is not an ordinary tensor"
        elif value.device.type != "cpu":
            kind = "has a shape but no values"
        elif value.is_complex():
            kind = "holds complex numbers"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            kind = f"has the shape {tuple(value.shape)} and the file holds fewer values than that"
        else:
            continue
        raise ValueError(
            f"{path}: the parameter {shown(name)} {kind}; save real weights with: {SAVE}"
        )


def check_own(content, path):
    """ValueError that names the first entry of a file of ours which cannot be what train.py
    writes there."""
    for name, (fits, expected) in EXPECTED.items():
        if name in content and not fits(content[name]):
            raise ValueError(
                f"{path}: its entry {name} is {shown(brief(content[name]), 80)}; expected "
                f"{expected}. The file was "
                "changed after train.py wrote it; train it again, or give a state dict with "
                "--model and --dataset"
            )


def is_text(value):
    return isinstance(value, str) and bool(value)


def is_count(value):
    return type(value) is int and 0 <= value < 2**53


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def is_names(value):
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def is_classes(value):
    return is_names(value) and len(value) >= 2


def is_accuracy(value):
    return value is None or (is_number(value) and 0 <= value <= 100)


def is_arguments(value):
    """Of a network of the registry; dropout is all that train.py sets."""
    if not isinstance(value, dict) or not set(value) <= {"dropout"}:
        return False
    dropout = value.get("dropout", 0.0)
    return is_number(dropout) and 0 <= dropout < 1


def is_channels(value, lowest=-math.inf):
    """Three finite numbers above `lowest`."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(is_number(x) and lowest < x < 1e6 for x in value)
    )


def is_preprocessing(value):
    if not isinstance(value, dict) or not {"size", "mean", "std"} <= set(value):
        return False
    side, interpolation, share = (
        value["size"],
        value.get("interpolation", "bilinear"),
        value.get("crop_share", 1.0),
    )
    return (
        is_count(side)
        and 1 <= side <= LARGEST_SIDE
        and is_channels(value["mean"])
        and is_channels(value["std"], lowest=0.0)
        and isinstance(interpolation, str)
        and interpolation in INTERPOLATIONS
        and is_number(share)
        and side / LARGEST_SIDE <= share <= 1
        and set(value) <= {"size", "mean", "std", "interpolation", "crop_share"}
    )


def is_dict(value):
    return isinstance(value, dict)


def is_history(value):
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def is_best(value):
    return (
        isinstance(value, dict) and is_number(value.get("val_acc")) and is_count(value.get("epoch"))
    )


def is_partial(value):
    return value is None or isinstance(value, dict)


# Entry: (what is true of it, what an error says was expected). An entry that an older version did
# not write may be absent.
EXPECTED = {
    "model": (is_text, "the name of a network"),
    "model_args": (is_arguments, "a dict with dropout in [0, 1) at most"),
    "dataset": (is_text, "the name of a data set"),
    "class_names": (is_classes, "a list of at least two names"),
    "held_out": (is_names, "a list of names"),
    "val_size": (is_count, "a whole number of images"),
    "images": (is_count, "a whole number of images"),
    "preprocessing": (
        is_preprocessing,
        (
            f"a dict with size (1 to {LARGEST_SIDE}), mean and std (three numbers, std above 0) and"
            f" interpolation ({', '.join(INTERPOLATIONS)})"
        ),
    ),
    "recipe": (is_dict, "a dict"),
    "versions": (is_dict, "a dict"),
    "arguments": (is_dict, "a dict"),
    "mode": (is_text, "the name of a recipe"),
    "epoch": (is_count, "a whole number of epochs"),
    "history": (is_history, "a list of dicts, one per epoch"),
    "best": (is_best, "a dict with val_acc and epoch"),
    "partial": (is_partial, "a dict, or None"),
    **dict.fromkeys(ACCURACIES, (is_accuracy, "a share in [0, 1]")),
}


# ---- writing and comparing -----------------------------------------------------------------------


def write(path, content):
    """Write a checkpoint whole or not at all; OSError that names the file where the disk does not
    take it."""
    with utils.replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except (
            RuntimeError
        ) as error:  # torch's word for a full disk, a quota, or a file system that went away
            free = shutil.disk_usage(Path(path).parent).free
            said = shown(str(error).partition("\n")[0])
            raise OSError(
                f"{path} could not be written ({free / 2**20:,.0f} MiB are free there): make room, "
                "or choose another "
                f"folder with --output-dir; torch says: {said}"
            ) from error


def weights_sha256(model, model_args, state_dict):
    """SHA-256 of a network's name, arguments and weights, and of nothing that a run adds.

    Two files of the same weights have the same digest, whatever else they hold and however they
    name their parameters."""
    file, colon, function = model.rpartition(":")
    arguments = {name: value for name, value in (model_args or {}).items() if value}
    digest = hashlib.sha256(
        json.dumps([f"{Path(file).name}{colon}{function}", arguments], sort_keys=True).encode()
    )
    for name, value in sorted(state_dict.items()):
        value = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
