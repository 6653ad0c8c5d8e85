"""Every feature of the model, month by month: missing share and stability against the rows that trained it.

Bins are fitted on a sample of the training rows; the engine counts the scored rows in them, some features at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from models import drift
from pipeline.book import columns, quoted
from pipeline.stage import parquet, read_json

DATA = Path("data")
TRAINING, SCORING = DATA / "featurise/training/features.parquet", DATA / "featurise/scoring/features.parquet"
NOT_FEATURES = {"customer_id", "as_of", "months_back", "outcome", "outcome_known_on", "part", "fold"}
AT_ONCE = 32  # features whose bins are held in memory


def model_features(there: set[str]) -> list[str]:
    """Return the model's features that both folders hold (`there`), in its order; without a model all of them."""
    told: dict[str, Any] = {}
    for path in (DATA / "promote/scorer/features.json", DATA / "select/features.json"):
        told = told or (dict(read_json(path)) if path.is_file() else {})
    named = [n["name"] if isinstance(n, dict) else str(n) for n in told.get("features") or []]
    return [name for name in (named or sorted(there)) if name in there and name not in NOT_FEATURES]


def reference(connection: duckdb.DuckDBPyConnection, names: Sequence[str], rows: int) -> pd.DataFrame:
    """Return at most `rows` training rows, chosen by hash."""
    parts = DATA / "select/parts.parquet"
    only = f"semi join (from '{parts}' where part = 'train') using (customer_id, as_of)" if parts.is_file() else ""
    return connection.execute(
        f"select {', '.join(map(quoted, names))} from '{parquet(TRAINING)}' {only} "
        f"order by md5(customer_id || '|' || as_of::varchar), customer_id, as_of limit {rows}"
    ).df()


def counted(
    connection: duckdb.DuckDBPyConnection, bins: dict[str, drift.Bins], scoring: str
) -> dict[str, dict[int, np.ndarray]]:
    """Return feature -> months back -> rows in each bin, missing last."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for start in range(0, len(bins), AT_ONCE):
        some = list(bins.items())[start : start + AT_ONCE]
        listed = ", ".join(f"({fitted.sql(quoted(name))})::utinyint as b{i}" for i, (name, fitted) in enumerate(some))
        connection.execute(f"create or replace temp table placed as select months_back, {listed} from {scoring}")
        query = " union all ".join(
            f"select {i} as f, months_back, b{i} as bin, count(*) as n from placed group by all"
            for i in range(len(some))
        )
        for f, back, place, count in connection.execute(query).fetchall():
            name, fitted = some[f]
            shape = np.zeros(len(fitted.reference))
            found.setdefault(name, {}).setdefault(int(back), shape)[place] += count
    return found


def medians(connection: duckdb.DuckDBPyConnection, names: Sequence[str], scoring: str) -> list[float | None]:
    """Return the median of each numeric feature at the run's date."""
    if not names:
        return []
    number = "try_cast({0} as double)"
    listed = ", ".join(
        f"median({number.format(quoted(n))}) filter (isfinite({number.format(quoted(n))}))" for n in names
    )
    return list(connection.execute(f"select {listed} from {scoring} where months_back = 0").fetchall()[0])


def identifiers(
    connection: duckdb.DuckDBPyConnection, then: pd.DataFrame, scoring: str, share: float
) -> list[str]:  # fmt: skip
    """Return the features that behave like a running number or a name (`drift.identifier_like`)."""
    suspects = [name for name in then if not drift.is_numeric(then[name]) or whole(then[name])]
    found = []
    for start in range(0, len(suspects), 100):
        some = suspects[start : start + 100]
        listed = ", ".join(f"count({quoted(n)}), approx_count_distinct({quoted(n)})" for n in some)
        row = connection.execute(f"select {listed} from {scoring} where months_back = 0").fetchall()[0]
        found += [n for n, known, unlike in zip(some, row[::2], row[1::2], strict=True) if unlike > 0.8 * known]
    alike = []
    for name in found:
        rows = connection.execute(
            f"select customer_id, {quoted(name)} as value from {scoring} where months_back = 0 order by customer_id"
        ).df()
        if drift.identifier_like(rows["value"], rows["customer_id"], share):
            alike.append(name)
    return alike


def whole(values: pd.Series) -> bool:
    """Return whether a numeric column holds whole numbers alone, so that it could number its rows."""
    numbers = drift.as_floats(values)
    return bool(np.all(np.isnan(numbers) | (numbers == np.round(numbers))))


def feature_figures(
    *, bins: int, reference_rows: int, top_features: int, identifier_share: float, limit: float
) -> dict[str, Any]:
    """Return how the model's features moved: `top` and `missing` in detail, `by_month` for every feature.

    limit: PSI above which a feature counts as moved (`moved`: how many, beyond chance). `by_month` has a record a
    feature, the most moved first: psi and missing share by date, the oldest first; `backs` are those dates' months
    back. Empty without both folders of features.
    """
    if not TRAINING.exists() or not SCORING.exists():
        return {}
    with duckdb.connect(config={"threads": 2}) as connection:
        scoring = f"'{parquet(SCORING)}'"
        names = model_features(columns(connection, f"'{parquet(TRAINING)}'") & columns(connection, scoring))
        if not names:
            return {}
        then = reference(connection, names, reference_rows)
        counts = dict(connection.execute(f"select months_back, count(*) from {scoring} group by all").fetchall())
        if then.empty or not counts.get(0):
            return {}
        fitted = {name: drift.Bins.fit(then[name], bins) for name in names}
        placed = counted(connection, fitted, scoring)
        backs = sorted(counts, reverse=True)
        rows = [_row(name, fitted[name], placed[name], counts, backs) for name in names]
        rows.sort(key=lambda row: (-row["psi"], row["feature"]))
        top = rows[:top_features]
        lost = sorted(rows, key=lambda row: (-row["rise"], row["feature"]))[:top_features]
        shown = list({row["feature"]: row for row in (*top, *lost)}.values())
        numeric = [row for row in shown if row["kind"] == "numeric"]
        for row, now in zip(numeric, medians(connection, [r["feature"] for r in numeric], scoring), strict=True):
            known = drift.as_floats(then[row["feature"]])
            known = known[~np.isnan(known)]
            row["median_then"], row["median_now"] = (float(np.median(known)) if known.size else None), now
        alike = identifiers(connection, then, scoring, identifier_share)
    by_month = [{"feature": row["feature"], **row.pop("months")} for row in rows]
    return {
        "compared": len(rows), "reference_rows": len(then), "top": top, "missing": lost,
        "moved": sum(row["psi"] > max(limit, row["noise"]) for row in rows),
        "backs": backs, "by_month": by_month, "identifier_like": alike,
    }  # fmt: skip


def _row(
    name: str, fitted: drift.Bins, placed: dict[int, np.ndarray], counts: dict[int, int], backs: Sequence[int]
) -> dict[str, Any]:  # fmt: skip
    """Return one feature's record."""
    none = np.zeros(len(fitted.reference))
    shares = {back: placed.get(back, none) / counts[back] for back in backs}
    then = np.array(fitted.reference)
    missing = {back: float(share[-1]) for back, share in shares.items()}
    earlier = [missing[1]] if 1 in missing else []
    return {
        "feature": name,
        "kind": fitted.kind,
        "psi": drift.psi(then, shares[0]),
        "noise": fitted.noise(counts[0]),
        "missing_then": float(then[-1]),
        "missing_now": missing[0],
        "median_then": None,
        "median_now": None,
        "rise": max(missing[0] - before for before in (float(then[-1]), *earlier)),
        "months": {"psi": [drift.psi(then, shares[b]) for b in backs], "missing": [missing[b] for b in backs]},
    }
