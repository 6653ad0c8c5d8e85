"""The loops of `treeshap`, compiled by numba at their first call and kept in __pycache__.

Rows lie side by side and features are the outer axis, so that one instruction serves many rows. Whatever is worked out
for a row is worked out in the same order, in blocks of one length: its bits depend on no other row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from models.treeshap import MISSING_NAN, MISSING_ZERO, ZERO

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint16]
Loop = TypeVar("Loop", bound=Callable[..., Any])

BLOCK = 128  # states worked out side by side
MISSING = 0  # code of a missing value; the others begin at 1


def compiled(loop: Loop) -> Loop:
    """Return a loop as machine code that runs without Python's lock; contraction is the one liberty with numbers."""
    return cast(Loop, njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")(loop))


class Plan(NamedTuple):
    """A forest as flat arrays; `x_start` holds where the x of each owner begin, one more than there are owners."""

    column_input: Integers  # columns: an input read with one way of missing
    column_missing: Integers
    cut_start: Integers  # of a column: the thresholds of its nodes, ascending
    cuts: Floats
    node_start: Integers  # of a tree
    node_column: Integers
    node_cut: Integers  # the node's threshold, a place among its column's cuts
    node_default: Integers  # 1: a missing value goes left
    group_start: Integers  # of a tree: leaves under one node, told apart by the group's bits
    group_bits: Integers
    group_table: Integers  # 1: few enough bits to keep what every state is worth
    bit_start: Integers  # of a group
    condition_start: Integers  # of a bit, which is 1 where all of them hold
    condition_node: Integers  # a place in its tree
    condition_left: Integers  # 1: left is wanted
    leaf_start: Integers  # of a group
    leaf_value: Floats
    path_start: Integers  # of a leaf: the distinct inputs on its path
    path_slot: Integers  # which of the group's outputs
    path_share: Floats  # r_f
    path_mask: Integers  # a_f is 1 where the state's bits under the mask are those wanted
    path_want: Integers
    out_start: Integers  # of a group
    out_input: Integers
    points: Floats  # of quadrature
    weights: Floats
    quadrature_start: Integers
    longest: int  # inputs on a path
    widest: int  # outputs of a group
    most_nodes: int  # of a tree


@compiled
def coded(plan: Plan, matrix: Floats, codes: Codes) -> None:
    """Write to `codes` (columns, rows) how many cuts of its column lie below each value, plus 1; 0: missing."""
    for start in range(0, len(matrix), BLOCK):
        for column in range(len(plan.column_input)):
            feature, kind = plan.column_input[column], plan.column_missing[column]
            first, last = plan.cut_start[column], plan.cut_start[column + 1]
            for row in range(start, min(start + BLOCK, len(matrix))):
                value = matrix[row, feature]
                unknown = value != value  # noqa: PLR0124
                if unknown and kind != MISSING_NAN:
                    value, unknown = 0.0, False
                if unknown or (kind == MISSING_ZERO and -ZERO <= value <= ZERO):
                    codes[column, row] = MISSING
                    continue
                low, high = first, last
                while low < high:
                    middle = (low + high) // 2
                    if plan.cuts[middle] < value:
                        low = middle + 1
                    else:
                        high = middle
                codes[column, row] = low - first + 1


@compiled
def decided(plan: Plan, tree: int, codes: Codes, first: int, size: int, lefts: Codes) -> None:
    """Write to `lefts` (nodes of the tree, rows) whether each row goes left: 1 or 0.

    Where a missing value goes right, codes and cut are moved down by one, which wraps its code round to the greatest.
    """
    begin = plan.node_start[tree]
    for node in range(begin, plan.node_start[tree + 1]):
        down = np.uint16(1 - plan.node_default[node])
        cut = np.uint16(plan.node_cut[node] + 1 - down)
        column, left = codes[plan.node_column[node], first : first + size], lefts[node - begin]
        for b in range(size):
            left[b] = 1 if np.uint16(column[b] - down) <= cut else 0


@compiled
def bit_of(plan: Plan, number: int, lefts: Codes, first: int, size: int, bit: Codes) -> None:
    """Write to `bit` whether the rows first..first + size of a strip meet all conditions of one bit: 1 or 0."""
    begin = plan.condition_start[number]
    left = lefts[plan.condition_node[begin], first : first + size]
    turn = np.uint16(1 - plan.condition_left[begin])
    for b in range(size):
        bit[b] = left[b] ^ turn
    for c in range(begin + 1, plan.condition_start[number + 1]):
        left = lefts[plan.condition_node[c], first : first + size]
        turn = np.uint16(1 - plan.condition_left[c])
        for b in range(size):
            bit[b] &= left[b] ^ turn


@compiled
def worked_out(plan: Plan, group: int, states: Integers, meets: Floats, product: Floats, out: Floats) -> None:
    """Write to `out` (outputs, BLOCK) what each of a group's outputs is worth in each of BLOCK states."""
    out[: plan.out_start[group + 1] - plan.out_start[group]] = 0.0
    for leaf in range(plan.leaf_start[group], plan.leaf_start[group + 1]):
        head = plan.path_start[leaf]
        length = plan.path_start[leaf + 1] - head
        for e in range(length):
            mask, want = plan.path_mask[head + e], plan.path_want[head + e]
            for b in range(BLOCK):
                meets[e, b] = 1.0 if states[b] & mask == want else 0.0
        count = (length + 1) // 2
        for q in range(plan.quadrature_start[count], plan.quadrature_start[count + 1]):
            t, scaled = plan.points[q], plan.weights[q] * plan.leaf_value[leaf]
            for b in range(BLOCK):
                product[b] = scaled
            for e in range(length):
                off = plan.path_share[head + e] * (1.0 - t)
                for b in range(BLOCK):
                    product[b] *= off + meets[e, b] * t
            for e in range(length):
                share = plan.path_share[head + e]
                off = -1.0 / (1.0 - t)
                step = (1.0 - share) / (share + (1.0 - share) * t) - off
                column = out[plan.path_slot[head + e]]
                for b in range(BLOCK):
                    column[b] += product[b] * (off + meets[e, b] * step)


@compiled
def tabulate(plan: Plan, place: Integers, tables: Floats, first: int, last: int) -> None:
    """Write what every state of the groups first..last with a table is worth: at `place`, by output and state."""
    states = np.empty(BLOCK, dtype=np.int64)
    meets, product = np.empty((plan.longest, BLOCK)), np.empty(BLOCK)
    out = np.empty((plan.widest, BLOCK))
    for group in range(first, last):
        if plan.group_table[group] == 0:
            continue
        size, outputs = 1 << plan.group_bits[group], plan.out_start[group + 1] - plan.out_start[group]
        for start in range(0, size, BLOCK):
            for b in range(BLOCK):
                states[b] = start + b
            worked_out(plan, group, states, meets, product, out)
            for e in range(outputs):
                for b in range(min(BLOCK, size - start)):
                    tables[place[group] + e * size + start + b] = out[e, b]


@compiled
def add_up(plan: Plan, first: int, last: int, place: Integers, tables: Floats, codes: Codes, total: Floats) -> None:
    """Add to `total` (strips, inputs, rows a strip) what the trees first..last say; without tables, block by block."""
    rows, strip = codes.shape[1], total.shape[2]
    lefts = np.empty((plan.most_nodes, strip), dtype=np.uint16)
    state, bit = np.empty(strip, dtype=np.uint16), np.empty(strip, dtype=np.uint16)
    states, meets = np.empty(BLOCK, dtype=np.int64), np.empty((plan.longest, BLOCK))
    product, out = np.empty(BLOCK), np.empty((plan.widest, BLOCK))
    for start in range(0, rows, strip):
        size, sums = min(strip, rows - start), total[start // strip]
        for tree in range(first, last):
            decided(plan, tree, codes, start, size, lefts)
            for group in range(plan.group_start[tree], plan.group_start[tree + 1]):
                outputs = plan.out_start[group]
                count = plan.out_start[group + 1] - outputs
                bits = plan.bit_start[group]
                if plan.group_table[group] == 1 and len(tables) > 0:
                    for b in range(size):
                        state[b] = 0
                    for number in range(bits, plan.bit_start[group + 1]):
                        bit_of(plan, number, lefts, 0, size, bit)
                        shift = np.uint16(number - bits)
                        for b in range(size):
                            state[b] |= bit[b] << shift
                    length = 1 << plan.group_bits[group]
                    for e in range(count):
                        head = place[group] + e * length
                        table, column = tables[head : head + length], sums[plan.out_input[outputs + e]]
                        for b in range(size):
                            column[b] += table[state[b]]
                    continue
                for inner in range(0, size, BLOCK):
                    few = min(BLOCK, size - inner)
                    for b in range(BLOCK):
                        states[b] = 0
                    for number in range(bits, plan.bit_start[group + 1]):
                        bit_of(plan, number, lefts, inner, few, bit)
                        for b in range(few):
                            states[b] |= np.int64(bit[b]) << (number - bits)
                    worked_out(plan, group, states, meets, product, out)
                    for e in range(count):
                        column = sums[plan.out_input[outputs + e]]
                        for b in range(few):
                            column[inner + b] += out[e, b]


@compiled
def laid_out(total: Floats, result: Floats) -> None:
    """Write the sums (strips, inputs, rows a strip) to the rows of `result`, whose last column is left as it is."""
    strip = total.shape[2]
    for start in range(0, len(result), BLOCK):
        for feature in range(total.shape[1]):
            for row in range(start, min(start + BLOCK, len(result))):
                result[row, feature] = total[row // strip, feature, row % strip]
