"""What a full run publishes at a date, of everyone: the stages' own functions over all tables, in this process."""

from __future__ import annotations

import datetime as dt
import io
import tempfile
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.tables import describe_tables, open_tables
from models.contract import TableContract
from models.grades import Scale
from models.overrides import read_overrides
from pipeline import bundle, decide, explain, explainer, featurise, observe, publish, score
from pipeline.lending import Params as Lending
from pipeline.lending import read_policy
from pipeline.stage import read_json


def published_at(as_of: dt.date, before: pa.Table | None) -> tuple[pa.Table, pa.Table]:
    """Return (table as published, alerts) of a run at a date with the present champion; before: the compared table."""
    files = bundle.read(score.bundle.SCORER)
    inputs = score.inputs_of(files)
    names = frozenset(each["name"] for each in inputs)
    with tempfile.TemporaryDirectory() as scratch:
        engine = observe.open_engine(observe.IN)
        observe.run(observe.Params.load(), engine, as_of, observe.until_date(as_of), undated=False, out=Path(scratch))
        connection = ibis.duckdb.connect(threads=2)
        training = connection.read_parquet(observe.OUT / "training.parquet", table_name="training")
        scoring = connection.read_parquet(Path(scratch) / "scoring.parquet", table_name="scoring")
        tables, described = open_tables(connection, observe.IN), describe_tables(observe.IN)
        matrix = featurise.run(featurise.Params.load(), connection, tables, described, training, scoring, only=names)
        parts = list(matrix.groups(scoring, with_position=True))
        features, position = (pa.concat_tables([part[at] for part in parts]) for at in (0, 1))
        connection.disconnect()
    scores = score.run(files, features, score.Params.load().rows_at_a_time)
    now = features.filter(pc.equal(features["months_back"], 0)).sort_by("customer_id")
    params = explain.Params.load()
    model = explainer.Explainer.of(files, params.least_points, params.engine, "en")
    reasons, _ = explainer.teller(model)(now)
    assert pq.read_metadata(io.BytesIO(files["reference.parquet"])).num_rows
    given = decide.Given(
        read_policy(Path(Lending.load().policy), as_of), Scale.from_json(files["grades.json"]),
        read_overrides(decide.read_lines(decide.OVERRIDES), as_of), read_json(decide.AS_OF)["currency"], "en",
        str(bundle.manifest(score.bundle.SCORER)["model_version"]), "data",
    )  # fmt: skip
    table, raised, _ = decide.run(
        given, TableContract.from_json(decide.CONTRACT.read_bytes()), scores, position, reasons
    )
    return publish.run(table, before, run_id="run"), decide.alerts_table(raised.table)
