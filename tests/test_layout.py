"""Who imports whom: the house of DESIGN.md section 3, the anatomy of scripts, and a scorers' side
that starts without torch."""

import ast
import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

STAGES = ("train", "run_networks", "ood_methods", "neural_collapse", "report")
SCRIPTS = ("main", *STAGES, "detect", "import_features", "noise_ood_datasets_generator")
# What every wing may know, in their order: each may import those below it alone.
SHARED = (
    "figures",
    "feature_files",
    "dumps",
    "data",
    "networks",
    "resnet",
    "images",
    "moments",
    "processes",
    "machine_memory",
    "artifacts",
    "images.folders",
    "images.lists",
    "utils",
    "head_from_logits",
    "head",
    "arrays",
    "disk_rows",
    "threads",
    "console",
)
# Script or wing: what it may import beside the shared nouns and itself. Downwards only, so that
# every row stands above the rows that it names.
TABLE = {
    "main": {*STAGES, "training", "cli"},
    "train": {"training", "extraction", "cli"},
    "run_networks": {"extraction", "collapse", "cli"},
    "ood_methods": {"detection", "scores", "cli"},
    "detect": {"detection", "scores", "extraction", "cli"},
    "neural_collapse": {"collapse", "scores", "cli"},
    "report": {"reporting", "cli"},
    "import_features": {"cli"},
    "noise_ood_datasets_generator": {"cli"},
    "training": {"collapse"},
    "extraction": {"collapse"},
    "reporting": {"detection", "collapse", "scores"},
    "detection": {"scores"},
    "collapse": set(),
    "scores": set(),
    "cli": set(),
}
# A wing that may know one module of another wing, and not the whole of it.
ONLY = {
    ("extraction", "collapse"): {"collapse.layers"},
    ("run_networks", "collapse"): {"collapse.layers"},
    ("train", "extraction"): {"extraction.extractor"},
    ("reporting", "collapse"): {"collapse.rows"},
    ("reporting", "detection"): {"detection.metrics"},  # paired tests of two runs
    # for images alone, imported late
    ("detect", "extraction"): {"extraction.streaming", "extraction.onnx_streaming"},
    ("reporting", "scores"): {"scores.registry"},
    ("main", "training"): {"training.recipes"},
}
TORCH_FREE = (
    "ood_methods",
    "detect",
    "neural_collapse",
    "report",
    "import_features",
    "head_from_logits",
    "reporting",
    "detection",
    "scores",
    "collapse",
    "figures",
    "feature_files",
    "moments",
    "artifacts",
    "images.folders",
    "images.lists",
    "images.openood",
    "images.file_facts",
    "networks.onnx_building",
    "networks.onnx_graphs",
    "networks.onnx_sessions",
    "head",
    "arrays",
    "disk_rows",
    "utils",
    "cli",
    "console",
)
WINGS = sorted(
    path.parent.name
    for path in ROOT.glob("*/__init__.py")
    if path.parent.name not in ("tests", "benchmarks")
)
PRESENT = sorted(path.stem for path in ROOT.glob("*.py")) + sorted(
    f"{wing}.{path.stem}" for wing in WINGS for path in (ROOT / wing).glob("*.py")
)


def file_of(module):
    return ROOT / f"{module.replace('.', '/')}.py"


def tree(module):
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def within(module, name):
    """True for a module itself, and for one in the package of that name."""
    return module == name or module.startswith(f"{name}.")


def row(module, names):
    """The longest of these names that a module is or lies in."""
    return max((name for name in names if within(module, name)), key=len, default=None)


def imported(node):
    """Dotted names imported anywhere under a node: at the top, inside functions, or by
    import_module("name"). `from a import b` gives a and a.b, since b may be a module or a name."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            assert not part.level, f"line {part.lineno}: imports are absolute"
            found |= {part.module, *(f"{part.module}.{alias.name}" for alias in part.names)}
        elif isinstance(part, ast.Call) and ast.unparse(part.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            found |= {str(word.value) for word in part.args[:1] if isinstance(word, ast.Constant)}
    return found


def imports(node):
    """The first parts of the dotted names."""
    return {name.partition(".")[0] for name in imported(node)}


def ours(module):
    """Modules of this house that a module imports; a package counts as its `__init__`."""
    packages = {f"{wing}.__init__" for wing in WINGS}
    names = imported(tree(module))
    found = names & set(PRESENT)
    for package in packages:
        wing = package.partition(".")[0]
        if wing in names and not any(name.startswith(f"{wing}.") for name in found):
            found.add(package)
    return found - {module}


def functions(module):
    return [
        node
        for node in ast.walk(tree(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


# They look through folders that are no results, or leave hidden files out themselves.
LISTERS = (
    "utils",
    "artifacts.records",
    "images.folders",
    "images.downloads",
    "networks.source_files",
    "threads",
)
LISTINGS = ("glob", "rglob", "iterdir", "listdir", "scandir")


@pytest.mark.parametrize("module", [name for name in PRESENT if name not in LISTERS])
def test_folders_are_listed_without_hidden_files(module):
    """Path.glob takes a half-written hidden file for a result, and a name for a pattern;
    records.listing does not."""
    found = [
        f"line {part.lineno}: {ast.unparse(part)}"
        for part in ast.walk(tree(module))
        if isinstance(part, ast.Call) and ast.unparse(part.func).rpartition(".")[2] in LISTINGS
    ]
    assert not found, f"{module}.py, {found}: use records.listing"


# ---- the house -----------------------------------------------------------------------------------


def test_the_import_walk_sees_every_way_to_import():
    code = (
        "import a.b\nfrom c.d import e\ndef f():\n    import g\n"
        "importlib.import_module('i.j')\n__import__('k')"
    )
    assert imported(ast.parse(code)) == {"a.b", "c.d", "c.d.e", "g", "i.j", "k"}


def test_imports_are_absolute():
    with pytest.raises(AssertionError, match="absolute"):
        imported(ast.parse("from . import a"))


def test_every_module_has_its_place():
    unknown = [name for name in PRESENT if not row(name, (*TABLE, *SHARED))]
    assert unknown == [], "a new file or wing needs a place in DESIGN.md section 3 and here"


def test_every_place_has_its_file():
    for name in (*TABLE, *SHARED):
        assert file_of(name).exists() or (file_of(name).with_suffix("") / "__init__.py").exists()


def test_the_table_points_downwards_only():
    order = list(TABLE)
    assert not [
        (name, other)
        for name, others in TABLE.items()
        for other in others
        if order.index(other) <= order.index(name)
    ]


@pytest.mark.parametrize("module", [name for name in PRESENT if row(name, TABLE)])
def test_a_module_imports_only_what_its_row_allows(module):
    own = row(module, TABLE)
    for name in ours(module):
        wing = row(name, TABLE)
        assert wing in (None, own, *TABLE[own]), f"{module} may not import {name}"
        assert name in ONLY.get((own, wing), {name}), f"{module} may not import {name}"


@pytest.mark.parametrize("module", [name for name in PRESENT if not row(name, TABLE)])
def test_a_shared_noun_imports_only_those_below_it(module):
    place = SHARED.index(row(module, SHARED))
    for name in ours(module):
        assert row(name, SHARED), f"{module} is shared, and {name} is not"
        assert SHARED.index(row(name, SHARED)) >= place, f"{module} may not import {name}"


def test_no_imports_run_in_a_circle():
    order = TopologicalSorter({module: ours(module) for module in PRESENT}).static_order()
    assert set(order) == set(PRESENT)


@pytest.mark.parametrize("module", [name for name in PRESENT if name != "main"])
def test_only_main_imports_scripts(module):
    assert not imports(tree(module)) & set(SCRIPTS)


def test_main_imports_every_stage():
    assert imports(tree("main")) >= set(STAGES)


def test_no_top_level_name_is_that_of_an_installed_package():
    """Such a package could no longer be imported from here: `distributed` is Dask's."""
    names = {name.partition(".")[0] for name in PRESENT} | {"tests", "benchmarks", "helpers"}
    taken = {"distributed", "report", *sys.stdlib_module_names}
    taken |= set(importlib.metadata.packages_distributions())
    assert not names & (taken - {"report"})
    assert "report" not in WINGS and "data" not in WINGS, "a script or data.py would be shadowed"


@pytest.mark.parametrize("module", [name for name in PRESENT if name != "cli"])
def test_only_cli_imports_argparse(module):
    assert "argparse" not in imports(tree(module))


@pytest.mark.parametrize("module", [name for name in PRESENT if name not in (*SCRIPTS, "cli")])
def test_a_library_has_no_parser_and_does_not_run(module):
    source = file_of(module).read_text(encoding="utf-8")
    assert (
        "add_argument" not in source
        and "__main__" not in source
        and "cli" not in imports(tree(module))
    )


# ---- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [name for name in PRESENT if row(name, TORCH_FREE)])
def test_the_scorers_side_names_torch_nowhere(module):
    top = [node for node in tree(module).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    # cli.device and its like are called by train alone
    everywhere = set() if module == "cli" else imports(tree(module))
    assert not (everywhere | imports(ast.Module(top, []))) & {"torch", "torchvision", "timm"}


def test_the_scorers_and_the_report_start_without_torch():
    check = (
        "import sys, ood_methods, detect, neural_collapse, report, import_features; "
        "sys.exit(', '.join(sorted({'torch', 'torchvision'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ---- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_parse_args_and_a_main_of_at_most_forty_lines(script):
    found = {node.name: node for node in tree(script).body if isinstance(node, ast.FunctionDef)}
    assert {"parse_args", "main"} <= set(found)
    assert [word.arg for word in found["main"].args.args] == ["argv"] and ast.unparse(
        found["main"].args.defaults[0]
    ) == "None"
    assert found["main"].end_lineno - found["main"].lineno + 1 <= 40
    answers = ", answers=True" if script == "detect" else ""  # what it prints are its results
    start = f"if __name__ == '__main__':\n    cli.run(main{answers})"
    assert ast.unparse(tree(script).body[-1]) == start


@pytest.mark.parametrize("module", PRESENT)
def test_no_function_is_longer_than_sixty_lines(module):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(module)}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("module", PRESENT)
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(tree(module)), f"{module}.py has no docstring"


def commands(text):
    """The `python <script>.py ...` lines of a text, with a line that ends in a backslash joined to
    the next."""
    lines = text.replace("\\\n", " ").splitlines()
    return [
        found.group(1)
        for line in lines
        if (found := re.match(r"\s*(?:\$ )?python (\w+\.py\b[^|>;&]*)", line))
    ]


def parse(command):
    """Let the script's own parser take a documented command; main hands each stage its words, which
    are parsed too."""
    script, *words = shlex.split(command, comments=True)
    module = importlib.import_module(script.removesuffix(".py"))
    parsed = module.parse_args(words)
    if script == "main.py":
        for name, own in parsed[1].items():
            makes_it = name == "train" or "--pretrained" in own
            module.STAGES[name].script.parse_args(
                own + ([] if makes_it else ["--checkpoint", "some.pth"])
            )


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_docstring_shows_commands_that_the_script_takes(script):
    shown = commands(ast.get_docstring(tree(script), clean=False))
    assert len([line for line in shown if line.startswith(f"{script}.py")]) >= 2
    for command in shown:
        parse(command)


DOCUMENTED = [
    (path.name, command)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.is_file()
    for command in commands(path.read_text(encoding="utf-8"))
    if command.partition(".")[0] in SCRIPTS
]


@pytest.mark.parametrize(("page", "command"), DOCUMENTED)
def test_the_documents_show_commands_that_the_scripts_take(page, command):
    parse(command)
