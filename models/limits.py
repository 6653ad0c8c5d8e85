"""Where each check begins to speak: parameters, under `monitor.limits` in params.yaml."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from models.finding import Band, Frozen


class Limits(Frozen):
    """Where each check begins to speak; shares are of 1."""

    invalid_pd_share: Band = Band(stop=0.0)
    score_psi: Band = Band(warn=0.10, stop=1.0)
    missing_jump: Band = Band(warn=0.20)  # rise of a feature's missing share, training to now or month to month
    quarantined_share: Band = Band(warn=0.01, stop=0.20)
    calibration_ratio: Band = Band(warn=1.5)  # realised rate over mean PD, or its inverse
    calibration_p: float = 0.01  # and only if chance alone makes it less likely than this
    auc: Band = Band(warn=0.60, stop=0.50)
    population_change: Band = Band(warn=0.25, stop=0.60)  # against the month before, either way
    identifier_share: float = 0.98  # distinct values of a whole-number or text feature
    feature_psi: Band = Band(warn=0.25)
    out_of_range_share: Band = Band(warn=0.25)
    one_grade_share: Band = Band(warn=0.70)
    truth_gap: Band = Band(warn=0.10)  # AUC of the true PD less that of the model
    auc_decline: Band = Band(warn=0.03)  # of the champion's AUC, from its evaluation to matured rows
    auc_decline_p: float = 0.05  # and only if chance alone makes it less likely than this
    red_share: Band = Band(warn=0.2)  # of the grades with matured rows: a red light of Jeffreys's test
    expected_rate_ratio: Band = Band(warn=1.5)  # expected default rate now over that a year ago, or its inverse
    expected_auc_drop: Band = Band(warn=0.03)  # of the AUC to expect, from a year ago to now
    roll_ratio: Band = Band(warn=1.5)  # newest month's share that rolled on to worse arrears, over that before
    roll_p: float = 0.01  # and only if chance alone makes it less likely than this
    one_way_ratio: Band = Band(
        warn=3.0
    )  # grades that got worse within a month over those that got better, or its inverse
    concentration: Band = Band(warn=0.25)  # Herfindahl of exposure by industry or region; 0: equal parts, 1: all in one
    largest_exposure_share: Band = Band(warn=0.05)  # of one customer
    adverse_impact: Band = Band(warn=0.8)  # approval rate of a group over the highest one
    adverse_impact_p: float = 0.05  # and only if chance alone makes it less likely than this
    reasons_kept: Band = Band(warn=0.5)  # share of customers with the same first reason by another seed

    @model_validator(mode="before")
    @classmethod
    def _keep_the_other_end(cls, given: Any) -> Any:
        """Lay a band that names one limit over its defaults: setting `warn` must not switch `stop` off."""
        if not isinstance(given, dict):
            return given
        defaults = {name: f.default.model_dump() for name, f in cls.model_fields.items() if isinstance(f.default, Band)}
        return {k: {**defaults[k], **v} if k in defaults and isinstance(v, dict) else v for k, v in given.items()}
