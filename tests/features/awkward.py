"""Random tables of what engines read differently: nulls, ties, leap days, month ends, cents, signs, texts of all kinds."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa

from features.tables import CONTRACTS, Column
from tests.features.drawn import ARROW

CUSTOMERS = ("a", "b", "é", "Z")
ATTRIBUTES = {
    "transactions": {"numeric": ["fee"], "categorical": ["device"]},
    "statements": {"numeric": ["score"], "categorical": ["branch"]},
    "customers": {"numeric": ["age", "income"], "categorical": ["job"]},
    "observations": {"numeric": ["bid"], "categorical": ["desk"]},
    "visits": {"numeric": ["length", "depth"], "categorical": ["channel"]},
    "financials": {"numeric": ["staff"], "categorical": []},
    "credits": {"numeric": ["apr"], "categorical": []},
}
DAYS = [
    dt.date.fromisoformat(day)
    for day in (
        "2020-02-29", "2022-02-28", "2023-01-31", "2023-02-28", "2023-03-01", "2023-03-31", "2023-11-30", "2023-12-31",
        "2024-01-01", "2024-01-30", "2024-01-31", "2024-02-28", "2024-02-29", "2024-03-01", "2024-03-31",
    )
]  # fmt: skip
TEXTS = [
    "é", "e\u0301", "Z", "z", "ZZ", "a b", " a", "a ", "中文", "\U0001f600", "O'Brien", 'q"q', "back\\slash", "per%cent_",
    "x\ty", "new\nline", "own", "closed", "NULL", "nan", "${x}", "`tick`", "--", "0", "1e3",
]  # fmt: skip
MONEY = [
    Decimal(text)
    for text in (
        "0.00", "0.01", "-0.01", "0.05", "10.00", "10.00", "33.33", "-250.50", "999999.99", "1000000.00", "1000000.01",
        "1000000.02", "99999999999.99",
    )
]  # fmt: skip
REALS = [
    0.0,
    -0.0,
    0.1,
    0.2,
    0.3,
    1 / 3,
    2 / 3,
    1e-7,
    5e-7,
    0.5,
    1.5,
    2.5,
    0.2469125,
    1e6,
    1e6 + 0.001,
    1e11,
    1e13,
    -7.25,
]


def _value(kind: str, spec: Column | None, random_: random.Random) -> object:
    if kind == "DATE":
        return random_.choice([*DAYS, dt.date(2021, 6, 1) + dt.timedelta(days=random_.randrange(1000))])
    if kind == "VARCHAR":
        return random_.choice(TEXTS)
    number: object
    if kind == "INTEGER":
        number = random_.choice([0, 0, 1, 1, 30, 60, 90, -1])
    elif kind == "DOUBLE":
        number = random_.choice([*REALS, random_.random() * 1000])
    else:
        number = random_.choice([*MONEY, Decimal(random_.randrange(-50_000, 100_000)) / 100])
    of = type(number)
    number = number if spec is None or spec.low is None else max(number, of(spec.low))
    return number if spec is None or spec.high is None else min(number, of(spec.high))


def _row(name: str, at: int, rows: int, kinds: dict[str, str], random_: random.Random) -> dict[str, object]:
    """Draw one row; keys meet again, so that rows are restated and hang on credits and industries that exist."""
    contract = CONTRACTS.get(name)
    columns = contract.columns if contract else {}
    needed = {"event_on", *(contract.key if contract else ()), *(contract.required() if contract else ())}
    row = {
        column: None if column not in needed and random_.random() < 0.15 else _value(kind, columns.get(column), random_)
        for column, kind in kinds.items()
    }
    known = {
        "customer_id": CUSTOMERS[at % 4] if name in ("customers", "credits") else random_.choice(CUSTOMERS),
        "credit_id": f"k{at % 12 if name == 'credits' else random_.randrange(12)}",
        "industry": random_.choice(["é", "A", "B"]),
        "kind": random_.choice(["company", "person"]),
        "provider": random_.choice(["own", "own", "bureau", "é"]),
        "term_months": random_.choice([None, 12, 24]),
        "outcome": random_.choice([0, 1, None]),
        **{f"{what}_id": f"{what}{at % (rows - 8)}" for what in ("transaction", "payment", "mention")},
    }
    row |= {column: value for column, value in known.items() if column in kinds}
    event = next((row[c] for c in (contract.event if contract else None, "event_on") if c and row.get(c)), DAYS[0])
    return row | {"known_on": event + dt.timedelta(days=random_.choice([0, 0, 0, 1, 40, 200]))}


def world(seed: int, rows: int) -> dict[str, pa.Table]:
    """Draw every canonical table and one unforeseen (`visits`), each with its attributes of ATTRIBUTES."""
    random_ = random.Random(seed)
    tables = {}
    for name in [*CONTRACTS, "visits"]:
        contract, attributes = CONTRACTS.get(name), ATTRIBUTES.get(name, {})
        kinds = {"customer_id": "VARCHAR", "event_on": "DATE"}
        kinds = {c: spec.type for c, spec in contract.columns.items()} if contract else kinds
        kinds |= dict.fromkeys(attributes.get("numeric", ()), "DOUBLE")
        kinds |= dict.fromkeys(attributes.get("categorical", ()), "VARCHAR")
        drawn = [_row(name, at, rows, kinds, random_) for at in range(rows)]
        key = (*contract.key, "known_on") if contract else ()
        unique = {tuple(row[column] for column in key) if key else at: row for at, row in enumerate(drawn)}
        tables[name] = pa.table(
            {
                column: pa.array([row[column] for row in unique.values()], ARROW[kind])
                for column, kind in (kinds | {"known_on": "DATE"}).items()
            }
        )
    return tables
