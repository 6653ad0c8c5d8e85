"""The whole recipe as one pure function: select, tune, train, calibrate on some rows; PDs for any other rows.

The stages call its steps one by one and keep their files; `evaluate` calls `run` inside each fold where no test by time
exists, with the same settings, so that its figures are those of everything that was chosen by looking at data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models import encoders, estimator, tuning
from models.calibration import CalibrateSettings, Calibrator, Choice, calibrate, variance_curve
from models.encoders import Encoders
from models.inputs import Input, Panel
from models.selection import SelectSettings, select
from models.splits import Indices, fold_count, grouped_folds, repeated_indices
from models.tuning import FoldData, Tuned, TuneSettings, memory_study, repeat_count


class TrainSettings(BaseModel):
    """What of the tuned values is overridden, and how many seeds are averaged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: date | None = None  # read by observe: outcomes known before this day train; null: all that is mature
    learning_rate: float | None = Field(None, gt=0, le=1)  # null: the tuned value; else trees grow in proportion
    num_boost_round: int | None = Field(None, ge=1, le=20_000)  # trees a seed; null: the tuned number
    seeds: int | None = Field(None, ge=1, le=50)  # models averaged in one file; null: by the size of the data


@dataclass(frozen=True)
class Settings:
    """The settings of all four steps."""

    select: SelectSettings
    tune: TuneSettings
    train: TrainSettings
    calibrate: CalibrateSettings


@dataclass(frozen=True)
class Trained:
    """A booster over `inputs`, and the margins of the train rows by models that did not see the row's customer."""

    inputs: tuple[Input, ...]
    booster: str
    encoders: Encoders
    margin: np.ndarray  # a train row; NaN where no fold asked about it
    third_a: np.ndarray  # margins of two models on disjoint thirds of customers; NaN outside the last third
    third_b: np.ndarray
    learning_rate: float
    rounds: int
    seeds: int


@dataclass(frozen=True)
class Fitted:
    """A trained and calibrated model that answers for any features."""

    trained: Trained
    choice: Choice

    @property
    def calibrator(self) -> Calibrator:
        """The calibration curve."""
        return self.choice.calibrator

    def margins(self, features: pd.DataFrame) -> np.ndarray:
        """Return one log-odds a row before calibration."""
        columns = [each.column for each in self.trained.inputs]
        booster = estimator.load(self.trained.booster, columns)
        return estimator.margins(booster, self.trained.encoders.matrix(features, self.trained.inputs))


def seed_count(rows: int, bads: int) -> int:
    """Return how many seeds are averaged: small data need many, large data gain little and pay in time."""
    return 5 if rows < 10_000 or bads < 200 else 3 if rows < 60_000 else 1


def train(panel: Panel, inputs: tuple[Input, ...], indices: Indices, tuned: Tuned, settings: TrainSettings) -> Trained:
    """Train the final booster on all rows of `panel` and its out-of-fold twins on the folds.

    `indices`: (train rows, asked rows) of each fold; a row asked about several times gets its mean margin.
    """
    rate = settings.learning_rate or tuned.learning_rate
    rounds = settings.num_boost_round or max(1, round(tuned.rounds * tuned.learning_rate / rate))
    seeds = settings.seeds or seed_count(len(panel), panel.bads)
    columns = [each.column for each in inputs]
    monotone = estimator.monotone_constraints(inputs, tuned.monotone)
    given = {**tuned.parameters, "learning_rate": rate}

    def booster(rows: np.ndarray, several: int) -> tuple[str, Encoders]:
        part = panel.take(rows)
        coder, matrix = encoders.fit_matrix(part, inputs, tuned.smoothing, tuned.seed)
        first = estimator.parameters(given, monotone, tuned.seed)
        shared = estimator.dataset(matrix, part.outcome, columns, first)
        texts = [
            estimator.fit(shared, estimator.parameters(given, monotone, tuned.seed + 101 * n), rounds)
            for n in range(several)
        ]
        return estimator.average(texts), coder

    def asked(fold: tuple[np.ndarray, np.ndarray], several: int) -> np.ndarray:
        if len(fold[1]) == 0 or not 0 < panel.outcome[fold[0]].mean() < 1:
            return np.full(len(fold[1]), np.nan)
        text, coder = booster(fold[0], several)
        features = panel.features.iloc[fold[1]]
        return estimator.margins(estimator.load(text, columns), coder.matrix(features, inputs))

    few = seeds if len(panel) < 10_000 else 1
    third = grouped_folds(panel, 3, tuned.seed + 3)
    last = np.flatnonzero(third == 2)
    jobs = [(fold, few) for fold in indices] + [((np.flatnonzero(third == n), last), few) for n in (0, 1)]
    *folds, a, b = estimator.side_by_side(lambda job: asked(*job), jobs)
    total, times = np.zeros(len(panel)), np.zeros(len(panel))
    for (_, rows), margin in zip(indices, folds, strict=True):
        known = ~np.isnan(margin)
        total[rows[known]] += margin[known]
        times[rows[known]] += 1
    thirds = np.full((2, len(panel)), np.nan)
    thirds[:, last] = a, b
    text, coder = _final(panel, inputs, tuned, given, rounds, seeds)
    margin = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return Trained(inputs, text, coder, margin, thirds[0], thirds[1], rate, rounds, seeds)


def _final(
    panel: Panel, inputs: tuple[Input, ...], tuned: Tuned, given: dict[str, object], rounds: int, seeds: int
) -> tuple[str, Encoders]:
    """Return the booster's text on all rows, seeds side by side and averaged, and its encoders."""
    columns = [each.column for each in inputs]
    monotone = estimator.monotone_constraints(inputs, tuned.monotone)
    coder, matrix = encoders.fit_matrix(panel, inputs, tuned.smoothing, tuned.seed)
    some = [estimator.parameters(given, monotone, tuned.seed + 101 * number) for number in range(seeds)]
    shared = estimator.dataset(matrix, panel.outcome, columns, some[0])
    return estimator.average(estimator.side_by_side(lambda each: estimator.fit(shared, each, rounds), some)), coder


def calibrated(
    margin: np.ndarray,
    third_a: np.ndarray,
    third_b: np.ndarray,
    outcome: np.ndarray,
    customer: np.ndarray,
    settings: CalibrateSettings,
) -> Choice:
    """Fit the calibration on the train rows that have an out-of-fold margin (NaN: none)."""
    known = ~np.isnan(margin)
    both = ~np.isnan(third_a) & ~np.isnan(third_b)
    variance = variance_curve(third_a[both], third_b[both]) if both.sum() >= 20 else None
    return calibrate(margin[known], outcome[known], customer[known], settings, variance)


def run(
    panel: Panel,
    inputs: tuple[Input, ...],
    settings: Settings,
    watch: Callable[[int, int, float], None] | None = None,
) -> Fitted:
    """Return the model that the whole recipe makes of these rows alone; folds inside are grouped by customer."""
    chosen = select(panel, inputs, settings.select).inputs
    count = settings.select.folds or fold_count(panel)
    plan = {"folds": "grouped", "fold_count": count, "seed": settings.select.seed}
    fold = grouped_folds(panel, count, settings.select.seed)
    indices = repeated_indices(panel, fold, plan, settings.tune.repeats or repeat_count(panel.bads))
    tuned = tuning.search(FoldData(panel, chosen, indices, settings.tune), memory_study(), settings.tune, watch)
    trained = train(panel, chosen, indices, tuned, settings.train)
    choice = calibrated(
        trained.margin, trained.third_a, trained.third_b, panel.outcome, panel.customer, settings.calibrate
    )
    return Fitted(trained, choice)
