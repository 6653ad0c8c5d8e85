"""An error is one JSON record and one sentence: file, line, column, rule, count and remedy, and no customer's value."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fault_ground import CUSTOMERS, Shop

from pipeline import __main__ as command_line

fault = pytest.mark.fault
FIELDS = {"where", "must_be", "found", "remedy", "file", "line", "column", "rule", "count"}


def only(shop: Shop, code: int, *, secret: str = "") -> dict:
    """Refuse, and return the one broken rule, whose sentence is the only line on stderr."""
    found = shop.refused(code, secret=secret)
    assert found.record
    assert set(found.record) == {"stage", "exit_code", "problems"}
    assert found.record["stage"] == "ingest"
    problem = found.record["problems"][0]
    assert set(problem) == FIELDS
    assert len(found.err.splitlines()) == len(found.record["problems"])
    assert problem["remedy"] in found.err
    return dict(problem)


def told(problem: dict) -> dict:
    return {name: problem[name] for name in ("file", "line", "column", "rule", "count")}


@fault("D4", "C2")
@pytest.mark.sample
def test_rows_that_break_a_rule_name_file_line_column_rule_and_count(shop: Shop):
    """The first of the bad lines of the file; the counts are those of the rule that most rows broke."""
    bad = [f"x{n},{CUSTOMERS[n]},2021-02-30,1.00,2021-03-01" for n in range(5)]
    shop.moves([*bad, f"y1,{CUSTOMERS[1]},2021-03-01,geheim,2021-03-01"])
    problem = only(shop, 2, secret="geheim")
    assert told(problem) == {
        "file": "moves.csv",
        "line": 302,
        "column": "event_on",
        "rule": problem["rule"],
        "count": 5,
    }
    assert problem["rule"].endswith(":event_on")
    assert "line 302" in problem["found"]
    assert "x0" not in json.dumps(problem)


@fault("C2")
@pytest.mark.parametrize("line", [2, 57, 301])
def test_the_line_is_that_of_the_file_as_it_was_delivered(line: int, shop: Shop):
    shop.moves()
    lines = shop.text().splitlines()
    for at in range(line - 1, min(line + 4, len(lines))):
        cells = lines[at].split(",")
        lines[at] = ",".join([*cells[:3], "viel", cells[4]])
    lines += [f"z{n},{CUSTOMERS[1]},2021-03-01,viel,2021-03-01" for n in range(5)]
    shop.put("moves.csv", "\n".join(lines) + "\n")
    problem = only(shop, 2, secret="viel")
    assert (problem["file"], problem["line"], problem["column"]) == ("moves.csv", line, "amount")
    assert problem["count"] == sum("viel" in text for text in lines)


@fault("A8")
def test_a_quotation_left_open_names_the_line_where_it_begins(shop: Shop):
    lines = shop.text().splitlines()
    lines[100] = lines[100].replace(",Kundin", ',"Kundin')
    shop.put("moves.csv", "\n".join(lines) + "\n")
    problem = only(shop, 2)
    assert (problem["file"], problem["line"], problem["rule"]) == ("moves.csv", 101, "quotation")


@fault("A7", "A11")
@pytest.mark.parametrize("what", ["rows", "totals", "sha256", "delivered"])
def test_a_manifest_that_is_broken_names_file_and_rule(what: str, shop: Shop):
    stated = {"rows": {"rows": 299}, "totals": {"totals": {"value": "1.00"}}, "sha256": {"sha256": "0" * 64}}
    shop.manifest(files={"gone.csv" if what == "delivered" else "moves.csv": stated.get(what, {"rows": 1})})
    problem = only(shop, 7 if what == "sha256" else 2)
    assert problem["file"] == ("gone.csv" if what == "delivered" else "moves.csv")
    assert problem["rule"] == what
    assert problem["column"] == ("value" if what == "totals" else None)
    assert problem["count"] == (300 if what == "rows" else None)


@fault("A1", "A6")
@pytest.mark.parametrize(
    ("name", "data", "line"),
    [("moves.csv", b"no,id,day,value,seen\nt1,M\xfcller,2021-01-01,1.00,2021-01-01\n", 2), ("moves.csv.gz", b"\x1f\x8b\x08\x00cut", None)],
)  # fmt: skip
def test_bytes_that_cannot_be_read_name_the_file(name: str, data: bytes, line: int | None, shop: Shop):
    shop.drop("moves.csv")
    shop.put(name, data)
    problem = only(shop, 2, secret="ller")
    assert problem["file"].endswith(name)
    assert problem["line"] == line


@fault("F7")
def test_what_run_refuses_before_a_stage_is_a_record_too(shop: Shop, monkeypatch, capfd):
    """The same fields, in .run/failure.json, and as one line of JSON on stdout where that is asked for."""
    for name in ("dvc.yaml", ".dvc/config"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    with Path("params.yaml").open("a") as params:
        params.write("ingest: {max_quarantined_row_shares: 1}\n")
    monkeypatch.delenv("BELLWETHER_FAILURE_RECORD")
    monkeypatch.setattr(sys, "argv", ["pipeline", "run"])
    assert command_line.main(["run", "--log", "json"]) == 4
    record = json.loads(Path(".run/failure.json").read_text())
    assert (record["stage"], record["exit_code"]) == ("run", 4)
    assert set(record["problems"][0]) == FIELDS
    printed = capfd.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    (problem,) = [line for line in lines if line["record"] == "problem"]
    assert {name: problem[name] for name in FIELDS} == record["problems"][0]
    assert "max_quarantined_row_shares" in printed.err
    assert "Traceback" not in printed.err
