"""Do alerts warn? Each code's precision, the share of later defaulters whom it caught, and how long before.

Looked at are the scored dates whose window has closed by the run's as_of, and on each of them the customers who were in
the population then. A default counts in a window where it became known in [date, date + window). What a code adds is
its precision over the default rate of all, its lift; a code that is up for everyone catches everyone and says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.inputs import add_months
from models.metrics import LEVEL, jeffreys_interval

WINDOW_MONTHS = 6


def effectiveness(
    held: pd.DataFrame,
    observed: pd.DataFrame,
    as_of: Any,
    codes: Sequence[str],
    window_months: int = WINDOW_MONTHS,
    *,
    trained: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return how well each code warned of defaults, and any code at all (`any`).

    held: customer_id, as_of, code: every date on which a condition held. observed: customer_id, as_of, outcome (1 where
    a default is known), outcome_known_on and excluded_because (null: in the population). A default counts by the day on
    which it became known. trained: customer_id, as_of that the model was trained on: left out, since it knew what
    became of them.

    Returns dates, in_training (rows left out), rows and defaults (customer-dates), rate, and by code: rows on which it
    held, defaults among them, precision with its 95% Jeffreys interval, lift, defaulters who could be caught, caught,
    their share, and the median lead time in days from the first looked-at date of the window on which it held to the
    default becoming known. Figures without rows are null; `codes` is empty where no scored date has a closed window.
    """
    rows = observed[observed["excluded_because"].isna()][["customer_id", "as_of", "outcome", "outcome_known_on"]]
    day = rows["as_of"].to_numpy().astype("datetime64[D]")
    ends = add_months(day, window_months)
    closed = ends <= np.datetime64(as_of, "D")
    rows, day, ends = rows[closed].reset_index(drop=True), day[closed], ends[closed]
    known = pd.to_datetime(rows["outcome_known_on"]).to_numpy().astype("datetime64[D]")
    knew = np.zeros(len(rows), dtype=bool)
    if trained is not None:
        own = pd.MultiIndex.from_arrays([trained["customer_id"], pd.to_datetime(trained["as_of"])])
        knew = pd.MultiIndex.from_arrays([rows["customer_id"], pd.to_datetime(rows["as_of"])]).isin(own)
    rows, day, ends, known = rows[~knew].reset_index(drop=True), day[~knew], ends[~knew], known[~knew]
    rows["bad"] = (rows["outcome"] == 1).to_numpy() & (known < ends)  # NaT compares as false
    rows["lead"] = np.where(rows["bad"], (known - day).astype(float), np.nan)
    whole = {
        "window_months": window_months,
        "dates": int(rows["as_of"].nunique()),
        "in_training": int(knew.sum()),
        "rows": len(rows),
        "defaults": int(rows["bad"].sum()),
        "rate": float(rows["bad"].mean()) if len(rows) else None,
    }
    if rows.empty:
        return {**whole, "codes": {}}
    when = held.assign(as_of=pd.to_datetime(held["as_of"]))
    rows["as_of"] = pd.to_datetime(rows["as_of"])
    defaulters = rows.loc[rows["bad"], "customer_id"].nunique()
    by_code = dict(list(when.groupby("code")))
    keys = ["customer_id", "as_of"]
    told = {}
    for code in ("any", *codes):
        some = when if code == "any" else by_code.get(code, when.iloc[:0])
        up = rows.merge(some[keys].drop_duplicates(), on=keys)
        bad = up[up["bad"]]
        lead = bad.groupby("customer_id")["lead"].max()  # the earliest date of its window
        low, high = jeffreys_interval(len(bad), len(up), LEVEL) if len(up) else (None, None)
        precision = len(bad) / len(up) if len(up) else None
        told[code] = {
            "rows": len(up),
            "defaults": len(bad),
            "precision": precision,
            "precision_low": None if low is None else float(low),
            "precision_high": None if high is None else float(high),
            "lift": precision / whole["rate"] if precision is not None and whole["rate"] else None,
            "defaulters": defaulters,
            "caught": len(lead),
            "caught_share": len(lead) / defaulters if defaulters else None,
            "lead_days_median": float(lead.median()) if len(lead) else None,
        }
    return {**whole, "codes": told}
