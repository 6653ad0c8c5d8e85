"""The inbox of `watch`: what is whole and quiet, what it is called, its way into data/raw, and aside with its reason."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest
from workspaces import lay_out_shop, put

from features.errors import ConfigurationRefused, DataRefused, IntegrityRefused, Problem
from features.mapping import parse_mapping
from pipeline import inbox, ingest, touched, versions
from pipeline.raw import list_files

MAPPING = """name: shop
currency: EUR
tables:
  customers: {files: "*/clients.csv", columns: {customer_id: id, opened_on: since, known_on: since}}
  credits: {files: "*/lines.csv", columns: {credit_id: line, customer_id: id, opened_on: since, known_on: since}}
  transactions: {files: "*/moves.csv", columns: {transaction_id: n, customer_id: id, event_on: day, amount: value, known_on: seen}}
  payments: {files: "*/paid.csv*", columns: {payment_id: n, credit_id: line, paid_on: day, amount: value, known_on: seen}}
"""
CLIENTS = "id,since\na,2024-01-02\nb,2024-01-03\nc,2024-01-04\n"
LINES = "line,id,since\nk1,a,2024-01-02\nk2,b,2024-01-03\n"
MOVES, PAID = "n,id,day,value,seen\n", "n,line,day,value,seen\n"


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch) -> Path:
    """A project with three customers of one delivery, and an empty inbox."""
    monkeypatch.chdir(lay_out_shop(tmp_path / "project", MAPPING))
    for name, text in {"clients.csv": CLIENTS, "lines.csv": LINES, "moves.csv": MOVES + "m1,a,2024-02-01,5,2024-02-01\n",
                       "paid.csv": PAID + "p1,k1,2024-02-01,5,2024-02-01\n",
                       "manifest.json": '{"delivered_on": "2024-02-29"}'}.items():  # fmt: skip
        put(f"one/{name}", text)
    Path("inbox").mkdir()
    return Path("inbox")


def deliver(name: str, contents: dict[str, str | bytes], /, **manifest: object) -> Path:
    for file, text in contents.items():
        put(file, text, f"inbox/{name}")
    if manifest:
        put("manifest.json", json.dumps(manifest), f"inbox/{name}")
    return Path("inbox") / name


def named(path: Path) -> touched.Named:
    return touched.named_in(ingest.Params.load(), ingest.load_mapping("shop"), inbox.files_of(path), "the mapping")


def test_a_delivery_is_quiet_once_nothing_of_it_has_changed_whatever_its_stated_time():
    path = deliver("two", {"moves.csv": MOVES})
    put(".hidden", "x", "inbox")
    os.utime(path / "moves.csv", (0, 0))  # as a copy that keeps times: when it arrived still counts
    (arrival,) = inbox.arrivals(Path("inbox"))
    assert arrival.name == "two"
    assert 0 <= inbox.waited(arrival) < 30
    assert list(inbox.quiet([arrival], 30)) == []
    assert list(inbox.quiet([inbox.Arrival(path, time.time() - 31)], 30))


def test_a_delivery_has_the_names_that_ingest_will_give_it():
    path = deliver("two", {"moves.csv": MOVES, "more/paid.csv": PAID}, delivered_on="2024-03-31")
    put("plain.csv", "x\n1\n", "inbox")
    found = [(file.name, file.inner, file.delivery.name) for file in inbox.files_of(path)]
    loose = inbox.files_of(Path("inbox/plain.csv"))[0]
    inbox.take(inbox.Arrival(path, 0), "shop")
    inbox.take(inbox.Arrival(Path("inbox/plain.csv"), 0), "shop")
    after = {file.name: (file.name, file.inner, file.delivery.name) for file in list_files("shop")}
    assert found == [after[name] for name, *_ in found]
    assert (loose.name, loose.inner, loose.delivery.name) == after["plain.csv"]
    assert not path.exists()


@pytest.mark.parametrize("kind", ["a folder", "a file"])
def test_from_another_file_system_it_is_whole_or_not_there(kind, monkeypatch):
    path = deliver("two", {"moves.csv": MOVES}) if kind == "a folder" else Path("inbox/two")
    if kind == "a file":
        put("two", "x", "inbox")
    real = Path.rename
    seen = []

    def rename(self: Path, target: Path) -> Path:
        if self == path:
            raise OSError(18, "Invalid cross-device link")
        seen.append((self.exists(), Path(target).exists()))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    home = inbox.take(inbox.Arrival(path, 0), "shop")
    assert home.exists()
    assert seen == [(True, False)]
    assert not path.exists()


def test_who_is_named_is_told_by_the_delivery_alone():
    """Rows of customers that are elsewhere, a line's payment, a row that breaks its contract, and one given twice."""
    path = deliver(
        "two",
        {"moves.csv": MOVES + "m2,b,2024-03-01,5,2024-03-02\nm1,a,2024-02-01,5,2024-02-01\nm3,c,2024-03-01,much,2024-03-01\n",
         "paid.csv": PAID + "p2,k2,2024-03-05,5,2024-03-06\np3,gone,2024-03-05,5,2024-03-06\n"},
        delivered_on="2024-03-31", files={"paid.csv": {"rows": 2}},
    )  # fmt: skip
    found = named(path)
    assert found.ids["customer_id"] == {"a", "b"}
    assert found.ids["credit_id"] == {"k2", "gone"}
    assert found.newest_known == dt.date(2024, 3, 6)
    assert found.rows == 4


@pytest.mark.parametrize(
    ("files", "manifest", "refused", "said"),
    [
        ({"note.txt": "x"}, {}, DataRefused, "files that the mapping reads"),
        ({"moves.csv": MOVES + "m2,a,2024-03-01,5,2024-03-01\n"}, {"files": {"moves.csv": {"rows": 2}}}, DataRefused, "2 rows"),
        ({"moves.csv": MOVES + "x"}, {"files": {"moves.csv": {"sha256": "0" * 64}}}, IntegrityRefused, "SHA-256"),
        ({"moves.csv": MOVES}, {"files": {"paid.csv": {}, "moves.csv": {"rows": 0}}}, DataRefused, "no such file"),
        ({"moves.csv": ""}, {}, DataRefused, "an empty file"),
        ({"paid.csv.gz": gzip.compress((PAID + "p2,k2,2024-03-05,5,2024-03-06\n" * 50).encode())[:-20]}, {}, DataRefused, "paid.csv.gz"),
        ({"moves.csv": MOVES + "m2,a,2024-03-01,5,2024-03-01\n"}, {"delivered_on": "soon"}, DataRefused, "delivered_on"),
    ],
)  # fmt: skip
def test_what_is_torn_or_wrong_is_refused_before_anything_moves(files, manifest, refused, said):
    path = deliver("two", files, **manifest)
    with pytest.raises(refused, match=said):
        named(path)
    assert path.is_dir()


def test_a_refused_delivery_goes_aside_with_its_record_and_never_over_another():
    for at in range(2):
        path = deliver("two", {"moves.csv": "x"})
        where, _ = inbox.refuse(
            path, Path("inbox"), DataRefused(Problem("two/moves.csv", "rows", f"none {at}", "Mend it."))
        )
        record = json.loads((where.parent / f"{where.name}.json").read_text())
        assert (record["exit_code"], record["problems"][0]["found"]) == (2, f"none {at}")
        assert (where / "moves.csv").read_text() == "x"
    assert sorted(path.name for path in Path("inbox/refused").iterdir()) == ["two", "two.2", "two.2.json", "two.json"]
    assert inbox.arrivals(Path("inbox")) == []


def test_an_inbox_where_ingest_reads_and_a_name_that_is_taken_are_refused():
    for place in ("nowhere", "data/raw/shop", "data/raw/shop/one", "data"):
        with pytest.raises(ConfigurationRefused):
            inbox.check(Path(place), "shop")
    inbox.check(Path("inbox"), "shop")
    with pytest.raises(ConfigurationRefused, match="simulate"):
        inbox.check(Path("inbox"), "simulated")
    with pytest.raises(DataRefused, match="a name of its own"):
        inbox.free_name("shop", "one")


@pytest.mark.parametrize("value", ["soon", 7, "2024-13-01"])
def test_a_manifests_as_of_is_a_date(value):
    path = deliver("two", {"moves.csv": MOVES}, as_of=value)
    with pytest.raises(DataRefused, match="as_of"):
        inbox.stated_as_of(path)
    put("manifest.json", '{"as_of": "2024-03-05"}', "inbox/two")
    assert inbox.stated_as_of(path) == dt.date(2024, 3, 5)


def test_the_journal_survives_a_torn_write():
    journal = inbox.Journal(Path(".run/watch/moved.json"))
    assert journal.names() == []
    journal.add("one")
    journal.add("two")
    journal.path.with_suffix(".new").write_text('["on')
    journal.remove("one")
    assert journal.names() == ["two"]


def test_whom_marks_mean_and_their_rows_with_those_of_anothers_name():
    """m1 was a's and is restated as b's: both are touched, at the later date, and m1 is no row of a's any more."""
    put("two/moves.csv", MOVES + "m1,b,2024-02-01,5,2024-03-01\nm9,c,2024-02-01,5,2024-03-01\n")
    put("two/manifest.json", '{"delivered_on": "2024-03-31"}')
    ingest.main()
    tables = touched.Tables(ingest.OUT)
    early, late = dt.date(2024, 3, 5), dt.date(2024, 4, 1)
    assert tables.customers_of({("credit_id", "k1"): early, ("customer_id", "c"): late}) == {"a": early, "c": late}
    assert tables.lay({"c": late}, Path("few")) == {"c": late}
    assert tables.lay({"a": early}, Path("more")) == {"a": early, "b": early}
    import pandas as pd

    rows = pd.read_parquet("more/tables/transactions")
    assert sorted(zip(rows["transaction_id"], rows["customer_id"], strict=True)) == [("m1", "a"), ("m1", "b")]
    assert pd.read_parquet("few/tables/payments").empty
    assert touched.from_table(touched.to_table({("credit_id", "k1"): early})) == {("credit_id", "k1"): early}
    assert touched.merged({("customer_id", "a"): late}, {("customer_id", "a"): early}) == {("customer_id", "a"): late}


def test_of_two_receipts_that_counts_which_became_current_later():
    versions.PUBLISH.mkdir(parents=True)
    assert versions.received() is None
    versions.RECEIPT.write_text('{"run_id": "p"}')
    versions.WATCHED.write_text('{"run_id": "w"}')
    entries = [json.dumps({"source": "shop", "as_of": "2024-03-01", "run_id": one}) for one in ("p", "w")]
    versions.HISTORY.write_text(entries[0] + "\n")
    assert versions.received() == "p"  # the other was written, and a kill came before it was current
    versions.HISTORY.write_text("\n".join(entries) + "\n")
    assert versions.received() == "w"
    versions.HISTORY.write_text("\n".join([*entries, entries[0]]) + "\n")
    assert versions.received() == "p"


def test_the_mapping_of_these_tests_is_one():
    assert set(parse_mapping(MAPPING, "x").tables) == {"customers", "credits", "transactions", "payments"}


def test_a_text_that_ends_within_a_line_is_not_whole_unless_its_manifest_says_so():
    cut = MOVES + "m2,a,2024-03-01,5,2024-03-0"
    mapping = ingest.load_mapping("shop")
    for contents, manifest, found in (
        ({"moves.csv": cut}, {}, ["two/moves.csv"]),
        ({"moves.csv": cut.encode("utf-16")}, {}, ["two/moves.csv"]),
        ({"moves.csv": (cut + "\n").encode("utf-16-be")}, {}, []),
        ({"moves.csv": cut + "\r"}, {}, []),
        ({"moves.csv": cut}, {"files": {"moves.csv": {"rows": 1}}}, []),
        ({"paid.csv.gz": gzip.compress(cut.encode())}, {}, []),
        ({"note.txt": "no line"}, {}, []),
    ):
        inbox.remove(Path("inbox/two"))
        path = deliver("two", contents, **manifest)
        assert [problem.where for problem in inbox.cut_short(inbox.files_of(path), mapping)] == found


def test_a_column_that_earlier_files_have_may_be_absent_as_in_a_run():
    mapping = MAPPING.replace("known_on: seen}}", "known_on: seen, category: kind}}", 1)
    Path("data/sources/shop.yaml").write_text(mapping)
    put("one/moves.csv", "n,id,day,value,seen,kind\nm1,a,2024-02-01,5,2024-02-01,RENT\n")
    ingest.main()
    path = deliver("two", {"moves.csv": MOVES + "m2,b,2024-03-01,5,2024-03-02\n"}, delivered_on="2024-03-31")
    found = named(path)
    assert found.ids["customer_id"] == {"b"}
    assert found.rows == 1
    inbox.take(inbox.Arrival(path, 0), "shop")
    ingest.main()
    assert "m2" in tables_of("transactions")["transaction_id"].tolist()
    short = deliver("three", {"moves.csv": "n,id,day,seen\nm3,b,2024-03-01,2024-03-02\n"})
    with pytest.raises(DataRefused, match="value"):
        named(short)


def tables_of(name: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(Path(f"data/ingest/tables/{name}").rglob("*.parquet"))])


def test_a_delivery_without_rows_names_nobody():
    path = deliver("two", {"moves.csv": MOVES}, delivered_on="2024-03-31", files={"moves.csv": {"rows": 0}})
    found = named(path)
    assert (found.rows, found.newest_known, dict(found.ids)) == (0, None, {})


def bytes_below(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_delivery_over_the_limits_is_refused_while_what_stands_there_stays():
    Path("params.yaml").write_text("source: shop\n")
    ingest.main()
    before, beside = bytes_below("data/ingest"), Path(".run/watch/ingest")
    path = deliver("two", {"moves.csv": MOVES + "m2,nobody,2024-03-01,5,2024-03-02\n"}, delivered_on="2024-03-31")
    home = inbox.take(inbox.Arrival(path, 0), "shop")
    with pytest.raises(DataRefused, match="quarantine") as refusal:
        ingest.main(beside)
    assert bytes_below("data/ingest") == before
    where, problems = inbox.refuse(home, Path("inbox"), refusal.value, beside / "quarantine")
    assert "inbox/refused/two.quarantine/transactions.parquet" in problems[0].remedy
    kept_out = pd.read_parquet("inbox/refused/two.quarantine/transactions.parquet")
    assert kept_out["rules"].tolist() == [["reference"]]
    assert where.is_dir()
    ingest.main(beside)
    assert bytes_below("data/ingest") == before
    path = deliver("three", {"moves.csv": MOVES + "m3,b,2024-03-01,5,2024-03-02\n"}, delivered_on="2024-03-31")
    inbox.take(inbox.Arrival(path, 0), "shop")
    ingest.main(beside)
    assert "m3" in tables_of("transactions")["transaction_id"].tolist()
    assert ingest.changed_in(beside) == []


@pytest.mark.parametrize("first", ["a", "b"])
def test_whose_row_a_new_one_takes_back_is_touched_too_in_either_order(first):
    """m7 is given of two customers with one date: both are kept out, so that whoever came first loses his."""
    Path("params.yaml").write_text(
        "source: shop\ningest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n"
    )
    ingest.main()
    beside, days = Path(".run/watch/ingest"), {"a": dt.date(2024, 4, 2), "b": dt.date(2024, 4, 1)}
    marks: touched.Dates = {}
    for who in (first, "ab".replace(first, "")):
        path = deliver(who, {"moves.csv": MOVES + f"m7,{who},2024-03-01,5,2024-03-02\n"}, delivered_on="2024-03-31")
        own = named(path).marks(days[who])
        inbox.take(inbox.Arrival(path, 0), "shop")
        ingest.main(beside)
        marks = touched.joined(touched.merged(marks, own), ingest.changed_in(beside))
    assert "m7" not in tables_of("transactions")["transaction_id"].tolist()
    assert marks == {("customer_id", "a"): days["a"], ("customer_id", "b"): days["a"]}


def test_a_copy_that_a_kill_left_is_removed_and_another_of_its_name_is_not(monkeypatch):
    path = deliver("two", {"moves.csv": MOVES})
    put("two/moves.csv", MOVES)
    home = Path("data/raw/shop/two")
    real = Path.stat

    def elsewhere(self: Path, **more: object) -> os.stat_result:
        found = real(self, **more)
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:])) if self == path else found

    monkeypatch.setattr(Path, "stat", elsewhere)
    put("moves.csv", MOVES + "m2,b,2024-03-01,5,2024-03-02\n", "inbox/two")
    inbox.drop_copied(path, home)
    assert (path / "moves.csv").exists()
    put("moves.csv", MOVES, "inbox/two")
    inbox.drop_copied(path, home)
    assert not path.exists()


def test_what_is_still_being_copied_is_read_by_nobody():
    put(".arriving/two/moves.csv", MOVES)
    assert [file.name for file in list_files("shop")] == [
        "one/clients.csv",
        "one/lines.csv",
        "one/moves.csv",
        "one/paid.csv",
    ]
