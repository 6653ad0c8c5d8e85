"""Any table that a lender may bring, through ingest: currencies, units, split payments, histories, odd files."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from features.errors import ConfigurationRefused
from features.mapping import parse_mapping
from pipeline import featurise, ingest, observe

LOOSE = "ingest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n"


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Return a function that writes files and a mapping of the source `any`, ingests them and returns a query."""
    monkeypatch.chdir(tmp_path)

    def ingested(mapping: str, **files: str | bytes):
        for name, content in files.items():
            path = Path("data/raw/any") / name.replace("__", "/").replace("_csv", ".csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        Path("data/sources").mkdir(parents=True, exist_ok=True)
        Path("data/sources/any.yaml").write_text("name: any\ncurrency: EUR\n" + mapping)
        Path("params.yaml").write_text("source: any\nas_of: latest\n" + LOOSE)
        ingest.main()
        return query

    return ingested


def query(sql: str) -> list[tuple]:
    connection = duckdb.connect()
    for table in Path("data/ingest/tables").iterdir():
        connection.execute(
            f"CREATE VIEW \"{table.name}\" AS FROM read_parquet('{table}/*/part.parquet', hive_partitioning=false)"
        )
    return connection.execute(sql).fetchall()


def broken(table: str) -> dict[str, list[str]]:
    rows = duckdb.execute(f"SELECT original, rules FROM 'data/ingest/quarantine/{table}.parquet'").fetchall()
    return {json.loads(original)["id"]: rules for original, rules in rows}


# --- currency and units ---------------------------------------------------------------------------------------------

MONEY = """
tables:
  transactions:
    files: moves.csv
    columns:
      transaction_id: id
      customer_id: who
      event_on: day
      amount: round(value * case when ccy = 'EUR' then 1 else fx.rate end, 2)
    joins:
      - {files: rates.csv, as: fx, on: row.ccy = fx.currency, kind: asof, at: day, dated: day, known_on: published}
"""
RATES = (
    "currency,day,published,rate\n"
    "USD,2024-01-01,2024-01-02,0.90\n"
    "USD,2024-01-05,2024-01-06,0.80\n"
    "USD,2024-01-01,2024-01-07,0.10\n"  # a correction of an old day, later than a newer day: never the newest
    "USD,2024-01-05,2024-01-09,0.50\n"  # a restatement of the newest day
    "JPY,2024-01-01,2024-01-01,0.006\n"
)
MOVES = (
    "id,who,day,ccy,value\n"
    "a,1,2024-01-01,USD,100\n"  # no rate was known yet
    "b,1,2024-01-02,USD,100\n"
    "c,1,2024-01-05,USD,100\n"  # the rate of the day is published on the next
    "d,1,2024-01-06,USD,100\n"
    "e,1,2024-01-08,USD,100\n"
    "f,1,2024-01-09,USD,100\n"
    "g,1,2024-01-09,JPY,1234.5\n"
    "h,1,2024-01-09,EUR,3.333\n"
    "i,1,2024-01-09,GBP,1\n"
)


@pytest.mark.fault("C5")
def test_money_is_converted_at_the_rate_known_on_its_day(bring):
    rows = dict(bring(MONEY, moves_csv=MOVES, rates_csv=RATES)("SELECT transaction_id, amount FROM transactions"))
    assert rows == {key: Decimal(value) for key, value in {
        "b": "90.00", "c": "90.00", "d": "80.00", "e": "80.00", "f": "50.00", "g": "7.41", "h": "3.33"}.items()}  # fmt: skip
    assert broken("transactions") == {"a": ["required:amount"], "i": ["required:amount"]}


@pytest.mark.fault("C5")
def test_a_rate_that_is_too_old_does_not_count(bring):
    text = MONEY.replace("known_on: published}", "known_on: published, within: 7 days}")
    rows = dict(bring(text, moves_csv=MOVES, rates_csv=RATES)("SELECT transaction_id, amount FROM transactions"))
    assert {key: str(value) for key, value in rows.items()} == {
        "b": "90.00", "c": "90.00", "d": "80.00", "e": "80.00", "f": "50.00", "h": "3.33"}  # fmt: skip
    assert broken("transactions")["g"] == ["required:amount"]  # of the first, on the ninth


@pytest.mark.fault("C5", "D7")
def test_the_order_of_the_rates_changes_nothing(bring):
    first = bring(MONEY, moves_csv=MOVES, rates_csv=RATES)("SELECT * FROM transactions ORDER BY 1")
    head, *lines = RATES.splitlines()
    again = bring(MONEY, moves_csv=MOVES, rates_csv="\n".join([head, *lines[::-1]]) + "\n")
    assert again("SELECT * FROM transactions ORDER BY 1") == first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", at: day", "", "at"),
        ("row.ccy = fx.currency", "true", "equalities"),
        ("dated: day", "dated: dya", "Did you mean day?"),
        ("kind: asof, at: day, dated: day, known_on: published", "static: true, at: day, dated: day", "without them"),
    ],
)
def test_a_faulty_asof_join_is_refused(bring, old, new, said):
    assert old in MONEY
    with pytest.raises(ConfigurationRefused) as refusal:
        bring(MONEY.replace(old, new), moves_csv=MOVES, rates_csv=RATES)
    assert said in str(refusal.value)


def test_units_are_converted_by_expression(bring):
    rows = bring(
        """
as_of: 2024-02-01
tables:
  financials:
    files: accounts.csv
    format: {delimiter: "|", decimal: ","}
    columns: {customer_id: id, period_end: "date '2023-12-31'", revenue: 1000 * revenue_k, total_assets: assets_m * 1000000}
  credits:
    files: accounts.csv
    format: {delimiter: "|", decimal: ","}
    columns: {credit_id: id, customer_id: id, rate: percent / 100, term_months: 12 * years}
""",
        accounts_csv="id|revenue_k|assets_m|percent|years\nx|1234,5|0,75|7,5|3\n",
    )
    assert rows("SELECT revenue, total_assets FROM financials") == [(Decimal("1234500.00"), Decimal("750000.00"))]
    assert rows("SELECT rate, term_months FROM credits") == [(0.075, 36)]


# --- what was due and what was paid, in one line --------------------------------------------------------------------

SPLIT = """
tables:
  instalments:
    files: plan.csv
    columns: {credit_id: id, due_on: due, amount: owed, paid_on: paid, amount_paid: received}
"""
PLAN = (
    "id,due,owed,paid,received\n"
    "L1,2024-01-31,100,2024-01-30,100\n"
    "L1,2024-02-29,100,2024-03-10,60\n"
    "L1,2024-02-29,100,2024-03-20,40\n"  # the second part of one instalment
    "L1,2024-03-31,100,,\n"
)


def test_a_line_that_says_due_and_paid_becomes_two_facts(bring):
    rows = bring(SPLIT, plan_csv=PLAN)
    assert rows("SELECT due_on, amount::VARCHAR, known_on FROM instalments ORDER BY 1") == [
        (dt.date(2024, 1, 31), "100.00", dt.date(2024, 1, 31)),
        (dt.date(2024, 2, 29), "100.00", dt.date(2024, 2, 29)),
        (dt.date(2024, 3, 31), "100.00", dt.date(2024, 3, 31)),
    ]
    assert rows("SELECT paid_on, amount::VARCHAR, due_on, known_on FROM payments ORDER BY 1") == [
        (dt.date(2024, 1, 30), "100.00", dt.date(2024, 1, 31), dt.date(2024, 1, 30)),
        (dt.date(2024, 3, 10), "60.00", dt.date(2024, 2, 29), dt.date(2024, 3, 10)),
        (dt.date(2024, 3, 20), "40.00", dt.date(2024, 2, 29), dt.date(2024, 3, 20)),
    ]
    quality = json.loads(Path("data/ingest/quality.json").read_text())["tables"]
    assert quality["payments"]["blocks"][0]["left_out"] == 1
    assert quality["instalments"]["blocks"][0]["deduplicated"] == 1


def test_split_payments_stand_beside_others_and_keep_the_block_s_condition(bring):
    text = SPLIT.replace(
        "amount_paid: received}", "amount_paid: received}\n    where: owed > 0\n    known_after: 2 days"
    )
    text += "  payments:\n    files: more.csv\n    columns: {credit_id: id, paid_on: day, amount: money}\n"
    rows = bring(text, plan_csv=PLAN + "L2,2024-01-31,0,2024-01-31,5\n", more_csv="id,day,money\nL9,2024-04-01,1\n")
    found = rows("SELECT credit_id, count(*), max(known_on) FROM payments GROUP BY 1 ORDER BY 1")
    assert found == [("L1", 3, dt.date(2024, 3, 22)), ("L9", 1, dt.date(2024, 4, 1))]


# --- flat files, several files, histories ---------------------------------------------------------------------------


def flat(rows: int = 400) -> str:
    lines = ["Income;City;Bad?"]
    lines += [
        f"{1000 + 7 * i % 900},5;{'Ulm' if i % 3 else 'Köln'};{int(7 * i % 900 < 200 + 100 * (i % 2))}"
        for i in range(rows)
    ]
    return "\n".join(lines) + "\n"


FLAT = """as_of: 2024-01-01
tables:
  observations:
    files: flat.csv
    format: {delimiter: ";", decimal: ","}
    columns: {customer_id: file_row, outcome: 'Bad?'}
    attributes: {numeric: [Income], categorical: [City]}
"""


def test_a_flat_file_without_dates_identifiers_or_customers_takes_ten_lines_and_gives_features(bring):
    assert len(FLAT.splitlines()) + 2 <= 10
    rows = bring(FLAT, flat_csv=flat())
    assert rows("SELECT customer_id, outcome, income, city FROM observations WHERE customer_id IN ('1', '400')") == [
        ("1", 1, 1000.5, "Köln"),
        ("400", 1, 1000.5 + 7 * 399 % 900, "Köln"),
    ]
    observe.main()
    featurise.main()
    features = duckdb.execute("FROM 'data/featurise/training/features.parquet'").df()
    assert len(features) == 400
    assert {"observations_income", "observations_city"} <= set(features.columns)


def test_a_glob_takes_what_is_left_and_never_the_outcome(bring):
    text = FLAT.replace("numeric: [Income], categorical: [City]", 'numeric: ["*"], categorical: [City]')
    rows = bring(text, flat_csv=flat())
    names = [row[0] for row in rows("SELECT column_name FROM (DESCRIBE observations)")]
    assert "income" in names
    assert not [name for name in names if "bad" in name]


def test_a_glob_s_names_do_not_collide_with_the_contract(bring):
    text = (
        "as_of: 2024-01-01\ntables:\n  observations:\n    files: f.csv\n    columns: {customer_id: who, outcome: bad}\n"
    )
    text += '    attributes: {numeric: ["*"]}\n'
    rows = bring(text, f_csv="who,bad,exposure,Exposure 2,known_on\n1,0,5,6,7\n")
    assert rows("SELECT exposure, exposure_2, exposure_2_2, known_on_2 FROM observations") == [(None, 5.0, 6.0, 7.0)]


def test_rows_are_numbered_within_each_file(bring):
    text = "as_of: 2024-01-01\ntables:\n  observations:\n    files: f*.csv\n"
    text += "    columns: {customer_id: who || '-' || file_row, outcome: bad}\n"
    rows = bring(text, f1_csv="who,bad\na,0\na,1\n", f2_csv="bad,who\n1,b\n")
    assert rows("SELECT customer_id, outcome FROM observations ORDER BY 1") == [("a-1", 0), ("a-2", 1), ("b-1", 1)]


def test_a_file_s_own_file_row_column_stays(bring):
    text = "as_of: 2024-01-01\ntables:\n  observations:\n    files: f.csv\n    columns: {customer_id: file_row, outcome: bad}\n"
    rows = bring(text, f_csv="file_row,bad\nx9,0\n")
    assert rows("SELECT customer_id FROM observations") == [("x9",)]


def test_several_tables_come_from_one_file_and_several_files_into_one_table(bring):
    rows = bring(
        """
tables:
  customers:
    - {files: "old/*.csv", format: {dates: "%d.%m.%Y"}, columns: {customer_id: Kunde, opened_on: seit, region: "'north'"}}
    - {files: new.csv, columns: {customer_id: id, opened_on: since, segment: tier}}
  calls:
    files: new.csv
    columns: {customer_id: id, event_on: called}
    attributes: {numeric: [minutes], categorical: [tier]}
    known_after: 3 days
  notes:
    files: new.csv
    columns: {customer_id: id}
    attributes: {categorical: {tier: tier}}
    static: true
""",
        old__a_csv="Kunde,seit\n1,01.02.2020\n",
        old__b_csv="seit,Kunde,egal\n03.02.2020,2,x\n",
        new_csv="id,since,tier,called,minutes\n3,2021-01-01,gold,2021-03-01,4.5\n",
    )
    assert rows("SELECT customer_id, opened_on, region, segment FROM customers ORDER BY 1") == [
        ("1", dt.date(2020, 2, 1), "north", None),
        ("2", dt.date(2020, 2, 3), "north", None),
        ("3", dt.date(2021, 1, 1), None, "gold"),
    ]
    assert rows("SELECT event_on, known_on, minutes, tier FROM calls") == [
        (dt.date(2021, 3, 1), dt.date(2021, 3, 4), 4.5, "gold")
    ]
    assert rows("SELECT event_on, known_on, tier FROM notes") == [(None, dt.date(1900, 1, 1), "gold")]


def test_lines_that_stand_twice_in_a_static_file_are_joined_once(bring):
    rows = bring(
        """
tables:
  customers:
    files: people.csv
    columns: {customer_id: id, opened_on: since, region: t.name}
    joins: [{files: towns.csv, as: t, on: row.town = t.code, static: true}]
""",
        people_csv="id,since,town\n1,2020-01-01,a\n2,2020-01-01,b\n",
        towns_csv="code,name\na,Aachen\na,Aachen\n",
    )
    assert rows("SELECT customer_id, region FROM customers ORDER BY 1") == [("1", "Aachen"), ("2", None)]


# --- odd files ------------------------------------------------------------------------------------------------------

ODD = "tables:\n  transactions:\n    files: f*\n    format: {}\n    columns: {{customer_id: {}, event_on: {}, amount: {}}}\n"
EXPECTED = [("甲", dt.date(2024, 3, 1), Decimal("1234.50")), ("乙", dt.date(2024, 3, 2), Decimal("-0.75"))]


@pytest.mark.parametrize(
    ("encoding", "form", "text"),
    [
        ("gb18030", '{encoding: gb18030, dates: "%Y年%m月%d日"}', "客户,日期,金额\n甲,2024年03月01日,1234.50\n乙,2024年03月02日,-0.75\n"),
        ("utf-16", '{encoding: utf-16, delimiter: "\\t", decimal: ",", thousands: "."}', "客户\t日期\t金额\n甲\t2024-03-01\t1.234,50\n乙\t2024-03-02\t-0,75\n"),
        ("utf-16-be", '{encoding: utf-16-be, delimiter: "||"}', "客户||日期||金额\n甲||2024-03-01||1234.50\n乙||2024-03-02||-0.75\n"),
        ("utf-8-sig", '{thousands: ",", skip: 2, dates: ["%d/%m/%y", "%b %d, %Y"]}', 'a report\n\n客户,日期,金额\n甲,01/03/24,"1,234.50"\n乙,"Mar 02, 2024",-0.75\n'),
        ("utf-8", "{delimiter: \";\", quote: \"'\", nulls: [n/a]}", "客户;日期;金额;注\n甲;2024-03-01;1234.50;'x;y'\n乙;2024-03-02;-0.75;'多\n行'\n丙;2024-03-02;n/a;\n"),
        ("utf-8", "{header: false, names: [客户, 日期, 金额]}", "甲,2024-03-01,1234.50\n乙,2024-03-02,-0.75\n"),
    ],
)  # fmt: skip
def test_texts_of_every_kind_give_the_same_rows(bring, encoding, form, text):
    rows = bring(ODD.format(form, "客户", "日期", "金额"), f_csv=text.encode(encoding))
    assert rows("SELECT customer_id, event_on, amount FROM transactions ORDER BY event_on") == EXPECTED


def test_decimals_of_parquet_and_a_named_sheet_keep_their_types(bring, tmp_path):
    import openpyxl

    folder = tmp_path / "data/raw/any"
    folder.mkdir(parents=True)
    values = "('甲', DATE '2024-03-01', 1234.50::DECIMAL(9,2)), ('乙', DATE '2024-03-02', -0.75)"
    duckdb.execute(f"COPY (FROM (VALUES {values}) t(who, day, money)) TO '{folder}/f.parquet'")
    rows = bring(ODD.format("{type: parquet}", "who", "day", "money"))
    assert rows("SELECT customer_id, event_on, amount FROM transactions ORDER BY event_on") == EXPECTED
    (folder / "f.parquet").unlink()
    book = openpyxl.Workbook()
    book.active.append(["nothing here"])
    sheet = book.create_sheet("moves")
    for row in (["who", "day", "money"], ["甲", dt.date(2024, 3, 1), 1234.5], ["乙", dt.datetime(2024, 3, 2), -0.75]):  # noqa: DTZ001 (as a cell holds it)
        sheet.append(row)
    book.save(folder / "f.xlsx")
    rows = bring(ODD.format("{type: xlsx, sheet: moves}", "who", "day", "money"))
    assert rows("SELECT customer_id, event_on, amount FROM transactions ORDER BY event_on") == EXPECTED


def test_compressed_json_lines_are_read(bring, tmp_path):
    import pyarrow as pa

    folder = tmp_path / "data/raw/any"
    folder.mkdir(parents=True)
    lines = [
        {"who": "甲", "day": "2024-03-01", "money": 1234.5},
        {"day": "2024-03-02", "who": "乙", "money": "-0.75", "more": [1]},
    ]
    with pa.CompressedOutputStream(str(folder / "f.jsonl.zst"), "zstd") as sink:
        sink.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    rows = bring(ODD.format("{type: jsonl}", "who", "day", "money"))
    assert rows("SELECT customer_id, event_on, amount FROM transactions ORDER BY event_on") == EXPECTED


def test_names_of_attributes_are_made_from_columns():
    mapping = parse_mapping(
        "name: a\ncurrency: EUR\nas_of: 2024-01-01\ntables:\n  observations:\n    files: f.csv\n"
        "    columns: {customer_id: id}\n    attributes: {numeric: [MonthlyIncome, 'Debt / Income (%)', 客户]}\n",
        "a.yaml",
    )
    (block,) = mapping.tables["observations"]
    assert list(block.attributes.numeric) == ["monthly_income", "debt_income", "客户"]
