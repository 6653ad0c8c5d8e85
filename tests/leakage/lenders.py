"""Lenders to prove things on: small simulated worlds and real data, as canonical tables that `ingest` itself wrote.

Every keyed history also gets restatements (a tenth of its rows again, later known, with another amount), because a proof
about versions needs versions.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.tables import contract_of, describe_tables

ROOT = Path(__file__).resolve().parents[2]
Tables = dict[str, pa.Table]
FOLDERS = {"sba_national": "sba_national_subset"}  # where the real files of a source lie, if not under its name


@dataclass(frozen=True)
class Case:
    """Tables with the dates and customers asked about; `outcomes` are the rows of training.parquet."""

    name: str
    tables: Tables
    description: dict[str, Any]
    observed: pa.Table  # customer_id, as_of
    as_of: dt.date  # rows known on or after it must not matter
    outcomes: pa.Table | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def with_tables(self, tables: Tables) -> Case:
        return replace(self, tables=tables)


@contextlib.contextmanager
def project(folder: Path, params: dict[str, Any]) -> Iterator[Path]:
    """Stand in a project folder of its own with the mappings of this one."""
    before = Path.cwd()
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    if not (folder / "data/sources").exists():
        (folder / "data/sources").symlink_to(ROOT / "data/sources")
    (folder / "params.yaml").write_text(json.dumps(params))
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def quietly(*stages: Any) -> None:
    """Run stages' `main` without what they say."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for stage in stages:
            stage.main()


def read_tables(folder: Path) -> tuple[Tables, dict[str, Any]]:
    """Read data/ingest of a project."""
    import pyarrow.parquet as pq

    description = describe_tables(folder / "data/ingest")
    tables = {}
    for name in sorted(description):
        parts = sorted((folder / "data/ingest/tables" / name).glob("known_month=*/part.parquet"))
        if parts:
            tables[name] = pa.concat_tables([pq.ParquetFile(part).read() for part in parts])
    return tables, description


def restated(tables: Tables, seed: int) -> Tables:
    """Add later versions of a tenth of the rows of every keyed history, with another number in them."""
    random = np.random.default_rng(seed)
    result = dict(tables)
    for name, table in tables.items():
        contract = contract_of(name, set(table.column_names))
        measures = [f.name for f in table.schema if pa.types.is_decimal(f.type) or pa.types.is_integer(f.type)]
        measures = [column for column in measures if column not in contract.key]
        if not contract.key or not measures or name == "observations" or len(table) < 20:
            continue
        rows = table.take(np.flatnonzero(random.random(len(table)) < 0.1))
        later = random.integers(5, 120, len(rows))
        rows = set_column(rows, "known_on", shifted(rows["known_on"], later))
        for column in measures:
            if not pa.types.is_decimal(rows.schema.field(column).type):
                continue
            doubled = pc.multiply(rows[column], pa.scalar(2, rows.schema.field(column).type))
            rows = set_column(rows, column, doubled.cast(rows.schema.field(column).type, safe=False))
        result[name] = pa.concat_tables([table, rows])
    return result


def set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(
        at, table.schema.field(name), pa.chunked_array([values]) if isinstance(values, pa.Array) else values
    )


def shifted(dates: Any, days: Any) -> pa.Array:
    """Return dates moved by days; null stays null."""
    numbers = pc.cast(dates, pa.int32())
    moved = pc.add(numbers, pa.array(np.broadcast_to(days, len(dates)).astype("int32")))
    return pc.cast(moved.combine_chunks() if isinstance(moved, pa.ChunkedArray) else moved, pa.date32())


def simulated(folder: Path, seed: int, customers: int = 160, months: int = 30) -> Case:
    """Simulate a lender and ingest it; the date in question is the first of month 20 or so, inside the history."""
    from pipeline import ingest, observe, simulate

    params = {
        "source": "simulated", "as_of": "latest", "language": "en",
        "simulate": {"seed": seed, "customers": customers, "months": months},
        "observe": {"history_months": 9, "snapshot_months": 3},
        "sources": {"simulated": {"observe": {"left_early": "good"}}},
    }  # fmt: skip
    with project(folder, params) as here:
        quietly(simulate, ingest, observe)
        tables, description = read_tables(here)
        import pyarrow.parquet as pq

        outcomes = pq.read_table("data/observe/training.parquet")
    as_of = dt.date(2021 + (months - 6) // 12, (months - 6) % 12 + 1, 1)
    return case("simulated", restated(tables, seed), description, as_of, outcomes)


def case(name: str, tables: Tables, description: dict[str, Any], as_of: dt.date, outcomes: pa.Table | None) -> Case:
    """Ask about all customers known by then, at `as_of`."""
    known = tables["customers"].filter(pc.less(tables["customers"]["known_on"], as_of))
    customers = pc.unique(known["customer_id"]).sort()
    observed = pa.table({"customer_id": customers, "as_of": pa.array([as_of] * len(customers), pa.date32())})
    return Case(name, tables, description, observed, as_of, outcomes)


def real(folder: Path, source: str, realdata: Path, *, customers: int = 400) -> Case:
    """Ingest a real source by its whole mapping and ask about its own decisions (at most so many customers)."""
    from pipeline import ingest, observe
    from pipeline.featurise import Params

    with project(folder, {"source": source, "as_of": "latest", "language": "en"}) as here:
        (here / "data/raw" / source).symlink_to(realdata / FOLDERS.get(source, source))
        quietly(ingest, observe)
        tables, description = read_tables(here)
        import pyarrow.parquet as pq

        outcomes = pq.read_table("data/observe/training.parquet")
        asked = pq.read_table("data/observe/observations.parquet", columns=["customer_id", "as_of"])
    asked = asked.sort_by([("as_of", "ascending"), ("customer_id", "ascending")])
    if len(asked) > customers:
        asked = asked.take(np.arange(0, len(asked), len(asked) // customers)[:customers])
        tables = {name: kept(table, set(asked["customer_id"].to_pylist()), tables) for name, table in tables.items()}
        outcomes = kept(outcomes, set(asked["customer_id"].to_pylist()), tables)
    as_of = sorted(asked["as_of"].to_pylist())[len(asked) // 2]
    given = Params()
    settings = {"windows": given.windows_months, "lags": given.lag_months}
    return Case(source, restated(tables, 1), description, asked, as_of, outcomes, settings)


def kept(table: pa.Table, customers: set[str], tables: Tables) -> pa.Table:
    """Return the rows of some customers (through the credit where a row has no customer)."""
    if "customer_id" in table.column_names:
        return table.filter(pc.is_in(table["customer_id"], pa.array(sorted(customers))))
    if "credit_id" in table.column_names:
        own = tables["credits"]
        mine = own.filter(pc.is_in(own["customer_id"], pa.array(sorted(customers))))
        return table.filter(pc.is_in(table["credit_id"], mine["credit_id"].combine_chunks()))
    return table
