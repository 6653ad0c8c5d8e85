"""(g) What is fitted on outcomes, and how rows are divided: checks on the real steps, and leaks planted in them.

`model_by_time` walks the stages select, train and calibrate as they walk; `alarms_of` returns the checks that object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from models import encoders, recipe, records, splits
from models.calibration import CalibrateSettings
from models.inputs import Panel, carriers, inputs_from_catalogue, panel, rows_of
from models.recipe import TrainSettings, Tuned
from models.selection import SelectSettings
from pipeline import calibrate
from pipeline import select as select_stage
from pipeline import train as train_stage

DATES = pd.date_range("2018-01-01", periods=28, freq="QS")
TUNED = Tuned({"num_leaves": 4, "max_bin": 31, "min_data_in_leaf": 5}, 0.2, 12, 0.3, 0.7, 1, 1, False, 10.0)
NAMES = {"x1": "numeric", "x2": "numeric", "part": "numeric", "late": "numeric", "branch": "categorical"}


def frame_of(seed: int = 1, customers: int = 30) -> pd.DataFrame:
    """A panel of quarterly dates; `late` is known in the test period alone, `part` is constant before it."""
    random = np.random.default_rng(seed)
    rows = len(DATES) * customers
    frame = pd.DataFrame(
        {
            "customer_id": np.tile([f"c{n:04d}" for n in range(customers)], len(DATES)),
            "as_of": np.repeat(DATES, customers),
            "x1": random.normal(size=rows),
            "x2": random.normal(size=rows),
            "branch": random.choice(list("pqrstu"), rows),
        }
    )
    recent = frame["as_of"] >= DATES[-2]
    frame["part"] = np.where(recent, random.normal(size=rows), 1.0)
    frame["late"] = np.where(recent, random.normal(size=rows), np.nan)
    frame["outcome"] = (random.random(rows) < 1 / (1 + np.exp(1.2 - frame["x1"]))).astype(int)
    frame["outcome_known_on"] = frame["as_of"] + pd.DateOffset(months=12) - pd.Timedelta(days=1)
    return frame.sort_values(["as_of", "customer_id"]).reset_index(drop=True)


CATALOGUE = pd.DataFrame(
    [{"name": n, "kind": k, "direction": 0, "family": n, "definition_hash": n} for n, k in NAMES.items()]
)
SCORES = pd.DataFrame(
    [
        {
            "name": f"visits_record_score_{s}",
            "kind": "record",
            "direction": 1,
            "family": "visits_records",
            "definition_hash": s,
        }
        for s in records.STATISTICS
    ]
)
WITH_RECORDS = pd.concat([CATALOGUE, SCORES], ignore_index=True)


def with_records(frame: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    """Give each observation up to four child rows, that tell its x1 with noise; every ninth has none."""
    random = np.random.default_rng(seed)
    count = len(frame)
    sizes = np.where(np.arange(count) % 9 == 0, 0, random.integers(1, 5, count))
    length = np.repeat(frame["x1"].to_numpy(), sizes) + random.normal(size=sizes.sum())
    kinds = pa.array(random.choice(["web", "shop"], sizes.sum()))
    rows = pa.StructArray.from_arrays([pa.array(length), kinds], ["length", "channel"])
    lists = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(sizes)), pa.int32()), rows)
    column = pd.Series(lists, dtype=pd.ArrowDtype(lists.type), index=frame.index)
    return frame.assign(**{rows_of("visits"): column.where(sizes > 0, None)})


@dataclass(frozen=True)
class Model:
    """What the stages keep: names selected, files, and out-of-fold margins of the train rows."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    margin: np.ndarray
    fold: np.ndarray
    parts: pd.Series


def model_by_time(frame: pd.DataFrame, catalogue: pd.DataFrame = CATALOGUE) -> Model:
    """Select, train and calibrate as the stages do."""
    selected = select_stage.run(frame, catalogue, SelectSettings(test_share=0.2, min_bads=5, folds=3))
    inputs = select_stage.selected_inputs(selected["features"])
    horizon = selected["features"]["split"]["horizon_months"]
    rows = panel(frame, carriers(inputs), horizon, in_time=True)
    inside = (selected["parts"]["part"] == "train").to_numpy()
    fold = selected["parts"]["fold"].fillna(-1).to_numpy(dtype=int)[inside]
    train = rows.take(inside)
    indices = splits.fold_indices(train, fold, selected["features"]["split"]["folds"])
    trained = recipe.train(train, inputs, indices, TUNED, TrainSettings(seeds=1))
    kept = train_stage.out_of_fold(train, pd.Series(fold), trained)
    choice = calibrate.run(kept, horizon, CalibrateSettings(method="platt"))
    files = (trained.booster, trained.encoders.to_json(), choice.calibrator.to_json())
    files += tuple(records.files(trained.encoders.records).values())
    return Model(tuple(each.name for each in inputs), files, trained.margin, fold, selected["parts"]["part"])


def later_moves_nothing() -> bool:
    """Other outcomes and other features of all rows that do not train leave every file as it is."""
    frame = frame_of()
    before = model_by_time(frame)
    other = frame_of(seed=2)
    outside = (before.parts != "train").to_numpy()
    changed = frame.copy()
    for name in ("x1", "x2", "branch", "part", "late"):
        changed.loc[outside, name] = other.loc[outside, name]
    flipped = frame["outcome"].where(~outside, 1 - frame["outcome"])
    after = model_by_time(changed.assign(outcome=flipped, part=1.0, late=np.nan))
    return before.names == after.names and before.files == after.files


def turned(rows: Panel, which: np.ndarray) -> Panel:
    """Return the panel with the other outcome on some of its rows."""
    return replace(rows, outcome=np.where(which, 1 - rows.outcome, rows.outcome).astype("int8"))


def margins_with_one_fold_turned(rows: Panel, catalogue: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the out-of-fold margins before and after the outcomes of one fold are turned, and which rows it holds."""
    inputs = inputs_from_catalogue(catalogue)
    fold = splits.grouped_folds(rows, 3, 1)
    indices = splits.fold_indices(rows, fold, "grouped")
    before, after = (
        recipe.train(each, inputs, indices, TUNED, TrainSettings(seeds=1)).margin
        for each in (rows, turned(rows, fold == 1))
    )
    return before, after, fold == 1


def own_outcomes_move_nothing(rows: Panel, catalogue: pd.DataFrame, before: np.ndarray, customers: int) -> bool:
    """Return whether each of the first rows' customers keeps what was fitted for them as their outcomes are turned."""
    inputs = inputs_from_catalogue(catalogue)
    for customer in rows.customer[:customers]:
        mine = rows.customer == customer
        _, after = encoders.fit_matrix(turned(rows, mine), inputs, 10.0, 1)
        if not np.array_equal(before[mine], after[mine], equal_nan=True):
            return False
    return True


def unknown_outcomes_move_nothing(rows: Panel, catalogue: pd.DataFrame, days: slice) -> bool:
    """Return whether rows up to each day keep what was fitted for them as outcomes not yet known then are turned."""
    inputs = inputs_from_catalogue(catalogue)
    _, before = encoders.fit_matrix(rows, inputs, 10.0, 1)
    known_on = rows.learned - np.timedelta64(1, "D")
    for day in np.unique(rows.as_of)[days]:
        _, after = encoders.fit_matrix(turned(rows, known_on >= day), inputs, 10.0, 1)
        past = rows.as_of <= day
        if not np.array_equal(before[past], after[past], equal_nan=True):
            return False
    return True


def held_out_moves_nothing() -> bool:
    """Other outcomes in one fold leave that fold's margins as they are."""
    before, after, held_out = margins_with_one_fold_turned(panel(frame_of(), list(NAMES), 12), CATALOGUE)
    return bool((before[held_out] == after[held_out]).all())


def own_code_is_not_own_outcome() -> bool:
    """A customer's other outcomes leave that customer's own target codes as they are, judged in time or not."""
    inputs = inputs_from_catalogue(CATALOGUE)
    for in_time in (False, True):
        rows = panel(frame_of(), list(NAMES), 12, in_time=in_time)
        _, before = encoders.fit_matrix(rows, inputs, 10.0, 1)
        if not own_outcomes_move_nothing(rows, CATALOGUE, before, 10):
            return False
    return True


def not_yet_known_moves_nothing() -> bool:
    """Judged in time, outcomes not known at an as_of leave the target codes of rows up to it as they are."""
    rows = panel(frame_of(), list(NAMES), 12, in_time=True)
    return unknown_outcomes_move_nothing(rows, CATALOGUE, slice(3, None, 6))


def briefly(check: Callable[[], bool]) -> Callable[[], bool]:
    """Run a check with few record models of few trees: what may teach them does not depend on how long they learn."""

    def checked() -> bool:
        with pytest.MonkeyPatch.context() as patch:
            for name, few in (("ROUNDS", 8), ("FOLDS", 2), ("BLOCKS", 2)):
                patch.setattr(records, name, few)
            return check()

    return checked


def later_records_move_nothing() -> bool:
    """Other outcomes and other child rows of all rows that do not train leave every file as it is."""
    frame = with_records(frame_of(customers=20))
    before = model_by_time(frame, WITH_RECORDS)
    outside = (before.parts != "train").to_numpy()
    other = with_records(frame_of(2, 20), 2)[rows_of("visits")]
    rows = frame[rows_of("visits")].where(~outside, other)
    flipped = frame["outcome"].where(~outside, 1 - frame["outcome"])
    after = model_by_time(frame.assign(outcome=flipped, **{rows_of("visits"): rows}), WITH_RECORDS)
    scored = [name for name in before.names if "_record_score_" in name]
    return bool(scored) and before.names == after.names and before.files == after.files


def held_out_records_move_nothing() -> bool:
    """Other outcomes in one fold leave that fold's margins, made with record scores, as they are."""
    rows = panel(with_records(frame_of(customers=20)), carriers(inputs_from_catalogue(SCORES)), 12)
    before, after, held_out = margins_with_one_fold_turned(rows, SCORES)
    return bool((before[held_out] == after[held_out]).all() and (before[~held_out] != after[~held_out]).any())


def own_record_score_is_not_own_outcome() -> bool:
    """A customer's other outcomes leave the scores of that customer's own rows as they are, judged in time or not."""
    inputs = inputs_from_catalogue(SCORES)
    for in_time in (False, True):
        rows = panel(with_records(frame_of(customers=20)), carriers(inputs), 12, in_time=in_time)
        _, before = encoders.fit_matrix(rows, inputs, 10.0, 1)
        assert np.isfinite(before).mean() > 0.3
        if not own_outcomes_move_nothing(rows, SCORES, before, 4):
            return False
    return True


def not_yet_known_moves_no_record_score() -> bool:
    """Judged in time, outcomes not known at an as_of leave the record scores of rows up to it as they are."""
    carried = carriers(inputs_from_catalogue(SCORES))
    rows = panel(with_records(frame_of(customers=20)), carried, 12, in_time=True)
    return unknown_outcomes_move_nothing(rows, SCORES, slice(9, None, 5))


def customers_stay_together() -> bool:
    """No customer has rows in two grouped folds."""
    rows = panel(frame_of(), list(NAMES), 12)
    fold = splits.grouped_folds(rows, 4, 1)
    return len(set(zip(rows.customer, fold, strict=True))) == len(set(rows.customer))


def windows_close_first() -> bool:
    """Train windows close before the test starts, and before each block of time that they predict."""
    rows = panel(frame_of(), list(NAMES), 12)
    divided = splits.split(rows, SelectSettings(min_bads=5, folds=3), 12)
    assert divided.plan["folds"] == "expanding"
    if divided.plan["kind"] != "time" or (divided.train & divided.test).any():
        return False
    if rows.closes[divided.train].max() > rows.as_of[divided.test].min():
        return False
    train = rows.take(divided.train)
    blocks = splits.fold_indices(train, divided.fold[divided.train], "expanding")
    return all(train.closes[taught].max() <= train.as_of[asked].min() for taught, asked in blocks if len(taught))


def rows_are_there_once(frame: pd.DataFrame | None = None) -> bool:
    """No row comes twice, and no test row has the very features of a train row (the same customer renamed)."""
    frame = frame_of() if frame is None else frame
    rows = panel(frame, list(NAMES), 12)
    if frame.duplicated(["customer_id", "as_of"]).any():
        return False
    divided = splits.split(rows, SelectSettings(min_bads=5, folds=3), 12)
    prints = pd.util.hash_pandas_object(rows.features[["x1", "x2", "branch"]], index=False).to_numpy()
    return not np.isin(prints[divided.test], prints[divided.train]).any()


CHECKS: dict[str, Callable[[], bool]] = {
    "g later rows": later_moves_nothing,
    "g held-out fold": held_out_moves_nothing,
    "g own code": own_code_is_not_own_outcome,
    "g not yet known": not_yet_known_moves_nothing,
    "g records later": briefly(later_records_move_nothing),
    "g records held out": briefly(held_out_records_move_nothing),
    "g records own": briefly(own_record_score_is_not_own_outcome),
    "g records not yet known": briefly(not_yet_known_moves_no_record_score),
    "split customers": customers_stay_together,
    "split windows": windows_close_first,
    "split duplicates": rows_are_there_once,
}


def alarms_of(names: tuple[str, ...] = tuple(CHECKS)) -> list[str]:
    return [name for name in names if not CHECKS[name]()]


# --- leaks ------------------------------------------------------------------------------------------------------------

REAL = {
    "select": select_stage.select, "split": splits.split, "fit_matrix": encoders.fit_matrix, "fit": encoders.fit,
    "fold_indices": splits.fold_indices, "calibrated": calibrate.calibrated, "panel": panel, "train": recipe.train,
    "grouped": splits.grouped_folds, "record_fit": records.fit, "out_of_fold": records.out_of_fold,
}  # fmt: skip


def _everything(patch: pytest.MonkeyPatch) -> list[Panel]:
    """Remember every whole panel that the steps are given."""
    seen: list[Panel] = []

    def remembered(*arguments: object, **named: object) -> Panel:
        seen.append(REAL["panel"](*arguments, **named))
        return seen[-1]

    patch.setattr(select_stage, "panel", remembered)
    return seen


def on_test_selection(patch: pytest.MonkeyPatch) -> None:
    seen = _everything(patch)

    def on_everything(_rows, inputs, _indices, settings):
        rows = seen[-1]
        indices = splits.fold_indices(rows, splits.grouped_folds(rows, 3, 1), "grouped")
        return REAL["select"](rows, inputs, indices, settings)

    patch.setattr(select_stage, "select", on_everything)


def on_test_encoders(patch: pytest.MonkeyPatch) -> None:
    seen = _everything(patch)
    patch.setattr(encoders, "fit", lambda _, inputs, smoothing: REAL["fit"](seen[-1], inputs, smoothing))


def on_test_calibration(patch: pytest.MonkeyPatch) -> None:
    """The curve's level is set on the default rate of the test rows."""
    seen = _everything(patch)

    def calibrated(rows: recipe.Judged, settings: CalibrateSettings) -> object:
        rate = seen[-1].outcome[-len(rows.outcome) // 3 :].mean()
        return REAL["calibrated"](replace(rows, margin=rows.margin + rate), settings)

    patch.setattr(calibrate, "calibrated", calibrated)


def in_fold_codes(patch: pytest.MonkeyPatch) -> None:
    def fit_matrix(rows: Panel, inputs: tuple, smoothing: float, _: int) -> tuple:
        made = encoders.fit(rows, inputs, smoothing)
        return made, made.matrix(rows.features, inputs)

    patch.setattr(encoders, "fit_matrix", fit_matrix)


def codes_of_later_outcomes(patch: pytest.MonkeyPatch) -> None:
    """Codes by customer alone, from outcomes of any date."""

    def fit_matrix(rows: Panel, *rest: object) -> tuple:
        return REAL["fit_matrix"](replace(rows, learned=None), *rest)

    patch.setattr(encoders, "fit_matrix", fit_matrix)


def codes_before_the_window_closes(patch: pytest.MonkeyPatch) -> None:
    """An outcome counts from the as_of on that it speaks about."""

    def fit_matrix(rows: Panel, *rest: object) -> tuple:
        return REAL["fit_matrix"](rows if rows.learned is None else replace(rows, learned=rows.as_of), *rest)

    patch.setattr(encoders, "fit_matrix", fit_matrix)


def in_sample_records(patch: pytest.MonkeyPatch) -> None:
    """Rows are scored by the model that they taught."""
    patch.setattr(records, "out_of_fold", lambda rows, table, made, _: made.scores(rows.features[rows_of(table)]))


def records_of_later_outcomes(patch: pytest.MonkeyPatch) -> None:
    """Rows are scored by other customers' rows, with outcomes of any date."""
    patch.setattr(records, "out_of_fold", lambda rows, *rest: REAL["out_of_fold"](replace(rows, learned=None), *rest))


def records_before_the_window_closes(patch: pytest.MonkeyPatch) -> None:
    """An outcome teaches record models from the as_of on that it speaks about."""

    def out_of_fold(rows: Panel, *rest: object) -> dict[str, np.ndarray]:
        return REAL["out_of_fold"](rows if rows.learned is None else replace(rows, learned=rows.as_of), *rest)

    patch.setattr(records, "out_of_fold", out_of_fold)


def on_test_records(patch: pytest.MonkeyPatch) -> None:
    seen = _everything(patch)
    patch.setattr(records, "fit", lambda _, table: REAL["record_fit"](seen[-1], table))


def taught_by_the_asked(patch: pytest.MonkeyPatch) -> None:
    def fold_indices(rows: Panel, fold: np.ndarray, kind: str) -> splits.Indices:
        return [(np.arange(len(rows)), asked) for _, asked in REAL["fold_indices"](rows, fold, kind)]

    patch.setattr(splits, "fold_indices", fold_indices)


def customers_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(splits, "grouped_folds", lambda rows, count, _: np.arange(len(rows)) // 7 % count)


def no_gap(patch: pytest.MonkeyPatch) -> None:
    """Train rows reach to the first test date although their windows run into the test."""
    patch.setattr(splits, "split", _without_gap)


def _without_gap(rows: Panel, settings: SelectSettings, horizon: int) -> splits.Split:
    divided = REAL["split"](rows, settings, horizon)
    return replace(divided, train=~divided.test, fold=np.where(divided.fold < 0, 0, divided.fold))


def no_test_set(patch: pytest.MonkeyPatch) -> None:
    def split(rows: Panel, settings: SelectSettings, horizon: int) -> splits.Split:
        divided = REAL["split"](rows, settings, horizon)
        return replace(divided, train=np.ones(len(rows), bool))

    patch.setattr(splits, "split", split)


def blocks_without_gap(patch: pytest.MonkeyPatch) -> None:
    def fold_indices(rows: Panel, fold: np.ndarray, kind: str) -> splits.Indices:
        asked = [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]
        return [(np.flatnonzero(rows.as_of < rows.as_of[each].min()), each) for each in asked]

    patch.setattr(splits, "fold_indices", fold_indices)


def random_test_rows(patch: pytest.MonkeyPatch) -> None:
    """Test rows drawn at random among all dates, called a split by time."""

    def split(rows: Panel, settings: SelectSettings, horizon: int) -> splits.Split:
        divided = REAL["split"](rows, settings, horizon)
        test = np.arange(len(rows)) % 5 == 0
        return replace(divided, train=~test, test=test)

    patch.setattr(splits, "split", split)


def renamed_customers(patch: pytest.MonkeyPatch) -> None:
    """The same customer under a second identifier, on both sides of the split."""

    def doubled(frame: pd.DataFrame, *rest: object, **named: object) -> Panel:
        first = frame[frame["as_of"] == DATES[0]]
        again = first.assign(customer_id=first["customer_id"] + "-b", as_of=DATES[-1])
        return REAL["panel"](pd.concat([frame, again]), *rest, **named)

    patch.setitem(globals(), "panel", doubled)


def rows_twice(patch: pytest.MonkeyPatch) -> None:
    """Every tenth row is delivered a second time, three years later."""

    def doubled(frame: pd.DataFrame, *rest: object, **named: object) -> Panel:
        some = frame.iloc[::10]
        again = some.assign(customer_id="x" + some["customer_id"], as_of=DATES[-1])
        again = again.drop_duplicates(["customer_id", "as_of"])
        return REAL["panel"](pd.concat([frame, again]), *rest, **named)

    patch.setitem(globals(), "panel", doubled)


FITTING_LEAKS = (
    ("features selected on test rows", "L1.3", on_test_selection, "g later rows"),
    ("encoders fitted on train and test", "L1.2", on_test_encoders, "g later rows"),
    ("calibration level from test rows", "L1.2", on_test_calibration, "g later rows"),
    ("target codes on all rows", "L1.2", in_fold_codes, "g own code"),
    ("target codes of outcomes not yet known", "L3.1", codes_of_later_outcomes, "g not yet known"),
    ("target codes before the window closes", "L3.1", codes_before_the_window_closes, "g not yet known"),
    ("record scores by the model that the rows taught", "L1.2", in_sample_records, "g records own"),
    ("record scores of outcomes not yet known", "L3.1", records_of_later_outcomes, "g records not yet known"),
    ("record scores before the window closes", "L3.1", records_before_the_window_closes, "g records not yet known"),
    ("record models fitted on train and test", "L1.2", on_test_records, "g records later"),
    ("a fold taught by the rows it is asked about", "L1.1", taught_by_the_asked, "g held-out fold"),
    ("a customer in train and test", "L3.2", customers_apart, "split customers"),
    ("no gap between train and test", "L3.1", no_gap, "split windows"),
    ("test rows train as well", "L1.1", no_test_set, "split windows"),
    ("blocks of time without a gap", "L3.1", blocks_without_gap, "split windows"),
    ("test drawn at random from all dates", "L3.3", random_test_rows, "split windows"),
    ("a customer under two identifiers", "L1.4", renamed_customers, "split duplicates"),
    ("rows delivered twice across the split", "L1.4", rows_twice, "split duplicates"),
)
