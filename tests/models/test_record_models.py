"""Record models: what they learn from, what they never see, and how rows become one value an observation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.errors import IntegrityRefused
from models import encoders, records
from models.inputs import Input, carriers, inputs_from_catalogue, panel, rows_of
from models.splits import grouped_folds_of

TABLE = "visits"
NAMES = [f"{TABLE}_record_score_{statistic}" for statistic in records.STATISTICS]
INPUTS = inputs_from_catalogue(
    pd.DataFrame([{"name": n, "kind": "record", "direction": 1, "family": "f", "definition_hash": n} for n in NAMES])
)
DATES = pd.date_range("2019-01-01", periods=12, freq="QS")


def lists(cells: list[list[dict[str, object]] | None]) -> pd.Series:
    kind = pa.list_(pa.struct([("length", pa.float64()), ("channel", pa.string())]))
    return pd.Series(pa.array(cells, kind), dtype=pd.ArrowDtype(kind))


def drawn(seed: int = 1, customers: int = 120, *, in_time: bool = False):
    """Risk rises with the greatest length among a customer's rows; every seventh observation has none."""
    random = np.random.default_rng(seed)
    count = len(DATES) * customers
    cells: list[list[dict[str, object]] | None] = []
    for place, few in enumerate(random.integers(1, 6, count)):
        lengths = random.normal(size=few)
        of = [{"length": float(each), "channel": "web" if each > 0 else "shop"} for each in lengths]
        cells.append(None if place % 7 == 0 else of)
    worst = np.array([max((each["length"] for each in cell), default=0.0) if cell else 0.0 for cell in cells])
    frame = pd.DataFrame(
        {
            "customer_id": np.tile([f"c{n:04d}" for n in range(customers)], len(DATES)),
            "as_of": np.repeat(DATES, customers),
            "outcome": (random.random(count) < 1 / (1 + np.exp(2.0 - 1.5 * worst))).astype(int),
        }
    )
    frame["outcome_known_on"] = frame["as_of"] + pd.DateOffset(months=12) - pd.Timedelta(days=1)
    frame[rows_of(TABLE)] = lists(cells)
    return panel(frame, carriers(INPUTS), 12, in_time=in_time)


def test_rows_become_the_greatest_the_mean_and_the_newest_score():
    column = lists([[{"length": 1.0}, {"length": 3.0}], None, [], [{"length": 2.0}]])
    flat = records.Flat.of(column)
    assert flat.owner.tolist() == [0, 0, 3]
    found = flat.summed(np.array([0.1, 0.5, 0.2]), 4)
    assert found["max"].tolist()[::3] == [0.5, 0.2]
    assert found["mean"].tolist()[::3] == pytest.approx([0.3, 0.2])
    assert found["last"].tolist()[::3] == [0.1, 0.2]
    assert all(np.isnan(found[name][1:3]).all() for name in records.STATISTICS)
    sliced = records.Flat.of(column.iloc[[3, 0]].reset_index(drop=True))
    assert sliced.rows.field("length").to_pylist() == [2.0, 1.0, 3.0]


def test_a_signal_in_single_rows_is_found_by_customers_not_seen():
    rows = drawn()
    coder, matrix = encoders.fit_matrix(rows, INPUTS, 20.0, 1)
    asked = drawn(seed=2)
    scores = coder.matrix(asked.features, INPUTS)
    for found, outcome in ((matrix[:, 0], rows.outcome), (scores[:, 0], asked.outcome)):
        known = ~np.isnan(found)
        assert known.mean() == pytest.approx(6 / 7, abs=0.01)
        ranks = pd.Series(found[known]).rank().to_numpy()
        bad = outcome[known] == 1
        area = (ranks[bad].mean() - (bad.sum() + 1) / 2) / (~bad).sum()
        assert area > 0.7
    assert (matrix[:, 0] >= matrix[:, 1])[~np.isnan(matrix[:, 0])].all()


@pytest.mark.parametrize("in_time", [False, True])
def test_a_score_equals_that_of_a_model_fitted_apart(in_time, monkeypatch):
    """An oracle: of each customer fold and block of dates, the model of the rows that may teach it, fitted alone."""
    monkeypatch.setattr(records, "ROUNDS", 8)
    rows = drawn(in_time=in_time)
    made = encoders.fit(rows, INPUTS, 20.0).records[TABLE]
    found = records.out_of_fold(rows, TABLE, made, 1)["max"]
    fold = grouped_folds_of(rows.customer, np.zeros(len(rows)), records.FOLDS, 1 + 7919)
    dates = np.unique(rows.as_of)
    for number in range(records.FOLDS):
        others, able = fold != number, []
        for date in dates if in_time else []:
            known = rows.outcome[others & (rows.learned <= date)]
            if min(known.sum(), len(known) - known.sum()) >= records.LEAST:
                able.append(date)
        blocks = np.array_split(able, records.BLOCKS) if in_time else [None]
        seen = np.zeros(len(rows), bool)
        for block in blocks:
            teach = others if block is None else others & (rows.learned <= block[0])
            ask = (fold == number) & (True if block is None else np.isin(rows.as_of, block))
            part = rows.take(teach)
            alone = replace(made, booster=records._Lesson.of(part, TABLE, made).learned(np.ones(len(part), bool)))
            expected = alone.scores(rows.take(ask).features[rows_of(TABLE)])["max"]
            assert np.array_equal(found[ask], expected, equal_nan=True)
            seen |= ask
        assert np.isnan(found[(fold == number) & ~seen]).all()
    assert np.isfinite(found).mean() > 0.3


def test_files_give_the_model_back_and_name_no_value(tmp_path):
    rows = drawn(customers=60)
    models = encoders.fit(rows, INPUTS, 20.0).records
    texts = records.files(models)
    assert sorted(texts) == records.names_of([*texts, "booster.txt"]) == ["records.json", "records_visits.txt"]
    assert "web" not in "".join(texts.values())
    given = {name: text.encode() for name, text in texts.items()}
    read = records.from_files(given)
    column = rows.features[rows_of(TABLE)]
    for name, values in models[TABLE].scores(column).items():
        assert np.array_equal(read[TABLE].scores(column)[name], values, equal_nan=True)
    assert records.from_files({}) == {}
    for name in given:
        with pytest.raises(IntegrityRefused):
            records.from_files({**given, name: given[name][: len(given[name]) // 2]})
    with pytest.raises(IntegrityRefused):
        records.from_files({"records.json": given["records.json"]})


def test_where_nothing_can_be_learned_every_score_is_null():
    rows = drawn(customers=20)
    none = replace(rows, features=pd.DataFrame({rows_of(TABLE): lists([None] * len(rows))}))
    one = replace(rows, outcome=np.where(rows.features[rows_of(TABLE)].isna(), rows.outcome, 0).astype("int8"))
    for given in (none, one):
        coder, matrix = encoders.fit_matrix(given, INPUTS, 20.0, 1)
        assert np.isnan(matrix).all()
        again = records.from_files({name: text.encode() for name, text in records.files(coder.records).items()})
        assert again == coder.records
        assert np.isnan(coder.matrix(rows.features, INPUTS)).all()


def test_beyond_so_many_rows_whole_customers_are_left_out(monkeypatch):
    rows = drawn()
    sizes = []
    real = records.estimator.dataset
    monkeypatch.setattr(
        records.estimator, "dataset", lambda m, *rest, **k: (sizes.append(len(m)), real(m, *rest, **k))[1]
    )
    monkeypatch.setattr(records, "MOST_ROWS", 1500)
    first = records.fit(rows, TABLE)
    assert 1300 < sizes[0] <= 1500
    turned = replace(rows, outcome=(1 - rows.outcome).astype("int8"))
    records.fit(turned, TABLE)
    assert sizes[1] == sizes[0], "who is left out does not depend on outcomes"
    assert records.fit(rows, TABLE) == first


def test_scores_by_name_stand_in_for_rows():
    rows = drawn(customers=60)
    coder = encoders.fit(rows, INPUTS, 20.0)
    matrix = coder.matrix(rows.features, INPUTS)
    by_name = pd.DataFrame(matrix, columns=NAMES)
    assert np.array_equal(coder.matrix(by_name, INPUTS), matrix, equal_nan=True)
    some: tuple[Input, ...] = INPUTS[2:]
    assert np.array_equal(coder.matrix(rows.features, some), matrix[:, 2:], equal_nan=True)
