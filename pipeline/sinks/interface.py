"""What a CRM must offer to be synchronised: one class a system keeps these promises, the engine (`sync`) does the rest.

A third system is a module here with a class like `zoho.Zoho`, its name in `sync.CONNECTORS`, and a mapping in data/crm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from pipeline.sinks.calls import Quota

Kind = Literal["text", "number", "integer", "choice", "date", "boolean", "lookup"]
TWO_RECORDS = "TWO_RECORDS"  # the code of a row whose key stands in several records
TRIES = 4  # of a row that the service says is held by others, before it goes to the rejected ones


@dataclass(frozen=True)
class Row:
    """What is sent of a customer: field -> value as the service takes it, null empties the field."""

    key: str
    digest: str
    values: dict[str, Any]
    made_with: dict[str, Any]  # sent too where the record has to be made
    record_id: str | None = None  # null: no record has the key

    def at(self, record_id: str | None) -> Self:
        """Return the row as one of a record that was found, or of none."""
        return replace(self, record_id=record_id)


@dataclass(frozen=True)
class Outcome:
    """What became of one row.

    done: the service said so of this row; rejected: it will not take it; again: not now; lost: no answer came, so that
    it may have been done or not. record_id is null too where the service does not say whose it is: it is looked up.
    """

    key: str
    state: Literal["done", "rejected", "again", "lost"]
    record_id: str | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class TenantField:
    """A field as the tenant has it; null: the service does not say."""

    name: str
    type: str
    length: int | None = None
    decimals: int | None = None
    unique: bool | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """A field as the mapping wants it."""

    name: str
    label: str
    kind: Kind
    digits: int = 0
    length: int = 255  # of a text
    unique: bool = False
    choices: tuple[str, ...] = ()

    def described(self) -> str:
        """Return what an administrator has to add."""
        more = {"text": f"up to {self.length} characters", "number": f"{self.digits} decimals",
                "choice": f"options {', '.join(self.choices)}"}.get(self.kind)  # fmt: skip
        parts = [f"{self.name} ({self.label}): {self.kind}", more, "no value twice" if self.unique else None]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Page:
    """Records as the service gave them, each with its identifier, and where the next ones begin (null: no more)."""

    records: list[tuple[str, dict[str, Any]]]
    after: str | None


class Lost(Exception):
    """The answer to a write was lost: it may have been done."""


class CursorGone(Exception):
    """The place at which reading should go on is no longer known there: it has to begin anew."""


class Connector(Protocol):
    """One system. Every method refuses with exit code 4 (credentials, rights, fields) or 8 (away, out of quota)."""

    types: dict[str, tuple[str, ...]]  # kind -> the tenant's types that can hold it
    rows_per_write: int
    keys_per_find: int
    quota: Quota

    def account(self) -> str:
        """Return what tells one tenant and object from another; never a secret."""

    def expression(self, kind: Kind, column: str, digits: int) -> str:
        """Return the SQL (DuckDB) of a column as the service takes it in JSON."""

    def day(self, value: str) -> str:
        """Return the SQL of the day of a point in time, given the SQL of its text: null where it is none."""

    def moment(self, value: str) -> str:
        """Return the SQL of a point in time in milliseconds since 1970, given the SQL of its text."""

    def gone(self, record: str) -> str:
        """Return the SQL that tells whether a record (JSON) is one that was given up there."""

    def fields(self, of: str | None = None) -> dict[str, TenantField]:
        """Return the fields of the object, or of another, by their names."""

    def page(self, of: str, names: Sequence[str], modified: str, since: int | None, after: str | None) -> Page:
        """Return a page of an object's records: all, or those modified since (milliseconds since 1970).

        modified: the field that says when. Raises CursorGone where `after` is no longer known.
        """

    def create_fields(self, wanted: Sequence[Wanted]) -> list[str]:
        """Make fields; return the sentences of what a person must do instead, none where all were made."""

    def find(self, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the records whose key is among `keys`: `id`, `key` and the fields named."""

    def write(self, rows: Sequence[Row]) -> Iterable[Outcome]:
        """Write rows, at most `rows_per_write`, and give what became of each as it is known; never deletes.

        What was given before a refusal is written, and is noted before the refusal goes on.
        """
