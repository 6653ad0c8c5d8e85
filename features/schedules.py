"""What the schedules of own credits imply: the yearly rate, the term, and the new instalment against the old ones.

A schedule is the instalments of one credit known at as_of, those to come included. The rate is that of the direct-ratio
formula, within a tenth of a percent of the exact annuity over the usual terms: with P lent, I paid above it, n
instalments and m of them a year, 6 m I / (3 P (n + 1) + I (n - 1)).
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import ratio, total
from features.definition import Feature, Formula, Lender, Skipped, Subject
from features.utilisation import own

DAYS_PER_YEAR = 365.25


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what the schedules of own credits say; skipped where no credit states both principal and instalments."""
    if lender.has("credits", "principal", "opened_on") and lender.has("instalments", "amount"):
        yield Subject(
            "schedules",
            ("credits", "instalments"),
            schedules(lender),
            tuple(_features()),
            made_by=(schedules, own, yearly_rate),
        )
    else:
        yield Skipped("schedules", "the source has no instalments of credits with a principal")


def yearly_rate(lent: ibis.Value, paid: ibis.Value, number: ibis.Value, a_year: ibis.Value | float) -> ibis.Value:
    """Return the yearly rate of an annuity (0.12: 12%) by the direct-ratio formula; null where nothing was lent."""
    lent, paid, number = lent.cast("float64"), paid.cast("float64"), number.cast("float64")
    lent = (lent > 0).ifelse(lent, ibis.null("float64"))
    interest = paid - lent
    return ratio(6 * a_year * interest, 3 * lent * (number + 1) + interest * (number - 1))


def schedules(lender: Lender) -> ibis.Table:
    """Return one row for each own credit whose instalments are known: its rate, instalment, and largest amounts.

    `newest_first` numbers a customer's schedules from the credit opened last; `instalment` is the average amount, and
    `rate` needs two instalments, whose distance says how many fall into a year.
    """
    due = lender.known("instalments")
    each = due.group_by("customer_id", "as_of", "credit_id").aggregate(
        paid=total(due.amount, due.amount.notnull()),
        number=due.amount.count(),
        days=due.days_before.max() - due.days_before.min(),
        largest_past=due.amount.max(where=due.days_before >= 1),
        largest_ahead=due.amount.max(where=due.days_before <= 0),
    )
    credit = lender.known("credits")
    credit = credit.filter(own(credit)).select("customer_id", "as_of", "credit_id", "opened_on", "principal")
    rows = each.inner_join(credit, ["customer_id", "as_of", "credit_id"])
    newest = ibis.window(
        group_by=[rows.customer_id, rows.as_of], order_by=[rows.opened_on.desc(), rows.credit_id.desc()]
    )
    a_year = ratio((rows.number - 1).cast("float64") * DAYS_PER_YEAR, rows.days)
    return rows.mutate(
        newest_first=ibis.row_number().over(newest) + 1,
        instalment=ratio(rows.paid, rows.number),
        rate=yearly_rate(rows.principal, rows.paid, rows.number, a_year),
    )


def _features() -> Iterator[Feature]:
    def at(rows: ibis.Table, column: str, place: int) -> ibis.Value:
        return rows[column].max(where=rows.newest_first == place).cast("float64")

    declared: tuple[tuple[str, Formula, str, str, str, int, str], ...] = (
        (
            "rate_newest",
            lambda r: at(r, "rate", 1),
            "Yearly rate that principal and instalments of the newest own credit imply",
            "最新一笔自有授信的本金与分期隐含的年利率",
            "share",
            1,
            "fewer than two instalments, or no principal, of the newest credit were known",
        ),
        (
            "term_newest",
            lambda r: ratio(at(r, "principal", 1), at(r, "instalment", 1)),
            "Principal of the newest own credit over its average instalment: the implied number of instalments",
            "最新一笔自有授信本金与平均每期应付之比（隐含期数）",
            "count",
            0,
            "no instalment of the newest credit was known",
        ),
        (
            "instalment_newest_to_previous",
            lambda r: ratio(at(r, "instalment", 1), at(r, "instalment", 2)),
            "Average instalment of the newest own credit, relative to that of the one before",
            "最新一笔自有授信平均每期应付与前一笔之比",
            "ratio",
            1,
            "fewer than two credits with instalments were known",
        ),
        (
            "ahead_to_largest_past",
            lambda r: ratio(r.largest_ahead.max(), r.largest_past.max()),
            "Largest instalment still to come, relative to the largest that fell due",
            "未来最大一期应付与历史最大一期应付之比",
            "ratio",
            1,
            "nothing is known to fall due any more, or nothing fell due yet",
        ),
        (
            "largest_past",
            lambda r: r.largest_past.max().cast("float64"),
            "Largest instalment that fell due so far",
            "历史最大一期应付金额",
            "money",
            0,
            "nothing fell due yet",
        ),
    )
    for name, formula, english, chinese, unit, direction, null_means in declared:
        yield Feature(
            f"schedules_{name}", formula, english, chinese, "obligations", unit, direction, null_means
        )  # fmt: skip
