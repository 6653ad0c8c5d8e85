"""A few customers as a full run would publish them: each at his own date, by the functions of the stages.

observe, featurise, score, explain and decide are asked about these customers' rows alone; what they say of others
(declared columns, how others stood) is given by `others`. Nothing below data/ is written.
"""

from __future__ import annotations

import datetime as dt
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import GateRefused
from features.expressions import quote
from features.tables import describe_tables, open_tables
from models.contract import PENDING, TableContract, check_table
from models.grades import Scale
from models.overrides import COLUMNS, read_overrides
from models.scorer import Scorer
from pipeline import decide, explain, explainer, featurise, observe, score
from pipeline import params as parameters
from pipeline.lending import Params as Lending
from pipeline.lending import read_policy
from pipeline.others import Others
from pipeline.stage import fresh, read_json, write_json

CHECKED = Path(".run/watch/checked.json")  # by which code and model the features were found to be defined alike
MEMORY = "512MiB"  # of DuckDB, at most: a few customers are many times smaller


@dataclass(frozen=True)
class Decided:
    """What is published of these customers but run_id and grade_published_before, and beside it.

    table: one row a customer in scope, by customer_id. alerts, people: as decide writes them, in their order.
    """

    table: pa.Table
    alerts: pa.Table
    people: pa.Table


@dataclass(frozen=True)
class Model:
    """The bundle that scores: its version and its files, hashed."""

    version: str
    files: dict[str, bytes]


def months_of(dates: Iterable[dt.date]) -> set[dt.date]:
    """Return the month starts whose statistics the rows of these dates, and of the twelve months before, look at."""
    return {observe.months_before(day, back).replace(day=1) for day in dates for back in range(observe.MONTHS_BACK + 1)}


def decided(tables: Path, dates: Mapping[str, dt.date], others: Others, model: Model, data_version: str) -> Decided:
    """Return what a full run at each customer's date says of him.

    tables: these customers' rows, in the layout of data/ingest. Refuses (exit code 7) a
    model whose features are defined otherwise today, and (exit code 3) rows that break the table's contract.
    """
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch:
        observed = {
            day: _observed(tables, day, [one for one, due in dates.items() if due == day], Path(scratch))
            for day in sorted(set(dates.values()))
        }
        parts = [
            _decided(day, features, position, model, data_version)
            for day, features, position in _featurised(tables, observed, others, model)
        ]
    contract = TableContract.from_json(decide.CONTRACT.read_bytes())
    empty = Decided(contract.arrow_schema(without=("grade_published_before",)).empty_table(), _NO_ALERTS, _NO_PEOPLE)
    joined = [
        pa.concat_tables([getattr(one, name) for one in (empty, *parts)]) for name in ("table", "alerts", "people")
    ]
    table, alerts, people = (
        each.sort_by("customer_id").combine_chunks() for each in joined
    )  # stable: alerts stay in order
    scale = Scale.from_json(model.files["grades.json"])
    problems = check_table(table, contract, pending=PENDING, enumerations={"grades": scale.names})
    if problems:
        raise GateRefused(problems)
    return Decided(table, alerts, people)


_NO_ALERTS = pa.schema(
    [
        (name, decide.ALERT_TYPES.get(name, pa.string()))
        for name in ("customer_id", "as_of", "code", "severity", "state", "first_seen_on", "since_before", "value",
                     "before", "threshold", "evidence")
    ]
).empty_table()  # fmt: skip
_NO_PEOPLE = pa.schema([(name, pa.string()) for name in COLUMNS]).empty_table()


def _observed(tables: Path, as_of: dt.date, customers: list[str], scratch: Path) -> pa.Table:
    """Return (customer_id, as_of, months_back) of the customers in scope, as `observe` judges them at a date."""
    out = fresh(scratch / f"observe-{as_of}")
    undated = bool(read_json(decide.AS_OF).get("undated"))
    connection = observe.open_engine(tables)
    try:
        observe.run(
            observe.Params.load(), connection, as_of, observe.until_date(as_of), undated=undated, out=out, first=as_of
        )
    finally:
        connection.close()
    found = pq.read_table(out / "scoring.parquet")
    return found.filter(pc.is_in(found["customer_id"], pa.array(customers, pa.string())))


class Built:
    """The features of a few customers, declared once and computed for the customers of one delivery after another.

    To say what the features are takes several times as long as to compute them for a few hundred customers.
    """

    def __init__(self, tables: Path, every: pa.Table, others: Others, inputs: list[dict[str, Any]]) -> None:
        import ibis

        self.by = _deciding(tables, others, inputs)
        self._spill = tempfile.TemporaryDirectory(prefix="bellwether-")
        self.connection = ibis.duckdb.connect(memory_limit=MEMORY, threads=2)
        self.connection.raw_sql(f"SET temp_directory = {quote(self._spill.name)}")
        opened, asked = self._open(tables, every)
        self.matrix = featurise.run(
            featurise.Params.load(), self.connection, opened, describe_tables(tables), asked, asked,
            only=frozenset(each["name"] for each in inputs), few=self._few(others),
        )  # fmt: skip

    def again(self, tables: Path, every: pa.Table, others: Others) -> None:
        """Take up other rows, which declare the same."""
        self._open(tables, every)
        self.matrix.again(self._few(others))

    def close(self) -> None:
        """Let go of the engine and of what it spilled."""
        self.connection.disconnect()
        self._spill.cleanup()

    def _open(self, tables: Path, every: pa.Table) -> tuple[dict[str, Any], Any]:
        """Put these rows under the names that the engine knows; return tables and observations."""
        asked = self.connection.create_table("scoring", every, temp=True, overwrite=True)
        return open_tables(self.connection, tables), asked

    def _few(self, others: Others) -> Any:
        from features.among import among
        from features.build import Few

        return Few(others.declared, among(self.connection, others.stood))


_BUILT: list[Built] = []  # what the delivery before left, if any


def _deciding(tables: Path, others: Others, inputs: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Return all that decides what is declared, whatever the rows."""
    names = {path.parents[1].name for path in (tables / "tables").glob("*/known_month=*/part.parquet")}
    return others.code, others.declared, names, inputs


@contextmanager
def _built(tables: Path, every: pa.Table, others: Others, inputs: list[dict[str, Any]]) -> Iterator[Built]:
    """Yield what computes the features of these rows: what the delivery before left, where it declares the same."""
    built = _BUILT.pop() if _BUILT else None
    try:
        if built is not None and built.by == _deciding(tables, others, inputs):
            built.again(tables, every, others)
        else:
            old, built = built, None
            if old is not None:
                old.close()
            built = Built(tables, every, others, inputs)
        yield built
    except BaseException:
        if built is not None:
            built.close()
        raise
    _BUILT.append(built)


def _featurised(
    tables: Path, observed: Mapping[dt.date, pa.Table], others: Others, model: Model
) -> list[tuple[dt.date, pa.Table, pa.Table]]:
    """Return (date, features, position) of each date on which anyone is observed."""
    asked = {day: rows for day, rows in observed.items() if rows.num_rows}
    if not asked:
        return []
    inputs, made = score.inputs_of(model.files), []
    with _built(tables, pa.concat_tables(list(asked.values())), others, inputs) as built:
        for day, rows in asked.items():
            here = built.connection.create_table("scored", rows, temp=True, overwrite=True)
            parts = list(built.matrix.groups(here, with_position=True))
            made.append((day, *(pa.concat_tables([part[at] for part in parts]) for at in (0, 1))))
        _check(built.matrix.catalogue, inputs, made[0][1].column_names, [others.code, model.version])
    return made


def _check(
    catalogue: Callable[[], list[dict[str, Any]]], inputs: list[dict[str, Any]], columns: list[str], by: list[str]
) -> None:
    """Refuse (exit code 7) a model whose features are defined otherwise; by the same code and model once is enough."""
    found = [*by, sorted(columns)]
    if CHECKED.is_file() and read_json(CHECKED) == found:
        return
    score.check_features(inputs, pd.DataFrame(catalogue())[["name", "definition_hash"]], columns)
    write_json(CHECKED, found)


Files = tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=1)
def _scorer(files: Files) -> Scorer:
    """Return the scorer of a bundle; `watch` asks for the same one again and again."""
    return Scorer.from_files(dict(files))


@lru_cache(maxsize=1)
def _explainer(files: Files, least_points: float, engine: str, language: str) -> explainer.Explainer:
    """Return the explainer of a bundle, which works out how its reference rows stand."""
    return explainer.Explainer.of(dict(files), least_points, engine, language)


def _decided(as_of: dt.date, features: pa.Table, position: pa.Table, model: Model, data_version: str) -> Decided:
    """Return what score, explain and decide make of the features of one date."""
    files = tuple(sorted(model.files.items()))
    scores = score.run(model.files, features, score.Params.load().rows_at_a_time, scorer=_scorer(files))
    now = features.filter(pc.equal(features["months_back"], 0)).sort_by("customer_id")
    reasons = explainer.SCHEMA.empty_table()
    if now.num_rows and pq.read_metadata(io.BytesIO(model.files["reference.parquet"])).num_rows:
        params = explain.Params.load()
        told = _explainer(files, params.least_points, params.engine, parameters.language())
        reasons, _ = explainer.teller(told)(now)
    scale = Scale.from_json(model.files["grades.json"])
    numbers = read_policy(Path(Lending.load().policy), as_of)
    numbers.check_scale(scale)
    given = decide.Given(
        numbers, scale, read_overrides(decide.read_lines(decide.OVERRIDES), as_of),
        read_json(decide.AS_OF).get("currency"),
        parameters.language(), model.version, data_version,
    )  # fmt: skip
    contract = TableContract.from_json(decide.CONTRACT.read_bytes())
    table, raised, _ = decide.run(given, contract, scores, position, reasons)
    people = decide.people_table(given.overrides, table["customer_id"])
    return Decided(table, decide.alerts_table(raised.table), people)
