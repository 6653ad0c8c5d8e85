"""What a file seems to be: encoding, delimiter, decimal mark, date formats, types; guesses with what speaks for them.

`sniff(file)` reads the head alone. Everything here is a guess for a person to confirm, never used by `ingest`.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.mapping import Format
from pipeline.raw import RawFile, open_bytes, read_head, sheet_rows, unique_names

HEAD = 1 << 19  # bytes
PIECE = 1 << 18  # bytes from the middle and from the end: many files are ordered by their outcome
ROWS = 5_000
NULLS = ("NA", "N/A", "n/a", "NULL", "null", "None", "nan", "NaN", "?", "-", "#N/A", "\\N")
DATES = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%d-%b-%Y", "%d-%b-%y",
    "%d.%m.%y",    "%d/%m/%y", "%m/%d/%y", "%Y%m%d", "%y%m%d", "%Y年%m月%d日", "%d %b %Y", "%b %d, %Y", "%d%b%Y",
)  # fmt: skip
TIMES = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", "T%H:%M:%S", "T%H:%M:%S.%f", "T%H:%M:%SZ")
ISO = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")
BARE = ("%Y%m%d", "%y%m%d")  # digits alone: a date only where nearly all values are and the name says so


_Read = tuple[dict[str, Any], list[str], list[str], list[list[str]], bool]


@dataclass
class Column:
    """One column of a file: its name, what its values look like, and facts about them."""

    name: str
    kind: str  # date, number, whole, text, empty
    filled: int
    different: int
    dates: list[str] = field(default_factory=list)
    whole: bool = False
    values: list[str] = field(default_factory=list)  # different ones, at most fifty, most frequent first
    low: float | None = None
    high: float | None = None


@dataclass
class Sniffed:
    """A file's format as the keys of a mapping, the reasons in words, its columns and the rows that were looked at."""

    form: dict[str, Any]
    why: list[str]
    columns: list[Column]
    rows: int
    whole: bool
    body: list[list[str]] = field(default_factory=list)  # the rows that were looked at, as text

    def columns_named(self) -> list[str]:
        """Return the columns' names."""
        return [column.name for column in self.columns]


def encoding_of(data: bytes, *, whole: bool) -> tuple[str, str]:
    """Return the likely codec of some text and why."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return name, "a byte order mark says so"
    odd, even = data[1:4000:2].count(0), data[0:4000:2].count(0)
    if odd + even > 20:  # text has no zero bytes but those of two-byte letters
        return ("utf-16-le" if odd > even else "utf-16-be"), "the upper byte of many letters is zero"
    if _decodes(data, "utf-8", whole=whole):
        return "utf-8", "all bytes are"
    high = re.findall(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]", data)
    text = data.decode("gb18030", "replace") if _decodes(data, "gb18030", whole=whole) else ""
    han = len(re.findall(r"[\u4e00-\u9fff]", text))
    if han and han >= len(high) * 0.7 and han > len(re.findall(rb"[\xc0-\xff](?![\x80-\xff])", data)):
        return "gb18030", "its bytes are no UTF-8, and read so they are Chinese characters"
    return ("cp1252", "its bytes are no UTF-8; Western European is the likeliest") if not re.search(
        rb"[\x81\x8d\x8f\x90\x9d]", data
    ) else ("latin-1", "its bytes are no UTF-8 and no Windows text")  # fmt: skip


def _decodes(data: bytes, name: str, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(data, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def delimiter_of(text: str) -> tuple[str, str]:
    """Return the likely delimiter and why: the sign that splits most lines into the same number of fields."""
    lines = [line for line in text.splitlines()[:200] if line.strip()]
    best = (",", 0.0, 1)
    for sign in (",", ";", "\t", "|", "^", "~"):
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=sign))
        except csv.Error:
            continue
        width, count = max(((w, n) for w, n in widths.items() if w > 1), key=lambda pair: pair[1], default=(1, 0))
        share = count / max(sum(widths.values()), 1)
        better, alike = share > best[1] + 0.02, abs(share - best[1]) <= 0.02
        if width > 1 and (better or (alike and width > best[2])):
            best = (sign, share, width)
    if best[2] == 1:
        return ",", "no other sign splits its lines: one column"
    return best[0], f"it splits {best[1]:.0%} of the lines into {best[2]} fields"


def date_formats(values: Iterable[str]) -> list[str]:
    """Return the fewest strptime formats that read all of `values` (98% of many), [] where they are no dates."""
    texts = [value.strip() for value in values if value and value.strip()]
    few = texts[:2000]
    if not few:
        return []
    wanted = len(few) if len(few) < 50 else len(few) * 0.98
    reads = {}
    for day in DATES:
        for time in TIMES:
            form = day + time
            count = sum(_reads(text, form) for text in few[:25])
            if count:
                reads[form] = {place for place, text in enumerate(few) if _reads(text, form)}
    chosen: list[str] = []
    covered: set[int] = set()
    while len(covered) < wanted and len(chosen) < 3:
        best = max(reads, key=lambda form: len(reads[form] - covered), default=None)
        if best is None or not reads[best] - covered:
            return []
        chosen.append(best)
        covered |= reads[best]
    return chosen if len(covered) >= wanted else []


def _reads(text: str, form: str) -> bool:
    if form.startswith(BARE) and not re.fullmatch(r"\d{6}|\d{8}", text):
        return False
    try:
        day = dt.datetime.strptime(text, form)  # noqa: DTZ007 (a date)
    except ValueError:
        return False
    return 1900 <= day.year <= 2100


def number_marks(columns: Iterable[list[str]]) -> tuple[str, str]:
    """Return (decimal mark, grouping mark) of the columns that look like numbers."""
    votes: Counter[tuple[str, str]] = Counter()
    for values in columns:
        texts = [value for value in values if value]
        for marks, pattern in (
            ((",", "."), r"[-+]?\d{1,3}(\.\d{3})+,\d+"), ((".", ","), r"[-+]?\d{1,3}(,\d{3})+\.\d+"),
            ((",", " "), r"[-+]?\d{1,3}( \d{3})+,\d+"), ((",", ""), r"[-+]?\d+,\d+"), ((".", ""), r"[-+]?\d+\.\d+"),
            (("." , "'"), r"[-+]?\d{1,3}('\d{3})+(\.\d+)?"),
        ):  # fmt: skip
            votes[marks] += sum(bool(re.fullmatch(pattern, text)) for text in texts[:500])
    grouped = [(count, marks) for marks, count in votes.items() if marks[1] and count]
    plain = [(count, marks) for marks, count in votes.items() if not marks[1] and count]
    if plain and (not grouped or max(plain)[1][0] != max(grouped)[1][0]):
        return max(plain)[1] if not grouped or max(plain)[0] > max(grouped)[0] else max(grouped)[1]
    return max(grouped)[1] if grouped else (".", "")


def describe(name: str, values: list[str], nulls: set[str], marks: tuple[str, str]) -> Column:
    """Return what a column's values look like."""
    texts = [value.strip() for value in values if value.strip() and value.strip() not in nulls]
    counts = Counter(texts)
    column = Column(name, "empty" if not texts else "text", len(texts), len(counts))
    column.values = [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:50]]
    if not texts:
        return column
    numbers = [_number(text, marks) for text in texts]
    good = [number for number in numbers if number is not None]
    numeric = len(good) >= len(texts) * 0.98 and len(good) > 0
    dated = re.search(r"(?i)date|day|_on$|_at$|time|since|birth|period|month|日期|时间|日$", name)
    formats = [] if numeric and not dated else date_formats(texts)
    if formats and not (numeric and not all(form.startswith(BARE) for form in formats)):
        column.kind, column.dates = "date", formats
        return column
    if numeric:
        column.whole = all(number == int(number) for number in good if abs(number) < 1e15)
        column.kind = "whole" if column.whole else "number"
        column.low, column.high = min(good), max(good)
        if any(re.fullmatch(r"0\d+", text) for text in texts):
            column.kind = "text"  # leading zeros are an identifier's
    return column


def _number(text: str, marks: tuple[str, str]) -> float | None:
    decimal, group = marks
    plain = text.replace(group, "") if group else text
    plain = plain if decimal == "." else plain.replace(decimal, ".")
    try:
        value = float(plain) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", plain) else None
    except (ValueError, OverflowError):
        return None
    return value if value is not None and abs(value) < 1e300 else None


def sniff(*files: RawFile) -> Sniffed:
    """Return what files with the same columns seem to be, from their heads: the format is that of the first."""
    read = [_read(file) for file in files]
    form, why, names, rows, whole = read[0]
    same = [part for part in read if part[2] == names]
    if len(same) > 1:
        rows = _spread([part[3] for part in same])
        whole = all(part[4] for part in same)
    return _finish(form, why, names, rows, whole=whole)


def _read(file: RawFile) -> _Read:
    """Return a file's format as far as its layout says it, why, its columns, some rows, and whether these are all."""
    suffixes = [
        suffix.lower() for suffix in Path(file.path.name).suffixes if suffix.lower() not in (".gz", ".zst", ".zstd")
    ]
    kind = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
            ".arff": "arff", ".xlsx": "xlsx", ".xlsm": "xlsx"}.get(suffixes[-1] if suffixes else "", "csv")  # fmt: skip
    if kind == "csv":
        return _csv(file)
    names, rows, whole = {"parquet": _parquet, "jsonl": _jsonl, "arff": _arff, "xlsx": _xlsx}[kind](file)
    return {"type": kind}, [f"its name ends in {suffixes[-1]}"], names, rows, whole


def _pieces(file: RawFile) -> tuple[bytes, list[bytes], bool]:
    """Return a file's head, pieces of its middle and end (none of a compressed file), and whether the head is all."""
    with open_bytes(file.path) as stream:
        head = stream.read(HEAD)
        whole = not stream.read(1)
        size = file.path.stat().st_size
        if whole or file.path.name.endswith((".gz", ".zst", ".zstd")) or size < HEAD + 2 * PIECE:
            return head, [], whole
        pieces = []
        for start in (HEAD + (size - HEAD - PIECE) // 2, size - PIECE):
            stream.seek(start - start % 4)
            pieces.append(stream.read(PIECE))
        return head, pieces, False


def _lines_of(data: bytes, codec: str, *, first: bool, last: bool) -> str:
    """Return the whole lines of a piece of text, with one kind of line end."""
    text = codecs.getincrementaldecoder("utf-8-sig" if codec == "utf-8" else codec)("replace").decode(data)
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = text if first else text[text.find("\n") + 1 :]
    return text if last else text[: text.rfind("\n") + 1]


def columns_of_head(file: RawFile, form: Format) -> list[str]:
    """Return the columns of a file as a mapping may name them."""
    if form.type in ("csv", "arff"):
        return read_head(file, form)[0]
    return sniff(file).columns_named()


def _csv(file: RawFile) -> _Read:
    data, pieces, whole = _pieces(file)
    codec, why = encoding_of(data, whole=whole)
    text = _lines_of(data, codec, first=True, last=whole)
    late = codec if codec != "utf-16" else ("utf-16-be" if data.startswith(codecs.BOM_UTF16_BE) else "utf-16-le")
    more = [_lines_of(piece, late, first=False, last=False) for piece in pieces]
    sign, because = delimiter_of(text)
    rows = list(csv.reader(io.StringIO(text), delimiter=sign))
    width = Counter(len(row) for row in rows).most_common(1)[0][0] if rows else 0
    skip = next((place for place, row in enumerate(rows) if len(row) == width), 0)
    form: dict[str, Any] = {}
    reasons = []
    if codec != "utf-8":
        form["encoding"] = codec
        reasons.append(f"encoding {codec}: {why}")
    if sign != ",":
        form["delimiter"] = sign
        reasons.append(f"delimiter {sign!r}: {because}")
    if skip:
        form["skip"] = skip
        reasons.append(f"skip {skip}: the lines before the first one with {width} fields")
    head, *body = rows[skip:] or [[]]
    body = _spread([body, *(list(csv.reader(io.StringIO(piece), delimiter=sign)) for piece in more)])
    if head and all(re.fullmatch(r"[-+]?[\d.,]*\d", cell.strip() or "x") for cell in head):
        form["header"] = False
        reasons.append("header false: the first line holds numbers alone; give the columns `names`")
        body, head = [head, *body], [""] * len(head)
        form["names"] = [f"column{place}" for place in range(len(head))]
    return form, reasons, unique_names(head), body, whole


def _spread(parts: list[list[list[str]]]) -> list[list[str]]:
    """Return rows of all parts, at most ROWS: the first ones of each."""
    each = ROWS // len(parts) if len(parts) > 1 else ROWS + 1
    return [row for part in parts for row in [row for row in part if row][:each]]


def _finish(form: dict[str, Any], why: list[str], names: list[str], rows: list[list[str]], *, whole: bool) -> Sniffed:
    """Add decimal mark, date formats and nulls to a format, and describe the columns."""
    whole = whole and len(rows) <= ROWS
    rows = rows[:ROWS]
    columns = [[row[place] if place < len(row) else "" for row in rows] for place in range(len(names))]
    nulls = {text for text in NULLS if any(text == value.strip() for values in columns for value in values)}
    marks = number_marks([[value.strip() for value in values] for values in columns])
    described = [describe(name, values, nulls, marks) for name, values in zip(names, columns, strict=True)]
    if form.get("type") not in ("parquet", "xlsx") and marks[0] != ".":
        form["decimal"] = marks[0]
        why.append("decimal comma: numbers are written so")
    if form.get("type") not in ("parquet", "xlsx") and marks[1]:
        form["thousands"] = marks[1]
        why.append(f"thousands {marks[1]!r}: numbers are grouped so")
    formats = list(dict.fromkeys(form for column in described for form in column.dates))
    if any(item not in ISO for item in formats) and form.get("type") != "parquet":
        form["dates"] = formats if len(formats) > 1 else formats[0]
        listed = ", ".join(column.name for column in described if column.dates)
        why.append(f"dates {', '.join(formats)}: they read {listed}")
    if nulls and form.get("type") != "parquet":
        form["nulls"] = sorted(nulls)
        why.append(f"nulls {', '.join(sorted(nulls))}: these texts stand where values are missing")
    return Sniffed(form, why, described, len(rows), whole, rows)


def _parquet(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    from pyarrow import parquet

    with parquet.ParquetFile(file.path) as source:
        batch = next(source.iter_batches(batch_size=ROWS), None)
        names = source.schema_arrow.names
        rows = [] if batch is None else [[_text(row[name]) for name in names] for row in batch.to_pylist()]
        return names, rows, source.metadata.num_rows <= ROWS


def _jsonl(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    records = []
    with open_bytes(file.path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        for line in text:
            if line.strip():
                records.append(json.loads(line))
            if len(records) > ROWS:
                break
    names = list(dict.fromkeys(name for record in records for name in record))
    return names, [[_text(record.get(name)) for name in names] for record in records], len(records) <= ROWS


def _arff(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    data, pieces, whole = _pieces(file)
    head, _, body = re.split(
        r"(?im)^\s*@(data)\s*$", _lines_of(data, "utf-8", first=True, last=whole) + "@data", maxsplit=1
    )
    names = [name.strip("'\"") for name in re.findall(r"(?im)^\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", head)]
    parts = [body.removesuffix("@data"), *(_lines_of(piece, "utf-8", first=False, last=False) for piece in pieces)]
    rows = _spread([list(csv.reader(io.StringIO(part), quotechar="'")) for part in parts])
    return names, [["" if cell == "?" else cell for cell in row] for row in rows], whole and len(rows) <= ROWS


def _xlsx(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    rows = list(itertools.islice(sheet_rows(file, Format(type="xlsx")), ROWS + 2))
    return rows[0] if rows else [], rows[1:], len(rows) <= ROWS + 1


def _text(value: object) -> str:
    return "" if value is None else str(value)
