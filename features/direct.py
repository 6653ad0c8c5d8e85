"""Features by direct join: what does not decompose (see `partials`) is worked out of the rows that observations see.

The rows of one subject are joined for a range of customers at a time where they are many: a quantile holds every row
that it looks at, outside the engine's own limit, and one date may see more of them than fit. Results are laid beside
each other by the place of their observation, so that ranges change no value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Join:
    """SQL of a subject: tables to make of `observed`, then queries of (place, one column a feature) upon them.

    history: whose rows of a customer are what an observation sees at most; None: all observations are joined at once
    (few rows each, or rows of all customers that are compared).
    """

    tables: tuple[tuple[str, str], ...]
    queries: tuple[str, ...]
    history: str | None = None


def beside(connection: Any, joins: Sequence[Join], at_once: int) -> pa.Table:
    """Return the columns of all queries beside those of `observed_rows`, in its order; null where nothing was seen.

    connection: DuckDB's, with `observed_rows` and `observed` of a group. at_once: rows of a history, as often as
    they are seen, that are joined together; the observations of one customer are never parted.
    """
    whole = connection.execute("SELECT * FROM observed_rows ORDER BY place").to_arrow_table()
    columns = {name: whole[name] for name in whole.column_names if name not in ("place", "asked_for")}
    for join in joins:
        for part in _found(connection, join, at_once):
            at = np.full(len(whole), -1, np.int64)
            at[part["place"].to_numpy()] = np.arange(len(part))
            taken = part.drop_columns(["place"]).take(pa.array(at, mask=at < 0))
            columns |= {column: taken[column] for column in taken.column_names}
    _give_back()
    return pa.table(columns)


def _found(connection: Any, join: Join, at_once: int) -> Iterator[pa.Table]:
    """Yield the result of each query."""
    ranges = _ranges(connection, join.history, at_once) if join.history else []
    if len(ranges) < 2:
        for query in _made(connection, join):
            yield connection.execute(query).to_arrow_table()
        return
    connection.execute("CREATE OR REPLACE TEMP TABLE observed_by_all AS FROM observed")
    parts: list[list[pa.Table]] = [[] for _ in join.queries]
    for first, last in ranges:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE observed AS FROM observed_by_all"
            f" WHERE customer_id BETWEEN {first} AND {last}"
        )
        for found, query in zip(parts, _made(connection, join), strict=True):
            found.append(connection.execute(query).to_arrow_table())
        _give_back()
    connection.execute("CREATE OR REPLACE TEMP TABLE observed AS FROM observed_by_all")
    connection.execute("DROP TABLE observed_by_all")
    yield from (pa.concat_tables(found).combine_chunks() for found in parts)


def _made(connection: Any, join: Join) -> tuple[str, ...]:
    """Make the tables of a join; return its queries."""
    for name, query in join.tables:
        connection.execute(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {query}')
    return join.queries


def _ranges(connection: Any, history: str, at_once: int) -> list[tuple[int, int]]:
    """Return (first, last) codes of customers whose observations together see at most about `at_once` rows."""
    found: list[tuple[int, int]] = connection.execute(f"""
        WITH rows_of AS (SELECT customer_id, count(*) AS n FROM {history} GROUP BY customer_id),
        seen AS (SELECT customer_id, count(*) * coalesce(any_value(n), 0) AS n
                 FROM observed LEFT JOIN rows_of USING (customer_id)
                 WHERE customer_id IS NOT NULL GROUP BY customer_id),
        ranged AS (SELECT customer_id, sum(n) OVER (ORDER BY customer_id ROWS UNBOUNDED PRECEDING) // {at_once} AS part
                   FROM seen)
        SELECT min(customer_id), max(customer_id) FROM ranged GROUP BY part ORDER BY part
    """).fetchall()
    return found


@cache
def _trim() -> Callable[[int], int]:
    """Return the C library's `malloc_trim`, or a call that does nothing where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", int)


def _give_back() -> None:
    """Let the C library return what it holds free: arenas of threads kept some 500 MB more with each group of dates."""
    _trim()(0)
