"""Input that breaks models elsewhere: each ends in a stated behaviour or a clear refusal, never in a silent wrong PD."""

import json

import numpy as np
import pandas as pd
import pytest

from models import encoders, metrics, recipe
from models.inputs import Input, numbered, panel
from models.recipe import CalibrateSettings, Settings, TrainSettings
from models.selection import SelectSettings, screen
from models.tuning import TuneSettings

QUICK = Settings(
    SelectSettings(), TuneSettings(trials=3, max_rounds=40, repeats=1), TrainSettings(seeds=1), CalibrateSettings()
)


def of(frame, kinds=None, dates="2020-01-01"):
    columns = [name for name in frame if name not in ("customer_id", "outcome")]
    inputs = numbered(Input(name, "", (kinds or {}).get(name, "numeric"), 0, "", f"h{name}") for name in columns)
    return panel(frame.assign(as_of=pd.to_datetime(dates)), columns, 12), inputs


def probabilities(fitted, rows):
    margin = fitted.margins(rows.features)
    return fitted.calibrator.pd(margin)


@pytest.mark.fault("E1")
def test_all_defaults_of_one_customer_leave_folds_with_one_class():
    """Folds are by customer, so every fold but one holds good outcomes alone; the PDs stay finite and near the rate."""
    random = np.random.default_rng(5)
    months = pd.date_range("2018-01-01", periods=24, freq="MS")
    frame = pd.MultiIndex.from_product([[f"c{n:03d}" for n in range(60)], months], names=["customer_id", "as_of"])
    frame = frame.to_frame(index=False).assign(x=lambda f: random.normal(size=len(f)))
    frame["outcome"] = (frame["customer_id"] == "c007").astype(int)
    rows, inputs = of(frame.drop(columns="as_of"), dates=frame["as_of"])
    assert rows.bads == 24
    fitted = recipe.run(rows, inputs, QUICK)
    pd_ = probabilities(fitted, rows)
    assert np.isfinite(pd_).all()
    assert ((pd_ > 0) & (pd_ < 1)).all()
    low, high = fitted.calibrator.interval(fitted.margins(rows.features))
    assert ((low <= pd_) & (pd_ <= high)).all()


@pytest.mark.fault("E2")
def test_fewer_defaults_than_features_give_modest_pds():
    """24 defaults, 120 columns of noise: nothing can be learned, and no customer is told apart by much."""
    random = np.random.default_rng(6)
    frame = pd.DataFrame(random.normal(size=(600, 120)), columns=[f"n{i:03d}" for i in range(120)])
    outcome = np.zeros(600, int)
    outcome[random.choice(600, 24, replace=False)] = 1
    rows, inputs = of(frame.assign(customer_id=[f"c{n:04d}" for n in range(600)], outcome=outcome))
    other = pd.DataFrame(random.normal(size=(4000, 120)), columns=frame.columns)
    fitted = recipe.run(rows, inputs, QUICK)
    pd_ = fitted.calibrator.pd(fitted.margins(other))
    assert pd_.mean() == pytest.approx(0.04, abs=0.03)
    assert np.quantile(pd_, 0.99) < 0.2


@pytest.mark.parametrize("count", [60_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_levels_are_one(count):
    """Each level once: nothing to learn from, all share the code of the unseen, and the file stays small."""
    random = np.random.default_rng(7)
    frame = pd.DataFrame({"device": [f"device {n}" for n in random.permutation(count)]})
    frame["device"] = frame["device"].where(random.random(count) < 0.98, "browser")
    outcome = (random.random(count) < np.where(frame["device"] == "browser", 0.3, 0.05)).astype(int)
    rows, inputs = of(
        frame.assign(customer_id=np.arange(count).astype(str), outcome=outcome), {"device": "categorical"}
    )
    learned, matrix = encoders.fit_matrix(rows, inputs, 20.0, 1)
    codes = learned.codes["device"]
    assert len(codes.levels) == 1
    assert len(learned.to_json()) < 1000
    rare = (rows.features["device"] != "browser").to_numpy()
    assert np.unique(matrix[rare, 0]).size <= encoders.INNER_FOLDS
    assert matrix[rare, 0].max() < 0.06
    assert matrix[~rare, 0].min() > 0.28
    alone = metrics.auc(rows.outcome[rare], matrix[rare, 0])
    assert alone == pytest.approx(0.5, abs=0.02)  # a code that had seen the row's own outcome would tell
    assert codes.apply("device", pd.Series(["never seen"]))[0] == codes.unseen
    assert json.loads(learned.to_json())["codes"]["device"]["unseen"] == codes.unseen


@pytest.mark.fault("C9")
def test_a_column_of_identifiers_is_left_out_by_name():
    random = np.random.default_rng(8)
    frame = pd.DataFrame({"x": random.normal(size=3000), "number": [f"n{n}" for n in range(3000)]})
    outcome = (random.random(3000) < 0.1).astype(int)
    rows, inputs = of(frame.assign(customer_id=np.arange(3000).astype(str), outcome=outcome), {"number": "categorical"})
    reasons = screen(rows, inputs, SelectSettings()).reasons.set_index("feature")
    assert not reasons.loc["number", "kept"]
    assert "identifier" in reasons.loc["number", "reason"]
