"""From numpy to Arrow: money as exact decimals out of whole cents, dates out of days, names out of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

Array = np.ndarray
MONEY = pa.decimal128(18, 2)


def money(cents: Array) -> pa.Array:
    """Return DECIMAL(18,2) from whole cents (int64)."""
    low = np.ascontiguousarray(cents, dtype=np.int64)
    words = np.stack([low, low >> 63], axis=1)
    return pa.Array.from_buffers(MONEY, len(low), [None, pa.py_buffer(words.tobytes())])


def cents_of(column: pa.ChunkedArray) -> int:
    """Return the exact sum of a money column, in cents."""
    total = 0
    for chunk in column.chunks:
        words = np.frombuffer(chunk.buffers()[1], dtype=np.int64).reshape(-1, 2)
        total += int(words[chunk.offset : chunk.offset + len(chunk), 0].sum())
    return total


def dates(days: Array) -> pa.Array:
    """Return dates from days since 1970-01-01."""
    return pa.array(days.astype(np.int32)).cast(pa.date32())


def names(codes: Array, labels: Sequence[str]) -> pa.Array:
    """Return labels[code] as text; a negative code is null."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(labels)).cast(
        pa.string()
    )


def ratios(values: Array, digits: int = 4) -> pa.Array:
    """Return doubles rounded to `digits`; NaN is null."""
    return pa.array(np.round(values, digits) + 0.0, mask=np.isnan(values))


def whole(values: Array, null: Array | None = None) -> pa.Array:
    """Return integers; null where `null` is true."""
    return pa.array(values.astype(np.int64), mask=null)


def nullable(column: pa.Array, null: Array) -> pa.Array:
    """Return the column with nulls where `null` is true."""
    return pa.compute.if_else(pa.array(null), pa.scalar(None, column.type), column)


def table(columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table of the columns, in their order."""
    return pa.table(dict(columns))
