"""select: divide the training rows by time (or say why not), and leave out features that the ranking does not need.

Reads data/featurise/training, writes data/select: parts.parquet, features.json, reasons.parquet. Test rows never
influence which features are kept. Rows that cannot train are recorded with the reason, and every later stage says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from features.errors import DataRefused, IntegrityRefused, Problem
from models.inputs import Input, Panel, carriers, horizon_months, inputs_from_catalogue, panel, record_inputs
from models.selection import FIGURES, Selection, SelectSettings, select
from models.splits import Split, repeated_indices, split, untrainable
from models.tuning import repeat_count
from pipeline import records
from pipeline.params import Section
from pipeline.stage import execute, fresh, read_json, say, write_json

TRAINING = Path("data/featurise/training")
OUT = Path("data/select")


class Params(SelectSettings, Section):
    """Section `select`: how rows are divided, and limits beyond which a feature is left out."""

    section: ClassVar[str] = "select"


def read_frame(path: Path) -> pd.DataFrame:
    """Read a Parquet file with decimals as doubles and dates as timestamps; refuse (exit code 2) what is not one."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except FileNotFoundError:
        raise DataRefused(
            Problem(str(path), "a file of an earlier stage", "no such file", "Run `python -m pipeline run`.")
        ) from None
    except pa.ArrowInvalid as error:
        found = " ".join(str(error).split())[:120]
        raise DataRefused(Problem(str(path), "a Parquet file", found, "Run the stage that writes it again.")) from None
    schema = [
        pa.field(field.name, pa.float64()) if pa.types.is_decimal(field.type) else field for field in table.schema
    ]
    return table.cast(pa.schema(schema)).to_pandas(date_as_object=False)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as Parquet; timestamps named as_of become dates."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame, preserve_index=False)
    for place, field in enumerate(table.schema):
        if field.name == "as_of":
            table = table.set_column(place, "as_of", table.column(place).cast(pa.date32()))
    parquet.write_table(table.replace_schema_metadata(None), path, compression="zstd")


def run(frame: pd.DataFrame, catalogue: pd.DataFrame, settings: SelectSettings) -> dict[str, Any]:
    """Return what the stage writes: `features` (JSON data), `parts` and `reasons` (frames)."""
    inputs = inputs_from_catalogue(catalogue)
    horizon = settings.horizon_months or (horizon_months(frame) if len(frame) else 12)
    rows = panel(frame, carriers(inputs), horizon, in_time=True)
    why = untrainable(rows.outcome, settings.min_bads)
    selection: Selection | None = None
    divided: Split | None = None
    if why is None:
        divided = split(rows, settings, horizon)
        train = rows.take(divided.train)
        if divided.plan["kind"] != "time":
            train = replace(train, learned=None)
        indices = repeated_indices(train, divided.fold[divided.train], divided.plan, repeat_count(train.bads))
        selection = select(train, inputs, indices, settings)
        if not selection.inputs:
            why = f"none of {len(inputs)} features varies enough to teach anything"
    record: dict[str, Any] = {"settings": settings.model_dump(mode="json"), "trained": why is None}
    if why is not None or selection is None or divided is None:
        record |= {"why": why, "features": [], "split": {"kind": "none", "why": why, "horizon_months": horizon}}
        part = np.full(len(rows), "train", dtype=object)
        fold = np.full(len(rows), -1)
    else:
        record |= {"features": [each.record() for each in selection.inputs], "split": divided.plan}
        record["selection"] = selection.record
        part = np.where(divided.test, "test", np.where(divided.train, "train", "gap")).astype(object)
        fold = divided.fold
    counts = {
        name: {"rows": int((part == name).sum()), "bads": int(rows.outcome[part == name].sum())}
        for name in ("train", "gap", "test")
    }
    record["split"]["counts"] = counts
    parts = pd.DataFrame({"customer_id": rows.customer, "as_of": rows.as_of.astype("datetime64[ms]"), "part": part})
    parts["fold"] = pd.array(np.where(fold >= 0, fold, 0), dtype="Int32")
    parts.loc[fold < 0, "fold"] = pd.NA
    reasons = selection.reasons if selection is not None else pd.DataFrame(
        columns=["feature", "kept", "reason", *FIGURES]
    )  # fmt: skip
    return {"features": record, "parts": parts, "reasons": reasons}


def read_selected() -> dict[str, Any]:
    """Return data/select/features.json."""
    return read_json(OUT / "features.json")


def selected_inputs(selected: dict[str, Any]) -> tuple[Input, ...]:
    """Return the inputs that `select` kept, in order."""
    return tuple(Input.from_record(record) for record in selected["features"])


def read_rows(inputs: tuple[Input, ...]) -> pd.DataFrame:
    """Return the training rows with their features, and the child rows of inputs of kind record."""
    return records.attached(read_frame(TRAINING / "features.parquet"), TRAINING, record_inputs(inputs))


def read_panel(
    selected: dict[str, Any], inputs: tuple[Input, ...] | None = None
) -> tuple[Panel, np.ndarray, np.ndarray]:
    """Return the training rows over the selected inputs (or `inputs`), their part and their fold (-1: none)."""
    wanted = selected_inputs(selected) if inputs is None else inputs
    frame = read_rows(wanted)
    plan = selected["split"]
    rows = panel(frame, carriers(wanted), plan["horizon_months"], in_time=plan["kind"] == "time")
    parts = read_frame(OUT / "parts.parquet")
    same = len(parts) == len(rows) and (parts["customer_id"].to_numpy() == rows.customer).all()
    if not same or (parts["as_of"].to_numpy().astype("datetime64[D]") != rows.as_of).any():
        raise IntegrityRefused(
            Problem("data/select/parts.parquet", "the rows of features.parquet", "other rows", "Run `select` again.")
        )
    return rows, parts["part"].to_numpy(dtype=object), parts["fold"].fillna(-1).to_numpy(dtype=int)


def told(record: dict[str, Any], reasons: pd.DataFrame) -> list[str]:
    """Return in sentences how many features stayed, how many went and why, and what the smaller set costs."""
    how = record["selection"]
    lines = [f"kept {len(record['features']):,} of {len(reasons):,} features"]
    dropped = reasons.loc[~reasons["kept"], "reason"].value_counts(sort=False)
    lines += [f"left out {count:,}: {reason}" for reason, count in sorted(dropped.items())]
    if not how:
        return lines
    lines.append(f"drift between train months: {how['drift']}")
    if how["adversarial_auc"] is not None:
        lines[-1] += (
            f" ({how['months']} months, told apart with an AUC of {how['adversarial_auc']:.3f}; "
            f"{len(how['drift_candidates'])} features drift by both measures)"
        )
    kept = next(size for size in how["sizes"] if size["kept"])
    lines.append(
        f"{how['why']}: {kept['features']:,} features, cross-validated AUC {kept['auc']:.4f}, "
        f"{kept['loss']:.4f} below the best of {len(how['sizes'])} sizes (standard error {kept['standard_error']:.4f})"
    )
    return lines


def main() -> None:
    """Read the training features, divide and select, write data/select."""
    settings = Params.load()
    catalogue = read_frame(TRAINING / "catalogue.parquet")
    frame = read_rows(inputs_from_catalogue(catalogue))
    say("select", "read", rows=len(frame), features=len(catalogue))
    result = run(frame, catalogue, settings)
    fresh(OUT)
    write_json(OUT / "features.json", result["features"])
    write_frame(result["parts"], OUT / "parts.parquet")
    write_frame(result["reasons"], OUT / "reasons.parquet")
    record = result["features"]
    if not record["trained"]:
        say("select", f"cannot train: {record['why']}")
        return
    plan = record["split"]
    for name, count in plan["counts"].items():
        say("select", name, rows=count["rows"], defaults=count["bads"])
    say("select", f"split by {plan['kind']} ({plan['why']})", folds=f"{plan['fold_count']} {plan['folds']}")
    for line in told(record, result["reasons"]):
        say("select", line)


if __name__ == "__main__":
    execute("select", main)
