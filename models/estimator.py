"""LightGBM, fenced: it validates almost nothing, so labels, values, columns and text are checked here.

A fit is deterministic: rows in a total order, every seed set, one thread a fit and two fits side by side (faster than
one fit on two threads, which wait for each other at every node). Its text carries no thread count of the machine, and
several seeds become one text whose margin is the mean of theirs. Margins are log-odds before calibration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from features.errors import DataRefused, IntegrityRefused, Problem
from models import criterion
from models.inputs import Input

THREADS = 1  # a fit; 100 rounds on 22,500 x 39 took .46 s on one, .65 s on two that wait passively
SIDE_BY_SIDE = 2  # fits at a time

T = TypeVar("T")
R = TypeVar("R")
FIXED: dict[str, Any] = {
    "objective": "binary",
    "boosting": "gbdt",
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": THREADS,
    "verbosity": -1,
    "bagging_freq": 1,
    "feature_pre_filter": False,
    "metric": "binary_logloss",
}
DATASET_KEYS = ("max_bin", "min_data_in_bin", "feature_pre_filter", "num_threads", "force_row_wise", "verbosity")


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `work` of each item in order, some at a time in threads (LightGBM trains without Python's lock)."""
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        return list(pool.map(work, items))


def parameters(tuned: Mapping[str, Any], monotone: Sequence[int], seed: int) -> dict[str, Any]:
    """Return complete LightGBM parameters: the tuned ones, what is fixed, constraints and seeds."""
    given = {**tuned, **FIXED, "seed": seed, "deterministic": True}
    if any(monotone):
        given |= {"monotone_constraints": list(monotone), "monotone_constraints_method": "basic"}
    return given


def monotone_constraints(inputs: Sequence[Input], wanted: bool) -> tuple[int, ...]:
    """Return +1, -1 or 0 for each input: risk may only move as the feature's direction says, where it says so."""
    return tuple(each.direction if wanted and each.kind != "categorical" else 0 for each in inputs)


def check(matrix: np.ndarray, outcome: np.ndarray | None = None, *, both: bool = True) -> None:
    """Refuse (exit code 2) what LightGBM would swallow: labels other than 0 and 1, one class, infinite values."""
    problems = []
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        problems.append(
            Problem("model matrix", "rows by at least one feature", f"shape {matrix.shape}", "See `select`.")
        )
    elif np.isinf(matrix).any():
        columns = np.isinf(matrix).any(axis=0).sum()
        problems.append(Problem("model matrix", "finite or missing", f"{columns} columns with infinity", "Mend them."))
    if outcome is not None:
        if len(outcome) != len(matrix):
            problems.append(Problem("labels", f"{len(matrix)} of them", f"{len(outcome)}", "Join them by key."))
        if not np.isin(outcome, (0, 1)).all():
            problems.append(Problem("labels", "0 or 1", "other values", "Unknown outcomes never train."))
        elif both and len(np.unique(outcome)) < 2:
            problems.append(Problem("labels", "of both classes", "one class only", "Wait for more outcomes."))
    if problems:
        raise DataRefused(problems)


def dataset(
    matrix: np.ndarray, outcome: np.ndarray, columns: Sequence[str], given: Mapping[str, Any], reference: Any = None
) -> Any:
    """Return a constructed LightGBM data set, to be shared by fits that agree on `max_bin`.

    With `reference` (the training set) it is a validation set, which may hold one class only.
    """
    import lightgbm

    check(matrix, outcome, both=reference is None)
    return lightgbm.Dataset(
        matrix,
        label=outcome.astype(np.float64),
        feature_name=list(columns),
        params={key: given[key] for key in DATASET_KEYS if key in given},
        reference=reference,
    ).construct()


def fit(data: Any, given: Mapping[str, Any], rounds: int) -> str:
    """Train `rounds` trees on a data set of `dataset` and return the booster as normalised text."""
    import lightgbm

    booster = lightgbm.train(dict(given), data, num_boost_round=rounds)
    return normalised(booster.model_to_string(num_iteration=-1))


def normalised(text: str) -> str:
    """Return a booster's text with the thread count fixed, so that it never depends on the machine."""
    return re.sub(r"^\[num_threads: -?\d+\]$", f"[num_threads: {THREADS}]", text, flags=re.MULTILINE)


def average(texts: Sequence[str]) -> str:
    """Return one booster's text whose margin is the mean of the given boosters' margins.

    All trees stand behind each other, leaf values divided by the number of boosters; node values too, so that tree
    explanations stay additive.
    """
    if len(texts) == 1:
        return texts[0]
    parts = [_parts(text) for text in texts]
    trees = [_scaled(tree, 1 / len(texts)) for _, some, _ in parts for tree in some]
    numbered = [re.sub(r"^Tree=\d+", f"Tree={place}", tree) for place, tree in enumerate(trees)]
    sizes = " ".join(str(len(tree.encode())) for tree in numbered)
    header = re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", parts[0][0], flags=re.MULTILINE)
    return header + "".join(numbered) + parts[0][2]


def _parts(text: str) -> tuple[str, list[str], str]:
    """Return (header, trees, tail) of a booster's text."""
    start, end = text.index("Tree=0\n"), text.index("end of trees")
    return text[:start], re.split(r"(?=^Tree=\d+$)", text[start:end], flags=re.MULTILINE)[1:], text[end:]


def _scaled(tree: str, factor: float) -> str:
    """Return a tree with its leaf and node values multiplied by `factor`."""

    def scale(match: re.Match[str]) -> str:
        numbers = (repr(float(number) * factor) for number in match.group(2).split())
        return f"{match.group(1)}={' '.join(numbers)}"

    return re.sub(r"^(leaf_value|internal_value)=(.+)$", scale, tree, flags=re.MULTILINE)


def load(text: str | bytes, columns: Sequence[str]) -> Any:
    """Return the booster of a text whose hash was checked before, or refuse (exit code 7) what cannot be one.

    LightGBM kills the process on a torn text, so tree sizes, ends and column names are checked first.
    """
    import lightgbm

    content = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    found = ""
    sizes = re.search(r"^tree_sizes=([0-9 ]*)$", content, flags=re.MULTILINE)
    names = re.search(r"^feature_names=(.*)$", content, flags=re.MULTILINE)
    if not content.startswith("tree\n") or sizes is None or names is None or "end of trees" not in content:
        found = "no complete LightGBM text"
    elif "Tree=0\n" in content:
        body = content[content.index("Tree=0\n") : content.index("end of trees")]
        if len(body.encode()) != sum(int(size) for size in sizes.group(1).split()):
            found = "trees of another length than its header states"
    if not found and names is not None and names.group(1).split() != list(columns):
        found = f"{len(names.group(1).split())} columns that are not those of features.json ({len(columns)})"
    if found:
        raise IntegrityRefused(Problem("booster.txt", "the booster of this bundle", found, "Restore the bundle."))
    return lightgbm.Booster(model_str=content)


def margins(booster: Any, matrix: np.ndarray) -> np.ndarray:
    """Return one log-odds a row, before calibration."""
    check(matrix)
    if len(matrix) == 0:
        return np.empty(0)
    return np.asarray(booster.predict(matrix, raw_score=True, num_threads=THREADS), dtype=float)


def probability(margin: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-margin)) without overflow."""
    from scipy.special import expit

    return np.asarray(expit(margin))


def learning_curve(
    train: Any, valid: Any, given: Mapping[str, Any], rounds: int, patience: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (log loss, AUC) on `valid` after each round; stops when `patience` rounds brought no better log loss.

    The log loss is that of models/criterion.py, after a calibration line. `train` and `valid` are data sets, `valid`
    built with `train` as reference.
    """
    import lightgbm

    record: dict[str, Any] = {}
    outcome = np.asarray(valid.get_label(), dtype=float)
    drawn = criterion.NO_LINE

    def calibrated(probability: np.ndarray, _: Any) -> tuple[str, float, bool]:
        nonlocal drawn
        loss, drawn = criterion.log_loss(criterion.log_odds(probability), outcome, drawn)
        return "calibrated", loss, False

    def stop(state: Any) -> None:
        losses = record["valid"]["calibrated"]
        if len(losses) - 1 - int(np.argmin(losses)) >= patience:
            raise lightgbm.callback.EarlyStopException(state.iteration, state.evaluation_result_list)

    stop.order = 30  # type: ignore[attr-defined]  # after the record is written
    lightgbm.train(
        {**given, "metric": ["auc"]},
        train,
        num_boost_round=rounds,
        valid_sets=[valid],
        valid_names=["valid"],
        feval=calibrated,
        callbacks=[lightgbm.record_evaluation(record), stop],
    )
    return np.array(record["valid"]["calibrated"]), np.array(record["valid"]["auc"])
