"""The worklist as people open it: a workbook and a calendar, with the same bytes for the same rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import answers

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can state
MOST_ROWS = 1_048_575  # of a sheet, below its header
WORDS = {"alarm": ("Contact", "联系"), "review": ("Regular review", "定期复核")}
ASK = ("Ask for", "索取")
OFFER = ("Offer", "提供")


def write_workbook(table: pa.Table, out: Path, tongue: str) -> None:
    """Write the rows as one sheet: numbers and dates as such, texts never as formulas; at most MOST_ROWS rows."""
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.writer.excel import ExcelWriter

    table = answers.safe_for_spreadsheets(table.slice(0, MOST_ROWS))
    book = openpyxl.Workbook(write_only=True)
    book.properties.created = book.properties.modified = dt.datetime(*EPOCH)  # noqa: DTZ001 (a workbook states no zone)
    sheet = book.create_sheet("worklist" if tongue == "en" else "联系清单")
    sheet.freeze_panes = "C2"

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        text = WriteOnlyCell(sheet, openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.sub(" ", value)[:32_767])
        text.data_type = "s"  # whatever it looks like
        return text

    sheet.append([cell(name) for name in table.column_names])
    for batch in table.to_batches(max_chunksize=10_000):  # a sheet is written row by row: there is no other way in
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            sheet.append([cell(value) for value in row])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        ExcelWriter(book, archive).save()
    _without_clock(written, out)


def _without_clock(written: io.BytesIO, out: Path) -> None:
    """Write a zip anew with one stated time for all that it holds, in order of name."""
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            new.writestr(entry, old.read(name))


def write_calendar(table: pa.Table, out: Path, tongue: str) -> None:
    """Write what is due as an iCalendar file (RFC 5545): one day-long event an open row, stamped with the as_of."""
    side = int(tongue == "zh")
    due = table.filter(pc.equal(table["state"], "open"))
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Bellwether//worklist//EN", "CALSCALE:GREGORIAN"]
    for row in due.to_pylist():  # as many as the owners can do in the weeks of the list
        identity = hashlib.sha256(f"{row['customer_id']}\n{row['due_on']}".encode()).hexdigest()[:32]
        what = f"{WORDS[row['kind']][side]}: {row['customer_id']} ({row['grade'] or '–'})"
        parts = [row["why"], f"{ASK[side]}: {row['ask']}" if row["ask"] else "", f"{OFFER[side]}: {row['offer']}"]
        lines += [
            "BEGIN:VEVENT", f"UID:{identity}@bellwether", f"DTSTAMP:{row['as_of']:%Y%m%d}T000000Z",
            f"DTSTART;VALUE=DATE:{row['due_on']:%Y%m%d}",
            f"DTEND;VALUE=DATE:{row['due_on'] + dt.timedelta(days=1):%Y%m%d}",
            f"SUMMARY:{_escaped(what)}", f"DESCRIPTION:{_escaped(chr(10).join(part for part in parts if part))}",
            f"CATEGORIES:{row['kind'].upper()}",
            *([f"X-BELLWETHER-OWNER:{_escaped(row['owner'])}"] if row["owner"] else []),
            "TRANSP:TRANSPARENT", "END:VEVENT",
        ]  # fmt: skip
    lines.append("END:VCALENDAR")
    out.write_bytes("".join(f"{folded(line)}\r\n" for line in lines).encode())


def _escaped(text: str) -> str:
    """Return a text as RFC 5545 writes it; no control character of the data ends a line."""
    for sign, written in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\n", "\\n")):
        text = text.replace(sign, written)
    return "".join(sign if sign.isprintable() else " " for sign in text)


def folded(line: str) -> str:
    """Return a line in pieces of at most 75 octets, none of which cuts a character (RFC 5545, 3.1)."""
    pieces, size = [""], 0
    for sign in line:
        octets = len(sign.encode())
        if size + octets > 75:
            pieces.append(" ")
            size = 1
        pieces[-1] += sign
        size += octets
    return "\r\n".join(pieces)
