"""An access token in a file that only we can read: fetched by one process at a time, and never in a message."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.sinks.calls import Again

EARLY = 120  # seconds before its end that a token is replaced, and at most a tenth of its life


def told_apart(*parts: str | None) -> str:
    """Return a hash of what tells one tenant's tokens from another's: it may hold secrets, its hash shows none."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def kept(access: object, lasts: object, asked: float, **beside: str) -> dict[str, Any]:
    """Return a token as it is kept: {access, ends, early, ...}; raise Again for one that is no whole token.

    lasts: seconds as the service says them. asked: when it was asked for, in seconds since 1970.
    """
    try:
        seconds = float(lasts) if isinstance(lasts, int | float | str) and not isinstance(lasts, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not isinstance(access, str) or not access or not 0 < seconds < math.inf:
        raise Again("a token without its text or its seconds")
    return {"access": access, "ends": asked + seconds, "early": min(EARLY, seconds / 10)} | beside


class Token:
    """An access token with what came beside it, kept in a file until shortly before its end.

    of: `told_apart` of the tenant; a token that another tenant left in the file is not taken for its own.
    """

    def __init__(self, path: Path, of: str, fetch: Callable[[], dict[str, Any]]) -> None:
        self.path, self._of, self._fetch = path, of, fetch
        self._held: dict[str, Any] = {}

    def get(self) -> dict[str, Any]:
        """Return the token: {access, ends, early, ...}."""
        if not _lasts(self._held):
            self._held = self._renewed(None)
        return self._held

    def renew(self, refused: str) -> None:
        """Replace a token that the service refused; one that another process fetched since is taken instead."""
        self._held = self._renewed(refused)

    def _renewed(self, refused: str | None) -> dict[str, Any]:
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = self._read()
            if _lasts(there) and there["access"] != refused:
                return there
            fresh = self._fetch()
            scratch = self.path.with_suffix(f".{os.getpid()}")
            scratch.unlink(missing_ok=True)
            with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
                json.dump({**fresh, "of": self._of}, handle)
            scratch.replace(self.path)
            return fresh

    def _read(self) -> dict[str, Any]:
        """Return this tenant's token, or none where the file holds another's or cannot be read."""
        try:
            there = json.loads(self.path.read_text(encoding="utf-8"))
            own = there["of"] == self._of and isinstance(there["access"], str)
            return there | {"ends": float(there["ends"]), "early": float(there["early"])} if own else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}


def _lasts(token: dict[str, Any]) -> bool:
    return bool(token) and token["ends"] - token["early"] > time.time()
