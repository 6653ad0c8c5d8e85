"""Parts add up to the whole, and the comparison is made on the same rows."""

import numpy as np
import pytest

from models import metrics
from models.breakdowns import by_month, by_segment, comparison
from tests.models.test_recipe import world


@pytest.fixture(scope="module")
def rows():
    panel, _, true = world(2000)
    panel.features.loc[:49, "code"] = None
    return panel, true


def test_segments_add_up_and_missing_is_one(rows):
    panel, true = rows
    records = by_segment(panel, ("code", "number"), true)
    assert {record["feature"] for record in records} == {"code"}  # `number` has a level a row
    assert [record["level"] for record in records] == [None, "p", "q", "r", "s"]
    assert sum(record["rows"] for record in records) == 2000
    assert sum(record["bads"] for record in records) == panel.bads
    inside = (panel.features["code"] == "r").to_numpy()
    assert records[3]["auc"] == pytest.approx(metrics.auc(panel.outcome[inside], true[inside]))
    assert records[3]["observed_low"] < records[3]["observed"] < records[3]["observed_high"]


@pytest.mark.fault("E1")
def test_months_are_in_order_and_a_month_without_defaults_is_no_error(rows):
    panel, true = rows
    dates = np.where(np.arange(2000) % 2, np.datetime64("2021-02-01"), np.datetime64("2021-01-01"))
    outcome = np.where(dates == np.datetime64("2021-01-01"), 0, panel.outcome)
    first, second = by_month(dates, outcome, true, panel.customer, true)
    assert (first["as_of"], second["as_of"]) == ("2021-01-01", "2021-02-01")
    assert first["auc"] is None
    assert first["jeffreys_p"] > 0.999
    assert second["psi"] < 0.02


def test_the_comparison_says_who_ranks_better(rows):
    panel, true = rows
    noise = np.random.default_rng(1).random(2000)
    found = comparison(panel.outcome, true, {"noise": noise, "same": true}, panel.customer)
    assert found["challenger.noise.auc_gain"] > 0.15
    assert found["challenger.noise.auc_gain_p"] < 0.001
    assert found["challenger.same.auc_gain"] == 0
    assert found["challenger.same.auc_gain_p"] == 1
    assert found["challenger.same.brier"] == pytest.approx(metrics.brier(panel.outcome, true))
