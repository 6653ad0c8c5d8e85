"""Stage score: PD, points and grade of every customer at the thirteen dates, by the bundle in data/promote/scorer.

The bundle is hashed before it is parsed, and its features must be those that the code defines today: otherwise exit 7
names them. Child records, where the bundle has models of them, are scored first; what they say is kept for the stages
after in data/score/records.parquet. Without a scorer (no champion, and the candidate refused) the stages up to report
go on with empty tables, and publish says why.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from features.errors import IntegrityRefused, Problem
from features.expressions import name as quoted
from models.inputs import Input, otherwise_defined
from pipeline import bundle, over_partitions, records, spark_session
from pipeline.fingerprint import row_key
from pipeline.params import Section
from pipeline.stage import execute, fresh, parquet, read_json, say, write_json

FEATURES = Path("data/featurise/scoring/features.parquet")
CATALOGUE = Path("data/featurise/catalogue.parquet")
OUT = Path("data/score")
KEYS = ("customer_id", "as_of", "months_back")
SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()), ("as_of", pa.date32()), ("months_back", pa.int32()),
        ("pd_raw", pa.float64()), ("pd", pa.float64()), ("pd_low", pa.float64()), ("pd_high", pa.float64()),
        ("score", pa.int32()), ("grade", pa.string()),
        ("in_training", pa.bool_()), ("missing_share", pa.float64()), ("out_of_range", pa.int32()),
    ]
)  # fmt: skip


class Params(Section):
    """How scoring uses memory."""

    section: ClassVar[str] = "score"
    rows_at_a_time: int = Field(default=200_000, ge=1)


def read_scorer() -> dict[str, bytes] | None:
    """Return the bundle's files after their hashes were checked, or None where there is no scorer."""
    empty = not bundle.SCORER.exists() or next(bundle.SCORER.iterdir(), None) is None
    return None if empty else bundle.read(bundle.SCORER)


def inputs_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return the model's ordered inputs as records: name, column, kind, direction, family, definition_hash."""
    try:
        records = list(json.loads(files["features.json"])["features"])
        inputs = [Input.from_record(record) for record in records]
        hash(tuple(inputs))  # texts and numbers, no lists
    except (ValueError, KeyError, TypeError) as error:
        must = "the ordered features of the model"
        raise IntegrityRefused(Problem("features.json", must, type(error).__name__, "Restore the bundle.")) from None
    return records


def check_features(inputs: list[dict[str, Any]], catalogue: pd.DataFrame, columns: list[str]) -> None:
    """Refuse (exit code 7) a model whose features are missing, or defined otherwise than when it was trained."""
    missing, changed = otherwise_defined(inputs, catalogue[catalogue["name"].isin(columns)])
    remedy = "Restore the definitions, or retrain: `python -m pipeline retrain`."
    problems = [
        Problem("data/promote/scorer: features.json", must, f"{len(names)} others: {', '.join(names[:20])}", remedy)
        for must, names in (
            ("features that are built today", missing),
            ("features defined as when the model was trained", changed),
        )
        if names
    ]
    if problems:
        raise IntegrityRefused(problems)


def ranges(inputs: list[dict[str, Any]], reference: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the numeric inputs with the least and greatest value seen in training.

    Taken from `minimum` and `maximum` of features.json where the trainer wrote them, or else from the reference rows.
    """
    names, low, high = [], [], []
    for each in inputs:
        if each["kind"] == "categorical" or each["name"] not in reference:
            continue
        values = pd.to_numeric(reference[each["name"]]).to_numpy(dtype=float, na_value=np.nan)
        known = values[~np.isnan(values)]
        names.append(each["name"])
        low.append(each.get("minimum", known.min() if len(known) else -np.inf))
        high.append(each.get("maximum", known.max() if len(known) else np.inf))
    return names, np.array(low, dtype=float), np.array(high, dtype=float)


def read_features(inputs: list[dict[str, Any]], keys: list[str], filters: Any = None) -> pa.Table:
    """Return `keys` and the model's inputs of scored rows: features as built, child records as this stage scored."""
    made = [each["name"] for each in inputs if each["kind"] == "record"]
    named = [*keys, *(each["name"] for each in inputs if each["kind"] != "record")]
    table = pq.read_table(FEATURES, columns=named, filters=filters)
    if not made:
        return table
    return records.beside(table, pq.read_table(OUT / "records.parquet", columns=["customer_id", "as_of", *made]))


def rows_scored(inputs: list[dict[str, Any]]) -> str:
    """Return the same for DuckDB to read: features of all scored rows, child records' scores beside them."""
    features = f"read_parquet('{parquet(FEATURES)}')"
    made = [quoted(each["name"]) for each in inputs if each["kind"] == "record"]
    if not made:
        return features
    scores = f"(select customer_id, as_of, {', '.join(made)} from read_parquet('{OUT / 'records.parquet'}'))"
    return f"(from {features} left join {scores} using (customer_id, as_of))"


def in_training(rows: pa.Table, keys: pa.Table) -> np.ndarray:
    """Return whether each row (customer_id, as_of) trained the model: its SHA-256 stands among `keys`."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("numbered", rows.append_column("place", pa.array(np.arange(rows.num_rows))))
        connection.register("trained", keys)
        found = connection.execute(
            f"select place from numbered where {row_key('numbered')} in (select key from trained)"
        ).fetchnumpy()["place"]
    seen = np.zeros(rows.num_rows, dtype=bool)
    seen[np.asarray(found, dtype=np.int64)] = True
    return seen


def run(files: dict[str, bytes], features: pa.Table, rows_at_a_time: int, scorer: Any = None) -> pa.Table:
    """Return one row a (customer, date), sorted by customer_id and as_of, in the stage's schema.

    scorer: what the files say, where the caller holds it already.
    """
    from models.scorer import Scorer

    scorer = scorer or Scorer.from_files(files)
    inputs = inputs_of(files)
    names = [each["name"] for each in inputs]
    reference = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
    numeric, low, high = ranges(inputs, reference)
    trained = pq.read_table(io.BytesIO(files["trained_on.parquet"]))
    features = features.sort_by([("customer_id", "ascending"), ("as_of", "ascending")])
    parts = [SCHEMA.empty_table()]
    for start in range(0, features.num_rows, rows_at_a_time):
        part = features.slice(start, rows_at_a_time)
        frame = part.to_pandas()
        scored = scorer.score(frame)
        figures = frame[numeric].to_numpy(dtype=float, na_value=np.nan)
        values = {
            **{key: frame[key] for key in KEYS},
            **{name: np.asarray(scored[name]) for name in ("pd_raw", "pd", "pd_low", "pd_high", "score", "grade")},
            "in_training": in_training(part.select(["customer_id", "as_of"]), trained),
            "missing_share": frame[names].isna().to_numpy().mean(axis=1) if names else np.zeros(len(frame)),
            "out_of_range": ((figures < low) | (figures > high)).sum(axis=1),
        }
        arrays = [pa.array(values[field.name], from_pandas=True).cast(field.type) for field in SCHEMA]
        parts.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
    return pa.concat_tables(parts).combine_chunks()


def answers(files: dict[str, bytes], rows_at_a_time: int) -> over_partitions.Answer:
    """Return what an executor answers with."""
    return lambda rows: run(files, rows, rows_at_a_time)


def main() -> None:
    """Score every row of data/featurise/scoring, or write an empty table where there is no scorer."""
    from models.scorer import Scorer

    params = Params.load()
    files = read_scorer()
    if files is None:
        fresh(OUT)
        pq.write_table(SCHEMA.empty_table(), OUT / "scores.parquet", compression="zstd")
        why = "no scorer: " + "; ".join(read_json(Path("data/promote/verdict.json")).get("reasons", ["no verdict"]))
        write_json(OUT / "summary.json", {"scored": False, "why": why})
        say("score", why)
        return
    inputs = inputs_of(files)
    catalogue = pd.read_parquet(CATALOGUE, columns=["name", "kind", "definition_hash"])
    built = [*pq.ParquetDataset(FEATURES).schema.names, *catalogue.loc[catalogue["kind"] == "record", "name"]]
    check_features(inputs, catalogue, built)
    fresh(OUT)
    if any(each["kind"] == "record" for each in inputs):
        made = records.scored(
            Scorer.from_files(files), pq.read_table(FEATURES, columns=["customer_id", "as_of"]), FEATURES.parent
        )
        pq.write_table(made, OUT / "records.parquet", compression="zstd")
    if engine := spark_session.chosen():
        place = (OUT / "scores.parquet").relative_to("data").as_posix()
        columns = [*KEYS, *(each["name"] for each in inputs)]
        arguments = (files, params.rows_at_a_time)
        over_partitions.write(
            engine, columns, "pipeline.score:answers", arguments, SCHEMA, place, rows_at_a_time=params.rows_at_a_time
        )
        scores = pq.read_table(OUT / "scores.parquet", columns=["months_back", "in_training", "pd"])
    else:
        scores = run(files, read_features(inputs, list(KEYS)), params.rows_at_a_time)
        pq.write_table(scores, OUT / "scores.parquet", compression="zstd")
    now = scores.filter(pc.equal(scores["months_back"], 0))
    given = any("minimum" in each for each in inputs) or all(each["kind"] == "categorical" for each in inputs)
    summary = {
        "scored": True,
        "model_version": bundle.manifest(bundle.SCORER)["model_version"],
        "rows": scores.num_rows,
        "customers": now.num_rows,
        "dates": len(pc.unique(scores["months_back"])),
        "in_training": int(pc.sum(now["in_training"]).as_py() or 0),
        "mean_pd": round(float(np.mean(now["pd"].to_numpy())), 12) if now.num_rows else None,
        "range_of": "training" if given else "reference",
    }
    write_json(OUT / "summary.json", summary)
    say("score", "scored", customers=now.num_rows, rows=scores.num_rows, in_training=summary["in_training"])


if __name__ == "__main__":
    execute("score", main)
