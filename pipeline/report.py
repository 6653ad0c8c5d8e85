"""report: a page that a risk committee can read, print and keep; from files alone, without network or scripts.

Everything shown stands in `figures.json` beside the page: the figures and checks of `monitor`, the customers with most
at stake, and what `explain` found. A second page, `explanation.html`, shows what the model makes of its features, and
`worklist.html` whom to contact. Words are in `templates/words.yaml` in English and Chinese; pictures are drawn by
`charts`, those of features by `explain`.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any, ClassVar

import yaml

from models import retraining
from pipeline import charts, chinese, customers, document, plotted
from pipeline.drawn import pictures
from pipeline.monitor import frame, plain, record
from pipeline.params import Section, language
from pipeline.stage import execute, fresh, read_json, say, write_json

DATA, OUT = Path("data"), Path("data/report")
TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "–"


class Params(Section):
    """How much the page shows."""

    section: ClassVar[str] = "report"
    worst_customers: int = 20  # with most at stake
    alerted_customers: int = 40  # with alerts, worst first, each with its history
    contacts: int = 200  # rows of the worklist, best first


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


def verdict(
    figures: dict[str, Any], checks: list[dict[str, Any]], words: dict[str, str], tongue: str
) -> dict[str, Any]:  # fmt: skip
    """Return what the page says first: published or refused, by which model, why, and what its figures can claim."""
    told, found = figures["run"], [c for c in checks if c["answer"] == "found"]
    stops, warns = (sum(c["severity"] == s for c in found) for s in ("stop", "warn"))
    first = words["go"] if not stops else words["stop_one"] if stops == 1 else words["stop_many"].format(n=stops)
    decision, version = (
        told["verdict"].get("decision"),
        told["model_version"] or told["verdict"].get("champion") or words["unknown"],
    )
    sentence = chinese.sentence if tongue == "zh" else str
    if tongue == "zh" and decision is not None:
        decision = chinese.decision(decision)
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
        says.append(f"{words['why']}: {sentence(split['why'])}")
    if tested and told["model_figures_of"] == "candidate" and not told["experiment"]:
        says.append(words["candidate_figures"])
    reasons = told["verdict"].get("reasons") or []
    return {
        "first": first, "state": "stop" if stops else "warn" if warns else "go", "says": says, "claim": claimed,
        "reasons": [sentence(each) for each in ([reasons] if isinstance(reasons, str) else reasons)],
    }  # fmt: skip


def challengers(evaluate: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a record a challenger of the evaluation: its figures by name, as `evaluate` wrote them."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in evaluate.items():
        parts = key.split(".", 2)
        if len(parts) == 3 and parts[0] == "challenger":
            found.setdefault(parts[1], {})[parts[2]] = value
    return [{"name": name, **found[name]} for name in sorted(found)]


def parts_told() -> dict[str, Any]:
    """Return discrimination and calibration by segment, as `evaluate` left them: a list of records a feature."""
    path = DATA / "evaluate/plots/by_segment.json"
    segments: dict[str, list[dict[str, Any]]] = {}
    for row in read_json(path) if path.is_file() else []:
        segments.setdefault(row["feature"], []).append(row)
    return {"segments": segments} if segments else {}


def contacts_told(most: int) -> dict[str, Any]:
    """Return what `worklist` left: its counts and measure, and its first rows as records; empty where nothing is."""
    told = record(DATA / "worklist/summary.json")
    by_owner = told.pop("by_owner", {})
    rows = frame(DATA / "worklist/worklist.parquet")
    told.get("rules", {}).pop("owners", None)  # people, whom figures without names leave out
    owners = [{"owner": name, "contacts": n, "loss_avoided": loss} for name, (n, loss) in sorted(by_owner.items())]
    return {"worklist": told, "contacts": {"owners": owners, "rows": plain(rows.head(most).to_dict("records"))}}


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


def page(figures: dict[str, Any], words: dict[str, str], tongue: str) -> str:
    """Return the report as HTML text in language `tongue` (en or zh); figures: all that figures.json holds."""
    order = {"stop": 0, "warn": 1, "note": 2}
    suffix = "" if tongue == "en" else "_zh"
    checks = [
        {
            **c,
            "title": c.get(f"title{suffix}") or c["title"],
            "explanation": c.get(f"explanation{suffix}") or c["explanation"],
        }
        for c in sorted(figures["checks"], key=lambda c: (order[c["severity"]], c["code"]))
    ]
    why = figures["reasons"] if "families" in figures["reasons"] else {}
    return rendered(
        "index.html.j2",
        tongue,
        w=words,
        f=figures,
        checks=checks,
        verdict=verdict(figures, checks, words, tongue),
        worst=figures["worst"],
        alerted=figures["alerted"],
        why=why,
        chart=pictures(figures, words),
        evaluate=flat(figures["evaluate"]),
        challengers=challengers(figures["evaluate"]),
        spark=charts.spark,
        zh=chinese.sentence if tongue == "zh" else str,
    )


def main() -> None:
    """Read what monitor, decide and explain left, write the pages and their figures."""
    params, tongue = Params.load(), language()
    figures, why, words = read_json(DATA / "monitor/figures.json"), reasons_told(), words_in(tongue)
    worst, alerted = customers.shown(params.worst_customers, params.alerted_customers)
    checks = read_json(DATA / "monitor/checks.json")
    figures["retrain"] = retraining.proposal(checks, until=figures["run"]["until"], as_of=figures["run"]["as_of"])
    figures["overrides"] = plain(frame(DATA / "decide/overrides.parquet").to_dict("records"))
    figures |= {"checks": checks, "worst": worst, "alerted": alerted, "reasons": {**figures["reasons"], **why}}
    figures |= parts_told() | contacts_told(params.contacts)
    text = page(figures, words, tongue)
    fresh(OUT)
    (OUT / "index.html").write_text(text, encoding="utf-8")
    if figures["worklist"]:
        lists = rendered("worklist.html.j2", tongue, w=words, run=figures["run"], f=figures)
        (OUT / "worklist.html").write_text(lists, encoding="utf-8")
    write_json(OUT / "figures.json", figures)
    write_json(OUT / "aggregates.json", {name: some for name, some in figures.items() if name not in plotted.NAMING})
    told = document.told(tongue, {"report/figures.json": figures})
    third = rendered("document.html.j2", tongue, d=told, run=figures["run"])
    (OUT / "document.html").write_text(third, encoding="utf-8")
    write_json(OUT / "document.json", document.figures(told))
    plotted.write(figures, OUT / "plots")
    if why:
        shown = embedded(DATA / "explain/pictures")
        second = rendered("explanation.html.j2", tongue, w=words, run=figures["run"], why=why, picture=shown)
        (OUT / "explanation.html").write_text(second, encoding="utf-8")
    say("report", "page written", kilobytes=len(text.encode()) // 1024, customers=len(worst), checks=len(checks))


if __name__ == "__main__":
    execute("report", main)
