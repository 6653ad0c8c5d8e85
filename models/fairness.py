"""Whether groups of customers fare alike: approval, PD and calibration by a protected attribute, with intervals.

The attribute is looked at here and nowhere else: it is no feature. A difference is a fact to explain, not a verdict;
what law asks of it depends on place and date. Adverse-impact ratio: a group's approval rate over that of the group with
the highest one; below 0.8 is the four-fifths rule of the US Uniform Guidelines (29 CFR 1607.4 D, 1978).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from models import metrics

NOT_STATED = "(not stated)"
LEAST = 30  # customers of a group that can be the reference, or be judged
MOST_GROUPS = 12
BANDS = 4  # of a number, with equal numbers of customers


def groups(values: pd.Series) -> pd.Series:
    """Return the group of each customer as text: a category as it is, a number in bands of equal numbers of customers.

    A number of at most MOST_GROUPS different values stays as it is. Null is `(not stated)`.
    """
    known = values.dropna()
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.astype(float)
        if known.nunique() > MOST_GROUPS:
            cuts = np.unique(np.quantile(known.astype(float), np.arange(1, BANDS) / BANDS, method="inverted_cdf"))
            edges = [-np.inf, *cuts.tolist(), np.inf]
            names = [f"up to {cuts[0]:g}", *(f"{a:g} to {b:g}" for a, b in itertools.pairwise(cuts))]
            banded = pd.cut(numbers, edges, labels=[*names, f"above {cuts[-1]:g}"]).astype(object)
            return banded.where(numbers.notna(), NOT_STATED).astype(str)
        return numbers.map(lambda value: f"{value:g}" if np.isfinite(value) else NOT_STATED)
    return values.astype(object).where(values.notna(), NOT_STATED).astype(str)


def approvals(group: pd.Series, approved: pd.Series, pd_: pd.Series, least: int = LEAST) -> list[dict[str, Any]]:
    """Return a record a group: customers, decided, approved with rate and interval, mean PD, adverse-impact ratio.

    group (text), approved (bool; null: not decided) and pd_ have one entry a customer. The rate is of the decided, with
    its 95% Jeffreys interval. The ratio is to the group of at least `least` decided with the highest rate, with Katz's
    95% interval (scipy's relative_risk) and Fisher's exact p-value (two-sided); null for that group itself, for groups
    below `least`, and where nobody is approved.
    """
    table = pd.DataFrame({"group": group, "approved": approved.astype("boolean"), "pd": pd_.astype(float)})
    records: list[dict[str, Any]] = []
    for name, rows in table.groupby("group", sort=True):
        count, yes = int(rows["approved"].notna().sum()), int(rows["approved"].fillna(False).sum())
        low, high = metrics.jeffreys_interval(yes, count, metrics.LEVEL) if count else (None, None)
        records.append(
            {
                "group": str(name), "customers": len(rows), "decided": count, "approved": yes,
                "rate": yes / count if count else None, "rate_low": None if low is None else float(low),
                "rate_high": None if high is None else float(high), "mean_pd": float(rows["pd"].mean()),
                "ratio": None, "ratio_low": None, "ratio_high": None, "p": None, "reference": False,
            }
        )  # fmt: skip
    judged = [r for r in records if r["decided"] >= least and r["group"] != NOT_STATED]
    best = max(judged, key=lambda r: (r["rate"], r["decided"]), default=None)
    if best is None or not best["approved"]:
        return records
    best["reference"] = True
    for record in judged:
        if record is not best:
            record.update(_against(record, best))
    return records


def _against(group: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    """Return the ratio of two groups' approval rates, with interval and p-value."""
    from scipy.stats import fisher_exact
    from scipy.stats.contingency import relative_risk

    yes, count, most, of = group["approved"], group["decided"], best["approved"], best["decided"]
    told = {
        "ratio": group["rate"] / best["rate"],
        "p": float(fisher_exact([[yes, count - yes], [most, of - most]]).pvalue),
    }
    if yes:
        interval = relative_risk(yes, count, most, of).confidence_interval(metrics.LEVEL)
        told |= {"ratio_low": float(interval.low), "ratio_high": float(interval.high)}
    return told


def calibration(group: pd.Series, outcome: pd.Series, pd_: pd.Series, customer: pd.Series) -> list[dict[str, Any]]:
    """Return a record a group of rows with known outcome: rows, bad, mean PD, rate with interval, p, AUC with interval.

    p: Jeffreys's probability that the true rate is at most the PD, near 0 where the PD is too low, near 1 where it is
    too high. The AUC is null where a group has one outcome only.
    """
    table = pd.DataFrame({"group": group, "outcome": outcome, "pd": pd_, "customer": customer})
    records = []
    for name, rows in table.groupby("group", sort=True):
        y, p = rows["outcome"].to_numpy(dtype=float), rows["pd"].to_numpy(dtype=float)
        bad, low_high = int(y.sum()), metrics.jeffreys_interval(y.sum(), len(y), metrics.LEVEL)
        area, low, high = metrics.auc_interval(y, p, rows["customer"].to_numpy(dtype=object))
        both = 0 < bad < len(y)
        records.append(
            {
                "group": str(name), "rows": len(y), "bad": bad, "pd": float(p.mean()), "rate": float(y.mean()),
                "low": float(low_high[0]), "high": float(low_high[1]),
                "p": metrics.jeffreys_test(bad, len(y), float(p.mean())),
                "auc": {"value": area, "low": low, "high": high} if both else None,
            }
        )  # fmt: skip
    return records
