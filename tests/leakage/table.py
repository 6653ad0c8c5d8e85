"""Print a table of all planted leaks: kind, what caught it, change of AUC. `PYTHONPATH=. python tests/leakage/table.py`.

The AUC is out of fold, by customer, of a small fixed LightGBM over the features of the leak's subjects alone, with and
without the leak, on a larger simulated lender (or Berka); leaks of labels and of fitting change no feature.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from batteries import SILENT, alarms, with_outcomes
from building import build
from fitting import CHECKS as FITTING
from fitting import FITTING_LEAKS
from labelling import CHECKS as LABELLING
from labelling import LABEL_LEAKS
from lenders import ROOT, Case, real, simulated
from planted import LEAKS, Leak

from models import metrics
from models.splits import grouped_folds_of

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
            [*SILENT, "d shifted"],
            leak.subjects,
            panel=leak.panel,
        )
        return ", ".join(name[0] for name in found), auc(large, leak.subjects, panel=leak.panel) - clean[key]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        names = ("small", "large", "berka")
        for name in names:
            (here / name).mkdir()
        sim = with_outcomes(simulated(here / "small", 3))
        large = simulated(here / "large", 3, 1200, 36)
        berka = with_outcomes(real(here / "berka", "berka", REAL))
        print("| leak | kind | caught by | AUC change |\n|---|---|---|---|")
        clean: dict[object, float] = {}
        for leak in LEAKS:
            small, big = (sim, large) if leak.source == "simulated" else (berka, berka)
            caught, change = of_features(leak, small, big, clean)
            print(f"| {leak.name} | {leak.kind} | {caught or 'NOT CAUGHT'} | {change:+.3f} |", flush=True)
        for checks, leaks in ((LABELLING, LABEL_LEAKS), (FITTING, FITTING_LEAKS)):
            for name, kind, plant, _ in leaks:
                with pytest.MonkeyPatch.context() as patch:
                    plant(patch)
                    caught = ", ".join(check for check, clear in checks.items() if not clear())
                print(f"| {name} | {kind} | {caught or 'NOT CAUGHT'} | |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
