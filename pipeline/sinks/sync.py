"""`python -m pipeline sync <system>`: bring what changed in the published table to a CRM, each row once.

For every batch: look the keys up, write, note what the service said of each row. A write whose answer was lost is
looked up before it is repeated, so that no customer is made twice. Nothing is ever deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import BusyRefused, ConfigurationRefused, DataRefused, Problem, Refusal
from pipeline import answers, versions
from pipeline.sinks import preflight, tasks
from pipeline.sinks.calls import Patience
from pipeline.sinks.fxiaoke import Fxiaoke
from pipeline.sinks.interface import TRIES, Connector, Outcome, Row
from pipeline.sinks.journal import Journal
from pipeline.sinks.mapping import FOLDER, Mapping, load
from pipeline.sinks.outgoing import Outgoing
from pipeline.sinks.zoho import Zoho
from pipeline.stage import progress, say

CONNECTORS = {"zoho": Zoho, "fxiaoke": Fxiaoke}
STATE = Path(".run") / "crm"
TWO_RECORDS = "TWO_RECORDS"


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
    manifest = versions.current_manifest()
    if manifest is None:
        raise DataRefused(Problem("data/publish/current", "a published table", "none", "Run the pipeline first."))
    version = versions.CURRENT.resolve()
    listed = tasks.listed(system, mapping, version) if with_tasks else None
    with alone(f"sync {system}", system):
        connector = CONNECTORS[system](mapping, STATE)
        with Journal(STATE / f"{system}.sqlite", _account(connector)) as journal:
            connector.quota.spent, connector.quota.note = journal.spent, journal.spend
            outgoing = Outgoing(version / "scored_customers.parquet", mapping, connector)
            say("sync", f"{system}, published {manifest['run_id']}")
            code = _brought(system, system, connector, outgoing, journal, asked)
            if mapping.tasks is not None and not asked.dry_run:
                _record_ids(connector, journal)
            if listed is None:
                return code
            theirs = CONNECTORS[system](listed, STATE)
            theirs.quota = connector.quota
            with (
                Journal(STATE / f"{system}.sqlite", _account(theirs)) as noted,
                tempfile.TemporaryDirectory(prefix="bellwether-") as scratch,
            ):
                rows, without = tasks.table(version, journal.record_ids(), Path(scratch))
                say("sync", f"{system}, tasks of the worklist", without_record=without)
                outgoing = Outgoing(rows, listed, theirs)
                return max(code, _brought(f"{system}-tasks", system, theirs, outgoing, noted, asked))


def _account(connector: Connector) -> str:
    return hashlib.sha256(connector.account().encode()).hexdigest()[:16]


def _brought(
    what: str, system: str, connector: Connector, outgoing: Outgoing, journal: Journal, asked: Options
) -> int:  # fmt: skip
    """Compare fields, choose what changed, and send it or show some of it."""
    _prepare(what, connector, outgoing, create_fields=asked.create_fields and not asked.dry_run)
    journal.forget(outgoing.gone(journal.rejected()))
    counts = outgoing.compare(
        journal.sent(), journal.rejected(), only_rejected=asked.retry_rejected, every=asked.every
    )  # fmt: skip
    say("sync", what, **counts)
    if asked.dry_run:
        _show(connector, outgoing, outgoing.mapping, asked.sample)
        return 0
    return _send(what, system, connector, outgoing, journal, counts["to_send"])


def _prepare(system: str, connector: Connector, outgoing: Outgoing, *, create_fields: bool) -> None:
    """Make fields where asked, then refuse (exit code 4) a tenant whose fields cannot hold the rows."""
    wanted = outgoing.wanted()
    if create_fields:
        left = preflight.made(connector, wanted)
        for sentence in left:
            print(f"sync: {sentence}")
        if left:
            raise ConfigurationRefused(
                Problem(
                    f"{system}: fields", "there", f"{len(left)} to be added", "Add those named above, then run again."
                )
            )
    problems = preflight.faults(wanted, connector.fields(), connector.types)
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
            said = f"{len(records)} records have this key: merge them in the CRM, then use --retry-rejected"
            refused.append((row, Outcome(row.key, "rejected", None, TWO_RECORDS, said)))
        elif records or create:
            ready.append(row.at(str(records[0]["id"]) if records else None))
        else:
            left += 1
    return ready, refused, left


def _write(
    connector: Connector, rows: list[Row], journal: Journal, totals: Counter[str], mapping: Mapping, who: str
) -> None:
    """Write one batch until each of its rows is done or rejected; refuse (exit code 8) where the time is up."""
    patience, tries = Patience(who, mapping.retry_seconds), Counter[str]()
    while rows:
        before = len(rows)
        ready, refused, left = _looked_up(connector, rows, create=mapping.create)
        journal.record(refused)
        totals.update(rejected=len(refused), without_record=left)
        rows, why = [], ""
        for start in range(0, len(ready), connector.rows_per_write):
            some = {row.key: row for row in ready[start : start + connector.rows_per_write]}
            settled = []
            outcomes, refusal = _until_refused(connector.write(list(some.values())))
            for outcome in outcomes:
                row = some[outcome.key]
                tries[row.key] += 1
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
            if refusal is not None:
                raise refusal
        if rows:
            totals["looked_up_again"] += len(rows)
            if len(rows) < before:
                patience = Patience(who, mapping.retry_seconds)
            patience.failed(why)


def _send(
    what: str, system: str, connector: Connector, outgoing: Outgoing, journal: Journal, total: int
) -> int:  # fmt: skip
    file = STATE / f"{what}-rejected.csv"
    totals = Counter[str](created=0, updated=0, rejected=0)
    size = connector.keys_per_find
    try:
        batches = outgoing.batches(size)
        for batch in progress("sync", batches, -(-total // size), what):
            _write(connector, batch, journal, totals, outgoing.mapping, system)
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
