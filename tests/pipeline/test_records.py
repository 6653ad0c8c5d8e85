"""Child records through the stages: featurise to explain, the bundle that scores them, and what cannot score by it."""

from __future__ import annotations

import datetime as dt
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workspaces import ROOT

from features.errors import ConfigurationRefused, DataRefused, IntegrityRefused
from models import records as record_models
from models.inputs import record_inputs
from models.scorer import Scorer
from pipeline import (
    applicant,
    asked,
    bundle,
    calibrate,
    evaluate,
    explain,
    featurise,
    params,
    promote,
    publish,
    records,
    score,
    select,
    train,
    tune,
)  # fmt: skip

NAMES = [f"transactions_record_score_{statistic}" for statistic in ("max", "mean", "last")]
CUSTOMERS = [f"c{number:03d}" for number in range(260)]
FEATURISE = {
    "windows_months": [1, 3], "lag_months": 1, "records": ["transactions"], "records_newest": 6,
    "leave_out": ["transactions_monthly", "transactions_receipts", "peers"],
}  # fmt: skip


def lay(folder, dates, *, known_after=365):
    """Write what ingest and observe would: who sends money to a casino in amounts that end on 7 defaults."""
    random = np.random.default_rng(3)
    first = np.datetime64(dates[0]) - 200
    span = int((np.datetime64("2023-06-01") - first).astype(int))
    count = 9_000
    category = random.choice(["rent", "food", "casino"], count)
    amount = random.integers(1, 900, count).astype(float)
    customer, day = random.integers(0, len(CUSTOMERS), count), random.integers(0, span, count)
    event = pa.array((first + day).astype("datetime64[D]")).cast(pa.date32())
    rows = pa.table(
        {
            "transaction_id": [f"t{number:05d}" for number in range(count)],
            "customer_id": pa.array([CUSTOMERS[number] for number in customer]),
            "event_on": event, "amount": pa.array(amount).cast(pa.decimal128(18, 2)), "category": category,
            "known_on": event,
        }
    )  # fmt: skip
    part = folder / "data/ingest/tables/transactions/known_month=2022-01"
    part.mkdir(parents=True)
    pq.write_table(rows, part / "part.parquet")
    (folder / "data/ingest/tables.json").write_text('{"transactions": {"numeric": [], "categorical": []}}')
    telling = (category == "casino") & (amount % 10 >= 5)
    observed = []
    for date in dates:
        ago = (np.datetime64(date) - first).astype(int) - day
        worst = np.bincount(customer, weights=telling & (ago > 0) & (ago < 60), minlength=len(CUSTOMERS)) > 0
        outcome = random.random(len(CUSTOMERS)) < np.where(worst, 0.45, 0.08)
        observed += list(zip([date] * len(CUSTOMERS), CUSTOMERS, outcome.astype(int).tolist(), strict=True))
    (folder / "data/observe").mkdir()
    known = [date + dt.timedelta(days=known_after) for date, _, _ in observed]
    training = {
        "customer_id": [each[1] for each in observed], "as_of": pa.array([each[0] for each in observed], pa.date32()),
        "outcome": pa.array([each[2] for each in observed], pa.int8()), "outcome_known_on": pa.array(known, pa.date32()),
    }  # fmt: skip
    pq.write_table(pa.table(training), folder / "data/observe/training.parquet")
    back = [(dt.date(2023, 6, 1), 0), (dt.date(2023, 5, 1), 1)]
    scoring = {
        "customer_id": CUSTOMERS * 2, "as_of": pa.array([d for d, _ in back for _ in CUSTOMERS], pa.date32()),
        "months_back": pa.array([m for _, m in back for _ in CUSTOMERS], pa.int32()),
    }  # fmt: skip
    pq.write_table(pa.table(scoring), folder / "data/observe/scoring.parquet")
    shutil.copytree(ROOT / "data/policy", folder / "data/policy")
    set_params(folder)


def set_params(folder, **featurise_section):
    given = {
        "source": "drawn", "featurise": FEATURISE | featurise_section, "select": {"min_bads": 10, "folds": 2},
        "tune": {"trials": 2, "max_rounds": 25, "repeats": 1}, "train": {"seeds": 1},
        "evaluate": {"folds": 2, "repeats": 1},
    }  # fmt: skip
    (folder / "params.yaml").write_text(json.dumps(given))


def digests(*folders):
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def by_time(tmp_path_factory):
    """A lender of nine quarters, run from featurise to explain."""
    folder = tmp_path_factory.mktemp("records")
    lay(folder, [day.date() for day in pd.date_range("2020-01-01", periods=9, freq="QS")])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(promote.tracking, "log_training", lambda *_, **__: None)
        patch.setattr(records, "AT_ONCE", 100)
        for name, few in (("ROUNDS", 12), ("FOLDS", 2), ("BLOCKS", 2)):
            patch.setattr(record_models, name, few)
        for stage in (featurise, select, tune, train, calibrate, evaluate, promote, score, explain):
            stage.main()
    return folder


@pytest.fixture
def here(by_time, monkeypatch):
    monkeypatch.chdir(by_time)
    return by_time


def test_the_scores_are_chosen_explained_and_in_the_bundle(here):
    files = bundle.read(bundle.SCORER)
    assert {"records.json", "records_transactions.txt"} < set(files)
    inputs = score.inputs_of(files)
    chosen = [each for each in inputs if each["kind"] == "record"]
    assert {each["name"] for each in chosen} <= set(NAMES)
    assert chosen
    assert all(0 < each["minimum"] < each["maximum"] < 1 for each in chosen)
    figures = json.loads((here / "data/evaluate/metrics.json").read_text())
    assert figures["kind"] == "out_of_time"
    assert figures["test.auc"] > 0.6
    told = json.loads((here / "data/explain/global.json").read_text())
    assert {each["name"] for each in chosen} <= {each["feature"] for each in told["features"]}
    reasons = pq.read_table(here / "data/explain/reasons.parquet").to_pandas()
    ours = reasons[reasons["code"] == "transactions_records"]
    assert ours["text"].str.contains("default risk", case=False).all()
    assert ours["value"].between(0, 1).all()
    assert (ours["typical"].str.endswith("%")).all()
    catalogue = pd.read_parquet("data/featurise/catalogue.parquet").set_index("name")
    assert (catalogue.loc[NAMES, "kind"] == "record").all()
    training = pd.read_parquet("data/featurise/training/features.parquet")
    rows = pd.read_parquet("data/featurise/training/records/transactions.parquet")
    assert rows["nth"].max() == FEATURISE["records_newest"]
    assert catalogue.loc[NAMES[0], "missing_share"] == pytest.approx(1 - (rows["nth"] == 1).sum() / len(training))
    assert not set(NAMES) & set(training)


def test_the_stage_scores_as_the_bundle_does_from_the_rows_themselves(here):
    """Rows read some at a time into columns, and rows laid in lists beside the features: the same PDs."""
    scorer = Scorer.from_files(bundle.read(bundle.SCORER))
    frame = pd.read_parquet(score.FEATURES)
    frame = records.attached(frame, score.FEATURES.parent, record_inputs(scorer.inputs))
    mixed = frame.sample(frac=1, random_state=1)
    again = scorer.score(mixed).loc[frame.index]
    scored = pd.read_parquet("data/score/scores.parquet")
    asked_for = frame[["customer_id", "as_of"]].assign(pd=again["pd"])
    both = scored.merge(asked_for, on=["customer_id", "as_of"], suffixes=("", "_again"), validate="1:1")
    assert (both["pd"] == both["pd_again"]).all()
    assert len(both) == len(scored) == 2 * len(CUSTOMERS)
    names = [each.name for each in scorer.inputs if each.kind == "record"]
    kept = pd.read_parquet("data/score/records.parquet")
    assert kept[names].notna().all(axis=1).mean() > 0.9
    with pytest.raises(IntegrityRefused, match=names[0]):
        scorer.score(frame.drop(columns="records of transactions"))
    reference = pd.read_parquet("data/promote/scorer/reference.parquet")
    assert reference[names].notna().mean().min() > 0.9


def test_what_reads_features_alone_says_that_it_cannot_score_by_it(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(asked, "published", lambda: bundle.read(bundle.SCORER))
    with pytest.raises(ConfigurationRefused, match="single rows of transactions") as refused:
        asked.score_file(score.FEATURES, tmp_path / "answer.csv")
    assert refused.value.exit_code == 4
    with pytest.raises(ConfigurationRefused, match="single rows of transactions"):
        applicant.score_folder(tmp_path, None, None, None)
    publish._write_statement(tmp_path)
    assert not list(tmp_path.iterdir())
    assert "no model.sql: the model must have features alone for inputs" in capsys.readouterr().out


def test_other_rows_than_the_model_s_are_refused_by_name(by_time, tmp_path, monkeypatch):
    folder = tmp_path / "other"
    shutil.copytree(by_time, folder)
    monkeypatch.chdir(folder)
    set_params(folder, records_newest=5)
    featurise.main()
    with pytest.raises(IntegrityRefused, match="transactions_record_score_") as refused:
        score.main()
    assert refused.value.exit_code == 7
    shutil.copytree(by_time / "data/featurise", folder / "data/featurise", dirs_exist_ok=True)
    (folder / "data/featurise/scoring/records/transactions.parquet").unlink()
    with pytest.raises(DataRefused, match="records/transactions"):
        score.main()
    path = bundle.SCORER / "records_transactions.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=1", 1))
    with pytest.raises(IntegrityRefused, match="records_transactions"):
        score.main()


def test_features_are_the_same_with_and_without(by_time, tmp_path, monkeypatch):
    folder = tmp_path / "without"
    shutil.copytree(by_time, folder, ignore=shutil.ignore_patterns("featurise"))
    monkeypatch.chdir(folder)
    set_params(folder, records=[])
    featurise.main()
    assert not list(folder.rglob("records"))
    for name in ("training/features.parquet", "scoring/features.parquet", "scoring/position.parquet"):
        assert (folder / "data/featurise" / name).read_bytes() == (by_time / "data/featurise" / name).read_bytes()
    named = pd.read_parquet("data/featurise/catalogue.parquet")
    full = pd.read_parquet(by_time / "data/featurise/catalogue.parquet")
    assert full.drop(index=full.index[full["kind"] == "record"]).equals(named)


@pytest.mark.slow
def test_where_the_split_is_random_the_recipe_fits_them_in_each_fold(tmp_path, monkeypatch):
    lay(tmp_path, [dt.date(2022, 1, 1)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record_models, "ROUNDS", 12)
    for stage in (featurise, select, tune, train, calibrate, evaluate):
        stage.main()
    figures = json.loads((tmp_path / "data/evaluate/metrics.json").read_text())
    assert figures["kind"] == "recipe_cross_validation"
    assert 0.4 < figures["test.auc"] < 1


def test_spark_refuses_records(tmp_path, monkeypatch):
    lay(tmp_path, [dt.date(2022, 1, 1)])
    monkeypatch.chdir(tmp_path)
    set_params(tmp_path, engine={"spark": "local[1]"})
    with pytest.raises(ConfigurationRefused, match="Spark") as refused:
        featurise.main()
    assert refused.value.exit_code == 4
    assert params.source_name() == "drawn"
