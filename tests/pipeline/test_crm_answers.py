# ruff: noqa: F811  fixtures of another file
"""What a CRM may answer beside what it should: other shapes, cut and empty ones, tokens of others, calls that take long."""

from __future__ import annotations

import datetime as dt
import email.utils
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from crm_servers import Tenant, ZohoTenant, calm, quick, serve  # noqa: F401  quick is a fixture of all
from hypothesis import given, settings
from hypothesis import strategies as st
from test_crm import (  # noqa: F401  the fixtures are used by their names
    ROOT,
    Desk,
    desk,
    fxiaoke,
    fxiaoke_tenant,
    right,
    table,
    zoho,
    zoho_tenant,
)

from features.errors import ConfigurationRefused, ServiceRefused
from pipeline.sinks import calls, sync, tokens
from pipeline.sinks.mapping import Mapping, load

NEW = {"zoho": zoho_tenant, "fxiaoke": fxiaoke_tenant}
LOOKUP = {"zoho": "coql", "fxiaoke": "data/query"}
WRITE = {"zoho": "upsert", "fxiaoke": "data/create"}
TOKENS = {"zoho": "oauth", "fxiaoke": "corpAccessToken"}
ADDRESS = {"zoho": "accounts_url", "fxiaoke": "url"}


def answering(tenant: Tenant, change) -> None:
    """Let `change(usual, path, body)` say what is answered; `usual()` does what is asked and returns its answer."""
    usual = type(tenant).answer
    tenant.answer = lambda method, path, body, headers: change(
        lambda: usual(tenant, method, path, body, headers), path, body
    )


def in_turn(tenant: Tenant, part: str, answers: list, *, done: bool = False) -> list:
    """Give the calls of a path these answers, whether what they ask is done or not; return those not given yet."""
    left = list(answers)

    def change(usual, path, body):
        if part not in path or not left:
            return usual()
        if done:
            usual()
        return left.pop(0)

    answering(tenant, change)
    return left


def always(tenant: Tenant, part: str, answer) -> None:
    answering(tenant, lambda usual, path, _: answer if part in path else usual())


def journal(desk: Desk) -> dict[str, str | None]:
    """Customer -> the record that is noted as his."""
    with sqlite3.connect(desk.folder / f".run/crm/{desk.system}.sqlite") as opened:
        found = dict(opened.execute("select key, record_id from sent").fetchall())
    opened.close()
    return found


def records(desk: Desk) -> dict[str, str]:
    """Customer -> the record that is his."""
    key = desk.mapping["key"]["field"]
    return {record[key]: number for number, record in desk.tenant.records.items()}


def load_mapping(desk: Desk) -> Mapping:
    path = desk.folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(desk.mapping))
    return load(path)


class Clock:
    """Time that passes only where someone sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 1_000.0, []
        own = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(calls, "time", own)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


# One tenant and another


def test_a_token_of_one_tenant_is_never_used_for_another(desk):
    desk.publish(table(5))
    assert desk.sync() == 0
    with serve(NEW[desk.system]()) as other:
        other.issued = 100  # its tokens are others
        first, desk.tenant = desk.tenant, other
        before, held = len(first.calls), json.dumps(first.records, sort_keys=True)
        desk.mapping["service"][ADDRESS[desk.system]] = other.url
        desk.publish(table(5, alerts=pa.array(["X"] * 5)), "22222222")
        assert desk.sync() == 0
        right(desk, 5)
        assert len(first.calls) == before
        assert json.dumps(first.records, sort_keys=True) == held
        desk.mapping["service"][ADDRESS[desk.system]] = first.url
        before = len(other.calls)
        assert desk.sync() == 0
        assert len(other.calls) == before


def test_another_organisation_of_the_same_client_is_another_account(desk, monkeypatch):
    desk.publish(table(4))
    assert desk.sync() == 0
    name = "ZOHO_REFRESH_TOKEN" if desk.system == "zoho" else "FXIAOKE_PERMANENT_CODE"
    part, theirs = ("refresh_token", "refresh") if desk.system == "zoho" else ("permanentCode", "permanent")
    monkeypatch.setenv(f"BELLWETHER_{name}", "of another organisation")
    asked = []

    def change(usual, path, body):
        if part in body:
            asked.append(body[part])
            body[part] = theirs
        return usual()

    desk.tenant.records.clear()
    answering(desk.tenant, change)
    assert desk.sync() == 0
    assert asked == ["of another organisation"], "a token of its own"
    right(desk, 4)
    kept = (desk.folder / f".run/crm/{desk.system}-token.json").read_text()
    assert "another organisation" not in kept, "no secret lies in the file of tokens"


def test_styles_of_one_tenant_do_not_take_each_others_token(fxiaoke):
    fxiaoke.publish(table(2))
    assert fxiaoke.sync() == 0
    fxiaoke.mapping["service"] |= {"auth": "bearer", "user": "1000"}
    fxiaoke.publish(table(2, alerts=pa.array(["X"] * 2)), "22222222")
    assert fxiaoke.sync() == 0
    assert fxiaoke.tenant.issued == 2


@pytest.mark.parametrize(
    "text", ["{}", "[]", "1", '{"of": 1}', '{"access": "a", "ends": "soon"}', '{"access": 7, "ends": 9e99}', "", "{"]
)
def test_a_file_of_tokens_that_says_nothing_is_not_believed(tmp_path, text):
    def fetch():
        return tokens.kept("new", 3600, time.time())

    of = tokens.told_apart("a")
    path = tmp_path / "token.json"
    path.write_text(text)
    assert tokens.Token(path, of, fetch).get()["access"] == "new"
    if text.startswith('{"'):
        path.write_text(json.dumps({"early": 1, "of": of} | json.loads(text)))
        assert tokens.Token(path, of, fetch).get()["access"] == "new"


# Tokens


@pytest.mark.parametrize("lifetime", [30, 60, 120, "120"])
def test_a_token_of_a_short_life_is_fetched_once_and_not_for_every_call(desk, lifetime):
    def change(usual, path, body):
        status, answer = usual()
        name = "expires_in" if desk.system == "zoho" else "expiresIn"
        return status, answer | {name: lifetime} if answer and name in answer else answer

    answering(desk.tenant, change)
    desk.publish(table(230 if desk.system == "zoho" else 10))
    assert desk.sync() == 0
    assert desk.tenant.issued == 1
    assert len(desk.tenant.calls) > 10


@pytest.mark.parametrize(("lifetime", "kept"), [(60, 54), (1000, 900), (3600, 3480), (7200, 7080)])
def test_a_token_is_replaced_shortly_before_its_end(tmp_path, monkeypatch, lifetime, kept):
    now, fetched = [5_000.0], []

    def fetch():
        fetched.append(now[0])
        return tokens.kept(f"t{len(fetched)}", lifetime, now[0])

    monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: now[0]))
    token = tokens.Token(tmp_path / "token.json", "a", fetch)
    token.get()
    now[0] += kept - 1
    assert token.get()["access"] == tokens.Token(tmp_path / "token.json", "a", fetch).get()["access"] == "t1"
    now[0] += 2
    assert token.get()["access"] == "t2"


HALF_TOKENS = {
    "zoho": [
        {"access_token": "t", "expires_in": None}, {"access_token": "t", "expires_in": "soon"},
        {"access_token": "t", "expires_in": -1}, {"access_token": "t", "expires_in": [3600]}, {"access_token": 7}, {}, [],
        None, "x", {"access_token": "t", "expires_in": float("nan")}, {"access_token": "t", "expires_in": True},
    ],
    "fxiaoke": [
        {"errorCode": 0}, {"errorCode": 0, "corpAccessToken": "t", "corpId": "c", "expiresIn": None},
        {"errorCode": 0, "corpAccessToken": "t", "corpId": "c", "expiresIn": "soon"},
        {"errorCode": 0, "corpAccessToken": "t", "expiresIn": 7200}, {"errorCode": 0, "corpAccessToken": None, "corpId": "c"},
        {}, [], None, "x", {"errorCode": True}, {"errorCode": None},
    ],
}  # fmt: skip


def test_half_a_token_is_asked_for_again_and_so_is_a_token_service_that_is_busy_or_cut(desk):
    desk.publish(table(2))
    odds = [(200, half) for half in HALF_TOKENS[desk.system]] + [(each, None) for each in (408, 423, 425, 429, 400)]
    left = in_turn(desk.tenant, TOKENS[desk.system], odds)
    assert desk.sync() == 0
    assert not left
    right(desk, 2)


@pytest.mark.parametrize("between", ["500", "cut", "busy"])
def test_a_token_may_be_refused_once_more_after_another_answer(desk, between):
    """The first of two refusals in one call must not use up the renewal of the second."""
    desk.publish(table(2))
    words = iter(["token", between, "token", between, "token"])
    desk.tenant.fault = lambda _, path: next(words, None) if LOOKUP[desk.system] in path else None
    assert desk.sync() == 0
    right(desk, 2)


@pytest.mark.parametrize("body", [{"code": "INVALID_OAUTHTOKEN"}, None, b"<html>", {"code": None}, []])
def test_any_401_but_that_of_a_scope_renews_the_token_once(zoho, body):
    zoho.publish(table(2))
    in_turn(zoho.tenant, "coql", [(401, body)])
    assert zoho.sync() == 0
    assert zoho.tenant.issued == 2
    always(zoho.tenant, "coql", (401, body))
    zoho.publish(table(3), "22222222")
    with pytest.raises(ConfigurationRefused):
        zoho.sync()
    assert zoho.tenant.issued == 3


def test_a_401_without_a_code_renews_the_token_of_fxiaoke_too(fxiaoke):
    fxiaoke.publish(table(2))
    in_turn(fxiaoke.tenant, "data/query", [(401, None)])
    assert fxiaoke.sync() == 0
    assert fxiaoke.tenant.issued == 2


# Answers that are not the request's


ODD = {
    "zoho": [
        (207, None), (202, None), (201, None), (400, None), (204, None), (408, None), (423, None), (423, {"code": "X"}),
        (425, None), (429, None), (400, b'{"data":[{"co'), (207, b"<html>"), (200, b"[" * 100_000), (400, []),
        (400, {"data": None}), (400, {}), (200, {}), (200, []), (200, "x"), (200, {"data": []}), (207, {"data": [None]}),
        (200, {"data": ["x"]}), (207, {"data": [{}]}), (200, {"data": [{"status": "success"}]}), (200, {"code": "SUCCESS"}),
        (200, {"data": [{"code": None}] * 3}), (207, {"data": [None] * 3}), (200, {"data": ["x", "y", "z"]}),
        (200, {"data": {"code": "SUCCESS"}}),
    ],
    "fxiaoke": [
        (202, None), (204, None), (400, None), (408, None), (408, {"errorCode": 0}), (423, None), (425, None), (429, None),
        (400, b'{"errorC'), (200, b"<html>"), (400, []), (200, {}), (200, []), (200, "x"), (200, {"errorCode": None}),
        (200, {"errorCode": "x"}), (200, {"errorCode": True}), (502, {"errorCode": 0, "dataId": "x"}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_an_answer_to_a_write_that_is_not_its_own_is_looked_up_and_repeated(desk, done):
    odds = [odd for odd in ODD[desk.system] if not (done and odd[0] in calls.NOT_NOW)]
    desk.publish(table(40))
    left = in_turn(desk.tenant, WRITE[desk.system], odds, done=done)
    assert desk.sync() == 0
    assert not left
    right(desk, 40)
    assert {*journal(desk)} == {*records(desk)}
    asked = [
        path for _, path, _ in desk.tenant.calls if any(each in path for each in (LOOKUP[desk.system], "data/", "ups"))
    ]
    if desk.system == "zoho":  # between two writes of the same rows there is a lookup
        written = [i for i, path in enumerate(asked) if "upsert" in path]
        busy = sum(odd[0] in calls.NOT_NOW for odd in odds)
        straight = sum(later - earlier == 1 for earlier, later in itertools.pairwise(written))
        assert straight == busy, "only what was not done is asked again as it is"
    elif done:
        assert sum("data/create" in path for path in asked) == 40, "what was done is changed, not made once more"


READS = {
    "zoho": [
        (200, None), (202, None), (400, None), (408, None), (423, None), (425, None), (400, b"{"), (200, []), (200, "x"),
        (200, {}), (200, {"data": None}), (200, {"data": "x"}), (200, {"data": [{}]}), (200, {"data": [None]}), (304, None),
        (200, {"fields": "x"}), (200, {"fields": [None]}), (200, {"fields": [{}]}), (400, {"fields": None}),
    ],
    "fxiaoke": [
        (200, None), (400, None), (408, None), (423, None), (425, None), (200, []), (200, {"errorCode": 0}),
        (200, {"errorCode": 0, "data": None}), (200, {"errorCode": 0, "data": []}), (200, {"errorCode": 0, "data": {}}),
        (200, {"errorCode": 0, "data": {"dataList": {}}}), (200, {"errorCode": 0, "data": {"dataList": None}}),
        (200, {"errorCode": 0, "data": {"dataList": {"a": 1}}}), (200, {"errorCode": 0, "data": {"dataList": [{}]}}),
        (200, {"errorCode": 0, "data": {"dataList": [None]}}), (200, {"errorCode": 0, "data": {"describe": None}}),
        (200, {"errorCode": "0", "data": {"dataList": [{"_id": "1"}]}}), (200, {"errorCode": 0, "data": {"describe": {"fields": []}}}),
    ],
}  # fmt: skip


def test_an_answer_to_a_lookup_that_is_not_its_own_is_asked_again(desk):
    desk.publish(table(3))
    described = "settings/fields" if desk.system == "zoho" else "describe"
    for part, run in ((LOOKUP[desk.system], "22222222"), (described, "33333333")):
        desk.publish(table(3, alerts=pa.array([part] * 3)), run)
        left = in_turn(desk.tenant, part, READS[desk.system])
        assert desk.sync() == 0
        assert not left
    right(desk, 3)


def test_an_answer_that_stays_not_its_own_ends_the_run_and_is_taken_for_no_records(desk):
    desk.mapping["retry_seconds"] = 0.02
    (desk.folder / "crm").mkdir()
    connector = sync.CONNECTORS[desk.system](load_mapping(desk), desk.folder / "crm")
    for odd in READS[desk.system]:
        always(desk.tenant, LOOKUP[desk.system], odd)
        with pytest.raises(ServiceRefused):
            connector.find(["C00001"], ())
    desk.publish(table(2))
    with pytest.raises(ServiceRefused):
        desk.sync()
    assert not desk.writes()


@pytest.mark.parametrize("since", [None, 1_793_000_000_000])
def test_a_page_that_is_not_its_own_is_taken_for_no_end_of_a_list(desk, since):
    desk.mapping["retry_seconds"] = 0.02
    (desk.folder / "crm").mkdir()
    connector = sync.CONNECTORS[desk.system](load_mapping(desk), desk.folder / "crm")
    of, modified = ("Accounts", "Modified_Time") if desk.system == "zoho" else ("AccountObj", "last_modified_time")
    name = "Account_Name" if desk.system == "zoho" else "name"
    desk.tenant.add(of, **{name: "Acme"})
    part = "/Accounts?" if desk.system == "zoho" else "data/query"
    more = [] if desk.system == "fxiaoke" else [
        (200, {"data": [{"id": "1"}]}), (200, {"data": [{"id": "1"}], "info": {"more_records": "perhaps"}}),
        (200, {"data": [{"id": "1"}], "info": {"more_records": True, "page": "x"}}),
    ]  # fmt: skip
    for odd in READS[desk.system] + more:
        if odd[0] == 304 and since is not None:
            continue
        if desk.system == "fxiaoke" and "dataList" in str(odd[1]) and "_id" in str(odd[1]):
            continue  # a whole page, but for a lookup
        always(desk.tenant, part, odd)
        with pytest.raises(ServiceRefused):
            connector.page(of, [name], modified, since, None)
    answering(desk.tenant, lambda usual, _, __: usual())
    assert len(connector.page(of, [name], modified, since, None).records) == 1


@pytest.mark.parametrize("odd", [(201, None), (400, None), (201, {"fields": "x"}), (408, None), (502, {"fields": []})])
def test_fields_that_may_or_may_not_have_been_made_are_compared_by_the_next_sync(zoho, odd):
    del zoho.tenant.fields["Risk_Score"]
    zoho.publish(table(2))
    done = []

    def change(usual, path, body):
        if "settings/fields" in path and "fields" in body and not done:
            done.append(usual())
            return odd
        return usual()

    answering(zoho.tenant, change)
    with pytest.raises(ServiceRefused):
        zoho.sync(create_fields=True)
    assert not zoho.writes()
    assert zoho.sync(create_fields=True) == 0
    right(zoho, 2)


def test_a_description_is_read_though_a_field_that_is_not_mapped_is_odd(desk):
    odd = {"length": "long", "data_type": None, "decimal_place": [], "pick_list_values": "x"}
    if desk.system == "zoho":
        desk.tenant.fields["Other"] = odd | {"data_type": "text"}
        desk.tenant.fields["Another"] = odd
    else:
        desk.tenant.fields |= {
            "other__c": {"type": "select_one", "options": ["x"], "max_length": "x"},
            "another__c": None,
        }
    desk.publish(table(2))
    assert desk.sync() == 0


def test_what_json_cannot_hold_is_no_lost_answer(zoho):
    with pytest.raises(requests.exceptions.InvalidJSONError):
        calls.Caller().send("POST", zoho.tenant.url, {}, json={"x": float("nan")})
    assert not zoho.tenant.calls


# What was written before the end


def test_halves_that_were_written_before_a_refusal_are_noted(zoho):
    zoho.publish(table(40))
    zoho.tenant.flat = {"C00039"}
    zoho.mapping["service"]["credits_a_day"] = 12
    with pytest.raises(ServiceRefused):
        zoho.sync()
    made = records(zoho)
    assert 0 < len(made) < 39
    assert {*journal(zoho)} == {*made}
    zoho.mapping["service"]["credits_a_day"] = 1000
    assert zoho.sync() == 2
    assert zoho.rejected() == {"C00039": "INVALID_DATA"}
    assert len(zoho.standing()) == 39
    assert set(zoho.tenant.writes.values()) == {1}, "what was noted is not written again"


def test_a_row_that_is_held_alone_does_not_stop_the_others(zoho):
    """A code of one row's that comes as a flat error of all."""
    zoho.publish(table(8))

    def change(usual, path, body):
        held = "upsert" in path and any(row["Customer_Code"] == "C00005" for row in body["data"])
        return (400, {"code": "RECORD_LOCKED", "details": {}, "message": "", "status": "error"}) if held else usual()

    answering(zoho.tenant, change)
    assert zoho.sync() == 2
    assert zoho.rejected() == {"C00005": "RECORD_LOCKED"}
    assert len(zoho.standing()) == 7


def test_records_that_were_made_are_looked_up_and_not_taken_from_the_order_of_the_answer(zoho):
    zoho.publish(table(120))
    zoho.tenant.reversed = True
    assert zoho.sync() == 0
    assert journal(zoho) == records(zoho)
    assert len({*journal(zoho).values()}) == 120


@pytest.mark.parametrize("said", [{}, {"dataId": None}, {"dataId": ""}, {"dataId": []}])
def test_records_that_fxiaoke_does_not_name_are_looked_up(fxiaoke, said):
    def change(usual, path, body):
        status, answer = usual()
        if "create" in path:
            answer = {name: value for name, value in answer.items() if name != "dataId"} | said
        return status, answer

    answering(fxiaoke.tenant, change)
    fxiaoke.publish(table(5))
    assert fxiaoke.sync() == 0
    right(fxiaoke, 5)
    assert journal(fxiaoke) == records(fxiaoke)


def test_records_that_could_not_be_looked_up_are_by_the_next_sync(zoho):
    zoho.publish(table(20))
    zoho.mapping["retry_seconds"] = 0.05
    words = iter([None])  # the lookup before the write; none after it
    zoho.tenant.fault = lambda _, path: next(words, "500") if "coql" in path else None
    with pytest.raises(ServiceRefused):
        zoho.sync()
    assert journal(zoho) == dict.fromkeys(records(zoho))
    zoho.tenant.fault = calm
    writes = len(zoho.writes())
    assert zoho.sync() == 0
    assert journal(zoho) == records(zoho)
    assert len(zoho.writes()) == writes


def test_tasks_lead_to_the_records_of_their_own_customers(zoho):
    """Whatever the order in which the service says what it made."""
    zoho.publish(table(6))
    listed = pa.table(
        {
            "customer_id": [f"C{i:05d}" for i in range(6)], "kind": ["alarm"] * 6, "grade": ["A"] * 6,
            "state": ["open"] * 6, "due_on": [dt.date(2026, 12, 1)] * 6, "why": ["w"] * 6, "ask": ["a"] * 6,
            "offer": ["o"] * 6, "last_contact_on": pa.array([None] * 6, pa.date32()),
        }
    )  # fmt: skip
    folder = zoho.folder / "data/publish/current/worklist"
    folder.mkdir()
    pq.write_table(listed, folder / "worklist.parquet")
    (zoho.folder / "params.yaml").write_text("source: maker\n")
    tasks = ZohoTenant()
    tasks.fields = {
        "Subject": {"data_type": "text"}, "What_Id": {"data_type": "lookup"}, "Due_Date": {"data_type": "date"},
        "Status": {"data_type": "text"}, "Description": {"data_type": "textarea", "length": 2000},
        "Bellwether_Task": {"data_type": "text", "unique": {"case_sensitive": False}},
    }  # fmt: skip
    tasks.mandatory = {"Subject"}
    zoho.tenant.others["Tasks"], zoho.tenant.reversed = tasks, True
    assert zoho.sync(with_tasks=True) == 0
    of = {number: customer for customer, number in records(zoho).items()}
    led = {task["Bellwether_Task"].partition("/")[0]: of[task["What_Id"]["id"]] for task in tasks.records.values()}
    assert led == {f"C{i:05d}": f"C{i:05d}" for i in range(6)}


def test_keys_with_quotes_are_written_once_and_changed_where_they_stand(zoho):
    keys = ["O'Brien", 'a"b', "a\\b", "plain", "x'); --", "客户 é"]
    zoho.publish(table(6, customer_id=pa.array(keys)))
    assert zoho.sync() == 0
    assert sorted(zoho.standing()) == sorted(keys)
    assert journal(zoho) == records(zoho)
    writes = len(zoho.writes())
    assert zoho.sync() == 0
    assert len(zoho.writes()) == writes
    zoho.publish(table(6, customer_id=pa.array(keys), alerts=pa.array(["X"] * 6)), "22222222")
    assert zoho.sync() == 0
    assert {record["Risk_Alerts"] for record in zoho.standing().values()} == {"X"}
    queries = [body["select_query"] for body in zoho.tenant.paths("coql")]
    assert not any(sign in query for query in queries for sign in ("Brien", '"', "\\", "--"))


# Time


@pytest.mark.parametrize("fault", ["trickle", "trickle_head"])
def test_an_answer_that_comes_byte_by_byte_is_given_up_in_time(desk, monkeypatch, fault):
    monkeypatch.setattr(calls, "ANSWER", 0.3)  # each byte comes within it, a whole answer takes seconds
    desk.mapping["retry_seconds"] = 0.4
    desk.publish(table(1))
    desk.tenant.fault = lambda *_: fault
    began = time.monotonic()
    with pytest.raises(ServiceRefused):
        desk.sync()
    assert time.monotonic() - began < 2
    desk.tenant.fault = calm
    monkeypatch.setattr(calls, "ANSWER", 60)
    assert desk.sync() == 0
    right(desk, 1)


def test_localhost_is_this_machine_too(desk):
    desk.publish(table(2))
    desk.mapping["service"][ADDRESS[desk.system]] = desk.tenant.url.replace("127.0.0.1", "localhost")
    assert desk.sync() == 0
    right(desk, 2)


@pytest.mark.parametrize(
    "url", ["http://localhost.example.com", "http://example.com", "http://localhost@example.com", "ftp://localhost",
            "http://user:word@localhost", "http://localhost:port", "localhost:80", "https://", "http://10.0.0.1"]
)  # fmt: skip
def test_no_other_address_is_called_without_tls(url):
    with pytest.raises(ConfigurationRefused):
        calls.sound_url(url, "x")


@pytest.mark.parametrize("seconds", [7, "a date"])
@pytest.mark.parametrize("part", ["lookup", "write", "token"])
def test_a_service_that_says_when_to_come_back_is_not_asked_before(desk, monkeypatch, seconds, part):
    clock = Clock(monkeypatch)
    desk.publish(table(2))
    path = {"lookup": LOOKUP, "write": WRITE, "token": TOKENS}[part][desk.system]
    stated = str(seconds) if seconds == 7 else email.utils.formatdate(clock.now + 7, usegmt=True)
    free = clock.now + 7
    early = []

    def change(usual, called, body):
        desk.tenant.says = {}
        if path not in called or clock.now >= free:
            return usual()
        early.append(clock.now)
        desk.tenant.says = {"Retry-After": stated}
        return 429, None

    answering(desk.tenant, change)
    assert desk.sync() == 0
    right(desk, 2)
    assert len(early) == 1
    assert max(clock.slept) == pytest.approx(7)


def test_a_service_that_asks_for_more_time_than_there_is_ends_the_run_at_once(desk, monkeypatch):
    clock = Clock(monkeypatch)
    desk.publish(table(2))
    desk.tenant.says = {"Retry-After": "3600"}
    always(desk.tenant, LOOKUP[desk.system], (429, None))
    with pytest.raises(ServiceRefused, match="3600 s"):
        desk.sync()
    assert len(desk.tenant.paths(LOOKUP[desk.system])) == 1
    assert not clock.slept


@pytest.mark.parametrize("stated", ["", "soon", "-3", "1.5", "٣", "Wed, 99 Foo 2026 00:00:00 GMT", "0", "9" * 400])
def test_a_time_to_come_back_that_cannot_be_read_is_none_and_never_a_crash(stated):
    assert calls._wait(stated) in (0.0, 999_999_999.0)


def test_a_hundred_calls_in_twenty_seconds_of_each_interface_are_not_exceeded(fxiaoke, monkeypatch):
    clock = Clock(monkeypatch)
    del fxiaoke.mapping["service"]["seconds_between_calls"]  # the shipped setting
    fxiaoke.publish(table(260))
    made: dict[str, list[float]] = {}

    def change(usual, path, body):
        made.setdefault(path.partition("?")[0], []).append(clock.now)
        return usual()

    answering(fxiaoke.tenant, change)
    assert fxiaoke.sync() == 0
    moments = made["/cgi/crm/v2/data/create"]
    assert len(moments) == 260
    for start in moments:
        assert sum(start <= each < start + 20 - 1e-6 for each in moments) <= 100
    assert clock.now - 1000 < 260 * 0.2 + 5, "and no slower than that"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1)), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_the_pace_is_kept_whatever_happens_between_calls(happened, seconds):
    with pytest.MonkeyPatch.context() as patched:
        clock, pace, made = Clock(patched), calls.Pace(seconds), {}
        for interface, works in happened:
            clock.now += works
            before = clock.now
            pace.keep(interface)
            last = made.get(interface, -1e9)
            assert clock.now - last >= seconds - 1e-9
            assert clock.now == before or clock.now - last == pytest.approx(seconds), "not longer than is needed"
            made[interface] = clock.now


def test_pauses_grow_to_their_most_and_are_drawn_from_all_below(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 30.0)
    clock = Clock(monkeypatch)
    asked = []
    monkeypatch.setattr(calls, "random", SimpleNamespace(uniform=lambda low, high: asked.append((low, high)) or high))
    patience = calls.Patience("x", 10_000)
    for _ in range(10):
        patience.failed("why")
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert {low for low, _ in asked} == {0}, "full jitter: from nothing on"
    monkeypatch.setattr(calls, "random", random.Random(5))
    clock.slept.clear()
    for _ in range(400):
        patience = calls.Patience("x", 10_000)
        for _ in range(4):
            patience.failed("why")
    for tries, most in enumerate([0.5, 1, 2, 4]):
        drawn = clock.slept[tries::4]
        assert 0 <= min(drawn) < 0.05 * most < 0.95 * most < max(drawn) <= most
        assert sum(drawn) / len(drawn) == pytest.approx(most / 2, rel=0.1)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1000), st.integers(0, 10_000), st.floats(0, 20))
def test_what_is_tried_again_ends_within_its_time_and_not_long_before(seconds, seed, takes):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(calls, "FIRST_PAUSE", 0.5)
        patched.setattr(calls, "LONGEST_PAUSE", 30.0)
        patched.setattr(calls, "random", random.Random(seed))
        clock, tries = Clock(patched), []

        def ask():
            tries.append(clock.now)
            clock.now += takes
            raise calls.Again("away")

        with pytest.raises(ServiceRefused, match=f"after {'[0-9]+'} tries in {seconds:.0f} s"):
            calls.Patience("x", seconds).until(ask)
        assert tries[-1] - 1000 <= seconds, "no call begins after the end"
        assert clock.now - 1000 <= seconds + takes + 1e-6
        assert clock.now - 1000 >= seconds - 30, "nor is it given up long before"


# Processes


def command(desk: Desk, *words: str) -> subprocess.Popen:
    (desk.folder / "m.yaml").write_text(yaml.safe_dump(desk.mapping))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=desk.folder, env=environment, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.mark.slow
def test_a_sync_that_is_killed_in_a_write_goes_on_and_writes_nobody_twice(desk):
    """Killed by the system when the service has written a batch and has not yet said so."""
    desk.publish(table(120 if desk.system == "zoho" else 20))
    words = ["-m", "pipeline", "sync", desk.system, "--mapping", "m.yaml"]
    killed = []

    def change(usual, path, body):
        answer = usual()
        if WRITE[desk.system] in path and len(desk.tenant.paths(WRITE[desk.system])) == 2 and not killed:
            killed.append(process.pid)
            process.kill()
        return answer

    answering(desk.tenant, change)
    process = command(desk, *words)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(desk.tenant.records) < (120 if desk.system == "zoho" else 20)
    process = command(desk, *words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    right(desk, 120 if desk.system == "zoho" else 20)
    assert {*desk.tenant.writes.values()} == {1, 2}, "those whose answer was not read are looked up and changed"
    assert sum(n == 2 for n in desk.tenant.writes.values()) == (50 if desk.system == "zoho" else 1)
    assert journal(desk) == records(desk)


ASK = """
import sys
from pathlib import Path
from pipeline.sinks.mapping import load
from pipeline.sinks.sync import CONNECTORS
connector = CONNECTORS[sys.argv[1]](load(Path("m.yaml")), Path("."))
print("ready", flush=True)
input()
connector.find(["C00001"], ())
"""


@pytest.mark.slow
def test_processes_that_need_a_token_at_once_fetch_one(desk):
    started = [command(desk, "-c", ASK, desk.system) for _ in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert desk.tenant.issued == 1
    assert len(desk.tenant.paths(LOOKUP[desk.system])) == 3
