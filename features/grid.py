"""Cells laid out as arrays, and dates put together from them: exact whole numbers, minima, maxima and sets.

Sums of DECIMAL are held as 64-bit whole numbers, or in three words where a customer's total could pass 62 bits. A
minimum or maximum of nothing is the type's own end; a sum of nothing is told by `known`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.partials import Demand, Partial, Plan

NEVER = 1 << 30  # the period in which a row that was never restated is replaced
FITS = 1 << 62
LOW = np.int64(0xFFFFFFFF)


@dataclass
class Total:
    """What a window holds for each customer."""

    parts: list[np.ndarray]
    known: np.ndarray | None

    def copy(self) -> Total:
        """Return one that can be added to."""
        return Total([part.copy() for part in self.parts], None if self.known is None else self.known.copy())

    def take(self, chosen: np.ndarray) -> Total:
        """Return that of some customers (places or a mask)."""
        return Total([part[chosen] for part in self.parts], None if self.known is None else self.known[chosen])


@dataclass
class Laid:
    """Cells of a range of customers: a grid for each partial from the period `low` on, and what came late."""

    low: int
    periods: int
    customers: int
    grids: dict[Partial, Grid]
    kinds: dict[Partial, pa.DataType]
    who: np.ndarray  # of late cells: customer, and the periods happened, counted from, replaced
    p: np.ndarray
    v: np.ndarray
    s: np.ndarray


@dataclass
class Grid:
    """One partial on (period x customer): whole numbers, or doubles of a minimum or maximum; `known` where a sum is."""

    kind: str
    cells: list[np.ndarray]  # one, or the words of sums that could pass 62 bits
    known: np.ndarray | None
    late: list[np.ndarray]
    late_known: np.ndarray | None

    def start(self, customers: int) -> Total:
        """Return the value of no rows, for each customer."""
        made = [np.full(customers, _nothing(self.kind, part.dtype), part.dtype) for part in self.cells]
        return Total(made, None if self.known is None else np.zeros(customers, np.bool_))

    def add(self, into: Total, first: int, past_last: int) -> None:
        """Take the periods [first, past_last) in."""
        for at in range(first, past_last):
            for total, part in zip(into.parts, self.cells, strict=True):
                JOIN[self.kind](total, part[at], out=total)
            if into.known is not None and self.known is not None:
                np.logical_or(into.known, self.known[at], out=into.known)

    def taken(self, total: Total, taken: np.ndarray, customers: np.ndarray, seen: np.ndarray) -> Total:
        """Return the totals of some customers, with the late cells of `customers` that are `seen` taken in."""
        if seen.any():
            total = total.copy()
            for into, part in zip(total.parts, self.late, strict=True):
                JOIN[self.kind].at(into, customers[seen], part[seen])
            if total.known is not None and self.late_known is not None:
                np.logical_or.at(total.known, customers[seen], self.late_known[seen])
        return total.take(taken)


JOIN = {"sum": np.add, "count": np.add, "min": np.minimum, "max": np.maximum, "set": np.bitwise_or}


def _nothing(kind: str, dtype: np.dtype) -> Any:
    if kind in ("sum", "count", "set"):
        return 0
    if dtype == np.float64:
        return np.inf if kind == "min" else -np.inf
    return np.iinfo(dtype).max if kind == "min" else np.iinfo(dtype).min


def words_of(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return a DECIMAL column's unscaled values as (high, middle, low): high * 2**64 + middle * 2**32 + low."""
    if not len(column):
        return [np.zeros(0, np.int64)] * 3
    array = column.combine_chunks()
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset : 2 * (array.offset + len(array))]
    return [words[1::2], (words[0::2] >> 32) & LOW, words[0::2] & LOW]


def decimals(parts: list[np.ndarray], kind: pa.DataType, known: np.ndarray | None) -> pa.Array:
    """Return DECIMAL values from whole numbers, or from sums of each of the words that they were made of."""
    if len(parts) == 1:
        parts = [parts[0] >> 63, (parts[0] >> 32) & LOW, parts[0] & LOW]
    high, middle, low = parts
    middle = middle + (low >> 32)
    words = np.empty((len(high), 2), np.int64)
    words[:, 0], words[:, 1] = ((middle & LOW) << 32) | (low & LOW), high + (middle >> 32)
    valid = None if known is None else pa.array(known).buffers()[1]
    return pa.Array.from_buffers(kind, len(high), [valid, pa.py_buffer(words)])


def laid_out(cells: pa.Table, plan: Plan, low: int, high: int, first: int, customers: int) -> Laid:
    """Lay cells of the customers [first, first + customers) and the periods [low, high] out."""
    who = cells["customer_id"].to_numpy() - first
    p, v, s = (cells[name].to_numpy().astype(np.int64) for name in "pvs")
    late = (v > p) | (s < NEVER)
    on_time, late = np.flatnonzero(~late), np.flatnonzero(late)
    place = (p[on_time] - low) * customers + who[on_time]
    shape = (high - low + 1, customers)
    grids = {
        partial: _grid(partial.kind, cells[name], shape, place, on_time, late)
        for partial, name in plan.partials.items()
    }
    kinds = {partial: cells[name].type for partial, name in plan.partials.items()}
    return Laid(low, shape[0], customers, grids, kinds, who[late], p[late], v[late], s[late])


def _grid(
    kind: str, column: pa.ChunkedArray, shape: tuple[int, int], place: np.ndarray, on_time: np.ndarray, late: np.ndarray
) -> Grid:
    """Lay one column of cells out."""
    known = None
    if kind == "sum" or column.null_count:
        known = ~column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(column.type):
        parts = words_of(column)
        if known is not None:
            parts = [np.where(known, part, 0) for part in parts]
        value = (parts[1] << 32) | parts[2]
        largest = max(int(value.max(initial=0)), -int(value.min(initial=0))) + 1
        narrow = np.array_equal(parts[0], value >> 63) and largest * (shape[0] + len(late)) < FITS
        parts = [value] if narrow or kind != "sum" else parts
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


def column_of(demand: Demand, kind: pa.DataType, total: Total, back: dict[str, int]) -> pa.Array:
    """Return one composed column as what the formula reads; `back` says where distances are measured from."""
    value, known = total.parts[0], total.known
    if demand.partial.kind in ("min", "max"):
        known = value != _nothing(demand.partial.kind, value.dtype)
    if pa.types.is_decimal(kind):
        return decimals(total.parts, kind, known)
    value = value if len(total.parts) == 1 else (total.parts[1] << 32) + total.parts[2]
    if demand.read in back:
        value = back[demand.read] - value
    if demand.read == "values":
        value = np.bitwise_count(value)
    if known is None:
        return pa.array(value).cast(kind)
    if value.dtype != np.float64:
        value = np.where(known, value, 0)
    made = pa.array(value.astype(np.int32) if pa.types.is_date(kind) else value, mask=~known)
    return made.cast(kind)
