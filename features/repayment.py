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
from features.definition import Feature, Formula, Lender, Skipped, Subject, bound
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
            made_by=(settled,),
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
        )
    else:
        yield Skipped("payments", "the source has no payments")


def settled(lender: Lender) -> ibis.Table:
    """Return one row for each instalment due before as_of: `settled_on` (null: unpaid), `days_late`, `unpaid` money.

    Both sides are laid along the money that a credit owed and paid so far; an instalment is settled by the first
    payment that reaches its end. Negative `days_late` is early.
    """
    due, paid = lender.past("instalments"), lender.past("payments")
    kept = ("customer_id", "as_of", "credit_id", "event_on", "months_before", "days_before", "row_order", "amount")
    due = due.select(*kept, due_on=due.event_on, is_payment=ibis.literal(0, "int32"))
    stated = paid.due_on if "due_on" in paid.columns else ibis.null("date")
    paid = paid.select(*kept, due_on=stated, is_payment=ibis.literal(1, "int32"))
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
    rows = rows.mutate(unpaid=unpaid.cast("decimal(18, 2)"))
    until = ibis.coalesce(rows.settled_on, rows.as_of)
    return rows.mutate(days_late=until.delta(rows.event_on, unit="day").cast("int64"))


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
