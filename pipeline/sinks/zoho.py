"""Zoho CRM, version 8 of its interface.

Rows are looked up by our key (COQL), then written by `upsert`, 100 at a time, with `trigger: []` so that no workflow of
the tenant fires. What the vendor's pages leave open is a setting: see `Service`.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Headers
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from features.expressions import name as quoted
from pipeline.params import Part
from pipeline.sinks import calls, tokens, zoho_answers
from pipeline.sinks.interface import CursorGone, Kind, Lost, Outcome, Page, Row, TenantField, Wanted
from pipeline.sinks.mapping import Mapping, checked
from pipeline.sinks.zoho_answers import HELD, OF_THE_ROWS, code_of, word

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
PLACES = {"EXPIRED_VALUE", "TOKEN_BOUND_DATA_MISMATCH", "INVALID_DATA"}  # of a place in a list that is not known
TOKEN_CODES, SCOPE = {"INVALID_TOKEN", "AUTHENTICATION_FAILURE"}, "OAUTH_SCOPE_MISMATCH"
PER_CREATION = 5  # fields
QUERIED = re.compile(r"[^'\"\\\x00-\x1f]+")  # keys that are put into a query: how others are escaped is not stated


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
        of = tokens.told_apart(self._accounts, self._api, self._client, self._refresh)
        self._token = tokens.Token(folder / "zoho-token.json", of, self._fetch)

    def account(self) -> str:
        """Return the address, the client, the organisation (a hash of its refresh token), the module and its key."""
        organisation = tokens.told_apart(self._refresh)
        address = f"{self._accounts} {self._api or ''} {self._client} {organisation}"
        return f"{address} {self.mapping.object} {self.mapping.key.field}"

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
            asked = time.time()
            try:
                answer = self.caller.send("POST", f"{self._accounts}/oauth/v2/token", {}, data=form)
            except Lost as error:
                raise calls.Again(str(error)) from None
            body = answer.body if isinstance(answer.body, dict) else {}
            if body.get("access_token"):  # the status says nothing: an error may come as 200
                api = str(body.get("api_domain") or self._default)
                return tokens.kept(body["access_token"], body.get("expires_in", 3600), asked, api=api)
            said = str(body.get("error") or "")
            if said == "Access Denied" or answer.not_now or answer.unsure or (answer.states_itself and not said):
                raise calls.Again(f"the token service said {word(said) if said else answer.status}", answer.wait)
            raise ConfigurationRefused(
                Problem(
                    "BELLWETHER_ZOHO_CLIENT_ID, _CLIENT_SECRET and _REFRESH_TOKEN", "valid, and of this data centre",
                    f"refused ({word(said)})", "Make a new refresh token for this client, or correct data_center.",
                )
            )  # fmt: skip

        token = calls.Patience("zoho: token", self.mapping.retry_seconds).until(ask)
        return token | {"api": calls.sound_url(token["api"], "zoho: api_domain")}

    def _call(
        self, method: str, path: str, cost: int, shape: type[BaseModel], *, empty: tuple[int, ...] = (),
        writes: bool = False, headers: Headers[str, str] | None = None, **body: Any,
    ) -> calls.Answer:  # fmt: skip
        """Return an answer that is the request's own: not of its token, its pace or a service that is away.

        shape: of a body that says what was done or found. empty: statuses that have none.
        """
        refused = False

        def ask() -> calls.Answer:
            nonlocal refused
            again, refused = refused, False
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
            code = code_of(answer.body)
            of_the_token = code in TOKEN_CODES or (answer.status == 401 and code != SCOPE)
            if of_the_token and not again:
                refused = True
                self._token.renew(token["access"])
                return ask()
            if answer.not_now or code == "TOO_MANY_REQUESTS":
                raise calls.Again("too many requests, or no credits left", answer.wait)
            if of_the_token or answer.status in (401, 403, 404):
                raise ConfigurationRefused(
                    Problem(
                        f"zoho: {path.partition('?')[0]}", "allowed for this token (scopes modules, settings, coql)",
                        f"HTTP {answer.status} {word(code)}", "Give its user the right, or make a token with it.",
                    )
                )  # fmt: skip
            if answer.unsure or not zoho_answers.own(answer, shape, empty):
                said = f"HTTP {answer.status}{'' if answer.unsure else ', and no answer to this request'}"
                if writes:
                    raise Lost(said)
                raise calls.Again(said, answer.wait)
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
        path = f"/crm/v8/settings/fields?module={of or self.mapping.object}"
        answer = self._call("GET", path, 1, zoho_answers.Described, empty=(204,))
        found = zoho_answers.described(answer.body)
        if found is None:
            raise ConfigurationRefused(
                Problem(
                    f"object {of or self.mapping.object}",
                    "a module of the organisation",
                    word(code_of(answer.body)),
                    "Correct its API name.",
                )
            )
        return found

    def create_fields(self, wanted: Sequence[Wanted]) -> list[str]:
        """Make fields five at a time; what they are called then is read back, since the vendor chooses the name."""
        left = []
        for start in range(0, len(wanted), PER_CREATION):
            some = wanted[start : start + PER_CREATION]
            body = {"fields": [zoho_answers.made(field) for field in some]}
            try:
                path = f"/crm/v8/settings/fields?module={self.mapping.object}"
                answer = self._call("POST", path, 1, zoho_answers.Made, writes=True, json=body)
            except Lost as error:
                raise ServiceRefused(
                    Problem("zoho: fields", "made", f"no answer ({error})", "Run it again: those made stay.")
                ) from None
            told = calls.fits(zoho_answers.Made, answer.body)
            results = answer.body["fields"] if told else []
            results = results if len(results) == len(some) else [answer.body] * len(some)
            left += [
                f"not made ({word(code_of(result))}), to be added by hand: {field.described()}"
                for field, result in zip(some, results, strict=True)
                if code_of(result) != "SUCCESS"
            ]
        there = self.fields()
        left += [
            f"made under another API name, to be written into the mapping instead of {field.name}: label {field.label}"
            for field in wanted
            if field.name not in there and not any(f": {field.described()}" in each for each in left)
        ]
        return left

    def find(self, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return records by our key; a key with a quote is never put into a query: its upsert finds its record."""
        key = self.mapping.key.field
        asked = [each for each in keys if QUERIED.fullmatch(each)]
        if not asked:
            return []
        columns = ", ".join(dict.fromkeys(["id", key, *names]))
        listed = ", ".join(f"'{each}'" for each in asked)
        query = f"select {columns} from {self.mapping.object} where {key} in ({listed}) limit 0, 200"
        answer = self._call(
            "POST", "/crm/v8/coql", 1, zoho_answers.Found, empty=(204,), json={"select_query": query}
        )  # fmt: skip
        if answer.status == 204:
            return []
        if answer.status >= 300:
            raise ConfigurationRefused(
                Problem("zoho: query", "accepted", word(code_of(answer.body)), "Check keys_per_query and the fields.")
            )
        return [{**record, "key": str(record[key])} for record in answer.body["data"] if record.get(key) is not None]

    def page(self, of: str, names: Sequence[str], modified: str, since: int | None, after: str | None) -> Page:
        """Return up to 200 records in order of their identifiers; beyond 100,000 the service lists none."""
        wanted = ",".join(dict.fromkeys(["id", modified, *names]))
        place = "" if after is None else f"&{after}"
        path = f"/crm/v8/{of}?fields={wanted}&per_page=200&sort_by=id&sort_order=asc{place}"
        header = self.service.modified_since == "header" and since is not None
        headers = {"If-Modified-Since": zoho_answers.written(since)} if header and since is not None else {}
        empty = (204, 304) if headers else (204,)  # 304: nothing was modified since the time that was stated
        answer = self._call("GET", path, 1, zoho_answers.Listed, empty=empty, headers=headers)
        if answer.status in (204, 304):
            return Page([], None)
        if answer.status >= 300:
            if after is not None and code_of(answer.body) in PLACES:
                raise CursorGone
            raise ConfigurationRefused(
                Problem(f"zoho: records of {of}", "accepted (at most 50 fields, 100,000 records)",
                        word(code_of(answer.body)), "Check the object and its fields, or service.modified_since.")
            )  # fmt: skip
        found = zoho_answers.Listed.model_validate(answer.body)
        records = [(str(record["id"]), record) for record in answer.body["data"]]
        if not found.info.more_records or not records:
            return Page(records, None)
        token = found.info.next_page_token
        place = f"page_token={urllib.parse.quote(token, safe='')}" if token else f"page={(found.info.page or 1) + 1}"
        return Page(records, place)

    def write(self, rows: Sequence[Row]) -> Iterator[Outcome]:
        """Write up to 100 rows by upsert on our key; those whose key is not looked up one by one."""
        together = [row for row in rows if QUERIED.fullmatch(row.key)]
        if together:
            yield from self._upsert(together)
        for row in rows:
            if not QUERIED.fullmatch(row.key):
                yield from self._upsert([row])

    def _upsert(self, rows: Sequence[Row]) -> Iterator[Outcome]:
        """Yield what became of each row as it is known: what comes before a refusal is written, and must be noted."""
        key = self.mapping.key.field
        data = [
            {key: row.key, **row.values, **({"id": row.record_id} if row.record_id else row.made_with)} for row in rows
        ]
        body = {"data": data, "duplicate_check_fields": [key], "trigger": self.service.trigger}
        path, cost = f"/crm/v8/{self.mapping.object}/upsert", (len(rows) + 9) // 10
        try:
            answer = self._call("POST", path, cost, zoho_answers.Upserted, writes=True, json=body)
        except Lost as error:
            yield from (Outcome(row.key, "lost", None, "NO_ANSWER", str(error)) for row in rows)
            return
        if calls.fits(zoho_answers.Upserted, answer.body):
            yield from zoho_answers.outcomes(rows, answer.body["data"])
            return
        if code_of(answer.body) not in OF_THE_ROWS | HELD:
            raise ConfigurationRefused(
                Problem(f"zoho: {path}", "accepted", f"HTTP {answer.status} {word(code_of(answer.body))}",
                        "Check the object, the fields and the rights of the token's user.")
            )  # fmt: skip
        if len(rows) == 1:
            yield zoho_answers.outcome(rows[0], answer.body, sure=False)
            return
        half = len(rows) // 2  # one error for all of them: which row's it is, halves tell
        yield from self._upsert(rows[:half])
        yield from self._upsert(rows[half:])
