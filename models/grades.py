"""Points and grades: the two public faces of one probability of default.

Points are linear in log-odds: `base_score` where the odds good : bad are `base_odds`, `points_to_double` more each
time they double. A grade is a band of PD on a master scale, best first. Both depend on the PD alone, so a customer's
grade moves because its PD moved. Scaling as in N. Siddiqi, Credit Risk Scorecards (2006), chapter 6.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pandas import isna
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from features.errors import IntegrityRefused, Problem

PD_FLOOR = 1e-6  # log-odds need a PD inside (0, 1)
NO_GRADE = -1  # the notch of a null grade

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


class Scale(BaseModel):
    """A master scale: grade `names[i]` holds PDs from `bounds[i - 1]` (0 for the first) up to below `bounds[i]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9+-]{1,4}$")], ...] = (
        "A1", "A2", "B1", "B2", "C1", "C2", "D1", "D2", "E1", "E2",
    )  # fmt: skip
    bounds: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02, 0.035, 0.06, 0.10, 0.18, 0.30, 1.0)
    base_score: float = 600.0  # points
    base_odds: Annotated[float, Field(gt=0)] = 50.0  # good : bad
    points_to_double: Annotated[float, Field(gt=0)] = 20.0  # points

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        if not self.names or len(self.names) != len(self.bounds):
            raise ValueError(f"one upper bound a grade, got {len(self.names)} names and {len(self.bounds)} bounds")
        if len(set(self.names)) != len(self.names):
            raise ValueError("grade names that differ")
        if any(low >= high for low, high in zip((0.0, *self.bounds), self.bounds, strict=False)):
            raise ValueError("bounds that rise from above 0")
        if self.bounds[-1] != 1.0:
            raise ValueError(f"a last bound of 1.0, got {self.bounds[-1]}")
        return self

    @property
    def points_a_unit(self) -> float:
        """Return the points that one unit of log-odds is worth."""
        return self.points_to_double / math.log(2.0)

    def grade(self, pd: npt.ArrayLike) -> Objects:
        """Return the grade of each PD.

        pd: probabilities, shape (n,). Returns text, shape (n,). A PD on a bound belongs to the worse grade.
        Errors: ValueError where a PD is missing or outside [0, 1].
        """
        place = np.searchsorted(np.asarray(self.bounds[:-1]), _probabilities(pd), side="right")
        return np.asarray(self.names, dtype=object)[place]

    def score(self, pd: npt.ArrayLike) -> Integers:
        """Return the points of each PD; higher is better.

        pd: probabilities, shape (n,), taken as at least 1e-6 and at most 1 - 1e-6. Returns whole points, shape (n,).
        Errors: ValueError where a PD is missing or outside [0, 1].
        """
        safe = np.clip(_probabilities(pd), PD_FLOOR, 1 - PD_FLOOR)
        log_odds_good = np.log1p(-safe) - np.log(safe)
        points = self.base_score + self.points_a_unit * (log_odds_good - math.log(self.base_odds))
        return np.rint(points).astype(np.int64)

    def notches(self, grade: npt.ArrayLike) -> Integers:
        """Return each grade's place on the scale, 0 for the best.

        grade: names or nulls, shape (n,). Returns whole numbers, shape (n,); -1 for a null. A notch is one place.
        Errors: ValueError where a grade is not on the scale (a grade of another scale has no place here).
        """
        names = np.asarray(grade, dtype=object)
        place = np.full(names.shape, NO_GRADE - 1, dtype=np.int64)
        for index, name in enumerate(self.names):
            place[names == name] = index
        others = int((~isna(names[place < NO_GRADE])).sum())
        if others:
            raise ValueError(f"grade must be one of {', '.join(self.names)}; got {others} others.")
        place[place < NO_GRADE] = NO_GRADE
        return place

    def to_json(self) -> str:
        """Return the scale as JSON text: same scale, same bytes."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the scale written by `to_json`; what cannot be one is refused with exit code 7."""
        try:
            return cls.model_validate_json(text.decode(errors="replace") if isinstance(text, bytes) else text)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'scale'}: {e['msg']}" for e in error.errors())
            raise IntegrityRefused(
                Problem("grades.json", "a master scale", found[:200], "Restore the bundle, or train again.")
            ) from None


def _probabilities(pd: npt.ArrayLike) -> Floats:
    """Return `pd` as doubles after the check that each lies in [0, 1]."""
    values = np.asarray(pd, dtype=np.float64)
    wrong = int((~((values >= 0) & (values <= 1))).sum())
    if wrong:
        raise ValueError(f"pd must be a probability in [0, 1]; got {wrong} values outside or missing.")
    return values
