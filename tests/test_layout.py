"""Who imports whom: the table of DESIGN.md section 3, the anatomy of scripts, and a scorers' side
that starts without torch."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Module: what it may import of ours. Downwards only, so every row stands above the rows that it
# names.
TABLE = {
    "main": {
        "train",
        "run_networks",
        "ood_methods",
        "neural_collapse",
        "report",
        "recipes",
        "records",
        "utils",
        "cli",
    },
    "train": {
        "training",
        "recipes",
        "augment",
        "data",
        "image_files",
        "image_folders",
        "networks",
        "network_files",
        "extraction",
        "leave_out",
        "distributed",
        "records",
        "utils",
        "cli",
        "figures",
    },
    "run_networks": {
        "feature_jobs",
        "expected_inputs",
        "data",
        "image_files",
        "networks",
        "network_files",
        "checkpoints",
        "extraction",
        "layers",
        "distributed",
        "records",
        "artifacts",
        "utils",
        "cli",
    },
    "ood_methods": {
        "joining",
        "detection",
        "scores",
        "tables",
        "metrics",
        "figures",
        "runs",
        "records",
        "artifacts",
        "utils",
        "cli",
    },
    "neural_collapse": {
        "scores",
        "layers",
        "series",
        "collapse",
        "figures",
        "runs",
        "records",
        "artifacts",
        "utils",
        "cli",
    },
    "report": {
        "report_page",
        "report_summary",
        "report_words",
        "records",
        "artifacts",
        "utils",
        "cli",
    },
    "report_page": {"report_words", "figures", "utils"},
    "report_summary": {"report_words", "figures", "utils"},
    "report_words": {"figures"},
    "training": {
        "recipes",
        "augment",
        "networks",
        "network_files",
        "checkpoints",
        "collapse",
        "distributed",
        "records",
        "artifacts",
        "utils",
    },
    "recipes": set(),
    "extraction": {"leave_out", "layers"},
    "feature_jobs": {"data", "image_folders", "layers", "records", "utils"},
    "expected_inputs": {"data", "checkpoints"},
    "layers": {"collapse", "records", "artifacts"},
    "series": {"records", "artifacts"},
    "networks": {"checkpoints", "network_files", "resnet"},
    "network_files": set(),
    "checkpoints": {"utils"},
    "resnet": set(),
    "data": {"downloads", "image_files", "image_folders", "utils"},
    "downloads": set(),
    "image_files": {"image_folders"},
    "augment": set(),
    "leave_out": set(),
    "joining": {"csv_files", "detection", "scores", "records", "artifacts", "utils"},
    "detection": {"scores", "tables", "metrics", "records", "artifacts", "utils"},
    "scores": set(),
    "tables": {"metrics"},
    "metrics": set(),
    "runs": {"records", "artifacts", "utils"},
    "collapse": set(),
    "figures": set(),
    "distributed": set(),
    "artifacts": {"records", "csv_files", "utils"},
    "records": {"csv_files", "image_folders", "utils"},
    "csv_files": {"utils"},
    "utils": set(),
    "image_folders": set(),
    "cli": set(),
}
# Libraries that outgrew one file: <name>_<part>.py, imported by the library's own files alone.
SPLIT = ("scores", "figures", "collapse", "training")
SCRIPTS = ("main", "train", "run_networks", "ood_methods", "neural_collapse", "report")
STAGES = SCRIPTS[1:]
TORCH_FREE = (
    "ood_methods",
    "neural_collapse",
    "report",
    "report_page",
    "report_summary",
    "report_words",
    "joining",
    "detection",
    "scores",
    "tables",
    "metrics",
    "layers",
    "series",
    "runs",
    "collapse",
    "figures",
    "artifacts",
    "csv_files",
    "records",
    "utils",
    "image_folders",
    "cli",
)
PRESENT = sorted(path.stem for path in ROOT.glob("*.py"))


def row(module):
    """The row that a file belongs to: scores_features -> scores."""
    return next((name for name in SPLIT if module.startswith(f"{name}_")), module)


def tree(module):
    return ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))


def imports(node):
    """Names of the modules imported anywhere under a node: at the top, inside functions, or by
    import_module("name")."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            found |= (
                {alias.name for alias in part.names}
                if part.level and not part.module
                else {part.module.partition(".")[0]}
            )
        elif isinstance(part, ast.Call) and ast.unparse(part.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            found |= {
                str(word.value).partition(".")[0]
                for word in part.args[:1]
                if isinstance(word, ast.Constant)
            }
    return found


def functions(module):
    return [
        node
        for node in ast.walk(tree(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


# They look through folders that are no results, or leave hidden files out themselves.
LISTERS = ("utils", "records", "image_files", "image_folders", "downloads", "network_files")
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


# ---- the table -----------------------------------------------------------------------------------


def test_the_import_walk_sees_every_way_to_import():
    code = (
        "import a.b\nfrom c.d import e\ndef f():\n    import g\n    from . import h\n"
        "importlib.import_module('i.j')\n__import__('k')"
    )
    assert imports(ast.parse(code)) == set("acghik")


def test_every_module_at_the_top_stands_in_the_table():
    assert set(map(row, PRESENT)) <= set(TABLE), (
        "a new file at the top needs a row in DESIGN.md section 3 and here"
    )


def test_every_row_but_those_to_come_has_its_file():
    assert set(TABLE) - set(PRESENT) <= {"leave_out", "distributed"}


def test_the_table_points_downwards_only():
    order = list(TABLE)
    upwards = [
        (name, other)
        for name, others in TABLE.items()
        for other in others
        if order.index(other) <= order.index(name)
    ]
    assert not upwards


@pytest.mark.parametrize("module", PRESENT)
def test_a_module_imports_only_what_its_row_allows(module):
    ours = imports(tree(module)) & {*TABLE, *PRESENT}
    parts = {name for name in PRESENT if row(name) == row(module) and name != row(name)}
    assert ours <= TABLE[row(module)] | parts, (
        f"{module} may not import {sorted(ours - TABLE[row(module)] - parts)}"
    )


def test_no_imports_run_in_a_circle():
    order = TopologicalSorter(
        {module: imports(tree(module)) & set(PRESENT) for module in PRESENT}
    ).static_order()
    assert set(order) == set(PRESENT)


@pytest.mark.parametrize("module", [name for name in PRESENT if name != "main"])
def test_only_main_imports_scripts(module):
    assert not imports(tree(module)) & set(SCRIPTS)


def test_main_imports_every_stage():
    assert imports(tree("main")) >= set(STAGES)


@pytest.mark.parametrize("module", [name for name in PRESENT if name != "cli"])
def test_only_cli_imports_argparse(module):
    assert "argparse" not in imports(tree(module))


@pytest.mark.parametrize("module", [name for name in PRESENT if name not in (*SCRIPTS, "cli")])
def test_a_library_has_no_parser_and_does_not_run(module):
    source = (ROOT / f"{module}.py").read_text(encoding="utf-8")
    assert (
        "add_argument" not in source
        and "__main__" not in source
        and "cli" not in imports(tree(module))
    )


# ---- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [name for name in PRESENT if row(name) in TORCH_FREE])
def test_the_scorers_side_names_torch_nowhere(module):
    top = [node for node in tree(module).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    everywhere = (
        set() if module == "cli" else imports(tree(module))
    )  # cli.device and its like are called by train alone
    assert not (everywhere | imports(ast.Module(top, []))) & {"torch", "torchvision", "timm"}


def test_the_scorers_and_the_report_start_without_torch():
    check = (
        "import sys, ood_methods, neural_collapse, report; import scores, metrics, collapse,"
        " figures, utils, cli; sys.exit(', '.join(sorted({'torch', 'torchvision'} &"
        " set(sys.modules))) or 0)"
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
    assert ast.unparse(tree(script).body[-1]) == "if __name__ == '__main__':\n    cli.run(main)"


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
            module.STAGES[name].script.parse_args(
                own + ([] if name == "train" else ["--checkpoint", "some.pth"])
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
