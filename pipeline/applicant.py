"""score FOLDER: applicants' raw histories, read by the source's own mapping and answered by what is published.

The folder goes through the ingest, build, scorer, reasons and policy of a run, in a scratch folder; nothing under data/
is written. What a feature says of others (peer groups, ranks, industries) comes from the published run's own tables, in
which an applicant is no member: an answer does not hang on who else lies in the folder. The population rule refuses no
applicant; where one is a customer already, the dates before are those on which it held.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.definition import Applicants
from features.errors import ConfigurationRefused, DataRefused, GateRefused, IntegrityRefused, Problem
from features.mapping import Mapping, parse_mapping
from features.tables import describe_tables, open_tables
from models.contract import PENDING, TableContract, check_table
from models.grades import Scale
from models.overrides import read_overrides
from models.scorer import Scorer
from pipeline import answers, asked, decide, explain, explainer, featurise, histories, ingest, score, versions
from pipeline import params as parameters
from pipeline.fingerprint import sha256
from pipeline.lending import Params as Lending
from pipeline.lending import read_policy
from pipeline.stage import read_json


@dataclass(frozen=True)
class Published:
    """What answers: the current version's manifest, its bundle, and the inputs that were stored with it."""

    manifest: dict[str, Any]
    files: dict[str, bytes]
    where: str  # the mapping's file
    mapping: Mapping
    policy: Path
    overrides: Path

    @property
    def source(self) -> str:
        """Return whose customers the model was made of."""
        return str(self.manifest["source"])

    @property
    def as_of(self) -> dt.date:
        """Return the published date."""
        return dt.date.fromisoformat(self.manifest["as_of"])


def published_run(source: str | None) -> Published:
    """Return what is published, if it is of `source` (None: whatever it is of).

    Refuses (exit code 4) where nothing is, or another source, and (exit code 7) where the tables here are not those of
    the published run, or its inputs not what was stored.
    """
    files = asked.published()
    manifest = versions.current_manifest() or {}
    if source not in (None, manifest["source"]):
        raise ConfigurationRefused(
            Problem("--source", f"the published source, {manifest['source']}", str(source),
                    "Choose it in params.yaml and run the pipeline, or leave the option out.")
        )  # fmt: skip
    inputs = versions.CURRENT / "inputs"
    mapping, overrides = inputs / f"data/sources/{manifest['source']}.yaml", inputs / decide.OVERRIDES
    policy = inputs / Lending.load(manifest["source"]).policy
    problems = versions.faults(versions.CURRENT, within="inputs/")
    again = "Run the pipeline, then ask again."
    problems += [
        Problem(str(path), "stored with what is published", "no such file", again)
        for path in (mapping, policy) if not problems and not path.exists()
    ]  # fmt: skip
    ledger = decide.LEDGER.read_bytes() if decide.LEDGER.exists() else b""
    if decide.data_version(ledger, manifest["as_of"]) != manifest["data_version"]:
        must = f"the tables of the published run {manifest['run_id']}, with whose customers applicants are compared"
        problems.append(Problem("data/ingest", must, "another run's", again))
    if problems:
        raise IntegrityRefused(problems)
    read = parse_mapping(mapping.read_text(encoding="utf-8"), str(mapping))
    return Published(manifest, files, str(mapping), read, policy, overrides)


def featurised(tables: Path, observations: pa.Table, published: Published, scratch: Path) -> tuple[pa.Table, pa.Table]:
    """Return features and positions of the observations, declared as the published run declares them.

    tables: the applicants' canonical tables. Refuses (exit code 7) where the model's features are defined otherwise.
    """
    import ibis

    params = featurise.Params.load(published.source)
    inputs = score.inputs_of(published.files)
    connection = ibis.duckdb.connect(memory_limit=params.memory_limit, temp_directory=str(scratch))
    try:
        training, scoring = (
            connection.read_parquet(featurise.OBSERVE / f"{name}.parquet", table_name=name)
            for name in ("training", "scoring")
        )
        asked_for = connection.create_table("asked_for", observations, temp=True)
        matrix = featurise.run(
            params, connection, open_tables(connection, featurise.INGEST), describe_tables(featurise.INGEST),
            training, scoring, Applicants(open_tables(connection, tables, "applicants_"), asked_for),
            frozenset(each["name"] for each in inputs),
        )  # fmt: skip
        parts = list(matrix.groups(asked_for, with_position=True))
        features, position = (pa.concat_tables([part[at] for part in parts]) for at in (0, 1))
        catalogue = pd.DataFrame(matrix.catalogue())[["name", "definition_hash"]]
    finally:
        connection.disconnect()
    score.check_features(inputs, catalogue, features.column_names)
    return features, position


def answered(features: pa.Table, position: pa.Table, published: Published, version: str) -> pa.Table:
    """Return one row a customer in the scored table's columns: PD, grade, reasons, limit, term, action.

    version: of the data. Refuses (exit code 3) an answer that breaks the table's contract.
    """
    files, source, language = published.files, published.source, parameters.language()
    scores = score.run(files, features, score.Params.load(source).rows_at_a_time)
    now = features.filter(pc.equal(features["months_back"], 0))
    told = explainer.SCHEMA.empty_table()
    if pq.read_metadata(io.BytesIO(files["reference.parquet"])).num_rows:
        params = explain.Params.load(source)
        model = explainer.Explainer.of(files, params.least_points, params.engine, language)
        told, _ = explainer.teller(model)(now.sort_by("customer_id"))
    as_of, scale = pc.max(now["as_of"]).as_py(), Scale.from_json(files["grades.json"])
    numbers = read_policy(published.policy, as_of)
    numbers.check_scale(scale)
    overrides = read_overrides(decide.read_lines(published.overrides), as_of)
    model, currency = str(published.manifest["model_version"]), published.mapping.currency
    given = decide.Given(numbers, scale, overrides, currency, language, model, version)
    contract = TableContract.from_json((versions.CURRENT / decide.CONTRACT.name).read_bytes())
    table, _, _ = decide.run(given, contract, scores, position, told)
    problems = check_table(table, contract, pending=PENDING, enumerations={"grades": scale.names})
    if problems:
        raise GateRefused(problems)
    run_id = pa.array([str(published.manifest["run_id"])] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("run_id"), "run_id", run_id)


def score_folder(folder: Path, source: str | None, as_of: dt.date | None, out: Path | None) -> int:
    """Score the applicants of a folder and print the answers, or write them to `out`; return the exit code.

    Every customer of the folder is in the answer: scored, or refused with the reason (`refused_because`). Refused (exit
    code 4): a model that also scores child records, which only a run keeps.
    """
    answers.check(out)
    Scorer.from_files(asked.published()).needs_features_alone(str(folder))
    published = published_run(source)
    given = histories.given_in(folder, published.mapping, published.where)
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        tables = Path(scratch) / "ingest"
        rows = histories.ingested(ingest.Params.load(published.source), given, published.where, tables)
        rules = read_json(featurise.OBSERVE / "summary.json")
        seen = histories.observed(tables, given, as_of, rules, published.as_of)
        print("\n".join(_account(folder, given, rows, seen, published, histories.broken_rules(tables))))
        if seen.as_of is None:
            found = "; ".join(sorted(set(seen.refused.values()))) or "no customer at all"
            must = "someone of whom something is known"
            raise DataRefused(Problem(str(folder), must, found, "Deliver their rows, or state a later --as-of."))
        features, position = featurised(tables, seen.observations, published, Path(scratch))
    digests = sorted(sha256(file.path) for file in given.files)
    version = hashlib.sha256("\n".join([published.manifest["data_version"], *digests]).encode()).hexdigest()[:16]
    table = answered(features, position, published, version)
    if out is not None:
        answers.write(with_refused(table, seen.refused), out)
    lines = _told(table, seen) if out is None else []
    lines += [f"customer {customer}: refused, {why}" for customer, why in sorted(seen.refused.items())]
    print("\n".join(lines))
    print(f"score: {table.num_rows + len(seen.refused):,} applicants, {table.num_rows:,} scored, "
          f"{len(seen.refused):,} refused, by model {published.manifest['model_version']}"
          f"{f'; written to {out}' if out else ''}")  # fmt: skip
    return 0


def with_refused(table: pa.Table, refused: dict[str, str]) -> pa.Table:
    """Return the answers and a row for each who was refused, in the order of customers."""
    table = table.append_column("refused_because", pa.nulls(table.num_rows, pa.string()))
    names = {
        "customer_id": pa.array(list(refused), pa.string()),
        "refused_because": pa.array(list(refused.values()), pa.string()),
    }
    return pa.concat_tables([table, pa.table(names)], promote_options="default").sort_by("customer_id")


def _account(
    folder: Path, given: histories.Given, rows: dict[str, int], seen: histories.Seen, published: Published,
    broken: list[str],
) -> list[str]:  # fmt: skip
    """Return what was read, what is missing and what comes from elsewhere, line by line."""
    lines = [
        f"applicants in {folder}, by the mapping of {published.source} ({published.mapping.currency})",
        f"  observed on {seen.said}",
        f"  rows: {', '.join(f'{table} {count:,}' for table, count in rows.items())}",
        *(f"  in quarantine: {each}" for each in broken),
    ]
    if given.missing:
        listed = "; ".join(f"{table} ({why})" for table, why in given.missing.items())
        lines.append(f"  missing, so that what only they say is unknown: {listed}")
    if "customers" not in rows and "customers" in given.missing:
        lines.append("  unknown without customers: how they compare within an industry, a segment or a region")
    market = "".join(f", {table}" for table in given.market)
    lines.append(f"  of the published run {published.manifest['run_id']}: statistics over other customers{market}")
    if seen.as_of is not None and seen.as_of.replace(day=1) > published.as_of:
        lines.append(f"  mind: its tables end before {published.as_of}; of others nothing newer is known")
    return lines + ([f"  not read: {', '.join(given.unread)}"] if given.unread else [])


def _told(table: pa.Table, seen: histories.Seen) -> list[str]:
    """Return the answers, some lines an applicant."""
    lines = []
    for row in table.to_pylist():
        lines += ["", *asked.facts(row)]
        why = seen.outside.get(row["customer_id"])
        lines += [f"  mind: the model was made for customers otherwise than {why.replace('_', ' ')}"] if why else []
    return [*lines, ""]
