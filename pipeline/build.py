"""The building of the canonical tables: staged rows -> months of kept rows, index, quarantine, counts.

`Build` compiles a source's mapping and stages its files (`Reading`), then, table by table: `mark`, `quarantine` (of
`Quarantine`), `quality`, `write`, `write_index`. After an earlier run each of them adds to what that run left: only
months that gain or lose a row are written, and the account of all rows ever read goes on from the account before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from features.expressions import name, quote
from features.reconcile import (
    DUPLICATE,
    KEPT,
    LEFT_OUT,
    REPLACED,
    UNREAD,
    hashes,
    staged,
)  # fmt: skip
from features.staging import output_columns
from features.tables import MONEY
from pipeline.carried import meet
from pipeline.confined import engine
from pipeline.earlier import scan, write_parts
from pipeline.quarantine import Quarantine
from pipeline.reading import Piece, dependency_order

__all__ = ["Build", "dependency_order", "engine"]

STATES = {KEPT: "kept", LEFT_OUT: "left_out", DUPLICATE: "deduplicated", REPLACED: "deduplicated"}
ACCOUNT = ("read", "kept", "quarantined", "deduplicated", "left_out")
CHUNK = 6_000_000  # rows ordered at once


class Build(Quarantine):
    """One source's canonical tables in the making."""

    erased: Mapping[str, int] = MappingProxyType({})  # table -> new rows left out, since their customer was erased

    def mark(self, table: str) -> set[str]:
        """Find orphans, duplicates and conflicts; return earlier files to read once more before anything is written."""
        return meet(self, table)

    def _columns(self, table: str) -> list[str]:
        return list(output_columns(self.mapping.contract(table), self.mapping.tables[table]))

    # ---- the account -------------------------------------------------------------------------------------------

    def _records(self, table: str, money: list[str]) -> list[tuple[int, int, str, int, list[Any], list[Any]]]:
        """Return (piece, state, month, rows, sums, absolute sums): new rows, and earlier ones that change state."""
        month = "CAST(year(known_on) * 100 + month(known_on) AS INTEGER)"
        sums = "".join(f", sum({name(column)}), sum(abs({name(column)}))" for column in money)
        new = f"{staged(table)} WHERE _file IN (SELECT number FROM files WHERE is_new)"
        sources = [(1, "_state", new)]
        if self.earlier.ledger:
            content = f"(SELECT DISTINCT ON (_h, _c) * FROM {name('content_' + table)})"
            both = f"{name('moves_' + table)} m JOIN {content} USING (_h, _c)"
            sources += [(-1, "was", both), (1, "becomes", both)]
        delivered = dict(self.connection.execute("SELECT number, month FROM files").fetchall())
        records = []
        for sign, state, source in sources:
            counted = self.connection.execute(
                f"SELECT _piece, {state}, _file, {month} AS _month, count(*){sums} FROM {source} GROUP BY 1, 2, 3, 4"
            ).fetchall()
            for piece, found, file, when, count, *totals in counted:
                text = f"{when // 100:04d}-{when % 100:02d}" if when else delivered[file] or "unknown"
                values = [sign * (total or 0) for total in totals]
                records.append((piece, found, text, sign * count, values[::2], values[1::2]))
        return records

    def quality(self, table: str) -> dict[str, Any]:
        """Return the table's account: rows and money read = kept + quarantined + deduplicated + left out, by block."""
        contract = self.mapping.contract(table)
        money = [column for column, spec in contract.columns.items() if spec.type == MONEY]
        before = (self.earlier.quality.get("tables") or {}).get(table) or {"blocks": [], "months": {}}
        months: dict[str, dict[str, int]] = {month: dict(counts) for month, counts in before["months"].items()}
        records = self._records(table, money)
        pieces = {piece.number: piece for piece in self.pieces_of(table)}
        block_of = dict(self._numbers(table))
        blocks = []
        for number, block in enumerate(self.mapping.tables[table]):
            old = before["blocks"][number] if before["blocks"] else {}
            account = defaultdict(int, {state: old.get(state, 0) for state in (*ACCOUNT[1:], "replaced")})
            listed = [column for column in money if column in block.columns]
            totals: dict[str, dict[str, Decimal]] = {
                column: defaultdict(Decimal, {state: Decimal(text) for state, text in
                                              old.get("totals", {}).get(column, {}).items()})
                for column in listed
            }  # fmt: skip
            share = defaultdict(Decimal, {state: Decimal(text) for state, text in old.get("absolute", {}).items()})
            for piece, state, month, count, sums, absolute in records:
                if block_of[piece] != number:
                    continue
                called = STATES.get(state, "quarantined")
                _add(account, months, called, month, count)
                account["replaced"] += count if state == REPLACED else 0
                for column in listed:
                    totals[column][called] += sums[money.index(column)]
                if contract.measure in totals:
                    share[called] += absolute[money.index(contract.measure)]
            own = [piece for piece in pieces.values() if piece.block == number]
            for piece in own:
                for file, *_ in piece.raw.rejected:
                    if self.reader.files[file].name in self.new:
                        _add(account, months, "quarantined", self._month(file), 1)
            read = old.get("read", 0) + sum(self._read(piece) for piece in own)
            counted = {state: account[state] for state in ACCOUNT[1:]}
            assert read == sum(counted.values()), f"{table}: rows are lost"
            blocks.append(
                {
                    "files": self.delivered.get((table, number), 0),
                    "read": read,
                    **counted,
                    "replaced": account["replaced"],
                    "totals": {
                        column: {
                            "read": f"{sum((sums[state] for state in ACCOUNT[1:]), Decimal(0)):.2f}",
                            **{state: f"{sums[state]:.2f}" for state in ACCOUNT[1:]},
                        }
                        for column, sums in totals.items()
                    },
                    "absolute": {state: f"{share[state]:.2f}" for state in ("kept", "quarantined")},
                    "absent": self.absent.get((table, number), {}),
                }
            )
        holding = name(f"quarantine_{table}")
        broken = self.connection.execute(
            f"SELECT month, rule, count(*) FROM (SELECT month, unnest(rules) AS rule FROM {holding}) "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        by_month: dict[str, dict[str, int]] = {}
        rules: dict[str, int] = {}
        for month, rule, count in broken:
            by_month.setdefault(month, {})[rule] = count
            rules[rule] = rules.get(rule, 0) + count
        gone = self.erased.get(table, 0) + (before.get("rules") or {}).get("erased", 0)
        rules |= {"erased": gone} if gone else {}  # among those left out
        return {
            "blocks": blocks,
            "rules": rules,
            "rules_by_month": by_month,
            "months": {month: counts for month, counts in months.items() if any(counts.values())},
            "kept": sum(block["kept"] for block in blocks),
        }

    def _numbers(self, table: str) -> list[tuple[int, int]]:
        """Return (piece, block) of a table, those that read nothing in this run too."""
        blocks = [block for block, part in enumerate(self.mapping.tables[table]) for _ in part.repeats()]
        return list(enumerate(blocks))

    def _read(self, piece: Piece) -> int:
        """Return how many rows a piece read of new files, those that could not be split included."""
        rejected = sum(self.reader.files[file].name in self.new for file, *_ in piece.raw.rejected)
        if all(file.name in self.new for file in piece.raw.files):
            return piece.raw.rows + rejected
        if piece.raw.streamed:
            source = f"{staged(piece.table)} JOIN files ON number = _file WHERE is_new AND _piece = {piece.number}"
        else:
            source = f"{piece.raw.relation.name} JOIN files ON number = __file WHERE is_new"
        return self._count(source) + rejected

    # ---- what is kept ------------------------------------------------------------------------------------------

    def _changes(self, table: str) -> str:
        """Make `added_` and `gone_<table>` where earlier rows are concerned; return SQL of the rows added."""
        columns = self._columns(table)
        listed = ", ".join(name(column) for column in columns)
        added = f"SELECT {listed} FROM {staged(table)} WHERE _state = {KEPT}"
        if not self.earlier.ledger or not self._count(name(f"was_{table}")):
            return added
        h, c = hashes(self.mapping.contract(table), columns)
        kept, states, content = (name(f"{what}_{table}") for what in ("kept_before", "states", "content"))
        stands = (
            f"SELECT {h} AS _h, known_on, {c} AS _c FROM {staged(table)} WHERE _state = {KEPT} "
            f"UNION SELECT _h, known_on, _c FROM {states} WHERE _found = {KEPT} AND _id IS NULL"
        )
        whole = f"(SELECT DISTINCT ON (_h, _c) * FROM {content})"
        key = "(_h, known_on, _c)"
        self.connection.execute(
            f"CREATE TEMP TABLE {name('gone_' + table)} AS SELECT {listed} FROM (SELECT {key[1:-1]} FROM {kept} EXCEPT "
            f"({stands})) JOIN {whole} USING (_h, _c)"
        )
        own = f"SELECT {listed}, {h} AS _h, {c} AS _c FROM {staged(table)} WHERE _state = {KEPT}"
        revived = f"SELECT _h, known_on, _c FROM ({stands}) EXCEPT SELECT _h, known_on, _c FROM {kept}"
        self.connection.execute(
            f"CREATE TEMP TABLE {name('added_' + table)} AS "
            f"SELECT {listed} FROM ({own}) ANTI JOIN {kept} USING (_h, known_on, _c) UNION ALL "
            f"SELECT {listed} FROM ({revived}) r ANTI JOIN ({own}) o USING (_h, known_on, _c) "
            f"JOIN {whole} USING (_h, _c)"
        )
        return f"SELECT {listed} FROM {name('added_' + table)}"

    def write(self, table: str, folder: Path) -> int:
        """Write the months that gain or lose rows, each totally ordered; return how many were written."""
        contract, columns = self.mapping.contract(table), self._columns(table)
        listed = ", ".join(name(column) for column in columns)
        order = ", ".join(name(column) for column in ([*contract.key, "known_on"] if contract.key else columns))
        added = self._changes(table)
        lost = self._count(f"duckdb_tables() WHERE table_name = {quote('gone_' + table)}")
        gone = f"SELECT {listed} FROM {name('gone_' + table)}" if lost else None
        month = "strftime(date_trunc('month', known_on), '%Y-%m')"
        counted = self.connection.execute(
            f"SELECT m, count(*) FROM (SELECT date_trunc('month', known_on) AS m FROM ({added}"
            f"{f' UNION ALL {gone}' if gone else ''})) GROUP BY m ORDER BY m"
        ).fetchall()
        groups: list[list[Any]] = [[]]
        size = 0
        for when, count in counted:
            if groups[-1] and size + count > CHUNK:
                groups.append([])
                size = 0
            groups[-1].append(when)
            size += count
        for months in groups if counted else []:
            low, high = f"DATE '{months[0]:%Y-%m-%d}'", f"DATE '{months[-1]:%Y-%m-%d}'"
            inside = f"WHERE known_on >= {low} AND known_on < {high} + INTERVAL 1 MONTH"
            rows = f"SELECT {listed} FROM ({added}) {inside}"
            paths = [folder / f"known_month={when:%Y-%m}" / "part.parquet" for when in months]
            present = [path for path in paths if path.is_file()]
            if present:
                old = f"SELECT {listed} FROM {scan(present)}"
                if gone:
                    old = f"({old} EXCEPT ALL SELECT {listed} FROM ({gone}) {inside})"
                rows = f"({old}) UNION ALL ({rows})"
                self.connection.execute(f"CREATE OR REPLACE TEMP TABLE rewritten AS {rows}")
                rows = f"SELECT {listed} FROM rewritten"
            sizes = dict(
                self.connection.execute(f"SELECT {month}, count(*) FROM ({rows}) GROUP BY 1 ORDER BY 1").fetchall()
            )
            parts = [(path, sizes.get(f"{when:%Y-%m}", 0)) for path, when in zip(paths, months, strict=True)]
            for path, count in parts:
                if not count and path.is_file():
                    path.unlink()
                    path.parent.rmdir()
            ordered = f"SELECT {listed} FROM ({rows}) ORDER BY date_trunc('month', known_on), {order}"
            write_parts(self.connection.execute(ordered).to_arrow_reader(122880), [part for part in parts if part[1]])
        return len(counted)

    def write_index(self, table: str) -> None:
        """Write the index of each new file's rows: hashes of key and content, `known_on`, piece and place."""
        h, c = hashes(self.mapping.contract(table), self._columns(table))
        new = [number for number, file in enumerate(self.reader.files) if file.name in self.new]
        starts = dict(self.connection.execute(f"SELECT _file, _start FROM {name('starts_' + table)}").fetchall())
        pieces = self.pieces_of(table)
        source, place, order = self.placed(table), "_place", "ORDER BY _file, piece, place"
        as_read = len(pieces) == 1 and pieces[0].raw.streamed and not self.holdings[table].restated
        if as_read:  # a join would mix the rows of its threads
            offsets = ", ".join(str(starts.get(number, 0)) for number in range(len(self.reader.files)))
            source, place, order = staged(table), f"_id - [{offsets}][_file + 1] + 1", ""
        rows = (
            f"SELECT {h} AS h, {c} AS c, known_on, CAST(_piece AS SMALLINT) AS piece, "
            f"CAST({place} AS INTEGER) AS place, _file FROM {source} WHERE _state NOT IN {UNREAD} "
            f"AND list_contains({new}, _file)"
        )
        sizes = self.connection.execute(f"SELECT _file, count(*) FROM ({rows}) GROUP BY 1 ORDER BY 1").fetchall()
        if not order:
            sizes.sort(key=lambda size: starts[size[0]])
        columns = f"SELECT h, c, known_on, piece, place FROM ({rows}) {order}"
        parts = [(self.earlier.index(table, self.reader.files[file].name), count) for file, count in sizes]
        packed = {"h": "none", "c": "none", "known_on": "zstd", "piece": "zstd", "place": "zstd"}
        write_parts(self.connection.execute(columns).to_arrow_reader(122880), parts, packed)


def _add(account: dict[str, int], months: dict[str, dict[str, int]], state: str, month: str, count: int) -> None:
    """Count rows of a state in a block's account and in its month's."""
    account[state] += count
    counts = months.setdefault(month, dict.fromkeys(ACCOUNT, 0))
    counts[state] += count
    counts["read"] += count
