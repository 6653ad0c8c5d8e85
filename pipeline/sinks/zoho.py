"""Zoho CRM, version 8 of its interface.

Rows are looked up by our key (COQL), then written by `upsert`, 100 at a time, with `trigger: []` so that no workflow of
the tenant fires. What the vendor's pages leave open is a setting: see `Service`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
import urllib.parse
from collections.abc import Mapping as Headers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from features.expressions import name as quoted
from pipeline.params import Part
from pipeline.sinks import calls
from pipeline.sinks.interface import CursorGone, Kind, Lost, Outcome, Page, Row, TenantField, Wanted
from pipeline.sinks.mapping import Mapping, checked

CENTRES = {  # data centre: where tokens come from, where the interface is
    "us": ("https://accounts.zoho.com", "https://www.zohoapis.com"),
    "eu": ("https://accounts.zoho.eu", "https://www.zohoapis.eu"),
    "in": ("https://accounts.zoho.in", "https://www.zohoapis.in"),
    "jp": ("https://accounts.zoho.jp", "https://www.zohoapis.jp"),
    "sa": ("https://accounts.zoho.sa", "https://www.zohoapis.sa"),
    "au": ("https://accounts.zoho.com.au", "https://www.zohoapis.com.au"),
    "cn": ("https://accounts.zoho.com.cn", "https://www.zohoapis.com.cn"),
    "ca": ("https://accounts.zohocloud.ca", "https://www.zohoapis.ca"),
}
HELD = {"RECORD_LOCKED", "DEPENDENT_SERVICE_ERROR", "INTERNAL_ERROR", "ALREADY_MODIFIED"}  # a row's, that may pass
OF_THE_ROWS = {"INVALID_DATA", "MANDATORY_NOT_FOUND", "DUPLICATE_DATA", "MULTIPLE_OR_MULTI_ERRORS", "NOT_APPROVED",
               "DEPENDENT_FIELD_MISSING", "DEPENDENT_MISMATCH"}  # fmt: skip
PLACES = {"EXPIRED_VALUE", "TOKEN_BOUND_DATA_MISMATCH", "INVALID_DATA"}  # of a place in a list that is not known
TOKEN_CODES = {"INVALID_TOKEN", "AUTHENTICATION_FAILURE"}
PER_CREATION = 5  # fields
MADE: dict[Kind, dict[str, Any]] = {
    "number": {"data_type": "double", "length": 16}, "integer": {"data_type": "integer", "length": 9},
    "choice": {"data_type": "picklist"}, "date": {"data_type": "date"}, "boolean": {"data_type": "boolean"},
}  # fmt: skip


class Service(Part):
    """`service:` of data/crm/zoho.yaml."""

    data_center: Literal["us", "eu", "in", "jp", "sa", "au", "cn", "ca"] = "us"
    accounts_url: str | None = None  # null: the data centre's
    api_url: str | None = None  # null: what comes with the token; a sandbox has its own
    credits_a_day: int | None = Field(default=None, ge=1)  # of the edition; null: not known
    seconds_between_calls: float = Field(default=0, ge=0)
    trigger: tuple[Literal["workflow", "approval", "blueprint", "pathfinder", "orchestration"], ...] = ()  # none fires
    keys_per_query: int = Field(default=50, ge=1, le=200)  # guess: how many a COQL `in` may hold is not stated
    modified_since: Literal["header", "none"] = "header"  # guess: how the header writes a time; none: all are read


class Zoho:
    """One module of one organisation."""

    rows_per_write = 100
    types: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("text", "textarea"), "number": ("double", "decimal", "currency", "percent"),
        "integer": ("integer", "bigint", "double"), "choice": ("picklist", "text"), "date": ("date",),
        "boolean": ("boolean",), "lookup": ("lookup",),
    }  # fmt: skip

    def __init__(self, mapping: Mapping, folder: Path) -> None:
        self.mapping, self.service = mapping, checked(Service, mapping.service, "service")
        self.keys_per_find = self.service.keys_per_query
        accounts, self._default = CENTRES[self.service.data_center]
        self._accounts = calls.sound_url(self.service.accounts_url or accounts, "service.accounts_url")
        self._api = calls.sound_url(self.service.api_url, "service.api_url") if self.service.api_url else None
        self._client, self._secret, self._refresh = (
            calls.secret(f"BELLWETHER_ZOHO_{each}") for each in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")
        )
        self.caller = calls.Caller()
        self.quota = calls.Quota("zoho", self.service.credits_a_day)
        self._pace = calls.Pace(self.service.seconds_between_calls)
        self._token = calls.Token(folder / "zoho-token.json", self._fetch)

    def account(self) -> str:
        """Return the address, the client, the module and its key."""
        return f"{self._api or self._accounts} {self._client} {self.mapping.object} {self.mapping.key.field}"

    def expression(self, kind: Kind, column: str, digits: int) -> str:
        """Return numbers as numbers, days as yyyy-mm-dd."""
        value = quoted(column)
        if kind == "number":
            return f"round(cast({value} as double), {digits})"
        if kind == "date":
            return f"strftime(cast({value} as date), '%Y-%m-%d')"
        if kind == "lookup":
            return f"json_object('id', {value})"
        return f"cast({value} as {'bigint' if kind == 'integer' else 'boolean' if kind == 'boolean' else 'varchar'})"

    def _fetch(self) -> dict[str, Any]:
        """Return a new token; the refresh token stays as it is."""
        form = {"refresh_token": self._refresh, "client_id": self._client, "client_secret": self._secret,
                "grant_type": "refresh_token"}  # fmt: skip

        def ask() -> dict[str, Any]:
            try:
                answer = self.caller.send("POST", f"{self._accounts}/oauth/v2/token", {}, data=form)
            except Lost as error:
                raise calls.Again(str(error)) from None
            body = answer.body if isinstance(answer.body, dict) else {}
            if isinstance(body.get("access_token"), str):  # the status says nothing: an error may come as 200
                return body
            said = str(body.get("error", ""))
            if said == "Access Denied" or answer.status == 429 or answer.status >= 500:
                raise calls.Again(f"the token service said {said or answer.status}")
            raise ConfigurationRefused(
                Problem(
                    "BELLWETHER_ZOHO_CLIENT_ID, _CLIENT_SECRET and _REFRESH_TOKEN", "valid, and of this data centre",
                    f"refused ({_word(said)})", "Make a new refresh token for this client, or correct data_center.",
                )
            )  # fmt: skip

        body = calls.Patience("zoho: token", self.mapping.retry_seconds).until(ask)
        api = calls.sound_url(str(body.get("api_domain") or self._default), "zoho: api_domain")
        return {"access": body["access_token"], "ends": time.time() + float(body.get("expires_in", 3600)), "api": api}

    def _call(
        self, method: str, path: str, cost: int, *, writes: bool = False, headers: Headers[str, str] | None = None,
        **body: Any,
    ) -> calls.Answer:  # fmt: skip
        """Return an answer that is the request's own: not of its token, its pace or a service that is away."""
        renewed = False

        def ask() -> calls.Answer:
            nonlocal renewed
            token = self._token.get()
            self._pace.keep("zoho")
            self.quota.spend(cost)
            signed = {**(headers or {}), "Authorization": f"Zoho-oauthtoken {token['access']}"}
            try:
                answer = self.caller.send(method, (self._api or token["api"]) + path, signed, **body)
            except Lost as error:
                if writes:
                    raise
                raise calls.Again(str(error)) from None
            code = _code(answer.body)
            if code in TOKEN_CODES and not renewed:
                renewed = True
                self._token.renew(token["access"])
                return ask()
            if answer.status == 429 or code == "TOO_MANY_REQUESTS":
                raise calls.Again("too many requests, or no credits left")
            if answer.status >= 500 or (answer.status == 200 and answer.body is None):
                if writes:
                    raise Lost(f"HTTP {answer.status}")
                raise calls.Again(f"HTTP {answer.status}")
            if answer.status in (401, 403, 404) or code in TOKEN_CODES:
                raise ConfigurationRefused(
                    Problem(
                        f"zoho: {path.partition('?')[0]}", "allowed for this token (scopes modules, settings, coql)",
                        f"HTTP {answer.status} {_word(code)}", "Give its user the right, or make a token with it.",
                    )
                )  # fmt: skip
            return answer

        return calls.Patience("zoho", self.mapping.retry_seconds).until(ask)

    def day(self, value: str) -> str:
        """Return the day that a point in time states, at its own offset."""
        return f"try_cast(left({value}, 10) as date)"

    def moment(self, value: str) -> str:
        """Return milliseconds since 1970 of a point in time with its offset."""
        return f"epoch_ms(try_cast({value} as timestamptz))"

    def gone(self, record: str) -> str:
        """Tell none: what was deleted is not listed."""
        del record
        return "false"

    def fields(self, of: str | None = None) -> dict[str, TenantField]:
        """Return a module's fields."""
        answer = self._call("GET", f"/crm/v8/settings/fields?module={of or self.mapping.object}", 1)
        found = answer.body.get("fields") if isinstance(answer.body, dict) else None
        if not isinstance(found, list):
            raise ConfigurationRefused(
                Problem(
                    f"object {of or self.mapping.object}",
                    "a module of the organisation",
                    _word(_code(answer.body)),
                    "Correct its API name.",
                )
            )
        return {each["api_name"]: _field(each) for each in found}

    def create_fields(self, wanted: Sequence[Wanted]) -> list[str]:
        """Make fields five at a time; what they are called then is read back, since the vendor chooses the name."""
        left = []
        for start in range(0, len(wanted), PER_CREATION):
            some = wanted[start : start + PER_CREATION]
            body = {"fields": [_made(field) for field in some]}
            try:
                path = f"/crm/v8/settings/fields?module={self.mapping.object}"
                answer = self._call("POST", path, 1, writes=True, json=body)
            except Lost as error:
                raise ServiceRefused(
                    Problem("zoho: fields", "made", f"no answer ({error})", "Run it again: those made stay.")
                ) from None
            results = answer.body.get("fields") if isinstance(answer.body, dict) else None
            results = results if isinstance(results, list) else [answer.body] * len(some)
            left += [
                f"not made ({_word(_code(result))}), to be added by hand: {field.described()}"
                for field, result in zip(some, results, strict=False)
                if _code(result) != "SUCCESS"
            ]
        there = self.fields()
        left += [
            f"made under another API name, to be written into the mapping instead of {field.name}: label {field.label}"
            for field in wanted
            if field.name not in there and not any(f": {field.described()}" in each for each in left)
        ]
        return left

    def find(self, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return records by our key; a key with a quote is never put into a query."""
        key = self.mapping.key.field
        asked = [each for each in keys if re.fullmatch(r"[^'\"\\\x00-\x1f]+", each)]
        if not asked:
            return []
        columns = ", ".join(dict.fromkeys(["id", key, *names]))
        listed = ", ".join(f"'{each}'" for each in asked)
        query = f"select {columns} from {self.mapping.object} where {key} in ({listed}) limit 0, 200"
        answer = self._call("POST", "/crm/v8/coql", 1, json={"select_query": query})
        if answer.status == 204:
            return []
        if answer.status != 200 or not isinstance(answer.body.get("data"), list):
            raise ConfigurationRefused(
                Problem("zoho: query", "accepted", _word(_code(answer.body)), "Check keys_per_query and the fields.")
            )
        return [{**record, "key": str(record.get(key))} for record in answer.body["data"]]

    def page(self, of: str, names: Sequence[str], modified: str, since: int | None, after: str | None) -> Page:
        """Return up to 200 records in order of their identifiers; beyond 100,000 the service lists none."""
        wanted = ",".join(dict.fromkeys(["id", modified, *names]))
        place = "" if after is None else f"&{after}"
        path = f"/crm/v8/{of}?fields={wanted}&per_page=200&sort_by=id&sort_order=asc{place}"
        header = self.service.modified_since == "header" and since is not None
        headers = {"If-Modified-Since": _written(since)} if header and since is not None else {}
        answer = self._call("GET", path, 1, headers=headers)
        if answer.status in (204, 304):
            return Page([], None)
        body = answer.body if isinstance(answer.body, dict) else {}
        info = body.get("info")
        if answer.status != 200 or not isinstance(body.get("data"), list) or not isinstance(info, dict):
            if after is not None and _code(body) in PLACES:
                raise CursorGone
            raise ConfigurationRefused(
                Problem(f"zoho: records of {of}", "accepted (at most 50 fields, 100,000 records)", _word(_code(body)),
                        "Check the object and its fields, or service.modified_since.")
            )  # fmt: skip
        records = [(str(record["id"]), record) for record in body["data"]]
        if not info.get("more_records") or not records:
            return Page(records, None)
        token = info.get("next_page_token")
        number = int(info.get("page", 1)) + 1
        return Page(records, f"page_token={urllib.parse.quote(token, safe='')}" if token else f"page={number}")

    def write(self, rows: Sequence[Row]) -> list[Outcome]:
        """Write up to 100 rows by upsert on our key."""
        unsafe = [row for row in rows if not re.fullmatch(r"[^'\"\\\x00-\x1f]+", row.key)]
        rows = [row for row in rows if row not in unsafe]
        bad = [Outcome(row.key, "rejected", None, "KEY", "a key with a quote or backslash") for row in unsafe]
        return bad + (self._upsert(rows) if rows else [])

    def _upsert(self, rows: Sequence[Row]) -> list[Outcome]:
        key = self.mapping.key.field
        data = [
            {key: row.key, **row.values, **({"id": row.record_id} if row.record_id else row.made_with)} for row in rows
        ]
        body = {"data": data, "duplicate_check_fields": [key], "trigger": self.service.trigger}
        path, cost = f"/crm/v8/{self.mapping.object}/upsert", (len(rows) + 9) // 10
        try:
            answer = self._call("POST", path, cost, writes=True, json=body)
        except Lost as error:
            return [Outcome(row.key, "lost", None, "NO_ANSWER", str(error)) for row in rows]
        results = answer.body.get("data") if isinstance(answer.body, dict) else None
        if isinstance(results, list):
            if len(results) != len(rows) or not all(map(_belongs, range(len(rows)), rows, results)):
                return [Outcome(row.key, "lost", None, "NO_ANSWER", "answers that are not the rows'") for row in rows]
            return [_outcome(row, result) for row, result in zip(rows, results, strict=True)]
        if _code(answer.body) not in OF_THE_ROWS:
            raise ConfigurationRefused(
                Problem(f"zoho: {path}", "accepted", f"HTTP {answer.status} {_word(_code(answer.body))}",
                        "Check the object, the fields and the rights of the token's user.")
            )  # fmt: skip
        if len(rows) == 1:
            return [_outcome(rows[0], answer.body)]
        half = len(rows) // 2  # one error for all of them: which row's it is, halves tell
        return self._upsert(rows[:half]) + self._upsert(rows[half:])


def _written(moment: int) -> str:
    """Return milliseconds since 1970 as the service writes a point in time."""
    return dt.datetime.fromtimestamp(moment // 1000, dt.UTC).isoformat()


def _code(body: Any) -> str:
    """Return an answer's code, empty where it has none."""
    return str(body.get("code", "")) if isinstance(body, dict) else ""


def _field(each: dict[str, Any]) -> TenantField:
    """Return a field as its description says."""
    listed = each.get("data_type") == "picklist"
    options = (str(one.get("actual_value", one.get("display_value"))) for one in each.get("pick_list_values") or ())
    return TenantField(
        each["api_name"], each.get("data_type", ""), each.get("length"), each.get("decimal_place"),
        bool(each.get("unique")), tuple(options) if listed else None,
    )  # fmt: skip


def _word(said: str) -> str:
    """Return a code fit to be printed."""
    return said if re.fullmatch(r"[A-Za-z_ ]{1,60}", said) else "no known code"


def _belongs(place: int, row: Row, result: Any) -> bool:
    """Tell whether an element is the row's own, as far as it says: order is seen in examples, and promised nowhere."""
    details = result.get("details") if isinstance(result, dict) else None
    details = details if isinstance(details, dict) else {}
    if _code(result) == "SUCCESS":
        return row.record_id is None or str(details.get("id", row.record_id)) == row.record_id
    stated = re.match(r"\$\.data\[(\d+)\]", str(details.get("json_path", "")))
    return stated is None or int(stated[1]) == place


def _outcome(row: Row, result: Any) -> Outcome:
    """Return what became of a row by its own element of the answer."""
    code, details = _code(result), result.get("details") if isinstance(result, dict) else None
    details = details if isinstance(details, dict) else {}
    if code == "SUCCESS":
        return Outcome(row.key, "done", str(details.get("id", row.record_id or "")))
    message = " ".join(str(each) for each in (result.get("message", ""), details.get("api_name", "")) if each)
    return Outcome(row.key, "again" if code in HELD else "rejected", None, code or "NO_CODE", message)


def _made(field: Wanted) -> dict[str, Any]:
    """Return the body of a field that is to be made."""
    label = {"field_label": field.label}
    if field.kind == "text" and field.length > 255:
        return label | {"data_type": "textarea", "length": 2000, "textarea": {"type": "small"}}
    if field.kind == "text":
        unique = {"unique": {"case_sensitive": False}} if field.unique else {}
        return label | {"data_type": "text", "length": field.length} | unique
    more: dict[str, Any] = {"decimal_place": field.digits} if field.kind == "number" else {}
    if field.kind == "choice":
        more = {"pick_list_values": [{"display_value": each, "actual_value": each} for each in field.choices]}
    return label | MADE[field.kind] | more
