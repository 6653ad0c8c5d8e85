"""Months as whole numbers from January 2021 (negative before it), days as whole numbers from 1970-01-01."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
EPOCH = np.datetime64("2021-01", "M")


def month_number(text: str) -> int:
    """Return the month's number from `YYYY-MM`."""
    return int((np.datetime64(text, "M") - EPOCH).astype(int))


def month_name(month: int) -> str:
    """Return `YYYY-MM`."""
    return str(EPOCH + month)


def first_day(month: Array | int) -> Array:
    """Return the day number of the month's first day."""
    return (EPOCH + np.asarray(month, dtype=np.int64)).astype("datetime64[D]").astype(np.int64)


def last_day(month: Array | int) -> Array:
    """Return the day number of the month's last day."""
    return first_day(np.asarray(month, dtype=np.int64) + 1) - 1


def month_of(day: Array) -> Array:
    """Return the month's number of each day number."""
    return (np.asarray(day, dtype=np.int64).astype("datetime64[D]").astype("datetime64[M]") - EPOCH).astype(np.int64)
