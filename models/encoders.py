"""Categories as numbers: smoothed default rates of their levels, out of fold, with codes for missing and unseen.

A level's code is (defaults + smoothing * rate of all rows) / (rows + smoothing). While training, a row's code comes
from the rows of *other* customers (folds by customer), so a row never sees its own outcome; where rows are judged in
time, also from such outcomes alone as were known before the month of the row's as_of (null before both a default and a
good one were). So every row is coded as a later one will be: by what is known then, which for the model that scores is
all that trained it. A division at random has no such order and codes by customer alone: ordering codes there left
nearly all of them null (AUC .742 -> .656 on SBA loans of sixty months, .717 -> .708 on SuperLender). Rare and unseen
levels share one code. The JSON form names a level by an MD5 of feature and level, which every SQL engine has too: no
customer's value stands in it in clear. The scores of child records (models/records.py) are learned beside the codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from features.errors import IntegrityRefused, Problem
from models import records
from models.inputs import SEPARATOR, Input, Panel, level_key, numeric_matrix, record_inputs, rows_of
from models.records import RecordModel
from models.splits import grouped_folds_of

INNER_FOLDS = 5
HASH = f"md5(feature, {SEPARATOR!r}, level)"
LEAST_ROWS = 5  # a level with fewer train rows counts as unseen


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
    """The codes of every categorical input and the models of record inputs; numeric inputs pass through."""

    codes: dict[str, Codes]  # by feature
    smoothing: float
    records: Mapping[str, RecordModel] = field(default_factory=dict)  # by table, in files of their own

    def matrix(self, features: pd.DataFrame, inputs: Iterable[Input]) -> np.ndarray:
        """Return the model's matrix (rows x inputs) of doubles, null numbers as NaN; infinite values are refused.

        A frame holds the rows of a record input, or, under the input's name, what this very model made of them.
        """
        inputs = tuple(inputs)
        matrix = np.empty((len(features), len(inputs)))
        numeric = [place for place, each in enumerate(inputs) if each.kind == "numeric"]
        matrix[:, numeric] = numeric_matrix(features, [inputs[place].name for place in numeric])
        for place, each in enumerate(inputs):
            if each.kind == "categorical":
                matrix[:, place] = self.codes[each.name].apply(each.name, features[each.name])
        for table, places in record_inputs(inputs).items():
            if rows_of(table) in features:
                scores = self.records[table].scores(features[rows_of(table)])
                for statistic, place in places.items():
                    matrix[:, place] = scores[statistic]
            else:
                matrix[:, [*places.values()]] = numeric_matrix(features, [inputs[at].name for at in places.values()])
        return matrix

    def to_json(self) -> str:
        """Return the JSON form: same encoders, same text."""
        record = {
            "level_names": HASH,
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
            if codes and record["level_names"] != HASH:  # read by another hash, every level would count as unseen
                raise ValueError(record["level_names"])
            return cls(codes, float(record["smoothing"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityRefused(
                Problem(
                    "encoders.json", "the codes of categorical features", type(error).__name__, "Restore the bundle."
                )
            ) from None


def fit(panel: Panel, inputs: Iterable[Input], smoothing: float) -> Encoders:
    """Learn the codes of the categorical inputs, and the models of record inputs, from all rows of `panel`."""
    inputs = tuple(inputs)
    return Encoders(
        _codes_of(panel, inputs, smoothing),
        smoothing,
        {table: records.fit(panel, table) for table in record_inputs(inputs)},
    )


def _codes_of(panel: Panel, inputs: tuple[Input, ...], smoothing: float) -> dict[str, Codes]:
    codes = {}
    for each in inputs:
        if each.kind == "categorical":
            place, levels = pd.factorize(_text(panel.features[each.name]))
            count = np.bincount(place + 1, minlength=len(levels) + 1)
            bads = np.bincount(place + 1, weights=panel.outcome, minlength=len(levels) + 1)
            table, missing, unseen = _codes(count, bads, smoothing)
            known = [(str(level), code) for level, code in zip(levels, table, strict=True) if not np.isnan(code)]
            keyed = {level_key(each.name, level): float(code) for level, code in known}
            codes[each.name] = Codes(keyed, missing, unseen)
    return codes


def fit_matrix(panel: Panel, inputs: Iterable[Input], smoothing: float, seed: int) -> tuple[Encoders, np.ndarray]:
    """Return encoders learned from all rows, and the training matrix with out-of-fold codes, in time where it is given.

    Record scores likewise. Refused like `Encoders.matrix`. The inner folds are by customer and depend on `seed` and the
    customers alone.
    """
    inputs = tuple(inputs)
    encoders = fit(panel, inputs, smoothing)
    matrix = encoders.matrix(scored(panel, inputs, encoders, seed), inputs)
    if not encoders.codes:
        return encoders, matrix
    # not stratified: else a row's own outcome would decide which rows its code is learned from
    fold = grouped_folds_of(panel.customer, np.zeros(len(panel)), INNER_FOLDS, seed + 7919)
    for column, each in enumerate(inputs):
        if each.kind == "categorical":
            place, levels = pd.factorize(_text(panel.features[each.name]))
            matrix[:, column] = _row_codes(panel, place, len(levels), fold, smoothing)
    return encoders, matrix


def scored(panel: Panel, inputs: Iterable[Input], encoders: Encoders, seed: int) -> pd.DataFrame:
    """Return the panel's features with out-of-fold scores, under the names of record inputs, in place of their rows."""
    inputs, features = tuple(inputs), panel.features
    for table, places in record_inputs(inputs).items():
        values = records.out_of_fold(panel, table, encoders.records[table], seed)
        columns = {inputs[place].name: values[statistic] for statistic, place in places.items()}
        features = features.drop(columns=rows_of(table)).assign(**columns)
    return features


def _row_codes(panel: Panel, place: np.ndarray, levels: int, fold: np.ndarray, smoothing: float) -> np.ndarray:
    """Return each row's code from outcomes of the other inner folds, in time those known before its month."""
    if panel.learned is None:
        start, learned = np.zeros(len(panel), "datetime64[M]"), np.zeros(len(panel), "datetime64[M]")
    else:
        start, learned = panel.as_of.astype("datetime64[M]"), panel.learned.astype("datetime64[M]")
        learned = learned + (learned.astype("datetime64[D]") < panel.learned)  # within a month: from the next one on
    cell = fold * (levels + 1) + place + 1
    shape = (INNER_FOLDS, levels + 1)
    count, bads = np.zeros(shape), np.zeros(shape)
    codes = np.full(len(panel), np.nan)
    order = np.argsort(learned, kind="stable")
    months = np.unique(start)
    ends = np.searchsorted(learned[order], months, side="right")
    for month, first, past_last in zip(months, np.append(0, ends[:-1]), ends, strict=True):
        new = order[first:past_last]
        count += np.bincount(cell[new], minlength=count.size).reshape(shape)
        bads += np.bincount(cell[new], weights=panel.outcome[new], minlength=count.size).reshape(shape)
        asked = np.flatnonzero(start == month)
        for number in np.unique(fold[asked]):
            others, theirs = count.sum(axis=0) - count[number], bads.sum(axis=0) - bads[number]
            if panel.learned is not None and not 0 < theirs.sum() < others.sum():
                continue
            table, missing, unseen = _codes(others, theirs, smoothing)
            mine = asked[fold[asked] == number]
            codes[mine] = np.append(np.where(np.isnan(table), unseen, table), missing)[place[mine]]
    return codes


def _text(values: pd.Series) -> np.ndarray:
    """Return values as text objects, null as None."""
    text = values.astype(object)
    return text.where(text.isna(), text.map(str)).where(text.notna(), None).to_numpy()


def _codes(count: np.ndarray, bads: np.ndarray, smoothing: float) -> tuple[np.ndarray, float, float]:
    """Return (code of each level, NaN where rare; code of missing; code of unseen) from counts, which are exact.

    `count` and `bads` hold rows and defaults of missing, then of each level.
    """
    total = count.sum()
    rate = bads.sum() / total if total else 0.0
    codes = (bads + smoothing * rate) / (count + smoothing)
    rare = count < LEAST_ROWS
    rare[0] = False
    unseen = (bads[rare].sum() + smoothing * rate) / (count[rare].sum() + smoothing)
    codes[rare] = np.nan
    return codes[1:], float(codes[0]), float(unseen)
