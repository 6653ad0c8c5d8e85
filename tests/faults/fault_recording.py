"""A plugin of pytest that notes what became of every test of a fault: `-p fault_recording`, as `make test-faults` does.

A test says which cases of the catalogue it is of by `@pytest.mark.fault("A1", ...)`, wherever it stands. Outcomes are
gathered in .run/faults.json (or FAULT_RESULTS), test by test, so that a part can be run again; `fault_table.py` makes
the table of them. An expected failure is a fault that is not held.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

SEED = "FAULT_SEED"
# Files that take longest, first: each goes to one of the two processes as a whole, and what is short fills the gaps.
LONGEST = ("test_fault_run_kills.py", "test_fault_corruption.py", "test_fault_long_run.py", "test_fault_volume.py",
           "test_fault_kills.py", "test_whole_run.py", "test_fault_writes.py")  # fmt: skip


def results_file(root: Path) -> Path:
    """Return where outcomes are kept."""
    return Path(os.environ.get("FAULT_RESULTS", root / ".run" / "faults.json"))


def pytest_report_header() -> str:
    """Print the one seed from which every test of a fault draws."""
    return f"faults: {SEED}={os.environ.get(SEED, '1')} (set it to replay)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note each test's cases; with FAULT_SAMPLE=1 keep the first variant of every test, for a quick look."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if os.environ.get("FAULT_SAMPLE") == "1":
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
        items[:] = [item for item in items if item in first.values()]
    for item in items:
        cases = {case for mark in item.iter_markers("fault") for case in mark.args}
        if cases:
            item.user_properties.append(("fault", sorted(cases)))


class Recorder:
    """Gathers outcomes in the process that directs the others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, list] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cases = dict(report.user_properties).get("fault")
        if not cases:
            return
        before = self.found.get(report.nodeid, [cases, "passed"])[1]
        outcome = "failed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        worst = min(before, outcome, key=("failed", "skipped", "passed").index)
        self.found[report.nodeid] = [cases, worst]

        if report.when == "teardown":
            self.write()

    def write(self) -> None:
        """Add what was found so far, so that a run which is cut short still counts."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(known | self.found, indent=0, sort_keys=True))
        fresh.replace(self.path)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(results_file(config.rootpath)), "fault-recorder")
