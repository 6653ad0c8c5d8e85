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

from models import cluster, criterion, encoders, estimator, tuning
from models.calibration import CalibrateSettings, Calibrator, Choice, calibrate, disagreement, level_variance
from models.encoders import Encoders
from models.inputs import Input, Panel
from models.opinions import halves
from models.selection import SelectSettings, select
from models.space import tiny
from models.splits import Indices, fold_count, grouped_folds, repeated_indices
from models.tuning import FoldData, Tuned, TuneSettings, memory_study, repeat_count

T = TypeVar("T")
R = TypeVar("R")
MOST_CELLS = 12_000_000  # rows x features up to which three models may be averaged
MOST_STRETCH = 1.5  # by which steps may be smaller than in the search
MOST_APART = 3.0  # of the step sizes of members


class TrainSettings(BaseModel):
    """What of the tuned values is overridden, and how many seeds are averaged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: date | None = None  # read by observe: outcomes known before this day train; null: all that is mature
    learning_rate: float | None = Field(None, gt=0, le=1)  # null: the tuned value; else trees grow in proportion
    num_boost_round: int | None = Field(None, ge=1, le=20_000)  # trees a seed; null: the tuned number
    seeds: int | None = Field(None, ge=1, le=50)  # models averaged in one file; null: several if that helps
    gain_errors: float = Field(0.0, ge=0)  # standard errors by which averaging must lower the log loss, else one stays
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
    single: np.ndarray  # the same by the first of the models averaged alone
    opinion_a: np.ndarray  # margins of two models that share neither customers nor evidence with each other,
    opinion_b: np.ndarray  # nor the row's customer; NaN where a third of the customers cannot train
    learning_rate: float
    rounds: int
    seeds: int
    averaging: dict[str, float]  # what averaging takes off the out-of-fold log loss, whether it was kept or not


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


def seed_count(rows: int, bads: int, features: int) -> int:
    """Return how many models may be averaged: small data need many, large data gain little and pay in time."""
    return 5 if rows < 10_000 or bads < 200 else 3 if rows * features < MOST_CELLS else 1


@dataclass(frozen=True)
class _Plan:
    """How every booster of one training is fitted: `members` are the LightGBM parameters of the models averaged."""

    panel: Panel
    inputs: tuple[Input, ...]
    tuned: Tuned
    members: tuple[dict[str, object], ...]  # the winner first
    rounds: int  # of each member
    client: Any = None  # of a cluster to fit on; None: here

    @classmethod
    def of(
        cls, panel: Panel, inputs: tuple[Input, ...], tuned: Tuned, settings: TrainSettings, client: Any = None
    ) -> Self:
        """Return the plan: the winner and its companions in turn, each with a seed of its own.

        All members have as many trees: one that the search gave fewer rounds than another learns in smaller steps.
        """
        count = settings.seeds or seed_count(len(panel), panel.bads, len(inputs))
        among = [{"parameters": tuned.parameters, "rounds": tuned.rounds}, *tuned.companions]
        used = [among[number % len(among)] for number in range(count)]
        rate, rounds = settings.learning_rate or tuned.learning_rate, settings.num_boost_round
        longest = max(each["rounds"] for each in used) / tuned.rounds
        stretch = 1.0 if settings.learning_rate or rounds else min(longest, MOST_STRETCH)
        rate /= stretch
        members = tuple(
            {
                **each["parameters"],
                "learning_rate": rate * min(MOST_APART, max(1 / MOST_APART, each["rounds"] / tuned.rounds)),
            }
            for each in used
        )
        grown = rounds or max(1, round(tuned.rounds * tuned.learning_rate / rate))
        return cls(panel, inputs, tuned, members, grown, client)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return `work` of each item: some side by side here, in turn on a cluster, which works side by side itself."""
        return estimator.side_by_side(work, items) if self.client is None else in_turn(work, items)

    def fits(
        self, matrix: np.ndarray, outcome: np.ndarray, inputs: tuple[Input, ...], count: int, each: Callable[..., Any]
    ) -> list[str]:
        """Return the texts of the first `count` members fitted on these rows; `each`: how they share the machine."""
        columns, members = [item.column for item in inputs], self.parameters(inputs, count)
        if self.client is not None:
            return in_turn(lambda one: cluster.fit(self.client, matrix, outcome, columns, one, self.rounds), members)
        binned = {one.get("max_bin"): one for one in members}
        shared = {key: estimator.dataset(matrix, outcome, columns, one) for key, one in binned.items()}
        return list(each(lambda one: estimator.fit(shared[one.get("max_bin")], one, self.rounds), members))

    def parameters(self, inputs: tuple[Input, ...], count: int) -> list[dict[str, object]]:
        """Return LightGBM's parameters of the first `count` members."""
        monotone = estimator.monotone_constraints(inputs, self.tuned.monotone)
        return [
            estimator.parameters(member, monotone, self.tuned.seed + 101 * number)
            for number, member in enumerate(self.members[:count])
        ]

    def asked(self, fold: tuple[np.ndarray, np.ndarray], used: np.ndarray, count: int) -> np.ndarray:
        """Return (members, asked rows): margins of a fold's asked rows by models of its train rows; NaN: one class."""
        if len(fold[1]) == 0 or not 0 < self.panel.outcome[fold[0]].mean() < 1:
            return np.full((count, len(fold[1])), np.nan)
        some = tuple(self.inputs[place] for place in used)
        columns = [each.column for each in some]
        part = self.panel.take(fold[0])
        coder, matrix = encoders.fit_matrix(part, some, self.tuned.smoothing, self.tuned.seed)
        asked = coder.matrix(self.panel.features.iloc[fold[1]], some)
        texts = self.fits(matrix, part.outcome, some, count, in_turn)
        return np.array([estimator.margins(estimator.load(text, columns), asked) for text in texts])


def train(panel: Panel, inputs: tuple[Input, ...], indices: Indices, tuned: Tuned, settings: TrainSettings) -> Trained:
    """Train the final booster on all rows of `panel` and its out-of-fold twins on the folds.

    `indices`: (train rows, asked rows) of each fold; a row asked about several times gets its mean margin. Several
    models are averaged where that lowers the out-of-fold log loss by more than `settings.gain_errors` standard errors,
    and always where so few rows or defaults cannot tell; `settings.seeds` says it without asking.
    """
    with cluster.connected(settings.cluster) if settings.cluster else nullcontext() as client:
        return _trained(_Plan.of(panel, inputs, tuned, settings, client), indices, settings)


def _trained(plan: _Plan, indices: Indices, settings: TrainSettings) -> Trained:
    """Fit the boosters of a plan: those asked about folds, those of second opinions, and the final one."""
    panel, inputs, tuned = plan.panel, plan.inputs, plan.tuned
    everything = np.arange(len(inputs))
    done = plan.each(lambda fold: plan.asked(fold, everything, len(plan.members)), indices)
    single, margin = (_mean_margin(len(panel), indices, [each[:count].mean(axis=0) for each in done])
                      for count in (1, len(plan.members)))  # fmt: skip
    found = averaging(margin, single, panel)
    sure = not tiny(len(panel), panel.bads)  # tens of defaults cannot say: there a spread of seeds is always averaged
    if settings.seeds is None and sure and found["gain"] <= settings.gain_errors * found["standard_error"]:
        plan, margin = replace(plan, members=plan.members[:1]), single
    coder, matrix = encoders.fit_matrix(panel, inputs, tuned.smoothing, tuned.seed)
    half_a, half_b = halves(matrix, inputs)
    third = grouped_folds(panel, 3, tuned.seed + 3)
    thirds = [np.flatnonzero(third == number) for number in range(3)]
    jobs = [((thirds[(n + 1) % 3], thirds[n]), half_a) for n in range(3)]
    jobs += [((thirds[(n + 2) % 3], thirds[n]), half_b) for n in range(3)]
    few = len(plan.members) if len(panel) < 10_000 else 1
    opinion = np.full((2, len(panel)), np.nan)
    for place, answer in enumerate(plan.each(lambda job: plan.asked(*job, few), jobs)):
        opinion[place // 3, thirds[place % 3]] = answer.mean(axis=0)
    text = estimator.average(plan.fits(matrix, panel.outcome, inputs, len(plan.members), plan.each))
    rate = float(str(plan.members[0]["learning_rate"]))
    return Trained(
        inputs, text, coder, margin, single, opinion[0], opinion[1], rate, plan.rounds, len(plan.members), found
    )


def averaging(many: np.ndarray, one: np.ndarray, panel: Panel) -> dict[str, float]:
    """Return how much lower the log loss of margins `many` is than of `one`, after lines: gain, standard_error (nats).

    The error is that of the mean difference with whole customers drawn; rows without a margin do not count.
    """
    known = ~np.isnan(many) & ~np.isnan(one)
    if not known.any():
        return {"gain": 0.0, "standard_error": 0.0}
    outcome = panel.outcome[known].astype(float)
    losses = [criterion.row_losses(each[known], outcome, criterion.line(each[known], outcome)) for each in (one, many)]
    gain = losses[0] - losses[1]
    customer = np.unique(panel.customer[known].astype(str), return_inverse=True)[1]
    sums = np.bincount(customer, weights=gain - gain.mean())
    return {"gain": float(gain.mean()), "standard_error": float(np.sqrt((sums**2).sum()) / len(gain))}


def without_directions(
    panel: Panel, inputs: tuple[Input, ...], indices: Indices, tuned: Tuned, settings: TrainSettings
) -> np.ndarray:
    """Return out-of-fold margins as the first of `train`'s models, by one not held to the features' directions.

    `settings` state the trees and step size of the model compared with.
    """
    plan = _Plan.of(panel, inputs, replace(tuned, monotone=False), settings.model_copy(update={"seeds": 1}))
    everything = np.arange(len(inputs))
    done = estimator.side_by_side(lambda fold: plan.asked(fold, everything, 1)[0], indices)
    return _mean_margin(len(panel), indices, done)


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
    watch: tuning.Watch | None = None,
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
