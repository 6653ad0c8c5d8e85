"""Ingest's limits: how much of a table may be kept out before the whole is refused, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import Problem
from features.tables import HOLDERS

if TYPE_CHECKING:
    from pipeline.ingest import Params


def first_broken(table: str, folder: Path) -> dict[str, Any]:
    """Return the rule that most rows of a table broke as the fields of a Problem, with the first line that broke it.

    folder: where ingest wrote; nothing where no quarantine lies there.
    """
    held = folder / "quarantine" / f"{table}.parquet"
    if not held.exists():
        return {}
    import duckdb

    asked = """SELECT rule, count(*), arg_min({'file': file, 'line': line}, (file, line))
        FROM (SELECT unnest(rules) AS rule, file, line FROM read_parquet(?)) WHERE rule <> 'erased'
        GROUP BY rule ORDER BY 2 DESC, 1 LIMIT 1"""
    row = duckdb.execute(asked, [str(held)]).fetchone()
    if row is None:
        return {}
    rule, count, place = row
    return {**place, "column": rule.partition(":")[2] or None, "rule": rule, "count": count}


def over_limits(params: Params, quality: dict[str, Any], folder: Path, told: Path | None = None) -> list[Problem]:
    """Return the tables of which too many rows, or too much of the amount, broke a rule.

    folder: where the rows in quarantine lie, of which the first is named; told: where they will lie, if elsewhere.
    Where a table of customers or credits is refused, others that only lack what it kept out are told with it.
    """
    see = f"{told or folder}/quarantine"
    problems: dict[str, list[Problem]] = {}
    follow: dict[str, list[str]] = {}
    for table, account in quality.items():
        rows = sum(block["read"] - block["left_out"] for block in account["blocks"])
        bad = sum(block["quarantined"] for block in account["blocks"])
        amount = sum(Decimal(block["absolute"][state]) for block in account["blocks"] for state in block["absolute"])
        lost = sum(Decimal(block["absolute"]["quarantined"]) for block in account["blocks"])
        rules = ", ".join(f"{rule} {count:,}" for rule, count in account["rules"].items() if rule != "erased")
        holder = next((held for held in HOLDERS.values() if held in problems and held != table), None)
        found = []
        for what, part, whole, limit in (
            ("rows", bad, rows, params.max_quarantined_row_share),
            ("amount", lost, amount, params.max_quarantined_amount_share),
        ):
            if part > whole * Decimal(str(limit)):
                first = first_broken(table, folder)
                at = f"; first {first['file']}" + (f", line {first['line']}" if first["line"] else "") if first else ""
                found.append(
                    Problem(
                        f"table {table}", f"at most {limit:.2%} of the {what} in quarantine",
                        f"{float(part / whole):.2%} ({rules}{at})",
                        f"See {see}/{table}.parquet; correct the mapping or the delivery.", **first,
                    )
                )  # fmt: skip
        if found and holder and list(account["rules"]) == ["reference"]:
            follow.setdefault(holder, []).append(f"{bad:,} of {table}")
            continue
        if not account["kept"] and not found:
            found = [Problem(f"table {table}", "at least one row", "none kept", "See data/ingest/quality.json.")]
        if found:
            problems[table] = found
    for holder, tables in follow.items():
        first = problems[holder][0]
        problems[holder][0] = replace(first, found=f"{first.found}; and the rows that name them: {', '.join(tables)}")
    return [problem for found in problems.values() for problem in found]
