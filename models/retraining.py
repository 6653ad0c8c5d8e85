"""Whether a run proposes to retrain: what the checks of drift and of decline found, and what it would move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Drift: scores, features, the default rate or AUC to expect moved; customers lie outside what the model has seen.
# Decline: ranking got worse, PDs of matured rows were off, in all or by grade.
DRIFT = ("M003", "M011", "M013", "M019", "M020")
DECLINE = ("M007", "M012", "M017", "M018")


def proposal(checks: Sequence[Mapping[str, Any]], *, until: str | None, as_of: str | None) -> dict[str, Any]:
    """Return whether to retrain, why, and what `python -m pipeline retrain` would move.

    checks: records of `models.checks.run_checks`. until, as_of: ISO dates where training ends and where the newest
    outcomes that are mature end; null where not known. Keys: proposed; because (code, severity and title in English and
    Chinese of each check of drift or decline that found something, in order of codes); until; newest;
    newer (false where training already ends at the newest mature outcomes, null where either date is not known).
    """
    because = [
        {key: check.get(key) for key in ("code", "severity", "title", "title_zh")}
        for check in sorted(checks, key=lambda check: str(check["code"]))
        if check["answer"] == "found" and check["code"] in (*DRIFT, *DECLINE)
    ]
    newer = None if until is None or as_of is None else until < as_of
    return {"proposed": bool(because), "because": because, "until": until, "newest": as_of, "newer": newer}


def told(proposed: Mapping[str, Any]) -> str:
    """Return the proposal as one clause of English, or nothing where none is made."""
    if not proposed["proposed"]:
        return ""
    why = ", ".join(f"{each['code']} {each['title']}" for each in proposed["because"])
    if proposed["newer"] is False:
        return (
            f"retrain proposed ({why}), though training already ends at the newest mature outcomes, {proposed['until']}"
        )
    moves = f" would move train.until from {proposed['until']} to {proposed['newest']}" if proposed["newer"] else ""
    return f"retrain proposed ({why}): `python -m pipeline retrain`{moves}"
