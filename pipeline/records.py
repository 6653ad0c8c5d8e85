"""Child rows of `featurise.records`: as lists in a frame that models learn from, as scores beside features to score.

featurise writes them as records/<table>.parquet beside features.parquet, ordered by as_of, customer_id and nth, 1 being
the newest row. Which models read them is said by the inputs of kind record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import DataRefused, Problem
from models.inputs import record_inputs, rows_of

KEYS = ["customer_id", "as_of"]
AT_ONCE = 262_144  # child rows scored together


def _path(folder: Path, table: str) -> Path:
    """Return the file of a table's rows; refuse (exit code 2) where there is none."""
    path = folder / "records" / f"{table}.parquet"
    if not path.exists():
        raise DataRefused(
            Problem(str(path), "a file that `featurise` writes", "no such file", "Run `python -m pipeline run`.")
        )
    return path


def listed(rows: pa.Table) -> tuple[pa.Table, pa.ListArray]:
    """Return (customer_id, as_of) of each observation, and its rows as a list of structs, the newest first."""
    starts = np.flatnonzero(rows["nth"].to_numpy() == 1)
    held = rows.drop_columns([*KEYS, "nth"]).to_struct_array()
    values = pa.concat_arrays(held.chunks) if held.num_chunks else pa.array([], held.type)
    offsets = pa.array(np.append(starts, rows.num_rows), pa.int32())
    return rows.select(KEYS).take(pa.array(starts)), pa.ListArray.from_arrays(offsets, values)


def attached(frame: pd.DataFrame, folder: Path, tables: Iterable[str]) -> pd.DataFrame:
    """Return the frame (customer_id, as_of, ...) with each observation's rows of these tables; null: it sees none."""
    asked = pd.DataFrame({"customer_id": frame["customer_id"].astype(str), "as_of": _days(frame["as_of"])})
    columns = {}
    for table in tables:
        keys, lists = listed(pq.read_table(_path(folder, table)))
        known = keys.to_pandas()
        known = known.assign(as_of=_days(known["as_of"]), place=np.arange(len(known)))
        place = asked.merge(known, how="left", on=KEYS, validate="m:1")["place"].to_numpy(dtype=float)
        lacking = np.isnan(place)
        taken = lists.take(pa.array(np.where(lacking, 0, place).astype(np.int64), mask=lacking))
        columns[rows_of(table)] = pd.Series(taken, dtype=pd.ArrowDtype(lists.type), index=frame.index)
    return frame.assign(**columns) if columns else frame


def _days(dates: pd.Series) -> np.ndarray:
    return pd.to_datetime(dates).to_numpy().astype("datetime64[s]")


def _whole(path: Path) -> Iterator[pa.Table]:
    """Yield a file's rows some at a time, those of an observation together; once, and empty, where it has none."""
    rest: pa.Table | None = None
    for batch in pq.ParquetFile(path).iter_batches(AT_ONCE):
        part = pa.Table.from_batches([batch])
        rest = part if rest is None else pa.concat_tables([rest, part])
        last = int(np.flatnonzero(rest["nth"].to_numpy() == 1)[-1])
        if last:
            yield rest.slice(0, last)
            rest = rest.slice(last)
    yield pq.read_schema(path).empty_table() if rest is None else rest


def scored(scorer: Any, keys: pa.Table, folder: Path) -> pa.Table:
    """Return `keys` (customer_id, as_of) with the scores that the scorer's record models make of the rows in `folder`.

    A column an input of kind record, under its name; null where an observation sees no row.
    """
    result = keys.select(KEYS)
    for table, places in record_inputs(scorer.inputs).items():
        parts = []
        for rows in _whole(_path(folder, table)):
            known, lists = listed(rows)
            values = scorer.encoders.records[table].scores(pd.Series(lists, dtype=pd.ArrowDtype(lists.type)))
            for statistic, place in places.items():
                column = pa.array(values[statistic], pa.float64(), from_pandas=True)
                known = known.append_column(scorer.inputs[place].name, column)
            parts.append(known)
        result = beside(result, pa.concat_tables(parts))
    return result


def beside(table: pa.Table, scores: pa.Table) -> pa.Table:
    """Return the table (customer_id, as_of, ...) with the other columns of `scores`, matched by both."""
    import duckdb

    with duckdb.connect() as connection:
        place = pa.array(np.arange(table.num_rows), pa.int64())
        connection.register("asked", table.select(KEYS).append_column("place of row", place))
        connection.register("scores", scores)
        found = connection.execute(
            "select s.* exclude (customer_id, as_of) from asked left join scores s using (customer_id, as_of) "
            'order by "place of row"'
        ).to_arrow_table()
    for name in found.column_names:
        table = table.append_column(name, pc.cast(found[name], pa.float64()))
    return table
