"""check-source: what each canonical table would get from a mapping and the first rows of its files, within seconds.

For a person writing their first mapping, on their own terminal: rows, types, first rows, what fails and why (with the
file, the line and the text), what is not mapped, who would be observed. The heads of the files (files that others refer
to and joined ones are read further) go through `ingest` itself in a scratch folder; nothing is written in the project.
Exit codes: 0 it would do, 2 the data would be refused, 4 the mapping is wrong.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from features.errors import DataRefused, Problem, Refusal
from features.expressions import name as quoted
from features.mapping import Block, Format, Mapping
from features.tables import TEXT
from pipeline import ingest, observe
from pipeline.limits import over_limits
from pipeline.looks import date_formats
from pipeline.params import PARAMS_FILE, read_params
from pipeline.raw import RAW, RawFile, list_files, select_files
from pipeline.sample import head_of
from pipeline.sniff import columns_of_head
from pipeline.stage import read_json

ROWS = 20_000  # of each block's files
FURTHER = 1_000_000  # of files that others refer to, or that are joined
SHOWN = 3  # first rows, examples of a rule
FOLDER = Path("data/ingest")


@dataclass(frozen=True)
class Sample:
    """The heads of a source's files; `cut` are the names of those that go on, `forms` how each is written."""

    files: list[RawFile]
    cut: frozenset[str]
    forms: dict[str, Format]


def sample_files(mapping: Mapping, files: list[RawFile], root: Path, rows: int) -> Sample:
    """Copy the head of every file that the mapping names to its place under `root`; what others need is read further.

    Manifests keep their dates and lose what they state of whole files.
    """
    wanted: dict[str, tuple[RawFile, Format, int]] = {}
    for table, blocks in mapping.tables.items():
        for block in blocks:
            chosen = select_files(files, block.files)
            each = FURTHER if table in ("customers", "credits") else max(rows // max(len(chosen), 1), 200)
            readings = [(chosen, block.format, each)]
            readings += [(select_files(files, join.files), join.format, FURTHER) for join in block.joins]
            for members, form, limit in readings:
                for file in members:
                    if file.name not in wanted or wanted[file.name][2] < limit:
                        wanted[file.name] = (file, form, limit)
    heads, cut = [], set()
    for file, form, limit in wanted.values():
        path, whole = head_of(file, form, (root / file.name).parent, limit)
        heads.append(replace(file, path=path))
        cut |= set() if whole else {file.name}
    deliveries = {file.delivery.name: file.delivery for file in files if file.delivery.files is not None}
    for delivery in deliveries.values():
        stated = {"delivered_on": str(delivery.delivered_on), "complete": delivery.complete}
        path = root / ("" if delivery.name == "." else delivery.name) / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: value for key, value in stated.items() if value != "None"}))
    forms = {name: form for name, (_, form, _) in wanted.items()}
    return Sample(sorted(heads, key=lambda file: file.name), frozenset(cut), forms)


def check(source: str, rows: int = ROWS) -> int:
    """Print what `source` would become and return the exit code: 0, or 2 where ingest would refuse the data.

    Raises ConfigurationRefused (4) or DataRefused (2) where nothing can be read at all.
    """
    limits, params = ingest.Params.load(source), read_params()
    ingest.preflight(source)
    mapping, every = ingest.load_mapping(source), list_files(source)
    loose = {"max_quarantined_row_share": 1, "max_quarantined_amount_share": 1}
    own = (params.get("sources") or {}).get(source) or {}
    params |= {"source": source, "ingest": {**(params.get("ingest") or {}), **loose},
               "sources": {source: {key: value for key, value in own.items() if key != "ingest"}}}  # fmt: skip
    text = ingest.mapping_path(source).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        sample = sample_files(mapping, every, Path(scratch) / RAW / source, rows)
        refused: tuple[Problem, ...] = ()
        with contextlib.chdir(scratch):
            PARAMS_FILE.write_text(yaml.safe_dump(params), encoding="utf-8")
            ingest.mapping_path(source).parent.mkdir(parents=True, exist_ok=True)
            ingest.mapping_path(source).write_text(text, encoding="utf-8")
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    ingest.main()
            except DataRefused as refusal:
                if not (FOLDER / "quality.json").exists():
                    raise
                refused = refusal.problems
            quality = read_json(FOLDER / "quality.json")["tables"]
            print(f"{source}: {len(every)} files, currency {mapping.currency}; "
                  f"{'the first rows' if sample.cut else 'all'} of {len(sample.files)} read")  # fmt: skip
            connection = observe.open_engine(FOLDER)
            for table, account in quality.items():
                _print_table(connection, mapping, table, account, sample)
            _print_unmapped(mapping, sample)
            cut = {table for table in quality if _holder_cut(mapping, table, sample)}
            judged = {table: account for table, account in quality.items() if table not in cut}
            if not refused:
                refused = tuple(over_limits(limits, judged, FOLDER, ingest.OUT))
                refused += tuple(_print_observed(mapping, cut=bool(sample.cut)))
    for problem in refused:
        print(f"\nwould be refused: {problem.sentence()}")
    return 2 if refused else 0


def _holder_cut(mapping: Mapping, table: str, sample: Sample) -> bool:
    """Tell whether a table that this one refers to was only read in part, so that nothing can be said of orphans."""
    holders = [target for _, target in mapping.contract(table).references if target in mapping.tables]
    patterns = [glob for holder in holders for block in mapping.tables[holder] for glob in block.files]
    return any(file.name in sample.cut for file in select_files(sample.files, patterns))


def _aligned(rows: list[list[str]], indent: str = "    ") -> str:
    """Return rows of text as columns, cut to what a terminal shows."""
    cells = [[cell if len(cell) <= 28 else cell[:27] + "…" for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _print_table(connection: Any, mapping: Mapping, table: str, account: dict[str, Any], sample: Sample) -> None:
    """Print one table: counts by block, types and how full the columns are, first rows, broken rules."""
    contract, blocks = mapping.contract(table), mapping.tables[table]
    print(f"\n{table}: {account['kept']:,} rows (grain: {contract.grain})")
    for block, counts in zip(blocks, account["blocks"], strict=True):
        names = [file.name for file in select_files(sample.files, block.files)]
        part = " (the first rows)" if any(name in sample.cut for name in names) else ""
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        words = {"read": "read", "kept": "kept", "left_out": "left out by where", "deduplicated": "repeated",
                 "quarantined": "quarantined"}  # fmt: skip
        print(f"  from {listed}{part}: {', '.join(f'{word} {counts[key]:,}' for key, word in words.items())}")
    given = {column for block in blocks for column in block.columns}
    given |= {column for block in blocks for column in (*block.attributes.numeric, *block.attributes.categorical)}
    shown = given | {"known_on", *contract.key}
    if account["kept"]:
        types = connection.execute(f"DESCRIBE {quoted(table)}").fetchall()
        _print_columns(connection, table, {row[0]: row[1] for row in types if row[0] in shown}, contract.key)
    _print_broken(mapping, table)


def _print_columns(connection: Any, table: str, columns: dict[str, str], key: tuple[str, ...]) -> None:
    """Print each column's type, share of nulls and range, and the first rows."""
    parts = []
    for column, kind in columns.items():
        value = quoted(column)
        span = f"CAST(min({value}) AS VARCHAR) || ' to ' || CAST(max({value}) AS VARCHAR)"
        span = f"CAST(count(DISTINCT {value}) AS VARCHAR) || ' different'" if kind == TEXT else span
        parts.append(f"[CAST(round(100 * (1 - count({value}) / count(*)), 1) AS VARCHAR), {span}]")
    facts = connection.execute(f"SELECT {', '.join(parts)} FROM {quoted(table)}").fetchone()
    rows = [["column", "type", "null %", "values"]]
    rows += [
        [column, columns[column], empty, span or "-"] for column, (empty, span) in zip(columns, facts, strict=True)
    ]
    print(_aligned(rows))
    few = list(columns)[:9]
    listed = ", ".join(f"CAST({quoted(column)} AS VARCHAR)" for column in few)
    order = ", ".join(quoted(column) for column in (*key, "known_on"))
    first = connection.execute(f"SELECT {listed} FROM {quoted(table)} ORDER BY {order} LIMIT {SHOWN}").fetchall()
    more = f" (the first {len(few)} of {len(columns)} columns)" if len(few) < len(columns) else ""
    print(f"  first rows{more}:")
    print(_aligned([few, *[["" if cell is None else cell for cell in row] for row in first]]))


def _print_broken(mapping: Mapping, table: str) -> None:
    """Print each broken rule with its count and examples: file, line, the text of the columns that it speaks about."""
    import duckdb

    path = FOLDER / "quarantine" / f"{table}.parquet"
    if not path.exists():
        return
    rules = duckdb.execute(
        f"SELECT rule, count(*), list((block, file, line, original) ORDER BY file, line)[:{SHOWN}] FROM "
        f"(SELECT *, unnest(rules) AS rule FROM '{path}') GROUP BY rule ORDER BY count(*) DESC, rule"
    ).fetchall()
    for rule, count, examples in rules:
        print(f"  broken rule {rule}: {count:,} rows ({_meaning(rule)})")
        for number, file, line, original in examples:
            block = mapping.tables[table][number]
            print(f"    {file}, line {line}: {_excerpt(rule, block, original)}")
    hint = _date_hint(mapping.tables[table], rules)
    if hint:
        print(f"  hint: {hint}")


MEANINGS = {
    "type": "the text is not of the column's type",
    "scale": "more decimals than the column holds: round it in the mapping if that is right",
    "sql": "the expression fails on this row",
    "required": "the column may not be empty",
    "range": "outside what the column may hold",
    "columns": "the line does not split into the file's columns",
    "conflict": "the same key on the same day with other content",
    "reference": "its customer or credit is in no row of the table that holds them",
}


def _meaning(rule: str) -> str:
    """Return a rule in words."""
    return MEANINGS.get(rule.partition(":")[0], "a rule of the table")


def _excerpt(rule: str, block: Block, original: str) -> str:
    """Return the raw text of the columns that a broken rule speaks about, or of the whole row."""
    try:
        record = json.loads(original)
    except ValueError:
        return original[:160]
    column = rule.partition(":")[2]
    attributes = {**block.attributes.numeric, **block.attributes.categorical}
    sql = block.where if column == "where" else block.columns.get(column) or attributes.get(column) or ""
    named = {key: value for key, value in record.items() if key in (sql or "")}
    return ", ".join(f"{key} = {value!r}" for key, value in list((named or record).items())[:8])[:200]


def _date_hint(blocks: list[Block], rules: list[Any]) -> str | None:
    """Return a date format that would read what failed as a date, or None."""
    texts = []
    for rule, _, examples in rules:
        if not rule.startswith(("type:", "sql:")) or not rule.endswith(("_on", "as_of", "period_end", "period_start")):
            continue
        for number, _, _, original in examples:
            sql = blocks[number].columns.get(rule.partition(":")[2], "")
            try:
                texts += [str(value) for key, value in json.loads(original).items() if key in sql and value]
            except ValueError:
                continue
    found = date_formats(texts) if texts else []
    return f"write `dates: {json.dumps(found)}` under `format`" if found else None


def _print_unmapped(mapping: Mapping, sample: Sample) -> None:
    """Print which columns of the files no expression names."""
    named: dict[str, str] = {}
    for block in (block for blocks in mapping.tables.values() for block in blocks):
        texts = [f"{join.on} {join.at or ''} {join.dated or ''} {join.known_on or ''}" for join in block.joins]
        for part in block.repeats():
            attributes = {**part.attributes.numeric, **part.attributes.categorical}
            texts += [*part.columns.values(), *attributes.values(), part.where or ""]
        for patterns in [block.files, *(join.files for join in block.joins)]:
            for file in select_files(sample.files, patterns):
                named[file.name] = named.get(file.name, "") + " " + " ".join(texts).lower()
    unused: dict[str, list[str]] = {}
    for file in sample.files:
        columns = columns_of_head(file, sample.forms[file.name])
        listed = ", ".join(sorted(column for column in columns if column.lower() not in named[file.name]))
        if listed:
            unused.setdefault(listed, []).append(file.name)
    lines = [
        f"  {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {listed}"
        for listed, files in unused.items()
    ]
    print("\n".join(["\ncolumns of the files that nothing names:", *lines] if lines else ["\nevery column is used"]))


def _print_observed(mapping: Mapping, *, cut: bool) -> tuple[Problem, ...]:
    """Print who would be observed, and how many good, bad and unknown; return why nobody can be."""
    dates = read_json(FOLDER / "as_of.json")
    as_of = dt.date.fromisoformat(dates["as_of"])
    params = observe.Params.load()
    until = observe.until_date(as_of)
    out = Path("data/observe")
    out.mkdir(parents=True)
    try:
        connection = observe.open_engine(FOLDER)
        summary = observe.run(params, connection, as_of, until, undated=bool(dates.get("undated")), out=out)
    except Refusal as refusal:
        return refusal.problems
    total = {"good": 0, "bad": 0}
    others: dict[str, int] = {}
    for record in summary["by_as_of"]:
        total = {key: total[key] + record[key] for key in total}
        for kind in ("unknown", "excluded"):
            for reason, count in record[kind].items():
                others[f"{kind} ({reason})"] = others.get(f"{kind} ({reason})", 0) + count
    by = {"observations": "the source's own observations", "open_credit": "customers with an open credit of our own"}
    population = by.get(summary["population"], "every customer")
    undated = " (stated in the mapping: no date of its own)" if mapping.as_of else ""
    print(f"\nobserved: {population}; as_of {as_of}{undated}, horizon {params.horizon_months} months"
          f"{'; counts of the sample alone' if cut else ''}")  # fmt: skip
    facts = {**total, **others, "scored at as_of": summary["scored"].get("0", 0), **{
        f"training {key}": value for key, value in summary["training"].items()}}  # fmt: skip
    print(_aligned([[key, f"{value:,}"] for key, value in facts.items()]))
    rows, bad = summary["training"]["rows"], summary["training"]["bad"]
    if not bad or bad == rows:
        print("  both good and bad outcomes are needed to train a model"
              + (": none of one kind among the first rows, which need not mean the file" if cut else ""))  # fmt: skip
    return ()
