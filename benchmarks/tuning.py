"""How fast the search gets to a good model: `tune` against FLAML on 100,000 rows and 300 columns, in one run.

    .venv/bin/python -m benchmarks.tuning --rows 100000 --columns 300 --budget 300 --seeds 3

The panel is a simulated lender's, observed every month; other customers are held out. Each search has its own clock
(FLAML on two threads, ours two fits side by side); afterwards, off the clock, every model that was the best so far is
fitted on all train rows and asked about the held-out ones. Time to target: when a search first held parameters whose
held-out AUC is within .001 of FLAML's last. The last line is JSON with `time_over_flaml`, `auc_minus_flaml` (medians
over seeds) and the paired standard error of the latter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pipeline  # noqa: F401  sets the environment before any library reads it
from benchmarks.accuracy import PEERS, framed
from benchmarks.sets import ROOT, Set, built
from models import encoders, estimator, metrics, tuning
from models.inputs import Input, Panel
from models.space import lightgbm_space
from models.splits import fold_count, fold_indices, grouped_folds, grouped_folds_of
from models.tuning import FoldData, TuneSettings

WITHIN = 0.001  # of FLAML's last AUC


def observed(work: Path, rows: int) -> Set:
    """Return a simulated lender's panel with a row a customer and month: enough for `rows` and as many again / 2."""
    many = {"customers": max(500, rows // 10)}
    one = built(work / "tuning", "simulated", ROOT, simulate=many, observe={"snapshot_months": 1})
    assert one is not None
    return one


def divided(one: Set, rows: int, columns: int) -> tuple[Panel, Panel, tuple[Input, ...]]:
    """Return train rows, held-out rows of other customers, and the features that are known most often."""
    known = one.panel.features.notna().mean().sort_values(ascending=False, kind="stable")
    kept = set(known.index[:columns])
    inputs = tuple(each for each in one.inputs if each.name in kept)
    fold = grouped_folds_of(one.panel.customer, one.panel.outcome, 3, 5)
    parts = []
    for mask, most in ((fold > 0, rows), (fold == 0, rows // 3)):
        places = np.flatnonzero(mask)
        chosen = np.sort(np.random.default_rng(3).permutation(places)[:most])
        part = one.panel.take(chosen)
        parts.append(
            Panel(part.customer, part.as_of, part.closes, part.outcome, part.features[[i.name for i in inputs]])
        )
    return parts[0], parts[1], inputs


def held_out(train: Panel, test: Panel, inputs: tuple[Input, ...], given: dict, rounds: int) -> np.ndarray:
    """Return the margins of the held-out rows by our parameters, fitted on all train rows."""
    coder, matrix = encoders.fit_matrix(train, inputs, 20.0, 1)
    monotone = estimator.monotone_constraints(inputs, True)
    complete = estimator.parameters({**given, "learning_rate": TuneSettings().learning_rate}, monotone, 1)
    columns = [each.column for each in inputs]
    text = estimator.fit(estimator.dataset(matrix, train.outcome, columns, complete), complete, rounds)
    return estimator.margins(estimator.load(text, columns), coder.matrix(test.features, inputs))


def ours(train: Panel, test: Panel, inputs: tuple[Input, ...], seed: int) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, held-out margins) of every parameters that our search held as its best."""
    import optuna

    settings = TuneSettings(seed=20260101 + seed)
    bests: list[tuple[float, dict, int]] = []
    study = tuning.memory_study()
    started = time.monotonic()

    def watch(_done: int, _planned: int, held: Any) -> None:
        if not bests or bests[-1][1:] != (held.params, held.user_attrs["rounds"]):
            bests.append((time.monotonic() - started, dict(held.params), int(held.user_attrs["rounds"])))

    fold = grouped_folds(train, fold_count(train), settings.seed)
    tuning.search(FoldData(train, inputs, fold_indices(train, fold, "grouped"), settings), study, settings, watch)
    print(f"  ours: {len(tuning.finished(study))} trials in {time.monotonic() - started:.0f} s", flush=True)
    sizes = {"rows": len(train), "bads": train.bads}
    return [
        (seconds, held_out(train, test, inputs, lightgbm_space(optuna.trial.FixedTrial(given), **sizes), rounds))
        for seconds, given, rounds in bests
    ]


def theirs(
    train: Panel, test: Panel, inputs: tuple[Input, ...], seed: int, budget: float
) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, held-out probabilities) of every model that FLAML held as its best, fitted by FLAML again."""
    with tempfile.TemporaryDirectory(prefix="bellwether-flaml-") as place:
        names = [f"c{at}" for at in range(len(inputs))]
        framed(train, inputs).set_axis(names, axis=1).assign(outcome=train.outcome).to_parquet(f"{place}/train.parquet")
        framed(test, inputs).set_axis(names, axis=1).to_parquet(f"{place}/test.parquet")
        script = str(Path(__file__).with_name("peers.py"))
        for step in ("flaml", "flaml_trials"):
            command = [str(PEERS), script, step, "roc_auc", str(budget), place, str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{step} failed:\n{done.stderr[-2000:]}")
        seconds = json.loads(Path(place, "trials.json").read_text())
        answers = pd.read_parquet(f"{place}/answers.parquet")
        path = [(each["seconds"], answers[str(at)].to_numpy(dtype=float)) for at, each in enumerate(seconds)]
        last = pd.read_parquet(f"{place}/answer.parquet")["pd"].to_numpy(dtype=float)
        spent = json.loads(Path(place, "answer.json").read_text())["seconds"]
        return [*path, (spent, last)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=300)
    parser.add_argument("--budget", type=float, default=300, help="seconds for FLAML")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the built panel is kept for the next run")
    given = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit("FLAML is not there: make benchmark-peers")
    with tempfile.TemporaryDirectory(prefix="bellwether-tuning-") as scratch:
        train, test, inputs = divided(observed(given.work or Path(scratch), given.rows), given.rows, given.columns)
    print(
        f"{len(train):,} rows, {train.bads:,} defaults, {len(inputs)} columns; held out {len(test):,} rows", flush=True
    )
    ratios, gaps, errors = [], [], []
    for seed in range(1, given.seeds + 1):
        flaml = theirs(train, test, inputs, seed, given.budget)
        mine = ours(train, test, inputs, seed)
        target = metrics.auc(test.outcome, flaml[-1][1]) - WITHIN
        reached = []
        for label, path in (("flaml", flaml), ("ours", mine)):
            areas = [metrics.auc(test.outcome, answer) for _, answer in path]
            first = next((s for (s, _), area in zip(path, areas, strict=True) if area >= target), float("inf"))
            reached.append(first)
            shown = ", ".join(f"{s:.0f} s {area:.4f}" for (s, _), area in zip(path, areas, strict=True))
            print(f"seed {seed} {label:6} within {WITHIN} of FLAML's last after {first:.0f} s; {shown}", flush=True)
        gap = metrics.auc_difference(test.outcome, mine[-1][1], flaml[-1][1], test.customer)
        ratios.append(reached[1] / reached[0])
        gaps.append(gap["difference"])
        errors.append(gap["standard_error"])
        print(f"seed {seed} time over FLAML {ratios[-1]:.2f}, AUC minus FLAML {gap['difference']:+.4f} "
              f"(paired standard error {gap['standard_error']:.4f})", flush=True)  # fmt: skip
    print(
        json.dumps(
            {
                "rows": len(train),
                "columns": len(inputs),
                "time_over_flaml": round(statistics.median(ratios), 3),
                "auc_minus_flaml": round(statistics.median(gaps), 5),
                "auc_standard_error": round(statistics.median(errors), 5),
            }
        )
    )


if __name__ == "__main__":
    main()
