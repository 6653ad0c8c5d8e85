"""Servers that tests start themselves, on loopback, and end by their own process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    homes = [Path(found).resolve().parent] if found else []
    homes += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((home for home in homes if (home / "pg_ctl").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a fresh PostgreSQL on loopback; skip, saying why, where there is none to start."""
    home = _binaries()
    if home is None:
        pytest.skip("PostgreSQL's own programs (initdb, pg_ctl) are not installed")
    root = os.geteuid() == 0  # as which the server refuses to run
    who = {"user": 65534, "group": 65534, "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="bellwether-pg-"))
    try:
        if root:
            os.chown(folder, 65534, 65534)
        data, port = folder / "data", free_port()

        def run(*command: str) -> None:
            subprocess.run(command, check=True, cwd=folder, timeout=60, capture_output=True, **who)  # type: ignore[call-overload]

        run(str(home / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -F"
        run(str(home / "pg_ctl"), "-w", "-D", str(data), "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run(str(home / "pg_ctl"), "-D", str(data), "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
