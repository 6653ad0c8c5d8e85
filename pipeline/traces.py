"""Where an identifier stands in files: the search that proves an erasure, and the taking out of its rows.

Tables (Parquet, DuckDB, SQLite) are searched cell by cell, since their bytes are packed; what is compressed is opened;
all else is searched by its bytes. An identifier counts where it stands alone: `K-1` is neither in `K-12` nor in
`AK-1`, and letters of the other case are another customer. A short one (up to six digits), which any number in a file
may look like, counts in plain bytes only between quotes, tags or separators of a line.
"""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import mmap
import os
import re
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CHUNK = 1 << 24
LONGEST = 1 << 17  # bytes in which chunks overlap: no identifier is longer
MAGIC = {b"PAR1": "parquet", b"SQLi": "sqlite", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
NOT_OURS = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


@dataclass(frozen=True)
class Trace:
    """An identifier to look for."""

    identifier: str

    @property
    def pattern(self) -> str:
        """Return the expression (RE2 too) that finds it in a cell's text."""
        return rf"(^|[^\w\-.]){re.escape(self.identifier)}($|[^\w\-.]|[.\-]($|\W))"

    @cached_property
    def in_bytes(self) -> re.Pattern[bytes]:
        """Return the expression that finds it in plain bytes, in the ways in which text is written."""
        plain = self.identifier
        ways = {plain, json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], html.escape(plain)}
        ways |= {plain.replace('"', '""')}
        told = [each.encode() for each in ways]
        for encoding in ("latin-1", "utf-16-le"):
            try:
                told.append(plain.encode(encoding))
            except UnicodeEncodeError:
                continue
        either = b"|".join(re.escape(each) for each in sorted(set(told), key=lambda each: (-len(each), each)))
        if plain.isdecimal() and len(plain) <= 6:
            return re.compile(rb"(?m)(?:^|[\"'>,;\t|])(?:" + either + rb")(?=[\"'<,;\t|\r\n]|$)")
        return re.compile(rb"(?<![\w\-])(?<!\d\.)(?:" + either + rb")(?![\w]|[\-.]\w)")

    def in_text(self, text: str) -> bool:
        """Tell whether a cell's text names it."""
        return text == self.identifier or re.search(self.pattern, text) is not None

    def in_column(self, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array | None:
        """Return which cells of a column of text name it, or None where it holds no text."""
        kind = column.type
        if pa.types.is_dictionary(kind):
            return self.in_column(column.cast(kind.value_type))
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return None
        near = pc.fill_null(pc.match_substring(column, self.identifier), fill_value=False)
        if not pc.any(near).as_py():
            return near
        return pc.fill_null(pc.match_substring_regex(column, self.pattern), fill_value=False)

    def in_nested(self, column: pa.ChunkedArray | pa.Array) -> bool:
        """Tell whether any text within a column of lists or records names it."""
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        for chunk in chunks:
            kind = chunk.type
            if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
                parts = chunk.flatten()
                if any(self.in_nested(part) for part in (parts if isinstance(parts, list) else [parts])):
                    return True
            else:
                found = self.in_column(chunk)
                if found is not None and pc.any(found).as_py():
                    return True
        return False


def kind_of(path: Path) -> str:
    """Return what a file is, by its first bytes: parquet, duckdb, sqlite, gzip, zip, zstd, or plain."""
    with path.open("rb") as handle:
        head = handle.read(12)
    if head[8:12] == b"DUCK":
        return "duckdb"
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "plain")


def named(trace: Trace, path: Path) -> bool:
    """Tell whether a file names the identifier, in its content or its own name; what cannot be opened, by its bytes."""
    if trace.in_bytes.search(os.fsencode(path.name)):
        return True
    look = {"parquet": _parquet, "duckdb": _duckdb, "sqlite": _sqlite, "gzip": _gzip, "zip": _zip, "zstd": _zstd}
    if path.suffix == ".csv":
        return _plain(trace, path) and _csv(trace, path)
    kind = kind_of(path)
    if kind in look:
        try:
            return look[kind](trace, path)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, pa.ArrowException, duckdb.Error, sqlite3.Error):
            pass
    return _plain(trace, path)


def _plain(trace: Trace, path: Path) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return trace.in_bytes.search(held) is not None


def _csv(trace: Trace, path: Path) -> bool:
    """Search records whose cells can be told apart; a file of other bytes was found by its bytes."""
    try:
        return any(theirs for _, theirs in _records(trace, path))
    except (UnicodeDecodeError, csv.Error):
        return True


def _stream(trace: Trace, handle: IO[bytes] | Any) -> bool:
    """Search a stream piece by piece, each with the end of the one before."""
    before = b""
    while chunk := bytes(handle.read(CHUNK)):
        if trace.in_bytes.search(before + chunk):
            return True
        before = chunk[-LONGEST:]
    return False


def _gzip(trace: Trace, path: Path) -> bool:
    with gzip.open(path) as handle:
        return _stream(trace, handle)


def _zstd(trace: Trace, path: Path) -> bool:
    with pa.input_stream(str(path), compression="zstd") as handle:
        return _stream(trace, handle)


def _zip(trace: Trace, path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as handle:
                if _stream(trace, handle):
                    return True
    return False


def _parquet(trace: Trace, path: Path) -> bool:
    file = pq.ParquetFile(path)
    told = b" ".join(each for pair in (file.schema_arrow.metadata or {}).items() for each in pair)
    if trace.in_bytes.search(told):
        return True
    return any(trace.in_nested(column) for batch in file.iter_batches() for column in batch.columns)


def _duckdb(trace: Trace, path: Path) -> bool:
    with duckdb.connect(str(path), read_only=True) as connection:
        for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            quoted = '"' + table.replace('"', '""') + '"'
            reader = connection.execute(f"SELECT * FROM {quoted}").to_arrow_reader(122_880)
            if any(trace.in_nested(column) for batch in reader for column in batch.columns):
                return True
    return False


def _texts(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield (table, column) of an SQLite file, quoted."""
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in connection.execute(f"SELECT name FROM pragma_table_info({_text(table)})").fetchall():
            yield _quoted(table), _quoted(row[0])


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


def _text(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _opened(trace: Trace, path: Path, *, write: bool = False) -> sqlite3.Connection:
    """Return an SQLite file whose `named(text)` tells whether a cell names the identifier."""
    uri = path.resolve().as_uri() + ("" if write else "?mode=ro")
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    connection.create_function("named", 1, lambda cell: int(isinstance(cell, str) and trace.in_text(cell)))
    return connection


def _sqlite(trace: Trace, path: Path) -> bool:
    connection = _opened(trace, path)
    try:
        for table, column in _texts(connection):
            if connection.execute(f"SELECT 1 FROM {table} WHERE named({column}) LIMIT 1").fetchone():
                return True
    finally:
        connection.close()
    return not trace.identifier.isdecimal() and _plain(trace, path)  # pages that were given up hold old rows


def clear_sqlite(trace: Trace, path: Path) -> None:
    """Delete the rows of an SQLite file that name the identifier, and the pages that they stood on."""
    connection = _opened(trace, path, write=True)
    try:
        with connection:
            for table, column in list(_texts(connection)):
                connection.execute(f"DELETE FROM {table} WHERE named({column})")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
    finally:
        connection.close()


def without(trace: Trace, path: Path) -> bytes | None:
    """Return a table's file (Parquet, CSV, or text of one record a line) without the rows that name the identifier.

    None where its rows cannot be told apart: the file has to go as a whole.
    """
    if kind_of(path) == "parquet":
        return _fewer_rows(trace, path)
    if path.suffix == ".csv":
        return _fewer_records(trace, path)
    if path.suffix in (".jsonl", ".log", ".txt", ".err", ".out"):
        lines = path.read_bytes().splitlines(keepends=True)
        return b"".join(line for line in lines if not trace.in_bytes.search(line))
    return None


def _fewer_rows(trace: Trace, path: Path) -> bytes | None:
    table = pq.read_table(path)
    mask = pa.array([False] * table.num_rows)
    for column in table.columns:
        found = trace.in_column(column)
        if found is not None:
            mask = pc.or_(mask, found)
    fewer = table.filter(pc.invert(mask))
    if any(trace.in_nested(column) for column in fewer.columns):
        return None
    buffer = io.BytesIO()
    pq.write_table(fewer, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _fewer_records(trace: Trace, path: Path) -> bytes | None:
    try:
        return "".join(text for text, theirs in _records(trace, path) if not theirs).encode()
    except (UnicodeDecodeError, csv.Error):
        return None


def _records(trace: Trace, path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each record of a CSV file as it is written and whether it names the identifier.

    A bare number names it in a column `customer_id` alone, where there is one: elsewhere it is an amount.
    """
    near = {trace.identifier, trace.identifier.replace('"', '""')}
    with path.open(encoding="utf-8", newline="") as handle:
        delimiter = max(",;\t|", key=handle.readline().count)
        handle.seek(0)
        read: list[str] = []
        holder: int | None = None
        for number, record in enumerate(csv.reader(_noting(handle, read), delimiter=delimiter)):
            text = "".join(read)
            read.clear()
            if number == 0:
                plain = [cell.lstrip("\ufeff") for cell in record]
                holder = plain.index("customer_id") if "customer_id" in plain else None
            yield (
                text,
                any(each in text for each in near)
                and any(
                    trace.in_text(cell)
                    and (holder in (None, place) or cell != trace.identifier or not cell.isdecimal())
                    for place, cell in enumerate(record)
                ),
            )


def _noting(lines: Iterable[str], read: list[str]) -> Iterator[str]:
    """Yield lines, and note them as they are read."""
    for line in lines:
        read.append(line)
        yield line


def files_below(top: Path, *, leave: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, in order, links not followed; not those of git, the environment or `leave`."""
    for folder, inner, names in os.walk(top):
        here = Path(folder)
        inner[:] = sorted(each for each in inner if each not in NOT_OURS and here / each not in leave)
        yield from (here / each for each in sorted(names) if (here / each).is_file() and not (here / each).is_symlink())
