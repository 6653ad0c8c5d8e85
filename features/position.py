"""Where each customer stands at a scored date: facts for policy, limits and alerts; never model inputs.

Every fact is null where the source cannot say. Money is in the source's currency.
"""

from __future__ import annotations

from collections.abc import Iterable

import ibis

MONEY = "decimal(18, 2)"
DEFAULT_DAYS = 90  # days past due that make a line of another lender a default
FACTS: dict[str, str] = {  # what the subjects give, with the type that stands in where none does
    "kind": "string", "industry": "string", "region": "string", "segment": "string", "customer_since": "date",
    "observation_exposure": MONEY, "observation_income": MONEY,
    "credits_balance": MONEY, "credits_principal": MONEY, "credits_limit": MONEY,
    "credits_days_past_due": "int64", "credits_overdue": MONEY, "credits_open": "float64",
    "credits_last_stated_on": "date", "credits_product": "string",
    "bureau_balance": MONEY, "bureau_overdue": MONEY, "bureau_open": "float64", "bureau_worst_days_past_due": "int64",
    "statement_balance": MONEY, "statement_limit": MONEY, "statement_months": "int64", "last_statement_on": "date",
    "instalments_days_past_due": "int64", "instalments_overdue": MONEY, "instalment_monthly_past": MONEY,
    "instalment_due_3m": MONEY, "obligations_left": MONEY, "first_transaction_on": "date",
    "last_transaction_on": "date",
    "inflow_6m": MONEY, "transaction_months": "int64", "balance": MONEY, "last_payment_on": "date",
    "credit_months": "int64", "accounts_period_end": "date", "revenue": MONEY, "equity": MONEY, "altman_z": "float64",
    "industry_default_rate": "float64", "sentiment_3m": "float64",
}  # fmt: skip


def position(rows: ibis.Table, given: Iterable[str]) -> dict[str, ibis.Value]:
    """Return the columns of position.parquet from a row's facts; facts outside `given` are null.

    `product`: that of the open own lines, where all are of one. `exposure`: what the source states, else the balance of
    open own lines, else what is overdue and still to fall due, else principal. `days_past_due`: the worse of statements
    and unpaid instalments. `months_of_history`: calendar months since the first own transaction, statement or credit.
    `monthly_inflow`: average of the months known, at most six, else the income stated at the decision.
    `instalment_due_monthly`: average of the next three months, else of the last three. `bureau_default`: another
    lender's line was 90 or more days past due in 24 months. `sentiment_3m`: average of the mentions of three months.
    """
    known = set(given)
    f = {name: rows[name] if name in known else ibis.null(kind) for name, kind in FACTS.items()}

    def money(value: ibis.Value) -> ibis.Value:
        return value.cast(MONEY)

    months = ibis.greatest(
        *(f[name].cast("int32") for name in ("transaction_months", "statement_months", "credit_months"))
    )
    still_owed = f["obligations_left"].cast("float64") + f["instalments_overdue"].fill_null(0).cast("float64")
    inflow_months = ibis.least(ibis.greatest(f["transaction_months"].cast("int32"), 1), 6).cast("float64")
    due = ibis.coalesce(f["instalment_due_3m"].cast("float64"), f["instalment_monthly_past"].cast("float64")) / 3
    return {
        **{name: f[name] for name in ("kind", "industry", "region", "segment")},
        "product": f["credits_product"],
        "exposure": ibis.coalesce(
            money(f["observation_exposure"]),
            money(f["credits_balance"]),
            money(f["statement_balance"]),
            money(still_owed),
            money(f["credits_principal"]),
        ),
        "credit_limit": ibis.coalesce(money(f["credits_limit"]), money(f["statement_limit"])),
        "days_past_due": ibis.greatest(
            f["credits_days_past_due"].cast("int32"), f["instalments_days_past_due"].cast("int32")
        ),
        "overdue_amount": ibis.greatest(money(f["credits_overdue"]), money(f["instalments_overdue"])),
        "months_of_history": months,
        "monthly_inflow": ibis.coalesce(
            money(f["inflow_6m"].cast("float64") / inflow_months), money(f["observation_income"])
        ),
        "instalment_due_monthly": money(due),
        "bureau_default": f["bureau_worst_days_past_due"] >= DEFAULT_DAYS,
        "bureau_balance": money(f["bureau_balance"]),
        "bureau_overdue": money(f["bureau_overdue"]),
        "open_credits": f["credits_open"].cast("int32"),
        "balance": money(f["balance"]),
        "revenue": money(f["revenue"]),
        "equity": money(f["equity"]),
        "altman_z": f["altman_z"],
        "industry_default_rate": f["industry_default_rate"],
        "sentiment_3m": f["sentiment_3m"],
        "accounts_period_end": f["accounts_period_end"],
        "last_payment_on": f["last_payment_on"],
        "last_event_on": ibis.greatest(f["last_transaction_on"], f["last_payment_on"], f["last_statement_on"]),
    }
