"""Fxiaoke (纷享销客), its open interface.

It has no upsert: rows are looked up by our key, 100 at a time, then made or changed one a call, with both triggers off
so that no workflow of the tenant fires. It answers 200 to everything; only `errorCode` tells. What the vendor's pages
leave open, or say in two ways, is a setting: see `Service`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Headers
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from features.expressions import name as quoted
from pipeline.params import Part
from pipeline.sinks import calls, tokens
from pipeline.sinks.interface import Kind, Lost, Outcome, Page, Row, TenantField, Wanted
from pipeline.sinks.mapping import Mapping, Name, checked

BUSY, PERHAPS = {30004, 14001}, {-1, 50009}  # not now; not now, though it may have been done
UNKNOWN_TOKEN = 20016
TOKEN = {UNKNOWN_TOKEN, 20005}
STOPS = {
    30002: "the day's quota is spent: it begins again at midnight", 30003: "the tenant has no quota: buy a package",
    20021: "the application is switched off", 20022: "the application is not authorised",
    20017: "no token was sent: the style of `service.auth` is not the tenant's",
}  # fmt: skip
EARLIEST = 6600  # seconds that a token is kept: after that the service hands out the next one


class Service(Part):
    """`service:` of data/crm/fxiaoke.yaml."""

    url: str = "https://open.fxiaoke.com"  # other clouds of the vendor have other hosts
    auth: Literal["legacy", "bearer"] = "legacy"  # guess: which of the two styles a tenant wants
    user: str = Field(min_length=1)  # legacy: FSUID_..., an openUserId; bearer: an employee's number; a CRM admin
    calls_a_day: int | None = Field(default=None, ge=1)  # purchased; null: not known
    seconds_between_calls: float = Field(default=0.2, ge=0)  # 100 in 20 seconds for an interface
    trigger_workflow: bool = False
    trigger_approval: bool = False
    empty: Literal["null", "text", "leave"] = "null"  # guess: what empties a field: null or ""; leave: not sent
    utc_offset_hours: float = Field(default=8, ge=-12, le=14)  # guess: days are midnights of this offset
    describe: Literal["data", "top"] = "data"  # guess: where `describe` wants the object's name
    status_field: Name = "life_status"  # guess: the field that is `invalid` where a record was given up


class Fxiaoke:
    """One object of one tenant."""

    rows_per_write = 1
    keys_per_find = 100
    types: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("text", "long_text"), "number": ("number", "currency", "percentile"), "integer": ("number",),
        "choice": ("select_one", "text"), "date": ("date", "date_time"), "boolean": ("true_or_false",),
        "lookup": ("object_reference", "master_detail"),
    }  # fmt: skip

    def __init__(self, mapping: Mapping, folder: Path) -> None:
        self.mapping, self.service = mapping, checked(Service, mapping.service, "service")
        if self.service.user.endswith("REPLACE_ME"):
            raise ConfigurationRefused(
                Problem("service.user", "the user in whose name records are written", "the example's", "Write a CRM "
                        "administrator's: its rights decide which records are seen.")
            )  # fmt: skip
        self._url = calls.sound_url(self.service.url, "service.url")
        self._app, self._secret, self._permanent = (
            calls.secret(f"BELLWETHER_FXIAOKE_{each}") for each in ("APP_ID", "APP_SECRET", "PERMANENT_CODE")
        )
        self.caller = calls.Caller()
        self.quota = calls.Quota("fxiaoke", self.service.calls_a_day)
        self._pace = calls.Pace(self.service.seconds_between_calls)
        of = tokens.told_apart(self._url, self._app, self._permanent, self.service.auth)
        self._token = tokens.Token(folder / "fxiaoke-token.json", of, self._fetch)
        self._data = _data(mapping.object)

    def account(self) -> str:
        """Return the address, the application, the tenant (a hash of its permanent code), the object and its key."""
        tenant = tokens.told_apart(self._permanent)
        return f"{self._url} {self._app} {tenant} {self.mapping.object} {self.mapping.key.field}"

    def expression(self, kind: Kind, column: str, digits: int) -> str:
        """Return numbers as text of fixed decimals, days as milliseconds."""
        value = quoted(column)
        if kind in {"number", "integer"}:
            return f"cast(cast({value} as decimal(38, {digits if kind == 'number' else 0})) as varchar)"
        if kind == "date":
            return (
                f"epoch_ms(cast(cast({value} as date) as timestamp)) - {round(self.service.utc_offset_hours * 3.6e6)}"
            )
        return f"cast({value} as {'boolean' if kind == 'boolean' else 'varchar'})"

    def _fetch(self) -> dict[str, Any]:
        """Return a new token and whose it is."""
        legacy = self.service.auth == "legacy"
        body = {"appId": self._app, "appSecret": self._secret, "permanentCode": self._permanent}
        path = "/cgi/corpAccessToken/get/V2" if legacy else "/oauth2.0/token"
        body |= {} if legacy else {"grantType": "app_secret"}

        def ask() -> dict[str, Any]:
            asked = time.time()
            try:
                found = _body(self.caller.send("POST", self._url + path, {}, json=body))
            except Lost as error:
                raise calls.Again(str(error)) from None
            if found["errorCode"] in BUSY | PERHAPS:
                raise calls.Again(f"code {found['errorCode']}")
            if found["errorCode"] != 0:
                raise ConfigurationRefused(
                    Problem(
                        "BELLWETHER_FXIAOKE_APP_ID, _APP_SECRET and _PERMANENT_CODE", "valid, and of this cloud",
                        f"refused (code {found['errorCode']})", "Correct them, or service.url; this address must be on "
                        "the tenant's list of allowed ones.",
                    )
                )  # fmt: skip
            corp = found.get("corpId" if legacy else "ea")
            if not isinstance(corp, str) or not corp:
                raise calls.Again("a token that does not say whose it is")
            access = found.get("corpAccessToken" if legacy else "accessToken")
            token = tokens.kept(access, found.get("expiresIn", 7200), asked, corp=corp)
            return token | {"ends": min(token["ends"], asked + EARLIEST)}

        return calls.Patience("fxiaoke: token", self.mapping.retry_seconds).until(ask)

    def _signed(self, token: dict[str, Any]) -> tuple[dict[str, Any], Headers[str, str]]:
        """Return what the chosen style adds to a body, and its headers."""
        if self.service.auth == "legacy":
            who = {"corpAccessToken": token["access"], "corpId": token["corp"], "currentOpenUserId": self.service.user}
            return who, {}
        headers = {"authorization": f"Bearer {token['access']}", "x-fs-ea": str(token["corp"])}
        return {}, headers | {"x-fs-userid": self.service.user}

    def _call(
        self, path: str, body: dict[str, Any], has: Callable[[Any], bool] | None = None, *, writes: bool = False
    ) -> dict[str, Any]:
        """Return an answer that is the request's own: not of its token, its pace or a service that is away.

        has: whether the `data` of a success is what was asked for; null: it says no more than that it was done.
        """
        refused = False

        def ask() -> dict[str, Any]:
            nonlocal refused
            again, refused = refused, False
            token = self._token.get()
            more, headers = self._signed(token)
            self._pace.keep(path)
            self.quota.spend(1)
            try:
                url = f"{self._url}{path}?thirdTraceId={uuid.uuid4()}"
                found = _body(self.caller.send("POST", url, headers, json={**more, **body}))
            except Lost as error:
                if writes:
                    raise
                raise calls.Again(str(error)) from None
            code = found["errorCode"]
            if code in TOKEN and not again:
                refused = True
                self._token.renew(token["access"])
                return ask()
            if code in PERHAPS and writes:
                raise Lost(f"code {code}")
            if code in BUSY | PERHAPS:
                raise calls.Again(f"code {code}")
            if code in STOPS or code in TOKEN:
                said = STOPS.get(code, "the token is refused twice")
                refusal = ServiceRefused if code == 30002 else ConfigurationRefused
                raise refusal(Problem("fxiaoke", "a call that is allowed", f"code {code}", f"{said}.".capitalize()))
            if code == 0 and has is not None and not has(found.get("data")):
                raise calls.Again("no answer to this request")
            return found

        return calls.Patience("fxiaoke", self.mapping.retry_seconds).until(ask)

    def day(self, value: str) -> str:
        """Return the day at the tenant's offset of milliseconds since 1970."""
        offset = round(self.service.utc_offset_hours * 3.6e6)
        return f"cast(epoch_ms(try_cast({value} as bigint) + {offset}) as date)"

    def moment(self, value: str) -> str:
        """Return milliseconds since 1970 as they are."""
        return f"try_cast({value} as bigint)"

    def gone(self, record: str) -> str:
        """Tell a record that was made invalid, or deleted, and is still listed."""
        invalid = f"({record} ->> '$.{self.service.status_field}') = 'invalid'"
        return f"coalesce({invalid} or ({record} ->> '$.is_deleted') = 'true', false)"

    def fields(self, of: str | None = None) -> dict[str, TenantField]:
        """Return an object's fields; what the description leaves out is not known."""
        name = {"apiName": of or self.mapping.object}
        body = {"includeDetail": False, "data": name} if self.service.describe == "data" else {**name}
        found = self._call("/cgi/crm/v2/object/describe", body, _describes)
        if found["errorCode"] != 0:
            raise ConfigurationRefused(
                Problem(
                    f"object {of or self.mapping.object}",
                    "an object of the tenant",
                    f"code {found['errorCode']}",
                    "Correct its API name.",
                )
            )
        fields = found["data"]["describe"]["fields"]
        return {name: _field(name, each) for name, each in fields.items() if isinstance(each, dict)}

    def create_fields(self, wanted: Sequence[Wanted]) -> list[str]:
        """Return what an administrator must add: the interface makes no fields."""
        return [f"to be added by an administrator: {each.described()}" for each in wanted]

    def find(self, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return records by our key."""
        key = self.mapping.key.field
        records: list[dict[str, Any]] = []
        after: list[dict[str, Any]] = []
        while True:
            query = {
                "limit": 100, "offset": 0, "orders": [{"fieldName": "_id", "isAsc": True}],
                "filters": [{"field_name": key, "field_values": list(keys), "operator": "IN"}, *after],
                "fieldProjection": list(dict.fromkeys(["_id", key, *names])),
            }  # fmt: skip
            data = {
                "dataObjectApiName": self.mapping.object, "find_explicit_total_num": False, "search_query_info": query
            }  # fmt: skip
            found = self._call(f"{self._data}/query", {"data": data}, lambda data: _lists(data, "_id", key))
            if found["errorCode"] != 0:
                raise ConfigurationRefused(
                    Problem("fxiaoke: query", "accepted", f"code {found['errorCode']}", "Check the object and the key.")
                )
            page = found["data"]["dataList"]
            records += [{**record, "id": record["_id"], "key": str(record[key])} for record in page]
            if len(page) < 100:
                return records
            after = [{"field_name": "_id", "field_values": [page[-1]["_id"]], "operator": "GT"}]

    def page(self, of: str, names: Sequence[str], modified: str, since: int | None, after: str | None) -> Page:
        """Return up to 100 records in order of their identifiers, so that changes meanwhile move none of them."""
        filters = [] if since is None else [{"field_name": modified, "field_values": [str(since)], "operator": "GTE"}]
        filters += [] if after is None else [{"field_name": "_id", "field_values": [after], "operator": "GT"}]
        query = {
            "limit": 100, "offset": 0, "orders": [{"fieldName": "_id", "isAsc": True}], "filters": filters,
            "fieldProjection": list(dict.fromkeys(["_id", modified, self.service.status_field, *names])),
        }  # fmt: skip
        data = {"dataObjectApiName": of, "find_explicit_total_num": False, "search_query_info": query}
        found = self._call(f"{_data(of)}/query", {"data": data}, lambda data: _lists(data, "_id"))
        if found["errorCode"] != 0:
            raise ConfigurationRefused(
                Problem(f"fxiaoke: query of {of}", "accepted", f"code {found['errorCode']}", "Check object and fields.")
            )
        listed = found["data"]["dataList"]
        records = [(str(record["_id"]), record) for record in listed]
        return Page(records, records[-1][0] if len(listed) == 100 else None)

    def write(self, rows: Sequence[Row]) -> Iterator[Outcome]:
        """Make or change a row's record."""
        return (self._written(row) for row in rows)

    def _written(self, row: Row) -> Outcome:
        values = {self.mapping.key.field: row.key} | row.made_with if row.record_id is None else {"_id": row.record_id}
        values |= {"dataObjectApiName": self.mapping.object} | self._emptied(row)
        body = {
            "triggerApprovalFlow": self.service.trigger_approval, "triggerWorkFlow": self.service.trigger_workflow,
            "data": {"object_data": values},
        }  # fmt: skip
        try:
            path = f"{self._data}/{'update' if row.record_id else 'create'}"
            found = self._call(path, body, writes=True)
        except Lost as error:
            return Outcome(row.key, "lost", None, "NO_ANSWER", str(error))
        if found["errorCode"] == 0:
            said = found.get("dataId")  # null, as one of the vendor's pages has it: the record is looked up
            return Outcome(
                row.key, "done", row.record_id or (str(said) if isinstance(said, str | int) and said else None)
            )
        return Outcome(row.key, "rejected", None, str(found["errorCode"]), str(found.get("errorMessage", "")))

    def _emptied(self, row: Row) -> dict[str, Any]:
        """Return the row's values with those that are to be emptied as the setting says."""
        if self.service.empty == "leave" or row.record_id is None:
            return {name: value for name, value in row.values.items() if value is not None}
        empty = None if self.service.empty == "null" else ""
        return {name: empty if value is None else value for name, value in row.values.items()}


def _data(of: str) -> str:
    """Return the path of an object's records: that of preset ones or of the tenant's own."""
    return f"/cgi/crm/{'custom/' if of.endswith('__c') else ''}v2/data"


def _describes(data: Any) -> bool:
    """Tell whether the data of an answer describe an object."""
    described = data.get("describe") if isinstance(data, dict) else None
    return isinstance(described, dict) and isinstance(described.get("fields"), dict)


def _lists(data: Any, *names: str) -> bool:
    """Tell whether the data of an answer list records that state each of these fields.

    Only an empty list says that there are none: who is taken for absent is made.
    """
    records = data.get("dataList") if isinstance(data, dict) else None
    return isinstance(records, list) and all(
        isinstance(record, dict) and all(isinstance(record.get(name), str | int) for name in names)
        for record in records
    )


def _field(name: str, each: dict[str, Any]) -> TenantField:
    """Return a field as its description says; what cannot be read is not known."""
    options = each.get("options")
    listed = (
        tuple(str(one.get("value")) for one in options if isinstance(one, dict)) if isinstance(options, list) else ()
    )
    length, decimals = (
        each[part] if isinstance(each.get(part), int) else None for part in ("max_length", "decimal_places")
    )
    kind = str(each.get("type") or "")
    return TenantField(name, kind, length, decimals, each.get("is_unique"), listed if kind == "select_one" else None)


def _body(answer: calls.Answer) -> dict[str, Any]:
    """Return an answer with its code as a number; one that has none came from something else on the way."""
    if answer.not_now:
        raise calls.Again(f"HTTP {answer.status}", answer.wait)
    body = answer.body if isinstance(answer.body, dict) else {}
    code = body.get("errorCode")
    if answer.status == 401 and code is None:
        code = UNKNOWN_TOKEN
    if answer.unsure or isinstance(code, bool) or not re.fullmatch(r"-?\d{1,9}", str(code)):
        raise Lost(f"HTTP {answer.status} {'' if answer.unsure else 'without a code'}".rstrip())
    return body | {"errorCode": int(str(code))}
