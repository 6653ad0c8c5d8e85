"""The table in a real PostgreSQL: value for value, whole or not at all, once, and nothing secret in what is said."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import free_port
from servers import postgres as server
from workspaces import ROOT

from features.errors import ConfigurationRefused, IntegrityRefused, Refusal, ServiceRefused
from pipeline import healing, postgres, publish, run, versions

dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
TYPES = {
    "VARCHAR": pa.string(), "DATE": pa.date32(), "DOUBLE": pa.float64(), "INTEGER": pa.int32(),
    "BOOLEAN": pa.bool_(), "DECIMAL(18,2)": pa.decimal128(18, 2),
}  # fmt: skip
AWKWARD = {
    "VARCHAR": ["", None, "plain", "tab\tline\nback\\slash \\N 'one' \"two\"", "名前 😀", "NULL"],
    "DATE": [dt.date(2024, 2, 29), None, dt.date(1900, 1, 1), dt.date(2099, 12, 31)],
    "DOUBLE": [0.1 + 0.2, None, 5e-324, -0.0, 1e300, math.inf, math.nan, 1 / 3],
    "INTEGER": [0, None, -(2**31), 2**31 - 1],
    "BOOLEAN": [True, None, False],
    "DECIMAL(18,2)": [Decimal("9999999999999999.99"), None, Decimal("-0.01"), Decimal("0.00"), Decimal("3271.10")],
}
TABLES = ("scored_customers", "scored_customers_alerts", "scored_customers_changes")
CONTRACT = {
    column["name"]: column["type"]
    for column in json.loads((ROOT / "data/contracts/scored_customers.v1.json").read_text())["columns"]
}


@pytest.fixture(scope="module")
def url():
    with server() as address:
        yield address


@pytest.fixture
def sink(url, tmp_path, monkeypatch):
    """A sink whose table is not there yet, in a folder of published versions of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BELLWETHER_URL", url)
    with sql(url) as cursor:
        for name in TABLES:
            cursor.execute(f"drop table if exists public.{name} cascade")
    return postgres.sink("BELLWETHER_URL", "scored_customers")


@contextmanager
def sql(url):
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        yield cursor
        connection.commit()


def ask(url: str, statement: str) -> list[tuple]:
    with sql(url) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def version(run_id: str, as_of: str = "2026-01-01", *, rows: int = 40, source: str = "shop") -> Path:
    """A version whose table has every column of the contract, and the awkward values of its type in turn."""
    columns = {}
    for place, (name, kind) in enumerate(CONTRACT.items()):
        values = [AWKWARD[kind][(row + place) % len(AWKWARD[kind])] for row in range(rows)]
        columns[name] = pa.array(values, TYPES[kind])
    columns |= {
        "customer_id": pa.array([f"{row:06d}" for row in range(rows)]),
        "run_id": pa.array([run_id] * rows, pa.string()),
        "as_of": pa.array([dt.date.fromisoformat(as_of)] * rows),
    }
    folder = versions.VERSIONS / run_id
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "scored_customers.parquet")
    codes = [["PD_HIGH", "=1", "名前"][row % 3] for row in range(9)]
    alerts = {
        "customer_id": [f"{row // 3:06d}" for row in range(9)], "as_of": columns["as_of"].slice(0, 9), "code": codes,
        "value": [0.1 + 0.2, math.nan, None] * 3, "since_before": [True, False, None] * 3, "state": [run_id] * 9,
    }  # fmt: skip
    pq.write_table(pa.table(alerts), folder / "alerts.parquet")
    changes = {
        "customer_id": [f"{row:06d}" for row in range(5)], "moved": ["grade", "came", "left", "action", "grade"],
        "pd_12m_before": [0.1, None, math.inf, -0.0, 1 / 3], "pd_12m": [0.3] * 5, "score": pa.array([1] * 5, pa.int32()),
        "credit_limit_recommended": pa.array([Decimal("1.10"), None] * 2 + [Decimal("0.00")], pa.decimal128(18, 2)),
    }  # fmt: skip
    pq.write_table(pa.table(changes), folder / "changes.parquet")
    versions.write_manifest(folder, run_id=run_id, as_of=as_of, source=source, rows=rows)
    return folder


def bring(sink, folder, *, earlier=False) -> str:
    return postgres.bring(sink, folder, allow_earlier_as_of=earlier)


def runs(url: str) -> list[tuple]:
    return ask(url, "select run_id, count(*) from scored_customers group by 1")


def test_every_value_is_that_of_the_parquet_by_the_server_s_own_text(sink, url):
    folder = version("a")
    assert bring(sink, folder) == "$BELLWETHER_URL holds a: 40 customers, 9 alerts and 5 changes written"
    listed = ", ".join(f'"{name}"::text' for name in CONTRACT)
    found = ask(url, f"select {listed} from scored_customers order by customer_id")
    stated = pq.read_table(folder / "scored_customers.parquet").to_pylist()
    assert len(found) == len(stated)
    read = {
        "DOUBLE": lambda text: float(text).hex(), "INTEGER": int, "DECIMAL(18,2)": str, "VARCHAR": str,
        "BOOLEAN": lambda text: text == "true", "DATE": dt.date.fromisoformat,
    }  # fmt: skip
    for texts, row in zip(found, stated, strict=True):
        for text, (name, kind) in zip(texts, CONTRACT.items(), strict=True):
            want = row[name]
            if want is not None and kind in ("DOUBLE", "DECIMAL(18,2)"):
                want = want.hex() if kind == "DOUBLE" else str(want)
            assert (None if text is None else read[kind](text)) == want, name
    kinds = dict(
        ask(
            url,
            "select column_name::text, data_type::text from information_schema.columns where table_name = 'scored_customers'",
        )
    )
    assert kinds["exposure"] == "numeric"
    assert kinds["as_of"] == "date"
    assert "value for value" in postgres.verify(sink, folder)


def test_an_erased_customer_s_rows_leave_all_three_tables_at_once(sink, url):
    """Others' rows stay; letters of the other case, or a part of the identifier, are another customer."""
    assert postgres.erase(sink, "000001") == "$BELLWETHER_URL: 0 rows deleted", "no table is there yet"
    bring(sink, version("a"))
    assert postgres.erase(sink, "00000") == "$BELLWETHER_URL: 0 rows deleted"
    assert postgres.erase(sink, "000001") == "$BELLWETHER_URL: 5 rows deleted"
    left = [ask(url, f"select count(*), count(*) filter (where customer_id = '000001') from {t}")[0] for t in TABLES]
    assert left == [(39, 0), (6, 0), (4, 0)]


def test_alerts_and_changes_stand_beside_the_customers_value_for_value(sink, url):
    """The files' columns and the run_id; `status` tells where they are not those of the customers' run."""
    bring(sink, version("a"))
    folder = version("b", "2026-02-01")
    bring(sink, folder)
    for name, key in (("alerts", ("customer_id", "code")), ("changes", ("customer_id",))):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        columns = [f"{column}::text" if column.startswith("credit") else column for column in rows[0]]
        order = ", ".join(f'{column} collate "C"' for column in key)
        found = ask(url, f"select run_id, {', '.join(columns)} from scored_customers_{name} order by {order}")
        wanted = [
            ("b", *(str(value) if isinstance(value, Decimal) else value for value in row.values()))
            for row in sorted(rows, key=lambda row: [row[column] for column in key])
        ]
        assert [repr(row) for row in found] == [repr(row) for row in wanted]  # NaN and -0.0 too
    current = {"run_id": "b", "rows": 40}
    assert postgres.describe(sink, current) == "$BELLWETHER_URL holds the current version"
    with sql(url) as cursor:
        cursor.execute("update scored_customers_alerts set run_id = 'a' where customer_id = '000001'")
    assert "but not its alerts and changes" in postgres.describe(sink, current)


@pytest.mark.parametrize("beside", ["alerts", "changes"])
def test_what_fails_in_a_table_beside_leaves_all_three_as_they_were(sink, url, beside):
    bring(sink, version("a"))
    folder = version("b", "2026-02-01")
    there = f"scored_customers_{beside}"
    with trigger(url, "raise exception 'no';", there, "000001"), pytest.raises(ServiceRefused, match=there):
        bring(sink, folder)
    for name in TABLES:
        assert ask(url, f"select distinct run_id from {name}") == [("a",)], name
    assert "written" in bring(sink, folder)


def test_another_thing_s_table_beside_is_left_alone(sink, url):
    with sql(url) as cursor:
        cursor.execute("create table scored_customers_alerts (customer_id text, code text)")
        cursor.execute("insert into scored_customers_alerts values ('theirs', 'x')")
    with pytest.raises(ServiceRefused, match="a table without run_id"):
        bring(sink, version("a"))
    assert ask(url, "select * from scored_customers_alerts") == [("theirs", "x")]
    assert ask(url, "select to_regclass('scored_customers')::text") == [(None,)]


def test_bringing_twice_writes_nothing(sink, url):
    folder = version("a")
    bring(sink, folder)
    rows = [f"select ctid::text, xmin::text, customer_id from {name} order by 3, 1" for name in TABLES]
    before = [ask(url, each) for each in rows]
    assert bring(sink, folder) == "$BELLWETHER_URL holds a already"
    assert [ask(url, each) for each in rows] == before
    assert postgres.describe(sink, {"run_id": "a", "rows": 40}) == "$BELLWETHER_URL holds the current version"


@pytest.mark.parametrize(
    "harm",
    [
        "update scored_customers set pd_12m = pd_12m + 1e-12 where pd_12m between 0.1 and 1",
        "update scored_customers set exposure = null where exposure = 3271.10",
        "delete from scored_customers where customer_id = '000039'",
        "update scored_customers set reason_1_text = '' where reason_1_text is null",
        "update scored_customers_alerts set value = 0.3 where code = 'PD_HIGH'",
        "delete from scored_customers_changes where moved = 'left'",
        "drop table scored_customers_changes",
    ],
)
def test_a_value_changed_in_the_server_is_found_and_mended(sink, url, harm):
    folder = version("a")
    bring(sink, folder)
    with sql(url) as cursor:
        cursor.execute(harm)
    with pytest.raises(IntegrityRefused, match="other values"):
        postgres.verify(sink, folder)
    assert "written" in bring(sink, folder)
    assert "value for value" in postgres.verify(sink, folder)


def test_an_earlier_as_of_never_replaces_a_later_one_of_its_source(sink, url):
    february, january, other = version("b", "2026-02-01"), version("a"), version("c", source="another")
    bring(sink, february)
    assert "holds b of 2026-02-01, which is later and stays" in bring(sink, january)
    assert runs(url) == [("b", 40)]
    shutil.rmtree(february)  # a publication of another workspace: it may be ours
    assert "stays" in bring(sink, january)
    assert "written" in bring(sink, january, earlier=True)
    february = version("b", "2026-02-01")
    bring(sink, february)
    bring(sink, other)
    assert runs(url) == [("c", 40)]
    bring(sink, version("d"))
    assert runs(url) == [("d", 40)], "the same as_of, published again"
    assert "does not hold the current version: d of 2026-01-01" in postgres.describe(sink, {"run_id": "b", "rows": 40})
    with pytest.raises(ServiceRefused, match="at the current version b"):
        postgres.verify(sink, february)


STOP = """create function stop() returns trigger language plpgsql as $$ begin
if new.customer_id = '{}' then {} end if; return new; end $$"""


@contextmanager
def trigger(url, action, table="scored_customers", customer="000030"):
    """Let the server do something in the middle of the rows."""
    with sql(url) as cursor:
        cursor.execute(STOP.format(customer, action))
        cursor.execute(f"create trigger stop before insert on {table} for each row execute function stop()")
    try:
        yield
    finally:
        with sql(url) as cursor:
            cursor.execute("drop function stop cascade")


def test_an_error_half_way_leaves_the_old_table_and_the_next_run_brings_the_new(sink, url):
    bring(sink, version("a"))
    folder = version("b", "2026-02-01")
    with trigger(url, "raise exception 'customer % is secret', new.customer_id;"):
        with pytest.raises(ServiceRefused, match="SQLSTATE P0001") as refused:
            bring(sink, folder)
        assert refused.value.exit_code == 8
        assert "000030" not in str(refused.value)
        assert runs(url) == [("a", 40)]
    assert "written" in bring(sink, folder)
    assert runs(url) == [("b", 40)]


def test_a_trigger_that_alters_what_is_written_is_noticed_before_anyone_sees_it(sink, url):
    bring(sink, version("a"))
    with trigger(url, "new.grade = 'A1';"), pytest.raises(ServiceRefused, match="other rows after writing"):
        bring(sink, version("b"))
    assert runs(url) == [("a", 40)]


def test_a_kill_half_way_leaves_the_old_table(sink, url):
    bring(sink, version("a"))
    folder = version("b")
    code = f"""
from pathlib import Path
from pipeline import postgres
postgres.bring(postgres.sink("BELLWETHER_URL", "scored_customers"), Path({str(folder.resolve())!r}), allow_earlier_as_of=False)
"""
    with trigger(url, "perform pg_sleep(3);"):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        until = time.monotonic() + 30
        while ask(url, busy) != [(1,)] and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        while ask(url, busy) != [(0,)] and time.monotonic() < until:
            time.sleep(0.02)
    assert runs(url) == [("a", 40)]
    assert "written" in bring(sink, folder)


def test_readers_see_one_whole_publication_at_every_moment(sink, url):
    """One reads again and again; one began before and stays in its transaction, in which a table swapped is empty."""
    folders = [version("a", rows=700), version("b", rows=300)]
    bring(sink, folders[0])
    seen, stop = set(), threading.Event()

    def read() -> None:
        with dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("select min(run_id), max(run_id), count(*) from scored_customers")
                seen.add(cursor.fetchone())

    reader = threading.Thread(target=read)
    reader.start()
    with dbapi.connect(url) as connection, connection.cursor() as early:
        early.execute("set transaction isolation level repeatable read")
        early.execute("select count(*) from pg_class")  # its snapshot is of now
        early.fetchall()
        for folder in [folders[1], folders[0]] * 3:
            bring(sink, folder)
        early.execute("select run_id, count(*) from scored_customers group by 1")
        assert early.fetchall() == [("a", 700)]
    stop.set()
    reader.join()
    assert seen == {("a", "a", 700), ("b", "b", 300)}


def test_grants_and_views_stay_and_a_column_that_is_new_is_added(sink, url):
    bring(sink, version("a"))
    with sql(url) as cursor:
        cursor.execute("alter table scored_customers drop column next_review_on, add column note text default 'ours'")
        cursor.execute("drop role if exists reader")
        cursor.execute("create role reader")
        cursor.execute("grant select on scored_customers to reader")
        cursor.execute("create view worst as select customer_id, run_id from scored_customers")
    folder = version("b")
    bring(sink, folder)
    assert ask(url, "select has_table_privilege('reader', 'scored_customers', 'select')") == [(True,)]
    assert ask(url, "select run_id, count(*) from worst group by 1") == [("b", 40)]
    assert ask(url, "select distinct note from scored_customers") == [("ours",)]
    assert "value for value" in postgres.verify(sink, folder)
    with sql(url) as cursor:
        cursor.execute("drop owned by reader")
        cursor.execute("drop role reader")


def test_a_user_who_owns_nothing_publishes_into_a_table_made_for_it(sink, url, monkeypatch):
    first, second = version("a"), version("b")
    bring(sink, first)
    with sql(url) as cursor:
        cursor.execute("create role writer login")
        cursor.execute(f"grant select, insert on {', '.join(TABLES)} to writer")
    monkeypatch.setenv("BELLWETHER_URL", url.replace("postgres@", "writer@"))
    writer = postgres.sink("BELLWETHER_URL", "scored_customers")
    try:
        with pytest.raises(ServiceRefused, match="no right to do it"):
            bring(writer, second)
        with sql(url) as cursor:
            cursor.execute(f"grant delete on {', '.join(TABLES)} to writer")
        assert "written" in bring(writer, second)
    finally:
        with sql(url) as cursor:
            cursor.execute("drop owned by writer")
            cursor.execute("drop role writer")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create table scored_customers (customer_id text, run_id text, as_of date, pd_12m text)", "pd_12m (text, not double"),
        ("create table scored_customers (customer_id text)", "without run_id"),
        ("create view scored_customers as select 1 as customer_id", "a view"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_ours_is_left_alone(sink, url, made, said):
    with sql(url) as cursor:
        cursor.execute(made)
    try:
        with pytest.raises(ServiceRefused) as refused:
            bring(sink, version("a"))
        assert said in str(refused.value)
    finally:
        with sql(url) as cursor:
            cursor.execute(f"drop {'view' if 'view' in made else 'table'} scored_customers")


def test_two_who_publish_at_once_follow_each_other(sink, url):
    folders = [version(name) for name in "abcd"]
    threads = [threading.Thread(target=bring, args=(sink, folder)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((_, rows),) = runs(url)
    assert rows == 40


SECRET = "hunter2-Zq"
WRONG = [
    "postgresql://clerk:{}@127.0.0.1:{}/postgres", "postgresql://clerk:{}@127.0.0.1:1/postgres",
    "postgresql://clerk:{} x@127.0.0.1:{}/postgres", "postgresql://clerk:{}/x@127.0.0.1:{}/postgres",
    "postgresql://clerk:{}%zz@127.0.0.1:{}/postgres", "postgresql://[{}@127.0.0.1:{}/postgres",
    "postgresql://clerk@127.0.0.1:9/postgres?passwords={}", "postgresql://clerk@{}.invalid/postgres",
]  # fmt: skip


@pytest.fixture
def asks_for_passwords(url):
    """Let the server ask one user for a password."""
    ((path,),) = ask(url, "select setting from pg_settings where name = 'hba_file'")
    before = Path(path).read_text()
    with sql(url) as cursor:
        cursor.execute("create role clerk login password 'right'")
    Path(path).write_text("host all clerk 127.0.0.1/32 scram-sha-256\n" + before)
    ask(url, "select pg_reload_conf()::text")
    yield
    Path(path).write_text(before)
    with sql(url) as cursor:
        cursor.execute("drop role clerk")
    ask(url, "select pg_reload_conf()::text")


@pytest.mark.parametrize("shape", WRONG)
@pytest.mark.fault("G7")
def test_no_part_of_a_password_is_ever_said(sink, url, shape, monkeypatch, asks_for_passwords):
    port = url.rpartition(":")[2].partition("/")[0]
    monkeypatch.setenv("BELLWETHER_URL", shape.format(SECRET, port))
    folder = version("a")
    wrong = postgres.sink("BELLWETHER_URL", "scored_customers")
    with pytest.raises(ServiceRefused) as refused:
        bring(wrong, folder)
    if shape == WRONG[0]:
        assert "the password was refused" in str(refused.value)
    said = "".join(traceback.format_exception(refused.value)) + repr(wrong) + postgres.describe(wrong, None)
    assert not [part for part in (SECRET[:4], SECRET[-4:], SECRET) if part in said], said


def test_an_unreachable_server_is_exit_code_8_and_status_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    away = postgres.sink(f"postgresql://clerk@127.0.0.1:{free_port()}/postgres", "scored_customers")
    with pytest.raises(ServiceRefused, match="found no answer") as refused:
        bring(away, version("a"))
    assert refused.value.exit_code == 8
    assert "no answer; not known what it holds" in postgres.describe(away, None)


def params(text: str) -> publish.Params:
    Path("params.yaml").write_text(f"source: shop\npublish: {{postgres: {text}}}\n")
    return publish.Params.load()


@pytest.mark.parametrize(
    "text",
    [
        f'"postgresql://clerk:{SECRET}@host/db"', f'"postgresql://host/db?user=clerk&password={SECRET}"',
        f'"host=h password={SECRET}"', f"{{url: 'postgresql://clerk:{SECRET}@host/db'}}", f"['{SECRET}']", "7",
        f"postgresql://h?{SECRET}", f'"mysql://clerk:{SECRET}@host"', f'"postgresql://clerk:{SECRET}/@host/db"',
    ],
)  # fmt: skip
@pytest.mark.fault("G7")
def test_a_password_in_params_is_refused_and_not_repeated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationRefused) as refused:
        params(text)
    assert SECRET not in str(refused.value)


@settings(max_examples=60)
@given(st.text(min_size=1))
@pytest.mark.fault("G7")
def test_no_password_makes_a_url_that_is_accepted(password):
    assert postgres.URL.fullmatch(f"postgresql://clerk:{password}@host/db") is None


def test_a_variable_or_a_url_without_password_is_accepted_and_one_not_set_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert postgres.sink(params("null").postgres, "t") is None
    plain = "postgresql://clerk@db.example:5432/risk?sslmode=verify-full"
    assert postgres.sink(params(f'"{plain}"').postgres, "risk.t").url == plain
    monkeypatch.delenv("BELLWETHER_URL", raising=False)
    for value in (None, "", f"clerk:{SECRET}@host"):
        if value is not None:
            monkeypatch.setenv("BELLWETHER_URL", value)
        with pytest.raises(ConfigurationRefused, match="BELLWETHER_URL") as refused:
            postgres.sink(params("BELLWETHER_URL").postgres, "t")
        assert SECRET not in str(refused.value)


def test_a_missing_driver_is_exit_code_4_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(ConfigurationRefused, match="make install"):
        bring(postgres.sink("postgresql://clerk@127.0.0.1/postgres", "t"), version("a"))


def test_where_the_sink_is_away_the_files_stand_and_the_stage_ends_with_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = version("a")
    scratch = folder.rename(versions.VERSIONS / ".tmp-a")
    table = pq.read_table(scratch / "scored_customers.parquet")
    facts, logged = {"as_of": "2026-01-01", "source": "shop", "model_version": "m"}, []
    written = publish.Written(scratch, "a", facts, {}, table, None, 0)
    monkeypatch.setattr(publish, "write", lambda: written)
    monkeypatch.setattr(publish, "_track", lambda *arguments: logged.append(arguments[0]))
    params(f"postgresql://clerk@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(Refusal) as refused:
        publish.main()
    assert refused.value.exit_code == 8
    assert str(versions.CURRENT.readlink()) == "versions/a"
    assert json.loads(versions.RECEIPT.read_text())["run_id"] == "a"
    assert [path.name for path in logged] == ["a"]


def test_a_run_ends_with_8_says_that_the_files_stand_and_the_next_run_brings_the_table(sink, url, monkeypatch, capsys):
    folder = version("a")
    versions.make_current("shop", "2026-01-01", "a")
    monkeypatch.setattr(versions, "describe_current", lambda: "current is a")
    monkeypatch.setattr(healing, "heal", lambda: None)
    monkeypatch.setattr(run, "_warn_open_ended", lambda: None)
    params("BELLWETHER_URL")
    run.STATE.mkdir()
    Path("data/raw/shop").mkdir(parents=True)
    monkeypatch.setattr(run, "_ensure_repository", lambda: None)
    monkeypatch.setattr(run, "preflight", lambda: None)

    def refuse(*_, **__) -> int:
        (run.STATE / "failure.json").write_text('{"stage": "publish", "exit_code": 8}')
        return 8

    monkeypatch.setattr(run, "dvc", refuse)
    assert run.run() == 8
    assert "published, but not everywhere" in capsys.readouterr().err
    monkeypatch.setattr(run, "dvc", lambda *_, **__: 0)
    assert run.run() == 0
    assert "holds a: 40 customers, 9 alerts and 5 changes written" in capsys.readouterr().out
    assert "value for value" in postgres.verify(sink, folder)
    assert os.environ["BELLWETHER_URL"] == url
