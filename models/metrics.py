"""How good a PD is, with how sure we are: ranking, calibration, lift and stability, each a pure function of arrays.

`outcome` is 0/1 a row, `score` rises with risk, `pd` is a probability. Where rows of one customer repeat, intervals are
clustered by customer. Figures that a set with one class cannot have are NaN, never an error.
Sources: DeLong, DeLong, Clarke-Pearson 1988; Obuchowski 1997 (clusters); Brown, Cai, DasGupta 2001 (Jeffreys); Cox 1958
(calibration slope); ECB 2019, Instructions for reporting the validation results of internal models (Jeffreys test).
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEVEL = 0.95  # of the intervals of figures
TINY = 1e-15


def auc(outcome: np.ndarray, score: np.ndarray) -> float:
    """Return the chance that a default scores above a good one, ties counted half; NaN with one class."""
    if len(np.unique(outcome)) < 2:
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outcome, score))


def placements(outcome: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return DeLong's placement values: of each default among the good, and of each good among the defaults."""
    from scipy.stats import rankdata

    bad, good = score[outcome == 1], score[outcome == 0]
    ranks = rankdata(np.concatenate((bad, good)))
    of_bad = (ranks[: len(bad)] - rankdata(bad)) / len(good)
    of_good = 1 - (ranks[len(bad) :] - rankdata(good)) / len(bad)
    return of_bad, of_good


def auc_variance(outcome: np.ndarray, score: np.ndarray, customer: np.ndarray | None = None) -> float:
    """Return DeLong's variance of the AUC; with `customer`, Obuchowski's for clustered rows."""
    if min(outcome.sum(), (1 - outcome).sum()) < 2:
        return float("nan")
    of_bad, of_good = placements(outcome, score)
    if customer is None:
        return float(of_bad.var(ddof=1) / len(of_bad) + of_good.var(ddof=1) / len(of_good))
    both = influence(outcome, score, customer)
    return float(len(both) / (len(both) - 1) * (both**2).sum()) if len(both) > 1 else float("nan")


def influence(outcome: np.ndarray, score: np.ndarray, customer: np.ndarray | None = None) -> np.ndarray:
    """Return each customer's (without `customer`: each row's) whole influence on the AUC: they sum to 0."""
    of_bad, of_good = placements(outcome, score)
    area = of_bad.mean()
    place = np.arange(len(outcome)) if customer is None else np.unique(customer.astype(str), return_inverse=True)[1]
    clusters = int(place.max()) + 1
    bad = np.bincount(place[outcome == 1], weights=of_bad - area, minlength=clusters)
    good = np.bincount(place[outcome == 0], weights=of_good - area, minlength=clusters)
    return np.asarray(bad / len(of_bad) + good / len(of_good))


def auc_difference(
    outcome: np.ndarray, first: np.ndarray, second: np.ndarray, customer: np.ndarray | None = None
) -> dict[str, float]:
    """Return AUC(first) - AUC(second) on the same rows: difference, low, high (95%), standard_error, p (two-sided).

    DeLong's test of two correlated areas; with `customer`, Obuchowski's for clustered rows. NaN with one class.
    """
    from scipy.stats import norm

    if min(outcome.sum(), (1 - outcome).sum()) < 2:
        return dict.fromkeys(("difference", "low", "high", "standard_error", "p"), float("nan"))
    apart = auc(outcome, first) - auc(outcome, second)
    if customer is None:
        (bad_a, good_a), (bad_b, good_b) = placements(outcome, first), placements(outcome, second)
        bad, good = bad_a - bad_b, good_a - good_b
        variance = bad.var(ddof=1) / len(bad) + good.var(ddof=1) / len(good)
    else:
        both = influence(outcome, first, customer) - influence(outcome, second, customer)
        variance = len(both) / max(len(both) - 1, 1) * (both**2).sum()
    error = float(np.sqrt(variance))
    reach = float(norm.ppf(0.5 + LEVEL / 2)) * error
    p = float(2 * norm.sf(abs(apart) / error)) if error > 0 else float(apart == 0)
    return {"difference": apart, "low": apart - reach, "high": apart + reach, "standard_error": error, "p": p}


def auc_interval(
    outcome: np.ndarray, score: np.ndarray, customer: np.ndarray | None = None, extra_variance: float = 0.0
) -> tuple[float, float, float]:
    """Return (AUC, low, high) at 95%: normal on the log-odds of the AUC, so that it stays within 0 and 1."""
    area = auc(outcome, score)
    return (area, *around(area, auc_variance(outcome, score, customer) + extra_variance))


def around(area: float, variance: float) -> tuple[float, float]:
    """Return the 95% interval of an AUC with this variance, normal on log-odds; (0, 1) where nothing is known."""
    from scipy.special import expit, logit
    from scipy.stats import norm

    if not np.isfinite(variance) or not 0 < area < 1:
        return 0.0, 1.0
    reach = norm.ppf(0.5 + LEVEL / 2) * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - reach)), float(expit(logit(area) + reach))


def ks(outcome: np.ndarray, score: np.ndarray) -> float:
    """Return the largest distance between the score distributions of defaults and good."""
    if len(np.unique(outcome)) < 2:
        return float("nan")
    from scipy.stats import ks_2samp

    return float(ks_2samp(score[outcome == 1], score[outcome == 0], method="asymp").statistic)


def pr_auc(outcome: np.ndarray, score: np.ndarray) -> float:
    """Return average precision: the mean precision over the defaults; NaN without defaults."""
    if outcome.sum() == 0:
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(outcome, score))


def brier(outcome: np.ndarray, pd: np.ndarray) -> float:
    """Return the mean squared distance of PD and outcome."""
    return float(((pd - outcome) ** 2).mean())


def row_log_loss(outcome: np.ndarray, pd: np.ndarray) -> np.ndarray:
    """Return -ln of the probability given to what happened, a row."""
    return -np.log(np.clip(np.where(outcome == 1, pd, 1 - pd), TINY, None))


def log_loss(outcome: np.ndarray, pd: np.ndarray) -> float:
    """Return the mean of `row_log_loss`."""
    return float(row_log_loss(outcome, pd).mean())


def reliability(outcome: np.ndarray, pd: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Return a record a bin of equal numbers of rows in order of PD: rows, mean PD, default rate, Jeffreys interval."""
    order = np.argsort(pd, kind="stable")
    records = []
    for rows in np.array_split(order, min(bins, len(order))):
        low, high = jeffreys_interval(outcome[rows].sum(), len(rows), LEVEL)
        records.append(
            {
                "rows": len(rows),
                "bads": int(outcome[rows].sum()),
                "predicted": float(pd[rows].mean()),
                "observed": float(outcome[rows].mean()),
                "observed_low": float(low),
                "observed_high": float(high),
            }
        )
    return records


def brier_parts(outcome: np.ndarray, pd: np.ndarray, bins: int = 10) -> dict[str, float]:
    """Return the Brier score as reliability - resolution + uncertainty + within (the spread of PDs inside the bins).

    Bins as in `reliability`. Murphy 1973; Stephenson, Coelho, Jolliffe 2008 (`within`, which makes the sum exact).
    """
    base = outcome.mean()
    parts = {"reliability": 0.0, "resolution": 0.0, "uncertainty": float(base * (1 - base)), "within": 0.0}
    for rows in np.array_split(np.argsort(pd, kind="stable"), min(bins, len(pd))):
        share, rate, mean = len(rows) / len(pd), outcome[rows].mean(), pd[rows].mean()
        apart = pd[rows] - mean
        parts["reliability"] += float(share * (mean - rate) ** 2)
        parts["resolution"] += float(share * (rate - base) ** 2)
        parts["within"] += float(share * ((apart**2).mean() - 2 * (apart * (outcome[rows] - rate)).mean()))
    return parts


def ece(outcome: np.ndarray, pd: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error: mean |default rate - mean PD| over bins of equal numbers of rows."""
    records = reliability(outcome, pd, bins)
    return float(sum(each["rows"] * abs(each["observed"] - each["predicted"]) for each in records) / len(outcome))


def calibration_line(outcome: np.ndarray, pd: np.ndarray) -> tuple[float, float]:
    """Return (slope, intercept) of the outcome's logistic regression on the PD's log-odds; 1 and 0 are perfect."""
    if len(np.unique(outcome)) < 2:
        return float("nan"), float("nan")
    bounded = np.clip(pd, 1e-12, 1 - 1e-12)
    slope, intercept = logistic_fit(np.log(bounded / (1 - bounded))[:, None], outcome)
    return float(slope), float(intercept)


def logistic_fit(
    columns: np.ndarray, outcome: np.ndarray, *, offset: np.ndarray | None = None, centre: float = 0.0,
    width: float = np.inf,
) -> np.ndarray:  # fmt: skip
    """Return (slopes..., intercept) of a logistic regression by Newton's method.

    Slopes have a normal prior around `centre` with standard deviation `width` (infinite: none). Sums are numpy's over
    rows in order: the same bytes whatever the number of threads.
    """
    design = np.column_stack((columns, np.ones(len(outcome))))
    size = design.shape[1]
    base = np.zeros(len(outcome)) if offset is None else offset
    penalty = np.append(np.full(size - 1, width**-2.0), 0.0)
    target = np.append(np.full(size - 1, centre), 0.0)
    rate = np.clip(outcome.mean(), 1e-6, 1 - 1e-6)
    weights = np.append(np.zeros(size - 1), np.log(rate / (1 - rate)) - base.mean())

    def loss(at: np.ndarray) -> float:
        line = base + (design * at).sum(axis=1)
        return float((np.logaddexp(0, line) - outcome * line).sum() + (penalty * (at - target) ** 2).sum() / 2)

    now = loss(weights)
    for _ in range(100):
        line = base + (design * weights).sum(axis=1)
        fitted = np.exp(-np.logaddexp(0, -line))
        slope = (design * (fitted - outcome)[:, None]).sum(axis=0) + penalty * (weights - target)
        spread = fitted * (1 - fitted)
        curve = np.array([[(spread * design[:, i] * design[:, j]).sum() for j in range(size)] for i in range(size)])
        curve[np.arange(size), np.arange(size)] += penalty + 1e-9
        step = np.linalg.solve(curve, slope)
        length = 1.0
        while loss(weights - length * step) > now + 1e-12 and length > 1e-6:
            length /= 2
        weights = weights - length * step
        now = loss(weights)
        if np.abs(length * step).max() < 1e-10 or np.abs(weights).max() > 50:  # 50: separable, no finite optimum
            break
    return weights


def jeffreys_interval(bads: Any, rows: Any, level: float, *, open_ends: bool = True) -> tuple[Any, Any]:
    """Return the equal-tailed Beta(bads + 1/2, goods + 1/2) interval of a rate.

    `open_ends`: 0 and 1 where no row or every row is bad, as Brown, Cai, DasGupta advise.
    """
    from scipy.stats import beta

    bads, rows = np.asarray(bads, dtype=float), np.asarray(rows, dtype=float)
    tail = (1 - level) / 2
    low = np.where(open_ends & (bads == 0), 0.0, beta.ppf(tail, bads + 0.5, rows - bads + 0.5))
    high = np.where(open_ends & (bads == rows), 1.0, beta.ppf(1 - tail, bads + 0.5, rows - bads + 0.5))
    return low, high


def jeffreys_test(bads: int, rows: int, pd: float) -> float:
    """Return the p-value of `the true rate is at most pd` (ECB 2019): small means that the PD is too low."""
    from scipy.stats import beta

    return float(beta.cdf(pd, bads + 0.5, rows - bads + 0.5))


def lift_table(
    outcome: np.ndarray, score: np.ndarray, shares: tuple[float, ...] = (0.05, 0.1, 0.2)
) -> list[dict[str, float]]:
    """Return a record a share of the riskiest rows: capture (share of all defaults there) and lift (capture / share).

    Rows on the border that tie are taken in part, so the figures do not hang on the order of rows.
    """
    order = np.argsort(-score, kind="stable")
    total = outcome.sum()
    steps = np.append(np.flatnonzero(np.diff(score[order]) != 0), len(score) - 1)  # last row of each tie
    found = np.append(0, np.cumsum(outcome[order])[steps])
    seen = np.append(0, steps + 1)
    records = []
    for share in shares:
        capture = np.interp(share * len(score), seen, found) / total if total else float("nan")
        records.append({"share": share, "capture": float(capture), "lift": float(capture / share)})
    return records


def psi(expected: np.ndarray, actual: np.ndarray, bins: int = 10) -> float:
    """Return the population stability index over deciles of `expected`, half a row added to empty bins."""
    if len(expected) == 0 or len(actual) == 0:
        return float("nan")
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (expected, actual):
        rows = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        shares.append(np.maximum(rows, 0.5) / len(values))
    first, second = shares
    return float(((second - first) * np.log(second / first)).sum())


def roc_points(outcome: np.ndarray, score: np.ndarray, most: int = 200) -> list[dict[str, float]]:
    """Return at most `most` points of the ROC curve, the corners among them, thinned evenly along the curve."""
    if len(np.unique(outcome)) < 2:
        return []
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(outcome, score)
    place = np.unique(np.linspace(0, len(false) - 1, min(most, len(false))).astype(int))
    return [
        {"false_positive_rate": float(f), "true_positive_rate": float(t)}
        for f, t in zip(false[place], true[place], strict=True)
    ]


def figures(outcome: np.ndarray, pd: np.ndarray, customer: np.ndarray | None = None) -> dict[str, float]:
    """Return the flat figures of one set of rows: ranking by `pd`, calibration of `pd`, counts."""
    area, low, high = auc_interval(outcome, pd, customer)
    slope, intercept = calibration_line(outcome, pd)
    result = {
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "gini": 2 * area - 1,
        "ks": ks(outcome, pd),
        "pr_auc": pr_auc(outcome, pd),
        "brier": brier(outcome, pd),
        "log_loss": log_loss(outcome, pd),
        "ece": ece(outcome, pd),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "default_rate": float(outcome.mean()),
        "mean_pd": float(pd.mean()),
        "rows": len(outcome),
        "bads": int(outcome.sum()),
    }
    result |= {f"brier_{name}": value for name, value in brier_parts(outcome, pd).items()}
    for each in lift_table(outcome, pd):
        result |= {f"{name}_{each['share']:.0%}".replace("%", ""): each[name] for name in ("capture", "lift")}
    return result
