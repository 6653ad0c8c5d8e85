"""Which pictures the report holds: each from figures that stand in figures.json, absent where they are."""

from __future__ import annotations

from typing import Any

from pipeline import charts

FEW = 5  # a month with fewer defaults, or fewer good, has no AUC worth drawing
PSI_LEVELS, MISSING_LEVELS = (0.1, 0.25, 0.5, 1.0), (0.05, 0.25, 0.5, 0.9)


def pictures(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return (caption, chart) by name; a chart without figures is absent."""
    drawn = book(figures, words) | model(figures, words) | dates(figures, words) | arrears(figures, words)
    return {name: (words[name.removeprefix("model_").removeprefix("realised_")], svg) for name, svg in drawn.items()}


def book(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return the pictures of the portfolio."""
    drawn: dict[str, Any] = {}
    grades = figures["portfolio"].get("by_grade") or []
    if grades:
        names = [g["group"] for g in grades]
        drawn["by_grade"] = charts.columns(words["by_grade"], names, [[g["customers"] for g in grades]])
        for key, klass in (("exposure", "b"), ("expected_loss", "b"), ("credit_limit_recommended", "a")):
            if any(g[key] for g in grades):
                name = "limit_by_grade" if key == "credit_limit_recommended" else f"{key}_by_grade"
                drawn[name] = charts.columns(words[name], names, [[g[key] or 0 for g in grades]], classes=(klass,))
    return drawn


def model(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return the pictures of discrimination and calibration, on test rows and on matured ones."""
    drawn: dict[str, Any] = {}
    for part in ("model", "realised"):
        told = figures[part]
        if told.get("roc"):
            drawn[f"{part}_roc"] = charts.curve(
                words["roc"], told["roc"], words["roc_x"], told.get("roc_band") or ()
            )  # fmt: skip
        if told.get("by_grade"):
            drawn[f"{part}_calibration"] = charts.calibration(words["calibration"], told["by_grade"])
    told = figures["model"]
    if told.get("lift"):
        gain = [[0.0, 0.0], *([r["share"], r["capture"]] for r in told["lift"])]
        band = [[0.0, 0.0, 0.0], *([r["share"], r["capture_low"], r["capture_high"]] for r in told["lift"])]
        drawn["gain"] = charts.curve(words["gain"], gain, words["gain_x"], band)
    if told.get("distribution"):
        d = told["distribution"]
        drawn["distribution"] = charts.distribution(
            words["distribution"], d["edges"], d["good"], d["bad"], words["score"]
        )
    months = told.get("by_month") or []
    if len(months) > 1:
        names = [m["group"] for m in months]
        areas = [m["auc"] if min(m["bad"], m["rows"] - m["bad"]) >= FEW else None for m in months]
        if any(areas):
            drawn["auc_month"] = charts.lines(
                words["auc_month"], names, [[a and a["value"] for a in areas]], y_format=two, band=ends(areas), rule=0.5
            )
        drawn["rate_month"] = charts.lines(
            words["rate_month"], names, [[m["rate"] for m in months], [m["pd"] for m in months]], band=ends(months),
            floor=0.0,
        )  # fmt: skip
    return drawn


def dates(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return the pictures over the dates scored, and those of data and outcomes by month."""
    drawn: dict[str, Any] = {}
    scored = figures["score_drift"].get("by_month") or []
    if len(scored) > 1:
        names = [str(d["as_of"])[:7] for d in scored]
        drawn["psi_month"] = charts.lines(
            words["psi_month"], names, [[d["psi"] for d in scored]], y_format=lambda v: f"{v:.3g}", floor=0.0
        )
        shares = [d.get("grade_psi") for d in scored]
        if any(v is not None for v in shares):
            drawn["grade_psi_month"] = charts.lines(
                words["grade_psi_month"], names, [shares], y_format=lambda v: f"{v:.3g}", floor=0.0
            )
    expected = figures["expected"].get("by_month") or []
    if len([d for d in expected if d["rate"]]) > 1:
        names = [str(d["as_of"])[:7] for d in expected]
        for key, form, floor in (("rate", charts.percent, 0.0), ("auc", two, None)):
            told = [d[key] for d in expected]
            drawn[f"expected_{key}"] = charts.lines(
                words[f"expected_{key}"], names, [[t and t["value"] for t in told]], y_format=form, band=ends(told),
                classes=("lb",), floor=floor,
            )  # fmt: skip
    labels = figures["labels"].get("by_month") or []
    if labels:
        stacks = [[m[k] for m in labels] for k in ("good", "bad", "unknown", "excluded")]
        drawn["labels_month"] = charts.columns(words["labels_month"], [m["month"] for m in labels], stacks, most=6)
    months = figures["data"].get("by_month") or []
    if len(months) > 1:
        stacks = [[m[k] for m in months] for k in ("kept", "quarantined", "deduplicated", "left_out")]
        drawn["rows_month"] = charts.columns(words["rows_month"], [m["month"] for m in months], stacks, most=6)
    features = figures["features"]
    if features.get("by_month") and len(features["backs"]) > 1:
        names = [str(-b) if b else "0" for b in features["backs"]]
        for key, levels, form in (("psi", PSI_LEVELS, two), ("missing", MISSING_LEVELS, charts.percent)):
            rows = [(r["feature"], r[key]) for r in features["by_month"] if max(r[key]) > levels[0]]
            rows.sort(key=lambda r: (-max(r[1]), r[0]))
            drawn[f"heat_{key}"] = charts.heat(words[f"heat_{key}"], rows, names, levels, form)
    return drawn


def arrears(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return the pictures of roll rates and vintages."""
    drawn: dict[str, Any] = {}
    rolled = figures["roll_rates"].get("by_month") or []
    if len(rolled) > 1:
        names = [str(-m["months_back"]) if m["months_back"] else "0" for m in rolled]
        worse = [m["worse"] for m in rolled]
        drawn["roll_month"] = charts.lines(
            words["roll_month"], names, [[w["share"] for w in worse], [m["from_clean"]["share"] for m in rolled]],
            band=[(w["low"], w["high"]) if w["low"] is not None else None for w in worse], floor=0.0,
        )  # fmt: skip
    for name, told in figures["vintages"].items():
        series = [(each["cohort"], [p["share"] for p in each["curve"]]) for each in told.get("cohorts") or []]
        if any(len(values) > 1 for _, values in series):
            drawn[f"vintage_{name}"] = charts.curves(words[f"vintage_{name}"], series, words[f"vintage_{name}_x"])
    return drawn


def two(value: float) -> str:
    """Return a number with two decimals."""
    return f"{value:.2f}"


def ends(intervals: list[Any]) -> list[tuple[float, float] | None]:
    """Return (low, high) of each record that has both."""
    return [(i["low"], i["high"]) if i and i["low"] is not None else None for i in intervals]
