"""report: a page that a risk committee can read, print and keep; from files alone, without network or scripts.

Everything shown stands in `figures.json` beside the page: the figures and checks of `monitor`, the customers with most
at stake, and what `explain` found. A second page, `explanation.html`, shows what the model makes of its features. Words
are in `templates/words.yaml` in English and Chinese; pictures are drawn by `charts`, those of features by `explain`.
"""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from models import portfolio, retraining
from pipeline import charts, document, plotted
from pipeline.monitor import frame, plain, record
from pipeline.params import Section, language
from pipeline.stage import execute, fresh, read_json, say, write_json

DATA, OUT = Path("data"), Path("data/report")
TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "–"
FEW = 5  # a month with fewer defaults, or fewer good, has no AUC worth drawing


class Params(Section):
    """How much the page shows."""

    section: ClassVar[str] = "report"
    worst_customers: int = 20


def worst_customers(most: int) -> list[dict[str, Any]]:
    """Return the customers with most at stake as records, each with `pds`: its PD by date, oldest first."""
    table = frame(DATA / "decide/table.parquet")
    if table.empty or "pd_12m" not in table:
        return []
    top = portfolio.worst(table, most)
    scores = frame(DATA / "score/scores.parquet", ["customer_id", "months_back", "pd", "grade"])
    dates = sorted(scores["months_back"].unique(), reverse=True) if len(scores) else []
    scores = scores[scores["customer_id"].isin(top["customer_id"])] if len(scores) else scores
    seen = (
        {(c, b): p for c, b, p in zip(*(scores[k].tolist() for k in ("customer_id", "months_back", "pd")), strict=True)}
        if dates
        else {}
    )
    records = plain(top.to_dict("records"))
    for row in records:
        row["pds"] = plain([seen.get((row["customer_id"], back)) for back in dates])
        row["alerts"] = [a for a in re.split(r"[;,|\s]+", str(row.get("alerts") or "")) if a]
        row["reasons"] = [
            {key: row.get(f"reason_{k}_{key}") for key in ("code", "text", "value", "typical", "points")}
            for k in range(1, 5)
            if row.get(f"reason_{k}_text")
        ]
    return records


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the single values of nested figures with dotted names; lists of more than four are left to the JSON."""
    if isinstance(value, dict):
        return [pair for key in sorted(value) for pair in flat(value[key], f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        short = len(value) <= 4 and not any(isinstance(v, dict | list) for v in value)
        return [(name, ", ".join(number(v) for v in value))] if short and value else []
    return [] if value is None else [(name, value)]


def number(value: Any) -> str:
    """Return a number with four significant digits, whole numbers in full, text as it is."""
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share of 1 as a percentage."""
    return NOTHING if value is None else f"{value:.{digits}%}"


def money(value: float | None) -> str:
    """Return an amount without decimals."""
    return NOTHING if value is None else f"{value:,.0f}"


def fixed(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed decimals."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def verdict(figures: dict[str, Any], checks: list[dict[str, Any]], words: dict[str, str]) -> dict[str, Any]:
    """Return what the page says first: published or refused, by which model, and what its figures can claim."""
    told, found = figures["run"], [c for c in checks if c["answer"] == "found"]
    stops, warns = (sum(c["severity"] == s for c in found) for s in ("stop", "warn"))
    first = words["go"] if not stops else words["stop_one"] if stops == 1 else words["stop_many"].format(n=stops)
    decision, version = (
        told["verdict"].get("decision"),
        told["model_version"] or told["verdict"].get("champion") or words["unknown"],
    )
    says = [words["warned"].format(n=warns)] if warns else []
    if told["experiment"]:
        says.append(words["model_experiment"])
    elif told["model_version"] is None and decision is not None:
        says.append(words["model_none"].format(decision=decision))
    elif decision is None:
        says.append(words["model_unknown"])
    else:
        kept = told["model_figures_of"] == "candidate"
        says.append(words["model_kept" if kept else "model_judged"].format(version=version, decision=decision))
    split, tested = told["split"], bool(figures["model"].get("total"))
    claim = "fig_none" if not tested else "fig_model" if told["figures_of"] == "model" else "fig_recipe"
    claimed = words[claim].format(**{"from": split.get("test_from") or words["unknown"]})
    says.append(claimed)
    if claim == "fig_recipe" and split.get("why"):
        says.append(f"{words['why']}: {split['why']}")
    if tested and told["model_figures_of"] == "candidate" and not told["experiment"]:
        says.append(words["candidate_figures"])
    return {"first": first, "state": "stop" if stops else "warn" if warns else "go", "says": says, "claim": claimed}


def pictures(figures: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    """Return (caption, chart) by name; a chart without figures is absent."""
    drawn: dict[str, Any] = {}
    grades = figures["portfolio"].get("by_grade") or []
    if grades:
        names = [g["group"] for g in grades]
        drawn["by_grade"] = charts.columns(words["by_grade"], names, [[g["customers"] for g in grades]])
        if any(g["exposure"] for g in grades):
            drawn["exposure_by_grade"] = charts.columns(
                words["exposure_by_grade"], names, [[g["exposure"] or 0 for g in grades]], classes=("b",)
            )
    for part in ("model", "realised"):
        told = figures[part]
        if told.get("roc"):
            drawn[f"{part}_roc"] = charts.curve(words["roc"], told["roc"], words["roc_x"])
        if told.get("by_grade"):
            drawn[f"{part}_calibration"] = charts.calibration(words["calibration"], told["by_grade"])
    told = figures["model"]
    if told.get("lift"):
        gain = [[0.0, 0.0], *([r["share"], r["capture"]] for r in told["lift"])]
        drawn["gain"] = charts.curve(words["gain"], gain, words["gain_x"])
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
                words["auc_month"],
                names,
                [[a and a["value"] for a in areas]],
                y_format=lambda v: f"{v:.2f}",
                band=[(a["low"], a["high"]) if a and a["low"] is not None else None for a in areas],
                rule=0.5,
            )
        drawn["rate_month"] = charts.lines(
            words["rate_month"], names, [[m["rate"] for m in months], [m["pd"] for m in months]], floor=0.0
        )
    dates = figures["score_drift"].get("by_month") or []
    if len(dates) > 1:
        names = [str(d["as_of"])[:7] for d in dates]
        drawn["psi_month"] = charts.lines(
            words["psi_month"], names, [[d["psi"] for d in dates]], y_format=lambda v: f"{v:.3g}", floor=0.0
        )
        drawn["pd_month"] = charts.lines(
            words["pd_month"], names, [[d["mean_pd"] for d in dates]], classes=("lb",), floor=0.0
        )
    labels = figures["labels"].get("by_month") or []
    if labels:
        stacks = [[m[k] for m in labels] for k in ("good", "bad", "unknown", "excluded")]
        drawn["labels_month"] = charts.columns(words["labels_month"], [m["month"] for m in labels], stacks, most=6)
    return {name: (words[name.removeprefix("model_").removeprefix("realised_")], svg) for name, svg in drawn.items()}


def reasons_told() -> dict[str, Any]:
    """Return what `explain` left: what weighs in the whole book, and whether reasons hold; empty where nothing is."""
    told = record(DATA / "explain/global.json")
    return {**told, "soundness": record(DATA / "explain/soundness.json")} if told.get("explained") else {}


def embedded(folder: Path) -> dict[str, str]:
    """Return PNG files as data addresses by their name without ending, so that a page holds its pictures itself."""
    return {
        path.stem: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.glob("*.png"))
    }


def rendered(template: str, tongue: str, **values: Any) -> str:
    """Return a page in language `tongue` (en or zh); every text from data is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader

    env = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(pct=percent, money=money, num=number, fix=fixed)
    return env.get_template(template).render(tongue=tongue, **values)


def words_in(tongue: str) -> dict[str, str]:
    """Return the pages' words by key in language `tongue` (en or zh)."""
    pairs = yaml.safe_load((TEMPLATES / "words.yaml").read_text(encoding="utf-8"))
    return {key: pair[0 if tongue == "en" else 1] for key, pair in pairs.items()}


def page(
    figures: dict[str, Any],
    checks: list[dict[str, Any]],
    worst: list[dict[str, Any]],
    why: dict[str, Any],
    words: dict[str, str],
    tongue: str,
) -> str:
    """Return the report as HTML text in language `tongue` (en or zh). why: of `reasons_told`."""
    order = {"stop": 0, "warn": 1, "note": 2}
    suffix = "" if tongue == "en" else "_zh"
    shown = [
        {
            **c,
            "title": c.get(f"title{suffix}") or c["title"],
            "explanation": c.get(f"explanation{suffix}") or c["explanation"],
        }
        for c in sorted(checks, key=lambda c: (order[c["severity"]], c["code"]))
    ]
    return rendered(
        "index.html.j2",
        tongue,
        w=words,
        f=figures,
        checks=shown,
        verdict=verdict(figures, checks, words),
        worst=worst,
        why=why,
        chart=pictures(figures, words),
        evaluate=flat(figures["evaluate"]),
        spark=charts.spark,
    )


def main() -> None:
    """Read what monitor, decide and explain left, write the pages and their figures."""
    params, tongue = Params.load(), language()
    figures, checks = read_json(DATA / "monitor/figures.json"), read_json(DATA / "monitor/checks.json")
    figures["retrain"] = retraining.proposal(checks, until=figures["run"]["until"], as_of=figures["run"]["as_of"])
    figures["overrides"] = plain(frame(DATA / "decide/overrides.parquet").to_dict("records"))
    worst, why, words = worst_customers(params.worst_customers), reasons_told(), words_in(tongue)
    text = page(figures, checks, worst, why, words, tongue)
    fresh(OUT)
    (OUT / "index.html").write_text(text, encoding="utf-8")
    shown = {**figures, "checks": checks, "worst": worst, "reasons": why}
    write_json(OUT / "figures.json", shown)
    told = document.told(tongue, {"report/figures.json": shown})
    third = rendered("document.html.j2", tongue, d=told, run=figures["run"])
    (OUT / "document.html").write_text(third, encoding="utf-8")
    write_json(OUT / "document.json", document.figures(told))
    plotted.write(shown, OUT / "plots")
    if why:
        shown = embedded(DATA / "explain/pictures")
        second = rendered("explanation.html.j2", tongue, w=words, run=figures["run"], why=why, picture=shown)
        (OUT / "explanation.html").write_text(second, encoding="utf-8")
    say("report", "page written", kilobytes=len(text.encode()) // 1024, customers=len(worst), checks=len(checks))


if __name__ == "__main__":
    execute("report", main)
