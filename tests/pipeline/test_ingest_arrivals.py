"""How deliveries come: with other columns, in other files, behind links, late; and what each date then knew."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import duckdb
import pytest
from workspaces import lay_out_shop, put

from features.errors import DataRefused
from pipeline import ingest
from pipeline.raw import RawReader, has_linked_folders

MAPPING = """
name: shop
currency: EUR
tables:
  customers:
    files: "people*.csv"
    columns: {customer_id: id, region: town, known_on: seen}
  transactions:
    files: "moves*.csv"
    columns: {transaction_id: no, customer_id: id, event_on: day, amount: value, known_on: seen}
  visits:
    files: "visits*.csv"
    columns: {customer_id: id, event_on: day}
    attributes: {numeric: [length]}
"""
PEOPLE = "id,town,seen\n1,north,2021-01-01\n2,south,2021-01-01\n"
VISITS = "id,day,length\n1,2021-01-04,3\n1,2021-01-04,3\n2,2021-01-05,4\n"
HEAD = "no,id,day,value,seen"
BAD = "bad,1,2021-01-05,x,2021-01-06"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty project folder with the source `shop`."""
    monkeypatch.chdir(tmp_path)
    return lay_out_shop(tmp_path, MAPPING)


def deliver(month: str, moves: list[str], header: str = HEAD, day: int = 28) -> None:
    folder = f"data/raw/shop/{month}"
    put("moves.csv", "\n".join([header, *moves]) + "\n", folder)
    put("manifest.json", json.dumps({"delivered_on": f"{month}-{day}"}), folder)


def first(moves: list[str], header: str = HEAD) -> None:
    """Deliver January: people and visits too."""
    deliver("2021-01", moves, header)
    put("2021-01/people.csv", PEOPLE)
    put("2021-01/visits.csv", VISITS)


def tree(part: str = "") -> dict[str, str]:
    folder = Path("data/ingest")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and str(path.relative_to(folder)).startswith(part)
    }


def from_scratch() -> dict[str, str]:
    shutil.rmtree("data/ingest")
    ingest.main()
    return tree()


def ask(query: str) -> list[tuple]:
    connection = duckdb.connect()
    for table in Path("data/ingest/tables").iterdir():
        connection.execute(
            f"CREATE VIEW {table.name} AS FROM read_parquet('{table}/*/part.parquet', hive_partitioning=false)"
        )
    return connection.execute(query).fetchall()


@pytest.fixture
def added(monkeypatch):
    """Return a function that ingests and gives the deliveries that were read; building from scratch is an error."""

    def run() -> set[str]:
        read: set[str] = set()
        query = RawReader.query

        def noted(reader, files, form):
            read.update(file.delivery.name for file in files)
            return query(reader, files, form)

        with monkeypatch.context() as patch:
            patch.setattr(ingest, "fresh", lambda _: pytest.fail("built from scratch"))
            patch.setattr(RawReader, "query", noted)
            ingest.main()
        return read

    return run


CHANGED = {  # how the second delivery is written: header and one whole and one bad row
    "a new column at the end": ("no,id,day,value,seen,till", ["b,1,2021-02-05,1,2021-02-06,7", BAD + ",7"]),
    "a new column in front": ("till,no,id,day,value,seen", ["7,b,1,2021-02-05,1,2021-02-06", "," + BAD]),
    "other order": ("seen,value,day,id,no", ["2021-02-06,1,2021-02-05,1,b", ",".join(BAD.split(",")[::-1])]),
    "a column less": ("no,id,day,value", ["b,1,2021-01-05,1", "bad,1,2021-01-05,x"]),
    "other case": ("NO,ID,Day,Value,Seen", ["b,1,2021-02-05,1,2021-02-06", BAD]),
}


@pytest.mark.parametrize("how", CHANGED)
@pytest.mark.parametrize("came", ["later", "earlier"])
@pytest.mark.fault("B3", "B4")
def test_other_columns_in_a_delivery_cost_that_delivery_alone(how, came, room, added):
    months = ["2021-01", "2021-02"] if came == "later" else ["2021-02", "2021-01"]
    put("people.csv", PEOPLE)
    put("visits.csv", VISITS)
    deliver(months[0], ["a,1,2021-01-05,1,2021-01-06", BAD])
    ingest.main()
    deliver(months[1], CHANGED[how][1], CHANGED[how][0])
    assert added() == {months[1]}
    stepwise = tree()
    assert stepwise == from_scratch()
    assert ask("SELECT transaction_id FROM transactions ORDER BY 1") == [("a",), ("b",)]
    found = duckdb.execute(
        "SELECT delivery, json_keys(original), deliveries FROM 'data/ingest/quarantine/transactions.parquet' ORDER BY 1"
    ).fetchall()
    keys = {delivery: names for delivery, names, _ in found}
    assert keys == {months[0]: HEAD.split(","), months[1]: CHANGED[how][0].split(",")}
    same = how in ("other order", "other case", "a new column in front")  # the same row: what is new says nothing
    assert [count for *_, count in found] == ([2, 2] if same else [1, 1])


def test_a_new_column_with_the_name_of_a_joined_one_is_no_addition(room, monkeypatch):
    text = MAPPING.replace(
        "amount: value, known_on: seen}",
        "amount: value, known_on: seen, category: kind}\n    joins: [{files: kinds.csv, as: k, on: row.no = k.which, "
        "static: true}]",
    )
    Path("data/sources/shop.yaml").write_text(text)
    put("kinds.csv", "which,kind\na,rent\n")
    first(["a,1,2021-01-05,1,2021-01-06"])
    ingest.main()
    built = []
    real = ingest.fresh
    monkeypatch.setattr(ingest, "fresh", lambda folder: built.append(1) or real(folder))
    deliver("2021-02", ["b,1,2021-02-05,1,2021-02-06,food"], HEAD + ",kind")
    ingest.main()
    assert built
    assert tree() == from_scratch()


def many() -> list[str]:
    """Sixty rows: whole, restated, repeated, in conflict, broken, orphaned."""
    rows = [f"t{i},{i % 2 + 1},2021-01-{i % 20 + 1:02d},{i}.25,2021-01-{i % 20 + 3:02d}" for i in range(40)]
    rows += [f"t{i},1,2021-01-{i % 20 + 1:02d},7,2021-02-{i % 20 + 3:02d}" for i in range(5)]
    rows += rows[10:15]
    rows += [f"t{i},1,2021-01-{i % 20 + 1:02d},8,2021-01-{i % 20 + 3:02d}" for i in range(20, 25)]
    return [*rows, BAD, "o,9,2021-01-05,1,2021-01-06", "late,1,2021-01-05,1,2021-01-04", "n,,2021-01-05,1,2021-01-06"]


SHUFFLES = {
    "rows reversed": {"moves.csv": lambda rows: rows[::-1]},
    "rows turned": {"moves.csv": lambda rows: rows[17:] + rows[:17]},
    "two files": {"moves_a.csv": lambda rows: rows[::2], "moves_b.csv": lambda rows: rows[1::2]},
    "two files, named the other way": {"moves_b.csv": lambda rows: rows[::2], "moves_a.csv": lambda rows: rows[1::2]},
    "another name": {"moves_of_the_month.csv": lambda rows: rows},
}


@pytest.mark.parametrize("how", SHUFFLES)
@pytest.mark.fault("A12")
def test_order_of_rows_files_and_names_decides_nothing_but_where_a_quarantined_row_stood(how, room):
    first(many())
    ingest.main()

    def seen() -> tuple[object, ...]:
        parts = [
            duckdb.execute(
                f"SELECT block, delivery, month, list_sort(rules), waits_for, original, deliveries "
                f"FROM 'data/ingest/quarantine/{table}.parquet' ORDER BY ALL"
            ).fetchall()
            for table in ("customers", "transactions", "visits")
        ]
        quality = json.loads(Path("data/ingest/quality.json").read_text())
        for account in quality["tables"].values():
            for block in account["blocks"]:
                del block["files"]
        described = json.loads(Path("data/ingest/tables.json").read_text())
        return tree("tables/"), parts, quality, described, tree("as_of.json")

    before = seen()
    assert {"conflict", "reference", "type:amount", "known_before_event"} <= set(
        before[2]["tables"]["transactions"]["rules"]
    )
    Path("data/raw/shop/2021-01/moves.csv").unlink()
    for name, choose in SHUFFLES[how].items():
        put(f"2021-01/{name}", "\n".join([HEAD, *choose(many())]) + "\n")
    put("2021-01/visits.csv", "\n".join([VISITS.splitlines()[0], *VISITS.splitlines()[:0:-1]]) + "\n")
    ingest.main()
    assert seen() == before


@pytest.mark.parametrize("what", ["source", "file", "folder", "chain"])
def test_links_to_elsewhere_are_followed(what, room):
    first(["a,1,2021-01-05,1,2021-01-06", BAD])
    ingest.main()
    before = tree()
    home = Path("data/raw/shop")
    lake = room / "lake"
    if what == "source":
        home.rename(lake)
        home.symlink_to(lake, target_is_directory=True)
    elif what == "file":
        lake.mkdir()
        (home / "2021-01/moves.csv").rename(lake / "5f3a")
        (home / "2021-01/moves.csv").symlink_to(lake / "5f3a")
    else:
        (home / "2021-01").rename(lake)
        if what == "chain":
            (room / "step").symlink_to(lake, target_is_directory=True)
        (home / "2021-01").symlink_to(room / "step" if what == "chain" else lake, target_is_directory=True)
    ingest.preflight("shop")
    assert from_scratch() == before
    assert has_linked_folders("shop") == (what in ("folder", "chain"))
    deliver("2021-02", ["b,1,2021-02-05,1,2021-02-06"])
    ingest.main()
    assert ask("SELECT transaction_id FROM transactions ORDER BY 1") == [("a",), ("b",)]


def test_a_file_behind_a_link_that_changes_is_read_again(room):
    first(["a,1,2021-01-05,1,2021-01-06"])
    path = Path("data/raw/shop/2021-01/moves.csv")
    elsewhere = path.rename(room / "elsewhere.csv")
    path.symlink_to(elsewhere)
    ingest.main()
    elsewhere.write_text(HEAD + "\na,1,2021-01-05,2,2021-01-06\n")
    ingest.main()
    assert ask("SELECT amount::VARCHAR FROM transactions") == [("2.00",)]


@pytest.mark.parametrize(
    ("link", "to"), [("2021-01/moves2.csv", "nowhere.csv"), ("2021-01/round", "."), ("back", "2021-01")]
)
@pytest.mark.fault("G4")
def test_links_to_nothing_and_in_circles_are_refused(link, to, room):
    first(["a,1,2021-01-05,1,2021-01-06"])
    home = Path("data/raw/shop")
    if link == "back":  # two folders, each linked inside the other
        (home / "2021-01/there").symlink_to("../other")
        put("other/x.txt", "")
        (home / "other/back").symlink_to("../2021-01")
    else:
        (home / link).symlink_to(to)
    with pytest.raises(DataRefused, match="a link"):
        ingest.main()


@pytest.mark.fault("D5", "D6")
def test_a_past_date_sees_after_any_increments_what_was_known_then(room, added):
    first(["a,1,2021-01-05,1,2021-01-06", "b,2,2021-01-07,5,2021-01-08"])
    ingest.main()
    known = "SELECT transaction_id, arg_max(amount, known_on)::VARCHAR, max(known_on)::VARCHAR FROM transactions "
    february = known + "WHERE known_on < DATE '2021-02-01' GROUP BY 1 ORDER BY 1"
    before = ask(february)
    deliver("2021-03", ["a,1,2021-01-05,2,2021-02-10", "c,1,2021-02-11,3,2021-02-12", "b,2,2021-01-07,5,2021-03-01"])
    assert added() == {"2021-03"}
    deliver("2021-04", ["a,1,2021-01-05,9,2021-04-02", "a,1,2021-01-05,2,2021-03-20", "x,1,2021-04-01,x,2021-04-02"])
    assert added() == {"2021-04"}
    deliver("2021-02", ["a,1,2021-01-05,4,2021-02-20", "d,2,2021-01-30,6,2021-02-01"])  # came last, and is late
    assert added() == {"2021-02"}
    assert ask(february) == before
    versions = ask("SELECT amount::VARCHAR, known_on::VARCHAR FROM transactions WHERE transaction_id = 'a' ORDER BY 2")
    assert versions == [
        ("1.00", "2021-01-06"), ("2.00", "2021-02-10"), ("4.00", "2021-02-20"), ("2.00", "2021-03-20"),
        ("9.00", "2021-04-02"),
    ]  # fmt: skip
    march = known + "WHERE known_on < DATE '2021-03-01' GROUP BY 1 ORDER BY 1"
    assert ask(march) == [
        ("a", "4.00", "2021-02-20"), ("b", "5.00", "2021-01-08"), ("c", "3.00", "2021-02-12"), ("d", "6.00", "2021-02-01"),
    ]  # fmt: skip
    parts = sorted(Path("data/ingest/tables/transactions").glob("*/part.parquet"))
    assert [part.parent.name[-7:] for part in parts] == ["2021-01", "2021-02", "2021-03", "2021-04"]
    for part in parts:
        months = duckdb.execute(
            f"SELECT DISTINCT strftime(known_on, '%Y-%m') FROM read_parquet('{part}', hive_partitioning = false)"
        ).fetchall()
        assert months == [(part.parent.name[-7:],)]
    stepwise = tree()
    assert stepwise == from_scratch()


def test_a_run_has_ingest_look_behind_linked_folders_which_dvc_does_not(room, monkeypatch):
    from pipeline import run
    from pipeline.logbook import Logbook

    book = Logbook("run", as_json=False)
    first(["a,1,2021-01-05,1,2021-01-06"])
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "dvc", lambda *arguments, **_: asked.append(arguments) or int(arguments == ("repro",)))
    run._reproduce(book)
    assert asked == [("repro",)]
    Path("data/raw/shop/2021-01").rename(room / "lake")
    Path("data/raw/shop/2021-01").symlink_to(room / "lake", target_is_directory=True)
    asked.clear()
    run._reproduce(book)
    assert asked == [("repro", "--force", "--single-item", "ingest"), ("repro",)]


def built_anew(monkeypatch) -> int:
    """Ingest; return how often all was built from scratch, by an ingest that was to add."""
    built = []
    real = ingest.fresh
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "fresh", lambda folder: built.append(1) or real(folder))
        ingest.main()
    return len(built)


RATES = """    joins:
      - {files: "rates*.csv", as: r, kind: asof, on: row.id = r.who, at: day, dated: r.on_day}
"""


@pytest.mark.parametrize("what", ["a joined file", "another type", "a customer without a row"])
def test_what_cannot_be_added_is_built_from_scratch_with_the_same_bytes(what, room, monkeypatch):
    """The three cases that ingest.py names."""
    first(["a,1,2021-01-05,1,2021-01-06", "b,2,2021-01-05,1,2021-01-06", BAD])
    if what == "a joined file":
        text = MAPPING.replace(
            "amount: value, known_on: seen}\n", "amount: value, known_on: seen, category: r.rate}\n" + RATES
        )
        Path("data/sources/shop.yaml").write_text(text)
        put("2021-01/rates.csv", "who,on_day,rate\n1,2021-01-01,low\n")
    if what == "another type":
        text = MAPPING.replace('"moves*.csv"', '"moves*.parquet"\n    format: {type: parquet}')
        Path("data/sources/shop.yaml").write_text(text)
        values = "('a', '1', DATE '2021-01-05', 1::{}, DATE '2021-01-06')) t(no, id, day, value, seen)"
        write = "COPY (FROM (VALUES " + values + ") TO '{}' (FORMAT parquet)"
        duckdb.execute(write.format("INTEGER", "data/raw/shop/2021-01/moves.parquet"))
    ingest.main()
    put("2021-02/manifest.json", json.dumps({"delivered_on": "2021-02-28"}))
    if what == "a joined file":
        put("2021-02/rates.csv", "who,on_day,rate\n1,2021-01-03,high\n")
    elif what == "another type":
        duckdb.execute(write.format("DOUBLE", "data/raw/shop/2021-02/moves.parquet"))
    else:
        put("2021-02/people.csv", "id,town,seen\n1,elsewhere,2021-01-01\n")
    assert built_anew(monkeypatch) == 1
    if what == "a joined file":
        assert ask("SELECT category FROM transactions ORDER BY transaction_id") == [("high",), (None,)]
    assert tree() == from_scratch()
