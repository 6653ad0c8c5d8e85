"""train: the final booster on all train rows, and out-of-fold margins for calibration.

Reads data/featurise/training, data/select and data/tune, writes data/train: booster.txt, encoders.json, features.json,
out_of_fold.parquet, challengers/{scorecard,logistic}.json, summary.json; where child records are scored also their
models (records.json, records_<table>.txt) and what they say of the train rows (records.parquet). The file that
`evaluate` judges is this very booster; the challengers learn from the same rows, inputs and folds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from models import challengers, encoders, metrics, records
from models.inputs import Panel, records_of
from models.recipe import Trained, TrainSettings, train, without_directions
from models.splits import repeated_indices
from models.tuning import repeat_count
from pipeline.params import Section
from pipeline.select import read_panel, read_selected, selected_inputs, write_frame
from pipeline.stage import execute, fresh, read_json, say, write_json
from pipeline.tune import read_tuned

OUT = Path("data/train")
OUT_OF_FOLD = ("customer_id", "as_of", "fold", "outcome", "margin", "opinion_a", "opinion_b")


class Params(TrainSettings, Section):
    """Section `train`: until when outcomes train, what of the tuned values is overridden, seeds."""

    section: ClassVar[str] = "train"


def out_of_fold(panel: Panel, fold: pd.Series, trained: Trained) -> pd.DataFrame:
    """Return a row a train row: key, fold, outcome, out-of-fold margin and two opinions on it."""
    frame = pd.DataFrame(
        {
            "customer_id": panel.customer,
            "as_of": panel.as_of.astype("datetime64[ms]"),
            "fold": fold,
            "outcome": panel.outcome,
            "margin": trained.margin,
            "opinion_a": trained.opinion_a,
            "opinion_b": trained.opinion_b,
        }
    )
    return frame[list(OUT_OF_FOLD)]


def direction_cost(panel: Panel, trained: Trained, free: np.ndarray) -> dict[str, float]:
    """Return what holding the features to their directions costs in out-of-fold AUC, with DeLong's interval."""
    known = ~np.isnan(trained.single) & ~np.isnan(free)
    found = metrics.auc_difference(panel.outcome[known], free[known], trained.single[known], panel.customer[known])
    return {name: round(found[name], 6) for name in ("difference", "low", "high")}


def write_records(panel: Panel, trained: Trained, seed: int) -> pd.DataFrame:
    """Write the models of child records, if there are any, and the train rows' scores; return features with these.

    The scores are by models that did not see the row's customer, of outcomes of any date: they say what is usual and
    teach nothing.
    """
    features = encoders.scored(replace(panel, learned=None), trained.inputs, trained.encoders, seed)
    for name, text in records.files(trained.encoders.records).items():
        (OUT / name).write_text(text, encoding="utf-8")
    names = [each.name for each in trained.inputs if each.kind == "record"]
    if names:
        keys = pd.DataFrame({"customer_id": panel.customer, "as_of": panel.as_of.astype("datetime64[ms]")})
        write_frame(pd.concat([keys, features[names]], axis=1), OUT / "records.parquet")
    return features


def main() -> None:
    """Read rows, folds and parameters, train, write data/train."""
    settings = Params.load()
    selected = read_selected()
    tuned = read_tuned()
    if tuned is None:
        fresh(OUT)
        record = {"trained": False, "why": selected["why"]}
        write_json(OUT / "summary.json", {**record, "settings": settings.model_dump(mode="json")})
        write_json(OUT / "features.json", {**record, "features": []})
        write_frame(pd.DataFrame(columns=list(OUT_OF_FOLD)), OUT / "out_of_fold.parquet")
        say("train", f"no model: {selected['why']}")
        return
    rows, part, fold = read_panel(selected)
    inside = part == "train"
    panel = rows.take(inside)
    repeats = read_json(Path("data/tune/summary.json"))["settings"]["repeats"] or repeat_count(panel.bads)
    indices = repeated_indices(panel, fold[inside], selected["split"], repeats)
    inputs = selected_inputs(selected)
    trained = train(panel, inputs, indices, tuned, settings)
    _, others = challengers.fit_all(panel, inputs, indices, tuned.smoothing, tuned.seed)
    fresh(OUT)
    (OUT / "challengers").mkdir()
    for kind, other in others.items():
        (OUT / "challengers" / f"{kind}.json").write_text(other.to_json(inputs), encoding="utf-8")
    (OUT / "booster.txt").write_text(trained.booster, encoding="utf-8")
    (OUT / "encoders.json").write_text(trained.encoders.to_json(), encoding="utf-8")
    usual = write_records(panel, trained, tuned.seed)
    write_json(OUT / "features.json", {"trained": True, "features": records_of(trained.inputs, usual)})
    folds = pd.Series(pd.array(fold[inside], dtype="Int32")).where(fold[inside] >= 0)
    write_frame(out_of_fold(panel, folds, trained), OUT / "out_of_fold.parquet")
    summary = {
        "trained": True,
        "settings": settings.model_dump(mode="json"),
        "reproducible": tuned.reproducible and settings.cluster is None,
        "rows": len(panel),
        "bads": panel.bads,
        "features": len(trained.inputs),
        "rounds": trained.rounds,
        "seeds": trained.seeds,
        "averaging": {name: round(value, 9) for name, value in trained.averaging.items()},
        "learning_rate": trained.learning_rate,
        "monotone": sum(each.direction != 0 for each in trained.inputs) if tuned.monotone else 0,
        "challengers": {kind: {"inputs": len(each.columns), "penalty": each.penalty} for kind, each in others.items()},
    }
    if summary["monotone"]:
        same = {"learning_rate": trained.learning_rate, "num_boost_round": trained.rounds}
        free = without_directions(panel, inputs, indices, tuned, settings.model_copy(update=same))
        summary["auc_cost_of_directions"] = direction_cost(panel, trained, free)
    write_json(OUT / "summary.json", summary)
    if settings.cluster is not None:
        say("train", "not reproducible: fitted on a cluster (train.cluster)")
    say(
        "train", "trained", rows=len(panel), defaults=panel.bads, features=len(trained.inputs),
        trees=trained.rounds * trained.seeds, seeds=trained.seeds, monotone=summary["monotone"],
    )  # fmt: skip
    if "auc_cost_of_directions" in summary:
        cost = summary["auc_cost_of_directions"]
        say("train", "AUC given up for directions", **{name: f"{value:.4f}" for name, value in cost.items()})


if __name__ == "__main__":
    execute("train", main)
