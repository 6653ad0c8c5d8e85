"""Random histories, late and restated rows among them: the build equals a slow oracle in plain Python, feature by feature."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.features.drawn import build, observe, table_of
from tests.spec import oracle

AS_OF = [dt.date(2024, 2, 29), dt.date(2024, 3, 1), dt.date(2024, 5, 31), dt.date(2025, 3, 31)]
FIRST, LAST = dt.date(2022, 1, 1), dt.date(2025, 4, 30)
SUBJECTS = ("transactions", "instalments", "obligations", "payments", "statements", "credits", "bureau")
OTHERS = ("statements_months_missing",)  # said of any history, by features/observed.py
ACROSS = (
    "debt_in_all",
    "overdue_in_all",
    "limit_in_all",
    "debt_to_",
    "overdue_to_",
    "debt_with",
    "balance_to_obl",
    "net_inflow",
)

days = st.one_of(
    st.dates(FIRST, LAST),
    st.sampled_from([day for as_of in AS_OF for day in (as_of, oracle.back(as_of, 1), oracle.back(as_of, 3), oracle.back(as_of, 12))]),
)  # fmt: skip
lags = st.sampled_from([0, 0, 0, 1, 10, 40, 200])
cents = st.integers(1, 50_000).map(lambda value: Decimal(value) / 100)
round_money = st.sampled_from([Decimal(50), Decimal(100), Decimal("100.50"), Decimal(200)])
money = st.one_of(round_money, cents)
signed = st.builds(lambda value, sign: value * sign, money, st.sampled_from([1, -1]))
maybe_money = st.one_of(st.none(), money)


def later(row: dict[str, Any], changes: dict[str, Any], lag: int) -> dict[str, Any]:
    """Return another version of a row, known so many days after it."""
    return {**row, **changes, "known_on": row["known_on"] + dt.timedelta(days=lag)}


@st.composite
def dated(draw: Any, event: str, key: str | None, most: int, **columns: Any) -> list[dict[str, Any]]:
    """Draw rows of one history, each known some days after its event; some in a second version."""
    rows = []
    for at in range(draw(st.integers(0, most))):
        day = draw(days)
        row = {event: day, "known_on": day + dt.timedelta(days=draw(lags))}
        row |= {name: draw(values) for name, values in columns.items()}
        if key:
            row[key] = f"{at:02d}"
        rows.append(row)
        if draw(st.integers(0, 7)) == 0:
            name = draw(st.sampled_from(sorted(columns)))
            rows.append(later(row, {name: draw(columns[name])}, draw(st.integers(1, 150))))
    return rows


@st.composite
def person(draw: Any) -> dict[str, list[dict[str, Any]]]:
    """Draw one customer: transactions, up to four credits, what hangs on them."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in oracle.KEY}
    tables["transactions"] = draw(
        dated("event_on", "transaction_id", 14, amount=signed, balance_after=st.one_of(st.none(), signed),
              category=st.sampled_from(["salary", "cash", None]), counterparty=st.sampled_from(["x", "y", None]))
    )  # fmt: skip
    for at in range(draw(st.integers(0, 4))):
        opened = draw(st.dates(FIRST, AS_OF[-1]))
        credit = {
            "credit_id": str(at), "opened_on": opened, "known_on": opened + dt.timedelta(days=draw(lags)),
            "provider": draw(st.sampled_from(["own", "own", "bureau"])), "product": draw(st.sampled_from(["card", "loan"])),
            "principal": draw(maybe_money), "credit_limit": draw(maybe_money),
            "term_months": draw(st.sampled_from([None, 6, 24])), "rate": draw(st.sampled_from([None, 0.125, 0.5])),
        }  # fmt: skip
        tables["credits"].append(credit)
        if draw(st.integers(0, 5)) == 0:
            tables["credits"].append(later(credit, {"principal": draw(maybe_money)}, draw(st.integers(1, 100))))
        due = draw(dated("due_on", None, 7, amount=round_money))
        dates = [row["due_on"] for row in due] or [None]
        stated = st.sampled_from(dates) if draw(st.booleans()) else st.none()
        status = st.sampled_from(["active", "active", "closed", None])
        hung = {
            "instalments": due,
            "payments": draw(dated("paid_on", "payment_id", 7, amount=round_money, due_on=stated)),
            "statements": draw(
                dated("stated_on", None, 7, balance=maybe_money, credit_limit=maybe_money, minimum_due=maybe_money,
                      days_past_due=st.sampled_from([None, 0, 0, 5, 40]), overdue_amount=maybe_money, status=status)
            ),
        }  # fmt: skip
        for name, rows in hung.items():
            for row in rows:
                row["credit_id"] = str(at)
                if name == "payments":
                    row["payment_id"] = f"{at}-{row['payment_id']}"
            tables[name] += rows
    return tables


def one_version_a_day(table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the first of equal key and day of knowledge, as ingest would."""
    kept: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        kept.setdefault((*(row[name] for name in oracle.KEY[table]), row["known_on"]), row)
    return list(kept.values())


def together(people: list[dict[str, list[dict[str, Any]]]]) -> dict[str, list[dict[str, Any]]]:
    """Lay the tables of all customers on top of each other; identifiers carry the customer's number."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in oracle.KEY}
    for at, held in enumerate(people):
        for name, rows in held.items():
            made = [{**row, **{c: f"c{at}-{row[c]}" for c in row if c.endswith("_id")}} for row in rows]
            owner = {"customer_id": f"c{at}"} if name in ("transactions", "credits") else {}
            tables[name] += [{**row, **owner} for row in one_version_a_day(name, made)]
    return tables


def expected(
    tables: dict[str, list[dict[str, Any]]], customer: str, as_of: dt.date, words: dict[str, list[str]]
) -> dict[str, Any]:
    """Return what the oracle says of one customer on one date."""
    owners: dict[str, dict[str, Any]] = {}
    for row in sorted(tables["credits"], key=lambda r: r["known_on"]):
        owners.setdefault(row["credit_id"], row)

    def of(name: str) -> list[dict[str, Any]]:
        if name in ("transactions", "credits"):
            return oracle.seen(name, [row for row in tables[name] if row["customer_id"] == customer], as_of)
        mine = [row for row in tables[name] if owners[row["credit_id"]]["customer_id"] == customer]
        return oracle.seen(name, mine, as_of, owners)

    lines, stated = of("credits"), [row for row in of("statements") if row["db"] >= 1]
    ours = [row for row in lines if row["provider"] == "own"]
    theirs = [row for row in lines if row["provider"] != "own"]
    due, paid = of("instalments"), [row for row in of("payments") if row["db"] >= 1]
    found = oracle.transactions(of("transactions"), words["categories"])
    found |= oracle.instalments(oracle.settle([row for row in due if row["db"] >= 1], paid, as_of))
    found |= oracle.obligations(due) | oracle.payments(paid) | oracle.statements(stated, ours, paid)
    found |= oracle.lines("credits", ours, stated, words["products"], words["states"])
    found |= oracle.lines("bureau", theirs, stated, words["products"], words["states"])
    return found | oracle.across(found)


def same(value: Any, wanted: Any) -> bool:
    """Return whether a value is what is wanted, to 1e-9 of it; ratios are summed to six decimals, which differ by one."""
    if value is None or wanted is None or isinstance(wanted, str):
        return value == wanted
    return float(value) == pytest.approx(float(wanted), rel=1e-9, abs=1e-6)


class People(list):
    """Drawn customers, told in short where a test fails."""

    def __repr__(self) -> str:
        return f"{len(self)} people"


@st.composite
def crowd(draw: Any) -> People:
    """Draw a dozen customers, so that one build answers for them all."""
    return People(draw(person()) for _ in range(12))


@settings(
    max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(crowd())
def test_every_feature_of_a_person_equals_the_oracle(people):
    tables = together(people)
    anchor = {name: [] for name in oracle.KEY} | ANCHOR
    tables = {name: anchor[name] + rows for name, rows in tables.items()}
    customers = [f"c{at}" for at in range(len(people))] + ["anchor"]
    asked = observe("\n".join(f"{customer} {day}" for customer in customers for day in AS_OF))
    drawn = {name: table_of(name, rows) for name, rows in tables.items()}
    rows = build(drawn, asked, training=observe("anchor 2026-01-01")).to_pylist()
    judge(rows, tables)


def judge(rows: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]]) -> None:
    """Compare every column of the subjects of a person, in both directions."""
    names = [name for name in rows[0] if name.startswith((*SUBJECTS, *ACROSS)) and not name.startswith(OTHERS)]
    words = {"categories": ["cash", "salary"], "products": ["card", "loan"], "states": ["active", "closed"]}
    said: set[str] = set()
    wrong = []
    for row in rows:
        wanted = expected(tables, row["customer_id"], row["as_of"], words)
        said |= set(wanted)
        wrong += [
            (name, row["customer_id"], row["as_of"], row[name], wanted.get(name))
            for name in names
            if not same(row[name], wanted.get(name))
        ]
    assert sorted(said - set(names)) == [], "the oracle speaks of features that are not built"
    assert sorted(set(names) - said) == [], "features that the oracle knows nothing of"
    assert not wrong, f"{len(wrong)} values of {sorted({name for name, *_ in wrong})}, as {wrong[:4]}"


def _anchor() -> dict[str, list[dict[str, Any]]]:
    """Return one customer with everything, so that each run builds every feature."""
    day, d = dt.date(2023, 5, 10), Decimal
    base = {"known_on": day, "credit_id": "a1"}
    tables: dict[str, list[dict[str, Any]]] = {
        "transactions": [
            {"transaction_id": f"a{at}", "customer_id": "anchor", "event_on": day, "known_on": day, "amount": d(amount),
             "balance_after": d(5), "category": category, "counterparty": "x"}
            for at, (amount, category) in enumerate([(7, "salary"), (-3, "cash")])
        ],
        "credits": [
            {"credit_id": f"a{at}", "customer_id": "anchor", "opened_on": day, "known_on": day, "provider": provider,
             "product": product, "principal": d(100), "credit_limit": d(100), "term_months": 24, "rate": 0.125}
            for at, (provider, product) in enumerate(
                [("bureau", "loan"), ("own", "card"), ("bureau", "card"), ("own", "loan")]
            )
        ],
        "instalments": [{**base, "due_on": due, "amount": d(10)} for due in (day, dt.date(2025, 12, 1))],
        "payments": [{**base, "payment_id": "a1", "paid_on": day, "amount": d(10), "due_on": None}],
        "statements": [
            {**base, "stated_on": day + dt.timedelta(days=at), "known_on": day + dt.timedelta(days=at), "balance": d(50),
             "credit_limit": d(100), "minimum_due": d(5), "days_past_due": 3, "overdue_amount": d(5), "status": status,
             "credit_id": line}
            for line in ("a0", "a1")
            for at, status in enumerate(["closed", "active"])
        ],
    }  # fmt: skip
    return tables


ANCHOR = _anchor()


def test_the_oracle_would_see_a_planted_fault():
    """A row more, known a day before as_of, moves what is built away from what the oracle says of the rows without it."""
    more = {**ANCHOR["transactions"][0], "transaction_id": "zz", "known_on": dt.date(2024, 2, 28)}
    tables = {**ANCHOR, "transactions": [*ANCHOR["transactions"], more]}
    drawn = {name: table_of(name, rows) for name, rows in tables.items()}
    rows = build(drawn, observe("anchor 2024-02-29"), training=observe("anchor 2026-01-01")).to_pylist()
    judge(rows, tables)
    with pytest.raises(AssertionError, match="transactions_inflow_sum"):
        judge(rows, ANCHOR)


def test_the_oracle_counts_months_and_trends_as_one_does_by_hand():
    assert oracle.months_before(dt.date(2024, 3, 31), dt.date(2024, 2, 29)) == 1
    assert oracle.months_before(dt.date(2024, 3, 31), dt.date(2024, 2, 28)) == 2
    assert oracle.months_before(dt.date(2024, 3, 1), dt.date(2024, 3, 1)) == 0
    rows = [{"db": 60, "x": Fraction(1)}, {"db": 30, "x": Fraction(4)}, {"db": 0, "x": None}]
    assert oracle.slope(rows, "x") == Fraction("3.04375")
