"""The one place where rows meet a date: a row is visible at as_of if and only if `known_on < as_of <= superseded_on`.

`superseded_on` is when a newer version of the same key became known (null: never), worked out once for each table. So a
restated row counts in the version that was known then, and asking about many dates costs one comparison a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis

SUPERSEDED = "superseded_on"


def versioned(table: ibis.Table, key: Sequence[str]) -> ibis.Table:
    """Return `table` with `superseded_on` DATE: the day on which the next version of its key became known.

    Null where no newer version is known. Without a key nothing is ever superseded. Where two versions became known on
    the same day, the one that sorts last by its other columns counts, so the answer never hangs on row order.
    """
    if not key:
        return table.mutate(**{SUPERSEDED: ibis.null("date")})
    others = [name for name in table.columns if name not in (*key, "known_on")]
    window = ibis.window(group_by=list(key), order_by=["known_on", *others])
    return table.mutate(**{SUPERSEDED: table.known_on.lead().over(window)})


def visible(rows: ibis.Table, as_of: ibis.Value) -> ibis.Value:
    """Return whether each of `rows` (from `versioned`) is known before `as_of` and not yet replaced: half-open."""
    return (rows.known_on < as_of) & (rows[SUPERSEDED].isnull() | (rows[SUPERSEDED] >= as_of))


def visible_at(rows: ibis.Table, as_of: ibis.Value) -> ibis.Table:
    """Return the rows (from `versioned`) that one date sees."""
    return rows.filter(visible(rows, as_of))


def known(rows: ibis.Table, observed: ibis.Table, by: str = "customer_id") -> ibis.Table:
    """Return one row for each observation and each row visible to it, matched on `by`.

    `observed` is (customer_id, as_of, ...), one row an observation; its columns come first and win over equal names.
    """
    kept = [name for name in rows.columns if name not in observed.columns]
    pairs = observed.join(rows, [observed[by] == rows[by], visible(rows, observed.as_of)])
    return pairs.select(*observed.columns, *kept)
