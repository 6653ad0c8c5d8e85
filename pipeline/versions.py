"""Published versions: folders that never change once they are complete, and one link, `current`, swapped in one step.

data/publish/versions/<run_id>/   one publication, with manifest.json (SHA-256 of every file)
data/publish/history.jsonl        which version became current, in order: {source, as_of, run_id}
data/publish/current              a relative link to one version
data/publish/receipt.json         DVC's output: what the last publication made current
data/publish/watch.json           the same of `watch`, which publishes between runs

A pruned version has a note, pruned.json, in place of its table; its manifest and what a rebuild needs stay.

A reader follows the link and sees one whole version. Order of writing: files, sync, folder in place, history, link.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from features.errors import IntegrityRefused, Problem
from pipeline.fingerprint import sha256
from pipeline.stage import read_json, write_json

PUBLISH = Path("data/publish")
VERSIONS = PUBLISH / "versions"
HISTORY = PUBLISH / "history.jsonl"
CURRENT = PUBLISH / "current"
RECEIPT = PUBLISH / "receipt.json"
WATCHED = PUBLISH / "watch.json"
PRUNED = "pruned.json"


def folders() -> list[Path]:
    """Return the folders of all versions, whole or pruned, in order of name."""
    return sorted(path for path in VERSIONS.glob("*") if path.is_dir() and not path.name.startswith("."))


def files_of(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` but its manifest, in order."""
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / "manifest.json")


def write_manifest(folder: Path, **facts: Any) -> None:
    """Write manifest.json: the facts given and the SHA-256 of every other file below the folder."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in files_of(folder)}
    write_json(folder / "manifest.json", facts | {"files": files})


def faults(folder: Path, *, pruned: bool = False, within: str = "") -> list[Problem]:
    """Return what differs between a folder and its manifest: files missing, added or changed.

    pruned: the folder may be a pruned version, whose note says which files are gone; otherwise such a one is not sound.
    within: of the files whose names begin so.
    """
    manifest = folder / "manifest.json"
    restore = "Restore it from a copy, or remove the folder and run again."
    try:
        stated: dict[str, str] = read_json(manifest)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return [Problem(str(manifest), "a readable manifest", "none", restore)]
    found = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    stated, found = ({name: each[name] for name in each if name.startswith(within)} for each in (stated, found))
    if pruned and PRUNED in found:
        gone = set(read_json(found.pop(PRUNED))["pruned"])
        stated = {name: digest for name, digest in stated.items() if name in found or name not in gone}
    problems = [
        Problem(f"{folder}/{name}", "there", "no such file", restore) for name in sorted(stated.keys() - found.keys())
    ]
    problems += [
        Problem(f"{folder}/{name}", "named in its manifest", "an added file", restore)
        for name in sorted(found.keys() - stated.keys())
    ]
    problems += [
        Problem(f"{folder}/{name}", "the bytes of its manifest", "another SHA-256", restore)
        for name in sorted(stated.keys() & found.keys())
        if sha256(found[name]) != stated[name]
    ]
    return problems


def sync(path: Path) -> None:
    """Have the disk hold a file or folder before anything points to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, and `folder` itself."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def place(scratch: Path, run_id: str) -> Path:
    """Move a complete scratch folder to its version; an existing sound version stays as it is, byte for byte."""
    version = VERSIONS / run_id
    if version.exists():
        if not faults(version):
            shutil.rmtree(scratch)
            return version
        shutil.rmtree(version)
    try:
        sync_tree(scratch)
        scratch.rename(version)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)  # what the disk did not take is no version
        raise
    sync(VERSIONS)
    return version


def history() -> list[dict[str, str]]:
    """Return what became current, oldest first; a line torn by a kill is left out."""
    if not HISTORY.exists():
        return []
    entries = []
    for line in HISTORY.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _stands(run_id: str) -> bool:
    """Return whether a version is there with its table."""
    return (VERSIONS / run_id).exists() and not (VERSIONS / run_id / PRUNED).exists()


def newest(source: str, before: str | None = None) -> dict[str, str] | None:
    """Return the source's last published entry, or that with the newest as_of earlier than `before`."""
    entries = [entry for entry in history() if entry["source"] == source and _stands(entry["run_id"])]
    if before is not None:
        entries = sorted((entry for entry in entries if entry["as_of"] < before), key=lambda entry: entry["as_of"])
    return entries[-1] if entries else None


def make_current(source: str, as_of: str, run_id: str) -> None:
    """Append to the history and swap the link in one step; nothing is written where both stand already."""
    entry = {"source": source, "as_of": as_of, "run_id": run_id}
    if (history() or [None])[-1] != entry:
        torn = HISTORY.exists() and not HISTORY.read_bytes().endswith(b"\n") and HISTORY.stat().st_size > 0
        with HISTORY.open("a", encoding="utf-8") as handle:
            handle.write(("\n" if torn else "") + json.dumps(entry, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    point(run_id)


def point(run_id: str) -> None:
    """Let `current` be the version, atomically."""
    target = Path("versions") / run_id
    if CURRENT.is_symlink() and CURRENT.readlink() == target:
        return
    fresh = PUBLISH / f".current-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(CURRENT)
    sync(PUBLISH)


def repair_current() -> None:
    """Set the link to what the receipt states, where it was lost; refuse (exit code 7) where the version is damaged.

    Of the receipts of `publish` and `watch` that counts which became current later.
    """
    run_id = received()
    if run_id is None:
        return
    version = VERSIONS / run_id
    problems = faults(version)
    if problems:
        raise IntegrityRefused(problems)
    point(run_id)


def received() -> str | None:
    """Return the version that a receipt made current last, or None."""
    stated = [read_json(path).get("run_id") for path in (RECEIPT, WATCHED) if path.exists()]
    order = {entry["run_id"]: place for place, entry in enumerate(history())}
    return max(filter(None, stated), key=lambda run_id: order.get(run_id, -1), default=None)


def current_manifest() -> dict[str, Any] | None:
    """Return the manifest of what is published, or None."""
    manifest = CURRENT / "manifest.json"
    return read_json(manifest) if manifest.exists() else None


def describe_current() -> str:
    """Return one sentence on what is published."""
    manifest = current_manifest()
    if manifest is None:
        return "nothing is published yet"
    return (
        f"current is {manifest['run_id']}: source {manifest['source']}, as_of {manifest['as_of']}, "
        f"{manifest['rows']:,} customers, model {manifest['model_version']}, data {manifest['data_version']}"
    )


def print_status(max_age: timedelta | None = None, *, now: datetime | None = None) -> int:
    """Print what is published and how old; exit code 0, or 3 where nothing is or its as_of is older than `max_age`.

    The age is that of what the table knows: from midnight (UTC) of its as_of to now.
    """
    manifest = current_manifest()
    print(describe_current())
    if manifest is None:
        return 3
    now = now or datetime.now(UTC)
    age = now - datetime.combine(date.fromisoformat(manifest["as_of"]), time(), UTC)
    written = datetime.fromtimestamp((CURRENT / "manifest.json").stat().st_mtime, UTC)
    print(f"as_of was {_words(age)} ago; written {_words(now - written)} ago, {written:%Y-%m-%d %H:%M} UTC")
    if max_age is not None and age > max_age:
        print(f"too old: --max-age is {_words(max_age)}", file=sys.stderr)
        return 3
    return 0


def _words(span: timedelta) -> str:
    """Return a span in days, or in hours below two days."""
    hours = span.total_seconds() / 3600
    return f"{hours:.0f} hours" if abs(hours) < 48 else f"{hours / 24:.0f} days"


def verify(more: Iterable[Problem] = (), count: int = 0) -> int:
    """Re-hash every published version and every champion; refuse (exit code 7) naming each file that differs.

    more: what was found wrong in `count` files elsewhere, told with it.
    """
    champions = sorted(path.parent for path in Path("data/promote").rglob("manifest.json"))
    problems = [problem for folder in folders() for problem in faults(folder, pruned=True)]
    problems += [problem for folder in champions for problem in faults(folder)]
    problems += more
    if problems:
        raise IntegrityRefused(problems)
    for folder in folders():
        if read_json(folder / "manifest.json").get("erased"):
            print(f"verify: {folder}: a customer was erased from it; `rebuild` cannot bring it back byte for byte")
    held = f" and {count:,} files of DVC and ingest" if count else ""
    print(f"verify: {len(folders()) + len(champions)} folders{held}, every file as stated; {describe_current()}")
    return 0
