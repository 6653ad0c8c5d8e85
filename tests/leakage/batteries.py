"""Seven batteries: each alters a case in a way that must not, or must, move its features.

(a) deleted   rows known on or after as_of are deleted              nothing moves
(b) noise     they are replaced by other rows, and more of them     nothing moves
(c) shuffled  rows and tables in another order                      nothing moves
(d) shifted   known_on of used rows is moved to as_of               those customers move, as if the rows did not exist
(e) boundary  further rows and versions known exactly at as_of      nothing moves
(f) outcomes  other outcomes, known on other days                   nothing moves
(g) is about what is fitted on outcomes: see fitting.py.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from building import Built, build, differing
from lenders import Case, Tables, set_column, shifted

from features.tables import contract_of

IDS = ("transaction_id", "payment_id", "mention_id")


def _split(table: pa.Table, as_of: dt.date) -> tuple[pa.Table, pa.Table]:
    past = pc.less(table["known_on"], as_of)
    return table.filter(past), table.filter(pc.invert(past))


def _dates(days: np.ndarray) -> pa.Array:
    return pa.array(days.astype("datetime64[D]")).cast(pa.date32())


def _fresh(rows: pa.Table, mark: str) -> pa.Table:
    """Give rows of an event history identifiers of their own."""
    for name in IDS:
        if name in rows.column_names:
            rows = set_column(rows, name, pc.binary_join_element_wise(rows[name], mark, "#").combine_chunks())
    return rows


def _garbled(rows: pa.Table, random: np.random.Generator, keep: set[str]) -> pa.Table:
    """Put other rows' values in every column that is not kept."""
    for name in rows.column_names:
        if name not in keep:
            rows = set_column(rows, name, rows[name].take(random.permutation(len(rows))).combine_chunks())
            if pa.types.is_string(rows.schema.field(name).type):  # and categories that nobody had heard of
                unheard = pa.array(random.random(len(rows)) < 0.5)
                rows = set_column(rows, name, pc.if_else(unheard, "unheard-of", rows[name]).combine_chunks())
    return rows


def deleted(case: Case) -> Case:
    return case.with_tables({name: _split(table, case.as_of)[0] for name, table in case.tables.items()})


def noise(case: Case) -> Case:
    """Half of all past rows come again as if learned later: garbled, restating keys, of events before and after as_of."""
    result = {}
    for name, table in case.tables.items():
        random = np.random.default_rng(zlib.crc32(f"{case.name} {name}".encode()))
        past, _ = _split(table, case.as_of)
        contract = contract_of(name, set(table.column_names))
        some = past.take(np.flatnonzero(random.random(len(past)) < 0.5))
        learned = np.datetime64(case.as_of) + random.integers(0, 200, len(some))
        some = _garbled(some, random, {*contract.key, "customer_id", "credit_id", "known_on"})
        some = set_column(some, "known_on", _dates(learned))
        new = _fresh(some, "noise")
        if contract.event in new.column_names and contract.event not in ("as_of", "period_start"):
            event = np.datetime64(case.as_of) + random.integers(-400, 100, len(new))
            new = set_column(new, contract.event, _dates(event))
        if name == "observations":  # never an event of its own: later versions of what was stated
            new = some.slice(0, 0)
        strangers = new
        for holder in ("customer_id", "credit_id"):
            if holder in strangers.column_names and name in ("customers", "credits") and holder in contract.key:
                strangers = set_column(
                    strangers, holder, pc.binary_join_element_wise(strangers[holder], "new", "#").combine_chunks()
                )
        result[name] = pa.concat_tables([past, some, strangers])
    return case.with_tables(result)


def shuffled(case: Case) -> Case:
    """Every row somewhere else, tables in the other order."""
    random = np.random.default_rng(11)
    return case.with_tables(
        {name: case.tables[name].take(random.permutation(len(case.tables[name]))) for name in reversed(case.tables)}
    )


def _at_the_edge(case: Case, days: int) -> Tables:
    """Copies of past rows, with doubled money, that become known `days` after as_of."""
    result = {}
    for name, table in case.tables.items():
        past, _ = _split(table, case.as_of)
        rows = _fresh(past, "edge")
        for field in rows.schema:
            if pa.types.is_decimal(field.type):
                rows = set_column(
                    rows,
                    field.name,
                    pc.add(rows[field.name], rows[field.name]).cast(field.type, safe=False).combine_chunks(),
                )
            if pa.types.is_float64(field.type):
                rows = set_column(rows, field.name, pc.add(rows[field.name], 0.015625).combine_chunks())
        learned = np.full(len(rows), np.datetime64(case.as_of) + days)
        result[name] = pa.concat_tables([table, set_column(rows, "known_on", _dates(learned))])
    return result


def boundary(case: Case) -> Case:
    return case.with_tables(_at_the_edge(case, 0))


def just_before(case: Case) -> Case:
    """The counterpart of `boundary` that must be seen: the same rows known a day earlier."""
    return case.with_tables(_at_the_edge(case, -1))


def outcomes(case: Case) -> Case:
    """Turn every outcome round, unknown ones too, and learn it on another day; asked rows carry outcomes as well."""
    result = dict(case.tables)
    if "observations" in result:
        rows = result["observations"]
        flipped = pc.subtract(pa.scalar(1, rows["outcome"].type), pc.fill_null(rows["outcome"], 0))
        rows = set_column(rows, "outcome", flipped.combine_chunks().cast(rows["outcome"].type))
        days = np.random.default_rng(5).integers(-40, 40, len(rows))
        rows = set_column(rows, "outcome_known_on", shifted(rows["outcome_known_on"], days))
        result["observations"] = rows
    asked = case.observed
    if "outcome" in asked.column_names:
        asked = set_column(asked, "outcome", pc.subtract(pa.scalar(1, pa.int8()), asked["outcome"]).combine_chunks())
    return replace(case, tables=result, observed=asked)


def with_outcomes(case: Case) -> Case:
    """Let the asked rows carry outcomes as training.parquet does."""
    if "outcome" in case.observed.column_names:
        return case
    drawn = np.random.default_rng(9).integers(0, 2, len(case.observed)).astype("int8")
    return replace(case, observed=case.observed.append_column("outcome", pa.array(drawn)))


SILENT: dict[str, Callable[[Case], Case]] = {
    "a deleted": deleted, "b noise": noise, "c shuffled": shuffled, "e boundary": boundary, "f outcomes": outcomes,
}  # fmt: skip


def judged_rows(case: Case) -> pa.Array:
    """Return which asked rows the alterations speak about: those asked at or before the case's date."""
    order = case.observed.sort_by([("as_of", "ascending"), ("customer_id", "ascending")])
    return pc.less_equal(order["as_of"], case.as_of).combine_chunks()


def alarms(
    case: Case, base: Built, names: list[str], only: frozenset[str] = frozenset(), *, panel: bool | None = None
) -> dict[str, list[str]]:
    """Return battery -> features that moved though they must not, and under `d shifted` those that stayed."""
    found = {}
    for name in names:
        if name == "d shifted":
            moved = forgotten(case, only, panel=panel) or forgotten(case, only, OF_CREDITS, panel=panel)
        else:
            moved = differing(base, build(SILENT[name](case), only, panel=panel), judged_rows(case))
        if moved:
            found[name] = moved
    return found


def _own_rows(table: pa.Table, customers: list[str], tables: Tables) -> pa.Array | None:
    """Return which rows hang on these customers, or None for a table that is not about customers."""
    if "customer_id" in table.column_names:
        return pc.is_in(table["customer_id"], pa.array(customers))
    if "credit_id" in table.column_names and "credits" in tables:
        own = tables["credits"]
        mine = own.filter(pc.is_in(own["customer_id"], pa.array(customers)))["credit_id"].combine_chunks()
        return pc.is_in(table["credit_id"], mine)
    return None


OF_CREDITS = frozenset({"credits", "statements", "instalments", "payments"})


def forgotten(
    case: Case, only: frozenset[str] = frozenset(), hang_on: frozenset[str] = frozenset(), *, panel: bool | None = None
) -> list[str]:
    """(d) for all rows: every second customer's rows become known at as_of; return features that still hold a value.

    With `hang_on` the credits alone become known so late, and the features are those that hang on credits.
    """
    customers = sorted(set(case.observed["customer_id"].to_pylist()))[::2]
    moved = {}
    for name, table in case.tables.items():
        mine = _own_rows(table, customers, case.tables)
        if mine is None or (hang_on and name != "credits"):
            moved[name] = table
            continue
        late = pc.max_element_wise(table["known_on"], pa.scalar(case.as_of, pa.date32()))
        moved[name] = set_column(table, "known_on", pc.if_else(mine, late, table["known_on"]).combine_chunks())
    if hang_on and "credits" not in case.tables:
        return []
    after = build(case.with_tables(moved), only, panel=panel)
    asked = pc.and_(pc.is_in(after.rows["customer_id"], pa.array(customers)), judged_rows(case))
    rows = after.rows.filter(asked)
    asked_about = [name for name in after.features if not hang_on or after.sources[name] <= hang_on]
    return [name for name in asked_about if rows[name].null_count < len(rows)]


def newest_used(case: Case, name: str, taken: set[str]) -> tuple[str, pa.Array] | None:
    """Return (customer, mask of the versions) of the newest event that this customer's features rest on."""
    table = case.tables[name]
    contract = contract_of(name, set(table.column_names))
    past = pc.less(table["known_on"], case.as_of)
    frame = table.append_column("at", pa.array(np.arange(len(table)))).filter(past)
    if contract.event in ("opened_on", "due_on", "paid_on", "stated_on", "event_on", "period_start"):
        frame = frame.filter(pc.less(frame[contract.event], case.as_of))
    if "amount" in frame.column_names:
        frame = frame.filter(pc.not_equal(frame["amount"], pa.scalar(Decimal(0), frame.schema.field("amount").type)))
    asked = case.observed.filter(pc.equal(case.observed["as_of"], case.as_of))
    at_date = set(asked["customer_id"].to_pylist()) - taken
    owner = {}
    if "customer_id" not in table.column_names and "credits" in case.tables:
        own = case.tables["credits"]
        owner = dict(zip(own["credit_id"].to_pylist(), own["customer_id"].to_pylist(), strict=True))
    event = contract.event if contract.event in frame.column_names else "known_on"
    for row in frame.sort_by([(event, "descending"), ("at", "ascending")]).to_pylist():
        customer = row.get("customer_id") or owner.get(row.get("credit_id"))
        if customer in at_date:
            same = pa.array([True] * len(table))
            for column in contract.key or ("customer_id", "event_on"):
                same = pc.and_(same, pc.equal(table[column], row[column]))
            return customer, same
    return None


def one_row_later(case: Case) -> tuple[Case, dict[str, str]]:
    """(d) for one row of each history: it becomes known at as_of. Returns the case and table -> customer concerned."""
    moved, whose, taken = dict(case.tables), {}, set()
    for name in case.tables:
        found = newest_used(case, name, taken) if name != "industries" else None
        if found is not None:
            whose[name], same = found
            taken.add(found[0])
            table = moved[name]
            late = pc.max_element_wise(table["known_on"], pa.scalar(case.as_of, pa.date32()))
            moved[name] = set_column(table, "known_on", pc.if_else(same, late, table["known_on"]).combine_chunks())
    return case.with_tables(moved), whose
