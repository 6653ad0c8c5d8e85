"""watch on a small lender: what it publishes is what a full run says, in whatever order deliveries come and kills fall."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import deliveries
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from crm_servers import (
    quick,  # noqa: F401  credentials
    serve,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import postgres
from test_crm import zoho_tenant
from whole_book import published_at
from workspaces import Workspace, copy_project

from features.errors import Problem, Refusal, ServiceRefused
from pipeline import amend, inbox, ingest, versions, watch
from pipeline.stage import read_json

pytestmark = pytest.mark.slow
EARLY, LATE = dt.date(2023, 7, 11), dt.date(2023, 7, 21)
ASIDE = ["run_id", "data_version"]
HEAD = (
    "movement_no",
    "client_no",
    "booking_date",
    "direction",
    "value",
    "balance",
    "text_code",
    "partner",
    "entered_on",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three hundred customers over thirty months, published once; beside it the month after, cut into deliveries."""
    made = copy_project(tmp_path_factory.mktemp("watch") / "project")
    made.set_params({"simulate": {"customers": 300, "months": 31}})
    done = made.run("python", "-m", "pipeline.simulate", timeout=3000)
    assert done.returncode == 0, done.stderr
    raw = made.folder / "data/raw"
    (raw / "simulated").rename(raw / "lender")
    cut(raw / "lender/2023-07", made.folder.parent / "cuts")
    shutil.rmtree(raw / "lender/2023-07")
    mapping = (made.folder / "data/sources/simulated.yaml").read_text().replace("name: simulated", "name: lender")
    (made.folder / "data/sources/lender.yaml").write_text(mapping)
    small = {
        "source": "lender",
        "sources": {"lender": {"train": {"until": "2023-07-01"}, "observe": {"left_early": "good"}}},
        "select": {"min_bads": 3}, "tune": {"trials": 2}, "train": {"seeds": 1}, "promote": {"min_bads": 1},
        "explain": {"tried_customers": 20, "refit_rows": 200}, "evaluate": {"repeats": 1, "folds": 2},
        "calibrate": {"method": "platt"},
    }  # fmt: skip
    made.set_params(small)
    first = made.run("python", "-m", "pipeline", "run", timeout=3000)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    return made


def cut(month: Path, out: Path) -> None:
    """Cut five deliveries: two of early days, one of later days, restated rows, and one known before the run's date."""
    for name, first, last, rest in (("a", "01", "10", 0), ("b", "11", "20", 0), ("c", "01", "10", 1)):
        rows = deliveries.read(
            month, f"2023-07-{first}", f"2023-07-{last}", lambda who, rest=rest: int(who) % 5 == rest
        )
        as_of = EARLY if last == "10" else LATE
        deliveries.write(out / name, rows, delivered_on=f"2023-07-{last}", as_of=as_of.isoformat())
    rows = deliveries.read(month, "2023-07-01", "2023-07-10", lambda who: int(who) % 5 == 0)["movements.csv"]
    again = [{**row, "value": f"{float(row['value']) + 70:.2f}", "entered_on": "2023-07-15"} for row in rows[:9]]
    again += rows[9:12]  # given once more, as they were
    deliveries.write(out / "d", {"movements.csv": again}, delivered_on="2023-07-20", as_of=LATE.isoformat())
    old = {
        **rows[0],
        "movement_no": "999999999",
        "booking_date": "2023-06-20",
        "entered_on": "2023-06-22",
        "value": "5000.00",
    }
    deliveries.write(out / "e", {"movements.csv": [old]}, delivered_on="2023-07-20", as_of=EARLY.isoformat())


@contextlib.contextmanager
def copied(world: Workspace, folder: Path) -> Iterator[Path]:
    """Work in a copy of the published lender, with an empty inbox beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("cache", "mlruns", "journal"))
    store = world.folder.parent / "others"
    if store.exists():
        shutil.copytree(store, folder / ".run/watch/others")
    (folder / "inbox").mkdir()
    with contextlib.chdir(folder):
        yield world.folder.parent / "cuts"
        if not store.exists() and Path(".run/watch/others").exists():
            shutil.copytree(".run/watch/others", store)


def arrive(cuts: Path, *names: str, called: str = "") -> None:
    for name in names:
        shutil.copytree(cuts / name, Path("inbox") / (called or f"between-{name}"))


def once(**more: object) -> int:
    return watch.once(watch.Asked(Path("inbox"), settle=0, **more))


def table(folder: Path = versions.CURRENT) -> pd.DataFrame:
    return pq.read_table(folder / amend.TABLE).to_pandas().set_index("customer_id")


def plain(rows: pd.DataFrame) -> list[dict]:
    return (
        rows.drop(columns=ASIDE)
        .reset_index()
        .astype(object)
        .where(lambda frame: frame.notna(), None)
        .to_dict("records")
    )


@pytest.fixture(scope="module")
def expected(world, tmp_path_factory) -> dict:
    """What full runs at both dates say with all deliveries in place, and who is touched and when."""
    folder = tmp_path_factory.mktemp("expected") / "project"
    with copied(world, folder) as cuts:
        base = pq.read_table(versions.CURRENT / amend.TABLE)
        for name in "abcde":
            shutil.copytree(cuts / name, Path("data/raw/lender") / f"between-{name}")
        ingest.main()
        full = {day: published_at(day, base) for day in (EARLY, LATE)}
    dates: dict[str, dt.date] = {}
    for name in "abcde":
        day = LATE if name in "bd" else EARLY
        rows = {
            path.name: list(pd.read_csv(path, dtype=str).fillna("").to_dict("records"))
            for path in (cuts / name).glob("*.csv")
        }
        for who in deliveries.named(rows):
            dates[who] = max(day, dates.get(who, day))
    return {"full": full, "dates": dates, "base": base}


def check(expected: dict) -> None:
    """Hold what is current against full runs: touched customers to the byte, others unchanged."""
    found, dates = table(), expected["dates"]
    base = expected["base"].to_pandas().set_index("customer_id")
    others = base[~base.index.isin(dates)]
    assert plain(found[~found.index.isin(dates)]) == plain(others)
    alerts = pq.read_table(versions.CURRENT / "alerts.parquet").to_pandas()
    for day, (whole, raised) in expected["full"].items():
        who = [one for one, due in dates.items() if due == day]
        full = whole.to_pandas().set_index("customer_id")
        mine = full[full.index.isin(who)]
        assert len(mine) > 20
        assert plain(found[found.index.isin(who)]) == plain(mine)
        theirs = raised.to_pandas()
        columns = list(theirs.columns)
        assert alerts[alerts["customer_id"].isin(who)][columns].astype(str).to_numpy().tolist() == (
            theirs[theirs["customer_id"].isin(who)].astype(str).to_numpy().tolist()
        )
    assert found["run_id"].unique().tolist() == [versions.CURRENT.readlink().name]
    assert (found.loc[found.index.isin(dates), "as_of"].astype(str) > "2023-07-01").any()


@settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations("abcde"))
def test_whatever_the_order_the_end_is_that_of_full_runs(world, expected, tmp_path_factory, order):
    with copied(world, tmp_path_factory.getbasetemp() / "order") as cuts:
        for name in order:
            arrive(cuts, name)
            assert once() == 0
        check(expected)
        arrive(cuts, "a", called="once-more")  # another name, the same rows: nothing changes but the version
        assert once() == 0
        check(expected)
        whole_version(versions.CURRENT)


def whole_version(folder: Path) -> None:
    """A version is whole, its three forms of the table agree, and its receipt and manifest say where it comes from."""
    assert versions.faults(folder.resolve()) == []
    frame = pd.read_parquet(folder / amend.TABLE)
    assert frame["customer_id"].is_monotonic_increasing
    csv = pd.read_csv(folder / "scored_customers.csv", dtype={"customer_id": str})
    assert csv["customer_id"].tolist() == frame["customer_id"].tolist()
    assert csv["pd_12m"].tolist() == frame["pd_12m"].tolist()
    with duckdb.connect(str(folder / "bellwether.duckdb"), read_only=True) as connection:
        held = connection.sql("select customer_id, pd_12m, alerts from scored_customers order by customer_id").df()
    assert held["pd_12m"].tolist() == frame["pd_12m"].tolist()
    manifest, receipt = read_json(folder / "manifest.json"), read_json(versions.WATCHED)
    assert receipt["run_id"] == manifest["run_id"] == folder.resolve().name
    assert receipt["base"] == manifest["watch"]["base"] == manifest["compared_with"]
    assert {"between-a", "between-b"} <= set(manifest["watch"]["deliveries"])
    moved = pd.read_parquet(folder / "changes.parquet")
    assert len(moved)
    assert set(moved["customer_id"]) <= set(frame["customer_id"]) | set(
        moved.loc[moved["moved"] == "left", "customer_id"]
    )


class Killed(BaseException):
    """Ends a process here."""


@pytest.mark.parametrize("where", ["moved", "ingested", "placed", "received", "linked"])
def test_a_kill_at_any_moment_is_mended_by_the_next_call(world, tmp_path, monkeypatch, where):
    spots = {
        "moved": (inbox, "take", True), "ingested": (ingest, "main", True), "placed": (versions, "place", True),
        "received": (versions, "make_current", False), "linked": (versions, "make_current", True),
    }  # fmt: skip
    module, name, after = spots[where]
    real = getattr(module, name)

    def ending(*arguments: object, **more: object) -> None:
        if after:
            real(*arguments, **more)
        raise Killed

    with copied(world, tmp_path / "project") as cuts:
        before = versions.CURRENT.readlink()
        arrive(cuts, "a")
        with monkeypatch.context() as patch:
            patch.setattr(module, name, ending)
            with pytest.raises(Killed):
                once()
        assert (versions.CURRENT.readlink() == before) == (where != "linked")
        assert versions.faults(versions.CURRENT.resolve()) == []
        assert once() == 0
        assert versions.received() == versions.CURRENT.readlink().name != before.name
        assert inbox.Journal(watch.JOURNAL).names() == []
        assert "between-a" in read_json(versions.CURRENT / "manifest.json")["watch"]["deliveries"]
        entries = [entry["run_id"] for entry in versions.history()]
        assert len(entries) == len(set(entries)) == 2


def test_a_torn_delivery_waits_a_broken_one_goes_aside_and_the_next_is_taken(world, tmp_path, capsys):
    with copied(world, tmp_path / "project") as cuts:
        before = versions.CURRENT.readlink()
        arrive(cuts, "b")
        torn = Path("inbox/between-b/movements.csv")
        whole = torn.read_bytes()
        torn.write_bytes(whole[:-40])
        assert once() == 0  # it may still be arriving
        assert versions.CURRENT.readlink() == before
        assert torn.exists()
        assert once(patience=0) == 7  # its hash is not that of its manifest
        assert "SHA-256" in capsys.readouterr().err
        record = read_json(Path("inbox/refused/between-b.json"))
        assert record["exit_code"] == 7
        assert not (Path("data/raw/lender") / "between-b").exists()
        arrive(cuts, "a")
        put = Path("inbox/between-z")
        put.mkdir()
        (put / "movements.csv").write_text(",".join(HEAD) + "\n" + ",".join(["1"] * 9) + "\n")
        assert once(patience=0) == 0
        quarantined = pd.read_parquet("data/ingest/quarantine/transactions.parquet")
        assert quarantined["file"].tolist() == ["between-z/movements.csv"]
        assert {"between-a", "between-z"} <= set(read_json(versions.CURRENT / "manifest.json")["watch"]["deliveries"])


def test_what_is_said_and_refused_before_anything_moves(world, tmp_path, monkeypatch, capsys):
    with copied(world, tmp_path / "project") as cuts:
        told = []
        monkeypatch.setattr("pipeline.webhook.deliver", lambda facts, text: told.append((facts, text)))
        arrive(cuts, "a")
        params = Path("params.yaml").read_text()
        Path("params.yaml").write_text(params.replace("probation_months: 12", "probation_months: 6"))
        with pytest.raises(Refusal, match="observe") as refusal:
            once()
        assert refusal.value.exit_code == 4
        assert Path("inbox/between-a").exists()
        Path("params.yaml").write_text(params)
        told.clear()
        assert once() == 0
        ((facts, text),) = told
        assert facts["watch"][0]["delivery"] == "between-a"
        assert facts["watch"][0]["as_of"] == EARLY.isoformat()
        assert facts["outcome"] == "published"
        assert text.startswith("watch: published")
        assert facts["watch"][0]["customers"] > 20
        capsys.readouterr()
        assert once() == 0
        assert "nothing taken" in capsys.readouterr().out


def test_the_loop_takes_what_arrives_and_tells_database_and_crm(world, expected, tmp_path, monkeypatch):
    """The command itself, left running: two deliveries, each published and brought to both; the second sends few."""
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    tenant = zoho_tenant()
    grades = [f"{letter}{number}" for letter in "ABCDE" for number in (1, 2, 3)]
    tenant.fields["Risk_Grade"]["options"] = grades
    tenant.fields["Risk_Action"]["options"] = ["keep", "raise", "review", "reduce", "prepay", "stop"]
    with postgres() as url, serve(tenant), copied(world, tmp_path / "project") as cuts:
        workspace, before = Workspace(Path.cwd()), versions.CURRENT.readlink()
        workspace.set_params({"publish": {"postgres": "BELLWETHER_URL"}})
        mapping = yaml.safe_load(Path("data/crm/zoho.yaml").read_text())
        mapping["service"]["accounts_url"] = tenant.url
        Path("data/crm/zoho.yaml").write_text(yaml.safe_dump(mapping))
        monkeypatch.setenv("BELLWETHER_URL", url)

        def asked(statement: str) -> list[tuple]:
            with dbapi.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()

        def said(sentence: str, times: int) -> str:
            end = time.monotonic() + 900
            while (log := Path("log.txt").read_text()).count(sentence) < times:
                assert time.monotonic() < end, log[-3000:]
                assert loop.poll() is None, log[-3000:]
                time.sleep(0.1)
            return log

        command = [sys.executable, "-m", "pipeline", "watch", "inbox", "--settle", "0.2", "--every", "0.1"]
        with Path("log.txt").open("wb") as log:
            loop = subprocess.Popen([*command, "--sync", "zoho"], stdout=log, stderr=log)
        try:
            said("waiting for deliveries", 1)
            assert versions.CURRENT.readlink() == before
            held = []
            for number, name in enumerate("ab", start=1):
                arrive(cuts, name, called=f".{name}")  # whole before it is looked at
                Path(f"inbox/.{name}").rename(f"inbox/between-{name}")
                said("watch: published", number)
                mine = table()
                held.append({record["Customer_Code"]: dict(record) for record in tenant.records.values()})
                assert set(held[-1]) == set(mine.index)
                assert {who: row["Risk_Grade"] for who, row in held[-1].items()} == mine["grade"].to_dict()
                assert {who: row["Risk_As_Of"] for who, row in held[-1].items()} == mine["as_of"].astype(str).to_dict()
                rows = asked("select customer_id, pd_12m, run_id from scored_customers order by customer_id")
                assert rows == list(mine.reset_index()[["customer_id", "pd_12m", "run_id"]].itertuples(index=False))
            writes = [body for method, path, body in tenant.calls if path.endswith("/upsert")]
            sent = [row["Customer_Code"] for body in writes for row in body["data"]]
            assert len(sent) - len(mine) < len(mine) / 2  # the second time only who was touched
            assert set(sent[len(mine) :]) == {who for who, row in held[1].items() if row != held[0][who]}
        finally:
            loop.terminate()
        assert loop.wait(timeout=60) == -signal.SIGTERM


def test_an_erased_customer_does_not_come_back(world, expected, tmp_path):
    with copied(world, tmp_path / "project") as cuts:
        arrive(cuts, "a")
        assert once() == 0
        names = table()
        who = next(one for one in names.index if one in expected["dates"])
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "erase", who], capture_output=True, text=True, check=False
        )
        assert who not in table().index, done.stdout + done.stderr
        arrive(cuts, "d")
        with pytest.raises(Refusal, match="Run the pipeline") as refusal:
            once()  # what others are compared with went with him
        assert refusal.value.exit_code == 4
        assert Path("inbox/between-d").exists()
        done = subprocess.run([sys.executable, "-m", "pipeline", "run"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert who not in table().index
        assert once() == 0
        assert who not in table().index
        marks = pq.read_table(versions.CURRENT / amend.MARKS)
        assert who not in marks["customer_id"].to_pylist()
        assert pa.types.is_date(marks.schema.field("as_of").type)


def test_a_run_afterwards_takes_over_what_watch_took(world, tmp_path):
    """The deliveries are in data/raw; a full run at a later date holds them, and watch begins anew from it."""
    with copied(world, tmp_path / "project") as cuts:
        arrive(cuts, "a")
        assert once() == 0
        mine = versions.CURRENT.readlink()
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", "--as-of", "2023-08-01"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert versions.CURRENT.readlink() != mine
        manifest = read_json(versions.CURRENT / "manifest.json")
        assert manifest["as_of"] == "2023-08-01"
        assert manifest["compared_with"] == mine.name
        assert "between-a/movements.csv" in json.loads(Path("data/ingest/ledger.json").read_text())["files"]
        arrive(cuts, "b")
        assert once() == 0
        amended = read_json(versions.CURRENT / "manifest.json")
        assert amended["watch"]["base"] == manifest["run_id"]
        assert list(amended["watch"]["deliveries"]) == ["between-b"]


def movements(cuts: Path) -> list[dict[str, str]]:
    with (cuts / "a/movements.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def bring(name: str, rows: list[dict[str, str]], **manifest: object) -> None:
    deliveries.write(Path("inbox") / name, {"movements.csv": rows}, **manifest)


def test_what_is_wrong_with_one_delivery_keeps_none_of_the_next_ones_out(world, tmp_path, capsys):
    """Too many bad rows, dates of another century, a taken name: aside. A column is missing: rows are. The next comes."""
    with copied(world, tmp_path / "project") as cuts:
        rows, day = movements(cuts), {"delivered_on": "2023-07-10", "as_of": EARLY.isoformat()}
        before = {path: path.read_bytes() for path in Path("data/ingest").rglob("*") if path.is_file()}
        orphans = [{**rows[0], "movement_no": f"{9 * 10**8 + at}", "client_no": "99999999"} for at in range(2000)]
        bring("1-orphans", orphans, **day)
        assert once(patience=0) == 2
        assert {path: path.read_bytes() for path in before} == before
        bring("2-column", [{k: v for k, v in row.items() if k != "value"} for row in rows[:3]], **day)
        bring("3-far", rows[:3], delivered_on="2023-07-10", as_of="2042-03-01")
        bring("4-end", rows[:3], delivered_on="2023-07-10", as_of="9999-12-31")
        Path("inbox/5-typed").mkdir()
        typed = {**rows[0], "movement_no": "999999990", "booking_date": "2042-03-01", "entered_on": "2042-03-01"}
        Path("inbox/5-typed/movements.csv").write_text(
            ",".join(typed) + "\n" + "".join(",".join(row.values()) + "\n" for row in (rows[0], typed))
        )
        bring("2023-06", rows[:3], **day)
        assert once(patience=0) == 2
        assert sorted(path.name for path in Path("inbox/refused").glob("*.json")) == [
            "1-orphans.json", "2023-06.json", "3-far.json", "4-end.json", "5-typed.json"
        ]  # fmt: skip
        assert "1-orphans.quarantine/transactions.parquet" in capsys.readouterr().err
        assert len(pd.read_parquet("inbox/refused/1-orphans.quarantine/transactions.parquet")) >= 2000
        assert inbox.Journal(watch.JOURNAL).names() == []
        kept_out = pd.read_parquet("data/ingest/quarantine/transactions.parquet")
        assert kept_out["file"].tolist() == ["2-column/movements.csv"] * 3  # as in a run, where others have the column
        bring("6-none", rows[:1], **day)
        Path("inbox/6-none/movements.csv").write_text(",".join(rows[0]) + "\n")
        stated = {**day, "complete": False, "files": {"movements.csv": {"rows": 0}}}
        Path("inbox/6-none/manifest.json").write_text(json.dumps(stated))
        bring("7-good", rows, **day)
        assert once() == 0
        published = read_json(versions.CURRENT / "manifest.json")["watch"]["deliveries"]
        assert list(published) == ["2-column", "6-none", "7-good"]


def test_a_kill_within_ingest_is_mended(world, tmp_path, monkeypatch):
    with copied(world, tmp_path / "project") as cuts:
        arrive(cuts, "a")
        with monkeypatch.context() as patch:
            patch.setattr(ingest, "_write", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                once()
        assert not Path("data/ingest/ledger.json").exists()
        assert once() == 0
        assert "between-a" in read_json(versions.CURRENT / "manifest.json")["watch"]["deliveries"]


def test_who_was_away_is_reached_without_another_delivery(world, tmp_path, monkeypatch, capsys):
    away = [True]
    told: list[str] = []

    def sync(system: str) -> int:
        if away[0]:
            raise ServiceRefused(Problem("zoho", "a service that answers", "none", "Try again."))
        told.append(f"{system} {versions.CURRENT.readlink().name}")
        return 2  # it rejected rows, which stand in its own table

    monkeypatch.setattr("pipeline.sinks.sync.sync", sync)
    with copied(world, tmp_path / "project") as cuts:
        arrive(cuts, "a")
        assert once(systems=("zoho",)) == 8
        assert "published, but not everywhere (exit code 8)" in capsys.readouterr().err
        assert once() == 8
        monkeypatch.setattr(watch, "RETRY", 0.2)
        away[0] = False
        end = time.monotonic() + 300
        asked = watch.Asked(Path("inbox"), settle=0, every=0.05)
        assert watch.watch(asked, stop=lambda: bool(told) or time.monotonic() > end) == 0
        assert told == [f"zoho {versions.CURRENT.readlink().name}"]
        assert once(systems=("zoho",)) == 0
        arrive(cuts, "b")
        assert once(systems=("zoho",)) == 2
        assert "published, but not everywhere (exit code 2)" in capsys.readouterr().err
        assert once(systems=("zoho",)) == 0


def test_rows_that_take_each_other_back_end_alike_in_either_order(world, tmp_path):
    """One number given of two customers: both rows are kept out, and both customers stand as if neither had come."""
    ends = []
    for order in ("xy", "yx"):
        with copied(world, tmp_path / order) as cuts:
            rows = [row for row in movements(cuts) if row["client_no"] in table().index]
            other = next(row for row in rows if row["client_no"] != rows[0]["client_no"])
            big = {"movement_no": "999999990", "value": "90000.00", "direction": "D", "entered_on": "2023-07-09"}
            for name in order:
                row = (rows[0] if name == "x" else other) | big
                bring(name, [row], delivered_on="2023-07-10", as_of=(EARLY if name == "x" else LATE).isoformat())
                assert once() == 0
            kept = pd.concat(
                [pd.read_parquet(path) for path in Path("data/ingest/tables/transactions").rglob("*.parquet")]
            )
            assert "999999990" not in kept["transaction_id"].tolist()
            ends.append(plain(table()))
            both = table().loc[sorted({rows[0]["client_no"], other["client_no"]})]
            assert both["as_of"].astype(str).tolist() == [LATE.isoformat()] * 2
    assert ends[0] == ends[1]


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_a_stream_publishes_what_once_publishes(world, tmp_path, monkeypatch):
    from test_watch_stream import ENGINE

    from pipeline import watch_stream

    with copied(world, tmp_path / "once") as cuts:
        arrive(cuts, "a")
        assert once() == 0
        expected = plain(table())
    with copied(world, tmp_path / "stream") as cuts:
        monkeypatch.setattr(watch_stream, "BETWEEN", 10**9)  # Spark alone says when
        before, end = versions.CURRENT.readlink(), time.monotonic() + 600
        arrive(cuts, "a")
        asked = watch.Asked(Path("inbox"), settle=0, every=0.5)
        stop = lambda: versions.CURRENT.readlink() != before or time.monotonic() > end  # noqa: E731
        assert watch_stream.stream(asked, ENGINE, stop=stop) == 0
        assert plain(table()) == expected
