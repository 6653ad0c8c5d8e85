"""A lender of many events, written as CSV by one engine in bounded memory, and the memory of a tree of processes."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import duckdb

MAPPING = """name: volume
currency: EUR
tables:
  customers:
    files: "people*.csv"
    columns: {customer_id: id, opened_on: since, segment: kind}
  credits:
    files: "loans*.csv"
    columns: {credit_id: loan, customer_id: id, principal: lent, opened_on: since}
  statements:
    files: "states*.csv"
    columns: {credit_id: loan, stated_on: day, balance: owed, days_past_due: late}
  transactions:
    files: "moves*.csv"
    columns: {transaction_id: no, customer_id: id, event_on: day, amount: value, balance_after: rest, category: kind}
"""
MONTHS = 36
PARAMS = {
    "source": "volume",
    "ingest": {"memory_limit": "700MB"}, "featurise": {"memory_limit": "500MB", "windows_months": [3, 12]},
    "observe": {"snapshot_months": 6},
    "tune": {"trials": 2, "max_rounds": 30, "repeats": 1}, "train": {"seeds": 1},
    "evaluate": {"folds": 2, "repeats": 1}, "explain": {"refits": 2, "tried_customers": 50},
}  # fmt: skip


def lay_out(folder: Path, events: int, customers: int) -> int:
    """Write a lender of `events` transactions over three years and return the bytes of its files."""
    raw = folder / "data/raw/volume"
    raw.mkdir(parents=True)
    (folder / "data/sources/volume.yaml").write_text(MAPPING)
    connection = duckdb.connect(config={"memory_limit": "500MB", "threads": 1, "temp_directory": str(raw / "spill")})
    who = f"printf('K%06d', (hash(n) % {customers})::INT)"
    connection.execute(f"""COPY (SELECT printf('K%06d', n) id, DATE '2019-01-01' since,
        ['retail', 'farm', 'trade'][1 + n % 3] kind FROM range({customers}) t(n)) TO '{raw}/people.csv'""")
    connection.execute(f"""COPY (SELECT printf('L%06d', n) loan, printf('K%06d', n) id, 9000.00 lent,
        DATE '2019-06-01' since FROM range({customers}) t(n)) TO '{raw}/loans.csv'""")
    bad_from = (
        "CASE WHEN hash(n * 7) % 100 < 12 THEN hash(n * 11) % 36 ELSE 99 END"  # the month in which one stops paying
    )
    connection.execute(f"""COPY (SELECT printf('L%06d', n) loan,
        last_day((DATE '2020-01-01' + to_months(m::INT))::DATE) AS day, 5000.00 owed,
        greatest(0, least(m - ({bad_from})::INT, 6)) * 30 late
        FROM range({customers}) t(n), range({MONTHS}) u(m)) TO '{raw}/states.csv'""")
    each = -(-events // MONTHS)
    for month in range(MONTHS):
        count = min(each, events - month * each)
        connection.execute(f"""COPY (SELECT printf('T%02d%08d', {month}, n) "no", {who} id,
            (DATE '2020-01-01' + to_months({month}) + to_days((hash(n * 3) % 28)::INT))::DATE "day",
            ((hash(n * 5 + {month}) % 200000)::BIGINT - 100000)::DECIMAL(12, 2) / 100 "value",
            (hash(n * 13) % 900000)::DECIMAL(12, 2) / 100 rest, ['rent', 'food', 'wages'][1 + n % 3] kind
            FROM range({count}) t(n)) TO '{raw}/moves{month:02d}.csv'""")
    connection.close()
    return sum(path.stat().st_size for path in raw.glob("*.csv"))


def tree_memory(root: int) -> int:
    """Return the bytes that a process and all its descendants hold, what they share counted once."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family, total = {root}, 0
    while fresh := {child for child, parent in parents.items() if parent in family} - family:
        family |= fresh
    for process in family:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return total


class Watch:
    """Samples a tree's memory five times a second and keeps the peak of each stage."""

    def __init__(self, root: int) -> None:
        self.root, self.samples = root, 0
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            now, stage = tree_memory(self.root), _stage_of(self.root)
            self.samples += 1
            self.peaks[stage] = max(now, self.peaks.get(stage, 0))

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def _stage_of(root: int) -> str:
    """Return the stage that runs below a process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (root, os.getpid()):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if len(words) > 2 and words[1] == b"-m" and words[2].startswith(b"pipeline."):
                    return words[2].decode()
    return ""
