"""B: columns that moved, went, came or changed their type; codes that nobody announced; names that are SQL."""

from __future__ import annotations

import io
import json

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from fault_ground import COUNT, HEAD

fault = pytest.mark.fault
COLUMNS = HEAD.split(",")


def turned(shop, order: list[str]) -> str:
    """Return the transactions with their columns in another order."""
    places = [COLUMNS.index(column) for column in order]
    rows = (line.split(",") for line in shop.lines)
    return "\n".join([",".join(order), *(",".join(row[place] for place in places) for row in rows)]) + "\n"


@fault("B1")
@pytest.mark.sample
@pytest.mark.parametrize("case", range(5))
def test_columns_in_another_order_give_the_same_bytes(case, shop):
    shop.accepted()
    before = shop.tables()
    order = shop.draw.sample(COLUMNS, len(COLUMNS))
    shop.put("moves.csv", turned(shop, order))
    shop.accepted()
    assert shop.tables() == before


@fault("B1")
def test_months_whose_columns_stand_in_another_order_than_the_first_s(shop):
    shop.accepted()
    before = shop.tables()
    lines = shop.lines
    shop.lines = lines[:150]
    shop.moves()
    shop.lines = lines[150:]
    shop.put("moves_b.csv", turned(shop, COLUMNS[::-1]))
    shop.accepted()
    assert shop.tables() == before


@fault("B2")
@pytest.mark.parametrize("where", ["the only file", "the second file", "people", "states"])
def test_a_header_that_is_missing(where, shop):
    bare = "\n".join(shop.lines) + "\n"
    if where == "the only file":
        shop.put("moves.csv", bare)
        shop.refused(2, "header")
    elif where == "the second file":
        shop.put("moves_b.csv", bare)
        shop.refused(2, r"moves_b\.csv", "header")
    else:
        path = shop.folder / f"data/raw/shop/{where}.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        shop.refused(2, "header")


@fault("B3")
@pytest.mark.parametrize("how", ["missing", "renamed"])
@pytest.mark.parametrize("column", ["value", "day", "id"])
def test_a_column_that_no_file_has_is_a_fault_of_the_mapping(column, how, shop):
    head = HEAD.replace(column, f"{column}x") if how == "renamed" else HEAD
    order = COLUMNS if how == "renamed" else [name for name in COLUMNS if name != column]
    shop.put("moves.csv", turned(shop, order).replace(HEAD, head, 1))
    found = shop.refused(4, column)
    if how == "renamed":
        assert f"{column}x" in found.err, "the nearest name is not offered"


@fault("B3")
@pytest.mark.parametrize("how", ["missing", "renamed"])
@pytest.mark.parametrize("column", ["value", "id"])
def test_a_column_that_earlier_files_have_is_a_fault_of_the_delivery(column, how, shop):
    shop.accepted()
    head = HEAD.replace(column, f"{column}x") if how == "renamed" else HEAD
    order = COLUMNS if how == "renamed" else [name for name in COLUMNS if name != column]
    shop.put("moves_b.csv", turned(shop, order).replace(HEAD, head, 1).replace("\nt", "\nu"))
    found = shop.ingest()
    assert found.code == 2, found.said
    assert "moves_b.csv" in found.err
    assert column in found.err


@fault("B3")
@pytest.mark.parametrize("how", ["upper", "title", "swapcase"])
def test_names_in_another_case_are_the_same_names(how, shop):
    shop.accepted()
    before = shop.tables()
    shop.put("moves.csv", shop.text().replace(HEAD, getattr(HEAD, how)(), 1))
    shop.accepted()
    assert shop.tables() == before


@fault("B4")
@pytest.mark.parametrize("where", ["every file", "the second file"])
def test_a_column_more_is_no_column_of_ours(where, shop):
    shop.accepted()
    before = shop.tables()
    lines = shop.lines
    more = [HEAD + ",note", *(f"{line},n{number}" for number, line in enumerate(lines))]
    if where == "every file":
        shop.put("moves.csv", "\n".join(more) + "\n")
    else:
        shop.lines = lines[:150]
        shop.moves()
        shop.put("moves_b.csv", "\n".join([more[0], *more[151:]]) + "\n")
    shop.accepted()
    assert shop.tables() == before
    ledger = json.loads((shop.folder / "data/ingest/ledger.json").read_text())
    assert "note" in json.dumps(ledger["headers"]), "the column is recorded nowhere"
    assert "note" not in (shop.folder / "data/ingest/tables.json").read_text()


@fault("B5")
@pytest.mark.parametrize("column", ["value", "no", "day", "VALUE"])
def test_a_column_twice(column, shop):
    shop.put(
        "moves.csv", shop.text().replace(HEAD, f"{HEAD},{column}", 1).replace("\nt", ",1\nt").rstrip("\n") + ",1\n"
    )
    shop.refused(2, r"moves\.csv", column.lower(), "twice")


DRIFT = {  # what the column holds from the second month on, and the rule that the row breaks
    "words": ("many", "type:amount"), "four decimals": ("1.2345", "scale:amount"), "a date": ("2021-01-01", "type:amount"),
    "a truth": ("true", "type:amount"),
}  # fmt: skip


@fault("B6")
@pytest.mark.parametrize("share", ["one row", "every row"])
@pytest.mark.parametrize("how", DRIFT)
def test_a_type_that_drifts_in_text_is_never_rounded(how, share, shop):
    text, rule = DRIFT[how]
    some = shop.lines[:1] if share == "one row" else shop.lines
    rows = [",".join(["u" + line.split(",")[0], line.split(",")[1], "2021-12-01", text, "2021-12-01"]) for line in some]
    shop.put("moves_b.csv", "\n".join([HEAD, *rows]) + "\n")
    if share == "one row":
        shop.accepted()
        assert [(row[0], row[1], row[2][0]) for row in shop.quarantined()] == [("moves_b.csv", 2, rule)]
    else:
        shop.refused(2, "table transactions", rule)


@fault("B6")
@pytest.mark.parametrize("kind", ["DOUBLE", "DECIMAL(18,4)", "VARCHAR", "INTEGER", "FLOAT"])
def test_a_type_that_drifts_between_parquet_files_loses_nothing(kind, shop):
    def parquet(lines, type_) -> bytes:
        read = pa_csv.read_csv(  # noqa: F841  DuckDB finds it by its name
            io.BytesIO("\n".join([HEAD, *lines]).encode()),
            convert_options=pa_csv.ConvertOptions(column_types={"value": pa.decimal128(18, 2), "no": pa.string()}),
        )
        table = duckdb.sql(f"SELECT * REPLACE (CAST(value AS {type_}) AS value) FROM read").to_arrow_table()
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()

    shop.lines = [",".join([*line.split(",")[:3], f"{n}.00", line.split(",")[4]]) for n, line in enumerate(shop.lines)]
    shop.moves()
    shop.accepted()
    before = shop.kept()
    shop.drop("moves.csv")
    shop.put("moves_a.parquet", parquet(shop.lines[:150], "DECIMAL(18,2)"))
    shop.put("moves_b.parquet", parquet(shop.lines[150:], kind))
    shop.mapped("{type: parquet}")
    shop.accepted()
    assert shop.kept() == before


@fault("B7")
@pytest.mark.parametrize("share", ["one row", "many rows"])
def test_a_code_outside_the_contract_s_list_is_quarantined(share, shop):
    count = 250 if share == "one row" else 20
    path = shop.folder / "data/raw/shop/people.csv"
    more = "".join(f"extra{n},2020-01-01,person\n" for n in range(count))
    path.write_text(
        path.read_text().replace("retail", "person").replace("farm", "company") + more + "odd,2020-01-01,robot\n"
    )
    shop.mapped(change=lambda text: text.replace("segment: kind", "kind: kind"))
    if share == "one row":
        shop.accepted()
        assert [row[2] for row in shop.quarantined("customers")] == [["range:kind"]]
    else:
        shop.refused(2, "table customers", "range:kind")


@fault("B7")
def test_a_new_level_of_a_free_code_is_a_level(shop):
    path = shop.folder / "data/raw/shop/people.csv"
    path.write_text(path.read_text() + "odd,2020-01-01,never seen\n")
    shop.accepted()
    assert ("never seen",) in shop.kept("segment", "customers")


NAMES = [
    'a "quoted" one',
    "x'); DROP TABLE t; --",
    "[b] {c}",
    "two\nlines",
    "💶",
    "a b",
    "a_b",
    "a;b",
    "select",
    "Größe",
    "$1",
    "%s",
]


@fault("B8", "G5")
@pytest.mark.sample
@pytest.mark.parametrize("name", NAMES)
def test_a_column_s_name_is_a_name(name, shop):
    import csv

    shop.accepted()
    before = shop.tables()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name if column == "value" else column for column in COLUMNS])
    writer.writerows(line.split(",") for line in shop.lines)
    shop.put("moves.csv", out.getvalue())
    quoted = '"' + name.replace('"', '""') + '"'

    shop.mapped(change=lambda text: text.replace("amount: value", f"amount: {json.dumps(quoted, ensure_ascii=False)}"))
    shop.accepted()
    assert shop.tables() == before


@fault("B8")
def test_names_that_differ_in_a_blank_alone_stay_two_columns(shop):
    rows = [f"{line},{n},{n + 1}" for n, line in enumerate(shop.lines)]
    shop.put("moves.csv", "\n".join([HEAD + ",a b,a_b", *rows]) + "\n")
    shop.mapped(change=lambda text: text.rstrip() + '\n    attributes: {numeric: {one: "\\"a b\\"", two: a_b}}\n')
    shop.accepted()
    assert all(two == one + 1 for one, two in shop.kept("one, two"))
    assert len(shop.kept()) == COUNT
