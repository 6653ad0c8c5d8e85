"""Stage publish: audit the decided table, write it as a version, swap the link. Last, and the only stage that exits 3.

Nothing under data/publish/current changes unless the whole version stands on disk and has passed its audit: contract,
counts, checks of severity `stop`. Publishing the same content twice changes nothing. A sink follows the files: where it
is away they stand, and the stage ends with exit code 8. Under `dvc exp run` the table goes to data/publish/preview/ and
`current` stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from features.errors import GateRefused, Problem, ServiceRefused
from models.contract import check_table
from pipeline import answers, bundle, changes, database, postgres, tracking, versions
from pipeline.fingerprint import sha256
from pipeline.params import Section, source_name
from pipeline.stage import execute, fresh, read_json, say, write_json

TABLE = Path("data/decide/table.parquet")
SCORER = Path("data/promote/scorer")
SOUNDNESS = Path("data/explain/soundness.json")
MONITORED = Path("data/monitor/metrics.json")
TOLD = ("aggregates.json", "document.html", "document.json", "explanation.html", "plots")  # of the report, to MLflow
STATEMENT = """\
-- The model as one statement, for DuckDB and PostgreSQL: PD with interval, score and grade of each row of `features`,
-- a table or view with customer_id, as_of and the model's features under their names, say
--   CREATE VIEW features AS SELECT * FROM 'data/featurise/scoring/features.parquet' WHERE months_back = 0;
"""
CONTRACT = Path("data/contracts/scored_customers.v1.json")
LISTED, LIST_CONTRACT = Path("data/worklist/worklist.parquet"), Path("data/contracts/worklist.v1.json")
PREVIEW = versions.PUBLISH / "preview"
# What a rebuild needs besides commit, deliveries, scorer and compared version, kept under the same paths in inputs/:
# evaluate's figures, select's parts and what the model document tells are of a training that is not repeated.
INPUTS = (
    Path("params.yaml"), Path("requirements/run.lock"), Path("data/overrides.csv"), CONTRACT,
    LIST_CONTRACT, Path("data/contacts.csv"),
    Path("data/ingest/ledger.json"), Path("data/promote/verdict.json"), Path("data/evaluate"), Path("data/select"),
    Path("data/promote/changes.json"), Path("data/train/summary.json"), Path("data/tune/summary.json"),
    Path("data/tune/parameters.json"), Path("data/calibrate/summary.json"),
)  # fmt: skip


class Params(Section):
    """What publishing may do."""

    section: ClassVar[str] = "publish"

    allow_earlier_as_of: bool = False
    keep_newest: int = Field(default=24, ge=1)
    keep_months: int = Field(default=60, ge=0)
    tracking_strict: bool = False
    postgres_table: str = Field(default="public.scored_customers", pattern=postgres.TABLE)
    postgres: Any = None  # checked by hand: pydantic's complaint would repeat a password

    @classmethod
    def load(cls, source: str | None = None) -> Self:
        """Read the section as every other, and refuse (exit code 4) a password in it."""
        params = super().load(source)
        postgres.check_stated(params.postgres)
        return params


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
    answers.write(table, folder / "scored_customers.csv")
    database.write(folder)


def _write_statement(folder: Path) -> None:
    """Write the scorer as one SQL statement, where it can be one, so that a database scores as the table was scored.

    Where it cannot (child records are scored outside the features), the run says why and there is no model.sql.
    """
    from models.export import to_sql
    from models.scorer import Scorer
    from models.treeshap import NotApplicable

    try:
        statement = to_sql(Scorer.from_files(bundle.read(SCORER)))
    except NotApplicable as error:
        say("publish", f"no model.sql: the model must have {error}")
        return
    (folder / "model.sql").write_text(STATEMENT + statement, encoding="utf-8")


def copy_into(path: Path, folder: Path) -> None:
    """Copy a file or folder into `folder` where it exists."""
    if path.is_dir():
        shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns(".gitignore"))
    elif path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)


def content_id(facts: dict[str, Any]) -> str:
    """Return a short content hash of plain facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Written:
    """A version that stands whole and audited in a scratch folder, and what it was made of."""

    scratch: Path
    run_id: str
    facts: dict[str, Any]
    decided: dict[str, Any]
    table: pa.Table
    compared: dict[str, str] | None
    moved: int


def write() -> Written:
    """Audit what was decided and write it as a version into a scratch folder, or refuse with every reason.

    Changes nothing else: a rebuild calls it too.
    """
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
        "document": sha256(Path("data/report/document.html")),
        "worklist": sha256(LISTED),
        "compared_with": compared["run_id"] if compared else None,
        "contract": sha256(CONTRACT),
    }
    run_id = content_id(facts)
    before = None
    if compared is not None:
        before = pq.read_table(versions.VERSIONS / compared["run_id"] / "scored_customers.parquet")
    published = run(table, before, run_id=run_id)
    problems = _audit(published, contract, checks) + check_table(pq.read_table(LISTED), read_json(LIST_CONTRACT))
    if problems:
        raise GateRefused(problems)

    versions.VERSIONS.mkdir(parents=True, exist_ok=True)
    scratch = fresh(versions.VERSIONS / f".tmp-{run_id}")
    try:
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
        for path in (Path("data/report"), Path("data/worklist"), SCORER):
            copy_into(path, scratch)
        for path in (Path("data/decide/alerts.parquet"), Path("data/decide/overrides.parquet"), CONTRACT,
                     LIST_CONTRACT):  # fmt: skip
            copy_into(path, scratch)
        for path in (*INPUTS, Path(f"data/sources/{source}.yaml"), *map(Path, decided["policy_files"])):
            copy_into(path, scratch / "inputs" / path.parent)
        _copy_lock(scratch / "inputs")
        versions.write_manifest(
            scratch, **facts, run_id=run_id, rows=published.num_rows, git_commit=tracking.git_commit(),
            uncommitted=tracking.uncommitted_code(), horizon_months=decided["horizon_months"], experiment=experiment,
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)  # what a full disk cut short is no version
        raise
    return Written(scratch, run_id, facts, decided, published, compared, moved.num_rows)


def _copy_lock(into: Path) -> None:
    """Copy dvc.lock, its stages by name, without this one: what stands there of it is of the publication before.

    DVC keeps the order in which stages were first run, which a kill may change.
    """
    lock = Path("dvc.lock")
    if lock.exists():
        head, *stages = re.split(r"^(?=  \S+:\n)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
        kept = sorted(text for text in stages if not text.startswith("  publish:"))
        (into / lock).write_text(head + "".join(kept), encoding="utf-8")


def main() -> None:
    """Publish, or refuse with every reason and leave `current` as it is."""
    params = Params.load()
    source = source_name()
    experiment = os.environ.get("DVC_EXP_NAME")
    sink = None if experiment else postgres.sink(params.postgres, params.postgres_table)
    try:
        written = write()
    except GateRefused as refusal:
        if not experiment:
            _track_refused(source, refusal)
        raise
    run_id, as_of, rows = written.run_id, written.facts["as_of"], written.table.num_rows
    if experiment:
        shutil.rmtree(PREVIEW, ignore_errors=True)
        written.scratch.rename(PREVIEW)
        write_json(versions.RECEIPT, {"run_id": None, "preview": run_id, "experiment": experiment, "source": source})
        say("publish", f"experiment {experiment}: preview in {PREVIEW}, current untouched", rows=rows)
        return
    version = versions.place(written.scratch, run_id)
    last = versions.newest(source)
    chosen = {"source": source, "as_of": as_of, "run_id": run_id}
    if last is not None and last["as_of"] > as_of and not params.allow_earlier_as_of:
        say("publish", f"as_of {as_of} is earlier than {last['as_of']}, which stays current; version kept", run=run_id)
        chosen = last
    versions.make_current(**chosen)
    current = versions.VERSIONS / chosen["run_id"]
    write_json(versions.RECEIPT, chosen | {"scored_customers": sha256(current / "scored_customers.parquet")})
    say("publish", f"{versions.CURRENT} -> {chosen['run_id']}", customers=rows, as_of=chosen["as_of"])
    if written.compared is not None:
        against = written.compared
        say("publish", f"changes.parquet: against {against['run_id']} of {against['as_of']}", moved=written.moved)
    if read_json(version / "manifest.json").get("uncommitted", []) != []:
        say("publish", "its code is not committed: were it lost, `rebuild` could not bring this version back")
    late: ServiceRefused | None = None
    try:
        if sink is not None:
            say("publish", postgres.bring(sink, current, allow_earlier_as_of=params.allow_earlier_as_of))
    except ServiceRefused as refusal:
        late = refusal  # the files stand; what was published is logged before this is told
    _track(version, written.facts, written.table, written.decided, params)
    if late is not None:
        raise late


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
    numbers |= {f"monitor.{name}": value for name, value in read_json(MONITORED).items()} if MONITORED.exists() else {}
    told = [version / "report" / name for name in TOLD]
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
        # neither the page nor figures.json: they list customers by their identifiers
        artifacts=(version / "manifest.json", Path("data/ingest/quality.json"), *filter(Path.exists, told)),
    )


def _track_refused(source: str, refusal: GateRefused) -> None:
    """Log the figures and the reasons of a run that a gate refused: nothing of it is published, and nothing is lost."""
    decided = read_json(Path("data/decide/summary.json"))
    verdict = read_json(Path("data/promote/verdict.json"))
    reasons = [problem.sentence() for problem in refusal.problems]
    numbers = {name: float(value) for name, value in decided.items() if type(value) in (int, float)}
    numbers |= {f"monitor.{name}": value for name, value in read_json(MONITORED).items()} if MONITORED.exists() else {}
    facts = {
        "source": source, "as_of": read_json(Path("data/ingest/as_of.json"))["as_of"],
        "model_version": verdict["champion"] or "none", "data_version": decided.get("data_version", "none"),
    }  # fmt: skip
    tags = {f"bellwether.{name}": str(value) for name, value in facts.items()}
    tags |= {f"bellwether.reason_{number}": reason[:500] for number, reason in enumerate(reasons[:20], start=1)}
    told = content_id(facts | {"reasons": reasons, "figures": numbers})
    tracking.log_publication(
        source=source, registry=verdict["registry"], run_id=told,
        tags=tags | {"bellwether.candidate": facts["model_version"], "git_commit": tracking.git_commit()},
        params={"reasons": str(len(reasons))}, metrics=numbers, artifacts=(Path("data/monitor/checks.json"),),
        strict=False, refused=True,
    )  # fmt: skip


if __name__ == "__main__":
    execute("publish", main)
