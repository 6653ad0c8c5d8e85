"""Labels on rows drawn by hand, and against a slow oracle that walks the rows of one customer at a time."""

import datetime as dt
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.labels import Rules, judge, stated

D = dt.date
LONG_AGO = D(2020, 1, 1)
TABLES = {
    "credits": "credit_id VARCHAR, customer_id VARCHAR, provider VARCHAR, opened_on DATE, principal DECIMAL(18,2),"
    " credit_limit DECIMAL(18,2), term_months INTEGER, known_on DATE",
    "statements": "credit_id VARCHAR, stated_on DATE, balance DECIMAL(18,2), days_past_due INTEGER,"
    " overdue_amount DECIMAL(18,2), status VARCHAR, known_on DATE",
    "instalments": "credit_id VARCHAR, due_on DATE, amount DECIMAL(18,2), known_on DATE",
    "payments": "payment_id VARCHAR, credit_id VARCHAR, paid_on DATE, amount DECIMAL(18,2), known_on DATE",
}


def engine(**rows):
    connection = duckdb.connect()
    for table, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({columns})")
        if rows.get(table):
            marks = ", ".join("?" * len(rows[table][0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
    return connection


def judged(connection, dates, cut, rules=None, population="open_credit"):
    judge(connection, set(TABLES), rules or Rules(), dates, cut, population=population)
    query = "SELECT customer_id, as_of, excluded_because, outcome, outcome_known_on, unknown_because FROM judged"
    return {(row[0], row[1]): row[2:] for row in connection.execute(query).fetchall()}


def credit(name="k", customer="c", opened=LONG_AGO, provider="own", term=None, known=None):
    return (name, customer, provider, opened, 1000, None, term, known or opened)


def state(on, late=0, credit="k", balance=500, status="active", known=None, overdue=None):
    return (credit, on, balance, late, (balance if late else 0) if overdue is None else overdue, status, known or on)


AS_OF, CUT = D(2021, 1, 1), D(2022, 1, 1)


def one(statements, *, as_of=AS_OF, cut=CUT, rules=None, own=None):
    return judged(engine(credits=own or [credit()], statements=statements), [as_of], cut, rules).get(("c", as_of))


def test_a_default_in_the_window_is_bad_and_dated_by_its_knowledge():
    found = one([state(D(2020, 12, 31)), state(D(2021, 6, 30), 90, known=D(2021, 7, 5))])
    assert found == (None, 1, D(2021, 7, 5), None)


def test_no_default_in_a_closed_window_is_good():
    assert one([state(D(2020, 12, 31)), state(D(2021, 6, 30), 89)]) == (None, 0, D(2021, 12, 31), None)


@pytest.mark.fault("E4")
def test_an_open_window_is_unknown_never_good():
    assert one([state(D(2020, 12, 31))], cut=D(2021, 12, 31)) == (None, None, None, "window_open")


@pytest.mark.fault("D7")
def test_the_window_is_half_open():
    assert one([state(D(2021, 1, 1), 90)])[1] == 1
    assert one([state(D(2021, 12, 31), 90, known=D(2021, 12, 31))])[1] == 1
    assert one([state(D(2022, 1, 1), 90, known=D(2022, 1, 1))], cut=D(2022, 6, 1))[1] == 0


def test_what_is_known_on_the_cut_does_not_matter():
    late = state(D(2021, 6, 30), 90, known=CUT)
    assert one([state(D(2020, 12, 31)), late]) == one([state(D(2020, 12, 31))])
    assert one([state(D(2020, 12, 31)), late], cut=CUT + dt.timedelta(days=1))[1] == 1


def test_a_small_amount_is_no_default():
    rules = Rules(materiality_absolute=Decimal(100))
    assert one([state(D(2021, 6, 30), 120, overdue=100)], rules=rules)[1] == 0
    assert one([state(D(2021, 6, 30), 120, overdue=Decimal("100.01"))], rules=rules)[1] == 1
    relative = Rules(materiality_relative=Decimal("0.1"))
    assert one([state(D(2021, 6, 30), 120, balance=1000, overdue=100)], rules=relative)[1] == 0


@pytest.mark.fault("D6")
def test_a_restatement_counts_from_when_it_was_known():
    rows = [state(D(2021, 3, 31), 95, known=D(2021, 4, 1)), state(D(2021, 3, 31), 5, known=D(2021, 8, 1))]
    assert one(rows)[1] == 0
    assert one(rows, as_of=D(2021, 6, 1), cut=D(2022, 6, 1))[0] == "in_default"
    assert one(rows, as_of=D(2021, 8, 1), cut=D(2022, 8, 1))[0] == "in_default"
    assert one(rows, as_of=D(2021, 9, 1), cut=D(2022, 9, 1))[0] is None


def test_in_default_probation_and_return():
    rows = [state(D(2020, 6, 30), 90), state(D(2020, 7, 31), 0)]
    assert one(rows, as_of=D(2020, 7, 1))[0] == "in_default"
    assert one(rows, as_of=D(2020, 8, 1))[0] == "probation"
    assert one(rows, as_of=D(2021, 6, 1), cut=D(2023, 1, 1))[0] == "probation"
    assert one(rows, as_of=D(2021, 7, 1), cut=D(2023, 1, 1))[0] is None


def test_closed_and_left_early():
    rows = [state(D(2020, 12, 31)), state(D(2021, 5, 31), balance=0, status="closed")]
    assert one(rows) == (None, None, None, "left_early")
    assert one(rows, rules=Rules(left_early="good"))[1] == 0
    assert one(rows, as_of=D(2021, 6, 1), cut=D(2023, 1, 1))[0] == "closed"
    both = [credit(), credit("other")]
    assert one(rows, own=both)[1] == 0


def test_only_own_credits_count():
    foreign = [credit(), credit("b", provider="credit_bureau")]
    assert one([state(D(2021, 6, 30), 120, credit="b")], own=foreign)[1] == 0
    assert one([], own=[credit("b", provider="credit_bureau")]) is None


def test_a_credit_opened_or_learned_later_is_not_in_the_population():
    assert one([], own=[credit(opened=AS_OF)]) is None
    assert one([], own=[credit(opened=D(2020, 1, 1), known=AS_OF)]) is None


def test_instalments_alone_make_a_default_first_in_first_out():
    due = [("k", D(2021, month, 1), 100, D(2020, 1, 1)) for month in range(1, 7)]
    paid = [("p1", "k", D(2021, 1, 1), 100, D(2021, 1, 2)), ("p2", "k", D(2021, 3, 1), 100, D(2021, 3, 2))]
    connection = engine(credits=[credit()], instalments=due, payments=paid)
    found = judged(connection, [AS_OF], CUT)[("c", AS_OF)]
    assert found == (
        None,
        1,
        D(2021, 3, 1) + dt.timedelta(days=90),
        None,
    )  # February is covered by the payment of March
    full = [(f"p{month}", "k", D(2021, month, 1) + dt.timedelta(days=89), 100, D(2021, 12, 1)) for month in range(1, 7)]
    assert judged(engine(credits=[credit()], instalments=due, payments=full), [AS_OF], CUT)[("c", AS_OF)][1] == 0
    late = [(name, k, on + dt.timedelta(days=1), amount, known) for name, k, on, amount, known in full]
    assert judged(engine(credits=[credit()], instalments=due, payments=late), [AS_OF], CUT)[("c", AS_OF)][1] == 1


def test_instalments_of_a_credit_with_statements_are_left_to_the_statements():
    due = [("k", D(2021, 1, 1), 100, D(2020, 1, 1))]
    connection = engine(credits=[credit()], instalments=due, statements=[state(D(2021, 6, 30), 0)])
    assert judged(connection, [AS_OF], CUT)[("c", AS_OF)][1] == 0


def test_a_paid_up_loan_is_closed_at_the_end_of_its_term():
    due = [("k", D(2020, 2, 1), 100, D(2020, 1, 1))]
    paid = [("p", "k", D(2020, 2, 1), 100, D(2020, 2, 2))]
    connection = engine(credits=[credit(term=6)], instalments=due, payments=paid)
    found = judged(connection, [D(2020, 7, 1), D(2020, 8, 1)], CUT)
    assert found[("c", D(2020, 7, 1))][0] is None
    assert found[("c", D(2020, 8, 1))][0] == "closed"


def test_the_population_sees_the_instalments_that_were_known_then():
    """Due 100 in September; restated in June 2021 to nothing due: who was late on 1 January stays so, and not after."""
    due = [("k", D(2020, 9, 1), 100, D(2020, 1, 1)), ("k", D(2020, 9, 1), 0, D(2021, 6, 1))]
    found = judged(engine(credits=[credit()], instalments=due), [AS_OF, D(2021, 7, 1)], CUT)
    assert found[("c", AS_OF)][0] == "in_default"
    assert found[("c", D(2021, 7, 1))][0] is None


def test_the_population_sees_the_payments_that_were_known_then():
    """Paid in time, but entered half a year later, or entered at once and taken back half a year later."""
    due = [("k", D(2020, 9, 1), 100, D(2020, 1, 1))]
    late = [("p", "k", D(2020, 9, 1), 100, D(2021, 6, 1))]
    found = judged(engine(credits=[credit()], instalments=due, payments=late), [AS_OF, D(2021, 7, 1)], CUT)
    assert (found[("c", AS_OF)][0], found[("c", D(2021, 7, 1))][0]) == ("in_default", None)
    back = [("p", "k", D(2020, 9, 1), 100, D(2020, 9, 2)), ("p", "k", D(2020, 9, 1), 0, D(2021, 6, 1))]
    found = judged(engine(credits=[credit()], instalments=due, payments=back), [AS_OF, D(2021, 7, 1)], CUT)
    assert (found[("c", AS_OF)][0], found[("c", D(2021, 7, 1))][0]) == (None, "in_default")


def test_a_closing_that_was_restated_counts_while_it_was_believed():
    rows = [
        state(D(2020, 12, 31)), state(D(2021, 2, 28), status="closed"), state(D(2021, 2, 28), known=D(2021, 5, 1)),
    ]  # fmt: skip
    days = [D(2021, 2, 1), D(2021, 4, 1), D(2021, 6, 1)]
    found = judged(engine(credits=[credit()], statements=rows), days, CUT)
    assert [found[("c", day)][0] for day in days] == [None, "closed", None]


def test_a_credit_judged_by_statements_later_is_judged_by_instalments_before():
    due = [("k", D(2020, 9, 1), 100, D(2020, 1, 1))]
    rows = [state(D(2021, 2, 28))]
    found = judged(engine(credits=[credit()], instalments=due, statements=rows), [AS_OF, D(2021, 4, 1)], CUT)
    assert (found[("c", AS_OF)][0], found[("c", D(2021, 4, 1))][0]) == ("in_default", None)


def test_stated_outcomes_wait_for_the_row_that_states_them():
    connection = duckdb.connect()
    connection.execute("""CREATE TABLE observations AS SELECT * FROM (VALUES
        ('a', DATE '2020-01-01', 0, DATE '2020-12-31', DATE '2019-12-31'),
        ('a', DATE '2020-01-01', 1, DATE '2020-12-31', DATE '2021-08-01')) t(customer_id, as_of, outcome, outcome_known_on, known_on)""")
    query = "SELECT outcome, outcome_known_on FROM judged"
    stated(connection, Rules(), D(2021, 8, 1), undated=False)
    assert connection.execute(query).fetchall() == [(0, D(2020, 12, 31))]
    stated(connection, Rules(), D(2021, 8, 2), undated=False)
    assert connection.execute(query).fetchall() == [(1, D(2021, 8, 1))]


def test_stated_outcomes_are_the_source_s_own():
    connection = duckdb.connect()
    connection.execute("""CREATE TABLE observations AS SELECT * FROM (VALUES
        ('a', DATE '2021-01-01', 1, DATE '2021-05-01', DATE '2020-12-31'),
        ('b', DATE '2021-01-01', 0, NULL, DATE '2020-12-31'),
        ('c', DATE '2021-01-01', NULL, NULL, DATE '2020-12-31'),
        ('d', DATE '2021-06-01', 1, DATE '2022-01-01', DATE '2021-05-31'),
        ('e', DATE '2022-06-01', 1, NULL, DATE '2022-05-31')) t(customer_id, as_of, outcome, outcome_known_on, known_on)""")
    stated(connection, Rules(), CUT, undated=False)
    found = {
        row[0]: row[1:]
        for row in connection.execute(
            "SELECT customer_id, outcome, outcome_known_on, unknown_because FROM judged"
        ).fetchall()
    }
    assert found == {
        "a": (1, D(2021, 5, 1), None),
        "b": (0, D(2021, 12, 31), None),
        "c": (None, None, "not_stated"),
        "d": (None, None, "window_open"),
    }
    stated(connection, Rules(), D(2021, 1, 1), undated=True)
    assert connection.execute("SELECT outcome FROM judged WHERE customer_id = 'b'").fetchone() == (0,)


# --- the oracle: one customer at a time, in plain Python -----------------------------------------------------------

MONTHS = [D(2020 + m // 12, m % 12 + 1, 1) for m in range(36)]
ENDS = [day - dt.timedelta(days=1) for day in MONTHS[1:]]


def oracle(statements, as_of, cut, rules):
    """Return (excluded_because, outcome) of a customer with one own credit since 2020-01-01."""

    def seen(before):
        newest = {}
        for row in sorted((row for row in statements if row[6] < before), key=lambda row: row[6]):
            newest[row[1]] = row
        return newest

    def bad(row):
        return row[3] >= 90 and row[4] > Decimal("0.01") * max(row[2], 0) and row[4] > 0

    past = seen(as_of)
    latest = past[max(past)] if past else None
    start = D(as_of.year - 1, as_of.month, 1)
    end = D(as_of.year + 1, as_of.month, 1)
    if latest and bad(latest):
        return "in_default", None
    if any(bad(row) and on >= start for on, row in past.items()):
        return "probation", None
    future = seen(cut)
    if any(bad(row) and as_of <= on < end for on, row in future.items()):
        return None, 1
    return None, 0 if end <= cut else None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(range(24)),
            st.sampled_from([0, 30, 89, 90, 120]),
            st.sampled_from([0, 10, 500]),
            st.integers(0, 120),
        ),
        max_size=14,
        unique_by=lambda row: (row[0], row[3]),
    ),
    st.sampled_from(range(12, 36)),
)
@pytest.mark.fault("D2")
def test_panel_equals_the_oracle(drawn, cut_month):
    rows = [
        ("k", ENDS[month], Decimal(500), late, Decimal(overdue), "active", ENDS[month] + dt.timedelta(days=lag))
        for month, late, overdue, lag in drawn
    ]
    cut = MONTHS[cut_month]
    dates = [day for day in MONTHS[1:] if day <= cut]
    found = judged(engine(credits=[credit()], statements=rows), dates, cut)
    for as_of in dates:
        assert found[("c", as_of)][:2] == oracle(rows, as_of, cut, Rules()), as_of
