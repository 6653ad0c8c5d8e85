"""What goes into a row and whether it may go: kinds, options, constants, second records, what a pull tells whom."""

# ruff: noqa: F811  fixtures are used by their names
from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from crm_servers import calm, quick  # noqa: F401  quick is a fixture of all
from test_crm import ROOT, Desk, desk, fxiaoke, right, table, zoho  # noqa: F401  fixtures by their names
from test_crm_pull import CONTACTS, DAY, Tower, one, published, tower  # noqa: F401

from features.errors import ConfigurationRefused, IntegrityRefused
from models.grades import Scale
from pipeline.__main__ import main
from pipeline.fingerprint import sha256
from pipeline.sinks import calls, sync

ACTIONS = ["keep", "raise", "review", "reduce", "prepay", "stop"]


def field(desk: Desk, name: str) -> str:
    """A field of the shipped mapping, as either system writes it."""
    return name if desk.system == "zoho" else f"{name.lower()}__c"


def options(desk: Desk, name: str, values: list[str]) -> None:
    of = desk.tenant.fields[field(desk, name)]
    of["options"] = values if desk.system == "zoho" else [{"label": each, "value": each} for each in values]


def stated(desk: Desk, scale: Scale | None = None, run: str = "0a1b2c3d") -> None:
    """Put the contract and the master scale beside the published table, as `publish` does."""
    version = desk.folder / "data/publish/versions" / run
    shutil.copy(ROOT / "data/contracts/scored_customers.v1.json", version)
    if scale is not None:
        (version / "scorer").mkdir()
        (version / "scorer/grades.json").write_text(scale.to_json())


# 7: values that are none


@pytest.mark.parametrize(
    ("column", "kind"), [("grade", "integer"), ("grade", "date"), ("alerts", "number"), ("as_of", "number")]
)
def test_a_kind_that_the_column_cannot_be_is_refused_by_its_field(desk, capsys, column, kind):
    desk.publish(table(3))
    wrong, fine = field(desk, "Risk_Reason_1"), field(desk, "Risk_PD")
    desk.mapping["fields"][wrong] = {"column": column, "kind": kind}
    (desk.folder / "m.yaml").write_text(yaml.safe_dump(desk.mapping))
    assert main(["sync", desk.system, "--mapping", "m.yaml"]) == 4
    said = capsys.readouterr().err
    assert f"mapping: {wrong}: must be of kind {kind}; found column {column}" in said
    assert fine not in said
    assert not desk.writes()


def test_every_field_of_a_wrong_kind_is_named_at_once(zoho):
    zoho.publish(table(3))
    zoho.mapping["fields"]["Risk_PD"] = {"column": "grade", "kind": "number"}
    zoho.mapping["fields"]["Risk_As_Of"] = {"column": "alerts", "kind": "date"}
    zoho.mapping["when_created"]["Account_Name"] = {"column": "alerts", "kind": "boolean"}
    with pytest.raises(ConfigurationRefused) as refusal:
        zoho.sync()
    assert {problem.where for problem in refusal.value.problems} == {
        "mapping: Risk_PD", "mapping: Risk_As_Of", "mapping: Account_Name"
    }  # fmt: skip


@pytest.mark.parametrize("how", ["missing", "no footer", "half", "torn pages"])
def test_a_table_that_cannot_be_read_is_refused_with_seven(zoho, how):
    zoho.publish(table(5000))
    file = zoho.folder / "data/publish/versions/0a1b2c3d/scored_customers.parquet"
    whole = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "torn pages":  # the footer is whole
        footer = int.from_bytes(whole[-8:-4], "little") + 8
        file.write_bytes(whole[:4] + b"\xff" * (len(whole) - 4 - footer) + whole[-footer:])
    else:
        file.write_bytes(b"no Parquet at all" if how == "no footer" else whole[: len(whole) // 2])
    with pytest.raises(IntegrityRefused, match="Publish it again"):
        zoho.sync()
    assert not zoho.writes()


@pytest.mark.parametrize("how", ["another table", "torn manifest"])
def test_a_version_that_is_not_what_was_published_is_refused_with_seven(zoho, how):
    """One flipped number reads well, and is not what the manifest states."""
    zoho.publish(table(3))
    version = zoho.folder / "data/publish/versions/0a1b2c3d"
    whole = sha256(version / "scored_customers.parquet")
    stated = json.dumps({"run_id": "0a1b2c3d", "files": {"scored_customers.parquet": whole}})
    (version / "manifest.json").write_text(stated)
    assert zoho.sync() == 0
    if how == "another table":
        pq.write_table(table(3, score=pa.array([1, 2, 3], pa.int32())), version / "scored_customers.parquet")
    else:
        (version / "manifest.json").write_text(stated[:20])
    with pytest.raises(IntegrityRefused, match="verify"):
        zoho.sync()
    assert len(zoho.writes()) == 1


def test_numbers_without_end_empty_the_field(desk):
    desk.publish(table(4, pd_12m=pa.array([math.nan, math.inf, -math.inf, 0.25])))
    desk.mapping["fields"][field(desk, "Risk_Score")] = {"column": "score_text", "kind": "integer"}
    desk.publish(
        table(4, pd_12m=pa.array([math.nan, math.inf, -math.inf, 0.25]), score_text=pa.array(["NaN", "7", "inf", "8"]))
    )
    assert desk.sync() == 0
    pd, score = field(desk, "Risk_PD"), field(desk, "Risk_Score")
    held = desk.standing()
    assert [held[f"C{i:05d}"].get(pd) for i in range(4)] == [None] * 3 + [0.25 if desk.system == "zoho" else "0.250000"]
    assert [str(held[f"C{i:05d}"].get(score)) for i in range(4)] == ["None", "7", "None", "8"]


# 3: what a pull tells whom


def rows(folder: Path, file: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / file).read_text(encoding="utf-8").splitlines()))


def test_each_source_is_told_all_and_then_what_changed(one):
    tower = one
    acme = tower.account(key="C1", industry="Steel", market_share=30)
    tower.account(key="C2", industry="Glass")
    tower.contact(account=acme, state="done", outcome="paid")
    second, twice = tower.account(key="C3"), tower.account(key="c3")
    assert tower.pull(source="maker") == 4
    tower.tenant.now += DAY
    assert tower.pull(source="bank") == 4
    maker, bank = (sorted(Path("data/raw", of).glob("crm-*")) for of in ("maker", "bank"))
    assert [len(maker), len(bank)] == [1, 1]
    for file in ("crm_accounts.csv", "crm_standings.csv", "crm_contacts.csv"):
        without = [[row | {"version": ""} for row in rows(of[0], file)] for of in (maker, bank)]
        assert without[0] == without[1] != []
    del tower.tenant.records[twice]
    tower.account(second, industry="Wood")
    for source in ("maker", "bank"):  # what waited for one waits for the other too
        tower.tenant.now += 60_000
        assert tower.pull(source=source) == 0
        newest = max(Path("data/raw", source).glob("crm-*"))
        assert [row["customer_id"] for row in rows(newest, "crm_accounts.csv")] == ["C3"]
        assert tower.pull(tower.tenant.now + 120_000, source=source) == 0
        assert len(list(Path("data/raw", source).glob("crm-*"))) == 2, "told once"


def test_a_lost_delivery_comes_back_with_full_and_versions_go_on(tower):
    """The second delivery, with a deletion in it, is lost: what it told is told again, what the first told is not."""
    numbers = [tower.account(key=f"C{i}", industry="Steel", market_share=10) for i in range(4)]
    contact = tower.contact(account=numbers[0], state="open")
    gone = tower.contact(account=numbers[1], state="done", outcome="paid")
    tower.pull()
    tower.tenant.now += DAY
    tower.account(numbers[2], industry="Glass")
    tower.account(numbers[3], market_share=55)
    tower.contact(contact, state="done", outcome="promised")
    del tower.tenant.others[tower.contacts].records[gone]
    tower.pull()
    lost = tower.deliveries()[1]
    told = {file.name: rows(lost, file.name) for file in lost.glob("*.csv")}
    assert set(told) == {"crm_accounts.csv", "crm_standings.csv", "crm_contacts.csv", "crm_deleted.csv"}
    shutil.rmtree(lost)
    tower.tenant.now += DAY
    assert tower.pull() == 0
    assert len(tower.deliveries()) == 1, "without --full what was told stays told"
    tower.tenant.now += DAY
    assert tower.pull(full=True) == 0
    back = tower.deliveries()[1]
    again = {file.name: rows(back, file.name) for file in back.glob("*.csv")}
    assert again.keys() == told.keys()
    for file in ("crm_accounts.csv", "crm_standings.csv"):
        wanted = {row["customer_id"]: row for row in told[file]}
        assert {row["customer_id"]: row for row in again[file]}.items() >= wanted.items()
        assert {row["customer_id"] for row in again[file]} <= {"C2", "C3"}
    assert {row["record_id"] for row in again["crm_deleted.csv"]} == {gone}
    before = {row["contact_id"]: (row["state"], int(row["version"])) for row in told["crm_contacts.csv"]}
    after = {row["contact_id"]: (row["state"], int(row["version"])) for row in again["crm_contacts.csv"]}
    assert before == {contact: ("done", 2), gone: ("deleted", 2)}
    assert after == {contact: ("done", 3), gone: ("deleted", 3)}
    tower.tenant.now += DAY
    assert tower.pull(full=True) == 0
    assert len(tower.deliveries()) == 2, "nothing is lost any more"


def test_a_delivery_without_one_of_its_files_counts_as_lost(one):
    one.account(key="C1", industry="Steel")
    one.pull()
    (one.deliveries()[0] / "crm_accounts.csv").unlink()
    one.tenant.now += DAY
    one.pull(full=True)
    assert [row["industry"] for row in one.rows("crm_accounts.csv")] == ["Steel"]


def test_a_contact_that_comes_back_after_its_deletion_is_newer_than_that(one):
    tower = one
    acme = tower.account(key="C1")
    contact = tower.contact(account=acme, state="done", outcome="paid")
    tower.pull()
    kept = tower.tenant.others[tower.contacts].records.pop(contact)
    tower.tenant.now += DAY
    tower.pull()
    tower.tenant.now += DAY
    tower.tenant.others[tower.contacts].records[contact] = kept
    tower.contact(contact, state="open")
    tower.pull()
    versions = [int(tower.rows("crm_contacts.csv", which)[0]["version"]) for which in range(3)]
    assert versions == [1, 2, 3]


def test_what_an_earlier_project_noted_of_pulls_is_read(one):
    """A file without the columns that came later: all is delivered once more, and versions go on."""
    acme = one.account(key="C1")
    contact = one.contact(account=acme, state="done", outcome="paid")
    (one.folder / ".run/crm").mkdir(parents=True)
    with sqlite3.connect(one.folder / ".run/crm/zoho.sqlite") as old:
        old.execute("create table pulled (account text, object text, record_id text, customer_id text, digest text, "
                    "second_digest text, version integer, primary key (account, object, record_id)) without rowid")  # fmt: skip
        old.execute("insert into pulled values ('a', 'Tasks', ?, 'C1', 'x', '', 7)", (contact,))
    old.close()
    one.pull()
    assert [row["version"] for row in one.rows("crm_contacts.csv")] == ["8"]


# 4: records that are made after nobody waits for them any more


def late(desk: Desk, keys: set[str], seconds: float) -> None:
    """Let the first making of some customers take effect only so long after its line was cut."""
    left, desk.tenant.lands = set(keys), seconds

    def fault(number: int, path: str) -> str | None:
        body = desk.tenant.calls[-1][2]
        key = body.get("data", {}).get("object_data", {}).get(desk.tenant.key) if "create" in path else None
        if key in left:
            left.remove(key)
            return "lands_late"
        return None

    desk.tenant.fault = fault


def test_a_record_that_is_made_late_is_waited_for_and_made_once(fxiaoke):
    fxiaoke.publish(table(12))
    fxiaoke.mapping["settle_seconds"] = 0.6
    late(fxiaoke, {"C00003", "C00008"}, 0.2)
    assert fxiaoke.sync() == 0
    time.sleep(0.3)
    right(fxiaoke, 12)


def test_the_waiting_begins_when_nobody_waits_for_the_answer_any_more(fxiaoke, monkeypatch):
    """The answer is waited for longer than a record may take to be found, and the record stands only after that."""
    monkeypatch.setattr(calls, "ANSWER", 0.5)
    fxiaoke.publish(table(3))
    fxiaoke.mapping["settle_seconds"], fxiaoke.tenant.holds = 0.4, 1.0
    late(fxiaoke, {"C00001"}, 0.7)
    assert fxiaoke.sync() == 0
    time.sleep(0.5)
    right(fxiaoke, 3)


def test_one_that_is_made_after_that_is_named_as_two_records(fxiaoke, capsys):
    """It lands after the look-up and before the end: the key is named, left alone, and right once records are merged."""
    fxiaoke.publish(table(6))
    fxiaoke.mapping["settle_seconds"] = 0.3
    late(fxiaoke, {"C00002"}, 0.45)
    assert fxiaoke.sync() == 4
    assert "merge these in the CRM" in capsys.readouterr().out
    assert fxiaoke.rejected() == {"C00002": "TWO_RECORDS"}
    double = [n for n, record in fxiaoke.tenant.records.items() if record["customer_code__c"] == "C00002"]
    assert len(double) == 2
    writes = len(fxiaoke.writes())
    assert fxiaoke.sync() == 4
    assert len(fxiaoke.writes()) == writes
    del fxiaoke.tenant.records[double[1]]
    assert fxiaoke.sync(retry_rejected=True) == 0
    right(fxiaoke, 6)
    assert fxiaoke.rejected() == {}


def test_one_that_lands_after_the_end_is_named_by_the_next_sync(fxiaoke, monkeypatch):
    fxiaoke.publish(table(3))
    fxiaoke.mapping["settle_seconds"] = 0.05
    late(fxiaoke, {"C00001"}, 0.8)
    assert fxiaoke.sync() == 0
    time.sleep(0.9)
    writes = len(fxiaoke.writes())
    assert fxiaoke.sync() == 4
    assert fxiaoke.rejected() == {"C00001": "TWO_RECORDS"}
    assert len(fxiaoke.writes()) == writes
    monkeypatch.setattr(sync, "WATCHED", 0)
    fxiaoke.sync()
    asked = len(fxiaoke.tenant.paths("query"))
    fxiaoke.sync()
    assert len(fxiaoke.tenant.paths("query")) == asked, "looked up for a while, not for ever"


def test_what_was_answered_is_not_looked_up_again(desk):
    desk.publish(table(5))
    desk.mapping["settle_seconds"] = 60
    begun = time.monotonic()
    assert desk.sync() == 0
    with sqlite3.connect(desk.folder / f".run/crm/{desk.system}.sqlite") as noted:
        assert noted.execute("select count(*) from doubtful").fetchone() == (0,)
    noted.close()
    assert time.monotonic() - begun < 30
    looked_up = len(desk.tenant.paths("coql") + desk.tenant.paths("query"))
    assert desk.sync() == 0
    assert len(desk.tenant.paths("coql") + desk.tenant.paths("query")) == looked_up


# 6: pick-lists


def test_pick_lists_are_made_with_all_that_the_columns_may_ever_hold(zoho):
    for name in ("Risk_Grade", "Risk_Action"):
        del zoho.tenant.fields[name]
    zoho.mapping["fields"]["Risk_Action"]["values"] = {"stop": "No delivery"}
    zoho.publish(table(3, grade=pa.array(["B1", "old", "B1"])))
    stated(zoho, Scale(names=("A1", "B1", "C1"), bounds=(0.1, 0.2, 1.0)))
    assert zoho.sync(create_fields=True) == 0
    assert zoho.tenant.fields["Risk_Grade"]["options"] == ["A1", "B1", "C1", "old"]
    assert zoho.tenant.fields["Risk_Action"]["options"] == [*ACTIONS[:-1], "No delivery"]
    zoho.publish(table(3, grade=pa.array(["C1", "A1", "C1"]), action=pa.array(["raise", "prepay", "stop"])), "next")
    assert zoho.sync() == 0
    assert zoho.standing()["C00000"]["Risk_Grade"] == "C1"
    assert zoho.standing()["C00002"]["Risk_Action"] == "No delivery"


def test_a_list_that_lacks_what_next_month_may_bring_is_refused_today(desk):
    desk.publish(table(3))
    stated(desk, Scale(names=("A", "B", "C"), bounds=(0.1, 0.2, 1.0)))
    with pytest.raises(ConfigurationRefused) as refusal:
        desk.sync()
    assert [(problem.where, problem.found) for problem in refusal.value.problems] == [
        (f"field {field(desk, 'Risk_Action')}", "no prepay, raise, reduce, review")
    ]
    options(desk, "Risk_Action", ACTIONS)
    assert desk.sync() == 0


def test_an_administrator_is_told_every_option(fxiaoke, capsys):
    del fxiaoke.tenant.fields["risk_action__c"]
    fxiaoke.publish(table(1))
    stated(fxiaoke)
    with pytest.raises(ConfigurationRefused):
        fxiaoke.sync(create_fields=True)
    assert f"options {', '.join(ACTIONS)}" in capsys.readouterr().out


# 14: tasks


def with_tasks(tower: Tower) -> Path:
    tower.mapping["fields"] = {"Score": {"column": "score", "kind": "integer"}}
    tower.tenant.fields |= {"Score": {"data_type": "integer"} if tower.system == "zoho" else {"type": "number"}}
    published(tower, "aa", [{"customer_id": "C1"}, {"customer_id": "C2"}])
    path = tower.folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(tower.mapping))
    return path


def test_no_customer_is_written_where_the_tasks_have_no_place(tower):
    path = with_tasks(tower)
    at = {column: names[tower.side] for column, names in CONTACTS.items()}
    tasks, subject = tower.tenant.others[tower.contacts], at["subject"]
    held = tasks.fields.pop(at["until"])
    tasks.fields[at["body"]] |= {"length" if tower.system == "zoho" else "max_length": 3}
    score = tower.tenant.fields.pop("Score")
    with pytest.raises(ConfigurationRefused) as refusal:
        sync.sync(tower.system, path=path, with_tasks=True)
    assert {problem.where for problem in refusal.value.problems} == {
        f"field {at['until']}", f"field {at['body']}", "field Score"
    }  # fmt: skip
    assert not tower.tenant.writes
    tower.tenant.fields |= {"Score": score}
    tasks.fields |= {at["until"]: held}
    del tasks.fields[at["body"]]["length" if tower.system == "zoho" else "max_length"]
    assert sync.sync(tower.system, path=path, with_tasks=True) == 0
    assert {record[subject] for record in tasks.records.values()} == {"Contact: C1 (D1)", "Contact: C2 (D1)"}


def test_a_torn_worklist_is_refused_with_seven_before_a_customer_is_written(tower):
    path = with_tasks(tower)
    (tower.folder / "data/publish/current/worklist/worklist.parquet").write_bytes(b"torn")
    with pytest.raises(IntegrityRefused):
        sync.sync(tower.system, path=path, with_tasks=True)
    assert not tower.tenant.writes


# 11 and 18: what a dry run and a roll-back leave


def noted(desk: Desk) -> dict[str, list]:
    with sqlite3.connect(desk.folder / f".run/crm/{desk.system}.sqlite") as held:
        found = {of: held.execute(f"select * from {of} order by 1, 2").fetchall()
                 for of in ("sent", "rejected", "doubtful")}  # fmt: skip
    held.close()
    return found


def lock(desk: Desk, keys: set[str]) -> None:
    desk.tenant.locked = keys
    desk.tenant.codes = dict.fromkeys(keys, 30099)


def test_a_dry_run_notes_nothing(desk, capsys):
    desk.publish(table(3))
    lock(desk, {"C00002"})
    assert desk.sync() == 2
    before = noted(desk)
    assert len(before["rejected"]) == 1
    desk.publish(table(2), "22")  # the rejected one is no longer published
    assert desk.sync(dry_run=True) == 0
    assert noted(desk) == before
    assert "nothing noted here but the access token and the quota that was spent" in capsys.readouterr().out
    assert desk.sync() == 0
    assert noted(desk)["rejected"] == []


def test_a_rejection_ends_when_what_stands_there_is_published_again(desk):
    desk.publish(table(3))
    assert desk.sync() == 0
    lock(desk, {"C00001"})
    desk.publish(table(3, alerts=pa.array(["PD_HIGH"] * 3)), "22")
    assert desk.sync() == 2
    desk.publish(table(3), "33")
    assert desk.sync() == 0
    assert desk.rejected() == {}
    lock(desk, set())
    assert desk.sync(retry_rejected=True) == 0


def test_a_rejection_of_the_very_rows_that_were_sent_once_stays(desk):
    """Sent again with --all and refused: what stands in the CRM is not known to be right."""
    desk.publish(table(3))
    assert desk.sync() == 0
    lock(desk, {"C00001"})
    assert desk.sync(every=True) == 2
    assert desk.sync() == 2
    assert set(desk.rejected()) == {"C00001"}


def test_two_records_of_a_key_stay_named_after_a_roll_back(fxiaoke):
    fxiaoke.publish(table(3))
    assert fxiaoke.sync() == 0
    fxiaoke.tenant.records["z"] = {"_id": "z", "name": "Acme", "customer_code__c": "C00001"}
    fxiaoke.publish(table(3, alerts=pa.array(["PD_HIGH"] * 3)), "22")
    assert fxiaoke.sync() == 4
    fxiaoke.publish(table(3), "33")
    assert fxiaoke.sync() == 4
    assert fxiaoke.rejected() == {"C00001": "TWO_RECORDS"}


# 15: constants, options and whole numbers


def test_constants_without_a_field_an_option_or_room_are_refused(desk):
    alerts = field(desk, "Risk_Alerts")
    desk.publish(table(2))
    desk.mapping["constants"] = {"No_Such": "x", field(desk, "Risk_Action"): "halt", alerts: "x" * 9, "$hint": "free"}
    for name in (alerts, field(desk, "Risk_Action")):
        desk.mapping["fields"].pop(name)
    desk.tenant.fields[alerts] |= {"length" if desk.system == "zoho" else "max_length": 8}
    with pytest.raises(ConfigurationRefused) as refusal:
        desk.sync()
    assert {problem.where for problem in refusal.value.problems} == {
        f"field {name} of `constants`" for name in ("No_Such", field(desk, "Risk_Action"), alerts)
    }
    assert not desk.writes()
    desk.mapping["constants"] = {field(desk, "Risk_Action"): "stop", alerts: "x" * 8}
    assert desk.sync() == 0
    assert desk.standing()["C00001"][alerts] == "x" * 8


def test_an_option_too_long_for_a_short_text_is_refused(desk):
    name = field(desk, "Risk_Action")
    of = {"data_type": "text", "length": 5} if desk.system == "zoho" else {"type": "text", "max_length": 5}
    desk.tenant.fields[name] = of
    desk.publish(table(2))
    assert desk.sync() == 0
    stated(desk)  # which may also hold `review`
    with pytest.raises(ConfigurationRefused, match=rf"field {name}: must be 6 characters long; found 5"):
        desk.sync(every=True)


def test_a_whole_number_longer_than_its_field_is_refused(desk):
    name = field(desk, "Risk_Score")
    desk.tenant.fields[name] |= {"length" if desk.system == "zoho" else "max_length": 3}
    desk.publish(table(2, score=pa.array([-12, 456], pa.int32())))
    assert desk.sync() == 0
    desk.publish(table(2, score=pa.array([-1234, 456], pa.int32())), "22")
    with pytest.raises(ConfigurationRefused, match=rf"field {name}: must be 4 digits long; found 3"):
        desk.sync()


# 22: a process that is really killed


def killed(desk: Desk, when) -> int:
    """Start the command, kill it by its id at the first call for which `when` says so, and return its exit code."""
    (desk.folder / "m.yaml").write_text(yaml.safe_dump(desk.mapping))
    started = {}

    def fault(number: int, path: str) -> str | None:
        word = when(path)
        if word is not None and "id" in started:
            os.kill(started.pop("id"), signal.SIGKILL)
            time.sleep(0.1)  # so that no answer of this call reaches it
        return word

    with desk.tenant.lock:
        desk.tenant.fault = fault
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "sync", desk.system, "--mapping", "m.yaml"], cwd=desk.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started["id"] = process.pid
    code = process.wait(timeout=120)
    desk.tenant.fault = calm
    return code


def test_a_sync_that_is_killed_between_two_batches_goes_on_and_sends_nothing_twice(desk):
    desk.publish(table(250))
    looked_up = []

    def third(path: str) -> str | None:
        looked_up.extend([path] if re.search("coql|query", path) else [])
        return "cut" if len(looked_up) == 3 else None

    assert killed(desk, third) == -signal.SIGKILL
    size = 50 if desk.system == "zoho" else 100
    assert len(desk.tenant.records) == 2 * size
    assert desk.sync() == 0
    right(desk, 250)
    assert set(desk.tenant.writes.values()) == {1}
    last = max(i for i, (_, path, _) in enumerate(desk.tenant.calls) if re.search("upsert|create", path))
    lookups = [json.dumps(body) for _, path, body in desk.tenant.calls[:last] if re.search("coql|query", path)]
    assert all(f"C{2 * size - 1:05d}" not in each for each in lookups[3:]), "what is marked is not looked up again"


@pytest.mark.slow
def test_a_sync_that_is_killed_while_a_record_is_made_finds_it_before_it_makes_another(fxiaoke):
    """The process is dead before the record stands: the next one waits for it, by what was noted before it was asked for."""
    fxiaoke.publish(table(8))
    fxiaoke.mapping["settle_seconds"], fxiaoke.tenant.lands = 2, 1.0
    made = []

    def fifth(path: str) -> str | None:
        made.extend([path] if "create" in path else [])
        return "lands_late" if len(made) == 5 and "create" in path else None

    assert killed(fxiaoke, fifth) == -signal.SIGKILL
    assert fxiaoke.sync() == 0
    right(fxiaoke, 8)
    assert sorted(fxiaoke.tenant.writes.values()) == [1] * 7 + [2]  # the record that was found is written once more
