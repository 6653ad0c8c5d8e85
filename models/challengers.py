"""Two models that a lender would have anyway, on the same rows and inputs: a scorecard and a plain logistic regression.

They show what the trees are worth. The scorecard bins the inputs that rank best one by one into monotone weights of
evidence (optbinning) and weighs them by a logistic regression; the other standardises the inputs, with an indicator
where values are missing. Both are penalised, the penalty chosen by log loss on the folds; both are text, scored here.
Sources: Siddiqi 2006 (weights of evidence); Navas-Palencia 2020 (optimal binning).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.stats import rankdata

from models import encoders
from models.estimator import side_by_side
from models.inputs import Input, Panel
from models.metrics import row_log_loss
from models.splits import Indices

Kind = Literal["scorecard", "logistic"]
KINDS: tuple[Kind, ...] = ("scorecard", "logistic")
MOST = {"scorecard": 30, "logistic": 100}  # inputs, those that rank best one by one
PENALTIES = {"scorecard": (0.01, 0.1, 1.0), "logistic": (0.001, 0.01, 0.1)}  # C of scikit-learn: small is strong
FOLDS = 3  # at most, on which the penalty is chosen
CLIP = 4.0  # standard deviations


@dataclass(frozen=True)
class Challenger:
    """A fitted challenger: for each column used, its place in the matrix and how its values become regressors."""

    kind: Kind
    columns: tuple[int, ...]
    parts: tuple[dict[str, Any], ...]  # scorecard: splits, woe, missing; logistic: centre, scale, indicator
    weights: tuple[float, ...]  # of the regressors in order, the intercept last
    penalty: float

    def margins(self, matrix: np.ndarray) -> np.ndarray:
        """Return one log-odds a row of the model's matrix (rows x inputs)."""
        regressors = np.column_stack(
            [
                _regressors(self.kind, part, matrix[:, place])
                for place, part in zip(self.columns, self.parts, strict=True)
            ]
        )
        return np.asarray((regressors * np.array(self.weights[:-1])).sum(axis=1) + self.weights[-1])

    def to_json(self, inputs: Sequence[Input]) -> str:
        """Return the JSON form, columns by their feature's name."""
        record = {**self.__dict__, "features": [inputs[place].name for place in self.columns]}
        return json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form."""
        record = json.loads(text)
        columns, parts, weights = (tuple(record[name]) for name in ("columns", "parts", "weights"))
        return cls(record["kind"], columns, parts, weights, record["penalty"])


def ranking(matrix: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Return the absolute Gini of each column by itself, times the share of rows where it is known."""
    result = np.zeros(matrix.shape[1])
    for place, values in enumerate(matrix.T):
        known = ~np.isnan(values)
        bads = int(outcome[known].sum())
        goods = int(known.sum()) - bads
        if bads and goods:
            ranks = rankdata(values[known])[outcome[known] == 1].sum()
            area = (ranks - bads * (bads + 1) / 2) / (bads * goods)
            result[place] = abs(2 * area - 1) * known.mean()
    return result


def fit_all(
    panel: Panel, inputs: tuple[Input, ...], indices: Indices, smoothing: float, seed: int
) -> tuple[encoders.Encoders, dict[Kind, Challenger]]:
    """Train both on all rows of the panel, their penalties chosen on the first folds; return the encoders with them."""
    usable = [fold for fold in indices if len(fold[1]) and 0 < panel.outcome[fold[0]].mean() < 1][:FOLDS]

    def losses(fold: tuple[np.ndarray, np.ndarray]) -> dict[Kind, list[float]]:
        train, asked = panel.take(fold[0]), panel.take(fold[1])
        coder, matrix = encoders.fit_matrix(train, inputs, smoothing, seed)
        test = coder.matrix(asked.features, inputs)
        order = np.argsort(-ranking(matrix, train.outcome), kind="stable")
        return {
            kind: [
                float(row_log_loss(asked.outcome, 1 / (1 + np.exp(-each.margins(test)))).mean())
                for each in fit(kind, matrix, train.outcome, order[: MOST[kind]], PENALTIES[kind])
            ]
            for kind in KINDS
        }

    found = side_by_side(losses, usable)
    coder, matrix = encoders.fit_matrix(panel, inputs, smoothing, seed)
    order = np.argsort(-ranking(matrix, panel.outcome), kind="stable")
    best = {}
    for kind in KINDS:
        mean = np.mean([loss[kind] for loss in found], axis=0) if found else np.zeros(1)
        best[kind] = (PENALTIES[kind][int(mean.argmin())],)
    done = side_by_side(lambda kind: fit(kind, matrix, panel.outcome, order[: MOST[kind]], best[kind])[0], KINDS)
    return coder, dict(zip(KINDS, done, strict=True))


def fit(
    kind: Kind, matrix: np.ndarray, outcome: np.ndarray, columns: np.ndarray, penalties: Sequence[float]
) -> list[Challenger]:
    """Return a challenger a penalty, on the given columns of the matrix; those that say nothing are left out."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    make = _binned if kind == "scorecard" else _standardised
    made = [(int(place), make(matrix[:, place], outcome)) for place in columns]
    kept = [(place, part) for place, part in made if part is not None]
    places, parts = tuple(place for place, _ in kept), tuple(part for _, part in kept)
    if not kept:
        rate = (outcome.sum() + 0.5) / (len(outcome) + 1)
        none = Challenger(kind, (0,), ({"centre": 0.0, "scale": 1.0, "indicator": False},), (0.0, _odds(rate)), 0.0)
        return [none for _ in penalties]
    regressors = np.column_stack([_regressors(kind, part, matrix[:, place]) for place, part in kept])
    result = []
    with threadpool_limits(limits=1):  # sums in one order: the same bytes on any machine with these libraries
        for penalty in penalties:
            line = LogisticRegression(C=penalty, max_iter=300, tol=1e-5).fit(regressors, outcome)
            weights = (*map(float, line.coef_[0]), float(line.intercept_[0]))
            result.append(Challenger(kind, places, parts, weights, float(penalty)))
    return result


def _odds(rate: float) -> float:
    """Return the log-odds of a rate."""
    return float(np.log(rate / (1 - rate)))


def _binned(values: np.ndarray, outcome: np.ndarray) -> dict[str, Any] | None:
    """Return splits and weights of evidence of a column by optimal monotone binning; None where it finds one bin."""
    from optbinning import OptimalBinning

    known = ~np.isnan(values)
    if len(np.unique(outcome[known])) < 2:
        return None
    binning = OptimalBinning(solver="mip", max_n_bins=6, min_bin_size=0.03, monotonic_trend="auto_asc_desc")
    splits = np.asarray(binning.fit(values[known], outcome[known]).splits, dtype=float)
    if not len(splits):
        return None
    places = np.where(known, np.searchsorted(splits, values, side="right"), len(splits) + 1)
    bads = np.bincount(places, weights=outcome, minlength=len(splits) + 2) + 0.5
    goods = np.bincount(places, weights=1 - outcome, minlength=len(splits) + 2) + 0.5
    woe = np.log(bads / outcome.sum() / (goods / (1 - outcome).sum()))
    missing = float(woe[-1]) if (~known).sum() >= 20 else 0.0
    return {"splits": splits.tolist(), "woe": woe[:-1].tolist(), "missing": missing}


def _standardised(values: np.ndarray, _outcome: np.ndarray) -> dict[str, Any] | None:
    """Return centre and scale of a column, and whether missing values have an indicator; None for a constant one."""
    known = values[~np.isnan(values)]
    scale = float(known.std()) if len(known) else 0.0
    lacking = len(values) - len(known)
    if scale < 1e-12:
        return None
    return {"centre": float(known.mean()), "scale": scale, "indicator": 20 <= lacking <= len(values) - 20}


def _regressors(kind: Kind, part: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Return the regressors of a column (rows x 1 or 2)."""
    missing = np.isnan(values)
    if kind == "scorecard" and "splits" in part:
        woe = np.array(part["woe"])[
            np.searchsorted(np.array(part["splits"]), values, side="right").clip(0, len(part["woe"]) - 1)
        ]
        return np.asarray(np.where(missing, part["missing"], woe))[:, None]
    line = np.where(missing, 0.0, np.clip((values - part["centre"]) / part["scale"], -CLIP, CLIP))
    return np.column_stack((line, missing.astype(float))) if part["indicator"] else np.asarray(line)[:, None]
