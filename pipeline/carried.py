"""How new rows meet the rows of earlier deliveries, by sets and in the engine, for one table at a time.

`meet` marks the staged rows and leaves, where there was an earlier run, three tables in the engine:

- `moves_<table>`: earlier rows whose state changes, from `was` to `becomes`
- `content_<table>`: the content of the rows that are spoken of, by `_h` and `_c`
- `kept_before_<table>`: the (_h, known_on, _c) of earlier kept rows that share a key with a new row

It returns the earlier files that must be read once more for the text or content of a row that changes its state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.expressions import name, quote
from features.reconcile import (
    CONFLICT,
    KEPT,
    ORPHAN,
    REPLACED,
    ROW,
    UNREAD,
    hashes,
    orphans,
    references,
    staged,
    versions,
)  # fmt: skip
from features.staging import output_columns
from features.tables import HOLDERS
from pipeline.earlier import Rebuild, scan
from pipeline.reading import Reading

IDENTITY = "_piece, _file, _place"


def meet(build: Reading, table: str) -> set[str]:
    """Mark a table's staged rows against each other and against earlier rows; return files to read once more."""
    contract = build.mapping.contract(table)
    for orphan in orphans(contract, set(build.mapping.tables)):
        build.holdings[table].restate(orphan)
    needed = _released(build, table)
    matched = _earlier_rows(build, table)
    questioned = _judge(build, table, matched=matched)
    if build.earlier.ledger:
        needed |= _moves(build, table, questioned=questioned)
    if table in HOLDERS.values():
        _keys(build, table)
    return needed


def _run(build: Reading, sql: str) -> Any:
    return build.connection.execute(sql)


def _keys(build: Reading, table: str) -> None:
    """Make `keys_<table>`, what references may name, and `arrived_<table>`, those that came with this run.

    Of the keys of earlier rows those that a row of this run names: few, where few rows come to many customers.
    """
    key = name(build.mapping.contract(table).key[0])
    own = f"SELECT {key} FROM {staged(table)} WHERE _state = {KEPT}"
    parts = build.earlier.parts(table)
    before = f"SELECT {key} FROM {scan(parts)}" if parts else f"SELECT {key} FROM {staged(table)} WHERE false"
    naming = [own]
    for other in build.mapping.tables:
        for column, target in references(build.mapping.contract(other), set(build.mapping.tables)):
            naming += [f"SELECT {name(column)} FROM {staged(other)}"] if target == table else []
    spoken = f"{before} WHERE {key} IN ({' UNION '.join(naming)})" if parts else before
    _run(build, f"CREATE TEMP TABLE {name('keys_' + table)} AS {spoken} UNION {own}")
    _run(build, f"CREATE TEMP TABLE {name('arrived_' + table)} AS {own} EXCEPT ({spoken})")


def alike(build: Reading, table: str) -> int:
    """Return how many identifiers differ from one that came with this run in case, blanks or form alone, and those.

    Of a table of customers or credits, once it is written. They stay what they are; who reads the count decides whether
    one customer goes by two names.
    """
    if table not in HOLDERS.values():
        return 0
    unseen = " \t\u00a0\u00ad\u200b\u200c\u200d\u2060\u3000\ufeff"
    key = name(build.mapping.contract(table).key[0])
    bare = f"lower(nfc_normalize(translate({key}, {quote(unseen)}, '')))"
    parts = build.earlier.parts(table)
    everyone = scan(parts) if parts else name("keys_" + table)
    groups = (
        f"SELECT count(DISTINCT {key}) AS several FROM {everyone} "
        f"WHERE {bare} IN (SELECT {bare} FROM {name('arrived_' + table)}) GROUP BY {bare} HAVING several > 1"
    )
    return int(_run(build, f"SELECT coalesce(sum(several), 0) FROM ({groups})").fetchone()[0])


def _released(build: Reading, table: str) -> set[str]:
    """Make `waiting_<table>`, the earlier orphans; return the files of those whose customer or credit arrived."""
    waiting, path = name(f"waiting_{table}"), build.earlier.quarantine(table)
    _run(build, f"CREATE TEMP TABLE {waiting} ({IDENTITY.replace(',', ' BIGINT,')} BIGINT, waits_for VARCHAR[])")
    if path is None:
        return set()
    _run(
        build,
        f"INSERT INTO {waiting} SELECT q.piece, f.number, q.row, q.waits_for FROM {scan([path])} q "
        "JOIN files f ON f.file = q.file WHERE q.waits_for IS NOT NULL",
    )
    contract, needed = build.mapping.contract(table), set()
    for column, target in references(contract, set(build.mapping.tables)):
        rows = _run(
            build,
            f"SELECT DISTINCT files.file FROM (SELECT _file, unnest(waits_for) AS id FROM {waiting}) w "
            f"JOIN files ON number = _file WHERE NOT is_again "
            f"AND id IN (SELECT {name(column)} FROM {name('arrived_' + target)})",
        ).fetchall()
        needed |= {row[0] for row in rows}
    return needed


def _earlier_rows(build: Reading, table: str) -> int:
    """Make `before_<table>`: earlier rows, by the index, with the key of a new row; return how many."""
    before = name(f"before_{table}")
    _run(build, f"CREATE TEMP TABLE {before} ({ROW})")
    paths = {file: build.earlier.index(table, file) for file in build.earlier.files}
    paths = {file: path for file, path in paths.items() if path.is_file()}
    have = _run(build, f"SELECT count(*) FROM {staged(table)} WHERE _state = {KEPT}").fetchone()[0]
    if not paths or not have:
        return 0
    contract = build.mapping.contract(table)
    h, _ = hashes(contract, list(output_columns(contract, build.mapping.tables[table])))
    files = {str(path.resolve()): file for file, path in paths.items()}
    asked = (  # one column of the index: as a rule no key was there before
        f"SELECT DISTINCT filename FROM {scan(list(paths.values()), ', filename = true')} "
        f"WHERE h IN (SELECT {h} FROM {staged(table)} WHERE _state = {KEPT})"
    )
    having = [row[0] for row in _run(build, asked).fetchall()]
    if not having:
        return 0
    listed = ", ".join(f"({quote(path)}, {quote(files[path])})" for path in having)
    _run(
        build,
        f"""
        INSERT INTO {before}
        WITH found AS MATERIALIZED (
            SELECT * FROM {scan([Path(path) for path in having], ", filename = true")}
            WHERE h IN (SELECT {h} FROM {staged(table)} WHERE _state = {KEPT})
        ), origin AS (
            SELECT path, number FROM (VALUES {listed}) AS v(path, file) JOIN files USING (file)
        )
        SELECT h, c, known_on, piece, number, place FROM found JOIN origin ON path = filename
        ANTI JOIN {name("waiting_" + table)} ON _piece = piece AND _file = number AND _place = place
    """,
    )
    return int(_run(build, f"SELECT count(*) FROM {before}").fetchone()[0])


def _judge(build: Reading, table: str, *, matched: int) -> bool:
    """Work out the states of all rows that share their key with another; return whether there were any."""
    contract = build.mapping.contract(table)
    columns = list(output_columns(contract, build.mapping.tables[table]))
    h, c = hashes(contract, columns)
    rows, keys = _run(
        build, f"SELECT count(*), count(DISTINCT {h}) FROM {staged(table)} WHERE _state = {KEPT}"
    ).fetchone()
    if rows == keys and not matched:
        return False
    later = str(build.mapping.later_file_wins(table)).lower()
    before, asked, states = (name(f"{what}_{table}") for what in ("before", "asked", "states"))
    key = [name(column) for column in contract.key]
    _run(
        build,
        f"""
        CREATE TEMP TABLE {asked} AS
        WITH shared AS (
            SELECT {h} AS _h FROM {staged(table)} WHERE _state = {KEPT} GROUP BY ALL HAVING count(*) > 1
            UNION SELECT _h FROM {before}
        )
        SELECT {h} AS _h, {c} AS _c, known_on, {IDENTITY}, _id{"".join(", " + column for column in key)}
        FROM {build.placed(table)} WHERE _state = {KEPT} AND {h} IN (SELECT _h FROM shared)
    """,
    )
    if matched:  # earlier rows have no key here, only its hash; `_guard` looks at the keys
        _run(
            build,
            f"INSERT INTO {asked} BY NAME SELECT {before}.* FROM {before} JOIN files ON number = _file "
            "WHERE NOT is_again",
        )
    group = ["_h"] if matched else ["_h", *key]
    _run(build, f"CREATE TEMP TABLE {states} AS {versions(asked, group, later)}")
    build.holdings[table].restate(
        f"SELECT _id, _found AS _state FROM {states} WHERE _id IS NOT NULL AND _found <> {KEPT}"
    )
    return True


def _moves(build: Reading, table: str, *, questioned: bool) -> set[str]:
    """Make `moves_`, `content_` and `kept_before_<table>`; return the files whose text or content is missing."""
    contract = build.mapping.contract(table)
    columns = list(output_columns(contract, build.mapping.tables[table]))
    h, c = hashes(contract, columns)
    listed = ", ".join(name(column) for column in columns if column != "known_on")
    later = str(build.mapping.later_file_wins(table)).lower()
    before, states, was, moves, content, kept, waiting = (
        name(f"{what}_{table}") for what in ("before", "states", "was", "moves", "content", "kept_before", "waiting")
    )
    if not questioned:
        _run(build, f"CREATE TEMP TABLE {states} ({ROW}, _id BIGINT, _found UTINYINT)")
    _run(build, f"CREATE TEMP TABLE {was} AS {versions(before, ['_h'], later)}")
    _run(build, f"CREATE TEMP TABLE {kept} AS SELECT DISTINCT _h, known_on, _c FROM {was} WHERE _found = {KEPT}")
    again = f"{build.placed(table)} s JOIN files ON number = _file WHERE is_again"
    _run(
        build,
        f"""
        INSERT INTO {was} BY NAME SELECT {h} AS _h, {c} AS _c, known_on, {IDENTITY}, {ORPHAN} AS _found
        FROM (SELECT s.* FROM {again}) SEMI JOIN {waiting} USING ({IDENTITY})
    """,
    )
    _run(
        build,
        f"""
        CREATE TEMP TABLE {moves} AS
        WITH present AS (
            SELECT {IDENTITY}, _found AS becomes FROM {states} WHERE _id IS NULL
            UNION ALL SELECT {IDENTITY}, _state FROM {again}
        )
        SELECT was._h, was._c, was.known_on, {IDENTITY}, was._found AS was, becomes
        FROM {was} was JOIN present USING ({IDENTITY}) WHERE was._found <> becomes OR was._found = {ORPHAN}
    """,
    )
    spoken = (
        f"SELECT _h FROM {moves} UNION SELECT _h FROM {states} WHERE _found IN ({CONFLICT}, {REPLACED}) "
        f"AND _h IN (SELECT _h FROM {before})"
    )
    _run(
        build,
        f"""
        CREATE TEMP TABLE {content} AS SELECT {h} AS _h, {c} AS _c, {listed} FROM {staged(table)}
        WHERE _state NOT IN {UNREAD} AND {h} IN ({spoken})
    """,
    )
    months = _run(
        build, f"SELECT DISTINCT strftime(known_on, '%Y-%m') FROM {kept} WHERE _h IN ({spoken}) ORDER BY 1"
    ).fetchall()
    if contract.key and months:
        parts = scan([build.earlier.part(table, month) for (month,) in months])
        _run(build, f"INSERT INTO {content} SELECT {h}, {c}, {listed} FROM {parts} WHERE {h} IN ({spoken})")
    _guard(build, table)
    unread = f"SELECT {moves}.* FROM {moves} JOIN files ON number = _file WHERE NOT is_again"
    rows = _run(
        build,
        f"SELECT file FROM (SELECT _file FROM ({unread}) WHERE becomes = {CONFLICT} "
        f"UNION SELECT _file FROM ({unread}) ANTI JOIN {content} USING (_h, _c)) JOIN files ON number = _file",
    ).fetchall()
    return {row[0] for row in rows}


def changed_between(build: Reading, tables: list[str]) -> list[tuple[str, str, str]]:
    """Return (column, one, other): `one` holds an earlier row that changes its state for a new row of `other`.

    Column: customer_id or credit_id, where it is no part of the key, by which both would be the same.
    """
    found: set[tuple[str, str, str]] = set()
    for table in tables if build.earlier.ledger else []:
        contract = build.mapping.contract(table)
        columns = list(output_columns(contract, build.mapping.tables[table]))
        holder = next((column for column in ("customer_id", "credit_id") if column in columns), None)
        if holder is None or {"customer_id", "credit_id"} & set(contract.key):
            continue
        h, _ = hashes(contract, columns)
        rows = _run(
            build,
            f"SELECT DISTINCT e.{holder}, n.{holder} FROM {name('moves_' + table)} m "
            f"JOIN {name('content_' + table)} e USING (_h, _c) "
            f"JOIN (SELECT {holder}, {h} AS _h FROM {staged(table)} WHERE _state NOT IN {UNREAD}) n USING (_h) "
            f"WHERE e.{holder} <> n.{holder}",
        ).fetchall()
        found |= {(holder, *row) for row in rows}
    return sorted(found)


def _guard(build: Reading, table: str) -> None:
    """Ask for a build from scratch where one hash stands for two keys, or a customer or credit is kept no more."""
    contract = build.mapping.contract(table)
    content, states, kept = (name(f"{what}_{table}") for what in ("content", "states", "kept_before"))
    if contract.key:
        key = ", ".join(name(column) for column in contract.key)
        one = f"SELECT _h FROM {content} GROUP BY _h HAVING count(DISTINCT ROW({key})) > 1"
        if _run(build, f"SELECT count(*) FROM ({one})").fetchone()[0]:
            raise Rebuild
    if table in HOLDERS.values():
        lost = f"SELECT _h FROM {kept} WHERE _h NOT IN (SELECT _h FROM {states} WHERE _found = {KEPT}) "
        if _run(build, f"SELECT count(*) FROM ({lost})").fetchone()[0]:
            raise Rebuild
