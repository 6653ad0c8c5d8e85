"""A table that is undated and not declared static is refused at every door: the mapping, its joins, and the build itself."""

from __future__ import annotations

import pyarrow as pa
import pytest
from lenders import project, quietly, read_tables

from features.build import Matrix, Settings
from features.errors import ConfigurationRefused, DataRefused
from pipeline import ingest

SHOP = """
name: shop
currency: EUR
tables:
  transactions:
    files: moves.csv
    columns: {transaction_id: t, customer_id: c, event_on: day, amount: money}
"""
UNDATED = {
    "a history without a date": """
  orders:
    files: orders.csv
    columns: {customer_id: c}
    attributes: {numeric: {size: size}}
""",
    "customers without a day on which they were known": """
  customers:
    files: orders.csv
    columns: {customer_id: c}
    attributes: {numeric: {size: size}}
""",
    "credits without a day of opening": """
  credits:
    files: orders.csv
    columns: {credit_id: c, customer_id: c, principal: size}
""",
}
JOIN = "    joins: [{files: orders.csv, as: o, on: row.c = o.c}]\n    attributes: {numeric: {size: o.size}}\n"


def ingested(tmp_path, mapping: str) -> dict:
    """Ingest the shop by a mapping of the test; return tables.json."""
    with project(tmp_path, {"source": "shop", "as_of": "latest", "language": "en"}) as here:
        if (here / "data/sources").is_symlink():
            (here / "data/sources").unlink()
            (here / "data/sources").mkdir()
            (here / "data/raw/shop").mkdir()
        (here / "data/sources/shop.yaml").write_text(mapping, encoding="utf-8")
        (here / "data/raw/shop/moves.csv").write_text("t,c,day,money\n1,a,2021-01-05,10\n2,b,2021-02-05,20\n")
        (here / "data/raw/shop/orders.csv").write_text("c,size\na,3\nb,4\n")
        quietly(ingest)
        return read_tables(here)[1]


@pytest.mark.parametrize("kind", UNDATED)
def test_an_undated_table_is_refused_by_ingest_and_taken_once_declared_static(kind, tmp_path):
    name = UNDATED[kind].split(":")[0].strip()
    with pytest.raises(ConfigurationRefused, match=name):
        ingested(tmp_path, SHOP + UNDATED[kind])
    assert name in ingested(tmp_path, SHOP + UNDATED[kind] + "    static: true\n")


def test_a_join_of_an_undated_file_is_refused_and_taken_once_declared_static(tmp_path):
    with pytest.raises(ConfigurationRefused, match="static: true"):
        ingested(tmp_path, SHOP + JOIN)
    assert "size" in ingested(tmp_path, SHOP + JOIN.replace("}]", ", static: true}]"))["transactions"]["numeric"]


def test_keeping_the_rows_that_occur_in_an_undated_file_is_refused_alike(tmp_path):
    """Who occurs in a file without dates may be who is there today."""
    join = "    joins: [{files: orders.csv, as: o, on: row.c = o.c, kind: semi}]\n"
    with pytest.raises(ConfigurationRefused, match="static: true"):
        ingested(tmp_path, SHOP + join)
    assert ingested(tmp_path, SHOP + join.replace("}]", ", static: true}]"))["transactions"]["rows"] == 2


def test_a_table_without_dates_does_not_build():
    """At the build itself: no known_on, or no event date and not declared static, is refused."""
    import ibis

    connection = ibis.duckdb.connect()
    asked = pa.table({"customer_id": ["a"], "as_of": pa.array(["2021-01-01"]).cast(pa.date32())})
    customers = pa.table(
        {"customer_id": ["a"], "kind": ["person"], "known_on": pa.array(["2020-01-01"]).cast(pa.date32())}
    )
    orders = pa.table({"customer_id": ["a"], "amount": [1.0]})
    dated = orders.append_column("known_on", customers["known_on"])
    tables = {"customers": customers, "asked": asked, "undated": orders, "eventless": dated}
    for name, table in tables.items():
        connection.con.register(f"arrow_{name}", table)
        connection.raw_sql(f"CREATE TABLE {name} AS SELECT * FROM arrow_{name}")
    about = {"orders": {"numeric": ["amount"], "categorical": []}}

    def matrix(name: str, description: dict) -> Matrix:
        held = {"customers": connection.table("customers"), "orders": connection.table(name)}
        return Matrix(connection, held, description, connection.table("asked"), connection.table("asked"), Settings())

    for name in ("undated", "eventless"):
        with pytest.raises(DataRefused, match="orders"):
            matrix(name, about)
    static = {"orders": {**about["orders"], "static": True}}
    assert "orders_amount_last" in [feature.name for feature, _, _ in matrix("eventless", static).features]
    with pytest.raises(DataRefused, match="orders"):
        matrix("undated", static)
