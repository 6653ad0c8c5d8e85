"""Stage explain: up to four reasons for every customer at the run's date, and which families weigh in the whole book.

Shapley values are path-dependent TreeSHAP in log-odds (models/treeshap.py), held against the reference in the bundle:
train customers who did not default. Points are those of the bundle's master scale, before calibration. `soundness.json`
says whether reasons hold: how far models of other seeds name the same, and what taking a reason away does to the risk.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
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

Contributor = Callable[[np.ndarray], np.ndarray]
OUT = Path("data/explain")
SELECTED = Path("data/select/features.json")
TRAINING = Path("data/featurise/training/features.parquet")
MEMORY = "1GiB"  # of DuckDB, while it sorts customers
GROUP = 250_000  # reasons in a group of rows of the file
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
    refits: int = Field(default=2, ge=2, le=20)  # models of other seeds, where the model does not average some
    refit_rows: int = Field(default=20_000, ge=100)  # of the train rows, whole customers by hash


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
    def of(cls, files: dict[str, bytes], params: Params, language: str) -> Self:
        """Return the explainer of a bundle's files, whose reference must not be empty."""
        from models.scorer import Scorer

        scorer, scale = Scorer.from_files(files), Scale.from_json(files["grades.json"])
        terms = reasons.terms_of(inputs_of(files), pd.read_parquet(io.BytesIO(files["catalogue.parquet"])), language)
        rows = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
        usual, contributions = scorer.matrix(rows), contributor(scorer.booster, params.engine)
        reference = reasons.Reference.of(contributions(usual), rows, terms, language)
        least = params.least_points / scale.points_a_unit
        return cls(scorer, scale, terms, rows, usual, contributions, reference, least, params.engine, language)

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


def at_date(path: Path) -> str:
    """Return as SQL the rows of the run's date: what is explained, and what reasons are tried on."""
    return f"from read_parquet('{parquet(path)}') where months_back = 0"


def customers(path: Path, names: Sequence[str], rows_at_a_time: int) -> Iterator[pa.Table]:
    """Yield customer_id, as_of and features of the run's date in the order of customer_id, some customers at a time.

    DuckDB sorts them within a limit of memory, beyond it on disk.
    """
    import duckdb

    listed = ", ".join(['"' + name.replace('"', '""') + '"' for name in ("customer_id", "as_of", *names)])
    with tempfile.TemporaryDirectory(prefix="bellwether-explain-") as scratch, duckdb.connect() as connection:
        connection.execute(f"set memory_limit = '{MEMORY}'; set temp_directory = '{scratch}'; set threads = 2")
        connection.execute(f"create view now as {at_date(path)}")
        count = connection.execute("select count(*) from now").fetchall()[0][0]
        found = connection.execute(f"select {listed} from now order by customer_id, as_of")
        found = found.to_arrow_reader(rows_at_a_time)
        for batch in progress("explain", found, -(-count // rows_at_a_time), "customers"):
            yield pa.Table.from_batches([batch])


def run(model: Explainer, parts: Iterable[pa.Table], write: Callable[[pa.Table], None]) -> tuple[int, dict[str, Any]]:
    """Write the reasons in the stage's schema part by part; return how many they are, and the global importances.

    parts: as `customers` yields them; the reasons come in their order, and by rank.
    """
    terms, families, reference = model.terms, reasons.families_of(model.terms), model.reference
    by_input, family_sum = np.zeros(len(terms)), np.zeros(len(families))
    seen, written = 0, 0
    for part in parts:
        frame = part.to_pandas()
        values = model.contributions(model.scorer.matrix(frame))
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
        write(pa.Table.from_arrays(arrays, schema=SCHEMA))
        seen, written = seen + part.num_rows, written + len(told)
    count = max(seen, 1)
    importance = {
        "explained": True,
        "customers": seen,
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
    return written, importance


class Reasons:
    """The file of reasons: groups of rows of one size, so that its bytes do not depend on the parts written."""

    def __init__(self, path: Path) -> None:
        self.path, self.waiting = path, SCHEMA.empty_table()

    def __enter__(self) -> Self:
        self.file = pq.ParquetWriter(self.path, SCHEMA, compression="zstd")
        return self

    def __exit__(self, *error: object) -> None:
        self.file.write_table(self.waiting.combine_chunks(), GROUP)
        self.file.close()

    def write(self, table: pa.Table) -> None:
        """Add reasons; whole groups are written."""
        self.waiting = pa.concat_tables([self.waiting, table])
        whole = self.waiting.num_rows // GROUP * GROUP
        if whole:
            self.file.write_table(self.waiting.slice(0, whole).combine_chunks(), GROUP)
            self.waiting = self.waiting.slice(whole).combine_chunks()


def tried_rows(path: Path, names: Sequence[str], most: int) -> pd.DataFrame:
    """Return the features of at most `most` customers, chosen by the hash of customer_id, in the order of that."""
    import duckdb

    listed = ", ".join(['"' + name.replace('"', '""') + '"' for name in names])
    with duckdb.connect() as connection:
        return connection.execute(
            f"""with now as ({at_date(path)})
            select {listed} from now semi join
                (select customer_id from now order by md5(customer_id), customer_id limit {most}) using (customer_id)
            order by customer_id"""
        ).df()


def train_rows(files: dict[str, bytes], most: int) -> tuple[Panel | None, str]:
    """Return at most `most` rows that trained the bundle, whole customers by hash; or None and why there are none.

    They come from this run's training features, which may no longer hold what an older champion learned from.
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
    return panel(frame, names, plan["horizon_months"], in_time=plan["kind"] == "time"), ""


def tried(
    model: Explainer, path: Path, files: dict[str, bytes], params: Params
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return whether some customers' reasons hold, and pictures of what the model makes of their features.

    They are held against models of other seeds, and against what becomes of the risk when they are taken away.
    """
    terms, scorer, families = model.terms, model.scorer, reasons.families_of(model.terms)
    matrix = scorer.matrix(tried_rows(path, [term.feature for term in terms], params.tried_customers))
    values = model.contributions(matrix)
    above = values[:, :-1] - model.reference.mean
    mass = reasons.by_family(above, terms)[1]
    shown = pictures.drawn(above, matrix, [term.feature for term in terms], mass, families)
    ranked = reasons.rank(values, terms, model.reference, model.least)
    family = np.array([families.index(term.family) for term in terms])
    point = soundness.typical_point(model.usual, model.rows, terms)
    taken = soundness.counterfactual(scorer.booster, matrix, ranked, family, point, model.scale.points_a_unit)
    agreed, named = seeds(model, matrix, files, params)
    if named:
        riskiest = np.argsort(-estimator.margins(scorer.booster, matrix), kind="stable")[: max(1, len(matrix) // 10)]
        agreed["all"] = soundness.agreement(named)
        agreed["riskiest_tenth"] = soundness.agreement([each[riskiest] for each in named])
    return {"customers": len(matrix), "counterfactual": _rounded(taken), "agreement": _rounded(agreed)}, shown


def seeds(
    model: Explainer, matrix: np.ndarray, files: dict[str, bytes], params: Params
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return of models of other seeds how they came about, and the reasons of these customers by each of them.

    They are those that the model averages, where it averages some; otherwise refits, where its train rows are at hand.
    """
    booster = model.scorer.booster
    known = pq.read_metadata(io.BytesIO(files["trained_on.parquet"])).num_rows
    count = soundness.seeds_averaged(booster)
    told = {"measured": True, "averaged": count > 1, "train_rows": known, "train_rows_of_model": known}
    if count > 1:
        return told | {"models": count}, [
            model.named(each, matrix, count) for each in soundness.members(booster, count)
        ]
    rows, why = train_rows(files, params.refit_rows)
    if rows is None:
        return {"measured": False, "why": why}, []
    others = soundness.refits(model.scorer, rows, params.refits)
    return told | {"models": len(others), "train_rows": len(rows)}, [model.named(each, matrix) for each in others]


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
    fresh(OUT)
    (OUT / "pictures").mkdir()
    written, importance = 0, {"explained": False, "why": why, "families": [], "features": []}
    held: dict[str, Any] = {"customers": 0, "why": why}
    with Reasons(OUT / "reasons.parquet") as table:
        if files is not None and why is None:
            model = Explainer.of(files, params, parameters.language())
            names = [term.feature for term in model.terms]
            parts = customers(FEATURES, names, params.rows_at_a_time)
            written, importance = run(model, parts, table.write)
            held, shown = tried(model, FEATURES, files, params)
            for name, content in shown.items():
                (OUT / "pictures" / name).write_bytes(content)
    write_json(OUT / "global.json", importance)
    write_json(OUT / "soundness.json", held)
    say("explain", why or "reasons", reasons=written, customers=importance.get("customers", 0))
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
            f"{agreed['models']} models of other seeds name the same first reason for {agreed['all']['first']:.1%} of "
            f"the customers (by chance {agreed['all']['first_by_chance']:.1%}), and share "
            f"{agreed['all']['shared']:.1%} of all reasons"
        )
    return lines


if __name__ == "__main__":
    execute("explain", main)
