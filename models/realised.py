"""What came true against what was predicted: discrimination, calibration and coverage on rows with known outcomes.

Every figure carries its rows, its defaults and an interval. Rows of one customer at several dates are not independent:
intervals here treat them as if they were, so they are too narrow by a factor that `customers` beside `rows` shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

LIGHTS = ((0.01, "red"), (0.05, "amber"))  # P(true rate <= PD) below the figure


def midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean rank."""
    return pd.Series(values).rank(method="average").to_numpy()


def auc(outcome: np.ndarray, risk: np.ndarray, level: float = 0.95) -> dict[str, Any] | None:
    """Return the area under the ROC curve with its DeLong interval; null where only one outcome occurs.

    outcome 0/1 and risk (higher = riskier), both of shape (rows,). Source: DeLong et al., Biometrics 44, 1988.
    """
    from scipy.special import ndtri

    bad = outcome == 1
    m, n = int(bad.sum()), int((~bad).sum())
    if not m or not n:
        return None
    rank = midranks(risk)
    above = (rank[bad] - midranks(risk[bad])) / n  # for each bad row: share of good rows below it
    below = 1 - (rank[~bad] - midranks(risk[~bad])) / m
    value = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    half = float(ndtri(0.5 + level / 2)) * float(np.sqrt(variance))
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "rows": m + n, "bad": m}


def roc(outcome: np.ndarray, risk: np.ndarray, points: int = 100) -> list[list[float]]:
    """Return (share of good, share of bad) caught at falling cuts, from (0, 0) to (1, 1); empty with one outcome."""
    bad = outcome == 1
    if bad.all() or not bad.any():
        return []
    order = np.argsort(-risk, kind="stable")
    last = np.append(np.diff(risk[order]) != 0, True)  # a tie is one step
    tpr = np.cumsum(bad[order])[last] / bad.sum()
    fpr = np.cumsum(~bad[order])[last] / (~bad).sum()
    keep = np.unique(np.linspace(0, len(fpr) - 1, min(points, len(fpr))).round().astype(int))
    return [[0.0, 0.0], *([float(x), float(y)] for x, y in zip(fpr[keep], tpr[keep], strict=True))]


def jeffreys(bad: np.ndarray | float, rows: np.ndarray | float, level: float = 0.95) -> tuple[Any, Any]:
    """Return the Jeffreys interval of a default rate: quantiles of Beta(bad + 1/2, rows - bad + 1/2).

    The lower end is 0 where there is no default, the upper end 1 where all default (Brown, Cai, DasGupta, 2001).
    """
    from scipy.special import betaincinv

    bad, rows = np.asarray(bad, dtype=float), np.asarray(rows, dtype=float)
    low = np.where(bad == 0, 0.0, betaincinv(bad + 0.5, rows - bad + 0.5, (1 - level) / 2))
    high = np.where(bad == rows, 1.0, betaincinv(bad + 0.5, rows - bad + 0.5, (1 + level) / 2))
    return low, high


def jeffreys_p(bad: float, rows: float, predicted: float) -> float:
    """Return P(true rate <= `predicted`) given the defaults seen: small means that the PD is too low."""
    from scipy.special import betainc

    return float(betainc(bad + 0.5, rows - bad + 0.5, min(max(predicted, 0.0), 1.0)))


def light(p: float) -> str:
    """Return green, amber or red for a Jeffreys probability."""
    return next((colour for limit, colour in LIGHTS if p < limit), "green")


def calibration(frame: pd.DataFrame, group: str, order: list[str]) -> list[dict[str, Any]]:
    """Return mean PD against realised rate by group, in the given order, with Jeffreys interval and traffic light.

    frame: columns outcome (0/1), pd and `group`; groups without rows are left out.
    """
    parts = dict(list(frame.groupby(frame[group].astype(str))))
    result = []
    for name in [g for g in order if g in parts]:
        rows, bad = float(len(parts[name])), float(parts[name]["outcome"].sum())
        predicted = float(parts[name]["pd"].mean())
        low, high = jeffreys(bad, rows)
        p = jeffreys_p(bad, rows, predicted)
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


def lift(outcome: np.ndarray, risk: np.ndarray, parts: int = 10) -> list[dict[str, Any]]:
    """Return the defaults caught by taking the riskiest part first, with lift over the average; empty if no bad."""
    if not len(outcome) or not (outcome == 1).any():
        return []
    bad = (outcome[np.argsort(-risk, kind="stable")] == 1).astype(int)
    cut = np.linspace(0, len(bad), parts + 1).round().astype(int)
    total = bad.sum()
    result = []
    for i in range(parts):
        if cut[i + 1] == cut[i]:
            continue
        inside = bad[cut[i] : cut[i + 1]]
        caught = bad[: cut[i + 1]].sum()
        result.append(
            {
                "part": i + 1,
                "share": float(cut[i + 1] / len(bad)),
                "rows": len(inside),
                "bad": int(inside.sum()),
                "lift": float(inside.mean() / bad.mean()),
                "captured": float(caught / total),
            }
        )
    return result


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
