"""Features of a panel from partial aggregates: rows are summed up once, and every date is put together from the sums.

A cell holds what rows of one customer say that happened in one period, counted from one period on (happened and known)
and up to another (restated). A period is a month that starts on the day of the month of as_of, so that windows of whole
months are whole periods for any as_of, month ends included. Cells that count from the period in which they happened lie
in a grid (period x customer), and a window of k months is the sum of its last k slices, each window from the shorter
one; the few late and restated cells are laid on top of each date that sees them. All of it is whole numbers, minima
and maxima: the same values as from the rows, to the bit. A formula that does not decompose is left to the direct join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import numpy as np
import pyarrow as pa

from features.definition import Formula, Subject

NEVER = 1 << 30  # the period in which a row that was never restated is replaced
DAY_ZERO = "DATE '1970-01-01'"
MOST_VALUES = 62  # of a category, for a set of its values to fit one whole number
TIME = {"months_before", "days_before", "as_of", "as_of_month", "as_of_day", "as_of_number", "p", "v", "s"}
FITS = 1 << 62
LOW = np.int64(0xFFFFFFFF)
Values = Callable[[str], Sequence[str]]


class Whole(Exception):
    """The expression needs its rows one by one: it does not decompose."""


@dataclass(frozen=True)
class Partial:
    """One aggregate of a cell: sum, count, min, max, or the set of a category's values; `node` on the rows."""

    kind: str
    node: ops.Node


@dataclass(frozen=True)
class Demand:
    """A partial over a window (months; None: ever), and how it is read: as it is, counted, or back from as_of."""

    partial: Partial
    window: int | None
    read: str = "plain"  # plain, known (a sum that is 0 where nothing was), values, days, months, row
    type: dt.DataType = field(default_factory=lambda: dt.int64)
    column: str = ""  # of `row`: what is read of the row found


def period(date: str, day: int) -> str:
    """Return SQL of the period of a date, where periods start on `day` of a month (clamped to its last)."""
    month = f"date_diff('month', {DAY_ZERO}, {date})"
    return month if day == 1 else f"({month} - CAST(day({date}) < least({day}, day(last_day({date}))) AS INTEGER))"


class Plan:
    """What of a subject's formulas decomposes: the partials of a cell, the demands, and each formula upon them."""

    def __init__(self, subject: Subject, formulas: Mapping[str, Formula], values: Values) -> None:
        assert subject.history is not None
        self.subject, self.months, self._values = subject, subject.history.months, values
        self.made = f"composed_{subject.name}"  # the table that a panel makes; formulas read rows of it as `composed`
        schema = {**dict(subject.rows.schema().items()), **dict.fromkeys("pvs", "int64")}
        self.rows = ibis.table(schema, name=f"periodic_{subject.name}")
        self.demands: dict[Demand, str] = {}
        self.whole: list[str] = []  # formulas left to the direct join
        rewritten: dict[str, dict[ops.Node, Demand]] = {}
        expressions = {}
        for name, formula in formulas.items():
            expressions[name] = formula(self.rows)
            try:
                rewritten[name] = {node: self._demand(node) for node in expressions[name].op().find(ops.Reduction)}
            except Whole:
                self.whole.append(name)
        for found in rewritten.values():
            for demand in found.values():
                self.demands.setdefault(demand, f"d{len(self.demands)}")
        self.presence = Demand(Partial("count", ops.CountStar(self.rows.op())), self.months)
        self.demands.setdefault(self.presence, f"d{len(self.demands)}")
        self.partials = {partial: f"c{at}" for at, partial in enumerate(dict.fromkeys(d.partial for d in self.demands))}
        columns = {name: demand.type for demand, name in self.demands.items()}
        self.composed = ibis.table({"customer_id": "int32", "as_of": "date", **columns}, name=f"panel_{subject.name}")
        self.formulas = {
            name: expressions[name].op().replace(
                {node: self._read(demand) for node, demand in found.items()}
            ).to_expr()
            for name, found in rewritten.items()
        }  # fmt: skip

    def _read(self, demand: Demand) -> ops.Node:
        value = self.composed[self.demands[demand]]
        return (value.fill_null(0) if demand.read == "known" else value).op()

    def _demand(self, node: ops.Node) -> Demand:
        """Read one reduction as a partial over a window; raise Whole where it is none."""
        if isinstance(node, ops.CountStar) and node.where is None:
            return Demand(Partial("count", node), self.months)
        arg, where = getattr(node, "arg", None), getattr(node, "where", None)
        counted = isinstance(node, ops.Sum) and where is None and _condition(arg)
        window, local = self._window(_condition(arg) if counted else where)
        if counted:
            if local is None:
                return Demand(Partial("count", ops.CountStar(self.rows.op())), window, "known")
            return Demand(Partial("sum", ops.Sum(ops.Cast(local, to=dt.int64))), window, "known")
        if isinstance(node, ops.ArgMax):
            if not isinstance(arg, ops.Field) or not (isinstance(node.key, ops.Field) and node.key.name == "row_order"):
                raise Whole
            found = ops.Max(node.key, where=local)
            return Demand(Partial("max", found), window, "row", node.dtype, arg.name)
        if isinstance(node, (ops.Min, ops.Max)) and isinstance(arg, ops.Field) and arg.name in _BACK:
            column = self.rows[_BACK[arg.name]].op()
            turned = (ops.Max if isinstance(node, ops.Min) else ops.Min)(column, where=local)
            read = arg.name.removesuffix("_before")
            return Demand(Partial("max" if isinstance(node, ops.Min) else "min", turned), window, read, node.dtype)
        if arg is None or _uses_time(arg):
            raise Whole
        if isinstance(node, ops.CountDistinct) and isinstance(arg, ops.Field):
            return Demand(Partial("set", self._set(arg, local)), window, "values")
        kinds = {ops.Sum: "sum", ops.Count: "count", ops.Min: "min", ops.Max: "max"}
        kind = kinds.get(type(node))
        if kind is None or not _held(node.dtype) or (kind == "sum" and node.dtype.is_floating()):
            raise Whole
        return Demand(Partial(kind, node.copy(where=local)), window, "plain", node.dtype)

    def _set(self, arg: ops.Field, local: ops.Node | None) -> ops.Node:
        """Return the set of a category's values as bits of a whole number; raise Whole where they are too many."""
        values = list(self._values(arg.name)) if arg.dtype.is_string() else []
        if not values or len(values) > MOST_VALUES:
            raise Whole
        bits = arg.to_expr().cases(*((value, ibis.literal(1 << at, "int64")) for at, value in enumerate(values)))
        return bits.bit_or(where=None if local is None else local.to_expr()).op()

    def _window(self, where: ops.Node | None) -> tuple[int | None, ops.Node | None]:
        """Split a condition into a window of months and what it says about the row alone."""
        window, local = self.months, None
        for part in _conjuncts(where):
            if not _uses_time(part):
                local = part if local is None else ops.And(local, part)
                continue
            k = _months(part)
            if k is not None:
                window = k if window is None else min(window, k)
        return window, local


_BACK = {"days_before": "event_number", "months_before": "p"}


def _condition(arg: ops.Node | None) -> ops.Node | None:
    """Return the condition of which `arg` is the cast to a whole number, else None."""
    return arg.arg if isinstance(arg, ops.Cast) and arg.arg.dtype.is_boolean() and arg.to.is_integer() else None


def _conjuncts(where: ops.Node | None) -> Iterator[ops.Node]:
    if isinstance(where, ops.And):
        yield from _conjuncts(where.left)
        yield from _conjuncts(where.right)
    elif where is not None:
        yield where


def _uses_time(node: ops.Node) -> bool:
    return any(found.name in TIME for found in node.find(ops.Field))


def _months(part: ops.Node) -> int | None:
    """Return the window that a condition on months_before states (None: any); raise Whole where it states none."""
    match part:
        case ops.LessEqual(ops.Field(name="months_before"), ops.Literal(value=k)):
            return int(k)
        case ops.Between(ops.Field(name="months_before"), ops.Literal(value=1), ops.Literal(value=k)):
            return int(k)
        case ops.GreaterEqual(ops.Field(name="months_before"), ops.Literal(value=1)):
            return None
    raise Whole


def _held(kind: dt.DataType) -> bool:
    return kind.is_decimal() or kind.is_integer() or kind.is_floating() or kind.is_date()


@dataclass
class Grid:
    """One partial on (period x customer): whole numbers, or doubles of a minimum or maximum; `known` where a sum is."""

    kind: str
    cells: list[np.ndarray]  # one, or two halves of sums that could pass 64 bits
    known: np.ndarray | None
    late: list[np.ndarray]
    late_known: np.ndarray | None

    def start(self, customers: int) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Return the value of no rows, for each customer."""
        made = [np.full(customers, _nothing(self.kind, part.dtype), part.dtype) for part in self.cells]
        return made, None if self.known is None else np.zeros(customers, np.bool_)

    def add(self, into: tuple[list[np.ndarray], np.ndarray | None], first: int, last: int) -> None:
        """Take the periods [first, last) in."""
        for total, part in zip(into[0], self.cells, strict=True):
            for at in range(first, last):
                _JOIN[self.kind](total, part[at], out=total)
        if into[1] is not None and self.known is not None:
            for at in range(first, last):
                np.logical_or(into[1], self.known[at], out=into[1])

    def lay(self, into: tuple[list[np.ndarray], np.ndarray | None], customers: np.ndarray, seen: np.ndarray) -> None:
        """Take late cells in."""
        for total, part in zip(into[0], self.late, strict=True):
            _JOIN[self.kind].at(total, customers[seen], part[seen])
        if into[1] is not None and self.late_known is not None:
            np.logical_or.at(into[1], customers[seen], self.late_known[seen])


_JOIN = {"sum": np.add, "count": np.add, "min": np.minimum, "max": np.maximum, "set": np.bitwise_or}


def _nothing(kind: str, dtype: np.dtype) -> Any:
    if kind in ("sum", "count", "set"):
        return 0
    if dtype == np.float64:
        return np.inf if kind == "min" else -np.inf
    return np.iinfo(dtype).max if kind == "min" else np.iinfo(dtype).min


def halves(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a DECIMAL column's unscaled values as (upper, lower 32 bits): value = upper * 2**32 + lower."""
    if not len(column):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    array = column.combine_chunks()
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset : 2 * (array.offset + len(array))]
    low, high = words[0::2], words[1::2]
    return (high << 32) | ((low >> 32) & LOW), low & LOW


def decimals(upper: np.ndarray, lower: np.ndarray, kind: pa.DataType, mask: np.ndarray | None) -> pa.Array:
    """Return DECIMAL values from sums of halves."""
    upper = upper + (lower >> 32)
    words = np.empty((len(upper), 2), np.int64)
    words[:, 0], words[:, 1] = (upper << 32) | (lower & LOW), upper >> 32
    valid = None if mask is None else pa.array(mask).buffers()[1]
    return pa.Array.from_buffers(kind, len(upper), [valid, pa.py_buffer(words)])


class Panel:
    """A subject's partials on a DuckDB connection: cells made once for each day of the month, dates composed of them.

    `make` runs SQL; the history's identifiers are codes 0, 1, 2 ... as `build` makes them. `at_once` bounds the numbers
    of a grid in memory.
    """

    def __init__(self, plan: Plan, connection: Any, history: str, *, at_once: int = 60_000_000) -> None:
        self.plan, self.connection, self.history, self.at_once = plan, connection, history, at_once
        self._made: set[int] = set()

    def cells_query(self, day: int, rows: str | None = None) -> str:
        """Return SQL of the cells of `rows` (the history) for periods that start on `day`: one row a cell."""
        plan = self.plan
        aggregated = plan.rows.group_by("customer_id", "p", "v", "s").aggregate(
            **{name: partial.node.to_expr() for partial, name in plan.partials.items()}
        )
        happened, known, replaced = (period(c, day) for c in ("event_on", "known_on", "superseded_on"))
        source = (
            f"SELECT *, {happened} AS p, greatest({happened}, {known}) AS v, coalesce({replaced}, {NEVER}) AS s"
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

    def compose(self, observed: str) -> None:
        """Make the table composed_<subject>: (customer_id, as_of, one column a demand) for rows of `observed`.

        Only observations that see a row of the subject at all are in it.
        """
        plan, made = self.plan, False
        name = plan.made
        self.connection.execute(f'DROP TABLE IF EXISTS "{name}"')
        for batch in self._batches(observed):
            self.connection.register("composed_batch", batch)
            source = f"SELECT * FROM composed_batch WHERE {plan.demands[plan.presence]} > 0"
            insert = f'INSERT INTO "{name}"' if made else f'CREATE TEMP TABLE "{name}" AS'
            self.connection.execute(f"{insert} {self._with_rows(source)}")
            self.connection.unregister("composed_batch")
            made = True

    def _with_rows(self, source: str) -> str:
        """Read columns of the rows that `row` demands found."""
        found = [(demand, name) for demand, name in self.plan.demands.items() if demand.read == "row"]
        if not found:
            return source
        read = ", ".join(f'h_{name}."{demand.column}" AS {name}' for demand, name in found)
        joins = " ".join(
            f"LEFT JOIN {self.history} h_{name} ON h_{name}.customer_id = b.customer_id AND h_{name}.row_order = b.{name}"
            for _, name in found
        )
        return f"SELECT b.* REPLACE ({read}) FROM ({source}) b {joins}"

    def _batches(self, observed: str) -> Iterator[pa.Table]:
        month = f"date_diff('month', {DAY_ZERO}, as_of)"
        asked = self.connection.execute(
            f"SELECT customer_id, as_of, day(as_of) AS day, {month} AS month FROM {observed}"
            " WHERE customer_id IS NOT NULL ORDER BY day, month, customer_id"
        ).fetchnumpy()
        made = False
        for day in np.unique(asked["day"]):
            on_day = asked["day"] == day
            asked_here = {name: np.asarray(column)[on_day] for name, column in asked.items()}
            for batch in self._of_day(int(day), asked_here):
                made = True
                yield batch
        if not made:
            yield self._table(np.zeros(0, np.int32), np.zeros(0, "datetime64[D]"), {})

    def _of_day(self, day: int, asked: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        """Compose the dates of one day of the month, a range of customers at a time."""
        cells = self._cells(day)
        low, high, customers = self.connection.execute(
            f"SELECT min(p), max(p), max(customer_id) FROM {cells}"
        ).fetchone()
        if low is None:
            return
        customers = max(customers, int(asked["customer_id"].max()))
        width = max(1, self.at_once // ((high - low + 1) * max(1, len(self.plan.partials))))
        for first in range(0, customers + 1, width):
            inside = (asked["customer_id"] >= first) & (asked["customer_id"] < first + width)
            if inside.any():
                table = self.connection.execute(
                    f"SELECT * FROM {cells} WHERE customer_id >= {first} AND customer_id < {first + width}"
                ).to_arrow_table()
                count = min(width, customers + 1 - first)
                yield from self._compose(table, low, high, first, count, {k: a[inside] for k, a in asked.items()})

    def _compose(
        self, cells: pa.Table, low: int, high: int, first: int, customers: int, asked: dict[str, np.ndarray]
    ) -> Iterator[pa.Table]:
        who = cells["customer_id"].to_numpy() - first
        p, v, s = (cells[name].to_numpy() for name in "pvs")
        late = (v > p) | (s < NEVER)
        on_time = np.flatnonzero(~late)
        late = np.flatnonzero(late)
        place = (p[on_time] - low) * customers + who[on_time]
        shape = (high - low + 1, customers)
        grids = {
            partial: _grid(partial.kind, cells[name], shape, place, on_time, late)
            for partial, name in self.plan.partials.items()
        }
        scales = {partial: cells[name].type for partial, name in self.plan.partials.items()}
        who, p, v, s = who[late], p[late], v[late], s[late]
        ever: dict[Partial, Any] = {}
        months, at = np.unique(asked["month"], return_index=True)
        reached = 0
        for number, month in enumerate(months):
            rows = slice(at[number], at[number + 1] if number + 1 < len(at) else None)
            chosen, as_of = asked["customer_id"][rows], asked["as_of"][rows]
            end = int(np.clip(month - low, 0, shape[0]))
            seen = (v < month) & (s >= month)
            values = {}
            for partial, windows in self._windows().items():
                grid = grids[partial]
                if None in windows:
                    ever.setdefault(partial, grid.start(customers))
                    grid.add(ever[partial], reached, end)
                running, begin = grid.start(customers), end
                for window in windows:
                    if window is None:
                        total, visible = ever[partial], seen
                    else:
                        start = int(np.clip(month - low - window, 0, shape[0]))
                        grid.add(running, start, begin)
                        total, begin, visible = running, start, seen & (p >= month - window)
                    if visible.any():
                        total = ([part.copy() for part in total[0]], None if total[1] is None else total[1].copy())
                        grid.lay(total, who, visible)
                    taken = chosen - first
                    values[partial, window] = (
                        [part[taken] for part in total[0]],
                        None if total[1] is None else total[1][taken],
                    )
            reached = end
            yield self._table(chosen, as_of, values, int(month), scales)

    def _windows(self) -> dict[Partial, list[int | None]]:
        """Return the windows in which each partial is wanted, short ones first."""
        wanted: dict[Partial, set[int | None]] = {}
        for demand in self.plan.demands:
            wanted.setdefault(demand.partial, set()).add(demand.window)
        return {partial: sorted(windows, key=lambda k: (k is None, k)) for partial, windows in wanted.items()}

    def _table(
        self, customers: np.ndarray, as_of: np.ndarray, values: dict, month: int = 0, scales: dict | None = None
    ) -> pa.Table:
        days = as_of.astype("datetime64[D]")
        columns: dict[str, Any] = {
            "customer_id": pa.array(customers.astype(np.int32)),
            "as_of": pa.array(days, pa.date32()),
        }
        back = {"days": int(days[0].astype(np.int64)) if len(days) else 0, "months": month}
        for demand, name in self.plan.demands.items():
            if values:
                kind = _arrow(demand)
                if pa.types.is_decimal(kind) and scales is not None:  # the scale that the engine gave, not Ibis's guess
                    kind = scales[demand.partial]
                columns[name] = _column(demand, kind, *values[demand.partial, demand.window], back)
            else:
                columns[name] = pa.nulls(0, _arrow(demand))
        return pa.table(columns)


def _grid(
    kind: str, column: pa.ChunkedArray, shape: tuple[int, int], place: np.ndarray, on_time: np.ndarray, late: np.ndarray
) -> Grid:
    """Lay one column of cells out."""
    known = None
    if kind == "sum" or column.null_count:
        known = ~column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(column.type):
        upper, lower = halves(column)
        if known is not None:
            upper, lower = np.where(known, upper, 0), np.where(known, lower, 0)
        largest = (int(np.abs(upper).max(initial=0)) + 1) << 32
        fits = kind != "sum" or largest * (shape[0] + len(late)) < FITS
        parts = [(upper << 32) | lower] if fits else [upper, lower]
    else:
        parts = [column.fill_null(0).to_numpy() if not pa.types.is_date(column.type) else _days(column)]
        parts = [part if part.dtype == np.float64 else part.astype(np.int64) for part in parts]
    if kind in ("min", "max") and known is not None:
        parts = [np.where(known, part, _nothing(kind, part.dtype)) for part in parts]
    cells = []
    for part in parts:
        laid = np.full(shape[0] * shape[1], _nothing(kind, part.dtype), part.dtype)
        laid[place] = part[on_time]
        cells.append(laid.reshape(shape))
    if kind != "sum" or known is None:
        return Grid(kind, cells, None, [part[late] for part in parts], None)
    laid = np.zeros(shape[0] * shape[1], np.bool_)
    laid[place] = known[on_time]
    return Grid(kind, cells, laid.reshape(shape), [part[late] for part in parts], known[late])


def _days(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.int32()).fill_null(0).to_numpy()


def _arrow(demand: Demand) -> pa.DataType:
    if demand.read == "row":
        return pa.int64()
    return demand.type.to_pyarrow()


def _column(
    demand: Demand, kind: pa.DataType, parts: list[np.ndarray], known: np.ndarray | None, back: dict[str, int]
) -> pa.Array:
    """Return one composed column as what the formula reads."""
    if demand.partial.kind in ("min", "max"):
        known = parts[0] != _nothing(demand.partial.kind, parts[0].dtype)
    if pa.types.is_decimal(kind):
        upper, lower = (parts[0] >> 32, parts[0] & LOW) if len(parts) == 1 else parts
        return decimals(upper, lower, kind, known)
    value = parts[0] if len(parts) == 1 else (parts[0] << 32) + parts[1]
    if demand.read in back:
        value = back[demand.read] - value
    if demand.read == "values":
        value = np.bitwise_count(value)
    mask = None if known is None else ~known
    if pa.types.is_date(kind):
        return pa.array(np.where(known, value, 0).astype(np.int32), pa.int32(), mask=mask).cast(kind)
    if known is not None and value.dtype != np.float64:
        value = np.where(known, value, 0)
    return pa.array(value, mask=mask).cast(kind)
