"""featurise on Spark: tables are read where they lie and features written where they belong, by the executors.

`data/` is seen by the cluster under one root: the project's own folder (one machine, or a disk that all machines
mount), or an address such as `s3a://bucket/data` or `hdfs://name/data`. Under an address, files of `ingest` and
`observe` that are not there yet are copied to it first and the finished features copied back, file by file; no row
is collected by the driver.
What is written is a folder of Parquet files `part-00000.parquet`, ... in the order (as_of, customer_id), the same files
with the same rows in the same order from run to run: each holds the rows of whole dates. Their bytes differ in one
thing, the order in which Spark's writer names each column's encodings at the end of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.spark_session import DATA, Files, SparkEngine, address, session, wait_for_workers

AT_ONCE = 200  # columns whose coverage is counted in one pass


def write(frame: Any, starts: list[Any], files: Files, place: str) -> None:
    """Write a frame as a folder of ordered files; file k holds the dates from `starts[k]` to the next start."""
    from pyspark.sql.functions import expr

    order = ("as_of", "customer_id")
    writing = f"{place}.writing"
    files.remove(place)
    if starts:
        dates = ", ".join(f"DATE '{day.isoformat()}'" for day in starts)
        parts = frame.withColumn("part__", expr(f"size(filter(array({dates}), d -> d <= as_of)) - 1"))
        parts = parts.repartition(len(starts), "part__").sortWithinPartitions("part__", *order)
        parts.write.mode("overwrite").partitionBy("part__").parquet(files.at(writing))
        for k in range(len(starts)):
            (written,) = files.names(f"{writing}/part__={k}")
            files.move(f"{writing}/part__={k}/{written}", f"{place}/part-{k:05d}.parquet")
    else:
        frame.coalesce(1).write.mode("overwrite").parquet(files.at(writing))
        (written,) = files.names(writing)
        files.move(f"{writing}/{written}", f"{place}/part-00000.parquet")
    files.remove(writing)


def coverage(written: Any, rows: int) -> Callable[[str], dict[str, Any]]:
    """Say what `featurise.coverage` says of the written training rows, counted by the executors."""
    from pyspark.sql.functions import col, count, when
    from pyspark.sql.functions import min as least

    found: dict[str, tuple[int, Any]] = {}
    for start in range(0, len(written.columns), AT_ONCE):
        names = written.columns[start : start + AT_ONCE]
        columns = [col(f"`{name}`") for name in names]
        known = (count(column) for column in columns)
        first = (least(when(column.isNotNull(), written.as_of)) for column in columns)
        counted = written.agg(*known, *first).first()
        found |= {name: (counted[at], counted[at + len(names)]) for at, name in enumerate(names)}

    def of(name: str) -> dict[str, Any]:
        known, first = found[name]
        return {"missing_share": 1 - known / rows if rows else None, "first_as_of": first}

    return of


def build(
    engine: SparkEngine, declare: Callable[[Any, dict[str, Any], Any, Any], Any], names: list[str]
) -> tuple[Any, dict[str, int], Callable[[str], dict[str, Any]]]:
    """Declare the matrix on Spark and write training and scoring; return it, the rows of each, and the coverage.

    `declare` takes (engine, tables, training, scoring), tables by name out of `names`.
    """
    from features.spark import Spark, beside

    spark = session(engine)
    try:
        wait_for_workers(spark)
        root = (engine.data or address(DATA)).rstrip("/")
        files, built = Files(spark, root), Spark(spark)
        if engine.data:
            files.send(DATA)
        tables = {name: built.view(name, files.read(f"ingest/tables/{name}").drop("known_month")) for name in names}
        asked = {name: built.view(name, files.read(f"observe/{name}.parquet")) for name in ("training", "scoring")}
        matrix = declare(built, tables, asked["training"], asked["scoring"])
        rows: dict[str, int] = {}
        for name, observations in asked.items():
            rows[name] = int(built.rows(observations.aggregate(rows=observations.count()))[0]["rows"])
            wide = beside(matrix, observations)
            if name == "scoring":
                wide = built.keep("beside_kept", wide)
            starts = [first for first, _ in matrix.date_groups(observations)] if rows[name] else []
            carried = list(observations.columns)
            made = {"features": matrix.feature_columns(wide, carried)}
            if name == "scoring":
                made["position"] = matrix.position_columns(wide, carried)
            for what, expression in made.items():
                place = f"featurise/{name}/{what}.parquet"
                write(built.frame(expression), starts, files, place)
                if engine.data:
                    files.fetch(place, DATA / place)
        known = coverage(files.read("featurise/training/features.parquet"), rows["training"])
        built.close()
        return matrix, rows, known
    finally:
        spark.stop()
