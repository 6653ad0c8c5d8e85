"""How a service is called: with a time limit, within its pace and quota, again where that can help, and told apart.

Tokens lie in a file that only we can read, are fetched by one process at a time, and stand in no message: what a
library says of a failed call may quote its address, so only the kind of failure is repeated.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import random
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from pipeline.sinks.interface import Lost

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, and then a random part of it
CONNECT, ANSWER = 10.0, 60.0  # seconds
EARLY = 120  # seconds before its end that a token is replaced


class Again(Exception):
    """Nothing was done, and it may be asked again."""


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
    except ValueError:
        host = ""
    try:
        here = ipaddress.ip_address(host).is_loopback
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

    def failed(self, why: str) -> None:
        """Wait, or refuse where the time is up."""
        self.tries += 1
        most = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.tries - 1, 10))
        pause = random.uniform(0, most)  # noqa: S311  so that many do not come back at once
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
                self.failed(str(error))


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
    """A whole answer: its status, and its JSON (null where it has no body)."""

    status: int
    body: Any


class Caller:
    """One service's connection."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "bellwether"
        self.timeout = ANSWER

    def send(self, method: str, url: str, headers: Mapping[str, str], **body: Any) -> Answer:
        """Return the answer; raise Again where nothing arrived there, Lost where that is not known."""
        try:
            found = self._session.request(
                method, url, headers=headers, timeout=(CONNECT, self.timeout), allow_redirects=False,
                auth=lambda request: request,  # or a .netrc would replace our own header
                **body,
            )  # fmt: skip
        except requests.ConnectTimeout:
            raise Again("no connection") from None
        except requests.RequestException as error:
            raise Lost(type(error).__name__) from None
        try:
            answer = Answer(found.status_code, json.loads(found.content) if found.content else None)
        except ValueError:
            if found.status_code == 200:
                raise Lost("an answer that is no JSON") from None
            answer = Answer(found.status_code, None)
        if (300 <= answer.status < 400 and answer.status != 304) or (answer.status == 404 and answer.body is None):
            raise ConfigurationRefused(
                Problem(
                    urllib.parse.urlsplit(url).hostname or "service", "the address of the interface",
                    f"HTTP {answer.status}", "Correct the address or region in the mapping.",
                )
            )  # fmt: skip
        return answer


class Token:
    """An access token with what came beside it, kept in a file until shortly before its end."""

    def __init__(self, path: Path, fetch: Callable[[], dict[str, Any]]) -> None:
        self.path, self._fetch = path, fetch
        self._held: dict[str, Any] = {}

    def get(self) -> dict[str, Any]:
        """Return the token: {access, ends, ...}."""
        if self._held.get("ends", 0) - EARLY <= time.time():
            self._held = self._renewed(None)
        return self._held

    def renew(self, refused: str) -> None:
        """Replace a token that the service refused; one that another process fetched since is taken instead."""
        self._held = self._renewed(refused)

    def _renewed(self, refused: str | None) -> dict[str, Any]:
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self._read()
            if kept.get("ends", 0) - EARLY > time.time() and kept.get("access") not in (None, refused):
                return kept
            fresh = self._fetch()
            scratch = self.path.with_suffix(f".{os.getpid()}")
            scratch.unlink(missing_ok=True)
            with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
                json.dump(fresh, handle)
            scratch.replace(self.path)
            return fresh

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}
