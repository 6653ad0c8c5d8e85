"""`python -m pipeline pull <system>`: accounts, contacts and standing from a CRM as a delivery for ingest.

Records modified since the last pull, with an overlap, are read page by page; each page is kept with the place of the
next, so that a killed or refused pull goes on where it was. The delivery appears whole or not at all.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from features.errors import ConfigurationRefused, IntegrityRefused, Problem, ServiceRefused
from pipeline import answers
from pipeline.fingerprint import sha256
from pipeline.params import source_name
from pipeline.raw import RAW
from pipeline.sinks import delivery
from pipeline.sinks.gathered import LISTING, Gathered
from pipeline.sinks.interface import Connector, CursorGone
from pipeline.sinks.mapping import FOLDER, Mapping, Pull, Read, load
from pipeline.sinks.sync import CONNECTORS, STATE, alone
from pipeline.stage import fresh, read_json, say, write_json

MADE_ANEW = "simulated"  # a folder that a stage empties before it runs
MOST_STARTS = 3  # of one object's reading


def pull(system: str, *, path: Path | None = None, source: str | None = None, full: bool = False) -> int:
    """Pull; return 0, or 4 where records of one key were left out (named in the table of those left out)."""
    mapping = load(path or FOLDER / f"{system}.yaml")
    wanted = mapping.pull
    if wanted is None:
        raise ConfigurationRefused(
            Problem(f"{FOLDER}/{system}.yaml: pull", "which fields are read", "no such section", "Write it as shipped.")
        )
    into = _folder(source or source_name())
    with alone(f"pull {system}", system):
        connector = CONNECTORS[system](mapping, STATE)
        account = hashlib.sha256(connector.account().encode()).hexdigest()[:16]
        with Gathered(STATE / f"{system}.sqlite", account, str(into)) as state:
            connector.quota.spent, connector.quota.note = state.spent, state.spend
            _preflight(mapping, wanted, connector)
            settings = hashlib.sha256(f"{into} {mapping.key} {wanted}".encode()).hexdigest()
            began, since = state.begin(settings, int(time.time() * 1000), full=full, there=_whole(into) if full else ())
            objects = _objects(mapping, wanted)
            for of, (names, modified) in objects.items():
                _read(connector, state, of, names, modified, since.get(of))
            for of, (names, modified) in objects.items():
                if wanted.find_deleted and of in since:
                    _read(connector, state, of + LISTING, names[:1], modified, None)
            complete = wanted.find_deleted or not since
            return _deliver(system, mapping, wanted, connector, state, into, began, since, complete=complete)


def _folder(source: str) -> Path:
    """Return the folder of a source's raw files, or refuse (exit code 4) one that does not keep what it is given."""
    if source == MADE_ANEW:
        raise ConfigurationRefused(
            Problem("source", "one whose raw files are kept", f"{source}, whose folder the stage simulate empties",
                    "Choose your own in params.yaml, or name it with --source.")
        )  # fmt: skip
    return RAW / source


def _whole(into: Path) -> list[str]:
    """Return the deliveries in a source's folder of which every file is still there."""
    return [
        stated.parent.name
        for stated in sorted(into.glob("crm-*/manifest.json"))
        if all((stated.parent / file).is_file() for file in read_json(stated).get("files", {}))
    ]


def _objects(mapping: Mapping, wanted: Pull) -> dict[str, tuple[list[str], str]]:
    """Return object -> (fields to read, the key or lookup first; the field that says when)."""
    reads = [*wanted.accounts.values(), *wanted.standings.values()]
    objects = {mapping.object: ([mapping.key.field, *(read.field for read in reads)], wanted.modified)}
    if wanted.contacts is not None:
        parts = [getattr(wanted.contacts, part) for part in ("account", "state", "outcome", "on", "until", "channel")]
        names = [read.field for read in parts if read is not None]
        objects[wanted.contacts.object] = (names, wanted.contacts.modified)
    return {of: (list(dict.fromkeys(names)), modified) for of, (names, modified) in objects.items()}


def _preflight(mapping: Mapping, wanted: Pull, connector: Connector) -> None:
    """Refuse (exit code 4) fields that are not there, or cannot hold a number, before anything is read."""
    accounts = {f"accounts.{column}": read for column, read in wanted.accounts.items()}
    accounts |= {f"standings.{column}": read for column, read in wanted.standings.items()}
    asked: dict[str, dict[str, Read]] = {
        mapping.object: accounts | {"modified": Read(field=wanted.modified), "key": Read(field=mapping.key.field)}
    }
    if wanted.contacts is not None:
        parts = ("account", "state", "outcome", "on", "until", "channel")
        reads = {f"contacts.{part}": getattr(wanted.contacts, part) for part in parts}
        asked[wanted.contacts.object] = {where: read for where, read in reads.items() if read is not None}
        asked[wanted.contacts.object]["contacts.modified"] = Read(field=wanted.contacts.modified)
    problems = []
    for of, reads in asked.items():
        there = connector.fields(of)
        for where, read in reads.items():
            field = there.get(read.field) or there.get(read.field.removesuffix("__r"))
            if field is None:
                remedy = "Add the field in the CRM, or correct or remove the line."
                problems.append(Problem(f"pull.{where}", f"a field of {of}", f"no field {read.field}", remedy))
            elif read.kind == "number" and field.type not in (*connector.types["number"], *connector.types["integer"]):
                found = f"{read.field} of type {field.type}"
                problems.append(Problem(f"pull.{where}", "a field of numbers", found, "Map another, or as text."))
    if problems:
        raise ConfigurationRefused(problems)


def _read(
    connector: Connector, state: Gathered, name: str, names: list[str], modified: str, since: int | None
) -> None:  # fmt: skip
    """Read an object's pages from where it was left, or the list of all its identifiers."""
    starts, pages = 0, 0
    after, done = state.place(name)
    while not done:
        try:
            page = connector.page(name.removesuffix(LISTING), names, modified, since, after)
        except CursorGone:
            starts += 1
            if starts == MOST_STARTS:
                raise ServiceRefused(
                    Problem(f"pull: {name}", "read to its end", "a list that begins anew again and again",
                            "Run it again later: what was read is kept.")
                ) from None  # fmt: skip
            state.anew(name)
            after = None
            continue
        state.keep(name, page.records, page.after)
        pages, after, done = pages + 1, page.after, page.after is None
    say("pull", f"{name} read", pages=pages)


def _deliver(
    system: str, mapping: Mapping, wanted: Pull, connector: Connector, state: Gathered, into: Path, began: int,
    since: dict[str, int], *, complete: bool,
) -> int:  # fmt: skip
    """Write the delivery, note it, and say what became of every record."""
    moment = dt.datetime.fromtimestamp(began / 1000, dt.UTC)
    tables = {"raw": state.records(), "pulled": state.pulled(), "counted": state.counted(), "listed": state.listed()}
    made = delivery.composed(mapping, wanted, connector, tables, moment.date(), complete=complete)
    name = f"crm-{system}-{moment:%Y%m%dT%H%M%S}Z"
    if made.files:
        _place(made.files, into, name, moment.date())
    margin = wanted.overlap_minutes * 60_000
    read = {of: min(made.newest.get(of, began), began) - margin for of in made.counts}
    since = since | {of: ms for of, ms in read.items() if of in made.newest or of not in since}
    state.end(made.delivered, made.gone, made.waiting, since, name)
    left = STATE / f"{system}-left-out.csv"
    answers.write(made.left_out, left)
    left.chmod(0o600)
    for of, counts in made.counts.items():
        say("pull", f"{system}, {of}", **counts)
    files = {file: rows.num_rows for file, rows in made.files.items()}
    say("pull", f"{into / name}" if files else "nothing new, no delivery", **files)
    return _told(made, left)


def _told(made: delivery.Delivery, left: Path) -> int:
    """Say what was left out and what to do; return 4 where a customer stands in several records."""
    codes = made.left_out["code"].to_pylist()
    for fate, what in delivery.LEFT_OUT.items():
        count = codes.count(fate.upper())
        if count:
            print(f"pull: {count:,} records left out ({fate.replace('_', ' ')}), named in {left}. {what}")
    return 4 if "TWO_RECORDS" in codes else 0


def _place(files: dict[str, pa.Table], into: Path, name: str, day: dt.date) -> None:
    """Write the files and their manifest beside the source's folder, then bring them into it in one step."""
    into.mkdir(parents=True, exist_ok=True)
    home = into.resolve()
    scratch = fresh(home.parent / f".{home.name}-{name}")
    try:
        stated, newest = {}, day
        for file, rows in files.items():
            pa_csv.write_csv(rows.combine_chunks(), scratch / file)
            stated[file] = {"sha256": sha256(scratch / file), "rows": rows.num_rows}
            if "known_on" in rows.column_names:
                newest = max(newest, *(dt.date.fromisoformat(each) for each in set(rows["known_on"].to_pylist())))
        write_json(scratch / "manifest.json", delivery.manifest(stated, newest))
        for file in scratch.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        target = home / name
        if target.exists():  # a pull that was killed after this step: the same records, so the same bytes
            if read_json(target / "manifest.json") != read_json(scratch / "manifest.json"):
                remedy = "Move it elsewhere, then pull again."
                raise IntegrityRefused(Problem(str(target), "what this pull wrote", "another delivery", remedy))
            return
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
