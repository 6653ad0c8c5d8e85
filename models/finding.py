"""What a check is: a question with a code, a title, a severity, and three answers: found, clear, not applicable.

The questions themselves stand in `checks`. Limits are parameters; null switches one off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

Figures = Mapping[str, Any]
SEVERITIES = ("stop", "warn", "note")


class Frozen(BaseModel):
    """Parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Band(Frozen):
    """Two limits of one figure; null switches one off."""

    warn: float | None = None
    stop: float | None = None

    def above(self, value: float) -> str | None:
        """Return the severity of a figure that should be small."""
        return self._first(lambda limit: value > limit)

    def below(self, value: float) -> str | None:
        """Return the severity of a figure that should be large."""
        return self._first(lambda limit: value < limit)

    def _first(self, broken: Callable[[float], bool]) -> str | None:
        """Return stop, warn or null, the graver first."""
        for severity, limit in (("stop", self.stop), ("warn", self.warn)):
            if limit is not None and broken(limit):
                return severity
        return None


@dataclass(frozen=True)
class Answer:
    """What a check saw: severity null means clear."""

    severity: str | None
    text: str
    text_zh: str
    figures: dict[str, Any] = field(default_factory=dict)


class NotApplicable(Exception):
    """The figures that the check needs are not there."""

    def __init__(self, text: str, text_zh: str) -> None:
        super().__init__(text)
        self.text, self.text_zh = text, text_zh


@dataclass(frozen=True)
class Check:
    """One question, asked of every run."""

    code: str
    title: str
    title_zh: str
    severity: str  # the gravest that it can answer with
    look: Callable[[Figures, Any], Answer]

    def result(self, figures: Figures, limits: Any) -> dict[str, Any]:
        """Return the check's record: code, title, severity, answer, explanation (both languages), figures."""
        record: dict[str, Any] = {"code": self.code, "title": self.title, "title_zh": self.title_zh}
        try:
            seen = self.look(figures, limits)
        except NotApplicable as reason:
            return {
                **record,
                "severity": self.severity,
                "answer": "not applicable",
                "explanation": reason.text,
                "explanation_zh": reason.text_zh,
                "figures": {},
            }
        return {
            **record,
            "severity": seen.severity or self.severity,
            "answer": "found" if seen.severity else "clear",
            "explanation": seen.text,
            "explanation_zh": seen.text_zh,
            "figures": seen.figures,
        }


def need(figures: Figures, *path: str, text: str, zh: str) -> Any:
    """Return the figure at `path`, or answer `not applicable`."""
    value: Any = figures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None or value in ([], {}):
        raise NotApplicable(text, zh)
    return value


def registering(checks: list[Check]) -> Callable[..., Callable[[Callable[[Figures, Any], Answer]], Check]]:
    """Return a decorator (code, title, title_zh, severity) that makes a function a check and adds it to `checks`."""

    def check(
        code: str, title: str, title_zh: str, severity: str = "stop"
    ) -> Callable[[Callable[[Figures, Any], Answer]], Check]:
        def register(look: Callable[[Figures, Any], Answer]) -> Check:
            made = Check(code, title, title_zh, severity, look)
            checks.append(made)
            return made

        return register

    return check
