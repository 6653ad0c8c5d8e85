"""What things are known by: a file by its bytes, an observation by the hash of its key."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def row_key(table: str) -> str:
    """Return the SQL (DuckDB) of an observation's key, `sha256(customer_id|as_of)`, over a table of that name.

    It says whether two rows are the same observation without naming the customer.
    """
    return f"sha256({table}.customer_id || '|' || cast(cast({table}.as_of as date) as varchar))"
