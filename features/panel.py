"""Features of a panel from partial aggregates: rows are summed up once, and every date is put together from the sums.

A cell holds what rows of one customer say that happened in one period. A period is a month that starts on the day of
the month of as_of, so that windows of whole months are whole periods for any as_of, month ends included. Cells lie in a
grid (period x customer), and a window of k months is the sum of its last k slices, each window from the shorter one. A
row that became known late joins its cell at the first date that sees it, dates being taken in order; a row that is
restated some day is laid on top of each date that sees it. All of it is whole numbers, minima and maxima: the same
values as from the rows, to the bit. A formula that does not decompose is left to the direct join.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from features.grid import NEVER, Array, Bounds, Laid, Running, Total, column_of
from features.partials import Partial, Plan, Window

DAY_ZERO = "DATE '1970-01-01'"
KEYS = ("customer_id", "as_of", "place")
BATCH = 1 << 20  # rows


def period(date: str, day: int) -> str:
    """Return SQL of the period of a date, where periods start on `day` of a month (clamped to its last)."""
    month = f"date_diff('month', {DAY_ZERO}, {date})"
    return month if day == 1 else f"({month} - CAST(day({date}) < least({day}, day(last_day({date}))) AS INTEGER))"


class Panel:
    """A subject's partials on a DuckDB connection: cells made once for each day of the month, dates composed of them.

    `history` is SQL of the rows; its identifiers are codes 0, 1, 2 ... as `build` makes them. `at_once` bounds the
    numbers of a grid in memory: customers are taken a range at a time.
    """

    def __init__(self, plan: Plan, connection: Any, history: str, *, at_once: int = 100_000_000) -> None:
        self.plan, self.connection, self.history, self.at_once = plan, connection, history, at_once
        nodes = {name: node.to_expr() for node, name in plan.columns.items()}
        self._read = ibis.to_sql(plan.rows.select("customer_id", "p", "v", "s", **nodes), dialect="duckdb")
        self._bounds: dict[int, Bounds | None] = {}
        self._laid: dict[tuple[int, int], Laid] = {}

    def rows_query(self, day: int, rows: str | None = None, where: str = "true") -> str:
        """Return SQL of what the cells are made of: customer, periods, values and conditions of every row."""
        happened, known, replaced = (period(c, day) for c in ("event_on", "known_on", "superseded_on"))
        source = (
            f"SELECT *, CAST({happened} AS INTEGER) AS p,"
            f" CASE WHEN known_on <= event_on THEN p ELSE greatest(p, CAST({known} AS INTEGER)) END AS v,"
            f" CAST({replaced} AS INTEGER) AS s"
            f" FROM {rows or self.history} WHERE event_on IS NOT NULL AND customer_id IS NOT NULL AND ({where})"
        )
        categories = {partial.values[0]: partial.categories for partial in self.plan.partials if partial.kind == "set"}
        columns = ["customer_id", "p", "v", "s"]
        for node, name in self.plan.columns.items():
            kind, sql = node.dtype, name
            if node in categories:
                listed = ", ".join("'" + value.replace("'", "''") + "'" for value in categories[node])
                sql = f"CAST(list_position([{listed}], {name}) AS UTINYINT)"
            elif kind.is_integer():
                sql = f"CAST({name} AS BIGINT)"
            elif kind.is_decimal():
                sql = f"CAST({name} AS DECIMAL(18, {kind.scale or 0}))"
            columns.append(f"{sql} AS {name}")
        return f"WITH {self.plan.rows.get_name()} AS ({source}) SELECT {', '.join(columns)} FROM ({self._read})"

    def bounds(self, day: int, rows: str | None = None) -> Bounds | None:
        """Return the ends of periods, identifiers and values; None without rows."""
        values = list(dict.fromkeys(value for partial in self.plan.partials for value in partial.values))
        numbers = [node for node in values if node.dtype.is_integer() or node.dtype.is_decimal()]
        columns = ["min(p)", "max(p)", "max(customer_id)", "count(*)"]
        columns += [f"count({self.plan.columns[node]})" for node in values]
        columns += [f"{end}({self.plan.columns[node]})" for node in numbers for end in ("min", "max")]
        query = f"SELECT {', '.join(columns)} FROM ({self.rows_query(day, rows)})"
        low, high, last, count, *rest = self.connection.execute(query).fetchone()
        if not count:
            return None
        counted = f"SELECT count(*) AS n FROM {rows or self.history} GROUP BY customer_id"
        most = self.connection.execute(f"SELECT max(n) FROM ({counted})").fetchone()[0]
        known, ends = rest[: len(values)], rest[len(values) :]
        largest = {
            node: max((_unscaled(end) for end in ends[2 * at : 2 * at + 2] if end is not None), default=0)
            for at, node in enumerate(numbers)
        }
        complete = frozenset(node for node, found in zip(values, known, strict=True) if found == count)
        return Bounds(low, high, last, most, largest, complete)

    def extend(self, day: int, rows: str) -> None:
        """Add `rows` (SQL) that became known since, and restate none of those that the cells hold."""
        name = f'"added_{self.plan.subject.name}"'
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM {rows}")
        old, more, held = self._bounds.get(day), self.bounds(day, name), self._laid.get((day, 0))
        self.history = f"(SELECT * FROM {self.history} UNION ALL BY NAME SELECT * FROM {rows})"
        self._bounds, self._laid = {}, {}
        if old is None or more is None or held is None:
            return
        bounds = old.joined(more)
        if held.low <= bounds.low and bounds.last < held.customers and held.cells.can_hold(bounds):
            held.grow(bounds)
            self._bounds[day] = bounds
            self._laid[day, 0] = self._added(held, self.rows_query(day, name), 0)

    def compose(self, observed: str) -> None:
        """Make the view panel_<subject>: (customer_id, as_of, place, one column a demand) for rows of `observed`."""
        name = self.plan.composed.get_name()
        self.connection.register(f"{name}_batches", pa.concat_tables(self.batches(observed)))
        found = [(demand, column) for demand, column in self.plan.demands.items() if demand.read == "row"]
        read = ", ".join(f'h_{column}."{demand.column}" AS {column}' for demand, column in found)
        joins = " ".join(
            f"LEFT JOIN {self.history} h_{column}"
            f" ON h_{column}.customer_id = b.customer_id AND h_{column}.row_order = b.{column}"
            for _, column in found
        )
        columns = f"b.* REPLACE ({read})" if found else "b.*"
        self.connection.execute(
            f'CREATE OR REPLACE TEMP VIEW "{name}" AS SELECT {columns} FROM {name}_batches b {joins}'
        )

    def batches(self, observed: str) -> Iterator[pa.Table]:
        """Yield (customer_id, as_of, place, one column a demand), a date at a time, for rows of `observed` (SQL).

        `place` is the observation's own. Only observations that see a row of the subject at all are in it. At least one
        table, perhaps empty.
        """
        month = f"date_diff('month', {DAY_ZERO}, as_of)"
        asked = self.connection.execute(
            f"SELECT customer_id, as_of, place, day(as_of) AS day, {month} AS month FROM {observed}"
            " WHERE customer_id IS NOT NULL ORDER BY day, month, customer_id"
        ).fetchnumpy()
        made = False
        for day in np.unique(asked["day"]):
            on_day = asked["day"] == day
            for batch in self._of_day(int(day), {name: np.asarray(column)[on_day] for name, column in asked.items()}):
                made = True
                yield batch
        if not made:
            nobody = {
                name: np.zeros(0, kind) for name, kind in zip(KEYS, ("int32", "datetime64[D]", "int64"), strict=True)
            }
            yield self._table(nobody, {}, 0, None)

    def _of_day(self, day: int, asked: dict[str, Array]) -> Iterator[pa.Table]:
        """Compose the dates of one day of the month, a range of customers at a time."""
        if day not in self._bounds:
            self._bounds[day] = self.bounds(day)
        bounds = self._bounds[day]
        if bounds is None:
            return
        customers = max(bounds.last, int(asked["customer_id"].max())) + 1
        marks = sum(len(partial.categories) for partial in self.plan.partials) // 8
        width = max(1, self.at_once // ((bounds.high - bounds.low + 1) * (2 + marks + len(self.plan.partials))))
        for first in range(0, customers, width):
            inside = (asked["customer_id"] >= first) & (asked["customer_id"] < first + width)
            if inside.any():
                here = {name: column[inside] for name, column in asked.items()}
                some = min(width, customers - first)
                where = "true" if some == customers else f"customer_id >= {first} AND customer_id < {first + some}"
                laid = self._lay(day, bounds, first, some, int(here["month"].min()), where)
                yield from self._compose(laid, first, here)

    def _lay(self, day: int, bounds: Bounds, first: int, customers: int, month: int, where: str) -> Laid:
        """Lay a range of customers out; the newest stays in memory for the dates that follow."""
        held = self._laid.get((day, first))
        if held is not None and held.customers >= customers and held.reached <= month:
            return held
        self._laid.clear()
        laid = Laid.empty(self.plan.partials, bounds, customers)
        self._laid[day, first] = self._added(laid, self.rows_query(day, where=where), first)
        return self._laid[day, first]

    def _added(self, laid: Laid, query: str, first: int) -> Laid:
        """Add the rows of a query: to the cells those that were known when they happened, aside the others."""
        marks = None if laid.reached else laid.cells.unseen()  # marks are quicker for many rows, slower for few
        for batch in _streamed(self.connection, query):
            who = batch["customer_id"].to_numpy().astype(np.int64) - first
            p, v = batch["p"].to_numpy(), batch["v"].to_numpy()
            rows = {node: _column(batch[name]) for node, name in self.plan.columns.items()}
            place = (p.astype(np.int64) - laid.low) * laid.customers + who
            late = v > p
            if batch["s"].null_count < len(p):
                late |= ~np.asarray(batch["s"].is_null())
            if late.any():
                place[late] = laid.cells.slots
                s = batch["s"].fill_null(NEVER).to_numpy()
                laid.put_aside(rows, late, who, p, v, s)
            laid.cells.add(rows, place, marks)
        laid.cells.packed(marks or {})
        return laid

    def _compose(self, laid: Laid, first: int, asked: dict[str, Array]) -> Iterator[pa.Table]:
        """Yield the dates asked for, months in order."""
        months, at = np.unique(asked["month"], return_index=True)
        bounds = laid.cells.bounds
        wanted: dict[Window, dict[Partial, None]] = {}
        for demand in self.plan.demands:
            for term in demand.terms:
                wanted.setdefault(demand.window, {}).update(dict.fromkeys(bounds.held(term)))
        windows = sorted(wanted, key=lambda w: (w[1] is None, w[1], w[0]))
        running = Running(laid, wanted.get((1, None), {}))
        for month, rows in zip(months, np.split(np.arange(len(asked["month"])), at[1:]), strict=True):
            running.start(int(month))
            kept = {name: column[rows] for name, column in asked.items()}
            here = kept["customer_id"] - first
            everyone = len(here) == laid.customers
            values = {}
            for window in windows:
                for partial, parts in running.window(window, wanted[window]).items():
                    values[partial, window] = [part.copy() if everyone else part[here] for part in parts]
            presence = values[bounds.counting(self.plan.presence.terms[0]), self.plan.presence.window][0] > 0
            if not presence.all():
                kept = {name: column[presence] for name, column in kept.items()}
                values = {key: [part[presence] for part in parts] for key, parts in values.items()}
            yield self._table(kept, values, int(month), bounds)

    def _table(
        self,
        kept: dict[str, Array],
        values: dict[tuple[Partial, Window], list[Array]],
        month: int,
        bounds: Bounds | None,
    ) -> pa.Table:
        days = kept["as_of"].astype("datetime64[D]")
        columns: dict[str, Any] = {
            "customer_id": pa.array(kept["customer_id"].astype(np.int32)),
            "as_of": pa.array(days, pa.date32()),
            "place": pa.array(kept["place"].astype(np.int64)),
        }
        back = {"days": int(days[0].astype(np.int64)) if len(days) else 0, "months": month}
        for demand, name in self.plan.demands.items():
            if bounds is None:
                columns[name] = pa.nulls(0, pa.int64() if demand.read == "row" else demand.type.to_pyarrow())
                continue
            held = [bounds.held(term) for term in demand.terms]
            totals = [
                Total(values[own[0], demand.window], values[own[-1], demand.window][0] if len(own) > 1 else None)
                for own in held
            ]
            columns[name] = column_of(demand, totals, back, bounds)
        return pa.table(columns)


def _unscaled(end: Any) -> int:
    """Return the absolute value of a whole number, or of money in its smallest unit."""
    return abs(int(end.scaleb(-int(end.as_tuple().exponent))) if isinstance(end, Decimal) else int(end))


def _column(column: pa.Array) -> tuple[Array, Array | None]:
    """Return values (money in its smallest unit) and where they are known (None: everywhere)."""
    known = None if not column.null_count else ~np.asarray(column.is_null())
    if pa.types.is_decimal(column.type):
        offset = column.offset
        return np.frombuffer(column.buffers()[1], np.int64)[offset : offset + len(column)], known
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    if column.null_count:
        column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    value = np.asarray(column)
    return (value if value.dtype in (np.float64, np.bool_, np.uint8) else value.astype(np.int64)), known


def _streamed(connection: Any, query: str) -> Iterator[pa.RecordBatch]:
    """Yield a query's result in batches, money as DECIMAL of 64 bits."""
    connection.execute("SET arrow_output_version = '1.5'")
    connection.execute("SET streaming_buffer_size = '64MB'")
    try:
        for batch in connection.execute(query).to_arrow_reader(BATCH):
            if batch.num_rows:
                yield batch
    finally:
        connection.execute("RESET arrow_output_version")
        connection.execute("RESET streaming_buffer_size")
