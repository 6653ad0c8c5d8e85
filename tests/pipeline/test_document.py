"""The model document: every chapter is there, every figure is the one of the file that it names, every law has its date."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_report import NASTY, make_run, run_stages, write, write_json
from workspaces import ROOT

from pipeline import bundle, plotted, promote

CHAPTERS = [
    "purpose", "data", "population", "default", "features", "method", "performance", "calibration", "stability", "limits",
    "changes", "sign_off",
]  # fmt: skip
SPEC = yaml.safe_load((ROOT / "pipeline/templates/document.yaml").read_text(encoding="utf-8"))
EXTRA = {  # what the artificial run of the report leaves out, with figures that no other file holds
    "observe/summary.json": {
        "horizon_months": 12, "until": "2025-01-01", "as_of": "2026-01-01", "observed_by": "panel", "population": "open_credit",
        "training": {"rows": 6151, "customers": 601, "dates": 11, "bad": 317},
        "default": {"days_past_due": 91, "materiality_absolute": "103", "materiality_relative": "0.017", "probation_months": 13,
                    "left_early": "unknown"},
    },
    "ingest/as_of.json": {"as_of": "2026-01-01", "newest_delivery": "2025-12-30", "newest_known_on": "2025-12-29",
                          "undated": False, "caveats": [NASTY], "currency": "EUR"},
    "train/summary.json": {"trained": True, "rows": 4337, "bads": 219, "rounds": 57, "learning_rate": 0.073, "seeds": 6,
                           "monotone": 8, "reproducible": True},
    "tune/summary.json": {"trials": 14, "auc": 0.7791, "default_auc": 0.7683},
    "tune/parameters.json": {"parameters": {"num_leaves": 9, "lambda_l2": 21.5}},
    "calibrate/summary.json": {"method": "beta", "why": "least log loss", "settings": {"level": 0.91, "long_run_default_rate": 0.0437}},
    "featurise/summary.json": {"built": {"arrears": {"features": 5, "sources": ["instalments"]}}, "families": ["a", "b", "c"]},
    "promote/changes.json": [
        {"model_version": "old1", "decision": "first", "author": "pipeline", "reasons": ["the first"], "champion": "old1",
         "git_commit": "c0ffee", "train_until": "2024-01-01", "test_auc": 0.7123},
        {"model_version": "ab12", "decision": "set by hand", "author": NASTY, "reasons": ["reviewed"], "champion": "ab12"},
    ],
}  # fmt: skip


class Rows(HTMLParser):
    """The cells of each row, by where its figure was read from; headings; tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.by_place: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self._row: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        got = dict(attrs)
        self.tags.append((tag, got))
        self.ids += [got["id"]] if "id" in got else []
        if tag == "tr":
            self._row = self.by_place.setdefault(got["data-at"], []) if "data-at" in got else None
        elif tag == "td" and self._row is not None:
            self._row.append("")

    def handle_data(self, data):
        self.texts.append(data)
        if self._row:
            self._row[-1] += data


def resolved(root: Path, at: str):
    """The value by a reader of its own: null where anything on the way is absent."""
    name, keys = at.split("#/")
    path = root / "data" / name
    value = json.loads(path.read_text()) if path.is_file() else None
    for key in keys.split("/") if keys else []:
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (KeyError, IndexError, TypeError):
            value = None
    return value


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = make_run(tmp_path_factory.mktemp("document"), customers=300, features=4)
    for name, content in EXTRA.items():
        write_json(root / "data" / name, content)
    return root


def documented(root: Path, monkeypatch, language: str = "en") -> tuple[dict, Rows, str]:
    path = root / "params.yaml"
    path.write_text(re.sub("language: ..", f"language: {language}", path.read_text()))
    run_stages(root, monkeypatch)
    text = (root / "data/report/document.html").read_text(encoding="utf-8")
    return json.loads((root / "data/report/document.json").read_text()), Rows(text), text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_chapter_is_there_with_figures_that_equal_their_files(made, monkeypatch, language):
    figures, page, text = documented(made, monkeypatch, language)
    assert [name for name in page.ids if not name.startswith("law")] == CHAPTERS
    assert list(figures) == sorted(CHAPTERS)
    told = [fact for chapter in figures.values() for fact in chapter["facts"]]
    assert len(told) > 70
    known = 0
    for fact in told:
        value = resolved(made, fact["at"])
        counted = isinstance(value, dict | list) and isinstance(fact["value"], int)
        assert fact["value"] == (len(value) if counted else value), fact
        shown = page.by_place[fact["at"]][1]
        if fact["value"] is None:
            assert shown == {"en": "not known", "zh": "未知"}[language], fact
        elif isinstance(fact["value"], int | float) and not isinstance(fact["value"], bool):
            known += 1
            number = float(re.match(r"-?[\d,.]+", shown)[0].replace(",", "")) / (100 if "%" in shown else 1)
            assert number == pytest.approx(fact["value"], rel=2e-3, abs=6e-4), fact
        elif isinstance(fact["value"], str):
            assert fact["value"] in shown
    assert known > 25
    for place, expected in {
        "observe/summary.json#/default/days_past_due": "91", "train/summary.json#/rows": "4,337",
        "tune/summary.json#/auc": "0.779", "calibrate/summary.json#/settings/long_run_default_rate": "4.37%",
    }.items():  # fmt: skip
        assert page.by_place[place][1] == expected
    assert "lambda_l2: 21.5" in page.by_place["tune/parameters.json#/parameters"][1]
    for chapter in SPEC["chapters"]:
        assert any(chapter["title"][language == "zh"] in one for one in page.texts), chapter["key"]
    assert NASTY not in text
    assert not re.search(r"\bNone\b|Undefined|\{\{", "".join(page.texts))


def test_the_change_log_tells_the_newest_first_with_commit_and_author(made, monkeypatch):
    figures, page, _ = documented(made, monkeypatch)
    (table,) = figures["changes"]["tables"]
    assert [row[0] for row in table["rows"]] == ["ab12", "old1"]
    assert table["rows"][1][1:3] + table["rows"][1][-2:] == ["first", "pipeline", 0.7123, "c0ffee"]
    assert "".join(page.texts).index("ab12") < "".join(page.texts).index("c0ffee")


def test_every_statement_of_law_carries_its_date_and_source(made, monkeypatch):
    _, page, text = documented(made, monkeypatch)
    whole = "".join(page.texts)
    asked = {law for chapter in SPEC["chapters"] for law in chapter["asks"]}
    assert asked == set(SPEC["laws"]), "each law is asked for somewhere, and each that asks is listed"
    for key, law in SPEC["laws"].items():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", law["date"])
        assert law["sources"]
        entry = re.search(rf'<li id="law-{key}">.*?</li>', text, re.DOTALL)[0]
        assert law["date"] in entry
        assert all(source.replace("&", "&amp;") in entry for source in law["sources"])
        for chapter in SPEC["chapters"]:
            if key in chapter["asks"]:
                assert f"{law['name'][0]} ({law['date']}): {chapter['asks'][key][0]}" in whole


def test_every_text_is_a_pair_and_every_file_it_reads_a_dep_of_the_stage():
    def pairs(value):
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            if key in ("title", "label", "text", "name", "says") or (key == "people"):
                yield from (
                    inner
                    if key in ("people", "says") and isinstance(inner[0], list)
                    else [inner]
                    if isinstance(inner[0], str)
                    else []
                )
            if key in ("words", "asks"):
                yield from inner.values()
            elif key != "sources":
                yield from pairs(inner)

    found = list(pairs(SPEC))
    assert len(found) > 150
    for pair in found:
        assert len(pair) == 2, pair
        assert all(isinstance(side, str) and side for side in pair), pair
        assert not re.search("[一-鿿]", pair[0]), pair
    names = {
        name
        for name in re.findall(r"([a-z_]+/[a-z_/]+\.json)#/", (ROOT / "pipeline/templates/document.yaml").read_text())
        if name != "report/figures.json"
    }
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]["deps"]
    for name in names:
        path = f"data/{name}"
        assert any(path == dep or path.startswith(f"{dep}/") for dep in deps), f"{path} is no dep of report"


def test_where_the_source_states_outcomes_the_parameters_definition_is_not_claimed(made, monkeypatch, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(made, root)
    path = root / "data/observe/summary.json"
    write_json(path, {**json.loads(path.read_text()), "observed_by": "source"})
    _, page, text = documented(root, monkeypatch)
    assert "observe/summary.json#/default/days_past_due" not in page.by_place
    assert "The source states the outcome itself" in text


def test_a_run_that_left_nothing_has_a_document_that_knows_nothing(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("source: berka\nlanguage: en\nmonitor: {}\nreport: {}\n")
    figures, page, _ = documented(tmp_path, monkeypatch)
    assert [name for name in page.ids if not name.startswith("law")] == CHAPTERS
    told = [fact for chapter in figures.values() for fact in chapter["facts"]]
    unknown = [fact for fact in told if fact["value"] is None]
    assert len(unknown) > len(told) - 10
    assert all(page.by_place[fact["at"]][1] == "not known" for fact in unknown)
    assert not re.search(r"\bNone\b|Undefined", "".join(page.texts))


def test_drift_proposes_a_retrain_on_the_page_in_the_document_and_in_the_figures(made, monkeypatch, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(made, root)
    path = root / "data/featurise/scoring/features.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["months_back"] == 0, "feature_3"] += 5
    rows["as_of"] = rows["as_of"].astype("datetime64[ms]")
    write(path, rows)
    figures, page, _ = documented(root, monkeypatch)
    index = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert "A retrain is proposed, by M011: `python -m pipeline retrain` would move" in index
    assert "from 2025-01-01 to 2026-01-01" in index
    proposed = json.loads((root / "data/report/figures.json").read_text())["retrain"]
    assert (proposed["proposed"], proposed["newer"]) == (True, True)
    assert [row[0] for table in figures["stability"]["tables"][1:] for row in table["rows"]] == ["M011"]
    assert page.by_place["report/figures.json#/retrain/proposed"][1] == "yes"


def test_the_log_of_changes_is_kept_in_order_once_and_survives_a_torn_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = {"model_version": "a", "decision": "first", "champion": "a"}
    later = {"model_version": "b", "decision": "kept", "champion": "a"}
    for facts in (first, first, later):
        bundle.note_change("shop", **facts)
    log = bundle.CHANGES / "shop.jsonl"
    log.write_bytes(log.read_bytes() + b'{"model_version": "c')
    assert bundle.changes("shop") == [first, later]
    bundle.note_change("shop", **first)
    assert bundle.changes("shop") == [first, later, first]
    assert bundle.changes("another") == []
    write_json(bundle.CHAMPION / "old.json", {"model_version": "z", "author": "risk", "reason": "before the log"})
    (told,) = promote._changes("old", "z")
    assert (told["champion"], told["author"], told["decision"]) == ("z", "risk", "before the log")
    assert promote._changes("shop", "a") == [first, later, first]


def test_plots_hold_every_list_of_records_and_no_customer(tmp_path):
    figures = {
        "model": {"by_month": [{"group": "2024-01", "auc": {"value": 0.8, "low": 0.7}, "bins": [1, 2]}], "roc": [[0, 0], [1, 1]]},
        "segments": {"a/../b": [{"level": "x", "rows": 3}]},
        "worst": [{"customer_id": "c1", "pd": 0.5}], "deep": {"shown": [{"customer_id": "c2"}]}, "checks": [{"code": "M001"}],
    }  # fmt: skip
    plotted.write(figures, tmp_path / "plots")
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "plots").iterdir()}
    assert found["model_by_month.json"] == [{"group": "2024-01", "auc_value": 0.8, "auc_low": 0.7}]
    assert found["segments_a_.._b.json"] == [{"level": "x", "rows": 3}]
    assert {name for name, rows in found.items() if not rows} == {f"{name}.json" for name in plotted.DRAWN}
    assert len(found) == 2 + len(plotted.DRAWN)
    assert not re.search("c1|c2|M001", json.dumps(found))
