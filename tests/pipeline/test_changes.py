"""What moved between two publications, drawn by hand."""

import pyarrow as pa

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
