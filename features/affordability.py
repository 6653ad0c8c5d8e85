"""What must be paid against what comes in: ratios of columns that different subjects give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ibis

from features.aggregates import months, ratio
from features.definition import Across, Feature, Formula, bound
from features.schedules import yearly_rate

INSTALMENT_WORDS = ("instalment", "payment", "annuity")  # an attribute that ends so is the monthly instalment
TERM_WORDS = ("term", "duration", "months")  # and one that ends so the number of monthly instalments
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
        *_paid_against_due(windows),
        *_cover(k),
        *_in_all(),
        *(item for column in sorted(given) for item in _implied_term(column, given)),
        *(item for column in sorted(given) for item in _implied_rate(column, given)),
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


def _paid_against_due(windows: tuple[int, ...]) -> Iterator[Across]:
    """Set what was paid against what fell due in a window: above 1 it is over-payment, below it under-payment.

    Where instalments fell due and no payment was known, nothing was paid.
    """
    for k in windows:
        text, text_zh = months(k)
        due, paid = f"instalments_amount_sum_{k}m", f"payments_amount_sum_{k}m"
        for name, formula, english, chinese, unit in (
            (
                f"payments_to_due_{k}m",
                bound(lambda r, two: ratio(r[two[0]].fill_null(0.0), r[two[1]]), (paid, due)),
                f"Money repaid in the last {text} for each unit that fell due",
                f"近{text_zh}还款与到期金额之比",
                "ratio",
            ),
            (
                f"payments_less_due_{k}m",
                bound(lambda r, two: r[two[0]].fill_null(0.0) - r[two[1]], (paid, due)),
                f"Money repaid in the last {text} less money that fell due",
                f"近{text_zh}还款与到期金额之差",
                "money",
            ),
        ):
            null_means = "nothing fell due in the window"
            yield Across(Feature(name, formula, english, chinese, "arrears", unit, -1, null_means), (paid, due))


def _cover(k: int) -> Iterator[Across]:
    """Set what is there, and what is left over each month, against what falls due next."""
    due, balance, net = "obligations_due_next_3m", "transactions_balance_after_last", f"transactions_amount_sum_{k}m"
    for name, formula, english, chinese, needs in (
        (
            "balance_to_obligations_3m",
            lambda r: ratio(r[balance], r[due]),
            "Account balance for each unit due in the next 3 months",
            "账户余额与未来3个月到期应付金额之比",
            (balance, due),
        ),
        (
            f"net_inflow_{k}m_to_obligations_3m",
            lambda r: ratio(r[net] * (3 / k), r[due]),
            f"Money left over a month in the last {k} months for each unit due a month in the next 3",
            f"近{k}个月月均净流入与未来3个月月均应付之比",
            (net, due),
        ),
        (
            "obligations_left_share",
            lambda r: ratio(
                r.obligations_due_in_all, r.obligations_due_in_all + r.instalments_amount_sum_ever.fill_null(0.0)
            ),
            "Share of all instalments ever known that are still to fall due",
            "未到期金额占全部应付金额的比例",
            ("obligations_due_in_all", "instalments_amount_sum_ever"),
        ),
    ):
        left = name == "obligations_left_share"
        family, direction = ("obligations", 0) if left else ("affordability", -1)
        null_means = "nothing is known to fall due, or what it is set against is unknown"
        unit = "share" if left else "ratio"
        yield Across(Feature(name, formula, english, chinese, family, unit, direction, null_means), needs)


def _in_all() -> Iterator[Across]:
    """Add up our own lines and those of others; what is unknown of one side counts as none beside the other."""

    def both(column: str) -> Formula:
        def formula(rows: ibis.Table) -> ibis.Value:
            ours, theirs = rows[f"credits_{column}"], rows[f"bureau_{column}"]
            known = ours.notnull() | theirs.notnull()
            return known.ifelse(ours.fill_null(0.0) + theirs.fill_null(0.0), ibis.null("float64"))

        return formula

    debt, principal, overdue = both("balance_sum"), both("principal_sum"), both("overdue_sum")
    limit = both("limit_sum")
    for name, formula, english, chinese, unit, direction, columns in (
        ("debt_in_all", debt, "Debt with us and with others", "全部授信余额合计", "money", 0, ("balance_sum",)),
        ("overdue_in_all", overdue, "Overdue with us and others", "全部授信逾期金额合计", "money", 1, ("overdue_sum",)),
        ("limit_in_all", limit, "Limits with us and with others", "全部授信额度合计", "money", -1, ("limit_sum",)),
        (
            "debt_to_principal_in_all",
            lambda r: ratio(debt(r), principal(r)),
            "Debt with us and with others as a share of its principal",
            "全部授信余额与本金之比",
            "share",
            1,
            ("balance_sum", "principal_sum"),
        ),
        (
            "overdue_to_debt_in_all",
            lambda r: ratio(overdue(r).fill_null(0.0), debt(r)),
            "Overdue with us and with others as a share of all debt",
            "全部授信逾期金额与余额之比",
            "share",
            1,
            ("balance_sum", "overdue_sum"),
        ),
        (
            "debt_with_others_share",
            lambda r: ratio(r.bureau_balance_sum.fill_null(0.0), debt(r)),
            "Share of all debt that is with others",
            "他行授信余额占全部余额的比例",
            "share",
            0,
            ("balance_sum",),
        ),
    ):  # fmt: skip
        needs = tuple(f"{side}_{column}" for column in columns for side in ("credits", "bureau"))
        null_means = "no debt with us or with others was known" if unit == "share" else "no line was known"
        yield Across(Feature(name, formula, english, chinese, "debt", unit, direction, null_means), needs)


def _implied_term(column: str, given: set[str]) -> Iterator[Across]:
    """Divide an amount asked for by its monthly instalment; set it against the largest principal granted before."""
    if not column.startswith("observations_") or not column.endswith(PRINCIPAL_WORDS):
        return
    for instalment in sorted(given):
        if instalment.startswith("observations_") and instalment.endswith(INSTALMENT_WORDS):
            yield Across(
                Feature(
                    f"{column}_to_{instalment.removeprefix('observations_')}",
                    _over(column, instalment, 1.0),
                    "The amount asked for over its monthly instalment: the implied number of months",
                    "申请金额与月供之比（隐含期数）",
                    "asked_amount",
                    "months",
                    0,
                    "not stated",
                ),
                (column, instalment),
            )
    yield Across(
        Feature(
            f"{column}_to_largest_principal",
            _over(column, "credits_principal_max", 1.0),
            "The amount asked for, relative to the largest principal granted before",
            "申请金额与历史最大本金之比",
            "asked_amount",
            "ratio",
            1,
            "not stated, or no principal was known before",
        ),
        (column, "credits_principal_max"),
    )


def _implied_rate(column: str, given: set[str]) -> Iterator[Across]:
    """Work the yearly rate out of amount, monthly instalment and term; set the instalment against the largest due."""
    if not column.startswith("observations_") or not column.endswith(INSTALMENT_WORDS):
        return

    def asked(words: tuple[str, ...]) -> list[str]:
        return [one for one in sorted(given) if one.startswith("observations_") and one.endswith(words)]

    amounts = [one for one in asked(PRINCIPAL_WORDS) if one != "observations_exposure"] or asked(PRINCIPAL_WORDS)
    for amount, term in ((amount, term) for amount in amounts[:1] for term in asked(TERM_WORDS)[:1]):
        needs = (amount, column, term)
        yield Across(
            Feature(
                f"{column}_implied_rate",
                bound(lambda r, three: yearly_rate(r[three[0]], r[three[1]] * r[three[2]], r[three[2]], 12), needs),
                "Yearly rate that the amount asked for, its monthly instalment and its term imply",
                "申请金额、月供与期限隐含的年利率",
                "asked_amount",
                "share",
                1,
                "not stated",
            ),
            needs,
        )
    yield Across(
        Feature(
            f"{column}_to_largest_instalment",
            _over(column, "schedules_largest_past", 1.0),
            "The monthly instalment asked for, relative to the largest that fell due before",
            "申请贷款的月供与历史最大一期应付之比",
            "asked_amount",
            "ratio",
            1,
            "not stated, or nothing fell due before",
        ),
        (column, "schedules_largest_past"),
    )
