"""What a month leaves in the credit books: contracts, dues, payments, month-end statements, lines elsewhere.

A customer's bucket counts the unpaid dues of the main credit (the loan, or else the revolving line: a person's card, a
company's trade account). A second, revolving line of a customer who `follows` is one due behind the main one.
Every due falls on the customer's own day (5 to 25), so the fourth unpaid due is at least 95 days late at a month's end
and the third at most 87: the main credit is stated 90 days past due if and only if the bucket is 4.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.world import hazard
from models.world.calendar import first_day, last_day
from models.world.columns import dates, money, names, nullable, ratios, table, whole
from models.world.customers import COMPANY, State, cents, present_value
from models.world.life import Move

Array = np.ndarray
Tables = dict[str, pa.Table]
REVOLVING_NUMBER, BUREAU_NUMBER = 90, 80  # contract number = client number * 100 + one of these, or the loan's number
PRODUCTS = ("LOAN_P", "LOAN_B", "CARD", "TRADE")
STATES = ("N", "L", "D", "X", "W")  # running, late, in default, closed, written off
CARD_TARGET = np.array([0.28, 0.42, 0.62, 0.80])  # utilisation drawn towards, by stress
LATENESS = np.array([0.4, 1.2, 3.0, 5.0])  # mean days between due and paid when a due is paid in its month, by stress


def due_day(state: State, month: Array | int) -> Array:
    """Return the day number on which each customer's due of `month` falls."""
    return first_day(month) + state["due_day"] - 1


def mixed(number: Array, month: Array | int) -> Array:
    """Return a fixed uniform in [0, 1) for each (client, month): SplitMix64's finaliser, so no state need be kept."""
    x = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.asarray(month + 4096, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(float) * 2.0**-53


def invoice(state: State, month: Array | int) -> Array:
    """Return the cents of the trade invoice that falls due in `month`, for each customer."""
    busy = 1 + 0.12 * np.sin(2 * np.pi * (np.asarray(month) % 12) / 12)
    return np.rint(state["limit"] * 0.25 * busy * (0.75 + 0.45 * mixed(state["number"], month))).astype(np.int64)


def behind(state: State, bucket: Array) -> Array:
    """Return the unpaid dues of the revolving line when the main credit has `bucket` unpaid."""
    return np.where(state["has_loan"], np.maximum(bucket - 1, 0) * state["follows"], bucket)


def has_revolving(state: State) -> Array:
    """Return who holds a card or a trade account."""
    return ~state["has_loan"] | state["second"]


def contracts(state: State, rows: Array, *, revolving: bool, start: int) -> pa.Table:
    """Return contract rows of the given customers, loan or revolving line; known when signed, or at `start`."""
    company = state["kind"][rows] == COMPANY
    signed = np.maximum(state["opened"], state["loan_day"])[rows] if not revolving else state["opened"][rows]
    loan = np.full(len(rows), not revolving)
    number = np.where(loan, state["loan_number"][rows], REVOLVING_NUMBER)
    return table(
        {
            "contract_no": whole(state["number"][rows] * 100 + number),
            "client_no": whole(state["number"][rows]),
            "product_code": names(np.where(loan, 0, 2) + company, PRODUCTS),
            "signed_on": dates(signed),
            "granted": nullable(money(state["principal"][rows]), ~loan),
            "ceiling": nullable(money(state["limit"][rows]), loan),
            "months": whole(state["term"][rows], ~loan),
            "rate_pct": ratios(np.where(loan, state["rate"][rows] * 100, np.where(company, np.nan, 18.9))),
            "entered_on": dates(np.maximum(signed, start)),
        }
    )


def schedule(state: State, rows: Array, month: Array) -> pa.Table:
    """Return one loan instalment a row, due in `month` (per row) and known on its day."""
    due = due_day(state, 0)[rows] - first_day(0) + first_day(month)
    return table(
        {
            "contract_no": whole(state["number"][rows] * 100 + state["loan_number"][rows]),
            "due_date": dates(due),
            "instalment": money(state["instalment"][rows]),
            "entered_on": dates(due),
        }
    )


def invoices(state: State, rows: Array, month: Array) -> pa.Table:
    """Return one trade invoice a row, due in `month` (per row), issued a month earlier and known then."""
    day = state["due_day"][rows] - 1
    few = {name: state[name][rows] for name in ("number", "limit")}
    issued = np.maximum(first_day(month - 1) + day, state["opened"][rows])
    return table(
        {
            "contract_no": whole(few["number"] * 100 + REVOLVING_NUMBER),
            "issued_on": dates(issued),
            "pay_by": dates(first_day(month) + day),
            "invoice_total": money(invoice(few, month)),
        }
    )


def payments(
    rng: np.random.Generator, state: State, move: Move, month: int, minimum: Array, first_number: int
) -> pa.Table:
    """Return the month's payments: each paid due of loans and trade accounts, and one sum a month on cards."""
    company = state["kind"] == COMPANY
    line = has_revolving(state)
    after = behind(state, state["bucket"])
    line_before = behind(state, move["before"])
    line_paid = np.where(
        move["called"], np.where(move["cured"], line_before, 0), np.where(move["fresh"], 0, line_before + 1 - after)
    )
    line_from = np.where(move["called"], state["default_month"] - line_before + 1, month - line_before)
    loan_paid = np.where(state["has_loan"], move["paid"], 0)
    trade_paid = np.where(line & company, line_paid, 0)
    card_paid = np.where(line & ~company & (line_paid > 0), 1, 0)

    parts = []
    counted = ((0, loan_paid, move["paid_from"]), (1, trade_paid, line_from), (2, card_paid, line_from))
    for code, count, since in counted:
        row = np.repeat(np.arange(len(count)), count)
        order = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        due_month = since[row] + order if code < 2 else np.full(len(row), month)
        parts.append((np.full(len(row), code), row, due_month))
    kind, row, due_month = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    few = {name: state[name][row] for name in ("number", "limit", "due_day")}
    due = first_day(due_month) + few["due_day"] - 1
    lag = rng.exponential(LATENESS[state["stress"][row]] * np.exp(0.4 * state["taste_late"][row])) - 1
    on_time = np.clip(due + np.floor(lag).astype(np.int64), first_day(month), last_day(month))
    catching_up = first_day(month) + rng.integers(0, 27, len(row))
    paid_on = np.where(due_month == month, on_time, catching_up)
    spare = np.array([0.30, 0.14, 0.05, 0.01])[state["stress"][row]] * rng.random(len(row))
    card = minimum[row] * line_paid[row] + np.rint(state["limit"][row] * state["use"][row] * spare).astype(np.int64)
    amount = np.choose(kind, [state["instalment"][row], invoice(few, due_month), card])
    contract = np.where(kind == 0, state["loan_number"][row], REVOLVING_NUMBER)
    late = np.where(rng.random(len(row)) < 0.003, rng.integers(8, 45, len(row)), 0)
    order = np.argsort(row * 4 + kind, kind="stable")
    return table(
        {
            "receipt_no": whole(first_number + np.arange(len(row))),
            "contract_no": whole((few["number"] * 100 + contract)[order]),
            "paid_date": dates(paid_on[order]),
            "paid": money(amount[order]),
            "for_due_date": nullable(dates(due[order]), kind[order] == 2),
            "entered_on": dates((paid_on + late)[order]),
        }
    )


def use_lines(rng: np.random.Generator, state: State) -> Array:
    """Move every card's utilisation through the month, in place; return each card's minimum due [cents]."""
    target = CARD_TARGET[state["stress"]] + 0.14 * state["taste_use"]
    moved = 0.78 * state["use"] + 0.22 * target + rng.normal(0, 0.045, len(target))
    moved = np.clip(moved, 0.03, 1.0)
    moved = np.where(state["bucket"] > 0, np.maximum(moved, 0.55), moved)
    state["use"] = np.where(state["bucket"] == hazard.DEFAULT, np.maximum(state["use"], 0.55), moved)
    balance = np.rint(state["limit"] * state["use"]).astype(np.int64)
    return np.minimum(balance, np.maximum(4000, balance // 20))


def statements(state: State, move: Move, month: int, minimum: Array) -> pa.Table:
    """Return the month-end state of every own credit; one that ends is stated once more, closed with nothing owed."""
    end = last_day(month)
    default = state["bucket"] == hazard.DEFAULT
    closing = move["left"] | move["written_off"]

    loan = np.flatnonzero(state["has_loan"])
    unpaid = np.where(default, 4, state["bucket"])
    owed = present_value(state["instalment"].astype(float), state["rate"], state["clock"])
    owed = np.rint(owed).astype(np.int64) + unpaid * state["instalment"]
    first_unpaid = np.where(default, state["default_month"] - 3, month - state["bucket"] + 1)
    late = np.where(unpaid > 0, end - due_day(state, first_unpaid), 0)
    piled = np.where(default, 4 + month - state["default_month"], unpaid) * state["instalment"]
    ended = closing | move["matured"]
    number = state["loan_number"] - move["renewed"]
    parts = [_stated(state, loan, month, number, owed, None, unpaid, late, piled, ended, move)]
    renewed = np.flatnonzero(move["renewed"])
    nothing = np.zeros(len(unpaid), dtype=np.int64)
    open_still = np.zeros(len(unpaid), dtype=bool)
    number, owed = state["loan_number"], state["principal"]
    parts.append(_stated(state, renewed, month, number, owed, None, nothing, nothing, nothing, open_still, move))

    company = state["kind"] == COMPANY
    line = np.flatnonzero(has_revolving(state))
    unpaid = behind(state, state["bucket"])
    anchor = np.where(default, state["default_month"], month)
    late = np.where(unpaid > 0, end - due_day(state, anchor - unpaid + 1), 0)
    bills = np.zeros(len(unpaid), dtype=np.int64)
    for back in range(hazard.DEFAULT):
        bills += np.where(unpaid > back, invoice(state, anchor - back), 0)
    coming = np.where(default, 0, invoice(state, month + 1))
    balance = np.where(company, bills + coming, np.rint(state["limit"] * state["use"]).astype(np.int64))
    overdue = np.where(company, bills, np.minimum(unpaid * minimum, balance))
    least = np.where(company, bills + coming, minimum)
    number = np.full(len(unpaid), REVOLVING_NUMBER)
    parts.append(_stated(state, line, month, number, balance, least, unpaid, late, overdue, closing, move))
    return pa.concat_tables(parts)


def _stated(
    state: State,
    rows: Array,
    month: int,
    number: Array,
    balance: Array,
    least: Array | None,
    unpaid: Array,
    late: Array,
    overdue: Array,
    ended: Array,
    move: Move,
) -> pa.Table:
    """Return the statement rows of one kind of credit for the chosen customers."""
    end = np.full(len(rows), last_day(month))
    due = state["instalment"] if least is None else least
    code = np.where(unpaid > 0, 1, 0)
    code = np.where(state["bucket"] == hazard.DEFAULT, 2, code)
    code = np.where(ended, np.where(move["written_off"], 4, 3), code)[rows]
    live = ~ended[rows]
    limit = money(state["limit"][rows])
    return table(
        {
            "contract_no": whole(state["number"][rows] * 100 + number[rows]),
            "statement_date": dates(end),
            "outstanding": money(balance[rows] * live),
            "ceiling": nullable(limit, np.full(len(rows), least is None)),
            "minimum_payment": money(due[rows] * live),
            "days_late": whole(late[rows] * live),
            "amount_late": money(overdue[rows] * live),
            "state_code": names(code, STATES),
        }
    )


def bureau_step(rng: np.random.Generator, state: State, month: int) -> Array:
    """Move the lines elsewhere through the month, in place; return who opened one in it."""
    uniform = rng.random((4, len(state["kind"])))
    here = hazard.law(month)
    before = state["bureau_bucket"]
    after = hazard.draw(here.bucket[state["type"], state["stress"], np.minimum(before, 3)], uniform[0])
    after = np.where(before == hazard.DEFAULT, np.where(uniform[1] < 0.08, 0, hazard.DEFAULT), after)
    opens = (state["bureau_day"] < 0) & (uniform[2] < 0.004 * (1 + state["stress"]))
    settled = (state["bureau_day"] >= 0) & (state["bureau_day"] < first_day(month - 1))
    state["bureau_bucket"] = np.where(settled, after, 0)
    state["bureau_day"] = np.where(opens, first_day(month) + (uniform[3] * 28).astype(np.int64), state["bureau_day"])
    return opens


def bureau_lines(rng: np.random.Generator, state: State, rows: Array, start: int) -> pa.Table:
    """Return the given customers' credit lines elsewhere, reported three to eight weeks after they were opened."""
    opened = state["bureau_day"][rows]
    reported = np.maximum(np.maximum(opened + rng.integers(21, 57, len(rows)), state["opened"][rows]), start)
    return table(
        {
            "line_ref": whole(state["number"][rows] * 100 + BUREAU_NUMBER),
            "client_no": whole(state["number"][rows]),
            "line_type": names(state["number"][rows] % 3, ("instalment_credit", "card", "overdraft")),
            "opened_on": dates(opened),
            "granted": money(state["bureau_size"][rows]),
            "reported_on": dates(reported),
        }
    )


def bureau_months(rng: np.random.Generator, state: State, month: int) -> pa.Table:
    """Return the month-end state of lines elsewhere, reported two to five weeks later, once two months old."""
    rows = np.flatnonzero((state["bureau_day"] >= 0) & (state["bureau_day"] < first_day(month - 1)))
    unpaid = state["bureau_bucket"][rows]
    end = np.full(len(rows), last_day(month))
    share = 0.35 + 0.3 * mixed(state["number"][rows], 0) + 0.08 * state["stress"][rows] + rng.normal(0, 0.05, len(rows))
    balance = cents(state["bureau_size"][rows] / 100 * np.clip(share, 0.02, 1.0))
    late = np.where(unpaid > 0, unpaid * 30 - 28 + state["due_day"][rows], 0)
    return table(
        {
            "line_ref": whole(state["number"][rows] * 100 + BUREAU_NUMBER),
            "month_end": dates(end),
            "outstanding": money(balance),
            "days_late": whole(late),
            "amount_late": money(balance * unpaid // 12),
            "reported_on": dates(end + rng.integers(14, 36, len(rows))),
        }
    )
