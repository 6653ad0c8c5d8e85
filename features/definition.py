"""What a feature is: one named expression with a sentence, a unit, the direction of risk and what null means.

A subject is a set of rows that an observation can see, and the features that sum them up, one value for each
(customer_id, as_of). Modules named by subject declare both; `build` computes them; nothing else knows a formula.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ibis

from features.visible import known

Formula = Callable[[ibis.Table], ibis.Value]
# (observations' own numbers, dimensions, least group) -> the same with how they stand among all others
Standing = Callable[[ibis.Table, tuple[str, ...], int], ibis.Table]
KEYS = ("customer_id", "as_of")


def bound(compute: Callable[[ibis.Table, Any], ibis.Value], argument: Any) -> Formula:
    """Return the formula that `compute` is with this window, name or value."""
    return lambda rows: compute(rows, argument)


@dataclass(frozen=True)
class Feature:
    """One column of the matrix; `formula` maps the subject's rows to one value for each (customer_id, as_of)."""

    name: str
    formula: Formula
    sentence: str
    sentence_zh: str
    family: str  # the reason family: features that move together share one
    unit: str = ""
    direction: int = 0  # +1: risk rises with the value, -1: it falls, 0: unknown beforehand
    null_means: str = "nothing of the kind was known"
    kind: str = "numeric"


@dataclass(frozen=True)
class History:
    """Rows of one table, each by itself: what `Lender.past` makes the rows of a subject of."""

    table: ibis.Table
    months: int | None = None


@dataclass(frozen=True)
class Subject:
    """Rows (customer_id, as_of, ...) that observations can see, and what is worked out from them.

    Where `rows` are `lender.past(history.table, history.months)` and no more, `history` says so: a panel of dates is
    then worked out from partial aggregates (see `panel`).
    """

    name: str
    sources: tuple[str, ...]
    rows: ibis.Table
    features: tuple[Feature, ...]
    facts: Mapping[str, Formula] = field(default_factory=dict)  # for policy and alerts, never model inputs
    made_by: tuple[Callable, ...] = ()  # the functions whose code says what the rows are
    history: History | None = None
    stands_on: Mapping[str, str] = field(default_factory=dict)  # feature -> what else its definition hash covers


@dataclass(frozen=True)
class Skipped:
    """A subject that the source cannot give, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Across:
    """A feature worked out from other columns of the same row; left out where one of `needs` is absent."""

    feature: Feature
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """What a source says of our own credit lines, or of those of other lenders, as known on the last training date."""

    filled: Mapping[str, frozenset[str]]  # table (credits, statements) -> columns with a value
    vocabulary: Mapping[str, tuple[str, ...]]  # table.column -> frequent values, most frequent first
    most_lines: int  # of one customer

    def has(self, table: str, *columns: str) -> bool:
        """Return whether a line of this side has a value in each of these columns."""
        return set(columns) <= self.filled.get(table, frozenset())


@dataclass(frozen=True)
class Lender:
    """What a source offers on the observed dates: prepared tables, their attributes, windows and vocabularies.

    `tables` hold `superseded_on`, `row_order` and the integer parts of the event date (see `build.prepared`);
    `observed` is (customer_id, as_of) with the same parts of as_of. Vocabularies hold a category's frequent values,
    most frequent first, as known on the last date of training.
    """

    tables: Mapping[str, ibis.Table]
    observed: ibis.Table
    numeric: Mapping[str, tuple[str, ...]]
    categorical: Mapping[str, tuple[str, ...]]
    windows: tuple[int, ...]
    lags: int
    vocabulary: Mapping[str, tuple[str, ...]]
    filled: Mapping[str, frozenset[str]]  # table -> columns that the mapping gives
    least_group: int = 10  # known values in a peer group, below which its average and ranks are null
    once: Callable[[str, ibis.Table], ibis.Table] = lambda _, table: table  # work a table out once, under a name
    lines: Mapping[bool, Lines] = field(default_factory=dict)  # our own (true), and those of other lenders (false)
    others: Lender | None = None  # of whose customers statistics are made; null: of those in `tables`
    standing: Standing | None = None  # what was worked out of all others before; null: it is worked out of `tables`

    def known(self, table: str | ibis.Table, observed: ibis.Table | None = None, by: str = "customer_id") -> ibis.Table:
        """Return what each observation can see of a table: its rows with `months_before` and `days_before`.

        `months_before` is the k for which as_of - k months <= event_on < as_of - (k - 1) months, in calendar months
        with their ends clamped (28 February is one month before 31 March); at or below 0 the event is still to come.
        """
        table = self.tables[table] if isinstance(table, str) else table
        rows = known(table, self.observed if observed is None else observed, by)
        whole = rows.as_of_month - rows.event_month
        within_month = ibis.least(rows.as_of_day, rows.event_month_days)
        return rows.mutate(
            months_before=whole + (rows.event_day < within_month).cast("int32"),
            days_before=rows.as_of_number - rows.event_number,
        )

    def past(self, table: str | ibis.Table, months: int | None = None) -> ibis.Table:
        """Return `known` rows of events before as_of, all or those of the last `months`."""
        rows = self.known(table)
        rows = rows.filter(rows.days_before >= 1)
        if months is None:
            return rows
        return rows.filter(rows.days_before <= 31 * months, rows.months_before <= months)

    def has(self, table: str, *columns: str) -> bool:
        """Return whether the source gives the table with all of these columns."""
        return table in self.tables and set(columns) <= self.filled.get(table, frozenset())


@dataclass(frozen=True)
class Applicants:
    """Customers of whom the source's tables say nothing: their own rows, and the observations that will be asked for.

    A table of the source that is absent from `tables` holds no row of theirs; columns are found by name.
    """

    tables: Mapping[str, ibis.Table]
    observations: ibis.Table


def narrowed(
    subjects: Sequence[Subject], across: Sequence[Across], names: frozenset[str]
) -> tuple[list[Subject], tuple[Across, ...]]:
    """Return the subjects and what is worked out across them without features that are neither named nor needed.

    Facts stay.
    """
    across = tuple(item for item in across if item.feature.name in names)
    kept = names.union(*(item.needs for item in across))
    return [
        replace(one, features=tuple(item for item in one.features if item.name in kept)) for one in subjects
    ], across


def code_of(function: Callable) -> str:
    """Return a function's code without comments, layout or docstring: it changes only where its meaning may."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def definition_hashes(subject: Subject) -> dict[str, str]:
    """Return feature name -> 16 hex digits that change when what the feature computes changes.

    They cover the formula (as SQL over the subject's rows) and the code that makes those rows; wording, other features
    and columns that the formula does not touch leave them alone.
    """
    import sqlglot

    if not subject.features:
        return {}
    rows = ibis.table(subject.rows.schema(), name="rows")
    sql = ibis.to_sql(rows.aggregate(**{item.name: item.formula(rows) for item in subject.features}), dialect="duckdb")
    parsed = sqlglot.parse_one(str(sql), read="duckdb")
    select = parsed.find(sqlglot.exp.Select)
    assert select is not None
    formulas = {column.alias: column.this.sql("duckdb") for column in select.expressions}
    code = [code_of(function) for function in subject.made_by]
    return {
        item.name: digest(
            item.name, item.kind, formulas[item.name], subject.name, *subject.sources, *code,
            *(text for name, text in subject.stands_on.items() if name == item.name),
        )
        for item in subject.features
    }  # fmt: skip


def digest(*parts: str) -> str:
    """Return 16 hex digits of the SHA-256 of these texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
