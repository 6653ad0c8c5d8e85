"""The inbox: what lies there, whether it is whole and quiet, its way into data/raw/<source>/, or aside with the reason.

A delivery is a file, or a folder (with a manifest, or without), directly below the inbox. Names that begin with a point
are not looked at. Refused ones go to <inbox>/refused/, each with <name>.json: exit code and problems, as a stage
records them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.errors import ConfigurationRefused, DataRefused, IntegrityRefused, Problem, Refusal
from features.mapping import Mapping
from pipeline import versions
from pipeline.fingerprint import sha256
from pipeline.manifests import Delivery
from pipeline.pieces import TEXTS
from pipeline.raw import RAW, RawFile, files_below, select_files
from pipeline.stage import write_json

REFUSED, ARRIVING = "refused", ".arriving"
PACKED = (".gz", ".zst", ".zstd")  # cut short, they cannot be read
TORN = (DataRefused, IntegrityRefused)  # what a delivery that is still arriving may be refused by


@dataclass(frozen=True)
class Arrival:
    """A delivery in the inbox: its path, and when anything of it last changed (seconds since 1970)."""

    path: Path
    changed: float

    @property
    def name(self) -> str:
        """Return the name that it has in the inbox and will have below data/raw/<source>/."""
        return self.path.name


def check(inbox: Path, source: str) -> None:
    """Refuse (exit code 4) an inbox that is no folder, or lies where ingest reads, and the lender that we simulate.

    The folder of that one is an output of `simulate`, which empties it: what was moved into it would be lost.
    """
    if source == "simulated":
        raise ConfigurationRefused(
            Problem("params.yaml: source", "a source with a folder of its own", "simulated: `simulate` writes it",
                    "Copy data/raw/simulated and its mapping under another name.")
        )  # fmt: skip
    if not inbox.is_dir():
        raise ConfigurationRefused(Problem(str(inbox), "a folder in which deliveries arrive", "none", "Make it."))
    home = (RAW / source).resolve()
    if inbox.resolve() == home or home in inbox.resolve().parents or inbox.resolve() in home.parents:
        must = f"a folder outside {RAW / source}, into which deliveries are moved"
        raise ConfigurationRefused(Problem(str(inbox), must, "the same or within", "Name another."))  # fmt: skip


def arrivals(inbox: Path) -> list[Arrival]:
    """Return what lies in the inbox, by name."""
    found = []
    for path in sorted(inbox.iterdir()):
        if path.name.startswith(".") or path.name == REFUSED:
            continue
        changes = []
        for part in (path, *path.rglob("*")):
            try:
                stat = part.stat()
            except FileNotFoundError:  # renamed since: it is still arriving
                changes.append(time.time())
                continue
            changes += [stat.st_mtime, stat.st_ctime]
        found.append(Arrival(path, max(changes)))
    return found


def files_of(path: Path) -> list[RawFile]:
    """Return a delivery's files as ingest will find them once it lies in data/raw/<source>/ under its name."""
    if path.is_file():
        return [RawFile(path.name, path.name, path, Delivery("."))]
    found = []
    for file in files_below(path):
        home = path.name if file.delivery.name == "." else f"{path.name}/{file.delivery.name}"
        stated = file.delivery.files is not None
        delivery = replace(file.delivery, name=home) if stated else Delivery(".")
        inner = file.inner if stated else f"{path.name}/{file.inner}"
        found.append(RawFile(f"{path.name}/{file.name}", inner, file.path, delivery))
    return sorted(found, key=lambda file: file.name)


def stated_as_of(path: Path) -> dt.date | None:
    """Return the `as_of` that a delivery's manifest states; null where it states none or there is no manifest.

    Refuses (exit code 2) what is no date. Whatever else is wrong with the manifest is told by those who read it.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return None
    try:
        value = json.loads(manifest.read_text(encoding="utf-8-sig")).get("as_of")
    except (ValueError, AttributeError):
        return None
    if value is None:
        return None
    try:
        return dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise DataRefused(
            Problem(f"{path.name}/manifest.json: as_of", "a date, written 2021-01-31", repr(value)[:40],
                    "Deliver it again.")
        ) from None  # fmt: skip


def delivered_on(files: list[RawFile]) -> dt.date | None:
    """Return the last day that a delivery's manifests say they cover; null without one."""
    return max((file.delivery.delivered_on for file in files if file.delivery.delivered_on), default=None)


def free_name(source: str, name: str) -> None:
    """Refuse (exit code 2) a delivery whose name another one already has below data/raw/<source>/."""
    if (RAW / source / name).exists():
        raise DataRefused(
            Problem(f"delivery {name}", "a name of its own", f"{RAW / source / name} is there already", "Name it anew.")
        )


def take(arrival: Arrival, source: str) -> Path:
    """Move a delivery into data/raw/<source>/ in one step, and return where it lies.

    From another file system it is copied into ARRIVING there first, where nothing looks, so that no run ever reads half
    of it.
    """
    home = (RAW / source).resolve() / arrival.name
    try:
        arrival.path.rename(home)
    except OSError as error:
        if error.errno != 18:  # EXDEV
            raise
        beside = home.parent / ARRIVING / arrival.name  # not beside the folder, which may be a file system of its own
        remove(beside)
        beside.parent.mkdir(exist_ok=True)
        shutil.copytree(arrival.path, beside) if arrival.path.is_dir() else shutil.copy2(arrival.path, beside)
        versions.sync_tree(beside) if beside.is_dir() else versions.sync(beside)
        beside.rename(home)
        remove(beside.parent)
        remove(arrival.path)
    versions.sync(home.parent)
    return home


def drop_copied(path: Path, home: Path) -> None:
    """Remove a delivery of which a kill left the copy in place and the original in an inbox on another file system.

    One that came since under the same name has other bytes, and stays.
    """
    if path.exists() and path.stat().st_dev != home.stat().st_dev and _bytes_of(path) == _bytes_of(home):
        remove(path)


def _bytes_of(path: Path) -> dict[str, str]:
    """Return a hash of each file of a delivery."""
    files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return {str(part.relative_to(path)): sha256(part) for part in sorted(files)}


def cut_short(files: list[RawFile], mapping: Mapping) -> list[Problem]:
    """Return the files of text that end within a line, of which no manifest says how many rows or which bytes.

    A copy that has stalled looks like this, and the last value of it may be half of one.
    """
    blocks = [block for table in mapping.tables.values() for block in table]
    readings = [(part.files, part.format) for block in blocks for part in (block, *block.joins)]
    text = [file for globs, form in readings if form.type in TEXTS for file in select_files(files, globs)]
    problems = []
    for file in sorted({file.name: file for file in text}.values(), key=lambda file: file.name):
        if {"rows", "sha256"} & file.stated.keys() or file.path.suffix.lower() in PACKED:
            continue
        with file.path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(size - 4, 0))
            tail = handle.read()
        if tail.strip(b"\0") and tail.rstrip(b"\0")[-1:] not in (b"\n", b"\r"):
            problems.append(
                Problem(file.name, "whole: a last line that ends, or a manifest that states its rows or SHA-256",
                        "a last line without an end", "Deliver it whole, with the end of its last line or a manifest.",
                        file=file.name, rule="whole")
            )  # fmt: skip
    return problems


def refuse(
    path: Path, inbox: Path, refusal: Refusal, quarantine: Path | None = None
) -> tuple[Path, tuple[Problem, ...]]:
    """Put a delivery aside with the record of its refusal; return where it lies, and what is wrong with it.

    quarantine: where ingest left the rows that it kept out, and what is wrong says so; they go aside too.
    """
    aside = inbox / REFUSED
    aside.mkdir(exist_ok=True)
    target = aside / path.name
    number = 1
    while target.exists() or (aside / f"{target.name}.json").exists():
        number += 1
        target = aside / f"{path.name}.{number}"
    problems = tuple(refusal.problems)
    if quarantine is not None and quarantine.is_dir():
        kept_out = aside / f"{target.name}.quarantine"
        remove(kept_out)
        shutil.move(quarantine, kept_out)
        problems = tuple(
            replace(each, remedy=each.remedy.replace(quarantine.as_posix(), kept_out.as_posix())) for each in problems
        )
    facts = {"delivery": path.name, "exit_code": refusal.exit_code, "problems": [each.record() for each in problems]}
    write_json(aside / f"{target.name}.json", facts)
    shutil.move(path, target)
    return target, problems


def remove(path: Path) -> None:
    """Remove a file or a folder where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Journal:
    """Names that stand on the disk until what they stand for is done: what a kill leaves is taken up by them.

    Deliveries that were moved and are not yet published; who is to be told of what is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Return them in the order in which they were noted."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [str(name) for name in found]

    def add(self, name: str) -> None:
        """Note a name, on the disk before this returns."""
        self._keep([*(one for one in self.names() if one != name), name])

    def remove(self, name: str) -> None:
        """Forget a name."""
        self._keep([one for one in self.names() if one != name])

    def _keep(self, names: list[str]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as handle:
            json.dump(names, handle)
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(self.path)


def quiet(found: list[Arrival], seconds: float) -> Iterator[Arrival]:
    """Yield the deliveries of which nothing changed for so long."""
    now = time.time()
    yield from (arrival for arrival in found if now - arrival.changed >= seconds)


def waited(arrival: Arrival) -> float:
    """Return for how many seconds nothing of a delivery has changed."""
    return time.time() - arrival.changed


def facts(files: list[RawFile], as_of: dt.date, digests: dict[str, str]) -> dict[str, Any]:
    """Return what a version states of a delivery: its date, and its files with their SHA-256."""
    return {"as_of": as_of.isoformat(), "files": {file.name: digests[file.name] for file in files}}
