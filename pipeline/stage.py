"""How every stage runs: environment, one line of counts a step, refusals as exit codes and a record for `run`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from features.errors import Problem, Refusal, ResourceRefused, plain

T = TypeVar("T")
DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)
RECORD = "BELLWETHER_FAILURE_RECORD"  # set by `python -m pipeline run`: where a stage leaves its exit code


NOTE = Path(".run/sound.json")  # what stood when the last run ended well, as `held` writes it


def say(stage: str, what: str, **counts: float | str) -> None:
    """Print one line: what was read, kept, dropped or written, in counts (never a customer's value)."""
    parts = [f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"
             for name, value in counts.items()]  # fmt: skip
    print(plain(f"{stage:<9} {what}{': ' if parts else ''}{', '.join(parts)}"), flush=True)


def progress(stage: str, items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` behind a progress bar on a terminal; without a terminal nothing is drawn."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{stage}: {what}", total=total)
        for item in items:
            yield item
            bar.advance(task)


def fresh(folder: Path) -> Path:
    """Return `folder`, empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def parquet(path: Path) -> str:
    """Return what DuckDB reads a Parquet file by, or a folder of them (as Spark writes one)."""
    return f"{path}/*.parquet" if path.is_dir() else str(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and a final newline: same value, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def resources(where: str) -> Iterator[None]:
    """Turn a full disk, missing rights or too little memory into a refusal with exit code 5."""
    try:
        yield
    except (MemoryError, PermissionError) as error:
        raise ResourceRefused(
            Problem(where, "enough memory and the right to write", type(error).__name__, "Free some or set the rights.")
        ) from error
    except Exception as error:
        found = next((os.strerror(number) for number in DISK if _is(error, number)), None)
        if found is None:
            raise
        free = f"{shutil.disk_usage('.').free >> 20:,} MiB free"
        raise ResourceRefused(
            Problem(where, "a writable disk with free space", f"{found} ({free})", "Free space, then run again.")
        ) from error


def _is(error: Exception, number: int) -> bool:
    """Tell whether an error is one of the disk: Python's own, or what an engine makes of it in words."""
    if isinstance(error, OSError):
        return error.errno == number or (error.errno is None and os.strerror(number) in str(error))
    return type(error).__module__.endswith("duckdb") and os.strerror(number) in str(error)


def report_refusal(stage: str, refusal: Refusal) -> None:
    """Print each broken rule as a sentence, and leave the record that `run` turns into its exit code."""
    for problem in refusal.problems:
        print(f"{stage}: {problem.sentence()}", file=sys.stderr, flush=True)
    record = os.environ.get(RECORD)
    if record:
        leave_record(Path(record), stage, refusal)


def leave_record(record: Path, stage: str, refusal: Refusal) -> None:
    """Write a refusal as one JSON record: stage, exit code, and each broken rule by its fields."""
    facts = {"stage": stage, "exit_code": refusal.exit_code, "problems": [p.record() for p in refusal.problems]}
    try:
        write_json(record, facts)
    except OSError:  # a full disk: `run` reserved room for the code at least
        with suppress(OSError):
            write_json(record, facts | {"problems": []})


def execute(stage: str, main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main` and exit with the code that its outcome stands for."""
    try:
        with resources(stage):
            NOTE.unlink(missing_ok=True)
            main()
    except Refusal as refusal:
        report_refusal(stage, refusal)
        sys.exit(refusal.exit_code)
    sys.exit(0)
