"""One month in every customer's life: stress and arrears move, loans end, customers leave, defaults are written off."""

from __future__ import annotations

import numpy as np

from models.world import hazard
from models.world.calendar import last_day
from models.world.customers import State, new_loan

Array = np.ndarray
Move = dict[str, Array]

WRITE_OFF_AFTER, WRITE_OFF = 4, 0.16  # months in default, then monthly probability
CURE_AFTER, CURE = 6, 0.03


def select(rows: State, chosen: Array) -> State:
    """Return the chosen rows of every array."""
    return {name: values[chosen] for name, values in rows.items()}


def joined(first: State, second: State) -> State:
    """Return both sets of rows, `first` on top."""
    return {name: np.concatenate([values, second[name]]) for name, values in first.items()}


def advance(rng: np.random.Generator, state: State, month: int) -> Move:
    """Move every customer through `month`, in place, and return what happened.

    `before` and `state["bucket"]` are the buckets at both ends (4 = in default). `paid` counts the dues paid, oldest
    first, from `paid_from` (a month number); the others are flags, and the instalment before any renewal.
    """
    size = len(state["kind"])
    uniform = rng.random((4, size))
    before = state["bucket"].copy()
    called = before == hazard.DEFAULT
    stress, bucket = hazard.step(month, state["type"], state["stress"], np.minimum(before, 3), uniform[:2])
    months_in_default = month - state["default_month"]
    written_off = called & (months_in_default >= WRITE_OFF_AFTER) & (uniform[2] < WRITE_OFF)
    cured = called & ~written_off & (months_in_default >= CURE_AFTER) & (uniform[2] >= 1 - CURE)
    bucket = np.where(called, np.where(cured, 0, hazard.DEFAULT), bucket)
    defaulted = ~called & (bucket == hazard.DEFAULT)
    matured = ~called & state["has_loan"] & (state["clock"] == 1) & (bucket == 0)
    renewed = matured & (uniform[3] < hazard.RENEW)
    gone = ~called & ~state["has_loan"] & (bucket == 0) & (uniform[3] < hazard.LEAVE)

    move: Move = {
        "before": before,
        "called": called,
        "paid": np.where(called, np.where(cured, hazard.DEFAULT, 0), before + 1 - bucket),
        "paid_from": np.where(called, state["default_month"] - 3, month - before),
        "matured": matured,
        "renewed": renewed,
        "left": (matured & ~renewed) | gone,
        "written_off": written_off,
        "cured": cured,
        "defaulted": defaulted,
        "fresh": np.zeros(size, dtype=bool),
        "instalment": state["instalment"],  # of the loan before any renewal
    }
    state["stress"], state["bucket"] = stress, bucket
    state["mood"] = 0.8 * state["mood"] + 0.2 * stress
    state["default_month"] = np.where(defaulted, month, state["default_month"])
    due = state["has_loan"] & ~called
    state["clock"] = np.where(due, np.maximum(state["clock"] - 1, 1), state["clock"])
    return move


def at_rest(state: State) -> Move:
    """Return the move of customers who joined this month: nothing fell due."""
    size = len(state["kind"])
    flags = ("called", "matured", "renewed", "left", "written_off", "cured", "defaulted")
    zero = np.zeros(size, dtype=np.int64)
    return {"before": zero, "paid": zero, "paid_from": zero, "instalment": state["instalment"]} | {
        name: np.zeros(size, dtype=bool) for name in flags
    } | {"fresh": np.ones(size, dtype=bool)}  # fmt: skip


def renew(rng: np.random.Generator, state: State, move: Move, month: int) -> None:
    """Give those who renewed the next loan, in place: signed in the month's last days, its first due next month."""
    rows = np.flatnonzero(move["renewed"])
    loan = new_loan(rng, select(state, rows))
    for name in ("principal", "instalment", "rate", "term"):
        state[name] = state[name].copy()
        state[name][rows] = loan[name]
    state["clock"][rows] = loan["term"]
    state["loan_number"][rows] += 1
    state["loan_day"][rows] = last_day(month) - rng.integers(0, 3, len(rows))


def clock_index(state: State) -> Array:
    """Return the clock of each customer as the exact PD is indexed: 0 revolving, 1 to 12, 13 for later."""
    return np.where(state["has_loan"], np.minimum(state["clock"], hazard.BEYOND), hazard.REVOLVING)
