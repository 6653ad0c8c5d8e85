"""Whom to contact, why, what to ask for and to offer, by when and by whom; ordered by the loss that a contact avoids.

On the list is who has an alert of the stated severities, whose action is neither keep nor raise, or whose regular
review falls due, or fell due and was not made. A contact is taken to avoid a stated share of the expected loss, less
where the customer is already late. Each owner's best `capacity` make the first week, the next ones the second; who
comes after the last week waits, and stays on the list. Who was contacted within the cool-down, or is snoozed, is shown
and takes no place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models.contacts import Standing

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.datetime64]
Objects = npt.NDArray[np.object_]
Booleans = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Count = Annotated[int, Field(ge=1)]
Capacity = Annotated[int, Field(ge=0)]  # 0: on leave, so that all of it waits
Share = Annotated[float, Field(ge=0, le=1)]
CALM = ("keep", "raise")  # actions that need no contact of their own
ORDER = {"open": 0, "waiting": 1, "snoozed": 2, "done": 3}
ASKS = {  # in the order of the column
    "payment": ("payment of the overdue {0}", "支付逾期款项 {0}"),
    "no_accounts": ("the annual accounts: none are known", "年度财务报表：目前没有"),
    "old_accounts": ("newer accounts than those to {0}", "比截至 {0} 更新的财务报表"),
    "silent": ("statements of the accounts since {0}", "{0} 以来的账户流水"),
    "no_income": ("proof of income or turnover", "收入或营业额证明"),
    "driver": ("an explanation of: {0}", "说明原因：{0}"),
}
OFFERS = {
    "stop": ("no new credit; a plan to repay what is owed", "停止新增授信；商定还款计划"),
    "prepay": ("delivery against prepayment; a limit of {0}", "预付款发货；额度 {0}"),
    "reduce": ("a limit of {0}, payment within {1} days", "额度降至 {0}，账期 {1} 天"),
    "review": ("nothing before the review is done", "复核完成前不作承诺"),
    "raise": ("a limit of {0}, payment within {1} days", "额度提高至 {0}，账期 {1} 天"),
    "keep": ("present limit and terms: payment within {1} days", "额度与条件不变：账期 {1} 天"),
}


class Rules(BaseModel):
    """Who is contacted, by whom and how often; of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    severities: tuple[str, ...] = ("high", "medium")  # alerts that put a customer on the list
    weeks: Annotated[int, Field(ge=1, le=53)] = 4  # that one list covers
    weekly_capacity: Capacity = 20  # contacts a week of an owner
    unassigned_capacity: Capacity = 20  # of those together who have no owner
    owners: dict[str, Capacity] = {}  # owners whose capacity is another
    cool_down_days: Annotated[int, Field(ge=0, le=3660)] = 60
    overdue_days: Annotated[int, Field(ge=0, le=3660)] = 31  # that a review stays due before anyone was ever contacted
    late_days: Count = 60  # days past due from which a contact comes late
    avoided_early: Share = 0.3  # share of the expected loss that a contact avoids,
    avoided_late: Share = 0.1  # and where it comes late
    accounts_months: Count = 18  # older accounts of a company are asked for anew
    silent_days: Count = 60  # without any event, after which statements are asked for


@dataclass(frozen=True)
class Facts:
    """What is known of each customer, shape (n,): NaN, NaT and None where it is not; money in the source's currency."""

    customer_id: Objects
    owner: Objects  # None: nobody's
    pd: Floats
    expected_loss: Floats
    days_past_due: Floats
    review_months: Whole  # between regular reviews
    alarmed: Booleans  # an alert of the stated severities is up
    action: Objects
    joined_on: Days  # before it no review was due


def loss_avoided(expected_loss: Floats, days_past_due: Floats, rules: Rules) -> Floats:
    """Return the expected loss that one contact avoids, money, 0 where the loss is unknown."""
    share = np.where(days_past_due >= rules.late_days, rules.avoided_late, rules.avoided_early)
    return np.round(np.nan_to_num(expected_loss) * share, 2)


def spread_of(customers: Objects) -> Hashes:
    """Return a hash of each identifier, shape (n,): it spreads first reviews, and is the same in every run."""
    return pd.util.hash_array(customers, categorize=False) if len(customers) else np.array([], dtype=np.uint64)


def floors(as_of: np.datetime64, first_contact: np.datetime64, joined_on: Days, overdue_days: int) -> Days:
    """Return the day from which on a review not made is still due, shape (n,).

    `overdue_days` before as_of; from the first recorded contact of anyone (NaT: none was ever recorded) where that is
    earlier, since from then on a review without a contact was not made; never before he joined (NaT: unknown).
    """
    day = as_of.astype("M8[D]") - np.timedelta64(overdue_days, "D")
    day = np.fmin(day, first_contact.astype("M8[D]"))  # of a day and NaT the day
    return np.fmax(np.full(len(joined_on), day), joined_on.astype("M8[D]"))


def next_reviews(spread: Hashes, floor: Days, months: Whole, last_done: Days) -> Days:
    """Return the day of each customer's next regular review, past where one is overdue; shapes (n,).

    So many months after the newest contact; before any (NaT), the first day on or after `floor` of a calendar that
    `spread` (of `spread_of`) spreads over the interval, so that a day stays where it is from run to run.
    """
    phase = (spread % months.astype(np.uint64)).astype(np.int64)
    day = (spread // np.uint64(64) % np.uint64(28)).astype(np.int64)
    now = floor.astype("M8[M]")
    month = now + (phase - now.astype(np.int64)) % months
    first = month.astype("M8[D]") + day
    first = np.where(first < floor, (month + months).astype("M8[D]") + day, first)
    since = last_done.astype("M8[D]")
    offset = np.minimum((since - since.astype("M8[M]").astype("M8[D]")).astype(np.int64), 27)
    after = (since.astype("M8[M]") + months).astype("M8[D]") + np.where(np.isnat(since), 0, offset)
    return np.where(np.isnat(since), first, after)


def reviews(facts: Facts, standing: Standing, as_of: np.datetime64, rules: Rules) -> Days:
    """Return the day of each customer's next regular review on `as_of`, past where one is overdue; shape (n,)."""
    floor = floors(as_of, standing.first_contact, facts.joined_on, rules.overdue_days)
    return next_reviews(spread_of(facts.customer_id), floor, facts.review_months, standing.last_done)


def listed(facts: Facts, standing: Standing, as_of: np.datetime64, rules: Rules) -> pd.DataFrame:
    """Return the worklist, in order: one row a customer who is to be contacted, or was and rests.

    Columns: row (place in `facts`), rank (1 the best of all that are open; null for who rests), customer_id, kind
    (alarm, review), owner (null: nobody's), state (open, waiting: beyond what the owner can do in `weeks`, snoozed,
    done), outcome, week (1 the first; null unless open), due_on (last day of that week; of a review not before
    review_on), again_from, review_on, loss_avoided.
    """
    review = reviews(facts, standing, as_of, rules)
    alarm = facts.alarmed | ~np.isin(facts.action, CALM)
    due = review < as_of.astype("M8[D]") + 7 * rules.weeks
    frame = pd.DataFrame(
        {
            "row": np.arange(len(review)), "customer_id": facts.customer_id, "kind": np.where(alarm, "alarm", "review"),
            "owner": facts.owner, "state": standing.state, "outcome": standing.outcome,
            "again_from": standing.again_from, "review_on": review,
            "loss_avoided": loss_avoided(facts.expected_loss, facts.days_past_due, rules), "pd": facts.pd,
        }
    )[alarm | due | (standing.state != "open")]  # fmt: skip
    frame = frame.sort_values(["loss_avoided", "pd", "customer_id"], ascending=[False, False, True])
    is_open = frame["state"] == "open"
    desk = frame["owner"].fillna("")
    capacity = desk.map({"": rules.unassigned_capacity, **rules.owners}).fillna(rules.weekly_capacity).astype(int)
    turn = frame[is_open].groupby(desk[is_open]).cumcount().reindex(frame.index)
    week = (turn // capacity.clip(lower=1) + 1).where(capacity > 0)
    frame["rank"] = is_open.cumsum().where(is_open).astype("Int64")
    frame["week"] = week.where(week <= rules.weeks).astype("Int64")
    frame.loc[is_open & frame["week"].isna(), "state"] = "waiting"
    ends = np.where(frame["week"].notna(), frame["week"].fillna(0).to_numpy(dtype=np.int64) * 7 - 1, 0)
    due_on = pd.Series(as_of.astype("M8[D]") + ends, index=frame.index)
    due_on = due_on.mask((frame["kind"] == "review") & (frame["review_on"] > due_on), frame["review_on"])
    frame["due_on"] = due_on.where(frame["week"].notna())
    frame["place"] = frame["state"].map(ORDER)
    return frame.sort_values(["place", "rank", "customer_id"], ignore_index=True).drop(columns=["place", "pd"])


def asked(
    facts: pd.DataFrame, as_of: np.datetime64, rules: Rules, language: str
) -> tuple[pd.Series, pd.Series]:  # fmt: skip
    """Return what to ask each customer for, as codes and in words, both joined by `; `, empty where nothing is.

    facts: company (bool), overdue_amount, accounts_period_end, last_event_on, monthly_inflow, driver (the first
    reason's words) and risen (the PD rose: an alert says so); null where unknown. language: en or zh.
    """
    side = int(language == "zh")
    oldest = (as_of.astype("M8[M]") - rules.accounts_months).astype("M8[D]")
    quiet = as_of.astype("M8[D]") - rules.silent_days
    accounts, event = (pd.to_datetime(facts[name]) for name in ("accounts_period_end", "last_event_on"))
    money = facts["overdue_amount"].astype(float)
    day = "%Y-%m-%d"
    holds = {
        "payment": (money > 0, money.map("{:,.2f}".format)),
        "no_accounts": (facts["company"] & accounts.isna(), None),
        "old_accounts": (facts["company"] & (accounts < oldest), accounts.dt.strftime(day)),
        "silent": (event <= quiet, event.dt.strftime(day)),
        "no_income": (facts["monthly_inflow"].isna() & ~facts["company"], None),
        "driver": (facts["risen"] & facts["driver"].notna(), facts["driver"]),
    }
    codes = pd.Series("", index=facts.index, dtype=object)
    words = codes.copy()
    for code, (true, value) in holds.items():
        before, _, after = ASKS[code][side].partition("{0}")
        text = before if value is None else before + value.astype(object).fillna("") + after
        codes = codes.where(~true, codes + "; " + code)
        words = words.where(~true, words + "; " + text)
    return codes.str.removeprefix("; "), words.str.removeprefix("; ")


def offered(action: pd.Series, limit: pd.Series, term: pd.Series, language: str) -> pd.Series:
    """Return what to offer each customer, in words: the policy's action with its limit and payment term in days."""
    side = int(language == "zh")
    money = limit.astype(float).map("{:,.0f}".format).astype(object).where(limit.notna(), "–")
    days = term.astype(int).astype(str).astype(object)
    filled = pd.Series("", index=action.index, dtype=object)
    for name, pair in OFFERS.items():  # six texts, each filled for all whom it concerns
        head, _, rest = pair[side].partition("{0}")
        middle, _, tail = rest.partition("{1}")
        if "{0}" not in pair[side]:
            head, _, tail = pair[side].partition("{1}")
            made = head + days + tail if "{1}" in pair[side] else pd.Series(pair[side], index=action.index)
        else:
            made = head + money + (middle + days + tail if "{1}" in rest else rest)
        filled = filled.where(action != name, made)
    return filled
