"""What a pull has read and not yet delivered, and what it delivered of each record: tables beside those of the journal.

Every page is one commit with the place at which the next begins, so that a killed pull goes on there. What is known of
a record is its identifier, its customer's and hashes; whole records lie here only until they are delivered, or, where
they cannot be, until they can. All of it is kept for each folder that is delivered into: what one source was told,
another was not. Versions of contacts go on counting whatever is forgotten, so that the newest stays the newest.
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
    second_digest text, version integer, gone integer not null default 0, delivery text not null default '',
    second_delivery text not null default '', primary key (account, object, record_id)) without rowid;
create table if not exists waiting (account text, object text, record_id text, record text not null,
    primary key (account, object, record_id)) without rowid;
"""
PULLED = ("object", "record_id", "customer_id", "digest", "second_digest", "version")
LATER = {  # columns that a file of an earlier project lacks
    "gone": "integer not null default 0", "delivery": "text not null default ''",
    "second_delivery": "text not null default ''",
}  # fmt: skip
LISTING = "#"  # behind an object's name: the place in the list of all its identifiers


class Gathered(Journal):
    """The state of one account's pulls into one folder, open."""

    def __init__(self, path: Path, account: str, into: str) -> None:
        super().__init__(path, account)
        self._open.executescript(SCHEMA)
        columns = {row[1] for row in self._open.execute("pragma table_info(pulled)")}
        for column, kind in LATER.items():
            if column not in columns:
                self._open.execute(f"alter table pulled add column {column} {kind}")
        self._to = f"{account} {into}"

    def __enter__(self) -> Self:
        return self

    def begin(self, settings: str, now: int, *, full: bool, there: Iterable[str] = ()) -> tuple[int, dict[str, int]]:
        """Return when the unfinished pull of these settings began, or begin one, and since when each object is read.

        settings: a hash of what decides how records are read; others than before read all anew. now: milliseconds.
        full: read all anew, and forget what was delivered in another delivery than those that are still `there`.
        """
        row = self._open.execute("select settings, began, since from pulls where account = ?", (self._to,)).fetchone()
        same = row is not None and row[0] == settings
        since: dict[str, int] = json.loads(row[2]) if same and not full else {}
        if same and row[1] is not None and not full:
            return int(row[1]), since
        with self._open:
            self._forget()
            if full:
                self._forget_lost(set(there))
            self._open.execute(
                "insert or replace into pulls values (?, ?, ?, ?)", (self._to, settings, now, json.dumps(since))
            )
        return now, since

    def _forget_lost(self, there: set[str]) -> None:
        """Take what lost deliveries told for untold: a record is new again, one that is gone is told once more."""
        for column, digest in (("delivery", "digest"), ("second_delivery", "second_digest")):
            told = self._open.execute(f"select distinct {column} from pulled where account = ?", (self._to,)).fetchall()
            lost = [(self._to, name) for (name,) in told if name not in there]
            self._open.executemany(
                f"update pulled set {digest} = null, gone = 0 where account = ? and {column} = ?", lost
            )

    def _forget(self) -> None:
        for table in ("places", "gathered", "listed"):
            self._open.execute(f"delete from {table} where account = ?", (self._to,))

    def place(self, name: str) -> tuple[str | None, bool]:
        """Return where reading goes on, and whether it is at its end."""
        row = self._open.execute(
            "select after, done from places where account = ? and object = ?", (self._to, name)
        ).fetchone()
        return (row[0], bool(row[1])) if row else (None, False)

    def keep(self, name: str, records: Iterable[tuple[str, dict[str, Any]]], after: str | None) -> None:
        """Keep a page, or what is listed on one, and the place of the next in one commit."""
        of = name.removesuffix(LISTING)
        with self._open:
            if name == of:
                rows = [(self._to, of, each, json.dumps(record, ensure_ascii=False)) for each, record in records]
                self._open.executemany("insert or replace into gathered values (?, ?, ?, ?)", rows)
                records = [(each, {}) for _, _, each, _ in rows]
            self._open.executemany(
                "insert or ignore into listed values (?, ?, ?)", [(self._to, of, each) for each, _ in records]
            )
            self._open.execute(
                "insert or replace into places values (?, ?, ?, ?)", (self._to, name, after, after is None)
            )

    def anew(self, name: str) -> None:
        """Give up a place that is no longer known there; what was read stays, and is read again."""
        with self._open:
            self._open.execute("delete from places where account = ? and object = ?", (self._to, name))

    def records(self) -> pa.Table:
        """Return object, record_id and record of what was gathered, and of what waits and was not read anew."""
        return self._table(
            "select object, record_id, record from gathered where account = ?1 union all "
            "select object, record_id, record from waiting w where account = ?1 and not exists (select 1 from gathered "
            "g where g.account = w.account and g.object = w.object and g.record_id = w.record_id) order by 1, 2",
            ("object", "record_id", "record"), self._to,
        )  # fmt: skip

    def listed(self) -> pa.Table:
        """Return object and record_id of all that were seen there."""
        return self._table(
            "select object, record_id from listed where account = ? order by 1, 2", ("object", "record_id"), self._to
        )

    def pulled(self) -> pa.Table:
        """Return PULLED of every record that was delivered and was not told to be gone, text all."""
        names = ", ".join("cast(version as text)" if name == "version" else name for name in PULLED)
        return self._table(f"select {names} from pulled where account = ? and not gone order by 1, 2", PULLED, self._to)

    def counted(self) -> pa.Table:
        """Return object, record_id and the highest version of it that was ever delivered, whoever it was told."""
        return self._table(
            "select object, record_id, cast(max(version) as text) from pulled where ? <> '' group by 1, 2 "
            "order by 1, 2",
            ("object", "record_id", "version"),
        )

    def end(self, delivered: pa.Table, gone: pa.Table, waiting: pa.Table, since: dict[str, int], delivery: str) -> None:
        """Note in one commit what was delivered, what is gone there and what waits, and that this pull is over.

        delivery: its name, kept with what it told.
        """
        with self._open:
            self._open.executemany(
                "update pulled set gone = 1, delivery = ?, second_delivery = ?, version = 1 + (select max(version) "
                "from pulled p where p.object = pulled.object and p.record_id = pulled.record_id) "
                "where account = ? and object = ? and record_id = ?",
                [(delivery, delivery, self._to, *row.values()) for row in gone.to_pylist()],
            )
            self._open.executemany(
                "insert into pulled values (?, ?, ?, ?, ?, ?, ?, 0, ?, ?) on conflict do update set "
                "customer_id = excluded.customer_id, version = excluded.version, gone = 0, "
                "delivery = iif(digest is excluded.digest and not gone, delivery, excluded.delivery), "
                "second_delivery = iif(second_digest is excluded.second_digest and not gone, second_delivery, "
                "excluded.second_delivery), digest = excluded.digest, second_digest = excluded.second_digest",
                [(self._to, *row.values(), delivery, delivery) for row in delivered.select(PULLED).to_pylist()],
            )
            self._open.execute("delete from waiting where account = ?", (self._to,))
            self._open.executemany(
                "insert into waiting values (?, ?, ?, ?)",
                [(self._to, *row.values()) for row in waiting.to_pylist()],
            )
            self._forget()
            self._open.execute(
                "update pulls set began = null, since = ? where account = ?", (json.dumps(since), self._to)
            )
