"""The stage worklist: its tables, workbook, calendar, page and letters, on hand-drawn customers."""

from __future__ import annotations

import datetime as dt
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from browsers import chromium

from features.errors import ConfigurationRefused
from models import contacts, worklist
from models.contract import TableContract, check_table
from models.policy import Policy
from pipeline import desk_files, letter, params
from pipeline import worklist as stage
from pipeline.__main__ import main as command
from pipeline.plotted import NAMING, records
from pipeline.report import contacts_told, rendered, words_in

ROOT = Path(__file__).parents[2]
AS_OF = dt.date(2026, 1, 1)
POLICY = Policy.at(yaml.safe_load((ROOT / "data/policy/standard.yaml").read_text()), AS_OF)
SHARE = {"share": 0.4, "share_low": 0.3, "share_high": 0.5, "loss_share": None}
EVIL = '=HYPERLINK("http://x";"y")'


def decided(**changes):
    row = {
        "customer_id": "a", "grade": "D2", "grade_change": -2, "pd_12m": 0.2, "exposure": 1000.0, "expected_loss": 90.0,
        "credit_limit": 1000.0, "credit_limit_recommended": 400.0, "payment_term_days": 14, "action": "reduce",
        "alerts": "NEW_ARREARS", "reason_1_text": "Overdue: 50 (typical: 0)", "reason_2_text": None,
    }  # fmt: skip
    return row | changes


def made(*rows, of=None, lines=(), tongue="en", rules=None, raised=()):
    table = rows[0] if isinstance(rows[0], pd.DataFrame) else pd.DataFrame(rows)
    facts = pd.DataFrame(
        {
            "customer_id": table["customer_id"], "kind": "company", "days_past_due": 10.0, "overdue_amount": 50.0,
            "accounts_period_end": pd.Timestamp("2023-12-31"), "last_event_on": pd.Timestamp("2025-12-31"),
            "monthly_inflow": 100.0, "revenue": np.nan,
        }
    )  # fmt: skip
    up = pd.DataFrame(raised, columns=["customer_id", "code", "severity", "state", "evidence"], dtype=str)
    log = contacts.read_contacts(pd.DataFrame(lines, columns=list(contacts.COLUMNS), dtype=str))
    return stage.run(table, up, facts, of or {}, log, POLICY, rules or worklist.Rules(), AS_OF, tongue)


RAISED = (
    ("a", "NEW_ARREARS", "high", "raised", "10 days past due, 0 before"),
    ("a", "GRADE_DOWN", "medium", "kept", "2 notches down"),
    ("a", "PD_HIGH", "high", "cleared", "gone"),
    ("b", "LIMIT_USE", "low", "raised", "0.95 of the limit used"),
    ("b", "PD_HIGH", "high", "cleared", "gone"),
)


def test_a_row_says_why_what_for_and_by_whom():
    """A cleared alert is no reason; a low one puts nobody on the list."""
    found, calendar = made(
        decided(), decided(customer_id="b", action="keep", grade="A1"), of={"a": "lee"}, raised=RAISED
    )
    row = found[found["customer_id"] == "a"].iloc[0]
    assert (row["rank"], row["owner"], row["kind"], row["state"], row["week"]) == (1, "lee", "alarm", "open", 1)
    assert row["why"] == "10 days past due, 0 before; 2 notches down; Overdue: 50 (typical: 0)"
    assert row["ask_codes"] == "payment; old_accounts; driver"
    assert row["offer"] == "a limit of 400, payment within 14 days"
    assert row["loss_avoided"] == pytest.approx(27)
    assert "alarm" not in set(found.loc[found["customer_id"] == "b", "kind"])
    assert calendar["months"].tolist() == [1, 12]  # urgent by its action; A1 once a year


def listed_in_every_state():
    lines = [
        ("b", "2025-12-20", "done", "promised", "lee", "called", ""),
        ("c", "2025-12-20", "snoozed", "", "lee", "on leave", "2026-02-01"),
    ]
    customers = [decided(customer_id=who) for who in "abcd"]
    few = worklist.Rules(unassigned_capacity=1, weeks=1)
    raised = [(who, "NEW_ARREARS", "high", "raised", "late") for who in "abcd"]
    return stage.as_table(made(*customers, lines=lines, rules=few, raised=raised)[0], stage.SCHEMA)


def test_the_list_keeps_its_contract_and_each_planted_fault_is_found():
    """Every state stands on the list; what its contract file says of a column is what the stage writes."""
    contract = TableContract.from_json((ROOT / "data/contracts/worklist.v1.json").read_bytes())
    table = listed_in_every_state()
    assert sorted(table["state"].to_pylist()) == ["done", "open", "snoozed", "waiting"]
    assert contract.arrow_schema().equals(stage.SCHEMA)
    assert check_table(table, contract) == []
    assert check_table(table.slice(0, 0), contract) == []
    faults = {
        "state": {"state": ["open", "waiting", "snoozed", "gone"]}, "week": {"week": [1, 1, None, None]},
        "rests": {"again_from": [None, None, None, dt.date(2026, 2, 18)]}, "ask_codes": {"ask_codes": ["pay"] * 4},
        "rank": {"rank": [2, 1, None, None]}, "customer_id": {"customer_id": ["a", "a", "b", "c"]},
        "loss_avoided": {"loss_avoided": [Decimal("-1.00")] * 4},
    }  # fmt: skip
    for where, change in faults.items():
        ((column, values),) = change.items()
        place = table.column_names.index(column)
        wrong = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
        assert [problem.where for problem in check_table(wrong, contract)] == [f"worklist v1: {where}"], where


def test_every_column_of_the_page_is_seen_at_1280_pixels(tmp_path):
    """With texts as long as those of a run; before, the last columns were cut."""
    frame = listed_in_every_state().to_pandas().astype(object)
    frame["customer_id"], frame["owner"] = [f"1000000{i}" for i in range(4)], "Li Xiaoming"
    frame["why"] = "42 days past due, 0 before; PD 12.1% now, 3.4% before; Days past due on statements: 42 (typical: 0)"
    frame["ask"] = (
        "payment of the overdue 1,250.00; newer accounts than those to 2023-12-31; proof of income or turnover"
    )
    frame["expected_loss"] = Decimal("12345678.90")
    rows = frame.where(frame.notna(), None).to_dict("records")
    told = {"by_state": {}, "rules": stage.Params(measured_capacities=(10,)).model_dump(mode="json"),
            "measured": {"capacities": {}, "dates": 13, "defaulters": 7, "days_before": 60}}  # fmt: skip
    figures = {"worklist": told, "contacts": {"rows": rows, "owners": []}}
    run = {"source": "s", "as_of": "2026-01-01", "model_version": "m"}
    page = tmp_path / "worklist.html"
    page.write_text(rendered("worklist.html.j2", "en", w=words_in("en"), run=run, f=figures), encoding="utf-8")
    with chromium() as browser:
        seen = browser.new_page(viewport={"width": 1280, "height": 900})
        seen.goto(page.as_uri())
        cut = seen.evaluate("[...document.querySelectorAll('.wide')].map(w => w.scrollWidth - w.clientWidth)")
        assert cut
        assert max(cut) <= 0, cut
        seen.close()


def test_what_people_did_survives_the_run():
    line = ("a", "2025-12-20", "done", "promised", "lee", "called", "")
    row = made(decided(), lines=[line], raised=RAISED)[0].iloc[0]
    assert (row["state"], row["outcome"], str(row["again_from"])[:10]) == ("done", "promised", "2026-02-18")
    assert pd.isna(row["week"])


def test_a_line_of_who_left_is_counted_and_one_of_who_is_calm_is_not():
    calm = [(who, "2025-01-20", "done", "paid", "lee", "called", "") for who in ("b", "gone")]
    found, _ = made(decided(), lines=calm, raised=RAISED)
    log = contacts.read_contacts(pd.DataFrame(calm, columns=list(contacts.COLUMNS), dtype=str))
    told = stage.counts(found, log, pd.Series(["a", "b"]))
    assert (told["customers"], told["listed"], told["lines"], told["unknown_customers"]) == (2, 1, 2, 1)
    assert told["loss_avoided"] == {"open": 27.0, "waiting": 0.0}


@pytest.fixture
def rows():
    found, _ = made(
        decided(customer_id=EVIL, reason_1_text="line\nbreak, and; signs < &\\"), decided(customer_id="b", grade=None),
        raised=[(EVIL, "NEW_ARREARS", "high", "raised", "客户逾期十天" * 12)], of={EVIL: "@lee", "b": "#N/A"},
    )  # fmt: skip
    return stage.as_table(found, stage.SCHEMA)


def test_the_workbook_holds_the_rows_and_no_formula(rows, tmp_path):
    desk_files.write_workbook(rows, tmp_path / "one.xlsx", "en")
    desk_files.write_workbook(rows, tmp_path / "two.xlsx", "en")
    assert (tmp_path / "one.xlsx").read_bytes() == (tmp_path / "two.xlsx").read_bytes()
    sheet = openpyxl.load_workbook(tmp_path / "one.xlsx").active
    assert [cell.value for cell in sheet[1]] == rows.column_names
    assert sheet.max_row == 1 + rows.num_rows
    assert not any(cell.data_type in ("f", "e") for row in sheet for cell in row)
    assert {row[1].value for row in sheet.iter_rows(min_row=2)} == {"'" + EVIL, "b"}
    due = sheet.cell(2, rows.column_names.index("due_on") + 1).value
    assert due.date() == dt.date(2026, 1, 7)
    with zipfile.ZipFile(tmp_path / "one.xlsx") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {desk_files.EPOCH}
        assert "1980-01-01" in archive.read("docProps/core.xml").decode()


def test_the_calendar_has_one_event_an_open_row(rows, tmp_path):
    """Read back by the rules of RFC 5545: CRLF, lines of at most 75 octets, unfolded and unescaped."""
    desk_files.write_calendar(rows, tmp_path / "w.ics", "en")
    raw = (tmp_path / "w.ics").read_bytes()
    assert raw.endswith(b"END:VCALENDAR\r\n")
    assert all(len(line) <= 75 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    lines = raw.decode().replace("\r\n ", "").split("\r\n")
    assert lines.count("BEGIN:VEVENT") == lines.count("END:VEVENT") == 2
    assert "DTSTART;VALUE=DATE:20260107" in lines
    assert "DTEND;VALUE=DATE:20260108" in lines
    assert len({line for line in lines if line.startswith("UID:")}) == 2
    texts = [line.removeprefix("DESCRIPTION:") for line in lines if line.startswith("DESCRIPTION:")]
    assert any("客户逾期十天" * 12 in text and "and\\; signs < &\\\\" in text for text in texts)


def test_the_letter_tells_the_customer_nothing_of_the_model(rows):
    """Talking points do; nothing is left of a template's signs."""
    row = next(each for each in rows.to_pylist() if each["customer_id"] == EVIL)
    for tongue, overdue in (("en", "50.00 EUR are overdue"), ("zh", "50.00 EUR 已逾期")):
        text = letter.written("letter", tongue, row, {"currency": "EUR"})
        assert overdue in text
        assert "2023-12-31" in text
        for secret in ("20.0%", "D2", "NEW_ARREARS", "逾期十天", "line", "PD"):
            assert secret not in text
        points = letter.written("talking_points", tongue, row, {"currency": "EUR"})
        assert "20.0%" in points
        assert "line break, and; signs < &" in points
        assert "{" not in text + points


def test_letters_are_refused_without_a_worklist_and_for_others(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(["letter", "b"]) == 4
    folder = Path("data/publish/current/worklist")
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "worklist.parquet")
    (folder / "summary.json").write_text(json.dumps({"currency": None}))
    assert command(["letter", "nobody-here"]) == 2
    assert "nobody-here" not in capsys.readouterr().err
    assert command(["letter", "b", "--language", "zh", "--out", "texts"]) == 0
    assert sorted(path.name for path in Path("texts").iterdir()) == ["letter.zh.txt", "talking_points.zh.txt"]


@pytest.mark.parametrize("tongue", ["en", "zh"])
@pytest.mark.parametrize("capacities", [{}, {"10": dict.fromkeys(("worklist", "by_pd", "random"), SHARE)}])
def test_the_page_escapes_what_comes_from_data(rows, tongue, capacities):
    frame = rows.to_pandas().assign(owner="<b>lee</b>").astype(object)
    records = frame.where(frame.notna(), None).to_dict("records")
    rules = stage.Params(measured_capacities=(10,)).model_dump(mode="json")
    measure = {"capacities": capacities, "dates": 13, "defaulters": 7, "days_before": 60}
    told = {"by_state": {"open": 2}, "rules": rules, "measured": measure}
    figures = {"worklist": told, "contacts": {"rows": records, "owners": []}}
    run = {"source": "s", "as_of": "2026-01-01", "model_version": "m"}
    page = rendered("worklist.html.j2", tongue, w=words_in(tongue), run=run, f=figures)
    assert "&lt;b&gt;lee&lt;/b&gt;" in page
    assert "<b>lee" not in page
    assert ("30% – 50%" in page) == bool(capacities)


def test_an_owner_is_the_one_known_last_before_the_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/ingest/tables/customers/known_month=2025-12")
    folder.mkdir(parents=True)
    days = [dt.date(2025, 1, 1), dt.date(2025, 12, 31), dt.date(2026, 1, 1), dt.date(2025, 1, 1)]
    pd.DataFrame(
        {"customer_id": ["a", "a", "a", "b"], "owner": ["may", "lee", "late", ""], "known_on": days}
    ).to_parquet(folder / "part.parquet")
    described = Path("data/ingest/tables.json")
    described.write_text(json.dumps({"customers": {"columns": {"owner": "VARCHAR"}}}))
    assert stage.owners("2026-01-01") == {"a": "lee"}
    described.write_text(json.dumps({"customers": {"columns": {}}}))
    assert stage.owners("2026-01-01") == {}


def test_a_faulty_parameter_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params.PARAMS_FILE.write_text("source: s\nworklist: {weeks: 0, avoided_early: 2, owners: {lee: 0}, week: 1}\n")
    with pytest.raises(ConfigurationRefused) as refusal:
        stage.Params.load()
    places = {p.where.removeprefix("params.yaml: worklist.") for p in refusal.value.problems}
    assert places == {"weeks", "avoided_early", "owners.lee", "week"}


def test_an_empty_book_gives_an_empty_list(tmp_path):
    """Without a champion nothing is decided: the stage leaves files with headers and ends well."""
    full, _ = made(decided())
    found, calendar = made(pd.DataFrame([decided()]).iloc[:0])
    assert list(found) == list(full)
    assert (len(found), len(calendar)) == (0, 0)
    rows = stage.as_table(found, stage.SCHEMA)
    desk_files.write_workbook(rows, tmp_path / "w.xlsx", "en")
    desk_files.write_calendar(rows, tmp_path / "w.ics", "en")
    assert openpyxl.load_workbook(tmp_path / "w.xlsx").active.max_row == 1


def test_figures_without_names_hold_neither_customers_nor_owners(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/worklist")
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "worklist.parquet")
    summary = {"rules": {"owners": {"lee-sits-here": 3}}, "by_owner": {"lee-sits-here": [1, 2.5]}}
    (folder / "summary.json").write_text(json.dumps(summary))
    figures = contacts_told(1)
    assert len(figures["contacts"]["rows"]) == 1
    assert figures["contacts"]["owners"] == [{"owner": "lee-sits-here", "contacts": 1, "loss_avoided": 2.5}]
    assert "lee-sits-here" not in json.dumps({k: v for k, v in figures.items() if k not in NAMING})
    assert not records(figures)
