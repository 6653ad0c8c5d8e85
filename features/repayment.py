"""Lateness and arrears: each instalment or invoice against the payments that settled it, as known at as_of.

Which payment settled what is worked out in `settling`. Lateness of what is still unpaid runs to as_of, so it grows
until the payment is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ibis

from features.aggregates import Measure, count, exact, expand, last, mean, months, ratio, share, span, total, wide
from features.definition import Feature, Formula, History, Lender, Skipped, Subject, bound
from features.sequence import before_last, earliest, gaps, latest, ranked
from features.settling import settled, settled_afresh, settled_states, steady
from features.utilisation import spans

LATE = Measure("days_late", "days late of instalments that fell due", "到期应付款的逾期天数", "days", "lateness", 1)
PAID = Measure("amount", "money repaid", "还款金额", "money", "payments", 0)
PAYMENT = Measure("payment_id", "payments", "还款", "", "payments", 0)
DUE = Measure("amount", "money that fell due", "到期应付金额", "money", "obligations")
GAP = Measure("gap", "days between payments", "两次还款间隔天数", "days", "payments", 1)
REPAID = Measure("amount", "single repayment", "单笔还款金额", "money", "payments", -1)
LONG = (24, None)  # months beyond the windows; null: all that is known
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
            made_by=(settled, steady, settled_states, settled_afresh, ranked),
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
        yield Subject(
            "payments_in_turn",
            ("payments", "credits"),
            in_turn(lender),
            tuple(_turn_features()),
            made_by=(in_turn, gaps),
        )
    else:
        yield Skipped("payments", "the source has no payments")


def ahead(lender: Lender) -> ibis.Table:
    """Return the instalments known before as_of that fall due on or after it."""
    rows = lender.known("instalments")
    return rows.filter(rows.days_before <= 0)


def in_turn(lender: Lender) -> ibis.Table:
    """Return the payments of the last year, one after the other: `gap` in days, `newest_first`."""
    rows = lender.past("payments", 12)
    return gaps(rows.select("customer_id", "as_of", "months_before", "days_before", "row_order", "amount"))


def _days_past_due(rows: ibis.Table) -> ibis.Value:
    """Days since the oldest amount that is still unpaid fell due; 0 when all is paid."""
    return rows.days_before.max(where=rows.unpaid > 0).fill_null(0)


def _settled_features(lender: Lender) -> Iterator[Feature]:
    windows = spans(lender)
    for feature in (
        *expand("instalments", LATE, ("mean", "max"), windows),
        *expand("instalments", LATE, ("max",), LONG),
        *expand("instalments", LATE, ("trend", "std", "range", "decayed", "last_less_mean"), windows[-1:]),
        *expand("instalments", DUE, ("sum",), (*windows, None)),
    ):
        yield _with_null(feature, "no instalment fell due in the window")
    for feature in (
        *latest("instalments", LATE, ("mean",), (2, 3, 5, 10)),
        *latest("instalments", LATE, ("max",), (3, 10)),
        *latest("instalments", LATE, ("trend",), (5,)),
        *earliest("instalments", LATE, ("mean",), (2, 4)),
        *before_last("instalments", LATE),
    ):
        yield _with_null(feature, UNPAID_NULL if "less" not in feature.name else feature.null_means)
    for k in (*windows, *LONG):
        end, text, text_zh = span(k)
        for days in TOLERANCES if k == windows[-1] else TOLERANCES[:2] if k in windows else (TOLERANCES[-1],):
            late, late_zh = (f"more than {days} days late", f"逾期超过{days}天") if days else ("late", "逾期")
            yield Feature(
                f"instalments_late{f'_over_{days}_days' if days else ''}_share_{end}",
                _late_share(k, days),
                f"Share of instalments that fell due {text} and were paid {late} or are still open so late",
                f"{text_zh}{late_zh}的应付款占比",
                "lateness",
                "share",
                1,
                "no instalment fell due in the window",
            )
    yield from _shapes_of_lateness(windows)
    for k in windows:
        text, text_zh = months(k)
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


def _shapes_of_lateness(windows: tuple[int, ...]) -> Iterator[Feature]:
    """Declare how much money was late, how long arrears lasted, how many in a row, early payment, recent over long."""
    short, long = windows[0], windows[-1]
    text, text_zh = months(long)
    late_money = (
        f"instalments_late_amount_share_{long}m",
        lambda r: ratio(
            r.amount.sum(where=(r.months_before <= long) & (r.days_late > 0)).fill_null(0),
            r.amount.sum(where=r.months_before <= long),
        ),
        f"Share of the money due in the last {text} that was paid late or is still open",
        f"近{text_zh}逾期金额占到期金额的比例",
        "share",
        1,
        "nothing fell due in the window",
    )
    arrears = (
        f"instalments_days_late_when_late_mean_{long}m",
        lambda r: mean(r.days_late, (r.months_before <= long) & (r.days_late > 0)),
        f"Average duration of arrears in the last {text} (late instalments alone)",
        f"近{text_zh}逾期款项的平均逾期天数",
        "days",
        1,
        "no instalment was late in the window",
    )
    in_a_row = (
        "instalments_late_in_a_row",
        lambda r: ibis.coalesce(r.newest_first.min(where=r.days_late <= 0) - 1, r.newest_first.max()).cast("float64"),
        "Number of the latest instalments that were all late, up to the last one in time",
        "最近连续逾期的期数",
        "count",
        1,
        UNPAID_NULL,
    )
    early = (
        f"instalments_early_share_{long}m",
        lambda r: share(r.days_late < 0, r.months_before <= long),
        f"Share of instalments paid before they fell due in the last {text}",
        f"近{text_zh}提前还款的应付款占比",
        "share",
        -1,
        "no instalment fell due in the window",
    )
    recent = (
        f"instalments_late_share_{short}m_less_{long}m",
        lambda r: share(r.days_late > 0, r.months_before <= short) - share(r.days_late > 0, r.months_before <= long),
        f"Share of late instalments in the last {short} months less that of the last {text}",
        f"近{short}个月与近{text_zh}逾期占比之差",
        "share",
        1,
        "no instalment fell due in the shorter window",
    )
    for name, formula, english, chinese, unit, direction, null_means in (late_money, arrears, in_a_row, early, recent):
        yield Feature(name, formula, english, chinese, "lateness", unit, direction, null_means)


def _turn_features() -> Iterator[Feature]:
    yield from expand("payments", GAP, ("mean", "max", "std"), (12,))
    yield from latest("payments", REPAID, ("mean",), (3, 10))
    yield from before_last("payments", REPAID)
    yield from expand("payments", REPAID, ("variation", "decayed", "last_less_mean"), (12,))


def _ahead_features() -> Iterator[Feature]:
    for k in (1, 3, 12):
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
        "obligations_count",
        lambda r: r.amount.count().cast("float64"),
        "Number of instalments still to fall due",
        "未到期应付款期数",
        "obligations",
        "count",
        0,
        "nothing is known to fall due any more",
    )
    yield Feature(
        "obligations_largest",
        lambda r: r.amount.max().cast("float64"),
        "Largest amount still to fall due at once",
        "未到期单笔最大应付金额",
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


def _late_share(k: int | None, days: int) -> Formula:
    return lambda r: share(r.days_late > days, r.months_before >= 1 if k is None else r.months_before <= k)


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
