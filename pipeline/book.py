"""What `monitor` reads of the histories themselves: roll rates, vintages, and groups by a protected attribute.

The engine counts, `models` turns counts into figures. A section that a source cannot have says why, in both languages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from models import delinquency, fairness
from pipeline.stage import parquet, read_json

DATA = Path("data")
TABLES, POSITION = DATA / "ingest/tables", DATA / "featurise/scoring/position.parquet"
OBSERVATIONS = DATA / "observe/observations.parquet"
CUTS = (("quarter", 3), ("half", 6), ("year", 12))  # how cohorts are taken, the finest that gives few enough


def because(en: str, zh: str) -> dict[str, Any]:
    """Return a section that does not apply, and why."""
    return {"why": en, "why_zh": zh}


def described() -> dict[str, Any]:
    """Return ingest's description of the canonical tables; empty where there is none."""
    path = DATA / "ingest/tables.json"
    return dict(read_json(path)) if path.is_file() else {}


def rows_of(table: str) -> str:
    """Return what DuckDB reads a canonical table by."""
    return f"read_parquet('{TABLES / table}/**/*.parquet', hive_partitioning = true, union_by_name = true)"


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def columns(connection: duckdb.DuckDBPyConnection, source: str) -> set[str]:
    """Return the names of the columns that a source of rows has."""
    return {row[0] for row in connection.execute(f"describe select * from {source}").fetchall()}


def roll_rates() -> dict[str, Any]:
    """Return `delinquency.roll_rates` of the customers scored at two dates a month apart."""
    if not POSITION.exists():
        return because("Customers' positions were not left by featurise.", "没有客户状况文件。")
    with duckdb.connect(config={"threads": 2}) as connection:
        source = f"'{parquet(POSITION)}'"
        there = columns(connection, source)
        if not {"days_past_due", "months_back"} <= there:
            return because("The source does not say how late customers are.", "数据源没有逾期天数。")
        place = " ".join(
            f"when days_past_due < {edge} then '{name}'"
            for edge, name in zip(delinquency.EDGES, delinquency.BUCKETS, strict=False)
        )
        connection.execute(
            f"""create temp table stood as select customer_id, as_of, months_back,
                case when days_past_due is null then null {place} else '{delinquency.BUCKETS[-1]}' end as bucket
            from {source}"""
        )
        known, dates = connection.execute("select count(bucket), count(distinct months_back) from stood").fetchall()[0]
        if not known:
            return because("The source does not say how late customers are.", "数据源没有逾期天数。")
        if dates < 2:
            return because("Customers are scored at one date only.", "只有一个评分日。")
        reason = "null"
        if OBSERVATIONS.exists():
            seen = f"'{parquet(OBSERVATIONS)}'"
            reason = "any_value(o.excluded_because)" if "excluded_because" in columns(connection, seen) else "null"
        joined = f"left join '{parquet(OBSERVATIONS)}' o on o.customer_id = a.customer_id and o.as_of = d.as_of"
        moves = connection.execute(
            f"""with dates as (select months_back, max(as_of) as as_of from stood group by months_back),
            moved as (
                select a.customer_id, a.months_back - 1 as months_back, any_value(a.bucket) as from_bucket,
                    case when count(b.customer_id) > 0 then coalesce(any_value(b.bucket), 'gone')
                        when {reason} in ('in_default', 'probation') then 'default'
                        when {reason} = 'closed' then 'closed' else 'gone' end as to_bucket
                from stood a join dates d on d.months_back = a.months_back - 1
                left join stood b on b.customer_id = a.customer_id and b.months_back = a.months_back - 1
                {joined if reason != "null" else ""}
                where a.bucket is not null group by a.customer_id, a.months_back)
            select months_back, from_bucket, to_bucket, count(*) as customers from moved group by all order by all"""
        ).df()
    if moves.empty:
        return because("No customer was scored at two dates a month apart.", "没有客户在相隔一个月的两个日期上被评分。")
    return delinquency.roll_rates(moves)


def _cohorts(connection: duckdb.DuckDBPyConnection, horizon: int | None, as_of: str) -> dict[str, Any]:
    """Return `delinquency.vintages` of the table `members` (started_on, fell_on), by the finest period that gives few.

    horizon: months after which a member is no longer looked at; null: to the run's date.
    """
    for name, months in CUTS:
        cohort = f"year(started_on) || '-{name[0].upper()}' || ((month(started_on) - 1) // {months} + 1)"
        cohort = "year(started_on)::varchar" if months == 12 else cohort
        count = connection.execute(f"select count(distinct {cohort}) from members").fetchall()[0][0]
        if count <= delinquency.MOST_CURVES or months == 12:
            break
    last = f"date_diff('month', max(started_on), date '{as_of}' - 1)"
    seen = connection.execute(
        f"select {cohort} as cohort, {last if horizon is None else f'least({last}, {horizon - 1})'} as seen "
        "from members group by cohort having seen >= 0 order by cohort"
    ).df()
    counts = connection.execute(
        f"""select {cohort} as cohort, date_diff('month', started_on, fell_on) as month, count(*) as members
        from members group by all order by all"""
    ).df()
    counts = counts[counts["cohort"].isin(seen["cohort"])]
    return {"by": name, "cohorts": delinquency.vintages(counts, seen)}


def credit_vintages(as_of: str | None, days: int) -> dict[str, Any]:
    """Return the cumulative share of own credits that were ever `days` or more past due, by when they were opened."""
    tables = described()
    credit, statement = (set((tables.get(name) or {}).get("columns") or ()) for name in ("credits", "statements"))
    if as_of is None or not {"opened_on", "provider"} <= credit or not {"days_past_due", "stated_on"} <= statement:
        return because(
            "The source has no statements with days past due of credits with an opening date.",
            "数据源没有带开户日期的授信及其逾期天数对账单。",
        )
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(
            f"""create temp table stated as
            select credit_id, stated_on, arg_max(days_past_due, known_on) as late
            from {rows_of("statements")} where known_on < date '{as_of}' group by credit_id, stated_on"""
        )
        connection.execute(
            f"""create temp table members as
            with own as (select credit_id, arg_max(opened_on, known_on) as started_on from {rows_of("credits")}
                where provider = 'own' and known_on < date '{as_of}' group by credit_id),
            fell as (select credit_id, min(stated_on) filter (late >= {days}) as fell_on from stated group by credit_id)
            select started_on, fell_on from own join fell using (credit_id)
            where started_on >= (select date_trunc('month', min(stated_on)) from stated)"""
        )
        if not connection.execute("select count(*) from members").fetchall()[0][0]:
            return because(
                "No own credit was opened since the first statement.", "自首份对账单以来没有新开的自有授信。"
            )
        return {"days": days, **_cohorts(connection, None, as_of)}


def observed_vintages(as_of: str | None, horizon: int) -> dict[str, Any]:
    """Return the cumulative share that defaulted, by the date on which customers were observed."""
    none = because("Outcomes have no dates, or one date is observed only.", "违约结果没有日期，或只有一个观察日。")
    if as_of is None or not OBSERVATIONS.exists():
        return none
    with duckdb.connect(config={"threads": 2}) as connection:
        source = f"'{parquet(OBSERVATIONS)}'"
        there = columns(connection, source)
        if not {"outcome", "outcome_known_on"} <= there:
            return none
        where = "excluded_because is null and" if "excluded_because" in there else ""
        connection.execute(
            f"""create temp table members as select as_of as started_on,
                case when outcome = 1 then outcome_known_on end as fell_on
            from {source} where {where} as_of < date '{as_of}'"""
        )
        dates, fell = connection.execute("select count(distinct started_on), count(fell_on) from members").fetchall()[0]
        if dates < 2 or not fell:
            return none
        return _cohorts(connection, horizon, as_of)


def attribute_values(name: str, as_of: str) -> pd.DataFrame:
    """Return customer_id and `value`: each customer's newest known value of a protected column; empty without one."""
    for table in ("customers", "observations"):
        given = (described().get(table) or {}).get("columns") or {}
        column = next((each for each in given if each.lower() == name), None)
        if column is None or "customer_id" not in given:
            continue
        with duckdb.connect(config={"threads": 2}) as connection:
            found = connection.execute(
                f"""select customer_id, arg_max({quoted(column)}, known_on) as value from {rows_of(table)}
                where known_on < date '{as_of}' group by customer_id order by customer_id"""
            ).df()
        if found["value"].notna().any():
            return found
    return pd.DataFrame()


def fairness_figures(
    declared: tuple[str, ...], table: pd.DataFrame, judged: pd.DataFrame, as_of: str | None, features: list[str]
) -> dict[str, Any]:
    """Return approval, PD and calibration by group of each protected attribute that the source has.

    table: the decided customers. judged: rows with known outcome that did not train. features: the model's inputs.
    """
    present = {} if as_of is None else {name: attribute_values(name, as_of) for name in declared}
    present = {name: values for name, values in present.items() if len(values)}
    listed = ", ".join(declared) or "-"
    if not present:
        return {"declared": list(declared)} | because(
            f"The source has no column that is declared protected ({listed}).",
            f"数据源没有受保护属性的列（{listed}）。",
        )
    inputs = [
        feature for feature in features
        if any(feature.lower() in (name, f"customers_{name}", f"observations_{name}") for name in declared)
    ]  # fmt: skip
    told = []
    for name, known in present.items():
        values = known.assign(group=fairness.groups(known["value"]))[["customer_id", "group"]]
        record: dict[str, Any] = {"attribute": name, "approval": [], "calibration": []}
        if len(table) and "credit_limit_recommended" in table:
            now = table.merge(values, on="customer_id", how="left")
            limit = now["credit_limit_recommended"].astype("Float64")
            record["approval"] = fairness.approvals(now["group"].fillna(fairness.NOT_STATED), limit > 0, now["pd_12m"])
        if len(judged):
            rows = judged.merge(values, on="customer_id", how="left")
            rows["group"] = rows["group"].fillna(fairness.NOT_STATED)
            record["calibration"] = fairness.calibration(
                rows["group"], rows["outcome"], rows["pd"], rows["customer_id"]
            )
        told.append(record)
    return {"declared": list(declared), "inputs": inputs, "attributes": told}
