"""Credit lines as they stand at as_of: own lines here, other lenders' lines in `bureau`, from one declaration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import ibis

from features.aggregates import count, mean, months, ratio, share, span, total
from features.cashflow import slug
from features.definition import Feature, Formula, Lender, Lines, Skipped, Subject, bound
from features.utilisation import own, statements_of

LONG = (36,)  # months beyond the windows
UNSAID = {  # what a side's lines may leave open: the columns that one of them must have a value in, and the words
    "limits": ((("credits", "credit_limit"), ("statements", "credit_limit")), "a limit"),
    "principals": ((("credits", "principal"),), "a principal"),
    "rates": ((("credits", "rate"),), "a rate"),
    "terms": ((("credits", "term_months"),), "a term"),
    "states": ((("statements", "status"),), "its status"),
    "balances": ((("statements", "balance"),), "a balance"),
    "overdue": ((("statements", "overdue_amount"),), "an overdue amount"),
    "days_past_due": ((("statements", "days_past_due"),), "days past due"),
    "openings": ((("credits", "opened_on"),), "when it was opened"),
    "products": ((("credits", "product"),), "its product"),
}
VALUES = 3  # the most frequent products and states have features of their own


@dataclass(frozen=True)
class Side:
    """Whose lines: the prefix of the names, and the words for them."""

    prefix: str
    ours: bool
    words: str
    words_zh: str
    family: str


OWN = Side("credits", ours=True, words="own credit lines", words_zh="自有授信", family="own_credit")


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what our own lines say."""
    yield from side_subjects(lender, OWN)


def side_subjects(lender: Lender, side: Side) -> Iterator[Subject | Skipped]:
    """Declare one side's lines; skipped where the source has none of them."""
    present = lender.vocabulary.get("credits.provider", ())
    if "credits" not in lender.tables:
        yield Skipped(side.prefix, "the source has no credits")
    elif side.ours and present and "own" not in present:
        yield Skipped(side.prefix, "no credit of the source has the provider `own`")
    elif not side.ours and not [name for name in present if name != "own"]:
        yield Skipped(side.prefix, "every credit of the source is our own")
    else:
        yield Subject(
            side.prefix,
            tuple(name for name in ("credits", "statements") if name in lender.tables),
            lines(lender, ours=side.ours),
            tuple(_features(lender, side)),
            facts={
                **({"credit_months": lambda r: r.months_since_opening.max()} if side.ours else {}),
                **({"credits_product": _one_product} if side.ours else {}),
                f"{side.prefix}_balance": lambda r: r.balance.sum(where=r.open),
                f"{side.prefix}_principal": lambda r: r.principal.sum(where=r.open),
                f"{side.prefix}_limit": lambda r: r.credit_limit.sum(where=r.open),
                f"{side.prefix}_days_past_due": lambda r: r.days_past_due.max(),
                f"{side.prefix}_overdue": lambda r: r.overdue_amount.sum(),
                f"{side.prefix}_worst_days_past_due": lambda r: r.worst_24m.max(),
                f"{side.prefix}_open": lambda r: count(r.open),
                f"{side.prefix}_first_opened_on": lambda r: r.opened_on.min(),
                f"{side.prefix}_last_stated_on": lambda r: r.stated_on.max(),
            },
            made_by=(lines, own, statements_of),
        )
        yield from _unsaid(lender.lines[side.ours], side)


def _one_product(r: ibis.Table) -> ibis.Value:
    """Return the product of the open lines, null where they are of several or one does not say."""
    named = r["product"].nunique(where=r.open) == 1
    return (named & (count(r.open & r["product"].isnull()) == 0)).ifelse(
        r["product"].max(where=r.open), ibis.null("string")
    )


def _unsaid(said: Lines, side: Side) -> Iterator[Skipped]:
    """Say what no line of this side can tell, so that no column is built which never has a value."""
    one = side.words.replace("lines", "line")
    for what, (columns, words) in UNSAID.items():
        if not any(said.has(*column) for column in columns):
            yield Skipped(f"{side.prefix}_{what}", f"no {one} of the source states {words}")
    if said.most_lines < 2:
        yield Skipped(f"{side.prefix}_new_against_old", f"no customer has two {side.words}")


def lines(lender: Lender, *, ours: bool) -> ibis.Table:
    """Return one row for each line known at as_of: what was agreed and its newest statement.

    `newest_first` numbers the lines from the one opened last (1) back. `open` is false once a statement says `closed`
    or the agreed term is over; `months_since_opening` and `months_left` are in calendar months; a line's limit is the
    newest stated, else the one agreed.
    """
    credit = lender.known("credits")
    credit = credit.filter(own(credit) if ours else ~own(credit))
    agreed = ("product", "opened_on", "principal", "credit_limit", "term_months", "rate", "provider", "months_before")
    credit = credit.select("customer_id", "as_of", "credit_id", *agreed)
    credit = credit.rename(months_since_opening="months_before", agreed_limit="credit_limit")
    if "statements" in lender.tables:
        seen = lender.past(statements_of(lender, ours=ours))
        state = seen.group_by("customer_id", "as_of", "credit_id").aggregate(
            stated_on=seen.event_on.max(),
            **{
                name: seen[name].argmax(seen.row_order, where=seen[name].notnull())
                for name in ("balance", "credit_limit", "days_past_due", "overdue_amount", "status")
            },
            worst_12m=seen.days_past_due.max(where=seen.months_before <= 12),
            worst_24m=seen.days_past_due.max(where=seen.months_before <= 24),
            worst_ever=seen.days_past_due.max(),
            late_months_before=seen.months_before.min(where=seen.days_past_due > 0),
        )
        rows = credit.left_join(state, ["customer_id", "as_of", "credit_id"])
        rows = rows.drop("customer_id_right", "as_of_right", "credit_id_right")
    else:
        money, days = ibis.null("decimal(18, 2)"), ibis.null("int32")
        rows = credit.mutate(
            stated_on=ibis.null("date"), balance=money, credit_limit=money, overdue_amount=money,
            days_past_due=days, worst_12m=days, worst_24m=days, worst_ever=days, late_months_before=days,
            status=ibis.null("string"),
        )  # fmt: skip
    left = rows.term_months.cast("int32") - (rows.months_since_opening - 1)
    closed = (rows.status.lower() == "closed").fill_null(False)
    newest = ibis.window(
        group_by=[rows.customer_id, rows.as_of], order_by=[rows.opened_on.desc(), rows.credit_id.desc()]
    )
    return rows.mutate(
        newest_first=ibis.row_number().over(newest) + 1,
        credit_limit=rows.credit_limit.coalesce(rows.agreed_limit),
        months_left=(left < 0).ifelse(0, left),
        open=~closed & (left > 0).fill_null(True),
    )


def _features(lender: Lender, side: Side) -> Iterator[Feature]:
    always, said = ibis.literal(True), lender.lines[side.ours]
    w, z = side.words, side.words_zh
    null_means = f"no {w.replace('lines', 'line')} was known"

    def declare(name: str, formula: Formula, english: str, chinese: str, unit: str, direction: int = 0) -> Feature:
        return Feature(f"{side.prefix}_{name}", formula, english, chinese, side.family, unit, direction, null_means)

    yield declare("count", lambda r: count(r.credit_id.notnull()), f"Number of {w} ever known", f"{z}总数", "count")
    yield declare("open_count", lambda r: count(r.open), f"Number of {w} open now", f"未结清{z}数", "count")
    yield declare(
        "closed_share",
        lambda r: share(~r.open, r.credit_id.notnull()),
        f"Share of {w} that are closed or over",
        f"已结清{z}占比",
        "share",
    )
    yield from _by_value(said, declare, w, z)
    if said.has("credits", "opened_on", "principal") and said.most_lines > 1:
        yield from _new_against_old(declare, w, z)
    if said.has("credits", "opened_on") and said.most_lines > 1:
        yield declare(
            "opening_gap_mean",
            lambda r: ratio(
                r.months_since_opening.max() - r.months_since_opening.min(), r.months_since_opening.count() - 1
            ),
            f"Average months from one of the {w} to the next",
            f"相邻两笔{z}开立的平均间隔月数",
            "months",
            -1,
        )
    if said.has("credits", "opened_on"):
        for k in (*lender.windows[-2:], *LONG):
            text, text_zh = months(k)
            yield declare(
                f"opened_count_{k}m",
                bound(lambda r, k: count((r.months_since_opening <= k).fill_null(False)), k),
                f"Number of {w} opened in the last {text}",
                f"近{text_zh}新开{z}数",
                "count",
                1,
            )
        yield declare(
            "newest_months",
            lambda r: r.months_since_opening.min().cast("float64"),
            f"Months since the newest of the {w} was opened",
            f"最新{z}开立月数",
            "months",
        )
        yield declare(
            "oldest_months",
            lambda r: r.months_since_opening.max().cast("float64"),
            f"Months since the oldest of the {w} was opened",
            f"最早{z}开立月数",
            "months",
            -1,
        )
    limits = said.has("credits", "credit_limit") or said.has("statements", "credit_limit")
    if limits:
        yield declare(
            "limit_sum",
            lambda r: total(r.credit_limit, r.open),
            f"Limit of open {w} together",
            f"未结清{z}额度合计",
            "money",
            -1,
        )
    if said.has("credits", "principal"):
        yield declare(
            "principal_sum",
            lambda r: total(r.principal, r.open),
            f"Principal of open {w}",
            f"未结清{z}本金合计",
            "money",
        )
        yield declare(
            "principal_max",
            lambda r: r.principal.max().cast("float64"),
            f"Largest principal of {w}",
            f"{z}最大本金",
            "money",
        )
    if said.has("credits", "rate"):
        yield declare("rate_mean", lambda r: mean(r.rate, always), f"Average rate of {w}", f"{z}平均利率", "share", 1)
    if said.has("credits", "term_months"):
        yield declare(
            "months_left_max",
            lambda r: r.months_left.max(where=r.open).cast("float64"),
            f"Months left on the longest of the open {w}",
            f"未结清{z}最长剩余月数",
            "months",
        )
    if not side.ours and said.has("credits", "provider"):
        yield declare(
            "providers",
            lambda r: r.provider.nunique().cast("float64"),
            "Number of other lenders",
            "其他机构数",
            "count",
            1,
        )
    if said.has("statements", "balance"):
        yield declare(
            "balance_sum", lambda r: total(r.balance, r.open), f"Debt on open {w}", f"未结清{z}余额合计", "money"
        )
        if limits:
            yield declare(
                "balance_to_limit",
                lambda r: ratio(r.balance.sum(where=r.open & (r.credit_limit > 0)), r.credit_limit.sum(where=r.open)),
                f"Debt on open {w} as a share of their limits",
                f"未结清{z}余额与额度之比",
                "share",
                1,
            )
            yield declare(
                "line_balance_to_limit_max",
                lambda r: ratio(r.balance, r.credit_limit).max(where=r.open),
                f"Debt as a share of the limit on the most drawn of the open {w}",
                f"未结清{z}单笔最高额度使用率",
                "share",
                1,
            )
        if said.has("credits", "principal"):
            yield declare(
                "balance_to_principal",
                lambda r: ratio(r.balance.sum(where=r.open & (r.principal > 0)), r.principal.sum(where=r.open)),
                f"Debt on open {w} as a share of their principal",
                f"未结清{z}余额与本金之比",
                "share",
                1,
            )
    if said.has("statements", "overdue_amount"):
        yield declare(
            "overdue_sum",
            lambda r: total(r.overdue_amount, always),
            f"Overdue on {w} now",
            f"{z}当前逾期金额",
            "money",
            1,
        )
        if said.has("statements", "balance"):
            yield declare(
                "overdue_to_balance",
                lambda r: ratio(r.overdue_amount.sum(where=r.balance > 0).fill_null(0), r.balance.sum()),
                f"Overdue on {w} as a share of the debt on them",
                f"{z}逾期金额与余额之比",
                "share",
                1,
            )
    if said.has("statements", "days_past_due"):
        yield declare(
            "days_past_due_max",
            lambda r: r.days_past_due.max().cast("float64"),
            f"Most days past due on any of the {w} now",
            f"{z}当前最长逾期天数",
            "days",
            1,
        )
        for within in (12, 24, None):
            end, text, text_zh = span(within)
            yield declare(
                f"worst_days_past_due_{end}",
                bound(lambda r, column: r[column].max().cast("float64"), f"worst_{end}"),
                f"Most days past due on any of the {w} {text}",
                f"{text_zh}{z}最长逾期天数",
                "days",
                1,
            )
        yield declare(
            "late_recency_months",
            lambda r: r.late_months_before.min().cast("float64"),
            f"Months since any of the {w} was last past due",
            f"距{z}最近一次逾期的月数",
            "months",
            -1,
        )
        yield declare(
            "late_count_12m",
            lambda r: count((r.worst_12m > 0).fill_null(False)),
            f"Number of {w} past due at some time in the last 12 months",
            f"近12个月曾逾期的{z}数",
            "count",
            1,
        )


def _by_value(said: Lines, declare: Callable[..., Feature], w: str, z: str) -> Iterator[Feature]:
    """Declare how many lines are of each frequent product, and in each frequent state."""
    for value in said.vocabulary.get("credits.product", ())[:VALUES]:
        yield declare(
            f"product_{slug(value)}_open_count",
            bound(lambda r, value: count(r.open & (r.product == value).fill_null(False)), value),
            f"Number of open {w} of the product '{value}'",
            f"未结清{z}中“{value}”产品的笔数",
            "count",
        )
    for value in said.vocabulary.get("statements.status", ())[:VALUES]:
        yield declare(
            f"status_{slug(value)}_count",
            bound(lambda r, value: count((r.status == value).fill_null(False)), value),
            f"Number of {w} whose latest state is '{value}'",
            f"最新状态为“{value}”的{z}数",
            "count",
        )
    if said.has("credits", "product"):
        newest = declare(
            "product_last",
            lambda r: r["product"].max(where=r.newest_first == 1),
            f"Product of the newest of the {w}",
            f"最新一笔{z}的产品",
            "",
        )
        yield replace(newest, kind="categorical")


def _new_against_old(declare: Callable[..., Feature], w: str, z: str) -> Iterator[Feature]:
    """Set the newest principal against the one before, the largest and the average of those before."""

    def newest(rows: ibis.Table) -> ibis.Value:
        return rows.principal.max(where=rows.newest_first == 1)

    for name, formula, english, chinese in (
        (
            "previous",
            lambda r: ratio(newest(r), r.principal.max(where=r.newest_first == 2)),
            "the one before",
            "前一笔",
        ),
        (
            "largest",
            lambda r: ratio(newest(r), r.principal.max(where=r.newest_first > 1)),
            "the largest before it",
            "此前最大一笔",
        ),
        (
            "mean",
            lambda r: ratio(newest(r), mean(r.principal, r.newest_first > 1)),
            "the average of those before it",
            "此前平均水平",
        ),
    ):
        made = declare(
            f"newest_principal_to_{name}",
            formula,
            f"Principal of the newest of the {w}, relative to {english}",
            f"最新一笔{z}本金与{chinese}之比",
            "ratio",
            1,
        )
        yield replace(made, null_means="fewer than two with a principal were known")
