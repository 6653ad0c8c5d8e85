"""Does the worklist reach those who later default, in time? Beside a list by PD alone, and a random one.

Replayed along the scored dates: on each the lists take as many customers as one month's capacity allows, none within
the cool-down of the same list's earlier contact; what the list itself did so far is what was recorded of contacts, so
that a review is due until it is made. A defaulter counts as reached in time where a list contacted him so
many days before the default became known. Nothing that became known after a date is used on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.metrics import LEVEL, jeffreys_interval
from models.worklist import Booleans, Days, Rules, floors, loss_avoided, next_reviews, spread_of

DRAWS = 20  # random lists, averaged
LISTS = ("worklist", "by_pd", "random")


def reached_in_time(
    panel: pd.DataFrame, defaults: pd.DataFrame, rules: Rules, capacities: Sequence[int], days_before: int
) -> dict[str, Any]:
    """Return by weekly capacity and list the share of later defaulters contacted at least `days_before` before.

    panel: customer_id, as_of, pd, expected_loss (null: unknown), days_past_due, review_months, joined_on (date; null:
    unknown), alarmed and in_training, one row a customer and scored date on which he was in the population; rows in
    training are left out, since the model knew what became of them. defaults: customer_id and known_on, the first day
    on which a default was known. Those count who had a row at least `days_before` earlier, so that they could be
    contacted. As the loss that they bring, the expected loss over the PD on the last such row is weighed too: exposure
    times loss given default.

    Returns days_before, dates, defaulters and by capacity and list: reached, share with its 95% Jeffreys interval,
    share of the loss, and contacts made. Of random lists the mean. Without defaulters `capacities` is empty.
    """
    rows = panel[~panel["in_training"]].sort_values(["as_of", "customer_id"], ignore_index=True)
    rows["as_of"] = pd.to_datetime(rows["as_of"])
    known = defaults.assign(known_on=pd.to_datetime(defaults["known_on"])).groupby("customer_id")["known_on"].min()
    lead = (known.reindex(rows["customer_id"]).set_axis(rows.index) - rows["as_of"]).dt.days
    in_time = rows[lead >= days_before].drop_duplicates("customer_id", keep="last")
    whole: dict[str, Any] = {
        "days_before": days_before, "dates": int(rows["as_of"].nunique()), "defaulters": len(in_time),
        "in_training": int(panel["in_training"].sum()), "capacities": {},
    }  # fmt: skip
    if in_time.empty:
        return whole
    codes, customers = pd.factorize(rows["customer_id"], sort=True)
    day = known.reindex(customers).to_numpy().astype("M8[D]")
    weight = pd.Series((in_time["expected_loss"] / in_time["pd"]).fillna(0).to_numpy(), in_time["customer_id"])
    money = weight.reindex(customers).fillna(0).to_numpy()
    could = pd.Series(customers).isin(in_time["customer_id"]).to_numpy()
    replay = _Replay(rows, codes, customers.to_numpy(dtype=object), day, rules, days_before)
    for capacity in capacities:
        told: dict[str, Any] = {}
        for name in LISTS:
            made = [replay.run(order, capacity, listed=name == "worklist") for order in replay.orders(name)]
            hit = np.array([(reached & could).sum() for reached, _ in made], dtype=float)
            loss = [float(money[reached & could].sum() / money.sum()) if money.sum() else None for reached, _ in made]
            low, high = jeffreys_interval(round(float(hit.mean())), len(in_time), LEVEL)
            told[name] = {
                "reached": float(hit.mean()), "share": float(hit.mean() / len(in_time)),
                "share_low": float(low), "share_high": float(high),
                "loss_share": None if None in loss else float(np.mean(np.array(loss, dtype=float))),
                "contacts": float(np.mean([count for _, count in made])),
            }  # fmt: skip
        whole["capacities"][str(capacity)] = told
    return whole


def highest(value: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Return the places of the `count` highest values, the highest first, of equal ones the earlier; without NaN."""
    places = np.arange(len(value))
    if count < len(value):  # few of many: sorting all of them would be most of the work
        least = np.partition(value, len(value) - count)[len(value) - count]
        above = np.flatnonzero(value > least)
        places = np.sort(np.append(above, np.flatnonzero(value == least)[: count - len(above)]))
    return places[np.argsort(-value[places], kind="stable")]


class _Replay:
    """The scored dates, replayed for a list that is an order of each date's rows."""

    def __init__(
        self, rows: pd.DataFrame, codes: npt.NDArray[np.intp], customers: npt.NDArray[np.object_],
        known: npt.NDArray[np.datetime64], rules: Rules, days_before: int,
    ) -> None:  # fmt: skip
        self.rules, self.codes, self.customers, self.days_before = rules, codes, len(customers), days_before
        self.known = known
        self.rows = rows
        at = rows["as_of"].to_numpy().astype("M8[D]")
        self.dates, self.first = np.unique(at, return_index=True)
        self.ends = np.append(self.first[1:], len(rows))
        self.spread = spread_of(customers)
        self.months = rows["review_months"].to_numpy(dtype=np.int64)
        self.joined = pd.to_datetime(rows["joined_on"]).to_numpy().astype("M8[D]")
        self.alarmed = rows["alarmed"].to_numpy(dtype=bool)

    def orders(self, name: str) -> list[npt.NDArray[np.float64]]:
        """Return what a list orders rows by, the highest first; of the random list several draws."""
        if name == "worklist":
            late = self.rows["days_past_due"].to_numpy(float)
            return [loss_avoided(self.rows["expected_loss"].to_numpy(float), late, self.rules)]
        if name == "by_pd":
            return [self.rows["pd"].to_numpy(float)]
        return [np.random.default_rng(draw).random(len(self.rows)) for draw in range(DRAWS)]

    def on_list(self, here: slice, date: np.datetime64, last: Days, first_contact: np.datetime64) -> Booleans:
        """Return which rows of a date are on the worklist, by the list's own contacts so far (NaT: none)."""
        floor = floors(date, first_contact, self.joined[here], self.rules.overdue_days)
        codes = self.codes[here]
        review = next_reviews(self.spread[codes], floor, self.months[here], last[codes])
        return self.alarmed[here] | (review < date + 7 * self.rules.weeks)

    def run(self, order: npt.NDArray[np.float64], capacity: int, *, listed: bool) -> tuple[Booleans, int]:
        """Return who was contacted in time (customers,) and how many contacts were made; listed: of the worklist."""
        last = np.full(self.customers, np.datetime64("NaT", "D"))
        reached, made, first_contact = np.zeros(self.customers, dtype=bool), 0, np.datetime64("NaT", "D")
        rest = np.timedelta64(self.rules.cool_down_days, "D")
        for date, start, end in zip(self.dates, self.first, self.ends, strict=True):
            here = slice(start, end)
            value = order[here]
            if listed:
                value = np.where(self.on_list(here, date, last, first_contact), value, -1.0)
            # as many as all dates together could take: who of them rests leaves enough behind him
            first = highest(value, capacity * self.rules.weeks * len(self.dates))
            first = first[value[first] >= 0] + start  # below 0: not on the list
            free = first[~(last[self.codes[first]] + rest > date)]  # never contacted (NaT): free
            best = free[: capacity * self.rules.weeks]
            chosen = self.codes[best]
            days = date + np.arange(len(best)) // capacity * 7 + 6  # by the end of each week
            reached[chosen] |= self.known[chosen] - days >= np.timedelta64(self.days_before, "D")
            # who defaulted before his turn is contacted no more: his capacity is lost, as it would be
            last[chosen] = days
            first_contact = np.fmin(first_contact, days[0]) if len(days) else first_contact
            made += len(best)
        return reached, made
