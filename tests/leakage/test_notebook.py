"""The notebooks are kept without outputs; that on leakage runs from top to bottom on real data."""

from __future__ import annotations

import json

import pytest
from books import execute
from workspaces import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.realdata
def test_leakage_in_berka_runs(realdata, tmp_path):
    if not (realdata / "berka").is_dir():
        pytest.skip(f"{realdata}/berka is not there")
    told = execute("leakage_in_berka.ipynb", ROOT / "notebooks", tmp_path, BELLWETHER_REALDATA=str(realdata))
    assert int(told.split()[-1]) >= 5
