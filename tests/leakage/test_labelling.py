"""Labels never look past the cut, the population never past its date; leaks planted in their SQL are seen."""

from __future__ import annotations

import collections

import pytest
from labelling import CHECKS, CUT, DATES, LABEL_LEAKS, judged, kinds

QUICK = {"label window not closed", "population without those who leave later"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.fault("E7")
def test_the_real_labels_are_clean(check):
    assert CHECKS[check]()


@pytest.mark.parametrize(
    ("name", "kind", "plant", "first"),
    [pytest.param(*leak, id=leak[0], marks=() if leak[0] in QUICK else pytest.mark.slow) for leak in LABEL_LEAKS],
)
@pytest.mark.fault("E7")
def test_a_planted_leak_is_caught(name, kind, plant, first, monkeypatch):
    plant(monkeypatch)
    assert not CHECKS[first]()


@pytest.mark.parametrize("kind", ["statements", "instalments"])
def test_the_checked_lender_has_every_answer(kind):
    found = judged(kinds()[kind], DATES, CUT)
    counted = collections.Counter((row[0], row[1]) for row in found.values())
    assert {None, "closed", "in_default"} <= {reason for reason, _ in counted}
    assert {0, 1, None} <= {outcome for reason, outcome in counted if reason is None}
