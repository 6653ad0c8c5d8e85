"""featuretools DFS with cutoff times, as the peer of benchmarks/features.py: a process of its own.

    .venv/bin/python benchmarks/dfs.py TRANSACTIONS.parquet DATES WINDOWS OUT.parquet

featuretools 1.31 and woodwork 0.31 expect two things that today's setuptools and pandas no longer have; this process
alone supplies them: `pkg_resources.iter_entry_points` (to look for plugins, of which there are none) and accessors that
pandas keeps on their frame. The last line printed is the seconds that DFS took.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
import types
import warnings
from typing import Any

import pandas as pd
from pandas.core import accessor


def keep_accessors() -> None:
    """Keep each accessor on its object, as pandas did before version 3."""

    def get(self: Any, held: Any, _: type) -> Any:
        if held is None:
            return self._accessor
        made = self._accessor(held)
        object.__setattr__(held, self._name, made)
        return made

    accessor.Accessor.__get__ = get


def computed(frame: pd.DataFrame, dates: list[str], windows: list[int]) -> tuple[pd.DataFrame, float]:
    """Return (customer_id, time, one column a feature and window) and the seconds that DFS took."""
    import featuretools
    from featuretools.primitives import Count, Max, Min, NumUnique, Std, Sum

    frame = frame.assign(
        transaction_id=range(len(frame)),
        event_on=pd.to_datetime(frame.event_on),
        inflow=frame.cents.clip(lower=0),
        outflow=(-frame.cents).clip(lower=0),
        is_in=(frame.cents > 0).astype("int64"),
    )
    customers = pd.DataFrame({"customer_id": sorted(frame.customer_id.unique())})
    rows = featuretools.EntitySet("benchmark")
    rows.add_dataframe(
        dataframe_name="t",
        dataframe=frame,
        index="transaction_id",
        time_index="event_on",
        logical_types={"category": "Categorical", "is_in": "Integer"},
    )
    rows.add_dataframe(dataframe_name="c", dataframe=customers, index="customer_id")
    rows.add_relationship("c", "customer_id", "t", "customer_id")
    cut = customers.merge(pd.DataFrame({"time": pd.to_datetime(dates)}), how="cross")
    asked = (
        ("count", "transaction_id", Count),
        ("in_count", "is_in", Sum),
        ("in_sum", "inflow", Sum),
        ("out_sum", "outflow", Sum),
        ("amount_std", "cents", Std),
        ("amount_min", "cents", Min),
        ("amount_max", "cents", Max),
        ("category_distinct", "category", NumUnique),
    )
    made = {
        name: featuretools.Feature(
            featuretools.Feature(rows["t"].ww[column]), parent_dataframe_name="c", primitive=primitive
        )
        for name, column, primitive in asked
    }
    parts, start = [], time.perf_counter()
    for k in windows:
        found = featuretools.calculate_feature_matrix(
            list(made.values()),
            rows,
            cutoff_time=cut,
            training_window=f"{k} mo",
            include_cutoff_time=False,
            cutoff_time_in_index=True,
        )
        parts.append(found.set_axis([f"{name}_{k}m" for name in made], axis=1))
    return pd.concat(parts, axis=1).reset_index(), time.perf_counter() - start


def main() -> None:
    """Read the arguments, write the columns, print the seconds."""
    source, dates, windows, out = sys.argv[1:]
    warnings.simplefilter("ignore")
    plugins = types.ModuleType("pkg_resources")
    plugins.iter_entry_points = lambda group: importlib.metadata.entry_points(group=group)  # type: ignore[attr-defined]
    sys.modules["pkg_resources"] = plugins
    keep_accessors()
    made, seconds = computed(pd.read_parquet(source), dates.split(","), [int(k) for k in windows.split(",")])
    made.astype({name: "float64" for name in made if name not in ("customer_id", "time")}).to_parquet(out)
    print(seconds)


if __name__ == "__main__":
    main()
