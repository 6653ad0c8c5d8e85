"""Who teaches, who is asked: out-of-time test rows, and folds inside the train rows.

The last as_ofs are the test; train are the as_ofs whose outcome windows close before the test starts, so no train
outcome overlaps it. Folds inside train are grouped by customer and stratified by outcome; where the span holds at least
three horizons they are expanding blocks of time instead, with the same gap. What is too short or undated for a test by
time gets kind `random`: every row is train, and `evaluate` repeats the whole recipe in folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models.inputs import Panel

Indices = list[tuple[np.ndarray, np.ndarray]]  # (train rows, validation rows) of each fold


class SplitSettings(BaseModel):
    """How rows are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_share: float = Field(0.2, gt=0, lt=0.9)  # wanted share of test rows among train and test rows
    min_bads: int = Field(20, ge=2)  # fewest defaults that a test, or a training, may have
    folds: int | None = Field(None, ge=2, le=20)  # null: 5, or 4 from 10,000 rows on
    horizon_months: int | None = Field(None, ge=1, le=120)  # null: as the good outcomes show it
    seed: int = Field(20260101, ge=0)


@dataclass(frozen=True)
class Split:
    """Parts and folds of a panel's rows; `plan` says in JSON data how they came about."""

    test: np.ndarray  # bool
    train: np.ndarray  # bool; rows that are neither lie in the gap before the test
    fold: np.ndarray  # int: validation fold of a train row, -1 where it never validates
    plan: dict[str, Any]


def untrainable(outcome: np.ndarray, min_bads: int) -> str | None:
    """Return why these outcomes cannot train a model, or None where they can."""
    bads, rows = int(outcome.sum()), len(outcome)
    if rows == 0:
        return "no observation has a known outcome yet"
    if bads in (0, rows):
        return f"all {rows:,} known outcomes are {'defaults' if bads else 'good'}: one class cannot be learned"
    if min(bads, rows - bads) < min_bads:
        kind = "defaults" if bads < min_bads else "good outcomes"
        return f"{min(bads, rows - bads):,} {kind} among {rows:,} known outcomes: at least {min_bads:,} are needed"
    return None


def split(panel: Panel, settings: SplitSettings, horizon: int) -> Split:
    """Divide a panel that can train (see `untrainable`) into train, gap and test, and train into folds."""
    dates = np.unique(panel.as_of)
    plan: dict[str, Any] = {"horizon_months": horizon, "seed": settings.seed}
    chosen = _test_start(panel, dates, settings)
    if chosen is None:
        train = np.ones(len(panel), bool)
        test = ~train
        why = "one as_of only" if len(dates) == 1 else (
            f"no date leaves {settings.min_bads} defaults both after it and in windows that closed before it"
        )  # fmt: skip
        plan |= {"kind": "random", "why": why}
    else:
        test = panel.as_of >= chosen
        train = panel.closes <= chosen
        plan |= {
            "kind": "time",
            "why": "several as_ofs, and enough defaults on both sides of the gap",
            "test_from": str(chosen),
            "test_to": str(dates[-1]),
            "train_from": str(dates[0]),
            "train_to": str(panel.as_of[train].max()),
        }
    part = panel.take(train)
    count = settings.folds or fold_count(part)
    fold = np.full(len(panel), -1)
    blocks = expanding_folds(part, count, settings.min_bads) if plan["kind"] == "time" else None
    plan["folds"] = "grouped" if blocks is None else "expanding"
    fold[train] = grouped_folds(part, count, settings.seed) if blocks is None else blocks
    plan["fold_count"] = int(fold.max()) + 1
    return Split(test, train, fold, plan)


def _test_start(panel: Panel, dates: np.ndarray, settings: SplitSettings) -> np.datetime64 | None:
    """Return the first test as_of whose test share comes nearest to the wanted one, or None if no date will do."""
    best: tuple[float, np.datetime64] | None = None
    for date in dates[1:]:
        test, train = panel.as_of >= date, panel.closes <= date
        if not train.any() or untrainable(panel.outcome[test], settings.min_bads):
            continue
        if untrainable(panel.outcome[train], settings.min_bads):
            continue
        distance = abs(test.sum() / (test.sum() + train.sum()) - settings.test_share)
        if best is None or distance <= best[0]:
            best = (distance, date)
    return None if best is None else best[1]


def fold_count(panel: Panel) -> int:
    """Return how many folds suit a panel: 5, 4 from 10,000 rows on, never more than the rarer outcome has rows."""
    most = 4 if len(panel) >= 10_000 else 5
    return max(2, min(most, panel.bads, len(panel) - panel.bads))


def customer_hash(customer: np.ndarray, seed: int) -> np.ndarray:
    """Return one uint64 a row that depends on the customer's identifier and the seed alone."""
    return pd.util.hash_array(customer, hash_key=f"{seed:016d}"[-16:], categorize=True)


def grouped_folds(panel: Panel, count: int, seed: int) -> np.ndarray:
    """Return fold numbers of a panel's rows: see `grouped_folds_of`."""
    return grouped_folds_of(panel.customer, panel.outcome, count, seed)


def grouped_folds_of(customer: np.ndarray, outcome: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return fold numbers 0..count-1: all rows of a customer in one fold, defaults and rows spread evenly.

    Customers are ordered by (defaults, rows, hash) and dealt out in turn: the same rows give the same folds, whatever
    their order.
    """
    customers, place = np.unique(customer.astype(str), return_inverse=True)
    bads = np.bincount(place, weights=outcome, minlength=len(customers))
    rows = np.bincount(place, minlength=len(customers))
    order = np.lexsort((customer_hash(customers.astype(object), seed), rows, bads))
    of_customer = np.empty(len(customers), dtype=int)
    of_customer[order] = np.arange(len(customers)) % count
    return of_customer[place]


def expanding_folds(panel: Panel, count: int, min_bads: int) -> np.ndarray | None:
    """Return blocks of time 0..count-1 over the last 60% of the rows (-1 before), or None where the span is too short.

    Each block is predicted by the as_ofs whose windows close before it starts. Refused as too short: less than three
    horizons, a block without `min_bads` defaults, or a first block with under a quarter of the rows to learn from.
    """
    dates = np.unique(panel.as_of)
    if len(dates) < count + 1 or (panel.as_of.max() - panel.as_of.min()) < 3 * (panel.closes[0] - panel.as_of[0]):
        return None
    share = np.searchsorted(panel.as_of, panel.as_of, side="left") / len(panel)  # of rows before the row's as_of
    fold = np.where(share < 0.4, -1, np.minimum((share - 0.4) / 0.6 * count, count - 1).astype(int))
    for train, valid in fold_indices(panel, fold, "expanding"):
        if len(train) < len(panel) / 4 or untrainable(panel.outcome[train], min_bads):
            return None
        if untrainable(panel.outcome[valid], min_bads):
            return None
    return fold if set(range(count)) <= set(fold.tolist()) else None


def fold_indices(panel: Panel, fold: np.ndarray, kind: str) -> Indices:
    """Return (train rows, validation rows) of each fold of the train panel; kind is `grouped` or `expanding`."""
    indices = []
    for number in range(int(fold.max()) + 1):
        valid = np.flatnonzero(fold == number)
        if kind == "expanding":
            train = np.flatnonzero(panel.closes <= panel.as_of[valid].min()) if len(valid) else valid
        else:
            train = np.flatnonzero(fold != number)
        indices.append((train, valid))
    return indices


def forward_indices(panel: Panel, count: int, least_bads: int) -> Indices | None:
    """Return at most `count` folds in time: the last as_ofs in blocks, each asked of the as_ofs closed before it.

    None where fewer than two blocks have `least_bads` defaults both to learn from and, taken together, to be asked.
    """
    dates = np.unique(panel.as_of)
    able = [date for date in dates if panel.outcome[panel.closes <= date].sum() >= least_bads]
    if len(able) < 2:
        return None
    at = np.searchsorted(able, panel.as_of, side="right") - 1  # -1: before the first date that can be asked
    indices = []
    for some in np.array_split(np.arange(len(able)), min(count, len(able))):
        asked = np.flatnonzero((at >= some[0]) & (at <= some[-1]))
        indices.append((np.flatnonzero(panel.closes <= able[some[0]]), asked))
    return indices if sum(panel.outcome[asked].sum() for _, asked in indices) >= least_bads else None


def later_indices(panel: Panel, seed: int) -> Indices:
    """Return two folds: the earlier half of the rows' as_ofs teaches, the later half of other customers is asked."""
    dates = np.unique(panel.as_of)
    half = np.sort(panel.as_of)[len(panel) // 2]
    late = panel.as_of >= max(dates[1], half)
    side = grouped_folds(panel, 2, seed)
    return [(np.flatnonzero(~late & (side != one)), np.flatnonzero(late & (side == one))) for one in (0, 1)]


def repeated_indices(panel: Panel, fold: np.ndarray, plan: dict[str, Any], repeats: int) -> Indices:
    """Return the plan's folds, and for grouped folds `repeats` - 1 further divisions under other seeds."""
    indices = fold_indices(panel, fold, plan["folds"])
    for repeat in range(1, repeats if plan["folds"] == "grouped" else 1):
        again = grouped_folds(panel, plan["fold_count"], plan["seed"] + repeat)
        indices += fold_indices(panel, again, "grouped")
    return indices
