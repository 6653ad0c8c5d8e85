"""The head of a raw file as a file of its own: same format, same bytes, so that what reads the file reads its head."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from features.errors import DataRefused, Problem
from features.mapping import Format
from pipeline.packed import is_array, open_bytes
from pipeline.raw import RawFile

MOST = 1 << 25  # bytes of a JSON array that are looked at


def head_of(file: RawFile, form: Format, folder: Path, rows: int) -> tuple[Path, bool]:
    """Write the first `rows` rows of a file into `folder`, compressed as it was; return the path and if that is all."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.path.name
    if form.type == "parquet":
        return _parquet(file, target, rows)
    if form.type == "xlsx":
        return _xlsx(file, target, rows)
    if form.type == "jsonl" and is_array(file.path):
        found, whole = records_of(file, rows)
        with _writing(target) as out:
            out.write(json.dumps(found).encode())
        return target, whole
    return _lines(file, form, target, rows)


def _encoding(form: Format, start: bytes) -> str:
    """Return the codec that reads a file from its second line on too: utf-16 says its byte order only once."""
    try:
        name = codecs.lookup(form.encoding).name
    except LookupError:
        return "utf-8"  # the reading itself refuses it in its own words
    if name == "utf-16":
        return "utf-16-be" if start.startswith(codecs.BOM_UTF16_BE) else "utf-16-le"
    if name == "utf-32":
        return "utf-32-be" if start.startswith(codecs.BOM_UTF32_BE) else "utf-32-le"
    return name


def _lines(file: RawFile, form: Format, target: Path, rows: int) -> tuple[Path, bool]:
    """Copy lines until there are enough rows and every quotation is closed; the bytes are those of the file."""
    wanted = rows + form.skip + int(form.header) + (10_000 if form.type == "arff" else 0)
    encoding = _encoding(form, _start(file))
    quote = form.quote if form.type == "csv" else ""
    with (
        open_bytes(file.path) as stream,
        io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline="") as text,
        _writing(target) as raw,
        io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline="") as out,
    ):
        lines = iter(text)
        inside = False
        for count, line in enumerate(lines, 1):
            out.write(line)
            inside ^= bool(quote) and line.count(quote) % 2 == 1
            if count >= wanted and not inside:
                break
        return target, next(lines, None) is None


def _writing(target: Path) -> BinaryIO:
    """Open a file for writing, compressed as its name says."""
    if target.name.endswith(".gz"):
        return gzip.open(target, "wb", compresslevel=1)  # type: ignore[return-value]
    if target.name.endswith((".zst", ".zstd")):
        import pyarrow as pa

        return pa.CompressedOutputStream(str(target), "zstd")
    return target.open("wb")


def _start(file: RawFile) -> bytes:
    with open_bytes(file.path) as stream:
        return stream.read(4)


def _parquet(file: RawFile, target: Path, rows: int) -> tuple[Path, bool]:
    """Write the first rows of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path) as source:
            batches = list(itertools.islice(source.iter_batches(batch_size=rows), 1))
            table = pa.Table.from_batches(batches, source.schema_arrow)
            parquet.write_table(table, target)
            return target, source.metadata.num_rows <= table.num_rows
    except pa.ArrowInvalid as error:
        found = type(error).__name__
        raise DataRefused(Problem(file.name, "a parquet file", found, "Correct `format` or the file.")) from None


def _xlsx(file: RawFile, target: Path, rows: int) -> tuple[Path, bool]:
    """Write the first rows of every sheet of a workbook."""
    import openpyxl

    source = openpyxl.load_workbook(file.path, read_only=True, data_only=True)
    book, whole = openpyxl.Workbook(write_only=True), True
    for sheet in source.worksheets:
        copy = book.create_sheet(sheet.title)
        lines: Iterator[tuple[object, ...]] = sheet.iter_rows(values_only=True)
        for row in itertools.islice(lines, rows + 1):
            copy.append(row)
        whole &= next(lines, None) is None
    book.save(target)
    source.close()
    return target, whole


def records_of(file: RawFile, rows: int) -> tuple[list[dict[str, Any]], bool]:
    """Return the first records of a file that is one JSON array, and whether these are all."""
    with open_bytes(file.path) as stream:
        text = stream.read(MOST).decode("utf-8-sig", "ignore")
        whole = not stream.read(1)
    decoder, found, place = json.JSONDecoder(), [], text.find("[") + 1
    while len(found) < rows:
        try:
            record, place = decoder.raw_decode(text, re.compile(r"[\s,]*").match(text, place).end())  # type: ignore[union-attr]
        except ValueError:
            break
        found.append(record)
    return found, whole and text[place:].strip() == "]"
