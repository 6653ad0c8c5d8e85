"""Tables drawn as text, and the build run on them: shared by the tests of features."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal

import ibis
import pyarrow as pa

from features.build import Matrix, Settings
from features.definition import Applicants
from features.tables import CONTRACTS

ARROW = {
    "DATE": pa.date32(),
    "VARCHAR": pa.string(),
    "DECIMAL(18,2)": pa.decimal128(18, 2),
    "DOUBLE": pa.float64(),
    "INTEGER": pa.int32(),
}
READ = {
    "DATE": dt.date.fromisoformat,
    "VARCHAR": str,
    "DECIMAL(18,2)": lambda text: Decimal(text).quantize(Decimal("0.01")),
    "DOUBLE": float,
    "INTEGER": int,
}


def draw(table: str, text: str, numeric: tuple[str, ...] = ()) -> pa.Table:
    """Read a table drawn with columns apart by blanks; `-` is null; `known_on` defaults to the event's day."""
    lines = [line.split() for line in text.strip().splitlines() if line.strip()]
    contract = CONTRACTS.get(table)
    kinds = {name: column.type for name, column in contract.columns.items()} if contract else {}
    kinds |= {"known_on": "DATE", "event_on": "DATE"} | dict.fromkeys(numeric, "DOUBLE")
    header, *rows = lines
    columns = {
        name: [None if row[at] == "-" else READ[kinds.get(name, "VARCHAR")](row[at]) for row in rows]
        for at, name in enumerate(header)
    }
    if "known_on" not in columns:
        event = contract.event if contract else "event_on"
        columns["known_on"] = columns.get(event) or [dt.date(1900, 1, 1)] * len(rows)
    return pa.table({name: pa.array(values, ARROW[kinds.get(name, "VARCHAR")]) for name, values in columns.items()})


def observe(text: str) -> pa.Table:
    """Read lines of `customer_id as_of`."""
    rows = sorted((line.split() for line in text.strip().splitlines()), key=lambda row: (row[1], row[0]))
    return pa.table(
        {
            "customer_id": pa.array([row[0] for row in rows], pa.string()),
            "as_of": pa.array([dt.date.fromisoformat(row[1]) for row in rows], pa.date32()),
        }
    )


def matrix_of(
    tables: dict[str, pa.Table],
    observations: pa.Table,
    *,
    attributes: dict[str, dict[str, list[str]]] | None = None,
    threads: int = 2,
    training: pa.Table | None = None,
    applicants: dict[str, pa.Table] | None = None,
    **settings: object,
) -> tuple[Matrix, ibis.Table]:
    """Return the matrix declared on these tables and the observations on its connection.

    With `applicants`, the observations see those rows.
    """
    connection = ibis.duckdb.connect(threads=threads)
    theirs = {f"applicants_{name}": table for name, table in (applicants or {}).items()}
    for name, table in (tables | theirs).items():
        connection.con.register(f"arrow_{name}", table)
        connection.raw_sql(f"CREATE TABLE {name} AS SELECT * FROM arrow_{name}")
    for name, table in (("asked", observations), ("training", observations if training is None else training)):
        connection.con.register(f"arrow_{name}", table)
        connection.raw_sql(f"CREATE TABLE {name} AS SELECT * FROM arrow_{name}")
    held = {name: connection.table(name) for name in tables}
    asked = connection.table("asked")
    seen = None
    if applicants is not None:
        seen = Applicants({name: connection.table(f"applicants_{name}") for name in applicants}, asked)
    made = Settings(**settings)
    return Matrix(connection, held, attributes or {}, connection.table("training"), asked, made, seen), asked


def build(tables: dict[str, pa.Table], observations: pa.Table, **options: object) -> pa.Table:
    """Return the feature matrix of these tables as one Arrow table."""
    matrix, asked = matrix_of(tables, observations, **options)
    return pa.concat_tables([part for part, _ in matrix.groups(asked)])


ON: dict[str, Callable] = {}  # "values": what stands in for the DuckDB build (tests/spec/conftest.py sets it)


def values(
    tables: dict[str, pa.Table], observations: str, **options: object
) -> dict[tuple[str, str], dict[str, object]]:
    """Return (customer_id, as_of) -> feature -> value."""
    if "values" in ON:
        return ON["values"](tables, observations, **options)
    rows = build(tables, observe(observations), **options).to_pylist()
    return {(row["customer_id"], row["as_of"].isoformat()): row for row in rows}


def table_of(table: str, rows: list[dict[str, object]]) -> pa.Table:
    """Make a canonical table of rows that are dictionaries of Python values; at least one row says the columns."""
    kinds = {name: column.type for name, column in CONTRACTS[table].columns.items()} | {"known_on": "DATE"}
    return pa.table(
        {name: pa.array([row[name] for row in rows], ARROW[kinds.get(name, "VARCHAR")]) for name in rows[0]}
    )
