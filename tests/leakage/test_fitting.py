"""(g): what learns from outcomes never learns from those of the rows that it is asked about, and leaks there are seen."""

from __future__ import annotations

import pytest
from fitting import CHECKS, FITTING_LEAKS, alarms_of, frame_of, model_by_time

SLOW = {"record models fitted on train and test"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.fault("E7")
def test_the_real_steps_are_clean(check):
    assert CHECKS[check]()


@pytest.mark.parametrize(
    ("name", "kind", "plant", "first"),
    [pytest.param(*leak, id=leak[0], marks=[pytest.mark.slow] if leak[0] in SLOW else []) for leak in FITTING_LEAKS],
)
@pytest.mark.fault("E7")
def test_a_planted_leak_is_caught(name, kind, plant, first, monkeypatch):
    plant(monkeypatch)
    assert alarms_of((first,)) == [first]


def test_the_checked_model_is_a_model_by_time():
    """The checks mean something: there are test rows, a gap, categories with codes and margins."""
    made = model_by_time(frame_of())
    assert set(made.parts) == {"train", "gap", "test"}
    assert "branch" in made.names
    assert "late" not in made.names
    assert (made.margin == made.margin).sum() > 100
