"""Fixtures: where real data lies, and a workspace of its own in which whole runs happen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from workspaces import ROOT, Workspace, copy_project

import pipeline  # noqa: F401  its environment must stand before any library that reads it is imported


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh copy of the project in which nothing has run."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("BELLWETHER_REALDATA", ROOT.parent / "shared" / "realdata")).resolve()
    if not folder.is_dir():
        pytest.skip(f"real data is not here ({folder}); set BELLWETHER_REALDATA")
    return folder


assert sys.version_info[:2] == (3, 11)
