"""How a service is called: with a time limit, within its pace and quota, again where that can help, and told apart.

What a library says of a failed call may quote its address, so only the kind of failure is repeated.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import ipaddress
import json
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import requests
from pydantic import BaseModel, ValidationError

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from pipeline.sinks.interface import Lost

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, and then a random part of it
CONNECT, ANSWER = 10.0, 60.0  # seconds: for a connection; from the first byte sent to the last one read
NOT_NOW = {423, 425, 429}  # statuses that say that nothing was done, and that it may be asked again
READABLE = {400}  # beside 200 to 299: statuses whose body says what was wrong


class Again(Exception):
    """Nothing was done, and it may be asked again, though not before so many seconds have passed."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def secret(name: str) -> str:
    """Return an environment variable, or refuse (exit code 4)."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise ConfigurationRefused(
            Problem(name, "a variable of the environment", "nothing", "Set it; it belongs in no file of the project.")
        )
    return value


def sound_url(url: str, where: str) -> str:
    """Return an https address (http only to this machine) without a trailing slash, or refuse (exit code 4)."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # raises where it is no number
    except ValueError:
        host = ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not host or parts.username or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise ConfigurationRefused(
            Problem(where, "an https address without user and password", "something else", "Correct it.")
        )
    return url.rstrip("/")


class Patience:
    """How long one thing is tried: pauses grow, are random (full jitter), and end with a refusal (exit code 8)."""

    def __init__(self, who: str, seconds: float) -> None:
        self.who, self.seconds = who, seconds
        self.tries, self.end = 0, time.monotonic() + seconds

    def failed(self, why: str, wait: float = 0.0) -> None:
        """Wait, at least as long as the service asked for, or refuse where the time is up or would be by then."""
        self.tries += 1
        most = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.tries - 1, 10))
        pause = max(random.uniform(0, most), wait)  # noqa: S311  so that many do not come back at once
        why += f", to be asked again in {wait:.0f} s," if wait else ""
        if time.monotonic() + pause >= self.end:
            raise ServiceRefused(
                Problem(
                    self.who, "a service that answers", f"{why} after {self.tries} tries in {self.seconds:.0f} s",
                    "What was done is noted; run it again later.",
                )
            )  # fmt: skip
        time.sleep(pause)

    def until(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, asked again while it raises Again."""
        while True:
            try:
                return ask()
            except Again as error:
                self.failed(str(error), error.wait)


@dataclass
class Pace:
    """At least so many seconds between two calls of the same interface."""

    seconds: float
    last: dict[str, float] = field(default_factory=dict)

    def keep(self, interface: str) -> None:
        """Wait until the next call may be made."""
        wait = self.last.get(interface, -1e9) + self.seconds - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        self.last[interface] = time.monotonic()


@dataclass
class Quota:
    """Credits of 24 hours: what may be spent (null: not known), what was, and how it is noted."""

    who: str
    most: int | None = None
    spent: Callable[[], int] = lambda: 0
    note: Callable[[int], None] = lambda _: None

    def spend(self, cost: int) -> None:
        """Note a call before it is made; refuse (exit code 8) where it would be too many."""
        if self.most is not None and self.spent() + cost > self.most:
            raise ServiceRefused(
                Problem(
                    f"{self.who}: credits of 24 hours", f"{self.most:,} at most", f"{self.spent():,} spent",
                    "What was done is noted; run it again tomorrow, or raise credits_a_day.",
                )
            )  # fmt: skip
        if cost:
            self.note(cost)


@dataclass(frozen=True)
class Answer:
    """A whole answer: its status, its JSON (null where it has no body), and how many seconds it asks us to wait."""

    status: int
    body: Any
    wait: float = 0.0

    @property
    def not_now(self) -> bool:
        """Whether nothing was done, and it may be asked again."""
        return self.status in NOT_NOW

    @property
    def unsure(self) -> bool:
        """Whether the service broke off, so that something may have been done."""
        return self.status == 408 or self.status >= 500

    @property
    def states_itself(self) -> bool:
        """Whether an answer of this status has a body that the service wrote for this request."""
        return 200 <= self.status < 300 or self.status in READABLE


def fits(shape: type[BaseModel], body: Any) -> bool:
    """Tell whether a body has the shape that is stated for it."""
    try:
        shape.model_validate(body)
    except ValidationError:
        return False
    return True


class Caller:
    """One service's connection."""

    def __init__(self) -> None:
        self._session = _session()
        self.timeout = ANSWER

    def send(self, method: str, url: str, headers: Mapping[str, str], **body: Any) -> Answer:
        """Return the answer; raise Again where nothing arrived there, Lost where that is not known.

        The limit is of the whole call: a service that sends a byte now and then is as good as one that sends none.
        """
        session, ended = self._session, []

        def ask() -> None:
            try:
                found = session.request(
                    method, url, headers=headers, timeout=(min(CONNECT, self.timeout), self.timeout),
                    allow_redirects=False, auth=lambda request: request,  # or a .netrc would replace our own header
                    **body,
                )  # fmt: skip
                ended.append(found)
            except Exception as error:  # noqa: BLE001  it is raised where it was waited for
                ended.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if not ended:
            self._session = _session()  # the other one's connection is still in use
            raise Lost("an answer that did not end in time")
        return _answer(ended[0], url)


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["User-Agent"] = "bellwether"
    return session


def _answer(ended: requests.Response | Exception, url: str) -> Answer:
    """Return what a call ended with, or raise it as what it means."""
    if isinstance(ended, requests.ConnectTimeout):
        raise Again("no connection")
    if isinstance(ended, requests.RequestException) and not isinstance(ended, requests.exceptions.InvalidJSONError):
        raise Lost(type(ended).__name__)
    if isinstance(ended, Exception):  # a fault of ours before anything was sent: no answer is lost
        raise ended
    said = Answer(ended.status_code, None, _wait(ended.headers.get("Retry-After")))
    try:
        answer = replace(said, body=json.loads(ended.content) if ended.content else None)
    except (ValueError, RecursionError):
        if said.states_itself:
            raise Lost("an answer that is no JSON") from None
        answer = said
    if (300 <= answer.status < 400 and answer.status != 304) or (answer.status == 404 and answer.body is None):
        raise ConfigurationRefused(
            Problem(
                urllib.parse.urlsplit(url).hostname or "service", "the address of the interface",
                f"HTTP {answer.status}", "Correct the address or region in the mapping.",
            )
        )  # fmt: skip
    return answer


def _wait(stated: str | None) -> float:
    """Return the seconds of a Retry-After, which may be a date; 0 where there is none or it cannot be read."""
    stated = (stated or "").strip()
    if stated.isascii() and stated.isdecimal():
        return float(stated[:9])
    try:
        moment = email.utils.parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return max(0.0, moment.timestamp() - time.time())
