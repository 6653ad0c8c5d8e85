"""The build of drawn tables on Spark: one small session a process, only the features that are asked for."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pytest

from features.build import Matrix, Settings

SMALL = {  # rows are few: what counts is how long a query takes to plan
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.driver.memory": "1g",
}


@cache
def session() -> object:
    """Return this process's session; without Java the test is skipped."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    from pipeline import spark_session

    return spark_session.session(spark_session.SparkEngine(spark="local[1]", config=SMALL))


def matrix_on_spark(
    tables: dict[str, pa.Table],
    observations: pa.Table,
    only: Collection[str] | None = None,
    *,
    attributes: dict[str, dict[str, list[str]]] | None = None,
    training: pa.Table | None = None,
    threads: int = 1,
    **settings: object,
) -> pa.Table:
    """Return the matrix of these tables as Spark builds it: all features, or those of `only` and what they need."""
    from features.spark import Spark, beside

    spark = session()
    engine = Spark(spark)
    held = {name: engine.view(name, spark.createDataFrame(table)) for name, table in tables.items()}
    asked = engine.view("asked", spark.createDataFrame(observations))
    train = asked if training is None else engine.view("training", spark.createDataFrame(training))
    matrix = Matrix(engine, held, attributes or {}, train, asked, Settings(**settings))
    matrix.subjects = [replace(subject, facts={}) for subject in matrix.subjects]
    if only is not None:
        matrix.across = tuple(item for item in matrix.across if item.feature.name in only)
        wanted = {*only, *(need for item in matrix.across for need in item.needs)}
        matrix.subjects = [
            replace(subject, features=tuple(f for f in subject.features if f.name in wanted))
            for subject in matrix.subjects
        ]
    wide = matrix.feature_columns(beside(matrix, asked), asked.columns)
    made = engine.frame(wide.order_by("as_of", "customer_id")).toArrow()
    engine.close()
    return made


def rows_of(table: pa.Table) -> dict[tuple[str, str], dict[str, object]]:
    """Return a matrix as (customer_id, as_of) -> feature -> value."""
    return {(row["customer_id"], row["as_of"].isoformat()): row for row in table.to_pylist()}


def differences(left: dict[str, object], right: dict[str, object], names: Collection[str]) -> list[str]:
    """Return the names under which two rows differ: by more than 1e-9, relative above one; null equals null alone."""

    def equal(a: object, b: object) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= 1e-9 * max(1.0, abs(a)) or (math.isnan(a) and math.isnan(b))
        return a == b and (a is None) == (b is None)

    return sorted(name for name in names if not equal(left[name], right[name]))
