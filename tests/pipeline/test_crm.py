"""CRM connectors against stateful stand-ins: every customer ends right, none is made twice, each failure is named."""

from __future__ import annotations

import json
import os
import random
import re
import stat
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from crm_servers import FxiaokeTenant, Tenant, ZohoTenant, calm, quick, serve  # noqa: F401  quick is a fixture of all

from features.errors import BusyRefused, ConfigurationRefused, DataRefused, IntegrityRefused, ServiceRefused
from pipeline.__main__ import main
from pipeline.sinks import calls, sync
from pipeline.sinks.mapping import load

ROOT = Path(__file__).parents[2]
ZOHO_FIELDS = {
    "Customer_Code": ("text", {"length": 50, "unique": {"case_sensitive": False}}),
    "Risk_PD": ("double", {"length": 16, "decimal_place": 6}), "Risk_Score": ("integer", {"length": 9}),
    "Risk_Grade": ("picklist", {"options": ["A", "B", "C"]}), "Risk_Grade_Change": ("integer", {}),
    "Risk_Limit": ("currency", {}), "Risk_Term_Days": ("integer", {}),
    "Risk_Action": ("picklist", {"options": ["keep", "stop"]}), "Risk_Alerts": ("text", {"length": 255}),
    "Risk_Reason_1": ("text", {"length": 255}), "Risk_Reason_2": ("textarea", {"length": 2000}),
    "Risk_Reason_3": ("text", {"length": 255}), "Risk_As_Of": ("date", {}), "Risk_Model": ("text", {"length": 80}),
    "Risk_Next_Review": ("date", {}),
}  # fmt: skip
KINDS = {
    "double": "number",
    "integer": "number",
    "currency": "currency",
    "picklist": "select_one",
    "textarea": "long_text",
}


def table(rows: int, **changed) -> pa.Table:
    def every(value, kind):
        return pa.array([value] * rows, kind)

    columns = {
        "customer_id": pa.array([f"C{i:05d}" for i in range(rows)]),
        "as_of": every(date(2026, 11, 1), pa.date32()),
        "pd_12m": pa.array([(i % 97) / 1000 + 0.0001234567 for i in range(rows)]),
        "score": pa.array([600 + i % 100 for i in range(rows)], pa.int32()),
        "grade": pa.array(["ABC"[i % 3] for i in range(rows)]),
        "grade_change": pa.array([None if i % 5 == 0 else i % 3 - 1 for i in range(rows)], pa.int32()),
        "credit_limit_recommended": pa.array([Decimal(i * 100) / 100 for i in range(rows)], pa.decimal128(18, 2)),
        "payment_term_days": every(30, pa.int32()),
        "action": pa.array(["keep" if i % 2 else "stop" for i in range(rows)]),
        "alerts": every("PD_HIGH;NEW_ARREARS", pa.string()),
        "reason_1_text": every('逾期 30 天, "late"', pa.string()),
        "reason_2_text": every(None, pa.string()),
        "reason_3_text": every("Balance's fall", pa.string()),
        "model_version": every("abc123", pa.string()),
        "next_review_on": every(date(2027, 2, 1), pa.date32()),
    }
    return pa.table(columns | changed)


class Desk:
    """A folder with a published table, a tenant, and the command."""

    def __init__(self, system: str, folder: Path, tenant: Tenant) -> None:
        self.system, self.folder, self.tenant = system, folder, tenant
        self.mapping = yaml.safe_load((ROOT / f"data/crm/{system}.yaml").read_text())
        service = {"accounts_url": tenant.url} if system == "zoho" else {
            "url": tenant.url, "user": "FSUID_1", "seconds_between_calls": 0
        }  # fmt: skip
        self.mapping["service"] |= service
        self.mapping |= {"retry_seconds": 20, "settle_seconds": 0}

    def publish(self, rows: pa.Table, run: str = "0a1b2c3d") -> None:
        version = self.folder / "data/publish/versions" / run
        version.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, version / "scored_customers.parquet")
        (version / "manifest.json").write_text(json.dumps({"run_id": run}))
        current = self.folder / "data/publish/current"
        current.unlink(missing_ok=True)
        current.symlink_to(version)

    def sync(self, **options) -> int:
        path = self.folder / "mapping.yaml"
        path.write_text(yaml.safe_dump(self.mapping))
        return sync.sync(self.system, path=path, **options)

    def writes(self) -> list[dict]:
        return self.tenant.paths("upsert") + self.tenant.paths("data/create") + self.tenant.paths("data/update")

    def standing(self) -> dict[str, dict]:
        key = self.mapping["key"]["field"]
        found = {record[key]: record for record in self.tenant.records.values()}
        assert len(found) == len(self.tenant.records), "a customer stands twice"
        assert not self.tenant.fired, "workflows of the tenant fire"
        return found

    def rejected(self) -> dict[str, str]:
        held = pa_csv.read_csv(self.folder / f".run/crm/{self.system}-rejected.csv")
        return dict(zip(held["key"].to_pylist(), map(str, held["code"].to_pylist()), strict=True))


def zoho_tenant() -> ZohoTenant:
    tenant = ZohoTenant()
    for name, (kind, more) in ZOHO_FIELDS.items():
        tenant.field(name, kind, **more)
    return tenant


def fxiaoke_tenant() -> FxiaokeTenant:
    tenant = FxiaokeTenant()
    for name, (kind, more) in ZOHO_FIELDS.items():
        options = [{"label": f"the {each}", "value": each} for each in more.get("options", ())]
        tenant.fields[f"{name.lower()}__c"] = {
            "type": KINDS.get(kind, kind),
            **({"options": options} if options else {}),
        }
    return tenant


@pytest.fixture
def zoho(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(zoho_tenant()) as tenant:
        yield Desk("zoho", tmp_path, tenant)


@pytest.fixture
def fxiaoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(fxiaoke_tenant()) as tenant:
        yield Desk("fxiaoke", tmp_path, tenant)


@pytest.fixture(params=["zoho", "fxiaoke"])
def desk(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("system", ["zoho", "fxiaoke"])
def test_the_shipped_mapping_names_columns_of_the_contract(system):
    contract = json.loads((ROOT / "data/contracts/scored_customers.v1.json").read_text())
    mapping = load(ROOT / f"data/crm/{system}.yaml")
    named = {each.column for each in [*mapping.fields.values(), *mapping.when_created.values()]}
    assert named <= {column["name"] for column in contract["columns"]}
    assert named >= {"pd_12m", "score", "grade", "grade_change", "action", "alerts", "as_of", "model_version"}


def test_zoho_holds_what_is_published_and_the_second_sync_sends_nothing(zoho, capsys):
    zoho.publish(table(230))
    assert zoho.sync() == 0
    record = zoho.standing()["C00007"]
    wanted = {
        "Risk_PD": 0.007123, "Risk_Score": 607, "Risk_Grade": "B", "Risk_Grade_Change": 0, "Risk_Limit": 7.0,
        "Risk_Term_Days": 30, "Risk_Action": "keep", "Risk_Alerts": "PD_HIGH;NEW_ARREARS",
        "Risk_Reason_1": '逾期 30 天, "late"', "Risk_Reason_2": None, "Risk_Reason_3": "Balance's fall",
        "Risk_As_Of": "2026-11-01", "Risk_Model": "abc123", "Risk_Next_Review": "2027-02-01",
        "Account_Name": "C00007", "Customer_Code": "C00007",
    }  # fmt: skip
    assert {name: record.get(name) for name in wanted} == wanted
    assert len(zoho.standing()) == 230
    before = len(zoho.writes())
    assert zoho.sync() == 0
    assert len(zoho.writes()) == before
    assert "created 230" in capsys.readouterr().out


def test_fxiaoke_holds_numbers_as_text_and_days_as_milliseconds(fxiaoke):
    fxiaoke.publish(table(12))
    assert fxiaoke.sync() == 0
    record = fxiaoke.standing()["C00007"]
    assert record["risk_pd__c"] == "0.007123"
    assert record["risk_score__c"] == "607"
    assert record["risk_limit__c"] == "7.00"
    assert record["risk_as_of__c"] == 1793462400000  # 2026-11-01 00:00 at +08:00
    assert record["name"] == "C00007"
    assert all("thirdTraceId=" in path for _, path, _ in fxiaoke.tenant.calls if "/data/" in path)


def test_only_changed_rows_are_sent_and_a_name_of_the_crm_stays(desk):
    desk.publish(table(60))
    desk.sync()
    name = "Account_Name" if desk.system == "zoho" else "name"
    for record in desk.tenant.records.values():
        record[name] = "上海示例科技"
    counts = dict(desk.tenant.writes)
    changed = table(60)
    scores = changed["score"].to_pylist()
    scores[5] = 111
    desk.publish(changed.set_column(3, "score", pa.array(scores, pa.int32())), "11111111")
    assert desk.sync() == 0
    written = [key for key, n in desk.tenant.writes.items() if n != counts[key]]
    standing = desk.standing()
    assert len(written) == 1
    assert str(next(v for k, v in standing["C00005"].items() if k.lower().startswith("risk_score"))) == "111"
    assert all(record[name] == "上海示例科技" for record in standing.values())


def test_an_existing_account_is_found_by_its_key_whatever_its_case(zoho):
    zoho.tenant.records["77"] = {"id": "77", "Account_Name": "Acme", "Customer_Code": "c00001"}
    zoho.publish(table(3))
    zoho.sync()
    assert len(zoho.tenant.records) == 3
    assert zoho.tenant.records["77"]["Risk_Score"] == 601
    assert zoho.tenant.records["77"]["Account_Name"] == "Acme"


def test_where_records_are_not_to_be_made_none_are(desk, capsys):
    desk.mapping["create"] = False
    desk.publish(table(10))
    assert desk.sync() == 0
    assert not desk.tenant.records
    assert "without record 10" in capsys.readouterr().out


def test_a_dry_run_reads_and_writes_nothing(desk, capsys):
    desk.publish(table(5))
    desk.sync()
    calls_before, run = len(desk.writes()), table(6)
    desk.publish(run.set_column(4, "grade", pa.array(["C"] * 6)), "22222222")
    before = json.dumps(desk.tenant.records, sort_keys=True)
    assert desk.sync(dry_run=True, sample=2) == 0
    said = capsys.readouterr().out
    assert "new 1, changed 4, unchanged 1" in said
    assert "'A' -> 'C'" in said
    assert json.dumps(desk.tenant.records, sort_keys=True) == before
    assert len(desk.writes()) == calls_before


def faulty(words: list[str], every: int = 10, seed: int = 3):
    chance = random.Random(seed)

    def fault(number: int, path: str) -> str | None:
        return chance.choice(words) if number % every == 0 else None

    return fault


ALL = ["cut", "429", "500", "done_500", "done_cut", "token", "late", "busy"]


def right(desk: Desk, rows: int) -> None:
    standing = desk.standing()
    assert sorted(standing) == [f"C{i:05d}" for i in range(rows)]
    name = "Risk_Score" if desk.system == "zoho" else "risk_score__c"
    assert all(str(standing[f"C{i:05d}"][name]) == str(600 + i % 100) for i in range(rows))


def test_with_a_fault_in_every_third_answer_all_end_right_and_none_twice(desk, monkeypatch):
    monkeypatch.setattr(calls, "ANSWER", 0.3)
    rows = 1500 if desk.system == "zoho" else 120
    desk.publish(table(rows))
    desk.tenant.fault = faulty(ALL, 3)
    assert desk.sync() == 0
    right(desk, rows)
    desk.tenant.fault = calm
    writes = len(desk.writes())
    assert desk.sync() == 0
    assert len(desk.writes()) == writes


@pytest.mark.slow
def test_ten_thousand_customers_with_a_fault_in_every_tenth_answer(desk, monkeypatch):
    monkeypatch.setattr(calls, "ANSWER", 0.3)
    desk.publish(table(10_000))
    refused = {f"C{i:05d}" for i in range(0, 10_000, 100)}
    name = "Risk_Reason_2" if desk.system == "zoho" else None
    if name:
        desk.mapping["service"]["keys_per_query"] = 5  # so that there are calls enough to fail
        desk.tenant.locked = refused
    else:
        desk.tenant.codes = dict.fromkeys(refused, 30099)
    desk.tenant.fault = faulty(ALL)
    assert desk.sync() == 2
    assert desk.rejected() == dict.fromkeys(refused, "RECORD_LOCKED" if name else "30099")
    desk.tenant.locked, desk.tenant.codes = set(), {}
    writes = len(desk.writes())
    assert desk.sync() == 2
    assert len(desk.writes()) == writes
    assert desk.sync(retry_rejected=True) == 0
    right(desk, 10_000)


def test_a_write_that_was_done_though_its_answer_was_lost_is_looked_up_before_it_is_repeated(desk):
    desk.publish(table(4))
    lost = []

    def fault(number: int, path: str) -> str | None:
        if ("upsert" in path or "create" in path) and not lost:
            lost.append(number)
            return "done_cut"
        return None

    desk.tenant.fault = fault
    assert desk.sync() == 0
    right(desk, 4)
    paths = [path for _, path, _ in desk.tenant.calls]
    after = paths[lost[0] :]
    again = next(i for i, path in enumerate(after) if "upsert" in path or "update" in path)
    assert any("coql" in path or "query" in path for path in after[:again])


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "not marked"])
def test_a_killed_sync_goes_on_where_it_was(desk, monkeypatch, marked):
    """Killed after a batch was marked, or when it was written and not yet marked: then it is looked up, not made again."""
    desk.publish(table(230))

    class Killed(BaseException):
        pass

    journal, recorded = sync.Journal.record, []

    def record(self, rows):
        recorded.append(1)
        last = len(recorded) == (30 if desk.system == "fxiaoke" else 4)
        if marked or not last:
            journal(self, rows)
        if last:
            raise Killed

    monkeypatch.setattr(sync.Journal, "record", record)
    with pytest.raises(Killed):
        desk.sync()
    assert 0 < len(desk.tenant.records) < 230
    monkeypatch.setattr(sync.Journal, "record", journal)
    assert desk.sync() == 0
    right(desk, 230)
    again = 0 if marked else 1 if desk.system == "fxiaoke" else 50
    assert sum(desk.tenant.writes.values()) == 230 + again


def test_rejected_rows_are_named_left_alone_and_can_be_sent_alone(desk):
    desk.publish(table(30))
    if desk.system == "zoho":
        desk.tenant.locked = {"C00003"}
        desk.tenant.flat = {"C00009"}
    else:
        desk.tenant.codes = {"C00003": 30099, "C00009": 30098}
    assert desk.sync() == 2
    wanted = {"C00003": "RECORD_LOCKED", "C00009": "INVALID_DATA"} if desk.system == "zoho" else {
        "C00003": "30099", "C00009": "30098"
    }  # fmt: skip
    assert desk.rejected() == wanted
    assert len(desk.standing()) == 28
    writes = len(desk.writes())
    assert desk.sync() == 2
    assert len(desk.writes()) == writes
    desk.tenant.locked, desk.tenant.flat, desk.tenant.codes = set(), set(), {}
    assert desk.sync(retry_rejected=True) == 0
    right(desk, 30)
    assert desk.rejected() == {}


def test_a_key_of_two_records_is_rejected_with_what_to_do(fxiaoke, capsys):
    for number in "ab":
        fxiaoke.tenant.records[number] = {"_id": number, "name": "Acme", "customer_code__c": "C00001"}
    fxiaoke.publish(table(3))
    assert fxiaoke.sync() == 4
    assert fxiaoke.rejected() == {"C00001": "TWO_RECORDS"}
    assert len(fxiaoke.tenant.records) == 4, "the others are written"
    assert "merge these in the CRM" in capsys.readouterr().out
    assert "merge" in (fxiaoke.folder / ".run/crm/fxiaoke-rejected.csv").read_text("utf-8-sig")


def test_the_preflight_names_every_field_that_cannot_hold_the_rows(zoho):
    del zoho.tenant.fields["Risk_PD"]
    zoho.tenant.fields["Risk_Grade"]["options"] = ["A"]
    zoho.tenant.fields["Risk_Alerts"]["length"] = 5
    zoho.tenant.fields["Risk_As_Of"]["data_type"] = "text"
    zoho.tenant.fields["Customer_Code"]["unique"] = {}
    zoho.publish(table(5))
    with pytest.raises(ConfigurationRefused) as refusal:
        zoho.sync()
    said = [problem.where for problem in refusal.value.problems]
    assert sorted(said) == [
        f"field {n}" for n in ("Customer_Code", "Risk_Alerts", "Risk_As_Of", "Risk_Grade", "Risk_PD")
    ]
    assert not zoho.writes()


def test_zoho_makes_missing_fields_five_at_a_time_and_says_what_it_cannot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serve(ZohoTenant()) as tenant:
        desk = Desk("zoho", tmp_path, tenant)
        desk.publish(table(5))
        tenant.no_room = {"Risk PD"}
        with pytest.raises(ConfigurationRefused):
            desk.sync(create_fields=True)
        assert "Risk_PD (Risk PD): number, 6 decimals" in capsys.readouterr().out
        tenant.no_room = set()
        assert desk.sync(create_fields=True) == 0
        assert len(tenant.paths("settings/fields")) > 4
        assert tenant.fields["Customer_Code"]["unique"]
        assert len(desk.standing()) == 5


def test_a_field_made_under_another_name_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with serve(zoho_tenant()) as tenant:
        del tenant.fields["Risk_PD"]
        tenant.rename = True
        desk = Desk("zoho", tmp_path, tenant)
        desk.publish(table(1))
        with pytest.raises(ConfigurationRefused):
            desk.sync(create_fields=True)
        assert "another API name" in capsys.readouterr().out


def test_fxiaoke_says_what_an_administrator_must_add(fxiaoke, capsys):
    del fxiaoke.tenant.fields["risk_pd__c"]
    fxiaoke.publish(table(1))
    with pytest.raises(ConfigurationRefused):
        fxiaoke.sync(create_fields=True)
    assert "risk_pd__c (risk pd): number, 6 decimals" in capsys.readouterr().out


def test_tokens_are_kept_for_us_alone_fetched_once_and_renewed_when_refused(desk):
    desk.publish(table(3))
    desk.sync()
    desk.sync()
    assert desk.tenant.issued == 1
    desk.tenant.tokens.clear()
    desk.sync()
    assert desk.tenant.issued == 2
    for path in (desk.folder / ".run/crm").iterdir():
        if "token.json" in path.name or "sqlite" in path.name or path.suffix == ".csv":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((desk.folder / ".run/crm").stat().st_mode) == 0o700


def test_a_dead_secret_is_a_configuration_error_that_repeats_no_secret(desk, capsys):
    desk.tenant.dead = True
    desk.publish(table(1))
    with pytest.raises(ConfigurationRefused) as refusal:
        desk.sync()
    assert desk.tenant.issued == 0
    assert not any(word in str(refusal.value) for word in ("secret'", "=refresh", "permanent'", "client'"))
    assert len(desk.tenant.calls) == 1


def test_a_token_that_is_refused_again_ends_with_four(desk, monkeypatch):
    monkeypatch.setattr(desk.tenant, "alive", lambda _: False)
    desk.publish(table(1))
    with pytest.raises(ConfigurationRefused):
        desk.sync()
    assert desk.tenant.issued == 2


def test_a_throttled_token_service_is_asked_again(zoho):
    zoho.tenant.throttled = 2
    zoho.publish(table(1))
    assert zoho.sync() == 0


@pytest.mark.parametrize("fault", ["500", "429", "cut", "done_cut"])
def test_a_service_that_stays_away_ends_with_eight_within_its_time(desk, fault):
    desk.mapping["retry_seconds"] = 0.2
    desk.publish(table(3))
    desk.tenant.fault = lambda _, path: fault if re.search("upsert|create|update", path) else None
    with pytest.raises(ServiceRefused):
        desk.sync()
    desk.tenant.fault = calm
    assert desk.sync() == 0
    right(desk, 3)


def test_no_server_at_all_ends_with_eight(desk, monkeypatch):
    desk.mapping["retry_seconds"] = 0.1
    desk.mapping["service"]["accounts_url" if desk.system == "zoho" else "url"] = "http://127.0.0.1:9"
    desk.publish(table(1))
    with pytest.raises(ServiceRefused):
        desk.sync()


def test_our_own_quota_stops_before_the_service_does_and_the_rest_follows(desk):
    desk.publish(table(230 if desk.system == "zoho" else 20))
    name = "credits_a_day" if desk.system == "zoho" else "calls_a_day"
    desk.mapping["service"][name] = 10
    with pytest.raises(ServiceRefused):
        desk.sync()
    assert desk.tenant.spent <= 10
    made = len(desk.standing())
    assert made > 0
    desk.mapping["service"][name] = 1000
    assert desk.sync() == 0
    assert sum(desk.tenant.writes.values()) == len(desk.standing()) > made


def test_the_tenants_quota_ends_with_eight(desk):
    desk.publish(table(230 if desk.system == "zoho" else 20))
    desk.tenant.quota, desk.mapping["retry_seconds"] = 12, 0.2
    with pytest.raises(ServiceRefused):
        desk.sync()
    desk.tenant.quota = None
    assert desk.sync() == 0


@pytest.mark.parametrize("auth", ["legacy", "bearer"])
@pytest.mark.parametrize("describe", ["data", "top"])
def test_fxiaokes_two_styles(fxiaoke, auth, describe):
    fxiaoke.mapping["service"] |= {
        "auth": auth,
        "describe": describe,
        "user": "FSUID_1" if auth == "legacy" else "1000",
    }
    fxiaoke.publish(table(2))
    assert fxiaoke.sync() == 0
    right(fxiaoke, 2)


@pytest.mark.parametrize(("how", "value"), [("null", None), ("text", ""), ("leave", "PD_HIGH;NEW_ARREARS")])
def test_fxiaoke_empties_a_field_as_the_setting_says(fxiaoke, how, value):
    fxiaoke.mapping["service"]["empty"] = how
    fxiaoke.publish(table(1))
    fxiaoke.sync()
    fxiaoke.publish(table(1, alerts=pa.array([None], pa.string())), "33333333")
    fxiaoke.sync()
    assert fxiaoke.standing()["C00000"]["risk_alerts__c"] == value


def test_what_is_wrong_here_is_refused_before_anything_is_sent(desk, monkeypatch):
    with pytest.raises(DataRefused):
        desk.sync()
    desk.publish(table(2))
    good = json.loads(json.dumps(desk.mapping))
    for wrong in (
        {"fields": {"X": {"column": "no_such_column"}}}, {"fields": {}}, {"unknown": 1}, {"service": {"what": 1}},
        {"service": {"accounts_url": "http://example.com", "url": "http://example.com", "user": "x"}},
    ):  # fmt: skip
        desk.mapping = good | wrong
        with pytest.raises(ConfigurationRefused):
            desk.sync()
    if desk.system == "fxiaoke":
        desk.mapping = yaml.safe_load((ROOT / "data/crm/fxiaoke.yaml").read_text())
        with pytest.raises(ConfigurationRefused, match=r"service\.user"):
            desk.sync()
    desk.mapping = good
    desk.publish(table(2, customer_id=pa.array(["a", "A"])), "44444444")
    with pytest.raises(ConfigurationRefused):
        desk.sync()
    monkeypatch.delenv("BELLWETHER_ZOHO_CLIENT_SECRET")
    monkeypatch.delenv("BELLWETHER_FXIAOKE_APP_SECRET")
    with pytest.raises(ConfigurationRefused):
        desk.sync()
    assert not desk.writes()


def test_two_at_a_time_is_refused(desk):
    desk.publish(table(1))
    with sync.alone("sync", desk.system), pytest.raises(BusyRefused):
        desk.sync()


def test_the_command_ends_with_the_codes_and_shows_no_secret(zoho, capsys):
    zoho.publish(table(3))
    (zoho.folder / "data/crm").mkdir(parents=True)
    (zoho.folder / "data/crm/zoho.yaml").write_text(yaml.safe_dump(zoho.mapping))
    assert main(["sync", "zoho"]) == 0
    zoho.tenant.dead = True
    zoho.tenant.tokens.clear()
    zoho.publish(table(4), "55555555")
    assert main(["sync", "zoho"]) == 4
    told = capsys.readouterr()
    assert "BELLWETHER_ZOHO_CLIENT_ID" in told.err
    assert not any(f"token-{i}" in told.out + told.err for i in range(9))
    assert os.environ["BELLWETHER_ZOHO_CLIENT_SECRET"] not in told.out + told.err.replace("CLIENT_SECRET", "")


def test_another_tenant_is_another_account(zoho):
    zoho.publish(table(5))
    zoho.sync()
    with serve(zoho_tenant()) as other:
        zoho.mapping["service"]["accounts_url"] = other.url
        assert zoho.sync() == 0
        assert len(other.records) == 5


def test_all_are_sent_again_where_that_is_asked(desk):
    desk.publish(table(4))
    desk.sync()
    desk.tenant.records.clear()
    assert desk.sync() == 0
    assert not desk.tenant.records
    assert desk.sync(every=True) == 0
    right(desk, 4)


def test_an_address_that_leads_elsewhere_is_a_configuration_error(desk):
    desk.publish(table(1))
    desk.tenant.fault = lambda *_: "html"
    with pytest.raises(ConfigurationRefused):
        desk.sync()
    assert len(desk.tenant.calls) == 1


def test_fxiaokes_public_client_reads_what_ours_wrote_and_ours_finds_what_it_wrote(fxiaoke, monkeypatch):
    from fxiaoke.api import FxiaokeApi
    from fxiaoke.baseObj import baseObj
    from requests.adapters import HTTPAdapter

    class Here(HTTPAdapter):
        """Its host is written into it: its calls are led to the stand-in."""

        def send(self, request, **options):
            request.url = request.url.replace("https://open.fxiaoke.com", fxiaoke.tenant.url)
            return super().send(request, **options)

    api = FxiaokeApi.init("app", "secret", "permanent", "FSUID_1")
    api._session.requests.mount("https://", Here())
    accounts = baseObj(api, "AccountObj")
    accounts.create({"name": "Acme", "customer_code__c": "C00001"})
    theirs = fxiaoke.tenant.paths("create")[0]
    fxiaoke.tenant.fired = 0
    fxiaoke.publish(table(3))
    assert fxiaoke.sync() == 0
    right(fxiaoke, 3)
    ours = fxiaoke.tenant.paths("create")[-1]
    assert {*theirs} - {"currentOpenUserId", "corpAccessToken", "corpId"} <= {*ours}
    found = next(
        accounts.query(filters=[{"field_name": "customer_code__c", "field_values": ["C00001"], "operator": "EQ"}])
    )
    api._session.requests.close()
    assert found["name"] == "Acme"
    assert found["risk_score__c"] == "601"


SDK = """
import json, sys
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.coql import BodyWrapper, CoqlOperations
from zohocrmsdk.src.com.zoho.crm.api import record

url = sys.argv[1]
token = OAuthToken(client_id="client", client_secret="secret", refresh_token="refresh", find_user=False)
where = DataCenter.Environment(url, url + "/oauth/v2/token", url)
Initializer.initialize(where, token, store=FileStore("sdk-tokens.txt"), resource_path=".")
if sys.argv[2] == "write":
    one = record.Record()
    one.add_key_value("Customer_Code", "C00001")
    one.add_key_value("Account_Name", "Acme")
    body = record.BodyWrapper()
    body.set_data([one])
    body.set_duplicate_check_fields(["Customer_Code"])
    body.set_trigger([])
    answer = record.RecordOperations("Accounts").upsert_records(body).get_object()
    print(json.dumps([each.get_status().get_value() for each in answer.get_data()]))
else:
    body = BodyWrapper()
    body.set_select_query(sys.argv[2])
    answer = CoqlOperations().get_records(body).get_object()
    print(json.dumps([each.get_key_values() for each in answer.get_data()], default=str))
"""


@pytest.mark.slow
def test_zohos_own_client_reads_what_ours_wrote_and_ours_finds_what_it_wrote(zoho):
    def sdk(what: str):
        command = [sys.executable, "-W", "ignore", "-c", SDK, zoho.tenant.url, what]
        done = subprocess.run(command, check=False, cwd=zoho.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    assert sdk("write") == ["success"]
    theirs = zoho.tenant.paths("upsert")[0]
    zoho.publish(table(3))
    assert zoho.sync() == 0
    right(zoho, 3)
    ours = zoho.tenant.paths("upsert")[-1]
    assert {*theirs} == {*ours}
    assert theirs["duplicate_check_fields"] == ours["duplicate_check_fields"]
    found = sdk(
        "select id, Account_Name, Risk_Score, Risk_PD from Accounts where Customer_Code in ('C00001') limit 0, 200"
    )
    assert found[0]["Account_Name"] == "Acme"
    assert float(found[0]["Risk_Score"]) == 601
    assert float(found[0]["Risk_PD"]) == 0.001123


def test_answers_in_another_order_are_believed_of_no_row(zoho):
    zoho.publish(table(4))
    zoho.tenant.locked, zoho.tenant.reversed = {"C00000"}, True
    zoho.mapping["retry_seconds"] = 0.2
    with pytest.raises(ServiceRefused):
        zoho.sync()
    zoho.tenant.locked, zoho.tenant.reversed = set(), False
    assert zoho.sync() == 0
    right(zoho, 4)


def test_a_torn_journal_is_refused_and_can_be_removed(desk):
    desk.publish(table(3))
    desk.sync()
    journal = desk.folder / f".run/crm/{desk.system}.sqlite"
    journal.write_bytes(b"no database" * 100)
    with pytest.raises(IntegrityRefused):
        desk.sync()
    journal.unlink()
    assert desk.sync() == 0
    right(desk, 3)


@pytest.mark.parametrize("path", ["settings/fields", "coql", "upsert"])
def test_a_token_without_the_right_is_refused_at_once_with_the_call_that_needs_it(zoho, path):
    zoho.publish(table(2))
    zoho.tenant.fault = lambda _, called: "scope" if path in called else None
    with pytest.raises(ConfigurationRefused, match="OAUTH_SCOPE_MISMATCH") as refusal:
        zoho.sync()
    assert path in str(refusal.value)
    assert sum(path in called for _, called, _ in zoho.tenant.calls) == 1


def test_a_field_that_is_taken_away_during_a_sync_is_named_for_each_row(zoho):
    zoho.publish(table(3))

    def fault(number: int, path: str) -> None:
        if "coql" in path:
            zoho.tenant.fields.pop("Risk_PD", None)

    zoho.tenant.fault = fault
    assert zoho.sync() == 2
    assert zoho.rejected() == {f"C{i:05d}": "INVALID_DATA" for i in range(3)}
    assert "Risk_PD" in (zoho.folder / ".run/crm/zoho-rejected.csv").read_text("utf-8-sig")
    assert not zoho.tenant.records


def spoil(desk: Desk, monkeypatch, how: str) -> None:
    """What a person may have set up wrongly, or what may have changed since."""
    first, service = desk.system == "zoho", desk.mapping["service"]
    key = desk.mapping["key"]["field"]
    if how == "no credentials":
        monkeypatch.delenv("BELLWETHER_ZOHO_REFRESH_TOKEN" if first else "BELLWETHER_FXIAOKE_PERMANENT_CODE")
    elif how == "wrong region":  # what one cloud handed out is unknown in another
        desk.tenant.dead = True
        service |= {"data_center": "eu"} if first else {"auth": "bearer"}
    elif how == "expired secret":
        desk.tenant.dead = True
    elif how == "missing field":
        del desk.tenant.fields["Risk_PD" if first else "risk_pd__c"]
    elif how == "wrong type":
        desk.tenant.fields["Risk_PD" if first else "risk_pd__c"] = {"data_type": "text"} if first else {"type": "text"}
    elif how == "key of two records":
        for number in ("71", "72"):
            desk.tenant.records[number] = {("id" if first else "_id"): number, key: "C00001"}


WRONG = {  # exit code, what is said, and how many customers are written all the same
    "no credentials": (4, "Set it", 0), "wrong region": (4, "data_center|service.url", 0),
    "expired secret": (4, "Make a new refresh token|Correct them", 0), "missing field": (4, "no such field. Add it", 0),
    "wrong type": (4, "must be of type", 0), "key of two records": (4, "merge these in the CRM", 2),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_ends_with_four_and_a_sentence_and_what_was_written_is_noted(desk, monkeypatch, capsys, how):
    desk.publish(table(3))
    spoil(desk, monkeypatch, how)
    (desk.folder / "m.yaml").write_text(yaml.safe_dump(desk.mapping))
    code, words, written = WRONG[how]
    assert main(["sync", desk.system, "--mapping", "m.yaml"]) == code
    told = capsys.readouterr()
    assert re.search(words, told.err + told.out), told
    assert len(desk.tenant.writes) == written
    if written:
        assert desk.rejected() == {"C00001": "TWO_RECORDS"}
        assert not {"71", "72"} & desk.tenant.writes.keys()
