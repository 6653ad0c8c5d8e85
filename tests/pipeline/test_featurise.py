"""The stage: its files, byte for byte alike, and training untouched by a later delivery."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import DataRefused
from pipeline import featurise
from pipeline.catalogue_page import page
from tests.features.drawn import draw, observe

TRANSACTIONS = """
    transaction_id customer_id event_on   amount balance_after category
    t1             a           2024-01-10 100    100           salary
    t2             a           2024-02-10 -40    60            rent
    t3             b           2024-02-11 10     10            salary
"""
LATER = (
    TRANSACTIONS
    + """
    t4             a           2024-05-10 9      69            lottery
    t5             b           2024-05-11 -5     5             lottery
    t6             b           2024-05-12 -5     0             lottery
"""
)


def lay(folder: Path, transactions: str) -> None:
    """Write what ingest and observe would."""
    tables = {
        "transactions": draw("transactions", transactions),
        "customers": draw("customers", "customer_id kind region\na person r1\nb company r2"),
    }
    for name, table in tables.items():
        part = folder / f"data/ingest/tables/{name}/known_month=2024-01"
        part.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part / "part.parquet")
    (folder / "data/ingest/tables.json").write_text(
        json.dumps({name: {"numeric": [], "categorical": []} for name in tables})
    )
    training = observe("a 2024-02-01\na 2024-03-01\nb 2024-03-01")
    training = training.append_column("outcome", pa.array([0, 1, 0], pa.int8()))
    training = training.append_column("outcome_known_on", pa.array([dt.date(2025, 3, 1)] * 3, pa.date32()))
    scoring = observe("a 2024-06-01\nb 2024-06-01").append_column("months_back", pa.array([0, 0], pa.int32()))
    (folder / "data/observe").mkdir(exist_ok=True)
    pq.write_table(training, folder / "data/observe/training.parquet")
    pq.write_table(scoring, folder / "data/observe/scoring.parquet")
    (folder / "params.yaml").write_text(
        "source: drawn\nas_of: latest\nfeaturise: {windows_months: [1, 3], lag_months: 1}\n"
    )


def run_in(folder: Path, monkeypatch: pytest.MonkeyPatch, transactions: str = TRANSACTIONS) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    lay(folder, transactions)
    monkeypatch.chdir(folder)
    featurise.main()
    out = folder / "data/featurise"
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_files_bytes_and_a_later_delivery(tmp_path, monkeypatch):
    """Same input, same bytes; rows known after the last training date change scoring and not training."""
    first = run_in(tmp_path / "one", monkeypatch)
    assert sorted(first) == [
        "catalogue.html",
        "catalogue.parquet",
        "scoring/features.parquet",
        "scoring/position.parquet",
        "summary.json",
        "training/catalogue.parquet",
        "training/features.parquet",
    ]
    assert run_in(tmp_path / "two", monkeypatch) == first
    later = run_in(tmp_path / "three", monkeypatch, LATER)
    for name in ("training/features.parquet", "training/catalogue.parquet", "catalogue.parquet", "catalogue.html"):
        assert later[name] == first[name]
    assert later["scoring/features.parquet"] != first["scoring/features.parquet"]

    training = pq.read_table(tmp_path / "one/data/featurise/training/features.parquet")
    scoring = pq.read_table(tmp_path / "one/data/featurise/scoring/features.parquet")
    catalogue = pq.read_table(tmp_path / "one/data/featurise/catalogue.parquet").to_pylist()
    names = [entry["name"] for entry in catalogue]
    assert training.column_names == ["customer_id", "as_of", "outcome", "outcome_known_on", *names]
    assert scoring.column_names == ["customer_id", "as_of", "months_back", *names]
    assert training["as_of"].to_pylist() == sorted(training["as_of"].to_pylist())
    for entry in catalogue:
        assert entry["sentence"]
        assert entry["sentence_zh"]
        assert entry["family"]
        assert entry["null_means"]
        assert entry["direction"] in (-1, 0, 1)
        assert len(entry["definition_hash"]) == 16
        known = training[entry["name"]].is_valid()
        assert entry["missing_share"] == pytest.approx(1 - pc.sum(known).as_py() / len(training))
        days = training.filter(known)["as_of"].to_pylist()
        assert entry["first_as_of"] == (min(days) if days else None)
    numeric = {entry["name"] for entry in catalogue if entry["kind"] == "numeric"}
    assert all(pa.types.is_float64(scoring.schema.field(name).type) for name in numeric)

    summary = json.loads(first["summary.json"])
    assert summary["built"]["transactions"]["features"] > 10
    assert summary["skipped"]["statements"]


def test_position_says_where_each_customer_stands(tmp_path, monkeypatch):
    run_in(tmp_path / "p", monkeypatch, LATER)
    table = pq.read_table(tmp_path / "p/data/featurise/scoring/position.parquet")
    assert table.schema.field("exposure").type == pa.decimal128(18, 2)
    a, b = table.to_pylist()
    assert (a["kind"], b["kind"]) == ("person", "company")
    assert a["months_of_history"] == 5
    assert float(a["monthly_inflow"]) == pytest.approx(109 / 5, abs=0.01)
    assert a["last_event_on"] == dt.date(2024, 5, 10)
    assert a["exposure"] is None
    assert a["bureau_default"] is None


def test_nothing_to_read_is_refused(tmp_path, monkeypatch):
    lay(tmp_path, TRANSACTIONS)
    (tmp_path / "data/observe/scoring.parquet").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataRefused, match="scoring"):
        featurise.main()


def test_the_run_says_what_it_built_and_what_it_could_not(tmp_path, monkeypatch, capsys):
    run_in(tmp_path / "s", monkeypatch)
    said = capsys.readouterr().out
    assert "transactions" in said.splitlines()[0]
    assert "not built: financials, for the source has no financial statements" in said
    summary = json.loads((tmp_path / "s/data/featurise/summary.json").read_text())
    for name, why in summary["skipped"].items():
        assert f"not built: {name}, for {why}" in said


def test_the_page_holds_every_feature_escaped_and_needs_nothing_from_elsewhere(tmp_path, monkeypatch):
    run_in(tmp_path / "page", monkeypatch)
    html = (tmp_path / "page/data/featurise/catalogue.html").read_text()
    catalogue = pq.read_table(tmp_path / "page/data/featurise/catalogue.parquet").to_pylist()
    assert all(f"<code>{entry['name']}</code>" in html and entry["definition_hash"] in html for entry in catalogue)
    assert "the source has no financial statements" in html
    assert not re.search(r"src=|href=.(?!#)|https?://|@import|url\(", html)
    targets = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= targets
    assert {entry["name"] for entry in catalogue} <= targets  # so that a feature can be linked to
    hostile = catalogue[0] | {"name": "<script>x</script>", "sentence": '"><img src=x>'}
    assert "<script>x" not in page([hostile], {"a": [hostile["name"]]}, {})
    assert "<img" not in page([hostile], {"a": [hostile["name"]]}, {"<img>": "<img>"})
