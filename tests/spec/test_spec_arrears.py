"""The arrears curve: drawn by hand, and against a loop over days."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from random import Random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.features.drawn import draw, observe, values

CREDITS = draw("credits", "credit_id customer_id provider opened_on\nk a own 2022-01-01")
INSTALMENTS = draw(
    "instalments",
    """
    credit_id due_on     amount known_on
    k         2023-12-31 100    2022-01-01
    k         2024-01-10 50     2022-01-01
    k         2024-02-28 30     2022-01-01
    """,
)
PAYMENTS = draw(
    "payments",
    """
    payment_id credit_id paid_on    amount due_on
    p1         k         2024-01-05 100    2023-12-31
    p2         k         2024-01-20 50     2024-01-10
    """,
)
LATER = observe("a 2030-01-01")  # columns are those that the source gives by then
TABLES = {"credits": CREDITS, "instalments": INSTALMENTS, "payments": PAYMENTS}


def test_two_settled_spells_and_one_that_still_runs_over_a_leap_day():
    row = values(TABLES, "a 2024-03-03")["a", "2024-03-03"]
    # overdue: 100 on 1 to 5 January, 50 on 11 to 20 January, 30 from 29 February to 3 March
    assert row["arrears_longest_days_365d"] == 10.0
    assert row["arrears_spell_count_365d"] == 3.0
    assert row["arrears_overdue_max_365d"] == 100.0
    first_due = (dt.date(2024, 3, 3) - dt.date(2023, 12, 31)).days
    assert row["arrears_days_share_365d"] == pytest.approx((5 + 10 + 4) / first_due)
    assert row["arrears_overdue_mean_365d"] == pytest.approx((5 * 100 + 10 * 50 + 4 * 30) / first_due)


def test_spells_that_touch_are_one_and_their_amounts_add_up():
    due = draw(
        "instalments",
        "credit_id due_on amount known_on\nk 2024-01-10 50 2022-01-01\nk 2024-01-15 20 2022-01-01\nk 2024-01-20 5 2022-01-01",
    )
    paid = draw(
        "payments",
        "payment_id credit_id paid_on amount due_on\n"
        "p1 k 2024-01-18 50 2024-01-10\np2 k 2024-01-20 20 2024-01-15\np3 k 2024-01-25 5 2024-01-20",
    )
    row = values({"credits": CREDITS, "instalments": due, "payments": paid}, "a 2024-03-01")["a", "2024-03-01"]
    assert row["arrears_longest_days_365d"] == 15.0
    assert row["arrears_spell_count_365d"] == 1.0
    assert row["arrears_overdue_max_365d"] == 70.0


def test_nothing_due_is_null_and_always_in_time_is_zero():
    rows = values(TABLES, "a 2023-12-31\na 2024-01-01", training=LATER)
    assert rows["a", "2023-12-31"]["arrears_longest_days_365d"] is None
    on_time = rows["a", "2024-01-01"]
    assert on_time["arrears_longest_days_365d"] == 1.0  # due the day before, and no payment was known
    paid = draw("payments", "payment_id credit_id paid_on amount due_on\np k 2023-12-31 100 2023-12-31")
    row = values({**TABLES, "payments": paid}, "a 2024-01-05")["a", "2024-01-05"]
    assert [row[f"arrears_{name}_365d"] for name in ("longest_days", "overdue_max", "days_share", "overdue_mean")] == [
        0
    ] * 4


def test_a_spell_is_cut_at_the_edge_of_the_year():
    unpaid = draw("payments", "payment_id credit_id paid_on amount due_on\np k 2029-01-05 100 2023-12-31")
    rows = values({**TABLES, "payments": unpaid}, "a 2024-12-30\na 2025-06-01", training=LATER)
    assert rows["a", "2024-12-30"]["arrears_longest_days_365d"] == 365.0
    assert rows["a", "2025-06-01"]["arrears_longest_days_365d"] == 365.0
    assert rows["a", "2024-12-30"]["arrears_days_share_365d"] == 1.0
    assert rows["a", "2025-06-01"]["arrears_overdue_mean_365d"] == 180.0


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(400, 560))
def test_the_curve_equals_a_loop_over_days(seed, at):
    """Sixty customers a draw: payments early, late, unknown yet or never, invoices one on another."""
    random = Random(seed)
    start = dt.date(2022, 6, 1)
    as_of = start + dt.timedelta(days=at)
    held, due, paid, expected = [], [], [("x", "k0", start, Decimal(0), start, start)], {}
    for number in range(60):
        name = f"k{number}"
        held.append((name, f"c{number}", "own", start, start))
        overdue: dict[dt.date, int] = {}
        first = None
        for day in random.sample(range(500), random.randint(1, 8)):
            due_on, amount = start + dt.timedelta(days=day), random.randint(1, 9)
            due.append((name, due_on, Decimal(amount), start))
            settled = None
            if random.random() < 0.7:
                settled = due_on + dt.timedelta(days=random.randint(-10, 120))
                known = settled + dt.timedelta(days=random.choice([0, 0, 1, 30]))
                paid.append((f"{name}/{day}", name, settled, Decimal(amount), due_on, known))
                if settled >= as_of or known >= as_of:
                    settled = None
            if due_on < as_of:
                first = min(first or due_on, due_on)
                for back in range(((settled or as_of) - due_on).days):
                    on = due_on + dt.timedelta(days=back + 1)
                    if on > as_of - dt.timedelta(days=365):
                        overdue[on] = overdue.get(on, 0) + amount
        expected[f"c{number}"] = (first, overdue)
    money, text, date = pa.decimal128(18, 2), pa.string(), pa.date32()
    tables = {
        "credits": table(
            held, {"credit_id": text, "customer_id": text, "provider": text, "opened_on": date, "known_on": date}
        ),
        "instalments": table(due, {"credit_id": text, "due_on": date, "amount": money, "known_on": date}),
        "payments": table(
            paid,
            {"payment_id": text, "credit_id": text, "paid_on": date, "amount": money, "due_on": date, "known_on": date},
        ),
    }
    asked = "\n".join(f"{customer} {as_of}" for customer in expected)
    for (customer, _), row in values(tables, asked, training=LATER).items():
        first, overdue = expected[customer]
        if first is None:
            assert row["arrears_longest_days_365d"] is None
            continue
        longest = run = 0
        for back in range(366, -1, -1):
            run = run + 1 if as_of - dt.timedelta(days=back) in overdue else 0
            longest = max(longest, run)
        window = min(365, (as_of - first).days)
        assert row["arrears_longest_days_365d"] == longest
        assert row["arrears_overdue_max_365d"] == max(overdue.values(), default=0)
        assert row["arrears_days_share_365d"] == pytest.approx(len(overdue) / window, abs=1e-12)
        assert row["arrears_overdue_mean_365d"] == pytest.approx(sum(overdue.values()) / window, abs=1e-9)


def table(rows: list[tuple], kinds: dict[str, pa.DataType]) -> pa.Table:
    return pa.table({name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(kinds.items())})
