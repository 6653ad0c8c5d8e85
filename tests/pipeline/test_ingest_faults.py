"""Faults of deliveries: each ends in quarantine under the rule that it breaks, or in one refusal; none passes as data."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import duckdb
import pytest
from workspaces import lay_out_shop, put

from features.errors import DataRefused, IntegrityRefused, Refusal, ResourceRefused
from features.expressions import Texts, over
from features.mapping import Format
from pipeline import ingest, packed
from pipeline.lines import lines_of
from pipeline.manifests import Delivery
from pipeline.raw import RawFile

MAPPING = """
name: shop
currency: EUR
tables:
  customers:
    files: "people*.csv"
    columns: {customer_id: id, opened_on: since}
  credits:
    files: "loans*.csv"
    columns: {credit_id: loan, customer_id: id, principal: lent, opened_on: since}
  statements:
    files: "states*.csv"
    columns: {credit_id: loan, stated_on: day, balance: owed, days_past_due: late}
  transactions:
    files: "moves*"
    format: FORM
    columns: {transaction_id: no, customer_id: id, event_on: day, amount: value, known_on: seen}
"""
HEAD = "no,id,day,value,seen\n"
ROWS = [f"t{i},{i % 3},2021-01-{i + 1:02d},{i}.25,2021-01-{i + 1:02d}" for i in range(20)]
MOVES = HEAD + "\n".join(ROWS) + "\n"
FILES = {
    "people.csv": "id,since\n0,2020-01-01\n1,2020-01-01\n2,2020-01-01\n",
    "loans.csv": "loan,id,lent,since\na,1,10,2020-01-01\nb,2,10,2020-01-01\n",
    "states.csv": "loan,day,owed,late\na,2021-01-31,9,0\nb,2021-01-31,9,0\n",
    "moves.csv": MOVES,
}


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty project folder with the source `shop`."""
    monkeypatch.chdir(tmp_path)
    lay_out_shop(tmp_path, MAPPING.replace("FORM", "{type: csv}"))
    for name, text in FILES.items():
        put(name, text)
    return tmp_path


def written(form: str = "{type: csv}") -> None:
    Path("data/sources/shop.yaml").write_text(MAPPING.replace("FORM", form))


def quarantined(table: str) -> dict[int, list[str]]:
    found = duckdb.execute(f"SELECT line, rules FROM 'data/ingest/quarantine/{table}.parquet' ORDER BY row").fetchall()
    return dict(found)


def kept(columns: str = "*") -> list[tuple]:
    parts = "read_parquet('data/ingest/tables/transactions/*/part.parquet', hive_partitioning = false)"
    return duckdb.execute(f"SELECT {columns} FROM {parts} ORDER BY transaction_id, known_on").fetchall()


BAD = {  # a row of its own, and the first rule that it breaks
    "\ufeffa,1,2021-01-05,1,2021-01-05": "text:transaction_id",
    "b,1\0,2021-01-05,1,2021-01-05": "text:customer_id",
    "c,1,2021-01-05,\ufeff1,2021-01-05": "type:amount",
    "d,1,2021-01-05,1e308,2021-01-05": "type:amount",
    "e,1,2021-01-05,NaN,2021-01-05": "type:amount",
    "f,1,2021-01-05,1e-3,2021-01-05": "scale:amount",
    "g,1,2021-01-05,1_000,2021-01-05": "scale:amount",
    "h,1,0001-01-01,1,2021-01-05": "range:event_on",
    "i,1,9999-12-31,1,9999-12-31": "range:known_on",
    "j,1,2021-01-05,1,9999-12-31": "range:known_on",
    "k,1,2021-02-30,1,2021-03-01": "type:event_on",
    "l,1,epoch,1,2021-01-05": "type:event_on",
    "m,1,infinity,1,2021-01-05": "type:event_on",
    "n,1,2021-04-01,1,2021-04-01": "after_delivery",
    "no,id,day,value,seen": "type:event_on",
    "o,1,2021-01-05,1,00,2021-01-05": "columns",
    "p,1,20": "columns",
    'q,1,2021-01-05,"1"x,2021-01-05': "quotation",
    "\0\0\0\0": "columns",
    "r,1,2021-01-05,1,2021-01": "type:known_on",
    "s,01,2021-01-05,1,2021-01-05": "reference",
    "u" * 70_000 + ",1,2021-01-05,1,2021-01-05": "text:transaction_id",
    "w,1,2021-01-06,1,2021-01-05": "known_before_event",
}


@pytest.mark.fault("A9", "C1", "C3", "C8", "D1")
def test_a_row_that_no_one_should_believe_is_quarantined_under_its_rule(room):
    for name, text in FILES.items():
        Path(f"data/raw/shop/{name}").unlink()
        put(f"2021-01/{name}", MOVES + "\n".join(BAD) + "\n" if name == "moves.csv" else text)
    put("2021-01/states.csv", FILES["states.csv"] + "a,2021-01-30,1,-3\na,2021-01-29,1,1.5\na,2021-01-28,1,1e9\n")
    put("2021-01/manifest.json", json.dumps({"delivered_on": "2021-01-31"}))
    ingest.main()
    found = quarantined("transactions")
    assert {line: rules[0] for line, rules in found.items()} == dict(enumerate(BAD.values(), len(ROWS) + 2))
    assert [rules[0] for rules in quarantined("statements").values()] == [
        "range:days_past_due", "scale:days_past_due", "range:days_past_due",
    ]  # fmt: skip
    assert len(kept()) == len(ROWS)


@pytest.mark.parametrize(
    ("texts", "text", "number"),
    [
        (Texts(".", ","), "1,234.50", "1234.50"), (Texts(".", ","), "12,34,567", "1234567.00"),
        (Texts(".", ","), "10,50", None), (Texts(".", ","), "1234,567", None), (Texts(".", ","), ",123", None),
        (Texts(".", ","), "1,2345", None), (Texts(".", ","), "1.234,567", None), (Texts(".", ","), "-1,234", "-1234.00"),
        (Texts(",", "."), "1.234,50", "1234.50"), (Texts(",", "."), "10.50", None), (Texts(",", "."), "1.5", None),
        (Texts(","), "10,50", "10.50"), (Texts(","), "10.50", None), (Texts(","), "1.234,50", None),
        (Texts(",", " "), " 1 234,5 ", "1234.50"), (Texts(",", " "), "10 50", None), (Texts(".", "'"), "1'000", "1000.00"),
    ],
)  # fmt: skip
@pytest.mark.fault("C2")
def test_digits_parted_otherwise_than_the_format_says_are_no_number(texts, text, number):
    read = f"TRY_CAST({texts.digits('x')} AS DECIMAL(18,2))"
    assert duckdb.execute(f"SELECT CAST({read} AS VARCHAR) FROM (SELECT ? AS x)", [text]).fetchone() == (number,)


def test_hidden_decimals_are_seen():
    texts = ["1.25", "1.255", "1.2500", "1e-3", "1E2"]
    assert [duckdb.execute(f"SELECT {over('x', 2)} FROM (SELECT ? AS x)", [t]).fetchone()[0] for t in texts] == [
        False, True, False, True, False,
    ]  # fmt: skip


@pytest.mark.fault("D6")
def test_a_restatement_delivered_twice_and_in_the_wrong_order_is_one_version(room):
    again = HEAD + "t1,1,2021-01-02,9,2021-03-01\n"
    for day, text in (("2021-05-31", again), ("2021-03-31", again.replace("03-01", "04-01")), ("2021-04-30", again)):
        put(f"{day}/moves.csv", text)
        put(f"{day}/manifest.json", json.dumps({"delivered_on": day}))
        ingest.main()
    assert [row for row in kept("transaction_id, CAST(amount AS VARCHAR), CAST(known_on AS VARCHAR)") if row[0] == "t1"] == [
        ("t1", "1.25", "2021-01-02"), ("t1", "9.00", "2021-03-01"),
    ]  # fmt: skip


def gz(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def torn_workbook() -> bytes:
    import openpyxl

    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in MOVES.splitlines():
        book.active.append(row.split(","))
    book.save(out)
    with zipfile.ZipFile(io.BytesIO(out.getvalue())) as whole, zipfile.ZipFile(changed := io.BytesIO(), "w") as target:
        for item in whole.namelist():
            data = whole.read(item)
            target.writestr(item, data[: len(data) // 2] if "sheet1" in item else data)
    return changed.getvalue()


TORN = {  # file name, bytes, format, exit code, words
    "a gzip file cut short": ("moves.csv.gz", gz(MOVES)[:-20], "csv", 2, "cut short"),
    "a gzip file with another checksum": ("moves.csv.gz", gz(MOVES)[:-8] + b"1234" + gz(MOVES)[-4:], "csv", 7, "checksum"),
    "text named gzip": ("moves.csv.gz", MOVES.encode(), "csv", 2, "as its name says"),
    "gzip named text": ("moves.csv", gz(MOVES), "csv", 2, "a gzip archive"),
    "torn zstd": ("moves.csv.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "csv", 2, "whole zstd"),
    "another encoding": ("moves.csv", MOVES.encode() + b"z\xfc,1,2021-01-05,1,2021-01-05\n", "csv", 2, "first in line 22"),
    "an open quotation": ("moves.csv", MOVES.replace("t3,", '"t3,').encode(), "csv", 2, "line 5: must be a quotation"),
    "an open quotation of megabytes": ("moves.csv", (HEAD + '"' + MOVES[len(HEAD) :] * 400).encode(), "csv", 2, "quotation"),
    "a column twice": ("moves.csv", MOVES.replace("value,seen", "value,seen,value").replace("\nt", ",1\nt").encode(), "csv", 2, "value twice"),
    "half a parquet file": ("moves.parquet", b"PAR1" + b"\0" * 90, "parquet", 2, "readable as parquet"),
    "a broken record": ("moves.jsonl", b'{"no": "a"}\n{"no": }\n{"no": "b"}\n', "jsonl", 2, "near line"),
    "a list for a record": ("moves.jsonl", b'{"no": "a"}\n[1]\n', "jsonl", 2, "JSON objects"),
    "half a workbook": ("moves.xlsx", torn_workbook, "xlsx", 2, "torn one"),
}  # fmt: skip


@pytest.mark.parametrize("how", TORN)
@pytest.mark.fault("A1", "A2", "A3", "A6", "A8", "B5")
def test_a_torn_file_is_refused_by_name(how, room):
    name, data, kind, code, words = TORN[how]
    Path("data/raw/shop/moves.csv").unlink()
    put(name, data() if callable(data) else data)
    written(f"{{type: {kind}}}")
    mapping = Path("data/sources/shop.yaml")
    mapping.write_text(mapping.read_text().replace('"moves*"', f'"{name}"'))
    with pytest.raises(Refusal, match=words) as refusal:
        ingest.main()
    assert refusal.value.exit_code == code
    assert name in str(refusal.value)
    assert not Path("data/ingest/ledger.json").exists()


@pytest.mark.fault("A4")
def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "LEAST_BOMB", 1 << 20)
    put("m.csv.gz", gzip.compress(b"a" * (8 << 20)), str(tmp_path))
    with pytest.raises(ResourceRefused, match="archive that can be data"):
        packed.look_through(tmp_path / "m.csv.gz")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("no,id,day,seen", "columns value, as others .* a header with no, id, day, seen"),
        ("t0,0,2021-01-01,1,2021-01-02", "no such header"), ("no;id;day;value;seen", "no such header"),
    ],
)  # fmt: skip
@pytest.mark.fault("B2", "B3")
def test_a_file_whose_header_is_not_that_of_the_others_is_refused(head, words, room):
    put("moves_b.csv", f"{head}\nz,1,2021-01-05,1\n")
    with pytest.raises(DataRefused, match=words):
        ingest.main()


MANIFESTS = {
    "[]": "an object with", "x": "JSON with", '{"files": [1]}': "files: must be an object",
    '{"delivered_on": "9999-12-31"}': "a date from", '{"delivered_on": 5}': "a date from",
    '{"complete": "false"}': "true or false", '{"files": {"moves.csv": 3}}': "found int 3",
    '{"files": {"moves.csv": {"rows": "12"}}}': "a number of rows", '{"files": {"moves.csv": {"totals": 3}}}': "totals",
    '{"files": {"moves.csv": {"totals": {"value": "many"}}}}': "totals.value: must be a number",
    '{"files": {"moves.csv": {"sha256": 12}}}': "64 hexadecimal digits", '{"files": {"other.csv": {}}}': "no such file",
    '{"files": {"moves.csv": {"totals": {"valeu": "1"}}}}': "valeu: must be a column of the file",
    '{"files": {"moves.csv": {"totals": {"value": "195.01"}}}}': "a total of 195.01, .* found 195.0000",
}  # fmt: skip


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_manifest_that_is_wrong_or_wrongly_written_is_refused(text, room):
    put("manifest.json", text)
    with pytest.raises(DataRefused, match=MANIFESTS[text]):
        ingest.main()


def test_a_manifest_that_is_right_passes_with_a_byte_order_mark_too(room):
    put("manifest.json", '\ufeff{"files": {"moves.csv": {"totals": {"value": 195.0}, "rows": 20}}}')
    ingest.main()
    assert len(kept()) == len(ROWS)


@pytest.mark.fault("A9")
def test_line_ends_of_several_kinds_in_one_file_are_read_as_one_kind(room):
    ingest.main()
    before = kept()
    put(
        "moves.csv",
        "".join(f"{line}{end}" for line, end in zip(MOVES.splitlines(), ["\n", "\r\n", "\r"] * 7, strict=True)),
    )
    ingest.main()
    assert kept() == before


ODD = {  # format, text, (rows, what the engine rejects), their lines
    "blank lines": (Format(), "a,b\n1,2\n\n\n3\n4,5\n", 2, [4], [2, 6], {4: 5}),
    "line ends inside quotations": (Format(), 'a,b\n"1\nx",2\n3\n"4\n\n",5\n6,7\n', 3, [2], [2, 5, 8], {2: 4}),
    "nothing odd": (Format(), "a,b\n1,2\n3\n4,5\n", 2, [2], None, None),
    "two characters end a line": (Format(), 'a,b\r\n1,"2\r\n"\r\n3,4\r\n', 2, [], [2, 4], {}),
    "one column": (Format(), 'a\n\n"1\n"\n2\n', 3, [], [2, 3, 5], {}),
    "a title above": (Format(skip=1), "title\na,b\n1,2\n\n3,4\n", 2, [], [3, 5], {}),
    "another encoding": (Format(encoding="utf-16"), 'a,b\n1,"2\n"\n3,4\n', 2, [], [2, 4], {}),
    "an escape": (Format(escape="\\"), 'a,b\n1,"2 \\" \n"\n3,4\n', 2, [], [2, 4], {}),
    "notes in arff": (Format(type="arff"), "@attribute a string\n@data\n% note\n1\n% note\n2\n", 2, [], [4, 6], {}),
    "blank lines in json lines": (Format(type="jsonl"), "{}\n\n{}\n", 2, [], [1, 3], {}),
    "not to be followed": (Format(), 'a,b\n1,"2\n"\n3,4\n', 5, [], [], {}),
}  # fmt: skip


@pytest.mark.parametrize("how", ODD)
def test_a_row_s_line_is_that_of_the_lender_s_file(how, tmp_path):
    form, text, whole, rejected, lines, others = ODD[how]
    (tmp_path / "m").write_bytes(text.encode(form.encoding))
    found = lines_of(RawFile("m", "m", tmp_path / "m", Delivery(".")), form, whole, rejected)
    assert found == (None if lines is None else (lines, others))


def test_quarantine_tells_the_lines_of_an_odd_file(room):
    rows = MOVES.splitlines()
    odd = [
        *rows[:4],
        "",
        *rows[4:8],
        '"x\ny",1,2021-01-05,1,2021-01-05',
        "short,1",
        "bad,1,2021-01-05,x,2021-01-05",
        *rows[8:],
    ]
    put("moves.csv", "\n".join(odd) + "\n")
    ingest.main()
    at = {start: number for number, start in enumerate("\n".join(odd).split("\n"), 1)}
    assert quarantined("transactions") == {
        at["bad,1,2021-01-05,x,2021-01-05"]: ["type:amount", "required:amount"], at["short,1"]: ["columns"],
    }  # fmt: skip


def test_what_hangs_on_a_refused_table_is_told_with_it(room):
    Path("params.yaml").write_text("source: shop\nas_of: latest\n")
    put("loans.csv", FILES["loans.csv"].replace(",10,", ",10.005,"))
    with pytest.raises(DataRefused) as refusal:
        ingest.main()
    told = [problem.where for problem in refusal.value.problems]
    assert told == ["table credits", "table credits"]  # of the rows, of the amount
    assert "and the rows that name them: 2 of statements" in refusal.value.problems[0].found
    account = json.loads(Path("data/ingest/quality.json").read_text())["tables"]["statements"]
    assert account["rules"] == {"reference": 2}


def test_a_checksum_that_differs_is_a_matter_of_integrity(tmp_path):
    put("m.csv.gz", TORN["a gzip file with another checksum"][1], str(tmp_path))
    with pytest.raises(IntegrityRefused):
        packed.look_through(tmp_path / "m.csv.gz")


@pytest.mark.fault("G4")
def test_a_file_s_name_is_no_pattern(room):
    """A name with signs that stand for others is that one file, not every file that it would match."""
    Path("data/raw/shop/moves.csv").rename("data/raw/shop/moves*[x]?.csv")
    put("moves-x-.csv", HEAD + "z,1,2021-01-05,1,2021-01-05\n")
    ingest.main()
    assert len(kept()) == len(ROWS) + 1
    put("moves*[x]?.csv", MOVES + "bad,1,2021-01-05,x,2021-01-05\n")
    ingest.main()
    parts = "SELECT file, line FROM 'data/ingest/quarantine/transactions.parquet'"
    assert duckdb.execute(parts).fetchall() == [("moves*[x]?.csv", len(ROWS) + 2)]


@pytest.mark.fault("D1")
def test_a_few_rows_of_a_far_future_do_not_make_the_date():
    def quality(months: dict[str, int]) -> dict:
        return {"transactions": {"months": {month: {"kept": rows} for month, rows in months.items()}}}

    ingest._check_newest(quality({"1900-01": 5_000, "2020-06": 5_000, "unknown": 3}))  # static rows, then all others
    ingest._check_newest(quality({"2010-06": 5_000, "2020-06": 1}))
    for months in ({"2020-06": 5_000, "2098-12": 1}, {"2020-06": 5_000, "2097-12": 1, "2098-12": 1}):
        with pytest.raises(DataRefused, match="the newest before them in 2020-06"):
            ingest._check_newest(quality(months))
