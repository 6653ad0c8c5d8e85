"""Which published tables stay, and what `python -m pipeline gc` takes away: old tables, unused cache, litter of kills.

Of each source the newest `publish.keep_newest` versions stay whole, and the last version of each month of as_of for
`publish.keep_months` months before the newest; what is current, what it was compared with and what the receipt names
stay always. A pruned version loses its table and report, never what a rebuild needs: its manifest, `inputs/` and
`scorer/`. Its note, pruned.json, is written first: a kill leaves a version that is whole or says that it is not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import IntegrityRefused, Problem
from pipeline import versions
from pipeline.stage import read_json, write_json

NEEDED = ("manifest.json", "inputs", "scorer", versions.PRUNED)  # by a rebuild
SCRATCH = ("data/publish/versions/.tmp-*", "data/ingest/.tmp-*", "data/publish/.current-*")


@dataclass(frozen=True)
class Version:
    """A published version: where it stands in the order of publication, its source and as_of (an ISO date)."""

    run_id: str
    source: str
    as_of: str
    order: int


def to_prune(every: list[Version], protected: set[str], *, keep_newest: int, keep_months: int) -> list[str]:
    """Return the run_ids whose tables the policy gives up, oldest first.

    every: all whole versions. protected: run_ids that stay whatever their age. A month is counted back from the newest
    as_of of the same source, so that the policy says the same whenever it is asked.
    """
    given_up = []
    for source in sorted({version.source for version in every}):
        ordered = sorted(
            (version for version in every if version.source == source), key=lambda each: (each.as_of, each.order)
        )
        last_of_month = {_month(version.as_of): version.run_id for version in ordered}
        first_month = _month(ordered[-1].as_of) - keep_months
        kept = protected | {version.run_id for version in ordered[-keep_newest:]}
        kept |= {run_id for month, run_id in last_of_month.items() if month > first_month}
        given_up += [version.run_id for version in ordered if version.run_id not in kept]
    return given_up


def _month(as_of: str) -> int:
    """Return months since year 0."""
    return int(as_of[:4]) * 12 + int(as_of[5:7])


def standing() -> list[Version]:
    """Return the versions whose table is there, in the order in which they became current (never: before all)."""
    order = {entry["run_id"]: position for position, entry in enumerate(versions.history(), start=1)}
    found = []
    for folder in versions.folders():
        if (folder / versions.PRUNED).exists():
            continue
        try:
            manifest = read_json(folder / "manifest.json")
            facts = (str(manifest["source"]), str(manifest["as_of"]))
        except (OSError, ValueError, KeyError, TypeError):
            stated = "a readable manifest that names source and as_of"
            raise IntegrityRefused(
                Problem(str(folder), stated, "none", "Restore it from a copy, or remove the folder.")
            ) from None
        found.append(Version(folder.name, *facts, order.get(folder.name, 0)))
    return found


def protected() -> set[str]:
    """Return the run_ids that a reader or the next run relies on."""
    named: set[Any] = {versions.CURRENT.readlink().name} if versions.CURRENT.is_symlink() else set()
    named |= {read_json(path).get("run_id") for path in (versions.RECEIPT, versions.WATCHED) if path.exists()}
    named |= {last["run_id"] for source in {entry["source"] for entry in versions.history()}
              if (last := versions.newest(source))}  # fmt: skip
    for run_id in list(named):
        manifest = versions.VERSIONS / str(run_id) / "manifest.json"
        if manifest.exists():
            stated = read_json(manifest)
            named |= {stated.get("compared_with"), (stated.get("watch") or {}).get("base")}
    return {str(run_id) for run_id in named if run_id}


def prune(folder: Path) -> int:
    """Take a version's table and report away; return the bytes freed. Called again after a kill, it ends its work."""
    given_up = [path for path in versions.files_of(folder) if path.relative_to(folder).parts[0] not in NEEDED]
    note = folder / versions.PRUNED
    if not note.exists():
        write_json(note, {"pruned": [path.relative_to(folder).as_posix() for path in given_up]})
        versions.sync_tree(folder)
    freed = sum(path.stat().st_size for path in given_up)
    for path in given_up:
        path.unlink()
    for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
    return freed


def collect(*, keep_newest: int, keep_months: int, dry_run: bool) -> int:
    """Prune tables by the policy, then the DVC cache of what no commit's lock and no run of here needs; return 0.

    MLflow's runs and the tuning journals are not touched: they are the record of what was tried.
    """
    every = standing()
    halves = [folder for folder in versions.folders() if (folder / versions.PRUNED).exists()]
    for folder in halves if not dry_run else []:
        prune(folder)
    chosen = to_prune(every, protected(), keep_newest=keep_newest, keep_months=keep_months)
    freed = 0
    for run_id in chosen:
        folder = versions.VERSIONS / run_id
        if not dry_run:
            freed += prune(folder)
        stated = read_json(folder / "manifest.json")
        told = (
            "a customer was erased from it, so nothing brings it back" if stated.get("erased")
            else "`watch` made it, so a copy alone brings it back" if stated.get("watch")
            else "`rebuild` brings it back"
        )  # fmt: skip
        print(f"gc: {run_id} {'would be' if dry_run else 'was'} pruned; {told}")
    litter = [path for pattern in SCRATCH for path in Path().glob(pattern)]
    for path in litter if not dry_run else []:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    stay = f"the newest {keep_newest} of a source and the last of a month for {keep_months} months stay"
    print(
        f"gc: tables of {len(chosen)} of {len(every)} versions, {freed / 2**20:.1f} MiB; {len(litter)} scratch folders;"
        f" {len(halves)} were pruned before; {stay}"
    )
    return _cache(dry_run=dry_run)


def _cache(*, dry_run: bool) -> int:
    """Let DVC drop what neither the workspace nor a commit's lock names."""
    command = [
        str(Path(sys.executable).parent / "dvc"),
        "gc",
        "--workspace",
        "--all-commits",
        "--all-experiments",
        "--force",
        "--quiet",
    ]
    if not Path(".dvc/cache").exists():
        print("gc: no DVC cache here")
        return 0
    before = _size(Path(".dvc/cache"))
    code = subprocess.run([*command, *(["--dry"] if dry_run else [])], check=False).returncode
    print(f"gc: DVC cache {before / 2**20:.1f} MiB, now {_size(Path('.dvc/cache')) / 2**20:.1f} MiB")
    return 1 if code else 0


def _size(folder: Path) -> int:
    """Return the bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
