"""Does the worklist reach those who later default, in time? Beside a list by PD alone, and a random one.

Replayed along the scored dates: on each the lists take as many customers as one month's capacity allows, none within
the cool-down of the same list's earlier contact. A defaulter counts as reached in time where a list contacted him so
many days before the default became known. Nothing that became known after a date is used on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.metrics import LEVEL, jeffreys_interval
from models.worklist import Rules, loss_avoided, next_reviews

DRAWS = 20  # random lists, averaged
LISTS = ("worklist", "by_pd", "random")


def reached_in_time(
    panel: pd.DataFrame, defaults: pd.DataFrame, rules: Rules, capacities: Sequence[int], days_before: int
) -> dict[str, Any]:
    """Return by weekly capacity and list the share of later defaulters contacted at least `days_before` before.

    panel: customer_id, as_of, pd, expected_loss (null: unknown), days_past_due, review_months, alarmed and in_training,
    one row a customer and scored date on which he was in the population; rows in training are left out, since the model
    knew what became of them. defaults: customer_id and known_on, the first day on which a default was known.
    Those count who had a row at least `days_before` earlier, so that they could be contacted. As the loss that they
    bring, the expected loss over the PD on the last such row is weighed too: exposure times loss given default.

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
    replay = _Replay(rows, codes, len(customers), day, rules, days_before)
    for capacity in capacities:
        told: dict[str, Any] = {}
        for name in LISTS:
            orders = replay.orders(name)
            made = [replay.run(order, capacity) for order in orders]
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
        self, rows: pd.DataFrame, codes: npt.NDArray[np.intp], customers: int, known: npt.NDArray[np.datetime64],
        rules: Rules, days_before: int,
    ) -> None:  # fmt: skip
        self.rules, self.codes, self.customers, self.days_before = rules, codes, customers, days_before
        self.known = known
        self.rows = rows
        at = rows["as_of"].to_numpy().astype("M8[D]")
        self.dates, self.first = np.unique(at, return_index=True)
        self.ends = np.append(self.first[1:], len(rows))
        reviews = next_reviews(
            rows["customer_id"].to_numpy(dtype=object), at, rows["review_months"].to_numpy(dtype=np.int64),
            np.full(len(rows), "NaT", dtype="M8[D]"),
        )  # fmt: skip
        on_list = rows["alarmed"].to_numpy(dtype=bool) | (reviews < at + 7 * rules.weeks)
        value = loss_avoided(rows["expected_loss"].to_numpy(float), rows["days_past_due"].to_numpy(float), rules)
        self.value = np.where(on_list, value, -1.0)  # below 0: not on the list

    def orders(self, name: str) -> list[npt.NDArray[np.float64]]:
        """Return what a list orders rows by, the highest first; of the random list several draws."""
        if name == "worklist":
            return [self.value]
        if name == "by_pd":
            return [self.rows["pd"].to_numpy(float)]
        return [np.random.default_rng(draw).random(len(self.rows)) for draw in range(DRAWS)]

    def run(self, order: npt.NDArray[np.float64], capacity: int) -> tuple[npt.NDArray[np.bool_], int]:
        """Return who was contacted in time (customers,), and how many contacts were made."""
        last = np.full(self.customers, np.datetime64("1900-01-01", "D"))
        reached, made = np.zeros(self.customers, dtype=bool), 0
        rest = np.timedelta64(self.rules.cool_down_days, "D")
        for date, start, end in zip(self.dates, self.first, self.ends, strict=True):
            # as many as all dates together could take: who of them rests leaves enough behind him
            first = highest(order[start:end], capacity * self.rules.weeks * len(self.dates)) + start
            first = first[order[first] >= 0]
            free = first[last[self.codes[first]] + rest <= date]
            best = free[: capacity * self.rules.weeks]
            chosen = self.codes[best]
            days = date + np.arange(len(best)) // capacity * 7 + 6  # by the end of each week
            reached[chosen] |= self.known[chosen] - days >= np.timedelta64(self.days_before, "D")
            # who defaulted before his turn is contacted no more: his capacity is lost, as it would be
            last[chosen] = days
            made += len(best)
        return reached, made
