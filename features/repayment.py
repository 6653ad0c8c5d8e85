"""Lateness and arrears: each instalment or invoice against the payments that settled it, as known at as_of.

A payment that states the due date settles that one; where a credit's payments state none, money settles the oldest
amount first. Lateness of what is still unpaid runs to as_of, so it grows until the payment is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ibis

from features.aggregates import Measure, count, exact, expand, last, months, ratio, share, total, wide
from features.definition import Feature, Formula, History, Lender, Skipped, Subject, bound
from features.utilisation import spans

LATE = Measure("days_late", "days late of instalments that fell due", "到期应付款的逾期天数", "days", "lateness", 1)
PAID = Measure("amount", "money repaid", "还款金额", "money", "payments", 0)
PAYMENT = Measure("payment_id", "payments", "还款", "", "payments", 0)
TOLERANCES = (0, 5, 30)  # days after the due date that still count as on time
UNPAID_NULL = "no instalment had fallen due"


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what is due against what was paid, what is still to come, and the payments themselves."""
    if lender.has("instalments", "amount") and lender.has("payments", "amount"):
        yield Subject(
            "instalments",
            ("instalments", "payments", "credits"),
            settled(lender),
            tuple(_settled_features(lender)),
            facts={
                "instalments_days_past_due": _days_past_due,
                "instalments_overdue": lambda r: r.unpaid.sum(),
                "instalment_monthly_past": lambda r: r.amount.sum(where=r.months_before <= 3),
            },
            made_by=(settled, steady, settled_states, settled_afresh),
        )
    else:
        yield Skipped("instalments", "the source has no instalments with payments")
    if lender.has("instalments", "amount"):
        yield Subject(
            "obligations",
            ("instalments", "credits"),
            ahead(lender),
            tuple(_ahead_features()),
            facts={
                "instalment_due_3m": lambda r: r.amount.sum(where=r.months_before > -3),
                "obligations_left": lambda r: r.amount.sum(),
            },
            made_by=(ahead,),
        )
    if lender.has("payments", "amount"):
        yield Subject(
            "payments",
            ("payments", "credits"),
            lender.past("payments"),
            tuple(_payment_features(lender)),
            facts={"last_payment_on": lambda r: r.event_on.max()},
            history=History(lender.tables["payments"]),
        )
    else:
        yield Skipped("payments", "the source has no payments")


def settled(lender: Lender) -> ibis.Table:
    """Return one row for each instalment due before as_of: `settled_on` (null: unpaid), `days_late`, `unpaid` money.

    An instalment is settled by the first payment that brings what was paid to what was owed up to it. What that says is
    worked out once where knowledge grew in the order of events (`steady`), and afresh at each date elsewhere. Negative
    `days_late` is early.
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
    return rows.mutate(days_late=until.delta(rows.event_on, unit="day").cast("int64"))


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


def ahead(lender: Lender) -> ibis.Table:
    """Return the instalments known before as_of that fall due on or after it."""
    rows = lender.known("instalments")
    return rows.filter(rows.days_before <= 0)


def _days_past_due(rows: ibis.Table) -> ibis.Value:
    """Days since the oldest amount that is still unpaid fell due; 0 when all is paid."""
    return rows.days_before.max(where=rows.unpaid > 0).fill_null(0)


def _settled_features(lender: Lender) -> Iterator[Feature]:
    windows = spans(lender)
    for feature in (
        *expand("instalments", LATE, ("mean", "max"), windows),
        *expand("instalments", LATE, ("trend", "std"), windows[-1:]),
    ):
        yield _with_null(feature, "no instalment fell due in the window")
    for k in windows:
        text, text_zh = months(k)
        for days in TOLERANCES if k == windows[-1] else TOLERANCES[:2]:
            late, late_zh = (f"more than {days} days late", f"逾期超过{days}天") if days else ("late", "逾期")
            yield Feature(
                f"instalments_late{f'_over_{days}_days' if days else ''}_share_{k}m",
                _late_share(k, days),
                f"Share of instalments paid {late} or still open in the last {text}",
                f"近{text_zh}{late_zh}的应付款占比",
                "lateness",
                "share",
                1,
                "no instalment fell due in the window",
            )
        yield Feature(
            f"instalments_paid_share_{k}m",
            _paid_share(k),
            f"Share of the money due in the last {text} that has been paid",
            f"近{text_zh}到期金额的已还比例",
            "arrears",
            "share",
            -1,
            "nothing fell due in the window",
        )
        yield Feature(
            f"instalments_days_late_by_amount_{k}m",
            _late_by_amount(k),
            f"Days late in the last {text}, weighted by amount",
            f"近{text_zh}按金额加权的逾期天数",
            "lateness",
            "days",
            1,
            "nothing fell due in the window",
        )
    yield Feature(
        "instalments_days_late_last",
        lambda r: last(r.days_late, r.row_order, r.months_before >= 1).cast("float64"),
        "Days late of the latest instalment that fell due",
        "最近一期应付款的逾期天数",
        "lateness",
        "days",
        1,
        UNPAID_NULL,
    )
    yield Feature(
        "instalments_days_past_due",
        lambda r: _days_past_due(r).cast("float64"),
        "Days since the oldest unpaid amount fell due",
        "最早未还款项的逾期天数",
        "arrears",
        "days",
        1,
        UNPAID_NULL,
    )
    yield Feature(
        "instalments_overdue_sum",
        lambda r: total(r.unpaid, r.months_before >= 1),
        "Money overdue now",
        "当前逾期金额",
        "arrears",
        "money",
        1,
        UNPAID_NULL,
    )
    yield Feature(
        "instalments_overdue_count",
        lambda r: count(r.unpaid > 0),
        "Number of instalments overdue now",
        "当前逾期期数",
        "arrears",
        "count",
        1,
        UNPAID_NULL,
    )
    yield Feature(
        "instalments_overdue_to_monthly_due",
        lambda r: ratio(r.unpaid.sum(), r.amount.sum(where=r.months_before <= 12).cast("float64") / 12),
        "Money overdue now, in months of what fell due over the last year",
        "当前逾期金额相当于近一年月均应付款的倍数",
        "arrears",
        "months",
        1,
        "nothing fell due in the last 12 months",
    )
    yield Feature(
        "instalments_late_recency",
        lambda r: r.days_before.min(where=r.days_late > 0).cast("float64"),
        "Days since an instalment that was paid late fell due",
        "距最近一次逾期应付款到期日的天数",
        "lateness",
        "days",
        -1,
        "no instalment was ever late",
    )


def _ahead_features() -> Iterator[Feature]:
    for k in (3, 12):
        text, text_zh = months(k)
        yield Feature(
            f"obligations_due_next_{k}m",
            bound(lambda r, k: total(r.amount, r.months_before > -k).fill_null(0.0), k),
            f"Money that falls due in the next {text}",
            f"未来{text_zh}到期应付金额",
            "obligations",
            "money",
            0,
            "nothing is known to fall due any more",
        )
    yield Feature(
        "obligations_due_in_all",
        lambda r: total(r.amount, r.days_before <= 0),
        "All money still to fall due",
        "未到期应付总额",
        "obligations",
        "money",
        0,
        "nothing is known to fall due any more",
    )
    yield Feature(
        "obligations_last_due_days",
        lambda r: (-r.days_before.min()).cast("float64"),
        "Days until the last known instalment",
        "距最后一期应付款的天数",
        "obligations",
        "days",
        0,
        "nothing is known to fall due any more",
    )


def _payment_features(lender: Lender) -> Iterator[Feature]:
    yield from expand("payments", PAID, ("sum",), spans(lender))
    yield from expand("payments", PAID, ("last", "recency"), ())
    yield from expand("payments", PAYMENT, ("count",), spans(lender))


def _late_share(k: int, days: int) -> Formula:
    return lambda r: share(r.days_late > days, r.months_before <= k)


def _paid_share(k: int) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        due = total(rows.amount, rows.months_before <= k)
        return ratio(due - total(rows.unpaid, rows.months_before <= k), due)

    return formula


def _late_by_amount(k: int) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before <= k
        weighted = (wide(exact(rows.amount)) * rows.days_late.cast("int32")).sum(where=inside)
        return ratio(weighted, rows.amount.sum(where=inside))

    return formula


def _with_null(feature: Feature, null_means: str) -> Feature:
    return replace(feature, null_means=null_means)
