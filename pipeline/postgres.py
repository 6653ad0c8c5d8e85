"""The published tables in PostgreSQL: written after the files, in one transaction, whole or not at all.

Beside the table of customers stand `<table>_alerts` and `<table>_changes`, alerts.parquet and changes.parquet with the
run_id, so that whoever reads one after the other can tell whether they belong together.

The files are the truth and the table follows them: what is missed while the server is away is written by the next run.
Rows are replaced inside the table that stands (delete and copy, one commit), for a table swapped in by its name would
lose grants and views, and a reader who began before the swap would find it empty. So every reader sees the old rows or
the new ones. No message holds the URL of an environment variable or what the driver says: libpq quotes parts of a
password in its complaints, and the server the customers' values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.errors import ConfigurationRefused, IntegrityRefused, Problem, ServiceRefused
from pipeline import versions
from pipeline.stage import read_json

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
URL = re.compile(
    r"postgres(ql)?://([\w.%+-]+@)?[\w.,:%\[\]-]*(/[\w.%-]*)?(\?(?!\S*password)[\w=&.,%/+-]*)?", re.IGNORECASE
)
TABLE = r"^([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,54}$"  # with what the tables beside it add, 63 at most
WAIT_SECONDS = 60  # for another publisher, or for whoever holds the table
TYPES = {
    pa.string(): "text", pa.large_string(): "text", pa.date32(): "date", pa.bool_(): "boolean",
    pa.int16(): "smallint", pa.int32(): "integer", pa.int64(): "bigint", pa.float64(): "double precision",
}  # fmt: skip
STATES = {
    "22021": "text that the database's encoding cannot hold", "23505": "a key twice",
    "25006": "a read-only server",
    "28000": "the user is not admitted", "28P01": "the password was refused", "3D000": "no such database",
    "3F000": "no such schema", "42501": "no right to do it", "53100": "its disk is full",
    "55P03": f"the table was held by others for {WAIT_SECONDS} seconds", "57P01": "the server is being stopped",
}  # fmt: skip
COMPLAINTS = {  # libpq's own, which has no code: what it contains, what is said of it
    "password authentication failed": "the password was refused", "no password supplied": "no password was given",
    "no pg_hba.conf entry": "the user is not admitted", "does not exist": "no such user or database",
    "Connection refused": "no answer", "timeout expired": "no answer", "could not translate host name": "no such host",
    "No route to host": "no answer", "Network is unreachable": "no answer", "starting up": "the server is starting",
    "server closed the connection": "the connection was lost", "no connection to the server": "the connection was lost",
}  # fmt: skip


@dataclass(frozen=True)
class Sink:
    """A table of a server. `name` may be shown, `url` never."""

    name: str
    url: str = field(repr=False)
    schema: str
    table: str

    @property
    def quoted(self) -> str:
        """Return the table's name for SQL."""
        return f'"{self.schema}"."{self.table}"'


@dataclass(frozen=True)
class Part:
    """One of a sink's tables, with the rows that it is to hold in the order of its key."""

    to: Sink
    key: tuple[str, ...]
    rows: pa.Table


PARTS = {  # what a table's name adds to the sink's: the version's file, and the key
    "": ("scored_customers.parquet", ("customer_id",)),
    "_alerts": ("alerts.parquet", ("customer_id", "code")),
    "_changes": ("changes.parquet", ("customer_id",)),
}


@dataclass(frozen=True)
class Held:
    """What a table holds: run_id and as_of (ISO; the latest where there are several), null where it has no rows."""

    run_id: str | None
    as_of: str | None
    rows: int


def check_stated(stated: Any) -> None:
    """Refuse (exit code 4), without repeating it, all but null, a variable's name and a URL without password."""
    if stated is None or (isinstance(stated, str) and (VARIABLE.fullmatch(stated) or URL.fullmatch(stated))):
        return
    raise ConfigurationRefused(
        Problem(
            "params.yaml: publish.postgres",
            "null, the name of an environment variable that holds the URL, or postgresql://user@host:port/database",
            "something else, or a password (not repeated here)",
            "Put a URL with a password into a variable and its name here, or the password into PGPASSWORD or .pgpass.",
        )
    )


def sink(stated: Any, table: str) -> Sink | None:
    """Return the sink that the parameters state, or None; refuse (exit code 4) a variable that is not set."""
    check_stated(stated)
    if stated is None:
        return None
    schema, _, name = table.rpartition(".")
    schema = schema or "public"
    if not VARIABLE.fullmatch(stated):
        return Sink(stated.partition("?")[0], stated, schema, name)
    url = os.environ.get(stated, "")
    if not url.startswith(("postgresql://", "postgres://")):
        found = "another text (not repeated here)" if url else "no such variable"
        raise ConfigurationRefused(
            Problem(
                f"environment: {stated}, named by publish.postgres", "a URL postgresql://...", found,
                "Set it, or set publish.postgres to null.",
            )
        )  # fmt: skip
    return Sink(f"${stated}", url, schema, name)


def _driver() -> Any:
    """Return the driver's module; refuse (exit code 4) where it is not installed."""
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise ConfigurationRefused(
            Problem("publish.postgres", "used with adbc-driver-postgresql installed", "no such package", "make install")
        ) from None
    return dbapi


def _in_words(error: Exception) -> str:
    """Return what is wrong in words of ours, for the driver's may hold parts of a password or a customer's values."""
    state = getattr(error, "sqlstate", None)
    if state:
        return STATES.get(state, f"SQLSTATE {state}")
    text = str(error)
    return next((words for part, words in COMPLAINTS.items() if part in text), "a URL or a server that cannot be used")


@contextmanager
def _transaction(to: Sink) -> Iterator[Any]:
    """Yield a cursor within one transaction, which is committed at the end and undone by any error.

    Whatever the server or the way there refuses is exit code 8.
    """
    dbapi = _driver()
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    try:
        with dbapi.connect(to.url) as connection, connection.cursor() as cursor:
            cursor.execute("set transaction isolation level read committed")
            cursor.execute("set client_encoding to 'UTF8'")
            cursor.execute(f"set local lock_timeout to '{WAIT_SECONDS}s'")
            yield cursor
            connection.commit()
    except dbapi.Error as error:
        raise _away(to, "reachable and willing", _in_words(error)) from None


def _away(to: Sink, must: str, found: str) -> ServiceRefused:
    """Return the refusal of a sink that did not take the table."""
    remedy = "data/publish/current stands; mend it, and the next `python -m pipeline run` brings the table there."
    return ServiceRefused(Problem(f"PostgreSQL table {to.schema}.{to.table} of {to.name}", must, found, remedy))


def _rows(cursor: Any, statement: str) -> list[dict[str, Any]]:
    """Return the rows of a statement."""
    cursor.execute(statement)
    rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
    return rows


def _type(of: pa.DataType) -> str:
    """Return the PostgreSQL type that holds every value of an Arrow type."""
    return f"numeric({of.precision},{of.scale})" if pa.types.is_decimal(of) else TYPES[of]


def _columns(cursor: Any, to: Sink) -> dict[str, str] | None:
    """Return column -> type of the table that is there, or None where none is."""
    found = _rows(
        cursor,
        f"""select a.attname::text as name, format_type(a.atttypid, a.atttypmod)::text as type, c.relkind::text as kind
        from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
        where n.nspname = '{to.schema}' and c.relname = '{to.table}' and a.attnum > 0 and not a.attisdropped""",
    )
    if found and found[0]["kind"] not in ("r", "p"):
        raise _away(to, "a table", "a view or another thing of this name")
    return {column["name"]: column["type"] for column in found} if found else None


def _held(cursor: Any, to: Sink) -> Held | None:
    """Return what the table of customers holds, or None where there is no table."""
    columns = _columns(cursor, to)
    if columns is None:
        return None
    if not {"run_id", "as_of"} <= columns.keys():
        raise _away(to, "a table of published customers", "a table without run_id and as_of")
    (found,) = _rows(
        cursor,
        f"""select count(*) as rows, count(distinct run_id) as runs, min(run_id)::text as run_id,
        max(as_of)::text as as_of from {to.quoted}""",
    )
    return Held(found["run_id"] if found["runs"] == 1 else None, found["as_of"], found["rows"])


def _plain(column: pa.ChunkedArray, like: pa.DataType) -> pa.ChunkedArray:
    """Return a column in which equal means the same bits: decimals from the driver's text, doubles as integers."""
    if isinstance(column.type, pa.ExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    column = column.cast(like)
    if like == pa.float64():
        return pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())
    return column


def _same(cursor: Any, part: Part) -> bool:
    """Return whether the server's rows are the part's, value for value; some of them at a time."""
    names = ", ".join(f'"{name}"' for name in part.rows.column_names)
    order = ", ".join(f'"{name}" collate "C"' for name in part.key)
    cursor.execute(f"select {names} from {part.to.quoted} order by {order}")
    place = 0
    for batch in cursor.fetch_record_batch():
        found = pa.Table.from_batches([batch])
        wanted = part.rows.slice(place, found.num_rows)
        place += found.num_rows
        if wanted.num_rows < found.num_rows:
            return False
        for field_ in wanted.schema:
            if not _plain(found[field_.name], field_.type).equals(_plain(wanted[field_.name], field_.type)):
                return False
    return place == part.rows.num_rows


def _make_room(cursor: Any, part: Part) -> None:
    """Make the table, or the columns that it lacks; refuse another thing's table and columns of another type."""
    to, columns = part.to, _columns(cursor, part.to)
    wanted = {column.name: _type(column.type) for column in part.rows.schema}
    if columns is None:
        listed = ", ".join(f'"{name}" {kind}' for name, kind in wanted.items())
        cursor.execute(f"create table {to.quoted} ({listed}, primary key ({', '.join(part.key)}))")
        return
    if not {"run_id", *part.key} <= columns.keys():
        raise _away(to, "a table of publications", f"a table without {' or '.join(('run_id', *part.key))}")
    others = [f"{name} ({columns[name]}, not {kind})" for name, kind in wanted.items()
              if columns.get(name, kind) != kind]  # fmt: skip
    if others:
        raise _away(to, "a table with the types of the contract", ", ".join(others))
    for name in wanted.keys() - columns.keys():
        cursor.execute(f'alter table {to.quoted} add column "{name}" {wanted[name]}')


def _write(cursor: Any, part: Part) -> None:
    """Replace the rows of a table; refuse where the server then holds others."""
    try:
        _make_room(cursor, part)
        cursor.execute(f"delete from {part.to.quoted}")
        if part.rows.num_rows:
            cursor.adbc_ingest(part.to.table, part.rows, mode="append", db_schema_name=part.to.schema)
    except _driver().Error as error:
        raise _away(part.to, "reachable and willing", _in_words(error)) from None
    if not _same(cursor, part):
        raise _away(part.to, "what was sent", "other rows after writing (a trigger or a rule?)")


def _parts(to: Sink, version: Path, run_id: str) -> list[Part]:
    """Return what each of the sink's tables is to hold of a version."""
    import pyarrow.parquet as pq

    parts = []
    for name, (file, key) in PARTS.items():
        rows = pq.read_table(version / file).replace_schema_metadata(None)
        rows = rows.sort_by([(column, "ascending") for column in key])
        if "run_id" not in rows.column_names:
            rows = rows.add_column(0, "run_id", pa.array([run_id] * rows.num_rows, pa.string()))
        parts.append(Part(replace(to, table=to.table + name), key, rows))
    return parts


def _another_source(run_id: str | None, source: str) -> bool:
    """Return whether a publication is known here as that of another source; one that is not known here may be ours."""
    manifest = versions.VERSIONS / str(run_id) / "manifest.json"
    return manifest.exists() and read_json(manifest).get("source") != source


def bring(to: Sink, version: Path, *, allow_earlier_as_of: bool) -> str:
    """Let the tables hold a published version and return a sentence on what was done; nothing is written twice.

    version: folder of the version. An earlier as_of of the same source never replaces a later one unless allowed.
    Refuses (exit code 8) where the server is away or does not take a table; then they hold what they held before.
    """
    manifest = read_json(version / "manifest.json")
    run_id, as_of, source = manifest["run_id"], manifest["as_of"], manifest["source"]
    parts = _parts(to, version, run_id)
    with _transaction(to) as cursor:
        _rows(cursor, f"select pg_advisory_xact_lock(hashtextextended('bellwether {to.quoted}', 0))::text as locked")
        if _rows(cursor, "select current_setting('server_encoding') as name") != [{"name": "UTF8"}]:
            raise _away(to, "in a database of encoding UTF8", "another encoding")
        held = _held(cursor, to)
        if held and (held.as_of or "") > as_of and not allow_earlier_as_of and not _another_source(held.run_id, source):
            return f"{to.name} holds {held.run_id} of {held.as_of}, which is later and stays"
        if held and held.run_id == run_id and all(_stands(cursor, part) for part in parts):
            return f"{to.name} holds {run_id} already"
        for part in parts:
            _write(cursor, part)
    customers, alerts, changes = (f"{part.rows.num_rows:,}" for part in parts)
    return f"{to.name} holds {run_id}: {customers} customers, {alerts} alerts and {changes} changes written"


def erase(to: Sink, customer: str) -> str:
    """Take a customer's rows out of all the tables, in one transaction; return a sentence on how many.

    A table that is not there, or is another thing's, has none. Refuses (exit code 8) a server that is away.
    """
    gone = 0
    with _transaction(to) as cursor:
        for name in PARTS:
            part = replace(to, table=to.table + name)
            if "customer_id" in (_columns(cursor, part) or {}):
                try:
                    cursor.execute(f"delete from {part.quoted} where customer_id = $1 returning 1 as one", (customer,))
                    gone += cursor.fetch_arrow_table().num_rows
                except _driver().Error as error:
                    raise _away(part, "reachable and willing", _in_words(error)) from None
    return f"{to.name}: {gone:,} rows deleted"


def _stands(cursor: Any, part: Part) -> bool:
    """Return whether the server's table has every column, of the right type, and the part's rows."""
    columns = _columns(cursor, part.to)
    fits = columns is not None and all(columns.get(column.name) == _type(column.type) for column in part.rows.schema)
    return fits and _same(cursor, part)


def _others_hold(cursor: Any, to: Sink, run_id: str) -> bool:
    """Return whether the tables beside that of customers are there and hold rows of no other run."""
    for name in PARTS:
        beside = replace(to, table=to.table + name)
        columns = _columns(cursor, beside)
        if columns is None or "run_id" not in columns:
            return False
        cursor.execute(f"select count(*)::int as rows from {beside.quoted} where run_id is distinct from $1", (run_id,))
        if cursor.fetch_arrow_table().to_pylist() != [{"rows": 0}]:
            return False
    return True


def describe(to: Sink, manifest: dict[str, Any] | None) -> str:
    """Return one sentence on whether the tables hold the version of this manifest, by run_id and customers."""
    try:
        with _transaction(to) as cursor:
            held = _held(cursor, to)
            beside = manifest is not None and _others_hold(cursor, to, manifest["run_id"])
    except ServiceRefused as refusal:
        return f"{to.name}: {refusal.problems[0].found}; not known what it holds"
    if held is None or not held.rows:
        return f"{to.name} holds nothing yet"
    if manifest and (held.run_id, held.rows) == (manifest["run_id"], manifest["rows"]):
        if beside:
            return f"{to.name} holds the current version"
        return f"{to.name} holds the current version's customers, but not its alerts and changes"
    return (
        f"{to.name} does not hold the current version: {held.run_id or 'several'} of {held.as_of}, {held.rows:,} rows"
    )


def verify(to: Sink, version: Path) -> str:
    """Return a sentence where the tables hold the version, value for value.

    Refuses what is away or holds another version (exit code 8), and other values under the same run_id (exit code 7).
    """
    run_id = read_json(version / "manifest.json")["run_id"]
    parts = _parts(to, version, run_id)
    with _transaction(to) as cursor:
        held = _held(cursor, to)
        if held is None or (held.run_id != run_id and parts[0].rows.num_rows):
            found = "none" if held is None or not held.rows else f"{held.run_id or 'several'} of {held.as_of}"
            raise _away(to, f"at the current version {run_id}", found)
        remedy = "The next `python -m pipeline run` mends it."
        problems = [
            Problem(f"PostgreSQL table {part.to.schema}.{part.to.table} of {to.name}", f"the rows of {run_id}",
                    "other values or no such table", remedy)
            for part in parts if not _stands(cursor, part)
        ]  # fmt: skip
        if problems:
            raise IntegrityRefused(problems)
    return f"{to.name} holds the current version, value for value"
