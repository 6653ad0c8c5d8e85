"""The figures of the report: plain numbers from the frames that the stages left, section by section.

A section without input is empty, never zero: the report and the checks then say `not applicable`. PDs are shares of 1,
amounts doubles of the source's currency, dates datetime64[ms].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from models import drift, expected, portfolio, realised

KEYS = ["customer_id", "as_of"]
LEAST_UNSEEN = 0.5  # of the scored customers of a date
STATES = ("read", "kept", "quarantined", "deduplicated", "left_out")  # rows of a table, as ingest counts them


def outside_training(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scored rows that did not train the model; all of them where that is not recorded."""
    if "in_training" not in scores:
        return scores
    return scores[~scores["in_training"].astype("boolean").fillna(False).astype(bool)]


def joined(left: pd.DataFrame, right: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the rows of both frames that share customer and date, with `columns` of the right one."""
    if left.empty or right.empty or not {*KEYS, *columns} <= set(right.columns):
        return pd.DataFrame()
    kept = left.drop(columns=[c for c in columns if c in left])
    return kept.merge(right[[*KEYS, *columns]], on=KEYS, how="inner", validate="m:1")


def floats(values: pd.Series) -> np.ndarray:
    """Return a column as doubles; null is NaN."""
    return values.to_numpy(dtype=float, na_value=np.nan)


def score_figures(
    scores: pd.DataFrame, test: pd.DataFrame, bins: int, far: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return counts of scored customers, and the drift of their PD over the thirteen dates and against test rows.

    `far`: how many features outside the range of training make a customer strange to the model. A date on which fewer
    than `LEAST_UNSEEN` of the customers are strangers to the training says nothing of drift: they are left over because
    their outcome is unknown, and are no sample of who is scored.
    """
    if scores.empty:
        return {"customers": 0}, {}
    pd_ = floats(scores["pd"])
    now = scores["months_back"] == 0
    invalid = ~(np.isfinite(pd_) & (pd_ > 0) & (pd_ < 1))
    beyond = scores.loc[now, "out_of_range"] >= far if "out_of_range" in scores else None
    counts: dict[str, Any] = {
        "customers": int(now.sum()),
        "invalid_pd": int(invalid[now.to_numpy()].sum()),
        "in_training": int(now.sum()) - len(outside_training(scores[now])),
        "far_features": far,
        "out_of_range_share": float(beyond.mean()) if beyond is not None and len(beyond) else None,
    }
    unseen = outside_training(scores)  # a PD that the row itself trained is sharper than one of a stranger
    dates = sorted({int(b) for b in scores["months_back"]}, reverse=True)
    parts = {back: unseen.loc[unseen["months_back"] == back, "pd"] for back in dates}
    for back, part in parts.items():
        if len(part) < LEAST_UNSEEN * (scores["months_back"] == back).sum():
            parts[back] = part.head(0)
    oldest = next((back for back in dates if back and len(parts[back])), None)
    fitted = drift.Bins.fit(parts[oldest], bins) if oldest else None

    def grades(part: pd.Series) -> pd.Series:
        return scores.loc[part.index, "grade"]

    graded = drift.Bins.fit(grades(parts[oldest]), bins) if oldest and "grade" in scores else None
    counts["by_month"] = by_month = [
        {
            "months_back": back,
            "as_of": scores.loc[scores["months_back"] == back, "as_of"].max(),
            "customers": int((scores["months_back"] == back).sum()),
            "mean_pd": float(scores.loc[scores["months_back"] == back, "pd"].mean()),
            **_moved(fitted, parts[back]),
            "grade_psi": graded.psi(grades(parts[back])) if graded and len(parts[back]) else None,
        }
        for back in dates
    ]
    moved: dict[str, Any] = {"by_month": by_month if fitted else []}
    today = parts.get(0, unseen["pd"].head(0))
    if fitted and len(today):
        against = {"against": f"{oldest} months ago", "against_zh": f"{oldest} 个月前"}
        moved["now"] = {**_moved(fitted, today), **against}
    if len(test) and len(today):
        against = {"against": "the test rows", "against_zh": "测试样本"}
        moved["test"] = {**_moved(drift.Bins.fit(test["pd"], bins), today), **against}
        moved.setdefault("now", moved["test"])
    return counts, moved


def expected_figures(scores: pd.DataFrame) -> dict[str, Any]:
    """Return the default rate and AUC to expect of the customers of each date scored, the oldest first.

    As in `score_figures`, a date on which most customers trained the model says nothing: nulls.
    """
    if scores.empty:
        return {}
    records = []
    for back, rows in scores.groupby("months_back", sort=True):
        unseen = outside_training(rows)
        pd_ = floats(unseen["pd"])
        pd_ = pd_[np.isfinite(pd_) & (pd_ > 0) & (pd_ < 1)]
        enough = len(pd_) >= max(2, LEAST_UNSEEN * len(rows))
        records.append(
            {
                "months_back": int(str(back)),
                "as_of": rows["as_of"].max(),
                "rate": expected.expected_rate(pd_) if enough else None,
                "auc": expected.expected_auc(pd_) if enough else None,
            }
        )
    return {"by_month": records[::-1]}


def _moved(fitted: drift.Bins | None, values: pd.Series) -> dict[str, float | None]:
    """Return the PSI of `values` and the level of chance; nulls where there is nothing to compare."""
    if fitted is None or values.empty:
        return {"psi": None, "noise": None}
    return {"psi": fitted.psi(values), "noise": fitted.noise(len(values))}


def portfolio_figures(table: pd.DataFrame, order: list[str]) -> dict[str, Any]:
    """Return totals, whole and by group (grade, industry, kind, action, limit rule and so on), and concentration.

    Alerts, and figures that were assumed, by how many customers have them.
    """
    if table.empty:
        return {}
    rules = table["limit_rule"].astype(str) if "limit_rule" in table else pd.Series("", table.index)
    parts = rules.str.partition("; assumed ")
    assumed = parts[2].str.split(", ").explode()
    ruled = table.assign(limit_rule=parts[0]) if "limit_rule" in table else table
    groups = {f"by_{c}": portfolio.by_group(table, c) for c in ("industry", "region", "segment", "kind")}
    alerts = table["alerts"].fillna("").astype(str) if "alerts" in table else pd.Series([], dtype=str)
    codes = alerts.str.split(r"[;,|\s]+", regex=True).explode()
    concentration = {
        name.removeprefix("by_"): portfolio.herfindahl([g["exposure"] for g in rows])
        for name, rows in groups.items()
        if len(rows) > 1
    }
    even = {}  # how far from equal parts, 0, to all in one, 1
    for name, index in concentration.items():
        holders = sum((g["exposure"] or 0) > 0 for g in groups[f"by_{name}"])
        even[name] = (index - 1 / holders) / (1 - 1 / holders) if index is not None and holders > 1 else None
    exposures = table["exposure"].fillna(0.0) if "exposure" in table else pd.Series([], dtype=float)
    concentration["customer"] = portfolio.herfindahl(list(exposures.to_numpy(dtype=float)))
    whole = float(exposures.sum())
    return {
        "total": portfolio.totals(table),
        "by_grade": portfolio.by_group(table, "grade", order),
        **groups,
        "by_action": portfolio.by_group(table, "action"),
        "by_limit_rule": portfolio.by_group(ruled, "limit_rule"),
        "assumed": assumed[assumed != ""].value_counts().sort_index().to_dict(),
        "alerted": int((alerts != "").sum()),
        "alerts": codes[codes != ""].value_counts().sort_index().to_dict(),
        "herfindahl": concentration,
        "herfindahl_beyond_even": even,
        "largest_exposure_share": float(exposures.max()) / whole if whole > 0 else None,
    }


def outcome_figures(rows: pd.DataFrame, order: list[str]) -> dict[str, Any]:
    """Return discrimination and calibration of rows with outcome and pd (and grade, score where they have one)."""
    rows = rows[rows["pd"].notna()] if len(rows) else rows
    if rows.empty:
        return {}
    y, p, who = floats(rows["outcome"]), floats(rows["pd"]), rows["customer_id"].to_numpy(dtype=object)
    score = floats(rows["score"]) if "score" in rows else -np.log(np.clip(p, 1e-9, None) / np.clip(1 - p, 1e-9, None))
    months = rows["as_of"].dt.strftime("%Y-%m")
    by_month = [
        {
            "group": m,
            "rows": len(part),
            "bad": int(part["outcome"].sum()),
            "rate": float(part["outcome"].mean()),
            "pd": float(part["pd"].mean()),
            **dict(zip(("low", "high"), realised.rate_interval(part["outcome"]), strict=True)),
            "auc": realised.auc(floats(part["outcome"]), floats(part["pd"])),
        }
        for m, part in rows.groupby(months)
    ]
    total = realised.calibration(rows.assign(all="all"), "all", ["all"])[0]
    return {
        "customers": int(rows["customer_id"].nunique()),
        "total": total,
        "auc": realised.auc(y, p, who),
        "roc": (curve := realised.roc(y, p)),
        "roc_band": realised.roc_band(curve, int(total["bad"])),
        "lift": realised.lift(y, p),
        "distribution": realised.distribution(y, score),
        "by_month": by_month,
        "by_grade": realised.calibration(rows, "grade", order) if "grade" in rows else [],
    }


def truth_figures(rows: pd.DataFrame, truth: pd.DataFrame, outcomes: bool) -> dict[str, Any]:
    """Return how the model and the true PD compare on the same rows; empty without truth."""
    both = joined(rows, truth, ["true_pd"])
    if both.empty:
        return {}
    true, model = floats(both["true_pd"]), floats(both["pd"])
    result: dict[str, Any] = {
        "rows": len(both),
        "mean_pd": model.mean(),
        "mean_true_pd": true.mean(),
        "rank_correlation": float(np.corrcoef(realised.midranks(true), realised.midranks(model))[0, 1])
        if len(both) > 1 and true.std() > 0 and model.std() > 0
        else None,
    }
    if {"pd_low", "pd_high"} <= set(both):
        result["coverage"] = realised.coverage(true, floats(both["pd_low"]), floats(both["pd_high"]))
    if outcomes:
        y, who = floats(both["outcome"]), both["customer_id"].to_numpy(dtype=object)
        result |= {"auc_model": realised.auc(y, model, who), "auc_truth": realised.auc(y, true, who), "rate": y.mean()}
    return result


def matured(scores: pd.DataFrame, observations: pd.DataFrame, as_of: str | None, horizon: int) -> pd.DataFrame:
    """Return scored rows outside training whose whole window lies before the run's date, with their outcome.

    Rows whose window is still open are left out even where the default is known: there, only the bad are known.
    """
    if scores.empty or as_of is None or "outcome" not in observations:
        return pd.DataFrame()
    unseen = outside_training(scores)
    closed = unseen[unseen["as_of"] + pd.DateOffset(months=horizon) <= pd.Timestamp(as_of)]
    known = observations[observations["outcome"].notna()]
    if "excluded_because" in known:
        known = known[known["excluded_because"].isna()]
    return joined(closed, known, ["outcome"])


def label_figures(observations: pd.DataFrame) -> dict[str, Any]:
    """Return good, bad, unknown and excluded by month, and the excluded by reason."""
    if observations.empty:
        return {}
    excluded = (
        observations["excluded_because"]
        if "excluded_because" in observations
        else pd.Series(None, index=observations.index, dtype=object)
    )
    outcome = floats(observations["outcome"])
    state = np.where(
        excluded.notna(),
        "excluded",
        np.where(np.isnan(outcome), "unknown", np.where(outcome == 1, "bad", "good")),
    )
    counts = pd.crosstab(observations["as_of"].dt.strftime("%Y-%m"), state).reindex(
        columns=["good", "bad", "unknown", "excluded"], fill_value=0
    )
    return {
        "by_month": [{"month": m, **row} for m, row in counts.to_dict("index").items()],
        "excluded": excluded.dropna().astype(str).value_counts().sort_index().to_dict(),
    }


def data_figures(quality: dict[str, Any]) -> dict[str, Any]:
    """Return rows read, kept and quarantined by table, with the rules that they broke."""
    tables = []
    for table, told in sorted((quality.get("tables") or {}).items()):
        blocks = told.get("blocks") or [told]
        row = {state: sum(int(block.get(state) or 0) for block in blocks) for state in STATES}
        tables.append({"table": table, **row, "rules": {rule: n for rule, n in (told.get("rules") or {}).items() if n}})
    if not tables:
        return {}
    return {"tables": tables, "by_month": _by_month(quality), "broken": _broken(quality)}


def _by_month(quality: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows read, kept and quarantined of all tables by the month of their knowledge."""
    months: dict[str, dict[str, int]] = {}
    for told in (quality.get("tables") or {}).values():
        for month, row in (told.get("months") or {}).items():
            sums = months.setdefault(str(month), dict.fromkeys(STATES, 0))
            for state in STATES:
                sums[state] += int(row.get(state) or 0)
    return [{"month": month, **months[month]} for month in sorted(months)]


def _broken(quality: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record a table and rule that rows broke: rows by month."""
    return [
        {"table": table, "rule": rule, "months": dict(sorted(months.items())), "rows": sum(months.values())}
        for table, told in sorted((quality.get("tables") or {}).items())
        for rule, months in sorted(_by_rule(told.get("rules_by_month") or {}).items())
    ]


def _by_rule(by_month: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return rule -> month -> rows of month -> rule -> rows, without zeros."""
    rules: dict[str, dict[str, int]] = {}
    for month, counts in by_month.items():
        for rule, count in counts.items():
            if count:
                rules.setdefault(rule, {})[month] = int(count)
    return rules
