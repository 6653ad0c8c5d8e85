"""The point-in-time build: canonical tables and observed dates in, one row of features for each observation out.

Tables are prepared once (customer, version, order, parts of the event date), with whole numbers as identifiers. Each
subject's query is compiled once and run for a group of dates at a time, so that memory follows the group; what
decomposes comes from partial aggregates instead (`panel`). Values are laid beside each other by the place of their
observation. What a feature needs to know about the data as a whole (which columns are given, which categories are
frequent) is read from rows known before the last training date: a later delivery cannot change `training/`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import ibis

from features import (
    accounts,
    affordability,
    arrears,
    bureau,
    cashflow,
    companies,
    exposure,
    generic,
    observed,
    peers,
    repayment,
    schedules,
    utilisation,
)
from features.declared import Declared, declare
from features.definition import (
    KEYS,
    Across,
    Applicants,
    Feature,
    Formula,
    Lender,
    Skipped,
    Standing,
    Subject,
    definition_hashes,
    digest,
    narrowed,
)
from features.direct import Join, beside
from features.engine import Again, DuckDB, Engine
from features.errors import DataRefused, Problem
from features.panel import Panel
from features.partials import MOST_VALUES, Plan, Values
from features.position import FACTS, position
from features.prepared import coded, codes_of, numbered, prepared, shaped, without

SUBJECTS = (
    observed, cashflow, repayment, arrears, schedules, utilisation, exposure, bureau, accounts, companies, generic,
    peers,
)  # fmt: skip
FACT = "fact__"
AT_ONCE = 10  # aggregates a query
MOST_DAYS = 4  # of the month, on which the dates of a panel fall: each has cells of its own
PARTS = ("as_of_month", "as_of_day", "as_of_number")


@dataclass(frozen=True)
class Settings:
    """How much to build: windows [months], monthly lags, subjects left out, columns never used, dates at once."""

    windows: tuple[int, ...] = (1, 3, 6, 12)
    lags: int = 6
    least_group: int = 10
    leave_out: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    observations_at_once: int = 60_000
    rows_at_once: int = 20_000_000  # that observations see of a history, where it is joined
    cells_at_once: int = 100_000_000  # numbers of a panel's grid
    panel: bool = True  # from partial aggregates where the dates fall on few days of the month; false: by direct join
    only: frozenset[str] | None = None  # features that are wanted, and what they are worked out from; null: all


@dataclass(frozen=True)
class Few:
    """What a few customers' rows do not say: what the whole source declares, and how all others stand."""

    declared: Declared
    standing: Standing


class Matrix:
    """Features of one source on an ibis DuckDB connection: declared when made, computed by `groups`.

    With `applicants`, what is declared comes from the source's tables as ever, and so do industries and what others are
    compared by; the rows that observations see are the applicants'. With `few`, the tables hold the rows of a few of
    the source's customers, and what is declared and how others stand is given.
    """

    def __init__(
        self,
        connection: Any,
        tables: Mapping[str, ibis.Table],
        description: Mapping[str, Any],
        training: ibis.Table,
        scoring: ibis.Table,
        settings: Settings,
        applicants: Applicants | None = None,
        few: Few | None = None,
    ) -> None:
        self.engine: Engine = DuckDB(connection) if isinstance(connection, ibis.BaseBackend) else connection
        self.connection, self.settings = connection, settings
        self.few, self._noted = few, Again(connection)
        if few is not None:
            self.engine = self._noted
        self._compiled: dict[bool, tuple[list[Join], list[Panel]]] = {}
        edge = few.declared.edge if few else self._edge(training, scoring)
        if edge is None:
            raise DataRefused(
                Problem(
                    "data/observe", "at least one observation to train or to score", "none", "Check the population."
                )
            )
        self.edge: dt.date = edge
        generic.refuse_undated(tables, description)
        self.mapped = tuple(sorted({*tables, *description}))  # tables that the source gives, be they empty
        held = {name: table for name, table in tables.items() if "known_on" in table.columns}
        rows, self.customers = self._prepared(held, (training, scoring), "")
        self.declared = few.declared if few else declare(self.engine, rows, description, self.edge)
        self.lender = self._lender(rows, self.declared, self._standing if few else None)
        if applicants is not None:
            self.lender = self._of_applicants(held, applicants)
        if few is not None:  # their own numbers are worked out here, to be set against those of others
            asked = self.asked(scoring)
            self.engine.keep("observed", asked.select("as_of", *PARTS, customer_id=asked.asked_for))
        self.subjects, self.skipped = self._declare()
        declared = [feature for subject in self.subjects for feature in subject.features]
        given = [feature.name for feature in declared]
        twice = sorted({name for name in given if given.count(name) > 1})
        if twice:
            raise DataRefused(
                Problem("data/ingest/tables.json", "names that give each feature one name", ", ".join(twice), "Rename.")
            )
        numbers = [feature.name for feature in declared if feature.kind == "numeric"]
        self.across: tuple[Across, ...] = tuple(affordability.across(numbers, settings.windows))
        if settings.only is not None:
            self.subjects, self.across = narrowed(self.subjects, self.across, settings.only)
        if few is not None:
            self.engine = DuckDB(connection)

    def again(self, few: Few) -> None:
        """Make what was declared of other rows, which lie under the same names by now; it stays declared as it is.

        Only where it was made with `few`, and `few` declares as it did: then all that differs is rows.
        """
        self.few = few
        self._compiled.clear()
        self._noted.again()

    def _standing(self, own: ibis.Table, dimensions: tuple[str, ...], least: int) -> ibis.Table:
        """Set the few's own numbers against those of others, by what is given."""
        kept = self._noted.keep("peers_own", own)
        return self._noted.take(lambda: self.few.standing(kept, dimensions, least))  # type: ignore[union-attr]

    def _edge(self, training: ibis.Table, scoring: ibis.Table) -> dt.date | None:
        """Return the last training date, or the last to score where nothing trains."""
        newest = [self.engine.rows(part.aggregate(as_of=part.as_of.max()))[0]["as_of"] for part in (training, scoring)]
        return newest[0] or newest[1]

    def _prepared(
        self, held: dict[str, ibis.Table], asked: tuple[ibis.Table, ...], prefix: str
    ) -> tuple[dict[str, ibis.Table], ibis.Table | None]:
        """Return the tables as `prepared` makes them, kept under names with `prefix`, and the codes of customers."""
        customers: ibis.Table | None = None
        held = {name: without(table, self.settings.protected) for name, table in held.items()}
        if self.engine.identifier != "string":
            customers, credit_codes = (
                None if codes is None else self.engine.keep(f"{prefix}{column}_codes", codes)
                for column in ("customer_id", "credit_id")
                for codes in (codes_of(column, (*held.values(), *asked)),)
            )
            held = {
                name: coded(coded(table, "customer_id", customers), "credit_id", credit_codes)
                for name, table in held.items()
            }
        rows = {
            name: self.engine.keep(f"{prefix}rows_{name}", prepared(name, table, held.get("credits")))
            for name, table in held.items()
        }
        return rows, customers

    def _of_applicants(self, held: dict[str, ibis.Table], applicants: Applicants) -> Lender:
        """Return the lender with the applicants' rows in place of its customers', who are the `others`."""
        theirs = {}
        for name in self.lender.tables:
            if {"customer_id", "credit_id"} & set(held[name].columns):  # others are facts about the market
                theirs[name] = shaped(applicants.tables.get(name), held[name])
        rows, self.customers = self._prepared(theirs, (applicants.observations,), "applicants_")
        return replace(
            self.lender,
            tables={**self.lender.tables, **rows},
            once=lambda name, table: self.engine.keep(f"applicants_{name}", table),
            others=self.lender,
        )

    def _lender(self, rows: dict[str, ibis.Table], declared: Declared, standing: Standing | None) -> Lender:
        """Return the lender of these rows as it was declared."""
        observed_as = {"customer_id": self.engine.identifier, "as_of": "date", **dict.fromkeys(PARTS, "int32")}
        return Lender(
            {name: table for name, table in rows.items() if declared.filled.get(name)},
            ibis.table(observed_as, name="observed"),
            declared.numeric,
            declared.categorical,
            tuple(sorted(self.settings.windows)),
            self.settings.lags,
            declared.vocabulary,
            declared.filled,
            self.settings.least_group,
            self.engine.keep,
            declared.lines,
            standing=standing,
        )

    def _declare(self) -> tuple[list[Subject], list[Skipped]]:
        built, skipped = [], []
        for module in SUBJECTS:
            for item in module.subjects(self.lender):
                if isinstance(item, Skipped):
                    skipped.append(item)
                elif item.name in self.settings.leave_out:
                    skipped.append(Skipped(item.name, "left out by params.yaml"))
                else:
                    built.append(item)
        return built, skipped

    @cached_property
    def features(self) -> tuple[tuple[Feature, tuple[str, ...], str], ...]:
        """Every feature in the order of its column, with its sources and definition hash."""
        listed = []
        hashes: dict[str, str] = {}
        for subject in self.subjects:
            hashes |= definition_hashes(subject)
            listed += [(feature, subject.sources, hashes[feature.name]) for feature in subject.features]
        sources = {feature.name: where for feature, where, _ in listed}
        for item in self.across:
            whence = tuple(sorted({source for need in item.needs for source in sources.get(need, ())}))
            made = digest(item.feature.name, *(hashes.get(need, "") for need in item.needs))
            listed.append((item.feature, whence, made))
        return tuple(listed)

    def catalogue(self) -> list[dict[str, Any]]:
        """Return one record a feature: the columns of catalogue.parquet."""
        return [
            {
                "name": feature.name,
                "kind": feature.kind,
                "sentence": feature.sentence,
                "sentence_zh": feature.sentence_zh,
                "unit": feature.unit,
                "direction": feature.direction,
                "family": feature.family,
                "sources": ", ".join(sources),
                "null_means": feature.null_means,
                "definition_hash": made,
            }
            for feature, sources, made in self.features
        ]

    def _queries(self, *, panel: bool) -> tuple[list[Join], list[Panel]]:
        """Compiled joins, of features and facts, and panels.

        With `panel`, what decomposes of a subject that has a history is read from its panel. The rows of a subject are
        worked out once; its aggregates then run a few at a time (54 in one query took DuckDB three times as long as six
        queries of ten).
        """
        if panel in self._compiled:
            return self._compiled[panel]
        joins, panels = [], []
        for subject in self.subjects:
            formulas = {feature.name: feature.formula for feature in subject.features}
            formulas |= {FACT + name: formula for name, formula in subject.facts.items()}
            history = self._view(subject) if subject.history else None
            if panel and subject.history and history and formulas:
                plan = Plan(subject, formulas, self._values(subject.history.table))
                panels.append(Panel(plan, self.connection.con, history, at_once=self.settings.cells_at_once))
                joins.append(Join((), (self.engine.sql(plan.composed.select("place", **plan.formulas)),)))
                formulas = {name: formulas[name] for name in plan.whole}
            if formulas:
                joins.append(self._join(subject, formulas, history))
        self._compiled[panel] = joins, panels
        return self._compiled[panel]

    def _join(self, subject: Subject, formulas: Mapping[str, Formula], history: str | None) -> Join:
        """Compile the direct join of some formulas of a subject."""
        rows, names, tables = subject.rows, sorted(formulas), []
        if len(names) > AT_ONCE:
            tables.append((f"seen_{subject.name}", self.engine.sql(rows)))
            rows = ibis.table(rows.schema(), name=f"seen_{subject.name}")
        queries = []
        for start in range(0, len(names), AT_ONCE):
            columns = {name: formulas[name](rows) for name in names[start : start + AT_ONCE]}
            found = self.engine.sql(rows.group_by(KEYS).aggregate(**columns))
            queries.append(
                f"SELECT place, r.* EXCLUDE (customer_id, as_of) FROM ({found}) r"
                " JOIN observed USING (customer_id, as_of)"
            )
        return Join(tuple(tables), tuple(queries), history)

    def _view(self, subject: Subject) -> str:
        """Name a subject's history."""
        assert subject.history is not None
        name = f'"history_{subject.name}"'
        self.connection.raw_sql(f"CREATE OR REPLACE TEMP VIEW {name} AS {self.engine.sql(subject.history.table)}")
        return name

    def _values(self, table: ibis.Table) -> Values:
        """Return what finds the values of a category, in their order, where they are few."""

        def values(column: str) -> list[str]:
            few = table.select(value=table[column]).distinct().filter(ibis._.value.notnull()).limit(MOST_VALUES + 1)
            return sorted(self.connection.to_pyarrow(few)["value"].to_pylist())

        return values

    def groups(self, observations: ibis.Table, *, with_position: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (features, position or None) as Arrow tables, group by group, in the order (as_of, customer_id).

        `observations` is (customer_id, as_of, ...); its further columns come first in both. A feature is null where it
        is unknown at as_of and never NaN or infinite.
        """
        carried = list(observations.columns)
        source = self.asked(observations)
        days = source.as_of.day().nunique().execute()
        joins, panels = self._queries(panel=self.settings.panel and days <= MOST_DAYS)
        for _ in self.observed_groups(source):
            for panel in panels:
                panel.compose("observed")
            laid = beside(self.connection.con, joins, self.settings.rows_at_once)
            self.connection.con.register("beside", laid)
            table = self.connection.table("beside")
            yield (
                self._arrow(self.feature_columns(table, carried)),
                self._arrow(self.position_columns(table, carried)) if with_position else None,
            )

    def asked(self, observations: ibis.Table) -> ibis.Table:
        """Keep the observations under `all_observed`, with parts of as_of and the code of the customer `asked_for`."""
        source = numbered(observations.mutate(asked_for=observations.customer_id), "as_of", "as_of")
        return self.engine.keep("all_observed", coded(source.drop("as_of_month_days"), "asked_for", self.customers))

    def observed_groups(self, source: ibis.Table) -> Iterator[tuple[dt.date, dt.date]]:
        """Lay one group of dates of `asked` after the other as `observed_rows` (by `place`) and `observed`."""
        for first, past_last in self.date_groups(source):
            here, order = source.filter(source.as_of.between(first, past_last)), ["as_of", "customer_id"]
            self.engine.keep("observed_rows", here.mutate(place=ibis.row_number().over(ibis.window(order_by=order))))
            here = self.connection.table("observed_rows")
            self.engine.keep("observed", here.select("as_of", *PARTS, "place", customer_id=here.asked_for))
            yield first, past_last

    def date_groups(self, source: ibis.Table) -> Iterator[tuple[dt.date, dt.date]]:
        """Yield (first, last) dates that together hold at most `observations_at_once`, and at least one date."""
        counted = self.engine.rows(source.group_by("as_of").aggregate(rows=ibis._.count()).order_by("as_of"))
        start, size = None, 0
        for at, entry in enumerate(counted):
            if start is not None and size + entry["rows"] > self.settings.observations_at_once:
                yield start, counted[at - 1]["as_of"]
                start, size = None, 0
            start = entry["as_of"] if start is None else start
            size += entry["rows"]
        yield (start, counted[-1]["as_of"]) if start is not None else (self.edge, self.edge)  # no rows: an empty table

    def _arrow(self, expression: ibis.Table) -> Any:
        return self.connection.to_pyarrow(expression)

    def feature_columns(self, table: ibis.Table, carried: list[str]) -> ibis.Table:
        """Return `carried` and every feature, of a table that holds the columns of all subjects."""
        wide = table.mutate(**{item.feature.name: item.feature.formula(table) for item in self.across})
        columns = {}
        every = [feature for subject in self.subjects for feature in subject.features]
        for feature in (*every, *(item.feature for item in self.across)):  # as in `features`, which hashes definitions
            value = wide[feature.name]
            if feature.kind == "numeric":
                number = value.cast("float64")
                value = (number.isnan() | number.isinf()).ifelse(ibis.null("float64"), number)
            columns[feature.name] = value
        return wide.select(*carried, **columns)

    def position_columns(self, table: ibis.Table, carried: list[str]) -> ibis.Table:
        """Return `carried` and the position, of a table that holds the facts of all subjects."""
        given = [name.removeprefix(FACT) for name in table.columns if name.startswith(FACT)]
        taken = [name for name in given if name in FACTS]
        renamed = table.select(*carried, **{name: table[FACT + name] for name in taken})
        return renamed.select(*carried, **position(renamed, taken))
