"""No false alarms: random lenders with every table, whatever the seed. Several lenders share one build, side by side."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batteries import together, with_outcomes
from building import build, differing
from lenders import Case, set_column

from tests.features.test_time_build import ATTRIBUTES, CUSTOMERS, world

AS_OF = dt.date(2023, 8, 31)
OWN = ("customer_id", "credit_id", "transaction_id", "payment_id", "mention_id", "industry")


def marked(table: pa.Table, seed: int) -> pa.Table:
    """Put the seed before every identifier."""
    for column in set(OWN) & set(table.column_names):
        own = pc.binary_join_element_wise(str(seed), table[column], "-").combine_chunks()
        table = set_column(table, column, own)
    return table


def lenders(seeds: range) -> Case:
    """Put the tables of several seeds into one case; each lender's identifiers carry its seed."""
    parts: dict[str, list[pa.Table]] = {}
    for seed in seeds:
        for name, table in world(seed, rows=40).items():
            parts.setdefault(name, []).append(marked(table, seed))
    customers = sorted(f"{seed}-{customer}" for seed in seeds for customer in CUSTOMERS)
    asked = pa.table({"customer_id": customers, "as_of": pa.array([AS_OF] * len(customers), pa.date32())})
    tables = {name: pa.concat_tables(each) for name, each in parts.items()}
    return with_outcomes(Case(f"seeds from {seeds[0]}", tables, ATTRIBUTES, asked, AS_OF))


def false_alarms(seeds: range) -> list[str]:
    case = lenders(seeds)
    base = build(case)
    assert len(base.features) > 250
    return differing(base, build(together(case), panel=seeds[0] % 20 < 10), AS_OF)


def test_no_alarm_over_ten_seeds():
    assert false_alarms(range(10)) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10, 200, 10))
def test_no_alarm_over_two_hundred_seeds(first):
    assert false_alarms(range(first, first + 10)) == []
