"""evaluate: how good the PDs are on rows that the model has not seen, with intervals.

By time: the very files of `train` and `calibrate` are asked about the out-of-time test rows. Where the split is
random, select, tune, train and calibrate are repeated inside each fold of a repeated cross-validation grouped by
customer, and the figures are those of the recipe. Reads data/featurise/training and data/{select,tune,train,calibrate},
writes data/evaluate: metrics.json (flat keys), predictions.parquet, plots/*.json. The challengers of `train` are asked
about the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from models import breakdowns, challengers, metrics, records
from models.calibration import CalibrateSettings, Method, cross_fitted
from models.estimator import probability
from models.inputs import Input, Panel, inputs_from_catalogue
from models.recipe import Settings, TrainSettings
from models.recipe import run as run_recipe
from models.scorer import FILES, Scorer, fingerprint
from models.selection import SelectSettings
from models.splits import fold_indices, grouped_folds
from models.tuning import TuneSettings
from pipeline.params import Section
from pipeline.select import TRAINING, read_frame, read_panel, read_selected, write_frame
from pipeline.stage import execute, fresh, progress, read_json, say, write_json

OUT = Path("data/evaluate")
PREDICTIONS = ("customer_id", "as_of", "part", "fold", "outcome", "pd_raw", "pd")
PLOTS = ("roc", "calibration", "lift", "score_distribution", "by_month", "by_segment")


class Params(Section):
    """Section `evaluate`: folds of the recipe's cross-validation, used where the split is random."""

    section: ClassVar[str] = "evaluate"

    folds: int = Field(5, ge=2, le=20)
    repeats: int | None = Field(None, ge=1, le=50)  # null: 2, or 3 under 2,000 rows
    bins: int = Field(10, ge=2, le=100)  # of the calibration plot and of the expected calibration error


@dataclass(frozen=True)
class CrossValidated:
    """The recipe's predictions of each row, one column a repeat, and the AUC of each (repeat, fold)."""

    pd_raw: np.ndarray
    pd: np.ndarray
    others: dict[str, np.ndarray]  # PDs of the challengers, in the first repeat
    fold: np.ndarray  # of the first repeat
    aucs: np.ndarray  # repeats x folds, NaN where a fold holds one class


def repeat_count(params: Params, rows: int) -> int:
    """Return how often the cross-validation is repeated."""
    return params.repeats or (3 if rows < 2000 else 2)


def cross_validate(
    panel: Panel,
    inputs: tuple[Input, ...],
    settings: Settings,
    params: Params,
    watch: Callable[[int, int, float], None] | None = None,
) -> CrossValidated:
    """Repeat the whole recipe in each fold; `watch(done, planned, AUC of the fold)`.

    A fold whose train rows hold one class only predicts their default rate: nothing could be learned there.
    """
    repeats = repeat_count(params, len(panel))
    raw, fitted = np.empty((len(panel), repeats)), np.empty((len(panel), repeats))
    others = {str(kind): np.full(len(panel), panel.outcome.mean()) for kind in challengers.KINDS}
    aucs = np.full((repeats, params.folds), np.nan)
    folds = [grouped_folds(panel, params.folds, settings.select.seed + 1009 * (n + 1)) for n in range(repeats)]
    for repeat, fold in enumerate(folds):
        for number in range(params.folds):
            train, asked = panel.take(fold != number), panel.take(fold == number)
            rows = np.flatnonzero(fold == number)
            if min(train.bads, len(train) - train.bads) < 2:
                raw[rows, repeat] = fitted[rows, repeat] = train.outcome.mean()
            else:
                model = run_recipe(train, inputs, settings)
                margin = model.margins(asked.features)
                raw[rows, repeat], fitted[rows, repeat] = probability(margin), model.calibrator.pd(margin)
                if repeat == 0:
                    for kind, answer in asked_challengers(train, model.trained.inputs, asked, settings).items():
                        others[kind][rows] = answer
            aucs[repeat, number] = metrics.auc(asked.outcome, fitted[rows, repeat]) if len(rows) else np.nan
            if watch is not None:
                watch(repeat * params.folds + number + 1, repeats * params.folds, float(aucs[repeat, number]))
    return CrossValidated(raw, fitted, others, folds[0], aucs)


def asked_challengers(
    train: Panel, inputs: tuple[Input, ...], asked: Panel, settings: Settings
) -> dict[challengers.Kind, np.ndarray]:
    """Return the PDs of `asked` by challengers that learned from `train`."""
    folds = fold_indices(train, grouped_folds(train, 3, settings.select.seed), "grouped")
    coder, found = challengers.fit_all(train, inputs, folds, settings.tune.smoothing, settings.tune.seed)
    matrix = coder.matrix(asked.features, inputs)
    return {kind: probability(each.margins(matrix)) for kind, each in found.items()}


def recipe_figures(panel: Panel, result: CrossValidated) -> dict[str, float]:
    """Return the figures of the recipe: calibration from the mean PD of each row, AUC as the mean over all folds.

    Interval of the AUC: DeLong's variance (clustered by customer) of the mean PDs, plus the variance between repeats.
    """
    figures = metrics.figures(panel.outcome, result.pd.mean(axis=1), panel.customer)
    figures["auc_of_mean_pd"] = figures["auc"]
    area = float(np.nanmean(result.aucs))
    of_repeat = np.nanmean(result.aucs, axis=1)
    between = float(of_repeat.var(ddof=1)) if len(of_repeat) > 1 else 0.0
    sampling = metrics.auc_variance(panel.outcome, result.pd.mean(axis=1), panel.customer)
    figures["auc"], figures["gini"] = area, 2 * area - 1
    figures["auc_low"], figures["auc_high"] = metrics.around(area, sampling + between)
    figures["auc_between_repeats"] = math.sqrt(between)
    singles = [metrics.figures(panel.outcome, column) for column in result.pd.T]  # of one recipe, not of their mean
    for name in ("brier", "log_loss", "ece", "calibration_slope", "calibration_intercept"):
        figures[name] = float(np.mean([single[name] for single in singles]))
    return figures


def plots(outcome: np.ndarray, pd_: np.ndarray, bins: int) -> dict[str, list[dict[str, Any]]]:
    """Return plot name -> records: roc, calibration, lift, score_distribution."""
    edges = np.unique(np.quantile(pd_, np.linspace(0, 1, 21)))
    distribution = []
    for label, name in ((0, "good"), (1, "bad")):
        counts = np.histogram(pd_[outcome == label], bins=edges)[0] if len(edges) > 1 else np.array([len(pd_)])
        for place, count in enumerate(counts):
            low, high = float(edges[place]), float(edges[min(place + 1, len(edges) - 1)])
            distribution.append({"pd_from": low, "pd_to": high, "outcome": name, "rows": int(count)})
    return {
        "roc": metrics.roc_points(outcome, pd_),
        "calibration": metrics.reliability(outcome, pd_, bins),
        "lift": metrics.lift_table(outcome, pd_, tuple(n / 20 for n in range(1, 21))),
        "score_distribution": distribution,
    }


def train_predictions(method: Method, settings: CalibrateSettings) -> pd.DataFrame:
    """Return the out-of-fold predictions of the train rows, calibrated by curves fitted without the row's customer."""
    frame = read_frame(Path("data/train/out_of_fold.parquet"))
    frame = frame[frame["margin"].notna()].reset_index(drop=True)
    margin, outcome = frame["margin"].to_numpy(), frame["outcome"].to_numpy(dtype=int)
    customer = frame["customer_id"].to_numpy(dtype=object)
    frame["pd_raw"] = probability(margin)
    frame["pd"] = cross_fitted(margin, outcome, customer, method, 0, settings.long_run_default_rate)
    frame["part"] = "train"
    return frame[list(PREDICTIONS)]


def recorded_settings() -> Settings:
    """Return the settings with which the four stages before ran, as they recorded them."""
    of = {
        "select": read_json(Path("data/select/features.json")),
        "tune": read_json(Path("data/tune/summary.json")),
        "train": read_json(Path("data/train/summary.json")),
        "calibrate": read_json(Path("data/calibrate/summary.json")),
    }
    return Settings(
        SelectSettings.model_validate(of["select"]["settings"]),
        TuneSettings.model_validate(of["tune"]["settings"]),
        TrainSettings.model_validate(of["train"]["settings"]),
        CalibrateSettings.model_validate(of["calibrate"]["settings"]),
    )


def write(figures: dict[str, Any], predictions: pd.DataFrame, drawn: dict[str, list[dict[str, Any]]]) -> None:
    """Write data/evaluate; a figure that the rows cannot have is null."""
    fresh(OUT)
    clean = {
        name: None if isinstance(value, float) and not math.isfinite(value)
        else round(value, 6) if isinstance(value, float) else value
        for name, value in figures.items()
    }  # fmt: skip
    write_json(OUT / "metrics.json", clean)
    write_frame(predictions[list(PREDICTIONS)], OUT / "predictions.parquet")
    for name in PLOTS:
        write_json(OUT / "plots" / f"{name}.json", drawn.get(name, []))


def main() -> None:
    """Judge the model by time, or the recipe by cross-validation, and write data/evaluate."""
    params = Params.load()
    selected = read_selected()
    calibration = read_json(Path("data/calibrate/summary.json"))
    if not selected["trained"]:
        empty = pd.DataFrame(columns=list(PREDICTIONS))
        write({"trained": False, "why": selected["why"], "kind": "none"}, empty, {})
        say("evaluate", f"nothing to evaluate: {selected['why']}")
        return
    folders = {"calibrator.json": Path("data/calibrate")}
    names = (*FILES, *records.names_of(path.name for path in Path("data/train").iterdir()))
    files = {name: (folders.get(name, Path("data/train")) / name).read_bytes() for name in names}
    figures: dict[str, Any] = {"trained": True, "model_sha256": fingerprint(files)}
    settings = CalibrateSettings.model_validate(calibration["settings"])
    if settings.long_run_default_rate is not None:  # figures of level compare PDs of a cycle with outcomes of a time
        figures["long_run_default_rate"] = settings.long_run_default_rate
    known = train_predictions(calibration["method"], settings)
    of_train = metrics.figures(
        known["outcome"].to_numpy(), known["pd"].to_numpy(), known["customer_id"].to_numpy(dtype=object)
    )
    if selected["split"]["kind"] == "time":
        figures["kind"] = "out_of_time"
        asked, test, others = predict_test(selected, files)
        of_test = metrics.figures(test.outcome, asked["pd"].to_numpy(), test.customer)
        of_test["psi"] = metrics.psi(known["pd"].to_numpy(), asked["pd"].to_numpy())
        predictions = pd.concat((known, asked), ignore_index=True)
        panel, judged = test, asked["pd"].to_numpy()
        beside = breakdowns.comparison(test.outcome, judged, others, test.customer)
    else:
        figures["kind"] = "recipe_cross_validation"
        panel, result = predict_recipe(params)
        of_test = recipe_figures(panel, result)
        predictions = keyed(panel, "cross_validation", result.pd_raw.mean(axis=1), result.pd.mean(axis=1))
        predictions["fold"] = pd.array(result.fold, dtype="Int32")
        judged = predictions["pd"].to_numpy()
        beside = breakdowns.comparison(panel.outcome, result.pd[:, 0], result.others, panel.customer)
    figures |= {f"test.{name}": value for name, value in of_test.items()}
    figures |= {f"train.{name}": value for name, value in of_train.items()}
    figures |= beside
    drawn = plots(panel.outcome, judged, params.bins)
    reference = known["pd"].to_numpy()
    drawn["by_month"] = breakdowns.by_month(panel.as_of, panel.outcome, judged, panel.customer, reference)
    drawn["by_segment"] = breakdowns.by_segment(panel, categories(selected), judged)
    write(figures, predictions, drawn)
    say(
        "evaluate", figures["kind"].replace("_", " "), rows=of_test["rows"], defaults=of_test["bads"],
        auc=f"{of_test['auc']:.4f} ({of_test['auc_low']:.4f} to {of_test['auc_high']:.4f})",
        calibration_slope=f"{of_test['calibration_slope']:.3f}", brier=f"{of_test['brier']:.5f}",
    )  # fmt: skip
    for kind in challengers.KINDS:
        of = {name: beside[f"challenger.{kind}.{name}"] for name in ("auc", "auc_gain", "auc_gain_p", "brier")}
        gain = f"{of['auc_gain']:+.4f} (p {of['auc_gain_p']:.3f})"
        say("evaluate", f"beside {kind}", auc=f"{of['auc']:.4f}", gain=gain, brier=f"{of['brier']:.5f}")


def categories(selected: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the categorical features that were selected."""
    return tuple(record["name"] for record in selected["features"] if record["kind"] == "categorical")


def keyed(panel: Panel, part: str, raw: np.ndarray, calibrated: np.ndarray) -> pd.DataFrame:
    """Return predictions beside their keys."""
    columns = {
        "customer_id": panel.customer,
        "as_of": panel.as_of.astype("datetime64[ms]"),
        "part": part,
        "fold": pd.array(np.full(len(panel), None), dtype="Int32"),
        "outcome": panel.outcome,
        "pd_raw": raw,
        "pd": calibrated,
    }
    return pd.DataFrame(columns)


def predict_test(
    selected: dict[str, Any], files: dict[str, bytes]
) -> tuple[pd.DataFrame, Panel, dict[str, np.ndarray]]:
    """Return the candidate's predictions of the out-of-time test rows, those rows, and the challengers' PDs of them."""
    rows, part, _ = read_panel(selected)
    test = rows.take(part == "test")
    scorer = Scorer.from_files(files)
    scored = scorer.probabilities(test.features)
    matrix = scorer.matrix(test.features)
    folder = Path("data/train/challengers")
    found = {
        kind: challengers.Challenger.from_json((folder / f"{kind}.json").read_bytes()) for kind in challengers.KINDS
    }
    others = {str(kind): probability(each.margins(matrix)) for kind, each in found.items()}
    return keyed(test, "test", scored["pd_raw"].to_numpy(), scored["pd"].to_numpy()), test, others


def predict_recipe(params: Params) -> tuple[Panel, CrossValidated]:
    """Return all training rows over every feature of the catalogue, and the recipe's predictions of them."""
    selected = read_selected()
    inputs = inputs_from_catalogue(read_frame(TRAINING / "catalogue.parquet"))
    panel = read_panel(selected, inputs)[0]
    planned = params.folds * repeat_count(params, len(panel))
    steps = progress("evaluate", iter(range(planned)), planned, "the whole recipe in each fold")

    def watch(done: int, planned: int, area: float) -> None:
        next(steps, None)
        say("evaluate", f"fold {done} of {planned}", auc=f"{area:.4f}")

    return panel, cross_validate(panel, inputs, recorded_settings(), params, watch)


if __name__ == "__main__":
    execute("evaluate", main)
