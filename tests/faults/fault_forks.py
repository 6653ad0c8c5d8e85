"""Stages as processes of their own that begin at once: children of one process that has imported all that they need.

So a kill, a full disk or a mutant costs what the stage costs, not what its imports do; the parent has no threads yet,
so that a child is as sound as a process begun anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspaces import ROOT

SERVER = r"""
import ctypes, importlib, json, os, sys
import pipeline
from pipeline.stage import execute
stages = {name: importlib.import_module(f"pipeline.{name}") for name in sys.argv[1].split(",")}
for name in sys.argv[2].split(","):
    importlib.import_module(name)
for name in ("publish", "promote"):
    if name in stages:
        stages[name]._track = lambda *_: None  # whole runs track
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.chdir(asked["folder"])
            os.environ.update(asked["environment"])
            for number, name in ((0, os.devnull), (1, asked["said"]), (2, asked["said"])):
                handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(handle, number)
                os.close(handle)
            shim = ctypes.CDLL(None)
            if hasattr(shim, "fault_arm"):
                shim.fault_arm(0, 0, 0, b"/")
            if asked["arm"]:
                shim.fault_arm(*[each.encode() if isinstance(each, str) else each for each in asked["arm"]])
            try:
                if asked["stage"] in stages:
                    execute(asked["stage"], stages[asked["stage"]].main)
                from pipeline import __main__ as command_line
                sys.exit(command_line.main(asked["stage"].split()))
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                import traceback
                traceback.print_exc()
            if asked["arm"]:
                print("writes", shim.fault_seen())
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    print(child, flush=True)
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
"""
SLOWEST = 10  # seconds of processor time, whatever else the machine does, and
PATIENCE = 90  # seconds of the clock
IMPORTS = "pipeline.build,optuna,optuna.storages.journal,lightgbm,pyarrow.parquet,pandas,duckdb,models.scorer,models.export,rich.progress,pipeline.held,pipeline.sinks,yaml"


@dataclass(frozen=True)
class Begun:
    """A stage that runs in a session of its own."""

    pid: int
    said: Path
    forks: Forks

    def wait(self) -> int:
        """Return the exit code, negative for a signal; a stage that hangs is killed and fails the test."""
        answered, _, _ = select.select([self.forks.process.stdout], [], [], PATIENCE)
        if not answered:
            self.kill()
        code, used = self.forks.line().split()
        assert answered, f"hung for {PATIENCE} s: {self.text[-2000:]}"
        assert float(used) < SLOWEST, f"took {used} s of processor time: {self.text[-2000:]}"
        return int(code)

    def kill(self) -> None:
        """Kill the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def text(self) -> str:
        return self.said.read_text(errors="replace") if self.said.exists() else ""


class Forks:
    """The parent of stages."""

    def __init__(self, stages: tuple[str, ...], said: Path, preload: Path | None = None) -> None:
        self.said = said
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if preload:
            shared = said.with_name("orders")
            shared.write_bytes(bytes(8192))
            environment |= {"LD_PRELOAD": str(preload), "FAULT_SHARED": str(shared)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, ",".join(stages), IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            bufsize=0, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()  # not buffered: `wait` looks whether more has come

    def begin(self, stage: str, folder: Path, *arm: Any, **environment: str) -> Begun:
        """Start a stage, or a command of `python -m pipeline`, in a folder; a preloaded shim is told `arm` first."""
        self.said.unlink(missing_ok=True)
        asked = {"stage": stage, "folder": str(folder), "said": str(self.said), "environment": environment, "arm": arm}
        assert self.process.stdin
        self.process.stdin.write(f"{json.dumps(asked)}\n".encode())
        return Begun(int(self.line()), self.said, self)

    def run(self, stage: str, folder: Path, *arm: Any, **environment: str) -> tuple[int, str]:
        """Run a stage to its end; return exit code and what it said."""
        begun = self.begin(stage, folder, *arm, **environment)
        return begun.wait(), begun.text

    def end(self) -> None:
        """End the parent, and a stage that it may still wait for."""
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
