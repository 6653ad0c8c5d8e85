"""Which formulas decompose: the partial aggregates that a cell must hold, and the formula upon sums over cells.

A formula is read as the Ibis expression that it is. Each of its reductions (sum, count, minimum, maximum, different
values of a category, newest value) over rows of the last k months becomes a partial aggregate of a cell and a window;
what a reduction says about the row alone stays inside the cell. One that needs its rows one by one (a quantile, a
trend) leaves its formula to the direct join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops

from features.definition import Formula, Subject

MOST_VALUES = 62  # of a category, for a set of its values to fit one whole number
TIME = {"months_before", "days_before", "as_of", "as_of_month", "as_of_day", "as_of_number", "p", "v", "s"}
BACK = {"days_before": "event_number", "months_before": "p"}  # what a distance back from as_of is measured to
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
    read: str = "plain"  # plain, values (how many of a set), days or months (back from as_of), row
    type: dt.DataType = field(default_factory=lambda: dt.int64)
    column: str = ""  # of `row`: what is read of the row found


class Plan:
    """What of a subject's formulas decomposes: the partials of a cell, the demands, and each formula upon them."""

    def __init__(self, subject: Subject, formulas: Mapping[str, Formula], values: Values) -> None:
        assert subject.history is not None
        self.subject, self.months, self._values = subject, subject.history.months, values
        schema = {**dict(subject.rows.schema().items()), **dict.fromkeys("pvs", "int32")}
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
                {node: self.composed[self.demands[demand]].op() for node, demand in found.items()}
            ).to_expr()
            for name, found in rewritten.items()
        }  # fmt: skip

    def _demand(self, node: ops.Node) -> Demand:
        """Read one reduction as a partial over a window; raise Whole where it is none."""
        if isinstance(node, ops.CountStar) and node.where is None:
            return Demand(Partial("count", node), self.months)
        arg, where = getattr(node, "arg", None), getattr(node, "where", None)
        counted = isinstance(node, ops.Sum) and where is None and _condition(arg)
        window, local = self._window(_condition(arg) if counted else where)
        if counted:
            return Demand(Partial("count", ops.CountStar(self.rows.op(), where=local)), window, "plain")
        if isinstance(node, ops.ArgMax):
            if not isinstance(arg, ops.Field) or not (isinstance(node.key, ops.Field) and node.key.name == "row_order"):
                raise Whole
            found = ops.Max(node.key, where=local)
            return Demand(Partial("max", found), window, "row", node.dtype, arg.name)
        if isinstance(node, (ops.Min, ops.Max)) and isinstance(arg, ops.Field) and arg.name in BACK:
            column = self.rows[BACK[arg.name]].op()
            turned = (ops.Max if isinstance(node, ops.Min) else ops.Min)(column, where=local)
            read = arg.name.removesuffix("_before")
            return Demand(Partial("max" if isinstance(node, ops.Min) else "min", turned), window, read, node.dtype)
        if arg is None or _uses_time(arg):
            raise Whole
        if isinstance(node, ops.CountDistinct) and isinstance(arg, ops.Field):
            return Demand(Partial("set", self._set(arg, local)), window, "values")
        kinds = {ops.Sum: "sum", ops.Count: "count", ops.Min: "min", ops.Max: "max"}
        kind = kinds.get(type(node))
        if kind is None or not _held(node.dtype, kind):
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


def _held(type_: dt.DataType, kind: str) -> bool:
    """Return whether partials of this kind and type are exact whole numbers, dates, or lowest and highest doubles."""
    if kind == "count":
        return True
    if type_.is_decimal():
        return kind == "sum" or (type_.precision or 38) <= 18
    return type_.is_integer() or (kind != "sum" and (type_.is_floating() or type_.is_date()))
