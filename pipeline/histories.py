"""Applicants' raw histories in a folder: what it fills of the source's mapping, its tables, who is observed and when.

The files go through the very ingest of a run, in a scratch folder, under the same contracts and limits.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from features.errors import DataRefused, Problem
from features.expressions import name as quoted
from features.expressions import quote
from features.labels import judge
from features.mapping import Block, Mapping
from features.tables import describe_tables
from pipeline import ingest, observe
from pipeline.earlier import Earlier
from pipeline.fingerprint import sha256
from pipeline.manifests import Delivery, check_files
from pipeline.raw import RAW, RawFile, files_below, laid_out, list_files, read_head, select_files
from pipeline.stage import read_json

LATER = ("outcome", "outcome_known_on")  # what nobody knows of an applicant, and no feature reads
EVER = dt.date(1900, 1, 1)  # rows known on it or before have no date of their own
SHOWN = 3  # places of broken rows that are named
NEEDS = {"open_credit": "credits", "all": "customers"}  # the table that a population rule looks at
SCHEMA = pa.schema([("customer_id", pa.string()), ("as_of", pa.date32()), ("months_back", pa.int32())])


@dataclass(frozen=True)
class Given:
    """What a folder holds: its files, the part of the mapping that they fill, and what is not to be had from them."""

    files: list[RawFile]
    mapping: Mapping
    missing: dict[str, str]  # table -> what is not there
    market: tuple[str, ...]  # tables about nobody in particular
    unread: tuple[str, ...]  # files


@dataclass(frozen=True)
class Seen:
    """Who is observed when, and who is not and why."""

    observations: pa.Table  # customer_id, as_of, months_back, in the order of as_of and customer_id
    said: str
    refused: dict[str, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)  # observed, though the population rule leaves them out

    @property
    def as_of(self) -> dt.date | None:
        """Return the newest date; None where nobody is observed."""
        days: list[dt.date] = self.observations["as_of"].to_pylist()
        return max(days, default=None)


def given_in(folder: Path, mapping: Mapping, where: str) -> Given:
    """Return what the folder fills of the mapping (named by `where`); refuse (exit code 2) where that is nothing.

    A file at the top of the folder also counts as one in a folder of its own, where the mapping's globs name one. Files
    that the mapping joins, and nothing else reads, are the source's own where the folder has none.
    """
    blocks = [block for table in mapping.tables.values() for block in table]
    globs = [glob for block in blocks for part in (block, *block.joins) for glob in part.files]
    files = [
        file if select_files([file], globs) else replace(file, inner=f"{folder.name}/{file.inner}")
        for file in files_below(folder)
    ]
    lent = lent_files(mapping, files)
    tables: dict[str, list[Block]] = {}
    missing, market = {}, []
    mapping = laid_out(mapping, files)
    for table, held in mapping.tables.items():
        if not {"customer_id", "credit_id"} & set(mapping.contract(table).columns):
            market.append(table)
            continue
        lacking = [_lacks(block, files, lent) for block in held]
        if any(lacking):
            missing[table] = "; ".join(dict.fromkeys(filter(None, lacking)))
        if not all(lacking):
            tables[table] = [_without_outcome(block) for block, lack in zip(held, lacking, strict=True) if not lack]
    for table in [table for table in tables if "customer_id" not in mapping.contract(table).columns]:
        if "credits" not in tables:
            missing[table] = "without credits nobody can tell whose they are"
            del tables[table]
    read = [glob for held in tables.values() for block in held for part in (block, *block.joins) for glob in part.files]
    unread = [file.name for file in files if not select_files([file], read)]
    if not tables:
        wanted = ", ".join(dict.fromkeys(glob for block in blocks for glob in block.files))
        told = [*(f"{table}: {why}" for table, why in missing.items()), *(f"{name}: not read" for name in unread)]
        found = "; ".join(told) if files else "an empty folder"
        must = f"a folder with rows of applicants, in files named as in {where} ({wanted})"
        raise DataRefused(Problem(str(folder), must, found, "Name the files as the mapping does."))
    mapping = mapping.model_copy(update={"tables": tables})
    return Given([*files, *lent], mapping, missing, tuple(market), tuple(unread))


def lent_files(mapping: Mapping, files: list[RawFile]) -> list[RawFile]:
    """Return the source's own files for joins that the folder has none for, but none that a table is read from."""
    if not (RAW / mapping.name).is_dir():
        return []
    blocks = [block for table in mapping.tables.values() for block in table]
    own = list_files(mapping.name)
    rows = {file.name for block in blocks for file in select_files(own, block.files)}
    wanted = [join.files for block in blocks for join in block.joins if not select_files(files, join.files)]
    found = {file.name: file for globs in wanted for file in select_files(own, globs) if file.name not in rows}
    return [replace(file, name=f"{RAW / mapping.name}/{file.name}", delivery=Delivery("")) for file in found.values()]


def _lacks(block: Block, files: list[RawFile], lent: list[RawFile]) -> str:
    """Return what a block lacks: rows in its files, or a file that they are joined with; empty where nothing."""
    chosen = [file for file in select_files(files, block.files) if file.path.stat().st_size]
    if block.format.type in ("csv", "arff"):
        chosen = [file for file in chosen if read_head(file, block.format)[2]]
    if not chosen:
        return f"no rows in {', '.join(block.files)}"
    absent = [", ".join(join.files) for join in block.joins if not select_files([*files, *lent], join.files)]
    return f"{', '.join(block.files)} is joined with {'; '.join(absent)}, which is not there" if absent else ""


def _without_outcome(block: Block) -> Block:
    kept = {column: sql for column, sql in block.columns.items() if column not in LATER}
    return block.model_copy(update={"columns": kept})


def ingested(params: ingest.Params, given: Given, where: str, out: Path) -> dict[str, int]:
    """Write the canonical tables of the folder into `out` and return table -> rows kept; refuse what breaks the limits.

    The refusal (exit code 2) names rules, counts and the first places; a value of the rows is never told.
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
        places = "; ".join(broken_rules(out)) or "the mapping's `where` or joins leave every row out"
        raise DataRefused([replace(problem, remedy=f"Correct the rows: {places}.") for problem in refused])
    return {table: account["kept"] for table, account in read_json(out / "quality.json")["tables"].items()}


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


def people(connection: Any, described: dict[str, Any]) -> pd.DataFrame:
    """Return customer_id, first and newest known_on of everyone of whom a row was kept, sorted."""
    owner = "(SELECT credit_id, arg_min(customer_id, known_on) AS customer_id FROM credits GROUP BY ALL)"
    parts = [
        f"SELECT customer_id, known_on FROM {quoted(table)}"
        if "customer_id" in entry["columns"]
        else f"SELECT o.customer_id, t.known_on FROM {quoted(table)} t JOIN {owner} o USING (credit_id)"
        for table, entry in sorted(described.items())
    ]
    rows = connection.execute(
        f"SELECT customer_id, min(known_on), max(known_on) FROM ({' UNION ALL '.join(parts)}) GROUP BY ALL ORDER BY 1"
    ).fetchall()
    return pd.DataFrame(rows, columns=["customer_id", "first", "newest"])


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


def observed(out: Path, given: Given, as_of: dt.date | None, rules: dict[str, Any], published: dt.date) -> Seen:
    """Return who is observed on which dates: one date each, and those before it on which a customer was in scope.

    Without `as_of` it is the newest decision that the folder states of each, where the source states decisions; else an
    undated source's own date; else the day after the newest row of the folder was known; else the published date.
    rules: summary.json of `observe`.
    """
    connection, described = observe.open_engine(out), describe_tables(out)
    known = people(connection, described)
    day, said = _date(known, given, as_of, published)
    dates = dict.fromkeys(known["customer_id"], day)
    stated = rules["observed_by"] == "source" and as_of is None and "observations" in described
    if stated:
        own = dict(connection.execute("SELECT customer_id, max(as_of) FROM observations GROUP BY ALL").fetchall())
        said = "each one's newest decision in the folder" + (f"; for others {said}" if len(own) < len(dates) else "")
        dates |= own
    seen = known.assign(as_of=known["customer_id"].map(dates))
    late = seen["first"] >= seen["as_of"]
    refused = {who: f"nothing is known before {on}" for who, on in seen.loc[late, ["customer_id", "as_of"]].to_numpy()}
    refused |= dict.fromkeys(hidden(out, given.mapping) - set(dates), "every row is in quarantine")
    frame = seen.loc[~late, ["customer_id", "as_of"]].assign(months_back=0)
    outside: dict[str, str] = {}
    if rules["observed_by"] != "source" and NEEDS[rules["population"]] in described:
        earlier, outside = _in_scope(connection, set(described), day, rules["population"], given.mapping.name)
        frame = pd.concat([frame, earlier[earlier["customer_id"].isin(frame["customer_id"])]], ignore_index=True)
    frame = frame.sort_values(["as_of", "customer_id"], ignore_index=True)
    return Seen(pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False), said, refused, outside)


def _date(known: pd.DataFrame, given: Given, as_of: dt.date | None, published: dt.date) -> tuple[dt.date, str]:
    """Return the folder's one date and where it comes from."""
    newest = max((day for day in known["newest"] if day > EVER), default=None)
    if as_of is not None:
        return as_of, f"{as_of}, as asked"
    if given.mapping.as_of is not None:
        return given.mapping.as_of, f"{given.mapping.as_of}, the mapping's one date"
    if newest is not None:
        day = newest + dt.timedelta(days=1)
        return day, f"{day}, the day after the newest row was known"
    return published, f"{published}, the published run's: no row has a date"


def _in_scope(
    connection: Any, tables: set[str], day: dt.date, population: str, source: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the earlier dates on which each was in the population, and why some are not on the day itself."""
    dates = [observe.months_before(day, back) for back in range(observe.MONTHS_BACK + 1)]
    judge(connection, tables, observe.Params.load(source).rules(), sorted(dates), day, population=population)
    rows = connection.execute("SELECT customer_id, as_of, excluded_because FROM judged").fetchall()
    back = {date: months for months, date in enumerate(dates)}
    kept = [(customer, date, back[date]) for customer, date, why in rows if why is None and back[date]]
    outside = {customer: why for customer, date, why in rows if why is not None and not back[date]}
    return pd.DataFrame(kept, columns=SCHEMA.names), outside
