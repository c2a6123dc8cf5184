"""docs/: every score with its defaults, every metric, every tuning grid and every collapse metric
is there, and examples run."""

import ast
import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import ood_methods
from collapse import metrics as nc
from collapse import table as nc_table
from detection import id_tables, metrics
from detection.scored import Scored, ScoredSet
from moments import Accumulator
from scores import registry

DOCS = Path(__file__).resolve().parent.parent / "docs"
METHODS, COLLAPSE = (
    (DOCS / name).read_text(encoding="utf-8") for name in ("methods.md", "neural_collapse.md")
)


def tables(text):
    """The tables of a page: lists of rows, each a dict of cells by column title; a pipe in a cell
    is written \\|."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        title, _, *rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        found.append([dict(zip(title, row, strict=True)) for row in rows])
    return found


def described(text, *columns):
    """Rows of all tables that have these columns, by the names in backticks in their first cell."""
    rows = [row for table in tables(text) for row in table if set(columns) <= set(row)]
    return {
        name: row for row in rows for name in re.findall(r"`([^`]+)`", next(iter(row.values())))
    }


def value(text):
    return ast.literal_eval(text.strip())


def test_tables_are_read_with_their_escaped_pipes():
    page = "x\n\n| a | b |\n|---|---|\n| `p`, `q` | \\|h\\| |\n\ny\n"
    assert tables(page) == [[{"a": "`p`, `q`", "b": "\\|h\\|"}]]
    assert set(described(page, "a", "b")) == {"p", "q"}
    assert described(page, "c") == {}


# ---- methods.md ----------------------------------------------------------------------------------


def test_every_score_and_no_other_has_a_formula_and_a_row_of_differences():
    formulas, differences = (
        described(METHODS, "score", "needs"),
        described(METHODS, "our default is from"),
    )
    assert set(formulas) == set(registry.ROWS)
    assert all(row["score"] and row["needs"] for row in formulas.values())
    without = {"MaxLogit", "Cosine", "CTM"}  # in which nobody disagrees
    assert set(differences) == set(formulas) - without


@pytest.mark.parametrize("name", registry.METHODS)
def test_the_defaults_shown_are_those_of_the_code(name):
    cell = described(METHODS, "score", "parameters")[name]["parameters"].strip("`")
    shown = {
        key.strip(): value(text)
        for key, text in (part.split("=") for part in cell.split(",") if part.strip())
    }
    assert shown == registry.METHODS[name].parameters
    assert [type(default) for default in shown.values()] == [
        type(value) for value in registry.METHODS[name].parameters.values()
    ]


@pytest.mark.parametrize("name", registry.ROWS)
def test_the_formula_shown_is_that_of_the_row(name):
    shown = described(METHODS, "score", "parameters")[name]["score"]
    assert shown.replace("\\|", "|") == registry.ROWS[name].formula


@pytest.mark.parametrize("name", registry.ROWS)
def test_the_source_shown_is_that_of_the_registry(name):
    assert described(METHODS, "score", "source")[name]["source"].startswith(
        registry.ROWS[name].source
    )


@pytest.mark.parametrize("name", registry.ROWS)
def test_the_link_of_a_row_is_among_the_sources(name):
    sources = METHODS.partition("## Sources")[2]
    assert f"<{registry.ROWS[name].link}>" in sources


def test_every_metric_column_is_explained():
    shown = described(METHODS, "column", "formula")
    assert set(metrics.COLUMNS) <= set(shown)
    # detection.evaluation.tabulate adds these
    assert set(shown) - set(metrics.COLUMNS) == {
        "accuracy",
        "accuracy_at_tpr",
        "best",
        "note",
    }


def test_every_measure_is_explained():
    rng = np.random.default_rng(0)
    said = id_tables.Probabilities(rng.normal(size=(30, 3)), np.arange(30) % 3, 2.0, "")
    inside = ScoredSet("ID", None, {"A": rng.normal(size=30)})
    outside = ScoredSet("x", None, {"A": rng.normal(size=20)})
    scored, right = Scored(inside, [outside], {}), np.arange(30) % 4 > 0
    rows = [
        *id_tables.calibration(said),
        *id_tables.selective(scored, right, id_tables.risk_curves(scored, right)),
        *id_tables.with_ood(scored, right, 0.95),
    ]
    assert {row.measure for row in rows} == set(described(METHODS, "measure", "formula"))


def test_the_tuning_grids_shown_are_those_of_the_code():
    shown = described(METHODS, "method", "parameter", "values")
    grids = {
        name: (row["parameter"].strip("`"), tuple(map(value, row["values"].split(","))))
        for name, row in shown.items()
    }
    assert grids == {
        row.name: (row.grid.parameter, row.grid.values)
        for row in registry.METHODS.values()
        if row.grid
    }
    assert all(
        registry.METHODS[name].parameters[parameter] in values
        for name, (parameter, values) in grids.items()
    )


def test_every_flag_shown_exists():
    # of run_networks.py
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", METHODS)) - {
        "--odin-epsilon",
        "--adascale",
        "--calibration",
        "--leaderboard",
    }
    parser = ood_methods.make_parser()
    assert len(flags) > 8
    assert not [flag for flag in flags if not parser.knows(flag)]


def test_the_examples_give_what_is_shown():
    found = doctest.testfile(str(DOCS / "methods.md"), module_relative=False)
    assert found.attempted >= 4
    assert found.failed == 0


# ---- neural_collapse.md --------------------------------------------------------------------------


def collapse_metrics():
    """Every metric that collapse/ writes, of a small case in which all are defined."""
    rng, classes, width = np.random.default_rng(0), 3, 5
    features, labels = rng.normal(size=(60, width)).astype(np.float32), np.arange(60) % classes
    W, b = rng.normal(size=(classes, width)), rng.normal(size=classes)
    moments = Accumulator(classes=classes, width=width).update(features, labels).finish()
    rows = [
        *nc_table.nc1_to_nc3(moments, W, b),
        *nc_table.nc4(nc.nc4(features, labels, W, b, moments.means).agreement, "test"),
        *nc_table.nc5(nc.nc5(moments, features[:7]), "ood:any"),
    ]
    return moments, {row.metric for row in rows}


def test_every_collapse_metric_is_explained():
    _, written = collapse_metrics()
    assert len(written) > 20
    shown = set(described(COLLAPSE, "metric", "formula"))
    assert not {re.sub("^nc2_(means|weights)_", "", metric) for metric in written} - shown
    assert {
        metric.partition("_")[2].partition("_")[0] for metric in written if metric.startswith("nc2")
    } == {"means", "weights"}
    assert "`nc2_means_...`" in COLLAPSE and "`nc2_weights_...`" in COLLAPSE


def test_every_column_of_the_table_by_class_is_named():
    moments, _ = collapse_metrics()
    section = COLLAPSE.partition("## nc_per_class.csv")[2].partition("\n## ")[0]
    assert not [
        column
        for column in nc_table.per_class(moments, np.eye(3, 5))
        if not re.search(rf"\b{column}\b", section)
    ]


PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_file_that_a_page_names_is_there(page):
    named = re.findall(
        r"`(?:tests/)?((?:[a-z_]+/)?test_\w+\.py)`", page.read_text(encoding="utf-8")
    )
    missing = [name for name in named if not (DOCS.parent / "tests" / name).is_file()]
    assert missing == []


# ---- python.md -----------------------------------------------------------------------------------


def test_the_examples_of_python_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "recommended: Cosine" in said and "rejected" in said and "0.98" in said
    assert names["signs"].shape == (8,) and set(names["signs"]) <= {1, -1}
    assert (names["margins"] < 0).any()
