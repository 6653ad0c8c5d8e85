"""dvc.yaml tells the whole truth: its stages, their code, their parameters, their folders; the rooms keep their rules."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import grimp
import pytest
import yaml

from pipeline.params import STAGES

ROOT = Path(__file__).parents[2]
FLOW = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# What a stage reads of params.yaml besides its own section, and why.
BESIDES = {
    "simulate": {"source"},  # writes nothing for another source
    "ingest": {"source", "as_of", "sources"},  # resolves as_of; stamps each section's override
    "observe": {"train.until"},  # outcomes are judged at the date where training ends
    "tune": {"source"},  # the journal is kept by source
    "calibrate": {"decide.policy"},  # which states the long-run default rate
    "promote": {"source"},
    "score": {"featurise.engine"},  # on Spark, executors score
    "explain": {"language", "featurise.engine"},
    "decide": {"language"},
    "worklist": {"language"},
    "monitor": {"source", "featurise.protected"},  # whom it compares for fairness
    "report": {"language"},
    "publish": {"source"},
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("pipeline", "models", "features", include_external_packages=True, cache_dir=None)


def modules_of(graph, stage: str) -> set[str]:
    """Every file of ours that importing the stage can execute: its imports, theirs, and the packages that hold them."""
    start = f"pipeline.{stage}"
    names = {start} | {
        m for m in graph.find_upstream_modules(start) if m.split(".")[0] in ("pipeline", "models", "features")
    }
    files = set()
    for name in names:
        for depth in range(1, name.count(".") + 2):
            path = ROOT.joinpath(*name.split(".")[:depth])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            files.add(file.relative_to(ROOT).as_posix())
    return files


def test_the_flow_is_the_seventeen_stages_in_order():
    assert tuple(FLOW["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_every_module_that_it_imports_and_the_lock(graph, stage):
    listed = {dep for dep in FLOW["stages"][stage]["deps"] if dep.endswith(".py")}
    wanted = modules_of(graph, stage)
    assert listed == wanted, f"deps of {stage} should hold\n" + "\n".join(f"      - {name}" for name in sorted(wanted))
    assert "requirements/run.lock" in FLOW["stages"][stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_module_one_section_one_folder(stage):
    entry = FLOW["stages"][stage]
    assert entry["cmd"] == f".venv/bin/python -m pipeline.{stage}"
    assert importlib.import_module(f"pipeline.{stage}").Params.section == stage
    assert set(entry["params"]) == {stage} | BESIDES.get(stage, set())
    outs = [out if isinstance(out, str) else next(iter(out)) for out in entry["outs"]]
    allowed = (f"data/{stage}",) if stage != "simulate" else ("data/simulate", "data/raw/simulated")
    assert outs
    assert all(
        out == folder or out.startswith(f"{folder}/") for out in outs for folder in allowed if stage != "simulate"
    )
    assert all(out.startswith(allowed) for out in outs)


@pytest.mark.parametrize("stage", STAGES[2:])
def test_a_stage_reruns_when_the_override_of_its_section_changes(stage):
    assert f"data/ingest/overrides/{stage}.json" in FLOW["stages"][stage]["deps"]


@pytest.mark.parametrize("stage", ["ingest", "promote", "publish"])
def test_state_that_outlives_a_run_is_kept_by_dvc(stage):
    assert all(next(iter(out.values())).get("persist") for out in FLOW["stages"][stage]["outs"])


@pytest.mark.fault("D5")
def test_training_does_not_depend_on_what_a_new_delivery_changes():
    """A new delivery rewrites ingest, observe and scoring/; select .. evaluate may read none of them.

    Overrides change with params.yaml alone; calibrate reads which policy a source names.
    """
    for stage in ("select", "tune", "train", "calibrate", "evaluate"):
        data = {dep for dep in FLOW["stages"][stage]["deps"] if dep.startswith("data/")}
        rewritten = {d for d in data if d.startswith(("data/ingest", "data/observe", "data/featurise"))}
        allowed = {"data/featurise/training", f"data/ingest/overrides/{stage}.json"}
        assert not rewritten - allowed - ({"data/ingest/overrides/decide.json"} if stage == "calibrate" else set())


def test_the_truth_is_read_by_monitor_alone():
    readers = {s for s in STAGES if any(str(d).startswith("data/simulate") for d in FLOW["stages"][s]["deps"])}
    assert readers == {"monitor"}


def test_imports_go_one_way(graph):
    for lower, uppers in {"features": ("models", "pipeline"), "models": ("pipeline",)}.items():
        for upper in uppers:
            assert not graph.find_shortest_chains(lower, upper), f"{lower} imports {upper}"


def test_only_tracking_imports_mlflow(graph):
    importers = set(graph.find_modules_that_directly_import("mlflow"))
    assert importers
    assert all(m.startswith("pipeline.tracking") for m in importers)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]


@pytest.mark.fault("D8", "G3")
def test_no_pickle_no_clock_and_no_room_that_says_nothing():
    banned_modules = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    clock = {"now", "today", "utcnow", "time_ns"}
    for path in tracked("features/*.py", "models/*.py", "pipeline/*.py"):
        assert path.stem not in {"utils", "util", "common", "helpers", "config", "misc"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned_modules & {alias.name.split(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned_modules, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and path.parts[-2] != "pipeline":
                assert node.func.attr not in clock, f"{path}: {node.func.attr}() reads the clock"


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"https?:|file:|index-url|find-links", text), f"{name} names a registry"
    blocks = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==(\S+)[^\n]*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    found = {package: version for package, version, _ in blocks}
    assert len(found) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)), "a pin without hashes"
    return found


def test_the_locks_are_hashes_only_and_the_test_lock_is_a_superset():
    run, test = pins("run.lock"), pins("test.lock")
    assert run.items() <= test.items()
    assert {"lightgbm", "scikit-learn", "pandas", "mlflow", "optuna", "shap", "dvc"} <= run.keys()


def test_every_output_that_dvc_keeps_is_ignored_at_the_top_where_no_kill_can_lose_the_line():
    """DVC writes and removes a .gitignore beside an output that git does not ignore already."""
    outs = [out if isinstance(out, dict) else {out: {}} for s in FLOW["stages"].values() for out in s.get("outs", [])]
    kept = [path for out in outs for path, how in out.items() if how.get("cache", True)]
    assert len(kept) > 20
    told = ["git", "check-ignore", "--no-index", "--verbose", *kept]
    lines = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == kept
    assert {line.partition(":")[0] for line in lines} == {".gitignore"}
