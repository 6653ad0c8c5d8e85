"""Stage publish: audit the decided table, write it as a version, swap the link. Last, and the only stage that exits 3.

Nothing under data/publish/current changes unless the whole version stands on disk and has passed its audit: contract,
counts, checks of severity `stop`. Publishing the same content twice changes nothing. Under `dvc exp run` the table
goes to data/publish/preview/ and `current` stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import GateRefused, Problem
from models.contract import check_table
from pipeline import bundle, changes, tracking, versions
from pipeline.fingerprint import sha256
from pipeline.params import Section, source_name
from pipeline.stage import execute, fresh, read_json, say, write_json

TABLE = Path("data/decide/table.parquet")
SCORER = Path("data/promote/scorer")
SOUNDNESS = Path("data/explain/soundness.json")
STATEMENT = """\
-- The model as one statement, for DuckDB and PostgreSQL: PD with interval, score and grade of each row of `features`,
-- a table or view with customer_id, as_of and the model's features under their names, say
--   CREATE VIEW features AS SELECT * FROM 'data/featurise/scoring/features.parquet' WHERE months_back = 0;
"""
CONTRACT = Path("data/contracts/scored_customers.v1.json")
PREVIEW = versions.PUBLISH / "preview"
FORMULA = r"^\s*[=+\-@\t\r\x00]"  # what a spreadsheet would run (OWASP ASVS 1.2.10)


class Params(Section):
    """What publishing may do."""

    section: ClassVar[str] = "publish"

    allow_earlier_as_of: bool = False
    tracking_strict: bool = False


def run(table: pa.Table, published_before: pa.Table | None, *, run_id: str) -> pa.Table:
    """Return the table as published: run_id filled, and the grade of the compared version beside today's.

    table: one row a customer, the contract's columns but grade_published_before. published_before: the table
    of the newest version with an earlier as_of, or None; a customer who was not in it gets null.
    """
    count = table.num_rows
    before = pa.nulls(count, pa.string())
    if published_before is not None and count:
        position = pc.index_in(table["customer_id"], value_set=published_before["customer_id"].combine_chunks())
        before = pc.cast(published_before["grade"].combine_chunks().take(position), pa.string())
    table = table.set_column(table.schema.get_field_index("run_id"), "run_id", pa.array([run_id] * count, pa.string()))
    after = table.schema.get_field_index("grade_12m") + 1
    return table.add_column(after, "grade_published_before", before)


def safe_for_spreadsheets(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before each text that a spreadsheet would take for a formula."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = table.column(index)
            risky = pc.fill_null(pc.match_substring_regex(column, FORMULA), fill_value=False)
            quoted = pc.binary_join_element_wise(pa.scalar("'", field.type), column, pa.scalar("", field.type))
            table = table.set_column(index, field.name, pc.if_else(risky, quoted, column))
    return table


def _audit(table: pa.Table, contract: dict[str, Any], checks: list[dict[str, Any]]) -> list[Problem]:
    """Return every reason not to publish."""
    problems = list(check_table(table, contract))
    problems += [
        Problem(
            f"check {check['code']}", f"clear ({check['title']})", check["explanation"], "Read data/report/index.html."
        )
        for check in checks
        if check["severity"] == "stop" and check["answer"] == "found"
    ]
    return problems


def _write_table(table: pa.Table, folder: Path, metadata: dict[str, str]) -> None:
    """Write the table as Parquet (raw), CSV (UTF-8 with BOM, safe to open) and a DuckDB file."""
    described = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    pq.write_table(described, folder / "scored_customers.parquet", compression="zstd", write_page_checksum=True)
    with (folder / "scored_customers.csv").open("wb") as handle:
        handle.write(b"\xef\xbb\xbf")
        pa_csv.write_csv(safe_for_spreadsheets(table), handle)
    with duckdb.connect(str(folder / "bellwether.duckdb")) as connection:
        parquet = str(folder / "scored_customers.parquet").replace("'", "''")
        connection.execute(
            f"create table scored_customers as select * from read_parquet('{parquet}') order by customer_id"
        )


def _write_statement(folder: Path) -> None:
    """Write the scorer as one SQL statement, where it can be one, so that a database scores as the table was scored."""
    from models.export import to_sql
    from models.scorer import Scorer
    from models.treeshap import NotApplicable

    try:
        statement = to_sql(Scorer.from_files(bundle.read(SCORER)))
    except NotApplicable as error:
        say("publish", f"no model.sql: its trees must have {error}")
        return
    (folder / "model.sql").write_text(STATEMENT + statement, encoding="utf-8")


def _copy(path: Path, folder: Path) -> None:
    """Copy a file or folder into `folder` where it exists."""
    if path.is_dir():
        shutil.copytree(path, folder / path.name)
    elif path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)


def _digest(facts: dict[str, Any]) -> str:
    """Return a short content hash of plain facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    """Publish, or refuse with every reason and leave `current` as it is."""
    params = Params.load()
    source = source_name()
    experiment = os.environ.get("DVC_EXP_NAME")
    decided = read_json(Path("data/decide/summary.json"))
    as_of = read_json(Path("data/ingest/as_of.json"))["as_of"]
    contract = read_json(CONTRACT)
    checks = read_json(Path("data/monitor/checks.json"))
    manifest = SCORER / "manifest.json"
    if not manifest.exists():
        verdict = read_json(Path("data/promote/verdict.json"))
        raise GateRefused(
            Problem("model", "a champion that can score", "; ".join(verdict["reasons"]), "See data/report/index.html.")
        )
    scorer = read_json(manifest)
    if bool(scorer["experiment"]) != bool(experiment):
        raise GateRefused(
            Problem("data/promote/scorer", "the champion", "an experiment's candidate", "Use `python -m pipeline run`.")
        )
    table = pq.read_table(TABLE)
    compared = versions.newest(source, before=as_of)
    facts = {
        "source": source,
        "as_of": as_of,
        "model_version": scorer["model_version"],
        "data_version": decided["data_version"],
        "table": sha256(TABLE),
        "report": sha256(Path("data/report/index.html")),
        "compared_with": compared["run_id"] if compared else None,
        "contract": sha256(CONTRACT),
    }
    run_id = _digest(facts)
    before = None
    if compared is not None:
        before = pq.read_table(versions.VERSIONS / compared["run_id"] / "scored_customers.parquet")
    published = run(table, before, run_id=run_id)
    problems = _audit(published, contract, checks)
    if problems:
        raise GateRefused(problems)

    versions.VERSIONS.mkdir(parents=True, exist_ok=True)
    scratch = fresh(versions.VERSIONS / f".tmp-{run_id}")
    metadata = {
        "bellwether.contract_version": "1",
        "bellwether.source": source,
        "bellwether.horizon_months": str(decided["horizon_months"]),
        "bellwether.run_id": run_id,
    }
    _write_table(published, scratch, metadata)
    _audit_bytes(scratch, published)
    _write_statement(scratch)
    moved = changes.between(before, published)
    pq.write_table(moved, scratch / "changes.parquet", compression="zstd")
    for path in (Path("data/report"), SCORER):
        _copy(path, scratch)
    for path in (Path("data/decide/alerts.parquet"), CONTRACT):
        _copy(path, scratch)
    inputs = (Path("params.yaml"), Path("dvc.lock"), Path(f"data/sources/{source}.yaml"), Path("requirements/run.lock"),
              Path("data/overrides.csv"), Path("data/ingest/ledger.json"), Path(decided["policy"]))  # fmt: skip
    for path in inputs:
        _copy(path, scratch / "inputs")
    versions.write_manifest(
        scratch, **facts, run_id=run_id, rows=published.num_rows, git_commit=tracking.git_commit(),
        horizon_months=decided["horizon_months"], experiment=experiment,
    )  # fmt: skip
    if experiment:
        shutil.rmtree(PREVIEW, ignore_errors=True)
        scratch.rename(PREVIEW)
        write_json(versions.RECEIPT, {"run_id": None, "preview": run_id, "experiment": experiment, "source": source})
        say("publish", f"experiment {experiment}: preview in {PREVIEW}, current untouched", rows=published.num_rows)
        return
    version = versions.place(scratch, run_id)
    last = versions.newest(source)
    chosen = {"source": source, "as_of": as_of, "run_id": run_id}
    if last is not None and last["as_of"] > as_of and not params.allow_earlier_as_of:
        say("publish", f"as_of {as_of} is earlier than {last['as_of']}, which stays current; version kept", run=run_id)
        chosen = last
    versions.make_current(**chosen)
    current = versions.VERSIONS / chosen["run_id"] / "scored_customers.parquet"
    write_json(versions.RECEIPT, chosen | {"scored_customers": sha256(current)})
    _track(version, facts, published, decided, params)
    say("publish", f"{versions.CURRENT} -> {chosen['run_id']}", customers=published.num_rows, as_of=chosen["as_of"])
    if compared is not None:
        say("publish", f"changes.parquet: against {compared['run_id']} of {compared['as_of']}", moved=moved.num_rows)


def _audit_bytes(folder: Path, table: pa.Table) -> None:
    """Read back what was written: the very bytes that will be published must hold the table."""
    back = pq.read_table(folder / "scored_customers.parquet", page_checksum_verification=True)
    with duckdb.connect(str(folder / "bellwether.duckdb"), read_only=True) as connection:
        row = connection.execute("select count(*) from scored_customers").fetchone()
    rows = row[0] if row else -1
    if not back.replace_schema_metadata(None).equals(table.replace_schema_metadata(None)) or rows != table.num_rows:
        raise GateRefused(
            Problem(str(folder), "the audited table", "other content on disk", "Check the disk, run again.")
        )


def _track(version: Path, facts: dict[str, Any], table: pa.Table, decided: dict[str, Any], params: Params) -> None:
    """Log the publication."""
    numbers = {name: float(value) for name, value in decided.items() if isinstance(value, int | float)}
    tags = {f"bellwether.{name}": str(value) for name, value in facts.items()}
    quality = read_json(Path("data/ingest/quality.json"))["totals"]  # rows by what became of them, and by broken rule
    numbers |= {f"ingest.{name}".replace(":", "."): float(count) for name, count in quality.items()}
    held = tracking.flat(read_json(SOUNDNESS), "explain")  # shares are figures, whole numbers say on how many
    numbers |= {name: value for name, value in held.items() if type(value) is float}
    tracking.log_publication(
        source=facts["source"],
        registry=read_json(Path("data/promote/verdict.json"))["registry"],
        run_id=version.name,
        strict=params.tracking_strict,
        tags=tags
        | {"bellwether.candidate": facts["model_version"], "git_commit": tracking.git_commit()}
        | tracking.dvc_hashes(),
        params={name: str(value) for name, value in held.items() if type(value) is int},
        metrics=numbers | {"customers": float(table.num_rows)},
        artifacts=(version / "manifest.json", version / "report" / "index.html", Path("data/ingest/quality.json")),
    )


if __name__ == "__main__":
    execute("publish", main)
