"""Features of a panel from partial aggregates: rows are summed up once, and every date is put together from the sums.

A cell holds what rows of one customer say that happened in one period, counted from one period on (happened and known)
and up to another (restated). A period is a month that starts on the day of the month of as_of, so that windows of whole
months are whole periods for any as_of, month ends included. Cells that count from the period in which they happened lie
in a grid (period x customer), and a window of k months is the sum of its last k slices, each window from the shorter
one; the few late and restated cells are laid on top of each date that sees them. All of it is whole numbers, minima
and maxima: the same values as from the rows, to the bit. A formula that does not decompose is left to the direct join.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from features.grid import NEVER, Laid, Total, column_of, laid_out
from features.partials import Partial, Plan

DAY_ZERO = "DATE '1970-01-01'"


def period(date: str, day: int) -> str:
    """Return SQL of the period of a date, where periods start on `day` of a month (clamped to its last)."""
    month = f"date_diff('month', {DAY_ZERO}, {date})"
    return month if day == 1 else f"({month} - CAST(day({date}) < least({day}, day(last_day({date}))) AS INTEGER))"


class Panel:
    """A subject's partials on a DuckDB connection: cells made once for each day of the month, dates composed of them.

    `make` runs SQL; the history's identifiers are codes 0, 1, 2 ... as `build` makes them. `at_once` bounds the numbers
    of a grid in memory.
    """

    def __init__(self, plan: Plan, connection: Any, history: str, *, at_once: int = 60_000_000) -> None:
        self.plan, self.connection, self.history, self.at_once = plan, connection, history, at_once
        self._made: set[int] = set()
        self._laid: dict[tuple, Laid] = {}

    def cells_query(self, day: int, rows: str | None = None) -> str:
        """Return SQL of the cells of `rows` (the history) for periods that start on `day`: one row a cell."""
        plan = self.plan
        aggregated = plan.rows.group_by("customer_id", "p", "v", "s").aggregate(
            **{name: partial.node.to_expr() for partial, name in plan.partials.items()}
        )
        happened, known, replaced = (period(c, day) for c in ("event_on", "known_on", "superseded_on"))
        source = (
            f"SELECT *, CAST({happened} AS INTEGER) AS p,"
            f" CASE WHEN known_on <= event_on THEN p ELSE greatest(p, CAST({known} AS INTEGER)) END AS v,"
            f" CASE WHEN superseded_on IS NULL THEN {NEVER} ELSE CAST({replaced} AS INTEGER) END AS s"
            f" FROM {rows or self.history} WHERE event_on IS NOT NULL AND customer_id IS NOT NULL"
        )
        return f"WITH {plan.rows.get_name()} AS ({source}) {ibis.to_sql(aggregated, dialect='duckdb')}"

    def _cells(self, day: int) -> str:
        name = f"cells_{self.plan.subject.name}_{day}"
        if day not in self._made:
            self.connection.execute(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {self.cells_query(day)}')
            self._made.add(day)
        return name

    def extend(self, day: int, rows: str) -> None:
        """Add the cells of `rows` (SQL) that became known since and restate none of those that the cells hold."""
        self.connection.execute(f'INSERT INTO "{self._cells(day)}" {self.cells_query(day, rows)}')
        self._laid.clear()

    def compose(self, observed: str) -> None:
        """Make the view panel_<subject>: (customer_id, as_of, one column a demand) for rows of `observed`."""
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
        """Yield (customer_id, as_of, one column a demand), a date at a time, for rows of `observed` (SQL).

        Only observations that see a row of the subject at all are in it. At least one table, perhaps empty.
        """
        month = f"date_diff('month', {DAY_ZERO}, as_of)"
        asked = self.connection.execute(
            f"SELECT customer_id, as_of, day(as_of) AS day, {month} AS month FROM {observed}"
            " WHERE customer_id IS NOT NULL ORDER BY day, month, customer_id"
        ).fetchnumpy()
        made = False
        for day in np.unique(asked["day"]):
            on_day = asked["day"] == day
            for batch in self._of_day(int(day), {name: np.asarray(column)[on_day] for name, column in asked.items()}):
                made = True
                yield batch
        if not made:
            yield self._table(np.zeros(0, np.int32), np.zeros(0, "datetime64[D]"), {}, 0, {})

    def _of_day(self, day: int, asked: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        """Compose the dates of one day of the month, a range of customers at a time."""
        cells = self._cells(day)
        low, high, last = self.connection.execute(f"SELECT min(p), max(p), max(customer_id) FROM {cells}").fetchone()
        if low is None:
            return
        customers = max(last, int(asked["customer_id"].max())) + 1
        width = max(1, self.at_once // ((high - low + 1) * max(1, len(self.plan.partials))))
        for first in range(0, customers, width):
            inside = (asked["customer_id"] >= first) & (asked["customer_id"] < first + width)
            if inside.any():
                laid = self._lay(cells, low, high, first, min(width, customers - first))
                yield from self._compose(laid, first, {name: column[inside] for name, column in asked.items()})

    def _lay(self, cells: str, low: int, high: int, first: int, customers: int) -> Laid:
        """Lay the cells of a range of customers out; the newest stays in memory for the dates that follow."""
        key = (cells, low, high, first, customers)
        if key not in self._laid:
            table = self.connection.execute(
                f"SELECT * FROM {cells} WHERE customer_id >= {first} AND customer_id < {first + customers}"
            ).to_arrow_table()
            self._laid.clear()
            self._laid[key] = laid_out(table, self.plan, low, high, first, customers)
        return self._laid[key]

    def _compose(self, laid: Laid, first: int, asked: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        """Yield the dates asked for, months in order: each window from the shorter one, then what was late."""
        months, at = np.unique(asked["month"], return_index=True)
        ever: dict[Partial, Total] = {}
        reached = 0
        for month, rows in zip(months, np.split(np.arange(len(asked["month"])), at[1:]), strict=True):
            taken = asked["customer_id"][rows] - first
            end = int(np.clip(month - laid.low, 0, laid.periods))
            seen = (laid.v < month) & (laid.s >= month)
            values = {}
            for partial, windows in self._windows().items():
                grid = laid.grids[partial]
                if None in windows:
                    ever.setdefault(partial, grid.start(laid.customers))
                    grid.add(ever[partial], reached, end)
                running, begin = grid.start(laid.customers), end
                for window in windows:
                    total, visible = ever.get(partial, running), seen
                    if window is not None:
                        start = int(np.clip(month - laid.low - window, 0, laid.periods))
                        grid.add(running, start, begin)
                        total, begin, visible = running, start, seen & (laid.p >= month - window)
                    values[partial, window] = grid.taken(total, taken, laid.who, visible)
            reached = end
            presence = values[self.plan.presence.partial, self.plan.presence.window].parts[0] > 0
            if not presence.all():
                values = {key: value.take(presence) for key, value in values.items()}
            kept = rows[presence]
            yield self._table(asked["customer_id"][kept], asked["as_of"][kept], values, int(month), laid.kinds)

    def _windows(self) -> dict[Partial, list[int | None]]:
        """Return the windows in which each partial is wanted, short ones first."""
        wanted: dict[Partial, set[int | None]] = {}
        for demand in self.plan.demands:
            wanted.setdefault(demand.partial, set()).add(demand.window)
        return {partial: sorted(windows, key=lambda k: (k is None, k)) for partial, windows in wanted.items()}

    def _table(
        self,
        customers: np.ndarray,
        as_of: np.ndarray,
        values: dict[tuple[Partial, int | None], Total],
        month: int,
        kinds: dict[Partial, pa.DataType],
    ) -> pa.Table:
        days = as_of.astype("datetime64[D]")
        columns: dict[str, Any] = {
            "customer_id": pa.array(customers.astype(np.int32)),
            "as_of": pa.array(days, pa.date32()),
        }
        back = {"days": int(days[0].astype(np.int64)) if len(days) else 0, "months": month}
        for demand, name in self.plan.demands.items():
            kind = pa.int64() if demand.read == "row" else demand.type.to_pyarrow()
            kind = kinds.get(demand.partial, kind) if pa.types.is_decimal(kind) else kind  # the engine's own scale
            total = values.get((demand.partial, demand.window))
            columns[name] = pa.nulls(0, kind) if total is None else column_of(demand, kind, total, back)
        return pa.table(columns)
