"""Categories as numbers: smoothed default rates of their levels, out of fold, with codes for missing and unseen.

A level's code is (defaults + smoothing * rate of all rows) / (rows + smoothing). While training, a row's code comes
from the rows of *other* customers (folds by customer), so a row never sees its own outcome. Rare and unseen levels
share one code. The JSON form names a level by a SHA-256 of feature and level: no customer's value stands in it in
clear.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from features.errors import IntegrityRefused, Problem
from models.inputs import Input, Panel, numeric_matrix
from models.splits import grouped_folds_of

INNER_FOLDS = 5
LEAST_ROWS = 5  # a level with fewer train rows counts as unseen


def level_key(feature: str, level: str) -> str:
    """Return the name under which a level stands in the JSON form."""
    return hashlib.sha256(f"{feature}\x00{level}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Codes:
    """One categorical feature's codes, all probabilities."""

    levels: dict[str, float]  # level_key -> code
    missing: float
    unseen: float

    def apply(self, feature: str, values: pd.Series) -> np.ndarray:
        """Return a code for each value; null takes the code of missing, an unknown level that of unseen."""
        place, found = pd.factorize(_text(values))
        codes = [self.levels.get(level_key(feature, str(level)), self.unseen) for level in found]
        return np.append(np.array(codes, dtype=float), self.missing)[place]  # place -1 is missing: the last


@dataclass(frozen=True)
class Encoders:
    """The codes of every categorical input; numeric inputs pass through."""

    codes: dict[str, Codes]  # by feature
    smoothing: float

    def matrix(self, features: pd.DataFrame, inputs: Iterable[Input]) -> np.ndarray:
        """Return the model's matrix (rows x inputs) of doubles, null numbers as NaN; infinite values are refused."""
        inputs = tuple(inputs)
        matrix = np.empty((len(features), len(inputs)))
        numeric = [place for place, each in enumerate(inputs) if each.kind == "numeric"]
        matrix[:, numeric] = numeric_matrix(features, [inputs[place].name for place in numeric])
        for place, each in enumerate(inputs):
            if each.kind == "categorical":
                matrix[:, place] = self.codes[each.name].apply(each.name, features[each.name])
        return matrix

    def to_json(self) -> str:
        """Return the JSON form: same encoders, same text."""
        record = {
            "smoothing": self.smoothing,
            "codes": {
                name: {"levels": codes.levels, "missing": codes.missing, "unseen": codes.unseen}
                for name, codes in self.codes.items()
            },
        }
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form; refuse (exit code 7) what is not one."""
        try:
            record: dict[str, Any] = json.loads(text)
            codes = {
                name: Codes(
                    {key: float(code) for key, code in each["levels"].items()},
                    float(each["missing"]),
                    float(each["unseen"]),
                )
                for name, each in record["codes"].items()
            }
            return cls(codes, float(record["smoothing"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityRefused(
                Problem(
                    "encoders.json", "the codes of categorical features", type(error).__name__, "Restore the bundle."
                )
            ) from None


def fit(panel: Panel, inputs: Iterable[Input], smoothing: float) -> Encoders:
    """Learn the codes of the categorical inputs from all rows of `panel`."""
    everyone = np.ones(len(panel), bool)
    codes = {}
    for each in inputs:
        if each.kind == "categorical":
            place, levels = pd.factorize(_text(panel.features[each.name]))
            table, missing, unseen = _table(place, len(levels), panel.outcome, everyone, smoothing)
            known = [(str(level), code) for level, code in zip(levels, table, strict=True) if not np.isnan(code)]
            keyed = {level_key(each.name, level): float(code) for level, code in known}
            codes[each.name] = Codes(keyed, missing, unseen)
    return Encoders(codes, smoothing)


def fit_matrix(panel: Panel, inputs: Iterable[Input], smoothing: float, seed: int) -> tuple[Encoders, np.ndarray]:
    """Return encoders learned from all rows, and the training matrix with out-of-fold codes.

    Refused like `Encoders.matrix`. The inner folds are by customer and depend on `seed` and the customers alone.
    """
    inputs = tuple(inputs)
    encoders = fit(panel, inputs, smoothing)
    matrix = encoders.matrix(panel.features, inputs)
    if not encoders.codes:
        return encoders, matrix
    # not stratified: else a row's own outcome would decide which rows its code is learned from
    fold = grouped_folds_of(panel.customer, np.zeros(len(panel)), INNER_FOLDS, seed + 7919)
    for column, each in enumerate(inputs):
        if each.kind != "categorical":
            continue
        place, levels = pd.factorize(_text(panel.features[each.name]))
        for number in range(INNER_FOLDS):
            table, missing, unseen = _table(place, len(levels), panel.outcome, fold != number, smoothing)
            codes = np.append(np.where(np.isnan(table), unseen, table), missing)
            asked = fold == number
            matrix[asked, column] = codes[place[asked]]
    return encoders, matrix


def _text(values: pd.Series) -> np.ndarray:
    """Return values as text objects, null as None."""
    text = values.astype(object)
    return text.where(text.isna(), text.map(str)).where(text.notna(), None).to_numpy()


def _table(
    place: np.ndarray, levels: int, outcome: np.ndarray, rows: np.ndarray, smoothing: float
) -> tuple[np.ndarray, float, float]:
    """Return (code of each level, NaN where rare; code of missing; code of unseen) from counts, which are exact."""
    count = np.bincount(place[rows] + 1, minlength=levels + 1)
    bads = np.bincount(place[rows] + 1, weights=outcome[rows], minlength=levels + 1)
    total = count.sum()
    rate = bads.sum() / total if total else 0.0
    codes = (bads + smoothing * rate) / (count + smoothing)
    rare = count < LEAST_ROWS
    rare[0] = False
    unseen = (bads[rare].sum() + smoothing * rate) / (count[rare].sum() + smoothing)
    codes[rare] = np.nan
    return codes[1:], float(codes[0]), float(unseen)
