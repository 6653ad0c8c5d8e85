"""What tests of faults share: a seed of their own from the one that is printed, and a shop to break."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from pathlib import Path

import pytest
from fault_ground import Shop

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
