"""Exact path-dependent TreeSHAP for every customer: each input's share of a margin, many times faster than LightGBM's.

A tree is a sum over its leaves of product games. For a leaf of value v and the distinct inputs 1..m on its path let a_f
be 1 where the row meets every condition on f (else 0) and r_f the product of cover(child) / cover(node) over the nodes
that split on f. A coalition S is worth v * prod_S a_f * prod_not_S r_f, so the Shapley value of f is the integral over
t in [0, 1] of v * (a_f - r_f) * prod_{g != f} (r_g + (a_g - r_g) t): a polynomial of degree m - 1, which Gauss-Legendre
quadrature with ceil(m / 2) nodes integrates exactly, however deep the leaf. Each factor takes one of two values known
beforehand, and no factor is 0 inside (0, 1), so the product without f is the whole product over f's own factor.
The values are those of `pred_contrib` (Lundberg et al. 2018, arXiv:1802.03888, with tree_path_dependent).

What a leaf is worth depends on a row through m bits alone. So the leaves under one node are taken together as a group:
its state is a bit for each input on the path to the node and one for each node below, and where these are few, what
each input gets in every state is worked out once and looked up for all rows (the idea of Fast TreeSHAP v2, Yang 2021,
arXiv:2109.09847, for groups of leaves in place of one). Leaves with more bits, and few rows, are worked out row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

THREADS = 2
TOGETHER = 11  # bits of a group of leaves, at most
ALONE = 12  # bits of one leaf that is tabulated, at most
STRIP = 4096  # rows looked up side by side, at most
TABULATED = 4000  # rows from which on tables are worth their making
ROWS = 65_536  # at a time: bounds memory
TABLES = 2_000_000  # doubles that tables may hold at a time
MOST_BITS = 62  # of a state
MOST_CUTS = 65_534  # thresholds of an input
MISSING_ZERO, MISSING_NAN = 1, 2
ZERO = float(np.float32(1e-35))  # what LightGBM takes for zero


class NotApplicable(ValueError):
    """The model has trees that the kernel does not cover: categorical splits, linear leaves, averaged output."""


@dataclass(frozen=True)
class Forest:
    """The trees of a model with one output a row, as the loops take them."""

    inputs: int
    bias: float  # the value of a row of which nothing is known: sum of v * prod r_f
    plan: Any  # treeshap_loops.Plan

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the forest of a LightGBM model text with one output a row; NotApplicable where that cannot be."""
        inputs, trees = read_trees(text)
        layout = Layout()
        for tree in trees:
            layout.add(tree)
        return cls(inputs, layout.bias, layout.plan())

    def contributions(self, matrix: Floats) -> Floats:
        """Return each input's contribution to each row's margin, the bias in the last column.

        matrix: doubles, shape (n, inputs), NaN where missing. Returns log-odds, shape (n, inputs + 1); a row sums to
        its margin. The result does not depend on the number of threads or on other rows. The first call compiles.
        """
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != self.inputs:
            raise ValueError(f"matrix must be (n, {self.inputs}); got {matrix.shape}.")
        result = np.empty((len(matrix), self.inputs + 1))
        result[:, -1] = self.bias
        with ThreadPoolExecutor(THREADS) as threads:
            for first in range(0, len(matrix), ROWS):
                self._explain(matrix[first : first + ROWS], result[first : first + ROWS], threads)
        return result

    def _explain(self, matrix: Floats, result: Floats, threads: ThreadPoolExecutor) -> None:
        """Write the contributions of some rows to `result`: threads share the rows, and the making of tables."""
        from models import treeshap_loops as loops

        plan = self.plan
        step = -(-len(matrix) // THREADS)
        strip = -(-step // -(-step // STRIP))
        parts = [slice(first, first + step) for first in range(0, len(matrix), step)]
        codes = [np.empty((len(plan.column_input), len(matrix[part])), np.uint16) for part in parts]
        total = [np.zeros((-(-each.shape[1] // strip), self.inputs, strip)) for each in codes]

        def side_by_side(work: Callable[..., None], *some: Iterable[Any]) -> None:
            list(threads.map(work, *some))

        side_by_side(partial(loops.coded, plan), [matrix[part] for part in parts], codes)
        for trees, place, size in self._batches(tabulated=len(matrix) >= TABULATED):
            tables = np.empty(size)
            if size:
                begin, end = plan.group_start[trees.start], plan.group_start[trees.stop]
                groups = np.linspace(begin, end, 4 * THREADS + 1).astype(int)
                side_by_side(partial(loops.tabulate, plan, place, tables), groups[:-1], groups[1:])
            add_up = partial(loops.add_up, plan, trees.start, trees.stop, place, tables)
            side_by_side(add_up, codes, total)
        side_by_side(loops.laid_out, total, [result[part] for part in parts])

    def _batches(self, *, tabulated: bool) -> Iterator[tuple[range, Integers, int]]:
        """Yield trees whose tables fit into memory together, where each group's table begins, and their size."""
        plan = self.plan
        trees = len(plan.group_start) - 1
        sizes = np.where(plan.group_table == 1, np.diff(plan.out_start) << np.minimum(plan.group_bits, MOST_BITS), 0)
        until = np.append(0, np.cumsum(sizes))
        if not tabulated:
            yield range(trees), until, 0
            return
        ends, first = until[plan.group_start], 0
        while first < trees:
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + TABLES, side="right")) - 1)
            yield range(first, last), until - ends[first], int(ends[last] - ends[first])
            first = last


def contributor(booster: Any) -> Callable[[Floats], Floats]:
    """Return what gives `booster.predict(matrix, pred_contrib=True)`: the kernel, or LightGBM where it does not apply.

    booster: a LightGBM Booster with one output. The function takes doubles, (n, inputs), and returns log-odds,
    (n, inputs + 1), the bias last.
    """
    try:
        return Forest.from_text(booster.model_to_string()).contributions
    except NotApplicable:
        return lambda matrix: np.asarray(
            booster.predict(matrix, pred_contrib=True, num_threads=THREADS), dtype=np.float64
        )


def contributions(booster: Any, matrix: Floats) -> Floats:
    """Return what `contributor` gives for one matrix."""
    return contributor(booster)(matrix)


def read_trees(text: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of inputs and the trees of a LightGBM model text, each as lists by LightGBM's own names.

    `missing` and `default_left` are what its `decision_type` says of each node.

    NotApplicable where the margin is not a plain sum of trees of numeric splits.
    """
    head, *blocks = text.split("\nend of trees", 1)[0].split("\nTree=")
    facts = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    if facts.get("num_tree_per_iteration", "1") != "1" or "average_output" in head:
        raise NotApplicable("one output a row, summed over trees")
    return int(facts["max_feature_idx"]) + 1, [_tree(block) for block in blocks]


def _tree(block: str) -> dict[str, Any]:
    """Return one tree of the text: lists by name; a tree of one leaf has no nodes."""
    facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    if facts.get("num_cat", "0") != "0" or facts.get("is_linear", "0") != "0":
        raise NotApplicable("numeric splits and constant leaves")

    def numbers(name: str, kind: type) -> list[Any]:
        return [kind(value) for value in facts.get(name, "").split()]

    tree = {name: numbers(name, int) for name in ("split_feature", "decision_type", "left_child", "right_child")}
    tree |= {name: numbers(name, int) for name in ("leaf_count", "internal_count")}
    tree |= {name: numbers(name, float) for name in ("threshold", "leaf_value")}
    tree["missing"] = [kind >> 2 & 3 for kind in tree["decision_type"]]
    tree["default_left"] = [kind >> 1 & 1 for kind in tree["decision_type"]]
    if any(count <= 0 for count in tree["internal_count"] + (tree["leaf_count"] if tree["internal_count"] else [])):
        raise NotApplicable("covers above zero")
    return tree


Steps = list[tuple[int, int]]  # (node, 1 where the path goes left)


@dataclass
class Layout:
    """A forest while it is laid out: lists that become the arrays of a Plan, and where each owner's part ends."""

    bias: float = 0.0
    nodes: list[tuple[int, int, float, int]] = field(default_factory=list)  # input, missing, threshold, default left
    groups: list[tuple[int, int]] = field(default_factory=list)  # bits, table
    conditions: Steps = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    paths: list[tuple[int, float, int, int]] = field(default_factory=list)  # output, r_f, mask, wanted bits
    outputs: list[int] = field(default_factory=list)
    ends: dict[str, list[int]] = field(
        default_factory=lambda: {name: [0] for name in ("node", "group", "bit", "condition", "leaf", "path", "out")}
    )
    bits: int = 0

    def add(self, tree: dict[str, Any]) -> None:
        """Lay out one tree; one of a single leaf moves the bias alone."""
        if not tree["split_feature"]:
            self.bias += tree["leaf_value"][0]
            return
        columns = ("split_feature", "missing", "threshold", "default_left")
        self.nodes += zip(*(tree[name] for name in columns), strict=True)
        self.ends["node"].append(len(self.nodes))
        below = _below(tree)
        stack: list[tuple[int, dict[int, tuple[float, Steps]]]] = [(0, {})]
        while stack:
            node, path = stack.pop()
            inner = below[node] if node >= 0 else 0
            if node < 0 or len(path) + inner <= TOGETHER:
                self._group(tree, node, path)
            else:
                stack += [(child, _further(tree, node, path, child)) for child in _children(tree, node)]
        self.ends["group"].append(len(self.groups))

    def _group(self, tree: dict[str, Any], root: int, path: dict[int, tuple[float, Steps]]) -> None:
        """Lay out the leaves under a node: a bit for each input on the path to it, then for each node below."""
        place = {feature: number for number, feature in enumerate(path)}
        for _, steps in path.values():
            self._bit(steps)
        bit_of: dict[int, int] = {}
        slots: dict[int, int] = {}
        stack = [(root, path)]
        while stack:
            node, here = stack.pop()
            if node < 0:
                self._leaf(tree["leaf_value"][~node], here, path, place, bit_of, slots)
                continue
            bit_of[node] = len(path) + len(bit_of)
            self._bit([(node, 1)])
            stack += [(child, _further(tree, node, here, child)) for child in _children(tree, node)]
        count = len(path) + len(bit_of)
        if count > MOST_BITS:
            raise NotApplicable(f"at most {MOST_BITS} inputs on a path")
        self.groups.append((count, int(count <= (ALONE if root < 0 else TOGETHER))))
        self.outputs += list(slots)
        for name, owned in (("bit", self.bits), ("leaf", len(self.values)), ("out", len(self.outputs))):
            self.ends[name].append(owned)

    def _bit(self, steps: Steps) -> None:
        """Lay out one bit: 1 where all conditions hold."""
        self.conditions += steps
        self.ends["condition"].append(len(self.conditions))
        self.bits += 1

    def _leaf(
        self, value: float, here: dict[int, tuple[float, Steps]], above: dict[int, tuple[float, Steps]],
        place: dict[int, int], bit_of: dict[int, int], slots: dict[int, int],
    ) -> None:  # fmt: skip
        """Lay out one leaf of a group: for each input on its path which bits of the state it wants."""
        together = value
        for feature, (share, steps) in here.items():
            together *= share
            mask, want = (1 << place[feature],) * 2 if feature in place else (0, 0)
            for node, left in steps[len(above[feature][1]) if feature in above else 0 :]:
                mask |= 1 << bit_of[node]
                want |= left << bit_of[node]
            self.paths.append((slots.setdefault(feature, len(slots)), share, mask, want))
        self.bias += together
        self.values.append(value)
        self.ends["path"].append(len(self.paths))

    def plan(self) -> Any:
        """Return the arrays."""
        from models.treeshap_loops import Plan

        columns = sorted({(feature, missing) for feature, missing, _, _ in self.nodes})
        number = {column: place for place, column in enumerate(columns)}
        of_node = _whole([number[feature, missing] for feature, missing, _, _ in self.nodes])
        threshold = np.array([node[2] for node in self.nodes], dtype=np.float64)
        cuts = [np.unique(threshold[of_node == place]) for place in range(len(columns))]
        if max(map(len, cuts), default=0) > MOST_CUTS:
            raise NotApplicable(f"at most {MOST_CUTS} thresholds of an input")
        node_cut = np.zeros(len(threshold), dtype=np.int64)
        for place, mine in enumerate(cuts):
            node_cut[of_node == place] = np.searchsorted(mine, threshold[of_node == place])
        ends = {name: _whole(values) for name, values in self.ends.items()}
        longest = int(np.diff(ends["path"]).max(initial=1))
        points, weights, start = _quadrature((longest + 1) // 2)
        return Plan(
            _whole([feature for feature, _ in columns]), _whole([missing for _, missing in columns]),
            _whole([0, *np.cumsum([len(mine) for mine in cuts])]), np.concatenate([np.empty(0), *cuts]),
            ends["node"], of_node, node_cut, _whole([node[3] for node in self.nodes]),
            ends["group"], _whole([bits for bits, _ in self.groups]), _whole([table for _, table in self.groups]),
            ends["bit"], ends["condition"], _whole([node for node, _ in self.conditions]),
            _whole([left for _, left in self.conditions]), ends["leaf"], np.array(self.values, dtype=np.float64),
            ends["path"], _whole([path[0] for path in self.paths]),
            np.array([path[1] for path in self.paths], dtype=np.float64), _whole([path[2] for path in self.paths]),
            _whole([path[3] for path in self.paths]), ends["out"], _whole(self.outputs), points, weights, start,
            longest, int(np.diff(ends["out"]).max(initial=1)), int(np.diff(ends["node"]).max(initial=1)),
        )  # fmt: skip


def _whole(values: list[int]) -> Integers:
    return np.array(values, dtype=np.int64)


def _children(tree: dict[str, Any], node: int) -> tuple[int, int]:
    """Return a node's children, right and left; below zero: a leaf."""
    return tree["right_child"][node], tree["left_child"][node]


def _below(tree: dict[str, Any]) -> list[int]:
    """Return how many nodes hang under each node, itself among them; LightGBM numbers children after their parent."""
    count = [1] * len(tree["split_feature"])
    for node in reversed(range(len(count))):
        count[node] += sum(count[child] for child in _children(tree, node) if child >= 0)
    return count


def _further(
    tree: dict[str, Any], node: int, path: dict[int, tuple[float, Steps]], child: int
) -> dict[int, tuple[float, Steps]]:
    """Return the path to a node's child: of each input r_f and the steps taken by it."""
    feature = tree["split_feature"][node]
    share, steps = path.get(feature, (1.0, []))
    below = tree["leaf_count"][~child] if child < 0 else tree["internal_count"][child]
    step = (node, int(child == tree["left_child"][node]))
    return {**path, feature: (share * below / tree["internal_count"][node], [*steps, step])}


def _quadrature(most: int) -> tuple[Floats, Floats, Integers]:
    """Return Gauss-Legendre points and weights on (0, 1) for 1..most points in one array, and where each begins."""
    points, weights, start = [np.empty(0)], [np.empty(0)], [0, 0]
    for count in range(1, most + 1):
        x, w = np.polynomial.legendre.leggauss(count)
        points.append((x + 1) / 2)
        weights.append(w / 2)
        start.append(start[-1] + count)
    return np.concatenate(points), np.concatenate(weights), _whole(start)
