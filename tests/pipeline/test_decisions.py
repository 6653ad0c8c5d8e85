"""score, explain and decide on a small book: what they write, that bytes repeat, and what they refuse."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import shutil
from pathlib import Path

import duckdb
import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from features.errors import ConfigurationRefused, IntegrityRefused
from models.calibration import Calibrator
from models.contract import PENDING, TableContract, check_table
from models.encoders import fit_matrix
from models.grades import Scale
from models.inputs import inputs_from_catalogue, panel
from models.scorer import Scorer
from pipeline import asked, bundle, decide, explain, explainer, lending, score, what_if
from pipeline.__main__ import main

ROOT = Path(__file__).parents[2]
DRAWN = explain.pictures.drawn
CUSTOMERS, DATES = 120, 13
MONTHS = [np.datetime64("2026-01") - back for back in range(DATES)]
CATALOGUE = pd.DataFrame(
    [
        ("use", "numeric", "Share of the limit drawn", "额度使用率", "share", 1, "use", "h1"),
        ("use_mean", "numeric", "Mean share of the limit drawn", "平均额度使用率", "share", 1, "use", "h2"),
        ("late", "numeric", "Days past due", "逾期天数", "days", 1, "lateness", "h3"),
        ("trade", "categorical", "Line of business", "行业", "", 0, "trade", "h4"),
        ("noise", "numeric", "Nothing", "无", "money", 0, "noise", "h5"),
    ],
    columns=["name", "kind", "sentence", "sentence_zh", "unit", "direction", "family", "definition_hash"],
)


def rows(seed):
    """Return features of every customer at every date, some values missing, sorted by as_of and customer."""
    rng = np.random.default_rng(seed)
    count = CUSTOMERS * DATES
    frame = pd.DataFrame(
        {
            "customer_id": np.tile([f"c{i:03d}" for i in range(CUSTOMERS)], DATES),
            "as_of": np.repeat([month.astype("M8[D]").astype(object) for month in MONTHS], CUSTOMERS),
            "months_back": np.repeat(np.arange(DATES), CUSTOMERS).astype("int32"),
            "use": rng.random(count).round(3), "use_mean": rng.random(count).round(3),
            "late": rng.integers(0, 60, count).astype(float),
            "trade": rng.choice(["food", "retail", "=cmd"], count), "noise": rng.normal(0, 1000, count),
        }
    )  # fmt: skip
    for name in ("use", "late", "trade"):
        frame.loc[rng.random(count) < 0.1, name] = None
    return frame.sort_values(["as_of", "customer_id"], ignore_index=True)


def trained_files():
    """Return a bundle's files, trained on 2025's rows of another seed; its first two rows are in the book too."""
    rng = np.random.default_rng(1)
    frame = rows(7).drop(columns="months_back")
    risk = 2 * frame["use"].fillna(0.5) + frame["late"].fillna(0) / 30 + (frame["trade"] == "food")
    frame["outcome"] = (risk + rng.normal(0, 1, len(frame)) > 3).astype("int8")
    inputs = inputs_from_catalogue(CATALOGUE)
    given = panel(frame, [each.name for each in inputs], 12)
    encoders, matrix = fit_matrix(given, inputs, 10.0, 1)
    columns = [each.column for each in inputs]
    booster = lgb.train(
        {"objective": "binary", "num_leaves": 7, "verbosity": -1, "deterministic": True, "num_threads": 1},
        lgb.Dataset(matrix, given.outcome, feature_name=columns), 15,
    )  # fmt: skip
    curve = Calibrator("platt", {"platt": [1.0, -0.5]}, (-8.0, 8.0), (-9.0, 7.0), (-8.0, 8.0), 0.9)
    good = frame[frame["outcome"] == 0]
    keys = sorted(hashlib.sha256(f"{c}|{d}".encode()).hexdigest() for c, d in [("c000", MONTHS[0]), ("c001", MONTHS[1])]
                  for d in [d.astype("M8[D]")])  # fmt: skip
    return {
        "booster.txt": booster.model_to_string().encode(),
        "encoders.json": encoders.to_json().encode(),
        "features.json": json.dumps({"features": [each.record() for each in inputs]}).encode(),
        "calibrator.json": curve.to_json().encode(),
        "grades.json": Scale().to_json().encode(),
        "catalogue.parquet": parquet(pa.Table.from_pandas(CATALOGUE, preserve_index=False)),
        "reference.parquet": parquet(
            pa.Table.from_pandas(good[[*CATALOGUE["name"], "outcome"]].head(200), preserve_index=False)
        ),
        "trained_on.parquet": parquet(pa.table({"key": keys})),
    }


def parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def position_of(frame):
    """Return facts of the same rows; customer c000 is known by nothing, c001 has defaulted elsewhere."""
    rng = np.random.default_rng(3)
    count = len(frame)
    nothing = (frame["customer_id"] == "c000").to_numpy()

    def money(values):
        return pa.array(np.round(values, 2), mask=nothing).cast(pa.decimal128(18, 2))

    inflow = np.exp(rng.normal(8, 0.5, count))
    silent = np.array([dt.timedelta(days=int(d)) for d in rng.integers(1, 80, count)])
    return pa.table(
        {
            "customer_id": pa.array(frame["customer_id"], pa.string()), "as_of": pa.array(frame["as_of"], pa.date32()),
            "months_back": pa.array(frame["months_back"], pa.int32()),
            "kind": pa.array(rng.choice(["person", "company"], count), mask=nothing),
            "exposure": money(inflow * rng.normal(1, 1, count)), "credit_limit": money(inflow * 2),
            "days_past_due": pa.array(rng.integers(0, 20, count), pa.int32(), mask=nothing),
            "months_of_history": pa.array(rng.integers(0, 60, count), pa.int32(), mask=nothing),
            "monthly_inflow": money(inflow),
            "bureau_default": pa.array((frame["customer_id"] == "c001").to_numpy(), mask=nothing),
            "last_event_on": pa.array(np.array(frame["as_of"]) - silent, pa.date32(), mask=nothing),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A folder with everything that the three stages read."""
    folder = tmp_path_factory.mktemp("book")
    for name in ("featurise/scoring", "promote", "ingest", "observe"):
        (folder / "data" / name).mkdir(parents=True)
    for name in ("policy", "contracts"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    shutil.copy(ROOT / "data/overrides.csv", folder / "data")
    (folder / "params.yaml").write_text("source: simulated\n")
    frame = rows(8)
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False), folder / "data/featurise/scoring/features.parquet"
    )
    pq.write_table(position_of(frame), folder / "data/featurise/scoring/position.parquet")
    CATALOGUE.to_parquet(folder / "data/featurise/catalogue.parquet")
    (folder / "data/ingest/as_of.json").write_text('{"as_of": "2026-01-01", "currency": "EUR"}')
    (folder / "data/ingest/ledger.json").write_text("{}")
    (folder / "data/observe/summary.json").write_text('{"horizon_months": 12}')
    (folder / "data/promote/verdict.json").write_text('{"reasons": ["too few defaults"]}')
    bundle.write(folder / bundle.SCORER, trained_files(), model_version="m1", source="simulated", experiment=False)
    return folder


@pytest.fixture
def here(book, tmp_path, monkeypatch):
    """A copy of the book as working directory."""
    folder = tmp_path / "work"
    shutil.copytree(book, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(explain.pictures, "drawn", lambda *_: {})  # a second and a half each time
    return folder


def run_all():
    score.main()
    explain.main()
    decide.main()


def test_every_customer_is_scored_decided_and_explained_within_the_contract(here):
    """Customers in = customers out, at all dates; the table keeps its contract; two customers trained the model."""
    run_all()
    scores = pq.read_table("data/score/scores.parquet")
    assert scores.schema.equals(score.SCHEMA)
    assert scores.num_rows == CUSTOMERS * DATES
    trained = scores.filter(scores["in_training"]).select(["customer_id", "months_back"]).to_pylist()
    assert trained == [{"customer_id": "c000", "months_back": 0}, {"customer_id": "c001", "months_back": 1}]
    table = pq.read_table("data/decide/table.parquet")
    contract = TableContract.from_json(Path("data/contracts/scored_customers.v1.json").read_bytes())
    assert check_table(table, contract, pending=PENDING, enumerations={"grades": Scale().names}) == []
    assert table["customer_id"].to_pylist() == [f"c{i:03d}" for i in range(CUSTOMERS)]
    assert set(table["model_version"].to_pylist()) == {"m1"}
    summary = json.loads(Path("data/decide/summary.json").read_text())
    assert summary["contract_problems"] == []
    assert summary["horizon_months"] == 12
    assert summary["policy"] == "data/policy/standard.yaml"
    assert sum(summary["by_action"].values()) == CUSTOMERS


def test_what_is_unknown_stays_null_and_is_never_dropped(here):
    """c000 has no facts at all: scored, no limit, no exposure, no loss; reviewed, or worse where the PD says so."""
    run_all()
    first = pq.read_table("data/decide/table.parquet").slice(0, 1).to_pylist()[0]
    assert first["customer_id"] == "c000"
    assert first["pd_12m"] > 0
    for name in ("exposure", "expected_loss", "credit_limit", "credit_limit_recommended", "months_of_history"):
        assert first[name] is None
    assert first["limit_rule"].startswith("no_basis; assumed lgd:person, kind")
    assert first["action"] == ("prepay" if first["payment_term_days"] == 0 else "review")
    second = pq.read_table("data/decide/table.parquet").slice(1, 1).to_pylist()[0]
    assert second["action"] == "stop"
    assert second["limit_rule"].startswith("stop_default")
    assert second["alerts"].startswith("BUREAU_DEFAULT")


def test_earlier_grades_are_those_of_the_same_model_at_the_earlier_dates(here):
    """Oracle: SQL over the scores."""
    run_all()
    broken = duckdb.sql(
        """
        select count(*) from 'data/decide/table.parquet' t
        left join 'data/score/scores.parquet' s1 on s1.customer_id = t.customer_id and s1.months_back = 1
        left join 'data/score/scores.parquet' s12 on s12.customer_id = t.customer_id and s12.months_back = 12
        where t.grade_previous is distinct from s1.grade or t.grade_12m is distinct from s12.grade
           or t.grade_change is distinct from
              list_position($names, s1.grade)::int - list_position($names, t.grade)::int
        """,
        params={"names": list(Scale().names)},
    ).fetchone()
    assert broken == (0,)


def test_missing_and_out_of_range_are_counted_against_the_reference(here):
    """Oracle: SQL over features and reference."""
    Path("reference.parquet").write_bytes(bundle.read(bundle.SCORER)["reference.parquet"])
    score.main()
    outside = " + ".join(
        f"coalesce((f.{n} < (select min({n}) from 'reference.parquet') or f.{n} > (select max({n}) from "
        "'reference.parquet'))::int, 0)"
        for n in ("use", "use_mean", "late", "noise")
    )
    missing = " + ".join(f"(f.{n} is null)::int" for n in CATALOGUE["name"])
    found = duckdb.sql(
        f"""select count(*) filter (s.out_of_range <> {outside}), count(*) filter (abs(s.missing_share - ({missing}) / 5) > 1e-12),
        sum(s.out_of_range) > 0 and sum(s.missing_share) > 0
        from 'data/score/scores.parquet' s join 'data/featurise/scoring/features.parquet' f using (customer_id, as_of)"""
    ).fetchone()
    assert found == (0, 0, True)


@pytest.mark.fault("E9")
def test_reasons_add_up_to_the_margin(here):
    """Points of all families, told or not, are margin minus mean reference margin: here from LightGBM's own values."""
    files = bundle.read(bundle.SCORER)
    scorer = Scorer.from_files(files)
    frame = pq.read_table(score.FEATURES, filters=pc.field("months_back") == 0).to_pandas()
    reference = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
    found = explainer.contributor(scorer.booster, "kernel")(scorer.matrix(frame))
    lightgbms = explainer.contributor(scorer.booster, "lightgbm")
    assert np.abs(found - lightgbms(scorer.matrix(frame))).max() < 1e-9
    usual = lightgbms(scorer.matrix(reference))
    gap = scorer.margins(frame) - scorer.margins(reference).mean()
    assert np.abs((found - usual.mean(axis=0)).sum(axis=1) - gap).max() < 1e-9


def test_reasons_are_different_families_and_reach_the_table(here):
    """Ranks without gaps, falling points; the table's columns are explain's rows."""
    run_all()
    reasons = pd.read_parquet("data/explain/reasons.parquet")
    assert len(reasons) > CUSTOMERS
    assert not reasons.duplicated(["customer_id", "code"]).any()
    assert (reasons.groupby("customer_id")["rank"].max() == reasons.groupby("customer_id").size()).all()
    assert (reasons["points"] >= 0.5).all()
    table = pd.read_parquet("data/decide/table.parquet").set_index("customer_id")
    for k in range(1, 5):
        chosen = reasons[reasons["rank"] == k].set_index("customer_id")
        assert table[f"reason_{k}_code"].dropna().to_dict() == chosen["code"].to_dict()
        assert table[f"reason_{k}_value"].dropna().to_dict() == chosen["value_text"].to_dict()
        assert table[f"reason_{k}_points"].dropna().to_dict() == chosen["points"].to_dict()
    families = json.loads(Path("data/explain/global.json").read_text())["families"]
    weights = [family["importance"] for family in families]
    assert weights == sorted(weights, reverse=True)


def test_it_is_measured_whether_reasons_hold(here, monkeypatch):
    """With the rows that trained the model: agreement and counterfactual; without them, the reason why not."""
    explain.main()
    held = json.loads(Path("data/explain/soundness.json").read_text())
    assert held["customers"] == CUSTOMERS
    assert held["agreement"] == {"measured": False, "why": "there are no training rows"}
    assert held["counterfactual"]["reasons"] == pq.read_table("data/explain/reasons.parquet").num_rows
    assert held["counterfactual"]["feature"]["lowered"] > 0.8
    frame = rows(7).drop(columns="months_back")
    frame["outcome"] = (frame["use"].fillna(0.5) * 2 + frame["late"].fillna(0) / 30 > 2).astype("int8")
    Path("data/featurise/training").mkdir()
    Path("data/select").mkdir()
    Path("data/select/features.json").write_text('{"split": {"kind": "random", "horizon_months": 12}}')
    frame["as_of"] = frame["as_of"].astype("datetime64[ms]")
    frame.to_parquet(explain.TRAINING)
    files = bundle.read(bundle.SCORER)
    text = frame["as_of"].dt.strftime("%Y-%m-%d")
    keys = [hashlib.sha256(f"{c}|{d}".encode()).hexdigest() for c, d in zip(frame["customer_id"], text, strict=True)]
    files["trained_on.parquet"] = parquet(pa.table({"key": sorted(keys)}))
    bundle.write(bundle.SCORER, files, model_version="m1", source="simulated", experiment=False)
    monkeypatch.setattr(explain.pictures, "drawn", DRAWN)
    Path("params.yaml").write_text("source: simulated\nexplain: {refit_rows: 400, tried_customers: 50}\n")
    explain.main()
    held = json.loads(Path("data/explain/soundness.json").read_text())
    agreed = held["agreement"]
    assert held["customers"] == 50
    assert agreed["train_rows"] == 400 // DATES * DATES  # whole customers
    assert agreed["train_rows_of_model"] == len(frame)
    assert agreed["all"]["first_by_chance"] < agreed["all"]["first"] <= agreed["all"]["first_among_four"] <= 1
    before = content("data/explain")
    assert {"families.png", "beeswarm.png", "dependence_1.png"} <= {Path(name).name for name in before}
    explain.main()
    assert content("data/explain") == before


def test_what_moved_the_score_adds_up_and_a_date_agrees_with_itself(here):
    """The change of the average margin, here from the scorer itself, is the sum of what the families brought."""
    explain.main()
    held = json.loads(Path("data/explain/soundness.json").read_text())
    shift = held["shift"]
    frame = pq.read_table(score.FEATURES).to_pandas()
    margins = Scorer.from_files(bundle.read(bundle.SCORER)).margins(frame)
    mean = {back: margins[(frame["months_back"] == back).to_numpy()].mean() for back in (0, shift["back"])}
    assert shift["margin_now"] - shift["margin_then"] == pytest.approx(mean[0] - mean[shift["back"]], abs=1e-7)
    assert sum(each["log_odds"] for each in shift["families"]) == pytest.approx(mean[0] - mean[shift["back"]], abs=1e-7)
    assert shift["points"] * (mean[0] - mean[shift["back"]]) < 0  # more risk, fewer points
    assert held["months"]["1"]["customers"] == CUSTOMERS
    assert 0 < held["months"]["12"]["first"] <= held["months"]["12"]["first_among_four"] <= 1
    same = pq.read_table(score.FEATURES, filters=pc.field("months_back") == 0)
    then = [same.set_column(2, "months_back", pa.array([b] * same.num_rows, same["months_back"].type)) for b in (0, 1)]
    assert same.column_names[2] == "months_back"
    pq.write_table(pa.concat_tables(then), score.FEATURES)
    explain.main()
    held = json.loads(Path("data/explain/soundness.json").read_text())
    assert held["months"]["1"]["first"] == held["months"]["1"]["shared"] == 1.0
    assert held["shift"]["points"] == pytest.approx(0, abs=1e-9)


def test_chinese(here):
    """One parameter changes every sentence."""
    Path("params.yaml").write_text("source: simulated\nlanguage: zh\n")
    score.main()
    explain.main()
    text = pd.read_parquet("data/explain/reasons.parquet")["text"]
    assert text.str.contains("（通常：", regex=False).all()


def content(folder):
    return {path.as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_bytes_repeat_and_do_not_depend_on_chunks_or_the_order_of_rows(here):
    """The second run has other chunks, and features and positions in reverse order."""
    run_all()
    before = {name: content(f"data/{name}") for name in ("score", "explain", "decide")}
    Path("params.yaml").write_text("source: simulated\nscore: {rows_at_a_time: 37}\nexplain: {rows_at_a_time: 41}\n")
    for name in ("features", "position"):
        path = f"data/featurise/scoring/{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), path)
    run_all()
    after = {name: content(f"data/{name}") for name in ("score", "explain", "decide")}
    for name in ("score", "decide"):
        assert after[name] == before[name]
    assert after["explain"]["data/explain/reasons.parquet"] == before["explain"]["data/explain/reasons.parquet"]


@pytest.mark.parametrize("name", ["booster.txt", "reference.parquet", "grades.json"])
@pytest.mark.fault("G2", "E12")
def test_a_changed_file_of_the_bundle_is_refused_before_it_is_parsed(here, name):
    """Exit code 7, and nothing written."""
    path = bundle.SCORER / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityRefused, match="another SHA-256"):
        score.main()
    assert not Path("data/score").exists()


@pytest.mark.fault("E6")
def test_features_defined_otherwise_or_missing_are_named(here):
    """Exit code 7 with both lists."""
    catalogue = CATALOGUE.copy()
    catalogue.loc[0, "definition_hash"] = "other"
    catalogue[catalogue["name"] != "late"].to_parquet("data/featurise/catalogue.parquet")
    with pytest.raises(IntegrityRefused) as refusal:
        score.main()
    assert [p.found for p in refusal.value.problems] == ["1 others: late", "1 others: use"]


def test_without_a_scorer_the_tables_are_empty_and_say_why(here):
    """publish is the stage that refuses."""
    shutil.rmtree(bundle.SCORER)
    bundle.SCORER.mkdir()
    run_all()
    assert json.loads(Path("data/score/summary.json").read_text()) == {
        "scored": False, "why": "no scorer: too few defaults",
    }  # fmt: skip
    assert pq.read_table("data/score/scores.parquet").schema.equals(score.SCHEMA)
    assert pq.read_table("data/explain/reasons.parquet").num_rows == 0
    table = pq.read_table("data/decide/table.parquet")
    assert table.num_rows == 0
    assert len(table.schema) == 54
    assert json.loads(Path("data/decide/summary.json").read_text())["decided"] is False


def test_dates_before_a_customers_first_row_give_null_grades(here):
    """A customer of two months has no grade three months ago, and one date gives no earlier grade at all."""
    score.main()
    scores = pq.read_table("data/score/scores.parquet")
    young = pc.and_(pc.equal(scores["customer_id"], "c005"), pc.greater(scores["months_back"], 1))
    pq.write_table(scores.filter(pc.invert(young)), "data/score/scores.parquet")
    explain.main()
    decide.main()
    row = pq.read_table("data/decide/table.parquet").slice(5, 1).to_pylist()[0]
    assert row["grade_previous"] is not None
    assert [row[name] for name in ("grade_3m", "grade_6m", "grade_12m")] == [None] * 3
    pq.write_table(scores.filter(pc.equal(scores["months_back"], 0)), "data/score/scores.parquet")
    decide.main()
    table = pq.read_table("data/decide/table.parquet")
    assert table["grade_previous"].null_count == table["grade_change"].null_count == CUSTOMERS


def test_a_source_without_facts_is_decided_too(here):
    """position.parquet with its keys alone."""
    position = pq.read_table("data/featurise/scoring/position.parquet")
    pq.write_table(position.select(["customer_id", "as_of", "months_back"]), decide.POSITION)
    run_all()
    summary = json.loads(Path("data/decide/summary.json").read_text())
    assert summary["contract_problems"] == []
    assert set(summary["by_limit_rule"]) <= {"no_basis", "stop_pd"}
    assert summary["alerts"]["LIMIT_USE"]["known_for"] == 0


def supposed(**values):
    """Write a policy that differs from the standard one in the values given."""
    document = yaml.safe_load(Path("data/policy/standard.yaml").read_text())
    for name, value in values.items():
        document["policy"][name]["values"] = {"1990-01-01": value}
    path = Path("data/policy/other.yaml")
    path.write_text(yaml.safe_dump(document))
    return path


def test_what_if_says_what_the_other_policy_then_decides(here, capsys):
    """The table of the question is the table of a run by that policy; the question itself writes nothing of a run."""
    run_all()
    path = supposed(loss_appetite={"person": 0.002, "company": 0.001}, stop_pd=0.05)
    before = content("data")
    assert main(["what-if", str(path), "--out", "told.csv"]) == 0
    assert content("data") == before
    said = capsys.readouterr().out
    _, old, new, differing = what_if.both(path)
    assert set(differing) == {"loss_appetite", "stop_pd"}
    Path("params.yaml").write_text("source: simulated\ndecide: {policy: data/policy/other.yaml}\n")
    decide.main()
    assert pq.read_table("data/decide/table.parquet").equals(new)
    frames = [table.to_pandas().set_index("customer_id") for table in (old, new)]
    limits = [frame["credit_limit_recommended"].dropna().astype(float).sum() for frame in frames]
    assert limits[1] < limits[0]
    assert f"{limits[0]:,.2f}" in said
    assert f"{limits[1]:,.2f}" in said
    assert (frames[0]["action"] != "stop").sum() > (frames[1]["action"] != "stop").sum()
    watched = list(what_if.CHANGED)
    apart = (frames[0][watched].astype(str) != frames[1][watched].astype(str)).any(axis=1)
    told = pd.read_csv("told.csv", encoding="utf-8-sig", dtype=str)
    assert told["customer_id"].tolist() == frames[0].index[apart].tolist()
    assert f"{apart.sum():,} of {CUSTOMERS:,} customers" in said


def test_what_if_by_the_same_numbers_moves_nobody(here, capsys):
    run_all()
    assert main(["what-if", str(supposed())]) == 0
    said = capsys.readouterr().out
    assert f"0 of {CUSTOMERS:,} customers" in said
    assert "the numbers in force are the same" in said


def test_what_if_refuses_what_only_a_run_can_answer(here, capsys):
    """Before there is a run; and a long-run default rate, which moves the PDs."""
    assert main(["what-if", "data/policy/standard.yaml"]) == 4
    assert "data/score/scores.parquet" in capsys.readouterr().err
    run_all()
    assert main(["what-if", str(supposed(long_run_default_rate=0.03))]) == 4
    assert "long_run_default_rate" in capsys.readouterr().err


def test_a_file_of_features_is_answered_as_safely_as_the_table_is_published(here):
    """UTF-8 with BOM; texts and column names that a spreadsheet would run have an apostrophe; parquet is as it was."""
    shutil.copytree(bundle.SCORER, "data/publish/current/scorer")
    frame = rows(9).head(5).drop(columns=["as_of", "months_back"])
    frame["=note"] = ["=1+1", "@cmd", "-2", "名前", None]
    frame.to_csv("asked.csv", index=False)
    assert main(["score", "asked.csv", "--out", "told.csv"]) == 0
    raw = Path("told.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    told = pd.read_csv("told.csv", encoding="utf-8-sig", keep_default_na=False, dtype={"'=note": str})
    assert told["'=note"].tolist() == ["'=1+1", "'@cmd", "'-2", "名前", ""]
    wanted = Scorer.from_files(bundle.read(bundle.SCORER)).score(pd.read_csv("asked.csv"))
    assert np.abs(told["pd"].to_numpy() - wanted["pd"].to_numpy()).max() < 1e-15
    assert main(["score", "asked.csv", "--out", "told.parquet"]) == 0
    plain = pq.read_table("told.parquet")
    assert plain["=note"].to_pylist() == ["=1+1", "@cmd", "-2", "名前", None]
    assert np.array_equal(plain["pd"].to_numpy(), wanted["pd"].to_numpy())
    Path("asked.json").write_text(frame.assign(**{"=note": [["=1", 2]] * 5}).to_json(orient="records"))
    assert main(["score", "asked.json", "--out", "told.csv"]) == 0
    assert "=1" in Path("told.csv").read_text(encoding="utf-8-sig")
    assert main(["score", "asked.csv", "--out", "told.xlsx"]) == 4


def test_a_product_s_loss_reaches_the_table_and_the_account_of_what_was_assumed(here):
    """By SQL over the positions: a card has the card's row, whoever has none the kind's."""
    position = pq.read_table(decide.POSITION)
    product = pa.array(np.random.default_rng(5).choice(["credit_card", "pawn", None], position.num_rows), pa.string())
    pq.write_table(position.append_column("product", product), decide.POSITION)
    run_all()
    wrong = duckdb.sql(
        """select count(*) from 'data/decide/table.parquet' t
        join 'data/featurise/scoring/position.parquet' p on p.customer_id = t.customer_id and p.months_back = 0
        where t.loss_given_default <> case when p.product = 'credit_card' then 0.7
            when p.kind = 'company' then 0.45 else 0.6 end
        or not contains(t.limit_rule, '; assumed lgd:' || case when p.product = 'credit_card' then p.product
            when p.kind = 'company' then 'company' else 'person' end)"""
    ).fetchone()
    assert wrong == (0,)
    summary = json.loads(Path("data/decide/summary.json").read_text())
    assert summary["contract_problems"] == []
    assert sum(count for name, count in summary["assumed"].items() if name.startswith("lgd:")) == CUSTOMERS
    assert {"lgd:credit_card", "lgd:person", "lgd:company"} <= set(summary["assumed"])


def test_a_policy_rests_on_its_base(here):
    """What it does not name is the base's; a base that is not there, or has one itself, is refused."""
    path = Path("data/policy/own.yaml")
    entry = "{description: d, unit: u, source: s, values: {'1990-01-01': 0.3}}"
    path.write_text(f"base: standard.yaml\npolicy:\n  stop_pd: {entry}\n")
    day = dt.date(2026, 1, 1)
    own, standard = (lending.read_policy(path.with_name(name), day) for name in ("own.yaml", "standard.yaml"))
    assert own.stop_pd == 0.3
    assert own == standard.model_copy(update={"stop_pd": 0.3})
    assert lending.files_of(path) == [path, Path("data/policy/standard.yaml")]
    for base in ("gone.yaml", "own.yaml", "."):
        path.with_name("other.yaml").write_text(f"base: {base}\npolicy: {{stop_pd: {entry}}}\n")
        with pytest.raises(ConfigurationRefused):
            lending.read_policy(path.with_name("other.yaml"), day)


@pytest.mark.parametrize("path", sorted((ROOT / "data/policy").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_policy_that_is_shipped_holds_for_the_scale(path):
    lending.read_policy(path, dt.date(2005, 10, 1)).check_scale(Scale())
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8"))["policy"].items():
        assert all(str(entry[key]).strip() for key in ("description", "unit", "source")), name


def test_overrides_are_honoured_and_shown(here):
    """A limit, a term and an action, two expired ones, and one for a customer who left."""
    Path("data/overrides.csv").write_text(
        "customer_id,field,value,author,reason,until\n"
        "c001,credit_limit_recommended,1234.50,risk,guarantee,2026-06-30\n"
        "c002,payment_term_days,90,risk,contract,2026-01-01\n"
        "c003,action,keep,risk,known case,2026-06-30\n"
        "c004,action,stop,risk,old,2025-12-31\n"
        "gone,action,stop,risk,left,2026-06-30\n"
    )
    run_all()
    table = {row["customer_id"]: row for row in pq.read_table("data/decide/table.parquet").to_pylist()}
    assert str(table["c001"]["credit_limit_recommended"]) == "1234.50"
    assert table["c001"]["limit_rule"] == "override"
    assert table["c002"]["payment_term_days"] == 90
    assert table["c003"]["action"] == "keep"
    summary = json.loads(Path("data/decide/summary.json").read_text())
    assert summary["overrides"] == {"active": 4, "expired": 1, "unknown_customers": 1, "customers": 3}
    shown = pq.read_table("data/decide/overrides.parquet").to_pylist()
    assert [(row["customer_id"], row["field"], row["author"], row["until"]) for row in shown] == [
        ("c001", "credit_limit_recommended", "risk", "2026-06-30"), ("c002", "payment_term_days", "risk", "2026-01-01"),
        ("c003", "action", "risk", "2026-06-30"),
    ]  # fmt: skip
    Path("data/publish/current").mkdir(parents=True)
    shutil.copy("data/decide/overrides.parquet", "data/publish/current")
    assert asked.overridden("c003") == [
        "decided by a person:",
        "  action is keep, by risk until 2026-06-30: known case",
    ]
    assert asked.overridden("c004") == []
    assert summary["contract_problems"] == []


def test_wrong_policy_or_overrides_are_refused_with_exit_code_4(here):
    """And the last table stays."""
    run_all()
    before = content("data/decide")
    Path("params.yaml").write_text("source: simulated\ndecide: {policy: data/policy/none.yaml}\n")
    with pytest.raises(ConfigurationRefused, match=r"decide\.policy"):
        decide.main()
    Path("params.yaml").write_text("source: simulated\ndecide: {other: 1}\n")
    with pytest.raises(ConfigurationRefused, match="unknown key"):
        decide.main()
    Path("params.yaml").write_text("source: simulated\n")
    Path("data/overrides.csv").write_text("customer_id\nx,y\n")
    with pytest.raises(ConfigurationRefused):
        decide.main()
    assert content("data/decide") == before


def test_the_data_version_moves_with_the_ledger_and_the_date():
    """And with nothing else."""
    one = decide.data_version(b"{}", "2026-01-01")
    assert one == hashlib.sha256(b"{}\n2026-01-01").hexdigest()[:16]
    assert len({one, decide.data_version(b"{ }", "2026-01-01"), decide.data_version(b"{}", "2026-02-01")}) == 3
