"""The ledger of data/ingest: what was read, by which mapping and code, and the hash of every file that came of it.

What the ledger explains is trusted and added to; anything else (a changed or missing old file, another mapping, other
code, an altered output) is rebuilt. Both sides are known by their hashes, raw files and outputs. A file is hashed again
unless it is, by device, inode, size and both times of change, the one that was hashed before: the time of its last
change of state cannot be set by hand, so the same size and time with other bytes, which has been seen, is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import features
from features.mapping import Mapping
from pipeline.fingerprint import sha256
from pipeline.raw import RawFile
from pipeline.stage import write_json

ROOM = ("tables.py", "mapping.py", "layout.py", "expressions.py", "casting.py", "staging.py", "reconcile.py")
STAGE = (
    "manifests.py",
    "packed.py",
    "confined.py",
    "raw.py",
    "lines.py",
    "pieces.py",
    "reading.py",
    "sheets.py",
    "carried.py",
    "earlier.py",
    "tombstones.py",
    "holding.py",
    "quarantine.py",
    "limits.py",
    "build.py",
    "fingerprint.py",
    "ledger.py",
    "ingest.py",
)
SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use
FOLDERS, FILES = ("tables", "quarantine", "index"), ("tables.json", "quality.json")


class Hashes:
    """The hashes of files, and the state that each file was in when it was hashed.

    `path` keeps them from run to run; it is no output, and without it everything is hashed. Two changes within one tick
    of a file system's clock look like one, so a file that had just changed when it was hashed is hashed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        try:
            self.known: dict[str, list[Any]] = json.loads(text) if text else {}
        except ValueError:  # the machine stopped while it was written
            self.known = {}
        self.now: dict[str, list[Any]] = {}

    def _clock(self) -> int:
        """Return the file system's own time, in nanoseconds."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tick = self.path.with_suffix(".tick")
        tick.write_bytes(b"")
        changed = tick.stat().st_mtime_ns
        tick.unlink()
        return changed

    def digests(self, paths: Iterable[tuple[str, Path]]) -> dict[str, str]:
        """Return name -> SHA-256 of files, two at a time."""
        listed = [(name, path, _state(path)) for name, path in paths]
        settled = self._clock() - SETTLED_NS
        found = {}
        changed = []
        for name, path, state in listed:
            known = self.now.get(str(path.absolute())) or self.known.get(str(path.absolute()))
            if known and known[0] == state:
                found[name] = known[1]
            else:
                changed.append((name, path))
        with ThreadPoolExecutor(2) as pool:
            found.update(
                zip([name for name, _ in changed], pool.map(sha256, [path for _, path in changed]), strict=True)
            )
        for name, path, state in listed:
            if max(state[-2:]) < settled:
                self.now[str(path.absolute())] = [state, found[name]]
        return {name: found[name] for name, _, _ in listed}

    def keep(self) -> None:
        """Write down what the files of this run hashed to."""
        temporary = self.path.with_suffix(".tmp")
        write_json(temporary, self.now)
        temporary.replace(self.path)


def _state(path: Path) -> list[int]:
    """Return what changes whenever a file does."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def code() -> str:
    """Return a hash of the code and the engine that decide the bytes."""
    import duckdb
    import pyarrow as pa

    sources = [Path(features.__file__).parent / module for module in ROOM]
    sources += [Path(__file__).parent / module for module in STAGE]
    texts = b"\0".join(path.read_bytes() for path in sources)
    return hashlib.sha256(texts + f"{duckdb.__version__} {pa.__version__}".encode()).hexdigest()


def present(source: str, text: bytes, mapping: Mapping, files: list[RawFile], hashed: dict[str, str]) -> dict[str, Any]:
    """Return what stands there now: source, mapping, code, files with hashes and deliveries, deliveries with dates.

    `rowless`: the files of which their manifest says that they have no row, without which a header alone is refused.
    """
    return {
        "source": source,
        "mapping": hashlib.sha256(text + mapping.model_dump_json().encode()).hexdigest(),
        "code": code(),
        "files": hashed,
        "homes": {file.name: file.delivery.name for file in files},
        "deliveries": {file.delivery.name: [str(file.delivery.delivered_on), file.delivery.complete] for file in files},
        "rowless": [file.name for file in files if file.stated.get("rows") == 0],
    }


def explains(old: dict[str, Any], now: dict[str, Any], outputs: dict[str, str]) -> bool:
    """Tell whether an old ledger answers for the outputs, and all that it read still stands as it was.

    New files may have come; a delivery may have been completed. Dates among undated files, or the reverse, change how
    all rows are dated, so that is no addition.
    """
    if not old or old.get("outputs") != outputs:
        return False
    if any(old.get(part) != now.get(part) for part in ("source", "mapping", "code", "tombstones")):
        return False
    if any(now[part].get(name) != value for part in ("files", "homes") for name, value in old[part].items()):
        return False
    if any(now["deliveries"][name][0] != date for name, (date, _) in old["deliveries"].items()):
        return False
    return _dated(old) == _dated(now)


def kept(path: Path) -> dict[str, Any]:
    """Return the ledger of an earlier run; {} where there is none that can be read: all is built from scratch then."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(path: Path, value: dict[str, Any]) -> None:
    """Write the ledger in one step: a kill or a full disk leaves the old one, or none."""
    fresh = path.with_suffix(".new")
    try:
        write_json(fresh, value)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _dated(ledger: dict[str, Any]) -> bool:
    """Tell whether any delivery is dated."""
    return any(date != "None" for date, _ in ledger["deliveries"].values())


def outputs(folder: Path) -> list[tuple[str, Path]]:
    """Return path in the folder, and path, of everything there that the ledger answers for."""
    paths = [path for part in FOLDERS for path in sorted((folder / part).rglob("*")) if path.is_file()]
    paths += [folder / part for part in FILES if (folder / part).exists()]
    return [(str(path.relative_to(folder)), path) for path in paths]
