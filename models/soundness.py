"""Whether reasons hold: what models of other seeds would have said, and what taking a reason away does.

Agreement compares models of the same rows and other seeds: those that the model averages, each by itself, which may
also differ in parameters, or refits. Where they name other reasons, the reason is owed to the draw and not to the
customer. The counterfactual puts a reason's input (or all inputs of its family) at what is typical in the reference and
asks the model again: a reason that names what raised the risk lowers it. Both look at the margin, before calibration,
which puts no customer before another.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from models import encoders, estimator
from models.inputs import Panel
from models.reasons import MOST, Floats, Integers, Ranked, Term
from models.scorer import Scorer

NONE = -1  # in `named`: no such reason
STRIDE = 101  # between the seeds of refits, as in training
BEYOND = 1000  # refits take seeds from here on; the model itself took the first ones


def seeds_averaged(booster: Any) -> int:
    """Return how many models of other seeds, all of as many trees, a booster's text averages; 1: it is one model."""
    rounds, trees = int(booster.params.get("num_iterations", 0)), booster.num_trees()
    return trees // rounds if rounds and trees % rounds == 0 else 1


def members(booster: Any, count: int) -> list[Any]:
    """Return the models that a booster averages, one after the other; their leaves are worth 1 / `count` of their own.

    count: of `seeds_averaged`.
    """
    import lightgbm

    each = booster.num_trees() // count
    texts = (booster.model_to_string(num_iteration=each, start_iteration=each * number) for number in range(count))
    return [lightgbm.Booster(model_str=text) for text in texts]


def refits(scorer: Scorer, panel: Panel, count: int) -> list[Any]:
    """Return `count` boosters as the scorer's was trained, on these rows, each with seeds of its own.

    Parameters, rounds and the number of seeds averaged are read from the scorer's booster; categories are coded anew as
    in training. panel: rows of both outcomes over the scorer's features.
    """
    given = {name: value for name, value in scorer.booster.params.items() if value not in ("", [], None)}
    rounds = max(1, int(given.pop("num_iterations", scorer.booster.num_trees())))
    each = max(1, round(scorer.booster.num_trees() / rounds))
    first = int(given.pop("seed", 0))
    monotone = given.pop("monotone_constraints", None) or []
    columns = [item.column for item in scorer.inputs]
    _, matrix = encoders.fit_matrix(panel, scorer.inputs, scorer.encoders.smoothing, first)
    seeds = [first + STRIDE * (BEYOND + number) for number in range(count * each)]
    plans = [estimator.parameters(_tuned(given), monotone, seed) for seed in seeds]
    shared = estimator.dataset(matrix, panel.outcome, columns, plans[0])
    texts = estimator.side_by_side(lambda plan: estimator.fit(shared, plan, rounds), plans)
    return [
        estimator.load(estimator.average(texts[start : start + each]), columns) for start in range(0, len(texts), each)
    ]


def _tuned(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that say how trees grow, without seeds, files and machines."""
    wanted = ("learning_rate", "num_leaves", "max_depth", "max_bin", "extra_trees", "path_smooth")
    starts = ("min_", "lambda_", "feature_fraction", "bagging_fraction", "pos_bagging", "neg_bagging", "cat_")
    return {name: value for name, value in given.items() if name in wanted or name.startswith(starts)}


def named(ranked: Ranked, customers: int) -> Integers:
    """Return each customer's reasons as numbers of families by rank, (customers, 4), -1 where there are fewer."""
    families = np.full((customers, MOST), NONE, dtype=np.int64)
    families[ranked.row, ranked.rank - 1] = ranked.family
    return families


def agreement(models: Sequence[Integers]) -> dict[str, float | None]:
    """Return how far models name the same reasons, means over all pairs of them and the customers with any reason.

    models: of each what `named` returns for the same customers. `first`: share with the same first reason.
    `first_by_chance`: what two would share who draw first reasons at random as often as the models name them.
    `first_among_four`: share whose first reason is among the other's. `shared`: reasons that both name, over those of
    the one that names more. Null where no customer has a reason.
    """
    found: dict[str, list[Floats]] = {"first": [], "first_by_chance": [], "first_among_four": [], "shared": []}
    for one, other in itertools.combinations(models, 2):
        some = (one[:, 0] != NONE) | (other[:, 0] != NONE)
        a, b = one[some], other[some]
        if not len(a):
            continue
        same = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] != NONE)
        most = np.maximum((a != NONE).sum(axis=1), (b != NONE).sum(axis=1))
        found["first"].append(same[:, 0, 0].astype(float))
        families = range(int(max(a.max(), b.max())) + 1)
        by_chance = sum(float((a[:, 0] == family).mean() * (b[:, 0] == family).mean()) for family in families)
        found["first_by_chance"].append(np.full(len(a), by_chance))
        found["first_among_four"].append((same[:, 0, :].max(axis=1) + 1.0 * same[:, :, 0].max(axis=1)) / 2)
        found["shared"].append(same.sum(axis=(1, 2)) / most)
    return {name: float(np.concatenate(parts).mean()) if parts else None for name, parts in found.items()}


def typical_point(matrix: Floats, values: pd.DataFrame, terms: Sequence[Term]) -> Floats:
    """Return the typical row of the reference as the booster takes it, (inputs,).

    matrix, values: the reference's rows, encoded and as features. The median of a number, the code of the most frequent
    category (the first in the alphabet of equals), missing where more than half of the rows have none: what
    `Reference.typical` says in words.
    """
    point = np.empty(len(terms))
    for place, term in enumerate(terms):
        missing = values[term.feature].isna().to_numpy()
        column = matrix[:, place]
        if missing.mean() > 0.5:
            point[place] = column[missing][0]
        elif term.kind != "categorical":
            point[place] = np.median(column[~missing])
        else:
            levels = values[term.feature].astype(str).to_numpy(dtype=object)
            names, counts = np.unique(levels[~missing].astype(str), return_counts=True)
            point[place] = column[~missing & (levels == names[counts.argmax()])][0]
    return point


def counterfactual(
    booster: Any, matrix: Floats, ranked: Ranked, families: Integers, point: Floats, points_a_unit: float
) -> dict[str, Any]:
    """Return what becomes of the risk where a told reason is taken away, over all reasons of these customers.

    matrix: the customers' rows, (n, inputs). families: the family's number of each input. point: of `typical_point`.
    For `feature` (the input that the reason tells) and `family` (all its inputs) put at the typical value: shares of
    reasons where the risk was lowered, unchanged and raised, the share lowered among first reasons, and the mean
    points won. Null where there is no reason.
    """
    before = estimator.margins(booster, matrix)[ranked.row]
    told: dict[str, Any] = {"reasons": len(ranked.row)}
    aims = {
        "feature": np.arange(matrix.shape[1]) == ranked.input[:, None],
        "family": families == ranked.family[:, None],
    }
    for name, aim in aims.items():
        won = before - estimator.margins(booster, np.where(aim, point, matrix[ranked.row]))
        shares = {
            "lowered": won > 0,
            "unchanged": won == 0,
            "raised": won < 0,
            "first_lowered": won[ranked.rank == 1] > 0,
        }
        told[name] = {key: float(hit.mean()) if len(hit) else None for key, hit in shares.items()}
        told[name]["points"] = float(won.mean() * points_a_unit) if len(won) else None
    return told
