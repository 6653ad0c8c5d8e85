"""featurise: canonical tables and observed dates -> one row of features for each (customer_id, as_of).

`data/featurise/training/` holds rows that can train, `scoring/` the dates to score with each customer's position; the
catalogue says in words what every column is and how often it is known, and `catalogue.html` is the same to read. Where
`records` names histories, their newest rows stand beside both in `records/<table>.parquet`.
`training/` depends on nothing that became known on or after its dates.
"""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt

from features.errors import ConfigurationRefused, DataRefused, Problem
from pipeline.catalogue_page import page
from pipeline.params import Section
from pipeline.protected import DEFAULT as PROTECTED
from pipeline.spark_session import SparkEngine
from pipeline.stage import execute, fresh, say, write_json

INGEST, OBSERVE, OUT = Path("data/ingest"), Path("data/observe"), Path("data/featurise")
ROW_GROUP = 65_536
CATALOGUE = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("sentence", pa.string()),
        ("sentence_zh", pa.string()),
        ("unit", pa.string()),
        ("direction", pa.int8()),
        ("family", pa.string()),
        ("sources", pa.string()),
        ("null_means", pa.string()),
        ("definition_hash", pa.string()),
        ("missing_share", pa.float64()),
        ("first_as_of", pa.date32()),
    ]
)
UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
BYTES_A_ROW, BYTES_A_CELL = 100, 20  # of the limit, for a row that is joined and for a number of a panel's grid


class Params(Section):
    """What to build and with how much memory."""

    section: ClassVar[str] = "featurise"
    engine: Literal["duckdb"] | SparkEngine = "duckdb"
    windows_months: tuple[PositiveInt, ...] = Field((1, 3, 6, 12), min_length=1)
    lag_months: int = Field(6, ge=1, le=36)
    least_group: int = Field(10, ge=2)  # known values in a peer group, below which it says nothing
    leave_out: tuple[str, ...] = ()
    protected: tuple[str, ...] = PROTECTED  # looked at for fairness, never built into a feature
    records: tuple[str, ...] = ()  # histories whose newest rows are scored one by one (models/records.py); none: off
    records_newest: PositiveInt = 24  # rows of each that an observation keeps
    observations_at_once: PositiveInt = 60_000
    memory_limit: str = Field(
        "2GB", pattern=r"^\d+(\.\d+)?\s?(MB|MiB|GB|GiB)$"
    )  # the engine's; beside it as much again

    @property
    def memory_bytes(self) -> int:
        """Return the memory limit in bytes."""
        number, unit = re.fullmatch(r"([\d.]+)\s?(\w+)", self.memory_limit).groups()  # type: ignore[union-attr]
        return int(float(number) * UNITS[unit])


def run(
    params: Params,
    connection: Any,
    tables: dict[str, Any],
    description: dict[str, Any],
    training: Any,
    scoring: Any,
    applicants: Any = None,
    only: frozenset[str] | None = None,
    few: Any = None,
) -> Any:
    """Declare the features that these tables can give (ibis tables on `connection`); `groups` then computes them.

    applicants: `features.definition.Applicants`, whose rows are looked at in place of those of the tables' customers.
    only: the features that are wanted; None: all. few: `features.build.Few`, where the tables hold a few customers.
    """
    from features.build import Matrix, Settings

    settings = Settings(
        windows=params.windows_months,
        lags=params.lag_months,
        least_group=params.least_group,
        leave_out=params.leave_out,
        protected=params.protected,
        observations_at_once=params.observations_at_once,
        rows_at_once=params.memory_bytes // BYTES_A_ROW,
        cells_at_once=params.memory_bytes // BYTES_A_CELL,
        only=only,
    )
    return Matrix(connection, tables, description, training, scoring, settings, applicants, few)


def write(parts: Iterable[tuple[pa.Table, pa.Table | None]], features: Path, position: Path | None = None) -> int:
    """Write each part's features (and positions) one after the other; return the rows written.

    Row groups have a fixed size within a part, and parts follow dates: the bytes depend on the rows alone.
    """
    features.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, pq.ParquetWriter] = {}
    rows = 0
    for part, where in parts:
        rows += part.num_rows
        for path, table in ((features, part), (position, where)):
            if path is not None and table is not None:
                if path not in writers:
                    writers[path] = pq.ParquetWriter(path, table.schema, compression="zstd")
                writers[path].write_table(table, row_group_size=ROW_GROUP)
    for writer in writers.values():
        writer.close()
    return rows


def write_records(matrix: Any, records: Iterable[Any], observations: Any, folder: Path) -> None:
    """Write the newest rows of each history as `folder`/<table>.parquet, ordered by as_of, customer_id and nth."""
    from features.records import groups

    folder.mkdir(parents=True)
    writers: dict[str, pq.ParquetWriter] = {}
    for parts in groups(matrix, records, observations):
        for name, part in parts.items():
            if name not in writers:
                writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", part.schema, compression="zstd")
            writers[name].write_table(part, row_group_size=ROW_GROUP)
    for writer in writers.values():
        writer.close()


def records_coverage(path: Path, rows: int) -> dict[str, Any]:
    """Return `missing_share` and `first_as_of` as `coverage` does, of training rows by whether they see a row."""
    import pyarrow.compute as pc

    newest = pq.read_table(path, columns=["as_of", "nth"], filters=pc.field("nth") == 1)
    share = 1 - newest.num_rows / rows if rows else None
    return {"missing_share": share, "first_as_of": pc.min(newest["as_of"]).as_py()}


def coverage(features: Path) -> Callable[[str], dict[str, Any]]:
    """Count the written training rows, a batch at a time.

    What is returned gives a feature's `missing_share` (null without training rows) and `first_as_of` (null: never).
    """
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    rows, known = 0, dict[str, int]()
    first: dict[str, dt.date] = {}
    for batch in ds.dataset(features).to_batches(batch_size=ROW_GROUP):
        rows += batch.num_rows
        earliest = pc.min(batch["as_of"]).as_py()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            held = len(column) - column.null_count
            known[name] = known.get(name, 0) + held
            if held and (name not in first or earliest < first[name]):
                found = pc.min(batch["as_of"].filter(column.is_valid())).as_py()
                first[name] = min(found, first.get(name, found))

    def of(name: str) -> dict[str, Any]:
        share = 1 - known.get(name, 0) / rows if rows else None
        return {"missing_share": share, "first_as_of": first.get(name)}

    return of


def summary(matrix: Any, rows: dict[str, int], records: Iterable[Any] = ()) -> dict[str, Any]:
    """Return summary.json: rows, features, subjects built and from what, subjects skipped and why, reason families."""
    kept = {each.table: {"newest": each.newest, "columns": len(each.numeric + each.categorical)} for each in records}
    families = {feature.family for feature, _, _ in matrix.features}
    families |= {entry["family"] for each in records for entry in each.catalogue()}
    return {
        "rows": rows,
        "features": len(matrix.features),
        "built": {
            subject.name: {"features": len(subject.features), "sources": list(subject.sources)}
            for subject in matrix.subjects
        },
        "skipped": {item.name: item.why for item in matrix.skipped},
        "families": sorted(families),
        "columns_and_categories_as_known_on": matrix.edge.isoformat(),
        **({"records": kept} if kept else {}),
    }


def _declared(matrix: Any) -> Any:
    """Say which subjects are built, with how many features, and which are not and why."""
    say("featurise", f"{len(matrix.features)} features", **{one.name: len(one.features) for one in matrix.subjects})
    for item in matrix.skipped:
        say("featurise", f"not built: {item.name}, for {item.why}")
    return matrix


def _records(matrix: Any, params: Params) -> list[Any]:
    """Declare the histories whose newest rows are kept, and say which; none where params.yaml names none."""
    if not params.records:
        return []
    from features.records import declared

    kept, skipped = declared(matrix, params.records, params.records_newest)
    matrix.skipped += skipped
    for item in skipped:
        say("featurise", f"not built: {item.name}, for {item.why}")
    say("featurise", "records", newest=params.records_newest, **{one.table: "rows kept" for one in kept})
    return kept


Built = tuple[Any, list[Any], dict[str, int], Callable[[str], dict[str, Any]]]


def _on_duckdb(params: Params) -> Built:
    """Build on this machine; return matrix, records, the rows written of training and scoring, and the coverage."""
    import ibis

    from features.tables import describe_tables, open_tables

    with tempfile.TemporaryDirectory(prefix="spill-", dir=OUT) as spill:
        connection = ibis.duckdb.connect(memory_limit=params.memory_limit, temp_directory=spill)
        tables = open_tables(connection, INGEST)
        training = connection.read_parquet(OBSERVE / "training.parquet", table_name="training")
        scoring = connection.read_parquet(OBSERVE / "scoring.parquet", table_name="scoring")
        matrix = _declared(run(params, connection, tables, describe_tables(INGEST), training, scoring))
        records = _records(matrix, params)
        rows = {
            "training": write(matrix.groups(training), OUT / "training/features.parquet"),
            "scoring": write(
                matrix.groups(scoring, with_position=True),
                OUT / "scoring/features.parquet",
                OUT / "scoring/position.parquet",
            ),
        }
        for name, observations in (("training", training), ("scoring", scoring)):
            if records:
                write_records(matrix, records, observations, OUT / name / "records")
        connection.disconnect()
    return matrix, records, rows, coverage(OUT / "training/features.parquet")


def _on_spark(params: Params, engine: SparkEngine) -> Built:
    """Build on a Spark cluster; return the same. Records are refused (exit code 4): they are kept on one machine."""
    from features.tables import describe_tables
    from pipeline.on_spark import build

    if params.records:
        remedy = "Set `engine: duckdb`, or `records: []`."
        raise ConfigurationRefused(
            Problem(
                "params.yaml: featurise.records", "none where the engine is Spark", ", ".join(params.records), remedy
            )
        )
    described = describe_tables(INGEST)
    names = [name for name in sorted(described) if any((INGEST / "tables" / name).glob("known_month=*/part.parquet"))]
    matrix, rows, known = build(
        engine,
        lambda spark, tables, training, scoring: _declared(run(params, spark, tables, described, training, scoring)),
        names,
    )
    return matrix, [], rows, known


def main() -> None:
    """Read data/ingest and data/observe, write data/featurise."""
    params = Params.load()
    missing = [path for path in (OBSERVE / "training.parquet", OBSERVE / "scoring.parquet") if not path.exists()]
    if missing:
        raise DataRefused(
            [Problem(str(path), "a file that `observe` writes", "no such file", "Run `dvc repro`.") for path in missing]
        )
    fresh(OUT)
    duckdb = isinstance(params.engine, str)
    matrix, records, rows, known = _on_duckdb(params) if duckdb else _on_spark(params, params.engine)
    entries = [entry | known(entry["name"]) for entry in matrix.catalogue()]
    for each in records:
        seen = records_coverage(OUT / "training/records" / f"{each.table}.parquet", rows["training"])
        entries += [entry | seen for entry in each.catalogue()]
    for folder in (OUT, OUT / "training"):
        pq.write_table(
            pa.Table.from_pylist(entries, schema=CATALOGUE), folder / "catalogue.parquet", compression="zstd"
        )
    built = {subject.name: [feature.name for feature in subject.features] for subject in matrix.subjects}
    built["across"] = [item.feature.name for item in matrix.across]
    built |= {f"{each.table}_records": [entry["name"] for entry in each.catalogue()] for each in records}
    html = page(entries, built, {item.name: item.why for item in matrix.skipped}, rows["training"])
    (OUT / "catalogue.html").write_text(html, encoding="utf-8")
    write_json(OUT / "summary.json", summary(matrix, rows, records))
    say("featurise", "written", training_rows=rows["training"], scoring_rows=rows["scoring"])


if __name__ == "__main__":
    execute("featurise", main)
