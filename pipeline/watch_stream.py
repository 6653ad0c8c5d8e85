"""watch where the engine is Spark: structured streaming over the inbox, each batch handed to the same function.

Spark's file source notices what arrives (also where the inbox is filled by many writers) and keeps in its checkpoint
what it has seen; what is done with a delivery is `watch.look`, as without Spark, and the few customers that it touches
are built on this machine. Spark is told of a file once, so that deliveries which were still arriving, or were put back
after they had been mended, are looked at between batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import watch
from pipeline.inbox import check
from pipeline.params import source_name
from pipeline.spark_session import SparkEngine, address, session
from pipeline.watch import Asked

CHECKPOINT = Path(".run/watch/stream")
BETWEEN = 10  # looks of Spark's, after which the inbox is looked at whatever Spark has seen


def stream(asked: Asked, engine: SparkEngine, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Take deliveries as Spark sees them arrive, until a signal ends this process, or `stop` says so (0).

    Refuses as `watch.watch` does, and (exit code 4, 8) where Spark is not to be had.
    """
    check(asked.inbox, source_name())
    looks = watch.Looks(asked)
    while not looks.prepared and not stop():
        looks.prepare()
        threading.Event().wait(0 if looks.prepared else asked.every)
    alone, failed, batches = threading.Lock(), list[BaseException](), [0]

    def look() -> None:
        with alone:
            looks.look()

    def batch(frame: Any, number: int) -> None:
        """Look at the inbox for the files of one batch; what is refused is raised where the process waits."""
        del number
        try:
            if frame.count():
                batches[0] += 1
                threading.Event().wait(asked.settle)
                look()
        except BaseException as error:
            failed.append(error)
            raise

    spark = session(engine)
    try:
        spark.conf.set("spark.sql.files.ignoreMissingFiles", "true")  # a delivery is moved away as a whole
        arriving = (
            spark.readStream.format("text").option("wholetext", "true").option("recursiveFileLookup", "true")
            .schema("value string").load(address(asked.inbox)).selectExpr("1 AS one")
        )  # fmt: skip
        query = (
            arriving.writeStream.foreachBatch(batch).option("checkpointLocation", address(CHECKPOINT))
            .trigger(processingTime=f"{max(asked.every, 0.1):g} seconds").start()
        )  # fmt: skip
        print(f"watch: Spark streams deliveries from {asked.inbox}", flush=True)
        ticks = 0
        while not stop() and not failed:
            threading.Event().wait(asked.every)
            ticks += 1
            if query.exception() is not None and not failed:
                failed.append(RuntimeError(str(query.exception())))
            if not failed and (looks.torn or ticks % BETWEEN == 0):
                look()
        query.stop()
        print(f"watch: {batches[0]} batches", flush=True)
    finally:
        spark.stop()
    if failed:
        raise failed[0]
    return 0
