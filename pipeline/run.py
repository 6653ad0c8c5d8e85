"""One run from the outside: lock, check, heal, `dvc repro` in its own process group, the exit code of what happened.

DVC flattens every exit code to 255, leaves its stages alive when it is killed, and can wedge on its own lock; this
wrapper owns what DVC does not. A schedule calls it as `python -m pipeline run`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from ruamel.yaml import YAML

from features.errors import (
    BusyRefused,
    ConfigurationRefused,
    DataRefused,
    Problem,
    Refusal,
    ResourceRefused,
    ServiceRefused,
)
from pipeline.params import PARAMS_FILE, STAGES, overrides, read_params, resolved_as_of, source_name
from pipeline.raw import has_linked_folders
from pipeline.stage import RECORD, read_json

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
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            since = datetime.fromtimestamp(os.fstat(handle.fileno()).st_mtime, UTC)  # it wrote its number when it began
            found = f"a run of process {owner}, begun {since:%Y-%m-%d %H:%M:%S} UTC"
            raise BusyRefused(
                Problem("workspace", "free of other runs", found, "Wait for it, then run again.")
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid()}")
        handle.flush()
        yield


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

    _refuse_open_doors()
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


def _refuse_open_doors() -> None:
    """Refuse (exit code 4) folders in which any user of the machine may plant a file that a run then trusts."""
    private = (STATE, Path(".dvc"), Path(".dvc/cache"), Path(".dvc/tmp"), Path("mlruns"),
               Path("data"), Path("data/promote"), Path("data/publish"), Path("data/journal"))  # fmt: skip
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

    sinks.stated()


def heal() -> None:
    """Undo what a killed run left: its stages, DVC's lock files, half-written versions. Called under the lock."""
    record = STATE / "group"
    if record.exists():
        group, _, started = record.read_text(encoding="utf-8").partition(" ")
        for process in _group_members(int(group or 0)):
            if started and _started(process) >= int(started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        record.unlink()
    rwlock = Path(".dvc/tmp/rwlock")
    if rwlock.exists() and not _readable(rwlock):
        rwlock.unlink()  # a kill left it torn: every later `dvc repro` would exit 255. DVC drops dead owners itself
    _close_site_cache()
    for litter in Path("data/publish").glob("versions/.tmp-*"):
        shutil.rmtree(litter, ignore_errors=True)


def _close_site_cache() -> None:
    """Have DVC's site cache closed to others: DVC makes it open to every user and unpickles what lies in it.

    One that was open is emptied, since nobody knows who wrote there; it only spares DVC some hashing.
    """
    site = Path(".dvc/tmp/site")
    if site.is_dir() and site.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        shutil.rmtree(site)
    site.mkdir(mode=0o700, parents=True, exist_ok=True)


def _group_members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    members.append(int(entry.name))
    return members


def _started(process: int) -> int:
    """Return a process's start in clock ticks since boot; -1 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1


def _readable(path: Path) -> bool:
    """Return whether a file holds JSON."""
    try:
        read_json(path)
    except ValueError:
        return False
    return True


def dvc(*arguments: str) -> int:
    """Run dvc in a process group of its own and return an exit code of ARCHITECTURE's list.

    A signal to this process ends the whole group. A stage that refuses leaves its code in a record that this reads.
    """
    failure = (STATE / "failure.json").resolve()
    failure.write_bytes(b" " * RESERVED)  # a stage that finds the disk full must still be able to say so
    environment = dict(os.environ) | {RECORD: str(failure), "PYTHONUNBUFFERED": "1"}
    executable = Path(sys.executable).parent / "dvc"
    child = subprocess.Popen([str(executable), *arguments], env=environment, start_new_session=True)
    (STATE / "group").write_text(f"{child.pid} {_started(child.pid)}", encoding="utf-8")
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
        (STATE / "group").unlink(missing_ok=True)
    if received:
        return 128 + received[0]
    if code == 0:
        return 0
    if _readable(failure):
        return int(read_json(failure)["exit_code"])
    return 128 - code if code < 0 else 1


def _write_params(*path: str, value: str) -> None:
    """Set one value of params.yaml, keeping its comments; the file is replaced in one step."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
    place = document
    for key in path[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
    if str(place.get(path[-1])) == value:
        return
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    place[path[-1]] = DoubleQuotedScalarString(value) if value != "latest" else value
    fresh = PARAMS_FILE.with_suffix(".yaml.new")
    with fresh.open("w", encoding="utf-8") as handle:
        yaml.dump(document, handle)
    fresh.replace(PARAMS_FILE)


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


def run(*, as_of: str | None = None) -> int:
    """Run all that changed and publish; return the exit code."""
    _ensure_repository()
    with owned():
        if as_of is not None:
            key = ("sources", source_name(), "as_of") if "as_of" in overrides(source_name()) else ("as_of",)
            _write_params(*key, value=as_of)
        preflight()
        return _reproduce()


def _reproduce() -> int:
    """Heal, repro, and set `current` right where only the link was lost."""
    from pipeline import sinks, versions

    heal()
    _warn_open_ended()
    scorer = Path("data/promote/scorer/manifest.json")
    if scorer.exists() and read_json(scorer).get("experiment"):
        # An experiment left its candidate in scorer/; to DVC it counts as up to date. Its training comes first, or the
        # experiment's own model would be judged as if it were a candidate.
        for step in (("evaluate",), ("--force", "--single-item", "promote")):
            code = dvc("repro", *step)
            if code:
                return code
    if has_linked_folders(source_name()):  # to DVC they never change; where nothing did, ingest says so in a second
        code = dvc("repro", "--force", "--single-item", "ingest")
        if code:
            return code
    code = dvc("repro")
    if code == 0:
        versions.repair_current()
        print(f"run: {versions.describe_current()}", flush=True)
        sinks.follow()
    elif code == ServiceRefused.exit_code and read_json(STATE / "failure.json")["stage"] == "publish":
        print(f"run: published, but not everywhere (exit code {code}); {versions.describe_current()}", file=sys.stderr)
    else:
        print(f"run: nothing published (exit code {code}); {versions.describe_current()}", file=sys.stderr, flush=True)
    return code


def retrain() -> int:
    """Move train.until of the source to the as_of of the data at hand, then run."""
    _ensure_repository()
    with owned():
        preflight()
        known = Path("data/ingest/as_of.json")
        if not known.exists() or read_json(known).get("source") != source_name():
            code = dvc("repro", "ingest")
            if code:
                return code
        if not known.exists():
            raise DataRefused(Problem(str(known), "written by ingest", "no such file", "Run the pipeline first."))
        _write_params("sources", source_name(), "train", "until", value=str(read_json(known)["as_of"]))
        return _reproduce()
