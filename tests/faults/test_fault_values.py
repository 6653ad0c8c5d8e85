"""C: values that are no amount, no identifier, no number anyone meant; each ends in quarantine or in one refusal."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from fault_ground import COUNT, CUSTOMERS

from pipeline import publish

fault = pytest.mark.fault


def row(
    shop, number: int = 0, *, value: str = "1.00", day: str = "2021-03-01", who: str = "", key: str = "", seen: str = ""
) -> str:
    return f"{key or f'x{number:04d}'},{who or CUSTOMERS[number % 20]},{day},{value},{seen or day}"


def one_and_many(shop, rule: str, **cell: str) -> None:
    """One such row is quarantined with its line; a hundredth of such rows end the run."""
    shop.moves([row(shop, 0, **cell)])
    shop.accepted()
    ((name, line, rules, _),) = shop.quarantined()
    assert (name, line, rules[0]) == ("moves.csv", COUNT + 2, rule)
    many = [row(shop, number, **{k: v for k, v in cell.items() if k != "key"}) for number in range(4)]
    for path in ("data/ingest/ledger.json",):
        (shop.folder / path).unlink()
    shop.moves(many)
    found = shop.refused(2, "table transactions", f"{rule} 4", r"quarantine/transactions\.parquet")
    assert "1.32%" in found.err


@fault("C1")
@pytest.mark.sample
@pytest.mark.parametrize(
    "value", ["NaN", "nan", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e308", "0x1F", "--1", "١٢"]
)
def test_an_amount_that_is_no_finite_number(value, shop):
    one_and_many(shop, "type:amount", value=value)


@fault("C2")
@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("", '"1,234.50"'), ("", "1.234.50"), ("", "1 234.50"), ("", "1'234.50"),
        (", thousands: ','", '"12,34.50"'), (", thousands: ','", '"1.234,50"'), (", thousands: ','", '"10,50"'),
        (", thousands: ','", '"1,2345"'), (", thousands: ' '", "10 50"),
    ],
)  # fmt: skip
def test_digits_parted_otherwise_than_stated_are_never_guessed(form, value, shop):
    shop.mapped(f"{{type: csv{form}}}")
    shop.moves([row(shop, value=value)])
    shop.accepted()
    assert [(found[1], found[2][0]) for found in shop.quarantined()] in (
        [(COUNT + 2, "type:amount")], [(COUNT + 2, "scale:amount")],
    )  # fmt: skip


@fault("C2")
def test_a_decimal_comma_that_is_stated_is_read(shop):
    shop.accepted()
    before = shop.tables()
    rows = [line.split(",") for line in shop.lines]
    shop.put(
        "moves.csv",
        "no;id;day;value;seen\n" + "".join(";".join([*r[:3], r[3].replace(".", ","), r[4]]) + "\n" for r in rows),
    )
    shop.mapped("{type: csv, delimiter: ';', decimal: ',', thousands: '.'}")
    shop.accepted()
    assert shop.tables() == before


@fault("C3")
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("1.999", "scale:amount"), ("0.001", "scale:amount"), ("-1.005", "scale:amount"), ("1e-3", "scale:amount"),
        ("12345678901234567890", "type:amount"), ("99999999999999999.99", "type:amount"), ("1" * 40, "type:amount"),
    ],
)  # fmt: skip
def test_an_amount_that_does_not_fit_is_not_rounded(value, rule, shop):
    one_and_many(shop, rule, value=value)


@fault("C3")
@pytest.mark.parametrize(
    "value", ["9999999999999999.99", "-9999999999999999.99", "1.500", "1.0", "007", "+3", "0.10000"]
)
def test_an_amount_that_fits_is_kept_to_the_cent(value, shop):
    import decimal

    shop.moves([row(shop, value=value, key="fits")])
    shop.accepted()
    assert [amount for key, amount in shop.kept("transaction_id, amount") if key == "fits"] == [decimal.Decimal(value)]


@fault("C4")
@pytest.mark.parametrize(("name", "old", "new", "table", "rule"), [
    ("loans.csv", ",1000.00,", ",-1.00,", "credits", "range:principal"),
    ("states.csv", ",90.00,0", ",90.00,-1", "statements", "range:days_past_due"),
])  # fmt: skip
def test_a_value_below_what_the_contract_allows(name, old, new, table, rule, shop):
    path = shop.folder / "data/raw/shop" / name
    path.write_text(path.read_text().replace(old, new, 1))
    shop.refused(2, f"table {table}", rule)


@fault("C4")
@pytest.mark.parametrize(("name", "old", "new"), [
    ("states.csv", ",90.00,", ",-90.00,"), ("loans.csv", ",1000.00,", ",0.00,"), ("states.csv", ",90.00,", ",0.00,"),
])  # fmt: skip
def test_a_value_that_the_contract_allows_is_kept(name, old, new, shop):
    path = shop.folder / "data/raw/shop" / name
    path.write_text(path.read_text().replace(old, new))
    shop.accepted()


@fault("C6")
@pytest.mark.parametrize("copies", [2, 3, 5])
def test_an_identical_row_again_is_counted(copies, shop):
    shop.accepted()
    before = shop.tables()
    shop.moves([shop.lines[7]] * (copies - 1))
    shop.accepted()
    assert shop.tables() == before
    assert sum(block["deduplicated"] for block in shop.account()["blocks"]) == copies - 1


@fault("C6")
@pytest.mark.parametrize("column", [1, 2, 3])
def test_rows_that_contradict_each_other_are_quarantined_both(column, shop):
    parts = shop.lines[7].split(",")
    parts[3] = "1.00"
    shop.lines[7] = ",".join(parts)
    other = {1: next(c for c in CUSTOMERS if c != parts[1]), 2: "2020-12-31", 3: "0.01"}[column]
    lines, shop.lines = shop.lines, shop.lines + [row(shop, n) for n in range(200)]
    parts[column] = other
    shop.moves([",".join(parts)])
    shop.accepted()
    assert [(found[1], found[2]) for found in shop.quarantined()] == [(9, ["conflict"]), (COUNT + 202, ["conflict"])]
    shop.lines = lines
    (shop.folder / "data/ingest/ledger.json").unlink()
    shop.moves([",".join(parts)])
    shop.refused(2, "table transactions", "conflict 2")


IDS = ["007", "7", "12345678901234567890", "1" * 40, "9007199254740993", "a1", "A1", "a\u200b1", "a1 ", "ä", "a\u0308"]


@fault("C7")
@pytest.mark.sample
@pytest.mark.parametrize("table", ["customers", "transactions"])
def test_identifiers_are_text_and_stay_what_they_are(table, shop):
    """But for blanks at the ends, which no one means: `a1 ` is `a1`."""
    if table == "customers":
        path = shop.folder / "data/raw/shop/people.csv"
        path.write_text(path.read_text() + "".join(f"{key},2020-01-01,retail\n" for key in IDS if key != "a1 "))
    else:
        shop.moves([row(shop, n, key=key) for n, key in enumerate(IDS) if key != "a1 "])
    shop.accepted()
    column = "customer_id" if table == "customers" else "transaction_id"
    assert set(IDS) - {"a1 "} <= {key for (key,) in shop.kept(column, table)}


@fault("C7")
def test_near_collisions_of_identifiers_are_told(shop):
    path = shop.folder / "data/raw/shop/people.csv"
    path.write_text(path.read_text() + "a1,2020-01-01,retail\nA1,2020-01-01,retail\n" + unicodedata.normalize("NFC", "ä") + ",2020-01-01,farm\n"
                    + unicodedata.normalize("NFD", "ä") + ",2020-01-01,farm\n")  # fmt: skip
    found = shop.accepted()
    assert "differ in case, blanks or form alone" in found.out


@fault("C8")
@pytest.mark.parametrize("which", ["transaction of nobody", "credit of nobody", "statement of no credit"])
def test_an_orphan_is_quarantined_and_counted(which, shop):
    table, name, line = {
        "transaction of nobody": ("transactions", "moves.csv", row(shop, who="nobody")),
        "credit of nobody": ("credits", "loans.csv", "Lx,nobody,1.00,2020-01-01"),
        "statement of no credit": ("statements", "states.csv", "none,2021-01-31,1.00,0"),
    }[which]
    (shop.folder / "params.yaml").write_text(
        "source: shop\nas_of: latest\ningest: {max_quarantined_row_share: 0.1, max_quarantined_amount_share: 0.1}\n"
    )
    path = shop.folder / "data/raw/shop" / name
    path.write_text(path.read_text() + line + "\n")
    shop.accepted()
    assert [found[2] for found in shop.quarantined(table)] == [["reference"]]
    assert shop.account(table)["rules"] == {"reference": 1}


@fault("C8")
def test_a_customer_with_nothing_is_a_customer(shop):
    path = shop.folder / "data/raw/shop/people.csv"
    path.write_text(path.read_text() + "alone,2020-01-01,farm\n")
    shop.accepted()
    assert ("alone",) in shop.kept("customer_id", "customers")


STARTS = [
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\0",
    " =",
    "\u00a0=",
    "\u3000=",
    "\ufeff=",
    "\u200b=",
    "；=",
    "|",
    "%",
    "＝",
    "＋",
    "－",
    "＠",
]
BODIES = ["cmd|' /C calc'!A0", 'HYPERLINK("http://x.y","z")', "1+1", "SUM(A1:A9)*cmd|'/c calc'!A0", "IMPORTXML(1)"]
PAYLOADS = [start + body for start in STARTS for body in BODIES][:100]
RUN = (
    "=",
    "+",
    "-",
    "@",
    "＝",
    "＋",
    "－",
    "＠",
    "\t",
    "\r",
    "\0",
)  # what spreadsheets take for the start of a formula


@fault("C10")
@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_formula_reaches_no_spreadsheet(payload, tmp_path):
    """Read back as a spreadsheet would: blanks and marks that are not seen are no start; the Parquet twin stays raw."""
    import csv
    import io

    import pyarrow.parquet as pq

    table = pa.table({"customer_id": [payload], "pd_12m": [-0.5], "other": [None]})
    publish._write_table(table, tmp_path, {"bellwether.contract_version": "1"})
    text = (tmp_path / "scored_customers.csv").read_text(encoding="utf-8-sig")
    cell = next(list(csv.reader(io.StringIO(text, newline="")))[1] for _ in "1")[0]
    bare = cell.lstrip(" \n\u00a0\u3000\ufeff\u200b")
    assert not bare.startswith(RUN), ascii(cell)
    assert pq.read_table(tmp_path / "scored_customers.parquet")["customer_id"].to_pylist() == [payload]


ODD = {
    "right to left": "\u202emoc.live",
    "ANSI": "\x1b[31mred\x1b[0m",
    "a bell": "a\x07",
    "line ends": '"a\nFAKE ingest transactions"',
    "long": "x" * 60_000,
}


@fault("C11")
@pytest.mark.parametrize("where", ["a kept value", "a quarantined value", "an identifier"])
@pytest.mark.parametrize("how", ODD)
def test_odd_text_reaches_no_log(how, where, shop):
    text = ODD[how]
    cells = {"a kept value": {"key": text}, "a quarantined value": {"value": text}, "an identifier": {"who": text}}[
        where
    ]
    shop.moves([row(shop, **cells)])
    found = shop.accepted()
    for part in ("moc.live", "\x1b", "\x07", "FAKE", "xxxx", "\u202e"):
        assert part not in found.said


@fault("C11", "G4")
@pytest.mark.parametrize("name", ["moves\x1b[31m.csv", "moves\nFAKE ingest.csv", "moves\u202egpj.csv", "moves\r.csv"])
def test_a_file_s_name_cannot_write_into_the_log(name, shop):
    shop.put(name, shop.text().replace("\nt", "\nu").replace(shop.lines[0].split(",")[3], "many", 1) + "broken,1\n")
    shop.put("people.csv", "")
    found = shop.ingest()
    assert found.code in (0, 2)
    shop.put(name, "")
    found = shop.ingest()
    assert found.code == 2
    for sign in ("\x1b", "\u202e", "\r", "\nFAKE"):
        assert sign not in found.err, ascii(found.err)
