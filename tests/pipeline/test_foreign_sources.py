"""Data as other lenders write it: what a mapping reads without Python, and drafts that run as they stand."""

import datetime as dt
import json
import random
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from features.mapping import parse_mapping
from pipeline import ingest, new_source
from pipeline.check_source import check

D = dt.date


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty project folder of the source `mine`."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/sources").mkdir(parents=True)
    loose = "ingest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n"
    Path("params.yaml").write_text("source: mine\nas_of: latest\n" + loose)
    return tmp_path


def put(name: str, text: str) -> None:
    path = Path("data/raw/mine") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def ingested(tables: str, select: str, top: str = "") -> list[tuple]:
    Path("data/sources/mine.yaml").write_text(f"name: mine\ncurrency: EUR\n{top}tables:\n{tables}")
    ingest.main()
    table = tables.partition(":")[0].strip()
    return duckdb.execute(f"SELECT {select} FROM 'data/ingest/tables/{table}/*/*.parquet' ORDER BY 1").fetchall()


def test_days_and_months_before_the_decision_are_dates(room):
    put("b.csv", "id,who,days,months,birth\nx,1,-30,-1,-10000.0\ny,1,-1.0,-2,\n")
    rows = ingested(
        "  credits:\n    files: b.csv\n    columns: {credit_id: id, customer_id: who, opened_on: date '2018-01-01' + days}\n"
        "    attributes: {numeric: {age: \"date_diff('day', date '2018-01-01' + birth, date '2018-01-01')\"},"
        " categorical: {month: date '2018-01-01' + to_months(months) - 1}}\n",
        "credit_id, opened_on, age, month",
        "as_of: 2018-01-01\n",
    )
    assert rows == [("x", D(2017, 12, 2), 10000.0, "2017-11-30"), ("y", D(2017, 12, 31), None, "2017-10-31")]


def test_signs_rates_and_thousands_are_read(room):
    put("m.csv", 'id,day,value,rate\na,2024-01-01,"1.234,50 €","0,912345"\nb,2024-01-02,"-2,00 €","1,00"\n')
    form = "{decimal: ',', thousands: '.', strip: '€ '}"
    rows = ingested(
        f"  transactions:\n    files: m.csv\n    format: {form}\n    columns: {{transaction_id: id, customer_id: id, "
        "event_on: day, amount: 'round(value * rate, 2)', balance_after: value}\n",
        "transaction_id, amount, balance_after",
    )
    assert rows == [("a", Decimal("1126.29"), Decimal("1234.50")), ("b", Decimal("-2.00"), Decimal("-2.00"))]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("epoch", "1709251200", D(2024, 3, 1)), ("epoch_ms", "1709337599999", D(2024, 3, 1)),
        ("excel", "45352", D(2024, 3, 1)), ("%Y%m", "202403", D(2024, 3, 1)), ("%b-%Y", "Mar-2024", D(2024, 3, 1)),
        ("", "2024-03-01T23:30:00-08:00", D(2024, 3, 1)), ("", "2024-03-01 later", None), ("", "2024-03-01x", None),
    ],
)  # fmt: skip
@pytest.mark.fault("D4")
def test_dates_of_every_kind(room, form, text, expected):
    put("m.csv", f"id,day\na,{text}\nb,\n")
    dates = f"    format: {{dates: '{form}'}}\n" if form else ""
    rows = ingested(
        f"  customers:\n    files: m.csv\n{dates}    columns: {{customer_id: id, opened_on: day, known_on: date '2024-03-02'}}\n",
        "opened_on",
    )
    assert rows == [(expected,), (None,)][0 if expected else 1 :]


def test_a_sheet_below_a_title_an_array_and_fields_within_fields(room):
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.create_sheet("Firms")
    for row in (
        ["Register"],
        [],
        ["Company ID", "Since", "Note"],
        ["A1", D(2020, 1, 5), None],
        ["A2", D(2020, 1, 6), "x"],
    ):
        sheet.append(row)
    book.save("data/raw/mine/firms.xlsx")
    rows = ingested(
        "  customers:\n    files: firms.xlsx\n    format: {type: xlsx, sheet: Firms, skip: 2}\n"
        "    columns: {customer_id: Company ID, opened_on: Since}\n",
        "customer_id, opened_on",
    )
    assert rows == [("A1", D(2020, 1, 5)), ("A2", D(2020, 1, 6))]
    put("moves.json", json.dumps([{"who": {"id": "007"}, "at": "2024-01-02T03:04:05Z", "sum": {"value": "-1.50"}}]))
    rows = ingested(
        "  transactions:\n    files: moves.json\n    format: {type: jsonl}\n"
        "    columns: {customer_id: who->>'id', event_on: at, amount: -(sum->>'value')}\n",
        "customer_id, event_on, amount",
    )
    assert rows == [("007", D(2024, 1, 2), Decimal("1.50"))]


def test_a_broken_row_says_its_line_in_the_lender_s_file(room):
    put("m.arff", "@relation r\n@attribute id string\n@attribute bad {0,1}\n@data\n% a comment\n'a b',0\nc,7\n")
    ingested(
        "  observations:\n    files: m.arff\n    format: {type: arff}\n    columns: {customer_id: id, outcome: bad}\n",
        "customer_id",
        "as_of: 2024-01-01\n",
    )
    found = duckdb.execute("SELECT rules, deliveries FROM 'data/ingest/quarantine/observations.parquet'").fetchall()
    assert found == [(["range:outcome"], 1)]
    put("m.csv", "a title\nid,bad\nx,0\ny,9\n")
    ingested(
        "  observations:\n    files: m.csv\n    format: {skip: 1}\n    columns: {customer_id: id, outcome: bad}\n",
        "customer_id",
        "as_of: 2024-01-01\n",
    )
    assert duckdb.execute("SELECT file, line FROM 'data/ingest/quarantine/observations.parquet'").fetchall() == [
        ("m.csv", 4)
    ]


# --- drafts ---------------------------------------------------------------------------------------------------------


def drafted() -> dict:
    assert new_source.write("mine") == 0
    mapping = parse_mapping(Path("data/sources/mine.yaml").read_text(), "mine.yaml")
    assert check("mine") == 0
    return mapping.tables


def test_invoices_become_credits_instalments_and_payments(room):
    lines = [f"{i},C{i % 9},2020-0{i % 9 + 1}-01,2020-0{i % 9 + 1}-28,{f'2020-1{i % 3}-05' if i % 4 else ''},{i}.50,USD"
             for i in range(90)]  # fmt: skip
    put("ar.csv", "invoice_no,customer_no,issue_date,due_date,clear_date,amount,currency\n" + "\n".join(lines) + "\n")
    tables = drafted()
    assert set(tables) == {"credits", "instalments"}
    assert tables["instalments"][0].columns["paid_on"] == "clear_date"
    assert tables["instalments"][0].columns["known_on"] == "issue_date"


def test_standings_mentions_industries_accounts_and_months_side_by_side(room):
    quarters = [f"{year}-{month:02d}-01" for year in (2021, 2022) for month in (1, 4, 7, 10)]
    firms = [f"F{i:03d}" for i in range(30)]
    put("rank.csv", "company_id,quarter,market_share_pct,brand_score\n" + "".join(
        f"{f},{q},{i}.5,{i}\n" for i, f in enumerate(firms) for q in quarters))  # fmt: skip
    put("press.csv", "company_id,published_at,outlet,sentiment\n" + "".join(
        f"{f},{q},{'ab'[i % 2]},{(i % 5 - 2) / 2}\n" for i, f in enumerate(firms) for q in quarters))  # fmt: skip
    put("trade.csv", "sector,quarter,growth,default_rate\n" + "".join(
        f"{s},2021Q{q},0.0{q},0.01\n" for s in "AB" for q in range(1, 5)))  # fmt: skip
    put("lines.csv", "loan_id,company_id,open_date,principal_cents,dpd_202201,dpd_202202,dpd_202203\n" + "".join(
        f"L{i},{f},2020-01-0{i % 9 + 1},{1000 * i},0,{i % 2 * 30},{i % 3 * 60}\n" for i, f in enumerate(firms)))  # fmt: skip
    tables = drafted()
    assert set(tables) == {"standings", "mentions", "industries", "credits", "statements"}
    assert tables["standings"][0].columns["market_share"] == "market_share_pct / 100"
    assert tables["credits"][0].columns["principal"] == "principal_cents / 100"
    assert [each["month"] for each in tables["statements"][0].repeat] == [202201, 202202, 202203]


def test_a_running_loan_is_no_good_one_and_words_of_other_languages_are_known(room):
    draw = random.Random(1)
    put("lc.csv", "id,issue_d,int_rate,loan_status,last_pymnt_amnt\n" + "".join(
        f"{i},{'Jan' if i % 2 else 'Jul'}-201{i % 5},{draw.uniform(5, 20):.2f}%,"
        f"{draw.choice(['Current', 'Fully Paid', 'Charged Off'])},{i}\n" for i in range(300)))  # fmt: skip
    (block,) = drafted()["observations"]
    assert "Current" not in block.columns["outcome"]
    assert block.columns["as_of"] == "issue_d"
    assert block.attributes.numeric == {"int_rate": "int_rate"}
    Path("data/sources/mine.yaml").unlink()
    Path("data/raw/mine/lc.csv").unlink()
    put("k.csv", "Vertragsnr;Betrag;Zahlungsausfall\n" + "".join(
        f"{i};1.{i:03d},50 €;{'ja' if i % 7 == 0 else 'nein'}\n" for i in range(200)))  # fmt: skip
    (block,) = drafted()["observations"]
    assert block.columns["customer_id"] == "Vertragsnr"
    assert (block.format.strip, block.format.decimal, block.format.thousands) == ("€ ", ",", ".")
