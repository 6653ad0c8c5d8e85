"""score FOLDER: applicants' raw histories, read by the source's own mapping and answered by what is published.

The folder's files go through the very ingest, build, scorer, reasons and policy of a run, in a scratch folder; nothing
under data/ is written. What a feature says of others (peer groups, ranks, industries) comes from the published run's
own tables, where an applicant is no member: an answer does not hang on who else lies in the folder. The population rule
refuses no applicant; where an applicant is a customer already, his earlier dates are those on which it held.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, DataRefused, GateRefused, IntegrityRefused, Problem
from features.expressions import name as quoted
from features.expressions import quote
from features.labels import judge
from features.mapping import Block, Mapping, parse_mapping
from features.tables import describe_tables, open_tables
from models.contract import PENDING, TableContract, check_table
from models.grades import Scale
from models.overrides import read_overrides
from pipeline import answers, asked, decide, explain, featurise, ingest, observe, score, versions
from pipeline import params as parameters
from pipeline.earlier import Earlier
from pipeline.fingerprint import sha256
from pipeline.lending import Params as Lending
from pipeline.lending import read_policy
from pipeline.manifests import Delivery, check_files
from pipeline.raw import RAW, RawFile, files_below, laid_out, list_files, read_head, select_files
from pipeline.stage import read_json

LATER = ("outcome", "outcome_known_on")  # what nobody knows of an applicant, and no feature reads
NO_DATE = dt.date(1900, 1, 1)  # rows known on it or before are known from ever
SHOWN = 3  # places of broken rows that are named


@dataclass(frozen=True)
class Published:
    """What answers: the current version's manifest, its bundle, and the inputs that were stored with it."""

    manifest: dict[str, Any]
    files: dict[str, bytes]
    mapping: Path
    policy: Path
    overrides: Path

    @property
    def source(self) -> str:
        """Return whose customers the model was made of."""
        return str(self.manifest["source"])


@dataclass(frozen=True)
class Given:
    """What a folder holds: the files, the part of the mapping that they fill, what is missing, what nothing reads."""

    files: list[RawFile]
    mapping: Mapping
    missing: dict[str, str]
    market: list[str]  # tables that are no applicant's
    unread: list[str]


@dataclass(frozen=True)
class Seen:
    """Who is observed and when: (customer_id, as_of, months_back), in that order of time, and who is not and why."""

    observations: pa.Table
    said: str
    refused: dict[str, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)  # scored, though the population rule would leave them out


def published_run(source: str | None) -> Published:
    """Return what is published, if it is of `source` (None: whatever it is of).

    Refuses (exit code 4) where nothing is, or another source, and (exit code 7) where the tables and parameters that
    lie here are not those of the published run.
    """
    files = asked.published()
    manifest = versions.current_manifest() or {}
    if source not in (None, manifest["source"]):
        raise ConfigurationRefused(
            Problem("--source", f"the published source, {manifest['source']}", str(source),
                    "Choose it in params.yaml and run the pipeline, or leave the option out.")
        )  # fmt: skip
    inputs = versions.CURRENT / "inputs"
    policy = Path(Lending.load(manifest["source"]).policy)
    found = Published(
        manifest, files, inputs / f"{manifest['source']}.yaml", inputs / policy.name, inputs / decide.OVERRIDES.name
    )
    again = "Run the pipeline, then ask again."
    needed = (found.mapping, found.policy, *([found.overrides] if found.overrides.exists() else []))
    stated = manifest["files"]
    problems = [
        Problem(str(path), "the bytes that were published", "others" if path.exists() else "no such file", again)
        for path in needed
        if not path.exists() or stated.get(f"inputs/{path.name}") != sha256(path)
    ]
    ledger = decide.LEDGER.read_bytes() if decide.LEDGER.exists() else b""
    if decide.data_version(ledger, manifest["as_of"]) != manifest["data_version"]:
        must = f"the tables of the published run {manifest['run_id']}: others' statistics are theirs"
        problems.append(Problem("data/ingest", must, "another run's", again))
    if problems:
        raise IntegrityRefused(problems)
    return found


# ---- what the folder holds ---------------------------------------------------------------------------------------


def given_in(folder: Path, published: Published) -> Given:
    """Return what the folder fills of the mapping; refuse (exit code 2) where that is nothing.

    A file at the top of the folder also counts as one in a folder of its own, where the mapping's globs name one. Files
    that the mapping joins, and nothing else reads, are the source's own where the folder has none.
    """
    text = published.mapping.read_text(encoding="utf-8")
    mapping = parse_mapping(text, str(published.mapping))
    blocks = [block for table in mapping.tables.values() for block in table]
    globs = [glob for block in blocks for part in (block, *block.joins) for glob in part.files]
    files = [
        file if select_files([file], globs) else replace(file, inner=f"{folder.name}/{file.inner}")
        for file in files_below(folder)
    ]
    unread = [file.name for file in files if not select_files([file], globs)]
    files = [file for file in files if file.name not in unread]
    lent = _lent(mapping, files)
    mapping = laid_out(mapping, files)
    tables: dict[str, list[Block]] = {}
    missing: dict[str, str] = {}
    market = []
    for table, held in mapping.tables.items():
        if not {"customer_id", "credit_id"} & set(mapping.contract(table).columns):
            market.append(table)
            continue
        kept = [_without_outcome(block) for block in held if _filled(block, files, lent)]
        lacking = [", ".join(block.files) for block in held if not _filled(block, files, lent)]
        if lacking:
            missing[table] = f"no rows in {'; '.join(lacking)}"
        if kept:
            tables[table] = kept
    for table in [table for table in tables if "customer_id" not in mapping.contract(table).columns]:
        if "credits" not in tables:
            missing[table] = "without credits nobody can tell whose they are"
            del tables[table]
    if not tables:
        found = "an empty folder"
        if files or unread:
            found = "; ".join(
                [*(f"{table}: {why}" for table, why in missing.items()), *(f"{n}: read by none" for n in unread)]
            )
        wanted = ", ".join(dict.fromkeys(glob for block in blocks for glob in block.files))
        raise DataRefused(
            Problem(str(folder), f"a folder with rows of applicants in files named as {published.source}'s ({wanted})",
                    found, "Name the files as the mapping does.")
        )  # fmt: skip
    return Given([*files, *lent], mapping.model_copy(update={"tables": tables}), missing, market, unread)


def _lent(mapping: Mapping, files: list[RawFile]) -> list[RawFile]:
    """Return the source's own files for joins that the folder has none for, but none that a table is read from."""
    if not (RAW / mapping.name).is_dir():
        return []
    blocks = [block for table in mapping.tables.values() for block in table]
    own = list_files(mapping.name)
    rows = {file.name for block in blocks for file in select_files(own, block.files)}
    wanted = [join.files for block in blocks for join in block.joins if not select_files(files, join.files)]
    found = {file.name: file for globs in wanted for file in select_files(own, globs) if file.name not in rows}
    return [replace(file, name=f"{RAW / mapping.name}/{file.name}", delivery=Delivery("")) for file in found.values()]


def _filled(block: Block, files: list[RawFile], lent: list[RawFile]) -> bool:
    """Tell whether the folder has rows for a block, and what they are joined with."""
    chosen = [file for file in select_files(files, block.files) if file.path.stat().st_size]
    if block.format.type in ("csv", "arff"):
        chosen = [file for file in chosen if read_head(file, block.format)[2]]
    return bool(chosen) and all(select_files([*files, *lent], join.files) for join in block.joins)


def _without_outcome(block: Block) -> Block:
    kept = {column: sql for column, sql in block.columns.items() if column not in LATER}
    return block.model_copy(update={"columns": kept})


def ingested(params: ingest.Params, given: Given, where: str, out: Path) -> dict[str, Any]:
    """Write the canonical tables of the folder into `out` and return their account; refuse what breaks the limits (2).

    The refusal names rules, counts and the first places; a value of the rows is never told.
    """
    check_files(given.files, {file.name: sha256(file.path) for file in given.files})
    refused: tuple[Problem, ...] = ()
    with contextlib.redirect_stdout(io.StringIO()), ingest.memory(params.memory_limit):
        try:
            ingest.build_tables(params, given.mapping, given.files, where, Earlier(out))
        except DataRefused as refusal:
            if not (out / "quality.json").exists():
                raise
            refused = refusal.problems
    if refused:
        places = "; ".join(broken_rules(out)) or "all rows are left out by the mapping's `where` or joins"
        raise DataRefused([replace(problem, remedy=f"Correct the rows: {places}.") for problem in refused])
    return dict(read_json(out / "quality.json")["tables"])


def broken_rules(out: Path) -> list[str]:
    """Return each table's broken rules with their counts and where the first rows stand."""
    import duckdb

    told = []
    for path in sorted((out / "quarantine").glob("*.parquet")):
        rules = duckdb.execute(
            "SELECT rule, count(*), list(file || ', line ' || line ORDER BY file, line) FROM "
            f"(SELECT *, unnest(rules) AS rule FROM {quote(str(path))}) GROUP BY rule ORDER BY rule"
        ).fetchall()
        for rule, count, places in rules:
            listed = "; ".join(places[:SHOWN]) + (" and others" if count > SHOWN else "")
            told.append(f"{path.stem}: {rule} {count:,} ({listed})")
    return told


# ---- who is observed, and when -----------------------------------------------------------------------------------


def people(connection: Any, tables: set[str], described: dict[str, Any]) -> pd.DataFrame:
    """Return customer_id, first and newest known_on of everyone whom a kept row speaks of, sorted."""
    owner = "(SELECT credit_id, arg_min(customer_id, known_on) AS customer_id FROM credits GROUP BY ALL)"
    parts = [
        f"SELECT customer_id, known_on FROM {quoted(table)}"
        if "customer_id" in described[table]["columns"]
        else f"SELECT o.customer_id, t.known_on FROM {quoted(table)} t JOIN {owner} o USING (credit_id)"
        for table in sorted(tables)
    ]
    frame: pd.DataFrame = connection.execute(
        "SELECT customer_id, min(known_on) AS first, max(known_on) AS newest FROM "
        f"({' UNION ALL '.join(parts)}) GROUP BY ALL ORDER BY 1"
    ).df()
    return frame.assign(first=frame["first"].dt.date, newest=frame["newest"].dt.date)


def hidden(out: Path, mapping: Mapping) -> set[str]:
    """Return the customers named in quarantined rows, where the mapping's customer_id is a column of the file."""
    import duckdb

    found = set()
    for path in sorted((out / "quarantine").glob("*.parquet")):
        for number, block in enumerate(mapping.tables[path.stem]):
            column = block.columns.get("customer_id", "").strip().strip('"').rpartition(".")[2]
            if column.isidentifier():
                rows = duckdb.execute(
                    f"SELECT DISTINCT json_extract_string(original, ?) FROM {quote(str(path))} "
                    "WHERE block = ? AND json_valid(original)", [f'$."{column}"', number],
                ).fetchall()  # fmt: skip
                found |= {row[0] for row in rows if row[0]}
    return found


def observed(out: Path, given: Given, as_of: dt.date | None, published: Published) -> Seen:
    """Return who is observed on which dates: the newest first, then those on which an existing customer was in scope.

    Without `as_of`: the newest decision that the folder states of each, where the source states decisions; else an
    undated source's own date; else the day after the newest row of the folder was known.
    """
    connection = observe.open_engine(out)
    described = describe_tables(out)
    tables = {
        row[0] for row in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    }
    known = people(connection, tables, described)
    newest = max((day for day in known["newest"] if day > NO_DATE), default=None)
    day, said = as_of, "as asked"
    if day is None and given.mapping.as_of is not None:
        day, said = given.mapping.as_of, "the mapping's one date"
    if day is None and newest is not None:
        day, said = newest + dt.timedelta(days=1), "the day after the newest row was known"
    if day is None:
        day, said = dt.date.fromisoformat(published.manifest["as_of"]), "the published run's: no row has a date"
    dates = dict.fromkeys(known["customer_id"], day)
    by_source = read_json(featurise.OBSERVE / "summary.json")["observed_by"] == "source"
    if as_of is None and by_source and "observations" in tables:
        own = connection.execute("SELECT customer_id, max(as_of) FROM observations GROUP BY ALL").fetchall()
        dates |= dict(own)
        said = "each one's newest decision in the folder" + (f"; {said} for others" if len(own) < len(dates) else "")
    seen = known.assign(as_of=[dates[customer] for customer in known["customer_id"]])
    late = seen["first"] >= seen["as_of"]
    refused = {row.customer_id: f"nothing is known before {row.as_of}" for row in seen[late].itertuples()}
    refused |= dict.fromkeys(hidden(out, given.mapping) - set(dates), "every row is in quarantine")
    seen = seen[~late]
    frame = pd.DataFrame({"customer_id": seen["customer_id"], "as_of": seen["as_of"], "months_back": 0})
    outside: dict[str, str] = {}
    if not by_source and len(frame):
        earlier, outside = _in_scope(connection, tables, day, published)
        frame = pd.concat([frame, earlier[earlier["customer_id"].isin(frame["customer_id"])]], ignore_index=True)
    frame = frame.sort_values(["as_of", "customer_id"], ignore_index=True)
    schema = pa.schema([("customer_id", pa.string()), ("as_of", pa.date32()), ("months_back", pa.int32())])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    return Seen(table, f"{day}, {said}" if not (by_source and as_of is None) else said, refused, outside)


def _in_scope(
    connection: Any, tables: set[str], day: dt.date, published: Published
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the earlier dates on which each was in the population, and why some are not on the day itself."""
    population = read_json(featurise.OBSERVE / "summary.json")["population"]
    dates = [observe.months_before(day, back) for back in range(observe.MONTHS_BACK + 1)]
    if {"open_credit": "credits", "all": "customers"}[population] not in tables:
        return pd.DataFrame({"customer_id": [], "as_of": [], "months_back": []}), {}
    rules = observe.Params.load(published.source).rules()
    judge(connection, tables, rules, sorted(dates), day, population=population)
    rows = connection.execute("SELECT customer_id, as_of, excluded_because FROM judged").fetchall()
    back = {date: months for months, date in enumerate(dates)}
    kept = [(customer, date, back[date]) for customer, date, why in rows if why is None and back[date]]
    outside = {customer: why for customer, date, why in rows if why is not None and not back[date]}
    return pd.DataFrame(kept, columns=["customer_id", "as_of", "months_back"]), outside


# ---- the answer --------------------------------------------------------------------------------------------------


def featurised(out: Path, seen: Seen, published: Published, scratch: Path) -> tuple[pa.Table, pa.Table]:
    """Return features and positions of the observations, declared as the published run declares them.

    Refuses (exit code 7) where the model's features are not those.
    """
    import ibis

    from features.build import Applicants

    params = featurise.Params.load(published.source)
    connection = ibis.duckdb.connect(memory_limit=params.memory_limit, temp_directory=str(scratch))
    try:
        tables = open_tables(connection, featurise.INGEST)
        training, scoring = (
            connection.read_parquet(featurise.OBSERVE / f"{name}.parquet", table_name=name)
            for name in ("training", "scoring")
        )
        observations = connection.create_table("asked_for", seen.observations, temp=True)
        applicants = Applicants(open_tables(connection, out, "applicants_"), observations)
        described = describe_tables(featurise.INGEST)
        matrix = featurise.run(params, connection, tables, described, training, scoring, applicants)
        parts = list(matrix.groups(observations, with_position=True))
        features, position = (pa.concat_tables([part[at] for part in parts]) for at in (0, 1))
        catalogue = pd.DataFrame(matrix.catalogue())[["name", "definition_hash"]]
        score.check_features(score.inputs_of(published.files), catalogue, features.column_names)
    finally:
        connection.disconnect()
    return features, position


def answered(features: pa.Table, position: pa.Table, published: Published, currency: str, version: str) -> pa.Table:
    """Return the table as it would be published: scored, with reasons, limit, term and action by the same policy."""
    files, source = published.files, published.source
    language = parameters.language()
    scores = score.run(files, features, score.Params.load(source).rows_at_a_time)
    now = features.filter(pc.equal(features["months_back"], 0))
    reasons = explain.SCHEMA.empty_table()
    if pq.read_metadata(io.BytesIO(files["reference.parquet"])).num_rows:
        reasons, _ = explain.run(files, now, explain.Params.load(source), language)
    as_of = pc.max(now["as_of"]).as_py()
    scale = Scale.from_json(files["grades.json"])
    numbers = read_policy(published.policy, as_of)
    numbers.check_scale(scale)
    overrides = read_overrides(decide.read_lines(published.overrides), as_of)
    model = str(published.manifest["model_version"])
    given = decide.Given(numbers, scale, overrides, currency, language, model, version)
    contract = TableContract.from_json((versions.CURRENT / decide.CONTRACT.name).read_bytes())
    table, _, _ = decide.run(given, contract, scores, position, reasons)
    problems = check_table(table, contract, pending=PENDING, enumerations={"grades": scale.names})
    if problems:
        raise GateRefused(problems)
    run_id = pa.array([str(published.manifest["run_id"])] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("run_id"), "run_id", run_id)


def score_folder(folder: Path, source: str | None, as_of: dt.date | None, out: Path | None) -> int:
    """Score the applicants of a folder and print the answers, or write them to `out` as well; return the exit code.

    Every customer of the folder is answered: scored, or refused with the reason (column refused_because).
    """
    answers.check(out)
    published = published_run(source)
    given = given_in(folder, published)
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        tables = Path(scratch) / "ingest"
        quality = ingested(ingest.Params.load(published.source), given, str(published.mapping), tables)
        seen = observed(tables, given, as_of, published)
        told = _account(folder, given, quality, seen, published, tables)
        if not seen.observations.num_rows:
            reasons = "; ".join(sorted(set(seen.refused.values()))) or "nobody"
            raise DataRefused(Problem(str(folder), "someone of whom something is known", reasons, "State --as-of."))
        features, position = featurised(tables, seen, published, Path(scratch))
    version = hashlib.sha256(
        "\n".join([published.manifest["data_version"], *sorted(sha256(file.path) for file in given.files)]).encode()
    ).hexdigest()[:16]
    table = answered(features, position, published, given.mapping.currency, version)
    print("\n".join([*told, *_told(table, seen)]))
    if out is not None:
        answers.write(_with_refused(table, seen.refused), out)
    print(f"score: {table.num_rows + len(seen.refused):,} applicants, {table.num_rows:,} scored, "
          f"{len(seen.refused):,} refused, by model {published.manifest['model_version']}"
          f"{f'; written to {out}' if out else ''}")  # fmt: skip
    return 0


def _with_refused(table: pa.Table, refused: dict[str, str]) -> pa.Table:
    """Return the answers and a row for each who was refused, in the order of customers."""
    table = table.append_column("refused_because", pa.nulls(table.num_rows, pa.string()))
    rows = pa.table({"customer_id": list(refused), "refused_because": list(refused.values())}, schema=pa.schema(
        [("customer_id", pa.string()), ("refused_because", pa.string())]))  # fmt: skip
    return pa.concat_tables([table, rows], promote_options="default").sort_by("customer_id")


def _account(
    folder: Path, given: Given, quality: dict[str, Any], seen: Seen, published: Published, tables: Path
) -> list[str]:
    """Return what was read, what is missing and what was taken from elsewhere, line by line."""
    rows = [f"{table} {account['kept']:,}" for table, account in quality.items()]
    lines = [
        f"applicants in {folder}, by the mapping of {published.source} ({given.mapping.currency})",
        f"  observed on {seen.said}",
        f"  rows: {', '.join(rows)}",
    ]
    if given.missing:
        listed = "; ".join(f"{table} ({why})" for table, why in given.missing.items())
        lines.append(f"  missing, so that what only they say is unknown: {listed}")
    others = ["the statistics over other customers", *given.market]
    lines.append(f"  of the published run {published.manifest['run_id']}: {', '.join(others)}")
    lines += [f"  read by nothing: {', '.join(given.unread)}"] if given.unread else []
    lines += [f"  in quarantine: {broken}" for broken in broken_rules(tables)]
    return lines


def _told(table: pa.Table, seen: Seen) -> list[str]:
    """Return the answers, some lines an applicant."""
    lines = []
    for row in table.to_pylist():
        lines += ["", *asked.facts({**row, "grade_published_before": None})]
        if row["customer_id"] in seen.outside:
            lines.append(f"  not of the model's population: {seen.outside[row['customer_id']].replace('_', ' ')}")
    lines += [f"\ncustomer {customer}: refused, {why}" for customer, why in sorted(seen.refused.items())]
    return [*lines, ""]
