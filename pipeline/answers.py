"""A table for people to open, published or asked for: .csv (UTF-8 with BOM, safe in a spreadsheet) or .parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, Problem

# What a spreadsheet would run (OWASP): = + - @, as wide characters too, and what it skips before them
FORMULA = r"^[\s\pZ\pC]*[=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]|^\s*[\t\r\n\x00]"


def check(out: Path | None) -> None:
    """Refuse (exit code 4), before anything is worked out, a file of another ending; None: nothing is to be written."""
    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigurationRefused(Problem(str(out), "a file .csv or .parquet", out.suffix or "no ending", "Name one."))


def safe_for_spreadsheets(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before each text, names of columns too, that would be taken for a formula."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(index, field.name, _safe(table.column(index)))
    return table.rename_columns(_safe(pa.array(table.column_names, pa.string())).to_pylist())


def _safe(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return texts that no spreadsheet runs."""
    risky = pc.fill_null(pc.match_substring_regex(texts, FORMULA), fill_value=False)
    if not pc.any(risky).as_py():
        return texts
    quoted = pc.binary_join_element_wise(pa.scalar("'", texts.type), texts, pa.scalar("", texts.type))
    return pc.if_else(risky, quoted, texts)


def write(table: pa.Table, out: Path) -> None:
    """Write the table; in csv a text that a spreadsheet would take for a formula has an apostrophe before it."""
    if out.suffix.lower() == ".csv":
        with out.open("wb") as handle:
            handle.write(b"\xef\xbb\xbf")
            pa_csv.write_csv(safe_for_spreadsheets(table), handle)
    else:
        pq.write_table(table, out, compression="zstd")
