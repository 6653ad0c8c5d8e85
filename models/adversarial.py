"""Columns whose distribution drifts between the train months: population stability by month, and a model that guesses.

PSI holds each month's values against those of all train months. Adversarial validation asks a small model to tell the
later half of the months from the earlier one, by customers that it never saw; what a column takes off its held-out log
loss is the column's part in that. A column is a candidate for dropping only if both say so: drift alone is no fault (a
book grows older), so `selection` drops it only where the risk can be ranked as well without it.
Sources: Siddiqi 2006 (PSI, .25 as a major shift); Pan et al. 2020, arXiv:2004.03045 (adversarial validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from models import estimator, metrics
from models.drift import Bins
from models.inputs import Input, Panel
from models.refits import held_out_gain
from models.splits import SplitSettings, grouped_folds_of

MOST_MONTHS = 12  # compared: beyond, months are taken together
MOST_ROWS = 12_000  # from which PSI is counted and the model learns
ROUNDS = 30
SHAPE = {"num_leaves": 7, "min_data_in_leaf": 50, "feature_fraction": 0.5, "learning_rate": 0.2, "max_bin": 63}


class DriftSettings(SplitSettings):
    """From when on a column counts as drifting."""

    max_psi: float = Field(0.25, gt=0)  # of a train month against all train months
    min_adversarial_auc: float = Field(0.6, ge=0.5, le=1)  # below, the months cannot be told apart
    max_adversarial_share: float = Field(0.02, gt=0, le=1)  # of what the guessing model takes off its log loss


@dataclass(frozen=True)
class Drift:
    """How far the columns drift: `table` has one row a feature (psi, psi_month, adversarial_share), NaN: not known."""

    months: int
    auc: float  # of the guess which half of the months a row is from; NaN with one month
    table: pd.DataFrame
    candidates: tuple[str, ...]  # both figures above their limits


def drift(panel: Panel, inputs: Sequence[Input], matrix: np.ndarray, settings: DriftSettings) -> Drift:
    """Return the drift of each input over the months of these rows.

    matrix: the rows by the inputs as numbers (categories as codes), for the model that guesses. With one month only
    nothing can drift: no candidates, figures NaN.
    """
    names = [each.name for each in inputs]
    table = pd.DataFrame({"psi": np.nan, "psi_month": None, "adversarial_share": np.nan}, index=names)
    dates = panel.as_of.astype("datetime64[M]")
    months, place = np.unique(dates, return_inverse=True)
    if len(months) < 2:
        return Drift(1, float("nan"), table, ())
    rows = np.arange(0, len(panel), max(1, -(-len(panel) // MOST_ROWS)))
    block = (place * min(MOST_MONTHS, len(months)) // len(months))[rows]
    groups = [(months[place[rows][block == number].min()], block == number) for number in np.unique(block)]
    found_psi: dict[str, tuple[float, str]] = {}
    for column, (name, each) in enumerate(zip(names, inputs, strict=True)):
        scored = each.kind == "record"
        values = pd.Series(matrix[rows, column]) if scored else panel.features[name].iloc[rows]
        bins = Bins.fit(values)
        figures = [(bins.psi(values[mask]) - bins.noise(int(mask.sum())), str(month)) for month, mask in groups]
        most, month = max(figures, key=lambda figure: figure[0])
        found_psi[name] = (round(max(0.0, most), 6), month)
    table["psi"] = [found_psi[name][0] for name in names]
    table["psi_month"] = [found_psi[name][1] for name in names]
    area, share = _guess(panel, matrix, place, rows, settings.seed)
    table["adversarial_share"] = np.round(share, 6)
    both = (table["psi"] > settings.max_psi) & (table["adversarial_share"] > settings.max_adversarial_share)
    found = tuple(table.index[both]) if area > settings.min_adversarial_auc else ()
    return Drift(len(months), area, table, found)


def _guess(
    panel: Panel, matrix: np.ndarray, place: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[float, np.ndarray]:
    """Return (AUC on customers not seen, each column's share of what the guess takes off the log loss)."""
    half = np.searchsorted(np.cumsum(np.bincount(place)), len(panel) / 2)
    late = (place > min(half, place.max() - 1)).astype(np.int8)[rows]
    fold = grouped_folds_of(panel.customer[rows], np.zeros(len(rows)), 2, seed)
    columns = [f"c{number}" for number in range(matrix.shape[1])]
    areas, total = [], np.zeros(matrix.shape[1])
    for number in (0, 1):
        train, asked = rows[fold != number], rows[fold == number]
        told, answer = late[fold != number], late[fold == number]
        if not 0 < told.mean() < 1 or not 0 < answer.mean() < 1:
            continue
        given = estimator.parameters(SHAPE, (), seed)
        text = estimator.fit(estimator.dataset(matrix[train], told, columns, given), given, ROUNDS)
        booster = estimator.load(text, columns)
        areas.append(metrics.auc(answer, estimator.margins(booster, matrix[asked])))
        total += np.maximum(0, held_out_gain(booster, matrix[asked], answer, ROUNDS))
    return float(np.mean(areas)) if areas else 0.5, total / total.sum() if total.sum() > 0 else total
