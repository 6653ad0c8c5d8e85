"""Where a customer stands in a workspace: every file that names him by what an erasure does about it, and the models.

Nothing is written here. Raw files are looked at through links; git's own objects by the commits of the overrides alone.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from pipeline import bundle, run, tombstones, versions
from pipeline.params import STAGES
from pipeline.publish import PREVIEW
from pipeline.traces import Trace, files_below, named

ORIGINS = (Path("data/raw"), Path("data/simulate"))  # what the data is made of: listed, never written
KEPT = ("simulate", "promote", "publish")  # stages whose folders are not made anew as a whole
MADE = [Path("data") / stage for stage in STAGES if stage not in KEPT]
CACHE = (Path(".dvc/cache"), Path(".dvc/tmp"), PREVIEW)
STORE = Path("mlruns")
OVERRIDES, CONTACTS = Path("data/overrides.csv"), Path("data/contacts.csv")
FIRST, LAST = date(1950, 1, 1), date(2100, 1, 1)  # of dates on which a customer may have been observed


@dataclass
class Found:
    """Where a customer stands: files by what is done about them, models by version, credits by their identifiers."""

    made: list[Path] = field(default_factory=list)  # stages' folders and cache: removed, made anew
    versions: dict[str, list[Path]] = field(default_factory=dict)
    store: list[Path] = field(default_factory=list)  # MLflow
    records: list[Path] = field(default_factory=list)  # of runs, overrides, tables that people asked for
    raw: list[Path] = field(default_factory=list)
    git: list[str] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)  # nobody but a person can judge these

    @property
    def any(self) -> bool:
        """Tell whether anything but git names the customer."""
        return any((self.made, self.versions, self.store, self.records, self.raw, self.left))


def survey(trace: Trace, owned: list[str]) -> Found:
    """Search every file of the workspace, and sort those that name the customer; raw ones that name his credits too."""
    found, known = Found(), tracked()
    leave = (*(Path(each) for each in ORIGINS), tombstones.FOLDER)
    for path in files_below(Path(), leave=leave):
        if path == run.STATE / "lock" or not named(trace, path):
            continue
        if any(path.is_relative_to(folder) for folder in (*MADE, *CACHE)):
            found.made.append(path)
        elif path.is_relative_to(versions.VERSIONS) and len(path.parts) > 4:
            found.versions.setdefault(path.parts[3], []).append(path)
        elif path.is_relative_to(STORE):
            found.store.append(path)
        elif path in (OVERRIDES, CONTACTS) or path.is_relative_to(run.STATE) or _askable(path, known):
            found.records.append(path)
        elif path.as_posix() in known:
            found.git.append(path.as_posix())
        else:
            found.left.append(path)
    told = (trace, *map(Trace, owned))
    found.raw = [path for origin in ORIGINS for path in _through_links(origin) if any(named(t, path) for t in told)]
    found.git += [f"commit {each}" for each in _commits(trace.identifier)]
    return found


def _askable(path: Path, known: set[str]) -> bool:
    """Tell whether a file is a table or a log that somebody had written here, whose rows can be told apart."""
    ours = path.parts[0] == "data" and path.parts[1] in ("promote", "publish", "journal", "sources", "policy")
    rows = path.suffix in (".csv", ".parquet", ".jsonl", ".log", ".txt", ".err", ".out")
    return rows and not ours and path.as_posix() not in known


def _through_links(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order, through links."""
    for top, inner, names in os.walk(folder, followlinks=True):
        inner.sort()
        yield from (Path(top) / each for each in sorted(names) if (Path(top) / each).is_file())


def _git(*arguments: str) -> str:
    """Return what a git command prints; nothing outside git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def tracked() -> set[str]:
    """Return the files that git knows."""
    return set(filter(None, _git("ls-files", "-z").split("\0")))


def _commits(identifier: str) -> list[str]:
    """Return the commits that brought or took a line of a table of people that names the customer."""
    of_people = (OVERRIDES.as_posix(), CONTACTS.as_posix())
    return _git("log", "--all", "--format=%h", f"-S{identifier}", "--", *of_people).split()


def credits_of(customer: str) -> list[str]:
    """Return the credits that are this customer's alone, by the tables that ingest left; none where there are none."""
    parts = "data/ingest/tables/credits/*/part.parquet"
    if not any(Path().glob(parts)):
        return []
    rows = duckdb.execute(
        f"SELECT credit_id FROM read_parquet('{parts}', hive_partitioning = false) GROUP BY credit_id "
        "HAVING bool_and(customer_id = ?) ORDER BY 1", [customer],
    ).fetchall()  # fmt: skip
    return [row[0] for row in rows]


def trained_by(customer: str) -> list[dict[str, Any]]:
    """Return the stored models that rows of the customer trained: source, version, whether champion, MLflow's runs.

    A bundle names its train rows by the hash of customer and date alone, so every date is tried.
    """
    days = (FIRST + timedelta(days=each) for each in range((LAST - FIRST).days))
    keys = {digest_of(f"{customer}|{day}".encode()).hexdigest() for day in days}
    models = []
    for file in sorted(bundle.BUNDLES.glob("*/*/trained_on.parquet")):
        trained = pq.read_table(file, columns=["key"])["key"].to_pylist()
        rows = sum(key in keys for key in trained)
        if rows:
            source, version = file.parts[-3:-1]
            champion = bundle.champion_version(source) == version
            models.append({"source": source, "model_version": version, "rows": rows, "champion": champion,
                           "mlflow_runs": _runs_of(version)})  # fmt: skip
    return models


def _runs_of(version: str) -> list[str]:
    """Return the ids of the runs in MLflow's own store that carry a model version."""
    store = STORE / "mlflow.db"
    if not store.exists():
        return []
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(store.resolve().as_uri() + "?mode=ro", uri=True, timeout=10)
        try:
            asked = "SELECT DISTINCT run_uuid FROM tags WHERE key = 'bellwether.candidate' AND value = ? ORDER BY 1"
            return [row[0] for row in connection.execute(asked, (version,)).fetchall()]
        finally:
            connection.close()
    return []
