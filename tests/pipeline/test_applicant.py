"""Applicants' folders: what is read of them, what is missing, who is observed when, and what is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from workspaces import ROOT, put

from features.errors import DataRefused
from features.mapping import parse_mapping
from pipeline import applicant, histories, ingest
from pipeline.__main__ import main

PANEL = {"observed_by": "panel", "population": "open_credit"}
RUN = dt.date(2026, 1, 1)
CLIENTS = "client_no,client_type,joined,sector_code,branch_region,service_level,entered_on,birth_year,declared_income,headcount,housing,job,legal_form\n"
MOVES = "movement_no,client_no,booking_date,direction,value,balance,text_code,partner,entered_on\n"
LOOSE = ingest.Params(max_quarantined_row_share=1, max_quarantined_amount_share=1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A project of its own, in which nothing ever ran, with an empty folder `asked`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("source: simulated\nobserve: {horizon_months: 12}\n")
    (tmp_path / "asked").mkdir()
    return Path("asked")


def client(number: str, joined: str = "2024-02-01") -> str:
    return f"{number},P,{joined},,north,basic,{joined},1980,2500,,owner,employee,\n"


def move(number: str, who: str, day: str, value: str = "10.00") -> str:
    return f"{number},{who},{day},C,{value},100.00,WAGE,,{day}\n"


def given(text: str | None = None) -> histories.Given:
    mapping = parse_mapping(text or (ROOT / "data/sources/simulated.yaml").read_text(), "the mapping")
    return histories.given_in(Path("asked"), mapping, "the mapping")


def seen(found: histories.Given, as_of: str | None = None, rules: dict = PANEL) -> histories.Seen:
    histories.ingested(LOOSE, found, "the mapping", Path("scratch"))
    return histories.observed(Path("scratch"), found, as_of and dt.date.fromisoformat(as_of), rules, RUN)


def listed(observations: pa.Table) -> list[tuple[str, str, int]]:
    return [(row["customer_id"], str(row["as_of"]), row["months_back"]) for row in observations.to_pylist()]


def test_files_lie_flat_or_in_folders_and_what_is_not_there_is_said():
    put("movements.csv", MOVES + move("m1", "a", "2025-03-04"), "asked")
    put("letters/clients.csv", CLIENTS + client("a"), "asked")
    put("contracts.csv", "contract_no,client_no\n", "asked")
    put("month_ends.csv", "contract_no,statement_date\nk,2025-01-31\n", "asked")
    put("sectors.csv", "sector_code,quarter\ni1,2025-01-01\n", "asked")
    put("note.txt", "hello", "asked")
    found = given()
    assert set(found.mapping.tables) == {"customers", "transactions"}
    assert found.missing["credits"] == "no rows in */contracts.csv; no rows in */bureau_lines.csv"
    assert found.missing["statements"] == "without credits nobody can tell whose they are"
    assert found.market == ("industries",)
    assert found.unread == ("contracts.csv", "month_ends.csv", "note.txt", "sectors.csv")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "found an empty folder"),
        ({"who.csv": "id\n1\n"}, "who.csv: not read"),
        ({"clients.csv": CLIENTS}, "customers: no rows in */clients.csv"),
        ({"receipts.csv": "receipt_no\nr\n"}, "payments: without credits nobody can tell whose they are"),
    ],
)
def test_a_folder_of_nothing_is_refused_with_what_it_lacks(files, said):
    for name, text in files.items():
        put(name, text, "asked")
    with pytest.raises(DataRefused) as refusal:
        given()
    (problem,) = refusal.value.problems
    assert said in problem.sentence()
    assert "*/movements.csv" in problem.must_be


def test_the_newest_row_dates_the_folder_and_everyone_is_observed_or_refused():
    put("clients.csv", CLIENTS + client("b") + client("a") + client("late", "2025-06-30"), "asked")
    put("movements.csv", MOVES + move("m1", "a", "2025-03-04"), "asked")
    found = seen(given())
    assert found.said == "2025-07-01, the day after the newest row was known"
    assert listed(found.observations) == [("a", "2025-07-01", 0), ("b", "2025-07-01", 0), ("late", "2025-07-01", 0)]
    asked = seen(given(), "2025-03-04")
    assert [row[:2] for row in listed(asked.observations)] == [("a", "2025-03-04"), ("b", "2025-03-04")]
    assert asked.refused == {"late": "nothing is known before 2025-03-04"}
    assert seen(given(), "2020-01-01").as_of is None


def test_the_population_rule_refuses_nobody_and_says_when_it_held():
    """Who has a credit was in scope at the month starts since; who is in default now is scored, and it is said."""
    put("clients.csv", CLIENTS + client("a") + client("b"), "asked")
    head = "contract_no,client_no,product_code,signed_on,granted,ceiling,months,rate_pct,entered_on\n"
    put(
        "contracts.csv",
        head + "k1,a,CARD,2025-04-10,,5000,,9.5,2025-04-10\nk2,b,CARD,2025-04-10,,5000,,9.5,2025-04-10\n",
        "asked",
    )
    head = "contract_no,statement_date,outstanding,ceiling,minimum_payment,days_late,amount_late,state_code\n"
    lines = [f"{line},2025-0{month}-28,900,5000,50,{late},{late},N\n"
             for line, worst in (("k1", 0), ("k2", 120)) for month in (4, 5, 6) for late in (worst if month == 6 else 0,)]  # fmt: skip
    put("month_ends.csv", head + "".join(lines), "asked")
    found = seen(given(), "2025-07-01")
    assert listed(found.observations) == [
        ("a", "2025-05-01", 2), ("b", "2025-05-01", 2), ("a", "2025-06-01", 1), ("b", "2025-06-01", 1),
        ("a", "2025-07-01", 0), ("b", "2025-07-01", 0),
    ]  # fmt: skip
    assert found.outside == {"b": "in_default"}


def test_a_broken_row_is_told_with_its_rule_and_place_and_too_many_are_refused():
    put("clients.csv", CLIENTS + client("a") + client("gone", "soon"), "asked")
    put("movements.csv", MOVES + move("m1", "a", "2025-03-04") + move("m2", "a", "2025-03-05", "ten"), "asked")
    with pytest.raises(DataRefused) as refusal:
        histories.ingested(ingest.Params(), given(), "the mapping", Path("scratch"))
    told = " ".join(problem.sentence() for problem in refusal.value.problems)
    assert "table transactions: must be at most 0.50% of the rows in quarantine; found 50.00%" in told
    assert "transactions: sql:amount 1 (movements.csv, line 3)" in told
    assert "ten" not in told.split()
    found = given()
    assert histories.ingested(LOOSE, found, "the mapping", Path("scratch")) == {"customers": 1, "transactions": 1}
    assert any("movements.csv, line 3" in rule for rule in histories.broken_rules(Path("scratch")))
    assert seen(found).refused == {"gone": "every row is in quarantine"}


DECISIONS = """name: shop
currency: EUR
tables:
  observations:
    files: asked.csv
    columns: {customer_id: id, as_of: asked_on, outcome: bad, exposure: row.amount}
    attributes: {numeric: {people: place.people}}
    joins: [{files: places.csv, as: place, on: row.place = place.name, static: true}]
"""


def test_a_source_of_decisions_needs_no_outcome_and_lends_what_it_joins():
    put("asked.csv", "id,asked_on,amount,place\na,2025-02-03,50,x\na,2025-05-06,70,x\nb,2025-01-02,20,y\n", "asked")
    with pytest.raises(DataRefused, match=r"observations: asked\.csv is joined with places\.csv, which is not there"):
        given(DECISIONS)
    put("places.csv", "name,people\nx,10\ny,20\n", "data/raw/shop")
    put("asked.csv", "id,asked_on,amount,place,bad\nz,2020-02-03,1,x,0\n", "data/raw/shop")
    found = given(DECISIONS)
    rules = {"observed_by": "source", "population": "observations"}
    dated = seen(found, rules=rules)
    assert dated.said == "each one's newest decision in the folder"
    assert listed(dated.observations) == [("b", "2025-01-02", 0), ("a", "2025-05-06", 0)]
    rows = pd.read_parquet("scratch/tables/observations").sort_values("as_of")
    assert rows["people"].tolist() == [20, 10, 10]
    assert [row[1] for row in listed(seen(found, "2025-03-01", rules).observations)] == ["2025-03-01", "2025-03-01"]


def test_an_undated_source_looks_on_its_one_date():
    text = """name: flat
currency: EUR
as_of: 2024-01-01
tables:
  observations: {files: a.csv, columns: {customer_id: id, outcome: bad}, attributes: {numeric: {debt: debt}}}
"""
    put("a.csv", "id,debt\nx,1\n", "asked")
    found = seen(given(text), rules={"observed_by": "source", "population": "observations"})
    assert listed(found.observations) == [("x", "2024-01-01", 0)]


def test_who_is_refused_has_a_row_too():
    table = pa.table({"customer_id": ["b"], "pd_12m": [0.1]})
    rows = applicant.with_refused(table, {"a": "nothing is known"}).to_pylist()
    assert [(row["customer_id"], row["pd_12m"], row["refused_because"]) for row in rows] == [
        ("a", None, "nothing is known"), ("b", 0.1, None),
    ]  # fmt: skip


def test_usage_and_a_project_without_a_publication_end_with_code_4(capsys):
    put("movements.csv", MOVES + move("m1", "a", "2025-03-04"), "asked")
    put("rows.csv", "x\n1\n", ".")
    for arguments, said in (
        (["asked"], "must be a published version"),
        (["asked", "--out", "answer.txt"], "must be a file .csv or .parquet"),
        (["rows.csv", "--source", "simulated"], "must be options of a folder"),
        (["nowhere"], "must be a published version"),
    ):
        assert main(["score", *arguments]) == 4
        assert said in capsys.readouterr().err
