"""Planted leaks in features are seen by the batteries; the same batteries are silent on the real code."""

from __future__ import annotations

from pathlib import Path

import pytest
from batteries import alarms
from building import build
from fitting import FITTING_LEAKS
from labelling import LABEL_LEAKS
from planted import LEAKS, Leak
from test_clean import lender

QUICK = {
    "boundary <= instead of <", "event date in place of knowledge", "no cut at all", "global mean taken off",
    "latest restatement under the first date", "row number as a figure", "outcome as a feature",
    "industry figures of the same quarter", "cells by event in place of knowledge",
}  # fmt: skip


def planted(leak: Leak, request: pytest.FixtureRequest, names: list[str]) -> dict[str, list[str]]:
    """Return what the batteries say of the mutated code."""
    folder = None if leak.source == "simulated" else request.getfixturevalue("realdata")
    case = lender(leak.source, folder)
    with pytest.MonkeyPatch.context() as patch:
        leak.plant(patch)
        base = build(case, leak.subjects, panel=leak.panel)
        return alarms(case, base, names, leak.subjects, panel=leak.panel)


@pytest.mark.parametrize(
    "leak",
    [pytest.param(leak, id=leak.name, marks=() if leak.name in QUICK else pytest.mark.slow) for leak in LEAKS],
)
@pytest.mark.fault("E7")
def test_a_planted_leak_is_caught(leak, request):
    assert planted(leak, request, [leak.first])


def test_leaks_have_names_of_their_own():
    names = [leak.name for leak in LEAKS]
    assert len(names) == len(set(names))
    assert set(names) >= QUICK


def test_the_table_of_leaks_tells_of_each():
    """LEAKS.md lists every planted leak, all caught; `make leak-table` writes it."""
    lines = Path(__file__).with_name("LEAKS.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and not line.startswith("| leak")]
    planted_ones = [leak.name for leak in LEAKS] + [leak[0] for leak in (*LABEL_LEAKS, *FITTING_LEAKS)]
    assert sorted(row[0] for row in rows) == sorted(planted_ones)
    assert len(planted_ones) >= 40
    assert not [row[0] for row in rows if "NOT CAUGHT" in row]
