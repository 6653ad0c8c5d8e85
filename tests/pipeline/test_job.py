"""The scheduled job from outside: its lock, its records, its last line, its webhook, and what a retrain moves."""

from __future__ import annotations

import difflib
import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from servers import free_port
from workspaces import ROOT

from features.errors import DataRefused, Problem
from pipeline import healing, run, webhook
from pipeline.logbook import Logbook

HOLD = "import sys; sys.argv[1:] = ['run']; from pipeline.run import owned\nwith owned(): print('held', flush=True); input()"


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_second_run_is_refused_within_two_seconds_and_names_the_owner(workspace, form):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=workspace.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(ROOT)},
    ) as owner:  # fmt: skip
        assert owner.stdout.readline() == "held\n"
        began, used = time.monotonic(), os.times()
        second = workspace.pipeline("run", "--log", form, BELLWETHER_WEBHOOK=f"http://127.0.0.1:{free_port()}/")
        took, now = time.monotonic() - began, os.times()
        owner.communicate("\n")
    worked = now.children_user + now.children_system - used.children_user - used.children_system
    assert worked < 2, "its work alone takes longer"
    assert took < 2 or os.getloadavg()[0] > (os.cpu_count() or 1), "it waits"
    assert second.returncode == 6
    assert f"a run of process {owner.pid} (python -m pipeline run, since 20" in second.stderr
    if form == "json":
        *_, last = records(second.stdout)
        assert (last["record"], last["exit_code"], last["stages"]) == ("summary", 6, {})
    assert (workspace.folder / ".run/lock").read_text() == ""


FLOW = {
    "stages": {
        "observe": {
            "cmd": sys.executable + " -c \"import pandas as pd; from pathlib import Path; Path('data/observe').mkdir(parents=True); "
            "pd.DataFrame({'a': [1, 2, 3]}).to_parquet('data/observe/observations.parquet'); print('observe   three rows')\"",
            "outs": ["data/observe"],
        },
        "monitor": {
            "cmd": sys.executable + " -c \"import os, json, sys; json.dump({'stage': 'monitor', 'exit_code': 3, 'problems': "
            "[{'where': 'here', 'must_be': 'a', 'found': 'b', 'remedy': 'c'}]}, open(os.environ['BELLWETHER_FAILURE_RECORD'], 'w')); sys.exit(3)\"",
            "deps": ["data/observe"],
        },
    }
}  # fmt: skip


def test_a_run_of_dvc_leaves_one_record_a_stage_with_times_rows_and_outcome(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(yaml.safe_dump(FLOW, sort_keys=False))
    subprocess.run([Path(sys.executable).parent / "dvc", "init", "-q", "--no-scm"], check=True)
    run.STATE.mkdir()
    seen = {}
    for turn in ("first", "second"):
        out = io.StringIO()
        book = Logbook("run", as_json=True, out=out)
        code = run.dvc("repro", line=book.line)
        book.end(book.summary(code, json.loads((run.STATE / "failure.json").read_text())))
        assert code == 3
        told = records(out.getvalue())
        seen[turn] = {each["stage"]: each for each in told if each["record"] == "stage"}
        assert len([each for each in told if each["record"] == "stage"]) == 2
        assert told[-2] | {"time": None} == {
            "record": "problem", "time": None, "stage": "monitor", "where": "here", "must_be": "a", "found": "b", "remedy": "c",
        }  # fmt: skip
        assert (told[-1]["outcome"], told[-1]["stage"], told[-1]["exit_code"]) == ("refused by a gate", "monitor", 3)
    first, second = seen["first"]["observe"], seen["second"]["observe"]
    assert (first["outcome"], first["rows"], first["exit_code"]) == ("done", 3, 0)
    assert first["start"] < first["end"] <= seen["first"]["monitor"]["start"]
    assert first["seconds"] > 0
    assert (second["outcome"], second["seconds"], second["rows"]) == ("unchanged", 0, 3)
    assert (seen["second"]["monitor"]["outcome"], seen["second"]["monitor"]["rows"]) == ("failed", None)


def test_text_keeps_the_lines_of_the_stages_and_adds_how_long_each_took(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    book = Logbook("run", as_json=False)
    for line in (
        "Running stage 'tune':",
        "> python",
        "tune      searched: trials 3",
        "Stage 'train' didn't change, skipping",
    ):
        book.line(line)
    book.end(book.summary(0))
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["Running stage 'tune':", "> python", "tune      searched: trials 3"]
    assert out[3].startswith("run       tune done in 0.0 s")
    assert out[-1] == "run: nothing to do; nothing is published yet; 0 s"


class Listener(BaseHTTPRequestHandler):
    """Answers as told, one answer after another, and keeps what was posted."""

    def do_POST(self):
        server = self.server
        server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        if status == "hang":
            server.hung.wait(20)
            return
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        """Refuse: a redirect would come by it."""
        self.server.posted.append("a GET")
        self.send_error(500)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def listening(monkeypatch, *answers):
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        server.posted, server.answers, server.hung = [], list(answers), threading.Event()
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv(webhook.ADDRESS, f"http://127.0.0.1:{server.server_port}/token-s3cret")
        try:
            yield server
        finally:
            server.hung.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "attempts", "why"),
    [
        ((200,), 1, None),
        ((503, 429, 204), 3, None),
        ((400,), 1, "HTTP 400 after 1 attempt within 20 s"),
        ((307,), 1, "HTTP 307 after 1 attempt within 20 s"),
    ],
)
def test_a_webhook_is_told_again_where_that_may_help(monkeypatch, answers, attempts, why):
    monkeypatch.setattr(webhook, "FIRST_PAUSE", 0.1)  # .1, .2, .4, .8: the sum passes two seconds at the next
    with listening(monkeypatch, *answers) as server:
        assert webhook.deliver({"exit_code": 0}, "run: published", budget=20) == why
    assert server.posted == [{"text": "run: published", "exit_code": 0}] * attempts


def test_a_webhook_that_stays_broken_is_given_up_within_the_budget(monkeypatch):
    monkeypatch.setattr(webhook, "FIRST_PAUSE", 0.05)
    with listening(monkeypatch, 500) as server:
        why = webhook.deliver({}, "x", budget=1)
        assert len(server.posted) >= 2
        assert why == f"HTTP 500 after {len(server.posted)} attempts within 1 s"


def test_a_webhook_that_hangs_or_is_away_takes_no_more_than_its_budget(monkeypatch):
    with listening(monkeypatch, "hang"):
        began = time.monotonic()
        assert webhook.deliver({}, "x", budget=0.7).startswith("no answer after 1 attempt")
        assert time.monotonic() - began < 10  # the server hangs for twenty
    monkeypatch.setenv(webhook.ADDRESS, f"http://127.0.0.1:{free_port()}/token-s3cret")
    assert webhook.deliver({}, "x", budget=0.4).startswith(("ConnectionRefusedError after 1", "no answer after 1"))
    monkeypatch.setenv(webhook.ADDRESS, "file:///etc/hostname")
    assert webhook.deliver({}, "x") == "BELLWETHER_WEBHOOK holds no http or https address"
    monkeypatch.delenv(webhook.ADDRESS)
    monkeypatch.setattr(webhook, "_post", lambda *_: pytest.fail("asked for nothing"))
    assert webhook.deliver({}, "x") is None


@pytest.fixture
def room(tmp_path, monkeypatch) -> Path:
    """A project folder in which DVC does nothing and succeeds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for name in ("data/raw/simulated", "data/ingest"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(healing, "heal", lambda: None)
    for name in ("_ensure_repository", "preflight", "_warn_open_ended"):
        monkeypatch.setattr(run, name, lambda: None)
    monkeypatch.setattr(run, "dvc", lambda *_, **__: 0)
    return tmp_path


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 8)])
def test_a_webhook_that_fails_spoils_no_good_run_unless_asked(room, monkeypatch, capsys, strict, code):
    with listening(monkeypatch, 404) as server:
        assert run.run(strict=strict) == code
    told = capsys.readouterr()
    assert "the webhook was not told: HTTP 404" in told.err
    assert "s3cret" not in told.out + told.err
    (posted,) = server.posted
    assert (posted["exit_code"], posted["outcome"]) == (0, "nothing to do")
    assert posted["text"] == told.out.splitlines()[-1]


def test_a_refusal_tells_the_webhook_too_and_keeps_its_code(room, monkeypatch, capsys):
    def refuse():
        raise DataRefused(Problem("raw", "there", "nothing", "Bring it."))

    monkeypatch.setattr(run, "preflight", refuse)
    with listening(monkeypatch, 200) as server, pytest.raises(DataRefused):
        run.run(log="json", strict=True)
    assert server.posted[0]["exit_code"] == 2
    *_, problem, summary = records(capsys.readouterr().out)
    assert (problem["where"], summary["outcome"]) == ("raw", "refused: the data")


CHECKS = [{"code": "M012", "title": "Off", "title_zh": "偏", "severity": "warn", "answer": "found"}]


def test_drift_proposes_a_retrain_in_the_summary_and_the_webhook(room, monkeypatch, capsys):
    def dvc(*_, line, **__) -> int:
        line("Stage 'monitor' didn't change, skipping")
        return 0

    monkeypatch.setattr(run, "dvc", dvc)
    (room / "data/monitor").mkdir()
    (room / "data/monitor/checks.json").write_text(json.dumps(CHECKS))
    (room / "data/monitor/figures.json").write_text('{"run": {"until": "2025-01-01", "as_of": "2026-01-01"}}')
    with listening(monkeypatch, 200) as server:
        assert run.run() == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "checks stop 0, warn 1, note 0; retrain proposed (M012 Off): `python -m pipeline retrain` would move" in line
    assert server.posted[0]["retrain"]["proposed"]
    assert server.posted[0]["checks"] == {"stop": [], "warn": ["M012"], "note": []}


def test_a_retrain_looks_for_new_data_first_and_changes_one_line_of_params(room, monkeypatch, capsys):
    """The as_of of an earlier run lies there; ingest finds a newer delivery, and comments stay."""
    known = room / "data/ingest/as_of.json"
    known.write_text('{"as_of": "2026-01-01", "source": "simulated"}')
    asked = []

    def dvc(*arguments, **_) -> int:
        asked.append(arguments)
        known.write_text('{"as_of": "2026-02-01", "source": "simulated"}')
        return 0

    monkeypatch.setattr(run, "dvc", dvc)
    before = (room / "params.yaml").read_text().splitlines()
    assert run.retrain() == 0
    after = (room / "params.yaml").read_text().splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[:1] in "+-"]
    assert changed == [
        '-       until: "2026-01-01" # moving it retrains: `python -m pipeline retrain`',
        '+       until: "2026-02-01" # moving it retrains: `python -m pipeline retrain`',
    ]
    assert asked == [("repro", "ingest"), ("repro",)]
    assert "outcomes known before 2026-02-01 train (train.until was 2026-01-01)" in capsys.readouterr().out
    assert run.retrain() == 0
    assert (room / "params.yaml").read_text().splitlines() == after
    assert "as before: nothing newer is mature" in capsys.readouterr().out


def test_a_retrain_whose_data_is_refused_moves_nothing(room, monkeypatch):
    before = (room / "params.yaml").read_bytes()
    monkeypatch.setattr(run, "dvc", lambda *_, **__: 2)
    assert run.retrain() == 2
    assert (room / "params.yaml").read_bytes() == before
