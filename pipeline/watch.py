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
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from features.errors import BusyRefused, ConfigurationRefused, Problem, Refusal
from features.mapping import Mapping
from pipeline import amend, bundle, decide, healing, inbox, ingest, ledger, run, touched, versions
from pipeline.amend import Amendment, Published
from pipeline.fingerprint import sha256
from pipeline.logbook import Logbook
from pipeline.others import Others, refuse_absent
from pipeline.params import PARAMS_FILE, read_params, source_name
from pipeline.raw import RAW, RawFile, list_files
from pipeline.rescore import Decided, Model, decided, months_of
from pipeline.score import inputs_of
from pipeline.stage import say, write_json

JOURNAL = Path(".run/watch/moved.json")
DECIDING = ("observe", "featurise", "score", "explain", "decide")  # sections that a publication between runs hangs on


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


@dataclass
class State:
    """What is current, and what `watch` published since the run that it is made of."""

    current: Published
    marks: touched.Dates = field(default_factory=dict)
    deliveries: dict[str, Any] = field(default_factory=dict)
    others: str | None = None

    @classmethod
    def load(cls, source: str) -> State:
        """Return the present state; refuse (exit code 4) where nothing of the source is published, or otherwise."""
        manifest = versions.current_manifest()
        if manifest is None or manifest["source"] != source:
            found = "nothing" if manifest is None else f"source {manifest['source']}"
            raise ConfigurationRefused(
                Problem(str(versions.CURRENT), f"a publication of source {source}", found,
                        "Publish first: `python -m pipeline run`.")
            )  # fmt: skip
        current = Published.of(manifest["run_id"])
        refuse_absent()
        _check_alike(current, source)
        if any(each["kind"] == "record" for each in inputs_of(bundle.read(current.folder / "scorer"))):
            must = "one that scores features alone"
            raise ConfigurationRefused(
                Problem("model", must, "one that scores child records too, which only a run keeps",
                        "Use `python -m pipeline run`, or retrain with featurise.records: [].")
            )  # fmt: skip
        stated = manifest.get("watch")
        if stated is None:
            return cls(current)
        marks = touched.from_table(pq.read_table(current.folder / amend.MARKS))
        return cls(current, marks, stated["deliveries"], stated["others"])


def _check_alike(current: Published, source: str) -> None:
    """Refuse (exit code 4) parameters or a mapping other than those by which the present table was made."""
    inputs = current.folder / "inputs"
    problems = []
    before = yaml.safe_load((inputs / PARAMS_FILE).read_text(encoding="utf-8"))
    now = read_params()
    for section in (*DECIDING, "language"):
        own = [
            (each.get(section), ((each.get("sources") or {}).get(source) or {}).get(section)) for each in (before, now)
        ]
        if own[0] != own[1]:
            problems.append(f"params.yaml: {section}")
    mapping = ingest.mapping_path(source)
    if sha256(mapping) != current.manifest["files"].get(f"inputs/{mapping.as_posix()}"):
        problems.append(str(mapping))
    if problems:
        raise ConfigurationRefused(
            Problem(", ".join(problems), f"as when {current.manifest['run_id']} was published", "changed since",
                    "Publish with it first: `python -m pipeline run`.")
        )  # fmt: skip


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
        ingest.main()
    except inbox.TORN as refusal:
        if any(name in problem.where or problem.where.startswith("table ") for problem in refusal.problems):
            raise AtFault(refusal) from refusal
        raise
    as_of = date_of(path, files, named.newest_known, Published.of(state.current.base).as_of)
    known = ledger.kept(ingest.OUT / "ledger.json")
    deliveries = state.deliveries | {name: inbox.facts(files, as_of, known["files"])}
    marks = touched.merged(state.marks, named.marks(as_of))
    amendment = _recomputed(state, source, named.marks(as_of), marks, deliveries)
    scratch, run_id, moved = amend.write(amendment, state.current)
    version = versions.place(scratch, run_id)
    _receipt(source, amendment.as_of.isoformat(), run_id, state.current.base)  # counts once the history names it
    versions.make_current(source, amendment.as_of.isoformat(), run_id)
    book.stages["publish"] = "done"
    told: dict[str, Any] = {"delivery": name, "as_of": as_of.isoformat(), "rows": named.rows}
    facts = told | {"customers": len(amendment.customers), **moved}
    book.more.setdefault("watch", []).append(facts)
    say("watch", f"{versions.CURRENT} -> {version.name}", **facts)


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
    """A delivery that ingest refuses for what is in it: it goes aside, and the next ones are taken."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def _fault(arrival: inbox.Arrival, source: str) -> AtFault | None:
    """Return why a delivery cannot be taken as it lies in the inbox, or None."""
    try:
        params, mapping = ingest.Params.load(), ingest.load_mapping(source)
        inbox.free_name(source, arrival.name)
        inbox.stated_as_of(arrival.path)
        touched.named_in(params, mapping, inbox.files_of(arrival.path), str(ingest.mapping_path(source)))
    except inbox.TORN as refusal:
        return AtFault(refusal)
    return None


def take(asked: Asked, arrival: inbox.Arrival) -> int | None:
    """Take one delivery from the inbox to `current`; return the exit code, or None where it is torn and waited for.

    A delivery that is refused for what is in it goes aside (its code is returned); any other refusal is raised, and
    what was moved by then is taken up again by the next call.
    """
    source, journal = source_name(), inbox.Journal(JOURNAL)
    fault = _fault(arrival, source)
    if fault is not None and inbox.waited(arrival) < asked.patience:
        return None

    def act(book: Logbook) -> int:
        if fault is not None:
            return _aside(arrival.path, asked.inbox, fault, book)
        state, params, mapping = State.load(source), ingest.Params.load(), ingest.load_mapping(source)
        journal.add(arrival.name)
        path = inbox.take(arrival, source)
        try:
            publish_delivery(arrival.name, state, params, mapping, book)
        except AtFault as found:
            code = _aside(path, asked.inbox, found, book)
            journal.remove(arrival.name)
            return code
        journal.remove(arrival.name)
        return _follow(asked)

    return run.tell("watch", asked.log, act, strict=asked.strict)


def mend(asked: Asked) -> int:
    """Publish what a kill left moved and unpublished, and set `current` right; return the exit code."""
    source, journal = source_name(), inbox.Journal(JOURNAL)
    codes: list[int] = []
    if not journal.names() and not _lost():
        return 0

    def act(book: Logbook) -> int:
        healing.heal()
        versions.repair_current()
        state, params, mapping = State.load(source), ingest.Params.load(), ingest.load_mapping(source)
        for name in journal.names():
            if (RAW / source / name).exists():
                inbox.drop_copied(asked.inbox / name, RAW / source / name)
            if name not in state.deliveries and (RAW / source / name).exists():
                say("watch", "taken up again", delivery=name)
                try:
                    publish_delivery(name, state, params, mapping, book)
                except AtFault as found:
                    codes.append(_aside((RAW / source).resolve() / name, asked.inbox, found, book))
                state = State.load(source)
            journal.remove(name)
        return max([_follow(asked), *codes])

    return run.tell("watch", asked.log, act, strict=asked.strict)


def _lost() -> bool:
    """Return whether `current` is not what the receipts say."""
    received = versions.received()
    return received is not None and (not versions.CURRENT.is_symlink() or versions.CURRENT.readlink().name != received)


def _aside(path: Path, home: Path, fault: AtFault, book: Logbook) -> int:
    """Put a refused delivery aside, say why, and return the exit code."""
    book.problems(fault.refusal.problems)
    _complain(fault.refusal)
    where = inbox.refuse(path, home, fault.refusal)
    say("watch", f"refused: {path.name} now lies in {where}", exit_code=fault.refusal.exit_code)
    return fault.refusal.exit_code


def _complain(refusal: Refusal) -> None:
    """Say on stderr why something was refused."""
    for problem in refusal.problems:
        print(f"watch: {problem.sentence()}", file=sys.stderr, flush=True)


def _follow(asked: Asked) -> int:
    """Bring what is current to the sink and the CRMs that were asked for; return the exit code, the files stand."""
    from pipeline import sinks
    from pipeline.sinks import sync

    code = 0
    steps: list[Callable[[], Any]] = [sinks.follow]
    steps += [lambda system=system: sync.sync(system) for system in asked.systems]
    for step in steps:
        try:
            code = max(code, step() or 0)
        except Refusal as refusal:
            _complain(refusal)
            code = max(code, refusal.exit_code)
    return code


def look(asked: Asked, torn: dict[str, float]) -> list[int]:
    """Take every delivery that is whole; return the exit codes. torn: when each that is waited for last changed."""
    codes = []
    for arrival in inbox.quiet(inbox.arrivals(asked.inbox), asked.settle):
        if torn.get(arrival.name) == arrival.changed and inbox.waited(arrival) < asked.patience:
            continue
        code = take(asked, arrival)
        if code is None:
            torn[arrival.name] = arrival.changed
            print(f"watch: {arrival.name} is not whole yet; it is refused where nothing of it changes for "
                  f"{asked.patience:.0f} s", flush=True)  # fmt: skip
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


def watch(asked: Asked, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Take deliveries as they arrive until a signal ends this process (128 + its number), or `stop` says so (0).

    While a run owns the workspace deliveries wait. A refusal that is not a delivery's own ends it with its code.
    """
    inbox.check(asked.inbox, source_name())
    torn: dict[str, float] = {}
    prepared = False
    while not stop():
        try:
            if not prepared:
                ready(asked)
                prepared = True
                print(f"watch: waiting for deliveries in {asked.inbox}", flush=True)
            look(asked, torn)
        except BusyRefused:
            prepared = False  # a run may publish anew
        time.sleep(asked.every)
    return 0
