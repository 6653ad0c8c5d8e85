"""Write LEAKS.md, a table of all planted leaks: kind, which proofs caught it, what it moved. `make leak-table`.

Of a leak in features only the proof meant for it is tried, all with --every-proof.

A leak in features: the change of the out-of-fold AUC, by customer, of a small fixed LightGBM over the features of the
leak's subjects alone, on a larger simulated lender (or Berka). In what is fitted: the change of the out-of-fold AUC of
the checked model. In labels: how many (customer, date) are judged otherwise.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from batteries import SILENT, alarms, with_outcomes
from building import build
from fitting import CATALOGUE, FITTING_LEAKS, WITH_RECORDS, frame_of, model_by_time, with_records
from fitting import CHECKS as FITTING
from labelling import CHECKS as LABELLING
from labelling import CUT, DATES, LABEL_LEAKS, Judged, judged, kinds
from lenders import ROOT, Case, real, simulated
from planted import LEAKS, Leak

from models import metrics
from models.splits import grouped_folds_of

EVERY_PROOF = "--every-proof" in sys.argv  # else the one that is meant for it: a fifth of the time
TABLE = Path(__file__).with_name("LEAKS.md")
REAL = Path(os.environ.get("BELLWETHER_REALDATA", ROOT.parent / "shared" / "realdata")).resolve()


def auc(case: Case, subjects: frozenset[str], *, panel: bool) -> float:
    """Return the out-of-fold AUC of these subjects' numeric features on the case's known outcomes."""
    import lightgbm

    outcomes = case.outcomes.sort_by([("as_of", "ascending"), ("customer_id", "ascending")])
    built = build(
        replace(case, observed=outcomes.select(["customer_id", "as_of"]), as_of=pc.max(outcomes["as_of"]).as_py()),
        subjects,
    )
    names = [name for name in built.features if "double" in str(built.rows.schema.field(name).type)]
    matrix = np.column_stack([built.rows[name].to_numpy() for name in names])
    outcome, customer = outcomes["outcome"].to_numpy(), np.array(outcomes["customer_id"].to_pylist(), dtype=object)
    fold = grouped_folds_of(customer, outcome, 5, 1)
    score = np.empty(len(outcome))
    fixed = {"objective": "binary", "num_leaves": 8, "learning_rate": 0.05, "min_data_in_leaf": 20, "seed": 1,
             "deterministic": True, "force_row_wise": True, "num_threads": 2, "verbose": -1}  # fmt: skip
    for number in range(5):
        data = lightgbm.Dataset(matrix[fold != number], outcome[fold != number])
        score[fold == number] = lightgbm.train(fixed, data, 80).predict(matrix[fold == number])
    return metrics.auc(outcome, score)


def of_features(leak: Leak, small: Case, large: Case, clean: dict[object, float]) -> tuple[str, float]:
    """Return the batteries that see a leak, and the change of AUC."""
    key = (leak.source, leak.subjects, leak.panel)
    if key not in clean:
        clean[key] = auc(large, leak.subjects, panel=leak.panel)
    with pytest.MonkeyPatch.context() as patch:
        leak.plant(patch)
        found = alarms(
            small,
            build(small, leak.subjects, panel=leak.panel),
            [*SILENT, "d shifted"] if EVERY_PROOF else [leak.first],
            leak.subjects,
            panel=leak.panel,
        )
        return ", ".join(name[0] for name in found), auc(large, leak.subjects, panel=leak.panel) - clean[key]


def fitted_auc(*, records: bool) -> float:
    """Return the out-of-fold AUC of the checked model, with or without records, over the rows that have a margin."""
    frame = with_records(frame_of()) if records else frame_of()
    made = model_by_time(frame, WITH_RECORDS if records else CATALOGUE)
    outcome = frame["outcome"].to_numpy()[(made.parts == "train").to_numpy()]
    known = ~np.isnan(made.margin)
    return metrics.auc(outcome[known], made.margin[known])


def labels() -> list[Judged]:
    """Return how every customer of the checked lenders is judged."""
    return [judged(tables, DATES, CUT) for tables in kinds().values()]


def otherwise(before: list[Judged], after: list[Judged]) -> int:
    """Count (customer, date) that are judged otherwise, or by one of the two alone."""
    return sum(one.get(key) != two.get(key) for one, two in zip(before, after, strict=True) for key in {*one, *two})


def seen(clear: Callable[[], bool]) -> bool:
    """Return whether a check objects; one that the leak leaves nothing to work on does not."""
    try:
        return not clear()
    except (ValueError, IndexError):
        return False


HEAD = """# Planted leaks, and what caught them

Written by `make leak-table` (tests/leakage/table.py); a test holds it to the list of planted leaks. Proofs: (a) deleted, (b)
noise, (c) shuffled, (d) shifted, (e) boundary, (f) outcomes, (h) asked: see batteries.py; the others are named in labelling.py
and fitting.py. Kinds as in Kapoor and Narayanan (2023).

| leak | kind | caught by | moved |
|---|---|---|---|
"""


def rows(here: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (leak, kind, proofs that caught it, what it moved)."""
    for name in ("small", "large", "berka"):
        (here / name).mkdir()
    sim = with_outcomes(simulated(here / "small", 3))
    large = simulated(here / "large", 3, 700, 36)
    berka = with_outcomes(real(here / "berka", "berka", REAL))
    clean: dict[object, float] = {}
    judged_before, fitted_before = labels(), {records: fitted_auc(records=records) for records in (False, True)}
    for name, kind, plant, _ in LABEL_LEAKS:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            caught = ", ".join(check for check, clear in LABELLING.items() if not clear())
            yield name, kind, caught, f"{otherwise(judged_before, labels()):,} labels"
    for name, kind, plant, first in FITTING_LEAKS:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch)
            caught = ", ".join(check for check, clear in FITTING.items() if seen(clear))
            try:
                records = "records" in first
                moved = f"AUC {fitted_auc(records=records) - fitted_before[records]:+.3f}"
            except (ValueError, IndexError):
                moved = "other rows"  # the leak adds rows, so the two cannot be compared
            yield name, kind, caught, moved
    for leak in LEAKS:
        small, big = (sim, large) if leak.source == "simulated" else (berka, berka)
        caught, change = of_features(leak, small, big, clean)
        yield leak.name, leak.kind, caught, f"AUC {change:+.3f}"


def main() -> None:
    """Write the table row by row, and say the same."""
    with tempfile.TemporaryDirectory() as folder, TABLE.open("w", encoding="utf-8") as stream:
        stream.write(HEAD)
        for name, kind, caught, moved in rows(Path(folder)):
            line = f"| {name} | {kind} | {caught or 'NOT CAUGHT'} | {moved} |"
            print(line, flush=True)
            stream.write(line + "\n")
            stream.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
