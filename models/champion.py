"""Champion and candidate: whether a new model replaces the one that scores, judged on rows that neither has seen.

The first model of a source becomes champion. A later one must pass the gate: not behind by more than a stated AUC on
the same rows, calibrated, stable, and with enough defaults to say so. Where there are no such rows nothing can be said,
and the champion stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from models.drift import Bins
from models.metrics import auc, auc_difference, calibration_line

PAIRED = {"": "difference", "_low": "low", "_high": "high", "_p": "p"}  # DeLong, on the same rows

Floats = npt.NDArray[np.float64]


class Gate(BaseModel):
    """What a candidate must reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_auc_drop: float = Field(default=0.005, ge=0, le=1)
    calibration_slope: tuple[float, float] = (0.8, 1.2)
    max_psi: float = Field(default=0.25, gt=0)
    min_bads: int = Field(default=20, ge=1)


@dataclass(frozen=True)
class Judgement:
    """Whether the gate is passed, every reason against it, and the figures that were compared."""

    passed: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


def judge(
    outcome: npt.NDArray[np.int8],
    candidate: Floats,
    champion: Floats | None,
    train: Floats | None,
    gate: Gate,
    customer: npt.NDArray[np.object_] | None = None,
) -> Judgement:
    """Judge a candidate on rows that neither model was trained on.

    outcome: 0 or 1, shape (n,). candidate, champion: their PDs on the same rows, shape (n,); champion None judges the
    candidate alone (the absolute gate). train: the candidate's PDs on its train rows, shape (m,), for the score's PSI;
    None leaves that out. customer: who each row is, shape (n,), for the paired DeLong test; None: rows are independent.
    """
    bads = int(outcome.sum())
    if bads < gate.min_bads or bads == len(outcome):
        found = f"{bads} defaults on the {len(outcome)} rows compared, at least {gate.min_bads} and one good are needed"
        return Judgement(passed=False, reasons=(found,), figures={"rows": len(outcome), "bads": bads})
    reasons = []
    figures: dict[str, float] = {"rows": len(outcome), "bads": bads, "candidate_auc": auc(outcome, candidate)}
    if champion is not None:
        figures["champion_auc"] = auc(outcome, champion)
        drop = figures["champion_auc"] - figures["candidate_auc"]
        test = auc_difference(outcome, candidate, champion, customer)
        figures |= {f"auc_gain{name}": test[key] for name, key in PAIRED.items()}
        if drop > gate.max_auc_drop:
            how = f"95% interval {-test['high']:.4f} to {-test['low']:.4f}, paired p {test['p']:.3f}"
            reasons.append(f"AUC lower than the champion's by {drop:.4f} ({how}), allowed {gate.max_auc_drop:.4f}")
    slope, _ = calibration_line(outcome, candidate)
    figures["calibration_slope"] = slope
    low, high = gate.calibration_slope
    if not low <= slope <= high:
        reasons.append(f"calibration slope {slope:.2f}, allowed {low:.2f} to {high:.2f}")
    if train is not None and len(train):
        figures["psi"] = Bins.fit(pd.Series(train)).psi(pd.Series(candidate))
        if figures["psi"] >= gate.max_psi:
            reasons.append(
                f"PSI of the score {figures['psi']:.3f} between train and out-of-time, allowed below {gate.max_psi:.2f}"
            )
    return Judgement(passed=not reasons, reasons=tuple(reasons), figures=figures)
