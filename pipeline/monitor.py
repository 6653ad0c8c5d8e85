"""monitor: every figure of the report and every check, from whatever the stages before it left.

All inputs are optional: what is absent or empty makes its figures null and its checks `not applicable`. The simulated
truth is read here and nowhere else. Exits 0 whatever it finds: `publish` acts on checks of severity `stop`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from models import early_warning, figures, portfolio, realised
from models.alerts import CODES
from models.checks import run_checks
from models.delinquency import LATE
from models.grades import Scale
from models.limits import Limits
from pipeline import book, moved, protected
from pipeline.params import Section, source_name
from pipeline.stage import execute, fresh, read_json, say, write_json
from pipeline.told import metrics_of, plots_of

DATA, OUT = Path("data"), Path("data/monitor")


class Params(Section):
    """What monitor compares, and where its checks begin to speak."""

    section: ClassVar[str] = "monitor"
    bins: int = 10  # quantile bins of PSI, fixed from the reference
    reference_rows: int = 20_000  # training rows that a feature is compared with, chosen by hash
    top_features: int = 20
    far_features: int = 3  # features outside the range of training that make a customer strange to the model
    limits: Limits = Limits()


def frame(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file; money becomes doubles, dates datetime64[ms]; an absent file is an empty frame."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return pd.DataFrame()
    present = pq.ParquetDataset(path).schema.names
    table = pq.read_table(path, columns=None if columns is None else [c for c in columns if c in present])
    for i, column in enumerate(table.schema):
        if pa.types.is_decimal(column.type):
            table = table.set_column(i, column.name, table.column(i).cast(pa.float64()))
        elif pa.types.is_date(column.type):
            table = table.set_column(i, column.name, table.column(i).cast(pa.timestamp("ms")))
    return table.to_pandas(ignore_metadata=True)


def record(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """Return `value` as JSON holds it: no numpy, no NaN, dates as ISO text, doubles to 12 significant digits."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat()
    return None if value is None or value is pd.NaT or value is pd.NA else str(value)


def run_figures(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return what was run: source, date, split, verdict, and whether the test figures are those of what scores."""
    where, summary = record(DATA / "ingest/as_of.json"), record(DATA / "observe/summary.json")
    verdict, split = record(DATA / "promote/verdict.json"), record(DATA / "select/features.json").get("split") or {}
    pair = (verdict.get("candidate"), verdict.get("champion"))
    candidate = None not in pair and pair[0] != pair[1] and verdict.get("decision") != "experiment"
    by_split = {"random": "recipe", "time": "model"}.get(str(split.get("kind"))) if len(predictions) else None
    manifest = record(DATA / "promote/scorer/manifest.json")
    return {
        "source": source_name(),
        "as_of": where.get("as_of") or summary.get("as_of"),
        "currency": where.get("currency"),
        "caveats": where.get("caveats") or [],
        "horizon_months": summary.get("horizon_months"),
        "observed_by": summary.get("observed_by"),
        "until": summary.get("until"),
        "split": split,
        "figures_of": by_split,
        "model_figures_of": "candidate" if candidate else "champion",
        "verdict": verdict,
        "model_version": manifest.get("model_version"),
        "experiment": bool(manifest.get("experiment")),
    }


def flow_figures(
    scores: dict[str, Any], table: pd.DataFrame, observations: pd.DataFrame, as_of: str | None
) -> dict[str, Any]:
    """Return how many customers were known, excluded, in the population, scored and decided on at the run's date."""
    population = frame(DATA / "observe/scoring.parquet", [*figures.KEYS, "months_back"])
    flow: dict[str, Any] = {"scored": scores["customers"] or None, "decided": len(table) or None}
    if len(population):
        flow["population"] = int((population["months_back"] == 0).sum())
    if (
        as_of is not None
        and "excluded_because" in observations
        and record(DATA / "observe/summary.json").get("observed_by") != "source"
    ):
        today = observations[observations["as_of"] == pd.Timestamp(as_of)]
        if len(today):
            flow |= {"known": len(today), "excluded": int(today["excluded_because"].notna().sum())}
    return flow


def scale() -> Scale | None:
    """Return the scorer's master scale; null where there is no scorer."""
    path = DATA / "promote/scorer/grades.json"
    return Scale.from_json(path.read_bytes()) if path.is_file() else None


def test_rows(predictions: pd.DataFrame, grades: Scale | None) -> pd.DataFrame:
    """Return predictions of rows that the model (or the recipe's fold) had not seen, graded on the scorer's scale."""
    if not {"outcome", "pd", "part"} <= set(predictions.columns):
        return pd.DataFrame()
    test = predictions[predictions["outcome"].notna() & predictions["pd"].notna() & (predictions["part"] != "train")]
    if grades is None or test.empty:
        return test
    return test.assign(grade=grades.grade(test["pd"]), score=grades.score(test["pd"]))


def warning_figures(observations: pd.DataFrame, as_of: str | None) -> dict[str, Any]:
    """Return how well the alerts of the scored dates warned of the defaults that became known since."""
    keys = ["customer_id", "as_of"]
    held = frame(DATA / "decide/alert_history.parquet")
    scored = frame(DATA / "score/scores.parquet", [*keys, "in_training"])
    if observations.empty or scored.empty or as_of is None or "code" not in held:
        return {}
    asked = observations[observations["as_of"].isin(scored["as_of"].unique())]
    trained = scored.loc[scored.index.difference(figures.outside_training(scored).index), keys]
    return early_warning.effectiveness(held, asked, as_of, CODES, trained=trained)


def decided() -> pd.DataFrame:
    """Return the scored table with each customer's kind, industry, region and segment beside it."""
    table = frame(DATA / "decide/table.parquet")
    facts = ["customer_id", "months_back", "kind", "industry", "region", "segment"]
    position = frame(DATA / "featurise/scoring/position.parquet", facts)
    if table.empty or position.empty:
        return table
    now = position[position["months_back"] == 0] if "months_back" in position else position
    new = [c for c in now.columns if c in facts[2:] and c not in table]
    return table.merge(now[["customer_id", *new]].drop_duplicates("customer_id"), on="customer_id", how="left")


def histories(
    told: dict[str, Any], table: pd.DataFrame, judged: pd.DataFrame, horizon: int
) -> dict[str, Any]:  # fmt: skip
    """Return the sections that are counted from the histories: roll rates, vintages, fairness."""
    as_of = told["as_of"]
    features = record(DATA / "promote/scorer/features.json").get("features") or []
    names = [each["name"] for each in features if isinstance(each, dict) and "name" in each]
    return {
        "roll_rates": book.roll_rates(),
        "vintages": {f"late_{days}": book.credit_vintages(as_of, days) for days in LATE}
        | {"observed": book.observed_vintages(as_of, horizon)},
        "fairness": book.fairness_figures(protected.names(), table, judged, as_of, names),
    }


def reason_figures(table: pd.DataFrame, order: list[str]) -> dict[str, Any]:
    """Return whether reasons hold between seeds and months, what moved the score, and reasons by grade."""
    held = record(DATA / "explain/soundness.json")
    given = {name: held[name] for name in ("agreement", "months", "shift") if held.get(name)}
    by_grade = portfolio.reasons_by_grade(table, order)
    return given | ({"by_grade": by_grade} if by_grade else {})


def evaluated_before(champion: str | None) -> dict[str, Any] | None:
    """Return the AUC of a champion's own evaluation, where promote's log of changes holds it; its interval is not."""
    path = DATA / "promote/changes.json"
    changes = read_json(path) if path.is_file() and champion else []
    known = [c["test_auc"] for c in changes if c.get("model_version") == champion and c.get("test_auc") is not None]
    return {"value": known[-1], "low": None, "high": None} if known else None


def run(params: Params) -> dict[str, Any]:
    """Return every figure of the report; sections without input are empty."""
    scores, table = frame(DATA / "score/scores.parquet"), decided()
    observations, predictions = (
        frame(DATA / "observe/observations.parquet"),
        frame(DATA / "evaluate/predictions.parquet"),
    )
    truth = frame(DATA / "simulate/truth/truth.parquet") if source_name() == "simulated" else pd.DataFrame()
    grading = scale()
    test = test_rows(predictions, grading)
    order = (
        list(grading.names) if grading else portfolio.grade_order(scores["grade"], scores["pd"]) if len(scores) else []
    )
    told = run_figures(predictions)
    as_of, horizon = told["as_of"], int(told["horizon_months"] or 12)
    counts, drifted = figures.score_figures(scores, test, params.bins, params.far_features)
    ripe = figures.matured(scores, observations, as_of, horizon)
    grades = (
        scores[["customer_id", "months_back", "grade"]] if "grade" in scores else pd.DataFrame(columns=["months_back"])
    )
    now = grades[grades["months_back"] == 0]
    seen = {str(b): portfolio.migration(grades[grades["months_back"] == b], now, order) for b in (1, 3, 6, 12)}
    unseen = figures.outside_training(scores[scores["months_back"] == 0]) if len(scores) else scores
    found: dict[str, Any] = {
        "run": told,
        "scores": counts,
        "score_drift": drifted,
        "grades": order,
        "portfolio": figures.portfolio_figures(table, order),
        "migration": {back: moved for back, moved in seen.items() if moved},
        "features": moved.feature_figures(
            bins=params.bins,
            reference_rows=params.reference_rows,
            top_features=params.top_features,
            identifier_share=params.limits.identifier_share,
            limit=params.limits.feature_psi.warn or 0.25,
        ),
        "expected": figures.expected_figures(scores),
        "reasons": reason_figures(table, order),
        "model": figures.outcome_figures(test, order),
        "realised": figures.outcome_figures(ripe, order),
        "truth": {
            name: seen
            for name, seen in (
                ("test", figures.truth_figures(test, truth, outcomes=True)),
                ("realised", figures.truth_figures(ripe, truth, outcomes=True)),
                ("now", figures.truth_figures(unseen, truth, outcomes=False)),
            )
            if seen
        },
        "labels": figures.label_figures(observations),
        "early_warning": warning_figures(observations, as_of),
        "data": figures.data_figures(record(DATA / "ingest/quality.json")),
        "flow": flow_figures(counts, table, observations, as_of),
        "evaluate": record(DATA / "evaluate/metrics.json"),
        **histories(told, table, test if len(test) else ripe, horizon),
    }
    told_auc = {
        end: found["evaluate"].get(f"test.auc{suffix}")
        for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
    if (
        found["model"].get("auc") and told_auc["value"] is not None
    ):  # of a recipe it averages repeats, rows pooled do not
        found["model"]["auc"] |= told_auc
    of_champion = told["model_figures_of"] == "champion"
    first = found["model"].get("auc") if of_champion else evaluated_before(told["verdict"].get("champion"))
    found["decline"] = realised.auc_decline(first, found["realised"].get("auc")) or {}
    by_time = test if of_champion and told["figures_of"] == "model" else test.head(0)
    both = pd.concat([by_time, ripe], ignore_index=True) if len(by_time) or len(ripe) else ripe
    if len(both):  # a row may be of the test and have matured since
        both = both.drop_duplicates(figures.KEYS)
    found["lights"] = realised.by_vintage(both, order)
    return plain(found)


def main() -> None:
    """Read what the stages left, write figures.json and checks.json."""
    params = Params.load()
    found = run(params)
    results = run_checks(found, params.limits)
    fresh(OUT)
    write_json(OUT / "figures.json", found)
    write_json(OUT / "checks.json", plain(results))
    write_json(OUT / "metrics.json", metrics_of(found, results))
    for name, rows in plots_of(found).items():
        write_json(OUT / "plots" / f"{name}.json", rows)
    answers = {a: sum(r["answer"] == a for r in results) for a in ("found", "clear", "not applicable")}
    stops = sum(r["answer"] == "found" and r["severity"] == "stop" for r in results)
    inputs = record(DATA / "promote/scorer/features.json").get("features") or []
    made = sum(isinstance(each, dict) and each.get("kind") == "record" for each in inputs)
    if made:  # they stand in no table of features, and training scores of the champion are not kept
        say("monitor", "not compared with training: scores of child records", inputs=made)
    say("monitor", "checks", **{k.replace(" ", "_"): v for k, v in answers.items()}, stop=stops)
    for r in results:
        if r["answer"] == "found":
            say("monitor", f"{r['code']} {r['severity']}: {r['title']}. {r['explanation']}")


if __name__ == "__main__":
    execute("monitor", main)
