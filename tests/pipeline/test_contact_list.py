"""The stage worklist: its tables, workbook, calendar, page and letters, on hand-drawn customers."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import duckdb
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


def made(*rows, of=None, lines=(), tongue="en", rules=None, raised=(), as_of=AS_OF, joined=None):
    table = rows[0] if isinstance(rows[0], pd.DataFrame) else pd.DataFrame(rows)
    facts = pd.DataFrame(
        {
            "customer_id": table["customer_id"], "kind": "company", "days_past_due": 10.0, "overdue_amount": 50.0,
            "accounts_period_end": pd.Timestamp("2023-12-31"), "last_event_on": pd.Timestamp("2025-12-31"),
            "monthly_inflow": 100.0, "revenue": np.nan, "joined_on": joined,
        }
    )  # fmt: skip
    up = pd.DataFrame(raised, columns=["customer_id", "code", "severity", "state", "evidence"], dtype=str)
    log = contacts.read_contacts(pd.DataFrame(lines, columns=list(contacts.COLUMNS), dtype=str))
    return stage.run(table, up, facts, of or {}, log, POLICY, rules or worklist.Rules(), as_of, tongue)


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


CALM = {"action": "keep", "grade": "A1", "alerts": ""}


def test_the_list_and_the_calendar_agree_on_reviews_that_were_not_made():
    """A year of runs after a first contact of anyone: whose day passed is on each list, with that day in the calendar."""
    crowd = [decided(customer_id=f"c{k:02d}", **CALM) for k in range(60)]
    first = ("gone", "2025-01-01", "done", "paid", "lee", "called", "")
    passed, rules = set(), worklist.Rules(overdue_days=0)
    for month in range(1, 13):
        as_of = dt.date(2025, month, 1)
        found, calendar = made(*crowd, lines=[first], as_of=as_of, rules=rules)
        days = calendar.set_index("customer_id")["review_on"]
        assert found.set_index("customer_id")["review_on"].equals(days[found["customer_id"]])
        assert set(found["kind"]) <= {"review"}
        assert passed <= set(found["customer_id"])
        assert set(days.index[days < pd.Timestamp(as_of)]) == passed, "nobody is due before the first contact"
        passed = set(days.index[days < pd.Timestamp(as_of) + pd.offsets.MonthBegin()])
    assert len(passed) == 60
    new, calendar = made(*crowd, lines=[first], joined=pd.Timestamp("2025-12-31"))
    assert (calendar["review_on"] >= pd.Timestamp("2025-12-31")).all()
    assert len(new) < 20


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
    told = stage.counts(found, log, pd.Series(["a", "b"]), "2025-01-19")
    assert (told["customers"], told["listed"], told["lines"], told["unknown_customers"]) == (2, 1, 2, 1)
    assert told["lines_after_as_of"] == 2
    assert stage.counts(found, log, pd.Series(["a", "b"]), "2025-01-20")["lines_after_as_of"] == 0
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


def test_a_workbook_that_holds_fewer_rows_says_so(rows, tmp_path, monkeypatch):
    assert desk_files.write_workbook(rows, tmp_path / "whole.xlsx", "en") == 0
    monkeypatch.setattr(desk_files, "MOST_ROWS", 1)
    for tongue, words in (("en", "The first 1 of 2 rows"), ("zh", "仅含 2 行中的前 1 行")):
        assert desk_files.write_workbook(rows, tmp_path / "cut.xlsx", tongue) == 1
        book = openpyxl.load_workbook(tmp_path / "cut.xlsx")
        assert book.active.max_row == 2
        assert words in book.worksheets[1]["A1"].value
        assert words in book.properties.description
    whole = openpyxl.load_workbook(tmp_path / "whole.xlsx")
    assert (len(whole.worksheets), whole.properties.description) == (1, None)


def read_ics(path):
    """Read back by the rules of RFC 5545: CRLF, lines of at most 75 octets, unfolded; each component's lines by name."""
    raw = path.read_bytes()
    assert raw.endswith(b"END:VCALENDAR\r\n")
    assert all(len(line) <= 75 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    lines = raw.decode().replace("\r\n ", "").removesuffix("\r\n").split("\r\n")
    assert (lines[0], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR")
    components = []
    for line in lines[1:-1]:
        name, _, value = line.partition(":")
        if name == "BEGIN":
            components.append({"is": value})
        elif name == "END":
            assert components[-1]["is"] == value
        elif components:
            assert name not in components[-1]
            components[-1][name] = value
    assert components, "RFC 5545, 3.6: at least one component"
    assert all({"UID", "DTSTAMP"} <= {*each} for each in components)
    assert len({each["UID"] for each in components}) == len(components)
    return components


def test_the_calendar_has_one_event_an_open_row(rows, tmp_path):
    desk_files.write_calendar(rows, tmp_path / "w.ics", AS_OF, "en")
    events = read_ics(tmp_path / "w.ics")
    assert [each["is"] for each in events] == ["VEVENT"] * 2
    assert "20260107" in {each["DTSTART;VALUE=DATE"] for each in events}
    assert all(
        dt.date.fromisoformat(each["DTEND;VALUE=DATE"]) - dt.date.fromisoformat(each["DTSTART;VALUE=DATE"])
        == dt.timedelta(1) for each in events
    )  # fmt: skip
    texts = [each["DESCRIPTION"] for each in events]
    assert any("客户逾期十天" * 12 in text and "and\\; signs < &\\\\" in text for text in texts)
    assert any("Owner: @lee" in text for text in texts)


def test_an_event_stays_the_same_from_run_to_run_until_the_next_contact(tmp_path):
    """The key is that of a task in the CRM and the kind: another week, limit or reason makes no second event."""

    def identities(**given):
        table = stage.as_table(made(decided(), raised=RAISED[:1], **given)[0], stage.SCHEMA)
        desk_files.write_calendar(table, tmp_path / "w.ics", given.get("as_of", AS_OF), "en")
        (event,) = read_ics(tmp_path / "w.ics")
        return event["UID"], event["DTSTAMP"], event["DTSTART;VALUE=DATE"]

    now, later = identities(), identities(as_of=dt.date(2026, 2, 1), of={"a": "lee"})
    assert now[0] == later[0]
    assert now[1:] == ("20260101T000000Z", "20260107")
    assert later[1:] == ("20260201T000000Z", "20260207")
    reached = ("a", "2026-02-03", "done", "paid", "lee", "called", "")
    again = identities(as_of=dt.date(2026, 6, 1), lines=[reached])
    assert again[0] != now[0]
    named = [hashlib.sha256(key).hexdigest()[:32] + "@bellwether" for key in (b"a/first/alarm", b"a/2026-02-03/alarm")]
    assert [now[0], again[0]] == named
    vain = ("a", "2026-06-03", "done", "not_reached", "lee", "called", "")
    assert identities(as_of=dt.date(2026, 7, 1), lines=[reached, vain])[0] == again[0]


def reviewed(tmp_path, *rows, days=92, tongue="en"):
    columns = ("customer_id", "owner", "grade", "months", "review_on", "last_contact_on", "again_from")
    frame = pd.DataFrame(rows, columns=list(columns))
    table = stage.as_table(frame, stage.CALENDAR)
    desk_files.write_reviews(table, tmp_path / "c.ics", AS_OF, days, tongue)
    return read_ics(tmp_path / "c.ics")


def test_regular_reviews_stand_in_a_calendar_of_their_own(tmp_path):
    """92 days from 1 January end with 2 April; one that was not made is due now, one of who rests when he may be asked."""
    rows = [
        ("last", None, "A1", 12, "2026-04-02", None, None), ("after", None, "A1", 12, "2026-04-03", None, None),
        ("today", "may", None, 12, "2026-01-01", None, None), ("missed", "lee; 李", "C1", 6, "2025-07-09", None, None),
        ("rests", None, "E1", 1, "2026-01-15", "2025-12-15", "2026-02-13"),
        ("rests long", None, "E1", 1, "2026-01-15", "2025-12-15", "2026-04-03"),
    ]  # fmt: skip
    events = reviewed(tmp_path, *rows)
    told = [(each["SUMMARY"], each["DTSTART;VALUE=DATE"]) for each in events]
    assert told == [
        ("Regular review: missed (C1)", "20260101"), ("Regular review: today (–)", "20260101"),
        ("Regular review: rests (E1)", "20260213"), ("Regular review: last (A1)", "20260402"),
    ]  # fmt: skip
    assert events[0]["DESCRIPTION"] == (
        "Overdue since 2025-07-09\\nMonths between reviews\\, by grade and action: 6\\nOwner: lee\\; 李"
    )
    assert events[0]["X-BELLWETHER-OWNER"] == "lee\\; 李"
    assert events[1]["DESCRIPTION"] == "Months between reviews\\, by grade and action: 12\\nOwner: may"
    assert len(reviewed(tmp_path, *rows, days=93)) == 6
    assert reviewed(tmp_path, *rows, tongue="zh")[0]["SUMMARY"] == "定期复核: missed (C1)"


def test_a_review_is_the_same_event_on_the_list_and_in_the_calendar(tmp_path):
    found, calendar = made(decided(**CALM), lines=[("a", "2025-01-08", "done", "paid", "lee", "called", "")])
    assert found["kind"].tolist() == ["review"]
    desk_files.write_calendar(stage.as_table(found, stage.SCHEMA), tmp_path / "w.ics", AS_OF, "en")
    desk_files.write_reviews(stage.as_table(calendar, stage.CALENDAR), tmp_path / "c.ics", AS_OF, 92, "en")
    listed, planned = read_ics(tmp_path / "w.ics"), read_ics(tmp_path / "c.ics")
    assert [each["UID"] for each in listed] == [each["UID"] for each in planned]
    alarmed = stage.as_table(made(decided(**CALM), raised=RAISED[:1])[0], stage.SCHEMA)
    desk_files.write_calendar(alarmed, tmp_path / "w.ics", AS_OF, "en")
    assert read_ics(tmp_path / "w.ics")[0]["UID"] != planned[0]["UID"], "an alarm is another event than his review"
    # due in the first week, but not before its day
    assert (listed[0]["DTSTART;VALUE=DATE"], planned[0]["DTSTART;VALUE=DATE"]) == ("20260108", "20260108")


def test_a_calendar_without_events_says_so_and_is_none_that_is_empty(rows, tmp_path):
    desk_files.write_calendar(rows.slice(0, 0), tmp_path / "w.ics", AS_OF, "en")
    for found in (read_ics(tmp_path / "w.ics"), reviewed(tmp_path)):
        (note,) = found
        assert (note["is"], note["SUMMARY"], note["DTSTART;VALUE=DATE"]) == ("VJOURNAL", "Nothing is due", "20260101")


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
    live = {"en": "takes everyone whose action is neither keep nor raise", "zh": "行动既非维持也非提高的所有客户"}
    assert (live[tongue] in page) == bool(capacities), "what the replayed lists lack is said beside their shares"
    later = {"en": "3 lines of what was done are dated after", "zh": "3 行处理记录"}
    assert later[tongue] not in page
    told["lines_after_as_of"] = 3
    assert later[tongue] in rendered("worklist.html.j2", tongue, w=words_in(tongue), run=run, f=figures)


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


def test_a_customer_joined_when_he_opened_or_when_he_was_first_known(tmp_path, monkeypatch):
    """As known on the date: what becomes known later, or on the day itself, does not count on it."""
    monkeypatch.chdir(tmp_path)
    folder, described = Path("data/ingest/tables/customers/known_month=x"), Path("data/ingest/tables.json")
    folder.mkdir(parents=True)
    pairs = pd.DataFrame(
        [(who, dt.date(2025, month, 1)) for who in ("a", "b", "c", "d") for month in (3, 6)],
        columns=["customer_id", "as_of"],
    )  # fmt: skip

    def joined():
        with duckdb.connect() as engine:
            engine.register("pairs", pairs)
            rows = engine.execute(stage._joined("pairs")).fetchall()
        return {(who, as_of.month): str(day) for who, as_of, day in rows}

    described.write_text("{}")
    assert joined() == {}
    described.write_text(json.dumps({"customers": {"columns": {"opened_on": "DATE"}}}))
    assert joined() == {}
    rows = [("a", "2020-01-01", "2024-01-01"), ("a", "2020-02-02", "2025-03-01"), ("a", None, "2025-04-01"),
            ("b", None, "2024-05-05"), ("b", None, "2024-07-07"), ("c", "2025-04-04", "2025-04-05")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["customer_id", "opened_on", "known_on"])
    days = {name: pd.to_datetime(table[name]).astype("datetime64[s]").dt.date for name in ("opened_on", "known_on")}
    schema = pa.schema([("customer_id", pa.string()), ("opened_on", pa.date32()), ("known_on", pa.date32())])
    pq.write_table(pa.Table.from_pandas(table.assign(**days), schema), folder / "part.parquet")
    assert joined() == {
        ("a", 3): "2020-01-01", ("a", 6): "2020-02-02", ("b", 3): "2024-05-05", ("b", 6): "2024-05-05",
        ("c", 6): "2025-04-04",
    }  # fmt: skip
    pq.write_table(
        pa.Table.from_pandas(table.assign(**days), schema).drop_columns("opened_on"), folder / "part.parquet"
    )
    described.write_text(json.dumps({"customers": {"columns": {"region": "VARCHAR"}}}))
    assert joined()["a", 3] == "2024-01-01"


def test_a_faulty_parameter_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params.PARAMS_FILE.write_text(
        "source: s\nworklist: {weeks: 0, avoided_early: 2, owners: {lee: -1, may: 0}, week: 1, weekly_capacity: 0,"
        " overdue_days: -1, calendar_days: 0}\n"
    )
    with pytest.raises(ConfigurationRefused) as refusal:
        stage.Params.load()
    places = {p.where.removeprefix("params.yaml: worklist.") for p in refusal.value.problems}
    assert places == {"weeks", "avoided_early", "owners.lee", "week", "overdue_days", "calendar_days"}


def test_an_empty_book_gives_an_empty_list(tmp_path):
    """Without a champion nothing is decided: the stage leaves files with headers and ends well."""
    full, _ = made(decided())
    found, calendar = made(pd.DataFrame([decided()]).iloc[:0])
    assert list(found) == list(full)
    assert (len(found), len(calendar)) == (0, 0)
    rows = stage.as_table(found, stage.SCHEMA)
    desk_files.write_workbook(rows, tmp_path / "w.xlsx", "en")
    desk_files.write_calendar(rows, tmp_path / "w.ics", AS_OF, "en")
    desk_files.write_reviews(stage.as_table(calendar, stage.CALENDAR), tmp_path / "c.ics", AS_OF, 92, "en")
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
