"""Which features can teach anything: constant, almost always missing, duplicate and identifier-like ones are left out.

Nothing here looks at outcomes, and only train rows come in: what remains is for regularisation to weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from models.inputs import Input, Panel, numbered, numeric_matrix
from models.splits import SplitSettings

SAMPLE = 20_000  # rows on which ranks are compared


class SelectSettings(SplitSettings):
    """Limits beyond which a feature is left out, and how rows are divided."""

    max_missing: float = Field(0.98, ge=0, le=1)  # share of train rows
    max_rank_correlation: float = Field(0.999, gt=0, le=1)  # absolute; 1: only exact copies in rank
    max_uniqueness: float = Field(0.99, gt=0, le=1)  # levels by known values of a categorical: an identifier above


@dataclass(frozen=True)
class Selection:
    """Inputs kept, numbered afresh; reasons: feature, kept, reason, missing_share, levels, twin, figure."""

    inputs: tuple[Input, ...]
    reasons: pd.DataFrame


def select(panel: Panel, inputs: tuple[Input, ...], settings: SelectSettings) -> Selection:
    """Return what of `inputs` to keep on these train rows, with a reason for each that is not."""
    rows = []
    for each in inputs:
        values = panel.features[each.name]
        missing = float(values.isna().mean())
        levels = int(values.nunique(dropna=True))
        reason = ""
        if levels == 0:
            reason = "never known"
        elif missing > settings.max_missing:
            reason = "almost always missing"
        elif levels == 1 and missing == 0:
            reason = "constant"
        elif each.kind == "categorical" and levels > settings.max_uniqueness * (len(panel) - values.isna().sum()):
            reason = "identifier-like: nearly every value differs"
        rows.append({"feature": each.name, "reason": reason, "missing_share": round(missing, 6), "levels": levels})
    reasons = pd.DataFrame(rows, columns=["feature", "reason", "missing_share", "levels"])
    twins = _twins(panel, [i for i, r in zip(inputs, reasons["reason"], strict=True) if not r], settings)
    reasons["twin"] = reasons["feature"].map({name: twin for name, (twin, _) in twins.items()}).astype(object)
    reasons["figure"] = reasons["feature"].map({name: figure for name, (_, figure) in twins.items()}).astype(float)
    reasons.loc[reasons["feature"].isin(list(twins)), "reason"] = "duplicate of another in rank"
    reasons.insert(1, "kept", reasons["reason"] == "")
    kept = set(reasons.loc[reasons["kept"], "feature"])
    return Selection(numbered(each for each in inputs if each.name in kept), reasons)


def _twins(panel: Panel, inputs: list[Input], settings: SelectSettings) -> dict[str, tuple[str, float]]:
    """Return name -> (the feature kept instead, rank correlation); features with fewer missing values are kept."""
    step = max(1, -(-len(panel) // SAMPLE))
    sample = panel.features.iloc[::step]
    twins: dict[str, tuple[str, float]] = {}
    numeric = [each.name for each in inputs if each.kind == "numeric"]
    matrix = numeric_matrix(sample, numeric)
    missing = np.isnan(matrix)
    order = np.argsort(missing.sum(axis=0), kind="stable")
    ranks = _standard_ranks(matrix)
    kept: list[int] = []
    for place in order:
        if kept:
            figures = np.abs(ranks[:, kept].T @ ranks[:, place])
            alike = (missing[:, kept] == missing[:, [place]]).mean(axis=0) >= settings.max_rank_correlation
            figures = np.where(alike, figures, 0)
            nearest = int(figures.argmax())
            if figures[nearest] >= settings.max_rank_correlation - 1e-12:
                twins[numeric[place]] = (numeric[kept[nearest]], round(float(figures[nearest]), 6))
                continue
        kept.append(int(place))
    seen: dict[bytes, str] = {}
    for each in inputs:
        if each.kind == "categorical":
            codes = pd.factorize(sample[each.name])[0].astype(np.int32).tobytes()
            if codes in seen:
                twins[each.name] = (seen[codes], 1.0)
            seen.setdefault(codes, each.name)
    return twins


def _standard_ranks(matrix: np.ndarray) -> np.ndarray:
    """Return average ranks with mean 0 and length 1 a column; a missing value has the mean rank."""
    ranks = pd.DataFrame(matrix).rank()
    centred = (ranks - ranks.mean()).fillna(0.0).to_numpy()
    length = np.sqrt((centred**2).sum(axis=0))
    return centred / np.where(length > 0, length, 1)
