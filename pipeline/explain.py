"""Stage explain: up to four reasons for every customer at the run's date, and which families weigh in the whole book.

Shapley values are path-dependent TreeSHAP in log-odds (models/treeshap.py), held against the reference in the bundle:
train customers who did not default. Points are those of the bundle's master scale, before calibration.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from models import reasons
from models.grades import Scale
from pipeline import params as parameters
from pipeline.params import Section
from pipeline.score import inputs_of, read_features, read_scorer
from pipeline.stage import execute, fresh, progress, say, write_json

OUT = Path("data/explain")
SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()), ("as_of", pa.date32()), ("rank", pa.int32()), ("code", pa.string()),
        ("text", pa.string()), ("feature", pa.string()), ("value", pa.float64()), ("value_text", pa.string()),
        ("typical", pa.string()), ("points", pa.float64()),
    ]
)  # fmt: skip


class Params(Section):
    """What counts as a reason, and how it is worked out."""

    section: ClassVar[str] = "explain"
    least_points: float = Field(default=0.5, ge=0)  # a family that costs less is no reason
    engine: Literal["kernel", "lightgbm"] = "kernel"  # lightgbm: its pred_contrib, slower, the same to 1e-9
    rows_at_a_time: int = Field(default=50_000, ge=1)


def contributions(scorer: Any, matrix: np.ndarray, engine: str) -> np.ndarray:
    """Return each input's share of the margin in log-odds, (n, inputs + 1), the bias last."""
    if engine == "kernel":
        from models import treeshap

        return treeshap.contributions(scorer.booster, matrix)
    return np.asarray(scorer.booster.predict(matrix, pred_contrib=True, num_threads=2), dtype=float)


def run(files: dict[str, bytes], features: pa.Table, params: Params, language: str) -> tuple[pa.Table, dict[str, Any]]:
    """Return the reasons in the stage's schema, sorted by customer_id, as_of and rank, and the global importances.

    files: the scorer's bundle, its reference not empty. features: one row a customer, customer_id, as_of and features.
    """
    from models.scorer import Scorer

    scorer = Scorer.from_files(files)
    scale = Scale.from_json(files["grades.json"])
    terms = reasons.terms_of(inputs_of(files), pd.read_parquet(io.BytesIO(files["catalogue.parquet"])), language)
    rows = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
    usual = contributions(scorer, scorer.matrix(rows), params.engine)
    reference = reasons.Reference.of(usual, rows, terms, language)
    features = features.sort_by([("customer_id", "ascending"), ("as_of", "ascending")])
    parts = [SCHEMA.empty_table()]
    by_input = np.zeros(len(terms))
    families: tuple[str, ...] = tuple(sorted({term.family for term in terms}))
    family_sum = np.zeros(len(families))
    starts = range(0, features.num_rows, params.rows_at_a_time)
    for start in progress("explain", starts, len(starts), "customers"):
        part = features.slice(start, params.rows_at_a_time)
        frame = part.to_pandas()
        values = contributions(scorer, scorer.matrix(frame), params.engine)
        by_input += np.abs(values[:, :-1]).sum(axis=0)
        family_sum += np.abs(reasons.by_family(values[:, :-1] - reference.mean, terms)[1]).sum(axis=0)
        ranked = reasons.rank(values, terms, reference, params.least_points / scale.points_a_unit)
        told = reasons.tell(ranked, frame, terms, reference, scale.points_a_unit, language)
        keys = part.select(["customer_id", "as_of"]).take(pa.array(told["row"].to_numpy()))
        columns = [
            keys[field.name].combine_chunks() if field.name in keys.column_names
            else pa.array(told[field.name], from_pandas=True)
            for field in SCHEMA
        ]  # fmt: skip
        arrays = [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        parts.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
    count = max(features.num_rows, 1)
    importance = {
        "explained": True,
        "customers": features.num_rows,
        "unit": "log-odds",
        "language": language,
        "reference": {"rows": len(rows), "mean_margin": _figure(reference.margin)},
        "families": _falling(
            {"family": name, "importance": _figure(total / count)}
            for name, total in zip(families, family_sum.tolist(), strict=True)
        ),
        "features": _falling(
            {
                "feature": term.feature, "family": term.family, "sentence": term.sentence,
                "typical": typical, "importance": _figure(total / count),
            }
            for term, typical, total in zip(terms, reference.typical, by_input.tolist(), strict=True)
        ),
    }  # fmt: skip
    return pa.concat_tables(parts).combine_chunks(), importance


def _figure(value: float) -> float:
    return float(f"{value:.9g}")


def _falling(records: Any) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (-record["importance"], record.get("feature", record["family"])))


def main() -> None:
    """Explain every customer at the run's date, or write empty files where nothing was scored."""
    params = Params.load()
    language = parameters.language()
    files = read_scorer()
    why = None
    if files is None:
        why = "nothing was scored"
    elif pq.read_metadata(io.BytesIO(files["reference.parquet"])).num_rows == 0:
        why = "the bundle's reference is empty: no train customer without default"
    if files is None or why is not None:
        table, importance = SCHEMA.empty_table(), {"explained": False, "why": why, "families": [], "features": []}
    else:
        features = read_features(inputs_of(files), ["customer_id", "as_of"], pc.field("months_back") == 0)
        table, importance = run(files, features, params, language)
    fresh(OUT)
    pq.write_table(table, OUT / "reasons.parquet", compression="zstd")
    write_json(OUT / "global.json", importance)
    say("explain", why or "reasons", reasons=table.num_rows, customers=importance.get("customers", 0))


if __name__ == "__main__":
    execute("explain", main)
