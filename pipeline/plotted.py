"""The report's figures as flat records, one file a figure, which `dvc plots` draws and MLflow keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.stage import write_json

NAMING = ("worst", "alerted", "overrides", "contacts")  # figures that name customers or other people
NO_FIGURES = (*NAMING, "checks", "retrain")  # and sentences
# Those that dvc.yaml draws: there on every run, empty where the run has none.
DRAWN = ("features_top", "labels_by_month", "portfolio_by_grade", "reasons_families", "score_drift_by_month")


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the single values of a record by names joined with `_`; lists are left out."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}_{key}" if name else str(key)).items()}
    return {} if isinstance(value, list) else {name: value}


def records(figures: Any, name: str = "") -> dict[str, list[dict[str, Any]]]:
    """Return name -> records of every list of records among nested figures, names joined with `_`; no customer's."""
    if isinstance(figures, dict):
        found: dict[str, list[dict[str, Any]]] = {}
        for key in sorted(figures):
            if name or key not in NO_FIGURES:
                found |= records(figures[key], f"{name}_{key}" if name else str(key))
        return found
    listed = isinstance(figures, list) and figures and all(isinstance(each, dict) for each in figures)
    if listed and "customer_id" not in figures[0]:
        return {name: [flat(each) for each in figures]}
    return {}


def write(figures: dict[str, Any], folder: Path) -> None:
    """Write each list of records as <name>.json into the folder."""
    for name, rows in {**{key: [] for key in DRAWN}, **records(figures)}.items():
        write_json(folder / (re.sub(r"[^\w.-]", "_", name) + ".json"), rows)
