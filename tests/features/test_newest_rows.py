"""The newest rows that an observation sees: drawn by hand, against a plain loop, and untouched by what comes later."""

from __future__ import annotations

import datetime as dt
from random import Random

import pyarrow as pa
import pytest

from features import records
from features.errors import ConfigurationRefused, DataRefused
from tests.features.drawn import draw, matrix_of, observe

CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on
    k1        a           own      2023-01-05
    k2        b           own      2023-01-05
    """,
)
STATEMENTS = """
    credit_id stated_on  balance days_past_due status known_on
    k1        2024-01-31 100     0             ok     2024-01-31
    k1        2024-02-28 90      40            late   2024-02-28
    k1        2024-02-28 95      -             ok     2024-03-15
    k1        2024-03-31 80      0             ok     2024-04-02
    k2        2024-03-10 10      0             ok     2024-03-10
"""


def seen(tables, asked, names, newest=24, **options):
    """Return (customer, as_of) -> rows without their key, the newest first, of one table."""
    matrix, observations = matrix_of(tables, observe(asked), **options)
    made, _ = records.declared(matrix, names, newest)
    whole = pa.concat_tables([part[names[0]] for part in records.groups(matrix, made, observations)])
    keys = [(row["as_of"], row["customer_id"], row["nth"]) for row in whole.to_pylist()]
    assert keys == sorted(keys)
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in whole.to_pylist():
        key = row.pop("customer_id"), row.pop("as_of").isoformat()
        assert row.pop("nth") == len(found.setdefault(key, [])) + 1
        found[key].append(row)
    return found


def test_a_row_counts_in_the_version_known_before_the_date():
    tables = {"credits": CREDITS, "statements": draw("statements", STATEMENTS)}
    found = seen(
        tables, "a 2024-03-01\na 2024-03-15\na 2024-03-16\na 2024-04-02\na 2024-04-03\nb 2024-03-10", ["statements"]
    )
    first = {"event_days": 2.0, "known_days": 2.0, "balance": 90.0, "days_past_due": 40.0, "status": "late"}
    assert found["a", "2024-03-01"][0] == first
    assert [row["balance"] for row in found["a", "2024-03-15"]] == [90.0, 100.0]  # known on the day itself: not before
    assert found["a", "2024-03-16"][0] == {
        "event_days": 17.0, "known_days": 1.0, "balance": 95.0, "days_past_due": None, "status": "ok",
    }  # fmt: skip
    assert [row["balance"] for row in found["a", "2024-04-02"]] == [95.0, 100.0]
    assert [row["balance"] for row in found["a", "2024-04-03"]] == [80.0, 95.0, 100.0]
    assert ("b", "2024-03-10") not in found


def test_an_event_still_to_come_is_no_record_and_other_dates_are_ages():
    instalments = draw(
        "instalments", "credit_id due_on amount known_on\nk1 2024-03-01 5 2023-01-05\nk1 2024-04-01 6 2023-01-05"
    )
    payments = draw(
        "payments", "payment_id credit_id paid_on amount due_on\np1 k1 2024-02-25 5 2024-03-10\np2 k1 2024-02-20 7 -"
    )
    tables = {"credits": CREDITS, "instalments": instalments, "payments": payments}
    assert seen(tables, "a 2024-03-01\na 2024-03-02\na 2024-05-01", ["instalments"]) == {
        ("a", "2024-03-02"): [{"event_days": 1.0, "known_days": 422.0, "amount": 5.0}],
        ("a", "2024-05-01"): [
            {"event_days": 30.0, "known_days": 482.0, "amount": 6.0},
            {"event_days": 61.0, "known_days": 482.0, "amount": 5.0},
        ],
    }
    assert seen(tables, "a 2024-03-01", ["payments"])["a", "2024-03-01"] == [
        {"event_days": 5.0, "known_days": 5.0, "due_on_days": -9.0, "amount": 5.0},
        {"event_days": 10.0, "known_days": 10.0, "due_on_days": None, "amount": 7.0},
    ]


def test_a_generic_history_equals_a_plain_loop():
    random = Random(5)
    rows = []
    for number in range(12):
        for _ in range(random.randrange(9)):
            event = dt.date(2024, 1, 1) + dt.timedelta(days=random.choice([0, 0, 59, 60, 61, random.randrange(120)]))
            known = event + dt.timedelta(days=random.choice([0, 0, 20]))
            channel = random.choice(["web", "shop", None])
            rows.append((f"c{number:02d}", event, float(random.randrange(9)), channel, "f", known))
    names = ("customer_id", "event_on", "length", "channel", "sex", "known_on")
    kinds = (pa.string(), pa.date32(), pa.float64(), pa.string(), pa.string(), pa.date32())
    visits = pa.table({name: pa.array([row[at] for row in rows], kinds[at]) for at, name in enumerate(names)})
    days = ["2024-03-01", "2024-03-02", "2024-04-15"]
    asked = "\n".join(f"c{number:02d} {day}" for day in days for number in range(12))
    options = {
        "attributes": {"visits": {"numeric": ["length"], "categorical": ["channel", "sex"]}}, "protected": ("Sex",),
        "training": observe("c00 2024-03-01"), "observations_at_once": 7,
    }  # fmt: skip
    found = seen({"visits": visits}, asked, ["visits"], newest=3, **options)
    for day in days:
        as_of = dt.date.fromisoformat(day)
        for number in range(12):
            past = [row for row in rows if row[0] == f"c{number:02d}" and row[1] < as_of and row[5] < as_of]
            past.sort(key=lambda r: (r[1], r[5], r[2], r[3] is None, r[3] or ""))
            expected = [((as_of - r[1]).days, (as_of - r[5]).days, r[2], r[3]) for r in past[::-1][:3]]
            got = found.get((f"c{number:02d}", day), [])
            assert [tuple(row.values()) for row in got] == expected
    mixed = visits.take(pa.array(random.sample(range(len(visits)), len(visits))))
    assert seen({"visits": mixed}, asked, ["visits"], newest=3, **options) == found


def test_what_becomes_known_later_changes_no_row_of_training_and_no_hash():
    early, late = (STATEMENTS, STATEMENTS + "k1 2024-06-30 1 0 gone 2024-06-30\nk1 2024-01-31 7 7 gone 2024-07-01")
    training = observe("a 2024-04-03\nb 2024-04-03")
    made = []
    for text in (early, late):
        tables = {"credits": CREDITS, "statements": draw("statements", text)}
        matrix, _ = matrix_of(tables, observe("a 2024-09-01"), training=training)
        kept, _ = records.declared(matrix, ["statements"], 24)
        parts = list(records.groups(matrix, kept, matrix.connection.table("training")))
        made.append(([part["statements"].to_pylist() for part in parts], kept[0].definition_hash))
    assert made[0] == made[1]


def test_the_hash_follows_what_the_rows_are():
    tables = {"credits": CREDITS, "statements": draw("statements", STATEMENTS)}
    matrix, _ = matrix_of(tables, observe("a 2024-04-03"))
    [first], [fewer] = (records.declared(matrix, ["statements"], newest)[0] for newest in (24, 12))
    less = {**tables, "statements": tables["statements"].drop_columns(["status"])}
    [narrow], _ = records.declared(matrix_of(less, observe("a 2024-04-03"))[0], ["statements"], 24)
    assert len({first.definition_hash, fewer.definition_hash, narrow.definition_hash}) == 3
    entries = first.catalogue()
    assert [entry["name"] for entry in entries] == [f"statements_record_score_{s}" for s in ("max", "mean", "last")]
    assert len({entry["definition_hash"] for entry in entries}) == 3
    for entry in entries:
        assert (entry["kind"], entry["direction"], entry["unit"]) == ("record", 1, "share")
        assert entry["family"] == "statements_records"
        assert entry["sources"] == "statements, credits"
        assert entry["sentence"]
        assert entry["sentence_zh"]
        assert entry["null_means"]
        assert "{" not in entry["sentence"] + entry["sentence_zh"]


def test_names_that_are_no_history_are_refused_and_an_empty_one_is_skipped():
    tables = {"credits": CREDITS, "statements": draw("statements", STATEMENTS)}
    matrix, _ = matrix_of(tables, observe("a 2024-01-15"))
    with pytest.raises(ConfigurationRefused, match="visits"):
        records.declared(matrix, ["statements", "visits"], 24)
    with pytest.raises(ConfigurationRefused, match="customers"):
        records.declared(matrix, ["customers"], 24)
    made, skipped = records.declared(matrix, ["statements"], 24)
    assert not made
    assert "no dated row" in skipped[0].why
    odd = draw("visits", "customer_id event_on nth\na 2024-01-01 1", ("nth",))
    matrix, _ = matrix_of({"visits": odd}, observe("a 2024-02-01"), attributes={"visits": {"numeric": ["nth"]}})
    with pytest.raises(DataRefused, match="nth"):
        records.declared(matrix, ["visits"], 24)
