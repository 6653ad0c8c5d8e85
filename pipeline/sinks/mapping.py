"""data/crm/<system>.yaml: which published column goes to which field of which object, and which field is the key.

Secrets are never here: each connector reads them from the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from features.errors import ConfigurationRefused, Problem
from models.contacts import OUTCOMES, STATES
from pipeline.params import Part
from pipeline.sinks.interface import Kind

FOLDER = Path("data/crm")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
Column = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Constant = Annotated[str, StringConstraints(pattern=r"^\$?[A-Za-z][A-Za-z0-9_]{0,99}$")]
M = TypeVar("M", bound=BaseModel)


class Mapped(Part):
    """A field: what it takes and, where it has to be made, what it is called on the screen."""

    column: Column
    kind: Kind = "text"
    digits: int = Field(default=2, ge=0, le=9)  # of a number
    values: dict[str, str] = Field(default_factory=dict)  # of a choice: what we say -> what the tenant's option is
    label: Annotated[str, StringConstraints(max_length=25)] | None = None  # null: the name with blanks
    length: int = Field(default=255, ge=1, le=32000)  # of a text that has to be made


class Key(Part):
    """The customer's key, here and there."""

    column: Column = "customer_id"
    field: Name
    label: Annotated[str, StringConstraints(max_length=25)] | None = None


class Read(Part):
    """A field that is read: of a lookup, an owner or a list the `part` of its first entry."""

    field: Name
    part: Name = "name"
    kind: Literal["text", "number", "date"] = "text"
    scale: float = Field(default=1, gt=0, allow_inf_nan=False)  # a number is multiplied by it: 0.01 for percent
    values: dict[str, str] = Field(default_factory=dict)  # what the tenant's option is -> what it means here


class Contacts(Part):
    """Where contacts are kept: tasks, calls or an object of the tenant's own, each about an account."""

    object: Name
    account: Read  # a lookup whose value is the account's identifier
    modified: Name
    state: Read
    outcome: Read | None = None
    on: Read | None = None  # null: the day on which the record was modified
    until: Read | None = None  # of what is snoozed
    channel: Read | None = None

    @model_validator(mode="after")
    def _known(self) -> Contacts:
        for read, known in ((self.state, STATES), (self.outcome, OUTCOMES)):
            strange = sorted({*(read.values.values() if read else ())} - {*known})
            if strange:
                raise ValueError(f"values stand for one of {', '.join(known)}, not for {', '.join(strange)}")
        return self


class Pull(Part):
    """What is read back of the accounts (`object`, by its `key`), their standing and the contacts."""

    overlap_minutes: int = Field(default=60, ge=1)  # read again before the last pull: longer than a pull takes
    find_deleted: bool = True  # by listing every identifier; one call per 200 records (Zoho) or 100 (Fxiaoke)
    modified: Name
    accounts: dict[Column, Read] = Field(min_length=1)
    standings: dict[Literal["market_share", "brand", "product_uniqueness", "relationship"], Read] = Field(
        default_factory=dict
    )
    contacts: Contacts | None = None

    @model_validator(mode="after")
    def _free(self) -> Pull:
        taken = {*self.accounts} & {"customer_id", "record_id", "known_on"}
        if taken:
            raise ValueError(f"columns that a delivery has already: {', '.join(sorted(taken))}")
        return self


class Tasks(Part):
    """Tasks made of the open rows of the worklist, each once: an object with a unique key and a lookup to accounts."""

    always: bool = False  # true: with every sync; false: with `--tasks`
    object: Name
    key: Key
    account: Name  # the lookup
    fields: dict[Name, Mapped] = Field(default_factory=dict)
    when_created: dict[Name, Mapped] = Field(default_factory=dict)
    constants: dict[Constant, str] = Field(
        default_factory=dict
    )  # sent where the task has to be made: a status, or what kind of record the lookup leads to


class Mapping(Part):
    """One mapping file."""

    object: Name
    key: Key
    fields: dict[Name, Mapped] = Field(min_length=1)
    when_created: dict[Name, Mapped] = Field(default_factory=dict)  # sent only where the customer has no record yet
    constants: dict[Constant, str] = Field(default_factory=dict)  # sent with what has to be made
    create: bool = True  # false: customers without a record are left out, and counted
    retry_seconds: float = Field(default=300, ge=0)  # how long one batch is tried again
    settle_seconds: float = Field(default=5, ge=0)  # how long a record that was asked for may take to be found there
    service: dict[str, Any] = Field(default_factory=dict)
    pull: Pull | None = None
    tasks: Tasks | None = None

    @model_validator(mode="after")
    def _once(self) -> Mapping:
        twice = {self.key.field, *self.fields} & ({*self.when_created} | ({self.key.field} & {*self.fields}))
        if twice:
            raise ValueError(f"a field stands twice: {', '.join(sorted(twice))}")
        return self


def checked(model: type[M], values: Any, where: str) -> M:
    """Return the values as a model, or refuse (exit code 4) all that is wrong without repeating a value."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationRefused(
            Problem(
                ".".join([where, *map(str, fault["loc"])]),
                fault["msg"]
                if fault["type"] != "extra_forbidden"
                else "one of the keys of the shipped mapping"
                if len(fault["loc"]) > 1
                else f"one of {', '.join(model.model_fields)}",
                "an unknown key" if fault["type"] == "extra_forbidden" else fault["type"],
                "Correct or remove it.",
            )
            for fault in error.errors()
        ) from None


def load(path: Path) -> Mapping:
    """Read a mapping; refuse (exit code 4) a missing or wrong one."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationRefused(
            Problem(str(path), "a mapping", "no such file", f"Write it as those in {FOLDER}.")
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationRefused(Problem(str(path), "YAML", type(error).__name__, "Mend the file.")) from None
    return checked(Mapping, raw, str(path))
