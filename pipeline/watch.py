"""watch: deliveries as they arrive between two runs, and `current` anew for the customers that they touch.

A delivery waits in the inbox until it is whole and nothing of it has changed for a while. It is read by itself, which
tells whom it touches; moved into data/raw/<source>/ in one step; ingested, as a run would; and its customers are
observed, featurised, scored, explained and decided on at its date by the functions of those stages. All others stay as
they are. The result is a version of its own, made `current` by the one link, with a receipt (data/publish/watch.json).

The date of a customer is the newest of those of the deliveries that touched him since the run before, and his rows are
all that is known by then: the end state is the same in whatever order deliveries came. What is said of all others (peer
groups, ranks) is that of each month's start (others.py); where a late row changes it, everyone marked since the run
is recomputed. A kill at any moment is mended by the next call: what was moved and not yet published is in a journal.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from features.errors import BusyRefused, ConfigurationRefused, DataRefused, Problem, Refusal
from features.mapping import Mapping
from pipeline import amend, bundle, decide, following, healing, inbox, ingest, ledger, run, touched, versions
from pipeline.amend import Amendment, Published
from pipeline.fingerprint import sha256
from pipeline.logbook import Logbook
from pipeline.others import Others
from pipeline.params import source_name
from pipeline.raw import RAW, RawFile, list_files
from pipeline.rescore import Decided, Model, decided, months_of
from pipeline.stage import say, write_json
from pipeline.watched import State

JOURNAL = Path(".run/watch/moved.json")
BESIDE = Path(".run/watch/ingest")  # what ingest tells of a delivery before it changes anything
MOST_DAYS = 366  # after the run's date: a delivery dated later is mistyped, or a run is due
RETRY, LONGEST = 60.0, 3600.0  # [seconds] between tries to reach a service that was away, doubled each time


@dataclass(frozen=True)
class Asked:
    """What the command asks for: where deliveries arrive, how they are waited for [seconds], and who is told."""

    inbox: Path
    settle: float = 2.0  # nothing of a delivery has changed for so long before it is looked at
    patience: float = 600.0  # nothing of a torn one has changed for so long before it is refused
    every: float = 2.0  # between looks
    systems: tuple[str, ...] = ()  # CRMs that are synced after a publication
    log: str | None = None
    strict: bool = False


def date_of(path: Path, files: list[RawFile], newest_known: dt.date | None, base: dt.date) -> dt.date:
    """Return the as_of of a delivery, never before the run's that it adds to.

    The manifest's `as_of`; without it the day after the last day that it covers; without a manifest the day after its
    newest row was known.
    """
    stated = inbox.stated_as_of(path)
    day = inbox.delivered_on(files) or newest_known
    after = day + dt.timedelta(days=1) if day else base
    return max(stated or after, base)


def publish_delivery(name: str, state: State, params: ingest.Params, mapping: Mapping, book: Logbook) -> None:
    """Ingest what lies in data/raw/<source>/<name>, recompute whom it touches, and publish.

    Refuses what ingest refuses (2, 4, 5, 7; `AtFault` where it is the delivery's), a champion that cannot score today
    (7), and what the audit refuses (3).
    """
    source = mapping.name
    path = RAW / source / name
    files = inbox.files_of(path)
    try:
        named = touched.named_in(params, mapping, files, str(ingest.mapping_path(source)))
        ingest.main(BESIDE)
    except inbox.TORN as refusal:
        if not _elsewhere(refusal, source, name):
            raise AtFault(refusal) from refusal
        raise
    as_of = date_of(path, files, named.newest_known, state.since)
    known = ledger.kept(ingest.OUT / "ledger.json")
    deliveries = state.deliveries | {name: inbox.facts(files, as_of, known["files"])}
    own = named.marks(as_of)
    marks = touched.merged(state.marks, own)
    changed = ingest.changed_in(BESIDE)
    marks = touched.merged(touched.joined(marks, changed), {})
    own |= {(column, who): marks[column, who] for column, *pair in changed for who in pair if (column, who) in marks}
    amendment = _recomputed(state, source, own, marks, deliveries)
    scratch, run_id, moved = amend.write(amendment, state.current)
    version = versions.place(scratch, run_id)
    _receipt(source, amendment.as_of.isoformat(), run_id, state.current.base)  # counts once the history names it
    versions.make_current(source, amendment.as_of.isoformat(), run_id)
    inbox.remove(BESIDE)
    book.stages["publish"] = "done"
    told: dict[str, Any] = {"delivery": name, "as_of": as_of.isoformat(), "rows": named.rows}
    facts = told | {"customers": len(amendment.customers), **moved}
    book.more.setdefault("watch", []).append(facts)
    say("watch", f"{versions.CURRENT} -> {version.name}", **facts)


def _elsewhere(refusal: Refusal, source: str, name: str) -> bool:
    """Return whether a refusal is of other deliveries alone, which stood there before."""
    places = {problem.where.split("/")[0] for problem in refusal.problems}
    return all(place != name and (RAW / source / place).exists() for place in places)


def _recomputed(
    state: State, source: str, own: touched.Dates, marks: touched.Dates, deliveries: dict[str, Any]
) -> Amendment:
    """Return what is to be published after a delivery whose marks are `own`; `marks` are all since the run."""
    from pipeline.featurise import Params as Featurise

    tables = touched.Tables(ingest.OUT)
    dates = tables.customers_of(marks)
    before = tables.customers_of(state.marks) if state.marks else {}
    as_of = max([state.current.as_of, *dates.values()])
    others = Others(Featurise.load())
    months = months_of([*dates.values(), Published.of(state.current.base).as_of])
    others.prepare(months)
    whose = set(tables.customers_of(own)) | {one for one, day in dates.items() if before.get(one) != day}
    if state.others is not None and others.key(months_of(before.values())) != state.others:
        whose = set(dates)
    version = decide.data_version(decide.LEDGER.read_bytes(), as_of.isoformat())
    due, found = _anew(state, tables, {one: dates[one] for one in whose}, others, version)
    marks = touched.merged(marks, {("customer_id", one): day for one, day in due.items() if dates.get(one) != day})
    everyone = dates | due
    key = others.key(months_of(everyone.values()))
    return Amendment(source, as_of, version, list(due), found, marks, everyone, deliveries, key)


def _anew(
    state: State, tables: touched.Tables, due: dict[str, dt.date], others: Others, version: str
) -> tuple[dict[str, dt.date], Decided]:
    """Return who is recomputed at which date, and what comes of it by the current model; others are prepared."""
    model = Model(state.current.manifest["model_version"], bundle.read(state.current.folder / "scorer"))
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        due = tables.lay(due, Path(scratch))
        return due, decided(Path(scratch), due, others, model, version)


def _receipt(source: str, as_of: str, run_id: str, base: str) -> None:
    """Write the receipt, whole or not at all."""
    facts = {"source": source, "as_of": as_of, "run_id": run_id, "base": base}
    table = versions.VERSIONS / run_id / amend.TABLE
    new = versions.WATCHED.with_suffix(".json.new")
    write_json(new, facts | {"scored_customers": sha256(table)})
    new.replace(versions.WATCHED)


class AtFault(Exception):
    """A delivery that is refused for what is in it: it goes aside, and the next ones are taken.

    final: no more of it can come that would mend it.
    """

    def __init__(self, refusal: Refusal, *, final: bool = False) -> None:
        super().__init__(str(refusal))
        self.refusal, self.final = refusal, final


def _looked_at(arrival: inbox.Arrival, source: str) -> tuple[AtFault | None, dt.date | None]:
    """Return why a delivery cannot be taken as it lies in the inbox, or None, and when its newest row was known."""
    params, mapping = ingest.Params.load(), ingest.load_mapping(source)
    try:
        inbox.free_name(source, arrival.name)
    except DataRefused as refusal:
        return AtFault(refusal, final=True), None
    try:
        files = inbox.files_of(arrival.path)
        inbox.stated_as_of(arrival.path)
        problems = inbox.cut_short(files, mapping)
        named = touched.named_in(params, mapping, files, str(ingest.mapping_path(source)))
    except inbox.TORN as refusal:
        return AtFault(refusal), None
    except ConfigurationRefused as refusal:  # the mapping reads what came before
        return AtFault(DataRefused(refusal.problems)), None
    return AtFault(DataRefused(problems)) if problems else None, named.newest_known


def _dated_apart(path: Path, newest_known: dt.date | None, base: dt.date) -> AtFault | None:
    """Return the fault of a delivery dated so long after the run that one of its dates is mistyped, or None."""
    as_of = date_of(path, inbox.files_of(path), newest_known, base)
    if as_of <= base + dt.timedelta(days=MOST_DAYS):
        return None
    must = f"a date at most {MOST_DAYS} days after that of the run before, {base}"
    remedy = "Correct its dates or its manifest; where they are right, run the pipeline first."
    return AtFault(DataRefused(Problem(f"delivery {path.name}: as_of", must, str(as_of), remedy, rule="as_of")))


def take(asked: Asked, arrival: inbox.Arrival) -> int | None:
    """Take one delivery from the inbox to `current`; return the exit code, or None where it is torn and waited for.

    A delivery that is refused for what is in it goes aside (its code is returned); any other refusal is raised, and
    what was moved by then is taken up again by the next call.
    """
    source, journal = source_name(), inbox.Journal(JOURNAL)
    fault, newest_known = _looked_at(arrival, source)
    if fault is not None and not fault.final and inbox.waited(arrival) < asked.patience:
        found = fault.refusal.problems[0].sentence()
        print(f"watch: {arrival.name} is not taken yet: {found} It is refused where nothing of it changes for "
              f"{asked.patience:.0f} s", flush=True)  # fmt: skip
        return None

    def act(book: Logbook) -> int:
        if fault is not None:
            return _aside(arrival.path, asked.inbox, fault, book)
        state, params, mapping = State.load(source), ingest.Params.load(), ingest.load_mapping(source)
        late = _dated_apart(arrival.path, newest_known, state.since)
        if late is not None:
            return _aside(arrival.path, asked.inbox, late, book)
        journal.add(arrival.name)
        path = inbox.take(arrival, source)
        try:
            publish_delivery(arrival.name, state, params, mapping, book)
        except AtFault as found:
            code = _aside(path, asked.inbox, found, book)
            ingest.main()  # what lies there is without it again
            journal.remove(arrival.name)
            return code
        following.owe(asked.systems)
        journal.remove(arrival.name)
        return following.follow()

    return run.tell("watch", asked.log, act, strict=asked.strict)


def mend(asked: Asked) -> int:
    """Publish what a kill left moved and unpublished, set `current` right, and reach who was away; return the code."""
    source, journal = source_name(), inbox.Journal(JOURNAL)
    codes: list[int] = []
    if not journal.names() and not _lost() and not following.owed():
        return 0

    def act(book: Logbook) -> int:
        healing.heal()
        versions.repair_current()
        inbox.remove(RAW / source / inbox.ARRIVING)
        for name in journal.names():
            state, params, mapping = State.load(source, mending=True), ingest.Params.load(), ingest.load_mapping(source)
            path = (RAW / source).resolve() / name
            if path.exists():
                inbox.drop_copied(asked.inbox / name, path)
            if name not in state.deliveries and path.exists():
                say("watch", "taken up again", delivery=name)
                try:
                    publish_delivery(name, state, params, mapping, book)
                except AtFault as found:
                    codes.append(_aside(path, asked.inbox, found, book))
            if not path.exists():
                ingest.main()  # it went aside, or was never moved: what lies there is without it
            journal.remove(name)
        following.owe(asked.systems)
        return max([following.follow(), *codes])

    return run.tell("watch", asked.log, act, strict=asked.strict)


def _lost() -> bool:
    """Return whether `current` is not what the receipts say."""
    received = versions.received()
    return received is not None and (not versions.CURRENT.is_symlink() or versions.CURRENT.readlink().name != received)


def _aside(path: Path, home: Path, fault: AtFault, book: Logbook) -> int:
    """Put a refused delivery aside, say why, and return the exit code."""
    where, problems = inbox.refuse(path, home, fault.refusal, BESIDE / "quarantine")
    book.problems(problems)
    following.complain(problems)
    say("watch", f"refused: {path.name} now lies in {where}", exit_code=fault.refusal.exit_code)
    return fault.refusal.exit_code


def look(asked: Asked, torn: dict[str, float]) -> list[int]:
    """Take every delivery that is whole; return the exit codes. torn: when each that is waited for last changed."""
    codes = []
    for arrival in inbox.quiet(inbox.arrivals(asked.inbox), asked.settle):
        if torn.get(arrival.name) == arrival.changed and inbox.waited(arrival) < asked.patience:
            continue
        try:
            code = take(asked, arrival)
        except FileNotFoundError:
            if arrival.path.exists() or arrival.name in inbox.Journal(JOURNAL).names():
                raise
            continue  # its sender renamed or took it back since
        if code is None:
            torn[arrival.name] = arrival.changed
        else:
            codes.append(code)
    return codes


def ready(asked: Asked) -> None:
    """Mend what a kill left, and do, while there is time, what no delivery changes.

    How others stood in the months to be looked at is worked out, and what lies there is hashed. One customer is
    rehearsed and thrown away: libraries and model are loaded and features declared then, and a model that cannot score
    any more is refused before a delivery comes.
    """
    from pipeline.featurise import Params as Featurise

    import_module("pipeline.sinks.sync")
    run.refuse_open_doors()
    mend(asked)
    with run.owned():
        hashes = ledger.Hashes(ingest.HASHES)
        for paths in ([(file.name, file.path) for file in list_files(source_name())], ledger.outputs(ingest.OUT)):
            hashes.digests(paths)
        hashes.keep()
        state, others = State.load(source_name()), Others(Featurise.load())
        day = state.current.as_of
        others.prepare(months_of([day]))
        table = pq.ParquetFile(state.current.folder / amend.TABLE)
        for first in table.iter_batches(1, columns=["customer_id"]):
            who = first["customer_id"][0].as_py()
            _anew(state, touched.Tables(ingest.OUT), {who: day}, others, state.current.manifest["data_version"])
            break


def once(asked: Asked) -> int:
    """Take what lies in the inbox now, and return the exit code: the highest of what was refused, or 0."""
    run.refuse_open_doors()
    inbox.check(asked.inbox, source_name())
    codes = [mend(asked), *look(asked, {})]
    if len(codes) == 1:
        waiting = len(inbox.arrivals(asked.inbox))
        print(f"watch: nothing taken; {waiting} in {asked.inbox} still arriving", flush=True)
    return max(codes)


@dataclass
class Looks:
    """What is done again and again: getting ready, taking what is whole, and reaching who was away.

    While a run owns the workspace deliveries wait, and it may publish anew: what was got ready is so once more.
    """

    asked: Asked
    torn: dict[str, float] = field(default_factory=dict)  # when each delivery that is waited for last changed
    prepared: bool = False
    pause: float = RETRY
    due: float = 0.0  # when those who were away are tried again; 0: not yet stated

    def prepare(self) -> None:
        """Get ready where that is still to be done and no run is under way."""
        try:
            if not self.prepared:
                ready(self.asked)
                self.prepared = True
        except BusyRefused:
            return

    def look(self) -> None:
        """Take every delivery that is whole, and try those who were away where it is time."""
        self.prepare()
        try:
            if self.prepared:
                look(self.asked, self.torn)
                self._reach()
        except BusyRefused:
            self.prepared = False

    def _reach(self) -> None:
        now = time.monotonic()
        if not following.owed():
            self.pause, self.due = RETRY, 0.0
        elif not self.due:
            self.due = now + self.pause
        elif now >= self.due:
            mend(self.asked)
            self.pause, self.due = min(2 * self.pause, LONGEST), 0.0


def watch(asked: Asked, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Take deliveries as they arrive until a signal ends this process (128 + its number), or `stop` says so (0).

    While a run owns the workspace deliveries wait. A refusal that is not a delivery's own ends it with its code.
    """
    inbox.check(asked.inbox, source_name())
    looks, said = Looks(asked), False
    while not stop():
        looks.prepare()
        if looks.prepared and not said:
            print(f"watch: waiting for deliveries in {asked.inbox}", flush=True)
            said = True
        looks.look()
        time.sleep(asked.every)
    return 0
