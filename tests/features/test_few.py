"""A few customers built by themselves: to the bit what a build of everyone says of them, month by month."""

from __future__ import annotations

import datetime as dt
import json

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.build import PARTS, Few, Matrix, Settings
from features.declared import Declared
from features.prepared import numbered
from features.standing import Stood, among, month_of
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
    given = few_of(tables, asked["customer_id"].unique().to_pylist())
    held = {name: connection.create_table(name, table) for name, table in given.items()}
    here = connection.create_table("asked", asked)
    few = Few(declared, among(connection, months.__getitem__))
    matrix = Matrix(connection, held, attributes, here, here, Settings(**settings), few=few)
    assert matrix.catalogue() == whole.catalogue()
    return pa.concat_tables([part for part, _ in matrix.groups(here)])


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


def test_a_rank_counts_half_of_the_same_and_an_empty_group_says_nothing():
    held = Stood({}, {("m", None, None): (0, 4)}, np.array([1.0, 2.0, 2.0, 5.0]))
    assert held.rank(("m", None, None), np.array([0.0, 1.0, 2.0, 3.0, 9.0])).tolist() == [0.0, 0.125, 0.5, 0.75, 1.0]
    assert np.isnan(held.rank(("m", "person", "i1"), np.array([1.0]))).all()


def test_a_source_without_peers_has_months_that_hold_nothing():
    tables = {"customers": draw("customers", "customer_id kind\na person"), "mentions": draw(
        "mentions", "mention_id customer_id event_on\nm a 2023-01-05")}  # fmt: skip
    whole, _ = matrix_of(tables, observe("a 2023-06-01"))
    held = stood(whole, {dt.date(2023, 6, 1)})[dt.date(2023, 6, 1)]
    assert not held.levels
    assert not held.segments
