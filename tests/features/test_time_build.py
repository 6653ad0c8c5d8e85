"""Time: nothing on or after as_of, nothing unknown then, and no order of rows or threads moves a feature."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import direct
from features.tables import CONTRACTS
from tests.features.drawn import ARROW, build, observe

START = dt.date(2022, 1, 1)
DAYS = 1000
CUSTOMERS = ("a", "b", "c", "d")
NUMERIC = {"statements": ["score_from_bank"], "visits": ["length"]}
ATTRIBUTES = {
    "statements": {"numeric": ["score_from_bank"], "categorical": []},
    "visits": {"numeric": ["length"], "categorical": ["channel"]},
}
OBSERVED = observe("\n".join(f"{c} {day}" for c in CUSTOMERS for day in ("2023-03-01", "2023-08-31", "2024-02-29")))


def _value(kind: str, random_: random.Random) -> object:
    if kind == "DATE":
        return START + dt.timedelta(days=random_.randrange(DAYS))
    if kind == "DECIMAL(18,2)":
        return Decimal(random_.randrange(-50_000, 100_000)) / 100
    if kind == "DOUBLE":
        return random_.random()
    if kind == "INTEGER":
        return random_.randrange(60)
    return random_.choice("xyz")


def world(seed: int, rows: int = 60) -> dict[str, pa.Table]:
    """Random rows for every canonical table and one unforeseen, with late knowledge and restated keys."""
    random_ = random.Random(seed)
    tables = {}
    names = [name for name in CONTRACTS if name != "observations"]
    for name in [*names, "visits"]:
        contract = CONTRACTS.get(name)
        kinds = (
            {c: spec.type for c, spec in contract.columns.items()}
            if contract
            else {"customer_id": "VARCHAR", "event_on": "DATE"}
        )
        kinds |= dict.fromkeys(NUMERIC.get(name, ()), "DOUBLE") | ({"channel": "VARCHAR"} if name == "visits" else {})
        drawn = []
        for at in range(rows):
            row = {c: _value(kind, random_) for c, kind in kinds.items()}
            row["customer_id" if "customer_id" in kinds else "unused"] = random_.choice(CUSTOMERS)
            if "credit_id" in kinds:
                row["credit_id"] = f"k{at % 12}" if name == "credits" else f"k{random_.randrange(12)}"
            if name == "credits":
                row["provider"] = random_.choice(["own", "own", "bureau"])
                row["customer_id"] = CUSTOMERS[at % 4]
            if name == "customers":
                row["customer_id"] = CUSTOMERS[at % 4]
                row["kind"] = "company"
            for key in ("transaction_id", "payment_id", "mention_id"):
                if key in kinds:
                    row[key] = f"{key}{at % (rows - 8)}"  # the last eight restate earlier rows
            event = row.get((contract.event if contract else None) or "event_on") or row.get("event_on")
            row["known_on"] = event + dt.timedelta(days=random_.choice([0, 0, 1, 40, 200]))
            row.pop("unused", None)
            drawn.append(row)
        kinds["known_on"] = "DATE"
        key = (*contract.key, "known_on") if contract else ()
        unique = {tuple(row[k] for k in key) if key else at: row for at, row in enumerate(drawn)}
        tables[name] = pa.table(
            {c: pa.array([row[c] for row in unique.values()], ARROW[kind]) for c, kind in kinds.items()}
        )
    return tables


def matrix(tables: dict[str, pa.Table], **options: object) -> pa.Table:
    few = {"windows": (1, 3, 12), "lags": 2}
    return build(tables, OBSERVED, attributes=ATTRIBUTES, training=observe("a 2023-03-01"), **few, **options)


def rows_at(table: pa.Table, day: dt.date) -> pa.Table:
    return table.filter(pc.equal(table["as_of"], day))


@pytest.fixture(scope="module")
def base() -> tuple[dict[str, pa.Table], pa.Table]:
    tables = world(1)
    return tables, matrix(tables)


@pytest.mark.parametrize("day", [dt.date(2023, 8, 31)])
@pytest.mark.fault("D5", "D7")
def test_deleting_all_that_became_known_on_or_after_as_of_changes_nothing(base, day):
    tables, whole = base
    cut = {name: table.filter(pc.less(table["known_on"], day)) for name, table in tables.items()}
    assert rows_at(matrix(cut), day).equals(rows_at(whole, day))


@pytest.mark.fault("D5", "D7")
def test_noise_known_on_or_after_as_of_changes_nothing(base):
    tables, whole = base
    day = dt.date(2023, 3, 1)
    noise = world(2)
    mixed = {
        name: pa.concat_tables([table.filter(pc.less(table["known_on"], day)), noise[name].filter(pc.greater_equal(noise[name]["known_on"], day))])
        for name, table in tables.items()
    }  # fmt: skip
    assert rows_at(matrix(mixed), day).equals(rows_at(whole, day))


def test_the_noise_would_be_seen_were_it_known_before(base):
    """The tests above can fail: rows known a day before as_of do move features."""
    tables, whole = base
    day = dt.date(2023, 3, 1)
    known = pa.array([dt.date(2023, 2, 28)] * len(tables["transactions"]), pa.date32())
    at = tables["transactions"].column_names.index("known_on")
    early = {**tables, "transactions": tables["transactions"].set_column(at, "known_on", known)}
    assert not rows_at(matrix(early), day).equals(rows_at(whole, day))


@pytest.mark.parametrize("threads", [1])
def test_row_order_and_threads_change_nothing(base, threads):
    tables, whole = base
    shuffled = {}
    for name, table in tables.items():
        order = list(range(len(table)))
        random.Random(threads).shuffle(order)
        shuffled[name] = table.take(order)
    assert matrix(shuffled, threads=threads).equals(whole)


def test_the_number_of_dates_at_once_changes_nothing(base):
    tables, whole = base
    assert matrix(tables, observations_at_once=1).equals(whole)


@pytest.mark.parametrize("panel", [True, False])
def test_the_number_of_rows_at_once_changes_nothing(base, panel, monkeypatch):
    """Customers are joined a range at a time, and a panel's grid is laid for a range at a time."""
    tables, whole = base
    ranges, found = [], direct._ranges
    monkeypatch.setattr(direct, "_ranges", lambda *given: ranges.append(found(*given)) or ranges[-1])
    assert matrix(tables, rows_at_once=40, cells_at_once=2000, panel=panel).equals(whole)
    assert max(map(len, ranges)) > 3


@pytest.mark.fault("C4")
def test_everything_is_finite_or_null(base):
    _, whole = base
    for column in whole.columns:
        if pa.types.is_floating(column.type):
            assert pc.all(pc.is_finite(column.drop_null())).as_py() in (True, None)


def test_later_knowledge_of_a_row_only_ever_takes_it_away(base):
    """Shifting known_on of all rows past every date leaves no value of any history."""
    tables, _ = base
    late = {}
    for name, table in tables.items():
        at = table.column_names.index("known_on")
        late[name] = table.set_column(at, "known_on", pa.array([dt.date(2030, 1, 1)] * len(table), pa.date32()))
    names = matrix(late).column_names
    assert names == ["customer_id", "as_of"]  # on the last training date the source gave nothing


FIRST = dt.date(2023, 1, 1)
row = st.tuples(
    st.integers(0, 3),  # key: few, so that rows are restated
    st.integers(0, 500),  # day of the event
    st.integers(0, 90),  # lag of knowledge
    st.integers(-500, 500),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(row, min_size=1, max_size=12), st.integers(200, 500))
def test_sums_and_counts_equal_a_slow_oracle(rows, as_of_day):
    """Independent road: a Python loop over the rows, with the visible rule written out."""
    as_of = FIRST + dt.timedelta(days=as_of_day)
    facts = {}
    for key, day, lag, amount in rows:
        event = FIRST + dt.timedelta(days=day)
        facts[key, event + dt.timedelta(days=lag)] = (event, amount)
    table = pa.table(
        {
            "transaction_id": pa.array([str(key) for key, _ in facts]),
            "customer_id": pa.array(["a"] * len(facts)),
            "event_on": pa.array([event for event, _ in facts.values()], pa.date32()),
            "amount": pa.array([Decimal(amount) for _, amount in facts.values()], pa.decimal128(18, 2)),
            "known_on": pa.array([known for _, known in facts], pa.date32()),
        }
    )
    counted = []
    for key in {key for key, _ in facts}:
        versions = sorted(known for other, known in facts if other == key and known < as_of)
        if versions:
            event, amount = facts[key, versions[-1]]
            if event < as_of:
                counted.append((event, amount))
    got = build({"transactions": table}, observe(f"a {as_of}"), training=observe("a 2030-01-01")).to_pylist()[0]
    alive = False  # any row in the longest window
    for k in (12, 6, 3, 1):
        month = as_of.year * 12 + as_of.month - 1 - k
        last = (dt.date((month + 1) // 12, (month + 1) % 12 + 1, 1) - dt.timedelta(days=1)).day
        start = dt.date(month // 12, month % 12 + 1, min(as_of.day, last))
        inside = [amount for event, amount in counted if event >= start]
        alive = alive or bool(inside)
        expected = float(sum(amount for amount in inside if amount > 0)) if alive else None
        assert got[f"transactions_inflow_sum_{k}m"] == expected
        assert got[f"transactions_transaction_id_count_{k}m"] == (len(inside) if alive else None)
