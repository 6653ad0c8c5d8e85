"""What waits to be logged: every run is kept in .run/untracked/ before MLflow is asked, and until MLflow has it.

An entry is a folder, whole or not there: `record.json`, and the files that the run logs. So neither a store that is
away nor a kill loses a figure: the next run finds the entry and brings it. Requests to a server share one budget of
seconds over all processes of a run, for many slow answers cost as much as one that never comes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.stage import read_json, write_json

FOLDER = Path(".run/untracked")
RECORD = "record.json"
WAITED = FOLDER / "waited.json"  # seconds that this run has lost by its tracking store
RUN = "BELLWETHER_RUN"  # set for all processes of one run
BUDGET = 20.0  # seconds of requests in a run
PATIENCE = 10.0  # lost seconds after which a run does not ask again: the last attempt may cost another BUDGET
LOCKED = 5000  # milliseconds for which one statement waits for a locked file; mlflow waits 20,000, and asks twice


def keep(kind: str, key: str, facts: Mapping[str, Any], files: Mapping[str, Path]) -> Path:
    """Keep a run until it is logged, in place of one of the same kind and key; return its folder.

    key: the content hash by which the store knows the run. files: name within the entry -> file or folder, copied;
    what does not exist is left out.
    """
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    waits = waiting()
    before = [path for path in waits if _of(path) == (kind, key)]
    token = secrets.token_hex(8) if not before else read_json(before[0] / RECORD)["token"]
    number = 1 + max((int(path.name.partition("-")[0]) for path in waits), default=0)
    scratch = FOLDER / f".tmp-{token}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    for name, path in files.items():
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".gitignore"))
        elif path.exists():
            shutil.copyfile(path, target)
    write_json(scratch / RECORD, {"kind": kind, "key": key, "token": token, "facts": dict(facts)})
    entry = FOLDER / f"{number:06d}-{token}"
    scratch.rename(entry)
    for path in before:
        drop(path)
    return entry


def _of(entry: Path) -> tuple[str, str]:
    """Return kind and key of an entry."""
    record = read_json(entry / RECORD)
    return record["kind"], record["key"]


def waiting() -> list[Path]:
    """Return the entries, oldest first; one that a person or a disk has torn is set aside as `.torn-...`, and said."""
    found = []
    for path in sorted(FOLDER.glob("[0-9]*-*")):
        try:
            _of(path)
        except (OSError, ValueError, KeyError):
            path.rename(path.with_name(f".torn-{path.name}"))
            print(f"tracking  {path} cannot be read; it is set aside as .torn-{path.name} and not logged", flush=True)
        else:
            found.append(path)
    return found


def drop(entry: Path) -> None:
    """Remove an entry that is logged: out of the list in one step, then its files."""
    gone = entry.with_name(f".tmp-{entry.name}")
    entry.rename(gone)
    shutil.rmtree(gone)


def begin() -> None:
    """Begin a run: its stages share a count of lost seconds, and what a kill left half-written goes."""
    os.environ[RUN] = secrets.token_hex(8)
    for litter in FOLDER.glob(".tmp-*"):
        shutil.rmtree(litter, ignore_errors=True)


def _present() -> str:
    """Return the run to which this process belongs: that of the wrapper, or the group of processes of `dvc repro`."""
    return os.environ.get(RUN) or f"group {os.getpgrp()}"


def lost() -> float:
    """Return the seconds that this run has lost."""
    with suppress(OSError, ValueError, KeyError):
        waited = read_json(WAITED)
        return float(waited["seconds"]) if waited["run"] == _present() else 0.0
    return 0.0


def lose(seconds: float) -> None:
    """Add to the seconds lost."""
    if seconds > 0:
        with suppress(OSError):
            write_json(WAITED, {"run": _present(), "seconds": lost() + seconds})


@contextmanager
def patient() -> Iterator[None]:
    """Within it requests to a server end, by the exception that a dead server gives, once the run's budget is spent.

    Only the time of requests counts, not what we ourselves draw, copy or import.
    """
    import requests
    from sqlalchemy import Engine, event

    plain, used = requests.Session.send, 0.0
    allowed = BUDGET - lost()

    def send(session: Any, request: Any, **options: Any) -> Any:
        nonlocal used
        if used >= allowed:
            raise requests.exceptions.ConnectTimeout(f"{BUDGET:.0f} s of this run are spent on its tracking server")
        given = options.get("timeout")
        # one repetition is allowed (MLFLOW_HTTP_REQUEST_MAX_RETRIES), so half of what is left for each
        half = (allowed - used) / 2
        options["timeout"] = min(given, half) if isinstance(given, int | float) else half
        began = time.monotonic()
        try:
            return plain(session, request, **options)
        finally:
            used += time.monotonic() - began

    def shorter(_: Any, __: Any, statement: str, values: Any, ___: Any, ____: Any) -> tuple[str, Any]:
        return (f"PRAGMA busy_timeout = {LOCKED}" if "busy_timeout" in statement else statement), values

    requests.Session.send = send  # type: ignore[method-assign]
    event.listen(Engine, "before_cursor_execute", shorter, retval=True)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", shorter)
        requests.Session.send = plain  # type: ignore[method-assign]
        lose(used)
