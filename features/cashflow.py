"""Transactions: what flows in and out, how low the balance gets, how regular the income is, where the money goes."""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import Measure, count, deviation, expand, months, ratio, total, wide
from features.definition import Feature, Formula, History, Lender, Skipped, Subject, bound, digest
from features.sequence import before_last, gaps, latest, monthly_change, rank_in_own_past

INFLOW = Measure("inflow", "money received", "流入金额", "money", "income", -1)
OUTFLOW = Measure("outflow", "money spent", "流出金额", "money", "spending")
NET = Measure("amount", "money received less money spent", "净流入金额", "money", "net_flow", -1)
BALANCE = Measure("balance_after", "account balance", "账户余额", "money", "balance", -1)
COUNTERPARTY = Measure("counterparty", "counterparties", "交易对手", "", "activity")
ANY = Measure("transaction_id", "transactions", "交易", "", "activity")
OVERDRAWN = Measure("overdrawn", "transactions that left the account overdrawn", "透支交易", "share", "balance", 1)
CATEGORY = Measure("category", "categories of transactions", "交易类别", "", "activity")
MONTHLY_INFLOW = Measure("inflow", "monthly amount received", "月度流入金额", "money", "income_regularity", -1)
MONTHLY_OUTFLOW = Measure("outflow", "monthly amount spent", "月度流出金额", "money", "spending")
MONTHLY_NET = Measure("net", "monthly amount received less spent", "月度净流入金额", "money", "net_flow", -1)
MONTHLY_LOW = Measure("low", "lowest balance of a month", "月内最低余额", "money", "balance", -1)
RECEIPT = Measure("inflow", "single amount received", "单笔流入金额", "money", "income", -1)
GAP = Measure("gap", "days between receipts", "两次流入间隔天数", "days", "income_regularity", 1)
LONG = (24, 36)  # months, beyond the windows
CASH = ("cash", "atm")  # words that mark a category of cash withdrawn
CATEGORIES = 6  # the most frequent ones have features of their own


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what transactions say: single movements, receipts one after the other, and the same by month."""
    if not lender.has("transactions", "amount"):
        yield Skipped("transactions", "the source has no transactions")
        return
    moved, months_seen = movements(lender), max(*lender.windows, 12)
    rows = lender.past(moved, months_seen)
    yield Subject(
        "transactions",
        ("transactions",),
        rows,
        tuple(_movement_features(lender)),
        facts={"inflow_6m": lambda r: r.inflow.sum(where=r.months_before <= 6)},
        made_by=(movements,),
        history=History(moved, months_seen),
    )
    yield Subject(
        "transactions_monthly",
        ("transactions",),
        monthly(rows),
        tuple(_monthly_features(lender)),
        made_by=(movements, monthly),
    )
    yield Subject(
        "transactions_receipts",
        ("transactions",),
        receipts(lender),
        tuple(_receipt_features()),
        made_by=(movements, receipts, gaps),
    )
    yield Subject(
        "transactions_ever",
        ("transactions",),
        lender.past(moved),
        tuple(_ever_features(lender)),
        facts={
            "first_transaction_on": lambda r: r.event_on.min(),
            "last_transaction_on": lambda r: r.event_on.max(),
            "transaction_months": lambda r: r.months_before.max(),
            "balance": lambda r: r.balance_after.argmax(r.row_order, where=r.balance_after.notnull()),
        },
        made_by=(movements,),
        history=History(moved),
    )


def movements(lender: Lender) -> ibis.Table:
    """Return the transactions with what came in and what went out (both above 0)."""
    rows = lender.tables["transactions"]
    nothing = ibis.null(rows.amount.type())
    return rows.mutate(
        inflow=(rows.amount > 0).ifelse(rows.amount, nothing),
        outflow=(rows.amount < 0).ifelse(rows.amount.negate(), nothing),
        overdrawn=(rows.balance_after < 0).cast("int64"),
    )


def monthly(rows: ibis.Table) -> ibis.Table:
    """Return one row for each month back from as_of with a transaction: exact sums of what came in and went out."""
    return rows.group_by("customer_id", "as_of", "months_before").aggregate(
        inflow=rows.inflow.sum(),
        outflow=rows.outflow.sum(),
        net=rows.amount.sum(),
        low=rows.balance_after.min(),
        days_before=rows.days_before.min(),
    )


def receipts(lender: Lender) -> ibis.Table:
    """Return what came in during the last year, one after the other: `gap` in days, `newest_first`."""
    moved = movements(lender)
    dates = ("event_on", "known_on", "superseded_on", "event_month", "event_day", "event_month_days", "event_number")
    rows = moved.filter(moved.inflow.notnull()).select("customer_id", *dates, "row_order", "inflow")
    came_in = lender.once("receipts", rows)
    return gaps(lender.past(came_in, 12))


def _movement_features(lender: Lender) -> Iterator[Feature]:
    windows = lender.windows
    long, short = windows[-1], windows[1:2] or windows
    two = (short[-1], long) if short[-1] != long else (long,)
    for measure in (INFLOW, OUTFLOW, NET):
        for feature in expand("transactions", measure, ("sum",), windows):
            yield _zero_when_idle(feature)
    yield from expand("transactions", INFLOW, ("max",), (long,))
    yield from expand("transactions", OUTFLOW, ("max", "mean"), (long,))
    yield from expand("transactions", ANY, ("count",), windows)
    if lender.has("transactions", "counterparty"):
        yield from expand("transactions", COUNTERPARTY, ("distinct",), (long,))
    if lender.has("transactions", "category"):
        yield from expand("transactions", CATEGORY, ("distinct",), (long,))
    if lender.has("transactions", "balance_after"):
        yield from expand("transactions", BALANCE, ("min", "mean"), windows)
        yield from expand("transactions", BALANCE, ("q10", "q25", "trend"), two)
        yield from expand("transactions", BALANCE, ("std", "max", "range"), (long,))
        yield from expand("transactions", OVERDRAWN, ("share",), two)
    for k in windows:
        text, text_zh = months(k)
        yield Feature(
            f"transactions_outflow_to_inflow_{k}m",
            _outflow_to_inflow(k),
            f"Money spent for each unit of money received in the last {text}",
            f"近{text_zh}流出与流入金额之比",
            "net_flow",
            "ratio",
            1,
            null_means="nothing was received in the window",
        )
    for column, noun, noun_zh, family in (
        ("inflow", "received", "流入", "income"),
        ("outflow", "spent", "流出", "spending"),
    ):
        for k in short:
            text, text_zh = months(k)
            yield Feature(
                f"transactions_{column}_{k}m_to_{long}m",
                _recent_to_long(column, k, long),
                f"Money {noun} a month in the last {text}, relative to the last {long} months",
                f"近{text_zh}月均{noun_zh}与近{long}个月月均{noun_zh}之比",
                family,
                "ratio",
                -1 if column == "inflow" else 0,
                null_means="no such money moved in the longer window",
            )
    cash = [value for value in lender.vocabulary.get("transactions.category", ()) if _words(value) & set(CASH)]
    for k in two if cash else ():
        text, text_zh = months(k)
        yield Feature(
            f"transactions_cash_share_{k}m",
            _cash_share(tuple(cash), k),
            f"Share of the money spent in the last {text} that was drawn in cash",
            f"近{text_zh}流出金额中取现的占比",
            "spending_pattern",
            "share",
            1,
            "nothing was spent in the window",
        )
    for value in lender.vocabulary.get("transactions.category", ())[:CATEGORIES]:
        for k in two:
            text, text_zh = months(k)
            yield Feature(
                f"transactions_category_{slug(value)}_share_{k}m",
                _category_share(value, k),
                f"Share of all money moved that was '{value}' in the last {text}",
                f"近{text_zh}“{value}”类交易金额占比",
                "spending_pattern",
                "share",
                null_means="no money moved in the window",
            )


def _ever_features(lender: Lender) -> Iterator[Feature]:
    yield Feature(
        "transactions_history_months",
        lambda rows: rows.months_before.max().cast("float64"),
        "Months since the first known transaction",
        "距首笔已知交易的月数",
        "relationship",
        "months",
        -1,
    )
    yield from expand("transactions", INFLOW, ("recency",), ())
    yield from expand("transactions", OUTFLOW, ("recency",), ())
    yield from expand("transactions", NET, ("sum",), (*LONG, None))
    yield Feature(
        "transactions_inflow_12m_to_24m",
        _recent_to_long("inflow", 12, 24),
        "Money received a month in the last 12 months, relative to the last 24 months",
        "近12个月月均流入与近24个月月均流入之比",
        "income",
        "ratio",
        -1,
        null_means="no such money moved in the longer window",
    )
    if lender.has("transactions", "balance_after"):
        yield from expand("transactions", BALANCE, ("last",), ())
        yield from expand("transactions", BALANCE, ("last_less_mean",), (12,))
        yield from expand("transactions", BALANCE, ("min",), (*LONG, None))
        yield from expand("transactions", OVERDRAWN, ("share",), (24, None))
        yield Feature(
            "transactions_overdrawn_recency",
            lambda rows: rows.days_before.min(where=(rows.overdrawn == 1).fill_null(False)).cast("float64"),
            "Days since the account was last left overdrawn",
            "距最近一次透支的天数",
            "balance",
            "days",
            -1,
            "the account was never overdrawn, or no balance was known",
        )


def slug(value: str) -> str:
    """Return a category's value as part of a name: lower case letters, digits, underscores; else six hex digits."""
    kept = "_".join("".join(c if c.isalnum() else " " for c in value.lower()).split())
    return kept if kept and kept.isascii() else digest(value)[:6]


def _words(value: str) -> set[str]:
    return set(slug(value).split("_"))


def _cash_share(cash: tuple[str, ...], k: int) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before <= k
        drawn = rows.outflow.sum(where=inside & rows.category.isin(cash))
        return ratio(drawn.fill_null(0), rows.outflow.sum(where=inside))

    return formula


def _zero_when_idle(feature: Feature) -> Feature:
    """Say 0 where there were transactions in the longest window but none of the kind in this one."""
    return Feature(
        feature.name,
        lambda rows: feature.formula(rows).fill_null(0.0),
        feature.sentence,
        feature.sentence_zh,
        feature.family,
        feature.unit,
        feature.direction,
        "no transaction was known in the longest window",
    )


def _outflow_to_inflow(k: int) -> Formula:
    return lambda r: ratio(
        r.outflow.sum(where=r.months_before <= k).fill_null(0), r.inflow.sum(where=r.months_before <= k)
    )


def _recent_to_long(column: str, k: int, long: int) -> Formula:
    return lambda r: ratio(
        r[column].sum(where=r.months_before <= k).fill_null(0).cast("float64") / k,
        r[column].sum(where=r.months_before <= long).cast("float64") / long,
    )


def _category_share(value: str, k: int) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before <= k
        moved = rows.amount.abs()
        return ratio(moved.sum(where=inside & (rows.category == value)).fill_null(0), moved.sum(where=inside))

    return formula


def _receipt_features() -> Iterator[Feature]:
    yield from expand("transactions_receipts", GAP, ("mean", "max", "min", "variation"), (12,))
    yield from latest("transactions_receipts", RECEIPT, ("mean",), (1, 3))
    yield from before_last("transactions_receipts", RECEIPT)
    yield from expand("transactions_receipts", RECEIPT, ("variation", "last_less_mean"), (12,))


def _monthly_features(lender: Lender) -> Iterator[Feature]:
    for k in (6, 12):
        yield Feature(
            f"transactions_monthly_inflow_variation_{k}m",
            _variation(k),
            f"Irregularity of monthly income over the last {k} months (spread over average)",
            f"近{k}个月月收入的不规律程度（标准差与均值之比）",
            "income_regularity",
            "ratio",
            1,
            null_means="nothing was received in the window",
        )
        yield Feature(
            f"transactions_monthly_inflow_months_{k}m",
            bound(lambda r, k: count((r.months_before <= k) & (r.inflow > 0).fill_null(False)), k),
            f"Number of the last {k} months in which money was received",
            f"近{k}个月有资金流入的月数",
            "income_regularity",
            "months",
            -1,
        )
        yield Feature(
            f"transactions_monthly_deficit_months_{k}m",
            bound(lambda r, k: count((r.months_before <= k) & (r.net < 0)), k),
            f"Number of the last {k} months in which more was spent than received",
            f"近{k}个月入不敷出的月数",
            "net_flow",
            "months",
            1,
        )
    yield from expand("transactions_monthly", MONTHLY_INFLOW, ("min",), (3, 6))
    for measure in (MONTHLY_INFLOW, MONTHLY_OUTFLOW, MONTHLY_NET):
        yield from expand("transactions_monthly", measure, ("decayed",), (12,))
    for measure in (MONTHLY_INFLOW, MONTHLY_NET):
        yield from expand("transactions_monthly", measure, ("trend",), (6, 12))
        yield from monthly_change("transactions_monthly", measure)
    yield from rank_in_own_past("transactions_monthly", MONTHLY_INFLOW)
    if lender.has("transactions", "balance_after"):
        yield from expand("transactions_monthly", MONTHLY_LOW, ("mean",), (3, 6))
        yield from expand("transactions_monthly", MONTHLY_LOW, ("trend",), (12,))


def _variation(k: int) -> Formula:
    """Return the spread over the mean of k months' inflow; a month without rows counts as 0 once history began."""

    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before <= k
        months_known = ibis.least(rows.months_before.max(), k).nullif(0)
        money = rows.inflow.cast("decimal(18, 2)")  # monthly sums of DECIMAL(18,2) fit again
        sums, squares = money.sum(where=inside), (wide(money) * money).sum(where=inside)
        return ratio(deviation(months_known, sums, squares, 2), total(money, inside) / months_known.cast("float64"))

    return formula
