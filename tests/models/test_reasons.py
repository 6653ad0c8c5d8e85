"""Reasons: additive, different from one another, only what raised the risk, the same in any order of rows or columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reasons import MOST, Reference, Term, by_family, rank, tell, terms_of

POINTS = 20 / np.log(2)


def term(feature, family, unit="", kind="numeric"):
    return Term(feature, kind, family, f"Sentence of {feature}.", unit)


TERMS = (term("use", "use", "share"), term("use_mean", "use", "share"), term("late", "late", "days"),
         term("trade", "trade", kind="categorical"))  # fmt: skip
# one reference row of zeros: masses are the contributions themselves
VALUES = pd.DataFrame({"use": [0.97, 0.1], "use_mean": [0.8, 0.2], "late": [12.0, np.nan], "trade": ["food", None]})
REFERENCE = Reference(np.zeros(4), -2.0, ("34%", "30%", "0 days", "retail"))


def told(contributions, values=VALUES, terms=TERMS, reference=REFERENCE, language="en", least=0.0):
    return tell(rank(contributions, terms, reference, least), values, terms, reference, POINTS, language)


def test_a_family_is_one_reason_told_by_its_heaviest_input():
    """Two inputs of `use` add up; the second weighs more, so its value is shown."""
    table = told(np.array([[0.1, 0.3, 0.2, -0.5, -2.0], [0.0, 0.0, 0.0, 0.0, -2.0]]))
    assert table["row"].tolist() == [0, 0]
    assert table["rank"].tolist() == [1, 2]
    assert table["code"].tolist() == ["use", "late"]
    assert table["feature"].tolist() == ["use_mean", "late"]
    assert table["text"].tolist() == [
        "Sentence of use_mean: 80% (typical: 30%)", "Sentence of late: 12 days (typical: 0 days)",
    ]  # fmt: skip
    assert table["value"].tolist() == [0.8, 12.0]
    assert table["points"].tolist() == [round(0.4 * POINTS, 2), round(0.2 * POINTS, 2)]


def test_a_family_that_lowers_the_risk_is_no_reason_even_if_one_input_raises_it():
    """+.2 and -.3 in the same family."""
    assert told(np.array([[0.2, -0.3, -0.1, 0.0, 0.0]]), VALUES[:1]).empty


def test_masses_are_against_the_reference():
    """A contribution that the reference has too is no reason; one that the reference has below zero is."""
    reference = Reference(np.array([0.4, 0.0, -0.2, 0.0]), 0.0, REFERENCE.typical)
    table = told(np.array([[0.4, 0.0, 0.0, 0.0, 0.0]]), VALUES[:1], reference=reference)
    assert table["code"].tolist() == ["late"]
    assert table["points"].tolist() == [round(0.2 * POINTS, 2)]


def test_a_missing_value_and_a_category_have_no_number():
    """`not known` for the one, the category's own text for the other."""
    table = told(np.array([[0, 0, 0, 0.3, 0.0], [0, 0, 0.3, 0.2, 0.0]]))
    assert table["value"].isna().all()
    assert table["value_text"].tolist() == ["food", "not known", "not known"]
    assert table["text"][1] == "Sentence of late: not known (typical: 0 days)"


def test_at_most_four_and_only_above_the_least():
    """Six families raise the risk; four are told, heaviest first; none below the least mass."""
    terms = tuple(term(f"x{i}", f"family{i}") for i in range(6))
    values = pd.DataFrame({t.feature: [1.0] for t in terms})
    reference = Reference(np.zeros(6), 0.0, ("0",) * 6)
    heavy = np.array([[0.1, 0.6, 0.2, 0.5, 0.4, 0.3, 0.0]])
    assert told(heavy, values, terms, reference)["code"].tolist() == ["family1", "family3", "family4", "family5"]
    assert told(heavy, values, terms, reference, least=0.4)["code"].tolist() == ["family1", "family3"]


def test_equal_masses_are_told_in_alphabetical_order():
    """Whatever the order of columns."""
    terms = (term("b", "zebra"), term("a", "apple"))
    values, reference = pd.DataFrame({"a": [1.0], "b": [1.0]}), Reference(np.zeros(2), 0.0, ("0", "0"))
    assert told(np.array([[0.5, 0.5, 0.0]]), values, terms, reference)["code"].tolist() == ["apple", "zebra"]


numbers = st.floats(-3, 3).map(lambda x: round(x, 6))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(numbers, min_size=8, max_size=8), min_size=2, max_size=12), st.randoms(use_true_random=False))
@pytest.mark.fault("E9")
def test_additive_and_the_same_in_any_order(rows, random):
    """All masses sum to margin minus mean reference margin; permuted rows and columns give the permuted reasons."""
    terms = tuple(term(f"f{i}", f"family{i % 5}") for i in range(7))
    contributions = np.array(rows)
    values = pd.DataFrame(np.arange(7.0 * len(rows)).reshape(len(rows), 7), columns=[t.feature for t in terms])
    reference = Reference.of(contributions[:2], values[:2], terms, "en")
    _, mass = by_family(contributions[:, :-1] - reference.mean, terms)
    margin = contributions.sum(axis=1)
    bias = contributions[:, -1] - contributions[:2, -1].mean()
    assert mass.sum(axis=1) + bias == pytest.approx(margin - reference.margin, abs=1e-9)

    plain = told(contributions, values, terms, reference)
    columns, order = list(range(7)), list(range(len(rows)))
    random.shuffle(columns)
    random.shuffle(order)
    moved = contributions[order][:, [*columns, 7]]
    moved_terms = tuple(terms[i] for i in columns)
    other = Reference(reference.mean[columns], reference.margin, tuple(reference.typical[i] for i in columns))
    again = told(moved, values.iloc[order].reset_index(drop=True), moved_terms, other)
    again["row"] = np.array(order)[again["row"]]
    again = again.sort_values(["row", "rank"], ignore_index=True)
    pd.testing.assert_frame_equal(plain, again)
    assert (plain["points"] >= 0).all()
    assert not plain.duplicated(["row", "code"]).any()
    assert plain.groupby("row").size().max() <= MOST if len(plain) else True


def test_typical_is_the_median_or_the_most_frequent():
    """`not known` where more than half have none; of equally frequent categories the first in the alphabet."""
    terms = (term("x", "x", "money"), term("y", "y", "days"), term("c", "c", kind="categorical"))
    values = pd.DataFrame(
        {"x": [1000.0, 3000.0, np.nan], "y": [1.0, np.nan, np.nan], "c": ["b", "a", None]}, index=[5, 6, 7]
    )
    reference = Reference.of(np.array([[1.0, 0, 0, -1], [3.0, 0, 0, -1], [2.0, 0, 0, -1]]), values, terms, "en")
    assert reference.typical == ("2,000", "not known", "a")
    assert reference.mean.tolist() == [2.0, 0.0, 0.0]
    assert reference.margin == 1.0


@pytest.mark.parametrize(
    ("unit", "value", "english", "chinese"),
    [
        ("share", 0.1234, "12.3%", "12.3%"), ("share a month", -0.02, "-2% a month", "-2%/月"), ("days", 3.0, "3 days", "3天"),
        ("days", 1.0, "1 day", "1天"), ("years", -1.0, "-1 year", "-1年"),
        ("months", 1.5, "1.5 months", "1.5个月"), ("money", 1234567.0, "1,235,000", "1,235,000"), ("count", 0.0, "0", "0"),
        ("", 0.01234, "0.0123", "0.0123"), ("", -0.0, "0", "0"), ("", 1999.0, "1999", "1999"), ("points", 7.25, "7.25 points", "7.25 points"),
    ],
)  # fmt: skip
def test_values_are_written_in_their_unit(unit, value, english, chinese):
    """Four significant digits, thousands separated, no trailing zeros."""
    terms, reference = (term("x", "x", unit),), Reference(np.zeros(1), 0.0, ("-",))
    frame = pd.DataFrame({"x": [value]})
    for language, expected in (("en", english), ("zh", chinese)):
        table = told(np.array([[1.0, 0.0]]), frame, terms, reference, language)
        assert table["value_text"].tolist() == [expected]


def test_chinese_sentences_come_from_the_catalogue():
    """With the English one where the Chinese is missing."""
    catalogue = pd.DataFrame(
        {"name": ["a", "b"], "sentence": ["A.", "B."], "sentence_zh": ["甲。", None], "unit": ["days", None]}
    )
    inputs = [{"name": n, "kind": "numeric", "family": "f"} for n in ("b", "a")]
    terms = terms_of(inputs, catalogue, "zh")
    assert [t.sentence for t in terms] == ["B.", "甲。"]
    assert [t.unit for t in terms] == ["", "days"]
    text = told(
        np.array([[0.0, 1.0, 0.0]]), pd.DataFrame({"a": [2.0], "b": [1.0]}), terms,
        Reference(np.zeros(2), 0.0, ("1", "0天")), "zh",
    )["text"]  # fmt: skip
    assert text.tolist() == ["甲：2天（通常：0天）"]
