"""The engine that reads raw files: confined to the folders that it is given, with settings that nothing can change."""

from __future__ import annotations

from pathlib import Path

import duckdb

from features.expressions import quote


def engine(memory_limit: str, scratch: Path, folders: list[Path]) -> duckdb.DuckDBPyConnection:
    """Return an engine confined to `folders`: no network, no extension, no other file, settings locked."""
    connection = duckdb.connect()
    allowed = ", ".join(quote(f"{folder.resolve()}/") for folder in [scratch, *folders])
    for setting in (
        "SET threads = 2", f"SET memory_limit = {quote(memory_limit)}", f"SET temp_directory = {quote(str(scratch))}",
        "SET autoinstall_known_extensions = false", "SET autoload_known_extensions = false", "SET TimeZone = 'UTC'",
        "SET preserve_insertion_order = true", f"SET allowed_directories = [{allowed}]",
        "SET disabled_optimizers = 'common_subexpressions'",  # it hoists a failing cast out of the TRY around it
        "SET enable_external_access = false", "SET lock_configuration = true",
    ):  # fmt: skip
        connection.execute(setting)
    return connection
