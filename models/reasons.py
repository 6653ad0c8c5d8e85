"""Why a customer's risk is above that of customers who did not default: up to four different reasons.

Inputs that move together share a family. A family's mass is the sum of its inputs' Shapley values (log-odds) minus the
mean of that sum over a fixed reference, so all masses together are the customer's margin minus the reference's mean
margin. Only families that raised the risk are reasons; each is told by its input that weighs most, with the customer's
value and what is typical in the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

MOST = 4  # reasons a customer
DIGITS = 4  # significant digits of a value in text
UNKNOWN = {"en": "not known", "zh": "无数据"}
SENTENCES = {"en": "{what}: {value} (typical: {typical})", "zh": "{what}：{value}（通常：{typical}）"}
UNIT_TEXTS = {
    "en": {"days": " days", "months": " months", "years": " years", "money": "", "count": "", "ratio": "", "": ""},
    "zh": {"days": "天", "months": "个月", "years": "年", "money": "", "count": "", "ratio": "", "": ""},
}
PACES = {"en": {"a month": " a month"}, "zh": {"a month": "/月"}}


@dataclass(frozen=True)
class Term:
    """One model input as a reason tells it."""

    feature: str
    kind: str  # numeric, categorical or record
    family: str
    sentence: str  # in the run's language
    unit: str


@dataclass(frozen=True)
class Reference:
    """What is usual: the mean Shapley value of each input (f,), and its typical value as text."""

    mean: Floats
    margin: float  # mean margin
    typical: tuple[str, ...]

    @classmethod
    def of(cls, contributions: Floats, values: pd.DataFrame, terms: Sequence[Term], language: str) -> Self:
        """Return the reference of these rows.

        contributions: (n, f + 1), the bias last, n > 0. values: (n rows), a column for each term's feature. Typical is
        the median of a number and the most frequent category (the first in alphabetical order of equals); `not known`
        where more than half of the rows have none.
        """
        typical = [_typical(values[term.feature], term, language) for term in terms]
        return cls(contributions[:, :-1].mean(axis=0), float(contributions.sum(axis=1).mean()), tuple(typical))


def families_of(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the families in alphabetical order: the numbers of `Ranked.family` are places in it."""
    return tuple(sorted({term.family for term in terms}))


def by_family(contributions: Floats, terms: Sequence[Term]) -> tuple[tuple[str, ...], Floats]:
    """Return the families in alphabetical order, and the sum of their inputs' columns, (n, families).

    Inputs are added in alphabetical order of their names: the result does not depend on the order of columns.
    """
    families = families_of(terms)
    sums = np.zeros((len(contributions), len(families)))
    for column in sorted(range(len(terms)), key=lambda i: terms[i].feature):
        sums[:, families.index(terms[column].family)] += contributions[:, column]
    return families, sums


@dataclass(frozen=True)
class Ranked:
    """The reasons of n customers, one entry a reason, by customer and rank: row, rank from 1, family, input, mass."""

    row: Integers
    rank: Integers
    family: Integers
    input: Integers
    mass: Floats  # log-odds, above the least


def rank(contributions: Floats, terms: Sequence[Term], reference: Reference, least: float = 0.0) -> Ranked:
    """Return each customer's heaviest families that raised the risk, at most four.

    contributions: (n, f + 1), the bias last. least: masses up to this (log-odds) are no reason. Equal masses: the
    family that comes first in the alphabet; equal inputs: likewise.
    """
    above = contributions[:, :-1] - reference.mean
    families, mass = by_family(above, terms)
    heaviest = np.zeros(mass.shape, dtype=np.int64)
    for place, family in enumerate(families):
        columns = sorted((i for i, t in enumerate(terms) if t.family == family), key=lambda i: terms[i].feature)
        heaviest[:, place] = np.array(columns, dtype=np.int64)[np.argmax(above[:, columns], axis=1)]
    order = np.argsort(-mass, axis=1, kind="stable")[:, :MOST]
    ranked = np.take_along_axis(mass, order, axis=1)
    row, position = np.nonzero(ranked > max(least, 0.0))
    family_of = order[row, position]
    return Ranked(row, position + 1, family_of, heaviest[row, family_of], ranked[row, position])


def tell(
    ranked: Ranked,
    values: pd.DataFrame,
    terms: Sequence[Term],
    reference: Reference,
    points_a_unit: float,
    language: str,
) -> pd.DataFrame:
    """Return the reasons as a table: row, rank, code, text, feature, value, value_text, typical, points.

    values: the customers' features, (n rows). code: the family. value: the number, null for a category or where it is
    missing. points: what the reason costs, mass times `points_a_unit`, to the hundredth. language: `en` or `zh`.
    """
    count = len(ranked.row)
    value = np.full(count, np.nan)
    value_text, text = np.empty(count, dtype=object), np.empty(count, dtype=object)
    template = SENTENCES[language]
    for number in np.unique(ranked.input).tolist():
        term, chosen = terms[number], np.flatnonzero(ranked.input == number)
        cells = values[term.feature].iloc[ranked.row[chosen]]
        if term.kind != "categorical":
            value[chosen] = pd.to_numeric(cells).to_numpy(dtype=float, na_value=np.nan)
            place, distinct = pd.factorize(_rounded(value[chosen]))
            texts = [_number(v, term.unit, language) for v in distinct]
        else:
            place, distinct = pd.factorize(cells.astype(object))
            texts = [str(level) for level in distinct]
        known = np.array([*texts, UNKNOWN[language]], dtype=object)  # place -1 is missing: the last
        typical, what = reference.typical[number], _phrase(term.sentence)
        told = [template.format(what=what, value=each, typical=typical) for each in known]
        value_text[chosen] = known[place]
        text[chosen] = np.array(told, dtype=object)[place]
    features, codes, typicals = (
        np.array(list(each), dtype=object)[ranked.input] if count else np.empty(0, dtype=object)
        for each in ((t.feature for t in terms), (t.family for t in terms), reference.typical)
    )
    return pd.DataFrame(
        {
            "row": ranked.row, "rank": ranked.rank, "code": codes, "text": text, "feature": features, "value": value,
            "value_text": value_text, "typical": typicals, "points": np.round(ranked.mass * points_a_unit, 2),
        }
    )  # fmt: skip


def terms_of(inputs: Iterable[dict[str, object]], catalogue: pd.DataFrame, language: str) -> tuple[Term, ...]:
    """Return the model's inputs as terms: family and kind as trained, sentence and unit from the bundle's catalogue."""
    known = catalogue.set_index("name")
    wording = known["sentence_zh" if language == "zh" else "sentence"].fillna(known["sentence"])
    return tuple(
        Term(
            str(each["name"]),
            str(each["kind"]),
            str(each["family"]),
            str(wording.get(each["name"], each["name"])),
            str(known["unit"].fillna("").get(each["name"], "")),
        )
        for each in inputs
    )


def _phrase(sentence: str) -> str:
    return sentence.strip().rstrip(".。")


def _typical(values: pd.Series, term: Term, language: str) -> str:
    """Return what is usual for one input as text."""
    if values.isna().mean() > 0.5:
        return UNKNOWN[language]
    if term.kind != "categorical":
        middle = float(np.median(pd.to_numeric(values.dropna()).to_numpy(dtype=float)))
        return _number(float(_rounded(np.array([middle]))[0]), term.unit, language)
    counts = values.dropna().astype(str).value_counts()
    return str(min(counts.index[counts == counts.max()]))


def _rounded(values: Floats) -> Floats:
    """Return values to four significant digits, so that few texts are distinct however many customers there are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.clip(np.nan_to_num(power, nan=0.0, posinf=0.0, neginf=0.0) - DIGITS + 1, -9, 300)
    return np.round(values / scale) * scale


def _number(value: float, unit: str, language: str) -> str:
    """Return one number in its unit: a share as per cent, no trailing zeros; thousands marks only with a unit."""
    base, _, pace = unit.partition(" ")
    ending = PACES[language].get(pace, f" {pace}" if pace else "")
    if base == "share":
        return f"{_plain(100 * value, 1)}%{ending}"
    magnitude = abs(value)
    decimals = 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2 if magnitude >= 0.1 or value == 0 else 4
    known = UNIT_TEXTS[language]
    text = _plain(value, decimals) if unit else _plain(value, decimals).replace(",", "")
    word = known.get(base, f" {unit}")
    if text in ("1", "-1") and language == "en" and base in ("days", "months", "years"):
        word = word.removesuffix("s")
    return text + (word + ending if base in known else word)


def _plain(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
