"""Ingest against one DuckDB COPY of the same file, month 37 against the 36 before it, and ten times the rows.

`python -m benchmarks.ingest [--rows 10000000] [--large 0] [--rounds 3]` writes its input to scratch space, checks that
ingest gives the rows of the like-for-like COPY, and only then prints times: the best of the rounds and their spread,
each in a process of its own, one after the other. The last line is JSON. `--large 100000000` adds the run on ten times
the rows (about 60 GB of scratch space); without it `scale_100m_over_10m` is null.

- like for like: COPY (casts, ORDER BY month, key) TO ... (PARTITION_BY month, zstd), which checks nothing
- plainest: COPY (SELECT * FROM read_csv(file)) TO one parquet file
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAPPING = """
name: bench
currency: EUR
tables:
  transactions:
    files: "**/movements.csv"
    columns:
      transaction_id: movement_no
      customer_id: client_no
      event_on: booking_date
      amount: amount
      balance_after: balance
      category: text_code
      counterparty: partner
      known_on: entered_on
"""
SETTLING = 3  # seconds: files that were laid down a moment ago are hashed again, last month's are not
PARAMS = "source: bench\nas_of: latest\ningest: {memory_limit: 3GiB}\n"
CASTS = """
    movement_no AS transaction_id, client_no AS customer_id, CAST(booking_date AS DATE) AS event_on,
    CAST(amount AS DECIMAL(18,2)) AS amount, CAST(balance AS DECIMAL(18,2)) AS balance_after, text_code AS category,
    partner AS counterparty, CAST(entered_on AS DATE) AS known_on
"""


def engine(temporary: Path) -> Any:
    """Return an engine with the threads and memory that ingest gives itself."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    connection.execute("SET memory_limit = '3GiB'")
    connection.execute(f"SET temp_directory = '{temporary}'")
    return connection


def make(target: Path, rows: int, months: str = "true") -> None:
    """Write `rows` movements of 36 months (`months`: SQL that chooses some), in the order of their booking dates."""
    target.parent.mkdir(parents=True, exist_ok=True)
    engine(target.parent).execute(f"""
        COPY (
            SELECT printf('M%010d', (i * 7919) % {rows * 2 + 1}) AS movement_no,
                printf('C%07d', CAST(hash(i) % 200000 AS BIGINT)) AS client_no, CAST(day AS VARCHAR) AS booking_date,
                CAST(CAST(hash(i + 7) % 4000000 AS DECIMAL(18,2)) / 100 - 20000 AS DECIMAL(18,2)) AS amount,
                CAST(CAST(hash(i + 9) % 900000 AS DECIMAL(18,2)) / 100 AS DECIMAL(18,2)) AS balance,
                ['salary', 'rent', 'card', 'cash', 'fee'][1 + CAST(hash(i + 11) % 5 AS INTEGER)] AS text_code,
                printf('P%05d', CAST(hash(i + 13) % 30000 AS BIGINT)) AS partner,
                CAST(day + CAST(hash(i + 5) % 4 AS INTEGER) AS VARCHAR) AS entered_on
            FROM (SELECT i, DATE '2021-01-01' + CAST((i * 1096) // {rows} AS INTEGER) AS day
                  FROM range({rows * 37 // 36}) t(i))
            WHERE {months} ORDER BY i
        ) TO '{target}' (HEADER)
    """)


def project(folder: Path) -> Path:
    """Return a project folder with the source `bench`."""
    (folder / "data/sources").mkdir(parents=True)
    (folder / "data/sources/bench.yaml").write_text(MAPPING, encoding="utf-8")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (folder / "data/raw/bench").mkdir(parents=True)
    return folder


def child(what: str, folder: Path, file: Path | None = None) -> tuple[float, float]:
    """Run one measured step in a process of its own; return (seconds without the interpreter's start, peak GiB)."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--step", what, str(file or "")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stdout}{done.stderr}")
    seconds, peak = done.stdout.splitlines()[-1].split()
    return float(seconds), float(peak)


def step(what: str, file: str) -> None:
    """Do one measured step in the present folder and print its seconds and peak memory."""
    start = time.perf_counter()
    if what == "ingest":
        from pipeline import ingest

        ingest.main()
    else:
        connection = engine(Path.cwd())
        if what == "plain":
            connection.execute(f"COPY (SELECT * FROM read_csv('{file}')) TO 'plain.parquet' (FORMAT parquet)")
        else:
            connection.execute(
                f"COPY (SELECT {CASTS}, strftime(CAST(entered_on AS DATE), '%Y-%m') AS known_month "
                f"FROM read_csv('{file}', all_varchar = true) ORDER BY known_month, transaction_id, known_on) "
                "TO 'copy' (FORMAT parquet, PARTITION_BY known_month, COMPRESSION zstd)"
            )
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def best(what: str, base: Path, file: Path, rounds: int) -> tuple[float, str, float, Path]:
    """Return (best seconds, all of them as text, highest peak GiB, last folder) of a step from nothing."""
    import shutil

    times, peaks = [], []
    folder = base / what
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if what == "ingest":
            project(folder)
            (folder / "data/raw/bench/movements.csv").hardlink_to(file)
        seconds, peak = child(what, folder, file)
        times.append(seconds)
        peaks.append(peak)
    return min(times), " ".join(f"{seconds:.2f}" for seconds in times), max(peaks), folder


def same(copied: Path, ingested: Path, base: Path) -> int:
    """Return the rows of both outputs; fail where they are not the same rows in the same order, month by month."""
    connection, total = engine(base), 0
    for part in sorted((ingested / "data/ingest/tables/transactions").iterdir()):
        theirs = f"read_parquet('{copied}/copy/known_month={part.name[-7:]}/*.parquet', hive_partitioning = false)"
        ours = f"read_parquet('{part}/part.parquet', hive_partitioning = false)"
        names = "transaction_id, customer_id, event_on, amount, balance_after, category, counterparty, known_on"
        differing, count = connection.execute(
            f"SELECT count(*) FILTER (a IS DISTINCT FROM b), count(*) FROM (SELECT ROW({names}) AS a, "
            f"row_number() OVER () AS n FROM {ours}) FULL JOIN (SELECT ROW({names}) AS b, "
            f"row_number() OVER () AS n FROM (FROM {theirs} ORDER BY transaction_id, known_on)) USING (n)"
        ).fetchone()
        if differing:
            raise SystemExit(f"{part.name}: {differing:,} of {count:,} rows differ from the COPY's")
        total += count
    return total


def month_37(base: Path, rows: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of building 36 monthly deliveries, and of adding the 37th to them."""
    import shutil

    raw = base / "deliveries"
    for month in range(37):
        low, high = f"DATE '2021-01-01' + INTERVAL {month} MONTH", f"DATE '2021-01-01' + INTERVAL {month + 1} MONTH"
        home = raw / f"{2021 + month // 12}-{month % 12 + 1:02d}"
        make(home / "movements.csv", rows, f"day >= {low} AND day < {high}")
        (home / "manifest.json").write_text(json.dumps({"delivered_on": f"{home.name}-28"}), encoding="utf-8")
    whole, added = [], []
    for _ in range(rounds):
        folder = base / "months"
        shutil.rmtree(folder, ignore_errors=True)
        project(folder)
        for home in sorted(raw.iterdir())[:36]:
            shutil.copytree(home, folder / "data/raw/bench" / home.name, copy_function=os.link)
        time.sleep(SETTLING)
        whole.append(child("ingest", folder)[0])
        shutil.copytree(raw / "2024-01", folder / "data/raw/bench/2024-01", copy_function=os.link)
        added.append(child("ingest", folder)[0])
    return whole, added


def main() -> None:
    """Measure, check equal outputs, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--large", type=int, default=0, help="rows of the large run; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(*given.step)
        return
    with tempfile.TemporaryDirectory(prefix="bellwether-bench-") as scratch:
        base = Path(scratch)
        file = base / "movements.csv"
        make(file, given.rows, f"i < {given.rows}")
        results = {what: best(what, base, file, given.rounds) for what in ("plain", "copy", "ingest")}
        rows = same(results["copy"][3], results["ingest"][3], base)
        print(f"equal outputs: {rows:,} rows, the same in the same order as the like-for-like COPY")
        for what, (seconds, spread, peak, _) in results.items():
            print(f"{what:8} best {seconds:7.2f} s of [{spread}], peak {peak:.2f} GiB")
        seconds = results["ingest"][0]
        whole, added = month_37(base, given.rows, given.rounds)
        print(f"36 months {min(whole):.2f} s of {[round(t, 2) for t in whole]}; "
              f"month 37 {min(added):.2f} s of {[round(t, 2) for t in added]}")  # fmt: skip
        scale, peak = None, results["ingest"][2]
        if given.large:
            for left in base.iterdir():
                if left.is_dir():
                    subprocess.run(["rm", "-r", str(left)], check=True)
            file.unlink()
            large = base / "large.csv"
            make(large, given.large, f"i < {given.large}")
            slow, spread, more, _ = best("ingest", base, large, 1)
            print(f"{given.large:,} rows: {slow:.2f} s, peak {more:.2f} GiB")
            scale, peak = slow / seconds, max(peak, more)
        print(
            json.dumps(
                {
                    "rows": given.rows,
                    "ingest_over_copy": round(seconds / results["copy"][0], 3),
                    "ingest_over_plain_copy": round(seconds / results["plain"][0], 3),
                    "month37_share": round(min(added) / min(whole), 4),
                    "scale_100m_over_10m": round(scale, 3) if scale else None,
                    "peak_gib": round(peak, 2),
                }
            )
        )


if __name__ == "__main__":
    main()
