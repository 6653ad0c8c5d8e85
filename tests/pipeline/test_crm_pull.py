"""`pull` against stateful stand-ins: what is read becomes a delivery, each record once, and features under the time rule."""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
import re
import stat
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from crm_servers import FxiaokeTenant, Tenant, ZohoTenant, calm, quick, serve  # noqa: F401  quick is a fixture of all
from workspaces import ROOT

from features.build import Matrix, Settings
from features.errors import BusyRefused, ServiceRefused
from features.tables import describe_tables, open_tables
from models import contacts
from pipeline import ingest, worklist
from pipeline.__main__ import main
from pipeline.sinks import calls, gathered, pull, sync

DAY = 86_400_000
THIRD = 1_793_700_000_000  # 2026-11-03 18:00 in Shanghai
ACCOUNTS = {  # canonical column -> (zoho's field, its type, fxiaoke's field, its type)
    "key": ("Customer_Code", "text", "customer_code__c", "text"),
    "industry": ("Industry", "text", "industry_level1", "text"), "region": ("Billing_State", "text", "province", "text"),
    "segment": ("Customer_Segment", "text", "account_level", "text"), "owner": ("Owner", "ownerlookup", "owner", "employee"),
    "credit_line": ("Credit_Line", "currency", "credit_line__c", "currency"),
    "market_share": ("Market_Share", "percent", "market_share__c", "percentile"),
    "brand": ("Brand_Strength", "double", "brand_strength__c", "number"),
    "product_uniqueness": ("Product_Uniqueness", "double", "product_uniqueness__c", "number"),
    "relationship": ("Relationship", "double", "relationship__c", "number"),
    "modified": ("Modified_Time", "datetime", "last_modified_time", "date_time"),
}  # fmt: skip
CONTACTS = {
    "account": ("What_Id", "lookup", "account__c", "object_reference"),
    "modified": ("Modified_Time", "datetime", "last_modified_time", "date_time"),
    "state": ("Status", "text", "state__c", "text"), "outcome": ("Contact_Outcome", "text", "outcome__c", "text"),
    "until": ("Due_Date", "date", "due__c", "date"), "channel": ("Contact_Channel", "text", "channel__c", "text"),
    "task": ("Bellwether_Task", "text", "task_code__c", "text"), "subject": ("Subject", "text", "name", "text"),
    "body": ("Description", "textarea", "body__c", "long_text"),
}  # fmt: skip
STATES = {"done": "Completed", "snoozed": "Deferred", "open": "Not Started"}


class Tower:
    """One tenant with people who work in it, a project folder, and the command."""

    def __init__(self, system: str, folder: Path, tenant: Tenant) -> None:
        self.system, self.folder, self.tenant = system, folder, tenant
        self.side = 0 if system == "zoho" else 2
        self.accounts, self.contacts = ("Accounts", "Tasks") if system == "zoho" else ("AccountObj", "risk_contact__c")
        other = type(tenant)()
        tenant.others[self.contacts] = other
        for of, described in ((tenant, ACCOUNTS), (other, CONTACTS)):
            for names in described.values():
                name, kind = names[self.side], names[self.side + 1]
                if system == "zoho":
                    unique = (
                        {"unique": {"case_sensitive": False}} if name in ("Customer_Code", "Bellwether_Task") else {}
                    )
                    of.field(name, kind, **unique)
                else:
                    of.fields[name] = {"type": kind}
        if system == "zoho":
            other.mandatory = {"Subject"}
        else:
            other.key = "task_code__c"
        self.mapping = yaml.safe_load((ROOT / f"data/crm/{system}.yaml").read_text())
        service = {"accounts_url": tenant.url} if system == "zoho" else {
            "url": tenant.url, "user": "FSUID_1", "seconds_between_calls": 0
        }  # fmt: skip
        self.mapping["service"] |= service
        self.mapping |= {"retry_seconds": 20, "settle_seconds": 0}
        (folder / "params.yaml").write_text("source: maker\nas_of: latest\n")

    def value(self, column: str, value):
        if value is None:
            return None
        if column == "owner":
            return {"name": value, "id": "9"} if self.system == "zoho" else [value]
        if column == "account":
            return {"name": "Acme", "id": value} if self.system == "zoho" else value
        if column == "state" and self.system == "zoho":
            return STATES.get(value, value)
        if column == "outcome" and self.system == "zoho":
            return value.capitalize().replace("_", " ")
        if self.system == "fxiaoke" and isinstance(value, int | float):
            return str(value)
        return value

    def account(self, number: str | None = None, **values) -> str:
        given = {ACCOUNTS[column][self.side]: self.value(column, value) for column, value in values.items()}
        return self.tenant.add(self.accounts, **{"id" if self.system == "zoho" else "_id": number}, **given)

    def contact(self, number: str | None = None, **values) -> str:
        given = {CONTACTS[column][self.side]: self.value(column, value) for column, value in values.items()}
        return self.tenant.add(self.contacts, **{"id" if self.system == "zoho" else "_id": number}, **given)

    def until(self, year: int, month: int, day: int):
        if self.system == "zoho":
            return f"{year}-{month:02d}-{day:02d}"
        return int(dt.datetime(year, month, day, tzinfo=dt.timezone(dt.timedelta(hours=8))).timestamp() * 1000)

    def pull(self, now: int | None = None, **options) -> int:
        path = self.folder / "mapping.yaml"
        path.write_text(yaml.safe_dump(self.mapping))
        self.clock(now or self.tenant.now + 60_000)
        return pull.pull(self.system, path=path, **options)

    def clock(self, now: int) -> None:
        pull.time.time = lambda: now / 1000

    def deliveries(self) -> list[Path]:
        return sorted((self.folder / "data/raw/maker").glob("crm-*")) if (self.folder / "data/raw").exists() else []

    def rows(self, file: str, which: int = -1) -> list[dict[str, str]]:
        path = self.deliveries()[which] / file
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


class Clock:
    """The pull's own clock: only what it asks of it."""

    def __init__(self) -> None:
        self.time = lambda: THIRD / 1000


@pytest.fixture(params=["zoho", "fxiaoke"])
def tower(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pull, "time", Clock())
    with serve(ZohoTenant() if request.param == "zoho" else FxiaokeTenant()) as tenant:
        yield Tower(request.param, tmp_path, tenant)


def test_accounts_standing_and_contacts_arrive_with_the_day_on_which_they_were_modified(tower, capsys):
    acme = tower.account(key="C1", industry="Steel", region="上海", segment="key", owner="li", credit_line=5000,
                         market_share=35, brand=7.5, relationship=60)  # fmt: skip
    tower.account(key="C2", industry='Tools, "fine"')
    tower.contact(account=acme, state="done", outcome="promised", channel="phone")
    assert tower.pull() == 0
    known = "2026-11-03"
    assert [
        {k: v for k, v in row.items() if k != "record_id"} for row in tower.rows("crm_accounts.csv")
    ] == [
        {"customer_id": "C1", "known_on": known, "kind": "", "industry": "Steel", "region": "上海", "segment": "key",
         "owner": "li", "credit_line": "5000.0"},
        {"customer_id": "C2", "known_on": known, "kind": "", "industry": 'Tools, "fine"', "region": "", "segment": "",
         "owner": "", "credit_line": ""},
    ]  # fmt: skip
    assert tower.rows("crm_standings.csv") == [
        {"customer_id": "C1", "known_on": known, "market_share": "0.35", "brand": "7.5", "product_uniqueness": "",
         "relationship": "60.0"}
    ]  # fmt: skip
    told = tower.rows("crm_contacts.csv")
    assert [(row["customer_id"], row["event_on"], row["known_on"], row["state"], row["outcome"], row["channel"],
             row["version"]) for row in told] == [("C1", known, known, "done", "promised", "phone", "1")]  # fmt: skip
    stated = json.loads((tower.deliveries()[0] / "manifest.json").read_text())
    assert (stated["delivered_on"], stated["complete"]) == (known, False)
    assert {file: facts["rows"] for file, facts in stated["files"].items()} == {
        "crm_accounts.csv": 2, "crm_standings.csv": 1, "crm_contacts.csv": 1
    }  # fmt: skip
    said = capsys.readouterr().out
    assert f"{tower.accounts}: read 2, new 2" in said
    assert "C1" not in said


def test_what_was_not_changed_is_not_delivered_again(tower, capsys):
    """The second pull reads again what lies in the overlap; a sync that touched every record says nothing new."""
    numbers = [tower.account(key=f"C{i}", industry="Steel", market_share=i) for i in range(5)]
    assert tower.pull() == 0
    assert tower.pull() == 0
    assert len(tower.deliveries()) == 1
    assert "unchanged 5" in capsys.readouterr().out
    tower.tenant.now += DAY
    for number in numbers:
        tower.account(number)  # touched: modified, with the values that it had
    tower.account(numbers[3], industry="Glass")
    tower.account(numbers[4], market_share=50)
    assert tower.pull() == 0
    assert len(tower.deliveries()) == 2
    assert [(row["customer_id"], row["industry"], row["known_on"]) for row in tower.rows("crm_accounts.csv")] == [
        ("C3", "Glass", "2026-11-04")
    ]
    assert [(row["customer_id"], row["market_share"]) for row in tower.rows("crm_standings.csv")] == [("C4", "0.5")]


@pytest.fixture
def one(tmp_path, monkeypatch):
    """One of the systems, where both have delivered the same files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pull, "time", Clock())
    with serve(ZohoTenant()) as tenant:
        yield Tower("zoho", tmp_path, tenant)


def listings(tower: Tower) -> list[str]:
    if tower.system == "zoho":
        return [path for method, path, _ in tower.tenant.calls if method == "GET" and "sort_by=id" in path]
    return [path for _, path, _ in tower.tenant.calls if "/query" in path]


def test_only_what_was_modified_since_is_read(tower):
    tower.mapping["pull"]["find_deleted"] = False
    for i in range(450):
        tower.account(key=f"C{i:03d}")
    tower.tenant.now += DAY
    tower.account(key="later")
    tower.pull()
    assert len(tower.rows("crm_accounts.csv")) == 451
    first = len(listings(tower))
    tower.tenant.now += 7 * DAY
    tower.account(key="new")
    tower.pull()
    assert len(listings(tower)) - first == 2  # one page of accounts, one of contacts
    assert [row["customer_id"] for row in tower.rows("crm_accounts.csv")] == ["new"]
    tower.pull(full=True)
    assert len(tower.deliveries()) == 2
    assert len(listings(tower)) > first + 5


def test_a_modification_that_a_pull_passed_by_is_read_by_the_next(one):
    """A record behind the place of reading changes while later pages are read: the overlap brings it."""
    numbers = [one.account(key=f"C{i:03d}", industry="Steel") for i in range(250)]
    passed = []

    def fault(number: int, path: str) -> None:
        if len(listings(one)) == 2 and not passed:
            passed.append(number)
            one.account(numbers[3], industry="Glass")
            one.tenant.now += 60_000
            one.account(numbers[240], industry="Wood")

    one.tenant.fault = fault
    one.pull()
    assert {row["industry"] for row in one.rows("crm_accounts.csv") if row["customer_id"] in ("C003", "C240")} == {
        "Steel", "Wood"
    }  # fmt: skip
    one.tenant.now += 3_600_000
    one.pull()
    assert [(row["customer_id"], row["industry"]) for row in one.rows("crm_accounts.csv")] == [("C003", "Glass")]


def test_deleted_records_are_accounted_for(tower, capsys):
    numbers = [tower.account(key=f"C{i}") for i in range(4)]
    contact = tower.contact(account=numbers[0], state="done")
    tower.pull()
    tower.tenant.now += DAY
    del tower.tenant.records[numbers[1]]
    del tower.tenant.others[tower.contacts].records[contact]
    if tower.system == "fxiaoke":  # given up, and still listed
        tower.tenant.add(tower.accounts, _id=numbers[2], life_status="invalid")
    tower.pull()
    found = {(row["object"], row["customer_id"], row["found_on"]) for row in tower.rows("crm_deleted.csv")}
    gone = {(tower.accounts, "C1", "2026-11-04"), (tower.contacts, "C0", "2026-11-04")}
    assert found == gone | ({(tower.accounts, "C2", "2026-11-04")} if tower.system == "fxiaoke" else set())
    assert [(row["state"], row["version"]) for row in tower.rows("crm_contacts.csv")] == [("deleted", "2")]
    assert "gone since" in capsys.readouterr().out
    tower.pull()
    assert len(tower.deliveries()) == 2, "told once"
    if tower.system == "fxiaoke":
        tower.tenant.now += DAY
        tower.tenant.add(tower.accounts, _id=numbers[2], life_status="normal")
        tower.pull()
        assert [row["customer_id"] for row in tower.rows("crm_accounts.csv")] == ["C2"]


def test_a_key_of_two_records_is_left_out_named_and_taken_when_they_are_merged(tower, capsys):
    first, second = tower.account(key="C1", industry="Steel"), tower.account(key="c1 ", industry="Glass")
    tower.account(key="C2")
    assert tower.pull() == 4
    assert [row["customer_id"] for row in tower.rows("crm_accounts.csv")] == ["C2"]
    left = tower.folder / f".run/crm/{tower.system}-left-out.csv"
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert left.read_text("utf-8-sig").count("TWO_RECORDS") == 2
    assert "merge them in the CRM, then pull again" in capsys.readouterr().out
    tower.tenant.now += 9 * DAY
    del tower.tenant.records[second]
    assert tower.pull() == 0
    assert [(row["customer_id"], row["industry"], row["known_on"]) for row in tower.rows("crm_accounts.csv")] == [
        ("C1", "Steel", "2026-11-03")
    ]
    tower.tenant.now += 9 * DAY
    tower.account(key="C1", industry="Wood")
    assert tower.pull() == 4, "a second one beside one that was delivered"
    assert first in tower.tenant.records


def test_rows_out_are_rows_in_and_rows_accounted_for(tower, capsys):
    tower.account(key="C1")
    tower.account(key=None, industry="Steel")
    nobody = tower.account(key="")
    waiting = tower.contact(account=nobody, state="done")
    strange = tower.contact(account=tower.account(key="C2", credit_line="much"), state="no such state")
    assert tower.pull() == 0
    said = capsys.readouterr().out
    assert f"{tower.accounts}: read 4, new 2, without key 2, unreadable values 1" in said
    assert f"{tower.contacts}: read 2, new 1, without customer 1, state unknown 1" in said
    assert [(row["contact_id"], row["state"]) for row in tower.rows("crm_contacts.csv")] == [(strange, "")]
    tower.tenant.now += 30 * DAY
    tower.account(nobody, key="C3")
    assert tower.pull() == 0, "the contact was read long ago and waited"
    assert [(row["contact_id"], row["customer_id"]) for row in tower.rows("crm_contacts.csv")] == [(waiting, "C3")]


def test_a_snoozed_contact_needs_a_day_and_a_done_one_has_an_outcome(tower):
    number = tower.account(key="C1")
    tower.contact(account=number, state="snoozed", until=tower.until(2026, 12, 24))
    tower.contact(account=number, state="snoozed", until=tower.until(2026, 10, 1))
    tower.contact(account=number, state="snoozed")
    tower.contact(account=number, state="done", outcome="nothing that we know")
    tower.contact(account=number, state="open", outcome="paid")
    tower.pull()
    told = [(row["state"], row["outcome"], row["until"]) for row in tower.rows("crm_contacts.csv")]
    assert told == [("snoozed", "", "2026-12-24"), ("", "", ""), ("", "", ""), ("done", "other", ""), ("open", "", "")]


class Killed(BaseException):
    pass


def test_a_killed_pull_goes_on_where_it_was(tower, monkeypatch):
    for i in range(650):
        tower.account(key=f"C{i:03d}")
    keep, kept = gathered.Gathered.keep, []

    def kill(self, name, records, after):
        keep(self, name, records, after)
        kept.append(len(records))
        if len(kept) == 3:
            raise Killed

    monkeypatch.setattr(gathered.Gathered, "keep", kill)
    with pytest.raises(Killed):
        tower.pull()
    assert not tower.deliveries()
    monkeypatch.setattr(gathered.Gathered, "keep", keep)
    before = len(listings(tower))
    assert tower.pull() == 0
    size = 200 if tower.system == "zoho" else 100
    assert len(listings(tower)) - before == -(-650 // size) - 3 + 1  # the rest of the accounts, and the contacts
    assert len({row["customer_id"] for row in tower.rows("crm_accounts.csv")}) == 650


def test_a_pull_that_was_killed_after_its_delivery_stood_delivers_it_once(one, monkeypatch):
    for i in range(5):
        one.account(key=f"C{i}", market_share=i)

    def kill(*_):
        raise Killed

    end = gathered.Gathered.end
    monkeypatch.setattr(gathered.Gathered, "end", kill)
    with pytest.raises(Killed):
        one.pull()
    before = {path.name: path.read_bytes() for path in one.deliveries()[0].iterdir()}
    monkeypatch.setattr(gathered.Gathered, "end", end)
    assert one.pull(one.tenant.now + 3_600_000) == 0
    assert len(one.deliveries()) == 1
    assert {path.name: path.read_bytes() for path in one.deliveries()[0].iterdir()} == before
    assert not list((one.folder / "data/raw").glob(".*"))


def test_a_place_that_the_service_forgot_is_read_from_the_start(one):
    tower, tenant = one, one.tenant
    tenant.page_size = 10
    for i in range(35):
        tower.account(key=f"C{i:03d}")
    tenant.fault = lambda *_: setattr(tenant, "expired", len(listings(tower)) == 3)
    assert tower.pull() == 0
    assert [row["customer_id"] for row in tower.rows("crm_accounts.csv")] == [f"C{i:03d}" for i in range(35)]
    tenant.fault = lambda *_: setattr(tenant, "expired", True)
    tenant.now += DAY
    for i in range(35):
        tower.account(key=f"D{i:03d}")
    with pytest.raises(ServiceRefused, match="begins anew"):
        tower.pull()


ALL = ["cut", "429", "500", "done_500", "done_cut", "token", "late", "busy"]


def faulty(every: int, seed: int = 3):
    chance = random.Random(seed)
    return lambda number, _: chance.choice(ALL) if number % every == 0 else None


def all_there(tower: Tower, rows: int) -> None:
    found = [(row["customer_id"], float(row["market_share"])) for row in tower.rows("crm_standings.csv")]
    assert found == [(f"C{i:05d}", pytest.approx(i % 90 / 100)) for i in range(rows)]
    assert [row["customer_id"] for row in tower.rows("crm_accounts.csv")] == [f"C{i:05d}" for i in range(rows)]
    assert len(tower.deliveries()) == 1


def test_with_a_fault_in_every_third_answer_each_record_arrives_once(tower, monkeypatch):
    monkeypatch.setattr(calls, "ANSWER", 0.3)
    if tower.system == "zoho":
        tower.tenant.page_size = 20
    for i in range(500):
        tower.account(key=f"C{i:05d}", market_share=i % 90)
    tower.tenant.fault = faulty(3)
    assert tower.pull() == 0
    all_there(tower, 500)
    tower.tenant.fault = calm
    assert tower.pull() == 0
    all_there(tower, 500)


@pytest.mark.slow
def test_ten_thousand_records_with_a_fault_in_every_tenth_answer(tower, monkeypatch):
    monkeypatch.setattr(calls, "ANSWER", 0.3)
    if tower.system == "zoho":
        tower.tenant.page_size = 20  # so that there are answers enough to fail
    for i in range(10_000):
        tower.account(key=f"C{i:05d}", market_share=i % 90)
    tower.tenant.fault = faulty(10)
    assert tower.pull() == 0
    all_there(tower, 10_000)


def test_our_own_quota_stops_a_pull_and_the_rest_follows(tower):
    for i in range(450):
        tower.account(key=f"C{i:03d}")
    name = "credits_a_day" if tower.system == "zoho" else "calls_a_day"
    tower.mapping["service"][name] = 4
    with pytest.raises(ServiceRefused):
        tower.pull()
    assert tower.tenant.spent <= 4
    assert not tower.deliveries()
    tower.mapping["service"][name] = 100
    assert tower.pull() == 0
    assert len(tower.rows("crm_accounts.csv")) == 450


def spoil(tower: Tower, monkeypatch, how: str) -> None:
    """One of the things that are wrong when a connector is set up, or years later."""
    system, service = tower.system, tower.mapping["service"]
    if how == "no credentials":
        monkeypatch.delenv(f"BELLWETHER_{system.upper()}_{'CLIENT_SECRET' if system == 'zoho' else 'APP_SECRET'}")
    elif how == "expired secret":
        tower.tenant.dead = True
    elif how == "wrong region":  # tokens of one cloud are unknown in another
        tower.tenant.dead = True
        service["data_center" if system == "zoho" else "auth"] = "eu" if system == "zoho" else "bearer"
    elif how == "unknown region":
        service["data_center" if system == "zoho" else "auth"] = "mars"
    elif how == "missing field":
        of = tower.tenant.others[tower.contacts]
        del of.fields[CONTACTS["outcome"][tower.side]]
    elif how == "wrong type":
        name = ACCOUNTS["market_share"][tower.side]
        tower.tenant.fields[name] = {"data_type": "text"} if system == "zoho" else {"type": "text"}
    elif how == "no such object":
        tower.mapping["pull"]["contacts"]["object"] = "Nowhere"
    elif how == "strange state":
        tower.mapping["pull"]["contacts"]["state"]["values"] = {"Completed": "finished"}
    elif how == "unknown line":
        tower.mapping["pull"]["account"] = {}
    elif how == "nothing to read":
        del tower.mapping["pull"]
    elif how == "folder that is emptied":
        (tower.folder / "params.yaml").write_text("source: simulated\n")
    elif how == "service away":
        tower.mapping["retry_seconds"] = 0.1
        tower.tenant.fault = lambda *_: "500"
    elif how == "quota of the tenant":
        tower.mapping["retry_seconds"] = 0.1
        tower.tenant.quota = 3


REFUSED = {  # what is wrong -> exit code, and what the sentence says
    "no credentials": (4, "Set it"), "expired secret": (4, "Make a new refresh token|Correct them"),
    "wrong region": (4, "data_center|service.url"), "unknown region": (4, "service.(data_center|auth)"),
    "missing field": (4, "pull.contacts.outcome: must be a field of"),
    "wrong type": (4, "pull.standings.market_share: must be a field of numbers"),
    "no such object": (4, "Correct its API name"), "strange state": (4, "one of open, done, snoozed"),
    "unknown line": (4, "pull.account: must be one of the keys of the shipped mapping"), "nothing to read": (4, "no such section"),
    "folder that is emptied": (4, "--source"), "service away": (8, "run it again later"),
    "quota of the tenant": (8, "again"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_wrong_is_said_with_what_to_do_and_nothing_is_written_by_halves(tower, monkeypatch, capsys, how):
    tower.account(key="C1")
    spoil(tower, monkeypatch, how)
    (tower.folder / "mapping.yaml").write_text(yaml.safe_dump(tower.mapping))
    code, words = REFUSED[how]
    assert main(["pull", tower.system, "--mapping", "mapping.yaml"]) == code
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert not any(f"token-{i}" in said or secret in said for i in range(5) for secret in ("'secret'", "=refresh"))
    assert not list(tower.folder.glob("data/raw/*/*"))


def test_another_sync_or_pull_is_waited_for(tower):
    with sync.alone("sync", tower.system), pytest.raises(BusyRefused):
        tower.pull()


def test_another_mapping_reads_all_anew(one):
    one.account(key="C1", industry="Steel")
    one.pull()
    one.tenant.now += 30 * DAY
    one.mapping["pull"]["accounts"]["note"] = one.mapping["pull"]["accounts"].pop("industry")
    one.pull()
    assert [(row["industry"], row["note"], row["known_on"]) for row in one.rows("crm_accounts.csv")] == [
        ("", "Steel", "2026-11-03")
    ]


def ingested(tower: Tower) -> dict[str, dict]:
    """Take what was pulled in by the shipped mapping, but for tables without a row; return the account of each table."""
    sources = tower.folder / "data/sources"
    sources.mkdir(parents=True, exist_ok=True)
    shipped = yaml.safe_load((ROOT / "data/sources/crm.yaml").read_text())
    there = {file.name for folder in tower.deliveries() for file in folder.iterdir()}
    tables = {table: block for table, block in shipped["tables"].items() if block["files"].split("/")[1] in there}
    if not any(
        row["credit_line"] for which in range(len(tower.deliveries())) for row in tower.rows("crm_accounts.csv", which)
    ):
        del tables["credits"]
    (sources / "maker.yaml").write_text(yaml.safe_dump(shipped | {"name": "maker", "tables": tables}))
    ingest.main()
    return json.loads(Path("data/ingest/quality.json").read_text())["tables"]


def featured(days: list[dt.date]) -> dict[tuple[str, str], dict]:
    """Return the features of every customer on some dates, by customer and date."""
    connection = ibis.duckdb.connect(threads=2)
    tables, described = open_tables(connection, Path("data/ingest")), describe_tables(Path("data/ingest"))
    customers = duckdb.execute(f"select distinct customer_id from {view('customers')} order by 1").fetchall()
    rows = [{"customer_id": who, "as_of": day} for day in days for (who,) in customers]
    connection.create_table("asked", pa.Table.from_pylist(rows))
    asked = connection.table("asked")
    hidden = Settings(protected=("owner", "contact_id", "version"))
    matrix = Matrix(connection, tables, described, asked, asked, hidden)
    names = [feature.name for subject in matrix.subjects for feature in subject.features]
    matrix.subjects = [subject for subject in matrix.subjects if subject.name in ("standing", "contacts")]
    matrix.across = ()
    found = pa.concat_tables([part for part, _ in matrix.groups(asked)]).to_pylist()
    assert not [name for name in names if "owner" in name or "contact_id" in name or "version" in name]
    return {(row["customer_id"], str(row["as_of"])): row for row in found}


def view(table: str) -> str:
    return f"read_parquet('data/ingest/tables/{table}/*/part.parquet', hive_partitioning = false)"


def test_what_was_pulled_becomes_features_only_after_the_day_on_which_it_was_written(tower):
    """Standing and contacts of 3 November are unknown on the 3rd, known on the 4th; what changes on the 20th, later."""
    number = tower.account(key="C1", industry="Steel", owner="li", credit_line=5000.5, market_share=35, brand=6)
    tower.account(key="C2", market_share=20)
    contact = tower.contact(account=number, state="open")
    tower.pull()
    tower.tenant.now += 17 * DAY
    tower.account(number, market_share=10, credit_line=100)
    tower.contact(contact, state="done", outcome="refused")
    tower.pull()
    quality = ingested(tower)
    assert {table: account["kept"] for table, account in quality.items()} == {
        "customers": 2, "credits": 2, "standings": 3, "contacts": 2
    }, "a new line of credit says nothing new of the customer"  # fmt: skip
    assert not any(account["rules"] for account in quality.values())
    days = [dt.date(2026, 11, 3), dt.date(2026, 11, 4), dt.date(2026, 11, 20), dt.date(2026, 11, 21)]
    found = featured(days)
    shares = [found["C1", str(day)]["standing_market_share_last"] for day in days]
    assert shares == [None, 0.35, 0.35, 0.1]
    assert [found["C2", str(day)]["standing_market_share_last"] for day in days] == [None, 0.2, 0.2, 0.2]
    states = [found["C1", str(day)]["contacts_state_last"] for day in days]
    assert states == [None, "open", "open", "done"]
    lines = duckdb.execute(
        f"select credit_limit, cast(known_on as varchar) from {view('credits')} order by 2"
    ).fetchall()
    assert [(float(limit), day) for limit, day in lines] == [(5000.5, "2026-11-03"), (100, "2026-11-20")]


def test_of_two_pulls_of_one_day_the_later_one_holds(one):
    number = one.account(key="C1", industry="Steel", market_share=35)
    one.pull()
    one.tenant.now += 3_600_000
    one.account(number, industry="Glass", market_share=30)
    one.pull()
    quality = ingested(one)
    assert not any(account["rules"] for account in quality.values())
    assert duckdb.execute(f"select industry from {view('customers')}").fetchall() == [("Glass",)]
    assert duckdb.execute(f"select market_share from {view('standings')}").fetchall() == [(0.3,)]


def test_a_pull_does_not_move_the_run_s_date_past_the_books(one):
    """`as_of: latest` follows complete deliveries; a pull is none."""
    one.account(key="C1")
    one.pull()
    folder = one.folder / "data/raw/maker/2026-10"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"delivered_on": "2026-10-31", "complete": True}))
    (folder / "note.csv").write_text("a\n1\n")
    ingested(one)
    assert json.loads(Path("data/ingest/as_of.json").read_text())["as_of"] == "2026-11-01"


def test_owner_and_states_come_back_to_the_worklist_and_survive(one):
    """The newest version of a contact holds: what was done and opened again, or deleted, is done no more."""
    numbers = {key: one.account(key=key, owner="li") for key in ("C1", "C2", "C3", "C4")}
    made = {key: one.contact(account=numbers[key], state="done", outcome="promised") for key in ("C1", "C2", "C3")}
    one.contact(account=numbers["C4"], state="snoozed", until=one.until(2026, 12, 24))
    one.pull()
    one.tenant.now += DAY
    one.contact(made["C2"], state="open")
    del one.tenant.others[one.contacts].records[made["C3"]]
    one.pull()
    ingested(one)
    assert worklist.owners("2026-12-01") == dict.fromkeys(numbers, "li")
    lines = contacts.with_crm(contacts.read_contacts(worklist.read_lines(Path("none.csv"))), worklist.crm_contacts())
    who = np.array(sorted(numbers), dtype=object)
    stands = contacts.standing(lines, who, dt.date(2026, 12, 1), 60)
    assert list(stands.state) == ["done", "open", "open", "snoozed"]
    assert stands.outcome[0] == "promised"
    assert [str(day) for day in stands.again_from] == ["2027-01-02", "NaT", "NaT", "2026-12-25"]
    again = contacts.standing(lines, who, dt.date(2027, 1, 2), 60)
    assert list(again.state) == ["open"] * 4


def published(tower: Tower, run: str, rows: list[dict]) -> None:
    """Publish a table of three customers and a worklist of some rows."""
    version = tower.folder / "data/publish/versions" / run
    (version / "worklist").mkdir(parents=True)
    table = pa.table({"customer_id": ["C1", "C2", "C3"], "score": pa.array([600, 610, 620], pa.int32())})
    pq.write_table(table, version / "scored_customers.parquet")
    base = {"kind": "alarm", "grade": "D1", "state": "open", "due_on": dt.date(2026, 11, 7), "why": "42 days past due",
            "ask": "payment", "offer": "a plan", "last_contact_on": None}  # fmt: skip
    kinds = {name: pa.string() for name in ("customer_id", "kind", "grade", "state", "why", "ask", "offer")}
    schema = pa.schema({**kinds, "due_on": pa.date32(), "last_contact_on": pa.date32()})
    pq.write_table(pa.Table.from_pylist([base | row for row in rows], schema), version / "worklist/worklist.parquet")
    (version / "manifest.json").write_text(json.dumps({"run_id": run}))
    current = tower.folder / "data/publish/current"
    current.unlink(missing_ok=True)
    current.symlink_to(version)


def test_a_task_is_made_once_and_its_state_comes_back(tower):
    """Who stays on the list keeps his task; who comes onto it again after a contact gets another."""
    name = "Account_Name" if tower.system == "zoho" else "name"
    tower.mapping["fields"] = {"Score": {"column": "score", "kind": "integer"}}
    kind = {"data_type": "integer"} if tower.system == "zoho" else {"type": "number"}
    tower.tenant.fields |= {"Score": kind}
    path, at = tower.folder / "mapping.yaml", {k: names[tower.side] for k, names in CONTACTS.items()}

    def synced(**options) -> list[dict]:
        path.write_text(yaml.safe_dump(tower.mapping))
        assert sync.sync(tower.system, path=path, **options) == 0
        return list(tower.tenant.others[tower.contacts].records.values())

    due = [{"customer_id": "C1"}, {"customer_id": "C2", "why": "逾期"}]
    published(tower, "aa", [*due, {"customer_id": "C3", "state": "done", "due_on": None}])
    assert synced() == [], "tasks are made only where that is asked"
    tasks = synced(with_tasks=True)
    accounts = {record[name]: number for number, record in tower.tenant.records.items()}
    assert [tower.value("account", accounts[who]) for who in ("C1", "C2")] == [
        {"name": "Acme", **task[at["account"]]} if tower.system == "zoho" else task[at["account"]] for task in tasks
    ]
    assert [task[at["task"]] for task in tasks] == ["C1/first", "C2/first"]
    assert tasks[0][at["subject"]] == "Contact: C1 (D1)"
    assert tasks[1][at["body"]] == "逾期\nAsk for: payment\nOffer: a plan"
    assert {task[at["state"]] for task in tasks} == {tower.value("state", "open")}
    before = len(tower.tenant.calls)
    assert synced(with_tasks=True) == tasks
    assert not [path for _, path, _ in tower.tenant.calls[before:] if re.search("upsert|create|update", path)]
    number = next(
        n for n, task in tower.tenant.others[tower.contacts].records.items() if task[at["task"]] == "C1/first"
    )
    tower.tenant.now += DAY
    tower.contact(number, state="done", outcome="paid")
    tower.pull()
    told = {row["customer_id"]: (row["state"], row["outcome"]) for row in tower.rows("crm_contacts.csv")}
    assert told == {"C1": ("done", "paid"), "C2": ("open", "")}
    published(tower, "bb", [due[1] | {"due_on": dt.date(2026, 11, 14)}])
    tasks = synced(with_tasks=True)
    assert len(tasks) == 2
    assert tower.tenant.others[tower.contacts].records[number][at["state"]] == tower.value("state", "done")
    published(tower, "cc", [{"customer_id": "C1", "last_contact_on": dt.date(2026, 11, 4)}])
    assert [task[at["task"]] for task in synced(with_tasks=True)] == ["C1/first", "C2/first", "C1/2026-11-04"]
    (tower.folder / f".run/crm/{tower.system}.sqlite").unlink()
    tower.mapping["tasks"]["always"] = True
    assert len(synced()) == 3, "the loss of what was noted makes nothing twice"
    assert not tower.tenant.fired
