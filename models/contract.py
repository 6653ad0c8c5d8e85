"""A published table (scored customers, worklist) against its contract file: types, nulls, ranges, order and rules.

The contract is plain JSON, so that a reader in any language can check the same things. `decide` checks what it writes,
`publish` checks the very bytes that it publishes, and both call `check_table`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.errors import ConfigurationRefused, Problem

Type = Literal["VARCHAR", "DATE", "DOUBLE", "INTEGER", "BOOLEAN", "DECIMAL(18,2)"]
ARROW: Mapping[str, pa.DataType] = {
    "VARCHAR": pa.string(), "DATE": pa.date32(), "DOUBLE": pa.float64(), "INTEGER": pa.int32(), "BOOLEAN": pa.bool_(),
    "DECIMAL(18,2)": pa.decimal128(18, 2),
}  # fmt: skip
PENDING = ("run_id", "grade_published_before")  # publish alone can fill them
REASONS = 4
REMEDY = "Mend the stage that writes it; nothing was published."


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """One column: what it holds and what it may hold."""

    name: str
    type: Type
    nullable: bool
    unit: str | None
    description: Annotated[str, Field(min_length=1)]
    one_of: tuple[str, ...] | None = None  # enumeration
    values_from: str | None = None  # name of an enumeration that the caller gives
    separator: str | None = None  # the text holds several of `one_of`, joined by this
    pattern: str | None = None  # RE2
    minimum: float | None = None
    maximum: float | None = None


class Rule(_Frozen):
    """One rule between columns; its check stands in this module under the same name."""

    name: str
    sentence: str


class TableContract(_Frozen):
    """A table's contract, as its JSON file states it."""

    name: str
    version: int
    grain: tuple[str, ...]
    order: tuple[str, ...]
    compatibility: str
    rules: tuple[Rule, ...]
    columns: tuple[Column, ...]

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the contract; a file that is none is refused with exit code 4."""
        try:
            contract = cls.model_validate_json(text)
        except ValidationError as error:
            problems = [
                Problem("contract: " + ".".join(map(str, e["loc"])), e["msg"], e["type"], "Restore the file from git.")
                for e in error.errors()
            ]
            raise ConfigurationRefused(problems) from None
        unknown = [rule.name for rule in contract.rules if rule.name not in RULES]
        if unknown:
            raise ConfigurationRefused(
                Problem("contract: rules", f"of {', '.join(RULES)}", ", ".join(unknown), "Restore the file from git.")
            )
        return contract

    def arrow_schema(self, without: Collection[str] = ()) -> pa.Schema:
        """Return the Arrow schema in the contract's order, without the columns named in `without`."""
        return pa.schema(
            [pa.field(c.name, ARROW[c.type], nullable=True) for c in self.columns if c.name not in without]
        )


def check_table(
    table: pa.Table | pd.DataFrame,
    contract: TableContract | Mapping[str, Any],
    *,
    pending: Collection[str] = (),
    enumerations: Mapping[str, Sequence[str]] | None = None,
) -> list[Problem]:
    """Return every rule of `contract` that `table` breaks; an empty list where it keeps them all.

    table: the scored table, one row a customer. contract: also as plain data. pending: columns that may still be absent
    or null (decide passes `PENDING`, publish nothing). enumerations: allowed values for columns with `values_from`
    (`grades`); without it those are not checked. Columns after the contract's last are allowed. Messages hold counts,
    never a raw value. Errors: a contract that is none is refused with exit code 4.
    """
    if not isinstance(contract, TableContract):
        contract = TableContract.from_json(json.dumps(contract))
    if isinstance(table, pd.DataFrame):
        table = _typed(table, contract)
    problems: list[Problem] = []
    present = [c for c in contract.columns if c.name in table.column_names]
    absent = [c.name for c in contract.columns if c.name not in table.column_names and c.name not in pending]
    if absent:
        problems.append(_problem(contract, "", "a table with every column of the contract", f"no {', '.join(absent)}"))
    if table.column_names[: len(present)] != [c.name for c in present]:
        problems.append(_problem(contract, "", "columns in the contract's order", "another order"))
    sound = set()
    for column in present:
        found = _check_column(table[column.name], column, column.name in pending, enumerations or {})
        problems += [_problem(contract, column.name, must, what) for must, what in found]
        if not found:
            sound.add(column.name)
    problems += _check_keys(table, contract, sound)
    for rule in contract.rules:
        needs, broken = RULES[rule.name]
        if set(needs) <= sound:
            count = int(broken({name: table[name].to_pandas() for name in needs}).sum())
            if count:
                problems.append(_problem(contract, rule.name, rule.sentence, f"{count} rows that break it"))
    return problems


def _typed(frame: pd.DataFrame, contract: TableContract) -> pa.Table:
    """Return a frame as Arrow, each column in its contract's type where it can be that without loss."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for column in contract.columns:
        if column.name in table.column_names:
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                cast = table[column.name].cast(ARROW[column.type])
                table = table.set_column(table.schema.get_field_index(column.name), column.name, cast)
    return table


def _problem(contract: TableContract, where: str, must_be: str, found: str) -> Problem:
    return Problem(f"{contract.name} v{contract.version}{': ' if where else ''}{where}", must_be, found, REMEDY)


def _check_column(
    values: pa.ChunkedArray, column: Column, pending: bool, enumerations: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """Return (must be, found) for each rule that one column breaks."""
    if values.type != ARROW[column.type]:
        if pending and values.null_count == len(values):
            return []
        return [(f"of type {column.type}", str(values.type))]
    found = []
    if values.null_count and not (column.nullable or pending):
        found.append(("never null", f"{values.null_count} nulls"))
    known = values.drop_null()
    allowed = column.one_of or enumerations.get(column.values_from or "")
    if allowed is not None:
        parts = known
        if column.separator:
            parts = pc.list_flatten(pc.split_pattern(known.filter(pc.not_equal(known, "")), column.separator))
        others = len(parts) - (pc.sum(pc.is_in(parts, pa.array(allowed, pa.string()))).as_py() or 0)
        if others:
            found.append((f"one of {', '.join(allowed)}", f"{others} other values"))
    if column.pattern:
        others = len(known) - (pc.sum(pc.match_substring_regex(known, column.pattern)).as_py() or 0)
        if others:
            found.append((f"text like {column.pattern}", f"{others} other values"))
    if column.type in ("DOUBLE", "INTEGER", "DECIMAL(18,2)"):
        numbers = known.cast(pa.float64()).to_numpy()
        strange = int((~np.isfinite(numbers)).sum())
        if strange:
            found.append(("finite, and null where unknown", f"{strange} NaN or infinite values"))
        low, high = column.minimum, column.maximum
        outside = int(((numbers < low) if low is not None else np.zeros(len(numbers), bool)).sum())
        outside += int(((numbers > high) if high is not None else np.zeros(len(numbers), bool)).sum())
        if outside:
            found.append((f"between {low} and {high}", f"{outside} values outside"))
    return found


def _check_keys(table: pa.Table, contract: TableContract, sound: Collection[str]) -> list[Problem]:
    """Return the broken rules on grain and order."""
    if not set(contract.grain) | set(contract.order) <= set(sound):
        return []
    problems = []
    doubled = table.num_rows - table.select(list(contract.grain)).group_by(list(contract.grain)).aggregate([]).num_rows
    if doubled:
        problems.append(
            _problem(contract, ", ".join(contract.grain), "one row each", f"{doubled} rows more than distinct keys")
        )
    keys = table.select(list(contract.order)).combine_chunks()
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in contract.order])
    if not keys.take(order).equals(keys):
        problems.append(_problem(contract, ", ".join(contract.order), "in ascending order", "another order of rows"))
    return problems


Columns = Mapping[str, pd.Series]
Broken = Callable[[Columns], pd.Series]


def _broken_interval(t: Columns) -> pd.Series:
    return (t["pd_low"] > t["pd_12m"]) | (t["pd_12m"] > t["pd_high"])


def _broken_expected_loss(t: Columns) -> pd.Series:
    exposure, loss = t["exposure"].astype(float), t["expected_loss"].astype(float)
    gap = (loss - t["pd_12m"] * t["loss_given_default"] * exposure).abs()
    # half a cent of rounding, and what doubles lose on large amounts
    return (exposure.isna() != loss.isna()) | (gap > 0.0051 + 1e-12 * exposure.fillna(0))


def _broken_grade_change(t: Columns) -> pd.Series:
    return t["grade_previous"].isna() != t["grade_change"].isna()


def _broken_limit(t: Columns) -> pd.Series:
    return t["credit_limit_recommended"].isna() != t["limit_rule"].str.startswith("no_basis")


def _broken_reasons(t: Columns) -> pd.Series:
    broken = pd.Series(data=False, index=t["reason_1_code"].index)
    for k in range(2, REASONS + 1):
        code, points, before = t[f"reason_{k}_code"], t[f"reason_{k}_points"], t[f"reason_{k - 1}_code"]
        broken |= code.notna() & (before.isna() | (points > t[f"reason_{k - 1}_points"]))
        for j in range(1, k):
            broken |= (code.notna() & (code == t[f"reason_{j}_code"])).astype(bool)
    return broken


def _broken_week(t: Columns) -> pd.Series:
    is_open = t["state"] == "open"
    listed = is_open | (t["state"] == "waiting")
    return (t["rank"].notna() != listed) | (t["week"].notna() != is_open) | (t["due_on"].notna() != is_open)


def _broken_rests(t: Columns) -> pd.Series:
    rests = t["state"].isin(["snoozed", "done"])
    again, day = (pd.to_datetime(t[name]) for name in ("again_from", "as_of"))
    return (again.notna() != rests) | (rests & ~(again > day))


RULES: Mapping[str, tuple[tuple[str, ...], Broken]] = {
    "interval": (("pd_low", "pd_12m", "pd_high"), _broken_interval),
    "expected_loss": (("pd_12m", "loss_given_default", "exposure", "expected_loss"), _broken_expected_loss),
    "grade_change": (("grade_previous", "grade_change"), _broken_grade_change),
    "limit": (("credit_limit_recommended", "limit_rule"), _broken_limit),
    "week": (("state", "rank", "week", "due_on"), _broken_week),
    "rests": (("state", "again_from", "as_of"), _broken_rests),
    "reasons": (
        tuple(f"reason_{k}_{part}" for k in range(1, REASONS + 1) for part in ("code", "points")),
        _broken_reasons,
    ),
}
