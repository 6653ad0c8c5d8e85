"""What a month leaves on the current accounts: income, rent, card spending, cash, late fees, the balance after each.

Stress shows only through noise: wages shrink or stay away, more is drawn in cash, less is kept. Spending takes what
came in, plus a third of what lies above the balance that the customer likes to keep, so balances stay in range.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.world.calendar import first_day, last_day
from models.world.columns import dates, money, names, table, whole
from models.world.customers import COMPANY, State, cents
from models.world.life import Move

Array = np.ndarray
WAGE, RENT, CARD, CASH, FEE = range(5)
CODES = ("WAGE", "SALES", "RENT", "SUPPLY", "CARD", "CASH", "FEE")
PARTNERS = (
    "employer", "customers", "landlord", "suppliers", "grocery", "fuel", "online", "restaurant", "atm", "lender",
)  # fmt: skip
USUAL_OTHERS = 1.95  # transactions a month that are neither card spending nor cash


def movements(
    rng: np.random.Generator, state: State, move: Move, month: int, volume: float, first_number: int
) -> pa.Table:
    """Return the month's transactions, about `volume` a customer, by customer and day; `state["account"]` moves on."""
    size = len(state["kind"])
    first, days = int(first_day(month)), int(last_day(month) - first_day(month)) + 1
    company = state["kind"] == COMPANY
    stress = state["stress"]
    noise = rng.standard_normal((3, size))
    uniform = rng.random((3, size))

    usual = state["income"]
    scale = np.where(company, np.array([1.02, 0.97, 0.86, 0.68])[stress], np.array([1.0, 0.97, 0.88, 0.68])[stress])
    yearly = 1 + np.where(company, 0.12, 0.18) * (month % 12 == 11)
    income = usual * scale * yearly * np.exp(np.where(company, 0.22, 0.06) * noise[0])
    arrives = uniform[0] >= np.array([0.005, 0.02, 0.06, 0.20])[stress]
    pays_rent = company | (state["housing"] != 2)
    rent = usual * np.where(company, 0.30, 0.26) * np.exp(0.03 * noise[1])
    fee = (state["bucket"] > 0) & (state["bucket"] >= move["before"]) & ~move["called"]
    charge = np.where(company, 60.0, 20.0)

    free = max(volume - USUAL_OTHERS, 0.3)
    cards = rng.poisson(0.62 * free, size)
    taste = np.array([0.7, 1.0, 1.4, 1.8])[stress] * np.exp(0.4 * state["taste_cash"] - 0.08)
    draws = rng.poisson(0.38 * free * taste)
    liked = usual * np.array([1.3, 0.8, 0.4, 0.1])[stress] * np.exp(0.5 * state["taste_save"])
    surplus = np.where(arrives, income, 0) - np.where(pays_rent, rent, 0) + 0.35 * (state["account"] / 100 - liked)
    spend = np.maximum(surplus * np.exp(0.15 * noise[2]), 0.12 * usual)

    everyone = np.arange(size)
    counts = (arrives.astype(int), pays_rent.astype(int), cards, draws, fee.astype(int))
    row = np.concatenate([np.repeat(everyone, count) for count in counts])
    what = np.repeat(np.arange(5), [count.sum() for count in counts])
    total = len(row)

    weight = np.where((what == CARD) | (what == CASH), rng.uniform(0.4, 1.6, total), 0.0)
    whole_weight = np.bincount(row, weights=weight, minlength=size)
    portion = np.divide(weight, whole_weight[row], out=np.zeros(total), where=whole_weight[row] > 0)
    value = np.choose(what, [income[row], rent[row], spend[row] * portion, spend[row] * portion, charge[row]])
    value = np.maximum(cents(value), 100)

    day = (rng.random(total) * days).astype(np.int64)
    payday = state["number"][row] % 5 + np.where(company[row], 9, 23)
    day = np.choose(what, [payday, state["number"][row] % 4, day, day, days - 1 - day % 3])
    day = np.maximum(day, np.where(move["fresh"], state["opened"] - first, 0)[row])
    order = np.argsort((row * 32 + day) * 8 + what, kind="stable")
    row, what, value, day = row[order], what[order], value[order], day[order]

    signed = np.where(what == WAGE, value, -value)
    running = np.cumsum(signed)
    starts = np.searchsorted(row, everyone)
    base = np.concatenate([[0], running])[starts]
    balance = running - base[row] + state["account"][row]
    state["account"] = state["account"] + np.concatenate([[0], running])[np.searchsorted(row, everyone, "right")] - base

    shop = rng.integers(4, 8, total)
    code = np.choose(what, [company[row] * 1, company[row] + 2, 4, 5, 6])
    partner = np.choose(what, [company[row] * 1, company[row] + 2, shop, 8, 9])
    lot = rng.random(total)
    lag = (lot > 0.72).astype(np.int64) + (lot > 0.95)
    lag = np.where(lot > 0.995, rng.integers(8, 50, total), lag)
    booked = first + day
    return table(
        {
            "movement_no": whole(first_number + np.arange(total)),
            "client_no": whole(state["number"][row]),
            "booking_date": dates(booked),
            "direction": names((what != WAGE).astype(np.int64), ("C", "D")),
            "value": money(value),
            "balance": money(balance),
            "text_code": names(code, CODES),
            "partner": names(partner, PARTNERS),
            "entered_on": dates(booked + lag),
        }
    )
