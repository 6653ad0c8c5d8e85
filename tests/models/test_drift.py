"""PSI against hand computation and SQL, bins that stay fixed, and features that are identifiers."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drift import FLOOR, Bins, compare, identifier_like, psi, psi_noise, quantile_cuts

shares = (
    st.lists(st.integers(0, 1000), min_size=2, max_size=12)
    .filter(lambda v: sum(v) > 0)
    .map(lambda v: np.array(v) / sum(v))
)


def test_psi_of_a_hand_computed_example():
    """(.3-.5)ln(.3/.5) + (.3-.3)ln(1) + (.4-.2)ln(2) = .10217 + 0 + .13863."""
    assert psi(np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])) == pytest.approx(0.2407945, abs=1e-6)


def test_psi_agrees_with_sql():
    """The same figure from DuckDB, over 3,000 values in ten bins."""
    rng = np.random.default_rng(1)
    then, now = pd.Series(rng.normal(0, 1, 3000)), pd.Series(rng.normal(0.3, 1.2, 2000))
    fitted = Bins.fit(then, 10)
    cuts = list(fitted.cuts)
    con = duckdb.connect()
    con.register("a", pd.DataFrame({"v": then}))
    con.register("b", pd.DataFrame({"v": now}))
    count = "list_sum([case when v > c then 1 else 0 end for c in ?::double[]])"
    expected = con.execute(
        f"""with x as (select {count} as bin, count(*) / (select count(*) from a) as share from a group by 1),
        y as (select {count} as bin, count(*) / (select count(*) from b) as share from b group by 1)
        select sum((y.share - x.share) * ln(y.share / x.share)) from x join y using (bin)""",
        [cuts, cuts],
    ).fetchone()[0]
    assert len(cuts) == 9
    assert fitted.psi(now) == pytest.approx(expected, rel=1e-9)


@given(shares, st.data())
@settings(max_examples=50, deadline=None)
def test_psi_is_never_negative_and_symmetric(then, data):
    """PSI is a symmetric divergence: 0 for equal shares and nowhere below."""
    now = np.array(data.draw(st.permutations(then.tolist())))
    assert psi(then, now) >= 0
    assert psi(then, now) == pytest.approx(psi(now, then))
    assert psi(then, then) == 0


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float), st.just(float("inf"))), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_every_value_falls_into_one_bin(values):
    """Shares sum to 1 whatever repeats, misses or is infinite, and the reference itself has not moved."""
    column = pd.Series(values, dtype=float)
    fitted = Bins.fit(column, 10)
    assert fitted.shares(column).sum() == pytest.approx(1)
    assert fitted.psi(column) == 0


def test_a_heavy_value_has_its_own_bin():
    """Nine zeros in ten: a fall of the zeros must show, which plain deciles would put into one bin with what lies below."""
    then = pd.Series([0.0] * 90 + [5.0] * 10)
    assert quantile_cuts(then.to_numpy(), 10)[-1] == 0.0
    fitted = Bins.fit(then)
    assert fitted.psi(pd.Series([-1.0] * 90 + [5.0] * 10)) > 1


def test_bins_do_not_follow_what_they_measure():
    """A shift of everything is found: bins come from the reference alone."""
    then = pd.Series(np.arange(1000.0))
    fitted = Bins.fit(then)
    assert fitted.psi(then + 1000) > 5
    assert fitted.cuts == Bins.fit(then).cuts


def test_a_feed_that_stops_is_a_drift():
    """All values missing where a tenth was: almost all of the population changed bin."""
    then = pd.Series([None] * 10 + list(range(90)), dtype=float)
    fitted = Bins.fit(then)
    now = pd.Series([None] * 100, dtype=float)
    assert fitted.reference[-1] == pytest.approx(0.1)
    assert fitted.shares(now)[-1] == 1
    assert fitted.psi(now) > 5


def test_categories_seen_unseen_and_missing():
    """Shares of text: a, b, then unseen, then missing."""
    fitted = Bins.fit(pd.Series(["a"] * 6 + ["b"] * 3 + [None]))
    assert fitted.categories == ("a", "b")
    assert fitted.shares(pd.Series(["b", "c", None, "a"])).tolist() == [0.25, 0.25, 0.25, 0.25]
    expected = psi(np.array([0.6, 0.3, FLOOR, 0.1]), np.array([0.25, 0.25, 0.25, 0.25]))
    assert fitted.psi(pd.Series(["b", "c", None, "a"])) == pytest.approx(expected)


def test_noise_is_what_one_population_exceeds_once_in_a_hundred_times():
    """400 pairs of samples of one population: about 1% pass the noise level (between 0 and 3% at this size)."""
    rng = np.random.default_rng(3)
    passed = 0
    for _ in range(400):
        fitted = Bins.fit(pd.Series(rng.normal(size=500)))
        now = pd.Series(rng.normal(size=300))
        passed += fitted.psi(now) > fitted.noise(len(now))
    assert 0 < passed <= 12
    assert psi_noise(1, 10, 10) == 0
    assert psi_noise(10, 0, 10) == 0


def test_compare_lists_what_moved_most_first():
    """One feature shifted, one steady, one with other categories; a feature that the scoring rows lack is left out."""
    rng = np.random.default_rng(5)
    then = pd.DataFrame(
        {"steady": rng.normal(size=800), "shifted": rng.normal(size=800), "text": ["x", "y"] * 400, "lost": 1.0}
    )
    now = pd.DataFrame({"steady": rng.normal(size=500), "shifted": rng.normal(2, 1, 500), "text": ["x", "z"] * 250})
    table = compare(then, now, ["steady", "shifted", "text", "lost"])
    assert table["feature"].tolist()[-1] == "steady"
    assert set(table["feature"]) == {"steady", "shifted", "text"}
    row = table.set_index("feature").loc["shifted"]
    assert row["psi"] > 1 > row["noise"]
    assert row["median_now"] == pytest.approx(np.median(now["shifted"]))
    assert pd.isna(table.set_index("feature").loc["text", "median_now"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.arange(500), True),  # a running number
        (np.arange(500) * 1000 + 7, True),  # follows the order of customers
        (np.random.default_rng(1).permutation(500), True),  # dense, in another order
        ([f"name {i}" for i in range(500)], True),  # all different text
        (np.random.default_rng(1).normal(size=500), False),  # amounts differ without being names
        (np.random.default_rng(1).choice(10**7, 500, replace=False), False),  # whole amounts too
        (np.arange(500) % 12, False),  # a count
        (["x", "y"] * 250, False),
    ],
)
@pytest.mark.fault("C9")
def test_what_looks_like_an_identifier(values, expected):
    customers = pd.Series([f"c{i:05d}" for i in range(500)])
    assert identifier_like(pd.Series(values), customers, 0.98) is expected


def test_too_few_rows_tell_nothing_about_identifiers():
    assert not identifier_like(pd.Series(range(50)), pd.Series([str(i) for i in range(50)]), 0.98)
