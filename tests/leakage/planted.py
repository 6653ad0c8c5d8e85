"""Planted leaks in features: each is a small mutation of the real code path, put in place with monkeypatch.

`kind` follows Kapoor and Narayanan (Patterns 2023): L1.1 no test set, L1.2 pre-processing on train and test, L1.3
selection on train and test, L1.4 duplicates, L2 illegitimate features, L3.1 temporal, L3.2 non-independence, L3.3
sampling bias of the test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import ibis
import pytest

from features import build, declared, definition, observed, panel, visible
from features import prepared as preparing

Plant = Callable[[pytest.MonkeyPatch], None]
UNCHANGED = {"visible": visible.visible, "versioned": visible.versioned, "prepared": build.prepared}


@dataclass(frozen=True)
class Leak:
    """A leak, its kind, how to plant it, the subjects that show it, where it shows, and the battery meant for it."""

    name: str
    kind: str
    plant: Plant
    subjects: frozenset[str]
    source: str
    first: str  # the battery that must see it
    panel: bool = False  # planted on the road of partial aggregates


def _visible(cut: Callable[[ibis.Table, ibis.Value], ibis.Value]) -> Plant:
    """Replace the rule of what is known on a date; versions still follow it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(visible, "visible", cut)

    return plant


def _current(rows: ibis.Table, as_of: ibis.Value) -> ibis.Value:
    return rows[visible.SUPERSEDED].isnull() | (rows[visible.SUPERSEDED] >= as_of)


def _prepared(table: str, change: Callable[[ibis.Table], ibis.Table]) -> Plant:
    """Change a table's rows after they were prepared, as a careless staging step would."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
            made = UNCHANGED["prepared"](name, rows, credits_table)
            return change(made) if name == table else made

        patch.setattr(build, "prepared", prepared)

    return plant


def _raw(table: str, change: Callable[[ibis.Table], ibis.Table]) -> Plant:
    """Change a table as it comes from ingest."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
            return UNCHANGED["prepared"](name, change(rows) if name == table else rows, credits_table)

        patch.setattr(build, "prepared", prepared)

    return plant


def _over(*by: str, order: str | None = None) -> object:
    return ibis.window(group_by=list(by), order_by=[order] if order else None)


def _money(value: ibis.Value) -> ibis.Value:
    return value.cast("decimal(18, 2)")


def _newest_only(table: ibis.Table, key: tuple[str, ...]) -> ibis.Table:
    """Latest restatement: the last version's values under the first version's date."""
    if not key:
        return UNCHANGED["versioned"](table, key)
    window = ibis.window(group_by=list(key), order_by="known_on", preceding=None, following=None)
    values = {name: table[name].last().over(window) for name in table.columns if name not in (*key, "known_on")}
    made = table.mutate(**values, first=table.known_on.min().over(_over(*key)))
    made = made.filter(made.known_on == made.first).drop("first")
    return made.mutate(**{visible.SUPERSEDED: ibis.null("date")})


def _plant_newest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(preparing, "versioned", _newest_only)


def _plant_vocabulary(patch: pytest.MonkeyPatch) -> None:
    """Frequent categories and given columns are read from all rows, future ones too."""
    patch.setattr(declared, "visible_at", lambda rows, _: rows)


def _plant_owner(patch: pytest.MonkeyPatch) -> None:
    """Rows of a credit count from their own date, although whose credit it is was learned later."""

    def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
        if credits_table is not None:
            credits_table = credits_table.mutate(known_on=ibis.date(1900, 1, 1))
        return UNCHANGED["prepared"](name, rows, credits_table)

    patch.setattr(build, "prepared", prepared)


def _plant_transferred(patch: pytest.MonkeyPatch) -> None:
    """Rows hang on the newest number of customers' credits: a count over all credits, known or not."""

    def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
        made = UNCHANGED["prepared"](name, rows, credits_table)
        if name == "credits":
            many = made.count().over(_over("customer_id"))
            made = made.mutate(principal=_money(many))
        return made

    patch.setattr(build, "prepared", prepared)


def _plant_file_order(patch: pytest.MonkeyPatch) -> None:
    """The newest row is the one that stands last in the file."""

    def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
        made = UNCHANGED["prepared"](name, rows.mutate(place=ibis.row_number()), credits_table)
        return made.mutate(row_order=made.place).drop("place")

    patch.setattr(build, "prepared", prepared)


def _plant_row_number(patch: pytest.MonkeyPatch) -> None:
    """A row's place in the file as a figure (files sorted by outcome or by date of default do exist)."""

    def prepared(name: str, rows: ibis.Table, credits_table: ibis.Table | None) -> ibis.Table:
        if name == "customers":
            rows = rows.mutate(declared_income=ibis.row_number().cast("float64"))
        return UNCHANGED["prepared"](name, rows, credits_table)

    patch.setattr(build, "prepared", prepared)


def _plant_decided(change: Callable[[ibis.Table], dict[str, ibis.Value]]) -> Plant:
    """Let the outcome into what a decision states of itself."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def decided(lender: definition.Lender) -> ibis.Table:
            rows = lender.tables["observations"]
            rows = rows.mutate(**change(rows)).drop("outcome", "outcome_known_on")
            kept = [name for name in rows.columns if name not in lender.observed.columns]
            joined = lender.observed.inner_join(rows, ["customer_id", "as_of"])
            return joined.select(*lender.observed.columns, *kept)

        patch.setattr(observed, "decided", decided)

    return plant


def _plant_late_decision(patch: pytest.MonkeyPatch) -> None:
    """A decision's attributes count in the version that was learned last."""

    def decided(lender: definition.Lender) -> ibis.Table:
        rows = lender.tables["observations"].drop("outcome", "outcome_known_on")
        rows = rows.filter(rows[visible.SUPERSEDED].isnull())
        kept = [name for name in rows.columns if name not in lender.observed.columns]
        return lender.observed.inner_join(rows, ["customer_id", "as_of"]).select(*lender.observed.columns, *kept)

    patch.setattr(observed, "decided", decided)


def _cells(pattern: str, new: str) -> Plant:
    """Mutate the SQL that sorts rows into cells of (customer, period happened, period known, period restated)."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        made = panel.Panel.rows_query

        def rows_query(self: panel.Panel, *arguments: object, **named: object) -> str:
            sql, times = re.subn(pattern, new, made(self, *arguments, **named))
            assert times, "the planted text is not in the SQL any more"
            return sql

        patch.setattr(panel.Panel, "rows_query", rows_query)

    return plant


def _both(*plants: Plant) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for one in plants:
            one(patch)

    return plant


def _future_worst(rows: ibis.Table) -> ibis.Table:
    ahead = ibis.window(group_by="credit_id", order_by="stated_on", preceding=0, following=3)
    return rows.mutate(days_past_due=rows.days_past_due.max().over(ahead))


def _filled_in_later(rows: ibis.Table) -> ibis.Table:
    """Each balance is the mean of the one before and the one after: gaps filled from the future."""
    around = ibis.window(group_by="customer_id", order_by="row_order", preceding=1, following=1)
    return rows.mutate(balance_after=_money(rows.balance_after.cast("float64").mean().over(around)))


def _sum_over_all(rows: ibis.Table) -> ibis.Table:
    return rows.mutate(amount=_money(rows.amount.sum().over(_over("customer_id"))))


def _peer_rank(rows: ibis.Table) -> ibis.Table:
    return rows.mutate(declared_income=rows.declared_income.mean().over(_over("region")))


def _scaled(rows: ibis.Table) -> ibis.Table:
    """Standardise by mean and spread of the whole table, future and test customers among it."""
    value = rows.amount.cast("float64")
    everything = ibis.window()
    return rows.mutate(amount=_money(1000 * (value - value.mean().over(everything)) / value.std().over(everything)))


def _month_end(rows: ibis.Table, as_of: ibis.Value) -> ibis.Value:
    end = as_of.truncate("M") + ibis.interval(months=1)
    return (rows.known_on < end) & (rows[visible.SUPERSEDED].isnull() | (rows[visible.SUPERSEDED] >= end))


def _five_hours(rows: ibis.Table, as_of: ibis.Value) -> ibis.Value:
    local = rows.known_on.cast("timestamp") - ibis.interval(hours=5)
    return (local < as_of.cast("timestamp")) & _current(rows, as_of)


def _known_from(column: str) -> Callable[[ibis.Table], ibis.Table]:
    return lambda rows: rows.mutate(known_on=ibis.least(rows.known_on, rows[column]))


TX, ST, CU, OB = (frozenset({name}) for name in ("transactions", "statements", "customers", "observations"))
EVER = frozenset({"transactions_ever"})
SIM, BERKA = "simulated", "berka"

LEAKS = (
    Leak("window reaches one day past as_of", "L3.1", _visible(lambda r, t: (r.known_on < t + ibis.interval(days=1)) & _current(r, t)), TX, SIM, "e boundary"),
    Leak("timezone shifted by five hours", "L3.1", _visible(_five_hours), TX, SIM, "e boundary"),
    Leak("boundary <= instead of <", "L3.1", _visible(lambda r, t: (r.known_on <= t) & _current(r, t)), ST, SIM, "e boundary"),
    Leak("event date in place of knowledge", "L3.1", _visible(lambda r, t: (ibis.coalesce(r.event_on, r.known_on) < t) & _current(r, t)), TX, SIM, "a deleted"),
    Leak("no cut at all", "L3.1", _visible(lambda r, _: r.known_on.notnull()), ST, SIM, "a deleted"),
    Leak("latest restatement under the first date", "L3.1", _plant_newest, TX, SIM, "a deleted"),
    Leak("every version of a row counts", "L3.1", _both(_visible(lambda r, t: (r.known_on < t) & r[visible.SUPERSEDED].isnull())), TX, SIM, "a deleted"),
    Leak("month rounded up to its end", "L3.1", _visible(_month_end), TX, SIM, "a deleted"),
    Leak("year rounded up to its end", "L3.1", _visible(lambda r, t: (r.known_on < t.truncate("Y") + ibis.interval(years=1)) & _current(r, t)), frozenset({"bureau"}), SIM, "a deleted"),
    Leak("late rows dated back to their event", "L3.1", _raw("transactions", _known_from("event_on")), TX, SIM, "a deleted"),
    Leak("late bureau months dated back", "L3.1", _raw("statements", _known_from("stated_on")), frozenset({"bureau"}), SIM, "a deleted"),
    Leak("accounts known at the period's end", "L3.1", _raw("financials", _known_from("period_end")), frozenset({"financials"}), SIM, "a deleted"),
    Leak("industry figures of the same quarter", "L3.1", _raw("industries", _known_from("period_start")), frozenset({"industry"}), SIM, "a deleted"),
    Leak("payments known when they were made", "L3.1", _raw("payments", _known_from("paid_on")), frozenset({"payments"}), SIM, "a deleted"),
    Leak("undated table taken as always known", "L3.1", _raw("credits", lambda r: r.mutate(known_on=ibis.date(1900, 1, 1), opened_on=ibis.date(1900, 1, 1))), frozenset({"credits"}), SIM, "a deleted"),
    Leak("owner of a credit known before the credit", "L3.1", _plant_owner, frozenset({"instalments"}), SIM, "d shifted"),
    Leak("worst days past due of the next three months", "L2", _prepared("statements", _future_worst), ST, SIM, "a deleted"),
    Leak("gaps filled from the next row", "L3.1", _prepared("transactions", _filled_in_later), TX, SIM, "a deleted"),
    Leak("customer's total over all time", "L3.1", _prepared("transactions", _sum_over_all), TX, SIM, "a deleted"),
    Leak("row count over all time", "L3.1", _prepared("transactions", lambda r: r.mutate(amount=_money(r.count().over(_over("customer_id"))))), TX, SIM, "a deleted"),
    Leak("date of the last update", "L3.1", _prepared("transactions", lambda r: r.mutate(balance_after=_money(r.known_on.max().over(_over("customer_id")).delta(ibis.date(2000, 1, 1), unit="day")))), TX, SIM, "a deleted"),
    Leak("global mean taken off", "L1.2", _prepared("transactions", lambda r: r.mutate(amount=_money(r.amount.cast("float64") - r.amount.cast("float64").mean().over(ibis.window())))), TX, SIM, "a deleted"),
    Leak("scaled by the whole table", "L1.2", _prepared("transactions", _scaled), TX, SIM, "a deleted"),
    Leak("peer group of the whole population", "L3.2", _prepared("customers", _peer_rank), CU, SIM, "b noise"),
    Leak("number of credits ever, known or not", "L3.1", _plant_transferred, frozenset({"credits"}), SIM, "a deleted"),
    Leak("categories chosen from all rows", "L1.3", _plant_vocabulary, CU | TX, SIM, "b noise"),
    Leak("newest row by place in the file", "L2", _plant_file_order, EVER | TX, SIM, "c shuffled"),
    Leak("row number as a figure", "L2", _plant_row_number, CU, SIM, "c shuffled"),
    Leak("outcome as a feature", "L2", _plant_decided(lambda r: {"exposure": _money(r.outcome)}), OB, BERKA, "f outcomes"),
    Leak("missing where the outcome is bad", "L2", _plant_decided(lambda r: {"loan_amount": (r.outcome == 1).ifelse(ibis.null("float64"), r.loan_amount)}), OB, BERKA, "f outcomes"),
    Leak("day on which the outcome became known", "L2", _plant_decided(lambda r: {"exposure": _money(r.outcome_known_on.delta(r.as_of, unit="day"))}), OB, BERKA, "f outcomes"),
    Leak("decision restated after as_of", "L3.1", _plant_late_decision, OB, BERKA, "b noise"),
    Leak("cells by event in place of knowledge", "L3.1", _cells(r"CASE WHEN known_on <= event_on THEN p .*? END AS v", "p AS v"), TX, SIM, "a deleted", panel=True),
    Leak("cells without what is restated later", "L3.1", _cells(r"CAST\(date_diff\('month', DATE '1970-01-01', superseded_on\) AS INTEGER\) AS s", "CASE WHEN superseded_on IS NOT NULL THEN p END AS s"), TX, SIM, "a deleted", panel=True),
    Leak("cells known a day early", "L3.1", _cells(r"known_on(?! <=)(?=[,)])", "(known_on - 1)"), TX, SIM, "e boundary", panel=True),
)  # fmt: skip
