"""Contracts: every canonical table is whole, and its rules are SQL that means what the sentence says."""

import duckdb
import pytest

from features.tables import CONTRACTS, DATE, MONEY, RATIO, TEXT, WHOLE, contract_of, generic

NAMES = {
    "customers", "observations", "transactions", "credits", "instalments", "payments", "statements", "financials",
    "industries", "standings", "mentions",
}  # fmt: skip


def test_the_canonical_tables_are_those_of_the_design():
    assert set(CONTRACTS) == NAMES


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.name)
def test_a_contract_is_whole(contract):
    assert contract.key
    assert set(contract.key) <= set(contract.columns)
    assert contract.event in contract.columns
    assert contract.grain == ", ".join(contract.key)
    for name, column in contract.columns.items():
        assert column.type in (DATE, TEXT, MONEY, RATIO, WHOLE)
        assert column.sentence
        assert not (name in contract.key and not column.required and name != "as_of")
        assert name != "known_on"
    for column, table in contract.references:
        assert column in contract.columns
        assert table in CONTRACTS


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.name)
def test_rules_are_sql_over_the_contract_s_columns(contract):
    connection = duckdb.connect()
    columns = ", ".join(f'CAST(NULL AS {column.type}) AS "{name}"' for name, column in contract.columns.items())
    columns += ", CAST(NULL AS DATE) AS known_on"
    conditions = [column.rule(name) for name, column in contract.columns.items() if column.rule(name)]
    conditions += [rule.condition for rule in contract.rules]
    for condition in conditions:
        assert connection.execute(f"SELECT {condition} FROM (SELECT {columns})").fetchone() == (None,)


@pytest.mark.parametrize(
    ("table", "column", "value", "kept"),
    [
        ("observations", "outcome", "2", False),
        ("observations", "outcome", "1", True),
        ("statements", "days_past_due", "-1", False),
        ("statements", "balance", "-5", None),
        ("customers", "kind", "'firm'", False),
        ("customers", "kind", "'company'", True),
        ("transactions", "event_on", "DATE '1850-01-01'", False),
        ("transactions", "event_on", "DATE '2100-01-01'", False),
        ("mentions", "sentiment", "1.01", False),
    ],
)
def test_ranges(table, column, value, kept):
    rule = CONTRACTS[table].columns[column].rule(column)
    if kept is None:
        assert rule is None
    else:
        assert duckdb.execute(f'SELECT {rule} FROM (SELECT {value} AS "{column}")').fetchone() == (kept,)


def test_any_other_name_is_a_generic_history():
    assert contract_of("visits", {"customer_id", "event_on"}).references == (("customer_id", "customers"),)
    assert list(generic("calls", {"credit_id"}).columns) == ["credit_id", "event_on"]
    assert contract_of("payments", set()) is CONTRACTS["payments"]
