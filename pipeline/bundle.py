"""The bundle: everything that scores, as text and Parquet files in one folder, each with its SHA-256 in manifest.json.

Its model_version is the hash of its files, so that the same model has the same name everywhere. Files are hashed before
any of them is parsed: a corrupt LightGBM text kills the process that reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from pipeline import versions
from pipeline.stage import read_json, write_json

BUNDLES = Path("data/promote/bundles")  # <source>/<model_version>/: each candidate that was ever judged
CHAMPION = Path("data/promote/champion")  # <source>/: the whole bundle of the one that scores
CHANGES = Path("data/promote/changes")  # <source>.jsonl: what was judged and who became champion, oldest first
SCORER = Path("data/promote/scorer")
INTENDED = Path("data/promote/intended.json")  # a verdict, from its judgement until all that follows of it is done


def model_version(files: dict[str, bytes]) -> str:
    """Return the content hash of a bundle's files."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def write(folder: Path, files: dict[str, bytes], **facts: Any) -> None:
    """Write a bundle so that the folder is whole or absent: a scratch folder takes its place in one rename."""
    scratch = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name, content in sorted(files.items()):
        (scratch / name).write_bytes(content)
    versions.write_manifest(scratch, **facts)
    versions.sync_tree(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def read(folder: Path) -> dict[str, bytes]:
    """Return file name -> bytes after every file was held against the manifest; refuse (exit code 7) what differs."""
    problems = versions.faults(folder)
    if problems:
        raise IntegrityRefused(problems)
    return {path.name: path.read_bytes() for path in versions.files_of(folder)}


def manifest(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest."""
    return dict(read_json(folder / "manifest.json"))


def keep(source: str, files: dict[str, bytes], **facts: Any) -> str:
    """Store a candidate among the source's bundles and return its model_version."""
    version = model_version(files)
    folder = BUNDLES / source / version
    if not folder.exists() or versions.faults(folder):
        write(folder, files, model_version=version, source=source, experiment=False, **facts)
    return version


def champion_version(source: str) -> str | None:
    """Return the champion's model_version, or None where the source has none."""
    pointer = CHAMPION / f"{source}.json"
    return str(read_json(pointer)["model_version"]) if pointer.exists() else None


def make_champion(source: str, version: str, *, author: str, reason: str) -> None:
    """Point to a stored bundle as champion, in one step, and lay the whole bundle under data/promote/champion/."""
    folder = BUNDLES / source / version
    if not folder.exists():
        known = ", ".join(sorted(path.name for path in (BUNDLES / source).glob("*"))) or "none"
        raise ConfigurationRefused(
            Problem(f"champion of {source}", f"one of the stored versions ({known})", version, "Name one of them.")
        )
    files = read(folder)
    CHAMPION.mkdir(parents=True, exist_ok=True)
    pointer = CHAMPION / f"{source}.json"
    fresh = pointer.with_suffix(".json.new")
    write_json(fresh, {"model_version": version, "author": author, "reason": reason})
    fresh.replace(pointer)
    facts = {key: value for key, value in manifest(folder).items() if key != "files"}
    write(CHAMPION / source, files, **facts)


def intend(source: str, verdict: dict[str, Any], *, passed: bool) -> None:
    """Write down what a verdict leads to before any of it is done."""
    fresh = INTENDED.with_suffix(".json.new")
    write_json(fresh, {"source": source, "verdict": verdict, "passed": passed})
    versions.sync(fresh)
    fresh.replace(INTENDED)


def intended(source: str, candidate: str) -> tuple[dict[str, Any], bool] | None:
    """Return the verdict on a candidate that a kill kept from being carried out, and whether it was passed, or None."""
    known = read_json(INTENDED) if INTENDED.exists() else {}
    if known.get("source") != source or known["verdict"]["candidate"] != candidate:
        return None
    return dict(known["verdict"]), bool(known["passed"])


def note_change(source: str, **facts: Any) -> None:
    """Append what was decided on a model to the source's log of changes, unless its last line says so already."""
    log = CHANGES / f"{source}.jsonl"
    if changes(source)[-1:] == [facts]:
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    torn = log.exists() and log.stat().st_size > 0 and not log.read_bytes().endswith(b"\n")
    with log.open("a", encoding="utf-8") as handle:
        handle.write(("\n" if torn else "") + json.dumps(facts, sort_keys=True, ensure_ascii=False) + "\n")


def changes(source: str) -> list[dict[str, Any]]:
    """Return the source's log of changes, oldest first; a line torn by a kill is left out."""
    log = CHANGES / f"{source}.jsonl"
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def restore_champion(source: str) -> None:
    """Lay the champion's bundle again where a kill came between pointer and folder."""
    version = champion_version(source)
    if version is None:
        return
    folder = CHAMPION / source
    if not folder.exists() or manifest(folder).get("model_version") != version:
        pointer = read_json(CHAMPION / f"{source}.json")
        make_champion(source, version, author=pointer["author"], reason=pointer["reason"])
