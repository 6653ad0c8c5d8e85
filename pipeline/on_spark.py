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

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from pipeline.fingerprint import sha256
from pipeline.params import Part

DATA = Path("data")
READ = ("ingest/tables", "observe")
PATIENCE = 600  # seconds
AT_ONCE = 200  # columns whose coverage is counted in one pass
SENT = "sent.json"  # under a root elsewhere: the hash of each file that was copied there


class SparkEngine(Part):
    """Where Spark runs: its master, its settings, and where it sees `data/` (null: at the project's own path)."""

    spark: str
    config: dict[str, str | int | float | bool] = Field(default_factory=dict)
    data: str | None = None


def session(engine: SparkEngine) -> Any:
    """Return a Spark session; refuse (exit code 4) without pyspark or Java, (8) where the master does not answer."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (home and shutil.which("java", path=f"{home}/bin"))
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession

        from features.spark import SETTINGS
    except ImportError:
        remedy = "Run `make install-spark`, which installs it."
        raise ConfigurationRefused(_missing("the Python package pyspark", remedy)) from None
    if not java:
        raise ConfigurationRefused(_missing("a Java runtime (17)", "Install it, or set JAVA_HOME."))
    builder = SparkSession.builder.master(engine.spark).appName("bellwether")
    own = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.autoBroadcastJoinThreshold": "-1",  # a broadcast would pass through the driver
    }
    if engine.spark.startswith("local"):
        own |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    given = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in engine.config.items()}
    for key, value in {**own, **given, **SETTINGS}.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, Py4JError, OSError, RuntimeError) as error:
        raise ServiceRefused(
            Problem(
                "params.yaml: featurise.engine.spark",
                "a Spark master that answers",
                _said(error),
                "Start it, or correct the address.",
            )
        ) from error


def wait_for_workers(session: Any, seconds: float = PATIENCE) -> None:
    """Return when a worker has done a task; refuse (exit code 8) when none took one in so many seconds."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    patience = threading.Timer(seconds, session.sparkContext.cancelAllJobs)
    patience.start()
    try:
        session.range(1).count()
    except (PySparkException, Py4JError) as error:
        remedy = "Start workers, or ask in `config` for no more memory and cores than one of them offers."
        where = "params.yaml: featurise.engine.spark"
        raise ServiceRefused(Problem(where, "a worker that takes tasks", f"none in {seconds:g} s", remedy)) from error
    finally:
        patience.cancel()


def address(path: Path) -> str:
    """Return the address of a path of this machine as Hadoop reads it: nothing in it is written in %20s."""
    return f"file://{path.resolve().as_posix()}"


def _said(error: Exception) -> str:
    """Return what an exception says, from Java's side where it came from there, in one line."""
    return " ".join(str(getattr(error, "java_exception", error)).split())[:160]


def _missing(what: str, remedy: str) -> Problem:
    where = "params.yaml: featurise.engine"
    return Problem(where, f"an engine that is installed; Spark needs {what}", "none", f"{remedy} Or set `duckdb`.")


class Files:
    """Files under a root that Spark can address, by Hadoop's file systems."""

    def __init__(self, session: Any, root: str) -> None:
        from py4j.protocol import Py4JError

        self.session, self.root = session, root
        self.path = session._jvm.org.apache.hadoop.fs.Path  # noqa: SLF001  pyspark has no public way to them
        where = "params.yaml: featurise.engine.data"
        try:
            self.system = self.path(root).getFileSystem(session._jsc.hadoopConfiguration())  # noqa: SLF001
        except Py4JError as error:
            remedy = (
                "Name the file system's package under `config: {spark.jars.packages: ...}`, or correct the address."
            )
            problem = Problem(where, "an address of a file system that Spark has", _said(error), remedy)
            raise ConfigurationRefused(problem) from error
        try:
            self.system.exists(self.path(root))
        except Py4JError as error:
            remedy = "Check the address, the rights and the network."
            raise ServiceRefused(Problem(where, "a file system that answers", _said(error), remedy)) from error

    def at(self, place: str) -> str:
        """Return the address of a place under the root."""
        return f"{self.root}/{place}"

    def read(self, place: str) -> Any:
        """Return a Parquet file or folder as a frame; signs that would make its address a pattern are escaped."""
        return self.session.read.parquet(re.sub(r"[\[\]{}*?\\]", r"\\\g<0>", self.at(place)))

    def names(self, place: str) -> list[str]:
        """Return what lies in a folder, in order, without Spark's marks."""
        listed = self.system.listStatus(self.path(self.at(place)))
        return sorted(
            name for name in (entry.getPath().getName() for entry in listed) if not name.startswith(("_", "."))
        )

    def remove(self, place: str) -> None:
        """Remove a file or a folder with all that it holds."""
        self.system.delete(self.path(self.at(place)), True)

    def move(self, place: str, target: str) -> None:
        """Move a file into a folder, which is made where it is absent."""
        self.system.mkdirs(self.path(self.at(target)).getParent())
        if not self.system.rename(self.path(self.at(place)), self.path(self.at(target))):
            raise OSError(f"Spark's file system did not move {place} to {target}")
        folder, _, name = target.rpartition("/")
        self.remove(f"{folder}/.{name}.crc")  # a checksum that Hadoop adds on local disks

    def send(self, local: Path) -> int:
        """Copy the files of READ under the root that are absent or differ there; return how many.

        What was sent is noted by hash, and what is no longer here is removed there.
        """
        note = self.path(self.at(SENT))
        there: dict[str, str] = {}
        if self.system.exists(note):
            copy = local / "featurise" / SENT
            self.system.copyToLocalFile(False, note, self.path(address(copy)), True)
            there = json.loads(copy.read_text(encoding="utf-8"))
            copy.unlink()
        here = {
            path.relative_to(local).as_posix(): sha256(path)
            for folder in READ
            for path in sorted((local / folder).rglob("*.parquet"))
        }
        for name in sorted(set(there) - set(here)):
            self.remove(name)
        changed = [name for name, digest in here.items() if there.get(name) != digest]
        for name in changed:
            self.system.copyFromLocalFile(False, True, self.path(address(local / name)), self.path(self.at(name)))
        stream = self.system.create(note, True)
        stream.write(bytearray(json.dumps(here, indent=1).encode()))
        stream.close()
        return len(changed)

    def fetch(self, place: str, target: Path) -> None:
        """Copy a folder of files to this machine."""
        target.mkdir(parents=True)
        for name in self.names(place):
            source, here = self.path(self.at(f"{place}/{name}")), self.path(address(target / name))
            self.system.copyToLocalFile(False, source, here, True)


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
