"""A few customers' own numbers against everyone's, as `standing` keeps them for each month.

Averages are looked up and places found by binary search, for all lines at once, with the values that `peers.against`
gives over all customers' rows, to the bit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.definition import Standing
from features.standing import LEVELS, SEGMENTS, Stood


def _by_month(months: Mapping[dt.date, pa.Table], schema: pa.Schema) -> pd.DataFrame:
    """Return one part of all months, with `month`."""
    found = [schema.append(pa.field("month", pa.date32())).empty_table()]
    for day, part in months.items():
        found.append(part.append_column("month", pa.repeat(pa.scalar(day, pa.date32()), part.num_rows)))
    return pa.concat_tables(found).to_pandas(date_as_object=False)


def _beside(lines: pd.DataFrame, held: pd.DataFrame, keys: list[str], taken: list[str]) -> pd.DataFrame:
    """Return what a group's row says beside each of its lines; null for a line without one."""
    return lines[keys].merge(held[[*keys, *taken]], how="left", on=keys)[taken]


def less(months: Mapping[dt.date, Stood], dimension: str, lines: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return each line's number less the average of its group in its month; NaN without one.

    lines: month, kind, measure, value and the dimension's own column.
    """
    held = _by_month({day: stood.levels for day, stood in months.items()}, LEVELS)
    held = held[held["dimension"] == dimension].rename(columns={"group": dimension})
    level = _beside(lines, held, ["month", "kind", dimension, "measure"], ["level"])["level"]
    return lines["value"].to_numpy(dtype=float) - level.to_numpy(dtype=float)


def rank(months: Mapping[dt.date, Stood], lines: pd.DataFrame, dimension: str | None = None) -> npt.NDArray[np.float64]:
    """Return the share of each line's group whose number is lower, the same counted half; NaN without any.

    Groups are of a month and a measure alone, or of a kind and a value of the first dimension too.
    """
    held = _by_month({day: stood.segments for day, stood in months.items()}, SEGMENTS)
    held = held[held["kind"].notna() if dimension else held["kind"].isna()]
    held = held.rename(columns={"group": dimension} if dimension else {})
    keys = ["month", "measure", *(["kind", dimension] if dimension else [])]
    spans = _beside(lines, held, keys, ["start", "stop"]).fillna(0).to_numpy(dtype=np.int64)
    asked = lines["value"].to_numpy(dtype=float)
    found = np.full(len(lines), np.nan)
    for day, stood in months.items():
        at = np.flatnonzero((lines["month"] == pd.Timestamp(day)).to_numpy() & (spans[:, 1] > spans[:, 0]))
        if len(at):
            values, (start, stop) = stood.values(), spans[at].T
            below, up_to = (_place(values, asked[at], start, stop, right=right) for right in (False, True))
            found[at] = (up_to.astype(float) - (up_to - below).astype(float) / 2) / (stop - start).astype(float)
    return found


def _place(
    values: npt.NDArray[np.float64], asked: npt.NDArray[np.float64], start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64], *, right: bool,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Return how many of `values[start:stop]`, ascending, are below each number (right: or the same), for all at once.

    What `np.searchsorted` does for many numbers within one range, for one number within each of many ranges.
    """
    low, high = start.copy(), stop.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        at = values[np.where(open_, middle, 0)]
        before = open_ & ((at <= asked) if right else (at < asked))
        low, high = np.where(before, middle + 1, low), np.where(open_ & ~before, middle, high)
    return low - start


def among(connection: Any, month: Callable[[dt.date], Stood]) -> Standing:
    """Return what sets a few observations' own numbers against everyone's, by `month` -> how others stood.

    It takes the lines of `peers.members_of` and returns the columns of `peers.against`, as a table of the connection.
    """

    def standing(own: ibis.Table, dimensions: tuple[str, ...], least: int) -> ibis.Table:
        del least  # smaller groups were left out when the month was worked out
        rows: pa.Table = connection.to_pyarrow(own)
        lines = rows.select(["kind", "measure", "value", *dimensions])
        lines = lines.append_column("month", rows["month"].cast(pa.date32()))
        months = {day: month(day) for day in sorted(lines["month"].unique().to_pylist())}
        lines = lines.to_pandas(date_as_object=False)
        found = {
            **{f"less_{name}": less(months, name, lines) for name in dimensions},
            "rank_month": rank(months, lines),
            **{f"rank_{name}": rank(months, lines, name) for name in dimensions[:1]},
        }
        for name, numbers in found.items():
            rows = rows.append_column(name, pa.array(numbers, pa.float64(), mask=np.isnan(numbers)))
        return connection.create_table("peers_standing", rows, temp=True, overwrite=True)

    return standing
