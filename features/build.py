"""The point-in-time build: canonical tables and observed dates in, one row of features for each observation out.

Tables are prepared once (customer, version, order, parts of the event date). Each subject's query is compiled once and
run for a group of dates at a time, so that memory follows the group and not the history. What a feature needs to know
about the data as a whole (which columns are given, which categories are frequent) is read from rows known before the
last training date, so that a later delivery cannot change `training/`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ibis

from features import affordability, bureau, cashflow, companies, exposure, generic, observed, repayment, utilisation
from features.definition import KEYS, Across, Feature, Lender, Skipped, Subject, definition_hashes, digest
from features.errors import DataRefused, Problem
from features.position import FACTS, position
from features.tables import CONTRACTS, contract_of
from features.visible import versioned, visible_at

SUBJECTS = (observed, cashflow, repayment, utilisation, exposure, bureau, companies, generic)
EVENTS = {"financials": "period_end"}  # where the event is not the date that knowledge is counted from
FREQUENT = (("transactions", "category"), ("credits", "provider"))  # categories whose values make features
FACT = "fact__"
AT_ONCE = 10  # aggregates a query
PARTS = ("as_of_month", "as_of_day", "as_of_number")


@dataclass(frozen=True)
class Settings:
    """How much to build: windows [months], monthly lags, subjects left out, columns never used, dates at once."""

    windows: tuple[int, ...] = (1, 3, 6, 12)
    lags: int = 6
    leave_out: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    observations_at_once: int = 60_000


def numbered(table: ibis.Table, date: str, prefix: str) -> ibis.Table:
    """Add the integer parts of a date: months and days since a fixed day, day of month, days in its month."""
    day = table[date]
    month_end = day.truncate("M") + ibis.interval(months=1) - ibis.interval(days=1)
    return table.mutate(
        **{
            f"{prefix}_month": (day.year() * 12 + day.month()).cast("int32"),
            f"{prefix}_day": day.day().cast("int32"),
            f"{prefix}_month_days": month_end.day().cast("int32"),
            f"{prefix}_number": day.delta(ibis.date(1970, 1, 1), unit="day").cast("int32"),
        }
    )


def prepared(name: str, table: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
    """Return a table ready to be seen from any date: customer_id, event_on, superseded_on, row_order, date parts.

    Rows that hang on a credit reach the customer through its first version, and not before that was known. Canonical
    columns that the source lacks are null.
    """
    contract = contract_of(name, set(table.columns))
    kinds = {
        "DATE": "date",
        "VARCHAR": "string",
        "DECIMAL(18,2)": "decimal(18, 2)",
        "DOUBLE": "float64",
        "INTEGER": "int32",
    }
    absent = {c: ibis.null(kinds[spec.type]) for c, spec in contract.columns.items() if c not in table.columns}
    table = versioned(table.mutate(**absent), contract.key)
    if "customer_id" not in table.columns and "credit_id" in table.columns and credits_table is not None:
        owner = credits_table.group_by("credit_id").aggregate(
            customer_id=credits_table.customer_id.argmin(credits_table.known_on),
            owner_known_on=credits_table.known_on.min(),
        )
        table = table.inner_join(owner, "credit_id")
        table = table.mutate(known_on=ibis.greatest(table.known_on, table.owner_known_on)).drop("owner_known_on")
    event = EVENTS.get(name, contract.event)
    table = table.mutate(event_on=table[event] if event in table.columns else ibis.null("date"))
    holder = "customer_id" if "customer_id" in table.columns else "industry"
    others = [column for column in table.columns if column not in (holder, "event_on", "known_on")]
    order = ibis.window(group_by=holder, order_by=["event_on", "known_on", *others])
    return numbered(table.mutate(row_order=ibis.row_number().over(order)), "event_on", "event")


class Matrix:
    """Features of one source on an ibis DuckDB connection: declared when made, computed by `groups`."""

    def __init__(
        self,
        connection: Any,
        tables: Mapping[str, ibis.Table],
        description: Mapping[str, Any],
        training: ibis.Table,
        scoring: ibis.Table,
        settings: Settings,
    ) -> None:
        self.connection, self.settings = connection, settings
        edge = training.as_of.max().execute()
        edge = scoring.as_of.max().execute() if _missing(edge) else edge
        if _missing(edge):
            raise DataRefused(
                Problem(
                    "data/observe", "at least one observation to train or to score", "none", "Check the population."
                )
            )
        self.edge: dt.date = edge.date() if isinstance(edge, dt.datetime) else edge
        _refuse_undated(tables, description)
        held = {name: table for name, table in tables.items() if "known_on" in table.columns}
        rows = {
            name: self._keep(f"rows_{name}", prepared(name, table, tables.get("credits")))
            for name, table in held.items()
        }
        self.lender = self._lender(rows, description)
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

    def _keep(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Work a table out once."""
        self.connection.raw_sql(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {self._sql(expression)}')
        return self.connection.table(name)

    def _sql(self, expression: ibis.Table) -> str:
        return str(ibis.to_sql(expression, dialect="duckdb"))

    def _lender(self, rows: dict[str, ibis.Table], description: Mapping[str, Any]) -> Lender:
        """Find the columns that have a value and the frequent categories, as known on the last training date."""
        protected = {name.lower() for name in self.settings.protected}
        filled, numeric, categorical = {}, {}, {}
        for name, table in rows.items():
            seen = visible_at(table, ibis.literal(self.edge))
            if name == "observations":
                seen = table.filter(table.as_of <= self.edge)
            counts = seen.aggregate(**{column: seen[column].count() for column in table.columns}).execute().iloc[0]
            filled[name] = frozenset(column for column in table.columns if counts[column])
            kept = filled[name] - {column for column in table.columns if column.lower() in protected}
            entry = description.get(name) or {}
            numeric[name] = tuple(a for a in sorted(entry.get("numeric") or ()) if a in kept)
            categorical[name] = tuple(a for a in sorted(entry.get("categorical") or ()) if a in kept)
        vocabulary = {}
        for name, column in FREQUENT:
            if column in filled.get(name, ()):
                seen = visible_at(rows[name], ibis.literal(self.edge))
                counted = seen.filter(seen[column].notnull()).group_by(column).aggregate(rows=ibis._.count()).execute()
                counted = counted.sort_values(["rows", column], ascending=[False, True])
                vocabulary[f"{name}.{column}"] = tuple(counted[column])
        kept_rows = {name: table for name, table in rows.items() if filled[name]}
        view = ibis.table({"customer_id": "string", "as_of": "date", **dict.fromkeys(PARTS, "int32")}, name="observed")
        return Lender(
            kept_rows,
            view,
            numeric,
            categorical,
            tuple(sorted(self.settings.windows)),
            self.settings.lags,
            vocabulary,
            filled,
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

    @cached_property
    def _queries(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Compiled statements (table to make, query) in order, and the made tables that hold features and facts.

        A subject's rows are worked out once a group; its aggregates then run a few at a time (54 in one query took
        DuckDB three times as long as six queries of ten).
        """
        made, results = [], []
        for subject in self.subjects:
            formulas = {feature.name: feature.formula for feature in subject.features}
            formulas |= {FACT + name: formula for name, formula in subject.facts.items()}
            if not formulas:
                continue
            rows = subject.rows
            if len(formulas) > AT_ONCE:
                made.append((f"seen_{subject.name}", self._sql(rows)))
                rows = ibis.table(rows.schema(), name=f"seen_{subject.name}")
            names = sorted(formulas)
            for start in range(0, len(names), AT_ONCE):
                columns = {name: formulas[name](rows) for name in names[start : start + AT_ONCE]}
                results.append(f"subject_{subject.name}_{start // AT_ONCE}")
                made.append((results[-1], self._sql(rows.group_by(KEYS).aggregate(**columns))))
        return made, results

    def groups(self, observations: ibis.Table, *, with_position: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (features, position or None) as Arrow tables, group by group, in the order (as_of, customer_id).

        `observations` is (customer_id, as_of, ...); its further columns come first in both. A feature is null where it
        is unknown at as_of and never NaN or infinite.
        """
        carried = list(observations.columns)
        source = self._keep("all_observed", numbered(observations, "as_of", "as_of").drop("as_of_month_days"))
        for first, past_last in self._date_groups(source):
            here = source.filter(source.as_of.between(first, past_last))
            self._keep("observed_rows", here)
            self._keep("observed", self.connection.table("observed_rows").select(*KEYS, *PARTS))
            made, results = self._queries
            for name, query in made:
                self.connection.raw_sql(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {query}')
            joined = " ".join(f'LEFT JOIN "{name}" USING (customer_id, as_of)' for name in results)
            self.connection.raw_sql(f"CREATE OR REPLACE TEMP VIEW joined AS SELECT * FROM observed_rows {joined}")
            table = self.connection.table("joined")
            yield (
                self._arrow(self._feature_columns(table, carried)),
                self._arrow(self._position_columns(table, carried)) if with_position else None,
            )

    def _date_groups(self, source: ibis.Table) -> Iterator[tuple[dt.date, dt.date]]:
        """Yield (first, last) dates that together hold at most `observations_at_once`, and at least one date."""
        counted = source.group_by("as_of").aggregate(rows=ibis._.count()).order_by("as_of").to_pyarrow().to_pylist()
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

    def _feature_columns(self, table: ibis.Table, carried: list[str]) -> ibis.Table:
        wide = table.mutate(**{item.feature.name: item.feature.formula(table) for item in self.across})
        columns = {}
        for feature, _, _ in self.features:
            value = wide[feature.name]
            if feature.kind == "numeric":
                number = value.cast("float64")
                value = (number.isnan() | number.isinf()).ifelse(ibis.null("float64"), number)
            columns[feature.name] = value
        return wide.select(*carried, **columns).order_by("as_of", "customer_id")

    def _position_columns(self, table: ibis.Table, carried: list[str]) -> ibis.Table:
        given = [name.removeprefix(FACT) for name in table.columns if name.startswith(FACT)]
        taken = [name for name in given if name in FACTS]
        renamed = table.select(*carried, **{name: table[FACT + name] for name in taken})
        return renamed.select(*carried, **position(renamed, taken)).order_by("as_of", "customer_id")


def _missing(value: Any) -> bool:
    """Return whether an executed date is null (None or NaT)."""
    return value is None or value != value  # noqa: PLR0124


def _refuse_undated(tables: Mapping[str, ibis.Table], description: Mapping[str, Any]) -> None:
    """Refuse (exit code 2) every table without `known_on`: what cannot be placed in time is never joined."""
    undated = sorted(name for name, table in tables.items() if "known_on" not in table.columns)
    dateless = sorted(
        name
        for name, table in tables.items()
        if name not in CONTRACTS and "event_on" not in table.columns and not (description.get(name) or {}).get("static")
    )
    problems = [
        Problem(
            f"data/ingest/tables/{name}",
            "a table with `known_on` and an event date, or one declared `static: true`",
            "neither",
            "Map `event_on` in data/sources, or declare the table static if its rows never change.",
        )
        for name in sorted({*undated, *dateless})
    ]
    if problems:
        raise DataRefused(problems)
