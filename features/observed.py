"""What is simply stated about a customer or a decision: attributes, kind, industry, region, age of the relationship."""

from __future__ import annotations

from collections.abc import Iterator

import ibis

from features.aggregates import count
from features.definition import Feature, History, Lender, Skipped, Subject, bound
from features.visible import visible_at

MANY = 3  # attributes from which on the share of those not stated is a feature
CATEGORIES = {
    "kind": ("Person or company", "客户类型", "customer_kind"),
    "industry": ("Industry", "所属行业", "industry"),
    "region": ("Region", "所在地区", "region"),
    "segment": ("Segment", "客群", "segment"),
}


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what customers' and observations' own rows say."""
    if "customers" in lender.tables:
        yield Subject(
            "customers",
            ("customers",),
            lender.known("customers"),
            tuple(_customer_features(lender)),
            facts={
                **{name: bound(lambda r, name: r[name].max(), name) for name in CATEGORIES},
                "customer_since": lambda r: r.event_on.max(),
            },
        )
    else:
        yield Skipped("customers", "the source has no customers table")
    if "observations" in lender.tables:
        rows = decided(lender)
        yield Subject(
            "observations",
            ("observations",),
            rows,
            tuple(_observation_features(lender)),
            facts={
                "observation_exposure": lambda r: r.exposure.max(),
                **({"observation_income": lambda r: r.stated_income.max()} if "stated_income" in rows.columns else {}),
            },
            made_by=(decided,),
        )
    else:
        yield Skipped("observations", "the source states no decisions of its own")
    if "statements" in lender.tables:
        k = lender.windows[-1]
        yield Subject(
            "statements_coverage",
            ("statements", "credits"),
            lender.past("statements", k),
            (_coverage(k),),
            history=History(lender.tables["statements"], k),
        )


def _missing_share(table: str, names: tuple[str, ...]) -> Iterator[Feature]:
    """Declare the share of a table's attributes that are not stated, where it has three or more."""
    if len(names) < MANY:
        return

    def formula(rows: ibis.Table) -> ibis.Value:
        unknown = sum((rows[name].isnull().cast("int64") for name in names), ibis.literal(0, "int64"))
        return unknown.max().cast("float64") / len(names)

    yield Feature(
        f"{table}_missing_share",
        formula,
        f"Share of the {len(names)} attributes of {table} that are not stated",
        f"{len(names)}项已申报属性的缺失占比",
        "missing",
        "share",
        0,
        "nothing at all was stated",
    )


def _coverage(k: int) -> Feature:
    """Declare the share of months without a statement: months with more rows within k months than within k - 1."""

    def formula(rows: ibis.Table) -> ibis.Value:
        within = [count(rows.months_before <= month) for month in range(1, k + 1)]
        first = [within[0] > 0]
        filled = first + [more > fewer for more, fewer in zip(within[1:], within, strict=False)]
        brought = sum((one.cast("int64") for one in filled), ibis.literal(0, "int64"))
        return 1 - brought.cast("float64") / rows.months_before.max().cast("float64")

    return Feature(
        f"statements_months_missing_share_{k}m",
        formula,
        f"Share of the months since the first statement of the last {k} months that brought none",
        f"近{k}个月首张账单以来无账单月份占比",
        "missing",
        "share",
        0,
        "no statement was known in the window",
    )


def decided(lender: Lender) -> ibis.Table:
    """Return each observation's own row, in the version known before its as_of; one that came later says nothing.

    The outcome columns are dropped here and never reach a feature.
    """
    rows = lender.tables["observations"].drop("outcome", "outcome_known_on")
    rows = visible_at(rows, rows.as_of)
    kept = [name for name in rows.columns if name not in lender.observed.columns]
    joined = lender.observed.inner_join(rows, ["customer_id", "as_of"])
    return joined.select(*lender.observed.columns, *kept)


def _stated(table: str, name: str, kind: str) -> Feature:
    """Pass one attribute through."""
    words = name.replace("_", " ")
    return Feature(
        f"{table}_{name}",
        (lambda r: r[name].max().cast("float64")) if kind == "numeric" else (lambda r: r[name].max()),
        f"{words[:1].upper()}{words[1:]} as stated",
        f"已申报信息：{words}",
        f"stated_{name}",
        null_means="not stated",
        kind=kind,
    )


def _customer_features(lender: Lender) -> Iterator[Feature]:
    for name, (english, chinese, family) in CATEGORIES.items():
        if lender.has("customers", name):
            yield Feature(
                f"customers_{name}",
                bound(lambda r, name: r[name].max(), name),
                english,
                chinese,
                family,
                null_means="not stated",
                kind="categorical",
            )
    if lender.has("customers", "opened_on"):
        yield Feature(
            "customers_relationship_months",
            lambda r: r.months_before.max(where=r.days_before >= 1).cast("float64"),
            "Months since the relationship began",
            "建立合作关系的月数",
            "relationship",
            "months",
            -1,
            "the first day of the relationship is not stated",
        )
    yield from (_stated("customers", name, "numeric") for name in lender.numeric.get("customers", ()))
    yield from (_stated("customers", name, "categorical") for name in lender.categorical.get("customers", ()))
    yield from _missing_share(
        "customers", (*lender.numeric.get("customers", ()), *lender.categorical.get("customers", ()))
    )


def _observation_features(lender: Lender) -> Iterator[Feature]:
    if lender.has("observations", "exposure"):
        yield Feature(
            "observations_exposure",
            lambda r: r.exposure.max().cast("float64"),
            "Amount at risk that was asked for",
            "申请的授信金额",
            "asked_amount",
            "money",
            1,
            "not stated",
        )
    yield from (_stated("observations", name, "numeric") for name in lender.numeric.get("observations", ()))
    yield from (_stated("observations", name, "categorical") for name in lender.categorical.get("observations", ()))
    yield from _missing_share(
        "observations", (*lender.numeric.get("observations", ()), *lender.categorical.get("observations", ()))
    )
