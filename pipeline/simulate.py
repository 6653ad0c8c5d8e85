"""simulate: write the artificial lender's monthly deliveries, and apart from them the truth that only `monitor` reads.

A delivery is a folder `data/raw/simulated/<YYYY-MM>/` with one CSV a table, holding the rows that became known in that
month, and a manifest. Customers come in chunks and each chunk's rows are appended, so memory stays bounded at any size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from models.world import KNOWN, TOTAL, World, chunks, lives
from models.world.calendar import last_day, month_name
from models.world.columns import cents_of
from pipeline.params import Section, source_name
from pipeline.stage import execute, fresh, progress, say, write_json

if TYPE_CHECKING:
    import pyarrow as pa

RAW, TRUTH = Path("data/raw/simulated"), Path("data/simulate/truth")
SOURCE = "simulated"


class Params(Section):
    """How large the artificial lender is; other values than the defaults make another lender, except more months."""

    section: ClassVar[str] = "simulate"

    seed: Annotated[int, Field(ge=0, le=2**31)] = 7
    customers: Annotated[int, Field(ge=100, le=10_000_000)] = 5000  # who come within the first sixty months
    months: Annotated[int, Field(ge=1, le=240)] = 60  # deliveries; one more adds a folder and changes none
    start: Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")] = "2021-01"
    transactions_per_month: Annotated[float, Field(ge=2, le=200)] = 3.0  # a customer, on average
    chunk_customers: Annotated[int, Field(ge=100, le=30_000)] = 20_000  # in memory at once

    def world(self) -> World:
        """Return the world of these parameters."""
        return World(**self.model_dump())


class Deliveries:
    """The monthly folders being written: appends rows, and keeps each file's hash, row count and control total."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[tuple[int, str], Any] = {}
        self.rows: dict[tuple[int, str], int] = {}
        self.totals: dict[tuple[int, str], int] = {}

    def append(self, month: int, name: str, rows: pa.Table) -> None:
        """Append rows to the month's file of a table, with a header if it is new."""
        from pyarrow import BufferOutputStream, csv

        sink = BufferOutputStream()
        place = (month, name)
        new = place not in self.hashes
        rows = rows.combine_chunks()  # pyarrow 25 writes 32 kB of zero bytes for an empty chunk
        csv.write_csv(rows, sink, csv.WriteOptions(include_header=False, quoting_style="none"))
        text = sink.getvalue()
        header = (",".join(rows.column_names) + "\n").encode() if new else b""
        path = self.folder / month_name(month) / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(header)
            file.write(text)
        digest = self.hashes.setdefault(place, hashlib.sha256())
        digest.update(header)
        digest.update(text)
        self.rows[place] = self.rows.get(place, 0) + rows.num_rows
        if name in TOTAL:
            self.totals[place] = self.totals.get(place, 0) + cents_of(rows[TOTAL[name]])

    def seal(self) -> None:
        """Write each delivery's manifest."""
        for month in sorted({month for month, _ in self.hashes}):
            files = {
                f"{name}.csv": {
                    "sha256": self.hashes[month, name].hexdigest(),
                    "rows": self.rows[month, name],
                    "totals": {TOTAL[name]: decimal_text(self.totals[month, name])} if name in TOTAL else {},
                }
                for name in KNOWN
                if (month, name) in self.hashes
            }
            delivered_on = str(month_end(month))
            write_json(
                self.folder / month_name(month) / "manifest.json",
                {"delivered_on": delivered_on, "complete": True, "files": files},
            )

    def count(self, name: str) -> int:
        """Return how many rows a table has in all deliveries."""
        return sum(rows for (_, table), rows in self.rows.items() if table == name)


def decimal_text(cents: int) -> str:
    """Return whole cents as a decimal number with two places."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def month_end(month: int) -> str:
    """Return the month's last day as an ISO date."""
    import numpy as np

    return str(np.datetime64(int(last_day(month)), "D"))


def run(params: Params, raw: Path, truth: Path) -> Deliveries:
    """Write the deliveries under `raw` and truth.parquet under `truth`, both empty folders; return what was written."""
    from pyarrow import parquet

    world = params.world()
    deliveries = Deliveries(raw)
    writer: parquet.ParquetWriter | None = None
    try:
        steps = progress("simulate", lives(world), len(chunks(world)) * world.months, "months of the artificial lender")
        for step in steps:
            for name, rows in step.tables.items():
                deliveries.append(step.month, name, rows)
            if writer is None:
                writer = parquet.ParquetWriter(truth / "truth.parquet", step.truth.schema)
            writer.write_table(step.truth)
    finally:
        if writer is not None:
            writer.close()
    deliveries.seal()
    return deliveries


def main() -> None:
    """Read the parameters, write the folders, say what was written."""
    chosen = source_name()
    params = Params.load()
    fresh(RAW)
    fresh(TRUTH.parent)
    if chosen != SOURCE:  # DVC brings no empty folder back: there must be none within an output
        say("simulate", f"nothing to do, the source is {chosen}: the artificial lender's folders are left empty")
        return
    TRUTH.mkdir()
    written = run(params, RAW, TRUTH)
    say(
        "simulate",
        "wrote",
        deliveries=len({month for month, _ in written.rows}),
        customers=written.count("clients"),
        credits=written.count("contracts"),
        transactions=written.count("movements"),
        statements=written.count("month_ends"),
        rows=sum(written.rows.values()),
    )


if __name__ == "__main__":
    execute("simulate", main)
