"""What tests of faults share: a seed of their own from the one that is printed, and a shop to break."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_forks import Forks
from fault_ground import QUICK, Shop, lay_out_flat
from workspaces import Workspace, copy_project

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all but the first of each test that is marked `sample` to `make test-faults`."""
    seen = set()
    for item in items:
        if HERE in item.path.parents:
            function = item.nodeid.partition("[")[0]
            if item.get_closest_marker("sample") is None or function in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(function)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    """Return this test's own source of chance, from the printed seed and the test's name."""
    seed = os.environ.get("FAULT_SEED", "1")
    print(f"replay with FAULT_SEED={seed}")
    return random.Random(hashlib.sha256(f"{seed} {request.node.name}".encode()).hexdigest())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: random.Random) -> Shop:
    """Return a project folder with the source `shop`, a publication, and a scratch folder of its own."""
    project, scratch = tmp_path / "project", tmp_path / "scratch"
    project.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("BELLWETHER_FAILURE_RECORD", str(tmp_path / "failure.json"))
    monkeypatch.chdir(project)
    return Shop(project, scratch, tmp_path / "failure.json", draw)


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[Callable[..., Forks]]:
    """Begin parents of stages, which end with the test."""
    begun: list[Forks] = []

    def begin(*stages: str, preload: Path | None = None) -> Forks:
        begun.append(Forks(stages, tmp_path / "said", preload))
        return begun[-1]

    yield begin
    for each in begun:
        each.end()


@pytest.fixture(scope="session")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which a small source was run and published, without network where the machine can cut it off.

    FAULT_LENDER may name one that stands, to spare the run while a test is written.
    """
    standing = os.environ.get("FAULT_LENDER")
    if standing:
        return Workspace(Path(standing))
    workspace = copy_project(tmp_path_factory.mktemp("lender") / "project")
    lay_out_flat(workspace.folder, random.Random(os.environ.get("FAULT_SEED", "1")))
    workspace.set_params(QUICK)
    alone = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0
    python = str(workspace.folder / ".venv/bin/python")
    done = workspace.run(*(["unshare", "-n"] if alone else []), python, "-m", "pipeline", "run", timeout=1800)
    (workspace.folder / ".run/log.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if not alone:
        (workspace.folder / ".run/with-network").touch()
    return workspace


@pytest.fixture
def book(lender: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a copy of that workspace, as the present folder."""
    folder = tmp_path / "book"
    shutil.copytree(lender.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BELLWETHER_FAILURE_RECORD", str(tmp_path / "failure.json"))
    return Workspace(folder)
