"""The sets that peers are compared on: each shipped mapping taken through ingest, observe and featurise, and divided.

A set is what the stage `select` reads. Divisions are random, 70 to 30, grouped by customer and stratified by outcome;
each system gets the same rows and the same features.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from models.inputs import Input, Panel, horizon_months, inputs_from_catalogue, panel
from models.splits import grouped_folds_of

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("uci_taiwan", "gmsc", "superlender", "sba_national", "polish", "berka")
FOLDER = {"sba_national": "sba_national_subset"}


@dataclass(frozen=True)
class Set:
    """Rows with outcomes and features, and what is known of the features."""

    name: str
    panel: Panel
    inputs: tuple[Input, ...]


def stages(folder: Path, source: str, names: tuple[str, ...], changed: dict[str, dict]) -> None:
    """Run stages of a source in a workspace of their own; `changed` lies over the sections of params.yaml."""
    (folder / "data/raw").mkdir(parents=True, exist_ok=True)
    if not (folder / "data/sources").exists():
        (folder / "data/sources").symlink_to(ROOT / "data/sources", target_is_directory=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"source": source, "as_of": "latest"} | {name: params[name] | some for name, some in changed.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.{name}"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{source}: stage {name} ended with exit code {done.returncode}\n{done.stderr[-2000:]}")


def built(folder: Path, source: str, realdata: Path, **changed: dict) -> Set | None:
    """Return a set, built in `folder` unless it stands there already; None where the real files are not there."""
    training = folder / "data/featurise/training"
    if not (training / "features.parquet").exists():
        before: tuple[str, ...] = ("ingest", "observe", "featurise")
        if source == "simulated":
            before = ("simulate", *before)
        else:
            files = realdata / FOLDER.get(source, source)
            if not files.exists():
                return None
            (folder / "data/raw").mkdir(parents=True, exist_ok=True)
            if not (folder / "data/raw" / source).exists():
                (folder / "data/raw" / source).symlink_to(files, target_is_directory=True)
        stages(folder, source, before, changed)
    frame = pd.read_parquet(training / "features.parquet")
    inputs = inputs_from_catalogue(pd.read_parquet(training / "catalogue.parquet"))
    return Set(source, panel(frame, [each.name for each in inputs], horizon_months(frame)), inputs)


def division(rows: Panel, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (train, test) masks of division `number`: 70 to 30, a customer on one side only."""
    tenth = grouped_folds_of(rows.customer, rows.outcome, 10, 7001 + number)
    return tenth >= 3, tenth < 3
