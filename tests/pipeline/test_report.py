"""monitor and report on an artificial run whose answers are known, and on runs where almost everything is absent."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, logit

from models.grades import Scale

GRADES = ["A1", "A2", "B1", "B2", "C1", "C2", "D1", "D2", "E1", "E2"]
BOUNDS = np.array([0.0025, 0.005, 0.01, 0.02, 0.035, 0.06, 0.10, 0.18, 0.30])
NASTY = "<script>alert('x')</script>"


def write(path: Path, frame: pd.DataFrame, money: tuple[str, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for i, column in enumerate(table.schema):
        if column.name in money:
            table = table.set_column(i, column.name, table.column(i).cast(pa.decimal128(18, 2), safe=False))
        elif pa.types.is_timestamp(column.type):
            table = table.set_column(i, column.name, table.column(i).cast(pa.date32()))
    pq.write_table(table, path)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_run(root: Path, customers: int = 600, language: str = "en", split: str = "time", features: int = 12) -> Path:
    """Write what every stage before monitor leaves: PDs are the truth with noise, outcomes are drawn from the truth."""
    rng = np.random.default_rng(7)
    data = root / "data"
    (root / "params.yaml").write_text(
        f"source: simulated\nas_of: latest\nlanguage: {language}\nmonitor: {{}}\nreport: {{}}\n"
    )
    ids = np.array([f"c{i:06d}" for i in range(customers)])
    months = pd.date_range("2022-01-01", "2026-01-01", freq="MS")
    base, walk = rng.normal(-3.4, 1.1, customers), rng.normal(0, 0.15, (len(months), customers)).cumsum(axis=0)
    truth = expit(base + walk)
    grid = pd.DataFrame(
        {"customer_id": np.tile(ids, len(months)), "as_of": np.repeat(months, customers), "true_pd": truth.ravel()}
    )
    grid["pd"] = expit(logit(grid["true_pd"]) + rng.normal(0, 0.5, len(grid)))
    grid["outcome"] = (rng.random(len(grid)) < grid["true_pd"]).astype("int8")
    grid["pd_low"], grid["pd_high"] = expit(logit(grid["pd"]) - 1), expit(logit(grid["pd"]) + 1)
    grid["pd_raw"] = grid["pd"]
    grid["score"] = np.rint(600 + 20 / np.log(2) * (-logit(grid["pd"]) - np.log(50))).astype(int)
    grid["grade"] = np.array(GRADES)[np.searchsorted(BOUNDS, grid["pd"], side="right")]
    write(data / "simulate/truth/truth.parquet", grid[["customer_id", "as_of", "true_pd"]])
    for i in range(features):
        signal = logit(grid["true_pd"]) * (i % 3 == 0) + rng.normal(0, 1, len(grid))
        grid[f"feature_{i}"] = np.where(rng.random(len(grid)) < 0.1, np.nan, signal)
    names = [f"feature_{i}" for i in range(features)]
    scoring = grid[grid["as_of"] >= "2025-01-01"].copy()
    scoring["months_back"] = (2026 - scoring["as_of"].dt.year) * 12 + 1 - scoring["as_of"].dt.month
    training = grid[grid["as_of"] < "2024-02-01"]
    scoring["in_training"], scoring["missing_share"] = False, 0.1
    scoring["out_of_range"] = 0
    scores = [
        "customer_id",
        "as_of",
        "months_back",
        "pd_raw",
        "pd",
        "pd_low",
        "pd_high",
        "score",
        "grade",
        "in_training",
        "missing_share",
        "out_of_range",
    ]
    write(data / "score/scores.parquet", scoring[scores])
    write(data / "featurise/scoring/features.parquet", scoring[["customer_id", "as_of", "months_back", *names]])
    write(data / "featurise/training/features.parquet", training[["customer_id", "as_of", "outcome", *names]])
    test = training["as_of"] >= "2023-08-01"
    parts = training[["customer_id", "as_of"]].assign(part=np.where(test, "test", "train"))
    write(data / "select/parts.parquet", parts)
    write_json(
        data / "select/features.json",
        {
            "features": [{"name": n} for n in names],
            "split": {
                "kind": split,
                "why": "49 months of history" if split == "time" else "undated",
                "test_from": "2023-08-01",
            },
        },
    )
    unseen = (
        training[test]
        if split == "time"
        else training.sample(frac=0.2, random_state=1).sort_values(["as_of", "customer_id"])
    )
    asked = unseen[["customer_id", "as_of", "outcome", "pd_raw", "pd"]].assign(
        part="test" if split == "time" else "cross_validation", fold=None
    )
    known = training[~test][["customer_id", "as_of", "outcome", "pd_raw"]].assign(
        part="train", fold=0, pd=0.5
    )  # of no use to anyone
    write(data / "evaluate/predictions.parquet", pd.concat([known, asked], ignore_index=True))
    write_json(
        data / "evaluate/metrics.json", {"kind": "out_of_time", "test.brier": 0.0312345, "test.rows": len(asked)}
    )
    write_json(
        data / "promote/verdict.json",
        {"decision": "first", "reasons": ["the first model of this source"], "candidate": "ab12", "champion": "ab12"},
    )
    write_json(data / "promote/scorer/manifest.json", {"model_version": "ab12cd34ef56", "experiment": False})
    write_json(data / "promote/scorer/grades.json", json.loads(Scale().to_json()))
    write_json(
        data / "observe/summary.json",
        {"horizon_months": 12, "until": "2025-01-01", "as_of": "2026-01-01", "observed_by": "panel"},
    )
    observed = grid[["customer_id", "as_of", "outcome"]].copy()
    observed["outcome"] = observed["outcome"].astype("Int8").where(observed["as_of"] <= "2025-01-01")
    # a default inside an open window is known early; good is not
    early = (grid["as_of"] > "2025-01-01") & (grid["outcome"] == 1) & (rng.random(len(grid)) < 0.5)
    observed.loc[early, "outcome"] = 1
    left = pd.DataFrame(
        {
            "customer_id": [f"x{i}" for i in range(20)],
            "as_of": months[-1],
            "outcome": pd.array([None] * 20, dtype="Int8"),
        }
    )
    observed = pd.concat(
        [observed.assign(excluded_because=None), left.assign(excluded_because="in default")], ignore_index=True
    )
    write(data / "observe/observations.parquet", observed)
    write(data / "observe/scoring.parquet", scoring[["customer_id", "as_of", "months_back"]])
    write_json(data / "ingest/as_of.json", {"as_of": "2026-01-01", "currency": "EUR", "source": "simulated"})
    write_json(
        data / "ingest/quality.json",
        {
            "source": "simulated",
            "tables": {
                "transactions": {
                    "blocks": [{"read": 100_000, "kept": 99_900, "quarantined": 100, "deduplicated": 0, "left_out": 0}],
                    "rules": {"amount is a number": 100},
                    "kept": 99_900,
                },
                "credits": {
                    "blocks": [{"read": 1000, "kept": 900, "quarantined": 0, "deduplicated": 40, "left_out": 60}],
                    "rules": {},
                    "kept": 900,
                },
            },
        },
    )
    write_table(data, scoring, customers, rng)
    return root


def write_table(data: Path, scoring: pd.DataFrame, customers: int, rng: np.random.Generator) -> None:
    now = scoring[scoring["months_back"] == 0].reset_index(drop=True)
    before = scoring[scoring["months_back"] == 1].reset_index(drop=True)
    table = now[
        [
            "customer_id",
            "as_of",
            "pd_low",
            "pd_high",
            "pd_raw",
            "score",
            "grade",
            "in_training",
            "out_of_range",
            "missing_share",
        ]
    ].copy()
    table["pd_12m"], table["grade_previous"] = now["pd"], before["grade"]
    place = {g: i for i, g in enumerate(GRADES)}
    table["grade_change"] = before["grade"].map(place) - now["grade"].map(place)
    table["exposure"] = np.round(rng.lognormal(9, 1, customers), 2)
    table["loss_given_default"] = 0.45
    table["expected_loss"] = np.round(table["pd_12m"] * 0.45 * table["exposure"], 2)
    table["credit_limit"] = np.round(table["exposure"] * 1.5, 2)
    table["credit_limit_recommended"] = np.where(table["pd_12m"] > 0.2, 0, table["credit_limit"])
    table["limit_rule"], table["action"] = (
        "loss_appetite; assumed lgd:person, income",
        np.where(table["pd_12m"] > 0.2, "stop", "keep"),
    )
    table["payment_term_days"] = 30
    people = {
        "customer_id": "1",
        "field": "action",
        "value": "keep",
        "author": "risk",
        "reason": NASTY,
        "until": "2030-01-01",
    }
    write(data / "decide/overrides.parquet", pd.DataFrame([people]))
    table["alerts"] = np.where(table["grade_change"] < -1, "grade_drop;pd_high", "")
    facts = now[["customer_id", "as_of", "months_back"]].assign(kind="company", segment=None)
    facts["industry"], facts["region"] = (
        rng.choice(["trade", "construction", NASTY, "transport"], customers),
        rng.choice(["north", "south"], customers),
    )
    write(data / "featurise/scoring/position.parquet", facts)
    for k in range(1, 5):
        table[f"reason_{k}_code"], table[f"reason_{k}_points"] = f"R{k:02d}", 12.0 - k
        table[f"reason_{k}_text"] = f"Paid {k} instalments late in the last 12 months" if k > 1 else f"Late & {NASTY}"
        table[f"reason_{k}_feature"], table[f"reason_{k}_value"], table[f"reason_{k}_typical"] = (
            f"feature_{k}",
            float(k),
            0.0,
        )
    money = ("exposure", "expected_loss", "credit_limit", "credit_limit_recommended")
    write(data / "decide/table.parquet", table, money)


def run_stages(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, list[dict], str]:
    """Run both stages in `root`; return figures, checks and page."""
    from pipeline import monitor, report

    monkeypatch.chdir(root)
    monitor.main()
    report.main()
    figures = json.loads((root / "data/monitor/figures.json").read_text(encoding="utf-8"))
    checks = json.loads((root / "data/monitor/checks.json").read_text(encoding="utf-8"))
    return figures, checks, (root / "data/report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def found(checks: list[dict]) -> set[str]:
    return {c["code"] for c in checks if c["answer"] == "found"}


class Page(HTMLParser):
    """The page's elements, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_figures_agree_with_the_files_they_come_from(run, monkeypatch):
    """Sums, AUC beside the truth's, coverage, migration and matured rows, each taken from the files by another road."""
    import duckdb
    from sklearn.metrics import roc_auc_score

    figures, checks, _ = run_stages(run, monkeypatch)
    sql = duckdb.connect()
    rows, exposure, loss = sql.sql(
        "select count(*), sum(exposure), sum(expected_loss) from 'data/decide/table.parquet'"
    ).fetchone()
    total = figures["portfolio"]["total"]
    assert (total["customers"], total["exposure"], total["expected_loss"]) == (rows, float(exposure), float(loss))
    assert sum(g["customers"] for g in figures["portfolio"]["by_industry"]) == rows
    assert json.loads(Path("data/report/figures.json").read_text())["overrides"][0]["field"] == "action"
    assert "Decided by people in place of the policy" in Path("data/report/index.html").read_text()
    assert figures["portfolio"]["assumed"] == {"income": rows, "lgd:person": rows}
    assert [g["group"] for g in figures["portfolio"]["by_limit_rule"]] == ["loss_appetite"]
    joined = sql.sql("""select outcome, pd, true_pd from 'data/evaluate/predictions.parquet' join 'data/simulate/truth/truth.parquet'
        using (customer_id, as_of) where part = 'test'""").df()
    test = figures["truth"]["test"]
    assert test["auc_model"]["value"] == pytest.approx(roc_auc_score(joined["outcome"], joined["pd"]))
    assert test["auc_truth"]["value"] == pytest.approx(roc_auc_score(joined["outcome"], joined["true_pd"]))
    assert figures["model"]["auc"]["rows"] == len(joined) < len(pd.read_parquet("data/evaluate/predictions.parquet"))
    assert test["auc_truth"]["value"] > test["auc_model"]["value"]
    covered = sql.sql("""select avg((true_pd between pd_low and pd_high)::int) from 'data/score/scores.parquet'
        join 'data/simulate/truth/truth.parquet' using (customer_id, as_of) where months_back = 0""").fetchone()[0]
    assert figures["truth"]["now"]["coverage"] == pytest.approx(covered)
    same = sql.sql("""select count(*) from 'data/score/scores.parquet' a join 'data/score/scores.parquet' b using (customer_id)
        where a.months_back = 0 and b.months_back = 12 and a.grade = b.grade""").fetchone()[0]
    assert figures["migration"]["12"]["same"] == same
    assert figures["realised"]["total"]["rows"] == 600  # one date of thirteen has a closed window
    assert figures["run"]["figures_of"] == "model"
    assert {c["code"] for c in checks if c["answer"] == "not applicable"} == {"M021", "M024", "M025", "M026"}
    assert not {c["code"] for c in checks if c["answer"] == "found" and c["severity"] == "stop"}


def test_the_page_stands_alone_and_escapes_every_text(run, monkeypatch):
    """No script, no address, no text of data as markup; every chart drawn; all words of the page known."""
    figures, checks, text = run_stages(run, monkeypatch)
    page = Page(text)
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert NASTY in "".join(page.words)
    assert not [
        a
        for _, attributes in page.tags
        for k, a in attributes.items()
        if k in ("src", "href") and not str(a).startswith(("#", "data:", "document.html"))
    ]
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", text)
    assert not re.search(r"url\(|@import", text)
    assert tags.count("figure") >= 10
    assert tags.count("article") == 60
    assert not re.search(
        r"\bNone\b|\bnan\b|Undefined|\{\{|\{n\}|\{rows\}", "".join(page.words[page.words.index("Found") :])
    )
    told = json.loads((run / "data/report/figures.json").read_text(encoding="utf-8"))
    assert told["checks"] == checks
    assert told["portfolio"] == figures["portfolio"]
    assert len(told["worst"]) == 20
    stakes = [c["at_stake"] for c in told["worst"]]
    assert stakes == sorted(stakes, reverse=True)


def test_every_word_of_the_template_exists_in_both_languages():
    import yaml

    from pipeline.report import TEMPLATES

    words = yaml.safe_load((TEMPLATES / "words.yaml").read_text(encoding="utf-8"))
    template = "".join(path.read_text("utf-8") for path in sorted(TEMPLATES.glob("*.j2")))
    used = set(re.findall(r"\bw\.(\w+)", template)) | set(re.findall(r"\bw\[\"(\w+)\"\]", template))
    used |= {"agreement_averaged", "agreement_refits"}
    used |= {f"nav_{n}" for n in ("verdict", "portfolio", "worst", "reasons", "model", "data", "labels", "truth")}
    assert used <= set(words)
    assert not [key for key in set(re.findall(r"\bw\.(\w+)", template)) if hasattr({}, key)]
    for key, pair in words.items():
        assert len(pair) == 2, key
        assert all(pair), key
        assert set(re.findall(r"\{\w+\}", pair[0])) == set(re.findall(r"\{\w+\}", pair[1])), key


def test_a_random_split_makes_no_out_of_time_claim(tmp_path, monkeypatch):
    """The recipe's figures are called so, with the reason; by time the page says since when."""
    make_run(tmp_path, customers=200, split="random", features=3)
    figures, _, text = run_stages(tmp_path, monkeypatch)
    assert figures["run"]["figures_of"] == "recipe"
    assert "No out-of-time claim can be made" in text
    assert "undated" in text
    assert "figures are out of time" not in text


def test_by_time_the_page_says_since_when(run, monkeypatch):
    text = run_stages(run, monkeypatch)[2]
    assert "out of time: measured on rows from 2023-08-01" in text
    assert "No out-of-time claim" not in text


def test_chinese(tmp_path, monkeypatch):
    make_run(tmp_path, customers=150, language="zh", features=3)
    text = run_stages(tmp_path, monkeypatch)[2]
    assert 'lang="zh-CN"' in text
    assert "验证与监控报告" in text
    assert "已评分客户 150 个" in text
    assert "Validation and monitoring report" not in text


def test_same_input_same_bytes(run, monkeypatch):
    run_stages(run, monkeypatch)
    names = (
        "data/monitor/figures.json",
        "data/monitor/checks.json",
        "data/report/index.html",
        "data/report/figures.json",
    )
    first = [(run / n).read_bytes() for n in names]
    run_stages(run, monkeypatch)
    assert first == [(run / n).read_bytes() for n in names]


def leave_explained(data: Path) -> None:
    """Write what explain leaves of two families and one picture; names and sentences are nasty."""
    row = {"feature": NASTY, "family": "use", "sentence": NASTY, "typical": "<b>3", "importance": 0.25}
    families = [{"family": "use", "importance": 0.25}, {"family": "late", "importance": 0.1}]
    told = {"explained": True, "families": families, "features": [row], "reference": {"rows": 1234}}
    shares = {"lowered": 0.821, "unchanged": 0.1, "raised": 0.079, "first_lowered": 0.9, "points": 3.25}
    agreed = {"first": 0.8125, "first_by_chance": 0.2, "first_among_four": 0.95, "shared": 0.75}
    write_json(data / "explain/global.json", told)
    write_json(
        data / "explain/soundness.json",
        {
            "customers": 777, "counterfactual": {"reasons": 2222, "feature": shares, "family": shares},
            "agreement": {"measured": True, "averaged": False, "models": 3, "train_rows": 500, "train_rows_of_model": 900,
                          "all": agreed, "riskiest_tenth": agreed},
            "months": {"1": {"customers": 555, **agreed}},
            "shift": {"back": 12, "customers": 777, "customers_then": 666, "margin_then": -3.0, "margin_now": -3.1,
                      "points": 2.9, "families": [{"family": NASTY, "log_odds": -0.1, "points": 2.9}],
                      "features": [{"feature": NASTY, "family": "use", "log_odds": -0.1, "points": 2.9}]},
        },
    )  # fmt: skip
    (data / "explain/pictures").mkdir()
    (data / "explain/pictures/beeswarm.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_say_why_and_whether_reasons_hold(run, monkeypatch, language):
    """Shares of agreement and counterfactual on the page, pictures and typical values on a second; no text as markup."""
    plain_page = run_stages(run, monkeypatch)[2]
    assert not (run / "data/report/explanation.html").exists()
    assert "81.2%" not in plain_page
    (run / "params.yaml").write_text((run / "params.yaml").read_text().replace("language: en", f"language: {language}"))
    leave_explained(run / "data")
    text = run_stages(run, monkeypatch)[2]
    for told in ("81.2%", "82.1%", "2,222", "777", "555", "666", 'href="explanation.html"'):
        assert told in text, told
    second = (run / "data/report/explanation.html").read_text(encoding="utf-8")
    assert "data:image/png;base64,iVBORw==" in second
    for one in (text, second):
        assert NASTY not in one
        assert not [tag for tag, _ in Page(one).tags if tag == "script"]
    assert "1,234" in second
    assert json.loads((run / "data/report/figures.json").read_text())["reasons"]["soundness"]["customers"] == 777


def test_agreement_that_was_not_measured_is_said_to_be(run, monkeypatch):
    """With the reason, in place of figures."""
    leave_explained(run / "data")
    path = run / "data/explain/soundness.json"
    held = json.loads(path.read_text())
    write_json(path, {**held, "agreement": {"measured": False, "why": "there are no training rows"}})
    assert "was not measured: there are no training rows." in run_stages(run, monkeypatch)[2]


@pytest.mark.parametrize("lost", [
    "data/decide", "data/score", "data/featurise", "data/select", "data/evaluate", "data/promote", "data/observe", "data/ingest", "data/simulate",
])  # fmt: skip
def test_an_absent_input_never_breaks_the_page(run, monkeypatch, lost):
    shutil.rmtree(run / lost)
    _, checks, text = run_stages(run, monkeypatch)
    assert ("M001" in found(checks)) is (lost == "data/score")
    assert "not applicable" in {c["answer"] for c in checks} or lost in ("data/select", "data/promote")
    Page(text)


def test_nothing_at_all_is_refused_with_a_page_that_says_why(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("source: berka\nmonitor: {}\nreport: {}\n")
    _, checks, text = run_stages(tmp_path, monkeypatch)
    assert found(checks) == {"M001"}
    assert "Publication is refused: 1 check of severity stop" in text


def test_empty_tables_are_as_good_as_absent_ones(run, monkeypatch):
    """Without a scorer score, explain and decide write tables without rows; observe may find nobody."""
    for path in sorted((run / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 0), path)
    (run / "data/promote/verdict.json").write_text(
        json.dumps({"decision": "no candidate", "reasons": ["too few defaults"], "candidate": None, "champion": None})
    )
    shutil.rmtree(run / "data/promote/scorer")
    _, checks, text = run_stages(run, monkeypatch)
    assert found(checks) == {"M001"}
    assert "No model scores" in text
    assert "too few defaults" in text


def test_a_lost_customer_and_a_dead_feed_are_found(run, monkeypatch):
    """One customer fewer in the table stops publication; a feature gone missing in the last month warns."""
    table = pq.read_table(run / "data/decide/table.parquet")
    pq.write_table(table.slice(1), run / "data/decide/table.parquet")
    path = run / "data/featurise/scoring/features.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["months_back"] == 0, "feature_3"] = np.nan
    write(path, frame)
    figures, checks, text = run_stages(run, monkeypatch)
    assert {"M004", "M009", "M011"} <= found(checks)
    assert figures["features"]["top"][0]["feature"] == "feature_3"
    assert "Publication is refused" in text


def test_faults_planted_in_the_data_of_the_book_are_each_found_and_refused(run, monkeypatch):
    """Everyone at PD 30% now, last year's PDs dealt out anew and far too low, one huge customer, women refused, arrears that jump."""
    rng = np.random.default_rng(9)
    scores = pd.read_parquet(run / "data/score/scores.parquet")
    now, matured = scores["months_back"] == 0, scores["months_back"] == 12
    scores.loc[now, ["pd", "grade"]] = [0.29, "D2"]
    dealt = scores.loc[matured].sample(frac=1, random_state=1)
    scores.loc[matured, "pd"], scores.loc[matured, "grade"] = dealt["pd"].to_numpy() / 9, dealt["grade"].to_numpy()
    write(run / "data/score/scores.parquet", scores)
    ids = scores.loc[now, "customer_id"].to_numpy()
    women = rng.random(len(ids)) < 0.5
    known = pd.DataFrame({"customer_id": ids, "sex": np.where(women, "f", "m"), "known_on": pd.Timestamp("2021-01-01")})
    write(run / "data/ingest/tables/customers/known_month=2021-01/part.parquet", known)
    write_json(
        run / "data/ingest/tables.json", {"customers": {"columns": {"customer_id": "VARCHAR", "sex": "VARCHAR"}}}
    )
    write_json(
        run / "data/promote/scorer/features.json", {"features": [{"name": "feature_0"}, {"name": "customers_sex"}]}
    )
    path = run / "data/decide/table.parquet"
    table = pd.read_parquet(path)
    table["credit_limit_recommended"] = np.where(women, 0.0, 100.0)
    table["exposure"] = [1e9, *[1.0] * (len(table) - 1)]
    write(path, table)
    path = run / "data/featurise/scoring/position.parquet"
    stands = pd.concat([pd.read_parquet(path).assign(months_back=back, days_past_due=0) for back in (3, 2, 1, 0)])
    late = (stands["months_back"] == 0) & (rng.random(len(stands)) < 0.3)
    write(path, stands.assign(days_past_due=np.where(late, 20, 0)))
    figures, checks, text = run_stages(run, monkeypatch)
    assert {"M017", "M018", "M019", "M020", "M021", "M022", "M023", "M024", "M025"} <= found(checks)
    assert {c["code"] for c in checks if c["answer"] == "found" and c["severity"] == "stop"} >= {"M025"}
    assert "Publication is refused" in text
    assert figures["fairness"]["attributes"][0]["attribute"] == "sex"
    assert "customers_sex" in text


def test_a_candidate_that_does_not_score_is_called_so(run, monkeypatch):
    verdict = {"decision": "kept", "reasons": ["AUC not better"], "candidate": "new", "champion": "old"}
    write_json(run / "data/promote/verdict.json", verdict)
    _, checks, text = run_stages(run, monkeypatch)
    assert "the candidate does not score (kept)" in text
    assert "those of the candidate, not of the model that scores" in text
    assert "AUC not better" in text
    assert {c["code"]: c["answer"] for c in checks}["M017"] == "not applicable"
    logged = [{"model_version": "old", "test_auc": 0.99}, {"model_version": "new", "test_auc": 0.5}]
    write_json(run / "data/promote/changes.json", logged)
    _, checks, text = run_stages(run, monkeypatch)
    assert {c["code"]: c["answer"] for c in checks}["M017"] == "found"  # the champion's own evaluation was far better


def test_the_verdict_and_every_check_are_told_in_chinese(run, monkeypatch):
    """No English sentence of promote or of a check is left; what is not known to be translated stays as it is."""
    (run / "params.yaml").write_text((run / "params.yaml").read_text().replace("language: en", "language: zh"))
    reasons = [
        "AUC lower than the champion's by 0.0100 (95% interval -0.0010 to 0.0210, paired p 0.075), allowed 0.0050",
        "calibration slope 1.31, allowed 0.80 to 1.20", "a reason of tomorrow",
    ]  # fmt: skip
    verdict = {"decision": "kept", "reasons": reasons, "candidate": "new", "champion": "old"}
    write_json(run / "data/promote/verdict.json", verdict)
    _, checks, text = run_stages(run, monkeypatch)
    assert "保留冠军模型" in text
    assert "AUC 比冠军模型低 0.0100（95% 区间 -0.0010 至 0.0210，配对检验 p = 0.075），允许 0.0050" in text
    assert "校准斜率 1.31，允许 0.80 至 1.20" in text
    assert "a reason of tomorrow" in text
    words = "".join(Page(text).words)
    for check in checks:
        assert check["title"] not in words, check["code"]
        assert re.search(r"[\u4e00-\u9fff]", check["explanation_zh"]), check["code"]


def test_the_decision_of_every_verdict_has_a_chinese_word():
    """Decisions and reasons are found in the code that writes them."""
    from pipeline import chinese

    root = Path(__file__).parents[2]
    text = (root / "pipeline/promote.py").read_text("utf-8")
    decisions = set(re.findall(r'(?:return|decision, judgement =|"decision":) \(?"([a-z ]+)"', text))
    assert {"first", "not comparable", "champion not computable", "no candidate", "experiment"} <= decisions
    assert decisions | {"promoted", "kept"} <= set(chinese.DECISIONS)
    reasons = set(re.findall(r'reasons=\("([^"]+)",\)', text)) | {"1 as_of"}
    assert len(reasons) > 2
    assert {each for each in reasons if chinese.sentence(each) == each} == {"1 as_of"}


def test_figures_go_to_dvc_as_numbers_and_plots(run, monkeypatch):
    """The same numbers as figures.json, flat; every plot that dvc.yaml draws exists with the columns that it names."""
    import yaml

    figures, checks, _ = run_stages(run, monkeypatch)
    flat = json.loads((run / "data/monitor/metrics.json").read_text())
    assert flat["model.auc"] == figures["model"]["auc"]["value"]
    assert flat["expected.rate"] == figures["expected"]["by_month"][-1]["rate"]["value"]
    assert flat["checks.warn"] == len([c for c in checks if c["answer"] == "found" and c["severity"] == "warn"])
    assert flat["portfolio.exposure"] == figures["portfolio"]["total"]["exposure"]
    drawn = [
        next(iter(p.values())) for p in yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["plots"]
    ]
    seen = 0
    for plot in drawn:
        (path, x), (_, y) = next(iter(plot["x"].items())), next(iter(plot["y"].items()))
        if not path.startswith("data/monitor/"):
            continue
        seen += 1
        for record in json.loads((run / path).read_text())[:1]:
            assert {x, *([y] if isinstance(y, str) else y)} <= set(record), path
    assert seen >= 8


def test_industry_and_grade_texts_of_the_source_cannot_break_a_chart():
    from pipeline import charts

    drawn = charts.columns(NASTY, [NASTY, "b"], [[1, 2]])
    assert "<script" not in drawn
    assert charts.spark("x", [0.1, None]) == ""
    assert "<script" not in charts.spark(NASTY, [0.1, 0.2])
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.ticks(0.4, 0.9) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert charts.ticks(1, 1) == [1]
