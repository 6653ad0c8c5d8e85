"""What is undone of a killed run before anything new begins: its stages, DVC's locks, what is half written.

DVC leaves its stages alive when it is killed, and waits for the holders of its locks, be they dead; `litter` removes
what lies about. Called under the workspace's lock, so that no run of ours is alive but those that a kill left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path

from pipeline import litter
from pipeline.stage import RECORD, read_json

STATE = litter.STATE


def heal() -> None:
    """Undo what a killed run left: its stages, DVC's lock files, what is half written. Called under the lock."""
    record = STATE / "group"
    if record.exists():
        group, _, since = record.read_text(encoding="utf-8").partition(" ")
        for process in _group_members(int(group or 0)):
            if since and started(process) >= int(since):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        record.unlink()
    while left := orphans():  # also of a run that was killed before it could write its record
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    rwlock = Path(".dvc/tmp/rwlock")
    if rwlock.exists() and not _held(rwlock):
        rwlock.unlink()  # every later `dvc repro` would be refused
    _close_site_cache()
    litter.sweep()


def _close_site_cache() -> None:
    """Have DVC's site cache closed to others: DVC makes it open to every user and unpickles what lies in it.

    One that was open is emptied, since nobody knows who wrote there; it only spares DVC some hashing.
    """
    site = Path(".dvc/tmp/site")
    if site.is_dir() and site.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        shutil.rmtree(site)
    site.mkdir(mode=0o700, parents=True, exist_ok=True)


def _group_members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    members.append(int(entry.name))
    return members


def orphans() -> list[int]:
    """Return the living processes that a run of this workspace started: they hold the name of its record."""
    mark = f"{RECORD}={(STATE / 'failure.json').resolve()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def started(process: int) -> int:
    """Return a process's start in clock ticks since boot; -1 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1


def readable(path: Path) -> bool:
    """Return whether a file holds JSON."""
    try:
        read_json(path)
    except (OSError, ValueError):
        return False
    return True


def _held(rwlock: Path) -> bool:
    """Return whether a living dvc of this folder holds DVC's lock of paths: somebody's own, for ours have ended.

    A kill may leave it torn, or with the number of a process that now is another's or not yet buried: DVC would wait
    for that one.
    """
    holders = set(re.findall(r'"pid": (\d+)', rwlock.read_text(encoding="utf-8"))) if readable(rwlock) else set()
    living = False
    for process in (Path("/proc") / number for number in holders):
        with contextlib.suppress(OSError):
            ours = (process / "cwd").resolve() == Path.cwd().resolve()
            living |= ours and b"dvc" in (process / "cmdline").read_bytes()
    return living
