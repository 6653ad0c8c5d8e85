"""Applicants: their own rows, the source's declarations, and others' statistics in which they are no members."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.definition import Lender
from tests.features.drawn import build, draw, observe
from tests.features.test_time_build import ATTRIBUTES, OBSERVED, world

LEAST = Lender.least_group
OPTIONS = {"attributes": ATTRIBUTES, "training": observe("a 2023-03-01"), "windows": (1, 3, 12), "lags": 2}
IDS = ("customer_id", "credit_id", "transaction_id", "payment_id", "mention_id")


def companies(figures: dict[str, int]) -> dict[str, pa.Table]:
    """Draw companies of one industry with a year's accounts: their operating profit on a revenue of 100."""
    who = "\n".join(f"{name} company i1" for name in figures)
    lines = "\n".join(f"{name} 2022-12-31 100 {ebit} 2023-05-01" for name, ebit in figures.items())
    return {
        "customers": draw("customers", "customer_id kind industry\n" + who),
        "financials": draw("financials", "customer_id period_end revenue ebit known_on\n" + lines),
    }


def test_an_applicant_is_set_against_the_customers_and_is_none_of_them():
    """Nor does it matter who else applies, or what the folder says of one who is a customer already."""
    book = {f"c{n}": n + 1 for n in range(LEAST)}
    asked = observe("new 2023-06-01\nc0 2023-06-01")
    alone = build(companies(book), asked, applicants=companies({"new": 50, "c0": 7})).to_pylist()
    beside = build(companies(book), asked, applicants=companies({"new": 50, "c0": 7, "other": 90})).to_pylist()
    assert alone == beside
    found = {row["customer_id"]: row for row in alone}
    assert found["new"]["peers_ebit_margin_less_industry"] == pytest.approx(0.50 - 0.055)
    assert found["new"]["peers_ebit_margin_rank_month"] == 1.0
    assert found["c0"]["peers_ebit_margin_less_industry"] == pytest.approx(0.07 - 0.055)
    assert found["c0"]["peers_ebit_margin_rank_industry"] == pytest.approx(0.65)
    del book["c9"]  # the applicant does not fill the group
    few = build(companies(book), asked, applicants=companies({"new": 50, "c0": 7})).to_pylist()
    assert {row["peers_ebit_margin_less_industry"] for row in few} == {None}


def apart(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the tables without rows whose key another customer's or line's row has too."""
    kept = {}
    for name, table in tables.items():
        own = [each for each in IDS[2:] if each in table.column_names]
        kept[name] = table.slice(0, len(table) - 8) if own else table  # the last eight restate rows of anyone
    return kept


def theirs(tables: dict[str, pa.Table], customers: list[str], mark: str = "") -> dict[str, pa.Table]:
    """Return what the tables say of some customers: columns in another order, identifiers with a mark before them."""
    credits_ = tables["credits"].filter(pc.is_in(tables["credits"]["customer_id"], pa.array(customers)))
    listed = {"customer_id": pa.array(customers), "credit_id": credits_["credit_id"].combine_chunks()}
    found = {}
    for name, table in tables.items():
        holder = next((each for each in listed if each in table.column_names), None)
        if holder is not None:
            rows = table.filter(pc.is_in(table[holder], listed[holder]))
            columns = {
                column: pc.binary_join_element_wise(mark, rows[column], "") if column in IDS else rows[column]
                for column in sorted(rows.column_names, reverse=True)
            }
            found[name] = pa.table(columns)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_applicants_get_what_customers_of_the_same_rows_get(seed):
    """One customer by his own rows, a newcomer by another's; of every table, but only the features that are wanted."""
    tables = apart(world(seed))
    whole = build(tables, OBSERVED, **OPTIONS)
    own, new = theirs(tables, ["a", "c"]), theirs(tables, ["b"], "new-")
    days = sorted({day.isoformat() for day in whole["as_of"].to_pylist()})
    asked = observe("\n".join(f"{customer} {day}" for customer in ("a", "c", "new-b") for day in days))
    wanted = whole.column_names[2 + seed % 3 :: 3]
    folder = {name: pa.concat_tables([own[name], new[name]]) for name in own}
    found = build(tables, asked, applicants=folder, only=frozenset(wanted), **OPTIONS)
    assert len(found.column_names) < 0.6 * len(whole.column_names)
    rows = {(row["customer_id"].removeprefix("new-"), row["as_of"]): row for row in found.to_pylist()}
    assert len(rows) == 3 * len(days)
    for row in whole.to_pylist():
        if row["customer_id"] != "d":
            got = rows[row["customer_id"], row["as_of"]]
            assert {name: got[name] for name in wanted} == {name: row[name] for name in wanted}


def test_a_table_that_the_folder_lacks_leaves_its_features_unknown():
    book = {f"c{n}": n + 1 for n in range(LEAST)}
    asked = observe("new 2023-06-01")
    (row,) = build(companies(book), asked, applicants={"financials": companies({"new": 50})["financials"]}).to_pylist()
    assert row["customers_kind"] is None
    assert row["peers_ebit_margin_less_industry"] is None
    assert row["peers_ebit_margin_rank_month"] == 1.0  # among all, whatever their industry
