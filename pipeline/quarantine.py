"""The rows that broke a rule: where each stood in the lender's files, every rule, its original text.

One file a table, rewritten at every run that adds something: rows of earlier deliveries stay as they are, but for those
whose state changed. A row is counted over the distinct deliveries that hold the same text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from features.expressions import name, quote
from features.reconcile import BROKEN, CONFLICT, ORPHAN, QUARANTINED, references, staged
from pipeline.earlier import scan
from pipeline.lines import lines_above, lines_of
from pipeline.reading import Piece, Reading

# What a row says, whatever the order of its file's columns, and whether the file has columns that say nothing.
SAID = """coalesce(CASE WHEN json_valid(original) AND json_type(original) = 'OBJECT' THEN
    CAST(list_sort(list_transform(list_filter(map_entries(CAST(CAST(original AS JSON) AS MAP(VARCHAR, VARCHAR))),
    lambda pair: pair.value IS NOT NULL), lambda pair: [lower(pair.key), pair.value])) AS VARCHAR) END, original)"""


class Quarantine(Reading):
    """What a source's tables keep out."""

    stones: Any = None  # the tombstones of those erased, whose names no text that is kept may hold

    def quarantine(self, table: str, target: Path) -> int:
        """Write the rows that broke a rule: where they stood, every rule, the original text; return how many.

        Rows of earlier deliveries stay as they are, but for those whose state changed.
        """
        holding = name(f"quarantine_{table}")
        self.connection.execute(
            f"CREATE TEMP TABLE {holding} (block INTEGER, piece INTEGER, file VARCHAR, line BIGINT, row BIGINT, "
            "delivery VARCHAR, month VARCHAR, rules VARCHAR[], waits_for VARCHAR[], original VARCHAR)"
        )
        before = self.earlier.quarantine(table)
        if before:
            self.connection.execute(
                f"INSERT INTO {holding} SELECT * EXCLUDE (deliveries) FROM {scan([before])} q WHERE NOT EXISTS ("
                f"SELECT 1 FROM {name('moves_' + table)} JOIN files ON number = _file "
                "WHERE files.file = q.file AND _piece = q.piece AND _place = q.row)"
            )
        for piece in self.pieces_of(table):
            self._quarantine_piece(piece)
        if self.stones is not None:
            self.connection.execute(self.stones.blanked(holding))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.connection.execute(
            f"COPY (SELECT * EXCLUDE (_said), count(DISTINCT delivery) OVER (PARTITION BY block, _said) AS deliveries "
            f"FROM (SELECT *, {SAID} AS _said FROM {holding}) ORDER BY ALL) "
            f"TO {quote(str(target.resolve()))} (FORMAT parquet, COMPRESSION zstd)"
        )
        return self._count(holding)

    def _numbers_in(self, table: str, columns: list[str], rows: Iterable[tuple[int, ...]]) -> None:
        """Make a table of numbers; as text, since bound parameters make the engine import pandas."""
        typed = ", ".join(f"{column} BIGINT" for column in columns)
        self.connection.execute(f"CREATE TEMP TABLE {table} ({typed})")
        waiting = [str(row) for row in rows]
        for start in range(0, len(waiting), 10_000):
            self.connection.execute(f"INSERT INTO {table} VALUES {', '.join(waiting[start : start + 10_000])}")

    def _quarantine_piece(self, piece: Piece) -> None:
        """Add one piece's quarantined rows, each with where it stood, its rules and its original text."""
        table, raw, number = piece.table, piece.raw, piece.number
        holding = name(f"quarantine_{table}")
        bad, texts = name(f"bad_{table}_{number}"), name(f"texts_{table}_{number}")
        moved = (
            f"SELECT _piece, _file, _place FROM {name('moves_' + table)}" if self.earlier.ledger else "SELECT 0, 0, 0"
        )
        self.connection.execute(
            f"CREATE TEMP TABLE {bad} AS SELECT p.*, files.file AS _name, files.delivery AS _delivery, "
            f"coalesce(strftime(known_on, '%Y-%m'), files.month, 'unknown') AS _month FROM {self.placed(table)} p "
            f"JOIN files ON number = _file WHERE _piece = {number} AND _state IN {QUARANTINED} "
            f"AND (is_new OR (_piece, _file, _place) IN ({moved}))"
        )
        unwritten = [
            self.reader.files[row[0]]
            for row in self.connection.execute(
                f"SELECT DISTINCT _file FROM {bad} WHERE _state <> {BROKEN} ORDER BY 1"
            ).fetchall()
        ]
        text = f"{raw.relation.original('r', 'r.__file')} AS original"
        if not unwritten:
            self.connection.execute(f"CREATE TEMP TABLE {texts} (_id BIGINT, original VARCHAR)")
        elif raw.streamed:
            held = name(f"again_{table}_{number}")
            self.connection.execute(f"CREATE TEMP TABLE {held} AS {self.text_of(raw, unwritten)}")
            self.connection.execute(
                f"CREATE TEMP TABLE {texts} AS SELECT b._id, {text} FROM {bad} b "
                f"JOIN (SELECT __file, min(rowid) AS first FROM {held} GROUP BY ALL) f ON f.__file = b._file "
                f"JOIN {held} r ON r.rowid = f.first + b._place - 1 WHERE b._state <> {BROKEN}"
            )
            self.connection.execute(f"DROP TABLE {held}")
        else:
            self.connection.execute(
                f"CREATE TEMP TABLE {texts} AS SELECT b._id, {text} FROM {bad} b "
                f"JOIN {raw.relation.name} r ON r.__row = b._row WHERE b._state <> {BROKEN}"
            )
        where = self._where(piece)
        contract = self.mapping.contract(table)
        waits = ", ".join(
            f"CASE WHEN {name(column)} NOT IN (SELECT {name(column)} FROM {name('keys_' + target)}) "
            f"THEN {name(column)} END"
            for column, target in references(contract, set(self.mapping.tables))
        )
        awaited = f"list_filter([{waits}], lambda id: id IS NOT NULL)" if waits else "NULL"
        self.connection.execute(f"""
            INSERT INTO {holding}
            SELECT {piece.block}, {number}, _name, {where}, _place, _delivery, _month,
                CASE _state WHEN {CONFLICT} THEN ['conflict'] WHEN {ORPHAN} THEN ['reference'] ELSE _rules END,
                CASE WHEN _state = {ORPHAN} THEN {awaited} END, coalesce(_text, original)
            FROM {bad} b LEFT JOIN {texts} USING (_id)
        """)

    def _where(self, piece: Piece) -> str:
        """Add what could not be split into columns to the quarantine; return SQL of the line of a row of `bad`, as `b`.

        The line is null where a file does not say it (the row's number among its file's rows is always there).
        """
        table, raw, number = piece.table, piece.raw, piece.number
        above, gaps, odd = (name(f"{what}_{table}_{number}") for what in ("above", "gaps", "odd"))
        bad, holding = name(f"bad_{table}_{number}"), name(f"quarantine_{table}")
        rows = f"SELECT _file, count(*) FROM {staged(table)} WHERE _piece = {number} GROUP BY 1"
        whole = dict(self.connection.execute(rows).fetchall())
        wanted = {file for (file,) in self.connection.execute(f"SELECT DISTINCT _file FROM {bad}").fetchall()}
        over = {self.reader.ids[file.name]: lines_above(file, raw.form) for file in raw.files}
        rejected: dict[int, list[int]] = {file: [] for file in over}
        for reject in raw.rejected:
            rejected[reject.file].append(reject.line)
        lines: list[tuple[int, int, int]] = []
        moved = {}
        for file, told in rejected.items():
            found = None
            if file in wanted or told:
                found = lines_of(self.reader.files[file], raw.form, whole.get(file, 0), told)
            if found is not None:
                moved[file] = found[1]
                places = self.connection.execute(f"SELECT DISTINCT _place FROM {bad} WHERE _file = {file}").fetchall()
                lines += [(file, place, found[0][place - 1]) for (place,) in places if found[0]]
        for file, line, text, rule in raw.rejected:
            origin = self.reader.files[file]
            at = moved[file].get(line) if file in moved else line + over[file]
            if origin.name in self.new:
                self.connection.execute(
                    f"INSERT INTO {holding} VALUES (?, ?, ?, ?, NULL, ?, ?, [?], NULL, ?)",
                    [piece.block, number, origin.name, at, origin.delivery.name, self._month(file), rule, text],
                )
        self._numbers_in(above, ["file", "lines"], over.items())
        self._numbers_in(gaps, ["file", "gap"], (
            (file, line - before) for file, told in rejected.items() for before, line in enumerate(sorted(told))
        ))  # fmt: skip
        self._numbers_in(odd, ["file", "place", "line"], lines)
        plain = (
            f"_place + (SELECT count(*) FROM {gaps} WHERE file = b._file AND gap <= b._place) "
            f"+ (SELECT lines FROM {above} WHERE file = b._file)"
        )
        told_line = f"(SELECT line FROM {odd} WHERE file = b._file AND place = b._place)"
        files = ", ".join(str(file) for file in moved)
        return f"CASE WHEN _file IN ({files}) THEN {told_line} ELSE {plain} END" if moved else plain

    def _month(self, file: int) -> str:
        """Return the month of a file's delivery."""
        on = self.reader.files[file].delivery.delivered_on
        return str(on)[:7] if on else "unknown"
