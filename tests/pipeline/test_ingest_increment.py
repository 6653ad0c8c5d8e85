"""Increments: whatever order deliveries arrive in, the folder has the bytes of a build from scratch."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from workspaces import LOOSE

from pipeline import ingest, ledger, reading
from pipeline.raw import RawReader

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
      columns: {transaction_id: no, customer_id: id, event_on: date '2021-01-01', amount: value, known_on: seen}
      attributes: {numeric: {weight: weight}, categorical: [note]}
      where: note <> 'skip'
    - files: "*/more.csv"
      columns: {transaction_id: no, customer_id: id, event_on: date '2021-01-01', amount: -value, known_on: seen}
  payments:
    files: "*/paid.csv"
    columns: {credit_id: loan, paid_on: seen, amount: value, known_on: known}
  visits:
    files: "*/visits.csv"
    columns: {customer_id: id, event_on: day, known_on: seen}
    attributes: {numeric: [length]}
"""
PARAMS = "source: shop\nas_of: latest\n" + LOOSE
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
    "moves.csv": st.tuples(
        KEY, WHO, MONEY, DAY, st.sampled_from(["0.5", "", "many"]), st.sampled_from(["ok", "ok", "fine", "skip"])
    ),
    "more.csv": st.tuples(KEY, WHO, MONEY, DAY),
    "paid.csv": st.tuples(LOAN, MONEY, DAY, DAY),
    "visits.csv": st.tuples(WHO, DAY, DAY, st.sampled_from(["1", "2"])),
}
FILES = st.fixed_dictionaries({file: st.lists(rows, max_size=5) for file, rows in ROWS.items()})
# The first row of each file is whole and its own, so that no file and no table is empty.
FIRST = {
    "people.csv": ("c{i}", "north", "2021-01-01"),
    "loans.csv": ("l{i}", "c{i}", "5", "2021-01-01"),
    "moves.csv": ("m{i}", "c{i}", "5", "2021-01-02", "", "ok"),
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


SHAPES = st.sampled_from(["as ever", "as ever", "reversed", "a column more"])


def deliver(i: int, files: dict[str, list[tuple[str, ...]]], shape: str = "as ever") -> None:
    """Put delivery number `i`, or more of its files, where ingest finds it."""
    folder = Path(f"data/raw/shop/2021-{i + 1:02d}")
    folder.mkdir(exist_ok=True)
    for file, rows in files.items():
        whole = [tuple(cell.format(i=i) for cell in FIRST[file]), *rows]
        lines = [HEADS[file].split(","), *whole]
        if shape == "reversed":
            lines = [line[::-1] for line in lines]
        if shape == "a column more":
            lines = [[*line, f"new{i}" if number == 0 else str(number % 2)] for number, line in enumerate(lines)]
        (folder / file).write_text("".join(",".join(line) + "\n" for line in lines))
    (folder / "manifest.json").write_text(json.dumps({"delivered_on": f"2021-{i + 1:02d}-28"}))


def tree(folder: str = "data/ingest") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def mapping_for(policy: str) -> str:
    return MAPPING.replace("CONFLICTS", f"conflicts: {policy}")


HALVES = {"": list(HEADS), "a": list(HEADS)[::2], "b": list(HEADS)[1::2]}


def arrive(policy: str, deliveries: list[tuple[str, dict]], order: str, *, in_files: bool) -> dict[str, str]:
    """Return the folder's hashes after the deliveries arrived: `0 1a 1b+2` is three runs, 1 comes in two halves."""
    with room(mapping_for(policy)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "too_many", lambda *_: in_files)
        for group in order.split():
            for part in group.split("+"):
                shape, files = deliveries[int(part[0])]
                deliver(int(part[0]), {file: files[file] for file in HALVES[part[1:]]}, shape)
            ingest.main()
        return tree()


def check(policy: str, deliveries: list[tuple[str, dict]], order: str, *, in_files: bool) -> None:
    """Hold rows in memory or in files: the bytes are those of a build from scratch that holds them the other way."""
    found = arrive(policy, deliveries, order, in_files=in_files)
    assert found == arrive(policy, deliveries, "0+1+2", in_files=not in_files)


ARRIVALS = st.sampled_from(
    ["0 1 2", "2 1 0", "1 0+2", "0+2 1", "0 2 1", "2+1 0", "0 1a 1b 2", "2 0b+1 0a", "1 2b 0+2a", "2 1a+0 1b"]
)
DELIVERIES = st.lists(st.tuples(SHAPES, FILES), min_size=3, max_size=3)
POLICY = st.sampled_from(["quarantine", "later_file"])
QUIET = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "database": None,
}


@settings(max_examples=6, derandomize=True, **QUIET)
@given(POLICY, DELIVERIES, ARRIVALS, st.booleans())
@pytest.mark.fault("D5", "D6")
def test_any_order_of_arrival_gives_the_bytes_of_a_build_from_scratch(policy, deliveries, order, in_files):
    check(policy, deliveries, order, in_files=in_files)


@pytest.mark.slow
@settings(max_examples=200, **QUIET)
@given(POLICY, DELIVERIES, ARRIVALS, st.booleans())
def test_many_orders_of_arrival_give_the_bytes_of_a_build_from_scratch(policy, deliveries, order, in_files):
    check(policy, deliveries, order, in_files=in_files)


MORE = {"more.csv": [], "visits.csv": [], "paid.csv": [], "loans.csv": [], "people.csv": []}


@contextlib.contextmanager
def two(policy: str, first: list[tuple[str, ...]], second: list[tuple[str, ...]]):
    """Work where a second delivery of transactions was added to the first; building from scratch is an error."""
    with room(mapping_for(policy)), pytest.MonkeyPatch.context() as patch:
        deliver(0, {**MORE, "moves.csv": first})
        ingest.main()
        patch.setattr(ingest, "fresh", lambda _: pytest.fail("built from scratch"))
        deliver(1, {**MORE, "moves.csv": second})
        yield ingest.main


def kept(key: str) -> list[tuple]:
    return duckdb.execute(
        "SELECT amount::VARCHAR, known_on::VARCHAR FROM read_parquet('data/ingest/tables/transactions/*/part.parquet', "
        "hive_partitioning = false) WHERE transaction_id = ? ORDER BY known_on",
        [key],
    ).fetchall()


def account() -> dict:
    return json.loads(Path("data/ingest/quality.json").read_text())


def move(key: str, value: str, seen: str, who: str = "c0") -> tuple[str, ...]:
    return (key, who, value, seen, "", "ok")


@pytest.mark.fault("D5")
def test_a_late_row_rewrites_its_own_month_alone():
    first = [move("a", "1", "2021-01-10"), move("b", "1", "2021-02-10")]
    with two("quarantine", first, [move("late", "7", "2021-01-20")]) as run:
        before = tree("data/ingest/tables/transactions")
        run()
        after = tree("data/ingest/tables/transactions")
        assert before["known_month=2021-02/part.parquet"] == after["known_month=2021-02/part.parquet"]
        assert before["known_month=2021-01/part.parquet"] != after["known_month=2021-01/part.parquet"]
        assert kept("late") == [("7.00", "2021-01-20")]


def test_earlier_files_are_not_read_again():
    with two("quarantine", [move("a", "1", "2021-01-10")], [move("b", "2", "2021-02-10")]) as run:
        read = []
        query = RawReader.query

        def noted(reader, files, form):
            read.extend(file.delivery.name for file in files)
            return query(reader, files, form)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RawReader, "query", noted)
            run()
        assert set(read) == {"2021-02"}


@pytest.mark.fault("D6", "A12")
def test_restatements_are_versions_and_duplicates_are_recognised():
    first = [move("a", "1", "2021-01-10"), move("b", "1", "2021-01-10")]
    second = [move("a", "2", "2021-02-10"), move("b", "1", "2021-02-10")]
    with two("quarantine", first, second) as run:
        run()
        assert kept("a") == [("1.00", "2021-01-10"), ("2.00", "2021-02-10")]
        assert kept("b") == [("1.00", "2021-01-10")]
        assert account()["totals"]["transactions.deduplicated"] == 1


@pytest.mark.fault("D6")
def test_a_row_between_two_versions_brings_the_later_one_back():
    first = [move("a", "1", "2021-01-10"), move("a", "1", "2021-03-10")]
    with two("quarantine", first, [move("a", "2", "2021-02-10")]) as run:
        assert kept("a") == [("1.00", "2021-01-10")]
        run()
        assert kept("a") == [("1.00", "2021-01-10"), ("2.00", "2021-02-10"), ("1.00", "2021-03-10")]
        assert account()["totals"]["transactions.deduplicated"] == 0


@pytest.mark.parametrize(("policy", "left"), [("quarantine", []), ("later_file", [("2.00", "2021-01-10")])])
@pytest.mark.fault("C6")
def test_in_a_conflict_both_are_quarantined_or_the_later_file_wins(policy, left):
    with two(policy, [move("a", "1", "2021-01-10")], [move("a", "2", "2021-01-10")]) as run:
        run()
        assert kept("a") == left
        found = duckdb.execute(
            "SELECT file, line, rules, deliveries FROM 'data/ingest/quarantine/transactions.parquet' ORDER BY file"
        ).fetchall()
        both = [("2021-01/moves.csv", 3, ["conflict"], 1), ("2021-02/moves.csv", 3, ["conflict"], 1)]
        assert found == ([] if left else both)
        block = account()["tables"]["transactions"]["blocks"][0]
        assert block["read"] == sum(block[state] for state in ("kept", "quarantined", "deduplicated", "left_out")) == 4
        assert block["replaced"] == (1 if left else 0)


@pytest.mark.fault("C8")
def test_an_orphan_is_kept_once_its_customer_arrives():
    with two("quarantine", [move("a", "1", "2021-01-10", who="c1")], []) as run:  # c1 comes with the second delivery
        assert account()["tables"]["transactions"]["rules"] == {"reference": 1}
        assert kept("a") == []
        run()
        assert kept("a") == [("1.00", "2021-01-10")]
        assert account()["tables"]["transactions"]["rules"] == {}


def test_quarantined_rows_stay_and_count_their_deliveries():
    bad = move("a", "x", "2021-01-10")
    with two("quarantine", [bad], [bad]) as run:
        run()
        once = tree()
        ingest.main()
        assert tree() == once
        rows = duckdb.execute("SELECT file, deliveries FROM 'data/ingest/quarantine/transactions.parquet'").fetchall()
        assert sorted(rows) == [("2021-01/moves.csv", 2), ("2021-02/moves.csv", 2)]
        assert account()["tables"]["transactions"]["rules_by_month"] == {
            "2021-01": {"type:amount": 2, "required:amount": 2}
        }


def test_a_column_that_some_files_lack_is_told(capsys):
    with room(mapping_for("quarantine")):
        deliver(0, {**MORE, "moves.csv": []})
        deliver(1, {**MORE, "moves.csv": []})
        Path("data/raw/shop/2021-02/moves.csv").write_text("no,id,value,seen,note\nz,c0,5,2021-01-02,ok\n")
        ingest.main()
        assert account()["tables"]["transactions"]["blocks"][0]["absent"] == {"weight": 1}
        assert "column weight is absent: from files 1, of 2" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["old file", "output", "index", "mapping"])
@pytest.mark.fault("G1")
def test_what_the_ledger_cannot_explain_is_rebuilt(what, monkeypatch):
    with room(mapping_for("quarantine")):
        deliver(0, {**MORE, "moves.csv": [move("a", "1", "2021-01-10")]})
        ingest.main()
        before = tree()
        deliver(1, {**MORE, "moves.csv": []})
        if what == "old file":
            path = Path("data/raw/shop/2021-01/moves.csv")
            stat = path.stat()
            path.write_text(path.read_text().replace("a,c0,1,", "a,c0,9,"))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time
        elif what == "mapping":
            Path("data/sources/shop.yaml").write_text(mapping_for("later_file"))
        else:
            folder = "tables/transactions" if what == "output" else "index/transactions"
            path = next(Path("data/ingest").glob(f"{folder}/**/*.parquet"))
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        built = []
        real = ingest.fresh
        monkeypatch.setattr(ingest, "fresh", lambda folder: built.append(1) or real(folder))
        ingest.main()
        assert built
        assert tree() != before
        assert kept("a") == [("9.00" if what == "old file" else "1.00", "2021-01-10")]


@pytest.mark.fault("G1")
def test_a_file_is_hashed_again_only_where_it_may_have_changed(monkeypatch):
    hashed = []
    real = ledger.sha256
    monkeypatch.setattr(ledger, "sha256", lambda path: hashed.append(path.name) or real(path))
    with room(mapping_for("quarantine")):
        deliver(0, {**MORE, "moves.csv": [move("a", "1", "2021-01-10")]})
        ingest.main()
        hashed.clear()
        ingest.main()
        assert "moves.csv" in hashed  # it had only just changed: another change would not have shown
        assert "part.parquet" in hashed
        monkeypatch.setattr(ledger, "SETTLED_NS", -(10**10))  # as if all had lain there for long
        ingest.main()
        hashed.clear()
        ingest.main()
        assert hashed == []
        path = Path("data/raw/shop/2021-01/moves.csv")
        stat = path.stat()
        path.write_text(path.read_text().replace("a,c0,1,", "a,c0,9,"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same inode, size and time
        ingest.main()
        assert hashed.count("moves.csv") == 1
        assert kept("a") == [("9.00", "2021-01-10")]
        ingest.HASHES.write_text("{")  # the machine stopped while it was written
        ingest.main()
        assert hashed.count("moves.csv") == 2


def test_the_ledger_s_hash_of_code_covers_every_module_that_decides_what_ingest_writes():
    """Errors, parameters and the stage's own frame say nothing of the bytes; all else that ingest imports does."""
    import grimp

    graph = grimp.build_graph("pipeline", "models", "features", cache_dir=None)
    imported = {"pipeline.ingest"} | graph.find_upstream_modules("pipeline.ingest")
    listed = {f"features.{name[:-3]}" for name in ledger.ROOM} | {f"pipeline.{name[:-3]}" for name in ledger.STAGE}
    assert imported - listed == {"features", "features.errors", "pipeline.params", "pipeline.stage"}
    assert listed <= imported
