"""A table that a person asked for, written where they said: .csv (UTF-8 with BOM, safe to open) or .parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, Problem
from pipeline.publish import safe_for_spreadsheets


def check(out: Path | None) -> None:
    """Refuse (exit code 4), before anything is worked out, a file of another ending; None: nothing is to be written."""
    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigurationRefused(Problem(str(out), "a file .csv or .parquet", out.suffix or "no ending", "Name one."))


def write(table: pa.Table, out: Path) -> None:
    """Write the table; in csv a text that a spreadsheet would take for a formula has an apostrophe before it."""
    if out.suffix.lower() == ".csv":
        with out.open("wb") as handle:
            handle.write(b"\xef\xbb\xbf")
            pa_csv.write_csv(safe_for_spreadsheets(table), handle)
    else:
        pq.write_table(table, out, compression="zstd")
