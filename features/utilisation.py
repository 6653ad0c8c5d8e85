"""Credit lines month by month: balance, share of the limit drawn, days past due, what was repaid of the bill.

All own lines of a customer make one row a month, from each line's newest statement in that month, so that a lag, a
worst month and a trend mean the same for one card and for five.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import YEAR, Measure, count, expand, mean, months, ratio
from features.definition import Feature, Formula, Lender, Skipped, Subject, bound
from features.sequence import lagged, monthly_change, rank_in_own_past

BALANCE = Measure("balance", "balance owed on own credit lines", "自有授信欠款余额", "money", "debt")
UTILISATION = Measure("utilisation", "share of the limit drawn", "额度使用率", "share", "utilisation", 1)
PAST_DUE = Measure("days_past_due", "days past due on statements", "账单逾期天数", "days", "lateness", 1)
OVERDUE = Measure("overdue_amount", "overdue amount on statements", "账单逾期金额", "money", "arrears", 1)
REPAID = Measure("repaid", "monthly amount repaid", "月还款金额", "money", "payments", -1)
DRAWN = (0.5, 0.9)  # shares of the limit above which a month counts as heavily drawn
LATE_DAYS = (1, 30)  # from how many days past due a month counts as late


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what own statements say."""
    if not lender.has("statements", "balance") and not lender.has("statements", "days_past_due"):
        yield Skipped("statements", "the source has no statements with a balance or days past due")
        return
    yield Subject(
        "statements",
        tuple(name for name in ("statements", "credits", "payments") if name in lender.tables),
        by_month(lender),
        tuple(_features(lender)),
        facts={
            "statement_balance": lambda r: r.balance.argmin(r.months_before, where=r.balance.notnull()),
            "statement_limit": lambda r: r.credit_limit.argmin(r.months_before, where=r.credit_limit.notnull()),
            "statement_days_past_due": lambda r: r.days_past_due.argmin(
                r.months_before, where=r.days_past_due.notnull()
            ),
            "statement_overdue": lambda r: r.overdue_amount.argmin(r.months_before, where=r.overdue_amount.notnull()),
            "statement_months": lambda r: r.months_before.max(),
            "last_statement_on": lambda r: r.event_on.max(),
        },
        made_by=(own, statements_of, newest_in_month, by_month),
    )


def spans(lender: Lender) -> tuple[int, ...]:
    """Return the shortest window above a month and the longest: what slow monthly states are summed over."""
    longer = tuple(k for k in lender.windows if k > 1) or lender.windows
    return (longer[0], longer[-1]) if longer[0] != longer[-1] else longer


def own(rows: ibis.Table) -> ibis.Value:
    """Return whether a line is our own: provider `own`, or not stated."""
    return (rows.provider == "own") | rows.provider.isnull()


def statements_of(lender: Lender, *, ours: bool) -> ibis.Table:
    """Return the statements of one side's lines (of lines that any version gives to that side), found once."""
    lines = lender.tables["credits"]
    lines = lines.filter(own(lines) if ours else ~own(lines))
    name = "statements_own" if ours else "statements_others"
    return lender.once(name, lender.tables["statements"].semi_join(lines, "credit_id"))


def newest_in_month(lender: Lender, *, ours: bool) -> ibis.Table:
    """Return each line's newest visible statement in each month back, with the limit agreed where it states none."""
    lines = lender.known("credits")
    lines = lines.filter(own(lines) if ours else ~own(lines))
    lines = lines.select("customer_id", "as_of", "credit_id", agreed_limit=lines.credit_limit)
    rows = lender.past(statements_of(lender, ours=ours), max(*lender.windows, lender.lags + 1, YEAR))
    rows = rows.mutate(newest=rows.row_order.max().over(
        ibis.window(group_by=["customer_id", "as_of", "credit_id", "months_before"])
    ))  # fmt: skip
    rows = rows.filter(rows.row_order == rows.newest)
    joined = rows.inner_join(lines, ["customer_id", "as_of", "credit_id"])
    return joined.mutate(credit_limit=joined.credit_limit.coalesce(joined.agreed_limit))


def by_month(lender: Lender) -> ibis.Table:
    """Return one row a month back: sums over own lines, the worst days past due, the highest of each attribute.

    `utilisation` is balance over limit (null without a limit), `repaid` the money paid in that month (0 if none is
    known), `row_order` runs towards as_of.
    """
    rows = newest_in_month(lender, ours=True)
    key = ("customer_id", "as_of", "months_before")
    numeric = lender.numeric.get("statements", ())
    table = rows.group_by(key).aggregate(
        event_on=rows.event_on.max(),
        days_before=rows.days_before.min(),
        balance=rows.balance.sum(),
        credit_limit=rows.credit_limit.sum(),
        minimum_due=rows.minimum_due.sum(),
        overdue_amount=rows.overdue_amount.sum(),
        days_past_due=rows.days_past_due.max(),
        **{name: rows[name].max() for name in numeric},
    )
    if lender.has("payments", "amount"):
        paid = lender.past("payments", max(*lender.windows, lender.lags + 1, YEAR))
        paid = paid.group_by(key).aggregate(repaid=paid.amount.sum())
        table = table.left_join(paid, list(key)).drop("customer_id_right", "as_of_right", "months_before_right")
        table = table.mutate(repaid=table.repaid.fill_null(0))
    else:
        table = table.mutate(repaid=ibis.null("decimal(18, 2)"))
    return table.mutate(utilisation=ratio(table.balance, table.credit_limit), row_order=-table.days_before)


def _features(lender: Lender) -> Iterator[Feature]:
    windows, long = spans(lender), lender.windows[-1:]
    if lender.has("statements", "balance"):
        yield from lagged("statements", BALANCE, lender.lags)
        yield from expand("statements", BALANCE, ("mean", "max"), windows)
        yield from expand("statements", BALANCE, ("trend",), windows)
        yield from expand("statements", BALANCE, ("variation", "range"), long)
        yield from monthly_change("statements", BALANCE)
        yield from rank_in_own_past("statements", BALANCE)
        if lender.has("statements", "credit_limit") or lender.has("credits", "credit_limit"):
            yield from lagged("statements", UTILISATION, lender.lags)
            yield from expand("statements", UTILISATION, ("mean", "max", "trend"), windows)
            yield from expand("statements", UTILISATION, ("min", "std", "decayed"), long)
            yield from monthly_change("statements", UTILISATION)
            yield _recent_less_long(UTILISATION, windows[0], windows[-1])
            for share_drawn in DRAWN:
                yield _heavily_drawn(share_drawn, windows[-1])
        if lender.has("payments", "amount"):
            yield from lagged("statements", REPAID, lender.lags)
            yield from expand("statements", REPAID, ("mean", "min"), windows)
            yield from expand("statements", REPAID, ("variation",), long)
            yield from _repaid_of_bill(lender.lags, windows)
            if lender.has("statements", "minimum_due"):
                yield from _repaid_to_minimum(windows)
    if lender.has("statements", "days_past_due"):
        yield from lagged("statements", PAST_DUE, lender.lags)
        yield from expand("statements", PAST_DUE, ("mean", "max"), windows)
        yield from expand("statements", PAST_DUE, ("trend", "decayed"), long)
        yield from monthly_change("statements", PAST_DUE)
        yield _past_due_in_a_row()
        for k in windows:
            text, text_zh = months(k)
            for days in LATE_DAYS:
                yield Feature(
                    f"statements_months_past_due_{days}_days_{k}m",
                    _late_months(k, days),
                    f"Number of the last {text} in which a statement showed {days} or more days past due",
                    f"近{text_zh}账单逾期{days}天及以上的月数",
                    "lateness",
                    "months",
                    1,
                    "no statement was known",
                )
    yield Feature(
        f"statements_months_known_{YEAR}m",
        lambda r: count(r.months_before <= YEAR),
        f"Number of the last {YEAR} months of which a statement is known",
        f"近{YEAR}个月有账单的月数",
        "history",
        "months",
        0,
        "no statement was known",
    )
    if lender.has("statements", "overdue_amount"):
        yield from expand("statements", OVERDUE, ("last",), ())
        yield from expand("statements", OVERDUE, ("max",), windows)
    for name in lender.numeric.get("statements", ()):
        words = name.replace("_", " ")
        measure = Measure(name, words, f"账单属性“{words}”", "", f"statements_{name}")
        yield from lagged("statements", measure, lender.lags)
        yield from expand("statements", measure, ("mean", "max", "min", "trend"), windows)
        yield Feature(
            f"statements_{name}_above_zero_months_{windows[-1]}m",
            _above_zero(name, windows[-1]),
            f"Number of the last {windows[-1]} months in which {words} was above zero",
            f"近{windows[-1]}个月“{words}”大于零的月数",
            f"statements_{name}",
            "months",
        )


def _repaid_of_bill(lags: int, windows: tuple[int, ...]) -> Iterator[Feature]:
    """Set what was paid in a month against the bill of the month before."""
    null_means = "no bill above zero was known for the month before"

    def paid_of_bill(k: int) -> Formula:
        return lambda r: ratio(
            r.repaid.max(where=r.months_before == k),
            r.balance.max(where=(r.months_before == k + 1) & (r.balance > 0)),
        )

    for k in range(1, lags):
        when, when_zh = ("last month", "上月") if k == 1 else (f"{k} months ago", f"{k}个月前")
        yield Feature(
            f"statements_repaid_of_bill_month_{k}",
            paid_of_bill(k),
            f"Share of the bill before that was repaid, {when}",
            f"{when_zh}还款占上期账单的比例",
            "payments",
            "share",
            -1,
            null_means,
        )
    for k in windows:
        text, text_zh = months(k)
        yield Feature(
            f"statements_repaid_to_balance_{k}m",
            bound(
                lambda r, k: ratio(r.repaid.sum(where=r.months_before <= k), r.balance.sum(where=r.months_before <= k)),
                k,
            ),
            f"Money repaid in the last {text} for each unit of balance owed",
            f"近{text_zh}还款与欠款余额之比",
            "payments",
            "ratio",
            -1,
            "no balance above zero was known",
        )


def _recent_less_long(measure: Measure, short: int, long: int) -> Feature:
    text, text_zh = months(long)
    return Feature(
        f"statements_{measure.column}_{short}m_less_{long}m",
        lambda r: mean(r[measure.column], r.months_before <= short) - mean(r[measure.column], r.months_before <= long),
        f"Average {measure.noun} of the last {short} months less that of the last {text}",
        f"近{short}个月与近{text_zh}平均{measure.noun_zh}之差",
        measure.family,
        measure.unit,
        measure.direction,
        "nothing was known in the shorter window",
    )


def _heavily_drawn(part: float, k: int) -> Feature:
    text, text_zh = months(k)
    return Feature(
        f"statements_months_drawn_over_{part:.0%}_{k}m".replace("%", ""),
        lambda r: count((r.months_before <= k) & (r.utilisation > part).fill_null(False)),
        f"Number of the last {text} in which more than {part:.0%} of the limit was drawn",
        f"近{text_zh}额度使用率超过{part:.0%}的月数",
        "utilisation",
        "months",
        1,
        "no statement was known",
    )


def _past_due_in_a_row() -> Feature:
    """Count the latest known months that were all past due: those newer than the newest one that was not."""

    def formula(rows: ibis.Table) -> ibis.Value:
        clear = rows.months_before.min(where=rows.days_past_due <= 0)
        oldest = rows.months_before.max(where=rows.days_past_due > 0)
        newest = rows.months_before.min(where=rows.days_past_due.notnull())
        return (ibis.coalesce(clear, oldest + 1) - newest).cast("float64")

    return Feature(
        "statements_past_due_in_a_row",
        formula,
        "Months for which statements have been past due without a break",
        "账单连续逾期的月数",
        "lateness",
        "months",
        1,
        "no statement with days past due was known",
    )


def _repaid_to_minimum(windows: tuple[int, ...]) -> Iterator[Feature]:
    for k in windows:
        text, text_zh = months(k)
        yield Feature(
            f"statements_repaid_to_minimum_due_{k}m",
            bound(
                lambda r, k: ratio(
                    r.repaid.sum(where=r.months_before <= k), r.minimum_due.sum(where=r.months_before <= k)
                ),
                k,
            ),
            f"Money repaid in the last {text} for each unit of the minimum due",
            f"近{text_zh}还款与最低还款额之比",
            "payments",
            "ratio",
            -1,
            "no minimum due above zero was known",
        )


def _late_months(k: int, days: int) -> Formula:
    return lambda r: count((r.months_before <= k) & (r.days_past_due >= days).fill_null(False))


def _above_zero(name: str, k: int) -> Formula:
    return lambda r: count((r.months_before <= k) & (r[name] > 0).fill_null(False))
