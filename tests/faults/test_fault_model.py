"""E: outcomes, features, models and figures that are not what they should be; most of it is tested with the models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.errors import DataRefused, GateRefused, IntegrityRefused, Refusal
from models import estimator
from models.calibration import Calibrator
from models.inputs import panel
from models.tuning import TuneSettings
from pipeline import publish, select

fault = pytest.mark.fault


def rows(outcome, **columns) -> pd.DataFrame:
    count = len(outcome)
    given = {"x": np.arange(count) % 7 * 1.0, **columns}
    return pd.DataFrame(
        {
            "customer_id": [f"c{n:05d}" for n in range(count)],
            "as_of": pd.Timestamp("2020-01-01"),
            "outcome": outcome,
            **given,
        }
    )


@fault("E3")
@pytest.mark.sample
@pytest.mark.parametrize("label", [2, -1, 0.5, np.inf, -np.inf, np.nan, None, "1x"])
def test_a_label_that_is_neither_0_nor_1(label):
    outcome: list = [0, 1] * 50
    outcome[17] = label
    with pytest.raises(Refusal) as refused:
        panel(rows(outcome), ["x"], 12)
    assert refused.value.exit_code == 2
    assert "1 " in str(refused.value) or "other" in str(refused.value)


@fault("E3")
@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, np.inf, np.nan])
def test_a_label_that_lightgbm_would_take(label):
    outcome = np.array([0.0, 1.0] * 50)
    outcome[17] = label
    with pytest.raises(DataRefused, match="labels"):
        estimator.check(np.ones((100, 1)), outcome)


def selected(outcome):
    """Return what select makes of these outcomes and one feature."""
    return select.run(
        rows(outcome).astype({"outcome": "int8"}).assign(outcome_known_on=pd.Timestamp("2021-01-01")),
        pd.DataFrame({"name": ["x"], "kind": "numeric", "sentence": "x", "sentence_zh": "x", "unit": "", "direction": 0,
                      "family": "f", "sources": "s", "null_means": "", "definition_hash": "h"}),
        select.Params(),
    )  # fmt: skip


@fault("E1")
@pytest.mark.parametrize("outcome", [[0] * 200, [1] * 200, []])
def test_one_class_is_told_before_anything_is_trained(outcome):
    found = selected(outcome)
    assert "class" in json.dumps(found, default=str) or "no observation" in json.dumps(found, default=str)


@fault("E2")
@pytest.mark.parametrize("bads", [1, 5, 19])
def test_few_defaults_are_told(bads):
    outcome = np.zeros(400, int)
    outcome[:bads] = 1
    found = selected(outcome)
    assert "defaults among" in json.dumps(found, default=str)


@fault("E5")
@pytest.mark.parametrize("how", ["constant", "empty", "copy"])
def test_a_column_that_tells_nothing_goes_with_its_reason(how, draw):
    random = np.random.default_rng(draw.randrange(10**6))
    x = random.normal(size=600)
    other = {"constant": np.ones(600), "empty": np.full(600, np.nan), "copy": x}[how]
    outcome = (random.random(600) < 1 / (1 + np.exp(1 - x))).astype("int8")
    names = ["x", "y"]
    found = select.run(
        rows(outcome, x=x, y=other).assign(outcome_known_on=pd.Timestamp("2021-01-01")),
        pd.DataFrame({"name": names, "kind": "numeric", "sentence": names, "sentence_zh": names, "unit": "", "direction": 0,
                      "family": names, "sources": "s", "null_means": "", "definition_hash": names}),
        select.Params(),
    )  # fmt: skip
    reasons = found["reasons"].set_index("feature")
    assert sorted(reasons["kept"]) == [False, True]
    assert reasons.loc[~reasons["kept"], "reason"].str.len().gt(0).all()


@fault("E10")
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, np.nan, np.inf])
def test_a_pd_that_is_none_is_not_published(value):
    import pyarrow as pa

    from models.contract import TableContract, check_table

    contract = TableContract.from_json(
        Path(__file__).parents[2].joinpath("data/contracts/scored_customers.v1.json").read_text()
    )
    (column,) = [column for column in contract.columns if column.name == "pd_12m"]
    alone = contract.model_copy(update={"columns": (column,), "grain": ("pd_12m",), "order": ("pd_12m",), "rules": ()})
    problems = check_table(pa.table({"pd_12m": pa.array([0.5, value], pa.float64(), from_pandas=False)}), alone)
    if value in (0.0, 1.0):
        return  # M002 of the checks, which asks for the open interval
    assert problems


@fault("E10")
@pytest.mark.parametrize("invalid", [1, 400])
def test_a_pd_outside_the_open_interval_stops_publication(invalid):
    from models.checks import Limits, run_checks

    (found,) = [
        each
        for each in run_checks({"scores": {"customers": 400, "invalid_pd": invalid}}, Limits())
        if each["code"] == "M002"
    ]
    assert (found["severity"], found["answer"]) == ("stop", "found")


@fault("E10")
@pytest.mark.parametrize("slope", [-1.0, float("nan"), 0.0])
def test_a_calibrator_that_falls_or_is_no_number_is_refused(slope):
    text = Calibrator("platt", {"platt": [1.0, -0.5]}, (-8.0, 8.0), (-9.0, 7.0), (-8.0, 8.0), 0.9).to_json()
    broken = json.loads(text)
    next(part for part in broken.values() if isinstance(part, dict) and "platt" in part)["platt"][0] = slope
    with pytest.raises(IntegrityRefused):
        Calibrator.from_json(json.dumps(broken))


@fault("E11")
@pytest.mark.parametrize("key", ["trails", "learning_rte"])
def test_settings_of_the_search_that_are_none_are_refused(key):
    with pytest.raises(ValueError):
        TuneSettings.model_validate({key: 1})


@fault("E1", "E4")
def test_without_a_champion_publish_refuses_with_3_and_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "data/decide/summary.json": {}, "data/ingest/as_of.json": {"as_of": "2021-01-01"}, "data/monitor/checks.json": [],
        "data/contracts/scored_customers.v1.json": {}, "data/promote/verdict.json": {"reasons": ["only one class in fold 2"]},
    }.items():  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(value))
    Path("params.yaml").write_text("source: shop\n")
    with pytest.raises(GateRefused, match="only one class in fold 2") as refused:
        publish.write()
    assert refused.value.exit_code == 3
    assert not Path("data/publish").exists()
