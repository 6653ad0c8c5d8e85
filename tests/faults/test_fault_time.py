"""D: dates that no one should believe, two ways to write a date, clocks and zones of the machine."""

from __future__ import annotations

import calendar
import datetime as dt
import os
import subprocess
import sys
import time

import duckdb
import pytest
from fault_ground import COUNT, HEAD
from test_fault_values import one_and_many, row
from workspaces import ROOT

from pipeline.observe import months_before

fault = pytest.mark.fault


@fault("D1")
@pytest.mark.sample
@pytest.mark.parametrize(
    ("day", "rule"),
    [
        ("0001-01-01", "range:event_on"), ("1899-12-31", "range:event_on"), ("9999-12-31", "range:event_on"),
        ("2100-01-01", "range:event_on"), ("infinity", "type:event_on"), ("-infinity", "range:event_on"),
        ("epoch", "type:event_on"), ("2021-02-29", "type:event_on"), ("2021-13-01", "type:event_on"),
        ("today", "type:event_on"), ("now", "type:event_on"), ("44197", "type:event_on"), ("20210301", "type:event_on"),
        ("2021-3", "type:event_on"),
    ],
)  # fmt: skip
def test_a_date_that_is_none_or_of_no_plausible_year(day, rule, shop):
    if day == "9999-12-31":
        rule = "range:known_on"  # rules are told in the order of the contract
        shop.moves([row(shop, day=day)])
        shop.accepted()
        assert {"range:event_on", "range:known_on"} & set(shop.quarantined()[0][2])
        return
    one_and_many(shop, rule, day=day, seen="2021-03-01")


@fault("D1")
@pytest.mark.parametrize("days", [32, 400, 3650])
def test_an_event_after_its_delivery(days, shop):
    covered = dt.date(2021, 12, 31)
    shop.drop("moves.csv")
    day = covered + dt.timedelta(days=days)
    shop.put("all/moves.csv", shop.text([row(shop, day=str(day))]))
    for name in ("people", "loans", "states"):
        (shop.folder / f"data/raw/shop/{name}.csv").rename(shop.folder / f"data/raw/shop/all/{name}.csv")
    shop.manifest("all/", delivered_on=str(covered))
    shop.accepted()
    assert [found[2][0] for found in shop.quarantined()] == ["after_delivery"]


@fault("D2")
def test_months_before_of_many_dates_are_those_of_a_calendar_by_hand(draw):
    """An independent oracle: the same day, or the month's last where the month has no such day."""

    def oracle(day: dt.date, months: int) -> dt.date:
        index = day.year * 12 + day.month - 1 - months
        year, month = index // 12, index % 12 + 1
        return dt.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))

    odd = [
        dt.date(2024, 2, 29),
        dt.date(2023, 2, 28),
        dt.date(2000, 2, 29),
        dt.date(2024, 12, 31),
        dt.date(2021, 3, 31),
    ]
    days = odd + [dt.date(2000, 1, 1) + dt.timedelta(days=draw.randrange(12000)) for _ in range(55)]
    for day in days:
        for months in (1, 3, 6, 12, 13, 24):
            assert months_before(day, months) == oracle(day, months), (day, months)
            (engine,) = duckdb.execute("SELECT CAST(? - to_months(?) AS DATE)", [day, months]).fetchone()
            assert engine == oracle(day, months), (day, months)


ZONES = ["UTC", "Asia/Tokyo", "America/New_York", "Pacific/Apia"]


@fault("D3", "D8")
def test_zone_locale_and_threads_change_no_byte(shop):
    """The stage as a process of its own, under four zones, two languages, one thread or two."""
    trees = set()
    for number, zone in enumerate(ZONES):
        subprocess.run(["rm", "-rf", "data/ingest"], check=True)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "TZ": zone, "LC_ALL": ["C", "C.UTF-8"][number % 2],
            "OMP_NUM_THREADS": str(1 + number % 2),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.ingest"],
            env=environment,
            cwd=shop.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        trees.add(tuple(sorted(shop.tables().items())))
    assert len(trees) == 1


@fault("D8")
@pytest.mark.parametrize("how", ["backwards", "over the month's end", "stands still"])
def test_a_clock_that_steps_changes_no_byte_and_no_date(how, shop, monkeypatch):
    shop.accepted()
    before, as_of = shop.tables(), (shop.folder / "data/ingest/as_of.json").read_bytes()
    (shop.folder / "data/ingest/ledger.json").unlink()
    ticks = {"backwards": -3600, "over the month's end": 40 * 86400, "stands still": 0}[how]
    real, calls = time.time, [0]

    def clock() -> float:
        calls[0] += 1
        return real() + ticks * calls[0]

    monkeypatch.setattr(time, "time", clock)
    shop.accepted()
    assert shop.tables() == before
    assert (shop.folder / "data/ingest/as_of.json").read_bytes() == as_of


@fault("D4")
@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("%d/%m/%Y", ["12/31/2021", "2021-03-01", "31.03.2021", "3/2021"]),
        ("%m/%d/%Y", ["31/12/2021", "2021-03-01", "13/01/2021"]),
        ("%d.%m.%Y", ["03/01/2021", "2021-03-01", "1.13.2021"]),
    ],
)  # fmt: skip
def test_a_date_written_otherwise_than_stated_is_quarantined(form, texts, shop):
    shop.accepted()
    before = shop.kept()

    def written(day: str) -> str:
        return dt.date.fromisoformat(day).strftime(form)

    rows = [line.split(",") for line in shop.lines]
    lines = [",".join([r[0], r[1], written(r[2]), r[3], written(r[4])]) for r in rows]
    known = written("2021-12-01")
    more = [f"odd{n},{rows[0][1]},{text},1.00,{known}" for n, text in enumerate(texts)]
    (shop.folder / "params.yaml").write_text("source: shop\nas_of: latest\ningest: {max_quarantined_row_share: 0.1}\n")
    shop.put("moves.csv", "\n".join([HEAD, *lines, *more]) + "\n")
    shop.mapped(f"{{type: csv, dates: '{form}'}}")
    shop.accepted()
    assert shop.kept() == before
    assert [(found[1], found[2][0]) for found in shop.quarantined()] == [
        (COUNT + 2 + n, "type:event_on") for n in range(len(texts))
    ]


@fault("D7")
@pytest.mark.parametrize("column", ["known_on", "event_on"])
@pytest.mark.parametrize(("offset", "seen"), [(-1, True), (0, False), (1, False)])
def test_a_row_counts_strictly_before_the_date(column, offset, seen):
    """On the date itself a row neither is known nor has happened; a day before it has."""
    from tests.features.drawn import draw as drawn
    from tests.features.drawn import values

    as_of = dt.date(2021, 3, 1)
    day = as_of + dt.timedelta(days=offset)
    event, known = (
        (day, max(day, as_of - dt.timedelta(days=1))) if column == "event_on" else (dt.date(2021, 2, 20), day)
    )
    table = drawn(
        "transactions",
        f"""
        transaction_id customer_id event_on   amount  known_on
        t1             a           2021-02-10 1.00    2021-02-10
        t2             a           {event}    100.00  {known}
        """,
    )
    row = values({"transactions": table}, f"a {as_of}")["a", str(as_of)]
    assert row["transactions_inflow_sum_1m"] == (101.0 if seen else 1.0)
