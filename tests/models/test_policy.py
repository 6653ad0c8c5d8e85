"""Limits, terms and actions: the rules by hand, and what must hold for every customer and every policy."""

from __future__ import annotations

import copy
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ConfigurationRefused
from models.grades import Scale
from models.policy import (
    ACTIONS,
    Facts,
    Limits,
    Policy,
    choose_actions,
    expected_losses,
    floor_digits,
    long_run_default_rate,
    next_reviews,
    payment_terms,
    recommend_limits,
)

DOCUMENT = yaml.safe_load(Path("data/policy/standard.yaml").read_text(encoding="utf-8"))
SCALE = Scale()
POLICY = Policy.at(DOCUMENT, dt.date(2026, 1, 1))
NAN = float("nan")
amounts = st.floats(100, 1e7)


def facts(pd, **given_):
    """Return facts of as many customers as there are PDs: a person with 1,000 a month and nothing else known."""
    pd = np.atleast_1d(np.asarray(pd, dtype=float))
    values = {
        "company": 0.0, "inflow": 1000.0, "exposure": NAN, "limit": NAN, "days_past_due": 0.0, "bureau_default": 0.0,
        "months_of_history": 24.0, "missing_share": 0.0, "product": None,
    } | given_  # fmt: skip
    notch = SCALE.notches(SCALE.grade(pd))
    product = np.broadcast_to(np.asarray(values.pop("product"), dtype=object), pd.shape)
    full = {name: np.broadcast_to(np.asarray(value, dtype=float), pd.shape).copy() for name, value in values.items()}
    return Facts(pd=pd, notch=notch, product=product, **full)


def limits(pd, currency=None, policy=POLICY, **given_):
    return recommend_limits(policy, facts(pd, **given_), SCALE.names, currency)


def one(pd, **given_):
    """Return one customer's limit and rule."""
    found = limits(pd, **given_)
    return found.limit[0], found.rule[0]


def test_each_rule_binds_where_it_should():
    """A person with 1,000 a month under the standard policy: ten months of income, then grade, loss, stop."""
    assert one(0.001) == (10000.0, "income_multiple; assumed lgd:person")
    assert one(0.03) == (7500.0, "grade_cap:C1; assumed lgd:person")  # three quarters of 10,000
    # 1.5% of 12,000 a year = 180 of expected loss; 180 / (0.055 * 0.6) = 5,454.5
    assert one(0.055) == (5454.0, "loss_appetite; assumed lgd:person")
    assert one(0.001, limit=2000.0) == (3000.0, "growth; assumed lgd:person")
    assert one(0.001, limit=2000.0, exposure=4000.0) == (6000.0, "growth; assumed lgd:person")
    assert one(0.35) == (0.0, "below_minimum; assumed lgd:person")  # the last grade's share is 0
    assert one(0.60) == (0.0, "stop_pd; assumed lgd:person")
    assert one(0.001, days_past_due=90.0) == (0.0, "stop_default; assumed lgd:person")
    assert one(0.001, bureau_default=1.0) == (0.0, "stop_default; assumed lgd:person")
    assert one(0.001, inflow=2e6, currency="EUR") == (5e6, "maximum; assumed lgd:person")


def test_a_company_has_its_own_numbers_and_an_unknown_kind_the_stricter_ones():
    """Two months of turnover; an unknown kind takes the company's multiple and the person's loss given default."""
    assert one(0.001, company=1.0) == (2000.0, "income_multiple; assumed lgd:company")
    unknown = limits(0.001, company=NAN)
    assert (unknown.limit[0], unknown.rule[0]) == (2000.0, "income_multiple; assumed lgd:person, kind")
    assert unknown.loss_given_default[0] == 0.6


def policy_with(**values):
    """Return the standard policy with these numbers in place of its own."""
    document = copy.deepcopy(DOCUMENT)
    for name, value in values.items():
        document["policy"][name]["values"] = {"1990-01-01": value}
    return Policy.at(document, dt.date(2026, 1, 1))


def test_a_product_s_number_goes_before_the_kind_s_and_the_row_is_named():
    """Loss given default of a card .7; a product that the policy does not name, or none, has the kind's."""
    products = np.array(["credit_card", "trade_account", "pawn", None], dtype=object)
    found = limits([0.055] * 4, company=np.array([0.0, NAN, 1.0, 0.0]), product=products)
    assert found.loss_given_default.tolist() == [0.7, 0.45, 0.45, 0.6]
    # 180 of expected loss a year; 180 / (0.055 * 0.7) = 4,675.3
    assert (found.limit[0], found.rule[0]) == (4675.0, "loss_appetite; assumed lgd:credit_card")
    assert [rule.partition("; ")[2] for rule in found.rule[1:]] == [
        "assumed lgd:trade_account, kind", "assumed lgd:company", "assumed lgd:person",
    ]  # fmt: skip
    policy = policy_with(income_multiple={"person": 10, "company": 2, "products": {"mortgage": 20}})
    assert limits(0.001, policy=policy, product="mortgage").limit[0] == 20000
    assert limits(0.001, policy=policy).limit[0] == 10000


def test_unknown_income_rests_on_what_is_granted_and_is_said():
    """The larger of limit and exposure, as five months of income: never more than it, less for worse grades."""
    assumed = "; assumed lgd:person, income"
    assert one(0.001, inflow=NAN, limit=2000.0, exposure=500.0) == (2000.0, "granted" + assumed)
    assert one(0.001, inflow=NAN, exposure=500.0) == (500.0, "granted" + assumed)
    assert one(0.04, inflow=NAN, limit=2000.0) == (2000.0, "granted" + assumed)  # C2: .6 of ten months of 400
    assert one(0.11, inflow=NAN, exposure=2000.0) == (1000.0, "grade_cap:D2" + assumed)  # .25 of ten months of 400
    # 1.5% of 4,800 a year = 72; 72 / (0.09 * 0.6) = 1,333.3
    assert one(0.09, inflow=NAN, limit=2000.0) == (1333.0, "loss_appetite" + assumed)
    assert one(0.001, inflow=NAN, limit=2000.0, company=1.0)[0] == 2000.0
    limit, rule = one(0.001, inflow=NAN)
    assert np.isnan(limit)
    assert rule == "no_basis; assumed lgd:person"
    assert one(0.9, inflow=NAN) == (0.0, "stop_pd; assumed lgd:person")
    stated = policy_with(granted_months=None)
    assert one(0.001, policy=stated, inflow=NAN, limit=2000.0)[1] == "no_basis; assumed lgd:person"
    assert one(0.001, policy=stated)[0] == 10000.0


ladder = st.lists(st.floats(0, 1), min_size=10, max_size=10).map(
    lambda shares: dict(zip(SCALE.names, sorted(shares, reverse=True), strict=True))
)


def by_kind(low, high):
    numbers = st.floats(low, high)
    return st.fixed_dictionaries(
        {"person": numbers, "company": numbers}, optional={"products": st.dictionaries(st.just("card"), numbers)}
    )


policies = st.builds(
    policy_with, loss_given_default=by_kind(0, 1), loss_appetite=by_kind(0, 0.2), pd_floor=st.floats(0.012, 0.2),
    income_multiple=by_kind(0.1, 60), granted_months=st.none() | by_kind(0.1, 60), grade_caps=ladder,
    growth_cap=st.floats(1, 3), maximum_limit=st.fixed_dictionaries({"EUR": st.floats(1, 1e8)}),
    minimum_limit=st.floats(0, 1), stop_pd=st.floats(0, 1),
)  # fmt: skip
unknown = st.just(NAN)
customers = st.fixed_dictionaries(
    {
        "inflow": unknown | amounts, "limit": unknown | st.just(0.0) | amounts, "exposure": unknown | amounts,
        "company": st.sampled_from([0.0, 1.0, NAN]), "product": st.sampled_from(["card", "other", None]),
    }
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(policies, customers, st.floats(0, 0.9998), st.floats(0, 1))
def test_no_policy_rewards_risk_goes_beyond_its_appetite_or_has_a_cliff_without_a_rule(policy, customer, pd, other):
    """Of any policy and customer: PDs in order, one of them .0001 above another."""
    pds = np.sort([pd, pd + 0.0001, other])
    found = limits(pds, currency="EUR", policy=policy, **customer)
    limit = found.limit
    known = not np.isnan(customer["inflow"])
    assert np.isnan(limit).all() or np.all(np.diff(limit[~np.isnan(limit)]) <= 0)
    granted = np.nanmax([customer["limit"], customer["exposure"], 0.0])
    months = policy.granted_months and policy.granted_months.of(facts(0.1, **customer), strict="max")[0][0]
    inflow = customer["inflow"] if known else granted / months if months else 0.0
    appetite = policy.loss_appetite.of(facts(0.1, **customer), strict="min")[0][0] * 12 * inflow
    loss = pds * found.loss_given_default * np.nan_to_num(limit)
    assert np.all(loss <= appetite * (1 + 1e-12))
    assert known or np.all(np.nan_to_num(limit) <= granted)
    at = np.flatnonzero(pds == pd)[0]
    if found.rule[at] == found.rule[at + 1] and pds[at + 1] <= pd + 0.0001 and limit[at] >= 20:  # below, a cent is much
        assert limit[at + 1] >= 0.99 * limit[at]


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), amounts, st.one_of(st.just(NAN), amounts), st.sampled_from([0.0, 1.0, NAN]))
def test_limit_never_rises_with_pd_and_expected_loss_stays_within_appetite(one_pd, other_pd, inflow, limit, company):
    """For any two PDs of the same customer."""
    pd = np.sort([one_pd, other_pd])
    found = limits(pd, inflow=inflow, limit=limit, company=company)
    assert found.limit[0] >= found.limit[1]
    appetite = {0.0: 0.015, 1.0: 0.003}.get(company, 0.003) * 12 * inflow
    assert np.all(pd * found.loss_given_default * found.limit <= appetite * (1 + 1e-12))


@settings(max_examples=300, deadline=None)
@given(st.floats(0, 0.9998), amounts, st.sampled_from([0.0, 1.0]))
def test_no_cliff_without_a_rule(pd, inflow, company):
    """A PD higher by .0001 moves the limit by under 1%, or else the rule changes."""
    found = limits([pd, pd + 0.0001], inflow=inflow, company=company)
    if found.rule[0] == found.rule[1]:
        assert found.limit[1] >= 0.99 * found.limit[0]


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_flooring_is_never_above_and_monotone(one_amount, other_amount):
    """Rounding down can break neither the appetite nor the order."""
    small, large = sorted((one_amount, other_amount))
    floored = floor_digits(np.array([small, large]), 4)
    assert np.all(floored <= [small, large])
    assert floored[0] <= floored[1]
    if large >= 1:
        assert floored[1] >= large * (1 - 1.1e-2)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 120))
def test_payment_term_never_grows_with_pd(one_pd, other_pd, days_past_due):
    """The ladder ends in prepayment."""
    given_ = facts(np.sort([one_pd, other_pd]), days_past_due=days_past_due)
    terms = payment_terms(POLICY, given_, SCALE.names, np.zeros(2, dtype=bool))
    assert terms[0] >= terms[1] >= 0


def test_payment_terms_by_hand():
    """60 days for the best, 7 in arrears, none for the worst grade and for what is stopped."""
    given_ = facts([0.001, 0.001, 0.5, 0.001], days_past_due=np.array([0.0, 30.0, 0.0, 0.0]))
    stopped = np.array([False, False, False, True])
    assert payment_terms(POLICY, given_, SCALE.names, stopped).tolist() == [60, 7, 0, 0]


def act(pd=0.001, *, alarmed=False, recommended=10000.0, stopped=False, term=30, **given_):
    """Return one customer's action."""
    given_ = facts(pd, **{"limit": 8000.0} | given_)
    found = Limits(np.array([recommended]), np.array(["x"], object), np.array([0.6]), np.array([stopped]))
    return choose_actions(POLICY, given_, SCALE.names, found, np.array([term]), np.array([alarmed]))[0]


def test_actions_by_hand():
    """The first of stop, prepay, reduce, review, raise that applies, or else keep."""
    assert act(stopped=True, term=0, recommended=0.0) == "stop"
    assert act(term=0, recommended=0.0) == "prepay"
    assert act(recommended=7000.0, alarmed=True) == "reduce"
    assert act(recommended=7300.0) == "keep"  # 8,000 is within a tenth
    assert act(limit=NAN, exposure=9000.0, recommended=8000.0) == "reduce"  # no limit: the exposure counts
    assert act(limit=2000.0, exposure=12000.0) == "reduce"  # more is owed than the limit: the exposure counts
    assert act(limit=2000.0, exposure=9000.0) == "keep"  # and a raise is measured by it too
    assert act(alarmed=True) == "review"
    assert act(days_past_due=30.0, recommended=8000.0) == "review"
    assert act(missing_share=0.81) == "review"
    assert act(recommended=NAN) == "review"
    assert act(recommended=10000.0) == "raise"
    assert act(recommended=9999.0) == "keep"
    assert act(recommended=10000.0, months_of_history=5.0) == "keep"
    assert act(recommended=10000.0, months_of_history=NAN) == "keep"
    assert act(recommended=10000.0, days_past_due=1.0) == "keep"
    assert act(0.03, recommended=10000.0) == "keep"  # grade C1 is not raised
    assert act(limit=NAN, exposure=NAN) == "keep"
    assert set(ACTIONS) == {"stop", "prepay", "reduce", "review", "raise", "keep"}


def test_next_review_keeps_the_day_or_takes_the_months_last():
    """A year for the best, a month where something is wrong; January 31st plus a month is the end of February."""
    as_of = np.array(["2026-01-01", "2026-01-31", "2023-12-31"], dtype="M8[D]")
    action = np.array(["keep", "review", "reduce"], dtype=object)
    found = next_reviews(POLICY, as_of, np.array([0, 0, 9]), SCALE.names, action)
    assert found.astype(str).tolist() == ["2027-01-01", "2026-02-28", "2024-01-31"]


def test_expected_loss_is_rounded_to_the_cent_and_null_without_exposure():
    """PD x loss given default x exposure."""
    found = expected_losses(np.array([0.1, 0.1]), np.array([0.45, 0.45]), np.array([1000.111, NAN]))
    assert found[0] == 45.0
    assert np.isnan(found[1])


def test_the_newest_value_in_force_counts():
    """A later value holds from its date on, and not before."""
    document = copy.deepcopy(DOCUMENT)
    document["policy"]["stop_pd"]["values"]["2026-07-01"] = 0.3
    assert Policy.at(document, dt.date(2026, 6, 30)).stop_pd == 0.5
    assert Policy.at(document, dt.date(2026, 7, 1)).stop_pd == 0.3


def test_every_number_of_the_file_has_unit_source_and_description():
    """None is left empty."""
    for name, entry in DOCUMENT["policy"].items():
        assert all(str(entry[key]).strip() for key in ("description", "unit", "source")), name


def refused(change):
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(ConfigurationRefused) as refusal:
        Policy.at(document, dt.date(2026, 1, 1)).check_scale(SCALE)
    return [problem.where for problem in refusal.value.problems]


def test_a_wrong_policy_is_refused_with_all_faults_together():
    """Unknown and missing numbers, wrong ranges, undated values, rising ladders, grades of another scale."""

    def several(document):
        document["policy"]["stop_pd"]["values"]["1990-01-01"] = 1.5
        document["policy"]["growth_cap"]["values"]["1990-01-01"] = 0.5
        document["policy"]["other"] = {"description": "d", "unit": "u", "source": "s", "values": {"1990-01-01": 1}}
        del document["policy"]["pd_floor"]

    found = refused(several)
    assert set(found) == {"policy: stop_pd", "policy: growth_cap", "policy: other", "policy: pd_floor"}
    late = refused(lambda d: d["policy"]["stop_pd"].update(values={"2027-01-01": 0.5}))
    assert late == ["policy: stop_pd.values"]
    assert refused(lambda d: d["policy"]["stop_pd"].update(values=[1])) == ["policy: stop_pd.values"]
    assert refused(lambda d: d["policy"]["stop_pd"].pop("source")) == ["policy: stop_pd"]
    ladder = dict.fromkeys(SCALE.names, 30) | {"E2": 60}
    assert refused(lambda d: d["policy"]["payment_terms"]["values"].update({"1990-01-01": ladder})) == [
        "policy: grades"
    ]
    fewer = dict.fromkeys(SCALE.names[:-1], 30)
    other = refused(lambda d: d["policy"]["payment_terms"]["values"].update({"1990-01-01": fewer}))
    assert other == ["policy: payment_terms"]
    assert refused(lambda d: d.clear()) == ["policy"]


def test_the_long_run_rate_is_that_of_where_training_ends_or_the_first_stated_after():
    def rate(values, on=dt.date(2024, 6, 30)):
        return long_run_default_rate({"policy": {"long_run_default_rate": {"values": values}}}, on)

    assert long_run_default_rate(DOCUMENT, dt.date(2026, 1, 1)) is None
    assert long_run_default_rate({"policy": {}}, dt.date(2026, 1, 1)) is None
    assert rate({"2024-06-30": 0.03, "2024-07-01": 0.05}) == 0.03
    assert rate({"2025-01-01": 0.04}) == 0.04
    assert rate({"1990-01-01": None, "2025-01-01": 0.04}) is None
    for wrong in ({"2024-01-01": 1.5}, {"soon": 0.1}, {}, None):
        with pytest.raises(ConfigurationRefused, match="long_run_default_rate"):
            rate(wrong)
