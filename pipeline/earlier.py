"""What an earlier run left in data/ingest: which files it explains, and how the rows of one table are found again.

index/<table>/<name's hash>.parquet holds, for each row of one raw file that keeps the contract by itself: `h` (hash of
its key), `c` (hash of its content), `known_on`, `piece` (block and repetition of the mapping), `place` (number of the
row in its file). It is a function of that file alone and never rewritten. A new delivery looks its keys up there, so
that it finds duplicates, restatements and conflicts without reading the history's tables or files again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import BoundedSemaphore
from typing import Any

from features.expressions import quote
from pipeline.stage import read_json

ROW_GROUP = 122880
AHEAD_BYTES, LEAST_AHEAD = 1 << 29, 6  # what is held beyond what is being written, and row groups at least


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

    Row groups are cut at a fixed number of rows, whatever batches the rows came in. Two threads encode and write while
    the engine gives the rows that follow; so much is held that the second can begin on a part while the first ends one.
    """
    groups = _cut(rows, [count for _, count in parts])
    first = next(groups, None)
    groups = chain([first], groups)
    slots = BoundedSemaphore(max(AHEAD_BYTES // max(first.nbytes, 1), LEAST_AHEAD) if first else LEAST_AHEAD)
    with ThreadPoolExecutor(2) as pool:
        written = []
        for path, count in parts:
            waiting: SimpleQueue[Any] = SimpleQueue()
            number = -(-count // ROW_GROUP)
            written.append(pool.submit(_write_part, path, rows.schema, waiting, number, slots, compression))
            try:
                for _ in range(number):
                    slots.acquire()
                    waiting.put(next(groups))
            except BaseException:
                waiting.put(None)  # no more comes: the thread must not wait for it
                raise
        for part in written:
            part.result()


def _cut(rows: Any, counts: list[int]) -> Iterator[Any]:
    """Yield the row groups of parts that have so many rows."""
    import pyarrow as pa

    batches = iter(rows)
    held: list[Any] = []
    have = 0
    for count in counts:
        for start in range(0, count, ROW_GROUP):
            wanted = min(ROW_GROUP, count - start)
            while have < wanted:
                batch = next(batches)
                held.append(batch)
                have += batch.num_rows
            whole = pa.Table.from_batches(held, rows.schema)
            yield whole.slice(0, wanted)
            rest = whole.slice(wanted)
            held, have = (rest.to_batches() if rest.num_rows else []), rest.num_rows


def _write_part(
    path: Path, schema: Any, waiting: SimpleQueue[Any], number: int, slots: BoundedSemaphore, compression: Any
) -> None:
    """Write one part from `number` row groups; the file stands under its name once it is whole."""
    import pyarrow.parquet as pq

    taken = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with pq.ParquetWriter(
            temporary,
            schema,
            compression=compression,
            store_decimal_as_integer=True,
            use_dictionary=compression == "zstd",
        ) as writer:
            while taken < number:
                group = waiting.get()
                taken = number if group is None else taken + 1
                if group is None:  # the stream broke; the fault is raised where it did
                    return
                try:
                    writer.write_table(group.combine_chunks(), row_group_size=ROW_GROUP)
                finally:
                    slots.release()
        temporary.replace(path)
    finally:
        while taken < number:  # after a fault: whoever fills the queue must not wait for room in it
            group = waiting.get()
            taken = number if group is None else taken + 1
            if group is not None:
                slots.release()
