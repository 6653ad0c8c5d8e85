"""What PDs promise before any outcome is known: the default rate and the AUC to expect of these customers.

If PDs are right, each customer's outcome is a coin with that PD. The AUC to expect is then the chance that of two
customers, one drawn by PD among those who will default and one by 1 - PD among those who will not, the first has the
higher risk. Sources: the model-based concordance of van Klaveren, Gonen, Steyerberg, Vergouwe, Statistics in Medicine
35 (2016) 4136; the same idea as NannyML's confidence-based performance estimation. Intervals say how far chance alone
carries the outcomes from the PDs, for independent customers: defaults that come together spread more widely, and
whether the PDs are right is not known before outcomes are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.metrics import LEVEL, around

Floats = npt.NDArray[np.float64]


def pairs_below(risk: Floats, weight: Floats) -> Floats:
    """Return for each row the summed weight of rows of lower risk, and half of that of other rows of equal risk.

    risk, weight: shape (n,); all finite. Returns shape (n,).
    """
    _, place = np.unique(risk, return_inverse=True)
    of_level = np.bincount(place, weights=weight)
    lower = np.cumsum(of_level) - of_level
    return np.asarray(lower[place] + (of_level[place] - weight) / 2)


def expected_auc(pd: Floats, risk: Floats | None = None) -> dict[str, Any] | None:
    """Return value, low, high (95%) and rows of the AUC to expect where each row defaults with probability `pd`.

    pd in (0, 1), shape (n,). risk: what ranks, higher is riskier; null: `pd` itself. Null with fewer than two rows, or
    where outcomes are certain. The variance is that of the outcomes alone, by the delta method.
    """
    if len(pd) < 2:
        return None
    good, ranked = 1.0 - pd, pd if risk is None else risk
    bads, goods = float(pd.sum()), float(good.sum())
    pairs = bads * goods - float((pd * good).sum())
    if not pairs > 0:
        return None
    below = pairs_below(ranked, good)  # good rows that row i, as a default, would rightly lie above
    above = pairs_below(-ranked, pd)  # defaults that would rightly lie above row i, as a good one
    area = float((pd * below).sum()) / pairs
    slope = (below - above) - area * ((goods - good) - (bads - pd))
    variance = float((pd * good * slope**2).sum()) / pairs**2
    low, high = around(area, variance)
    return {"value": area, "low": low, "high": high, "rows": len(pd)}


def expected_rate(pd: Floats) -> dict[str, Any] | None:
    """Return value, low, high (95%) and rows of the default rate to expect; null without rows.

    pd in (0, 1), shape (n,). Source: the normal approximation of a sum of independent coins (Poisson binomial).
    """
    from scipy.stats import norm

    if not len(pd):
        return None
    mean = float(pd.mean())
    reach = float(norm.ppf(0.5 + LEVEL / 2) * np.sqrt((pd * (1 - pd)).sum()) / len(pd))
    return {"value": mean, "low": max(0.0, mean - reach), "high": min(1.0, mean + reach), "rows": len(pd)}
