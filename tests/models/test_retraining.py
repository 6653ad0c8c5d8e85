"""When a retrain is proposed: only where a check of drift or decline found something, with what it would move."""

from __future__ import annotations

import pytest

from models.retraining import DECLINE, DRIFT, proposal, told


def check(code: str, answer: str, severity: str = "warn") -> dict:
    return {"code": code, "title": f"title of {code}", "title_zh": code, "severity": severity, "answer": answer}


def test_a_code_counts_once():
    assert len({*DRIFT, *DECLINE}) == len(DRIFT) + len(DECLINE)


@pytest.mark.parametrize("code", [*DRIFT, *DECLINE])
@pytest.mark.parametrize("severity", ["warn", "stop"])
def test_drift_or_decline_that_is_found_proposes_and_says_why(code, severity):
    asked = proposal([check(code, "found", severity)], until="2025-01-01", as_of="2026-01-01")
    assert asked["proposed"]
    assert [each["code"] for each in asked["because"]] == [code]
    assert told(asked) == (
        f"retrain proposed ({code} title of {code}): `python -m pipeline retrain` would move train.until "
        "from 2025-01-01 to 2026-01-01"
    )


@pytest.mark.parametrize(("code", "answer"), [("M003", "clear"), ("M003", "not applicable"), ("M005", "found")])
def test_nothing_found_or_something_else_found_proposes_nothing(code, answer):
    asked = proposal([check(code, answer)], until="2025-01-01", as_of="2026-01-01")
    assert not asked["proposed"]
    assert told(asked) == ""


def test_where_nothing_newer_is_mature_the_proposal_says_so():
    asked = proposal([check("M012", "found")], until="2026-01-01", as_of="2026-01-01")
    assert asked["newer"] is False
    assert "already ends at the newest mature outcomes, 2026-01-01" in told(asked)
    unknown = proposal([check("M012", "found")], until=None, as_of="2026-01-01")
    assert unknown["newer"] is None
    assert told(unknown).endswith("`python -m pipeline retrain`")
