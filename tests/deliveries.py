"""Small deliveries cut out of a month of the simulated lender: rows that became known within some days, of some customers."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

KNOWN = {
    "bureau_lines.csv": "reported_on",
    "bureau_months.csv": "reported_on",
    "clients.csv": "entered_on",
    "contracts.csv": "entered_on",
    "instalments.csv": "entered_on",
    "invoices.csv": "issued_on",
    "mentions.csv": "found_on",
    "month_ends.csv": "statement_date",
    "movements.csv": "entered_on",
    "receipts.csv": "entered_on",
}
WHO = ("client_no", "contract_no", "line_ref")  # a contract's number begins with its client's


def client_of(row: dict[str, str]) -> str:
    """Return whom a row is about."""
    return next(row[name] for name in WHO if row.get(name))[:8]


def read(month: Path, first: str, last: str, which: Callable[[str], bool]) -> dict[str, list[dict[str, str]]]:
    """Return file -> rows known from `first` to `last` of the customers that `which` says."""
    found = {}
    for name, known in KNOWN.items():
        if (month / name).exists():
            with (month / name).open(encoding="utf-8", newline="") as handle:
                rows = [row for row in csv.DictReader(handle) if first <= row[known] <= last and which(client_of(row))]
            if rows:
                found[name] = rows
    return found


def write(folder: Path, rows: dict[str, list[dict[str, str]]], **manifest: object) -> Path:
    """Write a delivery with its manifest (`delivered_on`, `as_of`, ...), which is not complete: the month goes on."""
    folder.mkdir(parents=True)
    files = {}
    for name, listed in rows.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as handle:
            out = csv.DictWriter(handle, list(listed[0]))
            out.writeheader()
            out.writerows(listed)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        files[name] = {"rows": len(listed), "sha256": digest}
    stated = {"complete": False, "files": files, **manifest}
    (folder / "manifest.json").write_text(json.dumps(stated), encoding="utf-8")
    return folder


def named(rows: dict[str, Iterable[dict[str, str]]]) -> set[str]:
    """Return who is named."""
    return {client_of(row) for listed in rows.values() for row in listed}
