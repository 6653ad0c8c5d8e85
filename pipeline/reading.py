"""The reading of raw files into the engine: which files, by which blocks, as which staged rows.

`Reading` holds one engine whose SQL can reach the source's files, a scratch folder and the output folder, and nothing
else. Compile everything first (all faults of the mapping together), then stage table by table. After an earlier run
only new files are read, and those earlier ones whose rows change their state. A file that one block reads alone goes
from its text to typed, checked rows in one pass; files that are joined or read several times are held.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb

from features.errors import ConfigurationRefused, DataRefused, Problem, ResourceRefused
from features.expressions import Texts, name, quote
from features.mapping import Block, Format, Mapping
from features.reconcile import BROKEN, KEPT, LEFT_OUT, staged
from features.staging import Relation, Stage, Staged, output_columns
from pipeline.earlier import Earlier, Rebuild
from pipeline.holding import Holding, too_many
from pipeline.lines import lines_above
from pipeline.packed import look_through, weigh_parquet
from pipeline.pieces import REJECTS, TEXTS, UNQUOTED, Piece, Raw, Reject, header_faults, headless, swallows
from pipeline.raw import HEAD, RawFile, RawReader, is_utf8, read_head, select_files, unreadable


def dependency_order(tables: list[str]) -> list[str]:
    """Return the tables with those first that others refer to."""
    first = [table for table in ("customers", "credits") if table in tables]
    return first + sorted(table for table in tables if table not in first)


class Reading:
    """The raw files of one source, read by its mapping: `files` are all of the source, `earlier` explains some."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        mapping: Mapping,
        files: list[RawFile],
        where: str,
        scratch: Path,
        earlier: Earlier | None = None,
        again: frozenset[str] = frozenset(),
    ) -> None:
        self.connection, self.mapping, self.files, self.where = connection, mapping, files, where
        self.earlier = earlier or Earlier(scratch)
        self.again = again
        self.new = {file.name for file in files} - set(self.earlier.files)
        self.reader = RawReader(connection, scratch)
        self.reader.headers.update(self.earlier.ledger.get("headers") or {})
        self.scratch = scratch
        self.holdings: dict[str, Holding] = {}
        self.raws: dict[str, Raw] = {}
        self.pieces: list[Piece] = []
        self.absent: dict[tuple[str, int], dict[str, int]] = {}  # (table, block) -> column -> files without it
        self.delivered: dict[tuple[str, int], int] = {}  # (table, block) -> files
        self.clean: set[str] = set()  # files of text in which no NUL and no byte order mark was found
        self.dated = any(file.delivery.delivered_on for file in files)
        self._number_files()

    def _number_files(self) -> None:
        """Give all files numbers by delivery date, then name: which file a row is of, and which file is the later."""
        ranked = sorted(self.files, key=lambda file: (str(file.delivery.delivered_on or ""), file.name))
        self.connection.execute(
            "CREATE TEMP TABLE files (number INTEGER, file VARCHAR, delivery VARCHAR, month VARCHAR, is_new BOOLEAN, "
            "is_again BOOLEAN)"
        )
        rows = [
            (self.reader.register(file), file.name, file.delivery.name,
             str(file.delivery.delivered_on)[:7] if file.delivery.delivered_on else None,
             file.name in self.new, file.name in self.again)
            for file in ranked
        ]  # fmt: skip
        if rows:
            listed = ", ".join(
                f"({rank}, {quote(file)}, {quote(home)}, {quote(month) if month else 'NULL'}, {fresh}, {once})"
                for rank, file, home, month, fresh, once in rows
            )
            self.connection.execute(f"INSERT INTO files VALUES {listed}")

    def look_through(self) -> None:
        """Read the new files of text once as bytes: packed ones must be whole, and oddities change what is checked."""
        blocks = [block for table in self.mapping.tables.values() for block in table]
        readings = [(part.files, part.format) for block in blocks for part in (block, *block.joins)]
        read = [select_files(self.files, files) for files, form in readings if form.type in TEXTS]
        for file in {file.name: file for files in read for file in files}.values():
            wanted = file.name in self.new or file.name in self.again
            if wanted and file.path.stat().st_size and not look_through(file.path):
                self.clean.add(file.name)
        for file in (
            each for files, form in readings if form.type == "parquet" for each in select_files(self.files, files)
        ):
            if file.name in self.new or file.name in self.again:
                weigh_parquet(file.path)

    def _shapes(self, files: list[RawFile], form: Format) -> tuple[tuple[tuple[int, ...], tuple[str, ...]], ...]:
        """Return the numbers of the files by their columns, in the files' order."""
        shapes: dict[tuple[str, ...], list[int]] = {}
        for file in files:
            shapes.setdefault(tuple(self.reader.header(file, form)), []).append(self.reader.ids[file.name])
        return tuple((tuple(numbers), columns) for columns, numbers in shapes.items())

    def _differ(self, before: list[RawFile], files: list[RawFile], form: Format, said: str) -> bool:
        """Tell whether new files change how the rows of the earlier ones are read.

        They do where a column has several types, and where a new column is named in the block's SQL (`said`): until now
        that name was a joined file's column. New columns that nobody names, missing ones and their order do not.
        """
        kinds: dict[str, set[str]] = {}
        for file in (*before, *files):
            for column, kind in self.reader.header(file, form).items():
                kinds.setdefault(column.lower(), set()).add(kind)
        have = {column.lower() for column in self.reader.columns(before, form)}
        named = (column for column in kinds if column not in have)
        return any(len(several) > 1 for several in kinds.values()) or any(
            re.search(rf"(?<!\w){re.escape(column)}(?!\w)", said) for column in named
        )

    @staticmethod
    def _rowless(file: RawFile, form: Format) -> bool:
        """Tell whether a text file is a header alone and its manifest does not say so: a month that was lost."""
        stated = file.stated.get("rows")
        if form.type not in ("csv", "arff") or stated == 0 or file.path.stat().st_size >= HEAD:
            return False
        return not read_head(file, form)[2]

    def _raw(self, patterns: list[str], form: Format, place: str, problems: list[Problem], *,
             said: str = "", whole: bool = False) -> tuple[Raw | None, dict[str, int], int]:  # fmt: skip
        """Return the reading of a block's files, columns that some of them lack, and their number.

        No reading where nothing is to be read; `said`: the block as text; `whole`: a joined file, which a new delivery
        must not change.
        """
        every = select_files(self.files, patterns)
        files = every if whole else [file for file in every if file.name in self.new or file.name in self.again]
        if not every:
            problems.append(
                Problem(f"{place}.files", f"a file of the source ({', '.join(patterns)})", "no such file",
                        "Deliver the file or correct the glob.")
            )  # fmt: skip
            return None, {}, 0
        empty = [file.name for file in files if file.path.stat().st_size == 0 or not self.reader.header(file, form)]
        if empty:
            problems.append(
                Problem(f"{place}: {', '.join(empty[:5])}", "a file with rows", "an empty file", "Deliver it.")
            )
            return None, {}, 0
        first = len(files) == len(every)
        if first and form.type in ("csv", "arff") and not any(read_head(file, form)[2] for file in files):
            problems.append(
                Problem(f"{place}: {', '.join(file.name for file in files[:5])}", "files with rows", "headers alone",
                        "Deliver the rows.")
            )  # fmt: skip
            return None, {}, 0
        rowless = [file.name for file in files if self._rowless(file, form)]
        if rowless:
            problems.append(
                Problem(f"{place}: {', '.join(rowless[:5])}", "a file with rows", "a header alone",
                        "Deliver the rows, or state `rows: 0` of it in the delivery's manifest.")
            )  # fmt: skip
            return None, {}, 0
        types = self.reader.columns(every, form)
        before = [file for file in every if file.name not in self.new]
        if self.earlier.ledger and len(before) < len(every) and (whole or self._differ(before, files, form, said)):
            raise Rebuild
        lacking = {column.lower(): 0 for column in types}
        for file in every:
            have = {column.lower() for column in self.reader.header(file, form)}
            for column in lacking:
                lacking[column] += column not in have
        absent = {column: lacking[column.lower()] for column in types if lacking[column.lower()]}
        if not files:
            return None, absent, len(every)
        key = repr((sorted(file.name for file in files), form))
        if key not in self.raws:
            texts = Texts(form.decimal, form.thousands, tuple(form.dates), form.strip)
            plain = form.type == "csv" and is_utf8(form) and all(file.name in self.clean for file in files)
            relation = Relation(f"raw_{len(self.raws)}", types, texts, self._shapes(files, form), odd=not plain)
            columns = ", ".join(f"{name(column)} {kind}" for column, kind in types.items())
            self.connection.execute(
                f"CREATE TEMP TABLE {relation.name} ({columns}, __file INTEGER, __delivered_on DATE, __row BIGINT)"
            )
            self.raws[key] = Raw(relation, files, form)
        return self.raws[key], absent, len(every)

    def compile(self) -> None:
        """Compile every block against its files' columns; refuse missing files (2) or faulty SQL (4), all together."""
        missing: list[Problem] = []
        wrong: list[Problem] = []
        for table in dependency_order(list(self.mapping.tables)):
            numbered = 0
            for number, block in enumerate(self.mapping.tables[table]):
                place = f"{self.where}: tables.{table}[{number}]"
                parts = block.repeats()
                numbered += len(parts)
                raw, absent, count = self._raw(
                    block.files, block.format, place, missing, said=block.model_dump_json(exclude={"files"}).lower()
                )
                self.absent[table, number], self.delivered[table, number] = absent, count
                joined = {
                    join.alias: self._raw(join.files, join.format, f"{place}.joins.{join.alias}", missing, whole=True)[
                        0
                    ]
                    for join in block.joins
                }
                if raw is None or None in joined.values():
                    continue
                relations = {"row": raw.relation, **{alias: other.relation for alias, other in joined.items() if other}}
                missing += header_faults(self.reader, self.mapping.contract(table), parts, raw, self.new)
                faults: list[Problem] = []
                for entry, part in enumerate(parts):
                    query = self._stage(table, part, place, relations)
                    faults += [problem for problem in query.problems if problem not in faults]
                    others = [other for other in joined.values() if other]
                    self.pieces.append(Piece(table, number, numbered - len(parts) + entry, raw, query, others))
                if faults and headless(block, raw):  # the faults would quote the first row
                    must, files = "files with a header, as the mapping reads them", raw.files[:5]
                    missing.append(
                        Problem(f"{place}: {', '.join(file.name for file in files)}", must,
                                "a first line that names no column of the mapping",
                                "Deliver them with it, or state `header: false` and `names` under `format`.")
                    )  # fmt: skip
                    continue
                wrong += faults
        if wrong:
            raise ConfigurationRefused([*wrong, *missing])
        if missing:
            raise DataRefused(missing)
        for raw in self.raws.values():
            used = [piece for piece in self.pieces if raw is piece.raw]
            totals = any(file.stated.get("totals") for file in raw.files)
            alone = len(used) == 1 and not any(raw in piece.joined for piece in self.pieces)
            raw.streamed = alone and not totals and not used[0].joined and not used[0].query.windowed

    def _stage(self, table: str, block: Block, place: str, relations: dict[str, Relation]) -> Staged:
        """Compile one block and let the engine bind the whole query."""
        stage = Stage(self.connection, self.mapping, table, block, place, relations, has_deliveries=self.dated)
        query = stage.compile()
        if not query.problems:
            try:
                self.connection.execute(f"EXPLAIN {query.sql}")
            except duckdb.Error as error:
                found = " ".join(str(error).split("LINE 1")[0].split())[:200]
                query.problems.append(Problem(place, "SQL that DuckDB can bind", found, "Correct the SQL."))
        return query

    def text_of(self, raw: Raw, files: list[RawFile]) -> str:
        """Return SQL of the raw rows of some files of a reading, in their order, with __file and __delivered_on."""
        have = {column.lower() for file in files for column in self.reader.header(file, raw.form)}
        columns = ", ".join(
            name(column) if column.lower() in have else f"CAST(NULL AS {kind}) AS {name(column)}"
            for column, kind in raw.relation.types.items()
        )
        return f"SELECT {columns}, __file, __delivered_on FROM ({self.reader.query(files, raw.form)})"

    def _take(self, raw: Raw, statement: Callable[[], str]) -> None:
        """Run a statement that reads a block's files, and note the lines that do not split into columns.

        Files of which the engine cannot make out the line ends (several kinds in one file) are written anew and read
        once more. Refuses (exit code 2) what it cannot read then, and a quotation that swallows rows.
        """
        names = [file.name for file in raw.files]
        try:
            try:
                self.connection.execute(statement())
            except duckdb.InvalidInputException:
                if raw.form.type != "csv" or self.reader.anew.issuperset(names):
                    raise
                self.reader.anew.update(names)
                self._rejects()
                self.connection.execute(statement())
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            if "No space left" in str(error):
                raise ResourceRefused(
                    Problem(str(self.scratch), "room for the rows that are being read", "a full disk",
                            "Free space, or point TMPDIR to where there is some.")
                ) from error  # fmt: skip
            raise unreadable(", ".join(names[:3]), raw.form, error) from error
        raw.loaded = True
        above, problems = lines_above(None, raw.form), []
        for path, line, text, kind in self._rejects():
            number = self.reader.paths[path]
            raw.rejected.append(Reject(number, line - above, text or "", REJECTS.get(kind, "columns")))
            if kind == UNQUOTED and swallows(text or "", raw, self.reader.header(self.reader.files[number], raw.form)):
                problems.append(
                    Problem(
                        f"{self.reader.files[number].name}, line {line}", "a quotation that is closed",
                        f"one that goes on over {(text or '').count(chr(10)):,} lines",
                        "Correct the file, or `quote` under `format` (an empty text where nothing is quoted).",
                        file=self.reader.files[number].name, line=line, rule="quotation",
                    )
                )  # fmt: skip
        if problems:
            raise DataRefused(problems)

    def _rejects(self) -> list[tuple[str, int, str, str]]:
        """Return (path, line, text, kind) of the lines that the engine could not split since last asked."""
        if not self._count("duckdb_tables() WHERE table_name = 'reject_errors'"):
            return []
        rows = self.connection.execute(
            "SELECT s.file_path, e.line, min(e.csv_line), min(CAST(e.error_type AS VARCHAR)) FROM reject_errors e "
            "JOIN reject_scans s USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        self.connection.execute("DELETE FROM reject_errors")
        self.connection.execute("DELETE FROM reject_scans")
        return rows

    def load(self, raw: Raw) -> None:
        """Hold a block's files in the engine as text; lines that do not split into the columns are kept as rejected."""
        if raw.loaded or raw.streamed:
            return
        held, relation = f"{raw.relation.name}_held", raw.relation.name
        self._take(raw, lambda: f"CREATE TEMP TABLE {held} AS {self.text_of(raw, raw.files)}")
        self.connection.execute(f"DROP TABLE {relation}")
        self.connection.execute(f"CREATE TEMP VIEW {relation} AS SELECT *, rowid AS __row FROM {held}")
        raw.rows = self._count(held)

    def _count(self, relation: str) -> int:
        """Return how many rows a relation has."""
        return int(self.connection.execute(f"SELECT count(*) FROM {relation}").fetchone()[0])

    def _streaming(self, raw: Raw, fill: str) -> str:
        """Return `fill`, the view that it reads laid over the files' text."""
        text = self.text_of(raw, raw.files)
        self.connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {raw.relation.name} AS SELECT *, CAST(NULL AS BIGINT) AS __row FROM ({text})"
        )
        return fill

    def stage(self, table: str) -> None:
        """Fill a table's staged rows from its pieces, each row with where it came from and whether it is whole."""
        contract = self.mapping.contract(table)
        columns = output_columns(contract, self.mapping.tables[table])
        more = {"_file": "INTEGER", "_row": "BIGINT", "_state": "UTINYINT", "_rules": "VARCHAR[]", "_text": "VARCHAR"}
        numbered = {} if contract.key else {"_n": "BIGINT"}
        pieces = self.pieces_of(table)
        read = [file.path for piece in pieces for file in piece.raw.files]
        folder = self.scratch if too_many(read, self._memory()) else None
        columns = {**columns, **more, **numbered, "_piece": "USMALLINT"}
        holding = self.holdings[table] = Holding(self.connection, table, columns, folder)
        starts = name(f"starts_{table}")
        self.connection.execute(f"CREATE TEMP TABLE {starts} (_piece USMALLINT, _file INTEGER, _start BIGINT)")
        for piece in pieces:
            for raw in [piece.raw, *piece.joined]:
                self.load(raw)
            raw, number = piece.raw, piece.number
            state = f"CASE WHEN _left_out THEN {LEFT_OUT} WHEN _broken THEN {BROKEN} ELSE {KEPT} END"
            fill = holding.filling(number, f"SELECT *, {state} AS _state, {number} AS _piece FROM ({piece.query.sql})")
            if raw.streamed:
                self.connection.execute(f"DROP TABLE {raw.relation.name}")
                self._take(raw, partial(self._streaming, raw, fill))
                raw.rows = holding.filled(number)
                first = f"SELECT {number}, _file, min(_id) FROM {staged(table)} WHERE _piece = {number} GROUP BY ALL"
            else:
                self.connection.execute(fill)
                first = f"SELECT {number}, __file, min(__row) FROM {raw.relation.name} GROUP BY ALL"
                got = holding.filled(number)
                if got != raw.rows:
                    raise DataRefused(
                        Problem(f"{self.where}: tables.{table}[{piece.block}].joins",
                                f"one row for each of the file's {raw.rows:,}",
                                f"{got:,} rows", "Join a file in which the condition holds for at most one row.")
                    )  # fmt: skip
            self.connection.execute(f"INSERT INTO {starts} {first}")

    def _memory(self) -> int:
        """Return the engine's memory in bytes."""
        return int(
            self.connection.execute("SELECT parse_formatted_bytes(current_setting('memory_limit'))").fetchall()[0][0]
        )

    def pieces_of(self, table: str) -> list[Piece]:
        """Return the pieces of one table that read something."""
        return [piece for piece in self.pieces if piece.table == table]

    def placed(self, table: str) -> str:
        """Return SQL of a table's staged rows with `_id`, and `_place`: the row's number among its file's rows."""
        return (
            f"(SELECT s.*, coalesce(s._row, s._id) - _start + 1 AS _place FROM {staged(table)} s "
            f"JOIN {name('starts_' + table)} USING (_piece, _file))"
        )
