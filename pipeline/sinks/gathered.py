"""What a pull has read and not yet delivered, and what it delivered of each record: tables beside those of the journal.

Every page is one commit with the place at which the next begins, so that a killed pull goes on there. What is known of
a record is its identifier, its customer's and hashes; whole records lie here only until they are delivered, or, where
they cannot be, until they can.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline.sinks.journal import Journal

SCHEMA = """
create table if not exists pulls (account text primary key, settings text, began integer, since text) without rowid;
create table if not exists places (account text, object text, after text, done integer not null,
    primary key (account, object)) without rowid;
create table if not exists gathered (account text, object text, record_id text, record text not null,
    primary key (account, object, record_id)) without rowid;
create table if not exists listed (account text, object text, record_id text,
    primary key (account, object, record_id)) without rowid;
create table if not exists pulled (account text, object text, record_id text, customer_id text, digest text,
    second_digest text, version integer, primary key (account, object, record_id)) without rowid;
create table if not exists waiting (account text, object text, record_id text, record text not null,
    primary key (account, object, record_id)) without rowid;
"""
PULLED = ("object", "record_id", "customer_id", "digest", "second_digest", "version")
LISTING = "#"  # behind an object's name: the place in the list of all its identifiers


class Gathered(Journal):
    """The state of one account's pulls, open."""

    def __init__(self, path: Path, account: str) -> None:
        super().__init__(path, account)
        self._open.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def begin(self, settings: str, now: int, *, full: bool) -> tuple[int, dict[str, int]]:
        """Return when the unfinished pull of these settings began, or begin one, and since when each object is read.

        settings: a hash of what decides how records are read; others than before read all anew. now: milliseconds.
        """
        row = self._open.execute(
            "select settings, began, since from pulls where account = ?", (self.account,)
        ).fetchone()
        same = row is not None and row[0] == settings
        since: dict[str, int] = json.loads(row[2]) if same and not full else {}
        if same and row[1] is not None and not full:
            return int(row[1]), since
        with self._open:
            self._forget()
            self._open.execute(
                "insert or replace into pulls values (?, ?, ?, ?)", (self.account, settings, now, json.dumps(since))
            )
        return now, since

    def _forget(self) -> None:
        for table in ("places", "gathered", "listed"):
            self._open.execute(f"delete from {table} where account = ?", (self.account,))

    def place(self, name: str) -> tuple[str | None, bool]:
        """Return where reading goes on, and whether it is at its end."""
        row = self._open.execute(
            "select after, done from places where account = ? and object = ?", (self.account, name)
        ).fetchone()
        return (row[0], bool(row[1])) if row else (None, False)

    def keep(self, name: str, records: Iterable[tuple[str, dict[str, Any]]], after: str | None) -> None:
        """Keep a page, or what is listed on one, and the place of the next in one commit."""
        of = name.removesuffix(LISTING)
        with self._open:
            if name == of:
                rows = [(self.account, of, each, json.dumps(record, ensure_ascii=False)) for each, record in records]
                self._open.executemany("insert or replace into gathered values (?, ?, ?, ?)", rows)
                records = [(each, {}) for _, _, each, _ in rows]
            self._open.executemany(
                "insert or ignore into listed values (?, ?, ?)", [(self.account, of, each) for each, _ in records]
            )
            self._open.execute(
                "insert or replace into places values (?, ?, ?, ?)", (self.account, name, after, after is None)
            )

    def anew(self, name: str) -> None:
        """Give up a place that is no longer known there; what was read stays, and is read again."""
        with self._open:
            self._open.execute("delete from places where account = ? and object = ?", (self.account, name))

    def records(self) -> pa.Table:
        """Return object, record_id and record of what was gathered, and of what waits and was not read anew."""
        return self._table(
            "select object, record_id, record from gathered where account = ?1 union all "
            "select object, record_id, record from waiting w where account = ?1 and not exists (select 1 from gathered "
            "g where g.account = w.account and g.object = w.object and g.record_id = w.record_id) order by 1, 2",
            ("object", "record_id", "record"),
        )

    def listed(self) -> pa.Table:
        """Return object and record_id of all that were seen there."""
        return self._table(
            "select object, record_id from listed where account = ? order by 1, 2", ("object", "record_id")
        )

    def pulled(self) -> pa.Table:
        """Return PULLED of every record that was delivered, text all."""
        names = ", ".join("cast(version as text)" if name == "version" else name for name in PULLED)
        return self._table(f"select {names} from pulled where account = ? order by 1, 2", PULLED)

    def end(self, delivered: pa.Table, gone: pa.Table, waiting: pa.Table, since: dict[str, int]) -> None:
        """Note in one commit what was delivered, what is gone there and what waits, and that this pull is over."""
        with self._open:
            self._open.executemany(
                "delete from pulled where account = ? and object = ? and record_id = ?",
                [(self.account, *row.values()) for row in gone.to_pylist()],
            )
            self._open.executemany(
                "insert or replace into pulled values (?, ?, ?, ?, ?, ?, ?)",
                [(self.account, *row.values()) for row in delivered.select(PULLED).to_pylist()],
            )
            self._open.execute("delete from waiting where account = ?", (self.account,))
            self._open.executemany(
                "insert into waiting values (?, ?, ?, ?)",
                [(self.account, *row.values()) for row in waiting.to_pylist()],
            )
            self._forget()
            self._open.execute(
                "update pulls set began = null, since = ? where account = ?", (json.dumps(since), self.account)
            )
