"""What people did: the newest line holds, cool-downs end on their day, every faulty line is named and no customer is."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from features.errors import ConfigurationRefused
from models.contacts import COLUMNS, read_contacts, standing, with_crm

AS_OF = dt.date(2026, 1, 1)


def lines(*rows):
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)


def stands(*rows, cool_down=60, as_of=AS_OF):
    found = standing(read_contacts(lines(*rows)), np.array(["a", "b"], dtype=object), as_of, cool_down)
    return found.state[0], found.outcome[0], str(found.again_from[0]), str(found.last_done[0])


def done(on, outcome="promised", who="a"):
    return (who, on, "done", outcome, "lee", "called", "")


def snoozed(on, until):
    return ("a", on, "snoozed", "", "lee", "on leave", until)


def test_who_has_no_line_is_open():
    assert stands() == ("open", None, "NaT", "NaT")


@pytest.mark.parametrize(("on", "state"), [("2025-11-02", "open"), ("2025-11-03", "done"), ("2026-01-05", "done")])
def test_a_contact_rests_for_the_cool_down_and_not_a_day_longer(on, state):
    """60 days after 2 November is 1 January, the run's date."""
    assert stands(done(on))[0] == state


def test_a_contact_says_from_which_day_he_is_open_again():
    assert stands(done("2025-12-31")) == ("done", "promised", "2026-03-01", "2025-12-31")


@pytest.mark.parametrize(("until", "state"), [("2025-12-31", "open"), ("2026-01-01", "snoozed")])
def test_snoozed_holds_through_its_last_day(until, state):
    assert stands(snoozed("2025-12-01", until))[0] == state


def test_who_was_not_reached_is_tried_again():
    assert stands(done("2025-12-30", "not_reached"))[:2] == ("open", "not_reached")


def test_a_vain_call_does_not_end_the_rest_after_an_earlier_contact():
    assert stands(done("2025-12-20"), done("2025-12-30", "not_reached"))[0] == "done"


@pytest.mark.parametrize(
    ("until", "stand"),
    [
        ("2026-01-05", ("done", "promised", "2026-02-18")),  # the cool-down of 20 December ends later
        ("2026-02-17", ("snoozed", None, "2026-02-18")),  # on the same day: what was said last
        ("2026-03-31", ("snoozed", None, "2026-04-01")),
    ],
)
def test_of_a_cool_down_and_a_snooze_within_it_the_later_end_counts(until, stand):
    assert stands(done("2025-12-20"), snoozed("2025-12-28", until))[:3] == stand


def test_a_snooze_that_ended_does_not_end_the_rest():
    """Put off to 31 December only; the contact of the 20th rests until 18 February."""
    assert stands(done("2025-12-20"), snoozed("2025-12-28", "2025-12-31"))[:3] == ("done", "promised", "2026-02-18")
    assert stands(done("2025-12-20"), snoozed("2025-12-28", "2025-12-31"), as_of=dt.date(2026, 2, 18))[0] == "open"


@pytest.mark.parametrize(
    "then", [snoozed("2025-12-30", "2025-12-31"), done("2025-12-30", "not_reached")]
)  # fmt: skip
def test_a_rest_that_was_taken_back_does_not_come_again(then):
    back = ("a", "2025-12-28", "open", "", "lee", "mistaken", "")
    assert stands(done("2025-12-20"), back, then)[0] == "open"
    assert stands(back, done("2025-12-29"), then)[0] == "done"


def test_the_first_line_of_anyone_says_since_when_people_work_with_the_list():
    log = read_contacts(lines(done("2025-12-20"), done("2025-11-03", "not_reached", "gone"), done("2026-02-01")))
    found = standing(log, np.array(["a", "b"], dtype=object), AS_OF, 60)
    assert str(found.first_contact) == "2025-11-03"
    assert np.isnat(standing(log[:0], np.array(["a"], dtype=object), AS_OF, 60).first_contact)


def test_dates_that_can_only_be_slips_are_named_by_line():
    """Before 1900 and after 2100-01-01; the very bounds stand."""
    fine = [done("1900-01-01"), done("2100-01-01"), snoozed("2026-01-02", "2100-01-01")]
    assert len(read_contacts(lines(*fine))) == 3
    slips = [done("1899-12-31"), done("2100-01-02"), done("0026-12-31"), snoozed("2026-01-03", "9999-12-31")]
    with pytest.raises(ConfigurationRefused) as refusal:
        read_contacts(lines(*fine, *slips))
    found = {p.where.removeprefix("contacts.csv: "): p.found for p in refusal.value.problems}
    assert found == {"on": "something else in line 5, 6, 7", "until": "something else in line 8"}
    assert all("from 1900-01-01 to 2100-01-01" in problem.must_be for problem in refusal.value.problems)


def test_open_takes_back_what_was_said_before_whatever_the_order_of_lines():
    back = ("a", "2025-12-30", "open", "", "lee", "mistaken", "")
    assert stands(back, done("2025-12-20")) == ("open", None, "NaT", "2025-12-20")


def test_another_customers_line_changes_nothing():
    assert stands(done("2025-12-31", who="b"))[0] == "open"


def test_all_faults_are_named_by_line_and_never_by_customer():
    rows = [
        done("2025-12-31", who="secret-id"), done("2025-12-31", who="secret-id"), done("soon"), done("2025-12-01", "gone"),
        ("c", "2025-12-01", "busy", "", "lee", "x", ""), snoozed("2025-12-01", ""), snoozed("2025-12-02", "2025-12-01"),
        ("d", "2025-12-01", "open", "paid", "lee", "x", "2026-01-01"), ("e", "2025-12-01", "open", "", "", "x", ""),
    ]  # fmt: skip
    with pytest.raises(ConfigurationRefused) as refusal:
        read_contacts(lines(*rows))
    found = {p.where.removeprefix("contacts.csv: "): p.found for p in refusal.value.problems}
    # the two faults of line 9 stand under their own columns
    assert found["customer_id, on"] == "a second one in line 3, 7"  # both kinds of line count
    assert found["on"] == "something else in line 4"
    assert found["state"] == "another in line 6"
    assert found["author"] == "nothing in line 10"
    assert [p.found for p in refusal.value.problems if p.where.endswith(": outcome")] == [
        "another in line 5", "an outcome in line 9",
    ]  # fmt: skip
    assert [p.found for p in refusal.value.problems if p.where.endswith(": until")] == [
        "something else in line 7", "a date in line 9", "an earlier day in line 8",
    ]  # fmt: skip
    assert "secret-id" not in str(refusal.value)


def test_another_header_is_refused():
    with pytest.raises(ConfigurationRefused, match="Restore the header"):
        read_contacts(lines().drop(columns="until"))


def crm(*rows):
    frame = pd.DataFrame(rows, columns=["customer_id", "on", "state", "outcome", "snoozed_days"])
    return frame.assign(on=pd.to_datetime(frame["on"]))


def test_what_comes_back_from_a_crm_stands_beside_the_lines_of_people():
    """Open and deleted contacts are no lines; on one day a line of people holds, then who was reached."""
    ours = read_contacts(lines(done("2025-12-01", "paid"), done("2025-12-20", "refused", "b")))
    theirs = crm(
        ("a", "2025-12-10", "done", None, None), ("a", "2025-12-11", "open", None, None),
        ("a", "2025-12-12", "deleted", None, None), ("a", "2025-12-13", None, None, None),
        ("b", "2025-12-20", "done", "paid", None), ("b", "2025-12-24", "snoozed", None, 30.0),
        ("b", "2025-12-26", "done", "not_reached", None), ("b", "2025-12-26", "snoozed", None, 3.0),
        ("b", "2025-12-28", "snoozed", None, None),
    )  # fmt: skip
    both = with_crm(ours, theirs)
    outcomes = both["outcome"].astype(object).where(both["outcome"].notna(), None)
    told = [
        (r.customer_id, str(r.on)[:10], r.state, outcome, str(r.until)[:10])
        for r, outcome in zip(both.itertuples(), outcomes, strict=True)
    ]
    assert told == [
        ("a", "2025-12-01", "done", "paid", "NaT"), ("a", "2025-12-10", "done", "other", "NaT"),
        ("b", "2025-12-20", "done", "refused", "NaT"), ("b", "2025-12-24", "snoozed", None, "2026-01-23"),
        ("b", "2025-12-26", "snoozed", None, "2025-12-29"),
    ]  # fmt: skip
    found = standing(both, np.array(["a", "b"], dtype=object), AS_OF, 60)
    assert list(found.state) == ["done", "done"], "b was put off to a day that has passed, but rests since the 20th"
    assert list(map(str, found.again_from)) == ["2026-02-08", "2026-02-18"]


def test_who_is_put_off_for_good_in_a_crm_is_put_off_as_long_as_a_date_can_say():
    both = with_crm(read_contacts(lines()), crm(("a", "2025-12-10", "snoozed", None, 2_912_000.0)))
    assert str(both["until"].item())[:10] == "2100-01-01"


def test_without_contacts_of_a_crm_the_lines_are_as_they_were():
    ours = read_contacts(lines(done("2025-12-01"), snoozed("2025-12-02", "2026-01-05")))
    pd.testing.assert_frame_equal(with_crm(ours, crm()), ours)
