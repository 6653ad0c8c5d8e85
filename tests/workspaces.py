"""A workspace of its own, in which whole runs happen: a copy of the tracked files with the environment of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Workspace:
    """A copy of the tracked files in a folder of its own, with the environment of this one."""

    folder: Path

    def run(self, *command: str, timeout: float = 1800, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the workspace, capturing its output."""
        program = ROOT / ".venv" / "bin" / command[0]
        executable = str(program) if program.exists() else command[0]
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_TRACKING", "PYTEST"))
        }
        return subprocess.run(
            [executable, *command[1:]],
            cwd=self.folder, env=inherited | environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def pipeline(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m pipeline ...`."""
        return self.run("python", "-m", "pipeline", *arguments, **environment)

    def set_params(self, changes: dict) -> None:
        """Lay nested values over params.yaml."""

        def lay(base: dict, over: dict) -> dict:
            for key, value in over.items():
                if isinstance(value, dict) and isinstance(base.get(key), dict):
                    lay(base[key], value)
                else:
                    base[key] = value
            return base

        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(lay(yaml.safe_load(path.read_text()), changes), sort_keys=False))


LOOSE = "ingest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n"


def lay_out_shop(folder: Path, mapping: str) -> Path:
    """Make an empty project folder with the source `shop`, in which no share of rows in quarantine ends a run."""
    for inner in ("data/raw/shop", "data/sources"):
        (folder / inner).mkdir(parents=True)
    (folder / "params.yaml").write_text("source: shop\nas_of: latest\n" + LOOSE)
    (folder / "data/sources/shop.yaml").write_text(mapping)
    return folder


def put(name: str, data: str | bytes, home: str = "data/raw/shop") -> None:
    """Write a raw file below the present folder."""
    path = Path(home) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def copy_project(folder: Path) -> Workspace:
    """Copy what git knows, link the environment, and make the folder a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file() and not name.startswith(("tests/", "benchmarks/", "notebooks/")) and name != "dvc.lock":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    (folder / ".venv").symlink_to(ROOT / ".venv", target_is_directory=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=folder, check=True, capture_output=True)
    return Workspace(folder)
