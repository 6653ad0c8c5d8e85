"""Whom a delivery touches, and all that is known of them: the rows of a few customers out of millions.

A customer is touched by every row that names him or a credit of his, whatever becomes of it among the rows of other
deliveries: who is touched is a function of the delivery alone, so that the order of arrival does not matter. A row
about an industry touches all of its customers.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.errors import DataRefused, Problem
from features.expressions import name as quoted
from features.expressions import quote
from features.mapping import Block
from features.mapping import Mapping as SourceMapping
from features.reconcile import KEPT, hashes, staged
from features.tables import contract_of, describe_tables
from pipeline import histories, ingest, ledger, tombstones
from pipeline.earlier import Earlier, Rebuild
from pipeline.fingerprint import sha256
from pipeline.manifests import check_contents, check_files
from pipeline.raw import RawFile, list_files, select_files

MEMORY = "512MiB"  # of DuckDB, while rows are looked for
HOLDER_COLUMNS = ("customer_id", "credit_id", "industry")


Dates = dict[tuple[str, str], dt.date]  # (customer_id, credit_id or industry; its value) -> newest as_of that it is due


@dataclass(frozen=True)
class Named:
    """Whom a delivery names, by column, and when its rows became known (null: it has none)."""

    ids: Mapping[str, frozenset[str]]
    newest_known: dt.date | None
    rows: int

    def marks(self, as_of: dt.date) -> Dates:
        """Return what the delivery marks as due at its date."""
        return {(column, each): as_of for column, ids in self.ids.items() for each in ids}


def named_in(params: ingest.Params, mapping: SourceMapping, files: list[RawFile], where: str) -> Named:
    """Return whom the delivery's files name; refuse what cannot be read or is not what its manifest states.

    files: of this delivery alone, under the names that they are to have below data/raw/<source>. The refusals are those
    of ingest (exit codes 2, 4, 7), by the columns that earlier files have too. Rows that break a contract name nobody.
    """
    check_files(files, {file.name: sha256(file.path) for file in files})
    matched = [block for blocks in mapping.tables.values() for block in blocks if select_files(files, block.files)]
    tables = {name: [block for block in blocks if _filled(block, files)] for name, blocks in mapping.tables.items()}
    tables = {name: blocks for name, blocks in tables.items() if blocks}
    if not tables and matched:
        return Named({}, None, 0)  # its manifest says that it has no row
    if not tables:
        wanted = ", ".join(dict.fromkeys(glob for held in mapping.tables.values() for b in held for glob in b.files))
        found = ", ".join(file.name for file in files[:5]) or "an empty folder"
        raise DataRefused(Problem("delivery", f"files that the mapping reads ({wanted})", found, "Name them so."))
    part = mapping.model_copy(update={"tables": tables})
    known = ledger.kept(ingest.OUT / "ledger.json")
    own = {file.name for file in files}
    before = [file for file in list_files(mapping.name) if file.name in (known.get("files") or {})]
    if before and not own & {file.name for file in before}:
        try:
            return _read(params, part, [*before, *files], where, known)
        except Rebuild:
            pass  # it changes how earlier files are read: by itself, then
    return _read(params, part, [*files, *histories.lent_files(mapping, files)], where, {})


def _read(
    params: ingest.Params, mapping: SourceMapping, files: list[RawFile], where: str, known: dict[str, Any]
) -> Named:
    """Return whom the files name that an earlier ledger does not explain."""
    from pipeline.build import Build, dependency_order, engine

    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        folders = sorted({file.path.resolve().parent for file in files})
        connection = engine(params.memory_limit, Path(scratch), folders)
        try:
            with ingest.memory(params.memory_limit):
                build = Build(connection, mapping, files, where, Path(scratch), Earlier(Path(scratch), known))
                build.look_through()
                build.compile()
                for table in dependency_order(list(mapping.tables)):
                    build.stage(table)
                check_contents(build)
            return _named(build)
        finally:
            connection.close()


def _filled(block: Block, files: list[RawFile]) -> bool:
    """Return whether the delivery has files for a block, other than such as it says are without rows."""
    chosen = select_files(files, block.files)
    return any(file.stated.get("rows") != 0 for file in chosen)


def _named(build: Any) -> Named:
    """Return whom the staged rows name."""
    found: dict[str, set[str]] = {column: set() for column in HOLDER_COLUMNS}
    days, rows = [], 0
    for table, blocks in build.mapping.tables.items():
        columns = ingest_columns(build.mapping, table, blocks)
        kept = f"FROM {staged(table)} WHERE _state = {KEPT}"
        count, newest = build.connection.execute(f"SELECT count(*), max(known_on) {kept}").fetchone()
        days += [newest] if newest is not None else []
        rows += count
        about = [column for column in HOLDER_COLUMNS[:2] if column in columns]
        for column in about or [column for column in HOLDER_COLUMNS[2:] if column in columns]:
            ids = build.connection.execute(f"SELECT DISTINCT {quoted(column)} {kept}").fetchall()
            found[column] |= {row[0] for row in ids if row[0] is not None}
    return Named({column: frozenset(ids) for column, ids in found.items()}, max(days, default=None), rows)


def ingest_columns(mapping: SourceMapping, table: str, blocks: list[Block]) -> set[str]:
    """Return the columns that a table's rows have once they are read."""
    from features.staging import output_columns

    return set(output_columns(mapping.contract(table), blocks))


class Tables:
    """The tables of data/ingest, read with little memory: whose customers are meant, and all of their rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.described = describe_tables(folder)
        self.scans = {}
        for name in sorted(self.described):
            paths = sorted((folder / "tables" / name).glob("known_month=*/part.parquet"))
            if paths:
                listed = ", ".join(quote(str(path)) for path in paths)
                self.scans[name] = f"read_parquet([{listed}], hive_partitioning = false)"

    @contextmanager
    def _engine(self) -> Iterator[Callable[..., Any]]:
        """Yield what runs a statement on an engine of its own."""
        import duckdb

        with tempfile.TemporaryDirectory(prefix="bellwether-") as spill, duckdb.connect() as connection:
            connection.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 2; SET temp_directory = {quote(spill)}")
            yield connection.execute

    def customers_of(self, dates: Dates) -> dict[str, dt.date]:
        """Return each customer whom the marks mean, with the newest of their dates; an erased one is not among them.

        A mark on a credit means whoever holds it in any version; one on an industry, whoever is in it by any.
        """
        with self._engine() as run:
            run("CREATE TEMP TABLE marks (kind VARCHAR, id VARCHAR, as_of DATE)")
            if dates:
                kinds, ids = zip(*dates, strict=True)
                run("INSERT INTO marks SELECT unnest(?), unnest(?), CAST(unnest(?) AS DATE)",
                    [list(kinds), list(ids), [day.isoformat() for day in dates.values()]])  # fmt: skip
            meant = ["SELECT id AS customer_id, as_of FROM marks WHERE kind = 'customer_id'"]
            for kind, table in (("credit_id", "credits"), ("industry", "customers")):
                if (
                    any(held == kind for held, _ in dates)
                    and table in self.scans
                    and kind in self.described[table]["columns"]
                ):
                    meant.append(
                        f"SELECT t.customer_id, m.as_of FROM {self.scans[table]} t JOIN marks m ON m.id = t.{kind} "
                        f"WHERE m.kind = '{kind}'"
                    )
            rows = run(
                f"SELECT customer_id, max(as_of) FROM ({' UNION ALL '.join(meant)}) GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        stones = tombstones.load()
        return {customer: day for customer, day in rows if stones is None or not stones.knows(customer)}

    def lay(self, due: Mapping[str, dt.date], out: Path) -> dict[str, dt.date]:
        """Lay all rows of the customers into `out`, in the layout of data/ingest; return who they are, with dates.

        Where a row was restated in the name of another customer, both are touched by it: the other is among those
        returned, both are due at the later of their dates, and he is looked up in the same way.
        """
        due = dict(sorted(due.items()))
        while True:
            shutil.rmtree(out / "tables", ignore_errors=True)
            changed = False
            for one, other in self.rows_of(due, out):
                day = max(due.get(one, dt.date.min), due.get(other, dt.date.min))
                for each in (one, other):
                    changed |= due.get(each) != day
                    due[each] = day
            if not changed:
                return dict(sorted(due.items()))

    def rows_of(self, customers: Iterable[str], out: Path) -> list[tuple[str, str]]:
        """Lay all rows of some customers into `out`; return the pairs of customers who share a row's key.

        Credits come in every version of which one is theirs; rows about nobody in particular come whole. Versions of
        their rows that name others come too: a row that is another's by now is not theirs any more.
        """
        with self._engine() as run:
            run("CREATE TEMP TABLE customer AS SELECT CAST(unnest(?) AS VARCHAR) AS id", [sorted(customers)])
            run("CREATE TEMP TABLE credit (id VARCHAR)")
            run("CREATE TEMP TABLE pair (one VARCHAR, other VARCHAR)")
            if "credits" in self.scans:
                source = self.scans["credits"]
                own = f"SELECT DISTINCT credit_id FROM {source} WHERE customer_id IN (FROM customer)"
                run(f"INSERT INTO credit {own}")
            for name, scan in self.scans.items():
                columns, which = self.described[name]["columns"], "true"
                if "customer_id" in columns and name != "credits":
                    which = "customer_id IN (FROM customer)"
                elif "credit_id" in columns:
                    which = "credit_id IN (FROM credit)"
                home = out / "tables" / name / "known_month=0000-00"
                home.mkdir(parents=True)
                target = quote(str(home / "part.parquet"))
                run(f"COPY (SELECT * FROM {scan} WHERE {which}) TO {target} (FORMAT parquet, COMPRESSION zstd)")
                if which != "true" and not {"customer_id", "credit_id"} & set(self.described[name]["key"]):
                    self._others_of(run, name, target, which.split(" ")[0])
            pairs: list[tuple[str, str]] = run("SELECT DISTINCT one, other FROM pair WHERE one <> other").fetchall()
        shutil.copyfile(self.folder / "tables.json", out / "tables.json")
        stones = tombstones.load()
        return [pair for pair in pairs if stones is None or not any(map(stones.knows, pair))]

    def _others_of(self, run: Callable[..., Any], name: str, laid: str, holder: str) -> None:
        """Add to the rows laid out those with the same key in another's name, and note the pairs of customers.

        The index of ingest tells whether there are any, by the hash of the key; the table is read where it says so.
        """
        key = self.described[name]["key"]
        index = sorted((self.folder / "index" / name).glob("*.parquet"))
        if not key or not index:
            return
        hashed, _ = hashes(
            contract_of(name, set(self.described[name]["columns"])), list(self.described[name]["columns"])
        )
        run(f"CREATE OR REPLACE TEMP TABLE mine AS SELECT {hashed} AS h, known_on, {holder} AS holder FROM {laid}")
        listed = ", ".join(quote(str(path)) for path in index)
        run(
            f"CREATE OR REPLACE TEMP TABLE more AS SELECT DISTINCT h, known_on FROM read_parquet([{listed}]) "
            "WHERE h IN (SELECT h FROM mine) EXCEPT SELECT h, known_on FROM mine"
        )
        months = run("SELECT DISTINCT strftime(known_on, '%Y-%m') FROM more").fetchall()
        parts = [self.folder / "tables" / name / f"known_month={month}" / "part.parquet" for (month,) in months]
        parts = [path for path in parts if path.is_file()]
        if not parts:
            return
        scan = f"read_parquet([{', '.join(quote(str(path)) for path in parts)}], hive_partitioning = false)"
        ours = "customer" if holder == "customer_id" else "credit"
        run(
            f"CREATE OR REPLACE TEMP TABLE theirs AS SELECT * FROM {scan} "
            f"WHERE {hashed} IN (SELECT h FROM more) AND {holder} NOT IN (FROM {ours})"
        )
        both = f"SELECT m.holder AS one, t.{holder} AS other FROM theirs t JOIN mine m ON m.h = {hashed}"
        if holder == "credit_id":
            credits_ = f"(SELECT DISTINCT credit_id, customer_id FROM {self.scans['credits']})"
            both = (
                f"SELECT a.customer_id AS one, b.customer_id AS other FROM ({both}) "
                f"JOIN {credits_} a ON a.credit_id = one JOIN {credits_} b ON b.credit_id = other"
            )
        run(f"INSERT INTO pair {both}")
        beside = Path(laid.strip("'")).parent.with_name("known_month=0000-01")
        beside.mkdir()
        run(f"COPY theirs TO {quote(str(beside / 'part.parquet'))} (FORMAT parquet, COMPRESSION zstd)")


def merged(dates: Dates, more: Dates) -> Dates:
    """Return the marks of both, the newest date of each; none of an erased customer or credit."""
    stones = tombstones.load()
    both = {mark: max(day, dates.get(mark, day)) for mark, day in more.items()}
    kept = {**dates, **both}
    if stones is None:
        return kept
    kinds = {"customer_id": tombstones.CUSTOMERS, "credit_id": tombstones.CREDITS}
    return {
        (kind, each): day for (kind, each), day in kept.items()
        if kind not in kinds or stones.hash(kinds[kind], each) not in stones.hashes[kinds[kind]]
    }  # fmt: skip


def joined(dates: Dates, changed: Iterable[tuple[str, str, str]]) -> Dates:
    """Return marks with those whose rows a new one takes back or brings back: both are due at the later of their dates.

    changed: as `carried.changed_between`. Like `Tables.lay` for rows that stand, so that the order of arrival does not
    matter for rows that stand no more.
    """
    found = dict(dates)
    pairs = [((column, one), (column, other)) for column, one, other in changed]
    while True:
        later = {
            mark: day for pair in pairs for mark in pair
            if (day := max(found.get(each, dt.date.min) for each in pair)) > found.get(mark, dt.date.min)
        }  # fmt: skip
        if not later:
            return found
        found |= later


def to_table(dates: Dates) -> pa.Table:
    """Return marks as a table: customer_id, credit_id or industry (one of them is known), and as_of, in order."""
    ordered = sorted(dates.items())
    columns = {
        column: pa.array([each if kind == column else None for (kind, each), _ in ordered], pa.string())
        for column in HOLDER_COLUMNS
    }
    return pa.table({**columns, "as_of": pa.array([day for _, day in ordered], pa.date32())})


def from_table(table: pa.Table) -> Dates:
    """Return the marks of `to_table`."""
    return {
        (column, row[column]): row["as_of"]
        for row in table.to_pylist() for column in HOLDER_COLUMNS if row[column] is not None
    }  # fmt: skip
