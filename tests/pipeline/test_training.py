"""The five training stages on small panels: by time, at random, and where nothing can be learned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from features.errors import ConfigurationRefused, DataRefused
from models.calibration import Calibrator
from models.scorer import FILES, Scorer, fingerprint
from pipeline import calibrate, evaluate, select, train, tune

ROOT = Path(__file__).parents[2]
QUICK = {"tune": {"trials": 4, "max_rounds": 40, "repeats": 1}, "train": {"seeds": 2}, "evaluate": {"repeats": 1}}
PARTS = ("train", "test")
STAGES = (select, tune, train, calibrate, evaluate)


def write_panel(folder, dates, customers=400, rate=0.15, seed=1):
    """Write a featurise/training folder: risk rises with `late days`, depends on branch, the rest is noise."""
    random = np.random.default_rng(seed)
    frame = pd.MultiIndex.from_product(
        [pd.to_datetime(dates), [f"c{n:05d}" for n in range(customers)]], names=["as_of", "customer_id"]
    ).to_frame(index=False)
    own = np.tile(random.normal(size=customers), len(dates))
    frame["late days"] = own + 0.5 * random.normal(size=len(frame))
    frame["noise"] = random.normal(size=len(frame))
    frame["flat"] = 1.0
    frame["branch"] = np.where(random.random(len(frame)) < 0.3, None, "centre")
    odds = rate / (1 - rate) * np.exp(1.3 * own - 0.5)
    frame["outcome"] = (random.random(len(frame)) < odds / (1 + odds)).astype("int8")
    closed = frame["as_of"] + pd.DateOffset(months=12)
    frame["outcome_known_on"] = closed.where(frame["outcome"] == 0, frame["as_of"] + pd.DateOffset(months=3))
    for name in ("as_of", "outcome_known_on"):
        frame[name] = frame[name].dt.date
    training = folder / "data/featurise/training"
    training.mkdir(parents=True)
    frame[["customer_id", "as_of", "outcome", "outcome_known_on", "late days", "noise", "flat", "branch"]].to_parquet(
        training / "features.parquet", index=False
    )
    names = ["late days", "noise", "flat", "branch"]
    catalogue = {
        "name": names, "kind": ["numeric"] * 3 + ["categorical"], "sentence": names, "sentence_zh": names, "unit": "",
        "direction": [1, 0, 0, 0], "family": "f", "sources": "s", "null_means": "", "definition_hash": names,
    }  # fmt: skip
    pd.DataFrame(catalogue).to_parquet(training / "catalogue.parquet", index=False)
    (folder / "params.yaml").write_text(json.dumps({"source": "drawn", **QUICK}))
    (folder / "data/policy").mkdir()
    shutil.copy(ROOT / "data/policy/standard.yaml", folder / "data/policy")


def run_all(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for stage in STAGES:
        stage.main()


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def bytes_of(folder):
    stages = ("select", "tune", "train", "calibrate", "evaluate")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for stage in stages
        for path in sorted((folder / "data" / stage).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def by_time(tmp_path_factory):
    folder = tmp_path_factory.mktemp("by_time")
    write_panel(folder, pd.date_range("2020-01-01", periods=8, freq="3MS"))
    with pytest.MonkeyPatch.context() as patch:
        run_all(folder, patch)
    return folder


@pytest.mark.fault("E12")
def test_by_time_the_promised_files_judge_rows_after_the_gap(by_time):
    plan = read(by_time / "data/select/features.json")["split"]
    assert plan["kind"] == "time"
    predictions = pd.read_parquet(by_time / "data/evaluate/predictions.parquet")
    parts = pd.read_parquet(by_time / "data/select/parts.parquet")
    tests = predictions[predictions["part"] == "test"]
    assert tests["as_of"].min().isoformat() == plan["test_from"]
    assert len(tests) == (parts["part"] == "test").sum()
    assert set(parts["part"]) == {"train", "gap", "test"}
    files = {
        name: (by_time / ("data/calibrate" if name == "calibrator.json" else "data/train") / name).read_bytes()
        for name in FILES
    }
    metrics = read(by_time / "data/evaluate/metrics.json")
    assert metrics["kind"] == "out_of_time"
    assert metrics["model_sha256"] == fingerprint(files)
    rows = pd.read_parquet(by_time / "data/featurise/training/features.parquet")
    rows = rows[rows["as_of"] >= tests["as_of"].min()].reset_index(drop=True)
    assert Scorer.from_files(files).probabilities(rows)["pd"].to_numpy() == pytest.approx(tests["pd"].to_numpy())
    assert metrics["test.auc_low"] < metrics["test.auc"] < metrics["test.auc_high"]
    assert metrics["test.auc"] > 0.65
    assert metrics["test.bads"] == tests["outcome"].sum()
    assert metrics["train.rows"] == (parts["part"] == "train").sum()


@pytest.mark.fault("E5")
def test_select_says_what_it_kept_and_test_rows_have_no_say(by_time, tmp_path, monkeypatch):
    reasons = pd.read_parquet(by_time / "data/select/reasons.parquet").set_index("feature")
    assert reasons.loc["flat", "reason"] == "constant"
    assert reasons["kept"].sum() == 3
    start = read(by_time / "data/select/features.json")["split"]["test_from"]
    frame = pd.read_parquet(by_time / "data/featurise/training/features.parquet")
    frame.loc[frame["as_of"].astype(str) >= start, "flat"] = np.arange((frame["as_of"].astype(str) >= start).sum())
    catalogue = pd.read_parquet(by_time / "data/featurise/training/catalogue.parquet")
    result = select.run(frame, catalogue, select.Params())
    assert not result["reasons"].set_index("feature").loc["flat", "kept"]


def test_the_model_carries_the_range_of_its_train_rows(by_time):
    parts = pd.read_parquet(by_time / "data/select/parts.parquet")
    rows = pd.read_parquet(by_time / "data/featurise/training/features.parquet")[parts["part"] == "train"]
    records = [each for each in read(by_time / "data/train/features.json")["features"] if each["kind"] == "numeric"]
    assert records
    for each in records:
        assert (each["minimum"], each["maximum"]) == (rows[each["name"]].min(), rows[each["name"]].max())


def test_the_same_input_gives_the_same_bytes(by_time, tmp_path, monkeypatch):
    write_panel(tmp_path, pd.date_range("2020-01-01", periods=8, freq="3MS"))
    run_all(tmp_path, monkeypatch)
    assert bytes_of(tmp_path) == bytes_of(by_time)
    assert len(bytes_of(tmp_path)) == 23


@pytest.mark.fault("E11")
def test_a_killed_search_resumes_and_ends_the_same(by_time, tmp_path, monkeypatch):
    write_panel(tmp_path, pd.date_range("2020-01-01", periods=8, freq="3MS"))
    monkeypatch.chdir(tmp_path)
    select.main()
    code = (
        "import os\nfrom pipeline import tune\nreal = tune.search\n"
        "def search(folds, study, settings, watch):\n"
        "    def kill(number, *_):\n        if number == 2: os._exit(9)\n"
        "    return real(folds, study, settings, kill)\n"
        "tune.search = search\ntune.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert killed.returncode == 9, killed.stderr
    journal = next((tmp_path / "data/journal/drawn").glob("*/trials.log"))
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "torn')
    (journal.parent / "trials.log.lock").symlink_to(journal)  # what a kill inside a write leaves
    tune.main()
    for name in ("parameters.json", "trials.parquet", "summary.json"):
        assert (tmp_path / "data/tune" / name).read_bytes() == (by_time / "data/tune" / name).read_bytes()


def test_plots_are_records_for_dvc(by_time):
    roc = read(by_time / "data/evaluate/plots/roc.json")
    assert roc[0] == {"false_positive_rate": 0.0, "true_positive_rate": 0.0}
    assert roc[-1] == {"false_positive_rate": 1.0, "true_positive_rate": 1.0}
    lift = read(by_time / "data/evaluate/plots/lift.json")
    assert lift[-1]["capture"] == pytest.approx(1)
    distribution = read(by_time / "data/evaluate/plots/score_distribution.json")
    metrics = read(by_time / "data/evaluate/metrics.json")
    assert sum(each["rows"] for each in distribution) == metrics["test.rows"]
    assert sum(each["bads"] for each in read(by_time / "data/evaluate/plots/calibration.json")) == metrics["test.bads"]


def test_challengers_stand_beside_the_model_on_the_same_rows(by_time):
    metrics = read(by_time / "data/evaluate/metrics.json")
    for kind in ("scorecard", "logistic"):
        gain = metrics["test.auc"] - metrics[f"challenger.{kind}.auc"]
        assert metrics[f"challenger.{kind}.auc_gain"] == pytest.approx(gain, abs=2e-6)
        assert 0.6 < metrics[f"challenger.{kind}.auc"] < 0.95
    cost = read(by_time / "data/train/summary.json")["auc_cost_of_directions"]
    assert cost["low"] <= cost["difference"] <= cost["high"]
    months = read(by_time / "data/evaluate/plots/by_month.json")
    assert sum(each["rows"] for each in months) == metrics["test.rows"]
    branches = read(by_time / "data/evaluate/plots/by_segment.json")
    assert {each["level"] for each in branches} <= {None, "centre"}


def test_without_dates_the_recipe_is_repeated_in_folds(tmp_path, monkeypatch):
    write_panel(tmp_path, ["2020-01-01"], customers=500)
    run_all(tmp_path, monkeypatch)
    metrics = read("data/evaluate/metrics.json")
    predictions = pd.read_parquet("data/evaluate/predictions.parquet")
    assert metrics["kind"] == "recipe_cross_validation"
    assert set(predictions["part"]) == {"cross_validation"}
    assert predictions["customer_id"].is_unique
    assert predictions["pd"].notna().all()
    assert metrics["test.rows"] == 500
    assert metrics["train.rows"] == 500
    assert 0.6 < metrics["test.auc"] < 0.95
    assert metrics["test.auc_high"] - metrics["test.auc_low"] > 0.05
    assert 0.6 < metrics["challenger.logistic.auc"] < 0.95
    assert pd.read_parquet("data/select/parts.parquet")["part"].eq("train").all()


@pytest.mark.parametrize(
    ("customers", "rate", "why"), [(300, 0.0, "one class"), (60, 0.1, "defaults among"), (0, 0.1, "no observation")]
)
@pytest.mark.fault("E1", "E2")
def test_what_cannot_train_is_recorded_by_every_stage(tmp_path, monkeypatch, customers, rate, why):
    write_panel(tmp_path, ["2020-01-01"], customers=customers, rate=rate)
    run_all(tmp_path, monkeypatch)
    for path in (
        "select/features.json", "tune/parameters.json", "tune/summary.json", "train/features.json",
        "train/summary.json", "calibrate/summary.json", "evaluate/metrics.json",
    ):  # fmt: skip
        record = read(Path("data") / path)
        assert record["trained"] is False, path
        assert why in record["why"], path
    assert not Path("data/train/booster.txt").exists()
    assert pd.read_parquet("data/evaluate/predictions.parquet").empty
    assert read("data/evaluate/plots/roc.json") == []


def test_a_number_overrides_the_tuned_learning_rate(by_time, monkeypatch):
    monkeypatch.chdir(by_time)
    before = read("data/train/summary.json")
    kept = {path: path.read_bytes() for path in Path("data/train").rglob("*") if path.is_file()}
    params = read("params.yaml")
    try:
        Path("params.yaml").write_text(json.dumps({**params, "train": {"seeds": 2, "learning_rate": 0.05}}))
        train.main()
        after = read("data/train/summary.json")
        assert after["learning_rate"] == 0.05
        assert after["rounds"] == 2 * before["rounds"]
    finally:
        Path("params.yaml").write_text(json.dumps(params))
        for path, content in kept.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def test_the_policy_s_long_run_rate_anchors_level_and_figures_but_no_ranking(by_time, tmp_path, monkeypatch):
    folder = tmp_path / "anchored"
    shutil.copytree(by_time, folder)
    monkeypatch.chdir(folder)
    policy = Path("data/policy/standard.yaml")
    document = yaml.safe_load(policy.read_text())
    document["policy"]["long_run_default_rate"]["values"] |= {"2020-07-01": 0.04, "2026-01-02": 0.5}
    policy.write_text(yaml.safe_dump(document))
    before = {part: pd.read_parquet("data/evaluate/predictions.parquet").query(f"part == {part!r}") for part in PARTS}
    calibrate.main()
    evaluate.main()
    frame = pd.read_parquet("data/train/out_of_fold.parquet").dropna(subset="margin")
    curve = Calibrator.from_json(Path("data/calibrate/calibrator.json").read_bytes())
    assert curve.pd(frame["margin"].to_numpy()).mean() == pytest.approx(
        0.04
    )  # of where training ends, not of a later day
    assert read("data/calibrate/summary.json")["anchor_log_odds"] < -0.5
    for part in PARTS:
        after = pd.read_parquet("data/evaluate/predictions.parquet").query(f"part == {part!r}")
        assert after["pd"].mean() == pytest.approx(0.04, rel=0.25)
        assert before[part]["pd"].mean() > 0.1
        if part == "test":
            assert (after["pd"].rank().to_numpy() == before[part]["pd"].rank().to_numpy()).all()
    was, metrics = read(by_time / "data/evaluate/metrics.json"), read("data/evaluate/metrics.json")
    assert metrics["test.auc"] == was["test.auc"]
    assert metrics["test.calibration_slope"] == pytest.approx(was["test.calibration_slope"], abs=1e-4)
    assert metrics["test.calibration_intercept"] > was["test.calibration_intercept"] + 0.5
    assert metrics["long_run_default_rate"] == 0.04


def test_the_long_run_rate_stands_in_the_policy_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text('{"source": "drawn", "calibrate": {"long_run_default_rate": 0.04}}')
    with pytest.raises(ConfigurationRefused, match="lending policy"):
        calibrate.main()


def test_an_unknown_key_and_a_missing_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("source: drawn\ntune: {trails: 4}\n")
    with pytest.raises(ConfigurationRefused, match=r"tune\.trails"):
        tune.main()
    with pytest.raises(DataRefused, match="no such file"):
        select.main()


@pytest.mark.fault("E3", "C4")
def test_an_infinite_feature_is_refused_by_name(tmp_path, monkeypatch):
    write_panel(tmp_path, ["2020-01-01"])
    monkeypatch.chdir(tmp_path)
    path = Path("data/featurise/training/features.parquet")
    frame = pd.read_parquet(path)
    frame.loc[3, "noise"] = np.inf
    frame.to_parquet(path, index=False)
    with pytest.raises(DataRefused, match="feature noise: must be finite"):
        select.main()
