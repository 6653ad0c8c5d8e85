"""Parameters: one frozen, typed section of params.yaml for each stage, with the chosen source's overrides laid over it.

`params.yaml` holds `source`, `as_of`, one section a stage (the defaults), and `sources.<name>.<section>`: what a source
overrides. A stage's own class stands in its module, so that editing one section's rules reruns one stage.
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from features.errors import ConfigurationRefused, Problem

PARAMS_FILE = Path("params.yaml")
STAGES = (
    "simulate", "ingest", "observe", "featurise", "select", "tune", "train", "calibrate",
    "evaluate", "promote", "score", "explain", "decide", "worklist", "monitor", "report", "publish",
)  # fmt: skip
TOP_LEVEL = ("source", "as_of", "language", "sources")
OVERRIDABLE = ("as_of", *(stage for stage in STAGES if stage != "simulate"))


def read_params() -> dict[str, Any]:
    """Return params.yaml as plain data, or refuse (exit code 4) what is no mapping or has unknown keys."""
    try:
        raw = copy.deepcopy(_parsed(PARAMS_FILE.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigurationRefused(
            Problem(
                str(PARAMS_FILE), "a file in the project's folder", "no such file", "Run from the project's folder."
            )
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)  # the error's own text quotes the file, which may hold a secret
        found = f"{getattr(error, 'problem', type(error).__name__)}{f' in line {mark.line + 1}' if mark else ''}"
        raise ConfigurationRefused(Problem(str(PARAMS_FILE), "YAML", found, "Mend the file.")) from None
    if not isinstance(raw, dict):
        raise ConfigurationRefused(
            Problem(str(PARAMS_FILE), "a mapping of sections", type(raw).__name__, "Restore it from git.")
        )
    problems = [
        Problem(
            f"params.yaml: {key}",
            f"one of {', '.join((*TOP_LEVEL, *STAGES))}",
            "an unknown key",
            "Remove or rename it.",
        )
        for key in raw
        if key not in (*TOP_LEVEL, *STAGES)
    ]
    source = raw.get("source")
    if not isinstance(source, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", source):
        problems.append(
            Problem(
                "params.yaml: source",
                "the name of a mapping in data/sources (letters, digits, _ and -)",
                repr(source),
                "Set `source:` to a name such as `simulated`.",
            )
        )
    sources = raw.get("sources") or {}
    if not isinstance(sources, dict):
        problems.append(
            Problem("params.yaml: sources", "a mapping of source names", type(sources).__name__, "Write `sources: {}`.")
        )
        sources = {}
    for name, override in sources.items():
        if override is not None and not isinstance(override, dict):
            problems.append(
                Problem(f"params.yaml: sources.{name}", "a mapping of sections", type(override).__name__, "Indent it.")
            )
            continue
        problems += [
            Problem(
                f"params.yaml: sources.{name}.{key}",
                f"one of {', '.join(OVERRIDABLE)}",
                "an unknown key",
                "Remove or rename it.",
            )
            for key in (override or {})
            if key not in OVERRIDABLE
        ]
    if problems:
        raise ConfigurationRefused(problems)
    return raw


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """Return what a text of YAML says: every section of a stage asks for the same file."""
    return yaml.safe_load(text)


def source_name() -> str:
    """Return the chosen source."""
    return str(read_params()["source"])


def overrides(source: str) -> dict[str, Any]:
    """Return what `source` overrides: section name (or as_of) -> values; empty where it overrides nothing."""
    return (read_params().get("sources") or {}).get(source) or {}


def resolved_as_of() -> str:
    """Return `latest` or an ISO date: the source's override, or else the top-level value."""
    value = overrides(source_name()).get("as_of", read_params().get("as_of", "latest"))
    if value != "latest" and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(value)):
        raise ConfigurationRefused(
            Problem("params.yaml: as_of", '`latest` or a quoted date such as "2026-01-01"', repr(value), "Correct it.")
        )
    return str(value)


def language() -> str:
    """Return the language of reasons and report: `en` or `zh`."""
    value = read_params().get("language", "en")
    if value not in ("en", "zh"):
        raise ConfigurationRefused(Problem("params.yaml: language", "en or zh", repr(value), "Correct it."))
    return str(value)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


class Part(BaseModel):
    """A nested group of parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(Part):
    """One stage's section of params.yaml."""

    section: ClassVar[str]

    @classmethod
    def load(cls, source: str | None = None) -> Self:
        """Read the section, lay the source's override over it and check it; refuse (exit code 4) all faults at once.

        `source` is the chosen one where it is not given.
        """
        name = source or source_name()
        values = read_params().get(cls.section) or {}
        override = overrides(name).get(cls.section) or {} if cls.section != "simulate" else {}
        if not isinstance(values, dict) or not isinstance(override, dict):
            raise ConfigurationRefused(
                Problem(f"params.yaml: {cls.section}", "a mapping of parameters", "a single value", "Indent its keys.")
            )
        try:
            return cls.model_validate(_merge(values, override))
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            problems = []
            for fault in error.errors():
                key = ".".join(str(part) for part in fault["loc"])
                unknown = fault["type"] == "extra_forbidden"
                must = f"one of {known}" if unknown else fault["msg"].removeprefix("Input should be ").lower()
                place = f"params.yaml: {cls.section}.{key}"
                if fault["loc"] and fault["loc"][0] in override:
                    place = f"params.yaml: sources.{name}.{cls.section}.{key}"
                found = "an unknown key" if unknown else repr(fault["input"])[:80]
                problems.append(Problem(place, must, found, "Correct or remove it."))
            raise ConfigurationRefused(problems) from None
