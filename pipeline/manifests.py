"""Deliveries and their manifests: what a lender states of the files of a folder, and whether it is so.

`manifest.json` = {"delivered_on": "2021-01-31", "complete": true, "files": {"moves.csv": {"sha256": "...", "rows": 12,
"totals": {"value": "13.75"}}}}; every part may be absent. A manifest that is written otherwise is refused, and what it
states is checked: bytes before anything is read, rows and control totals (to the cent) once all is read.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import DataRefused, IntegrityRefused, Problem
from features.expressions import name
from features.reconcile import staged

if TYPE_CHECKING:
    from pipeline.raw import RawFile

AGAIN = "Deliver it again."
FIRST, LAST = dt.date(1900, 1, 1), dt.date(2099, 11, 30)


@dataclass(frozen=True)
class Delivery:
    """A folder with a manifest, or the undated rest: its name, the last day that it covers, what it states of files."""

    name: str
    delivered_on: dt.date | None = None
    complete: bool = True
    files: dict[str, dict[str, Any]] | None = None


def read_manifest(path: Path, place: str) -> Delivery:
    """Read the manifest of the delivery named `place`; refuse (exit code 2) all that is wrong with it together."""
    where = f"{place}/manifest.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        found = f"{type(error).__name__}: {str(error)[:100]}"
        raise DataRefused(Problem(where, "JSON with delivered_on (a date) and files", found, AGAIN)) from None
    if not isinstance(raw, dict):
        raise DataRefused(Problem(where, "an object with delivered_on (a date) and files", _kind(raw), AGAIN))
    problems = []
    on, complete, files = raw.get("delivered_on"), raw.get("complete", True), raw.get("files") or {}
    day = _date(on)
    if on not in (None, "") and day is None:
        must = f"a date from {FIRST} to {LAST}, written 2021-01-31"
        problems.append(Problem(f"{where}: delivered_on", must, _kind(on), AGAIN))
    if not isinstance(complete, bool):
        problems.append(Problem(f"{where}: complete", "true or false", _kind(complete), AGAIN))
    if not isinstance(files, dict) or isinstance(raw.get("files"), list):
        problems.append(Problem(f"{where}: files", "an object: file -> what is stated of it", _kind(files), AGAIN))
        files = {}
    problems += [problem for file, facts in files.items() for problem in _faults(f"{where}: files.{file}", facts)]
    if problems:
        raise DataRefused(problems)
    return Delivery(place, day, complete, files)


def _kind(value: Any) -> str:
    """Return what kind of JSON value was found, and the value where it is short."""
    return f"{type(value).__name__} {json.dumps(value)[:40]}"


def _date(value: Any) -> dt.date | None:
    """Return an ISO date of a plausible year, or None."""
    try:
        day = dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return day if FIRST <= day <= LAST else None


def _number(value: Any) -> Decimal | None:
    """Return a stated total as an exact number, or None."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and not isinstance(value, bool) else None


def _faults(where: str, facts: Any) -> Iterable[Problem]:
    """Yield what is wrong with what a manifest states of one file."""
    if not isinstance(facts, dict):
        yield Problem(where, "an object with sha256, rows or totals", _kind(facts), AGAIN)
        return
    digest, rows, totals = facts.get("sha256"), facts.get("rows"), facts.get("totals")
    if digest and not (isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest)):
        yield Problem(f"{where}.sha256", "64 hexadecimal digits", _kind(digest), AGAIN)
    if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 0):
        yield Problem(f"{where}.rows", "a number of rows", _kind(rows), AGAIN)
    if totals and not isinstance(totals, dict):
        yield Problem(f"{where}.totals", "an object: column -> total", _kind(totals), AGAIN)
        return
    for column, total in (totals or {}).items():
        if _number(total) is None:
            yield Problem(f"{where}.totals.{column}", "a number", _kind(total), AGAIN)


def check_files(files: list[RawFile], digests: dict[str, str]) -> None:
    """Refuse files that are not what their manifest states (7), and files that it states but that are missing (2)."""
    differing, missing = [], []
    present = {file.name for file in files}
    deliveries = {file.delivery.name: file.delivery for file in files}
    for delivery in deliveries.values():
        prefix = "" if delivery.name == "." else f"{delivery.name}/"
        for inner, stated in (delivery.files or {}).items():
            path = prefix + inner
            if path not in present:
                missing.append(
                    Problem(
                        path, "delivered, as its manifest states", "no such file", AGAIN, file=path, rule="delivered"
                    )
                )
            elif stated.get("sha256") and stated["sha256"].lower() != digests[path]:
                must = "the bytes whose SHA-256 its manifest states"
                differing.append(Problem(path, must, "other bytes", AGAIN, file=path, rule="sha256"))
    if differing:
        raise IntegrityRefused([*differing, *missing])
    if missing:
        raise DataRefused(missing)


def check_contents(build: Any) -> None:
    """Refuse (exit code 2) new files whose rows or control totals differ from what their manifest states."""
    problems: dict[Problem, None] = {}
    for raw in build.raws.values():
        stated = {build.reader.ids[file.name]: (file, file.stated) for file in raw.files if file.name in build.new}
        columns = sorted({column for _, facts in stated.values() for column in (facts.get("totals") or {})})
        if not any("rows" in facts or facts.get("totals") for _, facts in stated.values()):
            continue
        have = {column.lower(): column for column in raw.relation.types}
        known = [column for column in columns if column.lower() in have]
        texts = raw.relation.texts
        quoted = [f"sum(TRY_CAST({texts.digits(name(have[column.lower()]))} AS DECIMAL(18,4)))" for column in known]
        source = f"SELECT __file, count(*){''.join(', ' + total for total in quoted)} FROM {raw.relation.name}"
        if raw.streamed:  # its text is not held, and no totals are stated
            piece = next(piece for piece in build.pieces if piece.raw is raw)
            source = f"SELECT _file, count(*) FROM {staged(piece.table)} WHERE _piece = {piece.number}"
        found = {row[0]: row[1:] for row in build.connection.execute(f"{source} GROUP BY ALL").fetchall()}
        for number, (file, facts) in stated.items():
            count, *totals = found.get(number, (0, *[None] * len(known)))
            count += sum(1 for reject in raw.rejected if reject.file == number)
            if facts.get("rows") is not None and count != facts["rows"]:
                must = f"{facts['rows']:,} rows, as its manifest states"
                problems[Problem(file.name, must, f"{count:,}", AGAIN, file=file.name, rule="rows", count=count)] = None
            wanted = facts.get("totals") or {}
            own = {column.lower() for column in build.reader.header(file, raw.form)}
            for column in wanted:
                if column.lower() not in own:
                    must = "a column of the file, as its manifest states a total of it"
                    problem = Problem(f"{file.name}: {column}", must, "no such column", AGAIN)
                    problems[replace(problem, file=file.name, column=column, rule="totals")] = None
            for column, total in zip(known, totals, strict=True):
                if column in wanted and column.lower() in own and (total or Decimal(0)) != _number(wanted[column]):
                    must = f"a total of {wanted[column]}, as its manifest states"
                    problem = Problem(f"{file.name}: {column}", must, f"{total or 0:f}", AGAIN)
                    problems[replace(problem, file=file.name, column=column, rule="totals")] = None
    if problems:
        raise DataRefused(problems)
