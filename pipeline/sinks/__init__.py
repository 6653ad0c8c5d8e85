"""What the commands ask of a sink: does it hold what is published, and if not, bring it there.

The stage `publish` writes it too; a sink that was away then, or lost its table since, is served by the next `run`.
"""

from __future__ import annotations

from features.errors import Refusal
from pipeline import postgres, versions
from pipeline.publish import Params


def _stated() -> tuple[postgres.Sink | None, Params]:
    """Return the sink of the chosen source, or None, and the section that states it."""
    params = Params.load()
    return postgres.sink(params.postgres, params.postgres_table), params


def check() -> None:
    """Refuse (exit code 4) a sink whose variable is not set."""
    _stated()


def follow() -> None:
    """Let the sink hold what is current and say so; where it does already nothing is written."""
    to, params = _stated()
    if to is not None and versions.current_manifest() is not None:
        done = postgres.bring(to, versions.CURRENT.resolve(), allow_earlier_as_of=params.allow_earlier_as_of)
        print(f"run: {done}", flush=True)


def print_status() -> None:
    """Print whether the sink holds what is current; what keeps it from being asked is said, not refused."""
    try:
        to, _ = _stated()
    except Refusal as refusal:
        print(f"not known what the sink holds: {refusal}")
        return
    if to is not None:
        print(postgres.describe(to, versions.current_manifest()))


def verify() -> None:
    """Compare the sink with what is current, value for value; refuse (exit code 7 or 8) what differs or is away."""
    to, _ = _stated()
    if to is not None and versions.current_manifest() is not None:
        print(f"verify: {postgres.verify(to, versions.CURRENT.resolve())}")
