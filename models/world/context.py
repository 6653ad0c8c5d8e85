"""What surrounds a customer: yearly accounts published late, industry, market standing, what is said in public."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.world import hazard
from models.world.calendar import first_day, last_day
from models.world.columns import dates, money, names, ratios, table, whole
from models.world.customers import COMPANY, HOUSING, JOBS, LEGAL_FORMS, PERSON, REGIONS, SEGMENTS, State, cents

Array = np.ndarray
SECTOR_NAMES = tuple(name[:4].upper() for name in hazard.SECTORS)  # the lender's own code of a sector
LEVELS = (*SEGMENTS[PERSON], *SEGMENTS[COMPANY])
VOICES = ("press", "social", "reviews", "court_register")


def clients(state: State, rows: Array, known: Array) -> pa.Table:
    """Return the client rows of the given customers, known on the given days."""
    company = state["kind"][rows] == COMPANY
    return table(
        {
            "client_no": whole(state["number"][rows]),
            "client_type": names(company.astype(np.int64), ("P", "F")),
            "joined": dates(state["opened"][rows]),
            "sector_code": names(state["sector"][rows], SECTOR_NAMES),
            "branch_region": names(state["region"][rows], REGIONS),
            "service_level": names(state["segment"][rows] + 3 * company, LEVELS),
            "birth_year": whole(state["birth_year"][rows], company),
            "declared_income": ratios(state["declared"][rows]),
            "housing": names(np.where(company, -1, state["housing"][rows]), HOUSING),
            "job": names(np.where(company, -1, state["job"][rows]), JOBS),
            "legal_form": names(np.where(company, state["legal_form"][rows], -1), LEGAL_FORMS),
            "headcount": whole(state["employees"][rows], ~company),
            "entered_on": dates(known),
        }
    )


def accounts(rng: np.random.Generator, state: State, rows: Array, year: int, start: int) -> pa.Table:
    """Return companies' accounts for `year`, filed 70 to 165 days after its end; known at `start` if filed before."""
    size = len(rows)
    mood, lever = state["mood"][rows], state["leverage"][rows]
    noise = rng.standard_normal((7, size))
    revenue = state["income"][rows] * 12 * np.exp(0.1 * noise[0] - 0.05 * mood)
    total = revenue * np.exp(0.25 * noise[1] - 0.2)
    debt = np.clip(0.50 + 0.10 * lever + 0.05 * mood + 0.07 * noise[2], 0.08, 1.15)
    liabilities = total * debt
    current_liabilities = liabilities * np.clip(0.5 + 0.08 * noise[3] + 0.04 * mood, 0.2, 0.9)
    current_assets = np.minimum(current_liabilities * np.exp(0.45 - 0.16 * mood + 0.2 * noise[4]), 0.85 * total)
    margin = 0.09 - 0.025 * mood - 0.01 * lever + 0.03 * noise[5]
    ebit = revenue * margin
    interest = 0.05 * (liabilities - 0.6 * current_liabilities)
    before_tax = ebit - interest
    net = np.where(before_tax > 0, 0.75, 1.0) * before_tax
    equity = cents(total) - cents(liabilities)  # the balance sheet balances to the cent
    end = np.full(size, last_day((year - 2021) * 12 + 11))
    filed = np.maximum(np.maximum(end + rng.integers(70, 166, size), state["opened"][rows]), start)
    return table(
        {
            "client_no": whole(state["number"][rows]),
            "year_end": dates(end),
            "filed_on": dates(filed),
            "current_assets": money(cents(current_assets)),
            "stock": money(cents(current_assets * np.clip(0.3 + 0.08 * noise[6], 0, 0.8))),
            "total_assets": money(cents(total)),
            "current_debt": money(cents(current_liabilities)),
            "total_debt": money(cents(liabilities)),
            "equity": money(equity),
            "retained": money(equity * 6 // 10),
            "turnover": money(cents(revenue)),
            "operating_profit": money(cents(ebit)),
            "interest": money(cents(interest)),
            "net_profit": money(cents(net)),
            "cash_from_operations": money(cents(net + 0.04 * total + 0.02 * revenue * noise[6])),
        }
    )


def sectors(rng: np.random.Generator, month: int) -> pa.Table:
    """Return each industry's figures for the quarter that ended before `month`, published on its twentieth day."""
    size = len(hazard.SECTORS)
    quarter = month - 3
    noise = rng.standard_normal((4, size))
    depth = hazard.SECTOR_CYCLE * hazard.downturn(quarter + 1)
    rate = np.clip(0.04 + 0.03 * hazard.SECTOR_RISK + 0.035 * depth + 0.004 * noise[0], 0.002, 0.5)
    return table(
        {
            "sector_code": names(np.arange(size), SECTOR_NAMES),
            "quarter": dates(np.full(size, first_day(quarter))),
            "size_m": ratios(800 + 300 * np.arange(size) * (1 + 0.004 * quarter) - 60 * depth, 1),
            "growth": ratios(0.025 - 0.05 * depth + 0.006 * noise[1]),
            "rivalry": ratios(np.clip(0.5 + 0.2 * hazard.SECTOR_RISK + 0.05 * noise[2], 0, 1)),
            "bad_rate": ratios(rate),
            "policy": ratios(np.clip(0.4 * depth - 0.1 + 0.15 * noise[3], -1, 1)),  # support comes with the downturn
            "published": dates(np.full(size, first_day(month) + 19)),
        }
    )


def standings(rng: np.random.Generator, state: State, rows: Array, month: int) -> pa.Table:
    """Return the companies' market standing for the quarter that starts in `month`, scored within its first weeks."""
    size = len(rows)
    noise = rng.standard_normal((4, size))
    weak = 0.5 * hazard.CLASS_SCORE[state["risk_class"][rows]] + 0.25 * state["mood"][rows]
    return table(
        {
            "client_no": whole(state["number"][rows]),
            "quarter": dates(np.full(size, first_day(month))),
            "share": ratios(np.clip(0.02 * np.exp(0.3 * noise[0] - 0.15 * weak), 0, 1), 5),
            "brand": ratios(np.clip(55 - 6 * weak + 12 * noise[1], 0, 100), 1),
            "uniqueness": ratios(np.clip(50 - 5 * weak + 14 * noise[2], 0, 100), 1),
            "relations": ratios(np.clip(60 - 5 * weak + 12 * noise[3], 0, 100), 1),
            "scored_on": dates(np.maximum(first_day(month) + rng.integers(5, 26, size), state["opened"][rows])),
        }
    )


def mentions(rng: np.random.Generator, state: State, month: int, first_number: int) -> pa.Table:
    """Return what was said of companies in `month`, found within days; the worse the stress, the more and the worse."""
    company = state["kind"] == COMPANY
    rate = np.where(company, np.array([0.16, 0.2, 0.28, 0.4])[state["stress"]], 0.0)
    row = np.repeat(np.arange(len(rate)), rng.poisson(rate))
    size = len(row)
    said = first_day(month) + rng.integers(0, 28, size)
    tone = 0.25 - 0.22 * state["stress"][row] + 0.4 * rng.standard_normal(size)
    return table(
        {
            "mention_no": whole(first_number + np.arange(size)),
            "client_no": whole(state["number"][row]),
            "said_on": dates(said),
            "voice": names(rng.integers(0, len(VOICES), size), VOICES),
            "tone": ratios(np.clip(tone, -1, 1), 3),
            "audience": ratios(np.round(np.exp(6 + 1.5 * rng.standard_normal(size)))),
            "found_on": dates(np.maximum(said + rng.integers(0, 6, size), state["opened"][row])),
        }
    )
