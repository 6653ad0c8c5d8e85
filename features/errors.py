"""The one form of every refusal: where, what must be, what was found, what to do; each class carries its exit code.

A refusal is raised with all broken rules together. Exit code 1 is never used here: it is only ever our own bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar


def plain(text: str) -> str:
    """Return text as one line for a log: what moves a cursor, ends a line or turns the writing round is spelt out."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


@dataclass(frozen=True)
class Problem:
    """One broken rule; no field ever holds a raw value of a customer.

    The last five say for a machine what the sentence says too, where it is known: the raw file, its line (counted from
    1), the column, the rule's name, and how many rows broke it.
    """

    where: str
    must_be: str
    found: str
    remedy: str
    file: str | None = None
    line: int | None = None
    column: str | None = None
    rule: str | None = None
    count: int | None = None

    def sentence(self) -> str:
        """Return the rule as one sentence for a person."""
        return plain(f"{self.where}: must be {self.must_be}; found {self.found}. {self.remedy}")

    def record(self) -> dict[str, str | int | None]:
        """Return the rule as a record for a machine; what is not known is null."""
        return asdict(self)


class Refusal(Exception):
    """The caller, the data or the machine must change something: not a bug of ours."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(problem.sentence() for problem in self.problems))


class DataRefused(Refusal):
    """Input data is missing, empty or breaks its contract."""

    exit_code = 2


class GateRefused(Refusal):
    """A gate, an audit or a leak check said no."""

    exit_code = 3


class ConfigurationRefused(Refusal):
    """Parameters, a mapping or the command line are wrong."""

    exit_code = 4


class ResourceRefused(Refusal):
    """Disk, memory or rights do not suffice."""

    exit_code = 5


class BusyRefused(Refusal):
    """Another run owns the workspace."""

    exit_code = 6


class IntegrityRefused(Refusal):
    """A hash differs, or an artifact cannot be what it claims to be."""

    exit_code = 7


class ServiceRefused(Refusal):
    """A service that the caller demanded (tracking in strict mode, a sink, a CRM) is not available."""

    exit_code = 8
