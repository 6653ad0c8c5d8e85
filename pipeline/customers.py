"""The customers that the page shows one by one, with their histories: most at stake, and with alerts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from models import portfolio
from pipeline.book import columns, quoted
from pipeline.monitor import frame, plain
from pipeline.stage import parquet

DATA = Path("data")
TABLE, ALERTS, HELD = (DATA / f"decide/{name}.parquet" for name in ("table", "alerts", "alert_history"))
SCORES, POSITION = DATA / "score/scores.parquet", DATA / "featurise/scoring/position.parquet"
STANDS = ("exposure", "credit_limit", "days_past_due", "overdue_amount")  # beside PD, score and grade of each date
SCORED = ("as_of", "months_back", "pd", "score", "grade")


def codes(text: Any) -> list[str]:
    """Return the codes of a text that lists them."""
    return [code for code in re.split(r"[;,|\s]+", str(text or "")) if code]


def rows_for(path: Path, ids: Sequence[str], wanted: Sequence[str]) -> pd.DataFrame:
    """Return what a Parquet file holds of some customers: customer_id and those of `wanted` that it has."""
    if not path.exists() or not ids:
        return pd.DataFrame()
    with duckdb.connect(config={"threads": 2}) as connection:
        source = f"'{parquet(path)}'"
        there = columns(connection, source)
        listed = ", ".join(quoted(name) for name in ("customer_id", *(n for n in wanted if n in there)))
        connection.register("asked", pd.DataFrame({"customer_id": list(ids)}))
        found = connection.execute(f"select {listed} from {source} semi join asked using (customer_id) order by all")
        return found.df()


def histories(ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a customer's dates, oldest first: PD, score, grade, exposure, limit, arrears, and alerts that were up."""
    scores = rows_for(SCORES, ids, SCORED)
    if scores.empty or "months_back" not in scores:
        return {}
    stands = rows_for(POSITION, ids, ("months_back", *STANDS))
    if len(stands) and "months_back" in stands:
        scores = scores.merge(
            stands.drop_duplicates(["customer_id", "months_back"]), on=["customer_id", "months_back"], how="left"
        )
    held = rows_for(HELD, ids, ("as_of", "code"))
    up: dict[tuple[str, Any], list[str]] = {}
    if len(held) and "code" in held:
        up = {key: sorted(rows) for key, rows in held.groupby(["customer_id", "as_of"])["code"]}
    told: dict[str, list[dict[str, Any]]] = {}
    wanted = [name for name in (*SCORED, *STANDS) if name in scores]
    ordered = scores.sort_values(["customer_id", "months_back"], ascending=[True, False])
    for who, record in zip(ordered["customer_id"], ordered[wanted].to_dict("records"), strict=True):
        told.setdefault(who, []).append({**plain(record), "alerts": up.get((who, record["as_of"]), [])})
    return told


def shown(most_at_stake: int, most_alerted: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the customers with most at stake, and those with alerts, worst first, as records.

    Beside the table's columns each has `history` (see `histories`), `pds` (its PD by date scored, oldest first),
    `alerts` as codes, `evidence` (its alerts with severity, date first seen and what was seen) and `reasons`.
    """
    table = frame(TABLE)
    if table.empty or "pd_12m" not in table:
        return [], []
    alerts = frame(ALERTS, ["customer_id", "code", "severity", "state", "first_seen_on", "evidence"])
    high = pd.DataFrame()
    if {"severity", "state"} <= set(alerts.columns):
        alerts = alerts[alerts["state"] != "cleared"]
        high = alerts[alerts["severity"] == "high"].groupby("customer_id").size().rename("high").reset_index()
    worst, warned = portfolio.worst(table, most_at_stake), portfolio.alerted(table, high, most_alerted)
    ids = sorted({*worst["customer_id"], *warned["customer_id"]})
    past, seen = histories(ids), alerts[alerts["customer_id"].isin(ids)] if len(alerts) else alerts
    backs = sorted({each["months_back"] for rows in past.values() for each in rows}, reverse=True)
    return _records(worst, past, seen, backs), _records(warned, past, seen, backs)


def _records(
    rows: pd.DataFrame, past: dict[str, list[dict[str, Any]]], alerts: pd.DataFrame, backs: Sequence[int]
) -> list[dict[str, Any]]:
    """Return customers as records with their histories, alerts and reasons."""
    records: list[dict[str, Any]] = plain(rows.to_dict("records"))
    by_customer = dict(list(alerts.groupby("customer_id"))) if len(alerts) else {}
    for row in records:
        who = row["customer_id"]
        row["history"] = past.get(who, [])
        of_date = {each["months_back"]: each["pd"] for each in row["history"]}
        row["pds"] = [of_date.get(back) for back in backs]
        row["alerts"] = codes(row.get("alerts"))
        own = by_customer.get(who)
        row["evidence"] = [] if own is None else plain(own.drop(columns=["customer_id"]).to_dict("records"))
        row["reasons"] = [
            {key: row.get(f"reason_{k}_{key}") for key in ("code", "text", "value", "typical", "points")}
            for k in range(1, 5)
            if row.get(f"reason_{k}_text")
        ]
    return records
