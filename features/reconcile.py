"""What the staged rows of a canonical table are to each other: kept, left out, broken, repeated, in conflict, orphaned.

A staged table holds every row read, with `_block`, `_file`, `_row` (where it came from) and `_state`. The functions
here write only `_state`, by sets, and cost one pass where nothing is wrong.

- The same key with the same content as its predecessor in time is a duplicate: the first `known_on` stays.
- The same key with other content and a later `known_on` is a restatement: both stay.
- The same key and `known_on` with other content is a conflict: all are quarantined.
- A row whose customer or credit does not occur in the table that holds them is an orphan: quarantined.
"""

from __future__ import annotations

from typing import Any

from features.expressions import name
from features.tables import Contract

KEPT, LEFT_OUT, BROKEN, DUPLICATE, CONFLICT, ORPHAN = range(6)
QUARANTINED = (BROKEN, CONFLICT, ORPHAN)


def staged(table: str) -> str:
    """Return the name of a table's staged rows in the engine."""
    return name(f"staged_{table}")


def key_of(contract: Contract, columns: list[str]) -> list[str]:
    """Return what identifies a row: the key, or, in a table without one, the content and its count in its file."""
    return list(contract.key) or [*(column for column in columns if column != "known_on"), "_n"]


def mark_orphans(connection: Any, contract: Contract, present: set[str]) -> None:
    """Mark rows whose reference is not among the kept rows of the table that it names, where that table is mapped."""
    for column, target in contract.references:
        if target not in present or target == contract.name:
            continue
        orphan = (
            f"_state = {KEPT} AND {name(column)} NOT IN "
            f"(SELECT {name(column)} FROM {staged(target)} WHERE _state = {KEPT} AND {name(column)} IS NOT NULL)"
        )
        if connection.execute(f"SELECT count(*) FROM {staged(contract.name)} WHERE {orphan}").fetchone()[0]:
            connection.execute(f"UPDATE {staged(contract.name)} SET _state = {ORPHAN} WHERE {orphan}")


def mark_versions(connection: Any, contract: Contract, columns: list[str]) -> None:
    """Mark duplicates and conflicts; restatements stay. Nothing depends on the order of rows or files."""
    key = ", ".join(name(column) for column in key_of(contract, columns))
    table = staged(contract.name)
    rows, keys = connection.execute(
        f"SELECT count(*), count(DISTINCT hash({key})) FROM {table} WHERE _state = {KEPT}"
    ).fetchone()
    if rows == keys:
        return
    content = ", ".join(name(column) for column in columns if column != "known_on")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE versions AS
        WITH repeated AS (
            SELECT hash({key}) AS h FROM {table} WHERE _state = {KEPT} GROUP BY ALL HAVING count(*) > 1
        ), candidates AS (
            SELECT {key}, known_on, md5(CAST(ROW({content}) AS VARCHAR)) AS content, _block, _file, _row
            FROM {table} WHERE _state = {KEPT} AND hash({key}) IN (SELECT h FROM repeated)
        ), numbered AS (
            SELECT *, row_number() OVER (PARTITION BY {key}, known_on, content ORDER BY _block, _file, _row) AS copy,
                min(content) OVER same_day <> max(content) OVER same_day AS conflict
            FROM candidates WINDOW same_day AS (PARTITION BY {key}, known_on)
        ), firsts AS (
            SELECT *, lag(content) OVER (PARTITION BY {key} ORDER BY known_on) IS NOT DISTINCT FROM content AS again
            FROM numbered WHERE copy = 1 AND NOT conflict
        )
        SELECT _block, _file, _row,
            CASE WHEN conflict AND copy = 1 THEN {CONFLICT} ELSE {DUPLICATE} END AS state
        FROM numbered WHERE conflict OR copy > 1
        UNION ALL SELECT _block, _file, _row, {DUPLICATE} FROM firsts WHERE again
    """)
    connection.execute(
        f"UPDATE {table} SET _state = versions.state FROM versions "
        f"WHERE {table}._block = versions._block AND {table}._row = versions._row"
    )


def counts(connection: Any, contract: Contract, money: list[str]) -> list[dict[str, Any]]:
    """Return one record a block and state: rows, and the sum and absolute sum of each money column (Decimal)."""
    sums = "".join(
        f", sum({name(column)}) AS {name('sum:' + column)}, sum(abs({name(column)})) AS {name('abs:' + column)}"
        for column in money
    )
    result = connection.execute(
        f"SELECT _block, _state, count(*) AS n{sums} FROM {staged(contract.name)} GROUP BY ALL ORDER BY ALL"
    )
    heads = [head[0] for head in result.description]
    return [dict(zip(heads, row, strict=True)) for row in result.fetchall()]
