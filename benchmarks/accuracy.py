"""How good the default recipe is against peers, on identical rows, features, threads and the same budget of time.

    .venv/bin/python -m benchmarks.accuracy --repeats 2 --budget 120
    .venv/bin/python -m benchmarks.accuracy --sets berka polish --systems bellwether lightgbm scorecard

Systems: bellwether (select, tune, train, calibrate with the defaults; the search is cut so that all of it stays in the
budget), lightgbm (untuned), flaml and autogluon (each told to look for AUC and for log loss), scorecard (weights of
evidence) and logistic. FLAML and AutoGluon live in an environment of their own, `make benchmark-peers`. Differences
are paired: DeLong's by customer for AUC, the mean of row differences for log loss. On the simulated lender a model of
5,000 customers meets the same learner on ten times as many, and the true PD, on the same other customers. The last
line is JSON: a list of {set, system, auc, auc_low, auc_high, brier, log_loss, ece, seconds}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import pipeline  # noqa: F401  sets the environment before any library reads it
from benchmarks.sets import ROOT, SHIPPED, Set, built, division
from models import challengers, metrics
from models.calibration import CalibrateSettings
from models.estimator import probability
from models.inputs import Input, Panel
from models.recipe import Fitted, Settings, TrainSettings
from models.recipe import run as run_recipe
from models.selection import SelectSettings
from models.splits import fold_indices, grouped_folds
from models.tuning import TuneSettings

PEERS = ROOT / ".venv-peers/bin/python"
SYSTEMS = (
    "bellwether", "lightgbm", "flaml_auc", "flaml_log_loss", "autogluon_auc", "autogluon_log_loss", "scorecard",
    "logistic",
)  # fmt: skip
LEARNED = "simulated, other customers"
MOST_ROWS = 150_000  # of the large simulated lender: 370,000 by 513 columns search for hours
Answer = tuple[np.ndarray, float]  # PDs, seconds


def recipe(train: Panel, inputs: tuple[Input, ...], budget: float) -> Fitted:
    """Return the model of the default recipe; the search may take 55% of the budget, the rest is for what follows."""
    tune = TuneSettings(seconds=0.55 * budget)
    return run_recipe(train, inputs, Settings(SelectSettings(), tune, TrainSettings(), CalibrateSettings()))


def by_bellwether(train: Panel, test: Panel, inputs: tuple[Input, ...], budget: float) -> Answer:
    started = time.monotonic()
    model = recipe(train, inputs, budget)
    spent = time.monotonic() - started
    return model.calibrator.pd(model.margins(test.features)), spent


def by_lightgbm(train: Panel, test: Panel, inputs: tuple[Input, ...], _budget: float) -> Answer:
    import lightgbm

    frames = [framed(rows, inputs) for rows in (train, test)]
    for name in (each.name for each in inputs if each.kind == "categorical"):
        frames[0][name] = frames[0][name].astype("category")
        frames[1][name] = frames[1][name].astype(frames[0][name].dtype)
    names = [f"c{place}" for place in range(frames[0].shape[1])]
    frames = [frame.set_axis(names, axis=1) for frame in frames]
    started = time.monotonic()
    model = lightgbm.LGBMClassifier(n_jobs=2, verbosity=-1, random_state=1).fit(frames[0], train.outcome)
    return model.predict_proba(frames[1])[:, 1], time.monotonic() - started


def by_challenger(kind: challengers.Kind) -> Callable[..., Answer]:
    def ask(train: Panel, test: Panel, inputs: tuple[Input, ...], _budget: float) -> Answer:
        started = time.monotonic()
        folds = fold_indices(train, grouped_folds(train, 3, 1), "grouped")
        coder, found = challengers.fit_all(train, inputs, folds, 20.0, 1)
        spent = time.monotonic() - started
        return probability(found[kind].margins(coder.matrix(test.features, inputs))), spent

    return ask


def by_peer(system: str, metric: str) -> Callable[..., Answer]:
    def ask(train: Panel, test: Panel, inputs: tuple[Input, ...], budget: float) -> Answer:
        with tempfile.TemporaryDirectory(prefix="bellwether-peer-") as place:
            names = [f"c{at}" for at in range(len(inputs))]
            framed(train, inputs).set_axis(names, axis=1).assign(outcome=train.outcome).to_parquet(
                f"{place}/train.parquet"
            )
            framed(test, inputs).set_axis(names, axis=1).to_parquet(f"{place}/test.parquet")
            script = Path(__file__).with_name("peers.py")
            done = subprocess.run(
                [str(PEERS), str(script), system, metric, str(budget), place],
                capture_output=True, text=True, check=False, timeout=20 * budget + 600,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{system} failed:\n{done.stderr[-2000:]}")
            seconds = json.loads(Path(place, "answer.json").read_text())["seconds"]
            return pd.read_parquet(f"{place}/answer.parquet")["pd"].to_numpy(dtype=float), seconds

    return ask


def framed(rows: Panel, inputs: tuple[Input, ...]) -> pd.DataFrame:
    """Return the features as any system takes them: doubles, and categories as texts or null."""
    return pd.DataFrame(
        {
            each.name: rows.features[each.name].astype(object).where(rows.features[each.name].notna(), None)
            if each.kind == "categorical"
            else pd.to_numeric(rows.features[each.name]).to_numpy(dtype=float, na_value=np.nan)
            for each in inputs
        }
    )


ASK: dict[str, Callable[..., Answer]] = {
    "bellwether": by_bellwether,
    "lightgbm": by_lightgbm,
    "flaml_auc": by_peer("flaml", "roc_auc"),
    "flaml_log_loss": by_peer("flaml", "log_loss"),
    "autogluon_auc": by_peer("autogluon", "roc_auc"),
    "autogluon_log_loss": by_peer("autogluon", "log_loss"),
    "scorecard": by_challenger("scorecard"),
    "logistic": by_challenger("logistic"),
}


def figures(test: Panel, pd_: np.ndarray, seconds: float) -> dict[str, float]:
    """Return the figures of one answer; probabilities of 0 and 1 are moved off by 1e-6, as a log loss needs."""
    clipped = np.clip(pd_, 1e-6, 1 - 1e-6)
    area, low, high = metrics.auc_interval(test.outcome, pd_, test.customer)
    return {
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "brier": metrics.brier(test.outcome, pd_),
        "log_loss": metrics.log_loss(test.outcome, clipped),
        "ece": metrics.ece(test.outcome, pd_),
        "seconds": seconds,
    }


def paired(test: Panel, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Return ours minus theirs with standard errors: AUC (DeLong, by customer) and log loss (rows, by customer)."""
    area = metrics.auc_difference(test.outcome, ours, theirs, test.customer)
    rows = [metrics.row_log_loss(test.outcome, np.clip(each, 1e-6, 1 - 1e-6)) for each in (ours, theirs)]
    gap = rows[0] - rows[1]
    sums = pd.Series(gap - gap.mean()).groupby(test.customer).sum().to_numpy()
    return {
        "auc": area["difference"],
        "auc_se": area["standard_error"],
        "log_loss": float(gap.mean()),
        "log_loss_se": float(np.sqrt((sums**2).sum()) / len(gap)),
    }


def compare(one: Set, systems: list[str], repeats: int, budget: float) -> tuple[list[dict], list[dict]]:
    """Return the figures of every system on every division of a set, and ours against each other system."""
    found, gaps = [], []
    for number in range(repeats):
        train, test = (one.panel.take(mask) for mask in division(one.panel, number))
        answers = {}
        for system in systems:
            answers[system], seconds = ASK[system](train, test, one.inputs, budget)
            found.append({"set": one.name, "system": system, **figures(test, answers[system], seconds)})
            print(f"  {one.name} {number + 1}/{repeats} {system}: AUC {found[-1]['auc']:.4f}, log loss "
                  f"{found[-1]['log_loss']:.4f}, {seconds:.0f} s", flush=True)  # fmt: skip
        if "bellwether" in answers:
            gaps += [
                {"set": one.name, "system": system, **paired(test, answers["bellwether"], answer)}
                for system, answer in answers.items()
                if system != "bellwether"
            ]
    return found, gaps


def learning_curve(work: Path, realdata: Path, budget: float, times: int) -> list[dict]:
    """Return figures on the customers of another simulated lender: learned from 5,000, from `times` as many, true PD.

    All three lenders follow the same law; the asked customers taught neither model. The large lender's as_ofs are
    thinned, the newest kept, to `MOST_ROWS` rows at most: all of its customers teach, and the search comes to an end.
    """
    asked = built(work / "simulated-asked", "simulated", realdata, simulate={"seed": 8})
    few = built(work / "simulated", "simulated", realdata)
    many = built(work / f"simulated-{times}", "simulated", realdata, simulate={"customers": 5000 * times})
    assert asked is not None
    assert few is not None
    assert many is not None
    names = [
        each.name
        for each in few.inputs
        if {each.name} <= {i.name for i in many.inputs} & {i.name for i in asked.inputs}
    ]
    inputs = tuple(each for each in few.inputs if each.name in names)
    truth = pd.read_parquet(work / "simulated-asked/data/simulate/truth")
    truth["as_of"] = pd.to_datetime(truth["as_of"]).to_numpy().astype("datetime64[D]")
    keys = pd.DataFrame({"customer_id": asked.panel.customer, "as_of": asked.panel.as_of})
    true_pd = keys.merge(truth, how="left", on=["customer_id", "as_of"], validate="1:1")["true_pd"].to_numpy()
    rows = []
    for label, one in (("bellwether", few), (f"bellwether, {times} x customers", many)):
        started = time.monotonic()
        model = recipe(thinned(panel_of(one, inputs)), inputs, budget if one is few else 20 * budget)
        spent = time.monotonic() - started
        answer = model.calibrator.pd(model.margins(asked.panel.features))
        rows.append({"set": LEARNED, "system": label, **figures(asked.panel, answer, spent)})
    rows.append({"set": LEARNED, "system": "true PD", **figures(asked.panel, true_pd, 0.0)})
    return rows


def thinned(rows: Panel) -> Panel:
    """Return the rows of every second, third, ... as_of from the newest back, `MOST_ROWS` at most."""
    dates = np.unique(rows.as_of)[::-1]
    return rows.take(np.isin(rows.as_of, dates[:: -(-len(rows) // MOST_ROWS)]))


def panel_of(one: Set, inputs: tuple[Input, ...]) -> Panel:
    """Return a set's rows over some of its features."""
    whole = one.panel
    return Panel(whole.customer, whole.as_of, whole.closes, whole.outcome, whole.features[[i.name for i in inputs]])


def averaged(found: list[dict]) -> list[dict]:
    """Return one record a (set, system): figures averaged over divisions, the interval about the averaged AUC."""
    frame = pd.DataFrame(found)
    order = list(dict.fromkeys(zip(frame["set"], frame["system"], strict=True)))
    grouped = frame.groupby(["set", "system"], sort=False).mean(numeric_only=True)
    return [
        {"set": a, "system": b, **{k: round(float(v), 5) for k, v in grouped.loc[(a, b)].items()}} for a, b in order
    ]


def verdicts(gaps: list[dict]) -> None:
    """Print, for each set, how far we are from the best peer, beside the paired noise, and the means over all."""
    frame = pd.DataFrame(gaps).groupby(["set", "system"], sort=False).mean().reset_index()
    print("\nours minus the best peer (noise: 1.96 standard errors of the paired difference, one division)")
    best = []
    for name, part in frame.groupby("set", sort=False):
        area, loss = part.loc[part["auc"].idxmin()], part.loc[part["log_loss"].idxmax()]
        best.append((area["auc"], loss["log_loss"]))
        print(
            f"  {name:14} AUC {area['auc']:+.4f} (noise {1.96 * area['auc_se']:.4f}, {area['system']}); "
            f"log loss {loss['log_loss']:+.4f} (noise {1.96 * loss['log_loss_se']:.4f}, {loss['system']})"
        )
    means = frame.groupby("system", sort=False)[["auc", "log_loss"]].mean()
    print(
        "  mean over sets: "
        + "; ".join(f"{k} AUC {v.auc:+.4f} log loss {v.log_loss:+.4f}" for k, v in means.iterrows())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sets", nargs="+", default=[*SHIPPED, "simulated"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--repeats", type=int, default=2, help="divisions of each set")
    parser.add_argument("--budget", type=float, default=120, help="seconds a system")
    parser.add_argument("--times", type=int, default=10, help="customers of the large simulated lender; 0: leave out")
    parser.add_argument("--work", type=Path, help="where built sets are kept for the next run")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared/realdata")
    given = parser.parse_args()
    systems = list(given.systems)
    if not PEERS.exists():
        systems = [name for name in systems if not name.startswith(("flaml", "autogluon"))]
        print(f"FLAML and AutoGluon are left out: {PEERS.relative_to(ROOT)} is not there (make benchmark-peers)")
    with tempfile.TemporaryDirectory(prefix="bellwether-accuracy-") as scratch:
        work = given.work or Path(scratch)
        found, gaps = [], []
        for name in given.sets:
            one = built(work / name, name, given.realdata)
            if one is None:
                print(f"{name} is left out: its files are not under {given.realdata.name}/")
                continue
            print(f"{name}: {len(one.panel):,} rows, {one.panel.bads:,} defaults, {len(one.inputs)} features")
            some, differences = compare(one, systems, given.repeats, given.budget)
            found, gaps = found + some, gaps + differences
        if given.times and "simulated" in given.sets:
            found += learning_curve(work, given.realdata, given.budget, given.times)
    rows = averaged(found)
    print(f"\n{'set':28}{'system':30}{'AUC':>8}{'(95%)':>18}{'Brier':>9}{'log loss':>10}{'ECE':>8}{'s':>7}")
    for row in rows:
        interval = f"({row['auc_low']:.4f}-{row['auc_high']:.4f})"
        print(f"{row['set']:28}{row['system']:30}{row['auc']:8.4f}{interval:>18}{row['brier']:9.4f}"
              f"{row['log_loss']:10.4f}{row['ece']:8.4f}{row['seconds']:7.0f}")  # fmt: skip
    if gaps:
        verdicts(gaps)
    learned = {row["system"]: 2 * row["auc"] - 1 for row in rows if row["set"] == LEARNED}
    if learned:
        few, many, true = learned.values()
        print(f"  Gini on other simulated customers: {few:.4f}, with {given.times} times the customers {many:.4f} "
              f"({few / many:.1%} of it), true PD {true:.4f}")  # fmt: skip
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
