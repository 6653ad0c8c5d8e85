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


def files_of(path: Path) -> list[Path]:
    """Return the policy's file and, where it names one as its `base`, the file beside it that it rests on."""
    base = _read(path).get("base")
    return [path] if base is None else [path, path.parent / Path(str(base)).name]


def _document(path: Path) -> dict[str, Any]:
    """Return the policy as plain data: its file's numbers, and its base's where it has none of its own."""
    document, *below = [_read(file) for file in files_of(path)]
    if not below:
        return document
    (base,) = below
    if "base" in base or not all(isinstance(each.get("policy"), dict) for each in (document, base)):
        must = "a file of the same folder that has no base; both with a mapping named `policy`"
        raise ConfigurationRefused(Problem(f"{path}: base", must, str(document["base"]), "Name such a file."))
    return document | {"policy": base["policy"] | document["policy"]}


def _read(path: Path) -> dict[str, Any]:
    """Return a file as plain data, or refuse it (exit code 4)."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigurationRefused(
            Problem("params.yaml: decide.policy", "a file", f"no {path}", "Name a file in data/policy.")
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationRefused(Problem(str(path), "YAML", type(error).__name__, "Mend the file.")) from None
    return document if isinstance(document, dict) else {}
