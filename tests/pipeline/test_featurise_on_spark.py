"""featurise on Spark: refusals in words; the same files as on DuckDB, in place and elsewhere, on one machine and on two workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from servers import free_port
from workspaces import ROOT, Workspace, copy_project

from features.errors import ConfigurationRefused
from pipeline import spark_session
from pipeline.spark_session import SparkEngine
from tests.features.on_spark import differences

TABLES = ("training/features.parquet", "scoring/features.parquet", "scoring/position.parquet", "catalogue.parquet")
SMALL = {  # rows are few: what counts is how long queries take to plan and to start
    "spark.sql.shuffle.partitions": 2,
    "spark.sql.adaptive.enabled": False,
    "spark.sql.codegen.wholeStage": False,
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    **{f"spark.{side}.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" for side in ("driver", "executor")},
    "spark.driver.maxResultSize": "200k",
}
ON_WORKERS = SMALL | {"spark.driver.host": "127.0.0.1", "spark.executor.memory": "700m", "spark.executor.cores": 1}
EARLY = ("simulate", "ingest", "observe")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")


def test_spark_is_asked_for_by_its_master_and_nothing_else_is_an_engine(tmp_path, monkeypatch):
    from pipeline.featurise import Params

    monkeypatch.chdir(tmp_path)
    for engine, fits in (("duckdb", True), ({"spark": "local[2]"}, True), ("polars", False), ({"sparc": "x"}, False)):
        Path("params.yaml").write_text(yaml.safe_dump({"source": "drawn", "featurise": {"engine": engine}}))
        if fits:
            assert Params.load().engine == (engine if engine == "duckdb" else SparkEngine(spark="local[2]"))
        else:
            with pytest.raises(ConfigurationRefused, match=r"featurise\.engine"):
                Params.load()


def test_without_java_or_pyspark_the_setting_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigurationRefused, match="Java") as refused:
        spark_session.session(SparkEngine(spark="local[1]"))
    assert refused.value.exit_code == 4
    for name in ("pyspark", "pyspark.errors", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationRefused, match="pyspark"):
        spark_session.session(SparkEngine(spark="local[1]"))


def test_the_default_install_and_engine_are_without_spark():
    locked = {name: (ROOT / f"requirements/{name}.lock").read_text() for name in ("run", "spark")}
    assert ["\npyspark==" in locked[name] for name in ("run", "spark")] == [False, True]
    code = "import sys, pipeline.featurise, features.build; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def stage(world: Workspace, name: str, **environment: str) -> str:
    ran = world.run("python", "-m", f"pipeline.{name}", timeout=1800, **environment)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three hundred simulated customers over thirty months, featurised by DuckDB into data/by_duckdb."""
    made = copy_project(tmp_path_factory.mktemp("spark") / "project")
    made.set_params(
        {
            "simulate": {"customers": 300, "months": 30},
            "sources": {"simulated": {"train": {"until": None}}},
            "select": {"min_bads": 3},
            "tune": {"trials": 2},
            "evaluate": {"repeats": 1, "folds": 2},
            "featurise": {"observations_at_once": 400},
        }
    )
    for name in (*EARLY, "featurise"):
        stage(made, name)
    shutil.copytree(made.folder / "data/featurise", made.folder / "data/by_duckdb")
    return made


def rows_of(path: Path) -> pa.Table:
    """Read a file, or a folder's files one after the other in the order of their names."""
    return pq.read_table(path)


def assert_as_duckdb(world: Workspace) -> None:
    for name in TABLES:
        expected, made = (
            rows_of(world.folder / "data/by_duckdb" / name),
            rows_of(world.folder / "data/featurise" / name),
        )
        assert made.schema.remove_metadata() == expected.schema.remove_metadata(), name
        for at, (left, right) in enumerate(zip(expected.to_pylist(), made.to_pylist(), strict=True)):
            assert not differences(left, right, left), (name, at)
    for name in ("summary.json",):
        assert (world.folder / "data/featurise" / name).read_text() == (
            world.folder / "data/by_duckdb" / name
        ).read_text()


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


LATER = ("select", "tune", "train", "calibrate", "evaluate", "promote", "score", "explain", "decide", "monitor")
ANSWERS = ("score/scores.parquet", "explain/reasons.parquet")
OF_THE_RUN = {"model_version", "run_id", "data_version"}


@pytest.fixture(scope="module")
def judged(world: Workspace) -> dict[str, list[dict[str, object]]]:
    """What the later stages make of DuckDB's features on this machine: tables by name, importances as lines."""
    world.set_params({"featurise": {"engine": "duckdb"}})
    shutil.rmtree(world.folder / "data/featurise")
    shutil.copytree(world.folder / "data/by_duckdb", world.folder / "data/featurise")
    for name in LATER:
        stage(world, name)
    data = world.folder / "data"
    made = {name: pq.read_table(data / name).to_pylist() for name in (*ANSWERS, "decide/table.parquet")}
    assert any(row["pd_12m"] is not None for row in made["decide/table.parquet"])
    made["importances"] = json.loads((data / "explain/global.json").read_text())["features"]
    made["figures"] = sorted(json.loads((data / "monitor/figures.json").read_text()))
    return made


def assert_as_judged(world: Workspace, judged: dict[str, list[dict[str, object]]], *names: str) -> None:
    data = world.folder / "data"
    for name in names:
        made = pq.read_table(data / name).to_pylist()
        for left, right in zip(judged[name], made, strict=True):
            assert not differences(left, right, left.keys() - OF_THE_RUN), name
    importances = json.loads((data / "explain/global.json").read_text())["features"]
    for left, right in zip(judged["importances"], importances, strict=True):
        assert not differences(left, right, left)
    for name in ANSWERS:  # written by the executors, a partition a file
        assert len(list((data / name).iterdir())) == 2


@pytest.mark.slow
@pytest.mark.spark
@needs_java
def test_a_run_on_spark_publishes_what_duckdb_publishes(world, judged):
    """Two local cores; nothing larger than 200 kB may come to the driver, a twentieth of the features."""
    shutil.rmtree(world.folder / "data/promote")
    shutil.rmtree(world.folder / "mlruns", ignore_errors=True)

    world.set_params({"featurise": {"engine": {"spark": "local[2]", "config": SMALL}}})
    stage(world, "featurise")
    assert_as_duckdb(world)
    features = world.folder / "data/featurise/scoring/features.parquet"
    assert len(list(features.iterdir())) > 1  # every file is a part: no success mark, no checksum
    assert all(path.name == f"part-{at:05d}.parquet" for at, path in enumerate(sorted(features.iterdir())))
    assert sum(path.stat().st_size for path in features.iterdir()) > 1_000_000
    for name in LATER:
        stage(world, name)
    assert_as_judged(world, judged, *ANSWERS, "decide/table.parquet")
    assert sorted(json.loads((world.folder / "data/monitor/figures.json").read_text())) == judged["figures"]


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.realdata
@needs_java
@pytest.mark.parametrize("source", ["berka", "superlender"])
def test_real_sources_have_the_same_features_on_both(source, realdata, tmp_path):
    """Accounts of a bank, and loans with their instalments and payments; Spark as it is, without settings."""
    world = copy_project(tmp_path / "project")
    (world.folder / "data/raw").mkdir(exist_ok=True)
    (world.folder / "data/raw" / source).symlink_to(realdata / source, target_is_directory=True)
    world.set_params({"source": source})
    for name in ("ingest", "observe", "featurise"):
        stage(world, name)
    shutil.copytree(world.folder / "data/featurise", world.folder / "data/by_duckdb")
    world.set_params({"featurise": {"engine": {"spark": "local[2]"}}})
    stage(world, "featurise")
    assert_as_duckdb(world)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    """A standalone Spark master with two workers of one core on the loopback, ended by their process ids."""
    import pyspark

    home = Path(pyspark.__file__).parent
    port, started = free_port(), []
    master = f"spark://127.0.0.1:{port}"
    environment = os.environ | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "512m"}

    def start(log: str, main: str, *arguments: str) -> Path:
        # the launcher, not `java`: without what it sets, a worker finds no jars for its executors
        command = [str(home / "bin/spark-class"), f"org.apache.spark.deploy.{main}", *arguments]
        with (tmp_path / log).open("w") as out:
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
        return tmp_path / log

    work = [tmp_path / f"worker{at}" for at in (1, 2)]
    try:
        start(
            "master.log", "master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(free_port())
        )
        for folder in work:
            start(
                f"{folder.name}.log", "worker.Worker", "--host", "127.0.0.1", "--webui-port", str(free_port()),
                "--cores", "1", "--memory", "1g", "--work-dir", str(folder), master,
            )  # fmt: skip
        until = time.monotonic() + 120
        while (tmp_path / "master.log").read_text().count("Registering worker") < 2:
            assert time.monotonic() < until, (tmp_path / "master.log").read_text()[-2000:]
            time.sleep(0.5)
        yield master, work
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.mark.slow
@pytest.mark.spark
@needs_java
def test_two_workers_give_what_duckdb_gives_in_place(world, judged, cluster):
    """No row passes through the driver: nothing larger than 200 kB may come to it. They score and explain as well."""
    master, work = cluster
    world.set_params({"featurise": {"engine": {"spark": master, "config": ON_WORKERS}}})
    stage(world, "featurise", SPARK_LOCAL_IP="127.0.0.1")
    assert_as_duckdb(world)
    assert all(list(folder.glob("app-*/*/stderr")) for folder in work)  # each worker ran an executor
    for name in ("score", "explain"):
        stage(world, name, SPARK_LOCAL_IP="127.0.0.1")
    assert_as_judged(world, judged, *ANSWERS)


@pytest.mark.slow
@pytest.mark.spark
@needs_java
def test_two_workers_read_and_write_under_an_address(world, cluster, tmp_path):
    """Ingest's files are copied to it once and the features come back as files; few features, for it is about files."""
    elsewhere = tmp_path / "a bucket" / "data"
    elsewhere.mkdir(parents=True)
    built = json.loads((world.folder / "data/by_duckdb/summary.json").read_text())["built"]
    few = {"leave_out": sorted(set(built) - {"customers", "transactions"})}
    engine = {"spark": cluster[0], "config": ON_WORKERS, "data": f"file://{elsewhere}"}
    world.set_params({"featurise": {"engine": engine} | few})
    stage(world, "featurise", SPARK_LOCAL_IP="127.0.0.1")
    made = digests(world.folder / "data/featurise")
    for name in TABLES[:2]:
        full, part = (rows_of(world.folder / "data" / folder / name) for folder in ("by_duckdb", "featurise"))
        assert 20 < part.num_columns < full.num_columns
        for left, right in zip(full.to_pylist(), part.to_pylist(), strict=True):
            assert not differences(left, right, right)
    for name in TABLES[:3]:
        there = digests(elsewhere / "featurise" / name)
        assert there == {
            key.removeprefix(f"{name}/"): value for key, value in made.items() if key.startswith(f"{name}/")
        }
    sent = {path: path.stat().st_mtime_ns for path in (elsewhere / "ingest").rglob("*.parquet")}
    assert sent
    observed = world.folder / "data/observe/scoring.parquet"
    kept = observed.read_bytes()
    pq.write_table(pq.read_table(observed).slice(0, 0), observed)  # an empty table is one empty file
    try:
        stage(world, "featurise", SPARK_LOCAL_IP="127.0.0.1")
    finally:
        observed.write_bytes(kept)
    again = digests(world.folder / "data/featurise")
    training = [name for name in made if name.startswith("training/")]
    assert len(training) > 1
    assert training == [name for name in again if name.startswith("training/")]
    for name in training:  # the same files with the same rows in the same order
        first, second = (pq.read_table(pa.BufferReader(files[name])) for files in (made, again))
        assert first.equals(second)
    assert pq.read_table(world.folder / "data/featurise/scoring/features.parquet").num_rows == 0
    assert {path: path.stat().st_mtime_ns for path in sent} == sent  # what lay there was not sent again
