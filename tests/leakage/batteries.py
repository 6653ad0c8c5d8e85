"""Eight batteries: each alters a case in a way that must not, or must, move its features.

(a) deleted   rows known on or after as_of are deleted              nothing moves
(b) noise     they are replaced by other rows, and more of them     nothing moves
(c) shuffled  rows and tables in another order                      nothing moves
(d) shifted   known_on of used rows is moved to as_of               those customers move, as if the rows did not exist
(e) boundary  further rows and versions known exactly at as_of      nothing moves
(f) outcomes  other outcomes, known on other days                   nothing moves
(h) asked     customers are asked about on further dates       nothing moves
(g) is about what is fitted on outcomes: see fitting.py.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from building import Built, bits, build, differing
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


def asked_more(case: Case) -> Case:
    """Ask about every customer on a later date as well."""
    later = case.observed.filter(pc.equal(case.observed["as_of"], pc.max(case.observed["as_of"])))
    moved = set_column(later, "as_of", shifted(later["as_of"], 45))
    order = [("as_of", "ascending"), ("customer_id", "ascending")]
    return replace(case, observed=pa.concat_tables([case.observed, moved]).sort_by(order))


SILENT: dict[str, Callable[[Case], Case]] = {
    "a deleted": deleted, "b noise": noise, "c shuffled": shuffled, "e boundary": boundary, "f outcomes": outcomes,
    "h asked": asked_more,
}  # fmt: skip


def together(case: Case) -> Case:
    """Noise, boundary, other outcomes, other dates asked and another order at once: none of them may move anything."""
    for change in (boundary, noise, outcomes, asked_more, shuffled):
        case = change(case)
    return case


def alarms(
    case: Case, base: Built, names: list[str], only: frozenset[str] = frozenset(), *, panel: bool | None = None
) -> dict[str, list[str]]:
    """Return battery -> features that moved though they must not, and under `d shifted` those that stayed."""
    found = {}
    for name in names:
        if name == "d shifted":
            moved = forgotten(case, only, panel=panel)
        else:
            moved = differing(base, build(SILENT[name](case), only, panel=panel), case.as_of)
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


def forgotten(case: Case, only: frozenset[str] = frozenset(), *, panel: bool | None = None) -> list[str]:
    """(d) for all rows of a customer; return the features that still hold a value.

    Of every second customer all rows become known at as_of, and no feature may have a value. Of the others the credits
    alone become known so late, and nothing that hangs on credits may have one.
    """
    customers = sorted(set(case.observed["customer_id"].to_pylist()))
    moved = {}
    for name, table in case.tables.items():
        mine = _own_rows(table, customers if name == "credits" else customers[::2], case.tables)
        if mine is None:
            moved[name] = table
            continue
        late = pc.max_element_wise(table["known_on"], pa.scalar(case.as_of, pa.date32()))
        moved[name] = set_column(table, "known_on", pc.if_else(mine, late, table["known_on"]).combine_chunks())
    after = build(case.with_tables(moved), only, panel=panel)
    rows = after.rows.filter(pc.less_equal(after.rows["as_of"], case.as_of))
    whole = pc.is_in(rows["customer_id"], pa.array(customers[::2]))
    gone, lineless = rows.filter(whole), rows.filter(pc.invert(whole))
    found = [name for name in after.features if gone[name].null_count < len(gone)]
    if "credits" in case.tables:
        hang_on = [name for name in after.features if after.sources[name] <= OF_CREDITS]
        found += [name for name in hang_on if lineless[name].null_count < len(lineless) and name not in found]
    return found


def _countable(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (places of rows that a feature can rest on at as_of, in the order of their events; their owners)."""
    table = case.tables[name]
    event = contract_of(name, set(table.column_names)).event
    event = event if event in table.column_names and event not in ("as_of", "published_on") else "known_on"
    frame = pa.table({"at": np.arange(len(table)), "known_on": table["known_on"], "event": table[event]})
    owner = "customer_id" if "customer_id" in table.column_names else "credit_id"
    frame = frame.append_column("owner", table[owner] if owner in table.column_names else table["industry"])
    frame = frame.filter(pc.less(frame["known_on"], case.as_of))
    if name != "instalments":  # those to come are known as well
        frame = frame.filter(pc.less(frame["event"], case.as_of))
    if name == "observations":
        frame = frame.filter(pc.equal(table["as_of"].take(frame["at"]), case.as_of))
    frame = frame.sort_by([("event", "ascending"), ("at", "ascending")])
    owners = np.array(frame["owner"].to_pylist(), dtype=object)
    if owner == "credit_id" and owner in table.column_names:
        lines = case.tables["credits"]
        of = dict(zip(lines["credit_id"].to_pylist(), lines["customer_id"].to_pylist(), strict=True))
        owners = np.array([of.get(each) for each in owners], dtype=object)
    return frame["at"].to_numpy(), owners


def _with_versions(table: pa.Table, key: tuple[str, ...], places: list[int]) -> pa.Array:
    """Return which rows are versions of the rows at these places."""
    if not key:
        return pa.array(np.isin(np.arange(len(table)), places))
    names = pc.binary_join_element_wise(*(table[column].cast(pa.string()) for column in key), "\x1f").combine_chunks()
    return pc.is_in(names, names.take(pa.array(places, pa.int64())))


def one_row_later(case: Case, turn: int) -> tuple[Case, dict[str, str]]:
    """(d) for one row of each customer: it becomes known at as_of. Returns the case and customer -> table of its row.

    Customers take turns with the tables, and with the row: the newest, the oldest, the largest or smallest in some
    number, any. One row of the industries moves for all customers whose turn is `industries`.
    """
    random = np.random.default_rng(turn)
    rows = {name: _countable(case, name) for name in case.tables}
    asked = case.observed.filter(pc.equal(case.observed["as_of"], case.as_of))
    customers = np.array(sorted(set(asked["customer_id"].to_pylist())), dtype=object)
    names = sorted(case.tables)
    late: dict[str, list[int]] = {name: [] for name in names}
    whose = {}
    for number, customer in enumerate(random.permutation(customers)):
        for step in range(len(names)):  # the next table in turn that says something of this customer
            name = names[(number + step) % len(names)]
            at, owners = rows[name]
            mine = at if name == "industries" else at[owners == customer]
            if len(mine):
                break
        else:
            continue
        late[name].append(_picked(case.tables[name], mine, number // len(names) % 5, random))
        whose[str(customer)] = name
    moved = {}
    for name, table in case.tables.items():
        same = _with_versions(table, contract_of(name, set(table.column_names)).key, late[name])
        learned = pc.max_element_wise(table["known_on"], pa.scalar(case.as_of, pa.date32()))
        moved[name] = set_column(table, "known_on", pc.if_else(same, learned, table["known_on"]).combine_chunks())
    return case.with_tables(moved), whose


def _picked(table: pa.Table, places: np.ndarray, way: int, random: np.random.Generator) -> int:
    """Return one of the places (in the order of events): newest, oldest, largest, smallest, or any."""
    measures = [f.name for f in table.schema if pa.types.is_decimal(f.type) or pa.types.is_floating(f.type)]
    if way in (2, 3) and measures:
        values = table[random.choice(measures)].take(places).cast(pa.float64()).fill_null(0.0).to_numpy()
        return int(places[values.argmax() if way == 2 else values.argmin()])
    return int(places[-1] if way == 0 else places[0] if way == 1 else random.choice(places))


def moved_by_one_row(case: Case, base: Built, turn: int) -> tuple[set[str], list[str]]:
    """Return (features that moved for a customer whose row was late, complaints).

    A feature of a customer may move by a row of its sources alone. Complaint: a late row that was used moves nothing.
    A feature that is no longer declared (a category's value that has become rare) has no value.
    """
    later, whose = one_row_later(case, turn)
    after = build(later)
    at = pc.equal(base.rows["as_of"], case.as_of)
    before, after_rows = base.rows.filter(at), after.rows.filter(at)
    customers = before["customer_id"].to_pylist()
    tables = np.array([whose.get(each, "") for each in customers])
    moved, touched = set(), {name: np.zeros(int((tables == name).sum()), bool) for name in set(whose.values())}
    for name in base.features:
        gone = pa.chunked_array([pa.nulls(len(before), before.schema.field(name).type)])
        differs = _differs(before[name], after_rows[name] if name in after.sources else gone)
        for table, rows in touched.items():
            here = differs[tables == table]
            if here.any() and table in base.sources[name]:
                moved.add(name)
                np.logical_or(rows, here, out=rows)
    silent = [table for table, rows in touched.items() if not rows.any()]
    return moved, silent


def _differs(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray:
    """Return which values differ, a null from a value too."""
    a, b = (bits(each) for each in (one, other))
    same = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
    return ~same.to_numpy(zero_copy_only=False)
