"""Checks on what the book and its outcomes do: decline, lights, expectations, roll rates, concentration, fairness.

As every check (`checks`, `finding`), each looks at the figures of `monitor` and at `Limits`, and answers found, clear
or not applicable, in English and Chinese.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.finding import Answer, Check, Figures, NotApplicable, need, registering
from models.limits import Limits

BOOK_CHECKS: list[Check] = []
LEAST_MOVED = 20  # customers whose grade changed, below which a ratio says nothing


check = registering(BOOK_CHECKS)


def applicable(figures: Figures, name: str, key: str, text: str, zh: str) -> Any:
    """Return `figures[name][key]`, or answer `not applicable` with the section's own reason, or else with `text`."""
    section = figures.get(name)
    if isinstance(section, Mapping) and section.get("why"):
        raise NotApplicable(str(section["why"]), str(section.get("why_zh") or zh))
    return need(figures, name, key, text=text, zh=zh)


@check("M017", "Discrimination has declined since the evaluation", "区分能力自评估以来下降")
def auc_decline(figures: Figures, limits: Limits) -> Answer:
    """Found where the champion ranks matured rows worse than the rows of its evaluation, beyond chance."""
    seen = need(
        figures,
        "decline",
        text="The champion has no evaluation and matured rows with both outcomes to compare.",
        zh="冠军模型没有可比较的评估结果与已到期样本。",
    )
    p = seen["p"] if seen["p_both"] is None else seen["p_both"]
    both = "?" if seen["p_both"] is None else f"{seen['p_both']:.3f}"
    severity = limits.auc_decline.above(seen["decline"]) if p < limits.auc_decline_p else None
    return Answer(
        severity,
        f"AUC {seen['first']:.3f} at the evaluation, {seen['now']:.3f} on matured rows (p {seen['p']:.3f} with the "
        f"first as given, {both} with both varying).",
        f"评估时 AUC 为 {seen['first']:.3f}，到期样本为 {seen['now']:.3f}（以评估值为定值 p = {seen['p']:.3f}，"
        f"两者均变动 p = {both}）。",
        dict(seen),
    )


@check("M018", "Grades default more than their PD allows", "评级的违约多于其违约概率")
def red_lights(figures: Figures, limits: Limits) -> Answer:
    """Found where too many grades have a red light on matured rows."""
    rows = need(
        figures, "realised", "by_grade", text="No graded row outside training has matured.", zh="没有已到期的评级样本。"
    )
    red = [r["group"] for r in rows if r["light"] == "red"]
    share = len(red) / len(rows)
    listed = ", ".join(red) or "–"
    return Answer(
        limits.red_share.above(share),
        f"{len(red)} of {len(rows)} grades have a red light: {listed}.",
        f"{len(rows)} 个评级中有 {len(red)} 个为红灯：{listed}。",
        {"red": red, "share": share},
    )


def _then_and_now(figures: Figures, key: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return an expectation at the earliest date with one and at the run's date, and how many months lie between."""
    rows = applicable(figures, "expected", "by_month", "No customer is scored.", "没有客户被评分。")
    known = [r for r in rows if r.get(key)]
    now = next((r for r in known if r["months_back"] == 0), None)
    if now is None or len(known) < 2:
        raise NotApplicable("Customers are scored at one date only.", "只有一个评分日。")
    first = max(known, key=lambda r: int(r["months_back"]))
    return first[key], now[key], int(first["months_back"])


@check("M019", "The default rate to expect has moved", "预期违约率变化")
def expected_rate(figures: Figures, limits: Limits) -> Answer:
    """Found where the mean PD moved by a factor and beyond what chance makes of outcomes."""
    then, now, back = _then_and_now(figures, "rate")
    ratio = max(now["value"], then["value"]) / max(min(now["value"], then["value"]), 1e-9)
    apart = now["low"] > then["high"] or now["high"] < then["low"]
    return Answer(
        limits.expected_rate_ratio.above(ratio) if apart else None,
        f"Default rate to expect: {then['value']:.2%} {back} months ago, {now['value']:.2%} now "
        f"({now['low']:.2%} to {now['high']:.2%}).",
        f"预期违约率：{back} 个月前 {then['value']:.2%}，现在 {now['value']:.2%}"
        f"（{now['low']:.2%} 至 {now['high']:.2%}）。",
        {"then": then["value"], "now": now["value"], "ratio": ratio},
    )


@check("M020", "The AUC to expect has fallen", "预期 AUC 下降")
def expected_auc(figures: Figures, limits: Limits) -> Answer:
    """Found where today's customers are harder to tell apart than those of a year ago, if PDs are right."""
    then, now, back = _then_and_now(figures, "auc")
    drop = then["value"] - now["value"]
    return Answer(
        limits.expected_auc_drop.above(drop),
        f"AUC to expect, if PDs are right: {then['value']:.3f} {back} months ago, {now['value']:.3f} now "
        f"({now['low']:.3f} to {now['high']:.3f}).",
        f"若违约概率正确，预期 AUC：{back} 个月前 {then['value']:.3f}，现在 {now['value']:.3f}"
        f"（{now['low']:.3f} 至 {now['high']:.3f}）。",
        {"then": then["value"], "now": now["value"], "drop": drop},
    )


@check("M021", "More customers roll on to worse arrears", "滚动至更差逾期的客户增多")
def roll_rates(figures: Figures, limits: Limits) -> Answer:
    """Found where in the newest month a larger share got later than in the months before, beyond chance."""
    none = ("There is no earlier month to compare with.", "没有更早的月份可比较。")
    now = applicable(figures, "roll_rates", "now", *none)
    ratio = applicable(figures, "roll_rates", "ratio", *none)
    before, p = figures["roll_rates"]["before"], float(figures["roll_rates"]["p"])
    return Answer(
        limits.roll_ratio.above(ratio) if p < limits.roll_p else None,
        f"{now['share']:.2%} of customers got later in the newest month, {before['share']:.2%} a month before it "
        f"(p {p:.3f}).",
        f"最近一个月 {now['share']:.2%} 的客户逾期加重，此前每月 {before['share']:.2%}（p = {p:.3f}）。",
        {"now": now["share"], "before": before["share"], "ratio": ratio, "p": p},
    )


@check("M022", "Grades moved one way", "评级向同一方向变动")
def one_way(figures: Figures, limits: Limits) -> Answer:
    """Found where within a month many more grades got worse than better, or the reverse."""
    moved = need(figures, "migration", "1", text="No grades of the month before.", zh="没有上个月的评级。")
    worse, better = int(moved["worse"]), int(moved["better"])
    if worse + better < LEAST_MOVED:
        raise NotApplicable(
            f"Fewer than {LEAST_MOVED} grades moved within the month.", f"一个月内变动的评级少于 {LEAST_MOVED} 个。"
        )
    ratio = max(worse, better) / max(min(worse, better), 1)
    return Answer(
        limits.one_way_ratio.above(ratio),
        f"Within a month {worse:,} customers moved to a worse grade, {better:,} to a better one.",
        f"一个月内 {worse:,} 个客户评级下调，{better:,} 个上调。",
        {"worse": worse, "better": better, "ratio": ratio},
    )


@check("M023", "Exposure is concentrated", "敞口集中")
def concentration(figures: Figures, limits: Limits) -> Answer:
    """Found where industries or regions are few and large, or one customer is."""
    held = need(figures, "portfolio", "herfindahl_beyond_even", text="No exposure is known.", zh="敞口未知。")
    seen = {name: float(held[name]) for name in ("industry", "region") if held.get(name) is not None}
    largest = figures["portfolio"].get("largest_exposure_share")
    if not seen and largest is None:
        raise NotApplicable("No exposure is known.", "敞口未知。")
    severities = [limits.concentration.above(value) for value in seen.values()]
    severities += [limits.largest_exposure_share.above(largest)] if largest is not None else []
    gravest = "stop" if "stop" in severities else "warn" if "warn" in severities else None
    en = [f"by {name} {value:.3f} (Herfindahl; 0: equal parts, 1: all in one)" for name, value in seen.items()]
    zh = [
        f"{'行业' if name == 'industry' else '地区'}集中度 {value:.3f}（赫芬达尔指数，0 为均等，1 为全部集中）"
        for name, value in seen.items()
    ]
    if largest is not None:
        en.append(f"largest customer {largest:.2%} of exposure")
        zh.append(f"最大客户占敞口 {largest:.2%}")
    return Answer(
        gravest, f"Exposure: {'; '.join(en)}.", f"敞口：{'；'.join(zh)}。", {**seen, "largest_exposure_share": largest}
    )


@check("M024", "A group is approved less often", "某一群体的通过率偏低")
def adverse_impact(figures: Figures, limits: Limits) -> Answer:
    """Found where a group's approval rate lies below a share of the highest one, beyond chance."""
    none = ("No customer of a declared group was decided on.", "没有已决策的受保护群体客户。")
    told = applicable(figures, "fairness", "attributes", *none)
    ratios = [(each["attribute"], r) for each in told for r in each["approval"] if r["ratio"] is not None]
    if not ratios:
        raise NotApplicable("No two groups are large enough to compare.", "没有两个足够大的群体可比较。")
    attribute, worst = min(ratios, key=lambda pair: pair[1]["ratio"])
    found = [
        (limits.adverse_impact.below(r["ratio"]), name, r)
        for name, r in ratios
        if r["p"] < limits.adverse_impact_p and limits.adverse_impact.below(r["ratio"])
    ]
    gravest = "stop" if any(severity == "stop" for severity, *_ in found) else "warn" if found else None
    return Answer(
        gravest,
        f"{len(found)} groups lie below; the lowest ratio of approval is {worst['ratio']:.2f} ({attribute} "
        f"{worst['group']}: {worst['rate']:.1%} of {worst['decided']:,}; p {worst['p']:.3f}).",
        f"{len(found)} 个群体偏低；最低通过率之比为 {worst['ratio']:.2f}（{attribute} {worst['group']}："
        f"{worst['decided']:,} 个客户的 {worst['rate']:.1%}；p = {worst['p']:.3f}）。",
        {"groups": [[name, r["group"], r["ratio"]] for _, name, r in found], "lowest": worst["ratio"]},
    )


@check("M025", "A protected attribute is an input of the model", "受保护属性被用作模型输入")
def protected_inputs(figures: Figures, _: Limits) -> Answer:
    """Found where the model reads a column that is declared protected, as an older champion may."""
    section = figures.get("fairness") or {}
    if section.get("inputs") is None:
        applicable(figures, "fairness", "inputs", "No attribute is declared.", "没有声明受保护属性。")
    names = list(section["inputs"])
    listed = ", ".join(names)
    return Answer(
        "stop" if names else None,
        f"The model reads {listed}." if names else "No declared attribute is among the model's inputs.",
        f"模型使用了 {listed}。" if names else "模型输入中没有声明的受保护属性。",
        {"inputs": names},
    )


@check("M026", "Reasons hang on the draw", "原因取决于随机种子")
def unstable_reasons(figures: Figures, limits: Limits) -> Answer:
    """Found where models of other seeds name another first reason for too many customers."""
    why = {
        "text": "Agreement between models of other seeds was not measured.",
        "zh": "未衡量不同种子模型之间的一致性。",
    }
    share = need(figures, "reasons", "agreement", "all", "first", **why)
    return Answer(
        limits.reasons_kept.below(share),
        f"Models of other seeds name the same first reason for {share:.1%} of customers.",
        f"不同种子的模型对 {share:.1%} 的客户给出相同的首要原因。",
        {"share": share},
    )
