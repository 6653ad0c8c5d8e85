"""A lender who has everything: the simulated one with every column, attributes on every table, and tables of every kind.

So every feature that a mapping can bring about is declared, has a value for somebody, and hangs on rows that a proof can
move. A canonical table or column that is new is filled in here by its type; a new kind of table must be added.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lenders import Case, Tables, set_column, shifted

from features.tables import CONTRACTS, contract_of

TYPES = {
    "DATE": pa.date32(), "VARCHAR": pa.string(), "DECIMAL(18,2)": pa.decimal128(18, 2), "DOUBLE": pa.float64(),
    "INTEGER": pa.int32(),
}  # fmt: skip
NUMBER, KIND = "extra_number", "extra_kind"


def _days(first: dt.date, days: np.ndarray) -> pa.Array:
    return pa.array((np.datetime64(first) + days).astype("datetime64[D]")).cast(pa.date32())


def drawn(kind: pa.DataType, rows: int, random: np.random.Generator, first: dt.date) -> pa.Array:
    """Return values of a type."""
    if pa.types.is_date(kind):
        return _days(first, random.integers(0, 700, rows))
    if pa.types.is_decimal(kind):
        return pa.array(random.integers(100, 90_000, rows).astype("float64")).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array(random.integers(1, 1 << 12, rows) / (1 << 12))
    if pa.types.is_integer(kind):
        return pa.array(random.integers(1, 60, rows)).cast(kind)
    return pa.array([f"kind {number}" for number in random.geometric(0.2, rows)])


def filled(table: pa.Table, name: str, random: np.random.Generator, first: dt.date) -> pa.Table:
    """Give a table the contract's columns that it lacks, a number where one is null, and two attributes."""
    contract = contract_of(name, set(table.column_names))
    given = {NUMBER: pa.float64(), KIND: pa.string()}
    for column, kind in {**{c: TYPES[spec.type] for c, spec in contract.columns.items()}, **given}.items():
        if column not in table.column_names:
            table = table.append_column(column, drawn(kind, len(table), random, first))
            continue
        field = table.schema.field(column)
        if table[column].null_count and (pa.types.is_decimal(field.type) or pa.types.is_floating(field.type)):
            stood_in = drawn(field.type, len(table), random, first)
            table = set_column(table, column, pc.coalesce(table[column].combine_chunks(), stood_in))
    for column in (NUMBER, *(("inventory", "equity", "ebit") if name == "financials" else ())):
        gone = pa.array(random.random(len(table)) < 0.06)  # so that what is missing can be counted
        table = set_column(table, column, pc.if_else(gone, None, table[column]).combine_chunks())
    return table


def decisions(case: Case, random: np.random.Generator) -> pa.Table:
    """Return decisions on half of the asked customers, at the case's date and at others."""
    customers = case.observed["customer_id"].to_pylist()[::2]
    days = [case.as_of - dt.timedelta(days=back) for back in (0, 200, -60)]
    rows = len(customers) * len(days)
    as_of = [day for day in days for _ in customers]
    return pa.table({
        "customer_id": customers * len(days),
        "as_of": pa.array(as_of, pa.date32()),
        "outcome": pa.array(random.integers(0, 2, rows)).cast(pa.int32()),
        "outcome_known_on": pa.array([day + dt.timedelta(days=365) for day in as_of], pa.date32()),
        "known_on": pa.array([day - dt.timedelta(days=1) for day in as_of], pa.date32()),
    })  # fmt: skip


def interim(table: pa.Table) -> pa.Table:
    """Add accounts between the yearly ones, so that six months hold some."""
    made = [table]
    for days in (-110, -150, -230):
        between = table
        for column in ("period_end", "published_on", "known_on"):
            between = set_column(between, column, shifted(between[column], days))
        made.append(between)
    return pa.concat_tables(made)


def talked_about(table: pa.Table, case: Case, random: np.random.Generator) -> pa.Table:
    """Add mentions of the last months, so that short windows hold some of many customers."""
    customers = case.observed["customer_id"].to_pylist() * 2
    rows = table.take(random.integers(0, len(table), len(customers)))
    day = random.integers(1, 50, len(rows))
    given = {
        "mention_id": pa.array([f"more {number}" for number in range(len(rows))]), "customer_id": pa.array(customers),
        "event_on": _days(case.as_of, -day), "known_on": _days(case.as_of, random.integers(0, 3, len(rows)) - day),
    }  # fmt: skip
    for column, values in given.items():
        rows = set_column(rows, column, values)
    return pa.concat_tables([table, rows])


def second_lines(table: pa.Table, random: np.random.Generator) -> pa.Table:
    """Add to every line of another lender an earlier one that runs for six years, so that some can be compared.

    It is with another provider, of any product that our own lines have, and of another size.
    """
    others = table.filter(pc.not_equal(table["provider"], "own"))
    for column in ("opened_on", "known_on"):
        others = set_column(others, column, shifted(others[column], -130))
    others = set_column(others, "credit_id", pc.binary_join_element_wise(others["credit_id"], "before", "-"))
    products = pc.unique(table.filter(pc.equal(table["provider"], "own"))["product"].drop_null()).to_pylist()
    given = {
        "term_months": [72] * len(others), "provider": ["another bureau"] * len(others),
        "product": random.choice(sorted(products), len(others)).tolist(),
        "principal": random.integers(100, 90_000, len(others)).astype("float64"),
    }  # fmt: skip
    for column, values in given.items():
        others = set_column(others, column, pa.array(values).cast(table.schema.field(column).type))
    return pa.concat_tables([table, others])


def their_states(table: pa.Table, lines: pa.Table, random: np.random.Generator) -> pa.Table:
    """Add statements of the second lines: those of the first, in any state that our own lines have, now and then late."""
    other = lines.filter(pc.not_equal(lines["provider"], "own"))["credit_id"]
    theirs = table.filter(pc.is_in(table["credit_id"], other.combine_chunks()))
    own = table.filter(pc.invert(pc.is_in(table["credit_id"], other.combine_chunks())))
    states = sorted(pc.unique(own["status"].drop_null()).to_pylist())
    made = set_column(theirs, "credit_id", pc.binary_join_element_wise(theirs["credit_id"], "before", "-"))
    made = set_column(made, "status", pa.array(random.choice(states, len(made)).tolist()))
    days = np.where(random.random(len(made)) < 0.1, random.integers(1, 60, len(made)), 0)
    owed = np.where(days > 0, random.integers(100, 9_000, len(made)), 0).astype("float64")
    for column, values in {"days_past_due": days, "overdue_amount": owed}.items():
        made = set_column(made, column, pa.array(values).cast(table.schema.field(column).type))
    return pa.concat_tables([table, made])


def histories(case: Case, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    """Yield histories that nobody foresaw: of customers, of credits, and one without dates of its own."""
    customers = case.observed["customer_id"].to_pylist()
    first = case.as_of - dt.timedelta(days=600)
    lag = random.choice([0, 0, 1, 40, 200], len(customers) * 20)
    day = random.integers(0, 800, len(customers) * 20)
    yield "visits", pa.table({
        "customer_id": customers * 20, "event_on": _days(first, day), "known_on": _days(first, day + lag),
    })  # fmt: skip
    lines = pc.unique(case.tables["credits"]["credit_id"]).to_pylist()
    lag = random.choice([0, 0, 1, 40, 200], len(lines) * 8)
    day = random.integers(0, 800, len(lines) * 8)
    yield "repairs", pa.table({
        "credit_id": lines * 8, "event_on": _days(first, day), "known_on": _days(first, day + lag),
    })  # fmt: skip
    known = random.integers(-100, 700, len(customers) * 2)
    yield "homes", pa.table({"customer_id": customers * 2, "known_on": _days(first, known)})


def completed(case: Case, seed: int) -> Case:
    """Return a simulated case as that of a lender who has everything."""
    random = np.random.default_rng(seed)
    first = case.as_of - dt.timedelta(days=600)
    tables: Tables = {
        **case.tables,
        "financials": interim(case.tables["financials"]),
        "mentions": talked_about(case.tables["mentions"], case, random),
        "credits": second_lines(case.tables["credits"], random),
        "statements": their_states(case.tables["statements"], case.tables["credits"], random),
        **dict(histories(case, random)),
        "observations": decisions(case, random),
    }
    assert set(tables) >= set(CONTRACTS), f"no rows for {sorted(set(CONTRACTS) - set(tables))}: add them here"
    tables = {name: filled(table, name, random, first) for name, table in tables.items()}
    description: dict[str, Any] = {}
    for name in tables:
        entry = case.description.get(name) or {}
        description[name] = {
            "numeric": [*(entry.get("numeric") or ()), NUMBER],
            "categorical": [*(entry.get("categorical") or ()), KIND],
            "static": name == "homes",
        }
    return replace(case, name="everything", tables=tables, description=description)
