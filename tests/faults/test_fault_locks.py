"""F2 to F4, F10: orphans, locks that a kill tore, runs that start while another one runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from fault_ground import tree
from workspaces import ROOT

from features.errors import BusyRefused
from pipeline import healing, run
from pipeline.litter import LOCK, STAGE, mend_lock
from pipeline.stage import RECORD

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
    (healing.STATE / "group").write_text(f"{child.pid} {healing.started(child.pid)}")
    os.kill(child.pid, how)
    child.wait()
    assert healing.started(orphan) > 0
    healing.heal()
    time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        assert (Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[0]) == "Z"
    assert not (healing.STATE / "group").exists()


@fault("F3")
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": ', b"\0" * 64, b"null\0"])
def test_a_torn_lock_of_dvc_is_taken_away(content, book):
    lock = Path(".dvc/tmp/rwlock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_bytes(content)
    healing.heal()
    assert not lock.exists()


@fault("F3")
def test_a_lock_of_dvc_whose_holder_s_number_is_another_process_s_is_taken_away_and_a_living_dvc_s_is_not(book):
    lock = Path(".dvc/tmp/rwlock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["sleep", "600"]) as other, subprocess.Popen(["sleep", "600"], cwd="/") as elsewhere, \
         subprocess.Popen(["dvc-of-somebody", "600"], executable=shutil.which("sleep")) as theirs:  # fmt: skip
        try:
            for holder, stays in ((other, False), (elsewhere, False), (theirs, True)):
                lock.write_text(json.dumps({"write": {"x": {"pid": holder.pid, "cmd": "dvc repro"}}, "read": {}}))
                healing.heal()
                assert lock.exists() is stays
            theirs.kill()  # and not yet buried
            time.sleep(0.1)
            healing.heal()
            assert not lock.exists()
        finally:
            for process in (other, elsewhere, theirs):
                process.kill()


@fault("F3")
@pytest.mark.parametrize("record", ["999999999 5", "", "0 0", "{own} 1000000000000000"])
def test_a_stale_record_of_a_group_harms_nobody(record, book):
    (healing.STATE / "group").write_text(record.format(own=os.getpid()))
    healing.heal()
    assert not (healing.STATE / "group").exists()


@fault("F4")
def test_a_second_run_is_refused_at_once_and_names_the_first(book):
    code = "from pipeline import run\nwith run.owned():\n    print('owned', flush=True)\n    input()\n"
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert first.stdout
    assert first.stdout.readline() == "owned\n"
    before = time.monotonic()
    said = rf"process {first.pid} \(python -m pipeline.*, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC, on "
    with pytest.raises(BusyRefused, match=said) as refused, run.owned():
        pass
    assert time.monotonic() - before < 2
    assert refused.value.exit_code == 6
    first.communicate("\n")
    with run.owned():
        pass


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


@fault("F2")
def test_an_orphan_of_a_run_that_wrote_no_record_is_ended_too(book):
    """A run that is killed between starting dvc and saying so: its children hold the name of its record."""
    mark = {RECORD: str((healing.STATE / "failure.json").resolve())}
    orphan = subprocess.Popen(["sleep", "600"], env=os.environ | mark, start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], env=os.environ | {RECORD: "/elsewhere/.run/failure.json"})
    try:
        while not healing.orphans():  # until the child is what it will be
            time.sleep(0.01)
        healing.heal()
        assert orphan.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@fault("F1")
def test_what_a_kill_left_lying_about_is_swept_away_and_nothing_else(book, tmp_path):
    scratch = tmp_path / f"bellwether-run-{'0' * 16}"
    (scratch / "duckdb").mkdir(parents=True)
    (healing.STATE / "scratch").write_text(str(scratch))
    kept = [Path("data/select/.keep"), Path("data/raw/flat/notes.tmp"), tmp_path / "mine"]
    litter = [Path(".dvc/cache/files/md5/ab/.Xn9vVJ_8kq4z8Jc2f1aB-g.tmp"), Path("data/select/.Xn9vVJ_8kq4z8Jc2f1aB-g.tmp"),
              Path("data/promote/champion/.tmp-flat/booster.txt"), Path("data/publish/.current-17"),
              Path("data/publish/versions/.tmp-0/manifest.json"), Path("data/promote/champion/flat.json.new")]  # fmt: skip
    for path in (*kept, *litter):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    before = tree(Path("data"))
    healing.heal()
    assert not [path for path in (*litter, scratch, Path("data/promote/champion/.tmp-flat")) if path.exists()]
    assert all(path.exists() for path in kept)
    gone = {str(path.relative_to("data")) for path in litter if path.is_relative_to("data")}
    assert tree(Path("data")) == {name: digest for name, digest in before.items() if name not in gone}


@fault("F1")
@pytest.mark.parametrize("record", ["", "/", "/tmp", "data", "\0", "/etc/passwd"])
def test_a_torn_record_of_a_scratch_folder_removes_nothing(record, book):
    (healing.STATE / "scratch").write_text(record)
    before = tree(Path("data"))
    healing.heal()
    assert not (healing.STATE / "scratch").exists()
    assert tree(Path("data")) == before


@fault("F1", "F2")
@pytest.mark.sample
@pytest.mark.parametrize("part", range(4))
def test_a_dvc_lock_that_a_kill_left_half_written_is_cut_back_to_its_whole_stages(part, draw, tmp_path, monkeypatch):
    """Cut anywhere, it is one that DVC's own schema allows, with every stage as it was that ends before the cut."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "dvc.lock").read_text()
    whole = yaml.load(text, yaml.CSafeLoader)["stages"]
    LOCK.write_text(text)
    mend_lock()
    assert LOCK.read_text() == text
    ends = [found.start() for found in STAGE.finditer(text)][1:]
    lines = [at + 1 for at, letter in enumerate(text) if letter == "\n"]
    for cut in [0, 3, *draw.sample(lines, 15), *(draw.randrange(len(text)) for _ in range(15))]:
        LOCK.write_text(text[:cut])
        mend_lock()
        sound = sum(end <= cut for end in ends)
        if not LOCK.exists():
            assert sound == 0
            continue
        left = COMPILED_LOCKFILE_SCHEMA(yaml.load(LOCK.read_text(), yaml.CSafeLoader))["stages"]
        names = list(whole)[:sound]
        assert list(left)[:sound] == names
        assert len(left) <= sound + 1
        assert {name: left[name] for name in names} == {name: whole[name] for name in names}
