"""Every value that a published column may hold, where that is stated: by the version's contract and its master scale.

A pick-list made of what stands in one month's table would lack what stands in the next one.
"""

from __future__ import annotations

from pathlib import Path

from models.contract import TableContract
from models.grades import Scale

CONTRACTS = Path("data/contracts")
SCALE = Path("scorer") / "grades.json"


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
