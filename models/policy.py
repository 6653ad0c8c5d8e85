"""Limit, payment term and action from the PD: formulas here, numbers in the dated policy file.

The recommended limit is the least of what six rules allow, so it never rises with PD:
  granted          what is granted today, where no inflow is known: no limit is raised without proof of income;
  income_multiple  monthly inflow times a multiple;
  grade_cap        a share of that by grade, the one rule that steps (and then its name carries the grade);
  loss_appetite    PD times loss given default times limit stays within a share of the yearly inflow;
  growth           at most so many times the present limit, or the exposure where that is more;
  maximum          an amount by currency.
A default, a PD beyond `stop_pd` or a result below the minimum makes it 0. Where inflow is unknown, what is granted
today (the larger of limit and exposure) counts as so many months of it, and `income` is named as assumed; where that is
unknown too, or the policy states no such months, there is no limit (`no_basis`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from features.errors import ConfigurationRefused, Problem
from models.alerts import Thresholds
from models.grades import Scale

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Product = Annotated[str, Field(pattern=r"^[^;,]+$")]  # limit_rule names it in a list
T = TypeVar("T")

ACTIONS = ("stop", "prepay", "reduce", "review", "raise", "keep")  # the first that applies is taken
CAPS = ("granted", "income_multiple", "grade_cap", "loss_appetite", "growth", "maximum")  # on a tie the first is named
FIELDS = ("description", "unit", "source", "values")


class ByKind(BaseModel, Generic[T]):
    """One number for persons, one for companies, and for any product one that goes before these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: T
    company: T
    products: dict[Product, T] = {}  # by the source's own names

    def of(self, facts: Facts, *, strict: Literal["min", "max"]) -> tuple[Floats, Objects]:
        """Return each customer's number and the row that it stands in, both (n,): of the product, or else the kind.

        Where neither is known it is the stricter of the kinds' numbers.
        """
        kinds: dict[str, Any] = {"person": self.person, "company": self.company}
        stricter = (min if strict == "min" else max)(kinds, key=kinds.__getitem__)
        rows = np.where(facts.company == 1, "company", np.where(facts.company == 0, "person", stricter)).astype(object)
        numbers = np.where(rows == "company", kinds["company"], kinds["person"]).astype(float)
        for product, number in self.products.items():
            here = facts.product == product
            rows[here], numbers[here] = product, number
        return numbers, rows


class Policy(BaseModel):
    """The policy's numbers in force on one date; units and sources stand in its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss_given_default: ByKind[Share]  # share of exposure
    loss_appetite: ByKind[Share]  # expected loss of a year as a share of the inflow of a year
    pd_floor: Annotated[float, Field(ge=0.012, lt=1)]  # a lower PD counts as this in the loss rule, which jumps below
    income_multiple: ByKind[Positive]  # months of inflow
    granted_months: ByKind[Positive] | None  # of inflow that what is granted counts as where none is known; null: none
    grade_caps: dict[str, Share]  # by grade: share of the income multiple
    growth_cap: Annotated[float, Field(ge=1)]  # times the present limit
    maximum_limit: dict[str, Positive]  # by currency
    minimum_limit: Share  # months of inflow; less is not worth a limit
    stop_pd: Share
    stop_days_past_due: Whole
    payment_terms: dict[str, Annotated[int, Field(ge=0, le=365)]]  # by grade: days
    arrears_days: Whole  # days past due from which the term is cut
    arrears_term: Whole  # days
    reduce_from: Annotated[float, Field(ge=1)]  # present limit over recommended
    raise_from: Annotated[float, Field(gt=1)]  # recommended over present limit
    raise_worst_grade: str
    raise_history: Whole  # months
    review_missing_share: Share
    review_months: dict[str, Annotated[int, Field(ge=1, le=24)]]  # by grade
    review_months_urgent: Annotated[int, Field(ge=1, le=24)]  # for every action but keep and raise
    alerts: Thresholds
    # Share of the population that defaults within the horizon, averaged over a cycle; null: not stated
    long_run_default_rate: Rate | None = None

    @model_validator(mode="after")
    def _never_better_for_worse(self) -> Self:
        for name in ("grade_caps", "payment_terms", "review_months"):
            values = list(getattr(self, name).values())
            if any(after > before for before, after in pairwise(values)):
                raise ValueError(f"{name} that do not rise from one grade to the next worse")
        return self

    @classmethod
    def at(cls, document: Mapping[str, Any], as_of: dt.date) -> Self:
        """Return the numbers in force on `as_of`.

        document: the policy file as plain data: under `policy` a name for each number, and under it description, unit,
        source and `values`, keyed by the ISO date from which each holds. Errors: all faults at once, exit code 4.
        """
        problems: list[Problem] = []
        values: dict[str, Any] = {}
        entries = document.get("policy")
        if not isinstance(entries, Mapping):
            raise ConfigurationRefused(
                Problem("policy", "a mapping named `policy`", "none", "Restore the file from git.")
            )
        for name, entry in entries.items():
            if not isinstance(entry, Mapping) or sorted(entry) != sorted(FIELDS):
                found = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
                problems.append(Problem(f"policy: {name}", f"an entry with {', '.join(FIELDS)}", found, "Complete it."))
                continue
            try:
                dated = _dated(entry)
            except (AttributeError, TypeError, ValueError):
                problems.append(
                    Problem(f"policy: {name}.values", "values keyed by ISO dates", "something else", "Correct it.")
                )
                continue
            in_force = [value for day, value in dated if day <= as_of]
            if not in_force:
                problems.append(
                    Problem(f"policy: {name}.values", f"a value in force on {as_of}", "only later ones", "Add one.")
                )
                continue
            values[name] = in_force[-1]
        if not problems:
            try:
                return cls.model_validate(values)
            except ValidationError as error:
                problems = [
                    Problem(f"policy: {'.'.join(map(str, e['loc'])) or 'grades'}", e["msg"], e["type"], "Correct it.")
                    for e in error.errors()
                ]
        raise ConfigurationRefused(problems)

    def check_scale(self, scale: Scale) -> None:
        """Refuse (exit code 4) a policy whose ladders do not name the grades of `scale`, in its order."""
        order = f"the grades {', '.join(scale.names)} in this order"
        problems = [
            Problem(f"policy: {name}", order, ", ".join(given), "Match the scale.")
            for name in ("grade_caps", "payment_terms", "review_months")
            if tuple(given := getattr(self, name)) != scale.names
        ]
        if self.raise_worst_grade not in scale.names:
            problems.append(
                Problem("policy: raise_worst_grade", f"one of {', '.join(scale.names)}", "another", "Match the scale.")
            )
        if problems:
            raise ConfigurationRefused(problems)


def _dated(entry: Mapping[str, Any]) -> list[tuple[dt.date, Any]]:
    """Return an entry's values by the day from which each holds, the first first."""
    days = ((dt.date.fromisoformat(str(day)), value) for day, value in entry["values"].items())
    return sorted(days, key=lambda each: each[0])


def long_run_default_rate(document: Mapping[str, Any], on: dt.date) -> float | None:
    """Return the long-run default rate in force on a day, or the first that is stated after it; null where none is.

    document: the policy file as plain data; its other numbers may begin later than the day on which training ended.
    Errors: an entry that is not one, exit code 4.
    """
    entries = document.get("policy")
    entry = entries.get("long_run_default_rate") if isinstance(entries, Mapping) else None
    if entry is None:
        return None
    try:
        dated = _dated(entry)
        value = next((value for day, value in reversed(dated) if day <= on), dated[0][1])
        return TypeAdapter(Rate | None).validate_python(value)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ConfigurationRefused(
            Problem("policy: long_run_default_rate", "shares between 0 and 1, or null, keyed by ISO dates",
                    "something else", "Correct it.")
        ) from None  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the policy looks at, one entry a customer: shape (n,), money in the currency's units, NaN where unknown."""

    pd: Floats
    notch: Integers  # place of the grade, 0 the best
    company: Floats  # 1 company, 0 person, NaN unknown
    product: Objects  # None: unknown, or several
    inflow: Floats  # a month
    exposure: Floats
    limit: Floats
    days_past_due: Floats
    bureau_default: Floats  # 1 or 0
    months_of_history: Floats
    missing_share: Floats

    @property
    def present(self) -> Floats:
        """Return what is granted today, at least: the larger of limit and exposure, which may hold other products."""
        return np.fmax(self.limit, self.exposure)


@dataclass(frozen=True)
class Limits:
    """Recommended limits: `limit` (n,) floored to 4 significant digits, NaN for no basis; `rule` (n,) text."""

    limit: Floats
    rule: Objects
    loss_given_default: Floats
    stopped: Booleans


def inflow_of(monthly_inflow: Floats, revenue: Floats) -> Floats:
    """Return each customer's inflow of a month: as seen on its accounts, or else a twelfth of the yearly revenue."""
    return np.where(np.isnan(monthly_inflow), revenue / 12, monthly_inflow)


def recommend_limits(policy: Policy, facts: Facts, grades: tuple[str, ...], currency: str | None) -> Limits:
    """Return the largest limit that the policy allows for each customer, and the rule that set it.

    Never rises with the PD; PD x loss given default x limit is never above the appetite. `rule` ends in `; assumed ...`
    where the source lacks loss given default (always, `lgd:` and the row of the policy), kind or income.
    """
    lgd, lgd_row = policy.loss_given_default.of(facts, strict="max")
    multiple, _ = policy.income_multiple.of(facts, strict="min")
    assumed_income = np.isnan(facts.inflow)
    inflow = np.where(assumed_income, _inferred(policy, facts), np.fmax(facts.inflow, 0.0))
    appetite = policy.loss_appetite.of(facts, strict="min")[0] * 12 * inflow
    loss_rate = np.maximum(facts.pd, policy.pd_floor) * lgd
    with np.errstate(over="ignore"):  # next to no loss: no bound
        by_loss = np.divide(appetite, loss_rate, out=np.full_like(inflow, np.inf), where=loss_rate > 0)
    caps = np.stack(
        [
            np.where(assumed_income, facts.present, np.inf),
            multiple * inflow,
            np.array([policy.grade_caps[name] for name in grades])[facts.notch] * multiple * inflow,
            by_loss,
            np.where(facts.limit > 0, policy.growth_cap * facts.present, np.inf),
            np.full_like(inflow, policy.maximum_limit.get(currency or "", np.inf)),
        ]
    )
    basis = ~np.isnan(inflow)
    caps[:, ~basis] = np.inf
    bound = np.argmin(caps, axis=0)
    limit = np.where(basis, floor_digits(caps.min(axis=0), 4), np.nan)
    low = basis & (limit < policy.minimum_limit * inflow)
    stop_pd = facts.pd >= policy.stop_pd
    stop_default = (facts.days_past_due >= policy.stop_days_past_due) | (facts.bureau_default == 1)
    rule = np.array(CAPS, dtype=object)[bound]
    capped = bound == CAPS.index("grade_cap")
    rule[capped] = np.array([f"grade_cap:{name}" for name in grades], dtype=object)[facts.notch[capped]]
    ends = {"below_minimum": low, "no_basis": ~basis, "stop_pd": stop_pd, "stop_default": stop_default}
    for name, where in ends.items():  # the last that holds is named
        rule[where] = name
        limit[where] = np.nan if name == "no_basis" else 0.0
    assumed = "; assumed lgd:" + lgd_row
    assumed[np.isnan(facts.company)] += ", kind"
    assumed[assumed_income & basis] += ", income"
    return Limits(limit, rule + assumed, lgd, stop_pd | stop_default)


def _inferred(policy: Policy, facts: Facts) -> Floats:
    """Return the inflow of a month that what is granted today stands for, NaN where the policy does not say."""
    if policy.granted_months is None:
        return np.full_like(facts.present, np.nan)
    return facts.present / policy.granted_months.of(facts, strict="max")[0]


def expected_losses(pd: Floats, loss_given_default: Floats, exposure: Floats) -> Floats:
    """Return PD x loss given default x exposure to the cent, NaN where the exposure is unknown."""
    return np.round(pd * loss_given_default * exposure, 2)


def floor_digits(amount: Floats, digits: int) -> Floats:
    """Return `amount` rounded down to so many significant digits and to the cent: never above it, and monotone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.floor(np.log10(amount))
    step = 10.0 ** np.maximum(np.nan_to_num(power, nan=0.0, posinf=0.0, neginf=0.0) - digits + 1, -2.0)
    floored = np.floor(amount / step) * step
    return np.where(np.isfinite(amount), np.minimum(np.round(floored, 2), amount), amount)


def payment_terms(policy: Policy, facts: Facts, grades: tuple[str, ...], stopped: Booleans) -> Integers:
    """Return each customer's payment term in days; 0 is prepayment, and what is stopped is prepayment."""
    days = np.array([policy.payment_terms[name] for name in grades], dtype=np.int64)[facts.notch]
    days = np.where(facts.days_past_due >= policy.arrears_days, np.minimum(days, policy.arrears_term), days)
    return np.where(stopped, 0, days).astype(np.int64)


def choose_actions(
    policy: Policy, facts: Facts, grades: tuple[str, ...], limits: Limits, terms: Integers, alarmed: Booleans
) -> Objects:
    """Return each customer's action: the first of stop, prepay, reduce, review, raise that applies, else keep.

    alarmed: (n,) an alert of high severity is up.
    """
    worst = grades.index(policy.raise_worst_grade)
    calm = ~alarmed & ~(facts.days_past_due > 0)
    review = alarmed | np.isnan(limits.limit) | (facts.missing_share > policy.review_missing_share)
    may_rise = calm & (facts.notch <= worst) & (facts.months_of_history >= policy.raise_history)
    chosen = np.select(
        [
            limits.stopped,
            terms == 0,
            facts.present > policy.reduce_from * limits.limit,
            review | (facts.days_past_due >= policy.arrears_days),
            may_rise & (facts.limit >= 0) & (limits.limit >= policy.raise_from * facts.present),
        ],
        list(range(5)),
        default=5,
    )
    return np.array(ACTIONS, dtype=object)[chosen]


def next_reviews(
    policy: Policy, as_of: npt.NDArray[np.datetime64], notch: Integers, grades: tuple[str, ...], action: Objects
) -> npt.NDArray[np.datetime64]:
    """Return each customer's next review: so many months after as_of, on the same day or the month's last."""
    months = np.array([policy.review_months[name] for name in grades], dtype=np.int64)[notch]
    urgent = ~np.isin(action, ("keep", "raise"))
    months = np.where(urgent, np.minimum(months, policy.review_months_urgent), months)
    day = as_of.astype("M8[D]")
    target = day.astype("M8[M]") + months
    offset = (day - day.astype("M8[M]").astype("M8[D]")).astype(np.int64)
    last = ((target + 1).astype("M8[D]") - target.astype("M8[D]")).astype(np.int64) - 1
    return target.astype("M8[D]") + np.minimum(offset, last)
