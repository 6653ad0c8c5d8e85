"""What the build asks of a query engine: to say an expression as SQL, to work a table out once, to hand over few rows.

Definitions are Ibis expressions and know no engine. DuckDB is here; Spark is in `spark`, imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import ibis

# A Spark session must have these: they decide values.
SPARK_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # an overflow is an error, never a wrong number
    "spark.sql.decimalOperations.allowPrecisionLoss": "false",  # products keep all their decimals, as in DuckDB
    "spark.sql.caseSensitive": "true",
    "spark.sql.variable.substitute": "false",  # a category called ${x} is that text
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",  # dates are as written, whoever wrote the file
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.compression.codec": "zstd",
}


class Engine(Protocol):
    """An engine on which a matrix is built."""

    @property
    def identifier(self) -> str:
        """Return the type of identifiers in prepared tables: whole numbers (codes of the texts) or the texts."""

    def sql(self, expression: ibis.Table) -> str:
        """Return the query in the engine's SQL."""

    def keep(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Work a table out once and return it under its name."""

    def rows(self, expression: ibis.Table) -> list[dict[str, Any]]:
        """Return all rows: for counts, dates and vocabularies, never for what grows with the data."""


# To say all features as SQL takes as long as to work them out for a few customers, as is done again and again
MOST_SAID = 2_000
_SAID: dict[Any, str] = {}


class DuckDB:
    """An ibis DuckDB connection: kept tables are temporary tables, identifiers become codes."""

    identifier = "int32"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def sql(self, expression: ibis.Table) -> str:
        """Return the query in DuckDB's SQL; what was asked before, by names and types of tables, is remembered."""
        operation = expression.op()
        text = _SAID.get(operation)
        if text is None:
            if len(_SAID) >= MOST_SAID:
                _SAID.clear()
            text = _SAID[operation] = str(self.connection.compile(expression))
        return text

    def keep(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Work a table out once, as a temporary table."""
        self.connection.raw_sql(f'CREATE OR REPLACE TEMP TABLE "{name}" AS {self.sql(expression)}')
        return self.connection.table(name)

    def rows(self, expression: ibis.Table) -> list[dict[str, Any]]:
        """Return all rows of a small result."""
        return list(self.connection.to_pyarrow(expression).to_pylist())


class Again(DuckDB):
    """A DuckDB that notes how each kept table came about, so that `again` makes all of them of other rows."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._steps: list[Callable[[], Any]] = []
        self._newest: dict[str, str] = {}

    def keep(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Work a table out once, and again whenever it is asked for."""
        query = f'CREATE OR REPLACE TEMP TABLE "{name}" AS {self.sql(expression)}'
        if self._newest.get(name) != query:  # two subjects keep what both of them look at
            self._newest[name] = query
            self.take(lambda: self.connection.raw_sql(query))
        return self.connection.table(name)

    def take(self, step: Callable[[], Any]) -> Any:
        """Take a step now, and again whenever it is asked for; return what it returns."""
        self._steps.append(step)
        return step()

    def again(self) -> None:
        """Take all steps again, in their order: the tables that they begin with have other rows by now."""
        for step in self._steps:
            step()
