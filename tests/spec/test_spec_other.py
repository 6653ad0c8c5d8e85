"""Attributes, unforeseen histories, decisions and affordability on rows drawn by hand; what is refused."""

import pytest

from features.errors import DataRefused
from tests.features.drawn import draw, matrix_of, observe, values

VISITS = draw(
    "visits",
    """
    customer_id event_on   length channel
    a           2024-01-05 10     web
    a           2024-02-05 20     branch
    a           2024-03-05 99     phone
    """,
    numeric=("length",),
)
TRAITS = {"visits": {"numeric": ["length"], "categorical": ["channel"]}}


def test_a_history_that_nobody_foresaw_yields_features():
    row = values({"visits": VISITS}, "a 2024-03-01", attributes=TRAITS)["a", "2024-03-01"]
    assert row["visits_row_order_count_6m"] == 2.0
    assert row["visits_length_last"] == 20.0
    assert row["visits_length_sum_12m"] == 30.0
    assert row["visits_length_mean_6m"] == 15.0
    assert row["visits_channel_last"] == "branch"
    assert row["visits_channel_distinct_12m"] == 2.0


def test_a_table_that_cannot_be_placed_in_time_is_refused():
    orders = draw("orders", "customer_id size\na 1", numeric=("size",))
    traits = {"orders": {"numeric": ["size"]}}
    with pytest.raises(DataRefused, match="orders"):
        matrix_of({"orders": orders}, observe("a 2024-03-01"), attributes=traits)
    with pytest.raises(DataRefused, match="orders"):
        matrix_of({"orders": VISITS.drop(["known_on"])}, observe("a 2024-03-01"), attributes=traits)
    traits["orders"]["static"] = True
    row = values({"orders": orders}, "a 2024-03-01", attributes=traits)["a", "2024-03-01"]
    assert row["orders_size_last"] == 1.0


OBSERVATIONS = draw(
    "observations",
    """
    customer_id as_of      outcome outcome_known_on exposure instalment age sex    known_on
    a           2024-03-01 1       2025-03-01       6000     200        41  female 2024-02-29
    a           2024-09-01 0       2025-09-01       100      10         42  female 2024-08-31
    """,
    numeric=("instalment", "age"),
)
STATED = {"observations": {"numeric": ["instalment", "age"], "categorical": ["sex"]}}


def test_a_decisions_own_attributes_pass_through_but_neither_outcome_nor_protected_ones():
    row = values({"observations": OBSERVATIONS}, "a 2024-03-01", attributes=STATED, protected=("Sex",))[
        "a", "2024-03-01"
    ]
    assert row["observations_age"] == 41.0
    assert row["observations_exposure"] == 6000.0
    assert not [name for name in row if "outcome" in name or "sex" in name]


def test_a_decision_that_became_known_on_its_date_or_later_says_nothing():
    late = OBSERVATIONS.set_column(OBSERVATIONS.schema.get_field_index("known_on"), "known_on", OBSERVATIONS["as_of"])
    row = values({"observations": late}, "a 2024-03-01", attributes=STATED)["a", "2024-03-01"]
    assert row["observations_age"] is None


def test_a_decisions_exposure_is_not_known_at_another_date():
    row = values({"observations": OBSERVATIONS}, "a 2024-04-01", attributes=STATED)["a", "2024-04-01"]
    assert row["observations_age"] is None


def test_the_instalment_against_income():
    transactions = draw(
        "transactions",
        """
        transaction_id customer_id event_on   amount balance_after
        t1             a           2024-01-10 1500   1500
        t2             a           2024-02-10 900    2400
        """,
    )
    tables = {"observations": OBSERVATIONS, "transactions": transactions}
    row = values(tables, "a 2024-03-01", attributes=STATED)["a", "2024-03-01"]
    assert row["observations_instalment_to_inflow_6m"] == pytest.approx(200 / (2400 / 6))
    assert row["observations_exposure_to_balance_6m"] == pytest.approx(6000 / 1950)


def test_two_features_never_share_a_name():
    traits = {"visits": {"numeric": ["length"]}, "visits_length": {"numeric": ["last"]}}
    twin = draw("visits_length", "customer_id event_on last\na 2024-01-01 1", numeric=("last",))
    twin = {"visits": VISITS, "visits_length": twin.rename_columns(["customer_id", "event_on", "last", "known_on"])}
    matrix, _ = matrix_of(twin, observe("a 2024-03-01"), attributes=traits)
    names = [feature.name for feature, _, _ in matrix.features]
    assert len(names) == len(set(names))
