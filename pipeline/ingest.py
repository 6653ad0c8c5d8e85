"""ingest: data/raw/<source>/ by its mapping -> canonical tables, checked, quarantined, one file a month of knowledge.

Writes data/ingest/: tables/<table>/known_month=YYYY-MM/part.parquet, tables.json, quarantine/<table>.parquet,
index/<table>/ (hashed keys, see earlier.py), quality.json, as_of.json, overrides/<section>.json, ledger.json. The
folder outlives the stage (persist: true): where the ledger explains everything that lies there, only new files are
read and only the months that they touch are written, with the bytes that a build from scratch would give; else it is
built from scratch. Where a delivery changes what earlier files say it is built from scratch too: a new file that others
are joined with (earlier rows may have another partner now), a column whose type differs between files (parquet), a
customer or credit of whom a conflict leaves no row (whatever names it becomes an orphan).
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from features.errors import ConfigurationRefused, DataRefused, Problem, ResourceRefused
from features.mapping import Mapping, parse_mapping
from features.tables import CONTRACTS, RATIO, TEXT
from pipeline import ledger, tombstones
from pipeline.earlier import Again, Earlier, Rebuild, scan
from pipeline.limits import over_limits
from pipeline.manifests import check_contents, check_files
from pipeline.params import STAGES, Section, overrides, resolved_as_of, source_name
from pipeline.raw import RawFile, laid_out, list_files
from pipeline.stage import execute, fresh, read_json, say, write_json

OUT = Path("data/ingest")
SOURCES = Path("data/sources")
HASHES = Path(".run/hashes.json")  # no output: what spares the hashing of files that nobody touched
MOST_YEARS, FEW = 10, 0.001  # so few rows, so long after all others, do not make a date
CHANGED = "changed.json"  # [column, who held an earlier row that changes its state, who holds the new one of its key]
STATES = ("read", "kept", "quarantined", "deduplicated", "left_out")


class Params(Section):
    """How much bad data is tolerated, and the engine's memory."""

    section: ClassVar[str] = "ingest"
    max_quarantined_row_share: float = Field(0.005, ge=0, le=1)
    max_quarantined_amount_share: float = Field(0.005, ge=0, le=1)
    memory_limit: str = Field("3GiB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$")


def mapping_path(source: str) -> Path:
    """Return where a source's mapping stands."""
    return SOURCES / f"{source}.yaml"


def load_mapping(source: str) -> Mapping:
    """Read a source's mapping; refuse (exit code 4) where it is absent or wrong."""
    path = mapping_path(source)
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in SOURCES.glob("*.yaml"))) or "none"
        raise ConfigurationRefused(
            Problem(str(path), "the mapping of the source that params.yaml names", f"no such file (there are: {have})",
                    "Set `source:` to one of them or write the mapping.")
        )  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationRefused(Problem(str(path), "UTF-8 text", "other bytes", "Save it as UTF-8.")) from None
    mapping = parse_mapping(text, str(path))
    if mapping.name != source:
        raise ConfigurationRefused(Problem(f"{path}: name", source, mapping.name, "Name the mapping like its file."))
    return laid_out(mapping)


def preflight(source: str) -> None:
    """Refuse what can be refused within a second: the mapping, missing or empty files, columns that no header has.

    Raises ConfigurationRefused (4) or DataRefused (2) with all problems; reads headers only, writes nothing.
    """
    from pipeline.build import Build, engine

    mapping = load_mapping(source)
    files = list_files(source)
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        connection = engine("1GiB", Path(scratch), sorted({file.path.resolve().parent for file in files}))
        try:
            Build(connection, mapping, files, str(mapping_path(source)), Path(scratch)).compile()
        finally:
            connection.close()


def build_tables(
    params: Params, mapping: Mapping, files: list[RawFile], where: str, earlier: Earlier,
    erased: tombstones.Tombstones | None = None, beside: Path | None = None,
) -> dict[str, dict[str, list[list[str]]]]:  # fmt: skip
    """Build the folder of `earlier`, or add what the files hold that it does not explain; return the files' headers.

    Refuses what breaks the limits (exit code 2). Earlier files whose rows change their state are read once more.
    erased: whose rows are left out. beside: as in `main`.
    """
    again: frozenset[str] = frozenset()
    while True:
        try:
            return _attempt(params, mapping, files, where, earlier, again, erased, beside)
        except Again as request:
            again |= request.files
        except Rebuild:
            earlier, again = Earlier(earlier.folder), frozenset()


def _attempt(
    params: Params, mapping: Mapping, files: list[RawFile], where: str, earlier: Earlier, again: frozenset[str],
    erased: tombstones.Tombstones | None, beside: Path | None,
) -> dict[str, dict[str, list[list[str]]]]:  # fmt: skip
    """Stage and mark all tables, then write them; nothing is touched before all that must be read has been read."""
    from pipeline.build import Build, dependency_order, engine

    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        folders = sorted({file.path.resolve().parent for file in files})
        connection = engine(params.memory_limit, Path(scratch), [*folders, earlier.folder])
        try:
            build = Build(connection, mapping, files, where, Path(scratch), earlier, again)
            build.look_through()
            build.compile()
            order = dependency_order(list(mapping.tables))
            for table in order:
                build.stage(table)
            check_contents(build)
            if erased is not None:
                erased.leave_out(build, order, earlier.ledger.get("erased_credits") or [])
                build.erased, build.stones = erased.counts, erased
            needed = [build.mark(table) for table in order]
            if any(needed):
                raise Again(set().union(*needed))
            kept_out = Path(scratch) / "quarantine"
            quality = {table: _accounted(build, table, kept_out) for table in order}
            if beside is not None:
                _refuse_before(params, build, quality, kept_out, beside)
            if earlier.ledger:
                (earlier.folder / "ledger.json").unlink()  # from here on the folder is not what it says
            else:
                fresh(earlier.folder)
            _write(params, build, quality, kept_out, earlier.folder)
            return build.reader.headers
        finally:
            connection.close()


def _accounted(build: Any, table: str, kept_out: Path) -> dict[str, Any]:
    """Write a table's quarantine into scratch space, and return the account of its rows."""
    build.quarantine(table, kept_out / f"{table}.parquet")
    account: dict[str, Any] = build.quality(table)
    return account


def _refuse_before(params: Params, build: Any, quality: dict[str, Any], kept_out: Path, beside: Path) -> None:
    """Refuse what breaks the limits while what stands there is whole; note whose earlier rows change their state."""
    from pipeline.carried import changed_between

    before = changed_in(beside)  # a kill within the one that changed what stood there leaves a build from scratch
    fresh(beside)
    problems = over_limits(params, quality, kept_out.parent, beside)
    if problems:
        shutil.copytree(kept_out, beside / "quarantine")
        raise DataRefused(problems)
    write_json(beside / CHANGED, changed_between(build, list(quality)) if build.earlier.ledger else before)


def changed_in(beside: Path) -> list[tuple[str, str, str]]:
    """Return what CHANGED says there, as `carried.changed_between`; empty where nothing is."""
    path = beside / CHANGED
    return [(column, one, other) for column, one, other in read_json(path)] if path.is_file() else []


def _write(params: Params, build: Any, quality: dict[str, Any], kept_out: Path, out: Path) -> None:
    """Write every table and the account of all rows; refuse what breaks the limits."""
    from features.staging import output_columns
    from pipeline.carried import alike

    mapping, described = build.mapping, {}
    (out / "quarantine").mkdir(exist_ok=True)
    for table, account in quality.items():
        shutil.copyfile(kept_out / f"{table}.parquet", out / "quarantine" / f"{table}.parquet")
        months = build.write(table, out / "tables" / table)
        build.write_index(table)
        contract = mapping.contract(table)
        columns = output_columns(contract, mapping.tables[table])
        extra = [column for column in columns if column not in contract.columns and column != "known_on"]
        described[table] = {
            "columns": columns,
            "mapped": sorted({column for block in mapping.tables[table] for column in block.columns}),
            "key": list(contract.key),
            "event": contract.event,
            "numeric": [column for column in extra if columns[column] == RATIO],
            "categorical": [column for column in extra if columns[column] == TEXT],
            "canonical": table in CONTRACTS,
            "rows": account["kept"],
        }
        _tell(table, account, months)
        several = alike(build, table)
        if several:
            say("ingest", f"{table}: identifiers that differ in case, blanks or form alone, kept apart", found=several)
    newest = _newest_known(build.connection, described, out)
    write_json(out / "tables.json", described)
    write_json(
        out / "quality.json",
        {"source": mapping.name, "tables": quality, "newest_known_on": newest, "totals": flat_totals(quality)},
    )
    problems = over_limits(params, quality, out)
    if problems:
        raise DataRefused(problems)


def _tell(table: str, account: dict[str, Any], months: int) -> None:
    """Print a table's account: rows by what became of them, rules broken, columns that some files lack."""
    total = {state: sum(block[state] for block in account["blocks"]) for state in STATES}
    say("ingest", table, **total, months_written=months)
    if account["rules"]:
        say("ingest", f"{table}: rules broken", **account["rules"])
    for block in account["blocks"]:
        for column, count in block["absent"].items():
            say("ingest", f"{table}: column {column} is absent", from_files=count, of=block["files"])


def flat_totals(quality: dict[str, Any]) -> dict[str, int]:
    """Return `<table>.<state>`, `<table>.rule.<rule>` and `rows.<state>` (all tables) -> rows of all deliveries."""
    totals = dict.fromkeys((f"rows.{state}" for state in STATES), 0)
    for table, account in quality.items():
        for state in STATES:
            count = sum(block[state] for block in account["blocks"])
            totals[f"{table}.{state}"] = count
            totals[f"rows.{state}"] += count
        totals |= {f"{table}.rule.{rule}": count for rule, count in account["rules"].items()}
    return totals


def _newest_known(connection: Any, described: dict[str, Any], out: Path) -> str | None:
    """Return the newest day on which a kept row, or a stated outcome, became known."""
    days = []
    for table in described:
        parts = Earlier(out, {"": None}).parts(table)
        if parts:
            days += connection.execute(f"SELECT max(known_on) FROM {scan(parts[-1:])}").fetchone()
        if parts and table == "observations":
            days += connection.execute(f"SELECT max(outcome_known_on) FROM {scan(parts)}").fetchone()
    newest = [day for day in days if day is not None]
    return max(newest).isoformat() if newest else None


def latest(mapping: Mapping, files: list[RawFile], newest_known: str | None) -> tuple[dt.date, dt.date | None]:
    """Return (as_of, date of the newest complete delivery or None) by the rule of `as_of: latest`.

    The first of the month after the newest complete delivery, without a manifest after the newest known_on; an undated
    source's own date. Never the clock.
    """
    delivered = [file.delivery.delivered_on for file in files if file.delivery.delivered_on and file.delivery.complete]
    newest = max(delivered) if delivered else None
    if mapping.as_of:
        return mapping.as_of, newest
    day = newest or (dt.date.fromisoformat(newest_known) if newest_known else None)
    if day is None:
        raise DataRefused(
            Problem("as_of: latest", "a delivery date or a known_on to follow", "neither", "State `as_of`.")
        )
    return (day.replace(day=28) + dt.timedelta(days=4)).replace(day=1), newest


@contextmanager
def memory(limit: str) -> Iterator[None]:
    """Turn the engine's want of memory or disk into a refusal (exit code 5)."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ResourceRefused(
            Problem("ingest.memory_limit", f"enough for the source ({limit}) with room to spill", "too little",
                    "Raise it, or free space for temporary files.")
        ) from error  # fmt: skip


def main(beside: Path | None = None) -> None:
    """Build the canonical tables, add what is new, or do nothing where the ledger explains all that lies there.

    beside: of `watch`: what breaks the limits is refused before anything in data/ingest changes, its quarantine stands
    there instead, and CHANGED names whose earlier rows a new one takes back or brings back.
    """
    params, source = Params.load(), source_name()
    mapping, files = load_mapping(source), list_files(source)
    where = str(mapping_path(source))
    hashes = ledger.Hashes(HASHES)
    digests = hashes.digests((file.name, file.path) for file in files)
    check_files(files, digests)
    erased = tombstones.load()
    present = ledger.present(source, mapping_path(source).read_bytes(), mapping, files, digests)
    present |= {"tombstones": erased.stated()} if erased else {}
    limits = [params.max_quarantined_row_share, params.max_quarantined_amount_share]
    old = ledger.kept(OUT / "ledger.json")
    earlier = Earlier(OUT, old if ledger.explains(old, present, hashes.digests(ledger.outputs(OUT))) else {})
    new = len(digests) - len(earlier.files)
    if earlier.ledger and not new:
        say("ingest", "nothing new", source=source, files=len(files))
        if old["limits"] != limits:
            problems = over_limits(params, earlier.quality["tables"], OUT)
            if problems:
                raise DataRefused(problems)
        headers = old["headers"]
    else:
        say("ingest", "adds to what is there" if earlier.ledger else "from scratch", source=source, new_files=new)
        with memory(params.memory_limit):
            headers = build_tables(params, mapping, files, where, earlier, erased, beside)
    outputs = hashes.digests(ledger.outputs(OUT))
    if erased:
        present["erased_credits"] = sorted(erased.learned | set(earlier.ledger.get("erased_credits") or []))
    ledger.keep(OUT / "ledger.json", {**present, "limits": limits, "headers": headers, "outputs": outputs})
    hashes.keep()
    _write_dates(mapping, files)
    for stage in STAGES:
        if stage != "simulate":
            write_json(OUT / "overrides" / f"{stage}.json", overrides(source).get(stage) or {})


def _check_newest(quality: dict[str, Any]) -> None:
    """Refuse (exit code 2) `as_of: latest` where a few rows alone, dated long after all others, would decide it."""
    kept: dict[str, int] = {}
    for account in quality.values():
        for month, counts in account["months"].items():
            if counts["kept"] and month != "unknown":
                kept[month] = kept.get(month, 0) + counts["kept"]
    months = sorted(kept)
    after = 0
    for before, month in zip(months[-2::-1], months[:0:-1], strict=True):
        after += kept[month]
        if int(month[:4]) - int(before[:4]) > MOST_YEARS and after <= FEW * sum(kept.values()):
            raise DataRefused(
                Problem("as_of: latest", f"decided by rows within {MOST_YEARS} years of others",
                        f"{after:,} rows known in {month} or later, and the newest before them in {before}",
                        "Correct their dates, or state `as_of`.")
            )  # fmt: skip


def _write_dates(mapping: Mapping, files: list[RawFile]) -> None:
    """Write as_of.json: the run's date, where it comes from, and the source's currency."""
    asked = resolved_as_of()
    newest_known = read_json(OUT / "quality.json")["newest_known_on"]
    found, delivery = latest(mapping, files, newest_known)
    if asked == "latest" and not mapping.as_of and not delivery:
        _check_newest(read_json(OUT / "quality.json")["tables"])
    as_of = found if asked == "latest" else dt.date.fromisoformat(asked)
    write_json(
        OUT / "as_of.json",
        {
            "as_of": as_of.isoformat(),
            "latest": found.isoformat(),
            "asked": asked,
            "newest_delivery": delivery.isoformat() if delivery else None,
            "newest_known_on": newest_known,
            "source": mapping.name,
            "currency": mapping.currency,
            "undated": mapping.as_of is not None,
            "caveats": list(mapping.caveats),
        },
    )
    say("ingest", "as_of", date=as_of.isoformat(), asked=asked)


if __name__ == "__main__":
    execute("ingest", main)
