"""report.py --xlsx: what a spreadsheet reads is what the tables say."""

import builtins

import numpy as np
import pandas as pd
import pytest
from helpers import read_csv, shell, toy_run

import ood_methods
import report
from reporting import workbook

openpyxl = pytest.importorskip("openpyxl", reason="needs requirements-dev.txt")


def rows_of(path, sheet):
    """The cells of a sheet, row by row."""
    book = openpyxl.load_workbook(path)
    return [[cell.value for cell in row] for row in book[sheet].iter_rows()], book


def test_names_are_text_and_numbers_numbers(tmp_path):
    names = ["007", "=1+1", "1e5", "null", "http://x", "-3", "", "<b>"]
    table = pd.DataFrame({"ood": names, "auroc": [0.5, np.nan, 1, np.inf, 0, 1e-9, 2, 3]})
    table["best"] = [True, False] * 4
    workbook.write(tmp_path / "a.xlsx", {"ood_metrics.csv": table}, {"run": "=net"})
    cells, book = rows_of(tmp_path / "a.xlsx", "ood_metrics")
    assert cells[0] == ["ood", "auroc", "best"]
    assert [row[0] for row in cells[1:]] == [*names[:6], None, "<b>"]
    assert [row[1] for row in cells[1:]] == [0.5, None, 1, "inf", 0, 1e-9, 2, 3]
    assert [row[2] for row in cells[1:3]] == [True, False]
    sheet = book["ood_metrics"]
    assert {cell.data_type for cell in sheet["A"]} <= {"s", "n"}  # no formula, which is "f"
    assert sheet["A3"].data_type == "s" and sheet["A3"].hyperlink is None
    assert sheet.freeze_panes == "A2" and sheet.auto_filter.ref == "A1:C9"
    assert book["about"]["B2"].value == "=net" and book["about"]["B2"].data_type == "s"


def test_names_of_sheets_fit_and_differ(tmp_path):
    tables = {
        name: pd.DataFrame({"x": [1]}) for name in ("a" * 40, "a" * 41, "A" * 31, "b/c:d", "")
    }
    workbook.write(tmp_path / "a.xlsx", tables, {})
    names = openpyxl.load_workbook(tmp_path / "a.xlsx").sheetnames
    assert names == ["about", "a" * 31, "a" * 29 + "_2", "A" * 29 + "_3", "b_c_d", "table"]


@pytest.mark.slow
def test_a_run_and_a_comparison_as_workbooks(tmp_path):
    folders = []
    for name in ("one", "two"):
        toy_run(tmp_path / name)
        words = ("--checkpoint", tmp_path / name, "--methods", "MSP", "Energy")
        assert shell(ood_methods.main, *words).code == 0
        folders.append(tmp_path / name)
    ended = shell(report.main, "--checkpoint", folders[0], "--xlsx")
    assert ended.code == 0, ended.err
    cells, book = rows_of(folders[0] / "report.xlsx", "ood_metrics")
    table = read_csv(folders[0] / "ood_metrics.csv")
    assert len(cells) == len(table) + 1
    column = cells[0].index("auroc")
    np.testing.assert_array_equal([row[column] for row in cells[1:]], table["auroc"])
    assert {"about", "ood_metrics", "id_metrics"} <= set(book.sheetnames)
    ended = shell(report.main, "--checkpoint", *folders, "--output-dir", tmp_path, "--xlsx")
    assert ended.code == 0, ended.err
    cells, _ = rows_of(tmp_path / "compare.xlsx", "mean_auroc")
    assert cells[0][1:] == ["one", "two"] and {row[0] for row in cells[1:]} == {"MSP", "Energy"}


def test_without_the_package_the_command_that_installs_it_is_said(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *more, **named):
        if name == "xlsxwriter":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match="pip install xlsxwriter"):
        workbook.write(tmp_path / "a.xlsx", {}, {})
