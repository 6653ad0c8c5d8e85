"""Figures of a model in parts: month by month, segment by segment, and beside its challengers on the same rows.

A part says nothing with certainty where it is small, so each has its counts and intervals, and none is left out.
Formulas: models/metrics.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models import metrics
from models.inputs import Panel

MOST_LEVELS = 12  # of a feature, to be shown as segments
COMPARED = ("auc", "auc_low", "auc_high", "brier", "log_loss", "ece", "calibration_slope", "calibration_intercept")


def part_figures(outcome: np.ndarray, pd_: np.ndarray, customer: np.ndarray) -> dict[str, Any]:
    """Return rows, bads, PD against default rate (Jeffreys interval and test), AUC with interval, Brier; null: none."""
    low, high = metrics.jeffreys_interval(int(outcome.sum()), len(outcome), metrics.LEVEL)
    area, auc_low, auc_high = metrics.auc_interval(outcome, pd_, customer)
    return {
        "rows": len(outcome),
        "bads": int(outcome.sum()),
        "predicted": float(pd_.mean()),
        "observed": float(outcome.mean()),
        "observed_low": float(low),
        "observed_high": float(high),
        "jeffreys_p": metrics.jeffreys_test(int(outcome.sum()), len(outcome), float(pd_.mean())),
        "auc": area if np.isfinite(area) else None,
        "auc_low": auc_low,
        "auc_high": auc_high,
        "brier": metrics.brier(outcome, pd_),
    }


def by_month(
    as_of: np.ndarray, outcome: np.ndarray, pd_: np.ndarray, customer: np.ndarray, reference: np.ndarray
) -> list[dict[str, Any]]:
    """Return a record an as_of, ascending, with the PSI of its PDs against `reference` (those of the train rows)."""
    records = []
    for date in np.unique(as_of):
        rows = as_of == date
        stable = metrics.psi(reference, pd_[rows])
        part = part_figures(outcome[rows], pd_[rows], customer[rows])
        records.append({"as_of": str(date)[:10], **part, "psi": stable if np.isfinite(stable) else None})
    return records


def by_segment(panel: Panel, names: tuple[str, ...], pd_: np.ndarray) -> list[dict[str, Any]]:
    """Return a record a level of each categorical feature of `names` with few levels; level null: missing."""
    records = []
    for name in names:
        place, levels = pd.factorize(panel.features[name], sort=True)
        if not 2 <= len(levels) <= MOST_LEVELS:
            continue
        for number in sorted({int(each) for each in place}):
            rows = place == number
            level = str(levels[number]) if number >= 0 else None
            part = part_figures(panel.outcome[rows], pd_[rows], panel.customer[rows])
            records.append({"feature": name, "level": level, **part})
    return records


def comparison(
    outcome: np.ndarray, pd_: np.ndarray, others: Mapping[str, np.ndarray], customer: np.ndarray
) -> dict[str, float]:
    """Return flat figures of each other model, and the model's AUC minus its on the same rows by a paired test.

    Keys: `challenger.<name>.<figure>`, among them auc_gain, auc_gain_low, auc_gain_high, auc_gain_p.
    """
    result: dict[str, float] = {}
    for name, other in others.items():
        figures = metrics.figures(outcome, other, customer)
        gain = metrics.auc_difference(outcome, pd_, other, customer)
        named = {key: figures[key] for key in COMPARED}
        named |= {"auc_gain": gain["difference"], "auc_gain_low": gain["low"]}
        named |= {"auc_gain_high": gain["high"], "auc_gain_p": gain["p"]}
        result |= {f"challenger.{name}.{key}": value for key, value in named.items()}
    return result
