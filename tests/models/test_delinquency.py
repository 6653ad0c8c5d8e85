"""Roll rates and vintages on drawn counts, with scipy's and statsmodels' own figures beside them."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy.stats import beta, hypergeom

from models.delinquency import BUCKETS, newest_against_earlier, roll_rates, vintages, with_interval

MOVES = pd.DataFrame(
    [
        (1, "0", "0", 90), (1, "0", "1-29", 10), (1, "1-29", "30-59", 4), (1, "1-29", "0", 6), (1, "0", "gone", 50),
        (0, "0", "0", 80), (0, "0", "1-29", 20), (0, "60-89", "default", 3), (0, "60-89", "closed", 1),
    ],
    columns=["months_back", "from_bucket", "to_bucket", "customers"],
)  # fmt: skip


def test_roll_rates_of_drawn_moves():
    told = roll_rates(MOVES)
    assert told["buckets"] == list(BUCKETS)
    assert told["counts"][0] == [170, 30, 0, 0, 0, 0, 0, 50]
    assert told["shares"][3][told["to"].index("default")] == 0.75
    assert told["shares"][4] == [0.0] * 8
    first, last = told["by_month"]
    assert (first["worse"]["count"], first["worse"]["rows"]) == (14, 110)  # who is gone is not counted
    assert (last["worse"]["count"], last["worse"]["rows"]) == (23, 104)  # a closed one is no worsening
    assert last["from_clean"]["share"] == 0.2
    assert told["ratio"] == pytest.approx((23 / 104) / (14 / 110))


def test_the_newest_month_is_held_against_the_others_by_fishers_test():
    """One-sided: the hypergeometric chance of as many or more among the newest."""
    shares = [with_interval(14, 110), with_interval(6, 90), with_interval(23, 104)]
    told = newest_against_earlier(shares)
    assert told["p"] == pytest.approx(float(hypergeom.sf(22, 304, 43, 104)))
    assert told["before"]["rows"] == 200
    assert newest_against_earlier([with_interval(0, 100), with_interval(9, 100)])["ratio"] == pytest.approx(18)


def test_an_interval_is_jeffreys():
    told = with_interval(3, 40)
    assert (told["low"], told["high"]) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 3.5, 37.5)))
    assert with_interval(0, 0)["share"] is None


def test_no_moves_give_nothing():
    assert roll_rates(MOVES.head(0)) == {}


def test_a_vintage_accumulates_and_ends_with_its_youngest_member():
    counts = pd.DataFrame(
        [("2024-H1", 0, 1), ("2024-H1", 5, 2), ("2024-H1", 30, 1), ("2024-H1", None, 6), ("2024-H2", None, 4)],
        columns=["cohort", "month", "members"],
    )
    seen = pd.DataFrame({"cohort": ["2024-H1", "2024-H2"], "seen": [12, 2]})
    older, younger = vintages(counts, seen)
    assert (older["members"], len(older["curve"])) == (10, 13)
    assert [point["share"] for point in older["curve"][:6]] == [0.1, 0.1, 0.1, 0.1, 0.1, 0.3]
    assert older["curve"][-1]["share"] == 0.3  # what fell in month 30 is beyond what all have been seen for
    assert set(older["at"]) == {"6", "12"}
    assert older["at"]["6"]["count"] == 3
    assert [point["share"] for point in younger["curve"]] == [0.0, 0.0, 0.0]
