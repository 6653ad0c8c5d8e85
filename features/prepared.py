"""Canonical tables made ready to be seen from any date: version, customer, order, whole numbers in place of dates.

Worked out once for each table and engine; what an observation sees of them is one comparison a row (see `visible`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import ibis

from features.tables import contract_of
from features.visible import versioned

EVENTS = {"financials": "period_end"}  # where the event is not the date that knowledge is counted from


def without(table: ibis.Table, protected: Iterable[str]) -> ibis.Table:
    """Return the rows with nulls in protected columns (any case): nothing is built from them or grouped by them."""
    named = {name.lower() for name in protected}
    hidden = {name: ibis.null(table[name].type()) for name in table.columns if name.lower() in named}
    return table.mutate(**hidden) if hidden else table


def numbered(table: ibis.Table, date: str, prefix: str) -> ibis.Table:
    """Add the integer parts of a date: months and days since a fixed day, day of month, days in its month."""
    day = table[date]
    month_end = day.truncate("M") + ibis.interval(months=1) - ibis.interval(days=1)
    return table.mutate(
        **{
            f"{prefix}_month": (day.year() * 12 + day.month()).cast("int32"),
            f"{prefix}_day": day.day().cast("int32"),
            f"{prefix}_month_days": month_end.day().cast("int32"),
            f"{prefix}_number": day.delta(ibis.date(1970, 1, 1), unit="day").cast("int32"),
        }
    )


def codes_of(column: str, tables: Iterable[ibis.Table]) -> ibis.Table | None:
    """Return (text, code): every value of an identifier with its rank, so that codes sort as the texts do."""
    held = [table.select(text=table[column]).distinct() for table in tables if column in table.columns]
    if not held:
        return None
    texts = reduce(lambda left, right: left.union(right), held).distinct()
    texts = texts.filter(texts.text.notnull())
    return texts.mutate(code=ibis.row_number().over(ibis.window(order_by="text")).cast("int32"))


def coded(table: ibis.Table, column: str, codes: ibis.Table | None) -> ibis.Table:
    """Put the code of an identifier in place of its text; null where the text is none of those coded."""
    if codes is None or column not in table.columns:
        return table
    joined = table.left_join(codes, table[column] == codes.text)
    return joined.mutate(**{column: joined.code}).drop("text", "code")


def shaped(rows: ibis.Table | None, like: ibis.Table) -> ibis.Table:
    """Return `rows` with the columns of `like`, in its order and types; null where they lack one, empty for None."""
    if rows is None:
        return like.limit(0)
    return rows.select(
        **{
            column: rows[column].cast(kind) if column in rows.columns else ibis.null(kind)
            for column, kind in like.schema().items()
        }
    )


def prepared(name: str, table: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
    """Return a table ready to be seen from any date: customer_id, event_on, superseded_on, row_order, date parts.

    Rows that hang on a credit reach the customer through its first version, and not before that was known. Canonical
    columns that the source lacks are null.
    """
    contract = contract_of(name, set(table.columns))
    kinds = {
        "DATE": "date",
        "VARCHAR": "string",
        "DECIMAL(18,2)": "decimal(18, 2)",
        "DOUBLE": "float64",
        "INTEGER": "int32",
    }
    absent = {c: ibis.null(kinds[spec.type]) for c, spec in contract.columns.items() if c not in table.columns}
    table = versioned(table.mutate(**absent), contract.key)
    if "customer_id" not in table.columns and "credit_id" in table.columns and credits_table is not None:
        owner = credits_table.group_by("credit_id").aggregate(
            customer_id=credits_table.customer_id.argmin(credits_table.known_on),
            owner_known_on=credits_table.known_on.min(),
        )
        table = table.inner_join(owner, "credit_id")
        table = table.mutate(known_on=ibis.greatest(table.known_on, table.owner_known_on)).drop("owner_known_on")
    event = EVENTS.get(name, contract.event)
    table = table.mutate(event_on=table[event] if event in table.columns else ibis.null("date"))
    holder = "customer_id" if "customer_id" in table.columns else "industry"
    others = [column for column in table.columns if column not in (holder, "event_on", "known_on")]
    order = ibis.window(group_by=holder, order_by=["event_on", "known_on", *others])
    return numbered(table.mutate(row_order=ibis.row_number().over(order)), "event_on", "event")
