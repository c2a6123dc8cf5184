"""Networks from a person's own file: --model FILE.py:FUNCTION.

Such a file is code, and runs with all rights of whoever starts the script. It is run only where the
person names it; a checkpoint that names one is not enough (networks.loading.load)."""

import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

HERE = Path(__file__).resolve().parents[1]


def parts(name: str) -> tuple[Path, str]:
    """ "my_network.py:build" -> (the file's path, "build")."""
    file, _, function = name.rpartition(":")
    return Path(file), function


def build(name: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """The nn.Module that FUNCTION of FILE.py makes; a ValueError names file and line if it fails.

    `arguments` that are off (dropout 0) are not handed on, so that a function needs no such
    argument. Three attributes are set on the network: own_classes, own_preprocessing, and
    own_classifier, by which its last layer is found: the network's own `classifier` if that is a
    text, or else the file's."""
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
    marked: Any = network  # nn.Module's own types allow tensors and layers alone
    marked.own_classes = num_classes
    marked.own_classifier = own_classifier(network, module)
    marked.own_preprocessing = own_preprocessing(network, module)
    return network


def own_classifier(*places: object) -> str | None:
    """The text `classifier` of the network, or else of its file; a layer of that name means
    something else."""
    for place in places:
        path = getattr(place, "classifier", None)
        if isinstance(path, str):
            return path
    return None


def own_preprocessing(*places: object) -> Any:
    """The value `preprocessing` of the network, or else of its file; a layer or module of that name
    means something else."""
    for place in places:
        found = getattr(place, "preprocessing", None)
        if found is not None and not isinstance(found, (nn.Module, types.ModuleType)):
            return found
    return None


def check_call(
    name: str, maker: Callable[..., Any], num_classes: int, arguments: Mapping[str, Any]
) -> None:
    """ValueError if the function does not take the arguments that it is about to be given."""
    try:
        inspect.signature(maker).bind(num_classes, **arguments)
    except TypeError as error:
        takes = ", ".join(["the number of classes", *arguments])
        raise ValueError(f"--model {name}: the function must take {takes} ({error})") from None
    except ValueError:
        return  # a builtin, which has no signature to look at


def run(file: Path) -> types.ModuleType:
    """The file as a module, registered under a name of its own: dataclasses and pickling look
    themselves up there."""
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()
    name = f"_network_{digest[:16]}"
    # For a file that is not Python the spec is None; the AttributeError that follows is explained.
    spec = cast(importlib.machinery.ModuleSpec, importlib.util.spec_from_file_location(name, file))
    module = importlib.util.module_from_spec(spec)
    loader = cast(importlib.abc.Loader, spec.loader)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def neighbours(file: Path) -> Iterator[None]:
    """Within the block the file imports what lies beside it: its own `data.py`, and not ours.

    Afterwards everything is as before: our modules are back, and another file's neighbour of the
    same name is not mistaken for this one's."""
    folder = file.resolve().parent
    if folder == HERE:
        yield
        return
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    ours = our_modules(names)
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    hidden = {name.partition(".")[0] for name in ours}
    for name in names & hidden:
        # A folder without __init__.py would come after our wing of the same name: Python takes the
        # first package that has one.
        if is_plain_package(folder / name):
            package = types.ModuleType(name)
            package.__path__ = [str(folder / name)]
            sys.modules[name] = package
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget_modules(folder)
        sys.modules.update(ours)


def our_modules(names: set[str]) -> dict[str, types.ModuleType]:
    """The imported modules of this project, by name, that have or lie in one of these names."""
    called_alike = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in names
    }
    return {name: module for name, module in called_alike.items() if lies_in(module, HERE)}


def forget_modules(folder: Path) -> None:
    """Remove from sys.modules what was imported from a folder, except the network files."""
    imported_there = [
        name
        for name, module in sys.modules.items()
        if not name.startswith("_network_") and lies_in(module, folder)
    ]
    for name in imported_there:
        del sys.modules[name]


def is_plain_package(folder: Path) -> bool:
    """True for a folder of Python files without `__init__.py`."""
    if (folder / "__init__.py").exists():
        return False
    return any(folder.glob("*.py"))


def lies_in(module: types.ModuleType, folder: Path) -> bool:
    """True for a module whose file is in the folder, or in a package there."""
    # A folder without __init__.py is a package too, and has a path in place of a file. Both are
    # read from the module's own dictionary: torch.classes answers any attribute with its own.
    own = getattr(module, "__dict__", {})
    places = [own["__file__"]] if own.get("__file__") else list(own.get("__path__", []))
    return any(
        folder in Path(place).resolve().parents and "site-packages" not in Path(place).parts
        for place in places
    )


def sha256(name: str) -> str:
    """SHA-256 of the file and of every Python file beside it that it imports: features depend on
    both."""
    digest = hashlib.sha256()
    for path in files(name):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def files(name: str) -> list[Path]:
    """The files that hold a network's code: FILE.py and what it imports from beside it.

    There are none for a name of the registry."""
    if ":" not in name:
        return []
    file, _ = parts(name)
    return [file, *imported(file, set())]


def imported(file: Path, seen: set[Path]) -> list[Path]:
    """Files in the same folder that the file imports, and those that they import, sorted."""
    tree = ast.parse(file.read_bytes())
    names: set[str] = set()
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
def explained(name: str, doing: str = "") -> Iterator[None]:
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


def describe(error: BaseException, name: str, place: str | None, doing: str) -> str:
    """The message for an error of the person's code, on one line."""
    at = f" at {place}" if place else ""
    kind = type(error).__name__
    message = " ".join(str(error).split())
    said = f"{kind}: {message}" if message else kind
    return f"--model {name} failed{doing}{at}: {said} (--debug shows the traceback)"


def lies_below(file: str, folder: Path) -> bool:
    """True for a file of the folder, or of a package in it, that was not installed."""
    place = Path(file).resolve()
    return folder in place.parents and "site-packages" not in place.parts


def where_in(error: BaseException, network: nn.Module) -> str | None:
    """The same of an error in the forward of a network that `build` made; None for any other."""
    module = sys.modules.get(type(network).__module__)
    file = getattr(module, "__file__", None)
    if not file or not type(network).__module__.startswith("_network_"):
        return None
    return where(error, f"{file}:{type(network).__name__}")


def where(error: BaseException, name: str) -> str | None:
    """ "net.py, line 12": the last line of the person's own files that the error went through, or
    None; for a network of a library too, which is no file of theirs."""
    if ":" not in name:
        return None
    file = parts(name)[0].resolve()
    folder = file.parent
    if isinstance(error, SyntaxError) and error.filename:
        place = Path(error.filename).resolve()
        if place.parent == folder:
            return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    beside = [frame for frame in frames if lies_below(frame.filename, folder)]
    in_file = [frame for frame in frames if Path(frame.filename).resolve() == file]
    # A file that lies among our own has our modules beside it, which are not the person's.
    own = in_file if folder == HERE else beside
    if not own:
        return None
    return f"{own[-1].filename}, line {own[-1].lineno}"
