"""What a file seems to be: encoding, delimiter, decimal mark, date formats, types; guesses with what speaks for them.

`sniff(file)` reads the head alone. Everything here is a guess for a person to confirm, never used by `ingest`.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.mapping import Format
from pipeline.looks import (
    ISO,
    NULLS,
    Column,
    delimiter_of,
    describe,
    encoding_of,
    number_marks,
    signs_of,
)  # fmt: skip
from pipeline.packed import is_array, open_bytes
from pipeline.raw import RawFile, read_head, unique_names
from pipeline.sample import records_of
from pipeline.sheets import sheet_names, sheet_rows

HEAD = 1 << 19  # bytes
PIECE = 1 << 18  # bytes from the middle and from the end: many files are ordered by their outcome
ROWS = 5_000

_Read = tuple[dict[str, Any], list[str], list[str], list[list[str]], bool]


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
    if form.type == "xlsx":
        return unique_names(next(sheet_rows(file.path, file.name, form), []))
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
    bare = [[value.strip() for value in values] for values in columns]
    strip = sorted({sign for values in bare for sign in signs_of(values, nulls)})
    if strip:
        form["strip"] = "".join([*strip, " "])
        why.append(f"strip {' '.join(strip)}: numbers are written with it")
        table = str.maketrans("", "", form["strip"])
        columns = [[v.translate(table) for v in values] if signs_of(values, nulls) else values for values in columns]
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
    records: list[dict[str, Any]] = []
    if is_array(file.path):
        records, _ = records_of(file, ROWS + 1)
    else:
        with open_bytes(file.path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            lines = (line for line in text if line.strip())
            records = [json.loads(line) for line in itertools.islice(lines, ROWS + 1)]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("not an object a line")
    flat = [{key: value for name, part in record.items() for key, value in _flat(name, part)} for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    return names, [[_text(record.get(name)) for name in names] for record in flat], len(records) <= ROWS


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    """Return a record's field, or the fields within it as the SQL that reads them."""
    if isinstance(value, dict) and re.fullmatch(r"[A-Za-z_]\w*", name):
        return [(f"{name}->>'{key}'", part) for key, part in value.items() if "'" not in key]
    return [(name, value)]


def _arff(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    data, pieces, whole = _pieces(file)
    head, _, body = re.split(
        r"(?im)^\s*@(data)\s*$", _lines_of(data, "utf-8", first=True, last=whole) + "@data", maxsplit=1
    )
    names = [name.strip("'\"") for name in re.findall(r"(?im)^\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", head)]
    parts = [body.removesuffix("@data"), *(_lines_of(piece, "utf-8", first=False, last=False) for piece in pieces)]
    rows = _spread([list(csv.reader(io.StringIO(part), quotechar="'")) for part in parts])
    return names, [["" if cell == "?" else cell for cell in row] for row in rows], whole and len(rows) <= ROWS


def sniff_sheets(file: RawFile) -> list[Sniffed]:
    """Return what each sheet of a workbook seems to be; its header is the first row that is as wide as most."""
    found = []
    for place, title in enumerate(sheet_names(file.path, file.name)):
        lines = list(
            itertools.islice(
                sheet_rows(file.path, file.name, Format(type="xlsx", sheet=title, header=False)), 1, ROWS + 20
            )
        )
        width = Counter(sum(bool(cell) for cell in line) for line in lines).most_common(1)[0][0] if lines else 0
        skip = next((i for i, line in enumerate(lines) if sum(bool(cell) for cell in line) >= max(width, 2)), 0)
        head, *body = lines[skip:] or [[]]
        form: dict[str, Any] = {"type": "xlsx"} | ({"sheet": title} if place else {}) | ({"skip": skip} if skip else {})
        why = [f"sheet {title}" + (f", whose header is in row {skip + 1}" if skip else "")]
        body = [row for row in body if any(row)]
        found.append(_finish(form, why, unique_names(head), body, whole=len(lines) <= ROWS))
    return found


def _xlsx(file: RawFile) -> tuple[list[str], list[list[str]], bool]:
    rows = list(itertools.islice(sheet_rows(file.path, file.name, Format(type="xlsx")), ROWS + 2))
    return rows[0] if rows else [], rows[1:], len(rows) <= ROWS + 1


def _text(value: object) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, dict | list) else str(value)
