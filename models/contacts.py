"""What people did about the worklist: one line a customer and day, with state, outcome, author and reason.

The newest line of a customer holds. `done`: contacted, and left alone for the cool-down unless nobody was reached;
`snoozed`: not before the day after `until`, nor within the cool-down of an earlier contact; `open`: back on the list at
once, whatever was said before.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import ConfigurationRefused, Problem
from models import hand_kept

COLUMNS = ("customer_id", "on", "state", "outcome", "author", "reason", "until")
STATES = ("open", "done", "snoozed")
NOT_REACHED = "not_reached"
OUTCOMES = ("paid", "promised", "statements_received", "terms_agreed", "reviewed", "refused", "other", NOT_REACHED)
NEVER = np.datetime64("NaT", "D")
EARLIEST, LATEST = pd.Timestamp("1900-01-01"), pd.Timestamp("2100-01-01")  # what is dated outside is a slip

_wrong = partial(hand_kept.problem, "contacts.csv")


@dataclass(frozen=True)
class Standing:
    """Where each customer stands, shape (n,): `state` open, done or snoozed; dates are NaT where there is none."""

    state: npt.NDArray[np.object_]
    outcome: npt.NDArray[np.object_]  # of the newest line, None where it has none
    again_from: npt.NDArray[np.datetime64]  # first day on which a done or snoozed customer is open again
    last_done: npt.NDArray[np.datetime64]  # the newest day on which the customer was reached
    first_contact: np.datetime64 = NEVER  # the first day of any customer's lines: since then people work with the list


def read_contacts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines with `on` and `until` as dates, by customer and day; all faults are refused at once (4).

    table: text columns `COLUMNS`, in the order of the file's lines. Messages name lines, never a customer.
    """
    if tuple(table.columns) != COLUMNS:
        raise ConfigurationRefused(
            Problem("contacts.csv", f"the columns {', '.join(COLUMNS)}", "other columns", "Restore the header.")
        )
    table = table.fillna("").apply(lambda column: column.str.strip())
    on, until = _dates(table["on"]), _dates(table["until"])
    done, snoozed = table["state"] == "done", table["state"] == "snoozed"
    a_day = f"a date such as 2026-12-31, from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}"
    problems = [_wrong(table[name] == "", name, "filled", "nothing") for name in ("customer_id", "author", "reason")]
    problems += [
        _wrong(on.isna(), "on", a_day, "something else"),
        _wrong(~table["state"].isin(STATES), "state", f"one of {', '.join(STATES)}", "another"),
        _wrong(done & ~table["outcome"].isin(OUTCOMES), "outcome", f"one of {', '.join(OUTCOMES)}", "another"),
        _wrong(~done & (table["outcome"] != ""), "outcome", "empty where the state is not done", "an outcome"),
        _wrong(snoozed & until.isna(), "until", f"{a_day} where the state is snoozed", "something else"),
        _wrong(~snoozed & (table["until"] != ""), "until", "empty where the state is not snoozed", "a date"),
        _wrong(snoozed & (until < on), "until", "on or after `on`", "an earlier day"),
        _wrong(table.duplicated(["customer_id", "on"]), "customer_id, on", "one line a day", "a second one"),
    ]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise ConfigurationRefused(found)
    dated = table.assign(on=on, until=until, outcome=table["outcome"].where(done, None))
    return dated.sort_values(["customer_id", "on"], ignore_index=True)


def with_crm(lines: pd.DataFrame, crm: pd.DataFrame) -> pd.DataFrame:
    """Return the lines with those that a CRM's contacts stand for, by customer and day.

    lines: of `read_contacts`; on the same day they hold. crm: customer_id, on (date), state, outcome (null: other) and
    snoozed_days of the newest version of each contact: one that is open, deleted or of no known state is no line, so
    that what it said before is taken back. Of several on one day who was reached counts, then who was put off; who was
    put off for good is put off until LATEST.
    """
    said = crm[crm["state"].isin(("done", "snoozed"))].copy()
    done = said["state"] == "done"
    on = pd.to_datetime(said["on"]).astype("datetime64[s]")
    until = on + pd.to_timedelta(said["snoozed_days"].astype(float), unit="D")
    until = until.mask(until > LATEST, LATEST).where(~done)
    said = said.assign(
        on=on, until=until.astype("datetime64[s]"), author="crm", reason="crm",
        outcome=said["outcome"].where(said["outcome"].isin(OUTCOMES), "other").where(done, None),
    )  # fmt: skip
    said = said[done | said["until"].notna()]
    place = np.select([said["outcome"].eq(NOT_REACHED), said["state"].eq("snoozed")], [2, 1], 0)
    said = said.assign(place=place).sort_values(["customer_id", "on", "place", "outcome", "until"])
    every = pd.concat([lines, said[list(COLUMNS)]], ignore_index=True) if len(said) else lines
    every = every.drop_duplicates(["customer_id", "on"], keep="first")
    return every.sort_values(["customer_id", "on"], ignore_index=True)


def standing(
    contacts: pd.DataFrame, customers: npt.NDArray[np.object_], as_of: dt.date, cool_down_days: int
) -> Standing:
    """Return where each of `customers` stands on `as_of`; who has no line is open. contacts: of `read_contacts`."""
    newest = _newest(contacts, customers)
    reached = _newest(contacts[(contacts["state"] == "done") & (contacts["outcome"] != NOT_REACHED)], customers)
    opened = _days(_newest(contacts[contacts["state"] == "open"], customers)["on"])
    last_done = _days(reached["on"])
    state = newest["state"].to_numpy(dtype=object)
    # who could not be reached, or was put off, still rests after an earlier contact, unless that was taken back
    rests = np.isin(state, ("done", "snoozed")) & ~np.isnat(last_done) & ~(opened > last_done)
    rested = np.where(rests, last_done + np.timedelta64(cool_down_days, "D"), NEVER)
    put_off = np.where(state == "snoozed", _days(newest["until"]) + np.timedelta64(1, "D"), NEVER)
    again = np.fmax(rested, put_off)  # the later of the two; of a day and NaT the day
    waits = again > np.datetime64(as_of, "D")
    longer = waits & (rested > put_off)
    outcome = newest["outcome"].where(~longer, reached["outcome"]).astype(object)
    return Standing(
        np.where(waits, np.where(longer, "done", state), "open").astype(object),
        outcome.where(outcome.notna(), None).to_numpy(dtype=object),
        np.where(waits, again, NEVER),
        last_done,
        _days(contacts["on"]).min() if len(contacts) else NEVER,
    )


def _newest(lines: pd.DataFrame, customers: npt.NDArray[np.object_]) -> pd.DataFrame:
    """Return the newest line of each of `customers`, in their order; nulls for who has none."""
    return lines.drop_duplicates("customer_id", keep="last").set_index("customer_id").reindex(customers)


def _days(dates: pd.Series) -> npt.NDArray[np.datetime64]:
    """Return dates as days."""
    return dates.to_numpy().astype("M8[D]")


def _dates(texts: pd.Series) -> pd.Series:
    """Return ISO dates as datetime64, NaT for whatever is none, or lies before EARLIEST or after LATEST."""
    parsed = pd.to_datetime(texts.where(texts.str.fullmatch(r"\d{4}-\d{2}-\d{2}")), format="%Y-%m-%d", errors="coerce")
    return parsed.where(parsed.between(EARLIEST, LATEST)).astype("datetime64[s]")
