"""Published accounts: ratios, margins, growth over a year, Altman's Z'' and its parts, age and lateness of filing.

Accounts count from the day they were published. Altman's Z'' for firms that are not listed or do not manufacture
(Altman, Hartzell, Peck 1995): 6.56 working capital/assets + 3.26 retained earnings/assets + 6.72 EBIT/assets
+ 1.05 equity/liabilities. The emerging-market score is the same number plus 3.25, which orders companies alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import mean, ratio
from features.definition import Feature, Formula, Lender, Skipped, Subject

Ratio = tuple[str, str, str, str, int]

# of each ratio: English, Chinese, unit, reason family, direction of risk
RATIOS: dict[str, Ratio] = {
    "current_ratio": ("Current assets over current liabilities", "流动比率", "ratio", "liquidity", -1),
    "quick_ratio": ("Current assets without inventory over current liabilities", "速动比率", "ratio", "liquidity", -1),
    "debt_to_assets": ("Liabilities over total assets", "资产负债率", "ratio", "leverage", 1),
    "debt_to_equity": ("Liabilities over equity (equity above zero)", "产权比率", "ratio", "leverage", 0),
    "interest_cover": ("Operating profit (EBIT) over interest expense", "利息保障倍数", "ratio", "coverage", -1),
    "ebit_margin": ("Operating profit (EBIT) over revenue", "营业利润率", "ratio", "profitability", -1),
    "net_margin": ("Net income over revenue", "净利率", "ratio", "profitability", -1),
    "return_on_assets": ("Net income over total assets", "总资产收益率", "ratio", "profitability", -1),
    "return_on_equity": ("Net income over equity (equity above zero)", "净资产收益率", "ratio", "profitability", 0),
    "asset_turnover": ("Revenue over total assets", "总资产周转率", "ratio", "activity", 0),
    "inventory_to_revenue": ("Inventory over revenue", "存货与营业收入之比", "ratio", "activity", 1),
    "cash_flow_to_debt": ("Operating cash flow over liabilities", "经营现金流与负债之比", "ratio", "coverage", -1),
    "cash_flow_margin": ("Operating cash flow over revenue", "经营现金流与营业收入之比", "ratio", "coverage", -1),
    "altman_working_capital": ("Working capital over total assets", "营运资本与总资产之比", "ratio", "liquidity", -1),
    "altman_retained_earnings": (
        "Retained earnings over total assets",
        "留存收益与总资产之比",
        "ratio",
        "profitability",
        -1,
    ),
    "altman_ebit": ("EBIT over total assets", "息税前利润与总资产之比", "ratio", "profitability", -1),
    "altman_equity": ("Equity over liabilities", "权益与负债之比", "ratio", "leverage", -1),
    "altman_z": ("Altman's Z'' (above 2.6 safe, below 1.1 distress)", "Altman Z''评分", "points", "altman", -1),
}
NEEDS = {  # the account lines that each ratio is made of
    "current_ratio": ("current_assets", "current_liabilities"),
    "quick_ratio": ("current_assets", "inventory", "current_liabilities"),
    "debt_to_assets": ("total_liabilities", "total_assets"),
    "debt_to_equity": ("total_liabilities", "equity"),
    "interest_cover": ("ebit", "interest_expense"),
    "ebit_margin": ("ebit", "revenue"),
    "net_margin": ("net_income", "revenue"),
    "return_on_assets": ("net_income", "total_assets"),
    "return_on_equity": ("net_income", "equity"),
    "asset_turnover": ("revenue", "total_assets"),
    "inventory_to_revenue": ("inventory", "revenue"),
    "cash_flow_to_debt": ("operating_cash_flow", "total_liabilities"),
    "cash_flow_margin": ("operating_cash_flow", "revenue"),
    "altman_working_capital": ("current_assets", "current_liabilities", "total_assets"),
    "altman_retained_earnings": ("retained_earnings", "total_assets"),
    "altman_ebit": ("ebit", "total_assets"),
    "altman_equity": ("equity", "total_liabilities"),
}
ALTMAN = {"altman_working_capital": 6.56, "altman_retained_earnings": 3.26, "altman_ebit": 6.72, "altman_equity": 1.05}
NEEDS["altman_z"] = tuple(sorted({line for part in ALTMAN for line in NEEDS[part]}))
CHANGING = (
    "altman_z", "current_ratio", "debt_to_assets", "interest_cover", "ebit_margin", "return_on_assets",
)  # fmt: skip
GROWING = {
    "revenue": ("Revenue", "营业收入"),
    "total_assets": ("Total assets", "总资产"),
    "equity": ("Equity", "净资产"),
    "net_income": ("Net income", "净利润"),
}
YEAR = 365
YEAR_APART = (320, 410)  # days between the ends of two periods that are taken to lie a year apart
LINES = tuple(sorted({line for lines in NEEDS.values() for line in lines}))
UNPUBLISHED = "no accounts had been published, or a line of them is unknown"
NO_YEAR = "no accounts of a year earlier had been published, or a line of them is unknown"


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what published accounts say."""
    given = lender.filled.get("financials", frozenset())
    if not given & set(LINES):
        yield Skipped("financials", "the source has no financial statements")
        return
    yield Subject(
        "financials",
        ("financials",),
        accounts(lender),
        tuple(_features(lender)),
        facts={
            "accounts_period_end": lambda r: r.period_end.max(where=r.age == 1),
            "revenue": lambda r: r.revenue.max(where=r.age == 1),
            "equity": lambda r: r.equity.max(where=r.age == 1),
            "altman_z": lambda r: r.altman_z.max(where=r.age == 1),
        },
        made_by=(accounts, ratios),
    )


def accounts(lender: Lender) -> ibis.Table:
    """Return the published accounts with their ratios, one row a period.

    `age` 1 is the newest period known, 2 the one before; `is_year_before` marks the period that ended nearest to a year
    before the newest did (320 to 410 days); `lag` is the days from a period's end to its publication.
    """
    rows = lender.past("financials")
    observation = ("customer_id", "as_of")
    newest_first = ibis.window(group_by=observation, order_by=[ibis.desc("event_on"), ibis.desc("row_order")])
    rows = rows.mutate(
        age=ibis.row_number().over(newest_first) + 1,
        apart=rows.event_number.max().over(ibis.window(group_by=observation)) - rows.event_number,
        lag=ibis.coalesce(rows.published_on, rows.known_on).delta(rows.event_on, unit="day"),
        unknown=sum((rows[line].isnull().cast("int32") for line in LINES), ibis.literal(0, "int32")),
    )
    off = (rows.apart - YEAR).abs()
    rows = rows.mutate(off_a_year=rows.apart.between(*YEAR_APART).ifelse(off, ibis.null("int32")))
    nearest = ibis.window(group_by=observation, order_by=[rows.off_a_year.asc(nulls_first=False), "age"])
    first = ibis.row_number().over(nearest) == 0
    return ratios(rows.mutate(is_year_before=first & rows.off_a_year.notnull()))


def ratios(rows: ibis.Table) -> ibis.Table:
    """Add the ratios; each is null where a line is unknown or what it is divided by is not above zero."""
    line = {name: rows[name].cast("float64") for name in LINES}
    assets, liabilities = line["total_assets"], line["total_liabilities"]
    rows = rows.mutate(
        current_ratio=ratio(line["current_assets"], line["current_liabilities"]),
        quick_ratio=ratio(line["current_assets"] - line["inventory"], line["current_liabilities"]),
        debt_to_assets=ratio(liabilities, assets),
        debt_to_equity=ratio(liabilities, line["equity"]),
        interest_cover=ratio(line["ebit"], line["interest_expense"]),
        ebit_margin=ratio(line["ebit"], line["revenue"]),
        net_margin=ratio(line["net_income"], line["revenue"]),
        return_on_assets=ratio(line["net_income"], assets),
        return_on_equity=ratio(line["net_income"], line["equity"]),
        asset_turnover=ratio(line["revenue"], assets),
        inventory_to_revenue=ratio(line["inventory"], line["revenue"]),
        cash_flow_to_debt=ratio(line["operating_cash_flow"], liabilities),
        cash_flow_margin=ratio(line["operating_cash_flow"], line["revenue"]),
        altman_working_capital=ratio(line["current_assets"] - line["current_liabilities"], assets),
        altman_retained_earnings=ratio(line["retained_earnings"], assets),
        altman_ebit=ratio(line["ebit"], assets),
        altman_equity=ratio(line["equity"], liabilities),
    )
    weighted = [weight * rows[part] for part, weight in ALTMAN.items()]
    return rows.mutate(altman_z=weighted[0] + weighted[1] + weighted[2] + weighted[3])


def _newest(name: str) -> Formula:
    return lambda r: r[name].max(where=r.age == 1).cast("float64")


def _year_before(name: str) -> Formula:
    return lambda r: r[name].max(where=r.is_year_before).cast("float64")


def _change(name: str) -> Formula:
    return lambda r: _newest(name)(r) - _year_before(name)(r)


def _growth(name: str) -> Formula:
    return lambda r: ratio(_newest(name)(r), _year_before(name)(r)) - 1


def _features(lender: Lender) -> Iterator[Feature]:
    given = [name for name in RATIOS if lender.has("financials", *NEEDS[name])]
    for name in given:
        english, chinese, unit, family, direction = RATIOS[name]
        yield Feature(f"financials_{name}", _newest(name), english, chinese, family, unit, direction, UNPUBLISHED)
    for name in [name for name in CHANGING if name in given]:
        english, chinese, unit, family, direction = RATIOS[name]
        words = f"Change over a year: {english}", f"同比变化：{chinese}"
        yield Feature(f"financials_{name}_change_1y", _change(name), *words, family, unit, direction, NO_YEAR)
    for name, (english, chinese) in GROWING.items():
        if not lender.has("financials", name):
            continue
        if name in ("revenue", "total_assets"):
            yield Feature(
                f"financials_{name}", _newest(name), english, chinese, "company_size", "money", 0, UNPUBLISHED
            )
        words = f"Growth over a year of {english.lower()} (from above zero)", f"{chinese}同比增长率（基期为正）"
        yield Feature(f"financials_{name}_growth_1y", _growth(name), *words, "company_growth", "share", 0, NO_YEAR)
    if lender.has("financials", "net_income", "total_assets"):
        yield Feature(
            "financials_net_income_change_to_assets_1y",
            lambda r: ratio(_change("net_income")(r), _year_before("total_assets")(r)),
            "Change of net income over a year, over the assets of a year earlier",
            "净利润同比变动额与上年总资产之比",
            "profitability",
            "ratio",
            -1,
            NO_YEAR,
        )
    if "altman_z" in given:
        yield Feature(
            "financials_altman_z_min_3",
            lambda r: r.altman_z.min(where=r.age <= 3),
            "Lowest Altman's Z'' of the newest three accounts",
            "最近三期财报中Altman Z''评分的最低值",
            "altman",
            "points",
            -1,
            UNPUBLISHED,
        )
    if lender.has("financials", "net_income"):
        yield Feature(
            "financials_loss_count_3",
            lambda r: (r.net_income < 0).cast("int64").sum(where=(r.age <= 3) & r.net_income.notnull()).cast("float64"),
            "How many of the newest three accounts show a loss",
            "最近三期财报中亏损的期数",
            "profitability",
            "count",
            1,
            UNPUBLISHED,
        )
    yield from _filing_features()


def _filing_features() -> Iterator[Feature]:
    """Declare how old and how complete the accounts are, and how late they come against the company's own habit."""

    def lag(r: ibis.Table) -> ibis.Value:
        return r.lag.max(where=r.age == 1).cast("float64")

    def habit(r: ibis.Table) -> ibis.Value:
        return mean(r.lag, r.age > 1)

    def overdue(r: ibis.Table) -> ibis.Value:
        days = r.days_before.min().cast("float64") - YEAR - habit(r)
        return (days < 0).ifelse(0.0, days)

    def declare(
        name: str, formula: Formula, english: str, chinese: str, unit: str, direction: int, null: str = UNPUBLISHED
    ) -> Feature:
        return Feature(f"financials_{name}", formula, english, chinese, "accounts_age", unit, direction, null)

    one = "fewer than two accounts had been published"
    yield declare(
        "age_days",
        lambda r: r.days_before.min().cast("float64"),
        "Days since the end of the newest published accounting period",
        "最新财报期末距今天数",
        "days",
        1,
    )
    yield declare(
        "publication_lag_days",
        lag,
        "Days between the end of the newest period and its publication",
        "最新财报披露滞后天数",
        "days",
        1,
    )
    yield declare(
        "publication_lag_to_own",
        lambda r: lag(r) - habit(r),
        "Days by which the newest accounts were published later than the company's earlier ones were on average",
        "最新财报披露滞后天数与自身以往均值之差",
        "days",
        1,
        one,
    )
    yield declare(
        "filing_overdue_days",
        overdue,
        "Days for which the next yearly accounts are overdue, by the company's own habit of filing; 0: not due yet",
        "按自身披露习惯，下一期年报已逾期的天数（0表示未到期）",
        "days",
        1,
        one,
    )
    yield declare(
        "count",
        lambda r: r.age.max().cast("float64"),
        "Number of accounts published",
        "已披露财报期数",
        "count",
        0,
        "no accounts had been published",
    )
    yield declare(
        "missing_share",
        lambda r: r.unknown.max(where=r.age == 1).cast("float64") / len(LINES),
        "Share of the account lines that the newest accounts leave open",
        "最新财报缺失科目占比",
        "share",
        1,
        "no accounts had been published",
    )
