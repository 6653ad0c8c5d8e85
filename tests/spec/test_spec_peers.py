"""Differences to the peer group and ranks within the month: against a plain Python oracle, frozen at the month's start."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from random import Random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.definition import Lender
from tests.features.drawn import draw, matrix_of, observe, values

LEAST = Lender.least_group
LATER = observe("c0 2030-01-01")


def world(seed: int, customers: int = 40) -> tuple[dict[str, pa.Table], dict[str, list], dict[str, tuple[str, str]]]:
    """Draw customers in two industries, some of them known late, with transactions some of which are late or restated."""
    random = Random(seed)
    start = dt.date(2023, 6, 1)
    who, rows = [], []
    for number in range(customers):
        known = (
            start - dt.timedelta(days=300)
            if random.random() < 0.9
            else start + dt.timedelta(days=random.randrange(250))
        )
        who.append(
            (
                f"c{number}",
                random.choice(["company", "person"]) if number > 25 else "company",
                random.choice(["i1", "i2", "i2"]),
                known,
            )
        )
        for at in range(random.randrange(7)):
            event = start + dt.timedelta(days=random.randrange(270))
            for version in range(random.choice([1, 1, 1, 2])):
                amount = random.choice([100, 100, 250, -40, 900])
                rows.append(
                    (
                        f"{number}/{at}",
                        f"c{number}",
                        event,
                        amount,
                        event + dt.timedelta(days=version * 40 + random.choice([0, 0, 3])),
                    )
                )
    rows = list({(row[0], row[4]): row for row in rows}.values())
    text, date = pa.string(), pa.date32()

    def columns(drawn: list[tuple], kinds: dict[str, pa.DataType]) -> pa.Table:
        return pa.table(
            {name: pa.array([row[at] for row in drawn], kind) for at, (name, kind) in enumerate(kinds.items())}
        )

    tables = {
        "customers": columns(who, {"customer_id": text, "kind": text, "industry": text, "known_on": date}),
        "transactions": columns(
            [(i, c, e, Decimal(a), k) for i, c, e, a, k in rows],
            {
                "transaction_id": text,
                "customer_id": text,
                "event_on": date,
                "amount": pa.decimal128(18, 2),
                "known_on": date,
            },
        ),
    }
    return (
        tables,
        {c: [r for r in rows if r[1] == c] for c, *_ in who},
        {c: (kind, industry, known) for c, kind, industry, known in who},
    )


def inflow(rows: list, as_of: dt.date) -> float | None:
    """Six calendar months, the newest version known before as_of."""
    newest: dict[str, tuple] = {}
    for row in sorted(rows, key=lambda row: row[4]):
        if row[4] < as_of:
            newest[row[0]] = row
    month = as_of.year * 12 + as_of.month - 7
    last = (dt.date((month + 1) // 12, (month + 1) % 12 + 1, 1) - dt.timedelta(days=1)).day
    first = dt.date(month // 12, month % 12 + 1, min(as_of.day, last))
    amounts = [row[3] for row in newest.values() if first <= row[2] < as_of and row[3] > 0]
    return float(sum(amounts)) if amounts else None


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.sampled_from(["2024-02-01", "2024-02-29", "2024-01-31"]))
def test_peers_equal_a_plain_loop(seed, day):
    tables, rows, who = world(seed)
    as_of = dt.date.fromisoformat(day)
    start = as_of.replace(day=1)
    seen = {c: inflow(rows[c], start) for c in who if who[c][2] < start}
    seen = {c: value for c, value in seen.items() if value is not None}
    asked = "\n".join(f"{c} {day}" for c in who if int(c[1:]) % 3)  # who is asked about plays no part
    for (c, _), row in values(tables, asked, training=LATER).items():
        kind, industry, known = who[c]
        own = inflow(rows[c], as_of)
        peers = [value for other, value in seen.items() if who[other][:2] == (kind, industry)]
        less, rank, month = (
            row[f"peers_inflow_6m_{name}"] for name in ("less_industry", "rank_industry", "rank_month")
        )
        if own is None:
            assert (less, rank, month) == (None, None, None)
            continue
        assert month == (pytest.approx(standing(own, seen.values())) if len(seen) >= LEAST else None)
        if known >= as_of or len(peers) < LEAST:
            assert (less, rank) == (None, None)
            continue
        assert less == pytest.approx(own - sum(peers) / len(peers))
        assert rank == pytest.approx(standing(own, peers))


def standing(own: float, others) -> float:
    return sum(1.0 if other < own else 0.5 if other == own else 0.0 for other in others) / len(list(others))


def companies(count: int, revenue: int = 100) -> dict[str, pa.Table]:
    lines = [f"c{n} 2022-12-31 {revenue} {n + 1} 2023-05-01" for n in range(count)]
    return {
        "customers": draw("customers", "customer_id kind industry region\n" + "\n".join(f"c{n} company i1 r{n % 2}" for n in range(count))),
        "financials": draw("financials", "customer_id period_end revenue ebit known_on\n" + "\n".join(lines)),
    }  # fmt: skip


def test_the_least_group_ties_and_the_regions():
    rows = values(companies(LEAST), "c0 2023-06-01\nc9 2023-06-15")
    first, last = rows["c0", "2023-06-01"], rows["c9", "2023-06-15"]
    assert first["peers_ebit_margin_less_industry"] == pytest.approx(0.01 - 0.055)
    assert first["peers_ebit_margin_rank_industry"] == 0.05
    assert last["peers_ebit_margin_rank_month"] == 0.95
    assert first["peers_ebit_margin_less_region"] is None  # five in each region
    few = values(companies(LEAST - 1), "c0 2023-06-01")["c0", "2023-06-01"]
    assert few["peers_ebit_margin_less_industry"] is None
    assert few["peers_ebit_margin_rank_month"] is None


def test_statistics_are_those_of_the_months_start():
    """Accounts published within the month change the company's own figure, not what it is measured against."""
    tables = companies(LEAST)
    new = draw(
        "financials",
        "customer_id period_end revenue ebit known_on\nc0 2023-03-31 100 70 2023-06-10\nc1 2023-03-31 100 90 2023-06-10",
    )
    tables["financials"] = pa.concat_tables([tables["financials"], new])
    rows = values(tables, "c0 2023-06-01\nc0 2023-06-15\nc0 2023-07-01")
    assert rows["c0", "2023-06-15"]["peers_ebit_margin_less_industry"] == pytest.approx(0.70 - 0.055)
    assert rows["c0", "2023-06-15"]["peers_ebit_margin_rank_month"] == 1.0
    assert rows["c0", "2023-07-01"]["peers_ebit_margin_less_industry"] == pytest.approx(0.70 - (0.55 - 0.03 + 1.6) / 10)


def test_decisions_are_set_against_those_of_the_year_before():
    lines = [f"c{n} 2023-0{n % 6 + 1}-1{n % 10} {n} 2023-0{n % 6 + 1}-0{n % 9 + 1}" for n in range(12)]
    decisions = (
        "customer_id as_of size known_on\n"
        + "\n".join(lines)
        + "\nz 2023-07-15 50 2023-07-14\ny 2021-01-01 900 2020-12-31"
    )
    who = "\n".join(f"c{n} company i1" for n in range(12)) + "\nz company i1\ny company i1"
    tables = {
        "customers": draw("customers", "customer_id kind industry\n" + who),
        "observations": draw("observations", decisions, numeric=("size",)),
    }
    row = values(tables, "z 2023-07-15", attributes={"observations": {"numeric": ["size"]}})["z", "2023-07-15"]
    assert row["peers_observations_size_less_industry"] == pytest.approx(50 - 66 / 12)
    assert row["peers_observations_size_rank_month"] == 1.0


def test_a_peer_feature_stands_on_the_definition_that_it_compares():
    matrix, _ = matrix_of(companies(12), observe("c0 2023-06-01"))
    hashes = {feature.name: made for feature, _, made in matrix.features}
    assert len({made for name, made in hashes.items() if name.startswith("peers_")}) == len(
        [n for n in hashes if n.startswith("peers_")]
    )
    subject = next(one for one in matrix.subjects if one.name == "peers")
    assert "ebit_margin" in subject.stands_on["peers_ebit_margin_rank_month"]


def test_no_customers_no_peers():
    matrix, _ = matrix_of({"financials": companies(12)["financials"]}, observe("c0 2023-06-01"))
    assert "peers" in {item.name for item in matrix.skipped}
