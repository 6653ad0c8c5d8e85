"""On which line of the lender's file a row stands, blank lines, notes in ARFF and line ends inside quotations counted.

A row is known by its number among the rows of its file. Where each row is one line that is plain arithmetic; else the
file is gone through once more, and only for rows that are quarantined.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from features.mapping import Format
from pipeline.packed import CHUNK, is_array, open_bytes
from pipeline.raw import RawFile, is_utf8


def lines_above(file: RawFile | None, form: Format) -> int:
    """Return how many lines stand above the first row of a file, or, without it, of the text that the engine reads."""
    if form.type == "arff" and file is not None:
        with open_bytes(file.path) as stream:
            return next((count for count, line in enumerate(stream, 1) if line.strip().lower() == b"@data"), 0)
    if form.type == "csv" or (form.type == "xlsx" and file is not None):
        return form.skip + int(form.header)
    return int(form.type == "xlsx")


def lines_of(file: RawFile, form: Format, whole: int, rejected: list[int]) -> tuple[list[int], dict[int, int]] | None:
    """Return the lines of a file's `whole` rows in their order, and those of what the engine rejected by its number.

    None where every row is one line below the header (or the file has none, as a workbook). Empty where the file's
    rows cannot be told as the engine told them. The engine numbers what it rejects below the header as if every row
    before it stood on one line, but counts blank lines.
    """
    told = set(rejected)
    if form.type in ("parquet", "xlsx") or _count(file, form) == lines_above(file, form) + whole + len(told):
        return None
    rows = list(_rows(file, form))
    lines = [line for number, line in rows if number not in told]
    others = {number: line for number, line in rows if number in told}
    return (lines, others) if len(lines) == whole and len(others) == len(told) else ([], {})


def _count(file: RawFile, form: Format) -> int:
    """Return the number of lines of a file, whatever ends them; -1 where its bytes do not tell."""
    if not is_utf8(form):
        return -1
    lines, last = 0, b""
    with open_bytes(file.path) as stream:
        while chunk := stream.read(CHUNK):
            lines += chunk.count(b"\n")
            if b"\r" in chunk or last == b"\r":
                lines += chunk.count(b"\r") - (last + chunk).count(b"\r\n")
            last = chunk[-1:]
    return lines + (last not in (b"\n", b"\r", b""))


def _rows(file: RawFile, form: Format) -> Iterator[tuple[int, int]]:
    """Yield (number as the engine tells it, line) of each row of a file of text; stop where it cannot be followed."""
    encoding = "utf-8-sig" if is_utf8(form) else form.encoding
    with open_bytes(file.path) as stream, io.TextIOWrapper(stream, encoding, errors="replace", newline=None) as text:
        if form.type == "jsonl":
            if not is_array(file.path):
                lines = (line for line, record in enumerate(text, 1) if record.strip())
                yield from enumerate(lines, 1)
            return
        above = lines_above(file, form) if form.type == "arff" else form.skip
        for _ in range(above):
            next(text, "")
        fed: list[int] = []

        def body() -> Iterator[str]:
            for line, record in enumerate(text, above + 1):
                if form.type == "csv" or not record.lstrip().startswith("%"):
                    fed.append(line)
                    yield record

        rows = csv.reader(body(), **_dialect(form))
        number, before, width = 0, 0, 0
        header = form.type == "csv" and form.header
        try:
            for cells in rows:
                first, before = before, rows.line_num
                width = width or len(cells)
                if header:
                    header = not cells
                    continue
                number += 1
                if cells or width == 1:  # the engine skips a blank line unless there is but one column
                    yield number, fed[first]
        except csv.Error:
            return


def _dialect(form: Format) -> dict[str, Any]:
    """Return how Python's own reader finds the ends of a file's rows."""
    quote = "'" if form.type == "arff" else form.quote
    if not quote:
        return {"delimiter": form.delimiter[0], "quoting": csv.QUOTE_NONE, "quotechar": None}
    other = form.escape if form.escape not in (None, quote) else None
    return {"delimiter": form.delimiter[0], "quotechar": quote, "escapechar": other, "doublequote": other is None}
