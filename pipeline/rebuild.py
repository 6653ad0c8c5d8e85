"""`python -m pipeline rebuild <run_id>`: an old version byte for byte, from its manifest.

The version's commit is laid out in a scratch folder, over it the version's inputs (parameters, mapping, policy,
overrides, verdict, figures of the training) and scorer, the deliveries that its ledger lists and the table that it was
compared with. The stages from ingest to report run there without those that train, then publish's writing. Only if
every file comes out with the SHA-256 of the manifest are they put in place. DuckDB's file never has the same bytes
twice: it is compared by content, and the manifest then states the new file's hash and, under `rebuilt`, the first.
`current` does not change.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import duckdb

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from pipeline import healing, tombstones, versions
from pipeline.fingerprint import sha256
from pipeline.run import STATE, owned
from pipeline.stage import RECORD, read_json, resources, write_json

STAGES = ("ingest", "observe", "featurise", "score", "explain", "decide", "worklist", "monitor", "report")
WRITE = "from pipeline import publish, stage; stage.execute('publish', publish.write)"
KEPT = ("inputs", "scorer")  # what pruning leaves, taken as it is
DATABASE = "bellwether.duckdb"
TABLE = "scored_customers.parquet"
RAW = Path("data/raw")


def bring_back(run_id: str) -> int:
    """Rebuild a version and put it back in place; return 0. A version that stands whole is left alone.

    Refuses an unknown version (exit code 4), and what cannot be or was not the same bytes (exit code 7), with a list.
    """
    version = versions.VERSIONS / run_id
    if not re.fullmatch(r"[0-9a-f]{16}", run_id) or not (version / "manifest.json").exists():
        known = ", ".join(sorted(path.parent.name for path in versions.VERSIONS.glob("[!.]*/manifest.json"))) or "none"
        raise ConfigurationRefused(
            Problem(f"version {run_id}", f"one whose manifest is kept ({known})", "another", "Name one of them.")
        )
    with resources("rebuild"), _ended_by_signals(), owned():
        healing.heal()
        if not versions.faults(version):
            print(f"rebuild: {version} stands, every file as its manifest states")
            return 0
        manifest = read_json(version / "manifest.json")
        _check_kept(version, manifest)
        lock = _other_pins(version)
        if lock:
            print(f"rebuild: this environment is not that of the version: {lock}", file=sys.stderr, flush=True)
        with _laid_out(version, manifest) as project:
            _run_stages(project, manifest["source"])
            made = project / versions.VERSIONS / f".tmp-{run_id}"
            _compare(project, made, version, manifest, lock)
            _put_in_place(made, version, manifest)
    print(
        f"rebuild: {version} stands again, {len(manifest['files'])} files as its manifest states; current is as it was"
    )
    return 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal end the stage that runs, and this process by 128 + its number."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_kept(version: Path, manifest: dict[str, Any]) -> None:
    """Refuse (exit code 7) a version of which something that a rebuild needs was not kept, changed or is not here."""
    where = f"version {version.name}"
    if manifest.get("erased"):
        found = f"one that can be rebuilt {manifest['erased']['rebuild']}"
        raise IntegrityRefused(Problem(where, "as it was published", found, "Run the pipeline for a table of today."))
    if manifest.get("watch"):
        found = f"one that `watch` made of {manifest['watch']['base']}, delivery by delivery"
        remedy = "Rebuild that one, or use a copy."
        raise IntegrityRefused(Problem(where, "published by a run", found, remedy))
    kept = [name for name in manifest["files"] if name.split("/")[0] in KEPT]
    if "inputs/data/promote/verdict.json" not in kept or "uncommitted" not in manifest:
        found = "a manifest of before versions could be rebuilt"
        raise IntegrityRefused(Problem(where, "published with all that a rebuild needs", found, "Use a copy of it."))
    problems = [
        Problem(f"{version}/{name}", "the bytes of its manifest", "other bytes or none", "Restore it from a copy.")
        for name in kept
        if not (version / name).is_file() or sha256(version / name) != manifest["files"][name]
    ]
    changed, commit = manifest["uncommitted"], manifest["git_commit"].partition("+")[0]
    remedy = "Use a copy of the version; commit before the next publication."
    if changed is None:
        problems.append(Problem(where, "published from a commit", "a folder without git", remedy))
    elif changed:
        found = f"code that was not committed: {', '.join(changed)}"
        problems.append(Problem(where, f"published from the code of commit {commit[:12]}", found, remedy))
    elif not _git("cat-file", "-e", f"{commit}^{{commit}}"):
        problems.append(Problem(f"commit {commit}", "in this repository", "no such commit", "Fetch it (git fetch)."))
    problems += _faults_of_deliveries(version, manifest["source"])
    compared = manifest["compared_with"]
    if compared is not None and not _sound(versions.VERSIONS / compared, TABLE):
        remedy = f"Run `python -m pipeline rebuild {compared}` first."
        problems.append(Problem(f"version {compared}", "there, for this one was compared with it", "no table", remedy))
    if problems:
        raise IntegrityRefused(problems)


def _sound(folder: Path, name: str) -> bool:
    """Return whether a file of a version is there with the bytes of its manifest."""
    manifest = folder / "manifest.json"
    file = folder / name
    return manifest.is_file() and file.is_file() and sha256(file) == read_json(manifest)["files"].get(name)


def _git(*arguments: str) -> bool:
    """Return whether a git command succeeds."""
    return subprocess.run(["git", *arguments], capture_output=True, check=False).returncode == 0


def _faults_of_deliveries(version: Path, source: str) -> list[Problem]:
    """Return which of the raw files of the version are missing or changed; those of `simulated` are made anew."""
    if source == "simulated":
        return []
    remedy = "Restore the delivery as it was."
    problems = []
    for name, digest in sorted(_ledger(version)["files"].items()):
        file = RAW / source / name
        if not file.is_file():
            problems.append(Problem(str(file), "there, as it was ingested", "no such file", remedy))
        elif sha256(file) != digest:
            problems.append(Problem(str(file), "as it was ingested", "other bytes", remedy))
    return problems


def _ledger(version: Path) -> dict[str, Any]:
    """Return the account of the deliveries that a version was made of."""
    return dict(read_json(version / "inputs/data/ingest/ledger.json"))


def _other_pins(version: Path) -> str:
    """Return the packages whose pins in today's lock are not those of the version's, or nothing."""
    then, now = (
        dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
        for lock in (version / "inputs/requirements/run.lock", Path("requirements/run.lock"))
    )
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    return ", ".join(f"{name} {then.get(name, 'absent')} then, {now.get(name, 'absent')} now" for name in names)


@contextmanager
def _laid_out(version: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Yield a scratch folder with the project as it stood before the version's first stage."""
    with tempfile.TemporaryDirectory(prefix="rebuild-", dir=STATE) as scratch:
        project = Path(scratch).resolve()
        commit = manifest["git_commit"].partition("+")[0]
        archived = subprocess.run(["git", "archive", "--format=tar", commit], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
            archive.extractall(project, filter="data")
        shutil.copytree(version / "inputs", project, dirs_exist_ok=True)
        shutil.copytree(version / "scorer", project / "data/promote/scorer")
        stated = _ledger(version).get("tombstones")
        if stated is not None:
            _lay_tombstones(project, stated)
        (project / "data/ingest/ledger.json").unlink()  # it would explain outputs that are not there
        if manifest["source"] != "simulated":
            _link_deliveries(project, manifest["source"], _ledger(version))
        if manifest["compared_with"] is not None:
            _link_compared(project, manifest["source"], manifest["compared_with"])
        yield project


def _lay_tombstones(project: Path, stated: list[Any]) -> None:
    """Leave out whom the version left out: the tombstones that stood then, and the key."""
    stones = tombstones.load(stated[0])
    if stones is None or stones.stated() != stated:
        raise IntegrityRefused(
            Problem(
                str(tombstones.STONES), "those that the version was built with", "others", "Restore it from a copy."
            )
        )
    (project / tombstones.FOLDER).mkdir(mode=0o700, parents=True)
    tombstones.write_private(project / tombstones.KEY, stones.key)
    tombstones.write_private(project / tombstones.STONES, "".join(f"{line}\n" for line in stones.lines).encode())


def _returned(made: Path) -> bool:
    """Return whether the table that was made holds a customer who was erased since."""
    stones = tombstones.load()
    if stones is None or not (made / TABLE).is_file():
        return False
    known = sorted(stones.hashes[tombstones.CUSTOMERS])
    theirs = stones.sql(tombstones.CUSTOMERS, "customer_id")
    asked = f"select count(*) from read_parquet(?) where list_contains(?, {theirs})"
    with duckdb.connect() as connection:
        (count,) = connection.execute(asked, [str(made / TABLE), known]).fetchall()[0]
    return bool(count)


def _link_deliveries(project: Path, source: str, ledger: dict[str, Any]) -> None:
    """Link the raw files that the ledger lists, with what decides how each delivery is read, as it was stated then."""
    top = project / RAW / source
    for name in ledger["files"]:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).symlink_to((RAW / source / name).resolve())
    for name, (delivered_on, complete) in ledger["deliveries"].items():
        dated = delivered_on != "None"
        if dated or name != ".":
            rowless = [file for file in ledger.get("rowless", []) if ledger["homes"][file] == name]
            files = {str(Path(file).relative_to(name)): {"rows": 0} for file in rowless}
            stated = {"delivered_on": delivered_on if dated else None, "complete": complete, "files": files}
            write_json(top / name / "manifest.json", stated)


def _link_compared(project: Path, source: str, compared: str) -> None:
    """Let the scratch folder have published one version: that with which this one was compared."""
    place = project / versions.VERSIONS / compared
    place.mkdir(parents=True)
    (place / TABLE).symlink_to((versions.VERSIONS / compared / TABLE).resolve())
    as_of = read_json(versions.VERSIONS / compared / "manifest.json")["as_of"]
    entry = f'{{"source": "{source}", "as_of": "{as_of}", "run_id": "{compared}"}}\n'
    (project / versions.HISTORY).write_text(entry, encoding="utf-8")


def _run_stages(project: Path, source: str) -> None:
    """Run the stages that make the table and the report, and publish's writing; refuse (exit code 7) where one fails.

    Nothing outside is told: no tracking server, no sink, no experiment.
    """
    left_out = (RECORD, "MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    first = ("simulate",) if source == "simulated" else ()
    steps = [(stage, ["-m", f"pipeline.{stage}"]) for stage in (*first, *STAGES)] + [("publish", ["-c", WRITE])]
    for stage, arguments in steps:
        code = subprocess.run([sys.executable, *arguments], cwd=project, env=environment, check=False).returncode
        if code:
            found = f"exit code {code}, with the reason above"
            raise IntegrityRefused(
                Problem(f"stage {stage} of the rebuild", "as it ran at publication", found, "See what differs there.")
            )


def _compare(project: Path, made: Path, version: Path, manifest: dict[str, Any], lock: str) -> None:
    """Refuse (exit code 7) with a list of every file that is not as the manifest states."""
    lost = _ledger(version)["files"]
    here = read_json(project / "data/ingest/ledger.json")["files"]
    remedy = "Nothing was put in place. "
    remedy += f"The environment differs: {lock}." if lock else "The environment's lock is the same; the machine is not?"
    problems = [
        Problem(f"raw file {name}", "as it was ingested", "other bytes", remedy)
        for name in sorted(lost)
        if here.get(name) != lost[name]
    ]
    if not made.is_dir():
        other = ", ".join(path.name.removeprefix(".tmp-") for path in made.parent.glob(".tmp-*")) or "none"
        problems.append(Problem("table and report", f"those of {version.name}", f"those of {other}", remedy))
        raise IntegrityRefused(problems)
    if _returned(made):
        found = "a customer who was erased since"
        problems.append(Problem(f"version {version.name}", "without those who were erased", found, remedy))
    for name, digest in sorted(manifest["files"].items()):
        if name.split("/")[0] in KEPT:
            continue
        file = made / name
        same = file.is_file() and (_same_content(made) if name == DATABASE else sha256(file) == digest)
        if not same:
            found = "other bytes" if file.is_file() else "no such file"
            problems.append(Problem(f"{version}/{name}", "the bytes of its manifest", found, remedy))
    if problems:
        raise IntegrityRefused(problems)


def _same_content(made: Path) -> bool:
    """Return whether the DuckDB file holds the rows of the Parquet file beside it."""
    with duckdb.connect(str(made / DATABASE), read_only=True) as connection:
        parquet = "read_parquet('" + str(made / TABLE).replace("'", "''") + "')"
        (others,) = connection.execute(
            f"""select count(*) from ((from scored_customers except all from {parquet})
            union all (from {parquet} except all from scored_customers))"""
        ).fetchall()[0]
    return bool(others == 0)


def _put_in_place(made: Path, version: Path, manifest: dict[str, Any]) -> None:
    """Copy the files into the version, each whole; last the note goes that says the version is pruned.

    A kill in between leaves a version that is still pruned, and can be rebuilt again.
    """
    names = [name for name in manifest["files"] if name.split("/")[0] not in KEPT]
    for name in sorted(names, key=lambda name: (name == DATABASE, name)):
        target = version / name
        if name == DATABASE and sha256(made / name) != manifest["files"][name]:
            stated = manifest["files"] | {name: sha256(made / name)}
            first = manifest.get("rebuilt") or {name: manifest["files"][name]}
            fresh = version.with_name(f".tmp-manifest-{version.name}")
            write_json(fresh, manifest | {"files": stated, "rebuilt": first})
            versions.sync(fresh)
            fresh.replace(version / "manifest.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        half = version.with_name(f".tmp-file-{version.name}")
        shutil.copyfile(made / name, half)
        versions.sync(half)
        half.replace(target)
    versions.sync_tree(version)
    (version / versions.PRUNED).unlink(missing_ok=True)
    problems = versions.faults(version)
    if problems:
        raise IntegrityRefused(problems)
    versions.sync(version)
