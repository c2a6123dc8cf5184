"""The tables of a report as one workbook for a spreadsheet, report.xlsx.

    workbook.write(Path("report.xlsx"), {"ood_metrics": table, ...}, {"run": "net_best_s0"})

Names are text there whatever they look like: no cell is read as a formula, a link or a number that
a table has as a name. A missing value is an empty cell."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import utils
from reporting.found import Found

INSTALL = "pip install xlsxwriter"
LONGEST_NAME = 31  # letters of a sheet's name
FORBIDDEN = r"[\[\]:*?/\\]"  # in one
WIDEST = 48  # letters that a column is made to fit
AS_TEXT = {
    "strings_to_numbers": False,
    "strings_to_formulas": False,
    "strings_to_urls": False,
}


def write(path: Path, tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> None:
    """Write a sheet for each table, its header frozen and filtered, and a first one with what is
    known of the run. ValueError, with what installs it, where the package is missing."""
    try:
        import xlsxwriter
    except ImportError:
        raise ValueError(
            f"--xlsx needs the package XlsxWriter; install it with: {INSTALL}"
        ) from None
    with utils.replacing(path) as temporary:
        book = xlsxwriter.Workbook(str(temporary), AS_TEXT)
        known = pd.DataFrame({"fact": list(facts), "value": list(facts.values())})
        taken: set[str] = set()
        for name, table in {"about": known, **tables}.items():
            write_sheet(book, sheet_name(name, taken), table)
        book.close()


def sheet_name(name: str, taken: set[str]) -> str:
    """A name that a sheet may have, and that none has yet; it is added to `taken`."""
    plain = re.sub(FORBIDDEN, "_", name.removesuffix(".csv"))[:LONGEST_NAME].strip("'") or "table"
    found, number = plain, 2
    while found.lower() in taken:
        end = f"_{number}"
        found, number = plain[: LONGEST_NAME - len(end)] + end, number + 1
    taken.add(found.lower())
    return found


def write_sheet(book: Any, name: str, table: pd.DataFrame) -> None:
    """A table with its header in bold, frozen and filtered, its columns as wide as they need."""
    sheet = book.add_worksheet(name)
    bold = book.add_format({"bold": True})
    for column, title in enumerate(table.columns):
        sheet.write_string(0, column, str(title), bold)
        values = table[title].tolist()
        for row, value in enumerate(values, 1):
            write_cell(sheet, row, column, value)
        letters = [len(str(title)) + 3, *(len(shown(value)) for value in values)]
        sheet.set_column(column, column, min(WIDEST, max(letters) + 1))
    sheet.freeze_panes(1, 0)
    if len(table.columns):
        sheet.autofilter(0, 0, max(len(table), 1), len(table.columns) - 1)


def write_cell(sheet: Any, row: int, column: int, value: Any) -> None:
    """A number as a number, True and False as such, anything else as text; nothing where it is
    missing."""
    if isinstance(value, (bool, np.bool_)):
        sheet.write_boolean(row, column, bool(value))
    elif isinstance(value, (int, float, np.integer, np.floating)):
        if math.isfinite(value):
            sheet.write_number(row, column, float(value))
        elif not math.isnan(value):
            sheet.write_string(row, column, str(value))  # a spreadsheet has no infinity
    elif value is not None and value is not pd.NA and value != "":
        sheet.write_string(row, column, str(value))


def shown(value: Any) -> str:
    """About what a cell shows, to tell its width."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tables_of(found: Found) -> dict[str, pd.DataFrame]:
    """{name: table} of what a run has."""
    known: dict[str, pd.DataFrame | None] = {
        "ood_metrics": found.ood,
        "ood_groups": found.groups,
        "ood_members": None if found.ensemble is None else found.ensemble.table,
        "nc_metrics": found.nc,
        "nc_per_class": found.per_class,
        "training": found.curves,
        **found.more,
    }
    return {name: table for name, table in known.items() if table is not None and len(table)}
