"""watch on Spark: each file that arrives is a batch, and a batch is handed to the function that `watch` itself calls."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from features.errors import DataRefused, Problem
from pipeline import inbox, watch, watch_stream
from pipeline.spark_session import SparkEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]
ENGINE = SparkEngine.model_validate(
    {"spark": "local[1]", "config": {"spark.sql.shuffle.partitions": 1, "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}}
)  # fmt: skip


def test_what_arrives_is_looked_at_in_a_batch_and_a_refusal_ends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("source: lender\n")
    for folder in ("in box", "data/raw/lender"):
        Path(folder).mkdir(parents=True)
    seen: list[tuple[str, bool]] = []

    def look(asked: watch.Asked, torn: dict[str, float]) -> list[int]:
        del torn
        for arrival in inbox.arrivals(asked.inbox):
            if arrival.name == "bad":
                raise DataRefused(Problem("bad", "good", "bad", "Mend it."))
            inbox.take(arrival, "lender")
            seen.append((arrival.name, threading.current_thread() is threading.main_thread()))
            if len(seen) == 1:
                deliver("second")
            else:
                deliver("bad")
        return []

    def deliver(name: str) -> None:
        Path("made", name).mkdir(parents=True)
        for file in ("a.csv", "b.csv"):
            Path("made", name, file).write_text("x\n1\n")
        Path("made", name).rename(Path("in box", name))

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(watch, "ready", lambda _: None)
    monkeypatch.setattr(watch_stream, "BETWEEN", 10**9)  # Spark alone says when
    deliver("first")
    end = time.monotonic() + 900
    asked = watch.Asked(Path("in box"), settle=0, every=0.5)
    with pytest.raises(DataRefused, match="must be good"):
        watch_stream.stream(asked, ENGINE, stop=lambda: time.monotonic() > end)
    assert seen == [("first", False), ("second", False)]
    assert sorted(path.name for path in Path("data/raw/lender").iterdir()) == ["first", "second"]
