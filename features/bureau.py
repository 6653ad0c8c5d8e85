"""Other lenders' lines, as a bureau reports them (known late): debt, limits, overdue, new lines, worst lateness."""

from __future__ import annotations

from collections.abc import Iterator

from features.definition import Lender, Skipped, Subject
from features.exposure import Side, side_subjects

BUREAU = Side("bureau", ours=False, words="credit lines with others", words_zh="他行授信", family="other_credit")


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare what credits whose provider is not `own` say."""
    yield from side_subjects(lender, BUREAU)
