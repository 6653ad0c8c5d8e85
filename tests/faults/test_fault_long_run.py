"""36 months after the first sixty, delivered one after another; every table that was published comes back by its id.

Deliveries are late in part, restated, doubled, empty or missing. The first run and one rebuild happen by the command
line; the months between by the same stages, each in a process of its own, forked from one that has imported what they
need, since importing is most of a small month's time. FAULT_MONTHS=4 is a short sample.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_ground import QUICK, tree
from workspaces import ROOT, Workspace, copy_project

from pipeline import simulate

MONTHS = int(os.environ.get("FAULT_MONTHS", "36"))
FIRST = 60
VERSIONS = Path("data/publish/versions")
CUSTOMERS = 200
TABLES = ("customers", "credits", "statements", "transactions")  # few features: the months are what is tried
KEEP_NEWEST, KEEP_MONTHS = 3, 6
TWISTS = ("late", "restated", "missing", "duplicate", "empty", "as it should be")
STAGES = (
    "ingest", "observe", "featurise", "score", "explain", "decide", "worklist", "monitor", "report", "publish",
)  # fmt: skip
TRAINED = ("featurise/training", "select", "tune", "train", "calibrate", "evaluate", "promote/champion")
TOTAL = {"movements": "value", "receipts": "paid"}

WARM = """
import contextlib, importlib, json, os, sys, traceback
for name in ("ibis", "ibis.backends.duckdb", "duckdb", "lightgbm", "mlflow", "mlflow.pyfunc", "numpy", "openpyxl", "pandas",
             "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet", "scipy.stats", "scipy.special", "jinja2", "sqlglot",
             "pipeline", "pipeline.rebuild", *(f"pipeline.{stage}" for stage in json.loads(sys.argv[1]))):
    importlib.import_module(name)
from pipeline import rebuild, versions
from pipeline.stage import execute

def fork(work, log):
    child = os.fork()
    if child:
        _, status, used = os.wait4(child, 0)
        with open(log, "a") as told:
            print(f"long run: {used.ru_utime + used.ru_stime:.1f} s of CPU", file=told)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = work()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

def stage(name, folder):
    os.chdir(folder)
    execute(name, importlib.import_module("pipeline." + name).main)

def months(stages, folder, log):
    for name in stages:
        code = fork(lambda: stage(name, folder), log)
        if code:
            return code
    return 0

def rebuilt(run_id, folder, log):
    os.chdir(folder)
    def run_stages(project, source):
        def written():
            from pipeline import publish
            os.chdir(project)
            execute("publish", publish.write)
        for name in rebuild.STAGES:
            if fork(lambda: stage(name, project), log):
                raise SystemExit(70)
        if fork(written, log):
            raise SystemExit(70)
    rebuild._run_stages = run_stages
    for other in ("DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(other, None)
    return rebuild.bring_back(run_id)

for line in sys.stdin:
    asked = json.loads(line)
    if "rebuild" in asked:
        code = fork(lambda: rebuilt(asked["rebuild"], asked["folder"], asked["log"]), asked["log"])
    else:
        code = months(asked["stages"], asked["folder"], asked["log"])
    print(json.dumps({"code": code}), flush=True)
"""


@contextmanager
def warm(folder: Path) -> Iterator[Any]:
    """Yield a function that runs stages in the folder, or a rebuild, and returns the exit code."""
    log = folder / ".run/long.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_TRACKING"))}
    with subprocess.Popen(
        [sys.executable, "-c", WARM, json.dumps(STAGES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    ) as server:  # fmt: skip
        assert server.stdin
        assert server.stdout

        def ask(**what: Any) -> int:
            server.stdin.write(json.dumps({"folder": str(folder), "log": str(log)} | what) + "\n")  # type: ignore[union-attr]
            server.stdin.flush()  # type: ignore[union-attr]
            return int(json.loads(server.stdout.readline())["code"])  # type: ignore[union-attr]

        try:
            yield ask
        finally:
            server.stdin.close()


class Months:
    """What the lender has, month by month, and how it reaches the folder of deliveries."""

    def __init__(self, made: Path, raw: Path, draw: Any) -> None:
        self.made, self.raw, self.draw = made, raw, draw
        self.names = sorted(path.name for path in made.iterdir())
        self.waiting: dict[str, list[list[str]]] = {}  # table -> rows that a later delivery brings
        self.held_back: list[str] = []  # whole deliveries that did not come
        self.heads: dict[str, list[str]] = {}  # of every table read so far: not every month has each

    def rows(self, month: str) -> dict[str, list[list[str]]]:
        """Return table -> header and rows of a month."""
        found = {
            path.stem: list(csv.reader(io.StringIO(path.read_text())))
            for path in sorted((self.made / month).glob("*.csv"))
        }
        self.heads |= {table: rows[0] for table, rows in found.items()}
        return found

    def deliver(self, month: str, name: str, tables: dict[str, list[list[str]]]) -> None:
        """Write a delivery with the manifest that states it."""
        folder = self.raw / name
        folder.mkdir(parents=True)
        stated = {}
        for table, rows in tables.items():
            text = "".join(",".join(row) + "\n" for row in rows)
            (folder / f"{table}.csv").write_text(text)
            stated[f"{table}.csv"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "rows": len(rows) - 1}
        on = json.loads((self.made / month / "manifest.json").read_text())["delivered_on"]
        facts = {"delivered_on": on, "complete": True, "files": stated}
        (folder / "manifest.json").write_text(json.dumps(facts))

    def come(self, month: str, how: str) -> None:
        """Let a month come as it comes, with what waited from those before."""
        tables = self.rows(month)
        if how == "missing":
            self.held_back.append(month)
            return
        for earlier in self.held_back:
            self.deliver(earlier, earlier, self.rows(earlier))
        self.held_back = []
        for table, rows in self.waiting.items():
            tables.setdefault(table, [self.heads[table]]).extend(rows)
        self.waiting = {}
        if how == "empty":
            self.waiting = {table: rows[1:] for table, rows in tables.items()}
            tables = {table: rows[:1] for table, rows in tables.items()}
        if how == "late":
            moved = [tables["movements"].pop(self.draw.randrange(1, len(tables["movements"]))) for _ in range(6)]
            self.waiting["movements"] = moved
        if how == "restated":
            place = tables["month_ends"][0].index("outstanding")
            again = [list(row) for row in self.draw.sample(tables["month_ends"][1:], 4)]
            for row in again:
                row[place] = f"{float(row[place] or 0) + 17.25:.2f}"
            self.waiting["month_ends"] = again
        self.deliver(month, month, tables)
        if how == "duplicate":
            shutil.copytree(self.raw / month, self.raw / f"{month}-again")


@pytest.fixture
def lender_of_years(tmp_path: Path, draw: Any) -> tuple[Workspace, Months]:
    """A lender of sixty months, published by the command line, and the months to come."""
    workspace = copy_project(tmp_path / "project")
    made, truth = tmp_path / "made", tmp_path / "truth"
    made.mkdir()
    truth.mkdir()
    settings = simulate.Params(seed=11, customers=CUSTOMERS, months=FIRST + MONTHS)
    simulate.run(settings, made, truth)
    mapping = yaml.safe_load((workspace.folder / "data/sources/simulated.yaml").read_text())
    mapping |= {"name": "lender", "live_since": "2026-01-01"}
    mapping["tables"] = {name: mapping["tables"][name] for name in TABLES}
    (workspace.folder / "data/sources/lender.yaml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    months = Months(made, workspace.folder / "data/raw/lender", draw)
    for month in months.names[:FIRST]:
        months.deliver(month, month, months.rows(month))
    # an empty month shifts what a gate looks at; whether gates refuse is tried elsewhere
    limits = {"population_change": {"stop": 99}, "score_psi": {"stop": 99}, "auc": {"stop": 0.0}}
    workspace.set_params(
        {
            **QUICK, "source": "lender", "train": {"until": "2026-01-01", "seeds": 1},
            "featurise": {"windows_months": [3]}, "observe": {"snapshot_months": 6},
            "publish": {"keep_newest": KEEP_NEWEST, "keep_months": KEEP_MONTHS}, "monitor": {"limits": limits},
        }
    )  # fmt: skip
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["add", "-A"], ["commit", "-qm", "the lender"]):
        subprocess.run([*git, *command], cwd=workspace.folder, check=True, capture_output=True)
    done = workspace.run("python", "-m", "pipeline", "run", timeout=3000)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return workspace, months


def current(folder: Path) -> Path:
    return (folder / "data/publish/current").resolve()


def comparable(version: Path) -> dict[str, str]:
    """Return a version's files by hash, but for DuckDB's, which is never the same twice, and what states its hash."""
    return {
        name: digest for name, digest in tree(version).items() if name not in ("bellwether.duckdb", "manifest.json")
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.fault("D5", "D6", "A10", "A12")
def test_every_table_of_years_of_deliveries_comes_back_byte_for_byte(lender_of_years: tuple[Workspace, Months]) -> None:
    workspace, months = lender_of_years
    folder, data = workspace.folder, workspace.folder / "data"
    published = {current(folder).name: comparable(current(folder))}
    tables = {current(folder).name: (current(folder) / "scored_customers.parquet").read_bytes()}
    trained = {name: tree(data / name) for name in TRAINED}
    as_ofs = [json.loads((current(folder) / "manifest.json").read_text())["as_of"]]
    log = folder / ".run/long.log"
    with warm(folder) as ask:
        for number, month in enumerate(months.names[FIRST:]):
            how = TWISTS[number % len(TWISTS)]
            months.come(month, how)
            before = current(folder).name
            code = ask(stages=STAGES)
            assert code == 0, (month, how, log.read_text()[-3000:])
            version = current(folder)
            manifest = json.loads((version / "manifest.json").read_text())
            if how == "missing":
                assert version.name == before, "nothing came, and another table is published"
            else:
                assert version.name not in published, (month, how)
                assert manifest["as_of"] == str(dt.date.fromisoformat(f"{month}-28") + dt.timedelta(days=4))[:8] + "01"
                published[version.name] = comparable(version)
                tables[version.name] = (version / "scored_customers.parquet").read_bytes()
                as_ofs.append(manifest["as_of"])
            if number % 6 == 5:
                retained(workspace, published)
        assert {name: tree(data / name) for name in TRAINED} == trained, "a delivery retrained, or moved the champion"
        assert as_ofs == sorted(set(as_ofs))
        retained(workspace, published)
    everything_comes_back(workspace, published, tables, folder.parent)
    told = log.read_text()
    assert "Traceback" not in told
    quality = json.loads((data / "ingest/quality.json").read_text())["tables"]
    assert quality["transactions"]["blocks"][0]["deduplicated"] > 0 or MONTHS < 4
    assert quality["statements"]["blocks"][0]["replaced"] >= 0


def retained(workspace: Workspace, published: dict[str, dict[str, str]]) -> None:
    """Prune, and hold what is left to the policy: so many whole tables, and of the others what a rebuild needs."""
    done = workspace.pipeline("gc")
    assert done.returncode == 0, done.stdout + done.stderr
    versions = workspace.folder / "data/publish/versions"
    whole = [name for name in published if (versions / name / "scored_customers.parquet").exists()]
    # the newest, the last of each of the newest months, what is current and what that was compared with
    assert len(whole) <= KEEP_NEWEST + KEEP_MONTHS + 2
    assert len(whole) >= min(len(published), KEEP_NEWEST)
    assert {path.name for path in versions.iterdir()} == set(published)
    for name, files in published.items():
        held = {path.name for path in (versions / name).iterdir()}
        if name not in whole:
            assert held == {"manifest.json", "inputs", "scorer", "pruned.json"}
        else:
            assert comparable(versions / name) == files, "an old table changed"
    largest = max(size(versions / name) for name in whole)
    assert size(versions) <= len(whole) * largest + (len(published) - len(whole)) * largest * 0.5


def everything_comes_back(
    workspace: Workspace, published: dict[str, dict[str, str]], tables: dict[str, bytes], scratch: Path
) -> None:
    """Give up every table and rebuild it from its id: half in each of two copies, the newest by the command line."""
    names = list(published)
    half = len(names) // 2
    parts = {scratch / "copy-0": names[:half], scratch / "copy-1": names[half:-1]}
    for copy in parts:
        shutil.copytree(workspace.folder, copy, symlinks=True)
        for name in names[:-1]:
            give_up(copy, name)
    # the first of the second half was compared with a table that the other copy is about to rebuild: here it is a copy
    before = scratch / "copy-1" / VERSIONS / names[half - 1]
    (before / "scored_customers.parquet").write_bytes(tables[before.name])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda copy: rebuilt_in(copy, parts[copy], published), parts))
    give_up(workspace.folder, names[-1])
    link = (workspace.folder / "data/publish/current").readlink()
    command = workspace.pipeline("rebuild", names[-1])
    assert command.returncode == 0, command.stdout[-2000:] + command.stderr[-2000:]
    assert comparable(workspace.folder / VERSIONS / names[-1]) == published[names[-1]]
    assert (workspace.folder / "data/publish/current").readlink() == link


def give_up(folder: Path, name: str) -> None:
    """Take away what pruning takes away of a version, where it has not yet: all but what a rebuild needs."""
    version = folder / VERSIONS / name
    if not (version / "pruned.json").exists():
        (version / "pruned.json").write_text("{}")
        for path in version.iterdir():
            if path.name not in ("manifest.json", "inputs", "scorer", "pruned.json"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not (version / "scored_customers.parquet").exists()


def rebuilt_in(copy: Path, names: list[str], published: dict[str, dict[str, str]]) -> None:
    """Rebuild versions in a copy of the workspace, oldest first, and compare each with what was published."""
    with warm(copy) as ask:
        for name in names:
            code = ask(rebuild=name)
            assert code == 0, (name, (copy / ".run/long.log").read_text()[-3000:])
            assert comparable(copy / VERSIONS / name) == published[name], name
