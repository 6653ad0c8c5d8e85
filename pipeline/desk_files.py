"""The worklist as people open it: a workbook and calendars, with the same bytes for the same rows."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import answers

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can state
MOST_ROWS = 1_048_575  # of a sheet, below its header
WORDS = {"alarm": ("Contact", "联系"), "review": ("Regular review", "定期复核")}
ASK = ("Ask for", "索取")
OFFER = ("Offer", "提供")
OWNER = ("Owner", "负责人")
EVERY = ("Months between reviews, by grade and action: {months}", "复核间隔（按等级与行动）：{months} 个月")
OVERDUE = ("Overdue since {day}", "自 {day} 起逾期未做")
NOTHING = ("Nothing is due", "没有到期事项")
CUT = (
    "The first {held} of {rows} rows, as many as a sheet holds; the CSV and Parquet files hold all.",
    "仅含 {rows} 行中的前 {held} 行（工作表上限）；全部行见 CSV 与 Parquet 文件。",
)


def write_workbook(table: pa.Table, out: Path, tongue: str) -> int:
    """Write the rows as one sheet and return how many it could not hold: at most MOST_ROWS rows.

    Numbers and dates are written as such, texts never as formulas. Where rows are left out, a second sheet and the
    workbook's description say so.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.writer.excel import ExcelWriter

    left_out = max(table.num_rows - MOST_ROWS, 0)
    cut = CUT[int(tongue == "zh")].format(held=MOST_ROWS, rows=table.num_rows)
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
    if left_out:
        book.properties.description = cut
        book.create_sheet("note" if tongue == "en" else "说明").append([cut])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        ExcelWriter(book, archive).save()
    _without_clock(written, out)
    return left_out


def _without_clock(written: io.BytesIO, out: Path) -> None:
    """Write a zip anew with one stated time for all that it holds, in order of name."""
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            new.writestr(entry, old.read(name))


def write_calendar(table: pa.Table, out: Path, as_of: dt.date, tongue: str) -> None:
    """Write what is due as an iCalendar file (RFC 5545): one day-long event an open row, stamped with the as_of."""
    side = int(tongue == "zh")
    due = table.filter(pc.equal(table["state"], "open"))

    def events() -> Iterator[list[str]]:
        for row in _rows(due):
            parts = [row["why"], f"{ASK[side]}: {row['ask']}" if row["ask"] else "", f"{OFFER[side]}: {row['offer']}"]
            yield _event(row, row["kind"], row["due_on"], as_of, parts, side)

    _write(events(), out, as_of, side)


def write_reviews(calendar: pa.Table, out: Path, as_of: dt.date, days: int, tongue: str) -> None:
    """Write the regular reviews of the `days` from as_of on as an iCalendar file, one day-long event each.

    calendar: customer_id, owner, grade, months, review_on, last_contact_on, again_from (see the stage). One that is
    overdue stands on as_of, and one of who rests longer on the day from which he may be contacted again; both say it.
    """
    side = int(tongue == "zh")
    first = pa.scalar(as_of, pa.date32())
    day = pc.max_element_wise(calendar["review_on"], calendar["again_from"], first)
    shown = calendar.append_column("day", day).filter(pc.less(day, pa.scalar(as_of + dt.timedelta(days), pa.date32())))
    shown = shown.sort_by([("day", "ascending"), ("owner", "ascending"), ("customer_id", "ascending")])

    def events() -> Iterator[list[str]]:
        for row in _rows(shown):
            late = OVERDUE[side].format(day=row["review_on"]) if row["review_on"] < as_of else ""
            yield _event(row, "review", row["day"], as_of, [late, EVERY[side].format(months=row["months"])], side)

    _write(events(), out, as_of, side)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield rows, few at a time in memory: a calendar is text, written event by event."""
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _event(
    row: dict[str, Any], kind: str, day: dt.date, as_of: dt.date, parts: list[str], side: int
) -> list[str]:  # fmt: skip
    """Return the lines of one event on one whole day, before they are folded.

    Its identifier is that of a task in the CRM (pipeline/sinks/tasks.py) and the kind: the customer and the last day on
    which he was reached. So an event that another run moves is the same event, and not a second one.
    """
    key = f"{row['customer_id']}/{row['last_contact_on'] or 'first'}/{kind}"
    what = f"{WORDS[kind][side]}: {row['customer_id']} ({row['grade'] or '–'})"
    parts = [*parts, f"{OWNER[side]}: {row['owner']}" if row["owner"] else ""]
    return [
        "BEGIN:VEVENT", *_identity(key, as_of), f"DTSTART;VALUE=DATE:{day:%Y%m%d}",
        f"DTEND;VALUE=DATE:{day + dt.timedelta(days=1):%Y%m%d}",
        f"SUMMARY:{_escaped(what)}", f"DESCRIPTION:{_escaped(chr(10).join(part for part in parts if part))}",
        f"CATEGORIES:{kind.upper()}",
        *([f"X-BELLWETHER-OWNER:{_escaped(row['owner'])}"] if row["owner"] else []),
        "TRANSP:TRANSPARENT", "END:VEVENT",
    ]  # fmt: skip


def _identity(key: str, as_of: dt.date) -> tuple[str, str]:
    """Return the lines that tell a component from every other, and which of two versions of it is the newer."""
    return f"UID:{hashlib.sha256(key.encode()).hexdigest()[:32]}@bellwether", f"DTSTAMP:{as_of:%Y%m%d}T000000Z"


def _write(events: Iterable[list[str]], out: Path, as_of: dt.date, side: int) -> None:
    """Write events as one calendar; a calendar without any holds a note, since it may not be empty (RFC 5545, 3.6)."""
    nothing = ["BEGIN:VJOURNAL", *_identity(f"nothing/{as_of}", as_of), f"DTSTART;VALUE=DATE:{as_of:%Y%m%d}",
               f"SUMMARY:{NOTHING[side]}", "END:VJOURNAL"]  # fmt: skip
    empty = True
    with out.open("wb") as file:

        def put(lines: list[str]) -> None:
            file.write("".join(f"{folded(line)}\r\n" for line in lines).encode())

        put(["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Bellwether//worklist//EN", "CALSCALE:GREGORIAN"])
        for event in events:
            put(event)
            empty = False
        put(nothing if empty else [])
        put(["END:VCALENDAR"])


def _escaped(text: str) -> str:
    """Return a text as RFC 5545 writes it; no control character of the data ends a line."""
    for sign, written in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\n", "\\n")):
        text = text.replace(sign, written)
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def folded(line: str) -> str:
    """Return a line in pieces of at most 75 octets, none of which cuts a character (RFC 5545, 3.1)."""
    if len(line.encode()) <= 75:
        return line
    pieces, size = [""], 0
    for sign in line:
        octets = len(sign.encode())
        if size + octets > 75:
            pieces.append(" ")
            size = 1
        pieces[-1] += sign
        size += octets
    return "\r\n".join(pieces)
