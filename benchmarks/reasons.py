"""Reasons of 100,000 customers against pred_contrib, shap and woodelf, and of 1,000,000 in one go.

`python -m benchmarks.reasons [--customers 100000] [--large 1000000] [--rounds 3]` trains 500 trees of 31 leaves on 200
features (a tenth of the cells missing), checks that all who explain give the same values, and only then prints times on
two threads: the best of the rounds and all of them. The last line is JSON.

- kernel: models/treeshap.py, compiled before its clock starts (once a machine, kept in __pycache__; said as well)
- pred_contrib, shap: on `--peer` of the rows, their seconds multiplied up to all (they take each row by itself).
  shap.TreeExplainer hands LightGBM's trees to pred_contrib
- woodelf: WoodelfExplainer on all rows, since it gains by many
- end to end: features read from Parquet, sorted, explained, four reasons ranked, told in words and written, by
  `explain.run`; against pred_contrib plus nothing
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models import estimator
from models.calibration import Calibrator
from models.encoders import Encoders
from models.grades import Scale
from models.inputs import inputs_from_catalogue
from models.treeshap import Forest

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
TRAINED = 20_000  # rows that the model is trained on
REFERENCE = 2000  # rows that reasons are held against
AT_A_TIME = 50_000  # rows written at once
CLOSE = 1e-9  # log-odds: further apart is another answer
SINGLE = 1e-4  # the same of woodelf, whose values are single precision
UNITS = ("money", "share", "days", "count", "")
BUNDLE = ("booster.txt", "encoders.json", "features.json", "calibrator.json", "grades.json", "catalogue.parquet",
          "reference.parquet")  # fmt: skip


def draw(rows: int, inputs: int, seed: int) -> np.ndarray:
    """Return features: normal, four digits, a tenth of the cells missing."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, inputs)).round(4)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix


def outcomes(matrix: np.ndarray) -> np.ndarray:
    """Return outcomes that depend on forty inputs, one by one, bent, and in pairs."""
    known = np.nan_to_num(matrix)
    rng = np.random.default_rng(5)
    signal = known[:, :20] @ rng.normal(size=20) + np.abs(known[:, 10:30]) @ rng.normal(size=20)
    signal += (known[:, 20:40] * known[:, :20]) @ rng.normal(size=20)
    return (signal / signal.std() + rng.logistic(size=len(matrix)) > 1.5).astype(np.int8)


def make(folder: Path, inputs: int, trees: int, leaves: int) -> None:
    """Write a bundle: the model, its words, and its reference."""
    matrix = draw(TRAINED, inputs, 1)
    names = [f"feature_{i:03d}" for i in range(inputs)]
    catalogue = pd.DataFrame(
        {
            "name": names, "kind": "numeric", "direction": 0, "definition_hash": names, "sentence_zh": None,
            "family": [f"family_{i % 40:02d}" for i in range(inputs)], "unit": [UNITS[i % 5] for i in range(inputs)],
            "sentence": [f"What is measured in place {i} over the last three months" for i in range(inputs)],
        }
    )  # fmt: skip
    columns = inputs_from_catalogue(catalogue)
    given = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05, "num_threads": THREADS,
             "verbosity": -1, "seed": 1, "max_bin": 63, "deterministic": True, "force_row_wise": True}  # fmt: skip
    outcome = outcomes(matrix)
    data = lgb.Dataset(matrix, outcome, feature_name=[each.column for each in columns])
    booster = lgb.train(given, data, trees)
    reference = pd.DataFrame(matrix[outcome == 0][:REFERENCE], columns=names)
    curve = Calibrator("platt", {"platt": [1.0, 0.0]}, (-9.0, 9.0), (-9.0, 9.0), (-9.0, 9.0), 0.9)
    files = {
        "booster.txt": estimator.normalised(booster.model_to_string()).encode(),
        "encoders.json": Encoders({}, 1.0).to_json().encode(),
        "features.json": json.dumps({"features": [each.record() for each in columns]}).encode(),
        "calibrator.json": curve.to_json().encode(),
        "grades.json": Scale().to_json().encode(),
        "catalogue.parquet": _parquet(catalogue),
        "reference.parquet": _parquet(reference),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def lay(path: Path, customers: int, names: list[str]) -> None:
    """Write the features of customers as featurise does, in an order that is not that of their identifiers."""
    writer = None
    for start in range(0, customers, AT_A_TIME):
        size = min(AT_A_TIME, customers - start)
        matrix = draw(size, len(names), 100 + start)
        keys = {
            "customer_id": [f"C{(start + i) * 7919 % 9999991:07d}" for i in range(size)],
            "as_of": pa.array(np.full(size, np.datetime64("2026-01-01"))), "months_back": np.zeros(size, dtype="int32"),
        }  # fmt: skip
        table = pa.table({**keys, **{name: matrix[:, place] for place, name in enumerate(names)}})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def whole(folder: Path, features: Path) -> None:
    """Explain every customer of a file by the stage's own code, in this process; print seconds, peak, reasons."""
    from pipeline import explain, explainer

    files = {name: (folder / name).read_bytes() for name in BUNDLE}
    params = explain.Params()
    Forest.from_text(files["booster.txt"].decode()).contributions(
        draw(2, len(json.loads(files["features.json"])["features"]), 3)
    )
    start = time.perf_counter()
    model = explainer.Explainer.of(files, params.least_points, params.engine, "en")
    parts = explain.customers(
        f"read_parquet('{features}')", [term.feature for term in model.terms], params.rows_at_a_time
    )
    with explain.Reasons(folder / "reasons.parquet") as table:
        written, importance = explain.run(model, parts, table.write)
    seconds = time.perf_counter() - start
    assert pq.read_metadata(folder / "reasons.parquet").num_rows == written
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak": peak, "reasons": written, "customers": importance["customers"]}))


def child(folder: Path, features: Path, customers: int) -> dict[str, float]:
    """Run `whole` in a process of its own and return what it printed."""
    command = [sys.executable, "-m", "benchmarks.reasons", "--step", str(folder), str(features)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"end to end failed:\n{done.stdout}{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["customers"] != customers:
        raise SystemExit(f"{found['customers']:,} of {customers:,} customers were explained")
    return dict(found)


def timed(work: Callable[[], Any], rounds: int) -> tuple[list[float], Any]:
    """Return the seconds of each round and the last result."""
    seconds, result = [], None
    for _ in range(rounds):
        result = None
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def same(name: str, found: np.ndarray, ours: np.ndarray, close: float = CLOSE) -> float:
    """Return the largest difference to the kernel's values; end the run where it is another answer."""
    apart = float(np.abs(found - ours).max())
    if not apart < close:
        raise SystemExit(f"{name} differs from the kernel by {apart:.3g}")
    return apart


def by_woodelf(booster: Any, matrix: np.ndarray, ours: np.ndarray, rounds: int) -> tuple[list[float] | None, str]:
    """Return woodelf's seconds on all rows and how far its values are; None and why where it cannot be measured."""
    if importlib.util.find_spec("woodelf") is None:
        return None, "not installed (make install-dev)"
    from woodelf import WoodelfExplainer

    frame = pd.DataFrame(matrix, columns=booster.feature_name())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, found = timed(lambda: WoodelfExplainer(booster).shap_values(frame, verbose=False), rounds)
    apart = same("woodelf", np.asarray(found), ours[:, :-1], SINGLE)
    return seconds, f"in one process, in single precision: differs by at most {apart:.1e}"


def main() -> None:
    """Measure, check equal outputs, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--peer", type=int, default=10_000, help="rows that pred_contrib and shap explain")
    parser.add_argument("--large", type=int, default=1_000_000, help="customers of the large run; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        whole(*map(Path, asked.step))
        return
    with tempfile.TemporaryDirectory(prefix="bellwether-bench-") as scratch:
        report(asked, Path(scratch))


def report(asked: argparse.Namespace, base: Path) -> None:
    """Run everyone, check that they agree, print."""
    import shap

    make(base, asked.inputs, asked.trees, asked.leaves)
    text = (base / "booster.txt").read_text()
    booster, matrix = lgb.Booster(model_str=text), draw(asked.customers, asked.inputs, 2)
    some = matrix[: asked.peer]
    times: dict[str, list[float]] = {}
    first, _ = timed(lambda: Forest.from_text(text).contributions(matrix[:5000]), 1)
    times["kernel"], ours = timed(lambda: Forest.from_text(text).contributions(matrix), asked.rounds)
    times["predict"], margins = timed(
        lambda: booster.predict(matrix, raw_score=True, num_threads=THREADS), asked.rounds
    )
    same("predict (sum of contributions)", margins, ours.sum(axis=1))
    part, theirs = timed(lambda: booster.predict(some, pred_contrib=True, num_threads=THREADS), asked.rounds)
    apart = same("pred_contrib", theirs, ours[: asked.peer])
    factor = asked.customers / asked.peer
    times["pred_contrib"] = [seconds * factor for seconds in part]
    explainer = shap.TreeExplainer(booster)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part, theirs = timed(lambda: explainer.shap_values(some), asked.rounds)
    same("shap", np.asarray(theirs).reshape(len(some), -1)[:, -asked.inputs :], ours[: asked.peer, :-1])
    times["shap"] = [seconds * factor for seconds in part]
    elf, said = by_woodelf(booster, matrix, ours, asked.rounds)
    if elf:
        times["woodelf"] = elf
    names = [each["name"] for each in json.loads((base / "features.json").read_text())["features"]]
    lay(base / "features.parquet", asked.customers, names)
    ended = [child(base, base / "features.parquet", asked.customers) for _ in range(asked.rounds)]
    times["end to end"] = [one["seconds"] for one in ended]
    print(
        f"{asked.customers:,} customers, {asked.inputs} features, {asked.trees} trees of {asked.leaves} leaves, "
        f"{THREADS} threads; outputs equal, at most {apart:.1e} from pred_contrib"
    )
    for name, seconds in times.items():
        how = f"  (from {asked.peer:,} rows)" if name in ("pred_contrib", "shap") else ""
        print(f"  {name:12s} best {min(seconds):8.2f} s of [{' '.join(f'{s:.2f}' for s in seconds)}]{how}")
    print(f"  woodelf: {said}; the kernel's first call in this process, compiled or loaded: {first[0]:.2f} s")
    print(f"  end to end: {ended[0]['reasons']:,} reasons written, peak {max(one['peak'] for one in ended):.2f} GiB")
    peak = max(one["peak"] for one in ended)
    if asked.large:
        lay(base / "features.parquet", asked.large, names)
        large = child(base, base / "features.parquet", asked.large)
        peak = large["peak"]
        print(
            f"  {asked.large:,} customers in one go: {large['seconds']:.1f} s, {large['reasons']:,} reasons, "
            f"peak {peak:.2f} GiB"
        )
    best = {name: min(seconds) for name, seconds in times.items()}
    print(
        json.dumps(
            {
                "speedup_vs_shap": round(best["shap"] / best["kernel"], 1),
                "speedup_vs_pred_contrib": round(best["pred_contrib"] / best["kernel"], 1),
                "speedup_vs_woodelf": round(best["woodelf"] / best["kernel"], 2) if elf else None,
                "end_to_end_vs_pred_contrib": round(best["pred_contrib"] / best["end to end"], 1),
                "over_predict": round(best["kernel"] / best["predict"], 2),
                "max_abs_diff": apart,
                "peak_gib": round(peak, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
