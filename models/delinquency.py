"""Arrears before they are defaults: roll rates between buckets of days past due, and vintage curves.

Both come in as counts, which the engine takes from the histories: here they become shares with intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.metrics import LEVEL, jeffreys_interval

EDGES = (1, 30, 60, 90)  # days past due at which a bucket begins
BUCKETS = ("0", "1-29", "30-59", "60-89", "90+")
LEFT = ("default", "closed", "gone")  # where a customer who is no longer scored went
LATE = (30, 90)  # days past due whose first time is a vintage's event
MOST_CURVES = 10  # more cohorts than that are taken by year
POINTS = (6, 12, 18, 24, 36)  # months whose end a table of vintages tells


def with_interval(part: float, whole: float) -> dict[str, Any]:
    """Return share, low and high (95% Jeffreys) and the counts; nulls where there is no row."""
    low, high = jeffreys_interval(part, whole, LEVEL) if whole else (None, None)
    return {
        "count": int(part),
        "rows": int(whole),
        "share": part / whole if whole else None,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def roll_rates(moves: pd.DataFrame) -> dict[str, Any]:
    """Return how customers moved between buckets within a month: counts and shares over all months, and month by month.

    moves: columns months_back (of the later month), from_bucket (one of BUCKETS), to_bucket (BUCKETS or LEFT),
    customers. `by_month` holds the share that rolled on to a worse bucket or into default, among all and among those
    who were not late; `now` and `before` compare the newest month with all earlier ones (Fisher's exact test,
    one-sided: is the newest worse?). Empty without moves.
    """
    if moves.empty:
        return {}
    to = [*BUCKETS, *LEFT]
    table = moves.pivot_table("customers", "from_bucket", "to_bucket", "sum", fill_value=0)
    counts = table.reindex(index=list(BUCKETS), columns=to, fill_value=0).to_numpy(dtype=int)
    rank = {name: place for place, name in enumerate((*BUCKETS, "default"))}
    start = moves["from_bucket"].map(rank)
    end = moves["to_bucket"].map(rank)  # closed and gone have none, and are no worsening
    worse = moves["customers"].where(end > start, 0)
    stays = moves["to_bucket"] != "gone"
    by_month: list[dict[str, Any]] = []
    for back in sorted({int(each) for each in moves["months_back"]}, reverse=True):
        rows = (moves["months_back"] == back) & stays
        clean = rows & (moves["from_bucket"] == BUCKETS[0])
        by_month.append(
            {
                "months_back": back,
                "worse": with_interval(float(worse[rows].sum()), float(moves["customers"][rows].sum())),
                "from_clean": with_interval(float(worse[clean].sum()), float(moves["customers"][clean].sum())),
            }
        )
    told: dict[str, Any] = {
        "buckets": list(BUCKETS), "to": to, "counts": counts.tolist(),
        "shares": [[n / max(int(row.sum()), 1) for n in row] for row in counts], "by_month": by_month,
    }  # fmt: skip
    if len(by_month) > 1:
        told |= newest_against_earlier([each["worse"] for each in by_month])
    return told


def newest_against_earlier(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the last of some shares, the sum of those before it, their ratio, and Fisher's one-sided p-value.

    p: how often chance alone makes the last so much larger, if nothing changed. The ratio is to half an event where the
    earlier ones have none.
    """
    from scipy.stats import fisher_exact

    last, earlier = shares[-1], shares[:-1]
    before = with_interval(sum(each["count"] for each in earlier), sum(each["rows"] for each in earlier))
    table = [[last["count"], last["rows"] - last["count"]], [before["count"], before["rows"] - before["count"]]]
    p = float(fisher_exact(table, alternative="greater").pvalue)
    usual = before["share"] or (0.5 / before["rows"] if before["rows"] else None)
    ratio = last["share"] / usual if last["share"] is not None and usual else None
    return {"now": last, "before": before, "ratio": ratio, "p": p}


def vintages(counts: pd.DataFrame, months: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a record a cohort, oldest first: its size and the share that had the event by month since its start.

    counts: columns cohort, month (0 and up; null: no event), members. months: columns cohort, seen: how many months
    its youngest member has been seen for; later months are left out, for there only the older ones could have had it.
    `curve[m]` is the share, low and high (95% Jeffreys) until the end of month m, the first being 0; `at` holds those
    after so many months.
    """
    records = []
    seen = dict(zip(months["cohort"], months["seen"], strict=True))
    for cohort, rows in counts.groupby("cohort", sort=True):
        size, last = int(rows["members"].sum()), int(seen[cohort])
        known = rows[rows["month"].notna()]
        fell = np.bincount(known["month"].astype(int).clip(lower=0), weights=known["members"], minlength=last + 1)
        reached = np.cumsum(fell)[: last + 1]
        low, high = jeffreys_interval(reached, np.full(len(reached), size), LEVEL)
        curve = [
            {
                "month": m,
                "count": int(reached[m]),
                "share": reached[m] / size,
                "low": float(low[m]),
                "high": float(high[m]),
            }
            for m in range(len(reached))
        ]
        records.append(
            {
                "cohort": str(cohort), "members": size, "curve": curve,
                "at": {str(m): curve[m - 1] for m in POINTS if m <= len(curve)},
            }
        )  # fmt: skip
    return records
