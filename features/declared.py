"""What is declared of a source: columns that have a value, frequent categories, lines a customer, as known on one date.

The build reads it from rows known before the last training date, so that a later delivery changes no feature's
definition. It is small and plain: kept as JSON, it lets a few customers be built as the whole source would build them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import ibis

from features import generic
from features.definition import Lines
from features.engine import Engine
from features.utilisation import own
from features.visible import visible_at

FREQUENT = (  # categories whose values make features
    ("transactions", "category"),
    ("credits", "provider"),
    ("credits", "product"),
    ("statements", "status"),
)


@dataclass(frozen=True)
class Declared:
    """What a source gave on `edge`, the last training date: see `Lender`, whose words these are.

    filled: table -> columns with a value; a table without one is declared empty. vocabulary: table.column -> values.
    """

    edge: dt.date
    filled: Mapping[str, frozenset[str]]
    numeric: Mapping[str, tuple[str, ...]]
    categorical: Mapping[str, tuple[str, ...]]
    vocabulary: Mapping[str, tuple[str, ...]]
    lines: Mapping[bool, Lines]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, sets in order."""
        lines = {
            "ours" if ours else "others": asdict(each)
            | {"filled": {name: sorted(columns) for name, columns in each.filled.items()}}
            for ours, each in self.lines.items()
        }
        filled = {name: sorted(columns) for name, columns in self.filled.items()}
        return asdict(self) | {"edge": self.edge.isoformat(), "filled": filled, "lines": lines}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what `to_plain` gave, after it went through JSON."""

        def tuples(lists: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
            return {name: tuple(values) for name, values in lists.items()}

        def sets(lists: Mapping[str, list[str]]) -> dict[str, frozenset[str]]:
            return {name: frozenset(values) for name, values in lists.items()}

        lines = {
            side == "ours": Lines(sets(each["filled"]), tuples(each["vocabulary"]), int(each["most_lines"]))
            for side, each in plain["lines"].items()
        }
        return cls(
            dt.date.fromisoformat(plain["edge"]), sets(plain["filled"]), tuples(plain["numeric"]),
            tuples(plain["categorical"]), tuples(plain["vocabulary"]), lines,
        )  # fmt: skip


def declare(engine: Engine, rows: Mapping[str, ibis.Table], description: Mapping[str, Any], edge: dt.date) -> Declared:
    """Find what prepared tables give, as known on `edge`. description: tables.json of ingest."""
    filled, numeric, categorical = {}, {}, {}
    for name, table in rows.items():
        seen = visible_at(table, ibis.literal(edge))
        if name == "observations":
            seen = table.filter(table.as_of <= edge)
        counts = engine.rows(seen.aggregate(**{column: seen[column].count() for column in table.columns}))[0]
        filled[name] = kept = frozenset(column for column in table.columns if counts[column])
        entry = description.get(name) or {}
        numeric[name] = tuple(a for a in sorted(entry.get("numeric") or ()) if a in kept)
        categorical[name] = tuple(a for a in sorted(entry.get("categorical") or ()) if a in kept)
    vocabulary = {}
    for name, column in (*FREQUENT, *generic.categories(categorical)):
        if column in filled.get(name, ()):
            seen = visible_at(rows[name], ibis.literal(edge))
            vocabulary[f"{name}.{column}"] = generic.frequent(engine, seen, column)
    given = {name: table for name, table in rows.items() if filled[name]}
    lines = {ours: _lines(engine, given, filled, edge, ours=ours) for ours in (True, False)}
    return Declared(edge, filled, numeric, categorical, vocabulary, lines)


def _lines(
    engine: Engine, rows: Mapping[str, ibis.Table], filled: Mapping[str, frozenset[str]], edge: dt.date, *, ours: bool
) -> Lines:
    """Find the same of one side's credit lines alone, and how many of them one customer has at most."""
    if "credits" not in rows:
        return Lines({}, {}, 0)
    seen = {name: visible_at(rows[name], ibis.literal(edge)) for name in ("credits", "statements") if name in rows}
    held = seen["credits"]
    seen["credits"] = held = held.filter(own(held) if ours else ~own(held))
    if "statements" in seen:
        seen["statements"] = seen["statements"].semi_join(held, "credit_id")
    given: dict[str, frozenset[str]] = {}
    vocabulary = {}
    for name, table in seen.items():
        counts = engine.rows(table.aggregate(**{c: table[c].count() for c in sorted(filled[name])}))[0]
        given[name] = frozenset(column for column, count in counts.items() if count)
        for column in [column for of, column in FREQUENT if of == name and column in given[name]]:
            vocabulary[f"{name}.{column}"] = generic.frequent(engine, table, column)
    each = held.group_by("customer_id").aggregate(lines=held.credit_id.nunique())
    return Lines(given, vocabulary, int(engine.rows(each.aggregate(most=each.lines.max()))[0]["most"] or 0))
