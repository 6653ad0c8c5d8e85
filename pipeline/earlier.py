"""What an earlier run left in data/ingest: which files it explains, and how the rows of one table are found again.

index/<table>/<name's hash>.parquet holds, for each row of one raw file that keeps the contract by itself: `h` (hash of
its key), `c` (hash of its content), `known_on`, `piece` (block and repetition of the mapping), `place` (number of the
row in its file). It is a function of that file alone and never rewritten. A new delivery looks its keys up there, so
that it finds duplicates, restatements and conflicts without reading the history's tables or files again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.expressions import quote
from pipeline.stage import read_json

ROW_GROUP = 122880


class Again(Exception):
    """Rows of these earlier files change their state and their text is needed: read the files once more."""

    def __init__(self, files: set[str]) -> None:
        super().__init__(f"{len(files)} files")
        self.files = files


class Rebuild(Exception):
    """The new delivery changes something that only a build from scratch gets right."""


@dataclass(frozen=True)
class Earlier:
    """The folder of an earlier run and its ledger; without a ledger, nothing."""

    folder: Path
    ledger: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Any]:
        """Return the explained files by name."""
        return dict(self.ledger.get("files") or {})

    @property
    def quality(self) -> dict[str, Any]:
        """Return the account that was left."""
        return dict(read_json(self.folder / "quality.json")) if self.ledger else {}

    def index(self, table: str, file: str) -> Path:
        """Return where the index of one raw file's rows stands."""
        return self.folder / "index" / table / f"{hashlib.sha256(file.encode()).hexdigest()[:24]}.parquet"

    def part(self, table: str, month: str) -> Path:
        """Return where a month's rows stand."""
        return self.folder / "tables" / table / f"known_month={month}" / "part.parquet"

    def parts(self, table: str) -> list[Path]:
        """Return the months' files that are there."""
        return sorted((self.folder / "tables" / table).glob("known_month=*/part.parquet")) if self.ledger else []

    def quarantine(self, table: str) -> Path | None:
        """Return where the quarantined rows stand, or None."""
        path = self.folder / "quarantine" / f"{table}.parquet"
        return path if self.ledger and path.is_file() else None


def scan(paths: list[Path], more: str = "") -> str:
    """Return the table function over parquet files."""
    listed = ", ".join(quote(str(path.resolve())) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false{more})"


def write_parts(rows: Any, parts: list[tuple[Path, int]], compression: Any = "zstd") -> None:
    """Cut an ordered stream of record batches into one parquet file a part: same rows, same bytes.

    Row groups are cut at a fixed number of rows, whatever batches the rows came in.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = iter(rows)
    held: list[Any] = []
    have = 0
    for path, count in parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        dictionary = compression == "zstd"
        with pq.ParquetWriter(
            temporary, rows.schema, compression=compression, store_decimal_as_integer=True, use_dictionary=dictionary
        ) as writer:
            left = count
            while left:
                wanted = min(left, ROW_GROUP)
                while have < wanted:
                    batch = next(batches)
                    held.append(batch)
                    have += batch.num_rows
                whole = pa.Table.from_batches(held, rows.schema)
                writer.write_table(whole.slice(0, wanted).combine_chunks(), row_group_size=ROW_GROUP)
                rest = whole.slice(wanted)
                held, have = (rest.to_batches() if rest.num_rows else []), rest.num_rows
                left -= wanted
        temporary.replace(path)
