"""From margins to probabilities: a strictly increasing curve in log-odds, and a 90% interval around it.

The curve is the simplest of Platt (a line), beta (two positive slopes) and isotonic (made strictly increasing) whose
log loss, in folds by customer, is within one standard error of the best; with few defaults only Platt is tried, its
slope drawn towards 1. Where the policy states the default rate of a whole cycle, the curve is then moved, by one
number in log-odds, until its PDs average to that rate on the rows that it was fitted on: ranking and slope stay.

Interval. A customer's true PD differs from that of customers who look alike by what no feature shows and by what the
model did not learn. No outcome tells how far; how far a second opinion differs does: two models that share neither a
customer nor a piece of evidence (models/opinions.py) are asked about third parties, and their mean squared difference
in log-odds is taken as the variance of the true log-odds around the model's. What both are blind to cannot be measured:
that it is no more than what each half alone lacks is an assumption; on simulated lenders it held within a tenth. True
PDs are then logit-normal *with the calibrated PD as their mean*, so the interval reaches further down than up. Added,
around the same centre: the curve's own variance, clustered by customer, and where the dates span more than a horizon
the variance of the level of defaults from one horizon to the next. Never narrower than the Jeffreys interval of the
defaults among the neighbours in score, where a customer's rows count as one.
Sources: Platt 1999; Kull, Silva Filho, Flach 2017 (beta); Brown, Cai, DasGupta 2001 (Jeffreys); Crouch and Spiegelman
1990 (mean of a logit-normal).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.errors import IntegrityRefused, Problem
from models.estimator import probability
from models.metrics import jeffreys_interval, logistic_fit, row_log_loss
from models.splits import grouped_folds_of

Method = Literal["platt", "beta", "isotonic"]
METHODS: tuple[Method, ...] = ("platt", "beta", "isotonic")  # simplest first
LEAST_SLOPE = 0.02  # of log-odds by margin: ranking never changes
SLOPE_PRIOR = 0.5  # standard deviation of Platt's and beta's slopes around 1
LEAST_BADS = 20  # of a date, for its default rate to be compared
GRID = 65  # margins at which the interval is kept


class CalibrateSettings(BaseModel):
    """How the curve is chosen and how wide its interval is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method | None = None  # null: chosen by log loss in folds by customer
    few_bads: int = Field(100, ge=2)  # below: Platt only; isotonic from three times as many on
    level: float = Field(0.9, gt=0, lt=1)  # of pd_low..pd_high
    seed: int = Field(20260101, ge=0)
    long_run_default_rate: float | None = Field(None, gt=0, lt=1)  # null: PDs keep the level of the train rows


@dataclass(frozen=True)
class Calibrator:
    """A strictly increasing map from margin to PD with an interval, all kept as log-odds."""

    method: Method
    figures: dict[str, list[float]]  # the method's own: see `_log_odds`
    grid: tuple[float, ...]  # margins, ascending
    low: tuple[float, ...]  # log-odds at the grid
    high: tuple[float, ...]
    level: float
    anchor: float = 0.0  # log-odds by which curve and interval are moved to the long-run default rate

    def log_odds(self, margin: np.ndarray) -> np.ndarray:
        """Return calibrated log-odds, strictly increasing in the margin."""
        return _log_odds(self.method, self.figures, np.asarray(margin, dtype=float)) + self.anchor

    def pd(self, margin: np.ndarray) -> np.ndarray:
        """Return the probability of default of each margin."""
        return probability(self.log_odds(margin))

    def interval(self, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (pd_low, pd_high), never decreasing in the margin, low <= pd <= high."""
        margin = np.asarray(margin, dtype=float)
        middle = self.log_odds(margin)
        grid = np.array(self.grid)
        inside = np.clip(margin, grid[0], grid[-1])
        # beyond the grid the interval keeps its width in log-odds
        moved = middle - self.log_odds(inside) + self.anchor
        low = np.minimum(np.interp(inside, grid, self.low) + moved, middle)
        high = np.maximum(np.interp(inside, grid, self.high) + moved, middle)
        return probability(low), probability(high)

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps(self.__dict__, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form; refuse (exit code 7) what is not one."""
        try:
            record: dict[str, Any] = json.loads(text)
            figures = {name: [float(number) for number in some] for name, some in record["figures"].items()}
            grid, low, high = (tuple(map(float, record[key])) for key in ("grid", "low", "high"))
            anchor = float(record.get("anchor", 0.0))  # champions of before the anchor have none
            if record["method"] not in METHODS or not len(grid) == len(low) == len(high) >= 1:
                raise ValueError(record["method"])
            calibrator = cls(record["method"], figures, grid, low, high, float(record["level"]), anchor)
            if not (np.diff(calibrator.log_odds(np.linspace(-10, 10, 101))) > 0).all():  # NaN, too, is not
                raise ValueError("not increasing")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityRefused(
                Problem(
                    "calibrator.json", "an increasing calibration curve", type(error).__name__, "Restore the bundle."
                )
            ) from None
        return calibrator


@dataclass(frozen=True)
class Choice:
    """The calibrator, and the log loss in folds by customer of each method that was tried and of the raw margin."""

    calibrator: Calibrator
    tried: dict[str, float]
    why: str
    hidden: float  # variance of the true log-odds around the calibrated
    level: float  # variance of the level of all from one horizon to the next


def calibrate(
    margin: np.ndarray,
    outcome: np.ndarray,
    customer: np.ndarray,
    settings: CalibrateSettings,
    hidden: float = 0.0,
    level: float = 0.0,
) -> Choice:
    """Fit the curve on out-of-fold margins and outcomes (0/1) of the train rows.

    `hidden` is the variance of the true log-odds at a margin (0: the interval is that of the average PD there), `level`
    that of the level of all from one horizon to the next.
    """
    bads = min(int(outcome.sum()), int((1 - outcome).sum()))
    allowed = METHODS[:1] if bads < settings.few_bads else METHODS[:2] if bads < 3 * settings.few_bads else METHODS
    if settings.method is not None:
        allowed = (settings.method,)
    losses = _held_out(margin, outcome, customer, allowed, settings.seed)
    best = min(losses, key=lambda name: losses[name].mean())
    chosen = next(name for name in allowed if _as_good(losses[name], losses[best]))
    figures = _fit(chosen, margin, outcome)
    tried: dict[str, float] = {name: float(loss.mean()) for name, loss in losses.items()}
    tried["uncalibrated"] = float(row_log_loss(outcome, probability(margin)).mean())
    grid, low, high = _interval_grid(chosen, figures, margin, outcome, customer, settings, (hidden, level))
    why = (
        "set by parameter" if settings.method else
        f"only {bads} defaults: no other is tried" if len(allowed) == 1 else
        "simplest within one standard error of the best log loss"
    )  # fmt: skip
    anchor = anchor_of(_log_odds(chosen, figures, margin), settings.long_run_default_rate)
    calibrator = Calibrator(chosen, figures, tuple(grid), tuple(low), tuple(high), settings.level, anchor)
    return Choice(calibrator, tried, why, hidden, level)


def anchor_of(log_odds: np.ndarray, rate: float | None) -> float:
    """Return by how much log-odds must move for their probabilities to average to `rate`; 0 where none is stated.

    A constant in log-odds is what another base rate does to a posterior: Elkan 2001; King and Zeng 2001. It is solved
    on the rows themselves, so that the mean is met exactly and not only to first order.
    """
    from scipy.optimize import brentq

    if rate is None:
        return 0.0
    wanted = float(np.log(rate / (1 - rate)))
    low, high = wanted - float(log_odds.max()), wanted - float(log_odds.min())  # all rows below the rate; all above it
    if high - low < 1e-12:
        return low
    return float(brentq(lambda move: probability(log_odds + move).mean() - rate, low - 1e-9, high + 1e-9, xtol=1e-12))


def cross_fitted(
    margin: np.ndarray, outcome: np.ndarray, customer: np.ndarray, method: Method, seed: int, rate: float | None = None
) -> np.ndarray:
    """Return a PD for each row from a curve fitted, and anchored to `rate`, without the row's customer.

    For honest figures on train rows.
    """
    fold = grouped_folds_of(customer, outcome, 5, seed)
    result = np.empty(len(margin))
    for number in range(5):
        rest = margin[fold != number]
        figures = _fit(method, rest, outcome[fold != number])
        anchor = anchor_of(_log_odds(method, figures, rest), rate)
        result[fold == number] = probability(_log_odds(method, figures, margin[fold == number]) + anchor)
    return result


def disagreement(first: np.ndarray, second: np.ndarray, outcome: np.ndarray) -> float:
    """Return the mean squared difference, in calibrated log-odds, of two opinions on the same rows.

    `first` and `second` are margins of two models, each put on the scale of log-odds by a line of its own.
    """
    opinions = [_log_odds("platt", _fit("platt", each, outcome), each) for each in (first, second)]
    return float(((opinions[0] - opinions[1]) ** 2).mean())


def level_variance(as_of: np.ndarray, closes: np.ndarray, outcome: np.ndarray) -> float:
    """Return how far, squared and in log-odds, the default rate moves from a date to the first after its window closed.

    Chance is taken off (1/defaults + 1/good of either date). 0 where no two such dates have 20 defaults and 20 good.
    """
    dates, place = np.unique(as_of, return_inverse=True)
    bads, rows = np.bincount(place, weights=outcome), np.bincount(place)
    closed = np.array([closes[place == number].max() for number in range(len(dates))])
    enough = np.minimum(bads, rows - bads) >= LEAST_BADS
    moves = []
    for start in np.flatnonzero(enough):
        later = np.flatnonzero(enough & (dates >= closed[start]))
        if len(later):
            pair = [start, later[0]]
            level = np.log(bads[pair] / (rows - bads)[pair])
            chance = (1 / bads[pair] + 1 / (rows - bads)[pair]).sum()
            moves.append((level[1] - level[0]) ** 2 - chance)
    return max(0.0, float(np.mean(moves))) if moves else 0.0


def centre_of(log_odds: np.ndarray, variance: float) -> np.ndarray:
    """Return the mean of the normal log-odds with this variance whose probabilities average to the given one."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    weights = weights / weights.sum()
    spread = np.sqrt(variance) * nodes
    centre = log_odds - variance / 2
    for _ in range(60):
        mean = (probability(centre[:, None] + spread) * weights).sum(axis=1)
        centre = centre + log_odds - np.log(mean / (1 - mean))
    return np.asarray(centre)


def _held_out(
    margin: np.ndarray, outcome: np.ndarray, customer: np.ndarray, methods: tuple[Method, ...], seed: int
) -> dict[Method, np.ndarray]:
    """Return method -> log loss of each row under curves fitted without its customer."""
    return {name: row_log_loss(outcome, cross_fitted(margin, outcome, customer, name, seed)) for name in methods}


def _as_good(loss: np.ndarray, best: np.ndarray) -> bool:
    """Return whether the mean loss is within one standard error (paired by row) of the best."""
    worse = loss - best
    return bool(worse.mean() <= worse.std() / np.sqrt(len(worse)))


def _log_odds(method: Method, figures: dict[str, list[float]], margin: np.ndarray) -> np.ndarray:
    """Return the curve: platt a*m + b; beta a*ln(p) - b*ln(1-p) + c; isotonic straight lines between knots."""
    if method == "platt":
        slope, intercept = figures["platt"]
        return slope * margin + intercept
    if method == "beta":
        rising, falling, intercept = figures["beta"]
        return rising * -np.logaddexp(0, -margin) + falling * np.logaddexp(0, margin) + intercept
    knots, values = np.array(figures["margin"]), np.array(figures["log_odds"])
    inside = np.clip(margin, knots[0], knots[-1])
    return np.interp(inside, knots, values) + figures["beyond"][0] * (margin - inside)


def _fit(method: Method, margin: np.ndarray, outcome: np.ndarray) -> dict[str, list[float]]:
    """Return the figures of a curve fitted by penalised maximum likelihood (platt, beta) or pooled violators."""
    if method == "isotonic":
        return _fit_isotonic(margin, outcome)
    columns = _columns(method, margin)
    weights = logistic_fit(columns, outcome, centre=1.0, width=SLOPE_PRIOR)
    if weights[:-1].min() < LEAST_SLOPE:  # a model that ranks backwards, or one slope of beta below zero
        floor = np.maximum(weights[:-1], LEAST_SLOPE)
        offset = (columns * floor).sum(axis=1)
        intercept = logistic_fit(np.empty((len(margin), 0)), outcome, offset=offset)[-1]
        weights = np.append(floor, intercept)
    return {method: [float(weight) for weight in weights]}


def _columns(method: Method, margin: np.ndarray) -> np.ndarray:
    """Return the regressors of a line-like curve."""
    if method == "platt":
        return margin[:, None]
    return np.column_stack((-np.logaddexp(0, -margin), np.logaddexp(0, margin)))


def _fit_isotonic(margin: np.ndarray, outcome: np.ndarray) -> dict[str, list[float]]:
    """Return knots of the pooled-adjacent-violators fit, in log-odds, made strictly increasing by a least slope."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(margin, kind="stable")
    fitted = isotonic_regression(outcome[order].astype(float)).x
    starts = np.flatnonzero(np.append(True, np.diff(fitted) > 0))
    rows = np.diff(np.append(starts, len(fitted)))
    bads = np.add.reduceat(outcome[order].astype(float), starts)
    centre = np.add.reduceat(margin[order], starts) / rows
    rate = (bads + 0.5) / (rows + 1)  # Jeffreys: a pure block is not certain
    keep = np.append(True, np.diff(centre) > 1e-6)
    knots, values = centre[keep], np.log(rate / (1 - rate))[keep]
    least = LEAST_SLOPE * (knots - knots[0])
    values = np.maximum.accumulate(values - least) + least
    beyond = max(LEAST_SLOPE, _fit("platt", margin, outcome)["platt"][0])
    return {"margin": knots.tolist(), "log_odds": values.tolist(), "beyond": [beyond]}


def _interval_grid(
    method: Method,
    figures: dict[str, list[float]],
    margin: np.ndarray,
    outcome: np.ndarray,
    customer: np.ndarray,
    settings: CalibrateSettings,
    variances: tuple[float, float],
) -> tuple[list[float], list[float], list[float]]:
    """Return (margins, low, high) in log-odds; see the module's first lines for the method."""
    from scipy.stats import norm

    ordered = np.sort(margin)
    grid = np.unique(ordered[np.linspace(0, len(ordered) - 1, GRID).astype(int)])
    middle = _log_odds(method, figures, grid)
    line: Method = "beta" if method == "beta" else "platt"
    error = _curve_variance(line, margin, outcome, customer, grid)
    hidden, level = variances
    centre = centre_of(middle, hidden)
    reach = norm.ppf(0.5 + settings.level / 2) * np.sqrt(error + hidden + level)
    weight = len(np.unique(customer.astype(str))) / len(customer)
    fitted = _log_odds(method, figures, margin)
    below, above = _neighbour_reach(fitted, margin, outcome, grid, settings.level, weight)
    low = np.minimum.accumulate(np.minimum(centre - reach, middle - below)[::-1])[::-1]
    high = np.maximum.accumulate(np.maximum(centre + reach, middle + above))
    return grid.tolist(), low.tolist(), high.tolist()


def _curve_variance(
    method: Method, margin: np.ndarray, outcome: np.ndarray, customer: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """Return the sampling variance of a line-like curve at the grid: sandwich estimate, clustered by customer."""
    columns = np.column_stack((_columns(method, margin), np.ones(len(margin))))
    weights = np.array(_fit(method, margin, outcome)[method])
    fitted = probability((columns * weights).sum(axis=1))
    spread = fitted * (1 - fitted)
    size = columns.shape[1]
    bread = np.array([[(spread * columns[:, i] * columns[:, j]).sum() for j in range(size)] for i in range(size)])
    bread[np.arange(size - 1), np.arange(size - 1)] += SLOPE_PRIOR**-2
    place = np.unique(customer.astype(str), return_inverse=True)[1]
    scores = np.column_stack([np.bincount(place, weights=(outcome - fitted) * columns[:, i]) for i in range(size)])
    meat = np.array([[(scores[:, i] * scores[:, j]).sum() for j in range(size)] for i in range(size)])
    inverse = np.linalg.pinv(bread)
    covariance = inverse @ meat @ inverse
    at = np.column_stack((_columns(method, grid), np.ones(len(grid))))
    return np.maximum((at @ covariance * at).sum(axis=1), 0)


def _neighbour_reach(
    log_odds: np.ndarray, margin: np.ndarray, outcome: np.ndarray, grid: np.ndarray, level: float, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far (log-odds) the Jeffreys interval of each grid point's neighbours reaches below and above them.

    Neighbours: the nearest tenth of the rows in rank, at least 50; their mean PD is what the interval is compared to.
    `weight`: customers by rows, for rows of one customer tell the same story.
    """
    order = np.argsort(margin, kind="stable")
    half = max(25, len(margin) // 20)
    place = np.searchsorted(margin[order], grid)
    start = np.clip(place - half, 0, max(0, len(margin) - 2 * half))
    end = np.minimum(start + 2 * half, len(margin))
    bads = np.append(0, np.cumsum(outcome[order]))
    expected = np.append(0, np.cumsum(probability(log_odds[order])))
    rows = end - start
    low, high = jeffreys_interval(weight * (bads[end] - bads[start]), weight * rows, level, open_ends=False)
    mean = np.clip((expected[end] - expected[start]) / rows, 1e-9, 1 - 1e-9)
    centre = np.log(mean / (1 - mean))
    low, high = np.clip(low, 1e-9, 1 - 1e-9), np.clip(high, 1e-9, 1 - 1e-9)
    return np.maximum(centre - np.log(low / (1 - low)), 0), np.maximum(np.log(high / (1 - high)) - centre, 0)
