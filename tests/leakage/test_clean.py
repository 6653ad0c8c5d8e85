"""Every feature that exists, on a simulated lender and on real data: what may not move it does not move a byte."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batteries import OF_CREDITS, SILENT, alarms, forgotten, judged_rows, just_before, one_row_later, with_outcomes
from building import Built, build, differing
from lenders import Case, real, simulated


@functools.cache
def world(seed: int) -> tuple[Case, Built]:
    with tempfile.TemporaryDirectory() as folder:
        case = with_outcomes(simulated(Path(folder), seed))
    return case, build(case)


@functools.cache
def source(name: str, folder: Path) -> tuple[Case, Built]:
    with tempfile.TemporaryDirectory() as here:
        case = with_outcomes(real(Path(here), name, folder))
    return case, build(case)


def chosen(name: str, realdata: Path | None) -> tuple[Case, Built]:
    return world(3) if name == "simulated" else source(name, realdata)


def together(case: Case) -> Case:
    """Noise, boundary, other outcomes and another order at once: none of them may move anything."""
    for name in ("e boundary", "b noise", "f outcomes", "c shuffled"):
        case = SILENT[name](case)
    return case


CASES = [
    pytest.param("simulated", id="simulated"),
    pytest.param("berka", id="berka", marks=pytest.mark.realdata),
    pytest.param("uci_taiwan", id="uci_taiwan", marks=pytest.mark.realdata),
]


@pytest.fixture(params=CASES)
def case_and_base(request: pytest.FixtureRequest) -> tuple[Case, Built]:
    name = request.param
    return chosen(name, None if name == "simulated" else request.getfixturevalue("realdata"))


def test_nothing_of_the_future_moves_a_feature(case_and_base):
    """(b), (c), (e), (f) in one build; (a) in the next."""
    case, base = case_and_base
    assert differing(base, build(together(case)), judged_rows(case)) == []
    assert alarms(case, base, ["a deleted"]) == {}


def test_a_customer_whose_rows_come_late_has_no_feature(case_and_base):
    """(d) for every row and every feature: nothing is left, so nothing was read from a row that was not yet known."""
    case, _ = case_and_base
    assert forgotten(case) == []


def test_nothing_of_a_credit_counts_before_the_credit_is_known():
    """(d) for credits alone: statements, instalments and payments of a credit that is not yet known say nothing."""
    case, _ = world(3)
    assert forgotten(case, frozenset({"statements", "instalments", "payments", "credits", "bureau"}), OF_CREDITS) == []


def test_one_row_later_moves_its_customer(case_and_base):
    """(d) for the newest row of each history: the features worked out from it change."""
    case, base = case_and_base
    later, whose = one_row_later(case)
    after = build(later)
    at = pc.equal(base.rows["as_of"], case.as_of)
    for table, customer in whose.items():
        mine = pc.and_(at, pc.equal(base.rows["customer_id"], customer)).combine_chunks()
        moved = [name for name in differing(base, after, mine) if table in base.sources.get(name, ())]
        assert moved, f"{table}: known at as_of instead of before, and nothing changed"
    assert whose
    if case.name == "simulated":  # a real case may ask about one customer a date, or hold tables without event dates
        assert set(whose) >= {name for name in case.tables if name not in ("industries", "observations")}


def test_the_same_rows_a_day_earlier_are_seen(case_and_base):
    """The boundary battery has power: what it adds does move features once it is known a day before."""
    case, base = case_and_base
    moved = differing(base, build(just_before(case)), judged_rows(case))
    assert len(moved) > len(base.features) / 3


def test_the_proof_covers_the_features():
    """Most features have a value somewhere in the simulated case, so that they could move at all."""
    _, base = world(3)
    empty = [name for name in base.features if base.rows[name].null_count == len(base.rows)]
    assert len(empty) <= len(base.features) // 20, empty
    assert len(base.features) > 200


@pytest.mark.slow
@pytest.mark.parametrize("panel", [True, False], ids=["panel", "join"])
@pytest.mark.parametrize("battery", [*SILENT, "d shifted"])
def test_each_battery_alone_is_silent(case_and_base, battery, panel):
    """On both roads from rows to a date."""
    case, _ = case_and_base
    assert alarms(case, build(case, panel=panel), [battery], panel=panel) == {}


def test_tables_hold_what_the_batteries_are_about():
    """Late rows, restated rows and rows of the future exist in the simulated case."""
    case, _ = world(3)
    transactions = case.tables["transactions"]
    assert pc.any(pc.greater(transactions["known_on"], transactions["event_on"])).as_py()
    assert pc.any(pc.greater_equal(transactions["known_on"], case.as_of)).as_py()
    assert len(transactions) > pc.count_distinct(transactions["transaction_id"]).as_py()
    assert isinstance(transactions, pa.Table)
