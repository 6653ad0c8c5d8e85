"""Observe: the training grid, the population of the real sources, and what a later fact may not change."""

import datetime as dt
import itertools
import json
import os
import time
from pathlib import Path

import duckdb
import pytest

from features.errors import ConfigurationRefused, DataRefused
from features.labels import Rules, stated
from pipeline import ingest, observe

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("BELLWETHER_REALDATA", ROOT / "../shared/realdata")).resolve()
D = dt.date


@pytest.mark.fault("D2")
def test_months_before_stays_in_the_month():
    assert observe.months_before(D(2021, 3, 31), 1) == D(2021, 2, 28)
    assert observe.months_before(D(2021, 1, 1), 1) == D(2020, 12, 1)
    assert observe.months_before(D(2021, 1, 1), -12) == D(2022, 1, 1)
    assert observe.months_before(D(2021, 11, 30), -1) == D(2021, 12, 30)


def test_the_training_grid_ends_with_the_last_closed_window():
    dates = observe.training_dates(D(2018, 1, 15), D(2021, 1, 1), observe.Params())
    assert dates[-1] == D(2020, 1, 1)
    assert dates[0] == D(2019, 4, 1)  # 2019-01-15 is the earliest with twelve months of history
    assert {(b.year - a.year) * 12 + b.month - a.month for a, b in itertools.pairwise(dates)} == {3}


def test_too_short_a_history_gives_no_dates():
    assert observe.training_dates(D(2020, 6, 1), D(2021, 1, 1), observe.Params()) == []


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder with the mappings of the repository."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)
    Path("data/sources").symlink_to(ROOT / "data/sources")
    return tmp_path


def choose(source: str, **sections: object) -> None:
    if not (REAL / source).is_dir():
        pytest.skip(f"{REAL / source} is not there: set BELLWETHER_REALDATA")
    Path("data/raw", source).symlink_to(REAL / source)
    Path("params.yaml").write_text(json.dumps({"source": source, "as_of": "latest", "sources": {source: sections}}))
    ingest.main()
    observe.main()


def rows(query: str) -> list[tuple]:
    return duckdb.execute(query).fetchall()


@pytest.mark.realdata
def test_berka_is_the_honest_392(project):
    choose("berka")
    status = rows(f"""
        SELECT l.status, count(*), count(o.outcome), sum(o.outcome)
        FROM 'data/observe/observations.parquet' o
        JOIN read_csv('{REAL}/berka/loan.asc', delim=';', header=true, all_varchar=true) l ON l.account_id = o.customer_id
        GROUP BY 1 ORDER BY 1
    """)
    assert [(letter, count) for letter, count, *_ in status] == [("A", 71), ("B", 8), ("C", 286), ("D", 27)]
    known = {letter: (count, bad) for letter, _, count, bad in status}
    assert known["A"] == (71, 0)
    assert known["B"] == (8, 8)
    assert known["D"] == (27, 27)
    over = rows(f"""
        SELECT count(*) FROM read_csv('{REAL}/berka/loan.asc', delim=';', header=true, all_varchar=true)
        WHERE status = 'C' AND strptime(date, '%y%m%d') + INTERVAL 12 MONTH <= DATE '1999-01-01'
            AND account_id IN (SELECT customer_id FROM 'data/observe/observations.parquet')
    """)[0][0]
    assert known["C"] == (over, 0)
    training = rows("SELECT count(*), sum(outcome), max(outcome_known_on) FROM 'data/observe/training.parquet'")
    assert training == [(71 + 35 + over, 35, D(1998, 12, 31))]
    assert json.loads(Path("data/ingest/as_of.json").read_text())["as_of"] == "1999-01-01"
    assert sorted(path.name for path in Path("data/ingest/tables").iterdir()) == [
        "customers",
        "observations",
        "transactions",
    ]


@pytest.mark.realdata
def test_berka_transactions_all_lie_before_their_loan(project):
    choose("berka")
    assert (
        rows("""
        SELECT count(*), count(*) FILTER (t.event_on >= o.as_of) FROM 'data/ingest/tables/transactions/*/part.parquet' t
        JOIN 'data/observe/observations.parquet' o USING (customer_id)
    """)[0][0]
        == 31811
    )


@pytest.mark.realdata
def test_uci_unpivots_six_months(project):
    choose("uci_taiwan", observe={"horizon_months": 1})
    assert rows("SELECT count(*), sum(outcome) FROM 'data/observe/training.parquet'") == [(30000, 6636)]
    assert rows("SELECT count(*), count(DISTINCT months_back) FROM 'data/observe/scoring.parquet'") == [(30000, 1)]
    months = rows("""
        SELECT stated_on, count(*), sum(balance)::BIGINT, sum(repayment_status)::BIGINT
        FROM 'data/ingest/tables/statements/*/part.parquet' GROUP BY 1 ORDER BY 1
    """)
    with (REAL / "uci_taiwan/UCI_Credit_Card.csv").open(newline=None) as stream:
        import csv

        raw = list(csv.DictReader(stream))
    ends = [D(2005, 9, 30), D(2005, 8, 31), D(2005, 7, 31), D(2005, 6, 30), D(2005, 5, 31), D(2005, 4, 30)]
    expected = sorted(
        (
            end,
            30000,
            sum(int(float(row[f"BILL_AMT{bill}"])) for row in raw),
            sum(int(float(row[f"PAY_{pay}"])) for row in raw),
        )
        for end, bill, pay in zip(ends, (1, 2, 3, 4, 5, 6), (0, 2, 3, 4, 5, 6), strict=True)
    )
    assert months == expected


SHOP = """
name: shop
currency: EUR
tables:
  credits:
    files: credits.csv
    columns: {credit_id: k, customer_id: c, opened_on: o, credit_limit: m}
  statements:
    files: states.csv
    columns: {credit_id: k, stated_on: on, balance: b, days_past_due: late, known_on: seen}
"""


def shop(extra: str = "") -> None:
    months = [D(2018 + m // 12, m % 12 + 1, 1) - dt.timedelta(days=1) for m in range(1, 48)]
    Path("data/raw/shop").mkdir(parents=True, exist_ok=True)
    Path("data/sources").unlink(missing_ok=True) if Path("data/sources").is_symlink() else None
    Path("data/sources").mkdir(exist_ok=True)
    Path("data/sources/shop.yaml").write_text(SHOP)
    Path("data/raw/shop/credits.csv").write_text(
        "k,c,o,m\n" + "".join(f"k{i},c{i},2017-06-01,1000\n" for i in range(30))
    )
    lines = [
        f"k{i},{end},500,{120 if i == number % 24 and number > 12 else 0},{end}\n"
        for number, end in enumerate(months)
        for i in range(30)
    ]
    Path("data/raw/shop/states.csv").write_text("k,on,b,late,seen\n" + "".join(lines) + extra)
    if not Path("params.yaml").exists():
        Path("params.yaml").write_text("source: shop\nas_of: latest\n")


def run() -> dict[str, bytes]:
    ingest.main()
    observe.main()
    return {path.name: path.read_bytes() for path in Path("data/observe").iterdir()}


def test_a_panel_source_gives_training_scoring_and_counts(project):
    shop()
    first = run()
    assert run() == first
    summary = json.loads(first["summary.json"])
    assert summary["observed_by"] == "panel"
    assert summary["as_of"] == "2021-12-01"
    assert summary["training"]["bad"] > 0
    assert rows("SELECT count(*) FROM 'data/observe/training.parquet' WHERE outcome IS NULL") == [(0,)]
    assert rows("SELECT max(as_of) FROM 'data/observe/training.parquet'") == [(D(2020, 12, 1),)]
    assert rows("SELECT min(months_back), max(months_back), max(as_of) FROM 'data/observe/scoring.parquet'") == [
        (0, 12, D(2021, 12, 1))
    ]
    total = sum(day["good"] + day["bad"] + sum(day["unknown"].values()) + sum(day["excluded"].values())
                for day in summary["by_as_of"])  # fmt: skip
    assert rows("SELECT count(*) FROM 'data/observe/observations.parquet'") == [(total,)]


@pytest.mark.fault("E4", "D6")
def test_training_is_blind_to_what_is_known_from_until_on(project):
    Path("params.yaml").write_text('source: shop\nas_of: latest\ntrain: {until: "2021-01-01"}\n')
    shop()
    before = run()
    shop("k29,2020-06-29,500,120,2021-01-01\n")  # a default in the window, learned on the day of `until`
    after = run()
    assert after["training.parquet"] == before["training.parquet"]
    assert after["observations.parquet"] != before["observations.parquet"]
    shop("k29,2020-06-29,500,120,2020-12-31\n")
    assert run()["training.parquet"] != before["training.parquet"]


ZONED = """
name: zoned
currency: EUR
tables:
  credits:
    files: credits.csv
    columns: {credit_id: k, customer_id: c, opened_on: o, credit_limit: m}
  statements:
    files: states.csv
    columns: {credit_id: k, stated_on: cast(cast(moment as timestamptz) as date), balance: b, days_past_due: late}
"""


def zoned(folder: Path) -> None:
    """A lender whose statements carry the hour and the zone, around midnight, the changes of the clock and leap days."""
    Path("data/sources").unlink()
    Path("data/sources").mkdir()
    Path("data/sources/zoned.yaml").write_text(ZONED)
    Path("params.yaml").write_text("source: zoned\nas_of: latest\n")
    (folder / "data/raw/zoned").mkdir(parents=True)
    (folder / "data/raw/zoned/credits.csv").write_text(
        "k,c,o,m\n" + "".join(f"k{i},c{i},2018-06-01,1000\n" for i in range(6))
    )
    hours = ("2019-03-31 02:30:00+01:00", "2019-10-27 02:30:00+02:00", "2020-02-29 23:59:59+00:00",
             "2020-02-29 00:00:00+05:30", "2020-11-01 01:30:00-04:00", "2021-03-28 00:15:00+00:00")  # fmt: skip
    lines = [f"k{i},{at},500,{95 * (i == n)}\n" for n, at in enumerate(hours) for i in range(6)]
    (folder / "data/raw/zoned/states.csv").write_text("k,moment,b,late\n" + "".join(lines))


@pytest.mark.fault("D3")
def test_the_zone_of_the_machine_and_its_summer_time_change_nothing(project, monkeypatch):
    zoned(project)
    written = []
    for zone in ("UTC", "America/New_York", "Pacific/Kiritimati"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        run()
        written.append({path.name: path.read_bytes() for path in Path("data/observe").iterdir()})
        stated = rows("SELECT DISTINCT stated_on FROM 'data/ingest/tables/statements/*/part.parquet' ORDER BY 1")
    monkeypatch.undo()
    time.tzset()
    assert written[0] == written[1] == written[2]
    # the day in UTC: half past two in summer time is half past midnight, midnight in India is the evening before
    assert [day for (day,) in stated] == [D(2019, 3, 31), D(2019, 10, 27), D(2020, 2, 28), D(2020, 2, 29),
                                          D(2020, 11, 1), D(2021, 3, 28)]  # fmt: skip


@pytest.mark.fault("D2")
def test_a_leap_day_closes_a_year_later_on_the_28th():
    assert observe.months_before(D(2024, 2, 29), -12) == D(2025, 2, 28)
    connection = duckdb.connect()
    connection.execute("""CREATE TABLE observations AS SELECT * FROM (VALUES
        ('a', DATE '2024-02-29', 0, NULL::DATE, DATE '2024-02-28'), ('b', DATE '2024-02-29', 1, NULL, DATE '2024-02-28'))
        t(customer_id, as_of, outcome, outcome_known_on, known_on)""")
    for cut, known in ((D(2025, 2, 27), None), (D(2025, 2, 28), D(2025, 2, 27))):
        stated(connection, Rules(), cut, undated=False)
        found = connection.execute("SELECT DISTINCT outcome_known_on, unknown_because FROM judged").fetchall()
        assert found == [(known, None if known else "window_open")]


def test_every_observed_date_of_a_panel_is_a_month_end_snapshot(project):
    """The first day of a month: what was known when the month before had ended; also where as_of falls within a month."""
    Path("params.yaml").write_text('source: shop\nas_of: "2021-11-17"\n')
    shop()
    run()
    assert rows("SELECT max(day(as_of)) FROM 'data/observe/training.parquet'") == [(1,)]
    days = [day for (day,) in rows("SELECT DISTINCT as_of FROM 'data/observe/scoring.parquet' ORDER BY 1")]
    assert days == [observe.months_before(D(2021, 11, 17), back) for back in range(12, -1, -1)]


def test_until_is_a_date_or_null(project):
    Path("params.yaml").write_text("source: shop\nas_of: latest\ntrain: {until: soon}\n")
    shop()
    ingest.main()
    with pytest.raises(ConfigurationRefused):
        observe.main()


def test_a_population_without_its_table_is_refused(project):
    Path("params.yaml").write_text("source: shop\nas_of: latest\nobserve: {population: observations}\n")
    shop()
    ingest.main()
    with pytest.raises(DataRefused):
        observe.main()
