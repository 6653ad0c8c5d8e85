"""Arrears as a curve: on each day of the last year, how much was overdue; its mean, its peak, its spells.

An instalment or trade invoice is overdue on the days after its due date up to and including the day that settles it
(up to as_of while that is unknown), with its whole amount. The curve only changes on days on which something becomes
overdue or is settled, so it is worked out from those days alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import ratio
from features.definition import Feature, Formula, Lender, Skipped, Subject
from features.settling import settled, settled_afresh, settled_states, steady

YEAR = 365  # days looked back
NOTHING_DUE = "no instalment or invoice had fallen due"


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare the arrears curve of the last year."""
    if lender.has("instalments", "amount") and lender.has("payments", "amount"):
        yield Subject(
            "arrears",
            ("instalments", "payments", "credits"),
            curve(settled(lender)),
            tuple(_features()),
            made_by=(curve, settled, steady, settled_states, settled_afresh),
        )
    else:
        yield Skipped("arrears", "the source has no instalments with payments")


def curve(rows: ibis.Table) -> ibis.Table:
    """Return the steps of the overdue amount, one row a step: days before as_of are counted downwards.

    `level` is the money overdue on the `days` days from this step to the next (0 days after the last), `open_count` how
    many instalments that is, `spell` the days that the spell in arrears has lasted at the end of the step (0: none),
    `first_due` the days since the first instalment fell due.
    """
    ended = rows.days_before - rows.days_late  # days before as_of of the last overdue day
    late = (rows.days_late > 0) & (ended < YEAR)
    keys = ("customer_id", "as_of")
    nothing = ibis.literal(0, "decimal(18, 2)")
    begins = rows.select(
        *keys,
        first_due=rows.days_before.cast("int64"),
        at=late.ifelse(ibis.least(rows.days_before.cast("int64"), YEAR) - 1, YEAR),
        money=late.ifelse(rows.amount, nothing),
        number=late.cast("int64"),
    )
    over = rows.filter(late)
    ends = over.select(
        *keys,
        first_due=over.days_before.cast("int64"),
        at=(over.days_before - over.days_late).cast("int64") - 1,
        money=(nothing - over.amount).cast("decimal(18, 2)"),
        number=ibis.literal(-1, "int64"),
    )
    events = begins.union(ends)
    steps = events.group_by(*keys, "at").aggregate(
        money=events.money.sum(), number=events.number.sum(), first_due=events.first_due.max()
    )
    so_far = ibis.cumulative_window(group_by=list(keys), order_by=ibis.desc("at"))
    in_order = ibis.window(group_by=list(keys), order_by=ibis.desc("at"))
    steps = steps.mutate(
        level=steps.money.sum().over(so_far),
        open_count=steps.number.sum().over(so_far),
        days=steps["at"] - steps["at"].lead().over(in_order).fill_null(steps["at"]),
    )
    before = steps.open_count.lag().over(in_order).fill_null(0)
    steps = steps.mutate(began=(before == 0).ifelse(steps["at"], ibis.null("int64")))
    lasted = steps.began.min().over(so_far) - steps["at"] + steps.days
    return steps.mutate(spell=(steps.open_count > 0).ifelse(lasted, 0))


def _features() -> Iterator[Feature]:
    def declare(name: str, formula: Formula, english: str, chinese: str, unit: str) -> Feature:
        return Feature(f"arrears_{name}_365d", formula, english, chinese, "arrears", unit, 1, NOTHING_DUE)

    def seen(r: ibis.Table) -> ibis.Value:
        return ibis.least(r.first_due.max(), YEAR)

    def days(r: ibis.Table) -> ibis.Value:
        return r.days.sum(where=r.open_count > 0).fill_null(0)

    yield declare(
        "overdue_mean",
        lambda r: ratio((r.level * r.days.cast("int32")).sum(), seen(r)),
        "Average amount overdue on a day of the last 365 days (or since the first due date)",
        "近365天（或自首个到期日起）日均逾期金额",
        "money",
    )
    yield declare(
        "overdue_max",
        lambda r: r.level.max().cast("float64"),
        "Largest amount overdue on one day of the last 365 days",
        "近365天单日最高逾期金额",
        "money",
    )
    yield declare(
        "days_share",
        lambda r: ratio(days(r), seen(r)),
        "Share of the last 365 days (or since the first due date) with something overdue",
        "近365天（或自首个到期日起）处于逾期的天数占比",
        "share",
    )
    yield declare(
        "longest_days",
        lambda r: r.spell.max().cast("float64"),
        "Longest spell in arrears within the last 365 days",
        "近365天最长连续逾期天数",
        "days",
    )
    yield declare(
        "spell_count",
        lambda r: r.began.nunique(where=r.open_count > 0).cast("float64"),
        "Number of spells in arrears within the last 365 days",
        "近365天逾期段数",
        "count",
    )
