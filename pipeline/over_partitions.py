"""score and explain on Spark: each executor takes its share of the customers, and writes what the stage would have.

The features are read where featurise wrote them, cut into ranges of customers, and answered by the very functions that
answer on one machine (`mapInArrow`, a batch of rows at a time). What is written is a folder `part-00000.parquet`, ...
that holds, file after file, the stage's rows in the stage's order. None of them comes to the driver; of explain it gets
one small row a batch, the sums of which importances are made.
Executors need this environment at the path of the driver's interpreter, or where `spark.pyspark.python` says.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.spark_session import DATA, Files, SparkEngine, address, session, wait_for_workers

FEATURES = "featurise/scoring/features.parquet"
ROOMS = ("features", "models", "pipeline")
ORDER = ("customer_id", "as_of")
MARK = "mark"
Batches = Iterator[pa.RecordBatch]
Answer = Callable[[pa.Table], pa.Table]


def write(
    engine: SparkEngine, columns: list[str], answers: str, arguments: tuple[Any, ...], schema: pa.Schema, place: str,
    *, now: bool = False, rows_at_a_time: int,
) -> list[bytes]:  # fmt: skip
    """Write data/`place` from what each executor answers; return the marks, in the order of customers.

    columns: of the features, customer_id and as_of among them; now: at the run's date alone. answers: `module:function`
    that, called with the arguments once a partition, gives the function that turns some rows, in order, into rows of
    `schema`. It goes by name, for a stage that runs is no module that executors could import. A row that `marked` added
    is not written but comes here: its bytes are small, such as sums.
    """
    with _features(engine, columns, now=now) as (there, frame):
        made = _mapped(frame, answers, arguments, schema.append(pa.field(MARK, pa.binary())), rows_at_a_time).persist()
        there.write(made.where(f"{MARK} is null").drop(MARK), place)
        marks = made.where(f"{MARK} is not null").select("customer_id", MARK).collect()
        made.unpersist()
    return [bytes(each[MARK]) for each in sorted(marks, key=lambda each: each["customer_id"])]


class _There:
    """Where the cluster sees `data/`."""

    def __init__(self, engine: SparkEngine, spark: Any) -> None:
        self.elsewhere = engine.data is not None
        self.files = Files(spark, (engine.data or address(DATA)).rstrip("/"))

    def write(self, frame: Any, place: str) -> None:
        """Write a frame as a folder of files in the order of its partitions, and bring it here where it is not."""
        writing = f"{place}.writing"
        self.files.remove(place)
        frame.write.mode("overwrite").parquet(self.files.at(writing))
        for k, name in enumerate(self.files.names(writing)):
            self.files.move(f"{writing}/{name}", f"{place}/part-{k:05d}.parquet")
        self.files.remove(writing)
        if self.elsewhere:
            self.files.fetch(place, DATA / place)


@contextmanager
def _features(engine: SparkEngine, columns: list[str], *, now: bool) -> Iterator[tuple[_There, Any]]:
    """Give the features to score (now: those at the run's date alone), cut into ordered ranges of customers."""
    os.environ["PYSPARK_PYTHON"] = str(engine.config.get("spark.pyspark.python", sys.executable))
    spark = session(engine)
    try:
        wait_for_workers(spark)
        with tempfile.TemporaryDirectory(prefix="bellwether-") as folder:
            spark.sparkContext.addPyFile(str(_code(Path(folder) / "bellwether.zip")))
            there = _There(engine, spark)
            rows = there.files.read(FEATURES)
            rows = rows.where("months_back = 0") if now else rows
            rows = rows.select([f"`{name}`" for name in columns])
            yield there, rows.repartitionByRange(ORDER[0]).sortWithinPartitions(*ORDER)
    finally:
        spark.stop()


def _code(path: Path) -> Path:
    """Pack the rooms' modules and data for executors that do not see the project's folder."""
    root = Path(__file__).resolve().parents[1]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for room in ROOMS:
            for file in sorted((root / room).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    packed.write(file, file.relative_to(root))
    return path


def marked(rows: pa.Table, customer: Any, mark: bytes) -> pa.Table:
    """Return an answer's rows with a mark below them, that comes in the order of customers."""
    below = pa.Table.from_pydict(
        {"customer_id": pa.array([customer], pa.string()), MARK: pa.array([mark], pa.binary())}
    )
    return pa.concat_tables([rows, below], promote_options="default")


def _mapped(frame: Any, answers: str, arguments: tuple[Any, ...], schema: pa.Schema, rows_at_a_time: int) -> Any:
    """Return what the answer to each partition makes of its rows, so many at a time."""
    from pyspark.sql.pandas.types import from_arrow_schema

    def part(batches: Batches) -> Batches:
        module, _, function = answers.partition(":")
        answer: Answer = getattr(importlib.import_module(module), function)(*arguments)
        for rows in _gathered(batches, rows_at_a_time):
            made = answer(rows)
            absent = [field for field in schema if field.name not in made.column_names]
            for field in absent:
                made = made.append_column(field, pa.nulls(made.num_rows, field.type))
            yield from made.select(schema.names).cast(schema).to_batches()

    return frame.mapInArrow(part, from_arrow_schema(schema))


def _gathered(batches: Batches, rows_at_a_time: int) -> Iterator[pa.Table]:
    """Yield tables of so many rows out of small batches, the last one smaller."""
    held: list[pa.RecordBatch] = []
    have = 0
    for batch in batches:
        held.append(batch)
        have += batch.num_rows
        while have >= rows_at_a_time:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, rows_at_a_time)
            held = whole.slice(rows_at_a_time).to_batches()
            have -= rows_at_a_time
    if have:
        yield pa.Table.from_batches(held)
