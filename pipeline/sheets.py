"""Workbooks: the rows of a sheet as text."""

from __future__ import annotations

import datetime as dt
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features.errors import DataRefused, Problem
from features.mapping import Format
from pipeline.packed import weigh_workbook

BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, SyntaxError, KeyError, ValueError)


def _opened(path: Path, called: str) -> Any:
    """Open a workbook to be read row by row, or refuse (exit code 2) what is none."""
    import openpyxl

    try:
        weigh_workbook(path)
        return openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (*BROKEN, openpyxl.utils.exceptions.InvalidFileException):
        raise DataRefused(Problem(called, "an xlsx workbook", "other bytes", "Correct `format.type`.")) from None


def sheet_names(path: Path, called: str) -> list[str]:
    """Return the names of a workbook's sheets."""
    book = _opened(path, called)
    try:
        return list(book.sheetnames)
    finally:
        book.close()


def sheet_rows(path: Path, called: str, form: Format) -> Iterator[list[str]]:
    """Yield the rows of a sheet as text: dates in ISO, numbers as Python writes them, nothing for empty cells.

    Refuses (exit code 2) what is no workbook, a torn one, and one without the sheet.
    """
    book = _opened(path, called)
    try:
        if form.sheet and form.sheet not in book.sheetnames:
            must = f"a workbook with the sheet {form.sheet}"
            raise DataRefused(
                Problem(called, must, f"the sheets {', '.join(book.sheetnames)}", "Correct `format.sheet`.")
            )
        sheet = book[form.sheet] if form.sheet else book.worksheets[0]
        width = 0
        for row in sheet.iter_rows(min_row=form.skip + 1, values_only=True):
            cells = [_cell(value, form.decimal) for value in row]
            if not width:
                width = len(cells) if form.header else len(form.names) or len(cells)
                if not form.header:
                    yield form.names or [""] * width
            while len(cells) > width and not cells[-1]:
                cells.pop()
            yield [*cells, *[""] * (width - len(cells))]
    except BROKEN:
        raise DataRefused(Problem(called, "a whole xlsx workbook", "a torn one", "Deliver it again.")) from None
    finally:
        book.close()


def _cell(value: object, decimal: str) -> str:
    """Return a cell's value as text, numbers with the decimal mark of its format."""
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.date().isoformat() if value.time() == dt.time() else value.isoformat(sep=" ")
    return str(value).replace(".", decimal) if isinstance(value, float) else str(value)
