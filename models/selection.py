"""Which features a model is given: those that can teach, that keep still, and no more of them than it takes.

First, without a look at outcomes: constant, almost always missing, duplicate and identifier-like columns go. Then the
smallest set stays that is as good as the best (models/smallest.py), and columns that drift between train months go
where later months are ranked as well without them (models/adversarial.py). Sets are judged on later as_ofs by models of
those that had closed before; folds of customers would not see what a column that moves with time is worth later on.
They stand in only where the span or the defaults do not suffice. Only train rows come in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from models import encoders
from models.adversarial import Drift, drift
from models.inputs import Input, Panel, carriers, numbered, numeric_matrix
from models.refits import SMOOTHING, Refits
from models.smallest import Smallest, SmallestSettings, smallest
from models.splits import Indices, customer_hash, forward_indices, later_indices

SAMPLE = 20_000  # rows on which ranks are compared
FIGURES = (
    "missing_share", "levels", "twin", "rank_correlation", "psi", "psi_month", "adversarial_share", "worth", "place",
)  # fmt: skip
DRIFTS = "drifts between train months, and the risk is ranked as well without it"
NOT_NEEDED = "adds nothing to a smaller set"
MOST_CELLS = 8_000_000  # rows x columns of what is refitted
BLOCKS = 4  # of time on which sets are judged
LEAST_BADS = 200  # defaults that the first block learns from, and that all blocks are asked about


class SelectSettings(SmallestSettings):
    """Limits beyond which a feature is left out, and how rows are divided."""

    max_missing: float = Field(0.98, ge=0, le=1)  # share of train rows
    max_rank_correlation: float = Field(0.999, gt=0, le=1)  # absolute; 1: only exact copies in rank
    max_uniqueness: float = Field(0.99, gt=0, le=1)  # levels by known values of a categorical: an identifier above
    smallest: bool = True  # false: neither drift nor the size of the set leaves anything out
    most_rows: int = Field(30_000, ge=1000)  # on which sets are compared; of the rest, defaults stay first


@dataclass(frozen=True)
class Selection:
    """Inputs kept, numbered afresh; reasons: feature, kept, reason ("" if kept) and FIGURES; record: how, as JSON."""

    inputs: tuple[Input, ...]
    reasons: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)


def select(panel: Panel, inputs: tuple[Input, ...], indices: Indices, settings: SelectSettings) -> Selection:
    """Return what of `inputs` to keep on these train rows, judged on these folds, with a reason for each that is not.

    indices: (train rows, held-out rows) of each fold, for where time cannot be held out. Refused (exit code 2): an
    infinite value.
    """
    first = screen(panel, inputs, settings)
    if not settings.smallest or len(first.inputs) < 2:
        return first
    rows, folds = thinned(panel, indices, min(settings.most_rows, MOST_CELLS // len(first.inputs)))
    forward = None if rows.learned is None else forward_indices(rows, BLOCKS, LEAST_BADS)
    refits = Refits(rows, first.inputs, forward or folds, settings.seed)
    if not refits.parts:
        return first
    everything = np.arange(len(first.inputs))
    coder = encoders.fit(rows, first.inputs, SMOOTHING)
    drifts = drift(rows, first.inputs, coder.matrix(rows.features, first.inputs), settings)
    whole = refits.ask([everything] * len(refits.parts))
    found = smallest(refits, refits.worth(), whole, settings)
    later = refits
    if forward is None and any(first.inputs[place].name in drifts.candidates for place in found.places):
        later = Refits(rows, first.inputs, later_indices(rows, settings.seed), settings.seed)
    kept, tried = still(later, refits, found, drifts, settings) if later.parts else (found.places, [])
    how = {"tried": tried, "rows": len(rows), "folds": "by customer" if forward is None else "by time"}
    return _told(first, drifts, kept, found, how)


def still(
    later: Refits, refits: Refits, found: Smallest, drifts: Drift, settings: SelectSettings
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the places kept once drifting columns that the ranking does not need are gone, and what was tried.

    A drifting column that the smallest set does without is gone already. Of those in it, all go where held-out rows of
    `later` are ranked better without them by more than a standard error; else those that added nothing to the ranking
    of unseen rows go, where that costs no more than a set may cost. What drifts and carries the risk stays. Where the
    model is judged by `refits` on folds by customer, these too must not lose: nothing is given up there for a claim on
    later dates that such a source cannot make (on SBA loans such columns were worth .014 of AUC within the years seen).
    """
    names = [each.name for each in later.inputs]
    drifting = np.array([place for place in found.places if names[place] in drifts.candidates], int)
    tried: list[dict[str, Any]] = []
    if not len(drifting):
        return found.places, tried
    whole = later.ask([found.places] * len(later.parts))
    for wanted, proven in ((drifting, True), (drifting[found.worth[drifting] <= 0], False)):
        rest = np.setdiff1d(found.places, wanted)
        if len(rest) < settings.least_features or not len(wanted):
            continue
        loss, error = later.difference(whole, later.ask([rest] * len(later.parts)))
        tried.append({"left_out": len(wanted), "auc_loss": round(loss, 6), "standard_error": round(error, 6)})
        if loss > (-error if proven else min(settings.standard_errors * error, settings.max_auc_loss)):
            continue
        if refits is not later:
            here = refits.difference(*(refits.ask([some] * len(refits.parts)) for some in (found.places, rest)))
            tried[-1] |= {"auc_loss_by_customer": round(here[0], 6), "standard_error_by_customer": round(here[1], 6)}
            if here[0] > min(settings.standard_errors * here[1], settings.max_auc_loss):
                continue
        return rest, tried
    return found.places, tried


def thinned(panel: Panel, indices: Indices, most: int) -> tuple[Panel, Indices]:
    """Return at most about `most` rows and their folds: whole customers, those with a default first (half of `most`).

    The AUC does not depend on how frequent defaults are, so leaving out good customers leaves it where it was.
    """
    if len(panel) <= most:
        return panel, indices
    customers, place = np.unique(panel.customer.astype(str), return_inverse=True)
    size = np.bincount(place)
    bad = np.bincount(place, weights=panel.outcome) > 0
    order = np.argsort(customer_hash(customers.astype(object), 4), kind="stable")
    taken = np.zeros(len(customers), bool)
    ill, well = order[bad[order]], order[~bad[order]]
    taken[ill[np.cumsum(size[ill]) <= most / 2]] = True
    taken[well[np.cumsum(size[well]) <= most - size[taken].sum()]] = True
    keep = taken[place]
    fresh = np.cumsum(keep) - 1
    return panel.take(keep), [tuple(fresh[rows[keep[rows]]] for rows in fold) for fold in indices]  # type: ignore[misc]


def _told(first: Selection, drifts: Drift, places: np.ndarray, found: Smallest, record: dict[str, Any]) -> Selection:
    """Return the selection with the reasons and figures of all steps."""
    reasons = first.reasons.set_index("feature")
    names = [each.name for each in first.inputs]
    reasons.loc[names, ["psi", "psi_month", "adversarial_share"]] = drifts.table.loc[names].to_numpy()
    reasons.loc[names, "worth"] = np.round(found.worth, 9)
    reasons.loc[[names[place] for place in found.order], "place"] = np.arange(1, len(found.order) + 1)
    kept = {names[place] for place in places}
    gone = [name for name in names if name not in kept]
    reasons.loc[gone, "reason"] = [DRIFTS if name in drifts.candidates else NOT_NEEDED for name in gone]
    reasons["kept"] = reasons["reason"] == ""
    for name in ("psi", "adversarial_share", "worth", "place"):
        reasons[name] = reasons[name].astype(float)
    record |= {
        "months": drifts.months,
        "drift": "by month" if drifts.months > 1 else "not applicable: one month",
        "adversarial_auc": round(drifts.auc, 6) if drifts.months > 1 else None,
        "drift_candidates": sorted(drifts.candidates),
        "sizes": [size.record() for size in found.sizes],
        "why": found.why,
    }
    return Selection(numbered(each for each in first.inputs if each.name in kept), reasons.reset_index(), record)


def screen(panel: Panel, inputs: tuple[Input, ...], settings: SelectSettings) -> Selection:
    """Return what of `inputs` can teach anything on these rows, whatever the outcomes, with a reason for the others."""
    rows = []
    for each in inputs:
        record = each.kind == "record"  # scored in each fold: known here is only whether there are rows to score
        values = panel.features[carriers([each])[0]]
        missing = float(values.isna().mean())
        levels = min(2, int(values.notna().sum())) if record else int(values.nunique(dropna=True))
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
    reasons["rank_correlation"] = (
        reasons["feature"].map({name: figure for name, (_, figure) in twins.items()}).astype(float)
    )
    reasons.loc[reasons["feature"].isin(list(twins)), "reason"] = "duplicate of another in rank"
    reasons.insert(1, "kept", reasons["reason"] == "")
    for name in ("psi", "psi_month", "adversarial_share", "worth", "place"):
        reasons[name] = None if name == "psi_month" else np.nan
    reasons["psi_month"] = reasons["psi_month"].astype(object)
    kept = set(reasons.loc[reasons["kept"], "feature"])
    return Selection(
        numbered(each for each in inputs if each.name in kept), reasons[["feature", "kept", "reason", *FIGURES]]
    )


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
    alike = np.abs(ranks.T @ ranks)
    lacking = missing.astype(np.float32)
    share = lacking.sum(axis=0)
    apart = (share[:, None] + share[None, :] - 2 * (lacking.T @ lacking)) / max(1, len(matrix))  # counts: exact
    alike[apart > 1 - settings.max_rank_correlation] = 0
    kept: list[int] = []
    for place in order:
        if kept:
            figures = alike[kept, place]
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
