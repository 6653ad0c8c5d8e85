"""What gives reasons: a bundle's model with its words and its reference, and the sums that make importances.

The stage asks it customer by customer in parts, Spark's executors ask it a partition at a time, and who scores an
applicant asks it once.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from models import reasons, soundness
from models.grades import Scale
from models.scorer import Scorer
from pipeline.over_partitions import Answer, marked
from pipeline.score import inputs_of

Contributor = Callable[[np.ndarray], np.ndarray]
SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()), ("as_of", pa.date32()), ("rank", pa.int32()), ("code", pa.string()),
        ("text", pa.string()), ("feature", pa.string()), ("value", pa.float64()), ("value_text", pa.string()),
        ("typical", pa.string()), ("points", pa.float64()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Explainer:
    """A bundle that gives reasons: its model, its words, and the rows that they are held against."""

    scorer: Any
    scale: Scale
    terms: tuple[reasons.Term, ...]
    rows: pd.DataFrame  # the reference
    usual: np.ndarray  # its matrix
    contributions: Contributor  # of the bundle's own booster
    reference: reasons.Reference  # by the same
    least: float  # log-odds
    engine: str
    language: str

    @classmethod
    def of(cls, files: dict[str, bytes], least_points: float, engine: str, language: str) -> Self:
        """Return the explainer of a bundle's files, whose reference must not be empty.

        least_points: a family that costs less is no reason. engine: `kernel` or `lightgbm`.
        """
        scorer, scale = Scorer.from_files(files), Scale.from_json(files["grades.json"])
        terms = reasons.terms_of(inputs_of(files), pd.read_parquet(io.BytesIO(files["catalogue.parquet"])), language)
        rows = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
        usual, contributions = scorer.matrix(rows), contributor(scorer.booster, engine)
        reference = reasons.Reference.of(contributions(usual), rows, terms, language)
        least = least_points / scale.points_a_unit
        return cls(scorer, scale, terms, rows, usual, contributions, reference, least, engine, language)

    def named(self, booster: Any, matrix: np.ndarray, factor: int = 1) -> np.ndarray:
        """Return some rows' reasons by a booster over the same inputs whose leaves are worth 1 / `factor` of theirs."""
        contributions = contributor(booster, self.engine)
        reference = reasons.Reference.of(contributions(self.usual), self.rows, self.terms, self.language)
        ranked = reasons.rank(contributions(matrix), self.terms, reference, self.least / factor)
        return soundness.named(ranked, len(matrix))


def contributor(booster: Any, engine: str) -> Contributor:
    """Return what gives each input's share of the margin in log-odds: of (n, inputs) (n, inputs + 1), the bias last."""
    if engine == "kernel":
        from models import treeshap

        return treeshap.contributor(booster)
    return lambda matrix: np.asarray(booster.predict(matrix, pred_contrib=True, num_threads=2), dtype=float)


@dataclass(frozen=True)
class Sums:
    """What customers add to the importances: absolute Shapley values by input and by family, in log-odds."""

    customers: int
    inputs: np.ndarray
    families: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.customers + other.customers, self.inputs + other.inputs, self.families + other.families)

    @classmethod
    def none(cls, model: Explainer) -> Self:
        """Return the sums of no customer."""
        return cls(0, np.zeros(len(model.terms)), np.zeros(len(reasons.families_of(model.terms))))

    def to_bytes(self) -> bytes:
        """Return the numbers as doubles, one after the other."""
        return np.concatenate(([float(self.customers)], self.inputs, self.families)).tobytes()

    @classmethod
    def from_bytes(cls, text: bytes, model: Explainer) -> Self:
        """Return what `to_bytes` wrote."""
        count, *values = np.frombuffer(text).tolist()
        inputs, families = np.split(np.array(values), [len(model.terms)])
        return cls(int(count), inputs, families)


def teller(model: Explainer) -> Callable[[pa.Table], tuple[pa.Table, Sums]]:
    """Return what gives some customers' reasons, in the stage's schema and their order, and what they add up to."""
    reference = model.reference

    def tell(part: pa.Table) -> tuple[pa.Table, Sums]:
        frame = part.to_pandas()
        values = model.contributions(model.scorer.matrix(frame))
        mass = reasons.by_family(values[:, :-1] - reference.mean, model.terms)[1]
        sums = Sums(part.num_rows, np.abs(values[:, :-1]).sum(axis=0), np.abs(mass).sum(axis=0))
        ranked = reasons.rank(values, model.terms, reference, model.least)
        told = reasons.tell(ranked, frame, model.terms, reference, model.scale.points_a_unit, model.language)
        keys = part.select(["customer_id", "as_of"]).take(pa.array(told["row"].to_numpy()))
        columns = [
            keys[field.name].combine_chunks() if field.name in keys.column_names
            else pa.array(told[field.name], from_pandas=True)
            for field in SCHEMA
        ]  # fmt: skip
        arrays = [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=SCHEMA), sums

    return tell


def importance(model: Explainer, sums: Sums) -> dict[str, Any]:
    """Return how much families and inputs weigh on average, the heaviest first."""
    reference = model.reference
    count, families = max(sums.customers, 1), reasons.families_of(model.terms)
    return {
        "explained": True,
        "customers": sums.customers,
        "unit": "log-odds",
        "language": model.language,
        "reference": {"rows": len(model.rows), "mean_margin": figure(reference.margin)},
        "families": falling(
            {"family": name, "importance": figure(total / count)}
            for name, total in zip(families, sums.families.tolist(), strict=True)
        ),
        "features": falling(
            {
                "feature": term.feature, "family": term.family, "sentence": term.sentence,
                "typical": typical, "importance": figure(total / count),
            }
            for term, typical, total in zip(model.terms, reference.typical, sums.inputs.tolist(), strict=True)
        ),
    }  # fmt: skip


def answers(files: dict[str, bytes], least_points: float, engine: str, language: str) -> Answer:
    """Return what an executor answers with: the reasons of some customers, and a mark that holds their sums."""
    tell = teller(Explainer.of(files, least_points, engine, language))

    def answer(rows: pa.Table) -> pa.Table:
        told, sums = tell(rows)
        return marked(told, rows["customer_id"][0], sums.to_bytes())

    return answer


def figure(value: float) -> float:
    """Return nine significant digits: sums in another order are the same figure."""
    return float(f"{value:.9g}")


def falling(records: Any) -> list[dict[str, Any]]:
    """Return records by falling importance, equal ones by name."""
    return sorted(records, key=lambda record: (-record["importance"], record.get("feature", record["family"])))
