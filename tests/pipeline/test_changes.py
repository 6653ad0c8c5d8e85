"""What moved between two publications, drawn by hand."""

import contextlib
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import amend, versions
from pipeline.changes import SHOWN, between

COLUMNS = ("customer_id", *SHOWN)
BEFORE = [
    ("ann", 0.010, 620, "B1", 1000, 45, "keep", ""),
    ("bob", 0.020, 600, "B2", 800, 30, "keep", "PD_HIGH;LIMIT_USE"),
    ("cid", 0.030, 580, "C1", 500, 30, "review", "DATA_SILENT"),
    ("eve", 0.040, 570, "C2", None, 14, "keep", ""),
]
NOW = [
    ("ann", 0.012, 612, "B1", 1000, 45, "keep", ""),  # the PD alone: no row
    ("bob", 0.060, 555, "D1", 0, 30, "stop", "BUREAU_DEFAULT;LIMIT_USE"),
    ("dan", 0.015, 608, "B1", 900, 45, "keep", ""),
    ("eve", 0.040, 570, "C2", 300, 14, "keep", ""),
]


def table(rows):
    return pa.table({name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)})


def test_who_came_left_and_moved():
    found = between(table(BEFORE), table(NOW)).to_pylist()
    assert [(row["customer_id"], row["moved"]) for row in found] == [
        ("bob", "grade,credit_limit_recommended,action,alerts"),
        ("cid", "left"),
        ("dan", "came"),
        ("eve", "credit_limit_recommended"),  # there was none before
    ]
    bob, cid, dan, _ = found
    assert (bob["grade_before"], bob["grade"], bob["pd_12m_before"], bob["pd_12m"]) == ("B2", "D1", 0.02, 0.06)
    assert (bob["alerts_raised"], bob["alerts_cleared"]) == ("BUREAU_DEFAULT", "PD_HIGH")
    assert (cid["grade_before"], cid["grade"], cid["alerts_cleared"]) == ("C1", None, "DATA_SILENT")
    assert (dan["grade_before"], dan["grade"], dan["alerts_raised"]) == (None, "B1", None)


def test_without_an_earlier_publication_nothing_moved_and_against_itself_neither():
    nothing = between(None, table(NOW))
    assert nothing.num_rows == 0
    assert nothing.schema == between(table(BEFORE), table(NOW)).schema
    assert between(table(NOW), table(NOW)).num_rows == 0


WHO = st.sampled_from([f"c{number}" for number in range(9)])
STANDING = st.tuples(
    st.sampled_from([0.01, 0.02]), st.integers(500, 502), st.sampled_from(["B1", "C1"]),
    st.sampled_from([None, 100, 200]), st.sampled_from([14, 30]), st.sampled_from(["keep", "stop"]),
    st.sampled_from(["", "PD_HIGH", "PD_HIGH;LIMIT_USE"]),
)  # fmt: skip
TYPES = pa.schema([("customer_id", pa.string()), ("pd_12m", pa.float64()), ("score", pa.int32()),
                   ("grade", pa.string()), ("credit_limit_recommended", pa.int64()), ("payment_term_days", pa.int32()),
                   ("action", pa.string()), ("alerts", pa.string())])  # fmt: skip


def written(folder: Path, rows: dict[str, tuple]) -> pa.Table:
    """Write a published table of a few customers, in order, and return it."""
    folder.mkdir(parents=True)
    made = pa.Table.from_pylist(
        [dict(zip(COLUMNS, (who, *rows[who]), strict=True)) for who in sorted(rows)], schema=TYPES
    )
    pq.write_table(made, folder / amend.TABLE, row_group_size=2)
    return made


@settings(deadline=None, max_examples=60)
@given(
    earlier=st.dictionaries(WHO, STANDING), base=st.dictionaries(WHO, STANDING),
    marked=st.dictionaries(WHO, st.none() | STANDING), batch=st.integers(1, 4), against=st.booleans(),
)  # fmt: skip
def test_what_moved_of_a_few_and_of_all_others_is_what_moved(earlier, base, marked, batch, against):
    """Marked customers stand anew (null: they left); the rows told are those of the two whole tables side by side."""
    now = {who: row for who, row in {**base, **marked}.items() if row is not None}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        tables = [written(versions.VERSIONS / name, rows) for name, rows in (("e", earlier), ("b", base), ("n", now))]
        pq.write_table(between(tables[0], tables[1]), versions.VERSIONS / "b/changes.parquet")
        published = amend.Published(versions.VERSIONS / "b", {"run_id": "b", "as_of": "2026-01-01"})
        size, amend.BATCH = amend.BATCH, batch
        try:
            found = amend.moved_since(
                published, "b" if against else "e", sorted(marked), versions.VERSIONS / "n" / amend.TABLE
            )
            rows = tables[2].filter(pc.is_in(tables[2]["customer_id"], pa.array(sorted(marked), pa.string())))
            whole = pa.concat_tables(
                [tables[2].slice(0, 0), *amend.merged(versions.VERSIONS / "b" / amend.TABLE, sorted(marked), rows)]
            )
        finally:
            amend.BATCH = size
        assert found.to_pylist() == between(tables[1] if against else tables[0], tables[2]).to_pylist()
        assert whole.to_pylist() == tables[2].to_pylist()
