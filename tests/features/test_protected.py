"""What is declared protected is no feature: turned about, it changes not one value of the matrix."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.features.drawn import build, draw, observe

CUSTOMERS = draw("customers", "\n".join([
    "customer_id kind industry region segment opened_on sex age",
    *(f"c{i:02d} {'person' if i % 3 else 'company'} I{i % 2} R{i % 2} S{i % 3 // 2} 2020-0{i % 9 + 1}-01 {'mf'[i % 2]} {20 + 3 * i}"
      for i in range(24)),
]), numeric=("age",))  # fmt: skip
TRANSACTIONS = draw("transactions", "\n".join([
    "transaction_id customer_id event_on amount",
    *(f"t{i} c{i % 24:02d} 2023-0{i % 9 + 1}-1{i % 8} {(-1) ** i * (100 + 7 * i)}" for i in range(240)),
]))  # fmt: skip
INDUSTRIES = draw(
    "industries", "industry period_start growth default_rate\nI0 2023-01-01 0.1 0.02\nI1 2023-01-01 0.3 0.09"
)
ASKED = observe("\n".join(f"c{i:02d} 2024-01-01" for i in range(24)))
TRAITS = {"customers": {"categorical": ["sex"], "numeric": ["age"]}}


COLUMNS = ("sex", "age", "kind", "industry", "region", "segment")


def matrix(customers: pa.Table, protected: tuple[str, ...]) -> pa.Table:
    tables = {"customers": customers, "transactions": TRANSACTIONS, "industries": INDUSTRIES}
    return build(tables, ASKED, attributes=TRAITS, protected=protected, least_group=2, windows=(6,), lags=1)


def turned(*columns: str) -> pa.Table:
    """The customers with these columns' values handed on by five: every group changes hands."""
    customers, count = CUSTOMERS, CUSTOMERS.num_rows
    for column in columns:
        handed = pc.take(customers[column], pa.array([(i + 5) % count for i in range(count)]))
        customers = customers.set_column(customers.column_names.index(column), column, handed)
    return customers


def test_protected_columns_change_no_feature():
    """Also those that the contract knows and by which peer groups are made; undeclared, they do change some."""
    kept = matrix(CUSTOMERS, COLUMNS)
    assert matrix(turned(*COLUMNS), tuple(name.upper() for name in COLUMNS)).equals(kept)
    names = {f"customers_{column}" for column in COLUMNS}
    assert not names & set(kept.column_names)
    assert names <= set(matrix(CUSTOMERS, ()).column_names)


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_each_protected_column_by_itself_changes_no_feature(column):
    assert not matrix(turned(column), ()).equals(matrix(CUSTOMERS, ()))
    kept = matrix(CUSTOMERS, (column,))
    assert matrix(turned(column), (column,)).equals(kept)
    assert f"customers_{column}" not in kept.column_names
