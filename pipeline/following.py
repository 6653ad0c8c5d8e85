"""Who is told of what `watch` published: the sink and the CRMs that were asked for, until each has been reached.

What is owed is noted before the first of them is asked and forgotten once all have answered, so that a service that was
away, or a kill, is made good by the next call of `watch`, be there a new delivery or not. A CRM that rejected rows, or
holds a customer twice (exit codes 2 and 4 of `sync`), has answered: its rows stand in its own table of rejections.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from features.errors import Problem, Refusal
from pipeline.stage import write_json

OWED = Path(".run/watch/owed.json")


def owed() -> tuple[str, ...] | None:
    """Return the CRMs that are to be synced yet, beside the sink; None where nothing is owed."""
    try:
        return tuple(json.loads(OWED.read_text(encoding="utf-8"))["systems"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # the machine stopped while it was written
        return ()


def owe(systems: Iterable[str]) -> None:
    """Note that the sink and these CRMs, with those owed before, are to be told of what is current."""
    OWED.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = OWED.with_suffix(".new")
    write_json(new, {"systems": sorted({*systems, *(owed() or ())})})
    new.replace(OWED)


def follow() -> int:
    """Bring what is current to all that are owed; return the highest exit code, the files stand."""
    from pipeline import sinks
    from pipeline.sinks import sync

    code, reached = 0, True
    steps: list[Callable[[], Any]] = [sinks.follow]
    steps += [lambda system=system: sync.sync(system) for system in owed() or ()]
    for step in steps:
        try:
            code = max(code, step() or 0)
        except Refusal as refusal:
            complain(refusal.problems)
            code, reached = max(code, refusal.exit_code), False
    if reached:
        OWED.unlink(missing_ok=True)
    return code


def complain(problems: Iterable[Problem]) -> None:
    """Say on stderr why something was refused."""
    for problem in problems:
        print(f"watch: {problem.sentence()}", file=sys.stderr, flush=True)
