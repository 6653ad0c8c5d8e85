"""The table of faults tells of every case, and of what was found."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fault_table import outcome_of, table

HERE = Path(__file__).parent
CATALOGUE = yaml.safe_load((HERE / "catalogue.yaml").read_text(encoding="utf-8"))


@pytest.mark.sample
def test_the_page_has_a_row_for_each_case():
    page = (HERE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-G]\d+) \| .* \| (held|not held|not run) \| \d+/\d+ \| .* \|$", page, flags=re.MULTILINE)
    assert [case for case, _ in rows] == list(CATALOGUE)
    assert len(CATALOGUE) == 71


@pytest.mark.sample
def test_every_mark_names_a_case():
    for path in HERE.parent.rglob("test_*.py"):
        for cases in re.findall(r"fault\(((?:\"[A-Z]\d+\"(?:, )?)+)\)", path.read_text(encoding="utf-8")):
            assert set(re.findall(r"[A-Z]\d+", cases)) <= CATALOGUE.keys(), path


@pytest.mark.sample
def test_one_failure_is_not_held_and_no_test_is_not_run():
    assert outcome_of(Counter(passed=3)) == "held"
    assert outcome_of(Counter(passed=3, skipped=1)) == "held"
    assert outcome_of(Counter(passed=3, failed=1)) == "not held"
    assert outcome_of(Counter(skipped=1)) == "not run"
    page = table({"A1": {"case": "a | b", "expected": "2"}}, {"test": [["A1"], "passed"]})
    assert "| A1 | a \\| b | 2 | held | 1/1 |  |" in page
    assert "1 cases: 1 held, 0 not held, 0 not run." in page
