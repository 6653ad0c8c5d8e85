"""One AutoML system on one division, in an environment of its own (`make benchmark-peers`): FLAML or AutoGluon.

    python benchmarks/peers.py flaml log_loss 120 FOLDER

FOLDER holds train.parquet (features, outcome) and test.parquet (features); answer.parquet (pd), answer.json (seconds)
and, for FLAML, trials.json (seconds and parameters of every better trial) are written there. Stands alone: imports
nothing of the project.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd


def flaml(train: pd.DataFrame, metric: str, seconds: float, seed: int, folder: Path):
    from flaml import AutoML

    model = AutoML()
    log = folder / "flaml.log"
    model.fit(
        train.drop(columns="outcome"), train["outcome"], task="classification", metric=metric, time_budget=seconds,
        n_jobs=2, seed=seed, verbose=0, log_file_name=str(log), log_type="better",
    )  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    better = [
        {"seconds": line["wall_clock_time"], "learner": line["learner"], "config": line["config"]}
        for line in lines if "wall_clock_time" in line
    ]  # fmt: skip
    (folder / "trials.json").write_text(json.dumps(better, default=str))
    return lambda rows: model.predict_proba(rows)[:, 1]


def autogluon(train: pd.DataFrame, metric: str, seconds: float, seed: int, folder: Path):  # noqa: ARG001
    from autogluon.tabular import TabularPredictor

    place = tempfile.mkdtemp(dir=folder)
    model = TabularPredictor("outcome", path=place, eval_metric=metric, verbosity=0, problem_type="binary").fit(
        train, time_limit=seconds, presets="best_quality", num_cpus=2, dynamic_stacking=False
    )
    return lambda rows: model.predict_proba(rows)[1].to_numpy()


def flaml_trials(train: pd.DataFrame, test: pd.DataFrame, seed: int, folder: Path) -> None:
    """Fit every trial that was FLAML's best so far on all train rows, off its clock; write answers.parquet."""
    from flaml import AutoML

    answers = {}
    for at, trial in enumerate(json.loads((folder / "trials.json").read_text())):
        model = AutoML()
        model.fit(
            train.drop(columns="outcome"), train["outcome"], task="classification", metric="roc_auc", max_iter=1,
            time_budget=-1, estimator_list=[trial["learner"]], n_jobs=2, seed=seed, verbose=0,
            starting_points={trial["learner"]: trial["config"]}, eval_method="holdout", retrain_full=True,
        )  # fmt: skip
        answers[str(at)] = model.predict_proba(test)[:, 1]
    pd.DataFrame(answers).to_parquet(folder / "answers.parquet")


def main() -> None:
    system, metric, seconds, place = sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    train, test = (pd.read_parquet(place / f"{part}.parquet") for part in ("train", "test"))
    for frame in (train, test):
        for name in frame.select_dtypes(object).columns:
            frame[name] = frame[name].astype("object" if system == "autogluon" else "category")
    if system != "autogluon":
        for name in train.select_dtypes("category").columns:
            test[name] = test[name].astype(train[name].dtype)
    if system == "flaml_trials":
        flaml_trials(train, test, seed, place)
        return
    started = time.monotonic()
    predict = {"flaml": flaml, "autogluon": autogluon}[system](train, metric, seconds, seed, place)
    spent = time.monotonic() - started
    pd.DataFrame({"pd": predict(test)}).to_parquet(place / "answer.parquet")
    (place / "answer.json").write_text(json.dumps({"seconds": spent}))


if __name__ == "__main__":
    main()
