"""The world's law: how stress and arrears move from month to month, and the exact PD that follows from it.

A customer's hidden state at the end of a month is (stress 0..3, bucket 0..3, clock). The bucket counts unpaid dues
(1: up to 30 days, 2: 31 to 60, 3: 61 to 90); the fourth unpaid due is the default. The clock counts the instalments
still to come. The law depends on a fixed type (kind, risk class, sector) and on the calendar month (season, downturn),
both known, so the probability of default within twelve months is a finite recursion, not an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

STRESSES = 4
BUCKETS = 4  # 0..3; the fourth unpaid due is the default, written as bucket 4
DEFAULT = 4
CLASSES = 6
HORIZON = 12  # months
REVOLVING, BEYOND = 0, HORIZON + 1  # clocks: no maturity; maturity after the horizon
SECTORS = (
    "agriculture",
    "manufacturing",
    "construction",
    "retail",
    "hospitality",
    "transport",
    "services",
    "public",
)
SECTOR_RISK = np.array([0.1, 0.0, 0.5, 0.2, 0.7, 0.2, -0.2, -0.8])  # added to the risk score of a customer
SECTOR_CYCLE = np.array([0.4, 1.0, 1.5, 1.0, 1.8, 1.1, 0.7, 0.2])  # how far the downturn reaches the sector
KINDS = ("person", "company")
TYPES = len(KINDS) * CLASSES * len(SECTORS)

CLASS_SCORE = np.linspace(-1.25, 1.25, CLASSES)
STRESS_UP = np.array([0.040, 0.046, 0.046])  # monthly probability of one step up, from stress 0, 1, 2
STRESS_DOWN = np.array([0.10, 0.12, 0.13])  # of one step down, from stress 1, 2, 3
MISS = np.array([0.012, 0.027, 0.060, 0.125])  # of missing a due while nothing is unpaid, by stress
ROLL = np.array([0.25, 0.33, 0.42, 0.52])  # of missing one more while some are unpaid
CURE = np.array([0.60, 0.45, 0.30, 0.20])  # share of those who pay that pay everything
STAY = np.array([0.20, 0.30, 0.40, 0.50])  # share of those who pay that pay the oldest due alone
RENEW = 0.70  # probability that a loan paid to its end is followed by another
LEAVE = 0.006  # monthly probability that a customer with a revolving line alone, and nothing unpaid, leaves


def type_of(kind: Array, risk_class: Array, sector: Array) -> Array:
    """Return the type's number, 0 to TYPES - 1, from codes of kind, risk class and sector."""
    return (kind * CLASSES + risk_class) * len(SECTORS) + sector


def downturn(month: Array | int) -> Array:
    """Return the downturn's depth, 0 to 1, in `month` from January 2021: deepest in March 2023 and every 7 years."""
    phase = (np.asarray(month, dtype=float) - 26 + 42) % 84 - 42
    return np.exp(-((phase / 8.0) ** 2))


def season(month: Array | int) -> Array:
    """Return the season's shift of arrears, -1 to 1: highest in January, after the holidays."""
    return np.cos(2 * np.pi * (np.asarray(month) % 12) / 12)


def _logit(p: Array) -> Array:
    return np.log(p / (1 - p))


def _expit(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Law:
    """One month's law by type: `stress` (TYPES, 4, 4), `bucket` (TYPES, 4 stresses after, 4, 5); rows sum to 1."""

    stress: Array
    bucket: Array


def law(month: int) -> Law:
    """Return the transition probabilities into the end of `month` (counted from January 2021)."""
    number = np.arange(TYPES)
    sector = number % len(SECTORS)
    score = CLASS_SCORE[(number // len(SECTORS)) % CLASSES]
    pressure = SECTOR_CYCLE[sector] * downturn(month)

    stress = np.zeros((TYPES, STRESSES, STRESSES))
    tilt = np.exp(0.30 * score + 0.50 * pressure)
    relief = np.exp(-0.20 * score - 0.25 * pressure)
    for z in range(STRESSES):
        if z < STRESSES - 1:
            stress[:, z, z + 1] = np.minimum(STRESS_UP[z] * tilt, 0.45)
        if z > 0:
            stress[:, z, z - 1] = np.minimum(STRESS_DOWN[z - 1] * relief, 0.45)
        stress[:, z, z] = 1 - stress[:, z].sum(axis=1)

    bucket = np.zeros((TYPES, STRESSES, BUCKETS, BUCKETS + 1))
    shift = 0.30 * score + 0.20 * season(month) + 0.15 * pressure
    miss = _expit(_logit(MISS)[None, :] + shift[:, None])
    roll = _expit(_logit(ROLL)[None, :] + 0.5 * shift[:, None])
    bucket[:, :, 0, 1] = miss
    bucket[:, :, 0, 0] = 1 - miss
    for b in range(1, BUCKETS):
        bucket[:, :, b, b + 1] = roll
        bucket[:, :, b, b] = (1 - roll) * STAY
        bucket[:, :, b, 0] += (1 - roll) * CURE
        bucket[:, :, b, b - 1] += (1 - roll) * (1 - STAY - CURE)
    return Law(stress, bucket)


def _matrices(month: int) -> tuple[Array, Array]:
    """Return survival (TYPES, 16, 16) between states stress * 4 + bucket, and default (TYPES, 16), into `month`."""
    here = law(month)
    joint = np.einsum("tyz,tzbc->tybzc", here.stress, here.bucket)
    states = STRESSES * BUCKETS
    survival = joint[..., :BUCKETS].reshape(TYPES, states, states)
    return survival, joint[..., DEFAULT].sum(axis=3).reshape(TYPES, states)


def _continued(value: Array) -> Array:
    """Return the value (..., 16, clocks) as seen before the clock ticks: maturity, renewal and leaving applied."""
    paid_up = (np.arange(STRESSES * BUCKETS) % BUCKETS == 0).astype(float)
    seen = np.empty_like(value)
    seen[..., REVOLVING] = value[..., REVOLVING] * (1 - LEAVE * paid_up)
    seen[..., 1] = np.where(paid_up > 0, RENEW * value[..., BEYOND], value[..., 1])
    seen[..., 2:BEYOND] = value[..., 1 : BEYOND - 1]
    seen[..., BEYOND] = value[..., BEYOND]
    return seen


def exact_pd(first: int, count: int, horizon: int = HORIZON) -> Array:
    """Return P(default within `horizon` months) at the start of each of `count` months from `first`.

    Shape (count, TYPES, 16 states stress * 4 + bucket at the end of the month before, 14 clocks). Clock 0 is a
    revolving line, 1 to 12 the instalments still due, 13 more than twelve. Leaving before a default is no default.
    """
    months = range(first, first + count + horizon - 1)
    pairs = [_matrices(month) for month in months]
    survival = np.stack([pair[0] for pair in pairs])
    default = np.stack([pair[1] for pair in pairs])[..., None]
    value = np.broadcast_to(default, (*default.shape[:-1], BEYOND + 1)).copy()
    for _ in range(horizon - 1):
        value = default[: len(value) - 1] + survival[: len(value) - 1] @ _continued(value[1:])
    return value[:count]


def stationary(month: int) -> Array:
    """Return the spread over the 16 states, in the long run under one month's law, of who has not defaulted."""
    survival, _ = _matrices(month)
    spread = np.full((TYPES, 1, STRESSES * BUCKETS), 1 / (STRESSES * BUCKETS))
    for _ in range(60):
        spread = spread @ survival
        spread /= spread.sum(axis=2, keepdims=True)
    return spread[:, 0, :]


def draw(probabilities: Array, uniform: Array) -> Array:
    """Return one category for each row: the first whose cumulative probability exceeds `uniform` in [0, 1)."""
    cumulative = np.cumsum(probabilities[:, :-1], axis=1)
    return (uniform[:, None] >= cumulative).sum(axis=1)


def step(month: int, kind_type: Array, stress: Array, bucket: Array, uniform: Array) -> tuple[Array, Array]:
    """Return stress and bucket (4 = default) at the end of `month`; `uniform` (2, n) decides."""
    here = law(month)
    after = draw(here.stress[kind_type, stress], uniform[0])
    return after, draw(here.bucket[kind_type, after, bucket], uniform[1])
