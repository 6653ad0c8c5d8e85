"""Ingest on small sources written by hand: every row is accounted for, and bad input is refused with its exit code."""

import datetime as dt
import gzip
import hashlib
import json
from pathlib import Path

import duckdb
import pytest
from workspaces import LOOSE, lay_out_shop, put

from features.errors import ConfigurationRefused, DataRefused, IntegrityRefused, ResourceRefused
from features.tables import open_tables
from pipeline import holding, ingest

MAPPING = """
name: shop
currency: EUR
tables:
  customers:
    files: "people*.csv"
    columns: {customer_id: id, opened_on: since}
  transactions:
    files: "moves*.csv"
    columns:
      transaction_id: no
      customer_id: id
      event_on: day
      amount: case when way = 'in' then value else -value end
      known_on: seen
    where: value <> 0
"""
PEOPLE = "id,since\n001,2020-01-01\n2,2020-01-01\n3,2020-02-01\n"
MOVES = "no,id,day,way,value,seen\na,001,2021-01-05,in,10.50,2021-01-06\nb,2,2021-01-07,out,3.25,2021-01-08\n"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty project folder with the source `shop`."""
    monkeypatch.chdir(tmp_path)
    lay_out_shop(tmp_path, MAPPING)
    put("people.csv", PEOPLE)
    put("moves.csv", MOVES)
    return tmp_path


def rows(query: str) -> list[tuple]:
    connection = duckdb.connect()
    for table in Path("data/ingest/tables").iterdir():
        connection.execute(
            f"CREATE VIEW {table.name} AS FROM read_parquet('{table}/*/part.parquet', hive_partitioning=false)"
        )
    return connection.execute(query).fetchall()


def quarantine(table: str) -> list[tuple]:
    return duckdb.execute(
        f"SELECT file, line, rules, original FROM 'data/ingest/quarantine/{table}.parquet' ORDER BY file, line"
    ).fetchall()


def tree(folder: str = "data/ingest") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "ledger.json"
    }


def test_tables_are_typed_and_identifiers_stay_text(room):
    ingest.main()
    assert rows("SELECT customer_id, kind FROM customers ORDER BY 1") == [
        ("001", "person"),
        ("2", "person"),
        ("3", "person"),
    ]
    found = rows("SELECT transaction_id, event_on, amount::VARCHAR, known_on FROM transactions ORDER BY 1")
    assert found == [
        ("a", dt.date(2021, 1, 5), "10.50", dt.date(2021, 1, 6)),
        ("b", dt.date(2021, 1, 7), "-3.25", dt.date(2021, 1, 8)),
    ]


def test_every_row_is_accounted_for(room):
    put(
        "moves.csv",
        MOVES
        + "c,2,2021-02-01,in,0,2021-02-02\n"  # 3 left out
        + "d,2,not a day,in,1.00,2021-02-02\n"  # 4 type
        + "e,2,2021-02-01,in,1.239,2021-02-02\n"  # 5 would be rounded
        + "f,nobody,2021-02-01,in,1.00,2021-02-02\n"  # 6 orphan
        + "g,2,2021-02-01,in,1.00\n"  # 7 too few columns
        + "h,2,2021-02-01,in,5.00,2021-02-02\n"  # 8 conflict
        + "h,2,2021-02-01,in,6.00,2021-02-02\n"  # 9 conflict
        + "a,001,2021-01-05,in,10.50,2021-03-01\n"  # 10 duplicate, learned again later
        + "b,2,2021-01-07,out,4.25,2021-03-01\n"  # 11 restatement
        + ",,1850-02-01,in,1.00,2021-02-02\n"  # 12 three rules
        + "i,2,2021-02-01,in,ten,2021-02-02\n",  # 13 no number inside an expression
    )
    ingest.main()
    account = json.loads(Path("data/ingest/quality.json").read_text())["tables"]["transactions"]
    block = account["blocks"][0]
    assert {key: block[key] for key in ("read", "kept", "quarantined", "deduplicated", "left_out")} == {
        "read": 13, "kept": 3, "quarantined": 8, "deduplicated": 1, "left_out": 1,
    }  # fmt: skip
    found = {line: rules for _, line, rules, _ in quarantine("transactions")}
    assert found[5] == ["type:event_on", "required:event_on"]
    assert found[6] == ["scale:amount"]
    assert found[7] == ["reference"]
    assert found[8] == ["columns"]
    assert found[9] == found[10] == ["conflict"]
    assert found[13] == ["required:transaction_id", "required:customer_id", "range:event_on"]
    assert found[14][:2] == ["sql:where", "sql:amount"]
    assert rows("SELECT amount::VARCHAR, known_on FROM transactions WHERE transaction_id = 'b' ORDER BY known_on") == [
        ("-3.25", dt.date(2021, 1, 8)), ("-4.25", dt.date(2021, 3, 1)),
    ]  # fmt: skip
    assert rows("SELECT known_on FROM transactions WHERE transaction_id = 'a'") == [(dt.date(2021, 1, 6),)]
    totals = block["totals"]["amount"]
    parts = [float(totals[state]) for state in ("kept", "quarantined", "deduplicated", "left_out")]
    assert round(sum(parts), 2) == float(totals["read"])


def test_the_original_text_is_kept_in_quarantine(room):
    put("moves.csv", MOVES + "d,2,not a day,in,1.00,2021-02-02\n")
    ingest.main()
    (file, line, _, original), *rest = quarantine("transactions")
    assert not rest
    assert (file, line) == ("moves.csv", 4)
    assert json.loads(original)["day"] == "not a day"


def test_too_much_quarantine_is_refused_without_values(room):
    Path("params.yaml").write_text("source: shop\nas_of: latest\n")
    put("moves.csv", MOVES + "d,2,secret day,in,1.00,2021-02-02\n")
    with pytest.raises(DataRefused) as refusal:
        ingest.main()
    assert "type:event_on 1" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_little_quarantine_passes(room):
    Path("params.yaml").write_text("source: shop\nas_of: latest\ningest: {max_quarantined_row_share: 0.4}\n")
    put("moves.csv", MOVES + "d,2,secret day,in,0.01,2021-02-02\n")
    ingest.main()


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("    where:", "    whre:", 4, "Did you mean where?"),
        ("transaction_id: no", "transaction_id: noo", 4, "no column noo"),
        ("transaction_id: no", "transaction_id: noo", 4, "Did you mean no?"),
        ("where: value <> 0", "where: value <> ", 4, "syntax error"),
        ("where: value <> 0", "where: (select true)", 4, "subquery"),
        ("where: value <> 0", "where: frobnicate(value)", 4, "frobnicate"),
        ("amount: case when way = 'in' then value else -value end", "amuont: value", 4, "Write amount"),
        ("known_on: seen", "unheard: seen", 4, "unknown column"),
        ('files: "moves*.csv"', 'files: "missing*.csv"', 2, "no such file"),
        ("currency: EUR", "currency: euro", 4, "currency"),
    ],
)
def test_a_faulty_mapping_is_refused_before_anything_is_read(room, old, new, code, said):
    assert old in MAPPING
    Path("data/sources/shop.yaml").write_text(MAPPING.replace(old, new))
    with pytest.raises((ConfigurationRefused, DataRefused)) as refusal:
        ingest.preflight("shop")
    assert refusal.value.exit_code == code
    assert said in str(refusal.value)
    assert not Path("data/ingest").exists()


def test_all_faults_are_told_together(room):
    text = MAPPING.replace("transaction_id: no", "transaction_id: noo").replace("event_on: day", "event_on: dayy")
    Path("data/sources/shop.yaml").write_text(text)
    with pytest.raises(ConfigurationRefused) as refusal:
        ingest.preflight("shop")
    assert len(refusal.value.problems) == 2


@pytest.mark.parametrize("text", ["", "no,id,day,way,value,seen\n"])
@pytest.mark.fault("A10")
def test_an_empty_file_is_refused(room, text):
    put("moves.csv", text)
    with pytest.raises(DataRefused):
        ingest.preflight("shop")
    with pytest.raises(DataRefused):
        ingest.main()


@pytest.mark.fault("F8")
def test_too_little_memory_is_a_refusal_of_its_own(room):
    Path("params.yaml").write_text("source: shop\nas_of: latest\ningest: {memory_limit: 1KiB}\n")
    with pytest.raises(ResourceRefused):
        ingest.main()


@pytest.mark.fault("F8")
def test_rows_that_memory_cannot_hold_are_held_in_files(room, tmp_path):
    """Two bytes for one of text, ten for one that is packed, within three quarters of the engine's memory."""
    plain, packed = tmp_path / "rows.csv", tmp_path / "rows.csv.gz"
    plain.write_bytes(b"1" * 375)
    packed.write_bytes(b"1" * 76)
    assert not holding.too_many([plain], 1000)
    assert holding.too_many([plain, plain], 1000)
    assert holding.too_many([packed], 1000)


@pytest.mark.fault("F6")
def test_a_full_disk_is_a_refusal_of_its_own(room, monkeypatch):
    said = "SELECT error('Could not write file \"transactions-0.parquet\": No space left on device')"
    monkeypatch.setattr(holding.Holding, "filling", lambda *_: said)
    with pytest.raises(ResourceRefused, match="full disk"):
        ingest.main()


def test_a_missing_folder_is_refused(room):
    Path("data/raw/shop").rename("data/raw/other")
    with pytest.raises(DataRefused, match="no such folder"):
        ingest.preflight("shop")


def delivery(name: str, delivered_on: str, files: dict[str, str], **stated) -> None:
    for file, text in files.items():
        put(f"{name}/{file}", text)
    facts = {
        file: {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "rows": text.count("\n") - 1,
            **stated.get(file[:5], {}),
        }
        for file, text in files.items()
    }
    put(f"{name}/manifest.json", json.dumps({"delivered_on": delivered_on, "complete": True, "files": facts}))


def deliveries() -> None:
    Path("data/raw/shop/people.csv").unlink()
    Path("data/raw/shop/moves.csv").unlink()
    delivery("2021-01", "2021-01-31", {"people.csv": PEOPLE, "moves.csv": MOVES}, moves={"totals": {"value": "13.75"}})
    delivery("2021-02", "2021-02-28", {"moves.csv": "no,id,day,way,value,seen\nc,3,2021-01-30,in,7,2021-02-03\n"})


def test_deliveries_are_dated_and_late_rows_land_in_the_month_of_knowledge(room):
    deliveries()
    ingest.main()
    assert json.loads(Path("data/ingest/as_of.json").read_text())["as_of"] == "2021-03-01"
    months = sorted(path.name for path in Path("data/ingest/tables/transactions").iterdir())
    assert months == ["known_month=2021-01", "known_month=2021-02"]


def test_an_incomplete_delivery_does_not_move_the_date(room):
    deliveries()
    path = Path("data/raw/shop/2021-02/manifest.json")
    path.write_text(path.read_text().replace("true", "false"))
    ingest.main()
    assert json.loads(Path("data/ingest/as_of.json").read_text())["as_of"] == "2021-02-01"


def test_a_changed_file_breaks_integrity(room):
    deliveries()
    put("2021-01/moves.csv", MOVES.replace("10.50", "10.51"))
    with pytest.raises(IntegrityRefused) as refusal:
        ingest.main()
    assert refusal.value.exit_code == 7


@pytest.mark.parametrize(("key", "value"), [("rows", 3), ("totals", {"value": "13.74"})])
@pytest.mark.fault("A7")
def test_stated_rows_and_totals_are_checked(room, key, value):
    deliveries()
    path = Path("data/raw/shop/2021-01/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["files"]["moves.csv"][key] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataRefused, match="as its manifest states"):
        ingest.main()


def test_a_file_delivered_twice_changes_no_table(room):
    deliveries()
    ingest.main()
    before = {name: digest for name, digest in tree().items() if name.startswith("tables/")}
    delivery("2021-02b", "2021-02-28", {"moves.csv": MOVES})
    ingest.main()
    after = {name: digest for name, digest in tree().items() if name.startswith("tables/")}
    assert after == before
    assert (
        json.loads(Path("data/ingest/quality.json").read_text())["tables"]["transactions"]["blocks"][0]["deduplicated"]
        == 2
    )


def test_rows_without_an_identifier_of_their_own_are_told_apart(room):
    Path("data/sources/shop.yaml").write_text(MAPPING.replace("      transaction_id: no\n", ""))
    twice = "x,2,2021-01-07,out,3.25,2021-01-08\n"
    put("moves.csv", MOVES + twice)  # b and x differ only in what is not mapped: two real transactions
    put("moves_again.csv", MOVES + twice)  # the same file once more: nothing new
    ingest.main()
    assert rows("SELECT count(*), count(DISTINCT transaction_id) FROM transactions") == [(3, 3)]


@pytest.mark.fault("D5")
def test_live_deliveries_are_known_no_earlier_than_delivered(room):
    deliveries()
    Path("data/sources/shop.yaml").write_text(MAPPING.replace("currency: EUR", "currency: EUR\nlive_since: 2021-02-01"))
    ingest.main()
    known = dict(rows("SELECT transaction_id, known_on FROM transactions"))
    assert known["a"] == dt.date(2021, 1, 6)
    assert known["c"] == dt.date(2021, 2, 28)


def test_nothing_new_does_nothing_and_a_touched_table_is_rebuilt(room, monkeypatch):
    ingest.main()
    before = tree()
    called = []
    real = ingest.build_tables
    monkeypatch.setattr(ingest, "build_tables", lambda *args: called.append(1) or real(*args))
    ingest.main()
    assert not called
    Path("data/ingest/tables/transactions/known_month=1999-01").mkdir()
    Path("data/ingest/tables/transactions/known_month=1999-01/part.parquet").write_text("left behind")
    ingest.main()
    assert called
    assert tree() == before


def test_another_source_leaves_nothing_of_the_first(room):
    ingest.main()
    before = tree()
    Path("data/raw/other").mkdir()
    Path("data/raw/other/flat.csv").write_text("who,bad\nz,1\ny,0\n")
    Path("data/sources/other.yaml").write_text(
        "name: other\ncurrency: EUR\nas_of: 2020-06-01\ntables:\n  observations:\n    files: flat.csv\n"
        "    columns: {customer_id: who, as_of: date '2020-06-01', outcome: bad}\n"
    )
    Path("params.yaml").write_text("source: other\nas_of: latest\n" + LOOSE)
    ingest.main()
    assert sorted(path.name for path in Path("data/ingest/tables").iterdir()) == ["observations"]
    assert rows("SELECT customer_id, outcome, known_on FROM observations ORDER BY 1") == [
        ("y", 0, dt.date(2020, 5, 31)), ("z", 1, dt.date(2020, 5, 31)),
    ]  # fmt: skip
    Path("params.yaml").write_text("source: shop\nas_of: latest\n" + LOOSE)
    ingest.main()
    assert tree() == before


def test_order_of_rows_and_files_changes_no_byte_of_a_table(room):
    many = [f"t{i},{i % 2 + 2},2021-01-{i % 28 + 1:02d},in,{i}.25,2021-02-{i % 28 + 1:02d}" for i in range(200)]
    head = "no,id,day,way,value,seen\n"
    put("moves.csv", head + "\n".join(many) + "\n")
    ingest.main()
    before = {name: digest for name, digest in tree().items() if name.startswith("tables/")}
    put("moves.csv", head + "\n".join(many[:50][::-1]) + "\n")
    put(
        "moves_0.csv",
        "seen,value,way,day,id,no\n" + "\n".join(",".join(line.split(",")[::-1]) for line in many[50:]) + "\n",
    )
    ingest.main()
    assert {name: digest for name, digest in tree().items() if name.startswith("tables/")} == before


def write_as(kind: str) -> str:
    """Write MOVES in another format; return the mapping's `format` and file name."""
    semicolon = MOVES.replace(",", ";").replace(".", ",")
    path = Path("data/raw/shop")
    if kind in ("utf-16", "gb18030", "latin-1"):
        (path / "m.csv").write_bytes(semicolon.encode(kind))
        return f'{{delimiter: ";", decimal: ",", encoding: {kind}}}'
    if kind == "bom":
        (path / "m.csv").write_bytes(MOVES.encode("utf-8-sig"))
    if kind == "cr":
        (path / "m.csv").write_bytes(MOVES.replace("\n", "\r").encode())
    if kind == "crlf":
        (path / "m.csv").write_bytes(MOVES.replace("\n", "\r\n").encode())
    if kind == "gz":
        (path / "m.csv.gz").write_bytes(gzip.compress(MOVES.encode(), mtime=0))
    if kind == "zst":
        import pyarrow as pa

        with pa.CompressedOutputStream(str(path / "m.csv.zst"), "zstd") as sink:
            sink.write(MOVES.encode())
    if kind == "dates":
        (path / "m.csv").write_text(MOVES.replace("2021-01-0", "1/").replace("/5", "5/1/21").replace("1/", "0", 0))
        (path / "m.csv").write_text(
            "no,id,day,way,value,seen\na,001,5.1.21,in,10.50,6.1.21\nb,2,7.1.21,out,3.25,8.1.21\n"
        )
        return '{dates: "%d.%m.%y"}'
    table = [line.split(",") for line in MOVES.strip().split("\n")]
    if kind == "parquet":
        values = ", ".join(f"('{a}', '{b}', DATE '{c}', '{d}', {e}, DATE '{f}')" for a, b, c, d, e, f in table[1:])
        duckdb.execute(f"COPY (FROM (VALUES {values}) t({', '.join(table[0])})) TO '{path}/m.parquet'")
        return "{type: parquet}"
    if kind == "jsonl":
        (path / "m.jsonl").write_text(
            "".join(json.dumps(dict(zip(table[0], row, strict=True))) + "\n" for row in table[1:])
        )
        return "{type: jsonl}"
    if kind == "arff":
        head = "@relation m\n" + "".join(f"@attribute {name} string\n" for name in table[0])
        (path / "m.arff").write_text(head + "@data\n" + "\n".join(",".join(row) for row in table[1:]) + "\n")
        return "{type: arff}"
    if kind == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for no, who, day, way, value, seen in table:
            book.active.append([no, who, day, way, float(value) if value[0].isdigit() else value, seen])
        book.save(path / "m.xlsx")
        return "{type: xlsx}"
    return "{type: csv}"


@pytest.mark.parametrize(
    "kind",
    ["utf-16", "gb18030", "latin-1", "bom", "cr", "crlf", "gz", "zst", "dates", "parquet", "jsonl", "arff", "xlsx"],
)
def test_every_format_gives_the_same_table(room, kind):
    ingest.main()
    before = {name: digest for name, digest in tree().items() if name.startswith("tables/")}
    Path("data/raw/shop/moves.csv").unlink()
    form = write_as(kind)
    text = MAPPING.replace('files: "moves*.csv"', f'files: "m.*"\n    format: {form}')
    Path("data/sources/shop.yaml").write_text(text)
    ingest.main()
    assert {name: digest for name, digest in tree().items() if name.startswith("tables/")} == before


def test_a_join_that_gives_several_rows_is_refused(room):
    put("extra.csv", "who,town\n2,x\n2,y\n")
    text = MAPPING.replace(
        "opened_on: since}",
        "opened_on: since, region: e.town}\n    joins: [{files: extra.csv, as: e, on: row.id = e.who, static: true}]",
    )
    Path("data/sources/shop.yaml").write_text(text)
    with pytest.raises(DataRefused, match="at most one row"):
        ingest.main()


def test_open_tables_gives_lazy_tables(room):
    import ibis

    ingest.main()
    connection = ibis.duckdb.connect()
    tables = open_tables(connection, Path("data/ingest"))
    assert sorted(tables) == ["customers", "transactions"]
    assert tables["transactions"].count().execute() == 2
    assert str(tables["transactions"].amount.type()) == "decimal(18, 2)"


def test_nothing_is_known_before_it_happened(room):
    put("moves.csv", MOVES + "c,2,2021-02-10,in,1.00,2021-02-09\n")
    ingest.main()
    assert [(line, rules) for _, line, rules, _ in quarantine("transactions")] == [(4, ["known_before_event"])]
