"""One run from the outside: lock, check, heal, `dvc repro` in its own process group, the exit code of what happened.

DVC flattens every exit code to 255, leaves its stages alive when it is killed, and can wedge on its own lock; this
wrapper owns what DVC does not. A schedule calls it as `python -m pipeline run`; `logbook` and `webhook` tell its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from features.errors import (
    BusyRefused,
    ConfigurationRefused,
    IntegrityRefused,
    Problem,
    Refusal,
    ResourceRefused,
    ServiceRefused,
)
from pipeline import healing, held, litter, params_file, webhook
from pipeline.logbook import FORMAT, Logbook, now, sentence
from pipeline.params import STAGES, overrides, read_params, resolved_as_of, source_name
from pipeline.raw import has_linked_folders
from pipeline.stage import RECORD, leave_record, read_json

STATE = Path(".run")
LEAST_FREE_BYTES = 200 * 2**20
RESERVED = 16 * 2**10  # bytes for the record of a refusal


@contextlib.contextmanager
def owned() -> Iterator[None]:
    """Hold the workspace's lock; refuse at once (exit code 6), naming the owner, where another run holds it."""
    os.umask(os.umask(0) | stat.S_IWOTH)  # whatever the caller's, nothing that a run writes is open to every user
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyRefused(
                Problem(
                    "workspace", "free of other runs", f"a run of process {_owner()}", "Wait for it, then run again."
                )
            ) from None
        command = " ".join(["python -m pipeline", *sys.argv[1:2]])
        handle.truncate(0)
        handle.write(f"{os.getpid()} ({command}, since {now():%Y-%m-%d %H:%M:%S} UTC, on {socket.gethostname()})")
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)  # the next owner may be asked for before he has signed


def _owner() -> str:
    """Return who holds the lock: process, command, since when, on which machine; waits a moment for him to sign."""
    for _ in range(10):
        owner = (STATE / "lock").read_text(encoding="utf-8").strip()
        if owner:
            return owner
        time.sleep(0.05)
    return "unknown"


def preflight() -> None:
    """Refuse what can be seen in a second: parameters of every stage, mapping, raw files, rights and space."""
    problems: list[Problem] = []
    first: Refusal | None = None

    def collect(check: Any) -> None:
        nonlocal first
        try:
            check()
        except Refusal as refusal:
            problems.extend(refusal.problems)
            if first is None or refusal.exit_code > first.exit_code:
                first = refusal  # configuration (4) explains data (2), not the other way round

    refuse_open_doors()
    read_params()
    collect(resolved_as_of)
    for stage in STAGES:
        collect(importlib.import_module(f"pipeline.{stage}").Params.load)
    collect(_preflight_source)
    collect(_preflight_sink)
    if first is not None:
        raise type(first)(problems)
    for folder in (Path("data"), Path("data/publish")):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise ResourceRefused(Problem(str(folder), "writable", "no right to write", "Set its owner or rights."))
    free = shutil.disk_usage(".").free
    if free < LEAST_FREE_BYTES:
        found = f"{free // 2**20} MiB free"
        raise ResourceRefused(Problem("disk", f"at least {LEAST_FREE_BYTES // 2**20} MiB free", found, "Free space."))


def refuse_open_doors() -> None:
    """Refuse (exit code 4) folders in which any user of the machine may plant a file that a run then trusts."""
    private = (STATE, *map(Path, (".dvc/cache", ".dvc/tmp", "mlruns", "data/promote", "data/journal")))  # a run's own
    wide = [folder for folder in private if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH]
    if wide:
        raise ConfigurationRefused(
            Problem(str(folder), "closed to writing by every user", f"mode {stat.S_IMODE(folder.stat().st_mode):04o}",
                    f"chmod o-w {folder}")
            for folder in wide
        )  # fmt: skip


def _preflight_source() -> None:
    """Check mapping and raw files; the mapping alone where `simulate` has yet to write the files."""
    from pipeline import ingest

    source = source_name()
    if source == "simulated" and not any(Path("data/raw/simulated").glob("*")):
        ingest.load_mapping(source)
    else:
        ingest.preflight(source)


def _preflight_sink() -> None:
    """Check that the variable of a sink is set; whether its server answers is seen when it is written."""
    from pipeline import sinks

    sinks.check()


def dvc(*arguments: str, line: Callable[[str], None] = print) -> int:
    """Run dvc in a process group of its own and return an exit code of ARCHITECTURE's list.

    A signal to this process ends the whole group. A stage that refuses leaves its code in a record that this reads.
    line: takes each line that dvc and its stages print on stdout.
    """
    failure = (STATE / "failure.json").resolve()
    failure.write_bytes(b" " * RESERVED)  # a stage that finds the disk full must still be able to say so
    with litter.scratch() as scratch:
        return _dvc(arguments, line, failure, dict(os.environ) | {"TMPDIR": str(scratch)})


def _dvc(arguments: Iterable[str], line: Callable[[str], None], failure: Path, environment: dict[str, str]) -> int:
    """Run dvc and return the exit code of what happened."""
    environment |= {RECORD: str(failure), "PYTHONUNBUFFERED": "1"}
    executable = Path(sys.executable).parent / "dvc"
    child = subprocess.Popen(
        [str(executable), *arguments], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    reader = threading.Thread(target=lambda: [line(text.rstrip("\n")) for text in child.stdout or ()], daemon=True)
    reader.start()
    (STATE / "group").write_text(f"{child.pid} {healing.started(child.pid)}", encoding="utf-8")
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL if len(received) > 1 else number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # nothing of the group may outlive the run
        reader.join(5)  # whoever left the group may hold the pipe open for ever
        if child.stdout is not None and not reader.is_alive():
            child.stdout.close()
        (STATE / "group").unlink(missing_ok=True)
    if received:
        return 128 + received[0]
    if code == 0:
        return 0
    if healing.readable(failure):
        return int(read_json(failure)["exit_code"])
    return 128 - code if code < 0 else 1


def _warn_open_ended() -> None:
    """Say where every delivery retrains."""
    from pipeline.train import Params as Train

    if Train.load().until is None:
        print(
            f"run: train.until of source {source_name()} is null: every delivery retrains. "
            "Set sources.<name>.train.until, or use `retrain`.",
            file=sys.stderr,
        )


def _ensure_repository() -> None:
    """Refuse (exit code 4) a folder that DVC cannot work in."""
    if not Path(".dvc/config").exists() or not Path("dvc.yaml").exists():
        raise ConfigurationRefused(
            Problem("folder", "the project's root (dvc.yaml, .dvc/config)", "neither", "Change into the clone.")
        )


def tell(command: str, log: str | None, action: Callable[[Logbook], int], *, strict: bool) -> int:
    """Own the workspace, act, and tell how it ended: a line, or JSON lines, and whom the environment names.

    strict: a webhook that could not be told ends an otherwise good run with exit code 8. One refused because another
    run owns the workspace tells no webhook: that run will.
    """
    form = log or os.environ.get(FORMAT) or "text"
    if form not in ("text", "json"):
        raise ConfigurationRefused(Problem(FORMAT, "text or json", repr(form), "Correct or unset it."))
    _ensure_repository()
    book = Logbook(command, as_json=form == "json")
    try:
        with owned():
            code, late, refused = 1, None, None  # what neither returns nor refuses is a bug of ours
            (STATE / "failure.json").unlink(missing_ok=True)
            try:
                with contextlib.redirect_stdout(book):
                    code = action(book)
            except Refusal as refusal:
                code, refused = refusal.exit_code, refusal
                book.problems(refusal.problems)
                raise
            except KeyboardInterrupt:
                code = 128 + signal.SIGINT
                raise
            finally:
                record = STATE / "failure.json"
                facts = book.summary(code, read_json(record) if healing.readable(record) else None)
                book.end(facts)
                if refused is not None:  # before any stage: the record of a stage's own refusal is there already
                    leave_record(record, command, refused)
                late = webhook.deliver(facts, sentence(facts))
                if late is not None:
                    book.emit("webhook", delivered=False, why=late)
                    print(f"{command}: the webhook was not told: {late}", file=sys.stderr, flush=True)
    except BusyRefused as refusal:
        book.problems(refusal.problems)
        book.emit("summary", **book.summary(refusal.exit_code))
        raise
    return ServiceRefused.exit_code if late is not None and strict and code == 0 else code


def run(*, as_of: str | None = None, log: str | None = None, strict: bool = False) -> int:
    """Run all that changed and publish; return the exit code. log: text or json, else as the environment says."""

    def act(book: Logbook) -> int:
        if as_of is not None:
            key = ("sources", source_name(), "as_of") if "as_of" in overrides(source_name()) else ("as_of",)
            params_file.set_value(*key, value=as_of)
        preflight()
        _refuse_altered()
        return _reproduce(book)

    return tell("run", log, act, strict=strict)


def _refuse_altered() -> None:
    """Refuse (exit code 7) files that were altered since the last run ended well: DVC would trust some of them."""
    problems = held.altered()
    if problems:
        raise IntegrityRefused(problems)


def _reproduce(book: Logbook) -> int:
    """Heal, repro, and set `current` right where only the link was lost."""
    from pipeline import sinks, tracking, versions
    from pipeline.promote import Params as Promote

    healing.heal()
    tracking.spool.begin()
    _warn_open_ended()
    scorer = Path("data/promote/scorer/manifest.json")
    if scorer.exists() and read_json(scorer).get("experiment"):
        # An experiment left its candidate in scorer/; to DVC it counts as up to date. Its training comes first, or the
        # experiment's own model would be judged as if it were a candidate.
        for step in (("evaluate",), ("--force", "--single-item", "promote")):
            code = dvc("repro", *step, line=book.line)
            if code:
                return code
    code = _look_into_links(book) or dvc("repro", line=book.line)
    if code == 0:
        versions.repair_current()
        held.note()
        sinks.follow()
    if code < 128:
        tracking.catch_up(strict=code == 0 and Promote.load().tracking_strict)
    return code


def _look_into_links(book: Logbook) -> int:
    """Run ingest where the source has linked folders: to DVC they never change, and ingest says so in a second."""
    return (
        dvc("repro", "--force", "--single-item", "ingest", line=book.line) if has_linked_folders(source_name()) else 0
    )


def retrain(*, log: str | None = None, strict: bool = False) -> int:
    """Move train.until of the source to the as_of of the data at hand, where the newest mature outcomes end; then run.

    Ingest runs first: a delivery that came since the last run counts.
    """

    def act(book: Logbook) -> int:
        preflight()
        _refuse_altered()
        healing.heal()
        code = dvc("repro", "ingest", line=book.line) or _look_into_links(book)
        if code:
            return code
        from pipeline.train import Params as Train

        as_of, before = str(read_json(Path("data/ingest/as_of.json"))["as_of"]), Train.load().until
        params_file.set_value("sources", source_name(), "train", "until", value=as_of)
        print(
            f"retrain: outcomes known before {as_of} train"
            + (
                " as before: nothing newer is mature"
                if str(before) == as_of
                else f" (train.until was {before or 'null'})"
            )
        )
        return _reproduce(book)

    return tell("retrain", log, act, strict=strict)
