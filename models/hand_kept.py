"""Tables that people keep by hand: what is wrong in them is told by line, in one form."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.errors import Problem

LISTED = 10  # lines that a problem names


def problem(file: str, wrong: pd.Series, where: str, must_be: str, found: str) -> Problem | None:
    """Return one problem that names up to ten lines of the file (the header is line 1), or None where none is wrong."""
    lines = (np.flatnonzero(wrong.to_numpy(dtype=bool)) + 2).tolist()
    if not lines:
        return None
    listed = ", ".join(map(str, lines[:LISTED])) + (f" and {len(lines) - LISTED} more" if len(lines) > LISTED else "")
    return Problem(f"{file}: {where}", must_be, f"{found} in line {listed}", "Correct the line.")
