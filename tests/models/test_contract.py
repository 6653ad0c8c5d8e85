"""The contract's checker finds every planted fault and nothing in a sound table."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from features.errors import ConfigurationRefused
from models import alerts, policy
from models.contract import PENDING, TableContract, check_table
from models.grades import Scale

TEXT = Path("data/contracts/scored_customers.v1.json").read_text(encoding="utf-8")
CONTRACT = TableContract.from_json(TEXT)
GRADES = {"grades": Scale().names}
ROW = {
    "customer_id": "a", "as_of": dt.date(2026, 1, 1), "run_id": "0123456789abcdef", "model_version": "m",
    "data_version": "0123456789abcdef", "pd_12m": 0.1, "pd_low": 0.05, "pd_high": 0.2, "pd_raw": 0.12, "score": 551,
    "grade": "D2", "grade_previous": "D1", "grade_change": -1, "grade_3m": None, "grade_6m": None, "grade_12m": None,
    "grade_published_before": None, "exposure": Decimal("1000.00"), "loss_given_default": 0.6,
    "expected_loss": Decimal("60.00"), "credit_limit": None, "credit_limit_recommended": Decimal("500.00"),
    "limit_rule": "grade_cap:D2; assumed lgd:person, income", "payment_term_days": 14, "action": "reduce",
    "alerts": "PD_HIGH;LIMIT_USE", "months_of_history": 24, "missing_share": 0.1, "out_of_range": 0, "in_training": False,
    "next_review_on": dt.date(2026, 2, 1),
}  # fmt: skip
for k, (code, points) in enumerate((("use", 9.0), ("late", 4.0), (None, None), (None, None)), start=1):
    ROW |= {f"reason_{k}_{part}": code and f"{part}" for part in ("text", "feature", "value", "typical")}
    ROW |= {f"reason_{k}_code": code, f"reason_{k}_points": points}


def table(*changes, without=()):
    """Return a sound table of two customers and one for each change, laid over a sound row."""
    rows = [ROW, ROW | {"customer_id": "b"}, *(ROW | {"customer_id": f"c{i}"} | c for i, c in enumerate(changes))]
    schema = CONTRACT.arrow_schema(without=without)
    return pa.Table.from_pylist([{n: row[n] for n in schema.names} for row in rows], schema=schema)


def check(found, **options):
    return check_table(found, CONTRACT, **{"enumerations": GRADES} | options)


def test_a_sound_table_breaks_nothing():
    """As Arrow, as a frame, and with the contract as plain data, which is how publish gives it."""
    assert check(table()) == []
    assert check_table(table(), json.loads(TEXT)) == []
    assert check(table().to_pandas()) == []


def test_what_publish_fills_may_be_pending():
    """decide writes neither; publish may leave none."""
    early = table(without=("grade_published_before",))
    place = early.schema.get_field_index("run_id")
    early = early.set_column(place, "run_id", pa.nulls(early.num_rows, pa.string()))
    assert check(early, pending=PENDING) == []
    assert [p.found for p in check(early)] == ["no grade_published_before", "2 nulls"]


FAULTS = {
    "never null": ({"pd_12m": None}, "pd_12m"),
    "probability": ({"pd_high": 1.2}, "pd_high"),
    "NaN": ({"missing_share": float("nan")}, "missing_share"),
    "grade": ({"grade": "Z1"}, "grade"),
    "action": ({"action": "cancel"}, "action"),
    "alerts": ({"alerts": "PD_HIGH;OTHER"}, "alerts"),
    "limit rule": ({"limit_rule": "grade_cap"}, "limit_rule"),
    "run": ({"run_id": "2026-01-01"}, "run_id"),
    "money": ({"exposure": Decimal("-1.00"), "expected_loss": Decimal("0.00")}, "exposure"),
    "interval": ({"pd_low": 0.15}, "interval"),
    "expected loss": ({"expected_loss": Decimal("60.01")}, "expected_loss"),
    "expected loss null": ({"expected_loss": None}, "expected_loss"),
    "change": ({"grade_change": None}, "grade_change"),
    "no basis": ({"credit_limit_recommended": None}, "limit"),
    "reasons in order": ({"reason_2_points": 9.5}, "reasons"),
    "reasons from the first": ({"reason_1_code": None, "reason_1_points": None}, "reasons"),
    "different reasons": ({"reason_2_code": "use"}, "reasons"),
    "key": ({"customer_id": "b"}, "customer_id"),
    "order": ({"customer_id": "aa"}, "customer_id"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.fault("E10")
def test_each_planted_fault_is_found_alone(fault):
    """One problem, that names the column or rule and a count, and no customer."""
    change, where = FAULTS[fault]
    problems = check(table(change))
    assert [p.where for p in problems] == [f"scored_customers v1: {where}"]
    assert "c0" not in problems[0].sentence()


def test_all_faults_are_found_together():
    """The first does not hide the others."""
    problems = check(table({"action": "cancel", "pd_high": 2.0, "alerts": "X"}))
    assert {p.where.split(": ")[1] for p in problems} == {"action", "pd_high", "alerts"}


def test_columns_of_another_type_in_another_order_or_absent_are_found():
    """And a column after the contract's last is none of our business."""
    sound = table()
    place = sound.schema.get_field_index("score")
    assert [p.found for p in check(sound.set_column(place, "score", sound["score"].cast(pa.int64())))] == ["int64"]
    assert [p.found for p in check(sound.select([*sound.column_names[1:], "customer_id"]))] == ["another order"]
    assert [p.found for p in check(sound.drop_columns(["score"]))] == ["no score"]
    assert check(sound.append_column("later", pa.array([1, 2]))) == []


def test_an_empty_table_is_sound():
    """Whether it may be published is not the contract's question."""
    assert check(table().slice(0, 0)) == []


def test_the_contract_lists_what_the_code_can_write():
    """Actions and alert codes are those of the policy and of the rules, in the order of the alerts."""
    columns = {c.name: c for c in CONTRACT.columns}
    assert set(columns["action"].one_of) == set(policy.ACTIONS)
    assert columns["alerts"].one_of == alerts.CODES


def test_the_columns_are_those_of_version_1_in_order():
    """Columns are only ever added, after the last: these stay as they are."""
    first = [
        "customer_id",
        "as_of",
        "run_id",
        "model_version",
        "data_version",
        "pd_12m",
        "pd_low",
        "pd_high",
        "pd_raw",
        "score",
        "grade",
        "grade_previous",
        "grade_change",
        "grade_3m",
        "grade_6m",
        "grade_12m",
        "grade_published_before",
        "exposure",
        "loss_given_default",
        "expected_loss",
        "credit_limit",
        "credit_limit_recommended",
        "limit_rule",
        "payment_term_days",
        "action",
        "alerts",
    ]
    reasons = [
        f"reason_{k}_{p}" for k in range(1, 5) for p in ("code", "text", "feature", "value", "typical", "points")
    ]
    last = ["months_of_history", "missing_share", "out_of_range", "in_training", "next_review_on"]
    assert [c.name for c in CONTRACT.columns][:55] == [*first, *reasons, *last]


@pytest.mark.parametrize("fault", [{"columns": 1}, {"rules": [{"name": "other", "sentence": "x"}]}, {"more": 1}])
def test_a_file_that_is_no_contract_is_refused_with_exit_code_4(fault):
    """Unknown keys and unknown rules included."""
    with pytest.raises(ConfigurationRefused):
        TableContract.from_json(json.dumps(json.loads(TEXT) | fault))
