"""Small models that answer for sets of columns: how well each set ranks held-out rows, and what each column adds.

A fold's matrix is built once; each set of columns is fitted on it with early stopping and asked about the held-out
rows at the number of rounds that is best over all folds. A column's worth is what its splits take off the log loss of
rows that did not train the trees, so that a column of noise is worth nothing however often it was split on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import encoders, estimator, metrics
from models.inputs import Input, Panel
from models.space import good_points
from models.splits import Indices, grouped_folds

RATE = 0.15  # learning rate
MOST_ROUNDS = 200
PATIENCE = 12  # rounds without a better log loss that end a fit
SMOOTHING = 20.0  # of target codes


@dataclass(frozen=True)
class _Part:
    """A fold: matrix, outcome and customers of what trains and what is asked, and two halves of what trains."""

    train: np.ndarray
    outcome: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]  # row numbers of `train`, no customer in both
    asked: np.ndarray
    answer: np.ndarray
    customer: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What a set of columns (one a fold) made of the held-out rows: margins a fold; AUC is their mean over folds."""

    margins: tuple[np.ndarray, ...]
    gains: tuple[np.ndarray, ...]  # a fold: of its columns, on the rows that trained
    rounds: int
    auc: float


class Refits:
    """The folds of a panel, ready to be asked about sets of columns."""

    def __init__(self, panel: Panel, inputs: Sequence[Input], indices: Indices, seed: int) -> None:
        self.inputs, self.seed = tuple(inputs), seed
        self.given = {**good_points(len(panel), panel.bads)[0], "learning_rate": RATE, "max_bin": 63}
        usable = [
            fold for fold in indices
            if all(len(rows) and 0 < panel.outcome[rows].mean() < 1 for rows in fold)
        ]  # fmt: skip

        def part(fold: tuple[np.ndarray, np.ndarray]) -> _Part:
            rows, asked = panel.take(fold[0]), panel.take(fold[1])
            coder, matrix = encoders.fit_matrix(rows, self.inputs, SMOOTHING, seed)
            half = grouped_folds(rows, 2, seed + 17)
            both = (np.flatnonzero(half == 0), np.flatnonzero(half == 1))
            test = coder.matrix(asked.features, self.inputs)
            return _Part(matrix, rows.outcome, both, test, asked.outcome, asked.customer)

        self.parts = [part(fold) for fold in usable]

    def ask(self, places: Sequence[np.ndarray]) -> Answer:
        """Return what models on these columns, one set a fold, say of the held-out rows."""
        jobs = list(zip(self.parts, places, strict=True))
        done = estimator.side_by_side(
            lambda job: self._fitted(job[0].train, job[0].outcome, job[0].asked, job[0].answer, job[1]), jobs
        )
        length = max(len(curve) for _, curve in done)
        rounds = int(np.mean([np.append(c, np.full(length - len(c), c[-1])) for _, c in done], axis=0).argmin()) + 1
        margins = tuple(
            np.asarray(booster.predict(part.asked[:, columns], raw_score=True, num_iteration=rounds, num_threads=1))
            for (booster, _), (part, columns) in zip(done, jobs, strict=True)
        )
        gains = tuple(np.asarray(booster.feature_importance("gain", iteration=rounds)) for booster, _ in done)
        area = float(np.mean([metrics.auc(p.answer, m) for p, m in zip(self.parts, margins, strict=True)]))
        return Answer(margins, gains, rounds, area)

    def worth(self) -> list[np.ndarray]:
        """Return, a fold, what each input takes off the log loss [nats a row] of train rows that its trees never saw.

        Two models a fold, each on half of the fold's train customers, judged on the other half: the fold's held-out
        rows have no say.
        """
        everything = np.arange(len(self.inputs))

        def half(job: tuple[_Part, int]) -> np.ndarray:
            part, number = job
            rows, asked = part.halves[number], part.halves[1 - number]
            if not 0 < part.outcome[rows].mean() < 1 or not 0 < part.outcome[asked].mean() < 1:
                return np.zeros(len(self.inputs))
            train, test = part.train[rows], part.train[asked]
            booster, curve = self._fitted(train, part.outcome[rows], test, part.outcome[asked], everything)
            return held_out_gain(booster, test, part.outcome[asked], int(curve.argmin()) + 1)

        done = estimator.side_by_side(half, [(part, number) for part in self.parts for number in (0, 1)])
        return [(first + second) / 2 for first, second in zip(done[::2], done[1::2], strict=True)]

    def difference(self, first: Answer, second: Answer) -> tuple[float, float]:
        """Return AUC(first) - AUC(second), mean over the folds, and its standard error (DeLong, paired, clustered)."""
        each = [
            metrics.auc_difference(part.answer, a, b, part.customer)
            for part, a, b in zip(self.parts, first.margins, second.margins, strict=True)
        ]
        found = [one for one in each if np.isfinite(one["difference"])]
        apart = float(np.mean([one["difference"] for one in found]))
        return apart, float(np.sqrt(np.sum([one["standard_error"] ** 2 for one in found])) / len(found))

    def _fitted(
        self, train: np.ndarray, outcome: np.ndarray, test: np.ndarray, answer: np.ndarray, columns: np.ndarray
    ) -> tuple[Any, np.ndarray]:
        """Return a booster on some columns and its log loss on the test rows after each round."""
        import lightgbm

        some = [self.inputs[place] for place in columns]
        share = min(1.0, max(0.3, 30 / len(some)))  # of the columns, a tree
        tuned = {**self.given, "feature_fraction": share}
        given = estimator.parameters(tuned, estimator.monotone_constraints(some, wanted=True), self.seed)
        given |= {"force_row_wise": False, "force_col_wise": True}  # faster where a tree sees a part of the columns
        names = [each.column for each in some]
        data = estimator.dataset(train[:, columns], outcome, names, given)
        valid = estimator.dataset(test[:, columns], answer, names, given, reference=data)
        record: dict[str, Any] = {}
        callbacks = [
            lightgbm.record_evaluation(record),
            lightgbm.early_stopping(PATIENCE, verbose=False),
        ]
        booster = lightgbm.train(
            given, data, num_boost_round=MOST_ROUNDS, valid_sets=[valid], valid_names=["asked"], callbacks=callbacks
        )
        return booster, np.array(record["asked"]["binary_logloss"])


def held_out_gain(booster: Any, matrix: np.ndarray, outcome: np.ndarray, rounds: int) -> np.ndarray:
    """Return what each column's splits take off the log loss [nats a row] of rows that the booster never saw.

    A split's share is the second-order change of the loss as its rows move from the node's value to its children's, at
    the margin that they had before the tree; a tree's shares sum to what the whole tree changes.
    """
    leaves = np.asarray(booster.predict(matrix, pred_leaf=True, num_iteration=rounds, num_threads=1))
    leaves = leaves.reshape(len(matrix), -1).astype(np.intp)
    trees = [_arrays(block) for block in booster.model_to_string(num_iteration=rounds).split("\nTree=")[1:]]
    result = np.zeros(matrix.shape[1])
    margin = np.zeros(len(matrix))
    for place, tree in enumerate(trees):
        values, leaf = tree["leaf_value"], leaves[:, place]
        before = margin if place else margin + values.mean()  # the first tree holds the level of all rows
        margin = margin + values[leaf]
        if "split_feature" not in tree:
            continue
        rate = estimator.probability(before)
        slope = np.bincount(leaf, weights=rate - outcome, minlength=len(values))
        bend = np.bincount(leaf, weights=rate * (1 - rate), minlength=len(values))
        _descend(tree, slope, bend, result, level=float(values.mean()) if place == 0 else 0.0)
    return result / len(matrix)


def _arrays(block: str) -> dict[str, np.ndarray]:
    """Return the arrays of one tree's text that say how it is built and what its nodes and leaves are worth."""
    wanted = ("split_feature", "left_child", "right_child", "leaf_value", "internal_value")
    lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    kinds = {name: float if name.endswith("value") else int for name in wanted}
    return {name: np.array(lines[name].split(), dtype=kinds[name]) for name in wanted if lines.get(name)}


def _descend(
    tree: dict[str, np.ndarray], slope: np.ndarray, bend: np.ndarray, result: np.ndarray, level: float
) -> None:
    """Add to `result` what each split of a tree takes off the loss, from the leaves' sums of gradient and curvature."""
    nodes = len(tree["split_feature"])
    g, h = np.zeros(nodes), np.zeros(nodes)

    def sums(child: int) -> tuple[float, float, float]:
        if child >= 0:
            return g[child], h[child], tree["internal_value"][child] - level
        return slope[~child], bend[~child], tree["leaf_value"][~child] - level

    for node in reversed(range(nodes)):  # children stand behind their parent
        value = tree["internal_value"][node] - level
        for child in (tree["left_child"][node], tree["right_child"][node]):
            first, second, moved = sums(child)
            g[node] += first
            h[node] += second
            result[tree["split_feature"][node]] -= first * (moved - value) + second * (moved**2 - value**2) / 2
