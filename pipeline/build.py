"""The building of the canonical tables: raw files -> staged rows in the engine -> kept rows, quarantine, counts.

`Build` holds one engine whose SQL can reach the source's files, a scratch folder and the output folder, and nothing
else. Compile everything first (all faults of the mapping together), then read, mark, write.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from features.errors import ConfigurationRefused, DataRefused, Problem
from features.expressions import Texts, name, quote
from features.mapping import Block, Format, Mapping
from features.reconcile import (
    BROKEN,
    CONFLICT,
    DUPLICATE,
    KEPT,
    LEFT_OUT,
    ORPHAN,
    QUARANTINED,
    counts,
    mark_orphans,
    mark_versions,
    staged,
)  # fmt: skip
from features.staging import Relation, Stage, Staged, output_columns
from features.tables import MONEY
from pipeline.raw import RawFile, RawReader, read_head, select_files

STATES = {KEPT: "kept", LEFT_OUT: "left_out", DUPLICATE: "deduplicated"}
ROW_GROUP = 122880


@dataclass
class Raw:
    """One reading of some files: its table in the engine and the lines that could not be split into columns."""

    relation: Relation
    files: list[RawFile]
    form: Format
    loaded: bool = False
    rejected: list[tuple[int, int, str]] = field(default_factory=list)  # file number, row below the header, text


@dataclass
class Piece:
    """One compiled block (or one entry of its `repeat`): which block it belongs to and what it reads."""

    table: str
    block: int
    raw: Raw
    query: Staged
    joined: list[Raw]


def engine(memory_limit: str, scratch: Path, folders: list[Path]) -> duckdb.DuckDBPyConnection:
    """Return an engine confined to `folders`: no network, no extension, no other file, settings locked."""
    connection = duckdb.connect()
    allowed = ", ".join(quote(f"{folder.resolve()}/") for folder in [scratch, *folders])
    for setting in (
        "SET threads = 2", f"SET memory_limit = {quote(memory_limit)}", f"SET temp_directory = {quote(str(scratch))}",
        "SET autoinstall_known_extensions = false", "SET autoload_known_extensions = false", "SET TimeZone = 'UTC'",
        "SET preserve_insertion_order = true", f"SET allowed_directories = [{allowed}]",
        "SET disabled_optimizers = 'common_subexpressions'",  # it hoists a failing cast out of the TRY around it
        "SET enable_external_access = false", "SET lock_configuration = true",
    ):  # fmt: skip
        connection.execute(setting)
    return connection


def dependency_order(tables: list[str]) -> list[str]:
    """Return the tables with those first that others refer to."""
    first = [table for table in ("customers", "credits") if table in tables]
    return first + sorted(table for table in tables if table not in first)


class Build:
    """One source's canonical tables in the making."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping, files: list[RawFile], where: str,
                 scratch: Path) -> None:  # fmt: skip
        self.connection, self.mapping, self.files, self.where = connection, mapping, files, where
        self.reader = RawReader(connection, scratch)
        self.raws: dict[str, Raw] = {}
        self.pieces: list[Piece] = []
        self.dated = any(file.delivery.delivered_on for file in files)

    def _raw(self, patterns: list[str], form: Format, place: str, problems: list[Problem]) -> Raw | None:
        """Return the reading of a block's files, with their columns known and an empty table in the engine."""
        files = select_files(self.files, patterns)
        if not files:
            problems.append(
                Problem(f"{place}.files", f"a file of the source ({', '.join(patterns)})", "no such file",
                        "Deliver the file or correct the glob.")
            )  # fmt: skip
            return None
        empty = [file.name for file in files if file.path.stat().st_size == 0]
        if empty:
            problems.append(
                Problem(f"{place}: {', '.join(empty[:5])}", "a file with rows", "an empty file", "Deliver it.")
            )
            return None
        if form.type in ("csv", "arff") and not any(read_head(file, form)[2] for file in files):
            problems.append(
                Problem(f"{place}: {', '.join(patterns)}", "files with rows", "headers alone", "Deliver the rows.")
            )
            return None
        key = repr((sorted(file.name for file in files), form))
        if key not in self.raws:
            types = self.reader.columns(files, form)
            texts = Texts(form.decimal, form.thousands, tuple(form.dates))
            relation = Relation(f"raw_{len(self.raws)}", types, texts)
            columns = ", ".join(f"{name(column)} {kind}" for column, kind in types.items())
            self.connection.execute(
                f"CREATE TEMP TABLE {relation.name} ({columns}, __file INTEGER, __delivered_on DATE)"
            )
            self.raws[key] = Raw(relation, files, form)
        return self.raws[key]

    def compile(self) -> None:
        """Compile every block against its files' columns; refuse missing files (2) or faulty SQL (4), all together."""
        missing: list[Problem] = []
        wrong: list[Problem] = []
        for table in dependency_order(list(self.mapping.tables)):
            for number, block in enumerate(self.mapping.tables[table]):
                place = f"{self.where}: tables.{table}[{number}]"
                raw = self._raw(block.files, block.format, place, missing)
                joined = {
                    join.alias: self._raw(join.files, join.format, f"{place}.joins.{join.alias}", missing)
                    for join in block.joins
                }
                if raw is None or None in joined.values():
                    continue
                relations = {"row": raw.relation, **{alias: other.relation for alias, other in joined.items() if other}}
                faults: list[Problem] = []
                for part in block.repeats():
                    query = self._stage(table, part, place, relations)
                    faults += [problem for problem in query.problems if problem not in faults]
                    others = [other for other in joined.values() if other]
                    self.pieces.append(Piece(table, number, raw, query, others))
                wrong += faults
        if wrong:
            raise ConfigurationRefused([*wrong, *missing])
        if missing:
            raise DataRefused(missing)

    def _stage(self, table: str, block: Block, place: str, relations: dict[str, Relation]) -> Staged:
        """Compile one block and let the engine bind the whole query."""
        stage = Stage(self.connection, self.mapping, table, block, place, relations, has_deliveries=self.dated)
        query = stage.compile()
        if not query.problems:
            try:
                self.connection.execute(f"EXPLAIN {query.fast}")
            except duckdb.Error as error:
                found = " ".join(str(error).split("LINE 1")[0].split())[:200]
                query.problems.append(Problem(place, "SQL that DuckDB can bind", found, "Correct the SQL."))
        return query

    def load(self, raw: Raw) -> None:
        """Read a block's files into the engine; lines that do not split into the columns are kept as rejected."""
        if raw.loaded:
            return
        columns = ", ".join(name(column) for column in [*raw.relation.types, "__file", "__delivered_on"])
        query = self.reader.query(raw.files, raw.form)
        try:
            self.connection.execute(f"INSERT INTO {raw.relation.name} ({columns}) SELECT {columns} FROM ({query})")
        except duckdb.Error as error:
            kind = type(error).__name__
            names = ", ".join(file.name for file in raw.files[:3])
            raise DataRefused(
                Problem(
                    names, f"readable as {raw.form.type} in {raw.form.encoding}", kind, "Correct `format` or the file."
                )
            ) from error
        raw.loaded = True
        if self.connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
        ).fetchone()[0]:
            rows = self.connection.execute(
                "SELECT s.file_path, e.line, min(e.csv_line) FROM reject_errors e "
                "JOIN reject_scans s USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"
            ).fetchall()
            above = raw.form.skip + int(raw.form.header)
            raw.rejected = [(self.reader.paths[path], line - above, text or "") for path, line, text in rows]
            self.connection.execute("DELETE FROM reject_errors")
            self.connection.execute("DELETE FROM reject_scans")

    def stage(self, table: str) -> None:
        """Fill a table's staged rows from its pieces, each row with where it came from and whether it is whole."""
        contract = self.mapping.contract(table)
        columns = output_columns(contract, self.mapping.tables[table])
        types = ", ".join(f"{name(column)} {kind}" for column, kind in columns.items())
        count = "" if contract.key else ", _n BIGINT"
        self.connection.execute(
            f"CREATE TEMP TABLE {staged(table)} "
            f"({types}, _file INTEGER, _row BIGINT, _state UTINYINT{count}, _block USMALLINT)"
        )
        listed = ", ".join(name(column) for column in columns)
        for number, piece in enumerate(self.pieces):
            if piece.table != table:
                continue
            for raw in [piece.raw, *piece.joined]:
                self.load(raw)
            state = f"CASE WHEN _left_out THEN {LEFT_OUT} WHEN _broken THEN {BROKEN} ELSE {KEPT} END"
            self.connection.execute(
                f"INSERT INTO {staged(table)} SELECT {listed}, _file, _row, {state}{', _n' if count else ''}, {number} "
                f"FROM ({piece.query.fast})"
            )
            read = self._rows(piece.raw)
            got = self.connection.execute(f"SELECT count(*) FROM {staged(table)} WHERE _block = {number}").fetchone()[0]
            if got != read:
                raise DataRefused(
                    Problem(f"{self.where}: tables.{table}[{piece.block}].joins",
                            f"one row for each of the file's {read:,}",
                            f"{got:,} rows", "Join a file in which the condition holds for at most one row.")
                )  # fmt: skip

    def _rows(self, raw: Raw) -> int:
        """Return how many rows a reading gave."""
        return int(self.connection.execute(f"SELECT count(*) FROM {raw.relation.name}").fetchone()[0])

    def mark(self, table: str) -> None:
        """Find orphans, duplicates and conflicts among the staged rows."""
        contract = self.mapping.contract(table)
        columns = list(output_columns(contract, self.mapping.tables[table]))
        mark_orphans(self.connection, contract, set(self.mapping.tables))
        mark_versions(self.connection, contract, columns)

    def quality(self, table: str) -> dict[str, Any]:
        """Return the table's account: rows and money read = kept + quarantined + deduplicated + left out, by block."""
        contract = self.mapping.contract(table)
        money = [column for column, spec in contract.columns.items() if spec.type == MONEY]
        records = counts(self.connection, contract, money)
        blocks = []
        for number, block in enumerate(self.mapping.tables[table]):
            parts = {i: piece for i, piece in enumerate(self.pieces) if (piece.table, piece.block) == (table, number)}
            account: dict[str, int] = defaultdict(int)
            totals: dict[str, dict[str, Any]] = {
                column: defaultdict(int) for column in money if column in block.columns
            }
            share = defaultdict(int)
            for record in records:
                if record["_block"] not in parts:
                    continue
                state = STATES.get(record["_state"], "quarantined")
                account[state] += record["n"]
                for column, sums in totals.items():
                    sums[state] += record[f"sum:{column}"] or 0
                if contract.measure in totals:
                    share[state] += record[f"abs:{contract.measure}"] or 0
            unread = sum(len(piece.raw.rejected) for piece in parts.values())
            account["quarantined"] += unread
            read = unread + sum(self._rows(piece.raw) for piece in parts.values())
            assert read == sum(account.values()), f"{table}: rows are lost"
            raw = next(iter(parts.values())).raw
            blocks.append(
                {
                    "files": len(raw.files),
                    "read": read,
                    **{state: account[state] for state in ("kept", "quarantined", "deduplicated", "left_out")},
                    "totals": {
                        column: {
                            "read": f"{sum(sums.values()):.2f}",
                            **{
                                state: f"{sums[state]:.2f}"
                                for state in ("kept", "quarantined", "deduplicated", "left_out")
                            },
                        }
                        for column, sums in totals.items()
                    },
                    "absolute": {state: f"{share[state]:.2f}" for state in ("kept", "quarantined")},
                }
            )
        rules = self.connection.execute(
            f"SELECT rule, count(*) FROM (SELECT unnest(rules) AS rule FROM {name('quarantine_' + table)}) "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        return {"blocks": blocks, "rules": dict(rules), "kept": sum(block["kept"] for block in blocks)}

    def quarantine(self, table: str, target: Path) -> int:
        """Write the rows that broke a rule: where they stood, every rule, the original text; return how many."""
        holding = name(f"quarantine_{table}")
        self.connection.execute(
            f"CREATE TEMP TABLE {holding} (block INTEGER, file VARCHAR, line BIGINT, delivery VARCHAR, "
            "rules VARCHAR[], original VARCHAR)"
        )
        for number, piece in enumerate(self.pieces):
            if piece.table == table:
                self._quarantine_piece(table, number, piece)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.connection.execute(
            f"COPY (SELECT *, count(DISTINCT delivery) OVER (PARTITION BY block, original) AS deliveries "
            f"FROM {holding} ORDER BY ALL) TO {quote(str(target.resolve()))} (FORMAT parquet, COMPRESSION zstd)"
        )
        return int(self.connection.execute(f"SELECT count(*) FROM {holding}").fetchone()[0])

    def _quarantine_piece(self, table: str, number: int, piece: Piece) -> None:
        """Add one piece's quarantined rows, evaluated once more with every rule named."""
        holding, raw = name(f"quarantine_{table}"), piece.raw.relation.name
        for file, line, text in piece.raw.rejected:
            origin = self.reader.files[file]
            self.connection.execute(
                f"INSERT INTO {holding} VALUES (?, ?, ?, ?, ['columns'], ?)",
                [piece.block, origin.name, line, origin.delivery.name, text],
            )
        bad = f"SELECT _row, _state FROM {staged(table)} WHERE _block = {number} AND _state IN {QUARANTINED}"
        if not self.connection.execute(f"SELECT count(*) FROM ({bad})").fetchone()[0]:
            return
        self.connection.execute("CREATE OR REPLACE TEMP TABLE origins (id INTEGER, file VARCHAR, delivery VARCHAR)")
        self.connection.executemany(
            "INSERT INTO origins VALUES (?, ?, ?)",
            [(self.reader.ids[file.name], file.name, file.delivery.name) for file in piece.raw.files],
        )
        self.connection.execute("CREATE OR REPLACE TEMP TABLE rejects (file INTEGER, gap BIGINT)")
        gaps = [(file, line - sum(1 for other in piece.raw.rejected[:i] if other[0] == file))
                for i, (file, line, _) in enumerate(piece.raw.rejected)]  # fmt: skip
        if gaps:
            self.connection.executemany("INSERT INTO rejects VALUES (?, ?)", gaps)
        fields = ", ".join(f"{name(column)} := r.{name(column)}" for column in piece.raw.relation.types)
        self.connection.execute(f"""
            INSERT INTO {holding}
            WITH bad AS ({bad}),
            first AS (SELECT __file, min(rowid) AS start FROM {raw} GROUP BY ALL),
            ruled AS (SELECT _row, _broken FROM ({piece.query.detail}) WHERE _row IN (SELECT _row FROM bad)),
            placed AS (
                SELECT bad._row, bad._state, ruled._broken, r.__file, r.rowid - first.start + 1 AS place,
                    CAST(to_json(struct_pack({fields})) AS VARCHAR) AS original
                FROM bad JOIN ruled USING (_row) JOIN {raw} r ON r.rowid = bad._row
                JOIN first ON first.__file = r.__file
            )
            SELECT {piece.block}, origins.file,
                place + (SELECT count(*) FROM rejects WHERE file = placed.__file AND gap <= placed.place),
                origins.delivery,
                CASE _state WHEN {CONFLICT} THEN ['conflict'] WHEN {ORPHAN} THEN ['reference'] ELSE _broken END,
                original
            FROM placed JOIN origins ON origins.id = placed.__file
        """)

    def write(self, table: str, folder: Path) -> int:
        """Write the kept rows, one file a month of knowledge, totally ordered; return the number of months."""
        contract = self.mapping.contract(table)
        columns = list(output_columns(contract, self.mapping.tables[table]))
        listed = ", ".join(name(column) for column in columns)
        order = [*contract.key, "known_on"] if contract.key else columns
        ordered = name(f"ordered_{table}")
        self.connection.execute(
            f"CREATE TEMP TABLE {ordered} AS SELECT {listed}, strftime(known_on, '%Y-%m') AS _month "
            f"FROM {staged(table)} WHERE _state = {KEPT} ORDER BY _month, {', '.join(name(column) for column in order)}"
        )
        months = self.connection.execute(f"SELECT _month, count(*) FROM {ordered} GROUP BY ALL ORDER BY ALL").fetchall()
        rows = self.connection.execute(f"SELECT {listed} FROM {ordered}").to_arrow_reader(ROW_GROUP)
        _write_months(rows, months, folder)
        self.connection.execute(f"DROP TABLE {ordered}")
        return len(months)


def _write_months(rows: Any, months: list[tuple[str, int]], folder: Path) -> None:
    """Cut an ordered stream of record batches into one parquet file a month: same rows, same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = iter(rows)
    held: list[Any] = []
    for month, count in months:
        have = sum(batch.num_rows for batch in held)
        while have < count:
            held.append(next(batches))
            have += held[-1].num_rows
        whole = pa.Table.from_batches(held, rows.schema)
        part, rest = whole.slice(0, count), whole.slice(count)
        held = rest.to_batches() if rest.num_rows else []
        target = folder / f"known_month={month}" / "part.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            part.combine_chunks(), target, compression="zstd", row_group_size=ROW_GROUP, store_decimal_as_integer=True
        )
