"""observe: canonical tables -> who is observed when, who defaulted afterwards, and what cannot be known yet.

Writes data/observe/: training.parquet (known outcomes, judged from rows with known_on < train.until), scoring.parquet
(the population at as_of and at the twelve month starts before it, or each customer's newest observation of the source),
observations.parquet (every observed date, judged from all that is known by as_of), summary.json (counts).
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from features.errors import ConfigurationRefused, DataRefused, Problem
from features.labels import Rules, judge, stated
from features.tables import describe_tables
from pipeline.params import Section, overrides, read_params, source_name
from pipeline.stage import execute, fresh, read_json, say, write_json

IN, OUT = Path("data/ingest"), Path("data/observe")
HISTORIES = ("transactions", "statements", "instalments", "payments")
MONTHS_BACK = 12


class Params(Section):
    """Horizon, population and the definition of default."""

    section: ClassVar[str] = "observe"
    horizon_months: int = Field(12, ge=1, le=120)
    population: Literal["auto", "open_credit", "all", "observations"] = "auto"
    snapshot_months: int = Field(3, ge=1, le=12)
    history_months: int = Field(12, ge=0, le=120)
    days_past_due: int = Field(90, ge=1, le=3650)
    materiality_absolute: Decimal = Field(Decimal(0), ge=0)
    materiality_relative: Decimal = Field(Decimal("0.01"), ge=0, le=1)
    probation_months: int = Field(12, ge=0, le=120)
    left_early: Literal["unknown", "good"] = "unknown"

    def rules(self) -> Rules:
        """Return what the labels are made by."""
        return Rules(
            self.horizon_months, self.days_past_due, self.materiality_absolute, self.materiality_relative,
            self.probation_months, self.left_early,
        )  # fmt: skip


def months_before(day: dt.date, months: int) -> dt.date:
    """Return the date `months` earlier (later where negative), at most the month's last day."""
    index = day.year * 12 + day.month - 1 - months
    first = dt.date(index // 12, index % 12 + 1, 1)
    last = (dt.date((index + 1) // 12, (index + 1) % 12 + 1, 1) - dt.timedelta(days=1)).day
    return first.replace(day=min(day.day, last))


def training_dates(first: dt.date, until: dt.date, params: Params) -> list[dt.date]:
    """Return the as_ofs that train: every `snapshot_months` back from the last whose window closed by `until`."""
    start = months_before(first, -params.history_months)
    dates = []
    day = months_before(until.replace(day=1), params.horizon_months)
    while day >= start:
        dates.append(day)
        day = months_before(day, params.snapshot_months)
    return sorted(dates)


def until_date(as_of: dt.date) -> dt.date:
    """Return train.until of the source, or the run's as_of where it is null."""
    base = (read_params().get("train") or {}).get("until")
    value = (overrides(source_name()).get("train") or {}).get("until", base)
    if value is None:
        return as_of
    try:
        until = dt.date.fromisoformat(str(value))
    except ValueError:
        raise ConfigurationRefused(
            Problem(
                "params.yaml: train.until", 'null or a quoted date such as "2025-01-01"', repr(value), "Correct it."
            )
        ) from None
    return min(until, as_of)


def run(
    params: Params, connection: Any, as_of: dt.date, until: dt.date, *, undated: bool, out: Path,
    first: dt.date | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the three tables into `out` from the canonical tables of `connection`; return the summary.

    first: the day from which there is a history; null: that of the oldest row. What is scored does not hang on it.
    """
    tables = {
        row[0] for row in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    }
    population = params.population
    if population == "auto":
        population = "observations" if "observations" in tables else "open_credit" if "credits" in tables else "all"
    needed = {"observations": "observations", "open_credit": "credits", "all": "customers"}[population]
    if needed not in tables:
        raise DataRefused(
            Problem("observe.population", f"a table `{needed}` for the population `{population}`", "no such table",
                    "Map credits or observations (whom to judge) or customers, or choose another population.")
        )  # fmt: skip
    rules = params.rules()
    if population == "observations":
        _from_source(connection, rules, as_of, until, undated=undated, out=out)
    else:
        _from_panel(params, connection, tables, as_of, until, population=population, out=out, first=first)
    summary = {
        "as_of": as_of.isoformat(),
        "until": until.isoformat(),
        "horizon_months": params.horizon_months,
        "population": population,
        "observed_by": "source" if population == "observations" else "panel",
        "undated": undated,
        "default": {
            "days_past_due": params.days_past_due,
            "materiality_absolute": str(params.materiality_absolute),
            "materiality_relative": str(params.materiality_relative),
            "probation_months": params.probation_months,
            "left_early": params.left_early,
        },
        "training": _counts(connection, out / "training.parquet"),
        "by_as_of": _by_date(connection, out / "observations.parquet"),
        "scored": _scored(connection, out / "scoring.parquet"),
    }
    write_json(out / "summary.json", summary)
    return summary


def _copy(connection: Any, query: str, target: Path) -> None:
    """Write a query's rows, in its order, as parquet."""
    connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)")


def _from_source(connection: Any, rules: Rules, as_of: dt.date, until: dt.date, *, undated: bool, out: Path) -> None:
    """Write the tables where the source states its own decision dates and outcomes."""
    columns = "customer_id, as_of, outcome, outcome_known_on"
    stated(connection, rules, until, undated=undated)
    _copy(connection, f"SELECT {columns} FROM judged WHERE outcome IS NOT NULL ORDER BY as_of, customer_id",
          out / "training.parquet")  # fmt: skip
    stated(connection, rules, as_of, undated=undated)
    _copy(connection, "SELECT customer_id, as_of, 0::INTEGER AS months_back FROM judged "
          "QUALIFY row_number() OVER (PARTITION BY customer_id ORDER BY as_of DESC) = 1 ORDER BY as_of, customer_id",
          out / "scoring.parquet")  # fmt: skip
    _copy(connection, f"SELECT {columns}, excluded_because, unknown_because FROM judged ORDER BY as_of, customer_id",
          out / "observations.parquet")  # fmt: skip


def _from_panel(
    params: Params, connection: Any, tables: set[str], as_of: dt.date, until: dt.date, *, population: str, out: Path,
    first: dt.date | None,
) -> None:  # fmt: skip
    """Write the tables where month starts are observed."""
    first = first or _first(connection, tables, population)
    training = training_dates(first, until, params)
    scored = [months_before(as_of, back) for back in range(MONTHS_BACK + 1)]
    grid = (
        set(training_dates(first, months_before(as_of, -params.horizon_months), params)) | set(training) | set(scored)
    )
    rules = params.rules()
    judge(connection, tables, rules, training, until, population=population)
    columns, order = "customer_id, as_of, outcome, outcome_known_on", "ORDER BY as_of, customer_id"
    known = f"SELECT {columns} FROM judged WHERE outcome IS NOT NULL AND window_closed {order}"
    _copy(connection, known, out / "training.parquet")
    judge(connection, tables, rules, sorted(grid), as_of, population=population)
    back = " ".join(f"WHEN DATE '{day}' THEN {months}" for months, day in enumerate(scored))
    _copy(connection, f"SELECT customer_id, as_of, CAST(CASE as_of {back} END AS INTEGER) AS months_back FROM judged "
          "WHERE excluded_because IS NULL AND months_back IS NOT NULL ORDER BY as_of, customer_id",
          out / "scoring.parquet")  # fmt: skip
    everything = f"SELECT {columns}, excluded_because, unknown_because FROM judged {order}"
    _copy(connection, everything, out / "observations.parquet")


def _first(connection: Any, tables: set[str], population: str) -> dt.date:
    """Return the day on which the oldest row of a history became known."""
    days = [
        connection.execute(f"SELECT min(known_on) FROM {table} WHERE known_on > DATE '1900-01-01'").fetchone()[0]
        for table in (HISTORIES if set(HISTORIES) & tables else ((population == "all" and "customers") or "credits",))
        if table in tables or not set(HISTORIES) & tables
    ]
    found = [day for day in days if day is not None]
    if not found:
        raise DataRefused(
            Problem("data/ingest", "a history with dates to observe", "none", "Map transactions or credits.")
        )
    return min(found)


def _counts(connection: Any, path: Path) -> dict[str, int]:
    """Return rows, customers, dates and defaults of the training rows."""
    row = connection.execute(
        f"SELECT count(*), count(DISTINCT customer_id), count(DISTINCT as_of), coalesce(sum(outcome), 0) FROM '{path}'"
    ).fetchone()
    return dict(zip(("rows", "customers", "dates", "bad"), map(int, row), strict=True))


def _by_date(connection: Any, path: Path) -> list[dict[str, Any]]:
    """Return, by month of as_of: good, bad, unknown and excluded, by reason."""
    rows = connection.execute(f"""
        SELECT strftime(date_trunc('month', as_of), '%Y-%m-%d') AS as_of, count(*) FILTER (outcome = 0) AS good,
            count(*) FILTER (outcome = 1) AS bad,
            map_from_entries(list_sort(list(DISTINCT (unknown_because, unknown)) FILTER (unknown > 0))) AS unknown,
            map_from_entries(list_sort(list(DISTINCT (excluded_because, excluded)) FILTER (excluded > 0))) AS excluded
        FROM (
            SELECT *, CASE WHEN unknown_because IS NOT NULL THEN count(*) OVER u END AS unknown,
                CASE WHEN excluded_because IS NOT NULL THEN count(*) OVER e END AS excluded
            FROM '{path}'
            WINDOW u AS (PARTITION BY date_trunc('month', as_of), unknown_because),
                e AS (PARTITION BY date_trunc('month', as_of), excluded_because)
        ) GROUP BY ALL ORDER BY 1
    """).fetchall()
    return [
        {"as_of": day, "good": good, "bad": bad, "unknown": dict(unknown or {}), "excluded": dict(excluded or {})}
        for day, good, bad, unknown, excluded in rows
    ]


def _scored(connection: Any, path: Path) -> dict[str, int]:
    """Return the number of scored customers by months back."""
    rows = connection.execute(f"SELECT months_back, count(*) FROM '{path}' GROUP BY 1 ORDER BY 1").fetchall()
    return {str(back): count for back, count in rows}


def open_engine(folder: Path) -> Any:
    """Return a DuckDB connection with a view for each canonical table of `folder` (data/ingest)."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    for table in sorted(describe_tables(folder)):
        if any((folder / "tables" / table).glob("known_month=*/part.parquet")):
            glob = folder / "tables" / table / "known_month=*" / "part.parquet"
            connection.execute(
                f"CREATE VIEW \"{table}\" AS SELECT * FROM read_parquet('{glob}', hive_partitioning = false)"
            )
    return connection


def main() -> None:
    """Observe the source's customers."""
    params = Params.load()
    dates = read_json(IN / "as_of.json")
    as_of = dt.date.fromisoformat(dates["as_of"])
    until = until_date(as_of)
    summary = run(params, open_engine(IN), as_of, until, undated=bool(dates.get("undated")), out=fresh(OUT))
    say(
        "observe",
        f"by {summary['observed_by']}",
        **summary["training"],
        until=until.isoformat(),
        as_of=as_of.isoformat(),
    )
    for record in summary["by_as_of"][-24:]:
        say("observe", record["as_of"], good=record["good"], bad=record["bad"],
            **{f"unknown_{reason}": count for reason, count in record["unknown"].items()},
            **{f"excluded_{reason}": count for reason, count in record["excluded"].items()})  # fmt: skip


if __name__ == "__main__":
    execute("observe", main)
