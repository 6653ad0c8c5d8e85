"""What was sent, what was rejected and what it cost: one SQLite file a system under .run/crm, readable by us alone.

A row is marked only after its own success, and each batch is one commit: a killed sync goes on where it was. Losing the
file loses nothing but time, since every row is looked up in the CRM before it is written.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from features.errors import IntegrityRefused, Problem
from pipeline.sinks.interface import Outcome, Row

DAY = 86_400
SCHEMA = """
create table if not exists sent (account text, key text, digest text not null, record_id text,
    primary key (account, key)) without rowid;
create table if not exists rejected (account text, key text, digest text not null, code text not null,
    message text not null, primary key (account, key)) without rowid;
create table if not exists doubtful (account text, key text, since real not null,
    primary key (account, key)) without rowid;
create table if not exists spent (account text, hour integer, credits integer not null,
    primary key (account, hour)) without rowid;
"""


class Journal:
    """The state of one account, open."""

    def __init__(self, path: Path, account: str) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same rights
        path.chmod(0o600)
        self.account = account
        self._open = sqlite3.connect(path)
        try:
            self._open.execute("pragma journal_mode = wal")  # a commit outlives a kill without waiting for the disk
            self._open.execute("pragma synchronous = normal")
            self._open.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            self._open.close()
            remedy = "Remove it: every row is then looked up and sent once more, and none is made twice."
            raise IntegrityRefused(Problem(str(path), "a journal of sync", "another or a torn file", remedy)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _table(self, query: str, names: tuple[str, ...], of: str | None = None) -> pa.Table:
        rows = self._open.execute(query, (of or self.account,)).fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})

    def sent(self) -> pa.Table:
        """Return key and digest of what stands in the CRM, by key."""
        return self._table("select key, digest from sent where account = ? order by key", ("key", "digest"))

    def record_ids(self) -> pa.Table:
        """Return key and record_id of the customers of whom the CRM said which record is theirs, by key."""
        return self._table(
            "select key, record_id from sent where account = ? and record_id <> '' order by key", ("key", "record_id")
        )

    def without_record_id(self) -> list[str]:
        """Return the keys of the customers that the CRM holds in a record not yet known, in order."""
        found = self._open.execute(
            "select key from sent where account = ? and coalesce(record_id, '') = '' order by key", (self.account,)
        )
        return [str(row[0]) for row in found.fetchall()]

    def name_records(self, record_ids: Mapping[str, str]) -> None:
        """Note which record is whose, by key, in one commit."""
        with self._open:
            self._open.executemany(
                "update sent set record_id = ? where account = ? and key = ?",
                [(record_id, self.account, key) for key, record_id in record_ids.items()],
            )

    def rejected(self) -> pa.Table:
        """Return key, digest, code and message of what the CRM did not take, by key."""
        names = ("key", "digest", "code", "message")
        return self._table(f"select {', '.join(names)} from rejected where account = ? order by key", names)

    def record(self, rows: Iterable[tuple[Row, Outcome]]) -> None:
        """Mark what is done and what is rejected, in one commit."""
        with self._open:
            for row, outcome in rows:
                who = (self.account, row.key)
                if outcome.state == "done":
                    self._open.execute("delete from rejected where account = ? and key = ?", who)
                    self._open.execute(
                        "insert or replace into sent values (?, ?, ?, ?)", (*who, row.digest, outcome.record_id)
                    )
                elif outcome.state == "rejected":
                    self._open.execute(
                        "insert or replace into rejected values (?, ?, ?, ?, ?)",
                        (*who, row.digest, outcome.code, outcome.message[:500]),
                    )

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the rejections of customers: they are no longer published, or stand in the CRM as they should."""
        with self._open:
            self._open.executemany(
                "delete from rejected where account = ? and key = ?", [(self.account, key) for key in keys]
            )

    def doubt(self, keys: Iterable[str], since: float) -> None:
        """Note before it is asked for that a record is to be made: who is killed or gets no answer may look too early.

        since: seconds since 1970.
        """
        with self._open:
            self._open.executemany(
                "insert or replace into doubtful values (?, ?, ?)", [(self.account, key, since) for key in keys]
            )

    def believe(self, keys: Iterable[str]) -> None:
        """Drop what was noted of records whose making was answered, or was looked up often enough."""
        with self._open:
            self._open.executemany(
                "delete from doubtful where account = ? and key = ?", [(self.account, key) for key in keys]
            )

    def doubtful(self) -> dict[str, float]:
        """Return key -> since when nobody knows whether its record is still to appear, in seconds since 1970."""
        rows = self._open.execute("select key, since from doubtful where account = ? order by key", (self.account,))
        return {str(key): float(since) for key, since in rows.fetchall()}

    def take_back(self, rows: Iterable[tuple[Row, Outcome]]) -> None:
        """Mark as rejected what was marked as sent, in one commit."""
        held = list(rows)
        self.record(held)
        with self._open:
            self._open.executemany(
                "delete from sent where account = ? and key = ?", [(self.account, row.key) for row, _ in held]
            )

    def spend(self, credits_: int) -> None:
        """Count what a call costs."""
        hour = int(time.time()) // 3600
        with self._open:
            self._open.execute("delete from spent where hour < ?", (hour - 48,))
            self._open.execute(
                "insert into spent values (?, ?, ?) on conflict do update set credits = credits + excluded.credits",
                (self.account, hour, credits_),
            )

    def spent(self) -> int:
        """Return what the calls of the last 24 hours cost, whole hours, the oldest included."""
        oldest = int(time.time() - DAY) // 3600
        row = self._open.execute(
            "select coalesce(sum(credits), 0) from spent where account = ? and hour >= ?", (self.account, oldest)
        ).fetchone()
        return int(row[0])
