"""Every feature that exists, on a lender who has everything and on real data: what may not move it moves no byte.

A feature that has no value in any case would be proven by nothing, so it fails the test of its own: give the case the
rows that it needs (everything.py).
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batteries import SILENT, alarms, forgotten, just_before, moved_by_one_row, together, with_outcomes
from building import Built, build, differing, empty
from everything import completed
from lenders import Case, project, quietly, real, simulated


@functools.cache
def lender(name: str, folder: Path | None = None) -> Case:
    """Return the case of a name; `folder` is that of real data."""
    with tempfile.TemporaryDirectory() as here:
        if name == "simulated":
            return with_outcomes(simulated(Path(here), 3))
        if name == "everything":
            return completed(with_outcomes(simulated(Path(here), 3, customers=400)), 1)
        assert folder is not None
        return with_outcomes(real(Path(here), name, folder))


@functools.cache
def built(name: str, folder: Path | None = None) -> Built:
    return build(lender(name, folder))


def _case(name: str, *, slow: bool = False) -> object:
    marks = [pytest.mark.realdata] if name not in ("simulated", "everything") else []
    return pytest.param(name, id=name, marks=[*marks, *([pytest.mark.slow] if slow else [])])


CASES = [
    *(_case(name) for name in ("everything", "berka", "uci_taiwan", "superlender")),
    *(_case(name, slow=True) for name in ("gmsc", "polish", "sba_national")),
]


@pytest.fixture(params=CASES)
def place(request: pytest.FixtureRequest) -> tuple[str, Path | None]:
    """Name a case, and where its data lie."""
    name = request.param
    return name, None if name in ("simulated", "everything") else request.getfixturevalue("realdata")


def test_every_feature_has_a_value_that_could_move(place):
    """In the case itself, or (a window without rows in a source's few customers) under the same name in everything."""
    name, folder = place
    nothing = empty(built(name, folder), lender(name, folder).as_of)
    if name != "everything":
        assert len(nothing) < len(built(name, folder).features) / 4
        nothing = [each for each in nothing if each not in built("everything").features]
    assert nothing == [], "no tested lender gives these features a value"


def test_nothing_of_the_future_moves_a_feature(place):
    """(b), (c), (e), (f), (h) at once on the road that a run takes; (a) by the direct join, against the same values."""
    case, base = lender(*place), built(*place)
    assert differing(base, build(together(case)), case.as_of) == []
    assert differing(base, build(SILENT["a deleted"](case), panel=False), case.as_of) == []


def test_a_customer_whose_rows_come_late_has_no_feature(place):
    """(d) for every row and every feature: nothing is left, so nothing was read from a row that was not yet known."""
    assert forgotten(lender(*place)) == []


def test_one_row_later_moves_its_customer():
    """(d) for one row: each customer has one that becomes known at as_of, and features made of its table change.

    Here nearly every feature is seen to move; `test_one_row_moves_every_feature` goes on until all are.
    """
    case, base = lender("everything"), built("everything")
    moved, silent = moved_by_one_row(case, base, 0)
    assert silent == [], "tables of which a row came late, and no feature of its customer changed"
    assert len(moved) > 0.85 * len(base.features)


@pytest.mark.slow
def test_one_row_moves_every_feature():
    case, base = lender("everything"), built("everything")
    left = set(base.features)
    for turn in range(30):
        left -= moved_by_one_row(case, base, turn)[0]
        if not left:
            break
    assert {name for name in left if "missing_share" not in name} == set()  # the case leaves little open


@pytest.mark.parametrize(
    "name",
    [_case("berka"), _case("everything", slow=True), _case("uci_taiwan", slow=True), _case("superlender", slow=True)],
)
def test_the_same_rows_a_day_earlier_are_seen(name, request):
    """The boundary battery has power: what it adds does move features once it is known a day before."""
    folder = None if name == "everything" else request.getfixturevalue("realdata")
    case, base = lender(name, folder), built(name, folder)
    moved = differing(base, build(just_before(case)), case.as_of)
    assert len(moved) > len(base.features) / 3


@pytest.mark.slow
@pytest.mark.parametrize("panel", [True, False], ids=["panel", "join"])
@pytest.mark.parametrize("battery", [*SILENT, "d shifted"])
def test_each_battery_alone_is_silent(place, battery, panel):
    """On both roads from rows to a date."""
    case = lender(*place)
    assert alarms(case, build(case, panel=panel), [battery], panel=panel) == {}


@pytest.mark.slow
@pytest.mark.parametrize("panel", [True, False], ids=["panel", "join"])
def test_all_windows_and_lags_of_a_run(panel):
    """The features of the settings that a run has, by the same proofs."""
    from dataclasses import replace

    from pipeline.featurise import Params

    given = Params()
    case = replace(lender("everything"), settings={"windows": given.windows_months, "lags": given.lag_months})
    base = build(case, panel=panel)
    assert empty(base, case.as_of) == []
    assert differing(base, build(together(case), panel=panel), case.as_of) == []
    assert forgotten(case, panel=panel) == []


def test_tables_hold_what_the_batteries_are_about():
    """Late rows, restated rows and rows of the future exist in the case."""
    case = lender("everything")
    transactions = case.tables["transactions"]
    assert pc.any(pc.greater(transactions["known_on"], transactions["event_on"])).as_py()
    assert pc.any(pc.greater_equal(transactions["known_on"], case.as_of)).as_py()
    assert len(transactions) > pc.count_distinct(transactions["transaction_id"]).as_py()
    assert isinstance(transactions, pa.Table)


def _again_in_another_order(raw: Path, there: Path) -> None:
    """Write deliveries once more: rows of every file shuffled, folders under names that sort the other way round."""
    random = np.random.default_rng(4)
    folders = sorted(folder for folder in raw.iterdir() if folder.is_dir())
    for number, folder in enumerate(folders):
        new = there / f"part-{len(folders) - number:03d}"
        new.mkdir(parents=True)
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, entry in manifest["files"].items():
            head, *lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
            text = head + "".join(lines[at] for at in random.permutation(len(lines)))
            (new / name).write_text(text, encoding="utf-8")
            entry["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (new / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_rows_and_files_in_another_order_give_the_same_bytes(tmp_path):
    """(c) from the raw files on: what featurise writes is equal to the byte."""
    from pipeline import featurise, ingest, observe, simulate

    written = []
    params = {
        "source": "simulated", "as_of": "latest", "language": "en",
        "simulate": {"seed": 2, "customers": 100, "months": 30},
        "observe": {"history_months": 6}, "featurise": {"windows_months": [1, 6]},
    }  # fmt: skip
    for name in ("first", "second"):
        with project(tmp_path / name, params) as here:
            quietly(simulate)
            if written:
                (here / "data/raw/simulated").rename(here / "delivered")
                _again_in_another_order(here / "delivered", here / "data/raw/simulated")
            quietly(ingest, observe, featurise)
            written.append({
                path.relative_to(here).as_posix(): path.read_bytes()
                for folder in ("observe", "featurise")
                for path in sorted((here / "data" / folder).rglob("*.parquet"))
            })  # fmt: skip
    assert written[0] == written[1]
    assert len(written[0]) > 5
