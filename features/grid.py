"""Cells laid out as arrays, and windows put together from them: exact whole numbers, minima, maxima and sets.

Rows are added to their cells one batch after the other, straight into arrays (period x customer). Sums are 64-bit whole
numbers where no customer's total can pass 62 bits, else three words. A minimum or maximum of nothing is the type's own
end; a sum of nothing is told by the count of what it sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis.expr.operations as ops
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.partials import SHIFTED, Demand, Partial, Window

SPARE = 3  # months of room for what comes later, so that a further month moves nothing
FITS = 1 << 62
NEVER = 1 << 30  # the period in which a row that was never restated is replaced
SHORT = 10**17  # money below it is held as DECIMAL(18): room for one addition
LOW = np.int64(0xFFFFFFFF)

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_] | None
Rows = Mapping[ops.Node, tuple[Array, Mask]]  # the columns of rows: value, and where it is known (None: everywhere)
JOIN: dict[str, np.ufunc] = {
    "sum": np.add, "count": np.add, "min": np.minimum, "max": np.maximum, "set": np.bitwise_or
}  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """What is known of a history before its rows are read: periods, identifiers, rows a customer, ends of columns."""

    low: int
    high: int
    last: int  # customer
    rows: int  # of the customer with most
    largest: Mapping[ops.Node, int]  # absolute, of whole numbers
    complete: frozenset[ops.Node]  # never null

    def of(self, partial: Partial) -> int:
        """Return the largest absolute total that a customer can have."""
        most = self.rows
        for value in partial.values if partial.kind == "sum" else ():
            most *= self.largest[value]
        return most

    def counting(self, partial: Partial) -> Partial:
        """Return the partial that counts the rows which a sum, or a count, is over."""
        values = tuple(value for value in dict.fromkeys(partial.values) if value not in self.complete)
        return Partial("count", values, partial.where)

    def held(self, partial: Partial) -> tuple[Partial, ...]:
        """Return what cells hold for a partial: a sum comes with the count of what it sums."""
        if partial.kind == "sum":
            return partial, self.counting(partial)
        return (self.counting(partial) if partial.kind == "count" else partial,)

    def joined(self, other: Bounds) -> Bounds:
        """Return the bounds of both histories together."""
        return Bounds(
            min(self.low, other.low),
            max(self.high, other.high),
            max(self.last, other.last),
            self.rows + other.rows,
            {node: max(most, other.largest[node]) for node, most in self.largest.items()},
            self.complete & other.complete,
        )


def _nothing(kind: str, dtype: Any) -> Any:
    if kind in ("sum", "count", "set"):
        return 0
    if dtype == np.float64:
        return np.inf if kind == "min" else -np.inf
    return np.iinfo(dtype).max if kind == "min" else np.iinfo(dtype).min


class Cells:
    """Arrays of `slots` cells for each of some partials; one more slot takes what is to be thrown away."""

    def __init__(self, partials: Sequence[Partial], bounds: Bounds, slots: int) -> None:
        self.bounds, self.slots = bounds, slots
        held = dict.fromkeys(own for partial in partials for own in bounds.held(partial))
        self.parts = {partial: _empty(partial, bounds, slots + 1) for partial in held}

    def add(self, rows: Rows, place: Array, seen: dict[Partial, Array] | None = None) -> None:
        """Add rows to the cells at `place`; sets of categories go to `seen` (category x slot), if given."""
        chosen: dict[Partial, tuple[Array, Mask]] = {}
        for partial, parts in self.parts.items():
            key = self.bounds.counting(partial)
            if key not in chosen:
                chosen[key] = _chosen(rows, key, place)
            at, mask = chosen[key]
            values = [rows[value][0] if mask is None else rows[value][0][mask] for value in partial.values]
            if partial.kind == "count":
                _count(parts[0], at)
            elif partial.kind == "set" and seen is not None:
                seen[partial][at + (values[0].astype(np.int64) - 1) * (self.slots + 1)] = True
            elif partial.kind == "set":
                np.bitwise_or.at(parts[0], at, np.int64(1) << (values[0].astype(np.int64) - 1))
            elif len(parts) == 1:
                value = values[0] if len(values) == 1 else values[0] * values[1]
                JOIN[partial.kind].at(parts[0], at, value.astype(parts[0].dtype, copy=False))
            else:
                for part, word in zip(parts, words_of(*values), strict=True):
                    np.add.at(part, at, word)

    def can_hold(self, bounds: Bounds) -> bool:
        """Return whether totals within other bounds are laid out as these are."""
        held = {own for partial in self.parts for own in bounds.held(partial)}
        return held == set(self.parts) and all(len(self.parts[p]) == _words(p, bounds) for p in held)

    def unseen(self) -> dict[Partial, Array]:
        """Return empty marks (category x slot) for `add`; `packed` takes them in."""
        size = self.slots + 1
        return {p: np.zeros(len(p.categories) * size, np.bool_) for p in self.parts if p.kind == "set"}

    def packed(self, seen: dict[Partial, Array]) -> None:
        """Take marked categories in as sets."""
        for partial, marks in seen.items():
            for at, mark in enumerate(marks.reshape(len(partial.categories), -1)):
                self.parts[partial][0] |= mark.astype(np.int64) << at


def _words(partial: Partial, bounds: Bounds) -> int:
    return 3 if partial.kind == "sum" and bounds.of(partial) >= FITS else 1


def _empty(partial: Partial, bounds: Bounds, size: int) -> list[Array]:
    """Return what a partial says of no rows, `size` times."""
    floating = partial.kind in ("min", "max") and partial.values[0].dtype.is_floating()
    kind = np.float64 if floating else np.int64
    nothing = _nothing(partial.kind, kind)
    words = range(_words(partial, bounds))
    return [np.full(size, nothing, kind) if nothing else np.zeros(size, kind) for _ in words]


def _count(into: Array, at: Array) -> None:
    """Add 1 at each place."""
    if len(at) * 4 >= len(into):
        into += np.bincount(at, minlength=len(into))
    else:
        np.add.at(into, at, np.ones(len(at), np.int64))


def _chosen(rows: Rows, key: Partial, place: Array) -> tuple[Array, Mask]:
    """Return the places of the rows that a partial is over, and which rows they are (None: all)."""
    mask: Mask = None
    for value in key.values:
        known = rows[value][1]
        if known is not None:
            mask = known if mask is None else mask & known
    if key.where is not None:
        held, known = rows[key.where]
        held = held if known is None else held & known
        mask = held if mask is None else mask & held
    return (place, None) if mask is None else (place[mask], mask)


def words_of(value: Array, times: Array | None = None) -> list[Array]:
    """Return whole numbers, or products of two, as (high, middle, low): high * 2**64 + middle * 2**32 + low."""
    if times is None:
        return [value >> 63, (value >> 32) & LOW, value & LOW]
    a1, a0, b1, b0 = value >> 32, value & LOW, times >> 32, times & LOW
    lowest = a0.astype(np.uint64) * b0.astype(np.uint64)
    cross = (a0 * b1, a1 * b0)
    middle = (lowest >> np.uint64(32)).astype(np.int64) + (cross[0] & LOW) + (cross[1] & LOW)
    high = a1 * b1 + (cross[0] >> 32) + (cross[1] >> 32) + (middle >> 32)
    return [high, middle & LOW, (lowest & np.uint64(LOW)).astype(np.int64)]


def carried(parts: Sequence[Array]) -> list[Array]:
    """Return words of which the middle and the low one lie in [0, 2**32)."""
    high, middle, low = parts
    middle = middle + (low >> 32)
    return [high + (middle >> 32), middle & LOW, low & LOW]


@dataclass
class Laid:
    """Cells of a range of customers for periods from `low` on, and the rows that came late or were restated."""

    low: int
    periods: int
    customers: int
    cells: Cells
    late: Rows
    who: Array  # of late rows: customer, and the periods happened, counted from, replaced
    p: Array
    v: Array
    s: Array
    waiting: Array  # late rows, never replaced, that are not yet among the cells
    reached: int  # dates before this month can no longer be composed

    @classmethod
    def empty(cls, partials: Sequence[Partial], bounds: Bounds, customers: int) -> Laid:
        """Return cells without rows."""
        periods = bounds.high - bounds.low + 1 + SPARE
        no = np.zeros(0, np.int64)
        cells = Cells(partials, bounds, periods * customers)
        return cls(bounds.low, periods, customers, cells, {}, no, no, no, no, np.zeros(0, np.bool_), 0)

    def grow(self, bounds: Bounds) -> None:
        """Make room for the periods of other bounds (that begin no earlier)."""
        more = bounds.high - self.low + 1 - self.periods
        self.cells.bounds = bounds
        if more > 0:
            more += SPARE
            self.periods += more
            self.cells.slots += more * self.customers
            for partial, parts in self.cells.parts.items():
                new = _empty(partial, bounds, more * self.customers + 1)
                self.cells.parts[partial] = [np.concatenate([a[:-1], b]) for a, b in zip(parts, new, strict=True)]

    def put_aside(self, rows: Rows, late: Array, who: Array, p: Array, v: Array, s: Array) -> None:
        """Keep the `late` ones of these rows as rows."""
        some = {n: (x[late], np.ones(len(p), np.bool_)[late] if k is None else k[late]) for n, (x, k) in rows.items()}
        if self.late:
            some = {
                n: (np.concatenate([self.late[n][0], x]), np.concatenate([_known(self.late[n]), _known((x, k))]))
                for n, (x, k) in some.items()
            }
        self.late = some
        new = [part[late].astype(np.int64) for part in (who, p, v, s)]
        old = (self.who, self.p, self.v, self.s)
        self.who, self.p, self.v, self.s = (np.concatenate(pair) for pair in zip(old, new, strict=True))
        self.waiting = np.concatenate([self.waiting, new[3] == NEVER])

    def advance(self, month: int) -> tuple[Array, Rows]:
        """Put late rows that dates from `month` on see into their cells; return which, and their columns."""
        ready = np.flatnonzero(self.waiting & (self.v < month))
        self.reached = max(self.reached, month)
        rows = _some(self.late, ready)
        if len(ready):
            self.waiting[ready] = False
            self.cells.add(rows, (self.p[ready] - self.low) * self.customers + self.who[ready])
        return ready, rows

    def restated(self, month: int, window: Window, partials: Iterable[Partial]) -> Cells | None:
        """Return, by customer, what a date sees in a window of the rows that are replaced some day."""
        first, last = window
        seen = (self.s < NEVER) & (self.v < month) & (self.s >= month) & (self.p <= month - first)
        if last is not None:
            seen &= self.p >= month - last
        if not seen.any():
            return None
        made = Cells(list(partials), self.cells.bounds, self.customers)
        made.add(_some(self.late, seen), self.who[seen])
        return made


class Running:
    """Windows of one date after the other, each from the shorter one; all that ever happened is carried on."""

    def __init__(self, laid: Laid, forever: Iterable[Partial]) -> None:
        self.laid, self.month, self.done = laid, 0, 0
        self.ever = Cells(list(forever), laid.cells.bounds, laid.customers)
        self.shorter: dict[Partial, tuple[list[Array], int]] = {}

    def start(self, month: int) -> None:
        """Go on to a later date."""
        ready, rows = self.laid.advance(month)
        before = self.laid.p[ready] < self.laid.low + self.done
        if before.any():
            self.ever.add(_some(rows, before), self.laid.who[ready][before])
        end = int(np.clip(month - self.laid.low, 0, self.laid.periods))
        for partial, parts in self.ever.parts.items():
            self._take_in(partial, [part[:-1] for part in parts], self.done, end)
        self.month, self.done = month, max(end, self.done)
        self.shorter = {}

    def window(self, window: Window, partials: Iterable[Partial]) -> dict[Partial, list[Array]]:
        """Return what a window holds, by customer: valid until the next call."""
        first, last = window
        laid = self.laid
        end = int(np.clip(self.month - laid.low - first + 1, 0, laid.periods))
        start = 0 if last is None else min(end, int(np.clip(self.month - laid.low - last, 0, laid.periods)))
        over = laid.restated(self.month, window, partials)
        found = {}
        for partial in partials:
            if window == (1, None):
                parts = [part[:-1] for part in self.ever.parts[partial]]
            else:
                none = _empty(partial, laid.cells.bounds, laid.customers)
                parts, begun = self.shorter.get(partial, (none, end)) if first == 1 else (none, end)
                self._take_in(partial, parts, start, begun)
                if first == 1:
                    self.shorter[partial] = parts, start
            if over is not None:
                pairs = zip(parts, over.parts[partial], strict=True)
                parts = [JOIN[partial.kind](part, more[:-1]) for part, more in pairs]
            found[partial] = parts
        return found

    def _take_in(self, partial: Partial, into: list[Array], first: int, past_last: int) -> None:
        """Take the periods [first, past_last) in."""
        width = self.laid.customers
        for part, cells in zip(into, self.laid.cells.parts[partial], strict=True):
            for at in range(first, past_last):
                JOIN[partial.kind](part, cells[at * width : (at + 1) * width], out=part)


def _known(column: tuple[Array, Mask]) -> Array:
    return np.ones(len(column[0]), np.bool_) if column[1] is None else column[1]


def _some(rows: Rows, chosen: Array) -> Rows:
    return {node: (v[chosen], None if known is None else known[chosen]) for node, (v, known) in rows.items()}


@dataclass
class Total:
    """What a window holds for each customer; of a sum also the number of its rows."""

    parts: list[Array]
    known: Array | None

    def wide(self) -> list[Array]:
        """Return it as words."""
        return carried(self.parts) if len(self.parts) == 3 else words_of(self.parts[0])


def combined(totals: Sequence[Total], factors: Sequence[int]) -> list[Array]:
    """Return sum(factor * total), as one whole number where it fits 62 bits, else as words."""
    if len(totals) == 1 and factors[0] == 1:
        return totals[0].parts
    single = all(len(total.parts) == 1 for total in totals)
    if single and sum(abs(f) * _largest(t.parts[0]) for f, t in zip(factors, totals, strict=True)) < FITS:
        return [np.sum([f * total.parts[0] for f, total in zip(factors, totals, strict=True)], axis=0)]
    words = [np.zeros(len(totals[0].parts[0]), np.int64) for _ in range(3)]
    for factor, total in zip(factors, totals, strict=True):
        high, low = divmod(factor, 1 << 16)  # a word times 16 bits, so that nothing passes 63
        parts = total.wide()
        scaled = carried([part * low for part in parts])
        if high:
            assert abs(high) < 1 << 24  # days since 1970, squared
            upper = carried([part * high for part in parts])
            upper = carried([part << 16 for part in upper])
            scaled = [a + b for a, b in zip(scaled, upper, strict=True)]
        words = carried([a + b for a, b in zip(words, scaled, strict=True)])
    return words


def _largest(part: Array) -> int:
    return max(int(part.max(initial=0)), -int(part.min(initial=0)))


def column_of(demand: Demand, totals: Sequence[Total], back: Mapping[str, int], bounds: Bounds) -> pa.Array:
    """Return one composed column as what the formula reads; `back` says where distances are measured from."""
    partial, known = demand.terms[0], totals[0].known
    kind = pa.int64() if demand.read == "row" else demand.type.to_pyarrow()
    factors = SHIFTED.get(demand.read, SHIFTED["plain"])(back["days"])
    parts = combined(totals, factors)
    valid: Array | None = None
    if partial.kind in ("min", "max"):
        valid = parts[0] != _nothing(partial.kind, parts[0].dtype)
    elif partial.kind == "sum":
        assert known is not None
        valid = known > 0
    most = sum(abs(f) * bounds.of(term) for f, term in zip(factors, demand.terms, strict=True))
    if pa.types.is_decimal(kind) and (partial.kind in ("min", "max") or (len(parts) == 1 and most < SHORT)):
        return _buffered(parts[0], pa.decimal64(18, kind.scale), valid)
    if pa.types.is_decimal(kind) or (partial.kind == "sum" and len(parts) > 1):
        kind = kind if pa.types.is_decimal(kind) else pa.decimal128(38, 0)
        high, middle, low = carried(parts) if len(parts) > 1 else words_of(parts[0])
        words = np.empty((len(high), 2), np.int64)
        words[:, 0], words[:, 1] = (middle << 32) | low, high
        return _buffered(words, kind, valid)
    value = parts[0]
    if demand.read in back:
        value = back[demand.read] - value
    if demand.read == "values":
        value = np.bitwise_count(value)
    if pa.types.is_date(kind):
        value = value.astype(np.int32)
    if valid is not None and value.dtype != np.float64:
        value = np.where(valid, value, 0)
    return pa.array(value, mask=None if valid is None else ~valid).cast(kind)


def _buffered(value: Array, kind: pa.DataType, valid: Array | None) -> pa.Array:
    bits = None if valid is None else pa.array(valid).buffers()[1]
    return pa.Array.from_buffers(kind, len(value), [bits, pa.py_buffer(np.ascontiguousarray(value))])
