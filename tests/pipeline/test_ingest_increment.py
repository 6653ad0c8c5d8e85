"""Increments: whatever order deliveries arrive in, the folder has the bytes of a build from scratch."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import ingest

MAPPING = """
name: shop
currency: EUR
tables:
  customers:
    files: "*/people.csv"
    columns: {customer_id: id, region: town, known_on: seen}
  credits:
    files: "*/loans.csv"
    columns: {credit_id: loan, customer_id: id, principal: lent, opened_on: seen, known_on: seen}
  transactions:
    - files: "*/moves.csv"
      CONFLICTS
      columns: {transaction_id: no, customer_id: id, event_on: seen, amount: value, known_on: seen}
      attributes: {numeric: {weight: weight}, categorical: [note]}
      where: note <> 'skip'
    - files: "*/more.csv"
      columns: {transaction_id: no, customer_id: id, event_on: seen, amount: -value, known_on: seen}
  payments:
    files: "*/paid.csv"
    columns: {credit_id: loan, paid_on: seen, amount: value, known_on: known}
  visits:
    files: "*/visits.csv"
    columns: {customer_id: id, event_on: day, known_on: seen}
    attributes: {numeric: [length]}
"""
PARAMS = "source: shop\nas_of: latest\ningest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n"
HEADS = {
    "people.csv": "id,town,seen",
    "loans.csv": "loan,id,lent,seen",
    "moves.csv": "no,id,value,seen,weight,note",
    "more.csv": "no,id,value,seen",
    "paid.csv": "loan,value,seen,known",
    "visits.csv": "id,day,seen,length",
}
DAY = st.sampled_from(["2021-01-05", "2021-01-20", "2021-02-03", "2021-03-04"])
WHO, LOAN, KEY = st.sampled_from(["1", "2", "3"]), st.sampled_from(["a", "b"]), st.sampled_from(["t1", "t2", "t3"])
MONEY = st.sampled_from(["1", "2", "2.5", "3.005", "x"])
ROWS = {
    "people.csv": st.tuples(WHO, st.sampled_from(["north", "south"]), DAY),
    "loans.csv": st.tuples(LOAN, WHO, st.sampled_from(["10", "20"]), DAY),
    "moves.csv": st.tuples(KEY, WHO, MONEY, DAY, st.sampled_from(["0.5", "", "many"]), st.sampled_from(["", "skip"])),
    "more.csv": st.tuples(KEY, WHO, MONEY, DAY),
    "paid.csv": st.tuples(LOAN, MONEY, DAY, DAY),
    "visits.csv": st.tuples(WHO, DAY, DAY, st.sampled_from(["1", "2"])),
}
FILES = st.fixed_dictionaries({file: st.lists(rows, max_size=5) for file, rows in ROWS.items()})
# The first row of each file is whole and its own, so that no file and no table is empty.
FIRST = {
    "people.csv": ("c{i}", "north", "2021-01-01"),
    "loans.csv": ("l{i}", "c{i}", "5", "2021-01-01"),
    "moves.csv": ("m{i}", "c{i}", "5", "2021-01-02", "", ""),
    "more.csv": ("n{i}", "c{i}", "5", "2021-01-02"),
    "paid.csv": ("l{i}", "5", "2021-02-01", "2021-02-01"),
    "visits.csv": ("c{i}", "2021-01-02", "2021-01-02", "1"),
}


@contextlib.contextmanager
def room(mapping: str = MAPPING):
    """Work in an empty project folder with the source `shop`."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("data/sources").mkdir(parents=True)
            Path("data/raw/shop").mkdir(parents=True)
            Path("params.yaml").write_text(PARAMS)
            Path("data/sources/shop.yaml").write_text(mapping)
            yield Path(folder)
        finally:
            os.chdir(home)


def deliver(i: int, files: dict[str, list[tuple[str, ...]]]) -> None:
    """Put delivery number `i` where ingest finds it."""
    folder = Path(f"data/raw/shop/2021-{i + 1:02d}")
    folder.mkdir()
    for file, rows in files.items():
        whole = [tuple(cell.format(i=i) for cell in FIRST[file]), *rows]
        (folder / file).write_text("\n".join([HEADS[file], *(",".join(row) for row in whole)]) + "\n")
    (folder / "manifest.json").write_text(json.dumps({"delivered_on": f"2021-{i + 1:02d}-28"}))


def tree(folder: str = "data/ingest") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def mapping_for(policy: str) -> str:
    return MAPPING.replace("CONFLICTS", f"conflicts: {policy}")


def arrive(policy: str, deliveries: list[dict], order: list[list[int]]) -> dict[str, str]:
    """Return the folder's hashes after the deliveries arrived in groups."""
    with room(mapping_for(policy)):
        for group in order:
            for i in group:
                deliver(i, deliveries[i])
            ingest.main()
        return tree()


def check(policy: str, deliveries: list[dict], order: list[list[int]]) -> None:
    built = []
    real = ingest.fresh
    ingest.fresh = lambda folder: built.append(1) or real(folder)
    try:
        stepwise = arrive(policy, deliveries, order)
    finally:
        ingest.fresh = real
    assert stepwise == arrive(policy, deliveries, [sorted(i for group in order for i in group)])


ARRIVALS = st.sampled_from(
    [[[0], [1], [2]], [[2], [1], [0]], [[1], [0, 2]], [[0, 2], [1]], [[0], [2], [1]], [[2, 1], [0]]]
)
POLICY = st.sampled_from(["quarantine", "later_file"])
QUIET = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "database": None,
}


@settings(max_examples=12, derandomize=True, **QUIET)
@given(POLICY, st.lists(FILES, min_size=3, max_size=3), ARRIVALS)
def test_any_order_of_arrival_gives_the_bytes_of_a_build_from_scratch(policy, deliveries, order):
    check(policy, deliveries, order)


@pytest.mark.slow
@settings(max_examples=200, **QUIET)
@given(POLICY, st.lists(FILES, min_size=3, max_size=3), ARRIVALS)
def test_many_orders_of_arrival_give_the_bytes_of_a_build_from_scratch(policy, deliveries, order):
    check(policy, deliveries, order)
