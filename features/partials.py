"""Which formulas decompose: the partial aggregates that a cell must hold, and the formula upon sums over cells.

A formula is read as the Ibis expression that it is. Each of its reductions (sum, sum of products, count, minimum,
maximum, different values of a category, newest value) over rows of some of the last months becomes partial aggregates
of a cell and a window; what a reduction says about the row alone stays inside the cell. Days before as_of inside a sum
(a trend) become days since a fixed day, and as_of comes in afterwards. One that needs its rows one by one (a quantile)
leaves its formula to the direct join.
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
Window = tuple[int, int | None]  # the first and last month back; None: ever


class Whole(Exception):
    """The expression needs its rows one by one: it does not decompose."""


@dataclass(frozen=True)
class Partial:
    """One aggregate of a cell: count, sum (of one value or the product of two), min, max, or the set of categories."""

    kind: str
    values: tuple[ops.Node, ...] = ()  # of a count: what must be known
    where: ops.Node | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demand:
    """Partials over a window, and how they are read: as they are, counted, or with the distance to as_of."""

    terms: tuple[Partial, ...]
    window: Window
    read: str = "plain"  # plain, values (how many of a set), days or months (back from as_of), row, or a key of SHIFTED
    type: dt.DataType = field(default_factory=lambda: dt.int64)
    column: str = ""  # of `row`: what is read of the row found


# sums in days before as_of (a: as_of in days, e: the event): the factors of each demand's terms
SHIFTED: dict[str, Callable[[int], tuple[int, ...]]] = {
    "plain": lambda _: (1,),
    "distance": lambda a: (-1, a),  # of sum(y * e), sum(y)
    "square": lambda a: (1, -2 * a, a * a),  # of sum(e * e), sum(e), count
}


class Plan:
    """What of a subject's formulas decomposes: the partials of a cell, the demands, and each formula upon them.

    `columns` names what is read of every row; `composed` has one column a demand, and `formulas` read it.
    """

    def __init__(self, subject: Subject, formulas: Mapping[str, Formula], values: Values) -> None:
        assert subject.history is not None
        self.subject, self._values = subject, values
        self.months: Window = (1, subject.history.months)
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
        self.presence = Demand((Partial("count"),), self.months)
        self.demands.setdefault(self.presence, f"d{len(self.demands)}")
        self.partials = tuple(dict.fromkeys(partial for demand in self.demands for partial in demand.terms))
        read = [node for partial in self.partials for node in (*partial.values, partial.where) if node is not None]
        self.columns = {node: f"x{at}" for at, node in enumerate(dict.fromkeys(read))}
        columns = {name: demand.type for demand, name in self.demands.items()}
        keys = {"customer_id": "int32", "as_of": "date", "place": "int64"}
        self.composed = ibis.table({**keys, **columns}, name=f"panel_{subject.name}")
        self.formulas = {
            name: expressions[name].op().replace(
                {node: self.composed[self.demands[demand]].op() for node, demand in found.items()}
            ).to_expr()
            for name, found in rewritten.items()
        }  # fmt: skip

    def _demand(self, node: ops.Node) -> Demand:
        """Read one reduction as partials over a window; raise Whole where it is none."""
        if isinstance(node, ops.CountStar) and node.where is None:
            return Demand((Partial("count"),), self.months)
        arg, where = getattr(node, "arg", None), getattr(node, "where", None)
        counted = isinstance(node, ops.Sum) and where is None and _condition(arg)
        window, local = self._window(_condition(arg) if counted else where)
        if counted or isinstance(node, ops.CountStar):
            return Demand((Partial("count", (), local),), window)
        if isinstance(node, ops.ArgMax):
            if not isinstance(arg, ops.Field) or not (isinstance(node.key, ops.Field) and node.key.name == "row_order"):
                raise Whole
            return Demand((Partial("max", (node.key,), local),), window, "row", node.dtype, arg.name)
        if isinstance(node, (ops.Min, ops.Max)) and isinstance(arg, ops.Field) and arg.name in BACK:
            turned = Partial("max" if isinstance(node, ops.Min) else "min", (self.rows[BACK[arg.name]].op(),), local)
            return Demand((turned,), window, arg.name.removesuffix("_before"), node.dtype)
        if isinstance(node, ops.Sum):
            return self._sum(node, window, local)
        if arg is None or _uses_time(arg):
            raise Whole
        if isinstance(node, ops.CountDistinct) and isinstance(arg, ops.Field):
            return Demand((self._set(arg, local),), window, "values")
        if isinstance(node, ops.Count):
            return Demand((Partial("count", (arg,), local),), window)
        kinds = {ops.Min: "min", ops.Max: "max"}
        if type(node) not in kinds or not (_whole_number(arg) or arg.dtype.is_floating() or arg.dtype.is_date()):
            raise Whole
        return Demand((Partial(kinds[type(node)], (arg,), local),), window, "plain", node.dtype)

    def _sum(self, node: ops.Sum, window: Window, local: ops.Node | None) -> Demand:
        """Read a sum of whole numbers, of products of two, or of either times days before as_of."""
        factors = _factors(node.arg)
        own = tuple(factor for factor in factors if not _is_days(factor))
        if len(factors) > 2 or any(_uses_time(factor) or not _whole_number(factor) for factor in own):
            raise Whole
        scale = sum(factor.dtype.scale for factor in own if factor.dtype.is_decimal())
        kind = dt.Decimal(38, scale) if any(factor.dtype.is_decimal() for factor in own) else dt.int64
        if len(own) == len(factors):
            return Demand((Partial("sum", own, local),), window, "plain", kind)
        event = self.rows["event_number"].op()
        terms: tuple[Partial, ...]
        if len(own) == 1:
            terms, read = (Partial("sum", (own[0], event), local), Partial("sum", own, local)), "distance"
        elif len(factors) == 1:
            terms, read = (Partial("sum", (event,), local), Partial("count", (), local)), "distance"
        else:
            once, rows = Partial("sum", (event,), local), Partial("count", (), local)
            terms, read = (Partial("sum", (event, event), local), once, rows), "square"
        return Demand(terms, window, read, kind)

    def _set(self, arg: ops.Field, local: ops.Node | None) -> Partial:
        """Return the set of a category's values; raise Whole where they are too many for one whole number."""
        values = tuple(self._values(arg.name)) if arg.dtype.is_string() else ()
        if not values or len(values) > MOST_VALUES:
            raise Whole
        return Partial("set", (arg,), local, values)

    def _window(self, where: ops.Node | None) -> tuple[Window, ops.Node | None]:
        """Split a condition into a window of months and what it says about the row alone."""
        (first, last), local = self.months, None
        for part in _conjuncts(where):
            if not _uses_time(part):
                local = part if local is None else ops.And(local, part)
                continue
            low, high = _months(part)
            first = max(first, low)
            last = high if last is None else last if high is None else min(last, high)
        return (first, last), local


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


def _is_days(node: ops.Node) -> bool:
    return isinstance(node, ops.Field) and node.name == "days_before"


def _factors(arg: ops.Node) -> list[ops.Node]:
    """Return the factors of a product, or the value itself, without casts that change no whole number."""
    arg = _bare(arg)
    return [_bare(arg.left), _bare(arg.right)] if isinstance(arg, ops.Multiply) else [arg]


def _bare(node: ops.Node) -> ops.Node:
    while isinstance(node, ops.Cast):
        source, to = node.arg.dtype, node.to
        same = to.is_decimal() and (
            (source.is_decimal() and source.scale is not None and source.scale == to.scale)
            or (source.is_integer() and to.scale == 0)
        )
        if not same and not (source.is_integer() and to.is_integer()):
            return node
        node = node.arg
    return node


def _months(part: ops.Node) -> Window:
    """Return the window that a condition on months_before states; raise Whole where it states none."""
    match part:
        case ops.LessEqual(ops.Field(name="months_before"), ops.Literal(value=k)):
            return 1, int(k)
        case ops.Less(ops.Field(name="months_before"), ops.Literal(value=k)):
            return 1, int(k) - 1
        case ops.Between(ops.Field(name="months_before"), ops.Literal(value=low), ops.Literal(value=k)):
            return max(1, int(low)), int(k)
        case ops.Equals(ops.Field(name="months_before"), ops.Literal(value=k)):
            return max(1, int(k)), int(k)
        case ops.GreaterEqual(ops.Field(name="months_before"), ops.Literal(value=k)):
            return max(1, int(k)), None
        case ops.Greater(ops.Field(name="months_before"), ops.Literal(value=k)):
            return max(1, int(k) + 1), None
    raise Whole


def _whole_number(node: ops.Node) -> bool:
    """Return whether a value is a whole number of 64 bits, or money as one."""
    kind = node.dtype
    return kind.is_integer() or (kind.is_decimal() and kind.scale is not None and (kind.precision or 38) <= 18)
