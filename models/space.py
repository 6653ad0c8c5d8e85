"""Where the search looks: one function from a trial to LightGBM parameters, and known good points to start from.

The space is wide on purpose: on sets of 5 to 10 thousand rows the winner had 4 leaves once and 136 leaves another time.
Its bounds shrink with the number of rows and defaults, so that tens of defaults meet strong regularisation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Parameters = dict[str, Any]


class Trial(Protocol):
    """What the space asks of a trial: optuna's Trial and FixedTrial both give it."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return an integer."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of the choices."""


def tiny(rows: int, bads: int) -> bool:
    """Return whether so few rows or defaults teach that only strong regularisation is worth trying."""
    return rows < 1000 or bads < 100


def most_leaves(rows: int, bads: int) -> int:
    """Return the largest number of leaves worth trying: a leaf should have a default and twenty rows to speak of."""
    return max(4, min(512, rows // 20, bads // 2 if tiny(rows, bads) else bads))


def lightgbm_space(trial: Trial, *, rows: int, bads: int) -> Parameters:
    """Return LightGBM parameters for a trial on `rows` training rows with `bads` defaults."""
    small = tiny(rows, bads)
    return {
        "num_leaves": trial.suggest_int("num_leaves", 2 if small else 4, most_leaves(rows, bads), log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5 if small else 1, max(200, rows // 300), log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 1.0 if small else 0.01, 100.0, log=True),
        "lambda_l1": trial.suggest_float("lambda_l1", 0.001, 10.0, log=True),
        "path_smooth": trial.suggest_float("path_smooth", 0.01, 100.0, log=True),
        "extra_trees": trial.suggest_categorical("extra_trees", (False, True)),
        "max_bin": trial.suggest_categorical("max_bin", (63, 255)),
    }


def good_points(rows: int, bads: int) -> list[Mapping[str, Any]]:
    """Return the known good points, clipped into the space of this size: the first is the default.

    LightGBM as it comes, without any regularisation, is always among them where there is enough to learn from: where
    signals are sharp (Polish companies) it beats every calm point.
    """
    calm = {"lambda_l1": 0.01, "path_smooth": 1.0, "extra_trees": False, "max_bin": 255}
    few = {"num_leaves": 4, "min_data_in_leaf": 20, "feature_fraction": 0.3, "bagging_fraction": 0.7, "lambda_l2": 20.0}
    default = {"num_leaves": 15, "min_data_in_leaf": 60, "feature_fraction": 0.6, "bagging_fraction": 0.8}
    default |= {"lambda_l2": 10.0}
    untuned = {"num_leaves": 31, "min_data_in_leaf": 20, "feature_fraction": 1.0, "bagging_fraction": 1.0}
    untuned |= {"lambda_l2": 0.01, "lambda_l1": 0.001, "path_smooth": 0.01}
    sharp = {"num_leaves": 63, "min_data_in_leaf": 5, "feature_fraction": 0.3, "bagging_fraction": 0.9}
    sharp |= {"lambda_l2": 1.0, "extra_trees": True}
    stumps = {**few, "feature_fraction": 0.4, "min_data_in_leaf": 40, "lambda_l2": 10.0}
    fine = {"num_leaves": 31, "min_data_in_leaf": 20, "feature_fraction": 0.4, "bagging_fraction": 0.8}
    fine |= {"lambda_l2": 5.0}
    if tiny(rows, bads):
        points = [few, {**few, "num_leaves": 2}, {**few, "num_leaves": 8, "min_data_in_leaf": 10, "extra_trees": True}]
    elif bads < 200:
        points = [few, untuned, {**default, "min_data_in_leaf": 20}, sharp]
    else:
        points = [default, stumps, fine, untuned, sharp]
    leaves = most_leaves(rows, bads)
    seen: list[Mapping[str, Any]] = []
    for point in points:
        clipped = {**calm, **point, "num_leaves": min(int(point["num_leaves"]), leaves)}
        if clipped not in seen:
            seen.append(clipped)
    return seen
