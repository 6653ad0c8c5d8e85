"""Versions and the link: whole or not at all, twice is once, an earlier as_of never replaces a later one."""

from __future__ import annotations

import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import IntegrityRefused
from pipeline import publish, versions


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    versions.VERSIONS.mkdir(parents=True)
    return tmp_path


def version(run_id: str, content: bytes = b"x") -> None:
    scratch = versions.VERSIONS / f".tmp-{run_id}"
    scratch.mkdir()
    (scratch / "table").write_bytes(content)
    versions.write_manifest(scratch, run_id=run_id)
    versions.place(scratch, run_id)


def test_a_version_that_stands_is_never_rewritten():
    version("a", b"first")
    before = (versions.VERSIONS / "a" / "table").stat().st_mtime_ns
    version("a", b"second")
    assert (versions.VERSIONS / "a" / "table").read_bytes() == b"first"
    assert (versions.VERSIONS / "a" / "table").stat().st_mtime_ns == before
    assert not list(versions.VERSIONS.glob(".tmp-*"))


def test_a_damaged_version_is_replaced_by_the_sound_one():
    version("a", b"sound")
    (versions.VERSIONS / "a" / "table").write_bytes(b"torn")
    version("a", b"sound")
    assert versions.faults(versions.VERSIONS / "a") == []


@pytest.mark.parametrize("harm", ["change", "remove", "add", "manifest"])
def test_every_kind_of_damage_is_named(harm):
    version("a")
    place = versions.VERSIONS / "a"
    if harm == "change":
        (place / "table").write_bytes(b"y")
    elif harm == "remove":
        (place / "table").unlink()
    elif harm == "add":
        (place / "more").write_bytes(b"")
    else:
        (place / "manifest.json").write_text("{")
    (problem,) = versions.faults(place)
    assert problem.where.endswith({"add": "more", "manifest": "manifest.json"}.get(harm, "table"))


def test_history_survives_a_torn_last_line():
    version("a")
    version("b")
    versions.make_current("s", "2026-01-01", "a")
    with versions.HISTORY.open("a") as handle:
        handle.write('{"source": "s", "as_')
    versions.make_current("s", "2026-02-01", "b")
    assert [entry["run_id"] for entry in versions.history()] == ["a", "b"]
    assert str(versions.CURRENT.readlink()) == "versions/b"


def test_the_version_compared_is_the_newest_of_this_source_with_an_earlier_as_of():
    for run_id, source, as_of in (
        ("a", "s", "2026-01-01"),
        ("b", "s", "2026-02-01"),
        ("c", "t", "2026-01-15"),
        ("d", "s", "2026-02-01"),
    ):
        version(run_id)
        versions.make_current(source, as_of, run_id)
    assert versions.newest("s", before="2026-02-01")["run_id"] == "a"
    assert versions.newest("s", before="2026-03-01")["run_id"] == "d"
    assert versions.newest("s", before="2026-01-01") is None
    assert versions.newest("s")["run_id"] == "d"


def test_a_reader_of_the_link_never_finds_it_missing_or_mixed():
    version("a", b"a" * 1000)
    version("b", b"b" * 1000)
    versions.point("a")
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            content = (versions.CURRENT / "table").read_bytes()
            seen.add((len(content), content[:1] * 1000 == content))

    reader = threading.Thread(target=read)
    reader.start()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        for run_id in ("b", "a"):
            versions.point(run_id)
    stop.set()
    reader.join()
    assert seen == {(1000, True)}


def test_a_lost_link_is_repaired_from_the_receipt_and_a_damaged_version_is_not():
    version("a")
    versions.RECEIPT.write_text(json.dumps({"run_id": "a"}))
    versions.repair_current()
    assert str(versions.CURRENT.readlink()) == "versions/a"
    (versions.VERSIONS / "a" / "table").write_bytes(b"other")
    with pytest.raises(IntegrityRefused):
        versions.repair_current()


def test_grades_published_before_are_matched_by_customer_not_by_row():
    table = pa.table({"customer_id": ["1", "2", "3"], "run_id": pa.nulls(3, pa.string()), "grade": ["A1", "B1", "C1"],
                      "grade_12m": ["A1", None, None], "exposure": [1, 2, 3]})  # fmt: skip
    before = pa.table({"customer_id": ["3", "1"], "grade": ["D1", "A2"]})
    out = publish.run(table, before, run_id="r" * 16)
    assert out["grade_published_before"].to_pylist() == ["A2", None, "D1"]
    assert out.column_names == ["customer_id", "run_id", "grade", "grade_12m", "grade_published_before", "exposure"]
    assert set(out["run_id"].to_pylist()) == {"r" * 16}
    assert publish.run(table, None, run_id="r")["grade_published_before"].null_count == 3


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "  =1"])
def test_text_that_a_spreadsheet_would_run_is_neutralised_in_csv_alone(text):
    table = pa.table({"name": [text, "plain", None], "number": [-1.5, 2.0, None]})
    safe = publish.safe_for_spreadsheets(table)
    assert safe["name"].to_pylist() == ["'" + text, "plain", None]
    assert safe["number"].to_pylist() == [-1.5, 2.0, None]


def test_the_written_bytes_are_audited(tmp_path):
    table = pa.table({"customer_id": ["1"], "pd_12m": [0.5]})
    publish._write_table(table, tmp_path, {"bellwether.contract_version": "1"})
    publish._audit_bytes(tmp_path, table)
    pq.write_table(pa.table({"customer_id": ["1"], "pd_12m": [0.6]}), tmp_path / "scored_customers.parquet")
    with pytest.raises(Exception, match="other content on disk"):
        publish._audit_bytes(tmp_path, table)
