"""The newest rows of a history as each observation sees them: what a record model (models/records.py) learns from.

For each (customer_id, as_of) the newest N rows that `Lender.past` gives: known before as_of, in the version known then,
of events before as_of. A row carries its numeric measures, the days from its dates to as_of, and its categories as
text; no outcome comes near it. Which columns are given is read from rows known before the last training date, so that a
later delivery changes no row of training. DuckDB alone: the rows leave the engine as Arrow tables, a group of dates at
a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ibis
import pyarrow as pa

from features.build import Matrix
from features.definition import Lender, Skipped, code_of, digest
from features.errors import ConfigurationRefused, DataRefused, Problem
from features.prepared import EVENTS
from features.tables import contract_of

NEITHER = ("customers", "observations", "industries")  # no history of a customer
TEXTS = ("counterparty", "source")  # free text: no category
KEYS = ("customer_id", "as_of", "nth")  # nth is 1 for the newest row
AGES = ("event_days", "known_days")
STATISTICS = {
    "max": (
        "Highest default risk that one of the newest {newest} rows of {noun} tells by itself",
        "“{noun}”最近{newest}条记录中单条所示违约风险的最高值",
    ),
    "mean": (
        "Average default risk that the newest {newest} rows of {noun} tell, each by itself",
        "“{noun}”最近{newest}条记录各自所示违约风险的平均值",
    ),
    "last": (
        "Default risk that the newest row of {noun} tells by itself",
        "“{noun}”最新一条记录所示的违约风险",
    ),
}


@dataclass(frozen=True)
class Records:
    """The newest rows of one table: their query over `observed`, and the columns that they carry beside KEYS."""

    table: str
    sources: tuple[str, ...]
    newest: int
    rows: ibis.Table  # customer_id, as_of, nth, then `numeric` as doubles and `categorical` as text
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @cached_property
    def definition_hash(self) -> str:
        """16 hex digits that change when the rows or what they carry change."""
        columns = (*self.numeric, "", *self.categorical)
        return digest(
            self.table, *self.sources, str(self.newest), *columns, code_of(newest_rows), code_of(_ages), code_of(_days)
        )

    def catalogue(self) -> list[dict[str, Any]]:
        """Return one record a score that models make of these rows: the columns of catalogue.parquet.

        `kind` is record: the value is fitted on outcomes, so it stands in no table of features.
        """
        words = {"newest": self.newest, "noun": self.table.replace("_", " ")}
        return [
            {
                "name": f"{self.table}_record_score_{statistic}",
                "kind": "record",
                "sentence": sentence.format(**words),
                "sentence_zh": sentence_zh.format(**words),
                "unit": "share",
                "direction": 1,
                "family": f"{self.table}_records",
                "sources": ", ".join(self.sources),
                "null_means": "no row of an earlier event was known, or no outcome that such rows could learn from",
                "definition_hash": digest(statistic, self.definition_hash),
            }
            for statistic, (sentence, sentence_zh) in STATISTICS.items()
        ]


def declared(matrix: Matrix, names: Iterable[str], newest: int) -> tuple[list[Records], list[Skipped]]:
    """Return the records of the tables `names` on this matrix, and those of which nothing is known, with the reason.

    Refused: a name that is no dated history of this source (exit code 4); a column named as one of ours (2).
    """
    lender = matrix.lender
    able = [name for name in matrix.mapped if name not in NEITHER]
    unknown = [name for name in names if name not in able]
    if unknown:
        raise ConfigurationRefused(
            [
                Problem(
                    f"params.yaml: featurise.records: {name}",
                    f"a history of customers that this source maps ({', '.join(able) or 'none'})",
                    "another name",
                    "Correct or remove it, or say `records: []` under sources.<name>.featurise.",
                )
                for name in unknown
            ]
        )
    made, skipped = [], []
    for name in dict.fromkeys(names):
        if lender.has(name, "event_on", "customer_id"):
            made.append(_records(lender, name, newest, {one.lower() for one in matrix.settings.protected}))
        else:
            skipped.append(Skipped(f"{name}_records", "no dated row of it is known before the last training date"))
    return made, skipped


def newest_rows(lender: Lender, table: str, newest: int) -> ibis.Table:
    """Return the newest rows of past events that each observation sees; `nth` 1 is the newest."""
    rows = lender.past(table)
    order = ibis.window(group_by=["customer_id", "as_of"], order_by=ibis.desc("row_order"))
    rows = rows.mutate(nth=(ibis.row_number().over(order) + 1).cast("int32"))
    return rows.filter(rows.nth <= newest)


def _ages(rows: ibis.Table, dates: Iterable[str]) -> dict[str, ibis.Value]:
    """Return the days from each date of a row to as_of; negative where the date is still to come."""
    ages = {"event_days": rows.days_before, "known_days": _days(rows, "known_on")}
    return ages | {f"{name}_days": _days(rows, name) for name in dates}


def _days(rows: ibis.Table, date: str) -> ibis.Value:
    return rows.as_of_number - rows[date].delta(ibis.date(1970, 1, 1), unit="day")


def _records(lender: Lender, table: str, newest: int, protected: set[str]) -> Records:
    """Declare one table's records: what of its columns has a value, and neither names somebody nor is protected."""
    columns = lender.tables[table].columns
    contract = contract_of(table, set(columns))
    event = EVENTS.get(table, contract.event)
    dates, numeric, categorical = [], [], []
    for name, column in contract.columns.items():
        if name not in lender.filled[table] or name.lower() in protected or name in (event, "customer_id"):
            continue
        if column.type == "DATE":
            dates.append(name)
        elif column.type != "VARCHAR":
            numeric.append(name)
        elif not name.endswith("_id") and name not in TEXTS:
            categorical.append(name)
    numeric += lender.numeric[table]
    categorical += lender.categorical[table]
    rows = newest_rows(lender, table, newest)
    ages = _ages(rows, dates)
    names = [*KEYS, *ages, *numeric, *categorical]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataRefused(
            Problem(f"{table}: {', '.join(twice)}", "names that records do not use themselves", "the same", "Rename.")
        )
    values = {name: value.cast("float64") for name, value in (ages | {name: rows[name] for name in numeric}).items()}
    values = {
        name: (value.isnan() | value.isinf()).ifelse(ibis.null("float64"), value) for name, value in values.items()
    }
    sources = (table, "credits") if "credit_id" in columns and table != "credits" else (table,)
    return Records(
        table,
        sources,
        newest,
        rows.select(*KEYS, **values, **{name: rows[name].cast("string") for name in categorical}),
        tuple(values),
        tuple(categorical),
    )


def groups(matrix: Matrix, records: Iterable[Records], observations: ibis.Table) -> Iterator[dict[str, pa.Table]]:
    """Yield table -> its rows as Arrow, one group of dates after the other, in the order (as_of, customer_id, nth).

    `observations` is (customer_id, as_of, ...). An observation that sees no row has none.
    """
    queries = {
        each.table: f"SELECT o.customer_id, o.as_of, r.* EXCLUDE (customer_id, as_of)"
        f" FROM ({matrix.engine.sql(each.rows)}) r JOIN observed_rows o"
        " ON o.asked_for = r.customer_id AND o.as_of = r.as_of ORDER BY o.place, r.nth"
        for each in records
    }
    for _ in matrix.observed_groups(matrix.asked(observations)):
        yield {
            table: matrix.connection.con.execute(query).to_arrow_table().combine_chunks()
            for table, query in queries.items()
        }
