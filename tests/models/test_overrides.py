"""Overrides: in force up to and on their last day; every faulty line is named, no customer is."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from features.errors import ConfigurationRefused
from models.overrides import COLUMNS, read_overrides

AS_OF = dt.date(2026, 1, 1)


def lines(*rows):
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)


def test_in_force_on_the_last_day_and_not_after():
    """One of two is expired."""
    found = read_overrides(
        lines(
            ("a", "credit_limit_recommended", "1000.50", "risk", "guarantee", "2026-01-01"),
            ("b", "action", "keep", "risk", "known case", "2025-12-31"),
        ),
        AS_OF,
    )
    customers = np.array(["a", "b"], dtype=object)
    assert found.values("credit_limit_recommended", customers).tolist() == ["1000.50", None]
    assert found.values("action", customers).tolist() == [None, None]
    assert found.expired == 1


def test_an_override_of_a_customer_who_left_is_counted():
    """It is no fault."""
    found = read_overrides(lines(("gone", "action", "stop", "risk", "x", "2027-01-01")), AS_OF)
    assert found.unknown(np.array(["a"], dtype=object)) == 1
    assert found.unknown(np.array(["gone"], dtype=object)) == 0


def test_no_lines():
    """The header alone."""
    found = read_overrides(lines(), AS_OF)
    assert found.values("action", np.array(["a"], dtype=object)).tolist() == [None]


def test_all_faults_are_named_by_line_and_never_by_customer():
    """Empty author, unknown field, wrong values, no date, the same twice."""
    good = ("secret-id", "payment_term_days", "30", "risk", "x", "2027-01-01")
    rows = [
        good, ("secret-id", "payment_term_days", "14", "risk", "x", "2027-01-01"),
        ("c", "action", "stop", "", "x", "2027-01-01"), ("d", "grade", "A1", "risk", "x", "2027-01-01"),
        ("e", "payment_term_days", "366", "risk", "x", "2027-01-01"), ("f", "action", "cancel", "risk", "x", "2027-01-01"),
        ("g", "credit_limit_recommended", "-5", "risk", "x", "2027-01-01"), ("h", "action", "stop", "risk", "x", "soon"),
    ]  # fmt: skip
    with pytest.raises(ConfigurationRefused) as refusal:
        read_overrides(lines(*rows), AS_OF)
    found = {p.where.removeprefix("overrides.csv: "): p.found for p in refusal.value.problems}
    assert found == {
        "author": "nothing in line 4",
        "field": "another in line 5",
        "value of payment_term_days": "something else in line 6",
        "value of action": "something else in line 7",
        "value of credit_limit_recommended": "something else in line 8",
        "until": "something else in line 9",
        "customer_id, field": "a second one in line 3",
    }
    assert "secret-id" not in str(refusal.value)


def test_another_header_is_refused():
    """Columns are known by name."""
    with pytest.raises(ConfigurationRefused, match="Restore the header"):
        read_overrides(lines().drop(columns="until"), AS_OF)
