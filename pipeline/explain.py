"""Stage explain: up to four reasons for every customer at the run's date, and which families weigh in the whole book.

Shapley values are path-dependent TreeSHAP in log-odds (models/treeshap.py), held against the reference in the bundle:
train customers who did not default. Points are those of the bundle's master scale, before calibration. `soundness.json`
says whether reasons hold: how far models of other seeds name the same, and what taking a reason away does to the risk.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from models import estimator, reasons, soundness
from models.grades import Scale
from models.inputs import Panel, panel
from pipeline import params as parameters
from pipeline import pictures
from pipeline.fingerprint import row_key
from pipeline.params import Section
from pipeline.score import FEATURES, inputs_of, read_scorer
from pipeline.stage import execute, fresh, parquet, progress, read_json, say, write_json

OUT = Path("data/explain")
SELECTED = Path("data/select/features.json")
TRAINING = Path("data/featurise/training/features.parquet")
SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()), ("as_of", pa.date32()), ("rank", pa.int32()), ("code", pa.string()),
        ("text", pa.string()), ("feature", pa.string()), ("value", pa.float64()), ("value_text", pa.string()),
        ("typical", pa.string()), ("points", pa.float64()),
    ]
)  # fmt: skip


class Params(Section):
    """What counts as a reason, how it is worked out, and on how many it is tried whether reasons hold."""

    section: ClassVar[str] = "explain"
    least_points: float = Field(default=0.5, ge=0)  # a family that costs less is no reason
    engine: Literal["kernel", "lightgbm"] = "kernel"  # lightgbm: its pred_contrib, slower, the same to 1e-9
    rows_at_a_time: int = Field(default=50_000, ge=1)
    tried_customers: int = Field(default=1000, ge=1)  # by hash: their reasons are compared, and taken away
    refits: int = Field(default=3, ge=2, le=20)  # models of other seeds that are asked for the same reasons
    refit_rows: int = Field(default=20_000, ge=100)  # of the train rows, whole customers by hash


@dataclass(frozen=True)
class Explainer:
    """A bundle that gives reasons: its model, its words, and the rows that they are held against."""

    scorer: Any
    scale: Scale
    terms: tuple[reasons.Term, ...]
    rows: pd.DataFrame  # the reference
    usual: np.ndarray  # its matrix
    least: float  # log-odds
    engine: str
    language: str

    @classmethod
    def of(cls, files: dict[str, bytes], params: Params, language: str) -> Self:
        """Return the explainer of a bundle's files, whose reference must not be empty."""
        from models.scorer import Scorer

        scorer, scale = Scorer.from_files(files), Scale.from_json(files["grades.json"])
        terms = reasons.terms_of(inputs_of(files), pd.read_parquet(io.BytesIO(files["catalogue.parquet"])), language)
        rows = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
        least = params.least_points / scale.points_a_unit
        return cls(scorer, scale, terms, rows, scorer.matrix(rows), least, params.engine, language)

    def reference(self, booster: Any) -> reasons.Reference:
        """Return what is usual by a booster over the bundle's inputs: its own, or a refit."""
        usual = contributions(booster, self.usual, self.engine)
        return reasons.Reference.of(usual, self.rows, self.terms, self.language)

    def ranked(self, booster: Any, matrix: np.ndarray) -> reasons.Ranked:
        """Return the reasons of some rows by a booster over the bundle's inputs."""
        values = contributions(booster, matrix, self.engine)
        return reasons.rank(values, self.terms, self.reference(booster), self.least)


def contributions(booster: Any, matrix: np.ndarray, engine: str) -> np.ndarray:
    """Return each input's share of the margin in log-odds, (n, inputs + 1), the bias last."""
    if engine == "kernel":
        from models import treeshap

        return treeshap.contributions(booster, matrix)
    return np.asarray(booster.predict(matrix, pred_contrib=True, num_threads=2), dtype=float)


def run(model: Explainer, features: pa.Table, rows_at_a_time: int) -> tuple[pa.Table, dict[str, Any]]:
    """Return the reasons in the stage's schema, sorted by customer_id, as_of and rank, and the global importances.

    features: one row a customer, customer_id, as_of and features.
    """
    terms, families, booster = model.terms, reasons.families_of(model.terms), model.scorer.booster
    reference = model.reference(booster)
    features = features.sort_by([("customer_id", "ascending"), ("as_of", "ascending")])
    parts = [SCHEMA.empty_table()]
    by_input, family_sum = np.zeros(len(terms)), np.zeros(len(families))
    starts = range(0, features.num_rows, rows_at_a_time)
    for start in progress("explain", starts, len(starts), "customers"):
        part = features.slice(start, rows_at_a_time)
        frame = part.to_pandas()
        values = contributions(booster, model.scorer.matrix(frame), model.engine)
        by_input += np.abs(values[:, :-1]).sum(axis=0)
        family_sum += np.abs(reasons.by_family(values[:, :-1] - reference.mean, terms)[1]).sum(axis=0)
        ranked = reasons.rank(values, terms, reference, model.least)
        told = reasons.tell(ranked, frame, terms, reference, model.scale.points_a_unit, model.language)
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
        "language": model.language,
        "reference": {"rows": len(model.rows), "mean_margin": _figure(reference.margin)},
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


def tried_rows(features: pa.Table, most: int) -> pd.DataFrame:
    """Return at most `most` customers' rows, chosen by the hash of customer_id, in the order of customer_id."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("features", features)
        chosen = connection.execute(
            f"select customer_id from features order by md5(customer_id), customer_id limit {most}"
        ).to_arrow_table()["customer_id"]
    return features.filter(pc.is_in(features["customer_id"], chosen)).sort_by("customer_id").to_pandas()


def train_rows(files: dict[str, bytes], most: int) -> tuple[Panel | None, str | int]:
    """Return at most `most` rows that trained the bundle, whole customers by hash, and how many rows trained it.

    They come from this run's training features, which may no longer hold what an older champion learned from: then
    there is no panel, and the reason in place of the number.
    """
    import duckdb

    plan = read_json(SELECTED)["split"] if SELECTED.exists() else {}
    if not TRAINING.exists() or "horizon_months" not in plan:
        return None, "there are no training rows"
    names = [each["name"] for each in inputs_of(files)]
    keys = pq.read_table(io.BytesIO(files["trained_on.parquet"]))
    with duckdb.connect() as connection:
        connection.register("trained", keys)
        connection.execute(f"create view features as from read_parquet('{parquet(TRAINING)}')")
        there = {row[0] for row in connection.execute("describe features").fetchall()}
        lost = sum(name not in there for name in names)
        if lost:
            return None, f"{lost} of the model's features are no longer built"
        wanted = ["customer_id", "as_of", "outcome", *({"outcome_known_on"} & there), *names]
        listed = ", ".join('features."' + name.replace('"', '""') + '"' for name in wanted)
        frame = connection.execute(
            f"""with found as (select features.customer_id, features.as_of from features
                semi join trained on {row_key("features")} = trained.key),
            customers as (select customer_id, sum(count(*)) over (order by md5(customer_id), customer_id) as upto
                from found group by customer_id)
            select {listed} from features semi join found using (customer_id, as_of)
            semi join (from customers where upto <= {most}) using (customer_id)"""
        ).df()
    if not 0 < frame["outcome"].mean() < 1:
        return None, "no rows that trained the model, or of one outcome only"
    return panel(frame, names, plan["horizon_months"], in_time=plan["kind"] == "time"), keys.num_rows


def tried(
    model: Explainer, features: pa.Table, files: dict[str, bytes], params: Params
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return whether some customers' reasons hold, and pictures of what the model makes of their features.

    They are held against models of other seeds, and against what becomes of the risk when they are taken away.
    """
    terms, scorer, families = model.terms, model.scorer, reasons.families_of(model.terms)
    matrix = scorer.matrix(tried_rows(features, params.tried_customers))
    values, reference = contributions(scorer.booster, matrix, model.engine), model.reference(scorer.booster)
    above = values[:, :-1] - reference.mean
    mass = reasons.by_family(above, terms)[1]
    shown = pictures.drawn(above, matrix, [term.feature for term in terms], mass, families)
    ranked = reasons.rank(values, terms, reference, model.least)
    family = np.array([families.index(term.family) for term in terms])
    point = soundness.typical_point(model.usual, model.rows, terms)
    taken = soundness.counterfactual(scorer.booster, matrix, ranked, family, point, model.scale.points_a_unit)
    rows, known = train_rows(files, params.refit_rows)
    if rows is None:
        agreed: dict[str, Any] = {"measured": False, "why": known}
    else:
        others = [model.ranked(booster, matrix) for booster in soundness.refits(scorer, rows, params.refits)]
        named = [soundness.named(each, len(matrix)) for each in others]
        riskiest = np.argsort(-estimator.margins(scorer.booster, matrix), kind="stable")[: max(1, len(matrix) // 10)]
        agreed = {
            "measured": True, "refits": params.refits, "train_rows": len(rows), "train_rows_of_model": known,
            "all": soundness.agreement(named), "riskiest_tenth": soundness.agreement([each[riskiest] for each in named]),
        }  # fmt: skip
    return {"customers": len(matrix), "counterfactual": _rounded(taken), "agreement": _rounded(agreed)}, shown


def _rounded(value: Any) -> Any:
    """Return nested figures to nine significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return _figure(value) if isinstance(value, float) else value


def _figure(value: float) -> float:
    return float(f"{value:.9g}")


def _falling(records: Any) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (-record["importance"], record.get("feature", record["family"])))


def main() -> None:
    """Explain every customer at the run's date, or write empty files where nothing was scored."""
    params = Params.load()
    files = read_scorer()
    why = None
    if files is None:
        why = "nothing was scored"
    elif pq.read_metadata(io.BytesIO(files["reference.parquet"])).num_rows == 0:
        why = "the bundle's reference is empty: no train customer without default"
    if files is None or why is not None:
        table, importance = SCHEMA.empty_table(), {"explained": False, "why": why, "families": [], "features": []}
        held: dict[str, Any] = {"customers": 0, "why": why}
        shown: dict[str, bytes] = {}
    else:
        names = [each["name"] for each in inputs_of(files)]
        features = pq.read_table(
            FEATURES, columns=["customer_id", "as_of", *names], filters=pc.field("months_back") == 0
        )
        model = Explainer.of(files, params, parameters.language())
        table, importance = run(model, features, params.rows_at_a_time)
        held, shown = tried(model, features, files, params)
    fresh(OUT)
    (OUT / "pictures").mkdir()
    for name, content in shown.items():
        (OUT / "pictures" / name).write_bytes(content)
    pq.write_table(table, OUT / "reasons.parquet", compression="zstd")
    write_json(OUT / "global.json", importance)
    write_json(OUT / "soundness.json", held)
    say("explain", why or "reasons", reasons=table.num_rows, customers=importance.get("customers", 0))
    for line in told(held):
        say("explain", line)


def told(held: dict[str, Any]) -> list[str]:
    """Return in sentences whether reasons hold."""
    if "counterfactual" not in held:
        return []
    taken, agreed, lines = held["counterfactual"], held["agreement"], []
    if taken["reasons"]:
        lines.append(
            f"put at its typical value, a reason's feature lowers the risk in {taken['feature']['lowered']:.1%} of "
            f"{taken['reasons']:,} reasons, its whole family in {taken['family']['lowered']:.1%}"
        )
    if not agreed["measured"]:
        lines.append(f"agreement between seeds not measured: {agreed['why']}")
    elif agreed["all"]["first"] is not None:
        lines.append(
            f"{agreed['refits']} models of other seeds name the same first reason for {agreed['all']['first']:.1%} of "
            f"the customers (by chance {agreed['all']['first_by_chance']:.1%}), and share "
            f"{agreed['all']['shared']:.1%} of all reasons"
        )
    return lines


if __name__ == "__main__":
    execute("explain", main)
