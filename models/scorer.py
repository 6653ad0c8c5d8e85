"""A model bundle that answers for any customers: features by name in, PD with interval, score and grade out.

The bundle is text: `booster.txt`, `encoders.json`, `features.json`, `calibrator.json`, `grades.json`, and where child
records are scored `records.json` and a booster a table. Its hashes are checked by whoever reads it; what arrives here
is parsed strictly, and a frame must hold every feature by its name (of records: their rows, or this model's scores).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from models import estimator, records
from models.calibration import Calibrator
from models.encoders import Encoders
from models.inputs import Input, carriers, record_inputs

FILES = ("booster.txt", "encoders.json", "features.json", "calibrator.json")  # grades.json joins them at promotion


def fingerprint(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of the model's files together, by name and content: the four, then those of record models."""
    names = (*FILES, *records.names_of(files))
    lines = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in names)
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
        coder = replace(Encoders.from_json(files["encoders.json"]), records=records.from_files(files))
        unscored = [table for table in record_inputs(inputs) if table not in coder.records]
        if unscored:
            raise IntegrityRefused(
                [
                    Problem(f"{records.FILE}: {table}", "a model of its rows", "none", "Restore it.")
                    for table in unscored
                ]
            )
        without = [each.name for each in inputs if each.kind == "categorical" and each.name not in coder.codes]
        if without:
            raise IntegrityRefused(
                [Problem(f"encoders.json: {name}", "codes of this feature", "none", "Restore it.") for name in without]
            )
        scale = None
        if "grades.json" in files:
            from models.grades import Scale

            scale = Scale.from_json(files["grades.json"])
        booster = estimator.load(files["booster.txt"], [each.column for each in inputs])
        return cls(booster, inputs, coder, Calibrator.from_json(files["calibrator.json"]), scale)

    @property
    def features(self) -> list[dict[str, Any]]:
        """The records of features.json (name, column, kind, direction, family, definition_hash), in their order."""
        return [each.record() for each in self.inputs]

    def needs_features_alone(self, where: str) -> None:
        """Refuse (exit code 4) to score `where` by a model that also scores child records, which only a run reads."""
        tables = ", ".join(record_inputs(self.inputs))
        if tables:
            must, found = "scored by a model of features alone", f"one that also scores single rows of {tables}"
            remedy = "Read the published table, or train with `featurise.records: []`."
            raise ConfigurationRefused(Problem(where, must, found, remedy))

    def columns_of(self, frame: pd.DataFrame) -> list[str]:
        """Return the columns that this frame must hold; of records its rows, or else their scores by this model."""
        rows = [name for name in carriers(each for each in self.inputs if each.kind == "record") if name in frame]
        return rows + [each.name for each in self.inputs if each.kind != "record" or carriers([each])[0] not in rows]

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
            for name in self.columns_of(frame)
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
