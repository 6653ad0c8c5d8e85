"""What DVC holds, hashed again: its cache and the outputs in the workspace, against the hashes that name them.

DVC itself trusts size and time of change: a flipped byte in its cache is checked out, and an output edited to the same
size and time is up to date. Outputs that a run does not own alone (`persist: true` folders) are held by manifests and
the ledger of ingest instead, and are left to those.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from features.errors import Problem
from pipeline import ledger
from pipeline.stage import read_json

CACHE = Path(".dvc/cache/files/md5")
OWN = ("data/promote", "data/publish", "data/ingest")  # state that outlives a stage
AGAIN = "Remove it and run again: the stage that makes it runs anew."


def _md5(path: Path) -> str:
    """Return a file's MD5, which is DVC's name for it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def faults() -> tuple[int, list[Problem]]:
    """Return how many files were hashed, and those whose bytes are not what their hash says."""
    count, problems = 0, []
    for path in sorted(CACHE.glob("??/*")):
        if not path.is_file() or path.name.endswith(".tmp"):
            continue
        count += 1
        if _md5(path) != path.parent.name + path.name.removesuffix(".dir"):
            problems.append(Problem(str(path), "the bytes that its name states", "others", AGAIN))
    for path, digest in _outputs():
        count += 1
        if not path.is_file():
            problems.append(Problem(str(path), "there, as dvc.lock states", "no such file", "Run again."))
        elif _md5(path) != digest:
            problems.append(Problem(str(path), "the bytes that dvc.lock states", "others", AGAIN))
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
    lock = Path("dvc.lock")
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {}) if lock.exists() else {}
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
