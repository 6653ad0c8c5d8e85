"""`python -m pipeline letter <customer_id>`: a letter and talking points from the published worklist; never sent by us.

Words stand in templates/letters, one file a text and language, for the lender to change. The letter holds nothing of
what the model says: no PD, grade, alert or reason; talking points do, and are for those who call.
"""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, DataRefused, Problem
from models.contacts import OUTCOMES
from pipeline import versions
from pipeline.stage import read_json

TEMPLATES = Path(__file__).parent / "templates/letters"
TEXTS = ("letter", "talking_points")


def written(text: str, tongue: str, row: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return a text of TEXTS in language `tongue` (en or zh) for one row of the worklist.

    facts: currency (null: unknown). A text of the data that holds line breaks is written in one line.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701
    )  # fmt: skip
    unit = f" {facts['currency']}" if facts.get("currency") else ""
    env.filters["money"] = lambda value: "–" if value is None else f"{Decimal(value):,.2f}{unit}"
    env.filters["pct"] = lambda value: "–" if value is None else f"{value:.1%}"
    one_line = {name: " ".join(value.split()) if isinstance(value, str) else value for name, value in row.items()}
    codes = [code for code in (row["ask_codes"] or "").split("; ") if code]
    return env.get_template(f"{text}.{tongue}.txt.j2").render(c=one_line, asks=codes, outcomes=OUTCOMES)


def row_of(customer: str, folder: Path) -> dict[str, Any]:
    """Return a customer's row of a version's worklist; refuse (exit code 4) no worklist, (2) a customer not on it."""
    file = folder / "worklist/worklist.parquet"
    if not file.is_file():
        raise ConfigurationRefused(
            Problem(str(file), "a published worklist", "none", "Publish one: `python -m pipeline run`.")
        )
    rows: list[dict[str, Any]] = pq.read_table(file, filters=[("customer_id", "=", customer)]).to_pylist()
    if not rows:
        raise DataRefused(
            Problem("letter", "a customer on the published worklist", "another", "See worklist.csv beside the table.")
        )
    return rows[0]


def write(customer: str, tongue: str, out: Path | None) -> int:
    """Print both texts for a customer, or write them as files into the folder `out`; return the exit code."""
    row = row_of(customer, versions.CURRENT)
    facts = read_json(versions.CURRENT / "worklist/summary.json")
    made = {text: written(text, tongue, row, facts) for text in TEXTS}
    if out is None:
        sys.stdout.write("\n".join(made.values()))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for text, words in made.items():
        (out / f"{text}.{tongue}.txt").write_text(words, encoding="utf-8")
    due = row["due_on"]
    print(f"letter: {len(made)} texts in {out}{f', to be done by {due}' if isinstance(due, dt.date) else ''}")
    return 0
