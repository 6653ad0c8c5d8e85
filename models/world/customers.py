"""Who the customers are: fixed traits, half seen by the lender, half hidden, and the credits that they start with.

`State` holds one array a trait, all of one length; a cohort is drawn in the month in which it joins, from a random
stream of its own, so that later months never change who joined before.
"""

from __future__ import annotations

import numpy as np

from models.world import hazard
from models.world.calendar import first_day

Array = np.ndarray
State = dict[str, Array]

PERSON, COMPANY = 0, 1
REGIONS = ("north", "east", "south", "west", "centre", "islands")
SECTOR_SHARE = (
    np.array([0.04, 0.18, 0.09, 0.17, 0.08, 0.08, 0.22, 0.14]),  # where persons work
    np.array([0.07, 0.16, 0.16, 0.22, 0.11, 0.10, 0.17, 0.01]),  # what companies do
)
CLASS_EDGES = np.array([-1.4, -0.7, 0.0, 0.7, 1.4])  # of the standardised risk score
TERMS = np.array([12, 18, 24, 36, 48, 60])  # months
TERM_SHARE = np.array([0.15, 0.15, 0.25, 0.2, 0.15, 0.1])
SEGMENTS = (("mass", "affluent", "private"), ("micro", "small", "medium"))
HOUSING = ("rent", "own", "family")
JOBS = ("permanent", "temporary", "self_employed", "retired")
LEGAL_FORMS = ("sole_trader", "partnership", "limited", "cooperative")


def cents(amount: Array) -> Array:
    """Return whole cents (int64) from an amount in currency units."""
    return np.rint(amount * 100).astype(np.int64)


def annuity(principal: Array, yearly_rate: Array, months: Array) -> Array:
    """Return the level monthly instalment that repays `principal` in `months`, in the unit of `principal`."""
    rate = yearly_rate / 12
    return principal * rate / (1 - (1 + rate) ** -months)


def present_value(instalment: Array, yearly_rate: Array, months: Array) -> Array:
    """Return what is still owed when `months` instalments are to come, in the unit of `instalment`."""
    rate = yearly_rate / 12
    return instalment * (1 - (1 + rate) ** -months) / rate


def pick(rng: np.random.Generator, share: Array, size: int) -> Array:
    """Return codes 0.. drawn with the given shares."""
    return np.searchsorted(np.cumsum(share)[:-1], rng.random(size), side="right")


def new_loan(rng: np.random.Generator, state: State) -> State:
    """Draw the terms of a loan for each row of `state`: principal and instalment (cents), rate, term (months)."""
    size = len(state["kind"])
    company = state["kind"] == COMPANY
    multiple = np.where(company, rng.uniform(0.4, 2.5, size), rng.uniform(1.5, 10.0, size))
    principal = np.maximum(np.round(state["income"] * multiple, -2), np.where(company, 6000, 1500))
    term = TERMS[pick(rng, TERM_SHARE, size)]
    price = 0.075 + 0.012 * hazard.CLASS_SCORE[state["risk_class"]] + rng.normal(0, 0.012, size)
    rate = np.round(np.clip(price, 0.025, 0.16), 4)
    floor = np.where(company, 200.0, 45.0)  # four unpaid instalments are always a material sum
    instalment = np.maximum(annuity(principal, rate, term), floor)
    principal = np.round(present_value(instalment, rate, term), 2)
    return {"principal": cents(principal), "instalment": cents(instalment), "rate": rate, "term": term}


def cohort(rng: np.random.Generator, month: int, size: int, *, stock: bool) -> State:
    """Draw `size` customers who join in `month`, or who were there before it (`stock`), with their hidden state.

    `income` is currency units a month (a company's revenue); days are day numbers; `clock` counts the instalments still
    due (0: the main credit is a revolving line); `bureau_day` is when a line elsewhere was opened, -1 if there is none.
    """
    kind = (rng.random(size) < 0.22).astype(np.int64)
    company = kind == COMPANY
    sector = np.where(company, pick(rng, SECTOR_SHARE[1], size), pick(rng, SECTOR_SHARE[0], size))
    level, leverage, hidden, youth = rng.standard_normal((4, size))
    raw = -0.55 * level + 0.55 * leverage + 0.5 * hidden + 0.25 * youth + 0.5 * hazard.SECTOR_RISK[sector]
    risk_class = np.searchsorted(CLASS_EDGES, raw)
    income = np.where(company, 40000 * np.exp(0.9 * level), 2400 * np.exp(0.42 * level))
    age = np.clip(43 - 11 * youth + rng.normal(0, 5, size), 19, 84).astype(np.int64)
    kind_type = hazard.type_of(kind, risk_class, sector)

    stress_odds = hazard.stationary(month)[kind_type]
    start = hazard.draw(stress_odds, rng.random(size))
    stress = start // hazard.BUCKETS
    bucket = start % hazard.BUCKETS if stock else np.zeros(size, dtype=np.int64)

    state: State = {
        "kind": kind,
        "sector": sector,
        "risk_class": risk_class,
        "type": kind_type,
        "income": income,
        "leverage": leverage,
        "birth_year": 2021 + month // 12 - age,
        "region": rng.integers(0, len(REGIONS), size),
        "segment": np.searchsorted([0.8, 1.9], level + rng.normal(0, 0.3, size)),
        "housing": pick(rng, np.array([0.45, 0.4, 0.15]), size),
        "job": np.where(age > 66, 3, pick(rng, np.array([0.72, 0.16, 0.12]), size)),
        "legal_form": pick(rng, np.array([0.3, 0.15, 0.5, 0.05]), size),
        "employees": np.maximum(1, np.rint(income / 9000 * np.exp(rng.normal(0, 0.3, size)))).astype(np.int64),
        "declared": np.round(income * np.exp(rng.normal(0, 0.12, size)), -1),
        "taste_cash": rng.standard_normal(size),
        "taste_use": rng.standard_normal(size),
        "taste_save": rng.standard_normal(size),
        "taste_late": rng.standard_normal(size),
        "due_day": rng.integers(5, 26, size),
        "stress": stress,
        "bucket": bucket,
        "mood": stress.astype(float),  # stress, smoothed: what yearly accounts show
        "shock": np.zeros(size),
        "default_month": np.full(size, -9999),
        "alive": np.ones(size, dtype=bool),
    }
    if stock:
        opened = first_day(month) - 1 - rng.integers(160, 2400, size)
    else:
        opened = first_day(month) + rng.integers(0, 25, size)
    state["opened"] = opened
    has_loan = rng.random(size) < 0.62
    state["second"] = rng.random(size) < 0.5  # a loan's holder with a revolving line beside it
    state["follows"] = rng.random(size) < 0.6  # whose second line falls behind too, a month later
    loan = new_loan(rng, state)
    elapsed = np.floor(rng.random(size) * loan["term"]).astype(np.int64) if stock else np.zeros(size, dtype=np.int64)
    state |= loan
    state["has_loan"] = has_loan
    state["clock"] = np.where(has_loan, loan["term"] - elapsed, 0)
    state["loan_number"] = np.ones(size, dtype=np.int64)
    state["bucket"] = np.where(has_loan, np.minimum(bucket, elapsed), bucket)  # no more unpaid dues than dues
    loan_month = np.where(has_loan, month - elapsed - int(stock), month)
    state["loan_day"] = np.where(elapsed + int(stock) > 0, first_day(loan_month) + 14, opened)
    state["opened"] = np.minimum(opened, np.where(has_loan, state["loan_day"], opened))
    limit = np.where(company, income * rng.uniform(0.15, 0.5, size), income * rng.uniform(0.8, 3.0, size))
    state["limit"] = cents(np.maximum(np.round(limit, -2), np.where(company, 1500, 1000)))
    state["use"] = np.clip(0.25 + 0.15 * stress + 0.1 * state["taste_use"], 0.02, 0.95)
    state["account"] = cents(income * (1.2 - 0.3 * stress) * np.exp(0.4 * state["taste_save"]))
    state["bureau_day"] = np.where(rng.random(size) < 0.38, opened - rng.integers(40, 900, size), -1)
    state["bureau_bucket"] = np.zeros(size, dtype=np.int64)
    state["bureau_size"] = cents(np.round(income * rng.uniform(0.5, 5.0, size), -2) + 500)
    return state
