"""Early warning: conditions on a customer's last thirteen months, each raised, kept or cleared with its evidence.

Everything is a matrix, customers by dates, oldest date first; NaN where a figure is unknown on a date. A rule turns
the figures into three matrices: what it looked at, what it compared with, and whether the condition holds; an unknown
figure never raises an alert. First seen is the first date of the unbroken run that reaches the last date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
DATES = 13  # as_of and the twelve month starts before it


class Thresholds(BaseModel):
    """When an alert is raised; numbers of the policy file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    grade_down_notches: Annotated[int, Field(ge=1)]  # within `look_back`
    pd_high: Annotated[float, Field(gt=0, lt=1)]
    pd_jump_factor: Annotated[float, Field(gt=1)]  # within `look_back`
    pd_jump_least: Annotated[float, Field(ge=0, lt=1)]  # a jump to a lower PD is none
    limit_use: Annotated[float, Field(gt=0)]  # share of the limit used
    arrears_days: Annotated[int, Field(ge=1)]  # days past due
    inflow_drop: Annotated[float, Field(gt=0, lt=1)]  # share of the inflow lost within `look_back`
    silent_days: Annotated[int, Field(ge=1)]  # days without an event
    look_back: Annotated[int, Field(ge=1, le=12)]  # months
    # Without its number a condition is not looked at.
    balance_floor: float | None = None  # months of inflow; below 0: an overdraft
    altman_z: float | None = None  # Z'' below which the accounts speak of distress
    equity_floor: float | None = None  # money
    industry_default_factor: Annotated[float | None, Field(gt=1)] = None  # within `look_back`
    sentiment_drop: Annotated[float | None, Field(gt=0, le=2)] = None  # points of -1 to 1 lost within `look_back`


@dataclass(frozen=True)
class History:
    """Figures by customer and date: each (n, 13), oldest first; `customer_id` (n,), `as_of` (n,) the last date."""

    customer_id: npt.NDArray[np.object_]
    as_of: npt.NDArray[np.datetime64]
    scored: Booleans  # the customer was scored on the date
    pd: Floats
    notch: Floats  # place of the grade, 0 the best
    limit_used: Floats  # share
    days_past_due: Floats
    inflow: Floats  # a month
    silent_days: Floats  # from the last event to the date
    bureau_default: Floats  # 1 or 0
    balance: Floats  # money on the accounts
    altman_z: Floats
    equity: Floats  # money
    industry_default_rate: Floats  # of the customer's industry
    sentiment: Floats  # average of three months' mentions, -1 to 1


@dataclass(frozen=True)
class Signal:
    """What a rule saw: three (n, 13) matrices; `holds` is False where `value` is NaN."""

    value: Floats
    before: Floats
    holds: Booleans


@dataclass(frozen=True)
class Rule:
    """One alert: a stable code, how bad, what the figure is, and the condition."""

    code: str
    severity: str  # high, medium, low
    evidence: str  # `{value}`, `{before}`, `{limit}` are filled in
    evidence_zh: str
    look: Callable[[History, Thresholds], Signal]
    threshold: Callable[[Thresholds], float]


def earlier(figures: Floats, months: int) -> Floats:
    """Return the figures `months` dates before, NaN where that lies before the first date."""
    shifted = np.full_like(figures, np.nan)
    shifted[:, months:] = figures[:, : figures.shape[1] - months]
    return shifted


def _none(figures: Floats) -> Floats:
    return np.full_like(figures, np.nan)


def _bureau_default(h: History, _: Thresholds) -> Signal:
    return Signal(h.bureau_default, _none(h.pd), h.bureau_default == 1)


def _pd_high(h: History, t: Thresholds) -> Signal:
    return Signal(h.pd, _none(h.pd), h.pd >= t.pd_high)


def _new_arrears(h: History, t: Thresholds) -> Signal:
    before = earlier(h.days_past_due, t.look_back)
    return Signal(h.days_past_due, before, (h.days_past_due >= t.arrears_days) & (before < t.arrears_days))


def _grade_down(h: History, t: Thresholds) -> Signal:
    before = earlier(h.notch, t.look_back)
    return Signal(h.notch - before, _none(h.pd), h.notch - before >= t.grade_down_notches)


def _pd_jump(h: History, t: Thresholds) -> Signal:
    before = earlier(h.pd, t.look_back)
    return Signal(h.pd, before, (h.pd >= t.pd_jump_factor * before) & (h.pd >= t.pd_jump_least))


def _inflow_drop(h: History, t: Thresholds) -> Signal:
    before = earlier(h.inflow, t.look_back)
    return Signal(h.inflow, before, (before > 0) & (h.inflow <= (1 - t.inflow_drop) * before))


def _limit_use(h: History, t: Thresholds) -> Signal:
    return Signal(h.limit_used, _none(h.pd), h.limit_used >= t.limit_use)


def _data_silent(h: History, t: Thresholds) -> Signal:
    return Signal(h.silent_days, _none(h.pd), h.silent_days >= t.silent_days)


def _below(figures: Floats, floor: Floats) -> Signal:
    return Signal(figures, floor, figures < floor)


def _balance_low(h: History, t: Thresholds) -> Signal:
    floor = np.nan if t.balance_floor is None else t.balance_floor
    return _below(h.balance, np.full_like(h.balance, floor) if floor == 0 else floor * h.inflow)


def _altman_low(h: History, t: Thresholds) -> Signal:
    return _below(h.altman_z, np.full_like(h.altman_z, _number(t.altman_z)))


def _equity_low(h: History, t: Thresholds) -> Signal:
    return _below(h.equity, np.full_like(h.equity, _number(t.equity_floor)))


def _industry_shock(h: History, t: Thresholds) -> Signal:
    before = earlier(h.industry_default_rate, t.look_back)
    jump = h.industry_default_rate >= _number(t.industry_default_factor) * before
    return Signal(h.industry_default_rate, before, (before > 0) & jump)


def _reputation_shock(h: History, t: Thresholds) -> Signal:
    before = earlier(h.sentiment, t.look_back)
    return Signal(h.sentiment, before, before - h.sentiment >= _number(t.sentiment_drop))


def _number(threshold: float | None) -> float:
    """Return a threshold; NaN, with which nothing compares, where the policy states none."""
    return np.nan if threshold is None else threshold


RULES: tuple[Rule, ...] = (  # worst first: the order of the published column
    Rule("BUREAU_DEFAULT", "high", "a default known elsewhere", "在其他机构有违约记录",
         _bureau_default, lambda _: 1.0),
    Rule("PD_HIGH", "high", "PD {value}, threshold {limit}", "违约概率 {value}，阈值 {limit}",
         _pd_high, lambda t: t.pd_high),
    Rule("NEW_ARREARS", "high", "{value} days past due, {before} before", "逾期 {value} 天，此前 {before} 天",
         _new_arrears, lambda t: float(t.arrears_days)),
    Rule("GRADE_DOWN", "medium", "{value} notches down", "评级下调 {value} 级",
         _grade_down, lambda t: float(t.grade_down_notches)),
    Rule("PD_JUMP", "medium", "PD {value}, {before} before", "违约概率 {value}，此前 {before}",
         _pd_jump, lambda t: t.pd_jump_factor),
    Rule("INFLOW_DROP", "medium", "monthly inflow {value}, {before} before", "月流入 {value}，此前 {before}",
         _inflow_drop, lambda t: t.inflow_drop),
    Rule("ALTMAN_LOW", "medium", "Altman Z'' {value}, threshold {limit}", "Altman Z'' 评分 {value}，阈值 {limit}",
         _altman_low, lambda t: _number(t.altman_z)),
    Rule("EQUITY_LOW", "medium", "equity {value}, threshold {limit}", "所有者权益 {value}，阈值 {limit}",
         _equity_low, lambda t: _number(t.equity_floor)),
    Rule("REPUTATION_SHOCK", "medium", "average sentiment of mentions {value}, {before} before",
         "舆情情绪均值 {value}，此前 {before}", _reputation_shock, lambda t: _number(t.sentiment_drop)),
    Rule("INDUSTRY_SHOCK", "medium", "default rate of the industry {value}, {before} before",
         "行业违约率 {value}，此前 {before}", _industry_shock, lambda t: _number(t.industry_default_factor)),
    Rule("BALANCE_LOW", "low", "account balance {value}, floor {before}", "账户余额 {value}，下限 {before}",
         _balance_low, lambda t: _number(t.balance_floor)),
    Rule("LIMIT_USE", "low", "{value} of the limit used", "额度使用 {value}",
         _limit_use, lambda t: t.limit_use),
    Rule("DATA_SILENT", "low", "no event for {value} days", "{value} 天无任何记录",
         _data_silent, lambda t: float(t.silent_days)),
)  # fmt: skip
CODES = tuple(rule.code for rule in RULES)
HIGH = tuple(rule.code for rule in RULES if rule.severity == "high")


@dataclass(frozen=True)
class Alerts:
    """`table`: one row an alert that is up or was cleared at the last date; `up` (n, rules).

    table: customer_id, as_of, code, severity, state (raised, kept, cleared), first_seen_on, since_before (it already
    held on the first date that the customer has), value, before, threshold, evidence; by customer_id and the rules'
    order. applicable: code -> customers whose figures are known at the last date.
    """

    table: pd.DataFrame
    up: Booleans
    applicable: Mapping[str, int]


def raise_alerts(history: History, thresholds: Thresholds, *, language: str = "en") -> Alerts:
    """Return each customer's alerts along the dates.

    history: figures (n, 13), customers in ascending order. Dates are `as_of` minus whole months. An unknown figure
    raises nothing. language: of the evidence, `en` or `zh`.
    """
    n, dates = history.pd.shape
    up = np.zeros((n, len(RULES)), dtype=bool)
    parts: list[pd.DataFrame] = []
    applicable: dict[str, int] = {}
    first = np.argmax(history.scored, axis=1)
    for place, rule in enumerate(RULES):
        signal = rule.look(history, thresholds)
        holds = signal.holds & history.scored
        applicable[rule.code] = int((~np.isnan(signal.value[:, -1])).sum())
        now, previous = holds[:, -1], holds[:, -2] if dates > 1 else np.zeros(n, dtype=bool)
        up[:, place] = now
        index = np.flatnonzero(now | previous)
        # the date shown is the last on which it held; its run starts after the last date before on which it did not
        end = np.where(now[index], dates - 1, dates - 2)
        not_held = np.where(np.arange(dates) <= end[:, None], ~holds[index], False)
        start = dates - np.argmax(not_held[:, ::-1], axis=1)
        start = np.where(not_held.any(axis=1), start, 0)
        state = np.where(now[index], np.where(start == dates - 1, "raised", "kept"), "cleared")
        value = signal.value[index, end]
        before = signal.before[index, end]
        parts.append(
            pd.DataFrame(
                {
                    "customer_id": history.customer_id[index], "as_of": history.as_of[index], "code": rule.code,
                    "severity": rule.severity, "state": state,
                    "first_seen_on": _date(history.as_of[index], dates - 1 - start),
                    "since_before": start <= first[index],
                    "value": value, "before": before, "threshold": rule.threshold(thresholds), "place": place,
                    "evidence": _evidence(rule, language, value, before, rule.threshold(thresholds)),
                }
            )
        )  # fmt: skip
    table = pd.concat(parts, ignore_index=True).sort_values(["customer_id", "place"], kind="stable", ignore_index=True)
    return Alerts(table.drop(columns="place"), up, applicable)


def held(history: History, thresholds: Thresholds) -> pd.DataFrame:
    """Return every date on which a condition held: customer_id, as_of (the date), code, in this order."""
    dates = history.pd.shape[1]
    parts = []
    for rule in RULES:
        who, when = np.nonzero(rule.look(history, thresholds).holds & history.scored)
        on = _date(history.as_of[who], dates - 1 - when)
        parts.append(pd.DataFrame({"customer_id": history.customer_id[who], "as_of": on, "code": rule.code}))
    return pd.concat(parts, ignore_index=True).sort_values(["customer_id", "as_of", "code"], ignore_index=True)


def use_of_limit(exposure: Floats, limit: Floats) -> Floats:
    """Return exposure over limit, NaN where either is unknown, and where the exposure is more than the limit.

    More than the limit means that the exposure holds other products too, and how much of the limit is used is unknown.
    """
    use = np.divide(exposure, limit, out=_none(limit), where=limit > 0)
    return np.where(use > 1, np.nan, use)


def joined_codes(up: Booleans) -> npt.NDArray[np.object_]:
    """Return each customer's codes, worst first, joined by `;`; empty text where none is up. up: (n, rules)."""
    pattern = up @ (1 << np.arange(len(CODES)))
    distinct, place = np.unique(pattern, return_inverse=True)
    texts = [";".join(code for bit, code in enumerate(CODES) if int(number) >> bit & 1) for number in distinct]
    return np.array(texts, dtype=object)[place] if len(up) else np.array([], dtype=object)


def _date(as_of: npt.NDArray[np.datetime64], months_back: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    """Return the date so many months before `as_of`, on the same day of the month (a run's dates are month starts)."""
    day = as_of.astype("M8[D]")
    month = day.astype("M8[M]")
    return (month - months_back).astype("M8[D]") + (day - month.astype("M8[D]"))


def _evidence(rule: Rule, language: str, value: Floats, before: Floats, threshold: float) -> npt.NDArray[np.object_]:
    """Return the evidence as text; figures with four significant digits, so that few texts are distinct."""
    template = rule.evidence_zh if language == "zh" else rule.evidence
    pairs = pd.DataFrame({"value": value, "before": before})
    codes = pairs.groupby(["value", "before"], dropna=False, sort=False).ngroup().to_numpy()
    distinct = pairs.drop_duplicates()
    limit = f"{threshold:g}"
    texts = [
        template.format(value=f"{float(v):.4g}", before="-" if np.isnan(b) else f"{float(b):.4g}", limit=limit)
        for v, b in zip(distinct["value"], distinct["before"], strict=True)
    ]
    return np.array(texts, dtype=object)[codes] if len(pairs) else np.array([], dtype=object)
