"""`python -m pipeline sync <system>`: bring what changed in the published table to a CRM, each row once.

For every batch: look the keys up, write, note what the service said of each row. A write whose answer was lost is
looked up before it is repeated, and one that was to make a record only after `settle_seconds`, and once more at the
end, so that no customer is made twice, or is named where he was. Nothing is ever deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import BusyRefused, ConfigurationRefused, Problem, Refusal
from pipeline import answers
from pipeline.sinks import preflight, stated, tasks
from pipeline.sinks.calls import Patience
from pipeline.sinks.fxiaoke import Fxiaoke
from pipeline.sinks.interface import TRIES, TWO_RECORDS, Connector, Outcome, Row
from pipeline.sinks.journal import Journal
from pipeline.sinks.mapping import FOLDER, Mapping, load
from pipeline.sinks.outgoing import Outgoing
from pipeline.sinks.zoho import Zoho
from pipeline.stage import progress, say

CONNECTORS = {"zoho": Zoho, "fxiaoke": Fxiaoke}
STATE = Path(".run") / "crm"
CUSTOMERS, WORKLIST = "scored_customers.v1.json", "worklist.v1.json"  # contracts
WATCHED = 3600  # seconds for which each sync looks up again whom one has asked to be made without an answer


@contextmanager
def alone(what: str, system: str) -> Iterator[None]:
    """Hold the system's lock, or refuse (exit code 6)."""
    STATE.parent.mkdir(mode=0o700, exist_ok=True)
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / f"{system}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyRefused(
                Problem(what, "one at a time", "another sync or pull that has not ended", "Wait for it.")
            ) from None
        yield


@dataclass(frozen=True)
class Options:
    """What was asked of a synchronisation."""

    dry_run: bool = False
    create_fields: bool = False
    retry_rejected: bool = False
    every: bool = False
    sample: int = 3


def sync(system: str, *, path: Path | None = None, with_tasks: bool = False, **options: Any) -> int:
    """Synchronise; return 0 where all was taken, 2 where the CRM rejected rows (named in the rejected table).

    4 where a customer stands in several records there: its rows are named too, the others are written. with_tasks: also
    a task for each open row of the worklist, as `tasks:` of the mapping says. options: as `Options`.
    """
    asked = Options(**options)
    mapping = load(path or FOLDER / f"{system}.yaml")
    with_tasks = with_tasks or (mapping.tasks is not None and mapping.tasks.always)
    version, manifest = stated.current()
    listed = tasks.listed(system, mapping, version) if with_tasks else None
    with alone(f"sync {system}", system):
        connector = CONNECTORS[system](mapping, STATE)
        with Journal(STATE / f"{system}.sqlite", _account(connector)) as journal:
            connector.quota.spent, connector.quota.note = journal.spent, journal.spend
            outgoing = Outgoing(version / stated.TABLE, mapping, connector, stated.words(version, CUSTOMERS))
            customers = Side(system, system, connector, outgoing, journal)
            say("sync", f"{system}, published {manifest['run_id']}")
            if listed is None:
                _prepare([customers], asked)
                return _brought(customers, asked)
            return _with_tasks(customers, listed, version, asked)


@dataclass(frozen=True)
class Side:
    """An object of the CRM with the rows that go into it: the customers, or the tasks."""

    what: str
    system: str
    connector: Connector
    outgoing: Outgoing
    journal: Journal


def _with_tasks(customers: Side, listed: Mapping, version: Path, asked: Options) -> int:
    """Compare the fields of customers and tasks, then bring the one and the other."""
    system = customers.system
    theirs = CONNECTORS[system](listed, STATE)
    theirs.quota = customers.connector.quota
    words = stated.words(version, WORKLIST)
    with (
        Journal(STATE / f"{system}.sqlite", _account(theirs)) as noted,
        tempfile.TemporaryDirectory(prefix="bellwether-") as scratch,
    ):
        rows, _ = tasks.table(version, Path(scratch))
        side = Side(f"{system}-tasks", system, theirs, Outgoing(rows, listed, theirs, words), noted)
        _prepare([customers, side], asked)
        code = _brought(customers, asked)
        rows, without = tasks.table(version, Path(scratch), customers.journal.record_ids())
        say("sync", f"{system}, tasks of the worklist", without_record=without)
        return max(code, _brought(replace(side, outgoing=Outgoing(rows, listed, theirs, words)), asked))


def _account(connector: Connector) -> str:
    return hashlib.sha256(connector.account().encode()).hexdigest()[:16]


def _brought(side: Side, asked: Options) -> int:
    """Choose what changed, and send it or show some of it."""
    outgoing, journal = side.outgoing, side.journal
    sent, rejected = journal.sent(), journal.rejected()
    stale = outgoing.stale(sent, rejected)
    rejected = rejected.filter(pc.invert(pc.is_in(rejected["key"], pa.array(stale, pa.string()))))
    counts = outgoing.compare(sent, rejected, only_rejected=asked.retry_rejected, every=asked.every)
    say("sync", side.what, **counts)
    if asked.dry_run:
        _show(side.connector, outgoing, outgoing.mapping, asked.sample)
        return 0
    journal.forget(stale)
    code = _send(side, counts["to_send"])
    if outgoing.mapping.tasks is not None:
        _record_ids(side.connector, journal)
    return code


def _prepare(sides: Sequence[Side], asked: Options) -> None:
    """Make fields where asked, then refuse (exit code 4) a tenant whose fields cannot hold the rows, of all objects."""
    problems = []
    for side in sides:
        wanted, connector = side.outgoing.wanted(), side.connector
        left = preflight.made(connector, wanted) if asked.create_fields and not asked.dry_run else []
        for sentence in left:
            print(f"sync: {sentence}")
        if left:
            remedy = "Add those named above, then run again."
            problems.append(Problem(f"{side.what}: fields", "there", f"{len(left)} to be added", remedy))
            continue
        there = connector.fields()
        problems += preflight.faults(wanted, there, connector.types)
        problems += preflight.constant_faults(side.outgoing.mapping, there)
    if problems:
        raise ConfigurationRefused(problems)


def _by_key(rows: Sequence[Row], records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each row, by a key that ignores case, as a CRM's own comparison may."""
    found: dict[str, list[dict[str, Any]]] = {row.key: [] for row in rows}
    ours = {row.key.strip().casefold(): row.key for row in rows}
    for record in records:
        key = ours.get(record["key"].strip().casefold())
        if key is not None:
            found[key].append(record)
    return found


def _looked_up(
    connector: Connector, rows: Sequence[Row], *, create: bool
) -> tuple[list[Row], list[tuple[Row, Outcome]], int]:
    """Return the rows with their record ids, those of two records as rejected, and how many have none and get none."""
    by_key = _by_key(rows, connector.find([row.key for row in rows], ()))
    ready, refused, left = [], [], 0
    for row in rows:
        records = by_key[row.key]
        if len(records) > 1:
            refused.append((row, _several(row, len(records))))
        elif records or create:
            ready.append(row.at(str(records[0]["id"]) if records else None))
        else:
            left += 1
    return ready, refused, left


def _several(row: Row, count: int) -> Outcome:
    said = f"{count} records have this key: merge them in the CRM, then use --retry-rejected"
    return Outcome(row.key, "rejected", None, TWO_RECORDS, said)


def _settle(keys: Iterable[str], doubtful: dict[str, float], mapping: Mapping) -> None:
    """Wait until records that were asked for and not answered for would be found."""
    newest = max((doubtful[key] for key in keys if key in doubtful), default=0.0)
    time.sleep(min(max(newest + mapping.settle_seconds - time.time(), 0.0), mapping.settle_seconds))


def _write(side: Side, rows: list[Row], totals: Counter[str]) -> None:
    """Write one batch until each of its rows is done or rejected; refuse (exit code 8) where the time is up."""
    connector, journal, mapping = side.connector, side.journal, side.outgoing.mapping
    patience, tries = Patience(side.system, mapping.retry_seconds), Counter[str]()
    while rows:
        before, doubtful = len(rows), journal.doubtful()
        _settle((row.key for row in rows), doubtful, mapping)
        ready, refused, left = _looked_up(connector, rows, create=mapping.create)
        journal.record(refused)
        totals.update(rejected=len(refused), without_record=left)
        rows, why = [], ""
        for start in range(0, len(ready), connector.rows_per_write):
            some = {row.key: row for row in ready[start : start + connector.rows_per_write]}
            made = {row.key for row in some.values() if row.record_id is None}
            journal.doubt(made, time.time())
            settled, said = [], set()
            outcomes, refusal = _until_refused(connector.write(list(some.values())))
            for outcome in outcomes:
                row = some[outcome.key]
                tries[row.key] += 1
                said.update({row.key} if outcome.state != "lost" else ())
                if outcome.state == "lost" or (outcome.state == "again" and tries[row.key] < TRIES):
                    rows.append(row)
                    why = outcome.message or outcome.code
                    continue
                if outcome.state == "again":
                    outcome = Outcome(row.key, "rejected", None, outcome.code, outcome.message)  # noqa: PLW2901
                settled.append((row, outcome))
                what = "rejected" if outcome.state == "rejected" else "updated" if row.record_id else "created"
                totals[what] += 1
            journal.record(settled)
            journal.believe(made & said - doubtful.keys())
            journal.doubt(made - said, time.time())  # the time that it was waited for says nothing of what is to come
            if refusal is not None:
                raise refusal
        if rows:
            totals["looked_up_again"] += len(rows)
            if len(rows) < before:
                patience = Patience(side.system, mapping.retry_seconds)
            patience.failed(why)


def _look_again(side: Side, totals: Counter[str]) -> None:
    """Look up who was asked to be made without an answer: one that came late has made a second record."""
    journal, connector = side.journal, side.connector
    doubtful, held = journal.doubtful(), journal.rejected()
    known = set(held.filter(pc.equal(held["code"], TWO_RECORDS))["key"].to_pylist())
    rows = side.outgoing.rows(doubtful.keys() - known)
    _settle((row.key for row in rows), doubtful, side.outgoing.mapping)
    for start in range(0, len(rows), connector.keys_per_find):
        some = rows[start : start + connector.keys_per_find]
        found = _by_key(some, connector.find([row.key for row in some], ()))
        twice = [(row, _several(row, len(found[row.key]))) for row in some if len(found[row.key]) > 1]
        journal.take_back(twice)
        totals["rejected"] += len(twice)
    journal.believe(key for key, since in doubtful.items() if time.time() - since > WATCHED)


def _send(side: Side, total: int) -> int:
    what, system, journal = side.what, side.system, side.journal
    file = STATE / f"{what}-rejected.csv"
    totals = Counter[str](created=0, updated=0, rejected=0)
    size = side.connector.keys_per_find
    try:
        batches = side.outgoing.batches(size)
        for batch in progress("sync", batches, -(-total // size), what):
            _write(side, batch, totals)
        _look_again(side, totals)
    finally:
        held = journal.rejected()
        answers.write(held.drop_columns(["digest"]), file)
        file.chmod(0o600)
        say("sync", f"{what}, done", **totals)
    if held.num_rows:
        codes = ", ".join(f"{code} {n:,}" for code, n in sorted(Counter(held["code"].to_pylist()).items()))
        print(f"sync: {held.num_rows:,} rows are rejected ({codes}): {file} names them; "
              f"mend them in the CRM, then `sync {system} --retry-rejected`")  # fmt: skip
        double = held["code"].to_pylist().count(TWO_RECORDS)
        if double:
            print(f"sync: {double:,} keys stand in several records each: merge these in the CRM, and mark the field as "
                  "one without duplicates")  # fmt: skip
        return 4 if double else 2
    return 0


def _show(connector: Connector, outgoing: Outgoing, mapping: Mapping, sample: int) -> None:
    """Print some rows as they stand in the CRM and as they would."""
    names = list(mapping.fields)
    rows = next(outgoing.batches(max(1, min(sample, connector.keys_per_find))), []) if sample else []
    by_key = _by_key(rows, connector.find([row.key for row in rows], names)) if rows else {}
    for row in rows:
        records = by_key[row.key]
        print(f"{row.key}: {len(records)} record{'' if len(records) == 1 else 's'} in the CRM")
        for name in names:
            before = records[0].get(name) if records else None
            if before != row.values[name]:
                print(f"  {name}: {before!r} -> {row.values[name]!r}")
    print("sync: nothing was written there, and nothing noted here but the access token and the quota that was spent")


def _until_refused(outcomes: Iterable[Outcome]) -> tuple[list[Outcome], Refusal | None]:
    """Return what became of the rows until one was refused, and the refusal: it is raised when those are noted."""
    known: list[Outcome] = []
    try:
        for outcome in outcomes:  # one by one: those before the refusal are kept
            known.append(outcome)  # noqa: PERF402
    except Refusal as refusal:
        return known, refusal
    return known, None


def _record_ids(connector: Connector, journal: Journal) -> None:
    """Look up the records that were made and that the service did not name for sure: tasks lead to them."""
    keys, size = journal.without_record_id(), connector.keys_per_find
    for start in range(0, len(keys), size):
        ours = {key.strip().casefold(): key for key in keys[start : start + size]}
        found: dict[str, set[str]] = {}
        for record in connector.find(list(ours.values()), ()):
            key = ours.get(record["key"].strip().casefold())
            if key is not None:
                found.setdefault(key, set()).add(str(record["id"]))
        journal.name_records({key: ids.pop() for key, ids in found.items() if len(ids) == 1})
