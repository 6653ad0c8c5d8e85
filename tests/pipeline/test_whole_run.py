"""Whole runs in a workspace of their own: two commands, seventeen stages, one table; and what must not touch that table."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from books import execute, execute_without
from browsers import WIDTHS, chromium, faults
from servers import free_port, postgres
from workspaces import ROOT, Workspace, copy_project

from pipeline.__main__ import main
from pipeline.params import STAGES
from pipeline.pruning import prune

STATEFUL = ("promote", "publish")
CURRENT = Path("data/publish/current")


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def digests(folder: Path, *stages: str) -> dict[str, str]:
    found = {}
    for stage in stages:
        for path in sorted((folder / "data" / stage).rglob("*")):
            if path.is_file() and path.name != ".gitignore":
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def published(workspace: Workspace) -> tuple[str, str]:
    """What a reader sees: where the link leads, and the bytes behind it."""
    current = workspace.folder / CURRENT
    table = (current / "scored_customers.parquet").read_bytes()
    return str(current.readlink()), hashlib.sha256(table).hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Workspace:
    """A small lender, run once from nothing."""
    workspace = copy_project(tmp_path_factory.mktemp("world") / "project")
    workspace.set_params({"simulate": {"customers": 600}, "tune": {"trials": 6}, "train": {"seeds": 2}})
    first = workspace.pipeline("run")
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-4000:]
    assert ran(first.stdout) == list(STAGES)
    return workspace


def test_the_table_holds_every_scored_customer_once_under_its_contract(world):
    table = pq.read_table(world.folder / CURRENT / "scored_customers.parquet")
    contract = json.loads((ROOT / "data/contracts/scored_customers.v1.json").read_text())
    assert table.column_names == [column["name"] for column in contract["columns"]]
    frame = table.to_pandas()
    scored = pd.read_parquet(world.folder / "data/observe/scoring.parquet").query("months_back == 0")
    assert sorted(frame["customer_id"]) == sorted(scored["customer_id"])
    assert frame["customer_id"].is_unique
    assert frame["pd_12m"].between(0, 1, inclusive="neither").all()
    assert (frame["pd_low"] <= frame["pd_12m"]).all()
    assert (frame["pd_12m"] <= frame["pd_high"]).all()
    assert frame["pd_12m"].nunique() > len(frame) / 10
    assert frame["reason_1_code"].notna().mean() > 0.8  # who has no family that costs points has no reason
    by_grade = frame.groupby("grade")["pd_12m"].agg(["min", "max"]).sort_values("min")
    assert (by_grade["max"].shift() <= by_grade["min"]).iloc[1:].all(), "grades are bands of PD"
    assert str(frame["as_of"].iloc[0]) == "2026-01-01"


def test_the_same_table_stands_in_csv_and_duckdb(world):
    folder = world.folder / CURRENT
    parquet = pd.read_parquet(folder / "scored_customers.parquet")
    assert (folder / "scored_customers.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    csv = pd.read_csv(folder / "scored_customers.csv", dtype={"customer_id": str})
    assert csv["customer_id"].tolist() == parquet["customer_id"].tolist()
    assert csv["pd_12m"].tolist() == parquet["pd_12m"].tolist()
    with duckdb.connect(str(folder / "bellwether.duckdb"), read_only=True) as connection:
        assert connection.sql("select * from scored_customers").df()["pd_12m"].tolist() == parquet["pd_12m"].tolist()


def test_the_published_statement_gives_the_published_pds(world):
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet").sort_values("customer_id")
    with duckdb.connect() as connection:
        rows = f"'{world.folder}/data/featurise/scoring/features.parquet'"
        connection.execute(f"CREATE VIEW features AS SELECT * FROM {rows} WHERE months_back = 0")
        found = connection.execute((world.folder / CURRENT / "model.sql").read_text()).df()
    assert found["customer_id"].tolist() == table["customer_id"].tolist()
    for name, stated in (("pd", "pd_12m"), ("pd_low", "pd_low"), ("pd_high", "pd_high")):
        assert found[name].to_numpy() == pytest.approx(table[stated].to_numpy(), rel=1e-9)
    assert (found["score"].to_numpy() == table["score"].to_numpy()).all()
    assert (found["grade"].to_numpy() == table["grade"].to_numpy()).all()


def test_a_file_of_features_gets_the_published_pds(world, tmp_path):
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet").set_index("customer_id")
    rows = pd.read_parquet(world.folder / "data/featurise/scoring/features.parquet").query("months_back == 0")
    rows = rows.sample(200, random_state=1).assign(desk="b")
    rows.to_csv(tmp_path / "asked.csv", index=False, float_format="%.17g")
    rows.to_parquet(tmp_path / "asked.parquet", index=False)
    for name in ("asked.csv", "asked.parquet"):
        done = world.pipeline("score", str(tmp_path / name), "--out", str(tmp_path / "answer.csv"))
        assert done.returncode == 0, done.stderr
        assert "200 rows by model" in done.stdout
        answer = pd.read_csv(tmp_path / "answer.csv", dtype={"customer_id": str})
        assert answer["customer_id"].tolist() == rows["customer_id"].tolist()
        assert (answer["desk"] == "b").all()
        assert answer["pd"].to_numpy() == pytest.approx(table.loc[rows["customer_id"], "pd_12m"].to_numpy(), rel=1e-9)
        assert answer["grade"].tolist() == table.loc[rows["customer_id"], "grade"].tolist()
    names = [
        each["name"] for each in json.loads((world.folder / CURRENT / "scorer/features.json").read_text())["features"]
    ]
    rows.drop(columns=names[:2]).to_csv(tmp_path / "less.csv", index=False)
    less = world.pipeline("score", str(tmp_path / "less.csv"))
    assert less.returncode == 7
    assert all(name in less.stderr for name in names[:2])
    assert world.pipeline("score", str(tmp_path / "none.csv")).returncode == 4


KEYS = ("client_no", "contract_no", "line_ref", "movement_no", "receipt_no", "mention_no")
OTHERWISE = {"data_version": "it names the folder's files too", "grade_published_before": "the table alone compares"}


def lay_out_applicants(world: Workspace, folder: Path, customers: list[str], mark: str = "") -> None:
    """Write all raw rows of some customers into a folder, one file a table, their keys behind a mark; add to it."""
    folder.mkdir(exist_ok=True)
    tables: dict[str, list[dict[str, str]]] = {}
    for path in sorted((world.folder / "data/raw/simulated").glob("*/*.csv")):
        with path.open(encoding="utf-8", newline="") as handle:
            tables.setdefault(path.stem, []).extend(csv.DictReader(handle))
    lines = [row for name in ("contracts", "bureau_lines") for row in tables[name] if row["client_no"] in customers]
    held = {*customers, *(row.get("contract_no") or row["line_ref"] for row in lines)}
    for name, rows in tables.items():
        holder = next((key for key in KEYS[:3] if key in rows[0]), None)
        kept = [row for row in rows if holder is not None and row[holder] in held]
        if kept:
            new = not (folder / f"{name}.csv").exists()
            with (folder / f"{name}.csv").open("a", encoding="utf-8", newline="") as handle:
                writer = csv.DictWriter(handle, list(kept[0]))
                if new:
                    writer.writeheader()
                writer.writerows(
                    {key: mark + text if key in KEYS else text for key, text in row.items()} for row in kept
                )


def test_applicants_with_the_raw_rows_of_customers_get_their_published_rows(world, tmp_path, monkeypatch):
    """Some customers by their own rows, and a newcomer by those of another: exactly what is published, but OTHERWISE."""
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet").sort_values("pd_12m")
    chosen = [*table.iloc[:: len(table) // 4]["customer_id"], *table[table["alerts"] != ""]["customer_id"][:2]]
    lay_out_applicants(world, tmp_path / "asked", sorted({*chosen} - {chosen[1]}))
    lay_out_applicants(world, tmp_path / "asked", [chosen[1]], "new-")
    stages = [path.name for path in (world.folder / "data").iterdir() if path.is_dir()]
    before, link = digests(world.folder, *stages), published(world)
    monkeypatch.chdir(world.folder)
    assert main(["score", str(tmp_path / "asked"), "--as-of", "2026-01-01", "--out", str(tmp_path / "a.parquet")]) == 0
    assert digests(world.folder, *stages) == before
    assert published(world) == link
    found = pd.read_parquet(tmp_path / "a.parquet").set_index("customer_id")
    assert found.pop("refused_because").isna().all()
    assert f"new-{chosen[1]}" in found.index
    found = found.rename(index=lambda customer: customer.removeprefix("new-")).sort_index()
    expected = table.set_index("customer_id").loc[found.index]
    assert len(found) == len({*chosen})
    assert set(expected.columns) - set(found.columns) == {"grade_published_before"}
    shared = [name for name in found.columns if name not in OTHERWISE]
    pd.testing.assert_frame_equal(found[shared], expected[shared], check_dtype=False, rtol=1e-9, atol=0)


def test_an_applicants_folder_that_cannot_be_scored_ends_with_its_code(world, tmp_path, monkeypatch, capsys):
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    lay_out_applicants(world, tmp_path / "asked", [table["customer_id"].iloc[0]])
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(world.folder)
    assert main(["score", str(tmp_path / "nothing")]) == 2
    assert "found an empty folder" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "asked"), "--source", "flat"]) == 4
    assert "must be the published source, simulated; found flat" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "asked"), "--as-of", "2001-01-01"]) == 2
    assert "nothing is known before 2001-01-01" in capsys.readouterr().err
    path = tmp_path / "asked/movements.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",", ",,", 1), *lines[2:10]]) + "\n")
    assert main(["score", str(tmp_path / "asked")]) == 2
    assert "columns 1 (movements.csv, line 2)" in capsys.readouterr().err
    ledger = world.folder / "data/ingest/ledger.json"
    saved = ledger.read_bytes()
    ledger.write_bytes(saved + b"\n")
    try:
        assert main(["score", str(tmp_path / "asked")]) == 7
    finally:
        ledger.write_bytes(saved)
    assert "data/ingest: must be the tables of the published run" in capsys.readouterr().err


@pytest.mark.slow
def test_an_applicant_with_one_table_is_scored_and_what_is_missing_is_said(world, tmp_path):
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    lay_out_applicants(world, tmp_path / "asked", [table["customer_id"].iloc[0]])
    for path in (tmp_path / "asked").glob("*.csv"):
        if path.stem != "movements":
            path.unlink()
    rows = pd.read_csv(tmp_path / "asked/movements.csv", dtype=str)
    done = world.pipeline("score", str(tmp_path / "asked"))
    assert done.returncode == 0, done.stderr
    day = max(rows["entered_on"])
    assert f"observed on {dt.date.fromisoformat(day) + dt.timedelta(days=1)}, the day after" in done.stdout
    assert f"transactions {len(rows)}" in done.stdout
    assert "missing, so that what only they say is unknown: customers (no rows in */clients.csv)" in done.stdout
    assert "assumed lgd:person, kind" in done.stdout
    assert "1 applicants, 1 scored, 0 refused" in done.stdout


def test_one_customer_is_explained_as_the_table_has_it(world, tmp_path):
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    row = table.sort_values("pd_12m").iloc[-1]
    done = world.pipeline("explain", row["customer_id"], "--picture", str(tmp_path / "one.png"))
    assert done.returncode == 0, done.stderr
    assert f"PD {row['pd_12m']:.4f}" in done.stdout
    assert row["reason_1_text"] in done.stdout
    assert f"{row['reason_1_code']}" in done.stdout
    assert f"+{row['reason_1_points']:.2f}" in done.stdout  # the family's bar and the table's reason are one number
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert world.pipeline("explain", "nobody").returncode == 4


def test_the_published_pages_are_whole_in_a_browser_on_a_desk_and_on_a_phone(world):
    with chromium() as browser:
        for page in sorted((world.folder / CURRENT / "report").glob("*.html")):
            assert faults(browser, page, *WIDTHS)[0] == [], page.name


def test_the_guided_tour_shows_features_and_one_customer(world, tmp_path):
    told = execute_without("guided_tour.ipynb", "retrain", world.folder, tmp_path, PYTHONPATH=str(world.folder))
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    stake = table["pd_12m"] * table["exposure"].astype(float)
    row = table.loc[stake.idxmax()]
    assert f"customer {row['customer_id']} on 2026-01-01" in told
    assert row["reason_1_text"] in told


def test_the_manufacturer_s_story_is_told_against_the_truth(world, tmp_path):
    """The figures that the notebook shows, from the files by another way; nothing of the workspace is written."""
    before = digests(world.folder, "publish", "decide", "simulate")
    told = execute_without("manufacturer.ipynb", "none", world.folder, tmp_path, "story", PYTHONPATH=str(world.folder))
    assert digests(world.folder, "publish", "decide", "simulate") == before
    with duckdb.connect() as connection:
        firms = connection.execute(
            f"select count(*), count(*) filter (credit_limit > credit_limit_recommended), "
            f"coalesce(sum(true_pd * loss_given_default * greatest(credit_limit - credit_limit_recommended, 0)), 0) "
            f"from '{world.folder / CURRENT}/scored_customers.parquet' t "
            f"join (select customer_id, kind from '{world.folder}/data/featurise/scoring/position.parquet' "
            f"where months_back = 0) using (customer_id) join '{world.folder}/data/simulate/truth/truth.parquet' x "
            "on x.customer_id = t.customer_id and x.as_of = t.as_of where kind = 'company'"
        ).fetchone()
    assert f"- {firms[0]} companies on 2026-01-01" in told
    assert f"- {firms[1]} limits are cut" in told
    assert f"to {firms[2]:,.0f}, of" in told
    customers = pq.read_metadata(world.folder / CURRENT / "scored_customers.parquet").num_rows
    assert f"new {customers:,}, changed 0" in told
    assert f"unchanged {customers:,}" in told


def test_the_bank_s_story_is_told_against_the_truth(world, tmp_path):
    told = execute_without("bank.ipynb", "none", world.folder, tmp_path, "story", PYTHONPATH=str(world.folder))
    with duckdb.connect() as connection:
        late = connection.execute(
            f"with bad as (select customer_id, min(outcome_known_on) as day from '{world.folder}/data/observe/"
            "observations.parquet' where outcome = 1 group by 1), first as (select min(as_of) as day from "
            f"'{world.folder}/data/score/scores.parquet') select count(distinct customer_id) from bad join "
            f"'{world.folder}/data/score/scores.parquet' s using (customer_id), first "
            "where bad.day > first.day and bad.day < date '2026-01-01' and s.as_of <= bad.day - interval 60 day"
        ).fetchone()
        known = connection.execute(
            f"select avg((true_pd between pd_low and pd_high)::int) from '{world.folder / CURRENT}/scored_customers.parquet' "
            f"t join '{world.folder}/data/simulate/truth/truth.parquet' x on x.customer_id = t.customer_id and x.as_of = t.as_of"
        ).fetchone()
    assert f"- {late[0]} customers defaulted since" in told
    assert f"holds the true PD of {known[0]:.0%}" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manufacturer", "bank"])
def test_a_story_runs_whole_with_its_pictures(world, tmp_path, name):
    told = execute(f"{name}.ipynb", world.folder, tmp_path, PYTHONPATH=str(world.folder))
    assert "## What was seen" in told
    assert int(told.split()[-1]) >= 7


@pytest.mark.slow
def test_the_guided_tour_runs_whole_and_compares_two_models(world, tmp_path):
    before = digests(world.folder, "train", "select", "publish")
    told = execute("guided_tour.ipynb", world.folder, tmp_path, PYTHONPATH=str(world.folder))
    assert "learning rate moves the AUC on unseen folds by" in told
    assert int(told.split()[-1]) >= 9
    assert digests(world.folder, "train", "select", "publish") == before


def test_a_second_repro_runs_no_stage(world):
    again = world.run("dvc", "repro")
    assert again.returncode == 0
    assert ran(again.stdout) == []


def test_publishing_twice_changes_nothing(world):
    before = digests(world.folder, "publish")
    again = world.run("dvc", "repro", "--force", "--single-item", "publish")
    assert again.returncode == 0, again.stderr
    assert digests(world.folder, "publish") == before


def test_a_forced_repro_with_the_system_s_python_first_gives_the_same_bytes(world):
    stages = [stage for stage in STAGES if stage not in STATEFUL]
    before, link = digests(world.folder, *stages, "raw"), published(world)
    again = subprocess.run(
        [".venv/bin/dvc", "repro", "--force"],
        cwd=world.folder, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    assert ran(again.stdout) == list(STAGES)
    assert digests(world.folder, *stages, "raw") == before
    assert published(world) == link


def test_the_truth_is_shown_beside_the_model_and_is_better(world):
    figures = json.dumps(json.loads((world.folder / "data/monitor/figures.json").read_text()))
    assert "true_pd" in figures
    metrics = json.loads((world.folder / "data/evaluate/metrics.json").read_text())
    assert 0.6 < metrics["test.auc"] < 0.95


def tracking_client(workspace: Workspace):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workspace.folder}/mlruns/mlflow.db")


def test_mlflow_has_one_run_a_model_and_one_a_publication_linked_by_tags(world):
    client = tracking_client(world)
    experiment = client.get_experiment_by_name("bellwether-simulated")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    training = [run for run in runs if run.data.tags["bellwether.kind"] == "training"]
    publication = [run for run in runs if run.data.tags["bellwether.kind"] == "publication"]
    assert (len(training), len(publication)) == (1, 1)
    assert training[0].data.tags["bellwether.candidate"] == publication[0].data.tags["bellwether.candidate"]
    assert training[0].data.tags["git_commit"][:40].isalnum()
    assert any(tag.startswith("dvc.data/") for tag in training[0].data.tags)
    assert training[0].data.metrics["test.auc"] == pytest.approx(
        json.loads((world.folder / "data/evaluate/metrics.json").read_text())["test.auc"]
    )
    held = json.loads((world.folder / "data/explain/soundness.json").read_text())
    assert publication[0].data.metrics["explain.agreement.all.first"] == held["agreement"]["all"]["first"]
    assert publication[0].data.metrics["explain.counterfactual.feature.lowered"] > 0.5
    assert publication[0].data.params["explain.agreement.models"] == str(held["agreement"]["models"])
    monitored = json.loads((world.folder / "data/monitor/metrics.json").read_text())
    assert publication[0].data.metrics["monitor.portfolio.mean_pd"] == pytest.approx(monitored["portfolio.mean_pd"])
    logged = {item.path for item in client.list_artifacts(training[0].info.run_id, "plots")}
    assert {"plots/roc.png", "plots/calibration.png", "plots/lift.png"} <= logged
    whole = {item.path for item in client.list_artifacts(publication[0].info.run_id)}
    assert {"aggregates.json", "document.html", "document.json", "plots"} <= whole
    assert not {"index.html", "figures.json"} & whole  # they list customers
    assert any(item.path == "trials.json" for item in client.list_artifacts(training[0].info.run_id))
    version = client.get_model_version_by_alias("bellwether-simulated", "champion")
    assert version.tags["model_version"] == training[0].data.tags["bellwether.candidate"]
    assert client.get_model_version_by_alias("bellwether-simulated", "challenger").version == version.version


def test_every_plot_of_dvc_is_drawn_from_fields_that_its_file_holds(world):
    flow = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    names = [next(iter(plot)) for plot in flow["plots"]]
    for plot in flow["plots"]:
        for axis in ("x", "y"):
            ((path, fields),) = next(iter(plot.values()))[axis].items()
            rows = json.loads((world.folder / path).read_text())
            if path == "data/monitor/plots/fairness.json" and not rows:
                continue  # the simulated lender declares no protected attribute
            assert rows, path
            assert {*([fields] if isinstance(fields, str) else fields)} <= rows[0].keys(), path
    drawn = world.run("dvc", "plots", "show")
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    page = (world.folder / "dvc_plots/index.html").read_text()
    assert not [name for name in names if f'id = "{name}"' not in page and f'id="{name}"' not in page]


def test_the_model_loaded_from_mlflow_gives_the_published_numbers(world):
    """And the statement, and both kinds of file, the same on odd values: missing, unseen, extreme."""
    code = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/bellwether-simulated@champion")
rows = pd.read_parquet("data/featurise/scoring/features.parquet").query("months_back == 0").sort_values("customer_id")
table = pd.read_parquet("data/publish/current/scored_customers.parquet").sort_values("customer_id")
scored = model.predict(rows)
assert abs(scored["pd"].to_numpy() - table["pd_12m"].to_numpy()).max() < 1e-9
assert scored["grade"].tolist() == table["grade"].tolist()
assert scored["score"].tolist() == table["score"].tolist()
import json
import duckdb
import numpy as np
from pipeline.__main__ import main
random = np.random.default_rng(1)
odd = rows.sample(500, replace=True, random_state=1).assign(customer_id=[f"{n:03d}" for n in range(500)])
for each in json.loads(open("data/publish/current/scorer/features.json").read())["features"]:
    numeric = each["kind"] == "numeric"
    values = [0.0, 1e-36, 5e-324, 1e300, -1e300, np.nan] if numeric else ["never seen", None, "nan", "NULL", "=1", "名"]
    at = random.random(len(odd)) < 0.3
    odd[each["name"]] = odd[each["name"]].astype(float if numeric else object)
    odd.loc[at, each["name"]] = random.choice(np.array(values, dtype=float if numeric else object), at.sum())
model = model.predict(odd)
duckdb.register("features", odd)
by_sql = duckdb.sql(open("data/publish/current/model.sql").read()).df()
odd.to_parquet("odd.parquet", index=False)
odd.to_csv("odd.csv", index=False, float_format="%.17g")
answers = [by_sql]
for name in ("odd.parquet", "odd.csv"):
    assert main(["score", name, "--out", "answer.parquet"]) == 0
    answers.append(pd.read_parquet("answer.parquet"))
for found in answers:
    for name in ("pd", "pd_raw", "pd_low", "pd_high"):
        assert abs(found[name].to_numpy() - model[name].to_numpy()).max() < 1e-9
    assert found["grade"].tolist() == model["grade"].tolist()
"""
    loaded = world.run("python", "-c", code)
    assert loaded.returncode == 0, loaded.stderr[-3000:]


@pytest.mark.fault("G3")
def test_no_file_of_the_model_is_a_pickle(world):
    for folder in ("mlruns", "data/promote", "data/train"):
        for path in (world.folder / folder).rglob("*"):
            if path.is_file() and path.suffix != ".db":
                assert path.suffix not in {".pkl", ".pickle", ".joblib", ".skops"}, path
                assert not path.read_bytes().startswith(b"\x80\x04"), path


BROKEN = {
    "an unknown key in params.yaml": (4, lambda w: w.set_params({"train": {"learning_rat": 0.1}}), "params.yaml: train.learning_rat"),
    "an unknown section": (4, lambda w: w.set_params({"trian": {}}), "params.yaml: trian"),
    "an unknown key in the mapping": (4, lambda w: mapping(w, lambda m: m.update(tabels={})), "tabels"),
    "a column that is not there": (
        4, lambda w: mapping(w, lambda m: block(m)["columns"].update(amount="no_such_column")), "no_such_column",
    ),
    "an unknown source": (4, lambda w: w.set_params({"source": "nobody"}), "nobody"),
    "a missing file": (2, lambda w: mapping(w, lambda m: block(m).update(files="none*.csv")), "none*.csv"),
}  # fmt: skip


def mapping(workspace: Workspace, change) -> None:
    path = workspace.folder / "data/sources/simulated.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def block(content: dict) -> dict:
    table = content["tables"]["transactions"]
    return table[0] if isinstance(table, list) else table


@pytest.mark.parametrize("fault", BROKEN)
def test_bad_configuration_ends_with_its_code_one_sentence_and_the_old_table(world, fault):
    code, break_it, named = BROKEN[fault]
    saved = {name: (world.folder / name).read_text() for name in ("params.yaml", "data/sources/simulated.yaml")}
    before = published(world)
    try:
        break_it(world)
        refused = world.pipeline("run")
    finally:
        for name, text in saved.items():
            (world.folder / name).write_text(text)
    assert refused.returncode == code, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert named in refused.stderr
    assert "must be" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert published(world) == before


@pytest.mark.fault("F4")
def test_a_second_run_is_refused_while_one_holds_the_workspace(world):
    import fcntl

    with (world.folder / ".run" / "lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused = world.pipeline("run")
    assert refused.returncode == 6
    assert "process" in refused.stderr


def test_a_stop_check_refuses_to_publish_with_code_3(world):
    before = published(world)
    saved = (world.folder / "params.yaml").read_text()
    world.set_params({"monitor": {"limits": {"auc": {"stop": 0.999}}}})
    try:
        refused = world.pipeline("run")
    finally:
        (world.folder / "params.yaml").write_text(saved)
    assert refused.returncode == 3, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert published(world) == before
    assert "Publication is refused: 1 check of severity stop" in (world.folder / "data/report/index.html").read_text()
    assert world.pipeline("run").returncode == 0
    assert published(world) == before


def test_an_experiment_touches_neither_current_nor_the_champion(world):
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "add", "-A"], cwd=world.folder, check=True, capture_output=True)
    subprocess.run([*git, "commit", "-qm", "run"], cwd=world.folder, check=True, capture_output=True)
    before, champion = published(world), digests(world.folder, "promote/champion")
    tried = world.run("dvc", "exp", "run", "-S", "train.learning_rate=0.3")
    assert tried.returncode == 0, tried.stdout[-3000:] + tried.stderr[-3000:]
    assert "tune" not in ran(tried.stdout)
    assert published(world) == before
    assert digests(world.folder, "promote/champion") == champion
    preview = pd.read_parquet(world.folder / "data/publish/preview/scored_customers.parquet")
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    assert not preview["pd_12m"].equals(table["pd_12m"])
    shown = world.run("dvc", "metrics", "diff")
    assert "test.auc" in shown.stdout
    assert world.run("dvc", "plots", "show").returncode == 0
    world.set_params({"train": {"learning_rate": None}})
    plain = world.pipeline("run")
    assert plain.returncode == 0, plain.stderr[-3000:]
    assert published(world) == before
    assert not json.loads((world.folder / "data/promote/scorer/manifest.json").read_text())["experiment"]


@pytest.mark.fault("D5")
def test_a_new_delivery_publishes_a_new_table_and_retrains_nothing(world):
    before = published(world)
    training = digests(world.folder, "featurise/training", "select", "tune", "train", "calibrate", "evaluate")
    world.set_params({"simulate": {"months": 61}})
    after = world.pipeline("run", "--log", "json")
    assert after.returncode == 0, after.stdout[-3000:] + after.stderr[-3000:]
    told = [json.loads(line) for line in after.stdout.splitlines()]
    stages = {each["stage"]: each for each in told if each["record"] == "stage"}
    assert list(stages) == list(STAGES)
    assert (stages["train"]["outcome"], stages["publish"]["outcome"]) == ("unchanged", "done")
    assert stages["publish"]["rows"] == told[-1]["current"]["rows"] == stages["decide"]["rows"] > 0
    assert (told[-1]["record"], told[-1]["outcome"], told[-1]["exit_code"]) == ("summary", "published", 0)
    customers = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")["customer_id"]
    assert not [customer for customer in customers if customer in after.stdout + after.stderr]
    assert not {"select", "tune", "train", "calibrate", "evaluate", "promote"} & set(ran(after.stdout))
    assert digests(world.folder, "featurise/training", "select", "tune", "train", "calibrate", "evaluate") == training
    assert published(world)[0] != before[0]
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    assert str(table["as_of"].iloc[0]) == "2026-02-01"
    earlier = pd.read_parquet(world.folder / "data/publish" / before[0] / "scored_customers.parquet")
    both = table.merge(earlier[["customer_id", "grade"]], on="customer_id", how="left", suffixes=("", "_then"))
    assert both["grade_published_before"].fillna("-").tolist() == both["grade_then"].fillna("-").tolist()


@pytest.mark.slow
def test_old_versions_are_rebuilt_byte_for_byte_from_what_pruning_leaves(world):
    """The first was published before the last delivery came, the second added that delivery to what was there."""
    lines = (world.folder / "data/publish/history.jsonl").read_text().splitlines()
    for run_id in dict.fromkeys(json.loads(line)["run_id"] for line in lines[-2:]):
        version = world.folder / "data/publish/versions" / run_id
        before, link = digests(world.folder, f"publish/versions/{run_id}"), published(world)
        prune(version)
        done = world.pipeline("rebuild", run_id)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        after = digests(world.folder, f"publish/versions/{run_id}")
        for name in ("bellwether.duckdb", "manifest.json"):  # an engine's file, and the line that states its hash
            for files in (before, after):
                files.pop(f"data/publish/versions/{run_id}/{name}")
        assert after == before
        assert published(world)[0] == link[0]
    assert world.pipeline("verify").returncode == 0


@pytest.mark.slow
@pytest.mark.fault("G7")
def test_a_sink_that_is_away_ends_the_run_with_8_and_the_next_run_serves_it(world):
    saved, link = (world.folder / "params.yaml").read_text(), published(world)
    world.set_params({"publish": {"postgres": "BELLWETHER_URL"}})
    try:
        unset = world.pipeline("run")
        assert unset.returncode == 4
        assert "BELLWETHER_URL" in unset.stderr
        away = world.pipeline("run", BELLWETHER_URL=f"postgresql://clerk:hunter2@127.0.0.1:{free_port()}/db")
        assert away.returncode == 8, away.stderr[-2000:]
        assert "published, but not everywhere" in away.stderr
        assert "hunter2" not in away.stdout + away.stderr
        assert published(world) == link
        with postgres() as url:
            there = world.pipeline("run", BELLWETHER_URL=url)
            assert there.returncode == 0, there.stderr[-2000:]
            assert ran(there.stdout) == ["publish"]
            assert "holds the current version" in world.pipeline("status", BELLWETHER_URL=url).stdout
            assert "value for value" in world.pipeline("verify", BELLWETHER_URL=url).stdout
    finally:
        (world.folder / "params.yaml").write_text(saved)
    for path in (world.folder / "data/publish").rglob("*.json"):
        assert b"hunter2" not in path.read_bytes(), path


def flat_file(workspace: Workspace) -> None:
    """One flat file with an outcome and no dates: the simplest source there is."""
    import numpy as np

    random = np.random.default_rng(7)
    rows = 500
    debt, age = random.gamma(2.0, 1.0, rows), random.integers(20, 70, rows)
    bad = random.random(rows) < 1 / (1 + np.exp(3.0 - debt))
    folder = workspace.folder / "data/raw/flat"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(
        {"id": [f"F{i:04d}" for i in range(rows)], "debt": debt.round(3), "age": age, "bad": bad.astype(int)}
    ).to_csv(folder / "applicants.csv", index=False)
    (workspace.folder / "data/sources/flat.yaml").write_text(
        """name: flat
currency: EUR
as_of: 2024-01-01
tables:
  observations:
    files: applicants.csv
    columns: {customer_id: id, outcome: bad}
    attributes: {numeric: {debt: debt, age: age}}
"""
    )


@pytest.mark.slow  # two further whole runs
def test_another_source_and_back_leaves_no_row_of_the_one_in_the_other(world):
    lender = published(world)
    ours = set(pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")["customer_id"])
    flat_file(world)
    world.set_params({"source": "flat"})
    there = world.pipeline("run")
    assert there.returncode == 0, there.stdout[-3000:] + there.stderr[-3000:]
    table = pd.read_parquet(world.folder / CURRENT / "scored_customers.parquet")
    assert len(table) == 500
    assert table["customer_id"].str.startswith("F").all()
    assert not ours & set(table["customer_id"])
    for stage in ("ingest", "observe", "featurise", "score", "decide"):
        for path in (world.folder / "data" / stage).rglob("*.parquet"):
            columns = pq.read_schema(path).names
            if "customer_id" in columns:
                found = set(pq.read_table(path, columns=["customer_id"])["customer_id"].to_pylist())
                assert not ours & found, path
    world.set_params({"source": "simulated"})
    back = world.pipeline("run")
    assert back.returncode == 0, back.stdout[-3000:] + back.stderr[-3000:]
    assert published(world) == lender


@pytest.mark.parametrize(
    ("fault", "content"), [("an empty file", ""), ("a header alone", "id,debt,age,bad\n"), ("no file", None)]
)
@pytest.mark.fault("A10")
def test_a_source_without_rows_ends_with_code_2_and_the_old_table(world, fault, content):
    before, saved = published(world), (world.folder / "params.yaml").read_text()
    flat_file(world)
    file = world.folder / "data/raw/flat/applicants.csv"
    file.unlink() if content is None else file.write_text(content)
    world.set_params({"source": "flat"})
    try:
        refused = world.pipeline("run")
    finally:
        (world.folder / "params.yaml").write_text(saved)
        flat_file(world)
    assert refused.returncode == 2, fault + refused.stdout[-2000:] + refused.stderr[-2000:]
    assert "applicants.csv" in refused.stderr
    assert published(world) == before


@pytest.mark.fault("G1")
def test_verify_names_a_changed_file_with_code_7(world):
    assert world.pipeline("verify").returncode == 0
    target = world.folder / CURRENT / "scored_customers.csv"
    saved = target.read_bytes()
    target.write_bytes(saved[:-2] + b"9\n")
    try:
        refused = world.pipeline("verify")
    finally:
        target.write_bytes(saved)
    assert refused.returncode == 7
    assert "scored_customers.csv" in refused.stderr


def test_a_champion_set_by_hand_sticks_through_the_next_run(world):
    shown = world.pipeline("champion", "show")
    version = re.search(r"champion of simulated: (\w+)", shown.stdout).group(1)
    unknown = world.pipeline("champion", "set", "0" * 16, "--author", "me", "--reason", "no such")
    assert unknown.returncode == 4
    same = world.pipeline("champion", "set", version, "--author", "risk", "--reason", "reviewed")
    assert same.returncode == 0, same.stderr
    assert "reviewed" in world.pipeline("champion", "show").stdout
    assert world.pipeline("run").returncode == 0
    assert "reviewed" in world.pipeline("champion", "show").stdout
    told = json.loads((world.folder / "data/promote/changes.json").read_text())
    assert {(each["model_version"], each["decision"]) for each in told} == {
        (version, "first"),
        (version, "set by hand"),
    }
    assert told[-1] | {"author": "risk", "reasons": ["reviewed"]} == told[-1]
    assert "reviewed" in (world.folder / CURRENT / "report/document.html").read_text()


def test_usage_errors_end_with_code_4(workspace):
    assert workspace.pipeline("fly").returncode == 4
    assert workspace.pipeline("run", "--as-of", "yesterday").returncode == 4
