"""Who was erased: a keyed hash (HMAC-SHA256) of each identifier, so that a later delivery does not bring them back.

data/erased/key             32 random bytes, mode 0600: outside git and every DVC output; lost, nothing can be ingested
data/erased/tombstones.jsonl   {kind, hash}, one a customer or credit, in the order of erasure

Without the key nobody can tell from the hashes who it was, and with it only by trying. Rows of an erased customer are
left out by `ingest`, those that name only his credits too, and counted under the rule `erased`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from features.expressions import name, quote
from features.reconcile import LEFT_OUT, staged
from pipeline.earlier import Rebuild

FOLDER = Path("data/erased")
KEY, STONES = FOLDER / "key", FOLDER / "tombstones.jsonl"
CUSTOMERS, CREDITS = "customers", "credits"
BLOCK = 64  # bytes that SHA-256 works on


@dataclass
class Tombstones:
    """The key, the hashes of those erased as `kind -> hashes`, and what of it this run met.

    lines: the file's own, in their order. learned: credits of erased customers that the deliveries named, by hash.
    """

    key: bytes
    lines: list[str]
    hashes: dict[str, set[str]]
    learned: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def hash(self, kind: str, identifier: str) -> str:
        """Return the keyed hash of an identifier of a kind."""
        return hmac.new(self.key, f"{kind}|{identifier}".encode(), hashlib.sha256).hexdigest()

    def sql(self, kind: str, column: str) -> str:
        """Return the same hash as SQL (DuckDB) of a column."""
        padded = self.key.ljust(BLOCK, b"\0")
        inner, outer = (bytes(byte ^ mask for byte in padded).hex() for mask in (0x36, 0x5C))
        message = f"encode({quote(kind + '|')} || {column})"
        return f"sha256(unhex('{outer}') || unhex(sha256(unhex('{inner}') || {message})))"

    def stated(self, count: int | None = None) -> list[Any]:
        """Return how many there are and the SHA-256 of their lines: what a ledger states of them."""
        lines = self.lines[:count]
        return [len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()]

    def knows(self, identifier: str) -> bool:
        """Return whether a customer was erased."""
        return self.hash(CUSTOMERS, identifier) in self.hashes[CUSTOMERS]

    def leave_out(self, build: Any, tables: list[str], known: Iterable[str] = ()) -> None:
        """Leave the staged rows of erased customers out, and those of credits that are theirs alone.

        known: hashes of credits that earlier deliveries showed to be theirs. Where a later delivery shows another,
        rows read before may hang on it, so that all is built anew (`Rebuild`).
        """
        run = build.connection.execute
        theirs = self.hashes[CREDITS] | set(known)
        owned = f"{self.sql(CUSTOMERS, 'customer_id')} IN ({_listed(self.hashes[CUSTOMERS])})"
        if CREDITS in tables:
            mine = (
                f"SELECT credit_id FROM {staged(CREDITS)} WHERE credit_id IS NOT NULL AND customer_id IS NOT NULL "
                f"GROUP BY credit_id HAVING bool_and({owned})"
            )
            found = run(f"SELECT {self.sql(CREDITS, 'credit_id')} FROM ({mine})").fetchall()
            self.learned = {row[0] for row in found} | set(known)
            if build.earlier.ledger and self.learned - theirs:
                raise Rebuild
            others = f"SELECT {self.sql(CREDITS, 'credit_id')} FROM {staged(CREDITS)} WHERE NOT ({owned})"
            theirs = (theirs | self.learned) - {row[0] for row in run(others).fetchall()}
        for table in tables:
            columns = build.mapping.contract(table).columns
            conditions = [owned] if "customer_id" in columns else []
            if "credit_id" in columns and theirs:
                conditions.append(f"{self.sql(CREDITS, 'credit_id')} IN ({_listed(theirs)})")
            if not conditions:
                continue
            rows = f"FROM {staged(table)} WHERE ({' OR '.join(conditions)})"
            new = f"{rows} AND _file IN (SELECT number FROM files WHERE is_new)"
            self.counts[table] = int(run(f"SELECT count(*) {new}").fetchone()[0])
            gone = name(f"erased_{table}")
            run(f"CREATE OR REPLACE TEMP TABLE {gone} AS SELECT _id {rows}")
            build.holdings[table].restate(f"SELECT _id, {LEFT_OUT} AS _state FROM {gone}")

    def blanked(self, table: str) -> str:
        """Return SQL that blanks the text (`original`) of rows kept out where it names an erased customer.

        Such are lines that could not be split into columns, and rows whose customer could not be told.
        """
        word = self.sql(CUSTOMERS, "word")
        among = f"list_contains([{_listed(self.hashes[CUSTOMERS])}], {word})"
        words = "regexp_split_to_array(original, '[\\s,;|:\"''{}\\[\\]]+')"
        return (
            f"UPDATE {table} SET original = 'erased' WHERE list_bool_or(list_transform({words}, lambda word: {among}))"
        )


def _listed(hashes: Iterable[str]) -> str:
    """Return hashes as a list in SQL; one that none equals where there are none."""
    return ", ".join(quote(each) for each in sorted(hashes)) or "''"


def load(count: int | None = None) -> Tombstones | None:
    """Return the tombstones, the first `count` of them or all, or None where nobody was ever erased.

    Refuses a key that is lost (exit code 7), for without it an erased customer would come back, and one that others
    may read (exit code 4).
    """
    if not STONES.exists():
        return None
    if not KEY.is_file() or KEY.stat().st_size != 32:
        raise IntegrityRefused(
            Problem(
                str(KEY), "there: it tells rows of erased customers", "no key of 32 bytes", "Restore it from a copy."
            )
        )
    if KEY.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationRefused(Problem(str(KEY), "closed to all but its owner", "open", f"chmod 600 {KEY}"))
    lines = STONES.read_text(encoding="utf-8").splitlines()[:count]
    try:
        entries = [json.loads(line) for line in lines]
        hashes = {kind: {each["hash"] for each in entries if each["kind"] == kind} for kind in (CUSTOMERS, CREDITS)}
    except (ValueError, KeyError, TypeError):
        raise IntegrityRefused(
            Problem(str(STONES), "one object a line, with kind and hash", "something else", "Restore it from a copy.")
        ) from None
    return Tombstones(KEY.read_bytes(), lines, hashes)


def begin() -> Tombstones:
    """Return the tombstones that are there, or none yet and a new key."""
    there = load()
    if there is not None:
        return there
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not KEY.is_file() or KEY.stat().st_size != 32:
        write_private(KEY, secrets.token_bytes(32))
    return Tombstones(KEY.read_bytes(), [], {CUSTOMERS: set(), CREDITS: set()})


def lay(stones: Tombstones, customer: str, owned: Iterable[str]) -> None:
    """Lay the tombstones of a customer and his credits, all in one step; those that are there stay in their place."""
    wanted = [(CUSTOMERS, customer), *((CREDITS, each) for each in sorted(owned))]
    for kind, identifier in wanted:
        hashed = stones.hash(kind, identifier)
        if hashed not in stones.hashes[kind]:
            stones.hashes[kind].add(hashed)
            stones.lines.append(json.dumps({"hash": hashed, "kind": kind}, sort_keys=True))
    write_private(STONES, "".join(line + "\n" for line in stones.lines).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, whole or not at all, on the disk before this returns."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)
