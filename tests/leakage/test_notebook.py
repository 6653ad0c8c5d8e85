"""The notebooks run from top to bottom on real data, and are kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


RUN = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
where = {"metadata": {"path": sys.argv[2]}}
nbclient.NotebookClient(book, timeout=400, kernel_name="python3", resources=where).execute()
print(sum(len(cell.get("outputs", ())) for cell in book.cells))
"""


@pytest.mark.slow
@pytest.mark.realdata
def test_leakage_in_berka_runs(realdata, tmp_path):
    if not (realdata / "berka").is_dir():
        pytest.skip(f"{realdata}/berka is not there")
    environment = os.environ | {
        "BELLWETHER_REALDATA": str(realdata), "PYTHONPATH": str(ROOT), "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "notebooks/leakage_in_berka.ipynb"), str(ROOT / "notebooks")],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 5
