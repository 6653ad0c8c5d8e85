"""What is said about a company and its market: the state of the industry, its standing there, its reputation.

Published accounts have a module of their own (`accounts`), and so have arrears on invoices (`arrears`).
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import Measure, expand, last, mean, months, ratio, share, total, wide
from features.definition import Feature, Formula, History, Lender, Skipped, Subject, bound

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
SOURCE = Measure("source", "sources of mentions", "舆情来源", "", "reputation")
MENTION = Measure("mention_id", "mentions in public sources", "舆情提及", "", "reputation")


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare industry, standing and reputation, each where the source has it."""
    if "industries" in lender.tables and lender.has("customers", "industry"):
        given = [name for name in INDUSTRY if lender.has("industries", name)]
        yield Subject(
            "industry",
            ("industries", "customers"),
            industry(lender),
            tuple(_industry_features(given)),
            facts={"industry_default_rate": _newest("default_rate")} if "default_rate" in given else {},
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
            facts={"sentiment_3m": lambda r: mean(r.sentiment, r.months_before <= 3)},
            history=History(lender.tables["mentions"], longest),
        )
    else:
        yield Skipped("mentions", "the source has no mentions")


def industry(lender: Lender) -> ibis.Table:
    """Return the visible periods of each customer's industry, the industry being the one known at as_of."""
    customers = lender.known("customers").select(*lender.observed.columns, "industry")
    rows = lender.known("industries", customers, by="industry")
    return rows.filter(rows.days_before >= 1, rows.months_before <= 24)


def _newest(name: str, before: int = 0) -> Formula:
    return lambda r: r[name].argmin(r.days_before, where=r[name].notnull() & (r.months_before > before)).cast("float64")


def _industry_features(given: list[str]) -> Iterator[Feature]:
    def change(name: str) -> Formula:
        return lambda r: _newest(name)(r) - mean(r[name], r.months_before <= 12)

    def year_on(name: str) -> Formula:
        return lambda r: _newest(name)(r) - _newest(name, 12)(r)

    for name in given:
        english, chinese, direction = INDUSTRY[name]
        words = ("no figure of the industry was known", "share" if name in ("growth", "default_rate") else "index")
        yield Feature(f"industry_{name}", _newest(name), english, chinese, "industry", words[1], direction, words[0])
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
        yield Feature(
            f"industry_{name}_change_1y",
            year_on(name),
            f"{english}, newest less what it was more than 12 months before as_of",
            f"{chinese}最新值与12个月以前之差",
            "industry",
            words[1],
            direction,
            "no figure of the industry, or none of more than 12 months ago, was known",
        )


def _standing_features(given: list[str]) -> Iterator[Feature]:
    for name in given:
        english, chinese, direction = STANDING[name]
        noun = english[:1].lower() + english[1:]
        measure = Measure(name, noun, chinese, "share" if name == "market_share" else "index", "standing", direction)
        yield from expand("standing", measure, ("last", "trend", "mean", "min"), (12,))
        yield Feature(
            f"standing_{name}_last_to_mean_12m",
            bound(
                lambda r, name: last(r[name], r.row_order, r.months_before >= 1) - mean(r[name], r.months_before <= 12),
                name,
            ),
            f"{english}, newest less the average of 12 months",
            f"{chinese}最新值与近12个月均值之差",
            "standing",
            measure.unit,
            direction,
            "no standing was known in the window",
        )


def _mention_features(lender: Lender) -> Iterator[Feature]:
    windows = tuple(k for k in lender.windows if k > 1)[-3:] or lender.windows  # mentions are rare
    yield from expand("mentions", MENTION, ("count",), windows)
    yield from expand("mentions", MENTION, ("recency",), ())
    yield from expand("mentions", SENTIMENT, ("mean", "min"), windows)
    yield from expand("mentions", SENTIMENT, ("trend", "std"), windows[-1:])
    yield from expand("mentions", SENTIMENT, ("last",), ())
    if lender.has("mentions", "source"):
        yield from expand("mentions", SOURCE, ("distinct",), windows[-1:])
    yield Feature(
        "mentions_negative_recency",
        lambda r: r.days_before.min(where=r.sentiment < 0).cast("float64"),
        "Days since the latest bad mention",
        "距最近一次负面舆情的天数",
        "reputation",
        "days",
        -1,
        "no bad mention was known",
    )
    if len(windows) > 1:
        short, long = windows[0], windows[-1]
        yield Feature(
            f"mentions_sentiment_{short}m_to_{long}m",
            lambda r: mean(r.sentiment, r.months_before <= short) - mean(r.sentiment, r.months_before <= long),
            f"Average sentiment of mentions in the last {months(short)[0]} less that of the last {months(long)[0]}",
            f"近{months(short)[1]}与近{months(long)[1]}舆情情绪均值之差",
            "reputation",
            "points",
            -1,
            "no mention was known in the shorter window",
        )
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
                f"mentions_reach_sum_{k}m",
                bound(lambda r, k: total(r.reach, r.months_before <= k), k),
                f"People reached by mentions in the last {text}",
                f"近{text_zh}舆情传播总量",
                "reputation",
                "people",
                0,
                "no mention with a reach was known in the window",
            )
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
