"""The shipped mappings on the real files: counts that an independent query of the files gives, and nothing from later."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
import yaml
from workspaces import ROOT, copy_project

from features.mapping import parse_mapping
from pipeline import ingest, observe
from pipeline.params import read_params

SHIPPED = sorted(path.stem for path in (ROOT / "data/sources").glob("*.yaml"))
FOLDERS = {name: name for name in SHIPPED if name != "simulated"} | {"sba_national": "sba_national_subset"}


def ingested(folder: Path, source: str, realdata: Path) -> dict[str, dict]:
    """Run the first stages of a source in `folder` and return the counts of each table."""
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw" / source).symlink_to(realdata / FOLDERS[source], target_is_directory=True)
    (folder / "data/sources").symlink_to(ROOT / "data/sources", target_is_directory=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"source": source, "as_of": "latest"}))
    ingest.main()
    observe.main()
    return json.loads((folder / "data/ingest/quality.json").read_text())["tables"]


def view(table: str) -> str:
    return f"read_parquet('data/ingest/tables/{table}/*/part.parquet', hive_partitioning=false)"


def ask(sql: str) -> list[tuple]:
    return duckdb.execute(sql).fetchall()


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", SHIPPED)
def test_every_shipped_mapping_is_read_says_what_to_beware_of_and_completes_in_an_editor(source, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / f"data/sources/{source}.yaml").read_text()
    mapping = parse_mapping(text, source)
    assert text.startswith("# yaml-language-server: $schema=mapping.schema.json\n")
    if source != "simulated":
        assert mapping.caveats
        assert source in read_params()["sources"]


EXPECTED = {  # rows kept by table, good, bad
    "gmsc": ({"observations": 150_000}, 139_974, 10_026),
    "polish": ({"customers": 7_027, "observations": 7_027}, 6_756, 271),
    "sba_national": ({"customers": 22_107, "observations": 22_107}, 17_601, 4_400),
    "superlender": (
        {"customers": 4_368, "credits": 18_183, "instalments": 19_236, "payments": 18_843, "statements": 36_177,
         "first_repayments": 18_183, "closings": 18_183, "observations": 4_368}, 3_416, 952,
    ),
    "uci_taiwan": ({"customers": 30_000, "observations": 30_000, "credits": 30_000, "statements": 180_000}, 23_364, 6_636),
    "berka": ({"customers": 4_500, "transactions": 31_811, "observations": 392}, 203, 35),
}  # fmt: skip


@pytest.mark.realdata
@pytest.mark.parametrize("source", EXPECTED)
def test_a_shipped_source_has_the_rows_and_outcomes_of_its_files(source, room, realdata):
    quality = ingested(room, source, realdata)
    rows, good, bad = EXPECTED[source]
    kept = {table: account["kept"] for table, account in quality.items()}
    assert rows == {table: kept[table] for table in rows}
    assert set(kept) - set(rows) <= {"payments"}
    for account in quality.values():
        for block in account["blocks"]:
            assert block["quarantined"] == 0
            assert block["read"] == block["kept"] + block["deduplicated"] + block["left_out"]
    known = ask("SELECT outcome, count(*) FROM 'data/observe/training.parquet' GROUP BY 1 ORDER BY 1")
    assert known == [(0, good), (1, bad)]


@pytest.mark.realdata
def test_superlender_s_earlier_loans_are_used_as_they_were_known_when_the_loan_was_judged(room, realdata):
    ingested(room, "superlender", realdata)
    earlier, judged = f"'{realdata}/superlender/trainprevloans.csv'", f"'{realdata}/superlender/trainperf.csv'"
    oracle = f"""
        SELECT p.customerid, p.creationdate::date AS as_of, count(l.systemloanid) AS loans,
            count(*) FILTER (l.closeddate::date < p.creationdate::date) AS closed
        FROM read_csv({judged}) p LEFT JOIN read_csv({earlier}) l
            ON l.customerid = p.customerid AND l.creationdate::date < p.creationdate::date
        GROUP BY ALL
    """
    used = ask(f"""
        WITH asked AS ({oracle}), seen AS (
            SELECT o.customer_id, o.as_of, count(DISTINCT c.credit_id) AS loans,
                count(DISTINCT s.credit_id) FILTER (s.status = 'closed') AS closed
            FROM {view("observations")} o
            LEFT JOIN {view("credits")} c ON c.customer_id = o.customer_id AND c.known_on < o.as_of
            LEFT JOIN {view("statements")} s ON s.credit_id = c.credit_id AND s.known_on < o.as_of
            GROUP BY ALL)
        SELECT count(*), sum(asked.loans), sum(asked.closed), count(*) FILTER (asked.loans <> seen.loans OR asked.closed <> seen.closed)
        FROM asked JOIN seen ON seen.customer_id = asked.customerid AND seen.as_of = asked.as_of
    """)[0]
    assert used[0] == 4_368
    assert used[1] > used[2] > 16_000  # some loans were open, and none is used as closed before it was
    assert used[3] == 0
    late = ask(f"SELECT count(*) FROM {view('closings')} WHERE known_on <> event_on")[0][0]
    assert late == 0


@pytest.mark.realdata
def test_money_due_and_money_paid_of_superlender_are_what_the_file_says(room, realdata):
    ingested(room, "superlender", realdata)
    total = ask(f"SELECT sum(totaldue::decimal(18,2)) FROM read_csv('{realdata}/superlender/trainprevloans.csv')")[0][0]
    due = ask(f"SELECT sum(amount) FROM {view('instalments')}")[0][0]
    paid = ask(f"SELECT sum(amount) FROM {view('payments')}")[0][0]
    assert abs(due - total) < 20  # a cent or two a loan where totals do not divide by three
    assert paid == total


@pytest.mark.realdata
def test_sba_holds_nothing_that_was_written_after_the_approval(room, realdata):
    ingested(room, "sba_national", realdata)
    text = (ROOT / "data/sources/sba_national.yaml").read_text()
    observed = yaml.safe_load(text)["tables"]["observations"]
    attributes = " ".join(
        [*observed["attributes"]["numeric"].values(), *observed["attributes"]["categorical"].values()]
    )
    for leak in ("Term", "ChgOff", "BalanceGross", "Disbursement", "MIS_Status"):
        assert leak not in attributes
    latest = ask(f"SELECT max(known_on - as_of), min(as_of) FROM {view('observations')}")[0]
    assert latest[0] == -1
    assert str(latest[1]) >= "1996-01-01"
    unknown = ask("SELECT count(*) FROM 'data/observe/observations.parquet' WHERE outcome IS NULL")[0][0]
    assert unknown == 106  # without a status: 119, of which 13 were approved before 1996


@pytest.mark.realdata
def test_companies_of_polish_are_numbered_and_their_ratios_read(room, realdata):
    ingested(room, "polish", realdata)
    kinds = ask(f"SELECT kind, count(*) FROM {view('customers')} GROUP BY 1")
    assert kinds == [("company", 7_027)]
    first = ask(f"SELECT * EXCLUDE (exposure, outcome_known_on) FROM {view('observations')} WHERE customer_id = '1'")
    assert {0.20055, 0.37951, 0.39641} <= set(first[0])
    columns = ask(f"SELECT count(*) FROM (DESCRIBE SELECT * FROM {view('observations')})")[0][0]
    assert columns == 64 + 7


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("source", "low", "high"),
    [("superlender", 0.69, 0.76), ("sba_national", 0.72, 0.86), ("polish", 0.90, 0.98), ("gmsc", 0.85, 0.88)],
)
def test_a_whole_run_of_a_real_source_discriminates_as_it_should(source, low, high, tmp_path, realdata):
    workspace = copy_project(tmp_path / "project")
    (workspace.folder / "data/raw").mkdir(exist_ok=True)
    (workspace.folder / "data/raw" / source).symlink_to(realdata / FOLDERS[source], target_is_directory=True)
    workspace.set_params({"source": source, "evaluate": {"repeats": 1}})
    done = workspace.run("python", "-m", "pipeline", "run", timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = json.loads((workspace.folder / "data/evaluate/metrics.json").read_text())
    assert low < metrics["test.auc"] < high
    assert 0.8 < metrics["test.calibration_slope"] < 1.25
