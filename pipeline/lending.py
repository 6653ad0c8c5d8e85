"""The lending policy's file: which one holds, and its numbers on a date."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, ClassVar

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
    return policy.Policy.at(_document(path), as_of)


def long_run_default_rate(path: Path, on: dt.date) -> float | None:
    """Return the policy's long-run default rate for a model whose training ends on a day; null: none is stated."""
    return policy.long_run_default_rate(_document(path), on)


def _document(path: Path) -> dict[str, Any]:
    """Return the policy's file as plain data, or refuse it (exit code 4)."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationRefused(
            Problem("params.yaml: decide.policy", "a file", f"no {path}", "Name a file in data/policy.")
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationRefused(Problem(str(path), "YAML", type(error).__name__, "Mend the file.")) from None
    return document if isinstance(document, dict) else {}
