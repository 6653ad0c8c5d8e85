"""The ledger of data/ingest: what was read, by which mapping and code, and the hash of every file that came of it.

What the ledger explains is trusted and added to; anything else (a changed or missing old file, another mapping, other
code, an altered output) is rebuilt. Both sides are hashed in full at every run, raw files and outputs: a file of the
same size and time with other bytes has been seen, and hashing costs a small part of reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import features
from features.mapping import Mapping
from pipeline.fingerprint import sha256
from pipeline.raw import RawFile

ROOM = ("tables.py", "mapping.py", "layout.py", "expressions.py", "staging.py", "reconcile.py")
STAGE = (
    "raw.py",
    "reading.py",
    "sheets.py",
    "carried.py",
    "earlier.py",
    "build.py",
    "fingerprint.py",
    "ledger.py",
    "ingest.py",
)
FOLDERS, FILES = ("tables", "quarantine", "index"), ("tables.json", "quality.json")


def digests(paths: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Return name -> SHA-256 of files, two at a time."""
    listed = list(paths)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([name for name, _ in listed], pool.map(sha256, [path for _, path in listed]), strict=True))


def code() -> str:
    """Return a hash of the code and the engine that decide the bytes."""
    import duckdb
    import pyarrow as pa

    sources = [Path(features.__file__).parent / module for module in ROOM]
    sources += [Path(__file__).parent / module for module in STAGE]
    texts = b"\0".join(path.read_bytes() for path in sources)
    return hashlib.sha256(texts + f"{duckdb.__version__} {pa.__version__}".encode()).hexdigest()


def present(source: str, text: bytes, mapping: Mapping, files: list[RawFile], hashed: dict[str, str]) -> dict[str, Any]:
    """Return what stands there now: source, mapping, code, files with hashes and deliveries, deliveries with dates."""
    return {
        "source": source,
        "mapping": hashlib.sha256(text + mapping.model_dump_json().encode()).hexdigest(),
        "code": code(),
        "files": hashed,
        "homes": {file.name: file.delivery.name for file in files},
        "deliveries": {file.delivery.name: [str(file.delivery.delivered_on), file.delivery.complete] for file in files},
    }


def explains(old: dict[str, Any], now: dict[str, Any], outputs: dict[str, str]) -> bool:
    """Tell whether an old ledger answers for the outputs, and all that it read still stands as it was.

    New files may have come; a delivery may have been completed. Dates among undated files, or the reverse, change how
    all rows are dated, so that is no addition.
    """
    if not old or old.get("outputs") != outputs:
        return False
    if any(old.get(part) != now[part] for part in ("source", "mapping", "code")):
        return False
    if any(now[part].get(name) != value for part in ("files", "homes") for name, value in old[part].items()):
        return False
    if any(now["deliveries"][name][0] != date for name, (date, _) in old["deliveries"].items()):
        return False
    return _dated(old) == _dated(now)


def _dated(ledger: dict[str, Any]) -> bool:
    """Tell whether any delivery is dated."""
    return any(date != "None" for date, _ in ledger["deliveries"].values())


class Outputs:
    """The files that the ledger answers for; within one run a file that nobody wrote to is hashed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, int, int, int], str] = {}

    def digests(self) -> dict[str, str]:
        """Return path -> SHA-256 of everything in the folder that the ledger answers for."""
        paths = [path for part in FOLDERS for path in sorted((self.folder / part).rglob("*")) if path.is_file()]
        paths += [self.folder / part for part in FILES if (self.folder / part).exists()]
        stamps = {}
        for path in paths:
            stat = path.stat()
            stamps[str(path.relative_to(self.folder))] = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        unknown = [(name, self.folder / name) for name, stamp in stamps.items() if stamp not in self.known]
        found = digests(unknown)
        self.known.update({stamps[name]: value for name, value in found.items()})
        return {name: self.known[stamp] for name, stamp in stamps.items()}
