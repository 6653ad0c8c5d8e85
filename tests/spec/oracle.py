"""The features of persons said again in plain Python, slowly, from rows as they are: what the build must equal.

Rows are dictionaries of one customer that one date sees, with `event` (date), `mb` (months before) and `db` (days
before). Money is a Fraction, so nothing is rounded before the last step.
"""

from __future__ import annotations

import calendar
import datetime as dt
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

Row = dict[str, Any]
EVENT = {"transactions": "event_on", "credits": "opened_on", "instalments": "due_on", "payments": "paid_on", "statements": "stated_on"}  # fmt: skip
KEY = {"transactions": ("transaction_id",), "credits": ("credit_id",), "instalments": ("credit_id", "due_on"), "payments": ("payment_id",), "statements": ("credit_id", "stated_on")}  # fmt: skip
WINDOWS = (1, 3, 6, 12)


def back(day: dt.date, months: int) -> dt.date:
    """Return the date so many calendar months before, its day clamped to the month's last."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return dt.date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def months_before(as_of: dt.date, event: dt.date) -> int:
    """Return the k for which as_of - k months <= event < as_of - (k - 1) months."""
    return next(k for k in range(-200, 600) if back(as_of, k) <= event)


def seen(table: str, rows: list[Row], as_of: dt.date, owners: dict[str, Row] | None = None) -> list[Row]:
    """Return the newest version of each key known before as_of, oldest event first."""
    newest: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda r: r["known_on"]):
        if row["known_on"] < as_of:
            newest[tuple(row[k] for k in KEY[table])] = row
    kept = []
    for row in newest.values():
        known_on = row["known_on"]
        if owners is not None:
            known_on = max(known_on, owners[row["credit_id"]]["known_on"])
            if known_on >= as_of:
                continue
        event = row[EVENT[table]]
        made = {
            **row,
            "event": event,
            "known_on": known_on,
            "mb": months_before(as_of, event),
            "db": (as_of - event).days,
        }
        kept.append({name: Fraction(v) if name in MONEY and v is not None else v for name, v in made.items()})
    return sorted(kept, key=lambda r: (r["event"], r["known_on"], *(r[k] for k in KEY[table])))


MONEY = {"amount", "balance_after", "principal", "credit_limit", "balance", "overdue_amount", "minimum_due"}


def known(rows: Iterable[Row], name: str) -> list[Any]:
    return [row[name] for row in rows if row[name] is not None]


def add(values: Iterable[Any]) -> Any:
    values = list(values)
    return sum(values) if values else None


def average(values: Iterable[Any]) -> Any:
    values = list(values)
    return Fraction(sum(values)) / len(values) if values else None


def spread(values: list[Any]) -> float | None:
    level = average(values)
    return None if level is None else math.sqrt(average([(v - level) ** 2 for v in values]))


def over(above: Any, below: Any) -> Any:
    return None if above is None or below is None or below <= 0 else above / below


def less(above: Any, below: Any) -> Any:
    return None if above is None or below is None else above - below


def slope(rows: list[Row], name: str) -> Any:
    points = [(-row["db"], row[name]) for row in rows if row[name] is not None]
    if len({x for x, _ in points}) < 2:
        return None
    x_mean, y_mean = average([x for x, _ in points]), average([Fraction(y) for _, y in points])
    above = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return above / sum((x - x_mean) ** 2 for x, _ in points) * Fraction("30.4375")


def faded(rows: list[Row], name: str) -> Any:
    rows = [row for row in rows if row[name] is not None]
    weights = [round(65536 * 2 ** (-row["mb"] / 3)) for row in rows]
    return (
        over(sum(w * Fraction(row[name]) for w, row in zip(weights, rows, strict=True)), sum(weights)) if rows else None
    )


def quantile(values: list[Any], q: float) -> float | None:
    if not values:
        return None
    ordered, place = sorted(map(float, values)), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def six_decimals(value: Any) -> Any:
    """Return a ratio as it is summed up: to six decimals."""
    return None if value is None else Fraction(f"{float(value):.6f}")


def share(flags: Iterable[bool | None]) -> Any:
    return average([int(flag) for flag in flags if flag is not None])


def last(rows: list[Row], name: str) -> Any:
    values = known(rows, name)
    return values[-1] if values else None


SUMMARIES: dict[str, Callable[[list[Row], str], Any]] = {
    "sum": lambda r, c: add(known(r, c)),
    "mean": lambda r, c: average(known(r, c)),
    "max": lambda r, c: max(known(r, c), default=None),
    "min": lambda r, c: min(known(r, c), default=None),
    "range": lambda r, c: less(max(known(r, c), default=None), min(known(r, c), default=None)),
    "std": lambda r, c: spread(known(r, c)),
    "variation": lambda r, c: over(spread(known(r, c)), average(known(r, c))),
    "trend": slope,
    "decayed": faded,
    "q10": lambda r, c: quantile(known(r, c), 0.1),
    "q25": lambda r, c: quantile(known(r, c), 0.25),
    "count": lambda r, c: len(known(r, c)),
    "distinct": lambda r, c: len(set(known(r, c))),
    "share": lambda r, c: share(bool(v) for v in known(r, c)),
    "last_less_mean": lambda r, c: less(last(r, c), average(known(r, c))),
}


def within(rows: list[Row], k: int | None) -> list[Row]:
    return [row for row in rows if row["mb"] >= 1 and (k is None or row["mb"] <= k)]


def windowed(prefix: str, rows: list[Row], column: str, names: str, ks: Iterable[int | None]) -> dict[str, Any]:
    return {
        f"{prefix}_{column}_{name}_{'ever' if k is None else f'{k}m'}": SUMMARIES[name](within(rows, k), column)
        for name in names.split()
        for k in ks
    }


def of_last(
    prefix: str, rows: list[Row], column: str, names: str, ks: Iterable[int], end: str = "last"
) -> dict[str, Any]:
    return {
        f"{prefix}_{column}_{name}_{end}_{k}": SUMMARIES[name](rows[-k:] if end == "last" else rows[:k], column)
        for name in names.split()
        for k in ks
    }


def turned(prefix: str, rows: list[Row], column: str) -> dict[str, Any]:
    return {
        f"{prefix}_{column}_last_less_previous": less(rows[-1][column], rows[-2][column]) if len(rows) > 1 else None
    }


def month_value(months: list[Row], column: str, k: int) -> Any:
    return next((row[column] for row in months if row["mb"] == k), None)


def changed(prefix: str, months: list[Row], column: str) -> dict[str, Any]:
    newest, before = (month_value(months, column, k) for k in (1, 2))
    return {
        f"{prefix}_{column}_change_1m": less(newest, before),
        f"{prefix}_{column}_month_1_less_mean_12m": less(newest, average(known(within(months, 12), column))),
    }


def rank(months: list[Row], column: str) -> Any:
    newest = month_value(months, column, 1)
    earlier = [v for v in (month_value(months, column, k) for k in range(2, 13)) if v is not None]
    if newest is None or not earlier:
        return None
    return Fraction(sum(2 if v < newest else int(v == newest) for v in earlier), 2 * len(earlier))


def with_gaps(rows: list[Row]) -> list[Row]:
    return [{**row, "gap": None if at == 0 else rows[at - 1]["db"] - row["db"]} for at, row in enumerate(rows)]


def by_month(rows: list[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["mb"]].append(row)
    return dict(sorted(found.items(), reverse=True))


def transactions(rows: list[Row], categories: list[str]) -> dict[str, Any]:
    """Say what transactions give; `categories` are the frequent ones."""
    rows = [row for row in rows if row["db"] >= 1]
    for row in rows:
        amount, balance = row["amount"], row["balance_after"]
        row |= {"inflow": amount if amount > 0 else None, "outflow": -amount if amount < 0 else None}
        row["overdrawn"] = None if balance is None else balance < 0
    year, p = within(rows, 12), "transactions"
    e: dict[str, Any] = {}
    if year:
        for column in ("inflow", "outflow", "amount"):
            e |= {name: value or 0 for name, value in windowed(p, year, column, "sum", WINDOWS).items()}
        e |= windowed(p, year, "inflow", "max", (12,)) | windowed(p, year, "outflow", "max mean", (12,))
        e |= windowed(p, year, "transaction_id", "count", WINDOWS)
        e |= windowed(p, year, "counterparty", "distinct", (12,)) | windowed(p, year, "category", "distinct", (12,))
        e |= windowed(p, year, "balance_after", "min mean", WINDOWS)
        e |= windowed(p, year, "balance_after", "q10 q25 trend", (3, 12))
        e |= windowed(p, year, "balance_after", "std max range", (12,)) | windowed(
            p, year, "overdrawn", "share", (3, 12)
        )
        for k in WINDOWS:
            e[f"{p}_outflow_to_inflow_{k}m"] = over(add(known(within(year, k), "outflow")) or 0, add(known(within(year, k), "inflow")))  # fmt: skip
        for column in ("inflow", "outflow"):
            short, long = (add(known(within(year, k), column)) for k in (3, 12))
            e[f"{p}_{column}_3m_to_12m"] = None if long is None else over(Fraction(short or 0) / 3, Fraction(long) / 12)
        for k in (3, 12):
            moved = add(abs(row["amount"]) for row in within(year, k))
            for value in categories:
                of_it = add(abs(row["amount"]) for row in within(year, k) if row["category"] == value)
                e[f"{p}_category_{value}_share_{k}m"] = over(of_it or 0, moved)
            cash = add(row["outflow"] for row in within(year, k) if row["category"] == "cash" and row["outflow"])
            e[f"{p}_cash_share_{k}m"] = over(cash or 0, add(known(within(year, k), "outflow")))
        months = [
            {"mb": k, "db": min(r["db"] for r in held), "net": add(r["amount"] for r in held),
             "low": min(known(held, "balance_after"), default=None),
             "inflow": add(known(held, "inflow")), "outflow": add(known(held, "outflow"))}
            for k, held in by_month(year).items()
        ]  # fmt: skip
        e |= monthly(months)
    if rows:
        e |= windowed(p, rows, "amount", "sum", (24, 36, None)) | windowed(
            p, rows, "balance_after", "min", (24, 36, None)
        )
        e |= windowed(p, rows, "overdrawn", "share", (24, None)) | windowed(
            p, rows, "balance_after", "last_less_mean", (12,)
        )
        e[f"{p}_balance_after_last_less_mean_12m"] = less(last(within(rows, 12), "balance_after"), average(known(within(rows, 12), "balance_after")))  # fmt: skip
        e[f"{p}_history_months"] = max(row["mb"] for row in rows)
        for column in ("inflow", "outflow"):
            e[f"{p}_{column}_recency"] = min((row["db"] for row in rows if row[column]), default=None)
        e[f"{p}_overdrawn_recency"] = min((row["db"] for row in rows if row["overdrawn"]), default=None)
        e[f"{p}_balance_after_last"] = last(rows, "balance_after")
        short, long = (add(known(within(rows, k), "inflow")) for k in (12, 24))
        e[f"{p}_inflow_12m_to_24m"] = None if long is None else over(Fraction(short or 0) / 12, Fraction(long) / 24)
    receipts = with_gaps([row for row in year if row["inflow"]])
    if receipts:
        p = "transactions_receipts"
        e |= windowed(p, receipts, "gap", "mean max min variation", (12,)) | of_last(
            p, receipts, "inflow", "mean", (1, 3)
        )
        e |= turned(p, receipts, "inflow") | windowed(p, receipts, "inflow", "variation last_less_mean", (12,))
    return e


def monthly(months: list[Row]) -> dict[str, Any]:
    """Say what transactions by month give; a month without rows counts as 0 in the irregularity of income alone."""
    p = "transactions_monthly"
    e: dict[str, Any] = {}
    for k in (6, 12):
        held, reach = within(months, k), min(k, max(row["mb"] for row in months))
        values = [row["inflow"] or 0 for row in held]
        e[f"{p}_inflow_variation_{k}m"] = (
            over(spread(values + [0] * (reach - len(values))), Fraction(sum(values)) / reach) if any(values) else None
        )
        e[f"{p}_inflow_months_{k}m"] = sum(1 for row in held if row["inflow"])
        e[f"{p}_deficit_months_{k}m"] = sum(1 for row in held if row["net"] < 0)
    e |= windowed(p, months, "inflow", "min", (3, 6)) | windowed(p, months, "low", "mean", (3, 6))
    e |= windowed(p, months, "low", "trend", (12,))
    for column in ("inflow", "outflow", "net"):
        e |= windowed(p, months, column, "decayed", (12,))
    for column in ("inflow", "net"):
        e |= windowed(p, months, column, "trend", (6, 12)) | changed(p, months, column)
    return e | {f"{p}_inflow_rank_12m": rank(months, "inflow")}


def settle(due: list[Row], paid: list[Row], as_of: dt.date) -> list[Row]:
    """Return the instalments with `days_late` and `unpaid`, credit by credit, oldest first over all credits."""
    rows = []
    for credit in {row["credit_id"] for row in due}:
        payments = [row for row in paid if row["credit_id"] == credit]
        by_date = any(row["due_on"] for row in payments)
        owed: dict[Any, Fraction] = defaultdict(Fraction)
        for row in (row for row in due if row["credit_id"] == credit):
            stream = row["event"] if by_date else None
            owed[stream] += row["amount"]
            so_far, settled = Fraction(0), None
            for payment in payments:
                if (payment["due_on"] if by_date else None) == stream:
                    so_far += payment["amount"]
                    if settled is None and so_far >= owed[stream]:
                        settled = payment["event"]
            unpaid = max(min(owed[stream] - so_far, row["amount"]), Fraction(0))
            rows.append({**row, "unpaid": unpaid, "days_late": ((settled or as_of) - row["event"]).days})
    return sorted(rows, key=lambda r: (r["event"], r["known_on"], r["credit_id"]))


def instalments(rows: list[Row]) -> dict[str, Any]:
    """Say what instalments that fell due give, from `settle`."""
    if not rows:
        return {}
    p = "instalments"
    e = windowed(p, rows, "days_late", "mean max", (3, 12)) | windowed(p, rows, "days_late", "max", (24, None))
    e |= windowed(p, rows, "days_late", "trend std range decayed last_less_mean", (12,))
    e |= windowed(p, rows, "amount", "sum", (3, 12, None))
    e |= of_last(p, rows, "days_late", "mean", (2, 3, 5, 10)) | of_last(p, rows, "days_late", "max", (3, 10))
    e |= of_last(p, rows, "days_late", "trend", (5,)) | of_last(p, rows, "days_late", "mean", (2, 4), "first")
    e |= turned(p, rows, "days_late")
    for k, tolerances in ((3, (0, 5)), (12, (0, 5, 30)), (24, (30,)), (None, (30,))):
        held = within(rows, k)
        for days in tolerances:
            name = f"{p}_late{f'_over_{days}_days' if days else ''}_share_{'ever' if k is None else f'{k}m'}"
            e[name] = share(row["days_late"] > days for row in held)
        if k in (3, 12):
            due = add(row["amount"] for row in held)
            e[f"{p}_paid_share_{k}m"] = over(due - add(row["unpaid"] for row in held), due) if held else None
            e[f"{p}_days_late_by_amount_{k}m"] = over(add(row["amount"] * row["days_late"] for row in held), due)
    year = within(rows, 12)
    late = [row for row in year if row["days_late"] > 0]
    e[f"{p}_late_amount_share_12m"] = over(add(row["amount"] for row in late) or 0, add(row["amount"] for row in year))
    e[f"{p}_days_late_when_late_mean_12m"] = average(row["days_late"] for row in late)
    e[f"{p}_early_share_12m"] = share(row["days_late"] < 0 for row in year)
    e[f"{p}_late_share_3m_less_12m"] = less(e[f"{p}_late_share_3m"], e[f"{p}_late_share_12m"])
    run = 0
    while run < len(rows) and rows[-1 - run]["days_late"] > 0:
        run += 1
    e[f"{p}_late_in_a_row"] = run
    e[f"{p}_days_late_last"] = rows[-1]["days_late"]
    still_open = [row for row in rows if row["unpaid"] > 0]
    e[f"{p}_days_past_due"] = max((row["db"] for row in still_open), default=0)
    e[f"{p}_overdue_sum"], e[f"{p}_overdue_count"] = add(row["unpaid"] for row in rows), len(still_open)
    due = add(row["amount"] for row in year)
    e[f"{p}_overdue_to_monthly_due"] = None if due is None else over(e[f"{p}_overdue_sum"], due / 12)
    e[f"{p}_late_recency"] = min((row["db"] for row in rows if row["days_late"] > 0), default=None)
    return e


def obligations(rows: list[Row]) -> dict[str, Any]:
    """Say what is still to fall due."""
    rows = [row for row in rows if row["db"] <= 0]
    if not rows:
        return {}
    e = {f"obligations_due_next_{k}m": add(r["amount"] for r in rows if r["mb"] > -k) or 0 for k in (1, 3, 12)}
    amounts = [row["amount"] for row in rows]
    return e | {"obligations_due_in_all": sum(amounts), "obligations_count": len(rows), "obligations_largest": max(amounts),
                "obligations_last_due_days": -min(row["db"] for row in rows)}  # fmt: skip


def payments(rows: list[Row]) -> dict[str, Any]:
    """Say what payments give."""
    if not rows:
        return {}
    p = "payments"
    e = windowed(p, rows, "amount", "sum", (3, 12)) | windowed(p, rows, "payment_id", "count", (3, 12))
    e |= {f"{p}_amount_last": rows[-1]["amount"], f"{p}_amount_recency": rows[-1]["db"]}
    turn = with_gaps(within(rows, 12))
    if turn:
        e |= windowed(p, turn, "gap", "mean max std", (12,)) | of_last(p, turn, "amount", "mean", (3, 10))
        e |= turned(p, turn, "amount") | windowed(p, turn, "amount", "variation decayed last_less_mean", (12,))
    return e


def statements(stated: list[Row], lines: list[Row], paid: list[Row]) -> dict[str, Any]:
    """Say what own statements give by month; `lines` are the own credits known."""
    agreed = {row["credit_id"]: row["credit_limit"] for row in lines}
    newest = {(row["mb"], row["credit_id"]): row for row in within(stated, 12) if row["credit_id"] in agreed}
    months = []
    for k, held in by_month(list(newest.values())).items():
        row: Row = {"mb": k, "db": min(r["db"] for r in held)}
        limits = [agreed[r["credit_id"]] if r["credit_limit"] is None else r["credit_limit"] for r in held]
        row |= {name: add(known(held, name)) for name in ("balance", "overdue_amount", "minimum_due")}
        row |= {"credit_limit": add(v for v in limits if v is not None), "days_past_due": max(known(held, "days_past_due"), default=None)}  # fmt: skip
        row["repaid"] = add(r["amount"] for r in paid if r["mb"] == k) or Fraction(0)
        row["utilisation"] = over(row["balance"], row["credit_limit"])
        months.append(row)
    if not months:
        return {}
    p, two = "statements", (3, 12)
    e: dict[str, Any] = {}
    for column in ("balance", "utilisation", "repaid", "days_past_due"):
        e |= {f"{p}_{column}_month_{k}": month_value(months, column, k) for k in range(1, 7)}
    e |= windowed(p, months, "balance", "mean max trend", two) | windowed(
        p, months, "balance", "variation range", (12,)
    )
    e |= windowed(p, months, "utilisation", "max", two) | windowed(p, months, "utilisation", "min", (12,))
    summed = [{**row, "utilisation": six_decimals(row["utilisation"])} for row in months]
    e |= windowed(p, summed, "utilisation", "mean trend", two) | windowed(
        p, summed, "utilisation", "std decayed", (12,)
    )
    e |= windowed(p, months, "repaid", "mean min", two)
    e |= windowed(p, months, "repaid", "variation", (12,)) | windowed(p, months, "days_past_due", "mean max", two)
    e |= windowed(p, months, "days_past_due", "trend decayed", (12,)) | windowed(
        p, months, "overdue_amount", "max", two
    )
    for column in ("balance", "days_past_due"):
        e |= changed(p, months, column)
    e |= changed(p, summed, "utilisation") | {
        f"{p}_utilisation_change_1m": changed(p, months, "utilisation")[f"{p}_utilisation_change_1m"]
    }
    e[f"{p}_balance_rank_12m"] = rank(months, "balance")
    short, long = (average(known(within(summed, k), "utilisation")) for k in two)
    e[f"{p}_utilisation_3m_less_12m"] = less(short, long)
    for part in (50, 90):
        e[f"{p}_months_drawn_over_{part}_12m"] = sum(
            1 for row in months if (row["utilisation"] or 0) > Fraction(part, 100)
        )
    for k in range(1, 6):
        bill = month_value(months, "balance", k + 1)
        e[f"{p}_repaid_of_bill_month_{k}"] = over(month_value(months, "repaid", k), bill)
    for k in two:
        held = within(months, k)
        repaid = add(row["repaid"] for row in held)
        e[f"{p}_repaid_to_balance_{k}m"] = over(repaid, add(known(held, "balance")))
        e[f"{p}_repaid_to_minimum_due_{k}m"] = over(repaid, add(known(held, "minimum_due")))
        for days in (1, 30):
            e[f"{p}_months_past_due_{days}_days_{k}m"] = sum(1 for row in held if (row["days_past_due"] or 0) >= days)
    e[f"{p}_months_known_12m"] = len(months)
    dated = [row for row in reversed(months) if row["days_past_due"] is not None]
    clear = next((row["mb"] for row in dated if row["days_past_due"] <= 0), None)
    first = (dated[-1]["mb"] + 1 if clear is None else clear) if dated else None
    e[f"{p}_past_due_in_a_row"] = None if first is None else first - dated[0]["mb"]
    e[f"{p}_overdue_amount_last"] = last(months, "overdue_amount")
    return e


def lines(prefix: str, held: list[Row], stated: list[Row], products: list[str], states: list[str]) -> dict[str, Any]:
    """Say what one side's credit lines give."""
    if not held:
        return {}
    rows = []
    for credit in sorted(held, key=lambda r: (r["opened_on"], r["credit_id"])):
        mine = [row for row in stated if row["credit_id"] == credit["credit_id"]]
        state = {
            name: last(mine, name) for name in ("balance", "credit_limit", "days_past_due", "overdue_amount", "status")
        }
        term = credit["term_months"]
        left = None if term is None else term - (credit["mb"] - 1)
        row = {**credit, **state, "left": None if left is None else max(left, 0)}
        row["credit_limit"] = credit["credit_limit"] if state["credit_limit"] is None else state["credit_limit"]
        row["open"] = state["status"] != "closed" and (left is None or left > 0)
        for k in (12, 24, None):
            row[f"worst_{k}"] = max(known(within(mine, k), "days_past_due"), default=None)
        row["late"] = min((r["mb"] for r in mine if (r["days_past_due"] or 0) > 0), default=None)
        rows.append(row)
    live = [row for row in rows if row["open"]]
    ages = [row["mb"] for row in rows]
    principals = [row["principal"] for row in rows]
    before = [v for v in principals[:-1] if v is not None]
    limited = [row for row in live if row["balance"] is not None and (row["credit_limit"] or 0) > 0]
    lent = [row for row in live if row["balance"] is not None and (row["principal"] or 0) > 0]
    drawn = [over(row["balance"], row["credit_limit"]) for row in limited]
    owing = [row["overdue_amount"] for row in rows if row["balance"] is not None and row["balance"] > 0 and row["overdue_amount"] is not None]  # fmt: skip
    e = {
        "count": len(rows), "open_count": len(live), "closed_share": share(not row["open"] for row in rows),
        "newest_months": min(ages), "oldest_months": max(ages),
        "opening_gap_mean": over(Fraction(max(ages) - min(ages)), len(ages) - 1),
        "limit_sum": add(known(live, "credit_limit")), "principal_sum": add(known(live, "principal")),
        "principal_max": max(known(rows, "principal"), default=None), "rate_mean": average(known(rows, "rate")),
        "months_left_max": max(known(live, "left"), default=None), "balance_sum": add(known(live, "balance")),
        "balance_to_limit": over(add(row["balance"] for row in limited), add(known(live, "credit_limit"))),
        "line_balance_to_limit_max": max(drawn, default=None),
        "balance_to_principal": over(add(row["balance"] for row in lent), add(known(live, "principal"))),
        "overdue_sum": add(known(rows, "overdue_amount")),
        "overdue_to_balance": over(add(owing) or 0, add(known(rows, "balance"))),
        "days_past_due_max": max(known(rows, "days_past_due"), default=None),
        "late_recency_months": min(known(rows, "late"), default=None),
        "late_count_12m": sum(1 for row in rows if (row["worst_12"] or 0) > 0),
        "product_last": rows[-1]["product"],
        "newest_principal_to_previous": over(principals[-1], principals[-2] if len(rows) > 1 else None),
        "newest_principal_to_largest": over(principals[-1], max(before, default=None)),
        "newest_principal_to_mean": over(principals[-1], average(before)),
    }  # fmt: skip
    for k in (6, 12, 36):
        e[f"opened_count_{k}m"] = sum(1 for age in ages if age <= k)
    for k in (12, 24, None):
        e[f"worst_days_past_due_{'ever' if k is None else f'{k}m'}"] = max(known(rows, f"worst_{k}"), default=None)
    for value in products:
        e[f"product_{value}_open_count"] = sum(1 for row in live if row["product"] == value)
    for value in states:
        e[f"status_{value}_count"] = sum(1 for row in rows if row["status"] == value)
    if prefix == "bureau":
        e["providers"] = len({row["provider"] for row in rows})
    return {f"{prefix}_{name}": value for name, value in e.items()}


def across(e: dict[str, Any]) -> dict[str, Any]:
    """Say what columns of several subjects give together."""
    inflow, found = e.get("transactions_inflow_sum_6m"), {}
    for column, factor in (("obligations_due_next_3m", 2), ("credits_balance_sum", 6), ("bureau_balance_sum", 6)):
        value = e.get(column)
        found[f"{column}_to_inflow_6m"] = over(None if value is None else value * factor, inflow)
    for k in (3, 12):
        due, paid = e.get(f"instalments_amount_sum_{k}m"), e.get(f"payments_amount_sum_{k}m") or 0
        found[f"payments_to_due_{k}m"], found[f"payments_less_due_{k}m"] = over(paid, due), less(paid, due)
    ahead, net = e.get("obligations_due_next_3m"), e.get("transactions_amount_sum_6m")
    found["balance_to_obligations_3m"] = over(e.get("transactions_balance_after_last"), ahead)
    found["net_inflow_6m_to_obligations_3m"] = over(None if net is None else Fraction(net) / 2, ahead)
    left = e.get("obligations_due_in_all")
    found["obligations_left_share"] = over(
        left, None if left is None else left + (e.get("instalments_amount_sum_ever") or 0)
    )

    def both(column: str) -> Any:
        return add(v for v in (e.get(f"{side}_{column}") for side in ("credits", "bureau")) if v is not None)

    debt = both("balance_sum")
    found |= {"debt_in_all": debt, "overdue_in_all": both("overdue_sum"), "limit_in_all": both("limit_sum")}
    found["debt_to_principal_in_all"] = over(debt, both("principal_sum"))
    found["overdue_to_debt_in_all"] = over(both("overdue_sum") or 0, debt)
    found["debt_with_others_share"] = over(e.get("bureau_balance_sum") or 0, debt)
    return found
