"""A version made of another one: the rows of a few customers anew, everything else as it was.

The table, its CSV and its DuckDB file are written anew, a batch of rows at a time, and what was written is read back
and compared. Whatever does not change (report, worklist, scorer, the model's statement) is the very file of the version
before, by a hard link, with the SHA-256 that its manifest states.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import GateRefused, IntegrityRefused, Problem
from features.expressions import quote
from pipeline import answers, changes, decide, publish, tracking, versions
from pipeline.fingerprint import sha256
from pipeline.lending import Params as Lending
from pipeline.lending import files_of
from pipeline.rescore import Decided
from pipeline.stage import fresh, read_json, write_json
from pipeline.touched import Dates, to_table

TABLE, MARKS = "scored_customers.parquet", "watched.parquet"
WRITTEN = (TABLE, "scored_customers.csv", "bellwether.duckdb", "changes.parquet", "alerts.parquet", "overrides.parquet",
           MARKS, "manifest.json")  # fmt: skip
CARRIED = ("report", "document", "worklist", "contract", "model_version")  # of a manifest's facts
BATCH = 16_384  # rows of 55 columns, of which a step holds three or four copies
MEMORY = "256MiB"  # of DuckDB, while it writes its file with one thread, another comparing what was written


@dataclass(frozen=True)
class Published:
    """A version that stands, as `watch` takes it up: its folder and manifest."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def of(cls, run_id: str) -> Published:
        """Return a version that stands; refuse (exit code 7) one whose tables are not those of its manifest."""
        folder = versions.VERSIONS / run_id
        manifest = read_json(folder / "manifest.json")
        names = [name for name in WRITTEN if name in manifest["files"]]
        problems = [
            Problem(str(folder / name), "the bytes of its manifest", "others, or none", "Restore it, or run again.")
            for name in names
            if not name.endswith((".csv", ".duckdb"))
            if not (folder / name).is_file() or sha256(folder / name) != manifest["files"][name]
        ]
        if problems:
            raise IntegrityRefused(problems)
        return cls(folder, manifest)

    @property
    def as_of(self) -> dt.date:
        """Return its date: the newest of its rows'."""
        return dt.date.fromisoformat(self.manifest["as_of"])

    @property
    def base(self) -> str:
        """Return the version of a run that it is made of: itself, or what `watch` began with."""
        return str((self.manifest.get("watch") or {}).get("base") or self.manifest["run_id"])

    def rows(self, customers: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some customers."""
        return rows_of(self.folder / TABLE, customers, columns)


@dataclass(frozen=True)
class Amendment:
    """What is to be published: who is recomputed, what came of it, and what of it is stated.

    deliveries: name -> as `inbox.facts`; marks: whom they touched; both since the version of the run.
    """

    source: str
    as_of: dt.date
    data_version: str
    customers: list[str]
    decided: Decided
    marks: Dates
    dates: dict[str, dt.date] = field(default_factory=dict)  # of everyone marked
    deliveries: dict[str, Any] = field(default_factory=dict)
    others: str = ""  # a hash of how others stood


def rows_of(table: Path, customers: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of some customers of a published table, in its order."""
    wanted = pa.array(customers, pa.string())
    parts = []
    for batch in pq.ParquetFile(table).iter_batches(BATCH, columns=list(columns) if columns else None):
        part = pa.Table.from_batches([batch])
        parts.append(part.filter(pc.is_in(part["customer_id"], wanted)))
    return pa.concat_tables(parts) if parts else pq.read_table(table, columns=columns)


def compared_with(base: Published, as_of: dt.date) -> str | None:
    """Return the run_id of a run's newest publication of an earlier as_of: the base, or what it was compared with.

    Publications of `watch` between them do not count: what is said of a delivery does not hang on those before it.
    """
    return base.manifest["run_id"] if as_of > base.as_of else base.manifest["compared_with"]


def new_rows(amendment: Amendment, base: Published, run_id: str) -> pa.Table:
    """Return the recomputed rows as they are published: run_id, and the grade of the publication of an earlier date."""
    table = amendment.decided.table
    parts = [table.slice(0, 0)]
    for day in pc.unique(table["as_of"]).to_pylist():
        here = table.filter(pc.equal(table["as_of"], day))
        before = compared_with(base, day)
        rows = None if before is None else rows_of(
            versions.VERSIONS / before / TABLE, here["customer_id"].to_pylist(), ["customer_id", "grade"]
        )  # fmt: skip
        parts.append(publish.run(here, rows, run_id=run_id))
    parts[0] = publish.run(parts[0], None, run_id=run_id)
    return pa.concat_tables(parts).sort_by("customer_id").combine_chunks()


def merged(table: Path, customers: Sequence[str], rows: pa.Table, run_id: str | None = None) -> Iterator[pa.Table]:
    """Yield a published table batch by batch with `rows` in place of those of `customers`, by customer_id.

    Both are in that order. run_id: what every row is to say, where the table has the column.
    """
    gone = pa.array(customers, pa.string())
    at = 0
    ids = rows["customer_id"].to_pylist()
    schema = rows.schema
    for batch in pq.ParquetFile(table).iter_batches(BATCH):
        part = pa.Table.from_batches([batch])
        last = part["customer_id"][part.num_rows - 1].as_py() if part.num_rows else ""
        part = part.filter(pc.invert(pc.is_in(part["customer_id"], gone))).select(schema.names).cast(schema)
        if run_id is not None:
            place = schema.get_field_index("run_id")
            part = part.set_column(place, schema.field(place), pa.repeat(pa.scalar(run_id), part.num_rows))
        upto = at
        while upto < len(ids) and ids[upto] <= last:
            upto += 1
        part = pa.concat_tables([part, rows.slice(at, upto - at)])
        yield (part.sort_by("customer_id") if upto > at else part).combine_chunks()
        at = upto
    if at < len(ids):
        yield rows.slice(at).combine_chunks()


def write(amendment: Amendment, current: Published) -> tuple[Path, str, dict[str, int]]:
    """Write the version into a scratch folder, read back what was written, and return (folder, run_id, what moved).

    Refuses (exit code 3) where the bytes on disk are not the table.
    """
    base = Published.of(current.base) if current.base != current.manifest["run_id"] else current
    facts = {
        **{name: current.manifest.get(name) for name in CARRIED},
        "source": amendment.source, "as_of": amendment.as_of.isoformat(), "data_version": amendment.data_version,
        "table": _content(amendment.decided.table), "compared_with": compared_with(base, amendment.as_of),
        "watch": {"base": current.base, "deliveries": amendment.deliveries, "others": amendment.others,
                  "marked": _content(to_table(amendment.marks))},
    }  # fmt: skip
    run_id = publish.content_id(facts)
    rows = new_rows(amendment, base, run_id)
    scratch = fresh(versions.VERSIONS / f".tmp-{run_id}")
    try:
        count = _write_table(current, amendment, rows, run_id, scratch)
        moved = _beside(current, base, amendment, rows, scratch)
        anew = _inputs(scratch)
        carried = _carry(current, scratch, anew)
        files = carried | {
            path.relative_to(scratch).as_posix(): sha256(path)
            for path in versions.files_of(scratch) if path.relative_to(scratch).as_posix() not in carried
        }  # fmt: skip
        stated = facts | {
            "run_id": run_id, "rows": count, "git_commit": tracking.git_commit(), "experiment": None,
            "uncommitted": tracking.uncommitted_code(), "horizon_months": current.manifest["horizon_months"],
            "files": files,
        }  # fmt: skip
        write_json(scratch / "manifest.json", stated)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # what a full disk cut short is no version
        raise
    return scratch, run_id, moved


def _content(table: pa.Table) -> str:
    """Return a hash of a small table's rows."""
    text = json.dumps(table.to_pylist(), default=str, sort_keys=True)
    return publish.content_id({"rows": text})


def _write_table(current: Published, amendment: Amendment, rows: pa.Table, run_id: str, scratch: Path) -> int:
    """Write Parquet, CSV and the DuckDB file, and compare what was written; return the number of rows."""
    metadata = dict(pq.read_schema(current.folder / TABLE).metadata or {}) | {b"bellwether.run_id": run_id.encode()}
    metadata.pop(b"ARROW:schema", None)
    schema = rows.schema.with_metadata(metadata)
    path, count = scratch / TABLE, 0

    def parts() -> Iterator[pa.Table]:
        return _evened(merged(current.folder / TABLE, amendment.customers, rows, run_id))

    with ThreadPoolExecutor(1) as beside:  # the CSV beside the Parquet file, DuckDB's file beside the comparison
        with (
            pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as parquet,
            (scratch / "scored_customers.csv").open("wb") as handle,
        ):
            handle.write(b"\xef\xbb\xbf")
            with pa_csv.CSVWriter(handle, answers.safe_for_spreadsheets(rows.slice(0, 0)).schema) as csv:
                for part in parts():
                    written = beside.submit(_write_csv, csv, part)
                    parquet.write_table(part.cast(schema), row_group_size=BATCH)
                    count += part.num_rows
                    written.result()
        loaded = beside.submit(_write_database, path, scratch / "bellwether.duckdb")
        same = _as_written(path, parts())
        held = loaded.result()
    if not same or held != count:
        raise GateRefused(
            Problem(
                str(scratch), "the table, each customer once", "other content on disk", "Check the disk, run again."
            )
        )
    return count


def _write_csv(csv: pa_csv.CSVWriter, part: pa.Table) -> None:
    """Write a batch of rows."""
    csv.write_table(answers.safe_for_spreadsheets(part))


def _write_database(table: Path, out: Path) -> int:
    """Write the DuckDB file of a table; return the rows that it holds."""
    with duckdb.connect(str(out)) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 1")
        connection.execute(f"CREATE TABLE scored_customers AS SELECT * FROM read_parquet({quote(str(table))})")
        return int(connection.execute("SELECT count(*) FROM scored_customers").fetchall()[0][0])


def _as_written(path: Path, parts: Iterator[pa.Table]) -> bool:
    """Return whether a file's row groups are these batches, each customer once and in order."""
    back, last, groups, same = pq.ParquetFile(path, page_checksum_verification=True), "", 0, True
    for group, part in enumerate(parts):
        ids = part["customer_id"]
        same &= back.read_row_group(group).replace_schema_metadata(None).equals(part) and last < ids[0].as_py()
        same &= bool(pc.all(pc.less(ids[:-1], ids[1:])).as_py())
        last, groups = ids[-1].as_py(), group + 1
    return same and back.num_row_groups == groups


def _evened(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in batches of one size."""
    held: pa.Table | None = None
    for part in parts:
        held = part if held is None else pa.concat_tables([held, part])
        while held.num_rows >= BATCH:
            yield held.slice(0, BATCH).combine_chunks()
            held = held.slice(BATCH)
    if held is not None and held.num_rows:
        yield held.combine_chunks()


def _beside(current: Published, base: Published, amendment: Amendment, rows: pa.Table, scratch: Path) -> dict[str, int]:
    """Write alerts, overrides, changes and marks; return how many moved since the version before, and how."""
    for name, anew in (("alerts", amendment.decided.alerts), ("overrides", amendment.decided.people)):
        old = current.folder / f"{name}.parquet"
        schema = pq.read_schema(old).remove_metadata()
        parts = merged(old, amendment.customers, anew.select(schema.names).cast(schema))
        with pq.ParquetWriter(scratch / f"{name}.parquet", schema, compression="zstd") as parquet:
            for part in _evened(parts):
                parquet.write_table(part, row_group_size=BATCH)
    pq.write_table(to_table(amendment.marks), scratch / MARKS, compression="zstd")
    before = compared_with(base, amendment.as_of)
    moved = moved_since(base, before, sorted(amendment.dates), scratch / TABLE)
    pq.write_table(moved, scratch / "changes.parquet", compression="zstd")
    columns = ["customer_id", *changes.SHOWN]
    delta = changes.between(current.rows(amendment.customers, columns), rows.select(columns))
    codes = {
        side: sum(len(each.split(";")) for each in delta[f"alerts_{side}"].to_pylist() if each)
        for side in ("raised", "cleared")
    }
    came = pc.sum(pc.equal(delta["moved"], "came")).as_py() or 0
    left = pc.sum(pc.equal(delta["moved"], "left")).as_py() or 0
    return {"moved": delta.num_rows, "came": came, "left": left,
            **{f"alerts_{side}": count for side, count in codes.items()}}  # fmt: skip


def moved_since(base: Published, before: str | None, marked: Sequence[str], now: Path) -> pa.Table:
    """Return what moved between the version `before` (null: none) and the table `now`, as `changes.between`.

    Whoever is not marked stands as in the base: what moved of him is told by its own changes, or nothing did.
    """
    columns = ["customer_id", *changes.SHOWN]
    if before is None:
        return changes.between(None, rows_of(now, marked, columns))
    earlier = rows_of(versions.VERSIONS / before / TABLE, marked, columns)
    moved = changes.between(earlier, rows_of(now, marked, columns))
    if before == base.manifest["run_id"]:
        return moved
    return pa.concat_tables([moved.slice(0, 0), *merged(base.folder / "changes.parquet", marked, moved)])


def _inputs(scratch: Path) -> list[str]:
    """Copy what of a version's inputs this publication used anew; return their names."""
    paths = [Path("params.yaml"), decide.OVERRIDES, decide.LEDGER, *files_of(Path(Lending.load().policy))]
    for path in paths:
        publish.copy_into(path, scratch / "inputs" / path.parent)
    return [f"inputs/{path.as_posix()}" for path in paths]


def _carry(current: Published, scratch: Path, anew: Sequence[str]) -> dict[str, str]:
    """Link every other file of the version before; return their names and hashes."""
    names = [name for name in current.manifest["files"] if name not in WRITTEN and name not in anew]
    for name in names:
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(current.folder / name, target)
        except OSError:  # a file system without links, or with too many
            shutil.copy2(current.folder / name, target)
    return {name: current.manifest["files"][name] for name in names}
