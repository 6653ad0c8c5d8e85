"""The simulate stage: monthly folders with honest manifests, the same bytes however many months follow."""

import hashlib
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from features.errors import ConfigurationRefused
from models.world import KNOWN, TOTAL
from models.world.columns import cents_of, money
from pipeline import simulate

ROOT = Path(__file__).parents[2]
SMALL = {"customers": 500, "chunk_customers": 200, "months": 6}


def write(folder, **changes):
    """Run the stage's pure part into folders under `folder`; return every file's bytes by its relative name."""
    raw, truth = folder / "raw", folder / "truth"
    raw.mkdir(parents=True)
    truth.mkdir()
    simulate.run(simulate.Params(**(SMALL | changes)), raw, truth)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_truth(folder, files):
    path = folder / "truth.parquet"
    path.write_bytes(files["truth/truth.parquet"])
    return pq.read_table(path).to_pandas()


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return write(tmp_path_factory.mktemp("six") / "world")


def test_one_more_month_adds_a_folder_and_changes_no_byte_of_the_others(six, tmp_path):
    seven = write(tmp_path / "world", months=7)
    added = set(seven) - set(six)
    assert {Path(name).parent.name for name in added} == {"2021-07"}
    for name, text in six.items():
        if not name.startswith("truth"):
            assert seven[name] == text, name
    before, after = (read_truth(tmp_path, files) for files in (six, seven))
    assert after[after.as_of.astype(str) <= "2021-07-01"].reset_index(drop=True).equals(before)


def test_the_same_parameters_give_the_same_bytes_and_another_seed_others(six, tmp_path):
    assert write(tmp_path / "again") == six
    other = write(tmp_path / "other", seed=8)
    assert other["raw/2021-03/movements.csv"] != six["raw/2021-03/movements.csv"]


def test_manifests_state_what_the_files_hold(six):
    manifests = {name: json.loads(text) for name, text in six.items() if name.endswith("manifest.json")}
    assert [manifest["delivered_on"] for _, manifest in sorted(manifests.items())] == [
        "2021-01-31", "2021-02-28", "2021-03-31", "2021-04-30", "2021-05-31", "2021-06-30",
    ]  # fmt: skip
    for name, manifest in manifests.items():
        folder = name.removesuffix("manifest.json")
        assert manifest["complete"] is True
        assert {folder + file for file in manifest["files"]} == {
            other for other in six if other.startswith(folder) and other.endswith(".csv")
        }
        for file, stated in manifest["files"].items():
            text = six[folder + file]
            assert b"\0" not in text
            header, *lines = text.decode().splitlines()
            assert stated["sha256"] == hashlib.sha256(text).hexdigest()
            assert stated["rows"] == len(lines) > 0
            columns = header.split(",")
            for column, total in stated["totals"].items():
                values = [line.split(",")[columns.index(column)] for line in lines]
                assert Decimal(total) == sum(Decimal(value or 0) for value in values)
            known = columns.index(KNOWN[file.removesuffix(".csv")])
            assert {line.split(",")[known][:7] for line in lines} == {Path(folder).name}


def test_every_table_is_delivered_and_named_as_the_mapping_reads_it(six):
    mapping = yaml.safe_load((ROOT / "data/sources/simulated.yaml").read_text())
    blocks = [b for table in mapping["tables"].values() for b in (table if isinstance(table, list) else [table])]
    assert {block["files"] for block in blocks} == {f"*/{name}.csv" for name in KNOWN}
    assert {Path(name).stem for name in six if name.endswith(".csv")} == set(KNOWN)
    assert set(TOTAL) <= set(KNOWN)


def test_truth_has_one_row_a_customer_and_date_and_probabilities(six, tmp_path):
    rows = read_truth(tmp_path, six)
    assert not rows.duplicated(["customer_id", "as_of"]).any()
    assert rows.true_pd.between(0, 1).all()
    assert {str(day) for day in rows.as_of} == {f"2021-{month:02d}-01" for month in range(2, 8)}


@given(st.lists(st.integers(-(10**14), 10**14)))
def test_money_is_exact_to_the_cent(values):
    import numpy as np
    import pyarrow as pa

    column = money(np.array(values, dtype=np.int64))
    assert column.to_pylist() == [Decimal(value) / 100 for value in values]
    assert cents_of(pa.chunked_array([column, column.slice(1)])) == sum(values) + sum(values[1:])
    assert simulate.decimal_text(sum(values)) == f"{Decimal(sum(values)) / 100:.2f}".replace("-0.00", "0.00")


def stage(folder, params):
    """Run the stage as a process in `folder`, which holds nothing but params.yaml."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return subprocess.run(
        [sys.executable, "-m", "pipeline.simulate"],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_another_source_leaves_empty_folders_and_says_so(tmp_path):
    stale = tmp_path / "data/raw/simulated/2021-01/movements.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    done = stage(tmp_path, {"source": "berka", "simulate": SMALL})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert list((tmp_path / "data/raw/simulated").iterdir()) == []
    assert list((tmp_path / "data/simulate").iterdir()) == []


def test_the_stage_writes_what_its_pure_part_writes(six, tmp_path):
    done = stage(tmp_path, {"source": "simulated", "simulate": SMALL})
    assert done.returncode == 0, done.stderr
    assert "deliveries 6" in done.stdout
    found = {
        str(p.relative_to(tmp_path / "data")): p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()
    }
    expected = {
        name.replace("raw/", "raw/simulated/").replace("truth/", "simulate/truth/", 1): t for name, t in six.items()
    }
    assert found == expected


def test_an_unknown_parameter_is_refused_with_exit_code_4(tmp_path):
    done = stage(tmp_path, {"source": "simulated", "simulate": {"customer": 5}})
    assert done.returncode == 4
    assert "simulate.customer" in done.stderr


def test_a_start_that_is_no_month_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text('source: simulated\nsimulate: {start: "2021-13"}\n')
    with pytest.raises(ConfigurationRefused):
        simulate.Params.load()
