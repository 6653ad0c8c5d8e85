"""A few customers built by themselves: to the bit what a build of everyone says of them, month by month."""

from __future__ import annotations

import datetime as dt
import json

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.among import among, less, rank
from features.build import PARTS, Few, Matrix, Settings
from features.declared import Declared
from features.definition import KEYS
from features.prepared import numbered
from features.standing import LEVELS, SEGMENTS, Stood, month_of
from tests.features.drawn import draw, matrix_of, observe
from tests.features.test_applicants import apart
from tests.features.test_time_build import ATTRIBUTES, world
from tests.spec.test_spec_peers import world as peers_world

EARLY = observe("a 2023-03-01")


def stood(matrix: Matrix, days: set[dt.date]) -> dict[dt.date, Stood]:
    """Work the months out on the whole lender."""
    made = {}
    for day in days:
        nobody = pa.table({"customer_id": pa.array([-1], pa.int32()), "as_of": pa.array([day], pa.date32())})
        asked = matrix.connection.create_table("asked_month", nobody, temp=True, overwrite=True)
        asked = numbered(asked, "as_of", "as_of").select("customer_id", "as_of", *PARTS)
        made[day] = Stood.of(*month_of(matrix.connection, matrix.lender, asked))
    return made


def few_of(tables: dict[str, pa.Table], customers: list[str]) -> dict[str, pa.Table]:
    """Return all rows of some customers, and all rows about nobody."""
    held = pa.array(customers)
    lines = tables.get("credits")
    mine = lines.filter(pc.is_in(lines["customer_id"], held))["credit_id"].combine_chunks() if lines else None
    found = {}
    for name, table in tables.items():
        if "credit_id" in table.column_names:
            table = table.filter(pc.is_in(table["credit_id"], mine))  # noqa: PLW2901
        elif "customer_id" in table.column_names:
            table = table.filter(pc.is_in(table["customer_id"], held))  # noqa: PLW2901
        found[name] = table
    return found


def built_apart(
    tables: dict[str, pa.Table], whole: Matrix, asked: pa.Table, months: dict[dt.date, Stood], attributes: dict,
    **settings: object,
) -> pa.Table:  # fmt: skip
    """Build the observations from their customers' rows alone, by what the whole lender declared, kept as JSON."""
    declared = Declared.from_plain(json.loads(json.dumps(whole.declared.to_plain())))
    connection = ibis.duckdb.connect(threads=2)
    held, here = laid(connection, tables, asked)
    few = Few(declared, among(connection, months.__getitem__))
    matrix = Matrix(connection, held, attributes, here, here, Settings(**settings), few=few)
    assert matrix.catalogue() == whole.catalogue()
    return pa.concat_tables([part for part, _ in matrix.groups(here)])


def laid(connection: object, tables: dict[str, pa.Table], asked: pa.Table) -> tuple[dict[str, object], object]:
    """Put the rows of the observed customers, and the observations, under their names."""
    given = few_of(tables, asked["customer_id"].unique().to_pylist())
    held = {name: connection.create_table(name, table, temp=True, overwrite=True) for name, table in given.items()}
    return held, connection.create_table("asked", asked, temp=True, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4])
def test_a_few_customers_get_every_feature_as_everyone_does(seed):
    tables = apart(world(seed))
    days = ("2023-06-01", "2023-06-17", "2023-09-30")
    everyone = sorted({*tables["customers"]["customer_id"].to_pylist()})
    asked = observe("\n".join(f"{customer} {day}" for customer in everyone for day in days))
    options = {"windows": (1, 3, 12), "lags": 2}
    whole, here = matrix_of(tables, asked, attributes=ATTRIBUTES, training=EARLY, **options)
    months = stood(whole, {dt.date.fromisoformat(day).replace(day=1) for day in days})
    expected = pa.concat_tables([part for part, _ in whole.groups(here)])
    some = pa.array(everyone[:2])
    found = built_apart(
        tables, whole, asked.filter(pc.is_in(asked["customer_id"], some)), months, ATTRIBUTES, **options
    )
    assert found.equals(expected.filter(pc.is_in(expected["customer_id"], some)).combine_chunks().cast(found.schema))


def test_how_others_stood_is_what_the_build_of_everyone_works_out():
    """Forty customers in two industries, late and restated rows, ties, groups that are too small, numbers of nobody."""
    tables, _, who = peers_world(11)
    asked = observe("\n".join(f"{c} {day}" for c in who for day in ("2024-01-31", "2024-02-01", "2024-02-29")))
    whole, here = matrix_of(tables, asked, training=observe("c0 2023-09-01"))
    months = stood(whole, {dt.date(2024, 1, 1), dt.date(2024, 2, 1)})
    expected = pa.concat_tables([part for part, _ in whole.groups(here)])
    some = pa.array(["c1", "c2", "c26", "c30"])
    found = built_apart(tables, whole, asked.filter(pc.is_in(asked["customer_id"], some)), months, {})
    assert found.equals(expected.filter(pc.is_in(expected["customer_id"], some)).combine_chunks().cast(found.schema))
    peers = [name for name in found.column_names if name.startswith("peers_")]
    assert sum(len(found) - found[name].null_count for name in peers) > 10


def test_other_customers_come_into_what_was_declared_of_those_before_them():
    """Rows, codes, numbers of their own and the months they look at are all of the customers who came last."""
    tables, _, who = peers_world(11)
    first, last = (
        observe("\n".join(f"{c} {day}" for c in some for day in days))
        for some, days in ((sorted(who)[:2], ["2024-02-29"]), (sorted(who)[3:], ["2024-01-31", "2024-02-01"]))
    )
    whole, here = matrix_of(tables, pa.concat_tables([first, last]), training=observe("c0 2023-09-01"))
    months = stood(whole, {dt.date(2024, 1, 1), dt.date(2024, 2, 1)})
    connection = ibis.duckdb.connect(threads=2)
    held, asked = laid(connection, tables, first)
    matrix = Matrix(
        connection, held, {}, asked, asked, Settings(),
        few=Few(whole.declared, among(connection, {dt.date(2024, 2, 1): months[dt.date(2024, 2, 1)]}.__getitem__)),
    )  # fmt: skip
    found = [pa.concat_tables([part for part, _ in matrix.groups(asked)])]
    for rows in (last, first):
        _, asked = laid(connection, tables, rows)
        matrix.again(Few(whole.declared, among(connection, months.__getitem__)))
        found.append(pa.concat_tables([part for part, _ in matrix.groups(asked)]))
    expected = pa.concat_tables([part for part, _ in whole.groups(here)]).cast(found[0].schema)
    pairs = [
        set(zip(rows["customer_id"].to_pylist(), rows["as_of"].to_pylist(), strict=True)) for rows in (first, last)
    ]
    of_last = pa.array([pair in pairs[1] for pair in zip(*(expected[key].to_pylist() for key in KEYS), strict=True)])
    assert found[1].equals(expected.filter(of_last).combine_chunks())
    assert found[0].equals(expected.filter(pc.invert(of_last)).combine_chunks())
    assert found[2].equals(found[0])


DAY, LATER = dt.date(2023, 6, 1), dt.date(2023, 7, 1)


def held_as(groups: list[tuple[str | None, ...]], values: list[float], levels: tuple = ()) -> Stood:
    """Return a month of (measure, kind, group, start, stop) and (dimension, kind, group, measure, level)."""
    names = SEGMENTS.names, LEVELS.names
    segments = pa.Table.from_pylist([dict(zip(names[0], each, strict=True)) for each in groups], SEGMENTS)
    averages = pa.Table.from_pylist([dict(zip(names[1], each, strict=True)) for each in levels], LEVELS)
    return Stood.of(averages, segments, np.array(values))


def lines_of(*rows: tuple[str | None, str | None, str, float], day: dt.date = DAY) -> pd.DataFrame:
    kinds = {"kind": object, "industry": object, "measure": object, "value": float}
    found = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
    return found.assign(month=np.full(len(found), np.datetime64(day, "ms")))


def test_a_rank_counts_half_of_the_same_and_an_empty_group_says_nothing():
    held = {DAY: held_as([("m", None, None, 0, 4)], [1.0, 2.0, 2.0, 5.0])}
    asked = lines_of(*(("person", None, "m", value) for value in (0.0, 1.0, 2.0, 3.0, 9.0)))
    assert rank(held, asked).tolist() == [0.0, 0.125, 0.5, 0.75, 1.0]
    assert np.isnan(rank(held, lines_of(("person", "i1", "m", 1.0)), "industry")).all()
    assert np.isnan(rank(held, lines_of(("person", "i1", "n", 1.0)))).all()


def test_a_line_without_kind_or_group_stands_among_all_and_in_no_group():
    held = {DAY: held_as(
        [("m", None, None, 0, 2), ("m", "person", "i1", 2, 4)], [1.0, 3.0, 5.0, 7.0],
        (("industry", "person", "i1", "m", 6.0),),
    )}  # fmt: skip
    asked = lines_of(("person", "i1", "m", 6.5), (None, "i1", "m", 2.0), ("person", None, "m", 2.0))
    assert rank(held, asked).tolist() == [1.0, 0.5, 0.5]
    assert rank(held, asked, "industry")[0] == 0.5
    assert less(held, "industry", asked)[0] == 0.5
    for found in (rank(held, asked, "industry"), less(held, "industry", asked)):
        assert np.isnan(found[1:]).all()


def test_a_line_is_set_against_its_own_month():
    one, other = (
        held_as([("m", None, None, 0, 2)], numbers, (("region", "person", "r", "m", numbers[0]),))
        for numbers in ([1.0, 3.0], [5.0, 7.0])
    )
    held = {DAY: one, LATER: other}
    asked = pd.concat([lines_of(("person", None, "m", 4.0), day=day).assign(region="r") for day in (LATER, DAY)])
    assert rank(held, asked).tolist() == [0.0, 1.0]
    assert less(held, "region", asked).tolist() == [-1.0, 3.0]


@given(
    st.lists(st.lists(st.integers(-4, 4), max_size=9), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-5.0, -1.5, 0.0, 1.0, 4.0, 9.0])), max_size=20),
)
def test_places_within_ranges_are_those_of_a_search_in_each(parts, asked):
    groups = [(f"m{n}", None, None, sum(map(len, parts[:n])), sum(map(len, parts[: n + 1]))) for n in range(len(parts))]
    held = {DAY: held_as(groups, [float(v) for part in parts for v in sorted(part)])}
    found = rank(held, lines_of(*((None, None, f"m{n}", value) for n, value in asked)))
    for (n, value), placed in zip(asked, found, strict=True):
        part = np.sort(np.array(parts[n] if n < len(parts) else [], dtype=float))
        below, up_to = np.searchsorted(part, value, "left"), np.searchsorted(part, value, "right")
        assert np.isnan(placed) if not len(part) else placed == (up_to - (up_to - below) / 2) / len(part)


def test_a_source_without_peers_has_months_that_hold_nothing():
    tables = {"customers": draw("customers", "customer_id kind\na person"), "mentions": draw(
        "mentions", "mention_id customer_id event_on\nm a 2023-01-05")}  # fmt: skip
    whole, _ = matrix_of(tables, observe("a 2023-06-01"))
    held = stood(whole, {dt.date(2023, 6, 1)})[dt.date(2023, 6, 1)]
    assert not held.levels.num_rows
    assert not held.segments.num_rows
