"""Scores of child records: a small model of single rows of a history, with the outcome of the observation as label.

A row is judged by itself, by its measures, ages and categories; an observation gets the greatest, the mean and the
newest of its rows' scores (default probabilities), null where it has no row. While training, rows are scored as target
codes are made (models/encoders.py): by models of *other* customers, and where rows are judged in time of such outcomes
alone as were known before the first date of the block of dates that the observation is in; dates before which fewer
than `LEAST` defaults or good outcomes were known have no score. The model that scores is one of all rows. Categories
count by how frequent their levels are, and are named in the files as those of models/encoders.py. Sources: the record
models of the Home Credit competition, where it was the largest single gain after statistics by table (NoxMoon 2018).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import IntegrityRefused, Problem
from models import estimator
from models.inputs import Panel, level_key, rows_of
from models.splits import customer_hash, grouped_folds_of

STATISTICS = ("max", "mean", "last")
FOLDS = 3  # by customer
BLOCKS = 4  # of dates
LEAST = 10  # defaults, and good outcomes, that a model of some block learns from
MOST_ROWS = 100_000  # that one model learns from; beyond, whole customers are left out by hash
MOST_LEVELS = 50  # of a category; rarer ones count as unseen
LEAST_ROWS = 20  # of a level that is not unseen
ROUNDS = 60
SEED = 20260101
SHAPE: dict[str, Any] = {
    "num_leaves": 15, "learning_rate": 0.1, "feature_fraction": 0.7, "bagging_fraction": 0.7, "lambda_l2": 5.0,
    "max_bin": 63,
}  # fmt: skip
FILE = "records.json"


@dataclass(frozen=True)
class Flat:
    """Child rows one after the other, and the place of the observation that each belongs to (ascending)."""

    rows: pa.StructArray
    owner: np.ndarray

    @classmethod
    def of(cls, column: pd.Series) -> Self:
        """Return the rows of a column of lists of structs, the newest of each list first; a null has none."""
        lists = pa.array(column)
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.combine_chunks()
        return cls(pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists), dtype=np.int64))

    def summed(self, score: np.ndarray, count: int) -> dict[str, np.ndarray]:
        """Return statistic -> value of each of `count` observations of these rows' scores; NaN where there are none."""
        result = {name: np.full(count, np.nan) for name in STATISTICS}
        if len(score):
            starts = np.flatnonzero(np.diff(self.owner, prepend=-1))
            at, length = self.owner[starts], np.diff(np.append(starts, len(score)))
            result["max"][at] = np.maximum.reduceat(score, starts)
            result["mean"][at] = np.add.reduceat(score, starts) / length
            result["last"][at] = score[starts]
        return result


@dataclass(frozen=True)
class RecordModel:
    """A model of single rows of one table."""

    columns: tuple[str, ...]
    levels: Mapping[str, Mapping[str, int]]  # category -> level_key -> rank by frequency, from 1
    booster: str  # LightGBM text; empty where no outcome could teach it: every score is null

    def matrix(self, rows: pa.StructArray) -> np.ndarray:
        """Return the rows as doubles (rows x columns): null as NaN, a level that is not known as 0."""
        matrix = np.empty((len(rows), len(self.columns)))
        for place, name in enumerate(self.columns):
            values = rows.field(name)
            if name in self.levels:
                coded = values.dictionary_encode()
                known = self.levels[name]
                ranks = [float(known.get(level_key(name, level), 0)) for level in coded.dictionary.to_pylist()]
                places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                matrix[:, place] = np.append(np.array(ranks, dtype=float), np.nan)[places]
            else:
                matrix[:, place] = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return matrix

    def scores(self, column: pd.Series) -> dict[str, np.ndarray]:
        """Return statistic -> value of each observation whose rows the column holds; NaN where it has none."""
        flat = Flat.of(column)
        if not self.booster:
            return flat.summed(np.empty(0), len(column))
        return flat.summed(_asked(self.booster, self.matrix(flat.rows)), len(column))


@dataclass(frozen=True)
class _Lesson:
    """A panel's child rows as one matrix, and what is needed to learn from some of its observations."""

    panel: Panel
    flat: Flat
    matrix: np.ndarray
    hashed: np.ndarray  # customer of each observation: says who is left out where there are too many rows

    @classmethod
    def of(cls, panel: Panel, table: str, model: RecordModel) -> Self:
        flat = Flat.of(panel.features[rows_of(table)])
        return cls(panel, flat, model.matrix(flat.rows), customer_hash(panel.customer, SEED))

    def learned(self, taught: np.ndarray) -> str:
        """Return the booster of the rows of some observations (a mask); empty where they hold one class."""
        length = np.bincount(self.flat.owner, minlength=len(self.panel))
        few = np.flatnonzero(taught & (length > 0))
        order = few[np.argsort(self.hashed[few], kind="stable")]
        kept = np.zeros(len(self.panel), bool)
        kept[order[np.cumsum(length[order]) <= MOST_ROWS]] = True
        outcome = self.panel.outcome
        if not len(few) or not 0 < outcome[kept].sum() < kept.sum():
            return ""
        chosen = kept[self.flat.owner]
        matrix, label = self.matrix[chosen], outcome[self.flat.owner[chosen]]
        shape = SHAPE | {"min_data_in_leaf": int(np.clip(len(matrix) // 100, 10, 500))}
        given = estimator.parameters(shape, (), SEED)
        data = estimator.dataset(matrix, label, _names(matrix.shape[1]), given)
        return estimator.fit(data, given, ROUNDS)


def fit(panel: Panel, table: str) -> RecordModel:
    """Learn a model of the table's rows from all observations of `panel`."""
    rows = Flat.of(panel.features[rows_of(table)]).rows
    texts = [field.name for field in rows.type if pa.types.is_string(field.type)]
    levels = {name: _levels(name, rows.field(name)) for name in texts}
    untaught = RecordModel(tuple(field.name for field in rows.type), levels, "")
    return replace(untaught, booster=_Lesson.of(panel, table, untaught).learned(np.ones(len(panel), bool)))


def out_of_fold(panel: Panel, table: str, model: RecordModel, seed: int) -> dict[str, np.ndarray]:
    """Return statistic -> value of each row of the panel by models that saw neither its customer nor a later outcome.

    model: of all rows of the panel; only what its columns are and how frequent its levels count is taken from it. The
    folds are by customer and depend on `seed` and the customers alone.
    """
    lesson = _Lesson.of(panel, table, model)
    # not stratified: else a row's own outcome would decide which rows its score is learned from
    fold = grouped_folds_of(panel.customer, np.zeros(len(panel)), FOLDS, seed + 7919)
    owner = lesson.flat.owner
    score = np.full(len(owner), np.nan)
    for number in range(FOLDS):
        for taught, asked in _blocks(panel, fold != number):
            mine = (asked & (fold == number))[owner]
            text = lesson.learned(taught) if mine.any() else ""
            if text:
                score[mine] = _asked(text, lesson.matrix[mine])
    return lesson.flat.summed(score, len(panel))


def _blocks(panel: Panel, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (who teaches, who is asked) as masks: without order in time once, else a block of dates after the other."""
    if panel.learned is None:
        yield others, np.ones(len(panel), bool)
        return
    dates = np.unique(panel.as_of)
    good, bad = (
        np.searchsorted(np.sort(panel.learned[others & (panel.outcome == kind)]), dates, side="right")
        for kind in (0, 1)
    )
    able = dates[(good >= LEAST) & (bad >= LEAST)]
    for some in np.array_split(able, min(BLOCKS, len(able))) if len(able) else []:
        yield others & (panel.learned <= some[0]), (panel.as_of >= some[0]) & (panel.as_of <= some[-1])


def _levels(name: str, values: pa.Array) -> dict[str, int]:
    """Return level_key -> rank of the frequent levels, the most frequent first, equals by their text."""
    counted = [(each["counts"], each["values"]) for each in pc.value_counts(values.drop_null()).to_pylist()]
    frequent = sorted((-count, level) for count, level in counted if count >= LEAST_ROWS)[:MOST_LEVELS]
    return {level_key(name, level): rank for rank, (_, level) in enumerate(frequent, start=1)}


def _names(count: int) -> list[str]:
    return [f"r{place:03d}" for place in range(count)]


def _asked(text: str, matrix: np.ndarray) -> np.ndarray:
    """Return the default probability that each row tells by itself."""
    if not len(matrix):
        return np.empty(0)
    booster = estimator.load(text, _names(matrix.shape[1]))
    return estimator.probability(estimator.margins(booster, matrix))


def files(models: Mapping[str, RecordModel]) -> dict[str, str]:
    """Return the models as the text files of a bundle: records.json and a LightGBM text each; nothing where none is."""
    if not models:
        return {}
    record = {
        table: {"columns": model.columns, "levels": model.levels, "trained": bool(model.booster)}
        for table, model in models.items()
    }
    texts = {_file(table): model.booster for table, model in models.items() if model.booster}
    return {FILE: json.dumps(record, indent=1, sort_keys=True) + "\n", **texts}


def _file(table: str) -> str:
    return f"records_{table}.txt"


def names_of(given: Iterable[str]) -> list[str]:
    """Return those of these file names that hold record models, in order."""
    return sorted(name for name in given if name == FILE or (name.startswith("records_") and name.endswith(".txt")))


def from_files(given: Mapping[str, bytes]) -> dict[str, RecordModel]:
    """Read table -> model of a bundle's files; empty where it has none; refuse (exit code 7) what cannot be one."""
    if FILE not in given:
        return {}
    try:
        made = {}
        for table, record in json.loads(given[FILE]).items():
            text = given[_file(table)].decode("utf-8") if record["trained"] else ""
            levels = {name: {key: int(rank) for key, rank in each.items()} for name, each in record["levels"].items()}
            made[table] = RecordModel(tuple(record["columns"]), levels, text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = type(error).__name__
        raise IntegrityRefused(Problem(FILE, "the record models of this bundle", found, "Restore it.")) from None
    for model in made.values():
        if model.booster:
            estimator.load(model.booster, _names(len(model.columns)))
    return made
