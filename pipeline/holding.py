"""Where the staged rows of one table are held: in the engine's memory, or, where they are too many, in files.

An engine that is short of memory writes rows to disk when it needs room, and writes them again each time that it has
read them. Rows that will not fit go to files of scratch space at once: written once, read as often as need be, by the
column and by the span of dates. Either way everything else sees the view `staged_<table>`: the rows with `_id`, their
number in the order of reading, from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from features.expressions import name, quote
from features.reconcile import staged

if TYPE_CHECKING:
    import duckdb

# What a byte of a file becomes, about, where its rows are held; text takes its own size and as much again in columns.
GROWTH = {".gz": 10, ".zst": 10, ".zstd": 10, ".parquet": 6, ".xlsx": 10}
SHARE = 0.75  # of the engine's memory: the rest is what sorting and counting need
# Read back within the minute: nothing is packed, and no dictionary sought for texts that all differ.
PLAIN = "COMPRESSION uncompressed, DICTIONARY_SIZE_LIMIT 200, STRING_DICTIONARY_PAGE_SIZE_LIMIT 4096"


def too_many(files: list[Path], memory_limit: int) -> bool:
    """Tell whether the rows of files would want more than their share of the engine's memory (bytes)."""
    return sum(path.stat().st_size * GROWTH.get(path.suffix, 2) for path in files) > SHARE * memory_limit


class Holding:
    """The staged rows of a table; `columns` with their SQL types; `folder`: where its files go, None for memory."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], folder: Path | None
    ) -> None:
        self.connection, self.table, self.columns, self.folder = connection, table, columns, folder
        self.rows = 0
        self.restated = False
        self.files: list[tuple[Path, int]] = []  # each with the number of its first row
        self.held, self.changed = name(f"held_{table}"), name(f"changed_{table}")
        types = ", ".join(f"{name(column)} {kind}" for column, kind in columns.items())
        connection.execute(f"CREATE TEMP TABLE {self.held} ({types})")
        connection.execute(f"CREATE TEMP TABLE {self.changed} (_id BIGINT, _state UTINYINT)")
        self._view()

    def _view(self) -> None:
        """Lay the view `staged_<table>` over what is held."""
        parts = [
            f"SELECT * EXCLUDE (file_row_number), file_row_number + {first} AS _id "
            f"FROM read_parquet({quote(str(path))}, file_row_number = true)"
            for path, first in self.files
        ] or [f"SELECT *, rowid AS _id FROM {self.held}"]
        rows = " UNION ALL ".join(parts)
        if self.restated and self.files:
            rows = (
                f"SELECT h.* REPLACE (coalesce(c._state, h._state) AS _state) FROM ({rows}) h "
                f"LEFT JOIN {self.changed} c ON c._id = h._id"
            )
        self.connection.execute(f"CREATE OR REPLACE TEMP VIEW {staged(self.table)} AS {rows}")

    def filling(self, piece: int, query: str) -> str:
        """Return the statement that holds the rows of a query, which has the table's columns in their order."""
        typed = ", ".join(f"CAST({name(column)} AS {kind}) AS {name(column)}" for column, kind in self.columns.items())
        rows = f"SELECT {typed} FROM ({query})"
        if self.folder is None:
            return f"INSERT INTO {self.held} {rows}"
        return f"COPY ({rows}) TO {quote(str(self._path(piece)))} (FORMAT parquet, {PLAIN})"

    def _path(self, piece: int) -> Path:
        assert self.folder is not None
        return self.folder.resolve() / f"{self.table}-{piece}.parquet"

    def filled(self, piece: int) -> int:
        """Take in what a piece's statement wrote; return how many rows it has."""
        if self.folder is None:
            source = self.held
        else:
            self.files.append((self._path(piece), self.rows))
            source = f"read_parquet({quote(str(self._path(piece)))})"
            self._view()
        row = self.connection.execute(f"SELECT count(*) FROM {source} WHERE _piece = {piece}").fetchone()
        count = int(row[0]) if row else 0
        self.rows += count
        return count

    def restate(self, changes: str) -> None:
        """Give rows another state: `changes` is a query of `_id` and `_state`, a row at most once."""
        if self.folder is None:
            self.connection.execute(
                f"UPDATE {self.held} SET _state = c._state FROM ({changes}) c WHERE {self.held}.rowid = c._id"
            )
            return
        self.connection.execute(f"INSERT INTO {self.changed} {changes}")
        row = self.connection.execute(f"SELECT count(*) FROM {self.changed}").fetchone()
        self.restated = bool(row and row[0])
        self._view()
