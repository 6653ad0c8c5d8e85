"""F1: SIGKILL of a stage's process group at random moments; the next run heals it, and a reader never noticed.

FAULT_KILLS says how many inside each of publish, promote, ingest and tune (default 45, in all 180; the 20 over whole
runs stand in test_fault_run_kills.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from fault_book import bytes_of, republish, whole
from workspaces import Workspace

from pipeline import bundle, healing, litter, promote, versions

fault = pytest.mark.fault
KILLS = int(os.environ.get("FAULT_KILLS", "45"))
OUTPUT = {"publish": "data/publish", "promote": "data/promote", "ingest": "data/ingest", "tune": "data/tune"}


class Reader:
    """Reads `current` a hundred times a second, as whoever acts on the table does: the link once, then two files."""

    def __init__(self, publication: Path) -> None:
        self.publication = publication.absolute()
        self.seen: set[str] = set()
        self.wrong: list[str] = []
        self.count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                version = self.publication / (self.publication / "current").readlink()
                stated = json.loads((version / "manifest.json").read_bytes())
                table = hashlib.sha256((version / "scored_customers.parquet").read_bytes()).hexdigest()
                if stated["files"]["scored_customers.parquet"] != table or stated["run_id"] != version.name:
                    self.wrong.append(f"{version.name}: torn or mixed")
                self.seen.add(stated["run_id"])
            except (OSError, ValueError, KeyError) as error:
                self.wrong.append(repr(error))
            self.count += 1
            if self._stop.wait(0.01):
                return

    def end(self) -> set[str]:
        """Return the versions seen; none was ever missing, torn or mixed."""
        self._stop.set()
        self._thread.join()
        assert self.wrong == []
        assert self.count > 0
        return self.seen


def prepare(stage: str, book: Workspace) -> None:
    """Have the stage something to do."""
    if stage == "publish":
        republish()
    elif stage == "promote":
        for path in ("data/promote/champion", "data/promote/bundles", "data/promote/scorer", "data/promote/verdicts"):
            shutil.rmtree(path)
    elif stage == "ingest":
        (Path("data/ingest") / "ledger.json").unlink()
    else:
        book.set_params({"tune": {"trials": 6}})
        shutil.rmtree("data/journal")
        shutil.rmtree("data/tune")


def names(*folders: str) -> set[str]:
    """Return every path below the folders: what a kill may not add to."""
    return {str(path) for folder in folders for path in Path(folder).rglob("*")}


def trials() -> Counter[int]:
    """Return how often the journal counts each finished trial."""
    from optuna.trial import TrialState

    from pipeline import tune

    (journal,) = {path.parent for path in Path("data/journal").rglob("trials.log")}
    study = tune.open_study(journal)
    return Counter(trial.number for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED))


@fault("F1", "E11")
@pytest.mark.parametrize("stage", ["publish", "promote", "ingest", "tune"])
def test_a_kill_at_any_moment_of_a_stage_is_healed_by_the_next_run(stage, book, draw, fork, tmp_path):
    """Killed, then run again: the bytes of a run never killed, no litter; readers see whole tables all the while."""
    prepare(stage, book)
    start, temporary = tmp_path / "start", tmp_path / "temporary"
    temporary.mkdir()
    shutil.copytree("data", start, symlinks=True)
    forks = fork(stage)
    began = time.monotonic()
    assert forks.run(stage, book.folder) == (0, forks.said.read_text())
    took = time.monotonic() - began
    right, there = bytes_of(Path(OUTPUT[stage])), names("data", ".run")
    finished = trials() if stage == "tune" else Counter()
    amid = tried = 0
    while amid < KILLS:  # one that came after the end is no kill, and is drawn again
        tried += 1
        assert tried < 5 * KILLS + 20, f"{amid} of {tried} kills came while the stage ran"
        shutil.rmtree("data")
        shutil.copytree(start, "data", symlinks=True)
        before = whole()
        reader = Reader(versions.PUBLISH)
        scratch = litter.scratch()
        folder = scratch.__enter__()  # a killed run leaves it
        begun = forks.begin(stage, book.folder, TMPDIR=str(folder))
        time.sleep(draw.uniform(0, took))
        begun.kill()
        amid += begun.wait() == -9
        healing.heal()
        assert not folder.exists()
        began = time.monotonic()
        code, said = forks.run(stage, book.folder, TMPDIR=str(temporary))
        took = time.monotonic() - began
        assert code == 0, f"kill {amid}: {said}"
        assert reader.end() <= {before, whole()}
        assert bytes_of(Path(OUTPUT[stage])) == right
        assert names("data", ".run") == there
        assert list(temporary.iterdir()) == []
        if stage == "tune":
            assert trials() == finished
    print(f"{stage}: {amid} of {tried} kills came while it ran, which takes {took:.1f} s")
    assert stage != "tune" or set(finished.values()) == {1}


class Killed(BaseException):
    """The end of the process, at one place."""


@fault("F1")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["intend", "keep", "make_champion", "note_change", "write"])
def test_promote_ended_at_a_step_does_the_rest_when_it_runs_again(step, after, book, monkeypatch):
    """Each is a moment at which a champion may stand without its verdict, or a verdict without its champion."""
    monkeypatch.setattr(promote, "_track", lambda *_: None)
    prepare("promote", book)
    shutil.copytree("data/promote", "start")
    promote.main()
    right = bytes_of(Path("data/promote"))
    shutil.rmtree("data/promote")
    shutil.copytree("start", "data/promote")
    real = getattr(bundle, step)

    def ended(*arguments, **named):
        if after:
            real(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(bundle, step, ended)
        with pytest.raises(Killed):
            promote.main()
    healing.heal()
    promote.main()
    assert bytes_of(Path("data/promote")) == right
