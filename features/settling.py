"""Which payment settled which instalment, as known at as_of: money and dates, before any feature.

A payment that states the due date settles that one; where a credit's payments state none, money settles the oldest
amount first.
"""

from __future__ import annotations

from typing import Any

import ibis

from features.definition import Lender
from features.sequence import ranked


def settled(lender: Lender) -> ibis.Table:
    """Return one row for each instalment due before as_of: `settled_on` (null: unpaid), `days_late`, `unpaid` money.

    An instalment is settled by the first payment that brings what was paid to what was owed up to it. What that says is
    worked out once where knowledge grew in the order of events (`steady`), and afresh at each date elsewhere. Negative
    `days_late` is early. `newest_first` and `oldest_first` number a customer's instalments from either end.
    """
    due, paid = lender.tables["instalments"], lender.tables["payments"]
    calm = lender.once("steady_credits", steady(due, paid))
    states = lender.once(
        "settled_states", settled_states(due.semi_join(calm, "credit_id"), paid.semi_join(calm, "credit_id"))
    )
    restless = [
        lender.once(f"restless_{name}", table.anti_join(calm, "credit_id"))
        for name, table in (("instalments", due), ("payments", paid))
    ]
    afresh = settled_afresh(lender.past(restless[0]), lender.past(restless[1]))
    once = lender.past(states)
    rows = once.select(*afresh.columns).union(afresh)
    until = ibis.coalesce(rows.settled_on, rows.as_of)
    late = until.delta(rows.event_on, unit="day").cast("int64")
    kept = ("customer_id", "as_of", "months_before", "days_before", "row_order", "amount", "unpaid")
    return ranked(rows.select(*kept, days_late=late), oldest=True)


def _in_order(rows: ibis.Table, **others: ibis.Value) -> ibis.Table:
    """Return credit_id and whether its rows became countable in the order of their events and were never restated."""
    order = ibis.window(group_by="credit_id", order_by=["event_on", "row_order"])
    counts_from = ibis.greatest(rows.event_on, rows.known_on)
    rows = rows.mutate(counts_from=counts_from, **others)
    rows = rows.mutate(back=(rows.counts_from < rows.counts_from.lag().over(order)).fill_null(False))
    return rows.group_by("credit_id").aggregate(
        broken=(rows.back | rows.superseded_on.notnull() | (rows.amount < 0)).any(),
        stated=rows.due_on.count(),
        rows=rows.count(),
    )


def steady(due: ibis.Table, paid: ibis.Table) -> ibis.Table:
    """Return the credits whose payments and instalments became known in the order of events, none restated.

    What any date sees of them is then the beginning of one sequence. Refunds, and credits of which only some payments
    state what they settle, are left out too.
    """
    dues, payments = _in_order(due), _in_order(paid, due_on=_stated(paid))
    both = dues.left_join(payments, "credit_id")
    mixed = (both.stated_right > 0) & (both.stated_right < both.rows_right)
    return both.filter(~both.broken, ~(both.broken_right | mixed).fill_null(False)).select("credit_id")


def _stated(paid: ibis.Table) -> ibis.Value:
    return paid.due_on if "due_on" in paid.columns else ibis.null("date")


def settled_states(due: ibis.Table, paid: ibis.Table) -> ibis.Table:
    """Return the history of every instalment of steady credits: a version for each payment that changed it.

    Columns of `due`, `unpaid` and `settled_on`; `known_on` and `superseded_on` say which dates see the version.
    """
    none = ibis.date(1900, 1, 1)
    states_due = paid.group_by("credit_id").aggregate(states=_stated(paid).count() > 0)
    due = due.left_join(states_due, "credit_id").drop("credit_id_right")
    due = due.mutate(stream=(due.states.fill_null(False)).ifelse(due.event_on, none))
    paid = paid.mutate(stream=_stated(paid).fill_null(none))
    order = ["event_on", "row_order"]
    run = ibis.cumulative_window(group_by=["credit_id", "stream"], order_by=order)
    due = due.mutate(reached=due.amount.sum().over(run), due_from=ibis.greatest(due.event_on, due.known_on))
    paid = paid.mutate(paid_up_to=paid.amount.sum().over(run))
    before = paid.paid_up_to.lag().over(ibis.window(group_by=["credit_id", "stream"], order_by=order)).fill_null(-1)
    paid = paid.select("credit_id", "stream", "paid_up_to", before=before, paid_on=paid.event_on,
                       paid_from=ibis.greatest(paid.event_on, paid.known_on), payment_order=paid.row_order)  # fmt: skip
    pairs = due.join(paid, ["credit_id", "stream"])
    pairs = pairs.filter(
        pairs.before < pairs.reached,
        (pairs.paid_up_to > pairs.reached - pairs.amount) | (pairs.paid_up_to >= pairs.reached),
    )
    unpaid = ibis.greatest(ibis.least(pairs.reached - pairs.paid_up_to, pairs.amount), 0)
    kept = [name for name in due.columns if name not in ("known_on", "superseded_on", "states", "stream", "reached")]
    changed = pairs.select(
        *kept,
        known_on=ibis.greatest(pairs.due_from, pairs.paid_from),
        unpaid=unpaid.cast("decimal(18, 2)"),
        settled_on=(pairs.paid_up_to >= pairs.reached).ifelse(pairs.paid_on, ibis.null("date")),
        version=pairs.payment_order.cast("int64") + 1,
    )
    at_first = due.select(
        *kept, known_on=due.due_from, unpaid=due.amount, settled_on=ibis.null("date"), version=ibis.literal(0, "int64")
    )
    versions = at_first.union(changed)
    instalment = ibis.window(group_by=["credit_id", "row_order"], order_by=["known_on", "version"])
    return versions.mutate(superseded_on=versions.known_on.lead().over(instalment)).drop("due_from", "version")


def settled_afresh(due: ibis.Table, paid: ibis.Table) -> ibis.Table:
    """Settle the instalments that each observation sees with the payments that it sees.

    Both sides are laid along the money that a credit owed and paid so far; an instalment is settled by the first
    payment that reaches its end.
    """
    kept = ("customer_id", "as_of", "credit_id", "event_on", "months_before", "days_before", "row_order", "amount")
    due = due.select(*kept, due_on=due.event_on, is_payment=ibis.literal(0, "int32"))
    paid = paid.select(*kept, due_on=_stated(paid), is_payment=ibis.literal(1, "int32"))
    both = due.union(paid)
    credit: Any = ("customer_id", "as_of", "credit_id")
    states_due = ((both.is_payment == 1) & both.due_on.notnull()).cast("int32")
    both = both.mutate(by_due_date=states_due.max().over(ibis.window(group_by=credit)))
    both = both.mutate(stream=(both.by_due_date == 1).ifelse(both.due_on, ibis.null("date")))
    stream = (*credit, "stream")
    both = both.mutate(
        reached=both.amount.sum().over(
            ibis.cumulative_window(group_by=(*stream, "is_payment"), order_by=["event_on", "row_order"])
        ),
        paid_in_all=both.amount.sum(where=both.is_payment == 1).over(ibis.window(group_by=stream)),
        paid_on=(both.is_payment == 1).ifelse(both.event_on, ibis.null("date")),
    )
    both = both.mutate(
        settled_on=both.paid_on.min().over(
            ibis.window(group_by=stream, order_by=["reached", "is_payment"], rows=(0, None))
        )
    )
    rows = both.filter(both.is_payment == 0)
    open_amount = rows.reached - rows.paid_in_all.fill_null(0)
    unpaid = ibis.greatest(ibis.least(open_amount, rows.amount), 0)
    return rows.select(*kept, "settled_on", unpaid=unpaid.cast("decimal(18, 2)"))
