"""The portfolio as a committee looks at it: who, how much is at stake, where it is concentrated, how grades moved.

Amounts are doubles of the source's currency, summed over rows in one fixed order; a null amount counts as nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

NO_GROUP = "(none)"
SUMS = ("exposure", "expected_loss", "credit_limit", "credit_limit_recommended")


def totals(table: pd.DataFrame) -> dict[str, Any]:
    """Return customers, sums of money, mean PD [0, 1] and how many are offered no limit.

    table: one row a customer of the scored table; a figure is null where its column is absent or has no value.
    """
    result: dict[str, Any] = {"customers": len(table)}
    for name in SUMS:
        known = table[name].notna().any() if name in table else False
        result[name] = round(float(table[name].sum()), 2) if known else None
    pd_known = "pd_12m" in table and table["pd_12m"].notna().any()
    result["mean_pd"] = float(table["pd_12m"].mean()) if pd_known else None
    limit = table.get("credit_limit_recommended")
    result["no_limit"] = int((limit == 0).sum()) if limit is not None and limit.notna().any() else None
    return result


def by_group(table: pd.DataFrame, column: str, order: list[str] | None = None, most: int = 15) -> list[dict[str, Any]]:
    """Return `totals` by group: in the given order, or the largest first with the rest folded into `(other)`.

    A null group is `(none)`; empty where the column is absent or has no value at all.
    """
    if column not in table or table[column].isna().all():
        return []
    groups = table[column].astype(object).where(table[column].notna(), NO_GROUP).astype(str)
    names = groups.value_counts()
    if order is None:
        ranked = sorted(names.index, key=lambda name: (-int(names[name]), name))
        if len(ranked) > most + 1:
            groups = groups.where(groups.isin(ranked[:most]), "(other)")
            ranked = [*ranked[:most], "(other)"]
    else:
        ranked = [*order, *sorted(set(names.index) - set(order))]
    parts = dict(list(table.groupby(groups, sort=True)))
    return [{"group": name, **totals(parts[name])} for name in ranked if name in parts]


def herfindahl(amounts: list[float | None]) -> float | None:
    """Return the sum of squared shares: 1 / n for n equal parts, 1 for a single one; null where nothing is at stake."""
    known = np.array([a for a in amounts if a is not None and a > 0], dtype=float)
    return float(np.sum((known / known.sum()) ** 2)) if known.size else None


def grade_order(grades: pd.Series, pds: pd.Series) -> list[str]:
    """Return the grades from best to worst by their mean PD."""
    means = pds.groupby(grades.astype(object)).mean()
    return [str(name) for name in sorted(means.index, key=lambda name: (means[name], str(name)))]


def migration(before: pd.DataFrame, now: pd.DataFrame, order: list[str]) -> dict[str, Any] | None:
    """Return how many customers went from grade to grade, and how many came and went; null without earlier rows.

    before, now: columns customer_id, grade, one row a customer; `order` runs from best to worst.
    counts[i][j]: customers of grade i then and grade j now.
    """
    if before.empty or now.empty:
        return None
    both = before.merge(now, on="customer_id", suffixes=("_then", "_now"), validate="1:1")
    then = pd.Categorical(both["grade_then"].astype(object), categories=order).codes
    since = pd.Categorical(both["grade_now"].astype(object), categories=order).codes
    known = (then >= 0) & (since >= 0)
    size = len(order)
    counts = np.bincount(then[known].astype(int) * size + since[known], minlength=size * size).reshape(size, size)
    return {
        "grades": order,
        "counts": counts.tolist(),
        "same": int(np.trace(counts)),
        "worse": int(np.triu(counts, 1).sum()),
        "better": int(np.tril(counts, -1).sum()),
        "new": len(now) - len(both),
        "gone": len(before) - len(both),
    }


def worst(table: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Return the customers with most at stake: PD x exposure, then PD, then customer_id.

    Where no exposure is known PD alone ranks; rows without a PD are left out.
    """
    known = table[table["pd_12m"].notna()]
    stake = known["pd_12m"] * known["exposure"].fillna(0.0) if "exposure" in known else known["pd_12m"] * 0.0
    ranked = known.assign(at_stake=stake).sort_values(
        ["at_stake", "pd_12m", "customer_id"], ascending=[False, False, True]
    )
    return ranked.head(most).reset_index(drop=True)
