"""What a run tells whoever schedules it: one record a stage, one line at the end; JSON lines on request.

Records hold counts, hashes, dates and the sentences of refusals, never a customer's value. Stages are seen as DVC
announces them; how many rows one made is read from the file that it wrote.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from features.errors import Problem
from models import retraining
from pipeline import versions
from pipeline.stage import parquet, read_json

FORMAT = "BELLWETHER_LOG"  # text or json, where the command line does not say
STARTED = re.compile(r"Running stage '(\w+)'")
KEPT = re.compile(r"Stage '(\w+)' (didn't change|is cached)")
MADE = {  # the table whose rows a stage is counted by; others make none
    "simulate": "data/simulate/truth/truth.parquet", "observe": "data/observe/observations.parquet",
    "featurise": "data/featurise/scoring/features.parquet", "select": "data/select/parts.parquet",
    "tune": "data/tune/trials.parquet", "train": "data/train/out_of_fold.parquet",
    "evaluate": "data/evaluate/predictions.parquet", "promote": "data/promote/scorer/trained_on.parquet",
    "score": "data/score/scores.parquet", "explain": "data/explain/reasons.parquet",
    "decide": "data/decide/table.parquet", "worklist": "data/worklist/worklist.parquet",
    "publish": "data/publish/current/scored_customers.parquet",
}  # fmt: skip
WORDS = {
    1: "failed: a bug of ours", 2: "refused: the data", 3: "refused by a gate", 4: "refused: configuration or usage",
    5: "refused: disk, memory or rights", 6: "refused: another run owns the workspace", 7: "refused: integrity",
    8: "a service is away",
}  # fmt: skip
PARTLY = "published, but not everywhere"


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """Return a time as ISO 8601 text in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rows_made(stage: str) -> int | None:
    """Return how many rows a stage made, by what it wrote; null where it makes none or left nothing to read."""
    import pyarrow.lib
    import pyarrow.parquet as pq

    try:
        if stage == "ingest":
            return int(read_json(Path("data/ingest/quality.json"))["totals"]["rows.kept"])
        if stage == "calibrate":
            return int(read_json(Path("data/calibrate/summary.json"))["rows"])
        place = Path(MADE[stage])
        files = sorted(Path().glob(parquet(place))) if place.is_dir() else [place]
        return sum(pq.read_metadata(file).num_rows for file in files)
    except (KeyError, OSError, ValueError, pyarrow.lib.ArrowInvalid):
        return None


class Logbook:
    """The records of one run, written as they come: as text for people, or each as one line of JSON.

    As JSON every line on `out` is an object with `record`: line (a stage's own line of counts), stage, problem (of a
    refusal) or summary. Also a text stream, so that what is printed during a run becomes lines.
    """

    def __init__(self, command: str, *, as_json: bool, out: TextIO | None = None) -> None:
        self.command, self.as_json, self.out = command, as_json, out or sys.stdout
        self.began = now()
        self.stages: dict[str, str] = {}  # outcome by name, in the order seen
        self.more: dict[str, Any] = {}  # what a command adds to the summary
        self._open: tuple[str, datetime] | None = None
        self._half = ""

    def emit(self, record: str, **facts: Any) -> None:
        """Write one record as JSON; text has its own words and leaves it out."""
        if self.as_json:
            told = {"record": record, "time": stamp(now()), **facts}
            print(json.dumps(told, ensure_ascii=False, allow_nan=False), file=self.out, flush=True)

    def write(self, text: str) -> int:
        """Take printed text and tell each line once it is whole."""
        *lines, self._half = (self._half + text).split("\n")
        for line in lines:
            self.line(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: every line is flushed as it is told."""

    def line(self, text: str) -> None:
        """Tell one line of DVC or of a stage, and open or close the stage that it announces."""
        begun, kept = STARTED.search(text), KEPT.search(text)
        if begun or kept:
            self.close()
        if self.as_json:
            if text.strip():
                self.emit("line", stage=self._open[0] if self._open else begun and begun[1], text=text.rstrip())
        else:
            print(text, file=self.out, flush=True)
        if begun:
            self._open = (begun[1], now())
        elif kept and kept[1] not in self.stages:
            self._record(kept[1], now(), "unchanged" if kept[2] == "didn't change" else "restored", 0)

    def close(self, code: int = 0) -> None:
        """End the stage that is running, with the exit code that the run ended with."""
        if self._open is not None:
            (stage, began), self._open = self._open, None
            self._record(stage, began, "failed" if code else "done", code)

    def _record(self, stage: str, began: datetime, outcome: str, code: int) -> None:
        """Tell that a stage has ended."""
        self.stages[stage] = outcome
        ended, rows = now(), None if code else rows_made(stage)
        seconds = round((ended - began).total_seconds(), 3)
        self.emit("stage", stage=stage, outcome=outcome, start=stamp(began), end=stamp(ended), seconds=seconds,
                  rows=rows, exit_code=code)  # fmt: skip
        if not self.as_json and outcome in ("done", "failed"):
            made = "" if rows is None else f", {rows:,} rows"
            print(f"{self.command:<9} {stage} {outcome} in {seconds:.1f} s{made}", file=self.out, flush=True)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Tell what was refused before a stage ran; people read it on stderr."""
        for problem in problems:
            self.emit("problem", stage=None, **problem.record())

    def summary(self, code: int, failure: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return how the run ended, as plain facts. failure: the record that a stage left, where one refused."""
        self.close(code)
        for problem in (failure or {}).get("problems", []):
            self.emit("problem", stage=failure and failure["stage"], **problem)
        publish, manifest = self.stages.get("publish"), versions.current_manifest() or {}
        away = code == 8 and (failure or {}).get("stage") == "publish"
        away |= publish == "done" and code in (2, 4, 8)  # `watch` published, and who follows did not take all of it
        outcome = (
            ("published" if publish == "done" else "nothing to do") if code == 0
            else PARTLY if away
            else f"ended by signal {code - 128}" if code > 128
            else WORDS.get(code, WORDS[1])
        )  # fmt: skip
        facts: dict[str, Any] = {
            "command": self.command, "outcome": outcome, "exit_code": code, "start": stamp(self.began),
            "end": stamp(now()), "seconds": round((now() - self.began).total_seconds(), 3), "stages": self.stages,
            "stage": (failure or {}).get("stage"), "current": {
                key: manifest.get(key)
                for key in ("run_id", "source", "as_of", "rows", "model_version", "data_version")
            } if manifest else None, "checks": None, "retrain": None,
        }  # fmt: skip
        if {"monitor", "report"} & self.stages.keys():  # else what lies there is of an earlier run
            facts |= judged()
        return facts | self.more

    def end(self, facts: dict[str, Any]) -> None:
        """Tell how the run ended in one line: on stdout where all is well, else on stderr; as JSON always on stdout."""
        self.emit("summary", **facts)
        if not self.as_json:
            print(sentence(facts), file=self.out if facts["exit_code"] == 0 else sys.stderr, flush=True)


def judged() -> dict[str, Any]:
    """Return how many checks of the run found something, by severity, and whether it proposes to retrain."""
    try:
        checks = read_json(Path("data/monitor/checks.json"))
        told = read_json(Path("data/monitor/figures.json"))["run"]
    except (OSError, ValueError, KeyError):
        return {}
    found = [check for check in checks if check["answer"] == "found"]
    by_severity = {name: [c["code"] for c in found if c["severity"] == name] for name in ("stop", "warn", "note")}
    proposed = retraining.proposal(checks, until=told.get("until"), as_of=told.get("as_of"))
    return {"checks": by_severity, "retrain": proposed}


def sentence(facts: dict[str, Any]) -> str:
    """Return the summary as one line."""
    code, parts = facts["exit_code"], []
    stands = code in (0, 8) or facts["outcome"] == PARTLY
    ended = facts["outcome"] if stands else f"nothing published, {facts['outcome']}"
    parts.append(ended + (f" (exit code {code})" if code else ""))
    parts.append(versions.describe_current())
    if facts["checks"] is not None:
        parts.append("checks " + ", ".join(f"{name} {len(codes)}" for name, codes in facts["checks"].items()))
    if facts["retrain"] is not None and facts["retrain"]["proposed"]:
        parts.append(retraining.told(facts["retrain"]))
    return f"{facts['command']}: " + "; ".join((*parts, f"{facts['seconds']:.0f} s"))
