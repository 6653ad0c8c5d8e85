"""F1, F2: SIGKILL at random moments of whole runs, of the run, of all its processes or of dvc alone; one command heals.

FAULT_RUN_KILLS says how many groups (default 20), FAULT_DVC_KILLS how often dvc alone (default 4).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fault_book import bytes_of, whole
from test_fault_kills import Reader, names
from workspaces import Workspace

fault = pytest.mark.fault
KILLS = int(os.environ.get("FAULT_RUN_KILLS", "20"))
OF_DVC = int(os.environ.get("FAULT_DVC_KILLS", "4"))
MOVING = {".run/log.txt", ".run/failure.json", ".run/sound.json", ".run/hashes.json"}  # what a run says of itself


def of(folder: Path) -> list[int]:
    """Return the processes whose present folder is the workspace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (entry / "cwd").resolve() == folder and (entry / "stat").read_text().rpartition(")")[2][1] != "Z":
                    found.append(int(entry.name))
    return found


def running(folder: Path, temporary: Path) -> subprocess.Popen[bytes]:
    """Start a run of the workspace's own code in a process group of its own."""
    temporary.mkdir(exist_ok=True)
    with (folder / ".run/log.txt").open("ab") as log:
        return subprocess.Popen(
            [str(folder / ".venv/bin/python"), "-m", "pipeline", "run"], cwd=folder, start_new_session=True,
            stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(temporary)},
        )  # fmt: skip


def kill(how: str, child: subprocess.Popen[bytes], place: Path) -> None:
    """Kill the run and leave dvc an orphan, or all at once, or dvc alone."""
    if how == "the run":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return
    for process in of(place):
        with contextlib.suppress(OSError):
            if how == "all" or b"/dvc\0" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def never_killed(lender: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A published book with a new delivery, so that every stage has work; that after one run; how long the run took."""
    top = tmp_path_factory.mktemp("runs")
    start, ended = top / "start", top / "ended"
    shutil.copytree(lender.folder, start, symlinks=True)
    table = start / "data/raw/flat/applicants.csv"
    lines = table.read_text().splitlines()
    draw = random.Random(os.environ.get("FAULT_SEED", "1"))
    more = [
        ",".join([f"CANARY-9{number:04d}", *line.split(",")[1:]])
        for number, line in enumerate(draw.sample(lines[1:], 40))
    ]
    table.write_text("\n".join([*lines, *more]) + "\n")
    shutil.copytree(start, ended, symlinks=True)
    began = time.monotonic()
    assert running(ended, top / "temporary").wait(timeout=900) == 0, (ended / ".run/log.txt").read_text()[-3000:]
    assert whole(ended / "data/publish") != whole(start / "data/publish")
    return start, ended, time.monotonic() - began


def state(place: Path) -> tuple[dict[str, str], set[str]]:
    """Return what a run leaves, by bytes, and every path of data, DVC's folder and the run's own."""
    here = Path.cwd()
    os.chdir(place)
    try:
        held = {
            f"{top}/{name}": digest for top in ("data", ".dvc/cache") for name, digest in bytes_of(Path(top)).items()
        }
        held = {name: digest for name, digest in held.items() if "/journal/" not in name}
        held["dvc.lock"] = Path("dvc.lock").read_text()
        return held, {name for name in names("data", ".dvc/cache", ".run") if name not in MOVING}
    finally:
        os.chdir(here)


@fault("F1", "F2")
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("how", ["the run", "all", "dvc alone"])
def test_a_killed_run_is_healed_by_one_command(how, part, never_killed, draw, tmp_path):
    """The bytes of a run never killed, the same files, no process; a reader never noticed."""
    start, ended, took = never_killed
    kills = OF_DVC if how == "dvc alone" else KILLS // 2
    kills = kills // 2 + (part < kills % 2)
    if kills == 0:
        pytest.skip("no kill of this kind was asked for")
    right, there = state(ended)
    published = (whole(start / "data/publish"), whole(ended / "data/publish"))
    for number in range(kills):
        place = tmp_path / "killed"
        shutil.copytree(start, place, symlinks=True)
        reader = Reader(place / "data/publish")
        child = running(place, tmp_path / "temporary")
        time.sleep(draw.uniform(0.02, 0.98) * took)
        kill(how, child, place)
        child.wait(timeout=900)
        again = running(place, tmp_path / "temporary").wait(timeout=900)
        said = (place / ".run/log.txt").read_text()[-3000:]
        assert again == 0, f"kill {number}: {said}"
        assert reader.end() <= set(published)
        assert whole(place / "data/publish") == published[1]
        found, paths = state(place)
        assert found == right, (
            f"kill {number}: {sorted(n for n in found.keys() | right.keys() if found.get(n) != right.get(n))}"
        )
        assert paths == there, f"kill {number}: {sorted(paths ^ there)}"
        assert of(place) == []
        assert list((tmp_path / "temporary").iterdir()) == []
        shutil.rmtree(place)
