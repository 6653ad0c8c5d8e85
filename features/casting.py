"""A raw value read as the type that its column's contract asks for, and the conditions under which it breaks that.

Nothing is rounded silently: a scale beyond the contract's is a broken rule. Pure: SQL text in, SQL text out.
"""

from __future__ import annotations

from dataclasses import dataclass

from features.expressions import Texts, name, over, quote
from features.tables import DATE, MONEY, RATIO, TEXT, WHOLE


@dataclass(frozen=True)
class Value:
    """A column's SQL value and the conditions under which the raw value breaks its type."""

    sql: str
    faults: tuple[tuple[str, str], ...] = ()


def cast(column: str, target: str, sql: str, kind: str, texts: Texts) -> Value:
    """Cast a value of SQL type `kind` to the contract's type. Null in, null out; nothing is rounded silently.

    The faults speak about `sql` and about the cast value under its column's name.
    """
    text, value = kind == "VARCHAR", name(column)
    digits = texts.digits(sql) if text else sql
    if target == TEXT:
        return Value(sql if text else f"CAST({sql} AS VARCHAR)")
    if target == DATE:
        read = texts.maybe_date(sql) if text else f"TRY_CAST({sql} AS DATE)"
    else:
        read = f"TRY_CAST({digits} AS {target})"
    faults = [(f"type:{column}", f"{sql} IS NOT NULL AND {value} IS NULL")]
    if target == RATIO:
        faults = [(f"type:{column}", f"({faults[0][1]}) OR NOT isfinite({value})")]
    elif target in (MONEY, WHOLE):
        faults += [(f"scale:{column}", rounded) for rounded in [_rounded(digits, value, kind, target)] if rounded]
    return Value(read, tuple(faults))


def _rounded(sql: str, value: str, kind: str, target: str) -> str | None:
    """Return SQL of whether the cast lost decimals; None where it cannot. Doubles are given a millionth."""
    if kind == "VARCHAR":
        return over(sql, 2 if target == MONEY else 0)
    if kind.startswith("DECIMAL"):
        return f"{sql} <> {value}"
    if kind in ("DOUBLE", "FLOAT"):
        return f"abs({sql} - CAST({value} AS DOUBLE)) > 0.000001 + 0.000000000001 * abs({sql})"
    return None


def broken(rules: list[tuple[str, str]], *, detail: bool) -> str:
    """Return SQL of whether any rule is broken, or of the list of those that are."""
    if detail:
        cases = ", ".join(f"CASE WHEN {condition} THEN {quote(rule)} END" for rule, condition in rules)
        return f"list_filter(CAST([{cases}] AS VARCHAR[]), lambda rule: rule IS NOT NULL)"
    conditions = " OR ".join(f"coalesce({condition}, false)" for _, condition in rules)
    return f"({conditions})" if rules else "false"
