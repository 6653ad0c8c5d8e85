"""DuckDB and Spark say the same: expression by expression where they are known to differ, and on random histories."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.aggregates import exact, mean, spread, trend
from features.engine import DuckDB
from tests.features import awkward
from tests.features.drawn import build, observe
from tests.features.on_spark import differences, matrix_on_spark, rows_of, session

NASTY = pa.table(
    {
        "g": ["a"] * 6 + ["b"] * 3 + ["c"],
        "at": pa.array(range(10), pa.int32()),
        "x": pa.array([0.2469125, -0.2469125, 1e11 + 0.0000005, 2.5, -3.5, None, 0.1, float("nan"), 7.0, None]),
        "m": pa.array(
            [Decimal(t) if t else None for t in ("0.01", "-0.01", "", "99999999999999.99", "3.33", "", "5", "6", "", "")],
            pa.decimal128(18, 2),
        ),
        "d": pa.array(
            [dt.date.fromisoformat(t) if t else None for t in
             ("2024-02-29", "2023-02-28", "2024-01-31", "2024-12-31", "1969-12-31", "", "2024-03-31", "", "", "2000-01-01")],
            pa.date32(),
        ),
        "t": ["z", "é", "Z", None, "", "a", "ä", "中", "aa", None],
    }
)  # fmt: skip


def _by_row(t: ibis.Table) -> ibis.Table:
    month_end = t.d.truncate("M") + ibis.interval(months=1) - ibis.interval(days=1)
    finite = t.x.isnan().ifelse(ibis.null("float64"), t.x)
    return t.select(
        "at",
        exact=exact(t.x).cast("float64"),
        cents=finite.cast("decimal(18, 2)").cast("float64"),
        whole=finite.cast("int64"),
        whole_money=t.m.cast("int64"),
        over_zero=t.m / (t.m - t.m),
        quotient=t.m / 7,
        thirds=t.at / 3,
        tenth=t.m.cast("float64") * 0.1,
        unknown=t.x.isnull(),
        known=t.x.notnull(),
        end=month_end,
        days=t.d.delta(ibis.date(1970, 1, 1), unit="day"),
        month=t.d.month(),
        most=ibis.greatest(t.x.fill_null(0.0), 1.0),
        order=ibis.row_number().over(ibis.window(order_by=["t", "at"])),
        back=ibis.row_number().over(ibis.window(group_by="g", order_by=[ibis.desc("d"), ibis.desc("at")])),
        before=t.m.lag().over(ibis.window(group_by="g", order_by="at")),
    ).order_by("at")


def _by_group(t: ibis.Table) -> ibis.Table:
    some = t.at >= 1
    return (
        t.group_by("g")
        .aggregate(
            rows=t.count(where=some),
            known=t.x.count(where=some),
            mean=mean(t.x, some),
            spread=spread(t.m, some),
            slope=trend(t.m, t.at, some),
            low=t.m.cast("float64").quantile(0.1, where=some),
            middle=t.m.cast("float64").quantile(0.5, where=some),
            kinds=t.t.nunique(where=some),
            newest=t.t.argmax(t.at, where=t.t.notnull()),
            newest_unknown=t.m.argmax(t.at),
            oldest=t.d.argmin(t.at),
            last_text=t.t.max(),
        )
        .order_by("g")
    )


@pytest.mark.spark
@pytest.mark.parametrize("query", [_by_row, _by_group])
def test_words_that_engines_read_differently(query):
    """Halves at the sixth decimal, NaN beside null, products of decimals, nothing divided by nothing, month ends."""
    from features.spark import Spark

    connection = ibis.duckdb.connect()
    duckdb = DuckDB(connection).rows(query(connection.create_table("nasty", NASTY)))
    spark = Spark(session())
    made = spark.rows(query(spark.view("nasty", session().createDataFrame(NASTY))))
    assert len(made) == len(duckdb)
    for at, (left, right) in enumerate(zip(duckdb, made, strict=True)):
        expected = {name: None if v in (float("inf"), -float("inf")) else v for name, v in left.items()}
        assert not differences(expected, right, expected), (at, left, right)


@pytest.mark.spark
def test_texts_are_compared_as_they_are():
    """No quote, backslash, sign of a variable, blank, accent or letter's case makes two texts one, or one two."""
    from features.spark import Spark

    texts = sorted(awkward.TEXTS)
    spark = Spark(session())
    held = pa.table({"text": texts})
    table = spark.view("texts", session().createDataFrame(held))
    asked = table.select("text", *((table.text == text).name(f"is_{at}") for at, text in enumerate(texts)))
    made = spark.rows(asked.order_by("text"))
    assert [row["text"] for row in made] == texts
    for at, row in enumerate(made):
        assert [row[f"is_{other}"] for other in range(len(texts))] == [other == at for other in range(len(texts))]


@pytest.mark.slow
@pytest.mark.spark
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), day=st.dates(dt.date(2022, 3, 1), dt.date(2024, 12, 31)), rows=st.integers(10, 120))
def test_random_histories_give_the_same_on_both(seed, day, rows):
    """Every table, late and restated rows among them, month ends and any day; every feature, null for null."""
    days = ("2023-12-31", "2024-02-29", day.isoformat())
    observations = observe("\n".join(f"{c} {d}" for c in (*awkward.CUSTOMERS, "nobody") for d in sorted({*days})))
    options = {"attributes": awkward.ATTRIBUTES, "training": observe(f"a {day}"), "windows": (1, 3, 12), "lags": 2}
    tables = awkward.world(seed, rows)
    expected = rows_of(build(tables, observations, least_group=2, **options))
    made = rows_of(matrix_on_spark(tables, observations, least_group=2, **options))
    assert made.keys() == expected.keys()
    for place, row in expected.items():
        assert list(made[place]) == list(row)
        assert not differences(row, made[place], row), place
