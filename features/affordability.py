"""What must be paid against what comes in: ratios of columns that different subjects give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ibis

from features.aggregates import ratio
from features.definition import Across, Feature, Formula

INSTALMENT_WORDS = ("instalment", "payment", "annuity")  # an attribute that ends so is the monthly instalment
PRINCIPAL_WORDS = ("exposure", "amount", "principal")  # and one that ends so is the amount asked for


def across(columns: Iterable[str], windows: tuple[int, ...]) -> Iterator[Across]:
    """Declare the ratios whose parts are among `columns`."""
    given = set(columns)
    k = 6 if 6 in windows else windows[-1]
    balance = f"transactions_balance_after_mean_{k}m"
    declared = [
        _to_inflow("obligations_due_next_3m", 3, k, "Money due in the next 3 months", "未来3个月到期应付金额"),
        _to_inflow("credits_balance_sum", 1, k, "Debt on own credit lines", "自有授信余额"),
        _to_inflow("bureau_balance_sum", 1, k, "Debt with others", "他行授信余额"),
        *(
            item
            for words, english, chinese in (
                (INSTALMENT_WORDS, "The monthly instalment asked for", "申请贷款的月供"),
                (PRINCIPAL_WORDS, "The amount asked for", "申请金额"),
            )
            for column in sorted(given)
            if column.startswith("observations_") and column.endswith(words)
            for item in (_to_inflow(column, 1, k, english, chinese), _to_balance(column, balance, k, english, chinese))
        ),
        Across(
            Feature(
                "debt_in_all",
                lambda r: r.credits_balance_sum.fill_null(0.0) + r.bureau_balance_sum,
                "Debt with us and with others",
                "全部授信余额合计",
                "debt",
                "money",
                0,
                "no line with others was known",
            ),
            ("credits_balance_sum", "bureau_balance_sum"),
        ),
    ]
    return (item for item in declared if set(item.needs) <= given)


def _to_inflow(column: str, months_due: int, k: int, words: str, words_zh: str) -> Across:
    inflow = f"transactions_inflow_sum_{k}m"
    return Across(
        Feature(
            f"{column}_to_inflow_{k}m",
            _over(column, inflow, k / months_due),
            f"{words}, relative to money received a month over the last {k} months",
            f"{words_zh}与近{k}个月月均流入之比",
            "affordability",
            "ratio",
            1,
            "not stated, or nothing was received in the window",
        ),
        (column, inflow),
    )


def _over(above: str, below: str, factor: float) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        return ratio(rows[above] * factor, rows[below])

    return formula


def _to_balance(column: str, balance: str, k: int, words: str, words_zh: str) -> Across:
    return Across(
        Feature(
            f"{column}_to_balance_{k}m",
            _over(column, balance, 1.0),
            f"{words} over the average account balance of the last {k} months",
            f"{words_zh}与近{k}个月平均余额之比",
            "affordability",
            "ratio",
            1,
            "not stated, or no balance above zero was known",
        ),
        (column, balance),
    )
