"""Training on a cluster of two workers: the same recipe, an AUC within .002, and plain refusals."""

import numpy as np
import pandas as pd
import pytest

from features.errors import ServiceRefused
from models import cluster, estimator, metrics
from models.inputs import Input, numbered, panel
from models.recipe import TrainSettings, train
from models.splits import fold_indices, grouped_folds
from models.tuning import Tuned

GIVEN = {"num_leaves": 8, "min_data_in_leaf": 20, "feature_fraction": 0.8, "bagging_fraction": 0.8, "lambda_l2": 5.0}


def drawn(rows: int, seed: int):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 6)), columns=list("abcdef")).mask(random.random((rows, 6)) < 0.05)
    risk = frame[["a", "b"]].fillna(0).sum(axis=1) - 1.5
    outcome = (random.random(rows) < 1 / (1 + np.exp(-risk))).astype(int)
    frame = frame.assign(outcome=outcome, as_of=pd.Timestamp("2020-01-01"))
    frame["customer_id"] = [f"c{n:06d}" for n in range(rows)]
    return panel(frame, list("abcdef"), 12)


@pytest.fixture(scope="module")
def scheduler():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as local:
        yield local.scheduler_address


def test_a_model_trained_on_two_workers_is_as_good_as_one_trained_here(scheduler):
    """12,000 rows train, 12,000 others are asked; the inputs of the text and the constraints are those given."""
    rows, asked = drawn(12_000, 1), drawn(12_000, 2)
    inputs = numbered(Input(name, "", "numeric", int(name == "a"), "", "") for name in "abcdef")
    folds = fold_indices(rows, grouped_folds(rows, 2, 1), "grouped")[:1]
    tuned = Tuned(GIVEN, 0.1, 60, 0.0, 0.0, 1, 7, monotone=True, smoothing=20.0)
    areas, margins = [], []
    for address in (None, scheduler):
        trained = train(rows, inputs, folds, tuned, TrainSettings(cluster=address, seeds=1))
        booster = estimator.load(trained.booster, [each.column for each in inputs])
        margins.append(estimator.margins(booster, trained.encoders.matrix(asked.features, inputs)))
        areas.append(metrics.auc(asked.outcome, margins[-1]))
        assert np.isfinite(trained.margin[folds[0][1]]).all()
        assert booster.num_trees() == 60
    assert areas[0] > 0.75
    assert abs(areas[0] - areas[1]) < 0.002
    assert np.corrcoef(*margins)[0, 1] > 0.98
    assert "machines" not in trained.booster.partition("end of trees")[2]


def test_an_address_where_nobody_answers_is_refused_as_a_service(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(ServiceRefused, match="address of a scheduler"), cluster.connected("tcp://127.0.0.1:9"):
        pass
