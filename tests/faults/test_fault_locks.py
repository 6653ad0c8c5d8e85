"""F2 to F4, F10: orphans, locks that a kill tore, runs that start while another one runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workspaces import ROOT

from features.errors import BusyRefused
from pipeline import run

fault = pytest.mark.fault


@fault("F2")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_orphan_of_a_killed_dvc_is_ended_before_the_next_run(how, book):
    """A stage that outlives dvc is ended by `heal`, so that it overwrites nothing later."""
    child = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout
    with child.stdout:
        orphan = int(child.stdout.readline())
    (run.STATE / "group").write_text(f"{child.pid} {run._started(child.pid)}")
    os.kill(child.pid, how)
    child.wait()
    assert run._started(orphan) > 0
    run.heal()
    time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        assert (Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[0]) == "Z"
    assert not (run.STATE / "group").exists()


@fault("F3")
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": ', b"\0" * 64, b"null\0"])
def test_a_torn_lock_of_dvc_is_taken_away(content, book):
    lock = Path(".dvc/tmp/rwlock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_bytes(content)
    run.heal()
    assert not lock.exists()


@fault("F3")
@pytest.mark.parametrize("record", ["999999999 5", "", "0 0", f"{os.getpid()} {10**15}"])
def test_a_stale_record_of_a_group_harms_nobody(record, book):
    (run.STATE / "group").write_text(record)
    run.heal()
    assert not (run.STATE / "group").exists()


@fault("F4")
def test_a_second_run_is_refused_at_once_and_names_the_first(book):
    with (run.STATE / "lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        handle.write("4711")
        handle.flush()
        before = time.monotonic()
        with pytest.raises(BusyRefused, match=r"process 4711, begun \d{4}-\d\d-\d\d \d\d:\d\d"), run.owned():
            pass
        assert time.monotonic() - before < 2


@fault("F10", "F4")
def test_of_six_that_start_at_once_one_runs_and_five_are_busy(book):
    code = ("import sys, time\nfrom pipeline import run\nfrom features.errors import BusyRefused\nprint('ready', flush=True)\ninput()\n"
            "try:\n    with run.owned():\n        time.sleep(3)\nexcept BusyRefused as refusal:\n    sys.exit(refusal.exit_code)\n")  # fmt: skip
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(6)
    ]  # fmt: skip
    for child in children:
        assert child.stdout
        child.stdout.readline()
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    codes = []
    for child in children:
        child.communicate()
        codes.append(child.returncode)
    assert sorted(codes) == [0, 6, 6, 6, 6, 6]
