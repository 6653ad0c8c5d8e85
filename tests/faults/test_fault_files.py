"""A: files that are torn, packed, encoded or delivered otherwise than they should be."""

from __future__ import annotations

import gzip
import hashlib
import io
import time

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from fault_ground import COUNT, HEAD

from pipeline import packed

fault = pytest.mark.fault


def packed_moves(shop, level=6) -> bytes:
    return gzip.compress(shop.text().encode(), compresslevel=level, mtime=0)


def parquet_moves(shop) -> bytes:
    table = pa_csv.read_csv(
        io.BytesIO(shop.text().encode()),
        convert_options=pa_csv.ConvertOptions(
            column_types={"value": pa.decimal128(18, 2), "day": pa.date32(), "seen": pa.date32()}
        ),
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=50)
    return out.getvalue()


@fault("A1")
@pytest.mark.sample
@pytest.mark.parametrize("cut", [1, 4, 8, 9, 20, 100, 199, "drawn", "drawn again"])
def test_gzip_cut_short(cut, shop):
    whole = packed_moves(shop)
    lost = cut if isinstance(cut, int) else shop.draw.randrange(10, len(whole) - 12)
    shop.drop("moves.csv")
    shop.put("moves.csv.gz", whole[:-lost])
    shop.refused(2, r"moves\.csv\.gz", "cut short", "[Dd]eliver it again")


@fault("A2")
@pytest.mark.parametrize("byte", [0, 1, 2, 3])
def test_gzip_with_another_checksum(byte, shop):
    whole = bytearray(packed_moves(shop))
    whole[-8 + byte] ^= 1 << shop.draw.randrange(8)
    shop.drop("moves.csv")
    shop.put("moves.csv.gz", bytes(whole))
    shop.refused(7, r"moves\.csv\.gz", "checksum")


@fault("A3")
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("moves.csv.gz", "text"),
        ("moves.csv", "gzip"),
        ("moves.csv", "zip"),
        ("moves.csv", "zstd"),
        ("moves.csv.zst", "text"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(name, what, shop):
    shop.drop("moves.csv")
    texts = {"text": shop.text().encode(), "gzip": packed_moves(shop), "zip": b"PK\x03\x04" + b"\0" * 60,
             "zstd": b"\x28\xb5\x2f\xfd" + b"\0" * 60}  # fmt: skip
    shop.put(name, texts[what])
    shop.refused(2, name.replace(".", r"\."))


@fault("A4")
@pytest.mark.parametrize("name", ["moves.csv.gz", "moves.csv.zst"])
def test_an_archive_that_unpacks_without_end(name, shop):
    import tracemalloc

    size = 400 << 20
    head = HEAD.encode() + b"\n"
    if name.endswith("gz"):
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as stream:
            stream.write(head)
            for _ in range(size >> 22):
                stream.write(b"a" * (1 << 22))
        bomb = out.getvalue()
    else:
        bomb = pa.compress(head + b"a" * size, codec="zstd", asbytes=True)
    assert size / len(bomb) > 200
    shop.drop("moves.csv")
    shop.put(name, bomb)
    before = time.process_time()
    tracemalloc.start()
    try:
        shop.refused(5, "archive", "unpacked")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - before < 5


@fault("A5")
@pytest.mark.sample
@pytest.mark.parametrize("how", ["a mark at the start", "marks at the start of every file"])
def test_a_byte_order_mark_changes_nothing(how, shop):
    shop.accepted()
    before = shop.tables()
    shop.put("moves.csv", b"\xef\xbb\xbf" + shop.text().encode())
    if how.endswith("file"):
        for name in ("people.csv", "loans.csv", "states.csv"):
            path = shop.folder / "data/raw/shop" / name
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    shop.accepted()
    assert shop.tables() == before


@fault("A6")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "gb18030", "latin-1", "cp1252", "shift_jis"])
def test_an_encoding_that_is_stated_is_decoded(encoding, shop):
    word = {"gb18030": "客户", "shift_jis": "顧客"}.get(encoding, "Müller")
    extra = [f"{word},{shop.lines[0].split(',')[1]},2021-03-01,1.00,2021-03-01"]
    shop.moves(extra)
    shop.accepted()
    before = shop.tables()
    shop.put("moves.csv", shop.text(extra).encode(encoding))
    shop.mapped(f"{{type: csv, encoding: {encoding}}}")
    shop.accepted()
    assert shop.tables() == before


@fault("A6")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "gb18030", "latin-1", "mixed"])
def test_an_encoding_that_is_not_stated_is_refused_where_it_begins(encoding, shop):
    word = {"gb18030": "客户"}.get(encoding, "Müller")
    row = f"{word},{shop.lines[0].split(',')[1]},2021-03-01,1.00,2021-03-01\n"
    at = COUNT + 2
    data = shop.text().encode() + (row + row).encode("latin-1" if encoding == "mixed" else encoding)
    if encoding == "mixed":
        data += row.encode()
    if encoding.startswith("utf-16"):
        data, at = (shop.text() + row).encode(encoding), 1
    shop.put("moves.csv", data)
    if encoding == "utf-16-be":  # NUL in every other place, and valid UTF-8
        found = shop.ingest()
        assert found.code in (2, 4)
        return
    found = shop.refused(2, r"moves\.csv", "utf-8", "encoding")
    assert f"line {at}" in found.err


@fault("A7")
@pytest.mark.parametrize("stated", ["sha256", "rows", "totals"])
def test_a_last_line_cut_mid_field_is_seen_by_what_the_manifest_states(stated, shop):
    import decimal

    whole = shop.text().encode()
    total = sum(decimal.Decimal(line.split(",")[3]) for line in shop.lines)
    facts = {"sha256": hashlib.sha256(whole).hexdigest(), "rows": COUNT, "totals": {"value": str(total)}}
    shop.manifest(files={"moves.csv": {stated: facts[stated]}})
    rest = len(shop.lines[-1]) - shop.draw.randrange(1, 5) if stated == "sha256" else len(shop.lines[-1]) + 1
    shop.put("moves.csv", whole[:-rest])
    shop.refused(7 if stated == "sha256" else 2, r"moves\.csv", "manifest states")


@fault("A7")
def test_a_last_line_cut_mid_field_without_a_manifest_is_quarantined_or_read_as_it_stands(shop):
    """Every cut of the last line: a whole row is kept, any other is in quarantine with its line; nothing is lost."""
    last = shop.lines[-1]
    for left in sorted(shop.draw.sample(range(1, len(last)), 6)):
        shop.put("moves.csv", shop.text()[: -len(last) - 1] + last[:left])
        shop.accepted()
        account = shop.account()
        assert sum(block["read"] for block in account["blocks"]) == COUNT
        bad = shop.quarantined()
        assert account["kept"] + len(bad) == COUNT
        assert [row[1] for row in bad] in ([], [COUNT + 1])


@fault("A7")
def test_a_missing_final_newline_is_no_fault(shop):
    shop.accepted()
    before = shop.tables()
    shop.put("moves.csv", shop.text().rstrip("\n"))
    shop.accepted()
    assert shop.tables() == before


@fault("A8")
@pytest.mark.parametrize("line", [2, 101, COUNT - 1, "drawn"])
def test_a_quotation_that_is_never_closed(line, shop):
    at = line if isinstance(line, int) else shop.draw.randrange(3, COUNT - 2)
    rows = shop.text().splitlines()
    rows[at - 1] = '"' + rows[at - 1]
    shop.put("moves.csv", "\n".join(rows) + "\n")
    shop.refused(2, rf"moves\.csv.*line {at}\b", "quotation that is closed")


@fault("A9")
@pytest.mark.parametrize("what", ["NUL", "100,000 characters", "3,000,000 characters"])
def test_cells_that_no_text_needs_are_quarantined(what, shop):
    cell = {"NUL": "a\0b", "100,000 characters": "x" * 100_000, "3,000,000 characters": "x" * 3_000_000}[what]
    shop.moves([f"{cell},{shop.lines[0].split(',')[1]},2021-03-01,1.00,2021-03-01"])
    shop.accepted()
    ((name, line, rules, _),) = shop.quarantined()
    assert (name, line) == ("moves.csv", COUNT + 2)
    assert rules


@fault("A9")
@pytest.mark.parametrize("ends", ["\r", "\r\n", "mixed"])
def test_line_ends_of_any_kind_give_the_same_bytes(ends, shop):
    shop.accepted()
    before = shop.tables()
    some = (lambda: shop.draw.choice(["\n", "\r", "\r\n"])) if ends == "mixed" else (lambda: ends)
    shop.put("moves.csv", "".join(line + some() for line in shop.text().splitlines()))
    shop.accepted()
    assert shop.tables() == before


@fault("A10")
@pytest.mark.parametrize("name", ["moves.csv", "people.csv", "loans.csv", "states.csv"])
@pytest.mark.parametrize("what", ["no byte", "a header", "a header without its end", "blank lines"])
def test_an_empty_file(what, name, shop):
    head = (shop.folder / "data/raw/shop" / name).read_text().splitlines()[0]
    shop.put(
        name, {"no byte": "", "a header": head + "\n", "a header without its end": head, "blank lines": "\n\n\n"}[what]
    )
    found = shop.ingest()
    assert found.code == 2, found.said
    assert name in found.err


@fault("A10")
def test_an_empty_month_among_others_is_refused_by_name(shop):
    shop.put("moves_b.csv", HEAD + "\n")
    shop.refused(2, r"moves_b\.csv", "rows: 0")


@fault("A10")
def test_an_empty_month_that_its_manifest_states_is_accepted(shop):
    shop.accepted()
    before = shop.tables()
    shop.put("moves_b.csv", HEAD + "\n")
    shop.manifest(files={"moves_b.csv": {"rows": 0}})
    shop.accepted()
    assert shop.tables() == before


@fault("A11")
@pytest.mark.sample
@pytest.mark.parametrize("how", ["a bit", "half", "512 zero bytes", "another footer", "no tail", "a head alone"])
@pytest.mark.parametrize("stated", [True, False])
def test_a_parquet_file_with_other_bytes(stated, how, shop):
    whole = bytearray(parquet_moves(shop))
    sound = hashlib.sha256(whole).hexdigest()
    at = shop.draw.randrange(4, len(whole) - 600)
    if how == "a bit":
        whole[at] ^= 1 << shop.draw.randrange(8)
    elif how == "512 zero bytes":
        whole[at : at + 512] = bytes(512)
    elif how == "another footer":
        whole[-300:-200] = bytes(shop.draw.randrange(256) for _ in range(100))
    else:
        del whole[{"half": len(whole) // 2, "no tail": len(whole) - 8, "a head alone": 4}[how] :]
    shop.drop("moves.csv")
    shop.put("moves.parquet", bytes(whole))
    shop.mapped("{type: parquet}")
    if stated:
        shop.manifest(files={"moves.parquet": {"sha256": sound}})
        shop.refused(7, r"moves\.parquet", "SHA-256")
    else:
        found = shop.ingest()
        assert found.code in ((2, 4) if how in ("half", "no tail", "a head alone") else (0, 2, 4)), found.said


@fault("A12")
@pytest.mark.parametrize("name", ["moves_again.csv", "moves_again.csv.gz", "later/moves.csv"])
def test_the_same_file_twice_changes_no_table(name, shop):
    shop.accepted()
    before, kept = shop.tables(), shop.account()["kept"]
    shop.put(name, gzip.compress(shop.text().encode()) if name.endswith("gz") else shop.text())
    if name.startswith("later/"):
        shop.manifest("later/", delivered_on="2021-12-31")
    shop.accepted()
    account = shop.account()
    assert shop.tables() == before
    assert account["kept"] == kept
    assert sum(block["deduplicated"] for block in account["blocks"]) == COUNT


@fault("A12")
def test_the_same_rows_in_another_order_and_the_last_run_again_change_no_table(shop):
    shop.accepted()
    before = shop.tables()
    shop.draw.shuffle(shop.lines)
    shop.put("moves_shuffled.csv", shop.text())
    shop.accepted()
    assert shop.tables() == before
    assert "nothing new" in shop.accepted().out
    assert shop.tables() == before


@fault("A4")
def test_data_that_packs_well_is_no_bomb(shop):
    """A year of the same row packs 200 to 1 and is still below what is refused."""
    text = shop.text().encode() * 40
    path = shop.put("elsewhere.csv.gz", gzip.compress(text))
    assert packed.look_through(path) is False
