"""Versions and the link: whole or not at all, twice is once, an earlier as_of never replaces a later one."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import IntegrityRefused
from pipeline import __main__ as command_line
from pipeline import answers, pruning, publish, versions


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


@pytest.mark.fault("G1")
def test_a_damaged_version_is_replaced_by_the_sound_one():
    version("a", b"sound")
    (versions.VERSIONS / "a" / "table").write_bytes(b"torn")
    version("a", b"sound")
    assert versions.faults(versions.VERSIONS / "a") == []


@pytest.mark.parametrize("harm", ["change", "remove", "add", "manifest"])
@pytest.mark.fault("G1")
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


@pytest.mark.fault("F1")
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


@pytest.mark.fault("F1", "F2")
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


@pytest.mark.fault("F1", "G1")
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


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "  =1", "＝1", "\n=1"])
@pytest.mark.fault("C10")
def test_text_that_a_spreadsheet_would_run_is_neutralised_in_csv_alone(text):
    table = pa.table({"name": [text, "plain", None], "number": [-1.5, 2.0, None]})
    safe = answers.safe_for_spreadsheets(table)
    assert safe["name"].to_pylist() == ["'" + text, "plain", None]
    assert safe["number"].to_pylist() == [-1.5, 2.0, None]


@pytest.mark.fault("G1")
def test_the_written_bytes_are_audited(tmp_path):
    table = pa.table({"customer_id": ["1"], "pd_12m": [0.5]})
    publish._write_table(table, tmp_path, {"bellwether.contract_version": "1"})
    publish._audit_bytes(tmp_path, table)
    pq.write_table(pa.table({"customer_id": ["1"], "pd_12m": [0.6]}), tmp_path / "scored_customers.parquet")
    with pytest.raises(Exception, match="other content on disk"):
        publish._audit_bytes(tmp_path, table)


def published(run_id: str, as_of: str, source: str = "s", compared_with: str | None = None) -> None:
    scratch = versions.VERSIONS / f".tmp-{run_id}"
    for name in ("table.parquet", "report/index.html", "inputs/params.yaml", "scorer/model.txt"):
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_text(f"{name} of {run_id}")
    versions.write_manifest(
        scratch, run_id=run_id, source=source, as_of=as_of, compared_with=compared_with, rows=1, model_version="m",
        data_version="d",
    )  # fmt: skip
    versions.place(scratch, run_id)
    versions.make_current(source, as_of, run_id)


def test_the_newest_stay_and_the_last_of_each_month_within_its_months():
    every = [
        pruning.Version(run_id, "s", as_of, order)
        for order, (run_id, as_of) in enumerate(
            [
                ("old", "2024-01-15"),
                ("jan-a", "2025-01-10"),
                ("jan-b", "2025-01-20"),
                ("feb", "2025-02-01"),
                ("mar-a", "2025-03-05"),
                ("mar-b", "2025-03-05"),
                ("apr", "2025-04-01"),
            ]
        )
    ] + [pruning.Version("other", "t", "2020-01-01", 0)]
    assert pruning.to_prune(every, set(), keep_newest=1, keep_months=12) == ["old", "jan-a", "mar-a"]
    assert pruning.to_prune(every, set(), keep_newest=1, keep_months=2) == ["old", "jan-a", "jan-b", "feb", "mar-a"]
    assert pruning.to_prune(every, {"jan-a"}, keep_newest=3, keep_months=0) == ["old", "jan-b", "feb"]
    assert pruning.to_prune(every, set(), keep_newest=9, keep_months=0) == []
    assert pruning.to_prune([], set(), keep_newest=1, keep_months=1) == []


def test_gc_takes_tables_and_leaves_what_a_rebuild_needs(capsys):
    for month, compared in ((1, None), (2, "v1"), (3, "v2"), (4, "v3"), (5, "v4")):
        published(f"v{month}", f"2026-0{month}-01", compared_with=compared)
    published("elsewhere", "2020-01-01", source="t")
    versions.make_current("s", "2026-05-01", "v5")
    versions.RECEIPT.write_text(json.dumps({"run_id": "v5"}))
    before = {path: path.read_bytes() for path in versions.VERSIONS.rglob("*") if path.is_file()}
    assert pruning.collect(keep_newest=1, keep_months=0, dry_run=True) == 0
    assert before == {path: path.read_bytes() for path in versions.VERSIONS.rglob("*") if path.is_file()}

    assert pruning.collect(keep_newest=1, keep_months=0, dry_run=False) == 0
    after = {path for path in versions.VERSIONS.rglob("*") if path.is_file()}
    for month in (1, 2, 3):  # v4 is what the current one was compared with
        left = {path.relative_to(versions.VERSIONS / f"v{month}").as_posix() for path in after
                if path.is_relative_to(versions.VERSIONS / f"v{month}")}  # fmt: skip
        assert left == {"manifest.json", "pruned.json", "inputs/params.yaml", "scorer/model.txt"}
    assert {path for path in before if path.parts[3] in {"v4", "v5", "elsewhere"}} <= after
    assert versions.newest("s", before="2026-04-01") is None  # what has no table cannot be compared with
    assert versions.verify() == 0
    assert pruning.collect(keep_newest=1, keep_months=0, dry_run=False) == 0  # again: nothing is left to do
    assert after == {path for path in versions.VERSIONS.rglob("*") if path.is_file()}
    capsys.readouterr()


def test_a_pruned_version_is_sound_only_for_who_knows_and_still_guarded():
    published("v1", "2026-01-01")
    folder = versions.VERSIONS / "v1"
    pruning.prune(folder)
    assert versions.faults(folder, pruned=True) == []
    assert versions.faults(folder)  # `current` may never point there
    (folder / "inputs" / "params.yaml").write_text("other")
    assert [problem.where[-11:] for problem in versions.faults(folder, pruned=True)] == ["params.yaml"]
    (folder / "inputs" / "params.yaml").unlink()
    assert [problem.found for problem in versions.faults(folder, pruned=True)] == ["no such file"]


@pytest.mark.parametrize("after", ["the note", "one file"])
@pytest.mark.fault("F1")
def test_a_kill_amid_pruning_leaves_a_version_that_says_so_and_the_next_call_ends_it(after, monkeypatch):
    published("v1", "2026-01-01")
    published("v2", "2026-02-01")
    left = {"the note": 0, "one file": 1}[after]
    unlink = type(versions.VERSIONS).unlink

    def killed(path, **more):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        unlink(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(type(versions.VERSIONS), "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            pruning.prune(versions.VERSIONS / "v1")
    assert versions.faults(versions.VERSIONS / "v1", pruned=True) == []
    assert versions.newest("s", before="2026-02-01") is None
    pruning.collect(keep_newest=9, keep_months=9, dry_run=False)
    assert not (versions.VERSIONS / "v1" / "table.parquet").exists()
    assert not (versions.VERSIONS / "v1" / "report").exists()


def test_publishing_a_pruned_version_again_brings_its_table_back():
    published("v1", "2026-01-01")
    pruning.prune(versions.VERSIONS / "v1")
    published("v1", "2026-01-01")
    assert versions.faults(versions.VERSIONS / "v1") == []
    assert not (versions.VERSIONS / "v1" / versions.PRUNED).exists()


def test_status_says_how_old_and_is_non_zero_where_too_old(capsys):
    assert versions.print_status() == 3
    published("v1", "2026-01-01")
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert versions.print_status(now=now) == 0
    assert "as_of was 30 days ago" in capsys.readouterr().out
    assert versions.print_status(timedelta(days=31), now=now) == 0
    assert versions.print_status(timedelta(days=30), now=now) == 3
    assert "--max-age is 30 days" in capsys.readouterr().err
    assert versions.print_status(timedelta(hours=47), now=datetime(2026, 1, 2, 22, tzinfo=UTC)) == 0


@pytest.mark.parametrize(("text", "code"), [("35d", 3), ("48h", 3), ("9999999d", 0)])
def test_max_age_on_the_command_line(text, code, capsys):
    published("v1", "2001-01-01")
    assert command_line.main(["status", "--max-age", text]) == code
    capsys.readouterr()


@pytest.mark.parametrize("text", ["35", "d", "-1d", "1.5d", ""])
def test_a_max_age_that_is_none_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as usage:
        command_line.main(["status", f"--max-age={text}"])
    assert usage.value.code == 4
    assert "35d or 48h" in capsys.readouterr().err


def test_a_version_keeps_dvc_lock_without_what_it_says_of_the_publication_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head, score, old, decide = "schema: '2.0'\nstages:\n", "  score:\n    cmd: s\n    outs:\n    - path: a\n", "  publish:\n    cmd: p\n    outs:\n    - path: b\n", "  decide:\n    cmd: d\n"  # fmt: skip
    Path("into").mkdir()
    for text in (head + score + old + decide, head + decide + score, head + old + decide + score):
        Path("dvc.lock").write_text(text)
        publish._copy_lock(Path("into"))
        assert Path("into/dvc.lock").read_text() == head + decide + score
