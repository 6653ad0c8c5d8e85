"""The smallest set of columns that ranks held-out rows as well as the best.

In each fold the columns are ordered by what they add on train rows that the ordering model never saw, so that the
fold's held-out rows judge the whole procedure and not a choice made on them. Sets of falling size are judged, and the
smallest one is kept whose AUC is within one standard error of the best (paired and clustered, DeLong). Two limits hold
that rule where it would cost accuracy: a set may lose no more than `max_auc_loss`, and where the standard error itself
is above `max_auc_error` (few defaults) nothing can be said, so that every column stays unless a set is better than all
columns by two standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from models.adversarial import DriftSettings
from models.refits import Answer, Refits

COARSE = 80  # columns: above, sizes fall by half, below by the square root of 2
HOPELESS = 0.005  # AUC below the best: smaller sets are not tried any more


class SmallestSettings(DriftSettings):
    """What a smaller set may cost."""

    standard_errors: float = Field(1.0, ge=0)  # of the difference from the best set; 0: keep what is best
    max_auc_loss: float = Field(0.001, ge=0)  # below the best set, whatever the standard error
    max_auc_error: float = Field(0.004, ge=0)  # standard error of the difference above which nothing is dropped
    least_features: int = Field(5, ge=1)


@dataclass(frozen=True)
class Size:
    """One set tried: number of columns, mean AUC over the folds, loss against the best set and its standard error."""

    features: int
    auc: float
    loss: float
    standard_error: float
    kept: bool

    def record(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Smallest:
    """The columns kept (places, ascending), all columns by falling worth, their worth, and every size tried."""

    places: np.ndarray
    order: np.ndarray
    worth: np.ndarray  # nats a row off the held-out log loss, mean over folds
    sizes: tuple[Size, ...]
    why: str


def ladder(columns: int, least: int) -> list[int]:
    """Return the sizes tried, falling from all columns to `least`."""
    sizes = [columns]
    while sizes[-1] > least:
        sizes.append(max(least, int(sizes[-1] / (2 if sizes[-1] > COARSE else 2**0.5))))
    return sizes


def smallest(refits: Refits, worth: Sequence[np.ndarray], everything: Answer, settings: SmallestSettings) -> Smallest:
    """Return the smallest set of the refits' inputs that is as good as the best.

    worth: of every input, a fold (`Refits.worth`). everything: the answer of all inputs.
    """
    orders = [np.argsort(-each, kind="stable") for each in worth]
    mean = np.mean(worth, axis=0)
    order = np.argsort(-mean, kind="stable")
    answers = {len(mean): everything}
    for size in ladder(len(mean), settings.least_features)[1:]:
        answers[size] = refits.ask([np.sort(each[:size]) for each in orders])
        best = max(answers.values(), key=lambda answer: answer.auc)
        loss, error = refits.difference(best, answers[size])
        if loss > max(HOPELESS, 3 * error):
            break
    best = max(answers.values(), key=lambda answer: answer.auc)
    apart = {size: refits.difference(best, answer) for size, answer in answers.items()}
    chosen, why = choice(
        apart, {size: refits.difference(answer, everything) for size, answer in answers.items()}, settings
    )
    sizes = tuple(Size(size, answers[size].auc, *apart[size], kept=size == chosen) for size in answers)
    return Smallest(np.sort(order[:chosen]), order, mean, sizes, why)


def choice(
    below_best: dict[int, tuple[float, float]], above_all: dict[int, tuple[float, float]], settings: SmallestSettings
) -> tuple[int, str]:
    """Return the size to keep, and why.

    Both by size, with all columns the largest: (difference of AUC, its standard error) of the best set over this one,
    and of this one over all columns.
    """
    everything = max(below_best)

    def near(size: int) -> bool:
        loss, error = below_best[size]
        return loss <= min(settings.standard_errors * error, settings.max_auc_loss)

    def sure(size: int) -> bool:
        gain, error = above_all[size]
        return max(error, below_best[size][1]) <= settings.max_auc_error or gain > 2 * error

    smaller = [size for size in below_best if size != everything and near(size)]
    found = [size for size in smaller if sure(size)]
    if found:
        return min(found), "the smallest set whose AUC is as good as the best"
    if smaller:
        return everything, "too few defaults to say that a smaller set is as good"
    return everything, "every smaller set ranks worse"
