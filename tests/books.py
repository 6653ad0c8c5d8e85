"""Notebooks, executed from top to bottom, or only the cells that are quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from workspaces import ROOT

WHOLE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
where = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(book, timeout=400, kernel_name="python3", resources=where).execute()
outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
print("\\n".join((output.get("data") or {}).get("text/markdown", "") for output in outputs))
print(len(outputs))
"""


def execute(name: str, folder: Path, scratch: Path, **environment: str) -> str:
    """Run a notebook of ours in `folder`; return what it shows as Markdown and, as last line, its number of outputs."""
    return _run([WHOLE, str(ROOT / "notebooks" / name), str(folder)], folder, scratch, environment)


def execute_without(name: str, tag: str, folder: Path, scratch: Path, show: str = "", **environment: str) -> str:
    """Run the code cells that do not carry a tag as one script, without a kernel; return what they print.

    show: a name whose value is printed at the end.
    """
    cells = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells
            if cell["cell_type"] == "code" and tag not in cell["metadata"].get("tags", ())]  # fmt: skip
    assert len(code) > 2
    code += [f"print({show})"] if show else []
    return _run(["\n".join(code)], folder, scratch, environment | {"MPLBACKEND": "Agg"})


def _run(arguments: list[str], folder: Path, scratch: Path, environment: dict[str, str]) -> str:
    homes = {"JUPYTER_DATA_DIR": "jupyter", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    given = (
        os.environ | {key: str(scratch / name) for key, name in homes.items()} | {"PYTHONPATH": str(ROOT)} | environment
    )
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=folder, env=given, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
