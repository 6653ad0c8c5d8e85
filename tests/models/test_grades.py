"""Points and grades: scaling by hand, monotone in PD, and what is no PD or no scale is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import IntegrityRefused
from models.grades import Scale

SCALE = Scale()
pds = st.floats(0, 1, allow_nan=False)


def test_base_odds_give_base_score_and_doubled_odds_the_stated_points():
    """1 bad to 50 good is 600 points; 1 to 100 is 20 more, 1 to 25 is 20 fewer."""
    assert SCALE.score([1 / 51, 1 / 101, 1 / 26]).tolist() == [600, 620, 580]


def test_certain_pds_have_finite_points():
    """A PD of 0 or 1 is taken as 1e-6 or 1 - 1e-6: log-odds of about 13.8."""
    best, worst = SCALE.score([0.0, 1.0]).tolist()
    step = 20 / np.log(2)
    assert best == round(600 + step * (np.log(1e6 - 1) - np.log(50)))
    assert worst == round(600 - step * (np.log(1e6 - 1) + np.log(50)))


def test_a_pd_on_a_bound_belongs_to_the_worse_grade():
    """Each grade holds its lower bound and not its upper one; a PD of 1 has the last grade."""
    edges = np.array(SCALE.bounds[:-1])
    assert SCALE.grade(edges).tolist() == list(SCALE.names[1:])
    assert SCALE.grade(np.nextafter(edges, 0)).tolist() == list(SCALE.names[:-1])
    assert SCALE.grade([0.0, 1.0]).tolist() == [SCALE.names[0], SCALE.names[-1]]


@given(pds, pds)
def test_worse_pd_never_has_a_better_score_or_grade(one, other):
    """Score falls and notches rise with the PD."""
    pd = sorted((one, other))
    better, worse = SCALE.score(pd)
    first, second = SCALE.notches(SCALE.grade(pd))
    assert better >= worse
    assert first <= second


def test_notches_count_places_and_null_is_minus_one():
    """The best grade is 0; a missing grade has no notch; a grade of another scale is an error, not a guess."""
    assert SCALE.notches(["A1", "E2", None, float("nan")]).tolist() == [0, 9, -1, -1]
    with pytest.raises(ValueError, match="got 2 others"):
        SCALE.notches(["A1", "Z9", "AAA"])


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
@pytest.mark.fault("E10")
def test_what_is_no_probability_is_refused(wrong):
    """No clipping and no null grade by accident."""
    with pytest.raises(ValueError, match="1 values outside or missing"):
        SCALE.grade([0.5, wrong])
    with pytest.raises(ValueError, match="1 values outside or missing"):
        SCALE.score([0.5, wrong])


def test_json_gives_the_same_scale_and_the_same_bytes():
    """Round trip."""
    scale = Scale(names=("A", "B"), bounds=(0.1, 1.0), base_score=500, base_odds=20, points_to_double=15)
    assert Scale.from_json(scale.to_json()) == scale
    assert scale.to_json() == Scale.from_json(scale.to_json()).to_json()


@pytest.mark.parametrize(
    "fault",
    [
        {"bounds": [0.1, 0.1, 1.0]}, {"bounds": [0.1, 0.2]}, {"bounds": [0.1, 0.2, 0.9]}, {"bounds": [0.0, 0.2, 1.0]},
        {"names": ["A", "A", "B"]}, {"base_odds": 0}, {"points_to_double": -1}, {"other": 1},
    ],
)  # fmt: skip
def test_what_is_no_scale_is_refused_with_exit_code_7(fault):
    """A bundle's grades.json must be a monotone scale that ends at 1."""
    record = {"names": ["A", "B", "C"], "bounds": [0.1, 0.2, 1.0]}
    Scale.from_json(json.dumps(record))
    with pytest.raises(IntegrityRefused) as refusal:
        Scale.from_json(json.dumps(record | fault))
    assert refusal.value.exit_code == 7


def test_points_of_a_unit_of_log_odds():
    """A reason of ln 2 log-odds costs the points that double the odds."""
    assert SCALE.points_a_unit * np.log(2) == pytest.approx(20)
