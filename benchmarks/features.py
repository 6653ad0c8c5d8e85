"""Features of twelve monthly dates against a single hand-written query, the direct range join, and pandas.

    .venv/bin/python benchmarks/features.py --transactions 10000000 --customers 100000
    .venv/bin/python benchmarks/features.py --scale          # also ten times as much, in a process of its own

Each contender reads the same DuckDB table and leaves its columns in memory (Arrow, pandas its own frames). The rows of
`--scale` are written to Parquet, range of customers by range, in a process of their own whose peak memory is printed.
33 columns: windows of 1, 3, 6, 12 months x count, money in and out (count of ins, sums), std, min, max, different
categories; days since the last. 2% of rows are known up to 40 days late. Outputs are compared before any time is
printed. The last line is JSON; a figure that was not asked for is null.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from features.aggregates import Measure, count, expand, total
from features.definition import Feature, Formula, History, Subject
from features.panel import Panel
from features.partials import Plan

WINDOWS = (1, 3, 6, 12)
CATEGORIES = ("cash", "food", "fuel", "gifts", "health", "rent", "salary", "school", "travel", "utilities")
FIRST, MONTHS = "2022-01-01", 37
PEER = 200_000, 2_000  # transactions and customers that DFS survives
AS_OFS = tuple(str(month) for month in pd.date_range("2023-02-01", periods=12, freq="MS").date)
RELATIVE = 1e-9  # of standard deviations, which the others sum as doubles; everything else is equal


def draw(connection: duckdb.DuckDBPyConnection, transactions: int, customers: int, months: int = 24) -> None:
    """Make `transactions`: spread over customers and `months` months, by a hash of the row's number."""
    days = f"(DATE '{FIRST}' + INTERVAL {months} MONTH)::DATE - DATE '{FIRST}'"
    categories = ", ".join(f"'{name}'" for name in CATEGORIES)
    connection.execute(f"""CREATE OR REPLACE TABLE transactions AS
        WITH drawn AS (SELECT hash(i) AS a, hash(i + 1000000007) AS b FROM range({transactions}) r(i)),
        dated AS (SELECT (a % {customers})::INTEGER AS customer_id,
            DATE '{FIRST}' + ((a >> 32) % ({days}))::INTEGER AS event_on,
            (((b % 200000)::BIGINT - 120000) / 100)::DECIMAL(18, 2) AS amount,
            ([{categories}])[1 + ((b >> 20) % {len(CATEGORIES)})::INTEGER] AS category,
            (b >> 40) % 2000 AS late FROM drawn)
        SELECT customer_id, event_on, amount, category,
            CASE WHEN late < 40 THEN event_on + (late + 1)::INTEGER ELSE event_on END AS known_on FROM dated""")


def columns(inside: Callable[[int], str], days: str) -> str:
    """Return the 33 columns as SQL; `inside(k)` is the condition of a window."""
    listed = []
    for k in WINDOWS:
        w = inside(k)
        listed += [
            f"count(*) FILTER ({w}) AS count_{k}m",
            f"count(*) FILTER ({w} AND amount > 0) AS in_count_{k}m",
            f"coalesce(sum(amount) FILTER ({w} AND amount > 0), 0) AS in_sum_{k}m",
            f"coalesce(-sum(amount) FILTER ({w} AND amount < 0), 0) AS out_sum_{k}m",
            f"stddev_pop(amount::DOUBLE) FILTER ({w}) AS amount_std_{k}m",
            f"min(amount) FILTER ({w}) AS amount_min_{k}m",
            f"max(amount) FILTER ({w}) AS amount_max_{k}m",
            f"count(DISTINCT category) FILTER ({w}) AS category_distinct_{k}m",
        ]
    return ", ".join([*listed, f"{days} - max(event_on) AS recency"])


def single(connection: duckdb.DuckDBPyConnection, as_of: str) -> pa.Table:
    """The reference: one filtered aggregate for one date, as one writes it by hand."""
    at = f"DATE '{as_of}'"
    made = columns(lambda k: f"event_on >= {at} - INTERVAL {k} MONTH", at)
    return connection.execute(f"""SELECT customer_id, {at} AS as_of, {made} FROM transactions
        WHERE event_on < {at} AND known_on < {at} AND event_on >= {at} - INTERVAL 12 MONTH
        GROUP BY customer_id""").to_arrow_table()


def direct(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every date against every row of its last twelve months."""
    made = columns(lambda k: f"event_on >= start_{k}", "o.as_of")
    starts = ", ".join(f"(as_of - INTERVAL {k} MONTH)::DATE AS start_{k}" for k in WINDOWS)
    dates = ", ".join(f"(DATE '{day}')" for day in AS_OFS)
    return connection.execute(f"""SELECT o.customer_id, o.as_of, {made}
        FROM (SELECT *, {starts} FROM (SELECT DISTINCT customer_id FROM transactions), (VALUES {dates}) d(as_of)) o
        JOIN transactions t ON t.customer_id = o.customer_id
            AND event_on < as_of AND known_on < as_of AND event_on >= start_12
        GROUP BY o.customer_id, o.as_of""").to_arrow_table()


def features() -> list[Feature]:
    """Declare the 33 columns as the project declares features."""
    amount = Measure("amount", "money", "金额", "money", "money")
    category = Measure("category", "categories", "类别", "", "money")

    def feature(name: str, formula: Formula) -> Feature:
        return Feature(name, formula, name, name, "money")

    made = []
    for k in WINDOWS:
        made += [
            feature(f"count_{k}m", lambda r, k=k: count(r.months_before <= k)),
            feature(f"in_count_{k}m", lambda r, k=k: count((r.months_before <= k) & (r.amount > 0))),
            feature(f"in_sum_{k}m", lambda r, k=k: _moved(r, r.amount > 0, k)),
            feature(f"out_sum_{k}m", lambda r, k=k: _moved(r, r.amount < 0, k).abs()),
        ]  # fmt: skip
    made += [
        Feature(f.name[2:], *list(vars(f).values())[1:]) for f in expand("x", amount, ("std", "min", "max"), WINDOWS)
    ]
    made += [Feature(f.name[2:], *list(vars(f).values())[1:]) for f in expand("x", category, ("distinct",), WINDOWS)]
    return [*made, feature("recency", lambda r: r.days_before.min().cast("float64"))]


def _moved(rows: ibis.Table, which: ibis.Value, k: int) -> ibis.Value:
    return total(rows.amount, (rows.months_before <= k) & which).fill_null(0.0)


def declared() -> Plan:
    """Return the plan of the 33 columns on the benchmark's table."""
    kinds = {
        "customer_id": "int32",
        "event_on": "date",
        "known_on": "date",
        "superseded_on": "date",
        "amount": "decimal(18, 2)",
    }
    rows = {
        **kinds,
        "category": "string",
        "event_number": "int64",
        "as_of": "date",
        "months_before": "int32",
        "days_before": "int64",
    }
    table = ibis.table(rows, name="unused")
    made = features()
    subject = Subject("bench", ("transactions",), table, tuple(made), history=History(table, 12))
    plan = Plan(subject, {f.name: f.formula for f in made}, lambda _: CATEGORIES)
    assert not plan.whole, plan.whole
    return plan


HISTORY = """(SELECT customer_id, event_on, known_on, NULL::DATE AS superseded_on, amount, category,
    date_diff('day', DATE '1970-01-01', event_on) AS event_number FROM transactions)"""


def observe(connection: duckdb.DuckDBPyConnection, as_ofs: tuple[str, ...]) -> None:
    """Make `observed`: every customer on every date."""
    dates = ", ".join(f"(DATE '{day}')" for day in as_ofs)
    connection.execute(f"""CREATE OR REPLACE TEMP TABLE observed AS
        SELECT customer_id, as_of, row_number() OVER () - 1 AS place
        FROM (SELECT DISTINCT customer_id FROM transactions), (VALUES {dates}) d(as_of)""")


def compiled(plan: Plan) -> str:
    """Return SQL of the formulas upon what a panel composes."""
    return str(ibis.to_sql(plan.composed.select("customer_id", "as_of", **plan.formulas), dialect="duckdb"))


def computed(connection: duckdb.DuckDBPyConnection, made: Panel, query: str) -> Iterator[pa.Table]:
    """Yield the 33 columns of what is observed, a date at a time."""
    for batch in made.batches("observed"):
        connection.register(made.plan.composed.get_name(), batch)
        yield connection.execute(query).to_arrow_table()


def panel(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """All dates from partial aggregates: cells, composition, formulas."""
    plan = declared()
    return pa.concat_tables(computed(connection, Panel(plan, connection, HISTORY), compiled(plan)))


def in_pandas(frame: pd.DataFrame, as_of: str) -> pd.DataFrame:
    """The same for one date in pandas; money in whole cents."""
    at = pd.Timestamp(as_of)
    seen = frame[(frame.event_on < at) & (frame.known_on < at) & (frame.event_on >= at - pd.DateOffset(months=12))]
    made: dict[str, pd.Series] = {}
    for k in WINDOWS:
        rows = seen[seen.event_on >= at - pd.DateOffset(months=k)]
        grouped = rows.groupby("customer_id")
        made[f"count_{k}m"] = grouped.size()
        for name, part in (("in", rows[rows.cents > 0]), ("out", rows[rows.cents < 0])):
            of_part = part.groupby("customer_id").cents
            made[f"{name}_sum_{k}m"] = of_part.sum().abs() / 100
            if name == "in":
                made[f"in_count_{k}m"] = of_part.size()
        made[f"amount_std_{k}m"] = grouped.cents.std(ddof=0) / 100
        made[f"amount_min_{k}m"], made[f"amount_max_{k}m"] = grouped.cents.min() / 100, grouped.cents.max() / 100
        made[f"category_distinct_{k}m"] = grouped.category.nunique()
    made["recency"] = (at - seen.groupby("customer_id").event_on.max()).dt.days
    result = pd.DataFrame(made)
    zero = [name for name in result if name.startswith(("count", "in_", "out_", "category"))]
    result[zero] = result[zero].fillna(0)
    return result


def compare(left: pd.DataFrame, right: pd.DataFrame, what: str, *, exact: bool = False) -> None:
    """Stop unless both hold the same values (standard deviations to 1e-9 of the spread of amounts)."""
    assert len(left) == len(right), what
    assert set(left.columns) == set(right.columns), what
    for name in right.columns:
        a, b = left[name].to_numpy(np.float64, na_value=np.nan), right[name].to_numpy(np.float64, na_value=np.nan)
        same = np.array_equal(a, b, equal_nan=True)
        if name.startswith("amount_std") and not exact:
            same = np.allclose(a, b, rtol=RELATIVE, atol=1e-6, equal_nan=True)
        assert same, f"{what}: {name} differs on {(~(np.isclose(a, b) | (np.isnan(a) & np.isnan(b)))).sum()} rows"


def frame_of(made: pa.Table, as_of: str) -> pd.DataFrame:
    """Return the columns of one date, by customer."""
    frame = made.filter(pc.equal(made["as_of"], pa.scalar(dt.date.fromisoformat(as_of)))).drop_columns(["as_of"])
    return frame.to_pandas().set_index("customer_id").sort_index()


def timed(run: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Return the seconds of each run, shortest first, and what the last one gave."""
    seconds, made = [], None
    for _ in range(repeats):
        made = None
        start = time.perf_counter()
        made = run()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds), made


def further_month(connection: duckdb.DuckDBPyConnection, transactions: int, customers: int) -> float:
    """Return the cost of month 37 (its cells and its date) over that of building 36 months of cells and dates."""
    draw(connection, transactions, customers, MONTHS)
    dates = [str(day) for day in pd.date_range(FIRST, periods=MONTHS + 1, freq="MS").date]

    def known(condition: str) -> str:
        return HISTORY.replace("FROM transactions", f"FROM transactions WHERE {condition}")

    plan = declared()
    query = compiled(plan)

    def build() -> Panel:
        made = Panel(plan, connection, known(f"known_on < DATE '{dates[36]}'"))
        for _ in computed(connection, made, query):
            pass
        return made

    def further() -> pa.Table:
        made.extend(1, known(f"known_on >= DATE '{dates[36]}' AND known_on < DATE '{dates[37]}'"))
        return pa.concat_tables(computed(connection, made, query))

    observe(connection, tuple(dates[1:37]))
    whole, made = timed(build, 1)
    observe(connection, (dates[37],))
    share, extended = timed(further, 1)
    compare(frame_of(extended, dates[37]), frame_of(panel(connection), dates[37]), "month 37", exact=True)
    return share[0] / whole[0]


def peer(connection: duckdb.DuckDBPyConnection, folder: str) -> tuple[float, float]:
    """Return seconds of DFS with cutoff times and of the panel on the peer's size, after comparing 32 columns."""
    draw(connection, *PEER)
    connection.execute("DELETE FROM transactions WHERE known_on > event_on")  # DFS knows one date of a row
    observe(connection, AS_OFS)
    source, out = f"{folder}/transactions.parquet", f"{folder}/dfs.parquet"
    cents = "SELECT customer_id, event_on, CAST(amount * 100 AS BIGINT) AS cents, category FROM transactions"
    connection.execute(f"COPY ({cents} ORDER BY ALL) TO '{source}' (FORMAT parquet)")
    program = str(Path(__file__).with_name("dfs.py"))
    command = [sys.executable, program, source, ",".join(AS_OFS), ",".join(map(str, WINDOWS)), out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    theirs = pd.read_parquet(out)
    seconds, made = timed(lambda: panel(connection), 3)
    for day in AS_OFS:
        ours = frame_of(made, day).drop(columns="recency")
        dfs = theirs[theirs.time == day].set_index("customer_id").drop(columns="time").loc[ours.index]
        money = [name for name in dfs if name.startswith(("in_sum", "out_sum", "amount"))]
        dfs[money] = dfs[money] / 100
        zero = [name for name in dfs if name.startswith(("count", "in_", "out_", "category"))]
        dfs[zero] = dfs[zero].fillna(0)
        compare(ours, dfs[ours.columns], f"featuretools at {day}")
    return float(done.stdout.splitlines()[-1]), seconds[0]


def written(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Write the panel's columns to a Parquet file, a date of a range of customers at a time."""
    writer = None
    plan = declared()
    for part in computed(connection, Panel(plan, connection, HISTORY), compiled(plan)):
        writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
        writer.write_table(part)
    assert writer is not None
    writer.close()


def alone(transactions: int, customers: int, memory: str) -> dict[str, float]:
    """Time the panel in a process of its own; return seconds and the process's peak memory [GiB]."""
    command = [sys.executable, __file__, "--alone", "--transactions", str(transactions), "--customers", str(customers)]
    done = subprocess.run([*command, "--memory", memory], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Compare outputs, then print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=10_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--memory", default="4GB", help="memory limit of DuckDB")
    parser.add_argument("--scale", action="store_true", help="also ten times the size, for seconds and peak memory")
    parser.add_argument("--alone", action="store_true", help="the panel alone, as a child process runs it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        connection = duckdb.connect(f"{folder}/benchmark.duckdb", config={"threads": 2, "memory_limit": asked.memory})
        draw(connection, asked.transactions, asked.customers)
        observe(connection, AS_OFS)
        if asked.alone:
            seconds = timed(lambda: written(connection, f"{folder}/features.parquet"), 1)[0][0]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"seconds": seconds, "peak_gib": round(peak, 2)}))
            return
        report(connection, asked, folder)


def report(connection: duckdb.DuckDBPyConnection, asked: argparse.Namespace, folder: str) -> None:
    """Run the contenders, check that they agree, print."""
    of_single, one = timed(lambda: single(connection, AS_OFS[-1]), 3)
    of_panel, ours = timed(lambda: panel(connection), 3)
    of_direct, joined = timed(lambda: direct(connection), 1)
    frame = connection.execute(
        "SELECT customer_id, event_on, known_on, CAST(amount * 100 AS BIGINT) AS cents, category FROM transactions"
    ).df()
    in_frames: dict[str, pd.DataFrame] = {}
    of_pandas, _ = timed(lambda: in_frames.update({day: in_pandas(frame, day) for day in AS_OFS}), 1)
    for day in AS_OFS:
        here = frame_of(ours, day)
        compare(here, frame_of(joined, day), f"direct join at {day}")
        compare(here, in_frames[day].sort_index()[here.columns], f"pandas at {day}")
    compare(here, frame_of(one, AS_OFS[-1]), "the single query")
    del joined, ours, one
    in_frames.clear()
    of_dfs, beside = peer(connection, folder)
    share = further_month(connection, asked.transactions, asked.customers)
    connection.close()
    small = alone(asked.transactions, asked.customers, asked.memory)
    large = alone(10 * asked.transactions, 10 * asked.customers, asked.memory) if asked.scale else None
    print(
        f"{asked.transactions:,} transactions, {asked.customers:,} customers, 33 columns, 2 threads, {asked.memory};"
        " outputs equal"
    )
    for name, seconds in (
        ("single date, by hand in DuckDB", of_single),
        ("twelve dates, from partial aggregates", of_panel),
        ("twelve dates, direct range join", of_direct),
        ("twelve dates, pandas date by date", of_pandas),
    ):
        print(f"  {name:40s} {seconds[0]:8.2f} s  (runs: {', '.join(f'{s:.2f}' for s in seconds)})")
    print(
        f"  twelve dates, featuretools DFS           {of_dfs:8.2f} s  on {PEER[0]:,} transactions of {PEER[1]:,}"
        f" customers, 32 columns; partial aggregates there {beside:.2f} s"
    )
    print(json.dumps({
        "panel_over_single": round(of_panel[0] / of_single[0], 2),
        "direct_join_over_panel": round(of_direct[0] / of_panel[0], 1),
        "pandas_over_panel": round(of_pandas[0] / of_panel[0], 1),
        "month37_share": round(share, 3),
        "scale_100m_over_10m": round(large["seconds"] / small["seconds"], 2) if large else None,
        "peak_gib": (large or small)["peak_gib"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
