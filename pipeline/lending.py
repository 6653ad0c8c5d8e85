"""The lending policy's file: which one holds, and its numbers on a date."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import ClassVar

import yaml

from features.errors import ConfigurationRefused, Problem
from models import policy
from pipeline.params import Section


class Params(Section):
    """Section `decide`: which policy holds; its numbers stand in its file."""

    section: ClassVar[str] = "decide"
    policy: str = "data/policy/standard.yaml"


def read_policy(path: Path, as_of: dt.date) -> policy.Policy:
    """Return the numbers in force on `as_of`, or refuse the file (exit code 4)."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationRefused(
            Problem("params.yaml: decide.policy", "a file", f"no {path}", "Name a file in data/policy.")
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationRefused(Problem(str(path), "YAML", type(error).__name__, "Mend the file.")) from None
    return policy.Policy.at(document if isinstance(document, dict) else {}, as_of)
