"""Stateful stand-ins of two CRM systems on loopback, with their faults: what happens to which call is stated by a test.

A fault is a word: late, cut (half of the answer, then the line is cut), 429, 500 (nothing done), done_500 and done_cut
(the write was done, its answer lost), token (the token has just expired), busy (a code of its own, nothing done),
trickle and trickle_head (an answer that comes byte by byte, its body or all of it),
lands_late (no answer: the line is cut after `holds` seconds, and the write is done `lands` seconds after the call).
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.sinks import calls

LATE = 0.6  # seconds; tests wait less
TRICKLE = 0.1  # seconds between two bytes


def written(ms: int) -> str:
    """A point in time as Zoho writes it, at the offset of the organisation."""
    zone = dt.timezone(dt.timedelta(hours=8))
    return dt.datetime.fromtimestamp(ms / 1000, zone).isoformat(timespec="seconds")


def calm(number: int, path: str) -> str | None:
    return None


class Tenant:
    """What both have: records, tokens, counts, faults."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.records: dict[str, dict] = {}
        self.tokens: dict[str, float] = {}
        self.issued, self.lifetime, self.dead, self.throttled = 0, 3600.0, False, 0
        self.calls: list[tuple[str, str, dict]] = []  # method, path, body
        self.headers: list[dict] = []
        self.says: dict[str, str] = {}  # headers of every answer
        self.fault: Callable[[int, str], str | None] = calm
        self.quota: int | None = None
        self.spent = 0
        self.fired = 0  # writes that let workflows of the tenant fire
        self.writes: dict[str, int] = {}  # record -> how often it was written
        self.others: dict[str, Tenant] = {}  # further objects by name, each with fields and records of its own
        self.lands, self.holds = 0.2, 0.0  # seconds
        self.now = 1_793_700_000_000  # when what is written now is modified: 2026-11-03 18:00 in Shanghai
        self.url = ""

    def token(self) -> str:
        self.issued += 1
        name = f"token-{self.issued}"
        self.tokens[name] = time.time() + self.lifetime
        return name

    def alive(self, name: str) -> bool:
        return self.tokens.get(name, 0) > time.time()

    def paths(self, part: str) -> list[dict]:
        return [body for _, path, body in self.calls if part in path]

    def answer(self, method: str, path: str, body: dict, headers: dict) -> tuple[int, dict | None]:
        raise NotImplementedError


class ZohoTenant(Tenant):
    def __init__(self) -> None:
        super().__init__()
        self.fields = {"Account_Name": {"data_type": "text", "length": 200}}
        self.mandatory = {"Account_Name"}
        self.locked: set[str] = set()
        self.flat: set[str] = set()  # keys that make a whole answer one flat error
        self.no_room: set[str] = set()
        self.rename = self.reversed = self.expired = False
        self.page_size = 200
        self.index: dict[str, list[str]] = {}

    def field(self, name: str, kind: str, **more) -> None:
        self.fields[name] = {"data_type": kind, **more}

    def unique(self) -> list[str]:
        return [name for name, field in self.fields.items() if field.get("unique")]

    def having(self, field: str, key: str) -> list[str]:
        """Return the records with a key, by an index that is made again where a test has changed the records."""
        if self.index.get("") != [field, str(len(self.records))]:
            self.index = {"": [field, str(len(self.records))]}
            for number, record in self.records.items():
                self.index.setdefault(str(record.get(field)).lower(), []).append(number)
        return self.index.get(key.lower(), [])

    def answer(self, method, path, body, headers):
        parts = urllib.parse.urlsplit(path)
        if parts.path == "/oauth/v2/token":
            if self.throttled:
                self.throttled -= 1
                return 400, {"error": "Access Denied", "error_description": "You have made too many requests."}
            if self.dead or body.get("refresh_token") != "refresh" or body.get("client_secret") != "secret":
                return 200, {"error": "invalid_code"}
            assert body["grant_type"] == "refresh_token"
            return 200, {
                "access_token": self.token(),
                "api_domain": self.url,
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind != "Zoho-oauthtoken" or not self.alive(token):
            return 401, {"code": "INVALID_TOKEN", "details": {}, "message": "invalid oauth token", "status": "error"}
        query = dict(urllib.parse.parse_qsl(parts.query))
        cost = (len(body.get("data", ())) + 9) // 10 if parts.path.endswith("/upsert") else 1
        if self.quota is not None and self.spent + cost > self.quota:
            return 429, {"code": "TOO_MANY_REQUESTS", "details": {}, "message": "", "status": "error"}
        self.spent += cost
        if parts.path == "/crm/v8/settings/fields":
            module = self._module(query["module"])
            if module is None:
                return 400, {"code": "INVALID_MODULE", "details": {}, "message": "", "status": "error"}
            return module._describe() if method == "GET" else module._make(body)
        if parts.path == "/crm/v8/coql":
            named = re.search(r" from (\w+) where ", body["select_query"])
            return self._module(named[1])._query(body["select_query"])
        named = re.fullmatch(r"/crm/v8/(\w+)(/upsert)?", parts.path)
        module = self._module(named[1]) if named else None
        if module is not None and named[2] and method == "POST":
            module.now = self.now
            answer = module._upsert(body)
            self.fired += module is not self and module.fired
            return answer
        if module is not None and not named[2] and method == "GET":
            return self._list(module, query, headers.get("if-modified-since"))
        return 404, {"code": "INVALID_URL_PATTERN", "details": {}, "message": "", "status": "error"}

    def _module(self, name):
        return self if name == "Accounts" else self.others.get(name)

    def _list(self, module, query, since):
        """Records by identifier; a token names the last one listed, so that none is missed or given twice."""
        names = query["fields"].split(",")
        assert len(names) <= 50
        assert int(query["per_page"]) <= 200
        if any(name not in module.fields and name not in ("id", "Modified_Time") for name in names):
            return 400, {"code": "INVALID_DATA", "details": {"param_name": "fields"}, "message": "", "status": "error"}
        token = query.get("page_token")
        if token is not None and (self.expired or not token.startswith("after:")):
            self.expired = False
            return 400, {"code": "EXPIRED_VALUE", "details": {}, "message": "", "status": "error"}
        rows = sorted(module.records.values(), key=lambda record: int(record["id"]))
        if since is not None:
            from_then = dt.datetime.fromisoformat(since)
            rows = [row for row in rows if dt.datetime.fromisoformat(row["Modified_Time"]) >= from_then]
            if not rows:
                return 304, None
        rows = [row for row in rows if token is None or int(row["id"]) > int(token.removeprefix("after:"))]
        if not rows:
            return 204, None
        size = min(int(query["per_page"]), self.page_size)
        page, more = rows[:size], len(rows) > size
        info = {"page": 1, "count": len(page), "more_records": more,
                "next_page_token": f"after:{page[-1]['id']}" if more else None}  # fmt: skip
        return 200, {"data": [{name: row.get(name) for name in {*names, "id"}} for row in page], "info": info}

    def add(self, module="Accounts", **values):
        """Add or change a record as a person would, and return its identifier."""
        of = self._module(module)
        number = values.pop("id", None) or str(5000 + len(of.records))
        of.records[number] = of.records.get(number, {"id": number}) | values
        of.records[number]["Modified_Time"] = written(self.now)
        return number

    def _describe(self):
        described = []
        for name, field in self.fields.items():
            options = [{"display_value": each, "actual_value": each} for each in field.get("options", ())]
            described.append({"api_name": name, "decimal_place": None, "unique": {}, "pick_list_values": options}
                             | {key: value for key, value in field.items() if key != "options"})  # fmt: skip
        return 200, {"fields": described}

    def _make(self, body):
        assert 1 <= len(body["fields"]) <= 5
        results = []
        for field in body["fields"]:
            assert len(field["field_label"]) <= 25
            name = field["field_label"].replace(" ", "_") + ("1" if self.rename else "")
            options = [each["actual_value"] for each in field.get("pick_list_values", ())]
            known = {key: field[key] for key in ("data_type", "length", "decimal_place", "unique") if key in field}
            if field["field_label"] in self.no_room:
                results.append({"code": "LIMIT_EXCEEDED", "details": {}, "message": "", "status": "error"})
                continue
            self.fields[name] = known | ({"options": options} if options else {})
            results.append({"code": "SUCCESS", "details": {"id": "7"}, "message": "field created", "status": "success"})
        return 201 if all(each["code"] == "SUCCESS" for each in results) else 207, {"fields": results}

    def _query(self, query):
        found = re.fullmatch(r"select (.+) from \w+ where (\w+) in \((.+)\) limit 0, 200", query)
        assert found, query
        columns, key = found[1].split(", "), found[2]
        if any(name not in self.fields for name in [key, *columns] if name != "id"):
            return 400, {"code": "INVALID_QUERY", "details": {}, "message": "", "status": "error"}
        found_there = [number for each in re.findall(r"'([^']*)'", found[3]) for number in self.having(key, each)]
        rows = [{name: self.records[number].get(name) for name in columns} for number in found_there]
        return (200, {"data": rows[:200], "info": {"count": len(rows), "more_records": False}}) if rows else (204, None)

    def _upsert(self, body):
        data, keys = body["data"], body["duplicate_check_fields"]
        assert 1 <= len(data) <= 100, "more than 100 records"
        self.fired += body.get("trigger") != []
        assert set(keys) <= set(self.unique())
        if any(row.get(keys[0]) in self.flat for row in data):
            return 400, {"code": "INVALID_DATA", "details": {}, "message": "invalid data", "status": "error"}
        results = [self._one(index, row, keys) for index, row in enumerate(data)]
        good = sum(each["code"] == "SUCCESS" for each in results)
        results = results[::-1] if self.reversed else results
        return 200 if good == len(results) else 207 if good else 400, {"data": results}

    def _one(self, index, row, keys):
        def error(code, name):
            details = {"api_name": name, "json_path": f"$.data[{index}].{name}"}
            return {"code": code, "details": details, "message": "invalid data", "status": "error"}

        if row.get(keys[0]) in self.locked:
            return error("RECORD_LOCKED", keys[0])
        for name, value in row.items():
            field = self.fields.get(name, {"data_type": "text"} if name in ("id", "$se_module") else None)
            if field is None:
                return error("INVALID_DATA", name)
            fits = {"text": str, "textarea": str, "picklist": str, "date": str, "double": (int, float), "currency": (int, float), "integer": int,
                    "boolean": bool, "lookup": dict, "ownerlookup": dict, "datetime": str}[field["data_type"]]  # fmt: skip
            if value is not None and (not isinstance(value, fits) or len(str(value)) > field.get("length", 2000)):
                return error("INVALID_DATA", name)
            if value is not None and field["data_type"] == "picklist" and value not in field["options"]:
                return error("INVALID_DATA", name)
        known = self.having(keys[0], str(row.get(keys[0])))
        chosen = row.get("id") or (known[0] if known else None)
        if chosen is None:
            for name in self.mandatory - row.keys():
                return error("MANDATORY_NOT_FOUND", name)
            chosen = str(1000 + len(self.records))
            self.records[chosen] = {"id": chosen}
            self.index.setdefault(str(row[keys[0]]).lower(), []).append(chosen)
            self.index[""] = [keys[0], str(len(self.records))]
        elif chosen not in self.records:
            return error("INVALID_DATA", "id")
        self.records[chosen] |= row | {"id": chosen, "Modified_Time": written(self.now)}
        self.writes[chosen] = self.writes.get(chosen, 0) + 1
        action = "update" if known else "insert"
        return {"code": "SUCCESS", "duplicate_field": keys[0] if known else None, "action": action,
                "details": {"id": chosen}, "message": f"record {action}d", "status": "success"}  # fmt: skip


class FxiaokeTenant(Tenant):
    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, dict] = {"name": {"type": "text"}, "_id": {"type": "text"}}
        self.codes: dict[str, int] = {}  # a key's own error
        self.key = "customer_code__c"

    def answer(self, method, path, body, headers):
        parts = urllib.parse.urlsplit(path)

        def code(number, **more):
            return 200, {
                "errorCode": number,
                "errorMessage": "success" if number == 0 else "error",
                "traceId": "E-O.x",
                **more,
            }

        assert method == "POST"
        secrets = (body.get("appId"), body.get("appSecret"), body.get("permanentCode"))
        if parts.path == "/cgi/corpAccessToken/get/V2":
            if secrets != ("app", "secret", "permanent") or self.dead:
                return code(10006)
            return code(0, corpAccessToken=self.token(), corpId="FSCID_1", expiresIn=7200)
        if parts.path == "/oauth2.0/token":
            if secrets != ("app", "secret", "permanent") or self.dead or body.get("grantType") != "app_secret":
                return code(10006)
            return code(0, accessToken=self.token(), openUserId="FSCID_1", ea="fxxxx1", appId="app", expiresIn=7084)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if not bearer and "corpAccessToken" not in body:
            return code(20017)
        assert bool(bearer) != ("corpAccessToken" in body), "two styles in one request"
        if bearer:
            assert headers["x-fs-ea"] == "fxxxx1"
            assert headers["x-fs-userid"]
        else:
            assert body["corpId"] == "FSCID_1"
            assert body["currentOpenUserId"]
        if not self.alive(bearer or body["corpAccessToken"]):
            return code(20016)
        self.spent += 1
        if self.quota is not None and self.spent > self.quota:
            return code(30002)
        if parts.path == "/cgi/crm/v2/object/describe":
            wanted = self._object(body.get("apiName") or (body.get("data") or {}).get("apiName"))
            return code(0, data={"describe": {"fields": wanted.fields}}) if wanted is not None else code(10006)
        named = re.fullmatch(r"/cgi/crm/(custom/)?v2/data/(query|create|update)", parts.path)
        if not named:
            return code(10006)
        given = body["data"] if named[2] == "query" else body["data"]["object_data"]
        of = self._object(given["dataObjectApiName"])
        if of is None:
            return code(10006)
        assert bool(named[1]) == given["dataObjectApiName"].endswith("__c"), (
            "the path of preset objects for a custom one"
        )
        if named[2] == "query":
            return code(0, data=of._query(body["data"]))
        of.now = self.now
        answer = of._write(body, made=named[2] == "create", code=code)
        self.fired += of is not self and of.fired
        return answer

    def _object(self, name):
        return self if name == "AccountObj" else self.others.get(name)

    def add(self, module="AccountObj", **values):
        """Add or change a record as a person would, and return its identifier."""
        of = self._object(module)
        number = values.pop("_id", None) or f"5f3a{len(of.records):08d}"
        of.records[number] = of.records.get(number, {"_id": number}) | values | {"last_modified_time": self.now}
        return number

    def _query(self, data):
        query = data["search_query_info"]
        assert query["limit"] <= 100
        rows = sorted(self.records.values(), key=lambda record: record["_id"])
        for given in query["filters"]:
            name, values = given["field_name"], given["field_values"]
            assert len(values) <= 100
            rows = [row for row in rows if _keeps(given["operator"], values, row.get(name))]
        names = query.get("fieldProjection")
        page = rows[query["offset"] : query["offset"] + query["limit"]]
        listed = [{n: v for n, v in row.items() if v is not None and (not names or n in names)} for row in page]
        return {"dataList": listed, "offset": query["offset"], "limit": query["limit"], "total": 0}

    def _write(self, body, *, made, code):
        self.fired += bool(body.get("triggerWorkFlow", True) or body.get("triggerApprovalFlow", True))
        values = dict(body["data"]["object_data"])
        values.pop("dataObjectApiName")
        record = self.records.get(values.get("_id"), {})
        key = next((each for each in (values.get(self.key), record.get(self.key)) if each), None)
        if key in self.codes:
            return code(self.codes[key])
        for name, value in values.items():
            kind = self.fields.get(name, {}).get("type")
            if kind is None:
                return code(30045)
            number = isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value)
            fits = {"number": number, "currency": number, "date": isinstance(value, int)}.get(
                kind, isinstance(value, str)
            )
            options = [each["value"] for each in self.fields[name].get("options", ())]
            if value not in (None, "") and (not fits or (options and value not in options)):
                return code(30046)
        if made:
            if "_id" in values or "name" not in values:
                return code(30047)
            chosen = f"68fa{len(self.records):08d}"
        else:
            chosen = values["_id"]
            if chosen not in self.records:
                return code(30048)
        self.records[chosen] = self.records.get(chosen, {}) | values | {"_id": chosen, "last_modified_time": self.now}
        self.writes[chosen] = self.writes.get(chosen, 0) + 1
        return code(0, **({"dataId": chosen} if made else {}))


def _keeps(operator: str, values: list, value) -> bool:
    if operator == "GTE":
        return value is not None and int(value) >= int(values[0])
    if operator == "GT":
        return value is not None and value > values[0]
    return value in values if operator == "IN" else value == values[0]


def _busy(tenant: Tenant) -> tuple[int, dict]:
    if isinstance(tenant, FxiaokeTenant):
        return 200, {"errorCode": 14001, "errorMessage": "limit", "traceId": "E-O.x"}
    return 429, {"code": "TOO_MANY_REQUESTS", "details": {}, "message": "", "status": "error"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    tenant: Tenant

    def log_message(self, *args) -> None:
        pass

    def _body(self) -> dict:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if "form-urlencoded" in (self.headers.get("Content-Type") or ""):
            return dict(urllib.parse.parse_qsl(raw))
        return json.loads(raw) if raw else {}

    def _land(self, *given) -> None:
        with self.tenant.lock:
            self.tenant.answer(*given)

    def _handle(self) -> None:
        tenant, body = self.tenant, self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with tenant.lock:
            tenant.calls.append((self.command, self.path, body))
            tenant.headers.append(headers)
            fault = tenant.fault(len(tenant.calls), self.path)
            if fault == "token":
                tenant.tokens.clear()
            if fault == "lands_late":
                given = (self.command, self.path, body, headers)
                threading.Timer(tenant.lands, self._land, given).start()
                status, answer = 500, None
            elif fault == "500":
                status, answer = 500, {"code": "INTERNAL_ERROR", "details": {}, "message": "", "status": "error"}
            elif fault in ("429", "busy"):
                status, answer = _busy(tenant)
            elif fault == "scope":
                status, answer = 401, {"code": "OAUTH_SCOPE_MISMATCH", "details": {}, "message": "", "status": "error"}
            elif fault == "html":
                status, answer = 302, None
            else:
                try:
                    status, answer = tenant.answer(self.command, self.path, body, headers)
                except (AssertionError, KeyError) as error:  # what a client must never do
                    tenant.calls.append(("BROKEN", repr(error), {}))
                    status, answer = 400, {"code": "BROKEN", "errorCode": 99, "message": repr(error)}
            if fault == "done_500":
                status, answer = 500, {"code": "INTERNAL_ERROR"}
        if fault == "late":
            time.sleep(LATE)
        if fault == "lands_late":
            time.sleep(tenant.holds)
            self.close_connection = True
            return
        if fault == "html":
            answer = b"<html>moved</html>"
        data = b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            if fault == "trickle_head":
                self._trickle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20)
            self.send_response(status)
            for name, value in tenant.says.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if fault in ("cut", "done_cut"):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            if fault == "trickle":
                self._trickle(data)
                return
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:  # the client has gone
            self.close_connection = True

    def _trickle(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(TRICKLE)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between calls, and credentials, for every test of a module that imports it."""
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 0.01)
    for name, value in {"ZOHO_CLIENT_ID": "client", "ZOHO_CLIENT_SECRET": "secret", "ZOHO_REFRESH_TOKEN": "refresh",
                        "FXIAOKE_APP_ID": "app", "FXIAOKE_APP_SECRET": "secret",
                        "FXIAOKE_PERMANENT_CODE": "permanent"}.items():  # fmt: skip
        monkeypatch.setenv(f"BELLWETHER_{name}", value)


class _Server(ThreadingHTTPServer):
    """A stand-in whose caller may have gone: that is what half of the faults are about, and nothing to print."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(tenant: Tenant) -> Iterator[Tenant]:
    """Serve a tenant on loopback; a call that a client must never make fails the test."""
    handler = type("Handler", (_Handler,), {"tenant": tenant})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    tenant.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield tenant
    finally:
        server.shutdown()
        server.server_close()
    broken = [why for method, why, _ in tenant.calls if method == "BROKEN"]
    if broken:
        pytest.fail(f"calls that must never be made: {broken[:3]}")
    assert not [path for method, path, _ in tenant.calls if method == "DELETE"]
