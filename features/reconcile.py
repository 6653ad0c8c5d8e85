"""What the rows of a canonical table are to each other: kept, left out, broken, repeated, in conflict, orphaned.

A staged table holds the rows read in one run, with `_piece`, `_file`, `_row` (where they came from) and `_state`. Rows
of earlier deliveries take part by their hashes alone: `_h` (of the key), `_c` (of the content), `known_on`, `_piece`,
`_file` (the file's number among all files), `_place` (the row's number in its file). The states are a function of the
set of rows, whatever the order in which their deliveries arrived.

- The same key with the same content as its predecessor in time is a duplicate: the first `known_on` stays.
- The same key with other content and a later `known_on` is a restatement: both stay.
- The same key and `known_on` with other content is a conflict: all are quarantined, or, where the mapping says
  `conflicts: later_file`, the content of the later file stays and the earlier is replaced (unless that file contradicts
  itself). A file's delivery date decides which is later, then its name.
- A row whose customer or credit does not occur in the table that holds them is an orphan: quarantined for as long as
  no delivery brings the customer or credit. Then it is kept with its own `known_on`; a date sees it no sooner than the
  customer or credit that it hangs on.
"""

from __future__ import annotations

from features.expressions import name
from features.tables import Contract

KEPT, LEFT_OUT, BROKEN, DUPLICATE, CONFLICT, ORPHAN, REPLACED = range(7)
QUARANTINED = (BROKEN, CONFLICT, ORPHAN)
UNREAD = (LEFT_OUT, BROKEN)  # states that a row has by itself, whatever others say
ROW = "_h UBIGINT, _c UBIGINT, known_on DATE, _piece USMALLINT, _file INTEGER, _place BIGINT"


def staged(table: str) -> str:
    """Return the name of a table's staged rows in the engine."""
    return name(f"staged_{table}")


def key_of(contract: Contract, columns: list[str]) -> list[str]:
    """Return what identifies a row: the key, or, in a table without one, the content and its count in its file."""
    return list(contract.key) or [*(column for column in columns if column != "known_on"), "_n"]


def hashes(contract: Contract, columns: list[str]) -> tuple[str, str]:
    """Return SQL of the hash of a row's key, and of its content (all but `known_on`)."""
    key = ", ".join(name(column) for column in key_of(contract, columns))
    content = ", ".join(name(column) for column in columns if column != "known_on")
    return f"hash({key})", f"hash({content})"


def references(contract: Contract, present: set[str]) -> list[tuple[str, str]]:
    """Return (column, table that holds it) of the references that are checked: those to tables that are mapped."""
    return [pair for pair in contract.references if pair[1] in present and pair[1] != contract.name]


def orphans(contract: Contract, present: set[str]) -> list[str]:
    """Return queries of the rows (`_id`, `_state`) whose reference is not among `keys_<table>`, one a reference.

    `keys_<table>` holds the keys of that table's kept rows of all deliveries. A row is spoken of by the first query
    that finds it, if what that says is noted before the next.
    """
    found = []
    for column, target in references(contract, present):
        keys = f"(SELECT {name(column)} FROM {name('keys_' + target)})"
        missing = f"_state = {KEPT} AND {name(column)} NOT IN {keys}"
        found.append(f"SELECT _id, {ORPHAN} AS _state FROM {staged(contract.name)} WHERE {missing}")
    return found


def versions(source: str, key: list[str], later: str) -> str:
    """Return SQL of each row of `source` (ROW, and whatever else) with its state, `_found`.

    `later` is SQL of whether the later file wins. `key` names the columns that identify what a row is about. Nothing
    depends on the order of rows, and on the order of files only what `conflicts: later_file` asks for.
    """
    group = ", ".join(key)
    last = "_c) FILTER (_latest) OVER same_day"
    return f"""
        WITH placed AS (
            SELECT *, row_number() OVER (PARTITION BY {group}, known_on, _c ORDER BY _piece, _file, _place) AS _copy,
                min(_c) OVER same_day <> max(_c) OVER same_day AS _differing,
                _file = max(_file) OVER same_day AS _latest
            FROM {source} WINDOW same_day AS (PARTITION BY {group}, known_on)
        ), judged AS (
            SELECT *, CASE WHEN {later} AND min({last} = max({last} THEN max({last} END AS _winner
            FROM placed WINDOW same_day AS (PARTITION BY {group}, known_on)
        ), chosen AS (
            SELECT *, _copy = 1 AND (NOT _differing OR coalesce(_c = _winner, false)) AS _stands FROM judged
        ), told AS (
            SELECT *, lag(_c) OVER (PARTITION BY {group}, _stands ORDER BY known_on) IS NOT DISTINCT FROM _c AS _again
            FROM chosen
        )
        SELECT * EXCLUDE (_copy, _differing, _latest, _winner, _stands, _again), CAST(CASE
            WHEN _stands THEN CASE WHEN _again THEN {DUPLICATE} ELSE {KEPT} END
            WHEN _copy > 1 THEN {DUPLICATE}
            WHEN _winner IS NULL THEN {CONFLICT} ELSE {REPLACED} END AS UTINYINT) AS _found
        FROM told
    """
