"""Reasons and scores at two dates by one model: does a customer keep his reasons, and what moved the average score.

Shapley values add up to the margin, so the change of the average margin between two dates is the sum of the changes of
the average contributions of its features: exactly what each feature that moved did to the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from models import reasons, soundness
from pipeline.explainer import Explainer

APART = (1, 12)  # months
SHOWN = 20  # features


def rows_at(rows: str, names: Sequence[str], back: int, most: int) -> pd.DataFrame:
    """Return customer_id and features of at most `most` customers scored `back` months ago, by hash, in id order."""
    listed = ", ".join(['"' + name.replace('"', '""') + '"' for name in ("customer_id", *names)])
    with duckdb.connect(config={"threads": 2}) as connection:
        return connection.execute(
            f"""with scored as (from {rows} where months_back = {back})
            select {listed} from scored semi join
                (select customer_id from scored order by md5(customer_id), customer_id limit {most}) using (customer_id)
            order by customer_id"""
        ).df()


def across_dates(model: Explainer, rows: str, most: int) -> dict[str, Any]:
    """Return `months` (agreement of a customer's reasons with those a month and a year ago) and `shift`.

    rows: what DuckDB reads all scored dates from. `shift`: against the earliest of APART that was scored, the average
    margin then and now (log-odds), and how much of the change each family and the features that weigh most brought, in
    log-odds (more is riskier) and points (more is better). Both are empty where one date alone was scored.
    """
    names = [term.feature for term in model.terms]
    now = rows_at(rows, names, 0, most)
    told: dict[str, Any] = {"months": {}, "shift": {}}
    if now.empty:
        return told
    values_now = model.contributions(model.scorer.matrix(now))
    for back in APART:
        then = rows_at(rows, names, back, most)
        if then.empty:
            continue
        values_then = model.contributions(model.scorer.matrix(then))
        _, here, there = np.intersect1d(now["customer_id"], then["customer_id"], return_indices=True)
        if len(here):
            named = [_named(model, values_now[here]), _named(model, values_then[there])]
            told["months"][str(back)] = {"customers": len(here), **soundness.agreement(named)}
        told["shift"] = {"back": back, "customers": len(now), "customers_then": len(then)} | _shift(
            model, values_then, values_now
        )
    return told


def _named(model: Explainer, values: np.ndarray) -> np.ndarray:
    """Return these customers' reasons as families by rank."""
    return soundness.named(reasons.rank(values, model.terms, model.reference, model.least), len(values))


def _shift(model: Explainer, then: np.ndarray, now: np.ndarray) -> dict[str, Any]:
    """Return what moved the average margin between two dates; contributions of shape (n, inputs + 1), the bias last."""
    change = now[:, :-1].mean(axis=0) - then[:, :-1].mean(axis=0)
    families, summed = reasons.by_family(change[None, :], model.terms)
    points = model.scale.points_a_unit

    def records(names: Sequence[tuple[str, ...]], keys: tuple[str, ...], changes: np.ndarray) -> list[dict[str, Any]]:
        told = [
            {**dict(zip(keys, name, strict=True)), "log_odds": float(each), "points": -float(each) * points}
            for name, each in zip(names, changes, strict=True)
        ]
        return sorted(told, key=lambda one: (-abs(one["log_odds"]), one[keys[0]]))

    of_features = [(term.feature, term.family) for term in model.terms]
    return {
        "margin_then": float(then.sum(axis=1).mean()),
        "margin_now": float(now.sum(axis=1).mean()),
        "points": -float(now.sum(axis=1).mean() - then.sum(axis=1).mean()) * points,
        "families": records([(name,) for name in families], ("family",), summed[0]),
        "features": records(of_features, ("feature", "family"), change)[:SHOWN],
    }
