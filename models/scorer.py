"""A model bundle that answers for any customers: features by name in, PD with interval, score and grade out.

The bundle is text: `booster.txt`, `encoders.json`, `features.json`, `calibrator.json`, `grades.json`. Its hashes are
checked by whoever reads it; what arrives here is parsed strictly, and a frame must hold every feature by its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from features.errors import IntegrityRefused, Problem
from models import estimator
from models.calibration import Calibrator
from models.encoders import Encoders
from models.inputs import Input

FILES = ("booster.txt", "encoders.json", "features.json", "calibrator.json")  # grades.json joins them at promotion


def fingerprint(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of the four model files together, by name and content."""
    lines = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in FILES)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_inputs(text: str | bytes) -> tuple[Input, ...]:
    """Return the ordered model inputs of features.json, or refuse (exit code 7) what is not one."""
    try:
        return tuple(Input.from_record(record) for record in json.loads(text)["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityRefused(
            Problem("features.json", "the ordered features of the model", type(error).__name__, "Restore the bundle.")
        ) from None


@dataclass(frozen=True)
class Scorer:
    """A parsed bundle; `scale` (models/grades.py) is None before promotion gave the model its grades."""

    booster: Any
    inputs: tuple[Input, ...]
    encoders: Encoders
    calibrator: Calibrator
    scale: Any = None

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Parse a bundle's files by name; missing, torn or disagreeing ones are refused with exit code 7."""
        missing = [name for name in FILES if name not in files]
        if missing:
            raise IntegrityRefused(
                [Problem(name, "a file of the model bundle", "no such file", "Restore the bundle.") for name in missing]
            )
        inputs = read_inputs(files["features.json"])
        coder = Encoders.from_json(files["encoders.json"])
        without = [each.name for each in inputs if each.kind == "categorical" and each.name not in coder.codes]
        if without:
            raise IntegrityRefused(
                [Problem(f"encoders.json: {name}", "codes of this feature", "none", "Restore it.") for name in without]
            )
        scale = None
        if "grades.json" in files:
            from models.grades import Scale

            scale = Scale.from_json(files["grades.json"].decode("utf-8"))
        booster = estimator.load(files["booster.txt"], [each.column for each in inputs])
        return cls(booster, inputs, coder, Calibrator.from_json(files["calibrator.json"]), scale)

    @property
    def features(self) -> list[dict[str, Any]]:
        """The records of features.json (name, column, kind, direction, family, definition_hash), in their order."""
        return [each.record() for each in self.inputs]

    def matrix(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the booster's matrix (rows x features); columns are found by name, their order does not matter.

        A feature that is not there, or there twice, is refused (exit code 7), an infinite value too (exit code 2).
        """
        times = pd.Series(list(frame.columns), dtype=object).value_counts()
        problems = [
            Problem(
                f"feature {name}",
                "one column of the table to score",
                "no such column" if not times.get(name, 0) else f"{times[name]} columns of that name",
                "Build it as the model's definition says, or choose a champion that does not need it.",
            )
            for name in (each.name for each in self.inputs)
            if times.get(name, 0) != 1
        ]
        if problems:
            raise IntegrityRefused(problems)
        return self.encoders.matrix(frame, self.inputs)

    def margins(self, frame: pd.DataFrame) -> np.ndarray:
        """Return one log-odds a row, before calibration."""
        return estimator.margins(self.booster, self.matrix(frame))

    def probabilities(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return pd_raw (before calibration), pd, pd_low and pd_high, with the frame's index."""
        margin = self.margins(frame)
        low, high = self.calibrator.interval(margin)
        columns = {
            "pd_raw": estimator.probability(margin),
            "pd": self.calibrator.pd(margin),
            "pd_low": low,
            "pd_high": high,
        }
        return pd.DataFrame(columns, index=frame.index)

    def score(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return `probabilities` with score (higher is better) and grade; refused (exit code 7) without grades."""
        if self.scale is None:
            raise IntegrityRefused(Problem("grades.json", "a file of the bundle", "no such file", "Promote the model."))
        result = self.probabilities(frame)
        result["score"] = self.scale.score(result["pd"].to_numpy())
        result["grade"] = self.scale.grade(result["pd"].to_numpy())
        return result
