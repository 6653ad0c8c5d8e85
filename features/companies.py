"""Companies: ratios of published accounts with Altman's Z'', the state of the industry, standing, reputation.

Accounts count from the day they were published. Altman's Z'' for private firms (Altman, Hartzell, Peck 1995):
6.56 working capital/assets + 3.26 retained earnings/assets + 6.72 EBIT/assets + 1.05 equity/liabilities.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import Measure, expand, mean, months, ratio, share, wide
from features.definition import Feature, Formula, History, Lender, Skipped, Subject, bound

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
    "asset_turnover": ("Revenue over total assets", "总资产周转率", "ratio", "activity", 0),
    "cash_flow_to_debt": ("Operating cash flow over liabilities", "经营现金流与负债之比", "ratio", "coverage", -1),
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
    "asset_turnover": ("revenue", "total_assets"),
    "cash_flow_to_debt": ("operating_cash_flow", "total_liabilities"),
    "altman_working_capital": ("current_assets", "current_liabilities", "total_assets"),
    "altman_retained_earnings": ("retained_earnings", "total_assets"),
    "altman_ebit": ("ebit", "total_assets"),
    "altman_equity": ("equity", "total_liabilities"),
}
ALTMAN = {"altman_working_capital": 6.56, "altman_retained_earnings": 3.26, "altman_ebit": 6.72, "altman_equity": 1.05}
NEEDS["altman_z"] = tuple(sorted({line for part in ALTMAN for line in NEEDS[part]}))
INDUSTRY = {
    "size": ("Size of the industry", "行业规模", 0),
    "growth": ("Growth of the industry", "行业增长率", -1),
    "competition": ("Competition in the industry", "行业竞争程度", 1),
    "default_rate": ("Default rate of the industry", "行业违约率", 1),
    "policy_signal": ("Policy signal for the industry (above zero: support)", "行业政策信号", 0),
}
STANDING = {
    "market_share": ("Market share", "市场份额", -1),
    "brand": ("Strength of the brand", "品牌力", -1),
    "product_uniqueness": ("Uniqueness of the products", "产品独特性", -1),
    "relationship": ("Strength of the business relationship", "合作关系强度", -1),
}
SENTIMENT = Measure("sentiment", "sentiment of mentions (-1 bad, 1 good)", "舆情情绪值", "points", "reputation", -1)
MENTION = Measure("mention_id", "mentions in public sources", "舆情提及", "", "reputation")


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare accounts, industry, standing and reputation, each where the source has it."""
    if lender.has("financials", "total_assets"):
        yield Subject(
            "financials",
            ("financials",),
            accounts(lender),
            tuple(_account_features(lender)),
            facts={
                "accounts_period_end": lambda r: r.period_end.max(where=r.age == 1),
                "revenue": lambda r: r.revenue.max(where=r.age == 1),
                "equity": lambda r: r.equity.max(where=r.age == 1),
                "altman_z": lambda r: r.altman_z.max(where=r.age == 1),
            },
            made_by=(accounts, ratios),
        )
    else:
        yield Skipped("financials", "the source has no financial statements")
    if "industries" in lender.tables and lender.has("customers", "industry"):
        given = [name for name in INDUSTRY if lender.has("industries", name)]
        yield Subject(
            "industry",
            ("industries", "customers"),
            industry(lender),
            tuple(_industry_features(given)),
            made_by=(industry,),
        )
    else:
        yield Skipped("industry", "the source has no industry figures, or no industry of its customers")
    given = [name for name in STANDING if lender.has("standings", name)]
    if given:
        yield Subject("standing", ("standings",), lender.past("standings"), tuple(_standing_features(given)))
    else:
        yield Skipped("standing", "the source has no competitive standing")
    if lender.has("mentions", "sentiment"):
        longest = max(lender.windows)
        yield Subject(
            "mentions",
            ("mentions",),
            lender.past("mentions", longest),
            tuple(_mention_features(lender)),
            history=History(lender.tables["mentions"], longest),
        )
    else:
        yield Skipped("mentions", "the source has no mentions")


def accounts(lender: Lender) -> ibis.Table:
    """Return the published accounts with their ratios; `age` 1 is the newest period known, 2 the one before."""
    rows = lender.past("financials")
    newest_first = ibis.window(
        group_by=["customer_id", "as_of"], order_by=[ibis.desc("event_on"), ibis.desc("row_order")]
    )
    rows = rows.mutate(age=ibis.row_number().over(newest_first) + 1)
    return ratios(rows)


def ratios(rows: ibis.Table) -> ibis.Table:
    """Add the ratios; each is null where a line is unknown or what it is divided by is not above zero."""
    line = {name: rows[name].cast("float64") for names in NEEDS.values() for name in names}
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
        asset_turnover=ratio(line["revenue"], assets),
        cash_flow_to_debt=ratio(line["operating_cash_flow"], liabilities),
        altman_working_capital=ratio(line["current_assets"] - line["current_liabilities"], assets),
        altman_retained_earnings=ratio(line["retained_earnings"], assets),
        altman_ebit=ratio(line["ebit"], assets),
        altman_equity=ratio(line["equity"], liabilities),
    )
    weighted = [weight * rows[part] for part, weight in ALTMAN.items()]
    return rows.mutate(altman_z=weighted[0] + weighted[1] + weighted[2] + weighted[3])


def industry(lender: Lender) -> ibis.Table:
    """Return the visible periods of each customer's industry, the industry being the one known at as_of."""
    customers = lender.known("customers").select(*lender.observed.columns, "industry")
    rows = lender.known("industries", customers, by="industry")
    return rows.filter(rows.days_before >= 1, rows.months_before <= 24)


def _account_features(lender: Lender) -> Iterator[Feature]:
    def newest(name: str, age: int = 1) -> Formula:
        return lambda r: r[name].max(where=r.age == age).cast("float64")

    def change(name: str) -> Formula:
        return lambda r: r[name].max(where=r.age == 1).cast("float64") - r[name].max(where=r.age == 2).cast("float64")

    def growth(name: str) -> Formula:
        return lambda r: ratio(r[name].max(where=r.age == 1), r[name].max(where=r.age == 2)) - 1

    unpublished = "no accounts had been published, or a line of them is unknown"
    given = [name for name in RATIOS if lender.has("financials", *NEEDS[name])]
    for name in given:
        english, chinese, unit, family, direction = RATIOS[name]
        yield Feature(f"financials_{name}", newest(name), english, chinese, family, unit, direction, unpublished)
    for name in [name for name in ("altman_z", "debt_to_assets", "ebit_margin") if name in given]:
        english, chinese, unit, family, direction = RATIOS[name]
        yield Feature(
            f"financials_{name}_change",
            change(name),
            f"Change since the accounts before: {english}",
            f"较上期变化：{chinese}",
            family,
            unit,
            direction,
            "fewer than two accounts had been published",
        )
    for name, english, chinese in (("revenue", "Revenue", "营业收入"), ("total_assets", "Total assets", "总资产")):
        if lender.has("financials", name):
            yield Feature(
                f"financials_{name}",
                newest(name),
                english,
                chinese,
                "company_size",
                "money",
                0,
                "no accounts had been published",
            )
            yield Feature(
                f"financials_{name}_growth",
                growth(name),
                f"Growth since the accounts before: {english.lower()}",
                f"{chinese}较上期增长率",
                "company_growth",
                "share",
                0,
                "fewer than two accounts had been published",
            )
    yield Feature(
        "financials_age_days",
        lambda r: r.days_before.min().cast("float64"),
        "Days since the end of the newest published accounting period",
        "最新财报期末距今天数",
        "accounts_age",
        "days",
        1,
        "no accounts had been published",
    )
    yield Feature(
        "financials_publication_lag_days",
        lambda r: r.known_on.delta(r.event_on, unit="day").max(where=r.age == 1).cast("float64"),
        "Days between the end of the newest period and its publication",
        "最新财报披露滞后天数",
        "accounts_age",
        "days",
        1,
        "no accounts had been published",
    )


def _industry_features(given: list[str]) -> Iterator[Feature]:
    def newest(name: str) -> Formula:
        return lambda r: r[name].argmin(r.days_before, where=r[name].notnull()).cast("float64")

    def change(name: str) -> Formula:
        return lambda r: newest(name)(r) - mean(r[name], r.months_before <= 12)

    for name in given:
        english, chinese, direction = INDUSTRY[name]
        words = ("no figure of the industry was known", "share" if name in ("growth", "default_rate") else "index")
        yield Feature(f"industry_{name}", newest(name), english, chinese, "industry", words[1], direction, words[0])
        if name in ("growth", "default_rate", "competition"):
            yield Feature(
                f"industry_{name}_to_year",
                change(name),
                f"{english}, newest less the average of 12 months",
                f"{chinese}最新值与近12个月均值之差",
                "industry",
                words[1],
                direction,
                words[0],
            )


def _standing_features(given: list[str]) -> Iterator[Feature]:
    for name in given:
        english, chinese, direction = STANDING[name]
        noun = english[:1].lower() + english[1:]
        measure = Measure(name, noun, chinese, "share" if name == "market_share" else "index", "standing", direction)
        yield from expand("standing", measure, ("last", "trend"), (12,))


def _mention_features(lender: Lender) -> Iterator[Feature]:
    windows = lender.windows[-2:]
    yield from expand("mentions", MENTION, ("count",), windows)
    yield from expand("mentions", SENTIMENT, ("mean", "min"), windows)
    yield from expand("mentions", SENTIMENT, ("trend",), windows[-1:])
    for k in windows:
        text, text_zh = months(k)
        yield Feature(
            f"mentions_negative_share_{k}m",
            bound(lambda r, k: share(r.sentiment < 0, r.months_before <= k), k),
            f"Share of mentions in the last {text} that were bad",
            f"近{text_zh}负面舆情占比",
            "reputation",
            "share",
            1,
            "no mention was known in the window",
        )
        if lender.has("mentions", "reach"):
            yield Feature(
                f"mentions_sentiment_by_reach_{k}m",
                _by_reach(k),
                f"Sentiment of mentions in the last {text}, weighted by reach",
                f"近{text_zh}按传播量加权的舆情情绪值",
                "reputation",
                "points",
                -1,
                "no mention with a reach was known in the window",
            )


def _by_reach(k: int) -> Formula:
    def formula(rows: ibis.Table) -> ibis.Value:
        inside = (rows.months_before <= k) & rows.sentiment.notnull()
        reach = ibis.greatest(ibis.least(rows.reach, 2e9), 0).cast("float64").round().cast("int32")
        weighted = (wide(rows.sentiment.cast("decimal(8, 6)")) * reach).sum(where=inside)
        return ratio(weighted, reach.sum(where=inside))

    return formula
