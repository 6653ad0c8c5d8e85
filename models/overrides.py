"""Decisions of people that stand above the policy: one line a customer and field, with author, reason and last day.

An override is approval, so it may go beyond what the policy allows; it is in force while `until` is not before as_of.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import ConfigurationRefused, Problem
from models import hand_kept
from models.policy import ACTIONS

COLUMNS = ("customer_id", "field", "value", "author", "reason", "until")
FIELDS = {
    "credit_limit_recommended": (r"^\d{1,16}(?:\.\d{1,2})?$", "an amount of at least 0 with at most two decimals"),
    "payment_term_days": (r"^\d{1,3}$", "whole days from 0 to 365"),
    "action": (rf"^(?:{'|'.join(ACTIONS)})$", f"one of {', '.join(ACTIONS)}"),
}
LONGEST_TERM = 365  # days

_wrong = partial(hand_kept.problem, "overrides.csv")


@dataclass(frozen=True)
class Overrides:
    """Those in force: `active` holds COLUMNS as text, one row a customer and field."""

    active: pd.DataFrame
    expired: int

    def values(self, field: str, customers: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        """Return the value of `field` for each customer, shape (n,), None where none is in force."""
        chosen = self.active[self.active["field"] == field]
        found = chosen.set_index("customer_id")["value"].reindex(customers)
        return found.astype(object).where(found.notna(), None).to_numpy(dtype=object)

    def of(self, customers: npt.NDArray[np.object_]) -> pd.DataFrame:
        """Return those of these customers, by customer and field."""
        theirs = self.active[self.active["customer_id"].isin(customers)]
        return theirs.sort_values(["customer_id", "field"], ignore_index=True)

    def unknown(self, customers: npt.NDArray[np.object_]) -> int:
        """Return how many overrides name a customer that is not among `customers`: left, or never here."""
        return int((~self.active["customer_id"].isin(customers)).sum())


def read_overrides(table: pd.DataFrame, as_of: dt.date) -> Overrides:
    """Return the overrides in force on `as_of`; every fault of the table is refused at once (exit code 4).

    table: text columns `COLUMNS`, in the order of the file's lines. Messages name lines, never a customer.
    """
    if tuple(table.columns) != COLUMNS:
        raise ConfigurationRefused(
            Problem("overrides.csv", f"the columns {', '.join(COLUMNS)}", "other columns", "Restore the header.")
        )
    table = table.fillna("").apply(lambda column: column.str.strip())
    problems = [_wrong(table[name] == "", name, "filled", "nothing") for name in ("customer_id", "author", "reason")]
    problems.append(_wrong(~table["field"].isin(FIELDS), "field", f"one of {', '.join(FIELDS)}", "another"))
    for field, (pattern, must_be) in FIELDS.items():
        wrong = (table["field"] == field) & ~table["value"].str.contains(pattern, regex=True)
        if field == "payment_term_days":
            wrong |= (table["field"] == field) & (pd.to_numeric(table["value"], errors="coerce") > LONGEST_TERM)
        problems.append(_wrong(wrong, f"value of {field}", must_be, "something else"))
    until = table["until"].map(_date)
    problems.append(_wrong(until.isna(), "until", "a date such as 2026-12-31", "something else"))
    in_force = until.map(lambda day: isinstance(day, dt.date) and day >= as_of).astype(bool)
    doubled = in_force & table[in_force].duplicated(["customer_id", "field"]).reindex(table.index, fill_value=False)
    problems.append(_wrong(doubled, "customer_id, field", "one line in force each", "a second one"))
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ConfigurationRefused(found)
    active = table.loc[in_force, list(COLUMNS)].reset_index(drop=True)
    return Overrides(active, len(table) - len(active))


def _date(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        return None
