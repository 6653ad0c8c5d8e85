"""F8: many events from CSV to the published table, the memory of the run and of all its processes held under 2 GiB.

FAULT_EVENTS says how many (default 50,000,000: some ten minutes and 20 GB of disk; 2,000,000 take a minute or two).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fault_book import whole
from fault_volume import PARAMS, Watch, lay_out
from workspaces import copy_project

fault = pytest.mark.fault
EVENTS = int(os.environ.get("FAULT_EVENTS", "50000000"))
MOST = 2 << 30


@fault("F8")
def test_many_events_are_published_in_two_gibibytes(tmp_path, capsys):
    if shutil.disk_usage(tmp_path).free < 400 * EVENTS:
        pytest.skip(f"needs {400 * EVENTS >> 30} GiB of disk")
    customers = min(20_000, max(1000, EVENTS // 500))
    workspace = copy_project(tmp_path / "project")
    size = lay_out(workspace.folder, EVENTS, customers)
    workspace.set_params(PARAMS)
    began = time.monotonic()
    with (workspace.folder / "log.txt").open("w") as log:
        child = subprocess.Popen(
            [str(workspace.folder / ".venv/bin/python"), "-m", "pipeline", "run"],
            cwd=workspace.folder,
            stdout=log,
            stderr=log,
        )
        watch = Watch(child.pid)
        code = child.wait()
        watch.end()
    said = (workspace.folder / "log.txt").read_text()
    with capsys.disabled():
        peaks = ", ".join(f"{stage or 'between'} {peak >> 20:,}" for stage, peak in watch.peaks.items())
        print(f"\n{EVENTS:,} events, {size >> 20:,} MiB of CSV: {time.monotonic() - began:.0f} s; MiB: {peaks} "
              f"({watch.samples:,} samples)")  # fmt: skip
    assert code == 0, said[-3000:]
    assert watch.samples > 20
    assert max(watch.peaks.values()) < MOST, watch.peaks
    account = json.loads((workspace.folder / "data/ingest/quality.json").read_text())["tables"]["transactions"]
    assert sum(block["read"] for block in account["blocks"]) == account["kept"] == EVENTS
    assert (
        pq.read_metadata(workspace.folder / "data/publish/current/scored_customers.parquet").num_rows > customers // 2
    )
    whole(Path(workspace.folder / "data/publish"))
    shutil.rmtree(workspace.folder / "data")
