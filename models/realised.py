"""What came true against what was predicted: discrimination, calibration and coverage on rows with known outcomes.

Every figure carries its rows, its defaults and an interval (formulas: `metrics`). Rows of one customer at several dates
are not independent: the AUC's interval is clustered by customer; those of rates are not, and so are too narrow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from models import metrics

LIGHTS = ((0.01, "red"), (0.05, "amber"))  # P(true rate <= PD) below the figure


def midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean rank."""
    return pd.Series(values).rank(method="average").to_numpy()


def auc(outcome: np.ndarray, risk: np.ndarray, customer: np.ndarray | None = None) -> dict[str, Any] | None:
    """Return the area under the ROC curve with its 95% interval, clustered by customer; null where one outcome occurs.

    outcome 0/1, risk (higher = riskier) and customer (any text), all of shape (rows,). The interval is null where one
    of the outcomes occurs once.
    """
    bad = int((outcome == 1).sum())
    if not 0 < bad < len(outcome):
        return None
    area = float(metrics.placements(outcome, risk)[0].mean())
    variance = metrics.auc_variance(outcome, risk, customer)
    low, high = metrics.around(area, variance) if np.isfinite(variance) else (None, None)
    return {"value": area, "low": low, "high": high, "rows": len(outcome), "bad": bad}


def roc(outcome: np.ndarray, risk: np.ndarray, points: int = 100) -> list[list[float]]:
    """Return (share of good, share of bad) caught at falling cuts, from (0, 0) to (1, 1); empty with one outcome."""
    return [[p["false_positive_rate"], p["true_positive_rate"]] for p in metrics.roc_points(outcome, risk, points)]


def roc_band(points: list[list[float]], bad: int) -> list[list[float]]:
    """Return (share of good, low, high) of each point of `roc`: the 95% Jeffreys interval of the share of bad caught.

    Point by point and for independent defaults, with the cut held fixed.
    """
    if not points:
        return []
    good, caught = np.array(points).T
    low, high = metrics.jeffreys_interval(np.round(caught * bad), np.full(len(points), bad), metrics.LEVEL)
    return [[float(a), float(b), float(c)] for a, b, c in zip(good, low, high, strict=True)]


def light(p: float) -> str:
    """Return green, amber or red for a Jeffreys probability."""
    return next((colour for limit, colour in LIGHTS if p < limit), "green")


def rate_interval(outcome: pd.Series) -> tuple[float, float]:
    """Return the 95% Jeffreys interval of the default rate of some rows, at least one."""
    low, high = metrics.jeffreys_interval(float(outcome.sum()), float(len(outcome)), metrics.LEVEL)
    return float(low), float(high)


def calibration(frame: pd.DataFrame, group: str, order: list[str]) -> list[dict[str, Any]]:
    """Return mean PD against realised rate by group, in the given order, with Jeffreys interval and traffic light.

    frame: columns outcome (0/1), pd and `group`; groups without rows are left out.
    """
    parts = dict(list(frame.groupby(frame[group].astype(str))))
    result = []
    for name in [g for g in order if g in parts]:
        rows, bad = float(len(parts[name])), float(parts[name]["outcome"].sum())
        predicted = float(parts[name]["pd"].mean())
        low, high = metrics.jeffreys_interval(bad, rows, metrics.LEVEL)
        p = metrics.jeffreys_test(int(bad), int(rows), predicted)
        result.append(
            {
                "group": name,
                "rows": int(rows),
                "bad": int(bad),
                "pd": predicted,
                "rate": bad / rows,
                "low": float(low),
                "high": float(high),
                "p": p,
                "light": light(p),
            }
        )
    return result


def lift(outcome: np.ndarray, risk: np.ndarray, parts: int = 10) -> list[dict[str, float]]:
    """Return share, capture and lift of the riskiest tenth, two tenths and so on; empty without defaults.

    capture_low, capture_high: 95% Jeffreys interval of the share of defaults caught, for independent defaults.
    """
    bad = int((outcome == 1).sum())
    if not bad:
        return []
    rows = metrics.lift_table(outcome, risk, tuple((i + 1) / parts for i in range(parts)))
    for row in rows:
        low, high = metrics.jeffreys_interval(min(round(row["capture"] * bad), bad), bad, metrics.LEVEL)
        row |= {"capture_low": float(low), "capture_high": float(high)}
    return rows


def histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Return counts between edges; values outside fall into the end bins; NaN is left out."""
    known = values[~np.isnan(values)]
    place = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, len(edges) - 2)
    return [int(c) for c in np.bincount(place, minlength=len(edges) - 1)]


def distribution(outcome: np.ndarray, score: np.ndarray, bins: int = 20) -> dict[str, Any] | None:
    """Return score counts of good and of bad rows over equal bins; null where no score is known."""
    known = score[~np.isnan(score)]
    if not known.size:
        return None
    low, high = float(np.floor(known.min())), float(np.ceil(known.max()))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    return {
        "edges": edges.tolist(),
        "good": histogram(score[outcome == 0], edges),
        "bad": histogram(score[outcome == 1], edges),
    }


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float | None:
    """Return the share of rows whose interval holds the true PD; rows without truth or interval are left out."""
    known = ~(np.isnan(truth) | np.isnan(low) | np.isnan(high))
    return float(((low <= truth) & (truth <= high))[known].mean()) if known.any() else None


def by_vintage(frame: pd.DataFrame, order: list[str], most: int = 12) -> list[dict[str, Any]]:
    """Return, a date of scoring, its rows as one `calibration` record (`total`) and by grade, the newest date last.

    frame: columns as_of, outcome (0/1), pd and grade. The newest `most` dates; none without grades.
    """
    if frame.empty or "grade" not in frame:
        return []
    dates = sorted(frame["as_of"].unique())[-most:]
    parts = [(str(date)[:10], frame[frame["as_of"] == date].assign(all="all")) for date in dates]
    return [
        {
            "vintage": date,
            "total": calibration(rows, "all", ["all"])[0],
            "by_grade": {one["group"]: one for one in calibration(rows, "grade", order)},
        }
        for date, rows in parts
    ]


def auc_decline(first: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return whether the AUC on matured rows is lower than at the model's evaluation; null where either is unknown.

    first, now: records with value, low and high (95%); the first may be without its interval. `p` takes the first as
    given, as the ECB's instructions for reporting validation results (February 2019) do; `p_both` lets both vary, as
    for samples of different customers (null without the first's interval). Small: the decline is more than chance.
    Standard errors are those of the intervals, on log-odds of the AUC.
    """
    from scipy.stats import norm

    if first is None or now is None or not 0 < (first.get("value") or 0.0) < 1:
        return None
    error, of_first = _error(now), _error(first)
    if error is None:
        return None
    fall = float(np.log(first["value"] / (1 - first["value"])) - np.log(now["value"] / (1 - now["value"])))
    return {
        "first": float(first["value"]),
        "now": float(now["value"]),
        "decline": float(first["value"]) - float(now["value"]),
        "p": float(norm.sf(fall / error)),
        "p_both": None if of_first is None else float(norm.sf(fall / float(np.hypot(error, of_first)))),
    }


def _error(area: dict[str, Any]) -> float | None:
    """Return the standard error of an AUC on log-odds from its 95% interval; null where it has none."""
    from scipy.special import logit
    from scipy.stats import norm

    ends = [area.get(end) for end in ("value", "low", "high")]
    if any(end is None or not 0 < end < 1 for end in ends):
        return None
    return float(logit(area["high"]) - logit(area["low"])) / (2 * float(norm.ppf(0.5 + metrics.LEVEL / 2)))
