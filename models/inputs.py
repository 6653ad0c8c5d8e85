"""What a model takes in: its inputs in order, and the rows of a panel with their outcomes.

An input's LightGBM name is `f0001`, `f0002`, ...: any feature name works and none of LightGBM's naming rules matter.
An input of kind `record` is fitted on outcomes (models/records.py): a frame holds, in place of its value, the rows that
it is worked out from, or the scores that a fitted model made of them, as plain numbers under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from features.errors import DataRefused, IntegrityRefused, Problem

KINDS = ("numeric", "categorical", "record")
RECORD_SCORE = "_record_score_"  # between table and statistic in the name of a record input
SEPARATOR = "\x1f"  # between feature and level


def level_key(feature: str, level: str) -> str:
    """Return the name under which a level stands in a model's files."""
    return hashlib.md5(f"{feature}{SEPARATOR}{level}".encode(), usedforsecurity=False).hexdigest()[:20]


@dataclass(frozen=True)
class Input:
    """One model input: the feature, its column in the booster, and what its values mean for risk."""

    name: str
    column: str
    kind: str  # numeric, categorical or record
    direction: int  # +1: risk rises with the value, -1: it falls, 0: no claim
    family: str
    definition_hash: str

    def record(self) -> dict[str, Any]:
        """Return the input as JSON data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read the input from JSON data; unknown keys are ignored, so that a later version may add some."""
        return cls(**{key: record[key] for key in cls.__dataclass_fields__})


def rows_of(table: str) -> str:
    """Return the column of a frame that holds each observation's newest rows of a table, as lists of structs."""
    return f"records of {table}"


def record_inputs(inputs: Iterable[Input]) -> dict[str, dict[str, int]]:
    """Return table -> statistic -> place of the inputs of kind record."""
    found: dict[str, dict[str, int]] = {}
    for place, each in enumerate(inputs):
        if each.kind == "record":
            table, _, statistic = each.name.rpartition(RECORD_SCORE)
            found.setdefault(table, {})[statistic] = place
    return found


def carriers(inputs: Iterable[Input]) -> list[str]:
    """Return the columns of a frame that models learn these inputs from: rows once a table in place of their scores."""
    inputs = tuple(inputs)
    return [each.name for each in inputs if each.kind != "record"] + [rows_of(table) for table in record_inputs(inputs)]


def numbered(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Return the inputs with the columns f0001, f0002, ... in their order."""
    return tuple(replace(each, column=f"f{place:04d}") for place, each in enumerate(inputs, start=1))


def otherwise_defined(records: Iterable[Mapping[str, Any]], today: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the names of a model's features that are not built today, and of those defined otherwise than then.

    `records` are the features of the model's features.json; `today` has name and definition_hash of what is built now.
    """
    hashes = dict(zip(today["name"], today["definition_hash"], strict=True))
    missing = [each["name"] for each in records if each["name"] not in hashes]
    changed = [
        each["name"] for each in records if hashes.get(each["name"], each["definition_hash"]) != each["definition_hash"]
    ]
    return missing, changed


def records_of(inputs: Iterable[Input], features: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the inputs as JSON data, numbers with `minimum` and `maximum` of these rows where any is known."""
    result = []
    for each in inputs:
        record = each.record()
        if each.kind != "categorical":
            values = pd.to_numeric(features[each.name]).to_numpy(dtype=float, na_value=np.nan)
            known = values[~np.isnan(values)]
            if len(known):
                record |= {"minimum": float(known.min()), "maximum": float(known.max())}
        result.append(record)
    return result


def inputs_from_catalogue(catalogue: pd.DataFrame) -> tuple[Input, ...]:
    """Return the catalogue's features as inputs, in its order; an unknown kind or a name given twice is refused."""
    problems = [
        Problem(f"catalogue: {name}", f"of kind {', '.join(KINDS)}", str(kind), "Correct the feature's definition.")
        for name, kind in zip(catalogue["name"], catalogue["kind"], strict=True)
        if kind not in KINDS
    ] + [
        Problem(f"catalogue: {name}", "named once", "the same name twice", "Rename one of the two features.")
        for name in catalogue["name"][catalogue["name"].duplicated()]
    ]
    if problems:
        raise DataRefused(problems)
    return numbered(
        Input(
            name=str(row["name"]),
            column="",
            kind=str(row["kind"]),
            direction=int(row["direction"]) if row["kind"] != "categorical" and pd.notna(row["direction"]) else 0,
            family=str(row["family"]),
            definition_hash=str(row["definition_hash"]),
        )
        for row in catalogue.to_dict("records")
    )


@dataclass(frozen=True)
class Panel:
    """Rows of (customer_id, as_of) with outcome 0/1 and features, in the order (as_of, customer_id).

    `closes` is the first day on which every outcome of the row's as_of can be known: as_of + horizon. `learned` is the
    first day on which the row's own outcome is known and its window closed; None where rows are not judged in time.
    """

    customer: np.ndarray  # str objects
    as_of: np.ndarray  # datetime64[D]
    closes: np.ndarray  # datetime64[D]
    outcome: np.ndarray  # int8, 0 or 1
    features: pd.DataFrame  # one column a feature, same order of rows
    learned: np.ndarray | None = None  # datetime64[D]

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def bads(self) -> int:
        """Number of defaults."""
        return int(self.outcome.sum())

    def take(self, rows: np.ndarray) -> Panel:
        """Return some rows: a mask or ascending positions."""
        return Panel(
            self.customer[rows],
            self.as_of[rows],
            self.closes[rows],
            self.outcome[rows],
            self.features.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows].reset_index(drop=True),
            None if self.learned is None else self.learned[rows],
        )


def horizon_months(frame: pd.DataFrame) -> int:
    """Return the outcome horizon in months as the good outcomes show it.

    A good outcome is known when its window closes, so the most frequent distance from as_of to outcome_known_on, in
    whole months rounded up, is the horizon; 12 where no distance is known.
    """
    if "outcome_known_on" not in frame:
        return 12
    good = frame[(frame["outcome"] == 0) & frame["outcome_known_on"].notna()]
    if good.empty:
        return 12
    start = pd.DatetimeIndex(pd.to_datetime(good["as_of"]))
    known = pd.DatetimeIndex(pd.to_datetime(good["outcome_known_on"]))
    months = (known.year - start.year) * 12 + (known.month - start.month) + (known.day > start.day)
    counts = np.bincount(np.clip(np.asarray(months), 1, 600))
    return int(counts.argmax())


def add_months(days: np.ndarray, months: int) -> np.ndarray:
    """Return datetime64[D] dates moved by whole months; the day of the month is kept, or cut to the month's last."""
    moved = pd.DatetimeIndex(days) + pd.DateOffset(months=months)
    return moved.to_numpy().astype("datetime64[D]")


def panel(frame: pd.DataFrame, names: Iterable[str], horizon: int, *, in_time: bool = False) -> Panel:
    """Check training rows and return them as a Panel over the features `names`; `in_time`: with `learned`.

    `frame`: customer_id, as_of, outcome, the features, and perhaps outcome_known_on. Refused: an outcome that is not 0
    or 1 (unknown never trains), the same (customer_id, as_of) twice, a feature that is not there.
    """
    problems = []
    missing = [name for name in names if name not in frame]
    if missing:
        raise IntegrityRefused(
            [
                Problem(f"feature {name}", "a column of the table", "no such column", "Rebuild features.")
                for name in missing
            ]
        )
    outcome = pd.to_numeric(frame["outcome"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = int((~np.isin(outcome, (0.0, 1.0))).sum())
    if wrong:
        problems.append(Problem("outcome", "0 or 1 in every training row", f"{wrong:,} other rows", "Rebuild observe."))
    twice = int(frame.duplicated(["customer_id", "as_of"]).sum())
    if twice:
        problems.append(Problem("customer_id, as_of", "one row each", f"{twice:,} repeated rows", "Rebuild features."))
    if problems:
        raise DataRefused(problems)
    ordered = frame.sort_values(["as_of", "customer_id"], kind="stable").reset_index(drop=True)
    as_of = pd.to_datetime(ordered["as_of"]).to_numpy().astype("datetime64[D]")
    closes = add_months(as_of, horizon)
    learned = closes if in_time else None
    if in_time and "outcome_known_on" in ordered:
        known = pd.to_datetime(ordered["outcome_known_on"]).to_numpy().astype("datetime64[D]") + np.timedelta64(1, "D")
        learned = np.where(np.isnat(known), closes, np.maximum(known, closes))
    return Panel(
        customer=ordered["customer_id"].astype(str).to_numpy(dtype=object),
        as_of=as_of,
        closes=closes,
        outcome=pd.to_numeric(ordered["outcome"]).to_numpy(dtype=np.int8),
        features=ordered[list(names)],
        learned=learned,
    )


def numeric_matrix(features: pd.DataFrame, names: Iterable[str]) -> np.ndarray:
    """Return numeric features as doubles (rows x features), null as NaN; an infinite value or text is refused."""
    problems = []
    columns = []
    for name in names:
        try:
            values = pd.to_numeric(features[name]).to_numpy(dtype=float, na_value=np.nan)
        except (ValueError, TypeError):
            problems.append(Problem(f"feature {name}", "numeric", "text", "Correct the feature's definition."))
            continue
        infinite = int(np.isinf(values).sum())
        if infinite:
            problems.append(
                Problem(f"feature {name}", "finite or null", f"{infinite:,} infinite values", "Guard its denominator.")
            )
        columns.append(values)
    if problems:
        raise DataRefused(problems)
    return np.column_stack(columns) if columns else np.empty((len(features), 0))
