"""G9: what came later than the erasure: worklists, letters, contacts, what sync wrote, what waits for MLflow."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_ground import Shop
from test_fault_erasure import GONE, RUN, STAYS, lived_in, places_of  # noqa: F401  the fixture is used by its name

from pipeline import answers, desk_files, erase, letter, tracking, versions
from pipeline.sinks.interface import Outcome, Row
from pipeline.sinks.journal import Journal
from pipeline.tracking import spool

fault = pytest.mark.fault


def write_worklist(folder: Path) -> None:
    """Write a worklist in the forms in which one is published."""
    folder.mkdir(parents=True)
    table = pa.table({"customer_id": [GONE, STAYS], "why": ["late", "later"]})
    pq.write_table(table, folder / "worklist.parquet")
    answers.write(table, folder / "worklist.csv")
    desk_files.write_workbook(table, folder / "worklist.xlsx", "en")
    (folder / "worklist.ics").write_text(f"BEGIN:VEVENT\r\nSUMMARY:Contact: {GONE} (E1)\r\nEND:VEVENT\r\n")
    (folder / "summary.json").write_text('{"rows": 2}')


def strew_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the customer in every output that a workspace has besides those of the other tests."""
    write_worklist(Path("data/worklist"))
    version = versions.VERSIONS / RUN
    write_worklist(version / "worklist")
    facts = json.loads((version / "manifest.json").read_text())
    (version / "manifest.json").unlink()
    versions.write_manifest(version, **{name: value for name, value in facts.items() if name != "files"})
    for text in letter.TEXTS:
        Path("letters").mkdir(exist_ok=True)
        (Path("letters") / f"{text}.en.txt").write_text(f"Dear {GONE},\nyou owe us 4,711.00.\n")
    Path(".run/crm").mkdir(mode=0o700, parents=True, exist_ok=True)
    with Journal(Path(".run/crm/zoho.sqlite"), "account") as journal:
        for key, state in ((GONE, "done"), (STAYS, "done"), (GONE, "rejected")):
            journal.record([(Row(key, "d", {}, {}), Outcome(key, state, "1", "code", f"no such {key}"))])
    Path(".run/crm/zoho-rejected.csv").write_text(f"customer_id,code\n{GONE},1\n{STAYS},2\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(spool.RUN, "this")
    spool.FOLDER.mkdir(parents=True, exist_ok=True)
    spool.lose(spool.BUDGET)  # so that nobody is asked
    Path("worst.json").write_text(f'{{"worst": "{GONE}"}}')
    tracking.log_publication(
        source="shop", registry="bellwether", run_id="r" * 16, tags={}, params={}, metrics={},
        artifacts=(Path("worst.json"),), strict=False,
    )  # fmt: skip
    Path("worst.json").unlink()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@fault("G9")
@pytest.mark.sample
def test_the_later_outputs_name_him_no_more_and_keep_all_others(
    lived_in: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strew_later(monkeypatch)
    (entry,) = spool.waiting()
    named = places_of(GONE)
    for place in ("letters/letter.en.txt", "data/worklist/worklist.csv", ".run/crm/zoho.sqlite", ".run/crm/zoho-rejected.csv",
                  f"{entry}/artifacts/worst.json", f"data/publish/versions/{RUN}/worklist/worklist.ics"):  # fmt: skip
        assert any(name.startswith(place) for name in named), place
    assert erase.erase(GONE) == 0
    assert places_of(GONE) == []
    said = capsys.readouterr().out
    assert "the records that sync wrote to zoho" in said, "what lies in a CRM is for a person, and is told"
    assert not list(Path("letters").iterdir()), "a letter without his name is still about him"
    version = versions.VERSIONS / RUN
    assert not versions.faults(version)
    assert pq.read_table(version / "worklist/worklist.parquet")["customer_id"].to_pylist() == [STAYS]
    assert STAYS in (version / "worklist/worklist.csv").read_text()
    assert not (version / "worklist/worklist.xlsx").exists()
    assert Path(".run/crm/zoho-rejected.csv").read_text() == f"customer_id,code\n{STAYS},2\n"
    with sqlite3.connect(".run/crm/zoho.sqlite") as held:
        assert held.execute("select key from sent union select key from rejected").fetchall() == [(STAYS,)]
    assert spool.waiting(), "the figures of the run still wait"
