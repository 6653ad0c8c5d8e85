"""Stage explain: up to four reasons for every customer at the run's date, and which families weigh in the whole book.

Shapley values are path-dependent TreeSHAP in log-odds (models/treeshap.py), held against the reference in the bundle:
train customers who did not default. Points are those of the bundle's master scale, before calibration. `soundness.json`
says whether reasons hold: how far models of other seeds name the same, and what taking a reason away does to the risk.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from models import estimator, reasons, soundness
from models.inputs import Panel, carriers, panel, record_inputs
from models.scorer import read_inputs
from pipeline import over_partitions, pictures, records, spark_session
from pipeline import params as parameters
from pipeline.dates_apart import across_dates
from pipeline.explainer import SCHEMA, Explainer, Sums, figure, importance, teller
from pipeline.fingerprint import row_key
from pipeline.params import Section
from pipeline.score import inputs_of, read_scorer, rows_scored
from pipeline.stage import execute, fresh, parquet, progress, read_json, say, write_json

OUT = Path("data/explain")
SELECTED = Path("data/select/features.json")
TRAINING = Path("data/featurise/training/features.parquet")
MEMORY = "1GiB"  # of DuckDB, while it sorts customers
GROUP = 250_000  # reasons in a group of rows of the file


class Params(Section):
    """What counts as a reason, how it is worked out, and on how many it is tried whether reasons hold."""

    section: ClassVar[str] = "explain"
    least_points: float = Field(default=0.5, ge=0)  # a family that costs less is no reason
    engine: Literal["kernel", "lightgbm"] = "kernel"  # lightgbm: its pred_contrib, slower, the same to 1e-9
    rows_at_a_time: int = Field(default=50_000, ge=1)
    tried_customers: int = Field(default=1000, ge=1)  # by hash: their reasons are compared, and taken away
    refits: int = Field(default=2, ge=2, le=20)  # models of other seeds, where the model does not average some
    refit_rows: int = Field(default=20_000, ge=100)  # of the train rows, whole customers by hash


def at_date(rows: str) -> str:
    """Return as SQL the rows of the run's date: what is explained, and what reasons are tried on."""
    return f"from {rows} where months_back = 0"


def customers(rows: str, names: Sequence[str], rows_at_a_time: int) -> Iterator[pa.Table]:
    """Yield customer_id, as_of and features of the run's date in the order of customer_id, some customers at a time.

    rows: what DuckDB reads them from. It sorts them within a limit of memory, beyond it on disk.
    """
    import duckdb

    listed = ", ".join(['"' + name.replace('"', '""') + '"' for name in ("customer_id", "as_of", *names)])
    with tempfile.TemporaryDirectory(prefix="bellwether-explain-") as scratch, duckdb.connect() as connection:
        connection.execute(f"set memory_limit = '{MEMORY}'; set temp_directory = '{scratch}'; set threads = 2")
        connection.execute(f"create view now as {at_date(rows)}")
        count = connection.execute("select count(*) from now").fetchall()[0][0]
        found = connection.execute(f"select {listed} from now order by customer_id, as_of")
        found = found.to_arrow_reader(rows_at_a_time)
        for batch in progress("explain", found, -(-count // rows_at_a_time), "customers"):
            yield pa.Table.from_batches([batch])


def run(model: Explainer, parts: Iterable[pa.Table], write: Callable[[pa.Table], None]) -> tuple[int, dict[str, Any]]:
    """Write the reasons in the stage's schema part by part; return how many they are, and the global importances.

    parts: as `customers` yields them; the reasons come in their order, and by rank.
    """
    tell, sums, written = teller(model), Sums.none(model), 0
    for part in parts:
        told, added = tell(part)
        write(told)
        sums, written = sums + added, written + told.num_rows
    return written, importance(model, sums)


def run_over_partitions(
    engine: Any, model: Explainer, files: dict[str, bytes], params: Params
) -> tuple[int, dict[str, Any]]:
    """Do what `run` does by Spark's executors, which write the file of reasons in parts."""
    place = (OUT / "reasons.parquet").relative_to("data").as_posix()
    columns = ["customer_id", "as_of", *(term.feature for term in model.terms)]
    arguments = (files, params.least_points, params.engine, model.language)
    marks = over_partitions.write(
        engine, columns, "pipeline.explainer:answers", arguments, SCHEMA, place,
        now=True, rows_at_a_time=params.rows_at_a_time,
    )  # fmt: skip
    sums = sum((Sums.from_bytes(mark, model) for mark in marks), Sums.none(model))
    return pq.ParquetDataset(OUT / "reasons.parquet").read(columns=["rank"]).num_rows, importance(model, sums)


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


def tried_rows(rows: str, names: Sequence[str], most: int) -> pd.DataFrame:
    """Return the features of at most `most` customers of `rows`, chosen by the hash of customer_id, in its order."""
    import duckdb

    listed = ", ".join(['"' + name.replace('"', '""') + '"' for name in names])
    with duckdb.connect() as connection:
        return connection.execute(
            f"""with now as ({at_date(rows)})
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
    inputs = read_inputs(files["features.json"])
    names = [each.name for each in inputs if each.kind != "record"]
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
    frame = records.attached(frame, TRAINING.parent, record_inputs(inputs))
    return panel(frame, carriers(inputs), plan["horizon_months"], in_time=plan["kind"] == "time"), ""


def tried(
    model: Explainer, rows_now: str, files: dict[str, bytes], params: Params
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return whether some customers' reasons hold, and pictures of what the model makes of their features.

    They are held against models of other seeds, and against what becomes of the risk when they are taken away.
    """
    terms, scorer, families = model.terms, model.scorer, reasons.families_of(model.terms)
    matrix = scorer.matrix(tried_rows(rows_now, [term.feature for term in terms], params.tried_customers))
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
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return figure(value) if isinstance(value, float) else value


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
    written, importances = 0, {"explained": False, "why": why, "families": [], "features": []}
    held: dict[str, Any] = {"customers": 0, "why": why}
    model = (
        None
        if files is None or why is not None
        else Explainer.of(files, params.least_points, params.engine, parameters.language())
    )
    engine = spark_session.chosen() if model is not None else None
    if files is not None and model is not None:
        rows = rows_scored(inputs_of(files))
        names = [term.feature for term in model.terms]
        if engine is not None:
            written, importances = run_over_partitions(engine, model, files, params)
        else:
            with Reasons(OUT / "reasons.parquet") as table:
                written, importances = run(model, customers(rows, names, params.rows_at_a_time), table.write)
        held, shown = tried(model, rows, files, params)
        held |= _rounded(across_dates(model, rows, params.tried_customers))
        for name, content in shown.items():
            (OUT / "pictures" / name).write_bytes(content)
    else:
        pq.write_table(SCHEMA.empty_table(), OUT / "reasons.parquet", compression="zstd")
    write_json(OUT / "global.json", importances)
    write_json(OUT / "soundness.json", held)
    say("explain", why or "reasons", reasons=written, customers=importances.get("customers", 0))
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
