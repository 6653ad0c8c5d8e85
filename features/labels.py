"""The only code that looks forward: who is in the population on a date, who defaulted afterwards, and what is unknown.

    default    a statement with days_past_due >= the limit on a material amount; for a credit without such statements,
               an instalment whose cumulative due is not covered by what was paid before due_on + that many days
    population customers with an open own credit (or all), not in default, not closed, not on probation
    outcome    over [as_of, as_of + horizon): 1 if a default fell in it, 0 if it is closed and none did, else null

Everything is judged from rows with `known_on < cut`: a fact learned on the cut or later changes nothing. Of a restated
row the newest version before the cut counts, and for the population on an earlier date the version known then (the rule
of features/visible.py): who is in the population on a date is the same whatever became known later. Pure SQL over the
tables of an open DuckDB connection; money stays DECIMAL.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

REASONS = ("in_default", "closed", "probation")  # why a customer is not in the population, the first that holds


@dataclass(frozen=True)
class Rules:
    """The definition of default and of the population; months, days and the source's currency."""

    horizon_months: int = 12
    days_past_due: int = 90
    materiality_absolute: Decimal = Decimal(0)
    materiality_relative: Decimal = Decimal("0.01")
    probation_months: int = 12
    left_early: str = "unknown"


def _day(day: dt.date) -> str:
    return f"DATE '{day.isoformat()}'"


def _run(connection: Any, table: str, query: str) -> None:
    """Keep a query's rows as a table of the engine."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}")


def own_credits(connection: Any, cut: dt.date) -> None:
    """Make `own`: one row a date of `seen` and own credit, as known then; known_on is when it was first known.

    `seen` holds every observed date and the cut. size is the principal, else the limit, in the source's currency.
    """
    _run(connection, "own", f"""
        SELECT seen_on, credit_id, arg_max(customer_id, known_on) AS customer_id, min(known_on) AS known_on,
            coalesce(arg_max(opened_on, known_on), min(known_on)) AS opened_on,
            coalesce(arg_max(principal, known_on), arg_max(credit_limit, known_on), 0) AS size,
            arg_max(term_months, known_on) AS term_months
        FROM credits JOIN seen ON known_on < seen_on
        WHERE provider = 'own' AND known_on < {_day(cut)} GROUP BY ALL
    """)  # fmt: skip


def default_events(connection: Any, tables: set[str], rules: Rules, cut: dt.date) -> None:
    """Make `events` and `closings` from what was known before `cut`; needs `seen` and `own`.

    events: customer_id, credit_id, event_on, known_on, superseded_on (a newer version of the same fact; null: none),
    current_until (last date on which the credit is still in default by it; null: to this day), seen_on.
    closings: credit_id, closed_on, known_on, superseded_on, seen_on.
    A row with a seen_on says how things stood on that date alone; one without holds on every date that it is known.
    """
    day = _day(cut)
    states = f"""
        SELECT s.credit_id, o.customer_id, s.stated_on, s.known_on, s.days_past_due, s.balance, s.overdue_amount,
            lower(s.status) = 'closed' AS closed,
            lead(s.known_on) OVER (PARTITION BY s.credit_id, s.stated_on ORDER BY s.known_on) AS superseded_on,
            min(s.known_on) OVER (PARTITION BY s.credit_id ORDER BY s.stated_on, s.known_on
                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS current_until
        FROM statements s JOIN own o ON o.credit_id = s.credit_id AND o.seen_on = {day} WHERE s.known_on < {day}
    """
    if "statements" not in tables:
        states = """SELECT credit_id, customer_id, opened_on AS stated_on, known_on, 0 AS days_past_due,
            size AS balance, size AS overdue_amount, false AS closed, known_on AS superseded_on,
            known_on AS current_until FROM own WHERE false"""
    _run(connection, "states", states)
    _run(connection, "first_states", "SELECT credit_id, min(known_on) AS known_on, "
         "min(known_on) FILTER (days_past_due IS NOT NULL) AS judged_from FROM states GROUP BY credit_id")  # fmt: skip
    _arrears(connection, tables, rules)
    material = (
        f"coalesce(coalesce(overdue_amount, balance) > {rules.materiality_absolute}, true) AND "
        f"coalesce(coalesce(overdue_amount, balance) > {rules.materiality_relative} * greatest(balance, 0), true)"
    )
    _run(
        connection,
        "events",
        f"""
        SELECT customer_id, credit_id, stated_on AS event_on, known_on, superseded_on, current_until,
            CAST(NULL AS DATE) AS seen_on FROM states
        WHERE days_past_due >= {rules.days_past_due} AND {material}
        UNION ALL
        SELECT customer_id, credit_id, late_on, known_on, NULL, settled_known_on, seen_on FROM arrears
        WHERE late_on < seen_on AND need > 0 AND (settled_on IS NULL OR settled_on >= late_on)
    """,
    )
    _run(
        connection,
        "closings",
        """
        SELECT credit_id, stated_on AS closed_on, known_on, superseded_on, CAST(NULL AS DATE) AS seen_on FROM states
        WHERE closed
        UNION ALL
        SELECT credit_id, greatest(end_on, settled_on), greatest(end_on, settled_known_on), NULL, seen_on FROM (
            SELECT a.seen_on, a.credit_id, o.opened_on + to_months(o.term_months) AS end_on, a.settled_on,
                a.settled_known_on
            FROM arrears a JOIN own o USING (seen_on, credit_id) WHERE o.term_months IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY a.seen_on, a.credit_id ORDER BY a.due_on DESC) = 1
        ) WHERE settled_on IS NOT NULL
        UNION ALL
        SELECT credit_id, own.opened_on + to_months(term_months),
            greatest(own.known_on, own.opened_on + to_months(term_months)), NULL, own.seen_on
        FROM own LEFT JOIN first_states f USING (credit_id)
        ANTI JOIN arrears USING (seen_on, credit_id)
        WHERE term_months IS NOT NULL AND coalesce(f.known_on >= own.seen_on, true)
    """,
    )


def _arrears(connection: Any, tables: set[str], rules: Rules) -> None:
    """Make `arrears`: a row a date of `seen` and instalment of an own credit without statements, first in first out.

    Instalments and payments count in the version known on that date. late_on = due_on + days_past_due; need =
    cumulative due less the materiality; settled_on = when the cumulative paid reached it (null: never),
    settled_known_on = when that was known.
    """
    paid = """SELECT seen_on, credit_id, credit_id AS payment_id, opened_on AS paid_on, known_on, size AS amount
        FROM own WHERE false"""
    if "payments" in tables:
        paid = """SELECT o.seen_on, credit_id, payment_id, paid_on, p.known_on, p.amount
            FROM payments p JOIN unstated o USING (credit_id) WHERE p.known_on < o.seen_on
            QUALIFY row_number() OVER (PARTITION BY o.seen_on, payment_id ORDER BY p.known_on DESC) = 1"""
    due = """SELECT seen_on, credit_id, customer_id, opened_on AS due_on, known_on, size, size AS amount
        FROM own WHERE false"""
    if "instalments" in tables:
        due = """SELECT o.seen_on, credit_id, o.customer_id, due_on, i.known_on, o.size, i.amount
            FROM instalments i JOIN unstated o USING (credit_id) WHERE i.known_on < o.seen_on
            QUALIFY row_number() OVER (PARTITION BY o.seen_on, credit_id, due_on ORDER BY i.known_on DESC) = 1"""
    _run(
        connection,
        "arrears",
        f"""
        WITH unstated AS (
            SELECT own.* FROM own LEFT JOIN first_states f USING (credit_id)
            WHERE coalesce(f.judged_from >= own.seen_on, true)
        ),
        due AS ({due}), paid AS ({paid}),
        needs AS (
            SELECT seen_on, credit_id, customer_id, due_on, due_on + {rules.days_past_due} AS late_on,
                greatest(known_on, due_on + {rules.days_past_due}) AS known_on,
                CAST(sum(amount) OVER (PARTITION BY seen_on, credit_id ORDER BY due_on) AS DECIMAL(38,4))
                    - greatest({rules.materiality_absolute}, {rules.materiality_relative} * size) AS need
            FROM due
        ),
        happened AS (
            SELECT seen_on, credit_id, paid_on AS on_day, max(total) AS total FROM (
                SELECT seen_on, credit_id, paid_on, sum(amount) OVER (PARTITION BY seen_on, credit_id
                    ORDER BY paid_on, payment_id ROWS UNBOUNDED PRECEDING) AS total
                FROM paid) GROUP BY ALL
        ),
        learned AS (
            SELECT seen_on, credit_id, known_on AS on_day, max(total) AS total FROM (
                SELECT seen_on, credit_id, known_on, sum(amount) OVER (PARTITION BY seen_on, credit_id
                    ORDER BY known_on, payment_id ROWS UNBOUNDED PRECEDING) AS total
                FROM paid) GROUP BY ALL
        ),
        settled AS (
            SELECT n.seen_on, n.credit_id, n.due_on, min(h.on_day) AS settled_on FROM needs n
            JOIN happened h ON h.seen_on = n.seen_on AND h.credit_id = n.credit_id AND h.total >= n.need GROUP BY ALL
        ),
        settled_known AS (
            SELECT n.seen_on, n.credit_id, n.due_on, min(l.on_day) AS settled_known_on FROM needs n
            JOIN learned l ON l.seen_on = n.seen_on AND l.credit_id = n.credit_id AND l.total >= n.need GROUP BY ALL
        )
        SELECT needs.*, settled_on, settled_known_on FROM needs
        LEFT JOIN settled USING (seen_on, credit_id, due_on) LEFT JOIN settled_known USING (seen_on, credit_id, due_on)
    """,
    )


def judge(
    connection: Any, tables: set[str], rules: Rules, dates: Sequence[dt.date], cut: dt.date, *, population: str
) -> None:
    """Make `judged`: one row for each customer and date, from what was known before `cut`.

    customer_id, as_of, excluded_because (null: in the population; else one of REASONS), outcome (0, 1, null: unknown or
    excluded), outcome_known_on (null with it), unknown_because (`window_open`, `left_early`; null where known).
    `population`: `open_credit` (customers with an own credit) or `all` (every customer known by then).
    """
    day, horizon = _day(cut), f"INTERVAL {rules.horizon_months} MONTH"
    _run(connection, "dates", f"SELECT unnest(CAST({[d.isoformat() for d in dates]} AS DATE[])) AS as_of")
    _run(connection, "seen", f"SELECT as_of AS seen_on FROM dates WHERE as_of < {day} UNION SELECT {day}")
    if "credits" in tables:
        own_credits(connection, cut)
    else:
        _run(
            connection,
            "own",
            """SELECT DATE '1900-01-01' AS seen_on, '' AS credit_id, '' AS customer_id, DATE '1900-01-01' AS known_on,
            DATE '1900-01-01' AS opened_on, CAST(0 AS DECIMAL(18,2)) AS size, 0 AS term_months WHERE false""",
        )
    default_events(connection, tables, rules, cut)
    _run(
        connection,
        "spans",
        f"""
        SELECT own.*, min(closings.closed_on) AS closed_on
        FROM own LEFT JOIN closings ON closings.credit_id = own.credit_id AND closings.superseded_on IS NULL
            AND (closings.seen_on IS NULL OR closings.seen_on = {day})
        WHERE own.seen_on = {day} GROUP BY ALL
    """,
    )
    held = """
        SELECT d.as_of, o.customer_id, bool_or(c.credit_id IS NULL) AS open
        FROM dates d JOIN own o ON o.seen_on = d.as_of AND o.opened_on < d.as_of
        LEFT JOIN (
            SELECT DISTINCT d.as_of, c.credit_id FROM dates d JOIN closings c ON c.known_on < d.as_of
                AND (c.superseded_on IS NULL OR c.superseded_on >= d.as_of)
                AND (c.seen_on IS NULL OR c.seen_on = d.as_of)
        ) c ON c.as_of = d.as_of AND c.credit_id = o.credit_id
        GROUP BY ALL
    """
    if population == "all":
        held = f"""
            SELECT d.as_of, c.customer_id, coalesce(h.open, true) AS open
            FROM dates d JOIN (SELECT customer_id, min(known_on) AS known_on FROM customers GROUP BY ALL) c
                ON c.known_on < d.as_of
            LEFT JOIN ({held}) h ON h.as_of = d.as_of AND h.customer_id = c.customer_id
        """
    _run(
        connection,
        "judged",
        f"""
        WITH panel AS ({held}),
        past AS (
            SELECT d.as_of, e.customer_id,
                bool_or(e.current_until IS NULL OR e.current_until >= d.as_of) AS in_default,
                bool_or((e.superseded_on IS NULL OR e.superseded_on >= d.as_of)
                    AND e.event_on >= d.as_of - INTERVAL {rules.probation_months} MONTH) AS probation
            FROM dates d JOIN events e ON e.known_on < d.as_of AND (e.seen_on IS NULL OR e.seen_on = d.as_of)
            GROUP BY ALL
        ),
        ahead AS (
            SELECT d.as_of, e.customer_id, min(e.known_on) AS known_on
            FROM dates d JOIN events e ON e.event_on >= d.as_of AND e.event_on < d.as_of + {horizon}
                AND e.superseded_on IS NULL AND (e.seen_on IS NULL OR e.seen_on = {day}) GROUP BY ALL
        ),
        staying AS (
            SELECT DISTINCT d.as_of, s.customer_id FROM dates d JOIN spans s
                ON s.opened_on < d.as_of + {horizon} AND (s.closed_on IS NULL OR s.closed_on >= d.as_of + {horizon})
        ),
        facts AS (
            SELECT panel.customer_id, panel.as_of,
                CASE WHEN past.in_default THEN 'in_default' WHEN NOT panel.open THEN 'closed'
                    WHEN past.probation THEN 'probation' END AS excluded_because,
                ahead.known_on AS bad_known_on,
                CAST(panel.as_of + {horizon} AS DATE) <= {day} AS window_closed,
                staying.customer_id IS NULL
                    AND panel.customer_id IN (SELECT customer_id FROM spans) AS left_early
            FROM panel LEFT JOIN past USING (as_of, customer_id) LEFT JOIN ahead USING (as_of, customer_id)
            LEFT JOIN staying USING (as_of, customer_id)
        )
        SELECT customer_id, as_of, excluded_because,
            CASE WHEN excluded_because IS NOT NULL THEN NULL WHEN bad_known_on IS NOT NULL THEN 1
                WHEN window_closed AND NOT ({"left_early" if rules.left_early == "unknown" else "false"}) THEN 0
            END::TINYINT AS outcome,
            CASE WHEN outcome = 1 THEN bad_known_on
                WHEN outcome = 0 THEN CAST(as_of + {horizon} AS DATE) - 1 END AS outcome_known_on,
            CASE WHEN excluded_because IS NOT NULL OR outcome IS NOT NULL THEN NULL
                WHEN NOT window_closed THEN 'window_open' ELSE 'left_early' END AS unknown_because,
            window_closed
        FROM facts ORDER BY as_of, customer_id
    """,
    )


def stated(connection: Any, rules: Rules, cut: dt.date, *, undated: bool) -> None:
    """Make `judged` from the source's own observations with as_of <= cut, as known before it; same columns as `judge`.

    The outcome is the source's. Where it gives no outcome_known_on, the outcome is known when the window closes, and in
    an undated source with the row itself; never before the version of the row that states it. An outcome known on the
    cut or later is unknown.
    """
    known = "known_on" if undated else f"CAST(as_of + INTERVAL {rules.horizon_months} MONTH AS DATE) - 1"
    _run(
        connection,
        "judged",
        f"""
        WITH newest AS (
            SELECT customer_id, as_of, outcome, greatest(coalesce(outcome_known_on, {known}), known_on) AS learned
            FROM observations
            WHERE as_of <= {_day(cut)} AND (known_on < {_day(cut)} OR known_on <= as_of)
            QUALIFY row_number() OVER (PARTITION BY customer_id, as_of ORDER BY known_on DESC) = 1
        )
        SELECT customer_id, as_of, CAST(NULL AS VARCHAR) AS excluded_because,
            CASE WHEN learned < {_day(cut)} THEN outcome END::TINYINT AS outcome,
            CASE WHEN learned < {_day(cut)} AND outcome IS NOT NULL THEN learned END AS outcome_known_on,
            CASE WHEN outcome IS NULL THEN 'not_stated' WHEN learned >= {_day(cut)} THEN 'window_open' END
                AS unknown_because,
            true AS window_closed
        FROM newest ORDER BY as_of, customer_id
    """,
    )
