"""data/crm/<system>.yaml: which published column goes to which field of which object, and which field is the key.

Secrets are never here: each connector reads them from the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from features.errors import ConfigurationRefused, Problem
from pipeline.params import Part
from pipeline.sinks.interface import Kind

FOLDER = Path("data/crm")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
Column = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
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


class Mapping(Part):
    """One mapping file."""

    object: Name
    key: Key
    fields: dict[Name, Mapped] = Field(min_length=1)
    when_created: dict[Name, Mapped] = Field(default_factory=dict)  # sent only where the customer has no record yet
    create: bool = True  # false: customers without a record are left out, and counted
    retry_seconds: float = Field(default=300, ge=0)  # how long one batch is tried again
    service: dict[str, Any] = Field(default_factory=dict)

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
                f"one of {', '.join(model.model_fields)}" if fault["type"] == "extra_forbidden" else fault["msg"],
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
