"""bellwether.duckdb of a version, written by a process of its own.

Where a disk is full or broken while it commits, the engine does not say so: it ends the process that it lives in.
Then that is this module, run as a program, and the stage that asked for the file can refuse and tidy up.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

DATABASE = "bellwether.duckdb"
TABLE = "scored_customers"
UNSYNCED = "fsync failed"  # all that the engine says where a disk does not keep what it was given


def write(folder: Path) -> None:
    """Write the database beside scored_customers.parquet, which it holds as a table in order of customer_id.

    Raises the operating system's error where the disk has none (full, broken, closed).
    """
    from pipeline.stage import DISK

    done = subprocess.run(
        [sys.executable, "-I", __file__, str(folder.absolute())],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return
    number = next((number for number in DISK if os.strerror(number) in done.stderr), None)
    if number is None and UNSYNCED in done.stderr:
        number = errno.EIO
    if number is not None:
        raise OSError(number, os.strerror(number), DATABASE)
    raise RuntimeError(f"{DATABASE}: exit code {done.returncode}: {done.stderr[-500:]}")


def main(folder: Path) -> None:
    """Write the database of a folder."""
    import duckdb

    with duckdb.connect(str(folder / DATABASE)) as connection:
        connection.execute(
            f"create table {TABLE} as select * from read_parquet(?) order by customer_id",
            [str(folder / f"{TABLE}.parquet")],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
