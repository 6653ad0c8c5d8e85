"""What one block of a mapping reads: its files, what could not be split into columns, and what their headers lack."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from features.errors import Problem
from features.expressions import Relation
from features.mapping import Block, Format
from features.staging import Staged
from features.tables import Contract
from pipeline.raw import RawFile, RawReader, repeated

TEXTS = ("csv", "jsonl", "arff")
UNQUOTED = "UNQUOTED VALUE"
REJECTS = {UNQUOTED: "quotation", "INVALID ENCODING": "encoding", "LINE SIZE OVER MAXIMUM": "length"}  # others: columns


class Reject(NamedTuple):
    """A line that does not split into the columns: its file's number, its row below the header, its text, the rule."""

    file: int
    line: int
    text: str
    rule: str


@dataclass
class Raw:
    """One reading of some files: its relation in the engine and the lines that could not be split into columns."""

    relation: Relation
    files: list[RawFile]  # those to read
    form: Format
    streamed: bool = False  # straight from text to staged rows, its text not held
    loaded: bool = False
    rows: int = 0
    rejected: list[Reject] = field(default_factory=list)


@dataclass
class Piece:
    """One compiled block (or one entry of its `repeat`): its number in the table, and what it reads."""

    table: str
    block: int
    number: int
    raw: Raw
    query: Staged
    joined: list[Raw]


def swallows(text: str, raw: Raw, columns: dict[str, str]) -> bool:
    """Tell whether a text that an open quotation holds together has lines that would be rows by themselves."""
    return any(line.count(raw.form.delimiter) == len(columns) - 1 for line in text.strip("\n").split("\n")[1:])


def headless(block: Block, raw: Raw) -> bool:
    """Tell whether what should be a csv file's header has no name that the block speaks of: a row of data, then."""
    said = block.model_dump_json(exclude={"files", "format"}).lower()
    return raw.form.type == "csv" and raw.form.header and not any(_named(said, column) for column in raw.relation.types)


def _named(said: str, column: str) -> bool:
    """Tell whether a text (JSON) has a name as a word; a number or a date is a name only in the quotes of SQL."""
    if not re.search(r"[^\W\d_]", column):
        return f'\\"{column.lower()}\\"' in said
    return bool(re.search(rf"(?<!\w){re.escape(column.lower())}(?!\w)", said))


def header_faults(reader: RawReader, contract: Contract, parts: list[Block], raw: Raw, new: set[str]) -> list[Problem]:
    """Return what new files' headers lack of what the table must have, and which names there mean two columns.

    A column that no file has is a fault of the mapping, told elsewhere. What is made by an expression may come from one
    column here and from another there; a column's name alone may not.
    """
    required = [part.columns.get(column, "") for part in parts for column in contract.required()]
    bare = {sql.strip().removeprefix("row.").strip('"').lower() for sql in required}
    said = " ".join(part.model_dump_json(include={"columns", "attributes", "where"}).lower() for part in parts)
    problems = []
    for file in [file for file in raw.files if file.name in new]:
        names = list(reader.header(file, raw.form))
        have = {column.lower() for column in names}
        lost = [column for column in raw.relation.types if column.lower() in bare - have]
        if lost:
            found = f"a header with {', '.join(names[:20])}" if have & bare else "no such header"
            must = f"a file with the columns {', '.join(lost)}, as others of the block have"
            remedy = "Deliver it again, or give it a block of its own."
            problems.append(Problem(file.name, must, found, remedy, file=file.name, column=lost[0], rule="header"))
        twice = [column for column in sorted(repeated(file, raw.form)) if _speaks_of(said, column)]
        if twice:
            must = "a header in which each column that is mapped stands once"
            found = f"{', '.join(twice)} twice"
            problems.append(
                Problem(file.name, must, found, "Deliver it again.", file.name, column=twice[0], rule="header")
            )
    return problems


def _speaks_of(said: str, column: str) -> bool:
    """Tell whether a mapping's text names a column, and not by the number that tells repeated ones apart."""
    return _named(said, column) and not _named(said, f"{column}_1")
