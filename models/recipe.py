"""The whole recipe as one pure function: select, tune, train, calibrate on some rows; PDs for any other rows.

The stages call its steps one by one and keep their files; `evaluate` calls `run` inside each fold where no test by time
exists, with the same settings, so that its figures are those of everything that was chosen by looking at data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models import cluster, encoders, estimator, tuning
from models.calibration import CalibrateSettings, Calibrator, Choice, calibrate, disagreement, level_variance
from models.encoders import Encoders
from models.inputs import Input, Panel
from models.opinions import halves
from models.selection import SelectSettings, select
from models.splits import Indices, fold_count, grouped_folds, repeated_indices
from models.tuning import FoldData, Tuned, TuneSettings, memory_study, repeat_count

T = TypeVar("T")
R = TypeVar("R")


class TrainSettings(BaseModel):
    """What of the tuned values is overridden, and how many seeds are averaged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: date | None = None  # read by observe: outcomes known before this day train; null: all that is mature
    learning_rate: float | None = Field(None, gt=0, le=1)  # null: the tuned value; else trees grow in proportion
    num_boost_round: int | None = Field(None, ge=1, le=20_000)  # trees a seed; null: the tuned number
    seeds: int | None = Field(None, ge=1, le=50)  # models averaged in one file; null: by the size of the data
    cluster: str | None = Field(None, pattern=r"^(tcp|tls|ws|wss)://.+")  # address of a Dask scheduler to train on


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
    opinion_a: np.ndarray  # margins of two models that share neither customers nor evidence with each other,
    opinion_b: np.ndarray  # nor the row's customer; NaN where a third of the customers cannot train
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


def in_turn(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `work` of each item, one after the other."""
    return [work(item) for item in items]


def seed_count(rows: int, bads: int) -> int:
    """Return how many seeds are averaged: small data need many, large data gain little and pay in time."""
    return 5 if rows < 10_000 or bads < 200 else 3 if rows < 60_000 else 1


@dataclass(frozen=True)
class _Plan:
    """How every booster of one training is fitted."""

    panel: Panel
    inputs: tuple[Input, ...]
    tuned: Tuned
    given: dict[str, object]
    rounds: int
    seeds: int
    few: int  # seeds of the models that are asked about folds
    client: Any = None  # of a cluster to fit on; None: here

    @classmethod
    def of(
        cls, panel: Panel, inputs: tuple[Input, ...], tuned: Tuned, settings: TrainSettings, client: Any = None
    ) -> Self:
        rate = settings.learning_rate or tuned.learning_rate
        rounds = settings.num_boost_round or max(1, round(tuned.rounds * tuned.learning_rate / rate))
        seeds = settings.seeds or seed_count(len(panel), panel.bads)
        given = {**tuned.parameters, "learning_rate": rate}
        return cls(panel, inputs, tuned, given, rounds, seeds, seeds if len(panel) < 10_000 else 1, client)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return `work` of each item: some side by side here, in turn on a cluster, which works side by side itself."""
        return estimator.side_by_side(work, items) if self.client is None else in_turn(work, items)

    def fits(
        self, matrix: np.ndarray, outcome: np.ndarray, inputs: tuple[Input, ...], count: int, each: Callable[..., Any]
    ) -> list[str]:
        """Return the texts of `count` seeds fitted on these rows; `each` says how they share the machine."""
        columns, seeds = [item.column for item in inputs], self.parameters(inputs, count)
        if self.client is not None:
            return in_turn(lambda one: cluster.fit(self.client, matrix, outcome, columns, one, self.rounds), seeds)
        shared = estimator.dataset(matrix, outcome, columns, seeds[0])
        return list(each(lambda one: estimator.fit(shared, one, self.rounds), seeds))

    def parameters(self, inputs: tuple[Input, ...], count: int) -> list[dict[str, object]]:
        """Return LightGBM's parameters of `count` seeds."""
        monotone = estimator.monotone_constraints(inputs, self.tuned.monotone)
        return [estimator.parameters(self.given, monotone, self.tuned.seed + 101 * number) for number in range(count)]

    def asked(self, fold: tuple[np.ndarray, np.ndarray], used: np.ndarray) -> np.ndarray:
        """Return the margins of a fold's asked rows by a model of its train rows on some inputs; NaN: one class."""
        if len(fold[1]) == 0 or not 0 < self.panel.outcome[fold[0]].mean() < 1:
            return np.full(len(fold[1]), np.nan)
        some = tuple(self.inputs[place] for place in used)
        columns = [each.column for each in some]
        part = self.panel.take(fold[0])
        coder, matrix = encoders.fit_matrix(part, some, self.tuned.smoothing, self.tuned.seed)
        text = estimator.average(self.fits(matrix, part.outcome, some, self.few, in_turn))
        features = self.panel.features.iloc[fold[1]]
        return estimator.margins(estimator.load(text, columns), coder.matrix(features, some))


def train(panel: Panel, inputs: tuple[Input, ...], indices: Indices, tuned: Tuned, settings: TrainSettings) -> Trained:
    """Train the final booster on all rows of `panel` and its out-of-fold twins on the folds.

    `indices`: (train rows, asked rows) of each fold; a row asked about several times gets its mean margin.
    """
    with cluster.connected(settings.cluster) if settings.cluster else nullcontext() as client:
        return _trained(_Plan.of(panel, inputs, tuned, settings, client), indices)


def _trained(plan: _Plan, indices: Indices) -> Trained:
    """Fit the boosters of a plan: those asked about folds, those of second opinions, and the final one."""
    panel, inputs, tuned = plan.panel, plan.inputs, plan.tuned
    everything = np.arange(len(inputs))
    coder, matrix = encoders.fit_matrix(panel, inputs, tuned.smoothing, tuned.seed)
    half_a, half_b = halves(matrix, inputs)
    third = grouped_folds(panel, 3, tuned.seed + 3)
    thirds = [np.flatnonzero(third == number) for number in range(3)]
    jobs = [(fold, everything) for fold in indices]
    jobs += [((thirds[(n + 1) % 3], thirds[n]), half_a) for n in range(3)]
    jobs += [((thirds[(n + 2) % 3], thirds[n]), half_b) for n in range(3)]
    done = plan.each(lambda job: plan.asked(*job), jobs)
    margin, opinions = _mean_margin(len(panel), indices, done[: len(indices)]), done[len(indices) :]
    opinion = np.full((2, len(panel)), np.nan)
    for place, answer in enumerate(opinions):
        opinion[place // 3, thirds[place % 3]] = answer
    text = estimator.average(plan.fits(matrix, panel.outcome, inputs, plan.seeds, plan.each))
    rate = float(str(plan.given["learning_rate"]))
    return Trained(inputs, text, coder, margin, opinion[0], opinion[1], rate, plan.rounds, plan.seeds)


def without_directions(
    panel: Panel, inputs: tuple[Input, ...], indices: Indices, tuned: Tuned, settings: TrainSettings
) -> np.ndarray:
    """Return out-of-fold margins as `train` does, by models that are not held to the features' directions."""
    plan = _Plan.of(panel, inputs, replace(tuned, monotone=False), settings)
    everything = np.arange(len(inputs))
    return _mean_margin(len(panel), indices, estimator.side_by_side(lambda fold: plan.asked(fold, everything), indices))


def _mean_margin(rows: int, indices: Indices, margins: list[np.ndarray]) -> np.ndarray:
    """Return the mean of a row's margins over the folds that asked about it; NaN where none did."""
    total, times = np.zeros(rows), np.zeros(rows)
    for (_, asked), margin in zip(indices, margins, strict=True):
        known = ~np.isnan(margin)
        total[asked[known]] += margin[known]
        times[asked[known]] += 1
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


@dataclass(frozen=True)
class Judged:
    """The train rows as calibration sees them: outcome, customer, dates, and three margins (NaN: none)."""

    outcome: np.ndarray
    customer: np.ndarray
    as_of: np.ndarray  # datetime64
    closes: np.ndarray  # datetime64, when the outcome is known
    margin: np.ndarray  # out of fold
    opinion_a: np.ndarray
    opinion_b: np.ndarray


def calibrated(rows: Judged, settings: CalibrateSettings) -> Choice:
    """Fit the calibration on the train rows that have an out-of-fold margin."""
    margin, outcome = rows.margin, rows.outcome
    known = ~np.isnan(margin)
    both = known & ~np.isnan(rows.opinion_a) & ~np.isnan(rows.opinion_b)
    enough = both.sum() >= 20 and 0 < outcome[both].mean() < 1
    hidden = disagreement(rows.opinion_a[both], rows.opinion_b[both], outcome[both]) if enough else 0.0
    level = level_variance(rows.as_of, rows.closes, outcome)
    return calibrate(margin[known], outcome[known], rows.customer[known], settings, hidden, level)


def run(
    panel: Panel,
    inputs: tuple[Input, ...],
    settings: Settings,
    watch: Callable[[int, int, float], None] | None = None,
) -> Fitted:
    """Return the model that the whole recipe makes of these rows alone; folds inside are grouped by customer."""
    count = settings.select.folds or fold_count(panel)
    plan = {"folds": "grouped", "fold_count": count, "seed": settings.select.seed}
    fold = grouped_folds(panel, count, settings.select.seed)
    indices = repeated_indices(panel, fold, plan, settings.tune.repeats or repeat_count(panel.bads))
    chosen = select(panel, inputs, indices, settings.select).inputs
    tuned = tuning.search(FoldData(panel, chosen, indices, settings.tune), memory_study(), settings.tune, watch)
    trained = train(panel, chosen, indices, tuned, settings.train)
    judged = Judged(
        panel.outcome, panel.customer, panel.as_of, panel.closes, trained.margin, trained.opinion_a, trained.opinion_b
    )
    choice = calibrated(judged, settings.calibrate)
    return Fitted(trained, choice)
