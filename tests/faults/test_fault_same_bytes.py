"""D3, D8: clones, zones, languages, threads, the order of rows and files: the same features, model, scores, reasons."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_ground import tree
from fault_volume import PARAMS, lay_out
from workspaces import Workspace, copy_project

fault = pytest.mark.fault
STAGES = "ingest observe featurise select tune train calibrate evaluate promote score explain"
CODE = f"""
import importlib, os
cores = sorted(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])]
os.sched_setaffinity(0, cores)  # the engine starts as many threads as it has cores
for name in "{STAGES}".split():
    stage = importlib.import_module(f"pipeline.{{name}}")
    if name == "promote":
        stage._track = lambda *_: None
    stage.main()
"""
SAME = (
    "ingest/tables",
    "observe",
    "featurise",
    "select",
    "tune",
    "train",
    "calibrate",
    "promote/scorer",
    "score",
    "explain",
)


@dataclass(frozen=True)
class Way:
    """One way to run: zone, language, threads, and whether rows and files come in an order of their own."""

    zone: str
    language: str
    threads: int
    shuffled: bool


WAYS = (
    Way("UTC", "C", 1, shuffled=False),
    Way("Asia/Tokyo", "C.UTF-8", 2, shuffled=True),
    Way("America/New_York", "C", 2, shuffled=True),
    Way("Pacific/Apia", "C.UTF-8", 1, shuffled=False),
)


def languages() -> set[str]:
    """Return the languages that this machine knows."""
    return set(subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split())


def shuffle(raw: Path, draw: random.Random) -> None:
    """Turn the rows of every file about, and cut each into two whose names sort the other way round."""
    for path in sorted(raw.glob("*.csv")):
        head, *rows = path.read_text().splitlines()
        draw.shuffle(rows)
        cut = draw.randrange(1, len(rows))
        path.unlink()
        for name, part in (("z", rows[:cut]), ("a", rows[cut:])):
            path.with_name(f"{path.stem}-{name}{draw.randrange(100)}.csv").write_text("\n".join([head, *part]) + "\n")


def made(clone: Workspace, way: Way, draw: random.Random) -> dict[str, str]:
    """Return what the stages of a clean clone make, by hash."""
    lay_out(clone.folder, 9000, 400)
    clone.set_params(PARAMS)
    if way.shuffled:
        shuffle(clone.folder / "data/raw/volume", draw)
    other = sorted(languages() - {"C", "POSIX", "C.utf8", "C.UTF-8"})
    done = subprocess.run(
        [str(clone.folder / ".venv/bin/python"), "-c", CODE], cwd=clone.folder, capture_output=True, text=True, check=False,
        env=os.environ | {"TZ": way.zone, "LC_ALL": other[0] if other and way.language != "C" else way.language,
                          "OMP_NUM_THREADS": str(way.threads), "PYTHONPATH": str(clone.folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    found = {}
    for folder in SAME:
        found |= {f"{folder}/{name}": digest for name, digest in tree(clone.folder / "data" / folder).items()}
    return {name: digest for name, digest in found.items() if not name.endswith(".gitignore")}


@fault("D3", "D8")
def test_zones_languages_threads_clones_and_order_give_the_same_bytes(draw, tmp_path):
    """Features, model, scores and reasons of four clean clones, byte for byte."""
    first: dict[str, str] = {}
    for number, way in enumerate(WAYS):
        found = made(copy_project(tmp_path / f"clone{number}" / ("deeper" if number % 2 else "")), way, draw)
        first = first or found
        assert {name.split("/")[0] for name in found} == {folder.split("/")[0] for folder in SAME}
        assert {name for name in first.keys() | found.keys() if first.get(name) != found.get(name)} == set(), way
