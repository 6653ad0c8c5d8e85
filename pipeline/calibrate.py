"""calibrate: a strictly increasing curve from margins to PDs, and its interval, from out-of-fold margins.

Where the lending policy states a long-run default rate, the curve is anchored to it. Reads
data/train/out_of_fold.parquet and the policy; writes data/calibrate: calibrator.json, summary.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd
from pydantic import field_validator

from models.calibration import CalibrateSettings, Choice
from models.inputs import add_months
from models.recipe import Judged, calibrated
from pipeline import lending
from pipeline.params import Section
from pipeline.select import read_frame, read_selected
from pipeline.stage import execute, fresh, read_json, say, write_json

IN = Path("data/train")
OUT = Path("data/calibrate")


class Params(CalibrateSettings, Section):
    """Section `calibrate`: how the curve is chosen and how wide its interval is."""

    section: ClassVar[str] = "calibrate"

    @field_validator("long_run_default_rate")
    @classmethod
    def _stands_in_the_policy(cls, rate: float | None) -> None:
        if rate is not None:
            raise ValueError("a number of the lending policy: state long_run_default_rate in decide.policy's file")


def in_force(settings: CalibrateSettings, frame: pd.DataFrame, horizon_months: int) -> CalibrateSettings:
    """Return the settings with the policy's long-run default rate of the day on which the last train window closed.

    Not of the run's as_of: a new delivery scores and changes no model; a rate of a later date comes with retraining.
    """
    on = add_months(frame["as_of"].to_numpy().astype("datetime64[D]"), horizon_months).max()
    rate = lending.long_run_default_rate(Path(lending.Params.load().policy), on.item())
    return settings.model_copy(update={"long_run_default_rate": rate})


def run(frame: pd.DataFrame, horizon_months: int, settings: CalibrateSettings) -> Choice:
    """Return the calibration of the rows of out_of_fold.parquet."""
    as_of = frame["as_of"].to_numpy().astype("datetime64[D]")
    margin, opinion_a, opinion_b = (frame[name].to_numpy(dtype=float) for name in ("margin", "opinion_a", "opinion_b"))
    outcome, customer = frame["outcome"].to_numpy(dtype=int), frame["customer_id"].to_numpy(dtype=object)
    closes = add_months(as_of, horizon_months)
    return calibrated(Judged(outcome, customer, as_of, closes, margin, opinion_a, opinion_b), settings)


def main() -> None:
    """Read the out-of-fold margins, fit the curve, write data/calibrate."""
    settings: CalibrateSettings = Params.load()
    source = read_json(IN / "summary.json")
    record = {"trained": source["trained"], "settings": settings.model_dump(mode="json")}
    if not source["trained"]:
        fresh(OUT)
        write_json(OUT / "summary.json", {**record, "why": source["why"]})
        say("calibrate", f"nothing to calibrate: {source['why']}")
        return
    frame = read_frame(IN / "out_of_fold.parquet")
    horizon = read_selected()["split"]["horizon_months"]
    settings = in_force(settings, frame, horizon)
    record["settings"] = settings.model_dump(mode="json")
    choice = run(frame, horizon, settings)
    fresh(OUT)
    (OUT / "calibrator.json").write_text(choice.calibrator.to_json(), encoding="utf-8")
    known = frame["margin"].notna()
    record |= {
        "hidden_standard_deviation": round(choice.hidden**0.5, 6),  # of true log-odds around the PD's
        "level_standard_deviation": round(choice.level**0.5, 6),  # of the level from one horizon to the next
        "method": choice.calibrator.method,
        "why": choice.why,
        "log_loss": choice.tried,
        "rows": int(known.sum()),
        "bads": int(frame.loc[known, "outcome"].sum()),
        "anchor_log_odds": round(choice.calibrator.anchor, 6),
    }
    write_json(OUT / "summary.json", record)
    tried = {name: f"{loss:.5f}" for name, loss in choice.tried.items()}
    say("calibrate", f"{record['method']} ({choice.why})", rows=record["rows"], defaults=record["bads"], **tried)
    if settings.long_run_default_rate is not None:
        rate = f"{settings.long_run_default_rate:.4f}, in log-odds by {choice.calibrator.anchor:+.3f}"
        seen = f"{record['bads'] / record['rows']:.4f}"
        say("calibrate", "anchored to the policy's long-run default rate", to=rate, train_rows_had=seen)


if __name__ == "__main__":
    execute("calibrate", main)
