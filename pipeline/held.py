"""What DVC holds, hashed again: its cache and the outputs in the workspace, against the hashes that name them.

DVC itself trusts size and time of change: a flipped byte in its cache is checked out, and an output edited to the same
size and time is up to date. Outputs that a run does not own alone (`persist: true` folders) are held by manifests and
the ledger of ingest instead, and are left to those.

A run that ended well notes the state of each of these files, and the next one hashes those whose state has changed
since: it costs no time, and nothing altered is built upon. The time of a file's last change of state cannot be set by
hand. What a kill, a failed stage or another dvc.lock left is DVC's to make anew, so a stage that begins drops the note.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from features.errors import Problem
from pipeline import ledger
from pipeline.fingerprint import sha256
from pipeline.stage import NOTE, read_json

CACHE = Path(".dvc/cache/files/md5")
LOCK = Path("dvc.lock")
OWN = ("data/promote", "data/publish", "data/ingest")  # state that outlives a stage
AGAIN = "Remove it and run again: the stage that makes it runs anew."


def _md5(path: Path) -> str:
    """Return a file's MD5, which is DVC's name for it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def note() -> None:
    """Note dvc.lock and the state of every object of the cache and of every output that it states."""
    if not LOCK.exists():
        return
    paths = [path for path, _ in (*_objects(), *_outputs()) if path.is_file()]
    states = {str(path): _state(path) for path in paths}
    fresh = NOTE.with_suffix(".new")
    fresh.write_text(json.dumps({"lock": sha256(LOCK), "states": states}), encoding="utf-8")
    fresh.replace(NOTE)


def altered() -> list[Problem]:
    """Return the files whose bytes were altered since the last run ended well.

    None where there is no note, or where dvc.lock is another one: then DVC judges, as always.
    """
    try:
        known = read_json(NOTE)
        if known["lock"] != sha256(LOCK):
            return []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = [(path, digest) for path, digest in (*_objects(), *_outputs()) if path.is_file()]
    changed = [each for each in found if known["states"].get(str(each[0])) != _state(each[0])]
    return [_other(path) for path, digest in changed if _md5(path) != digest]


def _state(path: Path) -> list[int]:
    """Return what changes whenever a file does."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _other(path: Path) -> Problem:
    """Return what is said of a file whose bytes are not what its hash says."""
    where = "its name states" if path.is_relative_to(CACHE) else "dvc.lock states"
    return Problem(str(path), f"the bytes that {where}", "others", AGAIN)


def _objects() -> Iterator[tuple[Path, str]]:
    """Yield each object of DVC's cache with the MD5 that names it."""
    for path in sorted(CACHE.glob("??/*")):
        if path.is_file() and not path.name.endswith(".tmp"):
            yield path, path.parent.name + path.name.removesuffix(".dir")


def faults() -> tuple[int, list[Problem]]:
    """Return how many files were hashed, and those whose bytes are not what their hash says."""
    count, problems = 0, []
    for path, digest in _objects():
        count += 1
        if _md5(path) != digest:
            problems.append(_other(path))
    for path, digest in _outputs():
        count += 1
        if not path.is_file():
            problems.append(Problem(str(path), "there, as dvc.lock states", "no such file", "Run again."))
        elif _md5(path) != digest:
            problems.append(_other(path))
    known = Path("data/ingest/ledger.json")
    stated = read_json(known).get("outputs", {}) if known.is_file() else {}
    for name, digest in sorted(stated.items()):
        count += 1
        path = known.parent / name
        if not path.is_file() or ledger.sha256(path) != digest:
            found = "others" if path.is_file() else "no such file"
            problems.append(Problem(str(path), "the bytes that the ledger of ingest states", found, "Run again."))
    return count, problems


def _outputs() -> list[tuple[Path, str]]:
    """Return each file of the outputs that dvc.lock states, with its MD5; a folder's by its list in the cache."""
    text = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    stages = (yaml.load(text, Loader=yaml.CSafeLoader) or {}).get("stages", {})
    found = []
    for stage in stages.values():
        for out in stage.get("outs", []):
            path, digest = Path(out["path"]), str(out.get("md5", ""))
            if out["path"].startswith(OWN) or not path.exists():
                continue  # what is not there was not made here
            if not digest.endswith(".dir"):
                found.append((path, digest))
                continue
            listed = CACHE / digest[:2] / digest[2:]
            try:
                entries = json.loads(listed.read_text(encoding="utf-8"))
                found += [(path / each["relpath"], str(each["md5"])) for each in entries]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # pruned, or told above as a file whose bytes are not what its name states
    return found
