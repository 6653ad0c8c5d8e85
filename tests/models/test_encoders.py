"""Target codes: by hand, out of fold, without customers' values in clear."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.errors import DataRefused, IntegrityRefused
from models import encoders
from models.inputs import Input, panel
from models.splits import grouped_folds_of

LEVEL = Input("branch", "f0001", "categorical", 0, "", "")
NUMBER = Input("x", "f0002", "numeric", 1, "", "")


def drawn(levels, outcome):
    frame = pd.DataFrame(
        {"customer_id": [f"c{n:05d}" for n in range(len(levels))], "as_of": pd.Timestamp("2020-01-01")}
    )
    return panel(frame.assign(outcome=outcome, branch=levels, x=1.0), ["branch", "x"], 12)


def test_codes_by_hand():
    levels = ["north"] * 10 + ["south"] * 10 + [None] * 5 + ["rare"] * 2
    outcome = [1] * 5 + [0] * 5 + [1] + [0] * 9 + [1] * 2 + [0] * 3 + [1, 0]
    codes = encoders.fit(drawn(levels, outcome), [LEVEL], smoothing=4.0).codes["branch"]
    rate = 9 / 27
    asked = codes.apply("branch", pd.Series(["north", "south", None, "rare", "never seen"]))
    rare = (1 + 4 * rate) / 6
    expected = [(5 + 4 * rate) / 14, (1 + 4 * rate) / 14, (2 + 4 * rate) / 9, rare, rare]
    assert asked == pytest.approx(expected)


def test_a_row_never_sees_its_own_outcome():
    random = np.random.default_rng(1)
    levels = random.choice(["a", "b", "c"], 300)
    outcome = random.integers(0, 2, 300)
    rows = drawn(levels, outcome)
    _, before = encoders.fit_matrix(rows, [LEVEL], 10.0, 1)
    fold = grouped_folds_of(rows.customer, np.zeros(len(rows)), encoders.INNER_FOLDS, 1 + 7919)
    for number in range(encoders.INNER_FOLDS):
        asked = fold == number
        only = rows.take(~asked)
        expected = encoders.fit(only, [LEVEL], 10.0).codes["branch"].apply("branch", rows.features["branch"][asked])
        assert before[asked, 0] == pytest.approx(expected)


def in_time(rows=600, seed=3):
    """Rows of five years, some outcomes known late, two without a day on which they are."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{n:03d}" for n in random.integers(0, 150, rows)],
            "as_of": pd.Timestamp("2015-01-01") + pd.to_timedelta(random.integers(0, 1800, rows), unit="D"),
            "branch": random.choice(["a", "b", "c", None], rows),
            "outcome": random.integers(0, 2, rows),
        }
    ).drop_duplicates(["customer_id", "as_of"])
    known = frame["as_of"] + pd.to_timedelta(random.integers(0, 700, len(frame)), unit="D")
    frame["outcome_known_on"] = known.where(np.arange(len(frame)) > 1)
    return panel(frame, ["branch"], 12, in_time=True)


def test_in_time_a_code_rests_on_what_was_known_before():
    """Against a loop over rows: other customers' outcomes, known and their windows closed, before the row's month."""
    rows = in_time()
    matrix = encoders.fit_matrix(rows, [LEVEL], 10.0, 1)[1][:, 0]
    fold = grouped_folds_of(rows.customer, np.zeros(len(rows)), encoders.INNER_FOLDS, 1 + 7919)
    for at in range(0, len(rows), 7):
        month = rows.as_of[at].astype("datetime64[M]").astype("datetime64[D]")
        seen = (rows.learned <= month) & (fold != fold[at])
        if not 0 < rows.outcome[seen].sum() < seen.sum():
            assert np.isnan(matrix[at])
            continue
        only = encoders.fit(rows.take(seen), [LEVEL], 10.0).codes["branch"]
        assert matrix[at] == pytest.approx(only.apply("branch", rows.features["branch"].iloc[[at]])[0])
    assert 0.1 < np.isnan(matrix).mean() < 0.6


def test_in_time_outcomes_not_yet_known_change_no_code():
    rows = in_time()
    before = encoders.fit_matrix(rows, [LEVEL], 10.0, 1)[1][:, 0]
    for day in np.unique(rows.as_of)[::40]:
        turned = replace(rows, outcome=np.where(rows.learned > day, 1 - rows.outcome, rows.outcome).astype("int8"))
        after = encoders.fit_matrix(turned, [LEVEL], 10.0, 1)[1][:, 0]
        past = rows.as_of <= day
        assert np.array_equal(before[past], after[past], equal_nan=True)
        assert not np.array_equal(before, after, equal_nan=True)


def test_pure_noise_with_many_levels_does_not_teach():
    """A level for every two rows: in-sample codes would rank the train rows perfectly."""
    random = np.random.default_rng(5)
    outcome = random.integers(0, 2, 2000)
    rows = drawn([f"l{n // 6}" for n in range(2000)], outcome)
    matrix = encoders.fit_matrix(rows, [LEVEL], 1.0, 1)[1]
    assert abs(np.corrcoef(matrix[:, 0], outcome)[0, 1]) < 0.12


@pytest.mark.fault("G6")
def test_json_holds_no_level_in_clear_and_reads_back():
    rows = drawn(["Secret Street"] * 20 + [None] * 20, [0, 1] * 20)
    before = encoders.fit(rows, [LEVEL], 10.0)
    text = before.to_json()
    assert "Secret" not in text
    assert encoders.Encoders.from_json(text) == before
    with pytest.raises(IntegrityRefused):
        encoders.Encoders.from_json('{"codes": {"branch": {}}}')
    with pytest.raises(IntegrityRefused):
        encoders.Encoders.from_json(text[:50])
    with pytest.raises(IntegrityRefused):  # levels under another hash would all count as unseen
        encoders.Encoders.from_json(text.replace("md5", "sha256"))


def test_numbers_pass_in_the_order_of_the_inputs_and_infinity_is_refused():
    coder = encoders.fit(drawn(["a"] * 20, [0, 1] * 10), [LEVEL], 10.0)
    frame = pd.DataFrame({"x": [1.5, None], "unused": ["p", "q"], "branch": ["a", "z"]})
    matrix = coder.matrix(frame, [NUMBER, LEVEL])
    assert matrix[0].tolist() == [1.5, 0.5]
    assert np.isnan(matrix[1, 0])
    with pytest.raises(DataRefused, match="feature x: must be finite"):
        coder.matrix(frame.assign(x=[np.inf, 1.0]), [NUMBER, LEVEL])
    with pytest.raises(DataRefused, match="feature x: must be numeric"):
        coder.matrix(frame.assign(x=["one", "two"]), [NUMBER, LEVEL])


def test_decimals_booleans_and_nullable_integers_are_numbers():
    from decimal import Decimal

    coder = encoders.Encoders({}, 1.0)
    for values in (
        [Decimal("1.5"), None],
        pd.array([2, None], dtype="Int64"),
        pd.array([True, None], dtype="boolean"),
        [True, None],
    ):
        matrix = coder.matrix(pd.DataFrame({"x": values}), [NUMBER])
        assert matrix[0, 0] > 0
        assert np.isnan(matrix[1, 0])
