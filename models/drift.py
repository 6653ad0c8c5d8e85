"""Population stability: whether a column moved since the reference, and by more than chance alone would move it.

Bins are fitted once on the reference and never again, so that figures of different months compare. A value that
repeats often (zero, a cap) gets a bin of its own, and missing is always a bin: a feed that stops is a drift.
PSI = sum over bins of (now - then) * ln(now / then), with shares below `FLOOR` raised to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

FLOOR = 1e-4  # smallest share that enters a logarithm
MOST_CATEGORIES = 20  # rarer categories of the reference share one bin with the unseen ones


def psi(then: np.ndarray, now: np.ndarray) -> float:
    """Return the population stability index of two vectors of shares, bin by bin.

    Both of shape (bins,), each summing to 1; symmetric, 0 where equal. Source: Siddiqi, Credit Risk Scorecards, 2006.
    """
    a, b = np.maximum(then, FLOOR), np.maximum(now, FLOOR)
    return float(np.sum((b - a) * np.log(b / a)))


def psi_noise(bins: int, rows_then: int, rows_now: int, level: float = 0.99) -> float:
    """Return the PSI that two samples of one population exceed with probability 1 - `level`.

    The PSI of equal populations is close to chi-squared(bins - 1) * (1 / rows_then + 1 / rows_now) (Yurdakul, 2018).
    0 for fewer than two bins or an empty sample.
    """
    from scipy.special import chdtri

    if bins < 2 or not rows_then or not rows_now:
        return 0.0
    return float(chdtri(bins - 1, 1 - level) * (1 / rows_then + 1 / rows_now))


@dataclass(frozen=True)
class Bins:
    """Bins of one column, fixed from the reference: cut points of a number or a list of categories, then missing."""

    kind: str  # numeric | categorical
    cuts: tuple[float, ...]
    categories: tuple[str, ...]
    reference: tuple[float, ...]  # shares of the reference, missing last
    rows: int

    @classmethod
    def fit(cls, values: pd.Series, bins: int = 10) -> Bins:
        """Fit on the reference: quantiles for numbers and booleans, the most frequent categories for text.

        `values` has one entry a reference row; null is missing, infinite counts as missing too.
        """
        if is_numeric(values):
            cuts = quantile_cuts(as_floats(values), bins)
            fitted = cls("numeric", cuts, (), (), len(values))
        else:
            counts = values.dropna().astype(str).value_counts()
            ranked = sorted(counts.items(), key=lambda item: (-int(item[1]), str(item[0])))
            fitted = cls("categorical", (), tuple(str(k) for k, _ in ranked[:MOST_CATEGORIES]), (), len(values))
        return cls(fitted.kind, fitted.cuts, fitted.categories, tuple(fitted.shares(values).tolist()), len(values))

    def shares(self, values: pd.Series) -> np.ndarray:
        """Return the share of `values` in each bin, missing last; zeros where there are no values."""
        if self.kind == "numeric":
            numbers = as_floats(values)
            count = len(self.cuts) + 1
            place = np.where(np.isnan(numbers), count, np.searchsorted(np.array(self.cuts), numbers, side="left"))
        else:
            count = len(self.categories) + 1  # the last of these: rare and unseen
            codes = pd.Categorical(
                values.astype(object).where(values.notna()).map(str, na_action="ignore"),
                categories=list(self.categories),
            ).codes
            place = np.where(values.isna().to_numpy(), count, np.where(codes < 0, count - 1, codes))
        counts = np.bincount(place.astype(int), minlength=count + 1).astype(float)
        return counts / max(len(values), 1)

    def sql(self, column: str) -> str:
        """Return a DuckDB expression of the bin of `column` (SQL text), numbered as in `shares`; missing is last."""
        if self.kind == "numeric":
            if not self.cuts:  # nothing was known in the reference
                return f"case when {column} is null then 1 else 0 end"
            number = f"{column}::double"
            place = " + ".join(f"({number} > '{cut!r}'::double)::int" for cut in self.cuts)
            return f"case when {number} is null or not isfinite({number}) then {len(self.cuts) + 1} else {place} end"
        listed = " ".join(f"when {_text(name)} then {i}" for i, name in enumerate(self.categories))
        count = len(self.categories)
        known = f"case {column}::varchar {listed} else {count} end" if listed else str(count)
        return f"case when {column} is null then {count + 1} else {known} end"

    def psi(self, values: pd.Series) -> float:
        """Return the PSI of `values` against the reference."""
        return psi(np.array(self.reference), self.shares(values))

    def noise(self, rows: int) -> float:
        """Return the PSI that `rows` rows of the reference population itself would exceed once in a hundred times."""
        return psi_noise(sum(share > 0 for share in self.reference), self.rows, rows)


def _text(value: str) -> str:
    """Return a text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def is_numeric(values: pd.Series) -> bool:
    """Return whether a column holds numbers or booleans (a column of nothing but nulls counts as numbers)."""
    return bool(pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values) or values.isna().all())


def as_floats(values: pd.Series) -> np.ndarray:
    """Return a numeric column as doubles; null and infinite become NaN."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def quantile_cuts(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    """Return ascending cut points: bin i holds cut[i-1] < value <= cut[i].

    A quantile that occurs more than once is a heavy value: it is cut on both sides and so gets its own bin.
    NaN is left out; no cut points where nothing is left.
    """
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        return ()
    inner = np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf")
    points, times = np.unique(inner, return_counts=True)
    heavy = points[times > 1]
    return tuple(np.unique(np.concatenate([points, np.nextafter(heavy, -np.inf)])).tolist())


def compare(reference: pd.DataFrame, now: pd.DataFrame, features: list[str], bins: int = 10) -> pd.DataFrame:
    """Return one row a feature: its PSI against the reference and what moved, largest PSI first.

    Columns: feature, kind, psi, noise, missing_then, missing_now (shares), median_then, median_now (null for text).
    Both frames have one row an observation; a feature that either lacks is left out.
    """
    rows = []
    for name in features:
        if name not in reference or name not in now:
            continue
        then_values, now_values = reference[name], now[name]
        fitted = Bins.fit(then_values, bins)
        numeric = fitted.kind == "numeric" and is_numeric(now_values)
        rows.append(
            {
                "feature": name,
                "kind": fitted.kind,
                "psi": fitted.psi(now_values),
                "noise": fitted.noise(len(now_values)),
                "missing_then": float(then_values.isna().mean()) if len(then_values) else None,
                "missing_now": float(now_values.isna().mean()) if len(now_values) else None,
                "median_then": _median(then_values) if numeric else None,
                "median_now": _median(now_values) if numeric else None,
            }
        )
    columns = ["feature", "kind", "psi", "noise", "missing_then", "missing_now", "median_then", "median_now"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["psi", "feature"], ascending=[False, True], ignore_index=True)


def _median(values: pd.Series) -> float | None:
    """Return the median of a numeric column, or null where it has no value."""
    known = as_floats(values)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if known.size else None


def identifier_like(values: pd.Series, customers: pd.Series, share: float) -> bool:
    """Return whether a feature looks like a row number or a name instead of a property.

    Text: at least `share` of the known values differ. Whole numbers: that too, and they are dense (a running number)
    or follow the order of `customers`. Amounts with all values different are ordinary and not meant.
    """
    known = values.dropna()
    if len(known) < 100 or known.nunique() < share * len(known):
        return False
    if not is_numeric(known):
        return True
    numbers = as_floats(known)
    if np.isnan(numbers).any() or (numbers != np.round(numbers)).any():
        return False
    dense = float(numbers.max() - numbers.min()) < 2 * len(numbers)
    order = customers.loc[known.index].astype(str).rank().to_numpy()
    follows = abs(float(np.corrcoef(order, known.rank().to_numpy())[0, 1]))
    return bool(dense or follows > 0.95)
