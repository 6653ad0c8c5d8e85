"""The ground on which faults are tried: a small shop with four tables, and a stage that ends as its process would."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from pipeline import ingest
from pipeline.stage import execute

RAW = Path("data/raw/shop")
MAPPING = """
name: shop
currency: EUR
tables:
  customers:
    files: "people*"
    columns: {customer_id: id, opened_on: since, segment: kind}
  credits:
    files: "loans*"
    columns: {credit_id: loan, customer_id: id, principal: lent, opened_on: since}
  statements:
    files: "states*"
    columns: {credit_id: loan, stated_on: day, balance: owed, days_past_due: late}
  transactions:
    files: "moves*"
    format: FORM
    columns: {transaction_id: no, customer_id: id, event_on: day, amount: value, known_on: seen}
"""
HEAD = "no,id,day,value,seen"
CUSTOMERS = [f"Kundin{n:03d}" for n in range(20)]
COUNT = 300  # rows of transactions: one is below the limit of half a percent, two are above


@dataclass(frozen=True)
class Ended:
    """How a stage ended: exit code, what it printed, and the record for `run`."""

    code: int
    out: str
    err: str
    record: dict[str, Any] | None

    @property
    def said(self) -> str:
        return self.out + self.err + json.dumps(self.record or {}, ensure_ascii=False)


def ended(stage: str, main: Callable[[], None], record: Path) -> Ended:
    """Run a stage's `main` as its process does; an error that is no refusal comes through: that is exit code 1."""
    record.unlink(missing_ok=True)
    out, err = io.StringIO(), io.StringIO()
    code = -1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            execute(stage, main)
        except SystemExit as end:
            code = int(end.code or 0)
    told = json.loads(record.read_text()) if record.exists() else None
    return Ended(code, out.getvalue(), err.getvalue(), told)


def tree(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of every file below a folder, links as what they point to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass
class Shop:
    """A project folder with one source, whose files are sound until a test breaks them."""

    folder: Path
    scratch: Path
    record: Path
    draw: random.Random
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for inner in ("data/raw/shop", "data/sources", "data/publish/versions/old"):
            (self.folder / inner).mkdir(parents=True)
        (self.folder / "params.yaml").write_text("source: shop\nas_of: latest\n")
        (self.folder / "data/publish/versions/old/scored_customers.csv").write_text("what was published before\n")
        (self.folder / "data/publish/current").symlink_to("versions/old")
        self.published = tree(self.folder / "data/publish")
        self.mapped()
        start = dt.date(2021, 1, 1)
        for number in range(COUNT):
            day = start + dt.timedelta(days=self.draw.randrange(330))
            amount = f"{self.draw.randrange(-900_000, 900_000) / 100:.2f}"
            self.lines.append(f"t{number:05d},{self.draw.choice(CUSTOMERS)},{day},{amount},{day}")
        kinds = ["retail", "farm"]
        self.put(
            "people.csv", "id,since,kind\n" + "".join(f"{c},2020-01-01,{self.draw.choice(kinds)}\n" for c in CUSTOMERS)
        )
        self.put("loans.csv", "loan,id,lent,since\n" + "".join(f"L{c},{c},1000.00,2020-01-01\n" for c in CUSTOMERS))
        self.put("states.csv", "loan,day,owed,late\n" + "".join(f"L{c},2021-01-31,90.00,0\n" for c in CUSTOMERS))
        self.moves()

    def mapped(self, form: str = "{type: csv}", change: Callable[[str], str] = lambda text: text) -> None:
        """Write the mapping, with the format of the transactions' file."""
        (self.folder / "data/sources/shop.yaml").write_text(change(MAPPING.replace("FORM", form)))

    def put(self, name: str, data: str | bytes) -> Path:
        """Write a raw file."""
        path = self.folder / RAW / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def drop(self, name: str) -> None:
        """Take a raw file away."""
        (self.folder / RAW / name).unlink()

    def text(self, extra: list[str] | None = None) -> str:
        """Return the transactions' file, with more rows at its end."""
        return "\n".join([HEAD, *self.lines, *(extra or [])]) + "\n"

    def moves(self, extra: list[str] | None = None) -> None:
        """Write the transactions' file."""
        self.put("moves.csv", self.text(extra))

    def manifest(self, folder: str = "", **facts: Any) -> None:
        """Write a manifest beside the files; `files` is name -> what is stated of it."""
        self.put(f"{folder}manifest.json", json.dumps(facts))

    def ingest(self) -> Ended:
        """Run the stage."""
        found = ended("ingest", ingest.main, self.record)
        assert not list(self.scratch.iterdir()), "litter in the scratch folder"
        assert tree(self.folder / "data/publish") == self.published, "what is published changed"
        return found

    def accepted(self) -> Ended:
        """Ingest, which must end with 0 and account for every row and every cent."""
        found = self.ingest()
        assert found.code == 0, found.said
        self.balanced()
        return found

    def refused(self, code: int, *words: str, secret: str = "") -> Ended:
        """Ingest, which must end with `code`, a sentence and a record that say `words` and repeat no customer's value."""
        found = self.ingest()
        assert found.code == code, found.said
        assert found.record
        assert found.record["exit_code"] == code
        for problem in found.record["problems"]:
            assert all(problem[part] for part in ("where", "must_be", "found", "remedy")), problem
        for word in words:
            assert re.search(word, found.err), (word, found.err)
        for hidden in (*CUSTOMERS, *([secret] if secret else [])):
            assert hidden not in found.said, (hidden, found.said)
        assert "Traceback" not in found.err
        assert not (self.folder / "data/ingest/ledger.json").exists(), "a refused delivery counts as ingested"
        return found

    def balanced(self) -> None:
        """Check that rows read are rows kept, quarantined, repeated, replaced or left out, and money alike."""
        quality = json.loads((self.folder / "data/ingest/quality.json").read_text())["tables"]
        for table, account in quality.items():
            for block in account["blocks"]:
                parts = ("kept", "quarantined", "deduplicated", "left_out")
                assert block["read"] == sum(block[part] for part in parts) + block["replaced"] * 0, table
                for total in block["totals"].values():
                    cents = {part: round(float(value) * 100) for part, value in total.items()}
                    assert cents["read"] == sum(cents[part] for part in parts), table

    def account(self, table: str = "transactions") -> dict[str, Any]:
        """Return the account of a table."""
        return dict(json.loads((self.folder / "data/ingest/quality.json").read_text())["tables"][table])

    def quarantined(self, table: str = "transactions") -> list[tuple]:
        """Return (file, line, rules, original) of what was kept out."""
        path = self.folder / f"data/ingest/quarantine/{table}.parquet"
        return duckdb.execute(f"SELECT file, line, rules, original FROM '{path}' ORDER BY file, line").fetchall()

    def kept(self, columns: str = "*", table: str = "transactions") -> list[tuple]:
        """Return the rows that were kept, in order."""
        parts = f"read_parquet('{self.folder}/data/ingest/tables/{table}/*/part.parquet', hive_partitioning = false)"
        return duckdb.execute(f"SELECT {columns} FROM {parts} ORDER BY ALL").fetchall()

    def tables(self) -> dict[str, str]:
        """Return what stands in data/ingest/tables, by hash."""
        return tree(self.folder / "data/ingest/tables")


CANARY = "CANARY-"
WORDS = ("Kanarie-Wort-A", "Kanarie-Wort-B")
QUICK = {
    "source": "flat", "tune": {"trials": 2, "max_rounds": 30, "repeats": 1}, "train": {"seeds": 1},
    "evaluate": {"folds": 2, "repeats": 1}, "explain": {"refits": 2, "tried_customers": 50},
}  # fmt: skip
FLAT = """name: flat
currency: EUR
as_of: 2024-01-01
tables:
  observations:
    files: applicants.csv
    columns: {customer_id: id, outcome: bad}
    attributes: {numeric: {debt: debt, age: age}, categorical: {word: word}}
"""


def lay_out_flat(folder: Path, draw: random.Random, rows: int = 400) -> None:
    """Write a source of one flat file whose identifiers and words are canaries."""
    import math

    lines = ["id,debt,age,word,bad"]
    for number in range(rows):
        debt = draw.gammavariate(2, 1)
        bad = int(draw.random() < 1 / (1 + math.exp(2.2 - debt)))
        lines.append(f"{CANARY}{number:05d},{debt:.3f},{draw.randint(20, 70)},{draw.choice(WORDS)},{bad}")
    (folder / "data/raw/flat").mkdir(parents=True)
    (folder / "data/raw/flat/applicants.csv").write_text("\n".join(lines) + "\n")
    (folder / "data/sources/flat.yaml").write_text(FLAT)
