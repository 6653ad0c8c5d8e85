"""What a kill leaves lying about: scratch folders, what DVC and the stages had half written; the next run removes it.

A stage's scratch files lie in one folder a run, whose name is on record before it is made, so that nothing of a killed
run stays where nobody looks.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

STATE = Path(".run")
LOCK = Path("dvc.lock")
STAGE = re.compile(r"^  \S+:\n", re.MULTILINE)  # the line with which a stage begins in it
RECORD = STATE / "scratch"
OF_DVC = re.compile(r"^\.[A-Za-z0-9_-]{22}\.tmp$")  # dvc_objects.fs.utils.tmp_fname
OURS = re.compile(r"^\.(tmp|current)-|\.json\.new$")
KEEPS = ("data/publish", "data/promote")  # where a stage writes beside what stands, and then renames


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a new folder for the scratch files of a run (`TMPDIR` of its stages), and remove it."""
    folder = Path(tempfile.gettempdir()) / f"bellwether-run-{os.urandom(8).hex()}"
    RECORD.write_text(str(folder), encoding="utf-8")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        RECORD.unlink(missing_ok=True)


def sweep() -> None:
    """Remove what a killed run left. Called under the workspace's lock, after the last of its processes has ended."""
    if RECORD.exists():
        folder = Path(RECORD.read_text(encoding="utf-8"))
        if folder.name.startswith("bellwether-run-") and not folder.is_symlink():  # a torn record names no such folder
            shutil.rmtree(folder, ignore_errors=True)
        RECORD.unlink()
    found = [path for path in Path("data").rglob(".*.tmp") if OF_DVC.match(path.name)]
    found += [path for path in Path(".dvc/cache").rglob("*.tmp") if path.is_file()]
    found += [path for top in KEEPS for path in Path(top).glob("**/*") if OURS.search(path.name)]
    found += STATE.glob("rebuild-*")
    for path in sorted(found, reverse=True):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    mend_lock()


def mend_lock() -> None:
    """Cut a dvc.lock that a kill left half written back to its whole stages: DVC refuses one that is torn.

    DVC writes it in place, which takes it some tenths of a second after each stage. What is cut off it makes anew, or
    finds in its run cache.
    """
    text = LOCK.read_text(encoding="utf-8", errors="replace") if LOCK.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    while whole and not _is_whole(whole):
        starts = [found.start() for found in STAGE.finditer(whole)]
        whole = whole[: starts[-1]] if len(starts) > 1 else ""
    if whole:
        if whole != text:
            lost = len(STAGE.findall(text)) - len(STAGE.findall(whole))
            print(f"run: dvc.lock was half written: what it said last, of {lost} stages, is made anew", file=sys.stderr)
            fresh = LOCK.with_suffix(".new")
            fresh.write_text(whole, encoding="utf-8")
            fresh.replace(LOCK)
    else:
        LOCK.unlink(missing_ok=True)


def _is_whole(text: str) -> bool:
    """Return whether a dvc.lock ends where a stage does: each of them ends with its outputs."""
    with suppress(yaml.YAMLError, KeyError, TypeError, IndexError, AttributeError):
        stages = yaml.load(text, yaml.CSafeLoader)["stages"]
        return "path" in list(stages.values())[-1]["outs"][-1]
    return False
