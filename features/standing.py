"""How others stand at a month's start, worked out once and looked up for a few customers.

What `peers` works out of all customers at once (`against`) is kept here for one month: the average of each group, and
every member's number in ascending order, group by group. A few customers' numbers are then set against them by binary
search, with the values that `against` gives over all rows, to the bit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import peers
from features.aggregates import mean
from features.definition import Lender, Standing

TEXT, NUMBER, PLACE = pa.string(), pa.float64(), pa.int64()
LEVELS = pa.schema({"dimension": TEXT, "kind": TEXT, "group": TEXT, "measure": TEXT, "level": NUMBER})
SEGMENTS = pa.schema({"measure": TEXT, "kind": TEXT, "group": TEXT, "start": PLACE, "stop": PLACE})
Group = tuple[str, str | None, str | None]  # measure, kind, value of the first dimension; None: of all customers


@dataclass(frozen=True)
class Stood:
    """One month: each group's average, and where each group's numbers stand among `values`, ascending.

    levels: (dimension, kind, group, measure) -> average. Groups with fewer than the least number of known values are in
    neither.
    """

    levels: Mapping[tuple[str, str, str, str], float]
    segments: Mapping[Group, tuple[int, int]]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, levels: pa.Table, segments: pa.Table, values: npt.NDArray[np.float64]) -> Stood:
        """Return the month of its tables (LEVELS, SEGMENTS) and values, which may lie on disk."""
        by_group = {
            (row["dimension"], row["kind"], row["group"], row["measure"]): row["level"] for row in levels.to_pylist()
        }
        spans = {
            (row["measure"], row["kind"], row["group"]): (row["start"], row["stop"]) for row in segments.to_pylist()
        }
        return cls(by_group, spans, values)

    def rank(self, group: Group, asked: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the share of a group's members below each number, the same counted half; NaN without any."""
        start, stop = self.segments.get(group, (0, 0))
        if stop == start:
            return np.full(len(asked), np.nan)
        held = self.values[start:stop]
        below, up_to = np.searchsorted(held, asked, "left"), np.searchsorted(held, asked, "right")
        return (up_to.astype(float) - (up_to - below).astype(float) / 2) / float(stop - start)


def month_of(connection: Any, lender: Lender, asked: ibis.Table) -> tuple[pa.Table, pa.Table, npt.NDArray[np.float64]]:
    """Return LEVELS, SEGMENTS and values of the one month that `asked` (as `observed`) names, over all customers.

    connection: ibis DuckDB, on which the lender's tables are. Empty where nothing is compared.
    """
    given, stated, decisions, dimensions = peers.compared(lender)
    if dimensions is None:
        return LEVELS.empty_table(), SEGMENTS.empty_table(), np.zeros(0)
    lender.once("observed", asked)
    lines = peers.members_of(lender, given, stated, decisions)
    lines = lender.once("standing_members", lines.filter(lines.member == 1))
    levels = [LEVELS.empty_table()]
    for name in dimensions:
        members = lines.filter(lines[name].notnull(), lines.kind.notnull())
        group = members.group_by("kind", group=members[name], measure=members.measure).aggregate(
            level=mean(members.value, members.value.notnull()), known=members.count()
        )
        kept = group.filter(group.known >= lender.least_group).mutate(dimension=ibis.literal(name))
        levels.append(connection.to_pyarrow(kept.select(*LEVELS.names)).cast(LEVELS))
    spans, parts, start = [], [], 0
    for by in ((), dimensions[:1]) if dimensions else ((),):
        rows = lines.filter(lines.kind.notnull(), lines[by[0]].notnull()) if by else lines
        rows = rows.select(
            "measure", "value", kind=rows.kind if by else ibis.null("string"),
            group=rows[by[0]] if by else ibis.null("string"),
        )  # fmt: skip
        keys = ["measure", "kind", "group"]
        counted = connection.to_pyarrow(rows.group_by(keys).aggregate(known=rows.count()).order_by(keys)).to_pylist()
        ordered = rows.order_by([*keys, "value"]).select("value")
        values = connection.to_pyarrow(ordered)["value"].to_numpy()
        at = 0
        for row in counted:
            if row["known"] >= lender.least_group:
                parts.append(values[at : at + row["known"]])
                spans.append({**{key: row[key] for key in keys}, "start": start, "stop": start + row["known"]})
                start += row["known"]
            at += row["known"]
    return pa.concat_tables(levels), pa.Table.from_pylist(spans, SEGMENTS), np.concatenate([np.zeros(0), *parts])


def among(connection: Any, month: Callable[[dt.date], Stood]) -> Standing:
    """Return what sets a few observations' own numbers against everyone's, by `month` -> how others stood.

    It takes the lines of `peers.members_of` and returns the columns of `peers.against`, as a table of the connection.
    """

    def standing(own: ibis.Table, dimensions: tuple[str, ...], least: int) -> ibis.Table:
        del least  # smaller groups were left out when the month was worked out
        rows: pa.Table = connection.to_pyarrow(own)
        frame = rows.to_pandas()
        found = {
            **{f"less_{name}": np.full(len(frame), np.nan) for name in dimensions},
            **{f"rank_{name}": np.full(len(frame), np.nan) for name in ("month", *dimensions[:1])},
        }
        value = frame["value"].to_numpy(dtype=float)
        frame = frame.astype(dict.fromkeys(("kind", *dimensions), object)).where(frame.notna(), None)
        for when, part in frame.groupby("month"):
            stood = month(when.date() if hasattr(when, "date") else when)
            for measure, here in part.groupby("measure"):
                at = here.index.to_numpy()
                found["rank_month"][at] = stood.rank((str(measure), None, None), value[at])
            for place, name in enumerate(dimensions):
                known = part[part[name].notna() & part["kind"].notna()]
                for (kind, group, measure), here in known.groupby(["kind", name, "measure"]):
                    at = here.index.to_numpy()
                    found[f"less_{name}"][at] = value[at] - stood.levels.get((name, kind, group, measure), np.nan)
                    if not place:
                        found[f"rank_{name}"][at] = stood.rank((measure, kind, group), value[at])
        for name, numbers in found.items():
            rows = rows.append_column(name, pa.array(numbers, pa.float64(), mask=np.isnan(numbers)))
        return connection.create_table("peers_standing", rows, temp=True, overwrite=True)

    return standing
