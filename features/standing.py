"""How others stand at a month's start, worked out once and looked up for a few customers.

What `peers` works out of all customers at once (`against`) is kept here for one month: the average of each group, and
every member's number in ascending order, group by group. `among` sets a few customers' numbers against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import peers
from features.aggregates import mean
from features.definition import Lender

TEXT, NUMBER, PLACE = pa.string(), pa.float64(), pa.int64()
LEVELS = pa.schema({"dimension": TEXT, "kind": TEXT, "group": TEXT, "measure": TEXT, "level": NUMBER})
SEGMENTS = pa.schema({"measure": TEXT, "kind": TEXT, "group": TEXT, "start": PLACE, "stop": PLACE})


@dataclass(frozen=True)
class Stood:
    """One month: each group's average, and where each group's numbers stand among `values`, ascending.

    levels: LEVELS, segments: SEGMENTS, each group once. Groups with fewer than the least number of known values are in
    neither. values: opens what may lie on disk, for as long as it is looked at.
    """

    levels: pa.Table
    segments: pa.Table
    values: Callable[[], npt.NDArray[np.float64]]

    @classmethod
    def of(cls, levels: pa.Table, segments: pa.Table, values: npt.NDArray[np.float64]) -> Stood:
        """Return the month of its tables (LEVELS, SEGMENTS) and values."""
        return cls(levels, segments, lambda: values)


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
