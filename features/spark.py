"""The build on Spark: the same definitions in Spark's SQL, with DuckDB's answers where the two would differ.

Nothing that grows with the rows comes to the driver: kept tables are persisted on the executors, each subject is a
view, and what is written is written by the executors. What comes: the dates asked about with their counts, how many
values each column has, and up to a hundred frequent values of a category. Identifiers stay texts. Settings that decide
values (UTC, ANSI errors, exact products of decimals, case, dates and texts as they are) stand
in `engine`; a session must have them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ibis


@cache
def compiler() -> Any:
    """Return Ibis' compiler for Spark, corrected where Spark means something else by the same words."""
    import sqlglot.expressions as sge
    from ibis.backends.sql.compilers.base import NULL
    from ibis.backends.sql.compilers.pyspark import PySparkCompiler
    from ibis.expr import datatypes as dt

    _ = ibis.pyspark  # sets the options that the compiler reads

    class Corrected(PySparkCompiler):  # type: ignore[misc]
        """Casts that round as DuckDB's do, division in doubles, NaN apart from null, literals that are doubles."""

        __slots__ = ()

        def visit_Cast(self, op: Any, *, arg: Any, to: Any) -> Any:
            source = op.arg.dtype
            if source.is_floating() and to.is_decimal():
                scaled = arg * self._double(10.0**to.scale) if to.scale else arg
                whole = self.cast(self.cast(self.f.round(scaled), dt.int64), dt.Decimal(19, 0))
                unit = self.cast(sge.convert(f"1e-{to.scale}"), dt.Decimal(to.scale + 1, to.scale))
                return self.cast(sge.Paren(this=whole * unit), to)
            if source.is_floating() and to.is_integer():
                return self.cast(self.f.rint(arg), to)
            if source.is_decimal() and to.is_integer():
                return self.cast(self.f.round(arg), to)
            return super().visit_Cast(op, arg=arg, to=to)

        def visit_Divide(self, op: Any, *, left: Any, right: Any) -> Any:
            above, below = self.cast(left, dt.float64), self.cast(right, dt.float64)
            return sge.Paren(this=above / self.f.nullif(below, self._double(0.0)))

        def visit_IsNull(self, op: Any, *, arg: Any) -> Any:
            return arg.is_(NULL)

        def visit_NotNull(self, op: Any, *, arg: Any) -> Any:
            return arg.is_(NULL).not_()

        def visit_CountStar(self, op: Any, *, arg: Any, where: Any) -> Any:
            return super().visit_CountStar(op, arg=arg, where=None) if where is None else self.f.count_if(where)

        def visit_DateTruncate(self, op: Any, *, arg: Any, unit: Any) -> Any:
            return self.cast(super().visit_TimestampTruncate(op, arg=arg, unit=unit), dt.date)

        def visit_NonNullLiteral(self, op: Any, *, value: Any, dtype: Any) -> Any:
            if dtype.is_floating() and value == value and abs(value) != float("inf"):  # noqa: PLR0124
                return self._double(value)  # 0.1 alone is a decimal in Spark's SQL
            return super().visit_NonNullLiteral(op, value=value, dtype=dtype)

        def _double(self, value: float) -> Any:
            return self.cast(sge.convert(float(value)), dt.float64)

    return Corrected()


class Spark:
    """A Spark session: kept tables are persisted temporary views, identifiers stay texts."""

    identifier = "string"

    def __init__(self, session: Any) -> None:
        self.session = session
        self._kept: list[Any] = []

    def sql(self, expression: ibis.Table) -> str:
        """Return the query in Spark's SQL."""
        made = compiler()
        return str(made.to_sqlglot(expression).sql(made.dialect))

    def view(self, name: str, frame: Any) -> ibis.Table:
        """Name a Spark frame and return it as an expression."""
        from ibis.backends.pyspark.datatypes import PySparkType

        frame.createOrReplaceTempView(name)
        return ibis.table({field.name: PySparkType.to_ibis(field.dataType) for field in frame.schema}, name=name)

    def frame(self, expression: ibis.Table) -> Any:
        """Return an expression as a Spark frame, not yet worked out."""
        return self.session.sql(self.sql(expression))

    def named(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Name an expression without working it out."""
        return self.view(name, self.frame(expression))

    def keep(self, name: str, expression: ibis.Table) -> ibis.Table:
        """Work a table out once, when it is first read; executors hold it in memory and on disk."""
        frame = self.frame(expression).persist()
        self._kept.append(frame)
        return self.view(name, frame)

    def rows(self, expression: ibis.Table) -> list[dict[str, Any]]:
        """Return all rows of a small result."""
        return [row.asDict() for row in self.frame(expression).collect()]

    def close(self) -> None:
        """Let go of what was kept."""
        for frame in self._kept:
            frame.unpersist()
        self._kept.clear()


def beside(matrix: Any, observations: ibis.Table) -> ibis.Table:
    """Return the observed rows with every subject's features and facts beside them, unordered, not yet worked out."""
    from features.build import FACT, PARTS
    from features.definition import KEYS
    from features.prepared import numbered

    engine: Spark = matrix.engine
    parts = numbered(observations, "as_of", "as_of")
    engine.keep("observed", parts.select("customer_id", "as_of", *PARTS))
    wide = observations
    for subject in matrix.subjects:
        formulas = {feature.name: feature.formula for feature in subject.features}
        formulas |= {FACT + name: formula for name, formula in subject.facts.items()}
        if not formulas:
            continue
        columns = {name: formula(subject.rows) for name, formula in sorted(formulas.items())}
        part = engine.named(f"subject_{subject.name}", subject.rows.group_by(KEYS).aggregate(**columns))
        wide = wide.left_join(part, list(KEYS)).drop("customer_id_right", "as_of_right")
    return engine.named("beside", wide)
