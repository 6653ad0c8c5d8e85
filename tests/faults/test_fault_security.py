"""G3 to G8, A4, C10, F11: pickles, bombs, formulas, secrets, canaries, sockets, and what the environment is made of."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickletools
import re
import socket
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_ground import CANARY, QUICK, WORDS, Shop
from workspaces import ROOT, Workspace, copy_project

from features.errors import IntegrityRefused, ServiceRefused
from pipeline import answers, desk_files, packed, supply

fault = pytest.mark.fault


# --- G3: no pickle is read or written


def holds_a_pickle(data: bytes) -> bool:
    """Tell whether bytes are a pickle of protocol 2 or later, as a whole, by Python's own reader of its opcodes."""
    if data[:1] != b"\x80" or data[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return False
    try:
        return any(op.name == "STOP" for op, _, _ in pickletools.genops(data))
    except Exception:  # noqa: BLE001  whatever else begins so
        return False


def members(path: Path) -> list[tuple[str, bytes]]:
    """Return the bytes of a file, and of each member where it is a zip (joblib, skops, workbooks, numpy's npz)."""
    data = path.read_bytes()
    parts = [(path.name, data)]
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts += [(name, archive.read(name)) for name in archive.namelist()]
    return parts


SUFFIXES = (".pkl", ".pickle", ".joblib", ".skops", ".dill", ".cloudpickle", ".pt", ".npy", ".npz", ".h5")


@fault("G3")
def test_no_file_that_a_whole_run_wrote_can_hold_a_pickle(lender: Workspace):
    """Files of ours and MLflow's; DVC's own caches of hashes, private to the run's user, are the one place left."""
    looked = 0
    for top in ("data", "mlruns", ".run", ".dvc/cache"):
        for path in sorted(each for each in (lender.folder / top).rglob("*") if each.is_file()):
            assert path.suffix not in SUFFIXES, path
            for name, data in members(path):
                assert not holds_a_pickle(data), (path, name)
                assert not name.endswith(SUFFIXES), (path, name)
            looked += 1
    assert looked > 200


@fault("G3")
@pytest.mark.sample
def test_the_search_finds_pickles(tmp_path: Path):
    import pickle

    for protocol in (2, 3, 4, 5):
        assert holds_a_pickle(pickle.dumps({"a": [1]}, protocol))
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", pickle.dumps([1]))
    assert any(holds_a_pickle(data) for _, data in members(path))
    assert not holds_a_pickle(b"\x80\x04 no pickle")


LOADERS = {  # modules that read or write pickles, and calls that may
    "pickle", "_pickle", "cPickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "skops", "torch",
}  # fmt: skip
CALLS = {("np", "load"), ("np", "save"), ("numpy", "load"), ("pd", "read_pickle"), ("builtins", "eval"), ("builtins", "exec")}  # fmt: skip
METHODS = {"to_pickle", "read_pickle", "load_model", "save_model", "register_model"}


def pickles_in(source: str) -> list[str]:
    """Return what a module's text uses that reads or writes pickles or runs text as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.partition(".")[0] in LOADERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LOADERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in ("eval", "exec", "compile", "__import__"):
                found.append(called.id)
            if isinstance(called, ast.Attribute):
                holder = called.value.id if isinstance(called.value, ast.Name) else ""
                if called.attr in METHODS or (holder, called.attr) in CALLS:
                    found.append(f"{holder}.{called.attr}")
    return found


@fault("G3")
@pytest.mark.sample
def test_no_module_of_ours_loads_or_writes_one():
    found = {}
    for room in ("pipeline", "models", "features"):
        for path in sorted((ROOT / room).rglob("*.py")):
            used = pickles_in(path.read_text(encoding="utf-8"))
            if used:
                found[path.relative_to(ROOT).as_posix()] = used
    assert found == {}
    assert pickles_in("import joblib\nfrom pickle import loads\nnp.load(x)\nframe.to_pickle(y)\neval(z)") == [
        "joblib", "pickle", "np.load", "frame.to_pickle", "eval",
    ]  # fmt: skip


# --- A4: bombs


def workbook(size: int) -> bytes:
    """Return a workbook whose sheet unpacks to so many bytes of one cell."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("xl/worksheets/sheet1.xml", "w") as sheet:
            for _ in range(size >> 22):
                sheet.write(b"a" * (1 << 22))
    return out.getvalue()


def columns(rows: int) -> bytes:
    """Return a Parquet file of so many rows that are all alike."""
    out = io.BytesIO()
    places = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))])
    alike = pa.DictionaryArray.from_arrays(places, pa.array(["x"]))
    pq.write_table(pa.table({"no": alike}), out, compression="zstd")
    return out.getvalue()


@fault("A4")
@pytest.mark.parametrize("form", ["xlsx", "parquet"])
def test_a_workbook_or_parquet_that_unpacks_without_end_is_refused_at_once(form: str, shop: Shop, monkeypatch):
    monkeypatch.setattr(packed, "LEAST_BOMB", 1 << 20)  # of bytes or rows: a smaller bomb is made sooner
    data = workbook(64 << 20) if form == "xlsx" else columns(4_000_000)
    assert len(data) < 200 << 10
    shop.drop("moves.csv")
    shop.put(f"moves.{form}", data)
    shop.mapped(f"{{type: {form}}}")
    before = time.process_time()
    found = shop.refused(5, "archive that can be data")
    assert time.process_time() - before < 5
    assert found.record
    assert found.record["problems"][0]["file"] == f"moves.{form}"


# --- C10: every table for spreadsheets, not the scored one alone

STARTS = ["=", "+", "-", "@", "\t=", "\r=", " =", "\u00a0=", "\u3000+", "\ufeff=", "\uff1d", "\uff0b", "\n@"]
BODIES = ["cmd|' /C calc'!A0", 'HYPERLINK("http://x.y","z")', "1+1", "SUM(A1:A9)*cmd|'/c calc'!A0"]
PAYLOADS = [start + body for start in STARTS for body in BODIES]
RUNS = tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r\0")


@fault("C10")
@pytest.mark.sample
def test_more_than_fifty_formulas_are_text_in_csv_and_workbook(tmp_path: Path):
    import openpyxl

    assert len(PAYLOADS) >= 50
    table = pa.table({"customer_id": PAYLOADS, "why": PAYLOADS[::-1], "=1+1": [-1.5] * len(PAYLOADS)})
    answers.write(table, tmp_path / "one.csv")
    text = (tmp_path / "one.csv").read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    desk_files.write_workbook(table, tmp_path / "one.xlsx", "en")
    sheet = openpyxl.load_workbook(tmp_path / "one.xlsx").worksheets[0]
    shown = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert len(rows) == len(shown) == len(PAYLOADS) + 1
    for row in (*rows[1:], *shown[1:]):
        for cell in row[:2]:
            assert not str(cell).lstrip(" \n\u00a0\u3000\ufeff\u200b").startswith(RUNS), ascii(cell)
        assert float(row[2]) == -1.5, "a number stays one"
    assert not rows[0][2].startswith("=")
    assert {cell.data_type for row in sheet.iter_rows(min_row=2) for cell in row} == {"s", "n"}, "no formula"


# --- G6: ten thousand canaries

COUNT = 10_000
PEOPLE = """name: canaries
currency: EUR
as_of: 2024-01-01
tables:
  customers:
    files: people.csv
    columns: {customer_id: id, segment: branch}
    attributes: {categorical: {holder: holder, iban: iban}}
  observations:
    files: applicants.csv
    columns: {customer_id: id, outcome: bad}
    attributes: {numeric: {debt: debt, age: age}, categorical: {word: word}}
"""


def lay_out_canaries(folder: Path, draw, count: int = COUNT) -> None:
    """Write customers whose identifiers, names and account numbers are unlike anything else."""
    people, asked = ["id,branch,holder,iban"], ["id,debt,age,word,bad"]
    for n in range(count):
        debt = draw.gammavariate(2, 1)
        people.append(f"{CANARY}{n:05d},retail,Kanarienname{n:05d},XX99KANARIE{n:05d}")
        asked.append(f"{CANARY}{n:05d},{debt:.3f},{draw.randint(20, 70)},{draw.choice(WORDS)},{int(draw.random() < 0.05 + debt / 20)}")  # fmt: skip
    raw = folder / "data/raw/canaries"
    raw.mkdir(parents=True)
    people.append(
        f"{CANARY}00001,retail,Kanarienname-zweimal,XX99KANARIE-zweimal"
    )  # a conflict: both go into quarantine
    (raw / "people.csv").write_text("\n".join(people) + "\n")
    (raw / "applicants.csv").write_text("\n".join(asked) + "\n")
    (folder / "data/sources/canaries.yaml").write_text(PEOPLE)


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which a source of canaries was run, with everything that a run writes; FAULT_AVIARY may name one."""
    import random

    standing = os.environ.get("FAULT_AVIARY")
    if standing:
        return Workspace(Path(standing))
    workspace = copy_project(tmp_path_factory.mktemp("aviary") / "project")
    lay_out_canaries(workspace.folder, random.Random(os.environ.get("FAULT_SEED", "1")))
    workspace.set_params({**QUICK, "source": "canaries"})
    done = workspace.pipeline("run", "--log", "json", BELLWETHER_CANARY_URL="postgres://clerk:hunter2@nowhere/db")
    (workspace.folder / ".run/log.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return workspace


BIRDS = re.compile(rb"CANARY-\d{5}|Kanarienname|XX99KANARIE")
NAMES = re.compile(rb"Kanarienname|XX99KANARIE")
# Tables keyed by customers, and the pages and files made for those who act on them; all else must not name one.
KEYED = (
    "data/raw/", "data/ingest/tables/", "data/ingest/quarantine/", "data/ingest/index/", "data/observe/",
    "data/featurise/training/", "data/featurise/scoring/", "data/select/parts", "data/train/out_of_fold",
    "data/calibrate/", "data/evaluate/predictions", "data/score/scores", "data/explain/reasons", "data/decide/table",
    "data/decide/alert", "data/decide/overrides", "data/worklist/worklist.",
    "data/worklist/calendar.", "data/report/index.html",
    "data/report/worklist.html", "data/monitor/figures.json", "data/report/figures.json",
)  # fmt: skip
PUBLISHED = (
    "scored_customers.", "bellwether.duckdb", "alerts.parquet", "changes.parquet", "overrides.parquet",
    "worklist/worklist.", "worklist/calendar.", "report/index.html", "report/worklist.html", "report/figures.json",
    "inputs/data/select/parts",
    "inputs/data/evaluate/predictions",
)  # fmt: skip


def said_by(path: Path) -> bytes:
    """Return a file's bytes, and what its cells say where they are packed."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        data += repr(pq.read_table(path).to_pylist()).encode() + repr(pq.read_schema(path).metadata).encode()
    elif data[8:12] == b"DUCK":
        with duckdb.connect(str(path), read_only=True) as connection:
            for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                data += repr(connection.execute(f'SELECT * FROM "{table}"').fetchall()).encode()
    elif data[:4] == b"PK\x03\x04":
        data += b"".join(part for _, part in members(path))
    return data


@fault("G6")
def test_ten_thousand_canaries_turn_up_in_nothing_but_the_tables_keyed_by_them(aviary: Workspace):
    folder, wrong, looked, held = aviary.folder, [], 0, set()
    tops = ("data", "mlruns", ".run", ".dvc", "dvc.lock", "dvc.yaml", "params.yaml", "requirements")
    for path in (
        each for top in tops for each in ([folder / top] if (folder / top).is_file() else (folder / top).rglob("*"))
    ):
        name = path.relative_to(folder).as_posix()
        if (
            not path.is_file() or path.is_symlink() or name.startswith(".dvc/cache/")
        ):  # that holds the same files by hash
            continue
        looked += 1
        birds = set(BIRDS.findall(said_by(path)))
        published = name.startswith("data/publish/versions/") and name.split("/", 4)[-1].startswith(PUBLISHED)
        if birds and not name.startswith(KEYED) and not published:
            wrong.append(name)
        if name.endswith("scored_customers.parquet"):
            held = birds
    assert wrong == []
    assert looked > 200
    assert len(held) >= COUNT - 1, "the search finds canaries where they are"


@fault("G6")
def test_names_and_account_numbers_stay_in_tables_of_what_was_delivered(aviary: Workspace):
    """They are attributes of the mapping: canonical tables, quarantine and features hold them, nothing that is made of them.

    A text that is nearly unique is no feature of the model, so neither the table nor the page repeats one.
    """
    held = ("data/raw/", "data/ingest/tables/", "data/ingest/quarantine/", "data/featurise/training/features.",
            "data/featurise/scoring/features.")  # fmt: skip
    wrong = [
        name
        for path in (aviary.folder / "data").rglob("*")
        if path.is_file() and not path.is_symlink()
        for name in [path.relative_to(aviary.folder).as_posix()]
        if not name.startswith(held) and NAMES.search(said_by(path))
    ]
    assert wrong == []


@fault("G6", "G7")
def test_what_the_run_printed_names_nobody_and_no_secret(aviary: Workspace):
    log = (aviary.folder / ".run/log.txt").read_bytes()
    assert len(log) > 1000
    assert not BIRDS.search(log)
    for path in (each for top in ("data", "mlruns", ".run") for each in (aviary.folder / top).rglob("*")):
        if path.is_file() and not path.is_symlink():
            assert b"hunter2" not in path.read_bytes(), path


SECRETS = re.compile(rb"[a-z+]{2,12}://[^\s:/@\"'<>]{1,64}:[^\s/@\"'<>]{1,64}@|-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}"
                     rb"|(?i:password|secret|api_?key|token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{8,}[\"']")  # fmt: skip


@fault("G7")
def test_no_file_of_a_run_looks_as_if_it_held_a_secret(lender: Workspace):
    assert SECRETS.search(b"postgres://u:p@host/db")
    assert SECRETS.search(b'"password": "hunter2hunter2"')
    for path in (
        each
        for top in ("data", "mlruns", ".run", "dvc.lock", "params.yaml")
        for each in [lender.folder / top, *(lender.folder / top).rglob("*")]
    ):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".parquet", ".duckdb"):
            found = SECRETS.search(path.read_bytes())
            assert found is None or path.name == "record.json", (path, found)


# --- G8: who may look


@fault("G8")
def test_nothing_that_a_run_wrote_is_open_to_writing_by_every_user(lender: Workspace):
    site = lender.folder / ".dvc/tmp/site"  # DVC opens what is in it to all; nobody else gets through its door
    for top in ("data", "mlruns", ".run", ".dvc"):
        for path in [lender.folder / top, *(lender.folder / top).rglob("*")]:
            if not path.is_symlink() and site not in path.parents:
                assert not path.stat().st_mode & 0o002, path
    for private in (".run", "mlruns", ".dvc/tmp/site"):
        assert not (lender.folder / private).stat().st_mode & 0o077, private
    assert "/var/tmp" not in (lender.folder / ".dvc/config").read_text()


# --- F11: no socket


WATCHED = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        where = arguments[1] if event != "socket.getaddrinfo" else arguments[:2]
        if not isinstance(where, (str, bytes)):  # a path is a socket of this machine's own
            with open(os.environ["FAULT_SOCKETS"], "a") as handle:
                handle.write(f"{event} {where} {sys.argv[:2]}\\n")
sys.addaudithook(watch)
"""


@fault("F11")
def test_no_stage_opens_a_socket_but_to_the_tracking_server_that_is_named(book: Workspace, tmp_path: Path):
    """DVC's and the stages' processes, by an audit hook; the last two run again, one of which has effects elsewhere."""
    hook, told = tmp_path / "hook", tmp_path / "sockets"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(WATCHED)
    told.touch()
    watched = {"PYTHONPATH": str(hook), "FAULT_SOCKETS": str(told)}
    for stage in ("report", "publish"):  # all of a run goes without network where the machine can cut it off: `lender`
        done = book.run("dvc", "repro", "--force", "--single-item", stage, **watched)
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"Running stage '{stage}'" in done.stdout
    probe = "socket.bind ('::1', 0)"  # urllib3 asks whether there is IPv6; nobody listens there and nothing is sent
    assert [line for line in told.read_text().splitlines() if not line.startswith(probe)] == []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        code = "from pipeline import tracking; tracking.mirror_champion('flat', 'bellwether', 'x', strict=False)"
        tried = book.run("python", "-c", code, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}", **watched)
        assert tried.returncode == 0, tried.stderr[-2000:]
    places = {line.split(" [")[0] for line in told.read_text().splitlines() if not line.startswith(probe)}
    assert any("connect" in place for place in places), "the hook does not see a connection"
    assert all(str(port) in place for place in places), places


# --- the lock, the bill, the environment, the audit


@fault("G3")
@pytest.mark.sample
def test_the_lock_is_hashes_only_and_equals_the_bill_and_what_is_installed():
    """By readers of its own: the lock by lines, the bill by its JSON, the environment by the package manager's own list."""
    lock = (ROOT / "requirements/run.lock").read_text()
    pinned = dict(
        line.removesuffix(" \\").split("==") for line in lock.splitlines() if line and not line.startswith((" ", "#"))
    )
    assert all(
        re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lock.splitlines() if line.startswith(" ")
    )
    assert "://" not in lock
    bill = json.loads((ROOT / "requirements/sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {each["name"]: each["version"] for each in bill["components"]} == {
        supply.canonical(k): v for k, v in pinned.items()
    }
    hashes = {each["content"] for component in bill["components"] for each in component["hashes"]}
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    listed = {}
    for entry in (Path(sys.prefix) / "lib/python3.11/site-packages").glob("*.dist-info"):
        name, version = entry.name.removesuffix(".dist-info").rsplit("-", 1)
        listed[supply.canonical(name)] = version
    assert {k: listed.get(k) for k in map(supply.canonical, pinned)} == {
        supply.canonical(k): v for k, v in pinned.items()
    }


@fault("G3")
@pytest.mark.sample
@pytest.mark.parametrize("fault_of", ["a version", "one more", "one less", "the bill", "a line without hashes"])
def test_an_audit_refuses_what_differs(fault_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("requirements").mkdir()
    for name in ("run.lock", "test.lock", "spark.lock", "cluster.lock", "sbom.cdx.json"):
        (Path("requirements") / name).write_text((ROOT / "requirements" / name).read_text())
    present = supply.installed()
    assert supply.differences(present) == []
    if fault_of == "a version":
        present["numpy"] = "0.0.1"
    elif fault_of == "one more":
        present["left-pad"] = "1.0"
    elif fault_of == "one less":
        del present["duckdb"]
    elif fault_of == "the bill":
        bill = json.loads(supply.SBOM.read_text())
        bill["components"][3]["hashes"].pop()
        supply.SBOM.write_text(json.dumps(bill))
    else:
        with supply.LOCK.open("a") as lock:
            lock.write("left-pad @ https://example.org/left-pad.zip\n")
        with pytest.raises(IntegrityRefused, match="left-pad"):
            supply.differences(present)
        return
    (problem,) = supply.differences(present)
    named = {"a version": "numpy", "one more": "left-pad", "one less": "duckdb", "the bill": "sbom"}[fault_of]
    assert named in problem.where


def advisory(folder: Path, **changed) -> None:
    told = {
        "id": "PYSEC-2026-1", "modified": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "affected": [{"package": {"ecosystem": "PyPI", "name": "Duck_DB"}, "ranges": [
            {"type": "ECOSYSTEM", "events": [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.0"}]}]}],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(told | changed))


@fault("G3")
@pytest.mark.sample
def test_an_audit_knows_what_an_advisory_says(tmp_path: Path):
    folder, oldest = tmp_path / "known", datetime.now(UTC) - timedelta(days=30)
    advisory(folder)
    hit = {"0.9": 0, "1.0": 1, "1.4.9": 1, "1.5": 0, "1.9": 0, "2.0.0": 1, "2.3": 1, "of no form": 1}
    for version, count in hit.items():
        assert len(supply.vulnerable({"duck-db": version}, folder, oldest)) == count, version
    assert supply.vulnerable({"other": "1.0"}, folder, oldest) == []
    advisory(folder, affected=[{"package": {"ecosystem": "PyPI", "name": "other"}, "versions": ["3.1"]}], id="PYSEC-2")
    assert [p.must_be for p in supply.vulnerable({"other": "3.1"}, folder, oldest)] == ["free of PYSEC-2"]
    advisory(
        folder,
        withdrawn="2026-01-01T00:00:00Z",
        affected=[{"package": {"ecosystem": "PyPI", "name": "gone"}, "versions": ["1"]}],
    )
    assert supply.vulnerable({"gone": "1"}, folder, oldest) == []


@fault("G3")
@pytest.mark.sample
@pytest.mark.parametrize(
    "how", ["no folder named", "no such folder", "an empty folder", "old", "torn", "undated", "no OSV"]
)
def test_an_audit_that_cannot_answer_fails(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "known"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(supply.ADVISORIES, str(folder))
    if how == "no folder named":
        monkeypatch.delenv(supply.ADVISORIES)
    elif how == "an empty folder":
        folder.mkdir()
    elif how == "old":
        advisory(folder, modified="2020-01-01T00:00:00Z")
    elif how == "torn":
        advisory(folder)
        (folder / "x.json").write_text('{"id": ')
    elif how == "undated":
        advisory(folder, modified=None)
    elif how == "no OSV":
        advisory(folder)
        (folder / "x.json").write_text("[]")
    monkeypatch.setattr(supply, "differences", lambda _: [])
    with pytest.raises(ServiceRefused):
        supply.audit(timedelta(days=30))


@fault("G3")
def test_make_audit_ends_with_its_code(tmp_path: Path):
    environment = {key: value for key, value in os.environ.items() if key != supply.ADVISORIES}
    done = subprocess.run([sys.executable, "-m", "pipeline.supply", "audit"], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 8, done.stdout + done.stderr
    assert "silence is no pass" in done.stderr
    advisory(tmp_path / "known", affected=[{"package": {"ecosystem": "PyPI", "name": "absent"}, "versions": ["1"]}])
    done = subprocess.run([sys.executable, "-m", "pipeline.supply", "audit"], cwd=ROOT, capture_output=True, text=True,
                          env=environment | {supply.ADVISORIES: str(tmp_path / "known")}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
