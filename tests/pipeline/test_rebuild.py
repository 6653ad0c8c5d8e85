"""An old version comes back byte for byte from what was kept, or not at all with the list of what is in the way.

The stages are played here by a few lines that depend on all that a real stage may: code, parameters, deliveries, the
compared table. Whole stages are in test_whole_run.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import ConfigurationRefused, IntegrityRefused
from pipeline import pruning, rebuild, tracking, versions
from pipeline.fingerprint import sha256

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
JANUARY, FEBRUARY = "a" * 16, "b" * 16
LOCK = "duckdb==1.0 \\\n    --hash=sha256:00\n"


def git(*arguments: str) -> None:
    subprocess.run([*GIT, *arguments], check=True, capture_output=True)


def put(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def play_stages(project: Path, source: str, *, run_id: str | None = None) -> None:
    """Write what the stages would into a scratch folder of the project."""
    raw = sorted((project / "data/raw" / source).rglob("*.csv"))
    hashes = {path.relative_to(project / "data/raw" / source).as_posix(): sha256(path) for path in raw}
    deliveries, rowless = {}, []
    for name in hashes:
        manifest = json.loads((project / "data/raw" / source / name).with_name("manifest.json").read_text())
        deliveries[str(Path(name).parent)] = [manifest["delivered_on"], manifest["complete"]]
        if manifest.get("files", {}).get(Path(name).name, {}).get("rows") == 0:
            rowless.append(name)
    homes = {name: str(Path(name).parent) for name in hashes}
    ledger = {"files": hashes, "homes": homes, "deliveries": deliveries, "rowless": rowless}
    (project / "data/ingest").mkdir(parents=True, exist_ok=True)
    (project / "data/ingest/ledger.json").write_text(json.dumps(ledger))
    history = project / versions.HISTORY
    compared = json.loads(history.read_text().splitlines()[0])["run_id"] if history.exists() else None
    facts = [
        (project / "features/code.py").read_text(), (project / "params.yaml").read_text(),
        (project / "data/promote/scorer/booster.txt").read_text(), *(path.read_text() for path in raw),
        json.dumps([deliveries, rowless]), pq.read_table(project / versions.VERSIONS / compared / "scored_customers.parquet")[0].to_pylist()[0] if compared else "",
    ]  # fmt: skip
    digest = hashlib.sha256("".join(facts).encode()).hexdigest()
    run_id = run_id or (FEBRUARY if compared else JANUARY)
    made = project / versions.VERSIONS / f".tmp-{run_id}"
    (made / "report").mkdir(parents=True)
    pq.write_table(pa.table({"customer_id": [digest]}), made / "scored_customers.parquet")
    with duckdb.connect(str(made / "bellwether.duckdb")) as connection:
        # a file of DuckDB holds what lay in memory: the next has other bytes
        connection.execute(f"create table scored_customers as from '{made}/scored_customers.parquet'")
        connection.execute(f"create schema s{os.urandom(4).hex()}")
    (made / "report/index.html").write_text(digest)


def publish(run_id: str, as_of: str, compared: str | None) -> None:
    play_stages(Path(), "shop", run_id=run_id)
    scratch = versions.VERSIONS / f".tmp-{run_id}"
    for name in ("params.yaml", "requirements/run.lock", "data/ingest/ledger.json", "data/promote/verdict.json"):
        (scratch / "inputs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, scratch / "inputs" / name)
    shutil.copytree("data/promote/scorer", scratch / "scorer")
    versions.write_manifest(
        scratch, run_id=run_id, as_of=as_of, source="shop", compared_with=compared,
        git_commit=tracking.git_commit(), uncommitted=tracking.uncommitted_code(),
    )  # fmt: skip
    versions.place(scratch, run_id)
    versions.make_current("shop", as_of, run_id)


def deliver(month: str, text: str, rows: int = 1) -> None:
    put(f"data/raw/shop/{month}/moves.csv", text)
    stated = {"delivered_on": f"{month}-28", "complete": True, "files": {"moves.csv": {"rows": rows}}}
    put(f"data/raw/shop/{month}/manifest.json", json.dumps(stated))


def prune(run_id: str) -> None:
    pruning.prune(versions.VERSIONS / run_id)


def bytes_of(run_id: str) -> dict[str, bytes]:
    folder = versions.VERSIONS / run_id
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in versions.files_of(folder)}


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    """Two publications by code that has changed since, with parameters and deliveries that have, too."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    put(".gitignore", "data/raw\ndata/publish\ndata/ingest\ndata/promote\n.run\n")
    put("features/code.py", "one")
    put("dvc.yaml", "")
    put("params.yaml", "first")
    put("requirements/run.lock", LOCK)
    put("data/promote/verdict.json", "{}")
    put("data/promote/scorer/booster.txt", "champion")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    deliver("2025-12", "a header alone", rows=0)
    deliver("2026-01", "1")
    publish(JANUARY, "2026-02-01", None)
    put("params.yaml", "second, not committed")
    deliver("2026-02", "2")
    publish(FEBRUARY, "2026-03-01", JANUARY)
    put("features/code.py", "two")
    put("params.yaml", "third")
    put("data/promote/scorer/booster.txt", "another champion")
    git("commit", "-qam", "two")
    deliver("2026-03", "3")
    monkeypatch.setattr(rebuild, "_run_stages", play_stages)
    return project


@pytest.mark.parametrize("run_id", [JANUARY, FEBRUARY])
def test_a_pruned_version_comes_back_byte_for_byte_and_nothing_else_changes(run_id, capsys):
    before, status = bytes_of(run_id), {path: path.read_bytes() for path in Path("data/raw").rglob("*.csv")}
    manifest = json.loads((versions.VERSIONS / run_id / "manifest.json").read_text())
    prune(run_id)
    assert rebuild.bring_back(run_id) == 0
    after = bytes_of(run_id)
    assert after.pop("bellwether.duckdb") != before.pop("bellwether.duckdb")
    assert after == before
    assert versions.faults(versions.VERSIONS / run_id) == []
    now = json.loads((versions.VERSIONS / run_id / "manifest.json").read_text())
    assert now.pop("rebuilt") == {"bellwether.duckdb": manifest["files"].pop("bellwether.duckdb")}
    now["files"].pop("bellwether.duckdb")
    assert now == manifest
    assert str(versions.CURRENT.readlink()) == f"versions/{FEBRUARY}"
    assert {path: path.read_bytes() for path in Path("data/raw").rglob("*.csv")} == status
    assert not list(versions.VERSIONS.glob(".tmp*")) + list(Path(".run").glob("rebuild*"))
    assert "stands again" in capsys.readouterr().out


def test_a_version_that_stands_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(rebuild, "_run_stages", None)
    assert rebuild.bring_back(JANUARY) == 0
    assert "every file as its manifest states" in capsys.readouterr().out


def test_a_damaged_version_is_mended():
    sound = bytes_of(JANUARY)
    (versions.VERSIONS / JANUARY / "report/index.html").write_text("torn")
    assert rebuild.bring_back(JANUARY) == 0
    assert bytes_of(JANUARY)["report/index.html"] == sound["report/index.html"]


@pytest.mark.parametrize("run_id", ["c" * 16, "nothing", "../../etc"])
def test_an_unknown_version_is_a_usage_error_that_names_the_known(run_id):
    with pytest.raises(ConfigurationRefused, match=f"{JANUARY}, {FEBRUARY}"):
        rebuild.bring_back(run_id)


def alter(run_id: str, **facts) -> None:
    path = versions.VERSIONS / run_id / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


IN_THE_WAY = {
    "data/raw/shop/2026-02/moves.csv: must be as it was ingested; found other bytes": lambda: deliver("2026-02", "9"),
    "data/raw/shop/2026-01/moves.csv: must be there, as it was ingested; found no such file": lambda: shutil.rmtree(
        "data/raw/shop/2026-01"
    ),
    "found code that was not committed: models/mine.py": lambda: alter(FEBRUARY, uncommitted=["models/mine.py"]),
    "found a folder without git": lambda: alter(FEBRUARY, uncommitted=None),
    "commit cccc": lambda: alter(FEBRUARY, git_commit="c" * 40 + "+changes"),
    "inputs/params.yaml: must be the bytes of its manifest": lambda: put(
        f"{versions.VERSIONS}/{FEBRUARY}/inputs/params.yaml", "x"
    ),
    "scorer/booster.txt: must be the bytes of its manifest": lambda: Path(
        f"{versions.VERSIONS}/{FEBRUARY}/scorer/booster.txt"
    ).unlink(),
    f"rebuild {JANUARY}` first": lambda: prune(JANUARY),
    "before versions could be rebuilt": lambda: alter(FEBRUARY, files={"inputs/params.yaml": ""}),
}


@pytest.mark.parametrize("said", IN_THE_WAY)
def test_what_is_in_the_way_is_named_before_anything_runs(said, monkeypatch):
    prune(FEBRUARY)
    IN_THE_WAY[said]()
    before = bytes_of(FEBRUARY)
    monkeypatch.setattr(rebuild, "_run_stages", None)
    with pytest.raises(IntegrityRefused) as refused:
        rebuild.bring_back(FEBRUARY)
    assert refused.value.exit_code == 7
    assert said in str(refused.value)
    assert len(refused.value.problems) == 1
    assert bytes_of(FEBRUARY) == before


def test_other_bytes_are_listed_with_what_may_explain_them_and_nothing_is_put_in_place(monkeypatch):
    def otherwise(project: Path, source: str) -> None:
        (project / "features/code.py").write_text("three")
        play_stages(project, source)

    prune(FEBRUARY)
    put("requirements/run.lock", LOCK.replace("1.0", "1.1"))
    before = bytes_of(FEBRUARY)
    monkeypatch.setattr(rebuild, "_run_stages", otherwise)
    with pytest.raises(IntegrityRefused) as refused:
        rebuild.bring_back(FEBRUARY)
    names = [problem.where.rpartition(f"{FEBRUARY}/")[2] for problem in refused.value.problems]
    assert names == ["report/index.html", "scored_customers.parquet"]
    assert "duckdb 1.0 then, 1.1 now" in str(refused.value)
    assert bytes_of(FEBRUARY) == before


def test_a_database_with_other_rows_than_the_table_is_not_put_in_place(monkeypatch):
    def otherwise(project: Path, source: str) -> None:
        play_stages(project, source)
        with duckdb.connect(str(project / versions.VERSIONS / f".tmp-{JANUARY}" / "bellwether.duckdb")) as connection:
            connection.execute("update scored_customers set customer_id = 'x'")

    prune(JANUARY)
    monkeypatch.setattr(rebuild, "_run_stages", otherwise)
    with pytest.raises(IntegrityRefused, match=r"bellwether\.duckdb"):
        rebuild.bring_back(JANUARY)


@pytest.mark.parametrize("step", range(5))
@pytest.mark.fault("F1")
def test_a_kill_while_files_are_put_in_place_leaves_a_version_that_can_be_rebuilt(step, monkeypatch):
    before = bytes_of(JANUARY)
    prune(JANUARY)
    done, replace = [], Path.replace

    def until(path: Path, target: Path) -> Path:
        if len(done) == step:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", until)
    try:
        rebuild.bring_back(JANUARY)
    except KeyboardInterrupt:
        assert (versions.VERSIONS / JANUARY / "pruned.json").exists()
    monkeypatch.setattr(Path, "replace", replace)
    assert rebuild.bring_back(JANUARY) == 0
    assert versions.faults(versions.VERSIONS / JANUARY) == []
    assert {n: b for n, b in bytes_of(JANUARY).items() if "duckdb" not in n} == {
        n: b for n, b in before.items() if "duckdb" not in n
    }


def test_a_stage_that_fails_ends_the_rebuild_and_nothing_outside_is_told(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    code = "import os, sys; sys.exit('MLFLOW_TRACKING_URI' in os.environ)"
    project = tmp_path / "scratch"
    for stage in ("ingest", "observe"):
        put(f"{project}/pipeline/{stage}.py", code)
    put(f"{project}/pipeline/featurise.py", "import sys; sys.exit(3)")
    with pytest.raises(IntegrityRefused, match=r"stage featurise of the rebuild: .* found exit code 3"):
        rebuild._run_stages(project, "shop")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault("F2")
def test_a_signal_ends_the_stage_that_runs_and_leaves_the_pruned_version(number, monkeypatch):
    def stage(project: Path, source: str) -> None:
        put("child", "")
        child = "import os, time; open('child', 'w').write(str(os.getpid())); time.sleep(60)"
        timer = threading.Timer(1, os.kill, (os.getpid(), number))
        timer.start()
        subprocess.run([sys.executable, "-c", child], check=False)

    prune(JANUARY)
    before = bytes_of(JANUARY)
    monkeypatch.setattr(rebuild, "_run_stages", stage)
    with pytest.raises(SystemExit) as ended:
        rebuild.bring_back(JANUARY)
    assert ended.value.code == 128 + number
    assert not Path(f"/proc/{Path('child').read_text() or 'never'}").exists()
    assert bytes_of(JANUARY) == before


def test_code_that_is_not_committed_is_named_new_files_too(tmp_path, monkeypatch):
    assert tracking.uncommitted_code() == []
    put("models/new.py", "")
    put("features/code.py", "three")
    put("notes.txt", "")
    assert tracking.uncommitted_code() == ["features/code.py", "models/new.py"]
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert tracking.uncommitted_code() is None
