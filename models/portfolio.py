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


def reasons_by_grade(table: pd.DataFrame, order: list[str], most: int = 5) -> list[dict[str, Any]]:
    """Return, a grade, the reasons that most of its customers are given: share of customers, and share as the first.

    table: one row a customer with grade and reason_1_code .. reason_4_code (null: fewer reasons). Empty without them.
    """
    codes = [name for k in range(1, 5) if (name := f"reason_{k}_code") in table]
    if not codes or "grade" not in table:
        return []
    records = []
    for grade in [g for g in order if (table["grade"] == g).any()]:
        rows = table.loc[table["grade"] == grade, codes]
        given = pd.concat([rows[code].dropna() for code in codes]).astype(str).value_counts()
        first = rows[codes[0]].dropna().astype(str).value_counts()
        ranked = sorted(given.index, key=lambda code: (-int(given[code]), code))[:most]
        records.append(
            {
                "grade": grade,
                "customers": len(rows),
                "reasons": [
                    {"code": code, "share": int(given[code]) / len(rows), "first": int(first.get(code, 0)) / len(rows)}
                    for code in ranked
                ],
            }
        )
    return records


def alerted(table: pd.DataFrame, severities: pd.DataFrame, most: int = 40) -> pd.DataFrame:
    """Return the customers with alerts, worst first: alerts of high severity, then PD x exposure, then PD.

    severities: customer_id and `high` (alerts of high severity that are up); customers without a row there have none.
    """
    if "alerts" not in table:
        return table.head(0)
    some = table[table["alerts"].fillna("").astype(str) != ""]
    some = some.merge(severities, on="customer_id", how="left") if len(severities) else some.assign(high=0)
    some = some.assign(high=some["high"].fillna(0).astype(int), pd_12m=some["pd_12m"].fillna(0.0))
    exposure = some["exposure"].fillna(0.0) if "exposure" in some else 0.0
    ranked = some.assign(at_stake=some["pd_12m"] * exposure).sort_values(
        ["high", "at_stake", "pd_12m", "customer_id"], ascending=[False, False, False, True]
    )
    return ranked.head(most).reset_index(drop=True)
