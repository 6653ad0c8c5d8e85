"""Tell a run's summary to a web address: off unless the environment names one, and tried again within a time budget.

BELLWETHER_WEBHOOK holds the address (it may carry a secret, and is never printed). A JSON object is posted: the
summary, and `text`, one line that chat services show.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

ADDRESS = "BELLWETHER_WEBHOOK"
BUDGET = 30.0  # seconds, for all attempts together
ATTEMPT = 10.0  # seconds, for one
FIRST_PAUSE = 0.5  # seconds, doubled after each attempt


class _NoDetours(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a body meant for one address is not sent to another."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""
        del args, kwargs


def _post(address: str, body: bytes, timeout: float) -> tuple[str | None, bool, float]:
    """Return (what went wrong or None, whether to try again, seconds that the server asks to wait)."""
    request = urllib.request.Request(  # noqa: S310  the scheme was checked
        address, data=body, method="POST", headers={"Content-Type": "application/json", "User-Agent": "bellwether"}
    )
    try:
        with urllib.request.build_opener(_NoDetours).open(request, timeout=timeout):
            return None, False, 0.0
    except urllib.error.HTTPError as error:
        asked = error.headers.get("Retry-After") or ""
        return f"HTTP {error.code}", error.code == 429 or error.code >= 500, float(asked) if asked.isdecimal() else 0.0
    except (OSError, ValueError) as error:  # the error's own text may quote the address
        reason = getattr(error, "reason", error)
        cause = reason if isinstance(reason, Exception) else error
        return "no answer" if isinstance(cause, TimeoutError) else type(cause).__name__, True, 0.0


def deliver(summary: dict[str, Any], text: str, *, budget: float = BUDGET) -> str | None:
    """Post the summary where the environment says; return why it did not arrive, or None where it did or none is asked.

    Takes `budget` seconds at most, name resolution and slow answers included.
    """
    address = os.environ.get(ADDRESS, "").strip()
    if not address:
        return None
    try:
        parts = urllib.parse.urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        return f"{ADDRESS} holds no http or https address"
    body = json.dumps({"text": text, **summary}, ensure_ascii=False).encode()
    end, said = time.monotonic() + budget, ["no answer"]
    attempts = [0]
    delivered = threading.Event()

    def attempt() -> None:
        pause = FIRST_PAUSE
        while True:
            attempts[0] += 1
            found, again, asked = _post(address, body, max(min(ATTEMPT, end - time.monotonic()), 0.1))
            if found is None:
                delivered.set()
                return
            said[0] = found
            wait = max(pause, asked)
            if not again or time.monotonic() + wait >= end:
                return
            time.sleep(wait)
            pause *= 2

    worker = threading.Thread(target=attempt, daemon=True)  # a thread, since no timeout bounds a name's resolution
    worker.start()
    worker.join(budget)
    if delivered.is_set():
        return None
    return f"{said[0]} after {attempts[0]} attempt{'s' if attempts[0] != 1 else ''} within {budget:.0f} s"
