"""The report's figures as `dvc metrics`, `dvc plots` and MLflow take them: flat numbers, and records a plot.

All of them stand in figures.json too; nothing is worked out here.
"""

from __future__ import annotations

from typing import Any

ENDS = {"value": "", "low": "_low", "high": "_high"}
PLOTS = (
    "expected", "score_drift", "roll_rates", "vintages", "calibration_by_grade", "realised_by_grade", "roc", "lift",
    "score_distribution", "feature_psi", "feature_missing", "migration", "fairness",
)  # fmt: skip


def metrics_of(figures: dict[str, Any], checks: list[dict[str, Any]]) -> dict[str, float]:
    """Return the headline figures by dotted names; what the run does not have is absent."""
    total = (figures["portfolio"] or {}).get("total") or {}
    named: dict[str, Any] = {f"portfolio.{name}": value for name, value in total.items()}
    named |= {f"portfolio.herfindahl_{n}": v for n, v in (figures["portfolio"].get("herfindahl") or {}).items()}
    named["portfolio.alerted"] = figures["portfolio"].get("alerted")
    for part in ("model", "realised"):
        area, whole = figures[part].get("auc") or {}, figures[part].get("total") or {}
        named |= {f"{part}.auc{'' if end == 'value' else '_' + end}": area.get(end) for end in ("value", "low", "high")}
        named |= {f"{part}.{name}": whole.get(name) for name in ("rows", "bad", "pd", "rate")}
    dates = figures["expected"].get("by_month") or []
    now = next((each for each in dates if each["months_back"] == 0), {})
    for name in ("rate", "auc"):
        told = now.get(name) or {}
        named |= {f"expected.{name}{'' if k == 'value' else '_' + k}": told.get(k) for k in ("value", "low", "high")}
    named["score.psi"] = (figures["score_drift"].get("now") or {}).get("psi")
    named |= {f"features.{name}": figures["features"].get(name) for name in ("compared", "moved")}
    named |= {f"decline.{name}": value for name, value in figures["decline"].items()}
    rolled = figures["roll_rates"].get("now") or {}
    named["roll_rates.worse"] = rolled.get("share")
    for back, moved in figures["migration"].items():
        named |= {f"migration.{back}.{name}": moved[name] for name in ("worse", "same", "better")}
    for each in figures["fairness"].get("attributes") or []:
        ratios = [r["ratio"] for r in each["approval"] if r["ratio"] is not None]
        named[f"fairness.{each['attribute']}.lowest_ratio"] = min(ratios, default=None)
    named |= {
        f"checks.{name}": sum(c["answer"] == "found" and c["severity"] == name for c in checks)
        for name in ("stop", "warn", "note")
    }
    return {
        name: float(value)
        for name, value in sorted(named.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def plots_of(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return plot name -> records, each plot of PLOTS; one without figures has no record."""
    model, dates = figures["model"], figures["expected"].get("by_month") or []
    bins = model.get("distribution") or {"edges": [], "good": [], "bad": []}
    rolls, features = figures["roll_rates"], figures["features"]
    drawn: dict[str, list[dict[str, Any]]] = {
        "expected": [
            {"as_of": d["as_of"]}
            | {f"{n}{end}": (d[n] or {}).get(key) for n in ("rate", "auc") for key, end in ENDS.items()}
            for d in dates
        ],
        "score_drift": [
            {k: d[k] for k in ("as_of", "psi", "mean_pd")} for d in figures["score_drift"].get("by_month") or []
        ],
        "roll_rates": [
            {"from": start, "to": end, "customers": rolls["counts"][i][j], "share": rolls["shares"][i][j]}
            for i, start in enumerate(rolls.get("buckets") or []) for j, end in enumerate(rolls["to"])
        ],
        "vintages": [
            {"of": name, "cohort": each["cohort"], "month": point["month"], "share": point["share"]}
            for name, told in figures["vintages"].items()
            for each in told.get("cohorts") or [] for point in each["curve"]
        ],
        "calibration_by_grade": [dict(r) for r in model.get("by_grade") or []],
        "realised_by_grade": [dict(r) for r in figures["realised"].get("by_grade") or []],
        "roc": [{"false_positive_rate": x, "true_positive_rate": y} for x, y in model.get("roc") or []],
        "lift": [dict(r) for r in model.get("lift") or []],
        "score_distribution": [
            {"score_from": low, "outcome": name, "rows": count}
            for name in ("good", "bad") for low, count in zip(bins["edges"], bins[name], strict=False)
        ],
        "migration": [
            {"months": int(back), "from": a, "to": b, "customers": moved["counts"][i][j]}
            for back, moved in figures["migration"].items()
            for i, a in enumerate(moved["grades"]) for j, b in enumerate(moved["grades"])
        ],
        "fairness": [
            {"attribute": each["attribute"], **{k: r[k] for k in ("group", "rate", "rate_low", "rate_high", "mean_pd")}}
            for each in figures["fairness"].get("attributes") or [] for r in each["approval"]
        ],
    }  # fmt: skip
    top = {row["feature"] for row in features.get("top") or []}
    for name, key in (("feature_psi", "psi"), ("feature_missing", "missing")):
        drawn[name] = [
            {"feature": row["feature"], "months_back": back, key: value}
            for row in features.get("by_month") or [] if row["feature"] in top
            for back, value in zip(features["backs"], row[key], strict=True)
        ]  # fmt: skip
    return drawn
