"""A customer against the others: less the average of its peers, and its rank among them, as known at the month's start.

Statistics over other customers are tables of their own, keyed by (month, group, measure) and frozen at the first of the
month of as_of: they hold what was known then of every customer known then, so who else is asked about plays no part and
a later row moves nothing. The customer's own value is as of as_of. Peers are of the same kind (person or company) and
industry, segment or region; a group with fewer than `least_group` known values says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import ibis

from features.accounts import NEEDS, accounts
from features.aggregates import mean, ratio, total
from features.definition import KEYS, Feature, Formula, Lender, Skipped, Standing, Subject, bound
from features.observed import decided
from features.prepared import numbered
from features.visible import visible

DIMENSIONS = {"industry": "行业", "segment": "客群", "region": "地区"}  # the first that a source has also gives ranks
MOST_STATED = 12  # numeric attributes of decisions that are compared (by name); of customers where nothing else is
DECIDED_WITHIN = 12  # months before the month's start, within which other decisions count
PARTS = ("as_of_month", "as_of_day", "as_of_number")


@dataclass(frozen=True)
class Compared:
    """One number of a customer that is set against others: where it comes from, its formula, its words."""

    name: str
    table: str
    needs: tuple[str, ...]
    formula: Formula
    english: str
    chinese: str
    unit: str
    direction: int
    family: str


def _inside(rows: ibis.Table, k: int) -> ibis.Value:
    return rows.months_before <= k


def _newest(rows: ibis.Table, name: str) -> ibis.Value:
    return rows[name].max(where=rows.age == 1)


def _highest(rows: ibis.Table, name: str) -> ibis.Value:
    return rows[name].max().cast("float64")


COMPARED = (
    Compared("inflow_6m", "transactions", ("amount",), lambda r: total(r.amount, r.amount > 0),
             "money received in the last 6 months", "近6个月流入金额", "money", -1, "income"),
    Compared("balance_6m", "transactions", ("balance_after",), lambda r: mean(r.balance_after, _inside(r, 6)),
             "average account balance of the last 6 months", "近6个月平均账户余额", "money", -1, "balance"),
    Compared("utilisation_6m", "statements", ("balance", "credit_limit"),
             lambda r: ratio(total(r.balance, r.credit_limit > 0), total(r.credit_limit, r.credit_limit > 0)),
             "share of the limits drawn over the last 6 months", "近6个月额度使用率", "share", 1, "utilisation"),
    Compared("days_past_due_6m", "statements", ("days_past_due",), lambda r: mean(r.days_past_due, _inside(r, 6)),
             "average days past due on statements of the last 6 months", "近6个月账单平均逾期天数", "days", 1,
             "lateness"),
    Compared("days_late_6m", "payments", ("due_on",),
             lambda r: mean(r.event_on.delta(r.due_on, unit="day").cast("int64"), _inside(r, 6)),
             "average days by which payments of the last 6 months came after they were due", "近6个月还款平均迟延天数",
             "days", 1, "lateness"),
    Compared("sentiment_6m", "mentions", ("sentiment",), lambda r: mean(r.sentiment, _inside(r, 6)),
             "average sentiment of mentions of the last 6 months", "近6个月平均舆情情绪值", "points", -1, "reputation"),
    *(
        Compared(name, "financials", NEEDS[name], bound(_newest, name), english, chinese, unit, direction, family)
        for name, english, chinese, unit, direction, family in (
            ("current_ratio", "current ratio", "流动比率", "ratio", -1, "liquidity"),
            ("debt_to_assets", "liabilities over total assets", "资产负债率", "ratio", 1, "leverage"),
            ("interest_cover", "interest cover", "利息保障倍数", "ratio", -1, "coverage"),
            ("ebit_margin", "operating margin", "营业利润率", "ratio", -1, "profitability"),
            ("return_on_assets", "return on assets", "总资产收益率", "ratio", -1, "profitability"),
            ("altman_z", "Altman's Z''", "Altman Z''评分", "points", -1, "altman"),
        )
    ),
)  # fmt: skip
WITHIN = 6  # months of histories that are looked at


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare the differences and ranks that the source can give."""
    given, stated, decisions, dimensions = compared(lender)
    if dimensions is None:
        yield Skipped("peers", "the source has no customers table, or no number to set against those of others")
        return
    if not dimensions:
        yield Skipped("peer_groups", "the source states neither industry nor segment nor region of its customers")
    made_by: tuple[Callable, ...] = (everyone, values, long, members_of, against, ranked_in)
    lines = members_of(lender, given, stated, decisions)
    if lender.others is not None:
        lines = own_among(lines, members_of(lender.others, given, stated, decisions))
    rows = against if lender.standing is None else _known_before(lender.standing)
    yield Subject(
        "peers",
        tuple(dict.fromkeys(["customers", *(item.table for item in (*given, *stated, *decisions))])),
        rows(lines, dimensions, lender.least_group),
        tuple(_features((*given, *stated, *decisions), dimensions, lender.least_group)),
        made_by=(*made_by, accounts) if any(item.table == "financials" for item in given) else made_by,
        stands_on={
            feature.name: defined
            for item in (*given, *stated, *decisions)
            for defined in (_defined(lender, item),)
            for feature in _features((item,), dimensions, lender.least_group)
        },
    )


def compared(
    lender: Lender,
) -> tuple[tuple[Compared, ...], tuple[Compared, ...], tuple[Compared, ...], tuple[str, ...] | None]:
    """Return the numbers that are compared: of histories, of customers, of decisions; and the dimensions of groups.

    The dimensions are None where nothing is compared.
    """
    given = tuple(item for item in COMPARED if lender.has(item.table, *item.needs))
    stated = () if given else _stated(lender, "customers")
    decisions = _stated(lender, "observations")
    if "customers" not in lender.tables or not (given or stated or decisions):
        return given, stated, decisions, None
    return given, stated, decisions, tuple(name for name in DIMENSIONS if lender.has("customers", name))


def _known_before(standing: Standing) -> Standing:
    """Return what sets observations' own numbers against what was worked out of all others before."""
    return lambda lines, dimensions, least: standing(lines.filter(lines.own == 1), dimensions, least)


def _defined(lender: Lender, item: Compared) -> str:
    """Return the SQL of the number that is compared, for the definition hash."""
    seen = decided(lender) if item.table == "observations" else values(lender, lender.observed, item.table)
    rows = ibis.table(seen.schema(), name="rows")
    formula = str(ibis.to_sql(rows.aggregate(value=item.formula(rows)), dialect="duckdb"))
    return f"{formula} of {lender.least_group} or more"


def _stated(lender: Lender, table: str) -> tuple[Compared, ...]:
    """Return a table's numeric attributes as numbers to compare."""
    return tuple(
        Compared(f"{table}_{name}", table, (name,), bound(_highest, name),
                 f"{name.replace('_', ' ')} as stated", f"已申报的{name.replace('_', ' ')}", "", 0, f"stated_{name}")
        for name in lender.numeric.get(table, ())[:MOST_STATED]
    )  # fmt: skip


def everyone(lender: Lender) -> ibis.Table:
    """Return who is looked at: every customer known at the start of a month asked about, and every observation.

    `member`: one of those that statistics are made of; `own`: an observation. Both hold on the first of a month.
    """
    asked = lender.observed
    months = asked.select(as_of=asked.as_of.truncate("M").cast("date")).distinct()
    customers = lender.tables["customers"]
    at_start = months.join(customers, visible(customers, months.as_of)).select("customer_id", "as_of")
    yes, no = ibis.literal(1, "int8"), ibis.literal(0, "int8")
    both = at_start.mutate(member=yes, own=no).union(asked.select(*KEYS).mutate(member=no, own=yes))
    both = both.group_by(*KEYS).aggregate(member=both.member.max(), own=both.own.max())
    return numbered(both, "as_of", "as_of").drop("as_of_month_days")


def long(rows: ibis.Table, items: tuple[Compared, ...]) -> ibis.Table:
    """Return (customer_id, as_of, member, own, measure, value): one line a known number."""
    columns = {item.name: item.formula(rows).cast("float64") for item in items}
    wide = rows.group_by(*KEYS).aggregate(member=rows.member.max(), own=rows.own.max(), **columns)
    lines = wide.pivot_longer(list(columns), names_to="measure", values_to="value")
    return lines.filter(lines.value.notnull(), ~lines.value.isnan(), ~lines.value.isinf())


def values(lender: Lender, observed: ibis.Table, table: str) -> ibis.Table:
    """Return what each of `observed` sees of a table that can be compared."""
    there = replace(lender, observed=observed)
    if table == "customers":
        return there.known(table)
    return accounts(there) if table == "financials" else there.past(table, WITHIN)


def members_of(
    lender: Lender, given: tuple[Compared, ...], stated: tuple[Compared, ...], decisions: tuple[Compared, ...]
) -> ibis.Table:
    """Return every number that is compared with its group: `long` and kind, industry, segment, region, month."""
    parts = []
    observed = everyone(lender)
    for table in dict.fromkeys(item.table for item in (*given, *stated)):
        items = tuple(item for item in (*given, *stated) if item.table == table)
        parts.append(long(values(lender, observed, table), items))
    if decisions:
        no, yes = ibis.literal(0, "int8"), ibis.literal(1, "int8")
        parts.append(long(decided(lender).mutate(member=no, own=yes), decisions))
        months = lender.observed.select(month=lender.observed.as_of.truncate("M").cast("date")).distinct()
        rows = lender.tables["observations"]
        recent = rows.as_of > months.month - ibis.interval(months=DECIDED_WITHIN)
        seen = months.join(rows, [visible(rows, months.month), recent, rows.as_of <= months.month])
        names = [item.needs[0] for item in decisions]
        seen = seen.select("customer_id", *names, decided_on=seen.as_of, as_of=seen.month)
        others = seen.group_by("customer_id", "as_of", "decided_on").aggregate(
            **{item.name: item.formula(seen).cast("float64") for item in decisions}
        )
        others = others.pivot_longer([item.name for item in decisions], names_to="measure", values_to="value")
        others = others.filter(others.value.notnull())
        parts.append(others.mutate(member=yes, own=no).select(*KEYS, "member", "own", "measure", "value"))
    lines = reduce(lambda one, other: one.union(other), parts)
    pairs, customers = lines.select(*KEYS).distinct(), lender.tables["customers"]
    found = pairs.join(customers, [pairs.customer_id == customers.customer_id, visible(customers, pairs.as_of)])
    found = found.select(
        *(pairs[key] for key in KEYS),
        kind=customers.kind.fill_null(""),
        **{name: customers[name] for name in DIMENSIONS},
    )
    groups = lines.left_join(found, list(KEYS))
    return groups.select(*lines.columns, "kind", *DIMENSIONS, month=lines.as_of.truncate("M").cast("date"))


def own_among(lines: ibis.Table, others: ibis.Table) -> ibis.Table:
    """Return the observations' own numbers of `lines` and the members' of `others`: who is asked about is no member."""
    no = ibis.literal(0, "int8")
    return lines.filter(lines.own == 1).mutate(member=no).union(others.filter(others.member == 1).mutate(own=no))


def against(lines: ibis.Table, dimensions: tuple[str, ...], least: int) -> ibis.Table:
    """Return the observations' own numbers with `less_<dimension>`, `rank_month` and `rank_<first dimension>`."""
    rows = lines.filter(lines.own == 1)
    for name in dimensions:
        members = lines.filter(lines.member == 1, lines[name].notnull())
        by = ["month", "kind", name, "measure"]
        group = members.group_by(*by).aggregate(
            level=mean(members.value, members.value.notnull()), known=members.count()
        )
        group = group.filter(group.known >= least).drop("known")
        joined = rows.left_join(group, by)
        rows = joined.select(*rows.columns, **{f"less_{name}": joined.value - joined.level})
    for name in ("month", *dimensions[:1]):
        within = ("month", "measure") if name == "month" else ("month", "kind", name, "measure")
        rank = ranked_in(lines, within, least)
        joined = rows.left_join(rank, [*within, "value"])
        rows = joined.select(*rows.columns, **{f"rank_{name}": joined.standing})
    return rows


def ranked_in(lines: ibis.Table, by: tuple[str, ...], least: int) -> ibis.Table:
    """Return (by, value, standing): the share of members whose number is lower, those with the same counted half."""
    lines = lines.filter(*(lines[name].notnull() for name in by))
    levels = lines.group_by(*by, "value").aggregate(same=lines.member.cast("int64").sum())
    up_to = levels.same.sum().over(ibis.cumulative_window(group_by=list(by), order_by="value"))
    known = levels.same.sum().over(ibis.window(group_by=list(by)))
    standing = (up_to.cast("float64") - levels.same.cast("float64") / 2) / known.cast("float64").nullif(0)
    levels = levels.mutate(standing=(known >= least).ifelse(standing, ibis.null("float64")))
    return levels.drop("same")


def _features(items: tuple[Compared, ...], dimensions: tuple[str, ...], least: int) -> Iterator[Feature]:
    def read(column: str, item: Compared) -> Formula:
        return lambda r: r[column].max(where=r.measure == item.name)

    few = f"the customer's own figure was unknown, or fewer than {least} of the group had one at the month's start"
    for item in items:
        for name in dimensions:
            yield Feature(
                f"peers_{item.name}_less_{name}",
                read(f"less_{name}", item),
                f"{item.english[:1].upper()}{item.english[1:]}, less the average of customers of the same {name}",
                f"{item.chinese}与同{DIMENSIONS[name]}客户均值之差",
                item.family,
                item.unit,
                item.direction,
                few,
            )
        for name in ("month", *dimensions[:1]):
            whose, whose_zh = ("all customers", "全部客户") if name == "month" else (
                f"customers of the same {name}", f"同{DIMENSIONS[name]}客户")  # fmt: skip
            yield Feature(
                f"peers_{item.name}_rank_{name}",
                read(f"rank_{name}", item),
                f"Share of {whose} with a lower figure this month: {item.english}",
                f"当月{item.chinese}低于该客户的{whose_zh}占比",
                item.family,
                "share",
                item.direction,
                few,
            )
