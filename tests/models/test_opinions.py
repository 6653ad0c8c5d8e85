"""The two halves of the evidence: whole families, what moves together together, the same cut every time."""

import numpy as np
import pytest

from models.inputs import Input, numbered
from models.opinions import halves


def inputs_of(families):
    return numbered(Input(f"x{place}", "", "numeric", 0, family, "") for place, family in enumerate(families))


@pytest.fixture(scope="module")
def rows():
    """Two hidden causes: families a and c show the first, b and d the second."""
    random = np.random.default_rng(1)
    causes = random.normal(size=(3000, 2))
    families = ["a", "b", "c", "d", "a", "b", "c", "d"]
    place = [0, 1, 0, 1, 0, 1, 0, 1]
    matrix = causes[:, place] + 0.7 * random.normal(size=(3000, 8))
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix, inputs_of(families)


def test_what_moves_together_stays_together(rows):
    first, second = halves(*rows)
    assert {tuple(first), tuple(second)} == {(0, 2, 4, 6), (1, 3, 5, 7)}


def test_families_stay_whole_and_every_input_has_a_half(rows):
    matrix, _ = rows
    inputs = inputs_of(["a", "a", "b", "b", "c", "c", "d", "d"])
    first, second = halves(matrix, inputs)
    assert sorted([*first, *second]) == list(range(8))
    assert not {inputs[n].family for n in first} & {inputs[n].family for n in second}
    assert len(first) == len(second) == 4


def test_one_family_is_cut_by_input(rows):
    matrix, _ = rows
    first, second = halves(matrix, inputs_of(["only"] * 8))
    assert {tuple(first), tuple(second)} == {(0, 2, 4, 6), (1, 3, 5, 7)}


def test_one_input_serves_both_and_constants_do_no_harm(rows):
    matrix, _ = rows
    assert [list(half) for half in halves(matrix[:, :1], inputs_of("a"))] == [[0], [0]]
    flat = np.column_stack((matrix, np.ones(len(matrix)), np.full(len(matrix), np.nan)))
    first, second = halves(flat, inputs_of("abcdefghij"))
    assert sorted([*first, *second]) == list(range(10))


def test_monotone_changes_of_scale_do_not_move_the_cut(rows):
    matrix, inputs = rows
    assert [list(half) for half in halves(np.exp(matrix), inputs)] == [list(half) for half in halves(matrix, inputs)]
