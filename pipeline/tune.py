"""tune: search LightGBM's parameters on the train folds, starting from known good points.

Reads data/featurise/training and data/select, writes data/tune: parameters.json, trials.parquet, summary.json. Finished
trials stand in a journal outside the outputs, keyed by a hash of data, settings and code, so that a killed search
goes on where it stood.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

import models
from models.splits import repeated_indices
from models.tuning import (
    TRIAL_FIELDS,
    FoldData,
    Tuned,
    TuneSettings,
    Watch,
    finished,
    repeat_count,
    search,
    trial_count,
    trial_records,
)
from pipeline.params import Section, source_name
from pipeline.select import TRAINING, read_panel, read_selected, selected_inputs, write_frame
from pipeline.stage import execute, fresh, read_json, say, write_json

OUT = Path("data/tune")
JOURNALS = Path("data/journal")


class Params(TuneSettings, Section):
    """Section `tune`: how long and how hard the search looks."""

    section: ClassVar[str] = "tune"


def run(folds: FoldData, study: Any, settings: TuneSettings, watch: Watch | None = None) -> tuple[Tuned, pd.DataFrame]:
    """Return the winner and one row a trial."""
    tuned = search(folds, study, settings, watch)
    return tuned, pd.DataFrame(trial_records(study), columns=list(TRIAL_FIELDS))


def journal_key(settings: TuneSettings) -> str:
    """Return a hash of all that the search depends on: data, division, settings and the code of models/."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    code = sorted(Path(models.__file__).parent.glob("*.py"))
    select = Path("data/select")
    rows = [path for path in (TRAINING / "records",) if path.exists()]
    for path in (TRAINING / "features.parquet", *rows, select / "features.json", select / "parts.parquet", *code):
        digest.update(f"\n{path.name}\n".encode())
        for part in sorted(path.glob("*.parquet")) if path.is_dir() else (path,):
            digest.update(part.read_bytes())
    return digest.hexdigest()[:16]


def open_study(folder: Path) -> Any:
    """Return the study kept in `folder`, without what a kill left half written."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trials.log"
    if path.exists():
        whole = path.read_bytes()
        complete = whole[: whole.rfind(b"\n") + 1]
        if complete != whole:
            path.write_bytes(complete)
    (folder / "trials.log.lock").unlink(missing_ok=True)  # one run at a time owns the workspace: a lock here is stale
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="tune", direction="minimize", load_if_exists=True)


@contextmanager
def bar(planned: int, done: int) -> Iterator[Watch]:
    """Yield a `watch` function: a progress bar with the best so far on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("tune: {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("first trial", total=planned, completed=done)

        def watch(number: int, planned: int, held: Any) -> None:
            progress.update(task, completed=number, total=planned, description=f"best log loss {held.value:.5f}")

        yield watch


def main() -> None:
    """Read rows and folds, search or resume, write data/tune."""
    settings = Params.load()
    selected = read_selected()
    if not selected["trained"]:
        fresh(OUT)
        for name in ("parameters.json", "summary.json"):
            write_json(OUT / name, {"trained": False, "why": selected["why"]})
        write_frame(pd.DataFrame(columns=list(TRIAL_FIELDS)), OUT / "trials.parquet")
        say("tune", f"nothing to tune: {selected['why']}")
        return
    inputs = selected_inputs(selected)
    rows, part, fold = read_panel(selected)
    panel = rows.take(part == "train")
    repeats = settings.repeats or repeat_count(panel.bads)
    indices = repeated_indices(panel, fold[part == "train"], selected["split"], repeats)
    study = open_study(JOURNALS / source_name() / journal_key(settings))
    done = len(finished(study))
    say("tune", "read", rows=len(panel), defaults=panel.bads, features=len(inputs), folds=len(indices))
    if done:
        say("tune", "resumed from the journal", trials_found=done)
    with bar(settings.trials or trial_count(len(panel), len(inputs)), done) as watch:
        tuned, trials = run(FoldData(panel, inputs, indices, settings), study, settings, watch)
    fresh(OUT)
    write_json(OUT / "parameters.json", {"trained": True, **tuned.record()})
    write_frame(trials, OUT / "trials.parquet")
    summary = {
        "trained": True,
        "settings": settings.model_dump(mode="json"),
        "reproducible": tuned.reproducible,
        "trials": len(trials),
        "pruned": int((trials["state"] == "pruned").sum()),
        "folds": len(indices),
        "default_log_loss": float(trials["log_loss"].iloc[0]),
        "default_auc": float(trials["auc"].iloc[0]),
        "log_loss": tuned.log_loss,
        "auc": tuned.auc,
    }
    write_json(OUT / "summary.json", summary)
    if not tuned.reproducible:
        say("tune", "not reproducible: a time budget (tune.seconds) ended or may end the search")
    say("tune", "searched", trials=len(trials), pruned=summary["pruned"], rounds=tuned.rounds)
    auc, default = f"{tuned.auc:.4f}", f"{summary['default_auc']:.4f}"
    say("tune", "best", log_loss=f"{tuned.log_loss:.5f}", auc=auc, default_auc=default)


def read_tuned() -> Tuned | None:
    """Return the winner of data/tune, or None where nothing could be tuned."""
    record = read_json(OUT / "parameters.json")
    if not record.pop("trained"):
        return None
    return Tuned(**record)


if __name__ == "__main__":
    execute("tune", main)
