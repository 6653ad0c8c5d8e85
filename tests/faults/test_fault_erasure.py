"""G9: an erased customer leaves no trace, comes back with no delivery, and what he was part of says so."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_ground import CANARY, CUSTOMERS, RAW, Shop, tree
from workspaces import ROOT, Workspace

from features.errors import ConfigurationRefused, GateRefused, IntegrityRefused
from pipeline import __main__ as command_line
from pipeline import bundle, erase, ingest, pruning, rebuild, tombstones, traces, versions
from pipeline.traces import Trace

fault = pytest.mark.fault
GONE, STAYS = CUSTOMERS[3], CUSTOMERS[4]
RUN = "0123456789abcdef"


def places_of(identifier: str, *, besides: tuple[str, ...] = ("data/raw/",)) -> list[str]:
    """Return every file that names an identifier, by an oracle of its own: bytes, and cells as DuckDB shows them."""
    found = []
    for path in sorted(Path().rglob("*")):
        name = path.as_posix()
        if path.is_symlink() or not path.is_file() or name.startswith(besides):
            continue
        text = path.read_bytes()
        if text[:4] == b"PAR1":
            text += repr(duckdb.execute(f"SELECT * FROM read_parquet('{name}')").fetchall()).encode()
        if text[8:12] == b"DUCK":
            with duckdb.connect(name, read_only=True) as connection:
                text += repr(connection.execute("SELECT * FROM scored_customers").fetchall()).encode()
        if identifier.encode() in text or identifier in name:
            found.append(name)
    return found


def publish_by_hand(run_id: str = RUN) -> Path:
    """Write a version of the shop's customers, sound by its manifest, and make it current."""
    folder = versions.VERSIONS / run_id
    (folder / "report").mkdir(parents=True)
    (folder / "inputs/data").mkdir(parents=True)
    table = pa.table({"customer_id": CUSTOMERS, "pd_12m": [n / 100 for n in range(20)]})
    pq.write_table(table, folder / "scored_customers.parquet")
    (folder / "scored_customers.csv").write_text(
        "\ufeffcustomer_id,pd_12m\n" + "".join(f'"{c}",{n / 100}\n' for n, c in enumerate(CUSTOMERS)), encoding="utf-8"
    )
    with duckdb.connect(str(folder / "bellwether.duckdb")) as connection:
        connection.register("given", table)
        connection.execute("create table scored_customers as select * from given")
    pq.write_table(pa.table({"customer_id": [GONE, STAYS], "code": ["A", "A"]}), folder / "alerts.parquet")
    pq.write_table(pa.table({"customer_id": [STAYS], "grade": ["A"]}), folder / "changes.parquet")
    (folder / "report/index.html").write_text(f"<td>{GONE}</td>")
    (folder / "report/explanation.html").write_text("<p>figures</p>")
    (folder / "inputs/data/overrides.csv").write_text(f"customer_id,field\n{GONE},limit\n{STAYS},limit\n")
    versions.write_manifest(
        folder, run_id=run_id, source="shop", as_of="2022-01-01", rows=20, model_version="m", data_version="d",
        compared_with=None, git_commit="none", uncommitted=None,
    )  # fmt: skip
    versions.make_current("shop", "2022-01-01", run_id)
    versions.write_json(
        versions.RECEIPT,
        {"source": "shop", "as_of": "2022-01-01", "run_id": run_id,
         "scored_customers": versions.sha256(folder / "scored_customers.parquet")},
    )  # fmt: skip
    return folder


def train_by_hand(version: str, customer: str) -> None:
    """Store a model that says by hash which row trained it, as the champion, with its run in MLflow's store."""
    folder = bundle.BUNDLES / "shop" / version
    folder.mkdir(parents=True)
    key = hashlib.sha256(f"{customer}|2021-10-01".encode()).hexdigest()
    pq.write_table(pa.table({"key": [key]}), folder / "trained_on.parquet")
    versions.write_manifest(folder, model_version=version, source="shop")
    Path("mlruns").mkdir(exist_ok=True)
    with sqlite3.connect("mlruns/mlflow.db") as store:
        store.execute("CREATE TABLE IF NOT EXISTS tags (key TEXT, value TEXT, run_uuid TEXT)")
        store.execute("INSERT INTO tags VALUES ('bellwether.candidate', ?, ?)", (version, f"run-of-{version}"))


def strew(customer: str) -> None:
    """Leave a customer's name wherever a run, or a person beside it, may have left it."""
    for name, text in {
        ".run/log.txt": f"a line\nscored {customer} twice\n",
        "run.jsonl": f'{{"line": "{customer}"}}\n{{"line": "other"}}\n',
        "answers.csv": f"customer_id,pd_12m\n{customer},0.1\n{STAYS},0.2\n",
        "mlruns/artifacts/one.json": f'{{"worst": "{customer}"}}',
        "data/overrides.csv": f"customer_id,field,value\n{customer},limit,1\n{STAYS},limit,2\n",
        "data/contacts.csv": f"customer_id,state\n{customer},done\n{STAYS},open\n",
        "data/publish/preview/scored_customers.csv": f"customer_id\n{customer}\n",
        "data/explain/reasons.json": f'["{customer}"]',
        ".dvc/cache/files/md5/aa/bb": f"customer_id\n{customer}\n",
        ".dvc/tmp/exps/one/answers.csv": f"customer_id\n{customer}\n",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path("mlruns").mkdir(exist_ok=True)
    with sqlite3.connect("mlruns/mlflow.db") as store:
        store.execute("CREATE TABLE IF NOT EXISTS params (key TEXT, value TEXT)")
        store.executemany("INSERT INTO params VALUES ('worst', ?)", [(customer,), (STAYS,)])


@pytest.fixture
def lived_in(shop: Shop) -> Shop:
    """Return a shop that was ingested, trained and published, with a customer's name all over it."""
    shutil.rmtree("data/publish")
    shop.lines.append(f"t99999,{GONE},2021-05-01,not a number,2021-05-01")  # his broken row stands in quarantine
    shop.moves()
    with Path("params.yaml").open("a") as handle:
        handle.write("ingest: {max_quarantined_row_share: 1, max_quarantined_amount_share: 1}\n")
    shop.published = {}
    ingest.main()
    publish_by_hand()
    train_by_hand("aaaa", GONE)
    train_by_hand("bbbb", STAYS)
    strew(GONE)
    return shop


@fault("G9")
@pytest.mark.sample
def test_an_erased_customer_is_found_nowhere_but_in_raw_files(
    lived_in: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tree(RAW)
    assert len(places_of(GONE)) > 15
    others = len([name for name in places_of(STAYS) if not name.startswith(("data/ingest", ".dvc"))])
    assert command_line.main(["erase", GONE]) == 0
    said = capsys.readouterr().out
    assert places_of(GONE) == []
    assert tree(RAW) == raw
    for name in ("moves.csv", "people.csv", "loans.csv", "states.csv"):
        assert f"raw file {RAW}/{name} (in the workspace)" in said
    assert "model aaaa of shop was trained by 1" in said
    assert "run-of-aaaa" in said
    assert "bbbb" not in said
    # who stays, stays everywhere
    kept = [name for name in places_of(STAYS) if not name.startswith(("data/ingest", ".dvc"))]
    assert len(kept) == others
    assert Path("answers.csv").read_text() == f"customer_id,pd_12m\n{STAYS},0.2\n"
    assert Path("run.jsonl").read_text() == '{"line": "other"}\n'
    assert Path("data/overrides.csv").read_text() == f"customer_id,field,value\n{STAYS},limit,2\n"
    assert Path("data/contacts.csv").read_text() == f"customer_id,state\n{STAYS},open\n"
    (proof,) = tombstones.FOLDER.glob("proof-*.json")
    facts = json.loads(proof.read_text())
    assert facts["files_that_name_the_customer_now"] == 0
    assert facts["raw_files_kept"] == 4
    assert [model["model_version"] for model in facts["retrain"]] == ["aaaa"]
    for file in tombstones.FOLDER.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert GONE.encode() not in file.read_bytes()


@fault("G9")
@pytest.mark.sample
def test_a_published_version_without_him_is_sound_and_says_that_it_cannot_be_rebuilt(
    lived_in: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = versions.VERSIONS / RUN
    first = versions.sha256(folder / "manifest.json")
    unnamed = {name: versions.sha256(folder / name) for name in ("changes.parquet", "report/explanation.html")}
    erase.erase(GONE)
    assert versions.CURRENT.resolve().name == RUN
    assert not versions.faults(folder)
    table = pq.read_table(folder / "scored_customers.parquet")
    assert table["customer_id"].to_pylist() == [each for each in CUSTOMERS if each != GONE]
    assert table["pd_12m"].to_pylist() == [n / 100 for n in range(20) if n != 3]
    with duckdb.connect(str(folder / "bellwether.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*) from scored_customers").fetchone() == (19,)
    assert {name: versions.sha256(folder / name) for name in unnamed} == unnamed
    assert not (folder / "report/index.html").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == 19
    assert manifest["erased"]["first_manifest"] == first
    assert manifest["erased"]["removed"] == ["report/index.html"]
    assert json.loads(versions.RECEIPT.read_text())["scored_customers"] == versions.sha256(
        folder / "scored_customers.parquet"
    )
    capsys.readouterr()
    assert versions.verify() == 0
    assert "cannot bring it back" in capsys.readouterr().out
    pruning.prune(folder)
    with pytest.raises(IntegrityRefused, match="not byte for byte: rows of an erased customer"):
        rebuild.bring_back(RUN)


@fault("G9")
@pytest.mark.sample
def test_a_redelivery_does_not_bring_him_back_and_the_tables_are_those_without_him(lived_in: Shop) -> None:
    shop = lived_in
    erase.erase(GONE)
    ingest.main()
    shop.balanced()
    account = shop.account()
    own = sum(f",{GONE}," in line for line in shop.lines)
    assert account["rules"] == {"erased": own}
    assert account["blocks"][0]["left_out"] == own
    assert account["blocks"][0]["read"] == len(shop.lines)
    assert shop.account("statements")["rules"] == {"erased": 1}, "a row that names only his credit"
    assert shop.quarantined() == [] == shop.quarantined("statements")
    assert places_of(GONE) == []
    # later deliveries: one that repeats him, one with a new credit of his and rows that name only that
    shop.put("people2.csv", f"id,since,kind\n{GONE},2020-01-01,farm\nNeu,2020-01-01,farm\n")
    shop.put("loans2.csv", f"loan,id,lent,since\nLX,{GONE},1.00,2020-01-01\n")
    shop.put("states2.csv", "loan,day,owed,late\nLX,2021-02-28,9.00,0\n")
    ingest.main()
    shop.put("states3.csv", f"loan,day,owed,late\nLX,2021-03-31,9.00,0\nL{GONE},2021-03-31,9.00,0\n")
    ingest.main()
    shop.balanced()
    assert shop.account("statements")["rules"] == {"erased": 4}
    assert shop.account("customers")["rules"] == {"erased": 2}
    assert shop.quarantined("statements") == []
    assert places_of(GONE) == []
    # lines of his that cannot be split, or do not say whose they are
    shop.put("moves5.csv", f"no,id,day,value,seen\nt1,{GONE},2021-06-01,1.00,2021-06-01,more\n")
    shop.put("moves6.csv", f"no,id,day,value,seen\nt2,,2021-06-01,1.00,{GONE}\nt3,,2021-06-01,1.00,{STAYS}\n")
    ingest.main()
    assert [row[3] == "erased" for row in shop.quarantined()] == [True, True, False]
    assert places_of(GONE) == []
    for number in (5, 6):
        shop.drop(f"moves{number}.csv")
    # a row that waited for a credit, which turns out to be his
    shop.put("states4.csv", "loan,day,owed,late\nLY,2021-03-31,9.00,0\n")
    ingest.main()
    assert len(shop.quarantined("statements")) == 1
    shop.put("loans4.csv", f"loan,id,lent,since\nLY,{GONE},1.00,2020-01-01\n")
    ingest.main()
    assert shop.account("statements")["rules"] == {"erased": 5}
    assert shop.quarantined("statements") == []
    added = shop.tables()
    shutil.rmtree("data/ingest")
    ingest.main()
    assert shop.tables() == added, "from scratch as by increments"
    # the same deliveries as if he had never been
    for file in sorted(RAW.iterdir()):
        lines = file.read_text().splitlines(keepends=True)
        theirs = (f",{GONE},", f"{GONE},", f"L{GONE},", "LX,", "LY,")
        fewer = [line for line in lines if not line.startswith(theirs[1:]) and theirs[0] not in line]
        file.unlink() if len(fewer) == 1 else file.write_text("".join(fewer))
    shutil.rmtree("data/ingest")
    shutil.rmtree(tombstones.FOLDER)
    ingest.main()
    assert shop.tables() == added


@fault("G9")
@pytest.mark.sample
def test_a_dry_run_tells_and_touches_nothing(lived_in: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(Path())
    assert command_line.main(["erase", GONE, "--dry-run"]) == 0
    after = tree(Path())
    before.pop(".run/lock", None)
    after.pop(".run/lock", None)
    assert after == before
    assert f"version {RUN} would be rewritten" in capsys.readouterr().out


@fault("G9")
@pytest.mark.sample
@pytest.mark.parametrize("unknown", ["Nobody", GONE.lower(), GONE.upper(), GONE[:-1], f"{GONE}4", f"{GONE}-2"])
def test_one_whom_no_file_names_is_refused_and_nothing_is_touched(
    lived_in: Shop, capsys: pytest.CaptureFixture[str], unknown: str
) -> None:
    before = tree(Path("data"))
    assert command_line.main(["erase", unknown]) == 4
    assert "none of that id" in capsys.readouterr().err
    assert tree(Path("data")) == before


@fault("G9")
@pytest.mark.sample
def test_another_run_owns_the_workspace(lived_in: Shop) -> None:
    held = "import fcntl, sys; f = open('.run/lock', 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "held\n"
        assert command_line.main(["erase", GONE]) == 6
        owner.communicate()


@fault("G9")
@pytest.mark.sample
@pytest.mark.parametrize(
    "step", ["rewrite_version", "_exchange", "_mend_receipt", "_remove_made", "_clear_records", "_prove"]
)
def test_killed_at_any_step_it_ends_its_work_when_it_is_called_again(
    lived_in: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erase, step, killed)
        with pytest.raises(KeyboardInterrupt):
            erase.erase(GONE)
    assert not versions.faults(versions.CURRENT.resolve())
    assert erase.erase(GONE) == 0
    assert places_of(GONE) == []
    assert not versions.faults(versions.CURRENT.resolve())
    ingest.main()
    assert lived_in.account("statements")["rules"] == {"erased": 1}
    before = tree(Path("data/ingest"))
    assert erase.erase(GONE) == 0
    assert tree(Path("data/ingest")) == before, "once more changes nothing"


@fault("G9")
@pytest.mark.sample
def test_an_altered_version_is_not_made_sound(lived_in: Shop) -> None:
    (versions.VERSIONS / RUN / "scored_customers.csv").write_text(f"customer_id\n{GONE}\n")
    with pytest.raises(IntegrityRefused, match="another SHA-256"):
        erase.erase(GONE)
    assert not tombstones.STONES.exists()


@fault("G9")
@pytest.mark.sample
def test_what_a_person_must_judge_is_named(lived_in: Shop) -> None:
    Path("letter.html").write_text(f"<p>Dear {GONE}</p>")
    with pytest.raises(GateRefused, match=r"letter\.html"):
        erase.erase(GONE)
    Path("letter.html").unlink()
    assert erase.erase(GONE) == 0


@fault("G9")
@pytest.mark.sample
def test_a_lost_or_open_key_is_refused_before_he_comes_back(lived_in: Shop) -> None:
    tombstones.lay(tombstones.begin(), GONE, [])
    ingest.main()  # what stands there was built before, and is explained no more
    assert not any(customer == GONE for (customer,) in lived_in.kept("customer_id"))
    tombstones.KEY.chmod(0o644)
    with pytest.raises(ConfigurationRefused, match="closed to all but its owner"):
        ingest.main()
    tombstones.KEY.unlink()
    with pytest.raises(IntegrityRefused, match="key of 32 bytes"):
        ingest.main()
    assert "/data/erased/" in (ROOT / ".gitignore").read_text().splitlines()


@fault("G9")
@pytest.mark.sample
def test_raw_files_behind_a_link_are_listed_and_stay(lived_in: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = lived_in.scratch.parent / "elsewhere"
    RAW.rename(elsewhere)
    RAW.symlink_to(elsewhere)
    before = tree(elsewhere)
    erase.erase(GONE)
    assert f"{RAW}/moves.csv (behind a link)" in capsys.readouterr().out
    assert tree(elsewhere) == before


@fault("G9")
@pytest.mark.sample
@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("K-1", True), ("see K-1.", True), ("K-1, K-2", True), ("(K-1)", True), ('"K-1"', True), ("'=K-1", True),
        ("K-12", False), ("AK-1", False), ("k-1", False), ("K-1-2", False), ("x-K-1", False), ("K-1.5", False),
    ],
)  # fmt: skip
def test_an_identifier_counts_where_it_stands_alone(tmp_path: Path, text: str, there: bool) -> None:
    trace = Trace("K-1")
    path = tmp_path / "one.txt"
    path.write_text(f"a\n{text}\nb")
    assert traces.named(trace, path) is there
    table = tmp_path / "one.parquet"
    pq.write_table(pa.table({"a": [text, "other", None], "n": [1, 2, 3]}), table)
    assert traces.named(trace, table) is there
    pq.write_table(pa.table({"a": [[text], ["other"], None]}), table)
    assert traces.named(trace, table) is there


@fault("G9")
def test_a_lender_that_was_run_and_published(book: Workspace) -> None:
    gone = f"{CANARY}00007"
    done = book.pipeline("erase", gone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained by 1 of the customer's rows" in done.stdout
    assert places_of(gone, besides=("data/raw/", ".venv/", ".git/")) == []
    assert book.pipeline("verify").returncode == 0
    again = book.pipeline("run")
    assert again.returncode == 0, again.stdout + again.stderr
    assert places_of(gone, besides=("data/raw/", ".venv/", ".git/")) == []
    built = {name: digest for name, digest in tree(Path("data")).items() if name.startswith(("featurise/", "train/"))}
    # as if he had never been: the raw file without his line, and no tombstone
    raw = Path("data/raw/flat/applicants.csv")
    raw.write_text("".join(line for line in raw.read_text().splitlines(keepends=True) if gone not in line))
    shutil.rmtree("data/erased")
    assert book.pipeline("run").returncode == 0
    never = {name: digest for name, digest in tree(Path("data")).items() if name.startswith(("featurise/", "train/"))}
    assert never == built


@fault("G9")
@pytest.mark.sample
def test_a_short_number_is_a_customer_in_its_column_and_an_amount_elsewhere(tmp_path: Path) -> None:
    trace, path = Trace("1787"), tmp_path / "one.csv"
    path.write_text('customer_id;owed;note\n12;1787;"a\nb"\n1787;5;c\n13;2;see 1787\n')
    assert traces.named(trace, path)
    assert traces.without(trace, path) == b'customer_id;owed;note\n12;1787;"a\nb"\n'
    path.write_bytes(traces.without(trace, path) or b"")
    assert not traces.named(trace, path)
    page = tmp_path / "one.json"
    page.write_text('{"rows": 1787, "size": 0.1787}')
    assert not traces.named(trace, page)
    page.write_text('{"worst": "1787"}')
    assert traces.named(trace, page)


@fault("G9")
@pytest.mark.sample
def test_a_rebuild_leaves_out_whom_the_version_left_out_and_brings_nobody_back(shop: Shop) -> None:
    stones = tombstones.begin()
    tombstones.lay(stones, GONE, ["L1"])
    stated = stones.stated()
    tombstones.lay(stones, STAYS, [])
    project = Path("project")
    rebuild._lay_tombstones(project, stated)
    assert (project / tombstones.STONES).read_text().splitlines() == stones.lines[:2]
    with pytest.raises(IntegrityRefused, match="those that the version was built with"):
        rebuild._lay_tombstones(Path("other"), [2, "another"])
    made = Path("made")
    made.mkdir()
    pq.write_table(pa.table({"customer_id": [CUSTOMERS[0]]}), made / "scored_customers.parquet")
    assert not rebuild._returned(made)
    pq.write_table(pa.table({"customer_id": [CUSTOMERS[0], STAYS]}), made / "scored_customers.parquet")
    assert rebuild._returned(made)
    again = tombstones.load()
    assert again
    assert again.knows(GONE)
    assert not again.knows(GONE.lower())
