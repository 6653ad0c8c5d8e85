"""The real build, run on a case: every feature of every asked row, and which tables each feature stands on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from lenders import Case

from features.build import Matrix, Settings

FEW = {"windows": (1, 6, 12), "lags": 3}  # where a case does not say what to build
NEEDS = {  # subject -> its tables, where not the one of its name (others are left out where few subjects are built)
    "transactions_ever": {"transactions"},
    "statements": {"statements", "credits", "payments"},
    "bureau": {"statements", "credits"},
    "credits": {"statements", "credits"},
    "instalments": {"instalments", "payments", "credits"},
    "payments": {"payments", "credits"},
    "industry": {"industries"},
    "standing": {"standings"},
}
KEYS = ("customer_id", "as_of")


@dataclass(frozen=True)
class Built:
    """Features in the order (as_of, customer_id), and feature -> tables that it is worked out from."""

    rows: pa.Table
    sources: dict[str, frozenset[str]]

    @property
    def features(self) -> list[str]:
        return list(self.sources)


def build(case: Case, only: frozenset[str] = frozenset(), *, panel: bool | None = None) -> Built:
    """Build all features, or those of some subjects. Columns are declared as known on the case's date.

    There are two roads from rows to a date: partial aggregates composed (`panel`) and the direct join; None takes the
    one that a run would take.
    """
    road = FEW | case.settings | ({} if panel is None else {"panel": panel})
    connection = ibis.duckdb.connect(threads=2)
    needed = set().union(*(NEEDS.get(name, {name}) for name in only)) | {"customers"} if only else set(case.tables)
    case = case.with_tables({name: table for name, table in case.tables.items() if name in needed})
    for name, table in case.tables.items():
        connection.con.register(f"arrow_{name}", table)
        connection.raw_sql(f'CREATE TABLE "{name}" AS SELECT * FROM arrow_{name}')
    connection.con.register("arrow_asked", case.observed)
    connection.raw_sql("CREATE TABLE asked AS SELECT * FROM arrow_asked")
    asked = connection.table("asked")
    training = asked.filter(asked.as_of <= ibis.literal(case.as_of))
    held = {name: connection.table(name) for name in case.tables}
    matrix = Matrix(connection, held, case.description, training, asked, Settings(least_group=2, **road))
    if only:
        matrix.subjects = [subject for subject in matrix.subjects if subject.name in only]
        matrix.across = ()
    sources = {f.name: frozenset(s.sources) for s in matrix.subjects for f in s.features}
    for item in matrix.across:
        sources[item.feature.name] = frozenset().union(*(sources.get(need, frozenset()) for need in item.needs))
    rows = pa.concat_tables([part for part, _ in matrix.groups(asked)])
    connection.disconnect()
    return Built(rows, sources)


def bits(column: pa.ChunkedArray) -> pa.Array:
    """Return a column's values as the bytes that they are, so that -0.0 is not 0.0."""
    array = column.combine_chunks()
    array = pa.concat_arrays([array]) if isinstance(array, pa.Array) else array
    return array.view(pa.int64()) if pa.types.is_float64(array.type) else array


def differing(one: Built, other: Built, until: dt.date | None = None) -> list[str]:
    """Return the features that differ by a byte in any row (asked for at or before `until`), absent ones among them."""
    a, b = (each.rows if until is None else each.rows.filter(pc.less_equal(each.rows["as_of"], until))
            for each in (one, other))  # fmt: skip
    assert len(a), "rows to compare"
    assert all(a[key].equals(b[key]) for key in KEYS), "the same customers on the same dates"
    found = [name for name in one.features if name not in other.sources or not bits(a[name]).equals(bits(b[name]))]
    return found + [name for name in other.features if name not in one.sources]


def empty(built: Built, until: dt.date) -> list[str]:
    """Return the features that have no value in any row asked for at or before `until`: nothing could move them."""
    rows = built.rows.filter(pc.less_equal(built.rows["as_of"], until))
    return [name for name in built.features if rows[name].null_count == len(rows)]
