"""What a published version states: its files, and every value that a column may hold, by contract and master scale.

A pick-list made of what stands in one month's table would lack what stands in the next one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import DataRefused, IntegrityRefused, Problem
from models.contract import TableContract
from models.grades import Scale
from pipeline import versions
from pipeline.fingerprint import sha256

CONTRACTS = Path("data/contracts")
SCALE = Path("scorer") / "grades.json"
TABLE, WORKLIST = "scored_customers.parquet", "worklist/worklist.parquet"
REMEDY = "Publish it again, or go back to a version that `verify` finds whole."


def current() -> tuple[Path, dict[str, Any]]:
    """Return the version that is current and its manifest; refuse none (exit code 2), and what is torn of it (7)."""
    try:
        manifest = versions.current_manifest()
    except ValueError:
        where = str(versions.CURRENT / "manifest.json")
        raise IntegrityRefused(Problem(where, "a manifest", "a torn file", REMEDY)) from None
    if manifest is None:
        raise DataRefused(Problem(str(versions.CURRENT), "a published table", "none", "Run the pipeline first."))
    version = versions.CURRENT.resolve()
    problems = [
        Problem(str(version / name), "the file that was published", "another", REMEDY)
        for name in (TABLE, WORKLIST)
        if (version / name).is_file() and manifest.get("files", {}).get(name) not in (None, sha256(version / name))
    ]
    if problems:
        raise IntegrityRefused(problems)
    return version, manifest


def words(version: Path, contract: str) -> dict[str, tuple[str, ...]]:
    """Return column -> its values in the contract's or the scale's order, for columns of which these are stated.

    version: a published one, which holds contract and scorer; without its own contract the project's is read, without
    a scorer grades are not stated. Columns that hold several values in one text are left out.
    """
    file = next((each for each in (version / contract, CONTRACTS / contract) if each.is_file()), None)
    if file is None:
        return {}
    grades = Scale.from_json((version / SCALE).read_bytes()).names if (version / SCALE).is_file() else ()
    found = {
        column.name: column.one_of or (grades if column.values_from == "grades" else ())
        for column in TableContract.from_json(file.read_bytes()).columns
        if column.separator is None
    }
    return {column: values for column, values in found.items() if values}
