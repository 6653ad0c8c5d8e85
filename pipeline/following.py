"""Who is told of what `watch` published: the sink and the CRMs that were asked for, until each has been reached.

What is owed is noted before the first of them is asked, and each is forgotten once it has answered, so that a service
that was away, or a kill, is made good by the next call of `watch`, be there a new delivery or not. A CRM that rejected
rows, or holds a customer twice (exit codes 2 and 4 of `sync`), has answered: its rows stand in its own table of
rejections.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from features.errors import Problem, Refusal
from pipeline.inbox import Journal

OWED, SINK = Journal(Path(".run/watch/owed.json")), "sink"


def owed() -> list[str]:
    """Return who is to be told yet: the sink, and the CRMs that are to be synced."""
    return OWED.names()


def owe(systems: Iterable[str]) -> None:
    """Note that the sink and these CRMs, with those owed before, are to be told of what is current."""
    for each in (SINK, *systems):
        OWED.add(each)


def follow() -> int:
    """Bring what is current to all that are owed; return the highest exit code, the files stand."""
    from pipeline import sinks
    from pipeline.sinks import sync

    code = 0
    for each in owed():
        try:
            if each == SINK:
                sinks.follow()
            else:
                code = max(code, sync.sync(each))
            OWED.remove(each)
        except Refusal as refusal:
            complain(refusal.problems)
            code = max(code, refusal.exit_code)
    return code


def complain(problems: Iterable[Problem]) -> None:
    """Say on stderr why something was refused."""
    for problem in problems:
        print(f"watch: {problem.sentence()}", file=sys.stderr, flush=True)
