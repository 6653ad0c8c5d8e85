"""calibrate: a strictly increasing curve from margins to PDs, and its interval, from out-of-fold margins.

Reads data/train/out_of_fold.parquet, writes data/calibrate: calibrator.json, summary.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from models.calibration import CalibrateSettings, Choice
from models.inputs import add_months
from models.recipe import Judged, calibrated
from pipeline.params import Section
from pipeline.select import read_frame, read_selected
from pipeline.stage import execute, fresh, read_json, say, write_json

IN = Path("data/train")
OUT = Path("data/calibrate")


class Params(CalibrateSettings, Section):
    """Section `calibrate`: how the curve is chosen and how wide its interval is."""

    section: ClassVar[str] = "calibrate"


def run(frame: pd.DataFrame, horizon_months: int, settings: CalibrateSettings) -> Choice:
    """Return the calibration of the rows of out_of_fold.parquet."""
    as_of = frame["as_of"].to_numpy().astype("datetime64[D]")
    margin, opinion_a, opinion_b = (frame[name].to_numpy(dtype=float) for name in ("margin", "opinion_a", "opinion_b"))
    outcome, customer = frame["outcome"].to_numpy(dtype=int), frame["customer_id"].to_numpy(dtype=object)
    closes = add_months(as_of, horizon_months)
    return calibrated(Judged(outcome, customer, as_of, closes, margin, opinion_a, opinion_b), settings)


def main() -> None:
    """Read the out-of-fold margins, fit the curve, write data/calibrate."""
    settings = Params.load()
    source = read_json(IN / "summary.json")
    record = {"trained": source["trained"], "settings": settings.model_dump(mode="json")}
    if not source["trained"]:
        fresh(OUT)
        write_json(OUT / "summary.json", {**record, "why": source["why"]})
        say("calibrate", f"nothing to calibrate: {source['why']}")
        return
    frame = read_frame(IN / "out_of_fold.parquet")
    choice = run(frame, read_selected()["split"]["horizon_months"], settings)
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
    }
    write_json(OUT / "summary.json", record)
    tried = {name: f"{loss:.5f}" for name, loss in choice.tried.items()}
    say("calibrate", f"{record['method']} ({choice.why})", rows=record["rows"], defaults=record["bads"], **tried)


if __name__ == "__main__":
    execute("calibrate", main)
