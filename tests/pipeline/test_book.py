"""What monitor counts from histories, on drawn rows; every section says why it does not apply where it cannot."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.drift import Bins
from pipeline import book, customers, moved, protected

AS_OF = "2024-04-01"


def day(text: str | None) -> dt.date | None:
    return None if text is None else dt.date.fromisoformat(text)


def put(path: str, rows: dict[str, list]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)


def describe(**tables: list[str]) -> None:
    Path("data/ingest").mkdir(parents=True, exist_ok=True)
    Path("data/ingest/tables.json").write_text(
        json.dumps({name: {"columns": dict.fromkeys(columns, "VARCHAR")} for name, columns in tables.items()})
    )


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("source: shop\n")


def test_roll_rates_follow_who_stays_defaults_closes_and_vanishes():
    first, second = day("2024-03-01"), day(AS_OF)
    put("data/featurise/scoring/position.parquet", {
        "customer_id": ["a", "b", "c", "d", "e", "a", "b", "f"], "as_of": [first] * 5 + [second] * 3,
        "months_back": [1] * 5 + [0] * 3, "days_past_due": [0, 29, 89, 0, 30, 1, 60, 0],
    })  # fmt: skip
    put("data/observe/observations.parquet", {
        "customer_id": ["c", "d", "c"], "as_of": [second, second, first],
        "excluded_because": ["in_default", "closed", None],
    })  # fmt: skip
    told = book.roll_rates()
    moved_to = {
        (start, end): told["counts"][i][j]
        for i, start in enumerate(told["buckets"]) for j, end in enumerate(told["to"]) if told["counts"][i][j]
    }  # fmt: skip
    assert moved_to == {
        ("0", "1-29"): 1, ("1-29", "60-89"): 1, ("60-89", "default"): 1, ("0", "closed"): 1, ("30-59", "gone"): 1,
    }  # fmt: skip
    assert told["by_month"][0]["worse"]["count"] == 3
    assert "ratio" not in told  # one month has none before it


@pytest.mark.parametrize(("rows", "why"), [
    ({"customer_id": ["a", "a"], "as_of": [day(AS_OF)] * 2, "months_back": [0, 1], "days_past_due": pa.array([None, None], pa.int32())}, "how late"),
    ({"customer_id": ["a"], "as_of": [day(AS_OF)], "months_back": [0], "days_past_due": [3]}, "one date only"),
    ({"customer_id": ["a"], "as_of": [day(AS_OF)], "months_back": [0]}, "how late"),
    (None, "not left"),
])  # fmt: skip
def test_roll_rates_say_why_they_do_not_apply(rows, why):
    if rows is not None:
        put("data/featurise/scoring/position.parquet", rows)
    told = book.roll_rates()
    assert why in told["why"]
    assert told["why_zh"]


def test_vintages_count_the_first_late_statement_of_own_credits_as_known_now():
    """A restated row counts in its newest version; a later one, another lender's and an older credit do not."""
    describe(credits=["credit_id", "opened_on", "provider"], statements=["credit_id", "stated_on", "days_past_due"])
    put("data/ingest/tables/credits/known_month=2023-01/part.parquet", {
        "credit_id": ["old", "one", "two", "bureau"], "provider": ["own", "own", "own", "b"],
        "opened_on": [day(d) for d in ("2020-01-01", "2023-02-10", "2023-03-05", "2023-02-01")],
        "known_on": [day(d) for d in ("2020-01-01", "2023-02-10", "2023-03-05", "2023-02-01")],
    })  # fmt: skip
    stated = [
        ("old", "2023-01-31", 95, "2023-01-31"), ("one", "2023-03-31", 40, "2023-03-31"),
        ("one", "2023-03-31", 10, "2023-05-02"), ("one", "2023-06-30", 35, "2023-06-30"),
        ("two", "2023-03-31", 0, "2023-03-31"), ("two", "2024-03-31", 99, "2024-04-02"), ("bureau", "2023-03-31", 99, "2023-03-31"),
    ]  # fmt: skip
    put("data/ingest/tables/statements/known_month=2023-01/part.parquet", {
        "credit_id": [r[0] for r in stated], "stated_on": [day(r[1]) for r in stated],
        "days_past_due": pa.array([r[2] for r in stated], pa.int32()), "known_on": [day(r[3]) for r in stated],
    })  # fmt: skip
    told = book.credit_vintages(AS_OF, 30)
    (cohort,) = told["cohorts"]
    assert (told["by"], cohort["cohort"], cohort["members"]) == ("quarter", "2023-Q1", 2)
    assert [p["count"] for p in cohort["curve"]] == [0, 0, 0, 0] + [1] * 9  # June is the fourth month after February
    assert book.credit_vintages(AS_OF, 90)["cohorts"][0]["curve"][-1]["count"] == 0
    describe(credits=["credit_id"])
    assert "no statements" in book.credit_vintages(AS_OF, 30)["why"]


def test_observed_vintages_end_where_windows_are_open():
    dates = [day("2023-01-01")] * 4 + [day("2024-02-01")] * 2
    put("data/observe/observations.parquet", {
        "customer_id": list("abcdab"), "as_of": dates, "outcome": pa.array([1, 0, 1, None, 1, None], pa.int8()),
        "outcome_known_on": [day(d) for d in ("2023-03-15", "2023-12-31", "2023-12-31", None, "2024-02-20", None)],
        "excluded_because": [None, None, None, "closed", None, None],
    })  # fmt: skip
    told = book.observed_vintages(AS_OF, 12)
    old, new = told["cohorts"]
    assert (old["members"], [p["count"] for p in old["curve"]]) == (3, [0, 0] + [1] * 9 + [2])
    assert (new["members"], [p["count"] for p in new["curve"]]) == (2, [1, 1])
    assert "one date" in book.observed_vintages("2023-06-01", 12)["why"]


def test_groups_are_looked_up_as_known_and_declared_in_params():
    describe(customers=["customer_id", "Sex"])
    put("data/ingest/tables/customers/known_month=2023-01/part.parquet", {
        "customer_id": ["a", "a", "b", "b"], "Sex": ["f", "m", "m", "f"],
        "known_on": [day(d) for d in ("2023-01-01", "2023-02-01", "2023-01-01", "2024-04-01")],
    })  # fmt: skip
    assert dict(book.attribute_values("sex", AS_OF).to_numpy().tolist()) == {"a": "m", "b": "m"}
    table = pd.DataFrame(
        {"customer_id": [*"abc"], "credit_limit_recommended": [0.0, 5.0, None], "pd_12m": [0.3, 0.1, 0.2]}
    )
    judged = pd.DataFrame({"customer_id": ["a", "b"], "outcome": [1, 0], "pd": [0.3, 0.1]})
    told = book.fairness_figures(protected.names(), table, judged, AS_OF, ["customers_kind", "customers_sex"])
    assert told["inputs"] == ["customers_sex"]
    (sex,) = told["attributes"]
    assert [(r["group"], r["customers"], r["decided"], r["approved"]) for r in sex["approval"]] == [
        ("(not stated)", 1, 0, 0), ("m", 2, 2, 1),
    ]  # fmt: skip
    assert [(r["group"], r["rows"], r["bad"]) for r in sex["calibration"]] == [("m", 2, 1)]
    Path("params.yaml").write_text("source: shop\nfeaturise: {protected: [age]}\n")
    assert (
        "no column that is declared protected (age)"
        in book.fairness_figures(protected.names(), table, judged, AS_OF, [])["why"]
    )
    Path("params.yaml").write_text("source: shop\nsources: {shop: {featurise: {protected: [Sex]}}}\n")
    assert protected.names() == ("sex",)


def test_the_engine_counts_features_in_the_bins_that_were_fitted():
    """Numbers with heavy values and gaps, text, booleans and a column unknown in training: DuckDB's counts are numpy's."""
    rng = np.random.default_rng(3)
    rows = 400
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{i:03d}" for i in range(rows)],
            "heavy": np.where(rng.random(rows) < 0.5, 0.1 + 0.2, rng.normal(size=rows)),
            "gaps": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows) * 1e9),
            "quote": rng.choice(["it's", "b", "c"], rows),
            "flag": rng.random(rows) < 0.3,
            "number": np.arange(rows) + 5_000_000,
            "unknown": pd.Series([None] * rows, dtype=object),
        }
    )
    scoring = pd.concat([frame.assign(months_back=1), frame.sample(300, random_state=1).assign(months_back=0)])
    scoring["as_of"] = pd.Timestamp(AS_OF)
    now = scoring["months_back"] == 0
    scoring.loc[now, "quote"] = rng.choice(["it's", "new", None], int(now.sum()))
    scoring.loc[now, "unknown"] = "known at last"
    for path, table in (("training", frame.assign(as_of=pd.Timestamp("2023-01-01"))), ("scoring", scoring)):
        Path(f"data/featurise/{path}").mkdir(parents=True, exist_ok=True)
        schema = pa.Schema.from_pandas(table, preserve_index=False)
        place = schema.get_field_index("unknown")
        schema = schema.set(place, pa.field("unknown", pa.string()))
        pq.write_table(
            pa.Table.from_pandas(table, schema, preserve_index=False), f"data/featurise/{path}/features.parquet"
        )
    told = moved.feature_figures(bins=10, reference_rows=1000, top_features=9, identifier_share=0.98, limit=0.25)
    assert told["backs"] == [1, 0]
    assert told["identifier_like"] == ["number"]
    for row in told["by_month"]:
        if row["feature"] == "unknown":
            assert row["missing"] == [1.0, 0.0]
            continue
        fitted = Bins.fit(frame[row["feature"]], 10)
        for back, psi, missing in zip(told["backs"], row["psi"], row["missing"], strict=True):
            part = scoring.loc[scoring["months_back"] == back, row["feature"]]
            assert psi == pytest.approx(fitted.psi(part)), row
            assert missing == pytest.approx(part.isna().mean())
    top = {row["feature"]: row for row in told["top"]}
    assert top["gaps"]["median_now"] == pytest.approx(scoring.loc[now, "gaps"].median())
    assert top["quote"]["rise"] == pytest.approx(scoring.loc[now, "quote"].isna().mean())
    assert moved.feature_figures(bins=10, reference_rows=0, top_features=9, identifier_share=0.98, limit=0.25) == {}


def test_customers_with_alerts_come_worst_first_with_their_histories():
    ids, dates = ["a", "b", "c"], [day("2024-03-01"), day(AS_OF)]
    put("data/decide/table.parquet", {
        "customer_id": ids, "pd_12m": [0.1, 0.2, 0.5], "exposure": [10.0, 10.0, 100.0], "alerts": ["PD_HIGH", "X;PD_HIGH", ""],
        "reason_1_code": ["late"] * 3, "reason_1_text": ["was late"] * 3, "grade": ["B", "C", "E"],
    })  # fmt: skip
    put("data/decide/alerts.parquet", {
        "customer_id": ["a", "b", "b"], "code": ["PD_HIGH", "X", "PD_HIGH"], "severity": ["high", "low", "low"],
        "state": ["kept", "raised", "cleared"], "first_seen_on": [dates[0]] * 3, "evidence": ["PD 0.1", "x", "y"],
    })  # fmt: skip
    put(
        "data/decide/alert_history.parquet", {"customer_id": ["a", "a"], "as_of": dates, "code": ["PD_HIGH", "PD_HIGH"]}
    )
    put("data/score/scores.parquet", {
        "customer_id": ids * 2, "as_of": [d for d in dates for _ in ids], "months_back": [1] * 3 + [0] * 3,
        "pd": [0.2, 0.1, 0.4, 0.1, 0.2, 0.5], "score": [500] * 6, "grade": ["C", "B", "E", "B", "C", "E"],
    })  # fmt: skip
    put("data/featurise/scoring/position.parquet", {
        "customer_id": ["a", "a"], "months_back": [0, 1], "days_past_due": [35, 0], "exposure": [10.0, 12.0],
    })  # fmt: skip
    worst, alerted = customers.shown(1, 10)
    assert [c["customer_id"] for c in worst] == ["c"]
    assert [c["customer_id"] for c in alerted] == ["a", "b"]  # a has one of high severity
    (a, b) = alerted
    assert a["pds"] == [0.2, 0.1]
    assert [(h["as_of"], h["grade"], h["days_past_due"], h["alerts"]) for h in a["history"]] == [
        ("2024-03-01", "C", 0, ["PD_HIGH"]), (AS_OF, "B", 35, ["PD_HIGH"]),
    ]  # fmt: skip
    assert [e["code"] for e in b["evidence"]] == ["X"]
    assert a["reasons"][0]["text"] == "was late"
