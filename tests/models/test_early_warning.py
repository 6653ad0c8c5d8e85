"""What alerts were worth, on rows drawn by hand, and on a world where one code knows and another does not."""

import numpy as np
import pandas as pd
import pytest

from models.early_warning import effectiveness


def observed(lines):
    columns = ["customer_id", "as_of", "outcome", "outcome_known_on", "excluded_because"]
    frame = pd.DataFrame(lines, columns=columns)
    for name in ("as_of", "outcome_known_on"):
        frame[name] = pd.to_datetime(frame[name])
    return frame


def held(lines):
    return pd.DataFrame(lines, columns=["customer_id", "as_of", "code"])


OBSERVED = [
    # ann defaults on 20 May: inside the windows of February and March, and not of October
    ("ann", "2025-10-01", 1, "2026-05-20", None),
    ("ann", "2026-02-01", 1, "2026-05-20", None),
    ("ann", "2026-03-01", 1, "2026-05-20", None),
    ("bob", "2026-02-01", 1, "2026-07-31", None),  # the last day of the window of February
    ("cid", "2026-02-01", 1, "2026-08-01", None),  # the first day after it
    ("dan", "2026-02-01", None, None, None),  # its twelve months are open, its six are closed, and nothing came
    ("eve", "2026-02-01", None, None, "in_default"),
    ("ann", "2026-04-01", 1, "2026-05-20", None),  # closes after the run's date
]
HELD = [
    ("ann", "2025-10-01", "PD_HIGH"), ("ann", "2026-02-01", "PD_HIGH"), ("ann", "2026-03-01", "PD_HIGH"),
    ("dan", "2026-02-01", "PD_HIGH"), ("eve", "2026-02-01", "PD_HIGH"), ("ann", "2026-03-01", "LIMIT_USE"),
    ("ann", "2026-04-01", "LIMIT_USE"),
]  # fmt: skip


def test_by_hand():
    found = effectiveness(held(HELD), observed(OBSERVED), "2026-09-30", ("PD_HIGH", "LIMIT_USE", "GRADE_DOWN"))
    assert (found["dates"], found["rows"], found["defaults"]) == (3, 6, 3)
    high = found["codes"]["PD_HIGH"]
    assert (high["rows"], high["defaults"]) == (4, 2)  # three of ann's, one of dan's; eve is in default already
    assert high["precision"] == 0.5
    assert high["lift"] == pytest.approx(1.0)
    assert (high["defaulters"], high["caught"], high["caught_share"]) == (2, 1, 0.5)  # ann and bob could be
    assert high["lead_days_median"] == 108  # from 1 February to 20 May
    assert high["precision_low"] < 0.5 < high["precision_high"]
    assert found["codes"]["LIMIT_USE"]["lead_days_median"] == 80  # from 1 March
    assert found["codes"]["any"]["rows"] == 4
    never = found["codes"]["GRADE_DOWN"]
    assert (never["rows"], never["precision"], never["caught"], never["lead_days_median"]) == (0, None, 0, None)


def test_rows_that_the_model_was_trained_on_are_left_out():
    """Ann's of October, which PD_HIGH caught not, and Bob's, which nothing caught."""
    trained = held([("ann", "2025-10-01", ""), ("bob", "2026-02-01", ""), ("zoe", "2026-02-01", "")])
    found = effectiveness(held(HELD), observed(OBSERVED), "2026-09-30", ("PD_HIGH",), trained=trained)
    assert (found["in_training"], found["dates"], found["rows"], found["defaults"]) == (2, 2, 4, 2)
    high = found["codes"]["PD_HIGH"]
    assert (high["rows"], high["defaults"], high["defaulters"], high["caught"]) == (3, 2, 1, 1)


def test_without_a_closed_window_nothing_is_claimed():
    found = effectiveness(held(HELD), observed(OBSERVED), "2026-03-31", ("PD_HIGH",))
    assert found["codes"] == {}
    assert (found["rows"], found["rate"]) == (0, None)


def test_a_code_that_knows_stands_out_from_one_that_does_not():
    random = np.random.default_rng(2)
    count = 6000
    bad = random.random(count) < 0.05
    day = np.datetime64("2026-03-01") + random.integers(0, 180, count).astype("timedelta64[D]")
    frame = pd.DataFrame({"customer_id": [f"c{n:05d}" for n in range(count)], "as_of": pd.Timestamp("2026-03-01")})
    frame = frame.assign(outcome=bad.astype(float), outcome_known_on=pd.Series(day).where(bad), excluded_because=None)
    sees, guesses = np.where(bad, random.random(count) < 0.7, random.random(count) < 0.02), random.random(count) < 0.1
    lines = pd.concat([
        frame.loc[some, ["customer_id", "as_of"]].assign(code=code) for code, some in (("SEES", sees), ("BLIND", guesses))
    ])  # fmt: skip
    found = effectiveness(lines, frame, "2026-12-01", ("SEES", "BLIND"))["codes"]
    assert found["SEES"]["precision"] == pytest.approx((bad & sees).sum() / sees.sum())
    assert found["SEES"]["caught_share"] == pytest.approx(0.7, abs=0.08)
    assert found["SEES"]["lift"] > 8
    assert found["BLIND"]["lift"] == pytest.approx(1, abs=0.4)
    assert found["SEES"]["lead_days_median"] == pytest.approx(90, abs=20)
