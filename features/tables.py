"""Contracts: every canonical table's grain, key, columns, types, units, ranges and rules, stated once beside its name.

The same object serves staging (what to cast to), the checks of ingest (what a row must keep), and `open_tables`.
Dates are DATE, money is DECIMAL(18,2) in the source's currency, ids and categories are VARCHAR, ratios are DOUBLE.
Every table also has `known_on` (DATE, never null: the day from which we could have known the row) and whatever
attributes its mapping passes through (numeric: DOUBLE, categorical: VARCHAR). A table whose name has no contract is
a generic history: `generic(...)`. `provider` 'own' is our own credit, anything else is a bureau's or another lender's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATE, TEXT, MONEY, RATIO, WHOLE = "DATE", "VARCHAR", "DECIMAL(18,2)", "DOUBLE", "INTEGER"
EARLIEST, LATEST = "DATE '1900-01-01'", "DATE '2100-01-01'"


@dataclass(frozen=True)
class Column:
    """One column: its type, what it means, and what its values must keep (null is allowed unless it is required)."""

    type: str
    sentence: str
    required: bool = False
    low: str | None = None
    high: str | None = None
    allowed: tuple[str, ...] = ()
    default: str | None = None

    def rule(self, name: str) -> str | None:
        """Return the SQL condition that a value which is not null must keep, or None."""
        quoted = f'"{name}"'
        parts = []
        if self.type == DATE:
            parts.append(f"{quoted} >= {self.low or EARLIEST} AND {quoted} < {self.high or LATEST}")
        else:
            parts += [f"{quoted} >= {self.low}"] if self.low is not None else []
            parts += [f"{quoted} <= {self.high}"] if self.high is not None else []
        if self.allowed:
            parts.append(f"{quoted} IN ({', '.join(repr(value) for value in self.allowed)})")
        return " AND ".join(parts) or None


@dataclass(frozen=True)
class Rule:
    """A cross-column rule: a name, the SQL condition that must not be false, and the sentence."""

    name: str
    condition: str
    sentence: str


@dataclass(frozen=True)
class Contract:
    """One canonical table: grain (= key), event date, columns, rules, references."""

    name: str
    grain: str
    key: tuple[str, ...]
    columns: dict[str, Column]
    event: str | None = None  # the column that says when it happened; known_on follows from it unless mapped
    event_lag_days: int = 0
    generated_key: str | None = None  # made from the row's content where the mapping does not give it
    measure: str | None = None  # the money column whose quarantined share is limited
    references: tuple[tuple[str, str], ...] = ()  # (column, table in which it must occur, where that table is mapped)
    rules: tuple[Rule, ...] = ()

    @property
    def happened(self) -> bool:
        """Whether its rows are what has happened, so that none is known, or delivered, before its date."""
        return any(rule.name == "known_before_event" for rule in self.rules)

    def required(self) -> list[str]:
        """Return the columns that a mapping must give."""
        return [name for name, column in self.columns.items() if column.required and name != self.generated_key]


_ID = Column(TEXT, "identifier of the customer", required=True)
_CREDIT = Column(TEXT, "identifier of the credit", required=True)
_CUSTOMER = (("customer_id", "customers"),)
_OF_CREDIT = (("credit_id", "credits"),)


def _money(sentence: str, *, low: str | None = None, required: bool = False) -> Column:
    """Return a column of money in the source's currency."""
    return Column(MONEY, sentence + " [currency of the source]", required=required, low=low)


_AFTER = "nothing is known before it happened"


def _known_after(event: str) -> Rule:
    """Return the rule that a row is not known before its event (dates mixed up, or a forecast taken for a fact)."""
    return Rule("known_before_event", f"known_on >= {event}", _AFTER)


_LINES = (
    "current_assets", "inventory", "total_assets", "current_liabilities", "total_liabilities", "equity",
    "retained_earnings", "revenue", "ebit", "interest_expense", "net_income", "operating_cash_flow",
)  # fmt: skip

_ALL = (
    Contract(
        "customers", "customer_id", ("customer_id",),
        {
            "customer_id": _ID,
            "kind": Column(TEXT, "person or company", allowed=("person", "company"), default="'person'"),
            "opened_on": Column(DATE, "first day of the relationship"),
            "industry": Column(TEXT, "industry code"),
            "region": Column(TEXT, "region"),
            "segment": Column(TEXT, "segment"),
        },
        event="opened_on",
    ),
    Contract(
        "observations", "customer_id, as_of", ("customer_id", "as_of"),
        {
            "customer_id": _ID,
            "as_of": Column(DATE, "the source's own decision date", required=True),
            "outcome": Column(WHOLE, "1 defaulted in the window, 0 did not, null unknown", low="0", high="1"),
            "outcome_known_on": Column(DATE, "day on which the outcome became known; null: the source does not say"),
            "exposure": _money("amount at risk", low="0"),
            "stated_income": _money("income of a month, or turnover, as stated at the decision", low="0"),
        },
        event="as_of", event_lag_days=-1, references=_CUSTOMER,
        rules=(Rule("outcome_after_as_of", "outcome_known_on >= as_of", "an outcome is known after the decision"),),
    ),
    Contract(
        "transactions", "transaction_id", ("transaction_id",),
        {
            "transaction_id": Column(TEXT, "identifier of the transaction", required=True),
            "customer_id": _ID,
            "event_on": Column(DATE, "booking day", required=True),
            "amount": _money("signed: + in, - out", required=True),
            "balance_after": _money("balance after the transaction"),
            "category": Column(TEXT, "what it was for"),
            "counterparty": Column(TEXT, "the other side"),
        },
        event="event_on", generated_key="transaction_id", measure="amount", references=_CUSTOMER,
        rules=(_known_after("event_on"),),
    ),
    Contract(
        "credits", "credit_id", ("credit_id",),
        {
            "credit_id": _CREDIT,
            "customer_id": _ID,
            "provider": Column(TEXT, "own, or the name of a bureau or other lender", default="'own'"),
            "product": Column(TEXT, "kind of credit"),
            "opened_on": Column(DATE, "day of opening"),
            "principal": _money("amount lent", low="0"),
            "credit_limit": _money("agreed limit", low="0"),
            "term_months": Column(WHOLE, "agreed duration [months]", low="0", high="1200"),
            "rate": Column(RATIO, "agreed yearly rate as a fraction", low="-1", high="100"),
        },
        event="opened_on", measure="principal", references=_CUSTOMER,
    ),
    Contract(
        "instalments", "credit_id, due_on", ("credit_id", "due_on"),
        {
            "credit_id": _CREDIT,
            "due_on": Column(DATE, "day on which it falls due", required=True),
            "amount": _money("amount due: an instalment or a trade invoice", low="0", required=True),
        },
        event="due_on", measure="amount", references=_OF_CREDIT,
    ),
    Contract(
        "payments", "payment_id", ("payment_id",),
        {
            "payment_id": Column(TEXT, "identifier of the payment", required=True),
            "credit_id": _CREDIT,
            "paid_on": Column(DATE, "day of payment", required=True),
            "amount": _money("amount paid", required=True),
            "due_on": Column(DATE, "due date that it settles, where stated"),
        },
        event="paid_on", generated_key="payment_id", measure="amount", references=_OF_CREDIT,
        rules=(_known_after("paid_on"),),
    ),
    Contract(
        "statements", "credit_id, stated_on", ("credit_id", "stated_on"),
        {
            "credit_id": _CREDIT,
            "stated_on": Column(DATE, "day of the statement", required=True),
            "balance": _money("amount owed; negative: in the customer's favour"),
            "credit_limit": _money("limit on that day", low="0"),
            "minimum_due": _money("least amount to pay", low="0"),
            "days_past_due": Column(WHOLE, "days past due [days]", low="0", high="36500"),
            "overdue_amount": _money("amount past due", low="0"),
            "status": Column(TEXT, "free text; 'closed' means closed"),
        },
        event="stated_on", measure="balance", references=_OF_CREDIT,
        rules=(_known_after("stated_on"),),
    ),
    Contract(
        "financials", "customer_id, period_end", ("customer_id", "period_end"),
        {
            "customer_id": _ID,
            "period_end": Column(DATE, "last day of the period", required=True),
            "published_on": Column(DATE, "day of publication"),
            **{line: _money(line.replace("_", " ")) for line in _LINES},
        },
        event="published_on", references=_CUSTOMER,
        rules=(Rule("published_after_period", "published_on >= period_end", "published_on is not before period_end"),),
    ),
    Contract(
        "industries", "industry, period_start", ("industry", "period_start"),
        {
            "industry": Column(TEXT, "industry code", required=True),
            "period_start": Column(DATE, "first day of the period", required=True),
            "size": Column(RATIO, "size of the industry"),
            "growth": Column(RATIO, "growth as a fraction"),
            "competition": Column(RATIO, "intensity of competition"),
            "default_rate": Column(RATIO, "default rate of the industry", low="0", high="1"),
            "policy_signal": Column(RATIO, "policy signal, negative is adverse"),
        },
        event="period_start",
    ),
    Contract(
        "standings", "customer_id, period_start", ("customer_id", "period_start"),
        {
            "customer_id": _ID,
            "period_start": Column(DATE, "first day of the period", required=True),
            "market_share": Column(RATIO, "share of the market", low="0", high="1"),
            "brand": Column(RATIO, "strength of the brand"),
            "product_uniqueness": Column(RATIO, "uniqueness of the products"),
            "relationship": Column(RATIO, "strength of relationships"),
        },
        event="period_start", references=_CUSTOMER,
    ),
    Contract(
        "mentions", "mention_id", ("mention_id",),
        {
            "mention_id": Column(TEXT, "identifier of the mention", required=True),
            "customer_id": _ID,
            "event_on": Column(DATE, "day of the mention", required=True),
            "source": Column(TEXT, "where"),
            "sentiment": Column(RATIO, "sentiment in [-1, 1]", low="-1", high="1"),
            "reach": Column(RATIO, "people reached", low="0"),
        },
        event="event_on", generated_key="mention_id", references=_CUSTOMER,
        rules=(_known_after("event_on"),),
    ),
)  # fmt: skip

CONTRACTS: dict[str, Contract] = {contract.name: contract for contract in _ALL}
HOLDERS = {"customer_id": "customers", "credit_id": "credits"}


def generic(name: str, columns: set[str]) -> Contract:
    """Return the contract of a generic history: customer_id or credit_id, event_on; measures are its attributes."""
    holders = [holder for holder in HOLDERS if holder in columns] or ["customer_id"]
    return Contract(
        name,
        "every row",
        (),
        {
            **{holder: Column(TEXT, f"the {holder} that it is about", required=True) for holder in holders},
            "event_on": Column(DATE, "when it happened", required=True),
        },
        event="event_on",
        references=tuple((holder, HOLDERS[holder]) for holder in holders),
    )


def contract_of(table: str, columns: set[str]) -> Contract:
    """Return the contract of `table`, a generic one where the name is not canonical."""
    return CONTRACTS.get(table) or generic(table, columns)


def describe_tables(folder: Path) -> dict[str, Any]:
    """Return tables.json of an ingest folder: table -> columns, numeric, categorical, rows; {} where it is absent."""
    path = folder / "tables.json" if (folder / "tables.json").exists() else folder.parent / "tables.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def open_tables(connection: Any, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Open the canonical tables of `folder` (data/ingest or data/ingest/tables) on an ibis DuckDB backend.

    Returns table name -> lazy ibis table with the canonical columns, attributes and known_on; the engine knows it by
    the name with `prefix`. A table that the source does not map is absent. Partition folders are an order on disk, not
    a column.
    """
    root = folder if folder.name == "tables" else folder / "tables"
    opened = {}
    for name in sorted(describe_tables(folder)):
        parts = sorted(str(path) for path in (root / name).glob("known_month=*/part.parquet"))
        if parts:
            opened[name] = connection.read_parquet(parts, table_name=f"{prefix}{name}", hive_partitioning=False)
    return opened
