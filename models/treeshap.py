"""Exact path-dependent TreeSHAP for every customer: each input's share of a margin, many times faster than LightGBM's.

A tree is a sum over its leaves of product games. For a leaf of value v and the distinct inputs 1..m on its path let a_f
be 1 where the row meets every condition on f (else 0) and r_f the product of cover(child) / cover(node) over the nodes
that split on f. A coalition S is worth v * prod_S a_f * prod_not_S r_f, so the Shapley value of f is the integral over
t in [0, 1] of v * (a_f - r_f) * prod_{g != f} (r_g + (a_g - r_g) t): a polynomial of degree m - 1, which Gauss-Legendre
quadrature with ceil(m / 2) nodes integrates exactly, however deep the leaf. Each factor takes one of two values known
beforehand, and no factor is 0 inside (0, 1), so the product without f is the whole product over f's own factor.
The values are those of `pred_contrib` (Lundberg et al. 2018, arXiv:1802.03888, with tree_path_dependent).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BLOCK = 128  # rows side by side: their factors stay in cache
THREADS = 2
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of LightGBM's decision_type; the next two are the missing type
MISSING_ZERO, MISSING_NAN = 1, 2
ZERO = float(np.float32(1e-35))  # what LightGBM takes for zero


class NotApplicable(ValueError):
    """The model has trees that the kernel does not cover: categorical splits, linear leaves, averaged output."""


@dataclass(frozen=True)
class Forest:
    """The trees as flat arrays: nodes by tree, leaves by tree, the inputs on each leaf's path, their conditions."""

    inputs: int
    bias: float  # the value of a row of which nothing is known: sum of v * prod r_f
    node_input: Integers
    threshold: Floats
    missing: Integers
    default_left: Integers
    node_start: Integers  # (trees + 1,)
    leaf_start: Integers  # (trees + 1,): into leaf_value
    leaf_value: Floats
    path_start: Integers  # (leaves + 1,): into path_input
    path_input: Integers
    path_share: Floats  # r_f
    condition_start: Integers  # (path inputs + 1,)
    condition_node: Integers  # place in its tree
    condition_left: Integers  # 1 where the path goes left

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the forest of a LightGBM model text with one output a row; NotApplicable where that cannot be."""
        inputs, trees = read_trees(text)
        nodes: dict[str, list[Any]] = {name: [] for name in ("input", "threshold", "missing", "left")}
        values: list[float] = []
        paths: list[tuple[int, float]] = []
        conditions: list[tuple[int, int]] = []
        node_start, leaf_start, path_start, condition_start = [0], [0], [0], [0]
        bias = 0.0
        for tree in trees:
            nodes["input"] += tree["split_feature"]
            nodes["threshold"] += tree["threshold"]
            nodes["missing"] += tree["missing"]
            nodes["left"] += tree["default_left"]
            node_start.append(len(nodes["input"]))
            for value, path in _leaves(tree):
                if not path:  # a tree of one leaf moves the bias alone
                    bias += value
                    continue
                together = 1.0
                for feature, (share, steps) in path.items():
                    together *= share
                    paths.append((feature, share))
                    conditions += steps
                    condition_start.append(len(conditions))
                bias += value * together
                values.append(value)
                path_start.append(len(paths))
            leaf_start.append(len(values))
        return cls(
            inputs, bias,
            _whole(nodes["input"]), np.array(nodes["threshold"], dtype=np.float64), _whole(nodes["missing"]),
            _whole(nodes["left"]), _whole(node_start), _whole(leaf_start), np.array(values, dtype=np.float64),
            _whole(path_start), _whole([feature for feature, _ in paths]),
            np.array([share for _, share in paths], dtype=np.float64), _whole(condition_start),
            _whole([node for node, _ in conditions]), _whole([left for _, left in conditions]),
        )  # fmt: skip

    def contributions(self, matrix: Floats) -> Floats:
        """Return each input's contribution to each row's margin, the bias in the last column.

        matrix: doubles, shape (n, inputs), NaN where missing. Returns log-odds, shape (n, inputs + 1); a row sums to
        its margin. The result does not depend on the number of threads or on other rows. The first call compiles.
        """
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != self.inputs:
            raise ValueError(f"matrix must be (n, {self.inputs}); got {matrix.shape}.")
        result = np.zeros((len(matrix), self.inputs + 1))
        result[:, -1] = self.bias
        longest = int(np.diff(self.path_start).max(initial=1))
        points, weights, start = _quadrature((longest + 1) // 2)
        kernel = _compiled()
        step = max(BLOCK, -(-len(matrix) // (4 * THREADS * BLOCK)) * BLOCK)

        trees = (
            self.node_input, self.threshold, self.missing, self.default_left, self.node_start, self.leaf_start,
            self.leaf_value, self.path_start, self.path_input, self.path_share, self.condition_start,
            self.condition_node, self.condition_left, points, weights, start, longest,
        )  # fmt: skip

        def part(first: int) -> None:
            kernel(matrix[first : first + step], result[first : first + step], *trees)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(part, range(0, len(matrix), step)))
        return result


def contributions(booster: Any, matrix: Floats) -> Floats:
    """Return `booster.predict(matrix, pred_contrib=True)`: by the kernel, or by LightGBM where that does not apply.

    booster: a LightGBM Booster with one output. matrix: doubles, (n, inputs). Returns log-odds, (n, inputs + 1).
    """
    try:
        return Forest.from_text(booster.model_to_string()).contributions(matrix)
    except NotApplicable:
        return np.asarray(booster.predict(matrix, pred_contrib=True, num_threads=THREADS), dtype=np.float64)


def _whole(values: list[int]) -> Integers:
    return np.array(values, dtype=np.int64)


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


Path = dict[int, tuple[float, list[tuple[int, int]]]]  # input -> (r_f, [(node, 1 where left)])


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[float, Path]]:
    """Yield every leaf's value and the inputs on its path."""
    if not tree["split_feature"]:
        yield tree["leaf_value"][0], {}
        return
    stack: list[tuple[int, Path]] = [(0, {})]
    while stack:
        node, path = stack.pop()
        if node < 0:
            yield tree["leaf_value"][~node], path
            continue
        feature, cover = tree["split_feature"][node], tree["internal_count"][node]
        for left, child in ((0, tree["right_child"][node]), (1, tree["left_child"][node])):
            share, steps = path.get(feature, (1.0, []))
            below = tree["leaf_count"][~child] if child < 0 else tree["internal_count"][child]
            stack.append((child, {**path, feature: (share * below / cover, [*steps, (node, left)])}))


def _quadrature(most: int) -> tuple[Floats, Floats, Integers]:
    """Return Gauss-Legendre points and weights on (0, 1) for 1..most points in one array, and where each begins."""
    points, weights, start = [np.empty(0)], [np.empty(0)], [0, 0]
    for count in range(1, most + 1):
        x, w = np.polynomial.legendre.leggauss(count)
        points.append((x + 1) / 2)
        weights.append(w / 2)
        start.append(start[-1] + count)
    return np.concatenate(points), np.concatenate(weights), _whole(start)


_KERNEL: list[Any] = []


def _compiled() -> Any:
    """Return the kernel as machine code; numba keeps it in __pycache__ between processes."""
    if not _KERNEL:
        from numba import njit

        _KERNEL.append(njit(_kernel, nogil=True, cache=True, fastmath={"contract"}, error_model="numpy"))
    return _KERNEL[0]


def _kernel(
    matrix: Floats, result: Floats, node_input: Integers, threshold: Floats, missing: Integers, default_left: Integers,
    node_start: Integers, leaf_start: Integers, leaf_value: Floats, path_start: Integers, path_input: Integers,
    path_share: Floats, condition_start: Integers, condition_node: Integers, condition_left: Integers, points: Floats,
    weights: Floats, quadrature_start: Integers, longest: int,
) -> None:  # fmt: skip
    """Add every leaf's Shapley values to `result`, a block of rows at a time. Plain loops: numba compiles them."""
    rows, inputs = matrix.shape
    most_nodes = 1
    for tree in range(len(node_start) - 1):
        most_nodes = max(most_nodes, node_start[tree + 1] - node_start[tree])
    across = np.empty((inputs, BLOCK))
    total = np.empty((inputs, BLOCK))
    goes_left = np.empty((most_nodes, BLOCK), dtype=np.int8)
    meets = np.empty((longest, BLOCK))
    product = np.empty(BLOCK)
    for first in range(0, rows, BLOCK):
        size = min(BLOCK, rows - first)
        for feature in range(inputs):
            for b in range(BLOCK):
                across[feature, b] = matrix[first + b, feature] if b < size else 0.0
                total[feature, b] = 0.0
        for tree in range(len(node_start) - 1):
            begin = node_start[tree]
            for node in range(begin, node_start[tree + 1]):
                values = across[node_input[node]]
                bound, kind, default, place = threshold[node], missing[node], default_left[node], node - begin
                for b in range(BLOCK):
                    value = values[b]
                    unknown = value != value  # noqa: PLR0124
                    if unknown and kind != MISSING_NAN:
                        value = 0.0
                    to_default = (kind == MISSING_NAN and unknown) or (kind == MISSING_ZERO and -ZERO <= value <= ZERO)
                    goes_left[place, b] = default if to_default else value <= bound
            for leaf in range(leaf_start[tree], leaf_start[tree + 1]):
                head = path_start[leaf]
                length = path_start[leaf + 1] - head
                for e in range(length):
                    for b in range(BLOCK):
                        meets[e, b] = 1.0
                    for c in range(condition_start[head + e], condition_start[head + e + 1]):
                        bits, want = goes_left[condition_node[c]], condition_left[c]
                        for b in range(BLOCK):
                            meets[e, b] = meets[e, b] if bits[b] == want else 0.0
                count = (length + 1) // 2
                for q in range(quadrature_start[count], quadrature_start[count + 1]):
                    t, scaled = points[q], weights[q] * leaf_value[leaf]
                    for b in range(BLOCK):
                        product[b] = scaled
                    for e in range(length):
                        share = path_share[head + e]
                        off = share * (1.0 - t)
                        for b in range(BLOCK):
                            product[b] *= off + meets[e, b] * t
                    for e in range(length):
                        share = path_share[head + e]
                        off = -1.0 / (1.0 - t)
                        step = (1.0 - share) / (share + (1.0 - share) * t) - off
                        column = total[path_input[head + e]]
                        for b in range(BLOCK):
                            column[b] += product[b] * (off + meets[e, b] * step)
        for b in range(size):
            for feature in range(inputs):
                result[first + b, feature] += total[feature, b]
