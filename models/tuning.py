"""The search: known good points first, then TPE, each trial judged by log loss on the same folds and pruned there.

Trial n is drawn by a sampler seeded with `seed` + n from the finished trials before it, and only finished trials are
stored: a search killed at any moment goes on where it stood, counts each trial once and ends where an unbroken one
ends. Data sets are binned once a fold and shared by all trials. The best known good point wins unless another trial is
better by more than one standard error of their difference over the folds: luck in few folds is no reason to leave it.
Where a trial takes long, a first look at the good points on some of the rows says in seconds which to try first, and
stands in for the search if its time is over before a single trial is.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models import encoders, estimator
from models.inputs import Input, Panel
from models.space import good_points, lightgbm_space
from models.splits import Indices

LOOK_ROWS = 20_000  # that teach in a first look; half as many are asked
LOOK_GROWTH = 0.25  # power of the number of rows by which the number of trees grows from a look to all rows
LOOK_FROM = 2 * LOOK_ROWS  # rows of a fold: under it a trial is not long
COMPANIONS = 4
ALIKE = 0.005  # of the winner's log loss
Watch = Callable[[int, int, Any], None]  # trials finished, trials planned, the one held
TRIAL_FIELDS = ("number", "state", "log_loss", "auc", "rounds", "folds", "parameters")


class TuneSettings(BaseModel):
    """How long and how hard the search looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int | None = Field(None, ge=1, le=2000)  # null: by the size of the data, see `trial_count`
    seconds: float | None = Field(None, gt=0)  # a budget of wall-clock time: the search is then not reproducible
    patience: int | None = Field(None, ge=1)  # trials without improvement that end the search; null: half of `trials`
    repeats: int | None = Field(None, ge=1, le=20)  # divisions into folds; null: more on few defaults
    learning_rate: float = Field(0.1, gt=0, le=1)  # of the search, and of the final model unless train overrides it
    max_rounds: int = Field(500, ge=1)  # trees
    monotone: bool = True  # hold features to the directions of the catalogue
    smoothing: float = Field(20.0, gt=0)  # rows of prior weight in a category's code
    seed: int = Field(20260101, ge=0)


@dataclass(frozen=True)
class Tuned:
    """The winning parameters and how they did: means over folds at the best common number of rounds."""

    parameters: dict[str, Any]
    learning_rate: float
    rounds: int
    log_loss: float
    auc: float
    trials: int
    seed: int
    monotone: bool
    smoothing: float
    reproducible: bool = True  # false: a clock ended the search
    companions: list[dict[str, Any]] = field(default_factory=list)  # parameters, rounds of trials as good, best first

    def record(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return dict(self.__dict__)


def trial_count(rows: int, features: int) -> int:
    """Return the number of trials for a data size: work grows with cells, so trials fall.

    On 5 to 10 thousand rows the search is what brings most (4 leaves won once, 136 another time); under a thousand the
    folds cannot tell so many trials apart.
    """
    cells = rows * features
    if rows < 1000:
        return 20
    return next((count for most, count in ((4e5, 40), (1e6, 20), (6e6, 12)) if cells <= most), 10)


def repeat_count(bads: int) -> int:
    """Return into how many different divisions of folds the rows are put: few defaults make one division a lottery."""
    return 1 if bads >= 400 else 2


class FoldData:
    """Train and validation data sets of each fold; target codes are learned from the fold's train rows alone."""

    def __init__(self, panel: Panel, inputs: tuple[Input, ...], indices: Indices, settings: TuneSettings) -> None:
        self.panel, self.inputs, self.indices, self.settings = panel, inputs, indices, settings
        self.columns = [each.column for each in inputs]
        self.monotone = estimator.monotone_constraints(inputs, settings.monotone)
        self._sets: dict[tuple[int, int], tuple[Any, Any]] = {}

    def sets(self, number: int, max_bin: int) -> tuple[Any, Any]:
        """Return (train, valid) LightGBM data sets of a fold, built at the first call."""
        key = (number, max_bin)
        if key not in self._sets:
            rows, asked = self.indices[number]
            train, valid = self.panel.take(rows), self.panel.take(asked)
            coder, matrix = encoders.fit_matrix(train, self.inputs, self.settings.smoothing, self.settings.seed)
            given = estimator.parameters({"max_bin": max_bin}, self.monotone, self.settings.seed)
            data = estimator.dataset(matrix, train.outcome, self.columns, given)
            test = coder.matrix(valid.features, self.inputs)
            self._sets[key] = (data, estimator.dataset(test, valid.outcome, self.columns, given, reference=data))
        return self._sets[key]

    def usable(self) -> list[int]:
        """Return the folds whose train rows hold both classes; a fold with one class cannot be learned from."""
        rate = self.panel.outcome
        return [n for n, (rows, asked) in enumerate(self.indices) if len(asked) and 0 < rate[rows].mean() < 1]


def search(
    folds: FoldData,
    study: Any,
    settings: TuneSettings,
    watch: Watch | None = None,
) -> Tuned:
    """Run or resume the search in an optuna study (direction minimize) and return the winner.

    `watch(finished, planned, held)` is called after a first look and after each trial; `held` is the trial that would
    win if the search ended there.
    """
    import optuna

    rows, bads = len(folds.panel), folds.panel.bads
    planned = settings.trials or trial_count(rows, len(folds.inputs))
    points = good_points(rows, bads)
    started = time.monotonic()
    done = finished(study)
    tell = partial(watch, 0, planned) if watch is not None and not done else None
    looked = first_look(folds, settings, points, tell) if len(done) < len(points) else []
    points = [trial.params for trial in looked] or points
    while True:
        done = finished(study)
        if len(done) >= planned or _idle(done, settings.patience or max(8, planned // 2), len(points)):
            break
        if settings.seconds is not None and (done or looked) and time.monotonic() - started >= settings.seconds:
            if not done:
                study.add_trial(looked[0])
            break
        if len(done) < len(points):
            trial: Any = optuna.trial.FixedTrial(dict(points[len(done)]))
        else:
            trial = _ask(done, settings.seed + len(done))
        drawn = lightgbm_space(trial, rows=rows, bads=bads)
        study.add_trial(_evaluated(folds, settings, drawn, trial.distributions, _best(done)))
        if watch is not None:
            watch(len(done) + 1, planned, winner(finished(study), len(points)))
    best = winner(finished(study), len(points))
    return Tuned(
        parameters=lightgbm_space(optuna.trial.FixedTrial(best.params), rows=rows, bads=bads),
        learning_rate=settings.learning_rate,
        rounds=int(best.user_attrs["rounds"]),
        log_loss=float(best.value),
        auc=float(best.user_attrs["auc"]),
        trials=len(finished(study)),
        seed=settings.seed,
        monotone=settings.monotone,
        smoothing=settings.smoothing,
        reproducible=settings.seconds is None,
        companions=[
            {
                "parameters": lightgbm_space(optuna.trial.FixedTrial(each.params), rows=rows, bads=bads),
                "rounds": int(each.user_attrs["rounds"]),
            }
            for each in companions(finished(study), best)
        ],
    )


def first_look(
    folds: FoldData,
    settings: TuneSettings,
    points: Sequence[Mapping[str, Any]],
    tell: Callable[[Any], None] | None = None,
) -> list[Any]:
    """Return the good points as finished trials, the lowest log loss first, judged on some rows of the first fold.

    Their rounds are stated for all rows. Empty where the fold has fewer than `LOOK_FROM` rows, or some one class.
    The quick ones are judged first; `tell` hears of each that is better than those before it.
    """
    import optuna

    if len(folds.indices[0][0]) < LOOK_FROM:
        return []
    taught, asked = (
        np.sort(np.random.default_rng(settings.seed).permutation(rows)[:most])
        for rows, most in zip(folds.indices[0], (LOOK_ROWS, LOOK_ROWS // 2), strict=True)
    )
    some = FoldData(folds.panel, folds.inputs, [(taught, asked)], settings)
    if not some.usable():
        return []
    rows, bads = len(folds.panel), folds.panel.bads
    more = (rows / len(taught)) ** LOOK_GROWTH

    def judged(point: Mapping[str, Any]) -> Any:
        trial = optuna.trial.FixedTrial(dict(point))
        drawn = lightgbm_space(trial, rows=rows, bads=bads)
        found = _evaluated(some, settings, drawn, trial.distributions, None)
        found.set_user_attr("rounds", min(settings.max_rounds, round(more * found.user_attrs["rounds"])))
        return found

    for bins in sorted({int(point["max_bin"]) for point in points}):
        some.sets(0, bins)  # made before two points ask for them at once
    looked: list[Any] = []
    quick = sorted(points, key=lambda point: int(point["num_leaves"]))
    for start in range(0, len(quick), estimator.SIDE_BY_SIDE):
        held = looked[:1]
        looked += estimator.side_by_side(judged, quick[start : start + estimator.SIDE_BY_SIDE])
        looked.sort(key=lambda trial: float(trial.value))
        if tell is not None and looked[:1] != held:
            tell(looked[0])
    return looked


def memory_study() -> Any:
    """Return an empty study that lives in memory alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="minimize")


def finished(study: Any) -> list[Any]:
    """Return the study's finished trials in their order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def trial_records(study: Any) -> list[dict[str, Any]]:
    """Return one record a finished trial, for a table: see TRIAL_FIELDS; log_loss and auc are null where pruned."""
    return [
        {
            "number": number,
            "state": trial.state.name.lower(),
            "log_loss": None if trial.user_attrs.get("pruned") else trial.value,
            "auc": None if trial.user_attrs.get("pruned") else trial.user_attrs["auc"],
            "rounds": trial.user_attrs["rounds"],
            "folds": len(trial.intermediate_values),
            "parameters": json.dumps(trial.params, sort_keys=True),
        }
        for number, trial in enumerate(finished(study))
    ]


def _ask(done: list[Any], seed: int) -> Any:
    """Return a trial that TPE draws from the finished ones; same trials and seed, same draw."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, multivariate=True)
    study = memory_study()
    study.sampler = sampler
    study.add_trials(done)
    return study.ask()


def _best(done: list[Any]) -> Any:
    """Return the best complete trial, the earliest among equals; None before the first."""
    from optuna.trial import TrialState

    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda trial: trial.value) if complete else None


def winner(done: list[Any], points: int) -> Any:
    """Return the best trial if it beats the best of the first `points` by more than one standard error, else that."""
    best, known = _best(done), _best(done[:points])
    gain, noise = _loss_over(known, best)
    return best if gain > noise else known


def companions(done: list[Any], best: Any) -> list[Any]:
    """Return the next best trials that are as good as the winner `best`, to be averaged with it; at most `COMPANIONS`.

    As good: not worse over the folds by more than one standard error of the difference, nor by more than .5%.
    """
    from optuna.trial import TrialState

    found = []
    for trial in sorted((t for t in done if t.state == TrialState.COMPLETE), key=lambda t: t.value):
        loss, noise = _loss_over(trial, best)
        if trial.params != best.params and loss <= min(noise, ALIKE * best.value):
            found.append(trial)
    return found[:COMPANIONS]


def _loss_over(trial: Any, other: Any) -> tuple[float, float]:
    """Return by how much a complete trial's log loss lies over another's, mean over folds, and its standard error."""
    loss = np.array([trial.intermediate_values[step] - value for step, value in other.intermediate_values.items()])
    return float(loss.mean()), float(loss.std(ddof=1) / np.sqrt(len(loss))) if len(loss) > 1 else 0.0


def _idle(done: list[Any], patience: int, points: int) -> bool:
    """Return whether the last `patience` trials, the good points not counted, brought nothing better."""
    best = _best(done)
    return best is not None and len(done) - max(done.index(best) + 1, points) >= patience


def _evaluated(folds: FoldData, settings: TuneSettings, drawn: dict[str, Any], distributions: Any, best: Any) -> Any:
    """Return a finished optuna trial: `drawn` judged on the folds, or pruned against the best trial so far."""
    from optuna.trial import TrialState, create_trial

    given = estimator.parameters({**drawn, "learning_rate": settings.learning_rate}, folds.monotone, settings.seed)
    stop_after = max(10, round(3 / settings.learning_rate))  # rounds without improvement
    usable = folds.usable()
    curves: list[tuple[np.ndarray, np.ndarray]] = []
    lowest: dict[int, float] = {}
    pruned = False

    def curve(number: int) -> tuple[np.ndarray, np.ndarray]:
        train, valid = folds.sets(number, int(drawn["max_bin"]))
        return estimator.learning_curve(train, valid, given, settings.max_rounds, stop_after)

    for start in range(0, len(usable), estimator.SIDE_BY_SIDE):
        curves += estimator.side_by_side(curve, usable[start : start + estimator.SIDE_BY_SIDE])
        lowest = {step: float(loss.min()) for step, (loss, _) in enumerate(curves)}
        if best is not None and _hopeless(lowest, best.intermediate_values):
            pruned = True
            break
    losses, aucs = zip(*curves, strict=True)
    length = max(map(len, losses))
    mean_loss = np.mean([_extended(loss, length) for loss in losses], axis=0)
    place = int(mean_loss.argmin())
    mean_auc = float(np.mean([_extended(auc, length)[place] for auc in aucs]))
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        params={name: drawn[name] for name in distributions},
        distributions=distributions,
        value=float(mean_loss[place]),
        intermediate_values=lowest,
        user_attrs={"rounds": place + 1, "auc": mean_auc, "pruned": pruned},
    )


def _extended(curve: np.ndarray, length: int) -> np.ndarray:
    """Return the curve with its last value repeated up to `length`."""
    return np.append(curve, np.full(length - len(curve), curve[-1]))


def _hopeless(lowest: dict[int, float], best: dict[int, float]) -> bool:
    """Return whether the folds so far are worse than the best trial's on the same folds by more than their noise."""
    done = len(lowest)
    if done >= len(best):
        return False
    worse = np.array([lowest[step] / best[step] - 1 for step in range(done)])
    noise = worse.std(ddof=1) / np.sqrt(done) if done > 1 else 0.0
    return bool(worse.mean() > (0.004 if done == 1 else 0.001) + noise)
