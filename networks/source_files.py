"""Networks from a person's own file: --model FILE.py:FUNCTION.

Such a file is code, and runs with all rights of whoever starts the script. It is run only where the
person names it; a checkpoint that names one is not enough (networks.loading.load)."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
import types
from pathlib import Path

from torch import nn

HERE = Path(__file__).resolve().parents[1]


def parts(name):
    """ "my_network.py:build" -> (its path, "build")."""
    file, _, function = name.rpartition(":")
    return Path(file), function


def build(name, num_classes, arguments):
    """The nn.Module that FUNCTION of FILE.py makes; ValueError names file and line where it fails.

    `arguments` that are off (dropout 0) are not handed on, so that a function needs no such
    argument. The network keeps as own_classes and own_classifier what its classifier is found by:
    the network's own `classifier` where that is a text, or else the file's."""
    file, function = parts(name)
    with neighbours(file), explained(name):
        module = run(file)
        maker = getattr(module, function, None)
        if not callable(maker):
            raise ValueError(f"--model {name}: {file} defines no {function}")
        given = {key: value for key, value in arguments.items() if value}
        check_call(name, maker, num_classes, given)
        network = maker(num_classes, **given)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"--model {name}: {function} returned a {type(network).__name__}; expected an nn.Module"
        )
    said = [
        path
        for path in (getattr(network, "classifier", None), getattr(module, "classifier", None))
        if isinstance(path, str)
    ]
    network.own_classes, network.own_classifier = num_classes, next(iter(said), None)
    network.own_preprocessing = own_preprocessing(network, module)
    return network


def own_preprocessing(*places):
    """What the network, or else its file, has under `preprocessing`; a layer or module of that name
    means something else."""
    said = (getattr(place, "preprocessing", None) for place in places)
    return next(
        (
            what
            for what in said
            if what is not None and not isinstance(what, (nn.Module, types.ModuleType))
        ),
        None,
    )


def check_call(name, maker, num_classes, arguments):
    """ValueError where the function does not take what it is about to be given."""
    try:
        inspect.signature(maker).bind(num_classes, **arguments)
    except TypeError as error:
        takes = ", ".join(["the number of classes", *arguments])
        raise ValueError(f"--model {name}: the function must take {takes} ({error})") from None
    except ValueError:
        return  # a builtin, which has no signature to look at


def run(file):
    """The file as a module, registered under a name of its own: dataclasses and pickling look
    themselves up there."""
    name = f"_network_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def neighbours(file):
    """Within the block the file imports what lies beside it: its `data.py`, and not ours.

    Afterwards all is as before: ours are back, and another file's neighbour of the same name is not
    mistaken for this one's."""
    folder = file.resolve().parent
    if folder == HERE:
        yield
        return
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    called_alike = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in names
    }
    ours = {name: module for name, module in called_alike.items() if lies_in(module, HERE)}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    for name in names & {name.partition(".")[0] for name in ours}:
        # A folder without __init__.py would come after our wing of the same name: Python takes the
        # first package that has one.
        if is_plain_package(folder / name):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(folder / name)]
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [
            name
            for name, module in sys.modules.items()
            if not name.startswith("_network_") and lies_in(module, folder)
        ]:
            del sys.modules[name]
        sys.modules.update(ours)


def is_plain_package(folder):
    """True for a folder of Python files without `__init__.py`."""
    return any(folder.glob("*.py")) and not (folder / "__init__.py").exists()


def lies_in(module, folder):
    """True for a module whose file is in the folder, or in a package there."""
    # A folder without __init__.py is a package too, and has a path in place of a file. Both are
    # read from the module's own dictionary: torch.classes answers any attribute with its own.
    own = getattr(module, "__dict__", {})
    places = [own["__file__"]] if own.get("__file__") else list(own.get("__path__", []))
    return any(
        folder in Path(place).resolve().parents and "site-packages" not in Path(place).parts
        for place in places
    )


def sha256(name):
    """Digest of the file and of every Python file beside it that it imports: features depend on
    both."""
    digest = hashlib.sha256()
    for path in files(name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def files(name):
    """The files that a network's code lies in: FILE.py and what it imports from beside it; none for
    a name of ours."""
    if ":" not in name:
        return []
    file, _ = parts(name)
    return [file, *imported(file, set())]


def imported(file, seen):
    """Files in the same folder that the file imports, and those that they import, sorted."""
    import ast

    tree = ast.parse(file.read_bytes())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    for path in (file.parent / f"{name}.py" for name in names):
        if path.is_file() and path not in seen:
            seen.add(path)
            imported(path, seen)
    return sorted(seen)


@contextlib.contextmanager
def explained(name, doing=""):
    """Within the block an error of the person's code becomes a ValueError with its file and line.

    The error itself stays behind it: --debug shows the whole traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        place = where(error, name)
        if place is None:
            raise
        raise ValueError(describe(error, name, place, doing)) from error
    except (Exception, SystemExit) as error:
        raise ValueError(describe(error, name, where(error, name), doing)) from error


def describe(error, name, place, doing):
    at = f" at {place}" if place else ""
    said = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))
    return f"--model {name} failed{doing}{at}: {said} (--debug shows the traceback)"


def where(error, name):
    """ "net.py, line 12": the last line of the person's own files that the error went through, or
    None."""
    file = parts(name)[0].resolve()
    if (
        isinstance(error, SyntaxError)
        and error.filename
        and Path(error.filename).resolve().parent == file.parent
    ):
        return f"{error.filename}, line {error.lineno}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().parent == file.parent and file.parent != HERE
    ]
    own = own or [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == file
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None
