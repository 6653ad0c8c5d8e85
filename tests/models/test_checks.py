"""Every check gives each of its answers on figures whose answer is known, and silence is never read as success."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from models.checks import CHECKS, Limits, run_checks
from models.finding import SEVERITIES, Band

RATES = {"rows": 1000, "bad": 50, "pd": 0.05, "rate": 0.05, "low": 0.04, "high": 0.065, "p": 0.5}
AREA = {"value": 0.8, "low": 0.75, "high": 0.85, "rows": 1000, "bad": 50}
FEATURE = {"feature": "f", "psi": 0.02, "noise": 0.01, "rise": 0.01}
ENDS = {"value": 0.05, "low": 0.04, "high": 0.06, "rows": 1000}
GROUP = {"group": "f", "decided": 500, "rate": 0.9, "ratio": 0.95, "p": 0.3}
GOOD = {
    "run": {"model_figures_of": "champion"},
    "scores": {"customers": 100, "invalid_pd": 0, "out_of_range_share": 0.1,
               "by_month": [{"months_back": 1, "customers": 99}, {"months_back": 0, "customers": 100}]},
    "score_drift": {"now": {"psi": 0.05, "noise": 0.01, "against": "12 months ago"}},
    "features": {"compared": 1, "top": [FEATURE], "missing": [FEATURE], "identifier_like": []},
    "data": {"tables": [{"table": "t", "read": 1000, "left_out": 0, "quarantined": 1}]},
    "model": {"total": RATES, "auc": AREA, "by_month": [{"group": "2025-01", "rows": 10}]},
    "labels": {"by_month": [{"month": "2025-01", "good": 9, "bad": 1, "unknown": 2}]},
    "realised": {"total": RATES, "by_grade": [{"group": "A", "light": "green"}, {"group": "B", "light": "amber"}]},
    "flow": {"known": 105, "excluded": 5, "population": 100, "scored": 100, "decided": 100},
    "portfolio": {"by_grade": [{"group": "A", "customers": 60}, {"group": "B", "customers": 40}],
                  "herfindahl_beyond_even": {"industry": 0.02, "region": 0.1}, "largest_exposure_share": 0.01},
    "decline": {"first": 0.8, "now": 0.79, "decline": 0.01, "p": 0.2, "p_both": 0.3},
    "expected": {"by_month": [{"months_back": back, "rate": ENDS, "auc": {**ENDS, "value": 0.8}} for back in (12, 0)]},
    "roll_rates": {"now": {"share": 0.05}, "before": {"share": 0.05}, "ratio": 1.0, "p": 0.5},
    "migration": {"1": {"worse": 30, "better": 25}},
    "fairness": {"inputs": [], "attributes": [{"attribute": "sex", "approval": [GROUP, {**GROUP, "ratio": None}]}]},
    "reasons": {"agreement": {"all": {"first": 0.7}}},
    "truth": {"test": {"auc_model": AREA, "auc_truth": {**AREA, "value": 0.85}}},
}  # fmt: skip
BROKEN = [  # code, path to one figure, its bad value, the severity that it must give
    ("M001", ("scores", "customers"), 0, "stop"),
    ("M002", ("scores", "invalid_pd"), 1, "stop"),
    ("M003", ("score_drift", "now", "psi"), 0.2, "warn"),
    ("M003", ("score_drift", "now", "psi"), 1.5, "stop"),
    ("M004", ("features", "missing", 0, "rise"), 0.5, "warn"),
    ("M005", ("data", "tables", 0, "quarantined"), 50, "warn"),
    ("M005", ("data", "tables", 0, "quarantined"), 500, "stop"),
    ("M006", ("model", "total"), {**RATES, "rate": 0.1, "bad": 100, "p": 1e-9}, "warn"),
    ("M007", ("model", "auc", "value"), 0.55, "warn"),
    ("M007", ("model", "auc", "value"), 0.45, "stop"),
    ("M008", ("scores", "by_month", 1, "customers"), 60, "warn"),
    ("M008", ("scores", "by_month", 1, "customers"), 30, "stop"),
    ("M009", ("flow", "scored"), 99, "stop"),
    ("M009", ("flow", "decided"), 99, "stop"),
    ("M009", ("flow", "excluded"), 4, "stop"),
    ("M010", ("features", "identifier_like"), ["account_number"], "warn"),
    ("M011", ("features", "top", 0, "psi"), 0.4, "warn"),
    ("M012", ("realised", "total"), {**RATES, "rate": 0.1, "bad": 100, "p": 1e-9}, "warn"),
    ("M013", ("scores", "out_of_range_share"), 0.5, "warn"),
    ("M014", ("portfolio", "by_grade", 0, "customers"), 400, "warn"),
    ("M016", ("labels", "by_month", 0, "good"), 0, "warn"),
    ("M017", ("decline",), {"first": 0.8, "now": 0.7, "decline": 0.1, "p": 0.001, "p_both": 0.01}, "warn"),
    ("M017", ("decline",), {"first": 0.8, "now": 0.7, "decline": 0.1, "p": 0.001, "p_both": None}, "warn"),
    ("M018", ("realised", "by_grade", 0, "light"), "red", "warn"),
    ("M019", ("expected", "by_month", 1, "rate"), {"value": 0.1, "low": 0.08, "high": 0.12, "rows": 1000}, "warn"),
    ("M020", ("expected", "by_month", 1, "auc"), {"value": 0.7, "low": 0.65, "high": 0.75, "rows": 1000}, "warn"),
    ("M021", ("roll_rates",), {"now": {"share": 0.1}, "before": {"share": 0.05}, "ratio": 2.0, "p": 1e-6}, "warn"),
    ("M022", ("migration", "1", "worse"), 300, "warn"),
    ("M022", ("migration", "1", "better"), 300, "warn"),
    ("M023", ("portfolio", "herfindahl_beyond_even", "industry"), 0.5, "warn"),
    ("M023", ("portfolio", "largest_exposure_share"), 0.2, "warn"),
    ("M024", ("fairness", "attributes", 0, "approval", 0), {**GROUP, "ratio": 0.6, "p": 1e-4}, "warn"),
    ("M025", ("fairness", "inputs"), ["customers_sex"], "stop"),
    ("M026", ("reasons", "agreement", "all", "first"), 0.3, "warn"),
    ("M015", ("truth", "test", "auc_truth", "value"), 0.95, "warn"),
]


def planted(path, value):
    """Return GOOD with one figure replaced."""
    figures = copy.deepcopy(GOOD)
    at = figures
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return figures


def answers(figures, limits=None):
    return {r["code"]: r for r in run_checks(figures, limits or Limits())}


def test_every_check_is_clear_on_good_figures():
    found = answers(GOOD)
    assert {r["answer"] for r in found.values()} == {"clear"}
    assert list(found) == sorted(found)
    assert len(found) == len(CHECKS) == len({c.code for c in CHECKS})


@pytest.mark.parametrize(("code", "path", "value", "severity"), BROKEN)
def test_a_planted_fault_is_found_by_its_check(code, path, value, severity):
    result = answers(planted(path, value))[code]
    assert (result["answer"], result["severity"]) == ("found", severity)
    assert result["explanation"]
    assert result["explanation_zh"]


def test_every_check_has_a_planted_fault():
    assert {c.code for c in CHECKS} == {code for code, *_ in BROKEN}


def test_without_figures_nothing_passes():
    """Absent figures are `not applicable`; no scores at all is found."""
    found = answers({})
    assert found.pop("M001")["answer"] == "found"
    assert {r["answer"] for r in found.values()} == {"not applicable"}
    assert all(r["explanation"] and r["explanation_zh"] for r in found.values())


@pytest.mark.parametrize("section", [name for name in GOOD if name not in ("run", "scores")])
def test_an_absent_section_never_breaks_a_check(section):
    figures = {**copy.deepcopy(GOOD), section: {}}
    assert "not applicable" in {r["answer"] for r in answers(figures).values()}


def test_records_have_the_fields_that_publish_and_report_read():
    for result in run_checks(GOOD, Limits()):
        assert set(result) == {
            "code",
            "title",
            "title_zh",
            "severity",
            "answer",
            "explanation",
            "explanation_zh",
            "figures",
        }
        assert result["severity"] in SEVERITIES


def test_chance_alone_is_no_drift():
    """A PSI above the limit but within what samples of one population show is clear."""
    figures = planted(("score_drift", "now"), {"psi": 0.3, "noise": 0.4, "against": "12 months ago"})
    assert answers(figures)["M003"]["answer"] == "clear"


def test_rows_that_trained_tell_nothing_about_drift():
    """Where every scored row is a training row, equal features are no sign of stability."""
    assert answers(planted(("scores", "in_training"), 100))["M011"]["answer"] == "not applicable"


def test_a_significant_but_small_difference_of_rates_is_clear():
    figures = planted(("model", "total"), {**RATES, "rate": 0.055, "p": 1e-9})
    assert answers(figures)["M006"]["answer"] == "clear"


def test_a_candidate_that_does_not_score_never_stops_publication():
    figures = planted(("model", "auc", "value"), 0.4)
    figures["run"]["model_figures_of"] = "candidate"
    result = answers(figures)["M007"]
    assert (result["answer"], result["severity"]) == ("found", "warn")
    assert "candidate" in result["explanation"]


def test_limits_are_parameters():
    limits = Limits(auc=Band(warn=0.9), identifier_share=0.5)
    assert answers(GOOD, limits)["M007"]["severity"] == "warn"
    assert answers(planted(("model", "auc", "value"), 0.2), Limits(auc=Band()))["M007"]["answer"] == "clear"
    with pytest.raises(ValidationError):
        Limits.model_validate({"no_such_limit": 1})


def test_setting_one_end_of_a_band_keeps_the_other():
    """`auc: {warn: 0.7}` in params.yaml must not switch the stop off; null does."""
    assert Limits.model_validate({"auc": {"warn": 0.7}}).auc == Band(warn=0.7, stop=0.5)
    assert Limits.model_validate({"auc": {"stop": None}}).auc == Band(warn=0.6)
    with pytest.raises(ValidationError):
        Limits.model_validate({"auc": {"wran": 0.7}})


@pytest.mark.parametrize(("code", "path", "value"), [
    ("M017", ("decline",), {"first": 0.8, "now": 0.7, "decline": 0.1, "p": 0.04, "p_both": 0.2}),
    ("M019", ("expected", "by_month", 1, "rate"), {"value": 0.1, "low": 0.05, "high": 0.15, "rows": 20}),
    ("M021", ("roll_rates",), {"now": {"share": 0.1}, "before": {"share": 0.05}, "ratio": 2.0, "p": 0.2}),
    ("M024", ("fairness", "attributes", 0, "approval", 0), {**GROUP, "ratio": 0.6, "p": 0.2}),
])  # fmt: skip
def test_what_chance_explains_is_clear(code, path, value):
    assert answers(planted(path, value))[code]["answer"] == "clear"


def test_a_section_that_does_not_apply_gives_its_own_reason_in_both_languages():
    figures = {**copy.deepcopy(GOOD), "fairness": {"why": "no such column", "why_zh": "没有该列"}}
    for code in ("M024", "M025"):
        result = answers(figures)[code]
        assert (result["answer"], result["explanation"], result["explanation_zh"]) == (
            "not applicable", "no such column", "没有该列",
        )  # fmt: skip


def test_few_moved_grades_say_nothing():
    assert answers(planted(("migration", "1"), {"worse": 9, "better": 0}))["M022"]["answer"] == "not applicable"


def test_the_limits_in_params_are_the_defaults_and_none_is_left_out():
    """A reader of params.yaml sees every threshold."""
    from pathlib import Path

    import yaml

    written = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text("utf-8"))["monitor"]["limits"]
    assert set(written) == set(Limits.model_fields)
    assert Limits.model_validate(written) == Limits()
