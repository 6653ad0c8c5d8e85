"""check-source and new-source: what a person sees while writing a first mapping, and what the draft already gets right."""

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from features.errors import ConfigurationRefused, DataRefused
from features.mapping import parse_mapping
from pipeline import __main__ as command
from pipeline import featurise, ingest, new_source, observe
from pipeline.check_source import check
from pipeline.looks import date_formats, delimiter_of, encoding_of, number_marks


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty project folder."""
    monkeypatch.chdir(tmp_path)
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/sources").mkdir(parents=True)
    Path("params.yaml").write_text("source: mine\nas_of: latest\nsources: {mine: {observe: {horizon_months: 6}}}\n")
    return tmp_path


def put(name: str, text: str | bytes) -> None:
    path = Path("data/raw/mine") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def write_mapping(tables: str) -> None:
    Path("data/sources/mine.yaml").write_text(f"name: mine\ncurrency: EUR\ntables:\n{tables}")


PEOPLE = "  customers:\n    files: people.csv\n    columns: {customer_id: id, opened_on: since}\n"
MOVES = "  transactions:\n    files: moves.csv\n    columns: {transaction_id: no, customer_id: id, event_on: day, amount: value}\n"


def fill(rows: int, bad: tuple[str, ...] = ()) -> None:
    put("people.csv", "id,since,shoe\n" + "".join(f"{i},2020-01-01,42\n" for i in range(50)))
    lines = [f"t{i},{i % 50},2021-01-{i % 28 + 1:02d},{i}.50\n" for i in range(rows)]
    put("moves.csv", "no,id,day,value\n" + "".join(bad) + "".join(lines))


def test_it_prints_rows_types_first_rows_and_what_is_not_mapped(room, capsys):
    fill(100)
    write_mapping(PEOPLE + MOVES)
    assert check("mine") == 0
    out = capsys.readouterr().out
    assert "transactions: 100 rows (grain: transaction_id)" in out
    assert "read 100, kept 100" in out
    assert "DECIMAL(18,2)" in out
    assert "2021-01-01 to 2021-01-28" in out
    assert "people.csv: shoe" in out
    assert "observed: every customer; as_of 2021-02-01, horizon 6 months" in out


def test_it_says_which_line_breaks_which_rule_and_how_dates_would_be_read(room, capsys):
    fill(100, ("x1,1,31.12.2020,5\n", "x2,1,30.12.2020,7.123\n", "x3,nobody,2021-01-01,1\n"))
    write_mapping(PEOPLE + MOVES)
    assert check("mine") == 2
    out = capsys.readouterr().out
    assert "broken rule type:event_on: 2 rows" in out
    assert "moves.csv, line 2: day = '31.12.2020'" in out
    assert "moves.csv, line 3: value = '7.123'" in out
    assert "moves.csv, line 4: no = 'x3', id = 'nobody'" in out
    assert 'hint: write `dates: ["%d.%m.%Y"]`' in out
    assert "would be refused: table transactions: must be at most 0.50% of the rows" in out


def test_it_writes_nothing_and_reads_the_head_of_large_files_within_seconds(room, capsys):
    fill(1_500_000)
    write_mapping(PEOPLE + MOVES)
    before = sorted(str(path) for path in room.rglob("*"))
    start = time.perf_counter()
    assert check("mine", rows=5_000) == 0
    assert time.perf_counter() - start < 20  # a second or two; the machine may be busy
    out = capsys.readouterr().out
    assert "transactions: 5,000 rows" in out
    assert "(the first rows)" in out
    assert "counts of the sample alone" in out
    assert sorted(str(path) for path in room.rglob("*")) == before


def test_a_reference_is_not_judged_by_a_part_of_the_file_that_holds_it(room, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.check_source.FURTHER", 10)
    fill(100)
    write_mapping(PEOPLE + MOVES)
    assert check("mine") == 0
    assert "broken rule reference" in capsys.readouterr().out


def test_deliveries_with_manifests_are_checked_by_their_heads(room, capsys):
    for month in ("01", "02"):
        text = "no,id,day,value\n" + "".join(f"{month}{i},1,2021-{month}-05,1\n" for i in range(3000))
        put(f"2021-{month}/moves.csv.gz", gzip.compress(text.encode()))
        stated = {"moves.csv.gz": {"rows": 3000, "sha256": "0" * 64}}
        put(f"2021-{month}/manifest.json", json.dumps({"delivered_on": f"2021-{month}-28", "files": stated}))
    write_mapping(MOVES.replace("moves.csv", "moves.csv.gz"))
    Path("params.yaml").write_text("source: other\nas_of: latest\n")
    assert check("mine", rows=1000) == 2  # no customers and no credits: nobody can be observed
    out = capsys.readouterr().out
    assert "read 1,000, kept 1,000" in out
    assert "population" in out


@pytest.mark.parametrize(("old", "new", "code"), [("id: no", "id: nix", 4), ("moves.csv", "other.csv", 2)])
def test_a_wrong_mapping_and_missing_files_have_their_exit_codes(room, capsys, old, new, code):
    fill(10)
    write_mapping(PEOPLE + MOVES.replace(old, new))
    assert command.main(["check-source", "mine"]) == code
    assert "check-source: data/sources/mine.yaml: tables.transactions" in capsys.readouterr().err


# --- drafts ---------------------------------------------------------------------------------------------------------


def drafted() -> str:
    assert new_source.write("mine") == 0
    text = Path("data/sources/mine.yaml").read_text()
    parse_mapping(text, "mine.yaml")
    return text


def lender(encoding: str = "cp1252") -> bytes:
    """A flat file as a small bank would write it: sorted by outcome, semicolons, decimal commas, one leak."""
    draw = random.Random(3)
    lines = []
    for i in range(900):
        bad = int(i >= 750)
        income = draw.gauss(3000 - 900 * bad, 500)
        lines.append(
            f"K{i:05d};{draw.randint(1, 28)}.{draw.randint(1, 12)}.2023;{income:.2f}".replace(".2f", "")
            + f";{draw.choice(['Köln', 'Ulm', 'Bonn'])};{draw.randint(0, 4)};{'n/a' if i % 9 == 0 else draw.randint(18, 80)}"
            f";{'900,00' if bad else ''};{'ja' if bad else 'nein'};{bad}"
        )
    rows = [line.replace(f"{line.split(';')[2]}", line.split(";")[2].replace(".", ",")) for line in lines]
    head = "Kundennr;decision_date;Monatseinkommen;Ort;Karten;Alter;recovered;mahnung;default_flag"
    return ("\r\n".join([head.replace("Kundennr", "customer_no"), *rows]) + "\r\n").encode(encoding)


def test_a_flat_file_with_an_outcome_is_drafted_and_runs_as_it_stands(room):
    put("kredite.csv", lender())
    text = drafted()
    assert 'encoding: "cp1252", delimiter: ";", decimal: ","' in text
    assert 'dates: "%d.%m.%Y"' in text
    assert "as_of: decision_date" in text
    assert "outcome: default_flag" in text
    assert "left out: recovered" in text
    assert "left out: mahnung: alone it tells the outcome" in text
    assert 'nulls: ["n/a"]' in text
    assert check("mine") == 0
    ingest.main()
    observe.main()
    featurise.main()
    summary = json.loads(Path("data/observe/summary.json").read_text())
    assert summary["training"]["bad"] == pytest.approx(150 * 0.6, abs=40)  # those whose window closed


def test_a_mapping_is_never_overwritten(room):
    put("kredite.csv", lender())
    Path("data/sources/mine.yaml").write_text("mine: own\n")
    with pytest.raises(ConfigurationRefused):
        new_source.write("mine")
    assert Path("data/sources/mine.yaml").read_text() == "mine: own\n"


def test_a_lender_s_files_become_tables(room, capsys):
    draw = random.Random(5)
    put("clients.csv", "client_id|joined|city\n" + "".join(f"C{i}|2019-0{i % 9 + 1}-01|x{i % 3}\n" for i in range(60)))
    put("loans.csv", "loan_id|client_id|start_date|loan_amount|status\n"
        + "".join(f"L{i}|C{i % 60}|2020-0{i % 9 + 1}-01|{1000 + i}|open\n" for i in range(80)))  # fmt: skip
    put("plan.csv", "loan_id|due_date|amount|paid_date|paid_amount\n"
        + "".join(f"L{i}|2021-{m:02d}-01|100|2021-{m:02d}-0{i % 8 + 1}|100\n" for i in range(80) for m in range(1, 7)))  # fmt: skip
    for month in (1, 2):
        put(f"m{month}/moves.csv", "txn_id|client_id|booking_date|amount\n"
            + "".join(f"{month}-{i}|C{i % 60}|2021-0{month}-0{i % 9 + 1}|{draw.randint(-500, 500)}\n" for i in range(200)))  # fmt: skip
    put(
        "calls.csv",
        "client_id|call_date|minutes\n" + "".join(f"C{i % 7}|2021-01-0{i % 9 + 1}|{i}\n" for i in range(90)),
    )
    put("readme.pdf", b"%PDF")
    text = drafted()
    mapping = parse_mapping(text, "mine.yaml")
    assert set(mapping.tables) == {"customers", "credits", "instalments", "transactions", "calls"}
    assert mapping.tables["instalments"][0].columns["amount_paid"] == "paid_amount"
    assert mapping.tables["transactions"][0].files == ["m*/moves.csv"]
    assert "not read: readme.pdf" in text
    assert "left out: status" in text
    assert check("mine") == 0


def test_every_format_is_drafted(room):
    import duckdb
    import openpyxl

    values = ", ".join(f"({i}, {i * 7 % 50}, '{'ab'[i % 2]}', {i % 5 == 0})" for i in range(200))
    duckdb.execute(f"COPY (FROM (VALUES {values}) t(id, income, kind, defaulted)) TO 'data/raw/mine/f.parquet'")
    assert "outcome: " in drafted()
    rows = duckdb.execute("FROM 'data/raw/mine/f.parquet'").fetchall()
    Path("data/raw/mine/f.parquet").unlink()
    names = ["id", "income", "kind", "defaulted"]
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    arff = "@relation r\n@attribute id numeric\n@attribute income numeric\n@attribute kind {a,b}\n@attribute class {0,1}\n@data\n"
    book = openpyxl.Workbook()
    for row in [names, *([*row[:3], int(row[3])] for row in rows)]:
        book.active.append(row)
    book.save("book.xlsx")
    utf16 = "id\tincome\tkind\tdefaulted\n" + "".join(f"{a}\t{b}\t{c}\t{int(d)}\n" for a, b, c, d in rows)
    for name, content in {
        "f.jsonl": "\n".join(lines).encode(), "f.xlsx": Path("book.xlsx").read_bytes(),
        "f.arff": (arff + "".join(f"{a},{b},{c},{int(d)}\n" for a, b, c, d in rows)).encode(),
        "f.txt": utf16.encode("utf-16"), "f.csv.gz": gzip.compress(utf16.replace("\t", ",").encode()),
    }.items():  # fmt: skip
        put(name, content)
        Path("data/sources/mine.yaml").unlink()
        text = drafted()
        assert "customer_id: id" in text, name
        assert "outcome: " in text, name
        assert check("mine") == 0, name
        (Path("data/raw/mine") / name).unlink()


@pytest.mark.parametrize("files", [{}, {"a.pdf": "x"}, {"a.xlsx": "PK"}, {"a.csv": ""}, {"a.csv": "x,y\n1,2\n3,4\n"}])
def test_nothing_to_draft_is_refused(room, files):
    for name, text in files.items():
        put(name, text)
    with pytest.raises(DataRefused):
        new_source.write("mine")
    assert not Path("data/sources/mine.yaml").exists()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "tables", "outcome"),
    [
        ("gmsc", {"observations"}, "SeriousDlqin2yrs"),
        ("polish", {"observations"}, "class"),
        ("uci_taiwan", {"observations"}, "default.payment.next.month"),
        ("sba_national_subset", {"observations"}, "MIS_Status"),
        ("superlender", {"customers", "credits", "observations"}, "good_bad_flag"),
        ("berka", {"customers", "credits", "transactions"}, None),
    ],
)
def test_real_sets_are_drafted(room, realdata, folder, tables, outcome):
    Path("data/raw/mine").rmdir()
    Path("data/raw/mine").symlink_to(realdata / folder, target_is_directory=True)
    text = drafted()
    mapping = parse_mapping(text, "mine.yaml")
    assert set(mapping.tables) == tables
    if outcome:
        assert outcome in mapping.tables["observations"][0].columns["outcome"]
        assert outcome not in str(mapping.tables["observations"][0].attributes)
    assert "ChgOff" not in "".join(line for line in text.splitlines() if "#" not in line)
    ingest.preflight("mine")


# --- guesses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "formats"),
    [
        (["31.12.2020", "01.02.2021"], ["%d.%m.%Y"]),
        (["12/31/2020", "02/28/2021"], ["%m/%d/%Y"]),
        (["2/28/1997", "24-Jun-91"], ["%m/%d/%Y", "%d-%b-%y"]),
        (["930101", "981231"], ["%y%m%d"]),
        (["19930101", "19981231"], ["%Y%m%d"]),
        (["2017-07-25 08:22:56.000000"], ["%Y-%m-%d %H:%M:%S.%f"]),
        (["2020年01月31日"], ["%Y年%m月%d日"]),
        (["Ulm", "Bonn"], []),
        (["2020-13-01"], []),
    ],
)
def test_date_formats_are_found(values, formats):
    assert date_formats(values) == formats


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16", "utf-16-le", "cp1252"])
def test_encodings_are_found(codec):
    words = (
        "Köln, Zürich; Straße, Café à la carte" if codec == "cp1252" else "客户编号,贷款金额,出生日期\n张三,5000,男\n"
    )
    data = (words * 30).encode(codec)
    assert (words * 30) == data.decode(encoding_of(data, whole=True)[0])


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_delimiters_are_found(sign):
    lines = [sign.join(["name", "amount", "note"]), *(sign.join([f"n{i}", f"{i}", '"a, b; c"']) for i in range(30))]
    assert delimiter_of("\n".join(lines))[0] == sign


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        (["1.234,50", "2,5"], (",", ".")), (["1,234.50", "7.5"], (".", ",")), (["3,5", "4,25"], (",", "")), (["1", "2.5"], (".", "")),
        (["12"], (".", "")),
    ],
)  # fmt: skip
def test_decimal_marks_are_found(values, marks):
    assert number_marks([values]) == marks
