"""A Spark session as the project needs it, and files where Spark sees them.

featurise builds on it (`on_spark`), score and explain answer on it (`over_partitions`): `featurise.engine` says where.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from pydantic import Field

from features.engine import SPARK_SETTINGS
from features.errors import ConfigurationRefused, Problem, ServiceRefused
from pipeline.fingerprint import sha256
from pipeline.params import Part, overrides, read_params, source_name

DATA = Path("data")
READ = ("ingest/tables", "observe")
PATIENCE = 600  # seconds
SENT = "sent.json"  # under a root elsewhere: the hash of each file that was copied there


class SparkEngine(Part):
    """Where Spark runs: its master, its settings, and where it sees `data/` (null: at the project's own path)."""

    spark: str
    config: dict[str, str | int | float | bool] = Field(default_factory=dict)
    data: str | None = None


def chosen() -> SparkEngine | None:
    """Return where featurise runs, or None where it is this machine's DuckDB; score and explain follow it."""
    values = (read_params().get("featurise") or {}) | (overrides(source_name()).get("featurise") or {})
    engine = values.get("engine", "duckdb")
    return None if isinstance(engine, str) else SparkEngine.model_validate(engine)


def session(engine: SparkEngine) -> Any:
    """Return a Spark session; refuse (exit code 4) without pyspark or Java, (8) where the master does not answer."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (home and shutil.which("java", path=f"{home}/bin"))
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession

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
    for key, value in {**own, **given, **SPARK_SETTINGS}.items():
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
