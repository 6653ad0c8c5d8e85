"""F9, F10: a tracking store that is down, slow, locked, restarted or used by six for the first time loses nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fault_ground import ended
from servers import free_port
from workspaces import ROOT, Workspace

from pipeline import promote, publish, run, tracking
from pipeline.tracking import spool

fault = pytest.mark.fault
pytestmark = pytest.mark.filterwarnings("ignore")  # of mlflow, when it is first imported
NUMBERS = {"auc": 0.75, "customers": 400.0}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it but a model's files, as the present one; no server is named."""
    folder = tmp_path / "bare"
    (folder / "data/promote/scorer").mkdir(parents=True)
    (folder / "data/promote/scorer/booster.txt").write_text("a model")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spool.begin()
    monkeypatch.setenv(spool.RUN, os.environ[spool.RUN])  # so that it is taken back
    return folder


def log(run_id: str = "r" * 16, **changed: Any) -> None:
    """Log a publication."""
    given: dict[str, Any] = {
        "source": "flat", "registry": "bellwether", "run_id": run_id, "tags": {"bellwether.source": "flat"},
        "params": {"p": "1"}, "metrics": NUMBERS, "artifacts": (), "strict": False,
    }  # fmt: skip
    tracking.log_publication(**given | changed)


def log_model(strict: bool = False) -> None:
    """Log a training without pictures."""
    tracking.log_training(
        tracking.Training(
            source="flat", candidate="c" * 16, experiment=None, params={"leaves": "7"}, metrics={"auc": 0.7}, tags={},
            artifacts=(), plots=Path("none"), trials=None, bundle=Path("data/promote/scorer"), registry="bellwether",
            champion="c" * 16,
        ),
        strict=strict,
    )  # fmt: skip


def runs(uri: str | None = None) -> list[Any]:
    """Return every run of every experiment of a store, oldest first; by default that of the present folder."""
    from mlflow import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{Path('mlruns/mlflow.db').resolve()}")
    every = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted(every, key=lambda each: each.info.start_time)


def statuses(uri: str | None = None) -> list[str]:
    return sorted(each.info.status for each in runs(uri))


def dead() -> str:
    return f"http://127.0.0.1:{free_port()}"


# --- down


@fault("F9")
def test_what_a_dead_server_did_not_take_is_brought_by_the_next_run(bare, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    log_model()
    log()
    log()  # once more: it waits once
    assert "2 wait in .run/untracked" in capfd.readouterr().err
    assert [json.loads((e / spool.RECORD).read_text())["kind"] for e in spool.waiting()] == ["training", "publication"]
    assert not Path("mlruns").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    spool.begin()
    tracking.catch_up(strict=False)
    assert spool.waiting() == []
    training, publication = runs()
    assert training.data.metrics == {"auc": 0.7}
    assert publication.data.metrics == NUMBERS
    assert publication.data.params == {"p": "1"}
    assert statuses() == ["FINISHED", "FINISHED"]
    from mlflow import MlflowClient

    client = MlflowClient()
    assert client.get_model_version_by_alias("bellwether-flat", "champion").tags["model_version"] == "c" * 16
    log()
    log_model()
    assert len(runs()) == 2, "what is there is not logged again"


@fault("F9")
def test_in_strict_mode_it_is_8_and_still_kept(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    found = ended("publish", lambda: log(strict=True), tmp_path / "failure.json")
    assert found.code == 8, found.said
    assert len(spool.waiting()) == 1


@fault("F9")
@pytest.mark.parametrize("code", [0, 3])
def test_run_itself_brings_what_waits_even_where_no_stage_has_anything_to_do(code, book, monkeypatch):
    """`dvc repro` is played: nothing changed, or a gate refused."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    log("w" * 16)
    assert len(spool.waiting()) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(run, "dvc", lambda *_, **__: code)
    monkeypatch.setenv(spool.RUN, "")
    assert run.run() == code
    assert spool.waiting() == []
    assert any(each.data.tags.get("bellwether.publication") == "w" * 16 for each in runs())


@fault("F9")
def test_a_champion_set_while_the_store_is_away_is_mirrored_later(bare, monkeypatch):
    log_model()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('mlruns/mlflow.db').resolve()}")
    client.delete_registered_model_alias("bellwether-flat", "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    tracking.mirror_champion("flat", "bellwether", "c" * 16, strict=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.catch_up(strict=False)
    assert client.get_model_version_by_alias("bellwether-flat", "champion").tags["model_version"] == "c" * 16


@fault("F9")
def test_a_refused_run_leaves_its_own_figures(book, monkeypatch, tmp_path):
    checks = Path("data/monitor/checks.json")
    told = json.loads(checks.read_text())
    told[0] |= {"severity": "stop", "answer": "found", "title": "a planted check", "explanation": "planted"}
    checks.unlink()
    checks.write_text(json.dumps(told))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    monkeypatch.setenv(spool.RUN, "this")
    found = ended("publish", publish.main, tmp_path / "failure.json")
    assert found.code == 3, found.said
    assert len(spool.waiting()) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    before = len(runs())
    tracking.catch_up(strict=False)
    assert len(runs()) == before + 1
    refused = next(each for each in runs() if "bellwether.refusal" in each.data.tags)
    monitored = json.loads(Path("data/monitor/metrics.json").read_text())
    assert {name: refused.data.metrics[f"monitor.{name}"] for name in monitored} == pytest.approx(monitored)
    assert monitored
    assert "planted" in refused.data.tags["bellwether.reason_1"]
    assert "bellwether.publication" not in refused.data.tags
    assert ended("publish", publish.main, tmp_path / "failure.json").code == 3
    assert len(runs()) == before + 1, "the same refusal is one run"


@fault("F9")
def test_an_entry_that_was_torn_is_set_aside_and_said(bare, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    log("1" * 16)
    log("2" * 16)
    (spool.waiting()[0] / spool.RECORD).write_text('{"kind": "publ')
    (spool.FOLDER / ".tmp-of-a-kill").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    spool.begin()
    tracking.catch_up(strict=False)
    assert "set aside" in capfd.readouterr().out
    assert [each.data.tags["bellwether.publication"] for each in runs()] == ["2" * 16]
    assert [path.name[:5] for path in spool.FOLDER.iterdir() if path.is_dir()] == [".torn"]


# --- slow


@contextmanager
def answering(after: float) -> Iterator[str]:
    """A server that takes every request and answers, as MLflow would, after so many seconds."""
    info = {"run_id": "1", "run_uuid": "1", "experiment_id": "1", "status": "RUNNING", "start_time": 1, "artifact_uri": "mlflow-artifacts:/1"}  # fmt: skip

    class Slow(BaseHTTPRequestHandler):
        def answer(self) -> None:
            time.sleep(after)
            told: dict[str, Any] = {}
            if "experiments" in self.path:
                told = {"experiment": {"experiment_id": "1", "name": "x"}, "experiment_id": "1"}
            if "runs/create" in self.path or "runs/get" in self.path:
                told = {"run": {"info": info, "data": {}}}
            if "registered-models" in self.path:
                told = {"registered_model": {"name": "x"}}
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  who asked has gone
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@fault("F9")
@pytest.mark.parametrize("after", [2.5, 9.0, 600.0])
def test_a_run_loses_at_most_thirty_seconds_by_a_slow_server(after, bare, monkeypatch):
    """Over all that one run logs: a training, a publication, and what waits at the end."""
    import mlflow  # noqa: F401  its import is not the server's fault

    with answering(after) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        began = time.monotonic()
        log_model()
        log()
        tracking.catch_up(strict=False)
        lost = time.monotonic() - began
    assert lost < 30
    assert lost > 3, "the server was not slow"
    assert len(spool.waiting()) == 2


@fault("F9")
@pytest.mark.parametrize("when", ["from the start", "while it logs"])
def test_a_run_loses_at_most_thirty_seconds_by_a_locked_store(when, bare, monkeypatch):
    import mlflow

    log("0" * 16)  # the store exists
    holder = sqlite3.connect("mlruns/mlflow.db", check_same_thread=False)
    if when == "from the start":
        holder.execute("BEGIN EXCLUSIVE")
    else:
        plain = mlflow.log_params

        def locked(*given: Any, **named: Any) -> Any:
            if not holder.in_transaction:
                holder.execute("BEGIN EXCLUSIVE")
            return plain(*given, **named)

        monkeypatch.setattr(mlflow, "log_params", locked)
    began = time.monotonic()
    log_model()
    log()
    tracking.catch_up(strict=False)
    assert time.monotonic() - began < 30
    holder.close()
    monkeypatch.undo()
    os.chdir(bare)
    assert len(spool.waiting()) == 2
    spool.begin()
    tracking.catch_up(strict=False)
    assert spool.waiting() == []
    assert "RUNNING" not in statuses()
    assert statuses().count("FINISHED") == 3


# --- restarted, killed


@contextmanager
def served(store: Path, port: int, requests: int) -> Iterator[None]:
    """MLflow's own server in this process, which is gone after so many requests."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    # both stores are opened beforehand: opening one points this process, in which the client is too, at its file
    named = os.environ["MLFLOW_TRACKING_URI"]
    handlers._tracking_store = handlers._model_registry_store = None
    handlers._get_tracking_store(f"sqlite:///{store}/mlflow.db", f"{store}/artifacts")
    handlers._get_model_registry_store(f"sqlite:///{store}/mlflow.db")
    os.environ["MLFLOW_TRACKING_URI"] = named
    left = [requests]

    def counted(environment: dict, start: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionAbortedError("the server is being restarted")
        return app(environment, start)

    server = make_server("127.0.0.1", port, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@fault("F9")
@pytest.mark.parametrize("requests", [3, 5, 6, 7])
def test_a_server_restarted_while_a_run_is_logged_gets_it_once_and_no_run_stays_open(requests, bare, monkeypatch):
    store, port = bare / "server", free_port()
    store.mkdir()
    uri = f"sqlite:///{store}/mlflow.db"
    assert statuses(uri) == [], "the store is there: to make it is not what is timed"
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", uri)
    monkeypatch.setenv("_MLFLOW_SERVER_REGISTRY_STORE", uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", f"{store}/artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with served(store, port, requests):
        log()
    assert len(spool.waiting()) == 1, "it was logged before the server went"
    spool.begin()
    with served(store, port, 10_000):
        tracking.catch_up(strict=False)
    assert spool.waiting() == []
    assert statuses(uri).count("FINISHED") == 1
    assert "RUNNING" not in statuses(uri)
    whole = next(each for each in runs(uri) if each.info.status == "FINISHED")
    assert whole.data.metrics == NUMBERS


KILLED = """
import os, signal, sys
import mlflow
from pipeline import tracking
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(mlflow, sys.argv[1], killed)
tracking.log_publication(source="flat", registry="bellwether", run_id="r" * 16, tags={}, params={"p": "1"},
                         metrics={"auc": 0.75, "customers": 400.0}, artifacts=(), strict=False)
"""


@fault("F9", "F1")
@pytest.mark.parametrize("call", ["log_params", "log_metrics"])
def test_a_run_killed_while_it_logs_is_ended_and_logged_by_the_next(call, bare):
    done = subprocess.run([sys.executable, "-c", KILLED, call], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == -9, done.stderr[-2000:]
    assert statuses() == ["RUNNING"], "the fault was not planted"
    tracking.catch_up(strict=False)
    assert statuses() == ["FINISHED", "KILLED"]
    assert next(each for each in runs() if each.info.status == "FINISHED").data.metrics == NUMBERS


# --- six at once


SIX = """
import os, sys
from pathlib import Path
import mlflow
from pipeline import tracking
children = []
for number in range(6):
    child = os.fork()
    if child == 0:
        Path(f"w{number}").mkdir()
        os.chdir(f"w{number}")
        tracking.log_publication(source="flat", registry="bellwether", run_id=f"{number}" * 16, tags={}, params={},
                                 metrics={"n": float(number)}, artifacts=(), strict=False)
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(codes)
sys.exit(max(codes))
"""


@fault("F10", "F9")
def test_six_first_runs_at_once_on_one_new_store_all_log(bare, monkeypatch):
    """In six workspaces, none of which has seen the store that they share; on a slow machine some log by their next run."""
    uri = f"sqlite:///{bare}/shared.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = subprocess.run([sys.executable, "-c", SIX], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert statuses(uri), "the first has made the store"
    for number in range(6):
        monkeypatch.chdir(bare / f"w{number}")
        spool.begin()
        tracking.catch_up(strict=True)
    assert set(statuses(uri)) <= {"FINISHED", "FAILED", "KILLED"}
    assert statuses(uri).count("FINISHED") == 6
    ended = [each for each in runs(uri) if each.info.status == "FINISHED"]
    assert sorted(each.data.metrics["n"] for each in ended) == [0, 1, 2, 3, 4, 5]


@fault("F9")
def test_a_whole_run_leaves_no_run_open_and_nothing_waiting(lender: Workspace):
    uri = f"sqlite:///{lender.folder}/mlruns/mlflow.db"
    assert statuses(uri).count("FINISHED") >= 2
    assert set(statuses(uri)) == {"FINISHED"}
    assert not list((lender.folder / spool.FOLDER).glob("[0-9]*"))


@fault("F9")
def test_promote_keeps_its_training_too(book, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead())
    assert ended("promote", promote.main, tmp_path / "failure.json").code == 0
    (entry,) = spool.waiting()
    held = {path.name for path in entry.iterdir()}
    assert {"record.json", "artifacts", "plots", "bundle", "trials.parquet"} <= held
    assert (entry / "bundle/booster.txt").read_bytes() == Path("data/promote/scorer/booster.txt").read_bytes()
